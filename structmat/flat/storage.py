"""The flat pass: storage and products of matrices whose blocks have bases of their own, HODLR and H.

A matrix is a list of dense and of low-rank blocks by level. A product reads each block once. Threads own ranges of
blocks of equal bytes, and each adds to a result of its own, so that nothing has to be locked and the sums do not depend
on timing.

A matrix in mixed precision is the sum of two such lists, one of each precision; a low-rank block may have columns in
both. Vectors and sums have the wider type: what is stored in the narrower one is widened when it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from .._backend import (
    adjoint,
    concatenated,
    conj,
    is_numpy,
    numpy_dtype,
    one_blas_thread,
    parallel_ranges,
    parallel_tasks,
    take,
    thread_count,
    with_columns,
)
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine import reference
from ..engine.dense import SERIAL_BYTES
from ..storage import Storage

DEVICE_STEP = 8

# for each level that has blocks: the level, the sorted keys row * 2**level + column, and rows of the table
Places = tuple[tuple[int, IntArray, IntArray], ...]


@dataclass(frozen=True)
class FlatBlocks:
    """The blocks of a matrix by level, 0 .. depth.

    Attributes
    ----------
    near : tuple of BlockBatch
        Dense blocks of each level, in padded coordinates: a node of level l has 2**(depth - l) padded leaves.
    far : tuple of tuples of LowRankBatch
        Low-rank blocks of each level, a batch for each rank.
    half : bool
        Hermitian, stored half: each block below the diagonal also stands for its adjoint above it.
    buffer : array, optional
        The flat buffer that all arrays are views of, in the order in which `FlatStorage` packs them.
    """

    near: tuple[BlockBatch, ...]
    far: tuple[tuple[LowRankBatch, ...], ...]
    half: bool = False
    buffer: NumpyArray | None = None

    @property
    def depth(self) -> int:
        """Level of the leaves."""
        return len(self.near) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of all numbers."""
        return numpy_dtype(self.near[-1].data)

    @property
    def batches(self) -> list[BlockBatch | LowRankBatch]:
        """All batches, dense ones first."""
        return [*self.near, *(b for level in self.far for b in level)]

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers, and of the integers that say where blocks act."""
        return sum(b.nbytes + b.rows.nbytes + b.cols.nbytes for b in self.batches)

    def adjoint(self) -> FlatBlocks:
        """The blocks of A^H, which are the same ones for a Hermitian matrix."""
        if self.half:
            return self
        near = tuple(BlockBatch(adjoint(b.data), b.cols, b.rows) for b in self.near)
        far = tuple(tuple(LowRankBatch(b.right, b.left, b.cols, b.rows) for b in level) for level in self.far)
        return FlatBlocks(near, far)

    def map(self, function: Callable[[Array], Array]) -> FlatBlocks:
        """`function` on every array; of each low-rank block on both factors."""
        near = tuple(BlockBatch(function(b.data), b.rows, b.cols) for b in self.near)
        far = tuple(
            tuple(LowRankBatch(function(b.left), function(b.right), b.rows, b.cols) for b in level)
            for level in self.far
        )
        return FlatBlocks(near, far, self.half)

    def conj(self) -> FlatBlocks:
        """The blocks of the complex conjugate of A."""
        return self.map(conj)

    def expanded(self) -> FlatBlocks:
        """The same matrix with both halves stored."""
        if not self.half:
            return self
        near, far = [], []
        for dense, batches in zip(self.near, self.far, strict=True):
            off = np.flatnonzero(dense.rows != dense.cols)
            data = concatenated([dense.data, adjoint(take(dense.data, off))])
            rows, cols = np.append(dense.rows, dense.cols[off]), np.append(dense.cols, dense.rows[off])
            near.append(BlockBatch(data, rows, cols))
            far.append(
                tuple(
                    LowRankBatch(
                        concatenated([b.left, b.right]), concatenated([b.right, b.left]),
                        np.append(b.rows, b.cols), np.append(b.cols, b.rows),
                    )
                    for b in batches
                )
            )  # fmt: skip
        return FlatBlocks(tuple(near), tuple(far))


@dataclass(frozen=True)
class _Packed:
    """One flat buffer with all blocks of one precision, and the table by which the compiled kernels find them."""

    buffer: NumpyArray
    table: IntArray  # (blocks, 7), see `engine.cpu_flat`
    cuts: IntArray  # first block of each thread's share, and the number of blocks

    @cached_property
    def widest(self) -> int:
        """The largest rank, at least 1."""
        return max(1, int(self.table[:, 1].max(initial=0)))

    @cached_property
    def tallest(self) -> int:
        """The largest side of a block."""
        return int(self.table[:, 4:6].max(initial=1))

    @cached_property
    def largest(self) -> int:
        """The most numbers of a dense block or of a factor of a low-rank one."""
        rank, rows, cols = self.table[:, 1], self.table[:, 4], self.table[:, 5]
        return int(np.where(rank < 0, rows * cols, rank * np.maximum(rows, cols)).max(initial=0))


class FlatStorage(Storage):
    """The blocks of one matrix, and the pass over them.

    Parameters
    ----------
    parts : FlatBlocks or tuple of FlatBlocks
        The blocks as they are stored: of one type, or one list for each precision, the widest first.
    row_size, col_size : int
        Padded sizes of the leaves.
    """

    widens = True

    def __init__(self, parts: FlatBlocks | tuple[FlatBlocks, ...], row_size: int, col_size: int) -> None:
        self.parts = (parts,) if isinstance(parts, FlatBlocks) else parts
        self.row_size, self.col_size = row_size, col_size
        self._packed: tuple[_Packed, ...] | None = None

    @property
    def half(self) -> bool:
        """Hermitian, stored half."""
        return self.parts[0].half

    @property
    def depth(self) -> int:
        """Level of the leaves."""
        return self.parts[0].depth

    @property
    def _example(self) -> Any:
        return self.parts[0].near[-1].data

    def _leaf_size(self, adjointly: bool) -> int:
        return self.col_size if adjointly else self.row_size

    def _apply_reference(self, x: Array, adjointly: bool) -> Array:
        size = self._leaf_size(adjointly)
        products = [reference.flat_apply(b.near, b.far, x, size, half=b.half, adjointly=adjointly) for b in self.parts]
        return products[0] if len(products) == 1 else products[0] + products[1]

    def _apply_compiled(self, x: NumpyArray, adjointly: bool) -> NumpyArray:
        packed = self.packed()
        leaves, _, columns = x.shape
        size, single = leaves * self._leaf_size(adjointly), columns == 1
        flat_x = np.ascontiguousarray(x).reshape(-1) if single else np.ascontiguousarray(x).reshape(-1, columns)
        shares = len(packed[0].cuts) - 1
        y = np.zeros((shares, *((size,) if single else (size, columns))), dtype=x.dtype)

        def work(share: int) -> None:
            for part in packed:
                _add_share(part, share, adjointly, flat_x, y[share])

        with one_blas_thread():
            parallel_tasks(work, shares)
        total = y[0]
        for share in range(1, shares):
            total += y[share]
        return total.reshape(leaves, -1, columns)

    @cached_property
    def places(self) -> tuple[Places, ...]:
        """Where the blocks of each part are."""
        return tuple(self._places(part.table) for part in self.packed())

    def _places(self, table: IntArray) -> Places:
        widths = table[:, 4] // self.row_size
        found = []
        for level in range(self.depth + 1):
            here = np.flatnonzero(widths == 1 << (self.depth - level))
            keys = (table[here, 2] // table[here, 4] << level) + table[here, 3] // table[here, 5]
            order = np.argsort(keys)
            if len(here):
                found.append((level, keys[order], here[order]))
        return tuple(found)

    # -------------------------------------------------------------------------------- packing

    def packed(self) -> tuple[_Packed, ...]:
        """The flat form of each part, made once; the arrays become views of its buffer, so nothing is stored twice."""
        if self._packed is None:
            threads = thread_count() if sum(b.nbytes for b in self.parts) >= SERIAL_BYTES else 1
            packed, self.parts = zip(*(self._pack(part, threads) for part in self.parts), strict=True)
            self._packed = packed
        return self._packed

    def _pack(self, blocks: FlatBlocks, threads: int) -> tuple[_Packed, FlatBlocks]:
        depth = blocks.depth
        total = sum(b.data.size for b in blocks.near)
        total += sum(b.left.size + b.right.size for level in blocks.far for b in level)
        ready = blocks.buffer is not None
        buffer = np.empty(total, dtype=blocks.dtype) if blocks.buffer is None else blocks.buffer
        cursor, tables, near, far = 0, [np.zeros((0, 7), dtype=np.int64)], [], []
        for level in range(depth + 1):
            p, q = self.row_size << (depth - level), self.col_size << (depth - level)
            batches = []
            for batch in blocks.far[level]:
                view = buffer[cursor : cursor + len(batch) * batch.rank * (p + q)].reshape(len(batch), -1)
                tables.append(_table(batch, cursor, batch.rank, p, q, blocks.half))
                batches.append(batch if ready else _placed(batch, view, p, q))
                cursor += view.size
            far.append(tuple(batches))
            dense = blocks.near[level]
            view = buffer[cursor : cursor + dense.data.size].reshape(dense.data.shape)
            if not ready:
                _copy(view, dense.data)
            tables.append(_table(dense, cursor, -1, p, q, blocks.half))
            near.append(BlockBatch(view, dense.rows, dense.cols))
            cursor += view.size
        buffer.flags.writeable = False
        table = np.concatenate(tables)
        packed = _Packed(buffer, table, _shares(table, buffer.size, threads))
        return packed, FlatBlocks(tuple(near), tuple(far), blocks.half, buffer)


def _add_share(packed: _Packed, share: int, adjointly: bool, x: NumpyArray, y: NumpyArray) -> None:
    """Add one share of the blocks times x, one vector (n,) or several (n, k), to y."""
    from ..engine import cpu_flat

    buffer, table, first, last = packed.buffer, packed.table, int(packed.cuts[share]), int(packed.cuts[share + 1])
    if x.ndim == 1:
        cpu_flat.flat_pass(buffer, table, packed.widest, first, last, adjointly, x, y)
    else:
        sizes = packed.widest, packed.tallest, packed.largest
        cpu_flat.flat_block_pass(buffer, table, *sizes, first, last, adjointly, x, y)


def _table(batch: BlockBatch | LowRankBatch, start: int, rank: int, p: int, q: int, half: bool) -> IntArray:
    count = len(batch)
    size = p * q if rank < 0 else rank * (p + q)
    mirrored = (batch.rows != batch.cols) if half else np.zeros(count, dtype=bool)
    columns = (start + np.arange(count) * size, np.full(count, rank), batch.rows * p, batch.cols * q)
    return np.stack([*columns, np.full(count, p), np.full(count, q), mirrored], axis=1).astype(np.int64)


def _placed(batch: LowRankBatch, view: NumpyArray, p: int, q: int) -> LowRankBatch:
    """The batch with its factors, transposed, copied into `view` (nb, k (p + q))."""
    k, count = batch.rank, len(batch)
    left, right = view[:, : k * p].reshape(count, k, p), view[:, k * p :].reshape(count, k, q)
    _copy(left, batch.left.swapaxes(1, 2))
    _copy(right, batch.right.swapaxes(1, 2))
    return LowRankBatch(left.swapaxes(1, 2), right.swapaxes(1, 2), batch.rows, batch.cols)


def _copy(target: NumpyArray, source: NumpyArray) -> None:
    parallel_ranges(lambda a, b: np.copyto(target[a:b], source[a:b]), len(source), serial=source.nbytes < SERIAL_BYTES)


def _shares(table: IntArray, total: int, threads: int) -> IntArray:
    """Where the shares of the threads begin: ranges of blocks of about equal parts of `total` numbers."""
    starts = np.append(table[:, 0], total)
    wanted = np.arange(1, threads) * total / threads
    return np.concatenate([[0], np.searchsorted(starts, wanted), [len(table)]]).astype(np.int64)


def by_rank(
    left: Array, right: Array, ranks: IntArray, rows: IntArray, cols: IntArray, *, widest: int = 0
) -> list[LowRankBatch]:
    """Batches of equal rank from zero-padded factors (nb, p, k) and (nb, q, k).

    On a device batches have ranks padded to multiples of DEVICE_STEP, but not beyond `widest` or the width of the
    factors: few batches of many blocks.
    """
    if not is_numpy(left):
        ranks = np.minimum(-(-ranks // DEVICE_STEP) * DEVICE_STEP, max(widest, left.shape[2]))
        left, right = (with_columns(f, max(f.shape[2], int(ranks.max(initial=0)))) for f in (left, right))
    order = np.argsort(ranks, kind="stable")
    batches = []
    for rank, group in groupby(order, key=lambda b: int(ranks[b])):
        pick = np.fromiter(group, dtype=np.int64)
        some = [take(factor[:, :, :rank], pick) for factor in (left, right)]
        batches.append(LowRankBatch(some[0], some[1], rows[pick], cols[pick]))
    return batches


def merged(batches: list[LowRankBatch]) -> tuple[LowRankBatch, ...]:
    """One batch for each rank, by rising rank and then by row."""
    result = []
    for _rank, group in groupby(sorted(batches, key=lambda b: b.rank), key=lambda b: b.rank):
        parts = list(group)
        rows, cols = np.concatenate([b.rows for b in parts]), np.concatenate([b.cols for b in parts])
        order = np.lexsort((cols, rows))
        left, right = concatenated([b.left for b in parts]), concatenated([b.right for b in parts])
        result.append(LowRankBatch(take(left, order), take(right, order), rows[order], cols[order]))
    return tuple(result)
