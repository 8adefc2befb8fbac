"""The cheapest partition of a matrix at a given error: a Lagrangian, and dynamic programming over its quadtree.

With the singular values of the blocks at hand, each block is a low-rank one of the best rank, a dense one, or its four
children, whichever has the smallest `bytes + price * squared error`. For one price that is decided from the leaves up,
exactly. Bisection finds the price at which the squared errors of all blocks together are what is allowed; what the
steps of the search leave of it is given to the singular values that are the dearest for their size.

Reference: L. Grasedyck, W. Hackbusch, S. Le Borne, "Adaptive geometrically balanced clustering of H-matrices",
Computing 73 (2004) 1-23, coarsen bottom-up by the same comparison of bytes, at a fixed tolerance of each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray

# bytes of the two integers that say where a block acts
PLACE_BYTES = 16
LOW_RANK, DENSE, SPLIT = 0, 1, 2
# steps of the bisection for the price, and the factors about it that are tried too
STEPS = 40
NEIGHBOURS = tuple(2.0 ** (k / 4) for k in range(-8, 5))
# singular values beyond the first that does not fit which are tried for what is left of the error allowed
FILLERS = 256


@dataclass
class Level:
    """Blocks of one level whose singular values are known.

    Attributes
    ----------
    places : (nb, 2) int array
        Row node and column node.
    parents : (nb,) int array
        Index of the block of the level above that each one is a quarter of.
    values : (nb, k) array
        Singular values, falling, zero beyond those that are known.
    rest : (nb,) array
        The squared norm of what they leave out; infinite where there is no low-rank form.
    weights : (nb,) array
        How often the block stands in the matrix: 2 below the diagonal of a Hermitian one.
    dense : (nb,) bool array
        Whether it may be stored as a dense block.
    """

    places: IntArray
    parents: IntArray
    values: NumpyArray
    rest: NumpyArray
    weights: NumpyArray
    dense: NumpyArray

    def __post_init__(self) -> None:
        squares = np.zeros((len(self.places), self.values.shape[1] + 1))
        squares[:, :-1] = np.cumsum(self.values[:, ::-1] ** 2, axis=1)[:, ::-1]
        self.tails = squares + self.rest[:, None]  # (nb, k + 1), squared error at each rank

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Costs:
    """What numbers cost: bytes of one, sides of the leaves, and the largest rank that is allowed."""

    itemsize: int
    row_leaf: int
    col_leaf: int
    depth: int
    max_rank: int | None = None

    def sides(self, level: int) -> tuple[int, int]:
        """Rows and columns of a block of a level, padding included."""
        return self.row_leaf << (self.depth - level), self.col_leaf << (self.depth - level)

    def dense(self, level: int) -> int:
        """Bytes of a dense block of a level."""
        p, q = self.sides(level)
        return self.itemsize * p * q + PLACE_BYTES

    def rank(self, level: int) -> int:
        """Bytes of one more rank of a block of a level."""
        return self.itemsize * sum(self.sides(level))


@dataclass(frozen=True)
class Plan:
    """A partition with ranks: by level the low-rank blocks, as indices into `Level`, their ranks, the dense blocks."""

    far: tuple[IntArray, ...]
    ranks: tuple[IntArray, ...]
    near: tuple[IntArray, ...]
    nbytes: int
    error: float  # squared

    @property
    def far_count(self) -> int:
        """Number of low-rank blocks."""
        return sum(len(b) for b in self.far)

    @property
    def near_count(self) -> int:
        """Number of dense blocks."""
        return sum(len(b) for b in self.near)

    @property
    def all_ranks(self) -> IntArray:
        """The ranks of all low-rank blocks."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self.ranks])


@dataclass(frozen=True)
class _Choice:
    """For each block of a level the best form at one price, and what it costs with all that is below it."""

    form: IntArray
    nbytes: NumpyArray
    error: NumpyArray


