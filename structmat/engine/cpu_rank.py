"""Compiled kernels for the CPU: rank-revealing factorisation of a batch of small blocks, by rows.

Rows are contiguous, so the pivoting is over rows: M[order] = L Q with the rows of Q orthonormal, by modified
Gram-Schmidt with exact residual norms (each is recomputed where the row is updated anyway). L is as accurate as
Householder's; Q is never kept.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit


@jit
def pivoted_rows(blocks, tail, spent, noise, limit, lower, order, ranks, left, first, last):
    """Row-pivoted Gram-Schmidt of blocks[first:last] (p, s), overwritten, until the residual is small.

    That is, its norm is at most `tail` or, relative to the block's, at most `noise` (rounding: what is left then
    carries no information). Each rank uses up the share `spent` of the squared tolerance: with s random samples 1 / s,
    as what is left of the samples that a basis was fitted to underestimates what it leaves of others.

    lower (nb, p, limit): the factor by original rows; order (nb, p): pivots first; ranks (nb,); left (nb,): the norm of
    what is left.
    """
    rows, columns = blocks.shape[1], blocks.shape[2]
    for b in range(first, last):
        block, factor, sequence = blocks[b], lower[b], order[b]
        norms = np.zeros(rows, dtype=np.float64)
        total = 0.0
        for i in range(rows):
            sequence[i] = i
            s = 0.0
            for j in range(columns):
                v = block[i, j]
                s += v.real * v.real + v.imag * v.imag
            norms[i] = s
            total += s
            for j in range(limit):
                factor[i, j] = 0
        allowed, floor = tail[b] * tail[b], total * noise * noise
        rank, residual = 0, 0.0
        for k in range(limit + 1):
            residual, largest, pick = 0.0, -1.0, k
            for i in range(k, rows):
                s = norms[sequence[i]]
                residual += s
                if s > largest:
                    largest, pick = s, i
            if residual <= max(allowed * (1.0 - spent * k), floor) or k == limit:
                break
            sequence[k], sequence[pick] = sequence[pick], sequence[k]
            pivot = block[sequence[k]]
            length = np.sqrt(largest)
            scale = 1.0 / length
            for j in range(columns):
                pivot[j] = pivot[j] * scale
            factor[sequence[k], k] = length
            rank = k + 1
            for i in range(k + 1, rows):
                row = block[sequence[i]]
                c = row[0] * 0
                for j in range(columns):
                    c += row[j] * np.conj(pivot[j])
                factor[sequence[i], k] = c
                s = 0.0
                for j in range(columns):
                    v = row[j] - c * pivot[j]
                    row[j] = v
                    s += v.real * v.real + v.imag * v.imag
                norms[sequence[i]] = s
        ranks[b] = rank
        left[b] = np.sqrt(residual)


@jit
def interpolation(lower, order, ranks, rest, first, last):
    """Rest (nb, p - k, k): the rows order[k:] of X in M = X M[order[:k]], whose rows order[:k] are the identity.

    Where the rank is below k, rows that the tolerance did not ask for join the skeleton, and their columns are zero.
    """
    count, width = rest.shape[1:]
    for b in range(first, last):
        rank = ranks[b]
        for i in range(count):
            row = rest[b, i]
            known = lower[b, order[b, width + i]]
            for j in range(rank):
                row[j] = known[j]
            for j in range(rank, width):
                row[j] = 0
            for j in range(rank - 1, -1, -1):
                pivot = lower[b, order[b, j]]
                value = row[j] / pivot[j]
                row[j] = value
                for c in range(uint64(j)):
                    row[c] -= value * pivot[c]
