"""HSSOperatorRegressor: fit, predict and score, in the style of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from structmat import ClusterTree, ShapeError
from structmat._typing import NumpyArray
from structmat.gp._checks import features, targets
from structmat.gp._estimator import EstimatorBase, NotFittedError, remember_features

from .fit import fit
from .identify import rounding_of
from .priors import Prior, Small

__all__ = ["HSSOperatorRegressor"]


class HSSOperatorRegressor(EstimatorBase):
    """Linear regression of functions on functions by one rank-structured operator: y = A x, fitted by `fit`.

    Where the samples determine the operator it is found in closed form; where they do not, a prior fills in the rest,
    and an `IdentifiabilityWarning` says so. Works in pipelines, and in grid searches over `rank`, `leaf_size` or
    `noise`.

    Parameters
    ----------
    rank, leaf_size : int, optional
        See `fit`.
    symmetric : bool, optional
        Whether the operator is symmetric. Default: what the samples say.
    noise : float, "estimate" or None
        Noise on y, relative to its norm.
    prior : Prior, optional
        For samples that leave the operator open. Default: `Small()`, the operator of smallest norm.
    strict : bool
        Refuse such samples instead.
    tree : ClusterTree or pair of them, optional
        Instead of the balanced tree over the features in their order.
    sweeps : int
        See `fit`.
    random_state : seed, numpy.random.Generator or None
        For the estimate of the white-noise error.

    Attributes
    ----------
    matrix_ : HSSMatrix
        The operator, (targets, features).
    report_ : IdentifiabilityReport
        What the samples say of it.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn import HSSOperatorRegressor
    >>> x = np.arange(1, 129) / 129
    >>> green = np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x))
    >>> rng = np.random.default_rng(0)
    >>> F, new = rng.standard_normal((20, 128)), rng.standard_normal((5, 128))
    >>> model = HSSOperatorRegressor(rank=2).fit(F, F @ green)
    >>> print(f"{model.score(new, new @ green):.6f}")
    1.000000
    """

    def __init__(
        self,
        rank: int | None = None,
        *,
        leaf_size: int | None = None,
        symmetric: bool | None = None,
        noise: float | str | None = None,
        prior: Prior | None = None,
        strict: bool = False,
        tree: ClusterTree | tuple[ClusterTree, ClusterTree] | None = None,
        sweeps: int = 20,
        random_state: Any = None,
    ) -> None:
        self.rank, self.leaf_size, self.symmetric, self.noise = rank, leaf_size, symmetric, noise
        self.prior, self.strict, self.tree, self.sweeps = prior, strict, tree, sweeps
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, *, adjoint_inputs: Any = None, adjoint_outputs: Any = None
    ) -> HSSOperatorRegressor:  # fmt: skip
        """Fit the operator.

        Parameters
        ----------
        X : (samples, n) array
            Inputs, one a row.
        y : (samples,) or (samples, m) array
            Outputs.
        adjoint_inputs, adjoint_outputs : (samples', m) and (samples', n) arrays, optional
            Samples of the adjoint.

        Returns
        -------
        HSSOperatorRegressor
            The estimator itself.

        Raises
        ------
        TooFewSamplesError
            With `strict`, when the samples leave the operator open.
        """
        inputs = features(X)
        remember_features(self, X, inputs, reset=True)
        outputs = targets(y, len(inputs))
        self._y_shape = outputs.shape[1:]
        noise = self.noise
        if not isinstance(noise, str):
            noise = max(noise or 0.0, rounding_of(X, y))  # X and y are in double precision by now
        prior = None if self.strict else (Small() if self.prior is None else self.prior)
        result = fit(
            inputs, outputs.reshape(len(inputs), -1), rank=self.rank, leaf_size=self.leaf_size,
            symmetric=self.symmetric, noise=noise, prior=prior, tree=self.tree, sweeps=self.sweeps,
            rng=self.random_state, adjoint_inputs=adjoint_inputs, adjoint_outputs=adjoint_outputs,
        )  # fmt: skip
        self.matrix_, self.report_ = result.matrix, result.report
        return self

    def predict(self, X: Any) -> NumpyArray:
        """The operator applied to inputs (samples, n): outputs (samples,) or (samples, m)."""
        if not hasattr(self, "matrix_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit(X, y) first")
        inputs = features(X)
        remember_features(self, X, inputs, reset=False)
        if inputs.shape[1] != self.matrix_.shape[1]:
            raise ShapeError(
                f"X has {inputs.shape[1]} features, but {type(self).__name__} is expecting {self.matrix_.shape[1]} "
                "features as input"
            )
        return np.ascontiguousarray((self.matrix_ @ inputs.T).T).reshape(len(inputs), *self._y_shape)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R^2 of all values of the outputs together.

        Parameters
        ----------
        X : (samples, n) array
            Inputs, one a row.
        y : (samples,) or (samples, m) array
            Outputs.
        sample_weight : (samples,) array, optional
            What each pair counts.

        Returns
        -------
        float
            1 for exact predictions. Columns count by their variance, as those at a boundary may be constant.
        """
        predicted = self.predict(X)
        truth = targets(y, len(predicted))
        missed = np.square(truth - predicted)
        spread = np.square(truth - np.average(truth, axis=0, weights=sample_weight))
        lost, total = (float(np.average(a, axis=0, weights=sample_weight).sum()) for a in (missed, spread))
        return 1.0 - lost / total if total > 0.0 else float(lost == 0.0)
