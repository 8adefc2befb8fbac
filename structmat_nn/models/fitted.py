"""What models have in common that are computed from samples at once, without gradient steps."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np
import torch

from structmat import _check as values
from structmat.exceptions import ShapeError

from .. import _check
from .base import GridModel


class FittedModel(GridModel):
    """Base class: a linear map that `fit(inputs, outputs)` computes.

    What it holds may be buffers, named in `fitted_buffers`, which are empty until then. Their shapes depend on the
    samples, so loading a state takes them over from there.
    """

    trained_by: ClassVar[str] = "fit"
    fitted_buffers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        for name in self.fitted_buffers:
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether there is something to apply."""
        return all(getattr(self, name).numel() > 0 for name in self.fitted_buffers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map fields ``(batch..., [in_channels,] *size)`` to fields ``(batch..., [out_channels,] *size)``.

        Computed in the precision of the fit and returned in that of the input; gradients flow to the input.
        """
        if not self.fitted:
            raise RuntimeError(f"this {type(self).__name__} has nothing to apply yet; call fit(inputs, outputs)")
        return super().forward(x)

    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        outputs = self._applied(fields.flatten(1).to(self._precision())).to(fields.dtype)
        return outputs.unflatten(1, (self.out_channels, *self.size))

    @abc.abstractmethod
    def _applied(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels * points) to (batch, out_channels * points) in the precision of the fit."""

    def _precision(self) -> torch.dtype:
        """What the map is held in: double, unless the model was converted."""
        return getattr(self, self.fitted_buffers[0]).dtype

    def _check_dtype(self, x: torch.Tensor) -> None:
        """Any precision will do: the result is returned in that of the input."""

    def _paired(self, inputs: Any, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples as float64 matrices (samples, in_channels * points) and (samples, out_channels * points)."""
        x = _sample_matrix(inputs, self.size, self.in_channels, "inputs", "in_channels")
        y = _sample_matrix(outputs, self.size, self.out_channels, "outputs", "out_channels")
        if len(x) != len(y):
            raise ShapeError(
                f"inputs holds {len(x)} samples, but outputs holds {len(y)}; give one output for each input"
            )
        return x, y

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.fitted_buffers:
            saved = state_dict.get(prefix + name)
            if saved is not None:
                held = getattr(self, name)
                setattr(self, name, torch.empty_like(saved, dtype=held.dtype, device=held.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _sample_matrix(samples: Any, size: tuple[int, ...], channels: int, name: str, channels_name: str) -> torch.Tensor:
    array = samples.detach().cpu().numpy() if isinstance(samples, torch.Tensor) else np.asarray(samples)
    expected = _check.field_shape(size, channels)
    if array.ndim != len(expected) + 1 or array.shape[1:] != expected:
        raise ShapeError(
            f"{name} must have shape (samples, {', '.join(map(str, expected))}) for size={size} and "
            f"{channels_name}={channels}, but its shape is {array.shape}"
        )
    if len(array) == 0:
        raise ShapeError(f"{name} holds no samples (shape {array.shape}); give at least one")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, but its dtype is {array.dtype}")
    array = array.astype(np.float64).reshape(len(array), -1)
    values.finite(array, name)
    return torch.from_numpy(array)