def best_at_price(levels: list[Level], costs: Costs, price: float) -> list[_Choice]:
    """The forms that minimise bytes + price * squared error, by level; cost O(number of singular values)."""
    choices: list[_Choice] = []
    for number in range(len(levels) - 1, -1, -1):
        level = levels[number]
        forms = [_low_rank_form(level, number, costs, price), _dense_form(level, number, costs)]
        if choices:
            below = choices[-1]
            parents = levels[number + 1].parents
            sums = [np.bincount(parents, a, minlength=len(level)) for a in (below.nbytes, below.error)]
            missing = np.bincount(parents, minlength=len(level)) == 0
            forms.append((np.where(missing, np.inf, sums[0]), sums[1]))
        total = np.stack([nbytes + price * error for nbytes, error in forms])
        # equal costs: the coarser form, which stands first
        form = total.argmin(axis=0)
        pick = np.arange(len(level))
        nbytes, error = (np.stack([f[k] for f in forms])[form, pick] for k in (0, 1))
        choices.append(_Choice(form, nbytes, error))
    return choices[::-1]


def _low_rank_form(level: Level, number: int, costs: Costs, price: float) -> tuple[NumpyArray, NumpyArray]:
    worth = price * level.weights[:, None] * level.values**2 > costs.rank(number)
    ranks = worth.sum(axis=1)
    if costs.max_rank is not None:
        ranks = np.minimum(ranks, costs.max_rank)
    tails = np.take_along_axis(level.tails, ranks[:, None], axis=1)[:, 0]
    possible = np.isfinite(tails)
    nbytes = np.where(possible, ranks * costs.rank(number) + PLACE_BYTES, np.inf)
    return nbytes, level.weights * np.where(possible, tails, 0.0)


def _dense_form(level: Level, number: int, costs: Costs) -> tuple[NumpyArray, NumpyArray]:
    return np.where(level.dense, costs.dense(number), np.inf), np.zeros(len(level))


def _chosen(levels: list[Level], choices: list[_Choice]) -> Iterator[tuple[IntArray, IntArray]]:
    """From the root down, the low-rank and the dense blocks of each level that the choices lead to."""
    alive = np.ones(len(levels[0]), dtype=bool)
    for number, choice in enumerate(choices):
        yield np.flatnonzero(alive & (choice.form == LOW_RANK)), np.flatnonzero(alive & (choice.form == DENSE))
        if number + 1 < len(levels):
            alive = (alive & (choice.form == SPLIT))[levels[number + 1].parents]


def distributed(
    levels: list[Level], far: list[IntArray], near: list[IntArray], costs: Costs, allowed: float
) -> Plan | None:
    """The ranks of least storage on one partition: singular values go in the order of their squares by their bytes.

    None where even the full ranks leave more than the squared error `allowed`.
    """
    picked, cap = [(number, b) for number, b in enumerate(far) if len(b)], costs.max_rank
    spent, squares, prices, owners, offset = 0.0, [], [], [], 0
    for number, b in picked:
        level = levels[number]
        values = level.weights[b, None] * level.values[b, :cap] ** 2
        spent += float((level.weights[b] * level.tails[b, values.shape[1]]).sum())
        at = np.nonzero(values)
        squares.append(values[at])
        prices.append(squares[-1] / costs.rank(number))
        owners.append(offset + at[0])
        offset += len(b)
    if spent > allowed:
        return None
    ranks = np.zeros(offset, dtype=np.int64)
    if squares:
        square, owner = np.concatenate(squares), np.concatenate(owners)
        order = np.argsort(np.concatenate(prices), kind="stable")
        left_out = spent + np.cumsum(square[order])
        dropped = int(np.searchsorted(left_out, allowed, side="right"))
        spent = float(left_out[dropped - 1]) if dropped else spent
        kept, spent = _filled(square, owner, order[dropped:], spent, allowed)
        ranks = np.bincount(owner[kept], minlength=offset)
    return _plan(levels, far, near, ranks, costs, spent)


