"""Trace(A^-1 B) of Hermitian H-matrices, from columns of the inverse that are used and forgotten.

With A = L L^H the columns J of X = A^-1 are L^-H L^-1 E_J. X and B being Hermitian, the rows from J on are enough:
L^-1 E_J has no others, and of the solve with L^H the last steps are left out. They are summed up against what B has
there, dense blocks and low-rank ones:

    trace(X B) = sum over blocks of <X_tt, B_tt> and 2 Re <X_ts, B_ts>, t > s,    <X, U V^H> = sum of (U^H X) * V^T.

Nothing is truncated, so that the trace is that of B with the factors as they are: L L^H = A + D, of which the
certificate of the factorisation tells ||D||_F, and

    |trace((A + D)^-1 B) - trace(A^-1 B)| <= ||D||_F ||A^-1 B (A + D)^-1||_F.

An H-matrix that approximates X would not do: its error, however small beside ||X||, meets the large smooth part of B.

Cost O(n^2 k log n) time, half of that of n solves, for all B together, and O(n) memory. The constant is that of matrix
products: see `benchmarks/gp.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._backend import adjoint, one_blas_thread, parallel_tasks
from .._typing import NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from .triangular import Place, Triangle

if TYPE_CHECKING:
    from .cholesky import HCholesky
    from .matrix import HMatrix

# columns of the inverse at a time, about
COLUMNS = 512


def traces_of_solve(factors: HCholesky, others: list[HMatrix]) -> list[float]:
    """The traces of A^-1 B for each of several B, stored as Hermitian, on the tree of A."""
    triangle = factors._sides[0]
    level = next((k for k in range(triangle.depth) if triangle.rows_of(k) <= COLUMNS), triangle.depth)
    width = triangle.rows_of(level)
    sums = np.zeros((1 << level, len(others)))

    def work(node: int) -> None:
        x = _columns_of_inverse(triangle, node * width, width)
        sums[node] = [_inner(b, x, level, node) for b in others]

    with one_blas_thread():
        parallel_tasks(work, 1 << level)  # the first ones have the most rows
    return [float(s) for s in sums.sum(axis=0)]


# ---------------------------------------------------------------------------- columns of the inverse


def _columns_of_inverse(triangle: Triangle, start: int, width: int) -> NumpyArray:
    """The rows from `start` on of the columns `start` .. `start + width` of (L L^H)^-1."""
    x = np.zeros((triangle.rows_of(0) - start, width), dtype=triangle.near.dtype)
    np.fill_diagonal(x, 1)
    _solve(triangle, x, start, 0, 0)
    _solve_adjoint(triangle, x, start, 0, 0)
    return x


def _solve(triangle: Triangle, x: NumpyArray, skip: int, level: int, node: int) -> None:
    """Overwrite x by D^-1 x, D the diagonal block of a node without its first `skip` rows and columns."""
    if skip == 0:
        triangle.solve(x, level, node)
        return
    half = triangle.rows_of(level) // 2
    if skip >= half:
        _solve(triangle, x, skip - half, level + 1, 2 * node + 1)
        return
    upper, lower = x[: half - skip], x[half - skip :]
    _solve(triangle, upper, skip, level + 1, 2 * node)
    _subtract(triangle, level + 1, (2 * node + 1, 2 * node), skip, upper, lower)
    triangle.solve(lower, level + 1, 2 * node + 1)


def _solve_adjoint(triangle: Triangle, x: NumpyArray, skip: int, level: int, node: int) -> None:
    """The same with D^-H."""
    if skip == 0:
        triangle.solve_adjoint(x, level, node)
        return
    half = triangle.rows_of(level) // 2
    if skip >= half:
        _solve_adjoint(triangle, x, skip - half, level + 1, 2 * node + 1)
        return
    upper, lower = x[: half - skip], x[half - skip :]
    triangle.solve_adjoint(lower, level + 1, 2 * node + 1)
    _subtract_adjoint(triangle, level + 1, (2 * node + 1, 2 * node), skip, lower, upper)
    _solve_adjoint(triangle, upper, skip, level + 1, 2 * node)


def _subtract(triangle: Triangle, level: int, place: Place, skip: int, x: NumpyArray, y: NumpyArray) -> None:
    """Subtract one block without its first `skip` columns, times x, from y."""
    found = triangle.far[level].get(place)
    if skip == 0:
        triangle.add_product(level, place, x, y, -1)
    elif found is not None:
        y -= found[0] @ (adjoint(found[1][skip:]) @ x)
    else:
        for child, (rows, part), less in _children(place, len(y), skip, len(x)):
            _subtract(triangle, level + 1, child, less, x[part], y[rows])


def _subtract_adjoint(triangle: Triangle, level: int, place: Place, skip: int, x: NumpyArray, y: NumpyArray) -> None:
    """Subtract the adjoint of one block without its first `skip` columns, times x, from y."""
    found = triangle.far[level].get(place)
    if skip == 0:
        triangle.add_adjoint_product(level, place, x, y, -1)
    elif found is not None:
        y -= found[1][skip:] @ (adjoint(found[0]) @ x)
    else:
        for child, (rows, part), less in _children(place, len(x), skip, len(y)):
            _subtract_adjoint(triangle, level + 1, child, less, x[rows], y[part])


def _children(place: Place, height: int, skip: int, left: int) -> Iterator[tuple[Place, tuple[slice, slice], int]]:
    """The blocks of a divided one, their rows and their part of the `left` columns after the first `skip`."""
    half = height // 2
    for i in range(2):
        for k in range(2):
            stop = left - half if k == 0 else left
            start = 0 if k == 0 else max(0, left - half)
            if stop > start:
                child = 2 * place[0] + i, 2 * place[1] + k
                yield child, (slice(i * half, (i + 1) * half), slice(start, stop)), max(0, skip - k * half)


# ------------------------------------------------------------------------------------ inner products


def _inner(matrix: HMatrix, x: NumpyArray, level: int, node: int) -> float:
    """What the columns of one node add to trace(X B); x as from `_columns_of_inverse`."""
    blocks, leaf = matrix.blocks, matrix.row_tree.leaf_size
    total = 0.0
    for here in range(blocks.depth + 1):
        p = leaf << (blocks.depth - here)
        batches: list[BlockBatch | LowRankBatch] = [blocks.near[here], *blocks.far[here]]
        for batch in batches:
            mine = (batch.cols >> (here - level)) == node if here >= level else batch.cols == node >> (level - here)
            for b in np.flatnonzero(mine):
                row, col = int(batch.rows[b]) * p, int(batch.cols[b]) * p
                factors = (batch.data[b], None) if isinstance(batch, BlockBatch) else (batch.left[b], batch.right[b])
                total += _of_block(factors, row, col, x, node * x.shape[1])
    return total


def _of_block(factors: tuple[NumpyArray, NumpyArray | None], row: int, col: int, x: NumpyArray, start: int) -> float:
    """The part of one block of B, that begins at (row, col); x begins at (start, start)."""
    left, right = factors
    p, width = len(left), x.shape[1]
    columns = slice(max(col, start) - col, min(col + p, start + width) - col)
    here = slice(columns.start + col - start, columns.stop + col - start)
    if row != col:
        return 2.0 * _product(left, right, columns, x[row - start : row - start + p, here])
    # of a block on the diagonal the square, and twice what is below it
    stop = columns.stop
    total = _product(left[columns], right, columns, x[row + columns.start - start : row + stop - start, here])
    if stop < p:
        total += 2.0 * _product(left[stop:], right, columns, x[row + stop - start : row + p - start, here])
    return total


def _product(left: NumpyArray, right: NumpyArray | None, columns: slice, x: NumpyArray) -> float:
    """The real part of <x, B>, B being `left` right^H or `left` alone, and its columns."""
    if right is None:
        return float(np.vdot(left[:, columns], x).real)
    return float(np.sum((adjoint(left) @ x) * right[columns].T).real)
