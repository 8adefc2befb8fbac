"""The baselines in small sizes, for tests that hold for all of them."""

import importlib.util

import numpy as np
import pytest

from structmat_nn.models import FNO, DeepONet, FactFormer, GreenLearning, LeastSquares, ResNet, Transolver

needs_neuraloperator = pytest.mark.skipif(
    importlib.util.find_spec("neuralop") is None, reason="neuraloperator is not installed"
)
SIZES = {1: 12, 2: (8, 10), 3: (4, 6, 4)}
SMALL = {
    FNO: {"n_modes": 4, "hidden_channels": 6, "n_layers": 2},
    ResNet: {"width": 6, "depth": 2},
    DeepONet: {"width": 8, "depth": 3},
    GreenLearning: {"width": 8, "depth": 2},
    FactFormer: {"width": 16, "depth": 1, "heads": 2, "head_width": 4},
    Transolver: {"width": 16, "depth": 2, "heads": 2, "slices": 6},
}
BY_GRADIENT = list(SMALL)
IN_DOUBLE = [model for model in BY_GRADIENT if model is not FNO]  # neuraloperator computes in single precision


def small(model, dimension=1, **options):
    """A small model on a small grid."""
    return model(SIZES[dimension], seed=0, **SMALL[model], **options)


def fitted(dimension=1, in_channels=1, out_channels=1):
    """Least squares on a few random samples."""
    model = LeastSquares(SIZES[dimension], in_channels=in_channels, out_channels=out_channels)
    rng = np.random.default_rng(0)
    return model.fit(
        rng.standard_normal((5, *shape(dimension, in_channels))),
        rng.standard_normal((5, *shape(dimension, out_channels))),
    )


def shape(dimension, channels):
    """Of one sample."""
    size = SIZES[dimension] if dimension > 1 else (SIZES[1],)
    return size if channels == 1 else (channels, *size)
