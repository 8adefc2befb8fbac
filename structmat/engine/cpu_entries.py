"""Compiled kernels for the CPU: single entries of matrices with nested bases, and of independent blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types, uint64
from numba.extending import overload

from .cpu import jit


def number(buffer: Any, at: int) -> Any:
    """Entry `at` of a buffer, or of two that follow each other, of which the first has the wider numbers."""
    if not isinstance(buffer, tuple):
        return buffer[at]
    wide, narrow = buffer
    return wide[at] if at < wide.size else wide.dtype.type(narrow[at - wide.size])


@overload(number)
def _number(buffer, at):
    if isinstance(buffer, types.Array):
        return lambda buffer, at: buffer[at]

    def of_two(buffer, at):
        wide, narrow = buffer
        if at < wide.size:
            return wide[at]
        return wide.dtype.type(narrow[uint64(at) - uint64(wide.size)])

    return of_two


@jit
def climb(buffer, table, orders, node, local, target, out, work):
    """Row `local` of leaf `node` of a nested basis, expressed in the basis of its ancestor `target`; into out."""
    leaf_row(buffer, table[node], orders, local, out)
    while node != target:
        below = table[node, 2]
        shift = 0 if node & 1 else table[node - 1, 2]  # left children have odd numbers
        node = (node - 1) >> 1
        start, p, k, index = table[node]
        block = start
        if index < 0:
            block, length = start + shift, below
            for i in range(below):
                work[i] = out[i]
            for c in range(k):
                out[c] = 0
        else:  # the identity part moves coefficients; the others are brought into the order of the stored rows
            length = p - k
            for place in range(p):
                row = orders[index + place] - shift
                work[place] = out[row] if 0 <= row < below else out.dtype.type(0)
            for c in range(k):
                out[c] = work[c]
            for i in range(length):
                work[i] = work[k + i]
        height = uint64(p if index < 0 else p - k)
        for c in range(uint64(k)):
            s = out.dtype.type(0)
            column = uint64(block) + c * height
            for i in range(uint64(length)):
                s += work[i] * number(buffer, column + i)
            out[c] += s


@jit
def leaf_row(buffer, entry, orders, local, out):
    """One row of one leaf's basis."""
    start, p, k, index = entry
    if index < 0:
        for c in range(k):
            out[c] = number(buffer, start + c * p + local)
        return
    place = 0
    while orders[index + place] != local:
        place += 1
    for c in range(k):
        if place < k:
            out[c] = 1 if c == place else 0
        else:
            out[c] = number(buffer, start + c * (p - k) + place - k)


@jit
def basis_rows(buffer, table, orders, nodes, leaves, local, out, first, last):
    """Rows of the bases of some nodes, out (m, k): of the index at `local` in the leaf `leaves[m]` below `nodes[m]`."""
    work = np.empty(max(table[:, 1].max(), table[:, 2].max()), dtype=out.dtype)
    row = np.empty(table[:, 2].max(), dtype=out.dtype)
    for m in range(first, last):
        climb(buffer, table, orders, leaves[m], local[m], nodes[m], row, work)
        for c in range(table[nodes[m], 2]):
            out[m, c] = row[c]


@jit
def nested_entries(
    buffer, row_table, col_table, orders, blocks, row_nodes, col_nodes, row_leaf, row_local, col_leaf, col_local,
    mirrored, values, first, last,
):  # fmt: skip
    """values[m] = A[i, j] for the leaves (nodes) and the places in them of i and j.

    blocks (m, 3): start and shape of the block that the entry belongs to, between the nodes row_nodes and col_nodes;
    where those are the leaves themselves and mirrored is 2 or 3, the block is dense. An odd `mirrored`: the block
    stands for its adjoint there.
    """
    width = max(row_table[:, 2].max(), col_table[:, 2].max())
    left, right = np.empty(width, dtype=values.dtype), np.empty(width, dtype=values.dtype)
    work = np.empty(max(row_table[:, 1].max(), col_table[:, 1].max(), width), dtype=values.dtype)
    for m in range(first, last):
        block, p, q = blocks[m]
        if mirrored[m] == 2:
            values[m] = number(buffer, block + row_local[m] * q + col_local[m])
            continue
        if mirrored[m] == 3:
            values[m] = np.conj(number(buffer, block + col_local[m] * q + row_local[m]))
            continue
        climb(buffer, row_table, orders, row_leaf[m], row_local[m], row_nodes[m], left, work)
        climb(buffer, col_table, orders, col_leaf[m], col_local[m], col_nodes[m], right, work)
        total = values.dtype.type(0)
        if mirrored[m] == 1:  # sum of left_i conj(B_ji) conj(right_j)
            for j in range(p):
                part = values.dtype.type(0)
                row = uint64(block + j * q)
                for i in range(uint64(q)):
                    part += left[i] * np.conj(number(buffer, row + i))
                total += part * np.conj(right[j])
        else:
            for i in range(p):
                part = values.dtype.type(0)
                row = uint64(block + i * q)
                for j in range(uint64(q)):
                    part += number(buffer, row + j) * np.conj(right[j])
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
