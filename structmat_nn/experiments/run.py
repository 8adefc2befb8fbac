"""Run experiments: models, variants and seeds one after the other, each into a result file of its own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from structmat._check import positive_integer
from structmat.exceptions import StructmatError

from .config import Case, ConfigError, Experiment, load_experiment
from .results import DEFAULT_DIRECTORY, circumstances, read_result, result_path, write_result

if TYPE_CHECKING:
    from ..data import DataSet
    from ..training import TrainingResult
    from ..training.train import Stage

SEEN_IN_SINGLE = 1e-3
"""Stages with larger validation errors are measured in the precision they compute in, the others in float64."""


@dataclass(frozen=True)
class Plan:
    """What to run of one experiment; `run` explains each field."""

    experiment: Experiment
    models: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: float | None = None
    budget_from: str | None = None
    reduced: bool = False
    directory: Path = DEFAULT_DIRECTORY
    logs: Path | None = None
    again: bool = False
    progress: bool = False
    hardware: dict[str, Any] = field(default_factory=dict)

    def path(self, model: str, variant: str, seed: int) -> Path:
        """Where the result of a run lies."""
        return result_path(self.directory, self.experiment.name, model, variant, seed, reduced=self.reduced)


def run(
    source: str | Path,
    *,
    models: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    budget: float | None = None,
    budget_from: str | None = None,
    reduced: bool = False,
    directory: str | Path = DEFAULT_DIRECTORY,
    logs: str | Path | None = None,
    again: bool = False,
    progress: bool = False,
    hardware: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Run an experiment, and write one result file for each model, variant and seed.

    Parameters
    ----------
    source : str or Path
        The name of an experiment, or a YAML file.
    models, variants : sequence of str, optional
        By default all that the experiment has.
    seeds : sequence of int
        Each decides initial parameters and the order of the samples. The data have a seed of their own, and are the
        same for all.
    budget : float, optional
        Seconds of training for each run. A run that needs more is shortened, its schedule with it, and its result says
        so.
    budget_from : str, optional
        A model, which runs first (under `budget`, if there is one). Every other model that is trained by gradients
        gets its wall time, and uses it up: it is shortened, or goes on beyond its published number of steps.
    reduced : bool
        Merge the section "reduced" of the file: smaller sizes for a CPU. The result says so.
    directory : path
        For the result files. Runs whose file is there are skipped.
    logs : path, optional
        For logs and checkpoints, from which a run that was killed continues.
    again : bool
        Run even if the result is there.
    progress : bool
        Show a bar for each run.
    hardware : dict, optional
        `accelerator`, `devices`, `strategy` and `compile` of `structmat_nn.train`.
    say : callable
        Takes one line about each run.

    Returns
    -------
    list of Path
        The result files of all runs, old and new.

    Raises
    ------
    ConfigError
        If the file is wrong, or there is no such model or variant.
    ExceptionGroup
        After all other runs, with what stopped some of them otherwise.

    Notes
    -----
    A run that fails by itself, because the loss became NaN or a closed-form method refuses the data, leaves a result
    file with the reason under "failed", and the next run follows.

    Examples
    --------
    >>> import tempfile
    >>> from structmat_nn.experiments import read_result, run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = run("poisson1d", models=["least-squares"], variants=["n10"], directory=folder)
    ...     result = read_result(paths[0])
    >>> result["metrics"]["fit"]["in span"]["relative_l2"] < 1e-8
    True
    """
    experiment = load_experiment(source)
    plan = Plan(
        experiment,
        _known(models, experiment.models, "model", experiment),
        _known(variants, experiment.variants(reduced=reduced), "variant", experiment),
        tuple(positive_integer(seed, "seed", minimum=0) for seed in seeds),
        budget, budget_from, reduced, Path(directory), None if logs is None else Path(logs), again, progress,
        hardware or {},
    )  # fmt: skip
    if budget_from is not None:
        _known([budget_from], experiment.models, "model", experiment)
    return _all(plan, say)


