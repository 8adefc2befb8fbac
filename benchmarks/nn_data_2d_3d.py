"""What the data sets in two and three dimensions cost to make, and how far their discretisation is from the limit."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Report, best_time
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
    for name in ("helmholtz2d", "helmholtz2d-indefinite"):
        _resonance(report, name)
    _gray_scott(report, quick)
    _navier_stokes(report, quick)


def _cost_of_a_linear_set(report: Report, name: str, count: int, quick: bool) -> None:
    size = 32 if quick else None
    counts = dict.fromkeys(data.recipe(name).samples, 1)
    data.load(name, samples=counts, size=size, cache=False)  # factorisations are kept
    counts["train"] = count
    seconds = best_time(lambda: data.load(name, samples=counts, size=size, cache=False), 3, 0)
    report.add(f"{name}: a sample", 1e3 * seconds / count, "ms")


def _effect_of_refinement(report: Report, name: str, quick: bool) -> None:
    """How much the training outputs change on a grid of twice the points."""
    size = 32 if quick else 64
    half = [False] if name == "poisson2d-mixed" else [False, True]
    for half_waves in half:
        settings = {} if name == "poisson2d-mixed" else {"half_waves": half_waves}
        one, two = (data.load(name, samples=8, size=size, refinement=r, cache=False, **settings) for r in (2, 4))
        # points in the domain on both grids: beside a circle they differ
        both = True if one.mask is None else one.mask & two.mask
        first, second = one.train.outputs * both, two.train.outputs * both
        change = np.linalg.norm(first - second) / np.linalg.norm(second)
        label = f"{name}{', half waves' if half_waves else ''}: outputs on a grid of twice the points"
        report.add(label, change, "relative change")


def _resonance(report: Report, name: str) -> None:
    """The smallest eigenvalue, exact and of a difference scheme, and what its modes hold of the solutions."""
    n = 64
    shift = data.recipe(name).settings["wave_number"] ** 2
    waves = np.fft.fftfreq(n, 1 / n)
    exact = 4 * np.pi**2 * np.add.outer(waves**2, waves**2) - shift
    axis = 2 - 2 * np.cos(2 * np.pi * waves / n)
    axis = n**2 * (axis + axis**2 / 12)  # five points, fourth order
    differences = np.add.outer(axis, axis) - shift
    report.add(f"{name}: smallest eigenvalue", float(np.abs(exact).min()), "")
    report.add(f"{name}: of the fourth-order differences on 64 points", float(np.abs(differences).min()), "")
    outputs = data.load(name, samples=100, cache=False).train.outputs
    power = np.abs(np.fft.fft2(outputs)) ** 2
    nearest = np.isclose(np.abs(exact), np.abs(exact).min())
    report.add(f"{name}: share of its modes in the training outputs", power[:, nearest].sum() / power.sum(), "energy")


def _gray_scott(report: Report, quick: bool) -> None:
    n, steps = (32, 20) if quick else (128, 100)
    pairs = np.array(PAIRS)
    initial = random_fourier(*pairs.T, n, np.random.default_rng(0))
    end = solve_gray_scott(initial, *pairs.T, steps=steps)
    seconds = best_time(lambda: solve_gray_scott(initial, *pairs.T, steps=steps), 3, 0)
    report.add("gray-scott: 1000 steps of a trajectory", seconds / (6e-3 * steps), "s")
    finer = solve_gray_scott(initial, *pairs.T, steps=2 * steps, step=0.5)
    change = np.linalg.norm(end - finer) / np.linalg.norm(finer)
    report.add(f"gray-scott: half the step, after {steps} s", change, "relative change")


def _navier_stokes(report: Report, quick: bool) -> None:
    n = 32 if quick else 128
    settings = data.recipe("navier-stokes").settings
    steps = settings["steps"]
    initial = initial_vorticity(4, n, np.random.default_rng(0))
    arguments = {
        "viscosity": settings["viscosity"],
        "horizon": settings["horizon"],
        "force": body_force(n),
    }
    end = solve_navier_stokes(initial, steps=steps, **arguments)[:, 0]
    seconds = best_time(lambda: solve_navier_stokes(initial, steps=steps, **arguments), 3, 0)
    report.add("navier-stokes: a sample", 1e3 * seconds / 4, "ms")
    finer = solve_navier_stokes(initial, steps=2 * steps, **arguments)[:, 0]
    report.add("navier-stokes: half the step", np.linalg.norm(end - finer) / np.linalg.norm(finer), "relative change")
    still = initial + settings["horizon"] * body_force(n)
    report.add(
        "navier-stokes: w_0 + q instead of w_10",
        float(np.mean(np.linalg.norm(end - still, axis=(1, 2)) / np.linalg.norm(end, axis=(1, 2)))),
        "relative error",
    )
    many = initial_vorticity(1000, 32, np.random.default_rng(0))
    report.add("navier-stokes: standard deviation of w_0", float(many.std()), "")
