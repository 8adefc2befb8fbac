"""From the blocks of a matrix to the triangles that a factorisation overwrites."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine.dense import matmul
from ..flat.storage import FlatBlocks
from .triangular import Place, Triangle

CHUNK_NUMBERS = 1 << 22


@dataclass
class _Parts:
    """What lands in one triangle: dense pieces (level, rows, columns, data) and low-rank blocks by level."""

    far: list[dict[Place, tuple[NumpyArray, NumpyArray]]]
    dense: list[tuple[int, IntArray, IntArray, NumpyArray]] = field(default_factory=list)


def triangles(blocks: FlatBlocks, leaf_size: int, level: int) -> tuple[Triangle, ...]:
    """The lower triangle with dense blocks on `level`; unless the matrix is stored half, also the upper one's adjoint.

    Low-rank blocks below that level become part of dense ones, as do those on the diagonal; the diagonal blocks belong
    to the first triangle.
    """
    parts = tuple(_Parts([{} for _ in range(level + 1)]) for _ in range(1 if blocks.half else 2))
    for here in range(blocks.depth + 1):
        _place_dense(parts, here, blocks.near[here], level)
        for batch in blocks.far[here]:
            if here > level:
                _join(parts, here, batch, level)
            else:
                _place_low_rank(parts, here, batch, level)
    size, dtype = leaf_size << (blocks.depth - level), blocks.near[-1].data.dtype
    return tuple(_triangle(p, size, level, dtype) for p in parts)


def _sort_dense(parts: tuple[_Parts, ...], here: int, rows: IntArray, cols: IntArray, data: Any, level: int) -> None:
    """Divide dense pieces of one level, at or below `level`, among the triangles."""
    shift = here - level
    lower = (rows >> shift) >= (cols >> shift)
    if lower.any():
        pick = slice(None) if lower.all() else lower
        parts[0].dense.append((here, rows[pick], cols[pick], data[pick]))
    if len(parts) == 2 and not lower.all():
        parts[1].dense.append((here, cols[~lower], rows[~lower], adjoint(data[~lower])))


def _place_dense(parts: tuple[_Parts, ...], here: int, batch: BlockBatch, level: int) -> None:
    rows, cols, data = batch.rows, batch.cols, batch.data
    if not len(batch):
        return
    if here < level:  # cut into pieces of the size of the dense blocks
        w = 1 << (level - here)
        count, p, q = data.shape
        data = data.reshape(count, w, p // w, w, q // w).swapaxes(2, 3).reshape(-1, p // w, q // w)
        offsets = np.arange(w)
        rows = np.broadcast_to((rows[:, None] * w + offsets)[:, :, None], (count, w, w)).reshape(-1)
        cols = np.broadcast_to((cols[:, None] * w + offsets)[:, None, :], (count, w, w)).reshape(-1)
    _sort_dense(parts, max(here, level), rows, cols, data, level)


def _join(parts: tuple[_Parts, ...], here: int, batch: LowRankBatch, level: int) -> None:
    """Low-rank blocks below the level of the dense ones, multiplied out."""
    step = max(1, CHUNK_NUMBERS // (batch.left.shape[1] * batch.right.shape[1]))
    for k in range(0, len(batch), step):
        s = slice(k, k + step)
        data = matmul(batch.left[s], adjoint(batch.right[s]))
        _sort_dense(parts, here, batch.rows[s], batch.cols[s], data, level)


def _place_low_rank(parts: tuple[_Parts, ...], here: int, batch: LowRankBatch, level: int) -> None:
    for b, (row, col) in enumerate(zip(batch.rows.tolist(), batch.cols.tolist(), strict=True)):
        left, right = batch.left[b], batch.right[b]
        if row > col:
            parts[0].far[here][row, col] = left, right
        elif row < col and len(parts) == 2:
            parts[1].far[here][col, row] = right, left
        elif row == col:
            _divide(parts, here, row, left, right, level)


def _divide(
    parts: tuple[_Parts, ...], here: int, node: int, left: NumpyArray, right: NumpyArray, level: int
) -> None:  # fmt: skip
    """A low-rank block on the diagonal: an elimination needs dense blocks there."""
    if here == level:
        at = np.array([node])
        parts[0].dense.append((here, at, at, matmul(left[None], adjoint(right[None]))))
        return
    half = len(left) // 2
    for child in range(2):
        s = slice(child * half, (child + 1) * half)
        _divide(parts, here + 1, 2 * node + child, left[s], right[s], level)
    parts[0].far[here + 1][2 * node + 1, 2 * node] = left[half:], right[:half]
    if len(parts) == 2:
        parts[1].far[here + 1][2 * node + 1, 2 * node] = right[half:], left[:half]


def _triangle(parts: _Parts, size: int, level: int, dtype: Any) -> Triangle:
    count = 1 << level
    places = [np.stack([rows >> (here - level), cols >> (here - level)], axis=1) for here, rows, cols, _ in parts.dense]
    nodes = np.arange(count)
    # the second triangle has diagonal blocks too: the factorisation puts them there
    result = empty_triangle(np.concatenate([np.stack([nodes, nodes], axis=1), *places]), parts.far, size, level, dtype)
    for (here, rows, cols, data), place in zip(parts.dense, places, strict=True):
        w = 1 << (here - level)
        at = [result.near_index[row, col] for row, col in place.tolist()]
        result.near.reshape(-1, w, size // w, w, size // w)[at, rows % w, :, cols % w, :] = data
    return result


def empty_triangle(
    dense: NumpyArray, far: list[dict[Place, tuple[NumpyArray, NumpyArray]]], size: int, level: int, dtype: Any
) -> Triangle:  # fmt: skip
    """A triangle with zeros for its dense blocks, at the places (count, 2), given as often as one likes."""
    keys = np.unique(dense, axis=0)
    keys = keys[np.lexsort((keys[:, 0], keys[:, 1]))]
    index = {(int(i), int(k)): b for b, (i, k) in enumerate(keys)}
    starts = np.searchsorted(keys[:, 1], np.arange((1 << level) + 1))
    near = np.zeros((len(keys), size, size), dtype=dtype)
    return Triangle(level, size, near, index, starts, far, _divided(far, keys, level))


def _divided(far: list[dict[Place, Any]], near: IntArray, level: int) -> list[set[Place]]:
    """The blocks above the given ones, by level."""
    split: list[set[Place]] = [set() for _ in range(level)]
    below = {(int(i), int(k)) for i, k in near}
    for here in range(level - 1, -1, -1):
        below |= set(far[here + 1])
        split[here] = {(i >> 1, k >> 1) for i, k in below}
        below = set(split[here])
    return split
