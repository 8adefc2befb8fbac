"""Functions of the user as kernels: of the distance, or of two points; compiled into the builds where Numba can."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from .. import _check
from .._typing import NumpyArray
from ..exceptions import PerformanceWarning, ShapeError, SymmetryError
from .base import KernelFunction, distances

# pairs of random points at which a declared symmetry is looked at
PAIRS = 16


class _Custom(KernelFunction):
    """A kernel of a function that was handed in; `_row` is its compiled form, None where there is none."""

    _row: Any
    function: Callable[..., Any]

    def _compile(self, make: Callable[..., Any], *arguments: Any) -> None:
        """Set `_row`; a plain function that Numba does not take is left to Python, and that is said."""
        from numba.core.errors import NumbaError

        if not callable(self.function):
            raise TypeError(f"function must be callable, but it is a {type(self.function).__name__}")
        plain = getattr(self.function, "py_func", self.function)  # what a jitted function was made of
        _require_arguments(plain, self._arguments, self._expected)
        reason = f"Numba cannot compile {_name(plain)}"
        try:
            if not isinstance(plain, FunctionType):
                raise NumbaError(f"it is a {type(plain).__name__} and no Python function")
            self._row = make(plain, *arguments)
        except NumbaError as error:
            reason = f"{reason}: {str(error).strip().splitlines()[0]}"
            if plain is not self.function:
                raise TypeError(f"{reason}; {self._expected}") from error
            warnings.warn(
                f"{reason}. It is called from Python instead, and builds take many times longer", PerformanceWarning,
                stacklevel=3,
            )  # fmt: skip
            self._row = None

    _arguments = 0  # of the function
    _expected = ""

    def _address(self) -> float:
        address = int(self._row.address)
        if int(float(address)) != address:  # beyond 2^53: no system gives programs such addresses today
            raise OverflowError(f"the address {address:#x} of {self!r} is not a float64 number")
        return float(address)

    def __repr__(self) -> str:
        given = {k: v for k, v in self.parameters().items() if k != "function" and v not in (None, False)}
        return f"{type(self).__name__}({', '.join([_name(self.function), *(f'{k}={v!r}' for k, v in given.items())])})"

    def __reduce__(self) -> Any:
        return partial(type(self), **self.parameters()), ()


class Radial(_Custom):
    """A function f(r) of the distance as a kernel, compiled into the builds.

    Parameters
    ----------
    function : callable
        Of one number: plain Python that Numba can compile, or jitted. It is compiled (again) with the options of the
        library's kernels: sums may be reordered, and 1 / 0 is infinite instead of an exception. Where Numba cannot
        compile a plain function, it is called with arrays of distances, and a `PerformanceWarning` says so.
    dim : int, optional
        The most coordinates that points may have. Default: any number.
    diagonal : float, optional
        The value at distance zero. Default: f(0), or 0 where that is not finite.
    is_greens_function : bool
        Declare that the kernel solves a homogeneous elliptic equation of second order away from distance zero, in
        `dim` dimensions.

    Raises
    ------
    TypeError
        For a function that does not return a real number, or that is jitted and does not take one.

    Notes
    -----
    Compiling takes a fraction of a second for each function. The compiled kernels of the builds themselves are not
    compiled again. Arithmetic and square roots are vectorised; exp, log and others are called number by number.

    Examples
    --------
    >>> import structmat as sm
    >>> kernel = sm.kernelfunctions.Radial(lambda r: 1 / (1 + r**4))
    >>> kernel([0.0], [0.0, 1.0, 2.0])
    array([[1.        , 0.5       , 0.05882353]])
    """

    _arguments, _expected = 1, "it must take one number, the distance"

    def __init__(
        self, function: Callable[..., Any], *, dim: int | None = None, diagonal: float | None = None,
        is_greens_function: bool = False,
    ) -> None:  # fmt: skip
        from ..engine import cpu_callback

        super().__init__(diagonal)
        self.function = function
        self.dim = None if dim is None else _check.positive_integer(dim, "dim")
        self.is_greens_function = bool(is_greens_function)
        self._compile(cpu_callback.radial_row)
        with np.errstate(all="ignore"):
            self._of_distance(np.array([0.5, 1.0, 2.0]))  # complains where arrays are not taken
            self.singular = not np.isfinite(self._of_distance(np.zeros(1))).all()

    def _compiled_form(self) -> tuple[int, float] | None:
        from ..engine import cpu_kernels

        return None if self._row is None else (cpu_kernels.RADIAL, self._address())

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        if self._row is None:
            return _real(self.function, r.shape, r)
        from ..engine import cpu_callback

        values = np.ascontiguousarray(r).reshape(-1)
        cpu_callback.radial_values(self._row.address, values)
        return values.reshape(r.shape)


class Pointwise(_Custom):
    """A function f(x, y) of two points as a kernel, compiled into the builds; it need not be symmetric.

    Parameters
    ----------
    function : callable
        Of two arrays of coordinates (dim,), returning a number; plain Python that Numba can compile, or jitted. It is
        compiled (again) as for `Radial`. Where Numba cannot compile a plain function, it is called from Python for one
        pair after another, and a `PerformanceWarning` says so.
    dim : int
        The number of coordinates of the points.
    symmetric : bool
        Declare that f(x, y) = f(y, x); looked at for some random points.
    diagonal : float, optional
        The value where the points coincide. Default: that of the function, which must then be finite.
    translation_invariant : bool
        Declare that f is a function of x - y.
    is_greens_function : bool
        Declare that f solves a homogeneous elliptic equation of second order away from x = y.

    Raises
    ------
    TypeError
        For a function that does not return a real number, or that is jitted and does not take two arrays.
    SymmetryError
        Where `symmetric` is declared and does not hold.

    Examples
    --------
    A kernel that carries waves faster along one axis, weighted by where it is looked at from:

    >>> import numpy as np, structmat as sm
    >>> def kernel(x, y):
    ...     return (1 + x[0]) / np.sqrt(0.01 + (x[0] - y[0]) ** 2 + 4 * (x[1] - y[1]) ** 2)
    >>> points = np.random.default_rng(0).random((500, 2))
    >>> A = sm.HMatrix.from_kernel(sm.kernelfunctions.Pointwise(kernel, dim=2), points, rtol=1e-6)
    >>> A.certificate.met
    True
    """

    _arguments, _expected = 2, "it must take two arrays of coordinates"

    def __init__(
        self, function: Callable[..., Any], *, dim: int, symmetric: bool = False, diagonal: float | None = None,
        translation_invariant: bool = False, is_greens_function: bool = False,
    ) -> None:  # fmt: skip
        from ..engine import cpu_callback

        super().__init__(diagonal)
        self.function = function
        self.dim: int = _check.positive_integer(dim, "dim")
        self.symmetric, self.is_greens_function = bool(symmetric), bool(is_greens_function)
        self._invariant = bool(translation_invariant)
        self._compile(cpu_callback.pointwise_row, self.dim)
        self._require_symmetry()

    @property
    def translation_invariant(self) -> bool:
        """As declared."""
        return self._invariant

    def __call__(self, x: Any, y: Any) -> NumpyArray:
        """The values at all pairs of points, `(..., m, q)`.

        Parameters
        ----------
        x, y : (..., m, dim) and (..., q, dim) arrays; for dim = 1 also (m,) and (q,)
            Points; leading axes are batches.
        """
        x, y = (np.asarray(points, dtype=np.float64) for points in (x, y))
        x, y = (points[:, None] if points.ndim == 1 and self.dim == 1 else points for points in (x, y))
        if min(x.ndim, y.ndim) < 2 or x.shape[-1] != self.dim or y.shape[-1] != self.dim:
            raise ShapeError(
                f"this kernel takes points with {self.dim} coordinates, (..., m, {self.dim}) and (..., q, {self.dim}), "
                f"but the shapes are {x.shape} and {y.shape}"
            )
        lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x, y = (np.broadcast_to(p, (*lead, *p.shape[-2:])).reshape(-1, *p.shape[-2:]) for p in (x, y))
        values = self._of_points(x, y)
        if self.diagonal is not None:
            values[distances(x, y) == 0.0] = self.diagonal
        return values.reshape(*lead, x.shape[1], y.shape[1])

    def _of_points(self, x: NumpyArray, y: NumpyArray) -> NumpyArray:
        """The values (nb, m, q) for x (nb, m, dim) and y (nb, q, dim)."""
        shape = (len(x), x.shape[1], y.shape[1])
        if self._row is None:
            pairs = ((p, q) for one, other in zip(x, y, strict=True) for p in one for q in other)
            return np.array([_real(self.function, (), p, q) for p, q in pairs], dtype=np.float64).reshape(shape)
        from ..engine import cpu_callback

        out = np.empty(shape)
        by_rows = (np.ascontiguousarray(points.swapaxes(1, 2)) for points in (x, y))
        cpu_callback.pointwise_values(self._row.address, *by_rows, out)
        return out

    @property
    def compiled(self) -> tuple[int, NumpyArray] | None:
        """Code and parameters of the compiled form; None where Numba could not compile the function."""
        from ..engine import cpu_kernels

        if self._row is None:
            return None
        replaced = self.diagonal is not None
        parameters = [self._address(), self.diagonal if replaced else 0.0, float(replaced), 1.0]
        return cpu_kernels.POINTWISE, np.array(parameters)

    def _require_symmetry(self) -> None:
        """Look at random pairs of points; those outside the domain of the function do not count."""
        x, y = np.random.default_rng(0).random((2, PAIRS, 1, self.dim))
        values, turned = self._of_points(x, y), self._of_points(y, x)  # complains where arrays are not taken
        gap = np.abs(values - turned)
        if self.symmetric and (gap > 1e-10 * np.abs(values)).any():  # NaN compares as false
            raise SymmetryError(
                f"{self!r} is declared symmetric, but f(x, y) and f(y, x) differ by {np.nanmax(gap):.2g} at random "
                "points of the unit cube; leave symmetric out"
            )


def _require_arguments(function: Callable[..., Any], count: int, expected: str) -> None:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        raise TypeError(f"{_name(function)} does not fit: {error}; {expected}") from error
    except ValueError:  # some functions that are not written in Python have no signature: the first call will tell
        return


def _real(function: Callable[..., Any], shape: tuple[int, ...], *arguments: NumpyArray) -> NumpyArray:
    """The real values of a plain Python function, an array of the given shape."""
    try:
        values = np.asarray(function(*arguments))
    except Exception as error:
        taken = "an array of distances" if len(arguments) == 1 else "two arrays of coordinates"
        raise TypeError(
            f"{_name(function)} can be neither compiled by Numba nor called with {taken}: {error}"
        ) from error
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{_name(function)} must return real numbers, but it returned {values.dtype}")
    if values.shape != shape:
        raise ShapeError(f"{_name(function)} must return an array of shape {shape}, but its shape is {values.shape}")
    return np.array(values, dtype=np.float64)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
