"""QR of a batch of blocks in array operations: Householder reflections of all blocks at once, by panels.

CuPy factors the blocks of a batch one after the other, with kernels for each. Here a reflection of
all blocks takes a dozen kernels, and what is right of a panel is updated by products of blocks.
"""

from __future__ import annotations

import numpy as np

from .._backend import adjoint, adjoint_times, cast, conj, identity_beside, like, namespace, numpy_dtype, zeros_beside
from .._typing import Array

# columns whose reflections are gathered before they are applied to the others
PANEL = 16


def householder(a: Array, *, complete: bool = False) -> tuple[Array, Array]:
    """Thin QR of a batch (nb, p, k), none of them 0: q (nb, p, min(p, k)), r (nb, min(p, k), k).

    With `complete`, q is (nb, p, p) and r (nb, p, k). The columns of q are orthonormal whatever the ranks are. Cost
    O(nb p k^2), some nb p k PANEL of it bound by memory.
    """
    xp = namespace(a)
    _, p, k = a.shape
    steps = min(p, k)
    scale = scales(a)
    work = a / scale
    panels = []
    for first in range(0, steps, PANEL):
        last = min(first + PANEL, steps)
        factored, vectors = _panel(work[:, first:, first:last])
        mixing = _mixing(vectors)
        work[:, first:, first:last] = factored
        if last < k:
            rest = work[:, first:, last:]
            seen = xp.matmul(adjoint(mixing), adjoint_times(vectors, rest))
            work[:, first:, last:] = rest - xp.matmul(vectors, seen)
        panels.append((first, vectors, mixing))
    return _unitary(panels, a, p if complete else steps), work[:, : p if complete else steps, :] * scale


def scales(a: Array) -> Array:
    """A power of two (nb, 1, 1) beside the largest entry of each block, so that no square overflows."""
    xp = namespace(a)
    largest = xp.max(xp.abs(a), axis=(1, 2), keepdims=True)
    tiny = float(np.finfo(numpy_dtype(a)).tiny)
    power = 2.0 ** xp.floor(xp.log2(xp.where(largest > tiny, largest, xp.ones_like(largest))))
    return cast(power, numpy_dtype(a))


def _panel(columns: Array) -> tuple[Array, Array]:
    """The triangular factor of some columns (nb, p, w), and the vectors u of the reflections I - u u^H that lead there.

    A vector has the squared norm 2, or 0 where nothing is to be reflected.
    """
    xp = namespace(columns)
    dtype = numpy_dtype(columns)
    tiny = float(np.finfo(dtype).tiny)
    done = xp.asarray(columns, copy=True)
    vectors = xp.zeros_like(done)
    for c in range(min(columns.shape[1:])):
        x = done[:, c:, c : c + 1]
        sizes = xp.sqrt(xp.sum(xp.real(x * conj(x)) if dtype.kind == "c" else x * x, axis=1, keepdims=True))
        first = x[:, :1, :]
        magnitude = xp.abs(first)
        one = xp.ones_like(magnitude)
        present = magnitude >= tiny
        phase = xp.where(present, first / cast(xp.where(present, magnitude, one), dtype), xp.ones_like(first))
        turned = phase * cast(sizes, dtype)
        lengths = sizes * (sizes + magnitude)  # half the squared norm of x + turned e_1
        regular = lengths > 0.0
        factor = xp.where(regular, one / xp.sqrt(xp.where(regular, lengths, one)), xp.zeros_like(one))
        u = xp.concat([first + turned, x[:, 1:, :]], axis=1) * cast(factor, dtype)
        if c + 1 < columns.shape[2]:
            rest = done[:, c:, c + 1 :]
            done[:, c:, c + 1 :] = rest - u * adjoint_times(u, rest)
        done[:, c : c + 1, c : c + 1] = -turned
        done[:, c + 1 :, c : c + 1] = xp.zeros_like(x[:, 1:, :])
        vectors[:, c:, c : c + 1] = u
    return done, vectors


def _mixing(vectors: Array) -> Array:
    """T (nb, w, w), with which the product of the reflections is I - V T V^H."""
    xp = namespace(vectors)
    width = vectors.shape[2]
    return xp.linalg.inv(xp.triu(adjoint_times(vectors, vectors), k=1) + identity_beside(width, vectors))


def _unitary(panels: list[tuple[int, Array, Array]], a: Array, count: int) -> Array:
    """The first columns of the product of all reflections."""
    xp = namespace(a)
    nb, p, _ = a.shape
    q = zeros_beside((nb, p, count), a) + like(np.eye(p, count, dtype=numpy_dtype(a)), a)
    for first, vectors, mixing in panels[::-1]:
        rest = q[:, first:, first:]
        q[:, first:, first:] = rest - xp.matmul(vectors, xp.matmul(mixing, adjoint_times(vectors, rest)))
    return q
