"""Nested bases for a matrix of independent low-rank blocks, from the leaves up, with a guaranteed error.

The basis of a node serves its own blocks and those of all its ancestors, restricted to its rows: left factors times
what is left of the right ones when their orthonormal part is dropped. Those of one node are first brought together
into as many columns as they have rank.

Reference: S. Boerm, "Efficient Numerical Methods for Non-local Operators", EMS 2010, section 6.5. Cost O(n k^2 log n)
with k the rank of all blocks of a node together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch, NestedBasis
from ..engine import dense
from ..flat.assemble import occurrence
from ..flat.storage import FlatBlocks
from ..lowrank import row_factor, truncated_svd
from .dense import Compressed

CHUNK_BYTES = 1 << 26
# of the tolerance of a node, for bringing its own blocks together, and for the basis; their squares add up to less
GATHERING, CUTTING = 0.1, 0.99


def nested(blocks: FlatBlocks, tails: tuple[Sequence[Any], Sequence[Any]]) -> Compressed:
    """Bases and couplings of blocks whose dense ones are pairs of leaves, and whose low-rank ones lie below the root.

    tails: for the rows and for the columns, by level from 0, the Frobenius norm that the basis of each node may leave
    out. The squared error is at most the sum of all their squares.
    """
    # With orthonormal bases P A P' is kept of each block A: ||A - P A P'||^2 <= ||(I - P) A||^2 + ||A (I - P')||^2,
    # and what a side leaves out on different levels, or of different nodes, is at right angles to each other. Gathering
    # drops a part of the block row that has the right singular vectors that are left out: at right angles too.
    depth = blocks.depth
    if depth == 0:
        empty = NestedBasis((), ())
        return Compressed(blocks.near[0], empty, empty, (), 0.0)
    whole = blocks.expanded()
    rows, square = _side(whole, tails[0], columns=False)
    cols, other = (rows, square) if blocks.half else _side(whole, tails[1], columns=True)
    dtype = blocks.near[depth].data.dtype
    couplings = []
    for level in range(1, depth + 1):
        batches = blocks.far[level]
        none = np.zeros(0, dtype=np.int64)
        places = [np.concatenate([none, *(getattr(b, side) for b in batches)]) for side in ("rows", "cols")]
        nothing = np.zeros((0, rows.width(level), cols.width(level)), dtype=dtype)
        data = np.concatenate([nothing, *(_coupling(b, level, rows, cols) for b in batches)])
        couplings.append(BlockBatch(data, places[0], places[1]))
    return Compressed(blocks.near[depth], rows, cols, tuple(couplings), square + other)


def _side(blocks: FlatBlocks, tails: Sequence[Any], *, columns: bool) -> tuple[NestedBasis, float]:
    """The basis of one side, orthonormal, and its squared error."""
    depth, leaves = blocks.depth, 1 << blocks.depth
    size = int(blocks.near[depth].data.shape[2 if columns else 1])
    square, current = 0.0, []
    for level in range(1, depth + 1):
        block_rows = _block_rows(blocks, level, size << (depth - level), columns=columns)
        gathered, left = row_factor(block_rows, GATHERING * np.broadcast_to(tails[level], (1 << level,)))
        square += float((left**2).sum())
        current.append(gathered.reshape(leaves, size, gathered.shape[2]))
    arrays: list[NumpyArray] = []
    ranks: list[IntArray] = []
    for level in range(depth, 0, -1):
        basis, rank, left = truncated_svd(np.concatenate(current, axis=2), CUTTING * np.asarray(tails[level]))
        square += float((left**2).sum())
        arrays.append(basis)
        ranks.append(rank)
        projected = [dense.matmul(adjoint(basis), x) for x in current[: level - 1]]
        current = [x.reshape(len(x) // 2, 2 * x.shape[1], x.shape[2]) for x in projected]
    return NestedBasis(tuple(arrays[::-1]), tuple(ranks[::-1])), square


def _block_rows(blocks: FlatBlocks, level: int, size: int, *, columns: bool) -> NumpyArray:
    """For each node of a level its low-rank blocks beside each other, up to orthonormal factors on the right."""
    nodes, parts = 1 << level, []
    for b in blocks.far[level]:
        mine, other = (b.right, b.left) if columns else (b.left, b.right)
        parts.append((b.cols if columns else b.rows, dense.matmul(mine, adjoint(dense.triangular_factor(other)))))
    widths = np.zeros(nodes, dtype=np.int64)
    for owner, part in parts:
        np.add.at(widths, owner, part.shape[2])
    out = np.zeros((nodes, size, int(widths.max())), dtype=blocks.near[-1].data.dtype)
    cursor = np.zeros(nodes, dtype=np.int64)
    for owner, part in parts:
        width = part.shape[2]
        first = cursor[owner] + occurrence(owner) * width
        out[owner[:, None], :, first[:, None] + np.arange(width)] = part.swapaxes(1, 2)
        np.add.at(cursor, owner, width)
    return out


def _coupling(batch: LowRankBatch, level: int, rows: NestedBasis, cols: NestedBasis) -> NumpyArray:
    """U_t^H A V_s for the low-rank blocks A of a batch, (nb, k, k')."""
    out = np.empty((len(batch), rows.width(level), cols.width(level)), dtype=batch.left.dtype)
    step = max(1, CHUNK_BYTES // max(1, (batch.left[:1].size + batch.right[:1].size) * batch.left.itemsize))
    for k in range(0, len(batch), step):
        part = slice(k, k + step)
        left = coefficients(rows, level, batch.rows[part], batch.left[part])
        right = coefficients(cols, level, batch.cols[part], batch.right[part])
        out[part] = dense.matmul(left, adjoint(right))
    return out


def coefficients(basis: NestedBasis, level: int, nodes: IntArray, x: NumpyArray) -> NumpyArray:
    """U_t^H X for blocks X (nb, p, r) over the rows of some nodes t of a level: (nb, k, r)."""
    shift = basis.depth - level
    node = ((nodes[:, None] << shift) + np.arange(1 << shift)).ravel()
    current = x.reshape(len(node), x.shape[1] >> shift, x.shape[2])
    for step in range(basis.depth, level - 1, -1):
        current = dense.matmul(adjoint(basis[step][node]), current)
        if step > level:
            current = current.reshape(len(node) // 2, 2 * current.shape[1], current.shape[2])
            node = node[::2] >> 1
    return current
