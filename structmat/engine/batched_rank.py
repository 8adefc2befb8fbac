"""Rank-revealing factorisation of a batch of blocks in array operations: the twin of `cpu_rank` for any library.

One step of pivoted Gram-Schmidt for all blocks of a batch at once; a block that has met its tolerance stays as it is.
Few calls, all of them bound by memory: on a device the batch passes by some two times for each rank.
"""

from __future__ import annotations

import array_api_compat
import numpy as np

from .._backend import (
    adjoint,
    cast,
    compact,
    concatenated,
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

# steps whose pivots are gathered before what is left of the blocks is worked out
PANEL = 8


def pivoted_rows(
    blocks: Array, tail: NumpyArray, spent: float, noise: float, limit: int
) -> tuple[Array, IntArray, IntArray, NumpyArray]:
    """Row-pivoted Gram-Schmidt of blocks (nb, p, s), as `cpu_rank.pivoted_rows`, which explains the parameters.

    Returns the factors (nb, p, width) by original rows, zero beyond the rank of a block; the pivots (nb, width), of
    which the first `rank` count; the ranks (nb,); the norms of what is left (nb,). All but the factors are NumPy's.

    In a panel of steps the blocks stay as they are: the pivots are made orthogonal to each other (twice), so that the
    products with them are those of what is left.
    """
    blocks = compact(blocks)
    xp, device = namespace(blocks), array_api_compat.device(blocks)
    nb, p, s = blocks.shape
    # squared norms are brought up to date by differences down to this part of what they were when the panel began
    trusted = float(np.finfo(numpy_dtype(blocks)).eps) ** 0.5
    slots, first_rows = xp.arange(p, device=device), p * xp.arange(nb, device=device)
    squares = squared_norms(blocks, axis=2)
    residual = at_first = xp.sum(squares, axis=1)
    free = squares >= 0.0
    floor = noise * noise * residual
    allowed = like(tail.astype(np.float64) ** 2, blocks)
    active, ranks = xp.any(free, axis=1), xp.zeros(nb, dtype=xp.int64, device=device)
    factors: list[Array] = []
    picks: list[Array] = []
    panel: list[Array] = []
    for k in range(limit + 1):
        if panel and (len(panel) == PANEL or bool(xp.any(active & (residual <= trusted * at_first)))):
            blocks = blocks - xp.matmul(xp.concat(factors[-len(panel) :], axis=2), xp.concat(panel, axis=1))
            squares = squared_norms(blocks, axis=2) * xp.astype(free, xp.float64)
            residual = at_first = xp.sum(squares, axis=1)
            panel = []
        active = active & (residual > xp.maximum(allowed * (1.0 - spent * k), floor))
        if k == limit or not bool(xp.any(active)):
            break
        pick = xp.argmax(squares, axis=1)
        row = xp.reshape(xp.take(xp.reshape(blocks, (nb * p, s)), first_rows + pick, axis=0), (nb, 1, s))
        pivot = _unit_rows(_projected(row, panel), active)
        weights = xp.matmul(blocks, adjoint(pivot)) * cast(xp.reshape(free, (nb, p, 1)), numpy_dtype(blocks))
        free = free & ((slots != xp.reshape(pick, (nb, 1))) | ~xp.reshape(active, (nb, 1)))
        squares = squares - squared_norms(weights, axis=2)
        squares = xp.where(free & (squares > 0.0), squares, xp.zeros_like(squares))
        residual = xp.sum(squares, axis=1)
        factors.append(weights)
        panel.append(pivot)
        picks.append(pick)
        ranks = ranks + xp.astype(active, xp.int64)
    found = xp.concat(factors, axis=2) if factors else xp.zeros((nb, p, 0), dtype=blocks.dtype, device=device)
    pivots = to_numpy(xp.stack(picks, axis=1)) if picks else np.zeros((nb, 0), dtype=np.int64)
    return found, pivots, to_numpy(ranks), np.sqrt(to_numpy(residual))


def _projected(rows: Array, panel: list[Array]) -> Array:
    """Rows (nb, 1, s) without their parts along the orthonormal rows of a panel, each (nb, 1, s)."""
    if not panel:
        return rows
    xp, known = namespace(rows), concatenated(panel, axis=1)
    for _ in range(2):  # once is not enough where little is left
        rows = rows - xp.matmul(xp.matmul(rows, adjoint(known)), known)
    return rows


def _unit_rows(rows: Array, wanted: Array) -> Array:
    """Rows (nb, 1, s) of norm one where `wanted` (nb,), and zero elsewhere."""
    xp = namespace(rows)
    lengths = xp.sqrt(squared_norms(rows, axis=2))
    there = xp.reshape(wanted, (-1, 1)) & (lengths > 0.0)
    scale = xp.where(there, 1.0 / xp.where(there, lengths, xp.ones_like(lengths)), xp.zeros_like(lengths))
    return rows * cast(xp.reshape(scale, (-1, 1, 1)), numpy_dtype(rows))


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
