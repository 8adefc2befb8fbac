"""Samples of the far field: for each node some of the points that its basis has to serve, with weights.

The basis of a node serves its own admissible partners and those of all its ancestors. From each partner some points are
taken, spread evenly over its stretch of the tree's order, which is spread evenly in space; from those of the ancestors
ever fewer, as they are ever farther away. Each sample stands for the points nearest to it, so that the weighted samples
have the Frobenius norm of the whole far field. Partners that touch are left to `touching`.

Reference: D. Cai, H. Huang, E. Chow, Y. Xi, "Data-driven construction of hierarchical matrices with nested bases", SIAM
J. Sci. Comput. 46 (2024) S24-S50. Departure: samples come from the order of the tree, not from a farthest-point search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..tree import ClusterTree


@dataclass(frozen=True)
class Samples:
    """The samples of the nodes of one level, one node after another.

    Attributes
    ----------
    positions : (total,) int array
        Positions in the order of the other tree.
    weights : (total,) array
        Square roots of how many points each stands for.
    pointers : (2**level + 1,) int array
        Where those of each node begin.
    """

    positions: IntArray
    weights: NumpyArray
    pointers: IntArray


def far_samples(other: ClusterTree, far: list[IntArray], per_node: int) -> list[Samples]:
    """Samples for the nodes of all levels, 0 .. depth.

    far: for each level the (node, partner) pairs, sorted; per_node: how many samples of its own partners a node takes
    about, where they have as many points.
    """
    result: list[Samples] = []
    for level, pairs in enumerate(far):
        own = _of_partners(other, level, pairs, per_node)
        result.append(joined(own, _thinned(result[-1]), level) if level else own)
    return result


def _of_partners(other: ClusterTree, level: int, pairs: IntArray, per_node: int) -> Samples:
    nodes = 1 << level
    partners = np.bincount(pairs[:, 0], minlength=nodes)
    sizes = other.sizes(level)[pairs[:, 1]]
    wanted = -(-per_node // np.maximum(partners, 1))[pairs[:, 0]]
    counts = np.minimum(wanted, sizes)
    pair = np.repeat(np.arange(len(pairs)), counts)
    number = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    # the samples divide the partner into stretches of equal length, and are their middles
    position = other.starts(level)[pairs[pair, 1]] + ((2 * number + 1) * sizes[pair]) // (2 * counts[pair])
    weight = np.sqrt(sizes[pair] / counts[pair])
    taken = np.bincount(pairs[pair, 0], minlength=nodes)
    return Samples(position, weight, np.append(0, np.cumsum(taken)))


def _thinned(parents: Samples) -> Samples:
    """For the two children of each parent every second one of its samples, each other ones."""
    counts = np.diff(parents.pointers)
    node = np.repeat(np.arange(len(counts)), counts)
    turn = (np.arange(len(node)) - parents.pointers[node]) & 1
    alone = counts[node] == 1
    order, weights = [], []
    for side in (0, 1):
        chosen = np.flatnonzero((turn == side) | alone)
        order.append(chosen)
        weights.append(parents.weights[chosen] * np.where(alone[chosen], 1.0, np.sqrt(2.0)))
    child = np.concatenate([2 * node[order[0]], 2 * node[order[1]] + 1])
    arranged = np.argsort(child, kind="stable")
    picked = np.concatenate(order)[arranged]
    pointers = np.append(0, np.cumsum(np.bincount(child, minlength=2 * len(counts))))
    return Samples(parents.positions[picked], np.concatenate(weights)[arranged], pointers)


def joined(first: Samples, second: Samples, level: int) -> Samples:
    """The samples of both for each node of a level."""
    counts = [np.diff(s.pointers) for s in (first, second)]
    node = np.concatenate([np.repeat(np.arange(1 << level), c) for c in counts])
    order = np.argsort(node, kind="stable")
    positions = np.concatenate([first.positions, second.positions])[order]
    weights = np.concatenate([first.weights, second.weights])[order]
    return Samples(positions, weights, np.append(0, np.cumsum(counts[0] + counts[1])))
