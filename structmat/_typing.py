"""Names for the array types in signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any  # an array of any of the namespaces: numpy, cupy, torch, array_api_strict
NumpyArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Entries = Callable[[IntArray, IntArray], Any]  # (i, j) -> (len(i), len(j))
Kernel = Callable[[Any, Any], Any]  # (x, y) -> (len(x), len(y))
RandomLike = int | np.random.Generator | np.random.SeedSequence | None
