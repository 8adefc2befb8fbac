"""The pairs of nodes of each level whose blocks are not admissible yet, and the nodes that have a far field at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .._typing import IntArray, NumpyArray
from ..partition import BlockPartition, children


@dataclass(frozen=True)
class Neighbours:
    """The pairs of nodes of one level whose blocks are not admissible, on this level or above.

    Attributes
    ----------
    level : int
    pairs : (nb, 2) int array
        Row node and column node, sorted by row, then by column.
    row_served, col_served : (2**level,) bool arrays
        Whether a node or one of its ancestors has admissible blocks: there is a far field for its basis.
    """

    level: int
    pairs: IntArray
    row_served: NumpyArray
    col_served: NumpyArray

    @cached_property
    def of_rows(self) -> list[IntArray]:
        """For each row node its pairs, by number."""
        return np.split(np.arange(len(self.pairs)), np.searchsorted(self.pairs[:, 0], np.arange(1, 1 << self.level)))

    @cached_property
    def of_cols(self) -> list[IntArray]:
        """For each column node its pairs, by number."""
        order = np.lexsort((self.pairs[:, 0], self.pairs[:, 1]))
        return np.split(order, np.searchsorted(self.pairs[order, 1], np.arange(1, 1 << self.level)))

    def mirrored(self, by_columns: list[NumpyArray]) -> list[NumpyArray]:
        """Blocks of all pairs that stand in the order of columns, in that of the pairs."""
        out = list(by_columns)
        for pair, block in zip(np.concatenate(self.of_cols), by_columns, strict=True):
            out[pair] = block
        return out


def neighbours(partition: BlockPartition) -> list[Neighbours]:
    """Those of each level, 0 .. depth."""
    found: list[Neighbours] = []
    unknown = np.zeros((1, 2), dtype=np.int64)
    for level, far in enumerate(partition.far):
        key, taken = (unknown[:, 0] << level) + unknown[:, 1], (far[:, 0] << level) + far[:, 1]
        near = unknown[~np.isin(key, taken)]
        near = near[np.lexsort((near[:, 1], near[:, 0]))]
        served = [np.bincount(far[:, side], minlength=1 << level) > 0 for side in (0, 1)]
        if found:
            served[0] |= np.repeat(found[-1].row_served, 2)
            served[1] |= np.repeat(found[-1].col_served, 2)
        found.append(Neighbours(level, near, *served))
        unknown = children(near)
    return found
