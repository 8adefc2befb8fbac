"""Low-rank approximation of one block or of a batch of blocks."""

from .aca import ACA
from .chebyshev import Chebyshev
from .compressor import Compressor, LowRank, LowRankBatch
from .generalized_nystrom import GeneralizedNystrom
from .interpolative import row_factor, row_interpolation, truncated_range, truncated_svd
from .nystrom import Nystrom
from .pivoted import Interpolative, PivotedQR
from .randomized import RandomizedRange
from .recompress import recompress
from .svd import TruncatedSVD

__all__ = [
    "ACA",
    "Chebyshev",
    "Compressor",
    "GeneralizedNystrom",
    "Interpolative",
    "LowRank",
    "LowRankBatch",
    "Nystrom",
    "PivotedQR",
    "RandomizedRange",
    "TruncatedSVD",
    "recompress",
    "row_factor",
    "row_interpolation",
    "truncated_range",
    "truncated_svd",
]
