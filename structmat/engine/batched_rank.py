"""Rank-revealing factorisation of a batch of blocks in array operations: the twin of `cpu_rank` for any library.

One step of pivoted Gram-Schmidt for all blocks of a batch at once; a block that has met its tolerance stays as it is.
Few calls, all of them bound by memory: on a device the batch passes by some eight times for each rank.
"""

from __future__ import annotations

import array_api_compat
import numpy as np

from .._backend import (
    adjoint,
    cast,
    compact,
    identity_beside,
    like,
    namespace,
    numpy_dtype,
    squared_norms,
    take,
    to_numpy,
)
from .._typing import Array, IntArray, NumpyArray
from . import dense


def pivoted_rows(
    blocks: Array, tail: NumpyArray, spent: float, noise: float, limit: int
) -> tuple[Array, IntArray, IntArray, NumpyArray]:
    """Row-pivoted Gram-Schmidt of blocks (nb, p, s), as `cpu_rank.pivoted_rows`, which explains the parameters.

    Returns the factors (nb, p, width) by original rows, zero beyond the rank of a block; the pivots (nb, width), of
    which the first `rank` count; the ranks (nb,); the norms of what is left (nb,). All but the factors are NumPy's.
    """
    blocks = compact(blocks)  # or each step would copy it once more
    xp, dtype = namespace(blocks), numpy_dtype(blocks)
    nb, p, s = blocks.shape
    device = array_api_compat.device(blocks)
    slots, first_rows = xp.arange(p, device=device), p * xp.arange(nb, device=device)
    squares = squared_norms(blocks, axis=2)
    free = squares >= 0.0
    floor = noise * noise * xp.sum(squares, axis=1)
    allowed = like(tail.astype(np.float64) ** 2, blocks)
    active, ranks = xp.any(free, axis=1), xp.zeros(nb, dtype=xp.int64, device=device)
    columns, picks = [], []
    for k in range(limit + 1):
        residual = xp.sum(squares, axis=1)
        active = active & (residual > xp.maximum(allowed * (1.0 - spent * k), floor))
        if k == limit or not bool(xp.any(active)):
            break
        pick = xp.argmax(squares, axis=1)
        rows = xp.take(xp.reshape(blocks, (nb * p, s)), first_rows + pick, axis=0)
        length = xp.sqrt(xp.where(active, xp.max(squares, axis=1), xp.ones_like(floor)))
        scale = cast(xp.astype(active, xp.float64) / length, dtype)
        pivot = xp.reshape(rows * xp.reshape(scale, (nb, 1)), (nb, 1, s))
        weights = xp.matmul(blocks, adjoint(pivot)) * cast(xp.reshape(free, (nb, p, 1)), dtype)
        blocks = blocks - weights * pivot
        free = free & ((slots != xp.reshape(pick, (nb, 1))) | ~xp.reshape(active, (nb, 1)))
        squares = squared_norms(blocks, axis=2) * xp.astype(free, xp.float64)
        columns.append(weights)
        picks.append(pick)
        ranks = ranks + xp.astype(active, xp.int64)
    found = xp.concat(columns, axis=2) if columns else xp.zeros((nb, p, 0), dtype=blocks.dtype, device=device)
    pivots = to_numpy(xp.stack(picks, axis=1)) if picks else np.zeros((nb, 0), dtype=np.int64)
    return found, pivots, to_numpy(ranks), np.sqrt(to_numpy(residual))


def interpolation(lower: Array, order: IntArray, ranks: IntArray) -> Array:
    """Rest (nb, p - k, k) as `cpu_rank.interpolation` finds it, from factors (nb, p, k) by original rows."""
    xp = namespace(lower)
    nb, p, k = lower.shape
    index = (order + p * np.arange(nb)[:, None]).ravel()
    ordered = xp.reshape(take(xp.reshape(lower, (nb * p, k)), index), (nb, p, k))
    top, bottom = ordered[:, :k, :], ordered[:, k:, :]
    if 0 in bottom.shape:
        return bottom
    # rows of the skeleton beyond the rank of a block take no part
    used = like((np.arange(k) < ranks[:, None]).astype(numpy_dtype(lower)), lower)
    top = top * used[:, :, None] + (1.0 - used)[:, :, None] * identity_beside(k, lower)
    return xp.matrix_transpose(xp.linalg.solve(xp.matrix_transpose(top), xp.matrix_transpose(bottom)))


def nullify(omega: Array, y: Array) -> tuple[Array, Array, NumpyArray]:
    """Y Omega^+, the rest of Y and how well Omega determines them, as `cpu_sketch.nullify`; omega (nb, b, s), b <= s.

    The rest, (nb, p, s), is Y (I - Omega^+ Omega): its rows have the inner products of those of Y N, N an orthonormal
    basis of the null space of Omega, which is not formed.
    """
    xp = namespace(omega)
    nb, b, _ = omega.shape
    if not b:
        return y[:, :, :0], y, np.full(nb, np.inf)
    q, r = dense.qr(adjoint(omega))
    pivots = np.abs(to_numpy(xp.linalg.diagonal(r)))
    largest = pivots.max(axis=1)
    weakest = np.where(largest > 0.0, pivots.min(axis=1) / np.where(largest > 0.0, largest, 1.0), 0.0)
    if not weakest.all():  # what is divided by zero means nothing, and must not stop the others
        eye = np.eye(b, dtype=numpy_dtype(r)) * (weakest == 0.0)[:, None, None]
        r = r + like(eye.astype(numpy_dtype(r)), r)
    inside = xp.matmul(y, q)
    own = adjoint(xp.linalg.solve(r, adjoint(inside)))
    return own, y - xp.matmul(inside, adjoint(q)), weakest
