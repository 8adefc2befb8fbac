"""Cholesky factorisation of a Hermitian positive definite HSS matrix, level by level.

The ULV elimination with one orthogonal transformation for rows and columns: after Q^H D Q the unknowns that the basis
does not reach are eliminated by a Cholesky step and leave a Schur complement to their parents, which inherit positive
definiteness. Reference: J. Xia, M. Gu, "Robust approximate Cholesky factorization of rank-structured symmetric positive
definite matrices", SIAM J. Matrix Anal. Appl. 31 (2010) 2899-2920, for the structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from .._backend import adjoint
from .._typing import NumpyArray
from ..base import Factorization
from ..engine import cpu_ulv
from ..engine.dense import matmul
from ..exceptions import NotPositiveDefiniteError
from .generators import Generators, halves, pairs, swap_siblings
from .ulv import _by_node, merge, narrow, substitution_kernels, with_padded_diagonal

if TYPE_CHECKING:
    from .matrix import HSSMatrix


@dataclass(frozen=True)
class CholeskyLevel:
    """The factors of one level: reflectors, the triangular factor, and what it makes of the unknowns that are left."""

    q: NumpyArray  # (nb, k, p)
    q_tau: NumpyArray  # (nb, k)
    lower: NumpyArray  # (nb, e, e)
    cross: NumpyArray  # (nb, e, k)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors of this level."""
        return sum(a.nbytes for a in vars(self).values())


class HSSCholesky(Factorization):
    """The Cholesky (ULV) factorisation of a Hermitian positive definite HSS matrix."""

    positive_definite = True

    def __init__(self, matrix: HSSMatrix) -> None:
        matrix._require_hermitian_storage()
        self._matrix = matrix
        self._tree = matrix.row_tree
        self.shape, self.dtype = matrix.shape, matrix.dtype
        g = narrow(matrix.generators)
        diagonal, self._padding = with_padded_diagonal(g.diagonal, matrix.row_tree)
        self._levels, self._root = _eliminate(g, diagonal)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(level.nbytes for level in self._levels) + int(self._root.nbytes)

    def __repr__(self) -> str:
        return f"HSSCholesky(shape={self.shape}, dtype={self.dtype}, {self.nbytes / 1e6:.3g} MB)"

    def _solve_block(self, b: NumpyArray, *, adjointly: bool) -> NumpyArray:
        x = np.array(self._tree.to_leaves(b), dtype=np.result_type(b.dtype, self.dtype), order="C")
        blocks, kernels = [], substitution_kernels(x)
        for f in self._levels:
            kept = np.empty((len(x), f.q.shape[1], x.shape[2]), dtype=x.dtype)
            _by_node(kernels.cholesky_forward, len(x), f.q, f.q_tau, f.lower, f.cross, x, kept)
            blocks.append(x)
            x = pairs(kept)
        x = scipy.linalg.cho_solve((self._root, True), x[0], check_finite=False)[None]
        for f, block in zip(self._levels[::-1], blocks[::-1], strict=True):
            kept = np.ascontiguousarray(halves(x))
            _by_node(kernels.cholesky_backward, len(block), f.q, f.q_tau, f.lower, f.cross, block, kept)
            x = block
        return np.ascontiguousarray(self._tree.from_leaves(x))

    def slogdet(self) -> tuple[Any, float]:
        """(1, log det A). Cost O(n)."""
        pivots = [np.diagonal(f.lower, axis1=1, axis2=2).ravel() for f in self._levels] + [np.diagonal(self._root)]
        logarithm = float(sum(np.log(p.real.astype(np.float64)).sum() for p in pivots))
        return self.dtype.type(1.0), 2.0 * logarithm - self._padding

    def inverse(self, *, rtol: float | None = None) -> HSSMatrix:
        """A^-1 as an HSS matrix, recompressed to `rtol` (through the general ULV factorisation)."""
        from .ulv import HSSFactorization

        return HSSFactorization(self._matrix).inverse(rtol=rtol)


def _eliminate(g: Generators, diagonal: NumpyArray) -> tuple[list[CholeskyLevel], NumpyArray]:
    levels = []
    d, u = diagonal, g.row_basis[g.depth] if g.depth else diagonal
    for number in range(g.depth, 0, -1):
        nb, p, k = u.shape
        e, dtype = p - k, d.dtype
        shapes = (k, p), (k,), (k, k), (e, e), (e, k), (k, k)
        q, q_tau, rest, lower, cross, kept = (np.empty((nb, *s), dtype=dtype) for s in shapes)
        failed = np.zeros(nb, dtype=np.bool_)
        _by_node(cpu_ulv.cholesky_eliminate, nb, d, u, q, q_tau, rest, lower, cross, kept, failed)
        if failed.any():
            raise NotPositiveDefiniteError.in_node(number, int(failed.argmax()))
        levels.append(CholeskyLevel(q, q_tau, lower, cross))
        across = matmul(matmul(rest, g.coupling(number)), adjoint(swap_siblings(rest)))
        d = merge(kept, across)
        u = d if number == 1 else pairs(matmul(rest, halves(g.row_basis[number - 1])))
    try:
        root = scipy.linalg.cholesky(d[0], lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise NotPositiveDefiniteError.in_node(0, 0) from None
    return levels, root
