"""Gaussian-process regression with covariance matrices in hierarchical formats.

`HierarchicalGPRegressor` is an estimator in the style of scikit-learn, which it works with and does not need. Beneath
it, `MarginalLikelihood` gives the likelihood of hyperparameters and its gradient.
"""

from .covariance import DenseCovariance
from .likelihood import Evaluation, MarginalLikelihood
from .regressor import HierarchicalGPRegressor

__all__ = ["DenseCovariance", "Evaluation", "HierarchicalGPRegressor", "MarginalLikelihood"]
