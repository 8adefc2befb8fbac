"""Tensor Chebyshev interpolation of a kernel on boxes, recompressed, for a batch of blocks at once.

References: W. Hackbusch, S. Boerm, "H2-matrix approximation of integral operators by interpolation", Appl. Numer. Math.
43 (2002) 129-143; L. N. Trefethen, Approximation Theory and Approximation Practice, SIAM, 2013, chapters 2 and 4.
Departure: the order is raised until a sample of entries confirms the tolerance, instead of being derived from the shape
of the boxes, and the factors are recompressed, for the ranks of interpolation are several times too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import like, namespace
from .._typing import Array, IntArray, NumpyArray
from ..engine import dense
from ..sources import EntrySource, KernelSource
from . import guard
from .compressor import Compressor, LowRankBatch, empty_batch, replaced
from .recompress import recompress
from .svd import fall_back

ACCEPTED = 0.15  # part of the tolerance that the interpolation may take


@dataclass(frozen=True)
class Chebyshev(Compressor):
    """Interpolation of a kernel at the Chebyshev points of the boxes around the points: k(x, y) = L(x) k(X, Y) L(y)^T.

    For kernels on points in one, two or three dimensions that are smooth where the boxes lie. The kernel is evaluated
    at m^d points of each box, which are no points of the matrix, and m grows until the tolerance is met.

    Parameters
    ----------
    rtol : float
        Tolerance of the error in the Frobenius norm, relative to the norm of the matrix.

    Notes
    -----
    The error is estimated, from 2 max(p, q) + 64 random entries. Where m^d would exceed the rows or the columns of a
    block, all its entries are evaluated (`fell_back`). Cost O((p + q) m^2d + m^3d) for each order m that is tried.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.kernelfunctions import Laplace
    >>> from structmat.lowrank import Chebyshev
    >>> x, y = np.random.default_rng(0).random((2, 1000, 2))
    >>> approximation = Chebyshev(rtol=1e-4)(Laplace(dim=2), x, y + [3, 0], rng=0)
    >>> approximation.rank, approximation.entries < 1000 * 1000 / 100
    (5, True)
    """

    def _numbers(self, p: int, q: int) -> int:
        return 128 * (p + q)

    def _check_blocks(self, source: EntrySource, rows: IntArray, cols: IntArray) -> None:
        if not isinstance(source, KernelSource):
            raise TypeError(
                "Chebyshev needs a kernel that it can evaluate anywhere: call it as compressor(kernel, x, y), or with "
                f"a KernelSource, not with a {type(source).__name__}"
            )
        if source.components != 1:
            raise TypeError(
                f"Chebyshev interpolates scalar kernels, but {source.kernel!r} has {source.components} components; "
                "take ACA for it"
            )
        for points in (source.row_points, source.col_points):
            if points.ndim == 2 and points.shape[1] > 3:
                raise ValueError(
                    "Chebyshev interpolates in 1, 2 or 3 dimensions, but the points have "
                    f"{points.shape[1]} coordinates; take ACA for these, and for points that carry normals"
                )

    def _chunk(
        self,
        source: EntrySource,
        rows: IntArray,
        cols: IntArray,
        tail: NumpyArray | None,
        max_rank: int | None,
        rng: np.random.Generator,
    ) -> LowRankBatch:
        assert isinstance(source, KernelSource)  # by _check_blocks
        sample = guard.draw(source, rows, cols, rng)
        wanted = self.rtol * sample.norms(sample.values) if tail is None else tail
        batch = empty_batch((*rows.shape, cols.shape[1]), source.dtype)
        pending, order, dimension = np.arange(len(rows)), 3, _boxes(source.row_points, rows)[0].shape[2]
        while len(pending) and order**dimension < min(rows.shape[1], cols.shape[1]):
            left, right = _interpolated(source, rows[pending], cols[pending], order)
            some = sample.part(pending)
            estimates = some.norms(some.residuals(left, right))
            good = estimates <= ACCEPTED * wanted[pending]
            budget = guard.budget(wanted[pending[good]], estimates[good])
            left, right, ranks, dropped = recompress(left[good], right[good], budget, max_rank)
            found = LowRankBatch(left, right, ranks, np.hypot(estimates[good], dropped), np.zeros(len(ranks), bool), 0)
            batch = replaced(batch, pending[good], found)
            pending, order = pending[~good], order + (1 if dimension == 3 else 2)
        failed = np.isin(np.arange(len(rows)), pending)
        return fall_back(batch, failed, source, rows, cols, self.rtol, tail, max_rank)


def _interpolated(source: KernelSource, rows: IntArray, cols: IntArray, order: int) -> tuple[NumpyArray, NumpyArray]:
    """The factors L(x) and L(y) k(X, Y)^H, (nb, p, m^d) and (nb, q, m^d)."""
    left, nodes_x = _lagrange(*_boxes(source.row_points, rows), order)
    right, nodes_y = _lagrange(*_boxes(source.col_points, cols), order)
    left[rows < 0], right[cols < 0] = 0, 0
    core = source.at(nodes_x, nodes_y)
    right = dense.matmul(right.astype(core.dtype), core.conj().swapaxes(1, 2))
    return left.astype(core.dtype), right


def _boxes(points: NumpyArray, index: IntArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """The points (nb, p, d) in coordinates from -1 to 1 of their boxes, and the centres and half sides (nb, 1, d)."""
    columns = points[:, None] if points.ndim == 1 else points
    x = columns[np.maximum(np.where(index < 0, index.max(axis=1, keepdims=True), index), 0)]
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    return np.clip((x - centre) / np.where(half > 0, half, 1.0), -1.0, 1.0), centre, half


def _lagrange(x: Array, centre: NumpyArray, half: NumpyArray, order: int) -> tuple[Array, NumpyArray]:
    """The Lagrange polynomials of the tensor Chebyshev points, (nb, p, m^d), and these points, (nb, m^d, d).

    In one dimension, at the zeros t_j of T_m, L_j(x) = (T_0 + 2 sum_k T_k(t_j) T_k(x)) / m: no division, so that points
    may coincide.
    """
    xp, (nb, p, dimension) = namespace(x), x.shape
    degrees, angles = np.arange(float(order)), np.pi * (np.arange(order) + 0.5) / order
    matrix = np.cos(degrees[:, None] * angles) * np.where(degrees > 0, 2.0, 1.0)[:, None] / order
    values = xp.cos(like(degrees, x) * xp.acos(x)[..., None]) @ like(matrix, x)  # (nb, p, d, m)
    tensor = values[:, :, 0, :]
    for axis in range(1, dimension):
        tensor = xp.reshape(tensor[..., None] * values[:, :, axis, None, :], (nb, p, order ** (axis + 1)))
    grid = np.stack(np.meshgrid(*[np.cos(angles)] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
    return tensor, centre + half * grid
