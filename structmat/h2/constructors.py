"""The constructors of H2Matrix: checks at the door, then the builders of this folder."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

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
from .._typing import Entries, Kernel, RandomLike
from ..blocks import BlockBatch
from ..certificate import Certificate, exact
from ..certify import all_entries, in_range, is_small
from ..exceptions import DeviceError, StructureWarning
from ..flat import build as flat_build
from ..flat import fused
from ..flat.constructors import Progress, _silent, _stored, _trees_of
from ..partition import Admissibility, BlockPartition, StrongAdmissibility
from ..sources import DeviceKernelSource, EntrySource, OperatorSource, kernel_source
from ..tree import ClusterTree, as_tree_pair
from . import batched_build, dense, interpolative
from .chebyshev import ChebyshevInterpolation
from .partitions import for_nested_bases
from .sampled import FarField
from .structure import warn_if_oscillatory

# attempts with tighter tolerances of the nodes, or more samples, before the tolerance is declared out of reach
ATTEMPTS = 4


class H2Constructors:
    """Ways to build an H2-matrix. All take `rtol`, relative to the Frobenius norm of the whole matrix."""

    @classmethod
    def _partition(
        cls, trees: tuple[ClusterTree, ClusterTree], admissibility: Admissibility | None,
        partition: BlockPartition | None,
    ) -> BlockPartition:  # fmt: skip
        if partition is None:
            return for_nested_bases(BlockPartition.build(trees[0], trees[1], admissibility or StrongAdmissibility()))
        if admissibility is not None:
            raise TypeError("give admissibility or partition, not both")
        partition.require_cover()
        return for_nested_bases(partition)

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
            `a` is Hermitian (checked): one basis and half of the blocks are stored.
        admissibility, partition : Admissibility, BlockPartition, optional
            Which blocks are compressed; default `StrongAdmissibility(eta=2.0)`.

        Notes
        -----
        Truncated singular value decompositions of what each basis has to serve. Cost O(n^2 k) time and O(n^2) memory.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 600)
        >>> A = sm.H2Matrix.from_dense(1 / (1 + abs(x[:, None] - x)), rtol=1e-8, symmetric=True)
        >>> A.certificate.met, A.max_rank < 10
        (True, True)
        """
        array = _check.matrix(a, "a")
        trees = as_tree_pair(tree if partition is None else _trees_of(partition, tree), array.shape)
        tolerance, cap = _tolerances(rtol, atol, max_rank)
        if symmetric:
            _require_hermitian(array, *trees)
        chosen = cls._partition(trees, admissibility, partition)
        size = _check.frobenius(array)
        rounding = 32 * float(np.finfo(array.dtype).eps)  # of the decompositions: what is cut leaves room for it
        asked = max(tolerance, atol / size if size > 0 else 0.0, 2 * rounding)
        blocks, error = dense.compress(
            array, chosen, _stored(chosen, symmetric), allowed=(asked - rounding) * size, max_rank=cap,
            symmetric=symmetric,
        )  # fmt: skip
        bound = error / size + rounding if size > 0 else rounding
        certificate = Certificate(asked, bound, bound, 1.0, "guaranteed by truncation", entries=array.size)
        make: Any = cls
        result = make(blocks, *trees, certificate)
        return finished(result, in_range(certificate, size, result), cap)

    @classmethod
    def from_structured(
        cls, other: Any, *, rtol: float | None = None, admissibility: Admissibility | None = None,
        partition: BlockPartition | None = None,
    ) -> Any:  # fmt: skip
        """Convert a matrix of any format, on its trees.

        Parameters
        ----------
        other : StructuredMatrix
            HSS, HODLR, H or H2. A Hermitian matrix stays one where the partition is symmetric.
        rtol : float, optional
            Allowed Frobenius error of the conversion, relative to the norm of `other`; default: the tolerance of
            `other`. Guaranteed. HSS over its own blocks is taken over as it is, unless `rtol` is given.
        admissibility, partition : Admissibility, BlockPartition, optional
            Which blocks are compressed; default: those of `other`.

        Notes
        -----
        Nested bases from the leaves up, of block rows that are kept by their factors: O(n k^2 log n) with the ranks k
        of all blocks of a row together. Blocks of another partition are cut or put together first.

        References
        ----------
        W. Hackbusch, S. Boerm, "Data-sparse approximation by adaptive H2-matrices", Computing 69 (2002) 1-35.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> points = np.random.default_rng(0).random((800, 2))
        >>> H = sm.HMatrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-6, symmetric=True)
        >>> A = sm.H2Matrix.from_structured(H)
        >>> bool(np.allclose(A @ points, H @ points, rtol=1e-5)), A.certificate.met, A.nbytes < H.nbytes
        (True, True, True)
        """
        from ..convert import to_h2

        return to_h2(cls, other, rtol=rtol, admissibility=admissibility, partition=partition)

    @classmethod
    def from_entries(
        cls, entries: Entries, tree: TreeLike = None, *, rtol: float = 1e-8, atol: float = 0.0,
        max_rank: int | None = None, symmetric: bool = False, dtype: Any = None,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None, rng: RandomLike = 0,
        progress: Progress = None,
    ) -> Any:  # fmt: skip
        """Compress a matrix known by its entries, O(n k) of which are evaluated besides the dense blocks.

        Parameters
        ----------
        entries : callable
            `entries(i, j) -> (len(i), len(j))` array, for int arrays i and j in the user's ordering.
        tree : ClusterTree or pair of them
            The geometry of a tree built from points tells near from far; else the distance of indices does.
        rtol, atol : float
            Allowed Frobenius error, relative to the norm of the matrix or absolute; the larger one counts. Estimated
            from entries of every coupling; see `certificate`.
        max_rank : int, optional
            No rank exceeds this; an `AccuracyWarning` says so where the tolerance then is not met.
        symmetric : bool
            The matrix is Hermitian (checked on samples): one basis and half of the blocks are stored.
        dtype : dtype, optional
            Default: that of the values.
        admissibility, partition : Admissibility, BlockPartition, optional
            Which blocks are compressed; default `StrongAdmissibility(eta=2.0)`.
        rng : seed or numpy.random.Generator
            For the entries that check the result.
        progress : callable, optional
            Called with the share of the work just done.
        """
        if tree is None and partition is None:
            raise TypeError("from_entries needs a tree: it tells the size of the matrix (ClusterTree.balanced(n))")
        given = tree if partition is None else _trees_of(partition, tree)
        trees = as_tree_pair(given, _shape_of(given))
        source = EntrySource(entries, (trees[0].n, trees[1].n), dtype)
        chosen = cls._partition(trees, admissibility, partition)
        return _from_source(cls, source, chosen, rtol, atol, max_rank, symmetric, rng, progress)

    @classmethod
    def from_kernel(
        cls, kernel: Kernel, points: Any, tree: TreeLike = None, *, column_points: Any = None, rtol: float = 1e-8,
        atol: float = 0.0, max_rank: int | None = None, symmetric: bool | None = None, leaf_size: int = 64,
        admissibility: Admissibility | None = None, partition: BlockPartition | None = None,
        far_field: FarField | ChebyshevInterpolation | None = None, on_the_fly: bool = False, like: Any = None,
        rng: RandomLike = 0, progress: Progress = None,
    ) -> Any:  # fmt: skip
        """Compress the matrix of a kernel function on points, in any dimension.

        Parameters
        ----------
        kernel : callable
            `kernel(x, y) -> (len(x), len(y))` array, or an object of `structmat.kernelfunctions`: those with a compiled
            form are evaluated inside compiled loops, several times faster.
        points : (n,) or (n, d) array
            Coordinates, in the user's ordering.
        tree : ClusterTree or pair of them, optional
            Default: from the points, with leaves of at most `leaf_size`.
        column_points : array, optional
            Other points for the columns: a rectangular matrix.
        symmetric : bool, optional
            Store one basis and half of the blocks. Default: what the kernel object says of itself, for one set of
            points; plain functions count as not symmetric.
        far_field : SampledFarField, ProxySurface, SelectedProxies or ChebyshevInterpolation, optional
            By what a node knows the far field that its basis has to serve; default `SampledFarField()`, for any kernel.
        on_the_fly : bool
            Store the bases only, and evaluate couplings and near field from the kernel in each product: a tenth of the
            memory or less, for slower products. For kernels with a compiled form.
        like : array, optional
            Build where this array is: an array of CuPy, or a torch tensor. The kernel takes and returns arrays of that
            library, as the objects of `structmat.kernelfunctions` do. Samples, proxies and skeletons are chosen by the
            rules of the CPU, but where rounding decides between two the choice may differ.
        rtol, atol, max_rank, admissibility, partition, rng, progress
            As in `from_entries`.

        Raises
        ------
        DeviceMemoryError
            Where the near field, and then the couplings, would not fit on the device, before they are evaluated.

        Notes
        -----
        Each node's basis interpolates from a few of its points, its skeleton, chosen against samples of its far field;
        couplings are then entries of the matrix itself. Time and storage O(n k^2 / leaf_size + n leaf_size).

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> points = np.random.default_rng(0).random((3000, 2))
        >>> A = sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-6)
        >>> A.certificate.met, A.symmetric
        (True, True)
        """
        rows, cols = _point_sets(points, column_points, bool(symmetric))
        if on_the_fly and not (like is None or is_numpy(like)):
            raise DeviceError("builds on a device store their blocks: leave out like=, or on_the_fly=True")
        source = kernel_source(kernel, rows, cols, like)
        given = tree if partition is None else _trees_of(partition, tree)
        trees = _kernel_trees(given, source.row_points, source.col_points, leaf_size, same=column_points is None)
        chosen = cls._partition(trees, admissibility, partition)
        if symmetric is None:
            one_set = column_points is None and trees[0] == trees[1] and chosen.is_symmetric
            symmetric = one_set and bool(getattr(kernel, "symmetric", False))
        warn_if_oscillatory(kernel, chosen)
        return _from_source(
            cls, source, chosen, rtol, atol, max_rank, symmetric, rng, progress, far_field=far_field,
            on_the_fly=on_the_fly,
        )  # fmt: skip

    @classmethod
    def from_operator(
        cls, op: Any, tree: TreeLike = None, *, rtol: float = 1e-8, max_rank: int | None = None,
        symmetric: bool = False, noise: float = 0.0, leaf_size: int = 64, max_probes: int | None = None,
        entries: Entries | None = None, admissibility: Admissibility | None = None,
        partition: BlockPartition | None = None, rng: RandomLike = 0, progress: Progress = None,
    ) -> Any:  # fmt: skip
        """Compress a matrix known by its products, and perhaps by its entries, by sketching from the leaves up.

        Parameters
        ----------
        op : object
            With `shape` and `matmat`/`rmatmat` or `matvec`/`rmatvec` (a SciPy LinearOperator, a PyLops operator, ..).
        tree : ClusterTree or pair of them, optional
            Default: balanced, leaves of at most `leaf_size`.
        rtol, max_rank
            As in `from_entries`; the error is estimated from 10 independent probes, see `certificate`. The least
            tolerance is 64 times the machine precision: products carry rounding.
        symmetric : bool
            The operator is Hermitian (tested on the probes): only products with A are used, half as many.
        noise : float
            Relative error of the products, where known; a tolerance below 5 times it is refused.
        max_probes : int, optional
            Never use more products than this, with A and with its adjoint together, for building.
        entries : callable, optional
            `entries(i, j) -> (len(i), len(j))` array of the same matrix: an order of magnitude fewer products then do.
        admissibility, partition, rng, progress
            As in `from_entries`.

        Raises
        ------
        TooFewSamplesError
            When `max_probes` products do not suffice; the message says where, and how many more it takes.
        ValueError
            When `entries` and `op` are not of one matrix.

        Notes
        -----
        The same samples serve all levels: their number does not grow with the size of the matrix. With entries it is a
        half more than the largest rank. From products alone a node's dense neighbours have to be told from its far
        field, which takes a quarter more than the columns of all of them: small leaves, about twice the ranks, need
        the fewest. Where the matrix has fewer columns than that, and at most 8192, these are what the operator is
        applied to. Work O(n s^2) for s samples, with entries O(n k s), besides the products.

        References
        ----------
        W. H. Boukaram, Y. Liu, P. Ghysels, X. S. Li, arXiv 2506.16759 (with entries); J. Levitt, P.-G. Martinsson,
        arXiv 2205.02990, and A. Yesypenko, P.-G. Martinsson, arXiv 2311.01451 (products only).

        Examples
        --------
        >>> import numpy as np, scipy.sparse.linalg as spla, structmat as sm
        >>> x = np.linspace(0, 1, 1000)
        >>> G = 1 / (0.001 + np.abs(x[:, None] - x))
        >>> op = spla.aslinearoperator(G)
        >>> A = sm.H2Matrix.from_operator(op, leaf_size=32, rtol=1e-6, symmetric=True)
        >>> A.certificate.met, A.certificate.products < 200
        (True, True)
        >>> B = sm.H2Matrix.from_operator(op, leaf_size=32, symmetric=True, entries=lambda i, j: G[np.ix_(i, j)])
        >>> B.certificate.met, B.certificate.products < 60
        (True, True)
        """
        from .from_products import from_operator

        source = OperatorSource(op, symmetric=symmetric)
        given = tree if partition is None else _trees_of(partition, tree)
        trees = as_tree_pair(given, source.shape, leaf_size=leaf_size)
        chosen = cls._partition(trees, admissibility, partition)
        tolerance, cap = _tolerances(rtol, 0.0, max_rank)
        _require_above_noise(tolerance, noise)
        limit = None if max_probes is None else _check.positive_integer(max_probes, "max_probes")
        if symmetric:
            _stored(chosen, symmetric)  # refuses partitions that are not
        known = None if entries is None else EntrySource(entries, source.shape, source.dtype)
        result = from_operator(
            cls, source, chosen, entries=known, rtol=tolerance, max_rank=cap, symmetric=symmetric, noise=noise,
            max_probes=limit, rng=_check.generator(rng), progress=progress or _silent,
        )  # fmt: skip
        return finished(result, result.certificate, cap)


