"""Fundamental solutions of systems: a small matrix for each pair of points."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .._typing import IntArray, NumpyArray
from ..exceptions import ShapeError
from .base import KernelFunction, distances
from .fundamental import _dimension


class _Kelvin(KernelFunction):
    """The matrices weight g(r) I + d d^T / r^dim with d = x - y; g is -log r in 2-D and 1 / r in 3-D."""

    singular = True
    is_greens_function = True
    weight: ClassVar[Any] = 1.0

    def __init__(self, dim: int, diagonal: float | None) -> None:
        super().__init__(diagonal)
        self.dim: int = _dimension(dim, ("-log r I + d d^T / r^2", "I / r + d d^T / r^3"))
        self.components = self.dim

    @property
    def translation_invariant(self) -> bool:
        """True."""
        return True

    def __call__(self, x: Any, y: Any) -> NumpyArray:
        """The values at all pairs of points, `(..., components m, components q)`.

        Parameters
        ----------
        x, y : (m,) and (q,), or (..., m, d) and (..., q, d) arrays
            Points; leading axes are batches. Coordinates that are left out are zero.
        """
        (x, y), c = self._points(x, y), self.components
        first, second, coincident = self._radial(x, y)
        out = np.empty((*first.shape[:-1], c, first.shape[-1], c))  # (..., m, c, q, c)
        differences = [x[..., :, None, a] - y[..., None, :, a] for a in range(c)]
        for a in range(c):
            share = second * differences[a]
            for b in range(a, c):
                values = share * differences[b]
                if a == b:
                    values += first
                out[..., a, :, b] = out[..., b, :, a] = self._at_zero(values, coincident, 1.0 if a == b else 0.0)
        return out.reshape(*first.shape[:-2], c * first.shape[-2], c * first.shape[-1])

    def entries(self, x: Any, y: Any, a: IntArray, b: IntArray) -> NumpyArray:
        """The values of component a (..., m) at x against component b (..., q) at y, `(..., m, q)`.

        One component for each point: as many evaluations as numbers.
        """
        x, y = self._points(x, y)
        rows, cols = np.asarray(a), np.asarray(b)
        first, second, coincident = self._radial(x, y)
        same = rows[..., :, None] == cols[..., None, :]
        by_row = _single(x, rows) - _coordinates(y, rows)
        by_col = (_coordinates(x, cols) - _single(y, cols)).swapaxes(-1, -2)
        second *= by_row
        second *= by_col
        second += np.where(same, first, 0.0)
        return self._at_zero(second, coincident, same)

    def variances(self, x: Any) -> NumpyArray:
        """Not for vector-valued kernels."""
        raise TypeError(f"{self!r} has {self.components} x {self.components} values at a point, and no variance")

    def _points(self, x: Any, y: Any) -> tuple[NumpyArray, NumpyArray]:
        """Both sets with all coordinates."""
        return tuple(_with_coordinates(points, self.dim, name) for points, name in ((x, "x"), (y, "y")))  # type: ignore[return-value]

    def _radial(self, x: NumpyArray, y: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray | None]:
        """Weight g(r) and r^-dim (..., m, q), and where points coincide, if they do."""
        r = distances(x, y, dim=self.dim)
        coincident = r == 0.0
        found = bool(coincident.any())
        if found:
            r[coincident] = 1.0  # the values are replaced in the end
        inverse = 1.0 / r
        first = inverse if self.dim == 3 else -np.log(r)
        return self.weight * first, inverse**self.dim, coincident if found else None

    def _at_zero(self, values: NumpyArray, coincident: NumpyArray | None, same: Any) -> NumpyArray:
        """`values` with a multiple of the identity where points coincide."""
        if coincident is not None:
            fill = (self.diagonal or 0.0) * np.broadcast_to(same, values.shape)
            values[coincident] = fill[coincident]
        return values


class Stokes(_Kelvin):
    """The Stokeslet, the velocity of a point force in a viscous fluid, without its constant.

    With d = x - y and r = norm(d): I / r + d d^T / r^3 in 3-D, and -log r I + d d^T / r^2 in 2-D. Its columns are free
    of divergence.

    Parameters
    ----------
    dim : {2, 3}
        Of the equation, and the number of components: kernel(x, y) is `(dim m, dim q)`, and component c of point i has
        the index `dim i + c`.
    diagonal : float, optional
        At distance zero the values are this multiple of the identity; default 0.

    References
    ----------
    C. Pozrikidis, Boundary Integral and Singularity Methods for Linearized Viscous Flow, Cambridge University Press,
    1992, sections 2.2 and 2.6.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.kernelfunctions import Stokes
    >>> Stokes(dim=2)(np.array([[1.0, 0.0]]), np.zeros((1, 2)))
    array([[1., 0.],
           [0., 0.]])
    """

    def __init__(self, dim: int = 3, diagonal: float | None = None) -> None:
        super().__init__(dim, diagonal)


class Elastostatics(_Kelvin):
    """Kelvin's solution, the displacement of a point force in an elastic solid, without its constant.

    With d = x - y, r = norm(d) and Poisson's ratio nu: (3 - 4 nu) I / r + d d^T / r^3 in 3-D, and
    -(3 - 4 nu) log r I + d d^T / r^2 in plane strain. At nu = 1/2 it is the Stokeslet.

    Parameters
    ----------
    poisson_ratio : float
        Above -1 and at most 1/2.
    dim : {2, 3}
        Of the equation, and the number of components: kernel(x, y) is `(dim m, dim q)`, and component c of point i has
        the index `dim i + c`.
    diagonal : float, optional
        At distance zero the values are this multiple of the identity; default 0.

    References
    ----------
    C. A. Brebbia, J. C. F. Telles, L. C. Wrobel, Boundary Element Techniques, Springer, 1984, section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.kernelfunctions import Elastostatics
    >>> Elastostatics(poisson_ratio=0.25, dim=3)(np.array([[0.5, 0.0, 0.0]]), np.zeros((1, 3)))
    array([[6., 0., 0.],
           [0., 4., 0.],
           [0., 0., 4.]])
    """

    def __init__(self, poisson_ratio: float = 0.25, dim: int = 3, diagonal: float | None = None) -> None:
        super().__init__(dim, diagonal)
        self.poisson_ratio = float(poisson_ratio)
        if not -1.0 < self.poisson_ratio <= 0.5:
            raise ValueError(f"poisson_ratio must be above -1 and at most 0.5, but it is {poisson_ratio!r}")

    @property
    def weight(self) -> float:
        """3 - 4 nu."""
        return 3.0 - 4.0 * self.poisson_ratio


def _single(points: NumpyArray, components: IntArray) -> NumpyArray:
    """One coordinate of each point, (..., m, 1)."""
    return np.take_along_axis(points, components[..., None], -1)


def _coordinates(points: NumpyArray, components: IntArray) -> NumpyArray:
    """Coordinates components (..., q) of points (..., m, d), (..., q, m): whole rows are copied."""
    by_rows = np.ascontiguousarray(points.swapaxes(-1, -2)).reshape(-1, points.shape[-1], points.shape[-2])
    found = by_rows[np.arange(len(by_rows))[:, None], components.reshape(len(by_rows), -1)]
    return found.reshape(*components.shape, points.shape[-2])


def _with_coordinates(points: Any, dim: int, name: str) -> NumpyArray:
    given = np.asarray(points, dtype=np.float64)
    given = given[:, None] if given.ndim == 1 else given
    if given.ndim < 2 or given.shape[-1] > dim:
        raise ShapeError(f"{name} must be (m,) or (..., m, d) with d at most {dim}, but its shape is {given.shape}")
    missing = dim - given.shape[-1]
    return np.concatenate([given, np.zeros((*given.shape[:-1], missing))], axis=-1) if missing else given
