"""Factorisations in batched array operations, for matrices whose data are on a device: what the formats share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _check
from ._backend import beside, like, namespace, numpy_dtype, to_numpy
from ._typing import Array
from .base import Factorization
from .exceptions import DeviceError, NotPositiveDefiniteError
from .tree import ClusterTree


class BatchedFactorization(Factorization):
    """A factorisation whose factors are on a device. Solutions are where the right-hand sides were."""

    _tree: ClusterTree
    _col_tree: ClusterTree

    @property
    @abstractmethod
    def _example(self) -> Any:
        """One of the factors."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the factors."""

    @abstractmethod
    def _substitution(self, x: Array) -> Array:
        """A x = b on leaf blocks."""

    @abstractmethod
    def _adjoint_substitution(self, x: Array) -> Array:
        """A^H x = b on leaf blocks."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, {self.nbytes / 1e6:.3g} MB)"

    def _solve(self, b: Any, *, adjointly: bool) -> Any:
        return self._applied(b, "b", lambda x: self._solve_block(x, adjointly=adjointly))

    def inverse(self, *, rtol: float | None = None) -> Any:
        """Refused: inverses are formed on the CPU."""
        raise DeviceError(
            'inverses are formed on the CPU: A.to_device("cpu").inverse(); to apply one, solve, or take '
            "A.factorize().aslinearoperator()"
        )

    def _applied(self, b: Any, name: str, function: Callable[[Array], Array]) -> Any:
        """`function` (of columns) of b, which may be a vector, where the factors are; the result where b was."""
        array = _check.operand(b, self.shape[0], self.shape, side="rows", name=name)
        x = beside(array, self._example)
        xp = namespace(x)
        _check.finite(x, name)
        columns = x if x.ndim > 1 else xp.reshape(x, (-1, 1))
        columns = xp.astype(columns, xp.result_type(columns.dtype, self._example.dtype))
        if 0 not in columns.shape:
            columns = function(columns)
        return beside(xp.reshape(columns, x.shape), array)

    def _solve_block(self, b: Any, *, adjointly: bool) -> Any:
        source, target = (self._col_tree, self._tree) if adjointly else (self._tree, self._col_tree)
        blocks = source.to_leaves(b)
        return target.from_leaves(self._adjoint_substitution(blocks) if adjointly else self._substitution(blocks))


def cholesky(blocks: Array, level: int) -> Array:
    """Lower Cholesky factors of the blocks of a level; where one is not positive definite, it is named."""
    xp = namespace(blocks)
    if 0 in blocks.shape:
        return blocks
    try:
        factors = xp.linalg.cholesky(blocks)
        failed = not bool(xp.all(xp.isfinite(factors)))  # which some libraries leave instead of an error
    except (np.linalg.LinAlgError, RuntimeError) as error:
        # torch's LinAlgError is a RuntimeError of its own; any other one, of memory say, is no property of the matrix
        if "LinAlgError" not in type(error).__name__:
            raise
        failed = True
    if failed:
        node = int(np.linalg.eigvalsh(to_numpy(blocks))[:, 0].argmin())
        raise NotPositiveDefiniteError.in_node(level, node)
    return factors


def with_padded_diagonal(diagonal: Array, tree: ClusterTree) -> tuple[Array, float]:
    """As `structmat.hss.ulv.with_padded_diagonal`, in any array library."""
    if not tree.is_padded:
        return diagonal, 0.0
    xp = namespace(diagonal)
    short = tree.sizes(tree.depth) < tree.leaf_size
    largest = to_numpy(xp.max(xp.abs(diagonal), axis=(1, 2))).astype(np.float64)
    value = np.exp2(np.round(np.log2(np.where(largest > 0.0, largest, 1.0))))
    last = np.zeros(diagonal.shape[1:])
    last[-1, -1] = 1.0
    added = (np.where(short, value, 0.0)[:, None, None] * last).astype(numpy_dtype(diagonal))
    return diagonal + like(added, diagonal), float(np.log(value[short]).sum())
