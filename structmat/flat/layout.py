"""Where the blocks of one level go in the flat buffer, and copies to there from where they were computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import parallel_pieces
from .._typing import IntArray, NumpyArray
from ..blocks import LowRankBatch
from ..engine import cpu_fused
from .storage import FlatBlocks, FlatStorage


@dataclass
class LevelFactors:
    """Low-rank blocks of one level, each as it will stand in the flat buffer, in any order.

    Attributes
    ----------
    places : (nb, 2) int array
        Row node and column node.
    ranks, starts : (nb,) int arrays
        A block is left^T (rank, p) with orthonormal rows, then right^T (rank, q), whose rows are as long as the
        singular values, from its start in `factors` on; leaves are padded.
    factors : array
    """

    places: IntArray
    ranks: IntArray
    starts: IntArray
    factors: NumpyArray

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class LowRankLayout:
    """Where low-rank blocks of one level go, and the batches that they are there.

    targets, mirrored: (nb,) starts of the blocks and of their mirror images, -1 where there are none. stop: the first
    place behind them.
    """

    batches: tuple[LowRankBatch, ...]
    targets: IntArray
    mirrored: IntArray
    stop: int


def arranged(places: IntArray, cursor: int, size: int, *, mirrored: bool) -> tuple[IntArray, IntArray, IntArray]:
    """All places of blocks of one size and of their mirror images, their order by row and column, and their starts."""
    if mirrored:
        off = places[places[:, 0] != places[:, 1]]
        places = np.concatenate([places, off[:, ::-1]])
    order = np.lexsort((places[:, 1], places[:, 0]))
    at = np.empty(len(order), dtype=np.int64)
    at[order] = cursor + size * np.arange(len(order))
    return places, order, at


def low_rank_layout(
    buffer: NumpyArray, cursor: int, places: IntArray, ranks: IntArray, p: int, q: int, *, mirrored: bool
) -> LowRankLayout:
    """The layout of blocks (p, q), none of them on the diagonal, from `cursor` on: by rank, then row and column."""
    targets, images = np.zeros(len(places), dtype=np.int64), np.full(len(places), -1, dtype=np.int64)
    batches = []
    for rank in np.unique(ranks).tolist():
        group, size = np.flatnonzero(ranks == rank), rank * (p + q)
        every, order, at = arranged(places[group], cursor, size, mirrored=mirrored)
        targets[group] = at[: len(group)]
        if mirrored:
            images[group] = at[len(group) :]
        view = buffer[cursor : cursor + len(order) * size].reshape(len(order), size)
        left = view[:, : rank * p].reshape(len(order), rank, p).swapaxes(1, 2)
        right = view[:, rank * p :].reshape(len(order), rank, q).swapaxes(1, 2)
        batches.append(LowRankBatch(left, right, every[order, 0], every[order, 1]))
        cursor += view.size
    return LowRankLayout(tuple(batches), targets, images, cursor)


def place(
    factors: NumpyArray, starts: IntArray, have: IntArray, keep: IntArray, p: int, q: int, targets: IntArray,
    mirrored: IntArray, buffer: NumpyArray,
) -> None:  # fmt: skip
    """Copy the first `keep` of the `have` ranks of each block to where they go in the buffer."""
    parallel_pieces(
        lambda a, b: cpu_fused.place_blocks(factors, starts, have, keep, p, q, targets, mirrored, buffer, a, b),
        len(starts),
    )


class StoredBlocks:
    """Blocks that are in memory, as a supply; left factors orthonormal, right ones orthogonal."""

    def __init__(self, blocks: FlatBlocks, row_size: int, col_size: int) -> None:
        storage = FlatStorage(blocks, row_size, col_size)
        packed = storage.packed()[0]
        self._blocks, self.depth, self.half = storage.parts[0], blocks.depth, blocks.half
        self.row_size, self.col_size, self.dtype = row_size, col_size, blocks.dtype
        self.near = [np.stack([b.rows, b.cols], axis=1) for b in self._blocks.near]
        level_of = self.depth - np.log2(packed.table[:, 4] // row_size).astype(np.int64)
        self.far = []
        for level in range(self.depth + 1):
            starts, ranks, *corner = packed.table[(level_of == level) & (packed.table[:, 1] >= 0), :4].T
            places: IntArray = np.stack(corner, axis=1) // (np.array([row_size, col_size]) << (self.depth - level))
            self.far.append(LevelFactors(places, ranks, starts, packed.buffer))

    def dense(self, level: int, which: IntArray) -> NumpyArray:
        """Some of the dense blocks of a level, in an array of their own."""
        return self._blocks.near[level].data[which]

    def place_dense(self, level: int, which: IntArray, targets: IntArray, out: NumpyArray) -> None:
        """The same, written to out[targets]."""
        out[targets] = self._blocks.near[level].data[which]

    def stored(self) -> FlatBlocks:
        """All blocks."""
        return self._blocks
