"""Recompression of an H2-matrix: orthogonalise the bases, then truncate them against what they are used for.

Reference: S. Boerm, "Efficient Numerical Methods for Non-local Operators", EMS 2010, chapter 6; W. Boukaram, G.
Turkiyyah, D. Keyes, "Hierarchical matrix operations on GPUs: matrix-vector multiplication and compression", ACM Trans.
Math. Softw. 45 (2019). Bases are made orthonormal from the leaves up; weights that stand for a node's whole block row
(column) go down the tree; singular value decompositions of the weighted bases go up again. Departures: what a level
does not need of the allowed error the levels above it get, and within a level the error is spent where it saves most.

The error is known, up to rounding. Let P_t be the orthogonal projection onto the new basis of t, written out over its
indices. Truncation replaces each admissible block A_ts by P_t A_ts Q_s. For one side, A_ts - P_t A_ts is a sum over the
levels from the leaves to t of what is cut there: the part of a level lies in the range of the new bases of the level
below, at right angles to those of the level itself, so that parts of different levels are orthogonal. What is cut at a
node r is seen by the columns of its own partners and of those of its ancestors, which are disjoint: together they are
the block row of r, U_r Z_r W^H with orthonormal columns of W, and so the sum over all blocks of the squares of what r
loses is that of the squares of the singular values of the weighted basis that are cut off. Over both sides,
A - P A Q = (A - P A) + P (A - A Q), orthogonal again, and the second part is at most ||A - A Q||. So the square of the
error is at most the sum over the nodes of both trees of the squares of the values cut off. In Hermitian storage one
basis is cut for both sides: the sum counts twice.

Cost O(k^3) for each coupling and each node: O(n k^2) for leaves of about k indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import (
    adjoint,
    cast,
    conj,
    is_numpy,
    like,
    namespace,
    numpy_dtype,
    one_blas_thread,
    squared_norms,
    to_numpy,
    transpose,
    zeros_beside,
)
from .._typing import Array, IntArray, NumpyArray
from ..blocks import RaggedBasis, RaggedBatch
from ..engine import dense
from .blocks import H2Blocks
from .ragged import Ragged, copy, groups, joined, level_of, multiply, qr_of_transposes, transfers

# what is smaller than this many units of rounding of what was summed is rounding
NOISE = 8.0
# units of rounding that orthogonal transformations may add to the error, relative to the matrix
ROUNDING = 16.0


@dataclass(frozen=True)
class Orthogonal:
    """An H2-matrix with orthonormal bases."""

    blocks: H2Blocks
    noise: tuple[NumpyArray, ...]  # for each level the square of what rounding may have made of each coupling


@dataclass(frozen=True)
class Truncated:
    """A recompressed H2-matrix, and what is known of it; all norms are those of the whole matrix."""

    blocks: H2Blocks
    error: float  # bound of the Frobenius norm of what was left out
    size: float  # Frobenius norm of the matrix before
    rounding: float  # the error that rounding may have made besides: much where sums cancel


def orthogonalize(blocks: H2Blocks) -> Orthogonal:
    """The same matrix with orthonormal bases."""
    rows, left = _orthonormal(blocks.row_basis)
    cols, right = (rows, left) if blocks.half else _orthonormal(blocks.col_basis)
    couplings, noise = [], []
    for b, r, s in zip(blocks.couplings, left, right, strict=True):
        couplings.append(sandwiched(b, r, s))
        noise.append(_rounding(b, r, s))
    return Orthogonal(H2Blocks(blocks.near, tuple(couplings), rows, cols, blocks.half), tuple(noise))


def _orthonormal(basis: RaggedBasis) -> tuple[RaggedBasis, list[Ragged]]:
    """The orthonormal basis and, for each level from 1, the factors R with old = new R."""
    basis = basis.full()
    levels: list[NumpyArray] = []
    factors: list[Ragged] = []
    for level in range(basis.depth, 0, -1):
        current = level_of(basis, level) if not factors else moved_up(basis, level, factors[-1])
        q, r = qr_of_transposes(current)
        levels.append(q.data)
        factors.append(r)
    ranks = tuple(r.heights for r in factors[::-1])
    return RaggedBasis(tuple(levels[::-1]), ranks, basis.leaf_size), factors[::-1]


def moved_up(basis: RaggedBasis, level: int, below: Ragged) -> Ragged:
    """The transposes of the transfers of both children of a node, each with the map of the child before it."""
    return joined(multiply(transfers(basis, level + 1), below, transpose=True))


def sandwiched(b: RaggedBatch, left: Ragged, right: Ragged) -> RaggedBatch:
    """The couplings L_t B_ts R_s^H for maps L and R by node."""
    middle, rows, cols = Ragged.of(b), np.asarray(b.rows), np.asarray(b.cols)
    out = Ragged.zeros(left.heights[rows], right.heights[cols], left.data, b.data, right.data)
    taller, wider = np.maximum(out.heights, b.heights), np.maximum(b.widths, out.widths)
    for members, _sizes in groups(taller, wider):
        p, k, m, q = (int(s[members].max()) for s in (out.heights, b.heights, b.widths, out.widths))
        if p * k * m * q:
            half = dense.matmul(left.padded(rows[members], p, k), middle.padded(members, k, m))
            out.put(members, dense.matmul(half, adjoint(right.padded(cols[members], q, m))))
    return RaggedBatch(out.data, b.rows, b.cols, out.heights, out.widths)


def _rounding(b: RaggedBatch, left: Ragged, right: Ragged) -> NumpyArray:
    """What rounding may have made of each coupling, squared: that of the terms before they were summed."""
    middle, total = Ragged.of(b), np.zeros(len(b))
    lengths = [_column_squares(f) for f in (left, right)]
    for members, (k, m) in groups(b.heights, b.widths):
        squares = cast(abs(middle.padded(members, k, m)), np.dtype(np.float64)) ** 2
        rows, cols = (
            like(f[nodes[members], :width, None], b.data)
            for f, nodes, width in zip(lengths, (b.rows, b.cols), (k, m), strict=True)
        )
        products = dense.matmul(squares[:, : rows.shape[1], : cols.shape[1]], cols) * rows
        total[members] = to_numpy(namespace(products).sum(products, axis=(1, 2)))
    return (NOISE * float(np.finfo(numpy_dtype(b.data)).eps)) ** 2 * total


def _column_squares(a: Ragged) -> NumpyArray:
    """The squared norms of the columns of each matrix, (count, largest width), zeros beyond."""
    widest = int(a.widths.max(initial=0))
    out = np.zeros((len(a), widest))
    for members, (p, q) in groups(a.heights, a.widths):
        part = to_numpy(squared_norms(a.padded(members, p, q), axis=1))
        out[members, : min(q, widest)] = part[:, :widest]
    return out


def squared_norm(blocks: H2Blocks) -> float:
    """||A||_F^2 for orthonormal bases: that of the near field and of the couplings."""
    total = _both_halves(_squares(blocks.near.data), blocks.near.rows, blocks.near.cols, blocks.half)
    for b in blocks.couplings:
        total += _both_halves(Ragged.of(b).squares(), b.rows, b.cols, blocks.half)
    return total


def _squares(data: Array) -> NumpyArray:
    if not is_numpy(data):
        return to_numpy(squared_norms(data, axis=(1, 2)))
    return np.einsum("bpq,bpq->b", data, conj(data), optimize=True).real.astype(np.float64)


def _both_halves(values: NumpyArray, rows: IntArray, cols: IntArray, half: bool) -> float:
    return float(values.sum() + (values[rows != cols].sum() if half else 0.0))


# ---------------------------------------------------------------------------------------- truncation


def truncate(blocks: H2Blocks, *, rtol: float, atol: float = 0.0, max_rank: int | None = None) -> Truncated:
    """Ranks as small as the tolerance allows; values that are rounding of what was summed are left out in any case."""
    with one_blas_thread():
        return _truncated(orthogonalize(blocks), rtol, atol, max_rank)


def _truncated(found: Orthogonal, rtol: float, atol: float, max_rank: int | None) -> Truncated:
    o, noise = found.blocks, found.noise
    size = float(np.sqrt(squared_norm(o)))
    lost = sum(_both_halves(v, b.rows, b.cols, o.half) for v, b in zip(noise, o.couplings, strict=True))
    rounding = max(float(np.sqrt(lost)), ROUNDING * float(np.finfo(numpy_dtype(o.near.data)).eps) * size)
    allowed = max(rtol * size, atol)
    allowed = min(allowed, max(allowed, 2.0 * rounding) - rounding)  # with rounding, no more than what is asked
    square = 0.5 * allowed**2  # for rows and columns each, also where one basis is both
    sides = [(o.row_basis, Partners.of_rows(o, noise))]
    sides += [] if o.half else [(o.col_basis, Partners.of_columns(o, noise))]
    cuts = [_cut(basis, partners, square, max_rank) for basis, partners in sides]
    (rows, left, _), (cols, right, _) = cuts[0], cuts[-1]
    couplings = tuple(sandwiched(b, p, q) for b, p, q in zip(o.couplings, left, right, strict=True))
    error = float(np.sqrt(cuts[0][2] + cuts[-1][2]))
    return Truncated(H2Blocks(o.near, couplings, rows, cols, o.half), error, size, rounding)


@dataclass(frozen=True)
class Partners:
    """One level after another, what the nodes of one side are coupled to; the lists are sorted by node."""

    couplings: tuple[Ragged, ...]
    block: tuple[IntArray, ...]  # which coupling each entry is
    node: tuple[IntArray, ...]
    turned: tuple[NumpyArray, ...]  # whether the node's row of blocks has the adjoint of the coupling
    noise: tuple[NumpyArray, ...]  # of each entry

    @classmethod
    def of_rows(cls, blocks: H2Blocks, noise: tuple[NumpyArray, ...]) -> Partners:
        """The block rows of A, those that stand for their adjoints included."""
        return cls._of(blocks, noise, columns=False)

    @classmethod
    def of_columns(cls, blocks: H2Blocks, noise: tuple[NumpyArray, ...]) -> Partners:
        """The block rows of A^H."""
        return cls._of(blocks, noise, columns=True)

    @classmethod
    def _of(cls, blocks: H2Blocks, noise: tuple[NumpyArray, ...], *, columns: bool) -> Partners:
        lists: list[tuple[NumpyArray, ...]] = []
        for b, v in zip(blocks.couplings, noise, strict=True):
            mirrored = np.flatnonzero(b.rows != b.cols) if blocks.half else np.zeros(0, dtype=np.int64)
            block = np.concatenate([np.arange(len(b)), mirrored])
            node = np.concatenate([b.cols if columns else b.rows, b.cols[mirrored]])
            turned = np.concatenate([np.full(len(b), columns), np.ones(len(mirrored), dtype=bool)])
            order = np.argsort(node, kind="stable")
            lists.append((block[order], node[order], turned[order], v[block[order]]))
        fields = zip(*lists, strict=True) if lists else ((), (), (), ())
        return cls(tuple(Ragged.of(b) for b in blocks.couplings), *(tuple(f) for f in fields))

    def widths(self, level: int) -> IntArray:
        """The rank of the partner of each entry."""
        b, block = self.couplings[level - 1], self.block[level - 1]
        return np.where(self.turned[level - 1], b.heights[block], b.widths[block])

    def costs(self, basis: RaggedBasis, level: int) -> IntArray:
        """How many numbers a rank takes at each node of a level: a column of its basis, a row of its couplings."""
        numbers = np.bincount(self.node[level - 1], self.widths(level), minlength=1 << level)
        above = np.repeat(basis.ranks[level - 2], 2) if level > 1 else np.zeros(1 << level, dtype=np.int64)
        return np.maximum(1, numbers.astype(np.int64) + basis.heights(level) + above)


def weights(basis: RaggedBasis, partners: Partners) -> tuple[list[Ragged], list[NumpyArray]]:
    """For each level, from 1, factors W with block row t = U_t W_t^H (orthonormal rows), for orthonormal bases.

    Each (m, k) with m <= k; and the square of what rounding may have made of each.
    """
    factors: list[Ragged] = []
    rounding: list[NumpyArray] = []
    for level in range(1, basis.depth + 1):
        ranks, nodes = basis.ranks[level - 1], 1 << level
        noise = np.zeros(nodes)
        np.add.at(noise, partners.node[level - 1], partners.noise[level - 1])
        above = Ragged.zeros(np.zeros(nodes, dtype=np.int64), ranks, basis.levels[0])
        if level > 1:
            down, parent = transfers(basis, level), np.arange(nodes) // 2
            above = multiply(factors[-1], down, conjugate=True, a_index=parent)
            shares = down.squares()
            both = np.repeat(shares.reshape(-1, 2).sum(axis=1), 2)
            noise = noise + rounding[-1][parent] * shares / np.where(both > 0, both, 1.0)
        factors.append(_triangular(partners, level, ranks, above))
        rounding.append(noise)
    return factors, rounding


def _triangular(partners: Partners, level: int, ranks: IntArray, above: Ragged) -> Ragged:
    """R of the QR factorisation of the adjoint of each node's block row: of its couplings and of `above`."""
    b, block, node = partners.couplings[level - 1], partners.block[level - 1], partners.node[level - 1]
    widths, turned = partners.widths(level), partners.turned[level - 1]
    pointers = np.searchsorted(node, np.arange(len(ranks) + 1))
    ends = np.append(0, np.cumsum(widths))
    offsets = ends[:-1] - ends[pointers[node]] if len(node) else ends[:-1]  # the rows of each entry in its node
    own = ends[pointers[1:]] - ends[pointers[:-1]]
    heights = own + above.heights
    out = Ragged.zeros(np.minimum(heights, ranks), ranks, b.data)
    slot = np.full(len(ranks), -1)
    for members, (p, k) in groups(heights, ranks):
        if p * k == 0:
            continue
        stack = zeros_beside((len(members), p, k), b.data)
        slot[members] = np.arange(len(members))
        entries = np.flatnonzero(slot[node] >= 0)
        for flag in (False, True):
            e = entries[turned[entries] == flag]
            at, to = b.starts[block[e]], slot[node[e]] * (p * k) + offsets[e] * k
            columns = at, b.widths[block[e]], to, k, b.heights[block[e]], b.widths[block[e]]
            copy(b.data, stack, columns, adjointly=not flag)
        to = np.arange(len(members)) * (p * k) + own[members] * k
        copy(
            above.data, stack,
            (above.starts[members], above.widths[members], to, k, above.heights[members], above.widths[members]),
        )  # fmt: skip
        out.put(members, dense.triangular_factor(stack))
        slot[members] = -1
    return out


