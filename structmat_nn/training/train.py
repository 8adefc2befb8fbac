"""`train`: from a model and a data set to a learned operator, by Lightning or by the model's own `fit`."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from structmat import ShapeError
from structmat._typing import NumpyArray

from ..data.dataset import DataSet
from ..data.normalise import MaximumNormaliser, Normaliser
from ..layers.activation import LearnableLeakyReLU
from ..layers.parameters import parameter_groups
from .final_stages import FinalStage, StageData
from .metrics import relative_l2
from .operator import LearnedOperator, in_evaluation, with_precision
from .schedule import CosineSchedule
from .settings import TrainingSettings, non_negative

CHECKPOINT = "last.ckpt"
OPERATOR = "operator.safetensors"


@dataclass(frozen=True)
class Stage:
    """One stage of a training run: what it made, and whether it improved the validation error.

    Attributes
    ----------
    name : str
        "adamw", "fit", or "adamw+" and the names of final stages.
    operator : LearnedOperator
        As this stage left it, whether kept or not.
    validation_error : float
        Metric (2) on the validation pairs.
    kept : bool
        Whether it is better than the first stage, which it began from.
    seconds : float
        Wall time of the stage.
    """

    name: str
    operator: LearnedOperator = field(repr=False)
    validation_error: float
    kept: bool
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What `train` returns.

    Attributes
    ----------
    operator : LearnedOperator
        The best by the validation error, over all steps and stages.
    stages : tuple of Stage
        Plain AdamW (or the fit) first, then each final stage.
    history : list of dict
        One row for each validation: step, seconds, learning_rate, train_loss, validation_error.
    seconds : float
        Wall time of the steps (of the fit), with validation, without final stages.
    steps, planned_steps : int
        Steps done, and steps that the epochs ask for.
    best_step : int
        The step whose parameters were chosen.
    shortened : bool
        Whether the budget ended the run before the planned steps.
    validation_error : float
        Of `operator`.
    """

    operator: LearnedOperator = field(repr=False)
    stages: tuple[Stage, ...]
    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    steps: int
    planned_steps: int
    best_step: int
    shortened: bool

    @property
    def validation_error(self) -> float:
        """Metric (2) of `operator` on the validation pairs."""
        return min(stage.validation_error for stage in self.stages if stage.kept)


