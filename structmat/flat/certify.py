"""Estimates of the error of a matrix of independent blocks against the entries that it was built from.

Stratified: entries are drawn from every low-rank block, so that no bad block is missed. Dense blocks are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import certify
from .._typing import IntArray, NumpyArray
from ..certificate import Certificate
from ..lowrank.closest import FEWEST, nearest
from ..sources import EntrySource
from ..tree import ClusterTree
from .corners import APART, WIDER, corners
from .entries import entry_values

if TYPE_CHECKING:
    from .matrix import FlatMatrix

SAMPLED_ENTRIES = 1 << 16
# rows of a block, and entries in each row: few rows, as an entry source answers row by row
ROWS_PER_BLOCK = 2
ENTRIES_PER_ROW = 4
CORNER_ROWS = 8192
# points of a level whose nearest neighbours are looked for, at most
NEIGHBOUR_POINTS = 1 << 15


def by_entries(
    a: FlatMatrix, source: EntrySource, *, asked: float, norm: float, rng: np.random.Generator, mirrored: bool = False
) -> Certificate:
    """From entries of the source, stratified over the low-rank blocks.

    mirrored: both the matrix and the source are known to be real symmetric, so that one half shows the errors of both.
    """
    return certify.by_entries(
        a, source, lambda: _stratified(a, source, rng, mirrored), strata="the low-rank blocks", asked=asked, norm=norm,
    )  # fmt: skip


def _stratified(a: FlatMatrix, source: EntrySource, rng: np.random.Generator, mirrored: bool) -> tuple[float, float]:
    """Estimate of the squared error of all low-rank blocks, and its standard deviation."""
    blocks = a.blocks
    total, variance = 0.0, 0.0
    half = blocks.half or mirrored
    by_level = []
    for batches in blocks.far:
        places = np.concatenate([np.zeros((0, 2), np.int64), *(np.stack([b.rows, b.cols], axis=1) for b in batches)])
        by_level.append(places[places[:, 0] >= places[:, 1]] if half else places)
    count = sum(len(places) for places in by_level)
    rows_each = max(ROWS_PER_BLOCK, SAMPLED_ENTRIES // (ENTRIES_PER_ROW * max(1, count)))
    corner_rows = CORNER_ROWS // max(1, sum(len(places) > 0 for places in by_level))
    for level, places in enumerate(by_level):
        if not len(places):
            continue
        weights = np.where((places[:, 0] != places[:, 1]) & half, 2.0, 1.0)
        repeated = np.repeat(places, rows_each, axis=0), np.repeat(weights, rows_each)
        part, spread = _sampled(a, source, level, *repeated, rows_each, rng)
        corner = in_corners(a, source, level, places, weights, corner_rows, rng, entry_values)
        # what neighbours show is part of what the others estimate, unless they have missed it
        total += max(part + corner, among_neighbours(a, source, level, places, weights, corner_rows, rng.spawn(1)[0]))
        variance += spread
    return total, float(np.sqrt(variance))


def _sampled(
    a: FlatMatrix, source: EntrySource, level: int, place: IntArray, weights: NumpyArray, rows_each: int,
    rng: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    """Squared error of the blocks of one level, and its variance; each block appears `rows_each` times in `place`."""
    row, row_size = _draw(a.row_tree, level, place[:, 0], rng)
    stretch = np.tile(np.arange(ENTRIES_PER_ROW), len(place))
    col, col_size = _draw(a.col_tree, level, np.repeat(place[:, 1], ENTRIES_PER_ROW), rng, stretch)
    i = np.broadcast_to(a.row_tree.perm[row][:, None], (len(place), ENTRIES_PER_ROW))
    j = a.col_tree.perm[col].reshape(i.shape)
    error = np.abs(source.pairs(i, j) - entry_values(a, i.ravel(), j.ravel()).reshape(i.shape)) ** 2
    by_row = (error * col_size.reshape(i.shape)).mean(axis=1) * row_size * weights
    by_block = by_row.reshape(-1, rows_each)
    spread = by_block.var(axis=1, ddof=1) / rows_each
    return float(by_block.mean(axis=1).sum()), float(spread.sum())


def in_corners(
    a: Any, source: EntrySource, level: int, place: IntArray, weights: NumpyArray, rows: int,
    rng: np.random.Generator, entries: Callable[[Any, IntArray, IntArray], NumpyArray],
) -> float:  # fmt: skip
    """Squared error where clusters touch, from some rows of each corner: of a wider one where there are few blocks.

    place (nb, 2): compressed blocks of one level; weights (nb,): how often each stands in the matrix; rows: how many
    to look at; entries: the `entry_values` of the format.
    """
    each = max(1, rows // len(place))
    wider = WIDER if each >= WIDER * FEWEST else 1
    each //= wider  # of longer rows, fewer
    found = corners(a.row_tree, a.col_tree, level, place, wider)
    counts = np.diff(found.bounds.reshape(-1, 2, 2), axis=2)[:, :, 0]  # (nb, 2) rows and columns of the corners
    touching = np.flatnonzero(counts[:, 0])
    if not len(touching):
        return 0.0
    drawn = np.minimum(each, counts[touching, 0])  # rows of each corner, one in each of as many equal stretches
    block, drawn_of = np.repeat(touching, drawn), np.repeat(drawn, drawn)
    turn = np.arange(len(block)) - np.repeat(drawn.cumsum() - drawn, drawn)
    position = ((turn + rng.random(len(block))) * counts[block, 0] / drawn_of).astype(np.int64)
    row = a.row_tree.starts(level)[place[block, 0]] + found.rows[found.bounds[block, 0] + position]
    # corners differ in width: the first column again, with no weight
    slot = np.arange(counts[touching, 1].max())
    inside = slot < counts[block, 1][:, None]
    at = found.bounds[block, 2][:, None] + np.where(inside, slot, 0)
    col = a.col_tree.starts(level)[place[block, 1]][:, None] + found.cols[at]
    j = a.col_tree.perm[col]
    i = np.broadcast_to(a.row_tree.perm[row][:, None], j.shape)
    error = np.abs(source.pairs(i, j) - entries(a, i.ravel(), j.ravel()).reshape(i.shape)) ** 2
    share = counts[block, 0] / drawn_of
    return float(((error * inside).sum(axis=1) * share * weights[block]).sum())


def among_neighbours(
    a: FlatMatrix, source: EntrySource, level: int, place: IntArray, weights: NumpyArray, rows: int,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """Squared error at some rows of blocks whose clusters touch, at the nearest point of the column cluster.

    On a line these are in the corners. Arguments as of `in_corners`.
    """
    row_tree, col_tree = a.row_tree, a.col_tree
    size = int(col_tree.sizes(level).max())
    if row_tree.coordinates.shape[1] == 1 or size > NEIGHBOUR_POINTS:
        return 0.0
    touching = np.flatnonzero(~APART(row_tree, col_tree, level, place[:, 0], place[:, 1]))
    some = rng.permutation(touching)[: max(1, NEIGHBOUR_POINTS // size)]
    if not len(some):
        return 0.0
    nodes, across = place[some].T
    sizes = row_tree.sizes(level)[nodes]
    drawn = int(min(max(1, rows // len(some)), sizes.min()))
    offset = (np.arange(drawn) + rng.random((len(some), drawn))) * sizes[:, None] / drawn
    row = row_tree.starts(level)[nodes][:, None] + offset.astype(np.int64)
    slots = np.arange(size)
    inside = slots < col_tree.sizes(level)[across][:, None]
    position = np.minimum(col_tree.starts(level)[across][:, None] + slots, col_tree.n - 1)
    found = nearest(col_tree.coordinates[position], inside, row_tree.coordinates[row])
    i = row_tree.perm[row].ravel()
    j = col_tree.perm[np.take_along_axis(position, found, 1)].ravel()
    error = np.abs(source.pairs(i[:, None], j[:, None])[:, 0] - entry_values(a, i, j)) ** 2
    by_block = error.reshape(row.shape).mean(axis=1) * sizes * weights[some]
    return float(by_block.sum()) * len(touching) / len(some)


def _draw(
    tree: ClusterTree, level: int, node: IntArray, rng: np.random.Generator, stretch: IntArray | None = None
) -> tuple[IntArray, IntArray]:
    """A random sorted position in each node (in one of its equal stretches), and the size of the node."""
    start, size = tree.starts(level)[node], tree.sizes(level)[node]
    share = rng.random(len(node)) if stretch is None else (stretch + rng.random(len(node))) / ENTRIES_PER_ROW
    return start + np.minimum((share * size).astype(np.int64), size - 1), size
