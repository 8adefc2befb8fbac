"""All generators at once: damped Gauss-Newton steps for samples of both sides, whose halves pull at the same bases.

With samples of the adjoint, or of a Hermitian operator, a basis acts on rows and on columns, and least squares for one
level over one side alone undoes what the other side has found. So the outputs are linearised in all generators, and the
step is the solution of that least-squares problem by LSMR, with products alone.

References: D. C.-L. Fong, M. Saunders, SIAM J. Sci. Comput. 33 (2011) 2950-2971 (LSMR); J. Nocedal, S. Wright,
Numerical Optimization, Springer, 2006, section 10.3 (Levenberg-Marquardt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg as spla

from structmat._typing import NumpyArray
from structmat.hss.generators import halves, pairs

INNER_STEPS = 80  # of LSMR
FIRST_DAMPING = 1e-3  # relative to the size of the Jacobian
GAIN = 1e-3  # a step that gains less than this share of the objective is the last
TRIES = 6  # dampings that a step may be refused with


@dataclass(frozen=True)
class Telescope:
    """A real matrix as block + u (pairs of children) v^T, level upon level from the leaves, and the root's block."""

    blocks: tuple[NumpyArray, ...]  # (nb, p, q) by level
    u: tuple[NumpyArray, ...]  # (nb, p, k)
    v: tuple[NumpyArray, ...]  # (nb, q, k'); the same objects as u when symmetric
    root: NumpyArray  # (1, p, q)

    @property
    def symmetric(self) -> bool:
        """Whether rows and columns share their bases; the blocks are then symmetric too."""
        return self.u is self.v

    @property
    def adjoint(self) -> Telescope:
        """The telescope of A^T."""
        return Telescope(tuple(b.mT for b in self.blocks), self.v, self.u, self.root.mT)

    def pack(self) -> NumpyArray:
        """All numbers as one vector: blocks, u, v unless symmetric, root."""
        sides = (*self.blocks, *self.u) if self.symmetric else (*self.blocks, *self.u, *self.v)
        return np.concatenate([a.ravel() for a in (*sides, self.root)])

    def like(self, vector: NumpyArray) -> Telescope:
        """The telescope of the same sizes with other numbers; its blocks made symmetric where these are."""
        count = len(self.blocks)
        sides = (*self.blocks, *self.u) if self.symmetric else (*self.blocks, *self.u, *self.v)
        ends = np.cumsum([a.size for a in (*sides, self.root)])[:-1]
        parts = [p.reshape(a.shape) for p, a in zip(np.split(vector, ends), (*sides, self.root), strict=True)]
        blocks, u, root = tuple(parts[:count]), tuple(parts[count : 2 * count]), parts[-1]
        if not self.symmetric:
            return Telescope(blocks, u, tuple(parts[2 * count : 3 * count]), root)
        return Telescope(tuple(0.5 * (b + b.mT) for b in blocks), u, u, 0.5 * (root + root.mT))


class Linearised:
    """Products with inputs (leaves, q, s), and how they change with the generators."""

    def __init__(self, t: Telescope, x: NumpyArray) -> None:
        self.t = t
        self.up = [x]  # what each level is given
        for v in t.v:
            self.up.append(pairs(v.mT @ self.up[-1]))
        self.down = []  # what each level is given back from above, from the leaves
        result = t.root @ self.up[-1]
        for block, u, below in zip(t.blocks[::-1], t.u[::-1], self.up[-2::-1], strict=True):
            self.down.append(halves(result))
            result = block @ below + u @ self.down[-1]
        self.down.reverse()
        self.product = result

    def forward(self, d: Telescope) -> NumpyArray:
        """The change of the product with a small change `d` of the generators."""
        change = np.zeros_like(self.up[0])
        changes = [change]
        for v, dv, below in zip(self.t.v, d.v, self.up, strict=False):
            changes.append(pairs(dv.mT @ below + v.mT @ changes[-1]))
        result = d.root @ self.up[-1] + self.t.root @ changes[-1]
        for level in range(len(self.t.blocks) - 1, -1, -1):
            own = d.blocks[level] @ self.up[level] + self.t.blocks[level] @ changes[level]
            result = own + d.u[level] @ self.down[level] + self.t.u[level] @ halves(result)
        return np.asarray(result)

    def backward(self, r: NumpyArray) -> Telescope:
        """The transpose of `forward`: the gradient of <product, r>."""
        going_up = [r]
        for u in self.t.u:
            going_up.append(pairs(u.mT @ going_up[-1]))
        blocks = tuple(a @ b.mT for a, b in zip(going_up, self.up[:-1], strict=False))
        rows = tuple(a @ c.mT for a, c in zip(going_up, self.down, strict=False))
        root, columns = going_up[-1] @ self.up[-1].mT, []
        coming = self.t.root.mT @ going_up[-1]
        for level in range(len(self.t.blocks) - 1, -1, -1):
            coming = halves(coming)
            columns.append(self.up[level] @ coming.mT)
            coming = self.t.blocks[level].mT @ going_up[level] + self.t.v[level] @ coming
        return Telescope(blocks, rows, tuple(columns[::-1]), root)


