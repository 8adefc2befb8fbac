"""structmat: the linear algebra of hierarchical (rank-structured) matrices."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import StructuredMatrix
from .certificate import Certificate
from .exceptions import (
    AccuracyWarning,
    ConvergenceWarning,
    DeviceError,
    DeviceMemoryError,
    FileFormatError,
    IllConditionedWarning,
    MeshError,
    MissingLibraryError,
    NonFiniteError,
    NotPositiveDefiniteError,
    PerformanceWarning,
    ShapeError,
    SingularBlockError,
    StructmatError,
    StructureWarning,
    SymmetryError,
    TooFewSamplesError,
    TreeMismatchError,
)
from .io import load
from .partition import BlockPartition, StrongAdmissibility, WeakAdmissibility
from .tree import ClusterTree, KDSplitter, PrincipalAxisSplitter

if TYPE_CHECKING:
    from .advice import advise
    from .captured import CapturedProduct
    from .h2.matrix import H2Matrix
    from .hmatrix.matrix import HMatrix
    from .hodlr.matrix import HODLRMatrix
    from .hss.matrix import HSSMatrix
    from .linalg import estimate_error, inner, trace_of_solve
    from .solvers import Solution, solve

__version__ = "0.1.0"

__all__ = [
    "AccuracyWarning",
    "BlockPartition",
    "CapturedProduct",
    "Certificate",
    "ClusterTree",
    "ConvergenceWarning",
    "DeviceError",
    "DeviceMemoryError",
    "FileFormatError",
    "H2Matrix",
    "HMatrix",
    "HODLRMatrix",
    "HSSMatrix",
    "IllConditionedWarning",
    "KDSplitter",
    "MeshError",
    "MissingLibraryError",
    "NonFiniteError",
    "NotPositiveDefiniteError",
    "PerformanceWarning",
    "PrincipalAxisSplitter",
    "ShapeError",
    "SingularBlockError",
    "Solution",
    "StrongAdmissibility",
    "StructmatError",
    "StructureWarning",
    "StructuredMatrix",
    "SymmetryError",
    "TooFewSamplesError",
    "TreeMismatchError",
    "WeakAdmissibility",
    "__version__",
    "advise",
    "estimate_error",
    "inner",
    "load",
    "solve",
    "trace_of_solve",
]

# What needs Numba is imported when it is first asked for: `import structmat` stays quick.
_LAZY = {
    "CapturedProduct": ".captured",
    "H2Matrix": ".h2.matrix",
    "HMatrix": ".hmatrix.matrix",
    "HODLRMatrix": ".hodlr.matrix",
    "HSSMatrix": ".hss.matrix",
    "Solution": ".solvers",
    "advise": ".advice",
    "estimate_error": ".linalg",
    "inner": ".linalg",
    "solve": ".solvers",
    "trace_of_solve": ".linalg",
}
_LAZY_MODULES = ("bem", "gallery", "gp", "h2", "kernelfunctions", "lowrank", "plot", "testing")


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
