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
from .._backend import cast, is_numpy, like, namespace, take, to_numpy, transpose
from .._typing import Array, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..certificate import Certificate
from ..engine import dense
from ..flat.fused import CompiledSource
from ..lowrank.chebyshev import _lagrange
from ..partition import BlockPartition
from ..sources import DeviceKernelSource, KernelSource
from ..tree import ClusterTree
from .batched_build import CHUNK_BYTES as DEVICE_CHUNK_BYTES
from .blocks import H2Blocks
from .certify import by_entries
from .interpolative import CHUNK_BYTES, near_field

# blocks of each level on which orders are tried, and points of each side of them
TRIED, POINTS = 8, 24
# of the tolerance, what the interpolation may take: the recompression takes the rest
ACCEPTED = 0.3
HIGHEST, ATTEMPTS = 24, 3

# of each level the triangles R and the Chebyshev points
Triangles = list[tuple[Array, NumpyArray]]


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
    rng: np.random.Generator, near: BlockBatch | None,
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
    best, reused = None, 0 if near is None else near.size
    for _attempt in range(ATTEMPTS):
        full = cls(_blocks(source, compiled, stored, order, symmetric, near), *_trees(partition), _unknown(asked))
        checked = by_entries(full, source, asked=asked, norm=norm, rng=rng, reused=reused)
        left = np.sqrt(max(asked**2 - checked.upper_bound**2, (0.5 * asked) ** 2))
        candidate = full.truncate(rtol=0.8 * left, max_rank=max_rank)
        candidate.certificate = by_entries(candidate, source, asked=asked, norm=norm, rng=rng, reused=reused)
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
    values = left @ to_numpy(source.at(x, y)) @ right.swapaxes(1, 2)
    error = values - to_numpy(source.blocks(rows, cols))
    return float(np.sqrt((np.abs(error) ** 2).mean()))


def _box(tree: ClusterTree, level: int) -> tuple[NumpyArray, NumpyArray]:
    """Centres and half sides of the boxes, (2**level, 1, d)."""
    low, high = (corner[:, None, :] for corner in tree.boxes[level])
    return 0.5 * (low + high), 0.5 * (high - low)


def _local(x: NumpyArray, centre: NumpyArray, half: NumpyArray) -> NumpyArray:
    return np.clip((x - centre) / np.where(half > 0, half, 1.0), -1.0, 1.0)


def _basis(tree: ClusterTree, order: int, source: KernelSource) -> tuple[RaggedBasis, Triangles]:
    """Orthonormal bases; and for each level their triangles R, U = Q R, and the Chebyshev points (nodes, m^d, d)."""
    beside = source.zeros((0,))
    levels: list[Array] = []
    found: Triangles = []
    for level in range(tree.depth, 0, -1):
        centre, half = _box(tree, level)
        if level == tree.depth:
            inside, x = _leaves(tree)
            values, points = _lagrange(like(_local(x, centre, half), beside), centre, half, order)
            values = values * like(inside[:, :, None].astype(np.float64), beside)
        else:
            triangle, below = found[-1]
            parent = np.repeat(np.arange(1 << level), 2)
            x = like(_local(below, centre[parent], half[parent]), beside)
            values = dense.matmul(triangle, _lagrange(x, centre[parent], half[parent], order)[0])
            values = namespace(values).reshape(values, (1 << level, 2 * values.shape[1], values.shape[2]))
            points = _lagrange(np.zeros_like(centre), centre, half, order)[1]
        q, r = dense.qr(values)
        levels.append(namespace(q).reshape(transpose(cast(q, source.dtype)), (-1,)))
        found.append((r, points))
    ranks = tuple(np.full(len(points), r.shape[1]) for r, points in found[::-1])
    return RaggedBasis(tuple(levels[::-1]), ranks, tree.leaf_size), found[::-1]


def _leaves(tree: ClusterTree) -> tuple[NumpyArray, NumpyArray]:
    """Which places of the leaves hold points, (leaves, leaf_size), and the points."""
    place = np.arange(tree.leaf_size)
    position = np.minimum(tree.starts(tree.depth)[:, None] + place, tree.n - 1)
    return place < tree.sizes(tree.depth)[:, None], tree.coordinates[position]


def _blocks(
    source: KernelSource, compiled: CompiledSource | None, stored: BlockPartition, order: int, symmetric: bool,
    near: BlockBatch | None,
) -> H2Blocks:  # fmt: skip
    rows, cols = _trees(stored)
    row_basis, left = _basis(rows, order, source)
    col_basis, right = (row_basis, left) if cols is rows else _basis(cols, order, source)
    if isinstance(source, DeviceKernelSource):
        _require_room(source, stored, left, right)
    if near is None:
        data = np.empty((len(stored.near[stored.depth]), rows.leaf_size, cols.leaf_size), dtype=source.dtype)
        near = near_field(source, compiled, stored, data)
    couplings = tuple(
        _couplings(source, stored.far[level], left[level - 1], right[level - 1]) for level in range(1, stored.depth + 1)
    )
    return H2Blocks(near, couplings, row_basis, row_basis if symmetric else col_basis, symmetric)


def _require_room(source: DeviceKernelSource, stored: BlockPartition, left: Triangles, right: Triangles) -> None:
    """Raise a `DeviceMemoryError` where the matrix does not fit there before its recompression."""
    numbers = sum(
        len(far) * r.shape[1] * s.shape[1] for far, (r, _), (s, _) in zip(stored.far[1:], left, right, strict=True)
    )
    # thrice: recompression weighs them, and products pad them
    source.require_room(
        3 * numbers, "the far field of this matrix before its recompression",
        "choose far_field=SampledFarField(), a lower order, a larger rtol, or build on the CPU",
    )  # fmt: skip


def _couplings(
    source: KernelSource, places: NumpyArray, left: tuple[Array, NumpyArray], right: tuple[Array, NumpyArray]
) -> RaggedBatch:
    """The kernel between Chebyshev points, in terms of the orthonormal bases."""
    (r, x), (s, y) = left, right
    nodes, others = places[:, 0].copy(), places[:, 1].copy()
    (p, m), (q, n) = r.shape[1:], s.shape[1:]
    data = source.zeros((len(places), p, q))
    r, s, x, y = (cast(r, source.dtype), cast(s, source.dtype), like(x, data), like(y, data))
    chunk = CHUNK_BYTES if is_numpy(data) else DEVICE_CHUNK_BYTES
    step = max(1, chunk // max(1, 8 * m * n))
    for k in range(0, len(places), step):
        one, other = nodes[k : k + step], others[k : k + step]
        core = source.at(take(x, one), take(y, other))
        data[k : k + len(one), ...] = dense.matmul(dense.matmul(take(r, one), core), transpose(take(s, other)))
    flat = namespace(data).reshape(data, (-1,))
    return RaggedBatch(flat, nodes, others, np.full(len(places), p), np.full(len(places), q))
