"""StructuredNetwork: Neural-HSS in one dimension with other matrices in its place, to see which part of it matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from structmat._check import positive_integer
from structmat.exceptions import ShapeError

from ..layers.hodlr import HODLRLinear
from ..layers.hss import HSSLinear
from ..layers.lowrank import LowRankLinear
from ..layers.telescopic import Generators
from .base import GridModel, placed, seeded
from .neural_hss import ACTIVATIONS


class TiedHSSLinear(HSSLinear):
    """An HSS layer whose column bases are its row bases, V = U: a symmetric pattern of blocks with half of the bases.

    Parameters
    ----------
    features : int
        Rows and columns.
    **options
        As for `HSSLinear`.

    Examples
    --------
    >>> from structmat_nn.models.structured_network import TiedHSSLinear
    >>> TiedHSSLinear(256, rank=2, levels=3).weight_parameter_count  # 9424 without the V of all levels
    8864
    """

    def __init__(self, features: int, **options: Any) -> None:
        super().__init__(features, features, **options)
        for level in range(1, self.structure.levels + 1):
            delattr(self, f"V{level}")

    def _deviations(self) -> dict[str, Tensor]:
        return {name: value for name, value in super()._deviations().items() if hasattr(self, name)}

    def generators(self) -> Generators:
        """The padded stacks of generators, those of V being those of U."""
        parameters = {name: getattr(self, name.replace("V", "U")) for name in self.structure.parameter_shapes}
        return self.structure.generators(parameters, {name: getattr(self, name) for name in self._index_names})


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "hss": lambda n, rank, levels: HSSLinear(n, n, rank=rank, levels=levels),
    "tied hss": lambda n, rank, levels: TiedHSSLinear(n, rank=rank, levels=levels),
    "hodlr": lambda n, rank, levels: HODLRLinear(n, n, rank=rank, levels=levels),
    "leaves": lambda n, rank, levels: HODLRLinear(n, n, rank=0, levels=levels),
    "low rank": lambda n, rank, levels: LowRankLinear(n, n, rank=rank),
    "dense": lambda n, rank, levels: HSSLinear(n, n, rank=0, levels=0),
}


class StructuredNetwork(GridModel):
    """`depth` times a structured matrix and an activation, and one more matrix: the shape of Neural-HSS in 1-D.

    Parameters
    ----------
    size : int
        Points of the grid.
    in_channels, out_channels : int
        One each.
    layer : {"hss", "tied hss", "hodlr", "leaves", "low rank", "dense"}
        The matrices: nested bases; nested bases with V = U; bases of each level of their own; the diagonal blocks of
        the leaves alone; one product of low rank; a full matrix.
    rank, levels, depth : int
        As for `NeuralHSS`. "leaves" and "dense" have no rank, "low rank" and "dense" no levels.
    activation : {"leaky_relu", "relu", "gelu", "tanh", "identity"}
        "leaky_relu" has a learnable slope, 1 at the start.
    seed : int, optional
        Of the first weights.
    dtype, device : optional
        Default: single precision on the CPU.

    Raises
    ------
    ShapeError
        If there is more than one axis or channel.

    Notes
    -----
    With ``layer="hss"`` it is the same function as a `NeuralHSS` of the same options.

    Examples
    --------
    >>> from structmat_nn.models import count_parameters, create
    >>> for layer in ("hss", "tied hss", "hodlr", "leaves", "low rank", "dense"):
    ...     model = create("structured-network", 256, layer=layer, rank=2, levels=3, depth=3)
    ...     print(f"{layer:9} {count_parameters(model):7,}")
    hss        37,699
    tied hss   35,459
    hodlr      45,059
    leaves     32,771
    low rank    4,099
    dense     262,147
    """

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, layer: str = "hss",
        rank: int = 2, levels: int = 3, depth: int = 3, activation: str = "leaky_relu", seed: int | None = None,
        dtype: torch.dtype | None = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        if self.dimension != 1 or (self.in_channels, self.out_channels) != (1, 1):
            raise ShapeError(
                f"a StructuredNetwork maps one channel on one axis, but size={self.size}, in_channels="
                f"{self.in_channels} and out_channels={self.out_channels}; use NeuralHSS"
            )
        for name, value, table in (("layer", layer, LAYERS), ("activation", activation, ACTIVATIONS)):
            if value not in table:
                raise ValueError(f"{name} must be one of {', '.join(table)}, but it is {value!r}")
        depth = positive_integer(depth, "depth")
        with seeded(seed):
            self.layers = nn.ModuleList(LAYERS[layer](self.size[0], rank, levels) for _ in range(depth))
            self.projection = LAYERS[layer](self.size[0], rank, levels)
        self.activations = nn.ModuleList(ACTIVATIONS[activation]() for _ in range(depth))
        placed(self, dtype, device)

    def _transform(self, fields: Tensor) -> Tensor:
        z = fields  # (batch, 1, n): the layers act on the last axis
        for layer, activation in zip(self.layers, self.activations, strict=True):
            z = activation(layer(z))
        result: Tensor = self.projection(z)
        return result
