"""Normalisers: from physical units to numbers near one and back, as modules that travel inside a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from structmat import ShapeError
from structmat._check import finite, positive_integer
from structmat._typing import NumpyArray

__all__ = [
    "NORMALISERS",
    "CentredMaximumNormaliser",
    "IdentityNormaliser",
    "MaximumNormaliser",
    "MeanStandardNormaliser",
    "Normaliser",
]

Self = TypeVar("Self", bound="Normaliser")


class Normaliser(nn.Module):
    """Base class: ``normalise(x) = (x - shift) / scale`` and ``restore(y) = scale * y + shift``.

    A normaliser is made by `fit` of a subclass. Its numbers are float64 buffers, so that they are part of the
    ``state_dict`` and move with the module; results have the precision of what is normalised.

    Parameters
    ----------
    shift, scale : array_like of shape (), (channels, 1, ..., 1) or ``([channels,] *size)``
        Finite, of equal shape; no entry of `scale` is zero.

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        If an entry of `scale` is zero.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Any = 0.0, scale: Any = 1.0) -> None:
        super().__init__()
        shift, scale = np.asarray(shift, dtype=np.float64), np.asarray(scale, dtype=np.float64)
        if shift.shape != scale.shape:
            raise ShapeError(f"shift has shape {shift.shape}, but scale has shape {scale.shape}; give them one shape")
        finite(shift, "shift")
        finite(scale, "scale")
        if not scale.all():
            raise ValueError(f"scale must not be zero, but it is {scale.tolist()}")
        self.register_buffer("shift", torch.tensor(shift))
        self.register_buffer("scale", torch.tensor(scale))

    @classmethod
    def fit(cls: type[Self], values: Any, *, channels: int = 1) -> Self:
        """The normaliser that suits these training data.

        Parameters
        ----------
        values : array_like or Tensor of shape ``(samples, [channels,] *size)``
            Finite.
        channels : int, default 1
            With more than one, the second axis holds the channels, and each has its own numbers.

        Returns
        -------
        Normaliser
            An instance of the class that it is called on.

        Raises
        ------
        ValueError
            If the data cannot be scaled: they are zero throughout, or constant where a deviation is needed.
        """
        return cls(*cls._statistics(*_by_channel(values, channels)))

    @staticmethod
    def _statistics(values: NumpyArray, axes: tuple[int, ...]) -> tuple[NumpyArray, NumpyArray]:
        """Shift and scale of `values`, with the reduced axes kept as ones."""
        raise TypeError("Normaliser is the base class; call fit of MaximumNormaliser or another one of its subclasses")

    @classmethod
    def empty_like_state(cls: type[Self], state: Mapping[str, Tensor], prefix: str = "") -> Self:
        """A normaliser without statistics whose buffers have the shapes that `load_state_dict` will meet.

        Parameters
        ----------
        state : mapping of str to Tensor
            A ``state_dict`` that holds ``prefix + "scale"``.
        prefix : str
            The place of the normaliser in the module that was saved, with its dot.

        Returns
        -------
        Normaliser
        """
        key = f"{prefix}scale"
        if key not in state:
            raise KeyError(f"the state has no {key!r}; its first keys are {list(state)[:5]}")
        shape = tuple(state[key].shape)
        return cls(np.zeros(shape), np.ones(shape))

    def normalise(self, x: Tensor) -> Tensor:
        """From physical units to numbers near one; `x` has the shape ``(..., [channels,] *size)``."""
        return (x - self.shift.to(x.dtype)) / self.scale.to(x.dtype)

    def restore(self, x: Tensor) -> Tensor:
        """From numbers near one to physical units."""
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The same as `normalise`."""
        return self.normalise(x)

    def extra_repr(self) -> str:
        """The numbers of the channels, for printing; of whole fields, their shape."""
        if self.shift.numel() > 8:
            return f"fields of shape {tuple(self.shift.shape)}"
        return f"shift={self.shift.flatten().tolist()}, scale={self.scale.flatten().tolist()}"


class IdentityNormaliser(Normaliser):
    """Leaves everything as it is.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.data import IdentityNormaliser
    >>> IdentityNormaliser.fit(torch.ones(2, 3)).normalise(torch.ones(2))
    tensor([1., 1.])
    """

    @staticmethod
    def _statistics(values: NumpyArray, axes: tuple[int, ...]) -> tuple[NumpyArray, NumpyArray]:
        shape = np.zeros_like(values[:1]).max(axis=axes, keepdims=True).shape[1:]
        return _reduced(np.zeros(shape)), _reduced(np.ones(shape))


class MaximumNormaliser(Normaliser):
    """Divides by the largest absolute value of the training data, as the published experiments do.

    Zero stays zero, so linear maps stay linear.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.data import MaximumNormaliser
    >>> normaliser = MaximumNormaliser.fit([[1.0, -4.0], [2.0, 3.0]])
    >>> normaliser.normalise(torch.tensor([2.0])), normaliser.restore(torch.tensor([0.5]))
    (tensor([0.5000]), tensor([2.]))
    """

    @staticmethod
    def _statistics(values: NumpyArray, axes: tuple[int, ...]) -> tuple[NumpyArray, NumpyArray]:
        largest = np.abs(values).max(axis=axes, keepdims=True)[0]
        if not largest.all():
            raise ValueError(f"values cannot be scaled by their maximum{_where(largest)}: they are zero throughout")
        return _reduced(np.zeros_like(largest)), _reduced(largest)


class MeanStandardNormaliser(Normaliser):
    """Subtracts the mean of the training data and divides by their standard deviation (z-scores).

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.data import MeanStandardNormaliser
    >>> normaliser = MeanStandardNormaliser.fit([[1.0, 3.0], [5.0, 7.0]])
    >>> normaliser.normalise(torch.tensor([4.0])), normaliser.restore(torch.tensor([0.0]))
    (tensor([0.]), tensor([4.]))
    """

    @staticmethod
    def _statistics(values: NumpyArray, axes: tuple[int, ...]) -> tuple[NumpyArray, NumpyArray]:
        mean = values.mean(axis=axes, keepdims=True)
        deviation = values.std(axis=axes, keepdims=True)[0]
        # a constant such as 0.1 has a deviation of a few rounding errors
        flat = deviation <= 8 * np.finfo(np.float64).eps * np.abs(values).max(axis=axes, keepdims=True)[0]
        if flat.any():
            raise ValueError(
                f"values cannot be scaled by their standard deviation{_where(~flat)}: they are constant; "
                "leave that channel out, or use MaximumNormaliser"
            )
        return _reduced(mean[0]), _reduced(deviation)


class CentredMaximumNormaliser(Normaliser):
    """Subtracts the mean field of the training data, then divides by the largest absolute value that is left.

    For a linear map u = G f the means belong together, so that u - mean(u) = G (f - mean(f)): the model still learns G,
    from data that are not dominated by one field, which gradient methods learn in fewer steps.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.data import CentredMaximumNormaliser
    >>> normaliser = CentredMaximumNormaliser.fit([[1.0, -4.0], [3.0, 4.0]])
    >>> normaliser.normalise(torch.tensor([2.0, 2.0])), normaliser.restore(torch.tensor([0.0, 1.0]))
    (tensor([0.0000, 0.5000]), tensor([2., 4.]))
    """

    @staticmethod
    def _statistics(values: NumpyArray, axes: tuple[int, ...]) -> tuple[NumpyArray, NumpyArray]:
        mean = values.mean(axis=0)  # ([channels,] *size)
        spread = np.abs(values - mean).max(axis=axes, keepdims=True)[0]
        flat = spread <= 8 * np.finfo(np.float64).eps * np.abs(values).max(axis=axes, keepdims=True)[0]
        if flat.any():
            raise ValueError(
                f"values cannot be scaled by the largest difference from their mean{_where(~flat)}: all samples are "
                "equal; give more samples, or use MaximumNormaliser"
            )
        return mean, np.broadcast_to(spread, mean.shape).copy()


NORMALISERS: dict[str, type[Normaliser]] = {
    "centred-maximum": CentredMaximumNormaliser,
    "identity": IdentityNormaliser,
    "maximum": MaximumNormaliser,
    "mean-standard": MeanStandardNormaliser,
}
"""The normalisers by the names that configurations use."""


def _by_channel(values: Any, channels: int) -> tuple[NumpyArray, tuple[int, ...]]:
    """The data in float64, and the axes that one channel is spread over."""
    channels = positive_integer(channels, "channels")
    given = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    array = np.asarray(given, dtype=np.float64)
    least = 2 if channels == 1 else 3
    if array.ndim < least or array.size == 0:
        raise ShapeError(
            f"values must have shape (samples, {'channels, ' if channels > 1 else ''}*size) and hold a number, "
            f"but its shape is {array.shape}"
        )
    finite(array, "values")
    if channels == 1:
        return array, tuple(range(array.ndim))
    if array.shape[1] != channels:
        raise ShapeError(f"values has {array.shape[1]} channels (shape {array.shape}), but channels is {channels}")
    return array, (0, *range(2, array.ndim))


def _reduced(statistics: NumpyArray) -> NumpyArray:
    """(1, ..., 1) becomes (), so that one number suits any shape; (channels, 1, ..., 1) stays."""
    return statistics.reshape(()) if statistics.size == 1 else statistics


def _where(good: NumpyArray) -> str:
    return "" if good.size == 1 else f" in channel {int(np.argmin(good.reshape(-1)))}"
