"""The entrywise product of two H2-matrices: the bases are row-wise Kronecker products, cut down level by level.

As for HSS (see `hss.arithmetic`): with orthonormal bases and the weights of both factors the block row of a node is the
row-wise Kronecker product of the weighted bases times a matrix of norm at most one, so cutting the former bounds the
error. Bases and couplings are padded to the largest rank of their level here. Cost O(k^4) for each coupling and O(k^5)
for each node at most, with k the rank of the factors.
"""

from __future__ import annotations

import numpy as np

from .._backend import adjoint, one_blas_thread
from .._typing import NumpyArray
from ..blocks import BlockBatch, NestedBasis, RaggedBasis, RaggedBatch, ragged_blocks
from ..engine.dense import matmul
from ..flat.assemble import aligned
from ..hss.arithmetic import apply_kronecker, kronecker_basis
from .arithmetic import in_order_of
from .blocks import H2Blocks, chosen
from .ragged import PIECE
from .truncate import Orthogonal, Partners, orthogonalize, weights


def hadamard(a: H2Blocks, b: H2Blocks, *, rtol: float) -> tuple[H2Blocks, float]:
    """The entrywise product, for one partition, and a bound of its absolute error: at most `rtol` times its norm.

    The norm of the dense blocks bounds that of the product from below.
    """
    near = BlockBatch(a.near.data * aligned(a.near, b.near, a.depth), a.near.rows, a.near.cols)
    allowed = rtol * float(np.linalg.norm(near.data.astype(np.result_type(near.data, np.float64))))
    with one_blas_thread():
        x, y = orthogonalize(a), orthogonalize(b)
        if a.depth == 0:
            return H2Blocks(near, (), x.blocks.row_basis, x.blocks.col_basis, a.half), 0.0
        rows, left = _basis(x, y, allowed, columns=False)
        cols, right = (rows, left) if a.half else _basis(x, y, allowed, columns=True)
        couplings = []
        for level in range(1, a.depth + 1):
            p = x.blocks.couplings[level - 1]
            q = in_order_of(p, y.blocks.couplings[level - 1], level)
            sizes = [(m.row_basis.width(level), m.col_basis.width(level)) for m in (x.blocks, y.blocks)]
            couplings.append(_products(p, q, sizes, (left[level - 1], right[level - 1]), (rows, cols), level))
    return H2Blocks(near, tuple(couplings), rows, cols, a.half), allowed


def _basis(x: Orthogonal, y: Orthogonal, allowed: float, *, columns: bool) -> tuple[RaggedBasis, list[NumpyArray]]:
    """The truncated basis and, for each level, its coefficients of the full Kronecker basis, (2**l, r, k_x k_y)."""
    padded: list[NestedBasis] = []
    factors: list[list[NumpyArray]] = []
    for o in (x, y):
        basis = o.blocks.col_basis if columns else o.blocks.row_basis
        partners = (Partners.of_columns if columns else Partners.of_rows)(o.blocks, o.noise)
        found, _ = weights(basis, partners)
        padded.append(basis.padded())
        factors.append(
            [
                adjoint(w.padded(np.arange(len(w)), int(w.heights.max(initial=0)), basis.width(level)))
                for level, w in enumerate(found, start=1)
            ]
        )
    tail = allowed / np.sqrt(2.0 * x.blocks.depth)
    cut, maps = kronecker_basis(padded[0], padded[1], factors[0], factors[1], tail)
    return RaggedBasis.of(cut), maps


def _products(
    p: RaggedBatch, q: RaggedBatch, sizes: list[tuple[int, int]], maps: tuple[NumpyArray, NumpyArray],
    bases: tuple[RaggedBasis, RaggedBasis], level: int,
) -> RaggedBatch:  # fmt: skip
    """The couplings T_t (P_ts x Q_ts) S_s^H, x the Kronecker product and T, S the maps of the nodes."""
    left, right = maps
    heights, widths = (basis.ranks[level - 1][nodes] for basis, nodes in zip(bases, (p.rows, p.cols), strict=True))
    largest = max(left[0].size, right[0].size, left.shape[1] * right.shape[2], 1)
    step, parts = max(1, PIECE // largest), []
    for first in range(0, len(p), step):
        some = np.arange(first, min(len(p), first + step))
        a, b = (chosen(c, some).padded(*size).data for c, size in zip((p, q), sizes, strict=True))
        middle = apply_kronecker(left[p.rows[some]], a, b)
        block = matmul(middle, adjoint(right[p.cols[some]]))
        parts.append(ragged_blocks(block, heights[some], widths[some]))
    data = np.concatenate([np.zeros(0, dtype=left.dtype), *parts])
    return RaggedBatch(data, p.rows, p.cols, np.asarray(heights, dtype=np.int64), np.asarray(widths, dtype=np.int64))
