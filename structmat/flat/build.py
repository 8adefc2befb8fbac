"""The blocks of a matrix from a source of entries: dense ones evaluated, admissible ones compressed level by level."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._typing import IntArray
from ..blocks import BlockBatch, LowRankBatch
from ..lowrank import Compressor
from ..partition import BlockPartition
from ..sources import DeviceKernelSource, EntrySource
from ..tree import ClusterTree
from .storage import by_rank, merged

CHUNK_NUMBERS = 1 << 22
# the norm of the admissible part is estimated from this many entries in each of some rows: one of each block, and
# more where a level has few blocks
NORM_ENTRIES, NORM_ROWS = 8, 256


def padded_indices(tree: ClusterTree, level: int) -> IntArray:
    """The user's indices of each node in padded coordinates, (2**level, p); -1 where a leaf is shorter."""
    positions = np.where(tree.leaf_positions < tree.n, tree.leaf_positions, -1)
    return positions.reshape(1 << level, -1)


def near_blocks(source: EntrySource, partition: BlockPartition) -> tuple[BlockBatch, ...]:
    """The dense blocks of all levels."""
    result = []
    for level, places in enumerate(partition.near):
        rows, cols = padded_indices(partition.row_tree, level), padded_indices(partition.col_tree, level)
        shape = (len(places), rows.shape[1], cols.shape[1])
        data = source.zeros(shape) if isinstance(source, DeviceKernelSource) else np.empty(shape, dtype=source.dtype)
        step = max(1, CHUNK_NUMBERS // (shape[1] * shape[2]))
        for k in range(0, len(places), step):
            part = places[k : k + step]
            data[k : k + len(part), ...] = source.blocks(rows[part[:, 0]], cols[part[:, 1]])
        result.append(BlockBatch(data, places[:, 0].copy(), places[:, 1].copy()))
    return tuple(result)


def block_tails(partition: BlockPartition, allowed: float) -> list[float]:
    """For each level the Frobenius error that a block may have, so that all together have at most `allowed`.

    A rank costs p + q numbers: the least storage comes from squared errors in proportion to that.
    """
    widths = [
        (partition.row_tree.leaf_size + partition.col_tree.leaf_size) << (partition.depth - level)
        for level in range(partition.depth + 1)
    ]
    total = sum(width * len(b) for width, b in zip(widths, partition.far, strict=True))
    return [allowed * np.sqrt(width / total) if total else 0.0 for width in widths]


def far_blocks(
    source: EntrySource, partition: BlockPartition, tails: list[float], *, max_rank: int | None, compressor: Compressor,
    rng: np.random.Generator, progress: Any, half: bool,
) -> tuple[tuple[tuple[LowRankBatch, ...], ...], float]:  # fmt: skip
    """The admissible blocks of all levels, each compressed to the tolerance of its level.

    Also the squared error of all, as the compressor knows it; with `half`, each block stands for its mirror image too.
    """
    result, square = [], 0.0
    for level, places in enumerate(partition.far):
        rows, cols = padded_indices(partition.row_tree, level), padded_indices(partition.col_tree, level)
        # chunks only for progress: a compressor looks after its own memory
        step = max(1, -(-len(places) // 16))
        batches: list[LowRankBatch] = []
        for k in range(0, len(places), step):
            part = places[k : k + step]
            found = compressor.compress(
                source, rows[part[:, 0]], cols[part[:, 1]], np.full(len(part), tails[level]), max_rank=max_rank, rng=rng
            )
            copies = np.where(part[:, 0] != part[:, 1], 2.0, 1.0) if half else 1.0
            square += float((copies * found.estimates.astype(np.float64) ** 2).sum())
            batches += by_rank(found.left, found.right, found.ranks, part[:, 0], part[:, 1])
            progress(len(part) / max(1, partition.far_count))
        result.append(merged(batches))
    return tuple(result), square


def squared_near_norm(near: tuple[BlockBatch, ...], half: bool) -> float:
    """The squared Frobenius norm of the dense blocks."""
    from .norms import squared_norms

    total = 0.0
    for batch in near:
        squares = squared_norms(batch)
        total += float((squares * np.where((batch.rows != batch.cols) & half, 2.0, 1.0)).sum())
    return total


def estimated_norm(
    source: EntrySource, partition: BlockPartition, squared_near: float, rng: np.random.Generator, half: bool
) -> float:
    """The Frobenius norm: of the dense blocks its square is known, of others it is estimated from some entries."""
    total = squared_near
    for level, places in enumerate(partition.far):
        if not len(places):
            continue
        each = -(-NORM_ROWS // len(places))
        picked = np.repeat(places, each, axis=0)
        trees = (partition.row_tree, partition.col_tree)
        sizes = [t.sizes(level)[picked[:, k]] for k, t in enumerate(trees)]
        index = []
        for k, t in enumerate(trees):
            offset = (rng.random((len(picked), NORM_ENTRIES)) * sizes[k][:, None]).astype(np.int64)
            index.append(t.perm[t.starts(level)[picked[:, k]][:, None] + offset])
        i = np.broadcast_to(index[0][:, :1], index[1].shape)
        squares = (np.abs(source.pairs(i, index[1])) ** 2).mean(axis=1) * sizes[0] * sizes[1] / each
        total += float(squares.sum()) * (2.0 if half else 1.0)
    return float(np.sqrt(total))
