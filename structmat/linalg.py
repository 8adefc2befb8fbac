"""Verbs for users that work on any of the formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._typing import RandomLike
from .base import StructuredMatrix
from .certificate import Certificate
from .exceptions import ShapeError
from .hss.certify import by_probes
from .sources import OperatorSource

__all__ = ["estimate_error"]


def estimate_error(
    matrix: StructuredMatrix, reference: Any, *, probes: int = 20, asked: float | None = None, rng: RandomLike = None
) -> Certificate:
    """Estimate the relative Frobenius error of a structured matrix against a reference.

    Parameters
    ----------
    matrix : StructuredMatrix
        The approximation, (m, n).
    reference : array, sparse matrix, operator or StructuredMatrix
        The exact matrix, (m, n); anything that multiplies.
    probes : int
        Number of products with random vectors; the upper bound is the estimate times 1.59 for 10, 1.36 for 20.
    asked : float, optional
        The tolerance to judge by. Default: that of the matrix.
    rng : seed or numpy.random.Generator
        For the probes.

    Returns
    -------
    Certificate
        `estimate` is unbiased (in its square); `upper_bound` holds with probability `confidence` in the worst case, an
        error of rank one.

    Notes
    -----
    Cost: `probes` products with each of the two.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> a = 1 / (1 + abs(np.subtract.outer(np.arange(300), np.arange(300))))
    >>> A = sm.HSSMatrix.from_dense(a, rtol=1e-6)
    >>> sm.estimate_error(A, a, rng=0).met
    True
    """
    count = _check.positive_integer(probes, "probes", minimum=2)
    source = OperatorSource(reference, symmetric=True)  # no products with the adjoint are needed
    if source.shape != matrix.shape:
        raise ShapeError(f"the matrix has shape {matrix.shape}, but the reference has shape {source.shape}")
    random = _check.generator(rng)
    x = random.standard_normal((matrix.shape[1], count))
    if "c" in (source.dtype.kind, matrix.dtype.kind):
        x = (x + 1j * random.standard_normal(x.shape)) / np.sqrt(2.0)
    tolerance = matrix.certificate.asked if asked is None else _check.tolerance(asked, "asked")
    return by_probes(matrix, x, source.matmat(x), asked=tolerance, norm=None, products=count)
