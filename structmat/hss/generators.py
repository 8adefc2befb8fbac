"""The generators of an HSS matrix: what every algorithm of this folder takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._backend import adjoint, conj, namespace
from .._typing import Array
from ..blocks import NestedBasis


@dataclass(frozen=True)
class Generators:
    """Diagonal blocks, bases and couplings.

    Attributes
    ----------
    diagonal : (leaves, p, q) array
        Diagonal blocks, zero-padded to the largest leaf.
    row_basis, col_basis : NestedBasis
        One object when `symmetric`.
    couplings : tuple of (2**l, k, k') arrays, for l = 1 .. depth
        Between node t (rows) and its sibling (columns); of even t only, (2**(l-1), k, k), when `symmetric`.
    symmetric : bool
        Hermitian, stored half.
    """

    diagonal: Array
    row_basis: NestedBasis
    col_basis: NestedBasis
    couplings: tuple[Array, ...]
    symmetric: bool = False

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.couplings)

    def coupling(self, level: int) -> Array:
        """All couplings of a level, (2**level, k, k'), also of a matrix that stores half of them."""
        stored = self.couplings[level - 1]
        if not self.symmetric:
            return stored
        xp = namespace(stored)
        both = xp.stack([stored, adjoint(stored)], axis=1)
        return xp.reshape(both, (2 * stored.shape[0], *stored.shape[1:]))

    def expanded(self) -> Generators:
        """The same matrix with all couplings stored."""
        if not self.symmetric:
            return self
        full = tuple(self.coupling(level) for level in range(1, self.depth + 1))
        return Generators(self.diagonal, self.row_basis, self.col_basis, full)

    def adjoint(self) -> Generators:
        """The generators of A^H, which are the same ones for a Hermitian matrix."""
        if self.symmetric:
            return self
        flipped = tuple(adjoint(swap_siblings(b)) for b in self.couplings)
        return Generators(adjoint(self.diagonal), self.col_basis, self.row_basis, flipped)

    def map(self, function: Callable[[Array], Array]) -> Generators:
        """`function` (linear, real) on every array."""
        rows = self.row_basis.map(function)
        cols = rows if self.symmetric else self.col_basis.map(function)
        return Generators(
            function(self.diagonal), rows, cols, tuple(function(b) for b in self.couplings), self.symmetric
        )

    def conj(self) -> Generators:
        """The generators of the complex conjugate of A."""
        return self.map(conj)


def doubled(a: Array) -> Array:
    """The blocks of a level (2**l, p, q), each twice: for the children, (2**(l+1), p, q)."""
    return namespace(a).repeat(a, 2, axis=0)


def swap_siblings(a: Array) -> Array:
    """The blocks of a level (2**l, ..) with each pair of siblings exchanged."""
    xp = namespace(a)
    split = xp.reshape(a, (a.shape[0] // 2, 2, *a.shape[1:]))
    return xp.reshape(xp.flip(split, axis=1), a.shape)


def pairs(a: Array) -> Array:
    """The blocks of a level (2**l, p, q) stacked by parent: (2**(l-1), 2 p, q)."""
    return namespace(a).reshape(a, (a.shape[0] // 2, 2 * a.shape[1], a.shape[2]))


def halves(a: Array) -> Array:
    """The inverse of `pairs`: the upper and lower half of each block, (2**(l-1), 2 p, q) to (2**l, p, q)."""
    return namespace(a).reshape(a, (2 * a.shape[0], a.shape[1] // 2, a.shape[2]))
