"""The blocks of an H2-matrix: what every algorithm of this folder takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .._backend import adjoint, concatenated, conj, take
from .._typing import Array, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch, chosen, turned

__all__ = ["H2Blocks", "chosen", "turned"]


@dataclass(frozen=True)
class H2Blocks:
    """Near field, bases and couplings.

    Attributes
    ----------
    near : BlockBatch
        Dense blocks between leaves, padded to the largest leaf.
    couplings : tuple of RaggedBatch, for the levels 1 .. depth
        Each block has the ranks of its row node and its column node as its shape.
    row_basis, col_basis : RaggedBasis
        One object when `half`.
    half : bool
        Hermitian, stored half: each block below the diagonal also stands for its adjoint above it.
    buffer : array, optional
        The flat buffer that all arrays are views of, in the order in which `NestedStorage` packs them.
    """

    near: BlockBatch
    couplings: tuple[RaggedBatch, ...]
    row_basis: RaggedBasis
    col_basis: RaggedBasis
    half: bool = False
    buffer: NumpyArray | None = None

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.couplings)

    def map(self, function: Callable[[Array], Array]) -> H2Blocks:
        """`function` (linear, real) on every array."""
        rows = self.row_basis.map(function)
        cols = rows if self.half else self.col_basis.map(function)
        near = replace(self.near, data=function(self.near.data))
        couplings = tuple(replace(b, data=function(b.data)) for b in self.couplings)
        return H2Blocks(near, couplings, rows, cols, self.half)

    def conj(self) -> H2Blocks:
        """The blocks of the complex conjugate of A."""
        return self.map(conj)

    def adjoint(self) -> H2Blocks:
        """The blocks of A^H, which are the same ones for a Hermitian matrix."""
        if self.half:
            return self
        near = BlockBatch(adjoint(self.near.data), self.near.cols, self.near.rows)
        couplings = tuple(turned(b) for b in self.couplings)
        return H2Blocks(near, couplings, self.col_basis, self.row_basis)

    def expanded(self) -> H2Blocks:
        """The same matrix with both halves stored."""
        if not self.half:
            return self
        off = np.flatnonzero(self.near.rows != self.near.cols)
        near = BlockBatch(
            concatenated([self.near.data, adjoint(take(self.near.data, off))]),
            np.append(self.near.rows, self.near.cols[off]), np.append(self.near.cols, self.near.rows[off]),
        )  # fmt: skip
        couplings = []
        for b in self.couplings:
            mirror = turned(b)
            kept = np.flatnonzero(b.rows != b.cols)
            other = mirror if len(kept) == len(b) else chosen(mirror, kept)
            couplings.append(
                RaggedBatch(
                    concatenated([b.data, other.data]),
                    *(np.concatenate([getattr(b, name), getattr(other, name)])
                      for name in ("rows", "cols", "heights", "widths")),
                )
            )  # fmt: skip
        return H2Blocks(near, tuple(couplings), self.row_basis, self.row_basis)
