"""The blocks of the matrix of a kernel where a device evaluates it: batched crosses, recompressed level by level."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import adjoint, like, namespace, numpy_dtype, real_dtype
from .._typing import IntArray
from ..blocks import LowRankBatch
from ..engine import dense
from ..lowrank import guard
from ..lowrank.aca import SMALL
from ..lowrank.batched_aca import find_crosses
from ..partition import BlockPartition
from ..sources import DeviceKernelSource
from .build import padded_indices
from .storage import merged
from .truncate import compress

# numbers that a piece of the blocks may take while it is compressed, and how many each row and column of a block takes:
# some dozen crosses, and the entries that check them
PIECE_NUMBERS, NUMBERS_EACH = 1 << 27, 160
# a rank that low-rank blocks have at least, for what is foreseen to be needed
FORESEEN_RANK = 4


def require_room_for(source: DeviceKernelSource, partition: BlockPartition) -> None:
    """Raise `DeviceMemoryError` where the dense blocks, and low-rank ones of a small rank, do not fit."""
    p, q, depth = partition.row_tree.leaf_size, partition.col_tree.leaf_size, partition.depth
    near = sum(len(places) * p * q << 2 * (depth - level) for level, places in enumerate(partition.near))
    far = sum(len(places) * (p + q) << (depth - level) for level, places in enumerate(partition.far))
    source.require_room(
        near + FORESEEN_RANK * far, "the matrix, with its dense blocks and low-rank ones of a small rank,",
        "build on the CPU, or with smaller leaves, in single precision or in the H2 format",
    )  # fmt: skip


def far_blocks(
    source: DeviceKernelSource, partition: BlockPartition, tails: list[float], *, max_rank: int | None,
    rng: np.random.Generator, progress: Any,
) -> tuple[tuple[LowRankBatch, ...], ...]:  # fmt: skip
    """The admissible blocks of all levels, each compressed to the tolerance of its level."""
    result = []
    for level, places in enumerate(partition.far):
        rows, cols = padded_indices(partition.row_tree, level), padded_indices(partition.col_tree, level)
        step = max(1, PIECE_NUMBERS // (NUMBERS_EACH * (rows.shape[1] + cols.shape[1])))
        batches: list[LowRankBatch] = []
        for k in range(0, len(places), step):
            part = places[k : k + step]
            batches += _compressed(source, rows, cols, part, tails[level], max_rank, rng)
            progress(len(part) / max(1, partition.far_count))
        result.append(merged(batches))
    return tuple(result)


def _compressed(
    source: DeviceKernelSource, rows: IntArray, cols: IntArray, places: IntArray, tail: float, max_rank: int | None,
    rng: np.random.Generator,
) -> tuple[LowRankBatch, ...]:  # fmt: skip
    """Some blocks of one level."""
    mine, its = rows[places[:, 0]], cols[places[:, 1]]
    small = min(mine.shape[1], its.shape[1]) <= SMALL
    found = [] if small else find_crosses(source, mine, its, tail, max_rank, rng)
    batches, square = [], 0.0
    whole = [np.arange(len(places))] if small else []
    for part in found:
        kept = np.flatnonzero(~part.failed)
        whole.append(part.index[part.failed])
        if len(kept):
            left, right = (namespace(f).take(f, like(kept, f), axis=0) for f in (part.left, part.right))
            where = places[part.index[kept]]
            batches.append(LowRankBatch(left, right, where[:, 0], where[:, 1]))
            square += float((guard.budget(np.full(len(kept), tail), part.estimates[kept]) ** 2).sum())
    for index in whole:
        step = max(1, PIECE_NUMBERS // (8 * mine.shape[1] * its.shape[1]))
        for piece in np.split(index, range(step, len(index), step)):
            if len(piece):
                batches.append(_exactly(source, mine[piece], its[piece], places[piece]))
                square += len(piece) * tail**2
    return compress(batches, float(np.sqrt(square)), max_rank=max_rank)[0]


def _exactly(source: DeviceKernelSource, rows: IntArray, cols: IntArray, places: IntArray) -> LowRankBatch:
    """Blocks that are evaluated in full, by their singular value decompositions."""
    left, values, right = dense.svd(source.blocks(rows, cols))
    scale = like(values[:, None, :].astype(real_dtype(numpy_dtype(left))), left)
    return LowRankBatch(left, adjoint(right) * scale, places[:, 0], places[:, 1])
