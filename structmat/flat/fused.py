"""Builds from kernel functions that have a compiled form: evaluation, cross approximation and recompression in one go.

Each block is approximated and recompressed while it is in the cache, and the factors are put once, where the flat pass
reads them. For a symmetric kernel on one set of points only the lower half is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._backend import TASKS_PER_THREAD, parallel_ranges, parallel_tasks, thread_count
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch
from ..engine import cpu_fused, cpu_kernels
from ..exceptions import NonFiniteError
from ..partition import BlockPartition
from ..sources import DeviceKernelSource, KernelSource
from ..tree import ClusterTree
from .corners import WIDER, corners
from .layout import LevelFactors, low_rank_layout, place
from .storage import FlatBlocks

# crosses that a block may take at first; where they do not suffice, it is begun again with more
FIRST_LIMIT = 48
# rows that are tried before an approximation is believed; more, and wider corners, each time that a check of the whole
# matrix has failed: on grids of points the error of a block may be in a few of its rows
TRIALS, MORE_TRIALS = 2, 8


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
    on_host = isinstance(source, KernelSource) and not isinstance(source, DeviceKernelSource)
    compiled = getattr(source.kernel, "compiled", None) if on_host else None
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
    total, half = 0.0, half or compiled.mirrored
    for level, near in enumerate(partition.near):
        places = near[near[:, 0] >= near[:, 1]] if compiled.mirrored else near
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
    parallel_ranges(
        lambda a, b: _evaluate(compiled, partition, level, places[lower[a:b]], lower[a:b], data), len(lower),
        serial=data.size < 1 << 14,
    )  # fmt: skip
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
    cpu_kernels.kernel_blocks(c.code, c.parameters, c.x, c.y, rows, cols, *bounds, *sizes, where, data, 0, len(places))


def _extents(tree: ClusterTree, level: int, nodes: IntArray) -> tuple[IntArray, IntArray]:
    """First position and number of positions of each node."""
    return tree.starts(level)[nodes], tree.sizes(level)[nodes]


class CompiledBlocks:
    """The blocks of a kernel matrix: the admissible ones compressed, the dense ones evaluated where they are needed.

    Parameters
    ----------
    compiled : CompiledSource
    partition : BlockPartition
        The blocks that are stored, of both halves or, for `half`, of the lower one.
    tails : list of float
        The Frobenius error allowed to an admissible block of each level.
    half : bool
        The blocks below the diagonal stand for those above it too.
    attempt : int
        How many builds of the same matrix have failed their check.
    """

    dtype = np.dtype(np.float64)

    def __init__(
        self, compiled: CompiledSource, partition: BlockPartition, tails: list[float], *, half: bool, attempt: int = 0,
        progress: Any,
    ) -> None:  # fmt: skip
        self.compiled, self.partition, self.half = compiled, partition, half
        self._trees = partition.row_tree, partition.col_tree
        self.row_size, self.col_size = (t.leaf_size for t in self._trees)
        self.near = partition.near
        # computed in one half where the other follows from it
        far = [b[b[:, 0] >= b[:, 1]] if compiled.mirrored else b for b in partition.far]
        self.far = _compressed(compiled, partition, far, tails, attempt, progress)
        self.evaluated = sum(len(places) * p * q for places, (p, q) in zip(self.near, self._shapes, strict=True))
        for level, found in enumerate(self.far):
            rows, cols = (t.sizes(level)[found.places[:, k]] for k, t in enumerate(self._trees))
            self.evaluated += int((found.ranks * (rows + cols)).sum())

    @property
    def depth(self) -> int:
        """Level of the leaves."""
        return self.partition.depth

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        return [
            (self.row_size << (self.depth - level), self.col_size << (self.depth - level))
            for level in range(self.depth + 1)
        ]

    def dense(self, level: int, which: IntArray) -> NumpyArray:
        """Some of the dense blocks of a level, computed."""
        data = np.empty((len(which), *self._shapes[level]))
        _evaluate(self.compiled, self.partition, level, self.near[level][which], np.arange(len(which)), data)
        return data

    def place_dense(self, level: int, which: IntArray, targets: IntArray, out: NumpyArray) -> None:
        """The same, written to out[targets]."""
        _evaluate(self.compiled, self.partition, level, self.near[level][which], targets, out)

    def stored(self) -> FlatBlocks:
        """All blocks in one buffer; both halves of what is not `half`. The factors are given up."""
        shapes, mirrored = self._shapes, self.compiled.mirrored and not self.half
        dense_sizes = [len(places) * p * q for places, (p, q) in zip(self.near, shapes, strict=True)]
        ranks = [int(level.ranks.sum()) * sum(shape) for level, shape in zip(self.far, shapes, strict=True)]
        buffer = np.empty(sum(dense_sizes) + (2 if mirrored else 1) * sum(ranks))
        cursor, far, views = 0, [], []
        for level, shape, size in zip(self.far, shapes, dense_sizes, strict=True):
            layout = low_rank_layout(buffer, cursor, level.places, level.ranks, *shape, mirrored=mirrored)
            place(
                level.factors, level.starts, level.ranks, level.ranks, *shape, layout.targets, layout.mirrored, buffer
            )
            level.factors = np.empty(0)
            far.append(layout.batches)
            views.append(buffer[layout.stop : layout.stop + size].reshape(-1, *shape))
            cursor = layout.stop + size
        near = tuple(_near_blocks(self.compiled, self.partition, level, view) for level, view in enumerate(views))
        return FlatBlocks(near, tuple(far), self.half, buffer)


def _compressed(
    compiled: CompiledSource, partition: BlockPartition, far: list[IntArray], tails: list[float], attempt: int,
    progress: Any,
) -> list[LevelFactors]:  # fmt: skip
    """Cross approximations of the blocks of all levels, largest first."""
    levels = [_Level(compiled, partition, level, places, tails[level], attempt) for level, places in enumerate(far)]
    total, limit = max(1, sum(len(places) for places in far)), FIRST_LIMIT
    waiting = [np.arange(len(places)) for places in far]
    while any(len(w) for w in waiting):
        tasks = []
        lengths = [int(level.lengths[w].sum()) for level, w in zip(levels, waiting, strict=True)]
        share = sum(lengths) / (TASKS_PER_THREAD * thread_count())
        for level, pick, length in zip(levels, waiting, lengths, strict=True):
            level.make_room(len(pick), limit)
            tasks += [(level, part) for part in np.array_split(pick, max(1, round(length / share))) if len(part)]

        def work(k: int, tasks: list[tuple[_Level, IntArray]] = tasks, limit: int = limit) -> None:
            level, pick = tasks[k]
            level.compress(pick, limit)
            progress(len(pick) / total)

        parallel_tasks(work, len(tasks))
        waiting, limit = [level.finish_round(w) for level, w in zip(levels, waiting, strict=True)], 3 * limit
    return [level.found for level in levels]


class _Level:
    """Admissible blocks of one level, and what has been found of them."""

    def __init__(
        self, compiled: CompiledSource, partition: BlockPartition, level: int, places: IntArray, tail: float,
        attempt: int,
    ) -> None:  # fmt: skip
        trees = partition.row_tree, partition.col_tree
        extents = [extent for t, nodes in zip(trees, places.T, strict=True) for extent in _extents(t, level, nodes)]
        self.compiled, self.blocks = compiled, np.stack(extents, axis=1)
        self.lengths, self.tails = self.blocks[:, 1] + self.blocks[:, 3], np.full(len(places), tail)
        self.corners, self.trials = corners(*trees, level, places, WIDER**attempt), TRIALS * MORE_TRIALS**attempt
        self.bounds = [np.append(t.starts(t.depth), t.n) for t in trees]
        self.sizes = [t.leaf_size for t in trees]
        self.padded = sum(self.sizes) << (partition.depth - level)
        zeros = np.zeros(len(places), dtype=np.int64)
        self.found = LevelFactors(places, zeros, zeros.copy(), np.empty(0))

    def make_room(self, count: int, limit: int) -> None:
        """Room for `count` blocks of the largest ranks: memory that nothing is written to costs nothing."""
        self._room, self._cursor = np.empty(count * limit * self.padded), np.zeros(1, dtype=np.int64)

    def compress(self, pick: IntArray, limit: int) -> None:
        """Compress some blocks with at most `limit` crosses each; ranks stay negative where these were too few."""
        c, ranks, starts = self.compiled, np.zeros(len(pick), dtype=np.int64), np.zeros(len(pick), dtype=np.int64)
        cpu_fused.compress_blocks(
            c.code, c.parameters, c.x, c.y, self.blocks[pick], self.tails[pick], limit, self.trials, self.corners.rows,
            self.corners.cols, self.corners.bounds[pick], *self.bounds, *self.sizes, self._room, self._cursor, ranks,
            starts, 0, len(pick),
        )  # fmt: skip
        self.found.ranks[pick], self.found.starts[pick] = ranks, starts

    def finish_round(self, pick: IntArray) -> IntArray:
        """Keep what the last round has found; the blocks that need more crosses."""
        found = self.found
        if (found.ranks[pick] == cpu_fused.NOT_FINITE).any():
            raise _not_finite(self.compiled.kernel)
        if len(pick):
            before = len(found.factors)
            found.starts[pick] += before
            room = self._room[: int(self._cursor[0])]
            found.factors = np.concatenate([found.factors, room]) if before else room
        del self._room
        return pick[found.ranks[pick] == cpu_fused.TOO_FEW]
