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
from llvmlite import ir
from numba import types, uint64
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .cpu import FOUR, ONE, TWO, columns_times, conjugated_columns_times, conjugated_rows_times, jit, rows_times

# factors with rows of up to so many bytes are asked for ahead: their streams end before the processor has learnt them
SHORT_ROW = 4096
CACHE_LINE = 64

compiled_inline: Any = intrinsic  # its type does not tell that the context is left out in calls


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


@compiled_inline
def prefetch(_context, array, index):
    """Ask for the cache line of array[index], which is not read and may lie anywhere."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # to read, into the second level, data
        builder.call(function, [place, *(ir.Constant(number, value) for value in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate


@jit
def ask_for(buffer, at, count, step):
    """Have buffer[at : at + count] on its way to the cache; `step` numbers make a line."""
    for line in range(at, at + count, step):
        prefetch(buffer, line)


@jit
def project(buffer, start, rank, length, x, i, coefficients, following, step):
    """Coefficients = F^H x[i:] for a factor stored as F^T (rank, length); what is at `following` is asked for."""
    for a in range(rank):
        coefficients[a] = 0
    if step == 0:
        conjugated_rows_times(buffer, start, rank, length, x, i, coefficients, uint64(0))
        return
    for a in range(uint64(0), rank, FOUR):
        rows = min(FOUR, rank - a)
        ask_for(buffer, following + a * length, rows * length, step)
        conjugated_rows_times(buffer, start + a * length, rows, length, x, i, coefficients, a)


@jit
def expand(buffer, start, rank, length, coefficients, y, i, following, step):
    """y[i:] += F coefficients, likewise."""
    if step == 0:
        columns_times(buffer, start, rank, length, coefficients, uint64(0), y, i)
        return
    for a in range(uint64(0), rank, FOUR):
        rows = min(FOUR, rank - a)
        ask_for(buffer, following + a * length, rows * length, step)
        columns_times(buffer, start + a * length, rows, length, coefficients, a, y, i)


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
    zero, line = uint64(0), uint64(CACHE_LINE // buffer.itemsize)
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
        step = line if max(p, q) * buffer.itemsize <= SHORT_ROW else zero
        after = second + k * cols
        if adjointly and not mirrored:
            project(buffer, at, k, rows, x, i, work, second, step)
            expand(buffer, second, k, cols, work, y, j, after, step)
            continue
        # the factor that is read first of the next block of this shape is its second one
        project(buffer, second, k, cols, x, j, work, at, step)
        if mirrored:
            factor_both_ways(buffer, at, k, rows, work, x, i, y, other)
            expand(buffer, second, k, cols, other, y, j, after + k * rows, step)
        else:
            expand(buffer, at, k, rows, work, y, i, after + k * rows, step)


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
