"""Block triangular H-matrices: the layout that the factorisations work on, products with parts of it, and solves.

A factorisation joins the leaves of the tree to dense blocks of some hundred rows: below that size the products of small
low-rank blocks cost more than dense ones. So it works on a tree of its own, the upper levels of the matrix's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg.blas

from .._backend import adjoint
from .._typing import IntArray, NumpyArray

Place = tuple[int, int]  # row node, column node


@dataclass
class Triangle:
    """A lower triangular H-matrix, its diagonal blocks included; also the adjoint of an upper triangular one.

    Attributes
    ----------
    depth : int
        Level of the dense blocks.
    size : int
        Rows p of a dense block, in padded coordinates; a node of level l has p 2**(depth - l).
    near : (count, p, p) array
        Dense blocks by column and then by row, each column's diagonal block first.
    near_index : dict
        The position of each dense block in `near`.
    column_starts : (2**depth + 1,) int array
        Where the columns begin in `near`.
    far : list of dicts, by level
        (U, V) of each low-rank block U V^H.
    split : list of sets, by level 0 .. depth - 1
        Blocks that consist of blocks of the next level, those on the diagonal among them.
    orders : list
        For each diagonal block the order of its rows that makes it triangular; None stands for the order as it is.
    """

    depth: int
    size: int
    near: NumpyArray
    near_index: dict[Place, int]
    column_starts: IntArray
    far: list[dict[Place, tuple[NumpyArray, NumpyArray]]]
    split: list[set[Place]]
    orders: list[IntArray | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.orders = [None] * (1 << self.depth)
        self.far_rows = [_by_node(level, 1) for level in self.far]
        blocks: list[Any] = [*self.split, self.near_index]
        off_diagonal = [[place for place in level if place[0] != place[1]] for level in blocks]
        self.open_rows = [_by_node(level, 1) for level in off_diagonal]
        self.open_columns = [_by_node(level, 0) for level in off_diagonal]

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return int(self.near.nbytes) + sum(u.nbytes + v.nbytes for level in self.far for u, v in level.values())

    @property
    def max_rank(self) -> int:
        """The largest rank of a low-rank block."""
        return max((u.shape[1] for level in self.far for u, _ in level.values()), default=0)

    def rows_of(self, level: int) -> int:
        """Rows of a node of a level."""
        return self.size << (self.depth - level)

    def has(self, level: int, place: Place) -> bool:
        """Whether the level has this block: low-rank, divided, or dense."""
        return place in self.far[level] or place in (self.near_index if level == self.depth else self.split[level])

    def diagonal(self, node: int) -> NumpyArray:
        """The dense block on the diagonal, (p, p)."""
        return self.near[self.column_starts[node]]

    def below_diagonal(self, node: int) -> NumpyArray:
        """The dense blocks under it, one upon the other, (rows, p): contiguous."""
        first, last = self.column_starts[node] + 1, self.column_starts[node + 1]
        return self.near[first:last].reshape(-1, self.size)

    # -------------------------------------------------------------------------------- products

    def add_product(self, level: int, place: Place, x: NumpyArray, y: NumpyArray, sign: int = 1) -> None:
        """Add or subtract one block times x (q, k) to or from y (p, k)."""
        found = self.far[level].get(place)
        if found is not None:
            _add(y, found[0] @ (adjoint(found[1]) @ x), sign)
        elif level == self.depth:
            _add(y, self.near[self.near_index[place]] @ x, sign)
        else:
            half, (row, col) = len(y) // 2, place
            for i in range(2):
                for k in range(2):
                    child = 2 * row + i, 2 * col + k
                    part = x[k * half : (k + 1) * half]
                    self.add_product(level + 1, child, part, y[i * half : (i + 1) * half], sign)

    def add_adjoint_product(self, level: int, place: Place, x: NumpyArray, y: NumpyArray, sign: int = 1) -> None:
        """Add or subtract the adjoint of one block times x (p, k) to or from y (q, k)."""
        found = self.far[level].get(place)
        if found is not None:
            _add(y, found[1] @ (adjoint(found[0]) @ x), sign)
        elif level == self.depth:
            _add(y, adjoint(self.near[self.near_index[place]]) @ x, sign)
        else:
            half, (row, col) = len(y) // 2, place
            for i in range(2):
                for k in range(2):
                    child = 2 * row + i, 2 * col + k
                    part = x[i * half : (i + 1) * half]
                    self.add_adjoint_product(level + 1, child, part, y[k * half : (k + 1) * half], sign)

    def product(self, level: int, place: Place, x: NumpyArray) -> NumpyArray:
        """One block times x (q, k)."""
        if level == self.depth and place in self.near_index:
            return self.near[self.near_index[place]] @ x
        y = np.zeros((self.rows_of(level), x.shape[1]), dtype=x.dtype)
        self.add_product(level, place, x, y)
        return y

    def adjoint_product(self, level: int, place: Place, x: NumpyArray) -> NumpyArray:
        """The adjoint of one block times x (p, k)."""
        if level == self.depth and place in self.near_index:
            return adjoint(self.near[self.near_index[place]]) @ x
        y = np.zeros((self.rows_of(level), x.shape[1]), dtype=x.dtype)
        self.add_adjoint_product(level, place, x, y)
        return y

    # ---------------------------------------------------------------------------------- solves

    def solve(self, x: NumpyArray, level: int = 0, node: int = 0) -> None:
        """Overwrite x (rows, k) by D^-1 x, D the diagonal block of a node; by default the whole matrix."""
        if level == self.depth:
            ordered = x if self.orders[node] is None else x[self.orders[node]]
            x[:] = _substitute(self.diagonal(node), ordered, adjointly=False)
            return
        half = len(x) // 2
        self.solve(x[:half], level + 1, 2 * node)
        self.add_product(level + 1, (2 * node + 1, 2 * node), x[:half], x[half:], -1)
        self.solve(x[half:], level + 1, 2 * node + 1)

    def solve_adjoint(self, x: NumpyArray, level: int = 0, node: int = 0) -> None:
        """Overwrite x (rows, k) by D^-H x."""
        if level == self.depth:
            solved, order = _substitute(self.diagonal(node), x, adjointly=True), self.orders[node]
            x[slice(None) if order is None else order] = solved
            return
        half = len(x) // 2
        self.solve_adjoint(x[half:], level + 1, 2 * node + 1)
        self.add_adjoint_product(level + 1, (2 * node + 1, 2 * node), x[half:], x[:half], -1)
        self.solve_adjoint(x[:half], level + 1, 2 * node)

    def divide_columns(self, node: int, rows: NumpyArray) -> None:
        """Overwrite `rows` (m, p), contiguous, by rows D^-H, D the dense diagonal block of a node."""
        order = self.orders[node]
        if order is not None:
            rows[:] = rows[:, order]
        if len(rows):
            # X D^H = S is conj(D) X^T = S^T; the transposes are views in the order that BLAS wants
            solve = scipy.linalg.blas.get_blas_funcs("trsm", (rows,))
            target = rows.T
            result = solve(1.0, self.diagonal(node).T, target, lower=0, trans_a=2, overwrite_b=1)
            if not np.shares_memory(result, rows):
                target[:] = result

    def times(self, x: NumpyArray, level: int = 0, node: int = 0) -> NumpyArray:
        """D x for the diagonal block of a node; by default the whole matrix."""
        if level == self.depth:
            product, order = self.diagonal(node) @ x, self.orders[node]
            return product if order is None else _scattered(product, order)
        half = len(x) // 2
        upper = self.times(x[:half], level + 1, 2 * node)
        lower = self.times(x[half:], level + 1, 2 * node + 1)
        self.add_product(level + 1, (2 * node + 1, 2 * node), x[:half], lower)
        return np.concatenate([upper, lower])

    def adjoint_times(self, x: NumpyArray, level: int = 0, node: int = 0) -> NumpyArray:
        """D^H x."""
        if level == self.depth:
            order = self.orders[node]
            return adjoint(self.diagonal(node)) @ (x if order is None else x[order])
        half = len(x) // 2
        upper = self.adjoint_times(x[:half], level + 1, 2 * node)
        lower = self.adjoint_times(x[half:], level + 1, 2 * node + 1)
        self.add_adjoint_product(level + 1, (2 * node + 1, 2 * node), x[half:], upper)
        return np.concatenate([upper, lower])


def _by_node(places: Any, axis: int) -> dict[int, list[int]]:
    """For each column (axis 1) its rows, or for each row its columns, in rising order."""
    found: dict[int, list[int]] = {}
    for place in sorted(places):
        found.setdefault(place[axis], []).append(place[1 - axis])
    return found


def _add(y: NumpyArray, product: NumpyArray, sign: int) -> None:
    if sign > 0:
        y += product
    else:
        y -= product


def _substitute(lower: NumpyArray, x: NumpyArray, *, adjointly: bool) -> NumpyArray:
    solved: NumpyArray = scipy.linalg.solve_triangular(
        lower, x, lower=True, trans="C" if adjointly else "N", check_finite=False
    )
    return solved


def _scattered(rows: NumpyArray, order: IntArray) -> NumpyArray:
    out = np.empty_like(rows)
    out[order] = rows
    return out
