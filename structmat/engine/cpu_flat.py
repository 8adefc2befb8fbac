"""Compiled kernels for the CPU: the flat pass, over blocks that do not share bases.

A block is read once and serves both halves of a Hermitian matrix while it is in the cache. The table has a row for each
block: start in the buffer, rank (-1: dense), first row, first column, number of rows, of columns, and whether it also
acts as its adjoint at the mirrored place. Low-rank blocks are stored as left^T (k, p), then right^T (k, q).

The buffer may have half the precision of the vectors: its numbers are widened as they are read, in registers for one
vector, and a factor at a time into a workspace for BLAS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types, uint64
from numba.extending import overload

from .cpu import ONE, TWO, columns_times, conjugated_columns_times, conjugated_rows_times, jit, rows_times


def conjugate(a: Any) -> Any:
    """The conjugate of an array; a real one itself, where NumPy would make a copy."""
    return np.conj(a)


@overload(conjugate)
def _conjugate(a):
    if isinstance(a.dtype, types.Complex):
        return lambda a: np.conj(a)
    return lambda a: a


def widened(buffer: Any, start: int, count: int, room: Any) -> Any:
    """`count` numbers of the buffer in the type of `room`: where they are, or else copied to there."""
    part = buffer[start : start + count]
    if part.dtype == room.dtype:
        return part
    room[:count] = part
    return room[:count]


@overload(widened)
def _widened(buffer, start, count, room):
    if buffer.dtype == room.dtype:
        return lambda buffer, start, count, room: buffer[start : start + count]

    def copied(buffer, start, count, room):
        first = uint64(start)
        for i in range(uint64(count)):
            room[i] = buffer[first + i]
        return room[:count]

    return copied


@jit
def block_and_adjoint(buffer, start, rows, cols, x, i, y, j):
    """y[i:] += M x[j:] and y[j:] += M^H x[i:] for a dense block M, which is read once; two rows at a time."""
    zero = y.dtype.type(0)
    for _ in range(rows // TWO):
        a, b, u, v = zero, zero, x[i], x[i + ONE]
        second = start + cols
        for c in range(cols):
            m, n, w = buffer[start + c], buffer[second + c], x[j + c]
            a += m * w
            b += n * w
            y[j + c] += np.conj(m) * u + np.conj(n) * v
        y[i] += a
        y[i + ONE] += b
        start = second + cols
        i += TWO
    if rows % TWO:
        a, u = zero, x[i]
        for c in range(cols):
            m = buffer[start + c]
            a += m * x[j + c]
            y[j + c] += np.conj(m) * u
        y[i] += a


@jit
def factor_both_ways(buffer, start, rank, length, known, x, i, y, wanted):
    """y[i:] += F known and wanted = F^H x[i:] for a factor F that is stored as F^T (rank, length); it is read once."""
    zero = y.dtype.type(0)
    first = uint64(0)
    for _ in range(rank // TWO):
        a, b, u, v = zero, zero, known[first], known[first + ONE]
        second = start + length
        for c in range(length):
            m, n, w = buffer[start + c], buffer[second + c], x[i + c]
            a += np.conj(m) * w
            b += np.conj(n) * w
            y[i + c] += m * u + n * v
        wanted[first] = a
        wanted[first + ONE] = b
        start = second + length
        first += TWO
    if rank % TWO:
        a, u = zero, known[first]
        for c in range(length):
            m = buffer[start + c]
            a += np.conj(m) * x[i + c]
            y[i + c] += m * u
        wanted[first] = a


@jit
def flat_pass(buffer, table, widest, first, last, adjointly, x, y):
    """Add the blocks first .. last - 1 times x to y, one vector; `widest` is the largest rank."""
    work, other = np.empty(widest, dtype=x.dtype), np.empty(widest, dtype=x.dtype)
    zero = uint64(0)
    for e in range(first, last):
        start, rank, row, col, p, q, mirrored = table[e]
        second = uint64(start + rank * p)
        at, i, j, rows, cols, k = uint64(start), uint64(row), uint64(col), uint64(p), uint64(q), uint64(max(rank, 0))
        if rank < 0:
            if mirrored:
                block_and_adjoint(buffer, at, rows, cols, x, i, y, j)
            elif adjointly:
                conjugated_columns_times(buffer, at, rows, cols, x, i, y, j)
            else:
                rows_times(buffer, at, rows, cols, x, j, y, i)
            continue
        for a in range(k):
            work[a] = 0
        if mirrored:
            conjugated_rows_times(buffer, second, k, cols, x, j, work, zero)
            factor_both_ways(buffer, at, k, rows, work, x, i, y, other)
            columns_times(buffer, second, k, cols, other, zero, y, j)
        elif adjointly:
            conjugated_rows_times(buffer, at, k, rows, x, i, work, zero)
            columns_times(buffer, second, k, cols, work, zero, y, j)
        else:
            conjugated_rows_times(buffer, second, k, cols, x, j, work, zero)
            columns_times(buffer, at, k, rows, work, zero, y, i)


@jit
def flat_block_pass(buffer, table, widest, tallest, largest, first, last, adjointly, x, y):
    """As `flat_pass` for many vectors, x (rows, m), through BLAS.

    `tallest` is the largest side of a block, `largest` the most numbers of a dense block or of a factor.
    """
    columns = x.shape[1]
    work = np.empty((widest, columns), dtype=x.dtype)
    result = np.empty((tallest, columns), dtype=x.dtype)
    room = np.empty(largest, dtype=x.dtype)
    for e in range(first, last):
        start, rank, row, col, p, q, mirrored = table[e]
        for turn in range(1 + mirrored):
            flipped = adjointly != (turn == 1)
            source, target = (x[row : row + p], y[col : col + q]) if flipped else (x[col : col + q], y[row : row + p])
            part = result[: len(target)]
            if rank < 0:
                block = widened(buffer, start, p * q, room).reshape((p, q))
                if flipped:
                    np.dot(conjugate(block).T, source, part)
                else:
                    np.dot(block, source, part)
            else:
                # the two factors one after the other, as there is room for one
                left, right, inner = start, start + rank * p, work[:rank]
                one, tall, other, wide = (left, p, right, q) if flipped else (right, q, left, p)
                np.dot(conjugate(widened(buffer, one, rank * tall, room).reshape((rank, tall))), source, inner)
                np.dot(widened(buffer, other, rank * wide, room).reshape((rank, wide)).T, inner, part)
            target += part
