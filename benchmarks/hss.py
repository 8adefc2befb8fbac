"""HSS on problems K and L: build, product, factorisation, solve and arithmetic against the floors of the same run.

Problem K is 1 / (|x - y| + 1/n), problem L is log|x - y| with diagonal log(1/n), at n equispaced points; float64,
rtol 1e-8, leaves of 64.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg as spla

import structmat as sm
from benchmarks.harness import Report, alternating_times, best_time, cold_time, growth_exponent, median_time
from benchmarks.memory import peak_memory
from structmat.gallery import circle_double_layer, problem_k, problem_l

RTOL = 1e-8
PEERS_T = 1.2  # seconds of T on the machine on which the peers were measured: absolute limits are scaled by it


class TimedOperator(spla.LinearOperator):
    """An operator that keeps count of the time spent in its products."""

    def __init__(self, inner: spla.LinearOperator) -> None:
        super().__init__(inner.dtype, inner.shape)
        self.inner, self.seconds = inner, 0.0

    def _matmat(self, x: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        y = self.inner.matmat(x)
        self.seconds += time.perf_counter() - start
        return y

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(x.reshape(-1, 1))

    def _rmatmat(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(x)  # the problems are symmetric

    def _adjoint(self) -> TimedOperator:
        return self


def run(report: Report, quick: bool) -> None:
    """Measure everything at n = 2^17 (quick: 2^13)."""
    n = 2**13 if quick else 2**17
    k = problem_k(n)
    a = kernel_build(report, k)
    operator_builds(report, k)
    products(report, a)
    mixed_precision(report, k, quick)
    factorization(report, a, k)
    log_problem(report, n)
    arithmetic(report, 2**12 if quick else 2**14)
    double_layer(report, 2**10 if quick else 2**14)
    accuracy(report, n)
    if not quick:
        peaks(report, n)
        growth(report)


def sampled_error(a: sm.HSSMatrix, problem: Any, rows: int = 200) -> float:
    """Relative Frobenius error on random dense rows."""
    pick = np.sort(np.random.default_rng(7).choice(problem.n, rows, replace=False))
    exact = problem.entries(pick, np.arange(problem.n))
    unit = np.zeros((problem.n, rows))
    unit[pick, np.arange(rows)] = 1.0
    return float(np.linalg.norm(a.rmatmat(unit).T - exact) / np.linalg.norm(exact))


def plain_kernel(n: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Problem K as any user would write it."""
    return lambda x, y: 1.0 / (np.abs(x[:, None] - y[None, :]) + 1.0 / n)


def kernel_build(report: Report, k: Any) -> sm.HSSMatrix:
    """From the kernel: a user's callable, and the batched one of the gallery."""
    unit = report.floors.matmul_seconds
    sm.HSSMatrix.from_kernel(k.kernel, k.points[:1000], rtol=RTOL)  # compiles
    for name, kernel in (("a plain callable", plain_kernel(k.n)), ("a batched kernel", k.kernel)):
        seconds = median_time(lambda kernel=kernel: sm.HSSMatrix.from_kernel(kernel, k.points, rtol=RTOL), 3, 0)
        report.add(f"K: build from {name}", seconds / unit, "T", 1.0)
    a = sm.HSSMatrix.from_kernel(plain_kernel(k.n), k.points, rtol=RTOL)
    report.add("K: error of the kernel build", sampled_error(a, k), "", RTOL)
    report.add("K: storage", a.nbytes / 1e6, "MB", 165.0 if k.n == 2**17 else None)
    return a


def operator_builds(report: Report, k: Any) -> None:
    """From FFT products, the products excluded."""
    for symmetric, limit in ((False, 2.5), (True, 1.5)):
        op = TimedOperator(k.operator())
        seconds = []
        for _ in range(3):
            op.seconds, start = 0.0, time.perf_counter()
            b = sm.HSSMatrix.from_operator(op, rtol=RTOL, symmetric=symmetric)
            seconds.append(time.perf_counter() - start - op.seconds)
        name = "symmetric operator" if symmetric else "operator"
        report.add(
            f"K: build from the {name}, products excluded",
            np.median(seconds) / report.floors.matmul_seconds,
            "T",
            limit,
        )
        report.add(
            f"K: error of the {name} build", sampled_error(b, k), "", RTOL, note=f"{b.certificate.products} products"
        )


