"""The log marginal likelihood of a compressed covariance matrix, and its gradient.

For K = k(X, X) + noise I, a = K^-1 y, and m columns of y that share K,

    L = -1/2 sum(y * a) - m/2 log det K - n m / 2 log(2 pi),
    dL / dt = 1/2 sum(a * (K' a)) - m/2 trace(K^-1 K'),    K' = dK / dt,

t the logarithm of a hyperparameter. K' is the matrix of a kernel too, and is compressed on the tree of K.

Reference: C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press, 2006, section 5.4.1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._typing import NumpyArray, RandomLike
from ..exceptions import AccuracyWarning, NotPositiveDefiniteError, ShapeError
from ..kernelfunctions import KernelFunction
from ..linalg import inner
from ..tree import ClusterTree
from .covariance import choose_format, matrix_class

# the error of the matrix relative to the noise where no tolerance is given: the matrix then stays positive definite
SHARE_OF_NOISE = 1e-3
RTOL_RANGE = (1e-12, 1e-8)
DERIVATIVE_RTOL = 1e-6  # a derivative is small beside the matrix, and need not be known to the same relative error
SLACK = 10.0  # a chosen tolerance may be missed by so much: the error is then still below a hundredth of the noise
ALL_ENTRIES_BELOW = 5000  # up to so many points a build may look at all entries, 200 MB of them
IDENTITY = None  # in place of a derivative that is the identity
PAIRS = 4096  # entries that estimate the norm of the matrix


@dataclass(frozen=True)
class Evaluation:
    """The log marginal likelihood at one set of hyperparameters, and what it was computed with.

    Attributes
    ----------
    value : float
        The log marginal likelihood, summed over the columns of y.
    gradient : (p,) array or None
        Its derivatives with respect to the logarithms of the hyperparameters asked for.
    gradient_error : (p,) array or None
        Standard errors of the gradient: zero for the exact trace, up to the tolerance of the matrix.
    matrix, factorization : object
        K with the noise on its diagonal, and its factorisation.
    weights : (n, m) array
        a = K^-1 y.
    rtol : float
        The tolerance of the matrix.
    accurate : bool
        Whether all matrices met their tolerances; where none was given, to a factor of ten.
    """

    value: float
    gradient: NumpyArray | None
    gradient_error: NumpyArray | None
    matrix: Any
    factorization: Any
    weights: NumpyArray
    rtol: float
    accurate: bool


class MarginalLikelihood:
    """The log marginal likelihood of data under a Gaussian process with mean zero.

    Parameters
    ----------
    points : (n, d) array
        Where the data are.
    values : (n,) or (n, m) array
        The data; several columns are independent given the hyperparameters, and share the matrix.
    format : {"auto", "dense", "hodlr", "hmatrix", "hss"}
        The format of the covariance matrix.
    rtol : float, optional
        Its tolerance. Default: such that its error stays below a thousandth of the noise, within 1e-12 and 1e-8.
    leaf_size : int
        Largest leaf of the cluster tree.
    trace : {"exact", "stochastic"}
        Traces to the tolerance of the matrix, or by Hutchinson's estimator with its standard error.
    probes : int
        Number of random vectors of the stochastic trace; the same ones in every evaluation.
    rng : seed or numpy.random.Generator
        For those vectors.

    Notes
    -----
    One evaluation costs a build and a Cholesky factorisation, the gradient a build and a trace for each hyperparameter:
    O(n k^2) each for HSS matrices, O(n k^2 log^2 n) for HODLR matrices. For H-matrices all exact traces together cost
    O(n^2 k log n) time, stochastic ones O(n k log n) for each probe. The gradient is exact for the matrices as they are
    compressed and factored, and `Evaluation.accurate` tells whether all of them met their tolerances.

    References
    ----------
    M. F. Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433-450, for the stochastic trace.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.gp import MarginalLikelihood
    >>> from structmat.kernelfunctions import Matern
    >>> x = np.linspace(0, 10, 2000)[:, None]
    >>> likelihood = MarginalLikelihood(x, np.sin(x[:, 0]), format="hss")
    >>> found = likelihood.evaluate(Matern(1.5, length=2.0), noise=0.01, gradient=("length", "noise"))
    >>> found.gradient.shape, found.accurate
    ((2,), True)
    """

    def __init__(
        self, points: Any, values: Any, *, format: str = "auto", rtol: float | None = None, leaf_size: int = 64,
        trace: str = "exact", probes: int = 30, rng: RandomLike = 0,
    ) -> None:  # fmt: skip
        self.points = _check.points(points)
        array = np.asarray(values)
        self.values = _check.matrix(array.reshape(-1, 1) if array.ndim == 1 else array, "values").astype(np.float64)
        if len(self.points) != len(self.values):
            raise ShapeError(f"values has {len(self.values)} rows, but there are {len(self.points)} points")
        if trace not in ("exact", "stochastic"):
            raise ValueError(f'trace must be "exact" or "stochastic", but it is {trace!r}')
        dimension = 1 if self.points.ndim == 1 else self.points.shape[1]
        self.format = choose_format(format, len(self.points), dimension)
        self.rtol = None if rtol is None else _check.tolerance(rtol)
        leaf = _check.positive_integer(leaf_size, "leaf_size")
        self.tree = ClusterTree.from_points(self.points, leaf)
        self._random_signs: NumpyArray | None = None  # (n, probes)
        if trace == "stochastic":
            count = _check.positive_integer(probes, "probes", minimum=2)
            self._random_signs = _check.generator(rng).choice([-1.0, 1.0], size=(len(self.points), count))

    def evaluate(self, kernel: KernelFunction, noise: float, *, gradient: tuple[str, ...] = ()) -> Evaluation:
        """The likelihood of a kernel and a noise variance.

        Parameters
        ----------
        kernel : KernelFunction
            The covariance without the noise.
        noise : float
            Variance of the noise, >= 0.
        gradient : tuple of str
            The hyperparameters of the kernel to differentiate for, and `"noise"`.

        Returns
        -------
        Evaluation

        Raises
        ------
        NotPositiveDefiniteError
            When a pivot is lost: the compressed matrix, or rounding, leaves it indefinite.
        """
        size = self._norm(kernel)
        rtol = float(np.clip(SHARE_OF_NOISE * noise / size, *RTOL_RANGE)) if self.rtol is None else self.rtol
        signal = self._build(kernel, rtol)
        matrix = signal.add_diagonal(noise)
        factorization = _cholesky(matrix, noise, rtol)
        weights = factorization.solve(self.values)
        n, m = self.values.shape
        value = -0.5 * (np.vdot(self.values, weights) + m * factorization.slogdet()[1] + n * m * np.log(2.0 * np.pi))
        found: tuple[NumpyArray | None, NumpyArray | None] = (None, None)
        errors = [self._excess(signal), self._excess_of_factors(factorization, rtol)]
        if gradient:
            slopes = _Slopes(self, kernel, noise, signal, matrix, factorization, weights, rtol * size)
            rows = slopes.of(gradient)
            found, errors = (rows[:, 0], rows[:, 1]), errors + slopes.errors
        accurate = max(errors) <= 1.0
        if not accurate:
            _warn_of_error(self.format, rtol, max(errors))
        return Evaluation(float(value), *found, matrix, factorization, weights, rtol, accurate)

    def _norm(self, kernel: KernelFunction) -> float:
        """The Frobenius norm of k(X, X), estimated from its diagonal and random entries beside it."""
        n = len(self.points)
        square = float(np.square(kernel.variances(self.points)).sum())
        if n > 1:
            i, j = np.random.default_rng(0).integers(n, size=(2, PAIRS))
            x, y = (self.points.reshape(n, 1, -1)[index] for index in (i, j))
            square += n * (n - 1) * float(np.square(kernel(x, y)).mean())
        return float(np.sqrt(square)) or 1.0

    def _build(self, kernel: KernelFunction, rtol: float) -> Any:
        """The matrix of a kernel; of all its entries, where the sampled ones were not enough and n is moderate.

        Builds from a kernel sample the far field, as suits kernels that are smooth away from the diagonal. A periodic
        one is not, and the certificate says so.
        """
        cls = matrix_class(self.format)
        # the partition must not change with the hyperparameters: the likelihood would jump
        fixed = {"admissibility": cls.default_admissibility} if self.format == "hmatrix" else {}
        with warnings.catch_warnings():  # the certificate is judged by what it means for the likelihood
            warnings.simplefilter("ignore", AccuracyWarning)
            matrix = cls.from_kernel(kernel, self.points, self.tree, rtol=rtol, symmetric=True, **fixed)
            if self._excess(matrix) > 1.0 and len(self.points) <= ALL_ENTRIES_BELOW:
                return cls.from_dense(kernel(self.points, self.points), self.tree, rtol=rtol, symmetric=True)
        return matrix

    @property
    def _slack(self) -> float:
        return 1.0 if self.rtol is not None else SLACK

    def _excess(self, matrix: Any) -> float:
        """The error of a matrix over what is allowed: its tolerance where that was given, more where it was chosen."""
        certificate = getattr(matrix, "certificate", None)
        if certificate is None:
            return 0.0
        return float(certificate.upper_bound / (certificate.asked * self._slack))

    def _excess_of_factors(self, factorization: Any, rtol: float) -> float:
        """The same for a factorisation that truncates (H-Cholesky), by the estimate of its error.

        Its bound is for an error of rank one, the worst case; this one is the sum of many independent truncations.
        """
        certificate = getattr(factorization, "certificate", None)
        if certificate is None:
            return 0.0
        return float(certificate.estimate / (max(rtol, RTOL_RANGE[0]) * self._slack))


def _warn_of_error(name: str, rtol: float, excess: float) -> None:
    warnings.warn(
        f"a covariance matrix or a derivative of it did not meet its tolerance: at rtol = {rtol:.1e} its error may be "
        f"{excess:.1f} times what is allowed in the format {name}; use a larger rtol, a larger leaf_size or another "
        "format",
        AccuracyWarning,
        stacklevel=4,
    )


def _cholesky(matrix: Any, noise: float, rtol: float) -> Any:
    try:
        return matrix.factorize(positive_definite=True)
    except NotPositiveDefiniteError as error:
        raise NotPositiveDefiniteError(
            f"the covariance matrix lost a pivot in node {error.node} of level {error.level}, at rtol = {rtol:.1e} and "
            f"noise = {noise:.1e}: the error of the matrix, or rounding, exceeds the noise; use a tighter rtol or more "
            "noise",
            error.level,
            error.node,
        ) from error


class _Slopes:
    """Derivatives of the likelihood at one point, (value, standard error) each."""

    def __init__(
        self, problem: MarginalLikelihood, kernel: KernelFunction, noise: float, signal: Any, matrix: Any,
        factorization: Any, weights: NumpyArray, allowed: float,
    ) -> None:  # fmt: skip
        self.problem, self.kernel, self.noise = problem, kernel, noise
        self.signal, self.weights, self.allowed = signal, weights, allowed
        signs = problem._random_signs
        self.errors: list[float] = []  # of the derivatives, over what is allowed
        self.trace: ExactTrace | StochasticTrace = (
            ExactTrace(matrix, factorization, problem.tree) if signs is None else StochasticTrace(factorization, signs)
        )

    def of(self, names: tuple[str, ...]) -> NumpyArray:
        """The derivatives, (p, 2)."""
        changed = {name: self._compressed(name) for name in names if not self._by_identity(name)}
        self.errors += [self.problem._excess(matrix) for matrix in changed.values()]
        *traces, identity = self.trace.of([*changed.values(), IDENTITY])
        by_name = dict(zip(changed, traces, strict=True))
        return np.array([self._slope(name, changed.get(name), *by_name.get(name, identity)) for name in names])

    def _by_identity(self, name: str) -> bool:
        """Whether K' is the noise, or K without it."""
        return name == "noise" or self.kernel.derivative(name) == self.kernel

    def _slope(self, name: str, changed: Any, trace: float, error: float) -> tuple[float, float]:
        """From the trace of K^-1 K', or that of K^-1 where K' = K - noise I or noise I."""
        n, count = self.weights.shape
        if name == "noise":
            trace, error = self.noise * trace, self.noise * error
            quadratic = self.noise * float(np.vdot(self.weights, self.weights))
        else:
            if changed is None:
                trace, error = n - self.noise * trace, self.noise * error
            moved = self.signal if changed is None else changed
            quadratic = float(np.vdot(self.weights, moved @ self.weights))
        return 0.5 * (quadratic - count * trace), 0.5 * count * error

    def _compressed(self, name: str) -> Any:
        """A derivative of the matrix, with the same absolute error as the matrix."""
        derivative = self.kernel.derivative(name)
        rtol = self.allowed / self.problem._norm(derivative)
        return self.problem._build(derivative, float(np.clip(rtol, RTOL_RANGE[0], DERIVATIVE_RTOL)))


