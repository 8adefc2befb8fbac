"""Sums, products and updates of HSS matrices: exact first, in larger bases, then recompressed.

References: S. Chandrasekaran, M. Gu, T. Pals, "Fast and stable algorithms for hierarchically semi-separable
representations", 2004; S. Massei, L. Robol, D. Kressner, "hm-toolbox", SIAM J. Sci. Comput. 42 (2020) C43-C68.
"""

from __future__ import annotations

import numpy as np

from .._backend import adjoint, like, namespace, numpy_dtype, zeros_beside
from .._typing import Array
from ..blocks import NestedBasis
from ..engine.dense import matmul
from ..lowrank import truncated_range
from .generators import Generators, doubled, halves, pairs, swap_siblings
from .truncate import _weights, orthogonalize


def scale(g: Generators, factor: complex) -> Generators:
    """Factor * A; the factor goes to the diagonal blocks and the couplings."""
    couplings = tuple(b * factor for b in g.couplings)
    return Generators(g.diagonal * factor, g.row_basis, g.col_basis, couplings, g.symmetric)


def add(a: Generators, b: Generators) -> Generators:
    """A + B exactly: bases side by side."""
    symmetric = a.symmetric and b.symmetric
    if not symmetric:
        a, b = a.expanded(), b.expanded()
    rows = _side_by_side(a.row_basis, b.row_basis)
    cols = rows if symmetric else _side_by_side(a.col_basis, b.col_basis)
    couplings = tuple(_block_diagonal(p, q) for p, q in zip(a.couplings, b.couplings, strict=True))
    return Generators(a.diagonal + b.diagonal, rows, cols, couplings, symmetric)


def _side_by_side(a: NestedBasis, b: NestedBasis) -> NestedBasis:
    arrays = []
    for level in range(1, a.depth + 1):
        if level == a.depth:
            arrays.append(namespace(a[level]).concat([a[level], b[level]], axis=2))
        else:  # a child's coefficients are those of a, then those of b
            arrays.append(pairs(_block_diagonal(halves(a[level]), halves(b[level]))))
    return NestedBasis(tuple(arrays), tuple(p + q for p, q in zip(a.ranks, b.ranks, strict=True)))


def _block_diagonal(a: Array, b: Array) -> Array:
    xp = namespace(a, b)
    upper = xp.concat([a, zeros_beside((a.shape[0], a.shape[1], b.shape[2]), b)], axis=2)
    lower = xp.concat([zeros_beside((a.shape[0], b.shape[1], a.shape[2]), a), b], axis=2)
    return xp.concat([upper, lower], axis=1)


def low_rank(
    u: Array,  # (leaves, p, r)
    v: Array,  # (leaves, q, r)
    *,
    symmetric: bool = False,
) -> Generators:
    """U V^H as HSS, from the leaf blocks of U and V; with `symmetric`, U U^H and V is not looked at."""
    depth = u.shape[0].bit_length() - 1
    rows = _same_everywhere(u, depth)
    cols = rows if symmetric else _same_everywhere(v, depth)
    half = 1 if symmetric else 0
    couplings = tuple(_identities(2 ** (level - half), u) for level in range(1, depth + 1))
    return Generators(matmul(u, adjoint(u if symmetric else v)), rows, cols, couplings, symmetric)


def _same_everywhere(leaf: Array, depth: int) -> NestedBasis:
    """The nested basis whose every node has the restriction of the same columns."""
    arrays = tuple(pairs(_identities(2 ** (level + 1), leaf)) for level in range(1, depth))
    ranks = tuple(np.full(2**level, leaf.shape[2]) for level in range(1, depth + 1))
    return NestedBasis((*arrays, leaf) if depth else (), ranks)


def _identities(count: int, example: Array) -> Array:
    """So many identity matrices (count, k, k), k the columns of the example, in its library and dtype."""
    k = example.shape[2]
    eye = np.eye(k, dtype=numpy_dtype(example))
    return like(np.broadcast_to(eye, (count, k, k)).copy(), example)


