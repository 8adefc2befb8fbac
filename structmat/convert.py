"""Conversion between the formats, each with a bound of its error that is guaranteed by truncation.

HSS to HODLR writes the nested bases out, level by level, exactly; HODLR to H and back cuts and agglomerates blocks
(`structmat.flat.repartition`). HODLR to HSS finds nested bases from the leaves up: block row t of the matrix, outside
t, is a row of pieces of the low-rank blocks of t and of all nodes above t, each with orthonormal right factors that
need not be looked at. H goes by HODLR.

Reference: S. Chandrasekaran, M. Gu, T. Pals, SIAM J. Matrix Anal. Appl. 28 (2006) 603-622, section 3; S. Massei,
L. Robol, D. Kressner, "hm-toolbox", SIAM J. Sci. Comput. 42 (2020) C43-C68.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _check
from ._backend import adjoint, is_numpy
from ._typing import IntArray, NumpyArray
from .base import StructuredMatrix
from .blocks import BlockBatch, LowRankBatch, NestedBasis
from .certificate import Certificate
from .engine.dense import matmul
from .exceptions import DeviceError
from .flat.assemble import same_places
from .flat.matrix import FlatMatrix
from .flat.repartition import lower_half, repartition
from .flat.storage import FlatBlocks, by_rank, merged
from .flat.truncate import singular_factors, truncate
from .hss.generators import Generators, halves, pairs, swap_siblings
from .hss.matrix import HSSMatrix
from .lowrank import truncated_svd
from .partition import Admissibility, BlockPartition, WeakAdmissibility

__all__ = ["to_flat", "to_hss"]


def to_flat(
    cls: Any, other: Any, *, rtol: float | None = None, admissibility: Admissibility | None = None,
    partition: BlockPartition | None = None,
) -> Any:  # fmt: skip
    """`HODLRMatrix.from_structured` and `HMatrix.from_structured`."""
    tolerance = _checked(other, rtol)
    chosen = cls._partition(other.row_tree, other.col_tree, admissibility, partition)
    source = other.blocks if isinstance(other, FlatMatrix) else written_out(other.generators)
    size = other.norm()
    moved, error = _over(source, chosen, 0.5 * tolerance * size)
    cut = truncate(moved, rtol=tolerance if error == 0.0 else 0.45 * tolerance)
    certificate = _certificate(tolerance, error + cut.error, size, cut.noise, other.dtype)
    certificate.warn_if_not_met("ask for a larger rtol", stacklevel=4)
    return cls(cut.blocks, other.row_tree, other.col_tree, certificate)


def to_hss(other: Any, *, rtol: float | None = None) -> HSSMatrix:
    """`HSSMatrix.from_structured`."""
    tolerance = _checked(other, rtol)
    if isinstance(other, HSSMatrix):
        return other if rtol is None else other.truncate(rtol=tolerance)
    size = other.norm()
    weak = BlockPartition.build(other.row_tree, other.col_tree, WeakAdmissibility())
    moved, error = _over(other.blocks, weak, 0.4 * tolerance * size)
    generators, cut = nested(moved, (tolerance if error == 0.0 else 0.55 * tolerance) * size)
    certificate = _certificate(tolerance, error + cut, size, 0.0, other.dtype)
    certificate.warn_if_not_met("ask for a larger rtol", stacklevel=4)
    return HSSMatrix(generators, other.row_tree, other.col_tree, certificate)


def _checked(other: Any, rtol: float | None) -> float:
    """The tolerance of a conversion, of a matrix that can be converted."""
    if not isinstance(other, StructuredMatrix) or not isinstance(other, (FlatMatrix, HSSMatrix)):
        raise TypeError(
            f"from_structured takes a HODLRMatrix, HMatrix or HSSMatrix, but other is a {type(other).__name__}; "
            "use from_dense for an array, from_operator for what multiplies"
        )
    if not is_numpy(other._storage._example):
        raise DeviceError('conversions run on the CPU: call A.to_device("cpu") first')
    return other.rtol if rtol is None else _check.tolerance(rtol)


def _over(source: FlatBlocks, chosen: BlockPartition, allowed: float) -> tuple[FlatBlocks, float]:
    """The blocks over a partition, half of them where they were half and the partition is symmetric."""
    half = source.half and chosen.is_symmetric
    stored = source if half else source.expanded()
    if same_places(stored, _empty(chosen.lower() if half else chosen, stored)):
        return stored, 0.0
    moved, error = repartition(source, chosen, allowed)
    return (lower_half(moved) if half else moved), error


def _empty(partition: BlockPartition, like: FlatBlocks) -> FlatBlocks:
    """The places of a partition without any numbers."""
    none = np.zeros((0, 0, 0), dtype=like.near[-1].data.dtype)
    near = tuple(BlockBatch(none, b[:, 0], b[:, 1]) for b in partition.near)
    return FlatBlocks(near, tuple((LowRankBatch(none, none, b[:, 0], b[:, 1]),) for b in partition.far))


def _certificate(asked: float, error: float, size: float, noise: float, dtype: np.dtype[Any]) -> Certificate:
    eps = float(np.finfo(dtype).eps)
    bound = max(error / size if size > 0.0 else 0.0, eps)
    floor = max(64 * eps, noise / size if size > 0.0 else 0.0)
    return Certificate(max(asked, floor), bound, bound, 1.0, "guaranteed by truncation, against what was converted")


# ------------------------------------------------------------------------------- nested to independent


def written_out(g: Generators) -> FlatBlocks:
    """The blocks U_t B_t V_s^H of an HSS matrix, exactly: HODLR."""
    depth, leaves = g.depth, np.arange(1 << g.depth)
    near = [_no_blocks(g, level) for level in range(depth)] + [BlockBatch(g.diagonal, leaves, leaves)]
    rows = _full_bases(g.row_basis)
    cols = rows if g.symmetric else _full_bases(g.col_basis)
    far: list[tuple[LowRankBatch, ...]] = [()]
    for level in range(1, depth + 1):
        # a Hermitian matrix stores what is below the diagonal: odd nodes
        node = np.arange(1, 1 << level, 2) if g.symmetric else np.arange(1 << level)
        left, right, coupling = rows[level - 1][node], cols[level - 1][node ^ 1], g.coupling(level)[node]
        ranks = g.row_basis.ranks[level - 1][node], g.col_basis.ranks[level - 1][node ^ 1]
        # the rank is that of the smaller basis, and the coupling goes to the other factor
        batches = []
        for narrow, factors, rank in (
            (ranks[0] <= ranks[1], (left, matmul(right, adjoint(coupling))), ranks[0]),
            (ranks[0] > ranks[1], (matmul(left, coupling), right), ranks[1]),
        ):
            pick = np.flatnonzero(narrow)
            batches += by_rank(factors[0][pick], factors[1][pick], rank[pick], node[pick], node[pick] ^ 1)
        far.append(merged(batches))
    return FlatBlocks(tuple(near), tuple(far), g.symmetric)


def _no_blocks(g: Generators, level: int) -> BlockBatch:
    p, q = (size << (g.depth - level) for size in g.diagonal.shape[1:])
    none = np.zeros(0, dtype=np.int64)
    return BlockBatch(np.zeros((0, p, q), dtype=g.diagonal.dtype), none, none)


def _full_bases(basis: NestedBasis) -> list[NumpyArray]:
    """The bases of all nodes over their own rows, for each level from 1, (2**l, p_l, k)."""
    full: list[NumpyArray] = []
    for level in range(basis.depth, 0, -1):
        own = basis[level]
        full.append(own if not full else pairs(matmul(full[-1], halves(own))))
    return full[::-1]


# ------------------------------------------------------------------------------- independent to nested


@dataclass(frozen=True)
class _Side:
    """Nested bases of one side, and the own blocks' factors in terms of them."""

    basis: NestedBasis
    coefficients: list[NumpyArray]  # U_t^H P_t by level from 1, (2**l, k, r)
    others: list[NumpyArray]  # the same of further factors
    square: float  # squared error


