"""Compiled kernels for the CPU: split samples Y = A Omega by the row space of a node's Omega."""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit
from .cpu_ulv import reflect_right, reflector

# reflectors that are applied together, as one product (compact WY form)
PANEL = 16


@jit
def nullify(omega, y, own, beyond, weakest, first, last):
    """For each node own = Y Omega^+ and beyond = Y N, by an LQ factorisation of omega (nb, b, s), b <= s; y (nb, p, s).

    N is an orthonormal basis of the null space of Omega: own (nb, p, b), beyond (nb, p, s - b). weakest (nb,): the
    smallest over the largest pivot of the factorisation; where it is zero, `own` means nothing.

    Panels of reflectors are applied to the rows below as R - (R V) T V^H (R. Schreiber, C. Van Loan, SIAM J. Sci.
    Stat. Comput. 10 (1989) 53-57).
    """
    b, s = omega.shape[1:]
    p = y.shape[1]
    rows = np.empty((b + p, s), dtype=omega.dtype)
    vectors = np.zeros((PANEL, s), dtype=omega.dtype)
    triangle = np.zeros((PANEL, PANEL), dtype=omega.dtype)
    overlaps = np.empty(PANEL, dtype=omega.dtype)
    for t in range(first, last):
        rows[:b] = omega[t]
        rows[b:] = y[t]
        low, high = np.inf, 0.0
        for start in range(0, b, PANEL):
            stop = min(b, start + PANEL)
            for i in range(start, stop):
                v = vectors[i - start]
                for j in range(s):
                    v[j] = np.conj(rows[i, j])
                beta, tau = reflector(v, i, s)
                low, high = min(low, abs(beta)), max(high, abs(beta))
                rows[i, i] = beta
                for r in range(i + 1, stop):
                    reflect_right(rows[r], v, tau, i, s)
                extend_triangle(triangle, vectors, i - start, tau, i, overlaps)
            for c in range(stop - start, PANEL):
                vectors[c] = 0
                triangle[c] = 0
            apply_panel(rows[stop:], vectors, triangle)
        weakest[t] = low / high if high > 0.0 else 0.0
        if weakest[t] > 0.0:
            solve_rows(rows[:b], rows[b:])
        own[t] = rows[b:, :b]
        beyond[t] = rows[b:, b:]


@jit
def extend_triangle(triangle, vectors, c, tau, start, overlaps):
    """Column c of the triangular factor T with H_0 .. H_c = I - V T V^H; vector c is zero before `start`."""
    v = vectors[c]
    for a in range(c):
        d = tau * 0
        for j in range(uint64(start), uint64(v.shape[0])):
            d += np.conj(vectors[a, j]) * v[j]
        overlaps[a] = d
    for a in range(c):
        d = tau * 0
        for e in range(a, c):
            d += triangle[a, e] * overlaps[e]
        triangle[a, c] = -tau * d
        triangle[c, a] = 0
    triangle[c, c] = tau


@jit
def apply_panel(rows, vectors, triangle):
    """Rows times I - V T V^H, the reflectors of V being the rows of `vectors`."""
    columns = np.ascontiguousarray(vectors.T)
    weights = np.dot(np.dot(rows, columns), triangle)
    update = np.dot(weights, np.conj(vectors))
    for r in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            rows[r, j] -= update[r, j]


@jit
def solve_rows(lower, rows):
    """The first columns of `rows` (p, s), b of them, times L^{-1}, with L the lower triangle of `lower` (b, s)."""
    for r in range(rows.shape[0]):
        row = rows[r]
        for i in range(lower.shape[0] - 1, -1, -1):
            value = row[i] / lower[i, i]
            row[i] = value
            for j in range(uint64(i)):
                row[j] -= value * lower[i, j]
