"""Estimates of the error of an H2-matrix against the entries that it was built from.

Stratified: in each node some indices are drawn, and every coupling is looked at between those of its two nodes, so that
no bad block is missed; and where clusters touch, those closest to the other one. Dense blocks are exact.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import certify
from .._backend import adjoint, is_numpy, namespace, parallel_ranges, take, to_numpy
from .._typing import Array, IntArray, NumpyArray
from ..certificate import Certificate
from ..engine import cpu_entries
from ..engine.dense import matmul
from ..flat.certify import CORNER_ROWS, in_corners
from ..nested.entries import climbed_rows, entry_values
from ..sources import EntrySource
from ..tree import ClusterTree

if TYPE_CHECKING:
    from .matrix import H2Matrix

# indices drawn in each node, at least, and entries looked at in all, at least: on each level as many
DRAWN = 4
SAMPLED_ENTRIES = 1 << 17
# numbers that are gathered at a time on a device
DEVICE_NUMBERS = 1 << 26


def by_entries(
    a: H2Matrix, source: EntrySource, *, asked: float, norm: float, rng: np.random.Generator, reused: int = 0
) -> Certificate:
    """From entries of the source, stratified over the couplings.

    Of all entries where these are few, beside those that the build has taken; `reused` ones have served it twice.
    """
    return certify.by_entries(
        a, source, lambda: _stratified(a, source, rng), strata="the couplings", asked=asked, norm=norm,
        reused=reused,
    )  # fmt: skip


def _stratified(a: H2Matrix, source: EntrySource, rng: np.random.Generator) -> tuple[float, float]:
    """Estimate of the squared error of all couplings, and its standard deviation."""
    storage = a._storage
    far, _near = storage.block_places()
    levels = max(1, sum(len(places) > 0 for places in far))
    budget = SAMPLED_ENTRIES / levels
    stored = cache(a.stored)  # single entries need it: where clusters touch
    total = variance = 0.0
    for level, places in enumerate(far):
        if not len(places):
            continue
        smallest = int(min(a.row_tree.sizes(level).min(), a.col_tree.sizes(level).min()))
        drawn = max(2, min(smallest, max(DRAWN, int(np.sqrt(budget / len(places))))))
        rows, cols = (_drawn(tree, level, drawn, rng) for tree in (a.row_tree, a.col_tree))
        bases = [_basis_rows(a, level, at, columns=turn) for turn, at in ((False, rows), (True, cols))]
        values = (storage.sampled_couplings if is_numpy(storage._example) else partial(_couplings, storage))(
            level, *bases
        )
        row_nodes, col_nodes = places[:, 0], places[:, 1]
        exact = to_numpy(source.blocks(a.row_tree.perm[rows[row_nodes]], a.col_tree.perm[cols[col_nodes]]))
        sizes = a.row_tree.sizes(level)[row_nodes] * a.col_tree.sizes(level)[col_nodes]
        weights = np.where((row_nodes != col_nodes) & storage.half, 2.0, 1.0)
        squares = np.abs(values - exact) ** 2 * (sizes * weights)[:, None, None]
        total += float(squares.mean(axis=(1, 2)).sum())
        # the blocks of a node share the rows, or columns, that were drawn in it: they err together
        for nodes, shares in ((row_nodes, squares.mean(axis=2)), (col_nodes, squares.mean(axis=1))):
            together = np.zeros((1 << level, drawn))
            np.add.at(together, nodes, shares)
            variance += float((together.var(axis=1, ddof=1) / drawn).sum())
        total += in_corners(
            a, source, level, places, weights, CORNER_ROWS // levels, rng, lambda _, i, j: entry_values(stored(), i, j)
        )
    return total, float(np.sqrt(variance))


def _drawn(tree: ClusterTree, level: int, count: int, rng: np.random.Generator) -> IntArray:
    """Random positions in equal stretches of each node, (2**level, count)."""
    places = (np.arange(count) + rng.random((1 << level, count))) * tree.sizes(level)[:, None] / count
    position: IntArray = tree.starts(level)[:, None] + places.astype(np.int64)
    return position


def _basis_rows(a: H2Matrix, level: int, positions: IntArray, *, columns: bool) -> Array:
    """The rows of the bases of the nodes of a level at some of their positions, (2**level, count, k)."""
    tree, storage = (a.col_tree if columns else a.row_tree), a._storage
    (nodes, count), depth = positions.shape, tree.depth
    starts = tree.starts(depth)
    leaf = np.searchsorted(starts, positions.ravel(), side="right") - 1
    local = positions.ravel() - starts[leaf]
    if not is_numpy(storage._example):
        found = climbed_rows(storage._batched[1][columns], leaf, local, level)
        return namespace(found).reshape(found, (nodes, count, -1))
    packed = storage.packed()
    table, orders, buffer = (packed.col_table if columns else packed.row_table), packed.orders, packed.buffer
    node = (1 << level) - 1 + np.repeat(np.arange(nodes), count)
    width = max(1, int(table[(1 << level) - 1 : (2 << level) - 1, 2].max(initial=0)))
    out = np.zeros((len(node), width), dtype=buffer.dtype)
    leaves = (1 << depth) - 1 + leaf
    parallel_ranges(partial(cpu_entries.basis_rows, buffer, table, orders, node, leaves, local, out), len(node))
    return out.reshape(nodes, count, width)


def _couplings(storage: Any, level: int, left: Array, right: Array) -> NumpyArray:
    """The couplings of a level between rows of the bases, (nb, count, count), from arrays on a device."""
    ((_near, couplings),), _bases = storage._batched
    batch = couplings[level - 1]
    step = max(1, DEVICE_NUMBERS // max(1, left.shape[1] * left.shape[2] + right.shape[1] * right.shape[2]))
    parts = []
    for k in range(0, len(batch), step):
        rows, cols = batch.rows[k : k + step], batch.cols[k : k + step]
        half = matmul(take(left, rows), batch.data[k : k + len(rows), ...])
        parts.append(to_numpy(matmul(half, adjoint(take(right, cols)))))
    return np.concatenate(parts)
