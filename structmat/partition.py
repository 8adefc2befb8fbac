"""Admissibility conditions and block partitions: which blocks of a matrix are compressed, and which are dense.

A partition covers the matrix once with blocks of a row node and a column node of one level. It is kept as index arrays
by level, never as a tree of objects.

Reference: L. Grasedyck, W. Hackbusch, "Construction and arithmetics of H-matrices", Computing 70 (2003) 295-334.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._typing import IntArray, NumpyArray
from .exceptions import ShapeError, TreeMismatchError
from .tree import ClusterTree

__all__ = ["Admissibility", "BlockPartition", "StrongAdmissibility", "WeakAdmissibility"]

# (row tree, column tree, level, row nodes, column nodes) -> whether each block is admissible
Admissibility = Callable[[ClusterTree, ClusterTree, int, IntArray, IntArray], NumpyArray]


@dataclass(frozen=True)
class WeakAdmissibility:
    """All blocks off the diagonal are admissible: HODLR and HSS."""

    def __call__(
        self, row_tree: ClusterTree, col_tree: ClusterTree, level: int, rows: IntArray, cols: IntArray
    ) -> NumpyArray:
        """Whether the row node and the column node differ."""
        return rows != cols


@dataclass(frozen=True)
class StrongAdmissibility:
    """Blocks of clusters whose distance is large for their size are admissible: max(diam) <= eta * distance > 0.

    Parameters
    ----------
    eta : float
        Larger values admit closer clusters: fewer blocks with larger ranks.
    distance : "box" or "centre"
        The distance between the bounding boxes, or between their centres.

    Notes
    -----
    Where a tree has no points, the intervals of its indices, mapped to (0, 1), are the boxes.
    """

    eta: float = 2.0
    distance: str = "box"

    def __post_init__(self) -> None:
        if not 0.0 < self.eta < np.inf:
            raise ValueError(f"eta must be a positive number, but it is {self.eta!r}")
        if self.distance not in ("box", "centre"):
            raise ValueError(f'distance must be "box" or "centre", but it is {self.distance!r}')

    def __call__(
        self, row_tree: ClusterTree, col_tree: ClusterTree, level: int, rows: IntArray, cols: IntArray
    ) -> NumpyArray:
        """Whether max(diam(row box), diam(column box)) <= eta * distance, and the distance is positive."""
        row_low, row_high = (corner[rows] for corner in row_tree.boxes[level])
        col_low, col_high = (corner[cols] for corner in col_tree.boxes[level])
        if row_low.shape[1] != col_low.shape[1]:
            raise TreeMismatchError(
                f"the row tree has points in {row_low.shape[1]} dimensions, the column tree in {col_low.shape[1]}"
            )
        if self.distance == "box":
            gap = np.maximum(0.0, np.maximum(row_low - col_high, col_low - row_high))
        else:
            gap = 0.5 * (row_low + row_high - col_low - col_high)
        gaps = np.linalg.norm(gap, axis=1)
        diameters = np.maximum(np.linalg.norm(row_high - row_low, axis=1), np.linalg.norm(col_high - col_low, axis=1))
        return (diameters <= self.eta * gaps) & (gaps > 0.0)


@dataclass(frozen=True)
class BlockPartition:
    """A cover of a matrix by admissible (`far`) and dense (`near`) blocks.

    Build one with `BlockPartition.build`.

    Attributes
    ----------
    row_tree, col_tree : ClusterTree
        Of equal depth.
    far, near : tuples, for the levels 0 .. depth, of (nb, 2) int arrays
        Row node and column node of each block, sorted by row, then by column.
    """

    row_tree: ClusterTree
    col_tree: ClusterTree
    far: tuple[IntArray, ...]  # by level, (nb, 2)
    near: tuple[IntArray, ...]

    @classmethod
    def build(
        cls, row_tree: ClusterTree, col_tree: ClusterTree | None = None, admissibility: Admissibility | None = None
    ) -> BlockPartition:
        """Divide blocks from the root on until they are admissible or pairs of leaves.

        Parameters
        ----------
        row_tree, col_tree : ClusterTree
            Of equal depth; one tree serves both sides if the second is left out.
        admissibility : Admissibility, optional
            `StrongAdmissibility(eta=2.0)` (default), `WeakAdmissibility()`, or any predicate
            `(row_tree, col_tree, level, rows, cols) -> bool array` on arrays of nodes of one level.

        Notes
        -----
        Cost O(number of blocks), which is O(n / leaf_size) for points of bounded density.

        Examples
        --------
        >>> import structmat as sm
        >>> tree = sm.ClusterTree.balanced(1024, leaf_size=64)
        >>> partition = sm.BlockPartition.build(tree, admissibility=sm.WeakAdmissibility())
        >>> partition.far_count, partition.near_count
        (30, 16)
        """
        columns = row_tree if col_tree is None else col_tree
        if row_tree.depth != columns.depth:
            raise TreeMismatchError(
                f"the row tree has depth {row_tree.depth} and the column tree depth {columns.depth}; "
                "build both with the same depth="
            )
        condition: Any = StrongAdmissibility() if admissibility is None else admissibility
        far, near = [], []
        blocks = np.zeros((1, 2), dtype=np.int64)
        for level in range(row_tree.depth + 1):
            admissible = _asked(condition, row_tree, columns, level, blocks)
            far.append(_sorted(blocks[admissible]))
            rest = blocks[~admissible]
            near.append(_sorted(rest) if level == row_tree.depth else rest[:0])
            blocks = children(rest)
        return cls(row_tree, columns, tuple(far), tuple(near))

    @property
    def depth(self) -> int:
        """The level of the leaves."""
        return self.row_tree.depth

    @property
    def far_count(self) -> int:
        """Number of admissible blocks."""
        return sum(len(b) for b in self.far)

    @property
    def near_count(self) -> int:
        """Number of dense blocks."""
        return sum(len(b) for b in self.near)

    @property
    def is_symmetric(self) -> bool:
        """Whether with each block the mirrored one is there too, on one tree."""
        if self.row_tree != self.col_tree:
            return False
        return all(np.array_equal(b, _sorted(b[:, ::-1])) for b in (*self.far, *self.near))

    def lower(self) -> BlockPartition:
        """The blocks on and below the diagonal: what a Hermitian matrix stores. It covers the lower half only."""
        far, near = (tuple(b[b[:, 0] >= b[:, 1]] for b in blocks) for blocks in (self.far, self.near))
        return BlockPartition(self.row_tree, self.col_tree, far, near)

    def transposed(self) -> BlockPartition:
        """The partition of the transpose."""
        far, near = (tuple(_sorted(b[:, ::-1]) for b in blocks) for blocks in (self.far, self.near))
        return BlockPartition(self.col_tree, self.row_tree, far, near)

    def plot(self, ax: Any = None) -> Any:
        """Draw the blocks, admissible ones in the colour of their level, dense ones grey; returns the axes."""
        from .plot import plot_partition

        return plot_partition(self, ax=ax)

    def require_cover(self) -> None:
        """Raise `ShapeError` unless every entry belongs to exactly one block."""
        area = 0
        leaves = self.row_tree.leaf_count
        covered = np.zeros((leaves + 1, leaves + 1), dtype=np.int64) if leaves <= 1024 else None
        for level, blocks in enumerate(zip(self.far, self.near, strict=True)):
            width = 1 << (self.depth - level)
            for b in blocks:
                area += len(b) * width * width
                if covered is not None:
                    for i, j, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
                        np.add.at(covered, ((b[:, 0] + i) * width, (b[:, 1] + j) * width), sign)
        once = covered is None or (covered.cumsum(0).cumsum(1)[:leaves, :leaves] == 1).all()
        if area != leaves * leaves or not once:
            raise ShapeError("a block partition must cover every entry of the matrix exactly once")

    def __repr__(self) -> str:
        return (
            f"BlockPartition({self.row_tree.n} x {self.col_tree.n}, depth={self.depth}, {self.far_count} admissible, "
            f"{self.near_count} dense)"
        )


def children(blocks: IntArray) -> IntArray:
    """The four children of each block, (4 nb, 2)."""
    corner = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return (2 * blocks[:, None, :] + corner).reshape(-1, 2)


def _asked(condition: Any, rows: ClusterTree, cols: ClusterTree, level: int, blocks: IntArray) -> NumpyArray:
    answer = np.asarray(condition(rows, cols, level, blocks[:, 0], blocks[:, 1]))
    if answer.shape != (len(blocks),) or answer.dtype != np.bool_:
        raise ShapeError(
            f"an admissibility condition must return a bool array of shape ({len(blocks)},), one for each block, but "
            f"it returned {answer.dtype} of shape {answer.shape}"
        )
    return answer


def _sorted(blocks: IntArray) -> IntArray:
    return blocks[np.lexsort((blocks[:, 1], blocks[:, 0]))]
