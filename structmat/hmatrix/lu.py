"""H-LU: A = L U for a square H-matrix, by the elimination of `elimination.py`, rows pivoted within dense blocks."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from .._backend import adjoint
from ..exceptions import SingularBlockError
from ..hss.ulv import _permutation_sign, _signs
from .factorization import HFactorization, shared_order
from .triangular import Triangle

if TYPE_CHECKING:
    from .matrix import HMatrix


class HLU(HFactorization):
    """The LU factorisation of a square H-matrix; obtained from `HMatrix.factorize`.

    Notes
    -----
    Rows are exchanged within the dense blocks on the diagonal only, as in every H-LU: where leading blocks are singular
    although the matrix is not, use a shift or an HSS matrix, whose ULV factorisation is backward stable.
    """

    def __init__(self, matrix: HMatrix, rtol: float, block_size: int | None = None) -> None:
        super().__init__(matrix, rtol, matrix.blocks.expanded(), block_size)

    def _factor_diagonal(self, sides: tuple[Triangle, ...], level: int, node: int) -> None:
        lower, upper = sides
        block = lower.diagonal(node)
        sizes = np.linalg.norm(block, axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)  # judged below, with the level and the node
            factors, pivots = scipy.linalg.lu_factor(block, check_finite=False)
        order = np.arange(len(block))
        for step, chosen in enumerate(pivots):
            order[[step, chosen]] = order[[chosen, step]]
        self._require_pivots(np.abs(np.diagonal(factors)), sizes[order], level, node)
        lower.orders[node] = shared_order(order)
        block[:] = np.tril(factors, -1)
        np.fill_diagonal(block, 1.0)
        upper.diagonal(node)[:] = adjoint(np.triu(factors))

    def _require_pivots(self, pivots: Any, sizes: Any, level: int, node: int) -> None:
        relative = pivots / np.where(sizes > 0.0, sizes, 1.0)
        # `not >` and not `<=`: NaN is no pivot
        if not (relative > np.finfo(self.dtype).eps).all():
            raise SingularBlockError(
                f"the block of node {node} on level {level} is singular (smallest pivot {relative.min():.1e} relative "
                "to its row); add_diagonal(shift) regularises, a smaller rtol helps where truncation is to blame",
                level, node,
            )  # fmt: skip

    def slogdet(self) -> tuple[Any, float]:
        """Sign (phase, for complex) and logarithm of the absolute value of the determinant. Cost O(n)."""
        lower, upper = self._sides
        sign, logarithm = 1.0, 0.0
        for node in range(1 << upper.depth):
            part, size = _signs(np.diagonal(upper.diagonal(node)).conj())
            order = lower.orders[node]
            sign = sign * part * (1.0 if order is None else _parity(order))
            logarithm += size
        sign = sign * _permutation_sign(self._row_tree, self._col_tree)
        real = self.dtype.kind != "c"
        return self.dtype.type(np.sign(sign) if real else sign / abs(sign)), logarithm - self._padding


def _parity(order: Any) -> float:
    """The sign of a permutation."""
    seen, sign = np.zeros(len(order), dtype=bool), 1.0
    for start in range(len(order)):
        at = start
        while not seen[at]:
            seen[at] = True
            at = int(order[at])
            if at != start:
                sign = -sign
    return sign
