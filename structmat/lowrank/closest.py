"""Where two clusters touch: the entries of a block in which kernels vary most.

Samples spread over a block miss an error that sits in a corner of it, and so does cross approximation when it looks for
its next row. So the rows and columns whose points are closest to the other cluster are looked at, all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..sources import EntrySource

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
    """The rows and columns of blocks whose points are closest to the other cluster, one for each point.

    Attributes
    ----------
    rows, cols : (nb, a) and (nb, b) int arrays
        Places within the blocks.
    row_counts, col_counts : (nb, a) and (nb, b) int arrays
        How many rows and columns of the block have that point; 0 for places that fill up the arrays.
    """

    rows: IntArray
    cols: IntArray
    row_counts: IntArray
    col_counts: IntArray


def closest(source: EntrySource, rows: IntArray, cols: IntArray) -> Closest | None:
    """Those of blocks at rows (nb, p) and columns (nb, q); None where no clusters touch, or it is not known which do.

    Where many rows or columns share a point, a sample may miss those that do not: of clusters of few points all are
    taken, even if they do not touch.
    """
    where = source.coordinates
    if where is None or where[0].shape[1] != where[1].shape[1]:
        return None
    inside = [index >= 0 for index in (rows, cols)]
    points = [x[np.maximum(index, 0)] for x, index in zip(where, (rows, cols), strict=True)]
    boxes = [
        (np.where(there[:, :, None], x, np.inf).min(axis=1), np.where(there[:, :, None], x, -np.inf).max(axis=1))
        for x, there in zip(points, inside, strict=True)
    ]
    (low, high), (other_low, other_high) = boxes
    gap = np.linalg.norm(np.maximum(0.0, np.maximum(low - other_high, other_low - high)), axis=1)
    diameter = np.maximum(*(np.linalg.norm(b - a, axis=1) for a, b in boxes))
    equal = [_multiplicities(ids, index) for ids, index in zip(source.equal_points, (rows, cols), strict=True)]
    chosen = (diameter > ETA * gap) | (gap == 0.0)
    shared = [_multiplicities(ids, index) for ids, index in zip(source.equal_points, (rows, cols), strict=True)]
    multiples = [there.astype(np.int64) if m is None else m for there, m in zip(inside, shared, strict=True)]
    if any(m is not None for m in shared):
        chosen |= np.logical_and(*((m > 0).sum(axis=1) <= FEWEST for m in multiples))
    if not chosen.any():
        return None
    places, counts = [], []
    for x, many, (a, b) in zip(points, multiples, boxes[::-1], strict=True):
        outside = np.maximum(0.0, np.maximum(a[:, None] - x, x - b[:, None]))
        distance = np.where(many > 0, np.square(outside).sum(axis=2), np.inf)
        count = np.where(chosen, np.minimum(how_many(distance, x.shape[2]), (many > 0).sum(axis=1)), 0)
        order = np.argsort(distance, axis=1, kind="stable")[:, : int(count.max())]
        places.append(order)
        counts.append(np.where(np.arange(order.shape[1]) < count[:, None], np.take_along_axis(many, order, 1), 0))
    return Closest(*places, *counts)


def _multiplicities(ids: IntArray | None, index: IntArray) -> IntArray | None:
    """How many rows of a block (nb, p) have the point of each, at the first of them; 0 at the others and at padding.

    None where all points differ.
    """
    if ids is None:
        return None
    shared = np.where(index >= 0, ids[np.maximum(index, 0)], -1)
    order = np.argsort(shared, axis=1, kind="stable")
    ordered = np.take_along_axis(shared, order, 1)
    first = np.ones_like(ordered, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = np.arange(index.shape[1])
    following = np.where(first, place, index.shape[1])[:, ::-1]
    stops = np.minimum.accumulate(following, axis=1)[:, ::-1]  # the next first place, from each place on
    ends = np.concatenate([stops[:, 1:], np.full((len(index), 1), index.shape[1])], axis=1)
    many = np.where(first & (ordered >= 0), ends - place, 0)
    out = np.zeros_like(many)
    np.put_along_axis(out, order, many, axis=1)
    return out
