"""NestedMatrix: what HSSMatrix and H2Matrix share."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import numpy_dtype
from .._typing import Array, IntArray, NumpyArray
from ..base import StructuredMatrix
from .storage import NestedStorage


class NestedMatrix(StructuredMatrix):
    """A matrix with nested bases: its storage, seen as it is, as its adjoint or as a complex conjugate."""

    _storage: NestedStorage
    _adjointly: bool
    _conjugated: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries: float32, float64, complex64 or complex128."""
        return numpy_dtype(self._storage.near.data)

    @property
    def symmetric(self) -> bool:
        """Whether the matrix is stored as Hermitian: one basis and half of the couplings."""
        return self._storage.half

    @property
    def nbytes(self) -> int:
        """Bytes of all stored arrays."""
        return self._storage.nbytes

    @property
    def row_ranks(self) -> tuple[IntArray, ...]:
        """True ranks of the row bases by level, from level 1."""
        return (self._storage.col_basis if self._adjointly else self._storage.row_basis).ranks

    @property
    def col_ranks(self) -> tuple[IntArray, ...]:
        """True ranks of the column bases by level, from level 1."""
        return (self._storage.row_basis if self._adjointly else self._storage.col_basis).ranks

    @property
    def ranks(self) -> tuple[IntArray, ...]:
        """The larger of the ranks of the row and of the column basis of each node, by level from level 1."""
        return tuple(np.maximum(r, c) for r, c in zip(self.row_ranks, self.col_ranks, strict=True))

    @property
    def max_rank(self) -> int:
        """The largest rank of any basis."""
        return max((int(r.max(initial=0)) for r in self.ranks), default=0)

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
        return self._storage.apply(x, adjointly=self._adjointly != adjointly, conjugated=self._conjugated != conjugated)

    def _sub_block(self, rows: IntArray, cols: IntArray) -> NumpyArray:
        from .entries import sub_block

        return sub_block(self, rows, cols)
