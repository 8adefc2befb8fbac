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
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import overload

from .cpu import (
    FOUR,
    ONE,
    THREE,
    TWO,
    columns_times,
    compiled_inline,
    conjugated_columns_times,
    conjugated_rows_times,
    jit,
    rows_times,
)

# longer rows go in stretches: what is added to stays in the cache, and sums of parts are more accurate than one
STRETCH = uint64(4096)
# factors with rows of up to so many bytes are asked for ahead: their streams end before the processor has learnt them
SHORT_ROW = 4096
CACHE_LINE = 64


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


@njit(fastmath=False, nogil=True, cache=True)  # said in so many words: left out, it would be what callers have
def two_sum(a, b):
    """The sum as it is rounded, and what rounding has taken off; compiled without licence to reorder."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@jit
def project_in_stretches(buffer, start, rank, length, x, i, coefficients):
    """Add F^H x[i:] to the coefficients; the sums of the stretches are added with compensation.

    What a long vector has in common with a smooth factor is often small, and the sum of large parts.
    """
    lost, part = np.zeros(rank, dtype=coefficients.dtype), np.empty(1, dtype=coefficients.dtype)
    for c in range(uint64(0), length, STRETCH):
        count = min(STRETCH, length - c)
        for a in range(uint64(rank)):
            part[0] = 0
            conjugated_rows_times(buffer, start + a * length + c, ONE, count, x, i + c, part, uint64(0))
            coefficients[a], error = two_sum(coefficients[a], part[0])
            lost[a] += error
    for a in range(rank):
        coefficients[a] += lost[a]


@jit
def project(buffer, start, rank, length, x, i, coefficients, following, step):
    """Coefficients = F^H x[i:] for a factor stored as F^T (rank, length); what is at `following` is asked for."""
    for a in range(rank):
        coefficients[a] = 0
    if length > STRETCH:
        project_in_stretches(buffer, start, rank, length, x, i, coefficients)
        return
    if step == 0:
        conjugated_rows_times(buffer, start, rank, length, x, i, coefficients, uint64(0))
        return
    for a in range(uint64(0), rank, FOUR):
        rows = min(FOUR, rank - a)
        ask_for(buffer, following + a * length, rows * length, step)
        conjugated_rows_times(buffer, start + a * length, rows, length, x, i, coefficients, a)


@jit
def expand_in_stretches(buffer, start, rank, length, coefficients, y, i):
    """y[i:] += F coefficients; the product is summed up before it is added, which rounds y once."""
    part = np.empty(STRETCH, dtype=y.dtype)
    for c in range(uint64(0), length, STRETCH):
        count = min(STRETCH, length - c)
        part[:count] = 0
        at = start + c
        for a in range(uint64(0), rank - rank % FOUR, FOUR):
            s, t, u, v = coefficients[a], coefficients[a + ONE], coefficients[a + TWO], coefficients[a + THREE]
            s1, s2, s3 = at + length, at + TWO * length, at + THREE * length
            for j in range(count):
                part[j] += (buffer[at + j] * s + buffer[s1 + j] * t) + (buffer[s2 + j] * u + buffer[s3 + j] * v)
            at += FOUR * length
        for a in range(rank - rank % FOUR, rank):
            columns_times(buffer, at, ONE, count, coefficients, a, part, uint64(0))
            at += length
        for j in range(count):
            y[i + c + j] += part[j]


@jit
def expand(buffer, start, rank, length, coefficients, y, i, following, step):
    """y[i:] += F coefficients, likewise."""
    if length > STRETCH:
        expand_in_stretches(buffer, start, rank, length, coefficients, y, i)
        return
    if step == 0:
        columns_times(buffer, start, rank, length, coefficients, uint64(0), y, i)
        return
    for a in range(uint64(0), rank, FOUR):
        rows = min(FOUR, rank - a)
        ask_for(buffer, following + a * length, rows * length, step)
        columns_times(buffer, start + a * length, rows, length, coefficients, a, y, i)


@jit
def block_and_adjoint(buffer, start, rows, cols, x, i, y, j):
    """y[i:] += M x[j:] and y[j:] += M^H x[i:] for a dense block M, which is read once; four rows at a time."""
    zero = y.dtype.type(0)
    for _ in range(rows // FOUR):
        a, b, d, e = zero, zero, zero, zero
        s, t, u, v = x[i], x[i + ONE], x[i + TWO], x[i + THREE]
        s1 = start + cols
        s2 = s1 + cols
        s3 = s2 + cols
        for c in range(cols):
            k, g, m, n, w = buffer[start + c], buffer[s1 + c], buffer[s2 + c], buffer[s3 + c], x[j + c]
            a += k * w
            b += g * w
            d += m * w
            e += n * w
            y[j + c] += (np.conj(k) * s + np.conj(g) * t) + (np.conj(m) * u + np.conj(n) * v)
        y[i] += a
        y[i + ONE] += b
        y[i + TWO] += d
        y[i + THREE] += e
        start = s3 + cols
        i += FOUR
    for _ in range(rows % FOUR):
        a, u = zero, x[i]
        for c in range(cols):
            m = buffer[start + c]
            a += m * x[j + c]
            y[j + c] += np.conj(m) * u
        y[i] += a
        start += cols
        i += ONE


@jit
def stretch_both_ways(buffer, start, rank, length, count, known, x, i, y, wanted):
    """`factor_both_ways` for the first `count` columns of rows of `length`, from `start` on."""
    zero = y.dtype.type(0)
    first = uint64(0)
    for _ in range(rank // FOUR):
        a, b, d, e = zero, zero, zero, zero
        s, t, u, v = known[first], known[first + ONE], known[first + TWO], known[first + THREE]
        s1 = start + length
        s2 = s1 + length
        s3 = s2 + length
        for c in range(count):
            k, g, m, n, w = buffer[start + c], buffer[s1 + c], buffer[s2 + c], buffer[s3 + c], x[i + c]
            a += np.conj(k) * w
            b += np.conj(g) * w
            d += np.conj(m) * w
            e += np.conj(n) * w
            y[i + c] += (k * s + g * t) + (m * u + n * v)
        wanted[first] = a
        wanted[first + ONE] = b
        wanted[first + TWO] = d
        wanted[first + THREE] = e
        start = s3 + length
        first += FOUR
    for _ in range(rank % FOUR // TWO):
        a, b, u, v = zero, zero, known[first], known[first + ONE]
        second = start + length
        for c in range(count):
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
        for c in range(count):
            m = buffer[start + c]
            a += np.conj(m) * x[i + c]
            y[i + c] += m * u
        wanted[first] = a


@jit
def factor_both_ways(buffer, start, rank, length, known, x, i, y, wanted):
    """y[i:] += F known and wanted = F^H x[i:] for a factor F that is stored as F^T (rank, length); it is read once."""
    if length <= STRETCH:
        stretch_both_ways(buffer, start, rank, length, length, known, x, i, y, wanted)
        return
    lost, part = np.zeros(rank, dtype=wanted.dtype), np.empty(rank, dtype=wanted.dtype)
    for a in range(rank):
        wanted[a] = 0
    for c in range(uint64(0), length, STRETCH):
        stretch_both_ways(buffer, start + c, rank, length, min(STRETCH, length - c), known, x, i + c, y, part)
        for a in range(rank):
            wanted[a], error = two_sum(wanted[a], part[a])
            lost[a] += error
    for a in range(rank):
        wanted[a] += lost[a]


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
