"""The Poisson equation in the plane: the unit square, the L-shape, and the periodic square without a disk."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from structmat._typing import NumpyArray

from .compact import solve_dirichlet
from .cube_inputs import axis_points, draw_forcing, pairs_by_part
from .dataset import TEST_SETS, DataSet, Parts, Recipe, Settings, Size
from .domains2d import LShape, PerforatedSquare
from .lifting2d import random_boundary

__all__ = ["POISSON_2D", "POISSON_2D_LSHAPE", "POISSON_2D_MIXED"]

_l_shape = lru_cache(maxsize=4)(LShape)
_perforated_square = lru_cache(maxsize=4)(PerforatedSquare)


def wave_spans(n: int, half_waves: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Wave numbers in half periods, (first, last, step): 1..10 whole (or half) waves, and 11..20 for "out of span".

    The second range ends where the training grid of n points ceases to resolve the waves.
    """
    factor = 1 if half_waves else 2
    return (factor, 10 * factor, factor), (11 * factor, min(20 * factor, (n - 1) // factor * factor), factor)


def check_square(size: Size, settings: Settings, *, smallest: int = 24) -> None:
    """The same number of points on all axes, enough for waves out of span; a refinement of at least 1."""
    if len(set(size)) != 1:
        raise ValueError(f"size must have the same number of points on each axis, but it is {size}")
    if size[0] < smallest:
        raise ValueError(f"size must be at least {smallest}, so that the grid resolves the waves, but it is {size[0]}")
    refinement = settings.get("refinement", 1)
    if not isinstance(refinement, int) or isinstance(refinement, bool) or refinement < 1:
        raise ValueError(f"refinement must be an integer >= 1, but it is {refinement!r}")
    for name in ("half_waves", "inverse"):
        if name in settings and not isinstance(settings[name], bool):
            raise ValueError(f"{name} must be True or False, but it is {settings[name]!r}")
    if settings.get("train_on", "sines") not in ("sines", "white noise"):
        raise ValueError(f"train_on must be 'sines' or 'white noise', but it is {settings['train_on']!r}")


def is_white(part: str, settings: Settings) -> bool:
    """Whether the inputs of this part are white noise."""
    return part in ("white noise", "adjoint") or (
        settings["train_on"] == "white noise" and part in ("train", "validation")
    )


def thin(values: NumpyArray, refinement: int) -> NumpyArray:
    """Every `refinement`-th point of the last two axes."""
    return np.ascontiguousarray(values[..., ::refinement, ::refinement])


def _sines(part: str, count: int, rng: np.random.Generator, n: int, settings: Settings, boundary: str) -> NumpyArray:
    fine = n * settings["refinement"]
    spans = wave_spans(n, settings.get("half_waves", False))
    return draw_forcing(part, count, rng, fine, terms=10, spans=spans, boundary=boundary)


def _generate_square(
    part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings
) -> dict[str, NumpyArray]:
    if is_white(part, settings):
        inputs = rng.standard_normal((count, *size))
        outputs = solve_dirichlet(inputs, 2)
    else:
        forcing = _sines(part, count, rng, size[0], settings, "dirichlet")
        refinement = settings["refinement"]
        inputs, outputs = thin(forcing, refinement), thin(solve_dirichlet(forcing, 2), refinement)
    if settings["boundary"] is None:
        return {"inputs": inputs, "outputs": outputs}
    lift = random_boundary(count, size[0], rng)
    return {"inputs": np.stack([inputs, lift], axis=1), "outputs": outputs + lift}


def _generate_l_shape(
    part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings
) -> dict[str, NumpyArray]:
    coarse = _l_shape(size[0])
    if is_white(part, settings):
        inputs = rng.standard_normal((count, *size)) * coarse.mask
        solve = coarse.solve_adjoint if part == "adjoint" else coarse.solve
        return {"inputs": inputs, "outputs": solve(inputs)}
    fine = _l_shape(size[0] * settings["refinement"])
    forcing = _sines(part, count, rng, size[0], settings, "dirichlet") * fine.mask
    refinement = settings["refinement"]
    return {"inputs": thin(forcing, refinement), "outputs": thin(fine.solve(forcing), refinement)}


def _generate_mixed(
    part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings
) -> dict[str, NumpyArray]:
    refinement, radius = settings["refinement"], settings["radius"]
    fine = _perforated_square(size[0] * refinement, radius)
    mask = thin(fine.mask, refinement)
    if is_white(part, settings):
        # a cell of the coarse grid may reach into the domain where no fine cell does: it has no source there
        coarse = _perforated_square(size[0], radius)
        inputs = rng.standard_normal((count, *size)) * mask
        volumes = coarse.volumes * mask
        if part == "adjoint":
            outputs = coarse.solve_adjoint(inputs) * mask
            outputs -= volumes * outputs.sum(axis=(1, 2), keepdims=True) / volumes.sum()
        else:
            inputs -= mask * (inputs * volumes).sum(axis=(1, 2), keepdims=True) / volumes.sum()
            outputs = coarse.solve(inputs) * mask
        return {"inputs": inputs, "outputs": outputs}
    forcing = fine.remove_mean(_sines(part, count, rng, size[0], settings, "periodic"))
    return {"inputs": thin(forcing, refinement), "outputs": thin(fine.solve(forcing), refinement)}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    mask = None
    if name == "poisson2d-lshape":
        mask = _l_shape(size[0]).mask
    elif name == "poisson2d-mixed":
        mask = thin(
            _perforated_square(size[0] * settings["refinement"], settings["radius"]).mask, settings["refinement"]
        )
    return DataSet(
        name,
        **pairs_by_part(parts),
        grid=(axis_points(size[0]),) * 2,
        settings=dict(settings),
        mask=mask,
        channels=(1, 1) if settings.get("boundary") is None else (2, 1),
        symmetric=mask is None if settings.get("boundary") is None else None,
    )


def _check_boundary(size: Size, settings: Settings) -> None:
    check_square(size, settings)
    if settings["boundary"] not in (None, "random"):
        raise ValueError(f"boundary must be None or 'random', but it is {settings['boundary']!r}")


def _check_mixed(size: Size, settings: Settings) -> None:
    check_square(size, settings)
    _perforated_square(size[0], settings["radius"])  # names a radius that the grid does not see


def _samples(train: int, tests: int) -> dict[str, int]:
    return {"train": train, "validation": tests, **dict.fromkeys(TEST_SETS, tests)}


_SQUARE: dict[str, Any] = {"refinement": 2, "half_waves": False, "train_on": "sines"}

POISSON_2D = Recipe(
    name="poisson2d",
    equation="-Lap u = f on the unit square, u given on its boundary",
    generate=_generate_square,
    assemble=_assemble,
    size=(64, 64),
    samples=_samples(4200, 800),
    settings={**_SQUARE, "boundary": None},
    check=_check_boundary,
)

POISSON_2D_LSHAPE = Recipe(
    name="poisson2d-lshape",
    equation="-Lap u = f on the unit square without its top right quarter, u = 0 on the boundary",
    generate=_generate_l_shape,
    assemble=_assemble,
    size=(64, 64),
    samples={**_samples(2250, 250), "adjoint": 250},
    settings=_SQUARE,
    check=check_square,
)

POISSON_2D_MIXED = Recipe(
    name="poisson2d-mixed",
    equation="-Lap u = f on the periodic unit square without a disk, du/dn = 0 on the circle, means removed",
    generate=_generate_mixed,
    assemble=_assemble,
    size=(64, 64),
    samples={**_samples(2250, 250), "adjoint": 250},
    settings={"refinement": 2, "radius": 0.2, "train_on": "sines"},
    check=_check_mixed,
)
