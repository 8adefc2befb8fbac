"""What all kernel functions share: evaluation at pairs of points, hyperparameters, derivatives."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .._backend import cast, is_foreign_array, is_numpy, namespace
from .._typing import Array, IntArray, NumpyArray
from ..exceptions import ShapeError


class KernelFunction:
    """A function of two points, as the source of a matrix.

    A new kernel gives `_of_distance(r)`, or, where it is no function of the distance, its own `__call__`. To be fitted
    to data it also names its positive `_hyperparameters` and gives `_derivative_of_distance(name, r)`.

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
        Whether kernel(x, y) is the adjoint of kernel(y, x) (Hermitian): then `symmetric=True` may be asked of a format.
    complex_symmetric : bool
        Whether kernel(x, y) is the transpose of kernel(y, x), without conjugation. For real kernels the same as
        `symmetric`; Helmholtz is complex symmetric and not Hermitian.
    dtype : numpy.dtype
        Type of the values.
    components : int
        1 for scalar kernels. Where it is c, the kernel has c x c values for each pair of points, kernel(x, y) is
        `(..., c m, c q)`, and component k of point i has the index `c i + k`.
    is_greens_function : bool
        Whether the kernel solves a homogeneous elliptic equation of second order away from distance zero. What lies
        outside a closed surface is then seen from the surface.
    translation_invariant : bool
        Whether the kernel is a function of x - y.
    singular : bool
        Whether the kernel is infinite at distance zero; the value there is then a convention.
    batched : bool
        Always true: leading axes are batches, and builds then make one call for many blocks.
    """

    dim: int | None = None
    symmetric: bool = True
    dtype: np.dtype[Any] = np.dtype(np.float64)
    components: int = 1
    is_greens_function: bool = False
    singular: bool = False
    batched: ClassVar[bool] = True
    _hyperparameters: ClassVar[tuple[str, ...]] = ()  # arguments of the constructor: positive, fitted to data

    def __init__(self, diagonal: float | None = None) -> None:
        self.diagonal: Any = None if diagonal is None else _finite(diagonal, "diagonal")

    def __call__(self, x: Any, y: Any) -> Array:
        """The values at all pairs of points, `(..., m, q)`.

        Parameters
        ----------
        x, y : (m,) and (q,), or (..., m, d) and (..., q, d) arrays
            Points; leading axes are batches. Arrays of CuPy or torch are evaluated where they are.
        """
        r = distances(x, y, dim=self.dim)
        if not is_numpy(r):
            return self._elsewhere(r)
        coincident = r == 0.0 if self.singular or self.diagonal is not None else None
        if coincident is not None and not coincident.any():
            coincident = None
        if coincident is not None:
            r[coincident] = 1.0  # any distance at which the kernel is finite: the value is replaced below
        values = self._of_distance(r)
        if coincident is not None:
            values[coincident] = 0.0 if self.diagonal is None else self.diagonal
        return values

    def _elsewhere(self, r: Array) -> Array:
        """The values at distances of another array library."""
        if not (self.singular or self.diagonal is not None):
            return self._of_distance(r)
        xp = namespace(r)
        coincident = r == 0.0
        values = self._of_distance(xp.where(coincident, xp.ones_like(r), r))
        replaced = 0.0 if self.diagonal is None else self.diagonal
        return xp.where(coincident, xp.full_like(values, replaced), values)

    def entries(self, x: Any, y: Any, a: IntArray, b: IntArray) -> NumpyArray:
        """The values of component a (..., m) at points x against component b (..., q) at y, `(..., m, q)`.

        For vector-valued kernels; of a scalar one all components are 0, and these are the values themselves.
        """
        return self(x, y)

    @property
    def complex_symmetric(self) -> bool:
        """Whether kernel(x, y) is the transpose of kernel(y, x)."""
        return self.symmetric and self.dtype.kind != "c"

    @property
    def translation_invariant(self) -> bool:
        """Whether the kernel is a function of x - y: so it is where it is one of the distance."""
        return type(self).__call__ is KernelFunction.__call__

    def _of_distance(self, r: Array) -> Array:
        """The values at distances r > 0 (r >= 0 unless singular); `r` may be overwritten.

        With functions of its own array library (`_backend.mapped`) a kernel runs on devices too.
        """
        raise NotImplementedError(f"{type(self).__name__} must define _of_distance or __call__")

    @property
    def compiled(self) -> tuple[int, NumpyArray] | None:
        """Code and parameters of the compiled form, see `engine.cpu_kernels.kernel_row`.

        None where there is none; builds then call the kernel itself.
        """
        owners = [next(c for c in type(self).__mro__ if name in vars(c)) for name in ("_compiled_form", "_of_distance")]
        form = self._compiled_form()
        # a class that defines its values anew has no compiled form until it gives one
        if form is None or owners[0] is not owners[1] or type(self).__call__ is not KernelFunction.__call__:
            return None
        code, scale = form
        replaced = self.singular or self.diagonal is not None
        return code, np.array([scale, 0.0 if self.diagonal is None else self.diagonal, float(replaced), 1.0])

    def _compiled_form(self) -> tuple[int, float] | None:
        """The code in `engine.cpu_kernels` and the scale."""
        return None

    # -------------------------------------------------------------------------- hyperparameters

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The positive numbers that can be fitted to data, by name; their logarithms are `theta`."""
        return {name: float(getattr(self, name)) for name in self._hyperparameters}

    @property
    def theta(self) -> NumpyArray:
        """The logarithms of the hyperparameters, (p,)."""
        return np.log(np.array(list(self.hyperparameters.values()), dtype=np.float64))

    def with_theta(self, theta: Sequence[float] | NumpyArray) -> KernelFunction:
        """The same kernel with other hyperparameters, given by their logarithms (p,)."""
        logarithms = np.asarray(theta, dtype=np.float64)
        names = tuple(self.hyperparameters)
        if logarithms.shape != (len(names),):
            raise ShapeError(
                f"theta must have shape ({len(names)},), one logarithm each of {', '.join(names) or 'nothing'}, "
                f"but its shape is {logarithms.shape}"
            )
        return self._with_values([float(value) for value in np.exp(logarithms)])

    def _with_values(self, values: list[float]) -> KernelFunction:
        changed = dict(zip(self.hyperparameters, values, strict=True))
        return type(self)(**{**self.parameters(), **changed})

    def derivative(self, name: str) -> KernelFunction:
        """The derivative with respect to the logarithm of a hyperparameter, d k(x, y) / d log p: a kernel again.

        Parameters
        ----------
        name : str
            One of `hyperparameters`.

        Examples
        --------
        >>> from structmat.kernelfunctions import Gaussian
        >>> Gaussian(length=0.5).derivative("length")([0.0], [0.0, 0.5])
        array([[0.        , 0.60653066]])
        """
        if name not in self.hyperparameters:
            known = ", ".join(self.hyperparameters) or "none"
            raise ValueError(f"{self!r} has no hyperparameter {name!r}; it has {known}")
        return self._derivative(name)

    def _derivative(self, name: str) -> KernelFunction:
        return Derivative(self, name)

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        """The derivative in log(hyperparameter) at distances r >= 0; `r` may be overwritten."""
        raise NotImplementedError(f"{type(self).__name__} must define _derivative_of_distance to be fitted to data")

    def variances(self, x: Any) -> NumpyArray:
        """The values k(x, x) at single points x (m,) or (m, d): (m,)."""
        points = np.asarray(x, dtype=np.float64)
        single = points.reshape(len(points), 1, -1)
        values: NumpyArray = self(single, single)[:, 0, 0]
        return values

    # ---------------------------------------------------------------------------------- algebra

    def __add__(self, other: object) -> KernelFunction:
        from .algebra import Sum

        return Sum(self, other) if isinstance(other, KernelFunction) else NotImplemented

    def __mul__(self, other: object) -> KernelFunction:
        from .algebra import Product, Scaled

        if isinstance(other, KernelFunction):
            return Product(self, other)
        is_number = isinstance(other, int | float | np.integer | np.floating)
        return Scaled(float(other), self) if is_number else NotImplemented  # type: ignore[arg-type]

    __rmul__ = __mul__

    # ------------------------------------------------------------------------------- for people

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


