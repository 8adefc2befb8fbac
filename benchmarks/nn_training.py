"""Training: what a step costs beyond its arithmetic, and what a linear solve for the last layer gives."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.harness import Report

SAMPLES = 10  # as many as the inputs have dimensions
REPEATS = 5


def run(report: Report, quick: bool) -> None:
    """Time a model so small that its arithmetic is nothing; solve last layers behind random inner layers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step_overhead(report, 500 if quick else 5000)
        for name, limit in (("poisson1d", 1e-10), ("poisson1d-neumann", 1e-10)):
            last_layer(report, name, limit)
    finally:
        torch.set_num_threads(threads)


def step_overhead(report: Report, steps: int) -> None:
    """Processor time of a step of `train`, beyond that of a plain loop over the same batches."""
    import torch

    from structmat_nn import data
    from structmat_nn.training import train

    dataset = data.load("poisson1d", samples=64, size=32, cache=False)
    plain_loop(dataset, 10), train(torch.nn.Linear(32, 32), dataset, epochs=2)  # imports Lightning
    plain, ours = [], []
    for _ in range(REPEATS):
        start = time.process_time()
        plain_loop(dataset, steps)
        plain.append((time.process_time() - start) / steps)
        start = time.process_time()
        train(torch.nn.Linear(32, 32), dataset, epochs=steps // 4, batch_size=16)
        ours.append((time.process_time() - start) / steps)
    report.add("a step of a plain loop", 1e3 * statistics.median(plain), "ms", note="one linear layer, 32 x 32")
    extra = 1e3 * (statistics.median(ours) - statistics.median(plain))
    report.add("a step of train, beyond that", extra, "ms", 0.5, note="with its share of 100 validations")


def plain_loop(dataset: Any, steps: int) -> None:
    """AdamW on batches of 16."""
    import torch

    model = torch.nn.Linear(32, 32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x, y = (torch.tensor(a, dtype=torch.float32) for a in (dataset.train.inputs, dataset.train.outputs))
    batches: list[Any] = []
    for _ in range(steps):
        batches = batches or list(torch.randperm(len(x)).split(16))
        chosen = batches.pop()
        optimiser.zero_grad()
        (model(x[chosen]) - y[chosen]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def last_layer(report: Report, name: str, limit: float) -> None:
    """The linear solve behind random layers: exact where the samples span, and nowhere else."""
    from structmat_nn import NeuralHSS, data
    from structmat_nn.training import LastLayer, evaluate, train

    dataset = data.load(name, samples={"train": SAMPLES}, cache=False)
    model = NeuralHSS(256, rank=2, levels=3, depth=3, seed=0)
    result = train(
        model, dataset, epochs=1, learning_rate=0.0, minimum_learning_rate=0.0, final_stages=[LastLayer()]
    )  # fmt: skip
    solved = result.stages[-1]
    errors = {test: scores["relative_l2"] for test, scores in evaluate(solved.operator, dataset).items()}
    report.add(f"{name}: last layer from {SAMPLES} samples, in span", errors["in span"], "", limit)
    report.add(f"{name}: the same, white noise", errors["white noise"], "", note="what does not span stays unknown")
    report.add(f"{name}: time of the solve", 1e3 * solved.seconds, "ms")
