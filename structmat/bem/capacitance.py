"""The capacitance of a conductor: the charge that brings its surface to potential 1.

The charge density solves the single-layer equation with the right-hand side 1. By Galerkin's method the capacitance is
the energy of the solution, and converges twice as fast as the density; it is too small unless the integrals are wrong.
Reference: S. Sauter, C. Schwab, "Boundary Element Methods", Springer 2011, chapters 3 and 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import _check
from .._typing import NumpyArray
from ..base import StructuredMatrix
from ..solvers import Solution, solve
from .mesh import TriangleMesh
from .singlelayer import SingleLayer

__all__ = ["Capacitance", "capacitance"]


@dataclass(frozen=True)
class Capacitance:
    """A capacitance, and how it was found.

    Attributes
    ----------
    value : float
        In units of 4 pi epsilon_0 times the unit of length of the mesh: 1 for a sphere of radius 1.
    density : (n,) array
        Charge density on the triangles at potential 1; its integral over the surface is `value`.
    matrix : StructuredMatrix
        The compressed single-layer matrix.
    solution : Solution
        Of the linear system.
    matrix_seconds : float
        Time of the build of the matrix.
    """

    value: float
    density: NumpyArray = field(repr=False)
    matrix: StructuredMatrix = field(repr=False)
    solution: Solution = field(repr=False)
    matrix_seconds: float

    def __float__(self) -> float:
        return self.value


def capacitance(
    mesh: TriangleMesh, *, rtol: float = 1e-6, format: Any = None, leaf_size: int = 64, preconditioner: Any = "auto",
    progress: Callable[[float], None] | None = None,
) -> Capacitance:  # fmt: skip
    """The capacitance of a conductor with this surface.

    Parameters
    ----------
    mesh : TriangleMesh
        Closed, or open for a thin sheet.
    rtol : float
        Tolerance of the matrix and of the residual. Below the error of the quadrature, about 1e-6, nothing is gained.
    format : type, optional
        Of the matrix; default `HMatrix`.
    leaf_size : int
        Triangles in a leaf, at most.
    preconditioner : "auto", None or object
        See `solve`.
    progress : callable, optional
        Called with the share of the work of the build that was just done.

    Returns
    -------
    Capacitance

    Notes
    -----
    Flat triangles replace a curved surface with an error of O(h^2). On a flat surface the error of the capacitance is
    O(h^3) for smooth densities; near edges these are singular, and uniform meshes give only O(h^(4/3)) at right angles:
    grade the mesh towards the edges. O(n k log n) time and memory.

    Examples
    --------
    >>> from structmat.bem import TriangleMesh, capacitance
    >>> cube = TriangleMesh.box(intervals=8, grading=3)
    >>> capacitance(cube).value     # the exact value is 0.6606782
    0.6606
    """
    from ..hmatrix.matrix import HMatrix

    layer = SingleLayer(mesh)
    start = time.perf_counter()
    kind: Any = HMatrix if format is None else format
    matrix = kind.from_entries(
        layer, layer.tree(leaf_size), rtol=_check.tolerance(rtol), symmetric=True, progress=progress
    )
    seconds = time.perf_counter() - start
    moments = layer.moments()
    solution = solve(matrix, moments, rtol=rtol, preconditioner=preconditioner)
    return Capacitance(float(moments @ solution.x), layer.density(solution.x), matrix, solution, seconds)
