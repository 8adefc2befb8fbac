"""What the data sets in two and three dimensions cost to make, and how far their discretisation is from the limit."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.harness import Report
from structmat_nn import data
from structmat_nn.data.gray_scott import PAIRS, random_fourier, solve_gray_scott
from structmat_nn.data.navier_stokes import body_force, initial_vorticity, solve_navier_stokes

LINEAR = {
    "poisson2d": 256,
    "poisson2d-lshape": 256,
    "poisson2d-mixed": 256,
    "helmholtz2d": 256,
    "helmholtz2d-indefinite": 256,
    "poisson3d": 8,
}
REFINED = ("poisson2d", "poisson2d-lshape", "poisson2d-mixed")


def run(report: Report, quick: bool) -> None:
    """Time the generators at their default sizes, and compare with finer grids and shorter steps."""
    for name, count in LINEAR.items():
        _cost_of_a_linear_set(report, name, count, quick)
    for name in REFINED:
        _effect_of_refinement(report, name, quick)
    _gray_scott(report, quick)
    _navier_stokes(report, quick)


def _cost_of_a_linear_set(report: Report, name: str, count: int, quick: bool) -> None:
    size = 32 if quick else None
    counts = dict.fromkeys(data.recipe(name).samples, 1)
    data.load(name, samples=counts, size=size, cache=False)  # factorisations are kept
    start = time.perf_counter()
    data.load(name, samples={**counts, "train": count}, size=size, cache=False)
    report.add(f"{name}: a sample", 1e3 * (time.perf_counter() - start) / count, "ms")


def _effect_of_refinement(report: Report, name: str, quick: bool) -> None:
    """How much the training outputs change on a grid of twice the points."""
    size = 32 if quick else 64
    half = [False] if name == "poisson2d-mixed" else [False, True]
    for half_waves in half:
        settings = {} if name == "poisson2d-mixed" else {"half_waves": half_waves}
        one, two = (data.load(name, samples=8, size=size, refinement=r, cache=False, **settings).train for r in (2, 4))
        change = np.linalg.norm(one.outputs - two.outputs) / np.linalg.norm(two.outputs)
        label = f"{name}{', half waves' if half_waves else ''}: outputs on a grid of twice the points"
        report.add(label, change, "relative change")


def _gray_scott(report: Report, quick: bool) -> None:
    n, steps = (32, 20) if quick else (128, 100)
    pairs = np.array(PAIRS)
    initial = random_fourier(*pairs.T, n, np.random.default_rng(0))
    start = time.perf_counter()
    end = solve_gray_scott(initial, *pairs.T, steps=steps)
    report.add("gray-scott: 1000 steps of a trajectory", (time.perf_counter() - start) / (6e-3 * steps), "s")
    finer = solve_gray_scott(initial, *pairs.T, steps=2 * steps, step=0.5)
    change = np.linalg.norm(end - finer) / np.linalg.norm(finer)
    report.add(f"gray-scott: half the step, after {steps} s", change, "relative change")


def _navier_stokes(report: Report, quick: bool) -> None:
    n = 32 if quick else 128
    settings = data.recipe("navier-stokes").settings
    steps = settings["steps"]
    initial = initial_vorticity(4, n, np.random.default_rng(0))
    arguments = {"viscosity": settings["viscosity"], "horizon": settings["horizon"], "force": body_force(n)}
    start = time.perf_counter()
    end = solve_navier_stokes(initial, steps=steps, **arguments)[:, 0]
    report.add("navier-stokes: a sample", 1e3 * (time.perf_counter() - start) / 4, "ms")
    finer = solve_navier_stokes(initial, steps=2 * steps, **arguments)[:, 0]
    report.add("navier-stokes: half the step", np.linalg.norm(end - finer) / np.linalg.norm(finer), "relative change")
    still = initial + settings["horizon"] * body_force(n)
    report.add(
        "navier-stokes: w_0 + q instead of w_10",
        float(np.mean(np.linalg.norm(end - still, axis=(1, 2)) / np.linalg.norm(end, axis=(1, 2)))),
        "relative error",
    )
    report.add("navier-stokes: standard deviation of w_0", float(initial.std()), "")
