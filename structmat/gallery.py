"""The problems that tests, documentation, demonstration and benchmarks share, each with its exact answers.

`problem_k` and `problem_l` are Toeplitz matrices of kernels on a line, `green_operator_1d` is the inverse of
a two-point boundary value problem, and `interior_laplace` and `circle_double_layer` are integral equations of
the second kind on closed curves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse.linalg as spla

from . import _check
from ._backend import thread_count
from ._typing import IntArray, NumpyArray
from .kernelfunctions import Cauchy, KernelFunction, Laplace, distances
from .tree import ClusterTree

__all__ = [
    "Circle",
    "GreenOperator1D",
    "InteriorLaplace",
    "LineProblem",
    "Star",
    "circle_double_layer",
    "green_operator_1d",
    "interior_laplace",
    "problem_k",
    "problem_l",
]

# bytes of transforms that a product by FFT holds at a time
_CHUNK_BYTES = 1 << 26


# ------------------------------------------------------------------------------- kernels on a line


class _LineKernel:
    """A function of the distance, as a kernel of points on a line; one call serves a batch of blocks."""

    batched = True
    symmetric = True

    def __init__(
        self, function: Callable[[NumpyArray], NumpyArray], name: str, compiled: tuple[int, NumpyArray] | None
    ) -> None:
        self._function, self.__name__, self.compiled = function, name, compiled

    def __call__(self, x: Any, y: Any) -> NumpyArray:
        return self._function(distances(x, y, dim=1))

    def __repr__(self) -> str:
        return self.__name__


@dataclass(frozen=True)
class LineProblem:
    """A symmetric Toeplitz matrix of a kernel at the points (i - 1/2) / n, with a fast product.

    Attributes
    ----------
    name : str
        Of the kernel.
    n : int
        Number of points.
    function : callable
        The kernel as a function of the distance.
    like : KernelFunction, optional
        A kernel function of the library that the kernel is a multiple of, and `factor`: for compiled builds.
    """

    name: str
    n: int
    function: Callable[[NumpyArray], NumpyArray]
    like: KernelFunction | None = None
    factor: float = 1.0

    @cached_property
    def points(self) -> NumpyArray:
        """The points, (n,)."""
        return (np.arange(self.n) + 0.5) / self.n

    @property
    def kernel(self) -> _LineKernel:
        """The kernel, for `from_kernel`."""
        form = None if self.like is None else self.like.compiled
        compiled = None if form is None else (form[0], form[1] * np.array([1.0, 1.0, 1.0, self.factor]))
        return _LineKernel(self.function, self.name, compiled)

    @cached_property
    def column(self) -> NumpyArray:
        """The first column of the matrix, (n,)."""
        return self.function(np.arange(self.n) / self.n)

    def entries(self, i: IntArray, j: IntArray) -> NumpyArray:
        """The block at rows i and columns j, for `from_entries`."""
        return self.column[np.abs(np.asarray(i)[:, None] - np.asarray(j)[None, :])]

    def dense(self) -> NumpyArray:
        """The matrix as an array, (n, n)."""
        return self.entries(np.arange(self.n), np.arange(self.n))

    def operator(self) -> spla.LinearOperator:
        """The matrix as an operator that multiplies in O(n log n), by the FFT of a circulant around it."""
        return _SymmetricToeplitz(self.column)


class _SymmetricToeplitz(spla.LinearOperator):
    """A real symmetric Toeplitz matrix; real transforms, blocks of columns at a time."""

    def __init__(self, column: NumpyArray) -> None:
        self._size = len(column)
        self._length = scipy.fft.next_fast_len(2 * self._size - 1, real=True)
        circulant = np.zeros(self._length)
        circulant[: self._size] = column
        circulant[self._length - self._size + 1 :] = column[:0:-1]
        self._symbol = scipy.fft.rfft(circulant).real  # of an even sequence
        super().__init__(column.dtype, (self._size, self._size))  # type: ignore[call-arg]

    def _matmat(self, x: NumpyArray) -> NumpyArray:
        if np.iscomplexobj(x):
            return self._matmat(x.real) + 1j * self._matmat(x.imag)
        y = np.empty((self._size, x.shape[1]))
        step = max(1, _CHUNK_BYTES // (24 * self._length))
        for k in range(0, x.shape[1], step):
            rows = np.ascontiguousarray(x[:, k : k + step].T)  # each transform in contiguous memory
            spectrum = scipy.fft.rfft(rows, self._length, workers=thread_count())
            spectrum *= self._symbol
            product = scipy.fft.irfft(spectrum, self._length, overwrite_x=True, workers=thread_count())
            y[:, k : k + step] = product[:, : self._size].T
        return y

    def _matvec(self, x: NumpyArray) -> NumpyArray:
        return self._matmat(x.reshape(-1, 1))[:, 0]

    _rmatmat, _rmatvec = _matmat, _matvec

    def _adjoint(self) -> _SymmetricToeplitz:
        return self


def problem_k(n: int) -> LineProblem:
    """``a_ij = 1 / (|x_i - x_j| + 1/n)`` at the points (i - 1/2) / n.

    Examples
    --------
    >>> from structmat import gallery
    >>> problem = gallery.problem_k(4)
    >>> problem.dense()[0]
    array([4.        , 2.        , 1.33333333, 1.        ])
    """
    n = _check.positive_integer(n, "n")
    return LineProblem("problem_k", n, lambda r: 1.0 / (r + 1.0 / n), Cauchy(shift=1.0 / n))


def problem_l(n: int) -> LineProblem:
    """``a_ij = log|x_i - x_j|`` at the points (i - 1/2) / n, and log(1/n) on the diagonal: indefinite.

    Examples
    --------
    >>> from structmat import gallery
    >>> problem = gallery.problem_l(4)
    >>> problem.dense()[0]
    array([-1.38629436, -1.38629436, -0.69314718, -0.28768207])
    """
    n = _check.positive_integer(n, "n")
    # two points are never closer than 1/n, so the maximum changes the diagonal alone (up to rounding)
    like = Laplace(dim=2, diagonal=float(np.log(n)))
    return LineProblem("problem_l", n, lambda r: np.log(np.maximum(r, 1.0 / n)), like, -1.0)


# ------------------------------------------------------------------------------ a Green's operator


@dataclass(frozen=True)
class GreenOperator1D:
    """The Green's function of -u'' = f, u(0) = u(1) = 0, at i / (n + 1): g_ij = x_min (1 - x_max).

    The inverse of the matrix of second differences, divided by the spacing; symmetric, of rank 1 off the
    diagonal.

    Attributes
    ----------
    n : int
        Number of points.
    """

    n: int

    @cached_property
    def points(self) -> NumpyArray:
        """The points, (n,)."""
        return np.arange(1, self.n + 1) / (self.n + 1)

    def entries(self, i: IntArray, j: IntArray) -> NumpyArray:
        """The block at rows i and columns j."""
        x, y = self.points[i][:, None], self.points[j][None, :]
        return np.minimum(x, y) * (1.0 - np.maximum(x, y))

    def dense(self) -> NumpyArray:
        """The matrix as an array, (n, n)."""
        return self.entries(np.arange(self.n), np.arange(self.n))

    def operator(self) -> spla.LinearOperator:
        """The matrix as an operator that multiplies in O(n), by running sums."""
        x = self.points[:, None]

        def product(f: NumpyArray) -> NumpyArray:
            columns = f.reshape(self.n, -1)
            below, above = np.cumsum(x * columns, axis=0), np.zeros_like(columns)
            above[:-1] = np.cumsum(((1.0 - x) * columns)[:0:-1], axis=0)[::-1]
            return ((1.0 - x) * below + x * above).reshape(f.shape)

        return spla.LinearOperator(
            (self.n, self.n),
            matvec=product,
            rmatvec=product,
            matmat=product,
            rmatmat=product,
            dtype=np.float64,
        )


def green_operator_1d(n: int) -> GreenOperator1D:
    """The Green's operator of the second derivative on (0, 1) with zero boundary values.

    Examples
    --------
    >>> from structmat import gallery
    >>> gallery.green_operator_1d(3).dense()
    array([[0.1875, 0.125 , 0.0625],
           [0.125 , 0.25  , 0.125 ],
           [0.0625, 0.125 , 0.1875]])
    """
    return GreenOperator1D(_check.positive_integer(n, "n"))


# ---------------------------------------------------------------- integral equations on closed curves


@dataclass(frozen=True)
class Circle:
    """The circle of a radius around 0 in the complex plane, with its first two derivatives by the angle."""

    radius: float = 1.0

    def derivatives(self, t: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """Return z(t), z'(t) and z''(t)."""
        z = self.radius * np.exp(1j * t)
        return z, 1j * z, -z


