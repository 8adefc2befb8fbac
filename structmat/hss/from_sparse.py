"""HSS from a sparse matrix, exactly: unit vectors are a nested basis.

A row of node t counts outside t only if it has a nonzero there. Such a row counts for each descendant of t
that holds it too, so the unit vectors at these rows are nested row bases (columns alike), transfers pick
rows, and couplings are the sparse blocks between siblings at these rows and columns. Reference for ranks of
sparse matrices across cuts: S. Chandrasekaran, P. Dewilde, M. Gu, N. Somasunderam, "On the numerical rank of
the off-diagonal blocks of Schur complements of discretized elliptic PDEs", SIAM J. Matrix Anal. Appl. 31
(2010) 2261-2290.

Unit vectors are many where a row or a column is long (a border, a constraint, an arrow), although it has rank
one: such lines are taken out first and kept as a low-rank matrix. Cost O(nnz + n k^2), memory O(nnz + n k).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import NestedBasis
from ..tree import ClusterTree
from . import arithmetic
from .generators import Generators

# lines are taken out only where unit vectors would make bases wider than this
WIDE = 32
# lines with fewer nonzeros than this are never taken out
SHORTEST_LINE = 16


@dataclass(frozen=True)
class Entries:
    """The nonzeros, each place once, at sorted positions."""

    rows: IntArray  # (nnz,)
    cols: IntArray  # (nnz,)
    values: NumpyArray  # (nnz,)

    def where(self, mask: NumpyArray) -> Entries:
        """Some of the nonzeros."""
        return Entries(self.rows[mask], self.cols[mask], self.values[mask])


class UnitVectors:
    """For each level the unit vectors of one side: their positions, and the place of each in its node."""

    def __init__(self, tree: ClusterTree, positions: IntArray, levels: IntArray) -> None:
        """`levels`: for the nonzero at each of `positions` the level on which its row and column part."""
        self.tree = tree
        self.leaf = leaf_of_positions(tree)
        first = np.full(tree.n, tree.depth + 1)  # the highest level on which each position counts
        np.minimum.at(first, positions, levels)
        active = np.flatnonzero(first <= tree.depth)
        self.active: list[IntArray] = []
        self.local: list[IntArray] = []  # for each of `active`, its place in the basis of its node
        self.counts: list[IntArray] = []
        for level in range(tree.depth, 0, -1):
            active = active[first[active] <= level]
            node = self.leaf[active] >> (tree.depth - level)
            counts = np.bincount(node, minlength=2**level)
            self.active.append(active)
            self.local.append(np.arange(len(active)) - (np.cumsum(counts) - counts)[node])
            self.counts.append(counts)
        for lists in (self.active, self.local, self.counts):
            lists.reverse()

    def width(self, level: int) -> int:
        """The largest number of unit vectors of a node of the level."""
        return int(self.counts[level - 1].max(initial=0))

    def numbers(self) -> int:
        """How many numbers the bases take."""
        depth = self.tree.depth
        heights = [2 * self.width(level + 1) for level in range(1, depth)] + [self.tree.leaf_size]
        return sum(2**level * heights[level - 1] * self.width(level) for level in range(1, depth + 1))

    def place(self, level: int, positions: IntArray) -> IntArray:
        """The place in its node's basis of each position, all of which count on this level."""
        active = self.active[level - 1]
        return self.local[level - 1][np.searchsorted(active, positions)]

    def basis(self, dtype: np.dtype[Any]) -> NestedBasis:
        """The unit vectors as a nested basis."""
        depth, arrays = self.tree.depth, []
        for level in range(1, depth + 1):
            active, local = self.active[level - 1], self.local[level - 1]
            leaf = self.leaf[active]
            if level == depth:
                height, below = self.tree.leaf_size, active - self.tree.starts(depth)[leaf]
            else:
                child = (leaf >> (depth - level - 1)) & 1
                height = 2 * self.width(level + 1)
                below = child * self.width(level + 1) + self.place(level + 1, active)
            array = np.zeros((2**level, height, self.width(level)), dtype=dtype)
            array[leaf >> (depth - level), below, local] = 1
            arrays.append(array)
        return NestedBasis(tuple(arrays), tuple(self.counts))


