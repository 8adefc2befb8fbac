"""Compiled kernels for the CPU: one vector through a block triangular H-matrix.

The table has a row for each step, in the order of the columns: kind (0: a diagonal block, 1: a dense one below it, 2: a
low-rank one), start in the buffer of its kind, rank, first row, first column, size. Low-rank blocks are stored as
left^T (k, p), then right^T (k, p). What has been solved is kept a second time with the other sign, so that the additive
kernels of the flat pass subtract.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import columns_times, conjugated_columns_times, conjugated_rows_times, jit, rows_times


@jit
def substitute(buffer, start, size, y, at):
    """y[at:] := L^-1 y[at:], L (size, size) row-major at `start`."""
    for r in range(size):
        s = y.dtype.type(0)
        for c in range(uint64(r)):
            s += buffer[start + c] * y[at + c]
        y[at + r] = (y[at + r] - s) / buffer[start + r]
        start += size


@jit
def substitute_adjoint(buffer, start, size, y, at):
    """y[at:] := L^-H y[at:]."""
    row = start + size * size
    for step in range(size):
        row -= size
        r = size - uint64(1) - step
        z = y[at + r] / np.conj(buffer[row + r])
        y[at + r] = z
        for c in range(uint64(r)):
            y[at + c] -= np.conj(buffer[row + c]) * z


@jit
def triangular_solve(dense, low_rank, table, orders, widest, y):
    """Overwrite y by D^-1 y; `orders` (rows,) are the orders of the rows of the diagonal blocks, or empty."""
    minus = np.empty_like(y)
    work = np.empty(widest, dtype=y.dtype)
    zero = uint64(0)
    for e in range(len(table)):
        kind, start, rank, row, col, size = table[e]
        at, i, j, p, k = uint64(start), uint64(row), uint64(col), uint64(size), uint64(rank)
        if kind == 0:
            if len(orders):
                for r in range(p):
                    minus[i + r] = y[i + r]
                for r in range(p):
                    y[i + r] = minus[i + uint64(orders[i + r])]
            substitute(dense, at, p, y, i)
            for r in range(p):
                minus[i + r] = -y[i + r]
        elif kind == 1:
            rows_times(dense, at, p, p, minus, j, y, i)
        else:
            for a in range(k):
                work[a] = 0
            conjugated_rows_times(low_rank, at + k * p, k, p, minus, j, work, zero)
            columns_times(low_rank, at, k, p, work, zero, y, i)


@jit
def triangular_solve_adjoint(dense, low_rank, table, orders, widest, y):
    """Overwrite y by D^-H y."""
    minus = np.empty_like(y)
    work = np.empty(widest, dtype=y.dtype)
    zero = uint64(0)
    for e in range(len(table) - 1, -1, -1):
        kind, start, rank, row, col, size = table[e]
        at, i, j, p, k = uint64(start), uint64(row), uint64(col), uint64(size), uint64(rank)
        if kind == 0:
            substitute_adjoint(dense, at, p, y, i)
            if len(orders):
                for r in range(p):
                    minus[i + r] = y[i + r]
                for r in range(p):
                    y[i + uint64(orders[i + r])] = minus[i + r]
            for r in range(p):
                minus[i + r] = -y[i + r]
        elif kind == 1:
            conjugated_columns_times(dense, at, p, p, minus, i, y, j)
        else:
            for a in range(k):
                work[a] = 0
            conjugated_rows_times(low_rank, at, k, p, minus, i, work, zero)
            columns_times(low_rank, at + k * p, k, p, work, zero, y, j)
