"""StructuredLinear: what all layers with a rank-structured weight share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from structmat import ClusterTree, NonFiniteError, ShapeError, TreeMismatchError
from structmat._check import positive_integer
from structmat._typing import NumpyArray

__all__ = ["StructuredLinear"]


class StructuredLinear(nn.Module, ABC):
    """A linear layer whose weight is a rank-structured matrix.

    Parameters
    ----------
    in_features, out_features : int
        Columns and rows of the weight.
    bias : bool
        Add a trainable vector (out_features,), zero at the start.
    route : str
        How products are computed: one of the class's `routes`.
    device, dtype : optional
        Of the parameters, as in `torch.nn.Linear`. Real; autocast computes in the lower precision and keeps them.

    Notes
    -----
    A format gives its parameters, `dense_weight`, `_columns`, the start and the conversions; the rest follows.
    """

    routes: ClassVar[tuple[str, ...]] = ("auto",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        route: str = "auto",
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
        if route not in self.routes:
            raise ValueError(f"route must be one of {', '.join(map(repr, self.routes))}, but it is {route!r}")
        self.route = route
        empty = torch.zeros(self.out_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(empty) if bias else None

    # ------------------------------------------------------------------------- what a format gives

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight as one differentiable matrix, (out_features, in_features)."""

    @abstractmethod
    def _columns(self, x: Tensor) -> Tensor:
        """The weight times the columns of x: (in_features, k) -> (out_features, k)."""

    @abstractmethod
    def _deviations(self) -> dict[str, Tensor]:
        """For each parameter of the weight its standard deviation at the start, broadcastable to its shape."""

    @classmethod
    @abstractmethod
    def from_matrix(cls, matrix: Any, **options: Any) -> Self:
        """A layer whose weight is a given classical matrix; options are those of the constructor."""

    @abstractmethod
    def to_matrix(self) -> Any:
        """The weight as a classical matrix."""

    @abstractmethod
    def _load_dense(self, weight: NumpyArray) -> None:
        """Set the parameters to the compression of a matrix to the ranks of the layer."""

    # --------------------------------------------------------------------------- what follows from it

    @property
    def weight_parameter_count(self) -> int:
        """Number of parameters of the weight, without the bias."""
        return sum(p.numel() for name, p in self.named_parameters() if name != "bias")

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Apply the layer to the last axis.

        Parameters
        ----------
        x : (..., in_features) tensor
        weight : (out_features, in_features) tensor, optional
            `dense_weight()`, where it has been formed already, with those of other layers for instance.

        Returns
        -------
        (..., out_features) tensor
            A transposed view, which the next layer reads without a copy.
        """
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"x has {x.shape[-1] if x.dim() else 'no'} features, but the layer takes {self.in_features} "
                f"(x.shape = {tuple(x.shape)}); its last axis must have length {self.in_features}"
            )
        columns = x.reshape(-1, self.in_features).mT
        product = self._columns(columns) if weight is None else weight @ columns
        y = product.mT.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight anew so that the output has the variance of the input; the bias becomes zero.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of the random numbers. Default: torch's own, as in `torch.nn`.
        """
        for name, deviation in self._deviations().items():
            parameter = getattr(self, name)
            parameter.normal_(generator=generator).mul_(deviation.to(parameter))
        if self.bias is not None:
            self.bias.zero_()

    @torch.no_grad()
    def init_from_dense(self, weight: Any) -> float:
        """Set the weight to the compression of a given matrix to the ranks of this layer.

        Parameters
        ----------
        weight : (out_features, in_features) array_like or tensor
            Finite.

        Returns
        -------
        float
            The relative Frobenius error, ||weight - dense_weight|| / ||weight||; for a zero matrix 0.

        Notes
        -----
        The bias keeps its values. Cost O(out_features * in_features * rank).

        Examples
        --------
        >>> import torch
        >>> from structmat_nn import HSSLinear
        >>> x = torch.linspace(0, 1, 64, dtype=torch.float64)
        >>> layer = HSSLinear(64, 64, rank=2, levels=3, dtype=torch.float64)
        >>> layer.init_from_dense(torch.exp(-abs(x[:, None] - x))) < 1e-13
        True
        """
        array = as_numpy(weight, "weight")
        expected = (self.out_features, self.in_features)
        if array.shape != expected:
            raise ShapeError(
                f"weight has shape {array.shape}, but the layer needs {expected}, (out_features, in_features)"
            )
        self._load_dense(array)
        size = float(np.linalg.norm(array))
        difference = float(np.linalg.norm(array - as_numpy(self.dense_weight(), "the compressed weight")))
        return difference / size if size > 0.0 else difference

    def _load(self, name: str, values: NumpyArray | Tensor) -> None:
        with torch.no_grad():
            getattr(self, name).copy_(torch.as_tensor(values))

    def _numpy(self, tensor: Tensor) -> NumpyArray:
        """A stack in the precision that its classical matrix has: float64, or else float32."""
        return tensor.detach().cpu().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32).numpy()

    def extra_repr(self) -> str:
        """Sizes, route and number of parameters, for `print`."""
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, route={self.route!r}, "
            f"parameters={self.weight_parameter_count}"
        )


