"""Truncated singular value decomposition of a batch of blocks: the best that can be had, from all entries.

Reference: C. Eckart, G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1 (1936)
211-218. Departure: a pivoted factorisation to a hundredth of the tolerance goes first (see `truncated_svd`), so that
the cost is O(p q k) instead of O(p q min(p, q)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..engine import dense
from ..sources import EntrySource
from .compressor import DenseCompressor, LowRankBatch, replaced
from .interpolative import truncated_svd


@dataclass(frozen=True)
class TruncatedSVD(DenseCompressor):
    """The truncated singular value decomposition: the smallest rank that the tolerance allows.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.

    Notes
    -----
    The error is at most the tolerance (guaranteed, up to rounding). Evaluates all entries; cost O(p q k) for rank k.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.lowrank import TruncatedSVD
    >>> x = np.linspace(0, 1, 50)
    >>> a = 1 / (2 + x[:, None] + x)
    >>> approximation = TruncatedSVD(rtol=1e-4)(a)
    >>> approximation.rank, bool(np.linalg.norm(a - approximation.to_dense()) <= 1e-4 * np.linalg.norm(a))
    (2, True)
    """

    def _factor(
        self, blocks: NumpyArray, tail: NumpyArray, max_rank: int | None, rng: np.random.Generator
    ) -> LowRankBatch:
        return full_factor(blocks, tail, max_rank)


def full_factor(blocks: NumpyArray, tail: NumpyArray, max_rank: int | None) -> LowRankBatch:
    """The truncated singular value decompositions of blocks (nb, p, q)."""
    # the first factorisation takes a hundredth of the tolerance, at right angles to what the second leaves out
    basis, ranks, left = truncated_svd(blocks.copy(), 0.9999 * tail, max_rank=max_rank)
    return LowRankBatch(basis, projected(blocks, basis), ranks, left, np.zeros(len(blocks), bool), 0)


def projected(blocks: NumpyArray, basis: NumpyArray) -> NumpyArray:
    """Blocks^H @ basis, (nb, q, k): the right factors that belong to orthonormal left ones."""
    return np.ascontiguousarray(dense.matmul(basis.conj().swapaxes(1, 2), blocks).conj().swapaxes(1, 2))


def fall_back(
    batch: LowRankBatch,
    failed: NumpyArray,
    source: EntrySource,
    rows: IntArray,
    cols: IntArray,
    rtol: float,
    tail: NumpyArray | None,
    max_rank: int | None,
) -> LowRankBatch:
    """The batch with its failed blocks approximated the safe way instead: from all entries."""
    if not failed.any():
        return batch
    tails = None if tail is None else tail[failed]
    full = TruncatedSVD(rtol)._compress(source, rows[failed], cols[failed], tails, max_rank, np.random.default_rng(0))
    full.fell_back[:] = True
    return replaced(batch, failed, full)
