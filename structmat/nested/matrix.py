"""NestedMatrix: what HSSMatrix and H2Matrix share."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from .._backend import conj, is_numpy, numpy_dtype
from .._typing import IntArray, NumpyArray
from ..blocks import RaggedBatch
from ..certificate import Certificate
from ..exceptions import DeviceError
from ..storage import StoredMatrix
from ..tree import ClusterTree
from .storage import NestedStorage


class NestedMatrix(StoredMatrix):
    """A matrix with nested bases."""

    _storage: NestedStorage

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries: float32, float64, complex64 or complex128; in mixed precision the wider one."""
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
    def nbytes_by_dtype(self) -> dict[str, int]:
        """Bytes of the stored arrays by the type of their numbers: in mixed precision there are two."""
        return self._storage.nbytes_by_dtype

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

    def _hold(self, storage: NestedStorage, rows: ClusterTree, cols: ClusterTree, certificate: Certificate) -> None:
        self._storage = storage
        self._adjointly = self._conjugated = False
        self.row_tree, self.col_tree = rows, cols
        self.certificate = certificate

    @classmethod
    def _of_storage(
        cls, storage: NestedStorage, row_tree: ClusterTree, col_tree: ClusterTree, certificate: Certificate
    ) -> Any:
        """A matrix of blocks that are in their storage already."""
        matrix = object.__new__(cls)
        matrix._hold(storage, row_tree, col_tree, certificate)
        return matrix

    def _as_seen(self) -> NestedStorage:
        """The storage of what this view of the matrix shows."""
        storage = self._storage.adjoint() if self._adjointly else self._storage
        return storage.map(conj) if self._conjugated and self.dtype.kind == "c" else storage

    def _of(self, storage: NestedStorage) -> Any:
        """The same view of another storage."""
        view = copy(self)
        view._storage = storage
        return view

    def _with_arrays(self, function: Any) -> Any:
        return self._of(self._storage.map(function))

    def _device_bytes(self) -> int:
        """Bytes on a device, where bases are written out and blocks of different shapes have a padded copy."""
        s = self._storage
        rows, cols = s.row_basis, s.col_basis
        numbers = []
        for adjointly, basis in enumerate([rows] if cols is rows else [rows, cols]):
            height = s._leaf_size(bool(adjointly))
            for level in range(basis.depth, 0, -1):
                numbers.append((height * basis.width(level)) << level)
                height = 2 * basis.width(level)
        ragged = [
            len(b) * rows.width(level) * cols.width(level)
            for part in s.parts
            for level, b in enumerate(part.couplings, start=1)
            if isinstance(b, RaggedBatch)
        ]
        stored = sum(part.near.nbytes + sum(b.nbytes for b in part.couplings) for part in s.parts)
        return int(stored + self.dtype.itemsize * (sum(numbers) * (2 if ragged else 1) + sum(ragged)))

    def _mixed(self, rtol: float) -> tuple[Any, float]:
        from .mixed import divide

        if rtol == 0.0:
            return self, 0.0
        if not is_numpy(self._storage.near.data):
            raise DeviceError('precision is mixed on the CPU: call A.to_device("cpu") first')
        divided = divide(self._storage.stored(), rtol)
        return (self, 0.0) if divided is None else (self._of(divided.storage), divided.error)

    def _sub_block(self, rows: IntArray, cols: IntArray) -> NumpyArray:
        from .entries import sub_block

        return sub_block(self, rows, cols)
