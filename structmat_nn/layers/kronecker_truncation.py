"""Fewer terms in a sum of Kronecker products: a low-rank problem in the space of the factors.

References: C. F. Van Loan, N. Pitsianis, "Approximation with Kronecker products", 1993 (two modes);
T. G. Kolda, B. W. Bader, SIAM Review 51 (2009) 455-500, section 3.4 (alternating least squares).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from structmat._typing import NumpyArray

SWEEPS = 200


def fewest_terms(factors: Sequence[NumpyArray], rtol: float, max_terms: int | None) -> tuple[list[NumpyArray], float]:
    """The factors of an approximation with few terms, and its relative Frobenius error."""
    terms = len(factors[0])
    if len(factors) == 1:
        return [factors[0].sum(axis=0, keepdims=True)], 0.0
    frames, coefficients = [], []
    for f in factors:  # vec of the factors: (p n, K) = frame (p n, s) @ coefficients (s, K)
        frame, triangle = np.linalg.qr(f.reshape(terms, -1).T)
        frames.append(frame)
        coefficients.append(triangle)
    if len(factors) == 2:
        reduced, error = _two_modes(coefficients, rtol, max_terms)
    else:
        reduced, error = _many_modes(coefficients, rtol, max_terms)
    shapes = [f.shape[1:] for f in factors]
    out = [(q @ c).T.reshape(-1, *shape) for q, c, shape in zip(frames, reduced, shapes, strict=True)]
    return out, error


def _two_modes(c: list[NumpyArray], rtol: float, max_terms: int | None) -> tuple[list[NumpyArray], float]:
    u, s, vt = np.linalg.svd(c[0] @ c[1].T)
    tails = np.sqrt(np.cumsum(s[::-1] ** 2))[::-1]  # the error of keeping k terms is tails[k]
    tails = np.append(tails, 0.0)
    size = tails[0]
    if size == 0.0:
        return [a[:, :1] * 0.0 for a in c], 0.0
    count = max(int(np.argmax(tails <= rtol * size)), 1)
    count = min(count, max_terms or count)
    root = np.sqrt(s[:count])
    return [u[:, :count] * root, vt[:count].T * root], float(tails[count] / size)


# ------------------------------------------------------------------------------ three modes and more


def _many_modes(c: list[NumpyArray], rtol: float, max_terms: int | None) -> tuple[list[NumpyArray], float]:
    """As many terms as needed, by growing the number of them; all of them where fewer do not do."""
    size = _difference(c, [a[:, :0] for a in c])
    if size == 0.0:
        return [a[:, :1] * 0.0 for a in c], 0.0
    norms = np.prod([np.linalg.norm(a, axis=0) for a in c], axis=0)
    c = [a[:, norms > 1e-16 * size] for a in c]  # products with zeros, as of a layer that starts as the identity
    terms = c[0].shape[1]
    cap = terms if max_terms is None else min(max_terms, terms)
    tried: list[NumpyArray] = []
    count = 1
    while count < terms:
        guess = _grown(c, tried, count)
        tried, error = _alternating(c, guess, rtol * size)
        if error <= rtol * size or count == cap:
            return tried, error / size
        count = min(max(count + 1, count * 5 // 4), cap, terms)
    return c, 0.0


def _grown(c: list[NumpyArray], previous: list[NumpyArray], count: int) -> list[NumpyArray]:
    """The terms found before, and of the given terms the largest that they explain least."""
    if not previous:
        previous = [a[:, :0] for a in c]
    have = previous[0].shape[1]
    norms = np.prod([np.linalg.norm(a, axis=0) for a in c], axis=0)
    explained = _gram(c, previous)  # (K, have): inner products of the terms
    own = np.prod([np.linalg.norm(a, axis=0) for a in previous], axis=0)
    cosine = np.abs(explained) / np.maximum(norms[:, None] * own[None], 1e-300)
    score = norms * np.sqrt(np.maximum(1.0 - cosine.max(axis=1, initial=0.0) ** 2, 0.0))
    chosen = np.argsort(-score)[: count - have]
    return [np.concatenate([p, a[:, chosen]], axis=1) for p, a in zip(previous, c, strict=True)]


def _gram(a: list[NumpyArray], b: list[NumpyArray]) -> NumpyArray:
    """Inner products of the rank-one terms, (terms of a, terms of b)."""
    product = np.ones((a[0].shape[1], b[0].shape[1]))
    for p, q in zip(a, b, strict=True):
        product = product * (p.T @ q)
    return product


def _alternating(c: list[NumpyArray], guess: list[NumpyArray], goal: float) -> tuple[list[NumpyArray], float]:
    """Alternating least squares from `guess` until the error is at most `goal` or stands still."""
    current = [a.copy() for a in guess]
    best, best_error = current, _difference(c, current)
    for sweep in range(SWEEPS):
        for mode in range(len(c)):
            rest = [j for j in range(len(c)) if j != mode]
            mixed = _gram([c[j] for j in rest], [current[j] for j in rest])  # (K, count)
            own = _gram([current[j] for j in rest], [current[j] for j in rest])  # (count, count)
            current[mode] = c[mode] @ np.linalg.lstsq(own, mixed.T, rcond=1e-14)[0].T
            if mode < len(c) - 1:  # columns of norm one: no mode grows while another shrinks
                current[mode] = current[mode] / np.maximum(np.linalg.norm(current[mode], axis=0), 1e-300)
        if sweep % 10 == 9:
            error = _difference(c, current)
            stands_still = error > 0.97 * best_error
            if error < best_error:
                best, best_error = [a.copy() for a in current], error
            if best_error <= goal or stands_still:
                break
    return best, best_error


def _difference(a: list[NumpyArray], b: list[NumpyArray]) -> float:
    """Frobenius norm of the difference of two sums of rank-one tensors, slice by slice and without cancellation."""
    tail_a, tail_b = _khatri_rao(a[1:]), _khatri_rao(b[1:])  # (rest, terms)
    total = 0.0
    for row_a, row_b in zip(a[0], b[0], strict=True):
        total += float(np.sum((tail_a @ row_a - tail_b @ row_b) ** 2))
    return float(np.sqrt(total))


def _khatri_rao(factors: list[NumpyArray]) -> NumpyArray:
    product = factors[0]
    for f in factors[1:]:
        product = (product[:, None, :] * f[None, :, :]).reshape(len(product) * len(f), f.shape[1])
    return product
