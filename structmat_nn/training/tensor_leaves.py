"""TensorLeaves: alternating least squares for the last layer of a model on a grid of several dimensions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from structmat._check import positive_integer

from ..models.neural_hss import NeuralHSS
from .final_stages import FinalStage, StageData
from .operator import LearnedOperator, with_precision
from .settings import non_negative

__all__ = ["TensorLeaves"]


@dataclass(frozen=True)
class TensorLeaves(FinalStage):
    """Alternating least squares for D and U of the leaves of the last layer of a `NeuralHSS`, a mode at a time.

    Parameters
    ----------
    sweeps : int, default 5
        How many times each mode is solved for.
    ridge : float, default 1e-8
        Weight of the squared change of the parameters, relative to the largest singular value of the features.

    Raises
    ------
    TypeError
        If the model is not a `NeuralHSS`.
    ValueError
        If it ends otherwise than with an `HSSTensorLinear`, or the data set has a mask.

    Notes
    -----
    What `LastLayer` is in one dimension. Data that do not span identify nothing outside their span: look at the error
    on white noise too.

    Examples
    --------
    >>> from structmat_nn import NeuralHSS, data
    >>> from structmat_nn.training import train
    >>> from structmat_nn.training.tensor_leaves import TensorLeaves
    >>> dataset = data.load("poisson2d", samples=20, size=24, cache=False)
    >>> model = NeuralHSS((24, 24), rank=2, levels=1, depth=1, outer_rank=4, seed=0)
    >>> result = train(model, dataset, epochs=1, final_stages=[TensorLeaves()])
    >>> result.stages[-1].kept
    True
    """

    sweeps: int = 5
    ridge: float = 1e-8
    name: ClassVar[str] = "tensor leaves"

    def __post_init__(self) -> None:
        positive_integer(self.sweeps, "sweeps")
        non_negative(self.ridge, "ridge")

    @torch.no_grad()
    def apply(self, operator: LearnedOperator, data: StageData) -> LearnedOperator:
        """Return the operator with the last layer solved for; as `FinalStage.apply`."""
        if not isinstance(operator.model, NeuralHSS):
            raise TypeError(f"TensorLeaves needs a NeuralHSS, but the model is a {type(operator.model).__name__}")
        if data.mask is not None:
            raise ValueError("TensorLeaves fits all points of the grid, but the data set has a mask; use LBFGS")
        result = copy.deepcopy(operator)
        with_precision(result.model, torch.float64)
        inputs, outputs = (t.to(device=result.device, dtype=torch.float64) for t in (data.inputs, data.outputs))
        result.model.fit_last_layer(inputs, outputs, sweeps=self.sweeps, ridge=self.ridge)
        return result
