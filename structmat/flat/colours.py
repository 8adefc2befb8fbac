"""Colours of the nodes of a level: nodes of one colour can be probed together.

Reference: J. Levitt, P.-G. Martinsson, "Randomized compression of rank-structured matrices accelerated with graph
coloring", arXiv 2205.03406.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .._typing import IntArray, NumpyArray


@dataclass(frozen=True)
class Colours:
    """The colour of each column node of a level, (nodes,); -1 for nodes that need none."""

    number: IntArray

    @property
    def count(self) -> int:
        """How many colours there are."""
        return int(self.number.max(initial=-1)) + 1

    def of(self, nodes: IntArray) -> Colours:
        """Colours for some nodes only, numbered anew so that none is without nodes."""
        number = np.full(len(self.number), -1, dtype=np.int64)
        number[nodes] = np.unique(self.number[nodes], return_inverse=True)[1]
        return Colours(number)

    def divided(self, parts: int, rng: np.random.Generator) -> Colours:
        """Each colour divided into `parts` at random: a perforated sketch."""
        if parts == 1:
            return self
        finer = np.where(self.number >= 0, self.number * parts + rng.integers(0, parts, len(self.number)), -1)
        return Colours(finer).of(np.flatnonzero(finer >= 0))


def colour(wanted: IntArray, unknown: IntArray, nodes: int) -> Colours:
    """Colour the column nodes of the blocks `wanted` so that each of these blocks can be seen alone.

    Parameters
    ----------
    wanted : (nb, 2) int array
        Row and column node of each block that is to be found.
    unknown : (nu, 2) int array
        All blocks that answer to a probe, `wanted` among them.
    nodes : int
        Number of nodes of the level.

    Returns
    -------
    Colours
        If (i, j) is wanted and (i, k) unknown, then j and k have different colours; where k is in no wanted block it
        has none, and is not probed.

    Notes
    -----
    Greedy, in the order of the degrees (Welsh, Powell 1967). Cost O(conflicts).
    """
    number = np.full(nodes, -1, dtype=np.int64)
    if not len(wanted):
        return Colours(number)
    conflicts = _pattern(wanted, nodes).T @ _pattern(unknown, nodes)
    graph = sparse.csr_array(conflicts + conflicts.T)
    used = np.unique(wanted[:, 1])
    for j in used[np.argsort(-np.diff(graph.indptr)[used], kind="stable")]:
        number[j] = _smallest_free(number[graph.indices[graph.indptr[j] : graph.indptr[j + 1]]])
    return Colours(number)


def _smallest_free(taken: NumpyArray) -> int:
    """The smallest number >= 0 that is not among those taken."""
    seen = np.zeros(len(taken) + 1, dtype=bool)
    seen[taken[(taken >= 0) & (taken <= len(taken))]] = True
    return int(np.argmin(seen))


def _pattern(blocks: IntArray, nodes: int) -> sparse.csr_array:
    ones = np.ones(len(blocks), dtype=np.int64)
    return sparse.csr_array((ones, (blocks[:, 0], blocks[:, 1])), shape=(nodes, nodes))
