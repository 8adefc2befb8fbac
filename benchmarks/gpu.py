"""A GPU against the CPU of the same machine: checks, then builds, products, factorisations and their growth.

Runs on CuPy, else on torch with CUDA. The floors are measured on the device: the bandwidth of a copy, and the rates of
one large and of many small matrix products. Without a GPU nothing is measured; ``--quick`` then runs everything on
torch's CPU tensors at small sizes, which shows that it works and no speed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import structmat as sm
from benchmarks.harness import Report, growth_exponent, median_time
from structmat import _backend
from structmat.gallery import problem_k
from structmat.kernelfunctions import Cauchy, Gaussian, Laplace

RTOL = 1e-8


@dataclass(frozen=True)
class Device:
    """An array library on a device: what the measurements need of it."""

    name: str
    xp: Any
    to_device: Callable[[np.ndarray], Any]
    synchronize: Callable[[], None]
    records: bool = False  # whether products can be replayed from a CUDA graph

    def seconds(self, function: Callable[[], Any], repeats: int = 5, warm_up: int = 2) -> float:
        """Return the median seconds of a call, until the device has finished."""

        def finished() -> None:
            function()
            self.synchronize()

        return median_time(finished, repeats, warm_up)

    def to_host(self, x: Any) -> np.ndarray:
        """Return the array as one of NumPy."""
        return x.get() if hasattr(x, "get") else x.cpu().numpy()


def find_device(*, stand_in: bool) -> Device | None:
    """Return the GPU; with `stand_in`, where there is none, torch on the CPU."""
    has_torch = importlib.util.find_spec("torch") is not None
    records = has_torch and importlib.import_module("torch").cuda.is_available()
    if importlib.util.find_spec("cupy") is not None:
        import cupy

        if cupy.cuda.is_available():
            device = cupy.cuda.Device()
            name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
            return Device(f"{name} (CuPy {cupy.__version__})", cupy, cupy.asarray, device.synchronize, records)
    if not has_torch:
        return None
    import torch

    if records:
        name = f"{torch.cuda.get_device_name()} (torch {torch.__version__})"
        return Device(name, torch, lambda x: torch.as_tensor(x, device="cuda"), torch.cuda.synchronize, records)
    return Device("torch on the CPU, a stand-in", torch, torch.as_tensor, lambda: None) if stand_in else None


def run(report: Report, quick: bool) -> None:
    """Measure everything that an HSS, a HODLR and an H2-matrix do on the device."""
    device = find_device(stand_in=quick)
    if device is None:
        print("no GPU was found: nothing was measured (--quick runs on torch's CPU tensors)")
        return
    report.parameters["device"] = device.name
    n = 2**11 if quick else 2**20
    floors = device_floors(report, device, quick)
    hss(report, device, floors, n, quick)
    hodlr_cholesky(report, device, 2000 if quick else 10**6, quick)
    h_matrix(report, device, 2**11 if quick else 2**16)
    h2(report, device, floors, 2**11 if quick else 2**17, quick)
    large_h2(report, device, floors, 2**12 if quick else 2**20, quick)
    growth(report, device, quick)


def device_floors(report: Report, device: Device, quick: bool) -> dict[str, float]:
    """Bandwidth of a copy in bytes a second, and matrix products in operations a second."""
    size, side, count = (10**6, 512, 64) if quick else (10**9, 8192, 16384)
    source = device.to_device(np.zeros(size // 8))
    copy = 2 * size / device.seconds(lambda: source + 0.0)
    a = device.to_device(np.random.default_rng(0).standard_normal((side, side)))
    large = 2.0 * side**3 / device.seconds(lambda: a @ a)
    blocks = device.to_device(np.random.default_rng(0).standard_normal((count, 64, 64)))
    small = 2.0 * count * 64**3 / device.seconds(lambda: blocks @ blocks)
    report.add("floor: bandwidth of a copy", copy / 1e9, "GB/s")
    report.add("floor: one large product", large / 1e9, "GFLOP/s")
    report.add("floor: products of 64 x 64 blocks", small / 1e9, "GFLOP/s")
    return {"copy": copy, "large": large, "small": small}


def beside(report: Report, what: str, there: float, here: float, limit: float | None) -> None:
    """Report seconds on the device, and how many times longer the CPU took for the same call."""
    report.add(what, there, "s", limit, note=f"CPU of this machine {here:.3g} s, {here / there:.1f} times longer")


def products(report: Report, device: Device, floors: dict[str, float], name: str, there: Any, limits: bool) -> None:
    """Products with one vector, as they come and replayed from a graph, against the bandwidth."""
    n, rng = there.shape[1], np.random.default_rng(2)
    x = device.to_device(rng.standard_normal(n))
    share = there.nbytes / device.seconds(lambda: there @ x, 20) / floors["copy"]
    report.add(f"{name}: product, one vector, share of the copy's bandwidth", share, "")
    if device.records:
        replayed = sm.CapturedProduct(there, x)
        wanted = device.to_host(there @ x)
        error = np.linalg.norm(device.to_host(replayed(x)) - wanted) / np.linalg.norm(wanted)
        report.add(f"{name}: product, from a graph, against the one without", error, "", 1e-12)
        share = there.nbytes / device.seconds(lambda: replayed(x), 20) / floors["copy"]
        what = f"{name}: product, one vector, from a graph, share of the copy's bandwidth"
        report.add(what, share, "", 0.6 if limits else None, at_least=True)


@contextmanager
def one_stream() -> Iterator[None]:
    """Inside, the near field and the far field of a product follow each other."""
    own = _backend._streams
    _backend._streams = lambda _: None
    try:
        yield
    finally:
        _backend._streams = own


def what_was_chosen(report: Report, device: Device, name: str, here: Any, there: Any, x: Any) -> None:
    """What the second stream brings a product with one vector, and what mixed precision, blocks widened by slabs."""

    def seconds(matrix: Any) -> float:
        product = sm.CapturedProduct(matrix, x) if device.records else matrix.__matmul__
        return device.seconds(lambda: product(x), 20)

    if _backend._streams(x) is not None:
        with one_stream():
            alone = seconds(there)
        report.add(f"{name}: product, one vector, times faster on two streams", alone / seconds(there), "")
    mixed = here.to_mixed_precision()._with_arrays(device.to_device)
    report.add(f"{name}: product, one vector, times faster in mixed precision", seconds(there) / seconds(mixed), "")


def many_products(report: Report, device: Device, floors: dict[str, float], name: str, there: Any, k: int) -> None:
    """Products with k vectors, against the rate of a large product."""
    block = device.to_device(np.random.default_rng(2).standard_normal((there.shape[1], k)))
    # each stored number is used once, or twice where it stands for its mirror image too
    operations = 2.0 * k * (there.nbytes / 8) * (2 if there.symmetric else 1)
    share = operations / device.seconds(lambda: there @ block) / floors["large"]
    limit = 0.3 if k >= 256 else None
    report.add(f"{name}: product, {k} vectors, share of the large product's rate", share, "", limit, at_least=True)


class Convolution:
    """Products with a symmetric Toeplitz matrix by the FFT of the device's library."""

    def __init__(self, column: np.ndarray, device: Device) -> None:
        n = len(column)
        self.xp, self.shape, self.dtype = device.xp, (n, n), np.dtype(np.float64)
        circulant = np.concatenate([column, [0.0], column[:0:-1]])
        self.symbol = device.to_device(np.fft.rfft(circulant)[:, None])

    def matmat(self, x: Any) -> Any:
        """Return the products with the columns of x."""
        n, fft = self.shape[0], self.xp.fft
        return fft.irfft(self.symbol * fft.rfft(x, 2 * n, 0), 2 * n, 0)[:n]


