"""Compiled kernel for the CPU: split samples Y = A Omega by the row space of a node's Omega."""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit
from .cpu_ulv import reflect_right, reflector


@jit
def nullify(omega, y, weakest, first, last):
    """For each node, by an LQ factorisation of omega (nb, b, s), b <= s: y (nb, p, s) becomes [Y Omega^+, Y N].

    N is an orthonormal basis of the null space of Omega. Both arrays are overwritten. weakest (nb,): the smallest over
    the largest pivot of the factorisation.
    """
    b, s = omega.shape[1:]
    p = y.shape[1]
    vector = np.empty(s, dtype=omega.dtype)
    for t in range(first, last):
        low, high = np.inf, 0.0
        for i in range(b):
            for j in range(s):
                vector[j] = np.conj(omega[t, i, j])
            beta, tau = reflector(vector, i, s)
            low, high = min(low, abs(beta)), max(high, abs(beta))
            omega[t, i, i] = beta
            for r in range(i + 1, b):
                reflect_right(omega[t, r], vector, tau, i, s)
            for r in range(p):
                reflect_right(y[t, r], vector, tau, i, s)
        weakest[t] = low / high if high > 0.0 else 0.0
        if weakest[t] == 0.0:
            continue
        for r in range(p):  # (Y Q_1) L^{-1}, from the last column to the first
            row = y[t, r]
            for i in range(b - 1, -1, -1):
                lower = omega[t, i]
                value = row[i] / lower[i]
                row[i] = value
                for j in range(uint64(i)):
                    row[j] -= value * lower[j]
