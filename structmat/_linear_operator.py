"""SciPy's linear operators around two functions; a module of its own, since scipy.sparse imports slowly."""

from __future__ import annotations

from typing import Any

import scipy.sparse.linalg as spla

from ._typing import NumpyArray


class BlockLinearOperator(spla.LinearOperator):
    """A real LinearOperator with block products (a duck-typed object would lose matmat in SciPy).

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    dtype : dtype
        Of the products.
    forward, backward : callable
        The products with the matrix and with its adjoint, of vectors (n,) and of blocks (n, k).
    """

    def __init__(self, shape: tuple[int, int], dtype: Any, forward: Any, backward: Any) -> None:
        self._forward, self._backward = forward, backward
        super().__init__(dtype, shape)  # type: ignore[call-arg]

    def _matvec(self, x: NumpyArray) -> Any:
        return self._forward(x.reshape(-1))

    def _matmat(self, x: NumpyArray) -> Any:
        return self._forward(x)

    def _rmatvec(self, x: NumpyArray) -> Any:
        return self._backward(x.reshape(-1))

    def _rmatmat(self, x: NumpyArray) -> Any:
        return self._backward(x)

    def _adjoint(self) -> BlockLinearOperator:
        return BlockLinearOperator((self.shape[1], self.shape[0]), self.dtype, self._backward, self._forward)
