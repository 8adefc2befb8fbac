"""Final stages: what may follow AdamW, in float64. `train` keeps them only if the validation error falls."""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from structmat._check import positive_integer
from structmat._typing import NumpyArray

from ..layers.hss import HSSLinear
from ..layers.telescopic import inner_matrix
from .bar import Bar
from .operator import LearnedOperator, in_evaluation, with_precision
from .settings import non_negative

_ITERATIONS_AT_ONCE = 10


@dataclass(frozen=True)
class StageData:
    """Normalised training pairs in float64, ``(samples, [channels,] *size)``; a mask of valid points; bars or none."""

    inputs: Tensor
    outputs: Tensor
    mask: NumpyArray | None = None
    progress: bool = False


class FinalStage(ABC):
    """A stage that makes a new operator from a trained one."""

    name: ClassVar[str]

    @abstractmethod
    def apply(self, operator: LearnedOperator, data: StageData) -> LearnedOperator:
        """Return a new operator; the given one stays as it is.

        Parameters
        ----------
        operator : LearnedOperator
        data : StageData
            Training pairs in the units of the operator's model.
        """


# torch forgets pairs of differences whose product is below 1e-10, and learns no curvature from the small losses
# of a trained model: losses are scaled to begin here.
_LBFGS_START = 1e4


