"""Samples that leave the operator open: the estimate of a prior, cut to the structure, and alternating least squares.

With a quadratic prior the best of all matrices is known in closed form: the prior's operator and a correction of as low
a rank as the samples have dimensions. Cut to a smaller rank it no longer explains the samples. Sweeps over the
generators repair that: with the other generators fixed, the outputs are linear in the blocks and row bases of one
level, so each node solves a small least-squares problem; weighted samples that stand for the prior hold them near it.

Where there are adjoint samples, or the operator is Hermitian, a level's problem over the outputs alone undoes what the
other side has found: there all generators move at once (`joint`), by steps as small as the misfit allows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np

from structmat import AccuracyWarning, HSSMatrix, StructureWarning
from structmat._backend import adjoint
from structmat._typing import NumpyArray
from structmat.hss.generators import Generators, halves, pairs
from structmat.hss.sketched import Level, assemble

from . import joint
from .identify import IdentifiabilityReport, Observations
from .priors import Prior
from .recovery import least_squares
from .structure import Structure, relative_residual, structure_for
from .task import Task, certified

LARGEST = 8192  # dimension up to which the estimate of the prior is formed as a dense matrix
PRIOR_SAMPLES = 1024  # that stand for the prior, where it has more dimensions than that
SMALLEST_WEIGHT = 1e-6
DEFAULT_LEAF = 32
UNCUT = 1e-10  # relative error of a cut that is left to the tolerance
STAGNATION = 1e-3  # sweeps end when one of them gains less than this share of the objective


def fit_with_prior(
    task: Task, wanted: bool | None, prior: Prior, sweeps: int
) -> tuple[HSSMatrix, IdentifiabilityReport]:
    """The operator that a prior and the samples agree on, and a report that says how much is the prior's.

    Parameters
    ----------
    task : Task
        Samples and structure.
    wanted : bool or None
        Whether the operator is Hermitian, as given to `fit`.
    prior : Prior
        What to assume.
    sweeps : int
        At most so many.
    """
    symmetric = _is_symmetric(task, wanted)
    noise = _noise_beyond_the_span(task) if task.noise is None else task.noise
    weight = max(noise, SMALLEST_WEIGHT) if prior.weight is None else prior.weight
    observed = task.observed
    strength = weight**2 * float(np.linalg.norm(observed.inputs)) ** 2 / observed.shape[1]
    structure = _structure(task)
    start = _compressed(estimate(observed, prior, strength, symmetric), structure, max(0.1 * noise, UNCUT), symmetric)
    if task.rank is None:
        matrix, structure = start, replace(structure, rank=start.max_rank)
    elif symmetric or observed.adjoint_inputs is not None:
        matrix = _descended(start, _condensed(observed), sweeps)
    else:
        matrix = _swept(start, _with_prior_samples(observed, prior, strength, task.rng), sweeps)
    report = task.report(
        "alternating", structure, noise=noise, weakest=0.0,
        residual=relative_residual(matrix, observed.inputs, observed.outputs), held_out=None, white_noise_error=None,
        identified=False, symmetric=symmetric,
        advice=_advice(symmetric and wanted is None),
    )  # fmt: skip
    return certified(matrix, report), report


def _noise_beyond_the_span(task: Task) -> float:
    """Relative noise, from what no linear map of the inputs can explain of the outputs."""
    f, u = task.observed.inputs, task.observed.outputs
    spare = f.shape[1] - task.dimension
    if spare < 1:
        raise ValueError(
            f'noise="estimate" with a prior needs more samples than the {task.dimension} dimensions that they span, '
            f"but there are {f.shape[1]}: record more, or state the noise"
        )
    vh = np.linalg.svd(f, full_matrices=False)[2][: task.dimension]
    left = float(np.linalg.norm(u - (u @ adjoint(vh)) @ vh)) / np.sqrt(len(u) * spare)
    size = float(np.linalg.norm(u)) / np.sqrt(u.size)
    return left / size if size > 0 else 0.0


def _advice(assumed: bool) -> tuple[str, ...]:
    advice = ["record responses to random inputs: they determine the operator"]
    if assumed:
        advice.append("symmetry is only what these samples do not contradict: symmetric=False if the operator has none")
    return tuple(advice)


def _is_symmetric(task: Task, wanted: bool | None) -> bool:
    rows, columns = task.observed.shape
    if rows != columns or wanted is False or task.observed.adjoint_inputs is not None:
        return False
    return task.is_symmetric(wanted)


def _structure(task: Task) -> Structure:
    rank = min(task.observed.shape) if task.rank is None else task.rank
    leaf = task.leaf_size or max(DEFAULT_LEAF, 2 * (task.rank or 0))
    return structure_for(task.observed.shape, task.usable, rank, leaf, task.tree)


# ---------------------------------------------------------------------------- the estimate of the prior


@dataclass(frozen=True)
class _Side:
    """The unconstrained correction of the prior's operator by the samples of one side: response @ directions^H."""

    response: NumpyArray  # (m, d)
    inputs: NumpyArray  # (n, d), whose response it is
    directions: NumpyArray  # (n, d)


