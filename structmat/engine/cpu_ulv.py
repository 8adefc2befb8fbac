"""Compiled kernels for the CPU: eliminations and substitutions of the ULV and the Cholesky factorisation, by node.

Householder reflectors H = I - tau v v^H follow LAPACK's convention, v = (0, .., 0, 1, ..): H^H a is real and along one
axis. They are stored as rows, with their taus, and applied to rows, so that all inner loops run over contiguous
numbers; unsigned indices let them be vectorised. Before their diagonal, the rows hold the triangular factor that joins
the reflectors of a node.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit


@jit
def reflector(v, k, n):
    """Turn v[k:n] into a reflector in place (v[:k] is set to zero); returns beta, tau with H^H a = beta e_k."""
    alpha = v[k]
    square = 0.0
    for j in range(uint64(k + 1), uint64(n)):
        square += v[j].real * v[j].real + v[j].imag * v[j].imag
    for j in range(k):
        v[j] = 0
    v[k] = 1
    if square == 0.0 and alpha.imag == 0.0:
        return alpha.real, alpha * 0  # H = I
    norm = np.sqrt(alpha.real * alpha.real + alpha.imag * alpha.imag + square)
    if norm == 0.0:  # squares underflow: as good as zero, and no number to divide by
        return norm, alpha * 0
    beta = -norm if alpha.real >= 0.0 else norm
    factor = 1.0 / (alpha - beta)
    for j in range(uint64(k + 1), uint64(n)):
        v[j] = v[j] * factor
    return beta, (beta - alpha) / beta


@jit
def reflect_left(row, v, tau, k, n):
    """H^H on a column that is stored as the row `row`."""
    s = row[k] * 0
    for j in range(uint64(k), uint64(n)):
        s += np.conj(v[j]) * row[j]
    s *= np.conj(tau)
    for j in range(uint64(k), uint64(n)):
        row[j] -= s * v[j]


@jit
def reflect_right(row, v, tau, k, n):
    """Row H."""
    s = row[k] * 0
    for j in range(uint64(k), uint64(n)):
        s += row[j] * v[j]
    s *= tau
    for j in range(uint64(k), uint64(n)):
        row[j] -= s * np.conj(v[j])


@jit
def compress_rows(basis, reflectors, taus, rest):
    """QR of one basis (p, k): reflectors (k, p), taus (k,) and R in rest (k, k)."""
    p, k = basis.shape
    for c in range(k):
        for i in range(p):
            reflectors[c, i] = basis[i, c]
    for c in range(k):
        v = reflectors[c]
        # v still is column c with the earlier reflectors applied; above c it holds column c of R
        for i in range(k):
            rest[i, c] = v[i] if i < c else v[i] * 0
        beta, tau = reflector(v, c, p)
        taus[c] = tau
        rest[c, c] = beta
        for d in range(c + 1, k):
            reflect_left(reflectors[d], v, tau, c, p)
    join_reflectors(reflectors, taus)


@jit
def join_reflectors(vectors, taus):
    """T^H below the diagonal of `vectors` (k, p), where H_0 .. H_{k-1} = I - V T V^H, with taus on its diagonal.

    The compact WY form of R. Schreiber, C. Van Loan, SIAM J. Sci. Stat. Comput. 10 (1989) 53-57; with it all inner
    products of a sequence of reflectors are independent of each other.
    """
    k, p = vectors.shape
    overlaps = np.empty(k, dtype=vectors.dtype)
    for c in range(k):
        for a in range(c):
            s = taus[c] * 0
            for j in range(uint64(c), uint64(p)):
                s += np.conj(vectors[a, j]) * vectors[c, j]
            overlaps[a] = s
        for a in range(c):
            s = taus[a] * overlaps[a]
            for e in range(a + 1, c):
                s += np.conj(vectors[e, a]) * overlaps[e]
            vectors[c, a] = -np.conj(taus[c] * s)


@jit
def ulv_eliminate(
    diagonal, row_basis, col_basis, q, q_tau, rest, p_vectors, p_tau, lower, front, kept, gone_basis, kept_basis,
    weakest, first, last,
):  # fmt: skip
    """Eliminate what each node can on its own.

    With U = Q [R; 0] and (Q^H D)[k:] P = [L, 0], Q^H D P = [[F, K], [L, 0]] and P^H V = [G; W]: reflectors of Q in q
    (nb, k, p), R in rest, those of P in p_vectors (nb, e, p), L in lower, F in front, K in kept, G^H in gone_basis
    (nb, kv, e), W in kept_basis (nb, k, kv). weakest (nb,): the smallest pivot relative to its row.
    """
    p, k = row_basis.shape[1:]
    kv, e = col_basis.shape[2], p - k
    columns = np.empty((p, p), dtype=diagonal.dtype)
    below = np.empty((e, p), dtype=diagonal.dtype)
    above = np.empty((k, p), dtype=diagonal.dtype)
    basis = np.empty((kv, p), dtype=diagonal.dtype)
    for b in range(first, last):
        compress_rows(row_basis[b], q[b], q_tau[b], rest[b])
        for i in range(p):
            for j in range(p):
                columns[j, i] = diagonal[b, i, j]
        for c in range(k):
            v, tau = q[b, c], q_tau[b, c]
            for j in range(p):
                reflect_left(columns[j], v, tau, c, p)
        for j in range(p):
            for i in range(k):
                above[i, j] = columns[j, i]
            for i in range(e):
                below[i, j] = columns[j, k + i]
        for c in range(kv):
            for i in range(p):
                basis[c, i] = np.conj(col_basis[b, i, c])
        smallest = np.inf
        for r in range(e):
            v = p_vectors[b, r]
            for j in range(p):
                v[j] = np.conj(below[r, j])
            for j in range(r):
                lower[b, r, j] = below[r, j]
            beta, tau = reflector(v, r, p)
            p_tau[b, r] = tau
            lower[b, r, r] = beta
            # against the whole row, whose size orthogonal columns have not changed; as a ratio, which cannot underflow
            size = 1.0
            if beta != 0.0:
                for j in range(r):
                    size += (abs(lower[b, r, j]) / abs(beta)) ** 2
            smallest = min(smallest, 1.0 / np.sqrt(size) if beta != 0.0 else 0.0)
            for j in range(r + 1, e):
                lower[b, r, j] = 0
                reflect_right(below[j], v, tau, r, p)
            for i in range(k):
                reflect_right(above[i], v, tau, r, p)
            for c in range(kv):
                reflect_right(basis[c], v, tau, r, p)
        join_reflectors(p_vectors[b], p_tau[b])
        for i in range(k):
            for j in range(e):
                front[b, i, j] = above[i, j]
            for j in range(k):
                kept[b, i, j] = above[i, e + j]
            for c in range(kv):
                kept_basis[b, i, c] = np.conj(basis[c, e + i])
        for c in range(kv):
            for j in range(e):
                gone_basis[b, c, j] = basis[c, j]
        weakest[b] = smallest


@jit
def ulv_forward(q, q_tau, lower, front, gone_basis, x, kept, outgoing, first, last):
    """Forward step of A x = b for blocks x (nb, p, m): z replaces x[:, :e]; kept (nb, k, m); outgoing (nb, kv, m)."""
    k, p = q.shape[1:]
    kv, e, m = gone_basis.shape[1], p - k, x.shape[2]
    sums = np.empty(m, dtype=x.dtype)
    work = np.empty((p, m), dtype=x.dtype)
    for b in range(first, last):
        for i in range(p):
            for c in range(m):
                work[i, c] = x[b, i, c]
        for r in range(k):
            rows_reflect(work, q[b, r], np.conj(q_tau[b, r]), r, p, sums)
        for i in range(e):
            rows_subtract(work[k + i], lower[b, i], work[k:], i)
            scale = 1.0 / lower[b, i, i]
            for c in range(m):
                work[k + i, c] *= scale
        for i in range(k):
            rows_subtract(work[i], front[b, i], work[k:], e)
            for c in range(m):
                kept[b, i, c] = work[i, c]
        for i in range(kv):
            for c in range(m):
                outgoing[b, i, c] = 0
            rows_subtract(outgoing[b, i], gone_basis[b, i], work[k:], e)
            for c in range(m):
                outgoing[b, i, c] = -outgoing[b, i, c]
        for i in range(e):
            for c in range(m):
                x[b, i, c] = work[k + i, c]


@jit
def rows_reflect(block, v, tau, k, n, sums):
    """block[k:n] -= tau v (v^H block[k:n]), for a block with rows of any length."""
    m = block.shape[1]
    for c in range(m):
        sums[c] = 0
    for i in range(uint64(k), uint64(n)):
        w = np.conj(v[i])
        for c in range(m):
            sums[c] += w * block[i, c]
    for i in range(uint64(k), uint64(n)):
        w = tau * v[i]
        for c in range(m):
            block[i, c] -= w * sums[c]


@jit
def rows_subtract(target, factors, block, count):
    """Target -= factors[:count] @ block[:count]."""
    m = block.shape[1]
    for j in range(count):
        f = factors[j]
        for c in range(m):
            target[c] -= f * block[j, c]


@jit
def ulv_backward(p_vectors, p_tau, x, kept, first, last):
    """x[b] = P [z; kept]: z stands in x[:, :e]."""
    e, p = p_vectors.shape[1:]
    m = x.shape[2]
    sums = np.empty(m, dtype=x.dtype)
    for b in range(first, last):
        block = x[b]
        for i in range(e, p):
            for c in range(m):
                block[i, c] = kept[b, i - e, c]
        for r in range(e - 1, -1, -1):
            rows_reflect(block, p_vectors[b, r], p_tau[b, r], r, p, sums)


@jit
def ulv_adjoint_forward(p_vectors, p_tau, x, first, last):
    """x[b] = P^H x[b], the first step of A^H x = b."""
    e, p = p_vectors.shape[1:]
    sums = np.empty(x.shape[2], dtype=x.dtype)
    for b in range(first, last):
        for r in range(e):
            rows_reflect(x[b], p_vectors[b, r], np.conj(p_tau[b, r]), r, p, sums)


@jit
def ulv_adjoint_backward(q, q_tau, lower, x, first, last):
    """x[b] = Q [kept; L^{-H} rest]: kept stands in x[:, :k], the right-hand side of L^H in x[:, k:]."""
    k, p = q.shape[1:]
    e, m = p - k, x.shape[2]
    sums = np.empty(m, dtype=x.dtype)
    for b in range(first, last):
        block = x[b]
        for i in range(e - 1, -1, -1):
            scale = 1.0 / np.conj(lower[b, i, i])
            for c in range(m):
                block[k + i, c] *= scale
            for j in range(i):
                f = np.conj(lower[b, i, j])
                for c in range(m):
                    block[k + j, c] -= f * block[k + i, c]
        for r in range(k - 1, -1, -1):
            rows_reflect(block, q[b, r], q_tau[b, r], r, p, sums)


@jit
def cholesky_eliminate(diagonal, basis, q, q_tau, rest, lower, cross, kept, failed, first, last):
    """Q^H D Q = [[K', X^H], [X, L L^H]]: L in lower, Y = L^{-1} X in cross (nb, e, k), K' - Y^H Y in kept.

    failed (nb,): whether a pivot was not positive.
    """
    p, k = basis.shape[1:]
    e = p - k
    work = np.empty((p, p), dtype=diagonal.dtype)
    turned = np.empty((p, p), dtype=diagonal.dtype)
    for b in range(first, last):
        compress_rows(basis[b], q[b], q_tau[b], rest[b])
        for i in range(p):
            for j in range(p):
                work[j, i] = diagonal[b, i, j]
        for c in range(k):
            for j in range(p):
                reflect_left(work[j], q[b, c], q_tau[b, c], c, p)
        for i in range(p):
            for j in range(p):
                turned[i, j] = work[j, i]
        for c in range(k):
            for i in range(p):
                reflect_right(turned[i], q[b, c], q_tau[b, c], c, p)
        failed[b] = False
        for i in range(e):
            for j in range(i + 1):
                s = turned[k + i, k + j]
                for c in range(j):
                    s -= lower[b, i, c] * np.conj(lower[b, j, c])
                if i == j:
                    if not s.real > 0.0:
                        failed[b] = True
                        break
                    lower[b, i, i] = np.sqrt(s.real)
                else:
                    lower[b, i, j] = s / lower[b, j, j].real
            if failed[b]:
                break
            for j in range(i + 1, e):
                lower[b, i, j] = 0
            for c in range(k):
                cross[b, i, c] = turned[k + i, c]
            rows_subtract(cross[b, i], lower[b, i], cross[b], i)
            for c in range(k):
                cross[b, i, c] /= lower[b, i, i].real
        if failed[b]:
            continue
        for i in range(k):
            for j in range(k):
                kept[b, i, j] = turned[i, j]
        for r in range(e):
            for i in range(k):
                w = np.conj(cross[b, r, i])
                for j in range(k):
                    kept[b, i, j] -= w * cross[b, r, j]


@jit
def cholesky_forward(q, q_tau, lower, cross, x, kept, first, last):
    """Forward step: y = L^{-1} (Q^H x)[k:] into x[:, :e]; kept = (Q^H x)[:k] - Y^H y."""
    k, p = q.shape[1:]
    e, m = p - k, x.shape[2]
    sums = np.empty(m, dtype=x.dtype)
    work = np.empty((p, m), dtype=x.dtype)
    for b in range(first, last):
        for i in range(p):
            for c in range(m):
                work[i, c] = x[b, i, c]
        for r in range(k):
            rows_reflect(work, q[b, r], np.conj(q_tau[b, r]), r, p, sums)
        for i in range(e):
            rows_subtract(work[k + i], lower[b, i], work[k:], i)
            for c in range(m):
                work[k + i, c] /= lower[b, i, i].real
                x[b, i, c] = work[k + i, c]
            for j in range(k):
                f = np.conj(cross[b, i, j])
                for c in range(m):
                    work[j, c] -= f * work[k + i, c]
        for i in range(k):
            for c in range(m):
                kept[b, i, c] = work[i, c]


@jit
def cholesky_backward(q, q_tau, lower, cross, x, kept, first, last):
    """x[b] = Q [kept; L^{-H} (y - Y kept)], y in x[:, :e]."""
    k, p = q.shape[1:]
    e, m = p - k, x.shape[2]
    sums = np.empty(m, dtype=x.dtype)
    work = np.empty((p, m), dtype=x.dtype)
    for b in range(first, last):
        for i in range(k):
            for c in range(m):
                work[i, c] = kept[b, i, c]
        for i in range(e):
            for c in range(m):
                work[k + i, c] = x[b, i, c]
            rows_subtract(work[k + i], cross[b, i], kept[b], k)
        for i in range(e - 1, -1, -1):
            for c in range(m):
                work[k + i, c] /= lower[b, i, i].real
            for j in range(i):
                f = np.conj(lower[b, i, j])
                for c in range(m):
                    work[k + j, c] -= f * work[k + i, c]
        for r in range(k - 1, -1, -1):
            rows_reflect(work, q[b, r], q_tau[b, r], r, p, sums)
        for i in range(p):
            for c in range(m):
                x[b, i, c] = work[i, c]
