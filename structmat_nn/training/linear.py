"""AsLinear: a final stage for problems that are linear, on as few pairs as say the same about a linear model."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import structmat
from structmat import _check

from ..layers.activation import LearnableLeakyReLU
from .final_stages import FinalStage, StageData
from .operator import LearnedOperator, in_evaluation, with_precision

__all__ = ["AsLinear"]

# relative to its outputs, what a linear model in double precision may miss of additivity
_ROUNDING = 1e-8


@dataclass(frozen=True)
class AsLinear(FinalStage):
    """Another stage, applied to the linear model next to the trained one and to as few pairs as their inputs span.

    All slopes are set to 1 and stay there. The squared error of a *linear* model depends on the second moments of the
    pairs only: with an orthonormal basis Q of the range of the inputs F (samples, n), the pairs (Q^T F, Q^T U) have the
    error of the pairs (F, U), but for a constant, and there are rank F of them. Samples that are combinations of a
    hundred functions become a hundred pairs, however many there are.

    Parameters
    ----------
    stage : FinalStage
        What works on them, `LBFGS` for example.
    rtol : float, default 1e-10
        Tolerance of the basis, relative to the Frobenius norm of the inputs.

    Raises
    ------
    ValueError
        If the model is not linear with slopes of 1.

    Notes
    -----
    Where the inputs have full rank all pairs remain. Cost O(samples n rank) once.

    Data that do not span identify nothing outside their span: look at the error on white noise too.

    Examples
    --------
    >>> from structmat_nn import NeuralHSS, data
    >>> from structmat_nn.training import LBFGS, AsLinear, train
    >>> dataset = data.load("poisson1d", samples=500, size=64)
    >>> model = NeuralHSS(64, rank=2, levels=2, depth=2, seed=0)
    >>> result = train(model, dataset, epochs=2, final_stages=[AsLinear(LBFGS(iterations=100))])
    >>> result.stages[-1].name, result.stages[-1].operator.model.slopes.tolist()
    ('adamw+linear lbfgs', [1.0, 1.0])
    """

    stage: FinalStage
    rtol: float = 1e-10

    def __post_init__(self) -> None:
        if not isinstance(self.stage, FinalStage):
            raise TypeError(f"stage must be a final stage such as LBFGS(..), but it is {self.stage!r}")
        _check.positive_number(self.rtol, "rtol")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the stage, behind "linear"."""
        return f"linear {self.stage.name}"

    def apply(self, operator: LearnedOperator, data: StageData) -> LearnedOperator:
        """Return the operator that the stage makes of the linear one; as `FinalStage.apply`."""
        straight = copy.deepcopy(operator)
        with_precision(straight.model, torch.float64)
        slopes = _slopes(straight.model)
        for slope in slopes:
            slope.data.fill_(1.0)
            slope.requires_grad_(False)
        _require_linear(straight, data.inputs)
        result = self.stage.apply(straight, fewer_pairs(data, self.rtol))
        for slope in _slopes(result.model):
            slope.requires_grad_(True)
        return result


def fewer_pairs(data: StageData, rtol: float) -> StageData:
    """As many pairs as the inputs have rank, with the squared error of `data` for every linear map, but a constant."""
    inputs = data.inputs.flatten(1).cpu().numpy()  # (samples, n)
    factors = structmat.lowrank.RandomizedRange(rtol)(inputs, rng=0)
    if 2 * factors.rank > len(inputs):
        return data
    basis = torch.linalg.qr(torch.as_tensor(factors.left))[0].to(data.inputs)  # (samples, rank)

    def combined(fields: Tensor) -> Tensor:
        return (basis.mT @ fields.flatten(1)).reshape(-1, *fields.shape[1:])

    return replace(data, inputs=combined(data.inputs), outputs=combined(data.outputs))


def _slopes(model: nn.Module) -> list[Any]:
    return [part.slope for part in model.modules() if isinstance(part, LearnableLeakyReLU)]


@torch.no_grad()
def _require_linear(operator: LearnedOperator, inputs: Tensor) -> None:
    """Raise `ValueError` unless the model adds up."""
    fields = inputs[:2].to(device=operator.device, dtype=torch.float64)
    one, other = fields[:1], fields[-1:]
    with in_evaluation(operator):
        parts = operator.model(one) - 2.0 * operator.model(other)
        missing = operator.model(one - 2.0 * other) - parts
    if float(missing.norm()) > _ROUNDING * float(parts.norm()):
        raise ValueError(
            f"AsLinear needs a model that is linear when all slopes are 1, but {type(operator.model).__name__} is not: "
            "use the stage itself"
        )
