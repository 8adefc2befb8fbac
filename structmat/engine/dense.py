"""Batched dense linear algebra in one vocabulary: NumPy's shared by our threads, other libraries' as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._backend import (
    adjoint,
    factors_one_by_one,
    is_numpy,
    like,
    namespace,
    numpy_dtype,
    one_blas_thread,
    parallel_ranges,
    parallel_tasks,
    real_dtype,
    to_numpy,
    zeros_beside,
)
from .._typing import Array, NumpyArray
from . import batched_qr, batched_svd

# below this many bytes one thread is done before a second has been woken
SERIAL_BYTES = 1 << 18
# pieces of a batch that stay in a core's cache
PIECE_NUMBERS = 1 << 16
# from so many blocks on, array operations on all of them are ahead of a library that takes one after the other
BATCH = 8
# up to so many rows and columns, every library decomposes all blocks of a batch at once
JACOBI_SIZE = 32


def matmul(a: Array, b: Array, *, add_to: NumpyArray | None = None) -> Array:
    """A @ b over a batch; with `add_to` (NumPy only), added there."""
    if not is_numpy(a):
        return namespace(a, b).matmul(a, b)
    if a.nbytes + b.nbytes < SERIAL_BYTES and add_to is None:
        return np.matmul(a, b)
    shape = (a.shape[0], a.shape[1], b.shape[2])
    out = np.empty(shape, dtype=np.result_type(a, b)) if add_to is None else add_to
    numbers = a.shape[1] * a.shape[2] + b.shape[1] * b.shape[2] + shape[1] * shape[2]
    piece = max(1, PIECE_NUMBERS // max(1, numbers))

    def work(k: int) -> None:
        s = slice(k * piece, (k + 1) * piece)
        if add_to is None:
            np.matmul(a[s], b[s], out=out[s])
        else:
            out[s] += a[s] @ b[s]

    pieces = -(-shape[0] // piece)
    with one_blas_thread():
        parallel_tasks(work, pieces)
    return out


def _by_ranges(function: Callable[[NumpyArray], Any], a: NumpyArray) -> list[Any]:
    """`function` on parts of a batch, a part a thread; the results in order."""
    results: dict[int, Any] = {}

    def work(start: int, stop: int) -> None:
        results[start] = function(a[start:stop])

    with one_blas_thread():
        parallel_ranges(work, len(a), serial=a.nbytes < SERIAL_BYTES)
    return [results[start] for start in sorted(results)]


def _zeros(shape: tuple[int, ...], a: Array) -> Array:
    return np.zeros(shape, a.dtype) if is_numpy(a) else zeros_beside(shape, a)


def qr(a: Array) -> tuple[Array, Array]:
    """Thin QR of a batch (nb, p, k): q (nb, p, min(p, k)), r (nb, min(p, k), k)."""
    if 0 in a.shape:
        small = min(a.shape[1:])
        return _zeros((*a.shape[:2], small), a), _zeros((a.shape[0], small, a.shape[2]), a)
    if not is_numpy(a):
        return _qr_there(a)
    parts = _by_ranges(np.linalg.qr, a)
    return np.concatenate([q for q, _ in parts]), np.concatenate([r for _, r in parts])


def _qr_there(a: Array, *, complete: bool = False) -> tuple[Array, Array]:
    """QR in another library; where its factors are not finite (numbers so small that they underflow), by our own."""
    if _all_at_once(a):
        return batched_qr.householder(a, complete=complete)
    xp = namespace(a)
    q, r = xp.linalg.qr(a, mode="complete" if complete else "reduced")
    regular = xp.all(xp.isfinite(q)) & xp.all(xp.isfinite(r))
    return (q, r) if bool(regular) else batched_qr.householder(a, complete=complete)


def _all_at_once(a: Array) -> bool:
    return a.shape[0] >= BATCH and factors_one_by_one(a)


def triangular_factor(a: Array) -> Array:
    """R of the thin QR of a batch (nb, p, k)."""
    if 0 in a.shape or not is_numpy(a):
        return qr(a)[1]
    return np.concatenate(_by_ranges(lambda part: np.linalg.qr(part, mode="r"), a))


def complete_qr(a: Array) -> tuple[Array, Array]:
    """Full QR of a batch (nb, p, k): q (nb, p, p), r (nb, p, k)."""
    if 0 in a.shape:
        eye = np.broadcast_to(np.eye(a.shape[1], dtype=numpy_dtype(a)), (a.shape[0], a.shape[1], a.shape[1]))
        return like(eye, a), a
    if not is_numpy(a):
        return _qr_there(a, complete=True)
    parts = _by_ranges(lambda part: np.linalg.qr(part, mode="complete"), a)
    return np.concatenate([q for q, _ in parts]), np.concatenate([r for _, r in parts])


def left_singular(a: Array) -> tuple[Array, NumpyArray]:
    """Left singular vectors (nb, p, min(p, k)) and, always NumPy's, singular values of a batch."""
    if 0 in a.shape:
        small = min(a.shape[1:])
        return _zeros((*a.shape[:2], small), a), np.zeros((a.shape[0], small))
    if not is_numpy(a):  # of the triangular factor: batched decompositions of small matrices are what devices have
        xp = namespace(a)
        if _all_at_once(a) and min(a.shape[1:]) > JACOBI_SIZE:
            return batched_svd.jacobi_left(a)
        q, r = _qr_there(a)
        u, s, _ = xp.linalg.svd(r, full_matrices=False)
        return xp.matmul(q, u), to_numpy(s)
    parts = _by_ranges(lambda part: np.linalg.svd(part, full_matrices=False)[:2], a)
    return np.concatenate([u for u, _ in parts]), np.concatenate([s for _, s in parts])


