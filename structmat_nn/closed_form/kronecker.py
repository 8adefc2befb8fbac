"""fit_kronecker: a sum of Kronecker products from recorded fields in two dimensions, by alternating least squares.

For fields X (n1, n2) and Y = sum_k A_k X B_k^T the outputs are linear in all A_k while the B_k are fixed, and the other
way round. The start is the truncated singular value decomposition of the rearranged operator (C. F. Van Loan,
N. Pitsianis, 1993), which white inputs give as an average; inputs that are not white are whitened along each axis.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from structmat import NonFiniteError, ShapeError, TooFewSamplesError, _check
from structmat._typing import NumpyArray, RandomLike

from ..layers.kronecker import KroneckerSum
from .identify import IdentifiabilityWarning

__all__ = ["KroneckerFit", "fit_kronecker"]

NEGLIGIBLE = 1e-10  # singular values of the inputs along an axis, relative to the largest, that count as rounding
POWER_STEPS = 6  # of the power iteration that starts a term
GROWING = 5  # sweeps before the next term is added
STAGNATION = 1e-3  # sweeps end where one gains less than this share of the residual ...
EXACT = 1e-13  # ... or where the residual is rounding


@dataclass(frozen=True)
class KroneckerFit:
    """A sum of Kronecker products that was fitted to fields.

    Attributes
    ----------
    operator : KroneckerSum
        Acts on fields (..., n1, n2).
    residual : float
        Relative residual on the samples.
    dimensions : (int, int)
        Of the span of the inputs along each axis. Where they are smaller than the field, nothing is known beyond.
    outside : float
        Share of the energy of a white-noise field that is outside this span.
    sweeps : int
        Done.
    """

    operator: KroneckerSum
    residual: float
    dimensions: tuple[int, int]
    outside: float
    sweeps: int

    def predict(self, inputs: Any) -> NumpyArray:
        """The operator applied to fields (..., n1, n2)."""
        return self.operator.apply(inputs)


def fit_kronecker(
    inputs: Any, outputs: Any, *, terms: int, sweeps: int = 100, ridge: float = 0.0, rng: RandomLike = None
) -> KroneckerFit:
    """Fit a sum of Kronecker products to fields in two dimensions.

    Parameters
    ----------
    inputs : (samples, n1, n2) array
        Fields, real.
    outputs : (samples, m1, m2) array
        What the operator makes of them.
    terms : int
        Number of Kronecker products.
    sweeps : int
        At most so many rounds over both axes.
    ridge : float
        Weight of the size of the factors against the misfit, for noisy outputs.
    rng : seed or numpy.random.Generator
        For the start.

    Returns
    -------
    KroneckerFit
        `operator`, `residual`, and what the inputs span.

    Raises
    ------
    TooFewSamplesError
        When the outputs hold fewer numbers than the factors.

    Warns
    -----
    IdentifiabilityWarning
        When the inputs do not span the fields: the operator is zero on what they leave out.

    Notes
    -----
    The problem is not convex: a residual above the noise may be a bad stationary point, and more samples, more terms
    or another `rng` may help. It converges fast where the operator has exactly `terms` terms, and slowly where it is
    merely near such a sum. A sweep costs O(s K n^3 + s n (K n)^2) for s fields of n x n points.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn import fit_kronecker
    >>> rng = np.random.default_rng(0)
    >>> left, right = rng.standard_normal((2, 2, 10, 10))
    >>> fields = rng.standard_normal((40, 10, 10))
    >>> images = sum(a @ fields @ b.T for a, b in zip(left, right))
    >>> found = fit_kronecker(fields, images, terms=2, rng=0)
    >>> new = rng.standard_normal((10, 10))
    >>> bool(np.allclose(found.predict(new), sum(a @ new @ b.T for a, b in zip(left, right))))
    True
    """
    x, y = _fields(inputs, "inputs"), _fields(outputs, "outputs")
    if len(x) != len(y):
        raise ShapeError(f"inputs has {len(x)} samples, but outputs has {len(y)}")
    terms = _check.positive_integer(terms, "terms")
    rounds = _check.positive_integer(sweeps, "sweeps")
    weight = _check.tolerance(ridge, "ridge")
    first, second = _axis(x, 1), _axis(x, 2)
    core = first.whiten @ x @ second.whiten.T  # (s, d1, d2), white on average
    dimensions = core.shape[1:]
    unknowns = terms * (y.shape[1] * dimensions[0] + y.shape[2] * dimensions[1])
    if y.size < unknowns:
        raise TooFewSamplesError(
            f"{len(y)} outputs hold {y.size} numbers, but {terms} terms have {unknowns} unknowns: record more samples, "
            "or lower terms"
        )
    a, b, residual, done = _alternate(core, y, terms, rounds, weight, _check.generator(rng))
    operator = KroneckerSum([a @ first.whiten, b @ second.whiten])
    outside = 1.0 - dimensions[0] * dimensions[1] / (x.shape[1] * x.shape[2])
    if outside > 0:
        warnings.warn(
            f"the inputs span {dimensions[0]} and {dimensions[1]} dimensions along the axes of fields of "
            f"{x.shape[1]} x {x.shape[2]}: {outside:.0%} of the energy of white noise is outside, where the operator "
            "is taken for zero",
            IdentifiabilityWarning,
            stacklevel=2,
        )
    return KroneckerFit(operator, residual, (int(dimensions[0]), int(dimensions[1])), outside, done)


def _fields(a: Any, name: str) -> NumpyArray:
    array = np.asarray(a.detach().cpu() if hasattr(a, "detach") else a)
    if array.ndim != 3 or array.size == 0:
        raise ShapeError(f"{name} must be fields (samples, n1, n2), but the shape is {array.shape}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real, but its dtype is {array.dtype}")
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{name} must be finite, but it holds NaN or Inf")
    return array.astype(np.float64)


@dataclass(frozen=True)
class _Axis:
    whiten: NumpyArray  # (d, n): coordinates along an axis, of unit size on average


def _axis(x: NumpyArray, axis: int) -> _Axis:
    """Coordinates of the inputs along one axis, in which they are uncorrelated and of unit size."""
    unfolded = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    u, values, _ = scipy.linalg.svd(unfolded, full_matrices=False, lapack_driver="gesvd")
    if values[0] == 0:
        raise TooFewSamplesError("inputs is zero: it says nothing of the operator")
    keep = values > NEGLIGIBLE * values[0]
    deviation = values[keep] / np.sqrt(unfolded.shape[1])
    return _Axis((u[:, keep] / np.sqrt(deviation)).T * deviation.mean() ** -0.5)


def _alternate(
    x: NumpyArray, y: NumpyArray, terms: int, sweeps: int, ridge: float, rng: np.random.Generator
) -> tuple[NumpyArray, NumpyArray, float, int]:
    """Factors (K, m1, d1) and (K, m2, d2), the relative residual, and the number of sweeps."""
    size = float(np.linalg.norm(y))
    if size == 0.0:
        return np.zeros((1, y.shape[1], x.shape[1])), np.zeros((1, y.shape[2], x.shape[2])), 0.0, 0
    turned_x, turned_y = x.transpose(0, 2, 1), y.transpose(0, 2, 1)
    b, left = np.zeros((0, y.shape[2], x.shape[2])), y
    total = 0
    for count in range(1, terms + 1):
        # one term more, from what those so far leave: with all at once, few samples lead into bad valleys
        b = _orthonormal(np.concatenate([b, _start(x, left, rng)]))
        residual, allowed = np.inf, sweeps if count == terms else GROWING
        for done in range(1, allowed + 1):
            a, _ = _solve(x, y, b, ridge)
            a = _orthonormal(a)
            b, missed = _solve(turned_x, turned_y, a, ridge)
            before, residual = residual, float(np.linalg.norm(missed)) / size
            if residual < EXACT or before - residual < STAGNATION * residual or done == allowed:
                break
            b = _orthonormal(b)
        total += done
        left = missed.transpose(0, 2, 1)
        if residual < EXACT:
            break
    return a, b, residual, total


def _solve(x: NumpyArray, y: NumpyArray, fixed: NumpyArray, ridge: float) -> tuple[NumpyArray, NumpyArray]:
    """The factors of the first axis for those of the second one, and the misfit (s, m1, m2)."""
    terms, columns = len(fixed), y.shape[2]
    # (s, m2, K, d1): what each term hands to its first factor
    features = np.einsum("sij,kpj->spki", x, fixed, optimize=True).reshape(len(x) * columns, -1)
    targets = y.transpose(0, 2, 1).reshape(len(x) * columns, -1)
    if ridge:
        held = ridge * np.sqrt(np.mean(features**2) * len(features)) * np.eye(features.shape[1])
        solution = np.linalg.lstsq(
            np.vstack([features, held]), np.vstack([targets, np.zeros((len(held), targets.shape[1]))]), rcond=None
        )[0]
    else:
        solution = np.linalg.lstsq(features, targets, rcond=1e-14)[0]
    missed = (targets - features @ solution).reshape(len(x), columns, -1).transpose(0, 2, 1)
    return solution.reshape(terms, x.shape[1], -1).transpose(0, 2, 1), missed


def _orthonormal(factors: NumpyArray) -> NumpyArray:
    """Factors of the same span, orthonormal in the Frobenius inner product: the other axis makes up for the change."""
    q = np.linalg.qr(factors.reshape(len(factors), -1).T)[0]
    return np.ascontiguousarray(q.T).reshape(-1, *factors.shape[1:])


def _start(x: NumpyArray, y: NumpyArray, rng: np.random.Generator) -> NumpyArray:
    """The dominant second factor of the rearranged operator, (1, m2, d2), by power iteration on the samples.

    For white fields the mean of Y B X^T is the sum over k of A_k <B_k, B>.
    """
    b = _orthonormal(rng.standard_normal((1, y.shape[2], x.shape[2])))
    for _ in range(POWER_STEPS):
        a = _orthonormal(np.einsum("spq,kqj,sij->kpi", y, b, x, optimize=True))
        b = _orthonormal(np.einsum("spq,kpi,sij->kqj", y, a, x, optimize=True))
    return b
