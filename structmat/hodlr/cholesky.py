"""Symmetric factorisation A = W W^H of a Hermitian positive definite HODLR matrix, level by level.

Reference: S. Ambikasaran, M. O'Neil, K. R. Singh, "Fast symmetric factorization of hierarchical matrices with
applications", arXiv:1405.0223. A node with children a and b, whose blocks have factors W_a and W_b, is

    A = diag(W_a, W_b) [[I, B^H], [B, I]] diag(W_a, W_b)^H,    B = W_b^-1 L_b (W_a^-1 R_a)^H = L Q^H,

for the stored block L_b R_a^H below the diagonal, where Q R is the QR factorisation of W_a^-1 R_a, and
L = W_b^-1 L_b R^H, so that ||L|| = ||B|| < 1: W_b^-1 L_b and R may be as large as the root of the condition number.
Departure from the paper, which takes a symmetric factor of the middle: this is the triangular one, [[I, 0], [B, S]]
with S S^H = I - B B^H, which leaves the first child alone. With I - L^H L = C C^H (Cholesky),

    S = I - L (I + C)^-1 L^H,    S^-1 = I + L (C + C C^H)^-1 L^H,

as is seen by multiplying out. A pivot of C that is not positive shows that A is not positive definite. All steps are
orthogonal or Cholesky steps: W W^H is A up to rounding.

Cost O(n k^2 log^2 n) to factor, O(n k log n) to solve and to apply W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._backend import (
    adjoint,
    conj,
    is_numpy,
    like,
    one_blas_thread,
    parallel_ranges,
    parallel_tasks,
    thread_count,
    to_numpy,
)
from .._typing import IntArray, NumpyArray
from ..base import Factorization
from ..engine import cpu_hodlr
from ..engine.dense import SERIAL_BYTES, cholesky, matmul, qr, solve
from ..exceptions import NotPositiveDefiniteError
from ..hss.ulv import with_padded_diagonal
from .lu import panel_sums, panel_updates
from .panels import (
    BOTH,
    SECOND,
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
class SymmetricCore:
    """What joins the two children of each parent of one level; (parents, k, k) but for the pivots."""

    apply: NumpyArray  # X with S = I - L X L^H
    across: NumpyArray  # I + Y L^H L: S^-1 B = L across Q^H
    solve: NumpyArray  # Y with S^-1 = I + L Y L^H
    gram: NumpyArray  # L^H L
    pivots: NumpyArray  # (parents, k), the diagonal of C

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(a.nbytes for a in vars(self).values())


class HODLRCholesky(Factorization):
    """The symmetric factorisation A = W W^H of a Hermitian positive definite HODLR matrix.

    Obtained from `HODLRMatrix.factorize(positive_definite=True)`. Offers `solve`, `slogdet`, `inverse`, and, for
    sampling, `apply_factor` (W z) and `solve_factor` (W^-1 b). It holds its own data and does not change.
    """

    positive_definite = True

    def __init__(self, matrix: HODLRMatrix) -> None:
        matrix._require_hermitian_storage()
        blocks = matrix.blocks
        require_hodlr(blocks)
        self._matrix, self._tree = matrix, matrix.row_tree
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._layout = Layout.of(self._tree, level_ranks(blocks))
        diagonal, self._padding = with_padded_diagonal(diagonal_blocks(blocks), self._tree)
        self._leaves = _cholesky(diagonal, self._tree.depth)
        # Q for first children, L for second ones, of all levels
        self._basis = gather(blocks, self._layout, right=False)
        self._cores, self._flat_cores = _eliminate(self._layout, self._leaves, self._basis)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return int(self._leaves.nbytes + self._basis.nbytes + sum(c.nbytes for c in self._cores[1:]))

    def __repr__(self) -> str:
        return f"HODLRCholesky(shape={self.shape}, dtype={self.dtype}, {self.nbytes / 1e6:.3g} MB)"

    # --------------------------------------------------------------------------------- solving

    def _solve_block(self, b: NumpyArray, *, adjointly: bool) -> NumpyArray:
        x = self._to_panels(b)
        inside = x.shape[1] == 1 and self._split == 0  # one thread does everything, the root too
        self._solve_with_factor(x, root=inside)
        if not inside:
            self._solve_root(x)
        self._solve_with_adjoint(x, root=inside)
        return self._from_panels(x)

    def solve_factor(self, b: Any) -> Any:
        """W^-1 b for b (n,) or (n, k): turns samples of covariance A into white noise. Cost O(n k log n)."""
        return self._with_factor(b, "b", self._solve_with_factor)

    def apply_factor(self, z: Any) -> Any:
        """W z for z (n,) or (n, k): white noise z becomes samples of covariance A = W W^H. Cost O(n k log n).

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 500)
        >>> kernel = lambda s, t: np.exp(-10 * abs(s[:, None] - t))
        >>> F = sm.HODLRMatrix.from_kernel(kernel, x, symmetric=True).factorize(positive_definite=True)
        >>> samples = F.apply_factor(np.random.default_rng(0).standard_normal((500, 4)))
        >>> samples.shape
        (500, 4)
        """
        return self._with_factor(z, "z", self._apply_factor)

    def _with_factor(self, b: Any, name: str, function: Any) -> Any:
        array = _check.operand(b, self.shape[0], self.shape, side="rows", name=name)
        host = _check.finite_operand(to_numpy(array), name)
        columns = host.reshape(len(host), -1)
        split = host.dtype.kind == "c" and self.dtype.kind != "c"
        if split:
            columns = np.concatenate([columns.real, columns.imag], axis=1)
        x = self._to_panels(columns)
        function(x)
        y = self._from_panels(x)
        if split:
            half = y.shape[1] // 2
            y = y[:, :half] + 1j * y[:, half:]
        y = y.reshape(host.shape)
        return y if is_numpy(array) else like(y, array)

    def _to_panels(self, b: NumpyArray) -> NumpyArray:
        dtype = np.result_type(b.dtype, self.dtype)
        return self._layout.to_panels(self._tree.to_leaves(b.astype(dtype, copy=False)))

    def _from_panels(self, x: NumpyArray) -> NumpyArray:
        return np.ascontiguousarray(self._tree.from_leaves(self._layout.from_panels(x)))

    def _solve_with_factor(self, x: NumpyArray, *, root: bool = True) -> None:
        """W^-1 x in place, from the leaves up; without `root` but for the last step."""
        if x.shape[1] == 1:
            top = self._subtrees(x.reshape(-1), adjointly=False)
        else:
            top = self._layout.depth
            _triangular(self._leaves, x, x.shape[1], adjointly=False)
        for level in range(top, 0 if root else 1, -1):
            self._update(x, _joined(self._cores[level], self._sums(x, level, BOTH)), level, SECOND)

    def _solve_root(self, x: NumpyArray) -> None:
        """The last step of W^-1 and the first one of W^-H in one: the bases of the root's children are read less."""
        if not self._layout.depth:
            return
        core, sums = self._cores[1], self._sums(x, 1, BOTH)
        second = _joined(core, sums)[:, 0]
        # L^H of what the first step leaves of the second child
        left = sums[:, 1] - matmul(second, core.gram.swapaxes(1, 2))
        first = matmul(left, conj(core.across))
        self._update(x, np.stack([first, second - matmul(left, conj(core.solve))], axis=1), 1, BOTH)

    def _solve_with_adjoint(self, x: NumpyArray, *, root: bool = True) -> None:
        """W^-H x in place, from the root down; without `root` but for the first step."""
        single = x.shape[1] == 1
        for level in range(1 if root else 2, (self._split if single else self._layout.depth) + 1):
            core, sums = self._cores[level], self._sums(x, level, SECOND)[:, 0]
            factors = np.stack([matmul(sums, conj(core.across)), -matmul(sums, conj(core.solve))], axis=1)
            self._update(x, factors, level, BOTH)
        if single:
            self._subtrees(x.reshape(-1), adjointly=True)
        else:
            _triangular(self._leaves, x, x.shape[1], adjointly=True)

    def _apply_factor(self, x: NumpyArray) -> None:
        """W x in place, from the root down."""
        for level in range(1, self._layout.depth + 1):
            sums = inner_products(self._layout, x, self._basis, level)
            factors = matmul(sums[:, 1], self._cores[level].apply.swapaxes(1, 2)) - sums[:, 0]
            subtract_products(self._layout, x, factors[:, None], self._basis, level, SECOND)
        leaves = x.reshape(len(x), x.shape[1], -1, self._layout.leaf).swapaxes(1, 2)
        lower = self._leaves.reshape(len(x), -1, *self._leaves.shape[1:])
        leaves[...] = np.matmul(leaves, lower.swapaxes(2, 3))

    # ------------------------------------------------------------------------ one vector or several

    @property
    def _split(self) -> int:
        """The level whose subtrees the threads own when there is one vector."""
        return min(self._layout.grain, (thread_count() - 1).bit_length())

    def _subtrees(self, x: NumpyArray, *, adjointly: bool) -> int:
        """All levels below `_split` for one flat vector in place; returns that level."""
        layout, split = self._layout, self._split
        buffer, starts = self._flat_cores
        basis, leaves = self._basis.reshape(-1), self._leaves.reshape(-1)
        sizes = (layout.height, layout.size, layout.leaf, layout.depth, layout.offsets, layout.ranks)
        parallel_tasks(
            lambda root: cpu_hodlr.symmetric_subtrees(
                basis, *sizes, leaves, buffer, starts, x, adjointly, split, root, root + 1
            ),
            1 << split,
        )
        return split

    def _sums(self, x: NumpyArray, level: int, children: slice) -> NumpyArray:
        """Inner products with the basis of a level, (parents, children, m, k)."""
        if x.shape[1] == 1 and level <= self._layout.grain:
            return panel_sums(self._layout, self._basis.reshape(-1), x.reshape(-1), level, children)
        return inner_products(self._layout, x, self._basis, level, children)

    def _update(self, x: NumpyArray, factors: NumpyArray, level: int, children: slice) -> None:
        """X less factors (parents, children, m, k) times the basis of a level."""
        if x.shape[1] == 1 and level <= self._layout.grain:
            panel_updates(self._layout, self._basis.reshape(-1), x.reshape(-1), factors, level, children)
        else:
            subtract_products(self._layout, x, factors, self._basis, level, children)

    # ----------------------------------------------------------------------------- determinant

    def slogdet(self) -> tuple[Any, float]:
        """(1, log det A). Cost O(n)."""
        pivots = [np.diagonal(self._leaves, axis1=1, axis2=2).ravel()] + [c.pivots.ravel() for c in self._cores[1:]]
        logarithm = float(sum(np.log(p.real.astype(np.float64)).sum() for p in pivots))
        return self.dtype.type(1.0), 2.0 * logarithm - self._padding

    def inverse(self, *, rtol: float | None = None) -> HODLRMatrix:
        """A^-1 as a HODLR matrix, recompressed to `rtol` (through the general factorisation)."""
        from .lu import HODLRFactorization

        return HODLRFactorization(self._matrix).inverse(rtol=rtol)

    def _traces_of_solve(self, others: list[Any]) -> list[float]:
        """The traces of A^-1 B for several B stored as Hermitian."""
        from .trace import TraceOfSolve

        trace = TraceOfSolve(self)
        return [trace.of(b) for b in others]


