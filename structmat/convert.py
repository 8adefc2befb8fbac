"""Conversion between the formats, each with a bound of its error that is guaranteed by truncation.

HSS is H2 as it stands. Nested bases are written out, level by level, exactly: HSS to HODLR, H2 to H. HODLR to H and
back cuts and agglomerates blocks (`structmat.flat.repartition`). Nested bases for independent blocks are found from the
leaves up (`structmat.nested.from_flat`): HODLR to HSS, H to H2. All other ways are made of these.

Reference: S. Chandrasekaran, M. Gu, T. Pals, SIAM J. Matrix Anal. Appl. 28 (2006) 603-622, section 3; S. Massei,
L. Robol, D. Kressner, "hm-toolbox", SIAM J. Sci. Comput. 42 (2020) C43-C68.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._backend import adjoint, is_numpy
from ._typing import NumpyArray
from .blocks import BlockBatch, LowRankBatch, NestedBasis
from .certificate import Certificate
from .engine.dense import matmul
from .exceptions import DeviceError, TreeMismatchError
from .flat.assemble import same_places
from .flat.matrix import FlatMatrix
from .flat.norms import frobenius
from .flat.repartition import lower_half, repartition
from .flat.storage import FlatBlocks, merged
from .flat.truncate import truncate
from .h2.blocks import H2Blocks
from .h2.dense import side_tails, unpadded
from .h2.matrix import H2Matrix
from .hss.generators import Generators, halves, pairs
from .hss.matrix import HSSMatrix
from .nested import from_flat
from .partition import Admissibility, BlockPartition, WeakAdmissibility

__all__ = ["to_flat", "to_h2", "to_hss"]


def to_flat(
    cls: Any, other: Any, *, rtol: float | None = None, admissibility: Admissibility | None = None,
    partition: BlockPartition | None = None,
) -> Any:  # fmt: skip
    """`HODLRMatrix.from_structured` and `HMatrix.from_structured`."""
    tolerance = _checked(other, rtol)
    if isinstance(other, H2Matrix) and admissibility is None and partition is None and not cls.fixed_partition:
        partition = other.partition
    chosen = cls._partition(other.row_tree, other.col_tree, admissibility, partition)
    source = _independent(other)
    size = frobenius(source)
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
    source = _independent(other)
    size = frobenius(source)
    weak = BlockPartition.build(other.row_tree, other.col_tree, WeakAdmissibility())
    moved, error = _over(source, weak, 0.4 * tolerance * size)
    generators, cut = nested(moved, (tolerance if error == 0.0 else 0.55 * tolerance) * size)
    certificate = _certificate(tolerance, error + cut, size, 0.0, other.dtype)
    certificate.warn_if_not_met("ask for a larger rtol", stacklevel=4)
    return HSSMatrix(generators, other.row_tree, other.col_tree, certificate)


def to_h2(
    cls: Any, other: Any, *, rtol: float | None = None, admissibility: Admissibility | None = None,
    partition: BlockPartition | None = None,
) -> Any:  # fmt: skip
    """`H2Matrix.from_structured`."""
    tolerance = _checked(other, rtol)
    trees = other.row_tree, other.col_tree
    own = admissibility is None and partition is None
    if own and isinstance(other, H2Matrix):
        return other if rtol is None else other.truncate(rtol=tolerance)
    if own and rtol is None and isinstance(other, HSSMatrix):
        return cls(of_hss(other.generators), *trees, _certificate(tolerance, 0.0, 0.0, 0.0, other.dtype))
    if own:
        weak = isinstance(other, HSSMatrix)
        partition = BlockPartition.build(*trees, WeakAdmissibility()) if weak else other.partition
    elif partition is not None and (partition.row_tree, partition.col_tree) != trees:
        raise TreeMismatchError("the partition was built on other trees than the matrix; pass its trees as tree=")
    chosen = cls._partition(trees, admissibility, partition)
    source = _independent(other)
    size = frobenius(source)
    moved, error = _over(source, chosen, 0.4 * tolerance * size)
    share = 1.0 if error == 0.0 else 0.55
    found = from_flat.nested(moved, side_tails(chosen, share * tolerance * size))
    blocks = unpadded(found.near, found.couplings, found.row_basis, found.col_basis, moved.half)
    certificate = _certificate(tolerance, error + float(np.sqrt(found.square)), size, 0.0, other.dtype)
    certificate.warn_if_not_met("ask for a larger rtol", stacklevel=4)
    return cls(blocks, *trees, certificate)


def _checked(other: Any, rtol: float | None) -> float:
    """The tolerance of a conversion, of a matrix that can be converted."""
    if not isinstance(other, (FlatMatrix, HSSMatrix, H2Matrix)):
        raise TypeError(
            "from_structured takes a HODLRMatrix, HMatrix, HSSMatrix or H2Matrix, but other is a "
            f"{type(other).__name__}; use from_dense for an array, from_operator for what multiplies"
        )
    if not is_numpy(other._storage._example):
        raise DeviceError('conversions run on the CPU: call A.to_device("cpu") first')
    return other.rtol if rtol is None else _check.tolerance(rtol)


def _independent(other: Any) -> FlatBlocks:
    """The blocks of a matrix of any format, each with factors of its own, exactly."""
    if isinstance(other, FlatMatrix):
        return other.blocks
    return written_out(of_hss(other.generators) if isinstance(other, HSSMatrix) else other.blocks)


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


def of_hss(g: Generators) -> H2Blocks:
    """An HSS matrix as the H2-matrix that it is: couplings between siblings, dense blocks on the diagonal."""
    leaves = np.arange(1 << g.depth)
    couplings = []
    for level in range(1, g.depth + 1):
        # a Hermitian matrix stores what is below the diagonal: odd nodes
        node = np.arange(1, 1 << level, 2) if g.symmetric else np.arange(1 << level)
        couplings.append(BlockBatch(g.coupling(level)[node], node, node ^ 1))
    near = BlockBatch(g.diagonal, leaves, leaves)
    return unpadded(near, tuple(couplings), g.row_basis, g.col_basis, g.symmetric)


def written_out(blocks: H2Blocks) -> FlatBlocks:
    """The blocks U_t B_ts V_s^H, exactly."""
    depth = blocks.depth
    rows = _full_bases(blocks.row_basis.padded())
    cols = rows if blocks.half else _full_bases(blocks.col_basis.padded())
    far: list[tuple[LowRankBatch, ...]] = [()]
    for level, b in enumerate(blocks.couplings, start=1):
        basis, other = rows[level - 1], cols[level - 1]
        coupling = b.padded(basis.shape[2], other.shape[2])
        # the rank is that of the smaller basis, and the coupling goes to the other factor
        narrow = b.heights <= b.widths
        batches = []
        for mask, ranks in ((narrow, b.heights), (~narrow, b.widths)):
            for rank in np.unique(ranks[mask]):
                pick = np.flatnonzero(mask & (ranks == rank))
                t, s = b.rows[pick], b.cols[pick]
                if mask is narrow:
                    left, right = basis[t, :, :rank], matmul(other[s], adjoint(coupling.data[pick, :rank]))
                else:
                    left, right = matmul(basis[t], coupling.data[pick, :, :rank]), other[s, :, :rank]
                batches.append(LowRankBatch(left, right, t, s))
        far.append(merged(batches))
    near = [_no_blocks(blocks.near, depth - level) for level in range(depth)]
    return FlatBlocks((*near, blocks.near), tuple(far), blocks.half)


def _no_blocks(leaf: BlockBatch, shift: int) -> BlockBatch:
    p, q = (size << shift for size in leaf.data.shape[1:])
    none = np.zeros(0, dtype=np.int64)
    return BlockBatch(np.zeros((0, p, q), dtype=leaf.data.dtype), none, none)


def _full_bases(basis: NestedBasis) -> list[NumpyArray]:
    """The bases of all nodes over their own rows, for each level from 1, (2**l, p_l, k)."""
    full: list[NumpyArray] = []
    for level in range(basis.depth, 0, -1):
        own = basis[level]
        full.append(own if not full else pairs(matmul(full[-1], halves(own))))
    return full[::-1]


# ------------------------------------------------------------------------------- independent to nested


def nested(blocks: FlatBlocks, tail: float) -> tuple[Generators, float]:
    """Generators of the blocks of a HODLR matrix, and a bound of the Frobenius error, at most `tail`."""
    depth, symmetric = blocks.depth, blocks.half
    tails = [tail / np.sqrt(2.0 * max(depth, 1) * 2.0**level) for level in range(depth + 1)]
    found = from_flat.nested(blocks, (tails, tails))
    diagonal = found.near.data[np.argsort(found.near.rows)]
    couplings = []
    for b in found.couplings:
        ordered = b.data[np.argsort(b.rows)]
        couplings.append(adjoint(ordered) if symmetric else ordered)  # below the diagonal, to above it
    g = Generators(diagonal, found.row_basis, found.col_basis, tuple(couplings), symmetric)
    return g, float(np.sqrt(found.square))
