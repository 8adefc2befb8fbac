"""The nested pass: storage and products of matrices with nested bases, HSS and H2.

A matrix is a near field (dense blocks between leaves), a row and a column basis, and for each level the couplings
between its nodes. A product goes up the tree in one basis, across through the couplings, and down in the other.

Reference: W. Hackbusch, S. Boerm, "Data-sparse approximation by adaptive H2-matrices", Computing 69 (2002) 1-35.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from ._backend import one_blas_thread, parallel_ranges, parallel_tasks, thread_count
from ._typing import Array, IntArray, NumpyArray
from .blocks import BlockBatch, NestedBasis
from .engine import reference
from .engine.dense import SERIAL_BYTES
from .storage import Storage

# what a core keeps close at hand
CACHE_BYTES = 1 << 21


@dataclass(frozen=True)
class _Lists:
    """For each node (level by level) the blocks that act on it: start in the buffer, other node, mirrored or not."""

    pointers: IntArray  # (nodes + 1,)
    entries: IntArray  # (blocks, 3)


@dataclass(frozen=True)
class _Packed:
    """One flat buffer that holds all blocks, and the tables by which the compiled kernels find them."""

    buffer: NumpyArray
    row_table: IntArray  # (depth + 1, 4): start, p, k of the row basis by level, start of its orders or -1
    col_table: IntArray
    orders: IntArray  # the orders of all interpolative bases
    coupling_lists: tuple[_Lists, _Lists]  # by row, and by column for the adjoint
    near_lists: tuple[_Lists, _Lists]


class NestedStorage(Storage):
    """Near field, bases and couplings of one matrix, and the pass over them.

    Parameters
    ----------
    near : BlockBatch
        Dense blocks between leaves, (nb, p, q) with the padded leaf sizes.
    couplings : tuple of BlockBatch
        For the levels 1 .. depth.
    row_basis, col_basis : NestedBasis
        One and the same object when `half`.
    half : bool
        Hermitian storage: each block off the diagonal also stands for its adjoint at the mirrored place.
    """

    def __init__(
        self,
        near: BlockBatch,
        couplings: tuple[BlockBatch, ...],
        row_basis: NestedBasis,
        col_basis: NestedBasis,
        *,
        half: bool = False,
    ) -> None:
        self.near = near
        self.couplings = couplings
        self.row_basis = row_basis
        self.col_basis = row_basis if half else col_basis
        self.half = half
        self._packed: _Packed | None = None

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.couplings)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored numbers, and of the integers that say where blocks act."""
        bases = self.row_basis.nbytes + (0 if self.half else self.col_basis.nbytes)
        batches = (self.near, *self.couplings)
        return bases + sum(b.nbytes + b.rows.nbytes + b.cols.nbytes for b in batches)

    # ------------------------------------------------------------------------------- products

    @property
    def _example(self) -> Array:
        return self.near.data

    def _leaf_size(self, adjointly: bool) -> int:
        return int(self.near.data.shape[2 if adjointly else 1])

    def _bases(self, adjointly: bool) -> tuple[NestedBasis, NestedBasis]:
        """Target and source basis."""
        return (self.col_basis, self.row_basis) if adjointly else (self.row_basis, self.col_basis)

    def _apply_reference(self, x: Array, adjointly: bool) -> Array:
        target, source = self._bases(adjointly)
        return reference.nested_apply(self.near, self.couplings, target, source, x, half=self.half, adjointly=adjointly)

    def _apply_compiled(self, x: NumpyArray, adjointly: bool) -> NumpyArray:
        """The compiled pass: memory-bound loops for one vector, BLAS for several."""
        from .engine import cpu, cpu_block

        single = x.shape[2] == 1
        near_field = cpu.near_field if single else cpu_block.block_near
        up_the_tree = cpu.nested_up if single else cpu_block.block_up
        down_the_tree = cpu.nested_down if single else cpu_block.block_down
        packed = self.packed()
        target, source = (packed.col_table, packed.row_table) if adjointly else (packed.row_table, packed.col_table)
        which = 1 if adjointly else 0
        couplings, near = packed.coupling_lists[which], packed.near_lists[which]
        buffer, depth, (leaves, _, columns) = packed.buffer, self.depth, x.shape
        p, q = self.near.data.shape[1:] if not adjointly else self.near.data.shape[:0:-1]
        y = np.empty((leaves, p, columns), dtype=buffer.dtype)

        def flat(a: NumpyArray, rows: int) -> NumpyArray:
            return a.reshape(rows) if single else a.reshape(rows, columns)

        flat_x, flat_y = flat(np.ascontiguousarray(x), leaves * q), flat(y, leaves * p)
        source_places, target_places = _places(source), _places(target)
        up = flat(np.empty((source_places[-1], columns), dtype=buffer.dtype), source_places[-1])
        down = flat(np.zeros((target_places[-1], columns), dtype=buffer.dtype), target_places[-1])
        split = _split_level(depth, buffer.nbytes * columns, (p + q) * columns * buffer.itemsize)

        def ascend(root: int) -> None:
            first, last = root << (depth - split), (root + 1) << (depth - split)
            near_field(buffer, near.pointers, near.entries, adjointly, flat_x, flat_y, first, last, p, q)
            up_the_tree(
                buffer, source, packed.orders, source_places, flat_x, up, root, split, max(split, 1), depth,
            )  # fmt: skip

        def descend(root: int, level: int, top: int, bottom: int) -> None:
            down_the_tree(
                buffer, target, packed.orders, source[:, 2], target_places, source_places,
                couplings.pointers, couplings.entries, adjointly, up, down, flat_y, root, level, top, bottom,
            )  # fmt: skip

        with nullcontext() if single else one_blas_thread():
            _each_subtree(ascend, split)
            up_the_tree(buffer, source, packed.orders, source_places, flat_x, up, 0, 0, 1, split - 1)
            descend(0, 0, 1, split - 1)
            _each_subtree(lambda root: descend(root, split, max(split, 1), depth), split)
        return y

    # -------------------------------------------------------------------------------- packing

    def packed(self) -> _Packed:
        """The flat form, made once; the arrays become views of its buffer, so nothing is stored twice."""
        if self._packed is None:
            self._packed = self._pack()
        return self._packed

    def _pack(self) -> _Packed:
        dtype = self.near.data.dtype
        bases = [self.row_basis] if self.half else [self.row_basis, self.col_basis]
        sizes = [self.near.data.size, *(b.data.size for b in self.couplings)]
        sizes += [a.size for basis in bases for a in basis.levels]
        buffer = np.empty(sum(sizes), dtype=dtype)
        cursor = 0

        def place(a: NumpyArray, *, transposed: bool = False) -> tuple[NumpyArray, int]:
            nonlocal cursor
            start, cursor = cursor, cursor + a.size
            source = a.swapaxes(1, 2) if transposed else a
            view = buffer[start:cursor].reshape(source.shape)
            parallel_ranges(lambda s, t: np.copyto(view[s:t], source[s:t]), len(source), serial=a.nbytes < SERIAL_BYTES)
            return (view.swapaxes(1, 2) if transposed else view), start

        starts: list[int] = []
        tables, packed_bases = [], []
        orders: list[IntArray] = [np.zeros(0, dtype=np.int32)]
        for basis in bases:
            table, arrays = np.zeros((self.depth + 1, 4), dtype=np.int64), []
            for level, a in enumerate(basis.levels, start=1):
                view, start = place(a, transposed=True)  # k rows of length p: long rows make fast loops
                index = -1 if basis.orders is None else sum(o.size for o in orders)
                table[level] = start, basis.height(level), a.shape[2], index
                arrays.append(view)
                if basis.orders is not None:
                    orders.append(basis.orders[level - 1].ravel())
            tables.append(table)
            packed_bases.append(NestedBasis(tuple(arrays), basis.ranks, basis.orders))
        near_data, near_start = place(self.near.data)
        self.near = BlockBatch(near_data, self.near.rows, self.near.cols)
        couplings = []
        for batch in self.couplings:
            view, start = place(batch.data)
            starts.append(start)
            couplings.append(BlockBatch(view, batch.rows, batch.cols))
        self.couplings = tuple(couplings)
        self.row_basis, self.col_basis = packed_bases[0], packed_bases[-1]
        buffer.flags.writeable = False
        leaves = 1 << self.depth
        return _Packed(
            buffer,
            tables[0],
            tables[-1],
            np.concatenate(orders),
            tuple(_lists(self.couplings, starts, self.half, adjointly, None) for adjointly in (False, True)),  # type: ignore[arg-type]
            tuple(_lists((self.near,), [near_start], self.half, adjointly, leaves) for adjointly in (False, True)),  # type: ignore[arg-type]
        )


