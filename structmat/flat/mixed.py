"""Mixed precision of independent blocks: dense blocks, and single columns of low-rank ones, in half the precision.

A low-rank block in singular factors, sum over j of s_j u_j v_j^H, needs its column j to a relative precision of
tolerance / s_j only: the trailing columns fit in float32 even where the block as a whole does not. Each column goes
where the budget sends it, and a block of columns of both kinds becomes two blocks in one place, one in each part.

References: see `structmat.precision`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import is_numpy
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..exceptions import DeviceError
from ..precision import affordable, narrowed
from .assemble import keys_of, side_by_side
from .storage import FlatBlocks, by_rank, merged
from .truncate import truncate

# a column is rounded only if its relative error is at most this: else it met the ends of the range of numbers
_WITHIN_RANGE = 2.0**-20
# covers the products of two rounding errors, which the bounds leave out
_SLACK = 1.001


@dataclass(frozen=True)
class Divided:
    """Blocks in one or two precisions, whose sum is the matrix, and a bound of the relative Frobenius error of it."""

    parts: tuple[FlatBlocks, ...]
    error: float


def divide(blocks: FlatBlocks, rtol: float) -> Divided:
    """Store in half the precision what a Frobenius error of `rtol` times the norm of the matrix allows."""
    cut = truncate(blocks, rtol=0.0)
    spent = cut.error + cut.noise
    allowed = (rtol * cut.size - spent) / _SLACK
    far = [[_balanced(b) for b in level] for level in cut.blocks.far]
    batches: list[BlockBatch | LowRankBatch] = [*blocks.near, *(b for level in far for b in level)]
    squares = [_squares(b, blocks.half) for b in batches]
    sizes = [np.full(s.shape, _numbers(b)) for s, b in zip(squares, batches, strict=True)]
    flat = np.concatenate([s.ravel() for s in squares])
    chosen = affordable(flat, np.concatenate([s.ravel() for s in sizes]), max(allowed, 0.0))
    if allowed <= 0.0 or not chosen.any():
        return Divided((blocks,), 0.0)
    pieces = np.split(chosen, np.cumsum([s.size for s in squares])[:-1])
    marks = iter([mark.reshape(s.shape) for mark, s in zip(pieces, squares, strict=True)])
    near = [_dense_parts(b, next(marks)) for b in blocks.near]
    columns = [[_low_rank_parts(b, next(marks)) for b in level] for level in far]
    parts = tuple(
        FlatBlocks(
            tuple(pair[k] for pair in near),
            tuple(merged([b for pair in level for b in pair[k]]) for level in columns),
            blocks.half,
        )
        for k in (0, 1)
    )
    return Divided(parts, (spent + _SLACK * float(np.sqrt(flat[chosen].sum()))) / cut.size)


def _balanced(batch: LowRankBatch) -> LowRankBatch:
    """Columns of about equal norms in both factors, by powers of two, which are exact; the left ones have norm 1."""
    norms = np.linalg.norm(batch.right, axis=1)
    shift = np.frexp(norms)[1] // 2
    left, right = (np.ldexp(1.0, sign * shift)[:, None, :] for sign in (1, -1))
    return LowRankBatch(batch.left * left, batch.right * right, batch.rows, batch.cols)


def _numbers(batch: BlockBatch | LowRankBatch) -> int:
    """Numbers of a dense block, or of a column of both factors."""
    if isinstance(batch, BlockBatch):
        return max(1, int(batch.data.shape[1] * batch.data.shape[2]))
    return int(batch.left.shape[1] + batch.right.shape[1])


def _squares(batch: BlockBatch | LowRankBatch, half: bool) -> NumpyArray:
    """The squared error of rounding each dense block (nb,), or each column (nb, k); twice where it is mirrored.

    With E and F the errors of the factors L and R, of orthogonal columns, that of L R^H is E R^H + L F^H + E F^H, and
    the squared norm of E R^H is the sum of |e_j|^2 |r_j|^2.
    """
    weights = np.where((batch.rows != batch.cols) & half, 2.0, 1.0)
    if isinstance(batch, BlockBatch):
        return weights * _rounding(batch.data, (1, 2)) ** 2
    sizes = [np.linalg.norm(f, axis=1) for f in (batch.left, batch.right)]
    errors = [_rounding(f, (1,)) for f in (batch.left, batch.right)]
    representable = np.all([e <= _WITHIN_RANGE * s for e, s in zip(errors, sizes, strict=True)], axis=0)
    errors = [np.where(representable, e, 0.0) for e in errors]
    squares = 2.0 * ((errors[0] * sizes[1]) ** 2 + (sizes[0] * errors[1]) ** 2)
    return weights[:, None] * np.where(representable, squares, np.inf)


def _rounding(a: NumpyArray, axes: tuple[int, ...]) -> NumpyArray:
    """The norms over some axes of what rounding changes; infinite where a number is too large."""
    with np.errstate(over="ignore", under="ignore"):
        square: NumpyArray = np.abs(a - narrowed(a)) ** 2
        return np.sqrt(square.sum(axis=axes))


def _dense_parts(batch: BlockBatch, mark: NumpyArray) -> tuple[BlockBatch, BlockBatch]:
    keep = ~mark
    wide = BlockBatch(batch.data[keep], batch.rows[keep], batch.cols[keep])
    return wide, BlockBatch(narrowed(batch.data[mark]), batch.rows[mark], batch.cols[mark])


def _low_rank_parts(batch: LowRankBatch, mark: NumpyArray) -> tuple[list[LowRankBatch], list[LowRankBatch]]:
    """The blocks of the columns that are not marked, and those of the ones that are."""
    counts = mark.sum(axis=1)
    wide = _columns(batch, mark, batch.rank - counts, (counts < batch.rank) | (batch.rank == 0))
    narrow = _columns(batch, ~mark, counts, counts > 0)
    return wide, [LowRankBatch(narrowed(b.left), narrowed(b.right), b.rows, b.cols) for b in narrow]


def _columns(batch: LowRankBatch, later: NumpyArray, counts: IntArray, here: NumpyArray) -> list[LowRankBatch]:
    """Of the blocks `here`, the columns that are not `later`, of which there are `counts`."""
    order = np.argsort(later[here], axis=1, kind="stable")[:, None, :]
    left, right = (np.take_along_axis(f[here], order, axis=2) for f in (batch.left, batch.right))
    return by_rank(left, right, counts[here], batch.rows[here], batch.cols[here])


# ------------------------------------------------------------------------------------- both parts together


def joined(parts: tuple[FlatBlocks, ...]) -> FlatBlocks:
    """The sum of all parts in the wider precision."""
    if len(parts) == 1:
        return parts[0]
    if not is_numpy(parts[0].near[-1].data):
        raise DeviceError('a matrix in mixed precision only multiplies there: call A.to_device("cpu") first')
    dtype = parts[0].dtype
    wide = [part.map(lambda a: a.astype(dtype, copy=False)) for part in parts]
    near = tuple(_side_by_side_dense([part.near[level] for part in wide]) for level in range(parts[0].depth + 1))
    far = []
    for level in range(parts[0].depth + 1):
        keys, ranks = ranks_at(parts, level)
        whole = side_by_side([part.far[level] for part in wide], level)
        found = [ranks[np.searchsorted(keys, keys_of(b, level))] for b in whole]
        exact = [by_rank(b.left, b.right, r, b.rows, b.cols) for b, r in zip(whole, found, strict=True)]
        far.append(merged([b for group in exact for b in group]))
    return FlatBlocks(near, tuple(far), parts[0].half)


def _side_by_side_dense(batches: list[BlockBatch]) -> BlockBatch:
    rows, cols = (np.concatenate([getattr(b, side) for b in batches]) for side in ("rows", "cols"))
    order = np.lexsort((cols, rows))
    return BlockBatch(np.concatenate([b.data for b in batches])[order], rows[order], cols[order])


def ranks_at(parts: tuple[FlatBlocks, ...], level: int) -> tuple[IntArray, IntArray]:
    """The places of the low-rank blocks of a level, as sorted `keys_of`, and their ranks in all parts together."""
    batches = [b for part in parts for b in part.far[level]]
    none = np.zeros(0, dtype=np.int64)
    keys = np.concatenate([none, *(keys_of(b, level) for b in batches)])
    ranks = np.concatenate([none, *(np.full(len(b), b.rank) for b in batches)])
    places, which = np.unique(keys, return_inverse=True)
    return places, np.bincount(which.ravel(), weights=ranks, minlength=len(places)).astype(np.int64)
