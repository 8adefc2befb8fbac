"""Singular values of the blocks of a dense array, on all levels of its quadtree.

From the leaves up: a block needs no more singular values than make it as large as the best that its children offer, so
that most large blocks cost a few steps of a pivoted factorisation only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine import dense
from ..flat.storage import FlatBlocks, by_rank, merged
from ..lowrank.interpolative import factor
from ..tree import ClusterTree
from .quadtree import Costs, Level, Plan, best_at_price, highest_price

CHUNK_NUMBERS = 1 << 22
# the part of the squared error allowed that the singular values may leave unknown
UNKNOWN = 1e-6


class DenseQuadtree:
    """The blocks of an array on a pair of trees, by level.

    Parameters
    ----------
    array : (m, n) array
    row_tree, col_tree : ClusterTree
        Of equal depth.
    half : bool
        The array is Hermitian, and blocks above the diagonal are left out.
    dense_diagonal : bool
        Blocks on the diagonal have no low-rank form.
    """

    def __init__(
        self, array: NumpyArray, row_tree: ClusterTree, col_tree: ClusterTree, *, half: bool, dense_diagonal: bool
    ) -> None:
        self.trees = row_tree, col_tree
        self.half, self.dense_diagonal = half, dense_diagonal
        padded = row_tree.to_leaves(array).reshape(-1, array.shape[1])
        padded = col_tree.to_leaves(np.ascontiguousarray(padded.T)).reshape(-1, len(padded))
        self._tails: list[float] = []
        self.padded = np.ascontiguousarray(padded.T)  # rows and columns in the order of the trees, with padding

    def with_tails_of(self, other: DenseQuadtree) -> DenseQuadtree:
        """The quadtree, ready to build what was planned on the singular values of `other`, on deeper trees."""
        self._tails = other._tails
        return self

    def costs(self, max_rank: int | None = None) -> Costs:
        """What blocks of this array cost in storage."""
        rows, cols = self.trees
        return Costs(self.padded.itemsize, rows.leaf_size, cols.leaf_size, rows.depth, max_rank)

    def blocks(self, level: int, places: IntArray) -> NumpyArray:
        """Copies of some blocks of a level, (nb, p, q)."""
        count = 1 << level
        p, q = (size // count for size in self.padded.shape)
        return self.padded.reshape(count, p, count, q)[places[:, 0], :, places[:, 1], :]

    def _empty_levels(self) -> list[Level]:
        """All blocks of all levels, their singular values unknown."""
        levels = []
        places, parents = np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.int64)
        for _level in range(self.trees[0].depth + 1):
            off_diagonal = places[:, 0] != places[:, 1]
            weights = np.where(off_diagonal & self.half, 2.0, 1.0)
            unknown = np.full(len(places), np.inf)
            levels.append(
                Level(places, parents, np.zeros((len(places), 0)), unknown, weights, np.ones_like(unknown, bool))
            )
            places, parents = quarters(places, self.half)
        return levels

    def levels(self, allowed: float, *, max_rank: int | None, progress: Callable[[float], None]) -> list[Level]:
        """The singular values that a partition with the squared error `allowed` can be about."""
        levels, costs = self._empty_levels(), self.costs(max_rank)
        price = highest_price(costs, allowed)
        self._tails = [0.0] * len(levels)
        for number in range(len(levels) - 1, -1, -1):
            level = levels[number]
            p, q = costs.sides(number)
            share = UNKNOWN * allowed * p * q / self.padded.size  # by area: never more than UNKNOWN together
            caps = np.full(len(level), min(costs.dense(number) // costs.rank(number) + 1, *costs.sides(number)))
            if number + 1 < len(levels):
                below = best_at_price(levels[number + 1 :], _shifted(costs, number + 1), price)[0]
                total = np.bincount(levels[number + 1].parents, below.nbytes + price * below.error, len(level))
                caps = np.minimum(caps, (total // costs.rank(number)).astype(np.int64) + 1)
            if self.dense_diagonal:
                caps[level.places[:, 0] == level.places[:, 1]] = -1
            self._tails[number] = float(np.sqrt(share))
            self._fill(level, number, caps)
            progress(1.0 / (len(levels) + 1))
        return levels

    def _fill(self, level: Level, number: int, caps: IntArray) -> None:
        """The singular values of the blocks of one level, at most caps[b] of each; none where that is negative."""
        wanted = np.flatnonzero(caps >= 0)
        wanted = wanted[np.argsort(caps[wanted], kind="stable")]  # blocks of similar caps together
        values, rest = np.zeros((len(level), int(caps.max(initial=0)))), np.full(len(level), np.inf)
        for part in self._chunks(number, wanted):
            lower, left = self._lower(number, level.places[part], int(caps[part].max()))
            found = singular_values(lower)
            values[part, : found.shape[1]] = found
            rest[part] = left**2
        width = int((values > 0).sum(axis=1).max(initial=0))
        level.values, level.rest = values[:, :width], rest
        level.__post_init__()

    def _chunks(self, number: int, blocks: IntArray) -> list[IntArray]:
        step = max(1, CHUNK_NUMBERS >> max(0, 2 * (self.trees[0].depth - number)))
        step = max(1, step // (self.trees[0].leaf_size * self.trees[1].leaf_size))
        return [blocks[k : k + step] for k in range(0, len(blocks), step)]

    def _lower(self, number: int, places: IntArray, limit: int) -> tuple[NumpyArray, NumpyArray]:
        """Factors (nb, p, k) with the singular values of the blocks, up to a remainder; the norm of that."""
        tail = np.full(len(places), self._tails[number])
        lower, _order, ranks, left = factor(self.blocks(number, places), tail, limit)
        return lower[:, :, : int(ranks.max(initial=0))], left

    # ------------------------------------------------------------------------------------ building

    def build(self, plan: Plan, levels: list[Level]) -> FlatBlocks:
        """The blocks of a plan: copies, and the dominant singular vectors with the block's product."""
        near, far = [], []
        for number, (level, dense_ones, chosen, ranks) in enumerate(
            zip(levels, plan.near, plan.far, plan.ranks, strict=True)
        ):
            places = level.places[dense_ones]
            near.append(BlockBatch(self.blocks(number, places), places[:, 0].copy(), places[:, 1].copy()))
            batches: list[LowRankBatch] = []
            order = np.argsort(ranks, kind="stable")
            for part in self._chunks(number, order):
                # as many steps as for the singular values, so that the errors are those of the plan
                limit = int((level.values[chosen[part]] > 0).sum(axis=1).max(initial=0))
                places = level.places[chosen[part]]
                left, right = self._factors(number, places, ranks[part], limit)
                batches += by_rank(left, right, ranks[part], places[:, 0], places[:, 1])
            far.append(merged(batches))
        return FlatBlocks(tuple(near), tuple(far), self.half)

    def _factors(self, number: int, places: IntArray, ranks: IntArray, limit: int) -> tuple[NumpyArray, NumpyArray]:
        lower, _left = self._lower(number, places, limit)
        width = int(ranks.max(initial=0))
        left = dense.left_singular(lower)[0][:, :, :width] * (np.arange(width) < ranks[:, None, None])
        right = dense.matmul(left.conj().swapaxes(1, 2), self.blocks(number, places)).conj().swapaxes(1, 2)
        return left, np.ascontiguousarray(right)


def quarters(places: IntArray, half: bool) -> tuple[IntArray, IntArray]:
    """The children of blocks and, for each, which block it is a quarter of; with `half` none above the diagonal."""
    from ..partition import children

    below, parents = children(places), np.repeat(np.arange(len(places)), 4)
    kept = below[:, 0] >= below[:, 1] if half else np.ones(len(below), dtype=bool)
    return below[kept], parents[kept]


def singular_values(a: NumpyArray) -> NumpyArray:
    """Singular values of a batch (nb, p, k)."""
    if 0 in a.shape:
        return np.zeros((a.shape[0], min(a.shape[1:])))
    # of the triangular factor, which is small
    small = dense.triangular_factor(a) if a.shape[1] > 2 * a.shape[2] else a
    parts = dense._by_ranges(lambda part: np.linalg.svd(part, compute_uv=False), small)
    return np.concatenate(parts).astype(np.float64)


def _shifted(costs: Costs, level: int) -> Costs:
    """Costs for levels that are counted from `level` on."""
    return Costs(costs.itemsize, costs.row_leaf, costs.col_leaf, costs.depth - level, costs.max_rank)
