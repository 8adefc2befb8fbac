"""HSS from products with random vectors, or from recorded products: block nullification.

References: J. Levitt, P.-G. Martinsson, "Linear-complexity black-box randomized compression of rank-structured
matrices", SIAM J. Sci. Comput. 46 (2024) A1747-A1763 (arXiv 2205.02990); N. Amsel, T. Chen, F. D. Keles, D. Halikias,
C. Musco, C. Musco, D. Persson, "Quasi-optimal hierarchically semi-separable matrix approximation" (arXiv 2505.16937)
for fresh samples on each level. Departures: the null space is never formed as a matrix; ranks follow from the tolerance
of the whole matrix; too few samples for what a level turns out to need are detected.

With Y = A Omega and Z = A^H Psi, a node t with b columns sees its far field alone in Y_t N, N the null space of
Omega_t. Cost O(n s^2) for s samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from .._backend import adjoint, one_blas_thread, parallel_ranges
from .._typing import IntArray, NumpyArray
from ..blocks import NestedBasis
from ..engine import cpu_sketch
from ..engine.dense import matmul
from ..lowrank import truncated_range
from .generators import Generators, pairs

# oversampling without which even exactly low-rank input loses digits
OVERSAMPLING = 8
CHUNK_BYTES = 1 << 24


@dataclass
class Samples:
    """Blocks of samples by node of one level: y = A omega, z = A^H psi; psi is omega and z is y when symmetric."""

    omega: NumpyArray  # (nb, q, s)
    y: NumpyArray  # (nb, p, s)
    psi: NumpyArray  # (nb, p, s)
    z: NumpyArray  # (nb, q, s)

    @property
    def symmetric(self) -> bool:
        """Whether one set of samples serves rows and columns."""
        return self.psi is self.omega

    @property
    def count(self) -> int:
        """Number of samples s, the smaller one of the two sides."""
        return min(self.omega.shape[2], self.psi.shape[2])


class Starved(Exception):
    """A level needs more samples than there are."""

    def __init__(self, level: int, needed: int, rank: int, rows: int) -> None:
        super().__init__(level, needed)
        self.level, self.needed, self.rank, self.rows = level, needed, rank, rows


@dataclass
class Level:
    """What is found on one level: bases, and the blocks of the nodes' own columns, in their coordinates."""

    u: NumpyArray  # (nb, p, k)
    v: NumpyArray  # (nb, q, k')
    block: NumpyArray  # (nb, p, q)
    row_ranks: IntArray
    col_ranks: IntArray
    identified: float  # smallest pivot of the samples' factorisations, relative to the largest


def process_level(samples: Samples, level: int, tail: float, *, max_rank: int | None, strict: bool) -> Level:
    """Bases and blocks of one level below the root.

    Parameters
    ----------
    tail : float
        Frobenius norm that may be left out of the block row of one node.
    strict : bool
        Raise `Starved` where the samples leave less room than the ranks found need.
    """
    u, own, row_ranks, weak = _side(samples.y, samples.omega, tail, max_rank, level, strict)
    if samples.symmetric:
        v, mirrored, col_ranks = u, own, row_ranks
    else:
        v, mirrored, col_ranks, other = _side(samples.z, samples.psi, tail, max_rank, level, strict)
        weak = min(weak, other)
    # (I - U U^H) Y Omega^+ + U U^H ((I - V V^H) Z Psi^+)^H; the part U U^H . V V^H is left to the parent
    outside = mirrored - matmul(v, matmul(adjoint(v), mirrored))
    block = own + matmul(u, matmul(adjoint(u), adjoint(outside) - own))
    return Level(u, v, block, row_ranks, col_ranks, weak)


