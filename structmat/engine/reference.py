"""The passes and kernels in plain array operations: one source for numpy, cupy, torch and array_api_strict.

These are what runs on every array but NumPy's, and the twins that the compiled kernels are tested against. Vectors have
the dtype of the matrix or a wider one, to which blocks are converted as they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .. import _backend
from .._backend import columns_at_once, concatenated, concurrently, is_numpy, namespace, zeros_beside
from .._typing import Array
from .routing import PANEL_COLUMNS, Route, panels_of, route_of
from .slabs import adjoint_times, times, widened

if TYPE_CHECKING:
    from ..blocks import BlockBatch, LowRankBatch, NestedBasis


def apply_blocks(batch: BlockBatch, x: Array, count: int, *, half: bool, adjointly: bool) -> Array:
    """Sum over the batch of block @ x[cols] into rows (or its adjoint): x (nodes, q, k) to (count, p, k).

    With `half`, each block off the diagonal also acts, as its adjoint, at the mirrored place.
    """
    if 0 in batch.data.shape:  # no blocks on a level, or bases of rank 0: some libraries take nothing from nothing
        return zeros_beside((count, batch.data.shape[2 if adjointly else 1], x.shape[2]), x)
    if x.shape[2] >= PANEL_COLUMNS and not is_numpy(x):
        panels = panels_of(batch, count, half=half, adjointly=adjointly)
        if panels is not None:
            return panels(x)
    forward, backward = namespace(x).matmul, _backend.adjoint_times
    if adjointly:
        forward, backward = backward, forward
    route = route_of(batch, count, half=half, adjointly=adjointly)
    return route.add(_products(route, (batch.data,), forward, backward, x))


def _products(
    route: Route, stored: tuple[Array, ...], forward: Callable[..., Array], backward: Callable[..., Array], x: Array
) -> Array:
    """The blocks of a batch times their vectors, and then the mirrored ones times theirs: (products, p, k)."""
    vectors = route.sources.of(x)
    others = route.mirrored_sources.of(x) if route.mirrored else None
    ahead, back = [], []
    for part, blocks in widened(x, *stored):
        ahead.append(forward(*blocks, vectors[part, ...]))
        if others is not None:
            back.append(backward(*blocks, others[part, ...]))
    return concatenated([*ahead, *back])


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
    def near_field() -> Array:
        return apply_blocks(near, x, x.shape[0], half=half, adjointly=adjointly)

    def far_field() -> Array:
        return _far_field(couplings, target, source, x, half, adjointly)

    if target.depth == 0:
        return near_field()
    y, far = _both(near_field, far_field, x)
    return y + far


def _both(near_field: Callable[[], Array], far_field: Callable[[], Array], x: Array) -> tuple[Array, Array]:
    """Both fields; at the same time where kernels of few vectors leave room for others."""
    return concurrently(near_field, far_field, x) if x.shape[2] < PANEL_COLUMNS else (near_field(), far_field())


def _far_field(
    couplings: tuple[BlockBatch, ...], target: NestedBasis, source: NestedBasis, x: Array, half: bool, adjointly: bool
) -> Array:
    """Up the tree, across on each level, and down again."""
    xp = namespace(x)
    depth, columns = target.depth, x.shape[2]
    coefficients, below = {}, x
    for level in range(depth, 0, -1):
        below = adjoint_times(source[level], xp.reshape(below, (2**level, source[level].shape[1], columns)))
        coefficients[level] = below
    above = None
    for level in range(1, depth + 1):
        here = apply_blocks(couplings[level - 1], coefficients[level], 2**level, half=half, adjointly=adjointly)
        if above is not None:
            here = here + xp.reshape(above, (2**level, target.width(level), columns))
        above = times(target[level], here)
    return above


def apply_low_rank(batch: LowRankBatch, x: Array, count: int, *, half: bool, adjointly: bool) -> Array:
    """As `apply_blocks` for low-rank blocks left @ right^H."""
    xp = namespace(x)

    def forward(left: Array, right: Array, vectors: Array) -> Array:
        return xp.matmul(left, _backend.adjoint_times(right, vectors))

    def backward(left: Array, right: Array, vectors: Array) -> Array:
        return forward(right, left, vectors)

    route = route_of(batch, count, half=half, adjointly=adjointly)
    factors = (batch.right, batch.left) if adjointly else (batch.left, batch.right)
    return route.add(_products(route, factors, forward, backward, x))


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
    levels = [xp.reshape(x, (1 << level, (leaves * q) >> level, columns)) for level in range(len(near))]

    def total(parts: Iterable[Array]) -> Array:
        y = xp.zeros_like(xp.broadcast_to(x[:, :1, :], (leaves, size, columns)))
        for part in parts:
            y = y + xp.reshape(part, (leaves, size, columns))
        return y

    def near_field() -> Array:
        pairs = [(b, here) for b, here in zip(near, levels, strict=True) if len(b)]
        return total(apply_blocks(b, here, here.shape[0], half=half, adjointly=adjointly) for b, here in pairs)

    def far_field() -> Array:
        pairs = [(b, here) for some, here in zip(far, levels, strict=True) for b in some if b.rank]
        return total(apply_low_rank(b, here, here.shape[0], half=half, adjointly=adjointly) for b, here in pairs)

    y, other = _both(near_field, far_field, x)
    return y + other
