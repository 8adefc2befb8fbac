"""H-Cholesky: A = L L^H for a Hermitian positive definite H-matrix, by the elimination of `elimination.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._backend import is_numpy, like, one_blas_thread, to_numpy
from .._typing import NumpyArray
from ..exceptions import NotPositiveDefiniteError
from .factorization import HFactorization
from .triangular import Triangle

if TYPE_CHECKING:
    from .matrix import HMatrix


class HCholesky(HFactorization):
    """The Cholesky factorisation of a Hermitian positive definite H-matrix.

    Obtained from `HMatrix.factorize(positive_definite=True)`.
    """

    positive_definite = True

    def __init__(self, matrix: HMatrix, rtol: float, block_size: int | None = None) -> None:
        matrix._require_hermitian_storage()
        super().__init__(matrix, rtol, matrix.blocks, block_size)

    def _factor_diagonal(self, sides: tuple[Triangle, ...], level: int, node: int) -> None:
        block = sides[0].diagonal(node)
        try:
            block[:] = np.linalg.cholesky(block)
        except np.linalg.LinAlgError:
            raise NotPositiveDefiniteError(
                f"the matrix is not positive definite to the tolerance {self.rtol:.1e} of the factorisation: a "
                f"Cholesky step failed in node {node} of level {level}; truncation can cause that where the "
                "smallest eigenvalue is below the error: use a smaller rtol, add_diagonal(shift), or factorize() "
                "without positive_definite",
                level,
                node,
            ) from None

    def apply_factor(self, z: Any) -> Any:
        """W z with A = W W^H, for z (n,) or (n, k): white noise z becomes samples of covariance A. O(n k log n).

        W is the Cholesky factor in the order of the tree, brought back to the user's.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> points = np.random.default_rng(0).random((500, 2))
        >>> kernel = sm.kernelfunctions.Matern(1.5, length=0.2)
        >>> A = sm.HMatrix.from_kernel(kernel, points, symmetric=True).add_diagonal(1e-2)
        >>> F = A.factorize(positive_definite=True)
        >>> samples = F.apply_factor(np.random.default_rng(0).standard_normal((500, 4)))
        >>> samples.shape
        (500, 4)
        """
        return self._with_factor(z, "z", self._sides[0].times)

    def solve_factor(self, b: Any) -> Any:
        """W^-1 b for b (n,) or (n, k): samples of covariance A become white noise."""

        def solved(x: NumpyArray) -> NumpyArray:
            self._sides[0].solve(x)
            return x

        return self._with_factor(b, "b", solved)

    def _with_factor(self, b: Any, name: str, function: Callable[[NumpyArray], NumpyArray]) -> Any:
        array = _check.operand(b, self.shape[0], self.shape, side="rows", name=name)
        host = _check.finite_operand(to_numpy(array), name)
        columns = host.reshape(len(host), -1)
        leaves = np.array(self._row_tree.to_leaves(columns), dtype=np.result_type(host.dtype, self.dtype), order="C")
        with one_blas_thread():
            y = function(leaves.reshape(leaves.shape[0] * leaves.shape[1], columns.shape[1]))
        result = np.ascontiguousarray(self._row_tree.from_leaves(y.reshape(leaves.shape))).reshape(host.shape)
        return result if is_numpy(array) else like(result, array)

    def slogdet(self) -> tuple[Any, float]:
        """(1, log det A). Cost O(n)."""
        triangle = self._sides[0]
        pivots = [np.diagonal(triangle.diagonal(node)).real for node in range(1 << triangle.depth)]
        logarithm = float(sum(np.log(p.astype(np.float64)).sum() for p in pivots))
        return self.dtype.type(1.0), 2.0 * logarithm - self._padding

    def _traces_of_solve(self, others: list[Any]) -> list[float]:
        """The traces of A^-1 B for several B stored as Hermitian."""
        from .trace import traces_of_solve

        return traces_of_solve(self, others)
