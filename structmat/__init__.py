"""structmat: the linear algebra of hierarchical (rank-structured) matrices."""

from __future__ import annotations

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
from .hss.matrix import HSSMatrix
from .io import load
from .linalg import estimate_error
from .tree import ClusterTree, KDSplitter, PrincipalAxisSplitter

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
