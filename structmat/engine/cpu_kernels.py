"""Compiled kernels for the CPU: the kernel functions of `structmat.kernelfunctions`, evaluated row by row.

Logarithms and exponentials are computed here, so that the loops over a row are vectorised: the mathematical library's
own functions would be called number by number. The relative error of a logarithm is below two units in the last place;
that of exp(x) is what a rounding of x makes of it, |x| eps. The polynomials are near-minimax ones, from Chebyshev
series of the exact functions in 40 digits. Squares of distances must be normal numbers: distances from 1e-150 to 1e150.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import inlined, jit
from .cpu_callback import call_pointwise, call_radial

(
    LOGARITHM, RECIPROCAL, GAUSSIAN, MATERN1, MATERN3, MATERN5, MULTIQUADRIC, INVERSE_MULTIQUADRIC, CAUCHY, YUKAWA,
    THIN_PLATE, RADIAL, POINTWISE,
) = range(13)  # fmt: skip

LN2 = 0.6931471805599453
ROOT_HALF_BITS = 0x3FE6A09E667F3BCD  # of sqrt(1/2): mantissas are taken from sqrt(1/2) to sqrt(2)
# bits of 1e-37 and 1e38: between them a number, and the square of the inverse of its root, are normal in float32
SINGLE_LOW, SINGLE_HIGH = 0x3841039D428A8B8F, 0x47D2CED32A16A1B1


@jit
def logarithms(values, n):
    """Replace positive normal numbers values[:n] by their natural logarithms.

    log(2^e m) = e log 2 + 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.1716.
    """
    for j in range(uint64(n)):
        raw = np.float64(values[j]).view(np.int64)
        exponent = (raw - ROOT_HALF_BITS) >> 52
        d = np.int64(raw - (exponent << 52)).view(np.float64) - 1.0
        s = d / (d + 2.0)
        z = s * s
        t = 0.07308224842521703
        t = t * z + 0.07665860800278021
        t = t * z + 0.09091444562630861
        t = t * z + 0.1111110556739754
        t = t * z + 0.14285714312987743
        t = t * z + 0.19999999999949752
        t = t * z + 0.3333333333333335
        s += s
        values[j] = exponent * LN2 + (s + s * (z * t))


@jit
def exponentials(values, n):
    """Replace values[:n] <= 0 by their exponentials (0 below -708).

    exp(k log 2 + r) = 2^k exp(r), |r| < 0.3466.
    """
    for j in range(uint64(n)):
        x = max(values[j], -708.0)
        k = np.floor(x * (1.0 / LN2) + 0.5)
        r = x - k * LN2
        t = 2.510038549551032e-08
        t = t * r + 2.7620088445409746e-07
        t = t * r + 2.7557268459997064e-06
        t = t * r + 2.4801521295954376e-05
        t = t * r + 0.00019841269863053618
        t = t * r + 0.0013888888917213717
        t = t * r + 0.008333333333330062
        t = t * r + 0.04166666666662413
        t = t * r + 0.16666666666666669
        t = t * r + 0.5
        t = t * r + 1.0
        t = t * r + 1.0
        power = np.int64((np.int64(k) + 1023) << 52).view(np.float64)
        values[j] = 0.0 if values[j] < -708.0 else t * power


@jit
def reciprocal_roots(values, n):
    """Replace positive normal numbers values[:n] by 1 / sqrt, to one unit in the last place.

    A root in float32, then one step of third order in float64. A row with a number that float32 cannot hold takes the
    division instead.
    """
    outside = 0
    for j in range(uint64(n)):
        bits = np.float64(values[j]).view(np.int64)
        outside += 0 if SINGLE_LOW <= bits <= SINGLE_HIGH else 1
    if outside > 0:
        for j in range(uint64(n)):
            values[j] = 1.0 / np.sqrt(values[j])
    else:
        for j in range(uint64(n)):
            v = values[j]
            root = np.float64(np.float32(1.0) / np.sqrt(np.float32(v)))
            error = 1.0 - v * root * root
            values[j] = root + root * error * (0.5 + 0.375 * error)


@jit
def kernel_row(code, parameters, x, i, y, start, n, out, work):
    """Out[:n] = kernel(x_i, y_start .. y_{start + n - 1}); coordinates x (d, m) and y (d, m') by rows.

    parameters: scale, value at distance zero, whether (1) that value replaces the kernel's own, and a factor of
    everything; work (2 n,) is scratch. For the codes RADIAL and POINTWISE the scale is the address of a row of
    `cpu_callback`, which float64 holds exactly.
    """
    kernel_line(code, parameters, x, i, y, start, n, uint64(0), out, work)


@jit
def kernel_column(code, parameters, y, j, x, start, n, out, work):
    """Out[:n] = kernel(x_start .. x_{start + n - 1}, y_j), which differs from a row for nonsymmetric kernels."""
    kernel_line(code, parameters, y, j, x, start, n, uint64(1), out, work)


# so many numbers are evaluated at a time, about
TILE = 1024


@jit
def kernel_rows(code, parameters, x, i, rows, y, start, n, out, work):
    """As `kernel_row` for the rows i .. i + rows - 1, one after the other in out[: rows n]; work (2 rows n,).

    Several rows at a time cost less than each alone where they are short.
    """
    first, count = uint64(start), uint64(n)
    if code == POINTWISE:
        for r in range(rows):
            kernel_row(code, parameters, x, i + r, y, start, n, out[r * n : (r + 1) * n], work)
        return
    zeros = 0
    for r in range(rows):
        zeros += squared_distances(x, i + r, y, first, count, out, uint64(r) * count)
    total = uint64(rows) * count
    replaced = coincident_points_moved(parameters, zeros, out, total, work)
    of_squares(code, parameters[0], out, total, work, replaced)
    own_values(parameters, replaced, out, total, work)


@inlined
def squared_distances(x, i, y, first, count, out, at):
    """Out[at : at + count] = |x_i - y_first ..|^2, in one sweep for up to three coordinates; how many are zero."""
    d, zeros = x.shape[0], 0
    if d == 2:
        a, b = x[0, i], x[1, i]
        for j in range(count):
            s, t = y[0, first + j] - a, y[1, first + j] - b
            square = s * s + t * t
            out[at + j] = square
            zeros += square == 0.0
    elif d == 3:
        a, b, c = x[0, i], x[1, i], x[2, i]
        for j in range(count):
            s, t, u = y[0, first + j] - a, y[1, first + j] - b, y[2, first + j] - c
            square = s * s + t * t + u * u
            out[at + j] = square
            zeros += square == 0.0
    else:
        for j in range(count):
            out[at + j] = 0.0
        for axis in range(d):
            a = x[axis, i]
            for j in range(count):
                t = y[axis, first + j] - a
                out[at + j] += t * t
        for j in range(count):
            zeros += out[at + j] == 0.0
    return zeros


@inlined
def coincident_points_moved(parameters, zeros, out, count, work):
    """Squared distances of zero become 1, work says where; whether a value at distance zero replaces the kernel's."""
    replaced = zeros > 0 and parameters[2] != 0.0
    if replaced:
        for j in range(count):
            work[j] = 1.0 if out[j] == 0.0 else 0.0
            out[j] += work[j]
    return replaced


@inlined
def own_values(parameters, replaced, out, count, work):
    """The value at distance zero, and the factor of everything."""
    if replaced:
        value = parameters[1]
        for j in range(count):
            out[j] = value if work[j] == 1.0 else out[j]
    factor = parameters[3]
    if factor != 1.0:
        for j in range(count):
            out[j] *= factor


@inlined
def kernel_line(code, parameters, x, i, y, start, n, turned, out, work):
    """A row, or where `turned` a column, of the values between one point x_i and many points y."""
    first, count = uint64(start), uint64(n)
    zeros = squared_distances(x, i, y, first, count, out, uint64(0))
    replaced = coincident_points_moved(parameters, zeros, out, count, work)
    if code == POINTWISE:
        call_pointwise(np.int64(parameters[0]), x, uint64(i), y, first, count, turned, out)
    else:
        of_squares(code, parameters[0], out, count, work, replaced)
    own_values(parameters, replaced, out, count, work)


@jit
def of_squares(code, scale, out, count, work, keep):
    """Replace squared distances out[:count] by kernel values; `work` is scratch from its middle on where `keep`."""
    half = uint64(len(work) // 2) if keep else uint64(0)
    if code == LOGARITHM:
        logarithms(out, count)
        for j in range(count):
            out[j] *= -0.5
    elif code == RECIPROCAL:
        reciprocal_roots(out, count)
    elif code == GAUSSIAN:
        for j in range(count):
            out[j] *= scale
        exponentials(out, count)
    elif MATERN1 <= code <= MATERN5:
        for j in range(count):
            s = scale * np.sqrt(out[j])
            work[half + j] = s
            out[j] = -s
        exponentials(out, count)
        if code == MATERN3:
            for j in range(count):
                out[j] *= 1.0 + work[half + j]
        elif code == MATERN5:
            for j in range(count):
                s = work[half + j]
                out[j] *= 1.0 + s * (1.0 + s * (1.0 / 3.0))
    elif code == MULTIQUADRIC:
        for j in range(count):
            out[j] = np.sqrt(1.0 + scale * out[j])
    elif code == INVERSE_MULTIQUADRIC:
        for j in range(count):
            out[j] = 1.0 + scale * out[j]
        reciprocal_roots(out, count)
    elif code == YUKAWA:
        for j in range(count):
            work[half + j] = out[j]
        reciprocal_roots(out, count)
        for j in range(count):
            inverse = out[j]
            out[j] = -scale * (work[half + j] * inverse)
            work[half + j] = inverse
        exponentials(out, count)
        for j in range(count):
            out[j] *= work[half + j]
    elif code == THIN_PLATE:
        for j in range(count):
            work[half + j] = 0.5 * out[j]
        logarithms(out, count)
        for j in range(count):
            out[j] *= work[half + j]
    elif code == RADIAL:
        for j in range(count):
            out[j] = np.sqrt(out[j])
        call_radial(np.int64(scale), out, count)
    else:
        for j in range(count):
            out[j] = 1.0 / (np.sqrt(out[j]) + scale)


@jit
def kernel_blocks(code, parameters, x, y, rows, cols, row_bounds, col_bounds, size, width, where, out, first, last):
    """Dense blocks out[where[first:last]] (nb, p, q), zero where leaves are padded to `size` (columns: to `width`).

    rows, cols: the first leaf of each block; row_bounds, col_bounds: first positions of the leaves, in the order of the
    coordinates x (d, m) and y (d, m'), and the number of positions.
    """
    p, q = out.shape[1:]
    room = max(TILE, width)
    line, work = np.empty(room), np.empty(2 * room)
    for b in range(first, last):
        block = out[where[b]]
        for s in range(p // size):
            top = row_bounds[rows[b] + s]
            height = row_bounds[rows[b] + s + 1] - top
            for t in range(q // width):
                side = col_bounds[cols[b] + t]
                n = col_bounds[cols[b] + t + 1] - side
                step = max(1, TILE // max(1, n))
                for i in range(0, height, step):
                    rows_here = min(step, height - i)
                    kernel_rows(code, parameters, x, top + i, rows_here, y, side, n, line, work)
                    for r in range(rows_here):
                        row, at = block[s * size + i + r], uint64(r * n)
                        for j in range(uint64(n)):
                            row[t * width + j] = line[at + j]
                        for j in range(n, width):
                            row[t * width + j] = 0.0
                for i in range(height, size):
                    for j in range(width):
                        block[s * size + i, t * width + j] = 0.0


@jit
def squared_norms(code, parameters, x, y, rows, cols, row_bounds, col_bounds, leaves, width, squares, first, last):
    """Squared Frobenius norms squares[first:last] of the blocks of `kernel_blocks`, which are not stored.

    leaves: how many leaves a side of a block has; width: the largest number of columns of a leaf.
    """
    line, work = np.empty(width), np.empty(2 * width)
    for b in range(first, last):
        total = 0.0
        for i in range(row_bounds[rows[b]], row_bounds[rows[b] + leaves]):
            for t in range(leaves):
                side = col_bounds[cols[b] + t]
                n = col_bounds[cols[b] + t + 1] - side
                kernel_row(code, parameters, x, i, y, side, n, line, work)
                for j in range(uint64(n)):
                    total += line[j] * line[j]
        squares[b] = total