def train(
    model: nn.Module,
    dataset: DataSet,
    *,
    epochs: int = 500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    minimum_learning_rate: float = 1e-5,
    weight_decay: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float | None = 1.0,
    slope_penalty: float = 0.0,
    residual: bool = False,
    normalise: type[Normaliser] | None = MaximumNormaliser,
    seed: int = 0,
    budget: float | None = None,
    fill_budget: bool = False,
    validations: int = 100,
    final_stages: Sequence[FinalStage] = (),
    precision: str = "32",
    compile: bool = False,
    accelerator: str = "auto",
    devices: Any = 1,
    strategy: Any = "auto",
    directory: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_steps: int | None = None,
    progress: bool = False,
    specification: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train a model on the training pairs of a data set, and choose the best parameters by its validation pairs.

    Models that are trained by gradients take AdamW steps, with the learning rate on half a cosine from its peak to its
    minimum. Models with ``trained_by = "fit"`` are fitted to the normalised pairs.

    Parameters
    ----------
    model : nn.Module
        From normalised inputs to normalised outputs. It is trained in place, and holds the last parameters
        afterwards; the best ones are in ``result.operator``.
    dataset : DataSet
        Only `train`, `validation` and `mask` are read.
    epochs, batch_size : int
        Passes over the training pairs; the last batch of an epoch may be smaller.
    learning_rate, minimum_learning_rate : float
        Of the first and of the last step.
    weight_decay, betas
        Of AdamW. Slopes of activations, and biases, are not decayed.
    clip : float or None
        Largest Euclidean norm of the gradient of all parameters.
    slope_penalty : float
        Weight of the sum of ``(slope - 1)**2`` in the loss.
    residual : bool
        Learn the increment from input to output.
    normalise : class of Normaliser, or None
        Fitted to the training inputs, and to the training outputs (increments).
    seed : int
        Decides the order of the samples, and random numbers that the model draws in training. The initial
        parameters are the caller's.
    budget : float or None
        Seconds of wall time. The time of a step is measured, and the steps are cut to what fits, the schedule with
        them: see `CosineSchedule`. Measured anew as the run goes on.
    fill_budget : bool
        Train beyond the planned steps if the budget allows, so that models with faster steps get the same time.
    validations : int
        About how many times to validate.
    final_stages : sequence of LBFGS or LastLayer
        Each begins from what AdamW left, and is kept only if the validation error falls; the best one wins.
    precision : "32", "64", "16-mixed" or "bf16-mixed"
        Of the training; validation while training is in the precision of the parameters.
    compile : bool
        Train through `torch.compile`.
    accelerator, devices, strategy
        As Lightning takes them; several devices share each batch.
    directory : path, optional
        For logs (``metrics.csv``, and TensorBoard's where it is installed), checkpoints, and the operator. If a run
        with equal settings was killed there, it continues.
    checkpoint_seconds, checkpoint_steps
        Write a checkpoint after this time, and after each such number of steps.
    progress : bool
        Show progress bars.
    specification : dict, optional
        As `LearnedOperator` takes it, so that the operator can be saved.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ValueError
        If a setting makes no sense, or `directory` holds a checkpoint of a run with other settings.
    NonFiniteError
        If the loss becomes NaN or Inf.
    ShapeError
        If the model does not map the inputs to the shape of the outputs.

    Notes
    -----
    Without a budget, a run depends on its arguments alone: killed and continued, it ends with identical parameters on
    the same machine with the same number of threads. With one, the number of steps depends on the clock.

    The loss is the mean of squares over the (valid) points; the paper's Equation for it, in section G, is the sum.
    Data lie on the device as whole tensors.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import data
    >>> from structmat_nn.training import train
    >>> dataset = data.load("poisson1d", samples=32, size=16)
    >>> result = train(torch.nn.Linear(16, 16, bias=False), dataset, epochs=20, learning_rate=1e-2)
    >>> result.steps, result.shortened, result.stages[0].name
    (20, False, 'adamw')
    """
    settings = TrainingSettings(
        epochs, batch_size, learning_rate, minimum_learning_rate, weight_decay, betas, clip, slope_penalty,
        bool(residual), seed, precision, validations,
    )  # fmt: skip
    if budget is not None and non_negative(budget, "budget") == 0:
        raise ValueError("budget must be a positive number of seconds, but it is 0")
    if fill_budget and budget is None:
        raise ValueError("fill_budget needs a budget; give budget= in seconds")
    _check_stages(final_stages)
    if not isinstance(dataset, DataSet):
        raise TypeError(
            f"dataset must be a DataSet, but it is a {type(dataset).__name__}; "
            "structmat_nn.data.DataSet.from_pairs(inputs, outputs) makes one of arrays"
        )
    operator = _operator(model, dataset, settings, normalise, specification)
    pairs = _Prepared(operator, dataset)
    folder = None if directory is None else Path(directory)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if getattr(model, "trained_by", "gradient") == "fit":
        run = _fit(operator, pairs)
    else:
        run = _optimise(
            operator, pairs, settings,
            budget=budget, fill=fill_budget, compiled=compile, folder=folder, progress=progress,
            checkpoint_seconds=checkpoint_seconds, checkpoint_steps=checkpoint_steps,
            hardware={"accelerator": accelerator, "devices": devices, "strategy": strategy},
        )  # fmt: skip
    result = _with_stages(run, final_stages, pairs, progress)
    if folder is not None:
        if specification is not None:
            result.operator.save(folder / OPERATOR)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


# ---------------------------------------------------------------------------------- what the steps see


class _Prepared:
    """Normalised training pairs, and validation pairs in physical units, in the precision of the model."""

    def __init__(self, operator: LearnedOperator, dataset: DataSet) -> None:
        inputs, outputs = dataset.train.inputs, dataset.train.outputs
        targets = outputs - inputs if operator.residual else outputs
        self.inputs = _encode(operator.input_normaliser, inputs)  # (samples, [channels,] *size), float64
        self.outputs = _encode(operator.output_normaliser, targets)
        self.validation = dataset.validation
        self.mask: NumpyArray | None = dataset.mask
        self._adjoint = (
            None if dataset.adjoint is None else dataset.adjoint.take(min(len(dataset.adjoint), len(dataset.train)))
        )

    def weights(self, dtype: torch.dtype) -> Tensor | None:
        if self.mask is None:
            return None
        return torch.as_tensor(self.mask / self.mask.mean(), dtype=dtype)

    def adjoint(self, operator: LearnedOperator) -> dict[str, NumpyArray]:
        """Pairs of the adjoint of the normalised map: if that is A s / t, its adjoint is (s / t) times that of A."""
        scales, kept = [], self._adjoint
        for normaliser in (operator.input_normaliser, operator.output_normaliser):
            if normaliser is not None and bool(normaliser.shift.any()):
                return {}  # the map between normalised fields is then affine, and has no adjoint
            scales.append(1.0 if normaliser is None else float(normaliser.scale))
        if kept is None:
            return {}
        outputs = kept.outputs - kept.inputs if operator.residual else kept.outputs
        return {"adjoint_inputs": kept.inputs, "adjoint_outputs": outputs * (scales[0] / scales[1])}

    def validation_error(self, operator: LearnedOperator) -> float:
        prediction = operator.predict(self.validation.inputs)
        if not np.isfinite(prediction).all():
            return float("inf")
        return relative_l2(prediction, self.validation.outputs, self.mask)


def _operator(
    model: nn.Module,
    dataset: DataSet,
    settings: TrainingSettings,
    normalise: type[Normaliser] | None,
    specification: Mapping[str, Any] | None,
) -> LearnedOperator:
    inputs, outputs = dataset.train.inputs, dataset.train.outputs
    if settings.residual and inputs.shape != outputs.shape:
        raise ShapeError(
            f"residual=True needs inputs and outputs of one shape, but they are {inputs.shape} and {outputs.shape}"
        )
    targets = outputs - inputs if settings.residual else outputs
    normalisers = (None, None) if normalise is None else (
        normalise.fit(inputs, channels=dataset.channels[0]), normalise.fit(targets, channels=dataset.channels[1]),
    )  # fmt: skip
    with_precision(model, torch.float64 if settings.precision == "64" else torch.float32)
    operator = LearnedOperator(model, *normalisers, residual=settings.residual, specification=specification)
    if getattr(model, "trained_by", "gradient") != "fit":
        with torch.no_grad(), in_evaluation(operator):
            found = operator(torch.as_tensor(inputs[:1], dtype=operator.dtype, device=operator.device)).shape[1:]
        if found != outputs.shape[1:]:
            raise ShapeError(f"model gives outputs of shape {tuple(found)}, but the data have {outputs.shape[1:]}")
    return operator


def _encode(normaliser: Normaliser | None, values: NumpyArray) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float64)
    return tensor if normaliser is None else normaliser.normalise(tensor)


# ---------------------------------------------------------------------------------- first stage


@dataclass(frozen=True)
class _Run:
    operator: LearnedOperator
    stage: str
    validation_error: float
    history: list[dict[str, float]]
    seconds: float
    steps: int
    planned_steps: int
    best_step: int


def _fit(operator: LearnedOperator, pairs: _Prepared) -> _Run:
    """Let the model fit itself to the normalised pairs, and to those of the adjoint where it takes them."""
    started = time.perf_counter()
    model: Any = with_precision(operator.model, torch.float64)
    takes_adjoint = "adjoint_inputs" in inspect.signature(model.fit).parameters
    model.fit(pairs.inputs, pairs.outputs, **(pairs.adjoint(operator) if takes_adjoint else {}))
    seconds = time.perf_counter() - started
    return _Run(operator, "fit", pairs.validation_error(operator), [], seconds, 0, 0, 0)


def _optimise(
    operator: LearnedOperator,
    pairs: _Prepared,
    settings: TrainingSettings,
    *,
    budget: float | None,
    fill: bool,
    compiled: bool,
    folder: Path | None,
    progress: bool,
    checkpoint_seconds: float,
    checkpoint_steps: int | None,
    hardware: dict[str, Any],
) -> _Run:
    with quiet_lightning():  # its import warns too
        from .callbacks import Course
        from .module import TrainingModule

        model, samples, dtype = operator.model, len(pairs.inputs), operator.dtype
        planned = settings.steps(samples)
        # A run that fills its budget knows its number of steps after the first measurement; until then there is no end.
        steps = 10**12 if fill else planned
        schedule = CosineSchedule(settings.learning_rate, settings.minimum_learning_rate, steps)
        forward: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model
        module = TrainingModule(
            model, forward, pairs.inputs.to(dtype), pairs.outputs.to(dtype), pairs.weights(dtype), settings, schedule,
            parameter_groups(model, weight_decay=settings.weight_decay),
            _slopes(model) if settings.slope_penalty > 0 else [],
        )  # fmt: skip
        checkpoint = None if folder is None else folder / CHECKPOINT
        course = Course(
            lambda: pairs.validation_error(operator), settings.validation_interval(samples),
            settings.fingerprint(samples), budget=budget, fill=fill, checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds, checkpoint_steps=checkpoint_steps, progress=progress,
        )  # fmt: skip
        trainer = _trainer(settings, course, folder, hardware)
        resumed = checkpoint if checkpoint is not None and checkpoint.exists() else None
        with _own_random_numbers(settings.seed):
            model.train()
            trainer.fit(module, ckpt_path=resumed, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    model.eval()
    best = copy.deepcopy(operator)
    best.model.load_state_dict(course.best_state)
    return _Run(
        best, "adamw", course.best_error, course.history, course.seconds_at_end, module.step, planned,
        course.best_step,
    )  # fmt: skip


def _slopes(model: nn.Module) -> list[Tensor]:
    """The slopes of the activations, which linear problems pull to 1."""
    return [p for part in model.modules() if isinstance(part, LearnableLeakyReLU) for p in part.parameters()]


def _trainer(settings: TrainingSettings, course: Any, folder: Path | None, hardware: dict[str, Any]) -> Any:
    import lightning.pytorch as pl

    return pl.Trainer(
        **hardware,
        **_precision(settings.precision, hardware["accelerator"]),
        max_epochs=1,  # one epoch of Lightning is the whole run: its epochs cost milliseconds, and ours may be one step
        callbacks=[course],
        logger=_loggers(folder),
        log_every_n_steps=10**9,  # `Course` logs what there is at each validation
        enable_checkpointing=False,
        enable_progress_bar=False,  # `Course` has one that counts steps
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _precision(name: str, accelerator: str) -> dict[str, Any]:
    """Arguments of Lightning's trainer, which would replace half precision on a CPU by bfloat16 without a word."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if name == "16-mixed" and on_cpu:
        from lightning.pytorch.plugins import MixedPrecision

        return {"plugins": [MixedPrecision("16-mixed", "cpu")]}
    return {"precision": {"32": "32-true", "64": "64-true"}.get(name, name)}


def _loggers(folder: Path | None) -> list[Any]:
    if folder is None:
        return []
    from importlib.util import find_spec

    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers: list[Any] = [CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    return loggers


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's advice about loaders, devices and other products is not shown; its errors are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        import lightning.pytorch  # sets the levels of its loggers  # noqa: F401

        loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Dropout and the like draw from a generator of this run; the global state is afterwards as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


# ---------------------------------------------------------------------------------- final stages


def _check_stages(stages: Sequence[FinalStage]) -> None:
    for stage in stages:
        if not isinstance(stage, FinalStage):
            raise TypeError(f"final_stages must hold LBFGS(..) or LastLayer(..), but it holds {stage!r}")


def _with_stages(run: _Run, final_stages: Sequence[FinalStage], pairs: _Prepared, progress: bool) -> TrainingResult:
    """Run each final stage from the operator of the first stage; the best by the validation error wins."""
    first = Stage(run.stage, run.operator, run.validation_error, True, run.seconds)
    stages, best = [first], first
    data = StageData(pairs.inputs, pairs.outputs, pairs.mask, progress)
    for final in final_stages:
        started = time.perf_counter()
        operator = final.apply(run.operator, data)
        seconds = time.perf_counter() - started
        error = pairs.validation_error(operator)
        stages.append(Stage(f"{run.stage}+{final.name}", operator, error, error < run.validation_error, seconds))
        best = min(best, stages[-1], key=lambda stage: stage.validation_error)
    return TrainingResult(
        best.operator, tuple(stages), run.history, run.seconds, run.steps, run.planned_steps, run.best_step,
        shortened=run.steps < run.planned_steps,
    )  # fmt: skip
