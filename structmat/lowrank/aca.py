"""Adaptive cross approximation (ACA) with guards, for a batch of blocks at once.

References: M. Bebendorf, "Approximation of boundary element matrices", Numer. Math. 86 (2000) 565-589 (partial
pivoting); S. Boerm, L. Grasedyck, "Hybrid cross approximation of integral operators", Numer. Math. 101 (2005) 221-249
(ACA+, which restarts from other rows and columns). Departures: the restart is from the worst of a sample of entries
that covers all rows and columns, whose residuals also decide whether the approximation is good enough; each restart
waits for twice as many small crosses; where some restarts do not help, all entries are evaluated. The norm of the last
cross alone, the usual criterion, stops early on blocks that fall into parts that do not see each other, as those of
double layer kernels do on flat pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .._backend import parallel_ranges
from .._typing import IntArray, NumpyArray
from ..engine import cpu_aca
from ..sources import EntrySource
from . import guard
from .compressor import Compressor, LowRankBatch, block_norms, empty_batch, replaced
from .recompress import recompress
from .svd import TruncatedSVD, fall_back

# parts of the tolerance: a cross below the first ends the search, a sampled residual below the second is accepted
CROSS, ACCEPTED = 0.2, 0.3
RESTARTS = 8  # checks that may fail before all entries of a block are evaluated
EXTRA = 8  # crosses beyond `max_rank`: the recompression then chooses among more
SMALL = 16  # blocks with no more rows or columns are evaluated in full: that costs no more than the crosses
WHOLE = 128 * 128  # blocks of no more entries too, as one call takes less time than some dozen: what is left is known
NOISE = 8.0  # residuals below this many units of rounding carry no information


@dataclass(frozen=True)
class ACA(Compressor):
    """Adaptive cross approximation: from a few rows and columns, checked and recompressed.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.
    pivoting : {"partial", "full"}
        Where the crosses lie. "partial" takes the largest entry of a row, and evaluates O((p + q) k) entries. "full"
        takes the largest of all and evaluates all: for comparison, and for blocks that are at hand anyway.

    Notes
    -----
    Blocks of at most 128 x 128 entries are evaluated in full, which takes less time than crosses: their errors are
    known. With partial pivoting the error of others is estimated, from 2 max(p, q) + 64 random entries in each check
    (three times as many for functions that cannot evaluate single entries in one call), and for kernels on points from
    those where clusters touch. Each check that fails makes the search more patient: so many small crosses in a row must
    follow before the next one. Blocks where restarts do not bring the estimate below the tolerance, or whose rank makes
    crosses as dear as all entries, are evaluated in full (`fell_back`). Cost O((p + q) k^2) and O((p + q) k) entries.
    With full pivoting the error is guaranteed, at cost O(p q k).

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.lowrank import ACA
    >>> def entries(i, j):
    ...     return 1 / (300 + j[None, :] - i[:, None])
    >>> approximation = ACA(rtol=1e-6)(entries, (200, 250), rng=0)
    >>> approximation.rank, approximation.entries < 200 * 250 / 5
    (5, True)
    """

    pivoting: str = "partial"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pivoting not in ("partial", "full"):
            raise ValueError(f'pivoting must be "partial" or "full", but it is {self.pivoting!r}')

    def _numbers(self, p: int, q: int) -> int:
        return 3 * p * q if self.pivoting == "full" else max(32 * (p + q), 3 * min(p * q, WHOLE))

    def _chunk(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        tail: NumpyArray | None,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> LowRankBatch:
        if self.pivoting == "full":
            return _full(source.blocks(rows, cols), self.rtol, tail, max_rank)
        heights, widths = (rows >= 0).sum(axis=1), (cols >= 0).sum(axis=1)
        small = np.minimum(heights, widths) <= SMALL
        whole = (heights * widths <= WHOLE) & ~small
        some = ~(small | whole)
        batch = empty_batch((*rows.shape, cols.shape[1]), source.dtype)

        def tails(blocks: NumpyArray) -> NumpyArray | None:
            return None if tail is None else tail[blocks]

        if some.any():
            search = _Search(source, rows[some], cols[some], self.rtol, tails(some), max_rank, rng)
            search.run()
            batch = replaced(batch, some, search.result())
        if whole.any():
            found = _full(source.blocks(rows[whole], cols[whole]), self.rtol, tails(whole), max_rank)
            batch = replaced(batch, whole, found)
        if small.any():
            full = TruncatedSVD(self.rtol)._compress(source, rows[small], cols[small], tails(small), max_rank, rng)
            batch = replaced(batch, small, full)
        return batch


class _Search:
    """The crosses of a batch of blocks while they are being found."""

    corners: ClassVar[bool] = True  # whether the entries where clusters touch are looked at

    def __init__(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        rtol: float,
        tail: NumpyArray | None,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> None:
        self.source, self.rows, self.cols, self.rng = source, rows, cols, rng
        self.rtol, self.tail, self.max_rank = rtol, tail, max_rank
        (nb, p), q = rows.shape, cols.shape[1]
        self.eps, self.area = float(np.finfo(source.dtype).eps), p * q
        # crosses as dear as all entries; more than max_rank and some are not wanted
        heights, widths = (rows >= 0).sum(axis=1), (cols >= 0).sum(axis=1)
        self.dear = np.maximum(1, heights * widths // np.maximum(heights + widths, 1))
        self.limits = self.dear if max_rank is None else np.minimum(self.dear, max_rank + EXTRA)
        self.left = np.empty((nb, min(16, min(p, q)), p), dtype=source.dtype)
        self.right = np.empty((nb, min(16, min(p, q)), q), dtype=source.dtype)
        self.ranks = np.zeros(nb, dtype=np.int64)
        self.squares = np.zeros(nb)  # squared norms of the crosses together
        self.visited = rows < 0  # rows that were pivots, or are padding
        self.estimates = np.full(nb, np.inf)  # of what the crosses leave
        self.failed = np.zeros(nb, dtype=bool)
        self.sample = self.drawn(np.arange(len(rows)))
        self.starts = _at_largest(self.sample.i, np.abs(self.sample.values))

    def drawn(self, blocks: IntArray) -> guard.EntrySample:
        """A fresh sample of the given blocks."""
        return guard.draw(self.source, self.rows[blocks], self.cols[blocks], self.rng, corners=self.corners)

    def tolerances(self, blocks: IntArray) -> NumpyArray:
        """Of the given blocks, not below rounding."""
        norms = np.sqrt(self.squares[blocks])
        # the block itself may be smaller than its approximation, by what the tolerance allows
        wanted = self.rtol / (1.0 + self.rtol) * norms if self.tail is None else self.tail[blocks]
        return np.maximum(wanted, NOISE * self.eps * norms)

    def run(self) -> None:
        """Crosses until they get small, and a check; those that fail it again, from their worst row."""
        pending, starts = np.arange(len(self.rows)), self.starts
        for attempt in range(RESTARTS + 1):
            self.add_crosses(pending, starts, patience=1 << attempt)
            if attempt:  # the first sample has decided nothing but where to start
                self.sample = self.drawn(pending)
            worst = self.check(pending)
            bad = self.estimates[pending] > ACCEPTED * self.tolerances(pending)
            full = self.ranks[pending] >= self.limits[pending]
            self.failed[pending[bad & (self.ranks[pending] >= self.dear[pending])]] = True
            pending, starts = pending[bad & ~full], worst[bad & ~full]
            if not len(pending):
                return
        self.failed[pending] = True

    def check(self, blocks: IntArray) -> IntArray:
        """Estimate what the crosses leave of the given blocks, the sample's; the row of the worst entry of each."""
        values, i, j = self.sample.values, self.sample.i, self.sample.j
        parallel_ranges(
            lambda a, b: cpu_aca.sampled_residual(values, i, j, blocks, self.ranks, self.left, self.right, a, b),
            len(blocks),
        )
        self.estimates[blocks] = self.sample.norms(values)
        visited = self.visited[blocks[:, None], i]
        return _at_largest(i, np.where(visited, -1.0, np.abs(values)))

    def add_crosses(self, active: IntArray, picks: IntArray, patience: int) -> None:
        """Crosses for the active blocks, from the given rows on, until `patience` in a row are small."""
        small = np.zeros(len(self.rows), dtype=np.int64)
        while len(active):
            row_values, pivots, sizes = self.residual_rows(active, picks)
            # a row that is zero, up to rounding, gives no cross and no next row: the check finds one
            found = sizes > (NOISE * self.eps) ** 2 * self.squares[active] / self.area
            active, picks, row_values, pivots = active[found], picks[found], row_values[found], pivots[found]
            if not len(active):
                return
            norms, picks = self.add_columns(active, row_values, pivots)
            small[active] = np.where(norms > CROSS * self.tolerances(active), 0, small[active] + 1)
            more = (small[active] < patience) & (picks >= 0) & (self.ranks[active] < self.limits[active])
            active, picks = active[more], picks[more]

    def residual_rows(self, active: IntArray, picks: IntArray) -> tuple[NumpyArray, IntArray, NumpyArray]:
        """Row picks[a] of each block less its crosses, the column of its largest entry, and the square of that."""
        values = self.source.blocks(self.rows[active, picks][:, None], self.cols[active])[:, 0]
        pivots, sizes = np.empty(len(active), dtype=np.int64), np.empty(len(active))

        def work(a: int, b: int) -> None:
            cpu_aca.residual(values, picks, active, self.ranks, self.left, self.right, a, b)
            cpu_aca.row_pivots(values, picks, active, self.visited, pivots, sizes, a, b)

        parallel_ranges(work, len(active))
        return values, pivots, sizes

    def add_columns(self, active: IntArray, row_values: NumpyArray, pivots: IntArray) -> tuple[NumpyArray, IntArray]:
        """The columns through the pivots, as new crosses with the rows: their norms, and the next rows."""
        values = self.source.blocks(self.rows[active], self.cols[active, pivots][:, None])[:, :, 0]
        if self.ranks[active].max() == self.left.shape[1]:
            self.left, self.right = doubled(self.left), doubled(self.right)
        sizes, nexts = np.empty(len(active)), np.empty(len(active), dtype=np.int64)

        def work(a: int, b: int) -> None:
            cpu_aca.residual(values, pivots, active, self.ranks, self.right, self.left, a, b)
            cpu_aca.add_crosses(
                row_values, values, pivots, active, self.ranks, self.left, self.right, self.visited,
                self.squares, sizes, nexts, a, b,
            )  # fmt: skip

        parallel_ranges(work, len(active))
        return np.sqrt(sizes), nexts

    def result(self) -> LowRankBatch:
        """The crosses recompressed, and the blocks in full where they are not good enough."""
        width = int(self.ranks.max(initial=0))
        kept = (np.arange(width) < self.ranks[:, None])[:, None]
        left = np.where(kept, self.left[:, :width].swapaxes(1, 2), 0)
        right = np.where(kept, self.right[:, :width].swapaxes(1, 2).conj(), 0)
        tail = self.tolerances(np.arange(len(self.rows)))
        left, right, ranks, dropped = recompress(left, right, guard.budget(tail, self.estimates), self.max_rank)
        estimates = np.hypot(self.estimates, dropped)
        batch = LowRankBatch(left, right, ranks, estimates, np.zeros(len(ranks), dtype=bool), 0)
        return fall_back(batch, self.failed, self.source, self.rows, self.cols, self.rtol, self.tail, self.max_rank)


