"""What data sets of time-dependent equations in one dimension share: times, laws of initial values, assembly."""

from __future__ import annotations

from typing import Any

import numpy as np

from structmat._typing import NumpyArray

from .dataset import TEST_SETS, DataSet, Pairs, Parts, Settings
from .fields import gaussian_random_field, scaled_to_one, sine_series

__all__ = ["check_positive", "output_times", "smooth_initial_values", "trajectories_data_set"]


def output_times(settings: Settings) -> NumpyArray:
    """0, step, 2 step, ..., horizon."""
    return settings["step"] * np.arange(round(settings["horizon"] / settings["step"]) + 1)


def check_times(settings: Settings) -> None:
    """A horizon of a whole number of steps."""
    check_positive(settings, "step", "horizon")
    steps = settings["horizon"] / settings["step"]
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-9 * steps:
        raise ValueError(
            f"horizon must be a whole number of steps, but horizon {settings['horizon']} is {steps:g} steps of "
            f"{settings['step']}"
        )


def check_positive(settings: Settings, *names: str) -> None:
    """Finite numbers above zero."""
    for name in names:
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"{name} must be a number > 0, but it is {value!r}")


def smooth_initial_values(
    part: str, coefficients: NumpyArray, modes: NumpyArray, points: NumpyArray, rng: np.random.Generator
) -> NumpyArray:
    """Sines on `points`, scaled to a largest value of one; in the set out of span, Gaussian fields in turns with them.

    `points` are uniform and begin on the left end of the unit interval, where the value is zero.
    """
    values = sine_series(coefficients, points, modes)
    if part == "out of span" and len(values) > 1:
        inner = round(1 / points[1]) - 1
        fields = gaussian_random_field(len(values) // 2, inner, length_scale=0.05, smoothness=4.0, rng=rng)
        values[1::2, 1 : inner + 1] = fields[:, : len(points) - 1]
    return scaled_to_one(values)


def trajectories_data_set(
    name: str, parts: Parts, *, grid: tuple[NumpyArray, ...], settings: Settings, symmetric: bool | None
) -> DataSet:
    """Pairs of states one step apart; the trajectories of the test set in span are kept for roll-outs."""
    pairs = {part: _steps(arrays["trajectories"]) for part, arrays in parts.items()}
    return DataSet(
        name,
        train=pairs["train"],
        validation=pairs["validation"],
        tests={test: pairs[test] for test in TEST_SETS},
        grid=grid,
        settings=dict(settings),
        trajectories=parts["in span"]["trajectories"],
        symmetric=symmetric,
    )


def _steps(trajectories: NumpyArray) -> Pairs:
    size: tuple[Any, ...] = trajectories.shape[2:]
    return Pairs(trajectories[:, :-1].reshape(-1, *size), trajectories[:, 1:].reshape(-1, *size))