def estimate(observed: Observations, prior: Prior, strength: float, symmetric: bool) -> NumpyArray:
    """The dense matrix A that minimises ||A F - U||^2 + strength ||(A - centre) P||^2, with adjoint samples likewise.

    For Hermitian operators, and with adjoint samples, the parts that both sides know are counted once.
    """
    rows, columns = observed.shape
    if max(rows, columns) > LARGEST:
        raise ValueError(
            f"a prior needs dense matrices, which are formed up to dimension {LARGEST}, but the operator is {rows} x "
            f"{columns}; record random inputs, which need no prior"
        )
    result = prior.centre(np.eye(columns), rows).astype(observed.outputs.dtype)
    forward = _side(observed.inputs, observed.outputs - result @ observed.inputs, prior, strength)
    if symmetric:
        backward = forward
    elif observed.adjoint_inputs is None or observed.adjoint_outputs is None:
        return result + forward.response @ adjoint(forward.directions)
    else:
        change = observed.adjoint_outputs - adjoint(result) @ observed.adjoint_inputs
        backward = _side(observed.adjoint_inputs, change, prior, strength)
    known_twice = adjoint(backward.inputs) @ forward.response
    result += (forward.response - backward.directions @ known_twice) @ adjoint(forward.directions)
    result += backward.directions @ adjoint(backward.response)
    return 0.5 * (result + adjoint(result)) if symmetric else result


def _side(inputs: NumpyArray, response: NumpyArray, prior: Prior, strength: float) -> _Side:
    u, values, vh = np.linalg.svd(prior.relaxed(inputs), full_matrices=False)
    keep = values > 1e-14 * max(float(values[0]), np.finfo(np.float64).tiny)
    combine = adjoint(vh[keep]) * (values[keep] / (values[keep] ** 2 + strength))
    return _Side(response @ combine, inputs @ combine, prior.relaxed(u[:, keep]))


def _compressed(dense: NumpyArray, structure: Structure, rtol: float, symmetric: bool) -> HSSMatrix:
    with warnings.catch_warnings():
        # the cut to the rank that was asked for is repaired by sweeps, and the residual reports what is left
        warnings.simplefilter("ignore", AccuracyWarning)
        warnings.simplefilter("ignore", StructureWarning)
        trees = structure.row_tree, structure.col_tree
        return HSSMatrix.from_dense(dense, trees, rtol=rtol, max_rank=structure.rank, symmetric=symmetric)


