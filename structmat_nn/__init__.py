"""Trainable rank-structured matrices for PyTorch, and the neural solvers that are built from them.

``structmat_nn`` holds the generators of a `structmat` matrix as torch parameters. A layer starts from a classical
matrix, trains, and becomes a classical matrix again, which can be truncated, inverted and solved with. It imports
`structmat`, never the reverse.
"""

from __future__ import annotations

import importlib
from typing import Any

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # torch is there, but something that it needs is not: its own message says what
    message = 'structmat_nn needs PyTorch, which is not installed; install it: pip install "structmat[nn]"'
    raise ImportError(message, name="torch") from error

from structmat import __version__

# Where each public name lives; a name is imported when it is first asked for, so that layers do not wait for Lightning.
_LAZY: dict[str, str] = {
    "HODLRLinear": ".layers.hodlr",
    "HSSLinear": ".layers.hss",
    "HSSTensorLinear": ".layers.tensor",
    "KroneckerSum": ".layers.kronecker",
    "LowRankTensorMap": ".layers.tensor_map",
    "NeuralHSS": ".models.neural_hss",
    "LearnableLeakyReLU": ".layers.activation",
    "LowRankLinear": ".layers.lowrank",
    "hss_parameter_count": ".layers.hss",
    "parameter_groups": ".layers.parameters",
    "StructuredLinear": ".layers.structured",
    "ClosedFormRecovery": ".models.recovery",
    "DeepONet": ".models.deeponet",
    "FNO": ".models.fno",
    "FactFormer": ".models.factformer",
    "GreenLearning": ".models.green_learning",
    "KroneckerRecovery": ".models.kronecker_recovery",
    "LeastSquares": ".models.least_squares",
    "Persistence": ".models.persistence",
    "ResNet": ".models.resnet",
    "Transolver": ".models.transolver",
    "FitResult": ".closed_form.fit",
    "HSSOperatorRegressor": ".closed_form.regressor",
    "IdentifiabilityReport": ".closed_form.identify",
    "IdentifiabilityWarning": ".closed_form.identify",
    "Near": ".closed_form.priors",
    "Prior": ".closed_form.priors",
    "Small": ".closed_form.priors",
    "SmallSteps": ".closed_form.fine_tune",
    "Smooth": ".closed_form.priors",
    "KroneckerFit": ".closed_form.kronecker",
    "fine_tune": ".closed_form.fine_tune",
    "fit": ".closed_form.fit",
    "fit_kronecker": ".closed_form.kronecker",
    "DataSet": ".data.dataset",
    "IdentityNormaliser": ".data.normalise",
    "MaximumNormaliser": ".data.normalise",
    "CentredMaximumNormaliser": ".data.normalise",
    "MeanStandardNormaliser": ".data.normalise",
    "Pairs": ".data.dataset",
    "LearnedOperator": ".training.operator",
    "TrainingResult": ".training.train",
    "LBFGS": ".training.final_stages",
    "AsLinear": ".training.linear",
    "LastLayer": ".training.final_stages",
    "TensorLeaves": ".training.tensor_leaves",
    "train": ".training.train",
    "relative_l2": ".training.metrics",
    "trajectory_l2": ".training.metrics",
}
_LAZY_MODULES = ("closed_form", "data", "experiments", "layers", "models", "training")

__all__ = ["__version__", *sorted(_LAZY), *_LAZY_MODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name], __name__), name)
    elif name in _LAZY_MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_MODULES})
