"""H2-matrices: builds, storage, products, on the fly, in mixed precision, growth.

Points are uniform in the unit square (P4, the logarithm) or cube (P5, 1/r); leaves of 64, eta 2; float64, symmetric
kernels stored half. The error of a product is measured on 200 exact dense rows, for a random vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import structmat as sm
from benchmarks.harness import Report, alternating_times, best_time, cold_time, growth_exponent, median_time
from structmat.kernelfunctions import KernelFunction, Laplace


def run(report: Report, quick: bool) -> None:
    """Measure everything at the sizes of the limits (quick: at small ones)."""
    n = 2**12 if quick else 2**16
    kernels = Laplace(dim=2), Laplace(dim=3)
    builds(report, "P4, rtol 1e-6", kernels[0], points(n, 2), 1e-6, (0.3, 220.0), quick)
    builds(report, "P5, rtol 1e-4", kernels[1], points(n, 3), 1e-4, (1.0, 1250.0), quick)
    builds(report, "P5, rtol 1e-6", kernels[1], points(n, 3), 1e-6, (3.5, 2600.0), quick)
    largest(report, quick)
    on_the_fly(report, kernels[1], points(n, 3), quick)
    mixed_precision(report, kernels[0], points(n, 2), quick)
    from_products(report, kernels[0], points(2**11 if quick else 2**14, 2))
    matrix_products(report, quick)
    if not quick:
        growth(report)


def points(n: int, dimension: int) -> np.ndarray:
    """Uniform points in the unit cube."""
    return np.random.default_rng(0).random((n, dimension))


def product_error(a: Any, kernel: Any, x: np.ndarray) -> float:
    """Relative error of a product on 200 exact dense rows."""
    rng = np.random.default_rng(7)
    rows, v = rng.choice(len(x), 200, replace=False), rng.standard_normal(len(x))
    exact = kernel(x[rows], x) @ v
    return float(np.linalg.norm((a @ v)[rows] - exact) / np.linalg.norm(exact))


def builds(
    report: Report, name: str, kernel: KernelFunction, x: np.ndarray, rtol: float, limits: tuple[float, float],
    quick: bool,
) -> None:  # fmt: skip
    """Build, storage, error and product, stored half and in full."""
    unit, v = report.floors.matmul_seconds, np.random.default_rng(1).standard_normal(len(x))

    def build(symmetric: bool = True) -> Any:
        return sm.H2Matrix.from_kernel(kernel, x, rtol=rtol, symmetric=symmetric)

    seconds = median_time(build, 3)
    a = build()
    report.add(f"{name}: build", seconds / unit, "T", None if quick else limits[0])
    report.add(f"{name}: storage", a.nbytes / 1e6, "MB", None if quick else limits[1], note=f"rank {a.max_rank}")
    report.add(f"{name}: error of the product", product_error(a, kernel, x), "", rtol, note=str(a.certificate.met))
    read = report.floors.read_seconds
    one = best_time(lambda a=a: a @ v, 20)
    share = read(a.nbytes) / one
    limit = None if quick else 0.65
    report.add(f"{name}: product over the read floor, blocks used twice", share, "", limit, at_least=True)
    many = np.random.default_rng(2).standard_normal((len(x), 64))
    seconds = best_time(lambda a=a: a @ many, 5)
    report.add(f"{name}: product with 64 vectors, over one with one", seconds / one, "")
    del a
    if rtol > 1e-5 or kernel.dim == 2:
        full = build(symmetric=False)
        share = read(full.nbytes) / best_time(lambda: full @ v, 20)
        limit = None if quick else 0.8
        report.add(f"{name}, stored in full: product over the read floor", share, "", limit, at_least=True)


def largest(report: Report, quick: bool) -> None:
    """P5 at n = 2^17 and rtol 1e-4: it fits in 4 GB."""
    x, kernel = points(2**13 if quick else 2**17, 3), Laplace(dim=3)
    seconds = median_time(lambda: sm.H2Matrix.from_kernel(kernel, x, rtol=1e-4), 1, 0)
    a = sm.H2Matrix.from_kernel(kernel, x, rtol=1e-4)
    report.add(f"P5, n = {len(x)}, rtol 1e-4: build", seconds / report.floors.matmul_seconds, "T")
    report.add(f"P5, n = {len(x)}, rtol 1e-4: storage", a.nbytes / 1e6, "MB", 4000.0)
    report.add(f"P5, n = {len(x)}, rtol 1e-4: error of the product", product_error(a, kernel, x), "", 1e-4)


def on_the_fly(report: Report, kernel: KernelFunction, x: np.ndarray, quick: bool) -> None:
    """Products that evaluate the kernel, against those that read stored blocks."""
    v = np.random.default_rng(3).standard_normal(len(x))
    for rtol in (1e-4, 1e-6):
        stored = sm.H2Matrix.from_kernel(kernel, x, rtol=rtol)
        evaluated = sm.H2Matrix.from_kernel(kernel, x, rtol=rtol, on_the_fly=True)
        seconds = [best_time(lambda a=a: a @ v, 20) for a in (stored, evaluated)]
        name = f"P5, rtol {rtol:.0e}, on the fly"
        report.add(f"{name}: product over the stored one's", seconds[1] / seconds[0], "", None if quick else 2.5)
        report.add(f"{name}: storage over the stored one's", evaluated.nbytes / stored.nbytes, "", 0.1)
        report.add(f"{name}: storage", evaluated.nbytes / 1e6, "MB")


def mixed_precision(report: Report, kernel: KernelFunction, x: np.ndarray, quick: bool) -> None:
    """Single precision where the tolerance allows it, against double precision everywhere."""
    a = sm.H2Matrix.from_kernel(kernel, x, rtol=1e-6)
    b = a.to_mixed_precision()
    v = np.random.default_rng(4).standard_normal(len(x))
    double, mixed = alternating_times((lambda: a @ v, lambda: b @ v), 40)
    name = "P4, rtol 1e-6, mixed precision"
    report.add(f"{name}: speed over double precision", double / mixed, "", None if quick else 1.6, at_least=True)
    errors = [product_error(m, kernel, x) for m in (a, b)]
    report.add(f"{name}: error over that in double precision", errors[1] / errors[0], "", 1.05)
    report.add(f"{name}: storage over that in double precision", b.nbytes / a.nbytes, "")


def from_products(report: Report, kernel: KernelFunction, x: np.ndarray) -> None:
    """How many products a build takes, with entries and without."""
    tree = sm.ClusterTree.from_points(x, 32)
    operator = sm.H2Matrix.from_kernel(kernel, x, tree, rtol=1e-8)
    for name, entries in (("products only", None), ("products and entries", lambda i, j: kernel(x[i], x[j]))):
        a = sm.H2Matrix.from_operator(operator, tree, rtol=1e-6, symmetric=True, entries=entries)
        report.add(f"2-D log, n = {len(x)}, rtol 1e-6, {name}: products", a.certificate.products, "")
        report.add(f"2-D log, n = {len(x)}, rtol 1e-6, {name}: error", a.certificate.estimate, "", 1e-6)


def matrix_products(report: Report, quick: bool) -> None:
    """Products of two matrices by sketching: time, error and growth."""
    sizes, seconds, errors = [2**k for k in range(*((8, 12) if quick else (11, 15)))], [], []
    for n in sizes:
        a = sm.H2Matrix.from_kernel(Laplace(dim=2), points(n, 2), rtol=1e-6, leaf_size=16)
        v = np.random.default_rng(5).standard_normal((n, 10))
        seconds.append(best_time(lambda a=a: a.multiply(a, rtol=1e-4), 2, 1))
        exact = a @ (a @ v)
        errors.append(float(np.linalg.norm(a.multiply(a, rtol=1e-4) @ v - exact) / np.linalg.norm(exact)))
    report.add("2-D log, rtol 1e-4, A @ A: largest error", max(errors), "", 1e-4)
    report.add(f"2-D log, rtol 1e-4, A @ A: n = {sizes[-1]}", seconds[-1], "s")
    report.add("2-D log, rtol 1e-4, A @ A: growth exponent", growth_exponent(sizes, seconds), "")


def growth(report: Report) -> None:
    """Exponents of the time over n = 2^13 .. 2^18 for P4; products with empty caches, and with warm ones beside."""
    sizes = [2**k for k in range(13, 19)]
    build, product, warm, storage = [], [], [], []
    for n in sizes:
        x, v = points(n, 2), np.random.default_rng(3).standard_normal(n)
        build.append(best_time(lambda x=x: sm.H2Matrix.from_kernel(Laplace(dim=2), x, rtol=1e-6), 3, 1))
        a = sm.H2Matrix.from_kernel(Laplace(dim=2), x, rtol=1e-6)
        product.append(cold_time(lambda a=a, v=v: a @ v, 20))
        warm.append(best_time(lambda a=a, v=v: a @ v, 20))
        storage.append(float(a.nbytes))
    report.add("P4: growth exponent of the build", growth_exponent(sizes, build), "", 1.1)
    report.add("P4: growth exponent of the product", growth_exponent(sizes, product), "", 1.1)
    report.add("P4: growth exponent of the product, caches warm", growth_exponent(sizes, warm), "")
    report.add("P4: growth exponent of the storage", growth_exponent(sizes, storage), "")