# ------------------------------------------------------------------------------------ shared helpers


def as_numpy(a: Any, name: str) -> NumpyArray:
    """A real, finite float64 array from an array or a tensor."""
    array = a.detach().cpu().to(torch.promote_types(a.dtype, torch.float64)) if isinstance(a, Tensor) else a
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real, but its dtype is {array.dtype}; the layers have real parameters")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        raise NonFiniteError(
            f"{name} must be finite, but {int((~np.isfinite(array)).sum())} of its entries are NaN or Inf"
        )
    return array


def balanced_factors(blocks: NumpyArray, rank: int) -> tuple[NumpyArray, NumpyArray]:
    """U (..., p, rank) and V (..., q, rank) of the best approximations U V^T, of equal norms.

    Where a block has a lower rank, U is zero and V is not: as zeros both would get no gradients.
    """
    x, s, yt = np.linalg.svd(blocks, full_matrices=False)
    s = s[..., None, :rank]
    used = s > 1e-14 * s[..., :1]
    root = np.sqrt(s)
    return x[..., :rank] * np.where(used, root, 0.0), yt.swapaxes(-2, -1)[..., :rank] * np.where(used, root, 1.0)


def layer_trees(
    trees: tuple[ClusterTree, ClusterTree] | None, shape: tuple[int, int], levels: int
) -> tuple[ClusterTree, ClusterTree]:
    """The given trees, checked, or balanced ones over the indices as they come."""
    if trees is None:
        return ClusterTree.balanced(shape[0], depth=levels), ClusterTree.balanced(shape[1], depth=levels)
    row_tree, col_tree = trees
    found = ((row_tree.n, col_tree.n), row_tree.depth, col_tree.depth)
    if found != (shape, levels, levels):
        raise TreeMismatchError(
            f"trees are over {found[0]} rows and columns with depths {found[1:]}, but the layer has shape {shape} and "
            f"{levels} levels; build both with depth={levels}"
        )
    return row_tree, col_tree


def torch_dtype(matrix: Any) -> torch.dtype:
    """The type of a layer made from a classical matrix."""
    if matrix.dtype.kind == "c":
        raise TypeError(f"the matrix is complex ({matrix.dtype}), but the layers have real parameters")
    return torch.float64 if matrix.dtype == np.float64 else torch.float32


def require_format(matrix: Any, kind: type) -> None:
    """Raise unless the matrix is of the format of the layer."""
    if not isinstance(matrix, kind):
        raise TypeError(
            f"matrix must be a structmat.{kind.__name__}, but it is a {type(matrix).__name__}; "
            f"convert it with structmat.{kind.__name__}.from_structured(matrix), or from_dense for an array"
        )
