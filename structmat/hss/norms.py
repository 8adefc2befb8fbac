"""The 2-norm of anything that multiplies, by Lanczos iteration (Golub and Kahan) as ARPACK does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse.linalg as spla

# below this size a dense singular value decomposition is cheaper and safer than an iteration
DENSE_SIZE = 48


def two_norm(op: Any, *, tol: float, rng: np.random.Generator) -> float:
    """The largest singular value of an operator with `shape`, `dtype`, `matmat` and `rmatmat`."""
    if min(op.shape) <= DENSE_SIZE:
        small_first = op.shape[1] <= op.shape[0]
        eye = np.eye(min(op.shape), dtype=op.dtype)
        dense = op.matmat(eye) if small_first else op.rmatmat(eye)
        return float(np.linalg.norm(dense, 2))
    start = rng.standard_normal(min(op.shape)).astype(op.dtype)
    operator = op if isinstance(op, spla.LinearOperator) else op.aslinearoperator()
    return float(spla.svds(operator, k=1, tol=tol, v0=start, return_singular_vectors=False)[0])
