"""Constructors of matrices that a format holds exactly: zero, identity, diagonal and low-rank ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._inputs import TreeLike, _low_rank_factors, _shape_of
from .._typing import NumpyArray
from ..exceptions import ShapeError
from ..partition import Admissibility, BlockPartition
from ..tree import ClusterTree, as_tree_pair


def _trees_of(partition: BlockPartition | None, tree: TreeLike) -> Any:
    """The trees that were given, or those of the partition."""
    return (partition.row_tree, partition.col_tree) if tree is None and partition is not None else tree


def leaf_factors(u: NumpyArray, v: NumpyArray, trees: tuple[ClusterTree, ClusterTree]) -> tuple[NumpyArray, NumpyArray]:
    """U (m, r) and V (n, r) as padded leaf blocks of one dtype."""
    dtype = np.result_type(u, v)
    left, right = (t.to_leaves(f.astype(dtype, copy=False)) for t, f in zip(trees, (u, v), strict=True))
    return left, right


def checked_leaf_factors(
    u: Any, v: Any, trees: tuple[ClusterTree, ClusterTree], symmetric: bool
) -> tuple[NumpyArray, NumpyArray]:
    """As `leaf_factors`, for factors that the user gave."""
    left, right = _low_rank_factors(u, v, symmetric)
    as_tree_pair(trees, (left.shape[0], right.shape[0]))
    return leaf_factors(left, right, trees)


class ExactConstructors:
    """What the formats with a block partition share; each gives `_of_low_rank`."""

    @classmethod
    def from_low_rank(
        cls: Any, u: Any, v: Any, tree: TreeLike = None, *, symmetric: bool = False,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None,
    ) -> Any:  # fmt: skip
        """U V^H for U (m, r) and V (n, r), exactly; with `symmetric`, U U^H (V must be U)."""
        left, right = _low_rank_factors(u, v, symmetric)
        trees = as_tree_pair(_trees_of(partition, tree), (left.shape[0], right.shape[0]))
        return cls._of_low_rank(left, left if symmetric else right, trees, symmetric, admissibility, partition)

    @classmethod
    def zeros(
        cls: Any, tree: TreeLike, dtype: Any = np.float64, *, symmetric: bool = False,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None,
    ) -> Any:  # fmt: skip
        """The zero matrix, of rank 0."""
        given = _trees_of(partition, tree)
        trees = as_tree_pair(given, _shape_of(given))
        left, right = (np.zeros((t.n, 0), dtype=_check.supported_dtype(dtype)) for t in trees)
        return cls._of_low_rank(left, right, trees, symmetric, admissibility, partition)

    @classmethod
    def from_diagonal(cls: Any, d: Any, tree: TreeLike = None) -> Any:
        """diag(d) for a vector d (n,); stored as Hermitian where d is real."""
        values = _check.vector(d, "d")
        if values.size == 0:
            raise ShapeError("d is empty; a matrix needs at least one row")
        trees = as_tree_pair(tree, (values.size, values.size))
        return cls.zeros(trees, values.dtype, symmetric=values.dtype.kind != "c").add_diagonal(values)

    @classmethod
    def identity(cls: Any, tree: TreeLike, dtype: Any = np.float64) -> Any:
        """The identity matrix."""
        trees = as_tree_pair(tree, _shape_of(tree))
        return cls.zeros(trees, dtype, symmetric=True).add_diagonal(1.0)