def multiply(a: Generators, b: Generators) -> Generators:
    """A B exactly, at the sum of the ranks.

    Block row t of the product lies in the range of [U_t, A_tt X_t], U the row basis of A and X of B; columns alike.
    """
    a, b = a.expanded(), b.expanded()
    depth = a.depth
    inner = _inner_products(a.col_basis, b.row_basis)  # by level: V_t^H X_t
    through = _through(a, b, inner)
    rows = _product_basis(a.row_basis, b.row_basis, a, inner)
    flipped = [adjoint(m) for m in inner]
    cols = _product_basis(b.col_basis, a.col_basis, b.adjoint(), flipped)
    couplings = []
    xp = namespace(a.diagonal)
    for level in range(1, depth + 1):
        across, onward = a.couplings[level - 1], b.couplings[level - 1]
        if level > 1:  # what reaches this pair of siblings through the world outside their parent
            left, right = halves(a.row_basis[level - 1]), swap_siblings(halves(b.col_basis[level - 1]))
            corner = matmul(matmul(left, doubled(through[level - 2])), adjoint(right))
        else:
            corner = zeros_beside((2, across.shape[1], onward.shape[2]), rows[level])
        top = xp.concat([corner, across], axis=2)
        bottom = xp.concat([onward, zeros_beside((2**level, onward.shape[1], across.shape[2]), corner)], axis=2)
        couplings.append(xp.concat([top, bottom], axis=1))
    diagonal = matmul(a.diagonal, b.diagonal)
    if depth:
        left, right = a.row_basis[depth], b.col_basis[depth]
        diagonal = diagonal + matmul(matmul(left, through[depth - 1]), adjoint(right))
    return Generators(diagonal, rows, cols, tuple(couplings))


def _inner_products(v: NestedBasis, x: NestedBasis) -> list[Array]:
    """V_t^H X_t for each level from 1, (2**l, k_v, k_x)."""
    out: list[Array] = []
    for level in range(v.depth, 0, -1):
        current = x[level] if not out else pairs(matmul(out[-1], halves(x[level])))
        out.append(matmul(adjoint(v[level]), current))
    return out[::-1]


def _through(a: Generators, b: Generators, inner: list[Array]) -> list[Array]:
    """F_t with (product's part through indices outside t) = U_t F_t Y_t^H, for each level from 1."""
    out: list[Array] = []
    for level in range(1, a.depth + 1):
        middle = swap_siblings(inner[level - 1])
        here = matmul(matmul(a.couplings[level - 1], middle), swap_siblings(b.couplings[level - 1]))
        if out:
            left, right = halves(a.row_basis[level - 1]), halves(b.col_basis[level - 1])
            here = here + matmul(matmul(left, doubled(out[-1])), adjoint(right))
        out.append(here)
    return out


def _product_basis(u: NestedBasis, x: NestedBasis, a: Generators, inner: list[Array]) -> NestedBasis:
    """The nested basis [U_t, A_tt X_t]: A_tt X_t of a parent is, below, its child's plus A_ts X_s in range(U_t)."""
    arrays = []
    xp = namespace(a.diagonal)
    for level in range(1, u.depth + 1):
        if level == u.depth:
            arrays.append(xp.concat([u[level], matmul(a.diagonal, x[level])], axis=2))
            continue
        own, other = halves(u[level]), halves(x[level])
        crossing = matmul(matmul(a.couplings[level], swap_siblings(inner[level])), swap_siblings(other))
        top = xp.concat([own, crossing], axis=2)
        bottom = xp.concat([zeros_beside((own.shape[0], other.shape[1], own.shape[2]), own), other], axis=2)
        arrays.append(pairs(xp.concat([top, bottom], axis=1)))
    return NestedBasis(tuple(arrays), tuple(p + q for p, q in zip(u.ranks, x.ranks, strict=True)))