def _filled(
    square: NumpyArray, owner: IntArray, kept: IntArray, spent: float, allowed: float
) -> tuple[IntArray, float]:
    """Of the singular values kept, those that stay when what is left of the error is filled with some that fit."""
    stay, closed = np.ones(len(kept), dtype=bool), set()
    for position, item in enumerate(kept[:FILLERS]):
        block = int(owner[item])
        # a block loses its smallest value first
        if block not in closed and spent + square[item] <= allowed:
            stay[position], spent = False, spent + float(square[item])
        else:
            closed.add(block)
    return kept[stay], spent


def _plan(
    levels: list[Level], far: list[IntArray], near: list[IntArray], ranks: IntArray, costs: Costs, error: float
) -> Plan:
    """The plan; low-rank blocks that would be larger than dense ones become such."""
    by_level = np.split(ranks, np.cumsum([len(b) for b in far])[:-1])
    nbytes, plan = 0, []
    for number, (level, b, k, d) in enumerate(zip(levels, far, by_level, near, strict=True)):
        large = (k * costs.rank(number) + PLACE_BYTES > costs.dense(number)) & level.dense[b]
        error -= float((level.weights[b] * level.tails[b, k])[large].sum())
        plan.append((b[~large], k[~large], np.sort(np.append(d, b[large]))))
        nbytes += int(k[~large].sum()) * costs.rank(number) + int((~large).sum()) * PLACE_BYTES
        nbytes += len(plan[-1][2]) * costs.dense(number)
    chosen, kept, dense = zip(*plan, strict=True)
    return Plan(chosen, kept, dense, nbytes, max(error, 0.0))


def cheapest(levels: list[Level], costs: Costs, allowed: float, *, steps: int = STEPS) -> Plan:
    """The partition and the ranks of least storage whose squared error is at most `allowed`.

    Optimal for the convex hull of storage against error; between its corners, where a partition may happen to fill the
    error allowed better, the best of a few neighbours and of the partitions by siblings is taken.
    """
    high = highest_price(costs, allowed)
    low = high * 1e-12
    for _step in range(steps):
        middle = np.sqrt(low) * np.sqrt(high)  # their product may overflow
        if high < 1.01 * low:
            break
        if best_at_price(levels, costs, middle)[0].error.sum() <= allowed:
            high = middle
        else:
            low = middle
    plans = []
    for pairs in (*(list(_chosen(levels, best_at_price(levels, costs, high * f))) for f in NEIGHBOURS), *_weak(levels)):
        plan = distributed(levels, [f for f, _ in pairs], [d for _, d in pairs], costs, allowed)
        plans += [] if plan is None else [plan]
    return min(plans, key=lambda plan: (plan.nbytes, plan.far_count + plan.near_count))


def _weak(levels: list[Level]) -> Iterator[list[tuple[IntArray, IntArray]]]:
    """The partitions by siblings with dense blocks on the diagonal of one level, for each level that has all blocks."""
    pairs: list[tuple[IntArray, IntArray]] = []
    nothing = np.zeros(0, dtype=np.int64)
    for number, level in enumerate(levels):
        rows, cols = level.places.T
        siblings, diagonal = np.flatnonzero(rows ^ 1 == cols), np.flatnonzero(rows == cols)
        if (
            len(diagonal) < 1 << number
            or len(siblings) < (1 << number) >> 1
            or not np.isfinite(level.rest[siblings]).all()
        ):
            return
        yield [*pairs, (siblings, diagonal), *[(nothing, nothing)] * (len(levels) - number - 1)]
        pairs.append((siblings, nothing))


def highest_price(costs: Costs, allowed: float) -> float:
    """The price, bytes for a unit of squared error, at which no partition has more than half the error allowed.

    No block's error then costs more than its dense form, so all of them together have at most half the budget.
    """
    p, q = costs.sides(0)
    return 2.0 * (costs.itemsize + PLACE_BYTES / (costs.row_leaf * costs.col_leaf)) * p * q / max(allowed, 1e-300)
