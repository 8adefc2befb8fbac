"""BlockBatch, the atom of storage: the blocks of one kind on one level, as one three-dimensional array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._typing import Array, IntArray


@dataclass(frozen=True)
class BlockBatch:
    """Blocks of equal shape and the places where they act.

    Attributes
    ----------
    data : (nb, p, q) array
        The blocks, zero-padded to a common shape.
    rows, cols : (nb,) int arrays
        The row node and the column node of each block, on the level the batch belongs to.
    """

    data: Array  # (nb, p, q)
    rows: IntArray  # (nb,)
    cols: IntArray  # (nb,)

    @property
    def nbytes(self) -> int:
        return array_bytes(self.data)

    def __len__(self) -> int:
        return int(self.data.shape[0])


@dataclass(frozen=True)
class NestedBasis:
    """One basis for each node of each level below the root, those of inner nodes in terms of their children's.

    Attributes
    ----------
    levels : tuple of (2**l, p, k) arrays, for l = 1 .. depth
        At the leaves p is the padded leaf size and the array is the basis itself. Above, p = 2 k' with k' the rank of the
        level below: the transfer matrices of the left and of the right child, stacked.
    ranks : tuple of (2**l,) int arrays
        The true ranks, at most k; columns beyond them are zero.
    """

    levels: tuple[Array, ...]
    ranks: tuple[IntArray, ...]

    @property
    def depth(self) -> int:
        return len(self.levels)

    def __getitem__(self, level: int) -> Array:
        """The array of a level, 1 to depth."""
        return self.levels[level - 1]

    def width(self, level: int) -> int:
        """The padded rank of a level, 1 to depth."""
        return int(self.levels[level - 1].shape[2])

    @property
    def max_rank(self) -> int:
        return max((int(r.max()) for r in self.ranks), default=0)

    @property
    def nbytes(self) -> int:
        return sum(array_bytes(a) for a in self.levels)

    def map(self, function: Any) -> NestedBasis:
        """The basis with `function` applied to each level's array."""
        return NestedBasis(tuple(function(a) for a in self.levels), self.ranks)


def array_bytes(a: Array) -> int:
    """Bytes of an array of any library."""
    if isinstance(a, np.ndarray):
        return int(a.nbytes)
    size = 1
    for extent in a.shape:
        size *= int(extent)
    return size * int(getattr(a, "itemsize", 8))
