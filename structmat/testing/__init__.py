"""The test battery that every format passes, for new formats and other libraries too.

`check_structured_matrix(matrix, dense)` runs all checks; `CHECKS` lists them for a parametrised test.
`random_hss`, `random_h2` and `random_flat` make exact matrices with their dense twins. `structmat.testing.strategies`
needs hypothesis and is imported by whoever uses it.
"""

from __future__ import annotations

from . import algebra, entries, products, solving, storage
from .battery import CHECKS, Case, Check, check_structured_matrix
from .random import random_flat, random_h2, random_hss

__all__ = [
    "CHECKS",
    "Case",
    "Check",
    "algebra",
    "check_structured_matrix",
    "entries",
    "products",
    "random_flat",
    "random_h2",
    "random_hss",
    "solving",
    "storage",
]