@dataclass(frozen=True)
class Problem:
    """Leaf blocks of inputs and outputs of both sides; those of the adjoint are None for a symmetric operator."""

    x: NumpyArray  # (leaves, q, s)
    y: NumpyArray  # (leaves, p, s)
    g: NumpyArray | None  # (leaves, p, s')
    w: NumpyArray | None  # (leaves, q, s')

    def linearised(self, t: Telescope) -> tuple[spla.LinearOperator, NumpyArray]:
        """The Jacobian of all outputs with respect to `t.pack()`, and the misfit."""
        first = Linearised(t, self.x)
        second = None if self.g is None else Linearised(t.adjoint, self.g)
        misfit = (first.product - self.y).ravel()
        if second is not None and self.w is not None:
            misfit = np.concatenate([misfit, (second.product - self.w).ravel()])

        def forward(vector: NumpyArray) -> NumpyArray:
            d = t.like(vector.ravel())
            change = first.forward(d).ravel()
            return change if second is None else np.concatenate([change, second.forward(d.adjoint).ravel()])

        def backward(r: NumpyArray) -> NumpyArray:
            r = r.ravel()
            slope = first.backward(r[: self.y.size].reshape(self.y.shape))
            if t.symmetric:
                both = tuple(a + b for a, b in zip(slope.u, slope.v, strict=True))
                packed = Telescope(slope.blocks, both, both, slope.root)
                return t.like(packed.pack()).pack()
            vector = slope.pack()
            if second is not None and self.w is not None:
                vector = vector + second.backward(r[self.y.size :].reshape(self.w.shape)).adjoint.pack()
            return vector

        return spla.LinearOperator((misfit.size, t.pack().size), forward, rmatvec=backward, dtype=np.float64), misfit


def descend(start: Telescope, problem: Problem, steps: int) -> Telescope:
    """Generators with a smaller sum of squared misfits, by at most `steps` damped Gauss-Newton steps.

    Parameters
    ----------
    start : Telescope
        Where to begin.
    problem : Problem
        What to fit.
    steps : int
        At most so many; each costs about `INNER_STEPS` products with all samples, forward and backward.
    """
    current = start
    jacobian, misfit = problem.linearised(current)
    objective, damping = float(misfit @ misfit), FIRST_DAMPING
    for _ in range(steps):
        for _ in range(TRIES):
            candidate = current.like(current.pack() + _step(jacobian, misfit, damping))
            new_jacobian, new = problem.linearised(candidate)
            reached = float(new @ new)
            if reached < objective:
                break
            damping *= 10.0
        else:
            break
        gained = objective - reached
        current, jacobian, misfit, objective = candidate, new_jacobian, new, reached
        damping *= 0.2
        if gained < GAIN * (objective + gained):
            break
    return current


def _step(jacobian: spla.LinearOperator, misfit: NumpyArray, damping: float) -> NumpyArray:
    # the size of the Jacobian in the direction of steepest descent
    slope = jacobian.rmatvec(misfit)
    size = float(np.linalg.norm(jacobian.matvec(slope)) / max(float(np.linalg.norm(slope)), np.finfo(np.float64).tiny))
    return np.asarray(spla.lsmr(jacobian, -misfit, damp=damping * size, atol=1e-12, btol=1e-12, maxiter=INNER_STEPS)[0])
