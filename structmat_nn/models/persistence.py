"""The trivial baseline of time steps: the field stays what it is, but for what changes it on average."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from structmat.exceptions import ShapeError

from .fitted import FittedModel


class Persistence(FittedModel):
    """Each output field is a multiple of its input field plus a fixed field: y = a x + c, by least squares.

    What a model of a time step has to be better than, for small steps and for flows that a constant force drives.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields in and out, at least as many in as out: output field k comes of input field k.

    Attributes
    ----------
    scale : (out_channels,) tensor
        a: 1 where nothing but the force changes the field.
    offset : (out_channels * points,) tensor
        c.

    Notes
    -----
    The fit and a product cost O(samples n). A field that is the same in all samples has a = 0.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import Persistence
    >>> fields = torch.randn(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> model = Persistence(64).fit(fields, 0.9 * fields + 2.0)
    >>> model.scale, bool((model.offset - 2.0).abs().max() < 1e-12)
    (tensor([0.9000], dtype=torch.float64), True)
    """

    fitted_buffers: ClassVar[tuple[str, ...]] = ("scale", "offset")
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        if in_channels < out_channels:
            raise ShapeError(
                f"Persistence needs an input field for each output field, but in_channels = {in_channels} and "
                f"out_channels = {out_channels}"
            )

    def fit(self, inputs: Any, outputs: Any) -> Persistence:
        """Compute the numbers from samples.

        Parameters
        ----------
        inputs, outputs : array or tensor
            Pairs, one a row: ``(samples, [in_channels,] *size)`` and ``(samples, [out_channels,] *size)``.

        Returns
        -------
        Persistence
            This model.
        """
        x, y = self._paired(inputs, outputs)
        x, y = self._fields(x), y.unflatten(1, (self.out_channels, -1))
        x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
        size = (x - x_mean).square().sum(dim=(0, 2))
        both = ((x - x_mean) * (y - y_mean)).sum(dim=(0, 2))
        scale = torch.where(size > 0.0, both / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
        self.scale = scale.to(self.scale)
        self.offset = (y_mean - scale[:, None] * x_mean).flatten().to(self.offset)
        return self

    def _fields(self, x: torch.Tensor) -> torch.Tensor:
        """The input fields that there is an output of, (samples, out_channels, points)."""
        return x.unflatten(1, (self.in_channels, -1))[:, : self.out_channels]

    def _applied(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scale[:, None] * self._fields(x)).flatten(1) + self.offset
