"""HSSMatrix: data, invariants and public methods. The algorithms are in the other files of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._backend import cast, is_numpy, namespace, numpy_dtype, squared_norm, to_numpy
from .._typing import Array, NumpyArray
from ..base import Factorization, StructuredMatrix
from ..blocks import BlockBatch
from ..certificate import Certificate
from ..certify import in_range
from ..exceptions import ShapeError, TreeMismatchError
from ..nested import NestedMatrix, NestedStorage
from ..tree import ClusterTree, require_equal_trees
from . import arithmetic, truncate
from .constructors import HSSConstructors
from .generators import Generators
from .special import SpecialConstructors

if TYPE_CHECKING:
    from .lstsq import LeastSquaresSolution

__all__ = ["HSSMatrix"]


class HSSMatrix(HSSConstructors, SpecialConstructors, NestedMatrix):
    """A hierarchically semiseparable matrix: weak admissibility (siblings), nested bases.

    Build one with a constructor: `from_dense`, `from_entries`, `from_kernel`, `from_operator`, `from_samples`,
    `from_sparse`, `from_toeplitz`, `from_cauchy_like`, `from_structured`, `from_low_rank`, `from_diagonal`,
    `identity`, `zeros`.

    Parameters
    ----------
    generators : Generators
        Diagonal blocks, bases and couplings.
    row_tree, col_tree : ClusterTree
        Of equal depth.
    certificate : Certificate
        What is known of the error.

    Notes
    -----
    For node t with children l and r, `A[l, r] = U_l B_l V_r^H`, and the bases of inner nodes are given by those of
    their children. Storage O(n k), product O(n k), with k the rank. Immutable; safe to use from several threads.

    References
    ----------
    S. Chandrasekaran, M. Gu, T. Pals, SIAM J. Matrix Anal. Appl. 28 (2006) 603-622.
    """

    def __init__(
        self,
        generators: Generators,
        row_tree: ClusterTree,
        col_tree: ClusterTree,
        certificate: Certificate,
    ) -> None:
        _validate(generators, row_tree, col_tree)
        near = np.arange(row_tree.leaf_count)
        couplings = []
        for level, data in enumerate(generators.couplings, start=1):
            node = np.arange(0, 2**level, 2 if generators.symmetric else 1)
            couplings.append(BlockBatch(data, node, node ^ 1))
        storage = NestedStorage(
            BlockBatch(generators.diagonal, near, near),
            tuple(couplings),
            generators.row_basis,
            generators.col_basis,
            half=generators.symmetric,
        )
        self._hold(storage, row_tree, col_tree, certificate)

    # ------------------------------------------------------------------------------ properties

    @property
    def generators(self) -> Generators:
        """Diagonal blocks, bases and couplings, as this view of the matrix sees them."""
        s: Any = self._storage.stored()
        stored = Generators(s.near.data, s.row_basis, s.col_basis, tuple(b.data for b in s.couplings), s.half)
        turned = stored.adjoint() if self._adjointly else stored
        return turned.conj() if self._conjugated and self.dtype.kind == "c" else turned

    def __repr__(self) -> str:
        return (
            f"HSSMatrix(shape={self.shape}, dtype={self._precision()}, depth={self.row_tree.depth}, "
            f"max_rank={self.max_rank}, symmetric={self.symmetric}, {self.nbytes / 1e6:.3g} MB)"
        )

    # ------------------------------------------------------------------------------ arithmetic

    def _result(
        self, exact: Generators, rtol: float, *, trees: tuple[ClusterTree, ClusterTree] | None = None,
        atol: float = 0.0, max_rank: int | None = None,
    ) -> HSSMatrix:  # fmt: skip
        """Truncate the generators of an exact result and certify the truncation."""
        cut, error, size = truncate.truncate(exact, rtol=rtol, atol=atol, max_rank=max_rank)
        eps = float(np.finfo(numpy_dtype(exact.diagonal)).eps)
        relative = error / size if size > 0 else 0.0
        # the pivoted factorisations stop at 8 eps of each block: what is asked beyond that is granted to rounding
        asked = max(rtol, atol / size if size > 0 else 0.0, 32 * eps)
        certificate = Certificate(
            asked, max(relative, eps), max(relative, eps), 1.0, "recompression of the exact result of the operands"
        )
        row_tree, col_tree = trees or (self.row_tree, self.col_tree)
        certificate = in_range(certificate, size, HSSMatrix(cut, row_tree, col_tree, certificate))
        certificate.warn_if_not_met("raise max_rank", stacklevel=5)
        return HSSMatrix(cut, row_tree, col_tree, certificate)

    def add(self, other: HSSMatrix, *, rtol: float | None = None) -> HSSMatrix:
        """A + B, recompressed to `rtol` (default: the smaller of the operands'). Cost O(n k^2)."""
        self._require_same_trees(other, "the operands of a sum")
        return self._result(arithmetic.add(self.generators, other.generators), self._tolerance(rtol, other))

    def _scaled(self, number: complex) -> HSSMatrix:
        g = self.generators
        if number.imag != 0.0:
            target = np.result_type(self.dtype, np.complex64)
            scaled = arithmetic.scale(g.expanded().map(lambda a: cast(a, target)), number)
        else:
            scaled = arithmetic.scale(g, number.real)
        return HSSMatrix(scaled, self.row_tree, self.col_tree, self.certificate)

    def multiply(self, other: HSSMatrix, *, rtol: float | None = None) -> HSSMatrix:
        """The matrix product A @ B, recompressed to `rtol`. Cost O(n k^2)."""
        if self.shape[1] != other.shape[0]:
            raise ShapeError(
                f"A has {self.shape[1]} columns, but B has {other.shape[0]} rows ({self.shape} @ {other.shape})"
            )
        require_equal_trees(self.col_tree, other.row_tree, "the columns of A and the rows of B")
        self._require_beside(other, "the factors of a product")
        exact = arithmetic.multiply(self.generators, other.generators)
        return self._result(exact, self._tolerance(rtol, other), trees=(self.row_tree, other.col_tree))

    def _times(self, other: StructuredMatrix) -> HSSMatrix:
        return self.multiply(other) if isinstance(other, HSSMatrix) else super()._times(other)

    def hadamard(self, other: HSSMatrix, *, rtol: float | None = None) -> HSSMatrix:
        """The entrywise product, recompressed level by level to `rtol` of its own norm.

        Cost O(n k^3): the ranks of the operands multiply before they are cut.
        """
        self._require_same_trees(other, "the operands of a Hadamard product")
        tolerance = self._tolerance(rtol, other)
        a, b = self.generators, other.generators
        # the norm of the product is known once it is there: guess it from the diagonal blocks, check, and repeat
        size = float(np.sqrt(squared_norm(a.diagonal * b.diagonal))) or self.norm() * other.norm() / max(self.shape)
        for _ in range(4):
            allowed = 0.5 * tolerance * size
            product = arithmetic.hadamard(a, b, allowed=allowed)
            actual = truncate.norm(product)
            if allowed <= 0.5 * tolerance * actual * 1.01 or actual == 0.0:
                break
            size = actual
        result = self._result(product, 0.8 * tolerance)
        # what was cut while forming the product is orthogonal to what was cut afterwards
        c = result.certificate
        bound = float(np.hypot(c.upper_bound, allowed / actual)) if actual > 0.0 else c.upper_bound
        result.certificate = Certificate(max(tolerance, c.asked), bound, bound, 1.0, c.method)
        return result

    def truncate(self, *, rtol: float | None = None, atol: float = 0.0, max_rank: int | None = None) -> HSSMatrix:
        """The matrix with ranks as small as the tolerance allows.

        Parameters
        ----------
        rtol, atol : float
            Frobenius error allowed, relative to the norm of the matrix or absolute; the larger one counts.
        max_rank : int, optional
            No rank exceeds this; where the tolerance then is not met, an `AccuracyWarning` says so.

        Notes
        -----
        The error bound in the certificate is guaranteed (relative to the matrix as stored). Cost O(n k^2).
        """
        cap = None if max_rank is None else _check.positive_integer(max_rank, "max_rank", minimum=0)
        return self._result(self.generators, self._tolerance(rtol), atol=_check.tolerance(atol, "atol"), max_rank=cap)

    def add_diagonal(self, d: Any) -> HSSMatrix:
        """A + diag(d) for a scalar or a vector d (n,), exactly and without recompression: O(n)."""
        values = self._diagonal_values(d)
        dtype = self._dtype_with(d, values)
        diagonal = self.generators.diagonal
        added = self.row_tree.to_leaves(values[:, None])[:, :, 0].astype(dtype)
        near = np.arange(self.row_tree.leaf_count)
        return self._with_diagonal(BlockBatch(cast(diagonal, dtype), near, near).plus_diagonal(added).data)

    def _with_diagonal(self, diagonal: Array) -> HSSMatrix:
        g = self.generators
        if self.dtype != numpy_dtype(diagonal):  # a map writes out the identity parts of interpolative bases
            g = g.map(lambda a: cast(a, numpy_dtype(diagonal)))
        changed = Generators(diagonal, g.row_basis, g.col_basis, g.couplings, g.symmetric)
        return HSSMatrix(changed, self.row_tree, self.col_tree, self.certificate)

    def add_low_rank(self, u: Any, v: Any, *, rtol: float | None = None) -> HSSMatrix:
        """A + U V^H for U (m, r) and V (n, r), recompressed. Cost O(n (k + r)^2).

        A Hermitian matrix stays one when `v is u`.
        """
        from .constructors import low_rank

        # without the warning of from_low_rank: what counts is the structure of the sum
        update = low_rank(u, v, (self.row_tree, self.col_tree), symmetric=self.symmetric and v is u)
        return self.add(self._beside_me(update), rtol=self._tolerance(rtol))

    def _sparse_update(self, s: Any, *, symmetric: bool) -> HSSMatrix:
        return HSSMatrix.from_sparse(s, (self.row_tree, self.col_tree), symmetric=symmetric)

    # ----------------------------------------------------------------------- entries and norms

    def diagonal(self) -> NumpyArray:
        """The main diagonal, (min(m, n),). Cost O(n)."""
        count = min(self.shape)
        if self.shape[0] == self.shape[1] and self.row_tree == self.col_tree:
            blocks = self.generators.diagonal
            d = np.array(to_numpy(namespace(blocks).linalg.diagonal(blocks)))
            return self.row_tree.from_leaves(d[:, :, None])[:, 0]
        from ..nested.entries import entry_values

        return entry_values(self, np.arange(count), np.arange(count))

    def _frobenius(self) -> float:
        return truncate.norm(self.generators)

    def _inner(self, other: HSSMatrix) -> Any:
        from .inner import inner

        self._require_same_trees(other, "the operands of an inner product")
        value = inner(self.generators, other.generators)
        return value if "c" in (self.dtype.kind, other.dtype.kind) else value.real

    def _trace_of_solve(self, other: HSSMatrix) -> Any:
        from ..linalg import inner
        from .trace import trace_of_solve
        from .ulv import with_padded_diagonal

        self._require_same_trees(other, "the operands of trace_of_solve")
        if not (self.symmetric and other.symmetric):
            return inner(self.inverse().H, other)
        g = self.generators
        value = trace_of_solve(g, other.generators, with_padded_diagonal(g.diagonal, self.row_tree)[0])
        return value.real  # of a Hermitian and a Hermitian matrix

    # ---------------------------------------------------------------------------------- solving

    def factorize(self, *, positive_definite: bool = False) -> Factorization:
        """The ULV factorisation; or, for Hermitian positive definite matrices, its Cholesky form.

        Parameters
        ----------
        positive_definite : bool
            Use Cholesky: half the work; needs `symmetric` storage, and raises `NotPositiveDefiniteError` with the level
            and the node where it is not.

        Notes
        -----
        Cost O(n k^2); backward stable. The result is reusable and solves with the adjoint too. On a device: batched.
        """
        if not is_numpy(self._storage.near.data):
            from .batched import BatchedULV
            from .batched_cholesky import BatchedHSSCholesky

            return BatchedHSSCholesky(self) if positive_definite else BatchedULV(self)
        if positive_definite:
            from .cholesky import HSSCholesky

            return HSSCholesky(self)
        from .ulv import HSSFactorization

        return HSSFactorization(self)

    def lstsq(self, b: Any) -> LeastSquaresSolution:
        """Minimise ||A x - b||_2 for a matrix of at least as many rows as columns, by orthogonal factors.

        Parameters
        ----------
        b : (m,) or (m, k) array
            Right-hand sides.

        Returns
        -------
        LeastSquaresSolution
            `x`, (n,) or (n, k), and `residual_norm`, one for each right-hand side.

        Raises
        ------
        SingularBlockError
            Where the columns are linearly dependent, with the level and the node.

        Notes
        -----
        Cost O((m + n) k^2). For more right-hand sides later keep `structmat.hss.lstsq.HSSLeastSquares(A)`.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x, y = np.linspace(0, 1, 900), np.linspace(0, 1, 300)
        >>> A = sm.HSSMatrix.from_kernel(lambda s, t: 1 / (1 + 300 * abs(s[:, None] - t)), x, column_points=y)
        >>> solution, residual_norm = A.lstsq(A @ np.cos(y))
        >>> bool(np.allclose(solution, np.cos(y))), bool(residual_norm < 1e-10)
        (True, True)
        """
        from .lstsq import HSSLeastSquares

        return HSSLeastSquares(self).lstsq(b)


def _validate(g: Generators, row_tree: ClusterTree, col_tree: ClusterTree) -> None:
    if row_tree.depth != col_tree.depth:
        raise TreeMismatchError(f"the row tree has depth {row_tree.depth}, the column tree depth {col_tree.depth}")
    depth = row_tree.depth
    expected: tuple[int, ...] = (row_tree.leaf_count, row_tree.leaf_size, col_tree.leaf_size)
    if tuple(g.diagonal.shape) != expected:
        raise ShapeError(f"the diagonal blocks have shape {tuple(g.diagonal.shape)}, but the trees need {expected}")
    if not g.depth == g.row_basis.depth == g.col_basis.depth == depth:
        raise ShapeError(f"the bases and couplings must have {depth} levels, the depth of the trees")
    if g.symmetric and row_tree != col_tree:
        raise TreeMismatchError("a Hermitian matrix needs one tree for rows and columns")
    for side, basis, tree in (("row", g.row_basis, row_tree), ("column", g.col_basis, col_tree)):
        for level in range(1, depth + 1):
            p = tree.leaf_size if level == depth else 2 * basis.width(level + 1)
            shape = (int(basis.levels[level - 1].shape[0]), basis.height(level))
            if shape != (2**level, p):
                raise ShapeError(f"the {side} bases of level {level} are {shape} x k, expected {(2**level, p)} x k")
    for level, b in enumerate(g.couplings, start=1):
        expected = (2 ** (level - 1 if g.symmetric else level), g.row_basis.width(level), g.col_basis.width(level))
        if tuple(b.shape) != expected:
            raise ShapeError(f"the couplings of level {level} have shape {tuple(b.shape)}, expected {expected}")
