"""Compiled kernel for the CPU: single entries of a matrix with nested bases under weak admissibility."""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit


@jit
def climb(buffer, table, orders, node, local, depth, level, out, work):
    """Row `local` of leaf `node` of a nested basis, expressed in the basis of its ancestor on `level`; into out."""
    leaf_row(buffer, table[depth], orders, node, local, out)
    for step in range(depth - 1, level - 1, -1):
        below = table[step + 1, 2]
        half = (node & 1) * below
        node >>= 1
        start, p, k, index = table[step]
        if index < 0:
            block, length = start + node * p * k + half, below
            for i in range(below):
                work[i] = out[i]
            for c in range(k):
                out[c] = 0
        else:  # the identity part moves coefficients; the others are brought into the order of the stored rows
            block, length = start + node * (p - k) * k, p - k
            for place in range(p):
                row = orders[index + node * p + place] - half
                work[place] = out[row] if 0 <= row < below else buffer.dtype.type(0)
            for c in range(k):
                out[c] = work[c]
            for i in range(length):
                work[i] = work[k + i]
        height = uint64(p if index < 0 else p - k)
        for c in range(uint64(k)):
            s = buffer.dtype.type(0)
            column = uint64(block) + c * height
            for i in range(uint64(length)):
                s += work[i] * buffer[column + i]
            out[c] += s


@jit
def leaf_row(buffer, entry, orders, node, local, out):
    """One row of one leaf's basis."""
    start, p, k, index = entry
    if index < 0:
        for c in range(k):
            out[c] = buffer[start + node * p * k + c * p + local]
        return
    place = 0
    while orders[index + node * p + place] != local:
        place += 1
    for c in range(k):
        if place < k:
            out[c] = 1 if c == place else 0
        else:
            out[c] = buffer[start + (node * k + c) * (p - k) + place - k]


@jit
def entry_values(
    buffer, row_table, col_table, orders, pointers, entries, near_start, near_shape,
    row_leaf, row_local, col_leaf, col_local, values, first, last,
):  # fmt: skip
    """values[m] = A[i, j] for the leaves and the places in them of i and j."""
    depth = row_table.shape[0] - 1
    width = max(row_table[:, 2].max(), col_table[:, 2].max())
    left, right = np.empty(width, dtype=buffer.dtype), np.empty(width, dtype=buffer.dtype)
    work = np.empty(max(row_table[:, 1].max(), col_table[:, 1].max(), width), dtype=buffer.dtype)
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
        climb(buffer, row_table, orders, t, row_local[m], depth, level, left, work)
        climb(buffer, col_table, orders, s, col_local[m], depth, level, right, work)
        e = pointers[(1 << level) - 1 + node]
        block, mirrored = entries[e, 0], entries[e, 2] != 0
        k, kv = row_table[level, 2], col_table[level, 2]
        total = buffer.dtype.type(0)
        if mirrored:  # the block stands for its adjoint: sum of left_i conj(B_ji) conj(right_j)
            for j in range(kv):
                part = buffer.dtype.type(0)
                row = uint64(block + j * k)
                for i in range(uint64(k)):
                    part += left[i] * np.conj(buffer[row + i])
                total += part * np.conj(right[j])
        else:
            for i in range(k):
                part = buffer.dtype.type(0)
                row = uint64(block + i * kv)
                for j in range(uint64(kv)):
                    part += buffer[row + j] * np.conj(right[j])
                total += left[i] * part
        values[m] = total


@jit
def flat_entries(buffer, table, block, row, col, mirrored, values, first, last):
    """Add to the values first .. last - 1 what one block of a matrix of independent blocks contributes to each.

    block: its row in the table of the flat pass, or -1 for none; row, col: padded positions; where `mirrored`, the
    entry is the conjugate of the one at (col, row).
    """
    for m in range(first, last):
        if block[m] < 0:
            continue
        start, rank, top, side, p, q, _ = table[block[m]]
        i, j = (col[m], row[m]) if mirrored[m] else (row[m], col[m])
        i, j = i - top, j - side
        value = values.dtype.type(0)
        if rank < 0:
            value += buffer[start + i * q + j]
        other = start + rank * p
        for a in range(rank):
            value += buffer[start + a * p + i] * np.conj(values.dtype.type(buffer[other + a * q + j]))
        values[m] += np.conj(value) if mirrored[m] else value
