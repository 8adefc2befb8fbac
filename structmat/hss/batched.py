"""The ULV factorisation in batched array operations: for matrices whose data are on a device.

The same elimination as in `structmat.hss.ulv`, on any array library that has batched products, QR factorisations and
inverses. The triangular blocks are inverted once, as batched inverses are cheap there and substitutions are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._backend import adjoint, as_dtype_of, compact, namespace, to_numpy
from .._typing import Array
from ..batched import BatchedFactorization, with_padded_diagonal
from ..blocks import array_bytes
from ..engine import dense
from ..engine.slabs import adjoint_times, times
from ..exceptions import SingularBlockError
from .generators import Generators, halves, pairs, swap_siblings
from .ulv import _permutation_sign, _signs, narrow

if TYPE_CHECKING:
    from .matrix import HSSMatrix


@dataclass(frozen=True)
class BatchedLevel:
    """The factors of one level; nb = 2**level nodes of size p, k of whose unknowns go to the parent, e = p - k."""

    rotation: Array  # (nb, p, p), of the rows
    mixing: Array  # (nb, p, p), of the columns
    pivots: Array  # (nb, e), the diagonals of the triangular blocks
    inverse: Array  # (nb, e, e), of these
    front: Array  # (nb, k, e)
    gone_basis: Array  # (nb, e, kv), the column basis in the eliminated unknowns
    coupling: Array  # (nb, k, kv)
    transfer: Array | None  # (nb / 2, 2 kv, kv of the parent), of the column basis

    @property
    def nbytes(self) -> int:
        """Bytes of the factors of this level."""
        return sum(array_bytes(a) for a in vars(self).values() if a is not None)


class BatchedULV(BatchedFactorization):
    """The ULV factorisation of an HSS matrix on a device: `solve`, `solve_adjoint`, `slogdet`.

    Obtained from `HSSMatrix.factorize` where the matrix is on a device.
    """

    def __init__(self, matrix: HSSMatrix) -> None:
        matrix._require_square("a factorisation")
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._tree, self._col_tree = matrix.row_tree, matrix.col_tree
        g = narrow(matrix.generators).expanded()
        diagonal, self._padding = with_padded_diagonal(g.diagonal, matrix.row_tree)
        self._levels: list[BatchedLevel] = []
        d = diagonal
        u, v = (g.row_basis[g.depth], g.col_basis[g.depth]) if g.depth else (d, d)
        for number in range(g.depth, 0, -1):
            d, u, v = self._eliminate(g, number, d, u, v)
        pivots = _diagonals(dense.qr(adjoint(d))[1])
        _require_pivots(pivots, d, 0)
        self._root = d

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(level.nbytes for level in self._levels) + array_bytes(self._root)

    @property
    def _example(self) -> Any:
        return self._root

    # ------------------------------------------------------------------------------ elimination

    def _eliminate(self, g: Generators, number: int, d: Array, u: Array, v: Array) -> tuple[Array, Array, Array]:
        """Add the factors of a level; the diagonal blocks and bases of the parents."""
        xp = namespace(d)
        k, e = u.shape[2], u.shape[1] - u.shape[2]
        rotation, triangle = dense.complete_qr(u)
        rest, turned = triangle[:, :k, :], xp.matmul(adjoint(rotation), d)
        top, low = turned[:, :k, :], turned[:, k:, :]
        mixing, triangle = dense.complete_qr(adjoint(low))
        lower = adjoint(triangle[:, :e, :])
        pivots = _diagonals(lower)
        _require_pivots(pivots, low, number)
        mixed, basis = xp.matmul(top, mixing), xp.matmul(adjoint(mixing), v)
        kept, kept_basis = mixed[:, :, e:], basis[:, e:, :]
        coupling = xp.matmul(rest, g.couplings[number - 1])
        transfer = g.col_basis[number - 1] if number > 1 else None
        inverse = xp.linalg.inv(lower) if e else lower
        front, gone_basis = compact(mixed[:, :, :e]), compact(basis[:, :e, :])
        self._levels.append(BatchedLevel(rotation, mixing, pivots, inverse, front, gone_basis, coupling, transfer))
        across = xp.matmul(coupling, adjoint(swap_siblings(kept_basis)))
        d = _merged(kept, across)
        if number == 1:
            return d, d, d
        u = pairs(xp.matmul(rest, halves(g.row_basis[number - 1])))
        return d, u, pairs(xp.matmul(kept_basis, halves(g.col_basis[number - 1])))

    # ------------------------------------------------------------------------------------ solving

    def _substitution(self, x: Array) -> Array:
        """A x = b on leaf blocks: up the tree, the root, down the tree."""
        eliminated, outside = [], None  # outside: V^H z of what the nodes below have eliminated
        for level in self._levels:
            k = level.front.shape[1]
            turned = adjoint_times(level.rotation, x)
            gone = times(level.inverse, turned[:, k:, :])
            kept = turned[:, :k, :] - times(level.front, gone)
            outgoing = adjoint_times(level.gone_basis, gone)
            outgoing = outgoing if outside is None else outgoing + outside
            kept = kept - times(level.coupling, swap_siblings(outgoing))
            outside = None if level.transfer is None else adjoint_times(level.transfer, pairs(outgoing))
            eliminated.append(gone)
            x = pairs(kept)
        xp = namespace(x)
        x = xp.linalg.solve(as_dtype_of(self._root, x), x)
        for level, gone in zip(self._levels[::-1], eliminated[::-1], strict=True):
            x = times(level.mixing, xp.concat([gone, halves(x)], axis=1))
        return x

    def _adjoint_substitution(self, x: Array) -> Array:
        """A^H x = b: the same steps transposed and in reverse."""
        xp = namespace(x)
        waiting = []
        for level in self._levels:
            e = level.front.shape[2]
            turned = adjoint_times(level.mixing, x)
            waiting.append(turned[:, :e, :])
            x = pairs(turned[:, e:, :])
        x = xp.linalg.solve(as_dtype_of(adjoint(self._root), x), x)
        inherited = None  # what the eliminated unknowns see of the world outside their parent
        for level, gone in zip(self._levels[::-1], waiting[::-1], strict=True):
            kept = halves(x)
            seen = -swap_siblings(adjoint_times(level.coupling, kept))
            if level.transfer is not None and inherited is not None:
                seen = seen + halves(times(level.transfer, inherited))
            gone = gone - adjoint_times(level.front, kept) + times(level.gone_basis, seen)
            solved = adjoint_times(level.inverse, gone)
            x, inherited = times(level.rotation, xp.concat([kept, solved], axis=1)), seen
        return x

    # -------------------------------------------------------------------------------- determinant

    def slogdet(self) -> tuple[Any, float]:
        """Sign (phase, for complex) and log of the absolute value of the determinant. Cost O(n).

        The unitary factors carry the sign.
        """
        real = self.dtype.kind != "c"
        sign: Any = 1.0
        logarithm = -self._padding
        for level in self._levels:
            nb, k, e = level.front.shape
            unitary = [_signs(_determinants(a))[0] for a in (level.rotation, level.mixing)]
            part, size = _signs(to_numpy(level.pivots).ravel())
            sign, logarithm = sign * part * unitary[0] * np.conj(unitary[1]) * (-1.0) ** (nb * k * e), logarithm + size
        part, size = np.linalg.slogdet(to_numpy(self._root)[0])
        sign = sign * part * _permutation_sign(self._tree, self._col_tree)
        return (self.dtype.type(np.sign(sign)) if real else sign / abs(sign)), float(logarithm + size)


def _diagonals(a: Array) -> Array:
    return namespace(a).linalg.diagonal(a)


def _require_pivots(pivots: Array, rows: Array, number: int) -> None:
    """Refuse pivots (nb, e) of an LQ factorisation that are rounding, compared with the rows (nb, e, p) factored."""
    if 0 in pivots.shape:
        return
    xp = namespace(rows)
    sizes = to_numpy(xp.sqrt(xp.sum(xp.abs(rows) ** 2, axis=2)))
    relative = np.abs(to_numpy(pivots)) / np.maximum(sizes, np.finfo(sizes.dtype).tiny)
    if relative.min() > np.finfo(relative.dtype).eps:
        return
    node = int(relative.min(axis=1).argmin())
    raise SingularBlockError(
        f"the block of node {node} on level {number} is singular (smallest pivot {relative.min():.1e} relative to its "
        "row); add_diagonal(shift) regularises, lstsq solves in the least-squares sense",
        number, node,
    )  # fmt: skip


def _merged(kept: Array, across: Array) -> Array:
    """The parents' diagonal blocks: the children's on the diagonal, `across` (row child to sibling) off it."""
    xp = namespace(kept)
    upper = xp.concat([kept[::2, ...], across[::2, ...]], axis=2)
    lower = xp.concat([across[1::2, ...], kept[1::2, ...]], axis=2)
    return xp.concat([upper, lower], axis=1)


def _determinants(a: Array) -> Any:
    return to_numpy(namespace(a).linalg.det(a))
