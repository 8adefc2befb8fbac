"""Preconditioned iteration: conjugate gradients and GMRES for all right-hand sides at once.

References: M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", J. Res. NBS 49 (1952)
409-436; Y. Saad, M. Schultz, "GMRES", SIAM J. Sci. Stat. Comput. 7 (1986) 856-869, here preconditioned from the right,
so that the residual that it minimises is that of the system. Each right-hand side has a Krylov space of its own; the
products with the matrix and the preconditioner are shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._typing import NumpyArray

Product = Callable[[NumpyArray], NumpyArray]

# vectors of a Krylov space before GMRES starts anew
RESTART = 40
# begun again from its true residual, an iteration must reduce that at least so much, or it has all that it can get
STALLED = 0.9


@dataclass(frozen=True)
class Iteration:
    """What an iteration came to.

    Attributes
    ----------
    x : (n, k) array
        The solutions.
    residuals : list of float
        The largest relative residual before each step and after the last one; the last one is computed from x.
    indefinite : {"", "matrix", "preconditioner"}
        What conjugate gradients found not to be positive definite, and stopped at.
    """

    x: NumpyArray
    residuals: list[float]
    indefinite: str = ""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.residuals) - 1

    @property
    def residual(self) -> float:
        """The largest relative residual, computed from x."""
        return self.residuals[-1]


def relative_residuals(residual: NumpyArray, b: NumpyArray) -> NumpyArray:
    """The norms of the columns of the residual, relative to those of b; those of b = 0 absolutely."""
    sizes = np.linalg.norm(b, axis=0)
    relative: NumpyArray = np.linalg.norm(residual, axis=0) / np.where(sizes > 0, sizes, 1.0)
    return relative


def conjugate_gradients(
    product: Product, precondition: Product, b: NumpyArray, rtol: float, max_steps: int,
    watch: Callable[[float], None] | None = None,
) -> Iteration:  # fmt: skip
    """Solve A x = b (n, k) for a Hermitian positive definite A and preconditioner; `watch` is told each residual.

    Where a direction of negative curvature shows that one of them is not positive definite, it stops and says so.
    """
    x = _started(product, precondition, b)
    residuals = [_largest(b - product(x), b)]
    before, indefinite = np.inf, ""
    while rtol < residuals[-1] <= STALLED * before and len(residuals) <= max_steps and not indefinite:
        before = residuals[-1]
        x, indefinite = _descended(product, precondition, b, x, rtol, max_steps, residuals, watch)
        residuals[-1] = _largest(b - product(x), b)
    return Iteration(x, residuals, indefinite)


def _descended(
    product: Product, precondition: Product, b: NumpyArray, x: NumpyArray, rtol: float, max_steps: int,
    residuals: list[float], watch: Callable[[float], None] | None,
) -> tuple[NumpyArray, str]:  # fmt: skip
    """Conjugate gradients from x until the residual, updated in each step, is small; and what was not definite."""
    residual = b - product(x)
    direction, size = np.zeros_like(residual), np.ones(b.shape[1])
    active = relative_residuals(residual, b) > rtol
    while active.any() and len(residuals) <= max_steps:
        improved = precondition(residual)
        new_size = _dots(residual, improved).real
        if (new_size[active] <= 0.0).any():
            return x, "preconditioner"
        direction = np.where(active, improved + direction * np.where(active, new_size / size, 0.0), 0.0)
        size = np.where(active, new_size, 1.0)
        image = product(direction)
        curvature = _dots(direction, image).real
        if (curvature[active] <= 0.0).any():
            return x, "matrix"
        length = np.where(active, size / np.where(active, curvature, 1.0), 0.0)
        x = x + direction * length
        residual = residual - image * length
        relative = relative_residuals(residual, b)
        active = relative > rtol
        _record(residuals, float(relative.max(initial=0.0)), watch)
    return x, ""


def gmres(
    product: Product, precondition: Product, b: NumpyArray, rtol: float, max_steps: int,
    watch: Callable[[float], None] | None = None,
) -> Iteration:  # fmt: skip
    """Solve A x = b (n, k) for any square A; `watch` is told each residual."""
    x = _started(product, precondition, b)
    residual = b - product(x)
    residuals, before = [_largest(residual, b)], np.inf
    while rtol < residuals[-1] <= STALLED * before and len(residuals) <= max_steps:
        before = residuals[-1]
        x = x + _cycle(product, precondition, residual, b, rtol, max_steps, residuals, watch)
        residual = b - product(x)
        residuals[-1] = _largest(residual, b)
    return Iteration(x, residuals)


def _largest(residual: NumpyArray, b: NumpyArray) -> float:
    return float(relative_residuals(residual, b).max(initial=0.0))


def _record(residuals: list[float], residual: float, watch: Callable[[float], None] | None) -> None:
    residuals.append(residual)
    if watch is not None:
        watch(residual)


def _started(product: Product, precondition: Product, b: NumpyArray) -> NumpyArray:
    """What the preconditioner makes of b, where that is better than zero."""
    x = precondition(b)
    better = relative_residuals(b - product(x), b) < 1.0
    started: NumpyArray = np.where(better, x, 0.0).astype(x.dtype)
    return started


def _cycle(
    product: Product, precondition: Product, residual: NumpyArray, b: NumpyArray, rtol: float, max_steps: int,
    residuals: list[float], watch: Callable[[float], None] | None,
) -> NumpyArray:  # fmt: skip
    """One cycle: the update of x from the Krylov spaces of the residuals (n, k)."""
    most = min(RESTART, max_steps + 1 - len(residuals), len(residual))
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
        _record(residuals, _largest(left[None], b), watch)
        if residuals[-1] <= rtol:
            break
    return sum((z * w for z, w in zip(improved, weights.T, strict=True)), np.zeros_like(residual))


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


def product_of(operator: Any) -> Any:
    """The function that multiplies with blocks (n, k) of vectors."""
    for name in ("matmat", "__matmul__"):
        if hasattr(operator, name):
            return getattr(operator, name)
    if hasattr(operator, "matvec"):
        return lambda x: np.stack([np.asarray(operator.matvec(c)).reshape(-1) for c in x.T], axis=1)
    raise TypeError(f"operator of type {type(operator).__name__} has neither matmat, matvec nor @")
