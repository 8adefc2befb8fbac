"""Compiled kernels for the CPU: one vector through the nested pass.

One product is bound by memory: each stored number is read once. The kernels release the GIL and work on one flat
buffer; a thread owns subtrees, so that there are two parallel regions a product, and the top levels are serial.

The numbers of a buffer may have half the precision of the vectors: they are widened as they are read.

Indices are unsigned: with signed ones Numba inserts the wrap-around of negative indices, which keeps the loops from
being vectorised. The fast-math flags allow reordering of sums but keep NaN and Inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

FAST = {"reassoc", "contract", "nsz", "arcp"}
TWO, FOUR, ONE, THREE = uint64(2), uint64(4), uint64(1), uint64(3)

compiled_inline: Any = intrinsic  # its type does not tell that the context is left out in calls


def jit(function: Any) -> Any:
    """Compile a kernel with this package's options: relaxed order of sums, no GIL, IEEE division, cached on disk."""
    return njit(fastmath=FAST, nogil=True, cache=True, error_model="numpy")(function)


def inlined(function: Any) -> Any:
    """The same for a part of a kernel that is called for every few numbers: it becomes part of its callers."""
    return njit(fastmath=FAST, nogil=True, error_model="numpy", inline="always")(function)


@compiled_inline
def taken(_context, cursor, count):
    """The old value of cursor[0], an int64 array (1,), to which `count` is added: atomically, for several threads."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = cgutils.gep(builder, array.data, 0)
        return builder.atomic_rmw("add", place, arguments[1], "monotonic")

    return types.int64(cursor, types.int64), generate


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
def apply_block(buffer, start, p, q, turned, x, source, y, target):
    """Add a stored block of the shape (p, q) of its action, or its adjoint where `turned`, times x to y."""
    if turned:
        conjugated_columns_times(buffer, uint64(start), uint64(q), uint64(p), x, uint64(source), y, uint64(target))
    else:
        rows_times(buffer, uint64(start), uint64(p), uint64(q), x, uint64(source), y, uint64(target))


@inlined
def blocks_of_node(
    buffer, k, other, other_places, pointers, entries, node, adjointly, sources, coefficients, out
):  # fmt: skip
    """Add what the blocks that act on a node of rank k contribute to its coefficients, which begin at `out`."""
    for e in range(pointers[node], pointers[node + 1]):
        block, source, mirrored = entries[e]
        apply_block(
            buffer, block, k, other[source, 2], (mirrored != 0) != adjointly, sources, other_places[source],
            coefficients, out,
        )  # fmt: skip


@jit
def nested_across(
    buffer, basis, places, other, other_places, pointers, entries, adjointly, sources, coefficients, root, split, top,
    bottom,
):  # fmt: skip
    """The couplings alone of the levels `top` .. `bottom` below one node, as in `nested_down`."""
    for level in range(top, bottom + 1):
        offset = (1 << level) - 1
        for node in range(offset + (root << (level - split)), offset + ((root + 1) << (level - split))):
            blocks_of_node(
                buffer, basis[node, 2], other, other_places, pointers, entries, node, adjointly, sources, coefficients,
                uint64(places[node]),
            )  # fmt: skip


@jit
def nested_up(buffer, basis, orders, places, x, coefficients, root, split, top, bottom, depth):
    """Coefficients of the levels `bottom` .. `top` below node `root` of level `split`, from the leaves up.

    Nodes are numbered level by level. basis (nodes, 4): start in the buffer, p, k and start in `orders` (-1: a full
    basis) of each; places (nodes + 1,): where its coefficients begin.
    """
    work = np.empty(basis[:, 1].max(), dtype=x.dtype)
    for level in range(bottom, top - 1, -1):
        offset = (1 << level) - 1
        for node in range(offset + (root << (level - split)), offset + ((root + 1) << (level - split))):
            start, p, k, index = basis[node]
            out = uint64(places[node])
            for j in range(uint64(k)):
                coefficients[out + j] = 0
            if level == depth:
                below, at = x, uint64((node - offset) * p)
            else:
                below, at = coefficients, uint64(places[2 * node + 1])
            if index < 0:
                conjugated_rows_times(buffer, uint64(start), uint64(k), uint64(p), below, at, coefficients, out)
                continue
            order = uint64(index)
            for j in range(uint64(k)):
                coefficients[out + j] = below[at + uint64(orders[order + j])]
            for j in range(uint64(p - k)):
                work[j] = below[at + uint64(orders[order + uint64(k) + j])]
            conjugated_rows_times(
                buffer, uint64(start), uint64(k), uint64(p - k), work, uint64(0), coefficients, out
            )  # fmt: skip


@jit
def nested_down(
    buffer, basis, orders, places, other, other_places, pointers, entries, adjointly, sources, coefficients, y, root,
    split, top, bottom, depth,
):  # fmt: skip
    """Couplings of the levels `top` .. `bottom` below one node, then the target basis, added to children or leaves.

    pointers (nodes + 1,), entries (blocks, 3): for each node the blocks that act on it, start in the buffer, other node
    (in the table `other`), and whether the block stands for its adjoint.
    """
    work = np.empty(basis[:, 1].max(), dtype=y.dtype)
    for level in range(top, bottom + 1):
        offset = (1 << level) - 1
        for node in range(offset + (root << (level - split)), offset + ((root + 1) << (level - split))):
            start, p, k, index = basis[node]
            out = uint64(places[node])
            blocks_of_node(
                buffer, k, other, other_places, pointers, entries, node, adjointly, sources, coefficients, out
            )
            if level == depth:
                below, at = y, uint64((node - offset) * p)
            else:
                below, at = coefficients, uint64(places[2 * node + 1])
            if index < 0:
                columns_times(buffer, uint64(start), uint64(k), uint64(p), coefficients, out, below, at)
                continue
            order = uint64(index)
            for j in range(uint64(p - k)):
                work[j] = 0
            columns_times(buffer, uint64(start), uint64(k), uint64(p - k), coefficients, out, work, uint64(0))
            for j in range(uint64(k)):
                below[at + uint64(orders[order + j])] += coefficients[out + j]
            for j in range(uint64(p - k)):
                below[at + uint64(orders[order + uint64(k) + j])] += work[j]


@jit
def near_field(buffer, pointers, entries, adjointly, x, y, first, last, p, q, fresh):
    """Y = (near field) x for the leaves first .. last - 1; where not `fresh`, it is added."""
    for node in range(first, last):
        if fresh:
            for j in range(uint64(node * p), uint64((node + 1) * p)):
                y[j] = 0
        for e in range(pointers[node], pointers[node + 1]):
            block, source, mirrored = entries[e]
            apply_block(buffer, block, p, q, (mirrored != 0) != adjointly, x, source * q, y, node * p)
