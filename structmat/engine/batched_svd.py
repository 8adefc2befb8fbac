"""Singular value decompositions of a batch of blocks in array operations: one-sided Jacobi, all blocks at once.

CuPy decomposes blocks of more than 32 columns one after the other. Here a round of rotations turns
half the pairs of rows of all blocks with some dozen kernels.
"""

from __future__ import annotations

import numpy as np

from .._backend import adjoint, cast, conj, identity_beside, namespace, numpy_dtype, take, to_numpy
from .._typing import Array, NumpyArray
from .batched_qr import householder, scales

# sweeps over all pairs: some six to ten are needed, more only where the values are no numbers
SWEEPS = 40


def jacobi(a: Array) -> tuple[Array, NumpyArray, Array]:
    """Thin decompositions of a batch (nb, p, k), none of them 0: u (nb, p, m), s (nb, m), NumPy's, v^H (nb, m, k).

    Both factors have orthonormal columns whatever the ranks are; errors are some multiples of eps times the largest
    singular value. Cost O(nb (p k + m^2) m) for each sweep, bound by memory.
    """
    xp = namespace(a)
    if a.shape[1] < a.shape[2]:
        u, values, v = jacobi(adjoint(a))
        return adjoint(v), values, adjoint(u)
    q, r = householder(a)
    left, values, rows = _orthogonal_rows(r)
    v, triangle = householder(adjoint(rows))
    pivots = xp.linalg.diagonal(triangle)
    size = xp.abs(pivots)
    present = size > 0.0
    divisor = cast(xp.where(present, size, xp.ones_like(size)), numpy_dtype(a))
    phases = xp.where(present, pivots / divisor, xp.ones_like(pivots))
    return xp.matmul(q, left), values, adjoint(v * xp.expand_dims(phases, axis=1))


def jacobi_left(a: Array) -> tuple[Array, NumpyArray]:
    """The left factors and the singular values of `jacobi`."""
    xp = namespace(a)
    wide = a.shape[1] < a.shape[2]
    if wide:  # the lower triangular factor has the same left singular vectors
        left, values, _ = _orthogonal_rows(adjoint(householder(adjoint(a))[1]))
        return left, values
    q, r = householder(a)
    left, values, _ = _orthogonal_rows(r)
    return xp.matmul(q, left), values


def _orthogonal_rows(a: Array) -> tuple[Array, NumpyArray, Array]:
    """J (nb, m, m), s (nb, m), B with A = J B: J unitary, the rows of B orthogonal, of the lengths s, descending."""
    xp, dtype = namespace(a), numpy_dtype(a)
    nb, m, n = a.shape
    scale, eps = scales(a), float(np.finfo(dtype).eps)
    eye = identity_beside(m, a)
    work = xp.concat([a / scale, xp.broadcast_to(eye, (nb, m, m))], axis=2)  # the rows of I are turned along
    if m % 2:
        work = xp.concat([work, xp.zeros_like(work[:, :1, :])], axis=1)
    noise = eps * eps * xp.sum(_squares(work[:, :, :n]), axis=1, keepdims=True)
    for _ in range(SWEEPS):
        worst = None
        for _ in range(work.shape[1] - 1):
            work, angle = _round(work, n, noise, 2.0 * n**0.5 * eps)
            worst = angle if worst is None else xp.maximum(worst, angle)
        if worst is None or not float(worst) > 0.0:
            break
    else:
        raise np.linalg.LinAlgError(f"singular values of blocks {m} x {n} were not found in {SWEEPS} sweeps")
    lengths = np.sqrt(to_numpy(_squares(work[:, :m, :n]))[:, :, 0])
    order = np.argsort(-lengths, axis=1, kind="stable")
    index = (order + work.shape[1] * np.arange(nb)[:, None]).ravel()
    work = xp.reshape(take(xp.reshape(work, (-1, n + m)), index), (nb, m, n + m))
    values = np.take_along_axis(lengths, order, axis=1) * to_numpy(scale)[:, :, 0].real
    return adjoint(work[:, :, n:]), values, work[:, :, :n] * scale


def _squares(x: Array) -> Array:
    """The squared norms of rows (nb, m, n): (nb, m, 1)."""
    xp = namespace(x)
    return xp.sum(xp.real(x * conj(x)) if numpy_dtype(x).kind == "c" else x * x, axis=2, keepdims=True)


def _round(work: Array, n: int, noise: Array, tolerance: float) -> tuple[Array, Array]:
    """Turn each row of the upper half against one of the lower half, so that they become orthogonal.

    Returns the rows in the order of the next round (as players change seats in a tournament), and the largest cosine
    that was beyond the tolerance. Rows that are noise stay as they are.
    """
    xp, dtype, half = namespace(work), numpy_dtype(work), work.shape[1] // 2
    upper, lower = work[:, :half, :], work[:, half:, :]
    x, y = upper[:, :, :n], lower[:, :, :n]
    a, b = _squares(x), _squares(y)
    product = xp.sum(x * conj(y), axis=2, keepdims=True)
    size, lengths = xp.abs(product), xp.sqrt(a) * xp.sqrt(b)
    turns = (size > tolerance * lengths) & (a > noise) & (b > noise)
    one = xp.ones_like(size)
    safe = xp.where(turns, size, one)
    ratio = xp.where(turns, 0.5 * (b - a) / safe, one)
    tangent = xp.where(ratio < 0.0, -one, one) / (xp.abs(ratio) + xp.sqrt(1.0 + ratio * ratio))
    tangent = xp.where(turns, tangent, xp.zeros_like(one))
    cosine = one / xp.sqrt(1.0 + tangent * tangent)
    sine = cast(cosine * tangent, dtype) * (product / cast(safe, dtype))
    cosine = cast(cosine, dtype)
    angle = xp.max(xp.where(turns, size / xp.where(turns, lengths, one), xp.zeros_like(one)))
    upper, lower = cosine * upper - sine * lower, conj(sine) * upper + cosine * lower
    if half == 1:
        return xp.concat([upper, lower], axis=1), angle
    seats = [upper[:, :1, :], lower[:, :1, :], upper[:, 1:-1, :], lower[:, 1:, :], upper[:, -1:, :]]
    return xp.concat(seats, axis=1), angle
