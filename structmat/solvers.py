"""`solve`: an iteration for A x = b, with a preconditioner built from the same matrix at a loose tolerance.

A factorisation to a loose tolerance costs little, and leaves so few eigenvalues away from 1 that a handful of steps
bring the residual down to any tolerance; see M. Bebendorf, "Hierarchical matrices", Springer 2008, section 2.6, and
L. Grasedyck, R. Kriemann, S. Le Borne, Computing 74 (2005). The iterations themselves are in `structmat.krylov`.
"""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check, krylov
from ._backend import is_numpy, like, to_numpy
from ._typing import Array, NumpyArray
from .base import StructuredMatrix
from .exceptions import ConvergenceWarning, NotPositiveDefiniteError, ShapeError, SingularBlockError
from .h2.matrix import H2Matrix
from .hmatrix.matrix import HMatrix
from .krylov import product_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Solution", "solve"]

# where a factorisation is too loose, it is tried again with tolerances smaller by this factor, so many times
_TIGHTER, _ATTEMPTS = 0.01, 3
_NAMES = {"cg": "conjugate gradients", "gmres": "GMRES"}


@dataclass(frozen=True)
class Solution:
    """What `solve` found, and how.

    Attributes
    ----------
    x : (n,) or (n, k) array
        The solution.
    residuals : (iterations + 1,) array
        Residuals relative to b, of the worst right-hand side, before each step and after the last one.
    rtol : float
        What was asked for.
    method : {"cg", "gmres"}
        Conjugate gradients or GMRES.
    preconditioner : object or None
        The factorisation, or what was given; it can be given again for other right-hand sides.
    notes : tuple of str
        What was tried and did not do, such as a factorisation that was too loose.
    build_seconds, iteration_seconds : float
        Times of the preconditioner and of the iteration.
    """

    x: Array = field(repr=False)
    residuals: NumpyArray = field(repr=False)
    rtol: float
    method: str
    preconditioner: Any
    notes: tuple[str, ...]
    build_seconds: float
    iteration_seconds: float

    @property
    def residual(self) -> float:
        """The relative residual of x, computed from x; of several right-hand sides the largest one."""
        return float(self.residuals[-1])

    @property
    def iterations(self) -> int:
        """Number of steps, each a product with A and an application of the preconditioner."""
        return len(self.residuals) - 1

    @property
    def converged(self) -> bool:
        """Whether the residual is as small as asked for."""
        return self.residual <= self.rtol

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{_NAMES[self.method]}, {self.iterations} steps in {self.iteration_seconds:.3g} s: relative residual "
                f"{self.residual:.1e} ({'at most' if self.converged else 'NOT'} {self.rtol:.1e})",
                f"preconditioner ({self.build_seconds:.3g} s): {self.preconditioner}",
                *self.notes,
            ]
        )

    def plot(self, ax: Axes | None = None, *, label: str | None = None) -> Axes:
        """Draw the residual by step.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw, also several solutions for comparison; default: the axes of a new figure.
        label : str, optional
            Default: the method and the kind of the preconditioner.
        """
        from .plot import plot_residuals

        kind = "no preconditioner" if self.preconditioner is None else type(self.preconditioner).__name__
        return plot_residuals(self.residuals, self.rtol, label or f"{_NAMES[self.method]}, {kind}", ax)