def _from_source(
    cls: Any, source: EntrySource, partition: BlockPartition, rtol: float, atol: float, max_rank: int | None,
    symmetric: bool, rng: RandomLike, progress: Progress, *,
    far_field: FarField | ChebyshevInterpolation | None = None, on_the_fly: bool = False,
) -> Any:  # fmt: skip
    """Build, check on entries of every coupling, and build again more finely until the check passes."""
    from .certify import by_entries

    tolerance, cap = _tolerances(rtol, atol, max_rank)
    if symmetric:
        _require_square_entries(source)
        _require_one_tree(partition.row_tree, partition.col_tree)
        _require_hermitian_entries(source, _check.generator(rng))
    stored = _stored(partition, symmetric)
    if isinstance(source, DeviceKernelSource):
        batched_build.require_room_for(source, stored)
    compiled = fused.compiled_source(source, partition)
    if on_the_fly and compiled is None:
        raise TypeError(
            f"on_the_fly=True needs a kernel with a compiled form, an object of structmat.kernelfunctions, but "
            f"{source._describe()} has none; leave on_the_fly out, or make a kernel object of the function"
        )
    # where evaluation is slow, once is enough
    near = None if compiled is not None else flat_build.near_blocks(source, stored)[-1]
    norm = estimated_norm(source, compiled, stored, symmetric, _check.generator(rng), near)
    _check.finite_norm(norm, source.dtype)
    asked = max(tolerance, atol / norm if norm > 0 else 0.0)
    if isinstance(far_field, ChebyshevInterpolation):
        found = _interpolated(
            cls, source, compiled, partition, far_field, asked=asked, norm=norm, max_rank=cap, symmetric=symmetric,
            rng=_check.generator(rng), on_the_fly=on_the_fly, near=near,
        )  # fmt: skip
        return finished(found, found.certificate, cap)
    reused = 0 if near is None else near.size
    rule, best = interpolative.Rule.for_tolerance(asked, _dimension(partition), far_field), None
    for _attempt in range(ATTEMPTS):
        given: dict[str, Any] = {
            "allowed": asked * norm, "max_rank": cap, "symmetric": symmetric, "rule": rule,
            "progress": progress or _silent, "near": near,
        }  # fmt: skip
        if isinstance(source, DeviceKernelSource):
            storage, starved = batched_build.build(source, partition, **given)
        else:
            storage, starved = interpolative.build(source, compiled, partition, on_the_fly=on_the_fly, **given)
        candidate = cls._of_storage(storage, partition.row_tree, partition.col_tree, PLACEHOLDER)
        candidate.certificate = certificate = by_entries(
            candidate, source, asked=asked, norm=norm, rng=_check.generator(rng), reused=reused
        )
        if best is None or certificate.upper_bound < best.certificate.upper_bound:
            best = candidate
        if certificate.met or (cap is not None and best.max_rank >= cap):
            break
        rule = rule.finer(certificate.upper_bound / certificate.asked, starved=starved)
    assert best is not None
    on_device = isinstance(source, DeviceKernelSource)
    if not best.certificate.met and cap is None and is_small(source, reused) and not on_the_fly and not on_device:
        # a small matrix that its samples have not shown: guaranteed
        entries = all_entries(source, symmetric=symmetric)
        best = cls.from_dense(entries, rtol=rtol, atol=atol, symmetric=symmetric, partition=partition)
        best.certificate = replace(best.certificate, entries=source.evaluated)
        return best
    return finished(best, best.certificate, cap)


def _interpolated(cls: Any, source: Any, *given: Any, on_the_fly: bool, **options: Any) -> Any:
    from . import chebyshev

    if on_the_fly:
        raise TypeError("on_the_fly=True needs skeletons, which ChebyshevInterpolation has not; leave one of them out")
    return chebyshev.build(cls, source, *given, **options)


def _dimension(partition: BlockPartition) -> int:
    return int(partition.row_tree.coordinates.shape[1])


def estimated_norm(
    source: EntrySource, compiled: Any, stored: BlockPartition, symmetric: bool, rng: np.random.Generator,
    near: BlockBatch | None,
) -> float:  # fmt: skip
    """The Frobenius norm: dense blocks exactly where that is cheap, all others from some of their entries."""
    if compiled is not None:
        square = fused.squared_near_norm(compiled, stored, symmetric)
    else:
        assert near is not None
        square = flat_build.squared_near_norm((near,), symmetric)
    return flat_build.estimated_norm(source, stored, square, rng, symmetric)


def finished(result: Any, certificate: Certificate, max_rank: int | None = None) -> Any:
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


PLACEHOLDER: Certificate = exact(0.0, 1.0, "not yet checked")
