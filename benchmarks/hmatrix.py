"""H-matrices: builds and products in 2-D and 3-D, mixed precision, Cholesky factorisation of a covariance, growth.

Points are uniform in the unit square or cube; leaves of 64, eta 2; float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

import structmat as sm
from benchmarks.harness import Report, alternating_times, best_time, cold_time, growth_exponent, median_time
from benchmarks.memory import peak_memory
from structmat._backend import one_blas_thread
from structmat.kernelfunctions import KernelFunction, Laplace, Matern

NUGGET = 1e-3


def run(report: Report, quick: bool) -> None:
    """Measure everything at the sizes of the limits (quick: at small ones)."""
    n2, n3, nc = (2**12, 2**12, 2**11) if quick else (2**16, 2**15, 2**14)
    builds(report, "2-D, log", Laplace(dim=2), points(n2, 2), 1e-6, 1.0, (850.0, 430.0), quick)
    peak = peak_memory(built_bytes, n2, prepare=small_build)
    report.add(
        "2-D, log: peak memory of the build over the result", peak.peak_bytes / peak.result, "", None if quick else 2.0
    )
    builds(report, "3-D, 1/r", Laplace(dim=3), points(n3, 3), 1e-4, 2.0, (None, None), quick)
    plain_callable(report, points(n2, 2), quick)
    mixed_precision(report, points(2**12 if quick else 2**15, 2), quick)
    covariance(report, points(nc, 2), quick)
    if not quick:
        growth(report)


def points(n: int, dimension: int) -> np.ndarray:
    """Uniform points in the unit cube."""
    return np.random.default_rng(0).random((n, dimension))


def sampled_error(a: Any, kernel: Any, x: np.ndarray, rows: int = 200) -> float:
    """Relative Frobenius error on random dense rows."""
    pick = np.sort(np.random.default_rng(7).choice(len(x), rows, replace=False))
    exact = kernel(x[pick], x)
    unit = np.zeros((len(x), rows))
    unit[pick, np.arange(rows)] = 1.0
    return float(np.linalg.norm(a.rmatmat(unit).T - exact) / np.linalg.norm(exact))


def builds(
    report: Report, name: str, kernel: KernelFunction, x: np.ndarray, rtol: float, limit: float,
    megabytes: tuple[float | None, float | None], quick: bool,
) -> None:  # fmt: skip
    """Build, storage, error and product, with both halves stored and with one."""
    unit = report.floors.matmul_seconds
    v = np.random.default_rng(1).standard_normal(len(x))
    for symmetric, most in zip((False, True), megabytes, strict=True):
        label = f"{name}, symmetric" if symmetric else name

        def build(symmetric: bool = symmetric) -> Any:
            return sm.HMatrix.from_kernel(kernel, x, rtol=rtol, symmetric=symmetric)

        seconds = median_time(build, 3)
        a = build()
        report.add(f"{label}: build", seconds / unit, "T", None if quick else limit)
        report.add(f"{label}: storage", a.nbytes / 1e6, "MB", None if quick else most)
        report.add(f"{label}: error", sampled_error(a, kernel, x), "", rtol, note=str(a.certificate.met))
        seconds = best_time(lambda a=a: a @ v, 20)
        share = report.floors.read_seconds(a.nbytes) / seconds
        report.add(f"{label}: product over the read floor", share, "", None if quick else 0.7, at_least=True)


def built_bytes(n: int) -> int:
    """Build the 2-D matrix; for the measurement of memory."""
    return int(sm.HMatrix.from_kernel(Laplace(dim=2), points(n, 2), rtol=1e-6).nbytes)


def small_build(_n: int) -> None:
    """Compile what `built_bytes` needs."""
    built_bytes(2**12)


def plain_callable(report: Report, x: np.ndarray, quick: bool) -> None:
    """The 2-D build from a function as any user would write it."""

    def kernel(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        r = np.sqrt((s[:, None, 0] - t[None, :, 0]) ** 2 + (s[:, None, 1] - t[None, :, 1]) ** 2)
        return np.log(np.where(r > 0.0, r, 1.0))

    x = x[: 2**14]
    sm.HMatrix.from_kernel(kernel, x[: 2**11], rtol=1e-6)  # compiles
    seconds = median_time(lambda: sm.HMatrix.from_kernel(kernel, x, rtol=1e-6), 1, 0)
    report.add(f"2-D, log, from a plain callable, n = {len(x)}: build", seconds / report.floors.matmul_seconds, "T")


def mixed_precision(report: Report, x: np.ndarray, quick: bool) -> None:
    """The product with one vector in mixed precision against that in double, in turns; the errors of both."""
    kernel, several = Laplace(dim=2), np.random.default_rng(4).standard_normal((len(x), 16))
    v = several[:, 0].copy()
    for rtol in (1e-4, 1e-6, 1e-8, 1e-10):
        for symmetric in (False, True):
            name = f"2-D, log, n = {len(x)}, rtol {rtol:.0e}{', symmetric' if symmetric else ''}, mixed precision"
            a = sm.HMatrix.from_kernel(kernel, x, rtol=rtol, symmetric=symmetric)
            b = a.to_mixed_precision()
            double, mixed = alternating_times((lambda a=a: a @ v, lambda b=b: b @ v), 40)
            limit = None if quick or rtol < 1e-6 else 1.6
            report.add(f"{name}: product, times faster", double / mixed, "", limit, at_least=True)
            many = alternating_times((lambda a=a: a @ several, lambda b=b: b @ several), 10)
            report.add(f"{name}: product with 16 vectors, times faster", many[0] / many[1], "")
            report.add(f"{name}: storage over that in double", b.nbytes / a.nbytes, "")
            report.add(f"{name}: GB/s", b.nbytes / mixed / 1e9, "", note=f"double {a.nbytes / double / 1e9:.1f}")
            before = f"double {sampled_error(a, kernel, x):.2e}"
            report.add(f"{name}: error", sampled_error(b, kernel, x), "", rtol, note=before)


def covariance(report: Report, x: np.ndarray, quick: bool) -> None:
    """Cholesky of Matern 3/2 plus 1e-3 I at two tolerances: time, solve, determinant, residual."""
    unit = report.floors.matmul_seconds
    kernel = Matern(nu=1.5, length=0.2)
    dense = kernel(x, x)
    dense[np.diag_indices(len(x))] += NUGGET
    b = np.random.default_rng(2).standard_normal(len(x))
    with one_blas_thread():  # OpenBLAS 0.3 has been seen to crash in its threaded Cholesky of 16384 rows
        factor = scipy.linalg.cholesky(dense, lower=True, overwrite_a=False)
    exact = 2.0 * float(np.log(np.diagonal(factor)).sum())
    del factor
    for rtol, limit, of_determinant in ((1e-6, 4.0, 1e-5), (1e-8, 8.0, 1e-6)):
        a = sm.HMatrix.from_kernel(kernel, x, rtol=rtol, symmetric=True).add_diagonal(NUGGET)
        seconds = median_time(lambda a=a: a.factorize(positive_definite=True), 3, 0)
        f = a.factorize(positive_definite=True)
        name = f"Matern 3/2, rtol {rtol:.0e}"
        report.add(f"{name}: H-Cholesky", seconds / unit, "T", None if quick else limit)
        product, solve = best_time(lambda a=a: a @ b, 20), best_time(lambda f=f: f.solve(b), 20)
        report.add(f"{name}: solve, in products", solve / product, "", None if quick else 4.0)
        report.add(f"{name}: error of logdet", abs(f.slogdet()[1] / exact - 1.0), "", of_determinant)
        residual = np.linalg.norm(dense @ f.solve(b) - b) / np.linalg.norm(b)
        report.add(f"{name}: residual of a plain solve against the dense matrix", residual, "")
        report.add(f"{name}: storage of the factor", f.nbytes / 1e6, "MB", note=f"matrix {a.nbytes / 1e6:.0f} MB")


def growth(report: Report) -> None:
    """Exponents of the time over n = 2^12 .. 2^16 for the 2-D problem.

    Products of small matrices run from caches and of large ones from memory, which bends the curve: caches are emptied
    before each product, and the warm figure stands beside it. So does that of the storage, which is O(n log n).
    """
    sizes = [2**12, 2**13, 2**14, 2**15, 2**16]
    build, product, warm, storage = [], [], [], []
    for n in sizes:
        x, v = points(n, 2), np.random.default_rng(3).standard_normal(n)
        a = sm.HMatrix.from_kernel(Laplace(dim=2), x, rtol=1e-6)
        build.append(best_time(lambda x=x: sm.HMatrix.from_kernel(Laplace(dim=2), x, rtol=1e-6), 3, 0))
        product.append(cold_time(lambda a=a, v=v: a @ v, 20))
        warm.append(best_time(lambda a=a, v=v: a @ v, 20))
        storage.append(a.nbytes)
    report.add("2-D, log: growth exponent of the build", growth_exponent(sizes, build), "", 1.15)
    report.add("2-D, log: growth exponent of the product", growth_exponent(sizes, product), "", 1.15)
    report.add("2-D, log: growth exponent of the product, caches warm", growth_exponent(sizes, warm), "")
    report.add("2-D, log: growth exponent of the storage", growth_exponent(sizes, storage), "")
