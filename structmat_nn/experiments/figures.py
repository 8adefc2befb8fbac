"""Figures from result files: errors against training samples, errors of variants, time of a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Experiment

if TYPE_CHECKING:
    from .report import Group


def figures(experiment: Experiment, found: list[Group], output: Path) -> list[Path]:
    """Draw what the results of an experiment allow.

    Parameters
    ----------
    experiment : Experiment
    found : list of Group
        Its results.
    output : Path
        An existing folder.

    Returns
    -------
    list of Path
        SVG files: "data-efficiency" where the number of training samples varies, "variants" where something else
        does, "timing" wherever models were trained by steps.
    """
    full = [group for group in found if group.results and not group.reduced]
    trained = [group for group in full if _seconds_a_step(group)]
    drawings: list[tuple[str, Callable[[Any], None]]] = []
    sizes = {group.train_size for group in full} - {None}
    if len(sizes) > 1:
        drawings.append(("data-efficiency", lambda axes: _data_efficiency(axes, full)))
    elif len({group.variant for group in full}) > 1:
        drawings.append(("variants", lambda axes: _variants(axes, full)))
    if len({group.model for group in trained}) > 1:
        drawings.append(("timing", lambda axes: _timing(axes, trained)))
    return [_draw(experiment, name, draw, output) for name, draw in drawings]


def _draw(experiment: Experiment, name: str, draw: Callable[[Any], None], output: Path) -> Path:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": experiment.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        draw(figure.add_subplot())
        figure.axes[0].set_title(experiment.title, fontsize=10, wrap=True)
        path = output / f"{experiment.name}-{name}.svg"
        figure.savefig(path, metadata={"Date": None})  # the same results give the same file
    return path


def _main_test(group: Group) -> str:
    tests = next(iter(group.results[0]["metrics"].values()))
    return "rollout" if "rollout" in tests else "in span"


def _statistics(group: Group, stage: str, test: str) -> tuple[float, float, float]:
    """Mean, smallest and largest relative error over the seeds."""
    values = group.values(stage, test, "relative_l2")
    low, high = min(values), max(values)
    return min(max(sum(values) / len(values), low), high), low, high  # the mean of equal numbers may be rounded away


def _data_efficiency(axes: Any, found: list[Group]) -> None:
    curves: dict[str, list[tuple[int, float, float, float]]] = {}
    for group in found:
        for stage in group.stages():
            label = group.model if "+" not in stage else f"{group.model}, {stage}"
            if group.train_size is not None:
                curves.setdefault(label, []).append((group.train_size, *_statistics(group, stage, _main_test(group))))
    for label, points in curves.items():
        sizes, means, lows, highs = zip(*sorted(points), strict=True)
        (line,) = axes.loglog(sizes, means, "o--" if "+" in label else "o-", label=label, markersize=4)
        axes.fill_between(sizes, lows, highs, color=line.get_color(), alpha=0.15)
    axes.set_xlabel("training samples")
    axes.set_ylabel("relative error, metric (2)")
    axes.legend(fontsize=7)


def _variants(axes: Any, found: list[Group]) -> None:
    variants = list(dict.fromkeys(group.variant for group in found))
    for model in dict.fromkeys(group.model for group in found):
        own = [group for group in found if group.model == model]
        statistics = [_statistics(group, group.stages()[0], _main_test(group)) for group in own]
        places = [variants.index(group.variant) for group in own]
        means = [mean for mean, _, _ in statistics]
        bars = [[m - low for m, low, _ in statistics], [high - m for m, _, high in statistics]]
        axes.errorbar(places, means, yerr=bars, fmt="o", capsize=3, label=model, markersize=4)
    axes.set_yscale("log")
    axes.set_xticks(range(len(variants)), variants, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("relative error, metric (2)")
    axes.legend(fontsize=7)


def _seconds_a_step(group: Group) -> float:
    done = [(r["seconds"], r["steps"]) for r in group.results if r["steps"]]
    return sum(seconds for seconds, _ in done) / sum(steps for _, steps in done) if done else 0.0


def _timing(axes: Any, found: list[Group]) -> None:
    """Time of a training step of each model, for the variant with the most results."""
    variants = [group.variant for group in found]
    variant = max(dict.fromkeys(variants), key=lambda name: (variants.count(name), variants.index(name)))
    own = [group for group in found if group.variant == variant]
    models = [group.model for group in own]
    axes.barh(models, [1e3 * _seconds_a_step(group) for group in own])
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a training step, with validation" + ("" if variant == "full" else f" ({variant})"))
