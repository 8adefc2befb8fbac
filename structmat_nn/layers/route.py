"""Which route a product takes: a rule of sizes and batch, with constants measured by ``python -m benchmarks nn``.

The time of a product and its derivatives is modelled for one thread of a CPU. Block by block it is that of the calls,
of moving the vectors of each level, and of arithmetic in small blocks; densely it is that of forming the weight, which
does not depend on the batch, and of arithmetic at the full rate. So small weights with large batches go densely.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from .telescopic import Telescopic

__all__ = ["Microseconds", "block_time", "bound_by_launches", "dense_from", "dense_time"]

# microseconds: calls of a product and its derivatives, first in all and then by level
_BLOCK_CALLS = (300.0, 70.0)
_DENSE_CALLS = (150.0, 250.0)
_MOVE = 3.0e-3  # a number of a vector, in and out of one level
_FORM = 7.0e-3  # an entry of the dense weight
_BLOCK_RATE = 5.0e4  # operations a microsecond in small blocks
_DENSE_RATE = 7.5e4  # in one large product
_OPERATIONS = 6  # for each entry and vector: a multiplication and an addition, forward and in two derivatives


def bound_by_launches(x: Tensor) -> bool:
    """Whether operations on a tensor are launched on a device, where a few large ones beat many small ones."""
    return x.is_cuda


class Microseconds(NamedTuple):
    """A time that grows with the number of vectors."""

    once: float
    by_vector: float


def block_time(structure: Telescopic) -> Microseconds:
    """The modelled time of a product block by block and of its derivatives."""
    moved = sum(shape[0] * (shape[1] + shape[2]) for name, shape in structure.stack_shapes.items() if name[0] != "V")
    arithmetic = _OPERATIONS * structure.parameter_count / _BLOCK_RATE
    return Microseconds(_BLOCK_CALLS[0] + _BLOCK_CALLS[1] * structure.levels, _MOVE * moved + arithmetic)


def dense_time(structure: Telescopic) -> Microseconds:
    """The modelled time of forming the weight, of a product with it, and of its derivatives."""
    entries = structure.rows * structure.columns
    forming = _DENSE_CALLS[0] + _DENSE_CALLS[1] * structure.levels + _FORM * entries
    return Microseconds(forming, _OPERATIONS * entries / _DENSE_RATE)


def dense_from(structure: Telescopic) -> float:
    """The number of vectors from which on the dense weight is faster by the model; infinity where it never is."""
    if structure.levels == 0:
        return 0.0
    block, dense = block_time(structure), dense_time(structure)
    gained = block.by_vector - dense.by_vector
    return max(0.0, (dense.once - block.once) / gained) if gained > 0.0 else math.inf
