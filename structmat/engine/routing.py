"""Where the blocks of a batch take their vectors from and where their products go, worked out once.

The index arrays of a route are copied to a device when it is first used there, and stay: repeated products move nothing
but vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._backend import Indices, namespace, take, to_numpy, zeros_beside
from .._typing import Array, IntArray, NumpyArray

if TYPE_CHECKING:
    from ..blocks import Placed


class ScatterSum:
    """Sums of blocks (nb, p, q) that go to `count` places, without conflicts: (count, p, q).

    The blocks are taken in rounds, in each of which a place receives at most one of them.

    Parameters
    ----------
    targets : (nb,) int array
        The place of each block.
    count : int
    """

    def __init__(self, targets: IntArray, count: int) -> None:
        order = np.argsort(targets, kind="stable")
        self.count, self.blocks, self.rounds = count, len(targets), []
        # each place has one block: they are only put in order
        self.permutes = len(targets) == count and np.array_equal(targets[order], np.arange(count))
        if self.permutes:
            self.rounds.append(Indices(order))
        elif len(targets):
            first = np.searchsorted(targets[order], np.arange(count))
            many = np.bincount(targets, minlength=count)
            extended = np.append(order, len(targets))  # one more block stands for "none"
            for turn in range(int(many.max())):
                pick = np.where(turn < many, extended[np.minimum(first + turn, len(order))], len(targets))
                self.rounds.append(Indices(pick))

    def __call__(self, blocks: Array) -> Array:
        """The sums."""
        xp = namespace(blocks)
        if not self.rounds:
            return zeros_beside((self.count, *blocks.shape[1:]), blocks)
        if self.permutes:
            return self.rounds[0].of(blocks)
        padded = xp.concat([blocks, xp.zeros_like(blocks[:1, ...])], axis=0)
        total = self.rounds[0].of(padded)
        for pick in self.rounds[1:]:
            total = total + pick.of(padded)
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
    """

    def __init__(self, rows: IntArray, cols: IntArray, count: int, half: bool) -> None:
        mirrored = np.flatnonzero(rows != cols) if half else np.zeros(0, dtype=np.int64)
        self.sources = Indices(cols)
        self.mirrored, self.mirrored_sources = Indices(mirrored), Indices(rows[mirrored])
        self.add = ScatterSum(np.concatenate([rows, cols[mirrored]]), count)


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
