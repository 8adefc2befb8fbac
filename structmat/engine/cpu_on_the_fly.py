"""Compiled kernels for the CPU: products with blocks of a kernel function that are evaluated and not stored."""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit
from .cpu_kernels import kernel_row

# rows are evaluated in multiples of this: whole vectors are cheaper than the rest of one
STRIDE = 16


@jit
def evaluated_pass(code, parameters, x, y, table, widest, first, last, adjointly, vector, result):
    """Add the blocks first .. last - 1 times `vector` to `result`: one vector, each entry used where it is computed.

    table (blocks, 7): first point of x and of y, number of rows and of columns, where the row node and where the column
    node begin in the vectors, and whether the block also acts as its adjoint at the mirrored place.
    """
    longest = (widest + STRIDE - 1) // STRIDE * STRIDE
    line, work = np.empty(longest), np.empty(2 * longest)
    for e in range(first, last):
        top, side, rows, columns, row, col, mirrored = table[e]
        count, i, j = uint64(columns), uint64(row), uint64(col)
        evaluated = min((columns + STRIDE - 1) // STRIDE * STRIDE, y.shape[1] - side)
        for r in range(rows):
            kernel_row(code, parameters, x, top + r, y, side, evaluated, line, work)
            here = i + uint64(r)
            if mirrored:
                total, u = 0.0, vector[here]
                for c in range(count):
                    total += line[c] * vector[j + c]
                    result[j + c] += line[c] * u
                result[here] += total
            elif adjointly:
                u = vector[here]
                for c in range(count):
                    result[j + c] += line[c] * u
            else:
                total = 0.0
                for c in range(count):
                    total += line[c] * vector[j + c]
                result[here] += total


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