def _side(
    y: NumpyArray, omega: NumpyArray, tail: float, max_rank: int | None, level: int, strict: bool
) -> tuple[NumpyArray, NumpyArray, IntArray, float]:
    """Range of Y N, Y Omega^+, ranks, and how well the samples determine them."""
    nb, p, s = y.shape
    b = omega.shape[1]
    room = s - b
    if room < 1:
        raise Starved(level, b + 1 + OVERSAMPLING, 0, b)
    own = np.empty((nb, p, b), dtype=y.dtype)
    bases, ranks, weak = [], [], np.inf
    chunk = max(1, CHUNK_BYTES // max(1, (p + b) * s * y.dtype.itemsize))
    # Y Omega^+ spreads what the basis leaves out over the node's own columns: the samples' share of it is room / s
    tails = tail * room / np.sqrt(s)
    for first in range(0, nb, chunk):
        part = slice(first, first + chunk)
        o, samples = np.ascontiguousarray(omega[part]), np.ascontiguousarray(y[part])
        beyond, weakest = np.empty((len(o), p, room), dtype=y.dtype), np.empty(len(o))
        with one_blas_thread():
            kernel = partial(cpu_sketch.nullify, o, samples, own[part], beyond, weakest)
            parallel_ranges(kernel, len(o), serial=o.size < 1 << 14)
        if b:  # no inputs of the node's own: nothing that could be badly determined
            weak = min(weak, float(weakest.min()))
        basis, rank, _left = truncated_range(beyond, np.full(len(o), tails), max_rank=max_rank, samples=True)
        bases.append(basis)
        ranks.append(rank)
    rank = np.concatenate(ranks)
    largest = int(rank.max(initial=0))
    if strict and room < max(largest + OVERSAMPLING, int(np.ceil(1.5 * largest))):
        saturated = largest >= min(p, room) and largest < p
        needed = b + int(np.ceil(2.5 * largest)) + OVERSAMPLING  # generous: the levels above need more still
        raise Starved(level, max(needed, int(1.5 * s)) if saturated else needed, largest, b)
    u = np.zeros((nb, p, largest), dtype=y.dtype)
    for k, basis in enumerate(bases):
        u[k * chunk : k * chunk + len(basis), :, : basis.shape[2]] = basis
    return u, own, rank, weak


def with_full_rows(omega: NumpyArray, used: NumpyArray) -> NumpyArray:
    """Random numbers in the rows of `omega` (nb, b, s) that are padding (`used` (nb, b) is false there).

    The matrix is zero in these columns, so the products stay what they are, and the blocks of samples keep full rank.
    """
    if used.all():
        return omega
    out = np.array(omega)
    scale = np.linalg.norm(omega) / np.sqrt(max(1, int(used.sum())) * omega.shape[2])
    rng = np.random.default_rng(used.size)
    out[~used] = scale * rng.standard_normal((int((~used).sum()), omega.shape[2]))
    return out


def rise(samples: Samples, level: Level) -> Samples:
    """The samples as the parents see them: what the level has explained is taken off, the rest compressed."""

    def up(basis: NumpyArray, a: NumpyArray, block: NumpyArray, b: NumpyArray) -> NumpyArray:
        down = adjoint(basis)
        return pairs(matmul(down, a) - matmul(matmul(down, block), b))

    def inputs(basis: NumpyArray, ranks: IntArray, a: NumpyArray) -> NumpyArray:
        return pairs(with_full_rows(matmul(adjoint(basis), a), np.arange(basis.shape[2]) < ranks[:, None]))

    omega = inputs(level.v, level.col_ranks, samples.omega)
    y = up(level.u, samples.y, level.block, samples.omega)
    if samples.symmetric:
        return Samples(omega, y, omega, y)
    psi = inputs(level.u, level.row_ranks, samples.psi)
    return Samples(omega, y, psi, up(level.v, samples.z, adjoint(level.block), samples.psi))


def root_block(samples: Samples) -> tuple[NumpyArray, float]:
    """The root's block Y Omega^+, averaged with what the adjoint samples say; and how well it is determined."""
    s, b = samples.count, max(samples.omega.shape[1], samples.psi.shape[1])
    if s < b:
        raise Starved(0, b + OVERSAMPLING, 0, b)
    parts, weak = [], np.inf
    sides = (
        [(samples.y, samples.omega)] if samples.symmetric else [(samples.y, samples.omega), (samples.z, samples.psi)]
    )
    for y, omega in sides:
        nb, p, columns = y.shape
        found = np.zeros((nb, p, omega.shape[1]), dtype=y.dtype)
        weakest = np.full(1, np.inf)
        if omega.shape[1]:
            beyond = np.empty((nb, p, columns - omega.shape[1]), dtype=y.dtype)
            cpu_sketch.nullify(np.ascontiguousarray(omega), np.ascontiguousarray(y), found, beyond, weakest, 0, 1)
        weak = min(weak, float(weakest[0]))
        parts.append(found)
    mirrored = adjoint(parts[-1])
    return 0.5 * (parts[0] + mirrored), weak


def assemble(levels: list[Level], root: NumpyArray, *, symmetric: bool) -> Generators:
    """Generators from the levels (leaves first) and the root's block.

    The blocks of inner nodes have parts on their diagonal that belong further down: they are pushed to the leaves.
    """
    couplings: list[NumpyArray] = []
    whole = root
    for index in range(len(levels) - 1, -1, -1):
        here = levels[index]
        k, kv = here.u.shape[2], here.v.shape[2]
        split = whole.reshape(len(whole), 2, k, 2, kv)
        if symmetric:
            couplings.append(0.5 * (split[:, 0, :, 1] + adjoint(split[:, 1, :, 0])))
        else:
            couplings.append(np.stack([split[:, 0, :, 1], split[:, 1, :, 0]], axis=1).reshape(2 * len(whole), k, kv))
        own = np.stack([split[:, 0, :, 0], split[:, 1, :, 1]], axis=1).reshape(2 * len(whole), k, kv)
        whole = here.block + matmul(matmul(here.u, own), adjoint(here.v))
    if symmetric:
        whole = 0.5 * (whole + adjoint(whole))
    rows = NestedBasis(tuple(a.u for a in levels[::-1]), tuple(a.row_ranks for a in levels[::-1]))
    cols = (
        rows if symmetric else NestedBasis(tuple(a.v for a in levels[::-1]), tuple(a.col_ranks for a in levels[::-1]))
    )
    return Generators(whole, rows, cols, tuple(couplings), symmetric)
