"""Compiled kernels for the CPU: dense factorisations of small blocks, and substitution for HODLR factors.

Rows are the contiguous direction everywhere. Right-hand sides of a block are the rows of x (blocks, m, q): block b is
x[b // s, :, (b % s) p : (b % s + 1) p], with s = q / p blocks side by side.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import FOUR, ONE, THREE, TWO, jit
from .cpu_solve import dot, subtract

ZERO = uint64(0)


@jit
def combine(target, rows, factors, count, first, last):
    """target[first:last] -= factors[:count] @ rows[:count, first:last], four rows at a time."""
    a, b = uint64(first), uint64(last)
    j = ZERO
    while j + FOUR <= uint64(count):
        f0, f1, f2, f3 = factors[j], factors[j + ONE], factors[j + TWO], factors[j + THREE]
        r0, r1, r2, r3 = rows[j], rows[j + ONE], rows[j + TWO], rows[j + THREE]
        for c in range(a, b):
            target[c] -= (f0 * r0[c] + f1 * r1[c]) + (f2 * r2[c] + f3 * r3[c])
        j += FOUR
    while j < uint64(count):
        f0, r0 = factors[j], rows[j]
        for c in range(a, b):
            target[c] -= f0 * r0[c]
        j += ONE


@jit
def lu_factor(blocks, order, signs, weakest, first, last):
    """In place A P = L U with unit diagonal of U: rows from the top, pivots by columns.

    order (nb, p): the column at each place; signs (nb,): the determinant of P; weakest (nb,): the smallest pivot
    relative to its row of A.
    """
    p = blocks.shape[1]
    for b in range(first, last):
        a = blocks[b]
        signs[b], smallest = 1, np.inf
        for j in range(p):
            order[b, j] = j
        for i in range(p):
            row, size = a[i], 0.0
            for j in range(p):
                size = max(size, abs(row[j]))
            for j in range(0, i, 4):
                end = min(j + 4, i)
                for c in range(j, end):  # the triangle of these rows, then all that is to the right of it
                    for e in range(c + 1, end):
                        row[e] -= row[c] * a[c, e]
                combine(row, a[j:end], row[j:end], end - j, end, p)
            best, largest = i, -1.0
            for j in range(i, p):
                value = abs(row[j])
                if value > largest:
                    best, largest = j, value
            if best != i:
                signs[b] = -signs[b]
                order[b, i], order[b, best] = order[b, best], order[b, i]
                for r in range(p):
                    a[r, i], a[r, best] = a[r, best], a[r, i]
            if not largest > 0.0:  # NaN is as bad as zero
                smallest = 0.0
                break
            smallest = min(smallest, largest / size)
            scale = 1.0 / row[i]
            for j in range(uint64(i + 1), uint64(p)):
                row[j] *= scale
        weakest[b] = smallest


@jit
def lu_solve(lu, order, x, columns, adjointly, first, last):
    """Solve A y = x, or A^H y = x, for the first `columns` rows of x, in place."""
    p = lu.shape[1]
    side, m = x.shape[2] // p, uint64(columns)
    work = np.empty((p, columns), dtype=x.dtype)
    factors = np.empty(p, dtype=lu.dtype)
    for b in range(first, last):
        block, a, places = x[b // side, :, (b % side) * p :], lu[b], order[b]
        if adjointly:
            for i in range(p):
                for c in range(m):
                    work[i, c] = block[c, places[i]]
            for i in range(1, p):
                for j in range(i):
                    factors[j] = np.conj(a[j, i])
                combine(work[i], work, factors, i, 0, m)
            for i in range(p - 1, -1, -1):
                for j in range(i + 1, p):
                    factors[j - i - 1] = np.conj(a[j, i])
                combine(work[i], work[i + 1 :], factors, p - 1 - i, 0, m)
                scale = 1.0 / np.conj(a[i, i])
                for c in range(m):
                    work[i, c] *= scale
            for i in range(p):
                for c in range(m):
                    block[c, i] = work[i, c]
            continue
        for i in range(p):
            for c in range(m):
                work[i, c] = block[c, i]
        for i in range(p):
            combine(work[i], work, a[i], i, 0, m)
            scale = 1.0 / a[i, i]
            for c in range(m):
                work[i, c] *= scale
        for i in range(p - 2, -1, -1):
            combine(work[i], work[i + 1 :], a[i, i + 1 :], p - 1 - i, 0, m)
        for i in range(p):
            for c in range(m):
                block[c, places[i]] = work[i, c]


@jit
def triangular_solve(lower, x, columns, adjointly, first, last):
    """Solve L y = x, or L^H y = x, for the first `columns` rows of x, in place."""
    p = lower.shape[1]
    side, m = x.shape[2] // p, uint64(columns)
    work = np.empty((p, columns), dtype=x.dtype)
    factors = np.empty(p, dtype=lower.dtype)
    for b in range(first, last):
        block, a = x[b // side, :, (b % side) * p :], lower[b]
        for i in range(p):
            for c in range(m):
                work[i, c] = block[c, i]
        for step in range(p):
            i = p - 1 - step if adjointly else step
            if adjointly:
                for j in range(i + 1, p):
                    factors[j - i - 1] = np.conj(a[j, i])
                combine(work[i], work[i + 1 :], factors, p - 1 - i, 0, m)
            else:
                combine(work[i], work, a[i], i, 0, m)
            scale = 1.0 / a[i, i].real
            for c in range(m):
                work[i, c] *= scale
        for i in range(p):
            for c in range(m):
                block[c, i] = work[i, c]


# --------------------------------------------------------------- one right-hand side: flat arrays, unsigned offsets


@jit
def node_sums(data, start, stride, k, first, count, step, width, x, x0, sums, s0):
    """sums[s0 + node k + j] += row_j^H x_node for the nodes first, first + step .. below `count`, side by side.

    The rows stand in `data` from `start` on, every `stride`.
    """
    zero = x.dtype.type(0)
    j = ZERO
    while j + FOUR <= k:
        r0 = start + j * stride
        r1 = r0 + stride
        r2 = r1 + stride
        r3 = r2 + stride
        for node in range(first, count, step):
            at, s = node * width, s0 + node * k + j
            a, b, c, d = zero, zero, zero, zero
            for i in range(at, at + width):
                v = x[x0 + i]
                a += np.conj(data[r0 + i]) * v
                b += np.conj(data[r1 + i]) * v
                c += np.conj(data[r2 + i]) * v
                d += np.conj(data[r3 + i]) * v
            sums[s] += a
            sums[s + ONE] += b
            sums[s + TWO] += c
            sums[s + THREE] += d
        j += FOUR
    while j < k:
        r0 = start + j * stride
        for node in range(first, count, step):
            a = zero
            for i in range(node * width, (node + ONE) * width):
                a += np.conj(data[r0 + i]) * x[x0 + i]
            sums[s0 + node * k + j] += a
        j += ONE


@jit
def node_updates(data, start, stride, k, first, count, step, width, factors, f0, x, x0):
    """x_node -= sum_j factors[f0 + node k + j] row_j for the nodes first, first + step .. below `count`."""
    j = ZERO
    while j + FOUR <= k:
        r0 = start + j * stride
        r1 = r0 + stride
        r2 = r1 + stride
        r3 = r2 + stride
        for node in range(first, count, step):
            at, f = node * width, f0 + node * k + j
            a, b, c, d = factors[f], factors[f + ONE], factors[f + TWO], factors[f + THREE]
            for i in range(at, at + width):
                x[x0 + i] -= (a * data[r0 + i] + b * data[r1 + i]) + (c * data[r2 + i] + d * data[r3 + i])
        j += FOUR
    while j < k:
        r0 = start + j * stride
        for node in range(first, count, step):
            at, a = node * width, factors[f0 + node * k + j]
            for i in range(at, at + width):
                x[x0 + i] -= a * data[r0 + i]
        j += ONE


@jit
def parent_sums(data, sizes, offset, k, width, parent, child, children, x, sums):
    """The inner products of the basis rows of a level with x, for the children of the parents from `parent` on.

    Those of all parents in a panel, or of one whose children are panels or larger; sums: k for each node. child,
    children: (0, 2) for both children, (0, 1) or (1, 1) for one. sizes: rows and positions of a panel.
    """
    height, panel = sizes
    start = TWO * parent * width
    at = (start // panel * height + offset) * panel
    if width < panel:
        count, step = panel // width, TWO if children == ONE else ONE
        node_sums(data, at, panel, k, child, count, step, width, x, start, sums, ZERO)
        return
    pieces = width // panel
    for piece in range(child * pieces, (child + children) * pieces):
        here = at + piece * height * panel
        node_sums(data, here, panel, k, ZERO, ONE, ONE, panel, x, start + piece * panel, sums, piece // pieces * k)


@jit
def parent_updates(data, sizes, offset, k, width, parent, child, children, factors, x):
    """X less the basis rows of a level times `factors`; as `parent_sums`."""
    height, panel = sizes
    start = TWO * parent * width
    at = (start // panel * height + offset) * panel
    if width < panel:
        count, step = panel // width, TWO if children == ONE else ONE
        node_updates(data, at, panel, k, child, count, step, width, factors, ZERO, x, start)
        return
    pieces = width // panel
    for piece in range(child * pieces, (child + children) * pieces):
        here = at + piece * height * panel
        node_updates(
            data, here, panel, k, ZERO, ONE, ONE, panel, factors, piece // pieces * k, x, start + piece * panel
        )


@jit
def lu_substitute(lu, start, order, o0, p, x, x0, work):
    """Solve A y = x in place for one block."""
    for i in range(p):
        row = start + i * p
        work[i] = (x[x0 + i] - dot(lu, row, work, ZERO, i)) / lu[row + i]
    for back in range(p):
        i = p - back - ONE
        after = i + ONE
        work[i] -= dot(lu, start + i * p + after, work, after, p - after)
    for i in range(p):
        x[x0 + uint64(order[o0 + i])] = work[i]


@jit
def lower_substitute(lower, start, p, x, x0):
    """Solve L y = x in place for one block."""
    for i in range(p):
        row = start + i * p
        x[x0 + i] = (x[x0 + i] - dot(lower, row, x, x0, i)) / lower[row + i]


@jit
def upper_substitute(lower, start, p, x, x0):
    """Solve L^H y = x in place for one block."""
    for back in range(p):
        i = p - back - ONE
        row = start + i * p
        x[x0 + i] /= np.conj(lower[row + i])
        subtract(lower, row, x[x0 + i], x, x0, i)


@jit
def lu_subtrees(
    write, read, height, panel, leaf, depth, offsets, ranks, leaves, leaf_order, cores, core_starts, core_order,
    order_starts, x, split, first, last,
):  # fmt: skip
    """Solve with the diagonal blocks first .. last - 1 of level `split`, whose nodes are no smaller than a panel.

    write, read: A_t^-1 U_t and V_t of the nodes t of all levels, panels of `height` rows of length `panel`; the rows
    offsets[level] .. + ranks[level] belong to a level. cores: the LU factors of the parents of each level.
    """
    sizes, leaf = (uint64(height), uint64(panel)), uint64(leaf)
    widest = uint64(2 * max(1, ranks.max()))
    work = np.empty(max(leaf, widest), dtype=x.dtype)
    sums = np.empty((sizes[1] // leaf + ONE) * widest, dtype=x.dtype)
    for root in range(first, last):
        inside = depth - split
        for b in range(uint64(root << inside), uint64((root + 1) << inside)):
            lu_substitute(leaves, b * leaf * leaf, leaf_order, b * leaf, leaf, x, b * leaf, work)
        for level in range(depth, split, -1):
            width, k, offset = leaf << uint64(depth - level), uint64(ranks[level]), uint64(offsets[level])
            size, together = TWO * k, max(ONE, sizes[1] // (TWO * width))
            core, order = uint64(core_starts[level]), uint64(order_starts[level])
            parent, end = uint64(root << (level - 1 - split)), uint64((root + 1) << (level - 1 - split))
            while parent < end:
                for j in range(together * size):
                    sums[j] = 0
                parent_sums(read, sizes, offset, k, width, parent, ZERO, TWO, x, sums)
                for pair in range(together):
                    at = parent + pair
                    lu_substitute(
                        cores, core + at * size * size, core_order, order + at * size, size, sums, pair * size, work
                    )
                parent_updates(write, sizes, offset, k, width, parent, ZERO, TWO, sums, x)
                parent += together


@jit
def symmetric_subtrees(
    basis, height, panel, leaf, depth, offsets, ranks, leaves, cores, core_starts, x, adjointly, split, first, last
):
    """W^-1 x, or W^-H x, for the diagonal blocks first .. last - 1 of level `split`; see `hodlr.cholesky`.

    cores: for each parent of each level two k x k matrices, `across` and `solve`.
    """
    sizes, leaf, inside = (uint64(height), uint64(panel)), uint64(leaf), depth - split
    widest = uint64(2 * max(1, ranks.max()))
    sums = np.empty((sizes[1] // leaf + ONE) * widest, dtype=x.dtype)
    factors = np.empty_like(sums)
    for root in range(first, last):
        if not adjointly:
            for b in range(uint64(root << inside), uint64((root + 1) << inside)):
                lower_substitute(leaves, b * leaf * leaf, leaf, x, b * leaf)
        for turn in range(inside):
            level = split + 1 + turn if adjointly else depth - turn
            width, k, offset = leaf << uint64(depth - level), uint64(ranks[level]), uint64(offsets[level])
            size, together = TWO * k, max(ONE, sizes[1] // (TWO * width))
            parent, end = uint64(root << (level - 1 - split)), uint64((root + 1) << (level - 1 - split))
            while parent < end:
                for j in range(together * size):
                    sums[j] = 0
                core = uint64(core_starts[level]) + parent * size * k
                if adjointly:
                    parent_sums(basis, sizes, offset, k, width, parent, ONE, ONE, x, sums)
                    join_adjointly(cores, core, k, together, sums, factors)
                    parent_updates(basis, sizes, offset, k, width, parent, ZERO, TWO, factors, x)
                else:
                    parent_sums(basis, sizes, offset, k, width, parent, ZERO, TWO, x, sums)
                    join(cores, core, k, together, sums, factors)
                    parent_updates(basis, sizes, offset, k, width, parent, ONE, ONE, factors, x)
                parent += together
        if adjointly:
            for b in range(uint64(root << inside), uint64((root + 1) << inside)):
                upper_substitute(leaves, b * leaf * leaf, leaf, x, b * leaf)


@jit
def join(cores, start, k, parents, sums, factors):
    """Factors of the second children: across sums_a - solve sums_b."""
    for pair in range(parents):
        across = start + pair * TWO * k * k
        a = pair * TWO * k
        for i in range(k):
            row = across + i * k
            factors[a + k + i] = dot(cores, row, sums, a, k) - dot(cores, row + k * k, sums, a + k, k)


@jit
def join_adjointly(cores, start, k, parents, sums, factors):
    """Factors of both children: across^H sums_b and -solve^H sums_b."""
    for pair in range(parents):
        across = start + pair * TWO * k * k
        a = pair * TWO * k
        for i in range(TWO * k):
            factors[a + i] = 0
        for i in range(k):
            row, s = across + i * k, sums[a + k + i]
            subtract(cores, row, -s, factors, a, k)
            subtract(cores, row + k * k, s, factors, a + k, k)


@jit
def panel_of(index, child, children, pieces):
    """The panel at a place among those of the chosen children, `pieces` each, of all parents."""
    chosen = children * pieces
    return index // chosen * TWO * pieces + child * pieces + index % chosen


@jit
def panel_sums(read, height, panel, offset, rank, child, children, pieces, x, sums, first, last):
    """sums[i] = V^H x for the basis rows of one level and the chosen panels first .. last - 1, sums (panels, rank)."""
    height, panel, offset, k = uint64(height), uint64(panel), uint64(offset), uint64(rank)
    flat = sums.reshape(-1)
    for i in range(uint64(first), uint64(last)):
        b = panel_of(i, uint64(child), uint64(children), uint64(pieces))
        for j in range(k):
            flat[i * k + j] = 0
        node_sums(read, (b * height + offset) * panel, panel, k, ZERO, ONE, ONE, panel, x, b * panel, flat, i * k)


@jit
def panel_updates(write, height, panel, offset, rank, child, children, pieces, factors, x, first, last):
    """X -= Y factors for the chosen panels first .. last - 1; factors (nodes, rank)."""
    height, panel, offset, k = uint64(height), uint64(panel), uint64(offset), uint64(rank)
    flat = factors.reshape(-1)
    for i in range(uint64(first), uint64(last)):
        b = panel_of(i, uint64(child), uint64(children), uint64(pieces))
        node = i // uint64(pieces)
        at = (b * height + offset) * panel
        node_updates(write, at, panel, k, ZERO, ONE, ONE, panel, flat, node * k, x, b * panel)


@jit
def place_bases(bases, where, panels, row, first, last):
    """Transpose bases (nb, p, k) of the nodes `where` into the rows from `row` on of panels (panels, height, size).

    first .. last - 1 count stretches: nodes, or the panels of nodes that have several.
    """
    p, k, size = bases.shape[1], bases.shape[2], panels.shape[2]
    pieces, width = max(1, p // size), min(p, size)
    for stretch in range(first, last):
        source = bases[stretch // pieces, stretch % pieces * width :]
        start = where[stretch // pieces] * p + stretch % pieces * width
        target = panels[start // size, row:, start % size :]
        for begin in range(0, width, 64):  # so that the rows of the source stay in the cache
            end = min(begin + 64, width)
            for j in range(k):
                for i in range(begin, end):
                    target[j, i] = source[i, j]
