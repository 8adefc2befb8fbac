"""The product of two matrices of independent blocks, level by level, with accumulators.

Reference: S. Boerm, "Hierarchical matrix arithmetic with accumulated updates", Comput. Vis. Sci. 20 (2019) 71-84. All
that is added to a block is collected as a list of low-rank terms, which is truncated once; a block that is subdivided
hands its sum down to its children.

A B = sum over k of P_ik Q_jk^H with P = A and Q = B^H. A level treats all triples (i, k, j) as integer arrays. Where a
factor is a block of low rank, the other one is applied to its panel, and where both are dense they are a term as they
are; where both are subdivided, the triple is replaced by its eight children. Departure from the reference: where that
happens below a target of low rank, the target is subdivided for the time being, and its parts are put together
afterwards, from the leaves up (agglomeration), so that all errors are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .._backend import real_dtype
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..certificate import Certificate
from ..partition import BlockPartition
from .accumulate import TERM_COLUMNS, Pool, Truncated, dense_sums, terms_of, truncated_sums
from .build import block_tails
from .leaves import block_keys, dense_at_leaves, find_keys, joined_near, leaf_partition, without_padding
from .norms import frobenius
from .panels import CORNERS, Operand, operations_of, run
from .storage import FlatBlocks, merged

if TYPE_CHECKING:
    from .matrix import FlatMatrix

# attempts, should the norm of the product have been estimated too high
ATTEMPTS = 3
# multiples of the machine precision below which sums of products carry nothing but rounding
ROUNDING = 64
NORM_PROBES = 32
# of the tolerance, which the blocks are truncated to: the norm of the product is an estimate
SHARE = 0.8
# numbers of all panels that are in memory at a time
PANEL_NUMBERS = 1 << 24
# of the allowed error, for sums that are truncated on the way and not in their final place
SHARE_ON_THE_WAY = 0.3

_EIGHT = np.array([[i, k, j] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class _Targets:
    """The blocks of the product on one level, leaves of its partition or not, sorted by key."""

    rows: IntArray
    cols: IntArray
    inside: NumpyArray  # whether the block is part of a larger block of low rank
    far: NumpyArray  # whether it is a block of low rank
    near: NumpyArray  # or a dense one
    split: NumpyArray  # whether both factors of a product for it are subdivided

    @property
    def merging(self) -> NumpyArray:
        """Blocks of low rank, or parts of one, that are put together from children."""
        return (self.inside | self.far) & self.split

    @property
    def handing(self) -> NumpyArray:
        """Blocks that hand their sum down to their children."""
        return ~(self.inside | self.far | self.near)


@dataclass
class _Kept:
    """Sums that are in the pool: offsets and ranks by target."""

    left: IntArray
    right: IntArray
    rank: IntArray

    @classmethod
    def empty(cls, count: int) -> _Kept:
        return cls(*(np.zeros(count, dtype=np.int64) for _ in range(3)))


@dataclass
class _Product:
    """What is known of a product while it is being formed."""

    p: Operand
    q: Operand
    pool: Pool
    partition: BlockPartition
    final_tails: list[float]  # by level, of a block of low rank
    way_tail: float  # of all sums of a level that are not final
    targets: list[_Targets] = field(default_factory=list)
    kept: list[_Kept] = field(default_factory=list)
    far: list[list[LowRankBatch]] = field(default_factory=list)
    near: list[BlockBatch] = field(default_factory=list)
    final_square: float = 0.0
    way_errors: list[float] = field(default_factory=list)  # of each stage of sums that are not final

    @property
    def error(self) -> float:
        """A bound of the Frobenius error of everything that was left out."""
        return float(np.sqrt(self.final_square) + sum(self.way_errors))


def multiply(a: FlatBlocks, b: FlatBlocks, partition: BlockPartition, allowed: float) -> tuple[FlatBlocks, float]:
    """The product in the given partition, with an error of about `allowed`, and a bound of the actual one.

    Blocks that are dense above the leaves are taken apart, and put together in the end.
    """
    dtype = np.result_type(a.near[-1].data, b.near[-1].data)
    pool = Pool(np.dtype(dtype), 3 * (_numbers(a) + _numbers(b)))  # the operands, panels and sums
    p, q = (Operand(dense_at_leaves(m.expanded()), pool) for m in (a, b.expanded().adjoint()))
    fine, coarse = leaf_partition(partition)
    tails = block_tails(fine, (1.0 - SHARE_ON_THE_WAY) * allowed)
    way = SHARE_ON_THE_WAY * allowed / (2 * partition.depth + 1)
    product = _Product(p, q, pool, fine, tails, way)
    _down(product)
    _up(product)
    far = tuple(merged(batches) for batches in product.far)
    blocks = FlatBlocks(joined_near(_concatenated(product), coarse, p.row_size, q.row_size), far)
    return without_padding(blocks, partition.row_tree, partition.col_tree), product.error


def _numbers(blocks: FlatBlocks) -> int:
    stored = blocks.nbytes // blocks.near[-1].data.itemsize
    return max(1, stored * (2 if blocks.half else 1))


# ------------------------------------------------------------------------------ down the levels


def _down(product: _Product) -> None:
    """Level by level: which products there are, what they add to their targets, and what is handed down."""
    depth = product.partition.depth
    triples = np.zeros((1, 3), dtype=np.int64)
    rows = cols = np.zeros(1, dtype=np.int64)
    inside = np.zeros(1, dtype=bool)
    inherited = np.zeros((0, TERM_COLUMNS), dtype=np.int64)
    for level in range(depth + 1):
        found_p = product.p.find(level, triples[:, 0], triples[:, 1])
        found_q = product.q.find(level, triples[:, 2], triples[:, 1])
        ending = (found_p >= 0) | (found_q >= 0)
        on = triples[~ending]
        targets = _targets(product.partition, level, rows, cols, inside, on)
        product.targets.append(targets)
        product.kept.append(_Kept.empty(len(targets.rows)))
        product.far.append([])
        keys, found = block_keys(level, rows, cols), (found_p[ending], found_q[ending])
        _end(product, level, _Products.of(product, level, triples[ending], found, keys), inherited)
        if level == depth:
            break
        triples = (2 * on[:, None, :] + _EIGHT).reshape(-1, 3)
        rows, cols, inside, inherited = _handed_down(product, level)


def _targets(
    partition: BlockPartition, level: int, rows: IntArray, cols: IntArray, inside: NumpyArray, on: IntArray
) -> _Targets:
    keys = block_keys(level, rows, cols)

    def has(places: IntArray) -> NumpyArray:
        return (find_keys(np.sort(block_keys(level, places[:, 0], places[:, 1])), keys) >= 0) & ~inside

    split = find_keys(np.unique(block_keys(level, on[:, 0], on[:, 2])), keys) >= 0
    return _Targets(rows, cols, inside, has(partition.far[level]), has(partition.near[level]), split)


def _handed_down(product: _Product, level: int) -> tuple[IntArray, IntArray, NumpyArray, IntArray]:
    """The targets of the next level, and the sums that they inherit, as terms."""
    targets, kept = product.targets[level], product.kept[level]
    parents = np.flatnonzero(targets.handing | targets.merging)
    rows, cols = ((2 * n[parents, None] + CORNERS[:, k]).ravel() for k, n in enumerate((targets.rows, targets.cols)))
    inside = np.repeat(targets.merging[parents], 4)
    order = np.argsort(block_keys(level + 1, rows, cols))
    place = np.empty(len(order), dtype=np.int64)  # of each child in the sorted order
    place[order] = np.arange(len(order))
    p, q = product.p.size(level + 1)[0], product.q.size(level + 1)[0]
    heirs = np.flatnonzero(np.repeat(targets.handing[parents] & (kept.rank[parents] > 0), 4))
    parent, corner = parents[heirs // 4], CORNERS[heirs % 4]
    rank = kept.rank[parent]
    left, right = kept.left[parent] + corner[:, 0] * p * rank, kept.right[parent] + corner[:, 1] * q * rank
    terms = terms_of(place[heirs], (left, right), rank, (0, p, 0, q))
    return rows[order], cols[order], inside[order], terms


@dataclass(frozen=True)
class _Products:
    """The products P_ik Q_jk^H of a level in which one factor at least is not subdivided, sorted by target."""

    target: IntArray
    triples: IntArray  # (i, k, j)
    found: tuple[IntArray, IntArray]  # the index of each factor among the blocks of its level, or -1
    rank: tuple[IntArray, IntArray]  # -1: dense, -2: subdivided

    @property
    def by_p(self) -> NumpyArray:
        """P is of low rank, and Q applied to its right factor: the rank is that of P."""
        return np.asarray((self.rank[0] >= 0) & ((self.rank[1] < 0) | (self.rank[0] <= self.rank[1])))

    @property
    def by_q(self) -> NumpyArray:
        """Q is of low rank, and P applied to its right factor."""
        return ~self.by_p & (self.rank[1] >= 0)

    def __getitem__(self, part: slice) -> _Products:
        found, rank = ((a[part], b[part]) for a, b in (self.found, self.rank))
        return _Products(self.target[part], self.triples[part], found, rank)

    @classmethod
    def of(
        cls, product: _Product, level: int, triples: IntArray, found: tuple[IntArray, IntArray], keys: IntArray
    ) -> _Products:
        """For triples of which one factor is not subdivided, and the keys of all targets."""
        target = find_keys(keys, block_keys(level, triples[:, 0], triples[:, 2]))
        ranks = []
        for operand, at in zip((product.p, product.q), found, strict=True):
            known = np.append(operand.levels[level].rank, -2)  # the last one is what -1 points to
            ranks.append(known[at])
        order = np.argsort(target, kind="stable")
        return cls(
            target[order], triples[order], (found[0][order], found[1][order]), (ranks[0][order], ranks[1][order])
        )


def _end(product: _Product, level: int, products: _Products, inherited: IntArray) -> None:
    """Add all products of a level to their targets and truncate the sums; as many targets at a time as fit."""
    count = len(product.targets[level].rows)
    p, q = product.p.size(level)[0], product.q.size(level)[0]
    numbers = np.where(products.by_p, products.rank[0] * q, np.where(products.by_q, products.rank[1] * p, 0))
    begin = np.searchsorted(products.target, np.arange(count + 1))
    total = np.concatenate([[0], np.cumsum(numbers)])[begin]
    first = 0
    while first < count:
        last = max(first + 1, int(np.searchsorted(total, total[first] + PANEL_NUMBERS, side="right")) - 1)
        mark = product.pool.used
        terms = _terms(product, level, products[begin[first] : begin[last]])
        heirs = inherited[(inherited[:, 0] >= first) & (inherited[:, 0] < last)]
        _settle(product, level, np.concatenate([heirs, terms]), first, last, mark)
        first = last


def _terms(product: _Product, level: int, products: _Products) -> IntArray:
    """The terms of some products; panels are computed at the end of the pool."""
    p, q = product.p, product.q
    size = p.size(level)[0], q.size(level)[0]
    result, tables = [], []
    for side, chosen in enumerate((products.by_p, products.by_q)):
        pick = np.flatnonzero(chosen & (products.rank[side] > 0))
        low, other = ((p, q), (q, p))[side]
        block, k = products.found[side][pick], products.rank[side][pick]
        numbers = k * size[1 - side]
        panel = product.pool.zeros(int(numbers.sum())) + np.cumsum(numbers) - numbers
        row, col = products.triples[pick, 2 - 2 * side], products.triples[pick, 1]
        tables.append(operations_of(other, level, row, col, low.levels[level].right[block], panel, k))
        left = low.levels[level].left[block]
        factors = (left, panel) if side == 0 else (panel, left)
        result.append(terms_of(products.target[pick], factors, k, (0, size[0], 0, size[1])))
    run(product.pool, tables)
    both = np.flatnonzero(~products.by_p & ~products.by_q)  # two dense blocks
    dense = [m.levels[level].left[f[both]] for m, f in zip((p, q), products.found, strict=True)]
    inner = np.full(len(both), p.col_size, dtype=np.int64)
    result.append(terms_of(products.target[both], (dense[0], dense[1]), inner, (0, size[0], 0, size[1])))
    return np.concatenate(result)


def _settle(product: _Product, level: int, terms: IntArray, first: int, last: int, mark: int) -> None:
    """Truncate or add up the sums of the targets first .. last - 1; panels beyond `mark` are forgotten."""
    targets, pool = product.targets[level], product.pool
    shape = product.p.size(level)[0], product.q.size(level)[0]
    terms = terms.copy()
    terms[:, 0] -= first
    count = last - first
    near = np.flatnonzero(targets.near[first:last])
    if len(near):
        data = dense_sums(pool, _of_blocks(terms, near, count), len(near), shape)
        product.near.append(BlockBatch(data, targets.rows[near + first], targets.cols[near + first]))
    final = targets.far[first:last] & ~targets.split[first:last]
    results = []
    for pick, is_final in ((np.flatnonzero(final), True), (np.flatnonzero(~final & ~targets.near[first:last]), False)):
        tails = _tails(product, level, targets, len(pick), is_final)
        done = truncated_sums(pool, _of_blocks(terms, pick, count), len(pick), shape, tails, optimal=is_final)
        results.append((pick + first, done))
    pool.release(mark)
    _finish(product, level, *results[0])
    _keep(product, level, *results[1], stage=level)


def _of_blocks(terms: IntArray, pick: IntArray, count: int) -> IntArray:
    """The terms of some blocks, which are numbered anew."""
    number = np.full(count, -1, dtype=np.int64)
    number[pick] = np.arange(len(pick))
    mine = terms[number[terms[:, 0]] >= 0]
    mine[:, 0] = number[mine[:, 0]]
    return mine


def _tails(product: _Product, level: int, targets: _Targets, count: int, is_final: bool) -> NumpyArray:
    tail = product.final_tails[level] if is_final else product.way_tail / np.sqrt(max(1, len(targets.rows)))
    return np.full(count, tail)


def _concatenated(product: _Product) -> BlockBatch:
    """All dense blocks of the product."""
    shape = (0, product.p.row_size, product.q.row_size)
    parts = [BlockBatch(np.zeros(shape, product.pool.data.dtype), _NONE, _NONE), *product.near]
    return BlockBatch(*(np.concatenate([getattr(b, name) for b in parts]) for name in ("data", "rows", "cols")))


def _finish(product: _Product, level: int, pick: IntArray, results: list[Truncated]) -> None:
    """Blocks of low rank that are done; those without terms have rank 0."""
    targets = product.targets[level]
    rows, cols = targets.rows[pick], targets.cols[pick]
    missing = np.ones(len(pick), dtype=bool)
    for r in results:
        missing[r.blocks] = False
        product.far[level] += r.batches(rows, cols)
        product.final_square += r.square
    if missing.any():
        shape = (int(missing.sum()), product.p.size(level)[0], 0)
        left, right = (
            np.zeros((shape[0], m.size(level)[0], 0), product.pool.data.dtype) for m in (product.p, product.q)
        )
        product.far[level].append(LowRankBatch(left, right, rows[missing], cols[missing]))


def _keep(product: _Product, level: int, pick: IntArray, results: list[Truncated], *, stage: int) -> None:
    """Put sums that are not final into the pool; errors of one stage are at disjoint places."""
    kept = product.kept[level]
    here = _Kept.empty(len(pick))
    for r in results:
        r.store(product.pool, here.left, here.right, here.rank)
    kept.left[pick], kept.right[pick], kept.rank[pick] = here.left, here.right, here.rank
    while len(product.way_errors) <= stage:
        product.way_errors.append(0.0)
    product.way_errors[stage] = float(np.hypot(product.way_errors[stage], np.sqrt(sum(r.square for r in results))))


# -------------------------------------------------------------------------------- up the levels


def _up(product: _Product) -> None:
    """Put blocks of low rank together whose products went below them, from the leaves up."""
    depth = product.partition.depth
    for level in range(depth - 1, -1, -1):
        targets = product.targets[level]
        pick = np.flatnonzero(targets.merging)
        if not len(pick):
            continue
        terms = _agglomerated(product, level, pick)
        shape = product.p.size(level)[0], product.q.size(level)[0]
        for is_final in (True, False):
            some = np.flatnonzero(targets.far[pick] == is_final)
            tails = _tails(product, level, targets, len(some), is_final)
            mine = _of_blocks(terms, some, len(pick))
            done = truncated_sums(product.pool, mine, len(some), shape, tails, optimal=is_final)
            if is_final:
                _finish(product, level, pick[some], done)
            else:
                _keep(product, level, pick[some], done, stage=2 * depth - level)


def _agglomerated(product: _Product, level: int, pick: IntArray) -> IntArray:
    """The sum that each block has kept, and those of its four children in their places, as terms."""
    targets, kept = product.targets[level], product.kept[level]
    p, q = product.p.size(level)[0], product.q.size(level)[0]
    parts = [terms_of(np.arange(len(pick)), (kept.left[pick], kept.right[pick]), kept.rank[pick], (0, p, 0, q))]
    below, sums = product.targets[level + 1], product.kept[level + 1]
    keys = block_keys(level + 1, below.rows, below.cols)
    for a, b in CORNERS:
        child = find_keys(keys, block_keys(level + 1, 2 * targets.rows[pick] + a, 2 * targets.cols[pick] + b))
        place = (a * (p // 2), p // 2, b * (q // 2), q // 2)
        factors = sums.left[child], sums.right[child]
        parts.append(terms_of(np.arange(len(pick)), factors, sums.rank[child], place))
    terms = np.concatenate(parts)
    return terms[terms[:, 3] > 0]


# ------------------------------------------------------------------------------------ the result


def _relative(error: float, norm: float) -> float:
    """A bound of the error relative to a matrix whose approximation has the given norm."""
    if error == 0.0:
        return 0.0
    return error / (norm - error) if error < norm else float("inf")


def product(a: FlatMatrix, b: FlatMatrix, partition: BlockPartition, rtol: float) -> tuple[FlatBlocks, Certificate]:
    """A B with a guaranteed bound of what was truncated, relative to the norm of the product."""
    x = np.random.default_rng(0).standard_normal((b.shape[1], NORM_PROBES)).astype(real_dtype(b.dtype))
    norm = float(np.linalg.norm(a @ (b @ x))) / np.sqrt(NORM_PROBES)
    eps = float(np.finfo(np.result_type(a.dtype, b.dtype)).eps)
    tolerance = max(rtol, ROUNDING * eps)
    best: tuple[FlatBlocks, float] | None = None
    for _attempt in range(ATTEMPTS):
        blocks, error = multiply(a.blocks, b.blocks, partition, SHARE * tolerance * norm)
        norm = frobenius(blocks)
        bound = _relative(error, norm)
        if best is None or bound < best[1]:
            best = blocks, bound
        if bound <= tolerance:
            break
    assert best is not None
    bound = max(best[1], eps)
    method = "truncations of the exact product of the operands"
    return best[0], Certificate(tolerance, bound, bound, 1.0, method)
