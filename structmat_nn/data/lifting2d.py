"""Dirichlet values on the boundary of the unit square, carried inside by a harmonic function."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft

from structmat import ShapeError
from structmat._check import finite
from structmat._typing import NumpyArray

from .cube_inputs import axis_points

__all__ = ["lift_dirichlet2d", "random_boundary"]


def lift_dirichlet2d(left: Any, right: Any, bottom: Any, top: Any) -> NumpyArray:
    r"""The harmonic function on the unit square with given values on its boundary.

    It solves :math:`\Delta u = 0`, so a solution of :math:`-\Delta u = f` with these values is this function plus the
    solution with zeros: a model of the homogeneous problem serves all boundary values. Subtract the lift from the
    outputs, train, add it again.

    Parameters
    ----------
    left, right : array_like of shape (..., n + 1)
        u(0, y) and u(1, y) at y = j / n, j = 0..n, corners included.
    bottom, top : array_like of shape (..., n + 1)
        u(x, 0) and u(x, 1) at x = i / n. They agree with the other two in the corners.

    Returns
    -------
    ndarray of shape (..., n, n)
        Values at (i / n, j / n), i, j = 0..n-1.

    Raises
    ------
    ShapeError
        If the four have different shapes, or fewer than three points.
    ValueError
        If two edges differ in their common corner.

    Notes
    -----
    The bilinear function through the corners, and a sine series for what is left of each edge. Cost: O(n^3) for each
    sample.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.lifting2d import lift_dirichlet2d
    >>> s = np.linspace(0, 1, 9)
    >>> u = lift_dirichlet2d(s, 1 - s, 0 * s + s, 1 - s)
    >>> bool(np.allclose(u[2, 4], 0.25 + 0.5 - 2 * 0.25 * 0.5))
    True
    """
    edges = [np.asarray(edge, dtype=np.float64) for edge in (left, right, bottom, top)]
    shapes = {edge.shape for edge in edges}
    if len(shapes) != 1 or edges[0].ndim == 0 or edges[0].shape[-1] < 3:
        raise ShapeError(
            "left, right, bottom and top must have one shape (..., n + 1) with n at least 2, "
            f"but their shapes are {', '.join(str(edge.shape) for edge in edges)}"
        )
    for edge, name in zip(edges, ("left", "right", "bottom", "top"), strict=True):
        finite(edge, name)
    corners = _corners(*edges)  # (2, 2, ...): u(x, y) at x, y in {0, 1}
    n = edges[0].shape[-1] - 1
    x = axis_points(n)
    weights = np.stack([1.0 - x, x])  # (2, n)
    result = np.einsum("ab...,ai,bj->...ij", corners, weights, weights)
    line = np.stack([1.0 - np.arange(n + 1) / n, np.arange(n + 1) / n])  # (2, n + 1)
    across = [np.einsum("b...,bj->...j", corners[a], line) for a in (0, 1)]  # the bilinear function on x = 0 and 1
    along = [np.einsum("a...,ai->...i", corners[:, b], line) for b in (0, 1)]
    result += _from_opposite_edges(edges[0] - across[0], edges[1] - across[1])
    return result + _from_opposite_edges(edges[2] - along[0], edges[3] - along[1]).swapaxes(-1, -2)


def _from_opposite_edges(near: NumpyArray, far: NumpyArray) -> NumpyArray:
    """Harmonic, with given values (zero at their ends) on the first axis at 0 and at 1; zero on the other two edges."""
    n = near.shape[-1] - 1
    wave_numbers = np.pi * np.arange(1, n)[:, None]
    x = axis_points(n)
    # sinh(k (1 - x)) / sinh(k), without overflow
    decay = (np.exp(-wave_numbers * x) - np.exp(-wave_numbers * (2.0 - x))) / -np.expm1(-2.0 * wave_numbers)
    growth = (np.exp(wave_numbers * (x - 1.0)) - np.exp(-wave_numbers * (x + 1.0))) / -np.expm1(-2.0 * wave_numbers)
    first, last = (scipy.fft.dst(edge[..., 1:-1], type=1) / n for edge in (near, far))  # (..., n - 1)
    sines = np.sin(wave_numbers * x)  # (n - 1, n)
    amplitudes = first[..., None] * decay + last[..., None] * growth  # (..., n - 1, n)
    return amplitudes.swapaxes(-1, -2) @ sines


def _corners(left: NumpyArray, right: NumpyArray, bottom: NumpyArray, top: NumpyArray) -> NumpyArray:
    scale = max(float(np.abs(edge).max()) for edge in (left, right, bottom, top))
    for name, one, other in (
        ("left and bottom", left[..., 0], bottom[..., 0]),
        ("left and top", left[..., -1], top[..., 0]),
        ("right and bottom", right[..., 0], bottom[..., -1]),
        ("right and top", right[..., -1], top[..., -1]),
    ):
        if np.abs(one - other).max() > 1e-10 * scale:
            raise ValueError(f"{name} must agree in their common corner, but differ by {np.abs(one - other).max():.3g}")
    return np.stack([np.stack([left[..., 0], left[..., -1]]), np.stack([right[..., 0], right[..., -1]])])


def random_boundary(count: int, n: int, rng: np.random.Generator, *, amplitude: float = 0.02) -> NumpyArray:
    """Lifts (count, n, n) of random values: linear between corners from U(-a, a), and five sines on each edge."""
    corners = rng.uniform(-amplitude, amplitude, (2, 2, count))
    coefficients = rng.uniform(-amplitude, amplitude, (4, count, 5))
    s = np.arange(n + 1) / n
    line, waves = np.stack([1.0 - s, s]), np.sin(np.pi * np.arange(1, 6)[:, None] * s)
    left, right = (np.einsum("bs,bj->sj", corners[a], line) for a in (0, 1))
    bottom, top = (np.einsum("as,ai->si", corners[:, b], line) for b in (0, 1))
    return lift_dirichlet2d(*(c @ waves + e for c, e in zip(coefficients, (left, right, bottom, top), strict=True)))