def products(report: Report, a: sm.HSSMatrix) -> None:
    """One vector against reading the matrix, 64 vectors against dgemm."""
    rng = np.random.default_rng(1)
    x, block = rng.standard_normal(a.shape[1]), rng.standard_normal((a.shape[1], 64))
    seconds = best_time(lambda: a @ x, 40)
    allowed = report.floors.read_seconds(max(a.nbytes, 150e6) / 0.8)
    report.add("K: product, one vector", seconds * 1e3, "ms", allowed * 1e3 if a.shape[0] == 2**17 else None)
    report.add("K: bandwidth of the product over the read floor", report.floors.read_seconds(a.nbytes) / seconds, "")
    seconds = best_time(lambda: a @ block, 5)
    share = report.floors.flop_seconds(2 * 64 * a.nbytes / 8) / seconds
    report.add(
        "K: product, 64 vectors, share of dgemm", share, "", 0.25 if a.shape[0] == 2**17 else None, at_least=True
    )


def mixed_precision(report: Report, k: Any, quick: bool) -> None:
    """The product with one vector in mixed precision against that in double, in turns, at rtol 1e-6."""
    v = np.random.default_rng(2).standard_normal(k.n)
    for symmetric in (False, True):
        a = sm.HSSMatrix.from_kernel(k.kernel, k.points, rtol=1e-6, symmetric=symmetric)
        b = a.to_mixed_precision()
        double, mixed = alternating_times((lambda a=a: a @ v, lambda b=b: b @ v), 100)
        name = f"K: rtol 1e-06{', symmetric' if symmetric else ''}, mixed precision"
        limit = None if quick else 1.6
        report.add(f"{name}: product, times faster", double / mixed, "", limit, at_least=True)
        report.add(f"{name}: storage over that in double", b.nbytes / a.nbytes, "")
        report.add(f"{name}: error", sampled_error(b, k), "", 1e-6, note=f"double {sampled_error(a, k):.2e}")


def factorization(report: Report, a: sm.HSSMatrix, k: Any) -> None:
    """ULV and solve; the residual against the exact operator."""
    unit = report.floors.matmul_seconds
    b = np.random.default_rng(2).standard_normal(a.shape[0])
    f = a.factorize()
    large = a.shape[0] == 2**17
    report.add("K: ULV", median_time(a.factorize, 3, 0) / unit, "T", 0.5 if large else None)
    product, solve = best_time(lambda: a @ b, 20), best_time(lambda: f.solve(b), 20)
    report.add("K: solve, in products", solve / product, "", 3.0 if large else None)
    report.add("K: solve", solve * 1e3, "ms", 35.0 * unit / PEERS_T if large else None)
    residual = k.operator().matvec(a.solve(b, factorization=f)) - b
    report.add("K: residual against the exact operator", np.linalg.norm(residual) / np.linalg.norm(b), "", 1e-8)


def log_problem(report: Report, n: int) -> None:
    """L is ill conditioned: a warning, and refinement against the exact operator."""
    problem = problem_l(n)
    a = sm.HSSMatrix.from_kernel(problem.kernel, problem.points, rtol=RTOL)
    report.add("L: error of the kernel build", sampled_error(a, problem), "", RTOL)
    op, f = problem.operator(), a.factorize()
    b = np.random.default_rng(3).standard_normal(n)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = a.solve(b, factorization=f)
    warned = any(issubclass(w.category, sm.IllConditionedWarning) for w in caught)
    size = np.linalg.norm(b)
    report.add("L: residual of the plain solve against the exact operator", np.linalg.norm(op.matvec(x) - b) / size, "")
    report.add("L: the user was warned (1: yes)", float(warned), "", 1.0, at_least=True)
    x = a.solve(b, operator=op, rtol=1e-8, factorization=f, max_steps=3)
    report.add("L: residual after at most 3 refinement steps", np.linalg.norm(op.matvec(x) - b) / size, "", 1e-8)


def arithmetic(report: Report, n: int) -> None:
    """Product, inverse and sum against products with 20 random vectors."""
    k, other = problem_k(n), problem_l(n)
    a = sm.HSSMatrix.from_kernel(k.kernel, k.points, rtol=RTOL)
    b = sm.HSSMatrix.from_kernel(other.kernel, other.points, rtol=RTOL)
    x = np.random.default_rng(4).standard_normal((n, 20))

    def error(got: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))

    report.add("HSS @ HSS", error((a @ b) @ x, a @ (b @ x)), "", RTOL)
    report.add("sum", error((a + b) @ x, a @ x + b @ x), "", RTOL)
    report.add("inverse", error(a.inverse() @ (a @ x), x), "", RTOL)


