"""Samples of partners that touch a node: dense where they are close to it, ever fewer with distance.

Under weak admissibility clusters that touch are partners, and kernels vary most where they do: samples that are spread
evenly miss that corner. A node keeps the touching partners of all its ancestors and looks at each by itself, down to
the leaves next to it, as `hss.sampling` looks at everything outside a node; so its children see their own corners.

Reference: as `hss.sampling`. Where no partners touch, nothing is done.
"""

from __future__ import annotations

import numpy as np

from .._typing import IntArray
from ..flat.corners import APART
from ..hss.sampling import SamplingRule, walked
from ..tree import ClusterTree
from .farfield import Samples, joined


def divided(tree: ClusterTree, other: ClusterTree, far: list[IntArray]) -> tuple[list[IntArray], list[IntArray]]:
    """For each level the (node, partner) pairs that are apart, and those that touch."""
    apart = [APART(tree, other, level, pairs[:, 0], pairs[:, 1]) for level, pairs in enumerate(far)]
    kept = [pairs if mask.all() else pairs[mask] for pairs, mask in zip(far, apart, strict=True)]
    return kept, [pairs[~mask] for pairs, mask in zip(far, apart, strict=True)]


def with_touching(
    samples: list[Samples], tree: ClusterTree, other: ClusterTree, touching: list[IntArray], rule: SamplingRule
) -> list[Samples]:
    """The samples of all levels, with those of touching partners beside them."""
    result = []
    inherited = np.zeros((0, 3), dtype=np.int64)  # node, partner, level of the partner
    for level, pairs in enumerate(touching):
        own = np.concatenate([pairs, np.full((len(pairs), 1), level)], axis=1)
        inherited = np.concatenate([_for_children(inherited), own])
        result.append(joined(samples[level], _walked(tree, other, level, inherited, rule), level))
    return result


def _for_children(pairs: IntArray) -> IntArray:
    both = np.repeat(pairs, 2, axis=0)
    both[:, 0] = 2 * both[:, 0] + np.arange(len(both)) % 2
    return both


def _walked(tree: ClusterTree, other: ClusterTree, level: int, pairs: IntArray, rule: SamplingRule) -> Samples:
    positions, weights = walked(tree, other, level, pairs, rule)
    inside = positions >= 0
    return Samples(positions[inside], weights[inside], np.append(0, np.cumsum(inside.sum(axis=1))))
