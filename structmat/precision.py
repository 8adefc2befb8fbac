"""Numbers stored in half the precision of their matrix: rounding them, and choosing which of them may be rounded.

References: R. Ooi, T. Iwashita, T. Fukaya, A. Ida, R. Yokota, "Effect of mixed precision computing on H-matrix vector
multiplication in BEM analysis", HPC Asia 2020; P. Amestoy, O. Boiteau, A. Buttari, M. Gerest, F. Jezequel,
J.-Y. L'Excellent, T. Mary, "Mixed precision low-rank approximations and their application to block low-rank LU
factorization", IMA J. Numer. Anal. 43 (2023) 2198-2227. Departure: the tolerance is that of the whole matrix, and it is
spent where it saves most, not in equal shares.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._typing import NumpyArray

_NARROWER = {np.dtype(np.float64): np.dtype(np.float32), np.dtype(np.complex128): np.dtype(np.complex64)}


def narrower(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The type of half the precision; None where there is none."""
    return _NARROWER.get(dtype)


def narrowed(a: NumpyArray) -> NumpyArray:
    """A float64 or complex128 array rounded to half its precision.

    What is too large becomes infinite, for the caller to see. What would be subnormal becomes zero, because processors
    are slow at multiplying such numbers.
    """
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.ascontiguousarray(a, dtype=_NARROWER[a.dtype])
    numbers = rounded.view(rounded.real.dtype)
    numbers[np.abs(numbers) < np.finfo(numbers.dtype).tiny] = 0.0
    return rounded


def affordable(squares: NumpyArray, sizes: NumpyArray, allowed: float) -> NumpyArray:
    """Which items to round: those of most numbers (`sizes`) for their squared errors, all together within `allowed`."""
    order = np.argsort(squares / sizes, kind="stable")
    chosen = np.zeros(len(squares), dtype=bool)
    chosen[order[: int((np.cumsum(squares[order]) <= allowed**2).sum())]] = True
    return chosen
