"""Poisson's equation on two domains of the plane that no fast transform serves: one sparse LU, many right-hand sides.

* The L-shape: the unit square without its top right quarter, u = 0 on the boundary, compact nine-point stencil.
* The unit square, periodic, without a disk in the middle, du/dn = 0 on the circle: finite volumes on cut cells.

Both keep the grid x_i = i / n, i = 0..n-1, of the square, and extend fields by zero beyond the points of the domain.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import linalg as sparse_linalg

from structmat import _check
from structmat._backend import one_blas_thread
from structmat._typing import NumpyArray
from structmat.exceptions import ShapeError

from .compact import check_grid_values, in_chunks


class LShape:
    """-Lap u = f on the unit square without [1/2, 1]^2, u = 0 on the boundary.

    Parameters
    ----------
    n : int
        Points on an axis, x_i = i / n; even, so that the inner edges of the L lie on grid lines; at least 4.

    Attributes
    ----------
    mask : ndarray of bool, shape (n, n)
        The inner points of the domain, where the unknowns are.

    Notes
    -----
    The stencil is that of `structmat_nn.data.compact`, fourth order for a smooth solution and a forcing that vanishes
    on the boundary. The re-entrant corner makes u behave like r^(2/3) there for a general forcing, which limits any
    scheme on a uniform grid to the order 4/3. Set-up: one sparse LU of about 3 n^2 / 4 unknowns, O(n^3) operations.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.domains2d import LShape
    >>> wave = np.sin(2 * np.pi * np.arange(32) / 32)
    >>> domain = LShape(32)
    >>> u = domain.solve(8 * np.pi**2 * np.outer(wave, wave))
    >>> bool(np.abs(u - np.outer(wave, wave) * domain.mask).max() < 1e-5)
    True
    """

    def __init__(self, n: int) -> None:
        n = _check.positive_integer(n, "n", minimum=4)
        if n % 2:
            raise ValueError(f"n must be even, so that the corner (1/2, 1/2) is a grid point, but it is {n}")
        self.n = n
        low = np.arange(n) < n // 2
        inner = np.arange(n) > 0
        self.mask = np.outer(inner, inner) & (low[:, None] | low[None, :])  # (n, n)
        unknowns = np.flatnonzero(self.mask)
        eye = sparse.eye_array(n, format="csr")
        second = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n), format="csr")  # T
        both = sparse.csr_array(sparse.kron(second, eye) + sparse.kron(eye, second))
        operator = sparse.csr_array(both - sparse.kron(second, second) / 6.0)
        weights = sparse.csr_array(sparse.eye_array(n * n) - both / 12.0)
        self._weights = sparse.csr_array(weights[unknowns][:, unknowns] / n**2)
        self._lu = _symmetric_lu(operator[unknowns][:, unknowns])

    def solve(self, forcing: NumpyArray) -> NumpyArray:
        """The solutions for forcings of shape (..., n, n); values beyond the domain and on its boundary do not count.

        Raises `ShapeError` for another grid and `NonFiniteError` for NaN or Inf. O(n^2 log n) a right-hand side.
        """
        forcing = _on_grid(forcing, self.n)

        def solve(chunk: NumpyArray) -> NumpyArray:
            sources = np.asarray(self._weights @ chunk[:, self.mask].T)  # (unknowns, samples)
            return _extend(_solve(self._lu, sources).T, self.mask)

        return in_chunks(solve, forcing, 2)

    def solve_adjoint(self, values: NumpyArray) -> NumpyArray:
        """The transpose of `solve` on arrays of shape (..., n, n): stencil and right-hand side change places."""
        values = _on_grid(values, self.n)

        def solve(chunk: NumpyArray) -> NumpyArray:
            potential = _solve(self._lu, chunk[:, self.mask].T)  # (unknowns, samples)
            return _extend(np.asarray(self._weights @ potential).T, self.mask)

        return in_chunks(solve, values, 2)


class PerforatedSquare:
    """-Lap u = f on the periodic unit square without a disk in its middle, du/dn = 0 on the circle.

    The problem is singular: the mean of f over the domain is removed, and u has mean zero.

    Parameters
    ----------
    n : int
        Points on an axis, x_i = i / n; at least 8.
    radius : float
        Of the disk around (1/2, 1/2); at most 1/2 - 2/n and at least 2/n, so that the grid sees it.

    Attributes
    ----------
    volumes : ndarray, shape (n, n)
        The area of each cell outside the disk; their sum is 1 - pi radius^2.
    mask : ndarray of bool, shape (n, n)
        The cells that reach into the domain, where the unknowns are.

    Notes
    -----
    Finite volumes on the square cells around the grid points. A face carries the flux (its length outside the disk)
    times (the difference of the two values) / h; the circle carries none. This is the symmetric scheme of J. Papac,
    F. Gibou and C. Ratsch (Efficient symmetric discretization for the Poisson, heat and Stefan-type problems with
    Robin boundary conditions, J. Comput. Phys. 229 (2010), 875-889), second order in the solution. Lengths and areas
    are exact. Set-up: one sparse LU of n^2 unknowns, O(n^3) operations.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.domains2d import PerforatedSquare
    >>> domain = PerforatedSquare(32)
    >>> u = domain.solve(np.random.default_rng(0).standard_normal((3, 32, 32)))
    >>> u.shape, bool(np.abs((u * domain.volumes).sum(axis=(1, 2))).max() < 1e-12)
    ((3, 32, 32), True)
    """

    def __init__(self, n: int, radius: float = 0.2) -> None:
        n = _check.positive_integer(n, "n", minimum=8)
        radius = _check.positive_number(radius, "radius")
        if not 2.0 / n <= radius <= 0.5 - 2.0 / n:
            raise ValueError(f"radius must lie between 2/n and 1/2 - 2/n for n = {n}, but it is {radius!r}")
        self.n, self.radius = n, radius
        centres = np.arange(n) / n - 0.5
        edges = (np.arange(n + 1) - 0.5) / n - 0.5
        self.volumes = _cell_areas(edges, radius)  # (n, n)
        # faces[i, j] lies between the cells i and i+1 along the first axis; the problem is symmetric in the axes
        faces = _open_lengths(centres + 0.5 / n, edges, radius)  # (n, n)
        total = faces + np.roll(faces, 1, 0) + faces.T + np.roll(faces.T, 1, 1)
        # a cell that the circle all but covers has no equation of its own
        self.mask = (self.volumes > 1e-9 / n**2) & (total > 1e-9 / n)
        self.volumes = np.where(self.mask, self.volumes, 0.0)
        operator = _flux_matrix(faces * n, self.mask)
        # constants are the null space: one value is held at zero, and the mean is removed afterwards
        self._lu = _symmetric_lu(operator[1:][:, 1:])

    def remove_mean(self, values: NumpyArray) -> NumpyArray:
        """Subtract the mean over the domain from fields (..., n, n), and set them to zero outside."""
        values = _on_grid(values, self.n)
        mean = (values * self.volumes).sum(axis=(-2, -1), keepdims=True) / self.volumes.sum()
        return (values - mean) * self.mask

    def solve(self, forcing: NumpyArray) -> NumpyArray:
        """The solutions of mean zero for forcings of shape (..., n, n), whose mean over the domain is removed first.

        Raises `ShapeError` for another grid and `NonFiniteError` for NaN or Inf. O(n^2 log n) a right-hand side.
        """
        return in_chunks(self._solve, self.remove_mean(forcing), 2)

    def solve_adjoint(self, values: NumpyArray) -> NumpyArray:
        """The transpose of `solve` on arrays of shape (..., n, n)."""
        values = _on_grid(values, self.n)

        def solve(chunk: NumpyArray) -> NumpyArray:
            return self._remove_mean_adjoint(self.volumes * self._potential(self._remove_mean_adjoint(chunk)))

        return in_chunks(solve, values, 2)

    def _solve(self, forcing: NumpyArray) -> NumpyArray:
        return self.remove_mean(self._potential(forcing * self.volumes))

    def _remove_mean_adjoint(self, values: NumpyArray) -> NumpyArray:
        values = values * self.mask
        return values - values.sum(axis=(-2, -1), keepdims=True) * (self.volumes / self.volumes.sum())

    def _potential(self, sources: NumpyArray) -> NumpyArray:
        """Fields whose fluxes out of the cells are `sources`, which sum to zero; zero in the first cell."""
        columns = sources[:, self.mask].T  # (unknowns, samples)
        values = np.zeros_like(columns)
        values[1:] = _solve(self._lu, columns[1:])
        return _extend(values.T, self.mask)


def _on_grid(values: NumpyArray, n: int) -> NumpyArray:
    array, points = check_grid_values(values, 2, "forcing")
    if points != n:
        raise ShapeError(f"forcing has {points} points on an axis, but the domain was set up with {n}")
    return array


def _extend(values: NumpyArray, mask: NumpyArray) -> NumpyArray:
    field = np.zeros((len(values), *mask.shape))
    field[:, mask] = values
    return field


def _symmetric_lu(matrix: sparse.csr_array) -> sparse_linalg.SuperLU:
    # positive definite: no pivoting, and an ordering for the symmetric pattern
    options = {"SymmetricMode": True}
    return sparse_linalg.splu(
        sparse.csc_matrix(matrix), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options
    )


def _solve(factors: sparse_linalg.SuperLU, columns: NumpyArray) -> NumpyArray:
    # the dense pieces are so small that threads of BLAS would only wait for each other
    with one_blas_thread():
        return factors.solve(np.ascontiguousarray(columns))


def _flux_matrix(faces: NumpyArray, mask: NumpyArray) -> sparse.csr_array:
    """The sum over the faces of weight * (u_left - u_right) on both sides; periodic; only the cells of the mask."""
    n = len(faces)
    cells = np.arange(n * n).reshape(n, n)
    left = np.concatenate([cells.ravel(), cells.ravel()])
    right = np.concatenate([np.roll(cells, -1, 0).ravel(), np.roll(cells, -1, 1).ravel()])
    weights = np.concatenate([faces.ravel(), faces.T.ravel()])
    rows = np.concatenate([left, right, left, right])
    columns = np.concatenate([left, right, right, left])
    values = np.concatenate([weights, weights, -weights, -weights])
    matrix = sparse.coo_array((values, (rows, columns)), shape=(n * n, n * n)).tocsr()
    unknowns = np.flatnonzero(mask)
    return matrix[unknowns][:, unknowns]


def _open_lengths(lines: NumpyArray, edges: NumpyArray, radius: float) -> NumpyArray:
    """How much of the segment from edges[j] to edges[j+1] on the line x = lines[i] lies outside the disk."""
    half_chord = np.sqrt(np.maximum(radius**2 - lines**2, 0.0))[:, None]
    covered = np.minimum(edges[1:], half_chord) - np.maximum(edges[:-1], -half_chord)
    return np.diff(edges) - np.maximum(covered, 0.0)


def _cell_areas(edges: NumpyArray, radius: float) -> NumpyArray:
    """The area outside the disk of each cell between neighbouring edges."""
    corner = _area_below(edges[:, None], edges[None, :], radius)  # of the part of the disk with x < a and y < b
    covered = corner[1:, 1:] - corner[1:, :-1] - corner[:-1, 1:] + corner[:-1, :-1]
    return np.multiply.outer(np.diff(edges), np.diff(edges)) - covered


def _area_below(a: NumpyArray, b: NumpyArray, radius: float) -> NumpyArray:
    """The area of the part of the disk around 0 with x < a and y < b, in closed form."""

    def half_disk(x: NumpyArray) -> NumpyArray:  # the integral of sqrt(r^2 - x^2) from -r to x
        x = np.clip(x, -radius, radius)
        return 0.5 * (x * np.sqrt(radius**2 - x**2) + radius**2 * np.arcsin(x / radius)) + 0.25 * np.pi * radius**2

    a, b = np.broadcast_arrays(np.clip(a, -radius, radius), np.clip(b, -radius, radius))
    reach = np.sqrt(radius**2 - b**2)  # the line y = b cuts the disk at x = -reach and x = reach
    inside = np.clip(a, -reach, reach)
    below_line = b * (inside + reach)
    upper = half_disk(a) + half_disk(np.minimum(a, -reach)) + half_disk(np.maximum(a, reach)) - half_disk(reach)
    lower = half_disk(inside) - half_disk(-reach)
    return np.where(b >= 0.0, upper, lower) + below_line
