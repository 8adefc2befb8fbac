"""Recompression of a batch of factored blocks: two QR factorisations and a small singular value decomposition."""

from __future__ import annotations

import numpy as np

from .._typing import IntArray, NumpyArray
from ..engine import dense


def recompress(
    left: NumpyArray,  # (nb, p, k)
    right: NumpyArray,  # (nb, q, k)
    tail: NumpyArray,
    max_rank: int | None = None,
) -> tuple[NumpyArray, NumpyArray, IntArray, NumpyArray]:
    """The best approximations of left @ right^H at the smallest ranks that the tolerances allow.

    With left = Q R and right = Z S, the singular values are those of R S^H, k x k. Cost O((p + q) k^2) a block.

    Parameters
    ----------
    left, right : (nb, p, k) and (nb, q, k) arrays
        Zero columns are allowed.
    tail : (nb,) array
        For each block the Frobenius norm that may be left out.
    max_rank : int, optional
        No rank exceeds this.

    Returns
    -------
    left : (nb, p, k') array
        With orthonormal columns, and zero ones beyond the rank.
    right : (nb, q, k') array
        Scaled by the singular values.
    ranks : (nb,) int array
    dropped : (nb,) array
        The Frobenius norms of what was left out.
    """
    (q, r), (z, s) = dense.qr(left), dense.qr(right)
    u, values, vh = dense.svd(r @ s.conj().swapaxes(1, 2))
    ranks, dropped = truncation_ranks(values, tail, max_rank)
    width = int(ranks.max(initial=0))
    kept = np.arange(width) < ranks[:, None]
    scaled = vh[:, :width].conj().swapaxes(1, 2) * (values[:, :width] * kept)[:, None]
    return dense.matmul(q, u[:, :, :width] * kept[:, None]), dense.matmul(z, scaled), ranks, dropped


def truncation_ranks(values: NumpyArray, tail: NumpyArray, max_rank: int | None) -> tuple[IntArray, NumpyArray]:
    """The smallest ranks at which the singular values (nb, k) beyond have at most the norms `tail`; those norms."""
    squares = np.zeros((values.shape[0], values.shape[1] + 1))
    squares[:, :-1] = np.cumsum(values.astype(np.float64)[:, ::-1] ** 2, axis=1)[:, ::-1]
    left_out = np.sqrt(squares)  # (nb, k + 1): the norm of the values from j on
    ranks = (left_out[:, :-1] > tail[:, None]).sum(axis=1)
    if max_rank is not None:
        ranks = np.minimum(ranks, max_rank)
    return ranks, np.take_along_axis(left_out, ranks[:, None], axis=1)[:, 0]
