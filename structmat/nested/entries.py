"""Single entries and sub-blocks of a matrix with nested bases. An entry costs O(k^2 log n)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import parallel_ranges
from .._typing import IntArray, NumpyArray
from ..engine import cpu_entries
from ..tree import ClusterTree

# sub-blocks with more entries than this are extracted by products with unit vectors
SINGLY = 1 << 14


def entry_values(a: Any, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The entries A[rows[m], cols[m]]."""
    a._require_on_host("reading of entries runs")
    if a._adjointly:
        values = entry_values(a.H, cols, rows)
        return values.conj() if values.dtype.kind == "c" else values
    if a._conjugated:
        return entry_values(a.conj(), rows, cols).conj()
    storage = a._storage
    packed = storage.packed()
    row_leaf, row_local = _in_leaves(a.row_tree, rows)
    col_leaf, col_local = _in_leaves(a.col_tree, cols)
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
