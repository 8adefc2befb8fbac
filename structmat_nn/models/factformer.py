"""FactFormer: Z. Li, D. Shu, A. Barati Farimani, NeurIPS 2023."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import gelu, interpolate

from structmat._check import positive_integer

from .base import GridModel, placed, seeded, unit_axis, unit_grid
from .resnet import convolution

FREQUENCIES = 64.0  # the rotary angles of the fastest pair go from 0 to this along an axis
FIRST_GAIN = 0.02  # of queries and keys: the attention starts near zero, so that a block starts near the identity


class FactFormer(GridModel):
    """Transformer with factorised attention: one attention matrix for each axis of the grid.

    A linear layer lifts the channels to `width`. Each block adds Fourier features of the coordinates, and then its
    attention: for each axis the field is averaged over the other axes, a gated perceptron and a kernel of queries and
    keys with rotary positions make a matrix between the points of that axis, and the values are multiplied by all
    these matrices, axis after axis. There is no softmax. As in the configuration that the authors publish for
    steady problems, a convolutional branch at half the resolution follows, and a pointwise layer joins both.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis; one to three axes.
    in_channels, out_channels : int
        Fields in and out.
    width : int
        Channels inside; a multiple of 8.
    depth : int
        Attention blocks.
    heads : int
        Attention heads.
    head_width : int
        Channels of the values of a head; even.
    kernel_multiplier : int
        Queries and keys have ``head_width * kernel_multiplier`` channels.
    seed : int, optional
        Of the first weights, and of the fixed frequencies of the Fourier features.
    dtype, device : optional
        Default: single precision on the CPU.

    Notes
    -----
    Cost of a product: O(points width^2) for the pointwise layers and convolutions, and
    O(points (n_1 + ... + n_m) heads head_width) for the attention.

    Table 5 of the Neural-HSS paper (depth 1, width 384, one head of 8 channels, multiplier 1; said to have 3.9M
    parameters) gives 3,934,657 here.

    References
    ----------
    Z. Li, D. Shu, A. Barati Farimani, Scalable transformer for PDE surrogate modeling, NeurIPS 2023.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import FactFormer
    >>> model = FactFormer((12, 10), width=16, heads=2, head_width=4, seed=0)
    >>> model(torch.ones(5, 12, 10)).shape
    torch.Size([5, 12, 10])
    """

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, width: int = 384,
        depth: int = 1, heads: int = 1, head_width: int = 8, kernel_multiplier: int = 1, seed: int | None = None,
        dtype: torch.dtype | None = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        _check_widths(positive_integer(width, "width"), positive_integer(head_width, "head_width"), self.dimension)
        heads = positive_integer(heads, "heads")
        key_width = head_width * positive_integer(kernel_multiplier, "kernel_multiplier")
        with seeded(seed):
            self.lift = torch.nn.Linear(self.in_channels, width)
            self.blocks = torch.nn.ModuleList(
                FactorisedBlock(self.size, width, heads, head_width, key_width)
                for _ in range(positive_integer(depth, "depth"))
            )
            self.coarse = CoarseBranch(self.size, width)
            self.norm = torch.nn.GroupNorm(8, 2 * width)
            self.mix = torch.nn.Linear(2 * width, width, bias=False)
            self.project = torch.nn.Linear(width, self.out_channels)
        placed(self, dtype, device)

    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        hidden = self.lift(fields.movedim(1, -1))  # (batch, *size, width)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = hidden.movedim(-1, 1)  # (batch, width, *size)
        hidden = self.norm(torch.cat([self.coarse(hidden), hidden], dim=1))
        return self.project(gelu(self.mix(hidden.movedim(1, -1)))).movedim(-1, 1)


class FactorisedBlock(torch.nn.Module):
    """Adds positions, then factorised attention, to channels ``(batch, *size, width)``."""

    def __init__(self, size: tuple[int, ...], width: int, heads: int, head_width: int, key_width: int) -> None:
        super().__init__()
        self.heads = heads
        frequencies = 2 * math.pi * torch.randn(len(size), width // 2)
        angles = (unit_grid(size).float() @ frequencies).unflatten(0, size)  # (*size, width // 2)
        self.register_buffer("features", torch.cat([angles.sin(), angles.cos()], dim=-1))  # (*size, width)
        self.position = torch.nn.Linear(width, width)
        self.norm = torch.nn.LayerNorm(width)
        self.values = torch.nn.Linear(width, heads * head_width, bias=False)
        self.mix = torch.nn.Linear(width, width, bias=False)
        self.axes = torch.nn.ModuleList(AxisKernel(points, width, heads, key_width) for points in size)
        self.first = torch.nn.Linear(heads * head_width, width, bias=False)
        self.second = torch.nn.Linear(width, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, *size, width)`` to the same shape."""
        hidden = hidden + self.position(self.features)
        normed = self.norm(hidden)
        attended = self.values(normed).unflatten(-1, (self.heads, -1)).movedim(-2, 1)  # (batch, heads, *size, channels)
        mixed = self.mix(normed)
        for axis, kernel in enumerate(self.axes):
            others = [1 + other for other in range(len(self.axes)) if other != axis]
            pooled = mixed.mean(dim=others) if others else mixed  # (batch, points of the axis, width)
            attended = _along_axis(kernel(pooled), attended, axis + 2)
        attended = _instance_norm(attended.movedim(1, -2).flatten(-2))  # (batch, *size, heads * channels)
        return hidden + self.second(gelu(self.first(attended)))


