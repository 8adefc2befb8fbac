"""HMatrix: hierarchical matrices over any block partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._backend import is_numpy
from .._inputs import TreeLike, _tolerances
from .._typing import RandomLike
from ..exceptions import DeviceError
from ..flat.constructors import Progress
from ..flat.matrix import FlatMatrix
from ..partition import StrongAdmissibility
from .coarsen import coarsened

if TYPE_CHECKING:
    from .factorization import HFactorization

__all__ = ["HMatrix"]


class HMatrix(FlatMatrix):
    """A hierarchical matrix: strong (or any) admissibility, independent bases.

    Build one with a constructor: `from_dense`, `from_entries`, `from_kernel`, `from_operator`, `from_sparse`,
    `from_toeplitz`, `from_structured`, `from_low_rank`, `from_diagonal`, `identity`, `zeros`; each takes
    `admissibility=` or `partition=`. Without these, blocks are merged after a build from a kernel or entries, where
    that takes less storage. `adaptive` finds the partition itself.

    Notes
    -----
    Storage and product O(n k log n), in any dimension. Immutable; safe to use from several threads.

    References
    ----------
    W. Hackbusch, "A sparse matrix arithmetic based on H-matrices", Computing 62 (1999) 89-108.
    """

    default_admissibility = StrongAdmissibility()
    _coarsened = staticmethod(coarsened)

    @classmethod
    def adaptive(
        cls, source: Any, tree: TreeLike = None, *, rtol: float = 1e-8, max_rank: int | None = None,
        symmetric: bool = False, points: Any = None, column_points: Any = None, leaf_size: int = 16,
        dense_diagonal: bool = True, rng: RandomLike = 0, progress: Progress = None,
    ) -> HMatrix:  # fmt: skip
        """Compress a matrix over the partition that suits it best, found from the matrix itself.

        Each block is a low-rank block, a dense block or divided, whichever needs the least storage at the global
        tolerance: no admissibility condition is asked, and no geometry.

        Parameters
        ----------
        source : array, sparse matrix, callable, structured matrix or linear operator
            A dense array; a function `entries(i, j)` of index arrays, with `tree`; a kernel `kernel(x, y)`, with
            `points`; an operator, which is multiplied with the identity, or above 4096 columns peeled by
            `from_operator` first; a structured matrix, which is read by its entries.
        tree : ClusterTree or pair of them, optional
            Default: from the points, or balanced, with leaves of at most `leaf_size`; for a dense array then also
            shallower, where that saves padding.
        rtol : float
            Allowed Frobenius error, relative to the norm of the whole matrix. Guaranteed for dense arrays, operators
            and up to 2**20 entries; estimated from entries of every block else.
        max_rank : int, optional
            No rank exceeds this; blocks that need more are divided.
        symmetric : bool
            The source is Hermitian: half of the blocks are stored.
        points, column_points : (n,) or (n, d) arrays, optional
            For kernels.
        leaf_size : int
            The smallest blocks, where no tree is given.
        dense_diagonal : bool
            Blocks on the diagonal are dense or divided, as `add_diagonal` and factorisations need it. With False they
            may have low rank: less storage for matrices that have low rank as a whole.
        rng : seed or numpy.random.Generator
            For crosses from samples, and for the check.
        progress : callable, optional
            Called with the share of the work just done.

        Returns
        -------
        HMatrix
            Its record of rounds is `A.refinement`.

        Notes
        -----
        Minimises bytes + price * squared error by dynamic programming over the quadtree of blocks, with a price
        found by bisection. From a dense array O(n^2 k) time, k the ranks at which blocks stop being worth it, and
        O(n^2) memory; from entries by crosses, of which O(n k log n) entries are evaluated where far blocks have rank
        k.

        References
        ----------
        J. Mango, R. Katende, "Adaptive error-bounded hierarchical matrices for efficient neural network compression",
        Algorithm 1. L. Grasedyck, "Adaptive recompression of H-matrices for BEM", Computing 74 (2005) 205-223.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 500)
        >>> a = np.where(x[:, None] < 0.7 * x, np.sin(np.add.outer(x, x)), np.exp(-np.multiply.outer(x, x)))
        >>> A = sm.HMatrix.adaptive(a, rtol=1e-6)
        >>> A.certificate.met, A.nbytes < 0.7 * sm.HMatrix.from_dense(a, rtol=1e-6).nbytes
        (True, True)
        """
        from .adaptive import Request, adaptive

        tolerance, cap = _tolerances(rtol, 0.0, max_rank)
        request = Request(tolerance, cap, symmetric, dense_diagonal, progress, rng)
        result: HMatrix = adaptive(
            cls, source, tree, request, points=points, column_points=column_points, leaf_size=leaf_size
        )
        return result

    def refine(
        self, source: Any, rtol: float, *, points: Any = None, max_rank: int | None = None, dense_diagonal: bool = True,
        rng: RandomLike = 0, progress: Progress = None,
    ) -> HMatrix:  # fmt: skip
        """A better matrix from this one: with another tolerance, or for a source that has changed a little.

        Blocks that are still good enough are kept, others get more ranks on top of theirs or are divided, and blocks
        are merged where that saves storage.

        Parameters
        ----------
        source : array, callable, structured matrix or linear operator
            As in `adaptive`; the matrix that this one approximates.
        rtol : float
            The tolerance, smaller or larger than before.
        points : array, optional
            For a kernel.
        max_rank, dense_diagonal, rng, progress
            As in `adaptive`.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 500)
        >>> a = 1 / (1e-2 + abs(x[:, None] - x))
        >>> A = sm.HMatrix.from_dense(a, rtol=1e-3)
        >>> B = A.refine(a, 1e-8)
        >>> B.certificate.met
        True
        """
        from .adaptive import Request, refine

        tolerance, cap = _tolerances(rtol, 0.0, max_rank)
        request = Request(tolerance, cap, self.symmetric, dense_diagonal, progress, rng)
        result: HMatrix = refine(self, source, request, points=points)
        return result

    @property
    def refinement(self) -> Any:
        """The rounds of an adaptive build as a `RefinementRecord`, which prints as a table and has `.plot(ax)`."""
        from .record import RefinementRecord

        return RefinementRecord.from_details(self.certificate.details, self.certificate.asked)

    def factorize(
        self, *, positive_definite: bool = False, rtol: float | None = None, block_size: int | None = None
    ) -> HFactorization:
        """The H-LU factorisation; or, for Hermitian positive definite matrices, H-Cholesky.

        Parameters
        ----------
        positive_definite : bool
            Use Cholesky: half the work; needs `symmetric` storage, and raises `NotPositiveDefiniteError` with the level
            and the node where it is not.
        rtol : float, optional
            ||A - L U||_F <= rtol ||A||_F, estimated; default: the tolerance of the matrix. A loose one gives a
            preconditioner.
        block_size : int, optional
            Leaves are joined to dense blocks of at most so many rows, where they are smaller; default 64, or
            all of a matrix of at most 256.

        Notes
        -----
        Cost O(n k^2 log^2 n). The result is reusable and solves with the adjoint too. Truncation can make a nearly
        singular positive definite matrix indefinite: the error says so.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> points = np.random.default_rng(0).random((500, 2))
        >>> kernel = sm.kernelfunctions.Matern(1.5, length=0.2)
        >>> A = sm.HMatrix.from_kernel(kernel, points, symmetric=True).add_diagonal(1e-2)
        >>> F = A.factorize(positive_definite=True)
        >>> b = np.ones(500)
        >>> bool(F.residual(b, F.solve(b)) < 1e-5)
        True
        """
        self._require_square("a factorisation")
        if not is_numpy(self._storage._example):
            raise DeviceError('factorisations run on the CPU: call A.to_device("cpu") first')
        tolerance = self.rtol if rtol is None else max(_check.tolerance(rtol), float(np.finfo(self.dtype).eps))
        size = None if block_size is None else _check.positive_integer(block_size, "block_size")
        if positive_definite:
            from .cholesky import HCholesky

            return HCholesky(self, tolerance, size)
        from .lu import HLU

        return HLU(self, tolerance, size)

    def _factored_to(self, rtol: float, positive_definite: bool) -> HFactorization:
        return self.factorize(positive_definite=positive_definite, rtol=rtol)
