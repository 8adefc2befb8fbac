"""Where the blocks of a batch take their vectors from and where their products go, worked out once.

The index arrays of a route are copied to a device when it is first used there, and stay: repeated products move nothing
but vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._backend import (
    Indices,
    adjoint,
    concatenated,
    free_bytes,
    like,
    namespace,
    take,
    to_numpy,
    zeros_beside,
)
from .._typing import Array, IntArray, NumpyArray
from . import slabs

if TYPE_CHECKING:
    from ..blocks import BlockBatch, Placed


# from so many vectors on, blocks are multiplied side by side
PANEL_COLUMNS = 16
# bytes of panels of one batch where a library does not say how much is free
PANEL_BYTES = 1 << 30


class ScatterSum:
    """Sums of blocks (nb, p, q) that go to `count` places, without conflicts: (count, p, q).

    The blocks are taken in rounds, in each of which a place receives at most one of them; as many rounds at once as fit
    into a slab of memory, so that few kernels are launched.

    Parameters
    ----------
    targets : (nb,) int array
        The place of each block; what goes to places from `count` on is left out.
    count : int
    """

    def __init__(self, targets: IntArray, count: int) -> None:
        order = np.argsort(targets, kind="stable")
        self.count, self.rounds = count, 0
        # each place has one block: they are only put in order
        self.permutes = len(targets) == count and np.array_equal(targets[order], np.arange(count))
        if self.permutes:
            self._picks = Indices(order)
        elif len(targets):
            first = np.searchsorted(targets[order], np.arange(count))
            many = np.bincount(targets, minlength=count)[:count]
            self.rounds = int(many.max())
            extended = np.append(order, len(targets))  # one more block stands for "none"
            turn = np.arange(self.rounds)[:, None]
            picks = np.where(turn < many, extended[np.minimum(first + turn, len(order))], len(targets))
            self._picks = Indices(picks.ravel())

    def __call__(self, blocks: Array) -> Array:
        """The sums."""
        if self.permutes:
            return self._picks.of(blocks)
        if not self.rounds:
            return zeros_beside((self.count, *blocks.shape[1:]), blocks)
        xp = namespace(blocks)
        padded = xp.concat([blocks, xp.zeros_like(blocks[:1, ...])], axis=0)
        at_once = max(1, slabs.SLAB // max(1, self.count * blocks.shape[1] * blocks.shape[2]))
        total = None
        for start in range(0, self.rounds, at_once):
            stop = min(start + at_once, self.rounds)
            part = self._picks.of(padded, start * self.count, stop * self.count)
            if stop - start > 1:
                part = xp.sum(xp.reshape(part, (stop - start, self.count, *blocks.shape[1:])), axis=0)
            total = part if total is None else total + part
        return total


class Route:
    """The way through one batch.

    Parameters
    ----------
    rows, cols : (nb,) int arrays
        Where products go, and where vectors come from.
    count : int
        Places that products go to.
    half : bool
        Blocks off the diagonal also act, as their adjoints, at the mirrored places.

    Attributes
    ----------
    mirrored : bool
        Whether any does. The adjoints of all blocks are then applied, as to pick some would be to copy them, and the
        products of those on the diagonal are left out of the sums.
    """

    def __init__(self, rows: IntArray, cols: IntArray, count: int, half: bool) -> None:
        off = rows != cols
        self.mirrored = half and bool(off.any())
        self.sources, self.mirrored_sources = Indices(cols), Indices(rows)
        targets = np.concatenate([rows, np.where(off, cols, count)]) if self.mirrored else rows
        self.add = ScatterSum(targets, count)


class Panels:
    """The blocks of a batch side by side by the place that they act on: one product for each place, and no sums.

    With many vectors the products of single blocks take more room than the blocks, and adding them up more time than
    multiplying. The blocks are stored a second time, those that stand for their mirror images twice.

    Parameters
    ----------
    data : (nb, p, q) array
    rows, cols : (nb,) int arrays
    count : int
        Places that products go to.
    half, adjointly : bool
        As for `apply_blocks`.
    """

    def __init__(self, data: Array, rows: IntArray, cols: IntArray, count: int, *, half: bool, adjointly: bool) -> None:
        places, self.size = _terms(rows, cols, half, adjointly), int(data.shape[2 if adjointly else 1])
        order = np.argsort(places[0], kind="stable")
        targets, sources, blocks, turned = (a[order] for a in places)
        found = np.bincount(targets, minlength=count)
        starts, rank = np.cumsum(found) - found, np.zeros(count, dtype=np.int64)
        self._groups: list[tuple[Array, Indices]] = []
        before = 0
        for many in np.unique(found[found > 0]):
            members = np.flatnonzero(found == many)
            terms = starts[members][:, None] + np.arange(many)
            panel = _side_by_side(data, blocks[terms], turned[terms])
            self._groups.append((panel, Indices(sources[terms].ravel())))
            rank[members] = before + np.arange(len(members))
            before += len(members)
        rank[found == 0] = before  # a block of zeros behind the others
        self._empty, self._order = bool((found == 0).any()), Indices(rank)

    def __call__(self, x: Array) -> Array:
        """The products: x (nodes, q, k) to (count, p, k)."""
        xp = namespace(x)
        parts = []
        for panel, sources in self._groups:
            gathered = xp.reshape(sources.of(x), (panel.shape[0], panel.shape[2], x.shape[2]))
            parts.append(slabs.times(panel, gathered))
        if self._empty:
            parts.append(zeros_beside((1, self.size, x.shape[2]), x))
        return self._order.of(concatenated(parts))


def _terms(rows: IntArray, cols: IntArray, half: bool, adjointly: bool) -> tuple[NumpyArray, ...]:
    """For each product of a block its target, its source, the block, and whether it is the adjoint that acts."""
    blocks, off = np.arange(len(rows)), np.flatnonzero(rows != cols) if half else np.zeros(0, dtype=np.int64)
    targets, sources = (cols, rows) if adjointly else (rows, cols)
    turned = np.concatenate([np.full(len(rows), adjointly), np.full(len(off), not adjointly)])
    return (
        np.concatenate([targets, sources[off]]), np.concatenate([sources, targets[off]]),
        np.concatenate([blocks, off]), turned,
    )  # fmt: skip


def _side_by_side(data: Array, blocks: IntArray, turned: NumpyArray) -> Array:
    """Panels (m, p, c q) of blocks (m, c), or of their adjoints where `turned`; a slab of them at a time."""
    xp = namespace(data)
    (members, many), (_, p, q) = blocks.shape, data.shape
    p, q = (q, p) if turned.all() else (p, q)
    out = zeros_beside((members, p, many * q), data)
    step = max(1, slabs.SLAB // (many * p * q))
    for start in range(0, members, step):
        part = slice(start, min(start + step, members))
        some, mirrored = take(data, blocks[part].ravel()), turned[part].ravel()
        if mirrored.all():
            some = adjoint(some)
        elif mirrored.any():
            some = xp.where(like(mirrored[:, None, None], data), adjoint(some), some)
        some = xp.permute_dims(xp.reshape(some, (-1, many, p, q)), (0, 2, 1, 3))
        out[part, ...] = xp.reshape(some, (-1, p, many * q))
    return out


def panels_of(batch: BlockBatch, count: int, *, half: bool, adjointly: bool) -> Panels | None:
    """The panels of a batch, which keeps them; None where no place has two blocks, and where there is no room."""
    panels, key = batch.panels, (count, half, adjointly)
    if key not in panels:
        targets = _terms(batch.rows, batch.cols, half, adjointly)[0]
        needed = batch.nbytes // max(1, len(batch)) * len(targets)
        free = free_bytes(namespace(batch.data))
        wanted = len(targets) > len(np.unique(targets)) and needed <= (PANEL_BYTES if free is None else free // 2)
        place = batch.data, batch.rows, batch.cols, count
        panels[key] = Panels(*place, half=half, adjointly=adjointly) if wanted else None
    return panels[key]


def route_of(batch: Placed, count: int, *, half: bool, adjointly: bool) -> Route:
    """The route of a batch, which keeps it."""
    routes, key = batch.routes, (count, half, adjointly)
    if key not in routes:
        rows, cols = (batch.cols, batch.rows) if adjointly else (batch.rows, batch.cols)
        routes[key] = Route(rows, cols, count, half)
    return routes[key]


def located(batch: Placed, level: int, rows: IntArray, cols: IntArray, *, half: bool) -> tuple[IntArray, NumpyArray]:
    """The number of the block of a batch at each pair of nodes, -1 for none, and whether it is the mirrored one."""
    keys = (batch.rows.astype(np.int64) << level) + batch.cols
    order = np.argsort(keys)
    index, mirrored = np.full(len(rows), -1), np.zeros(len(rows), dtype=bool)
    for turned in (False, True) if half else (False,):
        wanted = (cols << level) + rows if turned else (rows << level) + cols
        place = np.minimum(np.searchsorted(keys[order], wanted), max(0, len(keys) - 1))
        found = (keys[order][place] == wanted) & (index < 0) if len(keys) else mirrored
        index[found], mirrored[found] = order[place[found]], turned
    return index, mirrored


def picked(blocks: Array, index: IntArray, i: IntArray, j: IntArray, mirrored: NumpyArray) -> NumpyArray:
    """The entries at rows i and columns j of the blocks `index` of (nb, p, q), or of their adjoints where mirrored."""
    _, p, q = blocks.shape
    i, j = np.where(mirrored, j, i), np.where(mirrored, i, j)
    values = to_numpy(take(namespace(blocks).reshape(blocks, (-1,)), (index * p + i) * q + j))
    return np.where(mirrored, values.conj(), values)