class AxisKernel(torch.nn.Module):
    """Attention matrices (batch, heads, n, n) between the points of one axis, from (batch, n, width)."""

    def __init__(self, points: int, width: int, heads: int, key_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.pool = torch.nn.Linear(width, width, bias=False)
        self.norm = torch.nn.LayerNorm(width)
        self.gated = torch.nn.Linear(width, 2 * width)
        self.latent = torch.nn.Linear(width, width)
        self.queries = torch.nn.Linear(width, heads * key_width, bias=False)
        self.keys = torch.nn.Linear(width, heads * key_width, bias=False)
        for projection in (self.queries, self.keys):
            torch.nn.init.xavier_uniform_(projection.weight, gain=FIRST_GAIN)
        frequencies = FREQUENCIES * 10000.0 ** (-torch.arange(0, key_width, 2) / key_width)
        angles = unit_axis(points).float()[:, None] * frequencies  # (n, key_width // 2)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Matrices (batch, heads, n, n) from averages (batch, n, width)."""
        gate, value = self.gated(self.norm(self.pool(pooled))).chunk(2, dim=-1)
        latent = self.latent(gelu(gate) * value)
        queries = self._rotated(self.queries(latent))
        keys = self._rotated(self.keys(latent))
        return queries @ keys.transpose(-1, -2)

    def _rotated(self, projected: torch.Tensor) -> torch.Tensor:
        """Turn pairs of channels by angles that grow along the axis: products then see differences of positions."""
        even, odd = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(2, dim=-1)
        return torch.cat([even * self.cosines - odd * self.sines, odd * self.cosines + even * self.sines], dim=-1)


class CoarseBranch(torch.nn.Module):
    """Convolutions at half the resolution, and back to the grid: ``(batch, width, *size)`` to the same shape."""

    def __init__(self, size: tuple[int, ...], width: int) -> None:
        super().__init__()
        dimension = len(size)
        self.size = size
        self.down = convolution(dimension, width, width // 2, 3, stride=2)
        self.smooth = convolution(dimension, width // 2, width // 2, 3)
        self.refine = convolution(dimension, width // 2, width // 2, 3)
        self.up = convolution(dimension, width // 2, width, 3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, width, *size)`` to the same shape."""
        normed = _instance_norm(hidden.movedim(1, -1)).movedim(-1, 1)
        coarse = self.smooth(gelu(self.down(normed)))
        return self.up(gelu(self.refine(interpolate(coarse, size=self.size))))


def _along_axis(matrices: torch.Tensor, values: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply values ``(batch, heads, *size, channels)`` along one axis by matrices (batch, heads, n, n)."""
    moved = values.movedim(axis, 2)
    return torch.matmul(matrices, moved.flatten(3)).reshape(moved.shape).movedim(2, axis)


def _instance_norm(values: torch.Tensor) -> torch.Tensor:
    """Give each channel of ``(batch, *size, channels)`` mean 0 and variance 1 over the grid."""
    grid = tuple(range(1, values.ndim - 1))
    variance, mean = torch.var_mean(values, dim=grid, correction=0, keepdim=True)
    return (values - mean) * torch.rsqrt(variance + 1e-5)


def _check_widths(width: int, head_width: int, dimension: int) -> None:
    if width % 8:
        raise ValueError(f"width must be a multiple of 8, for normalisation in groups of channels, but it is {width}")
    if head_width % 2:
        raise ValueError(
            f"head_width must be even, because rotary positions turn pairs of channels; it is {head_width}"
        )
    if dimension > 3:
        raise ValueError(f"FactFormer works on grids of 1, 2 or 3 dimensions, but size has {dimension}")
