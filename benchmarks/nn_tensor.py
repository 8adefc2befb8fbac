"""Neural-HSS in two and three dimensions: products, exponential sums, alternating fits, collapse, prolongation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Report, alternating_times
from benchmarks.nn import THREADS, threads, training_step
from structmat._typing import NumpyArray

SEED = 0


def run(report: Report, quick: bool) -> None:
    """Time training steps on two threads, and measure what starts, collapses and prolongations lose."""
    with threads(THREADS):
        layouts(report, 3 if quick else 20)
        step_3d(report, 1 if quick else 3)
    exponential_sums(report)
    alternating_fit(report, 2 if quick else 6)
    collapse(report)
    prolongation(report)


def laplacian(n: int) -> NumpyArray:
    """Dirichlet, second order, on the n inner points of the unit interval."""
    return (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))


# ------------------------------------------------------------------------------------------ time


def layouts(report: Report, repeats: int) -> None:
    """The sum over the right factors in three forms, forward and backward, for one layer."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    count, n, batch = 8, 64, 64
    left = torch.randn(count, n * batch, n, generator=generator, requires_grad=True)
    right = torch.randn(count, n, n, generator=generator, requires_grad=True)

    def chain() -> Any:
        total = left[0] @ right[0]
        for k in range(1, count):
            total = torch.addmm(total, left[k], right[k])
        return total

    def permuted() -> Any:
        return left.transpose(0, 1).reshape(n * batch, count * n) @ right.reshape(count * n, n)

    def batched() -> Any:
        return torch.bmm(left, right).sum(0)

    def both_ways(form: Callable[[], Any]) -> Callable[[], None]:
        return lambda: form().square().sum().backward()

    forms = {"chain of addmm": chain, "copy and one product": permuted, "batched product and sum": batched}
    for name, seconds in zip(forms, alternating_times([both_ways(f) for f in forms.values()], repeats), strict=True):
        report.add(f"right factors, 64 x 64, batch 64: {name}", seconds, "s")


def step_3d(report: Report, repeats: int) -> None:
    """The layer of table 8 on a grid of 64^3 points, one field a step."""
    import torch

    from structmat_nn import NeuralHSS

    x, y = torch.randn(2, 1, 64, 64, 64, generator=torch.Generator().manual_seed(SEED))
    model = NeuralHSS((64, 64, 64), rank=4, levels=2, depth=1, outer_rank=2, seed=SEED)
    (seconds,) = alternating_times([training_step(model, x, y)], repeats)
    report.add("3-D step, 64^3, batch 1: Neural-HSS", seconds, "s", note=f"{THREADS} threads")


# -------------------------------------------------------------------------------------- accuracy


def exponential_sums(report: Report) -> None:
    """Relative Frobenius errors of the inverse of the 2-D Laplacian on 64 x 64 points."""
    import torch

    from structmat_nn import HSSTensorLinear

    operators = [laplacian(64)] * 2
    for rank, terms, limit in ((2, 8, 3.7e-2), (4, 8, 2e-3), (8, 8, None), (8, 12, 8.5e-6)):
        layer = HSSTensorLinear((64, 64), rank=rank, outer_rank=terms, levels=2, dtype=torch.float64)
        start = time.perf_counter()
        found = layer.init_from_exponential_sum(operators)
        seconds = time.perf_counter() - start
        dense, worst = found.spectrum_error, found.largest_error
        note = f"dense factors {dense:.1e}, largest relative error {worst:.1e}, {seconds:.1f} s"
        report.add(f"exponential sum, {terms} terms, HSS rank {rank}", found.layer_error, "", limit, note=note)


def alternating_fit(report: Report, sweeps: int) -> None:
    """A start from an exponential sum fitted to the 10 x 10 lowest modes: errors in their span and on white noise."""
    import torch

    from structmat_nn import NeuralHSS

    n = 64
    values, vectors = np.linalg.eigh(laplacian(n))
    inverse = 1.0 / np.add.outer(values, values)
    rng = np.random.default_rng(SEED)

    def pairs(samples: int, modes: int) -> tuple[Any, Any]:
        low = vectors[:, :modes]
        coefficients = rng.standard_normal((samples, modes, modes))
        fields = low @ coefficients @ low.T, low @ (coefficients * inverse[:modes, :modes]) @ low.T
        return torch.from_numpy(fields[0]), torch.from_numpy(fields[1])

    inputs, outputs = pairs(120, 10)
    tests = {"in span": pairs(50, 10), "white noise": pairs(50, n)}
    for ridge in (1e-10, 1e-2):
        model = NeuralHSS((n, n), rank=2, levels=2, depth=1, outer_rank=8, dtype=torch.float64, seed=SEED)
        model.init_from_exponential_sum([laplacian(n)] * 2)
        start = time.perf_counter()
        model.fit_last_layer(inputs, outputs, sweeps=sweeps, ridge=ridge)
        note = f"{sweeps} sweeps, {time.perf_counter() - start:.1f} s"
        for name, (x, y) in tests.items():
            with torch.no_grad():
                error = float((model(x) - y).norm() / y.norm())
            report.add(f"alternating fit, HSS rank 2, ridge {ridge:g}, {name}", error, "", note=note)


def collapse(report: Report) -> None:
    """What the products of layers lose when they become one matrix."""
    import torch

    from structmat_nn import NeuralHSS

    line = NeuralHSS(256, rank=2, levels=3, depth=3, dtype=torch.float64, seed=SEED)
    start = time.perf_counter()
    matrix = line.to_matrix(rtol=1e-10)
    seconds = time.perf_counter() - start
    note = f"rank {matrix.max_rank}, {seconds:.2f} s"
    report.add("collapse, 1-D, four matrices of rank 2", matrix.certificate.estimate, "", 1e-10, note=note)
    plane = NeuralHSS((64, 64), rank=4, levels=2, depth=3, outer_rank=8, dtype=torch.float64, seed=SEED)
    plane.init_from_exponential_sum([laplacian(64)] * 2)
    for rtol in (1e-3, 1e-6):
        start = time.perf_counter()
        total = plane.to_matrix(rtol=rtol)
        seconds = time.perf_counter() - start
        note = f"{total.terms} Kronecker products of 512, {seconds:.1f} s"
        report.add(f"collapse, 2-D, three layers, rtol {rtol:g}", total.certificate.estimate, "", rtol, note=note)


def prolongation(report: Report) -> None:
    """The Green's function of 64 points on finer grids, against the discretisation there."""
    import torch

    from structmat_nn import NeuralHSS
    from structmat_nn.models.prolong import grid_points

    model = NeuralHSS(64, rank=2, levels=2, depth=1, dtype=torch.float64, seed=SEED)
    model.layers[0].init_from_dense(np.linalg.inv(laplacian(64)))
    model.projection.init_from_dense(np.eye(64))
    rng = np.random.default_rng(SEED)
    for n in (128, 256):
        x = grid_points("interior", n)
        for kind, f in (("smooth", np.sin(3.0 * x) * np.exp(x)), ("white noise", rng.standard_normal(n))):
            exact = np.linalg.solve(laplacian(n), f)
            for restriction in ("sample", "average"):
                finer = model.prolonged(n, grid="interior", restriction=restriction)
                predicted = finer(torch.from_numpy(f)).detach().numpy()
                error = float(np.linalg.norm(predicted - exact) / np.linalg.norm(exact))
                report.add(f"prolongation, 64 to {n}, {kind} forcing, {restriction}", error, "")
