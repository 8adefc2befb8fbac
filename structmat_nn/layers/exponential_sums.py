"""Exponential sums for 1/x, and with them Kronecker products for the inverse of a Laplace-like operator.

On a positive interval ``1/x ~ sum_k w_k exp(-t_k x)``. For an operator ``A_1 + ... + A_m``, each summand acting on one
mode, ``exp(-t (A_1 + ... + A_m))`` is the Kronecker product of the ``exp(-t A_j)``: hence the inverse is a sum of
Kronecker products, in any dimension.

References
----------
D. Braess, W. Hackbusch, "Approximation of 1/x by exponential sums in [1, inf)", IMA J. Numer. Anal. 25 (2005) 685-697.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from structmat import _check
from structmat._typing import NumpyArray
from structmat.exceptions import ShapeError, SymmetryError

if TYPE_CHECKING:
    from .tensor import HSSTensorLinear

__all__ = ["ExponentialSum", "ExponentialSumStart", "exponential_sum", "kronecker_inverse"]

SPECTRUM_POINTS = 600
LAWSON_STEPS = 15


@dataclass(frozen=True)
class ExponentialSum:
    """``1/x ~ sum_k weights_k exp(-exponents_k x)`` on [lower, upper].

    Attributes
    ----------
    exponents, weights : (K,) arrays, positive
    lower, upper : float
    largest_error : float
        Of ``|1 - x sum_k ...|`` on the interval, on the points of the fit.
    """

    exponents: NumpyArray
    weights: NumpyArray
    lower: float
    upper: float
    largest_error: float

    def __call__(self, x: Any) -> NumpyArray:
        """The sum at the points x."""
        return np.exp(-np.multiply.outer(np.asarray(x, dtype=np.float64), self.exponents)) @ self.weights


def exponential_sum(
    lower: float, upper: float, terms: int, *, points: Any = None, multiplicities: Any = None
) -> ExponentialSum:
    """An exponential sum for 1/x on an interval, or on points with weights, near the best one of its length.

    Parameters
    ----------
    lower, upper : float
        Ends of the interval, 0 < lower <= upper.
    terms : int
        Number of exponentials K.
    points, multiplicities : (s,) arrays, optional
        If given, the sum of squares of ``multiplicity * (error at the point)^2`` is minimised: with the spectrum of an
        operator that is the Frobenius norm of the error of its inverse. Default: the largest relative error on the
        interval is minimised.

    Notes
    -----
    Nonlinear least squares in the logarithms of exponents and weights, from a geometric start; the largest error is
    minimised by Lawson's reweighting. It decreases like ``exp(-pi^2 K / log(8 upper / lower))``.

    Examples
    --------
    >>> from structmat_nn.layers.exponential_sums import exponential_sum
    >>> for terms in (4, 8):
    ...     print(terms, f"{exponential_sum(1.0, 1000.0, terms).largest_error:.0e}")
    4 9e-02
    8 1e-03
    """
    terms = _check.positive_integer(terms, "terms")
    if not 0.0 < lower <= upper < np.inf:
        raise ValueError(f"lower and upper must be 0 < lower <= upper, but they are {lower} and {upper}")
    grid = np.geomspace(1.0, upper / lower, max(60 * terms, 200)) if upper > lower else np.ones(1)
    if points is None:
        weights = np.ones_like(grid)
    else:
        grid = np.asarray(points, dtype=np.float64) / lower
        weights = np.sqrt(np.asarray(multiplicities, dtype=np.float64)) / grid
    problem = _Fit(grid, terms)
    candidates = [problem.solve(weights, start) for start in problem.starts()]
    best = min(candidates, key=lambda p: problem.size(p, weights))
    if points is None:
        best = _lawson(problem, best)
    exponents, scaled = np.exp(best[:terms]) / lower, np.exp(best[terms:]) / lower
    error = float(np.abs(problem.relative_error(best)).max())
    return ExponentialSum(exponents, scaled, float(lower), float(upper), error)


class _Fit:
    """Least squares for ``x E(x) = 1`` in the logarithms (log t_1 .., log w_1 ..)."""

    def __init__(self, x: NumpyArray, terms: int) -> None:
        self.x, self.terms = x, terms

    def starts(self) -> list[NumpyArray]:
        """Trapezoidal rules in log t, over ranges that suit small and large numbers of terms."""
        out = []
        for stretch in (1.0, 2.0, 6.0):
            logarithms = np.linspace(np.log(0.5 / (stretch * self.x[-1])), np.log(2.0 * stretch), self.terms)
            step = logarithms[1] - logarithms[0] if self.terms > 1 else 1.0
            out.append(np.concatenate([logarithms, logarithms + np.log(step)]))
        return out

    def _terms(self, p: NumpyArray) -> NumpyArray:
        """Each term times x, (points, K)."""
        t, w = np.exp(np.clip(p, -60.0, 60.0)).reshape(2, self.terms)
        return np.exp(-np.outer(self.x, t)) * w * self.x[:, None]

    def relative_error(self, p: NumpyArray) -> NumpyArray:
        return self._terms(p).sum(axis=1) - 1.0

    def size(self, p: NumpyArray, weights: NumpyArray) -> float:
        return float(np.linalg.norm(weights * self.relative_error(p)))

    def solve(self, weights: NumpyArray, start: NumpyArray, evaluations: int = 200) -> NumpyArray:
        from scipy.optimize import least_squares

        def slope(p: NumpyArray) -> NumpyArray:
            terms = self._terms(p) * weights[:, None]
            return np.concatenate([-terms * np.outer(self.x, np.exp(np.clip(p[: self.terms], -60, 60))), terms], axis=1)

        def residual(p: NumpyArray) -> NumpyArray:
            return weights * self.relative_error(p)

        fit = least_squares(
            residual, start, slope, x_scale="jac", max_nfev=evaluations, xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
        return np.asarray(fit.x)


def _lawson(problem: _Fit, start: NumpyArray) -> NumpyArray:
    """From the smallest sum of squares towards the smallest maximum: points of large error gain weight."""
    best, current = start, start
    weights = np.ones_like(problem.x)
    for _ in range(LAWSON_STEPS):
        error = np.abs(problem.relative_error(current))
        weights = weights * np.sqrt(np.maximum(error / error.max(), 1e-3))
        weights /= np.sqrt(np.mean(weights**2))
        current = problem.solve(weights, current, 30)
        if np.abs(problem.relative_error(current)).max() < np.abs(problem.relative_error(best)).max():
            best = current
    return best


# --------------------------------------------------------------------------- Laplace-like operators


@dataclass(frozen=True)
class Decomposed:
    """A symmetric matrix by its eigenpairs.

    Attributes
    ----------
    values : (n,) array
    vectors : (n, n) array, orthogonal
    """

    values: NumpyArray
    vectors: NumpyArray

    @classmethod
    def of(cls, operator: Any, name: str) -> Decomposed:
        """From a symmetric matrix (n, n) or a pair (values (n,), orthonormal vectors (n, n))."""
        if isinstance(operator, tuple):
            values, vectors = _check.vector(operator[0], f"{name}[0]"), _check.matrix(operator[1], f"{name}[1]")
            if vectors.shape != (len(values), len(values)):
                raise ShapeError(f"{name}[1] must be {len(values)} eigenvectors, but its shape is {vectors.shape}")
            return cls(values, vectors)
        matrix = _check.matrix(operator, name)
        if matrix.shape[0] != matrix.shape[1]:
            raise ShapeError(f"{name} must be square, but its shape is {matrix.shape}")
        asymmetry = float(np.linalg.norm(matrix - matrix.T)) / max(float(np.linalg.norm(matrix)), 1e-300)
        if asymmetry > 1e-10:
            raise SymmetryError(
                f"{name} must be symmetric, but ||A - A^T|| / ||A|| = {asymmetry:.1e}; for a matrix that is similar to "
                f"a symmetric one scale its rows and columns first"
            )
        return cls(*np.linalg.eigh(matrix))

    def exponential(self, t: float) -> NumpyArray:
        """exp(-t A), (n, n)."""
        return (self.vectors * np.exp(-t * self.values)) @ self.vectors.T


def spectrum_of_sum(operators: Sequence[Decomposed]) -> tuple[NumpyArray, NumpyArray]:
    """All sums of one eigenvalue from each operator: (values ascending, multiplicities).

    From `SPECTRUM_POINTS` on they are gathered in intervals of the logarithm, after each mode.
    """
    values, counts = np.zeros(1), np.ones(1)
    for operator in operators:
        values = np.add.outer(values, operator.values).ravel()
        counts = np.repeat(counts, len(operator.values))
        if values.min() > 0.0 and len(values) > SPECTRUM_POINTS:
            values, counts = _gathered(values, counts)
    order = np.argsort(values)
    return values[order], counts[order]


def _gathered(values: NumpyArray, counts: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Weighted means within equal intervals of log(value); the two ends stay as they are."""
    edges = np.geomspace(values.min(), values.max() * (1 + 1e-12), SPECTRUM_POINTS)
    place = np.digitize(values, edges)
    place[values == values.min()], place[values == values.max()] = 0, SPECTRUM_POINTS + 1
    total = np.bincount(place, counts)
    mean = np.bincount(place, counts * values)
    kept = total > 0
    return mean[kept] / total[kept], total[kept]


