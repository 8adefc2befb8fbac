"""Sums, products and updates of HSS matrices: exact first, in larger bases, then recompressed.

References: S. Chandrasekaran, M. Gu, T. Pals, "Fast and stable algorithms for hierarchically semi-separable
representations", 2004; S. Massei, L. Robol, D. Kressner, "hm-toolbox", SIAM J. Sci. Comput. 42 (2020) C43-C68.
"""

from __future__ import annotations

import numpy as np

from .._backend import adjoint
from .._typing import Array, NumpyArray
from ..blocks import NestedBasis
from ..engine.dense import matmul
from ..lowrank import truncated_range
from .generators import Generators, halves, pairs, swap_siblings
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
            arrays.append(np.concatenate([a[level], b[level]], axis=2))
        else:  # a child's coefficients are those of a, then those of b
            arrays.append(pairs(_block_diagonal(halves(a[level]), halves(b[level]))))
    return NestedBasis(tuple(arrays), tuple(p + q for p, q in zip(a.ranks, b.ranks, strict=True)))


def _block_diagonal(a: NumpyArray, b: NumpyArray) -> NumpyArray:
    out = np.zeros((len(a), a.shape[1] + b.shape[1], a.shape[2] + b.shape[2]), dtype=np.result_type(a, b))
    out[:, : a.shape[1], : a.shape[2]] = a
    out[:, a.shape[1] :, a.shape[2] :] = b
    return out


def low_rank(
    u: NumpyArray,  # (leaves, p, r)
    v: NumpyArray,  # (leaves, q, r)
    *,
    symmetric: bool = False,
) -> Generators:
    """U V^H as HSS, from the leaf blocks of U and V; with `symmetric`, U U^H and V is not looked at."""
    depth = len(u).bit_length() - 1
    rank = u.shape[2]
    rows = _same_everywhere(u, depth)
    cols = rows if symmetric else _same_everywhere(v, depth)
    eye = np.eye(rank, dtype=np.result_type(u, v))
    half = 1 if symmetric else 0
    couplings = tuple(np.repeat(eye[None], 2 ** (level - half), axis=0) for level in range(1, depth + 1))
    return Generators(matmul(u, adjoint(u if symmetric else v)), rows, cols, couplings, symmetric)


def _same_everywhere(leaf: NumpyArray, depth: int) -> NestedBasis:
    """The nested basis whose every node has the restriction of the same columns."""
    stacked = np.concatenate([np.eye(leaf.shape[2], dtype=leaf.dtype)] * 2)
    arrays = tuple(np.repeat(stacked[None], 2**level, axis=0) for level in range(1, depth))
    ranks = tuple(np.full(2**level, leaf.shape[2]) for level in range(1, depth + 1))
    return NestedBasis((*arrays, leaf) if depth else (), ranks)


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
    for level in range(1, depth + 1):
        corner = np.zeros((2**level, a.row_basis.width(level), b.col_basis.width(level)), dtype=rows[level].dtype)
        if level > 1:  # what reaches this pair of siblings through the world outside their parent
            outside = np.repeat(through[level - 2], 2, axis=0)
            left, right = halves(a.row_basis[level - 1]), swap_siblings(halves(b.col_basis[level - 1]))
            corner = matmul(matmul(left, outside), adjoint(right))
        top = np.concatenate([corner, a.couplings[level - 1]], axis=2)
        zero = np.zeros((2**level, b.couplings[level - 1].shape[1], a.couplings[level - 1].shape[2]), corner.dtype)
        bottom = np.concatenate([b.couplings[level - 1], zero], axis=2)
        couplings.append(np.concatenate([top, bottom], axis=1))
    diagonal = matmul(a.diagonal, b.diagonal)
    if depth:
        left, right = a.row_basis[depth], b.col_basis[depth]
        diagonal += matmul(matmul(left, through[depth - 1]), adjoint(right))
    return Generators(diagonal, rows, cols, tuple(couplings))


def _inner_products(v: NestedBasis, x: NestedBasis) -> list[NumpyArray]:
    """V_t^H X_t for each level from 1, (2**l, k_v, k_x)."""
    out: list[NumpyArray] = []
    for level in range(v.depth, 0, -1):
        current = x[level] if not out else pairs(matmul(out[-1], halves(x[level])))
        out.append(matmul(adjoint(v[level]), current))
    return out[::-1]


def _through(a: Generators, b: Generators, inner: list[NumpyArray]) -> list[NumpyArray]:
    """F_t with (product's part through indices outside t) = U_t F_t Y_t^H, for each level from 1."""
    out: list[NumpyArray] = []
    for level in range(1, a.depth + 1):
        middle = swap_siblings(inner[level - 1])
        here = matmul(matmul(a.couplings[level - 1], middle), swap_siblings(b.couplings[level - 1]))
        if out:
            left, right = halves(a.row_basis[level - 1]), halves(b.col_basis[level - 1])
            here = here + matmul(matmul(left, np.repeat(out[-1], 2, axis=0)), adjoint(right))
        out.append(here)
    return out


def _product_basis(u: NestedBasis, x: NestedBasis, a: Generators, inner: list[NumpyArray]) -> NestedBasis:
    """The nested basis [U_t, A_tt X_t]: A_tt X_t of a parent is, below, its child's plus A_ts X_s in range(U_t)."""
    arrays = []
    for level in range(1, u.depth + 1):
        if level == u.depth:
            arrays.append(np.concatenate([u[level], matmul(a.diagonal, x[level])], axis=2))
            continue
        own, other = halves(u[level]), halves(x[level])
        crossing = matmul(matmul(a.couplings[level], swap_siblings(inner[level])), swap_siblings(other))
        top = np.concatenate([own, crossing], axis=2)
        bottom = np.concatenate([np.zeros((len(own), other.shape[1], own.shape[2]), own.dtype), other], axis=2)
        arrays.append(pairs(np.concatenate([top, bottom], axis=1)))
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
        mine, sibling = (left[::2], right[1::2]) if symmetric else (left, swap_siblings(right))
        middle = apply_kronecker(mine, a.couplings[level - 1], b.couplings[level - 1])
        couplings.append(matmul(middle, adjoint(sibling)))
    return Generators(diagonal, rows, cols, tuple(couplings), symmetric)


def apply_kronecker(t: NumpyArray, a: NumpyArray, b: NumpyArray) -> NumpyArray:
    """T (nb, r, i j) times the Kronecker products of a (nb, i, k) and b (nb, j, l): (nb, r, k l)."""
    nb, r, _ = t.shape
    i, k = a.shape[1:]
    j, m = b.shape[1:]
    first = matmul(t.reshape(nb, r * i, j), b).reshape(nb, r, i, m)
    second = matmul(first.swapaxes(2, 3).reshape(nb, r * m, i), a).reshape(nb, r, m, k)
    return np.ascontiguousarray(second.swapaxes(2, 3)).reshape(nb, r, k * m)


def kronecker_basis(
    u: NestedBasis, x: NestedBasis, z: list[NumpyArray], w: list[NumpyArray], tail: float
) -> tuple[NestedBasis, list[NumpyArray]]:
    """The truncated basis and, for each level, its coefficients of the full Kronecker basis, (2**l, r, k_u k_x)."""
    arrays, ranks = [], []
    maps: list[NumpyArray] = []
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
    return (a[:, :, :, None] * b[:, :, None, :]).reshape(len(a), a.shape[1], a.shape[2] * b.shape[2])
