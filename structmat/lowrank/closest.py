"""Where an approximation of a block is most likely to be wrong, as far as the points of its rows and columns tell.

Samples spread over a block miss an error that sits in a corner of it, and so does cross approximation when it looks for
its next row. So where two clusters touch, the rows and columns that are closest to the other one are looked at, all of
them; and points that are far from the rest of their cluster, with their nearest neighbours in the other one: what they
see nobody else may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .._typing import IntArray, NumpyArray
from ..sources import EntrySource

# clusters touch unless max(diam) <= ETA * distance
ETA = 8.0
FEWEST, MOST = 32, 192
# points of each cluster that are as far as can be from each other, of so many that are looked at
SPREAD, CANDIDATES = 24, 512


def how_many(distance: NumpyArray, dimension: int, wider: int = 1) -> IntArray:
    """How many points of each cluster to look at, from their squared distances to the box of the other (nb, size).

    More where a face is shared, not a point; and all that lie in the other box, up to a limit, where boxes overlap.
    """
    size = distance.shape[1]
    count = min(size, wider * min(MOST, max(FEWEST, int(2.0 * size ** (1.0 - 1.0 / dimension)))))
    return np.maximum(count, np.minimum(wider * MOST, np.count_nonzero(distance == 0.0, axis=1)))


@dataclass(frozen=True)
class Grid:
    """Some rows and columns of blocks, all of whose entries are of interest.

    Attributes
    ----------
    rows, cols : (nb, a) and (nb, b) int arrays
        Places within the blocks.
    row_counts, col_counts : (nb,) int arrays
        How many of them these are; the others fill up the arrays. 0 for blocks of no interest.
    """

    rows: IntArray
    cols: IntArray
    row_counts: IntArray
    col_counts: IntArray


def suspicious(source: EntrySource, rows: IntArray, cols: IntArray) -> list[Grid]:
    """Those entries of the blocks at rows (nb, p) and columns (nb, q).

    Nothing where no clusters touch, or it is not known which do. Where some indices of the source share a point, blocks
    of clusters that do not touch are looked at too: a sample may miss the few rows that differ from all others.
    """
    where = source.coordinates
    if where is None or where[0].shape[1] != where[1].shape[1]:
        return []
    points = [x[np.maximum(index, 0)] for x, index in zip(where, (rows, cols), strict=True)]
    inside = [index >= 0 for index in (rows, cols)]
    boxes = [
        (np.where(there[:, :, None], x, np.inf).min(axis=1), np.where(there[:, :, None], x, -np.inf).max(axis=1))
        for x, there in zip(points, inside, strict=True)
    ]
    gap = np.linalg.norm(np.maximum(0.0, np.maximum(boxes[0][0] - boxes[1][1], boxes[1][0] - boxes[0][1])), axis=1)
    diameter = np.maximum(*(np.linalg.norm(high - low, axis=1) for low, high in boxes))
    touching = (diameter > ETA * gap) | (gap == 0.0)
    found = [_corners(points, inside, boxes[::-1], touching)] if touching.any() else []
    chosen = touching if where[0].shape[1] > 1 else np.zeros_like(touching)  # on a line the corner is all
    if source.has_equal_points:
        chosen = chosen | (inside[0].any(axis=1) & inside[1].any(axis=1))
    return [*found, _spread(points, inside, chosen)] if chosen.any() else found


def _corners(
    points: Sequence[NumpyArray], inside: Sequence[NumpyArray], other_boxes: Sequence[tuple[NumpyArray, NumpyArray]],
    touching: NumpyArray,
) -> Grid:  # fmt: skip
    """The rows and columns that are closest to the other cluster."""
    places, counts = [], []
    for x, there, (low, high) in zip(points, inside, other_boxes, strict=True):
        outside = np.maximum(0.0, np.maximum(low[:, None] - x, x - high[:, None]))
        distance = np.where(there, np.square(outside).sum(axis=2), np.inf)
        count = np.where(touching, np.minimum(how_many(distance, x.shape[2]), there.sum(axis=1)), 0)
        width = int(count.max())
        some = np.argpartition(distance, width, axis=1)[:, :width] if width < distance.shape[1] else None
        order = np.argsort(distance if some is None else np.take_along_axis(distance, some, 1), axis=1)
        places.append(order if some is None else np.take_along_axis(some, order, 1))
        counts.append(count)
    return Grid(*places, *counts)


def _spread(points: Sequence[NumpyArray], inside: Sequence[NumpyArray], chosen: NumpyArray) -> Grid:
    """Rows and columns whose points are far from each other, and those nearest to them in the other cluster."""
    blocks = np.flatnonzero(chosen)
    some = [_candidates(there[blocks]) for there in inside]
    sets = [x[blocks[:, None], at] for x, at in zip(points, some, strict=True)]
    there = [np.take_along_axis(t[blocks], at, 1) for t, at in zip(inside, some, strict=True)]
    far = [_far_apart(x, t) for x, t in zip(sets, there, strict=True)]
    places = []
    for side in (0, 1):
        picked = np.take_along_axis(sets[1 - side], far[1 - side][:, :, None], 1)
        near = np.where(there[side][:, None], _squares(picked, sets[side]), np.inf).argmin(axis=2)
        both = np.take_along_axis(some[side], np.concatenate([far[side], near], axis=1), 1)
        places.append(np.zeros((len(chosen), both.shape[1]), dtype=np.int64))
        places[side][blocks] = both
    return Grid(*places, *(np.where(chosen, p.shape[1], 0) for p in places))


def _candidates(inside: NumpyArray) -> IntArray:
    """Places that are there, at most CANDIDATES of each row, evenly spaced; where there are fewer, others follow."""
    counts = inside.sum(axis=1)
    width = min(CANDIDATES, inside.shape[1])
    order = np.argsort(~inside, axis=1, kind="stable")
    step = np.maximum(counts, width)[:, None] / width
    return np.take_along_axis(order, (np.arange(width) * step).astype(np.int64), 1)


def _squares(x: NumpyArray, y: NumpyArray) -> NumpyArray:
    """Squared distances of points (nb, m, d) and (nb, p, d), (nb, m, p)."""
    total = np.zeros((len(x), x.shape[1], y.shape[1]))
    for axis in range(x.shape[2]):
        total += np.square(x[:, :, None, axis] - y[:, None, :, axis])
    return total


def _far_apart(x: NumpyArray, inside: NumpyArray) -> IntArray:
    """Places of points (nb, p, d), each as far as can be from those before it, (nb, SPREAD)."""
    nb, p, _ = x.shape
    block, places = np.arange(nb), np.zeros((nb, min(SPREAD, p)), dtype=np.int64)
    places[:, 0] = inside.argmax(axis=1)
    distance = np.where(inside, np.inf, -1.0)
    for k in range(1, places.shape[1]):
        apart = _squares(x[block, places[:, k - 1]][:, None], x)[:, 0]
        np.minimum(distance, apart, out=distance, where=inside)
        places[:, k] = distance.argmax(axis=1)
    return places


def nearest(x: NumpyArray, inside: NumpyArray, queries: NumpyArray) -> IntArray:
    """For each query (nb, m, d) the place of the nearest of the points (nb, p, d) of the same number, (nb, m)."""
    nb, p, d = x.shape
    there = np.flatnonzero(inside.ravel())
    flat, wanted = x.reshape(-1, d)[there], queries.reshape(-1, d)
    span = max(float(np.ptp(both)) for both in np.concatenate([flat, wanted]).T) if len(flat) else 1.0
    shift = 2.0 * np.sqrt(d) * (span or 1.0)  # one more coordinate keeps the sets apart
    tree = cKDTree(np.column_stack([flat, shift * (there // p)]))
    number = np.repeat(np.arange(nb), queries.shape[1])
    found = there[tree.query(np.column_stack([wanted, shift * number]))[1]]
    return (found - number * p).reshape(nb, -1)
