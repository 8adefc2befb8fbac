"""Least squares with a tall HSS matrix, by orthogonal factorisation, level by level.

Reference: the elimination of unknowns that a node has to itself is that of the ULV factorisation (S.
Chandrasekaran, M. Gu, T. Pals, SIAM J. Matrix Anal. Appl. 28 (2006) 603-622), here with QR in place of LQ,
because rows are in excess; compare Y. Xi, J. Xia, S. Cauley, V. Balakrishnan, "Superfast and stable
structured solvers for Toeplitz least squares via randomized sampling", SIAM J. Matrix Anal. Appl. 35 (2014)
44-72.

At node t, D x_t + U z = b, z what comes from outside, and outside sees V^H x_t.
(1) V = P [R; 0]: of the unknowns y = P^H x_t the first k are coupled, the others are in the rows of t alone.
(2) [D_local, U, D_coupled] = Q [T X; 0 S]: whatever the coupled unknowns and z, T gives local ones for which
    these rows have no residual. What Q leaves of b is residual, whatever the unknowns.
(3) S, of at most k + k_u rows, is [U, D] of the node towards its parent; siblings are merged.
All transformations are orthogonal: the normal equations, of squared condition number, never appear.

Cost O((m + n) k^2) to factor, O((m + n) k) to solve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _check
from .._backend import adjoint, is_numpy, like, to_numpy
from .._typing import Array, NumpyArray
from ..engine import dense
from ..engine.dense import matmul
from ..exceptions import ShapeError, SingularBlockError
from .generators import Generators, halves, pairs, swap_siblings
from .ulv import narrow

if TYPE_CHECKING:
    from ..tree import ClusterTree
    from .matrix import HSSMatrix

__all__ = ["HSSLeastSquares", "LeastSquaresSolution"]


class LeastSquaresSolution(NamedTuple):
    """The minimiser of ||A x - b||_2 and the norm of its residual.

    Attributes
    ----------
    x : (n,) or (n, k) array
    residual_norm : float or (k,) array
        Of each right-hand side.
    """

    x: Any
    residual_norm: Any


@dataclass(frozen=True)
class _Level:
    """The factors of one level: nb nodes of p rows and q unknowns, k coupled, e = q - k local."""

    rotation: NumpyArray  # (nb, q, q), P
    q: NumpyArray  # (nb, p, e + r), r rows are left
    triangle: NumpyArray  # (nb, e, e), T
    outside: NumpyArray  # (nb, e, ku), what the local rows see of the outside
    coupled: NumpyArray  # (nb, e, k), and of the coupled unknowns
    incoming: NumpyArray  # (nb, ku, k), from the coupled unknowns of a node to the outside z of its sibling
    transfer: NumpyArray | None  # (nb, ku, ku of the parent), of the row basis

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in vars(self).values() if a is not None)


class HSSLeastSquares:
    """Orthogonal factorisation of an HSS matrix with at least as many rows as columns, and of full rank.

    It holds its own data, does not change, and serves any number of right-hand sides.

    Parameters
    ----------
    matrix : HSSMatrix
        (m, n) with m >= n.

    Raises
    ------
    ShapeError
        When there are fewer rows than columns.
    SingularBlockError
        When the columns are linearly dependent to rounding; `level` and `node` say where.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> from structmat.hss.lstsq import HSSLeastSquares
    >>> A = sm.HSSMatrix.from_dense(np.tri(400)[:, ::2])  # two rows to a step
    >>> F = HSSLeastSquares(A)
    >>> F.solve(np.arange(1.0, 401.0))[:4].round(6)
    array([1.5, 2. , 2. , 2. ])
    >>> float(F.residual_norms(np.arange(1.0, 401.0)).round(6))
    10.0
    """

    def __init__(self, matrix: HSSMatrix) -> None:
        if matrix.shape[0] < matrix.shape[1]:
            raise ShapeError(
                f"lstsq needs at least as many rows as columns, but A.shape = {matrix.shape}; for the "
                "solution of least norm use scipy.sparse.linalg.lsqr(A.aslinearoperator(), b)"
            )
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._row_tree, self._col_tree = matrix.row_tree, matrix.col_tree
        g = narrow(matrix.generators).expanded()
        self._levels, self._root = _factor(g, self._col_tree)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(level.nbytes for level in self._levels) + sum(a.nbytes for a in self._root)

    def __repr__(self) -> str:
        return f"HSSLeastSquares(shape={self.shape}, dtype={self.dtype}, {self.nbytes / 1e6:.3g} MB)"

    def solve(self, b: Any) -> Any:
        """The minimiser x of ||A x - b||_2, (n,) or (n, k), for b (m,) or (m, k), in the user's ordering."""
        return self.lstsq(b).x

    def residual_norms(self, b: Any) -> Any:
        """The least ||A x - b||_2 for b (m,) or each column of b (m, k), without the solution."""
        columns, example = self._checked(b)
        norms = self._up(columns)[2]
        return norms[0] if example.ndim == 1 else norms

    def lstsq(self, b: Any) -> LeastSquaresSolution:
        """The minimiser and the norm of its residual, for b (m,) or (m, k)."""
        columns, example = self._checked(b)
        local, top, norms = self._up(columns)
        x = np.ascontiguousarray(self._col_tree.from_leaves(self._down(local, top)))
        if example.ndim == 1:
            x, norms = x[:, 0], norms[0]
        return LeastSquaresSolution(x if is_numpy(example) else like(x, example), norms)

    def _checked(self, b: Any) -> tuple[NumpyArray, Array]:
        array = _check.operand(b, self.shape[0], self.shape, side="rows", name="b")
        host = _check.finite_operand(to_numpy(array), "b")
        return host.reshape(len(host), -1).astype(np.result_type(host.dtype, self.dtype), copy=False), array

    def _up(self, b: NumpyArray) -> tuple[list[NumpyArray], NumpyArray, NumpyArray]:
        """Right-hand sides of the local unknowns by level, that of the root, and the residuals' norms."""
        current = np.asarray(self._row_tree.to_leaves(b))
        square = np.zeros(b.shape[1])
        local = []
        for level in self._levels:
            current = _with_rows(current, level.q.shape[1])
            reduced, lost = _reduce(level.q, current)
            square += lost
            e = level.triangle.shape[1]
            local.append(reduced[:, :e])
            current = pairs(np.ascontiguousarray(reduced[:, e:]))
        top, lost = _reduce(self._root[0], _with_rows(current, self._root[0].shape[1]))
        return local, top, np.sqrt(square + lost)

    def _down(self, local: list[NumpyArray], top: NumpyArray) -> NumpyArray:
        """The solution as leaf blocks, from the root to the leaves."""
        x = _back_substitution(self._root[1], top)
        inherited: NumpyArray | None = None
        for level, right in zip(self._levels[::-1], local[::-1], strict=True):
            coupled = np.ascontiguousarray(halves(x))
            z = swap_siblings(matmul(level.incoming, coupled))
            if level.transfer is not None and inherited is not None:
                z = z + matmul(level.transfer, np.repeat(inherited, 2, axis=0))
            alone = _back_substitution(
                level.triangle, right - matmul(level.coupled, coupled) - matmul(level.outside, z)
            )
            x = matmul(level.rotation, np.concatenate([coupled, alone], axis=1))
            inherited = z
        return x


