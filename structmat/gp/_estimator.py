"""What makes a class an estimator: scikit-learn's own base classes where it is installed, else a small twin of them.

This is the only file that knows of scikit-learn.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from .._typing import NumpyArray

try:
    import sklearn
except ModuleNotFoundError:
    sklearn = None


class _PlainEstimator:
    """Parameters by name, and the coefficient of determination."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor and their values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Any:
        """Change arguments of the constructor; returns the estimator."""
        known = self.get_params()
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R^2 of the prediction, averaged over the columns of y."""
        truth = np.asarray(y, dtype=np.float64)
        missed = np.square(truth - self.predict(X))  # type: ignore[attr-defined]
        spread = np.square(truth - np.average(truth, axis=0, weights=sample_weight))
        ratio = np.average(missed, axis=0, weights=sample_weight) / np.average(spread, axis=0, weights=sample_weight)
        return float(np.mean(1.0 - ratio))


class _PlainNotFittedError(ValueError, AttributeError):
    """An estimator was asked for a prediction before it was fitted."""


if TYPE_CHECKING:
    EstimatorBase: Any = _PlainEstimator
    NotFittedError: Any = _PlainNotFittedError
elif sklearn is None:
    EstimatorBase, NotFittedError = _PlainEstimator, _PlainNotFittedError
else:
    from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
    from sklearn.exceptions import NotFittedError as NotFittedError

    class EstimatorBase(MultiOutputMixin, RegressorMixin, BaseEstimator):
        """A regressor of scikit-learn."""


def remember_features(estimator: Any, given: Any, array: NumpyArray, *, reset: bool) -> None:
    """Set, or compare with, the number of features and the names of the columns of a data frame."""
    if sklearn is not None:
        from sklearn.utils.validation import validate_data

        validate_data(estimator, given, reset=reset, skip_check_array=True)
    elif reset:
        estimator.n_features_in_ = array.shape[1]
