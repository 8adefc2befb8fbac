"""The tree and the rank of a fit, chosen by what held-out samples say where the user leaves them open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from structmat import ClusterTree, HSSMatrix, TooFewSamplesError
from structmat._inputs import TreeLike
from structmat._typing import NumpyArray
from structmat.certificate import Certificate
from structmat.hss.sketched import Samples, with_full_rows
from structmat.tree import as_tree_pair

from .identify import Observations, samples_needed
from .recovery import Recovery, recover

RANKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
COMFORTABLE_LEAF = 8  # smaller leaves need fewer samples and make slower matrices
PATIENCE = 3  # ranks that may pass without a gain before the search ends
EXACT = 1e-12  # held-out residuals below this are rounding, and the smaller rank counts as good


@dataclass(frozen=True)
class Structure:
    """A pair of trees, and the largest rank on them."""

    row_tree: ClusterTree
    col_tree: ClusterTree
    rank: int

    @property
    def leaf_size(self) -> int:
        """Size of the largest leaf."""
        return max(self.row_tree.leaf_size, self.col_tree.leaf_size)

    @property
    def needed(self) -> int:
        """Samples of each side without which this structure cannot be recovered."""
        return samples_needed(self.leaf_size, self.rank, self.row_tree.depth)


def structure_for(shape: tuple[int, int], count: int, rank: int, leaf_size: int | None, tree: TreeLike) -> Structure:
    """The trees as given; or leaves of at least twice the rank, larger ones only where the samples allow."""
    if tree is None and leaf_size is None:
        leaf_size = max(COMFORTABLE_LEAF, 2 * rank)
        if samples_needed(leaf_size, rank, 2) + 2 > count:
            leaf_size = 2 * rank
    return Structure(*as_tree_pair(tree, shape, leaf_size=leaf_size or 64), rank)


def choose(
    observed: Observations, symmetric: bool, noise: float, leaf_size: int | None, tree: TreeLike
) -> tuple[Structure, float]:
    """The smallest rank that predicts held-out samples about as well as any, and that residual.

    Raises
    ------
    TooFewSamplesError
        When too few samples are left to hold any out.
    """
    count = observed.inputs.shape[1]
    held = np.arange(0, count, max(2, min(6, count // 2)))
    kept = observed.without(held)
    found: list[tuple[float, Structure]] = []
    since = 0
    for structure in _candidates(observed.shape, kept.count, leaf_size, tree):
        matrix, _ = recovered(kept, structure, symmetric, noise)
        residual = relative_residual(matrix, observed.inputs[:, held], observed.outputs[:, held])
        since = 0 if not found or residual < 0.9 * min(found, key=_first)[0] else since + 1
        found.append((residual, structure))
        if residual <= EXACT or since >= PATIENCE or structure.row_tree.depth == 0:
            break
    if not found:
        raise TooFewSamplesError(
            f"rank=None is chosen by samples that are held out, and {count} samples leave too few for that: record "
            "more, or give rank="
        )
    enough = max(1.1 * min(found, key=_first)[0], EXACT)
    return next((structure, residual) for residual, structure in found if residual <= enough)


def _first(pair: tuple[float, Structure]) -> float:
    return pair[0]


def _candidates(shape: tuple[int, int], count: int, leaf_size: int | None, tree: TreeLike) -> Iterator[Structure]:
    for rank in RANKS:
        structure = structure_for(shape, count, rank, leaf_size, tree)
        if structure.needed + 1 > count or (rank > structure.leaf_size and rank > 1):
            return
        yield structure


def recovered(
    observed: Observations, structure: Structure, symmetric: bool, noise: float
) -> tuple[HSSMatrix, Recovery]:
    """Block nullification of checked samples; `noise` is relative to the outputs."""
    trees = structure.row_tree, structure.col_tree
    scale = float(np.linalg.norm(observed.outputs)) / np.sqrt(observed.outputs.size)
    blocks = partial(_leaf_blocks, trees)
    omega, y = blocks(1, observed.inputs), blocks(0, observed.outputs)
    omega = with_full_rows(omega, trees[1].leaf_positions < trees[1].n)
    psi, z = omega, y
    if not symmetric:
        assert observed.adjoint_inputs is not None
        assert observed.adjoint_outputs is not None
        psi, z = blocks(0, observed.adjoint_inputs), blocks(1, observed.adjoint_outputs)
        psi = with_full_rows(psi, trees[0].leaf_positions < trees[0].n)
    found = recover(Samples(omega, y, psi, z), trees[0].depth, structure.rank, noise * scale)
    certificate = Certificate(1.0, 1.0, 1.0, 0.0, "not yet known")
    return HSSMatrix(found.generators, *trees, certificate), found


def _leaf_blocks(trees: tuple[ClusterTree, ClusterTree], side: int, columns: NumpyArray) -> NumpyArray:
    return np.ascontiguousarray(trees[side].to_leaves(columns))


def relative_residual(matrix: HSSMatrix, inputs: NumpyArray, outputs: NumpyArray) -> float:
    """||A F - U|| / ||U||, or ||A F|| where U is zero."""
    size = float(np.linalg.norm(outputs))
    return float(np.linalg.norm(matrix @ inputs - outputs)) / (size if size > 0 else 1.0)
