"""Compiled kernels for the CPU: one vector through the nested pass.

One product is bound by memory: each stored number is read once. The kernels release the GIL and work on one flat
buffer; a thread owns subtrees, so that there are two parallel regions a product, and the top levels are serial.

Indices are unsigned: with signed ones Numba inserts the wrap-around of negative indices, which keeps the loops from
being vectorised. The fast-math flags allow reordering of sums but keep NaN and Inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uint64

FAST = {"reassoc", "contract", "nsz", "arcp"}
TWO, FOUR, ONE, THREE = uint64(2), uint64(4), uint64(1), uint64(3)


def jit(function: Any) -> Any:
    """Compile a kernel with this package's options: relaxed order of sums, no GIL, IEEE division, cached on disk."""
    return njit(fastmath=FAST, nogil=True, cache=True, error_model="numpy")(function)


def inlined(function: Any) -> Any:
    """The same for a part of a kernel that is called for every few numbers: it becomes part of its callers."""
    return njit(fastmath=FAST, nogil=True, error_model="numpy", inline="always")(function)


@jit
def rows_times(buffer, start, rows, cols, x, x0, y, y0):
    """y[y0:] += M x[x0:], M row-major at `start`; two rows at a time."""
    zero = y.dtype.type(0)
    for _ in range(rows // TWO):
        a, b = zero, zero
        second = start + cols
        for j in range(cols):
            v = x[x0 + j]
            a += buffer[start + j] * v
            b += buffer[second + j] * v
        y[y0] += a
        y[y0 + ONE] += b
        start = second + cols
        y0 += TWO
    if rows % TWO:
        a = zero
        for j in range(cols):
            a += buffer[start + j] * x[x0 + j]
        y[y0] += a


@jit
def conjugated_rows_times(buffer, start, rows, cols, x, x0, y, y0):
    """y[y0:] += conj(M) x[x0:]."""
    zero = y.dtype.type(0)
    for _ in range(rows // TWO):
        a, b = zero, zero
        second = start + cols
        for j in range(cols):
            v = x[x0 + j]
            a += np.conj(buffer[start + j]) * v
            b += np.conj(buffer[second + j]) * v
        y[y0] += a
        y[y0 + ONE] += b
        start = second + cols
        y0 += TWO
    if rows % TWO:
        a = zero
        for j in range(cols):
            a += np.conj(buffer[start + j]) * x[x0 + j]
        y[y0] += a


@jit
def columns_times(buffer, start, rows, cols, x, x0, y, y0):
    """y[y0:] += M^T x[x0:], M row-major at `start`; four rows at a time."""
    for _ in range(rows // FOUR):
        a, b, c, d = x[x0], x[x0 + ONE], x[x0 + TWO], x[x0 + THREE]
        s1 = start + cols
        s2 = s1 + cols
        s3 = s2 + cols
        for j in range(cols):
            y[y0 + j] += (buffer[start + j] * a + buffer[s1 + j] * b) + (buffer[s2 + j] * c + buffer[s3 + j] * d)
        start = s3 + cols
        x0 += FOUR
    for _ in range(rows % FOUR):
        a = x[x0]
        for j in range(cols):
            y[y0 + j] += buffer[start + j] * a
        start += cols
        x0 += ONE


@jit
def conjugated_columns_times(buffer, start, rows, cols, x, x0, y, y0):
    """y[y0:] += M^H x[x0:]."""
    for _ in range(rows):
        a = x[x0]
        for j in range(cols):
            y[y0 + j] += np.conj(buffer[start + j]) * a
        start += cols
        x0 += ONE


@jit
def apply_list(buffer, pointers, entries, node, p, q, adjointly, x, x0, y, y0):
    """Add the blocks of one row of the block list to y[y0 + node p]; x holds the nodes of the level from x0 on."""
    for e in range(pointers[node], pointers[node + 1]):
        start = uint64(entries[e, 0])
        source = uint64(x0) + uint64(entries[e, 1]) * uint64(q)
        target = uint64(y0) + uint64(node) * uint64(p)
        if (entries[e, 2] != 0) != adjointly:
            conjugated_columns_times(buffer, start, uint64(q), uint64(p), x, source, y, target)
        else:
            rows_times(buffer, start, uint64(p), uint64(q), x, source, y, target)


@jit
def nested_up(buffer, basis, orders, places, x, coefficients, root, split, top, bottom):
    """Coefficients of the levels `bottom` .. `top` below node `root` of level `split`, from the leaves up.

    basis (depth + 1, 4): start in the buffer, p, k and start in `orders` (-1: a full basis) of each level; places
    (depth + 2,): where its coefficients begin.
    """
    depth = basis.shape[0] - 1
    work = np.empty(basis[:, 1].max(), dtype=x.dtype)
    for level in range(bottom, top - 1, -1):
        start, p, k, index = basis[level]
        for node in range(root << (level - split), (root + 1) << (level - split)):
            out = uint64(places[level] + node * k)
            for j in range(uint64(k)):
                coefficients[out + j] = 0
            if level == depth:
                below, at = x, uint64(node * p)
            else:
                below, at = coefficients, uint64(places[level + 1] + node * p)
            if index < 0:
                block = uint64(start + node * p * k)
                conjugated_rows_times(buffer, block, uint64(k), uint64(p), below, at, coefficients, out)
                continue
            order = uint64(index + node * p)
            for j in range(uint64(k)):
                coefficients[out + j] = below[at + uint64(orders[order + j])]
            for j in range(uint64(p - k)):
                work[j] = below[at + uint64(orders[order + uint64(k) + j])]
            block = uint64(start + node * (p - k) * k)
            conjugated_rows_times(buffer, block, uint64(k), uint64(p - k), work, uint64(0), coefficients, out)


@jit
def nested_down(
    buffer, basis, orders, other_widths, places, other_places, pointers, entries, adjointly,
    sources, coefficients, y, root, split, top, bottom,
):  # fmt: skip
    """Couplings of the levels `top` .. `bottom` below one node, then the target basis, added to children or leaves."""
    depth = basis.shape[0] - 1
    work = np.empty(basis[:, 1].max(), dtype=y.dtype)
    for level in range(top, bottom + 1):
        start, p, k, index = basis[level]
        offset = (1 << level) - 1
        for node in range(root << (level - split), (root + 1) << (level - split)):
            out = uint64(places[level] + node * k)
            apply_list(
                buffer, pointers[offset:], entries, node, k, other_widths[level], adjointly,
                sources, other_places[level], coefficients, places[level],
            )  # fmt: skip
            if level == depth:
                below, at = y, uint64(node * p)
            else:
                below, at = coefficients, uint64(places[level + 1] + node * p)
            if index < 0:
                block = uint64(start + node * p * k)
                columns_times(buffer, block, uint64(k), uint64(p), coefficients, out, below, at)
                continue
            order = uint64(index + node * p)
            for j in range(uint64(p - k)):
                work[j] = 0
            block = uint64(start + node * (p - k) * k)
            columns_times(buffer, block, uint64(k), uint64(p - k), coefficients, out, work, uint64(0))
            for j in range(uint64(k)):
                below[at + uint64(orders[order + j])] += coefficients[out + j]
            for j in range(uint64(p - k)):
                below[at + uint64(orders[order + uint64(k) + j])] += work[j]


@jit
def near_field(buffer, pointers, entries, adjointly, x, y, first, last, p, q):
    """Y = (near field) x for the leaves first .. last - 1."""
    for node in range(first, last):
        for j in range(uint64(node * p), uint64((node + 1) * p)):
            y[j] = 0
        apply_list(buffer, pointers, entries, node, p, q, adjointly, x, 0, y, 0)
