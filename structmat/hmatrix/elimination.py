"""The elimination behind H-LU and H-Cholesky: block column by block column, what is due to a block summed first.

With A = L R^H, both lower triangular (R = L for Cholesky), the block (i, t) of L is S R_tt^-H with
S = A_it - sum over k < t of L_ik R_tk^H; for R the roles are exchanged. All of the sum is collected before S is
truncated, once. Three kinds of products occur:

* of dense blocks into a dense one: multiplied out when its column comes;
* with a low-rank factor: low-rank itself, put on the list of the target, or handed down from the block around it;
* of two divided blocks into a low-rank one: by products with the random samples that the truncation asks for.

As nothing else is truncated, L R^H is A plus the errors of these truncations.

References: S. Boerm, S. Christophersen, "Semi-automatic task graph construction for H-matrix arithmetic", 2019
(arXiv 1911.07531), for accumulated updates; L. Grasedyck, W. Hackbusch, "Construction and arithmetics of H-matrices",
Computing 70 (2003) 295-334.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._backend import adjoint, one_blas_thread, parallel_tasks
from .._typing import NumpyArray
from .compression import TESTS, truncated_product
from .triangular import Place, Triangle

# samples beyond the rank that the block had before
SPARE = TESTS + 4

Pair = tuple[NumpyArray, NumpyArray]  # U, V of U V^H
FactorDiagonal = Callable[[int], None]


class Elimination:
    """Overwrites triangles that hold A by its factors.

    Parameters
    ----------
    triangles : tuple of Triangle
        One for Cholesky, or the lower triangle and the adjoint of the upper one.
    tail : callable
        The Frobenius error that the low-rank block at a level and a place may have.
    factor_diagonal : callable
        Called with the number of each diagonal block, when it holds its Schur complement, to factor it in place.
    half : bool
        Eliminate the first half of the unknowns only: the other half holds its Schur complement in the end.
    """

    def __init__(
        self,
        triangles: tuple[Triangle, ...],
        tail: Callable[[int, Place], float],
        factor_diagonal: FactorDiagonal,
        *,
        half: bool = False,
    ) -> None:
        self._sides = triangles
        self._tail = tail
        self._half = half
        self._factor_diagonal = factor_diagonal
        self._depth = triangles[0].depth
        # what earlier columns have added to each block, as low-rank pairs: by side and level
        self._lists: list[list[dict[Place, list[Pair]]]] = [
            [{} for _ in range(self._depth + 1)] for _ in triangles
        ]  # fmt: skip

    def run(self) -> None:
        """Eliminate all columns, or half of them."""
        with one_blas_thread():
            self._column(0, 0)

    def _column(self, level: int, node: int) -> None:
        """Eliminate the unknowns of one node."""
        self._sum_up(level, node)
        stays = node >= self._eliminated(level)
        if level < self._depth:
            self._column(level + 1, 2 * node)
            self._column(level + 1, 2 * node + 1)
        elif not stays:
            self._factor_diagonal(node)
            for side, triangle in enumerate(self._sides):
                self._sides[side - 1].divide_columns(node, triangle.below_diagonal(node))
        if not stays:
            self._divide_low_rank(level, node)
            self._spread(level, node)

    def _eliminated(self, level: int) -> int:
        """The number of nodes of a level that are eliminated, the first ones."""
        return (1 << level) // 2 if self._half else 1 << level

    # -------------------------------------------------------------------- what is due to a column

    def _sum_up(self, level: int, node: int) -> None:
        """Gather what earlier columns add to the blocks of this one, and truncate the low-rank ones."""
        tasks: list[Callable[[], None]] = []
        for side, triangle in enumerate(self._sides):
            rows = triangle.far_rows[level].get(node, [])
            if rows:
                probes = self._probes(side, level, node, rows)
                tasks += [self._truncation(side, level, (row, node), probes) for row in rows]
            open_rows = triangle.open_rows[level].get(node, [])
            for row in [node, *open_rows] if side == 0 else open_rows:
                if level == self._depth:
                    tasks.append(self._subtraction(side, (row, node)))
                else:
                    tasks.append(self._gathering(side, level, (row, node)))
        parallel_tasks(lambda k: tasks[k](), len(tasks))

    def _collected(self, side: int, level: int, place: Place) -> Pair | None:
        """The low-rank sum due to a block, its part of what is due to the block around it included."""
        pairs = self._lists[side][level].pop(place, [])
        for u, v in self._above(side, level, place):
            rows = len(u) // 2
            i, k = (place[0] & 1) * rows, (place[1] & 1) * rows
            pairs.append((u[i : i + rows], v[k : k + rows]))
        pairs = [pair for pair in pairs if pair[0].shape[1]]
        if not pairs:
            return None
        if len(pairs) == 1:
            return pairs[0]
        return np.concatenate([u for u, _ in pairs], axis=1), np.concatenate([v for _, v in pairs], axis=1)

    def _above(self, side: int, level: int, place: Place) -> list[Pair]:
        """What is due to the block around a block; those on the diagonal are kept with the first side."""
        if not level:
            return []
        around = place[0] >> 1, place[1] >> 1
        if side == 1 and around[0] == around[1]:
            return [(v, u) for u, v in self._lists[0][level - 1].get(around, [])]
        return self._lists[side][level - 1].get(around, [])

    def _gathering(self, side: int, level: int, place: Place) -> Callable[[], None]:
        def work() -> None:
            found = self._collected(side, level, place)
            if found is not None:
                self._lists[side][level][place] = [found]

        return work

    def _earlier(self, side: int, level: int, place: Place) -> list[int]:
        """The columns in which neither factor of a product into this block is low-rank."""
        row, node = place
        mine = self._sides[side].open_columns[level].get(row, [])
        other = set(self._sides[side - 1].open_columns[level].get(node, []))
        end = min(node, self._eliminated(level))
        return [k for k in mine if k < end and k in other]

    def _subtraction(self, side: int, place: Place) -> Callable[[], None]:
        """A dense block: everything that is due to it, multiplied out."""
        triangle, other = self._sides[side], self._sides[side - 1]

        def work() -> None:
            block = triangle.near[triangle.near_index[place]]
            product = np.empty_like(block)
            pair = self._collected(side, self._depth, place)
            if pair is not None:
                np.matmul(pair[0], adjoint(pair[1]), out=product)
                np.subtract(block, product, out=block)
            for k in self._earlier(side, self._depth, place):
                left = triangle.near[triangle.near_index[place[0], k]]
                right = other.near[other.near_index[place[1], k]]
                np.matmul(left, adjoint(right), out=product)
                np.subtract(block, product, out=block)

        return work

    # ---------------------------------------------------------------------------- low-rank blocks

    def _probes(self, side: int, level: int, node: int, rows: list[int]) -> tuple[NumpyArray, dict[int, NumpyArray]]:
        """Probes for all low-rank blocks of a column, and their products with the blocks left of its diagonal."""
        triangle, other = self._sides[side], self._sides[side - 1]
        dtype, size = triangle.near.dtype, triangle.rows_of(level)
        width = max(triangle.far[level][row, node][0].shape[1] for row in rows) + SPARE
        if 2 * width >= size:
            probes = np.eye(size, dtype=dtype)
        else:
            probes = np.random.default_rng((level, node)).standard_normal((size, width)).astype(dtype)
        used = sorted({k for row in rows for k in self._earlier(side, level, (row, node))})
        products: list[NumpyArray | None] = [None] * len(used)

        def work(b: int) -> None:
            products[b] = other.adjoint_product(level, (node, used[b]), probes)

        parallel_tasks(work, len(used))
        return probes, {k: p for k, p in zip(used, products, strict=True) if p is not None}

    def _truncation(
        self, side: int, level: int, place: Place, shared: tuple[NumpyArray, dict[int, NumpyArray]]
    ) -> Callable[[], None]:
        """A low-rank block: S = A - (what is due), truncated."""
        triangle, other = self._sides[side], self._sides[side - 1]
        probes, products = shared

        def work() -> None:
            u, v = triangle.far[level][place]
            pair = self._collected(side, level, place)
            row, node = place
            earlier = self._earlier(side, level, place)

            def forward(x: NumpyArray | None) -> NumpyArray:
                vectors = probes if x is None else x
                y = _low_rank_times(u, v, pair, vectors)
                for k in earlier:
                    inner = products[k] if x is None else other.adjoint_product(level, (node, k), vectors)
                    triangle.add_product(level, (row, k), inner, y, -1)
                return y

            def backward(x: NumpyArray) -> NumpyArray:
                y = _low_rank_times(v, u, None if pair is None else (pair[1], pair[0]), x)
                for k in earlier:
                    other.add_product(level, (node, k), triangle.adjoint_product(level, (row, k), x), y, -1)
                return y

            rng = np.random.default_rng((level, row, node))
            triangle.far[level][place] = truncated_product(forward, backward, probes, self._tail(level, place), rng)

        return work

    def _divide_low_rank(self, level: int, node: int) -> None:
        """U V^H becomes U V^H R_tt^-H = U (R_tt^-1 V)^H for all low-rank blocks of a column."""
        for side, triangle in enumerate(self._sides):
            rows = triangle.far_rows[level].get(node, [])
            blocks = [triangle.far[level][row, node] for row in rows]
            if sum(u.shape[1] for u, _ in blocks) == 0:
                continue
            together = np.concatenate([v for _, v in blocks], axis=1)
            self._sides[side - 1].solve(together, level, node)
            start = 0
            for row, (u, _v) in zip(rows, blocks, strict=True):
                stop = start + u.shape[1]
                triangle.far[level][row, node] = u, np.ascontiguousarray(together[:, start:stop])
                start = stop

    # ------------------------------------------------------------------ what a column adds to others

    def _spread(self, level: int, node: int) -> None:
        """Put the low-rank products of a finished column's blocks on the lists of their targets."""
        for lists, triangle in zip(self._lists, self._sides, strict=True):
            for row in [node, *triangle.open_rows[level].get(node, [])]:  # what was due to them has been handed down
                lists[level].pop((row, node), None)
        columns = [_FarColumn(triangle, level, node) for triangle in self._sides]
        if not any(column.width for column in columns):
            return
        images = [self._images(side, level, node, columns[side - 1]) for side in range(len(self._sides))]
        for side in range(len(self._sides)):
            self._spread_side(side, level, columns, images)

    def _images(self, side: int, level: int, node: int, other: _FarColumn) -> dict[int, NumpyArray]:
        """The divided or dense blocks of a column times the right factors of the other side's low-rank ones."""
        triangle = self._sides[side]
        rows = triangle.open_rows[level].get(node, []) if other.width else []
        found: dict[int, NumpyArray] = {}

        def work(b: int) -> None:
            found[rows[b]] = triangle.product(level, (rows[b], node), other.right)

        parallel_tasks(work, len(rows))
        return found

    def _spread_side(
        self, side: int, level: int, columns: list[_FarColumn], images: list[dict[int, NumpyArray]]
    ) -> None:  # fmt: skip
        triangle, lists = self._sides[side], self._lists[side][level]
        mine, other = columns[side], columns[side - 1]
        mine_images, other_images = images[side], images[side - 1]
        gram = adjoint(mine.right) @ other.right

        def add(place: Place, u: NumpyArray, v: NumpyArray) -> None:
            if triangle.has(level, place):
                lists.setdefault(place, []).append((u, v))

        first = 0 if side == 0 else 1  # the blocks on the diagonal belong to the first side
        for a, (left, here) in mine.blocks.items():
            for b, (right, there) in other.blocks.items():
                if a - b >= first and triangle.has(level, (a, b)):
                    core = gram[here, there]
                    if left.shape[1] <= right.shape[1]:
                        add((a, b), left, right @ adjoint(core))
                    else:
                        add((a, b), left @ core, right)
            for b, image in other_images.items():
                if a - b >= first:
                    add((a, b), left, image[:, here])
        for a, image in mine_images.items():
            for b, (right, there) in other.blocks.items():
                if a - b >= first:
                    add((a, b), image[:, there], right)


class _FarColumn:
    """The low-rank blocks of one column: for each row U and where its V stands in `right`, all V side by side."""

    def __init__(self, triangle: Triangle, level: int, node: int) -> None:
        self.blocks: dict[int, tuple[NumpyArray, slice]] = {}
        parts, start = [], 0
        for row in triangle.far_rows[level].get(node, []):
            u, v = triangle.far[level][row, node]
            self.blocks[row] = u, slice(start, start + v.shape[1])
            start += v.shape[1]
            parts.append(v)
        empty = np.zeros((triangle.rows_of(level), 0), dtype=triangle.near.dtype)
        self.right = np.concatenate([empty, *parts], axis=1)
        self.width = start


def _low_rank_times(u: NumpyArray, v: NumpyArray, less: Pair | None, x: NumpyArray) -> NumpyArray:
    """(U V^H - the pair's product) x."""
    y: NumpyArray = u @ (adjoint(v) @ x)
    if less is not None:
        y -= less[0] @ (adjoint(less[1]) @ x)
    return y
