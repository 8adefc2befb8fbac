"""H2 from an operator: one pass over the levels with as many samples as they need, checked on independent probes.

With entries the pass is that of `sketched`, without that of `nullified`. Where it would take more products than the
matrix has columns, the columns are what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._inputs import _require_hermitian_products
from .._typing import NumpyArray
from ..certify import by_probes, probe_factor
from ..exceptions import TooFewSamplesError
from ..nested import NestedStorage
from ..partition import BlockPartition
from ..sources import EntrySource, OperatorSource, gaussian_probes
from .nullified import Nullification
from .sketched import Sketch
from .supply import Starved, Supply

CHECK_PROBES = 10
ROUNDS = 3
# up to this many columns, a matrix that has no structure for samples to find is asked for all of them
BY_COLUMNS = 8192
# columns that are sent to the operator at a time
BATCH_COLUMNS = 512
# of the squared error, what a level may leave out relative to the level below it
GROWTH = 1.5
# multiples of the machine precision below which products carry nothing but rounding
ROUNDING = 64

Progress = Callable[[float], None]


def from_operator(
    cls: Any, source: OperatorSource, partition: BlockPartition, *, entries: EntrySource | None, rtol: float,
    max_rank: int | None, symmetric: bool, noise: float, max_probes: int | None, rng: np.random.Generator,
    progress: Progress,
) -> Any:  # fmt: skip
    """Build, check, and build again more tightly until the check passes."""
    from .constructors import PLACEHOLDER

    check = gaussian_probes(source.shape[1], CHECK_PROBES, source.dtype, rng)
    exact = source.matmat(check).astype(source.dtype, copy=False)
    norm = float(np.linalg.norm(exact)) / np.sqrt(CHECK_PROBES)
    if symmetric:
        _require_hermitian_products(check, exact)
    if entries is not None:
        _require_one_matrix(source, entries, check, exact)
    products = _Products(source, entries, partition, symmetric, max_rank, max_probes, rng)
    asked = max(rtol, ROUNDING * float(np.finfo(source.dtype).eps))
    share, best = 1.0 / probe_factor(CHECK_PROBES), None
    for _attempt in range(ROUNDS):
        try:
            storage = products.build(share * asked * norm, noise * norm, progress)
        except TooFewSamplesError:
            if best is None:
                raise
            break  # the better attempt has used up the products that are allowed; its certificate says what it is
        candidate = cls._of_storage(storage, partition.row_tree, partition.col_tree, PLACEHOLDER)
        candidate.certificate = by_probes(
            candidate, check, exact, asked=asked, norm=None, products=source.products, samples=products.supply.count
        )
        if best is None or candidate.certificate.upper_bound < best.certificate.upper_bound:
            best = candidate
        if best.certificate.met or (max_rank is not None and best.max_rank >= max_rank):
            break
        share *= 0.3
    assert best is not None
    return best


def _require_one_matrix(source: OperatorSource, entries: EntrySource, x: NumpyArray, y: NumpyArray) -> None:
    """Some rows of A x from entries must be those that the operator gives."""
    m, n = source.shape
    rows = np.unique(np.linspace(0, m - 1, min(m, 8)).astype(np.int64))
    values = entries.block(rows, np.arange(n)) @ x
    gap, size = float(np.linalg.norm(values - y[rows])), float(np.linalg.norm(values)) + float(np.linalg.norm(y[rows]))
    if gap > 0.1 * size:
        raise ValueError(
            f"entries and op are not of one matrix: rows {rows.tolist()} of A x differ by {gap / size:.1e} of their "
            "norms; entries(i, j) takes row and column numbers in the same order as op"
        )


class _Products:
    """What the attempts of a build share: the samples drawn so far, or all columns."""

    def __init__(
        self, source: OperatorSource, entries: EntrySource | None, partition: BlockPartition, symmetric: bool,
        max_rank: int | None, limit: int | None, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.source, self.entries, self.partition, self.symmetric = source, entries, partition, symmetric
        self.max_rank, self.rng, self.limit = max_rank, rng, limit
        self.supply = Supply(source, rng, symmetric=symmetric, limit=limit)
        self.by_columns = False

    def build(self, allowed: float, noise: float, progress: Progress) -> NestedStorage:
        """The matrix with an absolute error of about `allowed`."""
        method = self._method(allowed, noise)
        try:
            return self._one_pass(method, progress)
        except _ColumnsAreFewer:
            self._take_columns()
            return self._one_pass(self._method(allowed, noise), progress)

    def _method(self, allowed: float, noise: float) -> Any:
        partition = self.partition
        sides = [partition] if self.symmetric else [partition, partition.transposed()]
        tails = [[allowed * np.sqrt(0.5 * share) for share in _shares(side)] for side in sides]
        shared: Any = {"symmetric": self.symmetric, "noise": noise, "max_rank": self.max_rank}
        if self.entries is None:
            return Nullification(partition, tails, **shared)
        return Sketch(self.entries, partition, tails, **shared)

    def _one_pass(self, method: Any, progress: Progress) -> NestedStorage:
        """Where a level starves, samples are added and taken up through the levels that are done: these had enough."""
        found: list[Any] = []
        current: Any = None
        for level in method.levels:
            while True:
                try:
                    if current is None:
                        count = max(self.supply.count, method.first_count())
                        self._require_worthwhile(count)
                        current = method.of_leaves(self.supply.at_least(count, level))
                    here = method.process(current, level)
                    break
                except Starved as hunger:
                    self._require_worthwhile(hunger.needed)
                    more = method.of_leaves(self.supply.more(hunger.needed - current.count, level))
                    for below in found:
                        more = method.rise(more, below)
                    current = current.joined(more)
            found.append(here)
            progress(1.0 / len(method.levels))
            if level != method.levels[-1]:
                current = method.rise(current, here)
        return method.assembled(found)

    def _require_worthwhile(self, count: int) -> None:
        """Samples must take fewer products than columns do."""
        columns, spent = self.source.shape[1], self.source.products - self.supply.start
        if self.by_columns or self.supply.sides * count < columns:
            return
        if columns > BY_COLUMNS:
            raise TooFewSamplesError(
                f"the build needs {count} random vectors, and products with them take more than the {columns} columns "
                "of the matrix do: ask for a larger rtol, give entries, or take a tree with smaller leaves"
            )
        if self.limit is None or spent + columns <= self.limit:
            raise _ColumnsAreFewer

    def _take_columns(self) -> None:
        """The matrix by its columns: from now on its products cost nothing."""
        m, n = self.source.shape
        dense = np.empty((m, n), dtype=self.source.dtype)
        for k in range(0, n, BATCH_COLUMNS):
            unit = np.zeros((n, min(BATCH_COLUMNS, n - k)), dtype=dense.dtype)
            unit[k + np.arange(unit.shape[1]), np.arange(unit.shape[1])] = 1
            dense[:, k : k + BATCH_COLUMNS] = self.source.matmat(unit)
        if self.symmetric:
            dense = 0.5 * (dense + dense.conj().T)
        self.entries = EntrySource(lambda i, j: dense[np.ix_(i, j)], dense.shape)
        self.supply = Supply(OperatorSource(dense), self.rng, symmetric=self.symmetric)
        self.by_columns = True


def _shares(partition: BlockPartition) -> list[NumpyArray]:
    """For each level the share of each node in the squared error of its side, (2**level,).

    What a level leaves out is noise in the samples of all levels above it. Were their tolerances not larger, they would
    fit their bases to that: ranks three times as large.
    """
    served = np.cumsum([len(far) for far in partition.far]) > 0
    weights = served * GROWTH ** -np.arange(len(served), dtype=np.float64)
    weights /= max(float(weights.sum()), 1e-300)
    tree = partition.row_tree
    return [weight * tree.sizes(level) / tree.n for level, weight in enumerate(weights)]


class _ColumnsAreFewer(Exception):
    """The samples that a build needs take more products than all columns."""
