"""The same matrix over another block partition of its trees: blocks are cut, written out, or agglomerated.

Where the new block lies inside an old one it is cut out of that exactly. Where it is larger, old blocks are put
together from the leaves up: four children are one block of at most the sum of their ranks, which is recompressed.

Reference: L. Grasedyck, "Adaptive recompression of H-matrices for BEM", Computing 74 (2005) 205-223, for the
agglomeration. Cost O(n k^2 log n).
"""

from __future__ import annotations

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine.dense import matmul
from ..partition import BlockPartition
from .assemble import Piece, assembled, dense_as_low_rank, keys_of
from .storage import FlatBlocks, merged
from .truncate import compress


def repartition(blocks: FlatBlocks, target: BlockPartition, allowed: float) -> tuple[FlatBlocks, float]:
    """The blocks over the partition `target`, both halves stored, and a bound of the Frobenius error.

    The bound is at most `allowed`. Blocks that are no larger than those they come from are exact, and keep their ranks.
    """
    worker = _Repartition(blocks.expanded(), target)
    for level in range(target.depth + 1):
        worker.cut_out(level)
    worker.write_out()
    error = worker.agglomerate(allowed)
    near = tuple(
        BlockBatch(data, b[:, 0].copy(), b[:, 1].copy()) for data, b in zip(worker.near, target.near, strict=True)
    )
    far = tuple(merged(batches) for batches in worker.far)
    return FlatBlocks(near, far), error


def lower_half(blocks: FlatBlocks) -> FlatBlocks:
    """What a Hermitian matrix stores of blocks that are all there."""
    near, far = [], []
    for batch in blocks.near:
        keep = batch.rows >= batch.cols
        near.append(BlockBatch(batch.data[keep], batch.rows[keep], batch.cols[keep]))
    for level in blocks.far:
        kept = [(b, b.rows >= b.cols) for b in level]
        far.append(tuple(LowRankBatch(b.left[k], b.right[k], b.rows[k], b.cols[k]) for b, k in kept if k.any()))
    return FlatBlocks(tuple(near), tuple(far), True)


