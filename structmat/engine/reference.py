"""The passes and kernels in plain array operations: one source for numpy, cupy, torch and array_api_strict.

These are what runs on every array but NumPy's, and the twins that the compiled kernels are tested against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._backend import adjoint, like, namespace
from .._typing import Array, IntArray

if TYPE_CHECKING:
    from ..blocks import BlockBatch, NestedBasis


def scatter_sum(blocks: Array, targets: IntArray, count: int) -> Array:
    """Sum blocks (nb, p, q) into `count` places, without conflicts: (count, p, q).

    The blocks are taken in rounds, in each of which a place receives at most one of them.
    """
    xp = namespace(blocks)
    order = np.argsort(targets, kind="stable")
    if len(targets) == count and np.array_equal(targets[order], np.arange(count)):
        return xp.take(blocks, like(order, blocks), axis=0)
    padded = xp.concat([blocks, xp.zeros_like(blocks[:1, ...])], axis=0)  # the last block stands for "none"
    first = np.searchsorted(targets[order], np.arange(count))
    many = np.bincount(targets, minlength=count)
    extended = np.append(order, len(targets))
    total = None
    for turn in range(max(1, int(many.max(initial=0)))):
        pick = np.where(turn < many, extended[np.minimum(first + turn, len(order))], len(targets))
        part = xp.take(padded, like(pick, blocks), axis=0)
        total = part if total is None else total + part
    return total


def apply_blocks(batch: BlockBatch, x: Array, count: int, *, half: bool, adjointly: bool) -> Array:
    """Sum over the batch of block @ x[cols] into rows (or its adjoint): x (nodes, q, k) to (count, p, k).

    With `half`, each block off the diagonal also acts, as its adjoint, at the mirrored place.
    """
    xp = namespace(x)
    rows, cols = (batch.cols, batch.rows) if adjointly else (batch.rows, batch.cols)
    data = adjoint(batch.data) if adjointly else batch.data
    parts, targets = [xp.matmul(data, xp.take(x, like(cols, x), axis=0))], [rows]
    mirrored = np.flatnonzero(rows != cols) if half else rows[:0]
    if len(mirrored):
        flipped = adjoint(xp.take(data, like(mirrored, x), axis=0))
        parts.append(xp.matmul(flipped, xp.take(x, like(rows[mirrored], x), axis=0)))
        targets.append(cols[mirrored])
    return scatter_sum(xp.concat(parts, axis=0), np.concatenate(targets), count)


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
    xp = namespace(x)
    depth, columns = target.depth, x.shape[2]
    y = apply_blocks(near, x, x.shape[0], half=half, adjointly=adjointly)
    coefficients, below = {}, x
    for level in range(depth, 0, -1):
        basis = source[level]
        below = xp.matmul(adjoint(basis), xp.reshape(below, (2**level, basis.shape[1], columns)))
        coefficients[level] = below
    above = None
    for level in range(1, depth + 1):
        here = apply_blocks(couplings[level - 1], coefficients[level], 2**level, half=half, adjointly=adjointly)
        if above is not None:
            here = here + xp.reshape(above, (2**level, target.width(level), columns))
        above = xp.matmul(target[level], here)
    return y if above is None else y + above
