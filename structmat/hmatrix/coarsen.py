"""Coarsening: a partition with fewer and larger blocks, where that takes less storage at the same error.

An admissibility condition knows the boxes of the clusters, not the matrix. From the leaves up, each dense block off the
diagonal is tried as a low-rank one, and four low-rank blocks as one. With the singular values of all forms, dynamic
programming (`quadtree`) chooses the cheapest partition, and the error allowed is spent, over all blocks, where it saves
most.

Reference: L. Grasedyck, "Adaptive recompression of H-matrices for BEM", Computing 74 (2005) 205-223. Departure: which
blocks are merged is decided for one error of the whole matrix. Cost O(n k^2 log n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .._backend import parallel_pieces, parallel_tasks
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine import cpu_coarsen, cpu_fused
from ..flat.layout import LevelFactors, arranged, low_rank_layout, place
from ..flat.leaves import find_keys
from ..flat.storage import FlatBlocks
from .quadtree import Costs, Level, Plan, _chosen, best_at_price, distributed

# the part of the error allowed that merging itself may make; the choice of ranks has the rest
DROP_SHARE = 0.3
# ranks that a merged block is tried with, as a part of those of its four; of a dense block, of its rows
MERGED_SHARE, DENSE_SHARE = 0.65, 0.45
# steps of the search for the price, and how well the error has to be met at it
STEPS, CLOSE = 8, 0.1
# dense blocks looked at together: few enough to stay in the cache
TOGETHER = 32


class Supply(Protocol):
    """Blocks that are to be merged, in double precision: low-rank ones as they are, dense ones where asked for.

    Attributes
    ----------
    depth, row_size, col_size, dtype
        Level of the leaves, padded sizes of the leaves, type of the numbers.
    half : bool
        The blocks below the diagonal stand for those above it too.
    near : sequence of (nb, 2) int arrays
        The places of the dense blocks of each level.
    far : list of LevelFactors
    """

    depth: int
    row_size: int
    col_size: int
    dtype: np.dtype[Any]
    half: bool
    near: Sequence[IntArray]
    far: list[LevelFactors]

    def dense(self, level: int, which: IntArray) -> NumpyArray:
        """Some of the dense blocks of a level, in an array of their own."""

    def place_dense(self, level: int, which: IntArray, targets: IntArray, out: NumpyArray) -> None:
        """The same, written to out[targets]."""

    def stored(self) -> FlatBlocks:
        """All blocks."""


@dataclass
class _Forms:
    """What is known of the blocks of one level, which are sorted by their keys."""

    keys: IntArray
    places: IntArray  # (nb, 2)
    given: NumpyArray  # (nb,) bool: whether the low-rank form was there before; else it is in the pool
    starts: IntArray  # of the low-rank form
    ranks: IntArray  # -1: no low-rank form
    rests: NumpyArray  # squared errors of the low-rank forms
    squares: NumpyArray  # (nb, k) squared singular values
    dense: IntArray  # index of the dense block, -1: none
    factors: NumpyArray  # those given
    pool: NumpyArray  # those found


def coarsened(supply: Supply, allowed: float, *, mirrored: bool = False) -> FlatBlocks:
    """The same matrix with blocks merged, at a Frobenius error of `allowed`, estimated as if errors were orthogonal.

    Parameters
    ----------
    supply : Supply
        Its factors are given up on the way: each is needed until its level has been written.
    allowed : float
        Absolute, of the whole matrix. Where not even merging keeps to it, the blocks are returned as they are.
    mirrored : bool
        The blocks are the lower half of a real symmetric matrix; of the result, both halves are stored.
    """
    worker = _Coarsening(supply, allowed, mirrored)
    for level in range(supply.depth, -1, -1):
        worker.find_forms(level)
    plan = worker.plan()
    if plan is None:
        return supply.stored().expanded() if mirrored else supply.stored()
    return worker.build(plan)


class _Coarsening:
    def __init__(self, supply: Supply, allowed: float, mirrored: bool) -> None:
        self.supply, self.depth, self.allowed, self.mirrored = supply, supply.depth, allowed, mirrored
        self.costs = Costs(supply.dtype.itemsize, supply.row_size, supply.col_size, self.depth)
        self.forms: list[_Forms] = []
        # squared errors go by the storage of a rank, as in `flat.build.block_tails`
        counts = [len(far) + len(near) for far, near in zip(supply.far, supply.near, strict=True)]
        self.bytes_of_ranks = sum(count * self.costs.rank(level) for level, count in enumerate(counts))
        self.tails = [
            DROP_SHARE * allowed * np.sqrt(self.costs.rank(level) / (2 * self.bytes_of_ranks))
            for level in range(self.depth + 1)
        ]

    # ------------------------------------------------------------------------------------ the forms

    def find_forms(self, level: int) -> None:
        """The low-rank forms of all blocks of a level; those of the level below are known."""
        far, near = self.supply.far[level], self.supply.near[level]
        known = np.concatenate([far.places, near])
        keys, rank = (known[:, 0] << level) + known[:, 1], np.append(far.ranks, np.full(len(near), -1))
        start = np.append(far.starts, np.zeros(len(near), dtype=np.int64))
        dense = np.append(np.full(len(far), -1), np.arange(len(near)))
        if self.forms:
            below = self.forms[-1].places >> 1
            divided = np.unique((below[:, 0] << level) + below[:, 1])
            none = np.full(len(divided), -1)
            keys, rank, start, dense = (
                np.append(a, b) for a, b in ((keys, divided), (rank, none), (start, none), (dense, none))
            )
        order = np.argsort(keys)
        keys, rank, start, dense = keys[order], rank[order], start[order], dense[order]
        forms = _Forms(
            keys, np.stack([keys >> level, keys & ((1 << level) - 1)], axis=1), rank >= 0, start, rank,
            np.where(rank >= 0, 0.0, np.inf), np.zeros((len(keys), 0)), dense, far.factors,
            np.empty(0, dtype=self.supply.dtype),
        )  # fmt: skip
        self._given(forms, level)
        if level == self.depth:
            self._from_dense(forms, level)
        elif self.forms:
            self._merged(forms, level, np.flatnonzero((rank < 0) & (dense < 0)))
        self.forms.append(forms)

    def _given(self, forms: _Forms, level: int) -> None:
        """The singular values of the low-rank blocks that there are."""
        pick = np.flatnonzero(forms.given)
        ranks, starts = forms.ranks[pick], forms.starts[pick]
        squares = np.zeros((len(pick), int(ranks.max(initial=0))))
        sides = self.costs.sides(level)
        parallel_pieces(
            lambda a, b: cpu_coarsen.squares_of(forms.factors, starts, ranks, *sides, squares, a, b), len(pick)
        )
        self._set_squares(forms, pick, squares)

    def _from_dense(self, forms: _Forms, level: int) -> None:
        """Low-rank forms of the dense blocks off the diagonal."""
        p, q = self.costs.sides(level)
        limit = int(DENSE_SHARE * min(p, q))
        pick = np.flatnonzero((forms.dense >= 0) & (forms.places[:, 0] != forms.places[:, 1]))
        which, tail = forms.dense[pick], self.tails[level]
        found = _Found(len(pick), limit, len(pick) * limit * (p + q), self.supply.dtype)

        def work(k: int) -> None:
            here = slice(TOGETHER * k, TOGETHER * (k + 1))
            data = self.supply.dense(level, which[here])
            cpu_coarsen.dense_as_low_rank(data, tail, limit, found.pool, found.cursor, *found.part(here))

        parallel_tasks(work, -(-len(pick) // TOGETHER))
        self._keep(forms, pick, found)

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
        found = _Found(len(pick), int(limits.max(initial=1)), 2 * (p + q) * int(limits.sum()), self.supply.dtype)
        given, starts = below.given[children], below.starts[children]

        def work(first: int, last: int) -> None:
            here = slice(first, last)
            cpu_coarsen.merge_blocks(
                below.factors, below.pool, given[here], starts[here], child_ranks[here], p, q, self.tails[level],
                limits[here], found.pool, found.cursor, *found.part(here),
            )  # fmt: skip

        parallel_pieces(work, len(pick))
        found.rests += below.rests[children].sum(axis=1)
        self._keep(forms, pick, found)

    def _keep(self, forms: _Forms, pick: IntArray, found: _Found) -> None:
        good = found.ranks >= 0
        pick, forms.pool = pick[good], found.pool
        forms.ranks[pick], forms.rests[pick], forms.starts[pick] = (
            found.ranks[good], found.rests[good], found.starts[good],
        )  # fmt: skip
        self._set_squares(forms, pick, found.squares[good])

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
            weights = np.where((forms.places[:, 0] != forms.places[:, 1]) & self.supply.half, 2.0, 1.0)
            values = np.sqrt(forms.squares)
            levels.append(Level(forms.places, parents, values, forms.rests, weights, forms.dense >= 0))
        allowed = self.allowed**2
        price = 0.5 * self.bytes_of_ranks / allowed
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
        buffer = np.empty(sum(self._size(plan, level) for level in range(self.depth + 1)), dtype=self.supply.dtype)
        near, far, stop = [], [], len(buffer)
        for level in range(self.depth, -1, -1):  # most of what is given up on the way is at the leaves
            cursor = stop - self._size(plan, level)
            batches, dense_at = self._far(level, plan, buffer, cursor)
            far.append(batches)
            near.append(self._near(level, plan, buffer[dense_at:stop]))
            stop = cursor
        half = self.supply.half and not self.mirrored
        return FlatBlocks(tuple(near[::-1]), tuple(far[::-1]), half, buffer)

    def _size(self, plan: Plan, level: int) -> int:
        """The numbers that a level takes."""
        p, q = self.costs.sides(level)
        dense = len(arranged(self.forms[level].places[plan.near[level]], 0, 1, mirrored=self.mirrored)[0])
        return int(plan.ranks[level].sum()) * (2 if self.mirrored else 1) * (p + q) + dense * p * q

    def _far(self, level: int, plan: Plan, buffer: NumpyArray, cursor: int) -> tuple[tuple[LowRankBatch, ...], int]:
        """The low-rank blocks of a level from `cursor` on; and the first place behind them."""
        forms, pick, keep = self.forms[level], plan.far[level], plan.ranks[level].astype(np.int64)
        sides = self.costs.sides(level)
        layout = low_rank_layout(buffer, cursor, forms.places[pick], keep, *sides, mirrored=self.mirrored)
        for factors, here in ((forms.factors, forms.given[pick]), (forms.pool, ~forms.given[pick])):
            old = pick[here]
            place(
                factors, forms.starts[old], forms.ranks[old], keep[here], *sides, layout.targets[here],
                layout.mirrored[here], buffer,
            )  # fmt: skip
        forms.factors = forms.pool = self.supply.far[level].factors = np.empty(0, dtype=buffer.dtype)
        return layout.batches, layout.stop

    def _near(self, level: int, plan: Plan, room: NumpyArray) -> BlockBatch:
        """The dense blocks of a level, in all the room."""
        forms, pick = self.forms[level], plan.near[level]
        p, q = self.costs.sides(level)
        places, order, at = arranged(forms.places[pick], 0, 1, mirrored=self.mirrored)
        view, which = room.reshape(len(order), p, q), forms.dense[pick]
        parallel_pieces(lambda a, b: self.supply.place_dense(level, which[a:b], at[a:b], view), len(pick))
        if self.mirrored:
            off = np.flatnonzero(forms.places[pick, 0] != forms.places[pick, 1])
            source, target = at[off], at[len(pick) :]
            parallel_pieces(lambda a, b: cpu_fused.mirror_blocks(view, source, target, view, a, b), len(off))
        return BlockBatch(view, places[order, 0], places[order, 1])


class _Found:
    """Low-rank forms of some blocks, as they are found: in any order in the pool, -1 where there is none."""

    def __init__(self, count: int, limit: int, room: int, dtype: np.dtype[Any]) -> None:
        self.starts, self.ranks = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        self.rests, self.squares = np.zeros(count), np.zeros((count, limit))
        # room for the largest ranks: memory that nothing is written to costs nothing
        self.pool, self.cursor = np.empty(room, dtype=dtype), np.zeros(1, dtype=np.int64)

    def part(self, here: slice) -> tuple[NumpyArray, ...]:
        """What the kernels say of some of the blocks."""
        return self.starts[here], self.ranks[here], self.rests[here], self.squares[here]
