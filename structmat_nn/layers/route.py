"""Which route a product takes: a rule of sizes and batch, with constants measured by ``python -m benchmarks nn``.

The time of a product and its derivatives is modelled for one thread of a CPU. Block by block it is that of the calls,
of moving the vectors of each level, and of arithmetic in small blocks; densely it is that of forming the weight, which
does not depend on the batch, and of arithmetic at the full rate. So small weights with large batches go densely.
"""

from __future__ import annotations

from .telescopic import Telescopic

__all__ = ["block_microseconds", "dense_is_faster", "dense_microseconds"]

# microseconds: calls of a product and its derivatives, first in all and then by level
_BLOCK_CALLS = (300.0, 70.0)
_DENSE_CALLS = (150.0, 250.0)
_MOVE = 3.0e-3  # a number of a vector, in and out of one level
_FORM = 7.0e-3  # an entry of the dense weight
_BLOCK_RATE = 5.0e4  # operations a microsecond in small blocks
_DENSE_RATE = 7.5e4  # in one large product
_OPERATIONS = 6  # for each entry and vector: a multiplication and an addition, forward and in two derivatives


def block_microseconds(structure: Telescopic, columns: int) -> float:
    """The modelled time of a product block by block with so many vectors, and of its derivatives."""
    moved = sum(shape[0] * (shape[1] + shape[2]) for name, shape in structure.stack_shapes.items() if name[0] != "V")
    arithmetic = _OPERATIONS * structure.parameter_count / _BLOCK_RATE
    return _BLOCK_CALLS[0] + _BLOCK_CALLS[1] * structure.levels + columns * (_MOVE * moved + arithmetic)


def dense_microseconds(structure: Telescopic, columns: int) -> float:
    """The modelled time of forming the weight, of a product with so many vectors, and of its derivatives."""
    entries = structure.rows * structure.columns
    forming = _DENSE_CALLS[0] + _DENSE_CALLS[1] * structure.levels + _FORM * entries
    return forming + columns * _OPERATIONS * entries / _DENSE_RATE


def dense_is_faster(structure: Telescopic, columns: int) -> bool:
    """Whether to multiply by the dense weight: by the model, and where there are no levels at all."""
    return structure.levels == 0 or dense_microseconds(structure, columns) < block_microseconds(structure, columns)
