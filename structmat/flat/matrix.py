"""FlatMatrix: what HODLRMatrix and HMatrix share; the algorithms are in the other files of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _check
from .._backend import cast, is_numpy
from .._typing import IntArray, NumpyArray
from ..base import StructuredMatrix
from ..blocks import BlockBatch, LowRankBatch
from ..certificate import Certificate
from ..certify import in_range
from ..exceptions import DeviceError, ShapeError, TreeMismatchError
from ..partition import BlockPartition
from ..storage import StoredMatrix
from ..tree import ClusterTree, require_equal_trees
from . import arithmetic, truncate
from .assemble import alike, keys_of, same_places
from .constructors import FlatConstructors, low_rank_blocks
from .mixed import divide, joined, ranks_at
from .norms import frobenius, inner
from .repartition import lower_half, repartition
from .special import FlatSpecialConstructors
from .storage import FlatBlocks, FlatStorage

__all__ = ["FlatMatrix"]


class FlatMatrix(FlatConstructors, FlatSpecialConstructors, StoredMatrix):
    """A matrix of dense and of low-rank blocks with bases of their own. Immutable.

    Parameters
    ----------
    blocks : FlatBlocks or tuple of FlatBlocks
        The blocks by level; in mixed precision those of each precision, the widest first.
    row_tree, col_tree : ClusterTree
        Of equal depth.
    certificate : Certificate
        What is known of the error.
    """

    def __init__(
        self, blocks: FlatBlocks | tuple[FlatBlocks, ...], row_tree: ClusterTree, col_tree: ClusterTree,
        certificate: Certificate,
    ) -> None:  # fmt: skip
        self._storage = FlatStorage(blocks, row_tree.leaf_size, col_tree.leaf_size)
        for part in self._storage.parts:
            _validate(part, row_tree, col_tree)
        self._adjointly = self._conjugated = False
        self.row_tree, self.col_tree = row_tree, col_tree
        self.certificate = certificate

    # ------------------------------------------------------------------------------ properties

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries: float32, float64, complex64 or complex128; in mixed precision the wider one."""
        return self._storage.parts[0].dtype

    @property
    def symmetric(self) -> bool:
        """Whether the matrix is stored as Hermitian: the blocks on and below the diagonal."""
        return self._storage.half

    @property
    def nbytes(self) -> int:
        """Bytes of all stored arrays."""
        return sum(part.nbytes for part in self._storage.parts)

    @property
    def nbytes_by_dtype(self) -> dict[str, int]:
        """Bytes of the stored arrays by the type of their numbers: in mixed precision there are two."""
        return {part.dtype.name: part.nbytes for part in self._storage.parts}

    @property
    def blocks(self) -> FlatBlocks:
        """The blocks, as this view of the matrix sees them; in mixed precision copies in the wider one."""
        return joined(self.parts)

    @property
    def parts(self) -> tuple[FlatBlocks, ...]:
        """The blocks as they are stored, as this view sees them: a list for each precision, whose sum is the matrix."""
        return tuple(self._turned(part) for part in self._storage.parts)

    def _turned(self, part: FlatBlocks) -> FlatBlocks:
        turned = part.adjoint() if self._adjointly else part
        return turned.conj() if self._conjugated and self.dtype.kind == "c" else turned

    @property
    def partition(self) -> BlockPartition:
        """The block partition: which blocks are low-rank (`far`), and which dense (`near`)."""
        parts, levels = self.parts, range(self.row_tree.depth + 1)
        far = tuple(_places([b for part in parts for b in part.far[level]], level, self.symmetric) for level in levels)
        near = tuple(_places([part.near[level] for part in parts], level, self.symmetric) for level in levels)
        return BlockPartition(self.row_tree, self.col_tree, far, near)

    @property
    def ranks(self) -> tuple[IntArray, ...]:
        """The ranks of the stored low-rank blocks by level, from level 1; a single 0 where a level has none."""
        ranks = [ranks_at(self._storage.parts, level)[1] for level in range(1, self.row_tree.depth + 1)]
        return tuple(r if len(r) else np.zeros(1, dtype=np.int64) for r in ranks)

    @property
    def max_rank(self) -> int:
        """The largest rank of any block."""
        levels = range(self.row_tree.depth + 1)
        return max(int(ranks_at(self._storage.parts, level)[1].max(initial=0)) for level in levels)

    def __repr__(self) -> str:
        stored, depth = self._storage.parts, self.row_tree.depth
        far = sum(len(ranks_at(stored, level)[0]) for level in range(depth + 1))
        near = sum(len(b) for part in stored for b in part.near)
        return (
            f"{type(self).__name__}(shape={self.shape}, dtype={self._precision()}, depth={depth}, "
            f"{far} low-rank and {near} dense blocks, max_rank={self.max_rank}, "
            f"symmetric={self.symmetric}, {self.nbytes / 1e6:.3g} MB)"
        )

    def _with_blocks(self, blocks: FlatBlocks | tuple[FlatBlocks, ...], certificate: Certificate | None = None) -> Any:
        """A matrix of this format on these trees."""
        return type(self)(blocks, self.row_tree, self.col_tree, certificate or self.certificate)

    def _with_arrays(self, function: Any) -> Any:
        parts = tuple(part.map(function) for part in self.parts)
        return self._with_blocks(joined(parts) if len({part.dtype for part in parts}) == 1 else parts)

    # ----------------------------------------------------------------------- entries and norms

    def _sub_block(self, rows: IntArray, cols: IntArray) -> NumpyArray:
        from .entries import sub_block

        return sub_block(self, rows, cols)

    def diagonal(self) -> NumpyArray:
        """The main diagonal, (min(m, n),). Cost O(n) where the blocks on it are dense."""
        from .entries import entry_values

        count = np.arange(min(self.shape))
        return entry_values(self, count, count)

    def _inner(self, other: FlatMatrix) -> Any:
        self._require_beside(other, "the operands of an inner product")
        return inner(self.blocks, other.blocks)

    def _frobenius(self) -> float:
        return frobenius(self.blocks)

    def _mixed(self, rtol: float) -> tuple[Any, float]:
        if rtol == 0.0:
            return self, 0.0
        self._require_on_host("precision is mixed")
        divided = divide(self.blocks, rtol)
        return (self._with_blocks(divided.parts) if len(divided.parts) > 1 else self), divided.error

    # ------------------------------------------------------------------------------ arithmetic

    def _result(
        self, exact: FlatBlocks, rtol: float, *, atol: float = 0.0, max_rank: int | None = None, spent: float = 0.0,
        asked: float | None = None,
    ) -> Any:  # fmt: skip
        """Truncate an exact result and certify the truncation; `spent` is the absolute error made before."""
        cut = truncate.truncate(exact, rtol=rtol, atol=atol, max_rank=max_rank)
        eps = float(np.finfo(self.dtype).eps)
        relative, absolute, noise = (
            v / cut.size if cut.size > 0 else 0.0 for v in (cut.error + spent, atol, cut.noise)
        )
        granted = max(rtol if asked is None else asked, absolute, 32 * eps, noise)
        bound = max(relative, eps)
        certificate = Certificate(granted, bound, bound, 1.0, "recompression of the exact result of the operands")
        certificate = in_range(certificate, cut.size, self._with_blocks(cut.blocks), underflow=False)
        certificate.warn_if_not_met("raise max_rank", stacklevel=5)
        return self._with_blocks(cut.blocks, certificate)

    def _on_my_partition(self, other: FlatMatrix, rtol: float) -> tuple[FlatBlocks, float]:
        """The blocks of another matrix over the partition of this one, and the absolute error of moving them there."""
        mine, its = alike(self.blocks, other.blocks)
        if same_places(mine, its):
            return its, 0.0
        self._require_on_host("sums over two partitions run")
        moved, error = repartition(its, self.partition, rtol * other.norm())
        return (lower_half(moved) if its.half else moved), error

    def add(self, other: Any, *, rtol: float | None = None) -> Any:
        """A + B, recompressed to `rtol` (default: the smaller of the operands'), over the partition of A.

        Cost O(n k^2 log n).
        """
        self._require_same_trees(other, "the operands of a sum")
        tolerance = self._tolerance(rtol, other)
        its, error = self._on_my_partition(other, 0.05 * tolerance)
        rest = tolerance if error == 0.0 else 0.5 * tolerance
        return self._result(arithmetic.add(self.blocks, its), rest, spent=error, asked=tolerance)

    def hadamard(self, other: Any, *, rtol: float | None = None) -> Any:
        """The entrywise product, recompressed to `rtol` of its own norm, over the partition of A.

        Cost O(n k^4 log n) at most: the ranks of the operands multiply before they are cut; terms that are short are
        never formed.
        """
        self._require_same_trees(other, "the operands of a Hadamard product")
        self._require_on_host("entrywise products run")
        tolerance = self._tolerance(rtol, other)
        its, moved = self._on_my_partition(other, 0.1 * tolerance)
        factors = [truncate.truncate(b, rtol=0.0).blocks for b in (self.blocks, its)]
        product, error = arithmetic.hadamard(*factors, rtol=0.25 * tolerance)
        spent = error + (moved * float(np.abs(self._largest_entry())) if moved else 0.0)
        return self._result(product, 0.6 * tolerance, spent=spent, asked=tolerance)

    def _trace_of_solve(self, other: Any) -> Any:
        from ..linalg import inner

        self._require_same_trees(other, "the operands of trace_of_solve")
        if not (self.symmetric and other.symmetric):
            return inner(self.inverse().H, other)
        cholesky: Any = self.factorize
        return cholesky(positive_definite=True)._traces_of_solve([other])[0]

    def truncate(self, *, rtol: float | None = None, atol: float = 0.0, max_rank: int | None = None) -> Any:
        """The matrix with ranks as small as the tolerance allows.

        Parameters
        ----------
        rtol, atol : float
            Frobenius error allowed, relative to the norm of the matrix or absolute; the larger one counts. It is spent
            where it saves most: on the singular values that are smallest for the p + q numbers that they take.
        max_rank : int, optional
            No rank exceeds this; where the tolerance then is not met, an `AccuracyWarning` says so.

        Notes
        -----
        The error in the certificate is guaranteed (relative to the matrix as stored). Cost O(n k^2 log n).
        """
        cap = None if max_rank is None else _check.positive_integer(max_rank, "max_rank", minimum=0)
        return self._result(self.blocks, self._tolerance(rtol), atol=_check.tolerance(atol, "atol"), max_rank=cap)

    def _largest_entry(self) -> float:
        """A bound of the largest absolute value of an entry."""
        blocks = self.blocks
        near = [float(np.abs(b.data).max(initial=0.0)) for b in blocks.near]
        far = [
            float(np.linalg.norm(b.left, axis=2).max(initial=0.0) * np.linalg.norm(b.right, axis=2).max(initial=0.0))
            for level in blocks.far
            for b in level
        ]
        return max([*near, *far])

    def _scaled(self, number: complex) -> Any:
        if number.imag == 0.0:
            return self._with_blocks(arithmetic.scale(self.blocks, number.real))
        target = np.result_type(self.dtype, np.complex64)
        return self._with_blocks(arithmetic.scale(self.blocks.expanded().map(lambda a: cast(a, target)), number))

    def multiply(self, other: FlatMatrix, *, rtol: float | None = None, partition: BlockPartition | None = None) -> Any:
        """The matrix product A @ B, recompressed to `rtol`.

        Parameters
        ----------
        other : HODLRMatrix or HMatrix
            B; the tree of its rows is that of the columns of A.
        rtol : float, optional
            Frobenius error relative to the norm of the product. Guaranteed, up to rounding, with respect to the
            product of A and B as they are. Default: the smaller one of the operands' tolerances.
        partition : BlockPartition, optional
            Of the product of an H-matrix. Default: the partition of A where B is square, else that of B where A is
            square, else by the format's own admissibility.

        Returns
        -------
        HODLRMatrix or HMatrix
            In the format of A.

        Notes
        -----
        Cost O(n k^2 log^2 n) with the ranks k. Low-rank contributions to a block are collected and truncated once.

        References
        ----------
        S. Boerm, "Hierarchical matrix arithmetic with accumulated updates", Comput. Vis. Sci. 20 (2019) 71-84.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 300)
        >>> A = sm.HODLRMatrix.from_kernel(lambda x, y: 1 / (1 + np.abs(np.subtract.outer(x, y))), x, rtol=1e-10)
        >>> C = A.multiply(A, rtol=1e-8)
        >>> dense = A.to_dense() @ A.to_dense()
        >>> bool(np.linalg.norm(C.to_dense() - dense) <= 1e-8 * np.linalg.norm(dense)), C.certificate.met
        (True, True)
        """
        self._require_factor(other)
        tolerance = min(self.rtol, other.rtol) if rtol is None else _check.tolerance(rtol)
        if partition is None:
            chosen = self._product_partition(other)
        else:
            chosen = self._partition(self.row_tree, other.col_tree, None, partition)
        from .multiply import product

        blocks, certificate = product(self, other, chosen, tolerance)
        result = type(self)(blocks, self.row_tree, other.col_tree, certificate)
        result.certificate = in_range(certificate, result.norm(), result)
        result.certificate.warn_if_not_met("ask for a larger rtol", stacklevel=4)
        return result

    def _require_factor(self, other: Any) -> None:
        """Raise unless A @ other is defined."""
        if not isinstance(other, FlatMatrix):
            raise TypeError(
                f"multiply takes a HODLRMatrix or an HMatrix, but B is a {type(other).__name__}; convert one, or write "
                "A @ B for an array B"
            )
        if self.shape[1] != other.shape[0]:
            raise ShapeError(
                f"A has {self.shape[1]} columns, but B has {other.shape[0]} rows ({self.shape} @ {other.shape})"
            )
        require_equal_trees(self.col_tree, other.row_tree, "the columns of A and the rows of B")
        if not all(is_numpy(m._storage._example) for m in (self, other)):
            raise DeviceError(
                'products of two HODLR or H-matrices are formed on the CPU: A.to_device("cpu") @ B.to_device("cpu")'
            )

    def _product_partition(self, other: FlatMatrix) -> BlockPartition:
        if not self.fixed_partition and other.col_tree == self.col_tree:
            return self.partition
        if not (self.fixed_partition or other.fixed_partition) and other.row_tree == self.row_tree:
            return other.partition
        return self._partition(self.row_tree, other.col_tree, None, None)

    def _times(self, other: StructuredMatrix) -> Any:
        return self.multiply(other) if isinstance(other, FlatMatrix) else super()._times(other)

    def add_diagonal(self, d: Any) -> Any:
        """A + diag(d) for a scalar or a vector d (n,), exactly and without recompression: O(n)."""
        values = self._diagonal_values(d)
        dtype = self._dtype_with(d, values)
        blocks = self.blocks if dtype == self.dtype else self.blocks.map(lambda a: cast(a, dtype))
        return self._with_blocks(arithmetic.add_diagonal(blocks, self.row_tree, values.astype(dtype)))

    def add_low_rank(self, u: Any, v: Any, *, rtol: float | None = None) -> Any:
        """A + U V^H for U (m, r) and V (n, r), recompressed. Cost O(n (k + r)^2 log n).

        A Hermitian matrix stays one when `v is u`.
        """
        symmetric = self.symmetric and v is u
        update = self._beside_me(low_rank_blocks(u, v, self._stored_partition(symmetric), symmetric=symmetric))
        return self._result(arithmetic.add(self.blocks, update), self._tolerance(rtol))

    def _sparse_update(self, s: Any, *, symmetric: bool) -> Any:
        from .special import sparse_update

        return sparse_update(self, s, self._stored_partition(symmetric), symmetric=symmetric)

    def _stored_partition(self, symmetric: bool) -> BlockPartition:
        return self.partition.lower() if symmetric else self.partition