def _cut(
    basis: RaggedBasis, partners: Partners, allowed: float, max_rank: int | None
) -> tuple[RaggedBasis, list[Ragged], float]:
    """The truncated basis, for each level the maps from old to new coefficients, and the squared error.

    allowed: the squared error.
    """
    factors, rounding = weights(basis, partners)
    costs = [partners.costs(basis, level) for level in range(1, basis.depth + 1)]
    levels: list[NumpyArray] = []
    maps: list[Ragged] = []
    square = 0.0
    for level in range(basis.depth, 0, -1):
        leaf, weight = level == basis.depth, factors[level - 1]
        # the leaf bases are orthonormal: their coefficients suffice
        current = None if leaf else moved_up(basis, level, maps[-1])
        vectors, values = _left_singular(weight, current)
        share = costs[level - 1].sum() / sum(int(c.sum()) for c in costs[:level])
        ranks = chosen_ranks(values, costs[level - 1], rounding[level - 1], share * (allowed - square), max_rank)
        square += float((values**2)[np.arange(values.shape[1]) >= ranks[:, None]].sum())
        x = _first_rows(vectors, ranks)
        maps.append(_conjugated(x) if current is None else multiply(_conjugated(x), current, transpose=True))
        levels.append(multiply(x, level_of(basis, level)).data if leaf else x.data)
    ranks_by_level = tuple(m.heights for m in maps[::-1])
    return RaggedBasis(tuple(levels[::-1]), ranks_by_level, basis.leaf_size), maps[::-1], square


