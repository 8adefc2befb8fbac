"""Checks of what the constructors of the formats are given, and the trees that follow from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse

from . import _check
from ._backend import adjoint, namespace, squared_norm, to_numpy
from ._typing import Array, NumpyArray
from .exceptions import ShapeError, SymmetryError, TreeMismatchError
from .sources import EntrySource
from .tree import ClusterTree, as_tree_pair

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


def _require_square_entries(source: EntrySource) -> None:
    if source.shape[0] != source.shape[1]:
        raise SymmetryError(f"symmetric=True needs a square matrix, but its shape is {source.shape}")


def _require_hermitian_entries(source: EntrySource, rng: np.random.Generator) -> None:
    pick = np.unique(rng.integers(0, source.shape[0], 64))
    block = source.block(pick, pick)
    gap, size = float(np.linalg.norm(block - block.conj().T)), float(np.linalg.norm(block))
    if gap > 1e4 * np.finfo(source.dtype).eps * size:
        raise SymmetryError(
            f"symmetric=True, but on sampled entries ||A - A^H|| / ||A|| = {gap / size:.2e}; leave symmetric out"
        )


def _require_hermitian_products(x: Array, y: Array) -> None:
    """X^H A X must be Hermitian."""
    form = to_numpy(namespace(x, y).matmul(adjoint(x), y))
    gap, size = float(np.linalg.norm(form - form.conj().T)), float(np.linalg.norm(form))
    rounding = 1e4 * np.finfo(form.dtype).eps * np.sqrt(squared_norm(x) * squared_norm(y))
    if gap > max(1e-5 * size, rounding):
        raise SymmetryError(
            f"symmetric=True, but the operator is not Hermitian: X^H A X differs from its adjoint by {gap / size:.1e} "
            "for random X; leave symmetric out (products with the adjoint are then needed)"
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


def _depth_for(shape: tuple[int, int], leaf_size: int) -> int:
    """The depth at which the shorter side has leaves of at most `leaf_size`."""
    return ClusterTree.balanced(min(shape), _check.positive_integer(leaf_size, "leaf_size")).depth


def diagonal_trees(m: int, n: int, depth: int) -> tuple[ClusterTree, ClusterTree]:
    """Trees of a rectangular matrix whose diagonal blocks hold the entries with i = j.

    The longer side has, in each leaf, the indices of the other side's leaf and an equal stretch of what is
    beyond.
    """
    common, beyond = np.arange(min(m, n)), np.arange(abs(m - n))
    where = np.concatenate([(common + 0.5) / len(common), (beyond + 0.5) / max(1, len(beyond))])
    longer = ClusterTree(max(m, n), depth, np.argsort(where, kind="stable"))
    shorter = ClusterTree(min(m, n), depth)
    return (longer, shorter) if m > n else (shorter, longer)


def sparse_trees(given: TreeLike, shape: tuple[int, int], leaf_size: int) -> tuple[ClusterTree, ClusterTree]:
    """The trees of a sparse matrix: those given, or balanced ones with the diagonal in the leaves on the diagonal."""
    leaf_size = _check.positive_integer(leaf_size, "leaf_size")
    if given is None and shape[0] != shape[1]:
        given = diagonal_trees(*shape, _depth_for(shape, leaf_size))
    return as_tree_pair(given, shape, leaf_size=leaf_size)


def _checked_sparse(s: Any) -> Any:
    """Coordinate form, duplicates summed and zeros dropped, in a supported precision."""
    if not sparse.issparse(s):
        raise TypeError(
            f"s must be a scipy.sparse array or matrix, but it is a {type(s).__name__}; "
            "use from_dense for an array, or scipy.sparse.coo_array(s)"
        )
    given: Any = s  # the type that scipy narrows to knows neither shape nor dtype
    if given.ndim != 2:
        raise ShapeError(f"s must be 2-D, but it has {given.ndim} dimensions (shape {given.shape})")
    if 0 in given.shape:
        raise ShapeError(f"s must have at least one row and one column, but its shape is {given.shape}")
    matrix = sparse.csr_array(given, dtype=_check.supported_dtype(given.dtype), copy=True)
    matrix.sum_duplicates()
    _check.finite(matrix.data, "the data of s")
    matrix.eliminate_zeros()
    return matrix


def is_hermitian(s: Any) -> bool:
    """Whether a sparse matrix equals its adjoint up to rounding."""
    return s.ndim == 2 and s.shape[0] == s.shape[1] and _hermitian_gap(_checked_sparse(s)) <= 1.0


def _hermitian_gap(s: Any) -> float:
    """||S - S^H||_F in units of what rounding explains, 100 eps ||S||_F."""
    allowed = 100.0 * float(np.finfo(s.dtype).eps) * float(np.linalg.norm(s.data))
    gap = float(np.linalg.norm((s - s.conj().T).data))
    return gap / allowed if gap > 0.0 else 0.0


def _hermitian_part(s: Any) -> Any:
    if s.shape[0] != s.shape[1]:
        raise SymmetryError(f"symmetric=True needs a square matrix, but its shape is {s.shape}")
    gap = _hermitian_gap(s)
    if gap > 1.0:
        raise SymmetryError(
            f"symmetric=True, but ||S - S^H|| / ||S|| = {100 * np.finfo(s.dtype).eps * gap:.2e}; leave "
            "symmetric out or pass (S + S.conj().T) / 2"
        )
    return ((s + s.conj().T) * s.dtype.type(0.5)).tocsr()


def _nonempty(values: NumpyArray, name: str) -> NumpyArray:
    if values.size == 0:
        raise ShapeError(f"{name} is empty; a matrix needs at least one row and one column")
    return values


def _require_hermitian_toeplitz(column: NumpyArray, row: NumpyArray) -> None:
    if len(column) != len(row):
        raise SymmetryError(f"symmetric=True needs a square matrix, but c has length {len(column)} and r {len(row)}")
    gap = np.abs(np.append(row[1:] - column[1:].conj(), column[0].imag))
    if gap.max() > 100 * np.finfo(column.dtype).eps * np.abs(column).max():
        raise SymmetryError(
            f"symmetric=True, but r differs from conj(c) by {gap.max():.2e} (c[0] must be real); leave symmetric out"
        )


def _point_sets(points: Any, column_points: Any, symmetric: bool) -> tuple[NumpyArray, NumpyArray]:
    """The points of the rows and of the columns, one object where they are the same."""
    rows = _check.points(points)
    cols = rows if column_points is None else _check.points(column_points, "column_points")
    if rows.ndim != cols.ndim or rows.shape[1:] != cols.shape[1:]:
        raise ShapeError(
            f"points and column_points must have one dimension, but their shapes are {rows.shape} and {cols.shape}"
        )
    if symmetric and column_points is not None:
        raise SymmetryError("symmetric=True needs the same points for rows and columns; leave column_points out")
    return rows, cols


def _low_rank_factors(u: Any, v: Any, symmetric: bool) -> tuple[NumpyArray, NumpyArray]:
    """U (m, r) and V (n, r), checked; one object where V is U."""
    left = _factor(u, "u")
    right = left if v is u or v is None else _factor(v, "v")
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ShapeError(
            f"u (m, r) and v (n, r) must have the same r, but their shapes are {left.shape} and {right.shape}"
        )
    if symmetric and right is not left and not np.array_equal(left, right):
        raise SymmetryError("symmetric=True stands for U U^H, but v differs from u")
    return left, right


def _factor(u: Any, name: str) -> NumpyArray:
    """A factor (m, r), checked; r may be 0."""
    shape = tuple(u.shape) if hasattr(u, "shape") else np.shape(u)
    return np.zeros(shape) if 0 in shape else _check.matrix(u, name)


def _require_above_noise(rtol: float, noise: float) -> None:
    if noise and rtol < 5.0 * noise:
        raise ValueError(
            f"rtol = {rtol:.3g} is below what products with relative error noise = {noise:.3g} can give; "
            f"ask for rtol >= {5 * noise:.3g}"
        )
