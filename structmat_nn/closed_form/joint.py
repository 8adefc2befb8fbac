"""All generators at once: damped Gauss-Newton steps for samples of both sides, whose halves pull at the same bases.

With samples of the adjoint, or of a Hermitian operator, a basis acts on rows and on columns, and least squares for one
level over one side alone undoes what the other side has found. So the outputs are linearised in all generators, and the
step is the solution of that least-squares problem by LSMR, with products alone.

References: D. C.-L. Fong, M. Saunders, SIAM J. Sci. Comput. 33 (2011) 2950-2971 (LSMR); J. Nocedal, S. Wright,
Numerical Optimization, Springer, 2006, section 10.3 (Levenberg-Marquardt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg as spla
import torch

from structmat._typing import NumpyArray

INNER_STEPS = 80  # of LSMR
FIRST_DAMPING = 1e-3  # relative to the size of the Jacobian
GAIN = 1e-3  # a step that gains less than this share of the objective is the last
TRIES = 6  # dampings that a step may be refused with


@dataclass(frozen=True)
class Problem:
    """Leaf blocks of inputs and outputs of both sides; one side serves both when `symmetric`."""

    x: torch.Tensor  # (leaves, q, s)
    y: torch.Tensor  # (leaves, p, s)
    g: torch.Tensor | None  # (leaves, p, s')
    w: torch.Tensor | None  # (leaves, q, s')

    @property
    def symmetric(self) -> bool:
        """Whether the operator is Hermitian."""
        return self.g is None or self.w is None

    def residual(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """All misfits, as one vector."""
        levels = _levels(parameters, self.symmetric)
        forward = _apply(levels, self.x, adjointly=False) - self.y
        if self.g is None or self.w is None:
            return forward.reshape(-1)
        backward = _apply(levels, self.g, adjointly=True) - self.w
        return torch.cat([forward.reshape(-1), backward.reshape(-1)])


Level = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _levels(parameters: Sequence[torch.Tensor], symmetric: bool) -> list[Level]:
    """(block, u, v) by level from the leaves, and (root, root, root) at the end."""
    if symmetric:
        sides = [(b, u, u) for b, u in zip(parameters[:-1:2], parameters[1:-1:2], strict=True)]
        sides.append((parameters[-1],) * 3)
        return [(0.5 * (b + b.mT), u, v) for b, u, v in sides]
    inner = zip(parameters[:-1:3], parameters[1:-1:3], parameters[2:-1:3], strict=True)
    return [*inner, (parameters[-1],) * 3]


def _apply(levels: list[Level], x: torch.Tensor, *, adjointly: bool) -> torch.Tensor:
    """Apply block x + u (pairs of children) v^T x, level upon level."""
    if adjointly:
        levels = [(b.mT, v, u) for b, u, v in levels]
    going_up = [x]
    for _, _, v in levels[:-1]:
        below = v.mT @ going_up[-1]
        going_up.append(below.reshape(len(below) // 2, 2 * below.shape[1], below.shape[2]))
    result = levels[-1][0] @ going_up[-1]
    for (block, u, _), below in zip(levels[-2::-1], going_up[-2::-1], strict=True):
        result = block @ below + u @ result.reshape(2 * len(result), result.shape[1] // 2, result.shape[2])
    return result


def descend(start: Sequence[NumpyArray], problem: Problem, steps: int) -> list[NumpyArray]:
    """Generators with a smaller sum of squared misfits, by at most `steps` damped Gauss-Newton steps.

    Parameters
    ----------
    start : sequence of arrays
        By level from the leaves block and basis (and column basis unless the problem is symmetric); then the root's
        block.
    problem : Problem
        What they are to fit.
    steps : int
        At most so many; each costs about `INNER_STEPS` products with all samples, forward and backward.
    """
    current = [torch.from_numpy(np.ascontiguousarray(a)) for a in start]
    misfit = problem.residual(current)
    objective, damping = float(misfit @ misfit), FIRST_DAMPING
    for _ in range(steps):
        for _ in range(TRIES):
            candidate = _moved(current, _step(problem, current, misfit, damping))
            new = problem.residual(candidate)
            reached = float(new @ new)
            if reached < objective:
                break
            damping *= 10.0
        else:
            break
        gained, current, misfit, objective = objective - reached, candidate, new, reached
        damping *= 0.2
        if gained < GAIN * (objective + gained):
            break
    return [a.numpy() for a in current]


def _step(problem: Problem, current: list[torch.Tensor], misfit: torch.Tensor, damping: float) -> NumpyArray:
    primals = tuple(current)

    def residual(*parameters: torch.Tensor) -> torch.Tensor:
        return problem.residual(parameters)

    _, pull = torch.func.vjp(residual, *primals)
    count = sum(a.numel() for a in primals)

    def forward(direction: NumpyArray) -> NumpyArray:
        tangents = tuple(_split(torch.from_numpy(direction.reshape(-1)), primals))
        return np.asarray(torch.func.jvp(residual, primals, tangents)[1])

    def backward(direction: NumpyArray) -> NumpyArray:
        return np.asarray(torch.cat([a.reshape(-1) for a in pull(torch.from_numpy(direction.reshape(-1)))]))

    jacobian = spla.LinearOperator((misfit.numel(), count), matvec=forward, rmatvec=backward, dtype=np.float64)
    # the size of the Jacobian in the direction of steepest descent
    slope = backward(misfit.numpy())
    size = float(np.linalg.norm(forward(slope)) / max(float(np.linalg.norm(slope)), np.finfo(np.float64).tiny))
    return np.asarray(
        spla.lsmr(jacobian, -misfit.numpy(), damp=damping * size, atol=1e-10, btol=1e-10, maxiter=INNER_STEPS)[0]
    )


def _split(vector: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    parts = torch.split(vector, [a.numel() for a in like])
    return [part.reshape(a.shape) for part, a in zip(parts, like, strict=True)]


def _moved(current: list[torch.Tensor], step: NumpyArray) -> list[torch.Tensor]:
    return [a + d for a, d in zip(current, _split(torch.from_numpy(step), current), strict=True)]
