"""The Poisson equation on the unit cube, zero on its boundary, by the compact stencil of 19 points."""

from __future__ import annotations

import numpy as np

from structmat._backend import thread_count
from structmat._typing import NumpyArray

from .compact import solve_dirichlet
from .cube_inputs import axis_points, draw_forcing, pairs_by_part
from .dataset import DataSet, Parts, Recipe, Settings, Size
from .poisson2d import check_square, is_white

__all__ = ["POISSON_3D"]


def _generate(part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings) -> dict[str, NumpyArray]:
    n = size[0]
    if is_white(part, settings):
        forcing = rng.standard_normal((count, *size))
    else:
        first, last = settings["waves"]
        spans = (first, last, 1), (last + 1, min(last + 20, n - 1), 1)
        forcing = draw_forcing(part, count, rng, n, terms=20, spans=spans, boundary="dirichlet", dimension=3)
    solution = solve_dirichlet(forcing, 3, workers=thread_count())
    # the solution belongs to the float64 forcing: the stored numbers are off by one rounding each
    return {"inputs": forcing.astype(settings["storage"]), "outputs": solution.astype(settings["storage"])}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    return DataSet(
        name, **pairs_by_part(parts), grid=(axis_points(size[0]),) * 3, settings=dict(settings), symmetric=True
    )


def _check(size: Size, settings: Settings) -> None:
    waves = settings["waves"]
    if not isinstance(waves, list) or len(waves) != 2 or not all(isinstance(w, int) for w in waves):
        raise ValueError(f"waves must be the first and the last wave number of an axis, but it is {waves!r}")
    if not 1 <= waves[0] <= waves[1]:
        raise ValueError(f"waves must be two ascending numbers from 1 on, but it is {waves!r}")
    # a few waves must be left for the test set out of span
    check_square(size, settings, smallest=waves[1] + 5)
    if settings["storage"] not in ("float32", "float64"):
        raise ValueError(f"storage must be 'float32' or 'float64', but it is {settings['storage']!r}")


POISSON_3D = Recipe(
    name="poisson3d",
    equation="-Lap u = f on the unit cube, u = 0 on its boundary",
    generate=_generate,
    assemble=_assemble,
    size=(128, 128, 128),
    samples={"train": 256, "validation": 16, "in span": 200, "white noise": 16, "out of span": 16},
    settings={"waves": [3, 23], "storage": "float32", "train_on": "sines"},
    check=_check,
    chunk=8,
)
