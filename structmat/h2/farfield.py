"""Samples of the far field: for each node some of the points that its basis has to serve, with weights.

The basis of a node serves its own admissible partners and those of all its ancestors. Its partners are divided into
parts, and from each part points are taken in proportion to its size and to a power of how near it is: what is near
varies most. They are spread evenly over the part's stretch of the tree's order, which is spread evenly in space. Of the
samples of its parent a node takes every second one. Each sample stands for the points nearest to it, so that the
weighted samples have the Frobenius norm of the whole far field, in the mean. Partners that touch are for `touching`.

Reference: D. Cai, H. Huang, E. Chow, Y. Xi, "Data-driven construction of hierarchical matrices with nested bases", SIAM
J. Sci. Comput. 46 (2024) S24-S50. Departure: samples come from the order of the tree, not from a farthest-point search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..tree import ClusterTree

# a partner is looked at in 2**PARTS_LEVELS parts; at twice the distance a part has 2**-NEARNESS of the samples. With
# these the error at other points is half of that with even samples (3-D, 1 / r, 1e-6; 2-D, log r, 1e-8)
PARTS_LEVELS, NEARNESS = 2, 3


@dataclass(frozen=True)
class Samples:
    """The samples of the nodes of one level, one node after another.

    Attributes
    ----------
    positions : (total,) int array
        Positions in the order of the other tree; in `points`, where these are there.
    weights : (total,) array
        Square roots of how many points each stands for.
    pointers : (2**level + 1,) int array
        Where those of each node begin.
    points : (total, d) array, optional
        Proxies: points that stand for those of the matrix.
    """

    positions: IntArray
    weights: NumpyArray
    pointers: IntArray
    points: NumpyArray | None = None


def far_samples(tree: ClusterTree, other: ClusterTree, far: list[IntArray], per_node: int) -> list[Samples]:
    """Samples for the nodes of all levels of `tree`, 0 .. depth.

    far: for each level the (node, partner) pairs, sorted; per_node: how many samples of its own partners a node takes
    about, where they have as many points.
    """
    result: list[Samples] = []
    for level, pairs in enumerate(far):
        own = _of_partners(tree, other, level, pairs, per_node)
        result.append(joined(own, _thinned(result[-1]), level) if level else own)
    return result


def _of_partners(tree: ClusterTree, other: ClusterTree, level: int, pairs: IntArray, per_node: int) -> Samples:
    """Systematic samples of the parts of the partners: as many of each as is its due, on the whole."""
    nodes = 1 << level
    node, starts, sizes, nearness = _parts(tree, other, level, pairs)
    totals = np.bincount(node, sizes * nearness, minlength=nodes)
    due = np.minimum(per_node * sizes * nearness / totals[node], sizes)
    ends = np.cumsum(due)
    bounds = np.append(0.0, ends)[np.searchsorted(node, np.arange(nodes + 1))]
    counts = np.floor(np.diff(bounds) + 0.5).astype(np.int64)
    pointers = np.append(0, np.cumsum(counts))
    owner = np.repeat(np.arange(nodes), counts)
    step = np.diff(bounds) / np.maximum(counts, 1)
    wanted = bounds[owner] + (np.arange(len(owner)) - pointers[owner] + 0.5) * step[owner]
    part = np.minimum(np.searchsorted(ends, wanted, side="right"), max(0, len(ends) - 1))
    inside = (wanted - ends[part] + due[part]) / due[part] * sizes[part]
    positions = starts[part] + np.clip(inside.astype(np.int64), 0, sizes[part] - 1)
    return Samples(positions, np.sqrt(sizes[part] / due[part] * step[owner]), pointers)


def _parts(
    tree: ClusterTree, other: ClusterTree, level: int, pairs: IntArray
) -> tuple[IntArray, IntArray, IntArray, NumpyArray]:
    """The node, first position, size and nearness of each part of each partner."""
    down = min(PARTS_LEVELS, other.depth - level)
    node = np.repeat(pairs[:, 0], 1 << down)
    part = ((pairs[:, 1:] << down) + np.arange(1 << down)).ravel()
    distances, diameters = box_distances(tree, other, level, level + down, node, part)
    # of touching parts, which weak admissibility allows, those within a tenth of the diameter are alike
    nearness = np.maximum(distances / np.where(diameters > 0, diameters, 1.0), 0.1) ** -float(NEARNESS)
    return node, other.starts(level + down)[part], other.sizes(level + down)[part], nearness


def box_distances(
    tree: ClusterTree, other: ClusterTree, level: int, other_level: int, nodes: IntArray, others: IntArray
) -> tuple[NumpyArray, NumpyArray]:
    """Distances between the boxes of nodes and of others, and the diameters of the nodes' boxes."""
    squares, diameters = np.zeros(len(nodes)), np.zeros(1 << level)
    (low, high), (other_low, other_high) = tree.boxes[level], other.boxes[other_level]
    for axis in range(low.shape[1]):
        gap = np.maximum(other_low[others, axis] - high[nodes, axis], low[nodes, axis] - other_high[others, axis])
        squares += np.maximum(gap, 0.0) ** 2
        diameters += (high[:, axis] - low[:, axis]) ** 2
    return np.sqrt(squares), np.sqrt(diameters)[nodes]


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
