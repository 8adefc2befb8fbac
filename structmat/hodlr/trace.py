"""Trace(A^-1 B) of HODLR matrices: log det A, as the symmetric factorisation has it, differentiated towards B.

A node with children a and b, whose stored block is W_b L Q^H W_a^H in rows b and columns a with Q^H Q = I, adds to
log det A

    log det(I - L Q^H Q L^H) = log det(I - G),    G = L^H L,

see `cholesky`. With Y_b = W_b^-H L, Y_a = W_a^-H Q and C = (I - G)^-1, its derivative is

    Re trace C (Y_b^H B_bb Y_b + G Y_a^H B_aa Y_a - 2 Y_b^H B_ba Y_a).

The factorisation keeps L and Q, so that Y is half of a solve, for all levels at once; B_tt is the HODLR
matrix B without its levels above t. The inverse is never formed: its error, however small beside its own norm, would
meet the large smooth part of B in the trace, and as many digits as cond(A) has would be lost.

Cost O(n k^2 log^2 n), for each B half of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._backend import adjoint, conj
from .._typing import NumpyArray
from ..engine.dense import cholesky, matmul, solve
from .cholesky import HODLRCholesky, _triangular
from .panels import (
    BOTH,
    SECOND,
    Layout,
    diagonal_blocks,
    gather,
    inner_products,
    level_ranks,
    require_hodlr,
    subtract_products,
)

if TYPE_CHECKING:
    from .matrix import HODLRMatrix


class TraceOfSolve:
    """What the traces of A^-1 B for several B have in common.

    Parameters
    ----------
    factorization : HODLRCholesky
        Of A.
    """

    def __init__(self, factorization: HODLRCholesky) -> None:
        self._factors = factorization
        self._solved = _solved_bases(factorization)  # Y of all levels, as panels
        self._leaf_inverses = _leaf_inverses(factorization)  # transposes of W^-1 of the leaves

    def of(self, other: HODLRMatrix) -> float:
        """The trace of A^-1 B for B stored as Hermitian, on the tree of A."""
        blocks, layout = other.blocks, self._factors._layout
        require_hodlr(blocks)
        around = Layout.of(self._factors._tree, level_ranks(blocks))
        bases, dense = gather(blocks, around, right=False), diagonal_blocks(blocks)
        products = _products_below(layout, self._solved, around, dense, bases)
        total = self._of_leaves(dense)
        for level in range(1, layout.depth + 1):
            if layout.ranks[level]:
                total += self._of_level(level, around, bases, products)
        return total

    def _of_leaves(self, dense: NumpyArray) -> float:
        """The sum of trace W^-1 B W^-H over the leaves."""
        inverses = self._leaf_inverses
        halved = matmul(inverses.swapaxes(1, 2), dense)
        return float(np.vdot(inverses.swapaxes(1, 2), halved).real)

    def _of_level(self, level: int, around: Layout, bases: NumpyArray, products: NumpyArray) -> float:
        """What the parents of one level add."""
        layout, solved, gram = self._factors._layout, self._solved, self._factors._cores[level].gram
        rows = layout.rows(level)
        middle_a, middle_b = _children(inner_products(layout, products[:, rows], solved, level))
        inner = middle_b + matmul(gram, middle_a)
        if around.ranks[level]:
            first, second = _children(inner_products(around, solved[:, rows], bases, level))
            inner -= 2.0 * matmul(adjoint(second), first)
        lower = cholesky(np.eye(gram.shape[1], dtype=gram.dtype) - gram)
        solved_inner = solve(adjoint(lower), solve(lower, inner))
        return float(np.trace(solved_inner, axis1=1, axis2=2).sum().real)


def _children(sums: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Inner products (parents, 2, m, k) of the two children, with the basis as the row: (parents, k, m) each."""
    turned = sums.swapaxes(2, 3)
    return turned[:, 0], turned[:, 1]


def _solved_bases(factorization: HODLRCholesky) -> NumpyArray:
    """W_t^-H L, or Q, for the nodes of all levels: the joins below each node, from it down."""
    layout, basis = factorization._layout, factorization._basis
    solved = basis.copy()
    for level in range(2, layout.depth + 1):
        above, core = solved[:, : layout.offsets[level]], factorization._cores[level]
        sums = inner_products(layout, above, basis, level, SECOND)[:, 0]
        factors = np.stack([matmul(sums, conj(core.across)), -matmul(sums, conj(core.solve))], axis=1)
        subtract_products(layout, above, factors, basis, level, BOTH)
    _triangular(factorization._leaves, solved, layout.height, adjointly=True)
    return solved


def _leaf_inverses(factorization: HODLRCholesky) -> NumpyArray:
    """The transposes of W^-1 of the leaves, (leaves, p, p)."""
    lower = factorization._leaves
    inverses = np.broadcast_to(np.eye(lower.shape[1], dtype=lower.dtype), lower.shape).copy()
    _triangular(lower, inverses, lower.shape[1], adjointly=False)
    return inverses


def _products_below(
    layout: Layout, solved: NumpyArray, around: Layout, dense: NumpyArray, bases: NumpyArray
) -> NumpyArray:  # fmt: skip
    """B_tt Y_t for the nodes t of all levels, as panels: the leaves of B, and its levels below that of t."""
    height, leaf = layout.height, layout.leaf
    by_leaf = solved.reshape(layout.panels, height, layout.span, leaf).swapaxes(1, 2).reshape(len(dense), height, leaf)
    applied = matmul(by_leaf, dense.swapaxes(1, 2)).reshape(layout.panels, layout.span, height, leaf)
    out = np.ascontiguousarray(applied.swapaxes(1, 2)).reshape(layout.panels, height, layout.size)
    for level in range(2, layout.depth + 1):
        if around.ranks[level]:
            rows = slice(0, int(layout.offsets[level]))
            sums = inner_products(around, solved[:, rows], bases, level)
            subtract_products(around, out[:, rows], -sums[:, ::-1], bases, level)
    return out
