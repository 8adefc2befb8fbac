"""Linear algebra over many small matrices of different shapes.

Those of similar shapes are padded to a common one with zeros, which is exact, and go through the batched routines of
`engine.dense` together; memory for padding is held for a piece of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .._backend import (
    as_dtype_of,
    cast,
    conj,
    is_numpy,
    like,
    namespace,
    numbers_beside,
    parallel_ranges,
    require_assignment,
    running_sums,
    take,
    to_numpy,
    zeros_beside,
)
from .._backend import transpose as turned
from .._typing import Array, IntArray, NumpyArray
from ..blocks import RaggedBasis, RaggedBatch
from ..engine import cpu_ragged, dense

# numbers of padding and all that are held at a time
PIECE = 1 << 22
# batches that are smaller than this when all are padded to the largest shape stay together
TOGETHER = 1 << 18


@dataclass(frozen=True)
class Ragged:
    """Matrices of different shapes, one after another, each row by row."""

    data: Array  # (total,)
    heights: IntArray  # (count,)
    widths: IntArray  # (count,)

    @cached_property
    def starts(self) -> IntArray:
        """Where each matrix begins, (count + 1,)."""
        return np.append(0, np.cumsum(self.heights * self.widths))

    def __len__(self) -> int:
        return len(self.heights)

    @classmethod
    def zeros(cls, heights: IntArray, widths: IntArray, *examples: Array) -> Ragged:
        """Zero matrices, to be filled with `put`, of the type and in the place of the examples."""
        return cls(zeros_beside(int((heights * widths).sum()), *examples), heights, widths)

    @classmethod
    def of(cls, batch: RaggedBatch) -> Ragged:
        """The blocks of a batch."""
        return cls(batch.data, batch.heights, batch.widths)

    def padded(self, index: IntArray, p: int, q: int) -> Array:
        """Some of the matrices with zeros to the right and below, (len(index), p, q)."""
        out = zeros_beside((len(index), p, q), self.data)
        places, heights, widths = np.arange(len(index)) * (p * q), self.heights[index], self.widths[index]
        copy(self.data, out, (self.starts[index], widths, places, q, heights, widths))
        return out

    def put(self, index: IntArray, blocks: Array) -> None:
        """Fill some of the matrices from the upper left corners of blocks (len(index), p, q)."""
        blocks = np.ascontiguousarray(blocks) if is_numpy(blocks) else blocks
        _, p, q = blocks.shape
        places, heights, widths = np.arange(len(index)) * (p * q), self.heights[index], self.widths[index]
        copy(blocks, self.data, (places, q, self.starts[index], widths, heights, widths))

    def squares(self) -> NumpyArray:
        """The squared Frobenius norm of each matrix, (count,)."""
        return self.sums(cast(abs(self.data), np.dtype(np.float64)) ** 2)

    def sums(self, values: Array) -> NumpyArray:
        """The sums of values that belong to the numbers of each matrix, (count,), NumPy's."""
        return np.diff(to_numpy(take(running_sums(values), self.starts)))


def copy(source: Array, target: Array, columns: Any, *, adjointly: bool = False) -> None:
    """Copy rectangles, or their conjugate transposes, between flat arrays; `columns` are those of `cpu_ragged`."""
    table = np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.int64)
    if not is_numpy(source):
        _copy_there(source, target, table, adjointly)
        return
    kernel = cpu_ragged.copy_adjoints if adjointly else cpu_ragged.copy_rectangles
    flat, out = source.reshape(-1), target.reshape(-1)
    parallel_ranges(lambda a, b: kernel(flat, out, table, a, b), len(table), serial=target.size < 1 << 14)


def _copy_there(source: Array, target: Array, table: IntArray, adjointly: bool) -> None:
    """`copy` in other libraries, by index arrays that are made there; for a piece of the rectangles at a time."""
    require_assignment(source)
    xp = namespace(source)
    table = table[table[:, 4] * table[:, 5] > 0]
    flat, out = xp.reshape(source, (-1,)), target.reshape(-1)
    numbers = table[:, 4] * table[:, 5]
    piece = np.cumsum(numbers) // PIECE
    for part in np.split(table, np.flatnonzero(np.diff(piece)) + 1):
        if not len(part):
            continue
        ends = np.cumsum(part[:, 4] * part[:, 5])
        first = ends - part[:, 4] * part[:, 5]
        places = numbers_beside(int(ends[-1]), source)
        owner = xp.searchsorted(like(ends, source), places, side="right")
        start, stride, place, step, _, columns, before = (
            xp.take(like(c, source), owner, axis=0) for c in (*part.T.copy(), first)
        )
        row = (places - before) // columns
        column = places - before - row * columns
        values = as_dtype_of(xp.take(flat, start + row * stride + column, axis=0), out)
        if adjointly:
            out[place + column * step + row] = conj(values)
        else:
            out[place + row * step + column] = values