def hss(report: Report, device: Device, floors: dict[str, float], n: int, quick: bool) -> None:
    """Problem K: builds, products and the ULV factorisation."""
    problem, like = problem_k(n), device.to_device(np.zeros(1))
    kernel = Cauchy(shift=1.0 / n)

    def built(array: Any) -> sm.HSSMatrix:
        return sm.HSSMatrix.from_kernel(kernel, problem.points, rtol=RTOL, like=array)

    there = built(like)
    here = built(None)
    seconds = device.seconds(lambda: built(like), 3, 0), median_time(lambda: built(None), 3, 0)
    beside(report, "HSS, K: build from the kernel", *seconds, None)
    v = np.random.default_rng(1).standard_normal(n)
    x, wanted = device.to_device(v), here @ v
    error = np.linalg.norm(device.to_host(there @ x) - wanted) / np.linalg.norm(wanted)
    report.add("HSS, K: product against that of the CPU's matrix", error, "", 10 * RTOL)

    op = Convolution(1.0 / (np.arange(n) / n + 1.0 / n), device)
    symmetric = {"rtol": RTOL, "symmetric": True}
    by_products = sm.HSSMatrix.from_operator(op, like=like, **symmetric)
    error = np.linalg.norm(device.to_host(by_products @ x) - wanted) / np.linalg.norm(wanted)
    report.add("HSS, K: product of the matrix built from products", error, "", 10 * RTOL)
    seconds = (
        device.seconds(lambda: sm.HSSMatrix.from_operator(op, like=like, **symmetric), 3, 0),
        median_time(lambda: sm.HSSMatrix.from_operator(problem.operator(), **symmetric), 1, 0),
    )
    beside(report, "HSS, K: build from products by FFT, these included", *seconds, None if quick else 3.0)

    seconds = device.seconds(lambda: there @ x, 20), median_time(lambda: here @ v, 20)
    beside(report, "HSS, K: product, one vector", *seconds, None)
    products(report, device, floors, "HSS, K", there, not quick)
    many_products(report, device, floors, "HSS, K", there, 16 if quick else 256)

    factored, factored_here = there.factorize(), here.factorize()
    seconds = device.seconds(there.factorize, 3, 1), median_time(here.factorize, 3, 0)
    beside(report, "HSS, K: ULV", *seconds, None if quick else 1.5)
    seconds = device.seconds(lambda: factored.solve(x), 10), median_time(lambda: factored_here.solve(v), 10)
    beside(report, "HSS, K: solve", *seconds, None if quick else 0.05)
    residual = np.linalg.norm(problem.operator().matvec(device.to_host(factored.solve(x))) - v) / np.linalg.norm(v)
    report.add("HSS, K: residual against the exact operator", residual, "", 1e-6)