def svd(a: Array) -> tuple[Array, NumpyArray, Array]:
    """Thin singular value decompositions of a batch (nb, p, k): u (nb, p, m), s (nb, m), NumPy's, v^H (nb, m, k)."""
    if 0 in a.shape:
        small = min(a.shape[1:])
        u, v = _zeros((*a.shape[:2], small), a), _zeros((a.shape[0], small, a.shape[2]), a)
        return u, np.zeros((a.shape[0], small), real_dtype(numpy_dtype(a))), v
    if not is_numpy(a):
        return _svd_there(a)
    parts = _by_ranges(lambda part: np.linalg.svd(part, full_matrices=False), a)
    u, s, v = (np.concatenate([part[k] for part in parts]) for k in range(3))
    return u, s, v


def _svd_there(a: Array) -> tuple[Array, NumpyArray, Array]:
    """Thin singular value decompositions in another library."""
    if not _all_at_once(a):
        left, values, right = namespace(a).linalg.svd(a, full_matrices=False)
        return left, to_numpy(values), right
    if min(a.shape[1:]) > JACOBI_SIZE:
        return batched_svd.jacobi(a)
    if a.shape[1] < a.shape[2]:
        left, values, right = _svd_there(adjoint(a))
        return adjoint(right), values, adjoint(left)
    q, r = batched_qr.householder(a)  # a square factor is small enough to be decomposed with all the others
    left, values, right = namespace(a).linalg.svd(r, full_matrices=False)
    return namespace(a).matmul(q, left), to_numpy(values), right


def solve(a: NumpyArray, b: NumpyArray) -> NumpyArray:
    """Solutions of a batch of square systems."""
    out = np.empty(b.shape, dtype=np.result_type(a, b))
    if not out.size:
        return out

    def work(start: int, stop: int) -> None:
        out[start:stop] = np.linalg.solve(a[start:stop], b[start:stop])

    with one_blas_thread():
        parallel_ranges(work, len(a), serial=a.nbytes < SERIAL_BYTES)
    return out


def cholesky(a: NumpyArray) -> NumpyArray:
    """Lower Cholesky factors of a batch; LinAlgError where a block is not positive definite."""
    out = np.empty_like(a)
    piece = max(1, PIECE_NUMBERS // max(1, a.shape[1] ** 2))

    def work(k: int) -> None:
        s = slice(k * piece, (k + 1) * piece)
        out[s] = np.linalg.cholesky(a[s])

    if a.size:
        with one_blas_thread():
            parallel_tasks(work, -(-len(a) // piece))
    return out
