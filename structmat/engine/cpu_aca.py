"""Compiled kernels for the CPU: adaptive cross approximation of a batch of blocks, one cross for each at a time.

The crosses of block b are left[b, k] and right[b, k], rows of numbers: it is the sum over k of left[k] right[k]^T,
without conjugation. `active` names the blocks that a step is about; the rows and columns evaluated for it stand in that
order.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit


@jit
def residual(values, picks, active, ranks, across, along, first, last):
    """Subtract the crosses from row picks[a] (or column) of each block: values[a] -= sum_k across[k, pick] along[k]."""
    length = uint64(values.shape[1])
    for a in range(first, last):
        row, b = values[a], active[a]
        for k in range(ranks[b]):
            c = across[b, k, picks[a]]
            cross = along[b, k]
            for j in range(length):
                row[j] -= c * cross[j]


@jit
def row_pivots(values, picks, active, visited, pivots, sizes, first, last):
    """The columns `pivots` of the largest entries of the residual rows, and their squared moduli `sizes`."""
    for a in range(first, last):
        row = values[a]
        visited[active[a], picks[a]] = True
        largest, pick = -1.0, 0
        for j in range(row.shape[0]):
            v = row[j]
            s = v.real * v.real + v.imag * v.imag
            if s > largest:
                largest, pick = s, j
        pivots[a], sizes[a] = pick, largest


@jit
def add_crosses(
    row_values, column_values, pivots, active, ranks, left, right, visited, squares, sizes, nexts, first, last
):
    """Add the cross of each residual row and column, the column divided by the pivot that they share.

    squares (nb,): the squared Frobenius norm of all crosses together, brought up to date. sizes (na,): that of the new
    one. nexts (na,): the unvisited row with the largest entry of the new column, -1 if there is none.
    """
    p, q = uint64(column_values.shape[1]), uint64(row_values.shape[1])
    for a in range(first, last):
        b = active[a]
        rank = ranks[b]
        u, v = left[b, rank], right[b, rank]
        row, column, seen = row_values[a], column_values[a], visited[b]
        scale = row_values.dtype.type(1) / row[pivots[a]]
        tall = 0.0
        for i in range(p):
            x = column[i] * scale
            u[i] = x
            tall += x.real * x.real + x.imag * x.imag
        wide = 0.0
        for j in range(q):
            x = row[j]
            v[j] = x
            wide += x.real * x.real + x.imag * x.imag
        mixed = 0.0
        for k in range(rank):
            s, t = inner(left[b, k], u), inner(right[b, k], v)
            mixed += s.real * t.real - s.imag * t.imag
        sizes[a] = tall * wide
        squares[b] = max(squares[b] + 2.0 * mixed + sizes[a], 0.0)
        ranks[b] = rank + 1
        largest, pick = -1.0, -1
        for i in range(u.shape[0]):
            s = u[i].real * u[i].real + u[i].imag * u[i].imag
            if s > largest and not seen[i]:
                largest, pick = s, i
        nexts[a] = pick


@jit
def inner(x, y):
    """x^H y."""
    s = x.dtype.type(0)
    for i in range(uint64(x.shape[0])):
        s += np.conj(x[i]) * y[i]
    return s


@jit
def sampled_residual(values, i, j, active, ranks, left, right, first, last):
    """Subtract the crosses from the entries at (i[a, s], j[a, s]) of each block: values (na, m)."""
    for a in range(first, last):
        row, b = values[a], active[a]
        for k in range(ranks[b]):
            u, v = left[b, k], right[b, k]
            for s in range(uint64(row.shape[0])):
                row[s] -= u[uint64(i[a, s])] * v[uint64(j[a, s])]


@jit
def full_crosses(blocks, tail, noise, limit, left, right, ranks, rest, first, last):
    """Crosses at the largest entries of blocks[first:last] (p, q), overwritten by what they leave.

    Until the norm of that is at most tail[b], or noise times the norm of the block. left (nb, limit, p) and right
    (nb, limit, q): the crosses; rest (nb,): the norm of what is left.
    """
    p, q = blocks.shape[1], uint64(blocks.shape[2])
    for b in range(first, last):
        block = blocks[b]
        total, row, column = largest_entry(block)
        allowed = max(tail[b] * tail[b], noise * noise * total)
        rank = 0
        while total > allowed and rank < limit:
            u, v = left[b, rank], right[b, rank]
            scale = block.dtype.type(1) / block[row, column]
            for i in range(p):
                u[i] = block[i, column] * scale
            for j in range(q):
                v[j] = block[row, j]
            for i in range(p):
                line, c = block[i], u[i]
                for j in range(q):
                    line[j] -= c * v[j]
            rank += 1
            total, row, column = largest_entry(block)
        ranks[b], rest[b] = rank, np.sqrt(total)


@jit
def largest_entry(block):
    """The squared Frobenius norm, and the row and column of the entry with the largest modulus."""
    total, largest, row = 0.0, -1.0, 0
    for i in range(block.shape[0]):
        line, s, top = block[i], 0.0, 0.0
        for j in range(uint64(block.shape[1])):
            t = line[j].real * line[j].real + line[j].imag * line[j].imag
            s += t
            top = max(top, t)
        total += s
        if top > largest:
            largest, row = top, i
    column, largest = 0, -1.0
    for j in range(block.shape[1]):
        t = block[row, j].real * block[row, j].real + block[row, j].imag * block[row, j].imag
        if t > largest:
            largest, column = t, j
    return total, row, column


@jit
def cholesky_columns(values, picks, active, ranks, left, right, diagonal, squares, first, last):
    """Columns of a pivoted Cholesky factorisation, from residual columns at the pivots: left[b, k] and its conjugate.

    diagonal (nb, p): that of what is left, brought up to date. squares (nb,): the squared norm of all crosses. A pivot
    that is not positive adds no column, and the diagonal becomes zero there.
    """
    p = uint64(values.shape[1])
    for a in range(first, last):
        b, column, pick = active[a], values[a], picks[a]
        pivot = column[pick].real
        if not pivot > 0.0:
            diagonal[b, pick] = 0.0
            continue
        rank = ranks[b]
        u, v, rest = left[b, rank], right[b, rank], diagonal[b]
        scale = 1.0 / np.sqrt(pivot)
        size = 0.0
        for i in range(p):
            x = column[i] * values.dtype.type(scale)
            u[i] = x
            v[i] = np.conj(x)
            s = x.real * x.real + x.imag * x.imag
            size += s
            rest[i] = max(rest[i] - s, 0.0)
        rest[pick] = 0.0
        total = size * size
        for k in range(rank):
            s = inner(left[b, k], u)
            total += 2.0 * (s.real * s.real + s.imag * s.imag)
        squares[b] += total
        ranks[b] = rank + 1
