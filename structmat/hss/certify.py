"""Estimates of the relative Frobenius error of an HSS matrix against the entries that it was built from.

Stratified: rows drawn from every block of every level (uniform rows would miss a bad block), with entries from every
stretch of their columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import certify
from .._typing import NumpyArray
from ..certificate import Certificate
from ..sources import EntrySource

if TYPE_CHECKING:
    from .matrix import HSSMatrix

ROWS_PER_LEVEL = 256
ENTRIES_PER_ROW = 12


def by_entries(
    a: HSSMatrix, source: EntrySource, *, asked: float, norm: float, rng: np.random.Generator
) -> Certificate:
    """From entries of the source, stratified over levels, blocks and columns."""
    return certify.by_entries(
        a, source, lambda: _stratified(a, source, rng), strata="levels, blocks and columns", asked=asked, norm=norm
    )


def _stratified(a: HSSMatrix, source: EntrySource, rng: np.random.Generator) -> tuple[float, float]:
    """Estimate of the squared error off the diagonal blocks, and its standard deviation."""
    from ..nested.entries import entry_values

    total, variance = 0.0, 0.0
    for level in range(1, a.row_tree.depth + 1):
        blocks = 2**level
        each = max(1, -(-ROWS_PER_LEVEL // blocks))
        node = np.repeat(np.arange(blocks), each)
        row, row_weight = _draw(a.row_tree, level, node, np.tile(np.arange(each), blocks), each, rng)
        stretch = np.arange(ENTRIES_PER_ROW)
        sibling = np.repeat(node ^ 1, ENTRIES_PER_ROW)
        col, col_weight = _draw(a.col_tree, level, sibling, np.tile(stretch, len(node)), ENTRIES_PER_ROW, rng)
        i = np.broadcast_to(a.row_tree.perm[row][:, None], (len(node), ENTRIES_PER_ROW))
        j = a.col_tree.perm[col].reshape(i.shape)
        error = np.abs(source.pairs(i, j) - entry_values(a, i.ravel(), j.ravel()).reshape(i.shape)) ** 2
        by_row = row_weight * (error * col_weight.reshape(i.shape)).sum(axis=1)  # unbiased parts of the total
        total += float(by_row.sum())
        # rows are independent; within a level they are compared with each other
        variance += float(len(by_row) * by_row.var(ddof=1))
    return total, float(np.sqrt(variance))


def _draw(tree: Any, level: int, node: NumpyArray, stretch: NumpyArray, count: int, rng: np.random.Generator) -> Any:
    """One random sorted position in each of `count` equal stretches of a node, and how many indices it stands for."""
    start, size = tree.starts(level)[node], tree.sizes(level)[node]
    position = ((stretch + rng.random(len(node))) * size / count).astype(np.int64)
    return start + np.minimum(position, size - 1), size / count
