"""Random exact matrices of the flat formats with their dense twins, over partitions of all kinds."""

import numpy as np

import structmat as sm
from structmat.testing import random_flat
from tests.cases import any_blocks

FORMATS = [sm.HODLRMatrix, sm.HMatrix]
DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
CONDITIONS = [sm.StrongAdmissibility(), sm.StrongAdmissibility(0.7), sm.WeakAdmissibility(), any_blocks]


def random_trees(rng, rectangular=False):
    n, leaf = int(rng.integers(1, 150)), int(rng.integers(1, 20))
    if rng.random() < 0.3:
        rows = sm.ClusterTree.from_points(rng.random((n, 1)), leaf)
    else:
        rows = sm.ClusterTree.balanced(n, leaf)
    if not rectangular:
        return rows, rows
    return rows, sm.ClusterTree.balanced(int(rng.integers(2**rows.depth, 2**rows.depth + 90)), depth=rows.depth)


def random_partition(rng, rows, cols, symmetric):
    conditions = CONDITIONS[:3] if symmetric else CONDITIONS
    return sm.BlockPartition.build(rows, cols, conditions[int(rng.integers(len(conditions)))])


def random_matrix(rng, format=None, symmetric=None, rectangular=None, dtype=None, trees=None, rank=4):
    """A matrix of a format, and its dense twin; what is not said is drawn."""
    format = FORMATS[int(rng.integers(2))] if format is None else format
    symmetric = bool(rng.integers(2)) if symmetric is None else symmetric
    rectangular = not symmetric and rng.random() < 0.3 if rectangular is None else rectangular
    rows, cols = random_trees(rng, rectangular) if trees is None else trees
    dtype = DTYPES[int(rng.integers(4))] if dtype is None else dtype
    partition = None if format is sm.HODLRMatrix else random_partition(rng, rows, cols, symmetric)
    return random_flat(rng, format, rows, rank, dtype, symmetric, col_tree=cols, partition=partition)


def error(matrix, dense):
    return float(np.linalg.norm(matrix.to_dense() - dense))


def eps(dtype):
    return float(np.finfo(dtype).eps)


def numbers(rng, *shape, dtype=np.float64):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)
