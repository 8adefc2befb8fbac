"""HSS from entries or from a kernel on points, by interpolative decomposition against far-field samples.

Reference: P.-G. Martinsson, V. Rokhlin, "A fast direct solver for boundary integral equations in two dimensions",
J. Comput. Phys. 205 (2005) 1-23, and K. Ho, L. Greengard, SIAM J. Sci. Comput. 34 (2012) A2507-A2532. Departures: the
proxies are actual points, chosen by a walk of the tree and weighted by how many they stand for; ranks are set by the
tolerance of the whole matrix; the result is checked on entries that were not used, and the sampling is refined until
the check passes.

Cost O(n k^2) and O(n k) entries; the dense matrix is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import NestedBasis
from ..lowrank import row_interpolation
from ..sources import EntrySource
from ..tree import ClusterTree
from .generators import Generators
from .sampling import SamplingRule, far_samples

# bytes of samples held at a time: few enough to stay in the cache
CHUNK_BYTES = 1 << 22
# share of the tolerance for the truncation; an interpolation from skeleton rows amplifies it by a modest factor
SHARE = 0.5


@dataclass(frozen=True)
class Built:
    """The outcome of one attempt, and the norm of the matrix that its tolerance was measured against."""

    generators: Generators
    norm: float


def build(
    source: EntrySource,
    row_tree: ClusterTree,
    col_tree: ClusterTree,
    *,
    rtol: float,
    atol: float,
    max_rank: int | None,
    symmetric: bool,
    rule: SamplingRule,
    progress: Any,
) -> Built:
    """One attempt with one sampling rule."""
    depth = row_tree.depth
    diagonal = _leaf_blocks(source, row_tree, col_tree)
    rows = _Side(source, row_tree, col_tree, adjointly=False)
    sides = [rows] if symmetric else [rows, _Side(source, col_tree, row_tree, adjointly=True)]
    size = _norm(diagonal, rows, rule)
    allowed = max(rtol * size, atol)
    couplings: list[NumpyArray] = []
    for level in range(depth, 0, -1):
        for side in sides:
            tail = SHARE * allowed / np.sqrt(2.0 * depth * 2**level)
            side.compress(level, tail, max_rank, rule)
            progress(1.0 / (depth * len(sides)))
        couplings.append(_couplings(source, sides[0], sides[-1], symmetric=symmetric))
    row_basis = sides[0].basis()
    col_basis = row_basis if symmetric else sides[-1].basis()
    return Built(Generators(diagonal, row_basis, col_basis, tuple(couplings[::-1]), symmetric), size)


def _leaf_blocks(source: EntrySource, row_tree: ClusterTree, col_tree: ClusterTree) -> NumpyArray:
    rows, cols = (np.where(t.leaf_positions < t.n, t.leaf_positions, -1) for t in (row_tree, col_tree))
    out = np.empty((len(rows), rows.shape[1], cols.shape[1]), dtype=source.dtype)
    for part in _chunks(len(rows), out[0].nbytes):
        out[part] = source.blocks(rows[part], cols[part])
    return out


def _chunks(count: int, nbytes: int) -> list[slice]:
    step = max(1, CHUNK_BYTES // max(1, nbytes))
    return [slice(k, min(k + step, count)) for k in range(0, count, step)]


def _norm(diagonal: NumpyArray, side: _Side, rule: SamplingRule) -> float:
    """Estimate of ||A||_F: the diagonal blocks exactly, the rest from the samples of up to 64 leaves."""
    square = float(np.vdot(diagonal, diagonal).real)
    leaves = len(diagonal)
    if leaves > 1:
        picks = np.unique(np.linspace(0, leaves - 1, min(leaves, 64)).astype(np.int64))
        samples = side.samples(side.tree.depth, picks, rule)
        square += float(np.vdot(samples, samples).real) * leaves / len(picks)
    return float(np.sqrt(square))


class _Side:
    """One of the two bases: the rows of A, or (adjointly) the rows of A^H."""

    def __init__(self, source: EntrySource, tree: ClusterTree, other: ClusterTree, *, adjointly: bool) -> None:
        self.source, self.tree, self.other, self.adjointly = source, tree, other, adjointly
        # the indices (in the user's order) that stand for a node: its own at the leaves, skeletons above; -1 pads
        leaf = tree.leaf_positions
        self.candidates = np.where(leaf < tree.n, leaf, -1)
        self.arrays: list[NumpyArray] = []
        self.orders: list[IntArray] = []
        self.ranks: list[IntArray] = []
        self._far: dict[int, tuple[IntArray, NumpyArray]] = {}

    def samples(self, level: int, nodes: IntArray, rule: SamplingRule) -> NumpyArray:
        """Weighted samples of the block rows of some nodes, (len(nodes), candidates, s)."""
        if level not in self._far:
            self._far = {level: far_samples(self.tree, self.other, level, rule)}
        positions, weights = self._far[level]
        positions, weights = positions[nodes], weights[nodes]
        far = np.where(positions >= 0, self.other.perm[np.maximum(positions, 0)], -1)
        mine = self.candidates[nodes]
        if self.adjointly:
            block = self.source.blocks(far, mine, turned=True)
            block = block.conj() if block.dtype.kind == "c" else block
        else:
            block = self.source.blocks(mine, far)
        block *= weights[:, None, :]
        return block

    def compress(self, level: int, tail: float, max_rank: int | None, rule: SamplingRule) -> None:
        """Choose the skeletons of one level and their interpolation matrices."""
        count, width = self.candidates.shape
        if level not in self._far:
            self._far = {level: far_samples(self.tree, self.other, level, rule)}
        nbytes = 2 * width * self._far[level][0].shape[1] * self.source.dtype.itemsize
        candidates = (self.candidates >= 0).sum(axis=1)
        # a skeleton row stands for many rows of the node
        tails = tail * np.sqrt(np.maximum(candidates, 1) / self.tree.sizes(level))
        parts = []
        for part in _chunks(count, nbytes):
            blocks = self.samples(level, np.arange(count)[part], rule)
            parts.append(row_interpolation(blocks, tails[part], max_rank=max_rank))
        rank = max(p[2].max(initial=0) for p in parts)
        rest = np.zeros((count, width - rank, rank), dtype=self.source.dtype)
        for part, (array, _order, _ranks) in zip(_chunks(count, nbytes), parts, strict=True):
            own = array.shape[2]  # rows beyond the chunk's own rank join the skeleton of the level
            rest[part, :, :own] = array[:, rank - own :]
        order = np.concatenate([p[1] for p in parts])
        self.skeleton = np.take_along_axis(self.candidates, order[:, :rank], axis=1)  # (2**level, k), the user's
        self.arrays.append(rest)
        self.orders.append(order.astype(np.int32))
        self.ranks.append(np.full(count, rank))
        self.candidates = self.skeleton.reshape(count // 2, 2 * rank)

    def basis(self) -> NestedBasis:
        return NestedBasis(tuple(self.arrays[::-1]), tuple(self.ranks[::-1]), tuple(self.orders[::-1]))


def _couplings(source: EntrySource, rows: _Side, cols: _Side, *, symmetric: bool) -> NumpyArray:
    """A at the skeleton rows of each node and the skeleton columns of its sibling; of even nodes only if symmetric."""
    mine, sibling = rows.skeleton, cols.skeleton[np.arange(len(cols.skeleton)) ^ 1]
    if symmetric:
        mine, sibling = mine[::2], sibling[::2]
    out = np.empty((len(mine), mine.shape[1], sibling.shape[1]), dtype=source.dtype)
    for part in _chunks(len(mine), max(1, out[0].nbytes)):
        out[part] = source.blocks(mine[part], sibling[part])
    return out
