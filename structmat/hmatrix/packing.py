"""A factored triangle as flat buffers and a table of steps, for the compiled substitution with one vector."""

from __future__ import annotations

import numpy as np

from .._typing import NumpyArray
from ..engine import cpu_triangular
from .triangular import Triangle

DIAGONAL, DENSE, LOW_RANK = range(3)


class PackedTriangle:
    """The steps of a substitution. The low-rank factors of the triangle become views of one buffer.

    Parameters
    ----------
    triangle : Triangle
        Factored, and not changed any more but by this.
    """

    def __init__(self, triangle: Triangle) -> None:
        self._dense = triangle.near.reshape(-1)
        blocks = [uv for level in triangle.far for uv in level.values()]
        self._low_rank = np.empty(sum(u.size + v.size for u, v in blocks), dtype=self._dense.dtype)
        self._widest = max((u.shape[1] for u, _ in blocks), default=1)
        self._steps: list[tuple[int, int, int, int, int, int]] = []
        self._cursor = 0
        self._add_node(triangle, 0, 0)
        # kind, start, rank, first row, first column, size, see `engine.cpu_triangular`
        self._table = np.array(self._steps, dtype=np.int64)
        del self._steps, self._cursor
        self._orders = _joined_orders(triangle)
        self._dense.flags.writeable = self._low_rank.flags.writeable = False

    def solve(self, x: NumpyArray, *, adjointly: bool) -> None:
        """Overwrite the vector x (rows,), of the factors' dtype, by D^-1 x or D^-H x."""
        kernel = cpu_triangular.triangular_solve_adjoint if adjointly else cpu_triangular.triangular_solve
        kernel(self._dense, self._low_rank, self._table, self._orders, self._widest, x)

    def _add_node(self, triangle: Triangle, level: int, node: int) -> None:
        """The steps of the columns of one node: its descendants' first, then its own low-rank blocks."""
        if level == triangle.depth:
            self._add_dense(triangle, node)
        else:
            self._add_node(triangle, level + 1, 2 * node)
            self._add_node(triangle, level + 1, 2 * node + 1)
        size = triangle.rows_of(level)
        for row in triangle.far_rows[level].get(node, []):
            u, v = triangle.far[level][row, node]
            rank = u.shape[1]
            if rank:
                self._steps.append((LOW_RANK, self._cursor, rank, row * size, node * size, size))
            triangle.far[level][row, node] = self._placed(u), self._placed(v)

    def _add_dense(self, triangle: Triangle, node: int) -> None:
        size = triangle.size
        start = int(triangle.column_starts[node]) * size * size
        self._steps.append((DIAGONAL, start, 0, node * size, node * size, size))
        for row in triangle.open_rows[triangle.depth].get(node, []):
            start += size * size
            self._steps.append((DENSE, start, 0, row * size, node * size, size))

    def _placed(self, factor: NumpyArray) -> NumpyArray:
        """The factor (p, k), transposed, in the buffer; a view of it there."""
        view = self._low_rank[self._cursor : self._cursor + factor.size].reshape(factor.shape[::-1])
        view[:] = factor.T
        self._cursor += factor.size
        return view.T


def _joined_orders(triangle: Triangle) -> NumpyArray:
    """The orders of the rows of all diagonal blocks, one after the other; empty if no rows are exchanged."""
    if all(order is None for order in triangle.orders):
        return np.zeros(0, dtype=np.int64)
    natural = np.arange(triangle.size)
    return np.concatenate([natural if order is None else order for order in triangle.orders])