def _full(blocks: NumpyArray, rtol: float, tail: NumpyArray | None, max_rank: int | None) -> LowRankBatch:
    """Crosses at the largest entries of blocks (nb, p, q), which are overwritten; recompressed."""
    nb, p, q = blocks.shape
    norms = block_norms(blocks)
    tail = rtol * norms if tail is None else tail
    limit = min(p, q) if max_rank is None else min(p, q, max_rank + EXTRA)
    left, right = np.zeros((nb, limit, p), blocks.dtype), np.zeros((nb, limit, q), blocks.dtype)
    ranks, rest = np.zeros(nb, dtype=np.int64), np.zeros(nb)
    noise = NOISE * float(np.finfo(blocks.dtype).eps)
    parallel_ranges(
        lambda a, b: cpu_aca.full_crosses(blocks, ACCEPTED * tail, noise, limit, left, right, ranks, rest, a, b), nb
    )
    width = int(ranks.max(initial=0))
    # the truncated part is not perpendicular to the rest: the two errors may add up
    left, right, ranks, dropped = recompress(
        left[:, :width].swapaxes(1, 2), right[:, :width].swapaxes(1, 2).conj(), np.maximum(tail - rest, 0.0), max_rank
    )
    return LowRankBatch(left, right, ranks, np.hypot(rest, dropped), np.zeros(nb, dtype=bool), 0)


def _at_largest(index: IntArray, sizes: NumpyArray) -> IntArray:
    return np.take_along_axis(index, sizes.argmax(axis=1)[:, None], 1)[:, 0]


def doubled(crosses: NumpyArray) -> NumpyArray:
    """Room for twice as many crosses."""
    nb, capacity, length = crosses.shape
    larger = np.empty((nb, 2 * capacity, length), dtype=crosses.dtype)
    larger[:, :capacity] = crosses
    return larger