def leaf_of_positions(tree: ClusterTree) -> IntArray:
    """The leaf of each sorted position, (n,)."""
    return np.repeat(np.arange(tree.leaf_count), tree.sizes(tree.depth))


def _parting_levels(entries: Entries, row_tree: ClusterTree, col_tree: ClusterTree) -> IntArray:
    """For each nonzero the level on which its row and column are in siblings; depth + 1 in a leaf."""
    apart = leaf_of_positions(row_tree)[entries.rows] ^ leaf_of_positions(col_tree)[entries.cols]
    return row_tree.depth + 1 - np.frexp(apart.astype(np.float64))[1].astype(np.int64)  # frexp: the bit length


def build(s: Any, row_tree: ClusterTree, col_tree: ClusterTree, *, symmetric: bool) -> Generators:
    """The generators of a sparse matrix in coordinate form (duplicates summed), without truncation."""
    entries = Entries(row_tree.inverse_perm[s.row], col_tree.inverse_perm[s.col], s.data)
    lines, kept = taken_out(entries, row_tree, col_tree, symmetric, _parting_levels)
    g = _unit_generators(kept, row_tree, col_tree, symmetric)
    return g if lines is None else arithmetic.add(g, _line_generators(*lines, symmetric))


def unit_numbers(s: Any, row_tree: ClusterTree, col_tree: ClusterTree) -> int:
    """How many numbers the bases of unit vectors take: a measure of how well the trees suit the matrix."""
    entries = Entries(row_tree.inverse_perm[s.row], col_tree.inverse_perm[s.col], s.data)
    levels = _parting_levels(entries, row_tree, col_tree)
    return UnitVectors(row_tree, entries.rows, levels).numbers() + UnitVectors(col_tree, entries.cols, levels).numbers()


def _unit_generators(entries: Entries, row_tree: ClusterTree, col_tree: ClusterTree, symmetric: bool) -> Generators:
    depth, dtype = row_tree.depth, entries.values.dtype
    levels = _parting_levels(entries, row_tree, col_tree)
    rows = UnitVectors(row_tree, entries.rows, levels)
    cols = rows if symmetric else UnitVectors(col_tree, entries.cols, levels)
    couplings = []
    for level in range(1, depth + 1):
        here = entries.where(levels == level)
        node = rows.leaf[here.rows] >> (depth - level)
        if symmetric:
            here, node = here.where(node % 2 == 0), node[node % 2 == 0] // 2
        count = 2 ** (level - int(symmetric))
        b = np.zeros((count, rows.width(level), cols.width(level)), dtype=dtype)
        b[node, rows.place(level, here.rows), cols.place(level, here.cols)] = here.values
        couplings.append(b)
    inside = entries.where(levels == depth + 1)
    leaf = rows.leaf[inside.rows]
    diagonal = np.zeros((row_tree.leaf_count, row_tree.leaf_size, col_tree.leaf_size), dtype=dtype)
    diagonal[leaf, inside.rows - row_tree.starts(depth)[leaf], inside.cols - col_tree.starts(depth)[leaf]] = (
        inside.values
    )
    row_basis = rows.basis(dtype)
    return Generators(diagonal, row_basis, row_basis if symmetric else cols.basis(dtype), tuple(couplings), symmetric)


# ------------------------------------------------------------------------------------ long lines


# for each nonzero the level of its low-rank block, depth + 1 in a dense one
LevelsOf = Callable[[Entries, ClusterTree, ClusterTree], IntArray]


def taken_out(
    entries: Entries, row_tree: ClusterTree, col_tree: ClusterTree, symmetric: bool, levels_of: LevelsOf
) -> tuple[tuple[NumpyArray, NumpyArray] | None, Entries]:
    """The long lines as factors (leaves, size, r) of a low-rank matrix U V^H, or None, and the other nonzeros.

    Those longer than the bound that makes for the fewest numbers. In a Hermitian matrix V is U with the two halves of
    its columns exchanged.
    """
    none = np.zeros(0, dtype=np.int64)
    best, best_cost = (none, none), _cost(entries, row_tree, col_tree, symmetric, none, none, levels_of)
    if best_cost == 0:
        return None, entries
    row_lengths = np.bincount(entries.rows, minlength=row_tree.n)
    col_lengths = np.bincount(entries.cols, minlength=col_tree.n)
    bound = int(max(row_lengths.max(), col_lengths.max())) // 2
    while bound >= SHORTEST_LINE:
        rows = np.flatnonzero(row_lengths > bound)
        cols = rows if symmetric else np.flatnonzero(col_lengths > bound)
        cost = _cost(entries, row_tree, col_tree, symmetric, rows, cols, levels_of)
        if cost < best_cost:
            best, best_cost = (rows, cols), cost
        bound //= 4
    if len(best[0]) + len(best[1]) == 0:
        return None, entries
    kept, lines = _split(entries, *best, symmetric)
    return _line_factors(lines, *best, row_tree, col_tree), kept


