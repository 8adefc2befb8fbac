"""Coarsening: a partition with fewer and larger blocks, where that takes less storage at the same error.

An admissibility condition knows the boxes of the clusters, not the matrix. From the leaves up, each dense block off the
diagonal is tried as a low-rank one, and four low-rank blocks as one. With the singular values of all forms, dynamic
programming (`quadtree`) chooses the cheapest partition, and the error allowed is spent, over all blocks, where it saves
most.

Reference: L. Grasedyck, "Adaptive recompression of H-matrices for BEM", Computing 74 (2005) 205-223. Departure: which
blocks are merged is decided for one error of the whole matrix. Cost O(n k^2 log n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import parallel_tasks, thread_count
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine import cpu_coarsen, cpu_fused
from ..flat.leaves import find_keys
from ..flat.storage import FlatBlocks, FlatStorage
from .quadtree import Costs, Level, Plan, _chosen, best_at_price, distributed

# the part of the error allowed that merging itself may make; the choice of ranks has the rest
DROP_SHARE = 0.3
# ranks that a merged block is tried with, as a part of those of its four; of a dense block, of its rows
MERGED_SHARE, DENSE_SHARE = 0.65, 0.45
# steps of the search for the price, and how well the error has to be met at it
STEPS, CLOSE = 8, 0.1
TASKS_PER_THREAD = 16


@dataclass
class _Forms:
    """What is known of the blocks of one level, which are sorted by their keys."""

    keys: IntArray
    places: IntArray  # (nb, 2)
    low_rank: IntArray  # (nb, 2): in the buffer of the matrix (0) or in the pool (1), and the start there
    ranks: IntArray  # -1: no low-rank form
    rests: NumpyArray  # squared errors of the low-rank forms
    squares: NumpyArray  # (nb, k) squared singular values
    dense: IntArray  # index of the dense block, -1: none
    pool: NumpyArray


def coarsened(
    blocks: FlatBlocks, row_size: int, col_size: int, allowed: float, *, mirrored: bool = False
) -> FlatBlocks:
    """The same matrix with blocks merged, at a Frobenius error of `allowed`, estimated as if errors were orthogonal.

    Parameters
    ----------
    blocks : FlatBlocks
        In double precision; left factors orthonormal, right ones orthogonal.
    row_size, col_size : int
        Padded sizes of the leaves.
    allowed : float
        Absolute, of the whole matrix. Where not even merging keeps to it, the blocks are returned as they are.
    mirrored : bool
        The blocks are the lower half of a real symmetric matrix; of the result, both halves are stored.
    """
    storage = FlatStorage(blocks, row_size, col_size)
    worker = _Coarsening(storage, allowed, mirrored)
    for level in range(blocks.depth, -1, -1):
        worker.find_forms(level)
    plan = worker.plan()
    if plan is None:
        return blocks.expanded() if mirrored else blocks
    return worker.build(plan)


class _Coarsening:
    def __init__(self, storage: FlatStorage, allowed: float, mirrored: bool) -> None:
        packed = storage.packed()[0]
        self.blocks, self.buffer, self.table = storage.parts[0], packed.buffer, packed.table
        self.depth, self.allowed, self.mirrored = self.blocks.depth, allowed, mirrored
        self.costs = Costs(self.buffer.itemsize, storage.row_size, storage.col_size, self.depth)
        self.level_of = self.depth - np.log2(self.table[:, 4] // storage.row_size).astype(np.int64)
        self.forms: list[_Forms] = []
        self.half = self.blocks.half or mirrored
        # squared errors go by the storage of a rank, as in `flat.build.block_tails`
        counts = np.bincount(self.level_of, minlength=self.depth + 1)
        total = sum(2 * counts[level] * self.costs.rank(level) for level in range(self.depth + 1))
        self.tails = [DROP_SHARE * allowed * np.sqrt(self.costs.rank(level) / total) for level in range(self.depth + 1)]

    # ------------------------------------------------------------------------------------ the forms

    def find_forms(self, level: int) -> None:
        """The low-rank forms of all blocks of a level; those of the level below are known."""
        p, q = self.costs.sides(level)
        here = np.flatnonzero(self.level_of == level)
        rows, cols = self.table[here, 2] // p, self.table[here, 3] // q
        keys = (rows << level) + cols
        if self.forms:
            below = self.forms[-1]
            divided = np.unique((below.places[:, 0] >> 1 << level) + (below.places[:, 1] >> 1))
            keys, here = np.append(keys, divided), np.append(here, np.full(len(divided), -1))
        order = np.argsort(keys)
        keys, here = keys[order], here[order]
        known = here >= 0
        ranks = np.where(known, self.table[here, 1], -1)
        forms = _Forms(
            keys, np.stack([keys >> level, keys & ((1 << level) - 1)], axis=1),
            np.stack([np.zeros(len(keys), dtype=np.int64), self.table[here, 0]], axis=1),
            ranks, np.where(ranks >= 0, 0.0, np.inf), np.zeros((len(keys), 0)),
            np.full(len(keys), -1), np.empty(0, dtype=self.buffer.dtype),
        )  # fmt: skip
        dense = np.flatnonzero(known & (ranks < 0))
        near = self.blocks.near[level]
        forms.dense[dense] = _positions((near.rows << level) + near.cols, keys[dense])
        self._stored(forms, np.flatnonzero(ranks >= 0), p, q)
        if level == self.depth:
            self._from_dense(forms, level, near.data)
        elif self.forms:
            self._merged(forms, level, np.flatnonzero(~known))
        self.forms.append(forms)

    def _stored(self, forms: _Forms, pick: IntArray, p: int, q: int) -> None:
        """The singular values of the low-rank blocks that there are."""
        ranks, starts = forms.ranks[pick], forms.low_rank[pick, 1].copy()
        squares = np.zeros((len(pick), int(ranks.max(initial=0))))
        _in_pieces(lambda a, b: cpu_coarsen.squares_of(self.buffer, starts, ranks, p, q, squares, a, b), len(pick))
        self._set_squares(forms, pick, squares)

    def _from_dense(self, forms: _Forms, level: int, data: NumpyArray) -> None:
        """Low-rank forms of the dense blocks off the diagonal."""
        p, q = self.costs.sides(level)
        limit = int(DENSE_SHARE * min(p, q))
        pick = np.flatnonzero((forms.dense >= 0) & (forms.places[:, 0] != forms.places[:, 1]))
        which, starts = forms.dense[pick], limit * (p + q) * np.arange(len(pick))
        ranks, rests = np.zeros(len(pick), dtype=np.int64), np.zeros(len(pick))
        squares = np.zeros((len(pick), limit))
        out = np.empty(len(pick) * limit * (p + q), dtype=self.buffer.dtype)
        _in_pieces(
            lambda a, b: cpu_coarsen.dense_as_low_rank(
                data, which, self.tails[level], limit, starts, out, ranks, rests, squares, a, b
            ),
            len(pick),
        )
        self._found(forms, pick, ranks, rests, squares, starts, out)

    def _merged(self, forms: _Forms, level: int, divided: IntArray) -> None:
        """Low-rank forms of the divided blocks off the diagonal, where all four of their parts have one."""
        p, q = self.costs.sides(level + 1)
        below = self.forms[-1]
        divided = divided[forms.places[divided, 0] != forms.places[divided, 1]]
        corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
        places = 2 * forms.places[divided][:, None] + np.array(corners)
        children = find_keys(below.keys, ((places[:, :, 0] << (level + 1)) + places[:, :, 1]).ravel()).reshape(-1, 4)
        child_ranks = below.ranks[children]
        fit = (children >= 0).all(axis=1) & (child_ranks >= 0).all(axis=1)
        pick, children, child_ranks = divided[fit], children[fit], child_ranks[fit]
        limits = np.maximum(1, (MERGED_SHARE * child_ranks.sum(axis=1)).astype(np.int64))
        sizes = limits * 2 * (p + q)
        starts = np.cumsum(sizes) - sizes
        ranks, rests = np.zeros(len(pick), dtype=np.int64), np.zeros(len(pick))
        squares = np.zeros((len(pick), int(limits.max(initial=1))))
        out = np.empty(int(sizes.sum()), dtype=self.buffer.dtype)
        low_rank = below.low_rank[children]
        _in_pieces(
            lambda a, b: cpu_coarsen.merge_blocks(
                self.buffer, below.pool, low_rank, child_ranks, p, q, self.tails[level], limits, starts, out, ranks,
                rests, squares, a, b,
            ),
            len(pick),
        )  # fmt: skip
        self._found(forms, pick, ranks, rests + below.rests[children].sum(axis=1), squares, starts, out)

    def _found(
        self, forms: _Forms, pick: IntArray, ranks: IntArray, rests: NumpyArray, squares: NumpyArray, starts: IntArray,
        pool: NumpyArray,
    ) -> None:  # fmt: skip
        good = ranks >= 0
        pick = pick[good]
        forms.ranks[pick], forms.rests[pick], forms.pool = ranks[good], rests[good], pool
        forms.low_rank[pick] = np.stack([np.ones(len(pick), dtype=np.int64), starts[good]], axis=1)
        self._set_squares(forms, pick, squares[good])

    def _set_squares(self, forms: _Forms, pick: IntArray, squares: NumpyArray) -> None:
        wide = np.zeros((len(forms.keys), max(squares.shape[1], forms.squares.shape[1])))
        wide[:, : forms.squares.shape[1]] = forms.squares
        wide[pick, : squares.shape[1]] = squares
        forms.squares = wide

    # ----------------------------------------------------------------------------------- the choice

    def plan(self) -> Plan | None:
        """The cheapest partition and ranks; None where what merging has lost in it is more than is allowed.

        And None for matrices so small that squares of errors underflow.
        """
        if self.allowed**2 < np.finfo(np.float64).tiny:
            return None
        self.forms.reverse()  # from the root down, from here on
        levels = []
        for number, forms in enumerate(self.forms):
            parents = np.zeros(len(forms.keys), dtype=np.int64)
            if number:
                rows, cols = forms.places.T
                parents = find_keys(self.forms[number - 1].keys, (rows >> 1 << (number - 1)) + (cols >> 1))
            weights = np.where((forms.places[:, 0] != forms.places[:, 1]) & self.half, 2.0, 1.0)
            values = np.sqrt(forms.squares)
            levels.append(Level(forms.places, parents, values, forms.rests, weights, forms.dense >= 0))
        allowed = self.allowed**2
        price = 0.5 * sum(self.costs.rank(level) for level in self.level_of) / allowed
        for _step in range(STEPS):
            choices = best_at_price(levels, self.costs, price)
            error = float(choices[0].error.sum())
            if abs(error / allowed - 1.0) < CLOSE or error == 0.0:
                break
            price *= error / allowed  # what is left out goes about as the inverse of the price
        pairs = list(_chosen(levels, choices))
        return distributed(levels, [far for far, _ in pairs], [near for _, near in pairs], self.costs, allowed)

    # ------------------------------------------------------------------------------------ the result

    def build(self, plan: Plan) -> FlatBlocks:
        """The blocks of the plan in one buffer."""
        total = 0
        for level in range(self.depth + 1):
            p, q = self.costs.sides(level)
            dense = self._arranged(self.forms[level].places[plan.near[level]], 0, 1)[0]
            total += int(plan.ranks[level].sum()) * (2 if self.mirrored else 1) * (p + q) + len(dense) * p * q
        buffer = np.empty(total, dtype=self.buffer.dtype)
        cursor, far = 0, []
        near: list[BlockBatch] = []
        for level in range(self.depth + 1):
            batches, cursor = self._far(level, plan, buffer, cursor)
            blocks, cursor = self._near(level, plan, buffer, cursor)
            far.append(batches)
            near.append(blocks)
        return FlatBlocks(tuple(near), tuple(far), self.blocks.half and not self.mirrored, buffer)

    def _far(self, level: int, plan: Plan, buffer: NumpyArray, cursor: int) -> tuple[tuple[LowRankBatch, ...], int]:
        forms, pick, keep = self.forms[level], plan.far[level], plan.ranks[level].astype(np.int64)
        p, q = self.costs.sides(level)
        targets, opposite = np.zeros(len(pick), dtype=np.int64), np.full(len(pick), -1, dtype=np.int64)
        batches = []
        for rank in np.unique(keep):
            group = np.flatnonzero(keep == rank)
            places, order, at = self._arranged(forms.places[pick[group]], cursor, int(rank) * (p + q))
            targets[group] = at[: len(group)]
            if self.mirrored:
                opposite[group] = at[len(group) :]
            size = int(rank) * (p + q)
            view = buffer[cursor : cursor + len(order) * size].reshape(len(order), size)
            left = view[:, : rank * p].reshape(len(order), rank, p).swapaxes(1, 2)
            right = view[:, rank * p :].reshape(len(order), rank, q).swapaxes(1, 2)
            batches.append(LowRankBatch(left, right, places[order, 0], places[order, 1]))
            cursor += view.size
        have, blocks = forms.ranks[pick], forms.low_rank[pick]
        _in_pieces(
            lambda a, b: cpu_coarsen.place_blocks(
                self.buffer, forms.pool, blocks, have, keep, p, q, targets, opposite, buffer, a, b
            ),
            len(pick),
        )
        return tuple(batches), cursor

    def _near(self, level: int, plan: Plan, buffer: NumpyArray, cursor: int) -> tuple[BlockBatch, int]:
        forms, pick = self.forms[level], plan.near[level]
        p, q = self.costs.sides(level)
        places, order, at = self._arranged(forms.places[pick], 0, 1)
        view = buffer[cursor : cursor + len(order) * p * q].reshape(len(order), p, q)
        data, which = self.blocks.near[level].data, forms.dense[pick]
        _in_pieces(lambda a, b: cpu_coarsen.copy_blocks(data, which, at, view, a, b), len(pick))
        if self.mirrored:
            off = np.flatnonzero(forms.places[pick, 0] != forms.places[pick, 1])
            source, target = at[off], at[len(pick) :]
            _in_pieces(lambda a, b: cpu_fused.mirror_blocks(view, source, target, view, a, b), len(off))
        return BlockBatch(view, places[order, 0], places[order, 1]), cursor + view.size

    def _arranged(self, places: IntArray, cursor: int, size: int) -> tuple[IntArray, IntArray, IntArray]:
        """All places of some blocks and their mirror images, the order by row and column, and where each one goes."""
        if self.mirrored:
            off = places[places[:, 0] != places[:, 1]]
            places = np.concatenate([places, off[:, ::-1]])
        order = np.lexsort((places[:, 1], places[:, 0]))
        at = np.empty(len(order), dtype=np.int64)
        at[order] = cursor + size * np.arange(len(order))
        return places, order, at


def _positions(keys: IntArray, wanted: IntArray) -> IntArray:
    """The position of each wanted key, all of which are there."""
    order = np.argsort(keys)
    return order[find_keys(keys[order], wanted)]


def _in_pieces(work: Callable[[int, int], Any], count: int) -> None:
    """Call work(first, last) on pieces that the threads take in turn: blocks take unequal times."""
    pieces = min(count, TASKS_PER_THREAD * thread_count())
    cuts = [count * k // pieces for k in range(pieces + 1)] if pieces else [0]
    parallel_tasks(lambda k: work(cuts[k], cuts[k + 1]), len(cuts) - 1)
