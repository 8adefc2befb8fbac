"""Exact matrices with random numbers in their format, and their dense twins written out node by node."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, NestedBasis, RaggedBasis, RaggedBatch
from ..certificate import exact
from ..flat.storage import FlatBlocks, by_rank
from ..h2.blocks import H2Blocks
from ..h2.matrix import H2Matrix
from ..hss.generators import Generators
from ..hss.matrix import HSSMatrix
from ..partition import BlockPartition
from ..tree import ClusterTree


def random_hss(
    rng: np.random.Generator,
    tree: ClusterTree,
    rank: int,
    dtype: Any = np.float64,
    symmetric: bool = False,
    *,
    col_tree: ClusterTree | None = None,
    ragged: bool = True,
    shift: float = 0.0,
) -> tuple[HSSMatrix, NumpyArray]:
    """An HSS matrix with random generators and the dense array that it equals to rounding.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all numbers.
    tree : ClusterTree
        Of the rows; of the columns too unless `col_tree` is given.
    rank : int
        Largest rank of a basis.
    dtype : dtype
        float32, float64, complex64 or complex128.
    symmetric : bool
        Hermitian, stored half.
    col_tree : ClusterTree, optional
        Of equal depth.
    ragged : bool
        Draw a rank from 0 to `rank` for each node, else all are as large as they can be.
    shift : float
        Added to the diagonal; at a few times sqrt(n) the matrix is well conditioned (and positive definite if
        symmetric).

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> A, dense = sm.testing.random_hss(np.random.default_rng(0), sm.ClusterTree.balanced(50, 7), 3)
    >>> bool(np.allclose(A.to_dense(), dense))
    True
    """
    kind = np.dtype(dtype)
    columns = tree if col_tree is None else col_tree
    rows = _random_basis(rng, tree, rank, kind, ragged)
    cols = rows if symmetric else _random_basis(rng, columns, rank, kind, ragged)
    couplings = tuple(
        _numbers(rng, (2 ** (level - int(symmetric)), rows.width(level), cols.width(level)), kind)
        for level in range(1, tree.depth + 1)
    )
    diagonal = _numbers(rng, (tree.leaf_count, tree.leaf_size, columns.leaf_size), kind)
    diagonal *= _used(tree)[:, :, None] & _used(columns)[:, None, :]
    if symmetric:
        diagonal = 0.5 * (diagonal + diagonal.conj().swapaxes(1, 2))
    if shift:
        slot = np.arange(min(tree.leaf_size, columns.leaf_size))
        diagonal[:, slot, slot] += shift * (_used(tree)[:, slot] & _used(columns)[:, slot])
    generators = Generators(diagonal.astype(kind), rows, cols, couplings, symmetric)
    matrix = HSSMatrix(generators, tree, columns, exact(0.0, float(np.finfo(kind).eps)))
    return matrix, dense_twin(generators, tree, columns)


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.kind == "c" else x).astype(dtype)


def _used(tree: ClusterTree) -> NumpyArray:
    """Which slots of the padded leaves hold an index, (leaves, size)."""
    return np.arange(tree.leaf_size) < tree.sizes(tree.depth)[:, None]


def _random_basis(
    rng: np.random.Generator, tree: ClusterTree, rank: int, dtype: np.dtype[Any], ragged: bool
) -> NestedBasis:
    arrays: list[NumpyArray] = []
    ranks: list[IntArray] = []
    available = tree.sizes(tree.depth)  # rows that are not padding
    used = _used(tree)
    for level in range(tree.depth, 0, -1):
        most = np.minimum(available, rank)
        here = rng.integers(0, most + 1) if ragged else most
        columns = np.arange(int(here.max(initial=0))) < here[:, None]
        shape = (2**level, used.shape[1], columns.shape[1])
        scale = 1.0 / np.sqrt(np.maximum(available, 1))[:, None, None]  # columns of norm about one
        arrays.append((_numbers(rng, shape, dtype) * scale * (used[:, :, None] & columns[:, None, :])).astype(dtype))
        ranks.append(here.astype(np.int64))
        available = here.reshape(-1, 2).sum(axis=1)
        used = columns.reshape(len(available), -1)
    return NestedBasis(tuple(arrays[::-1]), tuple(ranks[::-1]))


def dense_twin(g: Generators, row_tree: ClusterTree, col_tree: ClusterTree) -> NumpyArray:
    """The dense array of generators, assembled block by block in the user's ordering."""
    g = g.expanded()
    out = np.zeros((row_tree.n, col_tree.n), dtype=np.result_type(g.diagonal, np.float64))
    for leaf in range(row_tree.leaf_count):
        i, j = row_tree.indices(g.depth, leaf), col_tree.indices(g.depth, leaf)
        out[np.ix_(i, j)] = g.diagonal[leaf, : len(i), : len(j)]
    for level in range(1, g.depth + 1):
        for node in range(2**level):
            i, j = row_tree.indices(level, node), col_tree.indices(level, node ^ 1)
            u, v = (
                _written_out(g.row_basis, row_tree, level, node),
                _written_out(g.col_basis, col_tree, level, node ^ 1),
            )
            out[np.ix_(i, j)] = u @ g.couplings[level - 1][node] @ v.conj().T
    return out.astype(g.diagonal.dtype)


