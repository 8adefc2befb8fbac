"""The arithmetic of H2Matrix: checks at the door, then the algorithms of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._backend import cast, numpy_dtype
from ..certificate import Certificate
from ..certify import in_range
from ..flat.exact import checked_leaf_factors
from ..flat.special import EXACT, checked_update
from ..tree import ClusterTree
from . import arithmetic, truncate
from .blocks import H2Blocks
from .from_sparse import sparse_blocks
from .hadamard import hadamard
from .norms import inner
from .repartition import common_refinement, refined


class H2Operations:
    """Sums, updates, recompression and norms."""

    def _with_blocks(
        self: Any, blocks: H2Blocks, certificate: Certificate | None = None,
        trees: tuple[ClusterTree, ClusterTree] | None = None,
    ) -> Any:  # fmt: skip
        row_tree, col_tree = trees or (self.row_tree, self.col_tree)
        return type(self)(blocks, row_tree, col_tree, certificate or self.certificate)

    def _result(
        self: Any, exact: H2Blocks, rtol: float, *, atol: float = 0.0, max_rank: int | None = None, spent: float = 0.0,
        asked: float | None = None, trees: tuple[ClusterTree, ClusterTree] | None = None,
    ) -> Any:  # fmt: skip
        """Truncate an exact result and certify the truncation; `spent` is the absolute error made before."""
        cut = truncate.truncate(exact, rtol=rtol, atol=atol, max_rank=max_rank)
        scale = 1.0 / cut.size if cut.size > 0 else 0.0
        rounding = max(cut.rounding * scale, float(np.finfo(numpy_dtype(exact.near.data)).eps))
        bound = (cut.error + spent) * scale + rounding
        granted = max(rtol if asked is None else asked, atol * scale, 2.0 * rounding)
        certificate = Certificate(granted, bound, bound, 1.0, "recompression of the exact result of the operands")
        certificate = in_range(certificate, cut.size, self._with_blocks(cut.blocks, None, trees), underflow=False)
        certificate.warn_if_not_met("raise max_rank", stacklevel=5)
        return self._with_blocks(cut.blocks, certificate, trees)

    def truncate(self: Any, *, rtol: float | None = None, atol: float = 0.0, max_rank: int | None = None) -> Any:
        """The matrix with ranks as small as the tolerance allows.

        Parameters
        ----------
        rtol, atol : float
            Frobenius error allowed, relative to the norm of the matrix or absolute; the larger one counts. Within a
            level it is spent where it saves most: on the values that are smallest for the numbers that they take.
        max_rank : int, optional
            No rank exceeds this; where the tolerance then is not met, an `AccuracyWarning` says so.

        Notes
        -----
        The error bound in the certificate is guaranteed (relative to the matrix as stored). Cost O(k^3) for each
        coupling and node, O(n k^2) for leaves of about k indices. The result has orthonormal bases.

        References
        ----------
        S. Boerm, "Efficient Numerical Methods for Non-local Operators", EMS 2010, chapter 6.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> points = np.random.default_rng(0).random((2000, 2))
        >>> A = sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-8)
        >>> B = A.truncate(rtol=1e-3)
        >>> B.certificate.met, B.nbytes < A.nbytes
        (True, True)
        """
        cap = None if max_rank is None else _check.positive_integer(max_rank, "max_rank", minimum=0)
        return self._result(self.blocks, self._tolerance(rtol), atol=_check.tolerance(atol, "atol"), max_rank=cap)

    # -------------------------------------------------------------------------------------- sums

    def _together(self: Any, other: Any) -> tuple[H2Blocks, H2Blocks]:
        """The blocks of both over one partition: their own, or the common refinement of the two; exactly."""
        a, b = self.blocks, other.blocks
        if not (a.half and b.half):
            a, b = a.expanded(), b.expanded()
        if arithmetic.same_places(a, b):
            return a, b
        self._require_on_host("sums over two partitions run")
        target = common_refinement(self.partition, other.partition)
        stored = target.lower() if a.half else target
        return refined(a, stored), refined(b, stored)

    def add(self: Any, other: Any, *, rtol: float | None = None) -> Any:
        """A + B, recompressed to `rtol` (default: the smaller of the operands').

        Over the partition of both or, where they have two, over the coarsest one that refines both. Cost O(k^3) for
        each coupling, with k the sum of the ranks.
        """
        self._require_same_trees(other, "the operands of a sum")
        return self._result(arithmetic.add(*self._together(other)), self._tolerance(rtol, other))

    def _scaled(self: Any, number: complex) -> Any:
        if number.imag == 0.0:
            return self._with_blocks(arithmetic.scale(self.blocks, number.real))
        target = np.result_type(self.dtype, np.complex64)
        return self._with_blocks(arithmetic.scale(self.blocks.expanded().map(lambda a: cast(a, target)), number))

    def hadamard(self: Any, other: Any, *, rtol: float | None = None) -> Any:
        """The entrywise product, recompressed level by level to `rtol` of its own norm, over one partition of both.

        The error bound is guaranteed. Cost O(k^4) for each coupling and O(k^5) for each node, as the ranks of the
        operands multiply before they are cut: for ranks up to some dozens. Truncate the operands first.
        """
        self._require_same_trees(other, "the operands of a Hadamard product")
        self._require_on_host("entrywise products run")
        tolerance = self._tolerance(rtol, other)
        product, error = hadamard(*self._together(other), rtol=0.4 * tolerance)
        return self._result(product, 0.5 * tolerance, spent=error, asked=tolerance)

    # ------------------------------------------------------------------------------------ updates

    def add_diagonal(self: Any, d: Any) -> Any:
        """A + diag(d) for a scalar or a vector d (n,), exactly and without recompression: O(n).

        The blocks on the diagonal must be dense, as they are under strong admissibility.
        """
        values = self._diagonal_values(d)
        dtype = self._dtype_with(d, values)
        blocks = self.blocks if dtype == self.dtype else self.blocks.map(lambda a: cast(a, dtype))
        return self._with_blocks(arithmetic.add_diagonal(blocks, self.row_tree, values.astype(dtype)))

    def add_low_rank(self: Any, u: Any, v: Any, *, rtol: float | None = None) -> Any:
        """A + U V^H for U (m, r) and V (n, r), recompressed. Cost O((k + r)^3) for each coupling.

        A Hermitian matrix stays one when `v is u`.
        """
        symmetric = self.symmetric and v is u
        factors = checked_leaf_factors(u, v, (self.row_tree, self.col_tree), symmetric)
        partition = self.partition
        update = arithmetic.low_rank(*factors, partition.lower() if symmetric else partition, half=symmetric)
        blocks = self.blocks if symmetric else self.blocks.expanded()
        return self._result(arithmetic.add(blocks, self._beside_me(update)), self._tolerance(rtol))

    def _sparse_update(self: Any, s: Any, *, symmetric: bool) -> Any:
        matrix = checked_update(self, s, symmetric=symmetric)
        blocks = sparse_blocks(matrix.tocoo(), self.partition, half=symmetric)
        return self._with_blocks(blocks, EXACT)

    # -------------------------------------------------------------------------------------- norms

    def _frobenius(self: Any) -> float:
        blocks = self.blocks
        return float(np.sqrt(truncate.squared_norm(truncate.orthogonalize(blocks).blocks)))

    def _inner(self: Any, other: Any) -> Any:
        self._require_same_trees(other, "the operands of an inner product")
        value = inner(*self._together(other))
        return value if "c" in (self.dtype.kind, other.dtype.kind) else value.real

    def _trace_of_solve(self: Any, other: Any) -> Any:
        """Refused: H2-matrices have no factorisation."""
        return self.factorize()
