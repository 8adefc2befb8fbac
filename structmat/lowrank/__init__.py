"""Low-rank approximation of one block or of a batch of blocks."""

from .interpolative import row_interpolation, truncated_range

__all__ = ["row_interpolation", "truncated_range"]
