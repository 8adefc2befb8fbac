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

from .._backend import conj, parallel_ranges
from .._typing import IntArray, NumpyArray
from ..blocks import RaggedBasis, RaggedBatch
from ..engine import cpu_ragged, dense

# numbers of padding and all that are held at a time
PIECE = 1 << 22
# batches that are smaller than this when all are padded to the largest shape stay together
TOGETHER = 1 << 18


@dataclass(frozen=True)
class Ragged:
    """Matrices of different shapes, one after another, each row by row."""

    data: NumpyArray  # (total,)
    heights: IntArray  # (count,)
    widths: IntArray  # (count,)

    @cached_property
    def starts(self) -> IntArray:
        """Where each matrix begins, (count + 1,)."""
        return np.append(0, np.cumsum(self.heights * self.widths))

    def __len__(self) -> int:
        return len(self.heights)

    @classmethod
    def zeros(cls, heights: IntArray, widths: IntArray, dtype: Any) -> Ragged:
        """Zero matrices, to be filled with `put`."""
        return cls(np.zeros(int((heights * widths).sum()), dtype=dtype), heights, widths)

    @classmethod
    def of(cls, batch: RaggedBatch) -> Ragged:
        """The blocks of a batch."""
        return cls(batch.data, batch.heights, batch.widths)

    def padded(self, index: IntArray, p: int, q: int) -> NumpyArray:
        """Some of the matrices with zeros to the right and below, (len(index), p, q)."""
        out = np.zeros((len(index), p, q), dtype=self.data.dtype)
        places, heights, widths = np.arange(len(index)) * (p * q), self.heights[index], self.widths[index]
        copy(self.data, out, (self.starts[index], widths, places, q, heights, widths))
        return out

    def put(self, index: IntArray, blocks: NumpyArray) -> None:
        """Fill some of the matrices from the upper left corners of blocks (len(index), p, q)."""
        blocks = np.ascontiguousarray(blocks)
        _, p, q = blocks.shape
        places, heights, widths = np.arange(len(index)) * (p * q), self.heights[index], self.widths[index]
        copy(blocks, self.data, (places, q, self.starts[index], widths, heights, widths))

    def squares(self) -> NumpyArray:
        """The squared Frobenius norm of each matrix, (count,)."""
        total = np.append(0.0, np.cumsum(np.abs(self.data).astype(np.float64) ** 2))
        return np.diff(total[self.starts])


def copy(source: NumpyArray, target: NumpyArray, columns: Any, *, adjointly: bool = False) -> None:
    """Copy rectangles, or their conjugate transposes, between flat arrays; `columns` are those of `cpu_ragged`."""
    table = np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.int64)
    kernel = cpu_ragged.copy_adjoints if adjointly else cpu_ragged.copy_rectangles
    flat, out = source.reshape(-1), target.reshape(-1)
    parallel_ranges(lambda a, b: kernel(flat, out, table, a, b), len(table), serial=target.size < 1 << 14)


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
    out = Ragged.zeros(a.heights[index], widths, np.result_type(a.data, b.data))
    for members, (p, k, q) in groups(out.heights, inner, widths):
        if p * k * q:
            right = b.padded(members, q, k).swapaxes(1, 2) if transpose else b.padded(members, k, q)
            out.put(members, dense.matmul(a.padded(index[members], p, k), conj(right) if conjugate else right))
    return out


def qr_of_transposes(a: Ragged) -> tuple[Ragged, Ragged]:
    """For matrices M whose transposes (k, p) are given: the transposes of Q, (r, p), and R, (r, k)."""
    small = np.minimum(a.heights, a.widths)
    q, r = Ragged.zeros(small, a.widths, a.data.dtype), Ragged.zeros(small, a.heights, a.data.dtype)
    for members, (k, p) in groups(a.heights, a.widths):
        if k * p:
            factors = dense.qr(a.padded(members, k, p).swapaxes(1, 2))
            q.put(members, factors[0].swapaxes(1, 2))
            r.put(members, factors[1])
    return q, r


def level_of(basis: RaggedBasis, level: int) -> Ragged:
    """The transposes (k, p) of the bases of a level; identity parts must be written out."""
    return Ragged(basis.levels[level - 1], basis.ranks[level - 1], basis.heights(level))


def transfers(basis: RaggedBasis, level: int) -> Ragged:
    """For each node of a level, 2 .. depth, the transpose (k of the parent, k) of its transfer matrix."""
    parents, ranks = level_of(basis, level - 1), basis.ranks[level - 1]
    parent, second = np.divmod(np.arange(len(ranks)), 2)
    out = Ragged.zeros(parents.heights[parent], ranks, parents.data.dtype)
    at = parents.starts[parent] + second * ranks[2 * parent]
    copy(parents.data, out.data, (at, parents.widths[parent], out.starts[:-1], ranks, out.heights, ranks))
    return out


def joined(children: Ragged) -> Ragged:
    """The transposes (k, p) of bases from those of the parts that belong to the two children, (k, p_child)."""
    first = children.widths[::2]
    out = Ragged.zeros(children.heights[::2], first + children.widths[1::2], children.data.dtype)
    parent, second = np.divmod(np.arange(len(children)), 2)
    at = out.starts[parent] + second * first[parent]
    sizes = children.heights, children.widths
    copy(children.data, out.data, (children.starts[:-1], children.widths, at, out.widths[parent], *sizes))
    return out


def transposed(a: Ragged) -> Ragged:
    """The transposes, without conjugation."""
    out = Ragged.zeros(a.widths, a.heights, a.data.dtype)
    for members, (p, q) in groups(a.heights, a.widths):
        if p * q:
            out.put(members, a.padded(members, p, q).swapaxes(1, 2))
    return out
