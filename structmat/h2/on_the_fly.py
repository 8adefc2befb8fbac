"""H2 on the fly: couplings and near field are evaluated from the kernel in each product, only the bases are stored.

A coupling of an interpolative basis is the kernel between two skeletons, so that the points of the skeletons are all it
takes. Reference: H. Huang, X. Xing, E. Chow, "H2Pack: high-performance H2 matrix package for kernel matrices using the
proxy point method", ACM Trans. Math. Softw. 47 (2020), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._backend import parallel_ranges, parallel_tasks, thread_count
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..engine import cpu_on_the_fly, cpu_skeleton
from ..flat.fused import CompiledSource
from ..nested import NestedStorage
from ..nested.sweep import Sweep
from ..partition import BlockPartition

TASKS_PER_THREAD = 8


@dataclass(frozen=True)
class Evaluated:
    """Blocks of a kernel function, by the points of their rows and columns."""

    x: NumpyArray  # (d, m)
    y: NumpyArray  # (d, n)
    table: IntArray  # (blocks, 7), see `cpu_on_the_fly.evaluated_pass`
    cuts: IntArray  # first block of each task, and the number of blocks

    @classmethod
    def of(cls, x: NumpyArray, y: NumpyArray, table: IntArray) -> Evaluated:
        """With tasks of about equal numbers of entries."""
        ends = np.cumsum(table[:, 2] * table[:, 3])
        tasks = max(1, min(len(table), TASKS_PER_THREAD * thread_count()))
        wanted = np.arange(1, tasks) * (int(ends[-1]) if len(ends) else 0) / tasks
        return cls(x, y, table, np.concatenate([[0], np.searchsorted(ends, wanted), [len(table)]]).astype(np.int64))


class KernelStorage(NestedStorage):
    """The bases of a matrix, and the points from which everything else is evaluated.

    Parameters
    ----------
    compiled : CompiledSource
        The kernel and the points in the order of the trees.
    stored : BlockPartition
        The blocks that would be stored: all, or those on and below the diagonal.
    bases : list of RaggedBasis
        One or two.
    skeletons : list of (positions, pointers) by level from level 1, one for each basis
        The skeletons of all nodes as positions in the order of the trees.
    half : bool
        The matrix is symmetric.
    rebuild : callable
        Gives the same matrix with its blocks stored.
    """

    def __init__(
        self, compiled: CompiledSource, stored: BlockPartition, bases: list[RaggedBasis],
        skeletons: list[list[IntArray]], *, half: bool, rebuild: Callable[[], NestedStorage],
    ) -> None:  # fmt: skip
        p, q = stored.row_tree.leaf_size, stored.col_tree.leaf_size
        none = np.zeros(0, dtype=np.int64)
        nothing = RaggedBatch(np.empty(0), none, none, none, none)
        near = BlockBatch(np.empty((0, p, q)), none, none)
        super().__init__(near, (nothing,) * stored.depth, bases[0], bases[-1], half=half)
        self.partition = stored
        self.compiled, self._rebuild = compiled, rebuild
        self.near_blocks = Evaluated.of(compiled.x, compiled.y, _near_table(stored, half))
        self.coupling_blocks = _between_skeletons(self, skeletons)

    @property
    def nbytes(self) -> int:
        """Bytes of the bases, of the points, and of the integers that say where blocks act."""
        bases = self.row_basis.nbytes + (0 if self.half else self.col_basis.nbytes)
        points = {id(a): a.nbytes for e in (self.near_blocks, self.coupling_blocks) for a in (e.x, e.y)}
        return bases + sum(points.values()) + self.near_blocks.table.nbytes + self.coupling_blocks.table.nbytes

    @property
    def places_of_coefficients(self) -> tuple[IntArray, IntArray]:
        """Where the coefficients of each node begin, for rows and for columns, (nodes + 1,)."""
        packed = self.packed()
        return packed.row_places, packed.col_places

    def block_places(self) -> tuple[list[IntArray], IntArray]:
        """Row and column node of the couplings of each level, and of the dense blocks."""
        return list(self.partition.far), self.partition.near[self.depth]

    def sampled_couplings(self, level: int, left: NumpyArray, right: NumpyArray) -> NumpyArray:
        """As for stored blocks."""
        far, part = self.partition.far[level], self.coupling_blocks
        first = sum(len(b) for b in self.partition.far[:level])
        values = np.empty((len(far), left.shape[1], right.shape[1]))
        work = partial(
            cpu_on_the_fly.evaluated_samples, self.compiled.code, self.compiled.parameters, part.x, part.y,
            part.table[first : first + len(far)], far[:, 0].copy(), far[:, 1].copy(), left, right, values,
        )  # fmt: skip
        parallel_ranges(work, len(far))
        return values

    def diagonal(self) -> NumpyArray:
        """The main diagonal in the order of the tree, for one tree: no block on it is compressed."""
        c, index = self.compiled, np.arange(self.compiled.x.shape[1])
        values, pointers = np.empty(len(index)), np.arange(len(index) + 1)
        cpu_skeleton.kernel_between(
            c.code, c.parameters, c.x, c.y, index, pointers, index, pointers, index, index, index, values, 0, len(index)
        )  # fmt: skip
        return values

    def stored(self) -> NestedStorage:
        """The same matrix with its blocks stored: what everything but products works with."""
        return self._rebuild()

    def map(self, function: Callable[[Array], Array]) -> NestedStorage:
        """`function` on every array of the stored form."""
        return self.stored().map(function)

    def _apply_reference(self, x: Array, adjointly: bool) -> Array:
        return self.stored()._apply_reference(x, adjointly)

    def _apply_compiled(self, x: NumpyArray, adjointly: bool) -> NumpyArray:
        sweep = KernelSweep(self, x, adjointly)
        sweep.by_evaluation(self.compiled, self.near_blocks, self.coupling_blocks)
        return sweep.y.reshape(x.shape[0], -1, x.shape[2])


class KernelSweep(Sweep):
    """A product in which the blocks across are evaluated."""

    def by_evaluation(self, compiled: CompiledSource, near: Evaluated, couplings: Evaluated) -> None:
        """Threads take tasks as they come, and add to results of their own."""
        self.ascend()
        threads = thread_count()
        y = [self.y, *(np.empty_like(self.y) for _ in range(threads - 1))]
        down = [self.down, *(np.zeros_like(self.down) for _ in range(threads - 1))]
        tasks = iter(
            [(part, k) for part in (near, couplings) for k in range(len(part.cuts) - 1)]
        )  # next() on a list iterator is atomic under the GIL

        def work(share: int) -> None:
            y[share][:] = 0
            for part, k in tasks:
                vector, result = (self.x, y[share]) if part is near else (self.up, down[share])
                first, last = int(part.cuts[k]), int(part.cuts[k + 1])
                widest = int(part.table[first:last, 2:4].max(initial=1))
                kernel = cpu_on_the_fly.evaluated_pass if self.single else cpu_on_the_fly.evaluated_block_pass
                kernel(
                    compiled.code, compiled.parameters, part.x, part.y, part.table, widest, first, last, self.adjointly,
                    vector, result,
                )  # fmt: skip

        parallel_tasks(work, threads)
        for share in range(1, threads):
            self.down += down[share]
            self.y += y[share]
        self.descend()


def _near_table(stored: BlockPartition, half: bool) -> IntArray:
    places, depth = stored.near[stored.depth], stored.depth
    t, s = places[:, 0], places[:, 1]
    rows, cols = stored.row_tree, stored.col_tree
    columns = (
        rows.starts(depth)[t], cols.starts(depth)[s], rows.sizes(depth)[t], cols.sizes(depth)[s],
        t * rows.leaf_size, s * cols.leaf_size, (t != s) & half,
    )  # fmt: skip
    return np.stack(columns, axis=1).astype(np.int64)


def _between_skeletons(storage: KernelStorage, skeletons: list[list[IntArray]]) -> Evaluated:
    """The couplings: skeleton points in the order of the coefficients, level by level, node by node."""
    compiled, half = storage.compiled, storage.half
    x, y = (
        np.ascontiguousarray(points[:, np.concatenate([np.zeros(0, dtype=np.int64), *positions])])
        for points, positions in zip((compiled.x, compiled.y), (skeletons[0], skeletons[-1]), strict=True)
    )
    tables = [np.zeros((0, 7), dtype=np.int64)]
    for level, far in enumerate(storage.partition.far):
        nodes = [(1 << level) - 1 + far[:, k] for k in (0, 1)]
        firsts = [first[node] for first, node in zip(storage.places_of_coefficients, nodes, strict=True)]
        ranks = [np.diff(first)[node] for first, node in zip(storage.places_of_coefficients, nodes, strict=True)]
        tables.append(np.stack([*firsts, *ranks, *firsts, (far[:, 0] != far[:, 1]) & half], axis=1))
    return Evaluated.of(x, x if half else y, np.concatenate(tables).astype(np.int64))
