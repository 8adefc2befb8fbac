"""LU-like factorisation of a square HODLR matrix, level by level.

Reference: S. Ambikasaran, E. Darve, "An O(N log N) fast direct solver for partial hierarchically semi-separable
matrices", J. Sci. Comput. 57 (2013) 477-501; batched by level as in C. Chen, P.-G. Martinsson, "Solving linear systems
on a GPU with hierarchically off-diagonal low-rank approximations", arXiv:2208.06290. A node with children a and b is

    A = diag(A_a, A_b) (I + diag(Y_a, Y_b) [[0, V_b^H], [V_a^H, 0]]),    Y_t = A_t^-1 U_t,

where U_t are the left factors of the block row of t and V_t the right factors of its block column. By the formula of
Sherman, Morrison and Woodbury, A^-1 = (I - diag(Y_a, Y_b) K^-1 diag(V_a, V_b)^H) diag(A_a, A_b)^-1 with the core

    K = [[V_a^H Y_a, I], [I, V_b^H Y_b]],

which is factored with pivoting. So A^-1 is applied to the U of all levels at once, from the leaves up.

Cost O(n k^2 log^2 n) to factor and O(n k log n) to solve. Not backward stable where a diagonal block is much worse
conditioned than the matrix: `A.solve(b, refine=True)` adds a step of refinement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._backend import parallel_ranges, parallel_tasks, thread_count
from .._typing import IntArray, NumpyArray
from ..base import Factorization
from ..engine import cpu_hodlr
from ..engine.dense import SERIAL_BYTES
from ..exceptions import SingularBlockError
from ..hss.ulv import _permutation_sign, _signs, with_padded_diagonal
from .panels import (
    BOTH,
    Layout,
    diagonal_blocks,
    gather,
    inner_products,
    level_ranks,
    require_hodlr,
    subtract_products,
)

if TYPE_CHECKING:
    from .matrix import HODLRMatrix


@dataclass(frozen=True)
class BlockLU:
    """Factors A P = L U of a batch of small blocks, in one array; see `engine.cpu_hodlr.lu_factor`."""

    lu: NumpyArray  # (nb, p, p)
    order: IntArray  # (nb, p)
    signs: NumpyArray  # (nb,) determinants of P

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(a.nbytes for a in vars(self).values())

    @classmethod
    def of(cls, blocks: NumpyArray, level: int) -> BlockLU:
        """Factor `blocks` (nb, p, p) in place; `level` is for the message where one is singular."""
        count, p, _ = blocks.shape
        order, signs, weakest = np.empty((count, p), dtype=np.int64), np.empty(count), np.empty(count)
        parallel_ranges(
            lambda a, b: cpu_hodlr.lu_factor(blocks, order, signs, weakest, a, b),
            count,
            serial=blocks.nbytes < SERIAL_BYTES,
        )
        if weakest.min(initial=1.0) <= np.finfo(blocks.dtype).eps:
            node = int(weakest.argmin())
            raise SingularBlockError(
                f"the diagonal block of node {node} on level {level} is singular (smallest pivot {weakest[node]:.1e} "
                "relative to its row), and HODLR factorisations have to invert it; add_diagonal(shift) regularises",
                level, node,
            )  # fmt: skip
        return cls(blocks, order, signs)

    def solve(self, x: NumpyArray, columns: int, *, adjointly: bool = False) -> None:
        """Solve in place for the first `columns` rows of x (., m, .), blocks side by side."""
        if not (self.lu.size and columns):
            return
        serial = self.lu.nbytes + x.nbytes < SERIAL_BYTES
        parallel_ranges(
            lambda a, b: cpu_hodlr.lu_solve(self.lu, self.order, x, columns, adjointly, a, b),
            len(self.lu),
            serial=serial,
        )

    def slogdet(self) -> tuple[Any, float]:
        """Sign (phase) and logarithm of the product of the determinants."""
        sign, logarithm = _signs(np.diagonal(self.lu, axis1=1, axis2=2).ravel())
        return sign * float(np.prod(self.signs)), logarithm


class HODLRFactorization(Factorization):
    """The LU-like factorisation of a HODLR matrix: `solve`, `solve_adjoint`, `slogdet`, `inverse`.

    Obtained from `HODLRMatrix.factorize`. It holds its own data and does not change.
    """

    backward_stable = False

    def __init__(self, matrix: HODLRMatrix) -> None:
        matrix._require_square("a factorisation")
        blocks = matrix.blocks
        require_hodlr(blocks)
        self._matrix = matrix
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._tree, self._col_tree = matrix.row_tree, matrix.col_tree
        self._layout = Layout.of(matrix.row_tree, level_ranks(blocks))
        diagonal, self._padding = with_padded_diagonal(diagonal_blocks(blocks), matrix.row_tree)
        self._leaves = BlockLU.of(diagonal, matrix.row_tree.depth)
        self._right = gather(blocks, self._layout, right=True)
        # A_t^-1 U_t of the nodes t of all levels
        self._left = self._right.copy() if blocks.half else gather(blocks, self._layout, right=False)
        self._cores, self._core_lu = _eliminate(self._layout, self._leaves, self._left, self._right)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        parts = sum(f.nbytes for f in (self._leaves, *self._cores[1:]))
        return int(self._left.nbytes + self._right.nbytes + parts)

    def __repr__(self) -> str:
        return f"HODLRFactorization(shape={self.shape}, dtype={self.dtype}, {self.nbytes / 1e6:.3g} MB)"

    # --------------------------------------------------------------------------------- solving

    def _solve_block(self, b: NumpyArray, *, adjointly: bool) -> NumpyArray:
        source, target = (self._col_tree, self._tree) if adjointly else (self._tree, self._col_tree)
        dtype = np.result_type(b.dtype, self.dtype)
        x = self._layout.to_panels(source.to_leaves(b.astype(dtype, copy=False)))
        if adjointly:
            self._adjoint_substitution(x)
        elif x.shape[1] == 1:
            self._single_substitution(x.reshape(-1))
        else:
            self._substitution(x)
        return np.ascontiguousarray(target.from_leaves(self._layout.from_panels(x)))

    def _substitution(self, x: NumpyArray) -> None:
        """A y = x in place: the leaves, then the corrections of all levels, from the leaves up."""
        self._leaves.solve(x, x.shape[1])
        for level in range(self._layout.depth, 0, -1):
            factors = inner_products(self._layout, x, self._right, level)
            factors = core_solved(self._cores[level], factors, adjointly=False)
            subtract_products(self._layout, x, factors, self._left, level)

    def _adjoint_substitution(self, x: NumpyArray) -> None:
        """A^H y = x in place: the same steps transposed and in reverse."""
        for level in range(1, self._layout.depth + 1):
            factors = inner_products(self._layout, x, self._left, level)
            factors = core_solved(self._cores[level], factors, adjointly=True)
            subtract_products(self._layout, x, factors, self._right, level)
        self._leaves.solve(x, x.shape[1], adjointly=True)

    def _single_substitution(self, x: NumpyArray) -> None:
        """A y = x in place for one vector (padded n,): threads own subtrees, the levels above them are shared."""
        layout = self._layout
        split = min(layout.grain, (thread_count() - 1).bit_length())
        lu, order, core_starts, order_starts = self._core_lu
        sizes = (layout.height, layout.size, layout.leaf, layout.depth)
        left, right = self._left.reshape(-1), self._right.reshape(-1)
        leaves, leaf_order = self._leaves.lu.reshape(-1), self._leaves.order.reshape(-1)

        def subtree(root: int) -> None:
            cpu_hodlr.lu_subtrees(
                left, right, *sizes, layout.offsets, layout.ranks, leaves, leaf_order, lu, core_starts, order,
                order_starts, x, split, root, root + 1,
            )  # fmt: skip

        parallel_tasks(subtree, 1 << split)
        for level in range(split, 0, -1):
            factors = core_solved(self._cores[level], panel_sums(layout, right, x, level), adjointly=False)
            panel_updates(layout, left, x, factors, level)

    # ----------------------------------------------------------------------------- determinant

    def slogdet(self) -> tuple[Any, float]:
        """Sign (phase, for complex) and log of the absolute value of the determinant. Cost O(n).

        det A is the product of the determinants of the leaves and of the cores, (-1)^k times each core, whose block
        rows of k rows stand in the opposite order.
        """
        sign, logarithm = self._leaves.slogdet()
        for core in self._cores[1:]:
            part, size = core.slogdet()
            swaps = len(core.lu) * (core.lu.shape[1] // 2)
            sign, logarithm = sign * part * (-1.0) ** swaps, logarithm + size
        sign *= _permutation_sign(self._tree, self._col_tree)
        real = self.dtype.kind != "c"
        return (self.dtype.type(np.sign(sign)) if real else sign / abs(sign)), logarithm - self._padding

    def inverse(self, *, rtol: float | None = None) -> HODLRMatrix:
        """A^-1 as a HODLR matrix, recompressed to `rtol` (default: that of the matrix). Cost O(n k^2 log^3 n)."""
        from .inverse import invert

        return invert(self, rtol=rtol)


def _eliminate(
    layout: Layout, leaves: BlockLU, left: NumpyArray, right: NumpyArray
) -> tuple[list[BlockLU], tuple[NumpyArray, IntArray, IntArray, IntArray]]:
    """Turn the U of all levels in `left` into A_t^-1 U_t; the factors of the cores by level, and where they are."""
    leaves.solve(left, layout.height)
    sizes = np.array([0] + [2 ** (level - 1) * int(layout.ranks[level]) * 2 for level in range(1, layout.depth + 1)])
    numbers = sizes * 2 * layout.ranks
    starts, order_starts = np.cumsum(numbers) - numbers, np.cumsum(sizes) - sizes
    buffer, order = np.empty(int(numbers.sum()), dtype=left.dtype), np.empty(int(sizes.sum()), dtype=np.int64)
    cores = [BlockLU(buffer[:0].reshape(0, 0, 0), order[:0].reshape(0, 0), np.ones(0))] * (layout.depth + 1)
    for level in range(layout.depth, 0, -1):
        k, above = int(layout.ranks[level]), int(layout.offsets[level])
        products = inner_products(layout, left[:, : above + k], right, level)
        core = buffer[starts[level] : starts[level] + numbers[level]].reshape(1 << (level - 1), 2 * k, 2 * k)
        core[...] = _core(products[:, :, above:])
        factored = BlockLU.of(core, level - 1)
        place = order[order_starts[level] : order_starts[level] + sizes[level]].reshape(len(core), 2 * k)
        place[...] = factored.order
        cores[level] = BlockLU(core, place, factored.signs)
        factors = core_solved(cores[level], products[:, :, :above], adjointly=False)
        subtract_products(layout, left[:, :above], factors, left, level)
    return cores, (buffer, order, starts, order_starts)


def _core(products: NumpyArray) -> NumpyArray:
    """The cores [[V_a^H Y_a, I], [I, V_b^H Y_b]] from the transposes (parents, 2, k, k) of their diagonal blocks."""
    count, _, k, _ = products.shape
    core = np.zeros((count, 2, k, 2, k), dtype=products.dtype)
    for child in range(2):
        core[:, child, :, child] = products[:, child].swapaxes(1, 2)
        core[:, child, :, 1 - child] = np.eye(k)
    return core.reshape(count, 2 * k, 2 * k)


def core_solved(core: BlockLU, sums: NumpyArray, *, adjointly: bool) -> NumpyArray:
    """The factors (parents, 2, m, k) of the bases of both children, from the inner products in the same shape."""
    count, _, m, k = sums.shape
    x = sums.swapaxes(1, 2).reshape(count, m, 2 * k)
    x = np.ascontiguousarray(x) if x.base is None or not x.flags.c_contiguous else x.copy()
    core.solve(x, m, adjointly=adjointly)
    return x.reshape(count, m, 2, k).swapaxes(1, 2)


def panel_sums(layout: Layout, basis: NumpyArray, x: NumpyArray, level: int, children: slice = BOTH) -> NumpyArray:
    """As `inner_products` for one flat vector and nodes that are panels or larger: (parents, children, 1, k)."""
    k, pieces, count = int(layout.ranks[level]), layout.panels >> level, children.stop - children.start
    chosen = (pieces * count) << (level - 1)
    sums = np.empty((chosen, k), dtype=x.dtype)
    place = (layout.height, layout.size, int(layout.offsets[level]), k, children.start, count, pieces)
    parallel_ranges(
        lambda a, b: cpu_hodlr.panel_sums(basis, *place, x, sums, a, b),
        chosen,
        serial=sums.nbytes * layout.size < SERIAL_BYTES,
    )
    return sums.reshape(1 << (level - 1), count, pieces, k).sum(axis=2)[:, :, None, :]


def panel_updates(
    layout: Layout, basis: NumpyArray, x: NumpyArray, factors: NumpyArray, level: int, children: slice = BOTH
) -> None:
    """As `subtract_products` for one flat vector and nodes that are panels or larger."""
    k, pieces, count = int(layout.ranks[level]), layout.panels >> level, children.stop - children.start
    chosen = (pieces * count) << (level - 1)
    flat = np.ascontiguousarray(factors)
    place = (layout.height, layout.size, int(layout.offsets[level]), k, children.start, count, pieces)
    parallel_ranges(
        lambda a, b: cpu_hodlr.panel_updates(basis, *place, flat, x, a, b),
        chosen,
        serial=chosen * k * layout.size * x.itemsize < SERIAL_BYTES,
    )
