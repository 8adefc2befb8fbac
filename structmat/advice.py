"""Advice on the format: a few blocks of each level are compressed, and what each format would cost is counted.

Counts are of bytes and of floating point operations, never of seconds. Operations in the small blocks of structured
formats are weighted, since a machine does fewer of them in the time than of those in one large dense factorisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _check
from ._inputs import TreeLike, _kernel_trees
from ._typing import IntArray, RandomLike
from .advice_costs import Cost, Profile, dense_cost, flat_cost, merged_cost, merged_ranks, nested_cost
from .flat.build import block_tails
from .hmatrix.adaptive import _estimated_norm, entry_source
from .hmatrix.explore import Trial
from .hss.interpolative import SHARE
from .hss.sampling import SamplingRule, far_samples
from .lowrank.compressor import DenseSource
from .lowrank.interpolative import truncated_range, truncated_svd
from .partition import BlockPartition, StrongAdmissibility, WeakAdmissibility
from .plot import format_bytes
from .sources import EntrySource, KernelSource, OperatorSource
from .tree import ClusterTree, as_tree_pair

__all__ = ["Advice", "FormatEstimate", "advise"]

# blocks of each level that are looked at, and how many of their entries are evaluated at most
BLOCKS, ENTRIES = 3, 1 << 21
# crosses, or random vectors, that a large block is tried with before its rank is extrapolated
CROSSES, PROBES = 100, 160
# doubling the size multiplies ranks by more than this where they grow like a power of it
ALGEBRAIC = 1.2
# and then an H-matrix is preferred if it has no more than this times the bytes
TOLERATED = 2.5
DOUBLINGS = 12


@dataclass(frozen=True)
class FormatEstimate:
    """What one format is predicted to cost.

    Attributes
    ----------
    name : str
        "HSS", "HODLR", "H" or "dense".
    ranks : tuple of float
        Mean rank (HSS: largest) of the blocks of each level, from level 1; 0 where there are none.
    nbytes : float
        Storage.
    build, product, factor : float
        Floating point operations to build it, for one product with a vector, and for a factorisation.
    beats_dense_from : int or None
        The smallest size, as a power of two times the leaf size, from which on it needs less storage and less work
        than a dense array; None where that is not foreseen.
    """

    name: str
    ranks: tuple[float, ...]
    nbytes: float
    build: float
    product: float
    factor: float
    beats_dense_from: int | None

    @property
    def max_rank(self) -> float:
        """The largest rank of any level."""
        return max(self.ranks, default=0.0)


@dataclass(frozen=True)
class Advice:
    """What `advise` found; prints as a table.

    Attributes
    ----------
    recommendation : str
        "HSS", "HODLR", "H" or "dense".
    reason : str
        Why.
    table : tuple of FormatEstimate
        A row for each format; the last one is the dense array.
    warnings : tuple of str
        What speaks against formats that one might think of.
    shape : tuple of int
    rtol : float
    evaluated : int
        Entries that were evaluated, or products with the operator.
    """

    recommendation: str
    reason: str
    table: tuple[FormatEstimate, ...]
    warnings: tuple[str, ...]
    shape: tuple[int, int]
    rtol: float
    evaluated: int

    def __getitem__(self, name: str) -> FormatEstimate:
        """The row of one format."""
        for row in self.table:
            if row.name == name:
                return row
        raise KeyError(f"there is no row {name!r}; there are {', '.join(r.name for r in self.table)}")

    def __str__(self) -> str:
        dense = self.table[-1].nbytes
        lines = [
            f"{self.shape[0]} x {self.shape[1]}, rtol = {self.rtol:.0e}: {self.recommendation} ({self.reason})",
            f"{'format':8s} {'max rank':>8s} {'bytes':>9s} {'of dense':>8s} {'product':>8s} {'build':>8s} "
            f"{'factor':>8s} {'beats dense':>12s}",
        ]
        for row in self.table:
            rank = "" if row.name == "dense" else f"{row.max_rank:.0f}"
            since = (
                ""
                if row.name == "dense"
                else "never"
                if row.beats_dense_from is None
                else f"n >= {row.beats_dense_from}"
            )
            lines.append(
                f"{row.name:8s} {rank:>8s} {format_bytes(row.nbytes):>9s} {row.nbytes / dense:8.1%} {row.product:8.1e} "
                f"{row.build:8.1e} {row.factor:8.1e} {since:>12s}"
            )
        lines.append("product, build, factor: floating point operations, rough for build and factor")
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])


def advise(
    source: Any, points: Any = None, *, tree: TreeLike = None, rtol: float = 1e-8, leaf_size: int = 64,
    symmetric: bool = False, products: int = 100, factorize: bool = True, rng: RandomLike = 0,
) -> Advice:  # fmt: skip
    """Predict what each format would cost for a matrix, and recommend one, or a dense array.

    Parameters
    ----------
    source : array, callable, structured matrix or linear operator
        A dense array; a kernel `kernel(x, y)`, with `points`; a function `entries(i, j)`, with `tree`; or an operator.
        Square.
    points : (n,) or (n, d) array, optional
        For a kernel.
    tree : ClusterTree, optional
        Default: from the points, or balanced, with leaves of at most `leaf_size`.
    rtol : float
        The tolerance that the matrix is to be built with.
    symmetric : bool
        The matrix is Hermitian, and half of it is stored.
    products, factorize : int, bool
        What the matrix is for: how many products, and whether it is factored. They decide with the build which
        format needs the least work.
    rng : seed or numpy.random.Generator

    Returns
    -------
    Advice

    Notes
    -----
    On each level the ranks of a few blocks are found, as the builds find them; ranks of blocks that are too large for
    that are extrapolated from the levels below. Cost O(n k log n) at the most, for ranks k up to 100. Storage is
    predicted well within a factor two where all blocks of a level are alike; the operations are rough. Where
    the ranks of weakly admissible blocks grow like a power of their size, as in two and more dimensions, H-matrices
    are preferred to HODLR and HSS, whose costs then grow faster than n log n.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> advice = sm.advise(lambda x, y: 1 / (1e-4 + abs(x[:, None] - y)), np.linspace(0, 1, 10000), rtol=1e-6)
    >>> advice.recommendation
    'HSS'
    >>> sm.advise(np.random.default_rng(0).standard_normal((500, 500))).recommendation
    'dense'
    """
    tolerance, random = _check.tolerance(rtol), _check.generator(rng)
    sampler = _sampler(source, points, tree, leaf_size, random)
    survey = _Survey(sampler, max(tolerance, 4 * float(np.finfo(sampler.dtype).eps)), random)
    return _advice(survey, tolerance, symmetric=symmetric, products=products, factorize=factorize)


# ---------------------------------------------------------------------------------- ranks of blocks


class _EntrySampler:
    """Ranks of blocks from entries."""

    def __init__(self, source: EntrySource, trees: tuple[ClusterTree, ClusterTree], rng: np.random.Generator) -> None:
        self.source, self.tree, self.rng, self.dtype = source, trees[0], rng, source.dtype
        self.norm = _estimated_norm(source, trees, rng)
        self._far: dict[int, tuple[IntArray, Any]] = {}

    @property
    def evaluated(self) -> int:
        return self.source.evaluated

    def rank(self, rows: IntArray, cols: IntArray, tail: float, weights: Any = None) -> float:
        """The numerical rank of a block, with columns scaled by weights; NaN where it is large for a large block."""
        if len(rows) * len(cols) <= ENTRIES:
            block = self.source.block(rows, cols)
            block = block if weights is None else block * weights.astype(block.real.dtype)
            return float(truncated_svd(np.array(block)[None], np.array([tail]))[1][0])

        def entries(i: IntArray, j: IntArray) -> Any:
            block = self.source.block(rows[i], cols[j])
            return block if weights is None else block * weights[j].astype(block.real.dtype)

        scaled = EntrySource(entries, (len(rows), len(cols)), self.dtype)
        trial = Trial(scaled, np.arange(len(rows))[None], np.arange(len(cols))[None], tail, self.rng, CROSSES)
        trial.run()
        return float(trial.factors(tail)[2][0]) if trial.accepted[0] else np.nan

    def outside(self, level: int, node: int) -> tuple[IntArray, Any]:
        """Columns that stand for all outside a node, and their weights."""
        if level not in self._far:
            self._far = {level: far_samples(self.tree, self.tree, level, SamplingRule.for_tolerance(1e-8))}
        positions, weights = self._far[level]
        kept = positions[node] >= 0
        return self.tree.perm[positions[node][kept]], weights[node][kept]


class _OperatorSampler:
    """Ranks of blocks from products with random vectors that are zero outside of the columns of a block."""

    def __init__(self, op: OperatorSource, tree: ClusterTree, rng: np.random.Generator) -> None:
        self.op, self.tree, self.rng, self.dtype = op, tree, rng, op.dtype
        probes = 20
        self.norm = float(np.linalg.norm(op.matmat(rng.standard_normal((tree.n, probes)).astype(op.dtype)))) / np.sqrt(
            probes
        )

    @property
    def evaluated(self) -> int:
        return self.op.products

    def rank(self, rows: IntArray, cols: IntArray, tail: float, weights: Any = None) -> float:
        """As for entries."""
        probes = min(PROBES, len(rows) + 10)
        x = np.zeros((self.tree.n, probes), dtype=self.dtype)
        x[cols] = self.rng.standard_normal((len(cols), probes))
        sample = np.ascontiguousarray(self.op.matmat(x)[rows])
        rank = int(truncated_range(sample[None], np.array([tail * np.sqrt(probes)]), samples=probes)[1][0])
        return float(rank) if rank < probes - 10 or rank >= len(rows) else np.nan

    def outside(self, level: int, node: int) -> tuple[IntArray, Any]:
        """All columns outside a node."""
        start, stop = self.tree.starts(level)[node], self.tree.stops(level)[node]
        return np.concatenate([self.tree.perm[:start], self.tree.perm[stop:]]), None


def _sampler(source: Any, points: Any, tree: TreeLike, leaf_size: int, rng: np.random.Generator) -> Any:
    if points is not None:
        rows = _check.points(points)
        entries: Any = KernelSource(source, rows, rows)
        trees = _kernel_trees(tree, entries.row_points, entries.row_points, leaf_size, same=True)
        return _EntrySampler(entries, trees, rng)
    multiplies = any(hasattr(source, name) for name in ("matvec", "matmat"))
    if multiplies and not hasattr(source, "certificate"):
        op = OperatorSource(source, symmetric=True)
        _require_square(op.shape)
        return _OperatorSampler(op, as_tree_pair(tree, op.shape, leaf_size=leaf_size)[0], rng)
    entries = entry_source(source, tree)
    entries = DenseSource(entries) if isinstance(entries, np.ndarray) else entries
    _require_square(entries.shape)
    return _EntrySampler(entries, as_tree_pair(tree, entries.shape, leaf_size=leaf_size), rng)


def _require_square(shape: tuple[int, int]) -> None:
    from .exceptions import ShapeError

    if shape[0] != shape[1]:
        raise ShapeError(f"advise compares formats of square matrices, but the shape is {shape}")


class _Survey:
    """Ranks by level for the weakly and the strongly admissible blocks and the nested bases, and counts of blocks."""

    def __init__(self, sampler: Any, rtol: float, rng: np.random.Generator) -> None:
        self.sampler, self.rng, self.tree = sampler, rng, sampler.tree
        self.allowed = 0.9 * rtol * sampler.norm
        self.period = 1 if self.tree.points is None else min(3, self.tree.points.shape[1])
        self.weak = BlockPartition.build(self.tree, admissibility=WeakAdmissibility())
        self.strong = BlockPartition.build(self.tree, admissibility=StrongAdmissibility())
        self.hodlr = self._flat(self.weak)
        self.hmatrix = self._flat(self.strong)
        self.hss = self._nested()

    def _some(self, count: int) -> IntArray:
        return np.sort(self.rng.choice(count, min(BLOCKS, count), replace=False))

    def _flat(self, partition: BlockPartition) -> Profile:
        tails, tree = block_tails(partition, self.allowed), self.tree

        def rank(level: int) -> float:
            places = partition.far[level]
            found = [
                self.sampler.rank(tree.indices(level, i), tree.indices(level, j), tails[level])
                for i, j in places[self._some(len(places))]
            ]
            return float(np.mean(found)) if found else 0.0

        counts = [len(partition.far[level]) / (1 << level) for level in range(tree.depth, 0, -1)]
        return Profile.of(
            self._upwards(rank), counts, partition.near_count / tree.leaf_count, tree.leaf_size, self.period
        )

    def _nested(self) -> Profile:
        tree = self.tree

        def rank(level: int) -> float:
            tail = SHARE * self.allowed / np.sqrt(2.0 * tree.depth * 2**level)
            found = []
            for node in self._some(1 << level):
                cols, weights = self.sampler.outside(level, int(node))
                found.append(self.sampler.rank(tree.indices(level, int(node)), cols, tail, weights))
            return float(np.max(found))

        return Profile.of(self._upwards(rank), [1.0] * tree.depth, 1.0, tree.leaf_size, self.period, self.hodlr)

    def _upwards(self, rank: Callable[[int], float]) -> list[float]:
        """Ranks from the leaves up; once they are too large to be found, they stay unknown."""
        ranks: list[float] = []
        for level in range(self.tree.depth, 0, -1):
            ranks.append(np.nan if ranks and np.isnan(ranks[-1]) else rank(level))
        return ranks


# --------------------------------------------------------------------------------- recommendation


def _advice(survey: _Survey, rtol: float, *, symmetric: bool, products: int, factorize: bool) -> Advice:
    n, depth, item = survey.tree.n, survey.tree.depth, survey.sampler.dtype.itemsize
    makers: dict[str, tuple[Profile, Callable[[int], Cost]]] = {
        "HSS": (survey.hss, lambda d: nested_cost(survey.hss, d, item, symmetric)),
        "HODLR": (survey.hodlr, lambda d: flat_cost(survey.hodlr, d, item, symmetric, nested_panels=True)),
        "H": (survey.hmatrix, lambda d: merged_cost(survey.hmatrix, survey.hodlr, d, item, symmetric)),
    }
    dense = dense_cost(n, item, symmetric)

    def pays(cost: Cost, size: int) -> bool:
        full = dense_cost(size, item, symmetric)
        less = cost.work(products, factorize) < full.work(products, factorize, dense=True)
        return cost.nbytes < full.nbytes and less

    rows, paying = [], []
    for name, (profile, make) in makers.items():
        cost = make(depth)
        # a matrix of one leaf has no blocks to learn from
        depths = range(1, depth + DOUBLINGS + 1) if depth else ()
        since = _since([(profile.leaf << d, pays(make(d), profile.leaf << d)) for d in depths])
        ranks = merged_ranks(profile, survey.hodlr) if name == "H" else profile.ranks
        rows.append(FormatEstimate(name, ranks[::-1], cost.nbytes, cost.build, cost.product, cost.factor, since))
        if depth > 0 and pays(cost, n):
            paying.append(rows[-1])
    rows.append(FormatEstimate("dense", (), dense.nbytes, dense.build, dense.product, dense.factor, None))
    choice, reason = _choice(paying, survey)
    warnings = _warnings(rows, paying, survey, choice)
    return Advice(choice, reason, tuple(rows), warnings, (n, n), rtol, survey.sampler.evaluated)


def _since(pays: list[tuple[int, bool]]) -> int | None:
    """Of sizes, and whether a format pays there, the first from which on it does."""
    first = None
    for size, yes in pays:
        first = None if not yes else size if first is None else first
    return first


def _choice(paying: list[FormatEstimate], survey: _Survey) -> tuple[str, str]:
    if not paying:
        return "dense", "no format needs less storage and less work at this size and tolerance"
    by_name = {row.name: row for row in paying}
    best = min(paying, key=lambda row: row.nbytes)
    grows = survey.hodlr.growth > ALGEBRAIC
    if "H" in by_name and grows and by_name["H"].nbytes <= TOLERATED * best.nbytes:
        return "H", f"ranks between siblings grow {survey.hodlr.growth:.2g} times when the size doubles"
    return best.name, "the least storage"


def _warnings(
    rows: list[FormatEstimate], paying: list[FormatEstimate], survey: _Survey, choice: str
) -> tuple[str, ...]:
    found, growth = [], survey.hodlr.growth
    if growth > ALGEBRAIC and survey.hodlr.ranks:
        found.append(
            f"ranks between siblings grow {growth:.2g} times when the size doubles: HODLR and HSS cost more than "
            "O(n log n)"
        )
    for row in rows[:-1]:
        if row not in paying:
            when = "" if row.beats_dense_from is None else f"; it is foreseen to pay from n = {row.beats_dense_from}"
            found.append(
                f"{row.name} does not pay: {format_bytes(row.nbytes)}, dense {format_bytes(rows[-1].nbytes)}{when}"
            )
    if choice == "dense":
        found.append("a dense array is the better choice; a larger rtol or an ordering by tree may change that")
    return tuple(found)
