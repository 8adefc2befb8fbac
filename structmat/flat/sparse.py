"""The blocks of a sparse matrix: dense ones filled in, low-rank ones from their nonzero rows and columns, exactly.

The nonzeros of a block are covered by lines: each entry belongs to its row or to its column, whichever holds more of
the block's entries. A row is a unit vector times the row, a column the column times a unit vector, so that the rank is
the number of lines: one for a long row or column, the corner of the band for a banded matrix.

Reference for covers and ranks: D. Koenig's theorem, by which the least number of lines is the structural rank; counting
entries is a heuristic for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..partition import BlockPartition
from .storage import FlatBlocks


@dataclass(frozen=True)
class _Entries:
    """Nonzeros, each place once: slots in the padded leaves, and values."""

    rows: IntArray
    cols: IntArray
    values: NumpyArray

    def where(self, mask: NumpyArray) -> _Entries:
        return _Entries(self.rows[mask], self.cols[mask], self.values[mask])


def sparse_blocks(s: Any, partition: BlockPartition, *, half: bool) -> FlatBlocks:
    """The blocks of a sparse matrix in coordinate form (duplicates summed); `partition` has the stored blocks."""
    depth = partition.depth
    p, q = partition.row_tree.leaf_size, partition.col_tree.leaf_size
    entries = _Entries(partition.row_tree.leaf_slots[s.row], partition.col_tree.leaf_slots[s.col], s.data)
    near, far = [], []
    for level in range(depth + 1):
        sides = p << (depth - level), q << (depth - level)
        near.append(_near(entries, partition.near[level], sides, level))
        far.append(_far(entries, partition.far[level], sides, level))
    return FlatBlocks(tuple(near), tuple(far), half)


def _located(entries: _Entries, places: IntArray, sides: tuple[int, int], level: int) -> tuple[_Entries, IntArray]:
    """The entries in some blocks of a level, by their rows and columns there, and the block of each."""
    keys = (places[:, 0].astype(np.int64) << level) + places[:, 1]
    order = np.argsort(keys)
    wanted = ((entries.rows // sides[0]) << level) + entries.cols // sides[1]
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    inside = keys[order][at] == wanted
    found = entries.where(inside)
    return _Entries(found.rows % sides[0], found.cols % sides[1], found.values), order[at[inside]]


def _near(entries: _Entries, places: IntArray, sides: tuple[int, int], level: int) -> BlockBatch:
    data = np.zeros((len(places), *sides), dtype=entries.values.dtype)
    if len(places):
        found, block = _located(entries, places, sides, level)
        data[block, found.rows, found.cols] = found.values
    return BlockBatch(data, places[:, 0].copy(), places[:, 1].copy())


def _far(entries: _Entries, places: IntArray, sides: tuple[int, int], level: int) -> tuple[LowRankBatch, ...]:
    if not len(places):
        return ()
    found, block = _located(entries, places, sides, level)
    by_row = _lines(found, block)
    # the lines of each block: its rows, then its columns
    position = np.where(by_row, found.rows, sides[0] + found.cols)
    key = block * (sides[0] + sides[1]) + position
    lines, line_of = np.unique(key, return_inverse=True)
    owner, place = np.divmod(lines, sides[0] + sides[1])
    ranks = np.bincount(owner, minlength=len(places))
    number = np.arange(len(lines)) - (np.cumsum(ranks) - ranks)[owner]  # of each line in its block
    batches = []
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        slot = np.full(len(places), -1)
        slot[members] = np.arange(len(members))
        left = np.zeros((len(members), sides[0], rank), dtype=entries.values.dtype)
        right = np.zeros((len(members), sides[1], rank), dtype=entries.values.dtype)
        mine = np.flatnonzero(slot[owner] >= 0)
        is_row = mine[place[mine] < sides[0]]
        is_col = mine[place[mine] >= sides[0]]
        left[slot[owner[is_row]], place[is_row], number[is_row]] = 1
        right[slot[owner[is_col]], place[is_col] - sides[0], number[is_col]] = 1
        held = slot[block] >= 0
        for chosen, factor, index, values in (
            (held & by_row, right, found.cols, found.values.conj()), (held & ~by_row, left, found.rows, found.values),
        ):  # fmt: skip
            factor[slot[block[chosen]], index[chosen], number[line_of[chosen]]] = values[chosen]
        batches.append(LowRankBatch(left, right, places[members, 0], places[members, 1]))
    return tuple(batches)


def _lines(found: _Entries, block: IntArray) -> NumpyArray:
    """Of each entry whether it belongs to its row: the better, block by block, of three covers."""
    row_key, row_count = _counts(block, found.rows)
    col_key, col_count = _counts(block, found.cols)
    count = int(block.max(initial=-1)) + 1
    covers = [row_count >= col_count, np.ones(len(block), dtype=bool), np.zeros(len(block), dtype=bool)]
    sizes = np.stack([_line_count(block, row_key, col_key, cover, count) for cover in covers])
    best = sizes.argmin(axis=0)
    return np.choose(best[block], covers) if len(block) else covers[0]


def _counts(block: IntArray, index: IntArray) -> tuple[IntArray, IntArray]:
    """A number for the line of each entry, and how many entries the line has."""
    key = block * (int(index.max(initial=0)) + 1) + index
    _, line, count = np.unique(key, return_inverse=True, return_counts=True)
    return line, count[line]


def _line_count(block: IntArray, rows: IntArray, cols: IntArray, by_row: NumpyArray, count: int) -> IntArray:
    total = np.zeros(count, dtype=np.int64)
    for lines, mask in ((rows, by_row), (cols, ~by_row)):
        _, first = np.unique(lines[mask], return_index=True)
        total += np.bincount(block[mask][first], minlength=count)
    return total
