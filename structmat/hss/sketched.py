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

from .._backend import (
    adjoint,
    concatenated,
    is_numpy,
    like,
    namespace,
    numpy_dtype,
    one_blas_thread,
    parallel_ranges,
    squared_norm,
    stacked,
)
from .._typing import Array, IntArray, NumpyArray
from ..blocks import NestedBasis
from ..engine import batched_rank, cpu_sketch
from ..engine.dense import matmul
from ..lowrank import truncated_range
from .generators import Generators, pairs

# oversampling without which even exactly low-rank input loses digits
OVERSAMPLING = 8
# bytes of samples that are worked on at once: in the cache of a CPU, and with many cores busy on a device
CHUNK_BYTES = 1 << 24
DEVICE_CHUNK_BYTES = 1 << 30


@dataclass
class Samples:
    """Blocks of samples by node of one level: y = A omega, z = A^H psi; psi is omega and z is y when symmetric."""

    omega: Array  # (nb, q, s)
    y: Array  # (nb, p, s)
    psi: Array  # (nb, p, s)
    z: Array  # (nb, q, s)

    @property
    def symmetric(self) -> bool:
        """Whether one set of samples serves rows and columns."""
        return self.psi is self.omega

    @property
    def count(self) -> int:
        """Number of samples s, the smaller one of the two sides."""
        return int(min(self.omega.shape[2], self.psi.shape[2]))


class Starved(Exception):
    """A level needs more samples than there are."""

    def __init__(self, level: int, needed: int, rank: int, rows: int) -> None:
        super().__init__(level, needed)
        self.level, self.needed, self.rank, self.rows = level, needed, rank, rows


