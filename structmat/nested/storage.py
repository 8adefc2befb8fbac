"""Storage of matrices with nested bases, HSS and H2, and the pass over it.

A matrix is a near field (dense blocks between leaves), a row and a column basis, and for each level the couplings
between its nodes. A product goes up the tree in one basis, across through the couplings, and down in the other.

In mixed precision blocks are in one of two lists, by their precision, and the bases of a level in one of the two types.
Vectors and sums have the wider one.

Reference: W. Hackbusch, S. Boerm, "Data-sparse approximation by adaptive H2-matrices", Computing 69 (2002) 1-35.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np

from .._backend import adjoint, is_numpy, like, namespace, numpy_dtype, one_blas_thread, parallel_ranges
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, NestedBasis, RaggedBasis, RaggedBatch, array_bytes, chosen, turned
from ..engine import reference
from ..engine.dense import SERIAL_BYTES
from ..exceptions import DeviceError
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
class Across:
    """The blocks that are stored in one type of numbers."""

    near: BlockBatch
    couplings: tuple[BlockBatch | RaggedBatch, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers, and of the integers that say where blocks act."""
        return sum(b.nbytes + b.rows.nbytes + b.cols.nbytes for b in (self.near, *self.couplings))


@dataclass(frozen=True)
class _Part:
    """One flat buffer that holds all numbers of one type, and the blocks among them."""

    buffer: NumpyArray
    near: _Blocks
    couplings: _Blocks


