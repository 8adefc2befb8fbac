"""Cholesky factorisation of HSS matrices in batched array operations: for matrices whose data are on a device.

The same elimination as in `structmat.hss.cholesky`; triangular blocks are inverted once, as in `structmat.hss.batched`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._backend import adjoint, as_dtype_of, namespace, to_numpy
from .._typing import Array
from ..batched import BatchedFactorization, cholesky, with_padded_diagonal
from ..blocks import array_bytes
from ..engine import dense
from ..engine.slabs import adjoint_times, times
from .batched import _merged
from .generators import Generators, halves, pairs, swap_siblings
from .ulv import narrow

if TYPE_CHECKING:
    from .matrix import HSSMatrix


@dataclass(frozen=True)
class BatchedCholeskyLevel:
    """The factors of one level; nb = 2**level nodes of size p, k of whose unknowns go to the parent, e = p - k."""

    rotation: Array  # (nb, p, p)
    pivots: Array  # (nb, e), the diagonals of the triangular blocks
    inverse: Array  # (nb, e, e), of these
    cross: Array  # (nb, e, k)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors of this level."""
        return sum(array_bytes(a) for a in vars(self).values())


class BatchedHSSCholesky(BatchedFactorization):
    """The Cholesky (ULV) factorisation of a Hermitian positive definite HSS matrix on a device.

    Obtained from `HSSMatrix.factorize(positive_definite=True)` where the matrix is on a device.
    """

    positive_definite = True

    def __init__(self, matrix: HSSMatrix) -> None:
        matrix._require_hermitian_storage()
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._tree = self._col_tree = matrix.row_tree
        g = narrow(matrix.generators)
        d, self._padding = with_padded_diagonal(g.diagonal, matrix.row_tree)
        self._levels: list[BatchedCholeskyLevel] = []
        u = g.row_basis[g.depth] if g.depth else d
        for number in range(g.depth, 0, -1):
            d, u = self._eliminate(g, number, d, u)
        self._root = cholesky(d, 0)

    def _eliminate(self, g: Generators, number: int, d: Array, u: Array) -> tuple[Array, Array]:
        """Add the factors of a level; the diagonal blocks and the bases of the parents."""
        xp = namespace(d)
        k = u.shape[2]
        rotation, triangle = dense.complete_qr(u)
        rest = triangle[:, :k, :]
        turned = xp.matmul(xp.matmul(adjoint(rotation), d), rotation)
        lower = cholesky(turned[:, k:, k:], number)
        inverse = xp.linalg.inv(lower) if 0 not in lower.shape else lower
        cross = xp.matmul(inverse, turned[:, k:, :k])
        self._levels.append(BatchedCholeskyLevel(rotation, xp.linalg.diagonal(lower), inverse, cross))
        kept = turned[:, :k, :k] - xp.matmul(adjoint(cross), cross)
        across = xp.matmul(xp.matmul(rest, g.coupling(number)), adjoint(swap_siblings(rest)))
        d = _merged(kept, across)
        return d, d if number == 1 else pairs(xp.matmul(rest, halves(g.row_basis[number - 1])))

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(level.nbytes for level in self._levels) + array_bytes(self._root)

    @property
    def _example(self) -> Any:
        return self._root

    def _substitution(self, x: Array) -> Array:
        """A x = b on leaf blocks: up the tree, the root, down the tree."""
        eliminated = []
        for level in self._levels:
            k = level.cross.shape[2]
            turned = adjoint_times(level.rotation, x)
            gone = times(level.inverse, turned[:, k:, :])
            eliminated.append(gone)
            x = pairs(turned[:, :k, :] - adjoint_times(level.cross, gone))
        xp = namespace(x)
        root = as_dtype_of(self._root, x)
        x = xp.linalg.solve(adjoint(root), xp.linalg.solve(root, x))
        for level, gone in zip(self._levels[::-1], eliminated[::-1], strict=True):
            kept = halves(x)
            solved = adjoint_times(level.inverse, gone - times(level.cross, kept))
            x = times(level.rotation, xp.concat([kept, solved], axis=1))
        return x

    def _adjoint_substitution(self, x: Array) -> Array:
        return self._substitution(x)

    def slogdet(self) -> tuple[Any, float]:
        """(1, log det A). Cost O(n)."""
        pivots = [to_numpy(level.pivots) for level in self._levels]
        pivots.append(to_numpy(namespace(self._root).linalg.diagonal(self._root)))
        logarithm = sum(float(np.log(p.real.astype(np.float64)).sum()) for p in pivots)
        return self.dtype.type(1.0), 2.0 * logarithm - self._padding
