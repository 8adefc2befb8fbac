"""HODLRMatrix: hierarchically off-diagonal low-rank matrices."""

from __future__ import annotations

from .._backend import is_numpy
from ..base import Factorization
from ..flat.matrix import FlatMatrix
from ..partition import WeakAdmissibility

__all__ = ["HODLRMatrix"]


class HODLRMatrix(FlatMatrix):
    """A hierarchically off-diagonal low-rank matrix: weak admissibility (siblings), independent bases.

    Build one with a constructor: `from_dense`, `from_entries`, `from_kernel`, `from_operator`, `from_sparse`,
    `from_toeplitz`, `from_structured`, `from_low_rank`, `from_diagonal`, `identity`, `zeros`.

    Notes
    -----
    Storage and product O(n k log n). Immutable; safe to use from several threads.

    References
    ----------
    S. Ambikasaran, E. Darve, "An O(N log N) fast direct solver for partial hierarchically semi-separable matrices",
    J. Sci. Comput. 57 (2013) 477-501.
    """

    default_admissibility = WeakAdmissibility()
    fixed_partition = True

    def factorize(self, *, positive_definite: bool = False) -> Factorization:
        """The LU-like factorisation; or, for Hermitian positive definite matrices, the symmetric one.

        Parameters
        ----------
        positive_definite : bool
            Use the symmetric factorisation A = W W^H: less work and storage, and `apply_factor` and `solve_factor`
            for sampling; needs `symmetric` storage, and raises `NotPositiveDefiniteError` with the level and the node
            where the matrix is not positive definite.

        Returns
        -------
        HODLRFactorization or HODLRCholesky

        Notes
        -----
        Cost O(n k^2 log^2 n). The result is reusable and solves with the adjoint too. The symmetric factorisation is
        backward stable. The other one is where no diagonal block is much worse conditioned than the matrix; else
        `solve(b, refine=True)`, or a shift. On a device: batched.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 1000)
        >>> kernel = lambda s, t: np.exp(-abs(s[:, None] - t))
        >>> A = sm.HODLRMatrix.from_kernel(kernel, x, rtol=1e-10, symmetric=True).add_diagonal(1e-2)
        >>> F = A.factorize(positive_definite=True)
        >>> b = np.sin(x)
        >>> bool(np.linalg.norm(A @ F.solve(b) - b) < 1e-10 * np.linalg.norm(b))
        True
        """
        if not is_numpy(self._storage._example):
            from .batched import BatchedLU
            from .batched_cholesky import BatchedHODLRCholesky

            return BatchedHODLRCholesky(self) if positive_definite else BatchedLU(self)
        if positive_definite:
            from .cholesky import HODLRCholesky

            return HODLRCholesky(self)
        from .lu import HODLRFactorization

        return HODLRFactorization(self)
