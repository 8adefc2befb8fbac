"""Training steps of Neural-HSS against the Fourier neural operator on a GPU, in one, two and three dimensions.

As `nn`, on a GPU of torch: steps as they come, through torch.compile, and replayed from a CUDA graph, each for both
models, so that ratios compare equal ways. Without a GPU nothing is measured; ``--quick`` then takes steps as they come
on the CPU at small sizes, which shows that it works and no speed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Report
from benchmarks.nn import Step, medians, training_step

# what is compared: points, batch, options of Neural-HSS and of FNO; `--quick` has an eighth of the points on each axis
CASES: tuple[tuple[tuple[int, ...], int, dict[str, Any], dict[str, Any]], ...] = (
    ((256,), 256, {"rank": 2, "levels": 3, "depth": 3}, {}),
    (
        (64, 64), 64, {"rank": 2, "levels": 2, "depth": 3, "outer_rank": 8},
        {"n_modes": (8, 8), "hidden_channels": 16, "n_layers": 4},
    ),
    (
        (64, 64, 64), 8, {"rank": 4, "levels": 2, "depth": 1, "outer_rank": 2},
        {"n_modes": (8, 8, 8), "hidden_channels": 16, "n_layers": 4},
    ),
)  # fmt: skip


def run(report: Report, quick: bool) -> None:
    """Measure all cases, in all ways that the machine has."""
    import torch

    there = torch.cuda.is_available()
    if not there and not quick:
        print("no GPU was found: nothing was measured (--quick runs on the CPU)")
        return
    device = torch.device("cuda" if there else "cpu")
    report.parameters["device"] = torch.cuda.get_device_name() if there else "the CPU, a stand-in"
    for size, batch, mine, other in CASES:
        if quick:
            small = tuple(max(8, n // 8) for n in size)
            steps_of_case(report, small, 2, {**mine, "levels": 1}, {**other, "n_modes": 4}, device, ("eager",), 1)
        else:
            steps_of_case(report, size, batch, mine, other, device, ("eager", "compiled", "graph"), 20)


def steps_of_case(
    report: Report, size: tuple[int, ...], batch: int, mine: dict[str, Any], other: dict[str, Any], device: Any,
    ways: tuple[str, ...], count: int,
) -> None:  # fmt: skip
    """Both models in each way, in turns."""
    import torch

    from structmat_nn import FNO, NeuralHSS

    case = f"{len(size)}-D, {' x '.join(map(str, size))} points, batch {batch}"
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = (torch.randn(batch, *size, generator=generator).to(device) for _ in range(2))
    points = size[0] if len(size) == 1 else size
    make: dict[str, Callable[[], Any]] = {
        "Neural-HSS": lambda: NeuralHSS(points, **mine, seed=0).to(device),
        "FNO": lambda: FNO(points, **other, seed=0).to(device),
    }
    for way in ways:
        steps = [step_by(way, build(), inputs, outputs) for build in make.values()]
        taken = dict(zip(make, medians(steps, [count, count], 3), strict=True))
        for name, seconds in taken.items():
            report.add(f"{case}: {name}, {way}", 1e3 * seconds, "ms")
        limit = 1.0 if count > 1 else None
        report.add(f"{case}: speed of Neural-HSS over FNO, {way}", taken["FNO"] / taken["Neural-HSS"], "", limit,
                   at_least=True)  # fmt: skip


def step_by(way: str, model: Any, inputs: Any, outputs: Any) -> Step:
    """A step that is over when its function returns."""
    import torch

    if way == "graph":
        step = replayed(model, inputs, outputs)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the compiler about itself
            step = training_step(model, inputs, outputs, compiled=way == "compiled")
            step()
    if not inputs.is_cuda:
        return step

    def finished() -> None:
        step()
        torch.cuda.synchronize()

    return finished


def replayed(model: Any, inputs: Any, outputs: Any) -> Step:
    """Forward, backward and AdamW as one CUDA graph."""
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, capturable=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (model(inputs) - outputs).square().mean().backward()
        optimiser.step()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is made once is made before the capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
