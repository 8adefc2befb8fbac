"""H2Matrix: data, invariants and public methods. The algorithms are in the other files of this folder."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .. import _check
from .._backend import is_numpy
from .._typing import IntArray, NumpyArray, RandomLike
from ..certificate import Certificate
from ..exceptions import DeviceError, ShapeError, TreeMismatchError
from ..nested import NestedMatrix, NestedStorage
from ..nested.entries import by_products, entry_values
from ..partition import BlockPartition
from ..tree import ClusterTree, require_equal_trees
from .blocks import H2Blocks
from .constructors import H2Constructors
from .operations import H2Operations
from .special import H2SpecialConstructors

__all__ = ["H2Matrix"]


class H2Matrix(H2Constructors, H2SpecialConstructors, H2Operations, NestedMatrix):
    """A hierarchical matrix with nested bases: strong (or any) admissibility.

    Build one with a constructor: `from_dense`, `from_kernel`, `from_entries`, `from_structured`.

    Parameters
    ----------
    blocks : H2Blocks
        Near field, bases and couplings.
    row_tree, col_tree : ClusterTree
        Of equal depth.
    certificate : Certificate
        What is known of the error.

    Notes
    -----
    For an admissible block of the nodes t and s, `A[t, s] = U_t B_ts V_s^H`, and the bases of inner nodes are given by
    those of their children. Each node has a rank of its own. Storage and product O(n k) in any dimension. Immutable;
    safe to use from several threads.

    References
    ----------
    W. Hackbusch, S. Boerm, "Data-sparse approximation by adaptive H2-matrices", Computing 69 (2002) 1-35; H. Huang, X.
    Xing, E. Chow, "H2Pack: high-performance H2 matrix package for kernel matrices using the proxy point method", ACM
    Trans. Math. Softw. 47 (2020).
    """

    factorizes: ClassVar[bool] = False

    def __init__(
        self, blocks: H2Blocks, row_tree: ClusterTree, col_tree: ClusterTree, certificate: Certificate
    ) -> None:
        _validate(blocks, row_tree, col_tree)
        self._hold(
            NestedStorage(
                blocks.near, blocks.couplings, blocks.row_basis, blocks.col_basis, half=blocks.half,
                buffer=blocks.buffer,
            ),
            row_tree, col_tree, certificate,
        )  # fmt: skip

    @property
    def blocks(self) -> H2Blocks:
        """Near field, bases and couplings, as this view of the matrix sees them."""
        s: Any = self._storage.stored()
        stored = H2Blocks(s.near, s.couplings, s.row_basis, s.col_basis, s.half)
        turned = stored.adjoint() if self._adjointly else stored
        return turned.conj() if self._conjugated and self.dtype.kind == "c" else turned

    @property
    def partition(self) -> BlockPartition:
        """The block partition: which blocks are low-rank (`far`), and which dense (`near`)."""
        stored_far, stored_near = self._storage.block_places()
        far, near = list(stored_far), [np.zeros((0, 2), dtype=np.int64)] * self._storage.depth + [stored_near]
        if self.symmetric:
            far, near = ([_with_mirrored(b) for b in blocks] for blocks in (far, near))
        if self._adjointly:
            far, near = ([b[:, ::-1] for b in blocks] for blocks in (far, near))
        far, near = ([b[np.lexsort((b[:, 1], b[:, 0]))] for b in blocks] for blocks in (far, near))
        return BlockPartition(self.row_tree, self.col_tree, tuple(far), tuple(near))

    def __repr__(self) -> str:
        far, near = self._storage.block_places()
        evaluated = ", on the fly" if self.on_the_fly else ""
        return (
            f"H2Matrix(shape={self.shape}, dtype={self._precision()}, depth={self.row_tree.depth}, "
            f"{sum(len(b) for b in far)} couplings and {len(near)} dense blocks{evaluated}, max_rank={self.max_rank}, "
            f"symmetric={self.symmetric}, {self.nbytes / 1e6:.3g} MB)"
        )

    @property
    def on_the_fly(self) -> bool:
        """Whether couplings and near field are evaluated in each product, and not stored."""
        return type(self._storage) is not NestedStorage

    def stored(self) -> H2Matrix:
        """The same matrix with couplings and near field stored."""
        if not self.on_the_fly:
            return self
        return self._of(self._storage.stored())

    def _sub_block(self, rows: IntArray, cols: IntArray) -> NumpyArray:
        if not self.on_the_fly:
            return super()._sub_block(rows, cols)
        return by_products(self, rows, cols)

    def _mixed(self, rtol: float) -> tuple[Any, float]:
        if self.on_the_fly:
            raise TypeError(
                "a matrix on the fly stores no blocks that could be in mixed precision; store them first: "
                "A.stored().to_mixed_precision()"
            )
        return super()._mixed(rtol)

    def diagonal(self) -> NumpyArray:
        """The main diagonal, (min(m, n),). Cost O(n) where the blocks on it are dense."""
        count = np.arange(min(self.shape))
        if self.on_the_fly:
            return np.concatenate(
                [np.diagonal(by_products(self, k, k)) for k in np.array_split(count, -(-len(count) // 256))]
            )
        return entry_values(self, count, count)

    def multiply(
        self, other: H2Matrix, *, rtol: float | None = None, partition: BlockPartition | None = None,
        rng: RandomLike = 0,
    ) -> H2Matrix:  # fmt: skip
        """The matrix product A @ B, by sketching.

        Parameters
        ----------
        other : H2Matrix
            B; the tree of its rows is that of the columns of A.
        rtol : float, optional
            Frobenius error relative to the norm of the product, estimated from 10 independent probes; at least 64
            times the machine precision. Default: the smaller one of the operands' tolerances.
        partition : BlockPartition, optional
            Of the product. Default: that of A where B is square, else that of B where A is square, else by
            `StrongAdmissibility()`.
        rng : seed or numpy.random.Generator
            For the samples and the probes.

        Notes
        -----
        The operator x -> A (B x) is compressed as `from_operator` does, from products only: O(n k s + n s^2) for s
        samples, a quarter more than the columns of the dense neighbours of a node; a small matrix is multiplied column
        by column. `A @ A.H` is known to be Hermitian, and stored so.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> A = sm.H2Matrix.from_kernel(sm.kernelfunctions.Exponential(), np.linspace(0, 1, 999), rtol=1e-8)
        >>> C = A.multiply(A, rtol=1e-6)
        >>> dense = A.to_dense() @ A.to_dense()
        >>> bool(np.linalg.norm(C.to_dense() - dense) <= 1e-6 * np.linalg.norm(dense)), C.certificate.met
        (True, True)
        """
        self._require_same_format(other, "the operands of a matrix product")
        if self.shape[1] != other.shape[0]:
            raise ShapeError(
                f"A has {self.shape[1]} columns, but B has {other.shape[0]} rows ({self.shape} @ {other.shape})"
            )
        require_equal_trees(self.col_tree, other.row_tree, "the columns of A and the rows of B")
        if not all(is_numpy(m._storage.near.data) for m in (self, other)):
            raise DeviceError(
                'products of two H2-matrices are formed on the CPU: A.to_device("cpu") @ B.to_device("cpu")'
            )
        if partition is None:
            chosen = self._product_partition(other)
        else:
            chosen = self._partition((self.row_tree, other.col_tree), None, partition)
        from .multiply import product

        result: H2Matrix = product(self, other, chosen, self._tolerance(rtol, other), _check.generator(rng))
        result.certificate.warn_if_not_met("ask for a larger rtol", stacklevel=3)
        return result

    def _product_partition(self, other: H2Matrix) -> BlockPartition:
        if other.col_tree == self.col_tree:
            return self.partition
        if other.row_tree == self.row_tree:
            return other.partition
        return self._partition((self.row_tree, other.col_tree), None, None)

    def _times(self, other: Any) -> H2Matrix:
        return self.multiply(other)

    def factorize(self) -> Any:
        """Not there for H2-matrices yet: see `solve` with a preconditioner of another format."""
        raise TypeError(
            "H2-matrices have no factorisation of their own; solve with structmat.solve(A, b, preconditioner=...), or "
            "factor HMatrix.from_structured(A) or HSSMatrix.from_structured(A)"
        )


def _with_mirrored(blocks: Any) -> Any:
    return np.concatenate([blocks, blocks[blocks[:, 0] != blocks[:, 1]][:, ::-1]])


def _validate(blocks: H2Blocks, row_tree: ClusterTree, col_tree: ClusterTree) -> None:
    depth = row_tree.depth
    if depth != col_tree.depth:
        raise TreeMismatchError(f"the row tree has depth {depth}, the column tree depth {col_tree.depth}")
    if not blocks.depth == blocks.row_basis.depth == blocks.col_basis.depth == depth:
        raise ShapeError(f"the bases and couplings must have {depth} levels, the depth of the trees")
    if blocks.half and row_tree != col_tree:
        raise TreeMismatchError("a Hermitian matrix needs one tree for rows and columns")
    expected = row_tree.leaf_size, col_tree.leaf_size
    if tuple(blocks.near.data.shape[1:]) != expected:
        raise ShapeError(f"the dense blocks have shape {tuple(blocks.near.data.shape[1:])}, expected {expected}")
    for basis in (blocks.row_basis, blocks.col_basis):
        basis.require_sizes()
    for level, batch in enumerate(blocks.couplings, start=1):
        shapes = blocks.row_basis.ranks[level - 1][batch.rows], blocks.col_basis.ranks[level - 1][batch.cols]
        if not (np.array_equal(shapes[0], batch.heights) and np.array_equal(shapes[1], batch.widths)):
            raise ShapeError(f"the couplings of level {level} must have the ranks of their nodes as their shapes")
        if int((batch.heights * batch.widths).sum()) != int(batch.data.shape[0]):
            raise ShapeError(
                f"the couplings of level {level} have {batch.data.shape[0]} numbers, not the sum of shapes"
            )
