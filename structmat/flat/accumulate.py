"""Sums of many low-rank matrices, truncated once: the accumulators of the arithmetic of independent blocks.

Reference: S. Boerm, "Hierarchical matrix arithmetic with accumulated updates", Comput. Vis. Sci. 20 (2019) 71-84.
Departure: all blocks of a level are summed and truncated at once, in batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import adjoint, one_blas_thread, parallel_ranges
from .._typing import IntArray, NumpyArray
from ..blocks import LowRankBatch
from ..engine import cpu_panels
from ..engine.dense import matmul, qr, triangular_factor
from ..lowrank import truncated_range, truncated_svd
from .storage import by_rank

# numbers that a batch of sums may take in memory
CHUNK_NUMBERS = 1 << 24
# widths of sums are rounded up to a multiple of this, so that few different ones are left
WIDTH_STEP = 8

# columns of a table of terms: the block that the term belongs to, offsets of its factors, its rank, and its place
TERM_COLUMNS = 8


class Pool:
    """A flat buffer that grows; everything in it is known by its offset."""

    def __init__(self, dtype: np.dtype, size: int = 1 << 16) -> None:
        self.data = np.empty(size, dtype=dtype)
        self.used = 0

    def reserve(self, count: int) -> int:
        """The offset of `count` more numbers, uninitialised."""
        start = self.used
        self.used += count
        if self.used > len(self.data):
            grown = np.empty(max(self.used, 2 * len(self.data)), dtype=self.data.dtype)
            grown[:start] = self.data[:start]
            self.data = grown
        return start

    def zeros(self, count: int) -> int:
        """The offset of `count` zeros."""
        start = self.reserve(count)
        self.data[start : self.used] = 0
        return start

    def put(self, array: NumpyArray) -> IntArray:
        """The offsets of the matrices of a batch (nb, p, q), copied."""
        start, each = self.reserve(array.size), array[0].size if len(array) else 0
        self.data[start : self.used].reshape(array.shape)[...] = array
        return start + each * np.arange(len(array), dtype=np.int64)

    def release(self, mark: int) -> None:
        """Forget everything from the offset `mark` on."""
        self.used = mark


def terms_of(
    block: IntArray, factors: tuple[IntArray, IntArray], rank: IntArray, place: tuple[int, int, int, int]
) -> IntArray:
    """A table of terms, a row each: block, left and right factor, rank, and the place of the term in the block.

    `place` is the first row and the number of rows, the first column and the number of columns.
    """
    table = np.empty((len(block), TERM_COLUMNS), dtype=np.int64)
    columns: list[IntArray | int] = [block, *factors, rank, *place]
    for k, column in enumerate(columns):
        table[:, k] = column
    return table


def sorted_terms(terms: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """The table sorted by block, and where each block begins, (count + 1,)."""
    order = np.argsort(terms[:, 0], kind="stable")
    ordered = np.ascontiguousarray(terms[order])
    return ordered, np.searchsorted(ordered[:, 0], np.arange(count + 1)).astype(np.int64)


@dataclass(frozen=True)
class Truncated:
    """Truncated sums of one width: which blocks, and their zero-padded factors with orthonormal left ones."""

    blocks: IntArray  # (nb,)
    left: NumpyArray  # (nb, p, k)
    right: NumpyArray  # (nb, q, k)
    ranks: IntArray  # (nb,)
    square: float  # of the Frobenius norm of what was left out

    def batches(self, rows: IntArray, cols: IntArray) -> list[LowRankBatch]:
        """Low-rank blocks, a batch for each rank; rows and cols of all blocks."""
        return by_rank(self.left, self.right, self.ranks, rows[self.blocks], cols[self.blocks])

    def store(self, pool: Pool, left: IntArray, right: IntArray, rank: IntArray) -> None:
        """Put the factors into the pool and note their offsets and ranks."""
        rank[self.blocks] = self.ranks
        for k in np.unique(self.ranks):
            pick = np.flatnonzero(self.ranks == k)
            left[self.blocks[pick]] = pool.put(self.left[pick, :, :k])
            right[self.blocks[pick]] = pool.put(self.right[pick, :, :k])


def truncated_sums(
    pool: Pool, terms: IntArray, count: int, shape: tuple[int, int], tails: NumpyArray, *, optimal: bool
) -> list[Truncated]:
    """Truncate the sums of the terms of `count` blocks, each to its own tolerance.

    Parameters
    ----------
    pool : Pool
        Holds the factors.
    terms : (nt, 8) int array
        See `terms_of`.
    count : int
        Number of blocks; those without terms do not appear in the result.
    shape : pair of int
        Of each block, (p, q).
    tails : (count,) array
        The Frobenius norm that may be left out of each block.
    optimal : bool
        The smallest ranks, by singular value decompositions; else those of a pivoted factorisation, which is faster.

    Notes
    -----
    Cost O((p + q) w^2) for a sum of width w, and O(p q w) where w is large and the sum is formed.
    """
    ordered, starts = sorted_terms(terms, count)
    sums = np.concatenate([[0], np.cumsum(ordered[:, 3])])
    width = sums[starts[1:]] - sums[starts[:-1]]
    formed = 3 * width > min(shape)
    results = []
    for pick in _pieces(np.flatnonzero((width > 0) & formed), shape[0] * shape[1]):
        part, begin = _selected(ordered, starts, pick)
        results.append(_from_dense(_dense_sums(pool, part, begin, shape), pick, tails[pick], optimal))
    rounded = -(-width // WIDTH_STEP) * WIDTH_STEP
    rest = (width > 0) & ~formed
    for w in np.unique(rounded[rest]):
        for pick in _pieces(np.flatnonzero(rest & (rounded == w)), (shape[0] + shape[1]) * int(w)):
            part, begin = _selected(ordered, starts, pick)
            factors = _gathered(pool, part, begin, shape, int(w))
            results.append(_from_factors(*factors, pick, tails[pick], optimal))
    return results


def dense_sums(pool: Pool, terms: IntArray, count: int, shape: tuple[int, int]) -> NumpyArray:
    """The sums of the terms of `count` blocks as dense blocks (count, p, q)."""
    ordered, starts = sorted_terms(terms, count)
    return _dense_sums(pool, ordered, starts, shape)


def _pieces(pick: IntArray, numbers: int) -> list[IntArray]:
    step = max(1, CHUNK_NUMBERS // max(1, numbers))
    return [pick[k : k + step] for k in range(0, len(pick), step)]


def _selected(terms: IntArray, starts: IntArray, pick: IntArray) -> tuple[IntArray, IntArray]:
    """The terms of some blocks, and where each of these begins."""
    counts = starts[pick + 1] - starts[pick]
    begin = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    index = np.repeat(starts[pick] - begin[:-1], counts) + np.arange(begin[-1])
    return np.ascontiguousarray(terms[index]), begin


def _dense_sums(pool: Pool, terms: IntArray, starts: IntArray, shape: tuple[int, int]) -> NumpyArray:
    out = np.empty((len(starts) - 1, *shape), dtype=pool.data.dtype)
    with one_blas_thread():
        parallel_ranges(lambda a, b: cpu_panels.sum_terms(pool.data, terms, starts, out, a, b), len(out))
    return out


def _gathered(
    pool: Pool, terms: IntArray, starts: IntArray, shape: tuple[int, int], width: int
) -> tuple[NumpyArray, NumpyArray]:
    count = len(starts) - 1
    left, right = (np.zeros((count, side, width), dtype=pool.data.dtype) for side in shape)
    parallel_ranges(lambda a, b: cpu_panels.gather_terms(pool.data, terms, starts, left, right, a, b), count)
    return left, right


def _from_dense(blocks: NumpyArray, pick: IntArray, tails: NumpyArray, optimal: bool) -> Truncated:
    basis, ranks, left_out = (truncated_svd if optimal else truncated_range)(blocks.copy(), tails)
    return Truncated(pick, basis, matmul(adjoint(blocks), basis), ranks, float((left_out**2).sum()))


def _from_factors(left: NumpyArray, right: NumpyArray, pick: IntArray, tails: NumpyArray, optimal: bool) -> Truncated:
    """With left = Q R: the core R right^H has the singular values of the sum."""
    q, r = qr(left)
    core = matmul(r, adjoint(triangular_factor(right)))
    basis, ranks, left_out = (truncated_svd if optimal else truncated_range)(core, tails)
    coefficients = matmul(adjoint(r), basis)  # left^H (Q basis)
    return Truncated(pick, matmul(q, basis), matmul(right, coefficients), ranks, float((left_out**2).sum()))
