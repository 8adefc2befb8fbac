"""BlockBatch, the atom of storage: the blocks of one kind on one level, as one three-dimensional array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ._backend import conj, identity_beside, is_numpy, like, namespace, take, zeros_beside
from ._typing import Array, IntArray, NumpyArray
from .exceptions import ShapeError

# numbers of padded blocks that are gathered at a time
PIECE = 1 << 26


class Placed:
    """What acts between a row node and a column node of a level each."""

    rows: IntArray
    cols: IntArray

    @cached_property
    def routes(self) -> dict[tuple[int, bool, bool], Any]:
        """What `structmat.engine.routing` has worked out of where they act."""
        return {}


@dataclass(frozen=True)
class BlockBatch(Placed):
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

    @property
    def extent(self) -> int:
        """Rows and columns of a block together."""
        return int(self.data.shape[1]) + int(self.data.shape[2])

    @property
    def size(self) -> int:
        """The number of entries of all blocks."""
        return len(self) * int(self.data.shape[1]) * int(self.data.shape[2])

    @cached_property
    def panels(self) -> dict[tuple[int, bool, bool], Any]:
        """The blocks side by side, as `structmat.engine.routing` has put them where many vectors came."""
        return {}

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def plus_diagonal(self, values: NumpyArray) -> BlockBatch:
        """The batch with diagonal matrices added to the blocks on the diagonal; values (nodes, p), of its dtype."""
        here = np.flatnonzero(self.rows == self.cols)
        if not len(here):
            return self
        slot = np.arange(self.data.shape[1])
        if is_numpy(self.data):
            data = np.array(self.data)
            data[here[:, None], slot, slot] += values[self.rows[here]]
        else:
            added = np.zeros((len(self), len(slot)), dtype=values.dtype)
            added[here] = values[self.rows[here]]
            unit = like(np.eye(len(slot), dtype=values.dtype), self.data)
            data = self.data + like(added, self.data)[:, :, None] * unit
        return BlockBatch(data, self.rows, self.cols)


@dataclass(frozen=True)
class LowRankBatch(Placed):
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

    @property
    def extent(self) -> int:
        """Rows and columns of a block together."""
        return int(self.left.shape[1]) + int(self.right.shape[1])

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

    def padded(self) -> NestedBasis:
        """The same basis with identity parts written out."""
        if self.orders is None:
            return self
        return NestedBasis(tuple(self[level] for level in range(1, self.depth + 1)), self.ranks)

    def map(self, function: Any) -> NestedBasis:
        """The basis with `function` applied to the array of each level; identity parts are written out."""
        return NestedBasis(tuple(function(self[level]) for level in range(1, self.depth + 1)), self.ranks)


@dataclass(frozen=True)
class RaggedBatch:
    """Blocks of different shapes on one level, one after another.

    Attributes
    ----------
    data : (total,) array
        The numbers of all blocks, each row by row.
    rows, cols : (nb,) int arrays
        The row node and the column node of each block.
    heights, widths : (nb,) int arrays
        The shape of each block.
    """

    data: Array  # (total,)
    rows: IntArray  # (nb,)
    cols: IntArray  # (nb,)
    heights: IntArray  # (nb,)
    widths: IntArray  # (nb,)

    @property
    def starts(self) -> IntArray:
        """Where each block begins in `data`, and where the last one ends, (nb + 1,)."""
        return np.append(0, np.cumsum(self.heights * self.widths))

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks, without those of the node numbers."""
        return array_bytes(self.data)

    def __len__(self) -> int:
        return len(self.rows)

    def padded(self, p: int, q: int) -> BlockBatch:
        """The same blocks as a batch of (p, q) blocks, with zeros to the right and below."""
        return BlockBatch(padded_blocks(self.data, self.heights, self.widths, p, q), self.rows, self.cols)


def _inside(b: RaggedBatch) -> tuple[IntArray, IntArray, IntArray]:
    """For each number of a batch its block, row and column."""
    sizes = b.heights * b.widths
    block = np.repeat(np.arange(len(b)), sizes)
    flat = np.arange(len(block)) - b.starts[block]
    widths = np.maximum(b.widths[block], 1)
    return block, flat // widths, flat % widths


def turned(b: RaggedBatch) -> RaggedBatch:
    """The conjugate transposes of the blocks, at the mirrored places."""
    block, i, j = _inside(b)
    source = np.empty(len(block), dtype=np.int64)
    source[b.starts[block] + j * b.heights[block] + i] = np.arange(len(block))
    data = namespace(b.data).take(conj(b.data), like(source, b.data), axis=0) if len(block) else b.data
    return RaggedBatch(data, b.cols, b.rows, b.widths, b.heights)


def chosen(b: RaggedBatch, blocks: IntArray) -> RaggedBatch:
    """Some of the blocks of a batch."""
    sizes = (b.heights * b.widths)[blocks]
    first = np.cumsum(sizes) - sizes
    index = np.repeat(b.starts[blocks] - first, sizes) + np.arange(int(sizes.sum()))
    return RaggedBatch(take(b.data, index), b.rows[blocks], b.cols[blocks], b.heights[blocks], b.widths[blocks])


