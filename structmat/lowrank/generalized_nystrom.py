"""Generalised Nystroem approximation of a batch of blocks: from sketches of both sides, in one pass.

References: Y. Nakatsukasa, "Fast and stable randomized low-rank matrix approximation", arXiv 2009.11392 (2020);
K. L. Clarkson, D. P. Woodruff, "Numerical linear algebra in the streaming model", STOC 2009. Departures: the number of
samples is doubled until fresh ones confirm the tolerance; the core is inverted by a truncated singular value
decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import NumpyArray
from ..engine import dense
from .compressor import LowRankBatch
from .randomized import PROBABLE, SampledCompressor, gaussian, probe
from .recompress import recompress

OVERSAMPLING = 1.5  # rows of the left sketch for each column of the right one: the paper's choice


@dataclass(frozen=True)
class GeneralizedNystrom(SampledCompressor):
    """The generalised Nystroem approximation A X (Y^H A X)^+ Y^H A with random X and Y.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.

    Notes
    -----
    The matrix is used only in products with X, Y and the probes of the error, all at once for a given number of
    samples; its samples are not made orthogonal. The error is estimated, from 10 fresh random vectors. Where a block
    needs too many samples, it is factored directly (`fell_back`). Evaluates all entries; cost O(p q k).

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.lowrank import GeneralizedNystrom
    >>> x = np.linspace(0, 1, 100)
    >>> a = 1 / (2 + x[:, None] + x)
    >>> approximation = GeneralizedNystrom(rtol=1e-6)(a, rng=0)
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
        left, right = _sketched(blocks, samples, rng)
        estimates = probe(blocks, left, right, rng)
        enough = max_rank is not None and samples.shape[2] >= max(2 * max_rank, max_rank + 8)
        accepted = (PROBABLE * estimates <= 0.6 * tail) | enough
        # unlike with an orthogonal projection, the two errors may add up
        budget = np.maximum(0.999 * tail - PROBABLE * estimates, 0.0)
        left, right, ranks, dropped = recompress(left, right, budget, max_rank)
        return LowRankBatch(left, right, ranks, np.hypot(estimates, dropped), np.zeros(len(blocks), bool), 0), accepted


def _sketched(blocks: NumpyArray, samples: NumpyArray, rng: np.random.Generator) -> tuple[NumpyArray, NumpyArray]:
    """The factors A X V / S and (Y^H A)^H U of the approximation, with Y^H A X = U S V^H."""
    nb, p, count = samples.shape
    test = gaussian(rng, p, int(OVERSAMPLING * count), nb, blocks.dtype).conj().swapaxes(1, 2)
    other = dense.matmul(test, blocks)  # (nb, 1.5 s, q)
    u, values, vh = dense.svd(dense.matmul(test, samples))
    noise = count * float(np.finfo(blocks.dtype).eps) * values[:, :1]
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=values > noise)
    left = dense.matmul(samples, vh.conj().swapaxes(1, 2) * inverse[:, None].astype(blocks.dtype))
    kept = u * (inverse > 0)[:, None]
    return left, np.ascontiguousarray(dense.matmul(kept.conj().swapaxes(1, 2), other).conj().swapaxes(1, 2))
