"""The inverse of an H-matrix, as the Schur complement of one of twice the size.

Eliminating the first half of the unknowns of [[A, I], [I, 0]] leaves -A^-1 in the other half. So the elimination behind
the factorisations also computes inverses, with all contributions to a block summed before it is truncated.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from .._backend import adjoint
from .._typing import NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..certificate import Certificate
from ..exceptions import AccuracyWarning
from ..flat.storage import FlatBlocks, merged
from .elimination import Elimination
from .layout import empty_triangle, triangles
from .triangular import Place, Triangle

if TYPE_CHECKING:
    from .factorization import HFactorization
    from .matrix import HMatrix

ATTEMPTS = 3
PROBES = 10


def invert(factorization: HFactorization, matrix: HMatrix, rtol: float) -> HMatrix:
    """The inverse X with ||A X - I||_F <= rtol sqrt(n), estimated; tried again more tightly where it is not.

    No less is asked for than rounding allows, about the machine precision times the condition number.
    """
    rng = np.random.default_rng(0)
    probes = rng.standard_normal((matrix.shape[0], PROBES)).astype(matrix.dtype)
    eps = float(np.finfo(matrix.dtype).eps)
    size = matrix.norm(2, tol=0.1, rng=rng)
    # what the truncations of the factorisation do to the residual is known: they are made smaller in proportion
    left = factorization.residual(probes, factorization.solve(probes))
    factors = factorization.rtol * min(1.0, 0.3 * rtol / left if left > 0 else 1.0)
    tightening, best = 0.5, None
    compute = _dense_inverse if factorization._sides[0].depth == 0 else _inverse
    for _attempt in range(ATTEMPTS):
        tolerances = max(2.0 * tightening * factors, eps), max(tightening * rtol, eps)
        result = compute(factorization, matrix, tolerances, size)
        residual = float(np.linalg.norm(matrix @ (result @ probes) - probes) / np.linalg.norm(probes))
        estimate, floor = max(residual, eps), 64 * eps * max(1.0, size * result.norm("fro"))
        result.certificate = Certificate(
            max(rtol, floor), estimate, 1.5 * estimate, 0.99, "residual of random probes", probes=PROBES
        )
        if best is None or estimate < best.certificate.estimate:
            best = result
        if best.certificate.met or max(tolerances) <= eps:
            break
        tightening *= min(0.5, 0.5 * rtol / estimate)
    assert best is not None
    best.certificate.warn_if_not_met("rounding allows no less where A is ill conditioned; see rcond", stacklevel=5)
    return best


def _dense_inverse(
    factorization: HFactorization, matrix: HMatrix, tolerances: tuple[float, float], size: float
) -> HMatrix:  # fmt: skip
    """One attempt where the factors are one dense block."""
    n = matrix.shape[0]
    dense = factorization.solve(np.eye(n, dtype=matrix.dtype))
    if matrix.symmetric:
        dense = 0.5 * (dense + dense.conj().T)
    allowed = tolerances[1] * np.sqrt(n) / size if size > 0 else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)  # judged by the residual
        result: HMatrix = type(matrix).from_dense(
            dense, rtol=0.0, atol=allowed, symmetric=matrix.symmetric, partition=matrix.partition.transposed()
        )
    return result


def _inverse(
    factorization: HFactorization, matrix: HMatrix, tolerances: tuple[float, float], size: float
) -> HMatrix:  # fmt: skip
    """One attempt, with a tolerance for the factors of A and one for their inverses and that of A."""
    from .factorization import shared_tails

    blocks = matrix.blocks if factorization.positive_definite else matrix.blocks.expanded()
    depth, rows = blocks.depth, matrix.row_tree.leaf_size
    sides = triangles(blocks, rows, depth)
    factorization._pad_diagonal(sides[0])
    real = matrix.row_tree.leaf_positions < matrix.row_tree.n  # (leaves, p): slots that are no padding
    doubled = tuple(_doubled(sides[k], sides[k - 1], real) for k in range(len(sides)))
    root = np.sqrt(matrix.shape[0])
    shares = tolerances[0] * matrix.norm("fro"), tolerances[1] * root, tolerances[1] * root / size
    tails = [shared_tails(sides, 0.5 * share) for share in shares]

    def tail(level: int, place: Place) -> float:
        here = (1 << level) // 2
        return tails[int(place[0] >= here) + int(place[1] >= here)][level - 1]

    Elimination(doubled, tail, lambda node: factorization._factor_diagonal(doubled, depth, node), half=True).run()
    inverse = _second_half(doubled[:1] if matrix.symmetric else doubled)
    return type(matrix)(inverse, matrix.col_tree, matrix.row_tree, matrix.certificate)


def _doubled(side: Triangle, other: Triangle, real: NumpyArray) -> Triangle:
    """One triangle of [[A, I], [I, 0]]; the inverses of the factors and of A have the places of the other triangle.

    The identity becomes the inverse of an upper triangular factor, so that its blocks below the diagonal stay zero.
    """
    depth = side.depth
    far: list[dict[Place, tuple[NumpyArray, NumpyArray]]] = [{} for _ in range(depth + 2)]
    for level in range(depth + 1):
        shift, below = 1 << level, far[level + 1]
        none = np.zeros((side.rows_of(level), 0), dtype=side.near.dtype)
        below.update(side.far[level])
        for i, k in other.far[level]:
            below[k + shift, i] = none, none
            below[i + shift, k + shift] = none, none
        if level:  # below the diagonal of the identity
            below.update({(2 * node + 1 + shift, 2 * node): (none, none) for node in range(shift // 2)})
    mine, places = np.array(list(side.near_index)), np.array(list(other.near_index))
    shift = 1 << depth
    inner = places[:, ::-1] + [shift, 0]
    dense = np.concatenate([mine, inner, places + shift])
    result = empty_triangle(dense, far, side.size, depth + 1, side.near.dtype)
    for place, b in side.near_index.items():
        result.near[result.near_index[place]] = side.near[b]
    slots = np.arange(side.size)
    for node in range(shift):
        result.near[result.near_index[node + shift, node], slots, slots] = real[node]
    return result


def _second_half(sides: tuple[Triangle, ...]) -> FlatBlocks:
    """The blocks of minus the Schur complement; of a single side as a Hermitian matrix."""
    depth = sides[0].depth - 1
    near, far = [], []
    for level in range(depth + 1):
        shift = 1 << level
        batches = []
        for k, side in enumerate(sides):
            for (i, j), (u, v) in side.far[level + 1].items():
                if j < shift:
                    continue
                row, col = np.array([i - shift]), np.array([j - shift])
                batch = LowRankBatch(-u[None], v[None], row, col)
                batches.append(batch if k == 0 else LowRankBatch(batch.right, batch.left, col, row))
        far.append(merged(batches))
        near.append(_dense_part(sides, shift) if level == depth else _no_blocks(sides[0], level + 1))
    return FlatBlocks(tuple(near), tuple(far), len(sides) == 1)


def _dense_part(sides: tuple[Triangle, ...], shift: int) -> BlockBatch:
    data, places = [], []
    for k, side in enumerate(sides):
        first = int(side.column_starts[shift])
        keys = np.array(list(side.near_index))[first:] - shift
        kept = slice(None) if k == 0 else keys[:, 0] != keys[:, 1]
        values = -side.near[first:][kept]
        data.append(values if k == 0 else adjoint(values))
        places.append(keys[kept] if k == 0 else keys[kept][:, ::-1])
    rows, cols = np.concatenate(places).T
    blocks = np.concatenate(data)
    if len(sides) == 1:  # Hermitian but for rounding
        own = np.flatnonzero(rows == cols)
        blocks[own] = 0.5 * (blocks[own] + adjoint(blocks[own]))
    return BlockBatch(blocks, rows.copy(), cols.copy())


def _no_blocks(side: Triangle, level: int) -> BlockBatch:
    p, none = side.rows_of(level), np.zeros(0, dtype=np.int64)
    return BlockBatch(np.zeros((0, p, p), dtype=side.near.dtype), none, none)
