"""Residual convolutional network: K. He, X. Zhang, S. Ren, J. Sun, CVPR 2016; identity mappings, ECCV 2016."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import gelu

from structmat._check import positive_integer

from .base import GridModel, placed, seeded

CONVOLUTIONS = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
PADDINGS = ("zeros", "circular", "reflect", "replicate")


def convolution(
    dimension: int, in_channels: int, out_channels: int, kernel_size: int, **options: Any
) -> torch.nn.Module:
    """The convolution that keeps a grid of this dimension (1, 2 or 3) as large as it is."""
    if dimension not in CONVOLUTIONS:
        raise ValueError(f"convolutions exist on grids of 1, 2 or 3 dimensions, but size has {dimension}")
    return CONVOLUTIONS[dimension](in_channels, out_channels, kernel_size, padding=kernel_size // 2, **options)


class ResNet(GridModel):
    """Residual network of convolutions at the full resolution of the grid, in one, two or three dimensions.

    A convolution lifts the channels to `width`, `depth` residual blocks add to them, a convolution brings them down.
    A block adds ``conv(gelu(conv(gelu(z))))`` to z: the activations stand before the convolutions, as in the second
    of the two papers, and there is no normalisation, which would lose the scale of the field.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields in and out.
    width : int
        Channels inside.
    depth : int
        Residual blocks, of two convolutions each.
    kernel_size : int
        Odd width of the convolutions.
    padding : {"zeros", "circular", "reflect", "replicate"}
        How the field goes on outside the grid; "circular" for periodic problems.
    seed : int, optional
        Of the first weights.
    dtype, device : optional
        Default: single precision on the CPU.

    Notes
    -----
    A value depends on inputs at most ``(2 depth + 2) (kernel_size // 2)`` points away. Cost of a product:
    O(points depth width^2 kernel_size^m).

    Table 3 of the Neural-HSS paper (depth 12, width 48; said to have 165K parameters) gives 167,377 here: 12 blocks,
    because 24 convolutions of three taps hold 165,888 weights, where 12 convolutions would hold half. Its table 5
    (depth 4, width 64, 165K) gives 296,641 here, and table 4 (depth 12, width 150, 1.7M) 1,624,651.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, Deep residual learning for image recognition, CVPR 2016; Identity mappings in deep
    residual networks, ECCV 2016.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import ResNet
    >>> model = ResNet(256, width=48, depth=12, seed=0)
    >>> model(torch.ones(5, 256)).shape
    torch.Size([5, 256])
    >>> sum(p.numel() for p in model.parameters())
    167377
    """

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, width: int = 48,
        depth: int = 12, kernel_size: int = 3, padding: str = "zeros", seed: int | None = None,
        dtype: torch.dtype | None = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        width, depth = positive_integer(width, "width"), positive_integer(depth, "depth")
        _check_convolution(positive_integer(kernel_size, "kernel_size"), padding, self.size)

        def build(channels_in: int, channels_out: int) -> torch.nn.Module:
            return convolution(self.dimension, channels_in, channels_out, kernel_size, padding_mode=padding)

        with seeded(seed):
            self.lift = build(self.in_channels, width)
            self.blocks = torch.nn.ModuleList(
                ResidualBlock(build(width, width), build(width, width)) for _ in range(depth)
            )
            self.project = build(width, self.out_channels)
        placed(self, dtype, device)

    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        hidden = self.lift(fields)  # (batch, width, *size)
        for block in self.blocks:
            hidden = block(hidden)
        return self.project(gelu(hidden))


class ResidualBlock(torch.nn.Module):
    """z + second(gelu(first(gelu(z)))) with two convolutions."""

    def __init__(self, first: torch.nn.Module, second: torch.nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Add two convolutions of the activated channels to the channels ``(batch, width, *size)``."""
        return hidden + self.second(gelu(self.first(gelu(hidden))))


def _check_convolution(kernel_size: int, padding: str, size: tuple[int, ...]) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size must be odd, so that a point has neighbours on both sides, but it is {kernel_size}"
        )
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, but it is {padding!r}")
    if padding in ("circular", "reflect") and kernel_size // 2 >= min(size) + (padding == "circular"):
        raise ValueError(f"kernel_size={kernel_size} reaches over the grid with padding={padding!r} and size={size}")
