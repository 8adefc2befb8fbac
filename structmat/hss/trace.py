"""Trace(A^-1 B) of Hermitian HSS matrices: the elimination of A, differentiated in the direction of B.

log det(A + t B) is the sum over the tree of the log determinants of what the Cholesky elimination of `cholesky.py`
takes out, so its derivative at t = 0 is the sum of trace(E^-1 E'), E' the derivative of the eliminated block E. With
bases that span those of A and of B the rotation of each node does not depend on t, and only the Schur complements

    S = F - C^H X,    S' = F' - C'^H X - X^H C' + X^H E' X,    X = E^-1 C

are to be differentiated. The inverse is never formed: an inverse with an error that is small relative to its own norm
still meets the large smooth part of B in the trace, and cond(A) digits are lost.

Reference for the elimination: J. Xia, M. Gu, SIAM J. Matrix Anal. Appl. 31 (2010) 2899-2920.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import adjoint
from .._typing import NumpyArray
from ..engine.dense import matmul
from ..exceptions import NotPositiveDefiniteError
from .generators import Generators, halves, pairs, swap_siblings


@dataclass(frozen=True)
class _Step:
    """What one level leaves to the next: Schur complements, their derivatives, and the bases in the kept unknowns."""

    kept: NumpyArray  # (nb, k, k)
    changed: NumpyArray  # (nb, k, k)
    rest: NumpyArray  # (nb, k, k_a + k_b)
    trace: complex


def trace_of_solve(a: Generators, b: Generators, diagonal: NumpyArray) -> complex:
    """Trace(A^-1 B) for Hermitian A > 0 and B on one tree; `diagonal` is that of A with its padding filled."""
    d, changed = diagonal, b.diagonal.astype(np.result_type(diagonal, b.diagonal))
    total = 0.0j
    bases: tuple[NumpyArray, ...] = (a.row_basis[a.depth], b.row_basis[b.depth]) if a.depth else ()
    for level in range(a.depth, 0, -1):
        step = _eliminated(d, changed, np.concatenate(bases, axis=2), level)
        total += step.trace
        width = bases[0].shape[2]
        rests = step.rest[:, :, :width], step.rest[:, :, width:]
        d, changed = (
            _merged(block, rest, g.coupling(level))
            for block, rest, g in zip((step.kept, step.changed), rests, (a, b), strict=True)
        )
        if level > 1:
            bases = tuple(
                pairs(matmul(rest, halves(g.row_basis[level - 1]))) for rest, g in zip(rests, (a, b), strict=True)
            )
    _require_definite(d, 0)
    return total + complex(np.trace(np.linalg.solve(d[0], changed[0])))


def _eliminated(d: NumpyArray, changed: NumpyArray, basis: NumpyArray, level: int) -> _Step:
    """Rotate so that the last unknowns are out of the basis' reach, and eliminate them."""
    keep = min(basis.shape[1:])
    q, r = np.linalg.qr(basis, mode="complete")
    d, changed = (matmul(matmul(adjoint(q), m), q) for m in (d, changed))
    gone, cross, front = d[:, keep:, keep:], d[:, keep:, :keep], d[:, :keep, :keep]
    gone_changed, cross_changed, front_changed = (
        changed[:, keep:, keep:], changed[:, keep:, :keep], changed[:, :keep, :keep],
    )  # fmt: skip
    _require_definite(gone, level)
    solved = np.linalg.solve(gone, np.concatenate([cross, gone_changed], axis=2))
    x = solved[:, :, :keep]
    mixed = matmul(adjoint(x), cross_changed)
    moved = front_changed - mixed - adjoint(mixed) + matmul(adjoint(x), matmul(gone_changed, x))
    trace = complex(np.trace(solved[:, :, keep:], axis1=1, axis2=2).sum())
    return _Step(front - matmul(adjoint(cross), x), moved, r[:, :keep], trace)


def _merged(block: NumpyArray, rest: NumpyArray, coupling: NumpyArray) -> NumpyArray:
    """The parents' diagonal blocks."""
    from .ulv import merge

    return merge(block, matmul(matmul(rest, coupling), adjoint(swap_siblings(rest))))


def _require_definite(blocks: NumpyArray, level: int) -> None:
    try:
        np.linalg.cholesky(blocks)
    except np.linalg.LinAlgError:
        node = next(k for k, block in enumerate(blocks) if np.linalg.eigvalsh(block)[0] <= 0.0)
        raise NotPositiveDefiniteError(
            f"trace(A^-1 B) needs a positive definite A, but a Cholesky step failed in node {node} of level {level}; "
            "build A with a smaller rtol, or add_diagonal(shift)",
            level,
            node,
        ) from None
