"""Kernels that are functions of the distance."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from .._backend import is_numpy, mapped, namespace, reciprocal
from .._typing import Array, NumpyArray
from .base import KernelFunction, _positive


class _Scaled(KernelFunction):
    """A kernel of r / length."""

    _hyperparameters: ClassVar[tuple[str, ...]] = ("length",)

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

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        return cpu_kernels.GAUSSIAN, -0.5 / self.length**2

    def _of_distance(self, r: Array) -> Array:
        r /= self.length
        r *= r
        r *= -0.5
        return mapped("exp", r)

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        square = np.square(r / self.length)
        square *= np.exp(-0.5 * square)
        return square


class Exponential(_Scaled):
    """The exponential exp(-r / length): Matern with nu = 1/2.

    Parameters
    ----------
    length : float
        Correlation length.
    diagonal : float, optional
        The value at distance zero; default 1.
    """

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        return cpu_kernels.MATERN1, 1.0 / self.length

    def _of_distance(self, r: Array) -> Array:
        r /= -self.length
        return mapped("exp", r)

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        r /= self.length
        r *= np.exp(-r)
        return r


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

    _hyperparameters: ClassVar[tuple[str, ...]] = ("length",)

    def __init__(self, nu: float = 1.5, length: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        self.nu, self.length = float(nu), _positive(length, "length")
        if self.nu not in (0.5, 1.5, 2.5):
            raise ValueError(f"nu must be 0.5, 1.5 or 2.5, but it is {nu!r}")

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        codes = {0.5: cpu_kernels.MATERN1, 1.5: cpu_kernels.MATERN3, 2.5: cpu_kernels.MATERN5}
        return codes[self.nu], float(np.sqrt(2.0 * self.nu)) / self.length

    def _of_distance(self, r: Array) -> Array:
        r *= math.sqrt(2.0 * self.nu) / self.length
        decay = mapped("exp", -r)
        if self.nu == 1.5:
            decay *= 1.0 + r
        elif self.nu == 2.5:
            decay *= 1.0 + r * (1.0 + r / 3.0)
        return decay

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        # -s f'(s), with f' = -exp(-s), -s exp(-s) and -(s / 3) (1 + s) exp(-s)
        r *= np.sqrt(2.0 * self.nu) / self.length
        change = r * np.exp(-r)
        if self.nu == 1.5:
            change *= r
        elif self.nu == 2.5:
            change *= r * (1.0 + r) / 3.0
        return change


class _Shaped(KernelFunction):
    """A kernel of the shape parameter times r."""

    _hyperparameters: ClassVar[tuple[str, ...]] = ("shape",)

    def __init__(self, shape: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        self.shape = _positive(shape, "shape")

    def _root(self, r: Array) -> Array:
        r *= self.shape
        if is_numpy(r):
            return np.hypot(1.0, r, out=r)
        return namespace(r).sqrt(1.0 + r * r)


class Multiquadric(_Shaped):
    """Hardy's multiquadric sqrt(1 + (shape r)^2).

    Parameters
    ----------
    shape : float
        Inverse of the length at which the kernel bends.
    diagonal : float, optional
        The value at distance zero; default 1.
    """

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        return cpu_kernels.MULTIQUADRIC, self.shape**2

    def _of_distance(self, r: Array) -> Array:
        return self._root(r)

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        root = self._root(r)
        return root - 1.0 / root  # (shape r)^2 / root


class InverseMultiquadric(_Shaped):
    """The inverse multiquadric 1 / sqrt(1 + (shape r)^2): positive definite.

    Parameters
    ----------
    shape : float
        Inverse of the length at which the kernel bends.
    diagonal : float, optional
        The value at distance zero; default 1.
    """

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        return cpu_kernels.INVERSE_MULTIQUADRIC, self.shape**2

    def _of_distance(self, r: Array) -> Array:
        return reciprocal(self._root(r))

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        root = self._root(r)
        return root**-3 - 1.0 / root  # -(shape r)^2 / root^3


class Cauchy(KernelFunction):
    """The regularised Cauchy kernel 1 / (r + shift).

    Parameters
    ----------
    shift : float
        Positive; the value at distance zero is 1 / shift.
    diagonal : float, optional
        Another value at distance zero.
    """

    _hyperparameters: ClassVar[tuple[str, ...]] = ("shift",)

    def __init__(self, shift: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(diagonal)
        self.shift = _positive(shift, "shift")

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        return cpu_kernels.CAUCHY, self.shift

    def _of_distance(self, r: Array) -> Array:
        r += self.shift
        return reciprocal(r)

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        r += self.shift
        return -self.shift / np.square(r)


class RationalQuadratic(_Scaled):
    """The rational quadratic (1 + r^2 / (2 alpha length^2))^-alpha: a mixture of Gaussians of many lengths.

    Parameters
    ----------
    length : float
        Correlation length.
    alpha : float
        Positive; large values approach the Gaussian, small ones mix widely differing lengths.
    diagonal : float, optional
        The value at distance zero; default 1.

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press, 2006, section 4.2.

    Examples
    --------
    >>> from structmat.kernelfunctions import RationalQuadratic
    >>> RationalQuadratic(length=0.5, alpha=1.0)([0.0], [0.0, 0.5])
    array([[1.        , 0.66666667]])
    """

    _hyperparameters: ClassVar[tuple[str, ...]] = ("length", "alpha")

    def __init__(self, length: float = 1.0, alpha: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(length, diagonal)
        self.alpha = _positive(alpha, "alpha")

    def _spread(self, r: Array) -> Array:
        """U = r^2 / (2 alpha length^2)."""
        r /= self.length
        r *= r
        r /= 2.0 * self.alpha
        return r

    def _of_distance(self, r: Array) -> Array:
        logarithm = mapped("log1p", self._spread(r))
        logarithm *= -self.alpha
        return mapped("exp", logarithm)

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        u = self._spread(r)
        logarithm = np.log1p(u)
        values = self.alpha * np.exp(-self.alpha * logarithm)
        share = u / (1.0 + u)
        return values * (2.0 * share if name == "length" else share - logarithm)


class ThinPlateSpline(KernelFunction):
    """The thin plate spline r^2 log r.

    It is conditionally positive definite: interpolation adds a linear polynomial. Although it solves the biharmonic
    equation, `is_greens_function` is false: values on a surface do not determine a biharmonic function, so a proxy
    surface does not see everything.

    Parameters
    ----------
    diagonal : float, optional
        The value at distance zero; default 0.

    References
    ----------
    J. Duchon, "Splines minimizing rotation-invariant semi-norms in Sobolev spaces", in: Constructive Theory of
    Functions of Several Variables, Lecture Notes in Mathematics 571, Springer, 1977, 85-100.

    Examples
    --------
    >>> from structmat.kernelfunctions import ThinPlateSpline
    >>> ThinPlateSpline()([0.0], [0.0, 1.0, 2.0])
    array([[0.        , 0.        , 2.77258872]])
    """

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        return cpu_kernels.THIN_PLATE, 0.0

    def _of_distance(self, r: Array) -> Array:
        tiny = float(np.finfo(np.float64).tiny)
        values = mapped("log", namespace(r).clip(r, min=tiny))  # finite at zero, where the factor is zero
        r *= r
        values *= r
        return values


class Periodic(_Scaled):
    """The periodic covariance exp(-2 sin^2(pi r / period) / length^2) on the line.

    It is a Gaussian of the distance on a circle, which the line is wound on. Multiply it by a kernel that decays, for a
    shape that changes from period to period.

    Parameters
    ----------
    length : float
        Correlation length relative to the period: small ones make the shape within a period rough.
    period : float
        After which the paths repeat.
    diagonal : float, optional
        The value at distance zero; default 1.

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press, 2006, section 4.2.3.

    Examples
    --------
    >>> from structmat.kernelfunctions import Periodic
    >>> Periodic(length=1.0, period=2.0)([0.0], [0.0, 1.0, 2.0])
    array([[1.        , 0.13533528, 1.        ]])
    """

    dim = 1
    _hyperparameters: ClassVar[tuple[str, ...]] = ("length", "period")

    def __init__(self, length: float = 1.0, period: float = 1.0, diagonal: float | None = None) -> None:
        super().__init__(length, diagonal)
        self.period = _positive(period, "period")

    def _of_distance(self, r: Array) -> Array:
        r *= np.pi / self.period
        r = mapped("sin", r)
        r *= r
        r *= -2.0 / self.length**2
        return mapped("exp", r)

    def _derivative_of_distance(self, name: str, r: NumpyArray) -> NumpyArray:
        r *= np.pi / self.period
        exponent = (2.0 / self.length**2) * np.square(np.sin(r))
        if name == "length":
            return 2.0 * exponent * np.exp(-exponent)
        return (2.0 / self.length**2) * r * np.sin(2.0 * r) * np.exp(-exponent)
