"""Where the clusters of a partition touch (see `structmat.lowrank.closest`), for all blocks of a level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray
from ..lowrank.closest import ETA, how_many
from ..partition import StrongAdmissibility
from ..tree import ClusterTree

# clusters at a smaller distance for their size touch
APART = StrongAdmissibility(eta=ETA)
# where kernels decay fast an error may be left just outside of a corner: a check looks at corners so many times as wide
# as those that a first search has seen
WIDER = 3
_AT_ONCE = 1 << 18  # points of one batch: few enough to stay in the cache


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


def corners(row_tree: ClusterTree, col_tree: ClusterTree, level: int, places: IntArray, wider: int = 1) -> Corners:
    """The corners of the blocks of one level; places (nb, 2); with `wider` times as many rows and columns."""
    bounds = np.zeros((len(places), 4), dtype=np.int64)
    if not len(places):
        return Corners(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), bounds)
    touching = np.flatnonzero(~APART(row_tree, col_tree, level, places[:, 0], places[:, 1]))
    found = []
    for side, (own, other) in enumerate(((row_tree, col_tree), (col_tree, row_tree))):
        close, lengths = _closest(own, other, level, places[touching, side], places[touching, 1 - side], wider)
        stops = lengths.cumsum()
        bounds[touching, 2 * side], bounds[touching, 2 * side + 1] = stops - lengths, stops
        found.append(close)
    return Corners(found[0], found[1], bounds)


def _closest(
    own: ClusterTree, other: ClusterTree, level: int, nodes: IntArray, across: IntArray, wider: int
) -> tuple[IntArray, IntArray]:
    """Positions within nodes that are closest to the box of other ones, node after node; and how many of each node.

    Nodes of one size are looked at together: there are at most two sizes on a level.
    """
    starts, sizes = own.starts(level)[nodes], own.sizes(level)[nodes]
    lows, highs = (corner[across] for corner in other.boxes[level])  # (nb, d)
    lengths = np.zeros(len(nodes), dtype=np.int64)
    found: list[tuple[IntArray, IntArray]] = []
    for size in np.unique(sizes).tolist():
        group = np.flatnonzero(sizes == size)
        for part in np.split(group, np.arange(_AT_ONCE // size + 1, len(group), _AT_ONCE // size + 1)):
            points = own.coordinates.take(starts[part, None] + np.arange(size), axis=0)  # (np, size, d)
            gap = np.maximum(0.0, np.maximum(lows[part, None] - points, points - highs[part, None]))
            distance = np.square(gap).sum(axis=2)
            counts = how_many(distance, points.shape[2], wider)
            for count in np.unique(counts).tolist():
                rows = np.flatnonzero(counts == count)
                if count == size:
                    close = np.broadcast_to(np.arange(size), (len(rows), size))
                else:
                    close = np.argpartition(distance[rows], count, axis=1)[:, :count]
                lengths[part[rows]] = count
                found.append((part[rows], close))
    starts = lengths.cumsum() - lengths
    positions = np.empty(lengths.sum(), dtype=np.int64)
    for which, close in found:
        positions[starts[which, None] + np.arange(close.shape[1])] = close
    return positions, lengths
