"""Cluster trees: perfect binary trees over the indices of a matrix, kept as arrays by level.

All leaves are on one level, `depth`, and sizes on a level differ by at most one: node t of level l holds the sorted
positions from `t n / 2^l` to `(t + 1) n / 2^l`, rounded down. So a tree is its number of indices, its depth and a
permutation; everything else follows, for any n >= 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from . import _check
from ._backend import Indices, is_numpy, namespace
from ._typing import Array, IntArray, NumpyArray
from .exceptions import ShapeError, TreeMismatchError

__all__ = ["ClusterTree", "KDSplitter", "PrincipalAxisSplitter", "Splitter"]

# (points of one level, in the order of its nodes; the nodes' first positions) -> the key to sort each node by
Splitter = Callable[[NumpyArray, IntArray], NumpyArray]


class KDSplitter:
    """Split a node at the median along the widest side of its bounding box."""

    def __call__(self, points: NumpyArray, starts: IntArray) -> NumpyArray:
        """Coordinate (n,) of each point along its node's widest side; nodes begin at `starts`, points are (n, d)."""
        widths = np.maximum.reduceat(points, starts) - np.minimum.reduceat(points, starts)  # (nodes, d)
        axis = np.repeat(widths.argmax(axis=1), np.diff(np.append(starts, len(points))))
        return np.take_along_axis(points, axis[:, None], axis=1)[:, 0]

    def __repr__(self) -> str:
        return "KDSplitter()"


class PrincipalAxisSplitter:
    """Split a node at the median along the direction in which its points vary most."""

    def __call__(self, points: NumpyArray, starts: IntArray) -> NumpyArray:
        """Coordinate (n,) of each point along its node's main axis; nodes begin at `starts`, points are (n, d)."""
        sizes = np.diff(np.append(starts, len(points)))
        centred = points - np.repeat(np.add.reduceat(points, starts) / sizes[:, None], sizes, axis=0)
        moments = np.add.reduceat(centred[:, :, None] * centred[:, None, :], starts)  # (nodes, d, d)
        axis = np.linalg.eigh(moments)[1][:, :, -1]  # (nodes, d), of the largest eigenvalue
        return (centred * np.repeat(axis, sizes, axis=0)).sum(axis=1)

    def __repr__(self) -> str:
        return "PrincipalAxisSplitter()"