@dataclass(frozen=True)
class RaggedBasis:
    """A nested basis in which each node has a rank of its own; see `NestedBasis`.

    Attributes
    ----------
    levels : tuple of flat arrays, for l = 1 .. depth
        The bases of a level, one node after another, each transposed: k rows of p numbers, or of p - k where `orders`
        are there. At the leaves p is the padded leaf size, above it is the sum of the ranks of the children.
    ranks : tuple of (2**l,) int arrays
        The rank k of each node.
    leaf_size : int
        The padded leaf size.
    orders : tuple of flat int arrays, optional
        Interpolative bases: p numbers a node; its rows order[:k] are the identity, the others are stored.
    """

    levels: tuple[Array, ...]
    ranks: tuple[IntArray, ...]
    leaf_size: int
    orders: tuple[IntArray, ...] | None = None

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.levels)

    def heights(self, level: int) -> IntArray:
        """The number of rows p of each node of a level."""
        if level == self.depth:
            return np.full(1 << level, self.leaf_size)
        return self.ranks[level].reshape(-1, 2).sum(axis=1)

    def width(self, level: int) -> int:
        """The largest rank of a level, 1 to depth."""
        return int(self.ranks[level - 1].max(initial=0))

    @property
    def max_rank(self) -> int:
        """The largest rank over all levels and nodes; 0 where there are no levels."""
        return max((int(r.max(initial=0)) for r in self.ranks), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of the bases, and of the orders where there are any."""
        indices = () if self.orders is None else self.orders
        return sum(array_bytes(a) for a in (*self.levels, *indices))

    def __getitem__(self, level: int) -> Array:
        """The padded bases (2**l, p, k) of a level; above the leaves p is twice the width of the level below."""
        if self.orders is not None:
            return self.full()[level]
        ranks, heights, k = self.ranks[level - 1], self.heights(level)[:, None], self.width(level)
        starts = np.cumsum(ranks * heights[:, 0]) - ranks * heights[:, 0]
        if level == self.depth:
            row, inside = np.arange(self.leaf_size)[None, :], np.ones((1, self.leaf_size), dtype=bool)
        else:
            below, children = self.width(level + 1), self.ranks[level].reshape(-1, 2)
            local = np.tile(np.arange(below), 2)[None, :]
            second = (np.arange(2 * below) >= below)[None, :]
            row = local + second * children[:, :1]
            inside = local < np.where(second, children[:, 1:], children[:, :1])
        column = np.arange(k)
        down, across = starts[:, None] + row, column * heights
        inside = np.broadcast_to(inside, down.shape)
        return _gathered(self.levels[level - 1], down, across, inside, column < ranks[:, None])

    def require_sizes(self) -> None:
        """Raise `ShapeError` unless each level has as many nodes, numbers and places as its ranks ask for."""
        for level, (stored, ranks) in enumerate(zip(self.levels, self.ranks, strict=True), start=1):
            if len(ranks) != 1 << level or (len(ranks) and int(ranks.min()) < 0):
                raise ShapeError(f"a basis must have {1 << level} ranks, none negative, on level {level}")
            heights = self.heights(level)
            rest = heights if self.orders is None else heights - ranks
            if int((ranks * rest).sum()) != int(stored.shape[0]) or (rest < 0).any():
                raise ShapeError(
                    f"the basis of level {level} has {int(stored.shape[0])} numbers, not the sum of shapes"
                )
            order = None if self.orders is None else np.asarray(self.orders[level - 1])
            if order is not None and not _are_permutations(order, heights):
                raise ShapeError(f"the orders of level {level} are no permutations of the rows of its nodes")

    def padded(self) -> NestedBasis:
        """The same basis with one width for each level, and identity parts written out."""
        return NestedBasis(tuple(self[level] for level in range(1, self.depth + 1)), self.ranks)

    def full(self) -> RaggedBasis:
        """The same basis with its identity parts written out."""
        if self.orders is None:
            return self
        levels = [self._full_level(level) for level in range(1, self.depth + 1)]
        return RaggedBasis(tuple(levels), self.ranks, self.leaf_size)

    def _full_level(self, level: int) -> NumpyArray:
        assert self.orders is not None
        stored, order, ranks, heights = self.levels[level - 1], self.orders[level - 1], *self._shapes(level)
        out = np.zeros(int((ranks * heights).sum()), dtype=stored.dtype)
        starts, first = np.cumsum(ranks * heights) - ranks * heights, np.cumsum(heights) - heights
        node, j = _places(ranks)
        out[starts[node] + j * heights[node] + order[first[node] + j]] = 1
        rest = heights - ranks
        node, flat = _places(ranks * rest)
        j, i = flat // np.maximum(rest[node], 1), flat % np.maximum(rest[node], 1)
        out[starts[node] + j * heights[node] + order[first[node] + ranks[node] + i]] = stored
        return out

    def _shapes(self, level: int) -> tuple[IntArray, IntArray]:
        return self.ranks[level - 1], self.heights(level)

    def conj(self) -> RaggedBasis:
        """The complex conjugate; identity parts are kept."""
        return RaggedBasis(tuple(conj(a) for a in self.levels), self.ranks, self.leaf_size, self.orders)

    def map(self, function: Any) -> RaggedBasis:
        """The basis with `function` applied to the array of each level; identity parts are written out."""
        full = self.full()
        return RaggedBasis(tuple(function(a) for a in full.levels), full.ranks, full.leaf_size)

    @classmethod
    def of(cls, basis: NestedBasis) -> RaggedBasis:
        """The ragged form of a padded basis with true ranks; an interpolative one stays it, with its padded ranks."""
        size = basis.height(basis.depth) if basis.depth else 0
        if basis.orders is not None:  # the columns that pad it are parts of the identity
            stored = tuple(np.swapaxes(a, 1, 2).ravel() for a in basis.levels)
            widths = tuple(np.full(len(a), a.shape[2]) for a in basis.levels)
            return cls(stored, widths, size, tuple(order.ravel() for order in basis.orders))
        ranks, levels = basis.ranks, []
        for level in range(1, basis.depth + 1):
            turned = np.swapaxes(basis[level], 1, 2)
            rows = np.arange(turned.shape[2])[None, :]
            if level == basis.depth:
                inside = np.ones_like(rows, dtype=bool)
            else:
                below, children = basis.width(level + 1), ranks[level].reshape(-1, 2)
                inside = rows % below < np.where(rows < below, children[:, :1], children[:, 1:]) if below else rows < 0
            chosen = inside[:, None, :] & (np.arange(turned.shape[1])[:, None] < ranks[level - 1][:, None, None])
            levels.append(turned[np.broadcast_to(chosen, turned.shape)])
        return cls(tuple(levels), ranks, size)


def _are_permutations(order: IntArray, counts: IntArray) -> bool:
    """Whether `order` holds for each node, one after another, the numbers below its count."""
    node, place = _places(counts)
    return len(order) == len(node) and bool((order[np.lexsort((order, node))] == place).all())


def _places(counts: IntArray) -> tuple[IntArray, IntArray]:
    """For `counts` things of each node: the node of each, and its number among those of the node."""
    node = np.repeat(np.arange(len(counts)), counts)
    return node, np.arange(len(node)) - np.repeat(np.cumsum(counts) - counts, counts)


def _gathered(data: Array, down: IntArray, across: IntArray, rows: NumpyArray, columns: NumpyArray) -> Array:
    """Blocks (nb, p, q) of data[down + across], from (nb, p) and (nb, q); zeros but in their `rows` and `columns`.

    Index arrays of the size of the blocks are made where the data are, for a piece of the blocks at a time.
    """
    xp, shape = namespace(data), (*down.shape, across.shape[1])
    out = zeros_beside(shape, data)
    if not int(np.prod(data.shape)) or 0 in shape:
        return out
    step = max(1, PIECE // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        part = slice(start, min(start + step, shape[0]))
        i, r = (like(a[part], data)[:, :, None] for a in (down, rows))
        j, c = (like(a[part], data)[:, None, :] for a in (across, columns))
        index, inside = i + j, r & c
        index = xp.where(inside, index, xp.zeros_like(index))
        values = xp.reshape(xp.take(data, xp.reshape(index, (-1,)), axis=0), index.shape)
        out[part, ...] = xp.where(inside, values, xp.zeros_like(values))
    return out


def padded_blocks(data: Array, heights: IntArray, widths: IntArray, p: int, q: int) -> Array:
    """Blocks that follow each other in `data`, row by row, as (nb, p, q) with zeros to the right and below."""
    starts, i, j = np.cumsum(heights * widths) - heights * widths, np.arange(p), np.arange(q)
    down, across = starts[:, None] + i * widths[:, None], np.broadcast_to(j, (len(starts), q))
    return _gathered(data, down, across, i < heights[:, None], j < widths[:, None])


def ragged_blocks(blocks: NumpyArray, heights: IntArray, widths: IntArray) -> NumpyArray:
    """The inverse of `padded_blocks`: the upper left corners of blocks (nb, p, q), one after another."""
    i, j = np.arange(blocks.shape[1])[None, :, None], np.arange(blocks.shape[2])[None, None, :]
    return blocks[(i < heights[:, None, None]) & (j < widths[:, None, None])]


def expand_interpolation(rest: Array, order: IntArray) -> Array:
    """The bases (nb, p, k) whose rows order[:k] are the identity and whose other rows are `rest` (nb, p - k, k)."""
    nb, _, k = rest.shape
    if not is_numpy(rest):
        xp, p = namespace(rest), order.shape[1]
        eye = xp.broadcast_to(identity_beside(k, rest), (nb, k, k))
        rows = xp.reshape(xp.concat([eye, rest], axis=1), (nb * p, k))
        index = (np.argsort(order, axis=1) + p * np.arange(nb)[:, None]).ravel()
        return xp.reshape(take(rows, index), (nb, p, k))
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
