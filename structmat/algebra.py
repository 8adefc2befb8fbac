"""MatrixAlgebra: the operators of all formats, in terms of the few methods that a format defines.

What differs between formats (how to add, scale, truncate) is theirs; what is asked of the operands, and what is said
when they do not fit, is the same for all and stands here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check
from ._backend import cast
from ._typing import NumpyArray, RandomLike
from .exceptions import ShapeError, SymmetryError, TreeMismatchError
from .precision import narrower
from .tree import require_equal_trees

__all__ = ["MatrixAlgebra"]


def _is_sparse(x: Any) -> bool:
    """Whether `x` is a SciPy sparse array; the import waits, as SciPy's sparse part takes long to load."""
    from scipy.sparse import issparse

    return bool(issparse(x))


class MatrixAlgebra:
    """Operators and checks that every format shares.

    A format gives `add`, `_scaled`, `_with_arrays`, `_beside_me`, `_sub_block`, `_frobenius` and `_sparse_update`; and,
    for mixed precision, `_mixed` and `nbytes_by_dtype`.
    """

    # ---------------------------------------------------------------------------- tolerances, operands

    @property
    def rtol(self: Any) -> float:
        """The tolerance that arithmetic recompresses to unless told otherwise."""
        return max(self.certificate.asked, float(np.finfo(self.dtype).eps))

    def _tolerance(self: Any, rtol: float | None, *others: Any) -> float:
        return min(m.rtol for m in (self, *others)) if rtol is None else _check.tolerance(rtol)

    def _require_same_format(self: Any, other: Any, what: str) -> None:
        mine, its = type(self).__name__, type(other).__name__
        if type(other) is not type(self):
            if not isinstance(other, MatrixAlgebra):
                raise TypeError(f"{what} must be of one format, but these are a {mine} and a {its}")
            raise TypeError(
                f"{what} must be of one format, but these are a {mine} and a {its}; convert one of them first: "
                f"{mine}.from_structured(other) or {its}.from_structured(A)"
            )

    def _require_same_trees(self: Any, other: Any, what: str) -> None:
        self._require_same_format(other, what)
        self._require_beside(other, what)
        if self.shape != other.shape:
            raise ShapeError(f"{what} must have one shape, but these are {self.shape} and {other.shape}")
        require_equal_trees(self.row_tree, other.row_tree, what)
        require_equal_trees(self.col_tree, other.col_tree, what)

    # -------------------------------------------------------------------------------------- operators

    def __add__(self: Any, other: Any) -> Any:
        if isinstance(other, MatrixAlgebra):
            return self.add(other)
        if _is_sparse(other):
            return self.add_sparse(other)
        return NotImplemented

    __radd__ = __add__

    def __neg__(self: Any) -> Any:
        return self * -1.0

    def __sub__(self: Any, other: Any) -> Any:
        known = isinstance(other, MatrixAlgebra) or _is_sparse(other)
        return self + (-other) if known else NotImplemented

    def __rsub__(self: Any, other: Any) -> Any:
        return (-self) + other if _is_sparse(other) else NotImplemented

    def __mul__(self: Any, factor: Any) -> Any:
        """A times a scalar; a real multiple of a Hermitian matrix stays Hermitian."""
        if not np.isscalar(factor) or isinstance(factor, str):
            return NotImplemented
        scalar: Any = factor
        number = complex(scalar)
        if not np.isfinite(number):
            raise ValueError(f"a scalar factor must be finite, but it is {factor!r}")
        return self._scaled(number)

    __rmul__ = __mul__

    def __truediv__(self: Any, divisor: Any) -> Any:
        is_number = np.isscalar(divisor) and not isinstance(divisor, str)
        return self * (1.0 / divisor) if is_number else NotImplemented

    def add_sparse(self: Any, s: Any, *, rtol: float | None = None) -> Any:
        """A + S for a sparse S of the same shape, recompressed.

        A Hermitian matrix stays one when S is Hermitian. With w the rank of S across cuts, O(n (k + w)^2) for nested
        bases; a logarithm more for independent ones.
        """
        from ._inputs import is_hermitian

        update = self._sparse_update(s, symmetric=self.symmetric and is_hermitian(s))
        return self.add(self._beside_me(update), rtol=self._tolerance(rtol))

    def _diagonal_values(self: Any, d: Any) -> NumpyArray:
        """What `add_diagonal` adds, (n,): checked, and real where the matrix is Hermitian."""
        self._require_square("add_diagonal")
        values = np.broadcast_to(np.asarray(d), (self.shape[0],)) if np.ndim(d) == 0 else d
        values = _check.vector(values, "d", self.shape[0])
        if self.row_tree != self.col_tree:
            raise TreeMismatchError("add_diagonal needs one tree for rows and columns, but this matrix has two")
        if self.symmetric and values.dtype.kind == "c":
            if np.abs(values.imag).max(initial=0.0) > 0:
                raise SymmetryError(
                    "a Hermitian matrix has a real diagonal, but d is complex; build with symmetric=False"
                )
            values = values.real
        return values

    def _dtype_with(self: Any, d: Any, values: NumpyArray) -> np.dtype[Any]:
        """The dtype of A + diag(d): a scalar d does not raise the precision."""
        dtype = np.result_type(self.dtype, values) if np.ndim(d) else self.dtype
        return np.result_type(dtype, np.complex64) if values.dtype.kind == "c" and dtype.kind != "c" else dtype

    def astype(self: Any, dtype: Any) -> Any:
        """The same matrix in another precision or field: float32, float64, complex64 or complex128.

        Complex to real is refused; take the real part of the source instead. All numbers are stored in this type, those
        of a matrix in mixed precision too.
        """
        target = _check.supported_dtype(dtype)
        if target == self.dtype and not self.mixed_precision:
            return self
        if self.dtype.kind == "c" and target.kind != "c":
            raise TypeError(
                f"cannot turn a matrix of dtype {self.dtype} into {target} without losing its imaginary part"
            )
        result = self._with_arrays(lambda a: cast(a, target))
        result.certificate = self.certificate.with_rounding(float(np.finfo(target).eps))
        return result

    # --------------------------------------------------------------------------------- mixed precision

    def to_mixed_precision(self: Any, *, rtol: float | None = None) -> Any:
        """The same matrix with numbers in half the precision wherever the tolerance allows it.

        A matrix of float64 (complex128) keeps its dtype, but stores float32 (complex64) for what can bear it: dense
        blocks, columns of low-rank blocks, and for nested bases couplings and the bases of whole levels. Fewer bytes,
        and so a faster product with a vector. Products take vectors of the dtype, and sum in it.

        Parameters
        ----------
        rtol : float, optional
            Tolerance of the result, relative to the Frobenius norm: the error so far and that of rounding together.
            Default: the one that the matrix was built with, of which a build leaves some.

        Returns
        -------
        StructuredMatrix
            `nbytes_by_dtype` says what is stored in which type, and the certificate has a bound of the new error. The
            matrix itself, where the tolerance leaves no room, or where there is no type of half the precision.

        Notes
        -----
        The bound of what rounding changes is computed from the rounded numbers. Sums, truncations, factorisations and
        products of matrices go back to the wider type. Cost O(n k^2 log n), a truncation.

        References
        ----------
        P. Amestoy et al., "Mixed precision low-rank approximations and their application to block low-rank LU
        factorization", IMA J. Numer. Anal. 43 (2023) 2198-2227.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> points = np.random.default_rng(0).random((2000, 2))
        >>> A = sm.HMatrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-6)
        >>> B = A.to_mixed_precision()
        >>> B.dtype, B.certificate.met, B.nbytes < 0.6 * A.nbytes
        (dtype('float64'), True, True)
        """
        tolerance = self.certificate.asked if rtol is None else _check.tolerance(rtol)
        before = self.certificate.upper_bound
        room = (tolerance - before) / (1.0 + before)  # the old error is relative to the exact matrix
        result, error = (self, 0.0) if narrower(self.dtype) is None else self._mixed(max(room, 0.0))
        if result is not self:
            result.certificate = self.certificate.with_change(error, asked=tolerance, how="rounded in part")
        return result

    def _mixed(self: Any, rtol: float) -> tuple[Any, float]:
        """The matrix in mixed precision, or itself, and a bound of the relative error made, at most `rtol`."""
        raise TypeError(f"a {type(self).__name__} has no mixed precision; HODLR, HSS, H- and H2-matrices have")

    @property
    def nbytes_by_dtype(self: Any) -> dict[str, int]:
        """Bytes of what is stored by the type of the numbers: in mixed precision there are two."""
        return {self.dtype.name: self.nbytes}

    @property
    def mixed_precision(self) -> bool:
        """Whether some numbers are stored in half the precision of the others."""
        return len(self.nbytes_by_dtype) > 1

    def _precision(self: Any) -> str:
        """The type of the numbers for people."""
        sizes = self.nbytes_by_dtype
        others = [f"{100 * sizes[name] / sum(sizes.values()):.0f} % of it as {name}" for name in list(sizes)[1:]]
        return ", ".join([self.dtype.name, *others])

    # ------------------------------------------------------------------------------- entries and norms

    def __getitem__(self: Any, key: Any) -> Any:
        """A[i, j]: a number for two integers, else the dense sub-block of the given rows and columns."""
        if not isinstance(key, tuple) or len(key) != 2:
            raise IndexError("a structured matrix takes two indices, A[i, j]; for rows alone write A[i, :]")
        rows = _check.index_array(key[0], self.shape[0], "row")
        cols = _check.index_array(key[1], self.shape[1], "column")
        block = self._sub_block(rows, cols)
        scalar = [isinstance(k, (int, np.integer)) for k in key]
        if all(scalar):
            return block[0, 0]
        return block[0] if scalar[0] else block[:, 0] if scalar[1] else block

    def norm(self: Any, ord: str | int = "fro", *, rng: RandomLike = None, tol: float = 1e-6) -> float:
        """The Frobenius norm exactly (`"fro"`) or the 2-norm by Lanczos iteration (`2`, to `tol`).

        The Frobenius norm costs O(n k^2), a logarithm more for independent bases; the 2-norm some products.
        """
        if ord == "fro":
            return float(self._frobenius())
        if ord == 2:
            from .norms import two_norm

            return two_norm(self, tol=tol, rng=_check.generator(rng))
        raise ValueError(f'ord must be "fro" or 2, but it is {ord!r}')
