"""The inner product of two H2-matrices, through their bases: no product matrix is formed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import cast, conj, numpy_dtype
from .._typing import IntArray, NumpyArray
from ..blocks import RaggedBasis
from ..flat.assemble import aligned
from .arithmetic import in_order_of
from .blocks import H2Blocks
from .ragged import Ragged, level_of, multiply
from .truncate import moved_up, sandwiched


def inner(a: H2Blocks, b: H2Blocks) -> Any:
    """trace(A^H B), the sum of conj(a_ij) b_ij, for one partition, both stored half or both in full.

    The block of the nodes t and s is U_t A_ts V_s^H in one matrix and X_t B_ts Y_s^H in the other; their inner product
    is that of A_ts with (U_t^H X_t) B_ts (V_s^H Y_s)^H, and the small matrices in brackets go up the tree.
    """
    products = conj(a.near.data) * aligned(a.near, b.near, a.depth)
    near = Ragged(products.reshape(-1), *(np.full(len(a.near), n) for n in products.shape[1:]))
    total = _both_halves(near.sums(near.data), a.near.rows, a.near.cols, a.half)
    rows = _inner_products(a.row_basis.full(), b.row_basis.full())
    cols = rows if a.half else _inner_products(a.col_basis.full(), b.col_basis.full())
    for level, (x, y) in enumerate(zip(a.couplings, b.couplings, strict=True), start=1):
        through = sandwiched(in_order_of(x, y, level), rows[level - 1], cols[level - 1])
        wide = cast(conj(x.data), np.result_type(numpy_dtype(x.data), np.float64))
        parts = Ragged.of(x).sums(wide * through.data)
        total = total + _both_halves(parts, x.rows, x.cols, a.half)
    return total


def _both_halves(parts: NumpyArray, rows: IntArray, cols: IntArray, half: bool) -> Any:
    """The sum over blocks, and over their adjoints at the mirrored places: the conjugates."""
    return parts.sum() + (parts[rows != cols].conj().sum() if half else 0.0)


def _inner_products(u: RaggedBasis, x: RaggedBasis) -> list[Ragged]:
    """U_t^H X_t for each level from 1."""
    out: list[Ragged] = []
    for level in range(u.depth, 0, -1):
        current = moved_up(x, level, out[-1]) if out else level_of(x, level)
        mine = level_of(u, level)
        out.append(multiply(Ragged(conj(mine.data), mine.heights, mine.widths), current, transpose=True))
    return out[::-1]
