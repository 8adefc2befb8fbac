"""Gaussian-process regression: the weekly CO2 record on the line, and terrain heights in the plane.

Fitted hyperparameters, times of an evaluation with its gradient, predictions of data that were kept back, and the
likelihood and gradient against dense Cholesky: on the whole record in 1-D, on a subset in 2-D. The heights are those of
the elevation model that matplotlib carries (Jacksboro fault, 344 x 403 points), at scattered places.
"""

from __future__ import annotations

import itertools
import time
import warnings
from dataclasses import dataclass

import numpy as np

import structmat as sm
from benchmarks.harness import Report, median_time
from structmat.gp import HierarchicalGPRegressor, MarginalLikelihood
from structmat.kernelfunctions import Gaussian, KernelFunction, Matern, Periodic

CELL = 0.09  # km, side of a cell of the elevation model: 0.000833 degrees


@dataclass(frozen=True)
class Data:
    """Points and values to learn from, and others to predict."""

    x: np.ndarray  # (n, d)
    y: np.ndarray  # (n,), mean zero
    new_x: np.ndarray
    new_y: np.ndarray


def run(report: Report, quick: bool) -> None:
    """Fit CO2 with all weeks before 1999, and terrain at 10000 points (quick: few iterations, 1500 points)."""
    warnings.simplefilter("ignore", sm.StructureWarning)  # weak admissibility has little to offer in the plane
    crossover(report, (500, 1000) if quick else (300, 500, 1000, 1500, 2000, 3000, 4000))
    data, kernel = carbon_dioxide(), carbon_dioxide_kernel()
    against_dense(report, "CO2", data, kernel, 0.1, ("hodlr", "hss"), len(data.x))
    fit(report, "CO2", data, kernel, 0.1, format="hodlr", bounds={"1.1.period": "fixed"}, max_iter=3 if quick else 60)
    data, kernel = terrain(1500 if quick else 10000), 100.0**2 * Matern(nu=1.5, length=2.0)
    against_dense(report, "terrain", data, kernel, 100.0, ("hmatrix", "hodlr"), 1500 if quick else 3000)
    fit(report, "terrain", data, kernel, 100.0, format="hmatrix", max_iter=3 if quick else 20, tol=1e-5)


def carbon_dioxide() -> Data:
    """Return the weeks of the Mauna Loa record that were measured; those from 1999 on are kept back."""
    from statsmodels.datasets import co2

    record = co2.load_pandas().data.dropna()
    year = (record.index.year + (record.index.day_of_year - 1) / 365.25).to_numpy()
    ppm = record["co2"].to_numpy() - record["co2"].to_numpy()[year < 1999].mean()
    known = year < 1999
    return Data(year[known, None], ppm[known], year[~known, None], ppm[~known])


def carbon_dioxide_kernel() -> KernelFunction:
    """Trend, drifting season, irregularities."""
    season = 2.0**2 * Gaussian(length=100.0) * Periodic(length=1.0, period=1.0)
    return 60.0**2 * Matern(nu=2.5, length=60.0) + season + 0.5**2 * Matern(nu=0.5, length=1.0)


def terrain(count: int) -> Data:
    """Return heights in metres at random places, in km; 2000 further ones are kept back."""
    from matplotlib import cbook

    heights = np.load(cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))["elevation"].astype(float)
    pick = np.random.default_rng(0).choice(heights.size, count + 2000, replace=False)
    row, column = np.divmod(pick, heights.shape[1])
    x, y = CELL * np.column_stack([column, row]), heights[row, column]
    y -= y[:count].mean()
    return Data(x[:count], y[:count], x[count:], y[count:])


def crossover(report: Report, sizes: tuple[int, ...]) -> None:
    """Times of a likelihood with its gradient, dense and compressed: what "auto" goes by."""
    kernel = 1.0 * Matern(nu=1.5, length=1.0)
    formats = {1: ("dense", "hodlr", "hss"), 2: ("dense", "hmatrix"), 3: ("dense", "hmatrix")}
    for dimension, n in itertools.product(formats, sizes):
        for format in formats[dimension]:
            x = (n / 100) ** (1 / dimension) * np.random.default_rng(n).random((n, dimension))
            problem = MarginalLikelihood(x, np.sin(x[:, 0]), format=format)
            seconds = median_time(lambda p=problem: p.evaluate(kernel, 0.01, gradient=("length", "noise")), 3)
            report.add(f"{dimension}-D: likelihood and gradient, {format}, n = {n}", seconds, "s")


def against_dense(
    report: Report, name: str, data: Data, kernel: KernelFunction, noise: float, formats: tuple[str, ...], subset: int
) -> None:
    """Likelihood and gradient of compressed matrices against those of dense Cholesky."""
    names = (*kernel.hyperparameters, "noise")
    found, seconds = {}, {}
    for format in ("dense", *formats):
        problem = MarginalLikelihood(data.x[:subset], data.y[:subset], format=format)
        problem.evaluate(kernel, noise, gradient=("noise",))  # compiles
        start = time.perf_counter()
        found[format] = problem.evaluate(kernel, noise, gradient=names)
        seconds[format] = time.perf_counter() - start
    dense = found["dense"]
    for format in formats:
        compressed = found[format]
        note = f"n = {subset}, rtol {compressed.rtol:.1e}, rank {compressed.matrix.max_rank}"
        error = abs(compressed.value / dense.value - 1.0)
        report.add(f"{name}: likelihood against dense, {format}", error, "", 1e-5, note=note)
        error = np.abs(compressed.gradient - dense.gradient).max() / np.abs(dense.gradient).max()
        report.add(f"{name}: gradient against dense, {format}, relative to the largest entry", error, "", 1e-4)
    for format, value in seconds.items():
        report.add(f"{name}: likelihood and gradient, {format}", value, "s", note=f"n = {subset}")


def fit(report: Report, name: str, data: Data, kernel: KernelFunction, noise: float, **options: object) -> None:
    """Fit, print what was found, predict what was kept back."""
    gp = HierarchicalGPRegressor(kernel, noise=noise)
    gp.set_params(**options)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", sm.AccuracyWarning)
        gp.fit(data.x, data.y)
    seconds = time.perf_counter() - start
    n = len(data.x)
    print(f"{name}, n = {n}: {gp.kernel_!r}, noise {gp.noise_:.4g}; {[str(w.message) for w in said]}")
    report.add(
        f"{name}: fit, {gp.format_}", seconds, "s", note=f"n = {n}, {gp.n_evaluations_} evaluations with gradients"
    )
    report.add(f"{name}: evaluations that lost a pivot", gp.failed_evaluations_, "")
    report.add(f"{name}: log marginal likelihood", gp.log_marginal_likelihood_value_, "")
    for key, value in {**gp.kernel_.hyperparameters, "noise": gp.noise_}.items():
        report.add(f"{name}: fitted {key}", value, "")
    report.add(f"{name}: matrix", gp.matrix_.nbytes / 1e6, "MB", note=f"dense {8e-6 * n * n:.0f} MB")
    start = time.perf_counter()
    mean, deviation = gp.predict(data.new_x, return_std=True)
    report.add(f"{name}: means and deviations", time.perf_counter() - start, "s", note=f"{len(mean)} points")
    missed = data.new_y - mean
    inside = np.abs(missed) < 2.0 * np.sqrt(deviation**2 + gp.noise_)
    report.add(f"{name}: root mean square error of what was kept back", float(np.sqrt(np.mean(missed**2))), "")
    report.add(f"{name}: share of it within two standard deviations", float(inside.mean()), "")
