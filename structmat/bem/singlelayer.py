"""The single-layer operator of the Laplace equation on a surface of flat triangles, by Galerkin's method.

The potential of a uniformly charged triangle has a closed form, so a pair of triangles takes one quadrature, over the
smaller of the two: where they touch its points gather at the edges, and where they are far apart both integrals are
quadratures. A triangle with itself has a closed form too.

References: D. Wilton et al., "Potential integrals for uniform and linear source distributions on polygonal and
polyhedral domains", IEEE Trans. Antennas Propag. 32 (1984) 276-281; R. Graglia, "On the numerical integration of the
linear shape functions times the 3-D Green's function or its gradient on a plane triangle", same 41 (1993) 1448-1455;
A. van Oosterom, J. Strackee, "The solid angle of a plane triangle", IEEE Trans. Biomed. Eng. 30 (1983) 125-126;
T. Eibert, V. Hansen, "On the calculation of potential integrals for linear source distributions on triangular domains",
IEEE Trans. Antennas Propag. 43 (1995) 1499-1502. The sum over edges of one logarithm each and the solid angle is
written so that nothing cancels near an edge or in the plane of the triangle.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from .. import _check
from .._backend import parallel_ranges
from .._typing import NumpyArray
from ..engine import cpu_bem
from ..exceptions import ShapeError
from ..tree import ClusterTree
from .mesh import TriangleMesh

__all__ = ["SingleLayer"]

# entries of blocks that are worth a second thread
_SERIAL_ENTRIES = 1 << 11
# Gauss points in each direction for triangles that touch: 108 points on the triangle
_TOUCHING_ORDER = 6


class SingleLayer:
    """The matrix of the integrals of ``1 / |x - y|`` over all pairs of triangles, as a source of entries.

    On triangle t the trial function is the constant `scale[t]`, chosen so that the diagonal of the matrix is 1: a mesh
    may be graded, and no triangle is lost in a tolerance for the whole matrix. The matrix is symmetric and positive
    definite.

    Parameters
    ----------
    mesh : TriangleMesh
        Closed or open; its orientation does not matter. Triangles must not cross or lie upon each other.

    Attributes
    ----------
    shape : (int, int)
        Number of triangles, twice.
    scale : (n,) array
        The values of the trial functions.

    Notes
    -----
    The kernel has no factor 1 / (4 pi): charge density and potential are in Gaussian units. Relative errors of the
    entries: rounding on the diagonal, about 1e-5 for triangles that share an edge or a corner, 1e-5 and less for
    triangles apart. Where two sheets face each other at less than a tenth of the size of the triangles, errors reach
    1e-3: mesh them as finely as the gap.

    Examples
    --------
    >>> import structmat as sm
    >>> layer = sm.bem.SingleLayer(sm.bem.TriangleMesh.sphere(2))
    >>> A = sm.HMatrix.from_entries(layer, layer.tree(), rtol=1e-5, symmetric=True)
    >>> x = sm.solve(A, layer.moments()).x
    >>> density = layer.density(x)       # on the unit sphere at potential 1: 1 / (4 pi) everywhere
    >>> bool(abs(density * 4 * 3.14159 - 1).max() < 0.06)
    True
    """

    batched = True  # one call serves many blocks
    dtype = np.dtype(np.float64)

    def __init__(self, mesh: TriangleMesh) -> None:
        if not isinstance(mesh, TriangleMesh):
            raise TypeError(f"mesh must be a TriangleMesh, but it is a {type(mesh).__name__}")
        self.mesh = mesh
        self.shape = (len(mesh), len(mesh))
        corners = np.ascontiguousarray(mesh.corners.reshape(-1, 9))
        seven, three = radon_rule(), three_point_rule()
        near, far = (_padded_points(mesh.corners, rule) for rule in (seven, three))
        self._flat = (corners, mesh.normals)
        self._geometry = (
            *self._flat, mesh.areas, mesh.centroids, mesh.radii, edge_rule(_TOUCHING_ORDER), quartered(seven), seven,
            *near, *far,
        )  # fmt: skip
        self.scale = np.array([cpu_bem.self_integral(corners, mesh.areas, t) for t in range(len(mesh))]) ** -0.5

    def tree(self, leaf_size: int = 64) -> ClusterTree:
        """A tree over the triangles, from their centres."""
        return ClusterTree.from_points(self.mesh.centroids, leaf_size=leaf_size)

    def __call__(self, i: Any, j: Any) -> NumpyArray:
        """The blocks (..., p, q) at triangles i (..., p) and j (..., q)."""
        rows, cols = (np.asarray(index, dtype=np.int64) for index in (i, j))
        lead = rows.shape[:-1]
        if cols.shape[:-1] != lead:
            raise ShapeError(f"i and j must have the same leading axes; their shapes are {rows.shape} and {cols.shape}")
        rows, cols = (index.reshape(math.prod(lead), index.shape[-1]) for index in (rows, cols))
        out = np.empty((len(rows), rows.shape[1], cols.shape[1]))
        work = partial(cpu_bem.single_layer_blocks, *self._geometry, self.scale, rows, cols, out)
        parallel_ranges(work, rows.size, serial=out.size < _SERIAL_ENTRIES)
        return out.reshape(*lead, *out.shape[1:])

    def moments(self, potential: Any = 1.0) -> NumpyArray:
        """The right-hand side (n,): the integrals of a potential on the surface times the trial functions.

        Parameters
        ----------
        potential : float or callable
            A constant, or a function of points (m, 3) with values (m,).
        """
        weights = self.scale * self.mesh.areas
        if not callable(potential):
            return float(potential) * weights
        rule = radon_rule()
        points = _rule_points(self.mesh.corners, rule).reshape(-1, 3)
        values = _check.vector(potential(points), "the values of potential", len(points))
        moments: NumpyArray = values.reshape(len(self.mesh), -1) @ rule[:, 2] * weights
        return moments

    def density(self, x: Any) -> NumpyArray:
        """The charge density on the triangles, (n,), of a solution x (n,)."""
        return self.scale * _check.vector(x, "x", len(self.mesh))

    def potential(self, density: Any, points: Any) -> NumpyArray:
        """The potential of a charge density (n,) at points (m, 3), exactly for the density; O(m n)."""
        charges, targets = _check.vector(density, "density", len(self.mesh)), _check.points(points)
        if targets.ndim != 2 or targets.shape[1] != 3:
            raise ShapeError(f"points must have shape (m, 3), but their shape is {targets.shape}")
        out = np.empty(len(targets))
        work = partial(cpu_bem.layer_potentials, *self._flat, charges, targets, out)
        parallel_ranges(work, len(targets), serial=out.size * charges.size < _SERIAL_ENTRIES)
        return out


# ------------------------------------------------------------------------------------------- rules


def three_point_rule() -> NumpyArray:
    """Degree 2: rows of two coordinates in the triangle (0, 0), (1, 0), (0, 1) and a weight; the weights sum to 1."""
    return np.array([(a, b, 1.0) for a, b in ((1, 1), (4, 1), (1, 4))]) / np.array([6.0, 6.0, 3.0])


def radon_rule() -> NumpyArray:
    """Degree 5, seven points, in the same form."""
    root = np.sqrt(15.0)
    points = [(1.0 / 3.0, 1.0 / 3.0, 9.0 / 40.0)]
    for a, weight in (((6.0 - root) / 21.0, (155.0 - root) / 1200.0), ((6.0 + root) / 21.0, (155.0 + root) / 1200.0)):
        points += [(a, a, weight), (1.0 - 2.0 * a, a, weight), (a, 1.0 - 2.0 * a, weight)]
    return np.array(points)


def quartered(rule: NumpyArray) -> NumpyArray:
    """A rule on each of the four equal parts of the triangle."""
    u, v, w = 0.5 * rule[:, 0], 0.5 * rule[:, 1], 0.25 * rule[:, 2]
    parts = [(u, v), (u + 0.5, v), (u, v + 0.5), (0.5 - u, 0.5 - v)]
    return np.concatenate([np.stack([*part, w], axis=1) for part in parts])


def edge_rule(order: int) -> NumpyArray:
    """3 order^2 points that gather at the edges, for functions whose slope across an edge has a logarithm.

    The triangle is cut from its centre into three; in each, the distance t from the edge is the square of a Gauss node.
    """
    nodes, weights = np.polynomial.legendre.leggauss(order)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    t, along = np.repeat(nodes**2, order), np.tile(nodes, order)
    w = np.repeat(2.0 * nodes * weights, order) * np.tile(weights, order) * (1.0 - t) * 2.0 / 3.0
    u, v = (1.0 - t) * along + t / 3.0, t / 3.0
    rest = 1.0 - u - v
    return np.concatenate([np.stack(part, axis=1) for part in ((u, v, w), (v, rest, w), (rest, u, w))])


def _rule_points(corners: NumpyArray, rule: NumpyArray) -> NumpyArray:
    """The points of a rule on all triangles (n, 3, 3): (n, q, 3)."""
    shares = np.stack([1.0 - rule[:, 0] - rule[:, 1], rule[:, 0], rule[:, 1]], axis=1)
    return np.einsum("qk,nkd->nqd", shares, corners)


def _padded_points(corners: NumpyArray, rule: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Coordinates (n, 3, q) and weights (q,): q is a multiple of four, the points too many are the first one again."""
    more = -len(rule) % 4
    points = _rule_points(corners, np.concatenate([rule, np.repeat(rule[:1], more, axis=0)]))
    return np.ascontiguousarray(points.swapaxes(1, 2)), np.append(rule[:, 2], np.zeros(more))
