"""HierarchicalGPRegressor: fit, predict, sample, in the style of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import _check
from .._typing import NumpyArray
from ..exceptions import AccuracyWarning, NonFiniteError, StructureWarning
from ..kernelfunctions import KernelFunction, Matern
from ._checks import features, targets
from ._estimator import EstimatorBase, NotFittedError, remember_features
from .hyperparameters import Hyperparameters
from .likelihood import Evaluation, MarginalLikelihood
from .optimize import History, maximize

CHUNK = 256  # points that are predicted at once: columns of a block solve


class HierarchicalGPRegressor(EstimatorBase):
    """Gaussian-process regression whose covariance matrix is held in a hierarchical format.

    The data are y = f(X) + noise, f a Gaussian process with mean zero (or the mean of y, see `normalize_y`) and the
    covariance of the kernel. The hyperparameters of the kernel and the variance of the noise maximise the log marginal
    likelihood, with its gradient.

    Parameters
    ----------
    kernel : KernelFunction, optional
        Covariance of f with its hyperparameters at the start: a kernel of `structmat.kernelfunctions`, or sums,
        products and multiples of them. Default: `1.0 * Matern(1.5)`.
    noise : float
        Variance of the noise at the start, >= 0; 0 is fixed. In the units of y squared, or of the normalised y.
    format : {"auto", "dense", "hodlr", "hmatrix", "hss"}
        Format of the covariance matrix. "auto": dense for few points, else by the dimension of the points.
    rtol : float, optional
        Tolerance of the matrix. Default: such that its error stays below a thousandth of the noise.
    leaf_size : int
        Largest leaf of the cluster tree.
    optimizer : {"L-BFGS-B"} or None
        None leaves the hyperparameters as they are.
    n_restarts_optimizer : int
        Further runs, from points drawn log-uniformly within the bounds.
    bounds : dict, optional
        By name of a hyperparameter (see `KernelFunction.hyperparameters`; and "noise"): `(low, high)` or `"fixed"`.
        Default: 1e-5 to 1e5, widened to hold the start.
    trace : {"exact", "stochastic"}
        Traces in the gradient to the tolerance of the matrix, or estimated from `probes` random vectors.
    probes : int
        Of the stochastic trace.
    normalize_y : bool
        Subtract the mean of y and divide by its standard deviation before fitting; predictions are in the units of y.
    max_iter : int
        Most iterations of a run of the optimiser.
    tol : float
        A run ends where an iteration gains less than this, relative to the likelihood.
    random_state : seed, numpy.random.Generator or None
        For restarts and random vectors.

    Attributes
    ----------
    kernel_, noise_ : KernelFunction, float
        With the fitted hyperparameters.
    theta_ : (p,) array
        Logarithms of those that were free, named by `theta_names_`.
    log_marginal_likelihood_value_ : float
        At `theta_`.
    format_, rtol_ : str, float
        What was used in the end.
    matrix_, factorization_ : object
        The covariance matrix with the noise on its diagonal, and its Cholesky factorisation.
    alpha_ : (n,) or (n, m) array
        K^-1 y.
    n_evaluations_, failed_evaluations_, inaccurate_evaluations_ : int
        Evaluations of the likelihood during the fit; those that lost a pivot, which count as minus infinity; and those
        in which a matrix did not meet its tolerance. A warning reports the latter two unless zero.
    n_iter_ : int
        Iterations of the best run of the optimiser.

    Notes
    -----
    With ranks k and p hyperparameters, an evaluation with its gradient costs O(p n k^2) for HSS matrices,
    O(p n k^2 log^2 n) for HODLR matrices, and O(p n k^2 log^2 n + n^2 k log n) for H-matrices; a prediction at m points
    O(m n), their standard deviations O(m n k), times log n for the latter two.

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press, 2006, sections 2.2
    and 5.4.1.

    S. Ambikasaran, D. Foreman-Mackey, L. Greengard, D. W. Hogg, M. O'Neil, IEEE Trans. Pattern Anal. Mach. Intell. 38
    (2016) 252-265, for hierarchical factorisations of covariance matrices.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.gp import HierarchicalGPRegressor
    >>> from structmat.kernelfunctions import Gaussian
    >>> rng = np.random.default_rng(0)
    >>> X = np.sort(10 * rng.random(400))[:, None]
    >>> y = np.sin(X[:, 0]) + 0.1 * rng.standard_normal(400)
    >>> gp = HierarchicalGPRegressor(1.0 * Gaussian(1.0), noise=0.1).fit(X, y)
    >>> mean, std = gp.predict([[2.0], [12.0]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(2.0)) < 0.05), bool(std[0] < 0.05 < std[1])
    (True, True)
    >>> print(f"{gp.noise_ ** 0.5:.1f}")
    0.1
    """

    def __init__(
        self,
        kernel: KernelFunction | None = None,
        *,
        noise: float = 0.01,
        format: str = "auto",
        rtol: float | None = None,
        leaf_size: int = 64,
        optimizer: str | None = "L-BFGS-B",
        n_restarts_optimizer: int = 0,
        bounds: Mapping[str, Any] | None = None,
        trace: str = "exact",
        probes: int = 30,
        normalize_y: bool = False,
        max_iter: int = 100,
        tol: float = 1e-7,
        random_state: Any = None,
    ) -> None:
        self.kernel, self.noise, self.format, self.rtol, self.leaf_size = kernel, noise, format, rtol, leaf_size
        self.optimizer, self.n_restarts_optimizer, self.bounds = optimizer, n_restarts_optimizer, bounds
        self.trace, self.probes, self.normalize_y = trace, probes, normalize_y
        self.max_iter, self.tol, self.random_state = max_iter, tol, random_state

    # ---------------------------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any) -> HierarchicalGPRegressor:
        """Fit the hyperparameters, and factor the covariance matrix.

        Parameters
        ----------
        X : (n, d) array
            Points; coinciding ones are fine where there is noise.
        y : (n,) or (n, m) array
            Data; several columns share the hyperparameters and the matrix.

        Returns
        -------
        HierarchicalGPRegressor
            The estimator itself.

        Raises
        ------
        NotPositiveDefiniteError
            When the matrix loses a pivot at the start, or without an optimiser.

        Warns
        -----
        AccuracyWarning
            When evaluations lost a pivot or did not meet their tolerance, or the optimiser stopped early.
        """
        start = self._checked_parameters()
        points = features(X)
        remember_features(self, X, points, reset=True)
        values = targets(y, len(points))
        self._y_shape = values.shape[1:]
        self._center, self._scale = _normalisation(values.reshape(len(points), -1), self.normalize_y)
        rng = _check.generator(self.random_state)
        self._likelihood = MarginalLikelihood(
            points, (values.reshape(len(points), -1) - self._center) / self._scale, format=self.format, rtol=self.rtol,
            leaf_size=self.leaf_size, trace=self.trace, probes=self.probes, rng=rng,
        )  # fmt: skip
        self._hyperparameters = start
        self.theta_names_, self.format_ = start.free, self._likelihood.format
        self.theta_ = self._fitted_theta(start, rng)
        self._finish()
        return self

    def _checked_parameters(self) -> Hyperparameters:
        kernel = 1.0 * Matern(1.5) if self.kernel is None else self.kernel
        if not isinstance(kernel, KernelFunction):
            raise TypeError(
                f"kernel must be a kernel of structmat.kernelfunctions, but it is of type {type(kernel).__name__}; "
                "derive a class from KernelFunction"
            )
        if self.optimizer not in ("L-BFGS-B", None):
            raise ValueError(f'optimizer must be "L-BFGS-B" or None, but it is {self.optimizer!r}')
        _check.positive_integer(self.n_restarts_optimizer, "n_restarts_optimizer", minimum=0)
        _check.positive_integer(self.max_iter, "max_iter")
        _check.tolerance(self.tol, "tol")
        return Hyperparameters.of(kernel, _check.tolerance(self.noise, "noise"), self.bounds)

    def _fitted_theta(self, start: Hyperparameters, rng: np.random.Generator) -> NumpyArray:
        self.n_evaluations_ = self.failed_evaluations_ = self.inaccurate_evaluations_ = self.n_iter_ = 0
        if self.optimizer is None or not start.free:
            return start.theta
        low, high = start.bounds.T
        starts = [start.theta, *rng.uniform(low, high, size=(self.n_restarts_optimizer, len(low)))]

        def objective(theta: NumpyArray) -> tuple[float, NumpyArray]:
            found = self._evaluate(theta, gradient=True)
            self.inaccurate_evaluations_ += not found.accurate
            assert found.gradient is not None
            return found.value, found.gradient

        with warnings.catch_warnings():  # what they say is counted, and said once at the end
            warnings.simplefilter("ignore", AccuracyWarning)
            warnings.simplefilter("ignore", StructureWarning)
            history = maximize(objective, starts, start.bounds, max_iter=self.max_iter, tol=self.tol)
        self.n_evaluations_, self.failed_evaluations_ = history.evaluations, history.failures
        self.n_iter_ = history.iterations
        if history.theta is None:
            raise NonFiniteError(
                f"the likelihood is not finite at any of the {history.evaluations} hyperparameters that were tried: do "
                "squares of y overflow? use normalize_y=True, or divide y by its size"
            )
        self._report(history)
        return history.theta

    def _report(self, history: History) -> None:
        total = history.evaluations
        remarks = list(history.messages)
        if history.failures:
            remarks.append(
                f"{history.failures} of {total} evaluations of the likelihood lost a pivot (NotPositiveDefiniteError) "
                "and count as minus infinity: use a tighter rtol, or a larger lower bound of the noise"
            )
        if self.inaccurate_evaluations_:
            remarks.append(
                f"in {self.inaccurate_evaluations_} of {total} evaluations a matrix did not meet its tolerance: use a "
                "larger rtol or another format"
            )
        if remarks:
            text = "; ".join(remarks)
            warnings.warn(f"the fit of the hyperparameters: {text}", AccuracyWarning, stacklevel=4)

    def _finish(self) -> None:
        """The matrix at the fitted hyperparameters; what it warns of concerns the result, and reaches the user."""
        self.kernel_, self.noise_ = self._hyperparameters.at(self.theta_)
        found = self._evaluate(self.theta_, gradient=False)
        self.log_marginal_likelihood_value_ = found.value
        self.matrix_, self.factorization_, self.rtol_ = found.matrix, found.factorization, found.rtol
        self.alpha_ = found.weights.reshape(-1, *self._y_shape)

    def _evaluate(self, theta: NumpyArray, *, gradient: bool) -> Evaluation:
        kernel, noise = self._hyperparameters.at(theta)
        return self._likelihood.evaluate(kernel, noise, gradient=self._hyperparameters.free if gradient else ())

    def log_marginal_likelihood(self, theta: Any = None, eval_gradient: bool = False) -> Any:
        """The log marginal likelihood of the data of the fit, summed over the columns of y.

        Parameters
        ----------
        theta : (p,) array, optional
            Logarithms of the hyperparameters in `theta_names_`. Default: the fitted ones.
        eval_gradient : bool
            Also return the gradient with respect to theta.

        Returns
        -------
        value : float
        gradient : (p,) array
            Only with `eval_gradient`.

        Raises
        ------
        NotPositiveDefiniteError
            When the matrix loses a pivot.
        """
        self._require_fitted()
        if theta is None and not eval_gradient:
            return self.log_marginal_likelihood_value_
        found = self._evaluate(self.theta_ if theta is None else np.asarray(theta, float), gradient=eval_gradient)
        return (found.value, found.gradient) if eval_gradient else found.value

    def _require_fitted(self) -> None:
        if not hasattr(self, "factorization_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit(X, y) first")

    # ------------------------------------------------------------------------------- prediction

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """The mean of f at new points, and on request its standard deviation or covariance.

        Parameters
        ----------
        X : (m, d) array
            Points.
        return_std, return_cov : bool
            At most one. They are those of f: add `noise_` to the variance for that of new data.

        Returns
        -------
        mean : (m,) or (m, columns of y) array
        std : array of the same shape
            With `return_std`. Variances that rounding leaves below zero count as zero.
        cov : (m, m) or (m, m, columns of y) array
            With `return_cov`.
        """
        if return_std and return_cov:
            raise ValueError("ask for one of return_std and return_cov: the diagonal of the latter holds the variances")
        points = self._new_points(X)
        mean = np.empty((len(points), len(self._center)))
        variances = np.empty(len(points)) if return_std else None
        weights = self.alpha_.reshape(len(self.alpha_), -1)
        for part, cross in self._chunks(points):
            mean[part] = cross.T @ weights
            if variances is not None:
                explained = np.einsum("ij,ij->j", cross, self.factorization_.solve(cross))
                variances[part] = np.maximum(self.kernel_.variances(points[part]) - explained, 0.0)
        shaped = (mean * self._scale + self._center).reshape(len(points), *self._y_shape)
        if variances is not None:
            return shaped, (np.sqrt(variances)[:, None] * self._scale).reshape(shaped.shape)
        return (shaped, self._covariance(points)) if return_cov else shaped

    def _new_points(self, X: Any) -> NumpyArray:
        self._require_fitted()
        points = features(X)
        remember_features(self, X, points, reset=False)
        known = self._likelihood.points.shape[1]
        if points.shape[1] != known:
            raise ValueError(f"X has {points.shape[1]} features, but {type(self).__name__} was fitted with {known}")
        return points

    def _chunks(self, points: NumpyArray) -> Iterator[tuple[slice, NumpyArray]]:
        """Parts of new points, and the covariances (n, part) of the data with them."""
        for first in range(0, len(points), CHUNK):
            part = slice(first, first + CHUNK)
            yield part, self.kernel_(self._likelihood.points, points[part])

    def _covariance(self, points: NumpyArray) -> NumpyArray:
        covariance = np.array(self.kernel_(points, points))
        data = self._likelihood.points
        for part, cross in self._chunks(points):
            solved = self.factorization_.solve(cross)
            for other in range(0, len(points), CHUNK):
                rows = slice(other, other + CHUNK)
                covariance[rows, part] -= self.kernel_(points[rows], data) @ solved
        covariance = 0.5 * (covariance + covariance.T)
        return covariance * self._scale[0] ** 2 if not self._y_shape else covariance[:, :, None] * self._scale**2

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> NumpyArray:
        """Draw paths of f from the posterior.

        Parameters
        ----------
        X : (m, d) array
            Points.
        n_samples : int
            How many.
        random_state : seed, numpy.random.Generator or None
            Where they come from.

        Returns
        -------
        (m, n_samples) or (m, columns of y, n_samples) array

        Notes
        -----
        By a dense factorisation of the posterior covariance: O(m n k + m^3).
        """
        count = _check.positive_integer(n_samples, "n_samples")
        rng = _check.generator(random_state)
        mean, covariance = self.predict(X, return_cov=True)
        columns = mean.reshape(len(mean), -1)
        unit = covariance if covariance.ndim == 2 else covariance[:, :, 0]
        first = self._scale[0]
        values, vectors = np.linalg.eigh(unit / first**2)  # semidefinite up to rounding: no Cholesky
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        draws = root @ rng.standard_normal((len(mean), columns.shape[1] * count))
        paths = draws.reshape(len(mean), -1, count) * self._scale[None, :, None] + columns[:, :, None]
        return paths.reshape(*mean.shape, count)


def _normalisation(values: NumpyArray, normalize: bool) -> tuple[NumpyArray, NumpyArray]:
    """What is subtracted from, and divides, each column of y; a constant column is only shifted."""
    count = values.shape[1]
    if not normalize:
        return np.zeros(count), np.ones(count)
    largest = np.abs(values).max(axis=0)
    unit = np.where(largest > 0.0, largest, 1.0)  # sums and squares of numbers up to 1 do not overflow
    scaled = values / unit
    spread = scaled.std(axis=0)
    return unit * scaled.mean(axis=0), np.where(spread > 10 * np.finfo(float).eps, unit * spread, 1.0)
