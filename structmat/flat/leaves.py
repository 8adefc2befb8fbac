"""Dense blocks above the leaves, taken apart into dense blocks of leaves and put together again; padding."""

from __future__ import annotations

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..partition import BlockPartition
from ..tree import ClusterTree
from .storage import FlatBlocks


def block_keys(level: int, rows: IntArray, cols: IntArray) -> IntArray:
    """One number for each block of a level: row * nodes + column."""
    return np.asarray((rows << level) + cols, dtype=np.int64)


def find_keys(keys: IntArray, wanted: IntArray) -> IntArray:
    """The position of each wanted key among the sorted ones, or -1."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def dense_at_leaves(blocks: FlatBlocks) -> FlatBlocks:
    """The same matrix with all dense blocks on the level of the leaves."""
    depth = blocks.depth
    if not any(len(b) for b in blocks.near[:-1]):
        return blocks
    parts = [_taken_apart(b, depth - level) for level, b in enumerate(blocks.near) if len(b)]
    data, rows, cols = (np.concatenate([getattr(b, name) for b in parts]) for name in ("data", "rows", "cols"))
    empty = tuple(BlockBatch(b.data[:0], b.rows[:0], b.cols[:0]) for b in blocks.near[:-1])
    return FlatBlocks((*empty, BlockBatch(data, rows, cols)), blocks.far, blocks.half)


def _taken_apart(batch: BlockBatch, steps: int) -> BlockBatch:
    count, (p, q), w = len(batch), batch.data.shape[1:], 1 << steps
    data = batch.data.reshape(count, w, p // w, w, q // w).swapaxes(2, 3).reshape(-1, p // w, q // w)
    places = _leaf_places(np.stack([batch.rows, batch.cols], axis=1), steps)
    return BlockBatch(data, places[:, 0], places[:, 1])


def _leaf_places(places: IntArray, steps: int) -> IntArray:
    """The pairs of descendants, `steps` levels further down, of pairs of nodes: row by row of each pair."""
    w = 1 << steps
    corner = np.stack(np.divmod(np.arange(w * w), w), axis=1)
    return (w * places[:, None, :] + corner).reshape(-1, 2)


def leaf_partition(partition: BlockPartition) -> tuple[BlockPartition, BlockPartition]:
    """The partition with dense blocks on the level of the leaves only, and the one that was given."""
    depth = partition.depth
    if not any(len(b) for b in partition.near[:-1]):
        return partition, partition
    near = [b[:0] for b in partition.near[:-1]]
    near.append(np.concatenate([_leaf_places(b, depth - level) for level, b in enumerate(partition.near)]))
    return BlockPartition(partition.row_tree, partition.col_tree, partition.far, tuple(near)), partition


def joined_near(leaves: BlockBatch, partition: BlockPartition, p: int, q: int) -> tuple[BlockBatch, ...]:
    """The dense blocks of each level of the partition from those of the leaves."""
    depth = partition.depth
    order = np.argsort(block_keys(depth, leaves.rows, leaves.cols))
    keys = block_keys(depth, leaves.rows, leaves.cols)[order]
    result = []
    for level, places in enumerate(partition.near):
        w = 1 << (depth - level)
        parts = _leaf_places(places, depth - level)
        found = order[find_keys(keys, block_keys(depth, parts[:, 0], parts[:, 1]))] if len(parts) else order[:0]
        data = leaves.data[found].reshape(len(places), w, w, p, q).swapaxes(2, 3).reshape(len(places), w * p, w * q)
        result.append(BlockBatch(data, places[:, 0].copy(), places[:, 1].copy()))
    return tuple(result)


def without_padding(blocks: FlatBlocks, row_tree: ClusterTree, col_tree: ClusterTree) -> FlatBlocks:
    """The blocks made zero where there is padding: orthogonal factors may have put rounding there."""
    if not (row_tree.is_padded or col_tree.is_padded):
        return blocks
    near, far = [], []
    for level, (dense, batches) in enumerate(zip(blocks.near, blocks.far, strict=True)):
        rows, cols = (_real(tree, level) for tree in (row_tree, col_tree))
        data = dense.data * rows[dense.rows][:, :, None] * cols[dense.cols][:, None, :] if len(dense) else dense.data
        near.append(BlockBatch(data, dense.rows, dense.cols))
        far.append(tuple(_masked(b, rows, cols) for b in batches))
    return FlatBlocks(tuple(near), tuple(far), blocks.half)


def _real(tree: ClusterTree, level: int) -> NumpyArray:
    """Which slots of each node are no padding, (2**level, size)."""
    return (tree.leaf_positions < tree.n).reshape(1 << level, -1)


def _masked(b: LowRankBatch, rows: NumpyArray, cols: NumpyArray) -> LowRankBatch:
    left, right = b.left * rows[b.rows][:, :, None], b.right * cols[b.cols][:, :, None]
    return LowRankBatch(left, right, b.rows, b.cols)
