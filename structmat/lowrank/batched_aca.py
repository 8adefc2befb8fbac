"""Adaptive cross approximation in batched array operations: the twin of `aca` for kernels on any device.

One cross for all blocks of a batch in each step; a block that is done gets zeros until the others are. Between the
steps nothing but a flag comes to the CPU. Checks, restarts and their constants are those of `aca`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from .._backend import adjoint, cast, conj, like, namespace, numpy_dtype, squared_norms, take, to_numpy, zeros_beside
from .._typing import Array, IntArray, NumpyArray
from ..engine.dense import matmul
from ..sources import DeviceKernelSource
from . import guard
from .aca import ACCEPTED, CROSS, EXTRA, NOISE, RESTARTS


@dataclass(frozen=True)
class Crosses:
    """What was found for some of the blocks: block `index[b]` is about left[b] right[b]^H."""

    index: IntArray  # (nb,)
    left: Array  # (nb, p, k)
    right: Array  # (nb, q, k)
    estimates: NumpyArray  # (nb,): Frobenius norms of what is left
    failed: NumpyArray  # (nb,): whether crosses do not serve


def find_crosses(
    source: DeviceKernelSource, rows: IntArray, cols: IntArray, tail: float, max_rank: int | None,
    rng: np.random.Generator,
) -> list[Crosses]:  # fmt: skip
    """Crosses of the blocks at rows (nb, p) and columns (nb, q) until each leaves about 0.3 `tail`.

    Blocks that are done after the same number of checks are together.
    """
    search = _Search(source, rows, cols, tail, max_rank)
    sample, finished = guard.draw(source, rows, cols, rng), []
    starts = _at_largest(sample.i, abs(sample.values))
    for attempt in range(RESTARTS + 1):
        search.add_crosses(starts, patience=1 << attempt)
        if attempt:  # the first sample has decided nothing but where to start
            sample = guard.draw(source, search.rows, search.cols, rng)
        estimates, worst = search.check(sample)
        bad, ranks, last = estimates > ACCEPTED * search.tolerances(), to_numpy(search.ranks), attempt == RESTARTS
        more = bad & (ranks < search.limits) & (not last)
        failed = bad & ((ranks >= search.dear) | last)
        finished.append(search.found(np.flatnonzero(~more), estimates, failed))
        if not more.any():
            break
        search, starts = search.part(np.flatnonzero(more)), worst[more]
    return finished


class _Search:
    """The crosses of a batch of blocks while they are being found."""

    def __init__(
        self, source: DeviceKernelSource, rows: IntArray, cols: IntArray, tail: float, max_rank: int | None
    ) -> None:
        self.source, self.rows, self.cols, self.tail = source, rows, cols, float(tail)
        self.index, (nb, p), q = np.arange(len(rows)), rows.shape, cols.shape[1]
        self.eps, self.area = float(np.finfo(source.dtype).eps), p * q
        heights, widths = (rows >= 0).sum(axis=1), (cols >= 0).sum(axis=1)
        self.dear = np.maximum(1, heights * widths // np.maximum(heights + widths, 1))
        self.limits = self.dear if max_rank is None else np.minimum(self.dear, max_rank + EXTRA)
        self.left, self.right = (source.zeros((nb, size, 0)) for size in (p, q))
        self.xp, self.device = namespace(self.left), array_api_compat.device(self.left)
        self.visited = like(rows < 0, self.left)  # rows that were pivots, or are padding
        self.squares = self.xp.zeros(nb, dtype=self.xp.float64, device=self.device)
        self.ranks = self.xp.zeros(nb, dtype=self.xp.int64, device=self.device)

    def part(self, blocks: IntArray) -> _Search:
        """The search for some of the blocks, with what was found for them."""
        new = object.__new__(_Search)
        for name, value in vars(self).items():
            setattr(new, name, value)
        for name in ("index", "rows", "cols", "dear", "limits"):
            setattr(new, name, getattr(self, name)[blocks])
        for name in ("left", "right", "visited", "squares", "ranks"):
            setattr(new, name, take(getattr(self, name), blocks))
        return new

    def found(self, blocks: IntArray, estimates: NumpyArray, failed: NumpyArray) -> Crosses:
        """The crosses of some of the blocks."""
        left, right = (take(f, blocks) for f in (self.left, self.right))
        return Crosses(self.index[blocks], left, right, estimates[blocks], failed[blocks])

    def tolerances(self) -> NumpyArray:
        """Of the blocks, not below rounding."""
        return np.maximum(self.tail, NOISE * self.eps * np.sqrt(to_numpy(self.squares)))

    def check(self, sample: guard.EntrySample) -> tuple[NumpyArray, IntArray]:
        """Estimates of what the crosses leave, and the row of the worst entry of each block that was no pivot yet."""
        xp, i, j = self.xp, self._flat(sample.i, self.rows), self._flat(sample.j, self.cols)
        left, right = (_lines(f, at) for f, at in ((self.left, i), (self.right, j)))
        rest = sample.values - xp.sum(left * conj(right), axis=2)
        sizes = abs(rest) ** 2
        weighted = cast(sizes, np.dtype(np.float64)) * like(sample.area, sizes)
        estimates = np.sqrt(to_numpy(xp.sum(weighted, axis=1)))
        seen = xp.reshape(take(xp.reshape(self.visited, (-1,)), i), sizes.shape)
        return estimates, _at_largest(sample.i, xp.where(seen, -xp.ones_like(sizes), sizes))

    def add_crosses(self, starts: IntArray, patience: int) -> None:
        """Crosses for all blocks, from the given rows on, until `patience` in a row are small."""
        xp, pick = self.xp, like(starts, self.left)
        rows, cols = (like(index, self.left) for index in (self.rows, self.cols))
        nb, p, q = len(self.rows), self.rows.shape[1], self.cols.shape[1]
        block, slots = xp.arange(nb, device=self.device), xp.arange(p, device=self.device)
        limits = like(self.limits, self.left)
        active, small = self.ranks < limits, xp.zeros_like(self.ranks)
        while bool(xp.any(active)):
            values = self.source.blocks(_chosen(rows, block * p + pick), cols)
            row = values - matmul(_lines(self.left, block * p + pick), adjoint(self.right))  # (nb, 1, q)
            sizes = abs(row[:, 0, :]) ** 2
            pivot, largest = xp.argmax(sizes, axis=1), xp.astype(xp.max(sizes, axis=1), xp.float64)
            self.visited = self.visited | ((slots == xp.reshape(pick, (nb, 1))) & xp.reshape(active, (nb, 1)))
            # a row that is zero, up to rounding, gives no cross and no next row: the check finds one
            active = active & (largest > (NOISE * self.eps) ** 2 * self.squares / self.area) & (largest > 0.0)
            values = self.source.blocks(rows, _chosen(cols, block * q + pivot))
            column = values - matmul(self.left, adjoint(_lines(self.right, block * q + pivot)))  # (nb, p, 1)
            scale = xp.reshape(xp.take(xp.reshape(row, (-1,)), block * q + pivot, axis=0), (nb, 1, 1))
            some = xp.reshape(active, (nb, 1, 1))
            u = xp.where(some, column / xp.where(some, scale, xp.ones_like(scale)), xp.zeros_like(column))
            v = xp.where(some, adjoint(row), zeros_beside((nb, q, 1), row))
            square = squared_norms(u, axis=(1, 2)) * squared_norms(v, axis=(1, 2))
            mixed = matmul(adjoint(self.left), u) * conj(matmul(adjoint(self.right), v))
            shared = xp.sum(mixed, axis=(1, 2))
            shared = cast(xp.real(shared) if numpy_dtype(shared).kind == "c" else shared, np.dtype(np.float64))
            total = self.squares + 2.0 * shared + square
            self.squares = xp.where(total > 0.0, total, xp.zeros_like(total))
            self.left, self.right = (xp.concat(pair, axis=2) for pair in ([self.left, u], [self.right, v]))
            self.ranks = self.ranks + xp.astype(active, xp.int64)
            heights = abs(u[:, :, 0]) ** 2
            heights = xp.where(self.visited, -xp.ones_like(heights), heights)
            pick = xp.argmax(heights, axis=1)
            rounding = NOISE * self.eps * xp.sqrt(self.squares)
            wanted = xp.where(rounding > self.tail, rounding, xp.full_like(rounding, self.tail))
            small = xp.where(xp.sqrt(square) > CROSS * wanted, xp.zeros_like(small), small + 1)
            active = active & (small < patience) & (xp.max(heights, axis=1) >= 0) & (self.ranks < limits)

    def _flat(self, places: IntArray, index: IntArray) -> Array:
        """Places (nb, m) within blocks as positions among the rows (or columns) of all, on the device."""
        nb, length = index.shape
        return like(places + length * np.arange(nb)[:, None], self.left)


def _lines(factors: Array, flat: Array) -> Array:
    """Rows of the factors (nb, p, k) at positions (nb,) or (nb, m) among all of them: (nb, 1 or m, k)."""
    xp, (nb, p, k) = namespace(factors), factors.shape
    count = 1 if flat.ndim == 1 else flat.shape[1]
    if not k:
        return zeros_beside((nb, count, 0), factors)
    found = xp.take(xp.reshape(factors, (nb * p, k)), xp.reshape(flat, (-1,)), axis=0)
    return xp.reshape(found, (nb, count, k))


def _chosen(index: Array, flat: Array) -> Array:
    """One index of each block, (nb, 1)."""
    xp = namespace(index)
    return xp.reshape(xp.take(xp.reshape(index, (-1,)), flat, axis=0), (-1, 1))


def _at_largest(index: IntArray, sizes: Any) -> IntArray:
    """The entries of index (nb, m) where the sizes, on the device, are largest."""
    best = to_numpy(namespace(sizes).argmax(sizes, axis=1))
    return np.take_along_axis(index, best[:, None], 1)[:, 0]
