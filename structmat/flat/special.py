"""Constructors of the flat formats for matrices that say what they are: sparse, Toeplitz, in another format."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._inputs import (
    TreeLike,
    _checked_sparse,
    _depth_for,
    _hermitian_part,
    _nonempty,
    _require_hermitian_toeplitz,
    _require_one_tree,
    diagonal_trees,
    sparse_trees,
)
from .._typing import IntArray, NumpyArray, RandomLike
from ..certificate import Certificate
from ..certify import in_range
from ..exceptions import ShapeError
from ..partition import Admissibility, BlockPartition
from ..tree import as_tree_pair
from .constructors import _PLACEHOLDER, _finished, _stored
from .exact import _trees_of
from .sparse import sparse_blocks
from .truncate import truncate


class FlatSpecialConstructors:
    """Ways to build a matrix of independent blocks without its entries ever being stored as a dense array."""

    @classmethod
    def from_sparse(
        cls: Any, s: Any, tree: TreeLike = None, *, rtol: float = 1e-12, symmetric: bool = False, leaf_size: int = 64,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None,
    ) -> Any:  # fmt: skip
        """Convert a sparse or banded matrix.

        Parameters
        ----------
        s : (m, n) scipy.sparse array or matrix
            In any format; float32, float64, complex64 or complex128 (integers become float64). Duplicates are summed.
        tree : ClusterTree or pair of them, optional
            Default: balanced, leaves of at most `leaf_size`; the longer side of a rectangular matrix is ordered such
            that the leaves on the diagonal hold the entries with i = j. The ordering decides the ranks; a tree from
            the points of a mesh makes most of a finite-element matrix part of the dense blocks.
        rtol : float
            Allowed Frobenius error, relative to the norm of `s`. Guaranteed.
        symmetric : bool
            `s` is Hermitian (checked): the blocks on and below the diagonal are stored.
        admissibility, partition : Admissibility, BlockPartition, optional
            For H-matrices: which blocks are compressed; default `StrongAdmissibility(eta=2.0)`.

        Notes
        -----
        Nonzeros in low-rank blocks are covered by rows and columns, then recompressed. Cost
        O(nnz + n (leaf_size + k^2) log n) with k the number of nonzero rows or columns of a block.

        Examples
        --------
        >>> import scipy.sparse, structmat as sm
        >>> S = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(5000, 5000))
        >>> A = sm.HODLRMatrix.from_sparse(S, symmetric=True)
        >>> A.max_rank, A[7, 8]
        (1, np.float64(-1.0))
        """
        matrix = _checked_sparse(s)
        tolerance = _check.tolerance(rtol)
        if symmetric:
            matrix = _hermitian_part(matrix)
        trees = sparse_trees(_trees_of(partition, tree), matrix.shape, leaf_size)
        if symmetric:
            _require_one_tree(*trees)
        chosen = cls._partition(*trees, admissibility, partition)
        cut = truncate(sparse_blocks(matrix.tocoo(), _stored(chosen, symmetric), half=symmetric), rtol=tolerance)
        eps = float(np.finfo(matrix.dtype).eps)
        bound = max(cut.error / cut.size if cut.size > 0 else 0.0, eps)
        certificate = Certificate(
            max(tolerance, 32 * eps), bound, bound, 1.0, "guaranteed by truncation", entries=int(matrix.nnz)
        )
        result = cls(cut.blocks, *trees, _PLACEHOLDER)
        return _finished(result, in_range(certificate, cut.size, result, underflow=False))

    @classmethod
    def from_toeplitz(
        cls: Any, c: Any, r: Any = None, tree: TreeLike = None, *, rtol: float = 1e-8, symmetric: bool = False,
        leaf_size: int = 64, rng: RandomLike = 0, admissibility: Admissibility | None = None,
        partition: BlockPartition | None = None,
    ) -> Any:  # fmt: skip
        """Compress a Toeplitz matrix from its first column and row.

        Parameters
        ----------
        c : (m,) array_like
            First column.
        r : (n,) array_like, optional
            First row; `r[0]` is not looked at. Default: `conj(c)`, as in `scipy.linalg.toeplitz`.
        tree : ClusterTree or pair of them, optional
            Default: balanced, leaves of at most `leaf_size` (on the shorter side; there the longer side is ordered
            such that the leaves on the diagonal hold the entries with i = j).
        rtol : float
            Allowed Frobenius error, relative to the norm of the matrix; estimated from entries of every block.
        symmetric : bool
            The matrix is Hermitian (checked on `c` and `r`): half of the storage.
        rng : seed or numpy.random.Generator
            For the entries that check the result.
        admissibility, partition : Admissibility, BlockPartition, optional
            For H-matrices: which blocks are compressed; default `StrongAdmissibility(eta=2.0)`.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> A = sm.HODLRMatrix.from_toeplitz(1 / (1 + np.arange(2000)), symmetric=True)
        >>> A.certificate.met, bool(abs(A[3, 10] - 1 / 8) < 1e-7)
        (True, True)
        """
        column = _nonempty(_check.vector(c, "c"), "c")
        row = column.conj() if r is None else _nonempty(_check.vector(r, "r"), "r")
        dtype = np.result_type(column, row)
        column, row = column.astype(dtype, copy=False), row.astype(dtype, copy=False)
        if symmetric:
            _require_hermitian_toeplitz(column, row)
        shape = len(column), len(row)
        # entry (i, j) is at i - j: the row backwards, then the column
        values = np.concatenate([row[:0:-1], column])

        def entries(i: IntArray, j: IntArray) -> NumpyArray:
            return np.asarray(values[i[:, None] - j[None, :] + len(row) - 1])

        if partition is None:
            if tree is None and shape[0] != shape[1]:
                tree = diagonal_trees(*shape, _depth_for(shape, leaf_size))
            tree = as_tree_pair(tree, shape, leaf_size=leaf_size)
        return cls.from_entries(
            entries, tree, rtol=rtol, symmetric=symmetric, dtype=dtype, admissibility=admissibility,
            partition=partition, rng=rng,
        )  # fmt: skip

    @classmethod
    def from_structured(
        cls: Any, other: Any, *, rtol: float | None = None, admissibility: Admissibility | None = None,
        partition: BlockPartition | None = None,
    ) -> Any:  # fmt: skip
        """Convert a matrix of any format, on its trees.

        Parameters
        ----------
        other : StructuredMatrix
            HODLR, H, HSS or H2. A Hermitian matrix stays one where the partition is symmetric.
        rtol : float, optional
            Allowed Frobenius error of the conversion, relative to the norm of `other`; default: the tolerance of
            `other`. Guaranteed.
        admissibility, partition : Admissibility, BlockPartition, optional
            For H-matrices: which blocks are compressed; default `StrongAdmissibility(eta=2.0)`, or the blocks of an
            H2-matrix.

        Notes
        -----
        Nested bases are written out exactly. Blocks that lie inside those of `other` are cut out exactly; larger ones
        are put together from the leaves up. Then all are recompressed. Cost O(n k^2 log n).

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 1000)
        >>> A = sm.HSSMatrix.from_kernel(lambda x, y: np.exp(-abs(x[:, None] - y)), x)
        >>> H = sm.HMatrix.from_structured(A)
        >>> bool(np.allclose(H @ x, A @ x)), H.certificate.met
        (True, True)
        """
        from ..convert import to_flat

        return to_flat(cls, other, rtol=rtol, admissibility=admissibility, partition=partition)


# of an update that is only there to be added
EXACT = Certificate(0.0, 0.0, 0.0, 1.0, "exact by construction")


def checked_update(a: Any, s: Any, *, symmetric: bool) -> Any:
    """The sparse matrix that is to be added to `a`, checked."""
    matrix = _checked_sparse(s)
    if matrix.shape != a.shape:
        raise ShapeError(f"s must have the shape of A, {a.shape}, but its shape is {matrix.shape}")
    return _hermitian_part(matrix) if symmetric else matrix


def sparse_update(a: Any, s: Any, stored: BlockPartition, *, symmetric: bool) -> Any:
    """A sparse matrix over the stored blocks of the partition of `a`, without recompression or warnings."""
    matrix = checked_update(a, s, symmetric=symmetric)
    blocks = sparse_blocks(matrix.tocoo(), stored, half=symmetric)
    return type(a)(blocks, a.row_tree, a.col_tree, EXACT)