def _places(table: IntArray) -> IntArray:
    """Where the coefficients of each level begin, from the table of a basis; the last entry is their number."""
    counts = table[:, 2] << np.arange(len(table))
    return np.append(0, np.cumsum(counts))


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


def _lists(
    batches: tuple[BlockBatch, ...], starts: list[int], half: bool, adjointly: bool, count: int | None
) -> _Lists:
    """Blocks by the node they act on. `count`: nodes of a single level; None: levels 1, 2, .. with offsets."""
    targets, entries, nodes = [], [], count or 0
    for level, (batch, start) in enumerate(zip(batches, starts, strict=True), start=1):
        offset = 0 if count else (1 << level) - 1
        nodes = count or (1 << (level + 1)) - 1
        rows, cols = (batch.cols, batch.rows) if adjointly else (batch.rows, batch.cols)
        block = start + np.arange(len(rows)) * (batch.data.shape[1] * batch.data.shape[2])
        targets.append(offset + rows)
        entries.append(np.stack([block, cols, np.zeros_like(rows)], axis=1))
        mirrored = np.flatnonzero(rows != cols) if half else rows[:0]
        targets.append(offset + cols[mirrored])
        entries.append(np.stack([block[mirrored], rows[mirrored], np.ones_like(mirrored)], axis=1))
    target = np.concatenate(targets) if targets else np.zeros(0, dtype=np.int64)
    table = np.concatenate(entries) if entries else np.zeros((0, 3), dtype=np.int64)
    order = np.argsort(target, kind="stable")
    pointers = np.searchsorted(target[order], np.arange(nodes + 1))
    return _Lists(pointers.astype(np.int64), np.ascontiguousarray(table[order], dtype=np.int64))


__all__ = ["NestedStorage"]
