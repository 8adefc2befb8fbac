"""The inner product of two HSS matrices, through their bases: no product matrix, no dense block."""

from __future__ import annotations

from .._backend import adjoint, inner_product
from ..engine.dense import matmul
from .arithmetic import _inner_products
from .generators import Generators, swap_siblings


def inner(a: Generators, b: Generators) -> complex:
    """Trace(A^H B), the sum of conj(a_ij) b_ij.

    The block of a node t and its sibling s is U_t A_t V_s^H in one matrix and X_t B_t Y_s^H in the other; their inner
    product is that of A_t with (U_t^H X_t) B_t (V_s^H Y_s)^H, and the small matrices in brackets go up the tree.
    """
    half = a.symmetric and b.symmetric
    a, b = a.expanded(), b.expanded()
    total = inner_product(a.diagonal, b.diagonal)
    rows = _inner_products(a.row_basis, b.row_basis)
    cols = rows if half else _inner_products(a.col_basis, b.col_basis)
    for level in range(1, a.depth + 1):
        through = matmul(rows[level - 1], b.couplings[level - 1])
        total += inner_product(a.couplings[level - 1], matmul(through, adjoint(swap_siblings(cols[level - 1]))))
    return total
