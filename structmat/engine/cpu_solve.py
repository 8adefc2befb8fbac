"""Compiled kernels for the CPU: substitution with the ULV and Cholesky factors for one right-hand side.

With one vector the work is bound by memory and by the latency of short loops, so these work on flat arrays with
unsigned offsets, and nothing is sliced. Blocks of vectors go through `cpu_ulv`.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import FOUR, ONE, THREE, TWO, jit

ZERO = uint64(0)


@jit
def dot(a, a0, x, x0, n):
    """Sum of a x."""
    s = x.dtype.type(0)
    for j in range(n):
        s += a[a0 + j] * x[x0 + j]
    return s


@jit
def reflected(v, v0, count, length, x, x0, factors):
    """X -= V factors, the vectors being rows of `v` (count, length) that begin at their own index; four at a time."""
    r = ZERO
    while r + FOUR <= count:
        v1 = v0 + length
        v2 = v1 + length
        v3 = v2 + length
        a, b, c, d = factors[r], factors[r + ONE], factors[r + TWO], factors[r + THREE]
        x[x0 + r] -= a * v[v0 + r]
        x[x0 + r + ONE] -= a * v[v0 + r + ONE] + b * v[v1 + r + ONE]
        x[x0 + r + TWO] -= a * v[v0 + r + TWO] + b * v[v1 + r + TWO] + c * v[v2 + r + TWO]
        for j in range(r + THREE, length):
            x[x0 + j] -= (a * v[v0 + j] + b * v[v1 + j]) + (c * v[v2 + j] + d * v[v3 + j])
        v0 = v3 + length
        r += FOUR
    while r < count:
        a = factors[r]
        for j in range(r, length):
            x[x0 + j] -= a * v[v0 + j]
        v0 += length
        r += ONE


@jit
def reflect_adjoint(v, v0, taus, t0, count, length, x, x0, w, factors):
    """X = (I - V T V^H)^H x; rows of v (count, length): T^H before the diagonal, a vector from the diagonal on."""
    for r in range(count):
        row = v0 + r * length
        s = x.dtype.type(0)
        for j in range(r, length):
            s += np.conj(v[row + j]) * x[x0 + j]
        w[r] = s
        s *= np.conj(taus[t0 + r])
        for j in range(r):
            s += v[row + j] * w[j]
        factors[r] = s
    reflected(v, v0, count, length, x, x0, factors)


@jit
def reflect(v, v0, taus, t0, count, length, x, x0, factors):
    """X = (I - V T V^H) x, as `reflect_adjoint`."""
    for r in range(count):
        row = v0 + r * length
        s = x.dtype.type(0)
        for j in range(r, length):
            s += np.conj(v[row + j]) * x[x0 + j]
        factors[r] = s * taus[t0 + r]
        for j in range(r):
            factors[j] += s * np.conj(v[row + j])
    reflected(v, v0, count, length, x, x0, factors)


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
    work, projected, factors = np.empty(p, x.dtype), np.empty(p, x.dtype), np.empty(p, x.dtype)
    for node in range(first, last):
        b = uint64(node)
        for i in range(p):
            work[i] = flat[b * p + i]
        reflect_adjoint(vectors, b * k * p, taus, b * k, k, p, work, ZERO, projected, factors)
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
    factors = np.empty(p, x.dtype)
    for node in range(first, last):
        b = uint64(node)
        for i in range(k):
            flat[b * p + e + i] = left[b * k + i]
        reflect(vectors, b * e * p, taus, b * e, e, p, flat, b * p, factors)


@jit
def ulv_adjoint_forward(p_vectors, p_tau, x, first, last):
    """As `cpu_ulv.ulv_adjoint_forward`, for x (nb, p, 1)."""
    e, p = uint64(p_vectors.shape[1]), uint64(p_vectors.shape[2])
    vectors, taus, flat = p_vectors.reshape(-1), p_tau.reshape(-1), x.reshape(-1)
    projected, factors = np.empty(p, x.dtype), np.empty(p, x.dtype)
    for node in range(first, last):
        b = uint64(node)
        reflect_adjoint(vectors, b * e * p, taus, b * e, e, p, flat, b * p, projected, factors)


@jit
def ulv_adjoint_backward(q, q_tau, lower, x, first, last):
    """As `cpu_ulv.ulv_adjoint_backward`, for x (nb, p, 1)."""
    k, p = uint64(q.shape[1]), uint64(q.shape[2])
    e = uint64(p - k)
    vectors, taus, triangle, flat = q.reshape(-1), q_tau.reshape(-1), lower.reshape(-1), x.reshape(-1)
    factors = np.empty(p, x.dtype)
    for node in range(first, last):
        b = uint64(node)
        start = b * p + k
        for back in range(e):
            i = uint64(e - back - uint64(1))
            row = (b * e + i) * e
            flat[start + i] /= np.conj(triangle[row + i])
            subtract(triangle, row, flat[start + i], flat, start, i)
        reflect(vectors, b * k * p, taus, b * k, k, p, flat, b * p, factors)


@jit
def cholesky_forward(q, q_tau, lower, cross, x, kept, first, last):
    """As `cpu_ulv.cholesky_forward`, for x (nb, p, 1)."""
    k, p = uint64(q.shape[1]), uint64(q.shape[2])
    e = uint64(p - k)
    vectors, taus, triangle = q.reshape(-1), q_tau.reshape(-1), lower.reshape(-1)
    crossing, flat, left = cross.reshape(-1), x.reshape(-1), kept.reshape(-1)
    work, projected, factors = np.empty(p, x.dtype), np.empty(p, x.dtype), np.empty(p, x.dtype)
    for node in range(first, last):
        b = uint64(node)
        for i in range(p):
            work[i] = flat[b * p + i]
        reflect_adjoint(vectors, b * k * p, taus, b * k, k, p, work, ZERO, projected, factors)
        for i in range(e):
            row = (b * e + i) * e
            y = (work[k + i] - dot(triangle, row, work, k, i)) / triangle[row + i]
            work[k + i] = y
            flat[b * p + i] = y
            subtract(crossing, (b * e + i) * k, y, work, ZERO, k)
        for i in range(k):
            left[b * k + i] = work[i]


@jit
def cholesky_backward(q, q_tau, lower, cross, x, kept, first, last):
    """As `cpu_ulv.cholesky_backward`, for x (nb, p, 1)."""
    k, p = uint64(q.shape[1]), uint64(q.shape[2])
    e = uint64(p - k)
    vectors, taus, triangle = q.reshape(-1), q_tau.reshape(-1), lower.reshape(-1)
    crossing, flat, left = cross.reshape(-1), x.reshape(-1), kept.reshape(-1)
    work, factors = np.empty(p, x.dtype), np.empty(p, x.dtype)
    for node in range(first, last):
        b = uint64(node)
        for i in range(k):
            work[i] = left[b * k + i]
        for i in range(e):
            work[k + i] = flat[b * p + i] - dot(crossing, (b * e + i) * k, work, ZERO, k)
        for back in range(e):
            i = uint64(e - back - uint64(1))
            row = (b * e + i) * e
            work[k + i] /= triangle[row + i]
            subtract(triangle, row, work[k + i], work, k, i)
        reflect(vectors, b * k * p, taus, b * k, k, p, work, ZERO, factors)
        for i in range(p):
            flat[b * p + i] = work[i]