class Derivative(KernelFunction):
    """The derivative of a kernel with respect to the logarithm of one of its hyperparameters.

    Made by `KernelFunction.derivative`; symmetric, and in general indefinite.

    Parameters
    ----------
    kernel : KernelFunction
        What to differentiate.
    name : str
        The hyperparameter.
    """

    def __init__(self, kernel: KernelFunction, name: str) -> None:
        # a value set by hand at distance zero does not move with the hyperparameters
        super().__init__(None if kernel.diagonal is None else 0.0)
        self.kernel, self.name = kernel, name
        self.dim, self.symmetric, self.dtype = kernel.dim, kernel.symmetric, kernel.dtype

    def _of_distance(self, r: NumpyArray) -> NumpyArray:
        return self.kernel._derivative_of_distance(self.name, r)


def distances(x: Any, y: Any, *, dim: int | None = None) -> Array:
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
    elsewhere = is_foreign_array(x) and is_foreign_array(y)
    xp = namespace(x, y) if elsewhere else np
    x, y = (cast(p, np.dtype(np.float64)) if elsewhere else np.asarray(p, dtype=np.float64) for p in (x, y))
    if (x.ndim == 1) != (y.ndim == 1) or 0 in (x.ndim, y.ndim) or (x.ndim > 1 and x.shape[-1] != y.shape[-1]):
        raise ShapeError(f"x and y must be (m,) and (q,), or (..., m, d) and (..., q, d), not {x.shape} and {y.shape}")
    if x.ndim == 1:
        x, y = xp.expand_dims(x, axis=1), xp.expand_dims(y, axis=1)
    found = x.shape[-1]
    if dim is not None and found > dim:
        raise ShapeError(f"this kernel belongs to {dim} dimensions, but the points have {found} coordinates {x.shape}")
    if elsewhere:
        square = None
        for axis in range(found):
            difference = xp.expand_dims(x[..., axis], axis=-1) - xp.expand_dims(y[..., axis], axis=-2)
            if found == 1:
                return xp.abs(difference)
            square = difference * difference if square is None else square + difference * difference
        return xp.sqrt(square)
    first = x[..., :, None, 0] - y[..., None, :, 0]
    if found == 1:
        return np.abs(first, out=first)  # no square: it would lose half of the range, and time
    np.square(first, out=first)
    for axis in range(1, found):
        difference = x[..., :, None, axis] - y[..., None, :, axis]
        first += np.square(difference, out=difference)
    return np.sqrt(first, out=first)


def _finite(value: Any, name: str, kind: Any = float) -> Any:
    number = kind(value)
    if not np.isfinite(number):
        raise ValueError(f"{name} must be finite, but it is {value!r}")
    return number


def _positive(value: Any, name: str) -> float:
    number = float(value)
    if not 0.0 < number < np.inf:
        raise ValueError(f"{name} must be a finite number > 0, but it is {value!r}")
    return number
