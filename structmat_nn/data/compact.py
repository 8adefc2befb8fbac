"""Poisson's equation on the unit square or cube, zero on the boundary: the compact stencil of fourth order.

The grid is x_i = i / n, i = 0..n-1: index 0 lies on the boundary, and the boundary at x = 1 is not stored. With
T = tridiag(-1, 2, -1) on an axis, the scheme is

    sum_i T_i u - (1/6) sum_{i<j} T_i T_j u = h^2 (f - (1/12) sum_i T_i f),

which has 9 points in two dimensions and 19 in three (W. F. Spotz and G. F. Carey, A high-order compact formulation
for the 3D Poisson equation, Numer. Methods Partial Differential Equations 12 (1996), 235-243). Sines are the
eigenvectors of T, so a discrete sine transform solves the scheme exactly, its right-hand side included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import fft

from structmat import _check
from structmat._typing import NumpyArray
from structmat.exceptions import ShapeError

CHUNK_BYTES = 2**26  # the working memory of a solver, whatever the number of right-hand sides


def solve_dirichlet(forcing: NumpyArray, dimension: int, *, workers: int = 1) -> NumpyArray:
    """Solve -Lap u = f on (0, 1)^d with u = 0 on the boundary, for many right-hand sides at once.

    Parameters
    ----------
    forcing : array_like, shape (..., n, ..., n)
        Values at x_i = i / n on each of the last `dimension` axes. What stands on the boundary (index 0) is taken as 0.
    dimension : int
        1, 2 or 3 (any number of axes works).
    workers : int
        Threads of the transforms.

    Returns
    -------
    ndarray of float64, the shape of `forcing`
        The solution of the compact fourth-order scheme.

    Raises
    ------
    ShapeError
        The last axes differ in length, or have fewer than two points.
    NonFiniteError
        The forcing holds NaN or Inf.

    Notes
    -----
    O(n^d log n) a right-hand side; the working memory does not grow with their number. For a forcing that does not
    vanish on the boundary the scheme still converges, at second order, because f is set to zero there.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.compact import solve_dirichlet
    >>> wave = np.sin(2 * np.pi * np.arange(32) / 32)
    >>> u = solve_dirichlet(8 * np.pi**2 * np.outer(wave, wave), 2)
    >>> bool(np.abs(u - np.outer(wave, wave)).max() < 1e-5)
    True
    """
    forcing, n = check_grid_values(forcing, dimension, "forcing")
    symbol = compact_symbol(n, dimension)  # (n-1, ..., n-1)
    axes = tuple(range(-dimension, 0))
    interior: tuple[Any, ...] = (..., *(slice(1, None),) * dimension)

    def solve(chunk: NumpyArray) -> NumpyArray:
        solution = np.zeros_like(chunk)
        sines = fft.dstn(chunk[interior], type=1, axes=axes, norm="ortho", workers=workers)
        sines *= symbol
        # with this norm the transform is its own inverse
        solution[interior] = fft.dstn(sines, type=1, axes=axes, norm="ortho", workers=workers, overwrite_x=True)
        return solution

    return in_chunks(solve, forcing, dimension)


def compact_symbol(n: int, dimension: int) -> NumpyArray:
    """The eigenvalues of the solution operator in the sine basis, shape (n-1,) * dimension."""
    axis = 2.0 - 2.0 * np.cos(np.pi * np.arange(1, n) / n)  # the eigenvalues of T
    along = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"))  # (dimension, n-1, ..., n-1)
    total, squares = along.sum(axis=0), (along**2).sum(axis=0)
    # sum_{i<j} T_i T_j = ((sum T_i)^2 - sum T_i^2) / 2
    return (1.0 - total / 12.0) / (total - (total * total - squares) / 12.0) / n**2


def check_grid_values(values: NumpyArray, dimension: int, name: str) -> tuple[NumpyArray, int]:
    """Finite float64 values on a grid with as many points on each of the last `dimension` axes; and that number."""
    dimension = _check.positive_integer(dimension, "dimension")
    array = np.asarray(values, dtype=np.float64)
    size = array.shape[-dimension:]
    if array.ndim < dimension or len(set(size)) != 1 or size[0] < 2:
        raise ShapeError(
            f"{name} must have shape (..., {', '.join(['n'] * dimension)}) with n at least 2, "
            f"but its shape is {array.shape}"
        )
    _check.finite(array, name)
    return array, size[0]


def in_chunks(function: Callable[[NumpyArray], NumpyArray], values: NumpyArray, dimension: int) -> NumpyArray:
    """`function` on a few samples at a time, so that its working memory does not grow with their number."""
    size = values.shape[values.ndim - dimension :]
    flat = values.reshape(-1, *size)
    if not len(flat):
        raise ShapeError(f"there is no sample to work on (shape {values.shape})")
    step = max(1, CHUNK_BYTES // (8 * int(np.prod(size))))
    result = np.concatenate([function(flat[start : start + step]) for start in range(0, len(flat), step)])
    return result.reshape(*values.shape[: values.ndim - dimension], *result.shape[1:])
