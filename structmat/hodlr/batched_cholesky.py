"""The symmetric factorisation A = W W^H of HODLR matrices in batched array operations: for data on a device.

The formula and the names are those of `structmat.hodlr.cholesky`. The blocks of the leaves and the small matrices that
join two children are inverted once, as batched inverses are cheap there and substitutions are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .._backend import adjoint, identity_beside, namespace, to_numpy
from .._typing import Array
from ..batched import BatchedFactorization, cholesky, with_padded_diagonal
from ..blocks import array_bytes
from ..engine.dense import qr
from ..engine.routing import ScatterSum
from ..engine.slabs import adjoint_times, times
from .batched import _by_node
from .panels import require_hodlr

if TYPE_CHECKING:
    from .matrix import HODLRMatrix


@dataclass(frozen=True)
class BatchedSymmetricLevel:
    """What joins the pairs of children a, b of a level, of size p: B = L Q^H, S = I - L X L^H, S^-1 = I + L Y L^H."""

    first: Array  # Q, (pairs, p, k)
    second: Array  # L, (pairs, p, k)
    apply: Array  # X, (pairs, k, k)
    solve: Array  # Y, (pairs, k, k)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors of this level."""
        return sum(array_bytes(a) for a in vars(self).values())

    def solve_factor(self, x: Array) -> Array:
        """[[I, 0], [B, S]]^-1 x on leaf blocks."""
        a, b = self._children(x)
        b = b - times(self.second, adjoint_times(self.first, a))
        return _together(a, b + times(self.second, times(self.solve, adjoint_times(self.second, b))), x)

    def solve_adjoint(self, x: Array) -> Array:
        """[[I, 0], [B, S]]^-H x."""
        a, b = self._children(x)
        b = b + times(self.second, adjoint_times(self.solve, adjoint_times(self.second, b)))
        return _together(a - times(self.first, adjoint_times(self.second, b)), b, x)

    def apply_factor(self, x: Array) -> Array:
        """[[I, 0], [B, S]] x."""
        a, b = self._children(x)
        inner = adjoint_times(self.first, a) - times(self.apply, adjoint_times(self.second, b))
        return _together(a, b + times(self.second, inner), x)

    def _children(self, x: Array) -> tuple[Array, Array]:
        count = self.first.shape[0]
        split = namespace(x).reshape(x, (count, 2, -1, x.shape[2]))
        return split[:, 0, :, :], split[:, 1, :, :]


def _together(a: Array, b: Array, x: Array) -> Array:
    xp = namespace(x)
    return xp.reshape(xp.stack([a, b], axis=1), x.shape)


class BatchedHODLRCholesky(BatchedFactorization):
    """The symmetric factorisation A = W W^H of a Hermitian positive definite HODLR matrix on a device.

    Obtained from `HODLRMatrix.factorize(positive_definite=True)` where the matrix is on a device. Offers `solve`,
    `slogdet`, and for sampling `apply_factor` (W z) and `solve_factor` (W^-1 b).
    """

    positive_definite = True
    backward_stable: ClassVar[bool] = True

    def __init__(self, matrix: HODLRMatrix) -> None:
        matrix._require_hermitian_storage()
        blocks = matrix.blocks
        require_hodlr(blocks)
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._tree = self._col_tree = matrix.row_tree
        depth = blocks.depth
        near = blocks.near[depth]
        diagonal, self._padding = with_padded_diagonal(ScatterSum(near.rows, 1 << depth)(near.data), self._tree)
        self._leaves = cholesky(diagonal, depth)
        xp = namespace(diagonal)
        self._inverses = xp.linalg.inv(self._leaves)
        # the block of children a, b is P_b P_a^H below the diagonal: one factor a node, side by side as leaf blocks
        factors = [_by_node(blocks.far[level], level, blocks.half) for level in range(1, depth + 1)]
        widths = [0 if pair is None else pair[0].shape[2] for pair in factors]
        panels = [xp.reshape(pair[0], (*diagonal.shape[:2], -1)) for pair in factors if pair is not None]
        panel = times(self._inverses, xp.concat(panels, axis=2)) if panels else diagonal[:, :, :0]
        self._levels: list[BatchedSymmetricLevel] = []
        self._core_pivots: list[Array] = []
        for level in range(depth, 0, -1):
            width, above = widths[level - 1], sum(widths[: level - 1])
            if not width:
                continue
            found = self._joined(xp.reshape(panel[:, :, above:], (1 << (level - 1), 2, -1, width)), level - 1)
            self._levels.append(found)
            panel = found.solve_factor(panel[:, :, :above]) if above else panel[:, :, :0]

    def _joined(self, factors: Array, level: int) -> BatchedSymmetricLevel:
        """What joins the children of the nodes of a level, from their factors (nodes, 2, p, k)."""
        xp = namespace(factors)
        first, triangle = qr(factors[:, 0, :, :])
        second = xp.matmul(factors[:, 1, :, :], adjoint(triangle))
        gram = xp.matmul(adjoint(second), second)
        eye = identity_beside(gram.shape[1], gram)
        core = cholesky(eye - gram, level)
        self._core_pivots.append(xp.linalg.diagonal(core))
        square = core + xp.matmul(core, adjoint(core))
        return BatchedSymmetricLevel(first, second, xp.linalg.inv(eye + core), xp.linalg.inv(square))

    @property
    def _example(self) -> Any:
        return self._leaves

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(level.nbytes for level in self._levels) + array_bytes(self._leaves) + array_bytes(self._inverses)

    def solve_factor(self, b: Any) -> Any:
        """W^-1 b for b (n,) or (n, k): turns samples of covariance A into white noise. Cost O(n k log n)."""
        return self._applied(b, "b", lambda x: self._with_leaves(x, self._solve_factor))

    def apply_factor(self, z: Any) -> Any:
        """W z for z (n,) or (n, k): white noise z becomes samples of covariance A = W W^H. Cost O(n k log n)."""
        return self._applied(z, "z", lambda x: self._with_leaves(x, self._apply_factor))

    def _with_leaves(self, x: Array, function: Any) -> Array:
        return self._tree.from_leaves(function(self._tree.to_leaves(x)))

    def _solve_factor(self, x: Array) -> Array:
        x = times(self._inverses, x)
        for level in self._levels:
            x = level.solve_factor(x)
        return x

    def _apply_factor(self, x: Array) -> Array:
        for level in self._levels[::-1]:
            x = level.apply_factor(x)
        return times(self._leaves, x)

    def _substitution(self, x: Array) -> Array:
        x = self._solve_factor(x)
        for level in self._levels[::-1]:
            x = level.solve_adjoint(x)
        return adjoint_times(self._inverses, x)

    def _adjoint_substitution(self, x: Array) -> Array:
        return self._substitution(x)

    def slogdet(self) -> tuple[Any, float]:
        """(1, log det A). Cost O(n)."""
        pivots = [namespace(self._leaves).linalg.diagonal(self._leaves), *self._core_pivots]
        logarithm = sum(float(np.log(to_numpy(p).real.astype(np.float64)).sum()) for p in pivots)
        return self.dtype.type(1.0), 2.0 * logarithm - self._padding
