"""Compiled kernel for the CPU: single entries of a matrix with nested bases under weak admissibility."""

from __future__ import annotations

import numpy as np

from .cpu import jit


@jit
def climb(buffer, table, node, local, depth, level, out, work):
    """Row `local` of leaf `node` of a nested basis, expressed in the basis of its ancestor on `level`; into out."""
    start, p, k = table[depth]
    block = start + node * p * k
    for c in range(k):
        out[c] = buffer[block + c * p + local]
    for step in range(depth - 1, level - 1, -1):
        below = table[step + 1, 2]
        half = node & 1
        node >>= 1
        start, p, k = table[step]
        block = start + node * p * k + half * below
        for c in range(k):
            s = buffer.dtype.type(0)
            for i in range(below):
                s += out[i] * buffer[block + c * p + i]
            work[c] = s
        for c in range(k):
            out[c] = work[c]


@jit
def entry_values(
    buffer, row_table, col_table, pointers, entries, near_start, near_shape,
    row_leaf, row_local, col_leaf, col_local, values, first, last,
):  # fmt: skip
    """values[m] = A[i, j] for the leaves and the places in them of i and j."""
    depth = row_table.shape[0] - 1
    width = max(row_table[:, 2].max(), col_table[:, 2].max())
    left, right = np.empty(width, dtype=buffer.dtype), np.empty(width, dtype=buffer.dtype)
    work = np.empty(width, dtype=buffer.dtype)
    p, q = near_shape
    for m in range(first, last):
        t, s = row_leaf[m], col_leaf[m]
        if t == s:
            values[m] = buffer[near_start + (t * p + row_local[m]) * q + col_local[m]]
            continue
        level, node, other = depth, t, s
        while node ^ 1 != other:
            node >>= 1
            other >>= 1
            level -= 1
        climb(buffer, row_table, t, row_local[m], depth, level, left, work)
        climb(buffer, col_table, s, col_local[m], depth, level, right, work)
        e = pointers[(1 << level) - 1 + node]
        block, mirrored = entries[e, 0], entries[e, 2] != 0
        k, kv = row_table[level, 2], col_table[level, 2]
        total = buffer.dtype.type(0)
        for i in range(k):
            part = buffer.dtype.type(0)
            for j in range(kv):
                b = np.conj(buffer[block + j * k + i]) if mirrored else buffer[block + i * kv + j]
                part += b * np.conj(right[j])
            total += left[i] * part
        values[m] = total