def _written_out(basis: NestedBasis, tree: ClusterTree, level: int, node: int) -> NumpyArray:
    """The basis of one node over its indices, in double precision."""
    own = basis[level][node].astype(np.result_type(basis[level], np.float64))
    if level == basis.depth:
        return own[: int(tree.sizes(level)[node])]
    k = len(own) // 2
    children = [_written_out(basis, tree, level + 1, 2 * node + side) for side in (0, 1)]
    return np.concatenate([children[0] @ own[:k], children[1] @ own[k:]])


# ---------------------------------------------------------------------------------------------------- H2


def random_h2(
    rng: np.random.Generator,
    tree: ClusterTree,
    rank: int,
    dtype: Any = np.float64,
    symmetric: bool = False,
    *,
    col_tree: ClusterTree | None = None,
    partition: BlockPartition | None = None,
    ragged: bool = True,
    shift: float = 0.0,
) -> tuple[H2Matrix, NumpyArray]:
    """An H2-matrix with random bases and couplings and the dense array that it equals to rounding.

    Parameters
    ----------
    rng, tree, rank, dtype, symmetric, col_tree, ragged, shift
        As in `random_hss`.
    partition : BlockPartition, optional
        Which blocks have low rank; default `StrongAdmissibility(eta=2.0)`.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> A, dense = sm.testing.random_h2(np.random.default_rng(0), sm.ClusterTree.balanced(50, 4), 3)
    >>> bool(np.allclose(A.to_dense(), dense)), A.max_rank
    (True, 3)
    """
    kind = np.dtype(dtype)
    columns = tree if col_tree is None else col_tree
    chosen = H2Matrix._partition((tree, columns), None, partition)
    stored = chosen.lower() if symmetric else chosen
    rows = _random_basis(rng, tree, rank, kind, ragged)
    cols = rows if symmetric else _random_basis(rng, columns, rank, kind, ragged)
    couplings = tuple(
        _random_couplings(rng, stored.far[level], rows.ranks[level - 1], cols.ranks[level - 1], kind, symmetric)
        for level in range(1, tree.depth + 1)
    )
    used = _used(tree), _used(columns)
    near = _random_dense(rng, stored.near[tree.depth], used, kind, symmetric, shift)
    bases = RaggedBasis.of(rows), RaggedBasis.of(cols)
    blocks = H2Blocks(near, couplings, bases[0], bases[0] if symmetric else bases[1], symmetric)
    out = np.zeros((tree.n, columns.n), dtype=np.result_type(kind, np.float64))
    for block, i, j in zip(near.data, near.rows, near.cols, strict=True):
        _write(out, block, (tree, columns), used, tree.depth, int(i), int(j), symmetric)
    for level, batch in enumerate(couplings, start=1):
        for block, i, j in zip(
            batch.padded(rows.width(level), cols.width(level)).data, batch.rows, batch.cols, strict=True
        ):
            u, v = _written_out(rows, tree, level, int(i)), _written_out(cols, columns, level, int(j))
            _fill(out, u @ block @ v.conj().T, (tree, columns), level, int(i), int(j), symmetric)
    return H2Matrix(blocks, tree, columns, exact(0.0, float(np.finfo(kind).eps))), out.astype(kind)


def _random_couplings(
    rng: np.random.Generator, places: IntArray, row_ranks: IntArray, col_ranks: IntArray, dtype: np.dtype[Any],
    symmetric: bool,
) -> RaggedBatch:  # fmt: skip
    rows, cols = places[:, 0].copy(), places[:, 1].copy()
    heights, widths = row_ranks[rows], col_ranks[cols]
    batch = RaggedBatch(_numbers(rng, (int((heights * widths).sum()),), dtype), rows, cols, heights, widths)
    for b in np.flatnonzero(rows == cols) if symmetric else ():  # blocks on the diagonal are Hermitian
        block = batch.data[batch.starts[b] : batch.starts[b + 1]].reshape(heights[b], widths[b])
        block[:] = 0.5 * (block + block.conj().T)
    return batch


# ------------------------------------------------------------------------------------------ HODLR and H


