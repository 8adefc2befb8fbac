"""By what the nodes of an H2-matrix know their far fields: the contract, and samples of it (`farfield`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .. import _check
from .._typing import IntArray, NumpyArray
from ..hss.sampling import SamplingRule
from ..tree import ClusterTree
from .farfield import Samples, far_samples
from .touching import divided, with_touching

if TYPE_CHECKING:
    from .interpolative import Side, Skeletons


class FarField(Protocol):
    """By what a node knows its far field: what `from_kernel(far_field=...)` takes."""

    def resolved(self, rtol: float, dim: int) -> FarField:
        """The same with what was left open chosen by the tolerance and the dimension."""

    def share(self, dim: int) -> float:
        """Of the tolerance, for the truncation that the far field shows."""

    def finer(self, factor: int) -> FarField:
        """The same, richer by about this factor."""

    def seen_from(self, side: Side) -> SeenFarField:
        """The far fields of the nodes of one side."""


class SeenFarField(Protocol):
    """The far fields of the nodes of one side of a matrix."""

    def samples(self, level: int, rows: Skeletons, tails: NumpyArray) -> Samples:
        """What the candidates `rows` of the nodes of a level are compressed against, to errors of at most `tails`."""

    def starved(self, ranks: IntArray, widths: IntArray) -> NumpyArray:
        """Nodes whose ranks say that they may need more samples than the `widths` that they had."""


@dataclass(frozen=True)
class SampledFarField:
    """The far field of a node is known from some of its points: for any kernel, in any dimension, and for entries.

    Parameters
    ----------
    per_node : int, optional
        How many samples of its own partners a node takes, and as many of those of its ancestors. Default: what suffices
        for kernels that are smooth away from the diagonal. Where the check of the matrix fails, it is raised.
    touching : SamplingRule, optional
        How densely partners that touch are sampled, which weak admissibility has. Default: by the tolerance.

    References
    ----------
    D. Cai, H. Huang, E. Chow, Y. Xi, "Data-driven construction of hierarchical matrices with nested bases", SIAM J.
    Sci. Comput. 46 (2024) S24-S50.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> from structmat.h2 import SampledFarField
    >>> points = np.random.default_rng(0).random((2000, 2))
    >>> gaussian = sm.kernelfunctions.Gaussian(length=0.3)
    >>> A = sm.H2Matrix.from_kernel(gaussian, points, rtol=1e-4, far_field=SampledFarField(per_node=64))
    >>> A.certificate.met
    True
    """

    per_node: int | None = None
    touching: SamplingRule | None = None

    def __post_init__(self) -> None:
        if self.per_node is not None:
            _check.positive_integer(self.per_node, "per_node")

    def resolved(self, rtol: float, dim: int) -> SampledFarField:
        """The same with a number of samples."""
        digits = max(1.0, -np.log10(min(rtol, 0.1)))
        # measured; ranks grow with digits**(dim - 1) where the kernel is smooth, with a higher power where it is not
        per_node = 8.0 * digits if dim == 1 else 0.4 * digits**3 if dim == 2 else min(4.0 * digits, 24.0) * digits**2
        touching = self.touching or SamplingRule.for_tolerance(rtol)
        return SampledFarField(self.per_node or int(np.clip(per_node, 32, 2048)), touching)

    def share(self, dim: int) -> float:
        """Of the tolerance, for the truncation: what is left of samples underestimates what is left of other points.

        So chosen that the error of the matrix is about half of what is asked: the error of a product with one vector,
        relative to that product, is larger than that of the matrix for some vectors.
        """
        return 0.35 if dim < 3 else 0.2

    def finer(self, factor: int) -> SampledFarField:
        """The same with more samples."""
        assert self.per_node is not None  # resolved
        assert self.touching is not None
        return SampledFarField(factor * self.per_node, self.touching.finer())

    def seen_from(self, side: Side) -> SeenSamples:
        """The samples of all nodes."""
        assert self.per_node is not None  # resolved
        assert self.touching is not None
        apart, touching = divided(side.tree, side.other, list(side.partition.far))
        levels = far_samples(side.tree, side.other, apart, self.per_node)
        if any(len(pairs) for pairs in touching):
            levels = with_touching(levels, side.tree, side.other, touching, self.touching)
        return SeenSamples(levels, side)


class SeenSamples:
    """The samples of the nodes of one side."""

    def __init__(self, levels: list[Samples], side: Side) -> None:
        components = getattr(side.source, "components", 1)
        self.levels = [_whole_points(s, side.other, components) for s in levels]
        self.all = side.other.n

    def samples(self, level: int, rows: Skeletons, tails: NumpyArray) -> Samples:
        """Those of one level."""
        return self.levels[level]

    def starved(self, ranks: IntArray, widths: IntArray) -> NumpyArray:
        """Nodes that need almost all of their samples, and may need more than there are."""
        return (ranks > 0) & (ranks + 4 >= 0.7 * widths) & (widths < self.all)


def _whole_points(samples: Samples, other: ClusterTree, components: int) -> Samples:
    """With each sampled index those of the other components of its point."""
    if components == 1:
        return samples
    index = other.perm[samples.positions]
    siblings = (index - index % components)[:, None] + np.arange(components)
    weights = np.repeat(samples.weights / np.sqrt(components), components)
    return Samples(other.inverse_perm[siblings.ravel()], weights, components * samples.pointers)
