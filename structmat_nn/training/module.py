"""The Lightning module: what one step of training is. Only `train` imports it, since Lightning takes seconds to import.

The data lie on the device as whole tensors. What a step sees is a function of the seed and of the number of the step,
so that a run that was killed continues with the very batch that comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from .schedule import CosineSchedule
from .settings import TrainingSettings


class Steps:
    """The steps of a run, as what Lightning takes for a loader: it holds numbers, no data.

    Lightning counts the steps that are done in its checkpoints. `load_state_dict` needs nothing, but says to Lightning
    that continuing in the middle is safe.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


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
    endless : bool
        The run may take more steps than planned.
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
        *,
        endless: bool,
    ) -> None:
        super().__init__()
        self.model = model
        # Not modules of this module: the compiled form shares the parameters, and would be stored twice.
        self.__dict__["forward_model"] = forward
        self.pairs = (inputs, outputs, weights)
        self.settings = settings
        self.schedule = schedule
        self._groups, self._slopes = parameter_groups, slopes
        self._endless = endless
        self._order: tuple[int, list[Tensor]] = (-1, [])  # an epoch and its batches
        self.reset_loss()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its fused form where it exists: real parameters, and no scaling of gradients by Lightning."""
        parameters = [p for group in self._groups for p in group["params"]]
        fused = all(p.is_floating_point() for p in parameters) and self.settings.precision != "16-mixed"
        return torch.optim.AdamW(
            self._groups, lr=self.settings.learning_rate, betas=self.settings.betas, fused=fused or None
        )

    def train_dataloader(self) -> Steps:
        """Give the steps; the data go to the device here, once."""
        inputs, outputs, weights = self.pairs
        self.pairs = (
            inputs.to(self.device), outputs.to(self.device), None if weights is None else weights.to(self.device)
        )  # fmt: skip
        return Steps(10**12 if self._endless else self.settings.steps(len(inputs)))

    def transfer_batch_to_device(self, batch: int, device: torch.device, dataloader_idx: int) -> int:
        """Return the step: its data are on the device already."""
        return batch

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """Mean squared error over the points of a batch, and the penalty of the slopes."""
        step = self.trainer.global_step
        rate = self.schedule.rate(step)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        inputs, outputs, weights = self.pairs
        chosen = self._batch(step)
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
