"""Storage: what a pass over the blocks of a matrix needs, how vectors are brought to it, and views of the matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ._backend import beside, conj, is_numpy, like, namespace, numpy_dtype, place_of, same_library
from ._typing import Array, NumpyArray
from .base import StructuredMatrix
from .exceptions import DeviceError


class Storage(ABC):
    """The arrays of one matrix and the product with them. A pass gives the methods below `apply`."""

    # whether the compiled kernels take vectors of a wider type than their numbers
    widens = False

    def apply(self, x: Array, *, adjointly: bool, conjugated: bool = False) -> Array:
        """A x, A^H x, or their complex conjugates conj(A) x and A^T x; x (leaves, q, k), result (leaves, p, k)."""
        example = self._example
        dtype = numpy_dtype(example)
        if not same_library(x, example):  # the product is where the matrix is, and the result where the vectors were
            moved = self.apply(beside(x, example), adjointly=adjointly, conjugated=conjugated)
            return beside(moved, x)
        if conjugated and numpy_dtype(x).kind == "c":
            return conj(self.apply(conj(x), adjointly=adjointly))
        if conjugated and dtype.kind == "c":
            return conj(self.apply(x, adjointly=adjointly))
        if not is_numpy(x):
            xp = namespace(x, example)
            return self._apply_reference(xp.astype(x, xp.result_type(x, example)), adjointly)
        if x.dtype.kind == "c" and dtype.kind != "c":  # a real matrix: real and imaginary part are two vectors
            both = self.apply(np.concatenate([x.real, x.imag], axis=2), adjointly=adjointly)
            return both[:, :, : x.shape[2]] + 1j * both[:, :, x.shape[2] :]
        x = x.astype(np.result_type(x.dtype, dtype), copy=False)
        if x.shape[2] == 0:
            return np.zeros((x.shape[0], self._leaf_size(adjointly), 0), dtype=x.dtype)
        # a matrix in single precision, vectors in double: their range and precision are kept
        if x.dtype != dtype and not self.widens:
            return self._apply_reference(x, adjointly)
        return self._apply_compiled(x, adjointly)

    @property
    @abstractmethod
    def _example(self) -> Any:
        """One of the arrays, of the dtype and on the device of all."""

    @abstractmethod
    def _leaf_size(self, adjointly: bool) -> int:
        """The padded size of the leaves of the result."""

    @abstractmethod
    def _apply_reference(self, x: Array, adjointly: bool) -> Array:
        """The product in plain array operations."""

    @abstractmethod
    def _apply_compiled(self, x: NumpyArray, adjointly: bool) -> NumpyArray:
        """The product by compiled kernels, for NumPy arrays of the matrix's own dtype (or a wider one)."""


class StoredMatrix(StructuredMatrix):
    """A matrix that is a storage, seen as it is, as its adjoint or as a complex conjugate."""

    _storage: Any
    _adjointly: bool
    _conjugated: bool

    def _require_on_host(self, what: str) -> None:
        """Raise a `DeviceError` where the data are on a device; `what` runs (or has to be) on the CPU."""
        if not is_numpy(self._storage._example):
            raise DeviceError(f'{what} on the CPU: call A.to_device("cpu") first')

    def _require_beside(self, other: Any, what: str) -> None:
        """Raise a `DeviceError` unless the data of both matrices are in one library and on one device."""
        mine, its = (m._storage._example for m in (self, other))
        if place_of(mine) != place_of(its):
            raise DeviceError(
                f"{what} must be in one place, but these are arrays of {place_of(mine)} and of {place_of(its)}: move "
                'one of them with to_device("cpu") or to_device("gpu")'
            )

    def _beside_me(self, made: Any) -> Any:
        """What was made on the CPU, a matrix or its blocks, where this matrix is."""
        example = self._storage._example
        if is_numpy(example):
            return made
        move = made._with_arrays if isinstance(made, StoredMatrix) else made.map
        return move(lambda a: like(a, example))

    def _oriented(self, *, adjointly: bool, conjugated: bool) -> Any:
        if self.symmetric and adjointly:  # A^H = A
            adjointly = False
        if self.dtype.kind != "c":
            conjugated = False
        if not (adjointly or conjugated):
            return self
        view = object.__new__(type(self))
        view._storage = self._storage
        view._adjointly = self._adjointly != adjointly
        view._conjugated = self._conjugated != conjugated
        view.row_tree, view.col_tree = (self.col_tree, self.row_tree) if adjointly else (self.row_tree, self.col_tree)
        view.certificate = self.certificate
        return view

    def _product(self, x: Array, *, adjointly: bool, conjugated: bool) -> Array:
        product: Array = self._storage.apply(
            x, adjointly=self._adjointly != adjointly, conjugated=self._conjugated != conjugated
        )
        return product
