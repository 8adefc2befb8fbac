"""Batches taken a slab of memory at a time, and products of blocks that are stored in less precision than the vectors.

Array libraries multiply numbers of one type. Blocks of a matrix in mixed precision are widened for that, but never all
of them at once: a slab is read as it is stored, and what it becomes is used while a device still has it in its cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from .. import _backend
from .._backend import as_dtype_of, concatenated, namespace
from .._typing import Array

__all__ = ["SLAB", "adjoint_times", "times", "widened"]

# numbers of gathered or widened blocks that are held at a time
SLAB = 1 << 22


def widened(x: Array, *batches: Array) -> Iterator[tuple[slice, tuple[Array, ...]]]:
    """Which blocks of some batches of equal length, and these in the dtype of `x`: all at once where they have it."""
    count = int(batches[0].shape[0])
    numbers = sum(math.prod(b.shape[1:]) for b in batches if b.dtype != x.dtype)
    step = max(1, SLAB // numbers) if numbers else max(1, count)
    if step >= count:
        yield slice(0, count), tuple(as_dtype_of(b, x) for b in batches)
        return
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        yield part, tuple(as_dtype_of(b[part, ...], x) for b in batches)


def times(a: Array, x: Array) -> Array:
    """A x over a batch in the dtype of x, which is that of a or a wider one."""
    return _product(namespace(x).matmul, a, x)


def adjoint_times(a: Array, x: Array) -> Array:
    """A^H x over a batch in the dtype of x, which is that of a or a wider one."""
    return _product(_backend.adjoint_times, a, x)


def _product(product: Callable[[Array, Array], Array], a: Array, x: Array) -> Array:
    if a.dtype == x.dtype:
        return product(a, x)
    return concatenated([product(wide, x[part, ...]) for part, (wide,) in widened(x, a)])