def groups(*sizes: IntArray) -> Iterator[tuple[IntArray, tuple[int, ...]]]:
    """Items of similar sizes, in pieces: which items, and the sizes to pad all of these to.

    Products of these sizes that follow each other are the numbers of the matrices that are padded.
    """
    count = len(sizes[0])
    if not count:
        return
    largest = tuple(int(s.max()) for s in sizes)
    numbers = max(1, *(a * b for a, b in pairwise(largest)))
    if count * numbers <= TOGETHER:
        yield np.arange(count), largest
        return
    shapes, which = np.unique(np.stack([_rounded(s) for s in sizes], axis=1), axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.searchsorted(which.ravel()[order], np.arange(len(shapes) + 1))
    for shape, begin, end in zip(shapes, ends, ends[1:], strict=False):
        numbers = max(1, *(int(a * b) for a, b in pairwise(shape)))
        step = max(1, PIECE // numbers)
        for first in range(begin, end, step):
            yield order[first : min(end, first + step)], tuple(int(s) for s in shape)


def _rounded(sizes: IntArray) -> IntArray:
    """Rounded up to multiples of an eighth to a quarter of themselves, so that there are few different ones."""
    step = 1 << np.maximum(2, np.frexp(sizes.astype(np.float64))[1] - 3)
    return -(-sizes // step) * step


def multiply(
    a: Ragged, b: Ragged, *, transpose: bool = False, conjugate: bool = False, a_index: IntArray | None = None
) -> Ragged:
    """The products a_i b_i, with b_i transposed and conjugated as asked; a_index: which of a belongs to each of b."""
    index = np.arange(len(b)) if a_index is None else a_index
    inner, widths = (b.widths, b.heights) if transpose else (b.heights, b.widths)
    out = Ragged.zeros(a.heights[index], widths, a.data, b.data)
    for members, (p, k, q) in groups(out.heights, inner, widths):
        if p * k * q:
            right = turned(b.padded(members, q, k)) if transpose else b.padded(members, k, q)
            out.put(members, dense.matmul(a.padded(index[members], p, k), conj(right) if conjugate else right))
    return out


def qr_of_transposes(a: Ragged) -> tuple[Ragged, Ragged]:
    """For matrices M whose transposes (k, p) are given: the transposes of Q, (r, p), and R, (r, k)."""
    small = np.minimum(a.heights, a.widths)
    q, r = Ragged.zeros(small, a.widths, a.data), Ragged.zeros(small, a.heights, a.data)
    for members, (k, p) in groups(a.heights, a.widths):
        if k * p:
            factors = dense.qr(turned(a.padded(members, k, p)))
            q.put(members, turned(factors[0]))
            r.put(members, factors[1])
    return q, r


def level_of(basis: RaggedBasis, level: int) -> Ragged:
    """The transposes (k, p) of the bases of a level; identity parts must be written out."""
    return Ragged(basis.levels[level - 1], basis.ranks[level - 1], basis.heights(level))


def transfers(basis: RaggedBasis, level: int) -> Ragged:
    """For each node of a level, 2 .. depth, the transpose (k of the parent, k) of its transfer matrix."""
    parents, ranks = level_of(basis, level - 1), basis.ranks[level - 1]
    parent, second = np.divmod(np.arange(len(ranks)), 2)
    out = Ragged.zeros(parents.heights[parent], ranks, parents.data)
    at = parents.starts[parent] + second * ranks[2 * parent]
    copy(parents.data, out.data, (at, parents.widths[parent], out.starts[:-1], ranks, out.heights, ranks))
    return out


def joined(children: Ragged) -> Ragged:
    """The transposes (k, p) of bases from those of the parts that belong to the two children, (k, p_child)."""
    first = children.widths[::2]
    out = Ragged.zeros(children.heights[::2], first + children.widths[1::2], children.data)
    parent, second = np.divmod(np.arange(len(children)), 2)
    at = out.starts[parent] + second * first[parent]
    sizes = children.heights, children.widths
    copy(children.data, out.data, (children.starts[:-1], children.widths, at, out.widths[parent], *sizes))
    return out


def transposed(a: Ragged) -> Ragged:
    """The transposes, without conjugation."""
    out = Ragged.zeros(a.widths, a.heights, a.data)
    for members, (p, q) in groups(a.heights, a.widths):
        if p * q:
            out.put(members, turned(a.padded(members, p, q)))
    return out
