"""Rank-revealing QR factorisation and interpolative decomposition of a batch of blocks, by pivoted rows.

References: P. Businger, G. H. Golub, "Linear least squares solutions by Householder transformations", Numer. Math. 7
(1965) 269-276; H. Cheng, Z. Gimbutas, P.-G. Martinsson, V. Rokhlin, "On the compression of low rank matrices", SIAM J.
Sci. Comput. 26 (2005) 1389-1404. The factorisation is that of `row_interpolation` and its departures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..engine import cpu_rank
from .compressor import DenseCompressor, LowRankBatch
from .interpolative import factor, truncated_range
from .svd import projected


@dataclass(frozen=True)
class PivotedQR(DenseCompressor):
    """Rank-revealing QR factorisation with pivoted rows: cheaper than the SVD, with ranks close to the optimal ones.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.

    Notes
    -----
    The factor `left` is orthonormal. The error is at most the tolerance (guaranteed, up to rounding), unless `max_rank`
    cuts in. Evaluates all entries; cost O(p q k) for rank k.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.lowrank import PivotedQR
    >>> x = np.linspace(0, 1, 50)
    >>> a = 1 / (2 + x[:, None] + x)
    >>> approximation = PivotedQR(rtol=1e-4)(a)
    >>> bool(np.linalg.norm(a - approximation.to_dense()) <= 1e-4 * np.linalg.norm(a))
    True
    """

    def _factor(
        self, blocks: NumpyArray, tail: NumpyArray, max_rank: int | None, rng: np.random.Generator
    ) -> LowRankBatch:
        basis, ranks, left = truncated_range(blocks.copy(), tail, max_rank=max_rank)
        return LowRankBatch(basis, projected(blocks, basis), ranks, left, np.zeros(len(blocks), bool), 0)


@dataclass(frozen=True)
class Interpolative(DenseCompressor):
    """Interpolative decomposition: some rows of the matrix, the skeleton, and how the others follow from them.

    The matrix is `X @ a[skeleton]` with the rows `skeleton` of X an identity; X is `left`, and `right^H` consists of
    rows of the matrix. Nothing but entries of the matrix is stored in it, so sparsity, sign and meaning are kept.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.

    Notes
    -----
    The error is at most the tolerance (guaranteed, up to rounding), unless `max_rank` cuts in: it is what the pivoted
    factorisation leaves out. The numbers in `left` are moderate in practice, without a proof. Evaluates all entries;
    cost O(p q k) for rank k.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.lowrank import Interpolative
    >>> x = np.linspace(0, 1, 50)
    >>> a = 1 / (2 + x[:, None] + x)
    >>> approximation = Interpolative(rtol=1e-4)(a)
    >>> np.array_equal(approximation.right.T, a[approximation.skeleton])
    True
    """

    def _factor(
        self, blocks: NumpyArray, tail: NumpyArray, max_rank: int | None, rng: np.random.Generator
    ) -> LowRankBatch:
        lower, order, ranks, left = factor(blocks.copy(), tail, max_rank)
        (nb, p, q), width = blocks.shape, int(ranks.max(initial=0))
        weights = np.zeros((nb, p, width), blocks.dtype)
        rows = np.zeros((nb, q, width), blocks.dtype)
        for rank in np.unique(ranks[ranks > 0]):  # a skeleton wider than its rank would have rows of no use
            some = np.flatnonzero(ranks == rank)
            weights[some, :, :rank] = _weights(lower[some], order[some], ranks[some])
            picked = np.take_along_axis(blocks[some], order[some, :rank, None], axis=1)
            rows[some, :, :rank] = picked.conj().swapaxes(1, 2)
        skeletons = np.where(np.arange(width) < ranks[:, None], order[:, :width], -1)
        return LowRankBatch(weights, rows, ranks, left, np.zeros(nb, bool), 0, skeletons)


def _weights(lower: NumpyArray, order: IntArray, ranks: IntArray) -> NumpyArray:
    """X (nb, p, k) of blocks of equal rank k, in the order of their rows."""
    (nb, p), rank = order.shape, int(ranks[0])
    rest = np.empty((nb, p - rank, rank), lower.dtype)
    cpu_rank.interpolation(lower, order, ranks, rest, 0, nb)
    sorted_rows = np.concatenate([np.broadcast_to(np.eye(rank, dtype=lower.dtype), (nb, rank, rank)), rest], axis=1)
    out = np.empty_like(sorted_rows)
    np.put_along_axis(out, order[:, :, None], sorted_rows, axis=1)
    return out
