"""Compiled kernels for the CPU: skeletons of clusters of points for a kernel function, and the blocks between them.

Nodes have as many candidates, samples and skeletons as they need: all lists are flat, with pointers.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import ONE, jit
from .cpu_kernels import TILE, kernel_line, kernel_rows

# to how many sums each sample is added, and how many sums there are for each candidate
SPREAD, SUMS = 4, 1.5


@jit
def gathered(y, positions, first, last, out):
    """The coordinates of some points, out (d, last - first)."""
    for axis in range(y.shape[0]):
        for j in range(last - first):
            out[axis, j] = y[axis, positions[first + j]]


@jit
def weighted_block(code, parameters, x, y, turned, rows, r0, r1, cols, c0, c1, weights, block, near, work):
    """The kernel between the points rows[r0:r1] and cols[c0:c1], columns times weights; into block, flat, by rows.

    Where `turned` (1), of the transpose: kernel(y, x).
    """
    width = c1 - c0
    gathered(y, cols, c0, c1, near)
    for i in range(r1 - r0):
        row = block[i * width : (i + 1) * width]
        kernel_line(code, parameters, x, rows[r0 + i], near, 0, width, turned, row, work)
        for j in range(uint64(width)):
            row[j] *= weights[uint64(c0) + j]


@jit
def sketched_block(
    code, parameters, x, y, turned, rows, r0, r1, cols, c0, c1, weights, width, state, sums, block, near, work
):  # fmt: skip
    """As `weighted_block`, with the columns mixed at random into `width` ones: each is added to some, with signs.

    The norms of the rows, and of what a projection leaves of them, are kept on average. Columns are evaluated one at a
    time and never stored. sums (width, r1 - r0) flat: workspace; returns the new state of the random sequence.
    """
    count = r1 - r0
    for j in range(uint64(width * count)):
        sums[j] = 0.0
    gathered(x, rows, r0, r1, near)
    line = block[:count]  # the block is written last
    scale = 1.0 / np.sqrt(float(SPREAD))
    for s in range(c0, c1):
        kernel_line(code, parameters, y, cols[s], near, 0, count, ONE - turned, line, work)
        factor = weights[s] * scale
        for _ in range(SPREAD):
            state = (state * uint64(6364136223846793005) + uint64(1442695040888963407)) & uint64(0xFFFFFFFFFFFFFFFF)
            draw = state >> uint64(33)
            signed = factor if draw & ONE else -factor
            at = ((draw >> ONE) % uint64(width)) * uint64(count)
            for j in range(uint64(count)):
                sums[at + j] += signed * line[j]
    for i in range(count):
        at = uint64(i * width)
        for j in range(uint64(width)):
            block[at + j] = sums[j * uint64(count) + uint64(i)]
    return state


@jit
def pivoted(block, rows, width, tail, spent, noise, limit, factor, stride, order):
    """Row-pivoted Gram-Schmidt of a flat block (rows, width), overwritten, as in `cpu_rank.pivoted_rows`.

    Until what is left has a norm of at most `tail`, or rounding's `noise` relative to the block; each rank uses up the
    share `spent` of the squared tolerance, as what is left of random sums that a basis was fitted to underestimates
    what it leaves of others. factor (rows, stride)
    flat: the triangular factor by original rows; order (rows,): pivots first. Returns the rank and the squared norm of
    what is left.
    """
    norms = np.empty(rows)
    total = 0.0
    for i in range(rows):
        order[i] = i
        s, at = 0.0, uint64(i * width)
        for j in range(uint64(width)):
            v = block[at + j]
            s += v.real * v.real + v.imag * v.imag
        norms[i] = s
        total += s
    rank, residual = 0, total
    while True:
        residual, largest, pick = 0.0, -1.0, rank
        for i in range(rank, rows):
            s = norms[order[i]]
            residual += s
            if s > largest:
                largest, pick = s, i
        if residual <= max(tail * tail * (1.0 - spent * rank), total * noise * noise) or rank == limit:
            break
        order[rank], order[pick] = order[pick], order[rank]
        chosen = order[rank]
        pivot = uint64(chosen * width)
        length = np.sqrt(largest)
        scale = 1.0 / length
        for j in range(uint64(width)):
            block[pivot + j] *= scale
        factor[chosen * stride + rank] = length
        for i in range(rank + 1, rows):
            at = uint64(order[i] * width)
            c = block.dtype.type(0)
            for j in range(uint64(width)):
                c += block[at + j] * np.conj(block[pivot + j])
            factor[order[i] * stride + rank] = c
            s = 0.0
            for j in range(uint64(width)):
                v = block[at + j] - c * block[pivot + j]
                block[at + j] = v
                s += v.real * v.real + v.imag * v.imag
            norms[order[i]] = s
        rank += 1
    return rank, residual


@jit
def skeletons(
    code, parameters, x, y, adjointly, rows, row_pointers, cols, col_pointers, weights, tails, noise, caps, ranks, left,
    order, factor, factor_pointers, first, last,
):  # fmt: skip
    """Skeleton rows of the nodes first .. last - 1 of a level, from weighted samples of their far field.

    Of A, or `adjointly` of its transpose. rows: candidates, cols: samples, as positions of x and y. order: candidates
    of each node, skeletons first; factor: triangular factors, (candidates, cap) flat for each node; ranks, and left:
    squared norms of what is left.
    """
    tallest, widest = 1, 1
    for t in range(first, last):
        tallest = max(tallest, row_pointers[t + 1] - row_pointers[t])
        widest = max(widest, col_pointers[t + 1] - col_pointers[t])
    most = int(SUMS * tallest) + 8
    block, sums = np.empty(tallest * max(min(widest, 2 * most), most)), np.empty(most * tallest)
    longest = max(min(widest, 2 * most), tallest)
    near, work = np.empty((y.shape[0], longest)), np.empty(2 * longest)
    state, turned = uint64(first * 2654435761 + 12345), uint64(adjointly)
    for t in range(first, last):
        r0, r1, c0, c1 = row_pointers[t], row_pointers[t + 1], col_pointers[t], col_pointers[t + 1]
        width, spent = c1 - c0, 0.0
        wanted = int(SUMS * (r1 - r0)) + 8
        if width > 2 * wanted:
            width, spent = wanted, 1.0 / wanted
            state = sketched_block(
                code, parameters, x, y, turned, rows, r0, r1, cols, c0, c1, weights, width, state, sums, block, near,
                work,
            )  # fmt: skip
        else:
            weighted_block(code, parameters, x, y, turned, rows, r0, r1, cols, c0, c1, weights, block, near, work)
        ranks[t], left[t] = pivoted(
            block, r1 - r0, width, tails[t], spent, noise, caps[t], factor[factor_pointers[t] :], caps[t], order[r0:r1]
        )  # fmt: skip


@jit
def skeletons_of_blocks(
    blocks, row_pointers, widths, tails, noise, caps, ranks, left, order, factor, factor_pointers, first, last
):  # fmt: skip
    """As `skeletons` for blocks (nodes, p, s) that were evaluated before, of any dtype, padded; overwritten."""
    for t in range(first, last):
        rows, width = row_pointers[t + 1] - row_pointers[t], widths[t]
        block = np.ascontiguousarray(blocks[t, :rows, :width]).reshape(-1)
        ranks[t], left[t] = pivoted(
            block, rows, width, tails[t], 0.0, noise, caps[t], factor[factor_pointers[t] :], caps[t],
            order[row_pointers[t] : row_pointers[t + 1]],
        )  # fmt: skip


@jit
def interpolations(
    order, row_pointers, factor, factor_pointers, caps, ranks, heights, rest, rest_pointers, first, last
):  # fmt: skip
    """The rows of the interpolation that are not the identity, transposed: (k, height - k) flat for each node.

    Rows beyond the candidates (the padding of short leaves) are left alone.
    """
    for t in range(first, last):
        begin, count, k, stride = row_pointers[t], row_pointers[t + 1] - row_pointers[t], ranks[t], caps[t]
        own, out, length = factor[factor_pointers[t] :], rest[rest_pointers[t] :], heights[t] - ranks[t]
        row = np.empty(k, dtype=factor.dtype)
        for i in range(count - k):
            at = uint64(order[begin + k + i] * stride)
            for j in range(uint64(k)):
                row[j] = own[at + j]
            for j in range(k - 1, -1, -1):
                pivot = uint64(order[begin + j] * stride)
                value = row[j] / own[pivot + uint64(j)]
                row[j] = value
                for c in range(uint64(j)):
                    row[c] -= value * own[pivot + c]
            for j in range(k):
                out[j * length + i] = row[j]


@jit
def kernel_between(
    code, parameters, x, y, rows, row_pointers, cols, col_pointers, row_nodes, col_nodes, starts, out, first, last,
):  # fmt: skip
    """The kernel between the points of nodes, for the blocks first .. last - 1, each by rows at its start in out."""
    tallest, widest = 1, 1
    for b in range(first, last):
        tallest = max(tallest, row_pointers[row_nodes[b] + 1] - row_pointers[row_nodes[b]])
        widest = max(widest, col_pointers[col_nodes[b] + 1] - col_pointers[col_nodes[b]])
    mine = np.empty((x.shape[0], tallest))
    near, work = np.empty((y.shape[0], widest)), np.empty(2 * max(TILE, widest))
    for b in range(first, last):
        t, s, at = row_nodes[b], col_nodes[b], starts[b]
        c0, width = col_pointers[s], col_pointers[s + 1] - col_pointers[s]
        gathered(y, cols, c0, c0 + width, near)
        r0, r1 = row_pointers[t], row_pointers[t + 1]
        gathered(x, rows, r0, r1, mine)
        step = max(1, TILE // max(1, width))
        for r in range(0, r1 - r0, step):
            count = min(step, r1 - r0 - r)
            kernel_rows(code, parameters, mine, r, count, near, 0, width, out[at : at + count * width], work)
            at += count * width


@jit
def sampled_couplings(
    buffer, starts, row_nodes, col_nodes, row_ranks, col_ranks, left, right, out, first, last
):  # fmt: skip
    """Entries of couplings' blocks: left (nodes, s, k) and right (nodes, s', k) hold some rows of each node's basis.

    out (nb, s, s'): left B right^H for the blocks first .. last - 1 with the coefficients of B at `starts`.
    """
    samples, others = left.shape[1], right.shape[1]
    part = np.empty(right.shape[2], dtype=buffer.dtype)
    for b in range(first, last):
        t, s, p, q = row_nodes[b], col_nodes[b], row_ranks[b], col_ranks[b]
        for i in range(samples):
            for j in range(uint64(q)):
                part[j] = 0
            for a in range(p):
                value, at = left[t, i, a], uint64(starts[b] + a * q)
                for j in range(uint64(q)):
                    part[j] += value * buffer[at + j]
            for c in range(others):
                total = buffer.dtype.type(0)
                for j in range(uint64(q)):
                    total += part[j] * np.conj(right[s, c, j])
                out[b, i, c] = total
