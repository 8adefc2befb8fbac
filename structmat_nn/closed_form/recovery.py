"""Block nullification that knows of noise: an HSS matrix from recorded pairs, by small factorisations alone.

Reference: J. Levitt, P.-G. Martinsson, SIAM J. Sci. Comput. 46 (2024) A1747-A1763 (arXiv 2205.02990). The library's
`HSSMatrix.from_samples` is the same method for exact data. Departures for noisy data: singular values instead of
pivoted factorisations, what pure noise would give as the threshold of the ranks, and a ridge on the blocks of the
nodes' own inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from structmat._backend import adjoint
from structmat._typing import IntArray, NumpyArray
from structmat.hss.generators import Generators
from structmat.hss.sketched import Level, Samples, assemble, rise

_LARGEST_RIDGE = 1e280  # what is added to squares must not overflow
ROUNDING = 64 * float(np.finfo(np.float64).eps)  # relative size of what rounding leaves of an exact cancellation


@dataclass(frozen=True)
class Recovery:
    """What block nullification finds.

    Attributes
    ----------
    generators : Generators
        Of the recovered matrix.
    weakest : float
        Smallest singular value of any node's inputs, relative to that node's largest: 0 where they do not span.
    noise : float
        Root mean square of what the ranks leave of the leaves' far fields: an estimate of the noise on one output.
    """

    generators: Generators
    weakest: float
    noise: float


@dataclass
class _Side:
    """One side of a level: bases, the nodes' own blocks, and how well they are determined."""

    basis: NumpyArray  # (nb, p, k), zero beyond the rank
    own: NumpyArray  # (nb, p, b)
    ranks: IntArray  # (nb,)
    weakest: float
    left_out: float  # mean square of the far field beyond the rank


def recover(samples: Samples, depth: int, rank: int, noise: float) -> Recovery:
    """An HSS matrix from samples by leaf, with ranks of at most `rank`.

    Parameters
    ----------
    samples : Samples
        Leaf blocks of inputs and outputs, and of the adjoint's.
    depth : int
        Of the trees.
    rank : int
        Largest rank; singular values below those of pure noise are cut as well.
    noise : float
        Standard deviation of the noise on one output, 0 for exact data.

    Notes
    -----
    The caller has checked that every node has more samples than inputs. Cost O(n s (leaf size + rank)).
    """
    floor = ROUNDING * _root_mean_square(samples.y)
    levels: list[Level] = []
    weakest, estimate = np.inf, 0.0
    for level in range(depth, 0, -1):
        rows = _side(samples.y, samples.omega, rank, noise, floor)
        columns = rows if samples.symmetric else _side(samples.z, samples.psi, rank, noise, floor)
        weakest = min(weakest, rows.weakest, columns.weakest)
        if level == depth:
            estimate = float(np.sqrt(rows.left_out))
        levels.append(_joined(rows, columns, weakest))
        samples = rise(samples, levels[-1])
    root, weak = _root(samples, noise)
    return Recovery(
        assemble(levels, root, symmetric=samples.symmetric), min(weakest, weak), estimate if depth else noise
    )


def _root_mean_square(y: NumpyArray) -> float:
    return float(np.sqrt(np.mean(np.abs(y) ** 2))) if y.size else 0.0


def _joined(rows: _Side, columns: _Side, weakest: float) -> Level:
    """The level of both sides: the part within both bases is left to the parent, as in `hss.sketched`."""
    u, v = rows.basis, columns.basis
    outside = columns.own - v @ (adjoint(v) @ columns.own)
    block = rows.own + u @ (adjoint(u) @ (adjoint(outside) - rows.own))
    return Level(u, v, block, rows.ranks, columns.ranks, weakest)


def _side(y: NumpyArray, omega: NumpyArray, rank: int, noise: float, floor: float) -> _Side:
    """Split the outputs into what the node's own inputs explain and the far field beyond, and find the range of it."""
    p, s = y.shape[1:]
    room = s - omega.shape[1]
    own, beyond, weakest = _explained(y, omega, noise)
    left, values, _ = np.linalg.svd(_square(beyond), full_matrices=False)  # (nb, p, k), (nb, k)
    # the largest singular value of a p x room matrix of pure noise
    edge = 1.1 * max(noise, floor) * (np.sqrt(p) + np.sqrt(room))
    ranks = np.minimum((values > edge).sum(axis=1), rank)
    width = int(ranks.max(initial=0))
    kept = np.arange(values.shape[1]) < ranks[:, None]
    freedom = float(np.sum(np.maximum(p - ranks, 0) * np.maximum(room - ranks, 0)))
    left_out = float(np.sum(np.where(kept, 0.0, values) ** 2)) / freedom if freedom else 0.0
    return _Side(left[:, :, :width] * kept[:, None, :width], own, ranks, weakest, left_out)


def _explained(y: NumpyArray, omega: NumpyArray, noise: float) -> tuple[NumpyArray, NumpyArray, float]:
    """Y Omega^+ with a ridge, Y N N^H for the null space N of Omega, and the smallest relative singular value."""
    b = omega.shape[1]
    if b == 0:
        return np.zeros((*y.shape[:2], 0), dtype=y.dtype), y, np.inf
    q, r = np.linalg.qr(adjoint(omega))  # (nb, s, b), (nb, b, b)
    left, values, right = np.linalg.svd(r)
    coefficients = y @ q
    beyond = y - coefficients @ adjoint(q)
    largest = np.maximum(values[:, :1], np.finfo(np.float64).tiny)
    # an entry of the block is about as large as the outputs over the inputs: what noise drowns is drawn to zero
    rows = max(1, y.shape[1])
    size = np.sum(np.abs(y) ** 2, axis=(1, 2)) / rows / np.maximum(np.sum(values**2, axis=1), np.finfo(np.float64).tiny)
    ridge = noise**2 / np.maximum(size, max(np.finfo(np.float64).tiny, noise**2 / _LARGEST_RIDGE))
    inverse = values / np.maximum(values**2 + ridge[:, None], (ROUNDING * largest) ** 2 + np.finfo(np.float64).tiny)
    own = ((coefficients @ left) * inverse[:, None, :]) @ right
    return own, beyond, float((values / largest).min())


def least_squares(y: NumpyArray, omega: NumpyArray) -> NumpyArray:
    """The X (nb, p, b) of smallest norm among those that minimise ||y - X omega||, for (nb, p, s) and (nb, b, s)."""
    if omega.shape[1] > omega.shape[2]:
        return y @ np.linalg.pinv(omega, rcond=ROUNDING)
    return _explained(y, omega, 0.0)[0]


def _square(beyond: NumpyArray) -> NumpyArray:
    """A matrix (nb, p, p) with the left singular vectors and the singular values of (nb, p, s)."""
    if beyond.shape[2] <= beyond.shape[1]:
        return beyond
    return adjoint(np.linalg.qr(adjoint(beyond), mode="r"))


def _root(samples: Samples, noise: float) -> tuple[NumpyArray, float]:
    """The block of the root, the mean of what both sides say."""
    own, _, weakest = _explained(samples.y, samples.omega, noise)
    mirrored = own
    if not samples.symmetric:
        mirrored, _, weak = _explained(samples.z, samples.psi, noise)
        weakest = min(weakest, weak)
    return 0.5 * (own + adjoint(mirrored)), weakest