def _cost(
    entries: Entries, row_tree: ClusterTree, col_tree: ClusterTree, symmetric: bool, long_rows: IntArray,
    long_cols: IntArray, levels_of: LevelsOf,
) -> int:  # fmt: skip
    """How many numbers the generators take; 0 where unit vectors alone make narrow bases."""
    kept, _ = _split(entries, long_rows, long_cols, symmetric)
    levels = levels_of(kept, row_tree, col_tree)
    sides = (UnitVectors(row_tree, kept.rows, levels), UnitVectors(col_tree, kept.cols, levels))
    added = len(long_rows) + len(long_cols)
    if added == 0 and all(side.width(level) <= WIDE for side in sides for level in range(1, row_tree.depth + 1)):
        return 0
    lines = added * sum(side.tree.n + 4 * side.tree.leaf_count * added for side in sides)
    return sum(side.numbers() for side in sides) + lines


def _split(
    entries: Entries, long_rows: IntArray, long_cols: IntArray, symmetric: bool
) -> tuple[Entries, tuple[Entries, Entries]]:
    """What stays, and the entries of the long rows and of the long columns.

    What a long row and a long column share belongs to the row; in a Hermitian matrix it stays, so that the
    two mirror.
    """
    in_row, in_col = np.isin(entries.rows, long_rows), np.isin(entries.cols, long_cols)
    if symmetric:
        in_row, in_col = in_row & ~in_col, in_col & ~in_row
    else:
        in_col = in_col & ~in_row
    return entries.where(~in_row & ~in_col), (entries.where(in_row), entries.where(in_col))


def _line_factors(
    lines: tuple[Entries, Entries], long_rows: IntArray, long_cols: IntArray, row_tree: ClusterTree,
    col_tree: ClusterTree,
) -> tuple[NumpyArray, NumpyArray]:  # fmt: skip
    """The leaf blocks of U and V with U V^H the long lines: [unit vectors, columns] [rows, unit vectors]^H."""
    in_rows, in_cols = lines
    dtype, split = in_rows.values.dtype, len(long_rows)
    u = np.zeros((row_tree.n, split + len(long_cols)), dtype=dtype)  # at sorted positions
    v = np.zeros((col_tree.n, split + len(long_cols)), dtype=dtype)
    u[long_rows, np.arange(split)] = 1
    v[in_rows.cols, np.searchsorted(long_rows, in_rows.rows)] = in_rows.values.conj()
    u[in_cols.rows, split + np.searchsorted(long_cols, in_cols.cols)] = in_cols.values
    v[long_cols, split + np.arange(len(long_cols))] = 1
    return _sorted_to_leaves(row_tree, u), _sorted_to_leaves(col_tree, v)


def exchange(width: int, dtype: Any) -> NumpyArray:
    """The matrix that exchanges two halves of `width` columns: U V^H = U exchange U^H for Hermitian lines."""
    return np.roll(np.eye(width, dtype=dtype), width // 2, axis=0)


def _line_generators(left: NumpyArray, right: NumpyArray, symmetric: bool) -> Generators:
    g = arithmetic.low_rank(left, right)
    if not symmetric:
        return g
    middle = exchange(left.shape[2], left.dtype)
    couplings = tuple(np.repeat(middle[None], 2 ** (level - 1), axis=0) for level in range(1, g.depth + 1))
    return Generators(g.diagonal, g.row_basis, g.row_basis, couplings, True)


def _sorted_to_leaves(tree: ClusterTree, x: NumpyArray) -> NumpyArray:
    """Like `tree.to_leaves`, for rows that are sorted already."""
    return np.asarray(ClusterTree(tree.n, tree.depth).to_leaves(x))