def double_layer(report: Report, n: int) -> None:
    """Laplace double layer of the second kind on a circle, tolerance 1e-12."""
    problem = circle_double_layer(n)
    a = sm.HSSMatrix.from_entries(problem.entries, problem.tree(), rtol=1e-12)
    x = np.random.default_rng(5).standard_normal(n)
    rows = np.arange(0, n, n // 256)
    exact = problem.entries(rows, np.arange(n)) @ x
    report.add("circle: error of the product", np.linalg.norm((a @ x)[rows] - exact) / np.linalg.norm(exact), "", 1e-11)
    solved = a.factorize().solve(a @ x)
    report.add("circle: error of the solve", np.linalg.norm(solved - x) / np.linalg.norm(x), "", 1e-11)
    report.add("circle: storage", a.nbytes / 1e6, "MB")


def accuracy(report: Report, n: int) -> None:
    """Sampled errors of all builds that need no dense matrix, at four tolerances."""
    for problem in (problem_k(n), problem_l(n)):
        for rtol in (1e-2, 1e-5, 1e-8, 1e-11):
            builds = {
                "kernel": sm.HSSMatrix.from_kernel(problem.kernel, problem.points, rtol=rtol),
                "entries": sm.HSSMatrix.from_entries(problem.entries, sm.ClusterTree.balanced(n, 64), rtol=rtol),
                "operator": sm.HSSMatrix.from_operator(problem.operator(), rtol=rtol),
            }
            for source, a in builds.items():
                error = sampled_error(a, problem)
                note = f"estimate / error {a.certificate.estimate / error:.2f}"
                report.add(f"{problem.name}: error from {source} at rtol {rtol:.0e}", error, "", rtol, note=note)


def kernel_bytes(n: int) -> int:
    """Build K from its kernel; for the measurement of memory."""
    k = problem_k(n)
    return int(sm.HSSMatrix.from_kernel(plain_kernel(n), k.points, rtol=RTOL).nbytes)


def operator_bytes(n: int) -> tuple[int, int]:
    """Build K from its products; its bytes, and those of the sketches."""
    a = sm.HSSMatrix.from_operator(problem_k(n).operator(), rtol=RTOL)
    return int(a.nbytes), 8 * n * 2 * (a.certificate.products + 2)


def small_kernel(_n: int) -> None:
    """Compile what `kernel_bytes` needs."""
    kernel_bytes(2**10)


def small_operator(_n: int) -> None:
    """Compile what `operator_bytes` needs."""
    operator_bytes(2**10)


def peaks(report: Report, n: int) -> None:
    """Peak memory above the interpreter's baseline."""
    peak = peak_memory(kernel_bytes, n, prepare=small_kernel)
    report.add("K: peak memory of the kernel build over the result", peak.peak_bytes / peak.result, "", 4.0)
    peak = peak_memory(operator_bytes, n, prepare=small_operator)
    result, sketches = peak.result
    report.add(
        "K: peak of the operator build less the sketches, over the result",
        (peak.peak_bytes - sketches) / result,
        "",
        3.0,
    )


def growth(report: Report) -> None:
    """Exponents of the time over n = 2^15 .. 2^18.

    A product at 2^15 runs from a cache of 32 MB, at 2^18 from memory, which bends the curve: it is timed with empty
    caches, and with warm ones beside that.
    """
    sizes = [2**15, 2**16, 2**17, 2**18]
    taken: dict[str, list[float]] = {name: [] for name in ("build", "ULV", "product", "solve", "HSS @ HSS")}
    warm = []
    for n in sizes:
        k = problem_k(n)
        a = sm.HSSMatrix.from_kernel(k.kernel, k.points, rtol=RTOL)
        b = np.random.default_rng(6).standard_normal(n)
        f = a.factorize()
        taken["build"].append(best_time(lambda k=k: sm.HSSMatrix.from_kernel(k.kernel, k.points, rtol=RTOL), 3, 0))
        taken["ULV"].append(best_time(a.factorize, 3, 0))
        taken["product"].append(cold_time(lambda a=a, b=b: a @ b, 20))
        warm.append(best_time(lambda a=a, b=b: a @ b, 20))
        taken["solve"].append(best_time(lambda f=f, b=b: f.solve(b), 10))
        taken["HSS @ HSS"].append(best_time(lambda a=a: a @ a, 3, 0))
    for name, seconds in taken.items():
        report.add(f"K: growth exponent of {name}", growth_exponent(sizes, seconds), "", 1.1)
    report.add("K: growth exponent of product, caches warm", growth_exponent(sizes, warm), "")
