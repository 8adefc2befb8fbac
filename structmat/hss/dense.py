"""HSS from a dense array: block rows and block columns compressed level by level, with a guaranteed error.

Reference: J. Xia, S. Chandrasekaran, M. Gu, X. S. Li, "Fast algorithms for hierarchically semiseparable matrices",
Numer. Linear Algebra Appl. 17 (2010) 953-976, section 3. Departure: all nodes of a level at once, and what the rows
were compressed to serves the columns. Cost O(n^2 k).
"""

from __future__ import annotations

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import NestedBasis
from ..lowrank import truncated_range
from ..tree import ClusterTree
from .generators import Generators

CHUNK_BYTES = 1 << 26


def compress(
    a: NumpyArray, row_tree: ClusterTree, col_tree: ClusterTree, *, tail: float, max_rank: int | None, symmetric: bool
) -> tuple[Generators, float]:
    """Generators and a bound of the absolute error in the Frobenius norm; at most `tail` unless max_rank cuts in."""
    depth = row_tree.depth
    blocks = _padded_blocks(a, row_tree, col_tree)  # (nodes, p, nodes, q)
    node = np.arange(len(blocks))
    diagonal = np.array(blocks[node, :, node])
    each = tail / np.sqrt(2.0 * max(depth, 1))
    rows: list[tuple[NumpyArray, IntArray]] = []
    cols: list[tuple[NumpyArray, IntArray]] = []
    couplings: list[NumpyArray] = []
    square = 0.0
    for level in range(depth, 0, -1):
        node = np.arange(2**level)
        blocks[node, :, node] = 0  # what lies inside a node is not compressed with it
        limit = each / np.sqrt(2.0**level)
        u, row_ranks, left = _range(blocks, limit, max_rank)
        turned = _flipped(_project(u, blocks))
        v, col_ranks, other = (u, row_ranks, left) if symmetric else _range(turned, limit, max_rank)
        blocks = _flipped(_project(v, turned))
        square += left + other
        rows.append((u, row_ranks))
        cols.append((v, col_ranks))
        here = node[::2] if symmetric else node
        couplings.append(np.array(blocks[here, :, here ^ 1]))
        k, kv = u.shape[2], v.shape[2]
        blocks = np.ascontiguousarray(blocks).reshape(2 ** (level - 1), 2 * k, 2 ** (level - 1), 2 * kv)
    row_basis = _basis(rows)
    generators = Generators(
        diagonal, row_basis, row_basis if symmetric else _basis(cols), tuple(couplings[::-1]), symmetric
    )
    return generators, float(np.sqrt(square))


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


def _range(blocks: NumpyArray, tail: float, max_rank: int | None) -> tuple[NumpyArray, IntArray, float]:
    """Bases of the block rows, their ranks, and the squared norm of what they leave out."""
    nodes, p = blocks.shape[:2]
    step = max(1, CHUNK_BYTES // max(1, blocks[0].nbytes))
    parts = []
    for first in range(0, nodes, step):
        part = np.array(blocks[first : first + step], order="C")
        part = part.reshape(len(part), p, blocks.shape[2] * blocks.shape[3])
        parts.append(truncated_range(part, np.full(len(part), tail), max_rank=max_rank))
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
