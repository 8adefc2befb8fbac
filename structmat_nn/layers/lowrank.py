"""LowRankLinear: a linear layer whose weight is a product of two thin matrices."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from structmat._check import positive_integer
from structmat._typing import NumpyArray

from .structured import StructuredLinear, as_numpy, balanced_factors

__all__ = ["LowRankLinear"]


class LowRankLinear(StructuredLinear):
    """A linear layer with the weight U V^T.

    Parameters
    ----------
    in_features, out_features : int
        Columns and rows of the weight.
    rank : int
        Columns of U and V, at most the smaller side.
    bias : bool
        Add a trainable vector (out_features,).
    route : {"auto", "structured", "dense"}
        Multiply by V^T and then by U, or form the weight first. "auto" takes what multiplies fewer numbers.
    device, dtype : optional
        Of the parameters.

    Attributes
    ----------
    U, V : torch.nn.Parameter
        (out_features, rank) and (in_features, rank).

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import LowRankLinear
    >>> layer = LowRankLinear(256, 128, rank=4)
    >>> layer(torch.ones(10, 256)).shape, layer.weight_parameter_count
    (torch.Size([10, 128]), 1536)
    """

    routes: ClassVar[tuple[str, ...]] = ("auto", "structured", "dense")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        bias: bool = False,
        route: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, route=route, device=device, dtype=dtype)
        self.rank = positive_integer(rank, "rank")
        if self.rank > min(self.in_features, self.out_features):
            raise ValueError(
                f"rank is {self.rank}, but a {self.out_features} x {self.in_features} weight has at most rank "
                f"{min(self.in_features, self.out_features)}; use torch.nn.Linear for a full one"
            )
        self.U = nn.Parameter(torch.empty(self.out_features, self.rank, device=device, dtype=dtype))
        self.V = nn.Parameter(torch.empty(self.in_features, self.rank, device=device, dtype=dtype))
        self.reset_parameters()

    def dense_weight(self) -> Tensor:
        """The weight as one differentiable matrix, (out_features, in_features)."""
        return self.U @ self.V.mT

    def _columns(self, x: Tensor) -> Tensor:
        rows, columns = self.out_features, self.in_features
        dense = rows * columns * (self.rank + x.shape[-1]) < self.rank * (rows + columns) * x.shape[-1]
        if self.route == "dense" or (self.route == "auto" and dense):
            return self.dense_weight() @ x
        return self.U @ (self.V.mT @ x)

    def _deviations(self) -> dict[str, Tensor]:
        return {"U": torch.tensor(self.rank**-0.5), "V": torch.tensor(self.in_features**-0.5)}

    @classmethod
    def from_matrix(cls, matrix: tuple[Any, Any], **options: Any) -> Self:
        """The layer whose weight is U V^T.

        Parameters
        ----------
        matrix : pair of (out_features, rank) and (in_features, rank) array_like
            U and V, real and finite.
        **options
            `bias`, `route`, `device` and `dtype` of the layer; by default the type of U and V, float64 or float32.

        Examples
        --------
        >>> import numpy as np
        >>> from structmat_nn import LowRankLinear
        >>> layer = LowRankLinear.from_matrix((np.ones((3, 1)), np.arange(4.0)[:, None]))
        >>> layer.dense_weight().tolist()[0]
        [0.0, 1.0, 2.0, 3.0]
        """
        left, right = matrix
        u, v = as_numpy(left, "U"), as_numpy(right, "V")
        if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1]:
            raise ValueError(f"U and V must be 2-D with as many columns, but their shapes are {u.shape} and {v.shape}")
        narrow = all(str(getattr(a, "dtype", "")).endswith("float32") for a in matrix)
        dtype = torch.float32 if narrow else torch.float64
        layer = cls(v.shape[0], u.shape[0], rank=u.shape[1], **({"dtype": dtype} | options))
        layer._load("U", u)
        layer._load("V", v)
        return layer

    def to_matrix(self) -> tuple[NumpyArray, NumpyArray]:
        """U and V as arrays; `structmat`'s formats take them: ``HSSMatrix.from_low_rank(*layer.to_matrix())``."""
        return self._numpy(self.U).copy(), self._numpy(self.V).copy()

    def _load_dense(self, weight: NumpyArray) -> None:
        u, v = balanced_factors(weight, self.rank)
        self._load("U", u)
        self._load("V", v)

    def extra_repr(self) -> str:
        """Sizes and rank, for `print`."""
        return f"{super().extra_repr()}, rank={self.rank}"
