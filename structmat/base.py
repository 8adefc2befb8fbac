"""StructuredMatrix: the contract of the four formats, and what a matrix gets for free from it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _check
from ._backend import is_numpy, like, namespace, to_numpy
from ._typing import Array, NumpyArray
from .algebra import MatrixAlgebra
from .certificate import Certificate
from .exceptions import DeviceError, IllConditionedWarning, ShapeError, SymmetryError
from .krylov import product_of
from .tree import ClusterTree

if TYPE_CHECKING:
    import os

    import scipy.sparse.linalg as spla

__all__ = ["Factorization", "StructuredMatrix"]


class StructuredMatrix(MatrixAlgebra, ABC):
    """A matrix in one of the hierarchical formats. Immutable.

    A new format gives `_product`, `_oriented` and the abstract methods below; products with arrays from both sides,
    transposes, operators for SciPy, traces and solving follow from them.
    """

    __array_ufunc__ = None  # numpy.ndarray @ A asks A
    __array_priority__ = 1000.0

    # whether the format has a factorisation of its own; else `factorize` raises TypeError and says what to do
    factorizes: ClassVar[bool] = True

    row_tree: ClusterTree
    col_tree: ClusterTree
    certificate: Certificate

    # ----------------------------------------------------------------------- what a format gives

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries."""

    @property
    @abstractmethod
    def symmetric(self) -> bool:
        """Whether the matrix is stored as Hermitian: half of it."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""

    @property
    @abstractmethod
    def ranks(self) -> tuple[NumpyArray, ...]:
        """True ranks of the row bases by level, from level 1."""

    @property
    @abstractmethod
    def max_rank(self) -> int:
        """The largest rank of any basis."""

    @abstractmethod
    def _product(self, x: Array, *, adjointly: bool, conjugated: bool) -> Array:
        """A x, A^H x, conj(A) x or A^T x for leaf blocks x (leaves, size, k)."""

    @abstractmethod
    def _oriented(self, *, adjointly: bool, conjugated: bool) -> Any:
        """The adjoint and/or the conjugate as a view."""

    @abstractmethod
    def factorize(self) -> Any:
        """A factorisation that solves; see the format."""

    # ------------------------------------------------------------------------------- for free

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.row_tree.n, self.col_tree.n

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def T(self) -> Any:
        """The transpose, without copying the data."""
        return self._oriented(adjointly=True, conjugated=True)

    @property
    def H(self) -> Any:
        """The conjugate transpose, without copying the data."""
        return self._oriented(adjointly=True, conjugated=False)

    def conj(self) -> Any:
        """The complex conjugate, without copying the data."""
        return self._oriented(adjointly=False, conjugated=True)

    def _apply(self, x: Any, *, adjointly: bool, conjugated: bool = False) -> Array:
        source, target = (self.row_tree, self.col_tree) if adjointly else (self.col_tree, self.row_tree)
        array = _check.operand(x, source.n, self.shape, side="rows" if adjointly else "columns")
        xp = namespace(array)
        columns = xp.reshape(array, (source.n, 1)) if array.ndim == 1 else array
        result = target.from_leaves(
            self._product(source.to_leaves(columns), adjointly=adjointly, conjugated=conjugated)
        )
        return xp.reshape(result, (target.n,)) if array.ndim == 1 else result

    def matvec(self, x: Any) -> Array:
        """A @ x for a vector (n,)."""
        return self._apply(x, adjointly=False)

    def matmat(self, x: Any) -> Array:
        """A @ X for a block of vectors (n, k)."""
        return self._apply(x, adjointly=False)

    def rmatvec(self, x: Any) -> Array:
        """A^H @ x for a vector (m,)."""
        return self._apply(x, adjointly=True)

    def rmatmat(self, x: Any) -> Array:
        """A^H @ X for a block of vectors (m, k)."""
        return self._apply(x, adjointly=True)

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, StructuredMatrix):
            return self._times(other)
        return self._apply(other, adjointly=False)

    def __rmatmul__(self, other: Any) -> Array:
        """X @ A for x (m,) or (k, m)."""
        array = other if not isinstance(other, (list, tuple)) else np.asarray(other)
        if array.ndim not in (1, 2):
            raise ShapeError(f"x must be 1-D or 2-D, but it has {array.ndim} dimensions")
        if array.shape[-1] != self.shape[0]:
            raise ShapeError(
                f"x has {array.shape[-1]} columns, but A has {self.shape[0]} rows (A.shape = {self.shape})"
            )
        if array.ndim == 1:
            return self._apply(array, adjointly=True, conjugated=True)
        return self._apply(array.T, adjointly=True, conjugated=True).T

    def _times(self, other: StructuredMatrix) -> Any:
        self._require_same_format(other, "the operands of a matrix product")
        raise TypeError(f"the product of two matrices of the format {type(self).__name__} is not defined")

    def aslinearoperator(self) -> spla.LinearOperator:
        """The matrix as a `scipy.sparse.linalg.LinearOperator`, with adjoint and block products."""
        from ._linear_operator import BlockLinearOperator

        return BlockLinearOperator(
            self.shape, self.dtype, lambda x: self._apply(x, adjointly=False), lambda x: self._apply(x, adjointly=True)
        )

    def to_dense(self) -> NumpyArray:
        """The dense array, (m, n)."""
        eye = np.eye(self.shape[1], dtype=self.dtype)
        out = np.empty(self.shape, dtype=self.dtype)
        for k in range(0, self.shape[1], 256):
            out[:, k : k + 256] = self @ eye[:, k : k + 256]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NumpyArray:
        if copy is False:
            raise ValueError("a structured matrix cannot become a dense array without a copy")
        return self.to_dense().astype(dtype or self.dtype, copy=False)

    def trace(self) -> Any:
        """The sum of the diagonal of a square matrix."""
        if self.shape[0] != self.shape[1]:
            raise ShapeError(f"the trace needs a square matrix, but A.shape = {self.shape}")
        return self.diagonal().sum()

    @abstractmethod
    def diagonal(self) -> NumpyArray:
        """The main diagonal."""

    def _require_square(self, what: str) -> None:
        if self.shape[0] != self.shape[1]:
            raise ShapeError(f"{what} needs a square matrix, but A.shape = {self.shape}; see lstsq for tall ones")

    def _require_hermitian_storage(self) -> None:
        self._require_square("a factorisation")
        if not self.symmetric:
            raise SymmetryError(
                "positive_definite=True needs a matrix that is stored as Hermitian; build it with symmetric=True"
            )

    def to_device(self, device: str) -> Any:
        """The same matrix with its data on `device`, "cpu" or "gpu".

        Raises
        ------
        DeviceMemoryError
            Where it would not fit, before anything is copied.
        """
        from ._backend import device_namespace, require_room

        xp = device_namespace(device)
        if xp is np:
            return self._with_arrays(to_numpy)
        require_room(
            self._device_bytes(), xp, f"this {type(self).__name__}",
            "delete other arrays, truncate the matrix to a larger rtol, or store half as much with astype",
        )  # fmt: skip
        return self._with_arrays(xp.asarray)

    def _device_bytes(self) -> int:
        """Bytes that the matrix takes on a device."""
        return self.nbytes

    def _with_arrays(self, function: Any) -> Any:
        raise DeviceError(f"{type(self).__name__} cannot move between devices")

    def __len__(self) -> int:
        return self.shape[0]

    # --------------------------------------------------------------------------------- solving

    def solve(
        self,
        b: Any,
        operator: Any = None,
        rtol: float | None = None,
        *,
        factorization: Factorization | None = None,
        positive_definite: bool = False,
        refine: bool | str = False,
        max_steps: int | None = None,
    ) -> Any:
        """Solve A x = b, and say how good the solution is for the matrix that A approximates.

        Parameters
        ----------
        b : (n,) or (n, k) array
            Right-hand sides.
        operator : object, optional
            The exact operator (with `matmat` or `matvec`, or `@`). The solution is refined against it until the
            relative residual is at most `rtol`.
        rtol : float, optional
            Relative residual asked for: against `operator` where there is one (default 1e-10), else against the unknown
            exact matrix, predicted from the certificate (default: the certificate's `asked`). With `refine="krylov"`
            against `operator` or else A itself (default 1e-10).
        factorization : Factorization, optional
            A result of `factorize` to reuse.
        positive_definite : bool
            Factor by Cholesky, where no factorisation is given.
        refine : bool or "krylov"
            One step of iterative refinement with A itself. Or iterate with the factorisation, which may be a loose one,
            as the preconditioner until the residual is at most `rtol`: conjugate gradients for a Cholesky
            factorisation, else GMRES.
        max_steps : int, optional
            Most refinement steps against `operator` (default 10), or Krylov steps (default 200).

        Returns
        -------
        x : (n,) or (n, k) array

        Warns
        -----
        IllConditionedWarning
            When the residual is, or against the exact matrix must be expected to be, larger than asked for.

        Notes
        -----
        The prediction is `certificate.upper_bound * ||A||_F * ||x|| / (sqrt(n) * ||b||)`, an error of the certified
        size in random directions. With a factorisation that is approximate (H) or not backward stable (HODLR) the
        residual against A itself is measured, improved by a step of refinement where it is larger than `rtol`, and part
        of the prediction. Cost: a factorisation, unless one is given, and a few products.
        """
        self._require_square("solve")
        if refine not in (True, False, "krylov"):
            raise ValueError(f'refine must be True, False or "krylov", but it is {refine!r}')
        factored: Any = self._factored(positive_definite) if factorization is None else factorization
        if refine == "krylov":
            return self._iterated(factored, self if operator is None else operator, b, rtol, max_steps or 200)
        x = factored.solve(b)
        if refine:
            x = x + factored.solve(b - self @ x)
        if operator is not None:
            asked = 1e-10 if rtol is None else _check.tolerance(rtol)
            return _refined(factored, operator, b, x, asked, max_steps or 10)
        residual = 0.0
        if not factored.backward_stable:
            x, residual = self._settled(factored, b, x, self._asked(rtol))
        self._warn_of_residual(b, x, rtol, residual)
        return x

    def _iterated(self, factored: Any, operator: Any, b: Any, rtol: float | None, max_steps: int) -> Any:
        """The solution by a preconditioned iteration on the operator."""
        from . import solvers

        method = "cg" if factored.positive_definite else "gmres"
        asked = 1e-10 if rtol is None else _check.tolerance(rtol)
        return solvers._solve(operator, b, asked, method, factored, asked, max_steps, None, stacklevel=5).x

    def _settled(self, factored: Any, b: Any, x: Any, asked: float) -> tuple[Any, float]:
        """The solution after a step of refinement with A itself where it needs one, and its largest residual."""
        sizes = np.linalg.norm(to_numpy(namespace(x).asarray(b)), axis=0)

        def relative(rest: Any) -> float:
            norms = np.linalg.norm(to_numpy(rest), axis=0)
            return float(np.max(np.where(sizes > 0, norms / np.where(sizes > 0, sizes, 1.0), 0.0), initial=0.0))

        rest = b - self @ x
        if relative(rest) > asked:
            x = x + factored.solve(rest)
            rest = b - self @ x
        return x, relative(rest)

    def as_preconditioner(self, *, rtol: float = 1e-3, positive_definite: bool = False) -> spla.LinearOperator:
        """A^-1 to a loose tolerance, as the argument `M` of the Krylov solvers of SciPy and PyAMG.

        Parameters
        ----------
        rtol : float
            The matrix is truncated to this tolerance before it is factored; an H-matrix is factored to it.
        positive_definite : bool
            The symmetric factorisation, as `cg` needs it.

        See Also
        --------
        structmat.solve : Preconditioner and iteration in one call.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> from scipy.sparse.linalg import gmres
        >>> kernel = sm.kernelfunctions.Exponential(length=0.1)
        >>> A = sm.HMatrix.from_kernel(kernel, np.random.default_rng(0).random((500, 2)), rtol=1e-8)
        >>> x, info = gmres(A.aslinearoperator(), np.ones(500), M=A.as_preconditioner(rtol=1e-3), rtol=1e-6)
        >>> info
        0
        """
        operator: spla.LinearOperator = self._factored_to(rtol, positive_definite).as_preconditioner()
        return operator

    def _factored_to(self, rtol: float, positive_definite: bool) -> Any:
        """A factorisation to a loose tolerance."""
        loose: Any = self
        return loose.truncate(rtol=rtol)._factored(positive_definite)

    def _asked(self, rtol: float | None) -> float:
        return self.certificate.asked if rtol is None else _check.tolerance(rtol)

    def _factored(self, positive_definite: bool) -> Any:
        factorize: Any = self.factorize
        return factorize(positive_definite=True) if positive_definite else factorize()

    def predicted_residual(self, b: Any, x: Any) -> float:
        """The relative residual of a solution x of A x = b to expect against the exact matrix; see `solve`.

        For several right-hand sides the largest one.
        """
        host_b, host_x = to_numpy(namespace(x).asarray(b)), to_numpy(x)
        sizes = np.linalg.norm(host_b, axis=0)
        scale = self.certificate.upper_bound * self.norm("fro") / np.sqrt(self.shape[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.max(np.where(sizes > 0, scale * np.linalg.norm(host_x, axis=0) / sizes, 0.0)))

    def _warn_of_residual(self, b: Any, x: Any, rtol: float | None, residual: float = 0.0) -> None:
        """Warn of what must be expected against the exact matrix; `residual` is known, against A itself."""
        predicted = float(np.hypot(self.predicted_residual(b, x), residual))
        asked = self._asked(rtol)
        # what rounding alone leaves is no cause for alarm
        floor = 100.0 * float(np.finfo(self.dtype).eps)
        if predicted > max(10.0 * asked, floor):
            warnings.warn(
                f"the system is ill conditioned for the accuracy of A: against the exact matrix the relative residual "
                f"must be expected to be about {predicted:.1e}, and {asked:.1e} was asked for; build A with a smaller "
                "rtol, or refine against the exact operator: A.solve(b, operator=op, rtol=...)",
                IllConditionedWarning,
                stacklevel=3,
            )

    def slogdet(self) -> tuple[Any, float]:
        """Sign (phase, for complex) and logarithm of the absolute value of the determinant, by a factorisation."""
        self._require_square("slogdet")
        return self.factorize().slogdet()

    def inverse(self, *, rtol: float | None = None) -> Any:
        """The inverse X in the same format, by a factorisation, recompressed so that ||A X - I||_F <= rtol sqrt(n).

        Rounding allows no less than about the machine precision times the square of the condition number.
        """
        self._require_square("inverse")
        return self.factorize().inverse(rtol=rtol)

    # ------------------------------------------------------------------------------ for people

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file that `structmat.load` reads: versioned, checksummed, without pickle, replaced atomically."""
        from .io import save

        save(self, path)

    def summary(self) -> str:
        """Levels, ranks and bytes against dense, as text to print."""
        from .plot import summary

        return summary(self)

    def plot(self, ax: Any = None) -> Any:
        """Draw the block structure with ranks, by number and colour; returns the matplotlib axes."""
        from .plot import plot_structure

        return plot_structure(self, ax=ax)


def _refined(factored: Factorization, operator: Any, b: Any, x: Any, rtol: float, max_steps: int) -> Any:
    """Iterative refinement against the exact operator, until the residual is small or stops falling."""
    product = product_of(operator)
    rhs, best = np.asarray(b), np.asarray(x)
    columns, solution = rhs.reshape(len(rhs), -1), np.asarray(x).reshape(len(rhs), -1)
    sizes = np.where((norms := np.linalg.norm(columns, axis=0)) > 0, norms, 1.0)
    smallest = np.inf
    for _step in range(max_steps + 1):
        residual = columns - np.asarray(product(solution)).reshape(columns.shape)
        relative = float((np.linalg.norm(residual, axis=0) / sizes).max(initial=0.0))
        if relative < smallest:
            smallest, best = relative, solution
        if relative <= rtol or relative > 2.0 * smallest or _step == max_steps:
            break
        solution = solution + np.asarray(factored.solve(residual))
    if smallest > rtol:
        warnings.warn(
            f"refinement against the exact operator stopped at a relative residual of {smallest:.1e}, and {rtol:.1e} "
            f"was asked for ({_step} steps); build A with a smaller rtol, or use it as a preconditioner in gmres",
            IllConditionedWarning,
            stacklevel=4,
        )
    return best.reshape(rhs.shape)


class Factorization(ABC):
    """What a factorisation offers: solve with the matrix and with its adjoint, determinant, inverse."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    # whether it solves the stored matrix to rounding: else `solve` of the matrix looks at the residual
    backward_stable: ClassVar[bool] = True
    positive_definite: ClassVar[bool] = False  # whether A^-1 is Hermitian positive definite by construction

    @abstractmethod
    def _solve_block(self, b: NumpyArray, *, adjointly: bool) -> NumpyArray:
        """Solutions for checked right-hand sides (n, k)."""

    @abstractmethod
    def slogdet(self) -> tuple[Any, float]:
        """Sign (or phase) and logarithm of the absolute value of the determinant."""

    def solve(self, b: Any) -> Any:
        """Solve A x = b; b (n,) or (n, k), in the user's ordering."""
        return self._solve(b, adjointly=False)

    def solve_adjoint(self, b: Any) -> Any:
        """Solve A^H x = b; b (n,) or (n, k)."""
        return self._solve(b, adjointly=True)

    def _solve(self, b: Any, *, adjointly: bool) -> Any:
        array = _check.operand(b, self.shape[0], self.shape, side="rows", name="b")
        host = _check.finite_operand(to_numpy(array), "b")
        if host.size == 0:  # no columns, no solutions
            nothing = np.zeros(host.shape, dtype=np.result_type(host.dtype, self.dtype))
            return nothing if is_numpy(array) else like(nothing, array)
        if host.dtype.kind == "c" and self.dtype.kind != "c":  # a real factorisation solves two real systems
            columns = host.reshape(len(host), -1)
            both = self._solve_block(np.concatenate([columns.real, columns.imag], axis=1), adjointly=adjointly)
            half = columns.shape[1]
            x = (both[:, :half] + 1j * both[:, half:]).reshape(host.shape)
        else:
            columns = host.reshape(len(host), -1).astype(np.result_type(host.dtype, self.dtype), copy=False)
            x = self._solve_block(columns, adjointly=adjointly).reshape(host.shape)
        return x if is_numpy(array) else like(x, array)

    def aslinearoperator(self) -> spla.LinearOperator:
        """A^-1 as a `LinearOperator`: a preconditioner for the Krylov solvers of SciPy and PyAMG."""
        from ._linear_operator import BlockLinearOperator

        return BlockLinearOperator(self.shape, self.dtype, self.solve, self.solve_adjoint)

    def as_preconditioner(self) -> spla.LinearOperator:
        """A^-1 as the argument `M` of the Krylov solvers of SciPy and PyAMG; the same as `aslinearoperator`.

        For `cg` the factorisation must be a Cholesky one: that of an LU is Hermitian to its tolerance only.
        """
        return self.aslinearoperator()
