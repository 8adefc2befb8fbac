"""NeuralHSS: HSS layers and learnable leaky rectifiers in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from structmat._check import positive_integer, positive_number
from structmat.exceptions import ShapeError

from .. import _check
from ..layers.activation import LearnableLeakyReLU
from ..layers.hss import HSSLinear
from ..layers.joint import JointWeights
from ..layers.route import bound_by_launches
from ..layers.tensor import HSSTensorLinear, from_inside, to_inside
from ..layers.tensor_fit import fit_leaves
from ..layers.tensor_map import LowRankTensorMap
from .base import GridModel, seeded

if TYPE_CHECKING:
    from structmat import HSSMatrix

    from ..layers.exponential_sums import ExponentialSumStart
    from ..layers.kronecker import KroneckerSum

__all__ = ["NeuralHSS"]

LIFTS = ("hss", "full", "tensor")
ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "leaky_relu": LearnableLeakyReLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


class NeuralHSS(GridModel):
    """A neural solver whose weights are HSS matrices: `depth` times a linear HSS layer and an activation.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis; any number of axes.
    in_channels, out_channels : int
        Fields in and out.
    rank : int or sequence of int
        HSS rank of every matrix, or one for each level from the root to the leaves.
    levels : int
        Levels of the trees below their roots.
    depth : int
        Number of hidden layers, each with one activation.
    outer_rank : int, optional
        Kronecker products in a layer. Default: 8 on a grid of two axes and more; in one dimension with several channels
        the largest number of channels.
    hidden : int or tuple of int, optional
        Embedding dimension: sizes of the hidden fields. Default: `size`.
    hidden_channels : int, optional
        Hidden fields. Default: the larger number of the channels in and out.
    lift : {"hss", "full", "tensor"}
        How fields come to the hidden sizes and back, see Notes.
    lift_rank : int, optional
        Of the lifting and the projection: for "tensor" the rank of the map (default: the smallest hidden size), for
        "full" in several dimensions the number of Kronecker products (default 1), for "hss" likewise (`outer_rank`).
    parameters : int
        Numbers such as the rates of a reaction that `forward` takes beside each field; each becomes one more channel,
        constant in space.
    activation : str or callable
        "leaky_relu" (one learnable slope a layer, 1 at the start), "relu", "gelu", "tanh", "identity", or a function
        without arguments that returns a module.
    bias : bool
        Whether the linear layers add a vector.
    gain : float, default 1.0
        Factor on the first weights. With 1 a layer keeps the variance of its input; smaller ones begin with less of
        what the data do not ask for.
    seed : int, optional
        Of the first weights.
    dtype, device : optional
        Default: single precision on the CPU.

    Notes
    -----
    *One dimension, "hss"*: the first hidden layer takes `size` to `hidden`, and a linear layer behind the last takes
    `hidden` to `size`: depth + 1 matrices. *Several dimensions, "hss"*: with ``hidden == size`` there is nothing to
    lift, and the model is `depth` layers, of which the first and the last change the number of channels; otherwise two
    linear HSS layers of their own lift and project. "full" puts a full matrix on each side (several dimensions: full
    matrices along each axis), "tensor" a `LowRankTensorMap`, which passes no more than `lift_rank` numbers.

    Each hidden layer is ``activation(W z)``, in theorem 2.3 the last one too. Without a projection behind it, a last
    layer with an activation other than the learnable leaky rectifier, which would bound the output, stays linear.

    Each of the slopes is one parameter. `weight_parameter_count` counts the weights alone.

    References
    ----------
    The Neural-HSS paper, section 2.1, equation (1) and section E.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import NeuralHSS
    >>> model = NeuralHSS(256, rank=2, levels=3, depth=3, seed=0)
    >>> model(torch.ones(5, 256)).shape, model.weight_parameter_count
    (torch.Size([5, 256]), 37696)
    >>> NeuralHSS((64, 64), rank=2, levels=2, depth=3, outer_rank=8).weight_parameter_count
    65280
    """

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, rank: int | Sequence[int],
        levels: int, depth: int, outer_rank: int | None = None, hidden: int | tuple[int, ...] | None = None,
        hidden_channels: int | None = None, lift: str = "hss", lift_rank: int | None = None, parameters: int = 0,
        activation: str | Callable[[], nn.Module] = "leaky_relu", bias: bool = False, gain: float = 1.0,
        seed: int | None = None, dtype: torch.dtype | None = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        self.depth = positive_integer(depth, "depth")
        self.parameter_channels = positive_integer(parameters, "parameters", minimum=0)
        if lift not in LIFTS:
            raise ValueError(f"lift must be one of {', '.join(map(repr, LIFTS))}, but it is {lift!r}")
        self.lift = lift
        self.hidden = self.size if hidden is None else _check.per_axis(hidden, self.dimension, "hidden")
        total = self.in_channels + self.parameter_channels
        hidden_channels = max(total, self.out_channels) if hidden_channels is None else hidden_channels
        self.hidden_channels = positive_integer(hidden_channels, "hidden_channels")
        self.plain = self.dimension == 1 and total == self.hidden_channels == self.out_channels == 1
        self._options = {"bias": bool(bias), "device": device, "dtype": dtype or torch.float32}
        self._hss: dict[str, Any] = {
            "rank": rank,
            "levels": levels,
            "outer_rank": self._checked_outer_rank(outer_rank, total),
        }
        with seeded(seed):
            self._build(total, lift_rank)
        self.joint = JointWeights(list(self._joint_stacks().values()))
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(positive_number(gain, "gain"))
        self.activations = nn.ModuleList(_activations(activation, self.depth, self.projection is not None))
        self.activations.to(device=device, dtype=self._options["dtype"])

    def _checked_outer_rank(self, outer_rank: int | None, total: int) -> int:
        if self.plain:
            if outer_rank not in (None, 1):
                raise ValueError(
                    f"outer_rank = {outer_rank} has no meaning for one channel in one dimension, where a sum of HSS "
                    f"matrices is one HSS matrix; leave it out and raise rank"
                )
            return 1
        if outer_rank is None:
            return 8 if self.dimension > 1 else max(total, self.hidden_channels, self.out_channels)
        return positive_integer(outer_rank, "outer_rank")

    # ------------------------------------------------------------------------------- construction

    def _build(self, total: int, lift_rank: int | None) -> None:
        """Lifting, hidden layers and projection."""
        inside, outside = (self.hidden_channels, self.hidden), (self.out_channels, self.size)
        enters = (total, self.size)
        line = self.dimension == 1 and self.lift == "hss"  # the first hidden layer lifts
        apart = not line and (self.lift != "hss" or self.hidden != self.size)
        self.lifting = self._outer_layer(enters, inside, lift_rank) if apart else None
        ends = [inside] * (self.depth + 1)  # what stands between the layers
        if not apart:
            ends[0] = enters
            ends[-1] = inside if line else outside
        self.layers = nn.ModuleList(self._hss_layer(a, b, **self._hss) for a, b in pairwise(ends))
        if line:
            self.projection = self._hss_layer(inside, outside, **self._hss)
        else:
            self.projection = self._outer_layer(inside, outside, lift_rank) if apart else None

    def _outer_layer(self, a: tuple[int, Any], b: tuple[int, Any], lift_rank: int | None) -> nn.Module:
        if self.lift == "tensor":
            shapes = _check.field_shape(a[1], a[0]), _check.field_shape(b[1], b[0])
            options = {name: self._options[name] for name in ("device", "dtype")}
            return LowRankTensorMap(*shapes, rank=min(self.hidden) if lift_rank is None else lift_rank, **options)
        hss = dict(self._hss) if self.lift == "hss" else {"rank": 0, "levels": 0, "outer_rank": 1}
        if lift_rank is not None:
            hss["outer_rank"] = lift_rank
        return self._hss_layer(a, b, **hss)

    def _hss_layer(self, a: tuple[int, Any], b: tuple[int, Any], rank: Any, levels: int, outer_rank: int) -> nn.Module:
        """The linear layer from (channels, sizes) a to b."""
        if self.plain:
            return HSSLinear(a[1][0], b[1][0], rank=rank, levels=levels, **self._options)
        several = max(self.in_channels + self.parameter_channels, self.hidden_channels, self.out_channels) > 1
        return HSSTensorLinear(
            a[1], out_shape=b[1], rank=[rank] * self.dimension, levels=levels, outer_rank=outer_rank,
            channels=(a[0], b[0]) if several else None, **self._options,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------- forward

    def forward(self, x: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map fields to fields.

        Parameters
        ----------
        x : ``(batch..., *size)`` tensor, with several channels ``(batch..., in_channels, *size)``
        parameters : (batch..., parameters) tensor, optional
            The numbers that belong to each field, of a model that was built with `parameters`.

        Returns
        -------
        ``(batch..., *size)`` tensor, with several channels ``(batch..., out_channels, *size)``
        """
        x = _check.fields(x, self.size, self.in_channels)
        self._check_dtype(x)
        batch = x.shape[: x.ndim - len(_check.field_shape(self.size, self.in_channels))]
        fields = self._with_parameters(x.reshape(-1, self.in_channels, *self.size), parameters, batch)
        return self._transform(fields).reshape(*batch, *_check.field_shape(self.size, self.out_channels))

    def _with_parameters(self, fields: Tensor, parameters: Tensor | None, batch: torch.Size) -> Tensor:
        """The fields, and behind them one constant channel for each parameter."""
        count = self.parameter_channels
        if parameters is None and count == 0:
            return fields
        if parameters is None:
            raise ShapeError(f"the model takes {count} parameters with each field: call model(x, parameters)")
        if tuple(parameters.shape) != (*batch, count):
            raise ShapeError(
                f"parameters must have shape {(*batch, count)} for {count} parameters and x of batch shape "
                f"{tuple(batch)}, but its shape is {tuple(parameters.shape)}"
            )
        constant = parameters.to(fields).reshape(-1, count, *(1 for _ in self.size))
        return torch.cat([fields, constant.expand(-1, count, *self.size)], dim=1)

    def _transform(self, fields: Tensor) -> Tensor:
        dense = self._joint_weights(fields)
        return self._leave(self._hidden(fields, dense)[1], dense)

    def _joint_stacks(self) -> dict[nn.Module, Any]:
        """The parameters of the layers whose weights can be formed together."""
        layers = (self.lifting, *self.layers, self.projection)
        hss = (layer for layer in layers if isinstance(layer, HSSLinear | HSSTensorLinear) and layer.joinable)
        stacks = {layer: layer.parameter_stacks() for layer in hss}
        return {layer: stack for layer, stack in stacks.items() if JointWeights.takes(stack)}

    def _joint_weights(self, fields: Tensor) -> dict[nn.Module, list[Tensor]]:
        """The dense weights of layers, where it pays to form those of all at once."""
        if not bound_by_launches(fields):
            return {}
        stacks = self._joint_stacks()
        given = list(stacks.values())
        if not self.joint.fits(given):  # a layer was replaced
            self.joint = JointWeights(given)
        with torch.autocast(fields.device.type, enabled=False):  # the generators stay in their own precision
            return dict(zip(stacks, self.joint(given), strict=True))

    def _linear(self, layer: Any, z: Tensor, dense: dict[nn.Module, list[Tensor]]) -> Tensor:
        """The product of a layer in the layout of the hidden ones."""
        stacks = dense.get(layer)
        if self.plain:
            return layer(z) if stacks is None else layer(z, stacks[0])
        return layer.inside(z, stacks)

    def _enter(self, fields: Tensor, dense: dict[nn.Module, list[Tensor]]) -> Tensor:
        """The hidden field in the layout of the hidden layers; theirs is `HSSTensorLinear.inside` unless plain."""
        lifting = self.lifting
        if isinstance(lifting, LowRankTensorMap):
            fields = lifting(fields.reshape(-1, *lifting.in_shape))
            fields = fields.reshape(-1, self.hidden_channels, *self.hidden)
            lifting = None
        z = fields.squeeze(1) if self.plain else to_inside(fields, self.dimension)
        return z if lifting is None else self._linear(lifting, z, dense)

    def _leave(self, z: Tensor, dense: dict[nn.Module, list[Tensor]]) -> Tensor:
        projection = self.projection
        if projection is not None and not isinstance(projection, LowRankTensorMap):
            z = self._linear(projection, z, dense)
            projection = None
        fields = z if self.plain else from_inside(z, channels=True)
        return fields if projection is None else projection(fields.reshape(-1, *projection.in_shape))

    # ------------------------------------------------------------------------------- properties

    @property
    def slopes(self) -> Tensor:
        """The slopes of the leaky rectifiers, one a layer; empty where the activation has none."""
        found = [a.slope.reshape(()) for a in self.activations if isinstance(a, LearnableLeakyReLU)]
        return torch.stack(found) if found else next(self.parameters()).new_zeros(0)

    def slope_penalty(self) -> Tensor:
        """``sum (slope - 1)^2``, which pulls the model towards a linear one."""
        return (self.slopes - 1.0).square().sum()

    @property
    def weight_parameter_count(self) -> int:
        """Parameters of all weights, without slopes and biases."""
        maps = [layer for layer in (self.lifting, *self.layers, self.projection) if layer is not None]
        return sum(p.numel() for layer in maps for name, p in layer.named_parameters() if name != "bias")

    def extra_repr(self) -> str:
        """What `print(model)` shows before the parts."""
        return f"{super().extra_repr()}, hidden={self.hidden}, depth={self.depth}, lift={self.lift!r}"

    def init_from_exponential_sum(
        self, operators: Sequence[Any], *, scale: float = 1.0, criterion: str = "frobenius"
    ) -> ExponentialSumStart:
        """Start from the inverse of a Laplace-like operator: the first layer holds it, the others are identities.

        For models of several dimensions without lifting and projection. Arguments and result:
        `HSSTensorLinear.init_from_exponential_sum`.
        """
        if self.plain or self.lifting is not None or self.projection is not None:
            raise ValueError(
                "an exponential sum starts a model on a grid of several dimensions that has no lifting and projection "
                "(hidden = size, lift = 'hss'); in one dimension use model.layers[0].init_from_dense(inverse)"
            )
        start = self.layers[0].init_from_exponential_sum(operators, scale=scale, criterion=criterion)
        for layer in self.layers[1:]:
            layer.init_identity()
        return start

    @torch.no_grad()
    def fit_last_layer(
        self, inputs: Tensor, outputs: Tensor, parameters: Tensor | None = None, *, sweeps: int = 5, ridge: float = 1e-8
    ) -> list[float]:
        """Fit the leaves of the last linear layer to pairs by alternating least squares, in place.

        For models on grids of several dimensions, or with several channels, that do not end with a low-rank map. See
        `structmat_nn.layers.tensor_fit.fit_leaves` for `sweeps`, `ridge` and what the samples can determine.

        Parameters
        ----------
        inputs, outputs : ``(samples, [channels,] *size)``
        parameters : (samples, parameters), optional
            As for `forward`.

        Returns
        -------
        list of float
            Relative residuals before the last activation, at the start and after each sweep.
        """
        last = self.layers[-1] if self.projection is None else self.projection
        if not isinstance(last, HSSTensorLinear):
            raise ValueError(
                f"the last layer is {type(last).__name__}, but alternating least squares fit HSSTensorLinear"
            )
        x = _check.fields(inputs, self.size, self.in_channels)
        fields = self._with_parameters(x.reshape(-1, self.in_channels, *self.size), parameters, x.shape[:1])
        z = self._hidden(fields, {})
        targets = _check.fields(outputs, self.size, self.out_channels, name="outputs", channels_name="out_channels")
        if self.projection is None:
            z, targets = z[0], self._before_last_activation(targets)
        else:
            z = z[1]
        several = last.channels is not None
        targets = targets.reshape(-1, *([self.out_channels] if several else []), *self.size)
        return fit_leaves(last, from_inside(z, several), targets, sweeps=sweeps, ridge=ridge)

    def _hidden(self, fields: Tensor, dense: dict[nn.Module, list[Tensor]]) -> tuple[Tensor, Tensor]:
        """What the last hidden layer takes, and what leaves its activation."""
        z = taken = self._enter(fields, dense)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            taken = z
            z = activation(self._linear(layer, z, dense))
        return taken, z

    def _before_last_activation(self, outputs: Tensor) -> Tensor:
        activation = self.activations[-1]
        if isinstance(activation, nn.Identity):
            return outputs
        slope = float(activation.slope.detach()) if isinstance(activation, LearnableLeakyReLU) else 0.0
        if slope <= 0.0:
            raise ValueError(f"the last activation must have an inverse, but it is {activation} of slope {slope:g}")
        return torch.where(outputs >= 0, outputs, outputs / slope)

    # --------------------------------------------------------------------------------- matrices

    def prolonged(self, size: int | tuple[int, ...], **options: Any) -> NeuralHSS:
        """The model on a grid of another size: see `structmat_nn.models.prolong.prolong`."""
        from .prolong import prolong

        return prolong(self, size, **options)

    def to_matrix(self, **options: Any) -> HSSMatrix | KroneckerSum:
        """The trained linear operator as one matrix: see `structmat_nn.models.collapse.to_matrix`."""
        from .collapse import to_matrix

        return to_matrix(self, **options)


def _activations(activation: Any, depth: int, projected: bool) -> list[nn.Module]:
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            names = ", ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"activation must be one of {names} or callable, but it is {activation!r}")
        activation = ACTIVATIONS[activation]
    if not callable(activation):
        raise TypeError(f"activation must be a name or a function that returns a module, but it is {activation!r}")
    made = [activation() for _ in range(depth)]
    if not projected and not isinstance(made[-1], LearnableLeakyReLU):
        made[-1] = nn.Identity()
    return made
