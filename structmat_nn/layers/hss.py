"""HSSLinear: a linear layer whose weight is an HSS matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import telescopic
from .structured import StructuredLinear
from .telescopic import Generators, Telescopic

__all__ = ["HSSLinear", "hss_parameter_count"]

ROUTES = ("auto", "structured", "core", "dense")


def hss_parameter_count(n: int, levels: int, rank: int) -> int:
    """Number of parameters of a square HSS weight with equal leaves.

    ``n^2 / 2^L + 2 n r + 8 r^2 (2^L - 2) + 4 r^2`` for L >= 1, and ``n^2`` for L = 0.

    Parameters
    ----------
    n : int
        Rows and columns, a multiple of ``2**levels``.
    levels : int
        L, the number of levels below the root.
    rank : int
        r, of all levels.

    Examples
    --------
    >>> from structmat_nn import hss_parameter_count
    >>> hss_parameter_count(256, levels=3, rank=2)
    9424
    """
    return Telescopic.of(n, n, rank=rank, levels=levels).parameter_count


class HSSLinear(StructuredLinear):
    """A linear layer whose weight is an HSS matrix in telescopic form.

    Parameters
    ----------
    in_features, out_features : int
        Columns and rows of the weight, any sizes of at least ``2**levels``.
    rank : int or sequence of int
        Rank of all levels, or one for each level from 1 (below the root) to `levels` (the leaves).
    levels : int
        Levels below the root; 0 is a plain dense matrix.
    bias : bool
        Add a trainable vector.
    route : {"auto", "structured", "core", "dense"}
        How products are computed: block by block on all levels; the leaves block by block and the inner matrix
        densely; the whole weight densely. "auto" chooses.
    device, dtype : optional
        Of the parameters.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import HSSLinear
    >>> layer = HSSLinear(256, 256, rank=2, levels=3)
    >>> layer(torch.ones(10, 256)).shape, layer.weight_parameter_count
    (torch.Size([10, 256]), 9424)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int | Sequence[int],
        levels: int,
        bias: bool = False,
        route: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        if route not in ROUTES:
            raise ValueError(f"route must be one of {', '.join(map(repr, ROUTES))}, but it is {route!r}")
        self.route = route
        self.structure = Telescopic.of(out_features, in_features, rank=rank, levels=levels)
        for name, shape in self.structure.parameter_shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        for name, index in self.structure.index_buffers().items():
            self.register_buffer(name, index.to(device), persistent=False)
        self.reset_parameters()

    def generators(self) -> Generators:
        """The padded stacks of generators, through which gradients flow."""
        parameters = {name: getattr(self, name) for name in self.structure.parameter_shapes}
        return self.structure.generators(parameters, dict(self.named_buffers()))

    def dense_weight(self) -> Tensor:
        """The weight as one differentiable matrix, (out_features, in_features)."""
        return telescopic.dense(self.generators())

    def _columns(self, x: Tensor) -> Tensor:
        return telescopic.apply(self.generators(), x, dense_level=self._dense_level())

    def _dense_level(self) -> int:
        levels = self.structure.levels
        return {"structured": 0, "core": max(levels - 1, 0), "auto": max(levels - 1, 0), "dense": levels}[self.route]

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all generators anew so that the output has the variance of the input; the bias becomes zero.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of the random numbers. Default: torch's own, as in `torch.nn`.
        """
        for name, deviation in self.structure.initial_deviations().items():
            parameter = getattr(self, name)
            parameter.normal_(generator=generator).mul_(deviation.to(parameter))
        if self.bias is not None:
            self.bias.zero_()

    def extra_repr(self) -> str:
        """Sizes, ranks and the route, for `print`."""
        ranks = self.structure.row_ranks
        rank = ranks[0] if len(set(ranks)) == 1 else ranks
        return (
            f"{super().extra_repr()}, rank={rank}, levels={self.structure.levels}, route={self.route!r}, "
            f"parameters={self.weight_parameter_count}"
        )