def _places(batches: Sequence[BlockBatch | LowRankBatch], level: int, half: bool) -> IntArray:
    """The places (nb, 2) of the blocks of a level, by row and column; of both halves."""
    keys = [keys_of(b, level) for b in batches]
    mirrored = [(b.cols.astype(np.int64) << level) + b.rows for b in batches] if half else []
    found = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *keys, *mirrored]))
    return np.stack(np.divmod(found, 1 << level), axis=1)


def _validate(blocks: FlatBlocks, row_tree: ClusterTree, col_tree: ClusterTree) -> None:
    depth = row_tree.depth
    if depth != col_tree.depth:
        raise TreeMismatchError(f"the row tree has depth {depth}, the column tree depth {col_tree.depth}")
    if not len(blocks.near) == len(blocks.far) == depth + 1:
        raise ShapeError(f"there must be blocks for the levels 0 .. {depth}, the depth of the trees")
    if blocks.half and row_tree != col_tree:
        raise TreeMismatchError("a Hermitian matrix needs one tree for rows and columns")
    for level in range(depth + 1):
        p, q = row_tree.leaf_size << (depth - level), col_tree.leaf_size << (depth - level)
        shapes = [(blocks.near[level].data.shape[1:], (p, q))]
        shapes += [((b.left.shape[1], b.right.shape[1]), (p, q)) for b in blocks.far[level]]
        for found, expected in shapes:
            if tuple(found) != expected:
                raise ShapeError(f"the blocks of level {level} have shape {tuple(found)}, expected {expected}")
