"""Checks of what surrounds the numbers: files, devices, immutability, text."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .._backend import is_numpy
from .._typing import NumpyArray
from ..exceptions import DeviceError
from .battery import Case, check, raises


@check()
def file_round_trip(case: Case) -> None:
    """Save and load give the same numbers, trees and certificate; a format without files says so."""
    from ..io import _FORMATS, load

    if type(case.matrix).__name__ not in _FORMATS:
        with raises(TypeError, "cannot save"):
            case.matrix.save(os.devnull)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, a in (("matrix", case.matrix), ("view", case.matrix.H)):
            path = Path(folder) / f"{name}.npz"
            a.save(path)
            b = load(path)
            assert type(b) is type(a)
            assert (b.shape, b.dtype, b.max_rank) == (a.shape, a.dtype, a.max_rank)
            assert b.row_tree == a.row_tree
            assert b.col_tree == a.col_tree
            assert b.certificate == a.certificate
            x = case.random(a.shape[1])
            case.close(b @ x, a @ x, what=f"{name} @ x")  # also arranges both storages alike
            case.close(b.to_dense(), a.to_dense(), what=f"the loaded {name}")
            if a is case.matrix:  # a view is stored turned, and so may round differently
                assert np.array_equal(b.to_dense(), _on_host(a, x).to_dense()), "the numbers have changed"


@check()
def device_round_trip(case: Case) -> None:
    """To the CPU and back is the same matrix; an unknown device is named."""
    moved = case.matrix.to_device("cpu")
    assert moved.dtype == case.matrix.dtype
    case.close(moved.to_dense(), case.dense, what="A on the CPU")
    case.close(case.matrix.H.to_device("cpu").to_dense(), case.dense.conj().T, what="A.H on the CPU")
    with raises(DeviceError, 'must be "cpu" or "gpu"', "'tpu'"):
        case.matrix.to_device("tpu")


def _on_host(a: Any, x: NumpyArray) -> Any:
    """The matrix with its data on the CPU, arranged by a product."""
    if is_numpy(a._storage._example):
        return a
    here = a.to_device("cpu")
    here @ x
    return here


@check()
def nothing_changes_a_matrix(case: Case) -> None:
    """What a matrix returns is the caller's: writing into it leaves the matrix as it was."""
    # the first product with a vector arranges the storage, and so may round differently
    case.matrix @ case.random(case.dense.shape[1])
    before = case.matrix.to_dense()
    for result in (case.matrix.to_dense(), case.matrix.diagonal(), case.matrix[:, :], case.matrix[0, :]):
        if result.flags.writeable:
            result[...] = 7
    x = case.random(case.dense.shape[1], 2)
    for operand in (x, x[:, 0]):
        y = case.matrix @ operand
        y[...] = 7
    case.matrix + case.matrix
    2.0 * case.matrix
    case.matrix.truncate(rtol=0.5)
    assert np.array_equal(case.matrix.to_dense(), before), "the matrix has changed"
    for name in ("shape", "dtype", "T", "H", "nbytes"):
        with raises(AttributeError):
            setattr(case.matrix, name, None)


@check()
def copies_are_equal(case: Case) -> None:
    """copy.copy and copy.deepcopy work."""
    for function in (copy.copy, copy.deepcopy):
        case.close(function(case.matrix).to_dense(), case.dense, what=function.__name__)


@check()
def accounts(case: Case) -> None:
    """Bytes, ranks, certificate and repr are there and consistent."""
    a = case.matrix
    assert a.nbytes > 0
    assert a.max_rank == max((int(np.max(r)) for r in a.ranks), default=0)
    assert len(a.ranks) == a.row_tree.depth == a.col_tree.depth
    assert a.certificate.upper_bound >= 0.0
    assert a.certificate.upper_bound >= a.certificate.estimate
    assert str(a.shape) in repr(a)
    assert type(a).__name__ in repr(a)
