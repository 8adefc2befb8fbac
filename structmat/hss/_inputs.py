"""Checks of what the constructors of HSSMatrix are given, and the trees that follow from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._typing import NumpyArray
from ..exceptions import ShapeError, SymmetryError, TreeMismatchError
from ..sources import EntrySource
from ..tree import ClusterTree, as_tree_pair

TreeLike = ClusterTree | tuple[ClusterTree, ClusterTree] | None


def _shape_of(tree: Any) -> tuple[int, int]:
    if isinstance(tree, ClusterTree):
        return tree.n, tree.n
    if isinstance(tree, (tuple, list)) and len(tree) == 2 and all(isinstance(t, ClusterTree) for t in tree):
        return tree[0].n, tree[1].n
    raise TypeError(f"tree must be a ClusterTree or a pair of them, but it is {tree!r}")


def _tolerances(rtol: float, atol: float, max_rank: int | None) -> tuple[float, int | None]:
    _check.tolerance(atol, "atol")
    cap = None if max_rank is None else _check.positive_integer(max_rank, "max_rank", minimum=0)
    return _check.tolerance(rtol), cap


def _require_one_tree(row_tree: ClusterTree, col_tree: ClusterTree) -> None:
    if row_tree is not col_tree and row_tree != col_tree:
        raise TreeMismatchError("symmetric=True needs one tree for rows and columns")


def _require_hermitian(a: NumpyArray, row_tree: ClusterTree, col_tree: ClusterTree) -> None:
    if a.shape[0] != a.shape[1]:
        raise SymmetryError(f"symmetric=True needs a square matrix, but its shape is {a.shape}")
    _require_one_tree(row_tree, col_tree)
    gap = float(np.linalg.norm(a - a.conj().T))
    size = float(np.linalg.norm(a))
    if gap > 100 * np.finfo(a.dtype).eps * size:
        raise SymmetryError(
            f"symmetric=True, but ||A - A^H|| / ||A|| = {gap / size:.2e}; leave symmetric out or pass (A + A^H) / 2"
        )


def _require_hermitian_entries(source: EntrySource, rng: np.random.Generator) -> None:
    pick = np.unique(rng.integers(0, source.shape[0], 64))
    block = source.block(pick, pick)
    gap, size = float(np.linalg.norm(block - block.conj().T)), float(np.linalg.norm(block))
    if gap > 1e4 * np.finfo(source.dtype).eps * size:
        raise SymmetryError(
            f"symmetric=True, but on sampled entries ||A - A^H|| / ||A|| = {gap / size:.2e}; leave symmetric out"
        )


def _kernel_trees(
    tree: TreeLike, rows: NumpyArray, cols: NumpyArray, leaf_size: int, *, same: bool
) -> tuple[ClusterTree, ClusterTree]:
    if tree is not None:
        return as_tree_pair(tree, (len(rows), len(cols)))
    row_tree = ClusterTree.from_points(rows, leaf_size)
    if same:
        return row_tree, row_tree
    depth = min(row_tree.depth, ClusterTree.balanced(len(cols), leaf_size).depth)
    if depth != row_tree.depth:
        row_tree = ClusterTree.from_points(rows, leaf_size, depth=depth)
    return row_tree, ClusterTree.from_points(cols, leaf_size, depth=depth)


def _sample_arrays(
    inputs: Any, outputs: Any, adjoint_inputs: Any, adjoint_outputs: Any, symmetric: bool
) -> tuple[NumpyArray, ...]:
    f, u = _check.matrix(inputs, "inputs"), _check.matrix(outputs, "outputs")
    if f.shape[1] != u.shape[1]:
        raise ShapeError(f"inputs and outputs must have as many columns, but their shapes are {f.shape} and {u.shape}")
    if symmetric:
        if f.shape != u.shape:
            raise SymmetryError(f"symmetric=True needs a square matrix, but the samples are {f.shape} and {u.shape}")
        return f, u
    if adjoint_inputs is None or adjoint_outputs is None:
        raise TypeError(
            "from_samples needs adjoint_inputs and adjoint_outputs (pairs of the adjoint), or symmetric=True for a "
            "Hermitian matrix; products with A alone do not determine it"
        )
    g, w = _check.matrix(adjoint_inputs, "adjoint_inputs"), _check.matrix(adjoint_outputs, "adjoint_outputs")
    if g.shape[1] != w.shape[1] or g.shape[0] != u.shape[0] or w.shape[0] != f.shape[0]:
        raise ShapeError(
            f"adjoint_inputs must be ({u.shape[0]}, s) and adjoint_outputs ({f.shape[0]}, s), but their shapes are "
            f"{g.shape} and {w.shape}"
        )
    return f, u, g, w
