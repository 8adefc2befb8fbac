"""fit: an operator from recorded pairs, without gradient steps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from structmat import HSSMatrix, ShapeError, TooFewSamplesError, _check
from structmat._inputs import TreeLike
from structmat._typing import NumpyArray, RandomLike

from .identify import IdentifiabilityReport, IdentifiabilityWarning, Observations, rounding_of
from .priors import Prior
from .structure import relative_residual
from .task import Task

__all__ = ["FitResult", "fit"]


@dataclass(frozen=True)
class FitResult:
    """An operator that was fitted to recorded pairs.

    Attributes
    ----------
    matrix : HSSMatrix
        The operator: it multiplies, truncates, factors and solves.
    report : IdentifiabilityReport
        What the samples say of it, and what they leave open.
    """

    matrix: HSSMatrix
    report: IdentifiabilityReport

    def predict(self, inputs: Any) -> NumpyArray:
        """The operator applied to inputs (..., n): outputs (..., m)."""
        array = np.asarray(inputs.detach().cpu() if hasattr(inputs, "detach") else inputs)
        rows, columns = self.matrix.shape
        if array.ndim == 0 or array.shape[-1] != columns:
            raise ShapeError(f"inputs must have shape (..., {columns}), but their shape is {array.shape}")
        flat = np.ascontiguousarray(array.reshape(-1, columns).T)
        return np.ascontiguousarray((self.matrix @ flat).T).reshape(*array.shape[:-1], rows)

    def error(self, inputs: Any, outputs: Any) -> float:
        """Relative error ||prediction - outputs|| / ||outputs|| on pairs (samples, n) and (samples, m)."""
        pairs = Observations.of(inputs, outputs)
        if pairs.shape != self.matrix.shape:
            raise ShapeError(
                f"the pairs belong to an operator of shape {pairs.shape}, but this one is {self.matrix.shape}"
            )
        return relative_residual(self.matrix, pairs.inputs, pairs.outputs)

    def white_noise_error(self, operator: Any, *, samples: int = 100, rng: RandomLike = None) -> float:
        """The true relative error on white-noise inputs, for whoever has the operator.

        Parameters
        ----------
        operator : anything with ``operator @ X`` for X (n, samples)
            The exact operator.
        samples : int
            Number of white-noise inputs.
        rng : seed or numpy.random.Generator
            Where they come from.
        """
        probes = _probes(self.matrix, _check.positive_integer(samples, "samples"), rng)
        return relative_residual(self.matrix, probes, np.asarray(operator @ probes))


def _probes(matrix: HSSMatrix, count: int, rng: RandomLike) -> NumpyArray:
    return _check.generator(rng).standard_normal((matrix.shape[1], count))


def fit(
    inputs: Any, outputs: Any, *, leaf_size: int | None = None, rank: int | None = None, symmetric: bool | None = None,
    adjoint_inputs: Any = None, adjoint_outputs: Any = None, noise: float | str | None = None,
    prior: Prior | None = None, tree: TreeLike = None, sweeps: int = 20, rng: RandomLike = None,
) -> FitResult:  # fmt: skip
    """Fit a rank-structured operator to recorded pairs, in closed form wherever the pairs determine it.

    Parameters
    ----------
    inputs, outputs : (samples, n) and (samples, m) arrays or tensors
        Pairs, one a row: outputs[i] = A inputs[i] + noise.
    leaf_size : int, optional
        Largest leaf of the cluster tree. Small leaves need few samples: leaf size plus rank. Default: 8, or twice the
        rank where that is more or where the samples are few.
    rank : int, optional
        Largest rank of a block row. Default: the smallest that predicts held-out samples about as well as any; with a
        prior, what its estimate has.
    symmetric : bool, optional
        Whether the operator is Hermitian. Default: what the samples say.
    adjoint_inputs, adjoint_outputs : (samples', m) and (samples', n) arrays, optional
        Pairs of the adjoint, which an operator that is not Hermitian needs.
    noise : float, "estimate" or None
        Noise on the outputs, relative to their norm. None: the pairs are exact to rounding, to that of single precision
        where they come in it.
    prior : Prior, optional
        What to assume where the samples leave the operator open: `Small`, `Smooth` or `Near`. Without one such samples
        are refused.
    tree : ClusterTree or pair of them, optional
        Instead of the balanced tree over the indices in their order.
    sweeps : int
        At most so many rounds of least squares over the generators, where a prior is needed and `rank` is given.
    rng : seed or numpy.random.Generator
        For the estimate of the white-noise error and the samples that stand for a prior.

    Returns
    -------
    FitResult
        `matrix`, `report` and `predict`.

    Raises
    ------
    TooFewSamplesError
        The pairs do not determine the operator, and there is no prior. The message says what more it takes.
    SymmetryError
        `symmetric=True`, but the samples contradict it.

    Warns
    -----
    IdentifiabilityWarning
        A prior has filled in what the samples leave open; the message shows how much that is.
    StructureWarning
        No operator of this structure explains the samples to their noise, or the noise that was estimated is more than
        5 % of the outputs.

    Notes
    -----
    Block nullification costs O(n s (leaf size + rank)) for s samples. Smooth inputs look alike within every leaf and
    determine nothing outside their span, however many there are.

    References
    ----------
    J. Levitt, P.-G. Martinsson, SIAM J. Sci. Comput. 46 (2024) A1747-A1763.

    Examples
    --------
    >>> import numpy as np
    >>> import structmat_nn
    >>> x = np.arange(1, 257) / 257
    >>> green = np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x))  # of -u'' = f with u(0) = u(1) = 0
    >>> f = np.random.default_rng(0).standard_normal((10, 256))
    >>> result = structmat_nn.fit(f, f @ green, leaf_size=8, rank=2)
    >>> result.report.route, result.report.symmetric, result.white_noise_error(green, rng=1) < 1e-12
    ('closed form', True, True)
    """
    observed = Observations.of(inputs, outputs, adjoint_inputs, adjoint_outputs)
    given = _checked_noise(noise)
    if given is not None:
        given = max(given, rounding_of(inputs, outputs, adjoint_inputs, adjoint_outputs))
    if prior is not None and not isinstance(prior, Prior):
        raise TypeError(f"prior must be a Prior such as Small(), Smooth() or Near(operator), but it is {prior!r}")
    _check.positive_integer(sweeps, "sweeps", minimum=0)
    if leaf_size is not None:
        leaf_size = _check.positive_integer(leaf_size, "leaf_size")
    if rank is not None:
        rank = _check.positive_integer(rank, "rank")
    task = Task(observed, given, leaf_size, rank, tree, _check.generator(rng))
    try:
        return FitResult(*task.closed_form(symmetric))
    except TooFewSamplesError as refusal:
        if prior is None:
            raise
        reason = str(refusal)
    from .alternating import fit_with_prior

    matrix, report = fit_with_prior(task, symmetric, prior, sweeps)
    warnings.warn(
        f"the samples leave part of the operator open, and {prior!r} has filled it in: {report.outside:.0%} of the "
        f"energy of a white-noise input is outside what they span. Why the closed form was refused: {reason}",
        IdentifiabilityWarning,
        stacklevel=2,
    )
    return FitResult(matrix, report)


def _checked_noise(noise: Any) -> float | None:
    """The relative noise; None where it is to be estimated."""
    if isinstance(noise, str):
        if noise != "estimate":
            raise ValueError(f'noise must be a number >= 0, "estimate" or None, but it is {noise!r}')
        return None
    return 0.0 if noise is None else _check.tolerance(noise, "noise")
