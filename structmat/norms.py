"""The 2-norm of anything that multiplies, by Lanczos iteration (Golub and Kahan) as ARPACK does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse.linalg as spla

# below this size a dense singular value decomposition is cheaper and safer than an iteration
DENSE_SIZE = 48
POWER_STEPS = 1000


def two_norm(op: Any, *, tol: float, rng: np.random.Generator) -> float:
    """The largest singular value of an operator with `shape`, `dtype`, `matmat` and `rmatmat`."""
    if min(op.shape) <= DENSE_SIZE:
        small_first = op.shape[1] <= op.shape[0]
        eye = np.eye(min(op.shape), dtype=op.dtype)
        dense = op.matmat(eye) if small_first else op.rmatmat(eye)
        return float(np.linalg.norm(dense, 2))
    start = rng.standard_normal(min(op.shape)).astype(op.dtype)
    operator = op if isinstance(op, spla.LinearOperator) else op.aslinearoperator()
    try:
        return float(spla.svds(operator, k=1, tol=tol, v0=start, return_singular_vectors=False)[0])
    except spla.ArpackError:  # the zero matrix, the identity: the Krylov space is smaller than ARPACK wants
        return _by_power_iteration(operator, tol, rng)


def _by_power_iteration(operator: Any, tol: float, rng: np.random.Generator) -> float:
    x = rng.standard_normal(operator.shape[1]).astype(operator.dtype)
    x, size = x / np.linalg.norm(x), 0.0
    for _ in range(POWER_STEPS):
        y = operator.matvec(x)
        before, size = size, float(np.linalg.norm(y))
        if size == 0.0 or abs(size - before) <= 0.1 * tol * size:
            break
        x = operator.rmatvec(y)
        x = x / np.linalg.norm(x)
    return size
