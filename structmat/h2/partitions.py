"""The partition of an H2-matrix: its dense blocks are pairs of leaves, and no block is the whole matrix."""

from __future__ import annotations

import numpy as np

from ..partition import BlockPartition, children


def for_nested_bases(partition: BlockPartition) -> BlockPartition:
    """The same cover with dense blocks divided down to the leaves, and an admissible root divided once."""
    depth = partition.depth
    far, near = list(partition.far), list(partition.near)
    if len(far[0]):
        moved = children(far[0]) if depth else far[0]
        target = far if depth else near
        level = 1 if depth else 0
        target[level] = np.concatenate([target[level], moved])
        far[0] = far[0][:0]
    for level in range(depth):
        near[level + 1] = np.concatenate([near[level + 1], children(near[level])])
        near[level] = near[level][:0]
    far, near = ([b[np.lexsort((b[:, 1], b[:, 0]))] for b in blocks] for blocks in (far, near))
    return BlockPartition(partition.row_tree, partition.col_tree, tuple(far), tuple(near))
