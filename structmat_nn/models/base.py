"""What all models of operators between fields on one grid share: sizes, channels, and the shapes of their inputs."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from structmat._check import positive_integer

from .. import _check


class GridModel(torch.nn.Module, abc.ABC):
    """Base class: a map from fields on a grid to fields on the same grid.

    A subclass builds its parts in `__init__` and maps fields with all their axes in `_transform`.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields that come in and that go out.

    Attributes
    ----------
    trained_by : str
        "gradient", or "fit" for models that have `fit(inputs, outputs)` instead.
    single_precision_only : bool
        Whether the model has no form in float64, so that its errors are measured in float32.

    Notes
    -----
    One channel has no axis: the input has the shape ``(batch..., *size)`` when `in_channels` is 1 and
    ``(batch..., in_channels, *size)`` otherwise, and the output likewise. There may be any number of batch axes, or
    none.
    """

    trained_by: ClassVar[str] = "gradient"
    single_precision_only: ClassVar[bool] = False

    def __init__(self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        self.size = _check.grid_size(size)
        self.in_channels = positive_integer(in_channels, "in_channels")
        self.out_channels = positive_integer(out_channels, "out_channels")

    @property
    def dimension(self) -> int:
        """Number of axes of the grid."""
        return len(self.size)

    @property
    def points(self) -> int:
        """Number of points of the grid."""
        return int(torch.Size(self.size).numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map fields ``(batch..., [in_channels,] *size)`` to fields ``(batch..., [out_channels,] *size)``."""
        x = _check.fields(x, self.size, self.in_channels)
        self._check_dtype(x)
        batch = x.shape[: x.ndim - len(_check.field_shape(self.size, self.in_channels))]
        y = self._transform(x.reshape(-1, self.in_channels, *self.size))
        return y.reshape(*batch, *_check.field_shape(self.size, self.out_channels))

    def _check_dtype(self, x: torch.Tensor) -> None:
        parameter = next(self.parameters(), None)
        if parameter is not None:
            _check.same_dtype(x, parameter.dtype, type(self).__name__)

    @abc.abstractmethod
    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, in_channels, *size)`` to ``(batch, out_channels, *size)``."""

    def extra_repr(self) -> str:
        """What `print(model)` shows before the parts."""
        return f"size={self.size}, in_channels={self.in_channels}, out_channels={self.out_channels}"


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Parts that are built inside draw their first weights from `seed`; the global generator is left as it was.

    With None they draw from torch's global generator, as the layers of torch do.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(positive_integer(seed, "seed", minimum=0))
        yield


def placed(model: torch.nn.Module, dtype: torch.dtype | None, device: Any) -> None:
    """Move a model that was built in single precision on the CPU to where it is asked for."""
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating point type such as torch.float32, but it is {dtype}")
    model.to(device=device, dtype=dtype or torch.float32)


def unit_grid(size: tuple[int, ...]) -> torch.Tensor:
    """Coordinates in [0, 1]^m of the points of a uniform grid that includes its ends.

    Returns
    -------
    (points, dimension) tensor, float64
    """
    axes = [unit_axis(points) for points in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(size))


def unit_axis(points: int) -> torch.Tensor:
    """Uniform points from 0 to 1, both included; a single one lies at 0.  (points,), float64."""
    return torch.linspace(0.0, 1.0, points, dtype=torch.float64)