def _depth(n: int, leaf_size: int) -> int:
    """The smallest depth at which no leaf exceeds `leaf_size`; no leaf is ever empty."""
    depth = 0
    while -(-n // 2**depth) > leaf_size:
        depth += 1
    while 2**depth > n:
        depth -= 1
    return depth


class ClusterTree:
    """A perfect binary tree over n indices.

    Build one with `ClusterTree.balanced` (the indices as they come) or `ClusterTree.from_points` (sorted in space).

    Parameters
    ----------
    n : int
        Number of indices, at least 1.
    depth : int
        Level of the leaves; the root is level 0. At most log2(n).
    perm : (n,) int array, optional
        The user's index at each sorted position. Default: the identity.
    points : (n, d) array, optional
        Coordinates in the user's order, from which the boxes are computed.

    Notes
    -----
    Immutable. The user's ordering is the outside ordering of every matrix built on the tree: the permutation is
    applied inside products and solves and never shows.

    Examples
    --------
    >>> import structmat as sm
    >>> tree = sm.ClusterTree.balanced(10, leaf_size=3)
    >>> tree.depth, tree.sizes(tree.depth)
    (2, array([2, 3, 2, 3]))
    """

    def __init__(
        self,
        n: int,
        depth: int,
        perm: IntArray | None = None,
        points: NumpyArray | None = None,
    ) -> None:
        self.n = _check.positive_integer(n, "n")
        self.depth = _check.positive_integer(depth, "depth", minimum=0)
        if 2**self.depth > self.n:
            raise ShapeError(f"depth {self.depth} needs at least {2**self.depth} indices, but n = {self.n}")
        self.perm = np.arange(self.n, dtype=np.int64) if perm is None else np.array(perm, dtype=np.int64)
        if self.perm.shape != (self.n,) or not np.array_equal(np.sort(self.perm), np.arange(self.n)):
            raise ShapeError(f"perm must be a permutation of range({self.n})")
        self.perm.flags.writeable = False
        self.points = None if points is None else np.array(_check.points(points)).reshape(self.n, -1)
        if self.points is not None:
            self.points.flags.writeable = False

    @classmethod
    def balanced(cls, n: int, leaf_size: int = 64, *, depth: int | None = None) -> ClusterTree:
        """The tree that halves the index range 0..n-1 until no leaf is larger than `leaf_size`.

        Parameters
        ----------
        n : int
            Number of indices, at least 1.
        leaf_size : int
            Largest size of a leaf.
        depth : int, optional
            The level of the leaves instead of `leaf_size`: rectangular matrices need two trees of one depth.
        """
        n = _check.positive_integer(n, "n")
        leaf_size = _check.positive_integer(leaf_size, "leaf_size")
        return cls(n, _depth(n, leaf_size) if depth is None else depth)

    @classmethod
    def from_points(
        cls,
        points: Any,
        leaf_size: int = 64,
        splitter: Splitter | None = None,
        *,
        depth: int | None = None,
    ) -> ClusterTree:
        """The tree that halves a point set in space, level by level.

        Parameters
        ----------
        points : (n,) or (n, d) array
            Finite coordinates, in any dimension; duplicates are allowed (ties keep their order).
        leaf_size : int
            Largest size of a leaf.
        splitter : Splitter, optional
            `KDSplitter()` (default: the median along the widest side of the box), `PrincipalAxisSplitter()`, or any
            function `(points, starts) -> keys` to sort the points of each node by.
        depth : int, optional
            The level of the leaves instead of `leaf_size`.

        Notes
        -----
        Cost O(n log^2 n), O(n log n) in one dimension.
        """
        coordinates = _check.points(points)
        coordinates = coordinates.reshape(len(coordinates), -1)
        n, dimension = coordinates.shape
        levels = _depth(n, _check.positive_integer(leaf_size, "leaf_size")) if depth is None else depth
        if dimension == 1 and splitter is None:
            return cls(n, levels, np.argsort(coordinates[:, 0], kind="stable"), coordinates)
        split = splitter or KDSplitter()
        perm = np.arange(n)
        for level in range(min(levels, n.bit_length())):
            bounds = _starts(n, level)
            perm = perm[_order_within(np.asarray(split(coordinates.take(perm, axis=0), bounds[:-1])), bounds)]
        return cls(n, levels, perm, coordinates)

    # ------------------------------------------------------------------------------ the arrays

    def starts(self, level: int) -> IntArray:
        """First sorted position of each node of a level, (2**level,)."""
        return _starts(self.n, level)[:-1]

    def stops(self, level: int) -> IntArray:
        """One past the last sorted position of each node of a level, (2**level,)."""
        return _starts(self.n, level)[1:]

    def sizes(self, level: int) -> IntArray:
        """Number of indices in each node of a level, (2**level,)."""
        return np.diff(_starts(self.n, level))

    def indices(self, level: int, node: int) -> IntArray:
        """The user's indices in one node, in sorted order."""
        bounds = _starts(self.n, level)
        return self.perm[bounds[node] : bounds[node + 1]]

    @property
    def leaf_count(self) -> int:
        """Number of leaves, 2**depth."""
        return int(2**self.depth)

    @property
    def leaf_size(self) -> int:
        """Size of the largest leaf: the width that leaf blocks are padded to."""
        return -(-self.n // self.leaf_count)

    @cached_property
    def is_identity(self) -> bool:
        """Whether the sorted order is the user's order."""
        return bool((self.perm[1:] > self.perm[:-1]).all())

    @cached_property
    def inverse_perm(self) -> IntArray:
        """The sorted position of each of the user's indices, (n,)."""
        inverse = np.empty(self.n, dtype=np.int64)
        inverse[self.perm] = np.arange(self.n)
        return inverse

    @cached_property
    def coordinates(self) -> NumpyArray:
        """Coordinates by sorted position, (n, d): the points, or equispaced in (0, 1) where there are none."""
        if self.points is None:
            return (np.arange(self.n, dtype=np.float64)[:, None] + 0.5) / self.n
        return self.points.take(self.perm, axis=0)

    @cached_property
    def boxes(self) -> tuple[tuple[NumpyArray, NumpyArray], ...]:
        """For each level the lower and upper corners of the nodes' bounding boxes, two (2**level, d) arrays."""
        return tuple(
            (np.minimum.reduceat(self.coordinates, s), np.maximum.reduceat(self.coordinates, s))
            for s in (self.starts(level) for level in range(self.depth + 1))
        )

    # ------------------------------------------------------------- between vectors and leaf blocks

    @cached_property
    def leaf_positions(self) -> IntArray:
        """The user's index of each slot of the padded leaves, (leaf_count, leaf_size); n where a leaf is shorter."""
        bounds = _starts(self.n, self.depth)
        position = bounds[:-1, None] + np.arange(self.leaf_size)
        padded = np.append(self.perm, self.n)
        return padded[np.where(position < bounds[1:, None], position, self.n)]

    @cached_property
    def leaf_slots(self) -> IntArray:
        """The slot, in the flattened padded leaves, of each of the user's indices, (n,)."""
        slots = np.empty(self.n + 1, dtype=np.int64)
        slots[self.leaf_positions.ravel()] = np.arange(self.leaf_positions.size)
        return slots[:-1]

    @property
    def is_padded(self) -> bool:
        """Whether some leaves are one shorter than the others."""
        return self.leaf_count * self.leaf_size != self.n

    def to_leaves(self, x: Array) -> Array:
        """The rows of x (n, k) as zero-padded leaf blocks (leaf_count, leaf_size, k): a view where it can be one."""
        k = x.shape[1]
        shape = (self.leaf_count, self.leaf_size, k)
        xp = namespace(x)
        if not self.is_padded:
            return xp.reshape(x if self.is_identity else self._moves["perm"].of(x), shape)
        extended = xp.concat([x, xp.zeros_like(x[:1, :])], axis=0) if not is_numpy(x) else _with_zero_row(x)
        return xp.reshape(self._moves["positions"].of(extended), shape)

    def from_leaves(self, blocks: Array) -> Array:
        """The inverse of `to_leaves`: (leaf_count, leaf_size, k) to (n, k)."""
        xp = namespace(blocks)
        rows = xp.reshape(blocks, (self.leaf_count * self.leaf_size, blocks.shape[2]))
        if self.is_identity and not self.is_padded:
            return rows
        return self._moves["slots"].of(rows)

    @cached_property
    def _moves(self) -> dict[str, Indices]:
        """The permutations between vectors and leaf blocks, on all devices that use them."""
        arrays = {"perm": self.perm, "positions": self.leaf_positions.ravel(), "slots": self.leaf_slots}
        return {name: Indices(values) for name, values in arrays.items()}

    # -------------------------------------------------------------------------------- identity

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, ClusterTree):
            return NotImplemented
        return self.n == other.n and self.depth == other.depth and np.array_equal(self.perm, other.perm)

    def __hash__(self) -> int:
        return hash((self.n, self.depth))

    def __repr__(self) -> str:
        order = "" if self.is_identity else ", permuted"
        space = "" if self.points is None else f", points in {self.points.shape[1]}-D"
        return f"ClusterTree(n={self.n}, depth={self.depth}, leaf_size={self.leaf_size}{order}{space})"


def _starts(n: int, level: int) -> IntArray:
    return (np.arange(2**level + 1, dtype=np.int64) * n) >> level


def _order_within(keys: NumpyArray, bounds: IntArray) -> IntArray:
    """The stable order (n,) by keys of the positions of each node, node after node."""
    sizes = np.diff(bounds)
    widest = int(sizes.max())
    if keys.dtype.kind != "f":
        return np.lexsort((keys, np.repeat(np.arange(len(sizes)), sizes)))
    table = np.full((len(sizes), widest), np.nan, dtype=keys.dtype)  # NaN is sorted to the end, where it stays
    inside = np.arange(widest) < sizes[:, None]
    table[inside] = keys
    order = table.argsort(axis=1)  # twice as fast as a stable sort, and the same where no two keys are equal
    ordered = np.take_along_axis(table, order, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any() or not np.isfinite(keys).all():
        order = table.argsort(axis=1, kind="stable")
    return (bounds[:-1, None] + order)[inside]


def _with_zero_row(x: NumpyArray) -> NumpyArray:
    extended = np.zeros((x.shape[0] + 1, x.shape[1]), dtype=x.dtype)
    extended[:-1] = x
    return extended


def as_tree_pair(tree: Any, shape: tuple[int, int], *, leaf_size: int = 64) -> tuple[ClusterTree, ClusterTree]:
    """The row and column tree from what the user gave: nothing, one tree, or a pair; checked against the shape."""
    rows, columns = shape
    if tree is None:
        depth = min(_depth(rows, leaf_size), _depth(columns, leaf_size)) if rows != columns else None
        row_tree = ClusterTree.balanced(rows, leaf_size, depth=depth)
        column_tree = row_tree if rows == columns else ClusterTree.balanced(columns, leaf_size, depth=depth)
    elif isinstance(tree, ClusterTree):
        row_tree = column_tree = tree
        if rows != columns and tree.n == rows:
            raise TreeMismatchError(
                f"a rectangular matrix (shape {shape}) needs a pair tree=(row_tree, column_tree) of equal depth, "
                "but one tree was given"
            )
    else:
        row_tree, column_tree = (to_tree(t) for t in tree)
    if (row_tree.n, column_tree.n) != (rows, columns):
        raise TreeMismatchError(
            f"the trees are over {row_tree.n} rows and {column_tree.n} columns, but the matrix has shape {shape}"
        )
    if row_tree.depth != column_tree.depth:
        raise TreeMismatchError(
            f"the row tree has depth {row_tree.depth} and the column tree depth {column_tree.depth}; "
            "build both with the same depth=, limited by the smaller side"
        )
    # one object where they are equal, so that `is` answers whether a matrix can be symmetric
    return row_tree, row_tree if row_tree == column_tree else column_tree


def to_tree(tree: Any) -> ClusterTree:
    if not isinstance(tree, ClusterTree):
        raise TypeError(f"tree must be a ClusterTree or a pair of them, but it holds a {type(tree).__name__}")
    return tree


def positions_of(tree: ClusterTree, indices: IntArray) -> IntArray:
    """Sorted positions of the user's indices."""
    return indices if tree.is_identity else tree.inverse_perm[indices]


def require_equal_trees(a: ClusterTree, b: ClusterTree, what: str) -> None:
    if a != b:
        raise TreeMismatchError(
            f"{what} need the same cluster tree, but these are {a!r} and {b!r}; build both matrices on one tree object"
        )
