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

from .cpu import columns_times, jit
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
def dense_as_low_rank(blocks, which, tail, limit, starts, out, ranks, rests, squares, first, last):
    """Low-rank forms of blocks[which[b]] (p, q) to an error of `tail`, one after another in `out`.

    starts (nb,): where each one would be if all had rank `limit`, overwritten by where it is: memory that nothing is
    written to costs nothing. rests (nb,): squared errors; squares (nb, limit): squared singular values.
    """
    p, q = blocks.shape[1:]
    block, dtype = np.empty((p, q), dtype=blocks.dtype), blocks.dtype
    left, right = np.empty(limit * p, dtype=dtype), np.empty(limit * q, dtype=dtype)
    u, v = np.empty(p, dtype=dtype), np.empty(q, dtype=dtype)
    core = np.empty(2 * limit * padded(limit), dtype=dtype)
    one, two = np.empty((limit, limit), dtype=dtype), np.empty((limit, limit), dtype=dtype)
    sizes, order = np.empty(limit), np.empty(limit, dtype=np.int64)
    cursor = starts[first]
    for b in range(first, last):
        block[:] = blocks[which[b]]
        k, rest = crosses_of(block, p, q, CROSS_SHARE * tail, limit, left, right, u, v)
        ranks[b] = -1
        if k < 0:
            continue
        rank = recompress(
            left, right, k, p, q, CUT_SHARE * tail, out, cursor, core, one, two, sizes, order
        )  # fmt: skip
        ranks[b], rests[b] = rank, rest + noted(sizes, order, k, rank, squares[b])
        starts[b] = cursor
        cursor += rank * (p + q)


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
def stacked(buffer, pool, child, rank, p, q, left, left_at, right, right_at):
    """Copy the factors of a block, child = (0: in the buffer, 1: in the pool; start), behind those in two stacks."""
    start = child[1]
    for j in range(rank * p):
        left[left_at * p + j] = buffer[start + j] if child[0] == 0 else pool[start + j]
    start += rank * p
    for j in range(rank * q):
        right[right_at * q + j] = buffer[start + j] if child[0] == 0 else pool[start + j]


@jit
def merge_blocks(
    buffer, pool, children, child_ranks, p, q, tail, limits, starts, out, ranks, rests, squares, first, last
):
    """Each block of the four `children` (nb, 4, 2), which are p by q, to an error of `tail`; one by one in `out`.

    starts: see `dense_as_low_rank`. children: see `stacked`; child_ranks (nb, 4); the four in the order of rows, then
    columns. limits (nb,): the largest ranks that are of use.
    """
    dtype, widest, most = out.dtype, 1, 1
    for b in range(first, last):
        widest, most = max(widest, child_ranks[b].sum()), max(most, limits[b])
    left, right = np.empty((2, widest * p), dtype=dtype), np.empty((2, widest * q), dtype=dtype)
    upper, lower = np.empty((2, widest, widest), dtype=dtype), np.empty((2, widest, widest), dtype=dtype)
    core = np.empty((widest, widest), dtype=dtype)
    u, v = np.empty(widest, dtype=dtype), np.empty(widest, dtype=dtype)
    tall, wide = np.empty(most * widest, dtype=dtype), np.empty(most * widest, dtype=dtype)
    factors = np.empty(2 * most * widest, dtype=dtype)
    small = np.empty(2 * most * padded(most), dtype=dtype)
    one, two = np.empty((most, most), dtype=dtype), np.empty((most, most), dtype=dtype)
    sizes, order = np.empty(most), np.empty(most, dtype=np.int64)
    cursor = starts[first]
    for b in range(first, last):
        k = child_ranks[b]
        total = k.sum()
        heights, widths = (k[0] + k[1], k[2] + k[3]), (k[0] + k[2], k[1] + k[3])
        for c in range(4):
            i, j = c // 2, c % 2
            stacked(buffer, pool, children[b, c], k[c], p, q, left[i], j * k[2 * i], right[j], i * k[j])
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
        rank = recompress(tall, wide, found, total, total, CUT_SHARE * tail, factors, 0, small, one, two, sizes, order)
        ranks[b], rests[b] = rank, rest + noted(sizes, order, found, rank, squares[b])
        at = cursor
        starts[b] = at
        cursor += rank * 2 * (p + q)
        out[at:cursor] = 0
        for r in range(rank):
            for i in range(2):
                source, target = r * total + i * heights[0], at + (2 * r + i) * p
                columns_times(
                    left[i], uint64(0), uint64(heights[i]), uint64(p), factors, uint64(source), out, uint64(target)
                )
                source, target = (rank + r) * total + i * widths[0], at + 2 * rank * p + (2 * r + i) * q
                columns_times(
                    right[i], uint64(0), uint64(widths[i]), uint64(q), factors, uint64(source), out, uint64(target)
                )


@jit
def place_blocks(buffer, pool, blocks, have, keep, p, q, targets, mirrored, out, first, last):
    """Copy the first `keep` of `have` ranks of each block to `targets` of `out`, and transposed to `mirrored` (-1: no).

    blocks (nb, 2): as the children in `stacked`.
    """
    for b in range(first, last):
        inside, start = blocks[b, 0] == 0, blocks[b, 1]
        other = start + have[b] * p
        tall, wide = keep[b] * p, keep[b] * q
        left, right = targets[b], targets[b] + tall
        for j in range(tall):
            out[left + j] = buffer[start + j] if inside else pool[start + j]
        for j in range(wide):
            out[right + j] = buffer[other + j] if inside else pool[other + j]
        if mirrored[b] >= 0:
            out[mirrored[b] : mirrored[b] + wide] = out[right : right + wide]
            out[mirrored[b] + wide : mirrored[b] + wide + tall] = out[left : left + tall]


@jit
def copy_blocks(blocks, source, target, out, first, last):
    """out[target[b]] = blocks[source[b]]."""
    for b in range(first, last):
        out[target[b]] = blocks[source[b]]
