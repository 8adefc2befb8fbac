"""The Gray-Scott equations on the periodic square [-1, 1]^2, by Fourier modes and ETDRK4, on NumPy or torch.

A_t = delta_A Lap A - A B^2 + f (1 - A),    B_t = delta_B Lap B + A B^2 - (f + k) B.

Diffusion is treated exactly, reactions by the Runge-Kutta stages, pseudo-spectrally with the 2/3 rule: the setting of
The Well (R. Ohana et al., NeurIPS 2024), whose data were made with Chebfun. Its trajectories have 1001 snapshots, one
each 10 steps of 1 s: the data set maps the first to the last, (A, B)_0 to (A, B)_1000, over 10,000 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import signal

from structmat import NonFiniteError, ShapeError, _check
from structmat._backend import namespace, to_numpy
from structmat._typing import Array, NumpyArray

from .cube_inputs import pairs_by_part
from .dataset import TEST_SETS, DataSet, Parts, Recipe, Settings, Size
from .etdrk4 import ETDRK4, chunk_length, half_wave_numbers, placer, two_thirds
from .poisson2d import check_square

__all__ = ["GRAY_SCOTT", "PAIRS", "UNSEEN_PAIRS", "random_fourier", "random_gaussians", "solve_gray_scott"]

# (f, k) of gliders, bubbles, maze, worms, spirals and spots
PAIRS = [[0.014, 0.054], [0.098, 0.057], [0.029, 0.057], [0.058, 0.065], [0.018, 0.051], [0.030, 0.062]]
# pairs between them, for the test set "out of span"
UNSEEN_PAIRS = [[0.022, 0.054], [0.037, 0.060], [0.046, 0.063], [0.062, 0.061]]
DIFFUSION = (2e-5, 1e-5)  # of A and of B


def solve_gray_scott(
    initial: NumpyArray,
    feed: NumpyArray,
    kill: NumpyArray,
    *,
    steps: int,
    step: float = 1.0,
    stored: int = 1,
    diffusion: tuple[float, float] = DIFFUSION,
    device: str | None = None,
    dtype: str = "float64",
) -> NumpyArray:
    """Advance many initial states at once, each with its own feed and kill rate.

    Parameters
    ----------
    initial : array_like, shape (samples, 2, n, n)
        A and B at x_i = -1 + 2 i / n.
    feed, kill : array_like, shape (samples,) or ()
        The rates f and k.
    steps : int
        Number of time steps in all; a multiple of `stored`.
    step : float
        The time step in seconds.
    stored : int
        How many equally spaced states are returned; the last one is the state after `steps` steps.
    diffusion : (float, float)
        delta_A and delta_B.
    device : str, optional
        A torch device such as "cpu" or "cuda"; None computes with NumPy.
    dtype : {"float64", "float32"}
        The precision of the computation.

    Returns
    -------
    ndarray of float64, shape (samples, stored, 2, n, n)

    Raises
    ------
    ShapeError, NonFiniteError
        The initial states are of another shape, or hold NaN or Inf.
    NonFiniteError
        The computation blew up, which a smaller `step` cures.

    Notes
    -----
    Twelve transforms of n x n points a step and sample. Fourth order in the step, spectral in space.

    Examples
    --------
    Without B, A relaxes to 1 and nothing else happens:

    >>> import numpy as np
    >>> from structmat_nn.data.gray_scott import solve_gray_scott
    >>> initial = np.zeros((1, 2, 8, 8))
    >>> end = solve_gray_scott(initial, 0.03, 0.06, steps=10)
    >>> bool(np.abs(end[0, 0, 0] - (1 - np.exp(-0.3))).max() < 1e-6)
    True
    """
    initial, feed, kill = _check_states(initial, feed, kill)
    stored = _check.positive_integer(stored, "stored")
    if _check.positive_integer(steps, "steps") % stored:
        raise ValueError(f"steps = {steps} must be a multiple of stored = {stored}")
    n = initial.shape[-1]
    place = placer(device, dtype)
    squares = sum((np.pi * waves) ** 2 for waves in half_wave_numbers(n))  # of the wave numbers on a length of 2
    linear = -np.stack([rate * squares for rate in diffusion])  # (2, n, n//2 + 1)
    stepper = ETDRK4(linear, step, place)
    size = chunk_length(initial[0].nbytes, device)
    result = np.empty((len(initial), stored, 2, n, n))
    for start in range(0, len(initial), size):
        part = slice(start, start + size)
        result[part] = _advance(stepper, place, initial[part], feed[part], kill[part], steps // stored, stored)
    if not np.isfinite(result).all():
        raise NonFiniteError(f"the solution grew beyond all bounds with step = {step!r}; take a smaller step")
    return result


def _advance(
    stepper: ETDRK4,
    place: Callable[[NumpyArray], Array],
    initial: NumpyArray,
    feed: NumpyArray,
    kill: NumpyArray,
    steps: int,
    stored: int,
) -> NumpyArray:
    n = initial.shape[-1]
    fields = place(initial)
    xp = namespace(fields)
    keep = place(two_thirds(n))
    f = place(feed[:, None, None])
    decay = place((feed + kill)[:, None, None])
    ones = np.zeros((n, n // 2 + 1))
    ones[0, 0] = n * n  # the transform of the constant 1
    one = place(ones)

    def reactions(v: Array) -> Array:
        a, b = (xp.fft.irfftn(v[:, i], s=(n, n), axes=(-2, -1)) for i in range(2))
        consumed = keep * xp.fft.rfftn(a * b * b, axes=(-2, -1))
        return xp.stack([f * (one - v[:, 0]) - consumed, consumed - decay * v[:, 1]], axis=1)

    v = xp.fft.rfftn(fields, axes=(-2, -1))
    states = np.empty((len(initial), stored, 2, n, n))
    for index in range(stored):
        v = stepper.advance(v, reactions, steps)
        states[:, index] = to_numpy(xp.fft.irfftn(v, s=(n, n), axes=(-2, -1)))
    return states


def _check_states(initial: NumpyArray, feed: NumpyArray, kill: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    initial = np.asarray(initial, dtype=np.float64)
    if initial.ndim != 4 or initial.shape[1] != 2 or initial.shape[2] != initial.shape[3] or not initial.size:
        raise ShapeError(f"initial must have shape (samples, 2, n, n), but its shape is {initial.shape}")
    _check.finite(initial, "initial")
    rates = []
    for name, rate in (("feed", feed), ("kill", kill)):
        array = np.asarray(rate, dtype=np.float64)
        if array.shape not in ((), (len(initial),)):
            raise ShapeError(f"{name} must be a number or have shape ({len(initial)},), but its shape is {array.shape}")
        _check.finite(array, name)
        rates.append(np.broadcast_to(array, (len(initial),)))
    return initial, rates[0], rates[1]


def random_gaussians(count: int, n: int, rng: np.random.Generator) -> NumpyArray:
    """Initial states (count, 2, n, n) of clusters of Gaussians, each species scaled to fill [0, 1].

    A is 1 minus, and B is, a sum of 10 to 100 Gaussians a exp(-s r^2), a ~ U(1, 3), s ~ U(150, 300), with uniform
    centres, periodic; then each is shifted and scaled to the range [0, 1].
    """
    x = -1.0 + 2.0 * np.arange(n) / n
    images = np.array([-2.0, 0.0, 2.0])

    def cluster() -> NumpyArray:
        number = int(rng.integers(10, 101))
        amplitude, sharpness = rng.uniform(1.0, 3.0, number), rng.uniform(150.0, 300.0, number)
        centres = rng.uniform(-1.0, 1.0, (2, number))
        distance = x[:, None] - centres[:, :, None, None] - images  # (2, number, n, 3)
        bells = np.exp(-sharpness[:, None, None] * distance**2).sum(axis=-1)  # (2, number, n)
        field = (amplitude[:, None] * bells[0]).T @ bells[1]
        return (field - field.min()) / (field.max() - field.min())

    return np.stack([[1.0 - cluster(), cluster()] for _ in range(count)])


def random_fourier(feed: NumpyArray, kill: NumpyArray, n: int, rng: np.random.Generator) -> NumpyArray:
    """Initial states (len(feed), 2, n, n): random Fourier series around a steady state of the reactions.

    The noise is the trigonometric interpolant of values from U(-1/4, 1/4) on min(32, n)^2 points. Where the rates allow
    a third steady state, (f + k)^2 <= f / 4, it is the centre, and the noise is scaled so that the concentrations stay
    mostly within [0, 1]; elsewhere the centre is (1, 0).
    """
    feed, kill = np.atleast_1d(feed), np.atleast_1d(kill)
    points = min(32, n)
    noise = rng.uniform(-0.25, 0.25, (len(feed), 2, points, points))
    smooth = signal.resample(signal.resample(noise, n, axis=-1), n, axis=-2)
    discriminant = 1.0 - 4.0 * (feed + kill) ** 2 / feed
    a = 0.5 * (1.0 - np.sqrt(np.maximum(discriminant, 0.0)))
    third = np.stack([a, feed * (1.0 - a) / (feed + kill)], axis=1)  # (samples, 2)
    exists = (discriminant >= 0.0)[:, None]
    centre = np.where(exists, third, [1.0, 0.0])
    amplitude = np.where(exists, 0.9 * np.minimum(third, 1.0 - third), 1.0)
    return centre[:, :, None, None] + amplitude[:, :, None, None] * smooth


def _initial_states(
    part: str, count: int, n: int, rng: np.random.Generator, settings: Settings
) -> tuple[NumpyArray, NumpyArray]:
    """Rates (count, 2) and states (count, 2, n, n): all pairs in turns, half the states of each family."""
    pairs = np.array(settings["unseen_pairs" if part == "out of span" else "pairs"])
    order = rng.permutation(count)
    rates = pairs[order % len(pairs)]
    if part == "white noise":
        return rates, rng.uniform(0.0, 1.0, (count, 2, n, n))
    bells = order // len(pairs) % 2 == 0
    states = np.empty((count, 2, n, n))
    states[bells] = random_gaussians(int(bells.sum()), n, rng)
    if not bells.all():
        states[~bells] = random_fourier(rates[~bells, 0], rates[~bells, 1], n, rng)
    return rates, states


def _generate(part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings) -> dict[str, NumpyArray]:
    n = size[0]
    rates, start = _initial_states(part, count, n, rng, settings)
    end = solve_gray_scott(
        start, rates[:, 0], rates[:, 1], steps=settings["steps"], step=settings["step"],
        device=settings["device"], dtype=settings["precision"],
    )[:, -1]  # fmt: skip
    return {"start": start, "end": end, "rates": rates}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    axis = -1.0 + 2.0 * np.arange(size[0]) / size[0]
    before, after = ("end", "start") if settings["inverse"] else ("start", "end")
    pairs = {}
    for part, arrays in parts.items():
        constants = np.broadcast_to(arrays["rates"][:, :, None, None], arrays["start"].shape)
        pairs[part] = {"inputs": np.concatenate([arrays[before], constants], axis=1), "outputs": arrays[after]}
    return DataSet(name, **pairs_by_part(pairs), grid=(axis, axis), settings=dict(settings), channels=(4, 2))


def _check_settings(size: Size, settings: Settings) -> None:
    check_square(size, settings, smallest=8)
    _check.positive_integer(settings["steps"], "steps")
    _check.positive_number(settings["step"], "step")
    for name in ("pairs", "unseen_pairs"):
        pairs = np.array(settings[name], dtype=np.float64)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not (pairs > 0).all():
            raise ValueError(f"{name} must be a list of pairs of positive numbers (f, k), but it is {settings[name]!r}")
    placer(settings["device"], settings["precision"])  # names a device or a precision that is not there


_SETTINGS: dict[str, Any] = {
    "inverse": False,
    "steps": 10_000,
    "step": 1.0,
    "pairs": PAIRS,
    "unseen_pairs": UNSEEN_PAIRS,
    "device": None,
    "precision": "float64",
}

GRAY_SCOTT = Recipe(
    name="gray-scott",
    equation="A_t = dA Lap A - A B^2 + f (1 - A), B_t = dB Lap B + A B^2 - (f + k) B, periodic on [-1, 1]^2",
    generate=_generate,
    assemble=_assemble,
    size=(128, 128),
    samples={"train": 960, "validation": 120, **dict.fromkeys(TEST_SETS, 120)},
    settings=_SETTINGS,
    check=_check_settings,
    chunk=120,
    outside=("inverse", "device"),
)
