"""Compiled kernels for the CPU: sums of products of blocks, addressed by offsets into one flat buffer.

All matrices lie row by row in the buffer, so that some rows of a factor (p, k) begin `row * k` numbers further on, and
the restriction of a low-rank block to a sub-block copies nothing.
"""

from __future__ import annotations

import numpy as np

from .cpu import jit
from .cpu_flat import conjugate


@jit
def _matrix(pool, start, rows, columns):
    return pool[start : start + rows * columns].reshape((rows, columns))


@jit
def apply_operations(pool, operations, first, last):
    """Target += block @ source for each row of the table; what runs at one time must not share a target.

    A row holds: request, rank (-1: dense), rows and columns of the block, its left factor (or the dense block), its
    right factor, source, target, and the number of vectors.
    """
    for e in range(first, last):
        _request, rank, p, q, left, right, source, target, columns = operations[e]
        x, y = _matrix(pool, source, q, columns), _matrix(pool, target, p, columns)
        if rank < 0:
            y += np.dot(_matrix(pool, left, p, q), x)
        elif rank > 0:
            inner = np.dot(conjugate(_matrix(pool, right, q, rank)).T, x)
            y += np.dot(_matrix(pool, left, p, rank), inner)


@jit
def _gather(pool, terms, first, last, left, right):
    at = 0
    for t in range(first, last):
        _block, u, v, rank, row, p, col, q = terms[t]
        left[row : row + p, at : at + rank] = _matrix(pool, u, p, rank)
        right[col : col + q, at : at + rank] = _matrix(pool, v, q, rank)
        at += rank


@jit
def gather_terms(pool, terms, starts, left, right, first, last):
    """The factors of all terms of a block side by side, in left (nb, p, w) and right (nb, q, w), zero beforehand.

    A row of `terms` holds: block, left and right factor, rank, first row and number of rows, first column and number
    of columns; the terms of block b are the rows starts[b] .. starts[b + 1] - 1.
    """
    for b in range(first, last):
        _gather(pool, terms, starts[b], starts[b + 1], left[b], right[b])


@jit
def sum_terms(pool, terms, starts, out, first, last):
    """The sums of left @ right^H of all terms of a block, out (nb, p, q); `terms` and `starts` as in `gather_terms`.

    The factors are put side by side, so that a block takes one product and is written once.
    """
    p, q = out.shape[1:]
    widths = np.zeros(last - first, dtype=np.int64)
    for b in range(first, last):
        for t in range(starts[b], starts[b + 1]):
            widths[b - first] += terms[t, 3]
    widest = widths.max() if last > first else 0
    work_left, work_right = np.empty(p * widest, dtype=out.dtype), np.empty(q * widest, dtype=out.dtype)
    for b in range(first, last):
        width = widths[b - first]
        if width == 0:
            out[b] = 0
            continue
        left, right = _matrix(work_left, 0, p, width), _matrix(work_right, 0, q, width)
        left[:] = 0
        right[:] = 0
        _gather(pool, terms, starts[b], starts[b + 1], left, right)
        np.dot(left, conjugate(right).T, out[b])
