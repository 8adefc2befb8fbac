"""Sums, products and multiples of kernels: positive definite kernels stay so."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from .._typing import IntArray, NumpyArray
from .base import KernelFunction, _positive


class _Composite(KernelFunction):
    """A kernel made of others: `parts` in order."""

    _sign = ""
    _operation: ClassVar[Any]  # on the values of two parts

    def __init__(self, *parts: KernelFunction) -> None:
        super().__init__()
        for part in parts:
            if not isinstance(part, KernelFunction):
                raise TypeError(
                    f"{type(self).__name__} takes kernels of structmat.kernelfunctions, but got {part!r} of type "
                    f"{type(part).__name__}; derive a class from KernelFunction"
                )
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one kernel")
        # (a + b) + c is a sum of three: the names of the hyperparameters then count the terms
        flat = [p.parts if isinstance(p, _Composite) and type(p) is type(self) else (p,) for p in parts]
        self.parts: tuple[KernelFunction, ...] = tuple(part for group in flat for part in group)
        self.dim = min((p.dim for p in self.parts if p.dim is not None), default=None)
        self.symmetric = all(p.symmetric for p in self.parts)
        self.dtype = np.result_type(*(p.dtype for p in self.parts))
        self.components = self.parts[0].components
        if any(p.components != self.components for p in self.parts):
            raise ValueError(
                f"the parts of a {type(self).__name__} must have as many components, but they have "
                f"{', '.join(f'{p!r}: {p.components}' for p in self.parts)}"
            )

    def __call__(self, x: Any, y: Any) -> NumpyArray:
        """The values at all pairs of points, `(..., m, q)`."""
        values: NumpyArray = reduce(self._operation, (part(x, y) for part in self.parts))
        return values

    def entries(self, x: Any, y: Any, a: IntArray, b: IntArray) -> NumpyArray:
        """The values of single components, `(..., m, q)`."""
        values: NumpyArray = reduce(self._operation, (part.entries(x, y, a, b) for part in self.parts))
        return values

    @property
    def complex_symmetric(self) -> bool:
        """Whether all parts are."""
        return all(part.complex_symmetric for part in self.parts)

    @property
    def translation_invariant(self) -> bool:
        """Whether all parts are."""
        return all(part.translation_invariant for part in self.parts)

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Those of the parts, named `<number of the part>.<name>`."""
        return {
            f"{k}.{name}": value
            for k, part in enumerate(self.parts)
            for name, value in part.hyperparameters.items()
        }  # fmt: skip

    def _with_values(self, values: list[float]) -> KernelFunction:
        rest, made = list(values), []
        for part in self.parts:
            count = len(part.hyperparameters)
            made.append(part._with_values(rest[:count]))
            rest = rest[count:]
        return type(self)(*made)

    def _split(self, name: str) -> tuple[int, str]:
        number, _, inner = name.partition(".")
        return int(number), inner

    def __repr__(self) -> str:
        return self._sign.join(_in_brackets(p) if isinstance(p, Sum) else repr(p) for p in self.parts)

    def __eq__(self, other: object) -> bool:
        return self.parts == other.parts if isinstance(other, _Composite) and type(self) is type(other) else False

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.parts))


def _in_brackets(kernel: KernelFunction) -> str:
    return f"({kernel!r})"


class Sum(_Composite):
    """The sum of kernels; written `a + b`.

    Parameters
    ----------
    *parts : KernelFunction
        The terms.

    Examples
    --------
    >>> from structmat.kernelfunctions import Gaussian, Matern
    >>> kernel = 4.0 * Gaussian(10.0) + Matern(nu=1.5, length=0.5)
    >>> kernel.hyperparameters
    {'0.variance': 4.0, '0.length': 10.0, '1.length': 0.5}
    >>> kernel([0.0], [0.0])
    array([[5.]])
    """

    _sign = " + "
    _operation = operator.add

    def _derivative(self, name: str) -> KernelFunction:
        number, inner = self._split(name)
        return self.parts[number]._derivative(inner)


class Product(_Composite):
    """The product of kernels; written `a * b`.

    Parameters
    ----------
    *parts : KernelFunction
        The factors.

    Examples
    --------
    A periodic covariance whose shape changes slowly:

    >>> from structmat.kernelfunctions import Gaussian, Periodic
    >>> kernel = Gaussian(length=90.0) * Periodic(length=1.3, period=1.0)
    >>> kernel.hyperparameters
    {'0.length': 90.0, '1.length': 1.3, '1.period': 1.0}
    """

    _sign = " * "
    _operation = operator.mul

    def _derivative(self, name: str) -> KernelFunction:
        number, inner = self._split(name)
        return Product(*self.parts[:number], self.parts[number]._derivative(inner), *self.parts[number + 1 :])


class Scaled(KernelFunction):
    """A positive multiple of a kernel; written `variance * kernel`.

    Parameters
    ----------
    variance : float
        The factor, a hyperparameter.
    kernel : KernelFunction
        What it multiplies.

    Examples
    --------
    >>> from structmat.kernelfunctions import Gaussian
    >>> kernel = 4.0 * Gaussian(length=0.5)
    >>> kernel([0.0], [0.0, 0.5])
    array([[4.        , 2.42612264]])
    >>> kernel.derivative("variance") == kernel  # with respect to its logarithm
    True
    """

    def __init__(self, variance: float, kernel: KernelFunction) -> None:
        super().__init__()
        if not isinstance(kernel, KernelFunction):
            raise TypeError(f"kernel must be a kernel of structmat.kernelfunctions, but it is {kernel!r}")
        self.variance: float = _positive(variance, "variance")
        self.kernel: KernelFunction = kernel
        if isinstance(kernel, Scaled):  # one factor is enough
            self.variance, self.kernel = self.variance * kernel.variance, kernel.kernel
        kernel = self.kernel
        self.dim, self.symmetric, self.dtype = kernel.dim, kernel.symmetric, kernel.dtype
        self.components, self.is_greens_function = kernel.components, kernel.is_greens_function

    def __call__(self, x: Any, y: Any) -> NumpyArray:
        """The values at all pairs of points, `(..., m, q)`."""
        values: NumpyArray = self.variance * self.kernel(x, y)
        return values

    def entries(self, x: Any, y: Any, a: IntArray, b: IntArray) -> NumpyArray:
        """The values of single components, `(..., m, q)`."""
        values: NumpyArray = self.variance * self.kernel.entries(x, y, a, b)
        return values

    @property
    def complex_symmetric(self) -> bool:
        """Whether the kernel is."""
        return self.kernel.complex_symmetric

    @property
    def translation_invariant(self) -> bool:
        """Whether the kernel is."""
        return self.kernel.translation_invariant

    @property
    def compiled(self) -> tuple[int, NumpyArray] | None:
        """That of the kernel, multiplied."""
        form = self.kernel.compiled
        return None if form is None else (form[0], form[1] * np.array([1.0, 1.0, 1.0, self.variance]))

    @property
    def hyperparameters(self) -> dict[str, float]:
        """`variance`, then those of the kernel."""
        return {"variance": self.variance, **self.kernel.hyperparameters}

    def _with_values(self, values: list[float]) -> KernelFunction:
        return Scaled(values[0], self.kernel._with_values(values[1:]))

    def _derivative(self, name: str) -> KernelFunction:
        if name == "variance":
            return self
        return Scaled(self.variance, self.kernel._derivative(name))

    def __repr__(self) -> str:
        composite = isinstance(self.kernel, _Composite)
        return f"{self.variance!r} * {_in_brackets(self.kernel) if composite else repr(self.kernel)}"
