r"""The unit interval with Dirichlet ends: fine grids, the training grid that is thinned out of them, its Laplacian.

A fine grid is ``linspace(0, 1, refinement * size)``, and the training grid takes every `refinement`-th of its points.
So its first point is the left end, and its last point lies a little closer to the right end than to its neighbour.

The operators of the training grid are functions of its symmetric three-point Laplacian A, corrected so that smooth
functions see the fourth order. For a uniform spacing h, A has the eigenvalue :math:`\mu = (2/h)^2 \sin^2(kh/2)` where
-d^2/dx^2 has :math:`k^2 = \mu + h^2\mu^2/12 + O(h^4)` and :math:`1/k^2 = 1/\mu - h^2/12 + O(h^2)^2`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.linalg

from structmat._typing import NumpyArray

from .dataset import Size
from .fields import row_products

__all__ = ["fine_points", "heat_on_training_grid", "poisson_on_training_grid", "training_points"]


def fine_points(size: int, refinement: int) -> NumpyArray:
    """The points that solutions are computed on, ends included."""
    return np.linspace(0.0, 1.0, refinement * size)


def training_points(size: int, refinement: int) -> NumpyArray:
    """The points that models see: every `refinement`-th fine point."""
    return fine_points(size, refinement)[::refinement]


def poisson_on_training_grid(forcing: NumpyArray, refinement: int) -> NumpyArray:
    r"""Solve :math:`-u'' = f`, zero at the ends, for f known on the training grid only.

    The operator is :math:`A^{-1} - (h^2/12) I`, where :math:`A^{-1} = h\,G(x_i, x_j)` is Green's function. It is
    symmetric, and an HSS matrix of rank 2.

    Parameters
    ----------
    forcing : ndarray of shape (samples, size)
        Any values; the first one, on the left end, has no effect.
    refinement : int
        How the grid was thinned out.

    Returns
    -------
    ndarray of shape (samples, size)
    """
    points = training_points(forcing.shape[1], refinement)
    spacing = points[1]
    left = np.cumsum(points * forcing, axis=1)  # sum over j <= i of x_j f_j
    right = (1 - points) * forcing
    right = right.sum(axis=1, keepdims=True) - np.cumsum(right, axis=1)  # sum over j > i of (1 - x_j) f_j
    solution = spacing * ((1 - points) * left + points * right) - spacing**2 / 12 * forcing
    solution[:, 0] = 0.0
    return solution


def heat_on_training_grid(initial: NumpyArray, refinement: int, times: NumpyArray) -> NumpyArray:
    r"""Solve :math:`u_t = u_{xx}`, zero at the ends, for u known on the training grid only.

    The operator is :math:`\exp(-t (A + h^2 A^2 / 12))`, symmetric; the value on the left end becomes zero.

    Parameters
    ----------
    initial : ndarray of shape (samples, size)
    refinement : int
        How the grid was thinned out.
    times : ndarray of shape (times,)
        Multiples of the diffusivity.

    Returns
    -------
    ndarray of shape (samples, times, size)
    """
    eigenvalues, vectors = _laplacian_eigensystem(initial.shape[1], refinement)
    decay = np.exp(-np.multiply.outer(times, eigenvalues))  # (times, size - 1)
    solution = np.zeros((len(initial), len(times), initial.shape[1]))
    solution[:, :, 1:] = row_products(row_products(initial[:, 1:], vectors)[:, None] * decay, vectors.T)
    return solution


@lru_cache(maxsize=4)
def _laplacian_eigensystem(size: int, refinement: int) -> tuple[NumpyArray, NumpyArray]:
    """Eigenvalues of A + h^2 A^2 / 12, and the eigenvectors, on the points but the left end."""
    points = training_points(size, refinement)
    spacing = points[1]
    diagonal = np.full(size - 1, 2.0)
    diagonal[-1] = 1.0 + spacing / (1.0 - points[-1])  # the right end is nearer than a neighbour would be
    values, vectors = scipy.linalg.eigh_tridiagonal(diagonal / spacing**2, np.full(size - 2, -1.0 / spacing**2))
    return values + spacing**2 * values**2 / 12, vectors


def thin(values: NumpyArray, refinement: int) -> NumpyArray:
    """What the training grid sees of arrays on the fine grid."""
    return np.ascontiguousarray(values[..., ::refinement])


def check_refinement(size: Size, refinement: object) -> None:
    """An integer of at least 1, with enough fine points for stencils of five points."""
    if not isinstance(refinement, int) or isinstance(refinement, bool) or refinement < 1:
        raise ValueError(f"refinement must be an integer >= 1, but it is {refinement!r}")
    if refinement * size[0] < 8:
        raise ValueError(f"size {size[0]} with refinement {refinement} has fewer than 8 fine points; enlarge one")
