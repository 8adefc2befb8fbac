"""The passes and kernels in plain array operations: one source for numpy, cupy, torch and array_api_strict.

These are what runs on every array but NumPy's, and the twins that the compiled kernels are tested against. Vectors have
the dtype of the matrix or a wider one, to which blocks are converted as they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .._backend import adjoint_times, as_dtype_of, columns_at_once, concatenated, is_numpy, namespace, zeros_beside
from .._typing import Array
from .routing import PANEL_COLUMNS, panels_of, route_of

if TYPE_CHECKING:
    from ..blocks import BlockBatch, LowRankBatch, NestedBasis


def apply_blocks(batch: BlockBatch, x: Array, count: int, *, half: bool, adjointly: bool) -> Array:
    """Sum over the batch of block @ x[cols] into rows (or its adjoint): x (nodes, q, k) to (count, p, k).

    With `half`, each block off the diagonal also acts, as its adjoint, at the mirrored place.
    """
    xp = namespace(x)
    data = as_dtype_of(batch.data, x)
    if 0 in data.shape:  # no blocks on a level, or bases of rank 0: some libraries take nothing from nothing
        return zeros_beside((count, data.shape[2 if adjointly else 1], x.shape[2]), x)
    if x.shape[2] >= PANEL_COLUMNS and not is_numpy(x):
        panels = panels_of(batch, count, half=half, adjointly=adjointly)
        if panels is not None:
            return panels(x)
    forward, backward = (adjoint_times, xp.matmul) if adjointly else (xp.matmul, adjoint_times)
    route = route_of(batch, count, half=half, adjointly=adjointly)
    parts = [forward(data, route.sources.of(x))]
    if route.mirrored:
        parts.append(backward(data, route.mirrored_sources.of(x)))
    return route.add(concatenated(parts))


def by_columns(
    function: Callable[[Array], Array], batches: Iterable[BlockBatch | LowRankBatch], x: Array, *, half: bool
) -> Array:
    """`function` of x (nodes, q, k), in groups of columns small enough for what its batches gather and multiply."""
    # products, once more in order, and the summands of some rounds; of mirrored blocks these and their own together
    held = (4 if half else 2) * max((len(b) * b.extent for b in batches), default=0)
    many = columns_at_once(held, x)
    starts = range(0, x.shape[2], many)
    return concatenated([function(x[:, :, k : k + many]) for k in starts], axis=2) if len(starts) > 1 else function(x)


def nested_apply(
    near: BlockBatch,
    couplings: tuple[BlockBatch, ...],
    target: NestedBasis,
    source: NestedBasis,
    x: Array,  # (leaves, q, k)
    *,
    half: bool,
    adjointly: bool,
) -> Array:
    """The nested pass: up the tree in the source basis, across, down in the target basis; (leaves, p, k)."""

    def columns(some: Array) -> Array:
        return _nested(near, couplings, target, source, some, half, adjointly)

    return by_columns(columns, (near, *couplings), x, half=half)


def _nested(
    near: BlockBatch,
    couplings: tuple[BlockBatch, ...],
    target: NestedBasis,
    source: NestedBasis,
    x: Array,
    half: bool,
    adjointly: bool,
) -> Array:
    xp = namespace(x)
    depth, columns = target.depth, x.shape[2]
    y = apply_blocks(near, x, x.shape[0], half=half, adjointly=adjointly)
    coefficients, below = {}, x
    for level in range(depth, 0, -1):
        basis = as_dtype_of(source[level], x)
        below = adjoint_times(basis, xp.reshape(below, (2**level, basis.shape[1], columns)))
        coefficients[level] = below
    above = None
    for level in range(1, depth + 1):
        here = apply_blocks(couplings[level - 1], coefficients[level], 2**level, half=half, adjointly=adjointly)
        if above is not None:
            here = here + xp.reshape(above, (2**level, target.width(level), columns))
        above = xp.matmul(as_dtype_of(target[level], x), here)
    return y if above is None else y + above


def apply_low_rank(batch: LowRankBatch, x: Array, count: int, *, half: bool, adjointly: bool) -> Array:
    """As `apply_blocks` for low-rank blocks left @ right^H."""
    xp = namespace(x)
    left, right = (as_dtype_of(f, x) for f in (batch.left, batch.right))
    left, right = (right, left) if adjointly else (left, right)
    route = route_of(batch, count, half=half, adjointly=adjointly)
    parts = [xp.matmul(left, adjoint_times(right, route.sources.of(x)))]
    if route.mirrored:
        parts.append(xp.matmul(right, adjoint_times(left, route.mirrored_sources.of(x))))
    return route.add(concatenated(parts))


def flat_apply(
    near: tuple[BlockBatch, ...],
    far: tuple[tuple[LowRankBatch, ...], ...],
    x: Array,  # (leaves, q, k)
    size: int,  # of the leaves of the result
    *,
    half: bool,
    adjointly: bool,
) -> Array:
    """The flat pass: gather, multiply, scatter-add, level by level; (leaves, size, k)."""

    def columns(some: Array) -> Array:
        return _flat(near, far, some, size, half, adjointly)

    return by_columns(columns, (*near, *(batch for level in far for batch in level)), x, half=half)


def _flat(
    near: tuple[BlockBatch, ...],
    far: tuple[tuple[LowRankBatch, ...], ...],
    x: Array,
    size: int,
    half: bool,
    adjointly: bool,
) -> Array:
    xp = namespace(x)
    leaves, q, columns = x.shape
    y = xp.zeros_like(xp.broadcast_to(x[:, :1, :], (leaves, size, columns)))
    for level, (dense, batches) in enumerate(zip(near, far, strict=True)):
        nodes = 1 << level
        here = xp.reshape(x, (nodes, leaves * q // nodes, columns))
        parts = [apply_blocks(dense, here, nodes, half=half, adjointly=adjointly)] if len(dense) else []
        parts += [apply_low_rank(b, here, nodes, half=half, adjointly=adjointly) for b in batches if b.rank]
        for part in parts:
            y = y + xp.reshape(part, (leaves, size, columns))
    return y
