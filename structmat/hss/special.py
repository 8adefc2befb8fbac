"""Constructors of HSSMatrix for matrices that say what they are: sparse, Toeplitz, Cauchy-like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._inputs import (
    _checked_sparse,
    _depth_for,
    _hermitian_part,
    _nonempty,
    _require_hermitian_toeplitz,
    diagonal_trees,
)
from .._typing import NumpyArray, RandomLike
from ..certificate import Certificate
from ..certify import in_range
from ..exceptions import ShapeError
from ..tree import as_tree_pair
from . import from_sparse as sparse_builder
from .cauchy import CauchySource, node_trees, require_distinct
from .toeplitz import ToeplitzOperator

if TYPE_CHECKING:
    from .constructors import TreeLike
    from .matrix import HSSMatrix


class SpecialConstructors:
    """Ways to build an HSS matrix without its entries ever being stored as a dense array."""

    @classmethod
    def from_sparse(
        cls,
        s: Any,
        tree: TreeLike = None,
        *,
        rtol: float = 1e-12,
        symmetric: bool = False,
        leaf_size: int = 64,
    ) -> HSSMatrix:
        """Convert a sparse or banded matrix.

        Parameters
        ----------
        s : (m, n) scipy.sparse array or matrix
            In any format; float32, float64, complex64 or complex128 (integers become float64). Duplicates are
            summed.
        tree : ClusterTree or pair of them, optional
            Default: balanced, leaves of at most `leaf_size`; of a rectangular matrix the better of two pairs,
            with the diagonal of the tree along i / m = j / n or along i = j. The ordering decides the ranks:
            the rank of a block is at most the number of its nonzeros.
        rtol : float
            Allowed Frobenius error, relative to the norm of `s`. Guaranteed.
        symmetric : bool
            `s` is Hermitian (checked): one basis and half of the couplings are stored.

        Warns
        -----
        StructureWarning
            When the result is larger than a dense array, as for randomly scattered nonzeros.

        Notes
        -----
        Cost O(nnz + n k^2) with k the number of nonzero rows (columns) that a block of the tree has beyond
        it; long rows and columns count once. No dense block larger than a leaf is formed.

        Examples
        --------
        >>> import scipy.sparse, structmat as sm
        >>> S = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(5000, 5000))
        >>> A = sm.HSSMatrix.from_sparse(S, symmetric=True)
        >>> A.max_rank, A[7, 8]
        (2, np.float64(-1.0))
        """
        from .constructors import _finished, _require_one_tree, _unchecked
        from .truncate import truncate

        matrix = _checked_sparse(s)
        tolerance, leaf_size = _check.tolerance(rtol), _check.positive_integer(leaf_size, "leaf_size")
        if symmetric:
            matrix = _hermitian_part(matrix)
        row_tree, col_tree = as_tree_pair(tree, matrix.shape, leaf_size=leaf_size)
        if symmetric:
            _require_one_tree(row_tree, col_tree)
        coordinates = matrix.tocoo()
        if tree is None and matrix.shape[0] != matrix.shape[1]:
            pairs = [(row_tree, col_tree), diagonal_trees(row_tree.n, col_tree.n, row_tree.depth)]
            row_tree, col_tree = min(pairs, key=lambda pair: sparse_builder.unit_numbers(coordinates, *pair))
        g = sparse_builder.build(coordinates, row_tree, col_tree, symmetric=symmetric)
        cut, error, size = truncate(g, rtol=tolerance)
        eps = float(np.finfo(matrix.dtype).eps)
        bound = max(error / size if size > 0 else 0.0, eps)
        certificate = Certificate(
            max(tolerance, 32 * eps), bound, bound, 1.0, "guaranteed by truncation", entries=int(matrix.nnz)
        )
        certificate = in_range(certificate, size, _unchecked(cut, row_tree, col_tree))
        return _finished(cut, row_tree, col_tree, certificate)

    @classmethod
    def from_toeplitz(
        cls, c: Any, r: Any = None, tree: TreeLike = None, *, rtol: float = 1e-8, symmetric: bool = False,
        leaf_size: int = 64, rng: RandomLike = 0,
    ) -> HSSMatrix:  # fmt: skip
        """Compress a Toeplitz matrix from its products, which fast Fourier transforms give.

        Parameters
        ----------
        c : (m,) array_like
            First column.
        r : (n,) array_like, optional
            First row; `r[0]` is not looked at. Default: `conj(c)`, as in `scipy.linalg.toeplitz`.
        tree : ClusterTree or pair of them, optional
            Default: balanced, leaves of at most `leaf_size` (on the shorter side; there the longer side is
            ordered such that the leaves on the diagonal hold the entries with i = j).
        rtol : float
            Allowed Frobenius error, relative to the norm of the matrix; estimated from 10 independent probes.
        symmetric : bool
            The matrix is Hermitian (checked on `c` and `r`): half of the products, half of the storage.
        rng : seed or numpy.random.Generator
            For the probes.

        Notes
        -----
        Cost O(k) products of O(n log n), and O(n (leaf_size + k)^2) work; memory O(n (leaf_size + k)).

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> A = sm.HSSMatrix.from_toeplitz(1 / (1 + np.arange(2000)), symmetric=True)
        >>> A.certificate.met, bool(abs(A[3, 10] - 1 / 8) < 1e-7)
        (True, True)
        """
        column = _nonempty(_check.vector(c, "c"), "c")
        row = column.conj() if r is None else _nonempty(_check.vector(r, "r"), "r")
        dtype = np.result_type(column, row)
        column, row = column.astype(dtype, copy=False), row.astype(dtype, copy=False)
        if symmetric:
            _require_hermitian_toeplitz(column, row)
        from .matrix import HSSMatrix

        operator = ToeplitzOperator(column, row)
        if tree is None and len(column) != len(row):
            tree = diagonal_trees(*operator.shape, _depth_for(operator.shape, leaf_size))
        return HSSMatrix.from_operator(operator, tree, rtol=rtol, symmetric=symmetric, leaf_size=leaf_size, rng=rng)

    @classmethod
    def from_structured(cls, other: Any, *, rtol: float | None = None) -> HSSMatrix:
        """Convert a matrix of any format, on its trees.

        Parameters
        ----------
        other : StructuredMatrix
            HODLR, H, HSS or H2. A Hermitian matrix stays one.
        rtol : float, optional
            Allowed Frobenius error of the conversion, relative to the norm of `other`; default: the tolerance of
            `other`. Guaranteed.

        Notes
        -----
        Nested bases from the leaves up, of block rows that are kept by their factors: O(n k^2 log^2 n) with k the rank
        of a block. For H and H2, blocks off the diagonal are agglomerated first.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 1000)
        >>> H = sm.HODLRMatrix.from_kernel(lambda x, y: np.exp(-abs(x[:, None] - y)), x)
        >>> A = sm.HSSMatrix.from_structured(H)
        >>> bool(np.allclose(A @ x, H @ x)), A.certificate.met
        (True, True)
        """
        from ..convert import to_hss

        return to_hss(other, rtol=rtol)

    @classmethod
    def from_cauchy_like(
        cls, x: Any, y: Any, g: Any = None, h: Any = None, tree: TreeLike = None, *, rtol: float = 1e-8,
        atol: float = 0.0, max_rank: int | None = None, leaf_size: int = 64, rng: RandomLike = 0,
    ) -> HSSMatrix:  # fmt: skip
        """Compress the Cauchy-like matrix with entries `sum_k g[i, k] conj(h[j, k]) / (x[i] - y[j])`.

        Parameters
        ----------
        x, y : (m,), (n,) array_like
            Row and column nodes, real or complex; none of `x` is one of `y`.
        g, h : (m, r), (n, r) array_like, optional
            Generators; (m,) and (n,) for r = 1. Default: ones, the Cauchy matrix itself.
        tree : pair of ClusterTree, optional
            Default: from the nodes (complex ones in the plane), both split along the same axes, with leaves
            of at most `leaf_size` on the side that is shorter.
        rtol, atol : float
            Allowed Frobenius error, relative to the norm of the matrix or absolute; the larger one counts.
            Estimated from entries that were not used in building; see `certificate`.
        max_rank : int, optional
            No rank exceeds this.
        rng : seed or numpy.random.Generator
            For the entries that check the result.

        Raises
        ------
        NonFiniteError
            When a node of `x` is a node of `y`.

        Notes
        -----
        Cost O(n k^2) and O(n k r) for the entries, memory O(n k). The ranks are small where the nodes are on
        a line or a curve and the two sets have the same density, or are apart.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> roots = np.exp(2j * np.pi * np.arange(1000) / 1000)
        >>> A = sm.HSSMatrix.from_cauchy_like(roots, roots * np.exp(1j * np.pi / 1000))
        >>> A.shape, A.certificate.met
        ((1000, 1000), True)
        """
        from .constructors import _from_source

        nodes = [_nonempty(_check.vector(v, name), name) for v, name in ((x, "x"), (y, "y"))]
        factors = _cauchy_generators(g, h, len(nodes[0]), len(nodes[1]))
        dtype = np.result_type(*nodes, *(f for f in factors if f is not None))
        rows, cols = (v.astype(dtype, copy=False) for v in nodes)
        require_distinct(rows, cols)
        left, right = (
            np.ones((len(v), 1), dtype=dtype) if f is None else f.astype(dtype, copy=False)
            for v, f in zip((rows, cols), factors, strict=True)
        )
        if tree is None:
            row_tree, col_tree = node_trees(rows, cols, _depth_for((len(rows), len(cols)), leaf_size))
        else:
            row_tree, col_tree = as_tree_pair(tree, (len(rows), len(cols)))
        source = CauchySource(rows, cols, left, right)
        return _from_source(source, row_tree, col_tree, rtol, atol, max_rank, False, rng, None)


def _cauchy_generators(g: Any, h: Any, rows: int, cols: int) -> tuple[NumpyArray | None, NumpyArray | None]:
    """The checked g (m, r) and h (n, r), None for ones."""
    out: list[NumpyArray | None] = []
    for value, name, count in ((g, "g", rows), (h, "h", cols)):
        if value is None:
            out.append(None)
            continue
        array = np.asarray(value)
        array = _check.matrix(array[:, None] if array.ndim == 1 else array, name)
        if array.shape[0] != count:
            nodes = "x" if name == "g" else "y"
            raise ShapeError(f"{name} has {array.shape[0]} rows, but there are {count} nodes {nodes}")
        out.append(array)
    ranks = [1 if a is None else a.shape[1] for a in out]
    if ranks[0] != ranks[1]:
        raise ShapeError(f"g (m, r) and h (n, r) must have the same r, but they have {ranks[0]} and {ranks[1]} columns")
    return out[0], out[1]
