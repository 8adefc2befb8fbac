"""Surfaces of flat triangles: from arrays, from files, and of a sphere or a box."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._typing import IntArray, NumpyArray
from ..exceptions import MeshError, MissingLibraryError, ShapeError

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

__all__ = ["TriangleMesh"]

# a triangle whose height is less than this part of its longest edge has no normal to speak of
_FLATTEST = 1e-10


class TriangleMesh:
    """A surface in space, made of flat triangles. Immutable.

    Parameters
    ----------
    points : (p, 3) array
        Corners, in any unit of length.
    triangles : (n, 3) array of int
        For each triangle the numbers of its corners; counterclockwise where one looks at it from outside.

    Raises
    ------
    MeshError
        For triangles without area, or with corners that are not there; the message says which.

    Examples
    --------
    >>> from structmat.bem import TriangleMesh
    >>> mesh = TriangleMesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    >>> mesh.areas, mesh.is_closed
    (array([0.5]), False)
    """

    def __init__(self, points: Any, triangles: Any) -> None:
        self.points = _check.points(points)
        if self.points.ndim != 2 or self.points.shape[1] != 3:
            raise ShapeError(f"points must have shape (p, 3), but their shape is {self.points.shape}")
        self.triangles = _corner_numbers(triangles, len(self.points))
        crossed = np.cross(self._edges[:, 0], self._edges[:, 1])
        lengths = np.linalg.norm(crossed, axis=1)
        longest = np.linalg.norm(self._edges, axis=2).max(axis=1)
        flat = np.flatnonzero(lengths <= _FLATTEST * longest**2)
        if len(flat):
            raise MeshError(
                f"{len(flat)} of {len(self)} triangles have no area (the first is number {flat[0]}, with the corners "
                f"{self.triangles[flat[0]].tolist()}); drop or repair them"
            )
        self.areas = 0.5 * lengths  # (n,)
        self.normals = crossed / lengths[:, None]  # (n, 3), of length 1

    # ------------------------------------------------------------------------------- geometry

    @property
    def corners(self) -> NumpyArray:
        """The corners of each triangle, (n, 3, 3)."""
        corners: NumpyArray = self.points[self.triangles]
        return corners

    @cached_property
    def _edges(self) -> NumpyArray:
        """From each corner of each triangle to the next, (n, 3, 3)."""
        edges: NumpyArray = np.roll(self.corners, -1, axis=1) - self.corners
        return edges

    @cached_property
    def centroids(self) -> NumpyArray:
        """The centre of gravity of each triangle, (n, 3): points for a `ClusterTree`."""
        centroids: NumpyArray = self.corners.mean(axis=1)
        return centroids

    @cached_property
    def radii(self) -> NumpyArray:
        """The largest distance from the centroid of a triangle to its corners, (n,)."""
        radii: NumpyArray = np.linalg.norm(self.corners - self.centroids[:, None], axis=2).max(axis=1)
        return radii

    @property
    def area(self) -> float:
        """The area of the surface."""
        return float(self.areas.sum())

    @cached_property
    def is_closed(self) -> bool:
        """Whether each edge belongs to two triangles."""
        counts = np.unique(np.sort(self._sides, axis=1), axis=0, return_counts=True)[1]
        return bool((counts == 2).all())

    @cached_property
    def is_oriented(self) -> bool:
        """Whether no two triangles run through an edge in the same direction."""
        return len(np.unique(self._sides, axis=0)) == len(self._sides)

    @cached_property
    def unused_points(self) -> IntArray:
        """Numbers of points that are no corner of a triangle."""
        return np.setdiff1d(np.arange(len(self.points)), self.triangles)

    @property
    def _sides(self) -> IntArray:
        """The numbers of the corners at the ends of all edges, (3 n, 2)."""
        return np.stack([self.triangles, np.roll(self.triangles, -1, axis=1)], axis=2).reshape(-1, 2)

    @property
    def volume(self) -> float:
        """The volume inside a closed surface; positive where the normals point outwards."""
        if not (self.is_closed and self.is_oriented):
            raise MeshError("only a closed surface of consistently oriented triangles encloses a volume")
        return float(np.einsum("nd,nd,n->", self.centroids, self.normals, self.areas) / 3.0)

    def __len__(self) -> int:
        return len(self.triangles)

    def __repr__(self) -> str:
        closed = "closed" if self.is_closed else "open"
        return f"TriangleMesh({len(self)} triangles, {len(self.points)} points, {closed}, area {self.area:.6g})"

    # --------------------------------------------------------------------------------- meshes

    @classmethod
    def box(cls, sides: Sequence[float] = (1.0, 1.0, 1.0), *, intervals: int = 8, grading: float = 1.0) -> TriangleMesh:
        """The surface of a box with a corner at the origin: 12 intervals^2 triangles.

        Parameters
        ----------
        sides : three float
            Lengths of the edges.
        intervals : int
            Intervals along each edge.
        grading : float
            Interval i ends at (2 i / intervals)^grading of half the edge, and so from both ends: 1 is uniform, and
            larger values refine towards the edges. Charge densities are singular there, like the distance to the power
            -1/3; a grading of 2.5 and more then gives the full order of piecewise constants.

        Examples
        --------
        >>> from structmat.bem import TriangleMesh
        >>> TriangleMesh.box(intervals=4, grading=2)
        TriangleMesh(192 triangles, 98 points, closed, area 6)
        """
        lengths = _check.vector(sides, "sides", 3)
        if lengths.min() <= 0.0:
            raise ValueError(f"sides must be positive, but they are {list(sides)}")
        m = _check.positive_integer(intervals, "intervals")
        if not 1.0 <= grading < np.inf:
            raise ValueError(f"grading must be a finite number of at least 1, but it is {grading!r}")
        half = 0.5 * (2.0 * np.arange(m // 2 + 1) / m) ** grading
        ticks = np.append(half, 1.0 - half[::-1][1 - m % 2 :])
        places, triangles = _box_places(m)
        return cls(ticks[places] * lengths, triangles)

    @classmethod
    def sphere(cls, refinements: int = 3, *, radius: float = 1.0) -> TriangleMesh:
        """A sphere around the origin, from the icosahedron: 20 * 4^refinements triangles with corners on it.

        Examples
        --------
        >>> from structmat.bem import TriangleMesh
        >>> len(TriangleMesh.sphere(2))
        320
        """
        count = _check.positive_integer(refinements, "refinements", minimum=0)
        if not 0.0 < radius < np.inf:
            raise ValueError(f"radius must be a positive number, but it is {radius!r}")
        mesh = cls(*_icosahedron())
        for _ in range(count):
            mesh = mesh.refine()
            mesh = cls(mesh.points / np.linalg.norm(mesh.points, axis=1, keepdims=True), mesh.triangles)
        return cls(radius * mesh.points, mesh.triangles)

    def refine(self) -> TriangleMesh:
        """Each triangle cut into four equal ones by the middles of its edges; the surface stays the same."""
        ends, edge_of = np.unique(np.sort(self._sides, axis=1), axis=0, return_inverse=True)
        middles = len(self.points) + edge_of.reshape(-1, 3)  # (n, 3): on the edges ab, bc, ca
        (a, b, c), (ab, bc, ca) = self.triangles.T, middles.T
        parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = np.stack([np.stack(part, axis=1) for part in parts], axis=1).reshape(-1, 3)
        return TriangleMesh(np.concatenate([self.points, self.points[ends].mean(axis=1)]), triangles)

    # ---------------------------------------------------------------------------------- files

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TriangleMesh:
        """The triangles of a mesh file, of any format that meshio reads (Gmsh, STL, OFF, PLY, VTK, Abaqus, ...).

        Other cells, such as lines and points, and points that belong to no triangle are left out. Needs meshio: `pip
        install "structmat[bem]"`.
        """
        with np.errstate(over="ignore"):  # meshio takes text for a number while it guesses what kind of STL it has
            mesh = _meshio().read(os.fspath(path))
        cells = [block.data for block in mesh.cells if block.type == "triangle"]
        if not cells:
            found = ", ".join(sorted({block.type for block in mesh.cells})) or "nothing"
            raise MeshError(f"{os.fspath(path)} holds no triangles, but {found}; mesh the surface with flat triangles")
        triangles = np.concatenate(cells)
        used, renumbered = np.unique(triangles, return_inverse=True)
        points = np.asarray(mesh.points, dtype=np.float64)
        points = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))  # files of plane meshes may have two coordinates
        return cls(points[used], renumbered.reshape(triangles.shape))

    def write(self, path: str | os.PathLike[str], **triangle_data: Any) -> None:
        """Write a file in the format that its ending tells, through meshio.

        Parameters
        ----------
        path : str or path
            For example `cube.msh`, `cube.stl` or `cube.vtu`.
        **triangle_data : (n,) arrays
            Values on the triangles, by name, for formats that have them.
        """
        meshio = _meshio()
        data = {name: [_check.vector(values, name, len(self))] for name, values in triangle_data.items()}
        meshio.Mesh(self.points, [("triangle", self.triangles)], cell_data=data).write(os.fspath(path))

    def plot(self, values: Any = None, ax: Axes3D | None = None, *, label: str = "", norm: Any = None) -> Axes3D:
        """Draw the surface in perspective, coloured by values on the triangles.

        Parameters
        ----------
        values : (n,) array, optional
            Default: all triangles alike.
        ax : mpl_toolkits.mplot3d.Axes3D, optional
            Where to draw; default: the axes of a new figure.
        label : str
            For the colour bar.
        norm : matplotlib.colors.Normalize, optional
            From values to colours, for example `LogNorm()`.
        """
        from mpl_toolkits.mplot3d.art3d import Poly3DCollection

        from ..plot import _axes

        axes: Any = _axes(ax, subplot_kw={"projection": "3d"})
        surface = Poly3DCollection(list(self.corners), linewidths=0.2, edgecolors="#444444")
        if values is None:
            surface.set_facecolor("#c8d4e3")
        else:
            surface.set(array=_check.vector(values, "values", len(self)), cmap="viridis", norm=norm)
            axes.figure.colorbar(surface, ax=axes, label=label, shrink=0.7)
        axes.add_collection3d(surface)
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        axes.set_box_aspect(np.maximum(high - low, 0.05 * (high - low).max()))
        return axes


def _corner_numbers(triangles: Any, count: int) -> IntArray:
    array = np.asarray(triangles)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu" or len(array) == 0:
        raise ShapeError(
            f"triangles must be a non-empty (n, 3) array of integers, but its shape is {array.shape} and its type "
            f"{array.dtype}"
        )
    if array.min() < 0 or array.max() >= count:
        bad = int(np.flatnonzero((array < 0).any(axis=1) | (array >= count).any(axis=1))[0])
        raise MeshError(
            f"triangle {bad} has the corners {array[bad].tolist()}, but there are {count} points, numbered from 0"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def _box_places(m: int) -> tuple[IntArray, IntArray]:
    """The grid points on the surface of a cube of m^3 cells, (p, 3), and the triangles between them."""
    a, b = (index.ravel() for index in np.meshgrid(np.arange(m), np.arange(m), indexing="ij"))
    quads = []
    for axis in range(3):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        for side in (0, m):
            square = np.empty((m * m, 4, 3), dtype=np.int64)
            square[:, :, axis] = side
            square[:, :, second] = np.stack([a, a + 1, a + 1, a], axis=1)
            square[:, :, third] = np.stack([b, b, b + 1, b + 1], axis=1)
            quads.append(square if side else square[:, ::-1])  # counterclockwise from outside
    corners = np.concatenate(quads)
    places, number = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    number = number.reshape(-1, 4)
    return places, np.concatenate([number[:, [0, 1, 2]], number[:, [0, 2, 3]]])


def _icosahedron() -> tuple[NumpyArray, IntArray]:
    """The twelve corners, at distance 1 from the origin, and the twenty faces."""
    golden = 0.5 * (1.0 + np.sqrt(5.0))
    upper = [(0.0, s, t * golden) for s in (1.0, -1.0) for t in (1.0, -1.0)]
    points = np.array([np.roll(p, k) for k in range(3) for p in upper]) / np.hypot(1.0, golden)
    # faces are the triples of neighbours: the shortest distance between corners is that of an edge
    near = np.linalg.norm(points[:, None] - points, axis=2) < 1.1
    near &= ~np.eye(12, dtype=bool)
    faces = [
        (i, j, k) if np.linalg.det(points[[i, j, k]]) > 0 else (i, k, j)
        for i in range(12) for j in range(i) for k in range(j) if near[i, j] and near[j, k] and near[i, k]
    ]  # fmt: skip
    return points, np.array(faces, dtype=np.int64)


def _meshio() -> Any:
    try:
        import meshio
    except ModuleNotFoundError as error:
        raise MissingLibraryError('mesh files need meshio: pip install "structmat[bem]"') from error
    return meshio
