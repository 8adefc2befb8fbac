"""Far fields seen through proxies: a few points around a node that stand for all that is far from it.

Outside a closed surface, a solution of an elliptic equation is known from its values on the surface, and so the far
field of a Green's function from sources there. For other kernels that are functions of x - y a few points of the shell
around the boxes of one shape are chosen numerically, once for all of them.

References: P. G. Martinsson, V. Rokhlin, "A fast direct solver for boundary integral equations in two dimensions",
J. Comput. Phys. 205 (2005) 1-23; X. Xing, E. Chow, "Interpolative decomposition via proxy points for kernel matrices",
SIAM J. Matrix Anal. Appl. 41 (2020) 221-243. Departures: the weights of the proxies are measured, so that the tolerance
is an absolute one, and on each level some nodes are checked against points of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg as sla

from .. import _check
from .._backend import one_blas_thread, parallel_ranges, squared_norms, to_numpy
from .._typing import IntArray, NumpyArray
from ..engine import cpu_skeleton
from ..sources import KernelSource
from ..tree import ClusterTree
from .farfield import Samples, box_distances
from .sampled import SampledFarField

if TYPE_CHECKING:
    from .interpolative import Side, Skeletons

# candidates of a node by which its proxies are weighted; nodes of a level on which they are checked
WEIGHED, CHECKED = 4, 8
# how often more proxies are tried before they are declared unable to show the far field
EFFORTS = 5


@dataclass(frozen=True)
class ProxySurface:
    """The far field of a node is known from points on a surface around its box: for Green's functions.

    The surface is as far from the box as the nearest point that the basis has to serve, or nearer.

    Parameters
    ----------
    points : int, optional
        How many points a surface has. Default: q = -log10(rtol), 4 to 10, gives 4 q in two and 6 q^2 in three
        dimensions; in one dimension there are two. Where the check of a level fails, they are doubled.
    check : SampledFarField, optional
        The points of the matrix that the proxies are weighted by, and compared with.

    Notes
    -----
    For kernels without `is_greens_function`, and for plain functions that are no Green's functions, building raises
    ValueError.

    References
    ----------
    H. Huang, X. Xing, E. Chow, "H2Pack: high-performance H2 matrix package for kernel matrices using the proxy point
    method", ACM Trans. Math. Softw. 47 (2020).

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> points = np.random.default_rng(0).random((2000, 2))
    >>> log = sm.kernelfunctions.Laplace(dim=2)
    >>> A = sm.H2Matrix.from_kernel(log, points, rtol=1e-4, far_field=sm.h2.ProxySurface())
    >>> A.certificate.met
    True
    """

    points: int | None = None
    check: SampledFarField = field(default_factory=SampledFarField)

    def __post_init__(self) -> None:
        if self.points is not None:
            _check.positive_integer(self.points, "points", minimum=2)

    def resolved(self, rtol: float, dim: int) -> ProxySurface:
        """The same with numbers of points."""
        q = int(np.clip(np.ceil(-np.log10(rtol)), 4, 10))
        return ProxySurface(self.points or (2 if dim == 1 else 4 * q if dim == 2 else 6 * q * q),
                            self.check.resolved(rtol, dim))  # fmt: skip

    def share(self, dim: int) -> float:
        """Of the tolerance, for the truncation: it is measured at points that it was not fitted to."""
        return 0.7

    def finer(self, factor: int) -> ProxySurface:
        """The same with more points."""
        assert self.points is not None
        return ProxySurface(factor * self.points, self.check.finer(2))

    def seen_from(self, side: Side) -> SeenProxies:
        """The proxies of all nodes."""
        _require(side, "is_greens_function", "ProxySurface takes Green's functions (fundamental solutions)")
        dim, of_kernel = side.tree.coordinates.shape[1], getattr(_kernel(side), "dim", None)
        if dim > 3 or of_kernel not in (None, dim):
            raise ValueError(
                f"ProxySurface takes points with as many coordinates as the equation has dimensions, at most 3, but "
                f"these have {dim} and the kernel belongs to {of_kernel or 'at most 3'}; append zeros, or take "
                "SampledFarField()"
            )
        clear = clearances(side)

        def place(level: int, effort: int, rows: Skeletons, relative: NumpyArray) -> Samples:
            low, high = side.tree.boxes[level]
            directions = _directions((self.points or 2) << effort, dim)
            half = 0.5 * (high - low)[:, None, :]
            shape = _rounded(half, clear[level][:, None], directions)
            points = 0.5 * (low + high)[:, None, :] + shape
            pointers = np.arange(len(points) + 1) * points.shape[1]
            flat = points.reshape(-1, dim)
            return Samples(np.arange(len(flat)), np.ones(len(flat)), pointers, flat)

        return SeenProxies(side, place, self.check)


@dataclass(frozen=True)
class SelectedProxies:
    """The far field of a node is known from a few points around its box, chosen numerically: for kernels of x - y.

    Parameters
    ----------
    fraction : float
        Of the node's tolerance, for the error with which the chosen points stand for all others.
    check : SampledFarField, optional
        The points of the matrix that the proxies are weighted by, and compared with.

    Notes
    -----
    Boxes of about one shape share their choice. For kernels that are no functions of x - y, building raises ValueError.

    References
    ----------
    X. Xing, E. Chow, "Interpolative decomposition via proxy points for kernel matrices", SIAM J. Matrix Anal. Appl. 41
    (2020) 221-243.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> points = np.random.default_rng(0).random((2000, 2))
    >>> matern = sm.kernelfunctions.Matern(nu=1.5)
    >>> A = sm.H2Matrix.from_kernel(matern, points, rtol=1e-4, far_field=sm.h2.SelectedProxies())
    >>> A.certificate.met
    True
    """

    fraction: float = 0.3
    check: SampledFarField = field(default_factory=SampledFarField)

    def resolved(self, rtol: float, dim: int) -> SelectedProxies:
        """The same with a number of points to check by."""
        return replace(self, check=self.check.resolved(rtol, dim))

    def share(self, dim: int) -> float:
        """Of the tolerance, for the truncation: it is measured at points that it was not fitted to."""
        return 0.7

    def finer(self, factor: int) -> SelectedProxies:
        """The same with more points."""
        return SelectedProxies(self.fraction / factor**2, self.check.finer(2))

    def seen_from(self, side: Side) -> SeenProxies:
        """The proxies of all nodes."""
        _require(side, "translation_invariant", "SelectedProxies takes kernels that are functions of x - y")
        clear = clearances(side)

        def place(level: int, effort: int, rows: Skeletons, relative: NumpyArray) -> Samples:
            return _selected(side, level, clear[level], rows, self.fraction * 0.1**effort * relative)

        return SeenProxies(side, place, self.check)


def _kernel(side: Side) -> Any:
    return side.source.kernel if isinstance(side.source, KernelSource) else None


def _require(side: Side, attribute: str, what: str) -> None:
    kernel = _kernel(side)
    if not getattr(kernel, attribute, True):
        raise ValueError(f"{what}, and {kernel!r} is none; take far_field=SampledFarField()")


def clearances(side: Side) -> list[NumpyArray]:
    """For each level a distance from the box of each node within which nothing is that its basis serves."""
    result: list[NumpyArray] = []
    for level, pairs in enumerate(side.partition.far):
        found = np.repeat(result[-1], 2) if level else np.full(1, np.inf)
        distances, _ = box_distances(side.tree, side.other, level, level, pairs[:, 0], pairs[:, 1])
        if (distances == 0).any():
            raise ValueError(
                "proxies need admissible blocks of clusters that are apart, but some boxes touch; take "
                "StrongAdmissibility(), or far_field=SampledFarField()"
            )
        np.minimum.at(found, pairs[:, 0], distances)
        result.append(found)
    low, high = side.other.boxes[0]
    beyond = float(np.linalg.norm(high - low)) or 1.0  # where nothing is served: weights are zero there
    return [np.where(np.isfinite(c), c, beyond) for c in result]


Place = Callable[[int, int, "Skeletons", NumpyArray], Samples]


class SeenProxies:
    """Proxies for the nodes of one side, weighted and checked by points of the matrix.

    place(level, effort, rows, relative): the points around all nodes of a level; the greater the effort, the more.
    """

    def __init__(self, side: Side, place: Place, check: SampledFarField) -> None:
        self.side, self.place = side, place
        self.actual = check.seen_from(side)
        self.components = getattr(side.source, "components", 1)

    def samples(self, level: int, rows: Skeletons, tails: NumpyArray) -> Samples:
        """The proxies of a level, weighted such that they ask for the ranks that `tails` ask of the actual points."""
        actual = self.actual.samples(level, rows, tails)
        norms = self._norms(rows, actual)
        counts = np.diff(rows.pointers)
        whole = norms * np.sqrt(counts)
        relative = np.where(whole > 0, np.minimum(tails / np.where(whole > 0, whole, 1.0), 1.0), 1.0)
        for effort in range(EFFORTS):
            proxies = self._of_components(self.place(level, effort, rows, relative))
            shown = self._norms(rows, proxies)
            scale = np.where(shown > 0, norms / np.where(shown > 0, shown, 1.0), 0.0)
            weights = proxies.weights * np.repeat(scale, np.diff(proxies.pointers))
            proxies = replace(proxies, weights=weights)
            factor = self._calibrated(rows, tails, proxies, actual)
            if factor is not None:
                return replace(proxies, weights=factor * weights)
        raise ValueError(
            f"{len(proxies.positions) // max(1, len(counts))} proxies around each box of level {level} do not show its "
            "far field to the tolerance: is the kernel a Green's function (for ProxySurface), or a function of x - y "
            "(for SelectedProxies)? Take far_field=SampledFarField()"
        )

    def starved(self, ranks: IntArray, widths: IntArray) -> NumpyArray:
        """None: the proxies of a level were checked before they were used."""
        return np.zeros(len(ranks), dtype=bool)

    def _of_components(self, proxies: Samples) -> Samples:
        c = self.components
        if c == 1:
            return proxies
        assert proxies.points is not None
        points, weights = (np.repeat(a, c, axis=0) for a in (proxies.points, proxies.weights))
        return Samples(np.arange(len(points)), weights, c * proxies.pointers, points)

    def _norms(self, rows: Skeletons, samples: Samples) -> NumpyArray:
        """The weighted norm that the samples have at a candidate, from a few of them, (nodes,)."""
        counts = np.diff(rows.pointers)
        place = (np.arange(WEIGHED) + 0.5) / WEIGHED * counts[:, None]
        few = np.minimum(place.astype(np.int64), np.maximum(counts - 1, 0)[:, None]) + rows.pointers[:-1, None]
        some = (counts > 0) & (np.diff(samples.pointers) > 0)
        result = np.zeros(len(counts))
        nodes = np.flatnonzero(some)
        step = max(1, (1 << 20) // max(1, int(np.diff(samples.pointers).max(initial=0))))
        for k in range(0, len(nodes), step):
            part = nodes[k : k + step]
            block = self.side.weighted(rows.positions[few[part]], samples, part)
            result[part] = np.sqrt(to_numpy(squared_norms(block, axis=2)).mean(axis=1))
        return result

    def _calibrated(self, rows: Skeletons, tails: NumpyArray, proxies: Samples, actual: Samples) -> float | None:
        """The factor of the weights with which the actual far field of some nodes is served as `tails` ask.

        None where no factor does it.
        """
        there = np.flatnonzero((np.diff(actual.pointers) > 0) & (np.diff(rows.pointers) > 0))
        nodes = there[np.unique(np.linspace(0, len(there) - 1, CHECKED).astype(np.int64))] if len(there) else there
        low, high = -13, 14  # powers of sqrt(2): the least that suffices, by bisection
        with one_blas_thread():  # small matrices
            tests = [_Test.of(self.side, rows, t, tails[t], proxies, actual) for t in nodes]
            allowed = sum(t.allowed**2 for t in tests)
            while high - low > 1:
                middle = (low + high) // 2
                enough = sum(t.error(2.0 ** (0.5 * middle)) ** 2 for t in tests) <= allowed
                low, high = (low, middle) if enough else (middle, high)
        return None if high == 14 and tests else 2.0 ** (0.5 * high)


@dataclass(frozen=True)
class _Test:
    """One node: its interpolation from proxies, and the error that this has at actual points."""

    tail: float
    allowed: float
    order: IntArray
    triangle: NumpyArray
    left: NumpyArray  # by rank, the norm of what is left of the proxies
    actual: NumpyArray

    @classmethod
    def of(cls, side: Side, rows: Skeletons, node: int, tail: float, proxies: Samples, actual: Samples) -> _Test:
        mine = rows.positions[rows.pointers[node] : rows.pointers[node + 1]][None]
        one = np.array([node])
        shown, seen = (to_numpy(side.weighted(mine, s, one))[0] for s in (proxies, actual))
        triangle, order = sla.qr(shown.conj().T, mode="r", pivoting=True)
        triangle = triangle[: min(triangle.shape)]
        squares = np.append((np.abs(triangle) ** 2).sum(axis=1), 0.0)
        noise = 32.0 * float(np.finfo(seen.dtype).eps) * float(np.linalg.norm(seen))
        left = np.sqrt(np.cumsum(squares[::-1])[::-1])
        return cls(tail, max(tail, noise), order, triangle, left, seen)

    def error(self, factor: float) -> float:
        """At the actual points, with the rank that proxies weighted by `factor` ask for."""
        rank = int(np.argmax(self.left * factor <= self.tail))  # the last one is zero
        known = np.abs(np.diagonal(self.triangle))
        rank = min(rank, int((known > 8.0 * np.finfo(known.dtype).eps * known[:1]).sum()))
        skeleton, rest = self.order[:rank], self.order[rank:]
        if not len(rest):
            return 0.0
        solved = sla.solve_triangular(self.triangle[:rank, :rank], self.triangle[:rank, rank:])
        return float(np.linalg.norm(self.actual[rest] - solved.conj().T @ self.actual[skeleton]))


# ------------------------------------------------------------------------------------- surfaces


def _directions(count: int, dim: int) -> NumpyArray:
    """Unit vectors (count, dim), spread evenly: a spiral of golden angles in three dimensions."""
    if dim == 1:
        return np.array([[-1.0], [1.0]])
    turn = np.arange(count) + 0.5
    if dim == 2:
        angle = 2.0 * np.pi * turn / count
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    height, angle = 1.0 - 2.0 * turn / count, np.pi * (1.0 + np.sqrt(5.0)) * turn
    radius = np.sqrt(1.0 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def _rounded(half: NumpyArray, clearance: NumpyArray, directions: NumpyArray) -> NumpyArray:
    """Points at the distance `clearance` (...) from boxes of half sides `half` (..., d) around 0, (..., d)."""
    points = np.abs(directions) * (half + clearance[..., None])  # an ellipsoid inside of what is sought
    scale = np.full(points.shape[:-1], np.sqrt(points.shape[-1]))
    for _ in range(8):  # Newton from above, for a convex function: every iterate is outside
        gap = np.maximum(scale[..., None] * points - half, 0.0)
        distance = np.linalg.norm(gap, axis=-1)
        slope = (gap * points).sum(axis=-1) / distance
        scale = scale - (distance - clearance) / slope
    return np.sign(directions) * points * scale[..., None]


# ------------------------------------------------------------------------------------- selection


def _selected(side: Side, level: int, clear: NumpyArray, rows: Skeletons, relative: NumpyArray) -> Samples:
    """Chosen points around all nodes of a level: once for each shape of box, moved to each node of the shape."""
    low, high = side.tree.boxes[level]
    sides = high - low
    shape = _shapes(sides, clear)
    count = int(np.clip(2 * np.diff(rows.pointers).max(initial=0), 64, 512))
    reach = float(np.linalg.norm(side.other.boxes[0][1] - side.other.boxes[0][0])) + float(clear.max())
    chosen = []
    blocks, outers, weights = [], [], []
    for k in range(int(shape.max()) + 1):
        members = shape == k
        half, gap = 0.5 * sides[members].max(axis=0), float(clear[members].min())
        inner, outer, weight = _shell(half, gap, max(reach, 2.0 * gap), count, side.tree)
        block = _between(side, inner, outer)
        blocks.append(block * weight)
        outers.append(outer)
        weights.append(weight)
    tolerances = np.array([relative[shape == k].min() for k in range(len(blocks))])
    for k, (order, grown) in enumerate(_pivots(np.stack(blocks).swapaxes(1, 2), tolerances)):
        chosen.append((outers[k][order], weights[k][order] * grown))
    counts = np.array([len(points) for points, _ in chosen])[shape]
    points = np.concatenate([chosen[s][0] + 0.5 * (low[t] + high[t]) for t, s in enumerate(shape)])
    flat = np.concatenate([chosen[s][1] for s in shape])
    return Samples(np.arange(len(points)), flat, np.append(0, np.cumsum(counts)), points)


def _shapes(sides: NumpyArray, clear: NumpyArray) -> IntArray:
    """The number of the shape of each node: boxes whose sides and clearances are alike up to sqrt(2) share one."""
    largest = sides.max(initial=0.0) or 1.0
    sizes = np.maximum(np.column_stack([sides, clear]), 1e-3 * largest)
    return np.unique(np.round(2.0 * np.log2(sizes / largest)), axis=0, return_inverse=True)[1].reshape(-1)


def _shell(
    half: NumpyArray, gap: float, reach: float, count: int, tree: ClusterTree
) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Points of a box around 0, points of the shell around it, and square roots of how many the latter stand for."""
    rng, dim = np.random.default_rng(0), len(half)
    inner = -np.cos(np.pi * rng.random((count, dim))) * half  # denser at the faces, which are hardest to serve
    directions = rng.standard_normal((4 * count, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    away = gap * (reach / gap) ** ((np.arange(4 * count) + 0.5) / (4 * count))
    outer = _rounded(half, away, directions)
    volume = away * (away + half.mean()) ** (dim - 1)
    return inner, outer, np.sqrt(volume / volume.sum())


def _between(side: Side, inner: NumpyArray, outer: NumpyArray) -> NumpyArray:
    """The kernel between inner and outer points, (m, q); of several components their norms' sum."""
    source = side.source
    assert isinstance(source, KernelSource)
    centre = 0.5 * (side.tree.boxes[0][0] + side.tree.boxes[0][1])
    x, y = inner + centre, outer + centre
    values = source.at(y[None], x[None]) if side.adjointly else source.at(x[None], y[None])
    block = to_numpy(values)[0]
    if side.adjointly:
        block = block.conj().T
    c = source.components
    if c == 1:
        return block
    # a point is taken with all its components: one random mixture of them stands for all
    mixture = np.random.default_rng(1).standard_normal((c, block.shape[1] // c))
    return (block.reshape(len(block), -1, c) * mixture.T).sum(axis=2)


def _pivots(blocks: NumpyArray, tolerances: NumpyArray) -> list[tuple[IntArray, NumpyArray]]:
    """Of the rows of each block (shapes, q, m) those that show all others, and how much larger they have to be."""
    nb, rows, width = blocks.shape
    norms = np.linalg.norm(blocks, axis=(1, 2))
    pointers, cap = np.arange(nb + 1) * rows, min(rows, width)
    ranks, left, order = np.zeros(nb, dtype=np.int64), np.zeros(nb), np.empty(nb * rows, dtype=np.int64)
    factor = np.empty(nb * rows * cap, dtype=blocks.dtype)
    noise = 8.0 * float(np.finfo(blocks.dtype).eps)
    parallel_ranges(
        lambda a, b: cpu_skeleton.skeletons_of_blocks(
            blocks, pointers, np.full(nb, width), tolerances * norms, noise, np.full(nb, cap), ranks, left, order,
            factor, pointers * cap, a, b,
        ),
        nb,
    )  # fmt: skip
    result = []
    for k, rank in enumerate(ranks):
        sequence = order[pointers[k] : pointers[k + 1]]
        triangle = factor.reshape(nb, rows, cap)[k, :, :rank]
        shown = sla.solve_triangular(triangle[sequence[:rank]].T, triangle[sequence[rank:]].T)
        result.append((sequence[:rank], np.sqrt(1.0 + (np.abs(shown) ** 2).sum(axis=1))))
    return result
