"""Storage of matrices with nested bases, HSS and H2, and the pass over it.

A matrix is a near field (dense blocks between leaves), a row and a column basis, and for each level the couplings
between its nodes. A product goes up the tree in one basis, across through the couplings, and down in the other.

Reference: W. Hackbusch, S. Boerm, "Data-sparse approximation by adaptive H2-matrices", Computing 69 (2002) 1-35.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np

from .._backend import one_blas_thread, parallel_ranges
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, NestedBasis, RaggedBasis, RaggedBatch
from ..engine import reference
from ..engine.dense import SERIAL_BYTES
from ..storage import Storage


@dataclass(frozen=True)
class _Blocks:
    """The blocks that lead from the vectors of one side to those of the other."""

    table: IntArray  # (blocks, 7), as `cpu_flat` reads them
    pointers: tuple[IntArray, IntArray]  # (nodes + 1,): for each row node its entries; for each column node
    entries: tuple[IntArray, IntArray]  # (blocks, 3): start in the buffer, other node, mirrored or not

    def cuts(self, threads: int) -> IntArray:
        """First block of each thread's share, and the number of blocks: ranges of about equal total size."""
        ends = np.cumsum(self.table[:, 4] * self.table[:, 5])
        wanted = np.arange(1, threads) * (int(ends[-1]) if len(ends) else 0) / threads
        return np.concatenate([[0], np.searchsorted(ends, wanted), [len(ends)]]).astype(np.int64)


@dataclass(frozen=True)
class _Packed:
    """One flat buffer that holds all blocks, and the tables by which the compiled kernels find them."""

    buffer: NumpyArray
    row_table: IntArray  # (nodes, 4): start, p, k of each node's basis, level by level, start of its order or -1
    col_table: IntArray
    row_places: IntArray  # (nodes + 1,): where the coefficients of each node begin
    col_places: IntArray
    orders: IntArray  # the orders of all interpolative bases
    near: _Blocks
    couplings: _Blocks


