"""H2 from a dense array: `nested.dense` over any partition, with a guaranteed error. Cost O(n^2 k)."""

from __future__ import annotations

import numpy as np

from .._typing import NumpyArray
from ..blocks import BlockBatch, NestedBasis, RaggedBasis, RaggedBatch, ragged_blocks
from ..lowrank import truncated_svd
from ..nested import dense
from ..partition import BlockPartition
from .blocks import H2Blocks
from .interpolative import tail_shares


def compress(
    a: NumpyArray, partition: BlockPartition, stored: BlockPartition, *, allowed: float, max_rank: int | None,
    symmetric: bool,
) -> tuple[H2Blocks, float]:  # fmt: skip
    """The blocks, and a bound of their absolute error: at most `allowed` unless max_rank cuts in."""
    tails = side_tails(partition, allowed)
    found = dense.compress(a, stored, tails, max_rank=max_rank, symmetric=symmetric, ranges=truncated_svd)
    return unpadded(found.near, found.couplings, found.row_basis, found.col_basis, symmetric), float(
        np.sqrt(found.square)
    )


def side_tails(partition: BlockPartition, allowed: float) -> tuple[list[NumpyArray], list[NumpyArray]]:
    """For the rows and for the columns what each node may leave out, by level; all squares add up to allowed**2."""
    # a singular value decomposition goes a little further than it is told: see `lowrank.svd.full_factor`
    rows, cols = (
        [0.9999 * allowed * np.sqrt(0.5 * share) for share in tail_shares(side)]
        for side in (partition, partition.transposed())
    )
    return rows, cols


def unpadded(
    near: BlockBatch, couplings: tuple[BlockBatch, ...], rows: NestedBasis, cols: NestedBasis, symmetric: bool
) -> H2Blocks:
    """The blocks of an H2-matrix from padded ones: each node has its true rank."""
    row_basis = RaggedBasis.of(rows)
    col_basis = row_basis if symmetric else RaggedBasis.of(cols)
    batches = []
    for level, b in enumerate(couplings, start=1):
        heights, widths = row_basis.ranks[level - 1][b.rows], col_basis.ranks[level - 1][b.cols]
        batches.append(RaggedBatch(ragged_blocks(b.data, heights, widths), b.rows, b.cols, heights, widths))
    return H2Blocks(near, tuple(batches), row_basis, col_basis, symmetric)
