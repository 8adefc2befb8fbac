"""Recompression of an HSS matrix: orthogonalise the bases, then truncate them against what they are used for.

Reference: S. Boerm, "Efficient Numerical Methods for Non-local Operators", EMS 2010, chapter 6, for H2-matrices; under
weak admissibility each node has one coupling. Bases are made orthonormal from the leaves up; weights that stand for
a node's whole block row (column) go down the tree; singular value decompositions of the weighted bases go up again.

Cost O(n k^2). The error is at most the root of the sum of the squares of all that was left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._backend import adjoint, is_numpy, namespace, squared_norm
from .._typing import Array
from ..blocks import NestedBasis
from ..engine import dense
from ..lowrank import truncated_svd
from .generators import Generators, doubled, halves, pairs, swap_siblings


def orthogonalize(g: Generators) -> Generators:
    """The same matrix with orthonormal bases."""
    rows, row_factors = _orthonormal(g.row_basis)
    cols, col_factors = (rows, row_factors) if g.symmetric else _orthonormal(g.col_basis)
    return Generators(g.diagonal, rows, cols, _transformed(g, row_factors, col_factors), g.symmetric)


def _orthonormal(basis: NestedBasis) -> tuple[NestedBasis, list[Array]]:
    """The orthonormal basis and, for each level from 1, the factors R with old = new R."""
    arrays: list[Array] = []
    factors: list[Array] = []
    for level in range(basis.depth, 0, -1):
        current = basis[level] if not factors else pairs(dense.matmul(factors[-1], halves(basis[level])))
        q, r = dense.qr(current)
        arrays.append(q)
        factors.append(r)
    ranks = tuple(np.minimum(r, a.shape[2]) for r, a in zip(basis.ranks, arrays[::-1], strict=True))
    return NestedBasis(tuple(arrays[::-1]), ranks), factors[::-1]


def _transformed(g: Generators, left: list[Array], right: list[Array]) -> tuple[Array, ...]:
    """The couplings C_t B_t C_s^H for maps C by level and node, s the sibling of t."""
    out = []
    for b, c_left, c_right in zip(g.couplings, left, right, strict=True):
        mine, sibling = (c_left[::2, ...], c_right[1::2, ...]) if g.symmetric else (c_left, swap_siblings(c_right))
        out.append(dense.matmul(dense.matmul(mine, b), adjoint(sibling)))
    return tuple(out)


def norm(g: Generators, *, orthonormal: bool = False) -> float:
    """||A||_F, exactly: with orthonormal bases it is that of the diagonal blocks and of the couplings."""
    g = g if orthonormal else orthogonalize(g)
    square = squared_norm(g.diagonal)
    square += sum((2.0 if g.symmetric else 1.0) * squared_norm(b) for b in g.couplings)
    return float(np.sqrt(square))


def truncate(
    g: Generators, *, rtol: float, atol: float = 0.0, max_rank: int | tuple[Sequence[int], Sequence[int]] | None = None
) -> tuple[Generators, float, float]:
    """Ranks as small as the tolerance allows; also the bound of the absolute error and the norm of the matrix.

    `max_rank` may be a pair: the largest ranks of the row and of the column bases, by level from level 1.
    """
    g = orthogonalize(g)
    size = norm(g, orthonormal=True)
    if g.depth == 0:
        return g, 0.0, size
    allowed = max(rtol * size, atol) / np.sqrt(2.0 * g.depth)  # rows and columns, also where one basis is both
    row_caps, col_caps = max_rank if isinstance(max_rank, tuple) else ((max_rank,) * g.depth,) * 2
    rows, row_maps, row_square = _cut(g.row_basis, _weights(g), allowed, row_caps)
    cols, col_maps, col_square = (
        (rows, row_maps, row_square) if g.symmetric else _cut(g.col_basis, _weights(g.adjoint()), allowed, col_caps)
    )
    couplings = _transformed(g, row_maps, col_maps)
    error = float(np.sqrt(row_square + col_square))
    return Generators(g.diagonal, rows, cols, couplings, g.symmetric), error, size


def _weights(g: Generators) -> list[Array]:
    """For each level the factors Z (2**l, k, .) with block row t = U_t Z_t (orthonormal rows); bases orthonormal."""
    weights: list[Array] = []
    for level in range(1, g.depth + 1):
        block_row = g.coupling(level)
        if weights:
            transfer = halves(g.row_basis[level - 1])
            inherited = dense.matmul(transfer, doubled(weights[-1]))
            block_row = namespace(block_row).concat([block_row, inherited], axis=2)
        weights.append(adjoint(dense.triangular_factor(adjoint(block_row))))
    return weights


def _cut(
    basis: NestedBasis, weights: list[Array], allowed: float, max_rank: Sequence[int | None]
) -> tuple[NestedBasis, list[Array], float]:
    """The truncated basis, for each level the maps from old to new coefficients, and the squared error."""
    arrays, ranks = [], []
    maps: list[Array] = []
    square = 0.0
    for level in range(basis.depth, 0, -1):
        weight = weights[level - 1]
        leaf = level == basis.depth
        # the leaf bases are orthonormal: their coefficients suffice
        current = None if leaf else pairs(dense.matmul(maps[-1], halves(basis[level])))
        # the factorisation overwrites arrays of NumPy
        weighted = (
            dense.matmul(current, weight) if current is not None else weight.copy() if is_numpy(weight) else weight
        )
        x, rank, left_out = truncated_svd(weighted, allowed / np.sqrt(2.0**level), max_rank=max_rank[level - 1])
        square += float((left_out**2).sum())
        maps.append(adjoint(x) if current is None else dense.matmul(adjoint(x), current))
        arrays.append(dense.matmul(basis[level], x) if leaf else x)
        ranks.append(rank)
    return NestedBasis(tuple(arrays[::-1]), tuple(ranks[::-1])), maps[::-1], square
