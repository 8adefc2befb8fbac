"""Tables and figures from result files: on a terminal, as reStructuredText, Markdown and SVG. Nothing is typed in."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import ConfigError, Experiment, experiment_names, load_experiment
from .results import read_results

if TYPE_CHECKING:
    from rich.console import Console

TESTS = ("in span", "white noise", "out of span", "rollout")
_METRICS = {
    "relative_l2": "relative (2)", "trajectory_l2": "absolute (3)",
    "relative_l2_steps": "relative (2), mean of steps", "trajectory_l2_steps": "absolute (3), mean of steps",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """The results of one model and variant, over the seeds.

    Attributes
    ----------
    model, variant : str
    results : list of dict
        Those that did not fail.
    failures : list of str
        Reasons of those that did.
    reduced : bool
    """

    model: str
    variant: str
    reduced: bool
    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def stages(self) -> list[str]:
        """Names of the stages that all results have."""
        common = [set(result["metrics"]) for result in self.results]
        return [stage for stage in self.results[0]["metrics"] if all(stage in names for names in common)]

    def values(self, stage: str, test: str, metric: str) -> list[float]:
        """One error for each seed; infinite where a roll-out has blown up."""
        found = [result["metrics"][stage].get(test, {}) for result in self.results]
        return [math.inf if entry[metric] is None else float(entry[metric]) for entry in found if metric in entry]

    @property
    def train_size(self) -> int | None:
        """Training samples, where the experiment varies them."""
        first = self.results[0]["config"]["train_size"] if self.results else None
        return None if first is None else int(first)


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes
    ----------
    name, title, note : str
    columns : list of str
    rows : list of list of str
    """

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def groups(directory: Path, experiment: Experiment) -> list[Group]:
    """The results of an experiment, grouped over seeds, in the order of its file."""
    found: dict[tuple[str, str, bool], Group] = {}
    for result in read_results(directory, experiment.name):
        key = (result["model"], result["variant"], bool(result.get("reduced")))
        group = found.setdefault(key, Group(*key))
        if result.get("failed"):
            group.failures.append(result["failed"])
        else:
            group.results.append(result)
    variants = [*experiment.variants(), *(v for _, v, _ in found)]
    models = [*experiment.models, *(m for m, _, _ in found)]
    return sorted(found.values(), key=lambda g: (variants.index(g.variant), g.reduced, models.index(g.model)))


def tables(directory: Path, names: Sequence[str] | None = None) -> Iterator[Table]:
    """One table for each experiment that has results.

    Parameters
    ----------
    directory : Path
        Of the result files.
    names : sequence of str, optional
        Experiments; by default all that come with the package.

    Yields
    ------
    Table
        With a row for each model, variant and stage: mean and spread over the seeds of both metrics on all test sets.
    """
    for name in experiment_names() if names is None else names:
        experiment = load_experiment(name)
        found = groups(directory, experiment)
        if found:
            yield _table(experiment, found)
        elif names is not None:
            raise ConfigError(f"there are no results of {name!r} below {directory}; run: structmat-nn run {name}")


def _table(experiment: Experiment, found: list[Group]) -> Table:
    tests, metrics = _columns(found)
    several = len({group.variant for group in found}) > 1
    columns = [
        *(["variant"] if several else []), "model", "stage", "seeds", "parameters", "published parameters", "time (s)",
        "steps", *(f"{test}, {_METRICS[metric]}" for test in tests for metric in metrics[test]), "published error",
    ]  # fmt: skip
    rows = []
    for group in found:
        prefix = [group.variant] if several else []
        if not group.results:
            row = [*prefix, _marked(group), "failed", str(len(group.failures))]
            rows.append([*row, *[""] * (len(columns) - len(row) - 1), group.failures[0].split(";")[0].split(". ")[0]])
            continue
        for stage in group.stages():
            errors = [spread(group.values(stage, test, metric)) for test in tests for metric in metrics[test]]
            rows.append([*prefix, *_described(group, stage), *errors, _published(group)])
    return Table(experiment.name, experiment.title, _note(experiment, found), columns, rows)


def _columns(found: list[Group]) -> tuple[list[str], dict[str, list[str]]]:
    """Test sets and metrics that appear in some result."""
    seen: dict[str, set[str]] = {}
    for group in found:
        for result in group.results:
            for stage in result["metrics"].values():
                for test, errors in stage.items():
                    seen.setdefault(test, set()).update(errors)
    tests = [test for test in TESTS if test in seen]
    return tests, {test: [metric for metric in _METRICS if metric in seen[test]] for test in tests}


def _described(group: Group, stage: str) -> list[str]:
    first = group.results[0]
    seconds = [r["seconds"] + (r["stage_seconds"][stage] if "+" in stage else 0.0) for r in group.results]
    done, planned = ([r[key] or 0 for r in group.results] for key in ("steps", "planned_steps"))
    steps = f"{round(sum(done) / len(done))}" + (f" of {planned[0]}" if done != planned else "")
    seeds = str(len(group.results)) + (f" (+{len(group.failures)} failed)" if group.failures else "")
    published = first["config"]["published"].get("parameters", "")
    return [
        _marked(group), stage, seeds, f"{first['parameters']:,}", published, spread(seconds, "{:.3g}"),
        steps if sum(done) else "",
    ]  # fmt: skip


