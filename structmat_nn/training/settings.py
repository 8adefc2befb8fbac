"""The settings of a training run, checked."""

from __future__ import annotations

import json
import math
import numbers
from dataclasses import asdict, dataclass
from typing import Any

from structmat._check import positive_integer

PRECISIONS = ("32", "64", "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the course of a run; `train` explains each. Two runs with equal settings and data are equal.

    Examples
    --------
    >>> from structmat_nn.training import TrainingSettings
    >>> settings = TrainingSettings(epochs=10, batch_size=256, learning_rate=1e-3, minimum_learning_rate=1e-5)
    >>> settings.steps(samples=1000)
    40
    """

    epochs: int
    batch_size: int
    learning_rate: float
    minimum_learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = 1.0
    slope_penalty: float = 0.0
    residual: bool = False
    seed: int = 0
    precision: str = "32"
    validations: int = 100

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validations"):
            positive_integer(getattr(self, name), name)
        positive_integer(self.seed, "seed", minimum=0)
        for name in ("learning_rate", "minimum_learning_rate", "weight_decay", "slope_penalty"):
            non_negative(getattr(self, name), name)
        if self.minimum_learning_rate > self.learning_rate:
            raise ValueError(
                f"minimum_learning_rate is {self.minimum_learning_rate}, above learning_rate, which is "
                f"{self.learning_rate}; the rate falls from learning_rate to minimum_learning_rate"
            )
        if self.clip is not None and non_negative(self.clip, "clip") == 0:
            raise ValueError("clip must be positive, but it is 0; clip=None leaves gradients as they are")
        _check_betas(self.betas)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but it is {self.precision!r}")

    def steps_per_epoch(self, samples: int) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-samples // min(self.batch_size, samples))

    def steps(self, samples: int) -> int:
        """Steps that are planned for this number of training samples."""
        return self.epochs * self.steps_per_epoch(samples)

    def validation_interval(self, samples: int) -> int:
        """Steps from one validation to the next: whole epochs, and about `validations` times in the run."""
        return self.steps_per_epoch(samples) * max(1, self.epochs // self.validations)

    def fingerprint(self, samples: int) -> str:
        """Text that is equal for equal runs, to recognise the checkpoint of another run."""
        return json.dumps({**asdict(self), "samples": samples}, sort_keys=True)


def _check_betas(betas: Any) -> None:
    if len(betas) != 2 or not all(0.0 <= non_negative(beta, "betas") < 1.0 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), but they are {betas!r}")


def non_negative(value: Any, name: str) -> float:
    """A finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, but it is {value!r}")
    return float(value)
