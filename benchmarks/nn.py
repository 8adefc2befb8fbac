"""Training steps of Neural-HSS against the Fourier neural operator, and the routes of an HSS layer.

One step is forward, backward and AdamW on a fixed batch of random pairs, with two threads. Ratios are of medians of
steps in turns, so that a busy machine disturbs both alike.

Floors of a step of s HSS matrices with P entries each on a batch of b vectors of n numbers, in float32: 6 s P b
operations, a multiplication and an addition for each entry and vector, forward and in two derivatives; and, with all
intermediate vectors out of the cache, 4 n b bytes, once written and three times read (forward and in both derivatives)
for each matrix and each activation. Dense matrices take 6 s n^2 b operations. Both are printed for the case at hand.
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import Report, alternating_times

THREADS = 2
Step = Callable[[], Any]


def run(report: Report, quick: bool) -> None:
    """Measure everything (quick: small batches, no compiler)."""
    with threads(THREADS):
        one_dimension(report, quick)
        two_dimensions(report, quick)
        routes(report, quick)


@contextmanager
def threads(count: int) -> Any:
    """Set torch's number of threads for a while, at most the number of processors."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(count, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_step(model: Any, inputs: Any, outputs: Any, *, compiled: bool = False) -> Step:
    """A function that takes one step: forward, backward, AdamW (fused where the parameters allow it)."""
    import torch

    parameters = list(model.parameters())
    fused = not any(p.is_complex() for p in parameters)
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=fused)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (forward(inputs) - outputs).square().mean().backward()
        optimiser.step()

    return step


def medians(steps: Sequence[Step], counts: Sequence[int], rounds: int) -> list[float]:
    """Median seconds of each step, in turns: in each round each is taken `counts` times and timed together."""
    found: list[list[float]] = [[] for _ in steps]
    for step in steps:
        for _ in range(3):
            step()
    for _ in range(rounds):
        for step, count, seconds in zip(steps, counts, found, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                step()
            seconds.append((time.perf_counter() - start) / count)
    return [statistics.median(seconds) for seconds in found]


def one_dimension(report: Report, quick: bool) -> None:
    """Four HSS matrices with slopes, n = 256, against an FNO of 24 modes, width 32 and six layers."""
    import torch

    from structmat_nn import FNO, NeuralHSS

    n, batch = 256, 32 if quick else 256
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = (torch.randn(batch, n, generator=generator) for _ in range(2))
    models = {"Neural-HSS": NeuralHSS(n, rank=2, levels=3, depth=3, seed=0), "FNO": FNO(n, seed=0)}
    steps = {name: training_step(model, inputs, outputs) for name, model in models.items()}
    if not quick:
        twin = NeuralHSS(n, rank=2, levels=3, depth=3, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the compiler about itself
            steps["Neural-HSS, compiled"] = training_step(twin, inputs, outputs, compiled=True)
            steps["Neural-HSS, compiled"]()
    counts = [1 if name == "FNO" else 10 for name in steps]
    seconds = dict(zip(steps, medians(list(steps.values()), counts, 3 if quick else 15), strict=True))
    case = f"1-D, n = {n}, batch {batch}"
    for name, taken in seconds.items():
        numbers = sum(p.numel() for p in models.get(name, models["Neural-HSS"]).parameters())
        report.add(f"{case}: {name}, a step", 1e3 * taken, "ms", note=f"{numbers} parameters")
    for name in seconds.keys() - {"FNO"}:
        report.add(
            f"{case}: speed of {name} over FNO", seconds["FNO"] / seconds[name], "", None if quick else 40.0,
            at_least=True,
        )  # fmt: skip
    entries = sum(p.numel() for p in models["Neural-HSS"].parameters())
    report.add(f"{case}: operations of a step", 6 * entries * batch / 1e6, "MFLOP", note="floor")
    report.add(f"{case}: operations with dense matrices", 6 * 4 * n**2 * batch / 1e6, "MFLOP", note="floor")
    report.add(f"{case}: bytes of a step out of the cache", 4 * n * batch * 4 * 7 / 1e6, "MB", note="floor")


def two_dimensions(report: Report, quick: bool) -> None:
    """Three layers of eight Kronecker products on 64 x 64 points, against an FNO of 8 x 8 modes, width 16, 4 layers."""
    import torch

    from structmat_nn import FNO, NeuralHSS

    size, batch = (64, 64), 8 if quick else 64
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = (torch.randn(batch, *size, generator=generator) for _ in range(2))
    mine = NeuralHSS(size, rank=2, levels=2, depth=3, outer_rank=8, seed=0)
    fno = FNO(size, n_modes=(8, 8), hidden_channels=16, n_layers=4, seed=0)
    steps = [training_step(model, inputs, outputs) for model in (mine, fno)]
    taken, other = medians(steps, [5, 1], 3 if quick else 10)
    case = f"2-D, 64 x 64, batch {batch}"
    report.add(f"{case}: Neural-HSS, a step", 1e3 * taken, "ms", None if quick else 70.0)
    report.add(f"{case}: FNO, a step", 1e3 * other, "ms")
    limit = None if quick else 12.0
    report.add(f"{case}: speed of Neural-HSS over FNO", other / taken, "", limit, at_least=True)
    # two products with all dense factors of a layer, forward and in two derivatives; none for the first layer's input
    products = 2 * 8 * 64**3 * batch * 2
    report.add(f"{case}: operations of a step", (3 * 3 - 0.5) * products / 1e6, "MFLOP", note="with dense factors")


def routes(report: Report, quick: bool) -> None:
    """A layer forward and backward by each route, and what the rule loses against the fastest one; one thread."""
    import torch

    from structmat_nn import HSSLinear

    cases = [(64, 2, 2, 256), (64, 2, 2, 4096), (256, 3, 2, 16), (256, 3, 2, 256), (256, 3, 16, 256)]
    if not quick:
        cases += [(256, 3, 2, 4096), (256, 6, 4, 4096), (64, 4, 4, 1), (1024, 3, 32, 256), (1024, 7, 8, 16)]
    names = ("structured", "core", "dense")
    losses = []
    with threads(1):
        for n, levels, rank, batch in cases:
            inputs, weights = (torch.randn(batch, n, generator=torch.Generator().manual_seed(k)) for k in range(2))
            inputs.requires_grad_()
            layers = [HSSLinear(n, n, rank=rank, levels=levels, route=name) for name in names]
            steps = [derivatives(layer, inputs, weights) for layer in layers]
            seconds = dict(zip(names, alternating_times(steps, 10 if quick else 50), strict=True))
            whole = HSSLinear(n, n, rank=rank, levels=levels).dense_level(batch) == levels
            chosen = "dense" if whole else "structured"
            losses.append(seconds[chosen] / min(seconds.values()))
            case = f"layer, n = {n}, L = {levels}, r = {rank}, batch {batch}"
            for name, taken in seconds.items():
                report.add(f"{case}: {name}", 1e3 * taken, "ms", note="chosen" if name == chosen else "")
    report.add("layer: time of the chosen route over that of the fastest, at worst", max(losses), "")


def derivatives(layer: Any, inputs: Any, weights: Any) -> Step:
    """A function that applies a layer and computes all its derivatives."""

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(inputs).backward(weights)

    return step
