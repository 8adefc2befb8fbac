"""Compiled kernels for the CPU: the kernel functions of `structmat.kernelfunctions`, evaluated row by row.

Logarithms and exponentials are computed here, so that the loops over a row are vectorised: the mathematical library's
own functions would be called number by number. The relative error of a logarithm is below two units in the last place;
that of exp(x) is what a rounding of x makes of it, |x| eps.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit

LOGARITHM, RECIPROCAL, GAUSSIAN, MATERN1, MATERN3, MATERN5, MULTIQUADRIC, INVERSE_MULTIQUADRIC, CAUCHY = range(9)

LN2 = 0.6931471805599453
ROOT_HALF_BITS = 0x3FE6A09E667F3BCD  # of sqrt(1/2): mantissas are taken from sqrt(1/2) to sqrt(2)


@jit
def logarithms(values, n):
    """Replace positive normal numbers values[:n] by their natural logarithms.

    log(2^e m) = e log 2 + 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.1716, by its series.
    """
    for j in range(uint64(n)):
        raw = np.float64(values[j]).view(np.int64)
        exponent = (raw - ROOT_HALF_BITS) >> 52
        m = np.int64(raw - (exponent << 52)).view(np.float64)
        s = (m - 1.0) / (m + 1.0)
        z = s * s
        t = 1.0 / 21.0
        t = t * z + 1.0 / 19.0
        t = t * z + 1.0 / 17.0
        t = t * z + 1.0 / 15.0
        t = t * z + 1.0 / 13.0
        t = t * z + 1.0 / 11.0
        t = t * z + 1.0 / 9.0
        t = t * z + 1.0 / 7.0
        t = t * z + 1.0 / 5.0
        t = t * z + 1.0 / 3.0
        values[j] = exponent * LN2 + 2.0 * (s + s * z * t)


@jit
def exponentials(values, n):
    """Replace values[:n] <= 0 by their exponentials (0 below -708).

    exp(k log 2 + r) = 2^k exp(r), |r| < 0.3466, by its series.
    """
    for j in range(uint64(n)):
        x = max(values[j], -708.0)
        k = np.floor(x * (1.0 / LN2) + 0.5)
        r = x - k * LN2
        t = 1.0 / 6227020800.0
        t = t * r + 1.0 / 479001600.0
        t = t * r + 1.0 / 39916800.0
        t = t * r + 1.0 / 3628800.0
        t = t * r + 1.0 / 362880.0
        t = t * r + 1.0 / 40320.0
        t = t * r + 1.0 / 5040.0
        t = t * r + 1.0 / 720.0
        t = t * r + 1.0 / 120.0
        t = t * r + 1.0 / 24.0
        t = t * r + 1.0 / 6.0
        t = t * r + 0.5
        t = t * r + 1.0
        t = t * r + 1.0
        power = np.int64((np.int64(k) + 1023) << 52).view(np.float64)
        values[j] = 0.0 if values[j] < -708.0 else t * power


@jit
def kernel_row(code, parameters, x, i, y, start, n, out, work):
    """Out[:n] = kernel(x_i, y_start .. y_{start + n - 1}); coordinates x (d, m) and y (d, m') by rows.

    parameters: scale, value at distance zero, whether (1) that value replaces the kernel's own, and a factor of
    everything; work (2 n,) is scratch.
    """
    first, count = uint64(start), uint64(n)
    centre = x[0, i]
    for j in range(count):
        t = y[0, first + j] - centre
        out[j] = t * t
    for axis in range(1, x.shape[0]):
        centre = x[axis, i]
        for j in range(count):
            t = y[axis, first + j] - centre
            out[j] += t * t
    replaced = False
    if parameters[2] != 0.0:
        zeros = 0
        for j in range(count):
            zeros += out[j] == 0.0
        replaced = zeros > 0
        if replaced:
            for j in range(count):
                work[j] = 1.0 if out[j] == 0.0 else 0.0
                out[j] += work[j]
    of_squares(code, parameters[0], out, count, work, replaced)
    if replaced:
        value = parameters[1]
        for j in range(count):
            out[j] = value if work[j] == 1.0 else out[j]
    factor = parameters[3]
    if factor != 1.0:
        for j in range(count):
            out[j] *= factor


@jit
def of_squares(code, scale, out, count, work, keep):
    """Replace squared distances out[:count] by kernel values; `work` is scratch from its middle on where `keep`."""
    half = uint64(len(work) // 2) if keep else uint64(0)
    if code == LOGARITHM:
        logarithms(out, count)
        for j in range(count):
            out[j] *= -0.5
    elif code == RECIPROCAL:
        for j in range(count):
            out[j] = 1.0 / np.sqrt(out[j])
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
            out[j] = 1.0 / np.sqrt(1.0 + scale * out[j])
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
    line, work = np.empty(width), np.empty(2 * width)
    for b in range(first, last):
        block = out[where[b]]
        for s in range(p // size):
            top = row_bounds[rows[b] + s]
            height = row_bounds[rows[b] + s + 1] - top
            for t in range(q // width):
                side = col_bounds[cols[b] + t]
                n = col_bounds[cols[b] + t + 1] - side
                for i in range(height):
                    kernel_row(code, parameters, x, top + i, y, side, n, line, work)
                    row = block[s * size + i]
                    for j in range(uint64(n)):
                        row[t * width + j] = line[j]
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
