"""Single entries and sub-blocks of matrices of independent blocks. An entry costs O(k + log(blocks))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._backend import parallel_ranges
from .._typing import IntArray, NumpyArray
from ..engine import cpu_entries
from .storage import Places

if TYPE_CHECKING:
    from .matrix import FlatMatrix


def entry_values(a: FlatMatrix, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The entries A[rows[m], cols[m]]."""
    a._require_on_host("reading of entries runs")
    if a._adjointly:
        values = entry_values(a.H, cols, rows)
        return values.conj() if values.dtype.kind == "c" else values
    if a._conjugated:
        return entry_values(a.conj(), rows, cols).conj()
    storage = a._storage
    row, col = a.row_tree.leaf_slots[rows], a.col_tree.leaf_slots[cols]
    row_leaf, col_leaf = row // storage.row_size, col // storage.col_size
    mirrored = (row_leaf < col_leaf) if storage.half else np.zeros(len(row), dtype=bool)
    leaves = np.where(mirrored, col_leaf, row_leaf), np.where(mirrored, row_leaf, col_leaf)
    values = np.zeros(len(rows), dtype=a.dtype)
    for packed, places in zip(storage.packed(), storage.places, strict=True):
        block = blocks_at(places, storage.depth, *leaves)

        def add(first: int, last: int, packed: Any = packed, block: IntArray = block) -> None:
            cpu_entries.flat_entries(packed.buffer, packed.table, block, row, col, mirrored, values, first, last)

        parallel_ranges(add, len(rows), serial=len(rows) < 1024)
    return values


def blocks_at(places: Places, depth: int, row_leaf: IntArray, col_leaf: IntArray) -> IntArray:
    """The row in the packed table of the block that holds each pair of leaves; -1 where there is none."""
    found = np.full(len(row_leaf), -1, dtype=np.int64)
    for level, keys, blocks in places:
        shift = depth - level
        wanted = (row_leaf >> shift << level) + (col_leaf >> shift)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[at] == wanted
        found[hit] = blocks[at[hit]]
    return found


def sub_block(a: FlatMatrix, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The dense block A[rows][:, cols]."""
    i, j = np.broadcast_arrays(rows[:, None], cols[None, :])
    return entry_values(a, i.ravel(), j.ravel()).reshape(len(rows), len(cols))
