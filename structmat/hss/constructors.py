"""The constructors of HSSMatrix: checks at the door, then the builders of this folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check
from .._inputs import (
    TreeLike,
    _kernel_trees,
    _low_rank_factors,
    _point_sets,
    _require_above_noise,
    _require_hermitian,
    _require_hermitian_entries,
    _require_one_tree,
    _require_square_entries,
    _sample_arrays,
    _shape_of,
    _tolerances,
)
from .._typing import Entries, Kernel, RandomLike
from ..blocks import NestedBasis
from ..certificate import Certificate, exact
from ..certify import all_entries, in_range, is_small
from ..exceptions import ShapeError, StructureWarning
from ..sources import DeviceKernelSource, EntrySource, OperatorSource, kernel_source
from ..tree import ClusterTree, as_tree_pair
from . import arithmetic, dense, interpolative
from .certify import by_entries
from .generators import Generators
from .sampling import SamplingRule

if TYPE_CHECKING:
    from .matrix import HSSMatrix

Progress = Callable[[float], None] | None

# attempts with ever finer sampling before the tolerance is declared out of reach
ATTEMPTS = 3


class HSSConstructors:
    """Ways to build an HSS matrix. All take `rtol`, relative to the Frobenius norm of the whole matrix."""

    @classmethod
    def from_dense(
        cls, a: Any, tree: TreeLike = None, *, rtol: float = 1e-8, atol: float = 0.0, max_rank: int | None = None,
        symmetric: bool = False,
    ) -> HSSMatrix:  # fmt: skip
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
            `a` is Hermitian (checked): one basis and half of the couplings are stored.

        Notes
        -----
        Cost O(n^2 k) time and O(n^2) memory.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.linspace(0, 1, 500)
        >>> A = sm.HSSMatrix.from_dense(np.exp(-abs(x[:, None] - x)), rtol=1e-10)
        >>> A.max_rank, A.certificate.met
        (2, True)
        """
        array = _check.matrix(a, "a")
        row_tree, col_tree = as_tree_pair(tree, array.shape)
        tolerance, cap = _tolerances(rtol, atol, max_rank)
        if symmetric:
            _require_hermitian(array, row_tree, col_tree)
        size = _check.frobenius(array)
        allowed = max(tolerance * size, atol)
        # a cheap pivoted compression to half of the error, then optimal truncation with the other half
        g, error = dense.compress(array, row_tree, col_tree, tail=0.7 * allowed, max_rank=None, symmetric=symmetric)
        from .truncate import truncate

        cut, more, _ = truncate(g, rtol=0.0, atol=0.7 * allowed, max_rank=cap)
        eps = float(np.finfo(array.dtype).eps)
        rounding = 32 * eps  # of the orthogonal transformations
        bound = float(np.hypot(error, more)) / size + rounding if size > 0 else rounding
        certificate = Certificate(
            max(tolerance, atol / size if size > 0 else 0.0, 64 * eps), bound, bound, 1.0, "guaranteed by truncation",
            entries=array.size,
        )  # fmt: skip
        certificate = in_range(certificate, size, _unchecked(cut, row_tree, col_tree))
        return _finished(cut, row_tree, col_tree, certificate, capped=cap is not None)

    @classmethod
    def from_entries(
        cls, entries: Entries, tree: TreeLike, *, rtol: float = 1e-8, atol: float = 0.0, max_rank: int | None = None,
        symmetric: bool = False, dtype: Any = None, rng: RandomLike = 0, progress: Progress = None,
    ) -> HSSMatrix:  # fmt: skip
        """Compress a matrix known by its entries, O(n k) of which are evaluated.

        Parameters
        ----------
        entries : callable
            `entries(i, j) -> (len(i), len(j))` array, for int arrays i and j in the user's ordering. With a true
            attribute `batched`: (nb, p, q) for i (nb, p) and j (nb, q).
        tree : ClusterTree or pair of them
            The geometry of a tree built from points tells near from far; else the distance of indices does.
        rtol, atol, max_rank, symmetric
            As in `from_dense`. The error is estimated from entries that were not used in building; see `certificate`.
        dtype : dtype, optional
            Default: that of the values.
        rng : seed or numpy.random.Generator
            For the entries that check the result.
        progress : callable, optional
            Called with the share of the work just done.

        Notes
        -----
        Cost O(n k^2) time and O(n k) memory; the dense matrix is never formed.

        Examples
        --------
        >>> import structmat as sm
        >>> tree = sm.ClusterTree.balanced(3000)
        >>> A = sm.HSSMatrix.from_entries(lambda i, j: 1 / (abs(i[:, None] - j) + 1), tree, rtol=1e-6)
        >>> A.certificate.met
        True
        """
        if tree is None:
            raise TypeError("from_entries needs a tree: it tells the size of the matrix (ClusterTree.balanced(n))")
        row_tree, col_tree = as_tree_pair(tree, _shape_of(tree))
        source = EntrySource(entries, (row_tree.n, col_tree.n), dtype)
        return _from_source(source, row_tree, col_tree, rtol, atol, max_rank, symmetric, rng, progress)

    @classmethod
    def from_kernel(
        cls, kernel: Kernel, points: Any, tree: TreeLike = None, *, column_points: Any = None, rtol: float = 1e-8,
        atol: float = 0.0, max_rank: int | None = None, symmetric: bool = False, leaf_size: int = 64,
        like: Any = None, rng: RandomLike = 0, progress: Progress = None,
    ) -> HSSMatrix:  # fmt: skip
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
        rtol, atol, max_rank, symmetric, rng, progress
            As in `from_entries`.
        like : array, optional
            An array of another library, of CuPy say: the kernel gets and returns such arrays, and the matrix is built
            on their device and stays there. The kernels of the library run on any; those that are not `batched` take a
            call for each block.

        Notes
        -----
        Interpolative decompositions against proxy points: actual points, dense nearby and ever sparser further away.
        Cost O(n k^2) time and O(n k) memory in one dimension and on curves; on surfaces and in volumes the ranks of
        this format grow with n.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> x = np.random.default_rng(0).random(2000)
        >>> A = sm.HSSMatrix.from_kernel(lambda x, y: np.exp(-abs(x[:, None] - y)), x, rtol=1e-8, symmetric=True)
        >>> A.certificate.met
        True
        """
        rows, cols = _point_sets(points, column_points, symmetric)
        source = kernel_source(kernel, rows, cols, like)
        points_of = source.row_points, source.col_points
        row_tree, col_tree = _kernel_trees(tree, *points_of, leaf_size, same=column_points is None)
        return _from_source(source, row_tree, col_tree, rtol, atol, max_rank, symmetric, rng, progress)

    @classmethod
    def from_operator(
        cls, op: Any, tree: TreeLike = None, *, rtol: float = 1e-8, max_rank: int | None = None,
        symmetric: bool = False, fresh: bool = False, noise: float = 0.0, leaf_size: int = 64,
        max_probes: int | None = None, like: Any = None, rng: RandomLike = 0, progress: Progress = None,
    ) -> HSSMatrix:  # fmt: skip
        """Compress a matrix known by its products only.

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
        fresh : bool
            New probes for each level: quasi-optimal with proof, at depth times the products.
        noise : float
            Relative error of the products, where known; a tolerance below 5 times it is refused.
        max_probes : int, optional
            Never use more probes than this for building; where they do not suffice, an `AccuracyWarning` says so.
        like : array, optional
            An array of another library, of CuPy say: the operator gets and returns such arrays, the build runs on their
            device, and the matrix is there. The random numbers are those of the CPU: the same seed gives the same
            matrix up to rounding.

        Notes
        -----
        The number of probes adapts: where a level needs more than there are, they are added and the levels redone. Cost
        O(leaf_size + k) products and O(n (leaf_size + k)^2) work.

        Examples
        --------
        >>> import numpy as np, scipy.sparse.linalg as spla, structmat as sm
        >>> G = np.minimum.outer(np.arange(1, 513), np.arange(1, 513)) / 512
        >>> A = sm.HSSMatrix.from_operator(spla.aslinearoperator(G), leaf_size=32, rtol=1e-9)
        >>> A.certificate.met, A.max_rank
        (True, 2)
        """
        from .from_products import from_operator

        source = OperatorSource(op, symmetric=symmetric, example=like)
        row_tree, col_tree = as_tree_pair(tree, source.shape, leaf_size=leaf_size)
        tolerance, cap = _tolerances(rtol, 0.0, max_rank)
        _require_above_noise(tolerance, noise)
        if symmetric:
            _require_one_tree(row_tree, col_tree)
        generators, certificate = from_operator(
            source, row_tree, col_tree, rtol=tolerance, max_rank=cap, symmetric=symmetric, fresh=fresh,
            max_probes=max_probes, rng=_check.generator(rng), progress=progress or _silent,
        )  # fmt: skip
        return _finished(generators, row_tree, col_tree, certificate, capped=cap is not None or max_probes is not None)

    @classmethod
    def from_samples(
        cls, inputs: Any, outputs: Any, tree: TreeLike = None, *, rank: int, adjoint_inputs: Any = None,
        adjoint_outputs: Any = None, symmetric: bool = False, rtol: float = 1e-12, leaf_size: int | None = None,
    ) -> HSSMatrix:  # fmt: skip
        """Recover a matrix from recorded pairs: outputs = A @ inputs, adjoint_outputs = A^H @ adjoint_inputs.

        Parameters
        ----------
        inputs : (n, s) array
            Inputs, one a column. They must span enough: random ones do, smooth ones do not.
        outputs : (m, s) array
            What the matrix makes of them.
        tree : ClusterTree or pair of them, optional
            Default: the deepest balanced one whose leaves the samples can resolve (or leaves of `leaf_size`).
        rank : int
            Largest rank of the off-diagonal blocks; smaller ones are found.
        adjoint_inputs, adjoint_outputs : (m, s'), (n, s') arrays
            Needed unless `symmetric`.
        symmetric : bool
            The matrix is Hermitian; samples that contradict it raise `SymmetryError`.
        rtol : float
            The relative error down to which ranks are resolved.

        Returns
        -------
        HSSMatrix
            Its certificate's `details` are the identifiability report: samples given and needed, how many more the
            tree needs, whether they span, how well they determine the matrix, deviation from symmetry, and the residual
            on the samples.

        Raises
        ------
        TooFewSamplesError
            When the samples cannot determine the matrix on this tree; the message says how many more it takes.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> n = 256
        >>> i = np.arange(1, n + 1) / (n + 1)
        >>> G = np.minimum.outer(i, i) * (1 - np.maximum.outer(i, i))
        >>> F = np.random.default_rng(0).standard_normal((n, 12))
        >>> A = sm.HSSMatrix.from_samples(F, G @ F, rank=2, leaf_size=8, symmetric=True)
        >>> bool(np.linalg.norm(A.to_dense() - G) < 1e-11 * np.linalg.norm(G))
        True
        """
        from .from_products import from_samples

        pairs = _sample_arrays(inputs, outputs, adjoint_inputs, adjoint_outputs, symmetric)
        rank = _check.positive_integer(rank, "rank")
        shape = (pairs[1].shape[0], pairs[0].shape[0])
        if tree is None and leaf_size is None:
            leaf_size = max(1, min(64, min(p.shape[1] for p in pairs) - rank - 1))
        row_tree, col_tree = as_tree_pair(tree, shape, leaf_size=leaf_size or 64)
        if symmetric:
            _require_one_tree(row_tree, col_tree)
        generators, certificate = from_samples(
            pairs, row_tree, col_tree, rank=rank, symmetric=symmetric, rtol=_check.tolerance(rtol)
        )
        return _finished(generators, row_tree, col_tree, certificate, capped=True)

    # --------------------------------------------------------------------------- exact constructions

    @classmethod
    def from_low_rank(cls, u: Any, v: Any, tree: TreeLike = None, *, symmetric: bool = False) -> HSSMatrix:
        """U V^H for U (m, r) and V (n, r), exactly; with `symmetric`, U U^H (V must be U)."""
        result = low_rank(u, v, tree, symmetric=symmetric)
        return _finished(result.generators, result.row_tree, result.col_tree, result.certificate)

    @classmethod
    def zeros(cls, tree: TreeLike, dtype: Any = np.float64, *, symmetric: bool = False) -> HSSMatrix:
        """The zero matrix, of rank 0."""
        row_tree, col_tree = as_tree_pair(tree, _shape_of(tree))
        kind = _check.supported_dtype(dtype)
        rows = _empty_basis(row_tree, kind)
        g = Generators(
            np.zeros((row_tree.leaf_count, row_tree.leaf_size, col_tree.leaf_size), dtype=kind),
            rows,
            rows if symmetric else _empty_basis(col_tree, kind),
            tuple(
                np.zeros((2 ** (level - int(symmetric)), 0, 0), dtype=kind) for level in range(1, row_tree.depth + 1)
            ),
            symmetric,
        )
        return _finished(g, row_tree, col_tree, exact(0.0, float(np.finfo(kind).eps)))

    @classmethod
    def from_diagonal(cls, d: Any, tree: TreeLike = None) -> HSSMatrix:
        """diag(d) for a vector d (n,); stored as Hermitian where d is real."""
        values = _check.vector(d, "d")
        if values.size == 0:
            raise ShapeError("d is empty; a matrix needs at least one row")
        row_tree, col_tree = as_tree_pair(tree, (values.size, values.size))
        return cls.zeros((row_tree, col_tree), values.dtype, symmetric=values.dtype.kind != "c").add_diagonal(values)

    @classmethod
    def identity(cls, tree: TreeLike, dtype: Any = np.float64) -> HSSMatrix:
        """The identity matrix."""
        row_tree, col_tree = as_tree_pair(tree, _shape_of(tree))
        return cls.zeros((row_tree, col_tree), dtype, symmetric=True).add_diagonal(1.0)


def low_rank(u: Any, v: Any, tree: TreeLike, *, symmetric: bool) -> HSSMatrix:
    """U V^H exactly, whether or not a dense array were smaller."""
    left, right = _low_rank_factors(u, v, symmetric)
    row_tree, col_tree = as_tree_pair(tree, (left.shape[0], right.shape[0]))
    dtype = np.result_type(left, right)
    # copies: to_leaves may return views, and a matrix does not change with its input
    blocks = [t.to_leaves(f.astype(dtype)) for t, f in ((row_tree, left), (col_tree, right))]
    g = arithmetic.low_rank(blocks[0], blocks[1], symmetric=symmetric)
    result = _unchecked(g, row_tree, col_tree)
    result.certificate = exact(0.0, float(np.finfo(dtype).eps))
    return result


def _silent(_share: float) -> None:
    """No progress is shown unless asked for."""


def _from_source(
    source: EntrySource, row_tree: ClusterTree, col_tree: ClusterTree, rtol: float, atol: float, max_rank: int | None,
    symmetric: bool, rng: RandomLike, progress: Progress,
) -> HSSMatrix:  # fmt: skip
    """Build, check on entries not used, and build again with finer sampling until the check passes."""
    tolerance, cap = _tolerances(rtol, atol, max_rank)
    if symmetric:
        _require_square_entries(source)
        _require_one_tree(row_tree, col_tree)
        _require_hermitian_entries(source, _check.generator(rng))
    eps = float(np.finfo(source.dtype).eps)
    rule, share = SamplingRule.for_tolerance(max(tolerance, eps), getattr(source, "components", 1)), 1.0
    best: HSSMatrix | None = None
    for _attempt in range(ATTEMPTS):
        parts = interpolative.build(
            source, row_tree, col_tree, rtol=share * tolerance, atol=share * atol, max_rank=cap, symmetric=symmetric,
            rule=rule, progress=progress or _silent,
        )  # fmt: skip
        candidate = _unchecked(parts.generators, row_tree, col_tree)
        asked = max(tolerance, atol / parts.norm if parts.norm > 0 else 0.0)
        candidate.certificate = by_entries(candidate, source, asked=asked, norm=parts.norm, rng=_check.generator(rng))
        if best is None or candidate.certificate.upper_bound < best.certificate.upper_bound:
            best = candidate
        c = best.certificate
        if c.met or (cap is not None and best.max_rank >= cap) or candidate.nbytes > 2 * _dense_bytes(candidate):
            break
        rule, share = rule.finer(), 0.5 * share
    assert best is not None
    if not best.certificate.met and cap is None and is_small(source) and not isinstance(source, DeviceKernelSource):
        best = _from_all_entries(source, row_tree, col_tree, rtol, atol, symmetric) or best
    return _finished(best.generators, row_tree, col_tree, best.certificate, capped=cap is not None)


def _from_all_entries(
    source: EntrySource, row_tree: ClusterTree, col_tree: ClusterTree, rtol: float, atol: float, symmetric: bool
) -> HSSMatrix | None:
    """A small matrix that its samples have not shown: guaranteed. None where it takes more room than a dense array."""
    from .matrix import HSSMatrix

    dense = all_entries(source, symmetric=symmetric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the result, given to the user once
        result = HSSMatrix.from_dense(dense, (row_tree, col_tree), rtol=rtol, atol=atol, symmetric=symmetric)
    result.certificate = replace(result.certificate, entries=source.evaluated)
    return result if result.nbytes <= _dense_bytes(result) else None


def _dense_bytes(a: HSSMatrix) -> int:
    return a.shape[0] * a.shape[1] * a.dtype.itemsize


def _empty_basis(tree: ClusterTree, dtype: np.dtype[Any]) -> NestedBasis:
    arrays = tuple(
        np.zeros((2**level, tree.leaf_size if level == tree.depth else 0, 0), dtype=dtype)
        for level in range(1, tree.depth + 1)
    )
    return NestedBasis(arrays, tuple(np.zeros(2**level, dtype=np.int64) for level in range(1, tree.depth + 1)))


_PLACEHOLDER: Certificate = exact(0.0, 1.0, "not yet checked")


def _unchecked(g: Generators, row_tree: ClusterTree, col_tree: ClusterTree) -> HSSMatrix:
    from .matrix import HSSMatrix

    return HSSMatrix(g, row_tree, col_tree, _PLACEHOLDER)


def _finished(
    g: Generators, row_tree: ClusterTree, col_tree: ClusterTree, certificate: Certificate, *, capped: bool = False
) -> HSSMatrix:
    """The matrix, with the warnings that it deserves."""
    result = _unchecked(g, row_tree, col_tree)
    result.certificate = certificate
    remedy = "raise max_rank or the number of samples" if capped else "look at A.summary(): is there structure?"
    certificate.warn_if_not_met(remedy, stacklevel=5)
    if result.nbytes > 2 * _dense_bytes(result) and row_tree.depth >= 2:
        warnings.warn(
            f"the matrix has no HSS structure to speak of at this tolerance: {result.nbytes / 1e6:.3g} MB with ranks "
            f"up to {result.max_rank}, against {_dense_bytes(result) / 1e6:.3g} MB as a dense array; use a dense "
            "array, a larger rtol or another ordering (ClusterTree.from_points)",
            StructureWarning,
            stacklevel=4,
        )
    return result
