"""The inverse of a HODLR matrix as a HODLR matrix, from the factors of `lu`.

With V'_t = A_t^-H V_t the inverse of a node with children a and b is

    A^-1 = diag(A_a^-1, A_b^-1) - diag(Y_a, Y_b) K^-1 diag(V'_a, V'_b)^H,

so a block of siblings has, besides the part of their own level, a part of each level above it, all with bases that
are at hand: their sum is recompressed. The leaves' blocks are exact. Reference: S. Ambikasaran, E. Darve, J. Sci.
Comput. 57 (2013) 477-501, for the formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..certificate import Certificate
from ..engine.dense import left_singular, matmul, qr
from ..flat.storage import FlatBlocks, by_rank
from ..norms import two_norm
from .lu import BlockLU, HODLRFactorization, core_solved
from .panels import Layout, inner_products, subtract_products

if TYPE_CHECKING:
    from .matrix import HODLRMatrix

# random vectors from which the norm of the inverse is estimated
PROBES = 8


def invert(factorization: HODLRFactorization, *, rtol: float | None) -> HODLRMatrix:
    """The inverse X, recompressed so that ||A X - I||_F is at most `rtol` sqrt(n), as far as rounding allows."""
    a, layout = factorization._matrix, factorization._layout
    asked = a.rtol if rtol is None else rtol
    size = _norm_estimate(factorization)
    # an error E of X shows in the residual as A E: at most ||A||_2 ||E||_F
    amplified = size * two_norm(a, tol=0.1, rng=np.random.default_rng(0)) / np.sqrt(a.shape[0])
    floor = 4.0 * float(np.finfo(a.dtype).eps) * max(1.0, amplified)
    relative = max(asked / max(1.0, amplified), floor)
    bases = factorization._left, _adjoint_bases(factorization)
    inverses = [_core_inverse(core) for core in factorization._cores]
    near = _leaf_blocks(factorization, *bases, inverses)
    far: list[tuple[LowRankBatch, ...]] = [()]
    # every level may lose as much
    cut, allowed = 0.0, relative * size / np.sqrt(max(1, layout.depth))
    for level in range(1, layout.depth + 1):
        batches, lost = _level_blocks(layout, *bases, inverses, level, allowed, a.symmetric)
        far.append(batches)
        cut += lost
    error = max(float(np.sqrt(cut)) / size, float(np.finfo(a.dtype).eps))
    certificate = Certificate(max(relative, error), error, error, 1.0, "recompression of the exact inverse")
    return type(a)(FlatBlocks(near, tuple(far), a.symmetric), a.col_tree, a.row_tree, certificate)


def _norm_estimate(factorization: HODLRFactorization) -> float:
    """||A^-1||_F from solves with random vectors of independent signs, on the safe side."""
    n = factorization.shape[0]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(n, PROBES)).astype(factorization.dtype)
    return 0.7 * float(np.linalg.norm(factorization.solve(signs))) / np.sqrt(PROBES)


def _adjoint_bases(factorization: HODLRFactorization) -> NumpyArray:
    """A_t^-H V_t for the nodes of all levels: the steps of a solve with the adjoint, below each node."""
    layout, bases = factorization._layout, factorization._right.copy()
    for level in range(2, layout.depth + 1):
        above = bases[:, : layout.offsets[level]]
        factors = inner_products(layout, above, factorization._left, level)
        factors = core_solved(factorization._cores[level], factors, adjointly=True)
        subtract_products(layout, above, factors, factorization._right, level)
    factorization._leaves.solve(bases, layout.height, adjointly=True)
    return bases


def _core_inverse(core: BlockLU) -> NumpyArray:
    """K^-1 (parents, 2, k, 2, k)."""
    count, size, _ = core.lu.shape
    columns = np.broadcast_to(np.eye(size, dtype=core.lu.dtype), (count, size, size)).copy()
    core.solve(columns, size)  # right-hand sides are rows
    return columns.swapaxes(1, 2).reshape(count, 2, size // 2, 2, size // 2)


def _by_node(layout: Layout, bases: NumpyArray, level: int, columns: int) -> NumpyArray:
    """The first rows of the panels as columns of the nodes of a level, (2**level, p, columns)."""
    parts = layout.nodes(bases[:, :columns], level)
    order = (0, 2, 1, 4, 3) if level > layout.grain else (0, 1, 2, 4, 3)
    return parts.transpose(order).reshape(1 << level, layout.leaf << (layout.depth - level), columns)


def _responses(inverses: list[NumpyArray], level: int, nodes: IntArray, at: int) -> NumpyArray:
    """The diagonal blocks of K^-1 on level `at` for the ancestors there of nodes of `level`, (nodes, k, k)."""
    ancestors = nodes >> (level - at)
    return inverses[at][ancestors >> 1, ancestors & 1, :, ancestors & 1, :]


def _leaf_blocks(
    factorization: HODLRFactorization, left: NumpyArray, right: NumpyArray, inverses: list[NumpyArray]
) -> tuple[BlockBatch, ...]:
    """The dense blocks of the inverse."""
    layout, tree = factorization._layout, factorization._tree
    leaves, p, depth = 1 << layout.depth, layout.leaf, layout.depth
    eye = np.broadcast_to(np.eye(p, dtype=factorization.dtype), (leaves, p, p)).copy()
    factorization._leaves.solve(eye, p)
    blocks, nodes = np.ascontiguousarray(eye.swapaxes(1, 2)), np.arange(leaves)
    if depth:
        u, v = _by_node(layout, left, depth, layout.height), _by_node(layout, right, depth, layout.height)
        for level in range(1, depth + 1):
            rows = layout.rows(level)
            middle = _responses(inverses, depth, nodes, level)
            blocks -= matmul(matmul(u[:, :, rows], middle), adjoint(v[:, :, rows]))
    if factorization._matrix.symmetric:
        blocks = 0.5 * (blocks + adjoint(blocks))
    if tree.is_padded:  # the factorisation had a number there
        blocks[tree.sizes(depth) < tree.leaf_size, -1, -1] = 0
    empty = [
        BlockBatch(np.zeros((0, p << (depth - level), p << (depth - level)), blocks.dtype), nodes[:0], nodes[:0])
        for level in range(depth)
    ]
    return (*empty, BlockBatch(blocks, nodes, nodes))


def _level_blocks(
    layout: Layout, left: NumpyArray, right: NumpyArray, inverses: list[NumpyArray], level: int, allowed: float,
    half: bool,
) -> tuple[tuple[LowRankBatch, ...], float]:  # fmt: skip
    """The blocks of siblings on one level, cut so that all together lose `allowed`; and the squared loss."""
    rows = np.arange(1, 1 << level, 2) if half else np.arange(1 << level)
    cols, width = rows ^ 1, layout.rows(level).stop
    u = _by_node(layout, left, level, width)[rows]
    v = _by_node(layout, right, level, width)[cols]
    for at in range(1, level):
        s = layout.rows(at)
        u[:, :, s] = matmul(u[:, :, s], _responses(inverses, level, rows, at))
    s = layout.rows(level)
    u[:, :, s] = matmul(u[:, :, s], inverses[level][rows >> 1, rows & 1, :, cols & 1, :])
    (q_left, r_left), (q_right, r_right) = qr(-u), qr(v)
    core = matmul(r_left, adjoint(r_right))
    vectors, values = left_singular(core)
    tails = np.sqrt(np.cumsum(values[:, ::-1].astype(np.float64) ** 2, axis=1))[:, ::-1]  # of what is cut from k on
    # the same for each block: those of one level are of one size
    ranks = (tails > allowed / np.sqrt((2 if half else 1) * len(rows))).sum(axis=1)
    lost = sum(float(t[k] ** 2) for t, k in zip(tails, ranks, strict=True) if k < len(t)) * (2 if half else 1)
    kept = vectors[:, :, : int(ranks.max(initial=0))]
    new_right = matmul(q_right, matmul(adjoint(core), kept))
    return tuple(by_rank(matmul(q_left, kept), new_right, ranks, rows, cols)), lost
