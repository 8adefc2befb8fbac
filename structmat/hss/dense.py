"""HSS from a dense array: `nested.dense` with siblings as the admissible blocks. Cost O(n^2 k)."""

from __future__ import annotations

import numpy as np

from .._typing import NumpyArray
from ..nested import dense
from ..partition import BlockPartition, WeakAdmissibility
from ..tree import ClusterTree
from .generators import Generators


def compress(
    a: NumpyArray, row_tree: ClusterTree, col_tree: ClusterTree, *, tail: float, max_rank: int | None, symmetric: bool
) -> tuple[Generators, float]:
    """Generators and a bound of the absolute error in the Frobenius norm; at most `tail` unless max_rank cuts in."""
    depth = row_tree.depth
    weak = BlockPartition.build(row_tree, col_tree, WeakAdmissibility())
    if symmetric:  # couplings of even nodes
        far = tuple(places[places[:, 0] < places[:, 1]] for places in weak.far)
        weak = BlockPartition(row_tree, col_tree, far, weak.near)
    each = tail / np.sqrt(2.0 * max(depth, 1))
    tails = [each / np.sqrt(2.0**level) for level in range(depth + 1)]
    found = dense.compress(a, weak, (tails, tails), max_rank=max_rank, symmetric=symmetric)
    couplings = tuple(b.data for b in found.couplings)
    generators = Generators(found.near.data, found.row_basis, found.col_basis, couplings, symmetric)
    return generators, float(np.sqrt(found.square))
