"""structmat: the linear algebra of hierarchical (rank-structured) matrices."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import StructuredMatrix
from .certificate import Certificate
from .exceptions import (
    AccuracyWarning,
    DeviceError,
    FileFormatError,
    IllConditionedWarning,
    NonFiniteError,
    NotPositiveDefiniteError,
    ShapeError,
    SingularBlockError,
    StructmatError,
    StructureWarning,
    SymmetryError,
    TooFewSamplesError,
    TreeMismatchError,
)
from .io import load
from .tree import ClusterTree, KDSplitter, PrincipalAxisSplitter

if TYPE_CHECKING:
    from .hss.matrix import HSSMatrix
    from .linalg import estimate_error

__version__ = "0.1.0"

__all__ = [
    "AccuracyWarning",
    "Certificate",
    "ClusterTree",
    "DeviceError",
    "FileFormatError",
    "HSSMatrix",
    "IllConditionedWarning",
    "KDSplitter",
    "NonFiniteError",
    "NotPositiveDefiniteError",
    "PrincipalAxisSplitter",
    "ShapeError",
    "SingularBlockError",
    "StructmatError",
    "StructureWarning",
    "StructuredMatrix",
    "SymmetryError",
    "TooFewSamplesError",
    "TreeMismatchError",
    "__version__",
    "estimate_error",
    "load",
]

# What needs Numba is imported when it is first asked for: `import structmat` stays quick.
_LAZY = {"HSSMatrix": ".hss.matrix", "estimate_error": ".linalg"}
_LAZY_MODULES = ("gallery", "kernelfunctions", "plot", "testing")


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