def nested(blocks: FlatBlocks, tail: float) -> tuple[Generators, float]:
    """Generators of the blocks of a HODLR matrix, and a bound of the Frobenius error, at most `tail`."""
    depth, symmetric = blocks.depth, blocks.half
    order = np.argsort(blocks.near[depth].rows)
    diagonal = blocks.near[depth].data[order]
    if depth == 0:
        empty = NestedBasis((), ())
        return Generators(diagonal, empty, empty, (), symmetric), 0.0
    p, s, q = _by_node(blocks.expanded())
    limit = tail / np.sqrt(2.0 * depth)
    rows = _swept(p, s, diagonal.shape[1], limit, q if symmetric else [])
    cols = rows if symmetric else _swept(q, [swap_siblings(values) for values in s], diagonal.shape[2], limit, [])
    couplings = []
    for level in range(1, depth + 1):
        its = rows.others[level - 1] if symmetric else cols.coefficients[level - 1]
        full = matmul(rows.coefficients[level - 1] * s[level - 1][:, None, :], adjoint(swap_siblings(its)))
        couplings.append(full[::2] if symmetric else full)
    error = float(np.sqrt(rows.square + cols.square))
    return Generators(diagonal, rows.basis, cols.basis, tuple(couplings), symmetric), error


def _by_node(blocks: FlatBlocks) -> tuple[list[NumpyArray], list[NumpyArray], list[NumpyArray]]:
    """Singular factors of all blocks by level from 1: P and values by row node, Q by column node; zero-padded."""
    out: tuple[list[NumpyArray], list[NumpyArray], list[NumpyArray]] = [], [], []
    leaf = blocks.near[-1].data
    for level in range(1, blocks.depth + 1):
        batches = [(b, *singular_factors(b)) for b in blocks.far[level]]
        width = max((values.shape[1] for _, _, values, _ in batches), default=0)
        nodes, shift = 1 << level, blocks.depth - level
        p = np.zeros((nodes, leaf.shape[1] << shift, width), dtype=leaf.dtype)
        s = np.zeros((nodes, width), dtype=leaf.real.dtype)
        q = np.zeros((nodes, leaf.shape[2] << shift, width), dtype=leaf.dtype)
        for batch, left, values, right in batches:
            k = values.shape[1]
            p[batch.rows, :, :k], s[batch.rows, :k], q[batch.cols, :, :k] = left, values, right
        for array, place in zip((p, s, q), out, strict=True):
            place.append(array)
    return out


