"""HODLR: builds, factorisations, solves and determinants against the floors of the same run.

Problem K is 1 / (|x - y| + 1/n), problem L is log|x - y| with diagonal log(1/n), at n equispaced points, rtol 1e-8.
Problem M is a Matern 3/2 covariance of length 0.2 plus 1e-3 I at random points of the unit square, rtol 1e-6. Problem
G is a Gaussian kernel of length 0.1 plus 1e-2 I at equispaced points, rtol 1e-12, for which HODLRlib has published
2.5 s to assemble, 3.9 s to factor, 0.40 s to solve and 0.03 s for the determinant, at n = 10^6 on twelve threads.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

import structmat as sm
from benchmarks.harness import Report, best_time, growth_exponent, median_time
from structmat.gallery import problem_k, problem_l
from structmat.kernelfunctions import Gaussian, Matern

RTOL = 1e-8
PEERS_T = 1.28  # seconds of T on the machine for which absolute limits are stated: they are scaled by it


def run(report: Report, quick: bool) -> None:
    """Measure everything at n = 2^16 (M: 2^14, G: 10^6; quick: 2^12 and 2^11)."""
    n = 2**12 if quick else 2**16
    for problem in (problem_k(n), problem_l(n)):
        line(report, problem, limits=not quick)
    covariance(report, 2**11 if quick else 2**14, limits=not quick)
    gaussian(report, 2**12 if quick else 10**6)
    if not quick:
        growth(report)


def sampled_error(a: sm.HODLRMatrix, problem: Any, rows: int = 200) -> float:
    """Relative Frobenius error on random dense rows."""
    pick = np.sort(np.random.default_rng(7).choice(problem.n, rows, replace=False))
    exact = problem.entries(pick, np.arange(problem.n))
    unit = np.zeros((problem.n, rows))
    unit[pick, np.arange(rows)] = 1.0
    return float(np.linalg.norm(a.rmatmat(unit).T - exact) / np.linalg.norm(exact))


def relative_residual(a: Any, x: np.ndarray, b: np.ndarray) -> float:
    """||A x - b|| / ||b||."""
    return float(np.linalg.norm(a @ x - b) / np.linalg.norm(b))


def line(report: Report, problem: Any, *, limits: bool) -> None:
    """Build, LU-like factorisation and solves of a kernel on a line."""
    unit, name = report.floors.matmul_seconds, "K" if problem.name == "problem_k" else "L"
    sm.HODLRMatrix.from_kernel(problem.kernel, problem.points[:1000], rtol=RTOL).factorize()  # compiles

    def build() -> sm.HODLRMatrix:
        return sm.HODLRMatrix.from_kernel(problem.kernel, problem.points, rtol=RTOL)

    report.add(f"{name}: build", median_time(build, 3, 0) / unit, "T", 0.5 if limits else None)
    a = build()
    report.add(f"{name}: error of the build", sampled_error(a, problem), "", RTOL)
    report.add(f"{name}: storage", a.nbytes / 1e6, "MB", note=f"ranks up to {a.max_rank}")
    report.add(f"{name}: factorisation", median_time(a.factorize, 3, 1) / unit, "T", 0.3 if limits else None)
    f, b = a.factorize(), np.random.default_rng(2).standard_normal(problem.n)
    solve = best_time(lambda: f.solve(b), 20)
    report.add(f"{name}: solve", solve * 1e3, "ms", 20.0 * unit / PEERS_T if limits else None)
    report.add(f"{name}: solve, in products", solve / best_time(lambda: a @ b, 20), "")
    report.add(f"{name}: bandwidth of the solve over the read floor", report.floors.read_seconds(f.nbytes) / solve, "")
    block = np.random.default_rng(3).standard_normal((problem.n, 16))
    report.add(f"{name}: solve, 16 right-hand sides", best_time(lambda: f.solve(block), 5) * 1e3, "ms")
    residuals(report, name, problem, a, f, b)


def residuals(report: Report, name: str, problem: Any, a: sm.HODLRMatrix, f: Any, b: np.ndarray) -> None:
    """Of plain and refined solutions, against the stored and the exact matrix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.IllConditionedWarning)
        x, refined = f.solve(b), a.solve(b, factorization=f, refine=True)
    report.add(f"{name}: residual", relative_residual(a, x, b), "", note="against the stored matrix")
    report.add(f"{name}: residual after one step of refinement", relative_residual(a, refined, b), "")
    report.add(f"{name}: residual against the exact operator", relative_residual(problem.operator(), x, b), "")


