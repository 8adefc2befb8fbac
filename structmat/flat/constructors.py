"""The constructors that HODLRMatrix and HMatrix share: checks at the door, then the builders of this folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .. import _check
from .._backend import is_numpy
from .._inputs import (
    TreeLike,
    _kernel_trees,
    _point_sets,
    _require_above_noise,
    _require_hermitian,
    _require_hermitian_entries,
    _require_one_tree,
    _require_square_entries,
    _shape_of,
    _tolerances,
)
from .._typing import Entries, Kernel, NumpyArray, RandomLike
from ..blocks import BlockBatch, LowRankBatch
from ..certificate import Certificate, exact
from ..certify import in_range
from ..exceptions import DeviceError, StructureWarning, SymmetryError, TreeMismatchError
from ..lowrank import ACA, TruncatedSVD
from ..lowrank.compressor import DenseSource
from ..partition import Admissibility, BlockPartition
from ..sources import DeviceKernelSource, EntrySource, OperatorSource, kernel_source
from ..tree import ClusterTree, as_tree_pair
from . import batched_build, build, fused
from .exact import ExactConstructors, _trees_of, checked_leaf_factors, leaf_factors
from .layout import StoredBlocks
from .storage import FlatBlocks

Progress = Callable[[float], None] | None

# attempts with ever tighter tolerances of the blocks before the tolerance is declared out of reach
ATTEMPTS = 3
# of the error allowed, what the blocks may have at first where they are merged afterwards, and the merged ones
FINE_SHARE, MERGE_SHARE = 0.3, 0.8
# at smaller tolerances nothing is merged: the finer blocks would be of rounding
LEAST_MERGED = 1e-13


class FlatConstructors(ExactConstructors):
    """Ways to build a matrix of independent blocks. All take `rtol`, relative to the norm of the whole matrix."""

    default_admissibility: ClassVar[Any]
    fixed_partition: ClassVar[bool] = False
    # how a format merges blocks of the default partition where that is cheaper; see `hmatrix.coarsen`
    _coarsened: ClassVar[Any] = None

    @classmethod
    def _unchecked(cls, blocks: FlatBlocks, row_tree: ClusterTree, col_tree: ClusterTree) -> Any:
        """A matrix of this format whose error is not known yet."""
        make: Any = cls
        return make(blocks, row_tree, col_tree, _PLACEHOLDER)

    @classmethod
    def _partition(
        cls, row_tree: ClusterTree, col_tree: ClusterTree, admissibility: Admissibility | None,
        partition: BlockPartition | None,
    ) -> BlockPartition:  # fmt: skip
        if cls.fixed_partition and (admissibility is not None or partition is not None):
            raise TypeError(
                f"{cls.__name__} has weak admissibility and no other; use HMatrix for admissibility= or partition="
            )
        if partition is None:
            return BlockPartition.build(row_tree, col_tree, admissibility or cls.default_admissibility)
        if admissibility is not None:
            raise TypeError("give admissibility or partition, not both")
        if partition.row_tree != row_tree or partition.col_tree != col_tree:
            raise TreeMismatchError("the partition was built on other trees than the matrix; pass its trees as tree=")
        partition.require_cover()
        return partition

    @classmethod
    def from_dense(
        cls, a: Any, tree: TreeLike = None, *, rtol: float = 1e-8, atol: float = 0.0, max_rank: int | None = None,
        symmetric: bool = False, admissibility: Admissibility | None = None, partition: BlockPartition | None = None,
    ) -> Any:  # fmt: skip
        """Compress a dense array.

        Parameters
        ----------
        a : (m, n) array_like
            Finite; float32, float64, complex64 or complex128 (integers become float64).
        tree : ClusterTree or pair of them, optional
            Default: balanced, leaves of at most 64 indices.
        rtol, atol : float
            Allowed Frobenius error, relative to the norm of `a` or absolute; the larger one counts. Guaranteed.
        max_rank : int, optional
            No rank exceeds this; an `AccuracyWarning` says so where the tolerance then is not met.
        symmetric : bool
            `a` is Hermitian (checked): the blocks on and below the diagonal are stored.
        admissibility, partition : Admissibility, BlockPartition, optional
            For H-matrices: which blocks are compressed; default `StrongAdmissibility(eta=2.0)`.

        Notes
        -----
        Truncated singular value decompositions. Cost O(n^2 k) time and O(n^2) memory.
        """
        array = _check.matrix(a, "a")
        trees = as_tree_pair(tree if partition is None else _trees_of(partition, tree), array.shape)
        tolerance, cap = _tolerances(rtol, atol, max_rank)
        if symmetric:
            _require_hermitian(array, *trees)
        chosen = cls._partition(*trees, admissibility, partition)
        size = _check.frobenius(array)
        eps = float(np.finfo(array.dtype).eps)
        rounding = 32 * eps  # of the singular value decompositions: what is cut leaves room for it
        asked = max(tolerance, atol / size if size > 0 else 0.0, 2 * rounding)
        allowed = (asked - rounding) * size
        source = DenseSource(array)
        stored = _stored(chosen, symmetric)
        near = build.near_blocks(source, stored)
        tails = build.block_tails(chosen, allowed)
        far, square = build.far_blocks(
            source, stored, tails, max_rank=cap, compressor=TruncatedSVD(), rng=_check.generator(0),
            progress=_silent, half=symmetric,
        )  # fmt: skip
        result = cls._unchecked(FlatBlocks(near, far, symmetric), *trees)
        bound = float(np.sqrt(square)) / size + rounding if size > 0 else rounding
        certificate = Certificate(asked, bound, bound, 1.0, "guaranteed by truncation", entries=array.size)
        return _finished(result, in_range(certificate, size, result), cap)

    @classmethod
    def from_entries(
        cls, entries: Entries, tree: TreeLike = None, *, rtol: float = 1e-8, atol: float = 0.0,
        max_rank: int | None = None, symmetric: bool = False, dtype: Any = None,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None, compressor: Any = None,
        rng: RandomLike = 0, progress: Progress = None,
    ) -> Any:  # fmt: skip
        """Compress a matrix known by its entries, O(n k log n) of which are evaluated.

        Parameters
        ----------
        entries : callable
            `entries(i, j) -> (len(i), len(j))` array, for int arrays i and j in the user's ordering. With a true
            attribute `batched`: (nb, p, q) for i (nb, p) and j (nb, q).
        tree : ClusterTree or pair of them
            The geometry of a tree built from points tells near from far; else the distance of indices does.
        rtol, atol, max_rank, symmetric, admissibility, partition
            As in `from_dense`. The error is estimated from entries of every block; see `certificate`. Where neither
            admissibility nor partition nor compressor nor max_rank is given, `HMatrix` then merges blocks, and gives
            low rank to dense ones off the diagonal, wherever that takes less storage at this error.
        dtype : dtype, optional
            Default: that of the values.
        compressor : Compressor, optional
            Of `structmat.lowrank`; default `ACA()`.
        rng : seed or numpy.random.Generator
            For the entries that check the result.
        progress : callable, optional
            Called with the share of the work just done.
        """
        if tree is None and partition is None:
            raise TypeError("from_entries needs a tree: it tells the size of the matrix (ClusterTree.balanced(n))")
        given = tree if partition is None else _trees_of(partition, tree)
        row_tree, col_tree = as_tree_pair(given, _shape_of(given))
        source = EntrySource(entries, (row_tree.n, col_tree.n), dtype)
        chosen = cls._partition(row_tree, col_tree, admissibility, partition)
        coarsen = admissibility is None and partition is None
        return _from_source(cls, source, chosen, rtol, atol, max_rank, symmetric, compressor, rng, progress, coarsen)

    @classmethod
    def from_kernel(
        cls, kernel: Kernel, points: Any, tree: TreeLike = None, *, column_points: Any = None, rtol: float = 1e-8,
        atol: float = 0.0, max_rank: int | None = None, symmetric: bool = False, leaf_size: int = 64,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None, compressor: Any = None,
        like: Any = None, rng: RandomLike = 0, progress: Progress = None,
    ) -> Any:  # fmt: skip
        """Compress the matrix of a kernel function on points.

        Parameters
        ----------
        kernel : callable
            `kernel(x, y) -> (len(x), len(y))` array, or an object of `structmat.kernelfunctions`. It receives rows of
            `points` as they were given: (m,) arrays for points (n,), (m, d) arrays for points (n, d).
            A kernel with c `components` (`kernelfunctions.Stokes`) has c indices for each point, c i .. c i + c - 1,
            and trees have c n indices.
        points : (n,) or (n, d) array
            Coordinates, in the user's ordering.
        tree : ClusterTree or pair of them, optional
            Default: from the points, with leaves of at most `leaf_size`.
        column_points : array, optional
            Other points for the columns: a rectangular matrix.
        like : array, optional
            Build where this array is: an array of CuPy, or a torch tensor. The kernel is an object of
            `structmat.kernelfunctions`, or has a true attribute `batched`, and then takes and returns arrays of that
            library, (nb, p, d) and (nb, q, d) to (nb, p, q). By batched adaptive cross approximation; another matrix
            than the CPU's, of the same tolerance, and its blocks are not coarsened.
        rtol, atol, max_rank, symmetric, admissibility, partition, compressor, rng, progress
            As in `from_entries`.

        Raises
        ------
        DeviceMemoryError
            Where dense blocks and low-rank ones of a small rank would not fit on the device, before anything is built.
        """
        rows, cols = _point_sets(points, column_points, symmetric)
        if like is not None and not is_numpy(like):
            _require_what_devices_take(kernel, compressor)
        source = kernel_source(kernel, rows, cols, like)
        given = tree if partition is None else _trees_of(partition, tree)
        trees = _kernel_trees(given, source.row_points, source.col_points, leaf_size, same=column_points is None)
        chosen = cls._partition(*trees, admissibility, partition)
        on_host = not isinstance(source, DeviceKernelSource)
        coarsen = on_host and admissibility is None and partition is None
        return _from_source(cls, source, chosen, rtol, atol, max_rank, symmetric, compressor, rng, progress, coarsen)

    @classmethod
    def from_operator(
        cls, op: Any, tree: TreeLike = None, *, rtol: float = 1e-8, max_rank: int | None = None,
        symmetric: bool = False, noise: float = 0.0, leaf_size: int = 64, max_probes: int | None = None,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None, rng: RandomLike = 0,
        progress: Progress = None,
    ) -> Any:  # fmt: skip
        """Compress a matrix known by its products only, by peeling: level by level from the top.

        Parameters
        ----------
        op : object
            With `shape` and `matmat`/`rmatmat` or `matvec`/`rmatvec` (a SciPy LinearOperator, a PyLops operator, ..).
        tree : ClusterTree or pair of them, optional
            Default: balanced, leaves of at most `leaf_size`.
        rtol, max_rank
            As in `from_dense`; the error is estimated from 10 independent probes, see `certificate`.
        symmetric : bool
            The operator is Hermitian (tested on the probes): only products with A are used, half as many.
        noise : float
            Relative error of the products, where known; a tolerance below 5 times it is refused.
        max_probes : int, optional
            Never use more products than this, with A and with its adjoint together, for building.
        admissibility, partition, rng, progress
            As in `from_entries`.

        Raises
        ------
        TooFewSamplesError
            When `max_probes` products do not suffice; the message says where, and how many more it takes.

        Notes
        -----
        The number of products adapts to the ranks: about `colours * (k + 10)` for each level and side, and `colours *
        leaf_size` for the dense blocks, where nodes of one colour are probed together: two colours for HODLR, many
        for H-matrices in two dimensions. Where fewer products show all blocks below a level by their columns,
        this is done. Work O(n k^2 log n) besides the products.

        References
        ----------
        L. Lin, J. Lu, L. Ying, "Fast construction of hierarchical matrix representation from matrix-vector
        multiplication", J. Comput. Phys. 230 (2011) 4071-4087; J. Levitt, P.-G. Martinsson, arXiv 2205.03406; T. Chen
        et al., "Near-optimal hierarchical matrix approximation from matrix-vector products", SODA 2025.

        Examples
        --------
        >>> import numpy as np, scipy.sparse.linalg as spla, structmat as sm
        >>> G = np.minimum.outer(np.arange(1, 513), np.arange(1, 513)) / 512
        >>> A = sm.HODLRMatrix.from_operator(spla.aslinearoperator(G), leaf_size=32, rtol=1e-9, symmetric=True)
        >>> A.certificate.met, A.max_rank
        (True, 1)
        """
        from .from_products import from_operator

        source = OperatorSource(op, symmetric=symmetric)
        given = tree if partition is None else _trees_of(partition, tree)
        row_tree, col_tree = as_tree_pair(given, source.shape, leaf_size=leaf_size)
        chosen = cls._partition(row_tree, col_tree, admissibility, partition)
        tolerance, cap = _tolerances(rtol, 0.0, max_rank)
        _require_above_noise(tolerance, noise)
        limit = None if max_probes is None else _check.positive_integer(max_probes, "max_probes")
        if symmetric:
            _stored(chosen, symmetric)  # refuses partitions that are not
        result: Any = from_operator(
            cls, source, chosen, rtol=tolerance, max_rank=cap, symmetric=symmetric, noise=noise, max_probes=limit,
            rng=_check.generator(rng), progress=progress or _silent,
        )  # fmt: skip
        return _finished(result, result.certificate, cap)

    @classmethod
    def _of_low_rank(
        cls, left: NumpyArray, right: NumpyArray, trees: tuple[ClusterTree, ClusterTree], symmetric: bool,
        admissibility: Admissibility | None, partition: BlockPartition | None,
    ) -> Any:  # fmt: skip
        chosen = cls._partition(*trees, admissibility, partition)
        factors = leaf_factors(left, right, trees)
        blocks = _low_rank(*factors, _stored(chosen, symmetric), symmetric)
        return _finished(cls._unchecked(blocks, *trees), exact(0.0, float(np.finfo(factors[0].dtype).eps)))


def _require_what_devices_take(kernel: Kernel, compressor: Any) -> None:
    """Raise a `DeviceError` unless batched crosses can be taken of the kernel."""
    if compressor is not None:
        raise DeviceError("compressors run on the CPU: leave out compressor= or like=")
    if not getattr(kernel, "batched", False):
        raise DeviceError(
            "builds of HODLR and H-matrices on a device need a kernel that takes batches: an object of "
            "structmat.kernelfunctions, or a function of arrays (nb, p, d) and (nb, q, d) with kernel.batched = True"
        )


def _silent(_share: float) -> None:
    """No progress is shown unless asked for."""


_PLACEHOLDER: Certificate = exact(0.0, 1.0, "not yet checked")


def _stored(partition: BlockPartition, symmetric: bool) -> BlockPartition:
    """The blocks that are stored: all, or those on and below the diagonal."""
    if not symmetric:
        return partition
    _require_one_tree(partition.row_tree, partition.col_tree)
    if not partition.is_symmetric:
        raise SymmetryError("symmetric=True needs a partition that has with each block the mirrored one")
    return partition.lower()


def low_rank_blocks(u: Any, v: Any, partition: BlockPartition, *, symmetric: bool) -> FlatBlocks:
    """U V^H over the stored blocks of a partition, exactly; checked as `from_low_rank` does."""
    factors = checked_leaf_factors(u, v, (partition.row_tree, partition.col_tree), symmetric)
    return _low_rank(*factors, partition, symmetric)


def _low_rank(left: NumpyArray, right: NumpyArray, partition: BlockPartition, symmetric: bool) -> FlatBlocks:
    """U V^H from its factors as padded leaf blocks."""
    near, far = [], []
    rank = left.shape[2]
    for level in range(partition.depth + 1):
        u, v = (f.reshape(1 << level, (len(f) * f.shape[1]) >> level, rank) for f in (left, right))
        dense, places = partition.near[level], partition.far[level]
        data = u[dense[:, 0]] @ v[dense[:, 1]].conj().swapaxes(1, 2)
        near.append(BlockBatch(data, dense[:, 0].copy(), dense[:, 1].copy()))
        batch = LowRankBatch(u[places[:, 0]], v[places[:, 1]], places[:, 0].copy(), places[:, 1].copy())
        far.append((batch,) if len(places) else ())
    return FlatBlocks(tuple(near), tuple(far), symmetric)


def _from_source(
    cls: Any, source: EntrySource, partition: BlockPartition, rtol: float, atol: float, max_rank: int | None,
    symmetric: bool, compressor: Any, rng: RandomLike, progress: Progress, coarsen: bool,
) -> Any:  # fmt: skip
    """Build, check on entries of every block, and build again more tightly until the check passes."""
    from .certify import by_entries

    tolerance, cap = _tolerances(rtol, atol, max_rank)
    if symmetric:
        _require_square_entries(source)
        _require_hermitian_entries(source, _check.generator(rng))
    stored = _stored(partition, symmetric)
    if source.coordinates is None:  # of the trees, in the order of the entries
        source.coordinates = (_in_order_of_entries(partition.row_tree), _in_order_of_entries(partition.col_tree))
    there = source if isinstance(source, DeviceKernelSource) else None
    if there is not None:
        batched_build.require_room_for(there, stored)
    compiled = fused.compiled_source(source, partition) if compressor is None and cap is None else None
    near, norm = _near_and_norm(source, compiled, stored, symmetric, _check.generator(rng))
    _check.finite_norm(norm, source.dtype)
    asked = max(tolerance, atol / norm if norm > 0 else 0.0)
    # merging needs singular factors in double precision, and a tolerance that leaves room for finer blocks
    fit = coarsen and compressor is None and cap is None and source.dtype in (np.float64, np.complex128)
    merge = cls._coarsened if fit and asked >= LEAST_MERGED else None
    fine = 1.0 if merge is None else FINE_SHARE
    mirrored = merge is not None and compiled is not None and compiled.mirrored and not symmetric
    share, best = 0.9, None
    for attempt in range(ATTEMPTS):
        tails = build.block_tails(partition, fine * share * asked * norm)
        supply: Any = None
        if there is not None:
            far = batched_build.far_blocks(
                there, stored, tails, max_rank=cap, rng=_check.generator(rng), progress=progress or _silent
            )
            blocks = FlatBlocks(near, far, symmetric)
        elif compiled is None:
            far, _square = build.far_blocks(
                source, stored, tails, max_rank=cap, compressor=compressor or ACA(), rng=_check.generator(rng),
                progress=progress or _silent, half=symmetric,
            )  # fmt: skip
            supply = StoredBlocks(
                FlatBlocks(near, far, symmetric), stored.row_tree.leaf_size, stored.col_tree.leaf_size
            )
        else:
            half = partition.lower() if mirrored else stored
            supply = fused.CompiledBlocks(
                compiled, half, tails, half=symmetric or mirrored, attempt=attempt, progress=progress or _silent
            )
            source.evaluated += supply.evaluated
        if supply is not None:
            allowed = MERGE_SHARE * share * asked * norm
            blocks = supply.stored() if merge is None else merge(supply, allowed, mirrored=mirrored)
        candidate = cls._unchecked(blocks, partition.row_tree, partition.col_tree)
        candidate.certificate = by_entries(
            candidate, source, asked=asked, norm=norm, rng=_check.generator(rng),
            mirrored=compiled is not None and compiled.mirrored,
        )  # fmt: skip
        if best is None or candidate.certificate.upper_bound < best.certificate.upper_bound:
            best = candidate
        if best.certificate.met or (cap is not None and best.max_rank >= cap):
            break
        share *= 0.5
    assert best is not None
    return _finished(best, best.certificate, cap)


def _in_order_of_entries(tree: ClusterTree) -> NumpyArray:
    return tree.coordinates[tree.inverse_perm]


def _near_and_norm(
    source: EntrySource, compiled: Any, stored: BlockPartition, symmetric: bool, rng: np.random.Generator
) -> tuple[tuple[BlockBatch, ...], float]:
    """The dense blocks, unless a compiled form evaluates them later, and an estimate of the Frobenius norm."""
    near = build.near_blocks(source, stored) if compiled is None else ()
    square = (
        fused.squared_near_norm(compiled, stored, symmetric) if compiled else build.squared_near_norm(near, symmetric)
    )
    return near, build.estimated_norm(source, stored, square, rng, symmetric)


def _finished(result: Any, certificate: Certificate, max_rank: int | None = None) -> Any:
    """The matrix with its certificate, and the warnings that it deserves."""
    result.certificate = certificate
    remedy = "raise max_rank" if max_rank is not None else "look at A.summary(): is there structure?"
    certificate.warn_if_not_met(remedy, stacklevel=5)
    dense = result.shape[0] * result.shape[1] * result.dtype.itemsize
    if result.nbytes > 2 * dense and result.row_tree.depth >= 2:
        warnings.warn(
            f"the matrix has no {type(result).__name__} structure to speak of at this tolerance: "
            f"{result.nbytes / 1e6:.3g} MB with ranks up to {result.max_rank}, against {dense / 1e6:.3g} MB as a dense "
            "array; use a dense array, a larger rtol or another ordering (ClusterTree.from_points)",
            StructureWarning,
            stacklevel=4,
        )
    return result