def _joined(core: SymmetricCore, sums: NumpyArray) -> NumpyArray:
    """The factors of the second children in W^-1: across sums_a - solve sums_b, (parents, 1, m, k)."""
    first = matmul(sums[:, 0], core.across.swapaxes(1, 2))
    return (first - matmul(sums[:, 1], core.solve.swapaxes(1, 2)))[:, None]


def _triangular(lower: NumpyArray, x: NumpyArray, columns: int, *, adjointly: bool) -> None:
    parallel_ranges(
        lambda a, b: cpu_hodlr.triangular_solve(lower, x, columns, adjointly, a, b),
        len(lower),
        serial=lower.nbytes + x.nbytes < SERIAL_BYTES,
    )


def _eliminate(
    layout: Layout, leaves: NumpyArray, basis: NumpyArray
) -> tuple[list[SymmetricCore], tuple[NumpyArray, IntArray]]:
    """Apply the factors of all nodes to the bases above them; the cores by level, and in one buffer."""
    _triangular(leaves, basis, layout.height, adjointly=False)
    parents = np.array([0] + [1 << (level - 1) for level in range(1, layout.depth + 1)])
    numbers = parents * 2 * layout.ranks**2
    starts = np.cumsum(numbers) - numbers
    buffer = np.empty(int(numbers.sum()), dtype=basis.dtype)
    nothing = np.zeros((0, 0, 0), dtype=basis.dtype)
    cores = [SymmetricCore(nothing, nothing, nothing, nothing, np.zeros((0, 0), dtype=basis.dtype))] * (
        layout.depth + 1
    )
    for level in range(layout.depth, 0, -1):
        k, above = int(layout.ranks[level]), int(layout.offsets[level])
        _orthogonalize(layout, basis, level)
        sums = inner_products(layout, basis[:, : above + k], basis, level)
        place = buffer[starts[level] : starts[level] + numbers[level]].reshape(1 << (level - 1), 2, k, k)
        gram = sums[:, 1, above:].swapaxes(1, 2)
        lower = _cholesky(np.eye(k, dtype=basis.dtype) - gram, level - 1)
        cores[level] = _core(gram, lower, place)
        subtract_products(layout, basis[:, :above], _eliminated(lower, sums[:, :, :above]), basis, level, SECOND)
    return cores, (buffer, starts)


