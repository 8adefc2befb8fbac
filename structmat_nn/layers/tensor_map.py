"""LowRankTensorMap: a linear map between tensors of any shapes, of low canonical rank."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from structmat._check import positive_integer
from structmat._typing import NumpyArray

from .. import _check
from .tensor import real_dtype, require_trailing

__all__ = ["LowRankTensorMap"]


class LowRankTensorMap(nn.Module):
    """A linear map between tensors of low CP rank.

    ``Z -> sum_i c_i <v_i^(1) x ... x v_i^(M), Z> u_i^(1) x ... x u_i^(m)``, where x is the outer product.
    Its input and its output may differ in the number of axes, and channels are axes like the others.

    Parameters
    ----------
    in_shape, out_shape : int or tuple of int
        (D_1, .., D_M) and (d_1, .., d_m).
    rank : int
        Number of terms r.
    device, dtype : optional
        Of the parameters.

    Notes
    -----
    The map looks at its input through `rank` numbers, and every output lies in one space of dimension `rank`: as a
    lifting it passes that many features of a field, not the field. Where each channel shall keep its own field, use
    `HSSTensorLinear(..., channels=(in, out))`, which mixes channels and acts on space by HSS matrices.
    ``r (1 + sum D + sum d)`` parameters; cost O(r (prod D + prod d)) a sample.

    References
    ----------
    Section E of the Neural-HSS paper; T. G. Kolda, B. W. Bader, SIAM Review 51 (2009) 455-500, section 3.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import LowRankTensorMap
    >>> lifting = LowRankTensorMap((4, 16, 16), (32, 32), rank=5)
    >>> lifting(torch.ones(7, 4, 16, 16)).shape
    torch.Size([7, 32, 32])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        *,
        rank: int,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _check.grid_size(in_shape, "in_shape"), _check.grid_size(out_shape, "out_shape")
        self.rank = positive_integer(rank, "rank")
        options = {"device": device, "dtype": real_dtype(dtype)}
        self.weights = nn.Parameter(torch.empty(self.rank, **options))
        for letter, shape in (("v", self.in_shape), ("u", self.out_shape)):
            for axis, size in enumerate(shape):
                self.register_parameter(f"{letter}{axis}", nn.Parameter(torch.empty(self.rank, size, **options)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew so that the output has the variance of the input.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of the random numbers. Default: torch's own, as in `torch.nn`.
        """
        for axis, size in enumerate(self.in_shape):
            getattr(self, f"v{axis}").normal_(generator=generator).mul_(size**-0.5)
        for axis in range(len(self.out_shape)):
            getattr(self, f"u{axis}").normal_(generator=generator)
        # as random numbers of their own, the weights would leave the variance to a few of the terms
        self.weights.fill_(self.rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last axes: ``(..., *in_shape)`` -> ``(..., *out_shape)``."""
        require_trailing(x, self.in_shape, "map")
        lead = x.shape[: x.dim() - len(self.in_shape)]
        features = (x.reshape(-1, prod(self.in_shape)) @ self._outer("v", len(self.in_shape)).mT) * self.weights
        return (features @ self._outer("u", len(self.out_shape))).reshape(*lead, *self.out_shape)

    def _outer(self, letter: str, axes: int) -> Tensor:
        """The outer products of the vectors of each term, (r, product of the sizes)."""
        product = getattr(self, f"{letter}0")
        for axis in range(1, axes):
            product = (product[:, :, None] * getattr(self, f"{letter}{axis}")[:, None, :]).flatten(1)
        return product

    def dense_weight(self) -> Tensor:
        """The map as one differentiable matrix, (prod(out_shape), prod(in_shape))."""
        u, v = self._outer("u", len(self.out_shape)), self._outer("v", len(self.in_shape))
        return (u.mT * self.weights) @ v

    @torch.no_grad()
    def kronecker_factors(self, modes: int) -> list[NumpyArray]:
        """The map as a sum of Kronecker products of rank-one matrices, one (r, d_j, D_j) array for each mode.

        Where a side has fewer axes than `modes`, axes of size 1 go before them.
        """
        sides = []
        for letter, axes in (("u", len(self.out_shape)), ("v", len(self.in_shape))):
            ones = [torch.ones(self.rank, 1)] * (modes - axes)
            sides.append([*ones, *(getattr(self, f"{letter}{axis}") for axis in range(axes))])
        factors = [u.double().cpu()[:, :, None] * v.double().cpu()[:, None, :] for u, v in zip(*sides, strict=True)]
        factors[0] = factors[0] * self.weights.double().cpu()[:, None, None]
        return [factor.numpy() for factor in factors]

    def extra_repr(self) -> str:
        """Shapes and rank, for `print`."""
        return f"{self.in_shape}, {self.out_shape}, rank={self.rank}"
