"""H2 from a sparse matrix, exactly: unit vectors are a nested basis.

As for HSS (see `hss.from_sparse`): a row of a node counts if it has a nonzero in a coupling of the node or of an
ancestor, long lines are kept as a low-rank matrix. Entries of dense blocks cost nothing beyond them. Cost
O(nnz + n k^2) with k the number of rows and columns of a node that count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..flat.leaves import block_keys, find_keys
from ..hss.from_sparse import Entries, UnitVectors, exchange, leaf_of_positions, taken_out
from ..partition import BlockPartition
from ..tree import ClusterTree
from .arithmetic import add, low_rank
from .blocks import H2Blocks
from .ragged import Ragged


def sparse_blocks(s: Any, partition: BlockPartition, *, half: bool) -> H2Blocks:
    """The blocks of a sparse matrix in coordinate form (duplicates summed), without truncation."""
    row_tree, col_tree = partition.row_tree, partition.col_tree
    entries = Entries(row_tree.inverse_perm[s.row], col_tree.inverse_perm[s.col], s.data)

    def levels_of(some: Entries, rows: ClusterTree, cols: ClusterTree) -> IntArray:
        return _block_levels(some, partition)

    lines, kept = taken_out(entries, row_tree, col_tree, half, levels_of)
    stored = partition.lower() if half else partition
    blocks = _unit_blocks(kept, _block_levels(kept, partition), stored, half)
    return blocks if lines is None else add(blocks, _line_blocks(*lines, stored, half))


def _block_levels(entries: Entries, partition: BlockPartition) -> IntArray:
    """For each nonzero the level of the coupling that it is in; depth + 1 in a dense block."""
    depth = partition.depth
    rows = leaf_of_positions(partition.row_tree)[entries.rows]
    cols = leaf_of_positions(partition.col_tree)[entries.cols]
    levels = np.full(len(rows), depth + 1)
    for level in range(1, depth + 1):
        shift, far = depth - level, partition.far[level]
        inside = np.isin(block_keys(level, rows >> shift, cols >> shift), block_keys(level, far[:, 0], far[:, 1]))
        levels[inside] = level
    return levels


def _unit_blocks(entries: Entries, levels: IntArray, stored: BlockPartition, half: bool) -> H2Blocks:
    depth, dtype = stored.depth, entries.values.dtype
    rows = UnitVectors(stored.row_tree, entries.rows, levels)
    cols = rows if half else UnitVectors(stored.col_tree, entries.cols, levels)
    couplings = []
    for level in range(1, depth + 1):
        places = stored.far[level]
        here, block = _located(entries.where(levels == level), places, stored, level)
        heights, widths = rows.counts[level - 1][places[:, 0]], cols.counts[level - 1][places[:, 1]]
        out = Ragged.zeros(heights, widths, entries.values)
        i, j = rows.place(level, here.rows), cols.place(level, here.cols)
        out.data[out.starts[block] + i * widths[block] + j] = here.values
        couplings.append(RaggedBatch(out.data, places[:, 0].copy(), places[:, 1].copy(), heights, widths))
    basis = RaggedBasis.of(rows.basis(dtype))
    near = _near(entries.where(levels == depth + 1), stored)
    return H2Blocks(near, tuple(couplings), basis, basis if half else RaggedBasis.of(cols.basis(dtype)), half)


def _near(entries: Entries, stored: BlockPartition) -> BlockBatch:
    depth, places = stored.depth, stored.near[stored.depth]
    trees = stored.row_tree, stored.col_tree
    here, block = _located(entries, places, stored, depth)
    data = np.zeros((len(places), *(t.leaf_size for t in trees)), dtype=entries.values.dtype)
    i, j = (
        position - t.starts(depth)[leaf_of_positions(t)[position]]
        for t, position in zip(trees, (here.rows, here.cols), strict=True)
    )
    data[block, i, j] = here.values
    return BlockBatch(data, places[:, 0].copy(), places[:, 1].copy())


def _located(entries: Entries, places: IntArray, stored: BlockPartition, level: int) -> tuple[Entries, IntArray]:
    """The nonzeros that lie in stored blocks of a level, and the block of each; `places` are sorted."""
    shift = stored.depth - level
    rows = leaf_of_positions(stored.row_tree)[entries.rows] >> shift
    cols = leaf_of_positions(stored.col_tree)[entries.cols] >> shift
    at = find_keys(block_keys(level, places[:, 0], places[:, 1]), block_keys(level, rows, cols))
    return entries.where(at >= 0), at[at >= 0]


def _line_blocks(left: NumpyArray, right: NumpyArray, stored: BlockPartition, half: bool) -> H2Blocks:
    blocks = low_rank(left, right, stored, half=half)
    if not half:
        return blocks
    middle = exchange(left.shape[2], left.dtype).ravel()
    couplings = tuple(replace(b, data=np.tile(middle, len(b))) for b in blocks.couplings)
    return replace(blocks, couplings=couplings)
