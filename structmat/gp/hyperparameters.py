"""The hyperparameters that a fit moves: names, bounds, and their logarithms as one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._typing import NumpyArray
from ..exceptions import ShapeError
from ..kernelfunctions import KernelFunction

DEFAULT_BOUNDS = (1e-5, 1e5)


@dataclass(frozen=True)
class Hyperparameters:
    """A kernel and a noise variance, seen as a vector of the logarithms of those that are free.

    Attributes
    ----------
    kernel : KernelFunction
        With its values at the start.
    noise : float
        At the start.
    free : tuple of str
        Names of the kernel's hyperparameters, and "noise", that are not fixed.
    bounds : (p, 2) array
        Of the logarithms.
    """

    kernel: KernelFunction
    noise: float
    free: tuple[str, ...]
    bounds: NumpyArray

    @classmethod
    def of(cls, kernel: KernelFunction, noise: float, bounds: Mapping[str, Any] | None) -> Hyperparameters:
        """Check the bounds, and leave out what is fixed; noise 0 is fixed."""
        values = {**kernel.hyperparameters, "noise": noise}
        given = {} if bounds is None else dict(bounds)
        unknown = sorted(set(given) - set(values))
        if unknown:
            raise ValueError(f"bounds names {', '.join(unknown)}, but the hyperparameters are {', '.join(values)}")
        if noise == 0.0:
            given["noise"] = "fixed"
        free = tuple(name for name in values if not _is_fixed(given.get(name)))
        intervals = [_interval(name, values[name], given.get(name)) for name in free]
        return cls(kernel, noise, free, np.log(np.array(intervals).reshape(len(free), 2)))

    @property
    def theta(self) -> NumpyArray:
        """The logarithms of the free ones at the start, (p,)."""
        values = {**self.kernel.hyperparameters, "noise": self.noise}
        return np.log(np.array([values[name] for name in self.free], dtype=np.float64))

    def at(self, theta: Any) -> tuple[KernelFunction, float]:
        """The kernel and the noise for other logarithms of the free ones."""
        logarithms = np.asarray(theta, dtype=np.float64)
        if logarithms.shape != (len(self.free),):
            raise ShapeError(
                f"theta must have shape ({len(self.free)},), one logarithm each of "
                f"{', '.join(self.free) or 'nothing'}, but its shape is {logarithms.shape}"
            )
        moved = dict(zip(self.free, logarithms, strict=True))
        all_of_kernel = [
            moved.get(name, start) for name, start in zip(self.kernel.hyperparameters, self.kernel.theta, strict=True)
        ]
        return self.kernel.with_theta(all_of_kernel), float(np.exp(moved["noise"])) if "noise" in moved else self.noise


def _is_fixed(bound: Any) -> bool:
    return isinstance(bound, str) and bound == "fixed"


def _interval(name: str, value: float, bound: Any) -> tuple[float, float]:
    """The bounds of one hyperparameter; the default ones are widened to hold the start."""
    if bound is None:
        low, high = DEFAULT_BOUNDS
        return min(low, value), max(high, value)
    try:
        low, high = (float(b) for b in bound)
    except (TypeError, ValueError):
        raise ValueError(f'bounds[{name!r}] must be (low, high) or "fixed", but it is {bound!r}') from None
    if not 0.0 < low <= value <= high < np.inf:
        raise ValueError(
            f"bounds[{name!r}] must be positive and hold the start: 0 < low <= {value:.6g} <= high, but it is {bound!r}"
        )
    return low, high
