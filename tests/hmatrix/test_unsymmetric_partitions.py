"""H-LU over partitions that are not symmetric: a low-rank factor meets a dense one on the diagonal, too."""

import numpy as np
import pytest

import structmat as sm
from structmat.testing import random_flat
from tests.cases import any_blocks


def below(_row_tree, _col_tree, _level, i, j):
    return i > j


def above(_row_tree, _col_tree, _level, i, j):
    return i < j


@pytest.mark.parametrize("condition", [below, above, any_blocks])
@pytest.mark.parametrize(("n", "leaf_size"), [(90, 6), (100, 3), (300, 10)])
def test_products_of_low_rank_and_dense_blocks_reach_the_diagonal(condition, n, leaf_size, rng):
    tree = sm.ClusterTree.balanced(n, leaf_size)
    partition = sm.BlockPartition.build(tree, admissibility=condition)
    assert not partition.is_symmetric
    for rank in (1, 3, 5):
        a, d = random_flat(rng, sm.HMatrix, tree, rank, partition=partition, shift=5 * np.sqrt(n))
        b = rng.standard_normal((n, 2))
        x = a.factorize().solve(b)
        assert np.linalg.norm(d @ x - b) <= 1e-12 * np.linalg.norm(b)
