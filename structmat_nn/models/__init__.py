"""Neural solvers, and the models that they are compared with."""

from __future__ import annotations

from typing import Any

import torch

from .base import GridModel
from .deeponet import DeepONet
from .describe import count_parameters, describe
from .factformer import FactFormer
from .fno import FNO
from .green_learning import GreenLearning
from .kronecker_recovery import KroneckerRecovery
from .least_squares import LeastSquares
from .neural_hss import NeuralHSS
from .persistence import Persistence
from .recovery import ClosedFormRecovery
from .resnet import ResNet
from .structured_network import StructuredNetwork
from .transolver import Transolver

MODELS: dict[str, type[torch.nn.Module]] = {
    "neural-hss": NeuralHSS,
    "fno": FNO,
    "resnet": ResNet,
    "deeponet": DeepONet,
    "green-learning": GreenLearning,
    "factformer": FactFormer,
    "transolver": Transolver,
    "least-squares": LeastSquares,
    "persistence": Persistence,
    "closed-form-recovery": ClosedFormRecovery,
    "kronecker-recovery": KroneckerRecovery,
    "structured-network": StructuredNetwork,
}

__all__ = [
    "FNO",
    "MODELS",
    "ClosedFormRecovery",
    "DeepONet",
    "FactFormer",
    "GreenLearning",
    "GridModel",
    "KroneckerRecovery",
    "LeastSquares",
    "NeuralHSS",
    "Persistence",
    "ResNet",
    "StructuredNetwork",
    "Transolver",
    "count_parameters",
    "create",
    "describe",
]


def create(
    name: str, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, **options: Any
) -> torch.nn.Module:
    """Build a model by its name in the table `MODELS`.

    Parameters
    ----------
    name : str
        One of the names in `MODELS`.
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields in and out.
    **options
        What the model's class takes besides.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        When there is no model of this name; the message lists the names.

    Examples
    --------
    >>> from structmat_nn.models import create
    >>> type(create("resnet", (32, 32), width=8, depth=2)).__name__
    'ResNet'
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(sorted(MODELS))}, but it is {name!r}")
    return MODELS[name](size, in_channels=in_channels, out_channels=out_channels, **options)
