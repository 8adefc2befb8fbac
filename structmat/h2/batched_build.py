"""H2 of a kernel that a device evaluates: the skeletons of `interpolative`, in batched array operations.

Samples and skeletons are chosen as on the CPU, nodes of a level at once; bases are written out, each with its own rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import identity_beside, like, namespace, numpy_dtype, take, transpose
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..lowrank.interpolative import factor
from ..nested import NestedStorage
from ..partition import BlockPartition
from ..sources import DeviceKernelSource
from .farfield import Samples
from .interpolative import Factored, Rule, Side, Skeletons, is_transposed, padded_lists, tail_shares
from .ragged import Ragged
from .structure import warn_if_not_compressed

# bytes of samples or of couplings that are evaluated at a time
CHUNK_BYTES = 1 << 28
REMEDY = "build with smaller leaves, a larger rtol, in single precision, or on the CPU with on_the_fly=True"


class BatchedSide(Side):
    """One of the two bases, on a device."""

    def __init__(self, source: DeviceKernelSource, partition: BlockPartition, *, adjointly: bool) -> None:
        super().__init__(source, None, partition, adjointly=adjointly)
        self.pieces: list[tuple[int, Array, IntArray]] = []  # first node, factors and orders of a piece of a level

    def _factored(self, rows: Skeletons, samples: Samples, tails: NumpyArray, caps: IntArray) -> Factored:
        nodes, counts = len(caps), np.diff(rows.pointers)
        ranks, left = np.zeros(nodes, dtype=np.int64), np.zeros(nodes)
        orders, self.pieces = [], []
        size = int(counts.max(initial=0)) * int(np.diff(samples.pointers).max(initial=0)) * self.source.dtype.itemsize
        step = max(1, CHUNK_BYTES // max(1, 3 * size))
        for first in range(0, nodes, step):
            part = slice(first, min(nodes, first + step))
            blocks = self._blocks(rows, samples, part.start, part.stop)
            lower, order, found, rest = factor(blocks, tails[part], int(caps[part].max(initial=0)))
            ranks[part], left[part] = np.minimum(found, caps[part]), rest**2
            orders.append(order[order < counts[part, None]])  # what pads a node comes last, or in between
            self.pieces.append((first, lower, order))
        nothing = np.zeros(0)
        return Factored(ranks, left, np.concatenate(orders), nothing, np.zeros(nodes + 1, dtype=np.int64))

    def _interpolate(self, found: Factored, rows: Skeletons, caps: IntArray, heights: IntArray) -> None:
        basis = Ragged.zeros(found.ranks, heights, self.pieces[0][1])
        for first, lower, order in self.pieces:
            ranks = found.ranks[first : first + len(order)]
            width = int(ranks.max(initial=0))
            if width:
                columns = interpolated(lower[:, :, :width], order, ranks)
                basis.put(np.arange(first, first + len(order)), transpose(columns))
        self.levels.append(basis.data)
        self.pieces = []

    def basis(self) -> RaggedBasis:
        """The nested basis, when all levels are compressed."""
        return RaggedBasis(tuple(self.levels[::-1]), tuple(self.ranks[::-1]), self.tree.leaf_size)


def interpolated(lower: Array, order: IntArray, ranks: IntArray) -> Array:
    """X (nb, p, k) with block = X block[order[:rank]], from its row-pivoted factors (nb, p, k); rows as they were."""
    xp = namespace(lower)
    nb, p, k = lower.shape
    used = like((np.arange(k) < ranks[:, None]).astype(numpy_dtype(lower)), lower)
    lower = lower * used[:, None, :]
    index = order + p * np.arange(nb)[:, None]
    top = xp.reshape(take(xp.reshape(lower, (nb * p, k)), index[:, :k]), (nb, k, k))
    top = top * used[:, :, None] + (1.0 - used)[:, :, None] * identity_beside(k, lower)
    return transpose(xp.linalg.solve(transpose(top), transpose(lower)))


def build(
    source: DeviceKernelSource, partition: BlockPartition, *, allowed: float, max_rank: int | None, symmetric: bool,
    rule: Rule, progress: Any, near: BlockBatch,
) -> tuple[NestedStorage, bool]:  # fmt: skip
    """As `interpolative.build`: the matrix, and whether some nodes had too few samples."""
    depth = partition.depth
    one_basis = symmetric or is_transposed(source, partition)
    sides = [BatchedSide(source, partition, adjointly=turn) for turn in ((False,) if one_basis else (False, True))]
    for side in sides:
        seen, shares = rule.far_field.seen_from(side), tail_shares(side.partition)
        for level in range(depth, 0, -1):
            side.compress(level, seen, rule.share * allowed * np.sqrt(0.5 * shares[level]), max_rank)
            progress(1.0 / (depth * len(sides)))
    stored = partition.lower() if symmetric else partition
    warn_if_not_compressed(stored, sides[0].ranks[::-1], sides[-1].ranks[::-1], source.dtype.itemsize)
    return _assembled(source, stored, sides, symmetric, near), any(side.starved for side in sides)


def require_room_for(source: DeviceKernelSource, stored: BlockPartition) -> None:
    """Raise `DeviceMemoryError` where the dense blocks do not fit; what they take is known before anything is built."""
    source.require_room(_near_numbers(stored), "the near field of this matrix", REMEDY)


def _near_numbers(stored: BlockPartition) -> int:
    return len(stored.near[stored.depth]) * stored.row_tree.leaf_size * stored.col_tree.leaf_size


def _assembled(
    source: DeviceKernelSource, stored: BlockPartition, sides: list[BatchedSide], symmetric: bool, near: BlockBatch
) -> NestedStorage:
    rows, cols = sides[0], sides[-1]
    bases = [s.basis() for s in sides]
    row_basis = bases[0]
    # one set of points and A = A^T: the columns' basis is the conjugate of the rows'
    col_basis = row_basis if symmetric else bases[1] if len(bases) == 2 else row_basis.conj()
    shapes = [(row_basis.ranks[level - 1][far[:, 0]], col_basis.ranks[level - 1][far[:, 1]])
              for level, far in enumerate(stored.far) if level]  # fmt: skip
    # twice: as they are stored, and padded as products take them
    numbers = 2 * sum(int((h * w).sum()) for h, w in shapes)
    source.require_room(numbers, "the far field of this matrix, with couplings padded for products,", REMEDY)
    couplings = []
    for level, (heights, widths) in enumerate(shapes, start=1):
        couplings.append(_couplings(source, stored.far[level], heights, widths, rows, cols, level))
    return NestedStorage(near, tuple(couplings), row_basis, col_basis, half=symmetric)


def _couplings(
    source: DeviceKernelSource, far: IntArray, heights: IntArray, widths: IntArray, rows: Side, cols: Side, level: int
) -> RaggedBatch:
    """The entries of A between the skeletons of the two nodes of each block."""
    left, right = (padded_lists(side.tree.perm[k.positions], k.pointers)
                   for side, k in ((rows, rows.skeletons[level]), (cols, cols.skeletons[level])))  # fmt: skip
    out = Ragged.zeros(heights, widths, source.zeros((0,)))
    step = max(1, CHUNK_BYTES // max(1, left.shape[1] * right.shape[1] * source.dtype.itemsize))
    if left.shape[1] and right.shape[1]:
        for first in range(0, len(far), step):
            part = np.arange(first, min(len(far), first + step))
            out.put(part, source.blocks(left[far[part, 0]], right[far[part, 1]]))
    return RaggedBatch(out.data, far[:, 0].copy(), far[:, 1].copy(), heights, widths)
