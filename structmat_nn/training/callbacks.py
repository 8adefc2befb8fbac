"""What happens between the steps: validation and the choice of the model, the budget of time, checkpoints.

All three run after a step in this order, so that a checkpoint holds a finished state, whichever step it follows.
Lightning's own validation loop is not used: a checkpoint in the middle of an epoch skips one of its validations after
a restart, and the continued run would not equal the uninterrupted one.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from structmat import NonFiniteError

from .bar import Bar
from .module import TrainingModule

# Parts of the budget after which the number of steps is measured anew: the first steps are not typical.
_REPLAN_AT = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
_FIRST_STEPS = 3  # they allocate, compile and fill caches; their time is spent, but not typical


class Course(pl.Callback):
    """Validation, choice of the best model, history, budget and checkpoints of one run.

    Parameters
    ----------
    validate : callable
        Gives the validation error of the module's model as it is.
    interval : int
        Steps between validations.
    fingerprint : str
        Of the settings and data; a checkpoint with another one is refused.
    budget : float or None
        Seconds.
    fill : bool
        Use up the budget even beyond the planned steps.
    checkpoint : Path or None
        The file of the checkpoint.
    checkpoint_seconds, checkpoint_steps
        Write it after this time, or after this number of steps.
    progress : bool
        Show a bar.
    """

    def __init__(
        self,
        validate: Callable[[], float],
        interval: int,
        fingerprint: str,
        *,
        budget: float | None,
        fill: bool,
        checkpoint: Path | None,
        checkpoint_seconds: float,
        checkpoint_steps: int | None,
        progress: bool,
    ) -> None:
        self.validate, self.interval, self.fingerprint = validate, interval, fingerprint
        self.budget, self.fill = budget, fill
        self.checkpoint, self.checkpoint_seconds, self.checkpoint_steps = (
            checkpoint,
            checkpoint_seconds,
            checkpoint_steps,
        )
        self.history: list[dict[str, float]] = []
        self.best_error = float("inf")
        self.best_step = 0
        self.best_state: dict[str, torch.Tensor] = {}
        self.seconds_at_end = 0.0
        self.seconds_before = 0.0  # of the run before it was continued
        self._mark: tuple[float, int] | None = None  # seconds and step since when the time of a step is measured
        self._replans = 0
        self._bar = Bar("training", shown=progress)

    # ---------------------------------------------------------------------------------- hooks of Lightning

    def on_train_start(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:
        """Start the clock."""
        self._started = self._saved = time.perf_counter()
        self._first_step = pl_module.step
        pl_module.stops_at = functools.partial(self._next_stop, pl_module)
        if pl_module.step >= pl_module.schedule.steps:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do what is due after the steps of a batch."""
        step = pl_module.step
        if self.budget is not None:
            self._keep_budget(step, self.budget, trainer, pl_module)
        last = step >= pl_module.schedule.steps
        if last or step % self.interval == 0:
            self._validate(step, trainer, pl_module)
        text = f"validation error {self.history[-1]['validation_error']:.2e}" if self.history else ""
        self._bar.show(step, pl_module.schedule.steps, text)
        if last:
            self.seconds_at_end = self.seconds
            trainer.should_stop = True
        elif self.checkpoint is not None:
            self._save_if_due(step, trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the bar away."""
        self._bar.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a continued run needs, in types that load without executing anything."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "fingerprint": self.fingerprint, "history": self.history, "seconds": self.seconds, "replans": self._replans,
            "best": {"error": self.best_error, "step": self.best_step, "state": self.best_state},
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"directory holds the checkpoint {self.checkpoint} of a run with other settings; give another "
                f"directory, delete the file, or use the settings {state['fingerprint']}"
            )
        self.history, self.seconds_before, self._replans = state["history"], state["seconds"], state["replans"]
        best = state["best"]
        self.best_error, self.best_step, self.best_state = best["error"], best["step"], best["state"]
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if state["random"]["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([part.cpu() for part in state["random"]["cuda"]])

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        """Add what the module keeps beside its parameters."""
        checkpoint["step"] = pl_module.step
        checkpoint["schedule"] = pl_module.schedule.state()
        checkpoint["mean_loss"] = {"sum": float(pl_module._loss_sum), "count": pl_module._loss_count}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        pl_module.step = checkpoint["step"]
        pl_module.schedule.restore(checkpoint["schedule"])
        pl_module._loss_sum, pl_module._loss_count = checkpoint["mean_loss"]["sum"], checkpoint["mean_loss"]["count"]

    # ---------------------------------------------------------------------------------- the three duties

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, with what was spent before it was continued."""
        return self.seconds_before + (time.perf_counter() - self._started)

    def _next_stop(self, module: TrainingModule, step: int) -> int:
        """The next step after which a validation or checkpoint may be due, or the schedule ends."""
        intervals = [self.interval] if self.checkpoint_steps is None else [self.interval, self.checkpoint_steps]
        return min(module.schedule.steps, *(step - step % interval + interval for interval in intervals))

    def _validate(self, step: int, trainer: pl.Trainer, module: TrainingModule) -> None:
        error, loss = self.validate(), module.mean_loss()
        module.reset_loss()
        row = {
            "step": step, "seconds": self.seconds, "learning_rate": module.rate,
            "train_loss": loss, "validation_error": error,
        }  # fmt: skip
        if not (loss < float("inf")):
            raise NonFiniteError(
                f"training diverged: the loss is {loss} before step {step} (learning rate "
                f"{row['learning_rate']:.2e}); lower learning_rate, or check the scale of the data"
            )
        self.history.append(row)
        if error < self.best_error:
            self.best_error, self.best_step = error, step
            self.best_state = {key: value.detach().clone() for key, value in module.model.state_dict().items()}
        for logger in trainer.loggers:
            logger.log_metrics({key: value for key, value in row.items() if key != "step"}, step=step)

    def _keep_budget(self, step: int, budget: float, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Set the number of steps so that the schedule ends with the budget."""
        now = self.seconds
        if trainer.world_size > 1:  # all processes must end at the same step, so one clock decides
            now = trainer.strategy.broadcast(now)
        if now >= budget:
            module.schedule.replan(step, step)
        elif self._mark is None:
            if step - self._first_step >= _FIRST_STEPS:
                self._mark = (now, step)
        elif self._replans < len(_REPLAN_AT) and now >= _REPLAN_AT[self._replans] * budget and step > self._mark[1]:
            while self._replans < len(_REPLAN_AT) and now >= _REPLAN_AT[self._replans] * budget:
                self._replans += 1
            seconds_a_step = (now - self._mark[0]) / (step - self._mark[1])
            affordable = step + max(int((budget - now) / seconds_a_step), 1)
            planned = module.settings.steps(len(module.pairs[0]))
            module.schedule.replan(step, affordable if self.fill else min(affordable, planned))
            self._mark = (now, step)

    def _save_if_due(self, step: int, trainer: pl.Trainer) -> None:
        by_steps = self.checkpoint_steps is not None and step % self.checkpoint_steps == 0
        by_time = time.perf_counter() - self._saved >= self.checkpoint_seconds
        if trainer.world_size > 1:  # all processes must take part, so their clocks must not decide
            by_time = bool(trainer.strategy.broadcast(by_time))
        if by_steps or by_time:
            save_atomically(trainer, self.checkpoint)
            self._saved = time.perf_counter()


def save_atomically(trainer: pl.Trainer, path: Path | None) -> None:
    """Write a checkpoint beside the old one and then put it in its place: a kill leaves one of the two whole."""
    if path is None:
        return
    unfinished = path.with_name(path.name + ".unfinished")
    trainer.save_checkpoint(unfinished)
    if trainer.is_global_zero:
        os.replace(unfinished, path)
