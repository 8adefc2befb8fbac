"""BlockBatch, the atom of storage: the blocks of one kind on one level, as one three-dimensional array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._typing import Array, IntArray, NumpyArray


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
        """Bytes of the blocks, without those of the node numbers."""
        return array_bytes(self.data)

    def __len__(self) -> int:
        return int(self.data.shape[0])


@dataclass(frozen=True)
class LowRankBatch:
    """Low-rank blocks of equal shape and rank on one level: left @ right^H.

    Attributes
    ----------
    left, right : (nb, p, k) and (nb, q, k) arrays
        The factors.
    rows, cols : (nb,) int arrays
        The row node and the column node of each block.
    """

    left: Array  # (nb, p, k)
    right: Array  # (nb, q, k)
    rows: IntArray  # (nb,)
    cols: IntArray  # (nb,)

    @property
    def rank(self) -> int:
        """The rank k that all blocks of the batch have."""
        return int(self.left.shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of the factors, without those of the node numbers."""
        return array_bytes(self.left) + array_bytes(self.right)

    def __len__(self) -> int:
        return int(self.left.shape[0])


@dataclass(frozen=True)
class NestedBasis:
    """One basis for each node of each level below the root, those of inner nodes in terms of their children's.

    Attributes
    ----------
    levels : tuple of (2**l, p, k) arrays, for l = 1 .. depth
        At the leaves p is the padded leaf size and the array is the basis itself. Above, p = 2 k' with k' the rank of
        the level below: the transfer matrices of the left and of the right child, stacked.
    ranks : tuple of (2**l,) int arrays
        The true ranks, at most k; columns beyond them are zero.
    orders : tuple of (2**l, p) int arrays, optional
        Interpolative bases: the rows order[:k] of a node's basis are the identity, and `levels` holds the other rows
        only, (2**l, p - k, k), in the order order[k:].
    """

    levels: tuple[Array, ...]
    ranks: tuple[IntArray, ...]
    orders: tuple[IntArray, ...] | None = None

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.levels)

    def __getitem__(self, level: int) -> Array:
        """The basis (2**l, p, k) of a level, 1 to depth."""
        stored = self.levels[level - 1]
        return stored if self.orders is None else expand_interpolation(stored, self.orders[level - 1])

    def width(self, level: int) -> int:
        """The padded rank k of a level, 1 to depth."""
        return int(self.levels[level - 1].shape[2])

    def height(self, level: int) -> int:
        """The number of rows p of a level, 1 to depth."""
        rows = int(self.levels[level - 1].shape[1])
        return rows if self.orders is None else rows + self.width(level)

    @property
    def max_rank(self) -> int:
        """The largest true rank over all levels and nodes; 0 where there are no levels."""
        return max((int(r.max()) for r in self.ranks), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of the bases, and of the orders where there are any."""
        indices = () if self.orders is None else self.orders
        return sum(array_bytes(a) for a in (*self.levels, *indices))

    def map(self, function: Any) -> NestedBasis:
        """The basis with `function` applied to the array of each level; identity parts are written out."""
        return NestedBasis(tuple(function(self[level]) for level in range(1, self.depth + 1)), self.ranks)


def expand_interpolation(rest: NumpyArray, order: IntArray) -> NumpyArray:
    """The bases (nb, p, k) whose rows order[:k] are the identity and whose other rows are `rest` (nb, p - k, k)."""
    nb, _, k = rest.shape
    out = np.zeros((nb, order.shape[1], k), dtype=rest.dtype)
    node = np.arange(nb)[:, None]
    out[node, order[:, :k], np.arange(k)] = 1
    out[node, order[:, k:]] = rest
    return out


def array_bytes(a: Array) -> int:
    """Bytes of an array of any library."""
    if isinstance(a, np.ndarray):
        return int(a.nbytes)
    size = 1
    for extent in a.shape:
        size *= int(extent)
    return size * int(getattr(a, "itemsize", 8))
