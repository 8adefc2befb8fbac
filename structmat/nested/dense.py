"""Nested bases from a dense array: block rows and block columns compressed level by level, with a guaranteed error.

Reference: J. Xia, S. Chandrasekaran, M. Gu, X. S. Li, "Fast algorithms for hierarchically semiseparable matrices",
Numer. Linear Algebra Appl. 17 (2010) 953-976, section 3; W. Hackbusch, S. Boerm, "Data-sparse approximation by adaptive
H2-matrices", Computing 69 (2002) 1-35. Departures: any partition, all nodes of a level at once, and what the rows were
compressed to serves the columns. Cost O(n^2 k).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, NestedBasis
from ..lowrank import truncated_range
from ..partition import BlockPartition
from ..tree import ClusterTree

CHUNK_BYTES = 1 << 26

Ranges = Callable[..., tuple[NumpyArray, IntArray, NumpyArray]]


@dataclass(frozen=True)
class Compressed:
    """Near field, bases and couplings of levels 1 .. depth, padded; and the squared error."""

    near: BlockBatch
    row_basis: NestedBasis
    col_basis: NestedBasis
    couplings: tuple[BlockBatch, ...]
    square: float


def compress(
    a: NumpyArray, stored: BlockPartition, tails: tuple[list[Any], list[Any]], *, max_rank: int | None,
    symmetric: bool, ranges: Ranges = truncated_range,
) -> Compressed:  # fmt: skip
    """Bases and couplings of a dense array.

    stored: the blocks that are stored, dense ones on the level of the leaves and admissible ones below the root (of a
    Hermitian matrix the lower half); tails: for the rows and for the columns, by level from 0, the Frobenius norm that
    the basis of each node may leave out, met unless max_rank cuts in; ranges: `truncated_range` or `truncated_svd`.
    """
    # The squared error is at most the sum of the squares of all that is left out, of rows and of columns. All bases are
    # orthonormal, so P_l A P'_l with the projections of a level, of the rows and of the columns, is what is kept of the
    # far field there. Going up a level it loses (I - P) X of X = P_(l+1) A P'_(l+1), which lies at right angles to
    # what is kept, then P X (I - P'), which does so too: each loss is at right angles to all later ones, which lie in
    # the ranges of P and P'. A coupling is taken out when its level is reached, and loses nothing from there on.
    depth = stored.depth
    blocks = _padded_blocks(a, stored.row_tree, stored.col_tree)  # (nodes, p, nodes, q)
    places = stored.near[depth]
    near = _taken_out(blocks, places, symmetric)
    rows: list[tuple[NumpyArray, IntArray]] = []
    cols: list[tuple[NumpyArray, IntArray]] = []
    couplings: list[BlockBatch] = []
    square = 0.0
    for level in range(depth, 0, -1):
        u, row_ranks, left = _ranges(blocks, tails[0][level], max_rank, ranges)
        turned = _flipped(_project(u, blocks))
        v, col_ranks, other = (u, row_ranks, left) if symmetric else _ranges(turned, tails[1][level], max_rank, ranges)
        blocks = _flipped(_project(v, turned))
        square += left + other
        rows.append((u, row_ranks))
        cols.append((v, col_ranks))
        couplings.append(_taken_out(blocks, stored.far[level], symmetric))
        shape = 2 ** (level - 1), 2 * u.shape[2], 2 ** (level - 1), 2 * v.shape[2]
        blocks = np.ascontiguousarray(blocks).reshape(shape)
    row_basis = _basis(rows)
    col_basis = row_basis if symmetric else _basis(cols)
    return Compressed(near, row_basis, col_basis, tuple(couplings[::-1]), square)


def _taken_out(blocks: NumpyArray, places: IntArray, symmetric: bool) -> BlockBatch:
    """Copies of some blocks, which become zero; with `symmetric` the mirrored ones too."""
    i, j = places[:, 0].copy(), places[:, 1].copy()
    data = np.array(blocks[i, :, j])
    blocks[i, :, j] = 0
    if symmetric:
        blocks[j, :, i] = 0
    return BlockBatch(data, i, j)


def _padded_blocks(a: NumpyArray, row_tree: ClusterTree, col_tree: ClusterTree) -> NumpyArray:
    """A copy in the trees' order, as blocks between leaves (leaves, p, leaves, q), zero where leaves are shorter."""
    extended = np.zeros((a.shape[0] + 1, a.shape[1] + 1), dtype=a.dtype)
    extended[:-1, :-1] = a
    rows, cols = row_tree.leaf_positions, col_tree.leaf_positions
    out = extended[np.ix_(rows.ravel(), cols.ravel())]
    return out.reshape(len(rows), rows.shape[1], len(cols), cols.shape[1])


def _flipped(blocks: NumpyArray) -> NumpyArray:
    """The blocks of the adjoint matrix."""
    turned = blocks.transpose(2, 3, 0, 1)
    return turned.conj() if blocks.dtype.kind == "c" else turned


def _ranges(blocks: NumpyArray, tails: Any, max_rank: int | None, ranges: Ranges) -> tuple[NumpyArray, IntArray, float]:
    """Bases of the block rows, their ranks, and the squared norm of what they leave out."""
    nodes, p = blocks.shape[:2]
    tails = np.broadcast_to(tails, (nodes,))
    step = max(1, CHUNK_BYTES // max(1, blocks[0].nbytes))
    parts = []
    for first in range(0, nodes, step):
        part = np.array(blocks[first : first + step], order="C")
        part = part.reshape(len(part), p, blocks.shape[2] * blocks.shape[3])
        parts.append(ranges(part, tails[first : first + step], max_rank=max_rank))
    ranks = np.concatenate([r for _, r, _ in parts])
    basis = np.zeros((nodes, p, int(ranks.max(initial=0))), dtype=blocks.dtype)
    for first, (part, _, _) in zip(range(0, nodes, step), parts, strict=True):
        basis[first : first + len(part), :, : part.shape[2]] = part
    return basis, ranks, float(sum((left**2).sum() for _, _, left in parts))


def _project(basis: NumpyArray, blocks: NumpyArray) -> NumpyArray:
    """basis^H times each block row: (nodes, k, nodes, q)."""
    nodes, p, others, q = blocks.shape
    flat = np.matmul(adjoint(basis), np.ascontiguousarray(blocks).reshape(nodes, p, others * q))
    return flat.reshape(nodes, basis.shape[2], others, q)


def _basis(parts: list[tuple[NumpyArray, IntArray]]) -> NestedBasis:
    return NestedBasis(tuple(b for b, _ in parts[::-1]), tuple(r for _, r in parts[::-1]))