def hodlr_cholesky(report: Report, device: Device, n: int, quick: bool) -> None:
    """The Gaussian kernel in one dimension with a nugget."""
    points, like = np.sort(np.random.default_rng(3).random(n)), device.to_device(np.zeros(1))
    kernel = Gaussian(length=0.1)

    def built(array: Any) -> sm.HODLRMatrix:
        return sm.HODLRMatrix.from_kernel(kernel, points, rtol=1e-10, symmetric=True, like=array)

    here, there = built(None).add_diagonal(1.0), built(like).add_diagonal(1.0)
    seconds = device.seconds(lambda: built(like), 1, 0), median_time(lambda: built(None), 1, 0)
    beside(report, "HODLR, Gaussian: build from the kernel", *seconds, None)
    factored = there.factorize(positive_definite=True)
    factored_here = here.factorize(positive_definite=True)
    seconds = (
        device.seconds(lambda: there.factorize(positive_definite=True), 3, 0),
        median_time(lambda: here.factorize(positive_definite=True), 1, 0),
    )
    beside(report, "HODLR, Gaussian: Cholesky", *seconds, None if quick else 3.9)
    b = np.random.default_rng(4).standard_normal(n)
    x = factored.solve(device.to_device(b))
    report.add("HODLR, Gaussian: residual", np.linalg.norm(here @ device.to_host(x) - b) / np.linalg.norm(b), "", 1e-9)
    gap = abs(factored.slogdet()[1] - factored_here.slogdet()[1]) / abs(factored_here.slogdet()[1])
    report.add("HODLR, Gaussian: log determinant against the CPU's", gap, "", 1e-10)


def h_matrix(report: Report, device: Device, n: int) -> None:
    """The logarithm at points in a square, rtol 1e-6."""
    points, like = np.random.default_rng(7).random((n, 2)), device.to_device(np.zeros(1))

    def built(array: Any) -> sm.HMatrix:
        return sm.HMatrix.from_kernel(Laplace(dim=2), points, rtol=1e-6, symmetric=True, like=array)

    here, there = built(None), built(like)
    v = np.random.default_rng(8).standard_normal(n)
    x, wanted = device.to_device(v), here @ v
    error = np.linalg.norm(device.to_host(there @ x) - wanted) / np.linalg.norm(wanted)
    report.add("H, log r: product against that of the CPU's matrix", error, "", 1e-5)
    seconds = device.seconds(lambda: built(like), 1, 0), median_time(lambda: built(None), 1, 0)
    beside(report, "H, log r: build from the kernel", *seconds, None)
    beside(report, "H, log r: product, one vector", device.seconds(lambda: there @ x, 20),
           median_time(lambda: here @ v, 10), None)  # fmt: skip


def h2_build(points: np.ndarray, like: Any, *, symmetric: bool = True) -> sm.H2Matrix:
    """1 / r, rtol 1e-4, where the array `like` is; stored half where `symmetric`."""
    return sm.H2Matrix.from_kernel(Laplace(dim=3), points, rtol=1e-4, symmetric=symmetric, like=like)


