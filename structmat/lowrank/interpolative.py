"""Interpolative decomposition and rank-revealing range of a batch of blocks.

Reference: H. Cheng, Z. Gimbutas, P.-G. Martinsson, V. Rokhlin, "On the compression of low rank matrices", SIAM J.
Sci. Comput. 26 (2005) 1389-1404. Departure: pivoting is by rows with modified Gram-Schmidt, and the rank is the
smallest at which the Frobenius norm of what is left falls below the tolerance of the block.
"""

from __future__ import annotations

import numpy as np

from .._backend import is_numpy, like, numpy_dtype, parallel_ranges
from .._typing import Array, IntArray, NumpyArray
from ..engine import batched_rank, cpu_rank, dense


def factor(
    blocks: Array, tail: NumpyArray, max_rank: int | None, samples: int = 0
) -> tuple[Array, IntArray, IntArray, NumpyArray]:
    """The factor L (nb, p, limit) of L Q, the orders of the rows (nb, p), the ranks and what is left (nb,).

    Where the columns stand for so many random `samples`, each rank uses up as large a share of the squared tolerance
    (see `cpu_rank.pivoted_rows`). All but the factor is NumPy's, whatever library the blocks belong to.
    """
    count, rows, columns = blocks.shape
    limit = min(rows, samples or columns, rows if max_rank is None else max_rank)
    spent = 1.0 / samples if samples else 0.0
    noise = 8.0 * float(np.finfo(numpy_dtype(blocks)).eps)
    tail = np.ascontiguousarray(np.broadcast_to(np.asarray(tail, dtype=np.float64), (count,)))
    if not is_numpy(blocks):
        factors, pivots, ranks, left = batched_rank.pivoted_rows(blocks, tail, spent, noise, limit)
        return factors, _pivots_first(pivots, ranks, rows), ranks, left
    lower = np.empty((count, rows, limit), dtype=blocks.dtype)
    order = np.empty((count, rows), dtype=np.int64)
    ranks = np.zeros(count, dtype=np.int64)
    left = np.empty(count)
    parallel_ranges(
        lambda a, b: cpu_rank.pivoted_rows(blocks, tail, spent, noise, limit, lower, order, ranks, left, a, b),
        count,
        serial=blocks.size < 1 << 14,
    )
    return lower, order, ranks, left


def _pivots_first(pivots: IntArray, ranks: IntArray, rows: int) -> IntArray:
    """The orders (nb, rows) that begin with the pivots (nb, width) that count, by the swaps of `cpu_rank.pivoted_rows`.

    What stands behind the pivots is the same too: levels where ranks differ take some of it into their skeletons.
    """
    order, block = np.tile(np.arange(rows), (len(ranks), 1)), np.arange(len(ranks))
    for k in range(pivots.shape[1]):
        place = (order == pivots[:, k, None]).argmax(axis=1)
        place = np.where(k < ranks, place, k)
        order[block, place], order[block, k] = order[block, k], order[block, place]
    return order


def row_interpolation(
    blocks: Array,  # (nb, p, s), overwritten
    tail: NumpyArray,
    *,
    max_rank: int | None = None,
) -> tuple[Array, IntArray, IntArray]:
    """Skeleton rows and interpolation matrices of a batch of blocks, of any array library.

    Parameters
    ----------
    blocks : (nb, p, s) array
        Used as workspace and overwritten.
    tail : (nb,) array or float
        For each block the Frobenius norm that may be left out.
    max_rank : int, optional
        No rank exceeds this.

    Returns
    -------
    rest : (nb, p - k, k) array
        With k the largest rank: each block is `X @ block[order[:k]]` up to the tolerance times a modest factor, where
        the rows order[:k] of X are the identity and its rows order[k:] are `rest`.
    order : (nb, p) int array
        Skeleton rows first.
    ranks : (nb,) int array
        What the tolerance asked for; the skeletons of all blocks have k rows.

    Notes
    -----
    Cost O(p s k) for each block. The rank is estimated by pivoted Gram-Schmidt, close to but not below the optimal one.
    """
    lower, order, ranks, _left = factor(blocks, tail, max_rank)
    width = int(ranks.max(initial=0))
    if not is_numpy(blocks):
        return batched_rank.interpolation(lower[:, :, :width], order, ranks), order, ranks
    rest = np.empty((len(blocks), blocks.shape[1] - width, width), dtype=blocks.dtype)
    parallel_ranges(lambda a, b: cpu_rank.interpolation(lower, order, ranks, rest, a, b), len(blocks))
    return rest, order, ranks


