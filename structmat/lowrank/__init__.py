"""Low-rank approximation of one block or of a batch of blocks."""

from .interpolative import row_interpolation, truncated_range, truncated_svd

__all__ = ["row_interpolation", "truncated_range", "truncated_svd"]
