"""Randomised range finder with adaptive rank and an estimate of the error after the fact, for a batch of blocks.

Reference: N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness", SIAM Rev. 53 (2011) 217-288,
algorithms 4.1 and 4.2 and section 4.3. Departures: the samples are doubled until few of them are needed, instead of one
by one; the estimate is of the Frobenius norm, from fresh samples whose squares average to it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from .._typing import NumpyArray
from ..engine import dense
from .compressor import DenseCompressor, LowRankBatch, block_norms, empty_batch, replaced
from .interpolative import truncated_range
from .recompress import recompress
from .svd import full_factor, projected

FIRST = 16  # samples to begin with
PROBES = 10  # fresh samples for the estimate
# the basis may leave this part of the tolerance, and PROBABLE times the estimate is not exceeded but once in 3000
BASIS, PROBABLE = 0.35, 1.6


class SampledCompressor(DenseCompressor):
    """A compressor that multiplies the blocks with random vectors, twice as many where those were not enough."""

    def _factor(
        self, blocks: NumpyArray, tail: NumpyArray, max_rank: int | None, rng: np.random.Generator
    ) -> LowRankBatch:
        (nb, p, q), dtype = blocks.shape, blocks.dtype
        tail = above_rounding(tail, blocks)
        batch, pending = empty_batch((nb, p, q), dtype), np.arange(nb)
        samples = np.zeros((nb, p, 0), dtype)
        count = FIRST
        while len(pending) and 2 * count <= min(p, q):
            fresh = dense.matmul(blocks[pending], gaussian(rng, q, count - samples.shape[2], len(pending), dtype))
            samples = np.concatenate([samples, fresh], axis=2)
            found, accepted = self._from_samples(blocks[pending], samples, tail[pending], max_rank, rng)
            batch = replaced(batch, pending[accepted], found.part(accepted))
            pending, samples, count = pending[~accepted], samples[~accepted], 2 * count
        if not len(pending):
            return batch
        full = full_factor(blocks[pending], tail[pending], max_rank)
        full.fell_back[:] = min(p, q) >= 2 * FIRST  # smaller blocks are never sampled
        return replaced(batch, pending, full)

    @abstractmethod
    def _from_samples(
        self,
        blocks: NumpyArray,
        samples: NumpyArray,
        tail: NumpyArray,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> tuple[LowRankBatch, NumpyArray]:
        """Approximations from samples (nb, p, s) of the ranges, and which of them are good enough."""


@dataclass(frozen=True)
class RandomizedRange(SampledCompressor):
    """A basis of the range from random samples, as many as the tolerance needs, with an estimate of the error.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.

    Notes
    -----
    The error is estimated, from 10 fresh random vectors (the true one is larger than 1.6 times the estimate with
    probability 3e-4). Where a block needs more than half as many samples as it has rows or columns, it is
    factored directly (`fell_back`). Evaluates all entries; cost O(p q k), most of it in matrix products.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.lowrank import RandomizedRange
    >>> x = np.linspace(0, 1, 100)
    >>> a = 1 / (2 + x[:, None] + x)
    >>> approximation = RandomizedRange(rtol=1e-6)(a, rng=0)
    >>> bool(np.linalg.norm(a - approximation.to_dense()) <= 1e-6 * np.linalg.norm(a))
    True
    """

    def _from_samples(
        self,
        blocks: NumpyArray,
        samples: NumpyArray,
        tail: NumpyArray,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> tuple[LowRankBatch, NumpyArray]:
        count = samples.shape[2]
        basis, ranks, _left = truncated_range(samples.copy(), np.sqrt(count) * BASIS * tail, samples=count)
        # with few spare samples the rank was not found but cut off; beyond max_rank and some that does not matter
        starved = ranks > min(count - 6, count * 2 // 3)
        enough = max_rank is not None and count >= max(2 * max_rank, max_rank + 8)
        right = projected(blocks, basis)
        estimates = probe(blocks, basis, right, rng)
        accepted = (~starved & (PROBABLE * estimates <= 0.8 * tail)) | enough
        budget = np.sqrt(np.maximum(0.999 * tail**2 - (PROBABLE * estimates) ** 2, 0.0))
        left, right, ranks, dropped = recompress(basis, right, budget, max_rank)
        return LowRankBatch(left, right, ranks, np.hypot(estimates, dropped), np.zeros(len(blocks), bool), 0), accepted


def probe(blocks: NumpyArray, left: NumpyArray, right: NumpyArray, rng: np.random.Generator) -> NumpyArray:
    """Estimates (nb,) of the Frobenius norms of blocks - left @ right^H, from products with fresh random vectors."""
    vectors = gaussian(rng, blocks.shape[2], PROBES, len(blocks), blocks.dtype)
    rest = dense.matmul(blocks, vectors) - dense.matmul(left, dense.matmul(right.conj().swapaxes(1, 2), vectors))
    return block_norms(rest) / np.sqrt(PROBES)


def gaussian(rng: np.random.Generator, n: int, count: int, nb: int, dtype: np.dtype) -> NumpyArray:
    """Random vectors (nb, n, count) whose entries have variance 1: the same ones for all blocks."""
    numbers = rng.standard_normal((n, count))
    if dtype.kind == "c":
        numbers = (numbers + 1j * rng.standard_normal((n, count))) * np.sqrt(0.5)
    return np.broadcast_to(numbers.astype(dtype), (nb, n, count))


def above_rounding(tail: NumpyArray, blocks: NumpyArray) -> NumpyArray:
    """The tolerances, not below what rounding leaves of products with the blocks."""
    return np.maximum(tail, 32.0 * float(np.finfo(blocks.dtype).eps) * block_norms(blocks))