def _swept(
    factors: list[NumpyArray], values: list[NumpyArray], size: int, limit: float, others: list[NumpyArray]
) -> _Side:
    """Nested bases of one side from the leaves up; `values` belong to the columns of the factors."""
    depth = len(factors)
    leaves = 1 << depth
    current = [f.reshape(leaves, size, f.shape[2]) for f in factors]
    extra = [f.reshape(leaves, size, f.shape[2]) for f in others]
    arrays: list[NumpyArray] = []
    ranks: list[IntArray] = []
    own: list[NumpyArray] = []
    own_extra: list[NumpyArray] = []
    square = 0.0
    for level in range(depth, 0, -1):
        node = np.arange(1 << level)
        # the block row outside each node, up to orthonormal factors on the right
        parts = [
            current[k] * values[k][node >> (level - k - 1)][:, None, :].astype(values[k].dtype) for k in range(level)
        ]
        basis, rank, left_out = truncated_svd(np.concatenate(parts, axis=2), limit / np.sqrt(2.0**level))
        square += float((left_out**2).sum())
        arrays.append(basis)
        ranks.append(rank)
        current, extra = ([matmul(adjoint(basis), x) for x in group[:level]] for group in (current, extra))
        own.append(current[level - 1])
        current = [pairs(x) for x in current[: level - 1]]
        if extra:
            own_extra.append(extra[level - 1])
            extra = [pairs(x) for x in extra[: level - 1]]
    nested_basis = NestedBasis(tuple(arrays[::-1]), tuple(ranks[::-1]))
    return _Side(nested_basis, own[::-1], own_extra[::-1], square)