class ExactTrace:
    """Trace(K^-1 B) without sampling, for several B.

    By the factorisation where it can (HODLR, H), by the verb of the format (`structmat.trace_of_solve`; HSS), or from
    the inverse, formed once.
    """

    def __init__(self, matrix: Any, factorization: Any, tree: ClusterTree) -> None:
        self._matrix, self._factorization, self._tree = matrix, factorization, tree

    def of(self, changed: list[Any]) -> list[tuple[float, float]]:
        """The traces, and their standard errors: zero. `IDENTITY` stands for B = I."""
        matrices = [type(self._matrix).identity(self._tree) if b is IDENTITY else b for b in changed]
        return [(float(np.real(value)), 0.0) for value in self._values(matrices)]

    def _values(self, matrices: list[Any]) -> list[Any]:
        if hasattr(self._factorization, "_traces_of_solve"):
            found: list[Any] = self._factorization._traces_of_solve(matrices)
            return found
        if hasattr(self._matrix, "_trace_of_solve"):
            return [self._matrix._trace_of_solve(b) for b in matrices]
        inverse = self._factorization.inverse()
        return [inner(inverse, b) for b in matrices]


class StochasticTrace:
    """Hutchinson's estimator: the mean of z^T K^-1 B z over random signs z, with its standard error."""

    def __init__(self, factorization: Any, signs: NumpyArray) -> None:
        self._signs, self._solved = signs, factorization.solve(signs)

    def of(self, changed: list[Any]) -> list[tuple[float, float]]:
        """The estimates, and their standard errors."""
        return [self._estimate(self._signs if b is IDENTITY else b @ self._signs) for b in changed]

    def _estimate(self, products: NumpyArray) -> tuple[float, float]:
        samples = np.einsum("ij,ij->j", self._solved, products)
        return float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(len(samples)))
