"""Constructors of H2Matrix for matrices that say what they are: low-rank, zero, identity, diagonal, sparse."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._inputs import TreeLike, _checked_sparse, _hermitian_part, _require_one_tree, sparse_trees
from .._typing import NumpyArray
from ..certificate import Certificate, exact
from ..certify import in_range
from ..flat.constructors import _stored
from ..flat.exact import ExactConstructors, _trees_of, leaf_factors
from ..partition import Admissibility, BlockPartition
from ..tree import ClusterTree
from . import arithmetic
from .from_sparse import sparse_blocks
from .truncate import truncate


class H2SpecialConstructors(ExactConstructors):
    """Ways to build an H2-matrix without any approximation, or from a sparse matrix."""

    @classmethod
    def _of_low_rank(
        cls: Any, left: NumpyArray, right: NumpyArray, trees: tuple[ClusterTree, ClusterTree], symmetric: bool,
        admissibility: Admissibility | None, partition: BlockPartition | None,
    ) -> Any:  # fmt: skip
        from .constructors import finished

        chosen = cls._partition(trees, admissibility, partition)
        factors = leaf_factors(left, right, trees)
        blocks = arithmetic.low_rank(*factors, _stored(chosen, symmetric), half=symmetric)
        certificate = exact(0.0, float(np.finfo(factors[0].dtype).eps))
        return finished(cls(blocks, *trees, certificate), certificate)

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
            that the leaves on the diagonal hold the entries with i = j. A tree from the points of a mesh makes most of
            a finite-element matrix part of the dense blocks.
        rtol : float
            Allowed Frobenius error, relative to the norm of `s`. Guaranteed.
        symmetric : bool
            `s` is Hermitian (checked): one basis and half of the blocks are stored.
        admissibility, partition : Admissibility, BlockPartition, optional
            Which blocks are compressed; default `StrongAdmissibility(eta=2.0)`.

        Notes
        -----
        Rows and columns with nonzeros in low-rank blocks are unit vectors of the bases, then all is recompressed. Cost
        O(nnz + n k^2) with k their number in a node; long rows and columns count once.

        Examples
        --------
        >>> import scipy.sparse, structmat as sm
        >>> S = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(5000, 5000))
        >>> A = sm.H2Matrix.from_sparse(S, symmetric=True)
        >>> A.max_rank, A[7, 8]
        (0, np.float64(-1.0))
        """
        from .constructors import finished

        matrix = _checked_sparse(s)
        tolerance = _check.tolerance(rtol)
        if symmetric:
            matrix = _hermitian_part(matrix)
        trees = sparse_trees(_trees_of(partition, tree), matrix.shape, leaf_size)
        if symmetric:
            _require_one_tree(*trees)
        chosen = cls._partition(trees, admissibility, partition)
        _stored(chosen, symmetric)  # refuses partitions that are not symmetric
        cut = truncate(sparse_blocks(matrix.tocoo(), chosen, half=symmetric), rtol=tolerance)
        scale = 1.0 / cut.size if cut.size > 0 else 0.0
        rounding = max(cut.rounding * scale, float(np.finfo(matrix.dtype).eps))
        bound = cut.error * scale + rounding
        certificate = Certificate(
            max(tolerance, 2.0 * rounding), bound, bound, 1.0, "guaranteed by truncation", entries=int(matrix.nnz)
        )
        result = cls(cut.blocks, *trees, certificate)
        return finished(result, in_range(certificate, cut.size, result, underflow=False))
