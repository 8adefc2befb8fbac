"""Preconditioned iteration for a factorisation that is not accurate enough by itself: all right-hand sides at once.

References: M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", J. Res. NBS 49 (1952)
409-436; Y. Saad, M. Schultz, "GMRES", SIAM J. Sci. Stat. Comput. 7 (1986) 856-869, here preconditioned from the right,
so that the residual that it minimises is that of the system. Each right-hand side has a Krylov space of its own; the
products with the matrix and the preconditioner are shared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._typing import NumpyArray

Product = Callable[[NumpyArray], NumpyArray]

# vectors of a Krylov space before GMRES starts anew
RESTART = 40


def relative_residuals(residual: NumpyArray, b: NumpyArray) -> NumpyArray:
    """The norms of the columns of the residual, relative to those of b; those of b = 0 absolutely."""
    sizes = np.linalg.norm(b, axis=0)
    relative: NumpyArray = np.linalg.norm(residual, axis=0) / np.where(sizes > 0, sizes, 1.0)
    return relative


def conjugate_gradients(
    product: Product, precondition: Product, b: NumpyArray, rtol: float, max_steps: int
) -> tuple[NumpyArray, float, int]:
    """Solve A x = b (n, k) for a Hermitian positive definite A and preconditioner.

    Returns x, the largest relative residual, computed from x, and the number of steps.
    """
    x = _started(product, precondition, b)
    residual = b - product(x)
    direction, size = np.zeros_like(x), np.ones(b.shape[1])
    step = 0
    while step < max_steps and relative_residuals(residual, b).max(initial=0.0) > rtol:
        improved = precondition(residual)
        new_size = _dots(residual, improved).real
        direction = improved + direction * (new_size / np.where(size > 0, size, 1.0) if step else 0.0)
        size = new_size
        image = product(direction)
        curvature = _dots(direction, image).real
        length = np.where(curvature > 0, size / np.where(curvature > 0, curvature, 1.0), 0.0)
        x = x + direction * length
        residual = residual - image * length
        step += 1
    return x, float(relative_residuals(b - product(x), b).max(initial=0.0)), step


def gmres(
    product: Product, precondition: Product, b: NumpyArray, rtol: float, max_steps: int
) -> tuple[NumpyArray, float, int]:
    """Solve A x = b (n, k) for any square A.

    Returns x, the largest relative residual, computed from x, and the number of steps.
    """
    x = _started(product, precondition, b)
    residual, steps = b - product(x), 0
    worst = float(relative_residuals(residual, b).max(initial=0.0))
    while steps < max_steps and worst > rtol:
        update, taken = _cycle(product, precondition, residual, rtol * np.linalg.norm(b, axis=0), max_steps - steps)
        x = x + update
        residual, steps = b - product(x), steps + taken
        before, worst = worst, float(relative_residuals(residual, b).max(initial=0.0))
        if worst > 0.9 * before:  # nothing more to be had in this precision
            break
    return x, worst, steps


def _started(product: Product, precondition: Product, b: NumpyArray) -> NumpyArray:
    """What the preconditioner makes of b, where that is better than zero."""
    x = precondition(b)
    better = relative_residuals(b - product(x), b) < 1.0
    started: NumpyArray = np.where(better, x, 0.0).astype(x.dtype)
    return started


def _cycle(
    product: Product, precondition: Product, residual: NumpyArray, targets: NumpyArray, limit: int
) -> tuple[NumpyArray, int]:
    """One cycle: the update of x from the Krylov spaces of the residuals (n, k), and the number of its steps."""
    most = min(RESTART, limit, len(residual))
    columns, sizes = residual.shape[1], np.linalg.norm(residual, axis=0)
    basis = [residual / np.where(sizes > 0, sizes, 1.0)]
    improved: list[NumpyArray] = []
    hessenberg = np.zeros((columns, most + 1, most), dtype=residual.dtype)
    for step in range(most):
        improved.append(precondition(basis[step]))
        image = product(improved[step])
        for _twice in range(2):  # once more, for orthogonality to rounding
            for j, vector in enumerate(basis):
                overlap = _dots(vector, image)
                hessenberg[:, j, step] += overlap
                image = image - vector * overlap
        length = np.linalg.norm(image, axis=0)
        hessenberg[:, step + 1, step] = length
        basis.append(image / np.where(length > 0, length, 1.0))
        weights, left = _least_squares(hessenberg[:, : step + 2, : step + 1], sizes)
        if (left <= targets).all():
            break
    update = sum((z * w for z, w in zip(improved, weights.T, strict=True)), np.zeros_like(residual))
    return update, len(improved)


def _least_squares(hessenberg: NumpyArray, sizes: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """For each right-hand side the y (k, steps) that minimises ||size e_1 - H y||, and the minimum."""
    weights = np.zeros((len(sizes), hessenberg.shape[2]), dtype=hessenberg.dtype)
    left = np.zeros(len(sizes))
    for column, (matrix, size) in enumerate(zip(hessenberg, sizes, strict=True)):
        target = np.zeros(len(matrix), dtype=matrix.dtype)
        target[0] = size
        weights[column] = np.linalg.lstsq(matrix, target, rcond=None)[0]
        left[column] = np.linalg.norm(target - matrix @ weights[column])
    return weights, left


def _dots(x: NumpyArray, y: NumpyArray) -> NumpyArray:
    """The inner products of the columns, (k,)."""
    products: NumpyArray = np.einsum("nk,nk->k", x.conj(), y)
    return products
