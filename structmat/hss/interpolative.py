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

from .._backend import concatenated, conj, like, squared_norm, stacked
from .._typing import Array, IntArray, NumpyArray
from ..blocks import NestedBasis, expand_interpolation
from ..lowrank import row_interpolation
from ..sources import DeviceKernelSource, EntrySource
from ..tree import ClusterTree
from .generators import Generators
from .sampling import SamplingRule, far_samples

# bytes of samples held at a time: few enough to stay in the cache
CHUNK_BYTES = 1 << 22
DEVICE_CHUNK_BYTES = 1 << 28
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
    if isinstance(source, DeviceKernelSource):
        numbers = row_tree.leaf_count * row_tree.leaf_size * col_tree.leaf_size
        source.require_room(numbers, "the diagonal blocks of this matrix", "build with smaller leaves or on the CPU")
    diagonal = _leaf_blocks(source, row_tree, col_tree)
    rows = _Side(source, row_tree, col_tree, adjointly=False)
    sides = [rows] if symmetric else [rows, _Side(source, col_tree, row_tree, adjointly=True)]
    size = _norm(diagonal, rows, rule)
    allowed = max(rtol * size, atol)
    couplings: list[Array] = []
    for level in range(depth, 0, -1):
        for side in sides:
            tail = SHARE * allowed / np.sqrt(2.0 * depth * 2**level)
            side.compress(level, tail, max_rank, rule)
            progress(1.0 / (depth * len(sides)))
        couplings.append(_couplings(source, sides[0], sides[-1], symmetric=symmetric))
    row_basis = sides[0].basis()
    col_basis = row_basis if symmetric else sides[-1].basis()
    return Built(Generators(diagonal, row_basis, col_basis, tuple(couplings[::-1]), symmetric), size)


def _leaf_blocks(source: EntrySource, row_tree: ClusterTree, col_tree: ClusterTree) -> Array:
    rows, cols = (np.where(t.leaf_positions < t.n, t.leaf_positions, -1) for t in (row_tree, col_tree))
    return _evaluated(source, rows, cols)


def _evaluated(source: EntrySource, rows: IntArray, cols: IntArray) -> Array:
    """The blocks at rows (nb, p) and columns (nb, q), a chunk at a time."""
    chunks = _chunks(source, len(rows), rows.shape[1] * cols.shape[1])
    if _on_device(source):
        return concatenated([source.blocks(rows[part], cols[part]) for part in chunks])
    out = np.empty((len(rows), rows.shape[1], cols.shape[1]), dtype=source.dtype)
    for part in chunks:
        out[part] = source.blocks(rows[part], cols[part])
    return out


def _on_device(source: EntrySource) -> bool:
    return isinstance(source, DeviceKernelSource)


def _chunks(source: EntrySource, count: int, numbers: int) -> list[slice]:
    """Pieces of `count` blocks of so many numbers."""
    limit = DEVICE_CHUNK_BYTES if _on_device(source) else CHUNK_BYTES
    step = max(1, limit // max(1, numbers * source.dtype.itemsize))
    return [slice(k, min(k + step, count)) for k in range(0, count, step)]


def _norm(diagonal: Array, side: _Side, rule: SamplingRule) -> float:
    """Estimate of ||A||_F: the diagonal blocks exactly, the rest from the samples of up to 64 leaves."""
    square = squared_norm(diagonal)
    leaves = int(diagonal.shape[0])
    if leaves > 1:
        picks = np.unique(np.linspace(0, leaves - 1, min(leaves, 64)).astype(np.int64))
        samples = side.samples(side.tree.depth, picks, rule)
        square += squared_norm(samples) * leaves / len(picks)
    return float(np.sqrt(square))


class _Side:
    """One of the two bases: the rows of A, or (adjointly) the rows of A^H."""

    def __init__(self, source: EntrySource, tree: ClusterTree, other: ClusterTree, *, adjointly: bool) -> None:
        self.source, self.tree, self.other, self.adjointly = source, tree, other, adjointly
        # the indices (in the user's order) that stand for a node: its own at the leaves, skeletons above; -1 pads
        leaf = tree.leaf_positions
        self.candidates = np.where(leaf < tree.n, leaf, -1)
        self.arrays: list[Array] = []
        self.orders: list[IntArray] = []
        self.ranks: list[IntArray] = []
        self._far: dict[int, tuple[IntArray, NumpyArray]] = {}

    def samples(self, level: int, nodes: IntArray, rule: SamplingRule) -> Array:
        """Weighted samples of the block rows of some nodes, (len(nodes), candidates, s)."""
        if level not in self._far:
            self._far = {level: far_samples(self.tree, self.other, level, rule)}
        positions, weights = self._far[level]
        positions, weights = positions[nodes], weights[nodes]
        far = np.where(positions >= 0, self.other.perm[np.maximum(positions, 0)], -1)
        mine = self.candidates[nodes]
        if self.adjointly:
            block = conj(self.source.blocks(far, mine, turned=True))
        else:
            block = self.source.blocks(mine, far)
        block *= like(weights[:, None, :], block)
        return block

    def compress(self, level: int, tail: float, max_rank: int | None, rule: SamplingRule) -> None:
        """Choose the skeletons of one level and their interpolation matrices."""
        count, width = self.candidates.shape
        if level not in self._far:
            self._far = {level: far_samples(self.tree, self.other, level, rule)}
        chunks = _chunks(self.source, count, 2 * width * self._far[level][0].shape[1])
        candidates = (self.candidates >= 0).sum(axis=1)
        # a skeleton row stands for many rows of the node
        tails = tail * np.sqrt(np.maximum(candidates, 1) / self.tree.sizes(level))
        parts = []
        for part in chunks:
            blocks = self.samples(level, np.arange(count)[part], rule)
            parts.append(row_interpolation(blocks, tails[part], max_rank=max_rank))
        rank = max(p[2].max(initial=0) for p in parts)
        # rows beyond a chunk's own rank join the skeleton of the level
        rest = stacked([array[:, rank - array.shape[2] :, :] for array, _order, _ranks in parts], rank)
        order = np.concatenate([p[1] for p in parts])
        self.skeleton = np.take_along_axis(self.candidates, order[:, :rank], axis=1)  # (2**level, k), the user's
        self.arrays.append(rest)
        self.orders.append(order.astype(np.int32))
        self.ranks.append(np.full(count, rank))
        self.candidates = self.skeleton.reshape(count // 2, 2 * rank)

    def basis(self) -> NestedBasis:
        """The nested basis, when all levels are compressed; on a device with its identity parts written out."""
        if _on_device(self.source):
            arrays = map(expand_interpolation, self.arrays[::-1], self.orders[::-1])
            return NestedBasis(tuple(arrays), tuple(self.ranks[::-1]))
        return NestedBasis(tuple(self.arrays[::-1]), tuple(self.ranks[::-1]), tuple(self.orders[::-1]))


def _couplings(source: EntrySource, rows: _Side, cols: _Side, *, symmetric: bool) -> Array:
    """A at the skeleton rows of each node and the skeleton columns of its sibling; of even nodes only if symmetric."""
    mine, sibling = rows.skeleton, cols.skeleton[np.arange(len(cols.skeleton)) ^ 1]
    if symmetric:
        mine, sibling = mine[::2], sibling[::2]
    return _evaluated(source, mine, sibling)