def h2(report: Report, device: Device, floors: dict[str, float], n: int, quick: bool) -> None:
    """1 / r at points in a cube."""
    points, like = np.random.default_rng(5).random((n, 3)), device.to_device(np.zeros(1))
    here = h2_build(points, None)
    there = here._with_arrays(device.to_device)
    seconds = device.seconds(lambda: h2_build(points, like), 1, 1), median_time(lambda: h2_build(points, None), 1, 0)
    beside(report, "H2, 1 / r: build from the kernel", *seconds, None)
    v = np.random.default_rng(6).standard_normal(n)
    x, wanted = device.to_device(v), here @ v
    error = np.linalg.norm(device.to_host(there @ x) - wanted) / np.linalg.norm(wanted)
    report.add("H2, 1 / r: product against that of the CPU", error, "", 1e-12)
    seconds = device.seconds(lambda: there @ x, 20), median_time(lambda: here @ v, 10)
    beside(report, "H2, 1 / r: product, one vector", *seconds, None)
    products(report, device, floors, "H2, 1 / r", there, False)
    what_was_chosen(report, device, "H2, 1 / r", here, there, x)
    many_products(report, device, floors, "H2, 1 / r", there, 16 if quick else 256)


def large_h2(report: Report, device: Device, floors: dict[str, float], n: int, quick: bool) -> None:
    """1 / r at so many points, built and applied on the device alone.

    What is stored half is read twice in a product, once for each half; so the product is measured with all blocks
    stored, too.
    """
    points, like = np.random.default_rng(5).random((n, 3)), device.to_device(np.zeros(1))
    there = h2_build(points, like)
    report.add("H2, 1 / r, large: error that the check of the build estimates", there.certificate.estimate, "", 1e-4)
    seconds = device.seconds(lambda: h2_build(points, like), 1, 0)
    report.add("H2, 1 / r, large: build", seconds, "s", None if quick else 10.0)
    products(report, device, floors, "H2, 1 / r, large", there, not quick)
    many_products(report, device, floors, "H2, 1 / r, large", there, 16 if quick else 256)
    del there
    whole = h2_build(points, like, symmetric=False)
    products(report, device, floors, "H2, 1 / r, large, all blocks stored", whole, not quick)


def growth(report: Report, device: Device, quick: bool) -> None:
    """Exponents of the times over sizes from 2^16 on, as far as the memory of the device allows."""
    powers = (9, 10, 11, 12) if quick else (16, 18, 20, 22)
    exponents(report, "HSS, K", [2**k for k in powers], lambda n: hss_times(device, n), quick)
    powers = (9, 10, 11, 12) if quick else (16, 17, 18, 19)
    exponents(report, "H2, 1 / r", [2**k for k in powers], lambda n: h2_times(device, n), quick)


def exponents(
    report: Report, name: str, sizes: list[int], times: Callable[[int], dict[str, float]], quick: bool
) -> None:
    """Report how the times grow, and up to which size; small ones (`quick`) have launches in them and no limit."""
    done: dict[int, dict[str, float]] = {}
    for n in sizes:
        try:
            done[n] = times(n)
        except sm.exceptions.DeviceMemoryError as error:
            print(f"{name}, n = {n}: {error}")
            break
    for what in done[sizes[0]]:
        exponent = growth_exponent(list(done), [seconds[what] for seconds in done.values()])
        note = f"n = {min(done)} .. {max(done)}"
        report.add(f"{name}: growth exponent of {what}", exponent, "", None if quick else 1.1, note=note)


def hss_times(device: Device, n: int) -> dict[str, float]:
    """Seconds of problem K with n points."""
    points, like = problem_k(n).points, device.to_device(np.zeros(1))
    kernel = Cauchy(shift=1.0 / n)

    def build() -> sm.HSSMatrix:
        return sm.HSSMatrix.from_kernel(kernel, points, rtol=RTOL, like=like)

    a, x = build(), device.to_device(np.ones(n))
    f = a.factorize()
    return {
        "build": device.seconds(build, 1, 0),
        "product": device.seconds(lambda: a @ x, 20),
        "ULV": device.seconds(a.factorize, 2, 1),
        "solve": device.seconds(lambda: f.solve(x), 10),
    }


def h2_times(device: Device, n: int) -> dict[str, float]:
    """Seconds of 1 / r at n points in a cube."""
    points, like = np.random.default_rng(5).random((n, 3)), device.to_device(np.zeros(1))
    a, x = h2_build(points, like), device.to_device(np.ones(n))
    return {
        "build": device.seconds(lambda: h2_build(points, like), 1, 0),
        "product": device.seconds(lambda: a @ x, 20),
    }
