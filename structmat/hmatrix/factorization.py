"""What H-LU and H-Cholesky share: the choice of the dense blocks, padding, solves and the estimate of the error."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._backend import one_blas_thread
from .._typing import IntArray, NumpyArray, RandomLike
from ..base import Factorization
from ..certificate import Certificate
from ..flat.norms import frobenius
from ..flat.storage import FlatBlocks
from .elimination import Elimination
from .layout import triangles
from .packing import PackedTriangle
from .triangular import Triangle

if TYPE_CHECKING:
    from .matrix import HMatrix

# rows of a dense block, about: measured, see `benchmarks`
BLOCK_SIZE = 64
# up to this many rows a matrix is one dense block, with pivoting over all of it
SMALL = 256
# the part of the tolerance that truncations are given; estimates from samples need room
SHARE = 0.7
PROBES = 10


class HFactorization(Factorization):
    """A = L R^H with block triangular H-matrices L and R.

    Parameters
    ----------
    matrix : HMatrix
        Square.
    rtol : float
        Of the factorisation: ||A - L R^H||_F <= rtol ||A||_F, estimated.
    block_size : int, optional
        The leaves are joined to dense blocks of at most about this many rows.
    """

    backward_stable = False

    def __init__(self, matrix: HMatrix, rtol: float, blocks: FlatBlocks, block_size: int | None) -> None:
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self.rtol = rtol
        self._matrix = matrix
        self._row_tree, self._col_tree = matrix.row_tree, matrix.col_tree
        if block_size is None:
            block_size = SMALL if matrix.shape[0] <= SMALL else BLOCK_SIZE
        level = _dense_level(matrix.row_tree.leaf_size, blocks.depth, block_size)
        self._sides = triangles(blocks, matrix.row_tree.leaf_size, level)
        self._padding = self._pad_diagonal(self._sides[0])
        tails = shared_tails(self._sides, SHARE * rtol * frobenius(blocks))
        Elimination(
            self._sides, lambda here, _place: tails[here], lambda node: self._factor_diagonal(self._sides, level, node)
        ).run()
        self._packed = tuple(PackedTriangle(side) for side in self._sides)

    @abstractmethod
    def _factor_diagonal(self, sides: tuple[Triangle, ...], level: int, node: int) -> None:
        """Factor the Schur complement in a dense diagonal block in place; `level` is for messages."""

    def _pad_diagonal(self, triangle: Triangle) -> float:
        """Numbers of the block's size on the diagonal where leaves are padded; the sum of their logarithms."""
        tree = self._row_tree
        if not tree.is_padded:
            return 0.0
        slots = (tree.leaf_positions == tree.n).reshape(1 << triangle.depth, -1)
        total = 0.0
        for node in range(len(slots)):
            block, padded = triangle.diagonal(node), np.flatnonzero(slots[node])
            largest = float(np.abs(block).max())
            value = np.exp2(np.round(np.log2(largest))) if largest > 0.0 else 1.0  # a power of two: no rounding
            block[padded, padded] = value
            total += len(padded) * float(np.log(value))
        return total

    # ------------------------------------------------------------------------------ properties

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(side.nbytes for side in self._sides)

    @property
    def max_rank(self) -> int:
        """The largest rank of a block of the factors."""
        return max(side.max_rank for side in self._sides)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, rtol={self.rtol:.1e}, "
            f"max_rank={self.max_rank}, {self.nbytes / 1e6:.3g} MB)"
        )

    # ---------------------------------------------------------------------------------- solves

    def _solve_block(self, b: NumpyArray, *, adjointly: bool) -> NumpyArray:
        source, target = (self._col_tree, self._row_tree) if adjointly else (self._row_tree, self._col_tree)
        leaves = np.array(source.to_leaves(b), dtype=np.result_type(b.dtype, self.dtype), order="C")
        x = leaves.reshape(leaves.shape[0] * leaves.shape[1], b.shape[1])
        first, second = (-1, 0) if adjointly else (0, -1)
        if x.shape[1] == 1 and x.dtype == self.dtype:
            self._packed[first].solve(x[:, 0], adjointly=False)
            self._packed[second].solve(x[:, 0], adjointly=True)
        else:
            with one_blas_thread():
                self._sides[first].solve(x)
                self._sides[second].solve_adjoint(x)
        return np.ascontiguousarray(target.from_leaves(x.reshape(leaves.shape)))

    def product(self, x: NumpyArray) -> NumpyArray:
        """L R^H x for x (n, k): what the factors stand for."""
        leaves = self._col_tree.to_leaves(x)
        flat = np.ascontiguousarray(leaves).reshape(-1, x.shape[1])
        with one_blas_thread():
            result = self._sides[0].times(self._sides[-1].adjoint_times(flat))
        return np.ascontiguousarray(self._row_tree.from_leaves(result.reshape(leaves.shape)))

    def inverse(self, *, rtol: float | None = None) -> HMatrix:
        """A^-1 as an H-matrix with the partition of A^T, compressed so that ||A X - I||_F <= rtol sqrt(n).

        Parameters
        ----------
        rtol : float, optional
            Default: that of the factorisation. The certificate of the result holds the residual, estimated.

        Notes
        -----
        Cost O(n k^2 log^2 n), about that of four factorisations. Where A^-1 is to be applied only, use `solve` or
        `aslinearoperator`.
        """
        from .inverse import invert

        return invert(self, self._matrix, self.rtol if rtol is None else _check.tolerance(rtol))

    # ------------------------------------------------------------------------------- the error

    @cached_property
    def certificate(self) -> Certificate:
        """The error ||A - L R^H||_F / ||A||_F, estimated from random probes when first asked for."""
        return self.estimate_error()

    def estimate_error(self, *, probes: int = PROBES, rng: RandomLike = 0) -> Certificate:
        """Estimate ||A - L R^H||_F / ||A||_F from products of both with Gaussian vectors.

        Parameters
        ----------
        probes : int
            Vectors; the estimate is within a factor 3 with probability 1 - 3e-4 for 10 and 1 - 3e-7 for 20.
        rng : seed or numpy.random.Generator
            For the vectors.
        """
        count = _check.positive_integer(probes, "probes")
        x = _check.generator(rng).standard_normal((self.shape[1], count)).astype(self.dtype)
        expected = self._matrix @ x
        size = float(np.linalg.norm(expected))
        error = float(np.linalg.norm(expected - self.product(x))) / size if size > 0 else 0.0
        eps = float(np.finfo(self.dtype).eps)
        estimate = max(error, eps)
        return Certificate(
            max(self.rtol, 64 * eps), estimate, estimate * _bound_factor(count), 0.99, "random probes", probes=count
        )

    def residual(self, b: Any, x: Any) -> float:
        """||b - A x|| / ||b||, the largest one of several right-hand sides: how good a solution is for A itself."""
        rhs, solution = np.asarray(b), np.asarray(x)
        sizes = np.linalg.norm(rhs, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.linalg.norm(rhs - self._matrix @ solution, axis=0) / sizes
        return float(np.max(np.where(sizes > 0, relative, 0.0)))


def _bound_factor(probes: int) -> float:
    """From an estimate to a bound with probability 0.99, for an error matrix of rank one: the worst case."""
    from scipy.stats import chi2

    return float(np.sqrt(probes / chi2.ppf(0.01, probes)))


def _dense_level(leaf_size: int, depth: int, block_size: int) -> int:
    """The level whose nodes have at most `block_size` rows, or the leaves'."""
    joined = 0
    while joined < depth and leaf_size << joined <= block_size // 2:
        joined += 1
    return depth - joined


def shared_tails(sides: tuple[Triangle, ...], allowed: float) -> list[float]:
    """For each level the error of a low-rank block, in squares in proportion to its size; `allowed` for all together.

    A block of the only triangle of a Hermitian matrix counts twice.
    """
    mirrored = 2 // len(sides)
    widths = [sides[0].rows_of(level) for level in range(sides[0].depth + 1)]
    total = sum(
        mirrored * width * len(side.far[level]) for side in sides for level, width in enumerate(widths)
    )  # fmt: skip
    return [allowed * float(np.sqrt(width / total)) if total else 0.0 for width in widths]


def shared_order(order: IntArray) -> IntArray | None:
    """None for rows that stay where they are."""
    return None if np.array_equal(order, np.arange(len(order))) else order
