"""The product of two H2-matrices by sketching: the operator x -> A (B x) compressed from the leaves up.

The samples of the product are two products each, of cost O(n k); their number does not grow with n. So the product
takes O(n s^2) for s samples, and neither ranks that multiply nor intermediate sums are ever formed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse.linalg as spla

from ..flat.constructors import _silent
from ..sources import OperatorSource
from .from_products import from_operator

if TYPE_CHECKING:
    from ..partition import BlockPartition
    from .matrix import H2Matrix


def product(a: H2Matrix, b: H2Matrix, partition: BlockPartition, rtol: float, rng: np.random.Generator) -> Any:
    """A B in the given partition, checked on independent probes."""
    symmetric = is_gram(a, b) and partition.is_symmetric
    dtype = np.result_type(a.dtype, b.dtype)
    # as in all arithmetic: what is asked beyond this is granted to rounding
    rtol = max(rtol, 32.0 * float(np.finfo(dtype).eps))
    operator = spla.LinearOperator(
        (a.shape[0], b.shape[1]), dtype=dtype, matvec=lambda x: a @ (b @ x), matmat=lambda x: a @ (b @ x),
        rmatvec=lambda x: b.H @ (a.H @ x), rmatmat=lambda x: b.H @ (a.H @ x),
    )  # fmt: skip
    return from_operator(
        type(a), OperatorSource(operator, symmetric=symmetric), partition, entries=None, rtol=rtol, max_rank=None,
        symmetric=symmetric, noise=0.0, max_probes=None, rng=rng, progress=_silent,
    )  # fmt: skip


def is_gram(a: H2Matrix, b: H2Matrix) -> bool:
    """Whether B is A^H, as views of one storage: the product is Hermitian."""
    if a._storage is not b._storage:
        return False
    conjugated = a._conjugated == b._conjugated
    return conjugated if a.symmetric else conjugated and a._adjointly != b._adjointly
