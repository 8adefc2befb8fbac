"""Truncation of a block that is known by its products: the sum of what an elimination adds to a low-rank block.

Reference: N. Halko, P.-G. Martinsson, J. Tropp, "Finding structure with randomness", SIAM Review 53 (2011) 217-288,
algorithms 4.1 and 5.1. Departure: the error is estimated from the triangular factor of the samples. The square of its
diagonal entry j is the squared length of a random sample outside the span of those before it: its mean is the squared
Frobenius error of j - 1 samples, and each sample tests those before it at no further cost.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._backend import adjoint
from .._typing import NumpyArray

# samples, the last ones, that test the others; their mean square is at most 3 times too small with probability 1e-4
TESTS = 8
# the part of the squared tolerance that the sampled basis may use up
SHARE = 0.1

Product = Callable[[NumpyArray], NumpyArray]


def truncated_product(
    forward: Callable[[NumpyArray | None], NumpyArray],
    backward: Product,
    probes: NumpyArray,
    tail: float,
    rng: np.random.Generator,
) -> tuple[NumpyArray, NumpyArray]:
    """U, V with ||S - U V^H||_F <= tail, U orthonormal, for a block S (p, q) known by S x and S^H x.

    Parameters
    ----------
    forward : callable
        S x for x (q, s); None stands for the `probes`, with which much may be shared among blocks.
    backward : callable
        S^H x for x (p, s).
    probes : (q, s) array
        Gaussian; or the identity, for a small block.
    tail : float
        Estimated from the samples, not guaranteed.
    rng : numpy.random.Generator
        For further probes where these are too few.
    """
    size = len(probes)
    samples = forward(None)
    while samples.shape[1] < size:
        basis, triangle = np.linalg.qr(samples)
        left_out = np.abs(np.diagonal(triangle)[-TESTS:]).astype(np.float64)
        if np.mean(left_out**2) <= SHARE * tail**2:
            break
        more = min(samples.shape[1], size - samples.shape[1])
        if 2 * (samples.shape[1] + more) >= size:
            samples = forward(np.eye(size, dtype=samples.dtype))
        else:
            extra = rng.standard_normal((size, more)).astype(samples.dtype)
            samples = np.concatenate([samples, forward(extra)], axis=1)
    else:
        u, s, vh = np.linalg.svd(samples, full_matrices=False)
        rank = _rank(s, tail)
        return np.ascontiguousarray(u[:, :rank]), adjoint(vh[:rank] * s[:rank, None]).copy()
    coefficients = backward(basis)  # (q, s), S^H Q
    right, triangle = np.linalg.qr(coefficients)
    w, s, zh = np.linalg.svd(triangle)
    rank = _rank(s, np.sqrt(1.0 - SHARE) * tail)
    return basis @ adjoint(zh[:rank]), right @ (w[:, :rank] * s[:rank])


def _rank(values: NumpyArray, tail: float) -> int:
    """The fewest singular values that leave out no more than `tail`."""
    left_out = np.sqrt(np.cumsum(values[::-1].astype(np.float64) ** 2))[::-1]
    return int((left_out > tail).sum())
