"""The same H2-matrix over a finer block partition of its trees, exactly.

A coupling of the nodes t and s is one for each pair of their children, E B F^H with the transfers E and F; between
leaves it may be written out, as U B V^H. Cost O(k^3) for each block that is divided.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..partition import BlockPartition
from .arithmetic import places
from .blocks import H2Blocks, chosen
from .ragged import level_of, transfers, transposed
from .truncate import sandwiched


def common_refinement(a: BlockPartition, b: BlockPartition) -> BlockPartition:
    """The coarsest partition in which each block lies in one of a and in one of b; dense where one of them is."""
    far = []
    for level in range(a.depth + 1):
        kept = [p.far[level][_covered(p.far[level], q, level)] for p, q in ((a, b), (b, a))]
        far.append(_places(np.union1d(*(_keys(k, level) for k in kept)), level))
    near = [np.zeros((0, 2), dtype=np.int64)] * a.depth
    near.append(_places(np.union1d(*(_keys(p.near[a.depth], a.depth) for p in (a, b))), a.depth))
    return BlockPartition(a.row_tree, a.col_tree, tuple(far), tuple(near))


def _covered(blocks: IntArray, other: BlockPartition, level: int) -> NumpyArray:
    """Which blocks of a level lie in admissible blocks of the other partition."""
    inside = np.zeros(len(blocks), dtype=bool)
    for above in range(level + 1):
        inside |= np.isin(_keys(blocks >> (level - above), above), _keys(other.far[above], above))
    return inside


def _keys(blocks: IntArray, level: int) -> IntArray:
    return (blocks[:, 0].astype(np.int64) << level) + blocks[:, 1]


def _places(keys: IntArray, level: int) -> IntArray:
    return np.stack([keys >> level, keys & ((1 << level) - 1)], axis=1)


def refined(blocks: H2Blocks, target: BlockPartition) -> H2Blocks:
    """The blocks over a refinement of their partition; of half storage `target` has the stored half."""
    row_basis = blocks.row_basis.full()
    col_basis = row_basis if blocks.half else blocks.col_basis.full()
    couplings, carried, near = [], None, blocks.near
    for level, own in enumerate(blocks.couplings, start=1):
        here = own if carried is None else _together(own, carried)
        stay = np.isin(places(here, level), _keys(target.far[level], level))
        couplings.append(chosen(here, np.flatnonzero(stay)))
        rest = chosen(here, np.flatnonzero(~stay))
        if level < blocks.depth:
            carried = _divided(rest, row_basis, col_basis, level, blocks.half)
        else:
            near = _with_written_out(near, rest, row_basis, col_basis)
    return H2Blocks(near, tuple(couplings), row_basis, col_basis, blocks.half)


def _together(a: RaggedBatch, b: RaggedBatch) -> RaggedBatch:
    names = ("data", "rows", "cols", "heights", "widths")
    return RaggedBatch(*(np.concatenate([getattr(a, name), getattr(b, name)]) for name in names))


def _divided(b: RaggedBatch, row_basis: RaggedBasis, col_basis: RaggedBasis, level: int, half: bool) -> RaggedBatch:
    """The couplings of the children of some blocks; of half storage those that are stored."""
    left = transposed(transfers(row_basis, level + 1))
    right = left if col_basis is row_basis else transposed(transfers(col_basis, level + 1))
    parts = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        child = replace(b, rows=2 * b.rows + i, cols=2 * b.cols + j)
        stored = np.flatnonzero((child.rows >= child.cols) | (not half))
        parts.append(sandwiched(chosen(child, stored), left, right))
    return _together(_together(parts[0], parts[1]), _together(parts[2], parts[3]))


def _with_written_out(near: BlockBatch, b: RaggedBatch, row_basis: RaggedBasis, col_basis: RaggedBasis) -> BlockBatch:
    """The near field with the couplings of leaves written out beside it."""
    depth = row_basis.depth
    left = transposed(level_of(row_basis, depth))
    right = left if col_basis is row_basis else transposed(level_of(col_basis, depth))
    data = sandwiched(b, left, right).data.reshape(-1, *near.data.shape[1:])
    rows, cols = np.append(near.rows, b.rows), np.append(near.cols, b.cols)
    return BlockBatch(np.concatenate([near.data, data]), rows, cols)
