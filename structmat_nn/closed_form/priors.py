"""What to assume of an operator where the samples leave it open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import scipy.linalg

from structmat import ShapeError, _check
from structmat._typing import NumpyArray

__all__ = ["Near", "Prior", "Small", "Smooth"]


class Prior(ABC):
    """The operator A is expected near `centre`, less so along inputs that `penalised` makes large.

    A fit minimises ``||A F - U||^2 + lambda ||(A - centre) penalised||_F^2``. `weight` sets lambda: its square times
    the mean energy of the samples along one direction.

    Parameters
    ----------
    weight : float, optional
        Default: the noise, and at least 1e-6.
    """

    def __init__(self, weight: float | None = None) -> None:
        self.weight = None if weight is None else _check.tolerance(weight, "weight")

    @abstractmethod
    def penalised(self, x: NumpyArray) -> NumpyArray:
        """The symmetric positive definite weighting of inputs (n, k)."""

    @abstractmethod
    def relaxed(self, x: NumpyArray) -> NumpyArray:
        """The inverse of `penalised`, on (n, k)."""

    def centre(self, x: NumpyArray, rows: int) -> NumpyArray:
        """What the expected operator makes of inputs (n, k): (rows, k)."""
        return np.zeros((rows, x.shape[1]))

    def centre_adjoint(self, x: NumpyArray, columns: int) -> NumpyArray:
        """What its adjoint makes of (m, k): (columns, k)."""
        return np.zeros((columns, x.shape[1]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(weight={self.weight})"


class Small(Prior):
    """The operator does nothing along directions that no sample has: the fit of smallest norm."""

    def penalised(self, x: NumpyArray) -> NumpyArray:
        """The identity."""
        return x

    def relaxed(self, x: NumpyArray) -> NumpyArray:
        """The identity."""
        return x


class Smooth(Prior):
    """The operator does less to an input the rougher it is, as solution operators of elliptic equations do.

    Parameters
    ----------
    length : float
        Inputs that vary over a shorter length, as a share of the domain, are expected to have less effect, by the
        square of their frequency. The indices are taken for equispaced points of an interval.
    weight : float, optional
        See `Prior`.
    """

    def __init__(self, length: float = 0.1, weight: float | None = None) -> None:
        super().__init__(weight)
        self.length = _check.tolerance(length, "length")

    def _banded(self, n: int) -> NumpyArray:
        """1 - length^2 d^2/dx^2 with zero slope at the ends, as `scipy.linalg.solveh_banded` takes it."""
        strength = (self.length * n / (2 * np.pi)) ** 2
        bands = np.empty((2, n))  # superdiagonal, diagonal
        bands[0], bands[1] = -strength, 1.0 + 2.0 * strength
        bands[0, 0] = 0.0
        bands[1, [0, -1]] -= strength
        return bands

    def penalised(self, x: NumpyArray) -> NumpyArray:
        """1 - (length / 2 pi)^2 d^2/dx^2, by second differences."""
        bands = self._banded(len(x))
        y = bands[1, :, None] * x
        y[:-1] += bands[0, 1:, None] * x[1:]
        y[1:] += bands[0, 1:, None] * x[:-1]
        return y

    def relaxed(self, x: NumpyArray) -> NumpyArray:
        """The inverse of `penalised`, by a tridiagonal solve."""
        return np.asarray(scipy.linalg.solveh_banded(self._banded(len(x)), x))

    def __repr__(self) -> str:
        return f"Smooth(length={self.length}, weight={self.weight})"


class Near(Small):
    """The operator is near another one: that of the last experiment, a coarser one, or a neighbouring parameter's.

    Parameters
    ----------
    operator : anything with ``operator @ X``, and with ``operator.T`` unless it is symmetric
        For instance an `HSSMatrix` or an array.
    weight : float, optional
        See `Prior`.
    """

    def __init__(self, operator: Any, weight: float | None = None) -> None:
        super().__init__(weight)
        if not hasattr(operator, "__matmul__") or len(getattr(operator, "shape", ())) != 2:
            raise TypeError(f"operator must be a matrix with products (operator @ x), but it is {type(operator)}")
        self.operator = operator

    def centre(self, x: NumpyArray, rows: int) -> NumpyArray:
        """The other operator applied to (n, k)."""
        if tuple(self.operator.shape) != (rows, len(x)):
            raise ShapeError(
                f"the operator of the prior Near has shape {tuple(self.operator.shape)}, but the samples belong to one "
                f"of shape {(rows, len(x))}"
            )
        return np.asarray(self.operator @ x)

    def centre_adjoint(self, x: NumpyArray, columns: int) -> NumpyArray:
        """The adjoint of the other operator applied to (m, k)."""
        return np.asarray(self.operator.T @ x.conj()).conj()

    def __repr__(self) -> str:
        return f"Near({self.operator!r}, weight={self.weight})"