def _all(plan: Plan, say: Callable[[str], None]) -> list[Path]:
    """All runs in turn; what stops one of them does not stop the others, and is raised in the end."""
    paths, errors = [], []
    for model, variant, seed in _order(plan):
        try:
            paths.append(_one(plan, model, variant, seed, say))
        except StructmatError:
            raise  # a wrong file of settings or results, which the user can repair
        except Exception as error:
            error.add_note(f"in the run of {model}, {variant}, seed {seed}")
            say(f"{plan.experiment.name} {model} {variant} seed {seed}: stopped by {type(error).__name__}: {error}")
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(errors) + len(paths)} runs were stopped", errors)
    return paths


def _known(asked: Sequence[str] | None, known: tuple[str, ...], what: str, experiment: Experiment) -> tuple[str, ...]:
    for name in asked or ():
        if name not in known:
            raise ConfigError(f"{experiment.where}: there is no {what} {name!r}; its {what}s are {', '.join(known)}")
    return known if asked is None else tuple(asked)


def _order(plan: Plan) -> Iterator[tuple[str, str, int]]:
    """Model, variant and seed of each run: the model that sets the budget comes first in each group."""
    first = () if plan.budget_from is None else (plan.budget_from,)
    models = (*first, *(model for model in plan.models if model not in first))
    for variant in plan.variants:
        for seed in plan.seeds:
            for model in models:
                yield model, variant, seed


def _one(plan: Plan, model: str, variant: str, seed: int, say: Callable[[str], None]) -> Path:
    path = plan.path(model, variant, seed)
    name = f"{plan.experiment.name} {model} {variant} seed {seed}"
    if path.exists() and not plan.again:
        read_result(path)  # a damaged file is named, not skipped
        say(f"{name}: already there")
        return path
    case = plan.experiment.case(model, variant, reduced=plan.reduced)
    budget, fill = plan.budget, False
    if plan.budget_from is not None and model != plan.budget_from:
        seconds = read_result(plan.path(plan.budget_from, variant, seed))["seconds"]
        if seconds is None:
            raise ConfigError(f"{name}: {plan.budget_from} failed, so there is no wall time to take from it")
        budget, fill = seconds, True
    result = run_case(
        case, seed, budget=budget, fill=fill, logs=plan.logs, progress=plan.progress, hardware=plan.hardware
    )
    if fill:
        result["budget_from"] = plan.budget_from
    write_result(path, result)
    say(f"{name}: {_summary(result)}")
    return path


def _summary(result: dict[str, Any]) -> str:
    if result["failed"]:
        return f"failed: {result['failed']}"
    stages = []
    for stage, tests in result["metrics"].items():
        test = "rollout" if "rollout" in tests else "in span"
        stages.append(f"{stage} {tests[test]['relative_l2']:.2e}")
    shortened = f" of {result['planned_steps']} (shortened)" if result["shortened"] else ""
    return f"{', '.join(stages)}; {result['steps']} steps{shortened} in {result['seconds']:.1f} s"


# ---------------------------------------------------------------------------------- one run


