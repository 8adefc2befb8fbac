"""Kernels by their names, for command lines and configuration files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .base import KernelFunction
from .fundamental import Helmholtz, Laplace, Yukawa
from .radial import (
    Cauchy,
    Exponential,
    Gaussian,
    InverseMultiquadric,
    Matern,
    Multiquadric,
    Periodic,
    RationalQuadratic,
    ThinPlateSpline,
)
from .vector import Elastostatics, Stokes

_BY_NAME: dict[str, Callable[..., KernelFunction]] = {
    "cauchy": Cauchy,
    "elastostatics": Elastostatics,
    "exponential": Exponential,
    "gaussian": Gaussian,
    "helmholtz": Helmholtz,
    "inverse-multiquadric": InverseMultiquadric,
    "laplace": Laplace,
    "matern": Matern,
    "multiquadric": Multiquadric,
    "periodic": Periodic,
    "rational-quadratic": RationalQuadratic,
    "stokes": Stokes,
    "thin-plate-spline": ThinPlateSpline,
    "yukawa": Yukawa,
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
