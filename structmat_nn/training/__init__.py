"""Training: optimiser, schedule, checkpoints, metrics, final stages."""

from .final_stages import LBFGS, FinalStage, LastLayer, StageData
from .linear import AsLinear
from .metrics import evaluate, relative_l2, rollout_errors, trajectory_l2
from .operator import LearnedOperator
from .schedule import CosineSchedule
from .settings import TrainingSettings
from .train import Stage, TrainingResult, train

__all__ = [
    "LBFGS",
    "AsLinear",
    "CosineSchedule",
    "FinalStage",
    "LastLayer",
    "LearnedOperator",
    "Stage",
    "StageData",
    "TrainingResult",
    "TrainingSettings",
    "evaluate",
    "relative_l2",
    "rollout_errors",
    "train",
    "trajectory_l2",
]
