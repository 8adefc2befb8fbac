"""One fit: which route the samples allow, why others are refused, and what the result is worth."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from structmat import HSSMatrix, StructureWarning, SymmetryError, TooFewSamplesError
from structmat._inputs import TreeLike
from structmat._typing import NumpyArray
from structmat.certificate import Certificate
from structmat.certify import CONFIDENCE, probe_factor

from .identify import (
    BEARABLE,
    IdentifiabilityReport,
    IdentifiabilityWarning,
    Observations,
    allowed_gap,
    span_dimension,
    symmetry_gap,
    unexcited_share,
)
from .recovery import ROUNDING
from .structure import Structure, choose, recovered, relative_residual, structure_for

PROBES = 10  # white-noise inputs by which two matrices are compared
# an estimated white-noise error above this means that the samples say next to nothing
HOPELESS = 0.5
# estimated noise above this, relative to the outputs, may well be a structure that does not fit
DOUBTFUL = 0.05
# how much larger than the noise the residual of the right structure may be
RESIDUAL_MARGIN = 5.0
EXACT_RESIDUAL = 1e-8  # of samples that are called exact
REFIT_FLOOR = 8 * float(np.finfo(np.float64).eps)  # relative size of the changes by which stability is tested


@dataclass
class Task:
    """The samples of one fit with what the user has said of them.

    Attributes
    ----------
    observed : Observations
        The samples.
    noise : float or None
        Relative; None where it is to be estimated.
    leaf_size, rank, tree : optional
        As given to `fit`.
    rng : numpy.random.Generator
        For refits and probes.
    """

    observed: Observations
    noise: float | None
    leaf_size: int | None
    rank: int | None
    tree: TreeLike
    rng: np.random.Generator

    def __post_init__(self) -> None:
        """Find what the inputs span."""
        dimensions = [span_dimension(self.observed.inputs)]
        if self.observed.adjoint_inputs is not None:
            dimensions.append(span_dimension(self.observed.adjoint_inputs))
        self.dimension = dimensions[0]
        self.usable = min(dimensions)  # samples that say something new, on the poorer side
        self.gap = 0.0

    # ------------------------------------------------------------------------------------- routes

    def closed_form(self, symmetric: bool | None) -> tuple[HSSMatrix, IdentifiabilityReport]:
        """The operator where the samples determine it; else the error that says why they do not."""
        if self.is_symmetric(symmetric) or self.observed.adjoint_inputs is not None:
            return self._by_nullification(self.observed.adjoint_inputs is None)
        if self.dimension == self.observed.shape[1]:
            return self._by_least_squares()
        raise TooFewSamplesError(
            f"{self._why_not_hermitian(symmetric)}, and outputs alone leave such an operator open: record adjoint "
            "samples (adjoint_inputs, adjoint_outputs), or inputs that span all "
            f"{self.observed.shape[1]} dimensions (these span {self.dimension}), or pass a prior"
        )

    def _why_not_hermitian(self, symmetric: bool | None) -> str:
        rows, columns = self.observed.shape
        if rows != columns:
            return f"the operator is {rows} x {columns}"
        if symmetric is False:
            return "the operator is not Hermitian (symmetric=False)"
        return (
            f"the samples are not those of a Hermitian operator (F^H U differs from its adjoint by {self.gap:.1e}; if "
            "that is noise, say so: noise=)"
        )

    def is_symmetric(self, wanted: bool | None) -> bool:
        """Whether the operator is taken for Hermitian: as said, if the samples agree; else by what they say."""
        rows, columns = self.observed.shape
        if self.observed.adjoint_inputs is not None or wanted is False or rows != columns:
            if wanted:
                raise SymmetryError(
                    f"symmetric=True needs a square operator and no adjoint samples, but the operator is {rows} x "
                    f"{columns}" + ("" if rows != columns else " and there are adjoint samples: leave one of both out")
                )
            return False
        self.gap = symmetry_gap(self.observed)
        allowed = allowed_gap(self._noise_bound())
        if wanted and self.gap > allowed:
            raise SymmetryError(
                f"symmetric=True, but the samples contradict it: F^H U differs from its adjoint by {self.gap:.1e} "
                f"(relative), and noise explains {allowed:.1e} of that; record adjoint samples, or state the noise"
            )
        return self.gap <= allowed

    def _noise_bound(self) -> float:
        """The noise, or what the far field of the leaves has beyond the largest rank that the samples can resolve."""
        if self.noise is not None:
            return self.noise
        rank = max(1, (self.usable - 2) // 4)
        # half a leaf at most: what a rank as large as the leaf leaves over is nothing at all
        rank = max(1, min(rank, self._structure_of_rank(rank).leaf_size // 2))
        structure = self._structure_of_rank(rank)
        if structure.needed > self.usable:
            return 0.0
        found = recovered(self.observed, structure, True, 0.0)[1]
        return self._relative(found.noise)

    def _structure_of_rank(self, rank: int) -> Structure:
        return structure_for(self.observed.shape, self.usable, rank, self.leaf_size, self.tree)

    def _by_nullification(self, symmetric: bool) -> tuple[HSSMatrix, IdentifiabilityReport]:
        held_out = None
        if self.rank is None:
            structure, held_out = choose(self.observed, symmetric, self.noise or 0.0, self.leaf_size, self.tree)
        else:
            structure = self._structure_of_rank(self.rank)
        self._require_enough(structure)

        def refit(observed: Observations, noise: float) -> HSSMatrix:
            return recovered(observed, structure, symmetric, noise)[0]

        noise = self.noise
        if noise is None:
            noise = self._estimated_noise(structure, symmetric)
        matrix, found = recovered(self.observed, structure, symmetric, noise)
        if not found.weakest > ROUNDING:
            raise TooFewSamplesError(self._dependent(found.weakest))
        self._require_excited(structure)
        return self._judged("closed form", matrix, structure, noise, found.weakest, held_out, refit)

    def _require_excited(self, structure: Structure) -> None:
        """Refuse, or warn of, inputs that lack whole classes of functions."""
        o = self.observed
        share = unexcited_share(o.inputs, structure.col_tree.perm)
        if o.adjoint_inputs is not None:
            share = max(share, unexcited_share(o.adjoint_inputs, structure.row_tree.perm))
        if share > BEARABLE:
            raise TooFewSamplesError(
                f"the inputs do not span: they have nothing of {share:.0%} of the cosine modes, as odd or even "
                "functions have, and operators that differ there explain them equally well; record responses to random "
                "inputs, or pass a prior"
            )
        if share > 0.0:
            warnings.warn(
                f"the inputs have nothing of {share:.1%} of the cosine modes (as inputs without a mean have nothing of "
                "the constant): what the operator does to these is the simplest that agrees with the rest",
                IdentifiabilityWarning,
                stacklevel=5,
            )

    def _by_least_squares(self) -> tuple[HSSMatrix, IdentifiabilityReport]:
        rank = self.rank or min(self.observed.shape)
        structure = structure_for(self.observed.shape, self.usable, rank, self.leaf_size or 64, self.tree)
        rows, columns = self.observed.shape
        noise = self.noise
        if noise is None:
            spare = self.observed.inputs.shape[1] - columns
            if spare < 1:
                raise TooFewSamplesError(
                    f'noise="estimate" needs more samples than the {columns} unknowns of a row, but there are '
                    f"{columns}; state the noise, or record more"
                )
            left = self.observed.outputs - _dense(self.observed) @ self.observed.inputs
            noise = self._relative(float(np.linalg.norm(left)) / np.sqrt(rows * spare))

        def refit(observed: Observations, noise: float) -> HSSMatrix:
            with warnings.catch_warnings():
                # a rank that was asked for may be too small: the residual says so below
                warnings.simplefilter("ignore")
                return HSSMatrix.from_dense(
                    _dense(observed), (structure.row_tree, structure.col_tree), rtol=max(noise, 1e-12), max_rank=rank
                )

        weakest = 1.0 / float(np.linalg.cond(self.observed.inputs))
        matrix = refit(self.observed, noise)
        return self._judged("least squares", matrix, structure, noise, weakest, None, refit)

    # ---------------------------------------------------------------------------------- judgement

    def _relative(self, deviation: float) -> float:
        scale = float(np.linalg.norm(self.observed.outputs)) / np.sqrt(self.observed.outputs.size)
        return deviation / scale if scale > 0 else 0.0

    def _estimated_noise(self, structure: Structure, symmetric: bool) -> float:
        depth, leaf = structure.row_tree.depth, structure.col_tree.leaf_size
        count = self.observed.inputs.shape[1]
        if depth == 0:
            matrix, _ = recovered(self.observed, structure, symmetric, 0.0)
            left = float(np.linalg.norm(matrix @ self.observed.inputs - self.observed.outputs))
            freedom = len(self.observed.outputs) * (count - leaf)
        else:
            left, freedom = 0.0, count - leaf - structure.rank
        if freedom < 1:
            raise TooFewSamplesError(
                f'noise="estimate" needs more than the {structure.needed} samples that leaves of {leaf} and rank '
                f"{structure.rank} take, but there are {count}; state the noise, or record more"
            )
        if depth == 0:
            return self._relative(left / np.sqrt(freedom))
        return self._relative(recovered(self.observed, structure, symmetric, 0.0)[1].noise)

    def _require_enough(self, structure: Structure) -> None:
        count = self.observed.count
        if structure.needed <= self.usable:
            return
        if count > self.usable:
            raise TooFewSamplesError(
                f"the inputs do not span: {count} samples span {self.usable} dimensions, and leaves of "
                f"{structure.leaf_size} with rank {structure.rank} need {structure.needed}; record responses to random "
                "inputs, or pass a prior"
            )
        rank = structure.rank
        smaller = f"use smaller leaves (leaf_size={2 * rank}), or " if 2 * rank < structure.leaf_size else ""
        raise TooFewSamplesError(
            f"{count} samples cannot determine an operator of rank {rank} on a tree with leaves of "
            f"{structure.leaf_size}: at least {structure.needed} are needed, {structure.needed - count} more; record "
            f"more, or {smaller}pass a prior"
        )

    def _dependent(self, weakest: float) -> str:
        return (
            f"the inputs do not span: within some cluster they are linearly dependent (smallest singular value "
            f"{weakest:.1e} of the largest), as smooth inputs are; record responses to random inputs, or pass a prior"
        )

    def _judged(
        self, route: str, matrix: HSSMatrix, structure: Structure, noise: float, weakest: float,
        held_out: float | None, refit: Callable[[Observations, float], HSSMatrix],
    ) -> tuple[HSSMatrix, IdentifiabilityReport]:  # fmt: skip
        """Residual, stability under noise, and the report; refuse what the samples do not hold up."""
        residual = relative_residual(matrix, self.observed.inputs, self.observed.outputs)
        level = max(noise, residual, REFIT_FLOOR)
        error = self._refit_error(matrix, noise, level, refit)
        if error > HOPELESS:
            raise TooFewSamplesError(
                f"the samples hardly determine the operator: a change of the outputs by {level:.1e} changes it by "
                f"{error:.1e} (relative); the inputs are too much alike within the clusters (smallest singular value "
                f"{weakest:.1e} of the largest), or too few; record responses to random inputs, or pass a prior"
            )
        # what the fit leaves of samples, beyond the noise, it gets wrong
        for left in (residual, held_out or 0.0):
            error = max(error, float(np.sqrt(max(left**2 - noise**2, 0.0))))
        report = self.report(
            route, structure, noise=noise, weakest=weakest, residual=residual, held_out=held_out,
            white_noise_error=error, identified=True, symmetric=matrix.symmetric,
        )  # fmt: skip
        if residual > max(EXACT_RESIDUAL, RESIDUAL_MARGIN * noise):
            better = "raise rank" if self.observed.count > structure.needed else "record more samples and raise rank"
            warnings.warn(
                f"no operator of rank {structure.rank} on leaves of {structure.leaf_size} explains the samples: the "
                f"residual is {residual:.1e}, the noise {noise:.1e}; {better}, or state the noise (noise=)",
                StructureWarning,
                stacklevel=5,
            )
            report = replace(report, advice=(*report.advice, better))
        elif self.noise is None and noise > DOUBTFUL:
            doubt = (
                f"an operator of rank {structure.rank} on leaves of {structure.leaf_size} leaves {noise:.0%} of the "
                "outputs unexplained, which was taken for noise; if they are better than that, the rank or the order "
                "of the points is wrong: raise rank, give a tree, or state the noise (noise=)"
            )
            warnings.warn(doubt, StructureWarning, stacklevel=5)
            report = replace(report, advice=(*report.advice, "raise rank, give a tree, or state the noise"))
        return certified(matrix, report), report

    def _refit_error(
        self, matrix: HSSMatrix, noise: float, level: float, refit: Callable[[Observations, float], HSSMatrix]
    ) -> float:
        """How far the operator moves, on white noise, when its own outputs are changed by noise of this level."""
        probes = self.rng.standard_normal((matrix.shape[1], PROBES))
        other = refit(self._perturbed(matrix, level), noise)
        return relative_residual(other, probes, matrix @ probes)

    def _perturbed(self, matrix: HSSMatrix, level: float) -> Observations:
        def noisy(exact: NumpyArray) -> NumpyArray:
            deviation = level * float(np.linalg.norm(exact)) / np.sqrt(exact.size)
            return exact + deviation * self.rng.standard_normal(exact.shape)

        o = self.observed
        adjoint = None if o.adjoint_inputs is None else noisy(matrix.H @ o.adjoint_inputs)
        return Observations(o.inputs, noisy(matrix @ o.inputs), o.adjoint_inputs, adjoint)

    def report(
        self, route: str, structure: Structure, *, noise: float, weakest: float, residual: float,
        held_out: float | None, white_noise_error: float | None, identified: bool, symmetric: bool,
        advice: tuple[str, ...] = (),
    ) -> IdentifiabilityReport:  # fmt: skip
        """The report on these samples with this structure."""
        o = self.observed
        return IdentifiabilityReport(
            route=route, identified=identified, samples=o.inputs.shape[1],
            adjoint_samples=0 if o.adjoint_inputs is None else o.adjoint_inputs.shape[1],
            needed=structure.needed, missing=max(0, structure.needed - self.usable),
            leaf_size=structure.leaf_size, rank=structure.rank, weakest=weakest, dimension=self.dimension,
            outside=1.0 - self.dimension / o.shape[1], symmetric=symmetric, symmetry_gap=self.gap, noise=noise,
            residual=residual, held_out=held_out, white_noise_error=white_noise_error, advice=advice,
        )  # fmt: skip


def _dense(observed: Observations) -> NumpyArray:
    """The operator by least squares, of inputs that span everything."""
    return np.asarray(np.linalg.lstsq(observed.inputs.T, observed.outputs.T, rcond=None)[0].T)


def certified(matrix: HSSMatrix, report: IdentifiabilityReport) -> HSSMatrix:
    """The matrix with a certificate that says what the samples say."""
    estimate = 1.0 if report.white_noise_error is None else max(report.white_noise_error, REFIT_FLOOR)
    asked = max(report.noise, 1e-12)
    certificate = Certificate(
        asked, estimate, estimate * probe_factor(PROBES), CONFIDENCE if report.identified else 0.0,
        f"{report.route} from samples: refitted with noise of its own size", probes=report.samples,
        details=asdict(report),
    )  # fmt: skip
    return HSSMatrix(matrix.generators, matrix.row_tree, matrix.col_tree, certificate)
