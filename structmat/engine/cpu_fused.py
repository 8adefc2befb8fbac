"""Compiled kernels for the CPU: adaptive cross approximation of blocks of a kernel function, and recompression.

Reference: M. Bebendorf, S. Rjasanow, "Adaptive low-rank approximation of collocation matrices", Computing 70 (2003)
1-24. Departures: where the crosses seem to have converged, rows that were not used are tried before it is believed;
the result is recompressed at once, while it is in the cache. Factors are kept transposed, a row for each rank.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import columns_times, jit, taken
from .cpu_kernels import kernel_column, kernel_row

# shares of a block's tolerance: of the last cross, and of the truncation that follows
CROSS_SHARE, CUT_SHARE = 0.25, 0.9
SWEEPS = 30
TOO_FEW, NOT_FINITE = -1, -2
LARGEST = np.finfo(np.float64).max


@jit
def take_off(factors, rank, length, weights, row):
    """Row[:length] -= the sum over a < rank of weights[a] factors[a, :length], with factors as one flat array."""
    for a in range(rank):
        weights[a] = -weights[a]
    columns_times(factors, uint64(0), uint64(rank), uint64(length), weights, uint64(0), row, uint64(0))


@jit
def largest(row, n, used):
    """Index of the largest |row[j]| with j < n that is not used; -1 where all are."""
    pick, best = -1, -1.0
    for j in range(n):
        value = abs(row[j])
        if value > best and not used[j]:
            pick, best = j, value
    return pick


@jit
def unused_row(used, n, state):
    """A row that was not used, by a linear congruential sequence; the new state of the sequence."""
    state = (state * 1103515245 + 12345) % 2147483648
    i = state % n
    for _ in range(n):
        if not used[i]:
            break
        i = (i + 1) % n
    return i, state


@jit
def squared(row, n):
    """Sum of the squared moduli of row[:n]."""
    s = 0.0
    for j in range(uint64(n)):
        s += row[j].real * row[j].real + row[j].imag * row[j].imag
    return s


@jit
def worst_row(
    code, parameters, x, top, p, y, side, q, left, right, rank, corner_rows, corner_cols, bounds, used, entry, work,
):  # fmt: skip
    """The unused row that is worst in the corner of a block, and the sum of squares of all errors there."""
    total, worst, row = 0.0, -1.0, -1
    for s in range(bounds[0], bounds[1]):
        i, error = corner_rows[s], 0.0
        for t in range(bounds[2], bounds[3]):
            j = corner_cols[t]
            kernel_row(code, parameters, x, top + i, y, side + j, 1, entry, work)
            d = entry[0]
            for a in range(rank):
                d -= left[a * p + i] * right[a * q + j]
            error += d * d
        total += error
        if error > worst and not used[i]:
            row, worst = i, error
    return row, total


@jit
def crosses(
    code, parameters, x, top, p, y, side, q, tail, limit, enough, corner_rows, corner_cols, bounds, left, right, line,
    other, weights, work, used,
):  # fmt: skip
    """Cross approximation of the block with rows top .. top + p - 1 and columns side .. side + q - 1.

    left (limit p), right (limit q): flat, a row of p (q) numbers for each rank; the block is left^T right. It is
    believed when the last cross and `enough` rows that were not used are small (or all rows are). Where clusters touch,
    the corner of the block (see `structmat.flat.corners`) is looked at before that.
    Returns the rank, or TOO_FEW where `limit` crosses were not enough, NOT_FINITE where a square overflows or is NaN.
    """
    for i in range(p):
        used[i] = False
    picked = np.zeros(q, dtype=np.bool_)
    rank, trials, state, row = 0, 0, (top * 31 + side * 17 + 7) % 2147483648, p // 2
    smallest, rows_left, forced = min(p, q), p, False
    while rank < smallest:
        kernel_row(code, parameters, x, top + row, y, side, q, line, work)
        for a in range(rank):
            weights[a] = left[a * p + row]
        take_off(right, rank, q, weights, line)
        used[row] = True
        norm = squared(line, q)
        if not norm <= LARGEST:
            return NOT_FINITE
        # as if all rows were as bad as this one; a row that was found to be bad is taken in any case
        if not forced and norm * p <= CROSS_SHARE * CROSS_SHARE * tail * tail:
            trials += 1
            rows_left -= 1
        else:
            column = largest(line, q, picked)
            if rank == limit:
                return TOO_FEW
            if column < 0 or line[column] == 0.0:
                break
            picked[column] = True
            scale = 1.0 / line[column]
            kernel_column(code, parameters, y, side + column, x, top, p, other, work)
            for a in range(rank):
                weights[a] = right[a * q + column]
            take_off(left, rank, p, weights, other)
            for j in range(uint64(q)):
                right[rank * q + j] = line[j] * scale
            for i in range(uint64(p)):
                left[rank * p + i] = other[i]
            size = np.sqrt(squared(other, p) * norm) * abs(scale)
            if not size <= LARGEST:
                return NOT_FINITE
            rank, rows_left = rank + 1, rows_left - 1
            trials = trials + 1 if size <= CROSS_SHARE * tail else 0
        forced = False
        if rows_left == 0:
            break
        if trials == 0:
            row = largest(other, p, used)
        elif trials <= enough:
            row, state = unused_row(used, p, state)
        else:
            row, corner_error = worst_row(
                code, parameters, x, top, p, y, side, q, left, right, rank, corner_rows, corner_cols, bounds, used,
                other, work,
            )  # fmt: skip
            if row < 0 or corner_error <= CROSS_SHARE * CROSS_SHARE * tail * tail:
                break
            forced = True
    return rank


@jit
def orthonormalize(rows, known, k, n, triangle):
    """Gram-Schmidt of k flat rows of length n: rows = triangle^T q, triangle (k, k) upper; q in place.

    The first `known` rows are orthogonal to each other already. Of those before it, a row is projected on two at a
    time: half the traffic, and as these are orthogonal, as good as one by one.
    """
    for a in range(k):
        at = uint64(a * n)
        others = a if a >= known else 0
        for b in range(a):
            triangle[b, a] = 0.0
        for pair in range(others // 2):
            b = 2 * pair
            one, two = uint64(b * n), uint64((b + 1) * n)
            s, t = rows.dtype.type(0), rows.dtype.type(0)
            for j in range(uint64(n)):
                x = rows[at + j]
                s += np.conj(rows[one + j]) * x
                t += np.conj(rows[two + j]) * x
            triangle[b, a], triangle[b + 1, a] = s, t
            for j in range(uint64(n)):
                rows[at + j] -= s * rows[one + j] + t * rows[two + j]
        if others % 2:
            below, s = uint64((others - 1) * n), rows.dtype.type(0)
            for j in range(uint64(n)):
                s += np.conj(rows[below + j]) * rows[at + j]
            triangle[others - 1, a] = s
            for j in range(uint64(n)):
                rows[at + j] -= s * rows[below + j]
        size = np.sqrt(squared(rows[at : at + n], n))
        triangle[a, a] = size
        for b in range(a + 1, k):
            triangle[b, a] = 0.0
        if size > 0.0:
            scale = 1.0 / size
            for j in range(uint64(n)):
                rows[at + j] *= scale


@jit
def padded(k):
    """The width of `k` numbers in whole vectors: loops over rows of this width have no remainder."""
    return (k + 7) // 8 * 8


@jit
def diagonalize(rows, k, width, sizes):
    """One-sided Jacobi: a unitary matrix that makes the rows of a core orthogonal, in place.

    rows: flat (k, 2 width), of the core (k, k) and of the unitary matrix, each padded with zeros to `width`;
    sizes (k,): squared norms of the core's rows, kept up to date through a sweep.
    """
    width = uint64(width)
    for _ in range(SWEEPS):
        rotated = False
        for a in range(k):
            at = uint64(a) * uint64(2) * width
            sizes[a] = squared(rows[at : at + width], width)
        for a in range(k):
            one = uint64(a) * uint64(2) * width
            for b in range(a + 1, k):
                two = uint64(b) * uint64(2) * width
                aa, bb, ab = sizes[a], sizes[b], rows.dtype.type(0)
                for j in range(width):
                    ab += rows[one + j] * np.conj(rows[two + j])
                size = abs(ab)
                if size <= 1e-15 * np.sqrt(aa * max(bb, 0.0)) or size == 0.0:
                    continue
                rotated = True
                phase = ab / size  # by which row b is multiplied, so that its product with row a is positive
                zeta = (bb - aa) / (2.0 * size)
                t = 1.0 / (abs(zeta) + np.sqrt(1.0 + zeta * zeta))
                if zeta < 0.0:
                    t = -t
                c = 1.0 / np.sqrt(1.0 + t * t)
                s = c * t
                sizes[a], sizes[b] = aa - t * size, bb + t * size
                for j in range(uint64(2) * width):
                    u, v = rows[one + j], phase * rows[two + j]
                    rows[one + j], rows[two + j] = c * u - s * v, s * u + c * v
        if not rotated:
            break


@jit
def recompress(left, right, k, p, q, allowed, out, start, rows, first, second, sizes, order):
    """Truncate left^T conj(right) (k flat rows of p and of q numbers) by its singular values; the rank.

    The Frobenius norm of what is left out is at most `allowed`. The factors are written to out[start:], left^T (r, p)
    with orthonormal rows, then right^T (r, q), whose rows are as long as the singular values; sizes[order] are their
    squares. rows: room for 2 k padded(k) numbers.
    """
    orthonormalize(left, 0, k, p, first)
    orthonormalize(right, 0, k, q, second)
    width = padded(k)
    rows[: 2 * k * width] = 0.0
    for a in range(k):
        rows[(2 * a + 1) * width + a] = 1.0
        for b in range(k):
            s = rows.dtype.type(0)
            for c in range(max(a, b), k):
                s += first[a, c] * np.conj(second[b, c])
            rows[2 * a * width + b] = s
    diagonalize(rows, k, width, sizes)
    for a in range(k):
        at = 2 * a * width
        sizes[a] = squared(rows[at : at + width], width)
        order[a] = a
    for a in range(1, k):  # by falling singular values
        here, b = order[a], a
        while b > 0 and sizes[order[b - 1]] < sizes[here]:
            order[b] = order[b - 1]
            b -= 1
        order[b] = here
    rank, rest = k, 0.0
    while rank > 0 and rest + sizes[order[rank - 1]] <= allowed * allowed:
        rest += sizes[order[rank - 1]]
        rank -= 1
    for j in range(uint64(start), uint64(start + rank * (p + q))):
        out[j] = 0.0
    for r in range(rank):
        at = 2 * order[r] * width
        for j in range(at, at + 2 * width):
            rows[j] = np.conj(rows[j])
        columns_times(left, uint64(0), uint64(k), uint64(p), rows, uint64(at + width), out, uint64(start + r * p))
        columns_times(right, uint64(0), uint64(k), uint64(q), rows, uint64(at), out, uint64(start + rank * p + r * q))
    return rank


@jit
def compress_blocks(
    code, parameters, x, y, blocks, tails, limit, enough, corner_rows, corner_cols, bounds, row_bounds, col_bounds,
    size, width, out, cursor, ranks, starts, first, last,
):  # fmt: skip
    """Cross approximations of blocks[first:last] (nb, 4): first row, rows, first column, columns.

    enough: see `crosses`. corner_rows, corner_cols, bounds (nb, 4): see `structmat.flat.corners`. row_bounds,
    col_bounds: first positions of the leaves, and the number of positions; size, width: padded sizes of the leaves.

    Factors are written to `out` in the padded layout of the flat pass, wherever `cursor` (see `taken`) has room; ranks
    and starts (nb,) say what and where. Negative ranks: see `crosses`.
    """
    p_max, q_max = 1, 1
    for b in range(first, last):
        p_max, q_max = max(p_max, blocks[b, 1]), max(q_max, blocks[b, 3])
    longest = max(p_max, q_max)
    left, right = np.empty(limit * p_max), np.empty(limit * q_max)
    line, other, work = np.empty(longest), np.empty(longest), np.empty(2 * longest)
    weights, sizes, used = np.empty(limit), np.empty(limit), np.empty(p_max, dtype=np.bool_)
    core, one, two = np.empty(2 * limit * padded(limit)), np.empty((limit, limit)), np.empty((limit, limit))
    order, factors = np.empty(limit, dtype=np.int64), np.empty(limit * (p_max + q_max))
    for b in range(first, last):
        top, p, side, q = blocks[b]
        k = crosses(
            code, parameters, x, top, p, y, side, q, tails[b], limit, enough, corner_rows, corner_cols, bounds[b], left,
            right, line, other, weights, work, used,
        )  # fmt: skip
        ranks[b] = k
        if k < 0:
            continue
        rank = recompress(left, right, k, p, q, CUT_SHARE * tails[b], factors, 0, core, one, two, sizes, order)
        ranks[b] = rank
        tall, wide = padded_length(row_bounds, top, p, size), padded_length(col_bounds, side, q, width)
        at = taken(cursor, rank * (tall + wide))
        starts[b] = at
        place_side(factors, 0, rank, top, p, row_bounds, size, out, at)
        place_side(factors, rank * p, rank, side, q, col_bounds, width, out, at + rank * tall)


@jit
def padded_length(bounds, position, count, size):
    """The length of `count` positions when leaves are padded to `size`."""
    leaf = np.searchsorted(bounds, position, side="right") - 1
    return (np.searchsorted(bounds, position + count) - leaf) * size


@jit
def place_side(arena, start, k, position, count, bounds, size, out, target):
    """One factor, k rows of `count` numbers, to k rows of padded leaves."""
    leaf = np.searchsorted(bounds, position, side="right") - 1
    stop = np.searchsorted(bounds, position + count)
    length = (stop - leaf) * size
    for r in range(k):
        source = start + r * count
        to = target + r * length
        for t in range(leaf, stop):
            n = bounds[t + 1] - bounds[t]
            for j in range(uint64(n)):
                out[to + j] = arena[source + j]
            for j in range(uint64(n), uint64(size)):
                out[to + j] = 0.0
            source += n
            to += size


@jit
def place_blocks(factors, starts, have, keep, p, q, targets, mirrored, out, first, last):
    """Copy the first `keep` of `have` ranks of each block to `targets` of `out`, and transposed to `mirrored` (-1: no).

    Blocks are left^T (have, p), then right^T (have, q), from `starts` (nb,) on.
    """
    for b in range(first, last):
        tall, wide = uint64(keep[b] * p), uint64(keep[b] * q)
        one, two = uint64(starts[b]), uint64(starts[b] + have[b] * p)
        left = uint64(targets[b])
        right = left + tall
        for j in range(tall):
            out[left + j] = factors[one + j]
        for j in range(wide):
            out[right + j] = factors[two + j]
        if mirrored[b] >= 0:
            turned = uint64(mirrored[b])
            for j in range(wide):
                out[turned + j] = factors[two + j]
            turned += wide
            for j in range(tall):
                out[turned + j] = factors[one + j]


@jit
def mirror_blocks(blocks, source, target, out, first, last):
    """out[target[b]] = blocks[source[b]]^T for dense blocks."""
    p, q = blocks.shape[1:]
    for b in range(first, last):
        block, turned = blocks[source[b]], out[target[b]]
        for i in range(p):
            for j in range(q):
                turned[j, i] = block[i, j]
