"""Where two clusters touch: the entries of a block in which kernels vary most.

Samples spread over a block miss an error that sits in a corner of it, and so does cross approximation when it looks for
its next row. So the rows and columns whose points are closest to the other cluster are looked at, all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..sources import EntrySource, KernelSource

# clusters touch unless max(diam) <= ETA * distance
ETA = 8.0
FEWEST, MOST = 32, 192


def how_many(distance: NumpyArray, dimension: int, wider: int = 1) -> IntArray:
    """How many points of each cluster to look at, from their squared distances to the box of the other (nb, size).

    More where a face is shared, not a point; and all that lie in the other box, up to a limit, where boxes overlap.
    """
    size = distance.shape[1]
    count = min(size, wider * min(MOST, max(FEWEST, int(2.0 * size ** (1.0 - 1.0 / dimension)))))
    return np.maximum(count, np.minimum(wider * MOST, np.count_nonzero(distance == 0.0, axis=1)))


@dataclass(frozen=True)
class Closest:
    """The rows and columns of blocks whose points are closest to the other cluster.

    Attributes
    ----------
    rows, cols : (nb, a) and (nb, b) int arrays
        Places within the blocks.
    row_counts, col_counts : (nb,) int arrays
        How many of them these are; the others fill up the arrays. 0 where clusters do not touch.
    """

    rows: IntArray
    cols: IntArray
    row_counts: IntArray
    col_counts: IntArray


def closest(source: EntrySource, rows: IntArray, cols: IntArray) -> Closest | None:
    """Those of blocks at rows (nb, p) and columns (nb, q); None where no clusters touch, or indices have no points."""
    if not isinstance(source, KernelSource) or source.row_points.shape[1:] != source.col_points.shape[1:]:
        return None
    inside = [index >= 0 for index in (rows, cols)]
    points = [p.reshape(len(p), -1)[np.maximum(index, 0)] for p, index in
              ((source.row_points, rows), (source.col_points, cols))]  # fmt: skip
    boxes = [
        (np.where(there[:, :, None], x, np.inf).min(axis=1), np.where(there[:, :, None], x, -np.inf).max(axis=1))
        for x, there in zip(points, inside, strict=True)
    ]
    (low, high), (other_low, other_high) = boxes
    gap = np.linalg.norm(np.maximum(0.0, np.maximum(low - other_high, other_low - high)), axis=1)
    diameter = np.maximum(*(np.linalg.norm(b - a, axis=1) for a, b in boxes))
    touching = (diameter > ETA * gap) | (gap == 0.0)
    if not touching.any():
        return None
    places, counts = [], []
    for x, there, (a, b) in zip(points, inside, boxes[::-1], strict=True):
        outside = np.maximum(0.0, np.maximum(a[:, None] - x, x - b[:, None]))
        distance = np.where(there, np.square(outside).sum(axis=2), np.inf)
        count = np.where(touching, np.minimum(how_many(distance, x.shape[2]), there.sum(axis=1)), 0)
        places.append(np.argsort(distance, axis=1, kind="stable")[:, : int(count.max())])
        counts.append(count)
    return Closest(*places, *counts)
