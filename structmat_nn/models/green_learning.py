"""Learned Green's functions: N. Boulle, C. J. Earls, A. Townsend, Scientific Reports 12 (2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from structmat._check import positive_integer

from .base import GridModel, placed, seeded, unit_axis, unit_grid
from .rational import Rational

PAIRS_AT_ONCE = {"cpu": 2**12}  # 2 MiB a hidden layer of width 128; the arrays of all pairs took twice as long


class GreenLearning(GridModel):
    """Learned Green's function: u(x) = integral of G(x, y) f(y) dy + h(x), linear in f.

    G and the homogeneous part h are multilayer perceptrons of coordinates with rational activations. G is evaluated on
    all pairs of grid points, the integral is the trapezoidal rule. With several channels G is matrix-valued, with one
    entry for each pair of an output and an input channel.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields in and out.
    width : int
        Of the hidden layers.
    depth : int
        Hidden layers, each followed by a rational activation of its own; a linear layer comes last.
    homogeneous : bool
        Learn h too, by a network like that of G. Without it zero is mapped to zero.
    pairs_at_once : int, optional
        Pairs of points that are evaluated together. Default: as many as fit in the cache of a CPU, or fill a GPU.
    recompute_above : int
        When the layers of all pairs take more bytes than this, they are computed again for the gradient instead of
        kept (checkpointing).
    max_pairs : int
        More pairs of points than this are refused.
    seed : int, optional
        Of the first weights.
    dtype, device : optional
        Default: single precision on the CPU.

    Raises
    ------
    ValueError
        When the grid has more than `max_pairs` pairs of points, as 128^3 does.

    Notes
    -----
    Cost of a product, and three to four times as much with a gradient: O(points^2 depth width^2), whatever the batch.
    Memory with a gradient: O(points^2 depth width) up to `recompute_above`, and O(points^2 + pairs_at_once
    depth width) above.

    Table 3 of the Neural-HSS paper (depth 6, width 128; said to have 83K parameters) gives 83,115 here for G alone and
    166,102 with the homogeneous part. Its table 5 (depth 6, width 64, two dimensions, 83K) gives 21,227 for G alone.

    References
    ----------
    N. Boulle, C. J. Earls, A. Townsend, Data-driven discovery of Green's functions with human-understandable deep
    learning, Scientific Reports 12 (2022) 4824; N. Boulle, Y. Nakatsukasa, A. Townsend, Rational neural networks,
    NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import GreenLearning
    >>> model = GreenLearning(256, width=128, depth=6, homogeneous=False, seed=0)
    >>> sum(p.numel() for p in model.parameters())
    83115
    >>> small = GreenLearning(40, width=8, depth=2, seed=0)
    >>> small(torch.ones(5, 40)).shape
    torch.Size([5, 40])
    >>> small.green_function().shape
    torch.Size([40, 40])
    """

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, width: int = 128,
        depth: int = 6, homogeneous: bool = True, pairs_at_once: int | None = None, recompute_above: int = 2**31,
        max_pairs: int = 2**31, seed: int | None = None, dtype: torch.dtype | None = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        width, depth = positive_integer(width, "width"), positive_integer(depth, "depth")
        self.pairs_at_once = None if pairs_at_once is None else positive_integer(pairs_at_once, "pairs_at_once")
        recompute_above = positive_integer(recompute_above, "recompute_above", minimum=0)
        # a hidden layer keeps its linear part and its activation
        self.recompute = 2 * 4 * self.points**2 * width * depth > recompute_above
        self._check_pairs(positive_integer(max_pairs, "max_pairs"), width, depth)
        with seeded(seed):
            self.kernel = PairNetwork(self.dimension, width, depth, self.out_channels * self.in_channels)
            self.homogeneous = (
                rational_network(self.dimension, width, depth, self.out_channels) if homogeneous else None
            )
        self.register_buffer("coordinates", unit_grid(self.size), persistent=False)  # (points, dimension)
        self.register_buffer("weights", trapezoidal_weights(self.size), persistent=False)  # (points,)
        placed(self, dtype, device)

    def green_function(self) -> torch.Tensor:
        """Values of G on all pairs of grid points.

        Returns
        -------
        tensor
            (points, points), rows for x and columns for y; (out_channels, in_channels, points, points) with more than
            one channel on either side.
        """
        values = torch.cat([self._kernel_rows(rows) for rows in self._row_blocks()], dim=2)
        return values[0, 0] if self.in_channels == self.out_channels == 1 else values

    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        weighted = fields.flatten(2) * self.weights  # (batch, in_channels, points)
        blocks = self._row_blocks()
        if self.recompute and torch.is_grad_enabled():
            parts = [checkpoint(self._rows_of_outputs, weighted, rows, use_reentrant=False) for rows in blocks]
        else:
            parts = [self._rows_of_outputs(weighted, rows) for rows in blocks]
        outputs = torch.cat(parts, dim=2)  # (batch, out_channels, points)
        if self.homogeneous is not None:
            outputs = outputs + self.homogeneous(self.coordinates).T
        return outputs.unflatten(2, self.size)

    def _rows_of_outputs(self, weighted: torch.Tensor, rows: slice) -> torch.Tensor:
        return torch.einsum("ocxy,bcy->box", self._kernel_rows(rows), weighted)

    def _kernel_rows(self, rows: slice) -> torch.Tensor:
        """G(x, y) for some x and all y: (out_channels, in_channels, rows, points)."""
        values = self.kernel(self.coordinates[rows], self.coordinates)
        return values.unflatten(0, (self.out_channels, self.in_channels))

    def _row_blocks(self) -> list[slice]:
        pairs = self.pairs_at_once or PAIRS_AT_ONCE.get(self.coordinates.device.type, 2**19)
        step = max(1, pairs // self.points)
        return [slice(start, start + step) for start in range(0, self.points, step)]

    def _check_pairs(self, limit: int, width: int, depth: int) -> None:
        pairs = self.points**2
        if pairs > limit:
            operations = 6.0 * pairs * depth * width**2
            raise ValueError(
                f"GreenLearning evaluates its network on all pairs of grid points: size={self.size} has {pairs:.1e}, "
                f"more than max_pairs={limit:.1e}. A training step would take about {operations:.0e} operations "
                f"and G alone {4 * pairs / 2**30:.0f} GiB; take a coarser grid or another model"
            )


class PairNetwork(torch.nn.Module):
    """Perceptron with rational activations on pairs (x, y) of points, (nx, m) and (ny, m).

    The first layer is linear in x and y, so it is applied to the points and added up over the pairs.
    """

    def __init__(self, dimension: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.network = rational_network(2 * dimension, width, depth, outputs)
        self.dimension = dimension

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Values (outputs, nx, ny) on all pairs."""
        first, *others = self.network
        of_x = torch.nn.functional.linear(x, first.weight[:, : self.dimension], first.bias)  # (nx, width)
        of_y = torch.nn.functional.linear(y, first.weight[:, self.dimension :])  # (ny, width)
        hidden = of_x[:, None, :] + of_y[None, :, :]  # (nx, ny, width)
        for layer in others:
            hidden = layer(hidden)
        return hidden.movedim(2, 0)


def rational_network(inputs: int, width: int, depth: int, outputs: int) -> torch.nn.Sequential:
    """Perceptron with `depth` hidden layers and rational activations; Glorot's weights, as in the paper."""
    sizes = [inputs, *[width] * depth]
    layers: list[torch.nn.Module] = []
    for layer in range(depth):
        layers += [torch.nn.Linear(sizes[layer], sizes[layer + 1]), Rational()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(width, outputs))
    for part in network:
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(part.weight)
            torch.nn.init.zeros_(part.bias)
    return network


def trapezoidal_weights(size: tuple[int, ...]) -> torch.Tensor:
    """Weights of the trapezoidal rule on the uniform grid of [0, 1]^m with its ends: (points,), float64."""
    weights = torch.ones(1, dtype=torch.float64)
    for points in size:
        axis = torch.gradient(unit_axis(points))[0] if points > 1 else torch.ones(1, dtype=torch.float64)
        if points > 1:
            axis[[0, -1]] /= 2
        weights = torch.outer(weights, axis).reshape(-1)
    return weights