def _orthogonalize(layout: Layout, basis: NumpyArray, level: int) -> None:
    """Q R of the first children's bases: Q takes their place, and the second children's are multiplied by R^H."""
    nodes = layout.nodes(basis[:, layout.rows(level)], level)  # (a, 2, b, k, width)
    a, _, b, k, width = nodes.shape
    inside = level > layout.grain
    columns = nodes[:, 0].swapaxes(2, 3)  # (a, b, width, k)
    q, r = qr(columns.reshape((a * b, width, k) if inside else (a, b * width, k)))
    short = k - q.shape[2]
    if short:  # nodes of less positions than the rank
        q, r = np.pad(q, ((0, 0), (0, 0), (0, short))), np.pad(r, ((0, 0), (0, short), (0, 0)))
    columns[...] = q.reshape(columns.shape)
    factors = conj(r).reshape((a, b, k, k) if inside else (a, 1, k, k))

    def work(task: int) -> None:
        nodes[task, 1] = np.matmul(factors[task], nodes[task, 1])

    with one_blas_thread():
        parallel_tasks(work, a)


def _core(gram: NumpyArray, c: NumpyArray, place: NumpyArray) -> SymmetricCore:
    """The core of the parents of one level from L^H L and C (parents, k, k); `place` is for across and solve."""
    eye = np.eye(c.shape[1], dtype=c.dtype)
    ones = np.broadcast_to(eye, c.shape)
    place[:, 1] = solve(adjoint(eye + c), solve(c, ones))  # (C + C C^H)^-1
    place[:, 0] = matmul(place[:, 1], eye + c)
    pivots = np.diagonal(c, axis1=1, axis2=2).copy()
    return SymmetricCore(solve(eye + c, ones), place[:, 0], place[:, 1], gram.copy(), pivots)


def _eliminated(c: NumpyArray, sums: NumpyArray) -> NumpyArray:
    """As `_joined`, without inverses: (C + C C^H)^-1 ((I + C) sums_a - sums_b)."""
    joined = c + np.eye(c.shape[1], dtype=c.dtype)
    factors = matmul(joined, sums[:, 0].swapaxes(1, 2)) - sums[:, 1].swapaxes(1, 2)
    return solve(adjoint(joined), solve(c, factors)).swapaxes(1, 2)[:, None]


def _cholesky(blocks: NumpyArray, level: int) -> NumpyArray:
    """The factors of `blocks` (nb, p, p); the level is for the message where one is not positive definite."""
    try:
        return cholesky(blocks)
    except np.linalg.LinAlgError:
        node = next(b for b, block in enumerate(blocks) if not _is_definite(block))
        raise NotPositiveDefiniteError.in_node(level, node) from None


def _is_definite(block: NumpyArray) -> bool:
    try:
        np.linalg.cholesky(block)
    except np.linalg.LinAlgError:
        return False
    return True