class _Repartition:
    """Old blocks, the new places, and what has been found for them so far."""

    def __init__(self, source: FlatBlocks, target: BlockPartition) -> None:
        self.source, self.target, self.depth = source, target, target.depth
        self.dtype = source.near[-1].data.dtype
        self.p, self.q = source.near[-1].data.shape[1:]
        self.near = [np.zeros((len(b), *self.shape(level)), self.dtype) for level, b in enumerate(target.near)]
        self.far: list[list[LowRankBatch]] = [[] for _ in target.far]
        # of each new block whether it is done
        self.near_done = [np.zeros(len(b), dtype=bool) for b in target.near]
        self.far_done = [np.zeros(len(b), dtype=bool) for b in target.far]

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of a block of a level."""
        return self.p << (self.depth - level), self.q << (self.depth - level)

    def _batches(self, level: int) -> list[BlockBatch | LowRankBatch]:
        return [*self.source.far[level], self.source.near[level]]

    # ------------------------------------------------------------------- new blocks inside old ones

    def cut_out(self, level: int) -> None:
        """The new blocks of a level that are parts of old ones, or the same."""
        for above in range(level + 1):
            for batch in self._batches(above):
                if len(batch):
                    self._cut_near(batch, above, level)
                    self._cut_far(batch, above, level)

    def _cut_near(self, batch: BlockBatch | LowRankBatch, above: int, level: int) -> None:
        here, slot, row, col = _inside(self.target.near[level], batch, above, level)
        if not len(here):
            return
        if isinstance(batch, BlockBatch):
            self.near[level][here] = self._part(batch.data, slot, row, col, level)
        else:
            left, right = self._factors(batch, slot, row, col, level)
            self.near[level][here] = matmul(left, adjoint(right))
        self.near_done[level][here] = True

    def _cut_far(self, batch: BlockBatch | LowRankBatch, above: int, level: int) -> None:
        places = self.target.far[level]
        here, slot, row, col = _inside(places, batch, above, level)
        if not len(here):
            return
        rows, cols = places[here, 0], places[here, 1]
        if isinstance(batch, BlockBatch):
            part = self._part(batch.data, slot, row, col, level)
            # the values of a dense block that is to be low-rank: at the ranks that they have
            self.far[level] += compress([dense_as_low_rank(BlockBatch(part, rows, cols))], 0.0)[0]
        else:
            self.far[level].append(LowRankBatch(*self._factors(batch, slot, row, col, level), rows, cols))
        self.far_done[level][here] = True

    def _part(self, data: NumpyArray, slot: IntArray, row: IntArray, col: IntArray, level: int) -> NumpyArray:
        p, q = self.shape(level)
        split = data.reshape(len(data), data.shape[1] // p, p, data.shape[2] // q, q)
        return split[slot, row, :, col, :]

    def _factors(
        self, batch: LowRankBatch, slot: IntArray, row: IntArray, col: IntArray, level: int
    ) -> tuple[NumpyArray, NumpyArray]:
        p, q = self.shape(level)
        left = batch.left.reshape(len(batch), -1, p, batch.rank) if batch.rank else None
        right = batch.right.reshape(len(batch), -1, q, batch.rank) if batch.rank else None
        if left is None or right is None:
            return np.zeros((len(slot), p, 0), self.dtype), np.zeros((len(slot), q, 0), self.dtype)
        return left[slot, row], right[slot, col]

    # -------------------------------------------------------------- new dense blocks around old ones

    def write_out(self) -> None:
        """The dense new blocks that are larger than the old blocks in them."""
        for level in range(self.depth):
            waiting = np.flatnonzero(~self.near_done[level])
            if not len(waiting):
                continue
            keys = _keys(self.target.near[level][waiting], level)
            for below in range(level + 1, self.depth + 1):
                for batch in self._batches(below):
                    self._write(batch, below, level, waiting, keys)

    def _write(
        self, batch: BlockBatch | LowRankBatch, below: int, level: int, waiting: IntArray, keys: IntArray
    ) -> None:
        if not len(batch):
            return
        shift = below - level
        mine, here = _found(keys, _keys(np.stack([batch.rows, batch.cols], axis=1) >> shift, level))
        if not len(mine):
            return
        data = batch.data[mine] if isinstance(batch, BlockBatch) else matmul(
            batch.left[mine], adjoint(batch.right[mine])
        )  # fmt: skip
        p, q = self.shape(below)
        split = self.near[level].reshape(len(self.near[level]), 1 << shift, p, 1 << shift, q)
        mask = (1 << shift) - 1
        split[waiting[here], batch.rows[mine] & mask, :, batch.cols[mine] & mask, :] = data

    # ----------------------------------------------------------- new low-rank blocks around old ones

    def agglomerate(self, allowed: float) -> float:
        """The low-rank new blocks that are larger than the old blocks in them; returns a bound of the error."""
        wanted = [
            _keys(b[~done], level) for level, (b, done) in enumerate(zip(self.target.far, self.far_done, strict=True))
        ]
        steps = [level for level in range(1, self.depth + 1) if any(len(w) for w in wanted[:level])]
        carried: list[LowRankBatch] = []
        error = 0.0
        for level in reversed(steps):
            pieces = [*carried, *self._inner(level, wanted[:level])]
            if not pieces:
                carried = []
                continue
            # errors of one level are orthogonal, those of different levels add up
            parents, part = compress(self._merged_up(pieces, level), allowed / len(steps))
            error += part
            carried = self._delivered(parents, level - 1, wanted[level - 1])
        return error

    def _inner(self, level: int, wanted: list[IntArray]) -> list[LowRankBatch]:
        """The old blocks of a level that lie in a wanted block of a level above."""
        result = []
        for batch in self._batches(level):
            if not len(batch):
                continue
            places = np.stack([batch.rows, batch.cols], axis=1)
            inside = np.zeros(len(batch), dtype=np.bool_)
            for above, keys in enumerate(wanted):
                inside = inside | np.isin(_keys(places >> (level - above), above), keys)
            if inside.any():
                pick = np.flatnonzero(inside)
                if isinstance(batch, BlockBatch):
                    result.append(dense_as_low_rank(BlockBatch(batch.data[pick], batch.rows[pick], batch.cols[pick])))
                else:
                    result.append(LowRankBatch(batch.left[pick], batch.right[pick], batch.rows[pick], batch.cols[pick]))
        return result

    def _merged_up(self, batches: list[LowRankBatch], level: int) -> list[LowRankBatch]:
        p, q = self.shape(level)
        pieces = []
        for b in batches:
            keys = _keys(np.stack([b.rows >> 1, b.cols >> 1], axis=1), level - 1)
            pieces.append(Piece(b, keys, (b.rows & 1) * p, (b.cols & 1) * q))
        return assembled(pieces, level - 1, 2 * p, 2 * q)

    def _delivered(self, batches: tuple[LowRankBatch, ...], level: int, wanted: IntArray) -> list[LowRankBatch]:
        """Keep the blocks of a level that are wanted there; the others go on."""
        others: list[LowRankBatch] = []
        for b in batches:
            done = np.isin(keys_of(b, level), wanted)
            for pick, place in ((done, self.far[level]), (~done, others)):
                if pick.any():
                    place.append(LowRankBatch(b.left[pick], b.right[pick], b.rows[pick], b.cols[pick]))
        return others


def _keys(places: IntArray, level: int) -> IntArray:
    return (places[:, 0].astype(np.int64) << level) + places[:, 1]


def _found(keys: IntArray, wanted: IntArray) -> tuple[IntArray, IntArray]:
    """Which of `wanted` are among `keys`, and where there."""
    if not len(keys):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    order = np.argsort(keys)
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    hit = np.flatnonzero(keys[order][at] == wanted)
    return hit, order[at[hit]]


def _inside(
    places: IntArray, batch: BlockBatch | LowRankBatch, above: int, level: int
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """The places that lie in blocks of the batch: which, in which block, and at which row and column of its parts."""
    shift = level - above
    here, slot = _found(keys_of(batch, above), _keys(places >> shift, above))
    mask = (1 << shift) - 1
    return here, slot, places[here, 0] & mask, places[here, 1] & mask
