"""Kernel functions: the usual ones as values, evaluated on one block or on a batch of blocks at once.

A kernel is called as `kernel(x, y)` with points x `(..., m, d)` and y `(..., q, d)`, or `(m,)` and `(q,)` in
one dimension, and returns `(..., m, q)`. Distances come from differences of coordinates: the expansion
|x|^2 - 2 x.y + |y|^2 would be faster, and wrong where points are close, which is where kernels vary most.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ._typing import NumpyArray
from .exceptions import ShapeError

__all__ = [
    "Cauchy",
    "Exponential",
    "Gaussian",
    "InverseMultiquadric",
    "KernelFunction",
    "Laplace",
    "Matern",
    "Multiquadric",
    "from_name",
    "names",
]


class KernelFunction:
    """A function of two points, as the source of a matrix.

    A new kernel gives `_of_distance(r)`, or, where it is no function of the distance, its own `__call__`.

    Parameters
    ----------
    diagonal : float, optional
        The value at distance zero. Default: the kernel's own value there, or 0 where it is singular.

    Attributes
    ----------
    dim : int or None
        The dimension of the space that the kernel belongs to, None for any. Points with fewer coordinates lie
        on a line or a plane in it.
    symmetric : bool
        Whether kernel(x, y) is the conjugate of kernel(y, x): then `symmetric=True` may be asked of a format.
    dtype : numpy.dtype
        Type of the values.
    singular : bool
        Whether the kernel is infinite at distance zero; the value there is then a convention.
    batched : bool
        Always true: leading axes are batches, and builds then make one call for many blocks.
    """

    dim: int | None = None
    symmetric: bool = True
    dtype: np.dtype[Any] = np.dtype(np.float64)
    singular: ClassVar[bool] = False
    batched: ClassVar[bool] = True

    def __init__(self, diagonal: float | None = None) -> None:
        self.diagonal = None if diagonal is None else _finite(diagonal, "diagonal")

    def __call__(self, x: Any, y: Any) -> NumpyArray:
        """The values at all pairs of points, `(..., m, q)`.

        Parameters
        ----------
        x, y : (m,) and (q,), or (..., m, d) and (..., q, d) arrays
            Points; leading axes are batches.
        """
        r = distances(x, y, dim=self.dim)
        coincident = r == 0.0 if self.singular or self.diagonal is not None else None
        if coincident is not None and not coincident.any():
            coincident = None
        if coincident is not None:
            r[coincident] = 1.0  # any distance at which the kernel is finite: the value is replaced below
        values = self._of_distance(r)
        if coincident is not None:
            values[coincident] = 0.0 if self.diagonal is None else self.diagonal
        return values

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        """The values at distances r > 0 (r >= 0 unless singular); `r` may be overwritten."""
        raise NotImplementedError(f"{type(self).__name__} must define _of_distance or __call__")

    def parameters(self) -> dict[str, Any]:
        """The arguments that make this kernel again."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        given = {name: value for name, value in self.parameters().items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, KernelFunction):
            return NotImplemented
        return self.parameters() == other.parameters()

    def __hash__(self) -> int:
        return hash((type(self).__name__, tuple(self.parameters().items())))