def _left_singular(weight: Ragged, current: Ragged | None) -> tuple[Ragged, NumpyArray]:
    """Left singular vectors, transposed, (r, p), and values (nodes, largest r) of the matrices C W^H.

    C is given by its transposes (k, p); the identity where there is none.
    """
    heights = weight.widths if current is None else current.widths
    small = np.minimum(heights, weight.heights)
    vectors = Ragged.zeros(small, heights, weight.data)
    values = np.zeros((len(weight), int(small.max(initial=0))))
    for members, (m, k, p) in groups(weight.heights, weight.widths, heights):
        if m * k * p == 0:
            continue
        product = adjoint(weight.padded(members, m, k))
        if current is not None:
            product = dense.matmul(transpose(current.padded(members, k, p)), product)
        u, s = dense.left_singular(product)
        vectors.put(members, transpose(u))
        wide = min(s.shape[1], values.shape[1])
        values[members, :wide] = s[:, :wide]
    return vectors, np.where(np.arange(values.shape[1]) < small[:, None], values, 0.0)


def chosen_ranks(
    values: NumpyArray, costs: IntArray, noise: NumpyArray, allowed: float, max_rank: int | None
) -> IntArray:
    """The ranks of the nodes of a level: without rounding, and such that the squared error is at most `allowed`.

    values: (nodes, k) falling singular values; costs: (nodes,) the numbers that a rank takes; noise: (nodes,) squares.
    """
    squares = values**2
    tails = np.cumsum(squares[:, ::-1], axis=1)[:, ::-1]
    ranks = (tails > noise[:, None]).sum(axis=1)
    real = np.arange(values.shape[1]) < ranks[:, None]
    budget = allowed - float(squares[~real].sum())
    if budget > 0.0 and real.any():
        owner = np.nonzero(real)[0]
        order = np.argsort((squares / costs[:, None])[real], kind="stable")
        spent = np.cumsum(squares[real][order])
        dropped = owner[order[: int((spent <= budget).sum())]]
        ranks = ranks - np.bincount(dropped, minlength=len(ranks))
    return ranks if max_rank is None else np.minimum(ranks, max_rank)


def _first_rows(a: Ragged, counts: IntArray) -> Ragged:
    """The first rows of each matrix."""
    out = Ragged.zeros(counts, a.widths, a.data)
    copy(a.data, out.data, (a.starts[:-1], a.widths, out.starts[:-1], a.widths, counts, a.widths))
    return out


def _conjugated(a: Ragged) -> Ragged:
    return Ragged(conj(a.data), a.heights, a.widths)
