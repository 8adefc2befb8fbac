"""The command line: structmat-nn run | list | report.

Errors that a user can repair are one line on standard error and exit code 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="structmat-nn",
    help="Run the experiments of the Neural-HSS paper and one's own, and report their results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Results = Annotated[Path, typer.Option("--directory", help="Folder of the result files.")]
DEFAULT_RESULTS = Path("benchmarks/results/nn")


@contextmanager
def _for_people() -> Iterator[Console]:
    """A console to print to; errors of the user become lines on standard error."""
    from rich.console import Console

    from structmat._console import warnings_as_lines
    from structmat.exceptions import StructmatError

    errors = Console(stderr=True)
    try:
        with warnings_as_lines(errors):
            yield Console()
    except (StructmatError, ValueError, TypeError, OSError, MemoryError) as error:
        errors.print("[bold red]error:[/]", end=" ", highlight=False)
        errors.print(str(error) or type(error).__name__, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"structmat-nn {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run the experiments of the Neural-HSS paper and one's own, and report their results."""


def _names(values: list[str] | None) -> list[str] | None:
    """Names that were given apart, by commas, or both."""
    return [name for value in values for name in value.split(",") if name] if values else None


def _integers(values: list[str] | None, option: str) -> list[int] | None:
    names = _names(values)
    try:
        return None if names is None else [int(name) for name in names]
    except ValueError:
        raise ValueError(f"{option} must be integers, apart or with commas, but it is {names}") from None


@app.command("run")
def run_command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="An experiment of `list`, or a YAML file.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", "--models", help="One or more, with commas. Default: all.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", "--variants", help="One or more, with commas. Default: all.")
    ] = None,
    samples: Annotated[
        list[str] | None, typer.Option(help="Only variants with these numbers of training samples, with commas.")
    ] = None,
    seed: Annotated[list[str] | None, typer.Option("--seed", "--seeds", help="One or more, with commas.")] = None,
    budget: Annotated[float | None, typer.Option(min=0.0, help="Seconds of training for each run.")] = None,
    budget_from: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Run this model first, and give the others its wall time.")
    ] = None,
    reduced: Annotated[bool, typer.Option("--reduced", help="The reduced sizes of the experiment.")] = False,
    directory: Results = DEFAULT_RESULTS,
    logs: Annotated[Path | None, typer.Option(help="Folder for logs and for checkpoints to continue from.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run even where the result is there already.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")] = False,
    devices: Annotated[str, typer.Option(help="How many devices, as Lightning takes it.")] = "1",
    strategy: Annotated[str, typer.Option(help="How several devices work together, as Lightning takes it.")] = "auto",
    progress: Annotated[bool, typer.Option(help="Show bars; they are off where nobody watches.")] = True,
) -> None:
    """Run an experiment: one result file for each model, variant and seed. What is there already is skipped."""
    with _for_people() as console:
        import torch

        from . import experiments

        if threads is not None:
            torch.set_num_threads(threads)
        hardware: dict[str, Any] = {"compile": compiled, "devices": devices, "strategy": strategy}
        variants = _names(variant)
        if samples is not None:
            variants = _with_sizes(config, _integers(samples, "--samples") or [], variants, reduced)
        experiments.run(
            config,
            models=_names(model),
            variants=variants,
            seeds=_integers(seed, "--seed") or [0],
            budget=budget,
            budget_from=budget_from,
            reduced=reduced,
            directory=directory,
            logs=logs,
            again=again,
            progress=progress and console.is_terminal,
            hardware=hardware,
            say=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        )


def _with_sizes(config: str, sizes: list[int], variants: list[str] | None, reduced: bool) -> list[str]:
    """The variants whose training size is among those asked for."""
    from .experiments import ConfigError, load_experiment

    experiment = load_experiment(config)
    cases = [
        (name, experiment.case(experiment.models[0], name, reduced=reduced).train_size)
        for name in experiment.variants(reduced=reduced)
    ]
    known = [size for _, size in cases]
    for size in sizes:
        if size not in known:
            shown = ", ".join(str(k) for k in dict.fromkeys(known) if k is not None) or "none"
            raise ConfigError(f"{experiment.where}: there is no training size {size}; its training sizes are {shown}")
    return [name for name, size in cases if size in sizes and (variants is None or name in variants)]


@app.command("list")
def list_command(directory: Results = DEFAULT_RESULTS) -> None:
    """List the experiments with their models and variants, and how many results are there."""
    with _for_people() as console:
        from rich.table import Table

        from . import experiments

        table = Table(box=None, pad_edge=False)
        for column in ("experiment", "source", "models", "variants", "results"):
            table.add_column(column, overflow="fold")
        for name in experiments.experiment_names():
            experiment = experiments.load_experiment(name)
            done = len(list(experiments.read_results(directory, name)))
            table.add_row(
                name, experiment.source, ", ".join(experiment.models), ", ".join(experiment.variants()), str(done)
            )
        console.print(table)


@app.command("report")
def report_command(
    experiment: Annotated[list[str] | None, typer.Argument(help="Experiments. Default: all with results.")] = None,
    directory: Results = DEFAULT_RESULTS,
    output: Annotated[Path | None, typer.Option(help="Folder to write pages and figures (.svg) to.")] = None,
    form: Annotated[str, typer.Option("--format", help="Of the pages: rst or markdown.")] = "rst",
) -> None:
    """Print tables of the results, and write them with their figures to a folder."""
    with _for_people() as console:
        from .experiments import report

        found = False
        for table in report.tables(directory, _names(experiment)):
            report.show(table, console)
            found = True
        if not found:
            console.print(f"no results below {directory}; `structmat-nn run` makes them", markup=False)
        elif output is not None:
            for path in report.write(directory, output, _names(experiment), form=form):
                console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
