"""HSSTensorLinear: a linear layer on grids of any dimension, a sum of Kronecker products of HSS matrices."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from structmat._check import positive_integer
from structmat.exceptions import ShapeError, StructureWarning

from .. import _check
from . import telescopic
from .hss import HSSLinear
from .kronecker import KroneckerSum
from .telescopic import Generators, Telescopic

if TYPE_CHECKING:
    from .exponential_sums import ExponentialSumStart

__all__ = ["HSSTensorLinear"]


class HSSTensorLinear(nn.Module):
    """A linear layer on tensors: a sum of products along all axes with HSS matrices.

    ``sum_k Z x_1 W_1^(k) x_2 ... x_m W_m^(k)``, with HSS matrices ``W_j^(k)``. As a matrix it is a sum
    of `outer_rank` Kronecker products. For several channels a dense factor ``C^(k)`` (channels out, channels in) joins
    each product: the channels are one more mode.

    Parameters
    ----------
    shape : int or tuple of int
        Sizes n_1 .. n_m of the input, any m >= 1.
    rank : int or sequence
        HSS rank of all factors; or one entry for each mode, itself a number or a sequence with one rank for each level.
    outer_rank : int
        Number of Kronecker products K.
    levels : int or sequence of int
        Levels of the trees, for all modes or one for each; 0 makes the factors of a mode full matrices.
    out_shape : int or tuple of int, optional
        Sizes p_1 .. p_m of the output. Default: `shape`.
    channels : (int, int), optional
        Channels of the input and of the output. Default: none, and no channel axis.
    bias : bool
        Add a trainable tensor of the shape of the output, zero at the start.
    device, dtype : optional
        Of the parameters.

    Notes
    -----
    Modes of equal structure share one stack of generators ``(modes, K, nodes, p, q)`` for each level. Products are made
    with dense factors formed from the generators, which costs O(K n^2 r) a mode beside the O(K N n) of the product
    with a tensor of N = n^m entries: all left factors are one matrix product. For m >= 3 the K products are summed one
    after the other, so that without gradients the memory does not grow with K.

    References
    ----------
    Equation (1) of the Neural-HSS paper; L. De Lathauwer et al., SIAM J. Matrix Anal. Appl. 21 (2000) 1253-1278, for
    the mode product.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import HSSTensorLinear
    >>> layer = HSSTensorLinear((64, 64), rank=2, outer_rank=8, levels=2)
    >>> layer(torch.ones(5, 64, 64)).shape, layer.weight_parameter_count
    (torch.Size([5, 64, 64]), 21760)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        rank: int | Sequence[Any],
        outer_rank: int,
        levels: int | Sequence[int],
        out_shape: int | Sequence[int] | None = None,
        channels: tuple[int, int] | None = None,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape = _check.grid_size(shape, "shape")
        self.out_shape = self.shape if out_shape is None else _check.grid_size(out_shape, "out_shape")
        if len(self.out_shape) != len(self.shape):
            raise ShapeError(
                f"out_shape has {len(self.out_shape)} modes, but shape has {len(self.shape)} ({self.out_shape} and "
                f"{self.shape}); give both the same number of modes"
            )
        self.outer_rank = positive_integer(outer_rank, "outer_rank")
        self.channels = None if channels is None else _channels(channels)
        options = {"device": device, "dtype": real_dtype(dtype)}
        self._register_factors(_structures(self.shape, self.out_shape, rank, levels), options)
        self.joinable = True  # see `structmat_nn.layers.joint`
        self.channel_factors: nn.Parameter | None = None
        if self.channels is not None:
            c_in, c_out = self.channels
            self.channel_factors = nn.Parameter(torch.empty(self.outer_rank, c_out, c_in, **options))
        head = () if self.channels is None else (self.channels[1],)
        self.bias = nn.Parameter(torch.empty(*head, *self.out_shape, **options)) if bias else None
        self.reset_parameters()

    def _register_factors(self, structures: Sequence[Telescopic], options: dict[str, Any]) -> None:
        """One stack of generators, (modes, K, ...), for all modes of the same structure."""
        self.structures = tuple(dict.fromkeys(structures))
        self._indices: list[list[str]] = [[] for _ in self.structures]  # names of each stack's index buffers
        # for each mode: which stack, and where in it
        self._places: list[tuple[int, int]] = []
        for structure in structures:
            stack = self.structures.index(structure)
            self._places.append((stack, sum(place[0] == stack for place in self._places)))
        for stack, structure in enumerate(self.structures):
            modes = sum(place[0] == stack for place in self._places)
            for name, shape in structure.parameter_shapes.items():
                empty = torch.empty(modes, self.outer_rank, *shape, **options)
                self.register_parameter(f"stack{stack}_{name}", nn.Parameter(empty))
            for name, index in structure.index_buffers().items():
                self.register_buffer(f"stack{stack}_{name}", index.to(options["device"]), persistent=False)
                self._indices[stack].append(name)

    # ------------------------------------------------------------------------------- properties

    @property
    def modes(self) -> int:
        """Number of modes m, channels not counted."""
        return len(self.shape)

    @property
    def weight_parameter_count(self) -> int:
        """Number of parameters without the bias."""
        return sum(p.numel() for name, p in self.named_parameters() if name != "bias")

    def structure(self, mode: int) -> Telescopic:
        """The structure of the factors of a mode."""
        return self.structures[self._places[mode][0]]

    def extra_repr(self) -> str:
        """Sizes and ranks, for `print`."""
        ranks = [self.structure(mode).row_ranks for mode in range(self.modes)]
        return (
            f"{self.shape}, {self.out_shape}, ranks={ranks}, outer_rank={self.outer_rank}, channels={self.channels}, "
            f"bias={self.bias is not None}, parameters={self.weight_parameter_count}"
        )

    # -------------------------------------------------------------------------------- parameters

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew so that the output has the variance of the input; the bias becomes zero.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of the random numbers. Default: torch's own, as in `torch.nn`.

        Notes
        -----
        Each factor keeps the variance, so the sum of K products would multiply it by K: every factor is scaled by
        ``K**(-1 / (2 m))``.
        """
        scale = self.outer_rank ** (-0.5 / self.modes)
        for stack, structure in enumerate(self.structures):
            outermost = (f"D{structure.levels}", f"U{structure.levels}")  # a matrix is linear in these two together
            for name, deviation in structure.initial_deviations().items():
                parameter = getattr(self, f"stack{stack}_{name}")
                factor = deviation.to(parameter) * (scale if name in outermost else 1.0)
                parameter.normal_(generator=generator).mul_(factor)
        if self.channel_factors is not None:
            self.channel_factors.normal_(generator=generator).mul_(self.channel_factors.shape[2] ** -0.5)
        if self.bias is not None:
            self.bias.zero_()

    def generators(self, mode: int) -> Generators:
        """The padded stacks of generators of a mode, with the leading axis K; gradients flow through them."""
        return self.structure(mode).generators(self.stored(mode), self._buffers_of(self._places[mode][0]))

    def _buffers_of(self, stack: int) -> dict[str, Tensor]:
        return {name: getattr(self, f"stack{stack}_{name}") for name in self._indices[stack]}

    def parameter_stacks(self) -> list[tuple[Telescopic, dict[str, Tensor]]]:
        """For each structure the parameters by its names, with the leading axes (modes of that structure, K)."""
        return [
            (structure, {name: getattr(self, f"stack{stack}_{name}") for name in structure.parameter_shapes})
            for stack, structure in enumerate(self.structures)
        ]

    def factors(self, stacks: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The factors ``W_j^(k)`` as differentiable dense stacks, one (K, p_j, n_j) for each mode.

        `stacks` are the dense matrices of `parameter_stacks`, where these have been formed already.
        """
        if stacks is None:
            stacks = [
                telescopic.dense(structure.generators(parameters, self._buffers_of(stack)))
                for stack, (structure, parameters) in enumerate(self.parameter_stacks())
            ]
        by_mode = [stack.unbind(0) for stack in stacks]
        return [by_mode[stack][place] for stack, place in self._places]

    def stored(self, mode: int) -> dict[str, Tensor]:
        """The parameters of a mode by the names of its structure, each with the leading axis K."""
        stack, place = self._places[mode]
        return {name: getattr(self, f"stack{stack}_{name}")[place] for name in self.structures[stack].parameter_shapes}

    @torch.no_grad()
    def set_factors(self, mode: int, stored: Mapping[str, Tensor]) -> None:
        """Set the parameters of a mode: what `stored` gives."""
        stack, place = self._places[mode]
        for name in self.structures[stack].parameter_shapes:
            getattr(self, f"stack{stack}_{name}")[place] = stored[name].to(getattr(self, f"stack{stack}_{name}"))

    def init_from_dense(self, factors: Sequence[Any]) -> list[float]:
        """Set the factors to given ones, compressed to the ranks of the layer.

        Parameters
        ----------
        factors : sequence of (K, p_j, n_j) arrays
            One stack for each mode. The channel factors are left as they are.

        Returns
        -------
        list of float
            For each mode the largest relative Frobenius error of a factor.
        """
        if len(factors) != self.modes:
            raise ShapeError(
                f"factors must have one stack for each of the {self.modes} modes, but it has {len(factors)}"
            )
        errors = []
        for mode, stack in enumerate(factors):
            structure = self.structure(mode)
            expected = (self.outer_rank, structure.rows, structure.columns)
            if np.shape(stack) != expected:
                raise ShapeError(f"factors[{mode}] has shape {np.shape(stack)}, but the layer needs {expected}")
            single = HSSLinear(
                structure.columns, structure.rows, rank=structure.row_ranks, column_rank=structure.col_ranks,
                levels=structure.levels, dtype=torch.float64,
            )  # fmt: skip
            found, error = [], 0.0
            for factor in stack:
                with warnings.catch_warnings():  # whether HSS pays was decided with the ranks of the layer
                    warnings.simplefilter("ignore", StructureWarning)
                    error = max(error, single.init_from_dense(factor))
                found.append({name: getattr(single, name).detach().clone() for name in structure.parameter_shapes})
            self.set_factors(mode, {name: torch.stack([f[name] for f in found]) for name in found[0]})
            errors.append(error)
        return errors

    @torch.no_grad()
    def init_identity(self) -> None:
        """Set the weight to the identity: one product of identities, and K - 1 products that are zero.

        Gradients flow all the same: of a product that is zero, only the outermost D and U of the first mode are zero.
        """
        if self.shape != self.out_shape or (self.channels is not None and self.channels[0] != self.channels[1]):
            raise ShapeError(f"the layer maps {self._sizes()}; an identity needs equal shapes and channels")
        for mode in range(self.modes):
            structure = self.structure(mode)
            stored = {name: p.detach().clone() for name, p in self.stored(mode).items()}
            leaf = f"D{structure.levels}"
            blocks, p, q = structure.stack_shapes[leaf]
            zeroed = slice(None) if mode == 0 else slice(0, 1)
            for name in (leaf, f"U{structure.levels}"):
                if name in stored:
                    stored[name][zeroed] = 0.0
            stored[leaf][0] = structure.stored(leaf, torch.eye(p, q).expand(blocks, p, q)).to(stored[leaf])
            self.set_factors(mode, stored)
        if self.channel_factors is not None:
            self.channel_factors[0] = torch.eye(self.channel_factors.shape[1])

    def _sizes(self) -> str:
        if self.channels is None:
            return f"{self.shape} to {self.out_shape}"
        return f"{self.shape} in {self.channels[0]} channels to {self.out_shape} in {self.channels[1]} channels"

    def init_from_exponential_sum(
        self, operators: Sequence[Any], *, scale: float = 1.0, criterion: str = "frobenius"
    ) -> ExponentialSumStart:
        """Start from the inverse of a Laplace-like operator ``A_1 + ... + A_m``, each part acting on one mode.

        Parameters
        ----------
        operators : sequence of (n_j, n_j) arrays or of pairs (values, vectors)
            One symmetric matrix for each mode, or its eigenpairs; their sum must be positive definite.
        scale : float
            Of the inverse: where inputs and outputs are normalised, (scale of the inputs) / (scale of the outputs).
        criterion : {"frobenius", "relative"}
            Whether the exponential sum minimises the Frobenius norm of the error of the inverse or the largest
            relative error over the spectrum.

        Returns
        -------
        ExponentialSumStart
            The errors of the exponential sum and of the layer.

        Notes
        -----
        ``1/x ~ sum_k w_k exp(-t_k x)``, so the inverse is near the sum of the Kronecker products of
        ``w_k^(1/m) exp(-t_k A_j)``, which are compressed to the ranks of the layer. Channels are left apart: the
        channel factors become identities. Cost O(n_j^3 + K n_j^2 r) a mode.

        References
        ----------
        D. Braess, W. Hackbusch, IMA J. Numer. Anal. 25 (2005) 685-697.

        Examples
        --------
        >>> import numpy as np
        >>> from structmat_nn import HSSTensorLinear
        >>> laplacian = 33**2 * (2 * np.eye(32) - np.eye(32, k=1) - np.eye(32, k=-1))
        >>> layer = HSSTensorLinear((32, 32), rank=4, outer_rank=8, levels=2)
        >>> start = layer.init_from_exponential_sum([laplacian, laplacian])
        >>> start.spectrum_error < 1e-4, start.layer_error < 1e-2
        (True, True)
        """
        from .exponential_sums import start_layer

        return start_layer(self, operators, scale=scale, criterion=criterion)

    # ---------------------------------------------------------------------------------- products

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axes.

        Parameters
        ----------
        x : ``(..., *shape)`` tensor, with channels ``(..., channels in, *shape)``

        Returns
        -------
        ``(..., *out_shape)`` tensor, with channels ``(..., channels out, *out_shape)``
            A transposed view: see `inside`.
        """
        expected = self.shape if self.channels is None else (self.channels[0], *self.shape)
        require_trailing(x, expected, "layer")
        lead = x.shape[: x.dim() - len(expected)]
        y = self.inside(to_inside(x.reshape(-1, *expected), self.modes))
        output = self.out_shape if self.channels is None else (self.channels[1], *self.out_shape)
        return from_inside(y, self.channels is not None).reshape(*lead, *output)

    def inside(self, x: Tensor, stacks: Sequence[Tensor] | None = None) -> Tensor:
        """The layer in the layout in which several of them follow each other without a copy.

        Parameters
        ----------
        x : (channels in, n_1, batch, n_2, ..., n_m) tensor
            One channel where the layer has no channels.
        stacks : sequence of tensors, optional
            As `factors` takes them.

        Returns
        -------
        (channels out, p_1, batch, p_2, ..., p_m) tensor
        """
        with torch.autocast(x.device.type, enabled=False):  # the generators stay in their own precision
            factors = self.factors(stacks)
        y = self._two_modes(x, factors) if self.modes == 2 else self._any_modes(x, factors)
        if self.bias is None:
            return y
        bias = self.bias if self.channels is not None else self.bias[None]
        return y + bias.unsqueeze(2)

    def _mixed(self, x: Tensor, first: Tensor) -> Tensor:
        """All K products with the channel factors and the first mode: (K, c * p_1 * ..., rest)."""
        channels, n, *rest = x.shape
        if self.channel_factors is None:
            return (first.flatten(0, 1) @ x.reshape(n, -1)).reshape(len(first), first.shape[1], *rest)
        count, c_out, _ = self.channel_factors.shape
        mixed = self.channel_factors.flatten(0, 1) @ x.reshape(channels, -1)  # (K * c_out, n_1 * rest)
        both = first[:, None] @ mixed.reshape(count, c_out, n, -1)  # (K, c_out, p_1, rest)
        return both.reshape(count, c_out * first.shape[1], *rest)

    def _two_modes(self, x: Tensor, factors: list[Tensor]) -> Tensor:
        left = self._mixed(x, factors[0])  # (K, c * p_1, batch, n_2)
        # one batched product and a sum: half the time of a chain of addmm, and no copy into another order
        y = torch.bmm(left.flatten(1, 2), factors[1].mT).sum(0)
        return y.reshape(*self._leading(x), self.out_shape[1])

    def _leading(self, x: Tensor) -> tuple[int, int, int]:
        """Channels, first size and batch of the output."""
        return (1 if self.channels is None else self.channels[1]), self.out_shape[0], x.shape[2]

    def _any_modes(self, x: Tensor, factors: list[Tensor]) -> Tensor:
        if self.modes == 1 and self.channel_factors is None:
            return (factors[0].sum(0) @ x.squeeze(0)).unsqueeze(0)
        total = None
        for k in range(self.outer_rank):
            term = self._term(x, k, factors)
            total = term if total is None else total + term
        return total.reshape(*self._leading(x), *self.out_shape[1:])  # type: ignore[union-attr]

    def _term(self, x: Tensor, k: int, factors: list[Tensor]) -> Tensor:
        """One of the K products, (c * p_1 * batch, p_2, ..., p_m)."""
        if self.channel_factors is not None:
            x = (self.channel_factors[k] @ x.flatten(1)).reshape(self.channel_factors.shape[1], *x.shape[1:])
        y = (factors[0][k] @ x.flatten(2)).reshape(-1, *x.shape[3:])  # (c * p_1 * batch, n_2, ..., n_m)
        for mode in range(1, self.modes):
            factor = factors[mode][k]
            if mode == self.modes - 1:
                y = y @ factor.mT
            else:
                before, after = y.shape[:mode], y.shape[mode + 1 :]
                y = factor @ y.reshape(before.numel(), factor.shape[1], after.numel())
                y = y.reshape(*before, len(factor), *after)
        return y

    # --------------------------------------------------------------------------------- matrices

    @torch.no_grad()
    def to_matrix(self) -> KroneckerSum:
        """The layer's weight as a sum of Kronecker products in double precision; the channels are its first mode."""
        factors = [f.double().cpu().numpy() for f in self.factors()]
        if self.channel_factors is not None:
            factors.insert(0, self.channel_factors.double().cpu().numpy())
        return KroneckerSum(factors)


