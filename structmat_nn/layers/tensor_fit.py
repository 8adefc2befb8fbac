"""Alternating least squares for the leaves of an HSSTensorLinear: one mode after the other, no gradient steps.

With all factors but those of one mode held, the layer is linear in D and U of the leaves of that mode: a leaf's part of
the output is one linear regression on the leaf's part of the partial products and on the coefficients from above.

Reference: T. G. Kolda, B. W. Bader, SIAM Review 51 (2009) 455-500, section 3.4 (alternating least squares).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structmat import _check
from structmat.exceptions import ShapeError

from . import telescopic
from .tensor import to_inside

if TYPE_CHECKING:
    from .telescopic import Generators
    from .tensor import HSSTensorLinear

__all__ = ["fit_leaves"]

CHUNK = 2**24  # numbers in the features of one chunk of samples


@torch.no_grad()
def fit_leaves(
    layer: HSSTensorLinear, inputs: Tensor, outputs: Tensor, *, sweeps: int = 5, ridge: float = 1e-8
) -> list[float]:
    """Fit the leaf generators of a layer to pairs, in place.

    Parameters
    ----------
    layer : HSSTensorLinear
        Its bias is taken as it is.
    inputs, outputs : ``(samples, [channels,] *shape)``, ``(samples, [channels,] *out_shape)``
        In the precision of the layer: float64, unless 1e-4 is accurate enough.
    sweeps : int
        How many times each mode is solved for; the channel factors count as one more mode.
    ridge : float
        Weight of the squared *change* of the parameters, relative to the largest singular value of the features. What
        the samples say nothing about stays as it was; 0 takes the smallest change that fits best.

    Returns
    -------
    list of float
        The relative residual ``||layer(inputs) - outputs|| / ||outputs||`` at the start and after each sweep.

    Notes
    -----
    O(samples * N * (K n + f^2 / n)) a mode, with N the entries of a field and f = K (p + r) the features of a leaf of p
    points and rank r. Features are reduced by QR, a chunk of samples after the other. Samples that do not span identify
    nothing outside their span: look at the error on white noise too. Pairs of white noise and what the layer makes of
    it now, scaled to the weight they shall have, keep the layer near its start there.
    """
    sweeps = _check.positive_integer(sweeps, "sweeps")
    ridge = _check.tolerance(ridge, "ridge")
    _require_pairs(layer, inputs, outputs)
    residuals = [_residual(layer, inputs, outputs)]
    for _ in range(sweeps):
        if layer.channel_factors is not None:
            _solve_channels(layer, inputs, outputs, ridge)
        for mode in range(layer.modes):
            _solve_mode(layer, mode, inputs, outputs, ridge)
        residuals.append(_residual(layer, inputs, outputs))
    return residuals


def _require_pairs(layer: HSSTensorLinear, inputs: Tensor, outputs: Tensor) -> None:
    heads = ((), ()) if layer.channels is None else ((layer.channels[0],), (layer.channels[1],))
    for name, x, shape in (
        ("inputs", inputs, (*heads[0], *layer.shape)),
        ("outputs", outputs, (*heads[1], *layer.out_shape)),
    ):
        if tuple(x.shape[1:]) != shape or len(x) == 0:
            raise ShapeError(
                f"{name} must be (samples, {', '.join(map(str, shape))}), but its shape is {tuple(x.shape)}"
            )
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} must be finite, but some of its entries are NaN or Inf")
    if len(inputs) != len(outputs):
        raise ShapeError(
            f"there are {len(inputs)} inputs, but {len(outputs)} outputs; one output belongs to each input"
        )


def _residual(layer: HSSTensorLinear, inputs: Tensor, outputs: Tensor) -> float:
    size = float(outputs.norm())
    error = torch.stack([(layer(x) - y).norm() for x, y in _chunks(layer, inputs, outputs)]).norm()
    return float(error) / size if size > 0.0 else float(error)


def _chunks(layer: HSSTensorLinear, inputs: Tensor, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    entries = max(inputs[0].numel(), outputs[0].numel())
    step = max(1, CHUNK // (layer.outer_rank * entries))
    for first in range(0, len(inputs), step):
        yield inputs[first : first + step], outputs[first : first + step]


# ------------------------------------------------------------------------------------- one mode


def _solve_mode(layer: HSSTensorLinear, mode: int, inputs: Tensor, outputs: Tensor, ridge: float) -> None:
    """Change D and U of the leaves of a mode so that the layer gives the outputs, as nearly as it can."""
    structure, generators = layer.structure(mode), layer.generators(mode)
    reduced = None
    for x, y in _chunks(layer, inputs, outputs):
        partial = _partial_products(layer, mode, x)  # (K, rows, n)
        features = _leaf_features(partial, generators)  # (leaves, rows, K * (q + r))
        missing = _along(y - layer(x), mode, layer.modes)  # (rows, p)
        targets = _in_leaves(missing, generators.row_slots, len(features))  # (leaves, rows, p)
        reduced = _triangle(reduced, torch.cat([features, targets], dim=-1))
        count = features.shape[-1]
    change = _regress(reduced, count, ridge)  # (leaves, K * (q + r), p)
    level, rank = structure.levels, structure.row_ranks[-1] if structure.levels else 0
    by_term = change.reshape(len(change), layer.outer_rank, -1, change.shape[-1]).transpose(0, 1)
    split = by_term.shape[2] - rank  # (K, leaves, q + r, p)
    stored = {name: p.clone() for name, p in layer.stored(mode).items()}
    stored[f"D{level}"] += structure.stored(f"D{level}", by_term[:, :, :split].mT)
    if level:
        stored[f"U{level}"] += structure.stored(f"U{level}", by_term[:, :, split:].mT)
    layer.set_factors(mode, stored)


def _partial_products(layer: HSSTensorLinear, mode: int, x: Tensor) -> Tensor:
    """The K products with all factors but that of `mode`, with its axis last: (K, rows, n)."""
    factors = layer.factors()
    fields = to_inside(x, layer.modes).movedim(2, 0)  # (samples, c, n_1, .., n_m)
    products = []
    for k in range(layer.outer_rank):
        z = fields
        if layer.channel_factors is not None:
            z = torch.tensordot(z, layer.channel_factors[k], dims=([1], [1])).movedim(-1, 1)
        for other in range(layer.modes):
            if other != mode:
                z = torch.tensordot(z, factors[other][k], dims=([2 + other], [1])).movedim(-1, 2 + other)
        products.append(_along(z, mode, layer.modes))
    return torch.stack(products)


def _along(fields: Tensor, mode: int, modes: int) -> Tensor:
    """The axis of a mode last and all others as rows."""
    moved = fields.movedim(fields.dim() - modes + mode, -1)
    return moved.reshape(-1, moved.shape[-1])


def _leaf_features(partial: Tensor, generators: Generators) -> Tensor:
    """What the leaves' D and U of all K factors are multiplied with: (leaves, rows, K * (q + r))."""
    leaves = 2**generators.levels
    blocks = torch.stack([_in_leaves(p, generators.col_slots, leaves) for p in partial])  # (K, leaves, rows, q)
    if generators.levels:
        compressed = blocks @ generators.col_bases[-1]  # (K, leaves, rows, r)
        flat = compressed.transpose(1, 2).flatten(2)  # (K, rows, leaves * r)
        inner = flat @ telescopic.inner_matrix(generators, generators.levels - 1).mT
        above = inner.reshape(*inner.shape[:2], leaves, -1).transpose(1, 2)  # (K, leaves, rows, r)
        blocks = torch.cat([blocks, above], dim=-1)
    return blocks.permute(1, 2, 0, 3).flatten(2)


