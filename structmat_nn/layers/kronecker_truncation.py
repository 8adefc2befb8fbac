"""Fewer terms in a sum of Kronecker products: a low-rank problem in the space of the factors.

References: C. F. Van Loan, N. Pitsianis, "Approximation with Kronecker products", 1993 (two modes);
T. G. Kolda, B. W. Bader, SIAM Review 51 (2009) 455-500, section 3.4 (alternating least squares).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from structmat._typing import NumpyArray

SWEEPS, _LOOK = 200, 10
# operations of all attempts with alternating least squares: some ten seconds
_EFFORT = 4e10
_FEW_SLICES = 16
_GRAM_TERMS = 4096
_VISIBLE = 1e-6  # relative size of singular values that a Gram matrix shows


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
    """Few terms: as many as alternating least squares need, or those of the slices of a small mode."""
    size = _difference(c, [a[:, :0] for a in c])
    if size == 0.0:
        return [a[:, :1] * 0.0 for a in c], 0.0
    norms = np.prod([np.linalg.norm(a, axis=0) for a in c], axis=0)
    c = [a[:, norms > 1e-16 * size] for a in c]  # products with zeros, as of a layer that starts as the identity
    given, goal = c, rtol * size
    sliced = _by_slices(c, 0.5 * goal)
    if sliced is not None and sliced[0].shape[1] < c[0].shape[1]:
        c, goal = sliced, goal - _difference(c, sliced)
    terms = c[0].shape[1]
    cap = terms if max_terms is None else min(max_terms, terms)
    found, tried = c, [a[:, :0] for a in c]
    count, effort = min(_fewest(c, rtol), cap), _EFFORT
    while count < terms:
        last = count == cap  # a number that was asked for gets the best there is, however far that is from the goal
        tried, error, spent = _alternating(c, _grown(c, tried, count), goal, np.inf if last else effort)
        effort -= spent
        if error <= goal or last:
            found = tried
            break
        count = min(max(count + 1, count * 5 // 4), cap, terms)
        if effort <= 0.0:  # the search costs more than what fewer terms would save
            count = cap
    return found, (0.0 if found is given else _difference(given, found) / size)


def _by_slices(c: list[NumpyArray], goal: float) -> list[NumpyArray] | None:
    """The terms of singular value decompositions along a small one of three modes, as channels are; None for others."""
    small = int(np.argmin([len(a) for a in c]))
    if len(c) != 3 or len(c[small]) > _FEW_SLICES:
        return None
    one, other = (c[j] for j in range(3) if j != small)
    # rotated so that the slices are orthogonal to each other, and most of the sum is in the first ones
    slices = np.stack([(one * row) @ other.T for row in c[small]])  # (s, p, q)
    rotation = np.linalg.svd(slices.reshape(len(slices), -1), full_matrices=False)[0]
    u, values, vt = np.linalg.svd(np.einsum("sr,spq->rpq", rotation, slices), full_matrices=False)
    order = np.argsort(values, axis=None)  # ascending
    tails = np.sqrt(np.cumsum(np.sort(values, axis=None) ** 2))
    kept = order[int(np.searchsorted(tails, goal, side="right")) :][::-1]
    piece, number = np.unravel_index(kept, values.shape)
    root = np.sqrt(values[piece, number])
    found = [rotation[:, piece], u[piece, :, number].T * root, vt[piece, number].T * root]
    return [found[0], *found[1:]] if small == 0 else [*found[1:][:small], found[0], *found[1:][small:]]


def _fewest(c: list[NumpyArray], rtol: float) -> int:
    """No approximation has fewer terms than the largest rank of an unfolding, as far as its Gram matrix shows it."""
    terms = c[0].shape[1]
    if terms > _GRAM_TERMS:
        return 1
    needed = 1
    for mode, own in enumerate(c):
        rest = [a for j, a in enumerate(c) if j != mode]
        squares = np.linalg.eigvalsh(own @ _gram(rest, rest) @ own.T)
        visible = np.cumsum(np.maximum(squares, 0.0))
        needed = max(needed, int((visible > max(rtol, _VISIBLE) ** 2 * visible[-1]).sum()))
    return needed


def _grown(c: list[NumpyArray], previous: list[NumpyArray], count: int) -> list[NumpyArray]:
    """The terms found before, and given terms that they and each other explain least: a pivoted Cholesky factor."""
    have, norms = previous[0].shape[1], np.prod([np.linalg.norm(a, axis=0) for a in c], axis=0)
    values, vectors = np.linalg.eigh(_gram(previous, previous))
    independent = values > 1e-12 * values.max(initial=0.0)
    explained = _gram(c, previous) @ (vectors[:, independent] / np.sqrt(values[independent]))
    known = explained.shape[1]
    lower = np.concatenate([explained, np.zeros((len(norms), count - have))], axis=1)
    left = norms**2 - np.sum(explained**2, axis=1)
    chosen = []
    for k in range(known, known + count - have):
        pivot = int(np.argmax(left))
        chosen.append(pivot)
        column = _gram(c, [a[:, pivot : pivot + 1] for a in c])[:, 0] - lower[:, :k] @ lower[pivot, :k]
        lower[:, k] = column / np.sqrt(max(left[pivot], np.finfo(np.float64).tiny))
        left -= lower[:, k] ** 2
        left[pivot] = -np.inf
    return [np.concatenate([p, a[:, chosen]], axis=1) for p, a in zip(previous, c, strict=True)]


def _gram(a: list[NumpyArray], b: list[NumpyArray]) -> NumpyArray:
    """Inner products of the rank-one terms, (terms of a, terms of b)."""
    product = np.ones((a[0].shape[1], b[0].shape[1]))
    for p, q in zip(a, b, strict=True):
        product = product * (p.T @ q)
    return product


def _alternating(
    c: list[NumpyArray], guess: list[NumpyArray], goal: float, effort: float
) -> tuple[list[NumpyArray], float, float]:
    """Alternating least squares from `guess`, until the error is at most `goal` or will not be; with what they cost.

    With an infinite effort until it stands still.
    """
    current = [a.copy() for a in guess]
    best, best_error = current, _difference(c, current)
    terms, count = c[0].shape[1], guess[0].shape[1]
    each = sum(4.0 * terms * count * len(a) for a in c) + 30.0 * len(c) * count**3  # operations of a sweep
    for sweep in range(SWEEPS):
        _sweep(c, current)
        if sweep % _LOOK == _LOOK - 1:
            error = _difference(c, current)
            gain = error / best_error if best_error > 0.0 else 1.0
            if error < best_error:
                best, best_error = [a.copy() for a in current], error
            hopeless = np.isfinite(effort) and best_error * gain ** ((SWEEPS - sweep) / _LOOK) > goal
            if best_error <= goal or gain > 0.97 or hopeless or (sweep + 1) * each > effort:
                break
    return best, best_error, (sweep + 1) * each


def _sweep(c: list[NumpyArray], current: list[NumpyArray]) -> None:
    """Solve for each mode in turn, in place."""
    for mode in range(len(c)):
        rest = [j for j in range(len(c)) if j != mode]
        mixed = _gram([c[j] for j in rest], [current[j] for j in rest])  # (K, count)
        own = _gram([current[j] for j in rest], [current[j] for j in rest])  # (count, count)
        current[mode] = c[mode] @ np.linalg.lstsq(own, mixed.T, rcond=1e-14)[0].T
        if mode < len(c) - 1:  # columns of norm one: no mode grows while another shrinks
            current[mode] = current[mode] / np.maximum(np.linalg.norm(current[mode], axis=0), 1e-300)


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
