"""Estimates of the relative Frobenius error of a structured matrix, by Gaussian probes or from entries.

`||(A - H) G||_F / sqrt(s)` estimates the error without bias, and the worst case, an error of rank one, is a chi-square
law.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from ._backend import squared_norm
from ._typing import Array, NumpyArray
from .base import StructuredMatrix
from .certificate import Certificate
from .sources import EntrySource

CONFIDENCE = 0.95
# up to this many entries the error is computed and not estimated
EXACT_ENTRIES = 1 << 17
# and up to so many where the build has looked at half as many
EXACT_AT_MOST = 1 << 22


def probe_factor(probes: int) -> float:
    """What the estimate from Gaussian probes is multiplied by for an upper bound: 1.59 for 10, 1.36 for 20."""
    # the quantile of the chi-square law; scipy.stats takes longer to import than all of structmat
    return float(np.sqrt(probes / (2.0 * scipy.special.gammaincinv(probes / 2.0, 1.0 - CONFIDENCE))))


def in_range(
    certificate: Certificate, norm: float, a: StructuredMatrix, *, underflow: bool = True
) -> Certificate:  # fmt: skip
    """The certificate of `a`, whose norm was found to be `norm`; void where squares leave the range of its numbers.

    Norms and errors are sums of squares. Where these underflow or overflow, neither ranks nor bounds mean anything.
    `underflow`: whether it matters; not where errors are found from singular values and squared in double precision.
    """
    number = np.finfo(a.dtype)
    allowed = max(certificate.asked, float(number.eps)) * norm
    if (allowed >= np.sqrt(number.tiny) or not underflow) and norm < np.sqrt(number.max):
        return certificate
    signs = np.random.default_rng(0).choice([-1.0, 1.0], a.shape[1]).astype(a.dtype)
    size = float(np.abs(a @ signs).max())  # a sum of entries, and not of squares
    if size == 0.0:
        return certificate
    wide = "" if number.bits == 64 else "use double precision, or "
    return certificate.void(
        f"squares of the errors that rtol = {certificate.asked:.1e} allows underflow or overflow in {number.dtype}, as "
        f"entries of products with the matrix are about {size:.1e}; {wide}multiply the matrix by a power of 2 before, "
        "and the result by its inverse"
    )


def by_probes(
    a: StructuredMatrix, x: Array, exact: Array, *, asked: float, norm: float | None, products: int,
    **details: Any,
) -> Certificate:  # fmt: skip
    """From products `exact` = A x with fresh Gaussian vectors x (n, s)."""
    probes = x.shape[1]
    error = float(np.sqrt(squared_norm(a @ x - exact) / probes))
    size = float(np.sqrt(squared_norm(exact) / probes)) if norm is None else norm
    eps = float(np.finfo(a.dtype).eps)
    estimate = max(error / size if size > 0 else error, eps)
    bound = max(estimate * probe_factor(probes), eps)
    certificate = Certificate(
        max(asked, 4 * eps), estimate, bound, CONFIDENCE, f"{probes} independent Gaussian probes",
        probes=probes, products=products, details=details,
    )  # fmt: skip
    return in_range(certificate, size, a)


def is_small(source: EntrySource, reused: int = 0) -> bool:
    """Whether all entries may be looked at: few, or at most twice as many as were evaluated (`reused` ones twice)."""
    return source.shape[0] * source.shape[1] <= max(EXACT_ENTRIES, min(2 * (source.evaluated + reused), EXACT_AT_MOST))


def all_entries(source: EntrySource, *, symmetric: bool = False) -> NumpyArray:
    """The matrix as a dense array; with `symmetric`, without what rounding has left of an anti-Hermitian part."""
    a = source.block(*(np.arange(n) for n in source.shape))
    return 0.5 * (a + a.conj().T) if symmetric else a


def by_entries(
    a: StructuredMatrix, source: EntrySource, stratified: Callable[[], tuple[float, float]], *, strata: str,
    asked: float, norm: float, reused: int = 0,
) -> Certificate:  # fmt: skip
    """From all entries of a small matrix; else from `stratified` samples over `strata`.

    They give an estimate of the squared error and its standard deviation; norm: of the matrix. `reused`: of the entries
    evaluated, those that have served the build twice.
    """
    eps = float(np.finfo(a.dtype).eps)
    if is_small(source, reused):
        dense = all_entries(source)
        size = float(np.linalg.norm(dense))
        square, deviation, confidence = float(np.linalg.norm(a.to_dense() - dense)) ** 2, 0.0, 1.0
        method = "all entries"
    else:
        square, deviation = stratified()
        size, confidence, method = norm, CONFIDENCE, f"entries stratified over {strata}"
    scale = size if size > 0 else 1.0
    # in float32 a bound below rounding means nothing
    estimate = max(np.sqrt(square) / scale, eps)
    bound = max(np.sqrt(square + 2.0 * deviation) / scale, eps)
    certificate = Certificate(
        max(asked, 4 * eps), float(estimate), float(bound), confidence, method, entries=source.evaluated
    )  # fmt: skip
    return in_range(certificate, size, a)