class NestedStorage(Storage):
    """Near field, bases and couplings of one matrix, and the pass over them.

    Parameters
    ----------
    near : BlockBatch
        Dense blocks between leaves, (nb, p, q) with the padded leaf sizes.
    couplings : tuple of BlockBatch or RaggedBatch
        For the levels 1 .. depth.
    row_basis, col_basis : NestedBasis or RaggedBasis
        One and the same object when `half`.
    half : bool
        Hermitian storage: each block off the diagonal also stands for its adjoint at the mirrored place.
    buffer : array, optional
        The flat buffer that all arrays are views of already, in the order in which they are packed: row basis, column
        basis, near field, couplings.
    """

    def __init__(
        self,
        near: BlockBatch,
        couplings: tuple[BlockBatch | RaggedBatch, ...],
        row_basis: NestedBasis | RaggedBasis,
        col_basis: NestedBasis | RaggedBasis,
        *,
        half: bool = False,
        buffer: NumpyArray | None = None,
    ) -> None:
        self.near = near
        self.couplings = couplings
        self.row_basis = row_basis
        self.col_basis = row_basis if half else col_basis
        self.half, self._buffer = half, buffer
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

    def _bases(self, adjointly: bool) -> tuple[Any, Any]:
        """Target and source basis."""
        return (self.col_basis, self.row_basis) if adjointly else (self.row_basis, self.col_basis)

    def _apply_reference(self, x: Array, adjointly: bool) -> Array:
        target, source = self._bases(adjointly)
        couplings = tuple(
            b.padded(self.row_basis.width(level), self.col_basis.width(level)) if isinstance(b, RaggedBatch) else b
            for level, b in enumerate(self.couplings, start=1)
        )
        return reference.nested_apply(self.near, couplings, target, source, x, half=self.half, adjointly=adjointly)

    def _apply_compiled(self, x: NumpyArray, adjointly: bool) -> NumpyArray:
        """The compiled pass: memory-bound loops for one vector, BLAS for several."""
        from .sweep import Sweep

        sweep = Sweep(self, x, adjointly)
        with nullcontext() if sweep.single else one_blas_thread():
            # blocks that also act as their adjoints are read once for both, those on the diagonal once anyway
            if self.half and len(self.near) > 1 << self.depth:
                sweep.by_blocks()
            else:
                sweep.by_nodes()
        return sweep.y.reshape(x.shape[0], -1, x.shape[2])

    def stored(self) -> NestedStorage:
        """The same matrix with all its blocks stored."""
        return self

    def block_places(self) -> tuple[list[IntArray], IntArray]:
        """Row and column node, (nb, 2), of the couplings of each level, 0 .. depth, and of the dense blocks."""
        far = [np.stack([b.rows, b.cols], axis=1) for b in self.couplings]
        return [np.zeros((0, 2), dtype=np.int64), *far], np.stack([self.near.rows, self.near.cols], axis=1)

    def sampled_couplings(self, level: int, left: NumpyArray, right: NumpyArray) -> NumpyArray:
        """Left B right^H for the couplings of a level and some rows of each node's basis, (nb, s, s').

        left (2**level, s, k) and right (2**level, s', k').
        """
        from ..engine import cpu_skeleton

        packed, batch = self.packed(), self.couplings[level - 1]
        first = sum(len(b) for b in self.couplings[: level - 1])
        part = packed.couplings.table[first : first + len(batch)]
        starts, p, q = (np.ascontiguousarray(part[:, k]) for k in (0, 4, 5))
        values = np.empty((len(batch), left.shape[1], right.shape[1]), dtype=packed.buffer.dtype)
        nodes = np.asarray(batch.rows), np.asarray(batch.cols)
        work = partial(cpu_skeleton.sampled_couplings, packed.buffer, starts, *nodes, p, q, left, right, values)
        parallel_ranges(work, len(batch))
        return values

    # -------------------------------------------------------------------------------- entries

    @cached_property
    def _keys(self) -> tuple[tuple[int, int, IntArray, IntArray], ...]:
        """Level, 2 for the near field or 0, sorted keys row * 2**level + column, and rows of the tables by them."""
        packed, found = self.packed(), []
        for level, kind, batch in [
            (self.depth, 2, self.near), *((level, 0, b) for level, b in enumerate(self.couplings, start=1))
        ]:  # fmt: skip
            keys = (np.asarray(batch.rows, dtype=np.int64) << level) + batch.cols
            order = np.argsort(keys)
            found.append((level, kind, keys[order], order))
        first = np.cumsum([0, *(len(b) for b in self.couplings)])
        table = packed.couplings.table
        parts = [packed.near.table, *(table[a:b] for a, b in pairwise(first))]
        return tuple(
            (level, kind, keys, np.ascontiguousarray(part[order][:, [0, 4, 5]]))
            for (level, kind, keys, order), part in zip(found, parts, strict=True)
        )

    def blocks_of(self, rows: IntArray, cols: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """The blocks that hold the entries between the leaves `rows` and `cols`.

        Start and shape of each (m, 3), its level, and how it is stored: 0 coupling, 1 adjoint of a coupling, 2 dense
        block, 3 adjoint of a dense block.
        """
        blocks, levels = np.zeros((len(rows), 3), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        kinds = np.full(len(rows), -1)
        for level, kind, keys, table in self._keys:
            shift = self.depth - level
            for turned in (0, 1) if self.half else (0,):
                open_ones = np.flatnonzero(kinds < 0)
                i, j = rows[open_ones] >> shift, cols[open_ones] >> shift
                wanted = (j << level) + i if turned else (i << level) + j
                at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
                hit = keys[at] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
                here = open_ones[hit]
                blocks[here], levels[here], kinds[here] = table[at[hit]], level, kind + turned
        return blocks, levels, kinds

    # -------------------------------------------------------------------------------- packing

    def packed(self) -> _Packed:
        """The flat form, made once; the arrays become views of its buffer, so nothing is stored twice."""
        if self._packed is None:
            self._packed = self._pack()
        return self._packed

    def _pack(self) -> _Packed:
        packer = _Packer(self)
        bases = [packer.basis(b) for b in ([self.row_basis] if self.half else [self.row_basis, self.col_basis])]
        self.near, near_start = packer.batch(self.near)
        couplings = [packer.batch(batch) for batch in self.couplings]
        self.couplings = tuple(batch for batch, _ in couplings)
        self.row_basis, self.col_basis = bases[0][0], bases[-1][0]
        buffer = packer.buffer
        buffer.flags.writeable = False
        (_, rows, row_places), (_, cols, col_places) = bases[0], bases[-1]
        p, q = self.near.data.shape[1:]
        leaves = np.arange((1 << self.depth) + 1)
        starts = [near_start, *(start for _, start in couplings)]
        near = _blocks([self.near], starts[:1], [0], leaves * p, leaves * q, self.half)
        first = [(1 << level) - 1 for level in range(1, self.depth + 1)]
        between = _blocks(list(self.couplings), starts[1:], first, row_places, col_places, self.half)
        return _Packed(buffer, rows, cols, row_places, col_places, np.concatenate(packer.orders), near, between)


class _Packer:
    """Copies arrays one after another into one buffer, of which they become views."""

    def __init__(self, storage: NestedStorage) -> None:
        bases = [storage.row_basis] if storage.half else [storage.row_basis, storage.col_basis]
        arrays = [storage.near.data, *(b.data for b in storage.couplings), *(a for b in bases for a in b.levels)]
        self.ready = storage._buffer is not None
        size, dtype = sum(a.size for a in arrays), storage.near.data.dtype
        self.buffer = np.empty(size, dtype=dtype) if storage._buffer is None else storage._buffer
        self.cursor = 0
        self.orders: list[IntArray] = [np.zeros(0, dtype=np.int32)]

    def _placed(self, a: NumpyArray, *, transposed: bool = False) -> tuple[NumpyArray, int]:
        start, self.cursor = self.cursor, self.cursor + a.size
        if self.ready:
            return a, start
        source = a.swapaxes(1, 2) if transposed else a
        view = self.buffer[start : self.cursor].reshape(source.shape)
        parallel_ranges(lambda s, t: np.copyto(view[s:t], source[s:t]), len(source), serial=a.nbytes < SERIAL_BYTES)
        return (view.swapaxes(1, 2) if transposed else view), start

    def batch(self, batch: Any) -> tuple[Any, int]:
        """A batch of blocks in the buffer, and where it begins."""
        view, start = self._placed(batch.data)
        return replace(batch, data=view), start

    def basis(self, basis: NestedBasis | RaggedBasis) -> tuple[Any, IntArray, IntArray]:
        """A basis in the buffer; start, p, k and start of its order for each node; where its coefficients begin."""
        columns, arrays = [np.zeros((1, 4), dtype=np.int64)], []
        ragged = isinstance(basis, RaggedBasis)
        for level, a in enumerate(basis.levels, start=1):
            # k rows of length p: long rows make fast loops
            view, start = self._placed(a, transposed=not ragged)
            arrays.append(view)
            nodes = 1 << level
            k = basis.ranks[level - 1] if isinstance(basis, RaggedBasis) else np.full(nodes, basis.width(level))
            p = basis.heights(level) if isinstance(basis, RaggedBasis) else np.full(nodes, basis.height(level))
            index = np.full(nodes, -1)
            if basis.orders is not None:
                index = sum(o.size for o in self.orders) + np.cumsum(p) - p
                self.orders.append(basis.orders[level - 1].ravel())
            sizes = k * (p if basis.orders is None else p - k)
            columns.append(np.stack([start + np.cumsum(sizes) - sizes, p, k, index], axis=1))
        table = np.concatenate(columns)
        return replace(basis, levels=tuple(arrays)), table, np.append(0, np.cumsum(table[:, 2]))


def _blocks(
    batches: list[BlockBatch | RaggedBatch], starts: list[int], first: list[int], rows: IntArray, cols: IntArray,
    half: bool,
) -> _Blocks:  # fmt: skip
    """Batches of dense blocks as tables and lists.

    starts: where each batch begins in the buffer; first: number of the first node of each batch's level; rows, cols:
    where the vectors of each node begin, (nodes + 1,).
    """
    tables, pairs = [np.zeros((0, 7), dtype=np.int64)], [np.zeros((0, 2), dtype=np.int64)]
    for batch, start, offset in zip(batches, starts, first, strict=True):
        if isinstance(batch, RaggedBatch):
            p, q, places = batch.heights, batch.widths, batch.starts[:-1]
        else:
            count, height, width = batch.data.shape
            p, q, places = np.full(count, height), np.full(count, width), np.arange(count) * (height * width)
        row, col = offset + batch.rows, offset + batch.cols
        mirrored = (batch.rows != batch.cols) if half else np.zeros(len(batch), dtype=bool)
        columns = (start + places, np.full(len(batch), -1), rows[row], cols[col], p, q, mirrored)
        tables.append(np.stack(columns, axis=1).astype(np.int64))
        pairs.append(np.stack([row, col], axis=1))
    table, pair = np.concatenate(tables), np.concatenate(pairs)
    by_row, by_col = (_list(table, pair[:, turn], len(rows) - 1) for turn in ([0, 1], [1, 0]))
    return _Blocks(table, (by_row[0], by_col[0]), (by_row[1], by_col[1]))


def _list(table: IntArray, pair: IntArray, nodes: int) -> tuple[IntArray, IntArray]:
    """Pointers and entries by the node that blocks act on, from the (acted on, other) nodes of each block."""
    mirrored = np.flatnonzero(table[:, 6])
    target = np.concatenate([pair[:, 0], pair[mirrored, 1]])
    other = np.concatenate([pair[:, 1], pair[mirrored, 0]])
    start = np.concatenate([table[:, 0], table[mirrored, 0]])
    turned = np.arange(len(target)) >= len(pair)
    order = np.argsort(target, kind="stable")
    pointers = np.searchsorted(target[order], np.arange(nodes + 1))
    return pointers.astype(np.int64), np.stack([start, other, turned], axis=1)[order].astype(np.int64)
