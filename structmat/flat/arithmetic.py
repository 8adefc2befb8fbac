"""Sums, entrywise products and updates of dense and low-rank blocks: exact, at larger ranks, to be recompressed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine.dense import matmul
from ..exceptions import ShapeError
from ..tree import ClusterTree
from .assemble import aligned, alike, dense_as_low_rank, keys_of, side_by_side
from .norms import squared_norms
from .storage import FlatBlocks


def scale(blocks: FlatBlocks, factor: Any) -> FlatBlocks:
    """A times a scalar."""
    near = tuple(BlockBatch(b.data * factor, b.rows, b.cols) for b in blocks.near)
    far = tuple(tuple(LowRankBatch(b.left * factor, b.right, b.rows, b.cols) for b in level) for level in blocks.far)
    return FlatBlocks(near, far, blocks.half)


def require_dense_diagonal(low_rank_ones: Iterable[bool]) -> None:
    """Raise where some batch has low-rank blocks on the diagonal."""
    if any(low_rank_ones):
        raise ShapeError(
            "add_diagonal needs dense blocks on the diagonal, but this partition has low-rank ones there; "
            "A + scipy.sparse.diags_array(d) recompresses them"
        )


def add_diagonal(blocks: FlatBlocks, tree: ClusterTree, values: NumpyArray) -> FlatBlocks:
    """A + diag(values), values (n,) in the user's order; the blocks on the diagonal must be dense."""
    require_dense_diagonal(bool((b.rows == b.cols).any()) for level in blocks.far for b in level)
    leaves = tree.to_leaves(values[:, None])[:, :, 0]
    near = [b.plus_diagonal(leaves.reshape(1 << level, -1)) for level, b in enumerate(blocks.near)]
    return FlatBlocks(tuple(near), blocks.far, blocks.half)


def add(a: FlatBlocks, b: FlatBlocks) -> FlatBlocks:
    """A + B exactly, for one partition."""
    a, b = alike(a, b)
    near, far = [], []
    for level in range(a.depth + 1):
        mine, data = a.near[level], aligned(a.near[level], b.near[level], level)
        near.append(BlockBatch(mine.data + data, mine.rows, mine.cols))
        far.append(tuple(side_by_side((a.far[level], b.far[level]), level)))
    return FlatBlocks(tuple(near), tuple(far), a.half)


# ------------------------------------------------------------------------------ Hadamard product


def near_product(a: FlatBlocks, b: FlatBlocks) -> tuple[BlockBatch, ...]:
    """The entrywise products of the dense blocks, for one partition and one kind of storage."""
    return tuple(
        BlockBatch(x.data * aligned(x, y, level), x.rows, x.cols)
        for level, (x, y) in enumerate(zip(a.near, b.near, strict=True))
    )


def hadamard(a: FlatBlocks, b: FlatBlocks, *, rtol: float) -> tuple[FlatBlocks, float]:
    """The entrywise product, and a bound of its absolute error: at most `rtol` times its norm, most often far less.

    A low-rank block of the product has the row-wise Kronecker products of the factors, l_i o m_j, of the product of
    the ranks. The shortest terms are left out at once, where they together are below the tolerance of the block. The
    norm of the dense blocks bounds that of the product from below. Both operands in singular factors.
    """
    a, b = alike(a, b)
    near = near_product(a, b)
    least = float(np.sqrt(sum(float(squared_norms(x).sum()) for x in near)))
    count = sum(len(x) for level in a.far for x in level) * (2 if a.half else 1)
    allowed = rtol * least / np.sqrt(max(1, count))
    far, square = [], 0.0
    for level in range(a.depth + 1):
        products = []
        for x in a.far[level]:
            for y in b.far[level]:
                _, i, j = np.intersect1d(keys_of(x, level), keys_of(y, level), return_indices=True)
                if len(i):
                    product, error = _product(x, i, y, j, allowed)
                    products.append(product)
                    square += error * (2.0 if a.half else 1.0)
        far.append(tuple(products))
    return FlatBlocks(near, tuple(far), a.half), float(np.sqrt(square))


def _product(x: LowRankBatch, i: IntArray, y: LowRankBatch, j: IntArray, allowed: float) -> tuple[LowRankBatch, float]:
    """The entrywise products of the blocks i of x and j of y, and the sum of their squared errors."""
    places = x.rows[i], x.cols[i]
    factors = [x.left[i], y.left[j], x.right[i], y.right[j]]
    # the norm of each term, (nb, k_x k_y)
    squares = [(np.abs(f).astype(np.float64) ** 2) for f in factors]
    norms = np.sqrt(matmul(adjoint(squares[0]), squares[1]) * matmul(adjoint(squares[2]), squares[3]))
    norms = norms.reshape(len(i), -1)
    order = np.argsort(norms.max(axis=0, initial=0.0), kind="stable")
    spent = np.cumsum(norms[:, order], axis=1)
    skipped = int((spent.max(axis=0, initial=0.0) <= allowed).sum())
    keep = np.sort(order[skipped:])
    error = float((spent[:, skipped - 1] ** 2).sum()) if skipped else 0.0
    if len(keep) >= min(x.left.shape[1], x.right.shape[1]):
        dense = matmul(factors[0], adjoint(factors[2])) * matmul(factors[1], adjoint(factors[3]))
        return dense_as_low_rank(BlockBatch(dense, *places)), 0.0
    first, second = np.divmod(keep, y.rank)
    left = factors[0][:, :, first] * factors[1][:, :, second]
    right = factors[2][:, :, first] * factors[3][:, :, second]
    return LowRankBatch(left, right, *places), error