def _published(group: Group) -> str:
    published = group.results[0]["config"]["published"]
    return f"{published['error']:.3g} {published.get('metric', '')}".strip() if "error" in published else ""


def _marked(group: Group) -> str:
    return f"{group.model} (reduced)" if group.reduced else group.model


def _note(experiment: Experiment, found: list[Group]) -> str:
    results = [result for group in found for result in group.results]
    sentences = [experiment.note] if experiment.note else []
    if any(result["shortened"] for result in results):
        sentences.append("Steps given as 'a of b' were shortened, or went on, to use an equal wall time.")
    if any(result["reduced"] for result in results):
        sentences.append("Rows marked as reduced have smaller sizes than the paper's, and do not compare with it.")
    machines = {f"{r['machine']['gpu'] or 'CPU'}, threads: {r['machine']['threads']}" for r in results}
    if machines:
        sentences.append(f"Trained on: {'; '.join(sorted(machines))}.")
    return " ".join(sentence.rstrip(".") + "." for sentence in sentences)


def spread(values: Sequence[float], form: str = "{:.1e}") -> str:
    """Mean and standard deviation over the seeds, as text; the mean alone for one seed."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    if not math.isfinite(mean):
        return "diverged"
    if len(values) == 1:
        return form.format(mean)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{form.format(mean)} ± {form.format(deviation)}"


# ---------------------------------------------------------------------------------- writing


def show(table: Table, console: Console) -> None:
    """Print a table on a terminal: its relative errors; a narrow terminal has no room for what the files hold."""
    from rich.table import Table as RichTable

    dropped = ("absolute", "published", "seeds")
    kept = [k for k, column in enumerate(table.columns) if not column.startswith(dropped) and "absolute" not in column]
    shown = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left", box=None)
    for position in kept:
        shown.add_column(table.columns[position].replace("relative (2)", "(2)"), overflow="fold")
    for row in table.rows:
        shown.add_row(*(row[position] for position in kept))
    console.print(shown)


def as_markdown(table: Table, figures: Sequence[Path] = ()) -> str:
    """The table in Markdown, with its figures."""
    lines = [f"# {table.title}", "", _line(table.columns, "| {} |", " | "), _line(table.columns, "|{}|", "|", "---")]
    lines += [_line(row, "| {} |", " | ") for row in table.rows]
    return "\n".join([*lines, "", table.note, *(f"\n![{path.stem}](figures/{path.name})" for path in figures), ""])


def _line(cells: Iterable[str], frame: str, between: str, instead: str | None = None) -> str:
    return frame.format(between.join(instead or cell.replace("|", "\\|") for cell in cells))


def as_rst(table: Table, figures: Sequence[Path] = ()) -> str:
    """A page in reStructuredText with the table and its figures."""
    title = f"Results: {table.title}"
    lines = [".. This page is written by `structmat-nn report`.", "", title, "=" * len(title), "", table.note, ""]
    lines += [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
    for row in [table.columns, *table.rows]:
        lines += [f"   {'* -' if position == 0 else '  -'} {cell}".rstrip() for position, cell in enumerate(row)]
    for path in figures:
        lines += ["", f".. image:: figures/{path.name}", f"   :alt: {path.stem.replace('-', ' ')}"]
    return "\n".join([*lines, ""])


WRITERS: dict[str, tuple[str, Callable[[Table, Sequence[Path]], str]]] = {
    "rst": (".rst", as_rst), "markdown": (".md", as_markdown),
}  # fmt: skip


def write(directory: Path, output: Path, names: Sequence[str] | None = None, *, form: str = "rst") -> list[Path]:
    """Write a page with the table and the figures of each experiment that has results.

    Parameters
    ----------
    directory : Path
        Of the result files.
    output : Path
        Folder to write to; made if it is not there.
    names : sequence of str, optional
        Experiments.
    form : "rst" or "markdown"

    Returns
    -------
    list of Path
        What was written: ``results_<experiment>.rst`` (or ``.md``), ``figures/<experiment>-<figure>.svg``.

    Raises
    ------
    ConfigError
        If an experiment that was named has no results.
    """
    from .figures import figures

    if form not in WRITERS:
        raise ValueError(f"form must be one of {', '.join(WRITERS)}, but it is {form!r}")
    suffix, as_text = WRITERS[form]
    (output / "figures").mkdir(parents=True, exist_ok=True)
    written = []
    for table in tables(directory, names):
        experiment = load_experiment(table.name)
        drawn = figures(experiment, groups(directory, experiment), output / "figures")
        path = output / f"results_{table.name}{suffix}"
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(as_text(table, drawn), encoding="utf-8")
        os.replace(unfinished, path)
        written += [path, *drawn]
    return written