def _reduce(q: NumpyArray, b: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Q^H b, and for each column the squared norm of what Q does not reach; subtracted, not by Pythagoras."""
    reduced = matmul(adjoint(q), b)
    rest = b - matmul(q, reduced)
    return reduced, (rest.real**2 + rest.imag**2 if rest.dtype.kind == "c" else rest**2).sum(axis=(0, 1))


def _with_rows(a: NumpyArray, count: int) -> NumpyArray:
    """The blocks (nb, p, s) with zero rows appended up to `count`."""
    if a.shape[1] >= count:
        return a
    return np.concatenate([a, np.zeros((len(a), count - a.shape[1], a.shape[2]), dtype=a.dtype)], axis=1)


def _back_substitution(t: NumpyArray, b: NumpyArray) -> NumpyArray:
    """Solutions of triangular systems (nb, e, e), (nb, e, s); a step treats one row of all nodes."""
    x = np.array(b, dtype=np.result_type(t, b))
    for i in range(t.shape[1] - 1, -1, -1):
        x[:, i] -= np.matmul(t[:, i, None, i + 1 :], x[:, i + 1 :])[:, 0]
        x[:, i] /= t[:, i, i, None]
    return x


def _factor(g: Generators, col_tree: ClusterTree) -> tuple[list[_Level], tuple[NumpyArray, NumpyArray]]:
    """The factors of all levels, from the leaves up, and Q and T of the root."""
    levels: list[_Level] = []
    d = _with_padded_unknowns(g.diagonal, col_tree)
    if g.depth:
        u, v = _with_rows(g.row_basis[g.depth], d.shape[1]), g.col_basis[g.depth]
    for number in range(g.depth, 0, -1):
        k, ku = v.shape[2], u.shape[2]
        rotation, r_v = dense.complete_qr(v)
        r_v = r_v[:, :k]  # (nb, k, k)
        d = matmul(d, rotation)
        e = d.shape[2] - k
        q, r = _tall_qr(d[:, :, k:], u, d[:, :, :k], number)
        b = g.couplings[number - 1]
        incoming = matmul(swap_siblings(b), adjoint(r_v))
        transfer = halves(g.row_basis[number - 1]) if number > 1 else None
        levels.append(_Level(rotation, q, r[:, :e, :e], r[:, :e, e : e + ku], r[:, :e, e + ku :], incoming, transfer))
        u, d = r[:, e:, e : e + ku], r[:, e:, e + ku :]
        d = _merge(d, matmul(u, swap_siblings(incoming)))
        if number > 1:
            u = pairs(matmul(u, transfer))
            v = pairs(matmul(r_v, halves(g.col_basis[number - 1])))
    none = d[:, :, :0]
    return levels, _tall_qr(d, none, none, 0)


def _with_padded_unknowns(diagonal: NumpyArray, col_tree: ClusterTree) -> NumpyArray:
    """The diagonal blocks with one more row where leaves are padded: it makes the padding zero."""
    if not col_tree.is_padded:
        return diagonal
    out = _with_rows(diagonal, diagonal.shape[1] + 1)
    short = np.flatnonzero(col_tree.sizes(col_tree.depth) < col_tree.leaf_size)
    size = np.abs(diagonal[short]).max(axis=(1, 2))
    out[short, -1, -1] = np.where(size > 0, size, 1)  # of the size of the block, so that it decides nothing about rank
    return out


def _tall_qr(own: NumpyArray, outside: NumpyArray, coupled: NumpyArray, number: int) -> tuple[NumpyArray, NumpyArray]:
    """Thin QR of the blocks [own, outside, coupled] of a level; the columns of `own` must be independent."""
    local = own.shape[2]
    q, r = dense.qr(_with_rows(np.concatenate([own, outside, coupled], axis=2), local))
    if local:
        # bases carry no scale: the columns of the matrix itself do
        largest = np.maximum(_largest_column(own), _largest_column(coupled))
        _require_independent(r[:, :local, :local], largest, number)
    return q, r


def _require_independent(t: NumpyArray, largest: NumpyArray, number: int) -> None:
    """No singular value of the triangles (nb, e, e) is rounding; their diagonals would not show it."""
    allowed = t.shape[1] * np.finfo(t.dtype).eps
    scaled = t / np.where(largest > 0, largest, 1)[:, None, None]
    ratio = np.abs(np.diagonal(scaled, axis1=1, axis2=2)).min(axis=1)
    if ratio.min() > allowed:
        inverse = dense.solve(scaled, np.broadcast_to(np.eye(t.shape[1], dtype=t.dtype), t.shape))
        ratio = 1.0 / np.linalg.norm(
            inverse, axis=(1, 2)
        )  # at most the smallest singular value, at least 1 / sqrt(e) of it
    if ratio.min() <= allowed:
        node = int(ratio.argmin())
        raise SingularBlockError(
            f"the columns are linearly dependent, in node {node} on level {number} (smallest singular value "
            f"{ratio[node]:.1e} of the largest column): no unique least-squares solution; leave columns out, "
            "append rows shift * identity, or use scipy.sparse.linalg.lsqr(A.aslinearoperator(), b)",
            number, node,
        )  # fmt: skip


def _largest_column(a: NumpyArray) -> NumpyArray:
    return np.linalg.norm(a, axis=1).max(axis=1, initial=0.0)


def _merge(own: NumpyArray, across: NumpyArray) -> NumpyArray:
    """The parents' blocks: the children's (nb, r, k) on the diagonal, `across` (to the sibling) off it."""
    nb, r, k = own.shape
    out = np.empty((nb // 2, 2, r, 2, k), dtype=own.dtype)
    for child in range(2):
        out[:, child, :, child] = own[child::2]
        out[:, child, :, 1 - child] = across[child::2]
    return out.reshape(nb // 2, 2 * r, 2 * k)
