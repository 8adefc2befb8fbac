"""Transolver: H. Wu, H. Luo, H. Wang, J. Wang, M. Long, ICML 2024."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from structmat._check import positive_integer

from .base import GridModel, placed, seeded, unit_grid
from .resnet import convolution


class Transolver(GridModel):
    """Transformer on learned slices of the grid, instead of on its points.

    Each point is assigned softly to `slices` slices by a softmax of features of its neighbourhood; a slice is
    represented by the weighted mean of its points, the slices attend to each other, and each point takes back the sum
    of its slices by the same weights. This replaces the attention of an ordinary transformer block; perceptrons,
    normalisation and residual connections are as usual. The coordinates are appended to the input.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis; one to three axes.
    in_channels, out_channels : int
        Fields in and out.
    width : int
        Channels inside; a multiple of `heads`.
    depth : int
        Transformer blocks.
    heads : int
        Attention heads, each with slices of its own.
    slices : int
        Slices of a head.
    expansion : int
        The perceptron of a block has ``expansion * width`` hidden channels.
    seed : int, optional
        Of the first weights.
    dtype, device : optional
        Default: single precision on the CPU.

    Notes
    -----
    Cost of a product: O(points (width^2 3^m + width slices) depth): linear in the number of points.

    At 256 points the defaults have 163,921 parameters.

    References
    ----------
    H. Wu, H. Luo, H. Wang, J. Wang, M. Long, Transolver: a fast transformer solver for PDEs on general geometries, ICML
    2024; the variant for regular grids, whose projections are convolutions.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import Transolver
    >>> model = Transolver(256, seed=0)
    >>> model(torch.ones(5, 256)).shape
    torch.Size([5, 256])
    >>> sum(p.numel() for p in model.parameters())
    163921
    """

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, width: int = 64,
        depth: int = 4, heads: int = 4, slices: int = 32, expansion: int = 1, seed: int | None = None,
        dtype: torch.dtype | None = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        width, heads = positive_integer(width, "width"), positive_integer(heads, "heads")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads={heads}, but it is {width}")
        slices, expansion = positive_integer(slices, "slices"), positive_integer(expansion, "expansion")
        with seeded(seed):
            self.lift = _perceptron(self.in_channels + self.dimension, 2 * width, width)
            self.offset = torch.nn.Parameter(torch.rand(width) / width)
            self.blocks = torch.nn.ModuleList(
                SliceBlock(self.dimension, width, heads, slices, expansion)
                for _ in range(positive_integer(depth, "depth"))
            )
            self.norm = torch.nn.LayerNorm(width)
            self.project = torch.nn.Linear(width, self.out_channels)
        coordinates = unit_grid(self.size).unflatten(0, self.size)  # (*size, dimension)
        self.register_buffer("coordinates", coordinates, persistent=False)
        placed(self, dtype, device)

    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        coordinates = self.coordinates.expand(len(fields), *self.coordinates.shape)
        hidden = self.lift(torch.cat([coordinates, fields.movedim(1, -1)], dim=-1)) + self.offset
        for block in self.blocks:
            hidden = block(hidden)  # (batch, *size, width)
        return self.project(self.norm(hidden)).movedim(-1, 1)


class SliceBlock(torch.nn.Module):
    """Adds attention between slices, then a perceptron, to channels ``(batch, *size, width)``."""

    def __init__(self, dimension: int, width: int, heads: int, slices: int, expansion: int) -> None:
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(width)
        self.attention = SliceAttention(dimension, width, heads, slices)
        self.perceptron_norm = torch.nn.LayerNorm(width)
        self.perceptron = _perceptron(width, expansion * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, *size, width)`` to the same shape."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.perceptron(self.perceptron_norm(hidden))


class SliceAttention(torch.nn.Module):
    """Points to slices, attention between slices, and back: ``(batch, *size, width)`` to the same shape."""

    def __init__(self, dimension: int, width: int, heads: int, slices: int) -> None:
        super().__init__()
        self.heads = heads
        channels = width // heads
        self.features = convolution(dimension, width, 2 * width, 3)  # half for the slices, half for their contents
        self.assign = torch.nn.Linear(channels, slices)
        torch.nn.init.orthogonal_(self.assign.weight)
        self.temperature = torch.nn.Parameter(torch.full((heads, 1, 1), 0.5))
        self.queries = torch.nn.Linear(channels, channels, bias=False)
        self.keys = torch.nn.Linear(channels, channels, bias=False)
        self.values = torch.nn.Linear(channels, channels, bias=False)
        self.project = torch.nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, *size, width)`` to the same shape."""
        features = self.features(hidden.movedim(-1, 1)).flatten(2)  # (batch, 2 width, points)
        where, what = features.unflatten(1, (2, self.heads, -1)).unbind(1)  # (batch, heads, channels, points)
        sharpness = 1 / self.temperature.clamp(0.1, 5.0)  # (heads, 1, 1)
        # the points stay last: no array of the size of the weights is transposed, and none is divided
        scores = (self.assign.weight * sharpness) @ where + self.assign.bias[:, None] * sharpness
        weights = torch.softmax(scores, dim=-2)  # (batch, heads, slices, points)
        means = weights @ what.transpose(-1, -2) / (weights.sum(dim=-1, keepdim=True) + 1e-5)
        means = scaled_dot_product_attention(self.queries(means), self.keys(means), self.values(means))
        points = means.transpose(-1, -2) @ weights  # (batch, heads, channels, points)
        return self.project(points.flatten(1, 2).transpose(1, 2)).reshape(hidden.shape)


def _perceptron(inputs: int, hidden: int, outputs: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, outputs))