def random_flat(
    rng: np.random.Generator,
    format: Any,
    tree: ClusterTree,
    rank: int,
    dtype: Any = np.float64,
    symmetric: bool = False,
    *,
    col_tree: ClusterTree | None = None,
    partition: BlockPartition | None = None,
    ragged: bool = True,
    shift: float = 0.0,
) -> tuple[Any, NumpyArray]:
    """A HODLR or H-matrix with random blocks and the dense array that it equals to rounding.

    Parameters
    ----------
    rng, tree, rank, dtype, symmetric, col_tree, shift
        As in `random_hss`.
    format : type
        `HODLRMatrix` or `HMatrix`.
    partition : BlockPartition, optional
        Which blocks have low rank; default: the format's admissibility.
    ragged : bool
        Draw a rank from 0 to `rank` for each block, else all are as large as they can be.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> tree = sm.ClusterTree.balanced(50, 7)
    >>> A, dense = sm.testing.random_flat(np.random.default_rng(0), sm.HODLRMatrix, tree, 3)
    >>> bool(np.allclose(A.to_dense(), dense))
    True
    """
    kind = np.dtype(dtype)
    columns = tree if col_tree is None else col_tree
    chosen = partition or BlockPartition.build(tree, columns, format.default_admissibility)
    chosen = chosen.lower() if symmetric else chosen
    out = np.zeros((tree.n, columns.n), dtype=np.result_type(kind, np.float64))
    near, far = [], []
    for level in range(tree.depth + 1):
        used = _used_by_level(tree, level), _used_by_level(columns, level)
        left, right, ranks, rows, cols = _random_factors(rng, chosen.far[level], used, rank, kind, ragged, symmetric)
        far.append(tuple(by_rank(left, right, ranks, rows, cols)))
        for b in range(len(rows)):
            block = left[b].astype(out.dtype) @ right[b].astype(out.dtype).conj().T
            _write(out, block, (tree, columns), used, level, int(rows[b]), int(cols[b]), symmetric)
        near.append(_random_dense(rng, chosen.near[level], used, kind, symmetric, shift))
        for block, i, j in zip(near[-1].data, near[-1].rows, near[-1].cols, strict=True):
            _write(out, block, (tree, columns), used, level, int(i), int(j), symmetric)
    blocks = FlatBlocks(tuple(near), tuple(far), symmetric)
    matrix = format(blocks, tree, columns, exact(0.0, float(np.finfo(kind).eps)))
    return matrix, out.astype(kind)


def _used_by_level(tree: ClusterTree, level: int) -> NumpyArray:
    """Which slots of the padded nodes of a level hold an index, (2**level, size)."""
    return _used(tree).reshape(1 << level, -1)


def _random_factors(
    rng: np.random.Generator, places: IntArray, used: tuple[NumpyArray, NumpyArray], rank: int, dtype: np.dtype[Any],
    ragged: bool, symmetric: bool,
) -> tuple[NumpyArray, NumpyArray, IntArray, IntArray, IntArray]:  # fmt: skip
    rows, cols = places[:, 0].copy(), places[:, 1].copy()
    most = np.minimum(np.minimum(used[0][rows].sum(axis=1), used[1][cols].sum(axis=1)), rank)
    ranks = rng.integers(0, most + 1) if ragged else most
    columns = np.arange(int(ranks.max(initial=0))) < ranks[:, None]
    factors = []
    for mask in (used[0][rows], used[1][cols]):
        scale = 1.0 / np.sqrt(np.maximum(mask.sum(axis=1), 1))[:, None, None] ** 0.5
        numbers = _numbers(rng, (*mask.shape, columns.shape[1]), dtype)
        factors.append((numbers * scale * (mask[:, :, None] & columns[:, None, :])).astype(dtype))
    if symmetric:  # blocks on the diagonal are Hermitian
        factors[1] = np.where((rows == cols)[:, None, None], factors[0], factors[1])
    return factors[0], factors[1], ranks.astype(np.int64), rows, cols


def _random_dense(
    rng: np.random.Generator, places: IntArray, used: tuple[NumpyArray, NumpyArray], dtype: np.dtype[Any],
    symmetric: bool, shift: float,
) -> BlockBatch:  # fmt: skip
    rows, cols = places[:, 0].copy(), places[:, 1].copy()
    mask = used[0][rows][:, :, None] & used[1][cols][:, None, :]
    data = _numbers(rng, mask.shape, dtype) * mask
    here = np.flatnonzero(rows == cols)
    if symmetric:
        data[here] = 0.5 * (data[here] + data[here].conj().swapaxes(1, 2))
    slot = np.arange(min(mask.shape[1:]))
    data[here[:, None], slot, slot] += shift * mask[here[:, None], slot, slot]
    return BlockBatch(data.astype(dtype), rows, cols)


def _write(
    out: NumpyArray, block: NumpyArray, trees: tuple[ClusterTree, ClusterTree], used: tuple[NumpyArray, NumpyArray],
    level: int, i: int, j: int, symmetric: bool,
) -> None:  # fmt: skip
    _fill(out, block[used[0][i]][:, used[1][j]], trees, level, i, j, symmetric)


def _fill(
    out: NumpyArray, block: NumpyArray, trees: tuple[ClusterTree, ClusterTree], level: int, i: int, j: int,
    symmetric: bool,
) -> None:  # fmt: skip
    rows, cols = trees[0].indices(level, i), trees[1].indices(level, j)
    out[np.ix_(rows, cols)] = block
    if symmetric and i != j:
        out[np.ix_(cols, rows)] = out[np.ix_(rows, cols)].conj().T