def kronecker_inverse(
    operators: Sequence[Any], terms: int, *, criterion: str = "frobenius"
) -> tuple[list[NumpyArray], ExponentialSum, float]:
    """Dense factors of the inverse of ``A_1 + ... + A_m`` as a sum of Kronecker products.

    Parameters
    ----------
    operators : sequence of (n_j, n_j) arrays or of pairs (values, vectors)
        One symmetric matrix for each mode; the sums of their eigenvalues must be positive.
    terms : int
        Number of Kronecker products K.
    criterion : {"frobenius", "relative"}
        Minimise the Frobenius norm of the error of the inverse, or the largest relative error over the spectrum.

    Returns
    -------
    factors : list of (K, n_j, n_j) arrays
        ``w_k^(1/m) exp(-t_k A_j)``.
    sums : ExponentialSum
    error : float
        Relative Frobenius error of the inverse (over the spectrum, which may be gathered in intervals).
    """
    if criterion not in ("frobenius", "relative"):
        raise ValueError(f"criterion must be 'frobenius' or 'relative', but it is {criterion!r}")
    if not operators:
        raise ValueError("operators is empty; give one symmetric matrix for each mode")
    parts = [Decomposed.of(a, f"operators[{mode}]") for mode, a in enumerate(operators)]
    smallest = sum(float(part.values.min()) for part in parts)
    largest = sum(float(part.values.max()) for part in parts)
    if smallest <= 1e-13 * abs(largest):
        raise ValueError(
            f"the operators must have a positive definite sum, but its smallest eigenvalue is {smallest:.3g} and its "
            f"largest {largest:.3g}; shift a singular operator (Neumann, periodic), and start an indefinite one "
            f"(Helmholtz) at random"
        )
    values, counts = spectrum_of_sum(parts)
    chosen = {"points": values, "multiplicities": counts} if criterion == "frobenius" else {}
    sums = exponential_sum(float(values[0]), float(values[-1]), terms, **chosen)
    inverse = 1.0 / values
    error = float(np.sqrt(np.sum(counts * (sums(values) - inverse) ** 2) / np.sum(counts * inverse**2)))
    root = sums.weights ** (1.0 / len(parts))
    factors = [np.stack([w * part.exponential(t) for w, t in zip(root, sums.exponents, strict=True)]) for part in parts]
    return factors, sums, error


