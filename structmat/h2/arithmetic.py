"""Sums and updates of H2-matrices: exact first, in larger bases, then recompressed.

Reference: S. Boerm, "Efficient Numerical Methods for Non-local Operators", EMS 2010, chapter 7: bases side by side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..engine.dense import matmul
from ..flat.arithmetic import require_dense_diagonal
from ..flat.assemble import aligned
from ..partition import BlockPartition
from ..tree import ClusterTree
from .blocks import H2Blocks, chosen
from .ragged import Ragged, copy, level_of, transfers


def scale(blocks: H2Blocks, factor: Any) -> H2Blocks:
    """Factor * A; the factor goes to the near field and the couplings."""
    near = replace(blocks.near, data=blocks.near.data * factor)
    couplings = tuple(replace(b, data=b.data * factor) for b in blocks.couplings)
    return H2Blocks(near, couplings, blocks.row_basis, blocks.col_basis, blocks.half)


def add_diagonal(blocks: H2Blocks, tree: ClusterTree, values: NumpyArray) -> H2Blocks:
    """A + diag(values), values (n,) in the user's order; the blocks on the diagonal must be dense."""
    require_dense_diagonal(bool((b.rows == b.cols).any()) for b in blocks.couplings)
    return replace(blocks, near=blocks.near.plus_diagonal(tree.to_leaves(values[:, None])[:, :, 0]), buffer=None)


# -------------------------------------------------------------------------------------------- sums


def add(a: H2Blocks, b: H2Blocks) -> H2Blocks:
    """A + B exactly, for one partition, both stored half or both in full."""
    rows = _side_by_side(a.row_basis.full(), b.row_basis.full())
    cols = rows if a.half else _side_by_side(a.col_basis.full(), b.col_basis.full())
    couplings = []
    for level, (x, y) in enumerate(zip(a.couplings, b.couplings, strict=True), start=1):
        y = in_order_of(x, y, level)
        heights, widths = x.heights + y.heights, x.widths + y.widths
        out = Ragged.zeros(heights, widths, x.data, y.data)
        first = out.starts[:-1]
        for part, at in ((x, first), (y, first + x.heights * widths + x.widths)):
            copy(part.data, out.data, (part.starts[:-1], part.widths, at, widths, part.heights, part.widths))
        couplings.append(RaggedBatch(out.data, x.rows, x.cols, heights, widths))
    near = replace(a.near, data=a.near.data + aligned(a.near, b.near, a.depth))
    return H2Blocks(near, tuple(couplings), rows, cols, a.half)


def in_order_of(a: RaggedBatch, b: RaggedBatch, level: int) -> RaggedBatch:
    """The couplings of b in the order of those of a; both have the same places."""
    mine, its = places(a, level), places(b, level)
    if np.array_equal(mine, its):
        return b
    order = np.argsort(its)
    return chosen(b, order[np.searchsorted(its[order], mine)])


def places(b: RaggedBatch | BlockBatch, level: int) -> IntArray:
    """One number for each block of a level."""
    return (np.asarray(b.rows, dtype=np.int64) << level) + b.cols


def same_places(a: H2Blocks, b: H2Blocks) -> bool:
    """Whether both have the same dense blocks and the same couplings, stored alike."""
    mine, its = ([places(m.near, m.depth), *(places(c, k) for k, c in enumerate(m.couplings, 1))] for m in (a, b))
    return a.half == b.half and all(np.array_equal(np.sort(x), np.sort(y)) for x, y in zip(mine, its, strict=True))


def _side_by_side(a: RaggedBasis, b: RaggedBasis) -> RaggedBasis:
    """The bases [U_A, U_B]: transfers are block diagonal."""
    ranks = tuple(p + q for p, q in zip(a.ranks, b.ranks, strict=True))
    levels = []
    for level in range(1, a.depth + 1):
        leaf = level == a.depth
        heights, k = ranks[level - 1], a.ranks[level - 1]
        widths = np.full(1 << level, a.leaf_size) if leaf else ranks[level].reshape(-1, 2).sum(axis=1)
        out = Ragged.zeros(heights, widths, a.levels[0], b.levels[0])
        for second, basis in enumerate((a, b)):
            top = out.starts[:-1] + second * k * widths
            if leaf:
                part = level_of(basis, level)
                at, step = top, widths
            else:  # a child's coefficients are those of a, then those of b
                part = transfers(basis, level + 1)
                parent, right = np.divmod(np.arange(2 << level), 2)
                at = top[parent] + right * ranks[level][2 * parent] + second * a.ranks[level]
                step = widths[parent]
            copy(part.data, out.data, (part.starts[:-1], part.widths, at, step, part.heights, part.widths))
        levels.append(out.data)
    return RaggedBasis(tuple(levels), ranks, a.leaf_size)


# ---------------------------------------------------------------------------------- low-rank matrices


def low_rank(
    u: NumpyArray,  # (leaves, p, r)
    v: NumpyArray,  # (leaves, q, r)
    stored: BlockPartition,
    *,
    half: bool,
) -> H2Blocks:
    """U V^H over the stored blocks of a partition, from the leaf blocks of U and V; with `half`, U U^H."""
    depth, rank = stored.depth, u.shape[2]
    near = stored.near[depth]
    data = matmul(u[near[:, 0]], adjoint(v[near[:, 1]]))
    rows = _same_everywhere(u)
    cols = rows if half else _same_everywhere(v)
    couplings = []
    for far in stored.far[1:]:
        sizes = np.full(len(far), rank)
        eyes = np.tile(np.eye(rank, dtype=data.dtype).ravel(), len(far))
        couplings.append(RaggedBatch(eyes, far[:, 0].copy(), far[:, 1].copy(), sizes, sizes))
    return H2Blocks(BlockBatch(data, near[:, 0].copy(), near[:, 1].copy()), tuple(couplings), rows, cols, half)


def _same_everywhere(leaf: NumpyArray) -> RaggedBasis:
    """The nested basis whose every node has the restriction of the same columns, (leaves, p, r)."""
    leaves, p, r = leaf.shape
    depth = leaves.bit_length() - 1
    stacked = np.concatenate([np.eye(r, dtype=leaf.dtype)] * 2, axis=1).ravel()
    levels = [np.tile(stacked, 1 << level) for level in range(1, depth)]
    levels += [leaf.swapaxes(1, 2).ravel()] if depth else []
    return RaggedBasis(tuple(levels), tuple(np.full(1 << level, r) for level in range(1, depth + 1)), p)
