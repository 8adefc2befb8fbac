"""H2-matrices: strong admissibility, nested bases."""

from .matrix import H2Matrix

__all__ = ["H2Matrix"]