def _in_leaves(rows: Tensor, slots: Tensor | None, leaves: int) -> Tensor:
    """The columns by leaf, padded with zeros: (rows, n) -> (leaves, rows, leaf size)."""
    if slots is not None:
        size = leaves * -(-rows.shape[1] // leaves)
        rows = rows.new_zeros(len(rows), size).index_copy(1, slots, rows)
    return rows.reshape(len(rows), leaves, -1).transpose(0, 1)


def _solve_channels(layer: HSSTensorLinear, inputs: Tensor, outputs: Tensor, ridge: float) -> None:
    """Change the channel factors, (K, c_out, c_in)."""
    factors, channel_factors = layer.factors(), layer.channel_factors
    reduced, count = None, 0
    for x, y in _chunks(layer, inputs, outputs):
        products = []
        for k in range(layer.outer_rank):
            z = x
            for mode in range(layer.modes):
                z = torch.tensordot(z, factors[mode][k], dims=([2 + mode], [1])).movedim(-1, 2 + mode)
            products.append(z.movedim(1, -1).flatten(0, -2))  # (rows, c_in)
        features = torch.cat(products, dim=-1)
        missing = (y - layer(x)).movedim(1, -1).flatten(0, -2)  # (rows, c_out)
        reduced = _triangle(reduced, torch.cat([features, missing], dim=-1)[None])
        count = features.shape[-1]
    change = _regress(reduced, count, ridge)[0]  # (K * c_in, c_out)
    if channel_factors is not None:
        channel_factors += change.reshape(layer.outer_rank, -1, change.shape[-1]).mT


# ------------------------------------------------------------------------------------ regression


def _triangle(above: Tensor | None, rows: Tensor) -> Tensor:
    """The triangular factor of all rows so far, (leaves, f + p, f + p) or fewer rows."""
    stacked = rows if above is None else torch.cat([above, rows], dim=1)
    return torch.linalg.qr(stacked, mode="r").R


def _regress(reduced: Tensor, count: int, ridge: float) -> Tensor:
    """Ridge least squares of the last columns on the first `count`, (leaves, count, targets)."""
    features, targets = reduced[:, :, :count], reduced[:, :, count:]
    left, values, right = torch.linalg.svd(features, full_matrices=False)
    largest = values[:, :1].clamp_min(torch.finfo(values.dtype).tiny)
    kept = values > largest * max(features.shape[1:]) * torch.finfo(values.dtype).eps
    inverse = torch.where(kept, values / (values**2 + (ridge * largest) ** 2), 0.0)
    return right.mT @ (inverse[:, :, None] * (left.mT @ targets))
