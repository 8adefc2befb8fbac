"""KroneckerSum: a sum of Kronecker products as a linear operator, with products and recompression."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from structmat import _check
from structmat._typing import NumpyArray
from structmat.certificate import Certificate, exact
from structmat.exceptions import ShapeError

if TYPE_CHECKING:
    import scipy.sparse.linalg as spla

__all__ = ["KroneckerSum"]


class KroneckerSum:
    """A sum of Kronecker products, which acts on tensors of m modes and is never formed.

    ``sum_k A_1^(k) (x) ... (x) A_m^(k)``.

    Parameters
    ----------
    factors : sequence of (K, p_j, n_j) arrays
        One stack for each mode.
    certificate : Certificate, optional
        What is known of its error. Default: exact.

    Attributes
    ----------
    factors : tuple of (K, p_j, n_j) arrays
    certificate : Certificate

    Notes
    -----
    Immutable. A product with one vector costs O(K N (n_1 + ... + n_m)) for N = n_1 ... n_m entries.

    References
    ----------
    C. F. Van Loan, N. Pitsianis, "Approximation with Kronecker products", 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn import KroneckerSum
    >>> second_difference = 2 * np.eye(8) - np.eye(8, k=1) - np.eye(8, k=-1)
    >>> laplacian = KroneckerSum([[second_difference, np.eye(8)], [np.eye(8), second_difference]])
    >>> laplacian.shape, laplacian.terms
    ((64, 64), 2)
    >>> (laplacian @ laplacian).truncate(rtol=1e-12).terms
    3
    """

    __array_ufunc__ = None
    ndim = 2

    def __init__(self, factors: Sequence[Any], *, certificate: Certificate | None = None) -> None:
        self.factors = tuple(_stack(f, mode) for mode, f in enumerate(factors))
        if not self.factors:
            raise ShapeError("factors is empty; a Kronecker product needs at least one mode")
        counts = [len(f) for f in self.factors]
        if len(set(counts)) > 1:
            raise ShapeError(f"every mode needs the same number of terms, but factors has {counts}")
        eps = float(np.finfo(self.dtype).eps)
        self.certificate = exact(0.0, eps) if certificate is None else certificate

    # ------------------------------------------------------------------------------- properties

    @property
    def terms(self) -> int:
        """Number of Kronecker products."""
        return len(self.factors[0])

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Sizes of the modes that it takes."""
        return tuple(f.shape[2] for f in self.factors)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Sizes of the modes that it gives."""
        return tuple(f.shape[1] for f in self.factors)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns as a matrix."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision."""
        return np.result_type(*self.factors)

    @property
    def nbytes(self) -> int:
        """Bytes of all factors."""
        return sum(f.nbytes for f in self.factors)

    @property
    def T(self) -> KroneckerSum:
        """The transpose."""
        return KroneckerSum([f.swapaxes(1, 2) for f in self.factors], certificate=self.certificate)

    def __repr__(self) -> str:
        return (
            f"KroneckerSum(shape={self.shape}, modes={self.out_shape} x {self.in_shape}, terms={self.terms}, "
            f"{self.nbytes / 1e6:.3g} MB)"
        )

    # --------------------------------------------------------------------------------- products

    def apply(self, z: Any) -> NumpyArray:
        """The operator on tensors: ``(..., *in_shape)`` -> ``(..., *out_shape)``."""
        array = np.asarray(z)
        modes = len(self.factors)
        if array.shape[max(array.ndim - modes, 0) :] != self.in_shape:
            raise ShapeError(f"z has shape {array.shape}, but the operator takes (..., {self.in_shape})")
        _check.finite(array, "z")
        lead = array.shape[: array.ndim - modes]
        flat = array.reshape(-1, *self.in_shape)
        total = np.zeros((len(flat), *self.out_shape), dtype=np.result_type(self.dtype, array))
        for k in range(self.terms):
            term = flat
            for mode, factor in enumerate(self.factors, start=1):
                term = np.moveaxis(np.tensordot(term, factor[k], axes=(mode, 1)), -1, mode)
            total += term
        return total.reshape(*lead, *self.out_shape)

    def matmat(self, x: Any) -> NumpyArray:
        """The product with a vector (n,) or a block (n, k), in C order of the modes."""
        block = _check.operand(x, self.shape[1], self.shape)
        tensors = np.asarray(block).T.reshape(*block.shape[1:], *self.in_shape)
        return self.apply(tensors).reshape(*block.shape[1:], self.shape[0]).T

    matvec = matmat

    def rmatmat(self, x: Any) -> NumpyArray:
        """The product of the transpose with a vector (m,) or a block (m, k)."""
        return self.T.matmat(x)

    rmatvec = rmatmat

    def __matmul__(self, other: Any) -> Any:
        return self.multiply(other) if isinstance(other, KroneckerSum) else self.matmat(other)

    def multiply(self, other: KroneckerSum) -> KroneckerSum:
        """The matrix product, exactly: the numbers of terms multiply. `truncate` reduces them."""
        if self.in_shape != other.out_shape:
            raise ShapeError(f"A takes tensors of shape {self.in_shape}, but B gives {other.out_shape}")
        factors = [
            np.matmul(a[:, None], b[None]).reshape(-1, a.shape[1], b.shape[2])
            for a, b in zip(self.factors, other.factors, strict=True)
        ]
        return KroneckerSum(factors)

    def __add__(self, other: KroneckerSum) -> KroneckerSum:
        if not isinstance(other, KroneckerSum):
            return NotImplemented
        if (self.in_shape, self.out_shape) != (other.in_shape, other.out_shape):
            raise ShapeError(
                f"A maps {self.in_shape} to {self.out_shape}, but B maps {other.in_shape} to {other.out_shape}"
            )
        return KroneckerSum([np.concatenate(pair) for pair in zip(self.factors, other.factors, strict=True)])

    def __mul__(self, number: Any) -> KroneckerSum:
        if not np.isscalar(number):
            return NotImplemented
        scaled = [self.factors[0] * number, *self.factors[1:]]
        return KroneckerSum(scaled, certificate=self.certificate)

    __rmul__ = __mul__

    def aslinearoperator(self) -> spla.LinearOperator:
        """A SciPy linear operator with block products."""
        from structmat._linear_operator import BlockLinearOperator

        return BlockLinearOperator(self.shape, self.dtype, self.matmat, self.rmatmat)

    def to_dense(self) -> NumpyArray:
        """The whole matrix: only for small sizes."""
        total = np.zeros(self.shape, dtype=self.dtype)
        for k in range(self.terms):
            term = self.factors[0][k]
            for factor in self.factors[1:]:
                term = np.kron(term, factor[k])
            total += term
        return total

    # ------------------------------------------------------------------------------ compression

    def norm(self) -> float:
        """The Frobenius norm. Cost O(K^2 n^2) a mode; cancellation limits it to half of the digits."""
        gram = np.ones((self.terms, self.terms))
        for f in self.factors:
            flat = f.reshape(self.terms, -1)
            gram = gram * (flat @ flat.T)
        return float(np.sqrt(max(gram.sum(), 0.0)))

    def truncate(self, *, rtol: float = 1e-8, max_terms: int | None = None) -> KroneckerSum:
        """The operator with as few Kronecker products as the tolerance allows.

        Parameters
        ----------
        rtol : float
            Frobenius error allowed, relative to the norm of the operator.
        max_terms : int, optional
            No more terms than these; where the tolerance then is not met, an `AccuracyWarning` says so.

        Notes
        -----
        For two modes the optimum, by a QR of each mode and one singular value decomposition of size K. For more
        modes alternating least squares in the coefficients of the QR, which finds a good but not always the best
        number of terms. The error in the certificate is computed, not estimated.
        """
        from .kronecker_truncation import fewest_terms

        tolerance = _check.tolerance(rtol)
        cap = None if max_terms is None else _check.positive_integer(max_terms, "max_terms")
        factors, error = fewest_terms(self.factors, tolerance, cap)
        eps = float(np.finfo(self.dtype).eps)
        certificate = Certificate(
            max(tolerance, 32 * eps), max(error, eps), max(error, eps), 1.0, "recompression of the Kronecker products"
        )
        certificate.warn_if_not_met("raise max_terms", stacklevel=3)
        return KroneckerSum(factors, certificate=certificate)


def _stack(factors: Any, mode: int) -> NumpyArray:
    name = f"factors[{mode}]"
    array = np.asarray(factors)
    if array.ndim != 3 or 0 in array.shape:
        raise ShapeError(
            f"{name} must be a stack (terms, rows, columns), none of them 0, but its shape is {array.shape}"
        )
    array = array.astype(_check.supported_dtype(array.dtype))
    _check.finite(array, name)
    array.flags.writeable = False
    return array
