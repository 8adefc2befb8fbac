"""Putting low-rank blocks together, side by side in one place or as parts of a larger block; pairs of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import concatenated, is_numpy, take, with_columns, zeros_beside
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from .storage import FlatBlocks

# ranks are padded with zeros to multiples of this, so that a batch holds many blocks
STEP = 4


@dataclass(frozen=True)
class Piece:
    """Blocks that are parts of other ones: whose (`keys`, sorted places of a level), and where in them."""

    batch: LowRankBatch
    keys: IntArray  # (nb,) of the block that each is a part of
    row_at: IntArray  # (nb,) first row there
    col_at: IntArray  # (nb,)


def keys_of(batch: BlockBatch | LowRankBatch, level: int) -> IntArray:
    """One number for each place of a level: row node times 2**level plus column node."""
    return (batch.rows.astype(np.int64) << level) + batch.cols


def side_by_side(parts: Sequence[Sequence[LowRankBatch]], level: int) -> list[LowRankBatch]:
    """The sums of blocks that stand in the same places, exactly: factors beside each other."""
    if any(not is_numpy(b.left) for part in parts for b in part):
        return _beside_on_device(parts, level)
    pieces = []
    for batch in (b for part in parts for b in part):
        none = np.zeros(len(batch), dtype=np.int64)
        pieces.append(Piece(batch, keys_of(batch, level), none, none))
    if not pieces:
        return []
    return assembled(pieces, level, pieces[0].batch.left.shape[1], pieces[0].batch.right.shape[1])


def _beside_on_device(parts: Sequence[Sequence[LowRankBatch]], level: int) -> list[LowRankBatch]:
    """One batch for all places, in which each part has the columns of its largest rank."""
    known = [(part, np.concatenate([keys_of(b, level) for b in part])) for part in parts if part]
    keys = np.unique(np.concatenate([found for _part, found in known]))
    factors = []
    for name in ("left", "right"):
        columns = [_at(keys, found, [getattr(b, name) for b in part]) for part, found in known]
        factors.append(concatenated(columns, axis=2))
    rows, cols = np.divmod(keys, 1 << level)
    return [LowRankBatch(factors[0], factors[1], rows, cols)]


def _at(keys: IntArray, found: IntArray, factors: list[Array]) -> Array:
    """Factors (nb, p, k) of blocks at the places `found`, as those of the blocks `keys`: zero where there is none."""
    rank = max(f.shape[2] for f in factors)
    wide = [with_columns(f, rank) for f in factors]
    blocks = concatenated([*wide, zeros_beside((1, *wide[0].shape[1:]), wide[0])])
    index = np.full(len(keys), len(found))
    index[np.searchsorted(keys, found)] = np.arange(len(found))
    return take(blocks, index)


def assembled(pieces: list[Piece], level: int, p: int, q: int) -> list[LowRankBatch]:
    """The blocks (p, q) of a level that are the sums of their pieces; of padded ranks."""
    keys = np.unique(np.concatenate([piece.keys for piece in pieces]))
    cursors = np.zeros(len(keys), dtype=np.int64)
    where, firsts = [], []
    for piece in pieces:  # a piece holds several parts of one block where these have one rank
        index = np.searchsorted(keys, piece.keys)
        turn = occurrence(index)
        where.append(index)
        firsts.append(cursors[index] + turn * piece.batch.rank)
        np.add.at(cursors, index, piece.batch.rank)
    widths = -(-cursors // STEP) * STEP
    dtype = np.result_type(*(piece.batch.left.dtype for piece in pieces))
    batches = []
    for width in np.unique(widths):
        members = np.flatnonzero(widths == width)
        left = np.zeros((len(members), p, width), dtype=dtype)
        right = np.zeros((len(members), q, width), dtype=dtype)
        for piece, index, first in zip(pieces, where, firsts, strict=True):
            here = np.flatnonzero(widths[index] == width)
            _place(piece, here, np.searchsorted(members, index[here]), first[here], left, right)
        rows, cols = np.divmod(keys[members], 1 << level)
        batches.append(LowRankBatch(left, right, rows, cols))
    return batches


def occurrence(index: IntArray) -> IntArray:
    """For each entry how many equal ones come before it."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    turn = np.empty(len(index), dtype=np.int64)
    turn[order] = np.arange(len(index)) - np.searchsorted(ordered, ordered)
    return turn


def _place(piece: Piece, here: IntArray, slots: IntArray, first: IntArray, left: NumpyArray, right: NumpyArray) -> None:
    """Copy some blocks of a piece into the factors of what they are parts of."""
    if not len(here) or not piece.batch.rank:
        return
    k, (p, q) = piece.batch.rank, (piece.batch.left.shape[1], piece.batch.right.shape[1])
    spots = np.stack([first, piece.row_at[here], piece.col_at[here]], axis=1)
    kinds, which = np.unique(spots, axis=0, return_inverse=True)
    for kind, (column, row, col) in enumerate(kinds):
        these = np.flatnonzero(which.ravel() == kind)
        left[slots[these], row : row + p, column : column + k] = piece.batch.left[here[these]]
        right[slots[these], col : col + q, column : column + k] = piece.batch.right[here[these]]


def dense_as_low_rank(batch: BlockBatch) -> LowRankBatch:
    """Dense blocks with a unit factor on their shorter side, exactly; it is zero where the block is padding."""
    data = batch.data
    _, p, q = data.shape
    if q <= p:
        return LowRankBatch(data, _unit_factor(np.any(data, axis=1), data.dtype), batch.rows, batch.cols)
    return LowRankBatch(
        _unit_factor(np.any(data, axis=2), data.dtype), data.conj().swapaxes(1, 2), batch.rows, batch.cols
    )


def _unit_factor(used: NumpyArray, dtype: np.dtype[Any]) -> NumpyArray:
    """Diagonal matrices (nb, q, q) of ones where `used` (nb, q), else zeros."""
    return used[:, :, None] * np.eye(used.shape[1], dtype=dtype)


# --------------------------------------------------------------------------- two matrices, one partition


def same_places(a: FlatBlocks, b: FlatBlocks) -> bool:
    """Whether both have the same dense and the same low-rank blocks."""
    return all(np.array_equal(p, q) for p, q in zip(_all_keys(a), _all_keys(b), strict=True))


def _all_keys(blocks: FlatBlocks) -> list[IntArray]:
    keys = [np.sort(keys_of(b, level)) for level, b in enumerate(blocks.near)]
    return keys + [level_keys(batches, level) for level, batches in enumerate(blocks.far)]


def level_keys(batches: tuple[LowRankBatch, ...], level: int) -> IntArray:
    """The sorted places of the low-rank blocks of a level."""
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *(keys_of(b, level) for b in batches)]))


def alike(a: FlatBlocks, b: FlatBlocks) -> tuple[FlatBlocks, FlatBlocks]:
    """Both stored half where both are, else both in full."""
    return (a, b) if a.half and b.half else (a.expanded(), b.expanded())


def aligned(a: BlockBatch, b: BlockBatch, level: int) -> Array:
    """The dense blocks of b in the order of those of a; both have the same places."""
    mine, its = keys_of(a, level), keys_of(b, level)
    if np.array_equal(mine, its):
        return b.data
    order = np.argsort(its)
    return take(b.data, order[np.searchsorted(its[order], mine)])
