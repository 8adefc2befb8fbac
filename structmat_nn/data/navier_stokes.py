r"""Incompressible flow on the periodic unit square, in vorticity form, by Fourier modes and ETDRK4, on NumPy or torch.

:math:`w_t + v \cdot \nabla w = \nu \Delta w + q`, with :math:`v = (\psi_y, -\psi_x)` and :math:`-\Delta \psi = w`.

Diffusion is treated exactly, advection and the force by the Runge-Kutta stages, pseudo-spectrally with the 2/3 rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from structmat import NonFiniteError, ShapeError, _check
from structmat._backend import namespace, to_numpy
from structmat._typing import Array, NumpyArray

from .cube_inputs import axis_points, pairs_by_part
from .dataset import TEST_SETS, DataSet, Parts, Recipe, Settings, Size
from .etdrk4 import ETDRK4, chunk_length, half_wave_numbers, placer, two_thirds
from .fields import gaussian_random_field
from .poisson2d import check_square

__all__ = ["NAVIER_STOKES", "body_force", "initial_vorticity", "solve_navier_stokes"]


def solve_navier_stokes(
    initial: NumpyArray,
    *,
    viscosity: float,
    horizon: float,
    steps: int,
    stored: int = 1,
    force: NumpyArray | None = None,
    device: str | None = None,
    dtype: str = "float64",
) -> NumpyArray:
    """Advance many vorticity fields at once.

    Parameters
    ----------
    initial : array_like of shape (samples, n, n)
        w at the points i / n. The mean of a vorticity on the torus is zero; it is removed.
    viscosity : float
        nu, not negative.
    horizon : float
        The time of the last state.
    steps : int
        Time steps up to there; a multiple of `stored`.
    stored : int
        How many equally spaced states are returned, without the initial one.
    force : array_like of shape (n, n), optional
        q, constant in time; none by default.
    device : str, optional
        A torch device such as "cpu" or "cuda"; None computes with NumPy.
    dtype : {"float64", "float32"}
        The precision of the computation.

    Returns
    -------
    ndarray of float64, shape (samples, stored, n, n)

    Raises
    ------
    ShapeError, NonFiniteError
        The fields are of another shape, or hold NaN or Inf; or the computation blew up, which more `steps` cure.

    Notes
    -----
    Twenty transforms of n x n points a step and sample. Fourth order in the step, spectral in space.

    Examples
    --------
    The Taylor-Green vortex does nothing but decay:

    >>> import numpy as np
    >>> from structmat_nn.data.navier_stokes import solve_navier_stokes
    >>> wave = np.sin(2 * np.pi * np.arange(16) / 16)
    >>> vortex = np.outer(wave, wave)[None]
    >>> end = solve_navier_stokes(vortex, viscosity=0.01, horizon=1.0, steps=4)
    >>> bool(np.allclose(end[:, 0], vortex * np.exp(-0.08 * np.pi**2), rtol=0, atol=1e-13))
    True
    """
    initial = _fields(initial, "initial", 3)
    n = initial.shape[-1]
    push = np.zeros((n, n)) if force is None else _fields(force, "force", 2)
    if push.shape != (n, n):
        raise ShapeError(f"force has shape {push.shape}, but initial has the shape {initial.shape}")
    viscosity = _check.tolerance(viscosity, "viscosity")
    horizon = _check.positive_number(horizon, "horizon")
    stored = _check.positive_integer(stored, "stored")
    if _check.positive_integer(steps, "steps") % stored:
        raise ValueError(f"steps = {steps} must be a multiple of stored = {stored}")
    place = placer(device, dtype)
    squares = 4.0 * np.pi**2 * sum(waves**2 for waves in half_wave_numbers(n))  # (n, n//2 + 1)
    stepper = ETDRK4(-viscosity * np.asarray(squares), horizon / steps, place)
    result = np.empty((len(initial), stored, n, n))
    size = chunk_length(4 * initial[0].nbytes, device)
    for start in range(0, len(initial), size):
        part = slice(start, start + size)
        result[part] = _advance(stepper, place, initial[part], push, steps // stored, stored)
    if not np.isfinite(result).all():
        raise NonFiniteError(f"the solution grew beyond all bounds with steps = {steps}; take more steps")
    return result


def _advance(
    stepper: ETDRK4,
    place: Callable[[NumpyArray], Array],
    initial: NumpyArray,
    force: NumpyArray,
    steps: int,
    stored: int,
) -> NumpyArray:
    n = initial.shape[-1]
    rows, columns = (2.0 * np.pi * waves for waves in half_wave_numbers(n))
    squares = rows**2 + columns**2
    squares[0, 0] = 1.0  # the mean, which plays no part
    keep = two_thirds(n)
    w = place(initial - initial.mean(axis=(-2, -1), keepdims=True))
    xp = namespace(w)
    # i times these is a derivative; only modes that no product can alias into take part in advection
    d_x, d_y, velocity = (place(factor * keep) for factor in (rows, columns, 1.0 / squares))
    push, low = xp.fft.rfftn(place(force), axes=(-2, -1)), place(keep)

    def real(v: Array) -> Array:
        return xp.fft.irfftn(v, s=(n, n), axes=(-2, -1))

    def advection(v: Array) -> Array:
        gradient_x, gradient_y = 1j * d_x * v, 1j * d_y * v
        # psi = w / |k|^2, and the velocity is (psi_y, -psi_x)
        change = real(gradient_x * velocity) * real(gradient_y) - real(gradient_y * velocity) * real(gradient_x)
        return push + low * xp.fft.rfftn(change, axes=(-2, -1))

    v = xp.fft.rfftn(w, axes=(-2, -1))
    states = np.empty((len(initial), stored, n, n))
    for index in range(stored):
        v = stepper.advance(v, advection, steps)
        states[:, index] = to_numpy(real(v))
    return states


def _fields(values: NumpyArray, name: str, axes: int) -> NumpyArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != axes or array.shape[-1] != array.shape[-2] or not array.size:
        expected = "(samples, n, n)" if axes == 3 else "(n, n)"
        raise ShapeError(f"{name} must have shape {expected}, but its shape is {array.shape}")
    _check.finite(array, name)
    return array


def body_force(n: int) -> NumpyArray:
    """The force 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)) of the data set, shape (n, n)."""
    angle = 2.0 * np.pi * np.add.outer(axis_points(n), axis_points(n))
    return 0.1 * (np.sin(angle) + np.cos(angle))


def initial_vorticity(count: int, n: int, rng: np.random.Generator) -> NumpyArray:
    """Fields (count, n, n) of the law N(0, 7^1.5 (-Lap + 49 I)^-2.5), without their mean."""
    field = gaussian_random_field(count, (n, n), boundary="periodic", length_scale=1.0 / 7.0, smoothness=2.5, rng=rng)
    return _standard_deviation(n) * field


def _standard_deviation(n: int) -> float:
    """Of the law at a point: the root of the sum of its eigenvalues, the mean left out."""
    waves = 2.0 * np.pi * np.fft.fftfreq(n, 1.0 / n)
    eigenvalues = 7.0**1.5 * (np.add.outer(waves**2, waves**2) + 49.0) ** -2.5
    return float(np.sqrt(eigenvalues.sum() - eigenvalues[0, 0]))


def _initial_states(part: str, count: int, n: int, rng: np.random.Generator) -> NumpyArray:
    if part == "white noise":
        modes = np.fft.rfft2(rng.standard_normal((count, n, n))) * two_thirds(n)
        modes[:, 0, 0] = 0.0
        noise = np.fft.irfft2(modes, s=(n, n))
        return noise * (_standard_deviation(n) / np.sqrt((noise**2).mean()))
    if part == "out of span":
        field = gaussian_random_field(count, (n, n), boundary="periodic", length_scale=0.05, smoothness=2.5, rng=rng)
        return _standard_deviation(n) * field
    return initial_vorticity(count, n, rng)


def _generate(part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings) -> dict[str, NumpyArray]:
    n = size[0]
    start = settings["amplitude"] * _initial_states(part, count, n, rng)
    end = solve_navier_stokes(
        start, viscosity=settings["viscosity"], horizon=settings["horizon"], steps=settings["steps"],
        force=body_force(n), device=settings["device"], dtype=settings["precision"],
    )[:, -1]  # fmt: skip
    return {"start": start, "end": end}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    before, after = ("end", "start") if settings["inverse"] else ("start", "end")
    pairs = {part: {"inputs": arrays[before], "outputs": arrays[after]} for part, arrays in parts.items()}
    return DataSet(name, **pairs_by_part(pairs), grid=(axis_points(size[0]),) * 2, settings=dict(settings))


def _check_settings(size: Size, settings: Settings) -> None:
    check_square(size, settings, smallest=8)
    _check.positive_integer(settings["steps"], "steps")
    for name in ("horizon", "amplitude"):
        _check.positive_number(settings[name], name)
    placer(settings["device"], settings["precision"])  # names a device or a precision that is not there


_SETTINGS: dict[str, Any] = {
    "inverse": False,
    "viscosity": 1e-3,
    "horizon": 1.0,
    "steps": 40,
    "amplitude": 1.0,
    "device": None,
    "precision": "float64",
}

NAVIER_STOKES = Recipe(
    name="navier-stokes",
    equation="w_t + v . grad w = nu Lap w + q, periodic on the unit square",
    generate=_generate,
    assemble=_assemble,
    size=(128, 128),
    samples={"train": 1000, "validation": 100, **dict.fromkeys(TEST_SETS, 100)},
    settings=_SETTINGS,
    check=_check_settings,
    chunk=100,
    outside=("inverse", "device"),
)
