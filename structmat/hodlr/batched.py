"""The LU-like factorisation of HODLR matrices in batched array operations: for matrices whose data are on a device.

The same formula as in `structmat.hodlr.lu`; the blocks of the leaves and the cores are inverted once, as batched
inverses are cheap there and substitutions are not. A step of refinement makes up for what explicit inverses lose:
residuals are then those of triangular factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .._backend import adjoint, identity_beside, namespace, to_numpy, with_columns, zeros_beside
from .._typing import Array, IntArray, NumpyArray
from ..batched import BatchedFactorization, with_padded_diagonal
from ..blocks import array_bytes
from ..engine.routing import ScatterSum
from ..engine.slabs import adjoint_times, times
from ..exceptions import SingularBlockError
from ..hss.ulv import _permutation_sign, _signs
from .panels import require_hodlr

if TYPE_CHECKING:
    from .matrix import HODLRMatrix


@dataclass(frozen=True)
class BatchedInverse:
    """The inverses of a batch of blocks, applied with a step of refinement."""

    blocks: Array  # (nb, p, p)
    inverse: Array  # (nb, p, p)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks and of their inverses."""
        return array_bytes(self.blocks) + array_bytes(self.inverse)

    def solve(self, b: Array, *, adjointly: bool = False) -> Array:
        """A x = b or A^H x = b, (nb, p, m)."""
        apply = adjoint_times if adjointly else times
        x = apply(self.inverse, b)
        return x + apply(self.inverse, b - apply(self.blocks, x))


@dataclass(frozen=True)
class BatchedLevel:
    """One level: nb = 2**level nodes of padded size p, rank k."""

    solved: Array  # (nb, p, k), A_t^-1 U_t
    right: Array  # (nb, p, k), V_t
    core: BatchedInverse  # (nb / 2, 2 k, 2 k)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors of this level."""
        return array_bytes(self.solved) + array_bytes(self.right) + self.core.nbytes


class BatchedLU(BatchedFactorization):
    """The LU-like factorisation of a HODLR matrix on a device: `solve`, `solve_adjoint`, `slogdet`.

    Obtained from `HODLRMatrix.factorize` where the matrix is on a device.
    """

    backward_stable: ClassVar[bool] = False

    def __init__(self, matrix: HODLRMatrix) -> None:
        matrix._require_square("a factorisation")
        blocks = matrix.blocks
        require_hodlr(blocks)
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._tree, self._col_tree = matrix.row_tree, matrix.col_tree
        depth = blocks.depth
        factors = [_by_node(blocks.far[level], level, blocks.half) for level in range(1, depth + 1)]
        near = blocks.near[depth]
        diagonal = ScatterSum(near.rows, 1 << depth)(near.data)
        diagonal, padding = with_padded_diagonal(diagonal, matrix.row_tree)
        self._sign, self._logarithm = 1.0 + 0.0j, -padding
        self._leaves = self._inverted(diagonal, depth)
        xp = namespace(diagonal)
        # the left factors of all levels above, side by side as leaf blocks, solved with from the leaves up
        widths = [0 if pair is None else pair[0].shape[2] for pair in factors]
        panels = [xp.reshape(pair[0], (*diagonal.shape[:2], -1)) for pair in factors if pair is not None]
        panel = self._leaves.solve(xp.concat(panels, axis=2)) if panels else zeros_beside((1 << depth, 0, 0), diagonal)
        self._levels: list[BatchedLevel] = []
        for level in range(depth, 0, -1):
            pair, above = factors[level - 1], sum(widths[: level - 1])
            if pair is None:
                continue
            right = pair[1]
            solved = xp.reshape(panel[:, :, above:], right.shape)
            found = BatchedLevel(solved, right, self._inverted(_cores(solved, right), level - 1))
            self._levels.append(found)
            panel = panel[:, :, :above]
            panel = _corrected(found, panel) if above else panel

    def _inverted(self, blocks: Array, level: int) -> BatchedInverse:
        """The inverses of diagonal blocks or cores, whose determinants are multiplied up."""
        xp = namespace(blocks)
        sign, logarithm = xp.linalg.slogdet(blocks)
        size = to_numpy(logarithm).astype(np.float64)
        _require_regular(np.isfinite(size), level)
        self._logarithm += float(size.sum())
        self._sign *= _signs(to_numpy(sign))[0]
        inverses = xp.linalg.inv(blocks)
        # the condition number of Skeel, which does not see how rows are scaled
        sums = xp.sum(xp.abs(blocks), axis=2, keepdims=True)
        conditions = to_numpy(xp.max(xp.matmul(xp.abs(inverses), sums), axis=(1, 2)))
        _require_regular(conditions < 1.0 / np.finfo(conditions.dtype).eps, level)
        return BatchedInverse(blocks, inverses)

    @property
    def _example(self) -> Any:
        return self._leaves.inverse

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(level.nbytes for level in self._levels) + self._leaves.nbytes

    def _substitution(self, x: Array) -> Array:
        x = self._leaves.solve(x)
        for level in self._levels:
            x = _corrected(level, x)
        return x

    def _adjoint_substitution(self, x: Array) -> Array:
        for level in self._levels[::-1]:
            x = _corrected(level, x, adjointly=True)
        return self._leaves.solve(x, adjointly=True)

    def slogdet(self) -> tuple[Any, float]:
        """Sign (phase, for complex) and log of the absolute value of the determinant; computed on the way."""
        sign = self._sign * _permutation_sign(self._tree, self._col_tree)
        if self.dtype.kind != "c":
            return self.dtype.type(np.sign(sign.real)), self._logarithm
        return sign / abs(sign), self._logarithm