def distances(x: Any, y: Any, *, dim: int | None = None) -> NumpyArray:
    """Euclidean distances of all pairs of points, `(..., m, q)`: accurate also for close points.

    Parameters
    ----------
    x, y : (m,) and (q,), or (..., m, d) and (..., q, d) arrays
        Points.
    dim : int, optional
        The most coordinates that they may have.

    Examples
    --------
    >>> from structmat.kernelfunctions import distances
    >>> distances([0.0, 3.0], [1.0])
    array([[1.],
           [2.]])
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if (x.ndim == 1) != (y.ndim == 1) or 0 in (x.ndim, y.ndim) or (x.ndim > 1 and x.shape[-1] != y.shape[-1]):
        raise ShapeError(f"x and y must be (m,) and (q,), or (..., m, d) and (..., q, d), not {x.shape} and {y.shape}")
    if x.ndim == 1:
        x, y = x[:, None], y[:, None]
    found = x.shape[-1]
    if dim is not None and found > dim:
        raise ShapeError(f"this kernel belongs to {dim} dimensions, but the points have {found} coordinates {x.shape}")
    first = x[..., :, None, 0] - y[..., None, :, 0]
    if found == 1:
        return np.abs(first, out=first)  # no square: it would lose half of the range, and time
    np.square(first, out=first)
    for axis in range(1, found):
        difference = x[..., :, None, axis] - y[..., None, :, axis]
        first += np.square(difference, out=difference)
    return np.sqrt(first, out=first)


def _finite(value: Any, name: str) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{name} must be finite, but it is {value!r}")
    return number


def _positive(value: Any, name: str) -> float:
    number = float(value)
    if not 0.0 < number < np.inf:
        raise ValueError(f"{name} must be a finite number > 0, but it is {value!r}")
    return number


class Laplace(KernelFunction):
    """The fundamental solution of the Laplace equation, without its constant: -log r in 2-D, 1 / r in 3-D.

    Parameters
    ----------
    dim : {2, 3}
        Of the equation.
    diagonal : float, optional
        The value at distance zero; default 0.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.kernelfunctions import Laplace
    >>> Laplace(dim=3)(np.array([[0.0, 0.0, 0.0]]), np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    array([[0.2, 0. ]])
    """

    singular = True

    def __init__(self, dim: int = 2, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        if dim not in (2, 3):
            raise ValueError(f"dim must be 2 (-log r) or 3 (1 / r), but it is {dim!r}")
        self.dim = int(dim)

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        if self.dim == 3:
            return np.divide(1.0, r, out=r)
        return np.negative(np.log(r, out=r), out=r)


class _Scaled(KernelFunction):
    """A kernel of r / length."""

    def __init__(self, length: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        self.length = _positive(length, "length")


class Gaussian(_Scaled):
    """The Gaussian exp(-(r / length)^2 / 2).

    Parameters
    ----------
    length : float
        Correlation length.
    diagonal : float, optional
        The value at distance zero; default 1.

    Examples
    --------
    >>> from structmat.kernelfunctions import Gaussian
    >>> Gaussian(length=0.5)([0.0], [0.0, 0.5])
    array([[1.        , 0.60653066]])
    """

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        r /= self.length
        np.square(r, out=r)
        r *= -0.5
        return np.exp(r, out=r)


class Exponential(_Scaled):
    """The exponential exp(-r / length): Matern with nu = 1/2.

    Parameters
    ----------
    length : float
        Correlation length.
    diagonal : float, optional
        The value at distance zero; default 1.
    """

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        r /= -self.length
        return np.exp(r, out=r)


class Matern(KernelFunction):
    """The Matern covariance of variance 1.

    With s = sqrt(2 nu) r / length it is exp(-s) for nu = 1/2, (1 + s) exp(-s) for nu = 3/2, and
    (1 + s + s^2 / 3) exp(-s) for nu = 5/2.

    Parameters
    ----------
    nu : {0.5, 1.5, 2.5}
        Smoothness: the paths are nu - 1/2 times differentiable.
    length : float
        Correlation length.
    diagonal : float, optional
        The value at distance zero; default 1.

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press, 2006, section 4.2.

    Examples
    --------
    >>> from structmat.kernelfunctions import Matern
    >>> Matern(nu=1.5, length=0.5)([0.0], [0.0, 0.5])
    array([[1.        , 0.48335772]])
    """

    def __init__(self, nu: float = 1.5, length: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        self.nu, self.length = float(nu), _positive(length, "length")
        if self.nu not in (0.5, 1.5, 2.5):
            raise ValueError(f"nu must be 0.5, 1.5 or 2.5, but it is {nu!r}")

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        r *= np.sqrt(2.0 * self.nu) / self.length
        decay = np.exp(-r)
        if self.nu == 1.5:
            decay *= 1.0 + r
        elif self.nu == 2.5:
            decay *= 1.0 + r * (1.0 + r / 3.0)
        return decay


class _Shaped(KernelFunction):
    """A kernel of the shape parameter times r."""

    def __init__(self, shape: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        self.shape = _positive(shape, "shape")

    def _root(self, r: NumpyArray) -> NumpyArray:
        r *= self.shape
        return np.hypot(1.0, r, out=r)


class Multiquadric(_Shaped):
    """Hardy's multiquadric sqrt(1 + (shape r)^2).

    Parameters
    ----------
    shape : float
        Inverse of the length at which the kernel bends.
    diagonal : float, optional
        The value at distance zero; default 1.
    """

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        return self._root(r)


class InverseMultiquadric(_Shaped):
    """The inverse multiquadric 1 / sqrt(1 + (shape r)^2): positive definite.

    Parameters
    ----------
    shape : float
        Inverse of the length at which the kernel bends.
    diagonal : float, optional
        The value at distance zero; default 1.
    """

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        return np.divide(1.0, self._root(r), out=r)


class Cauchy(KernelFunction):
    """The regularised Cauchy kernel 1 / (r + shift).

    Parameters
    ----------
    shift : float
        Positive; the value at distance zero is 1 / shift.
    diagonal : float, optional
        Another value at distance zero.
    """

    def __init__(self, shift: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        self.shift = _positive(shift, "shift")

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        r += self.shift
        return np.divide(1.0, r, out=r)


_BY_NAME: dict[str, Callable[..., KernelFunction]] = {
    "cauchy": Cauchy,
    "exponential": Exponential,
    "gaussian": Gaussian,
    "inverse-multiquadric": InverseMultiquadric,
    "laplace": Laplace,
    "matern": Matern,
    "multiquadric": Multiquadric,
}


def names() -> tuple[str, ...]:
    """The names that `from_name` knows, in alphabetical order."""
    return tuple(sorted(_BY_NAME))


def from_name(name: str, **parameters: Any) -> KernelFunction:
    """A kernel by its name, for command lines and configuration files.

    Parameters
    ----------
    name : str
        One of `names()`; capitals, underscores and hyphens do not matter.
    **parameters
        The arguments of that kernel.

    Raises
    ------
    ValueError
        For a name or a parameter that does not exist; the message lists those that do.

    Examples
    --------
    >>> from structmat.kernelfunctions import from_name
    >>> from_name("matern", nu=2.5, length=0.1)
    Matern(nu=2.5, length=0.1)
    """
    plain = {_plain(known): make for known, make in _BY_NAME.items()}
    make = plain.get(_plain(name))
    if make is None:
        raise ValueError(f"there is no kernel named {name!r}; there are {', '.join(names())}")
    known = tuple(inspect.signature(make).parameters)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"the kernel {name!r} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    return make(**parameters)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
