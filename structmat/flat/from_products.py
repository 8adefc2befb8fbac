"""HODLR and H-matrices from products only: peeling, level by level from the top.

References: L. Lin, J. Lu, L. Ying, "Fast construction of hierarchical matrix representation from matrix-vector
multiplication", J. Comput. Phys. 230 (2011) 4071-4087 (peeling); J. Levitt, P.-G. Martinsson, "Randomized compression
of rank-structured matrices accelerated with graph coloring", arXiv 2205.03406 (colours); T. Chen, F. D. Keles, D.
Halikias, C. Musco, C. Musco, D. Persson, "Near-optimal hierarchical matrix approximation from matrix-vector products",
SODA 2025 (generalised Nystroem, perforated sketches: how errors of one level do not pile up in the next).

The column nodes of a level are coloured so that no row node sees two nodes of one colour among the blocks that are not
known yet, if one of them is to be found. Probes that live on one colour then show, once the known levels have been
subtracted, each block alone. Departures: a row node that has a single block takes that block's orthonormal basis as its
second sketch, which lets less of the errors of other levels through than a random one; a colour is divided
(perforated) only in a second attempt; and a level below which all blocks together take fewer products by their
columns is where peeling stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._backend import adjoint, real_dtype
from .._inputs import _require_hermitian_products
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..certificate import Certificate
from ..certify import by_probes, probe_factor
from ..engine.dense import complete_qr, matmul
from ..exceptions import TooFewSamplesError
from ..lowrank import truncated_range, truncated_svd
from ..partition import BlockPartition
from ..sources import OperatorSource
from ..tree import ClusterTree
from .build import block_tails
from .colours import Colours, colour
from .leaves import block_keys, find_keys, joined_near, leaf_partition, without_padding
from .storage import FlatBlocks, FlatStorage, by_rank, merged

CHECK_PROBES = 10
ROUNDS = 3
# columns of the first sketch, and columns beyond the rank that every sketch must have
FIRST_SAMPLES = 24
OVERSAMPLING = 8
# columns that are sent to the operator at a time
BATCH_COLUMNS = 512
# of the tolerance of a block: what the basis may leave out, and what the final truncation may
BASIS_SHARE, CUT_SHARE = 0.5, 0.6
# multiples of the noise that are taken for noise
NOISE_MARGIN = 1.5


@dataclass
class _Peeling:
    """What is known of a matrix while its levels are peeled off."""

    source: OperatorSource
    partition: BlockPartition  # dense blocks at the leaves only
    symmetric: bool
    tails: list[float]
    max_rank: int | None
    limit: int | None  # of the products for building
    rng: np.random.Generator
    perforation: int  # parts that each colour is divided into
    progress: Callable[[float], None]
    start: int  # products that had been made before
    noise: float  # the error of a product with a random vector, norm
    far: list[list[LowRankBatch]] = field(default_factory=list)
    samples: int = FIRST_SAMPLES
    known: FlatStorage | None = None

    # ----------------------------------------------------------------------------- products

    def _spend(self, columns: int, level: int) -> None:
        used = self.source.products - self.start
        if self.limit is not None and used + columns > self.limit:
            raise TooFewSamplesError(
                f"{self.limit} products are all that are allowed, but level {level} of the tree needs {columns} more "
                f"than the {used} already made: raise max_probes, or ask for a larger rtol"
            )

    def unknown_part(self, x: NumpyArray, level: int, *, adjointly: bool = False) -> NumpyArray:
        """(A - what is known) x, or its adjoint, for leaf blocks x; in batches of columns."""
        rows, cols = self.partition.row_tree, self.partition.col_tree
        source, target = (rows, cols) if adjointly else (cols, rows)
        product = self.source.rmatmat if adjointly else self.source.matmat
        self._spend(x.shape[2], level)
        out = np.empty((target.leaf_count, target.leaf_size, x.shape[2]), dtype=self.source.dtype)
        for k in range(0, x.shape[2], BATCH_COLUMNS):
            part = np.ascontiguousarray(x[:, :, k : k + BATCH_COLUMNS])
            y = product(source.from_leaves(part)).astype(self.source.dtype, copy=False)
            out[:, :, k : k + BATCH_COLUMNS] = target.to_leaves(y)
            if self.known is not None:
                out[:, :, k : k + BATCH_COLUMNS] -= self.known.apply(part, adjointly=adjointly)
        return out

    def gaussian(self, tree: ClusterTree, level: int, count: int) -> NumpyArray:
        """Random blocks for all nodes of a level, (2**level, size, count); zero where there is padding."""
        x = self.rng.standard_normal((tree.n, count)).astype(real_dtype(self.source.dtype))
        if self.source.dtype.kind == "c":
            x = (x + 1j * self.rng.standard_normal((tree.n, count))) * np.sqrt(0.5)
        return tree.to_leaves(x.astype(self.source.dtype)).reshape(1 << level, -1, count)

    def responses(
        self, level: int, probes: NumpyArray, colours: Colours, blocks: IntArray, *, adjointly: bool = False
    ) -> NumpyArray:
        """A_ij X_j of blocks (i, j) of a level for probes X (nodes, q, s) of all its nodes: a product for each colour.

        With `adjointly`, blocks are (j, i), and the result is A_ji^H X_j.
        """
        nodes, _, s = probes.shape
        target = self.partition.col_tree if adjointly else self.partition.row_tree
        out = np.empty((len(blocks), target.leaf_size << (self.partition.depth - level), s), dtype=probes.dtype)
        if s == 0:  # all blocks of the level are zero
            return out
        mine = colours.number[blocks[:, 1]]
        step = max(1, BATCH_COLUMNS // s)
        for first in range(0, colours.count, step):
            group = np.arange(first, min(first + step, colours.count))
            on = colours.number[:, None] == group  # (nodes, colours of the group)
            x = (probes[:, :, None, :] * on[:, None, :, None]).reshape(self._leaves(adjointly) + (len(group) * s,))
            y = self.unknown_part(x, level, adjointly=adjointly).reshape(nodes, -1, len(group), s)
            for k in group:
                here = np.flatnonzero(mine == k)
                out[here] = y[blocks[here, 0], :, k - first]
        return out

    def _leaves(self, adjointly: bool) -> tuple[int, int]:
        tree = self.partition.row_tree if adjointly else self.partition.col_tree
        return tree.leaf_count, tree.leaf_size

    # ------------------------------------------------------------------------------- levels

    def learn(self, level: int, batches: list[LowRankBatch]) -> None:
        """Add the blocks of a level to what is known."""
        self.far[level] = batches
        self.progress(1.0 / (self.partition.depth + 1))
        if any(b.rank for b in batches):
            blocks = FlatBlocks(self._empty_near(), tuple(merged(b) for b in self.far), self.symmetric)
            self.known = FlatStorage(blocks, self.partition.row_tree.leaf_size, self.partition.col_tree.leaf_size)

    def basis_tail(self, level: int) -> float:
        """What a basis may leave out of a block: where products are noisy, not less than their noise in it."""
        share = 0.5**level  # of the rows
        return float(max(BASIS_SHARE * self.tails[level], NOISE_MARGIN * self.noise * np.sqrt(share)))

    def _empty_near(self) -> tuple[BlockBatch, ...]:
        depth, none = self.partition.depth, np.zeros(0, dtype=np.int64)
        p, q = self.partition.row_tree.leaf_size, self.partition.col_tree.leaf_size
        shapes = [(0, p << (depth - level), q << (depth - level)) for level in range(depth + 1)]
        return tuple(BlockBatch(np.zeros(shape, dtype=self.source.dtype), none, none) for shape in shapes)

    def stored(self, places: IntArray) -> IntArray:
        """Those blocks that are stored: of a Hermitian matrix, on and below the diagonal."""
        return places[places[:, 0] >= places[:, 1]] if self.symmetric else places


@dataclass(frozen=True)
class _Plan:
    """The colours of one level, and which blocks it shows."""

    far: IntArray  # (nb, 2), all of them, also of a Hermitian matrix
    unknown: IntArray  # blocks that are not covered by coarser levels
    columns: Colours  # for the far blocks
    rows: Colours
    everything: Colours  # column nodes so that each unknown block is seen alone
    width: int  # of a column node, without padding
    slots: int  # columns of the identity that show all of it: some are padding in some nodes only

    @property
    def single(self) -> bool:
        """Whether no row node and no column node has more than one far block."""
        return all(len(np.unique(self.far[:, k])) == len(self.far) for k in (0, 1))


def _plans(partition: BlockPartition) -> list[_Plan]:
    plans = []
    unknown = np.zeros((1, 2), dtype=np.int64)
    for level in range(partition.depth + 1):
        far, nodes = partition.far[level], 1 << level
        flipped = far[:, ::-1], unknown[:, ::-1]
        width = int(partition.col_tree.sizes(level).max())
        columns, rows, everything = (
            colour(far, unknown, nodes),
            colour(*flipped, nodes),
            colour(unknown, unknown, nodes),
        )
        slots = int(_real_slots(partition.col_tree, level).any(axis=0).sum())
        plans.append(_Plan(far, unknown, columns, rows, everything, width, slots))
        is_far = find_keys(np.sort(block_keys(level, far[:, 0], far[:, 1])), block_keys(level, *unknown.T)) >= 0
        rest = unknown[~is_far]
        unknown = (2 * rest[:, None, :] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
    return plans


def _real_slots(tree: ClusterTree, level: int) -> NumpyArray:
    """Which slots of each node of a level are no padding, (2**level, size)."""
    return (tree.leaf_positions < tree.n).reshape(1 << level, -1)


def _near_colours(partition: BlockPartition) -> Colours:
    near = partition.near[-1]
    return colour(near, near, 1 << partition.depth)


def _costs(plans: list[_Plan], samples: int, near: int, symmetric: bool, perforation: int) -> list[tuple[int, int]]:
    """For each level the products that peeling takes from there on, and those that columns take."""
    result: list[tuple[int, int]] = []
    rest = near
    for plan in reversed(plans):
        s = min(samples, plan.width)
        sketches = 0
        if len(plan.far):
            sides = plan.columns.count if symmetric else plan.columns.count + plan.rows.count
            sketches = s * sides * perforation
        columns = plan.everything.count * plan.slots
        result.append((sketches + rest, columns))
        rest = min(result[-1])
    return result[::-1]


def _peel(peeling: _Peeling) -> FlatBlocks:
    """All blocks that are stored, from the largest ones down; dense ones at the leaves."""
    partition, depth = peeling.partition, peeling.partition.depth
    plans = _plans(partition)
    near_colours = _near_colours(partition)
    near_cost = near_colours.count * int(partition.col_tree.sizes(depth).max())
    peeling.far = [[] for _ in range(depth + 1)]
    for level, plan in enumerate(plans):
        costs = _costs(plans, peeling.samples, near_cost, peeling.symmetric, peeling.perforation)
        by_sketches, by_columns = costs[level]
        batches = _level(peeling, level, plan) if by_sketches <= by_columns else None  # a tie: smaller blocks
        if batches is None:
            near = _by_columns(peeling, level, plan)
            break
        peeling.learn(level, batches)
    else:
        near = _dense_blocks(peeling, depth, partition.near[depth], near_colours)
    places = peeling.stored(partition.near[depth])
    dense = BlockBatch(near, places[:, 0].copy(), places[:, 1].copy())
    far = tuple(merged(batches) for batches in peeling.far)
    return FlatBlocks((*peeling._empty_near()[:-1], dense), far, peeling.symmetric)


# --------------------------------------------------------------------------- the blocks of one level


def _level(peeling: _Peeling, level: int, plan: _Plan) -> list[LowRankBatch] | None:
    """The far blocks of a level by two sketches each; None where a rank is too close to full for sketches."""
    if not len(plan.far):
        return []
    places = peeling.stored(plan.far)
    columns, rows = (c.divided(peeling.perforation, peeling.rng) for c in (plan.columns, plan.rows))
    # the mirrored blocks of a Hermitian matrix are second sketches, unless a basis is to be one
    sketched = plan.far if peeling.symmetric and not plan.single else places
    found = _first_sketch(peeling, level, plan, sketched, places, columns.of(sketched[:, 1]))
    if found is None:
        return None
    x, y, basis, ranks = found
    if plan.single:
        right = _by_basis(peeling, level, places, basis, rows, columns)
    elif peeling.symmetric:
        right = _solved(basis, x[places[:, 0]], y[_positions(level, sketched, places[:, ::-1])], ranks)
    else:
        tree = peeling.partition.row_tree
        psi = peeling.gaussian(tree, level, min(x.shape[2], int(tree.sizes(level).max())))
        z = peeling.responses(level, psi, rows, places[:, ::-1], adjointly=True)
        right = _solved(basis, psi[places[:, 0]], z, ranks)
    return _cut(basis, right, places, CUT_SHARE * peeling.tails[level], peeling.max_rank)


def _first_sketch(
    peeling: _Peeling, level: int, plan: _Plan, sketched: IntArray, places: IntArray, colours: Colours
) -> tuple[NumpyArray, NumpyArray, NumpyArray, IntArray] | None:
    """Probes X by node, responses of the blocks `sketched`, orthonormal bases of the blocks `places`, and ranks.

    As many samples as the largest rank needs: more are drawn until there are.
    """
    tree, at = peeling.partition.col_tree, _positions(level, sketched, places)
    x = peeling.gaussian(tree, level, min(peeling.samples, plan.width))
    y = peeling.responses(level, x, colours, sketched)
    while True:
        have = x.shape[2]
        tail = np.full(len(places), peeling.basis_tail(level) * np.sqrt(have))
        basis, ranks, _ = truncated_range(y[at].copy(), tail, max_rank=peeling.max_rank, samples=y.shape[2])
        needed = _needed(int(ranks.max(initial=0)), plan.single)
        if needed > plan.width:
            return None
        if have >= needed:
            peeling.samples = needed + OVERSAMPLING // 2
            return x, y, basis, ranks
        more = peeling.gaussian(tree, level, min(max(needed, 3 * have // 2), plan.width) - have)
        x = np.concatenate([x, more], axis=2)
        y = np.concatenate([y, peeling.responses(level, more, colours, sketched)], axis=2)


def _needed(rank: int, single: bool) -> int:
    """Samples for a block of a rank: a random second sketch amplifies errors by about sqrt(rank / (samples - rank))."""
    return rank + OVERSAMPLING if single else max(rank + OVERSAMPLING, 3 * rank // 2)


def _positions(level: int, places: IntArray, wanted: IntArray) -> IntArray:
    keys = block_keys(level, *places.T)
    order = np.argsort(keys)
    return order[find_keys(keys[order], block_keys(level, *wanted.T))]


def _by_basis(
    peeling: _Peeling, level: int, places: IntArray, basis: NumpyArray, rows: Colours, columns: Colours
) -> NumpyArray:
    """A_ij^H Q_ij where each row node has one block at most: Q_ij are the probes."""
    probes = np.zeros((1 << level, *basis.shape[1:]), dtype=basis.dtype)
    probes[places[:, 0]] = basis
    if peeling.symmetric:  # A^H = A: products with A show the mirrored blocks
        return peeling.responses(level, probes, columns.of(places[:, 0]), places[:, ::-1])
    return peeling.responses(level, probes, rows.of(places[:, 0]), places[:, ::-1], adjointly=True)


def _solved(basis: NumpyArray, psi: NumpyArray, z: NumpyArray, ranks: IntArray) -> NumpyArray:
    """R with (Psi^H Q) R^H = (A^H Psi)^H in the least-squares sense; columns beyond the rank are zero."""
    k = basis.shape[2]
    if k == 0:
        return np.zeros((*z.shape[:2], 0), dtype=z.dtype)
    small = matmul(adjoint(psi), basis)  # (nb, s, k)
    padding = np.arange(k) >= ranks[:, None]
    # a column of zeros gets a row of its own, so that the factorisation is of full rank
    extended = np.concatenate([small, np.eye(k, dtype=small.dtype) * padding[:, None, :]], axis=1)
    q, r = complete_qr(extended)
    q = q[:, : small.shape[1], :k]
    return adjoint(np.linalg.solve(r[:, :k], matmul(adjoint(q), adjoint(z))))


def _cut(
    left: NumpyArray, right: NumpyArray, places: IntArray, tail: float, max_rank: int | None
) -> list[LowRankBatch]:
    """The smallest ranks that the tolerance allows; the left factors are orthonormal."""
    if left.shape[2] == 0:
        return [LowRankBatch(left, right, places[:, 0].copy(), places[:, 1].copy())] if len(places) else []
    turn, ranks, _ = truncated_svd(adjoint(right).copy(), np.full(len(places), tail), max_rank=max_rank)
    return by_rank(matmul(left, turn), matmul(right, turn), ranks, places[:, 0], places[:, 1])


# ------------------------------------------------------------------------- blocks by their columns


def _columns_of(peeling: _Peeling, level: int, colours: Colours, blocks: IntArray) -> NumpyArray:
    """The blocks of a level as dense blocks: probes are the columns of the identity, by colour."""
    tree = peeling.partition.col_tree
    slots = tree.leaf_size << (tree.depth - level)
    real = _real_slots(tree, level)
    used = np.flatnonzero(real.any(axis=0))  # slots that are padding in every node take no products
    out = np.zeros((len(blocks), peeling.partition.row_tree.leaf_size << (tree.depth - level), slots))
    out = out.astype(peeling.source.dtype, copy=False)
    for k in range(0, len(used), BATCH_COLUMNS):
        part = used[k : k + BATCH_COLUMNS]
        probes = np.zeros((1 << level, slots, len(part)), dtype=out.dtype)
        probes[:, part, np.arange(len(part))] = real[:, part]
        out[:, :, part] = peeling.responses(level, probes, colours, blocks)
    return out


def _dense_blocks(peeling: _Peeling, level: int, places: IntArray, colours: Colours) -> NumpyArray:
    """The dense blocks that are stored; those on the diagonal of a Hermitian matrix made Hermitian."""
    data = _columns_of(peeling, level, colours, peeling.stored(places))
    return _hermitian_diagonal(data, peeling.stored(places)) if peeling.symmetric else data


def _hermitian_diagonal(data: NumpyArray, places: IntArray) -> NumpyArray:
    on = np.flatnonzero(places[:, 0] == places[:, 1])
    data[on] = 0.5 * (data[on] + adjoint(data[on]))
    return data


def _by_columns(peeling: _Peeling, level: int, plan: _Plan) -> NumpyArray:
    """All that is not known from a level on: the unknown blocks of this level by columns, then cut into its parts."""
    partition, depth = peeling.partition, peeling.partition.depth
    places = peeling.stored(plan.unknown)
    data = _columns_of(peeling, level, plan.everything, places)
    for here in range(level, depth + 1):
        far = partition.far[here]
        is_far = find_keys(np.sort(block_keys(here, far[:, 0], far[:, 1])), block_keys(here, *places.T)) >= 0
        if is_far.any():
            blocks, some = data[is_far], places[is_far]
            basis, ranks, _ = truncated_svd(
                blocks.copy(), np.full(len(some), peeling.tails[here]), max_rank=peeling.max_rank
            )
            right = matmul(adjoint(blocks), basis)
            peeling.learn(here, by_rank(basis, right, ranks, some[:, 0], some[:, 1]))
        data, places = data[~is_far], places[~is_far]
        if here == depth:
            break
        data, places = _quarters(data, places, peeling.symmetric)
    order = _positions(depth, places, peeling.stored(partition.near[depth]))
    near = data[order]
    return _hermitian_diagonal(near, places[order]) if peeling.symmetric else near


def _quarters(data: NumpyArray, places: IntArray, symmetric: bool) -> tuple[NumpyArray, IntArray]:
    nb, p, q = data.shape
    parts = data.reshape(nb, 2, p // 2, 2, q // 2).swapaxes(2, 3).reshape(-1, p // 2, q // 2)
    below = (2 * places[:, None, :] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
    keep = below[:, 0] >= below[:, 1] if symmetric else np.ones(len(below), dtype=bool)
    return parts[keep], below[keep]


# ------------------------------------------------------------------------------------ the driver


def from_operator(
    cls: Any, source: OperatorSource, partition: BlockPartition, *, rtol: float, max_rank: int | None,
    symmetric: bool, noise: float, max_probes: int | None, rng: np.random.Generator,
    progress: Callable[[float], None],
) -> Any:  # fmt: skip
    """Build, check on independent probes, and build again more tightly until the check passes."""
    check = _check_probes(source, rng)
    exact = source.matmat(check).astype(source.dtype, copy=False)
    norm = float(np.linalg.norm(exact)) / np.sqrt(CHECK_PROBES)
    if symmetric:
        _require_hermitian_products(check, exact)
    fine, coarse = leaf_partition(partition)
    eps = float(np.finfo(source.dtype).eps)
    share, best = 1.0 / probe_factor(CHECK_PROBES), None
    start = source.products
    for attempt in range(ROUNDS):
        tails = block_tails(fine, max(share * rtol, 4 * eps) * norm)
        peeling = _Peeling(
            source, fine, symmetric, tails, max_rank, max_probes, rng, 1 << attempt, progress, start, noise * norm
        )
        try:
            blocks = without_padding(_joined(_peel(peeling), coarse), partition.row_tree, partition.col_tree)
        except TooFewSamplesError:
            if best is None:
                raise
            break  # the better attempt has used up the products that are allowed; its certificate says what it is
        candidate = cls(blocks, partition.row_tree, partition.col_tree, _UNCHECKED)
        candidate.certificate = by_probes(candidate, check, exact, asked=rtol, norm=None, products=source.products)
        if best is None or candidate.certificate.upper_bound < best.certificate.upper_bound:
            best = candidate
        if best.certificate.met or (max_rank is not None and best.max_rank >= max_rank):
            break
        share *= 0.2
    assert best is not None
    return best


_UNCHECKED = Certificate(0.0, 1.0, 1.0, 0.0, "not yet checked")


def _check_probes(source: OperatorSource, rng: np.random.Generator) -> NumpyArray:
    x = rng.standard_normal((source.shape[1], CHECK_PROBES)).astype(real_dtype(source.dtype))
    if source.dtype.kind == "c":
        return ((x + 1j * rng.standard_normal(x.shape)) * np.sqrt(0.5)).astype(source.dtype)
    return x


def _joined(blocks: FlatBlocks, partition: BlockPartition) -> FlatBlocks:
    """Dense blocks of leaves put together where the partition has larger ones."""
    wanted = partition.lower() if blocks.half else partition
    if not any(len(b) for b in wanted.near[:-1]):
        return blocks
    near = blocks.expanded().near[-1]  # a larger block on the diagonal holds leaves of both halves
    return FlatBlocks(joined_near(near, wanted, *near.data.shape[1:]), blocks.far, blocks.half)
