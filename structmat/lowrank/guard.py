"""The check on a cheap approximation: random entries that it was not made from.

Which entries: each row and each column of a block comes equally often, in random pairs, so that no row or column goes
unseen. Where single entries cannot be evaluated in one call: a whole row, a whole column, and a grid of random rows and
columns, one in each of as many strata. Each entry stands for p q / m others, so that the sum of squares over the
sample, times p q / m, estimates the squared Frobenius norm without bias. Where the points of rows and columns tell
which entries are most likely to be wrong (`closest`), these come on top, each for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import namespace
from .._typing import IntArray, NumpyArray
from ..sources import EntrySource
from .closest import Grid, suspicious
from .compressor import block_norms

# the true error may be this many times the estimate, and the tolerance shrinks by SHARE for what no sample shows
SAFETY, SHARE = 3.0, 0.95

# entries checked of a p x q block: SAMPLES max(p, q) + 64, about the cost of one more cross; in a grid more
SAMPLES = 2


@dataclass(frozen=True, eq=False)
class EntrySample:
    """Entries (i[b, s], j[b, s]) of each block b.

    Attributes
    ----------
    i, j : (nb, m) int arrays
        Rows and columns within the block, never padding (unless the block is nothing but padding).
    values : (nb, m) array
        The entries there.
    area : (nb, m) array
        How many entries of the block each stands for; 0 for those that fill up the array.
    """

    i: IntArray
    j: IntArray
    values: NumpyArray
    area: NumpyArray

    def norms(self, values: NumpyArray) -> NumpyArray:
        """Estimated Frobenius norms (nb,) of blocks with these values at the places of the sample."""
        return block_norms(np.sqrt(self.area) * values)

    def part(self, blocks: IntArray) -> EntrySample:
        """The sample of some of the blocks."""
        return EntrySample(self.i[blocks], self.j[blocks], self.values[blocks], self.area[blocks])

    def residuals(self, left: NumpyArray, right: NumpyArray) -> NumpyArray:
        """What left @ right^H, (nb, p, k) and (nb, q, k), leave of the entries: (nb, m)."""
        rows, cols = (np.take_along_axis(f, at[:, :, None], 1) for f, at in ((left, self.i), (right, self.j)))
        return self.values - np.einsum("bmk,bmk->bm", rows, cols.conj())


def draw(
    source: EntrySource, rows: IntArray, cols: IntArray, rng: np.random.Generator, *, corners: bool = True
) -> EntrySample:
    """A fresh sample of the blocks at rows (nb, p) and columns (nb, q); without `corners` of spread entries only."""
    count = SAMPLES * max(rows.shape[1], cols.shape[1]) + 64
    scattered = getattr(source, "batched", False)
    i, j, values = (_scattered if scattered else _lines_and_grid)(source, rows, cols, count, rng)
    known = (np.take_along_axis(rows, i, 1) >= 0) & (np.take_along_axis(cols, j, 1) >= 0)
    each = (rows >= 0).sum(axis=1) * (cols >= 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    sample = EntrySample(i, j, values, np.broadcast_to(each[:, None], i.shape))
    for grid in suspicious(source, rows, cols) if corners else ():
        sample = _with_grid(sample, source, rows, cols, grid)
    return sample


def _with_grid(sample: EntrySample, source: EntrySource, rows: IntArray, cols: IntArray, grid: Grid) -> EntrySample:
    """The sample with the entries of the grids on top."""
    values = source.blocks(np.take_along_axis(rows, grid.rows, 1), np.take_along_axis(cols, grid.cols, 1))
    xp, shape = namespace(values), tuple(values.shape)
    flat = xp.reshape(values, (len(rows), -1))
    i, j = (np.broadcast_to(at, shape).reshape(flat.shape) for at in (grid.rows[:, :, None], grid.cols[:, None, :]))
    some = [np.arange(size) < count[:, None] for size, count in
            zip(shape[1:], (grid.row_counts, grid.col_counts), strict=True)]  # fmt: skip
    area = (some[0][:, :, None] & some[1][:, None, :]).reshape(flat.shape).astype(np.float64)
    return EntrySample(
        np.concatenate([sample.i, i], axis=1), np.concatenate([sample.j, j], axis=1),
        xp.concat([sample.values, flat], axis=1), np.concatenate([sample.area, area], axis=1),
    )  # fmt: skip


def _scattered(
    source: EntrySource, rows: IntArray, cols: IntArray, count: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray, NumpyArray]:
    """Places and values (nb, count) of single entries, that cover rows and columns evenly."""
    i, j = _places(rows, _strata(count, rng)), _places(cols, _strata(count, rng))
    single = [np.take_along_axis(index, at, 1).reshape(-1, 1) for index, at in ((rows, i), (cols, j))]
    values = source.blocks(*single)
    return i, j, namespace(values).reshape(values, (len(rows), -1))


def _lines_and_grid(
    source: EntrySource, rows: IntArray, cols: IntArray, count: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray, NumpyArray]:
    """Places and values of a random column, a random row, and a grid of 2 count entries: three calls for each block."""
    (nb, p), q, side = rows.shape, cols.shape[1], int(np.sqrt(2 * count))
    all_rows, all_cols = (np.tile(np.arange(n), (nb, 1)) for n in (p, q))
    pieces = [
        (all_rows, _places(cols, rng.random(1))),
        (_places(rows, rng.random(1)), all_cols),
        (_places(rows, _strata(side, rng)), _places(cols, _strata(side, rng))),
    ]
    i = np.concatenate([np.repeat(some_rows, some_cols.shape[1], axis=1) for some_rows, some_cols in pieces], axis=1)
    j = np.concatenate([np.tile(some_cols, (1, some_rows.shape[1])) for some_rows, some_cols in pieces], axis=1)
    values = [
        source.blocks(np.take_along_axis(rows, some_rows, 1), np.take_along_axis(cols, some_cols, 1)).reshape(nb, -1)
        for some_rows, some_cols in pieces
    ]
    return i, j, np.concatenate(values, axis=1)


def budget(tail: NumpyArray, estimates: NumpyArray) -> NumpyArray:
    """What a recompression may leave out where an error of this estimate has been made before.

    The two errors add up like perpendicular vectors, on average.
    """
    return np.sqrt(np.maximum((SHARE * tail) ** 2 - (SAFETY * estimates) ** 2, 0.0))


def _strata(count: int, rng: np.random.Generator) -> NumpyArray:
    """One random number in each of `count` intervals that make up [0, 1), in random order."""
    return (rng.permutation(count) + rng.random(count)) / count


def _places(index: IntArray, fractions: NumpyArray) -> IntArray:
    """The places (nb, m) at these fractions of the way through what is no padding in index (nb, p)."""
    present = index >= 0
    if present.all():
        return np.tile((fractions * index.shape[1]).astype(np.int64), (len(index), 1))
    order = np.argsort(~present, axis=1, kind="stable")
    return np.take_along_axis(order, (fractions * present.sum(axis=1)[:, None]).astype(np.int64), 1)
