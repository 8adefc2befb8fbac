"""Gradient steps from a fitted operator, kept only where they help."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from structmat import ShapeError

from .._check import positive_integer
from ..layers.hss import HSSLinear
from ..training.final_stages import LBFGS, FinalStage, StageData
from ..training.operator import LearnedOperator
from .fit import FitResult
from .identify import Observations
from .structure import relative_residual
from .task import certified

if TYPE_CHECKING:
    from structmat._typing import NumpyArray

__all__ = ["SmallSteps", "fine_tune"]

LARGEST_RATE = 1e-5  # above it AdamW destroys what the closed form has found
HELD = 5  # every so many samples validate, where no validation set is given


@dataclass(frozen=True)
class SmallSteps(FinalStage):
    """AdamW on all pairs at once, at a rate that does not undo a good start.

    Parameters
    ----------
    steps : int
        How many.
    learning_rate : float
        At most 1e-5.
    """

    steps: int = 200
    learning_rate: float = LARGEST_RATE
    name: ClassVar[str] = "small steps"

    def __post_init__(self) -> None:
        positive_integer(self.steps, "steps")
        if not 0.0 < self.learning_rate <= LARGEST_RATE:
            raise ValueError(
                f"learning_rate must be above 0 and at most {LARGEST_RATE}, but it is {self.learning_rate}: larger "
                "steps of AdamW lose what the closed form has found; use LBFGS to move further"
            )

    def apply(self, operator: LearnedOperator, data: StageData) -> LearnedOperator:
        """Return the operator after the steps; the given one stays as it is."""
        result = copy.deepcopy(operator)
        optimiser = torch.optim.AdamW(result.parameters(), lr=self.learning_rate, weight_decay=0.0)
        for _ in range(self.steps):
            optimiser.zero_grad()
            (result.model(data.inputs) - data.outputs).square().mean().backward()
            optimiser.step()
        result.zero_grad()
        return result


def fine_tune(
    result: FitResult,
    inputs: Any,
    outputs: Any,
    *,
    validation: tuple[Any, Any] | None = None,
    stage: FinalStage | None = None,
) -> FitResult:
    """Train on from a fitted operator, and keep the start unless validation improves.

    Parameters
    ----------
    result : FitResult
        Where to start: the generators of its matrix.
    inputs, outputs : (samples, n) and (samples, m) arrays or tensors
        Training pairs.
    validation : pair of arrays, optional
        Inputs and outputs that decide. Default: every fifth of the training pairs, which then is not trained on.
    stage : FinalStage, optional
        `LBFGS(iterations)` in float64 (default, 100 iterations) or `SmallSteps()`, which is AdamW at a rate of at most
        1e-5.

    Returns
    -------
    FitResult
        `result` itself where training did not lower the validation error; else a new one, whose report holds the new
        residual, and the validation error in `held_out`; the white-noise error is then not estimated. Training does
        not keep symmetry.

    Examples
    --------
    >>> import numpy as np
    >>> import structmat_nn
    >>> x = np.arange(1, 65) / 65
    >>> green = np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x))
    >>> rng = np.random.default_rng(0)
    >>> f = rng.standard_normal((100, 64))
    >>> u = f @ green + 0.01 * rng.standard_normal((100, 64))
    >>> start = structmat_nn.fit(f[:14], u[:14], leaf_size=8, rank=2, noise="estimate")
    >>> tuned = structmat_nn.fine_tune(start, f, u)
    >>> tuned.white_noise_error(green, rng=1) < start.white_noise_error(green, rng=1)
    True
    """
    pairs = Observations.of(inputs, outputs)
    if pairs.shape != result.matrix.shape:
        raise ShapeError(
            f"the pairs belong to an operator of shape {pairs.shape}, but the fitted one is {result.matrix.shape}"
        )
    if pairs.inputs.dtype.kind == "c" or result.matrix.dtype.kind == "c":
        raise TypeError("fine_tune trains real operators, but the samples or the matrix are complex")
    if validation is None:
        held = np.arange(0, pairs.inputs.shape[1], HELD)
        check = Observations(pairs.inputs[:, held], pairs.outputs[:, held])
        pairs = pairs.without(held)
        if pairs.inputs.shape[1] == 0:
            raise ShapeError("inputs has 1 sample, which cannot both train and validate: pass more, or validation=")
    else:
        check = Observations.of(*validation)
    tuned = _trained(result, pairs, LBFGS(100) if stage is None else stage)
    before, after = (relative_residual(m, check.inputs, check.outputs) for m in (result.matrix, tuned.to_matrix()))
    if not after < before:  # also where training has ended in NaN
        return result
    matrix = tuned.to_matrix()
    residual = relative_residual(matrix, pairs.inputs, pairs.outputs)
    report = replace(
        result.report, residual=residual, held_out=after, symmetric=matrix.symmetric, white_noise_error=None
    )
    return FitResult(certified(matrix, report), report)


def _trained(result: FitResult, pairs: Observations, stage: FinalStage) -> HSSLinear:
    """The layer of the matrix after the stage, trained on outputs of about unit size."""
    size = float(np.sqrt(np.mean(pairs.outputs**2))) or 1.0
    layer = HSSLinear.from_matrix(result.matrix * (1.0 / size), dtype=torch.float64)

    def rows(columns: NumpyArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(columns.T))

    done = stage.apply(LearnedOperator(layer), StageData(rows(pairs.inputs), rows(pairs.outputs / size)))
    trained = done.model
    assert isinstance(trained, HSSLinear)
    trained.load_matrix(trained.to_matrix() * size)
    return trained
