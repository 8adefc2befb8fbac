"""H2 from products only: block nullification of the near field, level by level from the leaves.

References: J. Levitt, P.-G. Martinsson, "Linear-complexity black-box randomized compression of rank-structured
matrices", SIAM J. Sci. Comput. 46 (2024) A1747-A1763 (arXiv 2205.02990), for weak admissibility; A. Yesypenko, P.-G.
Martinsson, "Randomized strong recursive skeletonization" (arXiv 2311.01451), for the neighbours of strong
admissibility. Departures: blocks that belong to a node's bases are left to its parent, so that nothing is solved for
twice; ranks follow from the tolerance of the whole matrix; the null spaces are never formed; starvation is detected.

With Y = A Omega, the neighbours of a node t are the nodes s whose blocks (t, s) are not admissible on any level so far.
In Y_t - (Y_t Omega_N^+) Omega_N, N all neighbours of t, it sees its far field alone: the bases U_t. What is left of the
blocks (t, s) after both bases, D - U U^H D V V^H, follows from Y_t Omega_N^+ and its counterpart with A^H. The parent
then sees U^H (Y - D Omega) and V^H Omega, those of siblings stacked. The same samples serve all levels: their number
does not grow with the matrix. Cost O(n s^2) for s samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from .._backend import adjoint, one_blas_thread, parallel_tasks
from .._typing import NumpyArray
from ..engine import cpu_rank
from ..nested import NestedStorage
from ..partition import BlockPartition
from .from_blocks import Blocks, Level, assembled
from .neighbours import neighbours
from .supply import Starved

# samples beyond the neighbours' columns, at least; and relative to the rank and to the columns: with few of them, what
# the bases leave out is amplified by about sqrt(columns / samples beyond them)
OVERSAMPLING = 10
PER_RANK, PER_COLUMN = 1.5, 0.25
# multiples of the noise that are taken for noise
NOISE_MARGIN = 1.5


@dataclass
class Samples:
    """Samples by node of one level: y = A omega, z = A^H psi; psi is omega and z is y when symmetric."""

    omega: Blocks  # (q_t, s) for each node
    y: Blocks  # (p_t, s)
    psi: Blocks  # (p_t, s)
    z: Blocks  # (q_t, s)

    @property
    def symmetric(self) -> bool:
        """Whether one set of samples serves rows and columns."""
        return self.psi is self.omega

    @property
    def count(self) -> int:
        """Number of samples s."""
        return int(self.omega[0].shape[1])

    def joined(self, more: Samples) -> Samples:
        """These samples and more of them."""

        def both(a: Blocks, b: Blocks) -> Blocks:
            return [np.concatenate(pair, axis=1) for pair in zip(a, b, strict=True)]

        omega, y = both(self.omega, more.omega), both(self.y, more.y)
        if self.symmetric:
            return Samples(omega, y, omega, y)
        return Samples(omega, y, both(self.psi, more.psi), both(self.z, more.z))


class Nullification:
    """The build: how much the bases of each node may leave out, and how large they may be."""

    def __init__(
        self, partition: BlockPartition, tails: list[list[NumpyArray]], *, symmetric: bool, noise: float,
        max_rank: int | None,
    ) -> None:  # fmt: skip
        self.partition, self.symmetric = partition, symmetric
        self.tails, self.noise, self.max_rank = tails, noise, max_rank
        self.near_lists = neighbours(partition)

    @property
    def levels(self) -> range:
        """The levels to be processed, in this order: up to the first one without a far field."""
        depth = self.partition.depth
        top = min((level for level, far in enumerate(self.partition.far) if len(far)), default=depth + 1)
        return range(depth, top - 2, -1)

    def first_count(self) -> int:
        """How many samples to begin with: what the leaves need at least."""
        near, trees = self.near_lists[-1], (self.partition.col_tree, self.partition.row_tree)
        lists = [near.pairs[k, 1] for k in near.of_rows], [near.pairs[k, 0] for k in near.of_cols]
        sizes = [t.sizes(t.depth) for t in trees]
        return needed(max(int(size[n].sum()) for size, nodes in zip(sizes, lists, strict=True) for n in nodes), 0)

    def of_leaves(self, pairs: tuple[NumpyArray, ...]) -> Samples:
        """From omega and y, or omega, y, psi and z, in the user's order."""
        rows, cols = self.partition.row_tree, self.partition.col_tree
        trees = (cols, rows, rows, cols)
        parts = [np.split(a[t.perm], t.starts(t.depth)[1:]) for a, t in zip(pairs, trees, strict=False)]
        if self.symmetric:
            return Samples(parts[0], parts[1], parts[0], parts[1])
        return Samples(*parts)

    def process(self, samples: Samples, level: int) -> Level:
        """Bases and blocks of one level; the bases of nodes without a far field are empty."""
        near = self.near_lists[level]
        nodes = [near.pairs[k, 1] for k in near.of_rows]
        u, own = self._side(samples.y, samples.omega, nodes, near.row_served, self.tails[0][level], level)
        v, other = u, own
        if not self.symmetric:
            nodes = [near.pairs[k, 0] for k in near.of_cols]
            v, other = self._side(samples.z, samples.psi, nodes, near.col_served, self.tails[1][level], level)
        return Level(near, u, v, own, near.mirrored(other))

    def _side(
        self, y: Blocks, omega: Blocks, nodes: Blocks, served: NumpyArray, tails: NumpyArray, level: int
    ) -> tuple[Blocks, Blocks]:
        """For each node the range of what its neighbours do not explain; for all pairs the blocks of Y Omega_N^+."""
        s, heights = omega[0].shape[1], np.array([len(a) for a in omega])
        columns = [int(heights[n].sum()) for n in nodes]
        if max(columns) + OVERSAMPLING > s:
            raise Starved(level, needed(max(columns), 0))
        # of the noise each node has its share, more where few samples are left to tell it from the neighbours
        noise = NOISE_MARGIN * self.noise * np.sqrt(s / max(1, sum(len(a) for a in y)))
        bases, owns = [y[0]] * len(y), [[y[0]]] * len(y)

        def work(t: int) -> None:
            own, beyond = _nullified(y[t], [omega[n] for n in nodes[t]])
            room = s - columns[t]
            # Y Omega^+ spreads what the basis leaves out over the neighbours' columns: the samples' share is room / s
            tail = max(tails[t] * room / np.sqrt(s), noise * np.sqrt(len(y[t])))
            bases[t] = _range(beyond, tail, room, self.max_rank if served[t] else 0)
            owns[t] = np.split(own, np.cumsum(heights[nodes[t]])[:-1], axis=1)

        with one_blas_thread():
            parallel_tasks(work, len(y))
        wanted = [needed(c, b.shape[1]) for c, b, far in zip(columns, bases, served, strict=True) if far]
        if max(wanted, default=0) > s:
            raise Starved(level, max(wanted))
        return bases, [block for blocks in owns for block in blocks]

    def rise(self, samples: Samples, level: Level) -> Samples:
        """The samples as the parents see them: what the level has explained is taken off, the rest compressed."""
        near = level.near

        def of_row(t: int) -> NumpyArray:
            u, pairs = level.u[t], near.of_rows[t]
            # U^H D - U^H D V V^H, as own has no part of it that U does not project
            known = np.concatenate([level.outside(k) @ u for k in pairs]).conj().T
            return adjoint(u) @ samples.y[t] - known @ np.concatenate([samples.omega[near.pairs[k, 1]] for k in pairs])

        def of_col(s: int) -> NumpyArray:
            v, pairs = level.v[s], near.of_cols[s]
            known = np.concatenate([level.block(k) @ v for k in pairs]).conj().T
            return adjoint(v) @ samples.z[s] - known @ np.concatenate([samples.psi[near.pairs[k, 0]] for k in pairs])

        omega = _stacked([adjoint(v) @ a for v, a in zip(level.v, samples.omega, strict=True)])
        y = _stacked(_in_parallel(of_row, len(level.u)))
        if samples.symmetric:
            return Samples(omega, y, omega, y)
        psi = _stacked([adjoint(u) @ a for u, a in zip(level.u, samples.psi, strict=True)])
        return Samples(omega, y, psi, _stacked(_in_parallel(of_col, len(level.v))))

    def assembled(self, levels: list[Level]) -> NestedStorage:
        """The matrix, when all levels are processed."""
        return assembled(levels, self.partition, symmetric=self.symmetric)


