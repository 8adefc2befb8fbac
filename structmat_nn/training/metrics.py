"""The two error measures of the Neural-HSS paper, section G, in float64: (2) relative, and (3) absolute.

For roll-outs each is given twice, as the mean over the steps and for the whole trajectory: the two differ by the square
root of the number of steps or more, and a table that does not say which one it shows says little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from structmat import ShapeError
from structmat._check import finite
from structmat._typing import NumpyArray

if TYPE_CHECKING:
    from ..data import DataSet
    from .operator import LearnedOperator


def relative_l2(prediction: Any, target: Any, mask: Any = None) -> float:
    """Metric (2): the mean over the samples of the relative error in the Euclidean norm.

    Parameters
    ----------
    prediction, target : array_like, (samples, ...)
        Arrays of NumPy, or tensors on any device. They are compared in float64.
    mask : array_like of bool, optional
        The valid points, in the shape of one sample or of its last axes. Other points do not count.

    Returns
    -------
    float
        mean over samples of ``norm(prediction - target) / norm(target)``.

    Raises
    ------
    ShapeError
        If the shapes do not agree, or there is no sample.
    NonFiniteError
        If an entry is NaN or Inf.
    ValueError
        If a target is zero everywhere: its relative error is not defined.

    Notes
    -----
    Cost O(entries). Source: equation (2) of "Neural-HSS", section G.

    Examples
    --------
    >>> from structmat_nn.training import relative_l2
    >>> relative_l2([[1.0, 1.0], [3.0, 4.0]], [[1.0, 1.0], [3.0, 3.0]])
    0.1178511
    """
    error, reference = _norms(prediction, target, mask, kept=1)
    if (reference == 0).any():
        raise ValueError(
            f"target must not be zero, but its sample {int(np.argmin(reference))} is zero at every valid point, and "
            "has no relative error; leave it out, or use trajectory_l2, which is absolute"
        )
    return float(np.mean(error / reference))


def trajectory_l2(prediction: Any, target: Any, mask: Any = None) -> float:
    """Metric (3): the mean over the samples of the absolute error in the Euclidean norm.

    Parameters
    ----------
    prediction, target : array_like, (samples, ...)
        Arrays of NumPy, or tensors on any device. They are compared in float64.
    mask : array_like of bool, optional
        The valid points, in the shape of one sample or of its last axes. Other points do not count.

    Returns
    -------
    float
        mean over samples of ``norm(prediction - target)``. It grows with the number of points and with the unit of the
        data: compare it only on one grid.

    Raises
    ------
    ShapeError
        If the shapes do not agree, or there is no sample.
    NonFiniteError
        If an entry is NaN or Inf.

    Notes
    -----
    Cost O(entries). Source: equation (3) of "Neural-HSS", section G.

    Examples
    --------
    >>> from structmat_nn.training import trajectory_l2
    >>> trajectory_l2([[1.0, 1.0], [3.0, 4.0]], [[1.0, 1.0], [3.0, 3.0]])
    0.5
    """
    return float(np.mean(_norms(prediction, target, mask, kept=1)[0]))


def rollout_errors(prediction: Any, target: Any, mask: Any = None) -> dict[str, float]:
    """Both metrics of a roll-out, as the mean over its steps and for the whole trajectory.

    Parameters
    ----------
    prediction, target : array_like, (samples, steps, ...)
        The states after each step, without the initial state, which both share.
    mask : array_like of bool, optional
        The valid points, in the shape of one state or of its last axes.

    Returns
    -------
    dict
        ``relative_l2_steps`` and ``trajectory_l2_steps``, the mean over samples and steps; ``relative_l2`` and
        ``trajectory_l2``, where a trajectory is one long vector.

    Raises
    ------
    ShapeError
        If the shapes do not agree, or an array has no axis of steps.
    ValueError
        If a target is zero everywhere.

    Notes
    -----
    Cost O(entries).

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.training import rollout_errors
    >>> errors = rollout_errors(np.ones((2, 4, 9)), np.full((2, 4, 9), 2.0))
    >>> errors["trajectory_l2_steps"], errors["trajectory_l2"]
    (3.0, 6.0)
    """
    if np.ndim(prediction) < 2:
        raise ShapeError(f"prediction must be (samples, steps, ...), but its shape is {np.shape(prediction)}")
    step_errors, step_norms = _norms(prediction, target, mask, kept=2)
    if (step_norms == 0).any():
        raise ValueError("target must not be zero, but it is zero at every valid point of some step")
    errors, norms = (np.sqrt((values**2).sum(axis=1)) for values in (step_errors, step_norms))
    return {
        "relative_l2": float(np.mean(errors / norms)),
        "trajectory_l2": float(np.mean(errors)),
        "relative_l2_steps": float(np.mean(step_errors / step_norms)),
        "trajectory_l2_steps": float(np.mean(step_errors)),
    }


def evaluate(operator: LearnedOperator, dataset: DataSet, *, double: bool = True) -> dict[str, dict[str, float]]:
    """Both metrics of an operator on every test set of a data set, the operator applied in float64.

    Parameters
    ----------
    operator : LearnedOperator
        It is copied, and its parameters are converted to float64: float32 would hide errors below about 1e-6. Models
        that compute in float32 only (`LearnedOperator.best_precision`) are applied as they are.
    dataset : DataSet
        Its test sets ("in span", "white noise", "out of span"), and its trajectories for a roll-out.
    double : bool, default True
        False applies the operator in its own precision: about three times faster for convolutions on a CPU, and right
        to two digits where errors are above 1e-4.

    Returns
    -------
    dict
        ``{test set: {"relative_l2": .., "trajectory_l2": ..}}``; a data set with trajectories has also "rollout", with
        the keys of `rollout_errors`.

    Notes
    -----
    Cost: one application of the operator to each test sample, and one roll-out for each trajectory.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import data
    >>> from structmat_nn.training import LearnedOperator, evaluate
    >>> dataset = data.load("poisson1d", samples=8, size=32)
    >>> scores = evaluate(LearnedOperator(torch.nn.Linear(32, 32)), dataset)
    >>> sorted(scores)
    ['in span', 'out of span', 'white noise']
    """
    exact = operator.in_double_precision() if double and operator.best_precision == torch.float64 else operator
    scores = {}
    for name, pairs in dataset.tests.items():
        prediction = exact.predict(pairs.inputs)
        scores[name] = _scores(prediction, pairs.outputs, dataset.mask)
    if dataset.trajectories is not None:
        frames = np.asarray(dataset.trajectories)  # (samples, steps + 1, ...), one step of the operator apart
        prediction = exact.rollout(frames[:, 0], frames.shape[1] - 1)
        scores["rollout"] = _rollout_scores(prediction, frames[:, 1:], dataset.mask)
    return scores


def _scores(prediction: NumpyArray, target: NumpyArray, mask: NumpyArray | None) -> dict[str, float]:
    """Both metrics; infinite where the prediction has overflowed, which is a result and not a wrong input."""
    if not np.isfinite(prediction).all():
        return {"relative_l2": float("inf"), "trajectory_l2": float("inf")}
    return {
        "relative_l2": relative_l2(prediction, target, mask),
        "trajectory_l2": trajectory_l2(prediction, target, mask),
    }


def _rollout_scores(prediction: NumpyArray, target: NumpyArray, mask: NumpyArray | None) -> dict[str, float]:
    if not np.isfinite(prediction).all():
        keys = ("relative_l2", "trajectory_l2", "relative_l2_steps", "trajectory_l2_steps")
        return dict.fromkeys(keys, float("inf"))
    return rollout_errors(prediction, target, mask)


def _norms(prediction: Any, target: Any, mask: Any, *, kept: int) -> tuple[NumpyArray, NumpyArray]:
    """Norms of the error and of the target over all but the first `kept` axes, both (samples[, steps])."""
    arrays = []
    for name, value in (("prediction", prediction), ("target", target)):
        array = _as_float64(value)
        if array.ndim <= kept or array.size == 0:
            raise ShapeError(f"{name} must hold samples of at least one point, but its shape is {array.shape}")
        finite(array, name)
        arrays.append(array)
    if arrays[0].shape != arrays[1].shape:
        raise ShapeError(f"prediction has shape {arrays[0].shape}, but target has shape {arrays[1].shape}")
    weights = 1.0 if mask is None else _checked_mask(mask, arrays[0].shape[kept:])
    flat = [(array * weights).reshape(*array.shape[:kept], -1) for array in (arrays[0] - arrays[1], arrays[1])]
    return np.linalg.norm(flat[0], axis=-1), np.linalg.norm(flat[1], axis=-1)


def _checked_mask(mask: Any, shape: tuple[int, ...]) -> NumpyArray:
    array = _as_float64(mask)
    if array.ndim > len(shape) or array.shape != shape[len(shape) - array.ndim :]:
        raise ShapeError(f"mask has shape {array.shape}, but one sample has shape {shape}; they must end alike")
    if not array.any():
        raise ValueError("mask marks no point as valid")
    return array


def _as_float64(value: Any) -> NumpyArray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)
