"""Data sets in one dimension: time to make them, errors of their solvers, and how far their two grids agree."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.harness import Report

SEED = 0


def run(report: Report, quick: bool) -> None:
    """Make the data sets of the experiments in full (quick: a twentieth), and compare integrators."""
    generation(report, quick)
    grids(report)
    heat_integrators(report, 4 if quick else 20)
    burgers_integrators(report, 1 if quick else 4)


def generation(report: Report, quick: bool) -> None:
    """Seconds for all parts of each data set, with no cache."""
    from structmat_nn import data

    data.load("burgers", samples=1, size=16, step=0.1, horizon=0.1, cache=False)  # compiles
    for name in ("poisson1d", "poisson1d-neumann", "convection-diffusion1d", "heat", "burgers"):
        counts = {part: max(1, count // (20 if quick else 1)) for part, count in data.recipe(name).samples.items()}
        start = time.perf_counter()
        dataset = data.load(name, samples=counts, cache=False, seed=SEED)
        seconds = time.perf_counter() - start
        report.add(f"{name}: made", seconds, "s", note=f"{sum(counts.values())} samples, {len(dataset.train)} pairs")


def grids(report: Report) -> None:
    """Relative difference between thinned solutions of the fine grid and the operator of the training grid."""
    from structmat_nn import data
    from structmat_nn.data.interval import heat_on_training_grid, poisson_on_training_grid

    poisson = data.load("poisson1d", samples=200, cache=False, seed=SEED).tests["in span"]
    difference = relative(poisson_on_training_grid(poisson.inputs, 4), poisson.outputs)
    report.add("poisson1d, in span: operator of the training grid against the fine grid", difference, "", 1e-3)
    heat = data.load("heat", samples=100, cache=False, seed=SEED).tests["in span"]
    stepped = heat_on_training_grid(heat.inputs, 4, np.array([2e-4 * 0.8]))[:, 0]
    report.add(
        "heat, in span: operator of the training grid against the fine grid", relative(stepped, heat.outputs), ""
    )
    increments = relative(stepped - heat.inputs, heat.outputs - heat.inputs)
    report.add("heat, in span: the same for the increment of a step", increments, "", 1e-2)


def heat_integrators(report: Report, samples: int) -> None:
    """The exact exponential against BDF at the published tolerances: difference and time."""
    from structmat_nn import data

    found: dict[str, Any] = {}
    seconds = {}
    counts = dict.fromkeys(data.recipe("heat").samples, 1) | {"in span": samples}
    for method in ("exact", "bdf"):
        start = time.perf_counter()
        found[method] = data.load("heat", samples=counts, method=method, cache=False, seed=SEED).trajectories
        seconds[method] = time.perf_counter() - start
    report.add("heat: BDF (1e-4, 1e-6) against the exact exponential", relative(found["bdf"], found["exact"]), "", 1e-3)
    report.add("heat: time of BDF over that of the exponential", seconds["bdf"] / seconds["exact"], "x")


def burgers_integrators(report: Report, samples: int) -> None:
    """RODAS3 at the published tolerances against itself and against SciPy's BDF, both at tight tolerances."""
    import scipy.integrate
    import scipy.sparse

    from structmat_nn import data
    from structmat_nn.data.burgers import solve_burgers

    counts = dict.fromkeys(data.recipe("burgers").samples, 1) | {"in span": samples}
    fine = data.load("burgers", samples=counts, size=1024, refinement=1, cache=False, seed=SEED)
    assert fine.trajectories is not None
    initial, times = fine.trajectories[:, 0], 0.2 * np.arange(76)
    tight = solve_burgers(initial, times, rtol=1e-8, atol=1e-10)
    report.add("burgers: error in time, whole trajectories", relative(fine.trajectories, tight), "", 1e-3)
    points = initial.shape[1]
    bands = scipy.sparse.diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(points - 1, points - 1)).tocsc()

    def derivative(now: float, inner: Any) -> Any:
        u = np.concatenate([[0.0], inner, [0.0]])
        advection = (u[2:] ** 2 - u[:-2] ** 2 + u[1:-1] * (u[2:] - u[:-2])) * points / 6
        return 1e-3 * (u[2:] - 2 * u[1:-1] + u[:-2]) * points**2 - advection

    start = time.perf_counter()
    other = scipy.integrate.solve_ivp(
        derivative, (0, 15), initial[0, 1:], "BDF", times, rtol=1e-7, atol=1e-9, jac_sparsity=bands
    )
    report.add(
        "burgers: SciPy's BDF (1e-7, 1e-9) against RODAS3 (1e-8, 1e-10)",
        relative(other.y.T[None], tight[:1, :, 1:]),
        "",
        1e-4,
        note=f"one trajectory in {time.perf_counter() - start:.1f} s",
    )


def relative(found: Any, expected: Any) -> float:
    """The mean over samples of relative errors in the Euclidean norm."""
    axes = tuple(range(1, expected.ndim))
    norms = np.sqrt((expected**2).sum(axis=axes))
    return float((np.sqrt(((found - expected) ** 2).sum(axis=axes)) / norms).mean())