# ------------------------------------------------------------------------------------- the layout


def to_inside(x: Tensor, modes: int) -> Tensor:
    """(batch, [channels,] n_1, .., n_m) to (channels, n_1, batch, n_2, .., n_m)."""
    if x.dim() == modes + 1:
        x = x.unsqueeze(1)
    return x.permute(1, 2, 0, *range(3, x.dim()))


def from_inside(y: Tensor, channels: bool) -> Tensor:
    """The inverse of `to_inside`, a view."""
    x = y.permute(2, 0, 1, *range(3, y.dim()))
    return x if channels else x.squeeze(1)


# ----------------------------------------------------------------------------------------- checks


def real_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """A floating-point type or None."""
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point type, but it is {dtype}; use torch.float32 or float64")
    return dtype


def require_trailing(x: Tensor, expected: tuple[int, ...], what: str) -> None:
    """The last axes of `x` must be `expected`."""
    if tuple(x.shape[max(x.dim() - len(expected), 0) :]) != expected:
        raise ShapeError(
            f"x has shape {tuple(x.shape)}, but the {what} takes (..., {', '.join(map(str, expected))}); its last "
            f"{len(expected)} axes must be {expected}"
        )


def _channels(channels: tuple[int, int]) -> tuple[int, int]:
    if len(channels) != 2:
        raise ShapeError(f"channels must be a pair (channels in, channels out), but it is {channels!r}")
    return positive_integer(channels[0], "channels[0]"), positive_integer(channels[1], "channels[1]")


def _structures(
    shape: tuple[int, ...], out_shape: tuple[int, ...], rank: Any, levels: int | Sequence[int]
) -> list[Telescopic]:
    """The structure of each mode."""
    ranks, depths = _by_mode(rank, len(shape), "rank"), _by_mode(levels, len(shape), "levels")
    return [Telescopic.of(p, n, rank=r, levels=d) for n, p, r, d in zip(shape, out_shape, ranks, depths, strict=True)]


def _by_mode(value: Any, modes: int, name: str) -> list[Any]:
    if not isinstance(value, Sequence):
        return [value] * modes
    if len(value) != modes:
        raise ShapeError(f"{name} must be one value or one for each of the {modes} modes, but it has {len(value)}")
    return list(value)
