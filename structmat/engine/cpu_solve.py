"""Compiled kernels for the CPU: substitution with the ULV and Cholesky factors for one right-hand side.

With one vector the work is bound by memory and by the latency of short loops, so these work on flat arrays with
unsigned offsets, and nothing is sliced. Blocks of vectors go through `cpu_ulv`.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit


@jit
def dot(a, a0, x, x0, n):
    """Sum of a x."""
    s = x.dtype.type(0)
    for j in range(n):
        s += a[a0 + j] * x[x0 + j]
    return s


@jit
def reflect(v, v0, factor, x, x0, n):
    """X -= factor v (v^H x)."""
    s = x.dtype.type(0)
    for j in range(n):
        s += np.conj(v[v0 + j]) * x[x0 + j]
    s *= factor
    for j in range(n):
        x[x0 + j] -= s * v[v0 + j]


@jit
def subtract(a, a0, factor, x, x0, n):
    """X -= factor conj(a)."""
    for j in range(n):
        x[x0 + j] -= factor * np.conj(a[a0 + j])


@jit
def ulv_forward(q, q_tau, lower, front, gone_basis, x, kept, outgoing, first, last):
    """As `cpu_ulv.ulv_forward`, for x (nb, p, 1)."""
    k, p = uint64(q.shape[1]), uint64(q.shape[2])
    kv, e = uint64(gone_basis.shape[1]), uint64(p - k)
    vectors, taus, triangle = q.reshape(-1), q_tau.reshape(-1), lower.reshape(-1)
    fronts, gone = front.reshape(-1), gone_basis.reshape(-1)
    flat, left, sent = x.reshape(-1), kept.reshape(-1), outgoing.reshape(-1)
    work = np.empty(p, dtype=x.dtype)
    for node in range(first, last):
        b = uint64(node)
        for i in range(p):
            work[i] = flat[b * p + i]
        for r in range(k):
            reflect(vectors, (b * k + r) * p + r, np.conj(taus[b * k + r]), work, r, p - r)
        for i in range(e):
            row = (b * e + i) * e
            work[k + i] = (work[k + i] - dot(triangle, row, work, k, i)) / triangle[row + i]
        for i in range(k):
            left[b * k + i] = work[i] - dot(fronts, (b * k + i) * e, work, k, e)
        for i in range(kv):
            sent[b * kv + i] = dot(gone, (b * kv + i) * e, work, k, e)
        for i in range(e):
            flat[b * p + i] = work[k + i]


@jit
def ulv_exchange(coupling, transfer, outgoing, kept, risen, first, last):
    """For each parent: take coupling times the sibling's outgoing off kept, and sum transfer^H outgoing into risen.

    coupling (nb, k, kv); transfer (nb, kv, kp), or kp = 0; outgoing (nb, kv, 1); kept (nb, k, 1); risen
    (nb / 2, kp, 1).
    """
    k, kv, kp = uint64(coupling.shape[1]), uint64(coupling.shape[2]), uint64(transfer.shape[2])
    blocks, maps = coupling.reshape(-1), transfer.reshape(-1)
    sent, left, up = outgoing.reshape(-1), kept.reshape(-1), risen.reshape(-1)
    for parent in range(first, last):
        above = uint64(parent) * kp
        for c in range(kp):
            up[above + c] = 0
        for child in range(2):
            b, sibling = uint64(2 * parent + child), uint64(2 * parent + 1 - child)
            for i in range(k):
                left[b * k + i] -= dot(blocks, (b * k + i) * kv, sent, sibling * kv, kv)
            for i in range(kv):
                subtract(maps, (b * kv + i) * kp, -sent[b * kv + i], up, above, kp)


@jit
def ulv_backward(p_vectors, p_tau, x, kept, first, last):
    """As `cpu_ulv.ulv_backward`, for x (nb, p, 1)."""
    e, p = uint64(p_vectors.shape[1]), uint64(p_vectors.shape[2])
    k = uint64(p - e)
    vectors, taus, flat, left = p_vectors.reshape(-1), p_tau.reshape(-1), x.reshape(-1), kept.reshape(-1)
    for node in range(first, last):
        b = uint64(node)
        for i in range(k):
            flat[b * p + e + i] = left[b * k + i]
        for back in range(e):
            r = uint64(e - back - uint64(1))
            reflect(vectors, (b * e + r) * p + r, taus[b * e + r], flat, b * p + r, p - r)


@jit
def ulv_adjoint_forward(p_vectors, p_tau, x, first, last):
    """As `cpu_ulv.ulv_adjoint_forward`, for x (nb, p, 1)."""
    e, p = uint64(p_vectors.shape[1]), uint64(p_vectors.shape[2])
    vectors, taus, flat = p_vectors.reshape(-1), p_tau.reshape(-1), x.reshape(-1)
    for node in range(first, last):
        b = uint64(node)
        for r in range(e):
            reflect(vectors, (b * e + r) * p + r, np.conj(taus[b * e + r]), flat, b * p + r, p - r)


@jit
def ulv_adjoint_backward(q, q_tau, lower, x, first, last):
    """As `cpu_ulv.ulv_adjoint_backward`, for x (nb, p, 1)."""
    k, p = uint64(q.shape[1]), uint64(q.shape[2])
    e = uint64(p - k)
    vectors, taus, triangle, flat = q.reshape(-1), q_tau.reshape(-1), lower.reshape(-1), x.reshape(-1)
    for node in range(first, last):
        b = uint64(node)
        start = b * p + k
        for back in range(e):
            i = uint64(e - back - uint64(1))
            row = (b * e + i) * e
            flat[start + i] /= np.conj(triangle[row + i])
            subtract(triangle, row, flat[start + i], flat, start, i)
        for back in range(k):
            r = uint64(k - back - uint64(1))
            reflect(vectors, (b * k + r) * p + r, taus[b * k + r], flat, b * p + r, p - r)


@jit
def cholesky_forward(q, q_tau, lower, cross, x, kept, first, last):
    """As `cpu_ulv.cholesky_forward`, for x (nb, p, 1)."""
    k, p = uint64(q.shape[1]), uint64(q.shape[2])
    e = uint64(p - k)
    vectors, taus, triangle = q.reshape(-1), q_tau.reshape(-1), lower.reshape(-1)
    crossing, flat, left = cross.reshape(-1), x.reshape(-1), kept.reshape(-1)
    work = np.empty(p, dtype=x.dtype)
    for node in range(first, last):
        b = uint64(node)
        for i in range(p):
            work[i] = flat[b * p + i]
        for r in range(k):
            reflect(vectors, (b * k + r) * p + r, np.conj(taus[b * k + r]), work, r, p - r)
        for i in range(e):
            row = (b * e + i) * e
            y = (work[k + i] - dot(triangle, row, work, k, i)) / triangle[row + i]
            work[k + i] = y
            flat[b * p + i] = y
            subtract(crossing, (b * e + i) * k, y, work, uint64(0), k)
        for i in range(k):
            left[b * k + i] = work[i]


@jit
def cholesky_backward(q, q_tau, lower, cross, x, kept, first, last):
    """As `cpu_ulv.cholesky_backward`, for x (nb, p, 1)."""
    k, p = uint64(q.shape[1]), uint64(q.shape[2])
    e = uint64(p - k)
    vectors, taus, triangle = q.reshape(-1), q_tau.reshape(-1), lower.reshape(-1)
    crossing, flat, left = cross.reshape(-1), x.reshape(-1), kept.reshape(-1)
    work = np.empty(p, dtype=x.dtype)
    for node in range(first, last):
        b = uint64(node)
        for i in range(k):
            work[i] = left[b * k + i]
        for i in range(e):
            work[k + i] = flat[b * p + i] - dot(crossing, (b * e + i) * k, work, uint64(0), k)
        for back in range(e):
            i = uint64(e - back - uint64(1))
            row = (b * e + i) * e
            work[k + i] /= triangle[row + i]
            subtract(triangle, row, work[k + i], work, k, i)
        for back in range(k):
            r = uint64(k - back - uint64(1))
            reflect(vectors, (b * k + r) * p + r, taus[b * k + r], work, r, p - r)
        for i in range(p):
            flat[b * p + i] = work[i]
