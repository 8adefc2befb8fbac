"""StructuredLinear: what all layers with a rank-structured weight share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from structmat._check import positive_integer
from structmat.exceptions import ShapeError

__all__ = ["StructuredLinear"]


class StructuredLinear(nn.Module, ABC):
    """A linear layer whose weight is a rank-structured matrix.

    Parameters
    ----------
    in_features, out_features : int
        Columns and rows of the weight.
    bias : bool
        Add a trainable vector (out_features,), zero at the start.
    device, dtype : optional
        Of the parameters, as in `torch.nn.Linear`.

    Notes
    -----
    A format gives its parameters, `dense_weight` and `_columns`; the rest follows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = positive_integer(in_features, "in_features")
        self.out_features = positive_integer(out_features, "out_features")
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(
                f"dtype must be a real floating-point type, but it is {dtype}; use torch.float32 or float64"
            )
        empty = torch.empty(self.out_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(empty) if bias else None

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight as one differentiable matrix, (out_features, in_features)."""

    @abstractmethod
    def _columns(self, x: Tensor) -> Tensor:
        """The weight times the columns of x: (in_features, k) -> (out_features, k)."""

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew so that the output has the variance of the input."""

    @property
    def weight_parameter_count(self) -> int:
        """Number of parameters of the weight, without the bias."""
        return sum(p.numel() for name, p in self.named_parameters() if name != "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axis.

        Parameters
        ----------
        x : (..., in_features) tensor

        Returns
        -------
        (..., out_features) tensor
            A transposed view: the next layer reads it without a copy.
        """
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"x has {x.shape[-1] if x.dim() else 'no'} features, but the layer takes {self.in_features} "
                f"(x.shape = {tuple(x.shape)}); its last axis must have length {self.in_features}"
            )
        y = self._columns(x.reshape(-1, self.in_features).mT).mT.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes for `print`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
