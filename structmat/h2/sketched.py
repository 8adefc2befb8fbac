"""H2 from products and entries, by adaptive sketching, level by level from the leaves.

Reference: W. H. Boukaram, Y. Liu, P. Ghysels, X. S. Li, "Adaptive sketching based construction of H2 matrices on GPUs"
(arXiv 2506.16759). Departures: ranks follow from the tolerance of the whole matrix; nodes without a far field are left
out; matrices that are not Hermitian have two bases, from products with the adjoint.

Of Y = A Omega a leaf takes off its dense blocks, which entries give. What is left is the action of its far field: rows
of it are chosen as a skeleton, from which the others are interpolated. Couplings are then entries of A between
skeletons. The parents' samples are those at the skeletons, less the couplings of the children; Omega goes up the tree
through the column basis. Cost O(n k s) for s samples, a few more than the largest rank, and O(n k) entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBatch, padded_blocks, ragged_blocks
from ..engine.dense import matmul
from ..lowrank.interpolative import factor
from ..nested import NestedStorage
from ..partition import BlockPartition
from ..sources import EntrySource
from .interpolative import CHUNK_BYTES, Factored, Side, Skeletons, near_field, padded_lists
from .neighbours import neighbours
from .supply import Starved

# samples beyond the rank, and relative to it
OVERSAMPLING, PER_RANK = 10, 1.5
# multiples of the noise that are taken for noise
NOISE_MARGIN = 1.5


@dataclass(frozen=True)
class Samples:
    """By side, rows first: what is left of the products at the candidates of the nodes of one level, and the inputs.

    Attributes
    ----------
    outputs : list of (2**level, p, s) arrays
    inputs : list of (2**level, q, s) arrays
        Those that the far field acts on; q counts the candidates of the other side.
    """

    outputs: list[NumpyArray]
    inputs: list[NumpyArray]

    @property
    def count(self) -> int:
        """The number of samples s."""
        return int(self.inputs[0].shape[2])

    def joined(self, more: Samples) -> Samples:
        """These samples and more of them."""
        return Samples(
            *([np.concatenate(pair, axis=2) for pair in zip(a, b, strict=True)]
              for a, b in ((self.outputs, more.outputs), (self.inputs, more.inputs)))
        )  # fmt: skip


@dataclass(frozen=True)
class Level:
    """What samples need of a level to rise above it."""

    skeletons: list[IntArray]  # by side, (2**level, k): which candidates, -1 beyond the rank
    bases: list[NumpyArray]  # by side, (2**level, p, k)
    ranks: list[IntArray]
    couplings: BlockBatch  # (nb, k, k'), of both halves


class Sketch:
    """The build: what has been found of the levels so far."""

    def __init__(
        self, entries: EntrySource, partition: BlockPartition, tails: list[list[NumpyArray]], *, symmetric: bool,
        noise: float, max_rank: int | None,
    ) -> None:  # fmt: skip
        self.entries, self.partition, self.symmetric = entries, partition, symmetric
        self.tails, self.noise, self.max_rank = tails, noise, max_rank
        turns = (False,) if symmetric else (False, True)
        self.sides = [Side(entries, None, partition, adjointly=turned) for turned in turns]
        self.near_lists = neighbours(partition)
        self.stored = partition.lower() if symmetric else partition
        places = self.stored.near[partition.depth]
        shape = len(places), partition.row_tree.leaf_size, partition.col_tree.leaf_size
        self.near = near_field(entries, None, self.stored, np.zeros(shape, dtype=entries.dtype))
        self.couplings: list[RaggedBatch] = []

    @property
    def levels(self) -> range:
        """The levels to be processed, in this order."""
        return range(self.partition.depth, 0, -1)

    def first_count(self) -> int:
        """How many samples to begin with."""
        return 32

    def of_leaves(self, pairs: tuple[NumpyArray, ...]) -> Samples:
        """From omega and y, or omega, y, psi and z, in the user's order: the dense blocks are taken off."""
        rows, cols = self.partition.row_tree, self.partition.col_tree
        omega, y = cols.to_leaves(pairs[0]), np.array(rows.to_leaves(pairs[1]))
        near = _both_halves(self.near) if self.symmetric else self.near
        _take_off(y, near, omega)
        if self.symmetric:
            return Samples([y], [omega])
        psi, z = rows.to_leaves(pairs[2]), np.array(cols.to_leaves(pairs[3]))
        _take_off(z, _turned(near), psi)
        return Samples([y, z], [omega, psi])

    def process(self, samples: Samples, level: int) -> Level:
        """The skeletons of a level, and the couplings between them; `Starved` where the samples do not suffice."""
        found = [self._skeletons(samples, level, k) for k in range(len(self.sides))]
        for side, (rows, factored, caps) in zip(self.sides, found, strict=True):
            side.keep(level, rows, factored, caps)
        chosen = [padded_lists(*_leading(factored, rows)) for rows, factored, _caps in found]
        bases = [_expanded(side, y.shape[1]) for side, y in zip(self.sides, samples.outputs, strict=True)]
        ranks = [factored.ranks for _rows, factored, _caps in found]
        return Level(chosen, bases, ranks, self._couplings(level, ranks))

    def _skeletons(self, samples: Samples, level: int, which: int) -> tuple[Skeletons, Factored, IntArray]:
        side, s = self.sides[which], samples.count
        rows = side.candidates(level)
        counts = np.diff(rows.pointers)
        near = self.near_lists[level]
        served = near.col_served if which else near.row_served
        # a skeleton row stands for many rows of the node
        tails = self.tails[which][level] * np.sqrt(np.maximum(counts, 1) / side.tree.sizes(level))
        noise = NOISE_MARGIN * self.noise * np.sqrt(counts / max(1, int(counts.sum())))
        blocks = samples.outputs[which] * served[:, None, None]
        lower, order, ranks, left = factor(blocks, np.maximum(tails, noise) * np.sqrt(s), self.max_rank, s)
        wanted = np.minimum(np.maximum(ranks + OVERSAMPLING, np.ceil(PER_RANK * ranks)), counts + OVERSAMPLING)
        if int((wanted * served).max()) > s:
            raise Starved(level, int(wanted.max()) if ranks.max() < s else 2 * s)
        inside = np.arange(lower.shape[1]) < counts[:, None]
        caps = np.full(len(counts), lower.shape[2])
        pointers = np.append(0, np.cumsum(counts * lower.shape[2]))
        real = order < counts[:, None]
        return rows, Factored(ranks, left**2, order[real], lower[inside].ravel(), pointers), caps

    def _couplings(self, level: int, ranks: list[IntArray]) -> BlockBatch:
        """Entries of A between the skeletons of admissible pairs."""
        left, right = (
            padded_lists(side.tree.perm[side.skeletons[level].positions], side.skeletons[level].pointers)
            for side in (self.sides[0], self.sides[-1])
        )
        far = self.stored.far[level]
        rows, cols = far[:, 0].copy(), far[:, 1].copy()
        data = np.zeros((len(far), left.shape[1], right.shape[1]), dtype=self.entries.dtype)
        step = max(1, CHUNK_BYTES // max(1, data[:1].nbytes))
        for k in range(0, len(far), step):
            data[k : k + step] = self.entries.blocks(left[rows[k : k + step]], right[cols[k : k + step]])
        heights, widths = ranks[0][rows], ranks[-1][cols]
        self.couplings.append(RaggedBatch(ragged_blocks(data, heights, widths), rows, cols, heights, widths))
        batch = BlockBatch(data, rows, cols)
        return _both_halves(batch) if self.symmetric else batch

    def rise(self, samples: Samples, level: Level) -> Samples:
        """The samples as the parents see them."""
        count = len(self.sides)
        inputs = [
            matmul(adjoint(level.bases[count - 1 - k]), samples.inputs[k]) for k in range(count)
        ]  # of the rows: omega through the column basis
        outputs = []
        for k in range(count):
            index = level.skeletons[k]
            y = np.take_along_axis(samples.outputs[k], np.maximum(index, 0)[:, :, None], axis=1)
            y *= (index >= 0)[:, :, None]
            _take_off(y, _turned(level.couplings) if k else level.couplings, inputs[k])
            outputs.append(_stacked(y, level.ranks[k]))
        return Samples(outputs, [_stacked(x, level.ranks[count - 1 - k]) for k, x in enumerate(inputs)])

    def assembled(self, _levels: list[Level]) -> NestedStorage:
        """The matrix, when all levels are processed."""
        bases = [side.basis() for side in self.sides]
        return NestedStorage(self.near, tuple(self.couplings[::-1]), bases[0], bases[-1], half=self.symmetric)


def _leading(found: Factored, rows: Skeletons) -> tuple[IntArray, IntArray]:
    """The candidates that are skeletons, as numbers in their nodes, one node after another; and pointers."""
    ranks = found.ranks
    node = np.repeat(np.arange(len(ranks)), ranks)
    pointers = np.append(0, np.cumsum(ranks))
    return found.order[rows.pointers[node] + np.arange(len(node)) - pointers[node]], pointers


def _expanded(side: Side, height: int) -> NumpyArray:
    """The bases of the level that was added last, (nodes, height, k), with the identity at the skeletons."""
    ranks, order = side.ranks[-1], side.orders[-1]
    nodes, k = len(ranks), int(ranks.max(initial=0))
    heights = np.full(nodes, len(order) // nodes) if len(side.ranks) == 1 else _paired(side.ranks[-2])
    rest = padded_blocks(side.levels[-1], ranks, heights - ranks, k, height)
    places = padded_lists(order, np.append(0, np.cumsum(heights)))
    out = np.zeros((nodes, height + 1, k), dtype=side.source.dtype)  # one row for what is padding
    node, column = np.arange(nodes)[:, None], np.arange(k)
    out[node, np.where(column < ranks[:, None], places[:, :k], height), column] = 1
    slot = ranks[:, None] + np.arange(height)
    inside = slot < heights[:, None]
    at = np.take_along_axis(places, np.minimum(slot, places.shape[1] - 1), axis=1)
    out[node, np.where(inside, at, height)] = rest.swapaxes(1, 2)
    return out[:, :height]


def _paired(ranks: IntArray) -> IntArray:
    return ranks.reshape(-1, 2).sum(axis=1)


def _stacked(blocks: NumpyArray, ranks: IntArray) -> NumpyArray:
    """The first `ranks` rows of the blocks of siblings, one below the other, (nodes / 2, p, s)."""
    nodes, k, s = blocks.shape
    height = int(_paired(ranks).max(initial=0))
    out = np.zeros((nodes // 2, height, s), dtype=blocks.dtype)
    inside = np.arange(k) < ranks[:, None]
    node, row = np.nonzero(inside)
    out[node // 2, row + np.where(node % 2, ranks[node - 1], 0)] = blocks[inside]
    return out


def _take_off(y: NumpyArray, batch: BlockBatch, x: NumpyArray) -> None:
    """Subtract from y (nodes, p, s) the blocks applied to x (nodes, q, s); one partner of each node at a time."""
    order = np.argsort(batch.rows, kind="stable")
    rows = batch.rows[order]
    turn = np.arange(len(rows)) - np.searchsorted(rows, rows)
    for k in range(int(turn.max(initial=-1)) + 1):
        here = order[turn == k]
        y[batch.rows[here]] -= matmul(batch.data[here], x[batch.cols[here]])


def _turned(batch: BlockBatch) -> BlockBatch:
    return BlockBatch(adjoint(batch.data), batch.cols, batch.rows)


def _both_halves(batch: BlockBatch) -> BlockBatch:
    off = np.flatnonzero(batch.rows != batch.cols)
    return BlockBatch(
        np.concatenate([batch.data, adjoint(batch.data[off])]),
        np.append(batch.rows, batch.cols[off]), np.append(batch.cols, batch.rows[off]),
    )  # fmt: skip