@dataclass(frozen=True)
class LBFGS(FinalStage):
    """Quasi-Newton iterations on all training pairs at once, with a line search.

    Parameters
    ----------
    iterations : int, default 200
        Rounded up to a multiple of 10.
    dtype : torch.dtype, default torch.float64
        Of the computation; the operator keeps it.
    history : int, default 50
        Pairs of differences that are remembered.
    seconds : float, optional
        Begin no more iterations after this time.

    Notes
    -----
    Each iteration costs a forward and backward pass over all training pairs, sometimes more. Slopes take part
    without a penalty.

    Source: D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Program. 45
    (1989), as implemented in `torch.optim.LBFGS`.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import data
    >>> from structmat_nn.training import LBFGS, train
    >>> dataset = data.load("poisson1d", samples=32, size=16)
    >>> result = train(torch.nn.Linear(16, 16), dataset, epochs=5, final_stages=[LBFGS(iterations=30)])
    >>> [(stage.name, stage.kept) for stage in result.stages]
    [('adamw', True), ('adamw+lbfgs', True)]
    """

    iterations: int = 200
    dtype: torch.dtype = torch.float64
    history: int = 50
    seconds: float | None = None
    name: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        positive_integer(self.iterations, "iterations")
        positive_integer(self.history, "history")
        if self.seconds is not None:
            non_negative(self.seconds, "seconds")
        if self.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, but it is {self.dtype}")

    def apply(self, operator: LearnedOperator, data: StageData) -> LearnedOperator:
        """Return the operator after the iterations; as `FinalStage.apply`."""
        result = copy.deepcopy(operator)
        with_precision(result.model, self.dtype)
        inputs, outputs = (t.to(device=result.device, dtype=self.dtype) for t in (data.inputs, data.outputs))
        weights = None
        if data.mask is not None:
            weights = torch.as_tensor(data.mask / data.mask.mean(), dtype=self.dtype, device=result.device)
        optimiser = torch.optim.LBFGS(
            result.model.parameters(),
            max_iter=_ITERATIONS_AT_ONCE,
            max_eval=2 * _ITERATIONS_AT_ONCE,
            history_size=self.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def mean_square() -> Tensor:
            squares = (result.model(inputs) - outputs).square()
            return squares.mean() if weights is None else (squares * weights).mean()

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = mean_square() * scale
            value.backward()
            return value

        until = math.inf if self.seconds is None else time.perf_counter() + self.seconds
        with in_evaluation(result), Bar(self.name, shown=data.progress) as bar:
            with torch.no_grad():
                start = float(mean_square())
            if start == 0.0 or not math.isfinite(start):
                return result
            scale = _LBFGS_START / start
            rounds = -(-self.iterations // _ITERATIONS_AT_ONCE)
            for k in range(rounds):  # the optimiser keeps its history in between
                value = float(optimiser.step(loss).detach())
                text = f"training error {math.sqrt(value / _LBFGS_START):.2e} of that before"
                bar.show((k + 1) * _ITERATIONS_AT_ONCE, rounds * _ITERATIONS_AT_ONCE, text)
                if time.perf_counter() >= until:
                    break
        result.zero_grad()
        return result


@dataclass(frozen=True)
class LastLayer(FinalStage):
    """Linear least squares for the parameters in which the output is linear: D and U of the last layer's leaves.

    A leaf of an HSS layer gives ``D x + U c``, with its part x of the input, and coefficients c that come from the
    bases V and the inner levels. Given those, its rows of D and U are one linear regression, a leaf at a time.

    Parameters
    ----------
    ridge : float, default 0.0
        Weight of the squared change of the parameters, relative to the largest singular value of the features.

    Raises
    ------
    ValueError
        If the model does not end with an `HSSLinear` or a `torch.nn.Linear`.

    Notes
    -----
    The smallest *change* of the parameters is chosen that fits the data, so that directions about which the data say
    nothing stay as they were trained. Cost O(samples (q + r)^2) for each leaf of size q, and one forward pass.

    Data that do not span identify nothing outside their span: look at the error on white noise too.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import HSSLinear, data
    >>> from structmat_nn.training import LastLayer, train
    >>> dataset = data.load("poisson1d", samples=32, size=64)
    >>> result = train(HSSLinear(64, 64, rank=2, levels=2), dataset, epochs=1, final_stages=[LastLayer()])
    >>> result.stages[-1].name, result.validation_error < 1e-8
    ('adamw+last layer', True)
    """

    ridge: float = 0.0
    name: ClassVar[str] = "last layer"

    def __post_init__(self) -> None:
        non_negative(self.ridge, "ridge")

    @torch.no_grad()
    def apply(self, operator: LearnedOperator, data: StageData) -> LearnedOperator:
        """Return the operator with the last layer solved for; as `FinalStage.apply`."""
        result = copy.deepcopy(operator)
        with_precision(result.model, torch.float64)
        layer, inputs = _last_layer(result, data.inputs.to(result.device))
        targets = data.outputs.to(result.device).reshape(len(inputs), -1)  # (samples, out_features)
        missing = targets - layer(inputs)
        if isinstance(layer, nn.Linear):
            features = inputs if layer.bias is None else torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
            change = self._solve(features[None], missing[None])[0]  # (in_features [+ 1], out_features)
            layer.weight += change[: layer.in_features].T
            if layer.bias is not None:
                layer.bias += change[-1]
        else:
            self._improve(layer, inputs, missing)
        return result

    def _improve(self, layer: HSSLinear, inputs: Tensor, missing: Tensor) -> None:
        """Change D and U of the leaves so that the layer gives what is missing."""
        structure, generators = layer.structure, layer.generators()
        level = structure.levels
        blocks = _in_leaves(inputs, generators.col_slots, 2**level)  # (leaves, samples, q)
        features = blocks
        if level > 0:
            compressed = blocks @ generators.col_bases[-1]  # (leaves, samples, r)
            flat = compressed.transpose(0, 1).flatten(1)  # (samples, leaves * r)
            inner = flat @ inner_matrix(generators, level - 1).mT
            coefficients = inner.reshape(len(inputs), 2**level, -1).transpose(0, 1)  # (leaves, samples, r)
            features = torch.cat([blocks, coefficients], dim=-1)
        change = self._solve(features, _in_leaves(missing, generators.row_slots, 2**level))  # (leaves, q + r, p)
        q = blocks.shape[-1]
        getattr(layer, f"D{level}").add_(structure.stored(f"D{level}", change[:, :q].mT))
        if level > 0:
            getattr(layer, f"U{level}").add_(structure.stored(f"U{level}", change[:, q:].mT))

    def _solve(self, features: Tensor, targets: Tensor) -> Tensor:
        """Minimum-norm (ridge) least squares for a stack: (k, samples, f), (k, samples, p) -> (k, f, p)."""
        left, values, right = torch.linalg.svd(features, full_matrices=False)
        largest = values[..., :1].clamp_min(torch.finfo(values.dtype).tiny)
        cut = largest * max(features.shape[-2:]) * torch.finfo(values.dtype).eps
        inverse = torch.where(values > cut, values / (values**2 + (self.ridge * largest) ** 2), 0.0)
        return right.mT @ (inverse[..., None] * (left.mT @ targets))


def _in_leaves(rows: Tensor, slots: Tensor | None, leaves: int) -> Tensor:
    """Vectors by leaf, padded with zeros: (samples, n) -> (leaves, samples, leaf size)."""
    if slots is not None:
        size = leaves * -(-rows.shape[1] // leaves)
        rows = rows.new_zeros(len(rows), size).index_copy(1, slots, rows)
    return rows.reshape(len(rows), leaves, -1).transpose(0, 1)


def _last_layer(operator: LearnedOperator, inputs: Tensor) -> tuple[HSSLinear | nn.Linear, Tensor]:
    """The layer whose output is the model's output, and what goes into it, (samples, in_features)."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    candidates = [m for m in operator.model.modules() if isinstance(m, (HSSLinear, nn.Linear))]
    hooks = [m.register_forward_hook(lambda m, x, y: seen.append((m, x[0], y))) for m in candidates]
    try:
        with in_evaluation(operator):
            outputs = operator.model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if seen:
        layer, features, made = seen[-1]
        if made.numel() == outputs.numel() and torch.equal(made.reshape(-1), outputs.reshape(-1)):
            return layer, features.reshape(len(inputs), -1)
    raise ValueError(
        f"LastLayer needs a model whose output is that of an HSSLinear or a torch.nn.Linear, but "
        f"{type(operator.model).__name__} ends otherwise; use LBFGS, or end the model with such a layer"
    )
