"""Frobenius norms and inner products of dense and low-rank blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import adjoint, conj, is_numpy, namespace, take, to_numpy
from .._backend import squared_norms as sums
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine.dense import matmul
from ..exceptions import TreeMismatchError
from .assemble import aligned, alike, keys_of, same_places
from .storage import FlatBlocks


def frobenius(blocks: FlatBlocks) -> float:
    """The Frobenius norm of the whole matrix."""
    total = 0.0
    for batch in blocks.batches:
        squares = squared_norms(batch)
        total += float(squares.sum())
        if blocks.half:
            total += float(squares[batch.rows != batch.cols].sum())
    return float(np.sqrt(total))


def squared_norms(batch: BlockBatch | LowRankBatch) -> NumpyArray:
    """The squared Frobenius norm of each block, (nb,): of L R^H it is the sum over (L^H L) * conj(R^H R)."""
    if isinstance(batch, BlockBatch):
        data = batch.data
        if not is_numpy(data):
            return to_numpy(sums(data, axis=(1, 2)))
        return np.einsum("bpq,bpq->b", data, data.conj(), optimize=True).real.astype(np.float64)
    return np.maximum(0.0, _products_of(batch.left, batch.left, batch.right, batch.right).real.astype(np.float64))


def _products_of(left: Array, other_left: Array, right: Array, other_right: Array) -> NumpyArray:
    """The inner products (nb,) of the blocks L R^H with the blocks M S^H: the sums over (L^H M) * conj(R^H S)."""
    products = matmul(adjoint(left), other_left) * conj(matmul(adjoint(right), other_right))
    return to_numpy(namespace(products).sum(products, axis=(1, 2)))


def inner(a: FlatBlocks, b: FlatBlocks) -> Any:
    """trace(A^H B), the sum of conj(A) * B over all entries, for blocks of one partition; O(n k^2 log n).

    Of two low-rank blocks L R^H and M S^H it is the sum over (L^H M) * conj(R^H S).
    """
    a, b = alike(a, b)
    if not same_places(a, b):
        raise TreeMismatchError(
            "the inner product needs one block partition, but the operands have two; convert one of them: "
            "type(A).from_structured(B, partition=A.partition)"
        )
    total: Any = 0.0
    for level in range(a.depth + 1):
        x, y = a.near[level], aligned(a.near[level], b.near[level], level)
        products = conj(x.data) * y
        total = total + _both_halves(to_numpy(namespace(y).sum(products, axis=(1, 2))), x.rows, x.cols, a.half)
        for p in a.far[level]:
            for q in b.far[level]:
                _, i, j = np.intersect1d(keys_of(p, level), keys_of(q, level), return_indices=True)
                if len(i):
                    parts = _products_of(take(p.left, i), take(q.left, j), take(p.right, i), take(q.right, j))
                    total = total + _both_halves(parts, p.rows[i], p.cols[i], a.half)
    return total


def _both_halves(parts: NumpyArray, rows: IntArray, cols: IntArray, half: bool) -> Any:
    """The sum over blocks, and over their adjoints at the mirrored places: the conjugates."""
    wide = parts.astype(np.result_type(parts, np.float64))
    return wide.sum() + (wide[rows != cols].conj().sum() if half else 0.0)
