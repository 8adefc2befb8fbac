"""The registry of checks, what they are given, and the one tolerance they share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .._backend import to_numpy
from .._typing import NumpyArray

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CHECKS", "FACTOR", "Case", "Check", "check", "check_structured_matrix", "raises"]

# the C of the tolerance C sqrt(n) max(rtol, eps) ||A||_F
FACTOR = 4.0


@dataclass(frozen=True)
class Case:
    """A matrix in some format, the dense array that it stands for, and how well it does.

    Attributes
    ----------
    matrix : StructuredMatrix
        The matrix under test.
    dense : (m, n) array
        What it stands for.
    rtol : float
        Relative Frobenius error of the matrix, and the tolerance its arithmetic recompresses to.
    seed : int
        Of the vectors that the checks draw.
    """

    matrix: Any
    dense: NumpyArray
    rtol: float = 0.0
    seed: int = 0

    @property
    def rng(self) -> np.random.Generator:
        """A generator of random numbers, the same at each access."""
        return np.random.default_rng(self.seed)

    @cached_property
    def norm(self) -> float:
        """The Frobenius norm of the dense twin."""
        return float(np.linalg.norm(self.dense))

    @cached_property
    def singular_values(self) -> NumpyArray:
        """Singular values of the dense twin, the largest first."""
        return np.linalg.svd(self.dense, compute_uv=False)

    @property
    def eps(self) -> float:
        """Rounding of the matrix's precision."""
        return float(np.finfo(self.dense.dtype).eps)

    @property
    def relative(self) -> float:
        """FACTOR sqrt(n) max(rtol, eps)."""
        return FACTOR * float(np.sqrt(max(self.dense.shape))) * max(self.rtol, self.eps)

    def random(self, *shape: int, dtype: Any = None, rng: np.random.Generator | None = None) -> NumpyArray:
        """Gaussian numbers with columns of norm one, in the matrix's precision unless told otherwise."""
        kind = np.dtype(self.dense.dtype if dtype is None else dtype)
        generator = self.rng if rng is None else rng
        x = generator.standard_normal(shape)
        if kind.kind == "c":
            x = x + 1j * generator.standard_normal(shape)
        return (x / np.maximum(np.linalg.norm(x, axis=0), 1e-300)).astype(kind)

    def close(self, actual: Any, expected: Any, scale: Any = None, what: str = "result") -> None:
        """Raise AssertionError unless the Frobenius distance is at most `relative * scale`.

        The default scale is the norm of the matrix.
        """
        got, wanted = to_numpy(actual), np.asarray(expected)
        if got.shape != wanted.shape:
            raise AssertionError(f"{what} has shape {got.shape}, expected {wanted.shape}")
        if not np.isfinite(got).all():
            raise AssertionError(f"{what} is not finite")
        distance = float(np.linalg.norm(np.ravel(got - wanted)))
        allowed = self.relative * (self.norm if scale is None else scale)
        if not distance <= allowed:
            raise AssertionError(
                f"{what} is {distance:.3e} from its dense twin, allowed are {allowed:.3e} ({self.matrix!r})"
            )


@dataclass(frozen=True)
class Check:
    """One check by name: a function of a `Case` that raises AssertionError, and where it applies."""

    name: str
    function: Callable[[Case], None]
    square: bool
    needs: tuple[str, ...]
    factors: bool = False

    def reason_to_skip(self, case: Case) -> str | None:
        """Why the check says nothing about this case, or None."""
        if self.square and case.dense.shape[0] != case.dense.shape[1]:
            return "needs a square matrix"
        if self.factors and not case.matrix.factorizes:
            return f"{type(case.matrix).__name__} has no factorisation"
        missing = [name for name in self.needs if not hasattr(case.matrix, name)]
        return f"{type(case.matrix).__name__} has no {', '.join(missing)}" if missing else None

    def __call__(self, case: Case) -> None:
        """Run the check."""
        self.function(case)


CHECKS: dict[str, Check] = {}


Checker = Callable[[Case], None]


def check(*, square: bool = False, needs: tuple[str, ...] = (), factors: bool = False) -> Callable[[Checker], Checker]:
    """Register a check under its name.

    It is left out where the matrix lacks one of the attributes `needs`; with `factors`, where its format has no
    factorisation, which `formats_that_do_not_factorize_say_so` looks after.
    """

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        CHECKS[function.__name__] = Check(function.__name__, function, square, needs, factors)
        return function

    return register


@contextmanager
def raises(error: type[Exception], *fragments: str) -> Iterator[None]:
    """Demand an error of this type whose message holds all the fragments."""
    try:
        yield
    except error as caught:
        missing = [text for text in fragments if text not in str(caught)]
        if missing:
            raise AssertionError(f"the message of {error.__name__} lacks {missing}: {caught}") from caught
    else:
        raise AssertionError(f"{error.__name__} was not raised")


def check_structured_matrix(matrix: Any, dense: Any, tolerance: float = 0.0, *, seed: int = 0) -> None:
    """Run the whole battery on one matrix.

    Parameters
    ----------
    matrix : StructuredMatrix
        The matrix under test, in any format.
    dense : (m, n) array
        What it stands for.
    tolerance : float
        Relative Frobenius error of `matrix` against `dense`, and the tolerance to which its arithmetic
        recompresses; each check allows `4 sqrt(n) max(tolerance, eps) ||A||_F`.
    seed : int
        Of the vectors that the checks draw.

    Raises
    ------
    AssertionError
        Naming every check that failed.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> from structmat.testing import check_structured_matrix
    >>> x = np.linspace(0, 1, 150)
    >>> dense = np.exp(-abs(x[:, None] - x))
    >>> check_structured_matrix(sm.HSSMatrix.from_dense(dense, rtol=1e-10), dense, 1e-10)
    """
    case = Case(matrix, np.asarray(dense), tolerance, seed)
    failures = []
    for item in CHECKS.values():
        if item.reason_to_skip(case) is None:
            try:
                item(case)
            except Exception as error:
                failures.append((item.name, error))
    if failures:
        lines = "\n".join(f"  {name}: {type(error).__name__}: {error}" for name, error in failures)
        raise AssertionError(f"{len(failures)} checks failed:\n{lines}") from failures[0][1]
