"""A trained linear NeuralHSS as one matrix, with a certificate of what was lost."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import structmat as sm
from structmat import _check
from structmat._typing import NumpyArray, RandomLike
from structmat.certificate import Certificate
from structmat.certify import CONFIDENCE, probe_factor

from ..layers.activation import LearnableLeakyReLU
from ..layers.hss import HSSLinear
from ..layers.kronecker import KroneckerSum
from ..layers.tensor import HSSTensorLinear
from ..layers.tensor_map import LowRankTensorMap

if TYPE_CHECKING:
    from .neural_hss import NeuralHSS

__all__ = ["to_matrix"]

PROBES = 20
POWER_STEPS = 30


def to_matrix(
    model: NeuralHSS, *, rtol: float | None = None, slope_tolerance: float = 1e-3, force: bool = False,
    rng: RandomLike = 0,
) -> sm.HSSMatrix | KroneckerSum:  # fmt: skip
    """Multiply the layers of a linear model into one matrix.

    Parameters
    ----------
    model : NeuralHSS
        With learnable leaky rectifiers (or no activation) between its layers.
    rtol : float, optional
        Tolerance of the recompression. Default: 1e-6 for a model in single precision, 1e-10 in double.
    slope_tolerance : float
        A model whose slopes differ from 1 by more than this is refused.
    force : bool
        Collapse it all the same: the certificate then says how far it is from linear.
    rng : optional
        Of the probes of the certificate.

    Returns
    -------
    structmat.HSSMatrix or KroneckerSum
        On a grid of one dimension with one channel an HSS matrix, which solves, inverts and truncates; otherwise a sum
        of Kronecker products, whose first mode are the channels if there are several. In double precision.

    Raises
    ------
    ValueError
        If a slope is further from 1 than `slope_tolerance`, or a bias is not zero, unless `force`.
    TypeError
        If the model has another activation, which no matrix stands for.

    Notes
    -----
    A rectifier of slope a is ``(1 + a)/2 x + (1 - a)/2 |x|``. The first part, the linear map nearest to it for inputs
    of either sign, goes into the matrix. `certificate.estimate` compares the matrix with the *model* on Gaussian
    inputs; the parts are in `certificate.details`:

    * `slope_deviation`: the largest ``|a - 1|``;
    * `nonlinearity_bound`: what the second parts can amount to for any input, relative to the largest gain of the
      matrix: ``(prod (s + d) - prod s) prod ||W|| / ||A||`` with ``s = (1 + a)/2``, ``d = |1 - a|/2`` and spectral
      norms by power iteration;
    * `nonlinearity`: what they amount to on the Gaussian inputs;
    * `truncation`: the difference of the matrix and the exact product of the layers on the Gaussian inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn import NeuralHSS
    >>> model = NeuralHSS(64, rank=2, levels=2, depth=2, seed=0)
    >>> matrix = model.to_matrix()
    >>> matrix.shape, matrix.max_rank, matrix.certificate.met
    ((64, 64), 6, True)
    """
    tolerance = _check.tolerance((1e-6 if _is_single(model) else 1e-10) if rtol is None else rtol)
    allowed = _check.tolerance(slope_tolerance, "slope_tolerance")
    slopes = _slopes(model)
    _require_linear(model, slopes, allowed, force)
    double = copy.deepcopy(model).double().cpu()
    parts = _parts(double)  # from the first to the last layer
    gains = [(1.0 + a) / 2.0 for a in slopes]
    product = _product(parts, float(np.prod(gains)), tolerance)
    asked = tolerance + (allowed if any(a != 1.0 for a in slopes) else 0.0)
    product.certificate = _certificate(double, product, parts, slopes, asked, _check.generator(rng))
    product.certificate.warn_if_not_met("the model is not linear enough, or lower rtol", stacklevel=3)
    return product


# ----------------------------------------------------------------------------------------- checks


def _is_single(model: nn.Module) -> bool:
    return next(model.parameters()).dtype != torch.float64


def _slopes(model: NeuralHSS) -> list[float]:
    """The slope behind each hidden layer."""
    slopes = []
    for number, activation in enumerate(model.activations):
        if isinstance(activation, LearnableLeakyReLU):
            slopes.append(float(activation.slope.detach()))
        elif isinstance(activation, nn.Identity):
            slopes.append(1.0)
        else:
            raise TypeError(
                f"activation {number} is {type(activation).__name__}, which no matrix stands for; only a model with "
                f"activation='leaky_relu' or 'identity' collapses"
            )
    return slopes


def _require_linear(model: NeuralHSS, slopes: Sequence[float], allowed: float, force: bool) -> None:
    deviation = max((abs(a - 1.0) for a in slopes), default=0.0)
    if deviation > allowed and not force:
        raise ValueError(
            f"the slopes of the model are {', '.join(f'{a:.4g}' for a in slopes)}: up to {deviation:.2g} from 1, but "
            f"slope_tolerance = {allowed:g}, so the model is not linear; train longer with the slope penalty, or pass "
            f"force=True and read certificate.details"
        )
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    size = max((float(p.detach().abs().max()) for p in biases), default=0.0)
    if size > 0.0 and not force:
        raise ValueError(
            f"the model is affine and not linear: its biases are as large as {size:.2g}; build it with bias=False, or "
            f"pass force=True for the matrix of its linear part"
        )


# ---------------------------------------------------------------------------------------- product


def _parts(model: NeuralHSS) -> list[Any]:
    """The linear layers as matrices, from the first to the last."""
    modules = [m for m in (model.lifting, *model.layers, model.projection) if m is not None]
    if not model.plain:
        return [_kronecker(m, model) for m in modules]
    levels = max(m.structure.levels for m in model.layers)
    return [_hss(m, levels) for m in modules]


def _hss(module: HSSLinear | LowRankTensorMap, levels: int) -> sm.HSSMatrix:
    """A layer on trees of `levels` levels; full and low-rank matrices too."""
    if isinstance(module, HSSLinear) and module.structure.levels == levels:
        return module.to_matrix()
    dense = module.dense_weight().detach().numpy()
    row_tree, col_tree = (sm.ClusterTree.balanced(n, depth=levels) for n in dense.shape)
    with warnings.catch_warnings():  # whether the product has structure shows at the end
        warnings.simplefilter("ignore", sm.StructureWarning)
        return sm.HSSMatrix.from_dense(dense, (row_tree, col_tree), rtol=1e-14)


def _kronecker(module: HSSTensorLinear | LowRankTensorMap, model: NeuralHSS) -> KroneckerSum:
    if isinstance(module, HSSTensorLinear):
        return module.to_matrix()
    channelled = any(isinstance(layer, HSSTensorLinear) and layer.channels is not None for layer in model.layers)
    modes = model.dimension + channelled
    return KroneckerSum(module.kronecker_factors(modes))


def _product(parts: Sequence[Any], gain: float, tolerance: float) -> Any:
    each = tolerance / (2.0 * len(parts))
    product = parts[0] * gain
    for part in parts[1:]:
        if isinstance(part, KroneckerSum):
            product = part.multiply(product).truncate(rtol=each)
        else:
            product = part.multiply(product, rtol=each)
    # one cut at the end finds what the cuts of the partial products could not see
    return product.truncate(rtol=tolerance / 2.0)


# ------------------------------------------------------------------------------------ certificate


def _certificate(
    model: NeuralHSS, product: Any, parts: Sequence[Any], slopes: Sequence[float], asked: float,
    rng: np.random.Generator,
) -> Certificate:  # fmt: skip
    x = rng.standard_normal((product.shape[1], PROBES))
    collapsed = np.asarray(product @ x)
    linear = x * np.prod([(1.0 + a) / 2.0 for a in slopes])
    for part in parts:
        linear = part @ linear
    actual = _model_products(model, x)
    size = float(np.linalg.norm(collapsed)) or 1.0
    floor = float(np.finfo(np.float64).eps)
    estimate = max(float(np.linalg.norm(collapsed - actual)) / size, floor)
    details = {
        "slope_deviation": max((abs(a - 1.0) for a in slopes), default=0.0),
        "nonlinearity_bound": _nonlinearity_bound(product, parts, slopes, rng),
        "nonlinearity": float(np.linalg.norm(actual - linear)) / size,
        "truncation": float(np.linalg.norm(collapsed - linear)) / size,
    }
    return Certificate(
        asked, estimate, estimate * probe_factor(PROBES), CONFIDENCE, f"{PROBES} Gaussian inputs to the model",
        probes=PROBES, products=PROBES, details=details,
    )  # fmt: skip


@torch.no_grad()
def _model_products(model: NeuralHSS, x: NumpyArray) -> NumpyArray:
    """The model, without what it gives for zero, at the columns of x (n, s)."""
    fields: Tensor = torch.from_numpy(np.ascontiguousarray(x.T)).reshape(x.shape[1], -1, *model.size)
    zero = torch.zeros_like(fields[:1])
    return (model._transform(fields) - model._transform(zero)).reshape(x.shape[1], -1).numpy().T


def _nonlinearity_bound(product: Any, parts: Sequence[Any], slopes: Sequence[float], rng: np.random.Generator) -> float:
    if all(a == 1.0 for a in slopes):
        return 0.0
    mean = float(np.prod([(1.0 + a) / 2.0 for a in slopes]))
    most = float(np.prod([abs(1.0 + a) / 2.0 + abs(1.0 - a) / 2.0 for a in slopes]))
    norms = float(np.prod([_spectral_norm(part, rng) for part in parts]))
    return (most - abs(mean)) * norms / (_spectral_norm(product, rng) or 1.0)


def _spectral_norm(matrix: Any, rng: np.random.Generator) -> float:
    """By power iteration on A^T A."""
    x = rng.standard_normal(matrix.shape[1])
    size = 0.0
    for _ in range(POWER_STEPS):
        length = float(np.linalg.norm(x))
        if length == 0.0:
            return 0.0
        y = matrix @ (x / length)
        size = float(np.linalg.norm(y))
        x = matrix.T @ y
    return size
