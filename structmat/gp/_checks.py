"""Checks of X and y, in the words that scikit-learn's own checks of estimators look for."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse

from .. import _check
from .._typing import NumpyArray
from ..exceptions import NonFiniteError, ShapeError


def features(X: Any) -> NumpyArray:
    """X as a finite (n, d) array of float64."""
    array = _real(X, "X")
    if array.ndim != 2:
        raise ShapeError(
            f"X must be 2-D, (n, d), but its shape is {array.shape}. Reshape your data: X.reshape(-1, 1) for one "
            "feature, X.reshape(1, -1) for one point"
        )
    if array.shape[1] == 0:
        raise ShapeError(f"X has 0 feature(s) (shape={array.shape}) while a minimum of 1 is required.")
    if array.shape[0] == 0:
        raise ShapeError(f"X has 0 sample(s) (shape={array.shape}) while a minimum of 1 is required.")
    _check.finite(array, "X")
    return array


def targets(y: Any, count: int) -> NumpyArray:
    """The data y as a finite (n,) or (n, m) array of float64."""
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")
    array = _real(y, "y")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ShapeError(f"y must have shape (n,) or (n, m), but its shape is {array.shape}")
    if len(array) != count:
        raise ShapeError(f"X and y must have one length, but X has {count} rows and y has {len(array)}")
    _check.finite(array, "y")
    return array


def _real(a: Any, name: str) -> NumpyArray:
    if sparse.issparse(a):
        raise TypeError(f"{name} is sparse, but dense data is required; use {name}.toarray()")
    if np.ma.is_masked(a):
        raise NonFiniteError(f"{name} has {np.ma.count_masked(a)} masked entries, which are no numbers; leave them out")
    array = np.asarray(a)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}; use real features and data")
    return array.astype(np.float64)
