"""Checks at the door of layers and models: sizes, channels, and tensors against them.

An error names the argument, what was expected, what came, and the way out. Nothing here looks at the entries of a
tensor, so a forward pass waits for no device.
"""

from __future__ import annotations

from typing import Any

import torch

from structmat._check import positive_integer
from structmat.exceptions import ShapeError


def grid_size(value: Any, name: str = "size") -> tuple[int, ...]:
    """The points of a grid along each axis: an integer in one dimension, else a tuple or list of integers."""
    if isinstance(value, (tuple, list, torch.Size)):
        if not value:
            raise ValueError(f"{name} must hold one integer for each dimension, but it is empty")
        return tuple(positive_integer(points, f"{name}[{axis}]") for axis, points in enumerate(value))
    return (positive_integer(value, name),)


def per_axis(value: Any, dimension: int, name: str, *, minimum: int = 1) -> tuple[int, ...]:
    """One integer for each of `dimension` axes; a single one stands for all."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * dimension
    if len(values) != dimension:
        raise ValueError(f"{name} must be one integer or one for each of {dimension} axes, but it is {value!r}")
    return tuple(positive_integer(entry, name, minimum=minimum) for entry in values)


def field_shape(size: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """The shape of one sample: `size` for one channel, else ``(channels, *size)``."""
    return size if channels == 1 else (channels, *size)


def fields(
    x: Any, size: tuple[int, ...], channels: int, *, name: str = "x", channels_name: str = "in_channels",
) -> torch.Tensor:  # fmt: skip
    """Tensor of floating point numbers whose last axes are those of one sample: ``(batch..., [channels,] *size)``."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, but it is a {type(x).__name__}; torch.as_tensor(...) makes one"
        )
    expected = field_shape(size, channels)
    if x.ndim < len(expected) or tuple(x.shape[x.ndim - len(expected) :]) != expected:
        raise ShapeError(
            f"{name} must have shape (batch..., {', '.join(map(str, expected))}) for size={size} and "
            f"{channels_name}={channels}, but its shape is {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating point numbers, but its dtype is {x.dtype}; x.float() converts")
    return x


def same_dtype(x: torch.Tensor, dtype: torch.dtype, owner: str, name: str = "x") -> None:
    """The input has the precision of the parameters, unless autocast chooses the precision."""
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"{name} is {x.dtype}, but the parameters of this {owner} are {dtype}; convert one: x.to({dtype}) or "
            f"model.to({x.dtype})"
        )
