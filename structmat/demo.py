"""The main job, from end to end: a boundary integral equation, and an operator recovered from samples.

The interior Dirichlet problem of the Laplace equation on a smooth star: compress the double-layer matrix,
factor it, solve, evaluate the solution inside, and compare with an exact harmonic function. Then a Green's
operator from the 12 products of it that somebody recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from . import gallery
from ._typing import NumpyArray
from .hss.matrix import HSSMatrix
from .plot import format_bytes
from .tree import ClusterTree

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run"]

RTOL = 1e-12  # the equation is well conditioned, so the solution is nearly as accurate as the matrix
LARGEST_ERROR = 1e-9
LARGEST_RECOVERY_ERROR = 1e-12
SMALLEST_SIZE = 512
DENSE_SIZE = 4096
GRID = 320

Progress = Callable[[str], AbstractContextManager[Callable[[float], None]]]


@dataclass(frozen=True)
class LaplaceResult:
    """What was solved, how well, and how long each step took."""

    problem: gallery.InteriorLaplace
    matrix: HSSMatrix
    factor_bytes: int
    seconds: dict[str, float]
    z: NumpyArray  # (GRID, GRID) complex points
    values: NumpyArray  # (GRID, GRID), NaN where nothing was computed
    errors: NumpyArray  # (GRID, GRID), relative to the largest value inside

    @property
    def error(self) -> float:
        """The largest relative error inside; NaN if nothing was computed."""
        known = np.isfinite(self.errors)
        return float(self.errors[known].max()) if known.any() else float("nan")


def run(folder: Path, size: int, console: Console) -> bool:
    """Solve, recover, draw and report.

    Parameters
    ----------
    folder : path
        For the pictures and the compressed matrix; created if need be.
    size : int
        Number of nodes on the curve, at least 512.
    console : rich.console.Console
        Where the report goes.

    Returns
    -------
    bool
        Whether both errors are as small as promised.
    """
    from ._console import progress_bar

    if size < SMALLEST_SIZE:
        raise ValueError(f"the demonstration needs at least {SMALLEST_SIZE} nodes, but size = {size}")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    def progress(title: str) -> AbstractContextManager[Callable[[float], None]]:
        return progress_bar(console, title)

    console.rule("[bold]1. The Laplace equation inside a star")
    with progress("compiling"):
        compiled = _compile()
    result = _solve_laplace(size, progress)
    dense = _time_dense(min(DENSE_SIZE, size), progress)
    _report_laplace(console, result, dense, compiled)
    console.rule("[bold]2. A Green's operator from 12 samples")
    recovered = _recover(console)
    with progress("drawing"):
        _draw(folder, result)
    result.matrix.save(folder / "laplace.npz")
    console.print(f"\nin {folder}: block_ranks.png, solution.png, laplace.npz", highlight=False, soft_wrap=True)
    console.print(f"total time {time.perf_counter() - start:.1f} s", highlight=False)
    good = result.error <= LARGEST_ERROR and recovered <= LARGEST_RECOVERY_ERROR
    console.print("[bold green]all errors are as small as promised" if good else "[bold red]an error is too large")
    return good


def _compile() -> float:
    """Run a small problem once, so that no compilation is timed."""
    start = time.perf_counter()
    problem = gallery.interior_laplace(1024)
    matrix = HSSMatrix.from_entries(problem.entries, problem.tree(), rtol=RTOL)
    matrix.factorize().solve(problem.boundary_values)
    matrix @ problem.boundary_values
    return time.perf_counter() - start


# ------------------------------------------------------------------------------ the integral equation


def _solve_laplace(size: int, progress: Progress) -> LaplaceResult:
    problem = gallery.interior_laplace(size)
    seconds: dict[str, float] = {}
    with progress("compressing") as advance:
        start = time.perf_counter()
        matrix = HSSMatrix.from_entries(problem.entries, problem.tree(), rtol=RTOL, progress=advance)
        seconds["build"] = time.perf_counter() - start
    with progress("factoring and solving"):
        start = time.perf_counter()
        factorization: Any = matrix.factorize()
        seconds["factor"] = time.perf_counter() - start
        start = time.perf_counter()
        density = factorization.solve(problem.boundary_values)
        seconds["solve"] = time.perf_counter() - start
    with progress("evaluating"):
        start = time.perf_counter()
        reach = 1.02 * float(np.abs(problem.points).max())
        x = np.linspace(-reach, reach, GRID)
        z = x[None, :] + 1j * x[:, None]
        values = problem.potential(density, z)
        seconds["evaluate"] = time.perf_counter() - start
    exact = problem.harmonic(z)
    errors = np.abs(values - exact)
    if np.isfinite(errors).any():
        errors /= np.abs(exact[np.isfinite(errors)]).max()
    return LaplaceResult(problem, matrix, factorization.nbytes, seconds, z, values, errors)


def _time_dense(size: int, progress: Progress) -> dict[str, float]:
    """Form, factor and solve the same equation with `size` nodes as a dense matrix."""
    problem = gallery.interior_laplace(size)
    with progress("dense LU, for comparison"):
        start = time.perf_counter()
        dense = problem.dense()
        formed = time.perf_counter()
        factors = scipy.linalg.lu_factor(dense, overwrite_a=True, check_finite=False)
        factored = time.perf_counter()
        scipy.linalg.lu_solve(factors, problem.boundary_values, check_finite=False)
        done = time.perf_counter()
    return {"n": size, "build": formed - start, "factor": factored - formed, "solve": done - factored}


def _report_laplace(console: Console, result: LaplaceResult, dense: dict[str, float], compiled: float) -> None:
    from rich.markup import escape
    from rich.table import Table

    n, small = result.problem.n, int(dense["n"])
    ratio = n / small
    table = Table(title=f"double-layer equation, {n} nodes, rtol {RTOL:.0e}")
    table.add_column("")
    columns = ["HSS", f"dense LU, n = {small}", f"dense LU, n = {n} (extrapolated)"]
    for column in columns if ratio > 1 else columns[:2]:
        table.add_column(column, justify="right")

    def row(title: str, fast: str, slow: float, power: int, unit: Callable[[float], str]) -> None:
        large = [unit(slow * ratio**power)] if ratio > 1 else []
        table.add_row(title, fast, unit(slow), *large)

    row("matrix", format_bytes(result.matrix.nbytes), 8.0 * small**2, 2, format_bytes)
    row("factors", format_bytes(result.factor_bytes), 8.0 * small**2, 2, format_bytes)
    for title, power in (("build", 2), ("factor", 3), ("solve", 2)):
        row(title, _seconds(result.seconds[title]), dense[title], power, _seconds)
    console.print(table)
    known = int(np.isfinite(result.errors).sum())
    nearest = result.problem.safe_distance()
    for line in (
        f"ranks up to {result.matrix.max_rank}; certificate: {escape(str(result.matrix.certificate))}",
        f"the solution inside, at {known} points at least {nearest:.2g} from the curve: "
        f"{_seconds(result.seconds['evaluate'])}",
        f"largest relative error against the exact solution: {_verdict(result.error, LARGEST_ERROR)}",
        f"(compiling and warming up took {_seconds(compiled)}, and is in none of the times above)",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _seconds(value: float) -> str:
    if value < 0.1:
        return f"{1000 * value:.2g} ms"
    return f"{value:.2g} s" if value < 100 else f"{value / 60:.3g} min"


def _verdict(error: float, limit: float) -> str:
    colour, relation = ("green", "at most") if error <= limit else ("red", "NOT at most")
    return f"[bold {colour}]{error:.1e}[/] ({relation} {limit:.0e})"


# ----------------------------------------------------------------------------------- recovery


def _recover(console: Console) -> float:
    """Recover the operator from its products with 12 random vectors; return the relative Frobenius error."""
    n, samples, rank = 1024, 12, 2
    problem = gallery.green_operator_1d(n)
    inputs = np.random.default_rng(0).standard_normal((n, samples))
    outputs = problem.operator() @ inputs
    start = time.perf_counter()
    tree = ClusterTree.balanced(n, leaf_size=8)
    matrix = HSSMatrix.from_samples(inputs, outputs, tree, rank=rank, symmetric=True)
    seconds = time.perf_counter() - start
    exact = problem.dense()
    error = float(np.linalg.norm(matrix.to_dense() - exact) / np.linalg.norm(exact))
    for line in (
        f"-u'' = f on (0, 1) with u = 0 at the ends, {n} points: {samples} recorded pairs (f, u) give "
        f"the whole {n} x {n} operator",
        f"ranks up to {matrix.max_rank}, {format_bytes(matrix.nbytes)} instead of "
        f"{format_bytes(exact.nbytes)}, recovered in {_seconds(seconds)}",
        f"relative error of all entries: {_verdict(error, LARGEST_RECOVERY_ERROR)}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return error


# ----------------------------------------------------------------------------------- pictures


def _draw(folder: Path, result: LaplaceResult) -> None:
    """Write the pictures; on figures of their own, so that no window opens and no backend is asked for."""
    from matplotlib.figure import Figure

    from .archive import atomic_file

    ranks = Figure(figsize=(7.2, 6.2), layout="compressed")
    axes = result.matrix.plot(ranks.add_subplot())
    axes.set_title(f"ranks of the blocks, n = {result.problem.n}")
    fields = Figure(figsize=(11.0, 5.0), layout="compressed")
    draw_fields(fields.subplots(1, 2, sharex=True, sharey=True), result)
    for name, figure in (("block_ranks.png", ranks), ("solution.png", fields)):
        with atomic_file(folder / name) as file:
            figure.savefig(file, format="png", dpi=150)


def draw_fields(axes: Any, result: LaplaceResult) -> None:
    """The solution and its error, side by side, inside the curve."""
    from matplotlib.colors import LogNorm

    x, y = result.z.real, result.z.imag
    curve = np.append(result.problem.nodes, result.problem.nodes[0])
    shown = axes[0].pcolormesh(x, y, result.values, cmap="viridis", shading="nearest")
    axes[0].contour(x, y, result.values, levels=20, colors="white", linewidths=0.4, linestyles="solid")
    axes[0].figure.colorbar(shown, ax=axes[0], label="u")
    axes[0].set_title("solution")
    errors = np.maximum(result.errors, 1e-16)  # rounding; a logarithm has no zero
    shown = axes[1].pcolormesh(x, y, errors, cmap="magma", norm=LogNorm(1e-16, 1e-9), shading="nearest")
    axes[1].figure.colorbar(shown, ax=axes[1], label="relative error")
    axes[1].set_title(f"error, at most {result.error:.1e}")
    for ax in axes:
        ax.plot(curve.real, curve.imag, color="black", linewidth=1.0)
        ax.set(aspect="equal", xlabel="x", ylabel="y")
