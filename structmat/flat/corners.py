"""Where clusters touch: the part of a weakly admissible block in which kernels vary most.

Samples spread over a block miss an error that sits in a corner of it, and so does cross approximation when it looks for
its next row. So the rows and columns that are closest to the other cluster are looked at, all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..partition import StrongAdmissibility
from ..tree import ClusterTree

# clusters at a smaller distance for their size touch
APART = StrongAdmissibility(eta=8.0)
FEWEST, MOST = 32, 192


@dataclass(frozen=True)
class Corners:
    """Rows and columns of blocks that are closest to the other cluster, as positions within the block.

    Attributes
    ----------
    rows, cols : int arrays
        Of all blocks, one after another.
    bounds : (nb, 4) int array
        Where the rows and where the columns of each block begin and end; empty where clusters do not touch.
    """

    rows: IntArray
    cols: IntArray
    bounds: IntArray


def corners(row_tree: ClusterTree, col_tree: ClusterTree, level: int, places: IntArray) -> Corners:
    """The corners of the blocks of one level; places (nb, 2)."""
    bounds = np.zeros((len(places), 4), dtype=np.int64)
    if not len(places):
        return Corners(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), bounds)
    touching = np.flatnonzero(~APART(row_tree, col_tree, level, places[:, 0], places[:, 1]))
    found: list[list[IntArray]] = [[], []]
    for b in touching:
        for side, (own, other) in enumerate(((row_tree, col_tree), (col_tree, row_tree))):
            close = _closest(own, other, level, int(places[b, side]), int(places[b, 1 - side]))
            found[side].append(close)
    for side in range(2):
        lengths = np.array([len(a) for a in found[side]], dtype=np.int64)
        stops = lengths.cumsum()
        bounds[touching, 2 * side], bounds[touching, 2 * side + 1] = stops - lengths, stops
    empty = np.zeros(0, dtype=np.int64)
    rows, cols = (np.concatenate([empty, *a]) for a in found)
    return Corners(rows, cols, bounds)


def joined(levels: list[Corners]) -> Corners:
    """The corners of the blocks of several levels, one level after another."""
    bounds, row, col = [], 0, 0
    for c in levels:
        bounds.append(c.bounds + np.array([row, row, col, col]))
        row, col = row + len(c.rows), col + len(c.cols)
    rows, cols = (np.concatenate([getattr(c, side) for c in levels]) for side in ("rows", "cols"))
    return Corners(rows, cols, np.concatenate(bounds))


def _closest(own: ClusterTree, other: ClusterTree, level: int, node: int, across: int) -> IntArray:
    """Positions within a node that are closest to the box of another one: more where a face is shared, not a point."""
    first, last = int(own.starts(level)[node]), int(own.stops(level)[node])
    points: NumpyArray = own.coordinates[first:last]
    low, high = (corner[across] for corner in other.boxes[level])
    dimension = points.shape[1]
    count = min(len(points), MOST, max(FEWEST, int(2.0 * len(points) ** (1.0 - 1.0 / dimension))))
    gap = np.maximum(0.0, np.maximum(low - points, points - high))
    distance = (gap * gap).sum(axis=1)
    count = max(count, min(MOST, int((distance == 0.0).sum())))  # boxes that overlap
    return np.arange(count) if count == len(points) else np.argpartition(distance, count)[:count]
