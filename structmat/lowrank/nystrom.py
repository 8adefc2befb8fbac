"""Nystroem approximation of a batch of positive semidefinite blocks: by randomly pivoted Cholesky factorisation.

Reference: Y. Chen, E. N. Epperly, J. A. Tropp, R. J. Webber, "Randomly pivoted Cholesky: practical approximation of a
kernel matrix with few entry evaluations", Comm. Pure Appl. Math. 78 (2025) 995-1041, algorithm 2.1. Departures: the
factorisation runs until the trace of what is left, which bounds its norm, is half of the tolerance; a sample of entries
checks that the block is positive semidefinite; the factors are recompressed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import parallel_ranges
from .._typing import IntArray, NumpyArray
from ..engine import cpu_aca
from ..exceptions import ShapeError
from ..sources import EntrySource
from . import guard
from .aca import doubled
from .compressor import Compressor, LowRankBatch
from .recompress import recompress
from .svd import fall_back

TRACE = 0.5  # part of the tolerance that the trace of what is left may be; the recompression has the other
NOISE = 16.0  # units of rounding of the largest diagonal entry that carry no information


@dataclass(frozen=True)
class Nystrom(Compressor):
    """The Nystroem approximation A[:, J] A[J, J]^-1 A[J, :] of a positive semidefinite matrix, with random J.

    Each next index of J is drawn in proportion to the diagonal of what is left.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.

    Notes
    -----
    Blocks must be square and symmetric (Hermitian), with the same rows as columns. For a positive semidefinite block
    the error is at most the tolerance (guaranteed, up to rounding), and `estimate` is from a sample of entries. Where
    the sample or the diagonal shows that a block is not positive semidefinite, or where half of the columns do not
    suffice, all entries are evaluated (`fell_back`). Cost O(n k^2) and (k + 3) n + 64 entries.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.kernelfunctions import Gaussian
    >>> from structmat.lowrank import Nystrom
    >>> x = np.linspace(0, 1, 300)
    >>> approximation = Nystrom(rtol=1e-6)(Gaussian(length=0.5), x, x, rng=0)
    >>> approximation.rank, approximation.entries < 300 * 300 / 10
    (6, True)
    """

    def _numbers(self, p: int, q: int) -> int:
        return 64 * p

    def _check_blocks(self, source: EntrySource, rows: IntArray, cols: IntArray) -> None:
        if rows.shape != cols.shape or (rows != cols).any():
            raise ShapeError(
                f"Nystrom takes square blocks with the same rows as columns, but rows {rows.shape} and cols "
                f"{cols.shape} differ; for other blocks take GeneralizedNystrom"
            )

    def _chunk(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        tail: NumpyArray | None,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> LowRankBatch:
        search = _Cholesky(source, rows, self.rtol, tail, max_rank, rng)
        search.run()
        batch, failed = search.result()
        return fall_back(batch, failed, source, rows, cols, self.rtol, tail, max_rank)


class _Cholesky:
    """The columns of pivoted Cholesky factorisations of a batch of blocks while they are being found."""

    def __init__(
        self,
        source: EntrySource,
        rows: IntArray,
        rtol: float,
        tail: NumpyArray | None,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> None:
        self.source, self.rows, self.rng = source, rows, rng
        self.rtol, self.tail, self.max_rank = rtol, tail, max_rank
        diagonal = _diagonals(source, rows)
        self.noise = NOISE * float(np.finfo(source.dtype).eps) * np.abs(diagonal).max(axis=1)  # (nb,)
        self.failed = (diagonal.real < -self.noise[:, None]).any(axis=1)
        self.diagonal = np.maximum(diagonal.real.astype(np.float64), 0.0)
        (nb, p), self.dear = rows.shape, (rows >= 0).sum(axis=1) // 2
        self.limits = self.dear if max_rank is None else np.minimum(self.dear, 2 * max_rank + 8)
        self.left = np.empty((nb, min(16, p), p), dtype=source.dtype)
        self.right = self.left if source.dtype.kind == "f" else np.empty_like(self.left)
        self.ranks = np.zeros(nb, dtype=np.int64)
        self.squares = np.zeros(nb)

    def tolerances(self) -> NumpyArray:
        """Not below rounding. The approximation is smaller than the block, and its norm a safe one."""
        wanted = self.rtol * np.sqrt(self.squares) if self.tail is None else self.tail
        return np.maximum(wanted, self.noise * np.maximum(self.dear, 1))

    def run(self) -> None:
        """Columns until the traces are small."""
        while True:
            large = self.diagonal.sum(axis=1) > TRACE * self.tolerances()
            active = np.flatnonzero(large & ~self.failed & (self.ranks < self.limits))
            if not len(active):
                self.failed |= large & (self.ranks >= self.dear)
                return
            self.add_columns(active)

    def add_columns(self, active: IntArray) -> None:
        """One column for each of the active blocks, at a random pivot."""
        weights = np.cumsum(self.diagonal[active], axis=1)
        drawn = self.rng.random((len(active), 1)) * weights[:, -1:]
        picks = (weights > drawn).argmax(axis=1)
        values = self.source.blocks(self.rows[active], self.rows[active, picks][:, None])[:, :, 0]
        if self.ranks[active].max() == self.left.shape[1]:
            shared = self.right is self.left
            self.left = doubled(self.left)
            self.right = self.left if shared else doubled(self.right)

        def work(a: int, b: int) -> None:
            cpu_aca.residual(values, picks, active, self.ranks, self.right, self.left, a, b)
            cpu_aca.cholesky_columns(
                values, picks, active, self.ranks, self.left, self.right, self.diagonal, self.squares, a, b
            )

        parallel_ranges(work, len(active))

    def result(self) -> tuple[LowRankBatch, NumpyArray]:
        """The factors recompressed, and which of them cannot be trusted."""
        width = int(self.ranks.max(initial=0))
        left = np.where(np.arange(width) < self.ranks[:, None, None], self.left[:, :width].swapaxes(1, 2), 0)
        estimates, definite = self.check(left)
        traces = self.diagonal.sum(axis=1)
        budget = np.maximum(0.999 * self.tolerances() - traces, 0.0)
        left, right, ranks, dropped = recompress(left, left, budget, self.max_rank)
        failed = self.failed | ~definite
        return LowRankBatch(left, right, ranks, np.hypot(estimates, dropped), np.zeros(len(ranks), bool), 0), failed

    def check(self, left: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        """Estimates (nb,) of what the factors leave, and whether it looks positive semidefinite."""
        sample = guard.draw(self.source, self.rows, self.rows, self.rng, corners=False)
        rest = sample.residuals(left, left)
        ends = [np.take_along_axis(self.diagonal, at, axis=1) for at in (sample.i, sample.j)]
        bounds = np.sqrt(ends[0] * ends[1])  # what Cauchy and Schwarz allow for an entry
        slack = NOISE * np.sqrt(np.maximum(self.ranks, 1)) * self.noise
        return sample.norms(rest), (np.abs(rest) <= 1.1 * bounds + slack[:, None]).all(axis=1)


def _diagonals(source: EntrySource, rows: IntArray) -> NumpyArray:
    """The diagonals (nb, p) of the blocks; zero at padding."""
    nb, p = rows.shape
    width = 1 if getattr(source, "batched", False) else min(8, p)  # a call for each entry would take too long
    padded = np.pad(rows, [(0, 0), (0, -p % width)], constant_values=-1).reshape(-1, width)
    blocks = source.blocks(padded, padded)
    return np.ascontiguousarray(np.diagonal(blocks, axis1=1, axis2=2)).reshape(nb, -1)[:, :p]