def _require_regular(regular: NumpyArray, level: int) -> None:
    if regular.all():
        return
    node = int(regular.argmin())
    raise SingularBlockError(
        f"the diagonal block of node {node} on level {level} is singular, and HODLR factorisations have to invert it; "
        "add_diagonal(shift) regularises",
        level, node,
    )  # fmt: skip


def _cores(solved: Array, right: Array) -> Array:
    """K = [[I, V_b^H Y_b], [V_a^H Y_a, I]] of each pair of siblings a, b: (nb / 2, 2 k, 2 k).

    It has the determinant that the factor of the level has; see `_corrected` for its order.
    """
    xp = namespace(solved)
    inner = xp.matmul(adjoint(right), solved)
    eye = xp.broadcast_to(identity_beside(inner.shape[1], inner), inner[::2, ...].shape)
    upper = xp.concat([eye, inner[1::2, ...]], axis=2)
    return xp.concat([upper, xp.concat([inner[::2, ...], eye], axis=2)], axis=1)


def _corrected(level: BatchedLevel, x: Array, *, adjointly: bool = False) -> Array:
    """(I - Y K^-1 S V^H) x on leaf blocks, where S exchanges siblings; or its adjoint times x."""
    xp = namespace(x)
    nb, k = level.right.shape[0], level.right.shape[2]
    here = xp.reshape(x, (nb, -1, x.shape[2]))
    left, right = (level.right, level.solved) if adjointly else (level.solved, level.right)
    inner = xp.reshape(adjoint_times(right, here), (nb // 2, 2, k, x.shape[2]))
    if adjointly:
        small = level.core.solve(xp.reshape(inner, (nb // 2, 2 * k, x.shape[2])), adjointly=True)
        small = xp.flip(xp.reshape(small, (nb // 2, 2, k, x.shape[2])), axis=1)
    else:
        small = level.core.solve(xp.reshape(xp.flip(inner, axis=1), (nb // 2, 2 * k, x.shape[2])))
    return xp.reshape(here - times(left, xp.reshape(small, (nb, k, x.shape[2]))), x.shape)


def _by_node(batches: tuple[Any, ...], level: int, half: bool) -> tuple[Array, Array] | None:
    """The left factors of the block row of each node of a level and the right ones of its block column, of one rank.

    None where all blocks are zero.
    """
    rank = max((b.rank for b in batches), default=0)
    if rank == 0:
        return None
    lefts, rights, rows, cols = [], [], [], []
    for batch in batches:
        turns = [(batch.left, batch.right, batch.rows, batch.cols)]
        if half:
            turns.append((batch.right, batch.left, batch.cols, batch.rows))
        for left, right, row, col in turns:
            lefts.append(with_columns(left, rank))
            rights.append(with_columns(right, rank))
            rows.append(row)
            cols.append(col)
    xp = namespace(lefts[0])
    return _placed(xp.concat(lefts, axis=0), rows, level), _placed(xp.concat(rights, axis=0), cols, level)


def _placed(blocks: Array, nodes: list[IntArray], level: int) -> Array:
    return ScatterSum(np.concatenate(nodes), 1 << level)(blocks)
