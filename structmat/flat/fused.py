"""Builds from kernel functions that have a compiled form: evaluation, cross approximation and recompression in one go.

Each block is approximated and recompressed while it is in the cache, and the factors are put once, where the flat pass
reads them. For a symmetric kernel on one set of points only the lower half is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._backend import parallel_ranges, parallel_tasks, thread_count
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine import cpu_fused, cpu_kernels
from ..exceptions import NonFiniteError
from ..partition import BlockPartition
from ..sources import KernelSource
from ..tree import ClusterTree
from .corners import Corners, corners, joined
from .storage import FlatBlocks

ARENA_NUMBERS = 1 << 20
# crosses that a block may take at first; where they do not suffice, it is begun again with more
FIRST_LIMIT = 48
TASKS_PER_THREAD = 16


@dataclass(frozen=True)
class CompiledSource:
    """What the compiled kernels need to know of a kernel and its points."""

    kernel: Any  # the code of a function of the user lives as long as its kernel
    code: int
    parameters: NumpyArray
    x: NumpyArray  # (d, m) coordinates in the order of the row tree
    y: NumpyArray  # (d, n)
    mirrored: bool  # A is symmetric: the upper half follows from the lower one


def compiled_source(source: Any, partition: BlockPartition) -> CompiledSource | None:
    """The compiled form of a source, where it has one."""
    compiled = getattr(source.kernel, "compiled", None) if isinstance(source, KernelSource) else None
    if compiled is None or source.dtype != np.float64:
        return None
    rows, cols = (p.reshape(len(p), -1) for p in (source.row_points, source.col_points))
    source.kernel(source.row_points[:1], source.col_points[:1])  # complains of points in too many dimensions
    code, parameters = compiled
    x = np.ascontiguousarray(rows[partition.row_tree.perm].T)
    same = source.row_points is source.col_points and partition.row_tree is partition.col_tree
    y = x if same else np.ascontiguousarray(cols[partition.col_tree.perm].T)
    return CompiledSource(
        source.kernel, code, parameters, x, y, bool(same and source.kernel.symmetric and partition.is_symmetric)
    )


def squared_near_norm(compiled: CompiledSource, partition: BlockPartition, half: bool) -> float:
    """The squared Frobenius norm of the dense blocks, which are evaluated but not stored."""
    total = 0.0
    for level, places in enumerate(partition.near):
        squares = np.empty(len(places))
        rows, cols, bounds, sizes = _leaves(partition, level, places)
        work = partial(
            cpu_kernels.squared_norms, compiled.code, compiled.parameters, compiled.x, compiled.y, rows, cols, *bounds,
            1 << (partition.depth - level), sizes[1], squares,
        )  # fmt: skip
        parallel_ranges(work, len(places), serial=len(places) * sizes[0] * sizes[1] < 1 << 14)
        total += float((squares * np.where((places[:, 0] != places[:, 1]) & half, 2.0, 1.0)).sum())
    if not np.isfinite(total):
        raise _not_finite(compiled.kernel)
    return total


def _not_finite(kernel: Any) -> NonFiniteError:
    return NonFiniteError(
        f"values of the kernel {kernel!r} at these points are NaN or infinite, or so large that their squares are; a "
        "kernel that is singular where points coincide needs diagonal="
    )


def _near_blocks(compiled: CompiledSource, partition: BlockPartition, level: int, data: NumpyArray) -> BlockBatch:
    """The dense blocks of one level, written to `data`."""
    places = partition.near[level]
    rows, cols = places[:, 0].copy(), places[:, 1].copy()
    lower = np.flatnonzero(rows >= cols) if compiled.mirrored else np.arange(len(places))
    _evaluate(compiled, partition, level, places[lower], lower, data)
    if compiled.mirrored and len(places):
        upper = np.flatnonzero(rows < cols)
        keys = rows * (1 << level) + cols
        source = np.searchsorted(keys, cols[upper] * (1 << level) + rows[upper])
        parallel_ranges(lambda a, b: cpu_fused.mirror_blocks(data, source, upper, data, a, b), len(upper))
    return BlockBatch(data, rows, cols)


def _leaves(partition: BlockPartition, level: int, places: IntArray) -> tuple[IntArray, IntArray, list[Any], list[int]]:
    """First leaves of the blocks at `places`, and for both trees where leaves begin and how large they are."""
    trees, shift = (partition.row_tree, partition.col_tree), partition.depth - level
    bounds = [np.append(t.starts(t.depth), t.n) for t in trees]
    return places[:, 0] << shift, places[:, 1] << shift, bounds, [t.leaf_size for t in trees]


def _evaluate(
    c: CompiledSource, partition: BlockPartition, level: int, places: IntArray, where: IntArray, data: NumpyArray
) -> None:
    """Data[where] = the kernel on the blocks at `places`."""
    rows, cols, bounds, sizes = _leaves(partition, level, places)

    def work(first: int, last: int) -> None:
        cpu_kernels.kernel_blocks(c.code, c.parameters, c.x, c.y, rows, cols, *bounds, *sizes, where, data, first, last)

    parallel_ranges(work, len(places), serial=len(places) * data[:1].size < 1 << 14)


def _extents(tree: ClusterTree, level: int, nodes: IntArray) -> tuple[IntArray, IntArray]:
    """First position and number of positions of each node."""
    return tree.starts(level)[nodes], tree.sizes(level)[nodes]


@dataclass
class _Crosses:
    """Compressed blocks: where each one is, in which arena."""

    blocks: IntArray  # (nb, 4)
    level: IntArray
    places: IntArray  # (nb, 2)
    corners: Corners
    ranks: IntArray
    starts: IntArray
    arena: IntArray
    arenas: list[NumpyArray]


def assemble(
    compiled: CompiledSource, partition: BlockPartition, tails: list[float], half: bool, progress: Any,
) -> tuple[FlatBlocks, int]:  # fmt: skip
    """All blocks, the admissible ones compressed to the tolerance of their level; and entries evaluated."""
    crosses = _compressed(compiled, partition, tails, progress)
    row_tree, col_tree = partition.row_tree, partition.col_tree
    mirror = compiled.mirrored and not half
    order = np.lexsort((crosses.places[:, 1], crosses.places[:, 0], crosses.ranks, crosses.level))
    depth = partition.depth
    shapes = [
        (row_tree.leaf_size << (depth - level), col_tree.leaf_size << (depth - level)) for level in range(depth + 1)
    ]
    dense_sizes = [len(places) * p * q for places, (p, q) in zip(partition.near, shapes, strict=True)]
    widths = np.array([p + q for p, q in shapes])
    total = sum(dense_sizes) + (2 if mirror else 1) * int((crosses.ranks * widths[crosses.level]).sum())
    buffer = np.empty(total)
    targets, mirrored = np.zeros(len(order), dtype=np.int64), np.full(len(order), -1, dtype=np.int64)
    cursor, far, views = 0, [], []
    for level in range(depth + 1):
        batches = []
        here = order[crosses.level[order] == level]
        for rank in np.unique(crosses.ranks[here]):
            pick = here[crosses.ranks[here] == rank]
            batch, cursor = _batch(
                buffer, cursor, crosses, pick, int(rank), level, partition, mirror, targets, mirrored
            )
            batches.append(batch)
        far.append(tuple(batches))
        views.append(buffer[cursor : cursor + dense_sizes[level]].reshape(-1, *shapes[level]))
        cursor += dense_sizes[level]
    _place(crosses, partition, targets, mirrored, buffer)
    crosses.arenas.clear()
    near = tuple(_near_blocks(compiled, partition, level, view) for level, view in enumerate(views))
    evaluated = sum(dense_sizes) + int((crosses.ranks * (crosses.blocks[:, 1] + crosses.blocks[:, 3])).sum())
    return FlatBlocks(near, tuple(far), half, buffer), evaluated


def _batch(
    buffer: NumpyArray, cursor: int, crosses: _Crosses, pick: IntArray, rank: int, level: int,
    partition: BlockPartition, mirror: bool, targets: IntArray, mirrored: IntArray,
) -> tuple[LowRankBatch, int]:  # fmt: skip
    """The batch of one level and rank as views of the buffer, with the places of its blocks noted; the new cursor."""
    p, q = (t.leaf_size << (t.depth - level) for t in (partition.row_tree, partition.col_tree))
    rows, cols = crosses.places[pick, 0], crosses.places[pick, 1]
    size = rank * (p + q)
    source = np.concatenate([pick, pick]) if mirror else pick
    if mirror:
        rows, cols = np.append(rows, cols), np.append(cols, rows)
    order = np.lexsort((cols, rows))
    at = np.empty(len(order), dtype=np.int64)
    at[order] = cursor + size * np.arange(len(order))
    targets[pick] = at[: len(pick)]
    if mirror:
        mirrored[pick] = at[len(pick) :]
    view = buffer[cursor : cursor + len(source) * size].reshape(len(source), -1)
    left = view[:, : rank * p].reshape(len(source), rank, p).swapaxes(1, 2)
    right = view[:, rank * p :].reshape(len(source), rank, q).swapaxes(1, 2)
    return LowRankBatch(left, right, rows[order], cols[order]), cursor + view.size


def _compressed(compiled: CompiledSource, partition: BlockPartition, tails: list[float], progress: Any) -> _Crosses:
    """Cross approximations of all admissible blocks (of the lower half where the upper one follows), largest first."""
    far = [b[b[:, 0] >= b[:, 1]] if compiled.mirrored else b for b in partition.far]
    level = np.repeat(np.arange(len(far)), [len(b) for b in far])
    places = np.concatenate(far)
    blocks = np.empty((len(places), 4), dtype=np.int64)
    for number, b in enumerate(far):
        rows, cols = _extents(partition.row_tree, number, b[:, 0]), _extents(partition.col_tree, number, b[:, 1])
        blocks[level == number] = np.stack([*rows, *cols], axis=1)
    zeros = np.zeros(len(blocks), dtype=np.int64)
    found = joined([corners(partition.row_tree, partition.col_tree, number, b) for number, b in enumerate(far)])
    crosses = _Crosses(blocks, level, places, found, zeros.copy(), zeros.copy(), zeros.copy(), [])
    by_level = np.asarray(tails)[level]
    waiting, limit = np.arange(len(blocks)), FIRST_LIMIT
    while len(waiting):
        _run(compiled, crosses, waiting, by_level, limit, progress)
        if (crosses.ranks[waiting] == cpu_fused.NOT_FINITE).any():
            raise _not_finite(compiled.kernel)
        waiting = waiting[crosses.ranks[waiting] == cpu_fused.TOO_FEW]
        limit *= 3
    return crosses


def _run(c: CompiledSource, crosses: _Crosses, waiting: IntArray, tails: NumpyArray, limit: int, progress: Any) -> None:
    """Compress the waiting blocks with at most `limit` crosses each; ranks stay negative where these were too few."""
    lengths = (crosses.blocks[waiting, 1] + crosses.blocks[waiting, 3]).cumsum()
    pieces = min(len(waiting), TASKS_PER_THREAD * thread_count())
    cuts = np.append(0, np.searchsorted(lengths, lengths[-1] * np.arange(1, pieces + 1) / pieces) + 1)
    cuts[-1] = len(waiting)
    cuts = np.unique(np.minimum(cuts, len(waiting)))

    def work(k: int) -> None:
        pick = waiting[cuts[k] : cuts[k + 1]]
        blocks, tail, bounds = crosses.blocks[pick], tails[pick], crosses.corners.bounds[pick]
        ranks, starts = np.zeros(len(pick), dtype=np.int64), np.zeros(len(pick), dtype=np.int64)
        first = 0
        while first < len(pick):
            longest = int((blocks[first:, 1] + blocks[first:, 3]).max())
            arena = np.empty(max(ARENA_NUMBERS, limit * longest))
            last, _cursor = cpu_fused.compress_blocks(
                c.code, c.parameters, c.x, c.y, blocks, tail, limit, crosses.corners.rows,
                crosses.corners.cols, bounds, arena, ranks, starts, 0, first, len(pick),
            )  # fmt: skip
            crosses.arenas.append(arena)  # appending is atomic; the arena is found again by its address
            crosses.arena[pick[first:last]] = arena.ctypes.data
            first = last
        crosses.ranks[pick], crosses.starts[pick] = ranks, starts
        progress(len(pick) / max(1, len(crosses.blocks)))

    parallel_tasks(work, len(cuts) - 1)


def _place(
    crosses: _Crosses, partition: BlockPartition, targets: IntArray, mirrored: IntArray, buffer: NumpyArray
) -> None:
    """Copy all factors to their places in the buffer."""
    bounds = [np.append(t.starts(t.depth), t.n) for t in (partition.row_tree, partition.col_tree)]
    sizes = partition.row_tree.leaf_size, partition.col_tree.leaf_size

    def work(k: int) -> None:
        arena = crosses.arenas[k]
        pick = np.flatnonzero(crosses.arena == arena.ctypes.data)
        cpu_fused.place_factors(
            arena, crosses.blocks[pick], crosses.ranks[pick], crosses.starts[pick], targets[pick], mirrored[pick],
            *bounds, *sizes, buffer, 0, len(pick),
        )  # fmt: skip

    parallel_tasks(work, len(crosses.arenas))