@dataclass(frozen=True)
class Star:
    """The smooth star r(t) = 1 + amplitude cos(arms t), in the complex plane.

    Attributes
    ----------
    amplitude : float
        Between 0 and 1.
    arms : int
        Number of arms.
    """

    amplitude: float = 0.3
    arms: int = 5

    def derivatives(self, t: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """Return z(t), z'(t) and z''(t)."""
        r = 1.0 + self.amplitude * np.cos(self.arms * t)
        first = -self.amplitude * self.arms * np.sin(self.arms * t)
        second = -self.amplitude * self.arms**2 * np.cos(self.arms * t)
        turn = np.exp(1j * t)
        return r * turn, (first + 1j * r) * turn, (second + 2j * first - r) * turn


@dataclass(frozen=True)
class InteriorLaplace:
    r"""The interior Dirichlet problem of the Laplace equation, as an integral equation of the second kind.

    The solution is the double-layer potential of a density that solves (-1/2 I + K) density = boundary
    values. The trapezoidal rule in the curve's parameter converges faster than any power of 1/n.

    Attributes
    ----------
    n : int
        Number of nodes.
    curve : Star or Circle
        Closed, smooth, counterclockwise, around 0: anything with `derivatives(t)`.
    source : complex
        The pole of the harmonic function that serves as the exact solution; outside the curve.

    References
    ----------
    R. Kress, Linear Integral Equations, 3rd edition, Springer, 2014, sections 6.4 and 12.2.
    """

    n: int
    curve: Any = Star()
    source: complex = 1.5 + 0.5j

    @cached_property
    def _geometry(self) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        t = 2.0 * np.pi * np.arange(self.n) / self.n
        return self.curve.derivatives(t)

    @property
    def nodes(self) -> NumpyArray:
        """The nodes as complex numbers, (n,)."""
        return self._geometry[0]

    @cached_property
    def points(self) -> NumpyArray:
        """The nodes as points of the plane, (n, 2)."""
        return np.stack([self.nodes.real, self.nodes.imag], axis=1)

    @cached_property
    def speed(self) -> float:
        """The largest absolute value of z'(t)."""
        return float(np.abs(self._geometry[1]).max())

    def tree(self, leaf_size: int = 64) -> ClusterTree:
        """The tree whose clusters are arcs: balanced in the parameter, with places in the plane."""
        depth = ClusterTree.balanced(self.n, leaf_size).depth
        return ClusterTree(self.n, depth, points=self.points)

    def entries(self, i: IntArray, j: IntArray) -> NumpyArray:
        """The block of -1/2 I + K at rows i and columns j.

        With h = 2 pi / n, k_ij = h / (2 pi) Im(z'_j / (z_i - z_j)), and its limit -h / (4 pi) Im(z''_j /
        z'_j) on the diagonal: half of the curvature.
        """
        i, j = np.asarray(i), np.asarray(j)
        z, first, second = self._geometry
        dx = z.real[i][:, None] - z.real[j]
        dy = z.imag[i][:, None] - z.imag[j]
        square = dx * dx
        square += dy * dy
        dx *= first.imag[j]
        dy *= first.real[j]
        dx -= dy
        same = i[:, None] == j
        square[same] = 1.0
        dx /= square
        dx /= self.n
        row, column = np.nonzero(same)
        at = j[column]
        dx[row, column] = -0.5 - (second[at] / first[at]).imag / (2.0 * self.n)
        return dx

    def dense(self) -> NumpyArray:
        """The matrix as an array, (n, n)."""
        return self.entries(np.arange(self.n), np.arange(self.n))

    def harmonic(self, z: NumpyArray) -> NumpyArray:
        """The exact solution at complex points: Re(1 / (z - source) + z^2 / 4)."""
        return np.asarray((1.0 / (z - self.source) + 0.25 * z * z).real)

    @property
    def boundary_values(self) -> NumpyArray:
        """The exact solution at the nodes: the right-hand side, (n,)."""
        return self.harmonic(self.nodes)

    def is_inside(self, z: NumpyArray) -> NumpyArray:
        """Whether complex points lie inside the curve, which must be star-shaped about 0."""
        radius = np.abs(self.curve.derivatives(np.angle(z))[0])
        return np.asarray(np.abs(z) < radius)

    def safe_distance(self, nodes: int | None = None) -> float:
        """The distance to the curve from which on the potential by `nodes` nodes (default: all) is accurate.

        The error of the trapezoidal rule at distance d is ``exp(-nodes d / |z'|)``; here it reaches
        rounding.
        """
        return 36.0 * self.speed / (self.n if nodes is None else nodes)

    def potential(self, density: NumpyArray, z: NumpyArray) -> NumpyArray:
        """The double-layer potential at complex points inside the curve.

        Parameters
        ----------
        density : (n,) array
            Solution of the integral equation.
        z : complex array
            Of any shape.

        Returns
        -------
        array
            Shaped as z; NaN outside the curve, and nearer to it than `safe_distance()`.

        Notes
        -----
        A point far from the curve is served by every 2nd, 4th, .. node: so many that it is at their safe
        distance. Near points need many nodes, but are few: O(n + points log n) work for points on a grid.
        """
        density = _check.vector(density, "density", self.n)
        targets = np.asarray(z, dtype=complex).ravel()
        out = np.full(targets.shape, np.nan)
        distance = np.where(self.is_inside(targets), self._distance(targets), 0.0)
        upper = np.inf
        # never less than 512 nodes: the density itself must be resolved
        strides = [2**k for k in range(self.n.bit_length()) if self.n % 2**k == 0 and self.n >> k >= 512]
        for stride in reversed(strides or [1]):
            lower = self.safe_distance(self.n // stride)
            mine = (distance >= lower) & (distance < upper)
            out[mine] = self._summed(density, targets[mine], stride)
            upper = lower
        return out.reshape(np.shape(z))

    def _distance(self, z: NumpyArray) -> NumpyArray:
        from scipy.spatial import cKDTree

        to_node = cKDTree(self.points).query(np.stack([z.real, z.imag], axis=1))[0]
        # the curve between two nodes may be nearer than the nodes
        return np.asarray(to_node - np.pi * self.speed / self.n)

    def _summed(self, density: NumpyArray, z: NumpyArray, stride: int) -> NumpyArray:
        """The trapezoidal rule with every `stride`-th node."""
        nodes, velocity = (a[::stride] for a in self._geometry[:2])
        weighted = density[::stride] * velocity * stride / self.n  # h / (2 pi) = 1 / n
        out = np.empty(len(z))
        step = max(1, _CHUNK_BYTES // (16 * len(nodes)))
        for k in range(0, len(z), step):
            out[k : k + step] = ((1.0 / (z[k : k + step, None] - nodes)) @ weighted).imag
        return out


def interior_laplace(n: int) -> InteriorLaplace:
    """The interior Dirichlet problem on the star r(t) = 1 + 0.3 cos(5 t), with n nodes.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat import gallery
    >>> problem = gallery.interior_laplace(400)
    >>> density = np.linalg.solve(problem.dense(), problem.boundary_values)
    >>> z = np.array([0.0, 0.4 + 0.3j])
    >>> bool(abs(problem.potential(density, z) - problem.harmonic(z)).max() < 1e-12)
    True
    """
    return InteriorLaplace(_check.positive_integer(n, "n"))


def circle_double_layer(n: int) -> InteriorLaplace:
    """The same equation on the unit circle, where K is constant: the matrix is -(I + 1 1^T / n) / 2.

    Examples
    --------
    >>> from structmat import gallery
    >>> gallery.circle_double_layer(4).dense().round(12)
    array([[-0.625, -0.125, -0.125, -0.125],
           [-0.125, -0.625, -0.125, -0.125],
           [-0.125, -0.125, -0.625, -0.125],
           [-0.125, -0.125, -0.125, -0.625]])
    """
    return InteriorLaplace(_check.positive_integer(n, "n"), Circle())
