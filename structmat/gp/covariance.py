"""The covariance matrix: which format holds it, and a dense one with the same verbs."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import scipy.linalg

from .._typing import NumpyArray
from ..exceptions import NotPositiveDefiniteError

# by dimension: up to so many points a dense Cholesky factorisation is as quick as any format; see benchmarks/gp.py
DENSE_BELOW = {1: 500, 2: 2000, 3: 5000}
FORMATS = {"hodlr": "HODLRMatrix", "hmatrix": "HMatrix", "hss": "HSSMatrix"}  # name -> class in `structmat`
# by dimension of the points, the first that there is
PREFERRED = {1: ("hodlr", "hss"), 2: ("hmatrix", "hss"), 3: ("hmatrix", "hss")}


class DenseCovariance:
    """A symmetric dense matrix with the verbs of a structured one: for small problems, and to compare with.

    Parameters
    ----------
    values : (n, n) array
        Symmetric.
    """

    def __init__(self, values: NumpyArray) -> None:
        self._values = values
        self.shape = values.shape

    @classmethod
    def from_kernel(cls, kernel: Any, points: NumpyArray, tree: Any = None, **_options: Any) -> DenseCovariance:
        """All values of the kernel, O(n^2); the options of the compressed formats mean nothing here."""
        return cls(np.asarray(kernel(points, points)))

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return int(self._values.nbytes)

    @property
    def max_rank(self) -> int:
        """The number of rows: nothing is compressed."""
        return self.shape[0]

    def add_diagonal(self, d: Any) -> DenseCovariance:
        """A + diag(d)."""
        values = self._values.copy()
        values[np.diag_indices_from(values)] += d
        return DenseCovariance(values)

    def __matmul__(self, x: NumpyArray) -> NumpyArray:
        """A @ x."""
        product: NumpyArray = self._values @ x
        return product

    def to_dense(self) -> NumpyArray:
        """A copy of the array."""
        return self._values.copy()

    def diagonal(self) -> NumpyArray:
        """The main diagonal."""
        return np.diagonal(self._values).copy()

    def trace(self) -> float:
        """The sum of the diagonal."""
        return float(np.trace(self._values))

    def factorize(self, *, positive_definite: bool = True) -> DenseCholesky:
        """The Cholesky factorisation, O(n^3)."""
        return DenseCholesky(self._values)

    @functools.cached_property
    def _inverse(self) -> NumpyArray:
        return self.factorize().solve(np.eye(self.shape[0]))

    def _trace_of_solve(self, other: DenseCovariance) -> float:
        return float(np.vdot(self._inverse, other._values))

    @classmethod
    def identity(cls, tree: Any) -> DenseCovariance:
        """The identity of the size of a tree."""
        return cls(np.eye(tree.n))


class DenseCholesky:
    """The Cholesky factorisation of a dense matrix."""

    def __init__(self, values: NumpyArray) -> None:
        try:
            self._lower = scipy.linalg.cholesky(values, lower=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise NotPositiveDefiniteError(f"the matrix is not positive definite: {error}", 0, 0) from None

    def solve(self, b: NumpyArray) -> NumpyArray:
        """Solve A x = b."""
        x: NumpyArray = scipy.linalg.cho_solve((self._lower, True), b, check_finite=False)
        return x

    def slogdet(self) -> tuple[float, float]:
        """(1, log det A)."""
        return 1.0, 2.0 * float(np.log(np.diagonal(self._lower)).sum())

    def inverse(self) -> DenseCovariance:
        """A^-1."""
        return DenseCovariance(self.solve(np.eye(len(self._lower))))


def available_formats() -> tuple[str, ...]:
    """The names that `format=` takes in this version of structmat, apart from "auto".

    A format counts once it has a Cholesky factorisation, `factorize(positive_definite=True)`.
    """
    import structmat

    classes = {name: getattr(structmat, cls, None) for name, cls in FORMATS.items()}
    return ("dense", *(name for name, cls in classes.items() if cls is not None and _has_cholesky(cls)))


def _has_cholesky(cls: Any) -> bool:
    return "positive_definite" in inspect.signature(cls.factorize).parameters


def choose_format(name: Any, count: int, dimension: int) -> str:
    """The format for so many points of so many coordinates; "auto" chooses.

    Dense for few points, and above three dimensions, where no format finds structure; weak admissibility on the line,
    strong admissibility in the plane and in space, where the ranks of weak admissibility grow with n.
    """
    known = available_formats()
    if name == "auto":
        if count < DENSE_BELOW.get(dimension, np.inf):
            return "dense"
        return next(candidate for candidate in PREFERRED[dimension] if candidate in known)
    if name not in known:
        raise ValueError(f'format must be "auto" or one of {", ".join(known)}, but it is {name!r}')
    return str(name)


def matrix_class(name: str) -> Any:
    """The class of a format of `choose_format`."""
    import structmat

    return DenseCovariance if name == "dense" else getattr(structmat, FORMATS[name])
