r"""Burgers' equation :math:`u_t + \beta u u_x = \nu u_{xx}` on the unit interval, zero at the ends."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from structmat import ShapeError
from structmat._check import finite
from structmat._typing import NumpyArray

from .dataset import TEST_SETS, DataSet, Parts, Recipe, Settings, Size
from .evolution import check_positive, check_times, output_times, smooth_initial_values, trajectories_data_set
from .fields import scaled_to_one, white_noise
from .interval import check_refinement, thin

__all__ = ["BURGERS", "solve_burgers"]


def solve_burgers(
    initial: Any,
    times: Any,
    *,
    viscosity: float = 1e-3,
    beta: float = 1.0,
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> NumpyArray:
    r"""Central differences of the second order, and a Rosenbrock method of the third order with error control.

    Parameters
    ----------
    initial : array_like of shape (samples, n), n >= 3
        u at ``j / n``, j = 0..n-1, at time zero. The first value is taken as zero, as is u(1), which lies beyond.
    times : array_like of shape (times,)
        Increasing, from 0 on.
    viscosity : float
        The factor nu of the second derivative.
    beta : float
        The factor of the advection; 0 gives the heat equation.
    rtol, atol : float
        The error of a step, as root mean square over the points, is held below ``atol + rtol |u|``.

    Returns
    -------
    ndarray of shape (samples, times, n)

    Raises
    ------
    ShapeError, ValueError
        If the arguments do not fit.
    RuntimeError
        If the step becomes too small for the tolerances.

    Notes
    -----
    The advection is differenced in the form that is antisymmetric in u,
    :math:`(u_{i+1}^2 - u_{i-1}^2 + u_i(u_{i+1} - u_{i-1})) / (6h)`, so that only viscosity changes the energy. The
    stiff, linearly implicit method RODAS3 [1]_ needs one tridiagonal factorisation and four solves a step. Trajectories
    are compiled loops, spread over the processors.

    References
    ----------
    .. [1] A. Sandu et al., Benchmarking stiff ODE solvers for atmospheric chemistry problems II: Rosenbrock solvers.
       Atmospheric Environment 31 (1997), 3459-3472.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.burgers import solve_burgers
    >>> x = np.arange(128) / 128
    >>> u = solve_burgers(np.sin(2 * np.pi * x)[None], [0.0, 0.5], viscosity=0.05)
    >>> u.shape, bool(np.linalg.norm(u[0, 1]) < np.linalg.norm(u[0, 0]))
    ((1, 2, 128), True)
    """
    initial, times = np.asarray(initial, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if initial.ndim != 2 or initial.shape[1] < 3:
        raise ShapeError(f"initial must have shape (samples, n) with n >= 3, but its shape is {initial.shape}")
    finite(initial, "initial")
    if times.ndim != 1 or not len(times) or times[0] < 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"times must be increasing numbers from 0 on, but they are {times!r}")
    solution = np.zeros((len(initial), len(times), initial.shape[1]))
    failed = np.full(len(initial), -1.0)

    def run(sample: int) -> None:
        failed[sample] = _advance(initial[sample, 1:], times, viscosity, beta, rtol, atol, solution[sample, :, 1:])

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compiled loop does not hold the interpreter
        list(pool.map(run, range(len(initial))))
    if (failed >= 0).any():
        raise RuntimeError(
            f"the step became too small at time {failed.max():.3g} (sample {int(np.argmax(failed))}) for rtol={rtol:g} "
            f"and atol={atol:g}; use larger tolerances, more points or more viscosity"
        )
    return solution


# The matrix C of RODAS3 in the form without products with the Jacobian; the states of its stages are u, u, u + 2 k1 and
# u + 2 k1 + k3, the new state is u + 2 k1 + k3 + k4, and the error is k4.
_COUPLING = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, -1.0, -8.0 / 3.0]])
_STATE = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # what each stage adds: parts of k1 and of its own


@njit(nogil=True, cache=True, error_model="numpy")
def _derivative(u: Any, spacing: float, viscosity: float, beta: float, out: Any) -> None:
    advection, diffusion = beta / (6 * spacing), viscosity / spacing**2
    points = len(u)
    for i in range(points):
        left = u[i - 1] if i > 0 else 0.0
        right = u[i + 1] if i < points - 1 else 0.0
        out[i] = diffusion * (left - 2 * u[i] + right) - advection * (right - left) * (left + u[i] + right)


@njit(nogil=True, cache=True, error_model="numpy")
def _factorise(
    u: Any, spacing: float, viscosity: float, beta: float, shift: float, lower: Any, pivot: Any, upper: Any
) -> None:
    """The tridiagonal shift I - (derivative of the right-hand side), as L U; `pivot` holds reciprocals."""
    advection, diffusion = beta / (6 * spacing), viscosity / spacing**2
    points = len(u)
    for i in range(points):
        left = u[i - 1] if i > 0 else 0.0
        right = u[i + 1] if i < points - 1 else 0.0
        below = -diffusion - advection * (2 * left + u[i])
        upper[i] = -diffusion + advection * (2 * right + u[i])
        diagonal = shift + 2 * diffusion + advection * (right - left)
        if i > 0:
            lower[i] = below * pivot[i - 1]
            diagonal -= lower[i] * upper[i - 1]
        pivot[i] = 1.0 / diagonal


@njit(nogil=True, cache=True, error_model="numpy")
def _solve(lower: Any, pivot: Any, upper: Any, x: Any) -> None:
    """In place."""
    points = len(x)
    for i in range(1, points):
        x[i] -= lower[i] * x[i - 1]
    x[points - 1] *= pivot[points - 1]
    for i in range(points - 2, -1, -1):
        x[i] = (x[i] - upper[i] * x[i + 1]) * pivot[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _step(u: Any, spacing: float, viscosity: float, beta: float, step: float, room: Any, new: Any) -> None:
    """One step of RODAS3 (gamma = 1/2): `new` becomes the state, the last row of stages in `room` its error."""
    lower, pivot, upper = room[4], room[5], room[6]
    _factorise(u, spacing, viscosity, beta, 2.0 / step, lower, pivot, upper)
    points = len(u)
    for i in range(points):  # loops throughout: whole arrays take much longer to compile
        new[i] = u[i]
    for stage in range(4):
        current = room[stage]
        _derivative(new, spacing, viscosity, beta, current)
        for earlier in range(stage):
            weight = _COUPLING[stage, earlier] / step
            for i in range(points):
                current[i] += weight * room[earlier, i]
        _solve(lower, pivot, upper, current)
        for i in range(points):
            new[i] += _STATE[stage, 0] * room[0, i] + _STATE[stage, 1] * current[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _advance(start: Any, times: Any, viscosity: float, beta: float, rtol: float, atol: float, out: Any) -> float:
    """Fill `out` (times, points); the time at which the step became too small, or -1."""
    points = len(start)
    spacing = 1.0 / (points + 1)
    u, new, room = np.empty(points), np.empty(points), np.empty((7, points))
    for i in range(points):
        u[i] = start[i]
    time, step = 0.0, 1e-4 * max(times[-1], 1e-8)
    for number in range(len(times)):
        target = times[number]
        while time < target:
            if step < 1e-13 * max(target, 1.0):
                return time
            last = time + 1.0001 * step >= target
            used = target - time if last else step
            _step(u, spacing, viscosity, beta, used, room, new)
            total = 0.0
            for i in range(points):
                total += (room[3, i] / (atol + rtol * max(abs(u[i]), abs(new[i])))) ** 2
            error = np.sqrt(total / points)
            if error <= 1.0:
                u, new = new, u
                time = target if last else time + used
                grown = used * min(5.0, 0.9 * max(error, 1e-12) ** (-1.0 / 3.0))
                step = max(step, grown) if last else grown  # a step cut short by an output says little
            else:  # also where the error is NaN
                step = used * (max(0.2, 0.9 * error ** (-1.0 / 3.0)) if error < np.inf else 0.1)
        for i in range(points):
            out[number, i] = u[i]
    return -1.0


def _check(size: Size, settings: Settings) -> None:
    check_refinement(size, settings["refinement"])
    check_times(settings)
    check_positive(settings, "viscosity", "rtol", "atol")
    beta = settings["beta"]
    if isinstance(beta, bool) or not isinstance(beta, (int, float)):
        raise ValueError(f"beta must be a number, but it is {beta!r}")


def _generate(part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings) -> dict[str, NumpyArray]:
    times, refinement = output_times(settings), settings["refinement"]
    options = {key: settings[key] for key in ("viscosity", "beta", "rtol", "atol")}
    if part == "white noise":
        initial = white_noise(count, size, rng=rng)
        initial[:, 0] = 0.0  # on the left end
        return {"trajectories": solve_burgers(scaled_to_one(initial), times, **options)}
    points = np.arange(refinement * size[0]) / (refinement * size[0])
    modes = 2 * (np.arange(12, 22) if part == "out of span" else np.arange(2, 12))
    initial = smooth_initial_values(part, rng.uniform(-1.0, 1.0, (count, 10)), modes, points, rng)
    return {"trajectories": thin(solve_burgers(initial, times, **options), refinement)}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    grid = (np.arange(size[0]) / size[0],)
    return trajectories_data_set(name, parts, grid=grid, settings=settings, symmetric=None)


BURGERS = Recipe(
    name="burgers",
    equation="u_t + beta u u_x = viscosity u_xx on (0, 1), u = 0 at the ends; from one state to the next",
    generate=_generate,
    assemble=_assemble,
    size=(256,),
    samples={"train": 1800, "validation": 200, **dict.fromkeys(TEST_SETS, 200)},
    settings={
        "viscosity": 1e-3,
        "beta": 1.0,
        "horizon": 15.0,
        "step": 0.2,
        "refinement": 4,
        "rtol": 1e-4,
        "atol": 1e-6,
    },
    check=_check,
    chunk=100,
)
