"""An H2-matrix from lists of small matrices by node and by pair of nodes, as builders from products find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..nested import NestedStorage
from ..partition import BlockPartition
from ..tree import ClusterTree
from .neighbours import Neighbours

Blocks = list[NumpyArray]


@dataclass
class Level:
    """What is found on one level: bases, and what is left of the blocks between neighbours after both of them."""

    near: Neighbours
    u: Blocks
    v: Blocks
    own: Blocks  # for each pair (t, s) the part of Y_t Omega_N^+ on s, (p, q)
    mirrored: Blocks  # for each pair the part of Z_s Psi_N^+ on t, (q, p)

    def outside(self, pair: int) -> NumpyArray:
        """(I - V V^H) D^H of a pair, (q, p)."""
        v, m = self.v[self.near.pairs[pair, 1]], self.mirrored[pair]
        return m - v @ (v.conj().T @ m)

    def block(self, pair: int) -> NumpyArray:
        """D - U U^H D V V^H of a pair, (p, q)."""
        u, own = self.u[self.near.pairs[pair, 0]], self.own[pair]
        return own + u @ (u.conj().T @ (self.outside(pair).conj().T - own))


def assembled(levels: list[Level], partition: BlockPartition, *, symmetric: bool) -> NestedStorage:
    """The matrix from its levels, leaves first; the last one has no far field above it, so that its blocks are whole.

    What a level has left to its parents comes back from the parents' blocks: couplings where a pair of children is
    admissible, and otherwise what their own block lacks.
    """
    top, depth = levels[-1], partition.depth
    dtype = top.own[0].dtype
    stored = partition.lower() if symmetric else partition
    whole = [0.5 * (a + m.conj().T) for a, m in zip(top.own, top.mirrored, strict=True)]
    couplings = [_ragged([], stored.far[level], dtype) for level in range(1, top.near.level + 1)]
    for above, here in zip(levels[:0:-1], levels[-2::-1], strict=True):
        parts = _parts(whole, above, here)
        far = stored.far[here.near.level]
        couplings.append(_ragged([parts[t, s] for t, s in far.tolist()], far, dtype))
        whole = [
            here.block(k) + here.u[t] @ parts[t, s] @ here.v[s].conj().T
            for k, (t, s) in enumerate(here.near.pairs.tolist())
        ]
        if symmetric:
            whole = _hermitian(whole, here)
    near = _near_field(whole, levels[0].near.pairs, stored)
    rows = _basis([level.u for level in levels], partition.row_tree, depth, dtype)
    cols = rows if symmetric else _basis([level.v for level in levels], partition.col_tree, depth, dtype)
    return NestedStorage(near, tuple(couplings), rows, cols, half=symmetric)


def _parts(whole: Blocks, above: Level, here: Level) -> dict[tuple[int, int], NumpyArray]:
    """The blocks of a level as those of its children, by their nodes."""
    parts = {}
    for block, (t, s) in zip(whole, above.near.pairs.tolist(), strict=True):
        p, q = here.u[2 * t].shape[1], here.v[2 * s].shape[1]
        for i, rows in enumerate((block[:p], block[p:])):
            for j, part in enumerate((rows[:, :q], rows[:, q:])):
                parts[2 * t + i, 2 * s + j] = part
    return parts


def _hermitian(whole: Blocks, level: Level) -> Blocks:
    """Each block and its mirror image, averaged."""
    # the pairs by columns stand in the order of the mirrored pairs by rows
    mirror = level.near.mirrored(whole)
    return [0.5 * (a + m.conj().T) for a, m in zip(whole, mirror, strict=True)]


def _ragged(blocks: Blocks, places: IntArray, dtype: Any) -> RaggedBatch:
    shapes = np.array([b.shape for b in blocks], dtype=np.int64).reshape(-1, 2)
    data = np.concatenate([np.zeros(0, dtype=dtype), *(b.ravel() for b in blocks)])
    return RaggedBatch(data, places[:, 0].copy(), places[:, 1].copy(), shapes[:, 0], shapes[:, 1])


def _near_field(whole: Blocks, pairs: IntArray, stored: BlockPartition) -> BlockBatch:
    p, q = stored.row_tree.leaf_size, stored.col_tree.leaf_size
    number = {(t, s): k for k, (t, s) in enumerate(pairs.tolist())}
    places = stored.near[stored.depth]
    data = np.zeros((len(places), p, q), dtype=whole[0].dtype)
    for place, (t, s) in zip(data, places.tolist(), strict=True):
        block = whole[number[t, s]]
        place[: block.shape[0], : block.shape[1]] = block
    return BlockBatch(data, places[:, 0].copy(), places[:, 1].copy())


def _basis(levels: list[Blocks], tree: ClusterTree, depth: int, dtype: Any) -> RaggedBasis:
    """From the bases of the nodes, leaves first; those of levels above are empty."""
    arrays, ranks = [], []
    for level in range(1, depth + 1):
        blocks = levels[depth - level] if depth - level < len(levels) else []
        turned = [b.T for b in blocks]
        if level == depth:  # shorter leaves are padded
            turned = [np.pad(b, ((0, 0), (0, tree.leaf_size - b.shape[1]))) for b in turned]
        arrays.append(np.concatenate([np.zeros(0, dtype=dtype), *(b.ravel() for b in turned)]))
        ranks.append(np.array([len(b) for b in turned] or [0] * (1 << level), dtype=np.int64))
    return RaggedBasis(tuple(arrays), tuple(ranks), tree.leaf_size if depth else 0)
