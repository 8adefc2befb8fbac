"""The Lightning module: what one step of training is. Only `train` imports it, since Lightning takes seconds to import.

Lightning chooses the hardware, the strategy and the precision, and keeps logs and checkpoints; the steps themselves are
written out here. The data lie on the device as whole tensors. What a step sees is a function of the seed and of the
number of the step, so that a run that was killed continues with the very batch that comes next.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from .schedule import CosineSchedule
from .settings import TrainingSettings

# Lightning's own work on a batch takes longer than small steps do, so one batch of Lightning holds steps for this time.
_SECONDS_A_BATCH = 0.05


class Batches:
    """What Lightning takes for a loader. It holds no data: a step finds its own, and `Course` ends the run.

    Lightning asks for `state_dict` to know that continuing in the middle is safe.
    """

    def __iter__(self) -> Iterator[int]:
        return itertools.count()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the number of the step is with the module."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class TrainingModule(pl.LightningModule):
    """AdamW steps on normalised pairs.

    Parameters
    ----------
    model : nn.Module
        From normalised inputs to normalised outputs.
    forward : callable
        The model itself, or its compiled form.
    inputs, outputs : Tensor, (samples, [channels,] *size)
        Normalised training pairs.
    weights : Tensor, size, or None
        Weights of the points in the loss, of mean 1.
    settings : TrainingSettings
    schedule : CosineSchedule
    parameter_groups : list of dict
        For the optimiser.
    slopes : list of Tensor
        The parameters that ``slope_penalty * (slope - 1)**2`` pulls to 1.

    Attributes
    ----------
    step : int
        Steps that are done.
    rate : float
        Learning rate of the last of them.
    stops_at : callable
        Tells the step at which the run must pause for something else, given the present one.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        forward: Callable[[Tensor], Tensor],
        inputs: Tensor,
        outputs: Tensor,
        weights: Tensor | None,
        settings: TrainingSettings,
        schedule: CosineSchedule,
        parameter_groups: list[dict[str, Any]],
        slopes: list[Tensor],
    ) -> None:
        super().__init__()
        self.model = model
        # Not modules of this module: the compiled form shares the parameters, and would be stored twice.
        self.__dict__["forward_model"] = forward
        self.pairs = (inputs, outputs, weights)
        self.settings = settings
        self.schedule = schedule
        self._groups, self._slopes = parameter_groups, slopes
        self._order: tuple[int, list[Tensor]] = (-1, [])  # an epoch and its batches
        self.automatic_optimization = False
        self.step, self.rate = 0, schedule.peak
        self.stops_at: Callable[[int], int] = lambda step: step + 1
        self.reset_loss()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its fused form for real parameters, unless gradients are scaled and unscaled in half precision."""
        self._parameters_list = [p for group in self._groups for p in group["params"]]
        fused = all(p.is_floating_point() for p in self._parameters_list) and self.settings.precision != "16-mixed"
        return torch.optim.AdamW(
            self._groups, lr=self.settings.learning_rate, betas=self.settings.betas, fused=fused or None
        )

    def train_dataloader(self) -> Batches:
        """Put the data on the device, once, and give Lightning something to count."""
        inputs, outputs, weights = self.pairs
        self.pairs = (
            inputs.to(self.device), outputs.to(self.device), None if weights is None else weights.to(self.device)
        )  # fmt: skip
        return Batches()

    def transfer_batch_to_device(self, batch: int, device: torch.device, dataloader_idx: int) -> int:
        """Return the batch: it is a number, and the data are on the device already."""
        return batch

    def on_fit_start(self) -> None:
        """Fetch what each step needs, once."""
        self._optimiser: Any = self.optimizers(use_pl_optimizer=False)
        self._scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        # With several processes each batch of Lightning is one step: its wrapper synchronises one backward pass.
        self._alone = self.trainer.world_size == 1

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Take steps until the time of a batch is over, or something else is due."""
        end, until = self.stops_at(self.step), time.perf_counter() + _SECONDS_A_BATCH
        self._take_step()
        while self._alone and self.step < end and time.perf_counter() < until:
            self._take_step()

    def _take_step(self) -> None:
        self.rate = self.schedule.rate(self.step)
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate
        self._optimiser.zero_grad()
        loss = self._loss(self._batch(self.step))
        if self._alone and self._scaler is None:
            loss.backward()
        else:
            self.manual_backward(loss)  # scales the loss, and averages gradients over the processes
        if self._scaler is not None:
            self._scaler.unscale_(self._optimiser)
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters_list, self.settings.clip)
        if self._scaler is None:
            self._optimiser.step()
        else:
            self._scaler.step(self._optimiser)
            self._scaler.update()
        self.step += 1

    def _loss(self, chosen: Tensor) -> Tensor:
        """Mean squared error over the points of a batch, and the penalty of the slopes."""
        inputs, outputs, weights = self.pairs
        squares = (self.forward_model(inputs[chosen]) - outputs[chosen]).square()
        loss = squares.mean() if weights is None else (squares * weights).mean()
        self._loss_sum += loss.detach()
        self._loss_count += 1
        for slope in self._slopes:
            loss = loss + self.settings.slope_penalty * (slope - 1.0).square().sum()
        return loss

    def _batch(self, step: int) -> Tensor:
        """Positions of the samples of a step (on this process, where there are several)."""
        samples = len(self.pairs[0])
        epoch, number = divmod(step, self.settings.steps_per_epoch(samples))
        if self._order[0] != epoch:
            order = epoch_order(self.settings.seed, epoch, samples)
            batches = torch.from_numpy(order).to(self.device).split(min(self.settings.batch_size, samples))
            self._order = (epoch, [self._share(batch) for batch in batches])
        return self._order[1][number]

    def _share(self, batch: Tensor) -> Tensor:
        """Each process takes every world_size-th sample; a batch smaller than that is dealt out again."""
        world, rank = self.trainer.world_size, self.trainer.global_rank
        return batch if world == 1 else batch.repeat(-(-world // len(batch)))[rank::world]

    def mean_loss(self) -> float:
        """Mean loss of the steps since `reset_loss`; this waits for the device."""
        return float(self._loss_sum) / max(self._loss_count, 1)

    def reset_loss(self) -> None:
        """Begin a new mean."""
        self._loss_sum: Any = 0.0
        self._loss_count = 0


def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The order of the samples in an epoch, (samples,): a function of the seed and the epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(samples)
