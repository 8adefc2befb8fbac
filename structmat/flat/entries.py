"""Single entries and sub-blocks of matrices of independent blocks. An entry costs O(k + log(blocks))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._backend import conj, is_numpy, namespace, numpy_dtype, parallel_ranges, take, to_numpy
from .._typing import IntArray, NumpyArray
from ..blocks import LowRankBatch
from ..engine import cpu_entries
from ..engine.routing import located, picked
from .storage import FlatStorage, Places

if TYPE_CHECKING:
    from .matrix import FlatMatrix


def entry_values(a: FlatMatrix, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The entries A[rows[m], cols[m]]."""
    if a._adjointly:
        values = entry_values(a.H, cols, rows)
        return values.conj() if values.dtype.kind == "c" else values
    if a._conjugated:
        return entry_values(a.conj(), rows, cols).conj()
    storage = a._storage
    row, col = a.row_tree.leaf_slots[rows], a.col_tree.leaf_slots[cols]
    if not is_numpy(storage._example):
        return _values_in_arrays(storage, row, col)
    row_leaf, col_leaf = row // storage.row_size, col // storage.col_size
    mirrored = (row_leaf < col_leaf) if storage.half else np.zeros(len(row), dtype=bool)
    leaves = np.where(mirrored, col_leaf, row_leaf), np.where(mirrored, row_leaf, col_leaf)
    values = np.zeros(len(rows), dtype=a.dtype)
    for packed, places in zip(storage.packed(), storage.places, strict=True):
        block = blocks_at(places, storage.depth, *leaves)

        def add(first: int, last: int, packed: Any = packed, block: IntArray = block) -> None:
            cpu_entries.flat_entries(packed.buffer, packed.table, block, row, col, mirrored, values, first, last)

        parallel_ranges(add, len(rows), serial=len(rows) < 1024)
    return values


def _values_in_arrays(storage: FlatStorage, row: IntArray, col: IntArray) -> NumpyArray:
    """Entries at slots of the padded leaves, in plain array operations."""
    values = np.zeros(len(row), dtype=numpy_dtype(storage._example))
    for part in storage.parts:
        for level, (near, far) in enumerate(zip(part.near, part.far, strict=True)):
            p, q = (size << (storage.depth - level) for size in (storage.row_size, storage.col_size))
            nodes, i, j = (row // p, col // q), row % p, col % q
            index, mirrored = located(near, level, *nodes, half=part.half)
            here = np.flatnonzero(index >= 0)
            values[here] += picked(near.data, index[here], i[here], j[here], mirrored[here])
            for batch in far:
                index, mirrored = located(batch, level, *nodes, half=part.half)
                here = np.flatnonzero(index >= 0)
                values[here] += _of_factors(batch, index[here], i[here], j[here], mirrored[here])
    return values


def _of_factors(batch: LowRankBatch, index: IntArray, i: IntArray, j: IntArray, mirrored: NumpyArray) -> NumpyArray:
    """The entries of low-rank blocks, as `picked` takes those of dense ones."""
    i, j = np.where(mirrored, j, i), np.where(mirrored, i, j)
    xp = namespace(batch.left)
    left, right = (
        take(xp.reshape(factor, (len(batch) * factor.shape[1], batch.rank)), index * factor.shape[1] + place)
        for factor, place in ((batch.left, i), (batch.right, j))
    )
    values = to_numpy(xp.sum(left * conj(right), axis=1))
    return np.where(mirrored, values.conj(), values)


def blocks_at(places: Places, depth: int, row_leaf: IntArray, col_leaf: IntArray) -> IntArray:
    """The row in the packed table of the block that holds each pair of leaves; -1 where there is none."""
    found = np.full(len(row_leaf), -1, dtype=np.int64)
    for level, keys, blocks in places:
        shift = depth - level
        wanted = (row_leaf >> shift << level) + (col_leaf >> shift)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[at] == wanted
        found[hit] = blocks[at[hit]]
    return found


def sub_block(a: FlatMatrix, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The dense block A[rows][:, cols]."""
    i, j = np.broadcast_arrays(rows[:, None], cols[None, :])
    return entry_values(a, i.ravel(), j.ravel()).reshape(len(rows), len(cols))
