"""Verbs for users that work on any of the formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._typing import RandomLike
from .base import StructuredMatrix
from .certificate import Certificate
from .certify import by_probes
from .exceptions import ShapeError
from .sources import OperatorSource

__all__ = ["estimate_error", "inner", "trace_of_solve"]


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


def inner(a: StructuredMatrix, b: StructuredMatrix) -> Any:
    """The inner product of two structured matrices, trace(A^H B): the sum of conj(a_ij) b_ij over all entries.

    Parameters
    ----------
    a, b : StructuredMatrix
        Of one format, one shape and the same trees.

    Returns
    -------
    float or complex
        Exact for the matrices as they are stored, to rounding.

    Notes
    -----
    With B symmetric and A the inverse of a symmetric matrix C this is trace(C^-1 B), the derivative of log det C in the
    direction of B. Cost O(n k^2) for HSS matrices, through their bases; O(n k^2 log n) for HODLR and H-matrices, which
    must have one partition. A format without a method of its own sums the entries of `conj(A).hadamard(B)`, which is
    recompressed to the tolerance of the operands.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> x = np.linspace(0, 1, 400)
    >>> A = sm.HSSMatrix.from_kernel(lambda s, t: np.exp(-abs(s[:, None] - t)), x, rtol=1e-10)
    >>> bool(np.isclose(sm.inner(A, A), A.norm("fro") ** 2, rtol=1e-10))
    True
    """
    _require_one_format(a, b)
    if hasattr(a, "_inner"):
        return a._inner(b)
    if not hasattr(a, "hadamard"):
        raise TypeError(f"{type(a).__name__} has no inner product: it has neither _inner nor hadamard")
    ones = np.ones(a.shape[1])
    return (a.conj().hadamard(b) @ ones).sum()


def trace_of_solve(a: StructuredMatrix, b: StructuredMatrix) -> Any:
    """The trace of A^-1 B without the product: the derivative of log det A in the direction of B.

    Parameters
    ----------
    a, b : StructuredMatrix
        Square, of one format, one shape and the same trees.

    Returns
    -------
    float or complex

    Raises
    ------
    NotPositiveDefiniteError
        Where both are stored as Hermitian, but A is not positive definite.

    Notes
    -----
    Where both are Hermitian it comes from a Cholesky factorisation of A, and is as accurate as a solve. That of HSS and
    HODLR matrices is differentiated in the direction of B, O(n k^2) and O(n k^2 log^2 n). For H-matrices all columns of
    A^-1 are computed, some at a time, and used up: O(n^2 k log n) time and O(n) memory, and as accurate as the
    factorisation is, see `HCholesky.certificate`. Otherwise it is `inner(A.inverse().H, B)`, which for an
    ill-conditioned A loses as many digits as the condition number has.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> x = np.linspace(0, 1, 400)
    >>> A = sm.HSSMatrix.from_kernel(lambda s, t: np.exp(-abs(s[:, None] - t)), x, rtol=1e-10, symmetric=True)
    >>> bool(np.isclose(sm.trace_of_solve(A, A), 400))
    True
    """
    _require_one_format(a, b)
    a._require_square("trace_of_solve")
    if hasattr(a, "_trace_of_solve"):
        return a._trace_of_solve(b)
    return inner(a.inverse().H, b)


def _require_one_format(a: Any, b: Any) -> None:
    for name, matrix in (("a", a), ("b", b)):
        if not isinstance(matrix, StructuredMatrix):
            raise TypeError(f"{name} must be a structured matrix, but it is of type {type(matrix).__name__}")
    if type(a) is not type(b):
        raise TypeError(f"a and b must be of one format, but they are {type(a).__name__} and {type(b).__name__}")
