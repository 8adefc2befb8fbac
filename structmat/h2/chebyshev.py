"""H2 by tensor Chebyshev interpolation on the boxes of the clusters, recompressed.

On an admissible block the kernel is interpolated in both variables: couplings are its values between the Chebyshev
points of two boxes, bases are Lagrange polynomials at the points of the matrix, and transfers those of a parent at the
Chebyshev points of its children: exactly, as polynomials of one degree stay such on a smaller box.

References: W. Hackbusch, S. Boerm, "H2-matrix approximation of integral operators by interpolation", Appl. Numer. Math.
43 (2002) 129-143; for the recompression see `truncate`. Departures: the order is found by trying blocks; bases are made
orthonormal as they are built, so that couplings are kept in the ranks of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._backend import one_blas_thread
from .._typing import NumpyArray
from ..blocks import NestedBasis, RaggedBasis, RaggedBatch
from ..certificate import Certificate
from ..flat.fused import CompiledSource
from ..lowrank.chebyshev import _kernel_values, _lagrange
from ..partition import BlockPartition
from ..sources import KernelSource
from ..tree import ClusterTree
from .blocks import H2Blocks
from .certify import by_entries
from .interpolative import CHUNK_BYTES, near_field

# blocks of each level on which orders are tried, and points of each side of them
TRIED, POINTS = 8, 24
# of the tolerance, what the interpolation may take: the recompression takes the rest
ACCEPTED = 0.3
HIGHEST, ATTEMPTS = 24, 3


@dataclass(frozen=True)
class ChebyshevInterpolation:
    """The kernel is a polynomial on each admissible block: for smooth kernels in one to three dimensions.

    Parameters
    ----------
    order : int, optional
        Chebyshev points on each axis of a box, m^d of them in all. Default: found on some blocks, raised where the
        check of the matrix fails.

    Notes
    -----
    The kernel is evaluated at points around those of the matrix, never at pairs of them besides the near field and the
    check. Before the recompression ranks are m^d, or the number of points: in 3-D that is much memory.

    References
    ----------
    W. Hackbusch, S. Boerm, "H2-matrix approximation of integral operators by interpolation", Appl. Numer. Math. 43
    (2002) 129-143.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> points = np.random.default_rng(0).random((1000, 2))
    >>> log = sm.kernelfunctions.Laplace(dim=2)
    >>> A = sm.H2Matrix.from_kernel(log, points, rtol=1e-4, far_field=sm.h2.ChebyshevInterpolation())
    >>> A.certificate.met
    True
    """

    order: int | None = None

    def __post_init__(self) -> None:
        if self.order is not None:
            _check.positive_integer(self.order, "order")


def build(
    cls: Any, source: KernelSource, compiled: CompiledSource | None, partition: BlockPartition,
    given: ChebyshevInterpolation, *, asked: float, norm: float, max_rank: int | None, symmetric: bool,
    rng: np.random.Generator,
) -> Any:  # fmt: skip
    """The recompressed matrix; where its check fails, once more with a higher order."""
    dimension = partition.row_tree.coordinates.shape[1]
    if dimension > 3 or source.components > 1:
        raise ValueError(
            "ChebyshevInterpolation takes scalar kernels on points with one, two or three coordinates, but these have "
            f"{dimension} and the kernel {source.components} component(s); take far_field=SampledFarField()"
        )
    order = given.order or _first_order(source, partition, ACCEPTED * asked * norm, rng)
    stored = partition.lower() if symmetric else partition
    best = None
    for _attempt in range(ATTEMPTS):
        full = cls(_blocks(source, compiled, stored, order, symmetric), *_trees(partition), _unknown(asked))
        checked = by_entries(full, source, asked=asked, norm=norm, rng=rng)
        left = np.sqrt(max(asked**2 - checked.upper_bound**2, (0.5 * asked) ** 2))
        candidate = full.truncate(rtol=0.8 * left, max_rank=max_rank)
        candidate.certificate = by_entries(candidate, source, asked=asked, norm=norm, rng=rng)
        if best is None or candidate.certificate.upper_bound < best.certificate.upper_bound:
            best = candidate
        if best.certificate.met or given.order is not None or max_rank is not None or order >= HIGHEST:
            break
        order += 2
    return best


def _trees(partition: BlockPartition) -> tuple[ClusterTree, ClusterTree]:
    return partition.row_tree, partition.col_tree


def _unknown(asked: float) -> Certificate:
    return Certificate(asked, np.inf, np.inf, 1.0, "not yet checked")


def _first_order(source: KernelSource, partition: BlockPartition, allowed: float, rng: np.random.Generator) -> int:
    """The least order whose error on some blocks, if all entries had it, is at most `allowed`."""
    allowed = allowed / np.sqrt(float(source.shape[0]) * source.shape[1])
    tried = [(level, far[rng.permutation(len(far))[:TRIED]]) for level, far in enumerate(partition.far) if len(far)]
    for order in range(2, HIGHEST):
        errors = [_tried(source, partition, level, places, order) for level, places in tried]
        if max(errors, default=0.0) <= allowed:
            return order
    return HIGHEST


def _tried(source: KernelSource, partition: BlockPartition, level: int, places: NumpyArray, order: int) -> float:
    """The root of the mean squared error of some blocks at some of their points."""
    parts = []
    for tree, nodes in zip(_trees(partition), places.T, strict=True):
        centre, half = _box(tree, level)
        place = np.arange(POINTS) * tree.sizes(level)[nodes][:, None] // POINTS
        position = tree.starts(level)[nodes][:, None] + place
        local = _local(tree.coordinates[position], centre[nodes], half[nodes])
        parts.append((tree.perm[position], *_lagrange(local, centre[nodes], half[nodes], order)))
    (rows, left, x), (cols, right, y) = parts
    values = left @ _kernel_values(source, x, y) @ right.swapaxes(1, 2)
    return float(np.sqrt((np.abs(values - source.blocks(rows, cols)) ** 2).mean()))


def _box(tree: ClusterTree, level: int) -> tuple[NumpyArray, NumpyArray]:
    """Centres and half sides of the boxes, (2**level, 1, d)."""
    low, high = (corner[:, None, :] for corner in tree.boxes[level])
    return 0.5 * (low + high), 0.5 * (high - low)


def _local(x: NumpyArray, centre: NumpyArray, half: NumpyArray) -> NumpyArray:
    return np.clip((x - centre) / np.where(half > 0, half, 1.0), -1.0, 1.0)


def _basis(tree: ClusterTree, order: int, dtype: Any) -> tuple[RaggedBasis, list[tuple[NumpyArray, NumpyArray]]]:
    """Orthonormal bases; and for each level their triangles R, U = Q R, and the Chebyshev points (nodes, m^d, d)."""
    levels: list[NumpyArray] = []
    found: list[tuple[NumpyArray, NumpyArray]] = []
    for level in range(tree.depth, 0, -1):
        centre, half = _box(tree, level)
        if level == tree.depth:
            place = np.arange(tree.leaf_size)
            inside = place < tree.sizes(level)[:, None]
            position = np.minimum(tree.starts(level)[:, None] + place, tree.n - 1)
            values, points = _lagrange(_local(tree.coordinates[position], centre, half), centre, half, order)
            values[~inside] = 0.0
        else:
            triangle, below = found[-1]
            parent = np.repeat(np.arange(1 << level), 2)
            values, _ = _lagrange(_local(below, centre[parent], half[parent]), centre[parent], half[parent], order)
            points = _lagrange(np.zeros_like(centre), centre, half, order)[1]
            values = (triangle @ values).reshape(1 << level, -1, values.shape[2])
        q, r = np.linalg.qr(values)
        levels.append(q.astype(dtype, copy=False))
        found.append((r, points))
    ranks = tuple(np.full(len(q), q.shape[2]) for q in levels[::-1])
    return RaggedBasis.of(NestedBasis(tuple(levels[::-1]), ranks)), found[::-1]


def _blocks(
    source: KernelSource, compiled: CompiledSource | None, stored: BlockPartition, order: int, symmetric: bool
) -> H2Blocks:
    rows, cols = _trees(stored)
    near = np.empty((len(stored.near[stored.depth]), rows.leaf_size, cols.leaf_size), dtype=source.dtype)
    dense = near_field(source, compiled, stored, near)
    with one_blas_thread():  # small matrices
        row_basis, left = _basis(rows, order, source.dtype)
        col_basis, right = (row_basis, left) if cols is rows else _basis(cols, order, source.dtype)
        couplings = tuple(
            _couplings(source, stored.far[level], left[level - 1], right[level - 1])
            for level in range(1, stored.depth + 1)
        )
    return H2Blocks(dense, couplings, row_basis, row_basis if symmetric else col_basis, symmetric)


def _couplings(
    source: KernelSource, places: NumpyArray, left: tuple[NumpyArray, NumpyArray], right: tuple[NumpyArray, NumpyArray]
) -> RaggedBatch:
    """The kernel between Chebyshev points, in terms of the orthonormal bases."""
    (r, x), (s, y) = left, right
    nodes, others = places[:, 0].copy(), places[:, 1].copy()
    p, q = r.shape[1], s.shape[1]
    data = np.empty((len(places), p, q), dtype=source.dtype)
    step = max(1, CHUNK_BYTES // max(1, 8 * x.shape[1] * y.shape[1]))
    for k in range(0, len(places), step):
        part = slice(k, k + step)
        core = _kernel_values(source, x[nodes[part]], y[others[part]])
        data[part] = r[nodes[part]] @ core @ s[others[part]].swapaxes(1, 2)
    return RaggedBatch(data.reshape(-1), nodes, others, np.full(len(places), p), np.full(len(places), q))
