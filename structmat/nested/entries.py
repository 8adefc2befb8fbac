"""Single entries and sub-blocks of a matrix with nested bases. An entry costs O(k^2 log n)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import adjoint, conj, is_numpy, namespace, numpy_dtype, parallel_ranges, take, to_numpy
from .._typing import Array, IntArray, NumpyArray
from ..blocks import NestedBasis
from ..engine import cpu_entries
from ..engine.routing import located, picked
from ..tree import ClusterTree

# sub-blocks with more entries than this are extracted by products with unit vectors
SINGLY = 1 << 14
# entries that are read at once on a device, each of which gathers a block of its own for every level
DEVICE_ENTRIES = 1 << 13


def entry_values(a: Any, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The entries A[rows[m], cols[m]]."""
    if a._adjointly:
        values = entry_values(a.H, cols, rows)
        return values.conj() if values.dtype.kind == "c" else values
    if a._conjugated:
        return entry_values(a.conj(), rows, cols).conj()
    storage = a._storage
    row_leaf, row_local = _in_leaves(a.row_tree, rows)
    col_leaf, col_local = _in_leaves(a.col_tree, cols)
    if not is_numpy(storage._example):
        values = np.zeros(len(rows), dtype=a.dtype)
        for k in range(0, len(rows), DEVICE_ENTRIES):
            part = slice(k, k + DEVICE_ENTRIES)
            places = (row_leaf[part], row_local[part]), (col_leaf[part], col_local[part])
            values[part] = _values_in_arrays(storage, *places)
        return values
    packed = storage.packed()
    blocks, level, mirrored = storage.blocks_of(row_leaf, col_leaf)
    shift, first_leaf = storage.depth - level, (1 << storage.depth) - 1
    nodes = [(1 << level) - 1 + (leaf >> shift) for leaf in (row_leaf, col_leaf)]
    values = np.empty(len(rows), dtype=a.dtype)
    parallel_ranges(
        lambda first, last: cpu_entries.nested_entries(
            packed.buffer, packed.row_table, packed.col_table, packed.orders, blocks, *nodes, first_leaf + row_leaf,
            row_local, first_leaf + col_leaf, col_local, mirrored, values, first, last,
        ),
        len(rows),
        serial=len(rows) < 256,
    )  # fmt: skip
    return values


def _values_in_arrays(storage: Any, row: tuple[IntArray, IntArray], col: tuple[IntArray, IntArray]) -> NumpyArray:
    """Entries in plain array operations: rows of the bases climb the tree until their nodes have a block.

    row, col: the leaf of each entry, and its place there.
    """
    parts, bases = storage._batched
    values = np.zeros(len(row[0]), dtype=numpy_dtype(storage._example))
    for near, couplings in parts:
        index, mirrored = located(near, storage.depth, row[0], col[0], half=storage.half)
        here = np.flatnonzero(index >= 0)
        values[here] += picked(near.data, index[here], row[1][here], col[1][here], mirrored[here])
        waiting = np.flatnonzero(index < 0)
        nodes = [place[0][waiting] for place in (row, col)]
        vectors = [_leaf_rows(b, place[0][waiting], place[1][waiting])
                   for b, place in zip(bases, (row, col), strict=True)] if storage.depth else []  # fmt: skip
        for level in range(storage.depth, 0, -1):
            batch = couplings[level - 1]
            index, mirrored = located(batch, level, *nodes, half=storage.half)
            for turned in (False, True):
                here = np.flatnonzero((index >= 0) & (mirrored == turned))
                if not len(here):
                    continue
                blocks = take(batch.data, index[here])
                u, v = (take(x, here) for x in vectors)
                values[waiting[here]] += _forms(u, adjoint(blocks) if turned else blocks, v)
            left = np.flatnonzero(index < 0)
            if level == 1 or not len(left):
                break
            waiting, nodes = waiting[left], [n[left] for n in nodes]
            vectors = [_climbed(take(x, left), b[level - 1], n) for x, b, n in zip(vectors, bases, nodes, strict=True)]
            nodes = [n >> 1 for n in nodes]
    return values


def _leaf_rows(basis: NestedBasis, leaf: IntArray, place: IntArray) -> Array:
    """Rows of the bases of the leaves, (m, k)."""
    leaves = basis[basis.depth]
    count, p, k = leaves.shape
    return take(namespace(leaves).reshape(leaves, (count * p, k)), leaf * p + place)


def climbed_rows(basis: NestedBasis, leaf: IntArray, place: IntArray, level: int) -> Array:
    """Rows of the bases of the ancestors of leaves on a level, from 1, at places in these leaves: (m, k)."""
    rows = _leaf_rows(basis, leaf, place)
    for below in range(basis.depth, level, -1):
        rows = _climbed(rows, basis[below - 1], leaf >> (basis.depth - below))
    return rows


def _climbed(rows: Array, transfers: Array, nodes: IntArray) -> Array:
    """Rows (m, k) of the bases of nodes as rows (m, k') of their parents' bases."""
    xp = namespace(rows)
    count, height, width = transfers.shape
    halves = xp.reshape(transfers, (2 * count, height // 2, width))
    return xp.matmul(xp.expand_dims(rows, axis=1), take(halves, nodes))[:, 0, :]


def _forms(u: Array, blocks: Array, v: Array) -> NumpyArray:
    """U B v^H for rows u (m, k), v (m, k') and blocks (m, k, k')."""
    xp = namespace(blocks)
    return to_numpy(xp.sum(xp.matmul(xp.expand_dims(u, axis=1), blocks)[:, 0, :] * conj(v), axis=1))


def _in_leaves(tree: ClusterTree, index: IntArray) -> tuple[IntArray, IntArray]:
    slots = tree.leaf_slots[index]
    return slots // tree.leaf_size, slots % tree.leaf_size


def sub_block(a: Any, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The dense block A[rows][:, cols]."""
    if len(rows) * len(cols) <= SINGLY:
        i, j = np.broadcast_arrays(rows[:, None], cols[None, :])
        return entry_values(a, i.ravel(), j.ravel()).reshape(len(rows), len(cols))
    return by_products(a, rows, cols)


def by_products(a: Any, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The dense block A[rows][:, cols], by products with unit vectors."""
    if len(rows) < len(cols):
        turned = by_products(a.H, cols, rows).T
        return turned.conj() if turned.dtype.kind == "c" else turned
    out = np.empty((len(rows), len(cols)), dtype=a.dtype)
    for k in range(0, len(cols), 256):
        part = cols[k : k + 256]
        unit = np.zeros((a.shape[1], len(part)), dtype=a.dtype)
        unit[part, np.arange(len(part))] = 1
        out[:, k : k + 256] = (a @ unit)[rows]
    return out
