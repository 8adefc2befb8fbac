"""Single entries and sub-blocks of matrices of independent blocks. An entry costs O(k + log(blocks))."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._backend import parallel_ranges
from .._typing import IntArray, NumpyArray
from ..engine import cpu_entries
from .storage import FlatStorage

if TYPE_CHECKING:
    from .matrix import FlatMatrix


def entry_values(a: FlatMatrix, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The entries A[rows[m], cols[m]]."""
    if a._adjointly:
        values = entry_values(a.H, cols, rows)
        return values.conj() if values.dtype.kind == "c" else values
    if a._conjugated:
        return entry_values(a.conj(), rows, cols).conj()
    storage = a._storage
    packed = storage.packed()
    row, col = a.row_tree.leaf_slots[rows], a.col_tree.leaf_slots[cols]
    block, mirrored = blocks_at(storage, row // storage.row_size, col // storage.col_size)
    values = np.empty(len(rows), dtype=a.dtype)
    if len(packed.buffer) == 0:  # a single block of rank 0
        values[:] = 0
        return values
    parallel_ranges(
        lambda first, last: cpu_entries.flat_entries(
            packed.buffer, packed.table, block, row, col, mirrored, values, first, last
        ),
        len(rows),
        serial=len(rows) < 1024,
    )
    return values


def blocks_at(storage: FlatStorage, row_leaf: IntArray, col_leaf: IntArray) -> tuple[IntArray, NumpyArray]:
    """The row in the packed table of the block that holds each pair of leaves, and whether it is the mirrored one."""
    mirrored = (row_leaf < col_leaf) if storage.blocks.half else np.zeros(len(row_leaf), dtype=bool)
    lower, upper = np.where(mirrored, col_leaf, row_leaf), np.where(mirrored, row_leaf, col_leaf)
    found = np.zeros(len(row_leaf), dtype=np.int64)
    for level, keys, blocks in storage.places:
        shift = storage.blocks.depth - level
        wanted = (lower >> shift << level) + (upper >> shift)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[at] == wanted
        found[hit] = blocks[at[hit]]
    return found, mirrored


def sub_block(a: FlatMatrix, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The dense block A[rows][:, cols]."""
    i, j = np.broadcast_arrays(rows[:, None], cols[None, :])
    return entry_values(a, i.ravel(), j.ravel()).reshape(len(rows), len(cols))
