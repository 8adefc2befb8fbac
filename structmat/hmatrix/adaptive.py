"""Rank-adaptive refinement: the partition of an H-matrix from the matrix itself, at a global tolerance.

Reference: J. Mango, R. Katende, "Adaptive error-bounded hierarchical matrices for efficient neural network
compression", Algorithm 1: blocks whose error is too large are subdivided until all errors are small. Departures: the
tolerance is one for the whole matrix, shared out among the blocks, as the sum of local errors is not the error; a block
is subdivided, or its rank raised, or blocks are merged, by what costs fewer bytes (see `quadtree`); and the error of
the result is computed or estimated afresh and stated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sparse

from .. import _check
from .._inputs import TreeLike, _kernel_trees, _require_hermitian, _require_hermitian_entries, _shape_of
from .._typing import IntArray, NumpyArray, RandomLike
from ..base import StructuredMatrix
from ..certificate import Certificate
from ..certify import by_probes
from ..exceptions import ShapeError, SymmetryError
from ..flat.build import estimated_norm, near_blocks, squared_near_norm
from ..flat.certify import by_entries
from ..flat.constructors import Progress, _finished, _silent
from ..flat.entries import entry_values
from ..flat.matrix import FlatMatrix
from ..lowrank.compressor import DenseSource
from ..partition import BlockPartition, StrongAdmissibility, WeakAdmissibility
from ..sources import EntrySource, KernelSource, OperatorSource
from ..tree import ClusterTree, as_tree_pair
from .explore import Explorer
from .quadtree import Costs, Level, Plan, cheapest
from .record import RefinementRecord, Round, round_of
from .spectra import DenseQuadtree

# steps of the search for the price in the rounds before the last
ROUGH_STEPS = 16
# up to this many entries the error of the result is computed, beyond it is known from the singular values
COMPUTED_ENTRIES = 1 << 24


# attempts, each from the matrix of the one before, until the error estimated from fresh entries is small enough
ATTEMPTS = 5
# sources with no more entries are evaluated in full: the partition is then the best, and its error known
ALL_ENTRIES = 1 << 20
# operators with no more rows or columns are multiplied with the identity
ALL_PRODUCTS = 1 << 12
PRODUCTS_AT_ONCE = 256
# larger ones are built by peeling first: the parts of the tolerance of that, and of what is made of it
FIRST_SHARE, SECOND_SHARE, CHECK_PROBES = 0.2, 0.6, 20


@dataclass(frozen=True)
class Request:
    """What an adaptive build was asked for, checked."""

    rtol: float
    max_rank: int | None
    symmetric: bool
    dense_diagonal: bool
    progress: Progress
    rng: RandomLike = 0


# --------------------------------------------------------------------------------------- at the door


def adaptive(
    cls: Any, source: Any, tree: TreeLike, request: Request, *, points: Any, column_points: Any, leaf_size: int
) -> Any:
    """The adaptive H-matrix of any source; see `HMatrix.adaptive`."""
    if points is not None:
        rows = _check.points(points)
        cols = rows if column_points is None else _check.points(column_points, "column_points")
        entries = KernelSource(source, rows, cols)
        trees = _kernel_trees(tree, entries.row_points, entries.col_points, leaf_size, same=column_points is None)
        return _from_entry_source(cls, entries, trees, request)
    if _multiplies(source) and source.shape[1] > ALL_PRODUCTS:
        return _from_products(cls, source, as_tree_pair(tree, source.shape, leaf_size=leaf_size), request)
    known = entry_source(source, tree)
    if isinstance(known, np.ndarray):
        trees = as_tree_pair(tree, known.shape, leaf_size=leaf_size)
        return from_array(cls, known, trees, request, free_depth=tree is None)
    return _from_entry_source(cls, known, as_tree_pair(tree, known.shape, leaf_size=leaf_size), request)


def entry_source(source: Any, tree: TreeLike) -> EntrySource | NumpyArray:
    """A dense array, or something that answers with entries."""
    if isinstance(source, EntrySource):
        return source
    if isinstance(source, FlatMatrix):
        return _FlatSource(source)
    if isinstance(source, StructuredMatrix):
        return EntrySource(lambda i, j: source[i, j], source.shape, source.dtype)
    if sparse.issparse(source):
        given: Any = source
        rows = given.tocsr()
        return EntrySource(lambda i, j: rows[i][:, j].toarray(), rows.shape, _check.supported_dtype(rows.dtype))
    if _multiplies(source):
        return _multiplied(OperatorSource(source, symmetric=True))
    if callable(source):
        if tree is None:
            raise TypeError(
                "a function of entries needs a tree, which tells the size of the matrix (ClusterTree.balanced(n)); a "
                "kernel needs points="
            )
        return EntrySource(source, _shape_of(tree))
    return _check.matrix(source, "source")


class _FlatSource(EntrySource):
    """The entries of a matrix of independent blocks, many sub-blocks in one call."""

    batched = True

    def __init__(self, a: FlatMatrix) -> None:
        self.a = a
        super().__init__(lambda i, j: a[i, j], a.shape, a.dtype)

    def _batch(self, rows: IntArray, cols: IntArray) -> NumpyArray:
        i, j = np.broadcast_arrays(rows[:, :, None], cols[:, None, :])
        return entry_values(self.a, i.ravel(), j.ravel()).reshape(i.shape)

    def pairs(self, i: IntArray, j: IntArray) -> NumpyArray:
        """Single entries, all in one call."""
        self.evaluated += j.size
        rows, cols = np.broadcast_arrays(i, j)
        return entry_values(self.a, rows.ravel(), cols.ravel()).reshape(j.shape)


def _multiplies(source: Any) -> bool:
    """Whether products are all that there is."""
    explicit = isinstance(source, (np.ndarray, StructuredMatrix, EntrySource)) or sparse.issparse(source)
    return not explicit and (hasattr(source, "matvec") or hasattr(source, "matmat"))


def _from_products(cls: Any, op: Any, trees: tuple[ClusterTree, ClusterTree], request: Request) -> Any:
    """From the entries of a matrix that is built from products first; checked against the operator."""
    rng = _check.generator(request.rng)
    geometry = all(t.points is not None for t in trees)
    first = cls.from_operator(
        op, trees, rtol=FIRST_SHARE * request.rtol, symmetric=request.symmetric, rng=rng,
        admissibility=StrongAdmissibility() if geometry else WeakAdmissibility(),
    )  # fmt: skip
    entries: Any = entry_source(first, None)
    second = from_source(cls, entries, trees, replace(request, rtol=SECOND_SHARE * request.rtol, rng=rng))
    source = OperatorSource(op, symmetric=True)
    probes = rng.standard_normal((source.shape[1], CHECK_PROBES)).astype(source.dtype)
    certificate = by_probes(
        second, probes, source.matmat(probes), asked=request.rtol, norm=None,
        products=first.certificate.products + CHECK_PROBES,
    )  # fmt: skip
    second.certificate = replace(certificate, details=second.certificate.details)
    return _finished(second, second.certificate, request.max_rank)


def _multiplied(op: OperatorSource) -> NumpyArray:
    """All columns of an operator."""
    m, n = op.shape
    if n > ALL_PRODUCTS:
        raise ShapeError(
            f"the operator has {n} columns; above {ALL_PRODUCTS}, build a matrix from it first, and refine to its "
            "entries: A.refine(HMatrix.from_operator(op, tree, rtol=...), rtol)"
        )
    out = np.empty((m, n), dtype=op.dtype)
    for k in range(0, n, PRODUCTS_AT_ONCE):
        columns = np.zeros((n, min(PRODUCTS_AT_ONCE, n - k)), dtype=op.dtype)
        columns[np.arange(k, k + columns.shape[1]), np.arange(columns.shape[1])] = 1
        out[:, k : k + PRODUCTS_AT_ONCE] = op.matmat(columns)
    return out


def _from_entry_source(cls: Any, source: EntrySource, trees: tuple[ClusterTree, ClusterTree], request: Request) -> Any:
    m, n = source.shape
    if m * n <= ALL_ENTRIES:
        array = source.block(np.arange(m), np.arange(n))
        if request.symmetric and m == n:  # entries are evaluated with rounding errors that arrays are not forgiven
            _require_hermitian_entries(source, _check.generator(request.rng))
            array = (array + array.conj().T) / 2
        return from_array(cls, array, trees, request, free_depth=False)
    return from_source(cls, source, trees, request)


def refine(matrix: Any, source: Any, request: Request, *, points: Any) -> Any:
    """A better H-matrix from one that is there; see `HMatrix.refine`."""
    trees = matrix.row_tree, matrix.col_tree
    entries = KernelSource(source, *(_check.points(points),) * 2) if points is not None else entry_source(source, trees)
    known = DenseSource(entries) if isinstance(entries, np.ndarray) else entries
    if known.shape != matrix.shape:
        raise ShapeError(f"source has shape {known.shape}, but the matrix to refine has shape {matrix.shape}")
    if known.dtype != matrix.dtype:
        raise TypeError(
            f"source has entries of type {known.dtype}, the matrix {matrix.dtype}; use astype on one of them"
        )
    return from_source(type(matrix), known, trees, request, start=matrix)


# ------------------------------------------------------------------------------------ from an array


def from_array(
    cls: Any, array: NumpyArray, trees: tuple[ClusterTree, ClusterTree], request: Request, *, free_depth: bool
) -> Any:
    """The H-matrix of least storage for a dense array: each round allows smaller blocks, and is the best of its kind.

    With `free_depth` the trees may become shallower, where that saves padding.
    """
    if request.symmetric:
        _require_hermitian(array, *trees)
    norm, eps = float(np.linalg.norm(array)), float(np.finfo(array.dtype).eps)
    # the zero matrix is allowed something, so that prices stay finite
    allowed = max((max(request.rtol, 4 * eps) * norm) ** 2, 1e-200)
    quadtree = _quadtree(array, trees, request)
    levels = quadtree.levels(allowed, max_rank=request.max_rank, progress=request.progress or _silent)
    rounds = _rounds(levels, quadtree.costs(request.max_rank), allowed, norm)
    trees, plan = _final(levels, trees, quadtree.costs(request.max_rank), allowed, free_depth=free_depth)
    rounds.append(round_of(f"levels 0 to {trees[0].depth}", plan, norm))
    shallower = _quadtree(array, trees, request).with_tails_of(quadtree)
    blocks = shallower.build(plan, levels[: trees[0].depth + 1])
    record = RefinementRecord(rounds, request.rtol)
    result = cls(blocks, *trees, _certificate(request.rtol, float(np.sqrt(plan.error)), norm, eps, array.size, record))
    if array.size <= COMPUTED_ENTRIES:
        error = float(np.linalg.norm(result.to_dense() - array))
        result.certificate = _certificate(request.rtol, error, norm, eps, array.size, record)
    return _finished(result, result.certificate, request.max_rank)


def _quadtree(array: NumpyArray, trees: tuple[ClusterTree, ClusterTree], request: Request) -> DenseQuadtree:
    diagonal = request.dense_diagonal and trees[0] == trees[1]
    return DenseQuadtree(array, *trees, half=request.symmetric, dense_diagonal=diagonal)


def _rounds(levels: list[Level], costs: Costs, allowed: float, norm: float) -> list[Round]:
    """The best partitions without the blocks of the deepest levels, from the coarsest on."""
    return [
        round_of(f"levels 0 to {depth}", cheapest(levels[: depth + 1], costs, allowed, steps=ROUGH_STEPS), norm)
        for depth in range(len(levels) - 1)
    ]


def _final(
    levels: list[Level], trees: tuple[ClusterTree, ClusterTree], costs: Costs, allowed: float, *, free_depth: bool
) -> tuple[tuple[ClusterTree, ClusterTree], Plan]:
    """The cheapest plan, and its trees: shallower ones have less padding, but larger blocks at the least."""
    padded = any(t.is_padded for t in trees)
    best = trees, cheapest(levels, costs, allowed)
    for depth in range(trees[0].depth) if free_depth and padded else ():
        candidates = tuple(shallower(t, depth) for t in trees)
        its_costs = Costs(costs.itemsize, candidates[0].leaf_size, candidates[1].leaf_size, depth, costs.max_rank)
        plan = cheapest(levels[: depth + 1], its_costs, allowed)
        if plan.nbytes <= best[1].nbytes:
            best = (candidates[0], candidates[0] if trees[0] is trees[1] else candidates[1]), plan
    return best


def shallower(tree: ClusterTree, depth: int) -> ClusterTree:
    """The tree without its levels below `depth`."""
    return ClusterTree(tree.n, depth, tree.perm, tree.points)


# ---------------------------------------------------------------------------------- from entries


def from_source(
    cls: Any, source: EntrySource, trees: tuple[ClusterTree, ClusterTree], request: Request, *, start: Any = None
) -> Any:
    """Explore, plan, build and check; again from what there is, more tightly, until the check passes."""
    rng, half = _check.generator(request.rng), request.symmetric
    if half:
        if trees[0] != trees[1]:
            raise SymmetryError("symmetric=True needs one tree for rows and columns")
        _require_hermitian_entries(source, rng)
    norm = start.norm("fro") if start is not None else _estimated_norm(source, trees, rng)
    diagonal = request.dense_diagonal and trees[0] == trees[1]
    share, best, progress = 0.9, start, request.progress or _silent
    for attempt in range(ATTEMPTS):
        explorer = Explorer(source, trees, half=half, dense_diagonal=diagonal, rng=rng, start=best)
        allowed = max((share * max(request.rtol, 4 * np.finfo(source.dtype).eps) * norm) ** 2, 1e-200)
        blocks, rounds = _explored(explorer, allowed, norm, request.max_rank)
        candidate = cls(blocks, *trees, _certificate(request.rtol, 0.0, norm, 0.0, 0, RefinementRecord((), 0.0)))
        norm = candidate.norm("fro")
        candidate.certificate = _checked(candidate, source, request, norm, rng, RefinementRecord(rounds, request.rtol))
        best = candidate
        progress((1.0 if candidate.certificate.met else 0.5) / 2**attempt)
        if candidate.certificate.met or request.max_rank is not None:
            break
        # far beyond the tolerance, what a check of some block has missed is the reason, and another check the remedy
        share *= float(np.clip(0.9 * candidate.certificate.asked / candidate.certificate.upper_bound, 0.7, 0.9))
    return _finished(best, best.certificate, request.max_rank)


def _explored(explorer: Explorer, allowed: float, norm: float, max_rank: int | None) -> tuple[Any, list[Round]]:
    costs = explorer.costs(max_rank)
    explorer.down(allowed, costs)
    explorer.up(allowed, costs)
    levels = explorer.levels()
    rounds = _rounds(levels, costs, allowed, norm)
    plan = cheapest(levels, costs, allowed)
    rounds.append(round_of(f"levels 0 to {explorer.depth}", plan, norm))
    return explorer.build(plan), rounds


def _checked(
    a: Any, source: EntrySource, request: Request, norm: float, rng: np.random.Generator, record: RefinementRecord
) -> Certificate:
    """Against all entries where they are at hand, else against a sample."""
    if isinstance(source, DenseSource) and source.array.size <= COMPUTED_ENTRIES:
        error, size = float(np.linalg.norm(a.to_dense() - source.array)), float(np.linalg.norm(source.array))
        return _certificate(request.rtol, error, size, float(np.finfo(a.dtype).eps), source.array.size, record)
    certificate = by_entries(a, source, asked=request.rtol, norm=norm, rng=rng)
    return replace(certificate, details=record.to_details())


def _estimated_norm(source: EntrySource, trees: tuple[ClusterTree, ClusterTree], rng: np.random.Generator) -> float:
    """From the leaves on the diagonal and some entries of each block between siblings."""
    partition = BlockPartition.build(*trees, WeakAdmissibility())
    return estimated_norm(source, partition, squared_near_norm(near_blocks(source, partition), False), rng, False)


def _certificate(
    rtol: float, error: float, norm: float, eps: float, entries: int, record: RefinementRecord
) -> Certificate:
    bound = max(error / norm if norm > 0 else 0.0, eps)
    asked = max(rtol, 64 * eps)
    return Certificate(asked, bound, bound, 1.0, "computed", entries=entries, details=record.to_details())
