"""Exponential time differencing of fourth order, for periodic problems in Fourier space: v' = L v + N(v), L diagonal.

A.-K. Kassam and L. N. Trefethen, Fourth-order time-stepping for stiff PDEs, SIAM J. Sci. Comput. 26 (2005), 1214-1233,
after S. M. Cox and P. C. Matthews (2002). The coefficients are means over a circle around each h L, where the formulas
themselves would cancel. The same source runs on NumPy and on torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from structmat import DeviceError
from structmat._check import positive_number
from structmat._typing import Array, NumpyArray

CIRCLE_POINTS = 32  # the mean of an entire function over a circle converges geometrically


class ETDRK4:
    """The steps of v' = L v + N(v) with a diagonal L, treated exactly, and a smooth N, to fourth order.

    Parameters
    ----------
    linear : ndarray of float
        The diagonal of L, of any shape that broadcasts with v.
    step : float
        The time step h, positive.
    place : callable, optional
        Turns a NumPy array into one of the namespace, device and dtype of v; the default leaves it as it is.

    Notes
    -----
    Four evaluations of N a step.

    Examples
    --------
    v' = -2 v + 1 from v(0) = 0: the constant goes into N, and the solution is (1 - exp(-2 t)) / 2.

    >>> import numpy as np
    >>> from structmat_nn.data.etdrk4 import ETDRK4
    >>> stepper = ETDRK4(np.array([-2.0]), step=0.5)
    >>> v = stepper.advance(np.zeros(1), lambda v: np.ones_like(v), steps=2)
    >>> bool(np.abs(v - (1 - np.exp(-2.0)) / 2).max() < 1e-14)
    True
    """

    def __init__(self, linear: NumpyArray, step: float, place: Callable[[NumpyArray], Array] | None = None) -> None:
        step = positive_number(step, "step")
        place = place or (lambda values: values)
        angles = np.exp(2j * np.pi * (np.arange(CIRCLE_POINTS) + 0.5) / CIRCLE_POINTS)
        z = step * np.asarray(linear, dtype=np.float64)[..., None] + angles  # (..., points of the circle)
        e = np.exp(z)

        def mean(values: NumpyArray) -> Array:
            return place(step * values.mean(axis=-1).real)

        self._whole = place(np.exp(step * linear))
        self._half = place(np.exp(0.5 * step * linear))
        self._stage = mean((np.exp(0.5 * z) - 1.0) / z)
        self._first = mean((-4.0 - z + e * (4.0 - 3.0 * z + z**2)) / z**3)
        self._middle = mean(2.0 * (2.0 + z + e * (z - 2.0)) / z**3)
        self._last = mean((-4.0 - 3.0 * z - z**2 + e * (4.0 - z)) / z**3)

    def advance(self, v: Array, nonlinear: Callable[[Array], Array], steps: int) -> Array:
        """The state `steps` time steps later; `v` itself is left as it is."""
        for _ in range(steps):
            at_v = nonlinear(v)
            decayed = self._half * v
            a = decayed + self._stage * at_v
            at_a = nonlinear(a)
            at_b = nonlinear(decayed + self._stage * at_a)
            at_c = nonlinear(self._half * a + self._stage * (2.0 * at_b - at_v))
            v = self._whole * v + self._first * at_v + self._middle * (at_a + at_b) + self._last * at_c
        return v


def placer(device: str | None, dtype: Any = np.float64) -> Callable[[NumpyArray], Array]:
    """A function that puts NumPy arrays where the computation runs.

    `device` None is NumPy, anything else ("cpu", "cuda", ...) a torch device; `dtype` is np.float64 or np.float32.
    """
    if np.dtype(dtype) not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise TypeError(f"dtype must be float64 or float32, but it is {dtype!r}")
    if device is None:
        return lambda values: np.asarray(values, dtype=dtype)
    import torch

    kind = torch.float64 if np.dtype(dtype) == np.float64 else torch.float32
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"device must be None or a device that torch can use here, but {device!r}: {reason}"
        ) from error
    return lambda values: torch.as_tensor(np.ascontiguousarray(values), dtype=kind, device=device)


def half_wave_numbers(n: int) -> tuple[NumpyArray, NumpyArray]:
    """The integer wave numbers of `rfftn` on an n x n grid, shapes (n, 1) and (1, n//2 + 1)."""
    return np.fft.fftfreq(n, 1.0 / n)[:, None], np.fft.rfftfreq(n, 1.0 / n)[None, :]


def two_thirds(n: int) -> NumpyArray:
    """1 on the wave numbers below n/3, which a product of two fields cannot alias into; 0 elsewhere."""
    rows, columns = half_wave_numbers(n)
    return ((np.abs(rows) < n / 3) & (np.abs(columns) < n / 3)).astype(np.float64)


def chunk_length(bytes_each: int, device: str | None) -> int:
    """How many samples are advanced together: on a CPU as many as stay in the cache, elsewhere as many as fit."""
    budget = 2**20 if device is None or device == "cpu" else 2**30
    return max(1, budget // bytes_each)