def solve(
    A: Any, b: Any, *, rtol: float = 1e-8, method: str = "auto", preconditioner: Any = "auto",
    preconditioner_rtol: float = 1e-2, max_steps: int = 500, progress: Callable[[float], None] | None = None,
) -> Solution:  # fmt: skip
    """Solve A x = b by a Krylov iteration, with a preconditioner made from A itself unless another one is given.

    Parameters
    ----------
    A : StructuredMatrix, LinearOperator, array or sparse matrix
        Square, (n, n); anything that multiplies.
    b : (n,) or (n, k) array
        Right-hand sides; all are solved together.
    rtol : float
        The relative residual asked for, of each right-hand side.
    method : {"auto", "cg", "gmres"}
        Conjugate gradients, for Hermitian positive definite matrices and preconditioners, or GMRES for any. "auto"
        takes conjugate gradients where A is stored as symmetric and its factorisation shows it to be positive definite,
        and goes over to GMRES where the iteration shows that it is not.
    preconditioner : "auto", None or object
        One of

        - a format, such as `HSSMatrix`: A is converted to it (an operator by `from_operator`) and factored;
        - a structured matrix, which is factored: for one that was built loosely from the same source;
        - a factorisation, or anything with `solve`;
        - a linear operator, or a function of blocks (n, k), that applies the inverse approximately;
        - None: none;
        - "auto": a factorisation in A's own format, of an `H2Matrix` as an `HMatrix`. None for what is no structured
          matrix.
    preconditioner_rtol : float
        Tolerance of the conversion and of the factorisation, where they are made here. Where the factorisation fails
        for that, smaller ones are tried, and `notes` says so.
    max_steps : int
        Most steps.
    progress : callable, optional
        Called with the share of the work just done, by the decades of the residual.

    Returns
    -------
    Solution
        With `x`, `residuals`, `converged`, times, and a picture: `plot()`.

    Raises
    ------
    NotPositiveDefiniteError
        With method="cg", where A or the preconditioner turns out not to be positive definite. Level and node are those
        of the block where a factorisation found it; 0 and 0 where the iteration did.
    SingularBlockError
        Where no factorisation succeeds.

    Warns
    -----
    ConvergenceWarning
        Where the residual is larger than asked for.

    See Also
    --------
    StructuredMatrix.solve : Factors to the accuracy of the matrix, and judges the solution by the exact matrix.

    Notes
    -----
    A step costs one product and one solve with the factors for each right-hand side. The residual is that of A as it is
    stored: against the exact matrix expect the error of A on top, see `A.certificate`.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> points = np.random.default_rng(0).random((800, 2))
    >>> kernel = sm.kernelfunctions.Exponential(length=0.5)
    >>> A = sm.HMatrix.from_kernel(kernel, points, rtol=1e-8, symmetric=True).add_diagonal(1e-2)
    >>> solution = sm.solve(A, np.ones(800), rtol=1e-10)
    >>> solution.method, solution.converged, solution.iterations < 10
    ('cg', True, True)
    """
    return _solve(
        A, b, _check.tolerance(rtol), _checked_method(method), preconditioner,
        _check.tolerance(preconditioner_rtol, "preconditioner_rtol"),
        _check.positive_integer(max_steps, "max_steps"), progress, stacklevel=3,
    )  # fmt: skip


def _checked_method(method: str) -> str:
    if method not in ("auto", "cg", "gmres"):
        raise ValueError(f'method must be "auto", "cg" or "gmres", but it is {method!r}')
    return method


def _solve(
    A: Any, b: Any, rtol: float, method: str, preconditioner: Any, loose: float, max_steps: int,
    progress: Callable[[float], None] | None, *, stacklevel: int,
) -> Solution:  # fmt: skip
    """`solve` behind the door; `stacklevel` leads to the caller whom warnings are for."""
    n = _square_size(A)
    array = _check.operand(b, n, (n, n), side="rows", name="b")
    host = _check.finite_operand(to_numpy(array), "b")
    start = time.perf_counter()
    given, notes = _made(A, preconditioner, loose, method)
    built = time.perf_counter()
    chosen = method if method != "auto" else "cg" if _is_definite(A, given) else "gmres"
    types = [host.dtype, *(np.dtype(o.dtype) for o in (A, given) if getattr(o, "dtype", None) is not None)]
    columns, units = _near_one(host.reshape(n, -1).astype(np.result_type(*types), copy=False))
    products = _guarded(product_of(A), "A"), _guarded(_inverse_of(given), "the preconditioner")
    watch = None if progress is None else _Shares(progress, rtol)
    found = _METHODS[chosen](*products, columns, rtol, max_steps, watch)
    residuals = found.residuals
    if found.indefinite:
        found_where = f"the {found.indefinite} is not positive definite (step {found.steps + 1})"
        if method == "cg":
            raise NotPositiveDefiniteError(
                f'{found_where}, as conjugate gradients need it; use method="gmres", or an LU factorisation', 0, 0
            )
        notes = (*notes, f"{found_where}: GMRES instead of conjugate gradients")
        chosen, found = "gmres", krylov.gmres(*products, columns, rtol, max_steps, watch)
        residuals = found.residuals
    done = time.perf_counter()
    if not found.residual <= rtol:
        warnings.warn(_complaint(chosen, found, rtol, max_steps), ConvergenceWarning, stacklevel=stacklevel)
    x = (found.x * units).reshape(host.shape)
    return Solution(
        x if is_numpy(array) else like(x, array), np.array(residuals), rtol, chosen, given, notes, built - start,
        done - built,
    )  # fmt: skip