# ------------------------------------------------------------------------------------- the layer


@dataclass(frozen=True)
class ExponentialSumStart:
    """What a start from an exponential sum attains.

    Attributes
    ----------
    terms : int
        Number of Kronecker products.
    sums : ExponentialSum
    spectrum_error : float
        Relative Frobenius error of the inverse with dense factors.
    largest_error : float
        The largest relative error over the spectrum with dense factors.
    compression_errors : tuple of float
        For each mode the largest relative Frobenius error of a factor from its compression.
    layer_error : float
        Relative Frobenius error of the inverse as the layer holds it.
    """

    terms: int
    sums: ExponentialSum
    spectrum_error: float
    largest_error: float
    compression_errors: tuple[float, ...]
    layer_error: float


def start_layer(
    layer: HSSTensorLinear, operators: Sequence[Any], *, scale: float, criterion: str
) -> ExponentialSumStart:
    """See `HSSTensorLinear.init_from_exponential_sum`."""
    _require_fit(layer, operators)
    if not np.isfinite(scale) or scale == 0.0:
        raise ValueError(f"scale must be a finite number other than 0, but it is {scale!r}")
    factors, sums, spectrum_error = kronecker_inverse(operators, layer.outer_rank, criterion=criterion)
    compression = layer.init_from_dense([factors[0] * scale, *factors[1:]])
    if layer.channel_factors is not None:
        with torch.no_grad():
            layer.channel_factors.copy_(torch.eye(layer.channel_factors.shape[1]).expand_as(layer.channel_factors))
    parts = [Decomposed.of(a, f"operators[{mode}]") for mode, a in enumerate(operators)]
    held = [f.detach().double().cpu().numpy() for f in layer.factors()]
    error = _inverse_error([held[0] / scale, *held[1:]], parts)
    return ExponentialSumStart(layer.outer_rank, sums, spectrum_error, sums.largest_error, tuple(compression), error)


