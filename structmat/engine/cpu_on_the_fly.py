"""Compiled kernels for the CPU: products with blocks of a kernel function that are evaluated and not stored."""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import columns_times, jit, rows_times
from .cpu_flat import block_and_adjoint
from .cpu_kernels import TILE, kernel_row, kernel_rows


@jit
def evaluated_pass(code, parameters, x, y, table, widest, first, last, adjointly, vector, result):
    """Add the blocks first .. last - 1 times `vector` to `result`: one vector, some rows of a block at a time.

    table (blocks, 7): first point of x and of y, number of rows and of columns, where the row node and where the column
    node begin in the vectors, and whether the block also acts as its adjoint at the mirrored place.
    """
    room = max(TILE, widest)
    tile, work, zero = np.empty(room), np.empty(2 * room), uint64(0)
    for e in range(first, last):
        top, side, rows, columns, row, col, mirrored = table[e]
        step, count, j = max(1, TILE // max(1, columns)), uint64(columns), uint64(col)
        for r in range(0, rows, step):
            height = min(step, rows - r)
            kernel_rows(code, parameters, x, top + r, height, y, side, columns, tile, work)
            i = uint64(row + r)
            if mirrored:
                block_and_adjoint(tile, zero, uint64(height), count, vector, i, result, j)
            elif adjointly:
                columns_times(tile, zero, uint64(height), count, vector, i, result, j)
            else:
                rows_times(tile, zero, uint64(height), count, vector, j, result, i)


@jit
def evaluated_block_pass(code, parameters, x, y, table, tallest, first, last, adjointly, vectors, result):
    """As `evaluated_pass` for many vectors (rows, m), through BLAS; `tallest` is the largest side of a block."""
    columns = vectors.shape[1]
    work, values = np.empty(2 * tallest), np.empty(tallest * tallest)
    part = np.empty((tallest, columns))
    for e in range(first, last):
        top, side, p, q, row, col, mirrored = table[e]
        block = values[: p * q].reshape((p, q))
        for r in range(p):
            kernel_row(code, parameters, x, top + r, y, side, q, block[r], work)
        if mirrored or not adjointly:
            np.dot(block, vectors[col : col + q], part[:p])
            result[row : row + p] += part[:p]
        if mirrored or adjointly:
            np.dot(block.T, vectors[row : row + p], part[:q])
            result[col : col + q] += part[:q]


@jit
def evaluated_samples(code, parameters, x, y, table, row_nodes, col_nodes, left, right, out, first, last):
    """As `cpu_skeleton.sampled_couplings`, for couplings that are evaluated; table as in `evaluated_pass`."""
    widest = 1
    for b in range(first, last):
        widest = max(widest, table[b, 3])
    line, work = np.empty(widest), np.empty(2 * widest)
    samples, others = left.shape[1], right.shape[1]
    for b in range(first, last):
        top, side, p, q = table[b, 0], table[b, 1], table[b, 2], table[b, 3]
        t, s = row_nodes[b], col_nodes[b]
        for i in range(samples):
            for c in range(others):
                out[b, i, c] = 0.0
        for a in range(p):
            kernel_row(code, parameters, x, top + a, y, side, q, line, work)
            for c in range(others):
                value = 0.0
                for j in range(uint64(q)):
                    value += line[j] * right[s, c, j]
                for i in range(samples):
                    out[b, i, c] += left[t, i, a] * value
