"""One product with a matrix of nested bases, by compiled kernels: up the tree, across, down the tree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._backend import parallel_tasks, thread_count
from .._typing import IntArray, NumpyArray
from ..engine import cpu, cpu_block, cpu_flat
from ..engine.dense import SERIAL_BYTES
from .storage import NestedStorage

# what a core keeps close at hand
CACHE_BYTES = 1 << 21


class Sweep:
    """One product: vectors, coefficients and result, and the steps from one to the next."""

    def __init__(self, storage: NestedStorage, x: NumpyArray, adjointly: bool) -> None:
        self.packed, self.depth, self.adjointly = storage.packed(), storage.depth, adjointly
        self.parts = self.packed.parts
        self.mixed = len(self.parts) > 1
        leaves, self.q, columns = x.shape
        self.single, self.p = columns == 1, storage._leaf_size(adjointly)
        packed = self.packed
        target, source = packed.sides[::-1] if adjointly else packed.sides
        self.target, self.target_places, self.target_kinds = target
        self.source, self.source_places, self.source_kinds = source
        self.tail = () if self.single else (columns,)
        self.x = np.ascontiguousarray(x).reshape(leaves * self.q, *self.tail)
        self.y = np.empty((leaves * self.p, *self.tail), dtype=x.dtype)
        self.up = np.empty((int(self.source_places[-1]), *self.tail), dtype=x.dtype)
        self.down = np.zeros((int(self.target_places[-1]), *self.tail), dtype=x.dtype)
        vectors = (self.p + self.q) * columns * x.itemsize
        self.split = _split_level(self.depth, packed.nbytes * columns, vectors)

    def by_nodes(self) -> None:
        """Each node takes the blocks that act on it: its rows of the result stay in the cache."""
        which = 1 if self.adjointly else 0
        near_field = cpu.near_field if self.single else cpu_block.block_near
        near = [(part.buffer, part.near.pointers[which], part.near.entries[which]) for part in self.parts]
        shift, top = self.depth - self.split, max(self.split, 1)

        def ascend(root: int) -> None:
            fresh = True
            for lists in near:
                near_field(
                    *lists, self.adjointly, self.x, self.y, root << shift, (root + 1) << shift, self.p, self.q, fresh
                )
                fresh = False
            self._ascend(root, self.split, top, self.depth)

        lists = [(part.couplings.pointers[which], part.couplings.entries[which]) for part in self.parts]
        _each_subtree(ascend, self.split)
        self._ascend(0, 0, 1, self.split - 1)
        self._descend(0, 0, 1, self.split - 1, lists)
        _each_subtree(lambda root: self._descend(root, self.split, top, self.depth, lists), self.split)

    def by_blocks(self) -> None:
        """Each block is read once for its rows and for its columns; threads add to results of their own."""
        packed = self.packed
        count = thread_count() if packed.nbytes >= SERIAL_BYTES else 1
        y = [self.y, *(np.empty_like(self.y) for _ in range(count - 1))]
        down = [self.down, *(np.zeros_like(self.down) for _ in range(count - 1))]
        steps = [
            (part.buffer, blocks, blocks.cuts(count), vector, results)
            for part in self.parts
            for blocks, vector, results in ((part.near, self.x, y), (part.couplings, self.up, down))
        ]

        def across(share: int) -> None:
            y[share][:] = 0
            for buffer, blocks, cuts, vector, results in steps:
                first, last, result = cuts[share], cuts[share + 1], results[share]
                if self.single:
                    cpu_flat.flat_pass(buffer, blocks.table, 1, first, last, self.adjointly, vector, result)
                else:
                    shapes = blocks.table[:, 4:6]
                    tallest, largest = int(shapes.max(initial=1)), int(shapes.prod(axis=1).max(initial=1))
                    cpu_flat.flat_block_pass(
                        buffer, blocks.table, 1, tallest, largest, first, last, self.adjointly, vector, result
                    )  # fmt: skip

        self.ascend()
        parallel_tasks(across, count)
        for share in range(1, count):
            self.down += down[share]
            self.y += y[share]
        self.descend()

    def ascend(self) -> None:
        """Coefficients of all nodes from the vectors."""
        _each_subtree(lambda root: self._ascend(root, self.split, max(self.split, 1), self.depth), self.split)
        self._ascend(0, 0, 1, self.split - 1)

    def descend(self) -> None:
        """The result from the coefficients of all nodes, where the blocks across were applied before."""
        nothing = np.zeros(len(self.target) + 1, dtype=np.int64), np.zeros((0, 3), dtype=np.int64)
        lists = [nothing for _ in self.parts]
        self._descend(0, 0, 1, self.split - 1, lists)
        _each_subtree(lambda root: self._descend(root, self.split, max(self.split, 1), self.depth, lists), self.split)

    def _ascend(self, root: int, level: int, top: int, bottom: int) -> None:
        up_the_tree = cpu.nested_up if self.single else cpu_block.block_up
        for kind, first, last in _runs(self.source_kinds, top, bottom)[::-1] if self.mixed else ((0, top, bottom),):
            up_the_tree(
                self.parts[kind].buffer, self.source, self.packed.orders, self.source_places, self.x, self.up,
                root, level, first, last, self.depth,
            )  # fmt: skip

    def _descend(self, root: int, level: int, top: int, bottom: int, lists: list[tuple[IntArray, IntArray]]) -> None:
        """From the level `top` to `bottom` below a node; lists: the couplings of each part."""
        down_the_tree = cpu.nested_down if self.single else cpu_block.block_down
        for kind, first, last in _runs(self.target_kinds, top, bottom) if self.mixed else ((0, top, bottom),):
            if self.mixed:
                self._across(root, level, first, last, 1 - kind, lists)
            down_the_tree(
                self.parts[kind].buffer, self.target, self.packed.orders, self.target_places, self.source,
                self.source_places, *lists[kind], self.adjointly, self.up, self.down, self.y, root, level, first, last,
                self.depth,
            )  # fmt: skip

    def _across(
        self, root: int, level: int, top: int, bottom: int, kind: int, lists: list[tuple[IntArray, IntArray]]
    ) -> None:
        """The couplings of the part that does not hold the bases; they come first, as the bases take all sums down."""
        across = cpu.nested_across if self.single else cpu_block.block_across
        if len(lists[kind][1]):
            across(
                self.parts[kind].buffer, self.target, self.target_places, self.source, self.source_places,
                *lists[kind], self.adjointly, self.up, self.down, root, level, top, bottom,
            )  # fmt: skip


def _runs(kinds: tuple[int, ...], top: int, bottom: int) -> list[tuple[int, int, int]]:
    """Ranges of levels from `top` to `bottom` whose bases are in one part: the part, first and last level."""
    turns = [level for level in range(top, bottom + 1) if level == top or kinds[level] != kinds[level - 1]]
    return [(kinds[a], a, b - 1) for a, b in zip(turns, [*turns[1:], bottom + 1], strict=False)]


def _split_level(depth: int, nbytes: int, leaf_bytes: int) -> int:
    """The level whose subtrees the threads share: some for each, so that a late thread costs little.

    With many vectors, more: those of a subtree (`leaf_bytes` a leaf) should stay in a core's cache between its steps.
    """
    threads = thread_count()
    if threads == 1 or nbytes < SERIAL_BYTES:
        return 0
    fitting = max(1, CACHE_BYTES // max(1, leaf_bytes)).bit_length() - 1
    return min(depth, max((2 * threads - 1).bit_length(), depth - fitting))


def _each_subtree(function: Callable[[int], None], split: int) -> None:
    if split == 0:
        function(0)
    else:
        parallel_tasks(function, 1 << split)
