"""Far-field samples: for each node a few of the indices outside it, with weights, that stand for all of them.

The other tree is walked from its root as in J. Barnes, P. Hut, Nature 324 (1986) 446-449: a node that is far from the
box of t compared with its own size is represented by a few of its points, a leaf next to t by its points. So the
number of samples grows with the logarithm of n and, in d > 1 dimensions, with the surface of the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .._typing import IntArray, NumpyArray
from ..tree import ClusterTree


@dataclass(frozen=True)
class SamplingRule:
    """How densely the far field is sampled.

    Attributes
    ----------
    per_node : int
        Samples from each far node.
    nearest : int
        In one dimension, how many points of a neighbouring leaf are taken before thinning sets in.
    ends : bool
        Sample also towards both ends of the index range of a far node, for matrices that wrap around.
    """

    per_node: int = 3
    nearest: int = 8
    ends: bool = False

    @classmethod
    def for_tolerance(cls, rtol: float, components: int = 1) -> SamplingRule:
        """What suffices for kernels that are smooth off the diagonal; a failed check asks for a finer rule.

        Of several components, which are indices of their own, each has to be seen.
        """
        digits = int(np.ceil(-np.log10(min(rtol, 0.1))))
        return cls(per_node=components * (2 + (digits >= 8) + (digits > 10)), nearest=components * max(8, digits))

    def finer(self) -> SamplingRule:
        """The rule to try where this one was too coarse."""
        return SamplingRule(2 * self.per_node, 2 * self.nearest, ends=True)


def far_samples(tree: ClusterTree, other: ClusterTree, level: int, rule: SamplingRule) -> tuple[IntArray, NumpyArray]:
    """Samples of `other` outside node t, for each node t of a level of `tree`.

    Returns
    -------
    positions : (2**level, s) int array
        Sorted positions in `other`, padded with -1 at the end.
    weights : (2**level, s) array
        Square roots of how many indices each sample stands for; 0 at the padding.
    """
    node = np.arange(2**level)
    # all that is outside t: the siblings of t and of its ancestors
    siblings = [np.stack([node, (node >> up) ^ 1, np.full(len(node), level - up)], axis=1) for up in range(level)]
    return walked(tree, other, level, np.concatenate(siblings[::-1]), rule)


def walked(
    tree: ClusterTree, other: ClusterTree, level: int, starts: IntArray, rule: SamplingRule
) -> tuple[IntArray, NumpyArray]:
    """Samples as `far_samples` takes them, below some nodes of `other` only.

    starts (nb, 3): a node t of `level`, a node of `other`, and the level that this one is on.
    """
    owners, positions, weights = ([np.zeros(0, dtype=np.int64)] for _ in range(3))
    pairs = starts[:0, :2]  # (t, s), s on level `step`
    for step in range(other.depth + 1):
        pairs = np.concatenate([pairs, starts[starts[:, 2] == step, :2]])
        far = _is_far(tree, other, level, step, pairs)
        for owner, position, weight in _taken(tree, other, level, step, pairs, far, rule):
            owners.append(owner)
            positions.append(position)
            weights.append(weight)
        near = pairs[~far]
        pairs = np.stack([np.repeat(near[:, 0], 2), (2 * near[:, 1, None] + np.arange(2)).ravel()], axis=1)
    return _padded(np.concatenate(owners), np.concatenate(positions), np.concatenate(weights), 2**level)


def _is_far(tree: ClusterTree, other: ClusterTree, level: int, step: int, pairs: IntArray) -> NumpyArray:
    low, high = (corner[pairs[:, 0]] for corner in tree.boxes[level])
    other_low, other_high = (corner[pairs[:, 1]] for corner in other.boxes[step])
    gap = np.maximum(0.0, np.maximum(other_low - high, low - other_high))
    return (gap**2).sum(axis=1) >= ((other_high - other_low) ** 2).sum(axis=1)


def _taken(
    tree: ClusterTree, other: ClusterTree, level: int, step: int, pairs: IntArray, far: NumpyArray, rule: SamplingRule,
) -> Iterator[tuple[IntArray, IntArray, NumpyArray]]:  # fmt: skip
    """Yield flat arrays (owner, position, weight) for the pairs whose walk ends on this step."""
    bounds = np.append(other.starts(step), other.n)
    for mask, choose in (
        (far, _spread),
        (~far if step == other.depth else np.zeros_like(far), _neighbours),
    ):
        if mask.any():
            start, stop = bounds[pairs[mask, 1]], bounds[pairs[mask, 1] + 1]
            position, weight = choose(tree, other, level, pairs[mask, 0], start, stop, rule)
            keep = weight > 0
            owner = np.broadcast_to(pairs[mask, 0][:, None], position.shape)
            yield owner[keep], position[keep], weight[keep]


def _spread(
    tree: ClusterTree, other: ClusterTree, level: int, owner: IntArray, start: IntArray, stop: IntArray,
    rule: SamplingRule,
) -> tuple[IntArray, NumpyArray]:  # fmt: skip
    """Evenly spaced positions of each far node; with `ends`, also ever closer to its first and last one."""
    size = (stop - start)[:, None]
    count = rule.per_node
    middle = ((np.arange(count) + 0.5) * size / count).astype(np.int64)
    if rule.ends:
        steps = 2 ** np.arange(int(size.max()).bit_length()) - 1
        middle = np.sort(np.concatenate([middle, np.minimum(steps, size - 1), np.maximum(size - 1 - steps, 0)], axis=1))
    # each sample stands for the indices nearest to it; repeated ones get weight 0
    edges = (middle[:, 1:] + middle[:, :-1] + 1) // 2
    edges = np.concatenate([np.zeros_like(size), np.maximum.accumulate(edges, axis=1), size], axis=1)
    weight = np.sqrt(np.diff(edges, axis=1).astype(np.float64))
    fresh = np.concatenate([np.ones_like(size, dtype=bool), middle[:, 1:] > middle[:, :-1]], axis=1)
    return start[:, None] + middle, np.where(fresh, np.maximum(weight, 1.0), 0.0)


def _neighbours(
    tree: ClusterTree, other: ClusterTree, level: int, owner: IntArray, start: IntArray, stop: IntArray,
    rule: SamplingRule,
) -> tuple[IntArray, NumpyArray]:  # fmt: skip
    """The points of leaves next to t: all in d > 1, and where it overlaps t; else the nearest, then ever fewer."""
    slots = start[:, None] + np.arange(other.leaf_size)
    inside = slots < stop[:, None]
    slots = np.minimum(slots, other.n - 1)
    if other.coordinates.shape[1] > 1 or rule.nearest >= other.leaf_size:
        return slots, inside.astype(np.float64)
    low, high = (corner[owner] for corner in tree.boxes[level])  # (pairs, 1)
    x = other.coordinates[slots, 0]
    distance = np.where(inside, np.maximum(np.maximum(low - x, x - high), 0.0), np.inf)
    # clusters of two sets may overlap: what is inside of t is not known from some of it
    overlapping = (distance == 0.0).sum(axis=1) > rule.nearest
    order = np.argsort(distance, axis=1, kind="stable")
    picks = [*range(rule.nearest)]
    while picks[-1] < other.leaf_size - 1:
        picks.append(min(other.leaf_size - 1, max(picks[-1] + 1, int(1.4 * picks[-1]))))
    stands_for = np.diff(np.array([-1, *picks]))
    if not overlapping.any():
        chosen = np.take_along_axis(slots, order[:, picks], axis=1)
        return chosen, np.where(np.take_along_axis(inside, order[:, picks], axis=1), np.sqrt(stands_for), 0.0)
    weights = np.zeros(slots.shape)
    np.put_along_axis(weights, order[:, picks], np.sqrt(stands_for), axis=1)
    weights[overlapping] = 1.0
    return slots, weights * inside


def _padded(owner: IntArray, position: IntArray, weight: NumpyArray, count: int) -> tuple[IntArray, NumpyArray]:
    order = np.argsort(owner, kind="stable")
    many = np.bincount(owner, minlength=count)
    column = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
    positions = np.full((count, int(many.max(initial=0))), -1, dtype=np.int64)
    weights = np.zeros(positions.shape)
    positions[owner[order], column] = position[order]
    weights[owner[order], column] = weight[order]
    return positions, weights
