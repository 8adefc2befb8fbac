"""Compiled kernels for the CPU: four low-rank blocks merged into one, and dense blocks written as low-rank ones.

Factors are kept transposed, left^T (k, p) with orthonormal rows, then right^T (k, q), whose rows are as long as the
singular values: the block is left right^H. A rank of -1 stands for a block that needs more than its limit.

Reference: L. Grasedyck, "Adaptive recompression of H-matrices for BEM", Computing 74 (2005) 205-223. Departures: the
two factors of a half are orthonormalised together, so that zeros are never worked on; crosses find the rank of the
core, and singular values are computed at that rank only.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import columns_times, jit, taken
from .cpu_fused import orthonormalize, padded, recompress, squared

# the parts of the tolerance that the crosses may leave, and that the truncation may; their squares are added up
CROSS_SHARE, CUT_SHARE = 0.25, 0.75


@jit
def subtract_cross(block, u, v, q):
    """Block (p, q) -= u v^T; the squared norm of what is left, and its longest row."""
    total, longest, row = 0.0, -1.0, 0
    for i in range(len(u)):
        line, c, size = block[i], u[i], 0.0
        for j in range(uint64(q)):
            x = line[j] - c * v[j]
            line[j] = x
            size += x.real * x.real + x.imag * x.imag
        total += size
        if size > longest:
            longest, row = size, i
    return total, row


@jit
def crosses_of(block, p, q, tail, limit, left, right, u, v):
    """Crosses of a block, overwritten by what they leave: at most `tail` in norm; their number and that square.

    left, right: flat rows of p and of q numbers, with block = left^T conj(right). The number is -1 beyond `limit`.
    """
    u[:p], v[:q] = 0, 0
    total, row = subtract_cross(block, u[:p], v, q)
    rank = 0
    while total > tail * tail:
        if rank == limit:
            return -1, total
        line, column, largest = block[row], 0, -1.0
        for j in range(q):
            size = line[j].real * line[j].real + line[j].imag * line[j].imag
            if size > largest:
                column, largest = j, size
        scale = 1.0 / line[column]
        for j in range(q):
            v[j] = line[j]
            right[rank * q + j] = np.conj(v[j])
        for i in range(p):
            u[i] = block[i, column] * scale
            left[rank * p + i] = u[i]
        total, row = subtract_cross(block, u[:p], v, q)
        rank += 1
    return rank, total


@jit
def dense_as_low_rank(blocks, tail, limit, out, cursor, starts, ranks, rests, squares):
    """Low-rank forms of blocks (nb, p, q), which are overwritten, to an error of `tail`.

    They go to `out`, wherever `cursor` (see `taken`) has room: starts (nb,). rests (nb,): squared errors; squares (nb,
    limit): squared singular values.
    """
    (p, q), dtype = blocks.shape[1:], blocks.dtype
    left, right = np.empty(limit * p, dtype=dtype), np.empty(limit * q, dtype=dtype)
    u, v = np.empty(p, dtype=dtype), np.empty(q, dtype=dtype)
    core, factors = np.empty(2 * limit * padded(limit), dtype=dtype), np.empty(limit * (p + q), dtype=dtype)
    one, two = np.empty((limit, limit), dtype=dtype), np.empty((limit, limit), dtype=dtype)
    sizes, order = np.empty(limit), np.empty(limit, dtype=np.int64)
    for b in range(len(blocks)):
        k, rest = crosses_of(blocks[b], p, q, CROSS_SHARE * tail, limit, left, right, u, v)
        ranks[b] = -1
        if k < 0:
            continue
        rank = recompress(left, right, k, p, q, CUT_SHARE * tail, factors, 0, core, one, two, sizes, order)
        ranks[b], rests[b] = rank, rest + noted(sizes, order, k, rank, squares[b])
        starts[b] = taken(cursor, rank * (p + q))
        at = uint64(starts[b])
        for j in range(uint64(rank * (p + q))):
            out[at + j] = factors[j]


@jit
def noted(sizes, order, k, rank, squares):
    """Write the squares of the singular values that are kept; the sum of the others."""
    rest = 0.0
    for r in range(k):
        if r < rank:
            squares[r] = sizes[order[r]]
        else:
            rest += sizes[order[r]]
    return rest


@jit
def squares_of(buffer, starts, ranks, p, q, squares, first, last):
    """Squared singular values of blocks in the buffer: of the rows of right^T."""
    for b in range(first, last):
        for r in range(ranks[b]):
            at = starts[b] + ranks[b] * p + r * q
            squares[b, r] = squared(buffer[at : at + q], q)


@jit
def stacked(factors, start, rank, p, q, left, left_at, right, right_at):
    """Copy the factors of a block behind those in two stacks."""
    for j in range(uint64(rank * p)):
        left[uint64(left_at * p) + j] = factors[uint64(start) + j]
    start += rank * p
    for j in range(uint64(rank * q)):
        right[uint64(right_at * q) + j] = factors[uint64(start) + j]


@jit
def merge_blocks(
    factors, pool, given, child_starts, child_ranks, p, q, tail, limits, out, cursor, starts, ranks, rests, squares
):
    """Each block of four blocks, which are p by q, to an error of `tail`; in `out`, wherever `cursor` has room.

    given (nb, 4): whether each of the four is in `factors` or in `pool`; child_starts, child_ranks (nb, 4): where there
    and of which rank, in the order of rows, then columns. limits (nb,): the largest ranks that are of use.
    """
    dtype, widest, most = out.dtype, 1, 1
    for b in range(len(limits)):
        widest, most = max(widest, child_ranks[b].sum()), max(most, limits[b])
    left, right = np.empty((2, widest * p), dtype=dtype), np.empty((2, widest * q), dtype=dtype)
    upper, lower = np.empty((2, widest, widest), dtype=dtype), np.empty((2, widest, widest), dtype=dtype)
    core = np.empty((widest, widest), dtype=dtype)
    u, v = np.empty(widest, dtype=dtype), np.empty(widest, dtype=dtype)
    tall, wide = np.empty(most * widest, dtype=dtype), np.empty(most * widest, dtype=dtype)
    short = np.empty(2 * most * widest, dtype=dtype)
    small = np.empty(2 * most * padded(most), dtype=dtype)
    one, two = np.empty((most, most), dtype=dtype), np.empty((most, most), dtype=dtype)
    sizes, order = np.empty(most), np.empty(most, dtype=np.int64)
    for b in range(len(limits)):
        k = child_ranks[b]
        total = k.sum()
        heights, widths = (k[0] + k[1], k[2] + k[3]), (k[0] + k[2], k[1] + k[3])
        for c in range(4):
            i, j = c // 2, c % 2
            source = factors if given[b, c] else pool
            stacked(source, child_starts[b, c], k[c], p, q, left[i], j * k[2 * i], right[j], i * k[j])
        for i in range(2):
            orthonormalize(left[i], k[2 * i], heights[i], p, upper[i])
            orthonormalize(right[i], k[i], widths[i], q, lower[i])
        for c in range(4):
            i, j = c // 2, c % 2
            top, side = i * heights[0], j * widths[0]
            for s in range(heights[i]):
                for t in range(widths[j]):
                    x = dtype.type(0)
                    for a in range(uint64(k[c])):
                        x += upper[i, s, j * k[2 * i] + a] * np.conj(lower[j, t, i * k[j] + a])
                    core[top + s, side + t] = x
        found, rest = crosses_of(core, total, total, CROSS_SHARE * tail, limits[b], tall, wide, u, v)
        ranks[b] = -1
        if found < 0:
            continue
        rank = recompress(
            tall, wide, found, total, total, CUT_SHARE * tail, short, 0, small, one, two, sizes, order
        )  # fmt: skip
        ranks[b], rests[b] = rank, rest + noted(sizes, order, found, rank, squares[b])
        at = taken(cursor, rank * 2 * (p + q))
        starts[b] = at
        out[at : at + rank * 2 * (p + q)] = 0
        for r in range(rank):
            for i in range(2):
                source, target = r * total + i * heights[0], at + (2 * r + i) * p
                columns_times(
                    left[i], uint64(0), uint64(heights[i]), uint64(p), short, uint64(source), out, uint64(target)
                )
                source, target = (rank + r) * total + i * widths[0], at + 2 * rank * p + (2 * r + i) * q
                columns_times(
                    right[i], uint64(0), uint64(widths[i]), uint64(q), short, uint64(source), out, uint64(target)
                )