def row_factor(blocks: NumpyArray, tail: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """L (nb, p, k) with M = L Q + E, Q with orthonormal rows, E Q^H = 0, and ||E||_F (nb,), at most `tail`.

    Parameters are those of `row_interpolation`; columns beyond a block's rank are zero.
    """
    lower, _order, ranks, left = factor(blocks, tail, None)
    width = int(ranks.max(initial=0))
    return lower[:, :, :width] * (np.arange(width) < ranks[:, None, None]), left


def truncated_range(
    blocks: Array,  # (nb, p, s), overwritten
    tail: NumpyArray,
    *,
    max_rank: int | None = None,
    samples: int = 0,
) -> tuple[Array, IntArray, NumpyArray]:
    """Orthonormal bases of the dominant column spaces of a batch of blocks, of any array library.

    Parameters are those of `row_interpolation`. Returns the bases (nb, p, k), zero beyond the true rank, the ranks
    (nb,) and bounds of `||M - Q Q^H M||_F` (nb,), at most `tail` unless `max_rank` cuts in. With `samples`, the columns
    stand for so many random samples of the block's range: then `tail` is the root of their number times what the basis
    may leave of the block, and the rank is corrected for having been fitted to them. Cost O(p s k) for each block.
    """
    lower, _order, ranks, left = factor(blocks, tail, max_rank, samples)
    width = int(ranks.max(initial=0))
    return _without_columns(dense.qr(lower[:, :, :width])[0], ranks), ranks, left


def _without_columns(basis: Array, ranks: IntArray) -> Array:
    """Bases (nb, p, k), those of NumPy overwritten, with zeros in the columns from the rank (nb,) on."""
    width = int(basis.shape[2])
    if (ranks == width).all():
        return basis
    kept = np.arange(width) < ranks[:, None, None]
    if not is_numpy(basis):
        return basis * like(kept.astype(numpy_dtype(basis)), basis)
    basis *= kept
    return basis


def truncated_svd(
    blocks: Array,  # (nb, p, s), overwritten
    tail: NumpyArray,
    *,
    max_rank: int | None = None,
) -> tuple[Array, IntArray, NumpyArray]:
    """Orthonormal bases of the dominant left singular vectors, at the smallest ranks that the tolerance allows.

    Parameters are those of `row_interpolation`. Returns the bases (nb, p, k), zero beyond the true rank, the ranks
    (nb,) and the Frobenius norms of what was left out (nb,). A pivoted factorisation to a hundredth of the tolerance
    goes first, so that the singular value decompositions are small.
    """
    tail = np.broadcast_to(np.asarray(tail, dtype=np.float64), (blocks.shape[0],))
    lower, _order, first, skipped = factor(blocks, 0.01 * tail, None)
    u, s = dense.left_singular(lower[:, :, : int(first.max(initial=0))])
    left_out = np.sqrt(np.cumsum((s**2)[:, ::-1], axis=1)[:, ::-1])  # (nb, k): norm of the values from j on
    ranks = (left_out > tail[:, None]).sum(axis=1)
    if max_rank is not None:
        ranks = np.minimum(ranks, max_rank)
    basis = _without_columns(u[:, :, : int(ranks.max(initial=0))], ranks)
    padded = np.concatenate([left_out, np.zeros((len(ranks), 1))], axis=1)
    rest = np.take_along_axis(padded, ranks[:, None], axis=1)[:, 0]
    return basis, ranks, np.hypot(rest, skipped)