def run_case(
    case: Case,
    seed: int,
    *,
    budget: float | None = None,
    fill: bool = False,
    logs: Path | None = None,
    progress: bool = False,
    hardware: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one model of an experiment, and measure it on all test sets after each stage.

    Parameters
    ----------
    case : Case
        What `Experiment.case` gives.
    seed : int
    budget, fill
        As `budget` and `fill_budget` of `structmat_nn.train`.
    logs, progress, hardware
        As for `run`.

    Returns
    -------
    dict
        What a result file holds.
    """
    result: dict[str, Any] = {
        "experiment": case.experiment, "model": case.model, "variant": case.variant, "seed": seed,
        "config": case.as_json(), "reduced": case.reduced, "budget_seconds": budget, "parameters": None,
        "shortened": None, "seconds": None, "steps": None, "planned_steps": None, "best_step": None,
        "failed": None, "metrics": {}, "validation": {}, "chosen_stage": None, "stage_seconds": {}, "history": [],
        **circumstances(),
    }  # fmt: skip
    from ..models import count_parameters

    dataset = _data_set(case)
    model, specification = build_model(case, dataset, seed)
    folder = None if logs is None else logs / case.experiment / f"{case.model}-{case.variant}-seed{seed}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trained = _train(case, model, dataset, seed, specification, budget, fill, folder, progress, hardware or {})
        except StructmatError as error:
            result["failed"] = f"{type(error).__name__}: {error}"
        else:
            result |= _measured(trained, dataset)
    result["parameters"] = count_parameters(model)  # what a fit has determined counts too
    result["warnings"] = list(dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught))
    return result


def build_model(case: Case, dataset: DataSet, seed: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model with the initial parameters of a seed, and the specification that rebuilds it."""
    from ..models import create

    channels: dict[str, Any] = {"in_channels": dataset.channels[0], "out_channels": dataset.channels[1]}
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in case.options.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create(case.model_name, dataset.size, **channels, **options)
    return model, {"name": case.model_name, "size": list(dataset.size), **channels, "options": dict(case.options)}


_LAST_DATA: dict[str, Any] = {}  # the data of the last case: the models of an experiment share them


def _data_set(case: Case) -> DataSet:
    from .. import data

    key = json.dumps(case.data, sort_keys=True)
    if key not in _LAST_DATA:
        options = dict(case.data)
        name, settings = options.pop("name"), options.pop("settings", None) or {}
        if isinstance(options.get("size"), list):
            options["size"] = tuple(options["size"])
        _LAST_DATA.clear()
        _LAST_DATA[key] = data.load(name, **options, **settings)
    dataset: DataSet = _LAST_DATA[key]
    return dataset if case.train_size is None else dataset.take(case.train_size)


def _train(
    case: Case,
    model: torch.nn.Module,
    dataset: DataSet,
    seed: int,
    specification: dict[str, Any],
    budget: float | None,
    fill: bool,
    folder: Path | None,
    progress: bool,
    hardware: dict[str, Any],
) -> TrainingResult:
    from ..training import train

    options = dict(case.training)
    samples = len(dataset.train)
    if "steps" in options:
        steps = options.pop("steps")
        options["epochs"] = -(-steps // -(-samples // min(options["batch_size"], samples)))
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    options["normalise"] = _normaliser(options.pop("normalise", "maximum"))
    by_gradient = getattr(model, "trained_by", "gradient") == "gradient"
    return train(
        model, dataset, **options, seed=seed, specification=specification, directory=folder, progress=progress,
        budget=budget if by_gradient else None, fill_budget=fill and by_gradient,
        final_stages=_final_stages(case, budget) if by_gradient else (), **hardware,
    )  # fmt: skip


def _normaliser(name: str) -> Any:
    from ..data import NORMALISERS

    return NORMALISERS[name]


def _final_stages(case: Case, budget: float | None) -> list[Any]:
    """The final stages of a case; iterations take at most as long as the training before them may."""
    from ..training import LBFGS, AsLinear, LastLayer
    from ..training.tensor_leaves import TensorLeaves

    kinds: dict[str, Any] = {
        "last layer": LastLayer,
        "lbfgs": LBFGS,
        "linear lbfgs": lambda **options: AsLinear(LBFGS(**options)),
        "tensor leaves": TensorLeaves,
    }
    limits = {name: {"seconds": budget} for name in ("lbfgs", "linear lbfgs")}
    return [kinds[name](**{**limits.get(name, {}), **(options or {})}) for name, options in case.final_stages.items()]


def _measured(trained: TrainingResult, dataset: DataSet) -> dict[str, Any]:
    from ..training import evaluate

    chosen = min(trained.stages, key=lambda stage: stage.validation_error)
    return {
        "shortened": trained.shortened, "seconds": trained.seconds, "steps": trained.steps,
        "planned_steps": trained.planned_steps, "best_step": trained.best_step,
        "metrics": {
            stage.name: evaluate(stage.operator, dataset, double=_in_double(stage)) for stage in trained.stages
        },
        "validation": {stage.name: stage.validation_error for stage in trained.stages},
        "stage_seconds": {stage.name: stage.seconds for stage in trained.stages},
        "chosen_stage": chosen.name, "history": trained.history,
        "evaluated_in": {stage.name: _precision(stage) for stage in trained.stages},
    }  # fmt: skip


def _in_double(stage: Stage) -> bool:
    return stage.validation_error < SEEN_IN_SINGLE


def _precision(stage: Stage) -> str:
    operator = stage.operator
    return str(operator.best_precision if _in_double(stage) else operator.dtype).removeprefix("torch.")