@dataclass(frozen=True)
class _Packed:
    """The flat form: the parts, the wider one first, and the tables by which the compiled kernels find the bases.

    Positions in the tables of bases count through the buffers of all parts; those of the blocks through their own.
    """

    parts: tuple[_Part, ...]
    row_table: IntArray  # (nodes, 4): start, p, k of each node's basis, level by level, start of its order or -1
    col_table: IntArray
    row_places: IntArray  # (nodes + 1,): where the coefficients of each node begin
    col_places: IntArray
    orders: IntArray  # the orders of all interpolative bases
    kinds: tuple[tuple[int, ...], tuple[int, ...]]  # the part that holds the row (column) bases of each level

    @property
    def buffer(self) -> Any:
        """The buffer; in mixed precision both, as `cpu_entries` takes them."""
        return self.parts[0].buffer if len(self.parts) == 1 else tuple(part.buffer for part in self.parts)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return sum(part.buffer.nbytes for part in self.parts)

    @cached_property
    def sides(self) -> tuple[tuple[IntArray, IntArray, tuple[int, ...]], ...]:
        """Of the rows and of the columns: table with positions in the buffer of the level's own part, places, parts."""
        tables = []
        for table, kinds in zip((self.row_table, self.col_table), self.kinds, strict=True):
            own = table.copy()
            own[:, 0] -= np.repeat(kinds, 1 << np.arange(len(kinds))) * self.parts[0].buffer.size
            tables.append(own)
        return tuple(zip(tables, (self.row_places, self.col_places), self.kinds, strict=True))


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
    narrow : Across, optional
        Mixed precision: more blocks, in half the precision. The bases of a level may be so too.
    """

    widens = True

    def __init__(
        self,
        near: BlockBatch,
        couplings: tuple[BlockBatch | RaggedBatch, ...],
        row_basis: NestedBasis | RaggedBasis,
        col_basis: NestedBasis | RaggedBasis,
        *,
        half: bool = False,
        buffer: NumpyArray | None = None,
        narrow: Across | None = None,
    ) -> None:
        self.near = near
        self.couplings = couplings
        self.row_basis = row_basis
        self.col_basis = row_basis if half else col_basis
        self.half, self._buffer, self.narrow = half, buffer, narrow
        self._packed: _Packed | None = None

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.couplings)

    @property
    def parts(self) -> tuple[Across, ...]:
        """The blocks of each type of numbers, the wider one first."""
        wide = Across(self.near, self.couplings)
        return (wide,) if self.narrow is None else (wide, self.narrow)

    @property
    def bases(self) -> tuple[Any, ...]:
        """The row and the column basis, or the one that is both."""
        return (self.row_basis,) if self.half else (self.row_basis, self.col_basis)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored numbers, and of the integers that say where blocks act."""
        return sum(b.nbytes for b in self.bases) + sum(part.nbytes for part in self.parts)

    @property
    def nbytes_by_dtype(self) -> dict[str, int]:
        """The same by the type of the numbers, the wider one first."""
        wide = numpy_dtype(self.near.data)
        if self.narrow is None:
            return {wide.name: self.nbytes}
        other = numpy_dtype(self.narrow.near.data)
        levels = [a for basis in self.bases for a in basis.levels if numpy_dtype(a) == other]
        narrow = self.narrow.nbytes + sum(array_bytes(a) for a in levels)
        return {wide.name: self.nbytes - narrow, other.name: narrow}

    # ------------------------------------------------------------------------------- products

    @property
    def _example(self) -> Array:
        return self.near.data

    def _leaf_size(self, adjointly: bool) -> int:
        return int(self.near.data.shape[2 if adjointly else 1])

    def _apply_reference(self, x: Array, adjointly: bool) -> Array:
        parts, (rows, cols) = self._batched if not is_numpy(self._example) else self._as_batches()
        target, source = (cols, rows) if adjointly else (rows, cols)
        products = [
            reference.nested_apply(near, couplings, target, source, x, half=self.half, adjointly=adjointly)
            for near, couplings in parts
        ]
        return products[0] if len(products) == 1 else products[0] + products[1]

    @cached_property
    def _batched(self) -> tuple[list[tuple[BlockBatch, tuple[BlockBatch, ...]]], tuple[NestedBasis, NestedBasis]]:
        """`_as_batches`, kept: on a device, where products come back to it, memory is cheaper than gathering."""
        return self._as_batches()

    def _as_batches(self) -> tuple[list[tuple[BlockBatch, tuple[BlockBatch, ...]]], tuple[NestedBasis, NestedBasis]]:
        """The dense blocks and couplings of each part and the row and column basis, blocks of a level of one shape."""
        rows, cols = self.row_basis, self.col_basis
        parts = [
            (
                part.near,
                tuple(
                    b.padded(rows.width(level), cols.width(level)) if isinstance(b, RaggedBatch) else b
                    for level, b in enumerate(part.couplings, start=1)
                ),
            )
            for part in self.parts
        ]
        row_basis = rows.padded()
        return parts, (row_basis, row_basis if cols is rows else cols.padded())

    def _apply_compiled(self, x: NumpyArray, adjointly: bool) -> NumpyArray:
        """The compiled pass: memory-bound loops for one vector, BLAS for several."""
        from .sweep import Sweep

        sweep = Sweep(self, x, adjointly)
        with nullcontext() if sweep.single else one_blas_thread():
            # blocks that also act as their adjoints are read once for both, those on the diagonal once anyway
            if self.half and sum(len(part.near) for part in self.parts) > 1 << self.depth:
                sweep.by_blocks()
            else:
                sweep.by_nodes()
        return sweep.y.reshape(x.shape[0], -1, x.shape[2])

    def stored(self) -> NestedStorage:
        """The same matrix with all its blocks stored, and in one type: what everything but products works with."""
        if self.narrow is None:
            return self
        if not is_numpy(self.near.data):
            raise DeviceError('a matrix in mixed precision only multiplies there: call A.to_device("cpu") first')
        dtype = self.near.data.dtype

        def widened(a: Array) -> Array:
            return a.astype(dtype, copy=False)

        return self._mapped(widened, lambda basis: replace(basis, levels=tuple(widened(a) for a in basis.levels)))

    def map(self, function: Callable[[Array], Array]) -> NestedStorage:
        """`function` on every array; what is of one type then becomes one. Identity parts of bases are written out."""
        return self._mapped(function, lambda basis: basis.map(function))

    def _mapped(self, function: Callable[[Array], Array], of_basis: Callable[[Any], Any]) -> NestedStorage:
        bases = [of_basis(basis) for basis in self.bases]
        parts = [
            Across(_mapped(part.near, function), tuple(_mapped(b, function) for b in part.couplings))
            for part in self.parts
        ]
        if len({numpy_dtype(part.near.data) for part in parts}) == 1:
            parts = [_together(parts)]
        narrow = None if len(parts) == 1 else parts[1]
        return NestedStorage(parts[0].near, parts[0].couplings, bases[0], bases[-1], half=self.half, narrow=narrow)

    def adjoint(self) -> NestedStorage:
        """The storage of A^H, which is the same one for a Hermitian matrix."""
        if self.half:
            return self
        parts = [Across(_turned(part.near), tuple(_turned(b) for b in part.couplings)) for part in self.parts]
        narrow = None if len(parts) == 1 else parts[1]
        return NestedStorage(parts[0].near, parts[0].couplings, self.col_basis, self.row_basis, narrow=narrow)

    def block_places(self) -> tuple[list[IntArray], IntArray]:
        """Row and column node, (nb, 2), of the couplings of each level, 0 .. depth, and of the dense blocks."""
        near = _places([part.near for part in self.parts])
        by_level = zip(*(part.couplings for part in self.parts), strict=True)
        return [np.zeros((0, 2), dtype=np.int64), *(_places(list(batches)) for batches in by_level)], near

    def sampled_couplings(self, level: int, left: NumpyArray, right: NumpyArray) -> NumpyArray:
        """Left B right^H for the couplings of a level and some rows of each node's basis, (nb, s, s').

        left (2**level, s, k) and right (2**level, s', k'). For matrices whose numbers are of one type.
        """
        from ..engine import cpu_skeleton

        (packed,), batch = self.packed().parts, self.couplings[level - 1]
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
        """Level, 2 for the near field or 0, sorted keys row * 2**level + column, and starts and shapes by them.

        The starts count through the buffers of all parts.
        """
        packed, before = self.packed(), 0
        found: list[tuple[int, int, IntArray, IntArray]] = []
        for part, blocks in zip(self.parts, packed.parts, strict=True):
            first = np.cumsum([0, *(len(b) for b in part.couplings)])
            tables = [blocks.near.table, *(blocks.couplings.table[a:b] for a, b in pairwise(first))]
            levels = [(self.depth, 2, part.near), *((level, 0, b) for level, b in enumerate(part.couplings, start=1))]
            for (level, kind, batch), table in zip(levels, tables, strict=True):
                keys = (np.asarray(batch.rows, dtype=np.int64) << level) + batch.cols
                order = np.argsort(keys)
                starts = table[order][:, [0, 4, 5]]
                starts[:, 0] += before
                found.append((level, kind, keys[order], starts))
            before += blocks.buffer.size
        return tuple(found)

    def blocks_of(self, rows: IntArray, cols: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """The blocks that hold the entries between the leaves `rows` and `cols`.

        Start and shape of each (m, 3), its level, and how it is stored: 0 coupling, 1 adjoint of a coupling, 2 dense
        block, 3 adjoint of a dense block.
        """
        blocks, levels = np.zeros((len(rows), 3), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        kinds = np.full(len(rows), -1)
        for level, kind, keys, table in self._keys:
            shift = self.depth - level
            for flipped in (0, 1) if self.half else (0,):
                open_ones = np.flatnonzero(kinds < 0)
                i, j = rows[open_ones] >> shift, cols[open_ones] >> shift
                wanted = (j << level) + i if flipped else (i << level) + j
                at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
                hit = keys[at] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
                here = open_ones[hit]
                blocks[here], levels[here], kinds[here] = table[at[hit]], level, kind + flipped
        return blocks, levels, kinds

    # -------------------------------------------------------------------------------- packing

    def packed(self) -> _Packed:
        """The flat form, made once; the arrays become views of its buffer, so nothing is stored twice."""
        if self._packed is None:
            self._packed = self._pack()
        return self._packed

    def _pack(self) -> _Packed:
        packer = _Packer(self)
        bases = [packer.basis(b) for b in self.bases]
        (self.row_basis, rows, row_places, row_kinds), (self.col_basis, cols, col_places, col_kinds) = (
            bases[0], bases[-1],
        )  # fmt: skip
        self.near, self.couplings, *blocks = packer.across(self.parts[0], self.half, row_places, col_places)
        found = [blocks]
        if self.narrow is not None:
            near, couplings, *blocks = packer.across(self.narrow, self.half, row_places, col_places)
            self.narrow = Across(near, couplings)
            found.append(blocks)
        for buffer in packer.buffers:
            buffer.flags.writeable = False
        parts = tuple(_Part(buffer, *blocks) for buffer, blocks in zip(packer.buffers, found, strict=True))
        orders = np.concatenate(packer.orders)
        return _Packed(parts, rows, cols, row_places, col_places, orders, (row_kinds, col_kinds))


class _Packer:
    """Copies arrays one after another into a buffer of their type, of which they become views."""

    def __init__(self, storage: NestedStorage) -> None:
        batches = [b for part in storage.parts for b in (part.near, *part.couplings)]
        arrays = [*(b.data for b in batches), *(a for b in storage.bases for a in b.levels)]
        self.ready = storage._buffer is not None
        self.dtypes = [part.near.data.dtype for part in storage.parts]
        sizes = [sum(a.size for a in arrays if a.dtype == dtype) for dtype in self.dtypes]
        self.buffers = [
            np.empty(size, dtype=dtype) if storage._buffer is None else storage._buffer
            for size, dtype in zip(sizes, self.dtypes, strict=True)
        ]
        self.cursors = [0 for _ in sizes]
        self.depth, (self.p, self.q) = storage.depth, storage.near.data.shape[1:]
        self.orders: list[IntArray] = [np.zeros(0, dtype=np.int32)]

    def _placed(self, a: NumpyArray, *, transposed: bool = False) -> tuple[NumpyArray, int]:
        kind = self.dtypes.index(a.dtype)
        start = self.cursors[kind]
        self.cursors[kind] += a.size
        if self.ready:
            return a, start
        source = a.swapaxes(1, 2) if transposed else a
        view = self.buffers[kind][start : self.cursors[kind]].reshape(source.shape)
        parallel_ranges(lambda s, t: np.copyto(view[s:t], source[s:t]), len(source), serial=a.nbytes < SERIAL_BYTES)
        return (view.swapaxes(1, 2) if transposed else view), start

    def across(self, part: Across, half: bool, row_places: IntArray, col_places: IntArray) -> tuple[Any, ...]:
        """Near field and couplings in the buffer of their type, and their tables and lists."""
        batches, starts = [], []
        for batch in (part.near, *part.couplings):
            view, start = self._placed(batch.data)
            batches.append(replace(batch, data=view))
            starts.append(start)
        leaves = np.arange((1 << self.depth) + 1)
        near = _blocks(batches[:1], starts[:1], [0], leaves * self.p, leaves * self.q, half)
        first = [(1 << level) - 1 for level in range(1, self.depth + 1)]
        between = _blocks(batches[1:], starts[1:], first, row_places, col_places, half)
        return batches[0], tuple(batches[1:]), near, between

    def basis(self, basis: NestedBasis | RaggedBasis) -> tuple[Any, IntArray, IntArray, tuple[int, ...]]:
        """A basis in the buffers; start, p, k and start of its order for each node; where its coefficients begin.

        And the buffer of each level.
        """
        columns, arrays, kinds = [np.zeros((1, 4), dtype=np.int64)], [], []
        ragged = isinstance(basis, RaggedBasis)
        for level, a in enumerate(basis.levels, start=1):
            # k rows of length p: long rows make fast loops
            view, start = self._placed(a, transposed=not ragged)
            arrays.append(view)
            kinds.append(self.dtypes.index(a.dtype))
            start += self.buffers[0].size * kinds[-1]  # positions count through both buffers
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
        places = np.append(0, np.cumsum(table[:, 2]))
        kinds = [*(kinds[:1] or [0]), *kinds]  # the root has no basis: it goes with the level below
        return replace(basis, levels=tuple(arrays)), table, places, tuple(kinds)


def _mapped(batch: Any, function: Callable[[Array], Array]) -> Any:
    return replace(batch, data=function(batch.data))


def _turned(batch: Any) -> Any:
    """The adjoints of the blocks, at the mirrored places."""
    if isinstance(batch, RaggedBatch):
        return turned(batch)
    return BlockBatch(adjoint(batch.data), batch.cols, batch.rows)


def _places(batches: Sequence[BlockBatch | RaggedBatch]) -> IntArray:
    """Row and column node of the blocks, (nb, 2): as they are stored, or sorted where there are two batches."""
    places = np.concatenate([np.stack([b.rows, b.cols], axis=1) for b in batches])
    return places if len(batches) == 1 else places[np.lexsort((places[:, 1], places[:, 0]))]


def _together(parts: Sequence[Across]) -> Across:
    """All blocks of parts of one type, sorted by row and column node."""
    if len(parts) == 1:
        return parts[0]
    by_level = zip(*(part.couplings for part in parts), strict=True)
    near: Any = _joined([part.near for part in parts])
    return Across(near, tuple(_joined(list(batches)) for batches in by_level))


def _joined(batches: Sequence[Any]) -> BlockBatch | RaggedBatch:
    xp = namespace(batches[0].data)
    data = xp.concat([b.data for b in batches], axis=0)
    rows, cols = (np.concatenate([getattr(b, side) for b in batches]) for side in ("rows", "cols"))
    order = np.lexsort((cols, rows))
    if isinstance(batches[0], RaggedBatch):
        shapes = (np.concatenate([getattr(b, side) for b in batches]) for side in ("heights", "widths"))
        return chosen(RaggedBatch(data, rows, cols, *shapes), order)
    return BlockBatch(xp.take(data, like(order, data), axis=0), rows[order], cols[order])


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