def _require_fit(layer: HSSTensorLinear, operators: Sequence[Any]) -> None:
    if layer.shape != layer.out_shape or (layer.channels is not None and layer.channels[0] != layer.channels[1]):
        raise ShapeError(f"the layer maps {layer._sizes()}; an inverse needs equal shapes and channels")
    if len(operators) != layer.modes:
        raise ShapeError(
            f"operators must have one matrix for each of the {layer.modes} modes, but has {len(operators)}"
        )
    for mode, operator in enumerate(operators):
        n = len(operator[0])
        if n != layer.shape[mode]:
            raise ShapeError(f"operators[{mode}] has size {n}, but the layer has size {layer.shape[mode]} there")


def _inverse_error(factors: Sequence[NumpyArray], parts: Sequence[Decomposed]) -> float:
    """Relative Frobenius error of a sum of Kronecker products as the inverse of the sum of the operators.

    In the eigenvectors of the operators the inverse is diagonal: the error of the diagonal is a difference of tensors,
    and what is beside the diagonal counts in full.
    """
    turned = [p.vectors.T @ f @ p.vectors for f, p in zip(factors, parts, strict=True)]  # (K, n_j, n_j)
    count = len(turned[0])
    sums: NumpyArray = np.zeros(1)
    for part in parts:
        sums = np.add.outer(sums, part.values).ravel()
    diagonal = np.zeros_like(sums)
    for k in range(count):
        product = np.ones(1)
        for t in turned:
            product = np.multiply.outer(product, np.diagonal(t[k])).ravel()
        diagonal += product
    gram, diagonal_gram = np.ones((count, count)), np.ones((count, count))
    for t in turned:
        d = np.diagonal(t, axis1=1, axis2=2)
        gram *= t.reshape(count, -1) @ t.reshape(count, -1).T
        diagonal_gram *= d @ d.T
    beside = max(float(gram.sum() - diagonal_gram.sum()), 0.0)
    return float(np.sqrt((np.sum((diagonal - 1.0 / sums) ** 2) + beside) / np.sum(sums**-2.0)))