# ------------------------------------------------------------------------------ Hadamard product


def hadamard(a: Generators, b: Generators, *, allowed: float) -> Generators:
    """The entrywise product, its error at most `allowed` in the Frobenius norm.

    The bases of the product are the row-wise Kronecker products, of the product of the ranks: they are cut down level
    by level. With orthonormal bases and the weights Z of both factors, the block row of t is the row-wise Kronecker
    product of U_t Z_t and X_t W_t times a matrix of norm at most one, so cutting the former bounds the error.
    """
    symmetric = a.symmetric and b.symmetric
    a, b = orthogonalize(a), orthogonalize(b)
    if not symmetric:
        a, b = a.expanded(), b.expanded()
    diagonal = a.diagonal * b.diagonal
    if a.depth == 0:
        return Generators(diagonal, a.row_basis, a.col_basis, (), symmetric)
    tail = allowed / np.sqrt(2.0 * a.depth)
    rows, row_maps = kronecker_basis(a.row_basis, b.row_basis, _weights(a), _weights(b), tail)
    if symmetric:
        cols, col_maps = rows, row_maps
    else:
        cols, col_maps = kronecker_basis(a.col_basis, b.col_basis, _weights(a.adjoint()), _weights(b.adjoint()), tail)
    couplings = []
    for level in range(1, a.depth + 1):
        left, right = row_maps[level - 1], col_maps[level - 1]
        mine, sibling = (left[::2, ...], right[1::2, ...]) if symmetric else (left, swap_siblings(right))
        middle = apply_kronecker(mine, a.couplings[level - 1], b.couplings[level - 1])
        couplings.append(matmul(middle, adjoint(sibling)))
    return Generators(diagonal, rows, cols, tuple(couplings), symmetric)


def apply_kronecker(t: Array, a: Array, b: Array) -> Array:
    """T (nb, r, i j) times the Kronecker products of a (nb, i, k) and b (nb, j, l): (nb, r, k l)."""
    xp = namespace(t, a, b)
    nb, r, _ = t.shape
    i, k = a.shape[1:]
    j, m = b.shape[1:]
    first = xp.reshape(matmul(xp.reshape(t, (nb, r * i, j)), b), (nb, r, i, m))
    second = matmul(xp.reshape(xp.matrix_transpose(first), (nb, r * m, i)), a)
    return xp.reshape(xp.matrix_transpose(xp.reshape(second, (nb, r, m, k))), (nb, r, k * m))


def kronecker_basis(
    u: NestedBasis, x: NestedBasis, z: list[Array], w: list[Array], tail: float
) -> tuple[NestedBasis, list[Array]]:
    """The truncated basis and, for each level, its coefficients of the full Kronecker basis, (2**l, r, k_u k_x)."""
    arrays, ranks = [], []
    maps: list[Array] = []
    for level in range(u.depth, 0, -1):
        if level == u.depth:
            full = _row_kronecker(u[level], x[level])
            weighted = _row_kronecker(matmul(u[level], z[level - 1]), matmul(x[level], w[level - 1]))
        else:
            full = pairs(apply_kronecker(maps[-1], halves(u[level]), halves(x[level])))
            weighted = apply_kronecker(full, z[level - 1], w[level - 1])
        basis, rank, _left = truncated_range(weighted, np.full(2**level, tail / np.sqrt(2.0**level)))
        arrays.append(basis)
        ranks.append(rank)
        maps.append(matmul(adjoint(basis), full))
    return NestedBasis(tuple(arrays[::-1]), tuple(ranks[::-1])), maps[::-1]


def _row_kronecker(a: Array, b: Array) -> Array:
    xp = namespace(a, b)
    (nb, p, k), m = a.shape, b.shape[2]
    return xp.reshape(xp.reshape(a, (nb, p, k, 1)) * xp.reshape(b, (nb, p, 1, m)), (nb, p, k * m))