@dataclass
class Level:
    """What is found on one level: bases, and the blocks of the nodes' own columns, in their coordinates."""

    u: Array  # (nb, p, k)
    v: Array  # (nb, q, k')
    block: Array  # (nb, p, q)
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
    y: Array, omega: Array, tail: float, max_rank: int | None, level: int, strict: bool
) -> tuple[Array, Array, IntArray, float]:
    """Range of Y N, Y Omega^+, ranks, and how well the samples determine them."""
    nb, p, s = y.shape
    b = omega.shape[1]
    room = s - b
    if room < 1:
        raise Starved(level, b + 1 + OVERSAMPLING, 0, b)
    owns, bases, ranks, weak = [], [], [], np.inf
    whole = np.empty((nb, p, b), dtype=y.dtype) if is_numpy(y) else None
    bytes_each = max(1, (p + b) * s * numpy_dtype(y).itemsize)
    chunk = max(1, (CHUNK_BYTES if is_numpy(y) else DEVICE_CHUNK_BYTES) // bytes_each)
    # Y Omega^+ spreads what the basis leaves out over the node's own columns: the samples' share of it is room / s
    tails = tail * room / np.sqrt(s)
    for first in range(0, nb, chunk):
        part = slice(first, min(nb, first + chunk))
        out = None if whole is None else whole[part]
        own, beyond, weakest = _nullified(omega[part, ...], y[part, ...], out)
        weak = min(weak, float(weakest.min()))
        basis, rank, _left = truncated_range(beyond, np.full(len(weakest), tails), max_rank=max_rank, samples=room)
        owns.append(own)
        bases.append(basis)
        ranks.append(rank)
    rank = np.concatenate(ranks)
    largest = int(rank.max(initial=0))
    if strict and room < max(largest + OVERSAMPLING, int(np.ceil(1.5 * largest))):
        saturated = largest >= min(p, room) and largest < p
        needed = b + int(np.ceil(2.5 * largest)) + OVERSAMPLING  # generous: the levels above need more still
        raise Starved(level, max(needed, int(1.5 * s)) if saturated else needed, largest, b)
    return stacked(bases, largest), concatenated(owns) if whole is None else whole, rank, weak


def _nullified(omega: Array, y: Array, out: NumpyArray | None = None) -> tuple[Array, Array, NumpyArray]:
    """Y Omega^+ (written to `out`), what it does not explain of Y, and how well Omega determines both."""
    if not is_numpy(y):
        return batched_rank.nullify(omega, y)
    omega, y = np.ascontiguousarray(omega), np.ascontiguousarray(y)
    nb, b, s = omega.shape
    own = np.empty((nb, y.shape[1], b), dtype=y.dtype) if out is None else out
    beyond = np.empty((nb, y.shape[1], s - b), dtype=y.dtype)
    weakest = np.empty(nb)
    with one_blas_thread():
        kernel = partial(cpu_sketch.nullify, omega, y, own, beyond, weakest)
        parallel_ranges(kernel, nb, serial=omega.size < 1 << 14)
    # no inputs of the node's own: nothing that could be badly determined
    return own, beyond, weakest if b else np.full(nb, np.inf)


def with_full_rows(omega: Array, used: NumpyArray) -> Array:
    """Random numbers in the rows of `omega` (nb, b, s) that are padding (`used` (nb, b) is false there).

    The matrix is zero in these columns, so the products stay what they are, and the blocks of samples keep full rank.
    """
    if used.all():
        return omega
    (nb, b, s), missing = omega.shape, int((~used).sum())
    scale = np.sqrt(squared_norm(omega) / (max(1, int(used.sum())) * s))
    random = scale * np.random.default_rng(used.size).standard_normal((missing, s))
    xp = namespace(omega)
    rows = xp.concat([xp.reshape(omega, (nb * b, s)), like(random.astype(numpy_dtype(omega)), omega)], axis=0)
    index = np.arange(nb * b)
    index[~used.ravel()] = nb * b + np.arange(missing)
    return xp.reshape(xp.take(rows, like(index, omega), axis=0), (nb, b, s))


def rise(samples: Samples, level: Level) -> Samples:
    """The samples as the parents see them: what the level has explained is taken off, the rest compressed."""

    def up(basis: Array, a: Array, block: Array, b: Array) -> Array:
        down = adjoint(basis)
        return pairs(matmul(down, a) - matmul(matmul(down, block), b))

    def inputs(basis: Array, ranks: IntArray, a: Array) -> Array:
        return pairs(with_full_rows(matmul(adjoint(basis), a), np.arange(basis.shape[2]) < ranks[:, None]))

    omega = inputs(level.v, level.col_ranks, samples.omega)
    y = up(level.u, samples.y, level.block, samples.omega)
    if samples.symmetric:
        return Samples(omega, y, omega, y)
    psi = inputs(level.u, level.row_ranks, samples.psi)
    return Samples(omega, y, psi, up(level.v, samples.z, adjoint(level.block), samples.psi))


def root_block(samples: Samples) -> tuple[Array, float]:
    """The root's block Y Omega^+, averaged with what the adjoint samples say; and how well it is determined."""
    s, b = samples.count, max(samples.omega.shape[1], samples.psi.shape[1])
    if s < b:
        raise Starved(0, b + OVERSAMPLING, 0, b)
    sides = (
        [(samples.y, samples.omega)] if samples.symmetric else [(samples.y, samples.omega), (samples.z, samples.psi)]
    )
    found = [_nullified(omega, y) for y, omega in sides]
    first, mirrored = found[0][0], adjoint(found[-1][0])
    return 0.5 * (first + mirrored), min(float(weakest.min()) for _own, _beyond, weakest in found)


def assemble(levels: list[Level], root: Array, *, symmetric: bool) -> Generators:
    """Generators from the levels (leaves first) and the root's block.

    The blocks of inner nodes have parts on their diagonal that belong further down: they are pushed to the leaves.
    """
    xp = namespace(root)
    couplings: list[Array] = []
    whole = root
    for here in levels[::-1]:
        k, kv, nodes = here.u.shape[2], here.v.shape[2], whole.shape[0]
        split = xp.reshape(whole, (nodes, 2, k, 2, kv))
        upper, lower = split[:, 0, :, 1, :], split[:, 1, :, 0, :]
        if symmetric:
            couplings.append(0.5 * (upper + adjoint(lower)))
        else:
            couplings.append(xp.reshape(xp.stack([upper, lower], axis=1), (2 * nodes, k, kv)))
        own = xp.reshape(xp.stack([split[:, 0, :, 0, :], split[:, 1, :, 1, :]], axis=1), (2 * nodes, k, kv))
        whole = here.block + matmul(matmul(here.u, own), adjoint(here.v))
    if symmetric:
        whole = 0.5 * (whole + adjoint(whole))
    rows = NestedBasis(tuple(a.u for a in levels[::-1]), tuple(a.row_ranks for a in levels[::-1]))
    cols = (
        rows if symmetric else NestedBasis(tuple(a.v for a in levels[::-1]), tuple(a.col_ranks for a in levels[::-1]))
    )
    return Generators(whole, rows, cols, tuple(couplings), symmetric)