def _condensed(observed: Observations) -> Observations:
    """As few samples as the inputs span dimensions, with the same misfit but for a constant."""

    def side(inputs: NumpyArray, outputs: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        u, values, vh = np.linalg.svd(inputs, full_matrices=False)
        keep = values > 1e-12 * values[0]
        return u[:, keep] * values[keep], outputs @ adjoint(vh[keep])

    first = side(observed.inputs, observed.outputs)
    if observed.adjoint_inputs is None or observed.adjoint_outputs is None:
        return Observations(*first)
    return Observations(*first, *side(observed.adjoint_inputs, observed.adjoint_outputs))


def _with_prior_samples(
    observed: Observations, prior: Prior, strength: float, rng: np.random.Generator
) -> Observations:
    """The samples, and weighted ones that stand for the prior, on both sides."""
    rows, columns = observed.shape
    probes = np.sqrt(strength) * prior.penalised(_probes(columns, rng))
    inputs, outputs = np.hstack([observed.inputs, probes]), np.hstack([observed.outputs, prior.centre(probes, rows)])
    if observed.adjoint_inputs is None or observed.adjoint_outputs is None:
        return Observations(inputs, outputs)
    probes = np.sqrt(strength) * prior.penalised(_probes(rows, rng))
    return Observations(
        inputs, outputs, np.hstack([observed.adjoint_inputs, probes]),
        np.hstack([observed.adjoint_outputs, prior.centre_adjoint(probes, columns)]),
    )  # fmt: skip


def _probes(n: int, rng: np.random.Generator) -> NumpyArray:
    """Columns whose outer products sum to the identity, on average where there are fewer than n."""
    if n <= PRIOR_SAMPLES:
        return np.eye(n)
    return rng.standard_normal((n, PRIOR_SAMPLES)) / np.sqrt(PRIOR_SAMPLES)


# ----------------------------------------------------------------------------------------------- sweeps


@dataclass
class _Telescope:
    """A matrix as block + u (pairs of children) v^H, level upon level, leaves first; then the root's block."""

    levels: list[Level]
    root: NumpyArray  # (1, p, q)

    def apply(self, level: int, x: NumpyArray) -> NumpyArray:
        """What is left from `level` upwards, applied to (nb, q, s)."""
        if level == len(self.levels):
            return self.root @ x
        here = self.levels[level]
        return here.block @ x + here.u @ halves(self.apply(level + 1, pairs(adjoint(here.v) @ x)))


def _telescope(g: Generators) -> _Telescope:
    """The generators with the couplings as blocks of the parents."""
    levels = []
    full = g.expanded()
    for level in range(g.depth, 0, -1):
        block = full.diagonal if level == g.depth else _sibling_blocks(full.couplings[level])
        u, v = full.row_basis, full.col_basis
        levels.append(Level(u[level], v[level], block, u.ranks[level - 1], v.ranks[level - 1], 1.0))
    return _Telescope(levels, _sibling_blocks(full.couplings[0]) if g.depth else full.diagonal)


def _sibling_blocks(couplings: NumpyArray) -> NumpyArray:
    """Couplings (2 nb, k, k') of siblings as the off-diagonal parts of blocks (nb, 2 k, 2 k') of their parents."""
    nb, k, kv = len(couplings) // 2, *couplings.shape[1:]
    block = np.zeros((nb, 2, k, 2, kv), dtype=couplings.dtype)
    block[:, 0, :, 1], block[:, 1, :, 0] = couplings[::2], couplings[1::2]
    return block.reshape(nb, 2 * k, 2 * kv)


def _swept(start: HSSMatrix, goal: Observations, sweeps: int) -> HSSMatrix:
    """The best matrix that least squares for one level after the other come to, over the outputs alone."""
    best, lowest = start, _objective(start, goal)
    current = _telescope(start.generators)
    for _ in range(sweeps):
        _sweep(current, start.col_tree.to_leaves(goal.inputs), start.row_tree.to_leaves(goal.outputs))
        matrix = _matrix_of(current, start)
        objective = _objective(matrix, goal)
        gained = lowest - objective
        if objective < lowest:
            best, lowest = matrix, objective
        if gained < STAGNATION * lowest:
            break
    return best


def _matrix_of(telescope: _Telescope, like: HSSMatrix) -> HSSMatrix:
    generators = assemble(telescope.levels, telescope.root, symmetric=like.symmetric)
    return HSSMatrix(generators, like.row_tree, like.col_tree, like.certificate)


def _objective(matrix: HSSMatrix, goal: Observations) -> float:
    return float(np.linalg.norm(matrix @ goal.inputs - goal.outputs)) ** 2


def _sweep(now: _Telescope, x: NumpyArray, y: NumpyArray) -> None:
    """Update blocks and row bases of every level once, from the leaves to the root, in place."""
    for level, here in enumerate(now.levels):
        below = pairs(adjoint(here.v) @ x)
        above = halves(now.apply(level + 1, below))
        features = np.concatenate([x, above], axis=1)  # (nb, q + k, s)
        change = least_squares(y - here.block @ x - here.u @ above, features)
        here.block = here.block + change[:, :, : x.shape[1]]
        here.u, factor = np.linalg.qr(here.u + change[:, :, x.shape[1] :])
        _push(now, level + 1, factor)
        x, y = below, pairs(adjoint(here.u) @ (y - here.block @ x))
    now.root = least_squares(y, x)


def _descended(start: HSSMatrix, goal: Observations, steps: int) -> HSSMatrix:
    """The matrix that damped Gauss-Newton steps over all generators come to, for samples of both sides."""
    if start.dtype.kind == "c":
        raise TypeError(
            "with a prior, rank= and samples of both sides the operator must be real; leave rank out, or pass real "
            "samples"
        )
    now = _telescope(start.generators)
    u = tuple(level.u for level in now.levels)
    v = u if start.symmetric else tuple(level.v for level in now.levels)
    before = joint.Telescope(tuple(level.block for level in now.levels), u, v, now.root)
    rows, columns = start.row_tree, start.col_tree
    x, y = columns.to_leaves(goal.inputs), rows.to_leaves(goal.outputs)
    g = w = None
    if goal.adjoint_inputs is not None and goal.adjoint_outputs is not None:
        g, w = rows.to_leaves(goal.adjoint_inputs), columns.to_leaves(goal.adjoint_outputs)
    found = joint.descend(before, joint.Problem(x, y, g, w), steps)
    now.root = found.root
    for level, block, left, right in zip(now.levels, found.blocks, found.u, found.v, strict=True):
        level.block, level.u, level.v = block, left, right
    for number, level in enumerate(now.levels):
        level.u, factor = np.linalg.qr(level.u)
        _push(now, number + 1, factor)
        level.v, factor = (level.u, factor) if start.symmetric else np.linalg.qr(level.v)
        _push(now, number + 1, factor, rows=False)
    return _matrix_of(now, start)


def _push(now: _Telescope, level: int, factor: NumpyArray, *, rows: bool = True) -> None:
    """Take the triangular factors (2 nb, k, k) of the bases below up into `level`."""
    k, old = factor.shape[1:]
    children = np.zeros((len(factor) // 2, 2, k, 2, old), dtype=factor.dtype)
    children[:, 0, :, 0], children[:, 1, :, 1] = factor[::2], factor[1::2]
    whole = children.reshape(len(children), 2 * k, 2 * old)
    if level == len(now.levels):
        now.root = whole @ now.root if rows else now.root @ adjoint(whole)
        return
    here = now.levels[level]
    if rows:
        here.block, here.u = whole @ here.block, whole @ here.u
    else:
        here.block, here.v = here.block @ adjoint(whole), whole @ here.v