def needed(columns: int, rank: int) -> int:
    """Samples for a node whose neighbours have so many columns, and whose far field has this rank."""
    return columns + max(rank + OVERSAMPLING, int(np.ceil(PER_RANK * rank)), int(PER_COLUMN * columns))


def _nullified(y: NumpyArray, inputs: Blocks) -> tuple[NumpyArray, NumpyArray]:
    """Y Omega^+ and Y - (Y Omega^+) Omega for the stacked inputs Omega, by normal equations with one correction.

    Gaussian inputs with a quarter more samples than rows have a condition number of about 20.
    """
    omega = np.concatenate(inputs)
    own, beyond = np.zeros((len(y), len(omega)), dtype=y.dtype), y
    if not len(omega):
        return own, beyond
    factor = scipy.linalg.cho_factor(omega @ adjoint(omega), lower=True, overwrite_a=True, check_finite=False)
    for _correction in range(2):
        # own G = Y Omega^H with the Hermitian G: G own^H = Omega Y^H
        part = scipy.linalg.cho_solve(factor, omega @ adjoint(beyond), check_finite=False).conj().T
        own, beyond = own + part, beyond - part @ omega
    return own, beyond


def _range(samples: NumpyArray, tail: float, room: int, max_rank: int | None) -> NumpyArray:
    """An orthonormal basis of the samples' range that leaves out `tail`; they have `room` independent columns."""
    p = len(samples)
    limit = min(p, max(room, 0)) if max_rank is None else min(p, room, max_rank)
    if limit <= 0:
        return np.zeros((p, 0), dtype=samples.dtype)
    work = np.ascontiguousarray(samples)[None].copy()
    lower = np.empty((1, p, limit), dtype=samples.dtype)
    order, ranks, left = np.empty((1, p), dtype=np.int64), np.zeros(1, dtype=np.int64), np.empty(1)
    noise = 8.0 * float(np.finfo(samples.dtype).eps)
    cpu_rank.pivoted_rows(work, np.array([tail]), 1.0 / room, noise, limit, lower, order, ranks, left, 0, 1)
    return np.linalg.qr(lower[0, :, : ranks[0]])[0]


def _in_parallel(function: Callable[[int], NumpyArray], count: int) -> Blocks:
    results: dict[int, NumpyArray] = {}

    def work(k: int) -> None:
        results[k] = function(k)

    with one_blas_thread():
        parallel_tasks(work, count)
    return [results[k] for k in range(count)]


def _stacked(a: Blocks) -> Blocks:
    """The blocks of siblings, one below the other."""
    return [np.concatenate(pair) for pair in zip(a[::2], a[1::2], strict=True)]
