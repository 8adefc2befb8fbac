"""What all compressors share: their interface, the values that they return, and the work in chunks.

A compressor is a value, `ACA(rtol=1e-6)`: the name of an algorithm with its parameters. It approximates one matrix,
`ACA(rtol=1e-6)(a)`, or a batch of blocks of a matrix, `compress(source, rows, cols, tail)`, which is what the builds of
hierarchical matrices call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._typing import IntArray, NumpyArray, RandomLike
from ..exceptions import ShapeError
from ..sources import EntrySource, KernelSource

CHUNK_BYTES = 1 << 25  # more does not make the batched calls faster, and leaves the cache


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix of low rank in factored form, `left @ right^H`, and what is known of its error.

    Attributes
    ----------
    left : (p, k) array
    right : (q, k) array
    estimate : float
        Estimate of the Frobenius norm of the error, absolute.
    entries : int
        Entries of the matrix that were evaluated to find it.
    method : str
        The compressor that made it.
    fell_back : bool
        The method was not reliable on this matrix, and a safer one did the work.
    skeleton : (k,) int array or None
        Of an interpolative decomposition the rows that `right^H` consists of.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.lowrank import TruncatedSVD
    >>> x, y = np.linspace(0, 1, 40), np.linspace(2, 3, 30)
    >>> low_rank = TruncatedSVD(rtol=1e-6)(1 / (y - x[:, None]))
    >>> low_rank.shape, low_rank.rank, (low_rank @ np.ones(30)).shape
    ((40, 30), 4, (40,))
    """

    left: NumpyArray
    right: NumpyArray
    estimate: float
    entries: int
    method: str
    fell_back: bool = False
    skeleton: IntArray | None = None

    __array_ufunc__ = None  # so that NumPy leaves `x @ self` to __rmatmul__

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def rank(self) -> int:
        """Columns of the factors."""
        return self.left.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the factors."""
        return self.left.dtype

    def to_dense(self) -> NumpyArray:
        """The product of the factors, (p, q)."""
        return self.left @ self.right.conj().T

    def __matmul__(self, x: Any) -> NumpyArray:
        """The product with (q,) or (q, m), at cost O((p + q) k) a column."""
        x = _check.operand(x, self.shape[1], self.shape)
        return self.left @ (self.right.conj().T @ x)

    def __rmatmul__(self, x: Any) -> NumpyArray:
        """The product of (p,) or (m, p) with this."""
        x = np.asarray(x)
        if x.ndim not in (1, 2) or x.shape[-1] != self.shape[0]:
            raise ShapeError(f"x must end with {self.shape[0]} columns, the rows of this matrix, but it is {x.shape}")
        return (x @ self.left) @ self.right.conj().T

    def __repr__(self) -> str:
        fallback = ", fell back" if self.fell_back else ""
        return f"<LowRank {self.shape} of rank {self.rank} by {self.method}, error {self.estimate:.1e}{fallback}>"


@dataclass(frozen=True, eq=False)
class LowRankBatch:
    """Blocks of low rank, `left[b] @ right[b]^H`, padded with zero columns to the largest rank k.

    Attributes
    ----------
    left : (nb, p, k) array
    right : (nb, q, k) array
    ranks : (nb,) int array
    estimates : (nb,) array
        Estimates of the Frobenius norms of the errors, absolute.
    fell_back : (nb,) bool array
        The method was not reliable on this block, and a safer one did the work.
    entries : int
        Entries that were evaluated for all blocks.
    skeletons : (nb, k) int array or None
        Of interpolative decompositions the rows of each block that `right^H` consists of, -1 beyond the rank.
    """

    left: NumpyArray
    right: NumpyArray
    ranks: IntArray
    estimates: NumpyArray
    fell_back: NumpyArray
    entries: int
    skeletons: IntArray | None = None

    def __len__(self) -> int:
        return len(self.ranks)

    def part(self, blocks: NumpyArray) -> LowRankBatch:
        """Some of the blocks, by their numbers or a mask."""
        skeletons = None if self.skeletons is None else self.skeletons[blocks]
        return LowRankBatch(
            self.left[blocks],
            self.right[blocks],
            self.ranks[blocks],
            self.estimates[blocks],
            self.fell_back[blocks],
            self.entries,
            skeletons,
        )

    def block(self, b: int, method: str = "") -> LowRank:
        """One block without its padding."""
        k = int(self.ranks[b])
        skeleton = None if self.skeletons is None else self.skeletons[b, :k]
        left, right = np.ascontiguousarray(self.left[b, :, :k]), np.ascontiguousarray(self.right[b, :, :k])
        return LowRank(left, right, float(self.estimates[b]), self.entries, method, bool(self.fell_back[b]), skeleton)


class DenseSource(EntrySource):
    """The entries of an array, many blocks at once."""

    batched = True

    def __init__(self, a: NumpyArray) -> None:
        self.array = a
        super().__init__(lambda i, j: a[np.ix_(i, j)], (a.shape[0], a.shape[1]), a.dtype)

    def _batch(self, rows: IntArray, cols: IntArray) -> NumpyArray | None:
        return self.array[rows[:, :, None], cols[:, None, :]]


@dataclass(frozen=True)
class Compressor(ABC):
    """An algorithm that finds matrices of low rank, with its parameters.

    Compressors compare equal when their parameters do, and can be keys of a dictionary.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix (of each block on its own).

    See Also
    --------
    TruncatedSVD, PivotedQR, Interpolative, ACA, Nystrom, GeneralizedNystrom, RandomizedRange, Chebyshev
    """

    rtol: float = 1e-8

    def __post_init__(self) -> None:
        _check.tolerance(self.rtol)

    def __call__(self, a: Any, *where: Any, max_rank: int | None = None, rng: RandomLike = None) -> LowRank:
        """An approximation of one matrix.

        Parameters
        ----------
        a : (p, q) array, function or source
            The matrix; or with a `shape` behind it, `compressor(entries, (p, q))`, a function entries(i, j) that
            returns the (len(i), len(j)) block at rows i and columns j; or with points, `compressor(kernel, x, y)`, a
            kernel.
        max_rank : int, optional
            No rank exceeds this, whatever that does to the error; `estimate` tells.
        rng : int or numpy.random.Generator, optional
            Of methods and checks that draw random numbers.
        """
        source = as_source(a, *where)
        m, n = source.shape
        batch = self.compress(source, np.arange(m)[None], np.arange(n)[None], max_rank=max_rank, rng=rng)
        return batch.block(0, repr(self))

    def compress(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        tail: Any = None,
        *,
        max_rank: int | None = None,
        rng: RandomLike = None,
    ) -> LowRankBatch:
        """Approximations of a batch of blocks of a matrix.

        Parameters
        ----------
        source : EntrySource
            The matrix.
        rows, cols : (nb, p) and (nb, q) int arrays
            Where the blocks lie; -1 is padding, a zero row or column.
        tail : (nb,) array or float, optional
            Tolerance of each block, the absolute Frobenius norm of its error. Default: `rtol` times its own norm.
        max_rank : int, optional
            No rank exceeds this.
        rng : int or numpy.random.Generator, optional
            Of methods and checks that draw random numbers.

        Raises
        ------
        NonFiniteError
            For NaN or infinite entries; the message says where.
        """
        if not isinstance(source, EntrySource):
            raise TypeError(
                f"source must be an EntrySource (as structmat.sources has them), but it is a {type(source).__name__}; "
                "for one matrix call the compressor itself, compressor(a)"
            )
        rows, cols = _block_indices(rows, "rows", source.shape[0]), _block_indices(cols, "cols", source.shape[1])
        if len(rows) != len(cols):
            raise ShapeError(f"rows and cols must hold as many blocks, but their shapes are {rows.shape}, {cols.shape}")
        limit = None if max_rank is None else _check.positive_integer(max_rank, "max_rank", minimum=0)
        tails = None if tail is None else _block_tolerances(tail, len(rows))
        self._check_blocks(source, rows, cols)
        return self._compress(source, rows, cols, tails, limit, _check.generator(rng))

    def _compress(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        tails: NumpyArray | None,
        limit: int | None,
        rng: np.random.Generator,
    ) -> LowRankBatch:
        """`compress` behind the checks: a chunk of blocks that fits into memory at a time."""
        (nb, p), q = rows.shape, cols.shape[1]
        if nb == 0 or p == 0 or q == 0:
            return empty_batch((nb, p, q), source.dtype)
        size = max(1, int(CHUNK_BYTES // max(1, self._numbers(p, q) * source.dtype.itemsize)))
        before, parts = source.evaluated, []
        for start in range(0, nb, size):
            s = slice(start, start + size)
            parts.append(self._chunk(source, rows[s], cols[s], None if tails is None else tails[s], limit, rng))
        batch = join(parts, source.evaluated - before)
        batch.left[rows < 0] = 0  # orthogonal factors leave rounding in rows that were zero
        batch.right[cols < 0] = 0
        return batch

    def _check_blocks(self, source: EntrySource, rows: IntArray, cols: IntArray) -> None:
        """Raise for sources and blocks that this method cannot use; most can use all."""
        return

    def _numbers(self, p: int, q: int) -> int:
        """Numbers that one block needs in memory, roughly."""
        return 3 * p * q

    @abstractmethod
    def _chunk(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        tail: NumpyArray | None,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> LowRankBatch:
        """The approximations of blocks that fit into memory together; its `entries` are not read."""


class DenseCompressor(Compressor):
    """A compressor that evaluates all entries of a block."""

    def _chunk(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        tail: NumpyArray | None,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> LowRankBatch:
        blocks = source.blocks(rows, cols)
        return self._factor(blocks, self.rtol * block_norms(blocks) if tail is None else tail, max_rank, rng)

    @abstractmethod
    def _factor(
        self, blocks: NumpyArray, tail: NumpyArray, max_rank: int | None, rng: np.random.Generator
    ) -> LowRankBatch:
        """The approximations of blocks (nb, p, q)."""


def as_source(a: Any, *where: Any) -> EntrySource:
    """The source that the arguments of a compressor stand for."""
    if isinstance(a, EntrySource):
        return a
    if not callable(a):
        if where:
            raise TypeError(f"a is an array, so no shape or points may follow it, but {len(where)} arguments did")
        return DenseSource(_check.matrix(a, "a"))
    if len(where) == 2:
        return KernelSource(a, _check.points(where[0], "x"), _check.points(where[1], "y"))
    shape = where[0] if len(where) == 1 else None
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise TypeError(
            "a function needs to know where: give compressor(entries, (p, q)) for a function of indices, "
            "or compressor(kernel, x, y) for a function of points"
        )
    p, q = (_check.positive_integer(n, "shape") for n in shape)
    return EntrySource(a, (p, q))


def block_norms(blocks: NumpyArray) -> NumpyArray:
    """Frobenius norms (nb,) of blocks (nb, p, q), in double precision."""
    flat = blocks.reshape(len(blocks), -1)
    real = flat.view(flat.real.dtype) if flat.flags.c_contiguous else np.concatenate([flat.real, flat.imag], axis=1)
    return np.sqrt(np.einsum("bi,bi->b", real, real, dtype=np.float64))


def join(parts: list[LowRankBatch], entries: int) -> LowRankBatch:
    """One batch of several, padded to the largest rank."""
    width = max(part.left.shape[2] for part in parts)

    def widened(pick: Callable[[LowRankBatch], Any], fill: int = 0) -> NumpyArray:
        arrays = [pick(part) for part in parts]
        if all(a.shape[-1] == width for a in arrays):
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        padding = [(0, 0)] * (arrays[0].ndim - 1)
        return np.concatenate([np.pad(a, [*padding, (0, width - a.shape[-1])], constant_values=fill) for a in arrays])

    def joined(pick: Callable[[LowRankBatch], Any]) -> NumpyArray:
        return np.concatenate([pick(part) for part in parts])

    return LowRankBatch(
        widened(lambda part: part.left),
        widened(lambda part: part.right),
        joined(lambda part: part.ranks),
        joined(lambda part: part.estimates),
        joined(lambda part: part.fell_back),
        entries,
        None if parts[0].skeletons is None else widened(lambda part: part.skeletons, fill=-1),
    )


def replaced(batch: LowRankBatch, places: NumpyArray, other: LowRankBatch) -> LowRankBatch:
    """The batch with the blocks of another one in some places, numbers or a mask."""
    ranks = batch.ranks.copy()
    ranks[places] = other.ranks
    width = int(ranks.max(initial=0))

    def factors(old: NumpyArray, new: NumpyArray) -> NumpyArray:
        out = np.zeros((*old.shape[:2], width), dtype=old.dtype)
        out[:, :, : old.shape[2]] = old[:, :, :width]
        out[places] = 0
        out[places, :, : new.shape[2]] = new[:, :, :width]
        return out

    estimates, fell_back = batch.estimates.copy(), batch.fell_back.copy()
    estimates[places], fell_back[places] = other.estimates, other.fell_back
    left, right = factors(batch.left, other.left), factors(batch.right, other.right)
    return LowRankBatch(left, right, ranks, estimates, fell_back, batch.entries + other.entries)


def empty_batch(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> LowRankBatch:
    """Approximations of rank 0 of blocks of shape (nb, p, q)."""
    nb, p, q = shape
    left, right = np.zeros((nb, p, 0), dtype), np.zeros((nb, q, 0), dtype)
    return LowRankBatch(left, right, np.zeros(nb, np.int64), np.zeros(nb), np.zeros(nb, bool), 0)


def _block_indices(index: Any, name: str, size: int) -> IntArray:
    array = np.asarray(index)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ShapeError(
            f"{name} must be a 2-D array of integers, a row of indices for each block, but it has shape {array.shape} "
            f"and type {array.dtype}"
        )
    if array.size and (array.min() < -1 or array.max() >= size):
        bad = int(array[(array < -1) | (array >= size)][0])
        raise IndexError(f"{name} holds {bad}, but the matrix has {size} {name} (and -1 stands for padding)")
    return array.astype(np.int64, copy=False)


def _block_tolerances(tail: Any, count: int) -> NumpyArray:
    array = np.asarray(tail, dtype=np.float64)
    if array.ndim > 1 or array.shape not in ((), (1,), (count,)):
        raise ShapeError(f"tail must be a number or one for each of the {count} blocks, but its shape is {array.shape}")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError("tail must hold finite numbers >= 0, the Frobenius norms that the errors may have")
    return np.array(np.broadcast_to(array, (count,)))