def _near_one(columns: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Columns with their largest entries near 1, whose squares are numbers, and the powers of 2 taken out."""
    number = np.finfo(columns.dtype)
    exponents = np.frexp(np.abs(columns).max(axis=0, initial=0.0))[1]
    units = np.ldexp(number.dtype.type(1), np.clip(exponents, -number.maxexp + 4, number.maxexp - 4))
    return columns / units, units


_METHODS: dict[str, Callable[..., krylov.Iteration]] = {"cg": krylov.conjugate_gradients, "gmres": krylov.gmres}


def _square_size(A: Any) -> int:
    shape = getattr(A, "shape", None)
    if shape is None or len(shape) != 2:
        raise TypeError(
            f"A must have a shape (n, n) and multiply, but it is a {type(A).__name__}; wrap a function in "
            "scipy.sparse.linalg.LinearOperator"
        )
    if shape[0] != shape[1]:
        raise ShapeError(f"solve needs a square matrix, but A.shape = {tuple(shape)}; see lstsq for tall ones")
    return int(shape[0])


def _complaint(method: str, found: krylov.Iteration, rtol: float, max_steps: int) -> str:
    reason = "" if found.steps >= max_steps else ": more steps no longer help in this precision"
    return (
        f"{_NAMES[method]} stopped at a relative residual of {found.residual:.1e} after {found.steps} steps, and "
        f"{rtol:.1e} was asked for{reason}; use a preconditioner or factorisation with a smaller rtol "
        "(preconditioner_rtol=), more max_steps, or double precision"
    )


def _guarded(product: Callable[[Any], Any], name: str) -> Callable[[NumpyArray], NumpyArray]:
    """The product of blocks (n, k), which must have the same shape and be finite."""

    def multiply(x: NumpyArray) -> NumpyArray:
        y = np.asarray(product(x))
        if y.shape != x.shape:
            raise ShapeError(f"{name} made a block of shape {y.shape} from one of shape {x.shape}")
        _check.finite(y, f"what {name} makes of a vector")
        return y

    return multiply


class _Shares:
    """Residuals as shares of the work: each decade from 1 down to the tolerance is as long as another."""

    def __init__(self, progress: Callable[[float], None], rtol: float) -> None:
        self._progress, self._decades = progress, -math.log10(min(max(rtol, 1e-16), 0.1))
        self._done = 0.0

    def __call__(self, residual: float) -> None:
        share = min(1.0, max(0.0, -math.log10(max(residual, 1e-300)) / self._decades))
        if share > self._done:
            self._progress(share - self._done)
            self._done = share


# ---------------------------------------------------------------------------------- preconditioners


def _made(A: Any, given: Any, loose: float, method: str) -> tuple[Any, tuple[str, ...]]:
    """What stands for A^-1: something with `solve`, an operator, a function or None; and what did not do."""
    if isinstance(given, str):
        if given != "auto":
            raise ValueError(
                f'preconditioner must be "auto", None, a format such as HSSMatrix, a matrix, a factorisation, an '
                f"operator or a function, but it is {given!r}"
            )
        given = _own_format(A)
    is_format = inspect.isclass(given) and issubclass(given, StructuredMatrix)
    if is_format and not given.factorizes:
        raise TypeError(f"{given.__name__} has no factorisation; take HMatrix, HODLRMatrix or HSSMatrix")
    if is_format or isinstance(given, StructuredMatrix):
        if not is_format and given.shape != A.shape:
            raise ShapeError(f"the preconditioner has shape {given.shape}, but A.shape = {tuple(A.shape)}")
        definite = method == "cg" or (method == "auto" and _may_be_definite(A))
        return _factored(A, given, loose, definite, required=method == "cg")
    _inverse_of(given)  # refuses what cannot be applied
    return given, ()


def _own_format(A: Any) -> Any:
    """The format to factor A in, where none is named: its own if that can be factored."""
    if not isinstance(A, StructuredMatrix):
        return None
    return type(A) if A.factorizes else HMatrix


def _may_be_definite(A: Any) -> bool:
    """Whether A is stored as Hermitian, and its diagonal does not rule out that it is positive definite."""
    if not getattr(A, "symmetric", False):
        return False
    # evaluated in each product, single entries are dear: the factorisation will find out
    return getattr(A, "on_the_fly", False) or bool((np.real(to_numpy(A.diagonal())) > 0.0).all())


def _factored(A: Any, source: Any, loose: float, definite: bool, *, required: bool) -> tuple[Any, tuple[str, ...]]:
    """A loose factorisation of A in a format, or of a matrix; tighter ones where it fails."""
    cls, whole = (source, A) if inspect.isclass(source) else (_own_format(source), source)
    floor = float(getattr(whole, "rtol", 0.0))
    tolerances = [max(loose * _TIGHTER**k, floor) for k in range(_ATTEMPTS)]
    notes: list[str] = []
    for k, tolerance in enumerate(tolerances):
        last = k == _ATTEMPTS - 1 or tolerance == tolerances[k + 1]
        try:
            matrix = _in_format(cls, whole, tolerance, definite)
            return matrix._factored_to(tolerance, definite), tuple(notes)
        except (NotPositiveDefiniteError, SingularBlockError) as error:
            cholesky = definite and isinstance(error, NotPositiveDefiniteError)
            if last and not (cholesky and not required):
                raise
            notes.append(f"{'Cholesky' if definite else 'LU'} to {tolerance:.1e} failed: {error}")
            if last:
                break
    return matrix._factored_to(tolerance, False), tuple(notes)


def _in_format(cls: Any, A: Any, rtol: float, definite: bool) -> Any:
    """A in a format, to a loose tolerance."""
    if isinstance(A, cls):
        return A
    if isinstance(
        A, H2Matrix
    ):  # truncated first: written out with bases of their own, its blocks would take more memory
        A = A.stored().truncate(rtol=rtol)
    if isinstance(A, StructuredMatrix):
        return cls.from_structured(A, rtol=rtol)
    return cls.from_operator(A, rtol=rtol, symmetric=definite)


def _is_definite(A: Any, made: Any) -> bool:
    """Whether "auto" means conjugate gradients: A is Hermitian, and all that is known says positive definite."""
    if made is None:
        return _may_be_definite(A)
    return bool(getattr(A, "symmetric", False)) and bool(getattr(made, "positive_definite", False))


def _inverse_of(given: Any) -> Callable[[NumpyArray], Any]:
    """The function that applies a preconditioner to blocks (n, k)."""
    if given is None:
        return lambda x: x
    if hasattr(given, "solve"):
        return given.solve
    if any(hasattr(given, name) for name in ("matmat", "__matmul__", "matvec")):
        return product_of(given)
    if callable(given) and not inspect.isclass(given):
        return given
    raise TypeError(
        "preconditioner must be a format such as HSSMatrix, a matrix, or something that has solve or matmat or can be "
        f"called, but it is {given!r}"
    )
