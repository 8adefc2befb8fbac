"""The errors and warnings that structmat raises, by name, so that callers can tell them apart."""

from __future__ import annotations

import numpy as np

__all__ = [
    "AccuracyWarning",
    "ConvergenceWarning",
    "DeviceError",
    "FileFormatError",
    "IllConditionedWarning",
    "MeshError",
    "MissingLibraryError",
    "NonFiniteError",
    "NotPositiveDefiniteError",
    "PerformanceWarning",
    "ShapeError",
    "SingularBlockError",
    "StructmatError",
    "StructureWarning",
    "SymmetryError",
    "TooFewSamplesError",
    "TreeMismatchError",
]


class StructmatError(Exception):
    """Base class of all errors of this package."""


class ShapeError(StructmatError, ValueError):
    """An array has the wrong number of dimensions or the wrong size."""


class NonFiniteError(StructmatError, ValueError):
    """An array holds NaN or Inf where numbers are needed."""


class TreeMismatchError(StructmatError, ValueError):
    """Two operands, or a matrix and its trees, do not share their cluster trees."""


class SymmetryError(StructmatError, ValueError):
    """Something declared symmetric (Hermitian) is not."""


class TooFewSamplesError(StructmatError, ValueError):
    """Recorded samples cannot determine the matrix on the given tree."""


class FileFormatError(StructmatError, ValueError):
    """A file is truncated, damaged, of another format or of a newer version."""


class MeshError(StructmatError, ValueError):
    """A surface mesh has triangles without area or without corners, or is open where it must be closed."""


class MissingLibraryError(StructmatError, ImportError):
    """An optional library is not installed; the message says which extra brings it."""


class DeviceError(StructmatError, RuntimeError):
    """The device that was asked for cannot be used."""


class DeviceMemoryError(DeviceError, MemoryError):
    """What was asked for does not fit into the memory of the device; nothing was begun."""


class _BlockError(StructmatError, np.linalg.LinAlgError):
    """An elimination failed in one block of the tree."""

    def __init__(self, message: str, level: int, node: int) -> None:
        super().__init__(message)
        self.level = level
        self.node = node


class SingularBlockError(_BlockError):
    """A block that a factorisation has to invert is singular; `level` and `node` say which."""


class NotPositiveDefiniteError(_BlockError):
    """A Cholesky factorisation met a block that is not positive definite; `level` and `node` say which."""

    @classmethod
    def in_node(cls, level: int, node: int) -> NotPositiveDefiniteError:
        """The error of an exact Cholesky step that failed."""
        return cls(
            f"the matrix is not positive definite: a Cholesky step failed in node {node} of level {level}; if the "
            "exact matrix is, build with a smaller rtol, or add_diagonal(shift); else use factorize() without "
            "positive_definite",
            level, node,
        )  # fmt: skip


class AccuracyWarning(UserWarning):
    """A tolerance was asked for and is not met, or cannot be shown to be met."""


class StructureWarning(UserWarning):
    """The matrix has no structure to speak of in this format: a dense array would be smaller."""


class PerformanceWarning(UserWarning):
    """Something works, and takes much longer than it could."""


class IllConditionedWarning(AccuracyWarning):
    """The solution of a system is less accurate, against the exact operator, than what was asked for."""


class ConvergenceWarning(IllConditionedWarning):
    """An iteration stopped before the residual was as small as asked for."""
