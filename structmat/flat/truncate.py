"""Recompression of low-rank blocks: QR of both factors, a small SVD, and singular values chosen over all blocks.

With L = P R and M = Q S, the block L M^H has the singular values of R S^H. A rank more costs a block p + q numbers and
takes s^2 off the squared error (twice that where the block also stands for its adjoint), so that the least storage for
a given error of the whole matrix keeps the values with the largest s^2 / (p + q), wherever they are.

Reference: M. Bebendorf, "Hierarchical Matrices", Springer 2008, section 2.5 for one block. Departure: the tolerance is
that of the whole matrix, not of each block. Cost O(n k^2 log n).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import adjoint, like, namespace, numpy_dtype, real_dtype, take, to_numpy
from .._backend import squared_norms as column_squares
from .._typing import Array, IntArray, NumpyArray
from ..blocks import LowRankBatch
from ..engine import dense
from .norms import squared_norms
from .storage import FlatBlocks, by_rank, merged

# singular values whose norm is below this many eps of what they were computed from are rounding
NOISE = 8.0


@dataclass(frozen=True)
class _Spectrum:
    """The singular value decompositions of one batch: P U diag(s) V^H Q^H."""

    batch: LowRankBatch
    left: Array  # P (nb, p, m)
    u: Array  # (nb, m, r)
    values: NumpyArray  # (nb, r) float64, falling
    v: Array  # V^H (nb, r, m')
    right: Array  # Q (nb, q, m')
    weights: NumpyArray  # (nb,): 2 where a block also stands for its adjoint
    noise: NumpyArray  # (nb,): squared norm below which what is left is rounding

    @property
    def cost(self) -> int:
        """Numbers that a rank takes."""
        return int(self.batch.left.shape[1] + self.batch.right.shape[1])


@dataclass(frozen=True)
class Truncated:
    """Recompressed blocks, and what is known of them; all norms are those of the whole matrix."""

    blocks: FlatBlocks
    error: float  # Frobenius norm of what was left out
    size: float  # Frobenius norm of the matrix before
    noise: float  # how much of it rounding may have made: much where sums cancel


def truncate(blocks: FlatBlocks, *, rtol: float, atol: float = 0.0, max_rank: int | None = None) -> Truncated:
    """Ranks as small as the tolerance allows; values that are rounding of what was summed are left out in any case."""
    spectra = [[_spectrum(b, blocks.half) for b in level] for level in blocks.far]
    square = sum(_weighted(squared_norms(b), b.rows, b.cols, blocks.half) for b in blocks.near)
    square += sum(float((s.weights @ s.values**2).sum()) for level in spectra for s in level)
    size = float(np.sqrt(square))
    flat = [s for level in spectra for s in level]
    ranks, error = _chosen(flat, max(rtol * size, atol), max_rank)
    remaining, widest = iter(ranks), max((s.batch.rank for s in flat), default=0)
    far = tuple(merged([b for s in level for b in _rebuilt(s, next(remaining), widest)]) for level in spectra)
    noise = float(np.sqrt(sum(float(s.weights @ s.noise) for s in flat)))
    return Truncated(FlatBlocks(blocks.near, far, blocks.half), float(np.sqrt(error)), size, noise)


def compress(
    batches: list[LowRankBatch], allowed: float, *, max_rank: int | None = None
) -> tuple[tuple[LowRankBatch, ...], float]:
    """The blocks of one level at the ranks that the absolute error `allowed` of all together needs, and the error."""
    spectra = [_spectrum(b, half=False) for b in batches]
    ranks, error = _chosen(spectra, allowed, max_rank)
    cut = merged([b for s, rank in zip(spectra, ranks, strict=True) for b in _rebuilt(s, rank, 0)])
    return cut, float(np.sqrt(error))


def _weighted(squares: NumpyArray, rows: IntArray, cols: IntArray, half: bool) -> float:
    return float((squares * np.where((rows != cols) & half, 2.0, 1.0)).sum())


def _spectrum(batch: LowRankBatch, half: bool) -> _Spectrum:
    left, r = dense.qr(batch.left)
    right, s = dense.qr(batch.right)
    u, values, v = dense.svd(dense.matmul(r, adjoint(s)))
    # the columns of R and S are as long as those of the factors
    squares = (to_numpy(column_squares(r, axis=1)) * to_numpy(column_squares(s, axis=1))).sum(axis=1)
    noise = (NOISE * float(np.finfo(numpy_dtype(batch.left)).eps)) ** 2 * squares
    weights = np.where((batch.rows != batch.cols) & half, 2.0, 1.0)
    return _Spectrum(batch, left, u, values.astype(np.float64), v, right, weights, noise)


def _chosen(spectra: list[_Spectrum], allowed: float, max_rank: int | None) -> tuple[list[IntArray], float]:
    """The rank of each block, batch by batch, and the squared error of all together."""
    squares = [s.values**2 for s in spectra]
    tails = [np.cumsum(q[:, ::-1], axis=1)[:, ::-1] for q in squares]
    ranks = [(tail > s.noise[:, None]).sum(axis=1) for s, tail in zip(spectra, tails, strict=True)]
    budget = allowed**2 - _left_out(spectra, squares, ranks)
    real = [np.arange(q.shape[1]) < rank[:, None] for q, rank in zip(squares, ranks, strict=True)]
    gains = [(q * s.weights[:, None])[keep] for s, q, keep in zip(spectra, squares, real, strict=True)]
    owners = [np.nonzero(keep)[0] for keep in real]
    if budget > 0.0 and gains:
        price = np.concatenate([g / s.cost for g, s in zip(gains, spectra, strict=True)])
        order = np.argsort(price, kind="stable")
        dropped = np.zeros(len(price), dtype=bool)
        spent = np.cumsum(np.concatenate(gains)[order])
        dropped[order[: int((spent <= budget).sum())]] = True
        cuts = np.cumsum([len(g) for g in gains])[:-1]
        for k, part in enumerate(np.split(dropped, cuts)):
            ranks[k] = ranks[k] - np.bincount(owners[k][part], minlength=len(ranks[k]))
    if max_rank is not None:
        ranks = [np.minimum(rank, max_rank) for rank in ranks]
    return ranks, _left_out(spectra, squares, ranks)


def _left_out(spectra: list[_Spectrum], squares: list[NumpyArray], ranks: list[IntArray]) -> float:
    total = 0.0
    for s, q, rank in zip(spectra, squares, ranks, strict=True):
        total += float((s.weights @ (q * (np.arange(q.shape[1]) >= rank[:, None]))).sum())
    return total


def _rebuilt(s: _Spectrum, ranks: IntArray, widest: int) -> list[LowRankBatch]:
    """The blocks cut to their ranks: orthonormal left factors, the singular values in the right ones."""
    batches = []
    scale = np.where(np.arange(s.values.shape[1]) < ranks[:, None], s.values, 0.0)
    v = adjoint(s.v) * like(scale[:, None, :].astype(real_dtype(numpy_dtype(s.v))), s.v)
    for u_part in by_rank(s.u, v, ranks, np.arange(len(ranks)), np.arange(len(ranks)), widest=widest):
        pick = u_part.rows
        left = _without_padding(dense.matmul(take(s.left, pick), u_part.left), take(s.batch.left, pick))
        right = _without_padding(dense.matmul(take(s.right, pick), u_part.right), take(s.batch.right, pick))
        batches.append(LowRankBatch(left, right, s.batch.rows[pick], s.batch.cols[pick]))
    return batches


def _without_padding(factor: Array, original: Array) -> Array:
    """Rows that were zero stay so: orthogonal factors of deficient ones may put rounding there."""
    xp = namespace(original)
    used = xp.any(original != 0.0, axis=2, keepdims=True)
    return factor if bool(xp.all(used)) else factor * xp.astype(used, factor.dtype)
