"""The inverse of an HSS matrix as an HSS matrix, from its ULV factors.

A solve with the factors sends, for each node, two coefficient vectors up the tree (what is left of the right-hand side,
and what the eliminated unknowns do to the rest of the world) and one down (the unknowns that are left). Written out as
matrices these are the generators of the inverse: its row basis are the last columns of P, its column basis the map to
the two vectors. The ranks of the columns are twice too large and are cut afterwards. No inverse of an
ill-conditioned inner block is formed other than what the ULV factors themselves invert, so it is as stable as a solve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from .._backend import adjoint, parallel_ranges
from .._typing import IntArray, NumpyArray
from ..blocks import NestedBasis
from ..engine import cpu_ulv
from ..engine.dense import matmul
from ..norms import two_norm
from .generators import Generators
from .truncate import norm
from .ulv import HSSFactorization, UlvLevel, factors_of

if TYPE_CHECKING:
    from .matrix import HSSMatrix


def invert(factorization: HSSFactorization, *, rtol: float | None) -> HSSMatrix:
    """The inverse X, recompressed so that ||A X - I||_F is at most `rtol` sqrt(n), as far as rounding allows."""
    levels, root = factors_of(factorization)
    a = factorization._matrix
    exact = _inverse_generators(levels, root, a.row_tree.leaf_count, a.row_tree.leaf_size)
    if a.row_tree.is_padded:  # the factorisation had ones there
        exact.diagonal[a.row_tree.sizes(a.row_tree.depth) < a.row_tree.leaf_size, -1, -1] = 0
    asked = a.rtol if rtol is None else rtol
    # an error E of X shows in the residual as A E: at most ||A||_2 ||E||_F
    amplified = norm(exact) * two_norm(a, tol=0.1, rng=np.random.default_rng(0)) / np.sqrt(a.shape[0])
    tolerance = asked / max(1.0, amplified)
    # rounding in the factors has left noise of this size in X, which is not to be taken for rank
    floor = 4.0 * float(np.finfo(a.dtype).eps) * max(1.0, amplified)
    return a._result(exact, float(max(tolerance, floor)), trees=(a.col_tree, a.row_tree))


def _local_solution(level: UlvLevel, rhs: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """For right-hand sides (nb, p, m): the solution P [z; 0] with nothing left, what is left, and G^H z."""
    nb, k = level.q.shape[:2]
    x = np.array(rhs, order="C")
    kept = np.empty((nb, k, x.shape[2]), dtype=x.dtype)
    outgoing = np.empty((nb, level.gone_basis.shape[1], x.shape[2]), dtype=x.dtype)
    zero = np.zeros_like(kept)
    parallel_ranges(
        lambda a, b: cpu_ulv.ulv_forward(
            level.q, level.q_tau, level.lower, level.front, level.gone_basis, x, kept, outgoing, a, b
        ),
        nb,
    )
    parallel_ranges(lambda a, b: cpu_ulv.ulv_backward(level.p_vectors, level.p_tau, x, zero, a, b), nb)
    return x, kept, outgoing


def _kept_columns(level: UlvLevel) -> NumpyArray:
    """The last k columns of P, (nb, p, k): where the unknowns that are left go."""
    nb, k, p = level.q.shape
    x = np.zeros((nb, p, k), dtype=level.q.dtype)
    eye = np.repeat(np.eye(k, dtype=level.q.dtype)[None], nb, axis=0)
    parallel_ranges(lambda a, b: cpu_ulv.ulv_backward(level.p_vectors, level.p_tau, x, eye, a, b), nb)
    return x


def _inverse_generators(
    levels: list[UlvLevel], root: tuple[NumpyArray, NumpyArray], leaves: int, leaf_size: int
) -> Generators:
    dtype = root[0].dtype
    if not levels:
        whole = scipy.linalg.lu_solve(root, np.eye(leaf_size, dtype=dtype), check_finite=False)[None]
        return Generators(whole, NestedBasis((), ()), NestedBasis((), ()), ())
    # up: local solutions, row bases (P's last columns) and functionals (what a node sends up) in its children's terms
    local, row_arrays, functionals = [], [], []
    rhs = np.repeat(np.eye(leaf_size, dtype=dtype)[None], leaves, axis=0)
    inherited: NumpyArray | None = None
    for level in levels:
        solution, kept, outgoing = _local_solution(level, rhs)
        if inherited is not None:
            outgoing = outgoing + inherited
        local.append(solution)
        row_arrays.append(_kept_columns(level))
        functionals.append(np.concatenate([kept, outgoing], axis=1))  # (nb, k + kv, inputs)
        rhs, inherited = _to_parent(level)
    top = scipy.linalg.lu_solve(root, rhs[0], check_finite=False)[None]
    # down: the response of the unknowns left in a node to what the node itself has sent up
    responses, couplings = _responses(levels, row_arrays, functionals, local, top)
    diagonal = local[0] + matmul(matmul(row_arrays[0], responses), functionals[0])
    ranks_row = [np.full(len(a), a.shape[2], dtype=np.int64) for a in row_arrays]
    col_arrays = [adjoint(f) for f in functionals]
    ranks_col = [np.full(len(a), a.shape[2], dtype=np.int64) for a in col_arrays]
    return Generators(diagonal, _basis(row_arrays, ranks_row), _basis(col_arrays, ranks_col), tuple(couplings[::-1]))


def _basis(arrays: list[NumpyArray], ranks: list[IntArray]) -> NestedBasis:
    return NestedBasis(tuple(arrays[::-1]), tuple(ranks[::-1]))


def _to_parent(level: UlvLevel) -> tuple[NumpyArray, NumpyArray | None]:
    """What the parents receive from their children's [kept; outgoing]: right-hand side, and outgoing inherited."""
    nb, k = level.q.shape[:2]
    kv = level.coupling.shape[2]
    both = k + kv
    rhs = np.zeros((nb // 2, 2, k, 2, both), dtype=level.q.dtype)
    for child in range(2):
        rhs[:, child, :, child, :k] = np.eye(k, dtype=level.q.dtype)
        rhs[:, child, :, 1 - child, k:] = -level.coupling[child::2]
    inherited = None
    if level.transfer is not None:
        kp = level.transfer.shape[2]
        risen = np.zeros((nb // 2, kp, 2, both), dtype=level.q.dtype)
        for child in range(2):
            risen[:, :, child, k:] = adjoint(level.transfer[child::2])
        inherited = risen.reshape(nb // 2, kp, 2 * both)
    return rhs.reshape(nb // 2, 2 * k, 2 * both), inherited


def _responses(
    levels: list[UlvLevel],
    rows: list[NumpyArray],
    functionals: list[NumpyArray],
    local: list[NumpyArray],
    top: NumpyArray,
) -> tuple[NumpyArray, list[NumpyArray]]:
    """The leaves' self-responses (nb, k, k + kv), and the couplings of the inverse from the leaves' level up."""
    couplings: list[NumpyArray] = []
    whole = top  # (parents, 2 k, 2 (k + kv)): children's unknowns in terms of what both children sent up
    for number in range(len(levels) - 1, -1, -1):
        k, both = rows[number].shape[2], functionals[number].shape[1]
        split = whole.reshape(len(whole), 2, k, 2, both)
        nodes = 2 * len(whole)
        own = np.stack([split[:, 0, :, 0], split[:, 1, :, 1]], axis=1).reshape(nodes, k, both)
        across = np.stack([split[:, 0, :, 1], split[:, 1, :, 0]], axis=1).reshape(nodes, k, both)
        couplings.append(across)
        if number == 0:
            return own, couplings[::-1]
        # inside this node: its children's unknowns = local part + what comes down for what it sent up
        whole = local[number] + matmul(matmul(rows[number], own), functionals[number])
    raise AssertionError("levels is never empty here")
