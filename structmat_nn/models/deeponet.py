"""DeepONet: L. Lu, P. Jin, G. Pang, Z. Zhang, G. E. Karniadakis, Nature Machine Intelligence 3 (2021)."""

from __future__ import annotations

from typing import Any

import torch

from structmat._check import positive_integer

from .base import GridModel, placed, seeded, unit_grid


class DeepONet(GridModel):
    """Deep operator network: u(x) = sum over k of b_k(f) t_k(x), plus a constant.

    The branch network turns the values of the input on the grid into coefficients b, the trunk network turns the
    coordinates of a point into basis functions t. Both are multilayer perceptrons of the same depth and width with
    GELU; the trunk's last layer is activated too, as in the paper. Of several output channels each has its own
    coefficients and constant, and all share the basis.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields in and out.
    width : int
        Of the hidden layers, and the number of basis functions.
    depth : int
        Linear layers of the branch, and of the trunk.
    seed : int, optional
        Of the first weights.
    dtype, device : optional
        Default: single precision on the CPU.

    Notes
    -----
    The output lies in a space of dimension `width`, whatever the input. The branch's first layer has
    ``points * in_channels * width`` weights: 268 million for 128^3 points and width 128. The trunk does not depend on
    the input and is evaluated once a batch. Cost: O(batch points width).

    Table 3 of the Neural-HSS paper (depth 4, width 192, 256 points; said to have 247K parameters) gives 272,065 here,
    its table 5 (depth 4, width 64, 64 x 64 points, 280K) gives 287,361, table 4 (depth 4, width 512, 1024 points, 1.7M)
    2,101,761.

    References
    ----------
    L. Lu, P. Jin, G. Pang, Z. Zhang, G. E. Karniadakis, Learning nonlinear operators via DeepONet based on the
    universal approximation theorem of operators, Nature Machine Intelligence 3 (2021) 218-229.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import DeepONet
    >>> model = DeepONet(256, width=192, depth=4, seed=0)
    >>> model(torch.ones(5, 256)).shape
    torch.Size([5, 256])
    >>> sum(p.numel() for p in model.parameters())
    272065
    """

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, width: int = 192,
        depth: int = 4, seed: int | None = None, dtype: torch.dtype | None = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        self.width = positive_integer(width, "width")
        depth = positive_integer(depth, "depth")
        with seeded(seed):
            self.branch = perceptron(self.in_channels * self.points, self.width, self.out_channels * self.width, depth)
            self.trunk = perceptron(self.dimension, self.width, self.width, depth).append(torch.nn.GELU())
        self.constant = torch.nn.Parameter(torch.zeros(self.out_channels, 1))
        self.register_buffer("coordinates", 2 * unit_grid(self.size) - 1, persistent=False)  # (points, dimension)
        placed(self, dtype, device)

    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        coefficients = self.branch(fields.flatten(1)).unflatten(1, (self.out_channels, self.width))
        basis = self.trunk(self.coordinates)  # (points, width)
        outputs = torch.matmul(coefficients, basis.T) + self.constant  # (batch, out_channels, points)
        return outputs.unflatten(-1, self.size)


def perceptron(inputs: int, width: int, outputs: int, depth: int) -> torch.nn.Sequential:
    """`depth` linear layers with GELU between them; the last one is linear."""
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers: list[torch.nn.Module] = []
    for layer in range(depth):
        layers += [torch.nn.Linear(sizes[layer], sizes[layer + 1]), torch.nn.GELU()]
    return torch.nn.Sequential(*layers[:-1])