def covariance(report: Report, n: int, *, limits: bool) -> None:
    """Symmetric factorisation of a covariance in the plane."""
    unit, points = report.floors.matmul_seconds, np.random.default_rng(0).random((n, 2))
    start = time.perf_counter()
    a = sm.HODLRMatrix.from_kernel(Matern(1.5, 0.2), points, rtol=1e-6, symmetric=True).add_diagonal(1e-3)
    report.add("M: build", (time.perf_counter() - start) / unit, "T", note=f"ranks up to {a.max_rank}")
    report.add("M: storage", a.nbytes / 1e6, "MB")
    seconds = median_time(lambda: a.factorize(positive_definite=True), 3, 1)
    report.add("M: symmetric factorisation", seconds / unit, "T", 0.5 if limits else None)
    f, b = a.factorize(positive_definite=True), np.random.default_rng(4).standard_normal(n)
    product, solve = best_time(lambda: a @ b, 20), best_time(lambda: f.solve(b), 20)
    report.add("M: solve, in products", solve / product, "", 4.0 if limits else None)
    report.add("M: sample, in products", best_time(lambda: f.apply_factor(b), 10) / product, "")
    report.add("M: residual", relative_residual(a, f.solve(b), b), "", 1e-8)
    report.add("M: storage of the factors", f.nbytes / 1e6, "MB")
    report.add("M: general factorisation", median_time(a.factorize, 3, 1) / unit, "T")


def gaussian(report: Report, n: int) -> None:
    """The published run: a Gaussian kernel on a line plus noise."""
    points = (np.arange(n) + 0.5) / n
    small = sm.HODLRMatrix.from_kernel(Gaussian(0.1), points[:: n // 1000], rtol=1e-12, symmetric=True, leaf_size=128)
    small.add_diagonal(1e-2).factorize(positive_definite=True).solve(np.ones(small.shape[0]))  # compiles
    taken = {}
    start = time.perf_counter()
    a = sm.HODLRMatrix.from_kernel(Gaussian(0.1), points, rtol=1e-12, symmetric=True, leaf_size=128).add_diagonal(1e-2)
    taken["assemble"] = time.perf_counter() - start
    start = time.perf_counter()
    f = a.factorize(positive_definite=True)
    taken["factor"] = time.perf_counter() - start
    b = np.random.default_rng(5).standard_normal(n)
    taken["solve"] = best_time(lambda: f.solve(b), 5)
    taken["determinant"] = best_time(f.slogdet, 3)
    published = {"assemble": 2.5, "factor": 3.9, "solve": 0.40, "determinant": 0.03}
    for what, seconds in taken.items():
        report.add(f"G: {what}", seconds, "s", note=f"published, twelve threads: {published[what]} s")
    report.add("G: residual", relative_residual(a, f.solve(b), b), "", 1e-10)
    refined = a.solve(b, factorization=f, refine=True)
    report.add("G: residual after one step of refinement", relative_residual(a, refined, b), "")
    report.add("G: storage", a.nbytes / 1e6, "MB", note=f"ranks up to {a.max_rank}")


def growth(report: Report) -> None:
    """Exponents of the time over n = 2^14 .. 2^17; n log^2 n is about 1.2 there."""
    sizes = [2**14, 2**15, 2**16, 2**17]
    taken: dict[str, list[float]] = {"factorisation": [], "solve": []}
    for n in sizes:
        k = problem_k(n)
        a = sm.HODLRMatrix.from_kernel(k.kernel, k.points, rtol=RTOL)
        f, b = a.factorize(), np.random.default_rng(6).standard_normal(n)
        taken["factorisation"].append(best_time(a.factorize, 3, 0))
        taken["solve"].append(best_time(lambda f=f, b=b: f.solve(b), 10))
    for name, seconds in taken.items():
        report.add(f"K: growth exponent of {name}", growth_exponent(sizes, seconds), "", 1.4)
