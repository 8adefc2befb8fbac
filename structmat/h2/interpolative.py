"""H2 from entries or from a kernel on points, by interpolative decomposition against samples of the far field.

Reference: D. Cai, H. Huang, E. Chow, Y. Xi, "Data-driven construction of hierarchical matrices with nested bases", SIAM
J. Sci. Comput. 46 (2024) S24-S50; X. Xing, E. Chow, "Interpolative decomposition via proxy points for kernel matrices",
SIAM J. Matrix Anal. Appl. 41 (2020) 221-243. Departures: each node has the rank that the tolerance of the whole matrix
asks of it, its share of the error being proportional to the number of its partners, as each of them stores the rank.

Cost O(n k^2) and O(n k) entries besides the near field; the dense matrix is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._backend import conj, like, parallel_ranges, parallel_tasks
from .._typing import Array, IntArray, NumpyArray
from ..blocks import BlockBatch, RaggedBasis, RaggedBatch
from ..engine import cpu_kernels, cpu_skeleton
from ..flat.fused import CompiledSource
from ..nested import NestedStorage
from ..partition import BlockPartition
from ..sources import EntrySource, KernelSource
from .farfield import Samples
from .sampled import FarField, SampledFarField, SeenFarField
from .structure import warn_if_not_compressed

# bytes of samples held at a time by sources without a compiled form
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Rule:
    """How the bases are chosen.

    Attributes
    ----------
    far_field : FarField
        By what a node knows its far field.
    share : float
        Of the tolerance, for the truncation.
    """

    far_field: FarField
    share: float

    @classmethod
    def for_tolerance(cls, rtol: float, dim: int, far_field: FarField | None = None) -> Rule:
        """What suffices for kernels that are smooth away from the diagonal; a failed check asks for a finer rule."""
        chosen = (far_field or SampledFarField()).resolved(rtol, dim)
        return cls(chosen, chosen.share(dim))

    def finer(self, excess: float, *, starved: bool) -> Rule:
        """The rule to try where the error was `excess` times what was asked."""
        more = 4 if starved or excess > 3.0 else 2
        return Rule(self.far_field.finer(more), self.share * float(np.clip(0.9 / excess, 0.2, 0.8)))


@dataclass(frozen=True)
class Skeletons:
    """The skeletons of all nodes of one level: positions in the order of the tree, one node after another."""

    positions: IntArray
    pointers: IntArray  # (2**level + 1,)


class Side:
    """One of the two bases: of the rows of A, or (adjointly) of its columns."""

    def __init__(
        self, source: EntrySource, compiled: CompiledSource | None, partition: BlockPartition, *, adjointly: bool
    ) -> None:
        self.source, self.compiled, self.adjointly = source, compiled, adjointly
        self.partition = partition.transposed() if adjointly else partition
        self.tree, self.other = self.partition.row_tree, self.partition.col_tree
        depth = self.tree.depth
        self.skeletons = {depth + 1: Skeletons(np.arange(self.tree.n), self._bounds(depth))}
        self.ranks: list[IntArray] = []
        self.levels: list[Any] = []
        self.orders: list[IntArray] = []
        self.starved = False

    def _bounds(self, level: int) -> IntArray:
        return np.append(self.tree.starts(level), self.tree.n)

    def candidates(self, level: int) -> Skeletons:
        """What the skeletons of a level are chosen from: the points of a leaf, or the skeletons of the children."""
        below = self.skeletons[level + 1]
        return Skeletons(below.positions, below.pointers if level == self.tree.depth else below.pointers[::2])

    def compress(self, level: int, seen: SeenFarField, tails: NumpyArray, max_rank: int | None) -> None:
        """Choose the skeletons of one level, and how its other candidates are interpolated from them."""
        rows = self.candidates(level)
        counts = np.diff(rows.pointers)
        # a skeleton row stands for many rows of the node
        tails = tails * np.sqrt(np.maximum(counts, 1) / self.tree.sizes(level))
        samples = seen.samples(level, rows, tails)
        widths = np.diff(samples.pointers)
        caps = np.minimum(counts, widths if max_rank is None else np.minimum(widths, max_rank))
        found = self._factored(rows, samples, tails, caps)
        self.keep(level, rows, found, caps)
        limited = (found.ranks >= counts) | (caps < np.minimum(counts, widths))
        self.starved |= bool((seen.starved(found.ranks, widths) & ~limited).any())

    def keep(self, level: int, rows: Skeletons, found: Factored, caps: IntArray) -> None:
        """Add a level: its skeletons, and the interpolation of its other candidates."""
        counts, ranks = np.diff(rows.pointers), found.ranks
        leaves = level == self.tree.depth
        self._interpolate(found, rows, caps, np.full(len(counts), self.tree.leaf_size) if leaves else counts)
        node = np.repeat(np.arange(len(ranks)), ranks)
        place = np.arange(len(node)) - np.repeat(np.cumsum(ranks) - ranks, ranks)
        chosen = rows.pointers[node] + found.order[rows.pointers[node] + place]
        self.skeletons[level] = Skeletons(rows.positions[chosen], np.append(0, np.cumsum(ranks)))
        self.ranks.append(ranks)

    def _factored(self, rows: Skeletons, samples: Samples, tails: NumpyArray, caps: IntArray) -> Factored:
        nodes, counts = len(caps), np.diff(rows.pointers)
        factor_pointers = np.append(0, np.cumsum(counts * caps))
        found = Factored(
            np.zeros(nodes, dtype=np.int64), np.zeros(nodes), np.empty(rows.pointers[-1], dtype=np.int64),
            np.empty(factor_pointers[-1], dtype=self.source.dtype), factor_pointers,
        )  # fmt: skip
        noise = 8.0 * float(np.finfo(self.source.dtype).eps)
        results = caps, found.ranks, found.left, found.order, found.factor, factor_pointers
        if self.compiled is not None:
            c = self.compiled
            x, y = (c.y, c.x) if self.adjointly else (c.x, c.y)
            y = y if samples.points is None else np.ascontiguousarray(samples.points.T)
            step = max(1, nodes // 64)

            def work(k: int) -> None:
                cpu_skeleton.skeletons(
                    c.code, c.parameters, x, y, self.adjointly, rows.positions, rows.pointers, samples.positions,
                    samples.pointers, samples.weights, tails, noise, *results, k * step, min(nodes, (k + 1) * step),
                )  # fmt: skip

            parallel_tasks(work, -(-nodes // step))
            self.source.evaluated += int((counts * np.diff(samples.pointers)).sum())
            return found
        widths = np.diff(samples.pointers)
        step = max(1, CHUNK_BYTES // max(1, int(counts.max()) * int(widths.max()) * self.source.dtype.itemsize))
        for first in range(0, nodes, step):
            last = min(nodes, first + step)
            blocks = self._blocks(rows, samples, first, last)
            shifted = [rows.pointers[first:], widths[first:], tails[first:], noise, caps[first:], found.ranks[first:]]
            rest = [found.left[first:], found.order, found.factor, factor_pointers[first:]]
            parallel_ranges(partial(cpu_skeleton.skeletons_of_blocks, blocks, *shifted, *rest), last - first)
        return found

    def _blocks(self, rows: Skeletons, samples: Samples, first: int, last: int) -> Array:
        """The weighted samples of some nodes, (last - first, candidates, samples)."""
        nodes = np.arange(first, last)
        return self.weighted(padded_lists(rows.positions, rows.pointers, nodes), samples, nodes)

    def weighted(self, mine: IntArray, samples: Samples, nodes: IntArray) -> Array:
        """A, or A^H, times the weights, between positions (nb, p) and the samples of `nodes`, (nb, p, s); -1 pads."""
        rows = np.where(mine >= 0, self.tree.perm[mine], -1)
        far = padded_lists(samples.positions, samples.pointers, nodes)
        if not (mine.size and far.size):
            return self.source.zeros((*mine.shape, far.shape[1]))
        if samples.points is None:
            block = self.between(rows, np.where(far >= 0, self.other.perm[far], -1))
        else:
            block = self.against(rows, far, samples.points)
        block *= like(padded_lists(samples.weights, samples.pointers, nodes, fill=0.0)[:, None, :], block)
        return block

    def between(self, mine: IntArray, other: IntArray) -> Array:
        """Blocks of A, or of A^H, at indices (nb, p) of this side and (nb, q) of the other; -1 pads."""
        if not self.adjointly:
            return self.source.blocks(mine, other)
        return conj(self.source.blocks(other, mine, turned=True))

    def against(self, mine: IntArray, proxies: IntArray, points: NumpyArray) -> Array:
        """Blocks of the kernel, or of its adjoint, between indices (nb, p) of this side and some of `points`."""
        assert isinstance(self.source, KernelSource)
        block = self.source.against(mine, proxies, points, adjointly=self.adjointly)
        return conj(block) if self.adjointly else block

    def _interpolate(self, found: Factored, rows: Skeletons, caps: IntArray, heights: IntArray) -> None:
        counts, ranks = np.diff(rows.pointers), found.ranks
        sizes = ranks * (heights - ranks)
        pointers = np.append(0, np.cumsum(sizes))
        rest = (np.zeros if (heights > counts).any() else np.empty)(pointers[-1], dtype=self.source.dtype)
        parallel_ranges(
            lambda a, b: cpu_skeleton.interpolations(
                found.order, rows.pointers, found.factor, found.factor_pointers, caps, ranks, heights, rest, pointers,
                a, b,
            ),
            len(ranks),
        )  # fmt: skip
        first = np.cumsum(heights) - heights
        order: IntArray = np.empty(int(heights.sum()), dtype=np.int32)
        node = np.repeat(np.arange(len(heights)), heights)
        place = np.arange(len(node)) - first[node]
        inside = place < counts[node]
        order[inside] = found.order
        order[~inside] = place[~inside]
        self.levels.append(rest)
        self.orders.append(order)

    def basis(self) -> RaggedBasis:
        """The nested basis, when all levels are compressed."""
        return RaggedBasis(
            tuple(self.levels[::-1]), tuple(self.ranks[::-1]), self.tree.leaf_size, tuple(self.orders[::-1])
        )


@dataclass(frozen=True)
class Factored:
    """Row-pivoted factors of the samples of all nodes of a level."""

    ranks: IntArray
    left: NumpyArray  # squared norms of what was left
    order: IntArray  # candidates of each node, skeletons first
    factor: NumpyArray  # (candidates, cap) flat for each node
    factor_pointers: IntArray


def padded_lists(values: Any, pointers: IntArray, nodes: IntArray | None = None, fill: Any = -1) -> NumpyArray:
    """The values of some nodes (default: all) as rows of one array, filled up at their ends."""
    chosen = np.arange(len(pointers) - 1) if nodes is None else nodes
    counts = np.diff(pointers)[chosen]
    place = np.arange(int(counts.max(initial=0)))
    inside = place < counts[:, None]
    out = np.full(inside.shape, fill, dtype=values.dtype)
    out[inside] = values[(pointers[chosen][:, None] + place)[inside]]
    return out


def build(
    source: EntrySource, compiled: CompiledSource | None, partition: BlockPartition, *, allowed: float,
    max_rank: int | None, symmetric: bool, rule: Rule, on_the_fly: bool, progress: Any, near: BlockBatch | None,
) -> tuple[NestedStorage, bool]:  # fmt: skip
    """The matrix with an absolute error of about `allowed`; and whether some nodes had too few samples.

    `near` are the dense blocks, where they have been evaluated already.
    """
    depth = partition.depth
    one_basis = symmetric or (compiled is not None and compiled.mirrored) or is_transposed(source, partition)
    sides = [Side(source, compiled, partition, adjointly=turn) for turn in ((False,) if one_basis else (False, True))]
    for side in sides:
        seen = rule.far_field.seen_from(side)
        shares = tail_shares(side.partition)
        for level in range(depth, 0, -1):
            tails = rule.share * allowed * np.sqrt(0.5 * shares[level])
            side.compress(level, seen, tails, max_rank)
            progress(1.0 / (depth * len(sides)))
    stored = partition.lower() if symmetric else partition
    warn_if_not_compressed(stored, sides[0].ranks[::-1], sides[-1].ranks[::-1], source.dtype.itemsize)
    assemble = partial(_assembled, source, compiled, stored, sides, symmetric, near)
    storage = _evaluated(compiled, stored, sides, symmetric, assemble) if on_the_fly and compiled else assemble()
    return storage, any(side.starved for side in sides)


def _evaluated(
    compiled: CompiledSource, stored: BlockPartition, sides: list[Side], symmetric: bool, rebuild: Any
) -> NestedStorage:
    """Bases and skeletons: all that a product needs which evaluates the kernel."""
    from .on_the_fly import KernelStorage

    kept = sides if symmetric or len(sides) == 2 else [sides[0], sides[0]]
    skeletons = [[s.skeletons[level].positions for level in range(1, stored.depth + 1)] for s in kept]
    return KernelStorage(compiled, stored, [s.basis() for s in kept], skeletons, half=symmetric, rebuild=rebuild)


def is_transposed(source: EntrySource, partition: BlockPartition) -> bool:
    """Whether the matrix is known to be equal to its transpose, on one set of points."""
    return (
        isinstance(source, KernelSource)
        and source.row_points is source.col_points
        and bool(getattr(source.kernel, "complex_symmetric", False))
        and partition.is_symmetric
    )


def tail_shares(partition: BlockPartition) -> list[NumpyArray]:
    """For each level the share of each node in the squared error of its side, (2**level,).

    A rank of a node costs a row of each of its couplings: the least storage comes from shares in proportion to that.
    """
    costs = [np.bincount(far[:, 0], minlength=1 << level) + 1.0 for level, far in enumerate(partition.far)]
    total = sum(float(c.sum()) for c in costs)
    return [c / total for c in costs]


def _assembled(
    source: EntrySource, compiled: CompiledSource | None, stored: BlockPartition, sides: list[Side], symmetric: bool,
    evaluated: BlockBatch | None,
) -> NestedStorage:  # fmt: skip
    """Bases, near field and couplings, in one buffer."""
    rows, cols = sides[0], sides[-1]
    bases = [s.basis() for s in sides]
    counts = [(rows.ranks[::-1][level - 1][far[:, 0]], cols.ranks[::-1][level - 1][far[:, 1]])
              for level, far in enumerate(stored.far) if level]  # fmt: skip
    p, q = stored.row_tree.leaf_size, stored.col_tree.leaf_size
    near_places = stored.near[stored.depth]
    # one set of points and A = A^T: the columns' basis is the conjugate of the rows'
    kept = bases if symmetric or len(bases) == 2 else [bases[0], bases[0].conj()]
    sizes = [a.size for b in kept for a in b.levels] + [len(near_places) * p * q]
    sizes += [int((h * w).sum()) for h, w in counts]
    buffer = np.empty(sum(sizes), dtype=source.dtype)
    ends = np.cumsum(sizes)
    parts = [buffer[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    filled = []
    for basis in kept:
        views = [parts.pop(0) for _ in basis.levels]
        for view, a in zip(views, basis.levels, strict=True):
            view[:] = a
        filled.append(RaggedBasis(tuple(views), basis.ranks, basis.leaf_size, basis.orders))
    data = parts.pop(0).reshape(-1, p, q)
    if evaluated is None:
        near = near_field(source, compiled, stored, data)
    else:
        data[...] = evaluated.data
        near = BlockBatch(data, evaluated.rows, evaluated.cols)
    couplings = []
    for level, (heights, widths) in enumerate(counts, start=1):
        far = stored.far[level]
        batch = RaggedBatch(parts.pop(0), far[:, 0].copy(), far[:, 1].copy(), heights, widths)
        _fill_couplings(source, compiled, batch, rows, cols, level)
        couplings.append(batch)
    return NestedStorage(near, tuple(couplings), filled[0], filled[-1], half=symmetric, buffer=buffer)


def near_field(
    source: EntrySource, compiled: CompiledSource | None, stored: BlockPartition, data: NumpyArray
) -> BlockBatch:
    """The dense blocks between leaves, written to `data`."""
    places = stored.near[stored.depth]
    rows, cols = places[:, 0].copy(), places[:, 1].copy()
    if compiled is None:
        from ..flat.build import padded_indices

        i, j = (padded_indices(t, t.depth) for t in (stored.row_tree, stored.col_tree))
        step = max(1, CHUNK_BYTES // max(1, data[:1].nbytes))
        for k in range(0, len(rows), step):
            data[k : k + step] = source.blocks(i[rows[k : k + step]], j[cols[k : k + step]])
        return BlockBatch(data, rows, cols)
    c, where = compiled, np.arange(len(rows))
    bounds = [np.append(t.starts(t.depth), t.n) for t in (stored.row_tree, stored.col_tree)]
    step = max(1, len(rows) // 64)

    def work(k: int) -> None:
        cpu_kernels.kernel_blocks(
            c.code, c.parameters, c.x, c.y, rows, cols, *bounds, stored.row_tree.leaf_size, stored.col_tree.leaf_size,
            where, data, k * step, min(len(rows), (k + 1) * step),
        )  # fmt: skip

    parallel_tasks(work, -(-len(rows) // step))
    source.evaluated += data.size
    return BlockBatch(data, rows, cols)


def _fill_couplings(
    source: EntrySource, compiled: CompiledSource | None, batch: RaggedBatch, rows: Side, cols: Side, level: int
) -> None:
    """The entries of A between the skeletons of the two nodes of each block, written to the data of the batch."""
    mine, other = rows.skeletons[level], cols.skeletons[level]
    starts, count = batch.starts, len(batch)
    if compiled is not None:
        c, step = compiled, max(1, count // 64)

        def work(k: int) -> None:
            cpu_skeleton.kernel_between(
                c.code, c.parameters, c.x, c.y, mine.positions, mine.pointers, other.positions, other.pointers,
                batch.rows, batch.cols, starts, batch.data, k * step, min(count, (k + 1) * step),
            )  # fmt: skip

        parallel_tasks(work, -(-count // step))
        source.evaluated += len(batch.data)
        return
    left, right = (padded_lists(s.tree.perm[k.positions], k.pointers)
                   for s, k in ((rows, mine), (cols, other)))  # fmt: skip
    size = left.shape[1] * right.shape[1] * source.dtype.itemsize
    step = max(1, CHUNK_BYTES // max(1, size))
    i, j = np.arange(left.shape[1])[:, None], np.arange(right.shape[1])
    for k in range(0, count, step):
        part = slice(k, k + step)
        block = source.blocks(left[batch.rows[part]], right[batch.cols[part]])
        inside = (i < batch.heights[part, None, None]) & (j < batch.widths[part, None, None])
        batch.data[starts[k] : starts[min(count, k + step)]] = block[inside]
