"""The quadtree of a matrix that is known by its entries: crosses from the root down, merges from the leaves up.

A block is tried by cross approximation with few crosses. Where these do not do, it is divided, and its children are
tried. Where they do, its children follow from its factors without any entry, and are kept where they are smaller
together. From the leaves up, four low-rank blocks are merged where that is smaller. A matrix that is there already
gives the tree and the first crosses, so that only what is not good enough yet is worked on.

Reference: L. Grasedyck, "Adaptive recompression of H-matrices for BEM", Computing 74 (2005) 205-223, for the merges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine import dense
from ..flat.build import padded_indices
from ..flat.storage import FlatBlocks, by_rank, merged
from ..lowrank.aca import ACCEPTED, RESTARTS, _Search
from ..lowrank.recompress import recompress
from ..sources import EntrySource
from ..tree import ClusterTree
from .quadtree import Costs, Level, Plan
from .spectra import quarters

if TYPE_CHECKING:
    from ..flat.matrix import FlatMatrix

# crosses that a block is tried with; more are found by merging
CROSSES = 40
# the part of the squared error allowed that the crosses may leave, and that merging and dividing may drop
CROSS_SHARE, DROP_SHARE = 0.25, 1e-3
# children of blocks of no larger rank are never smaller together
SMALLEST_RANK = 2
CHUNK_NUMBERS = 1 << 22


@dataclass
class Nodes:
    """The blocks of one level: places, parents, first children (-1: none), factors, data, squared errors of factors."""

    places: list[tuple[int, int]] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    left: list[NumpyArray | None] = field(default_factory=list)
    right: list[NumpyArray | None] = field(default_factory=list)
    data: list[NumpyArray | None] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)

    def add(self, place: Any, parent: int) -> int:
        """Append a block of which nothing is known; its index."""
        self.places.append((int(place[0]), int(place[1])))
        self.parents.append(parent)
        self.children.append(-1)
        for known in (self.left, self.right, self.data):
            known.append(None)
        self.rest.append(np.inf)
        return len(self.places) - 1

    def set_factors(self, node: int, left: NumpyArray, right: NumpyArray, rank: int, rest: float) -> None:
        """The low-rank form: left with orthonormal columns, right scaled by falling singular values."""
        self.left[node], self.right[node] = left[:, :rank].copy(), right[:, :rank].copy()
        self.rest[node] = rest

    def rank(self, node: int) -> int:
        """The rank of a block that has a low-rank form."""
        left = self.left[node]
        return 0 if left is None else int(left.shape[1])

    def stacked(self, nodes: Any) -> tuple[NumpyArray, NumpyArray, IntArray]:
        """The factors of some blocks, padded with zero columns, and their ranks."""
        ranks = np.array([self.rank(b) for b in nodes], dtype=np.int64)
        first: Any = self.left[nodes[0]], self.right[nodes[0]]
        out = tuple(np.zeros((len(nodes), f.shape[0], max(1, ranks.max())), f.dtype) for f in first)
        for k, b in enumerate(nodes):
            out[0][k, :, : ranks[k]], out[1][k, :, : ranks[k]] = self.left[b], self.right[b]
        return out[0], out[1], ranks


class Explorer:
    """The quadtree of a source of entries, as far as it has been explored.

    Parameters
    ----------
    source : EntrySource
    trees : pair of ClusterTree
    half, dense_diagonal : bool
        Blocks above the diagonal are left out; blocks on it have no low-rank form.
    start : FlatMatrix, optional
        A matrix to improve.
    """

    def __init__(
        self, source: EntrySource, trees: tuple[ClusterTree, ClusterTree], *, half: bool, dense_diagonal: bool,
        rng: np.random.Generator, start: FlatMatrix | None = None,
    ) -> None:  # fmt: skip
        self.source, self.trees, self.rng = source, trees, rng
        self.half, self.dense_diagonal = half, dense_diagonal
        self.depth = trees[0].depth
        self.nodes = [Nodes() for _ in range(self.depth + 1)]
        self.indices = [tuple(padded_indices(t, level) for t in trees) for level in range(self.depth + 1)]
        self.nodes[0].add((0, 0), 0)
        if start is not None:
            self._plant(start)

    def costs(self, max_rank: int | None) -> Costs:
        """What blocks cost in storage."""
        rows, cols = self.trees
        return Costs(self.source.dtype.itemsize, rows.leaf_size, cols.leaf_size, self.depth, max_rank)

    def _share(self, level: int) -> float:
        return 0.25**level

    def _divide(self, level: int, node: int) -> int:
        """Give a block its children; the first one."""
        here, below = self.nodes[level], self.nodes[level + 1]
        places, _ = quarters(np.array([here.places[node]]), self.half)
        here.children[node] = len(below.places)
        for place in places:
            below.add(place, node)
        return here.children[node]

    # -------------------------------------------------------------------------------- from a matrix

    def _plant(self, start: FlatMatrix) -> None:
        """The tree and the factors of a matrix on the same trees."""
        blocks = start.blocks
        found: list[dict[tuple[int, int], tuple[Any, ...]]] = []
        for near, far in zip(blocks.near, blocks.far, strict=True):
            here: dict[tuple[int, int], tuple[Any, ...]] = {}
            for k in range(len(near)):
                here[int(near.rows[k]), int(near.cols[k])] = (near.data[k],)
            for batch in far:
                for k in range(len(batch)):
                    here[int(batch.rows[k]), int(batch.cols[k])] = (batch.left[k], batch.right[k])
            found.append(here)
        for level, nodes in enumerate(self.nodes):
            for node, place in enumerate(nodes.places):
                known = found[level].get(place)
                if known is None:
                    if nodes.data[node] is None:
                        self._divide(level, node)
                elif len(known) == 2:
                    # leaves are so small that they are evaluated in full
                    if level < self.depth:
                        nodes.left[node], nodes.right[node] = known
                else:
                    nodes.data[node] = known[0]
                if nodes.data[node] is not None and level < self.depth:
                    self._pass_down(level, node)

    def _pass_down(self, level: int, node: int) -> None:
        """Give the children of a dense block their quarters of it."""
        data: Any = self.nodes[level].data[node]
        first, below = self._divide(level, node), self.nodes[level + 1]
        p, q = (size // 2 for size in data.shape)
        while first < len(below.places):
            i, j = (place % 2 for place in below.places[first])
            below.data[first] = data[i * p : (i + 1) * p, j * q : (j + 1) * q]
            first += 1
        self.nodes[level].data[node] = None

    # ------------------------------------------------------------------------------ from the root down

    def down(self, allowed: float, costs: Costs) -> None:
        """Try, divide and try again."""
        for level in range(self.depth):
            here = self.nodes[level]
            # factors that have an error to go with them come from those of a larger block
            waiting = [
                b
                for b in range(len(here.places))
                if here.children[b] < 0 and np.isinf(here.rest[b]) and not self._on_diagonal(level, b)
            ]
            for part in self._chunks(level, waiting):
                self._try(level, part, allowed)
            good = [b for b in range(len(here.places)) if here.children[b] < 0 and here.left[b] is not None]
            for b in range(len(here.places)):
                if here.children[b] < 0 and here.left[b] is None:
                    self._divide(level, b)
            for part in self._chunks(level, [b for b in good if here.rank(b) > SMALLEST_RANK]):
                self._divide_factors(level, part, allowed, costs)
        self._leaves(allowed, costs)

    def _on_diagonal(self, level: int, node: int) -> bool:
        row, col = self.nodes[level].places[node]
        return self.dense_diagonal and row == col

    def _chunks(self, level: int, nodes: list[int]) -> list[list[int]]:
        rows, cols = self.indices[level]
        numbers = 2 * CROSSES * (rows.shape[1] + cols.shape[1])
        if level == self.depth:
            numbers = rows.shape[1] * cols.shape[1]
        step = max(1, CHUNK_NUMBERS // numbers)
        return [nodes[k : k + step] for k in range(0, len(nodes), step)]

    def _where(self, level: int, nodes: list[int]) -> tuple[IntArray, IntArray]:
        places = np.array([self.nodes[level].places[b] for b in nodes])
        rows, cols = self.indices[level]
        return rows[places[:, 0]], cols[places[:, 1]]

    def _try(self, level: int, nodes: list[int], allowed: float) -> None:
        """Crosses for some blocks, on top of the factors that they have; no factors where they do not do."""
        here, share = self.nodes[level], self._share(level) * allowed
        known = [b for b in nodes if here.left[b] is not None]
        for part in (known, [b for b in nodes if here.left[b] is None]):
            if not part:
                continue
            trial = Trial(self.source, *self._where(level, part), np.sqrt(CROSS_SHARE * share), self.rng)
            if part is known:
                trial.resume(*here.stacked(part))
            trial.run()
            left, right, ranks, dropped = trial.factors(np.sqrt(DROP_SHARE * share))
            rest = trial.estimates**2 + dropped**2
            for k, b in enumerate(part):
                if trial.accepted[k]:
                    here.set_factors(b, left[k], right[k], int(ranks[k]), float(rest[k]))
                else:
                    here.left[b] = here.right[b] = None

    def _divide_factors(self, level: int, nodes: list[int], allowed: float, costs: Costs) -> None:
        """Children of low-rank blocks from their factors, where they are smaller together."""
        here, below = self.nodes[level], self.nodes[level + 1]
        left, right, ranks = here.stacked(nodes)
        p, q = left.shape[1] // 2, right.shape[1] // 2
        tail = np.full(len(nodes), np.sqrt(DROP_SHARE * self._share(level + 1) * allowed))
        parts = {
            (i, j): recompress(left[:, i * p : (i + 1) * p], right[:, j * q : (j + 1) * q], tail)
            for i in (0, 1)
            for j in (0, 1)
        }
        total = np.sum([part[2] for part in parts.values()], axis=0) * costs.rank(level + 1)
        for k in np.flatnonzero(total < ranks * costs.rank(level)):
            rest = here.rest[nodes[k]] / 4.0
            first = self._divide(level, nodes[k])
            for child in range(first, len(below.places)):
                row, col = below.places[child]
                u, v, rank, dropped = (a[k] for a in parts[row % 2, col % 2])
                below.set_factors(child, u, v, int(rank), rest + float(dropped) ** 2)

    def _leaves(self, allowed: float, costs: Costs) -> None:
        """All entries of the leaves without factors, and their singular values."""
        here = self.nodes[self.depth]
        waiting = [b for b in range(len(here.places)) if here.left[b] is None]
        for part in self._chunks(self.depth, waiting):
            fresh = [b for b in part if here.data[b] is None]
            if fresh:
                for b, block in zip(fresh, self.source.blocks(*self._where(self.depth, fresh)), strict=True):
                    here.data[b] = block
            part = [b for b in part if not self._on_diagonal(self.depth, b)]
            if not part:
                continue
            u, values, vh = dense.svd(np.stack([np.asarray(here.data[b]) for b in part]))
            cap = min(values.shape[1], costs.dense(self.depth) // costs.rank(self.depth) + 1)
            right = vh.conj().swapaxes(1, 2) * values[:, None]
            tails = np.sqrt((values[:, cap:].astype(np.float64) ** 2).sum(axis=1))
            floor = np.sqrt(DROP_SHARE * self._share(self.depth) * allowed)
            for k, b in enumerate(part):
                small = np.cumsum(values[k, cap - 1 :: -1].astype(np.float64) ** 2)[::-1] + tails[k] ** 2 <= floor**2
                rank = int(np.argmax(small)) if small.any() else cap
                here.set_factors(b, u[k], right[k], rank, float((values[k, rank:].astype(np.float64) ** 2).sum()))

    # ----------------------------------------------------------------------------- from the leaves up

    def up(self, allowed: float, costs: Costs) -> None:
        """Merge four low-rank blocks where one of all their rows and columns is smaller."""
        for level in range(self.depth - 1, -1, -1):
            here, below = self.nodes[level], self.nodes[level + 1]
            fit = []
            for b, first in enumerate(here.children):
                if first < 0 or here.left[b] is not None or (self.half and len(set(here.places[b])) == 1):
                    continue
                ranks = [below.rank(c) for c in range(first, first + 4)]
                known = all(below.left[c] is not None for c in range(first, first + 4))
                if known and 2 * max(ranks) <= sum(ranks) and not self._on_diagonal(level, b):
                    fit.append(b)
            for part in self._chunks(level, fit):
                self._merge(level, part, allowed, costs)

    def _merge(self, level: int, nodes: list[int], allowed: float, costs: Costs) -> None:
        here, below = self.nodes[level], self.nodes[level + 1]
        groups = [[here.children[b] + c for b in nodes] for c in range(4)]
        factors = [below.stacked(group) for group in groups]
        ranks = np.sum([f[2] for f in factors], axis=0)
        width = sum(f[0].shape[2] for f in factors)
        (p, q), dtype = (factors[0][0].shape[1], factors[0][1].shape[1]), self.source.dtype
        left, right = np.zeros((len(nodes), 2 * p, width), dtype), np.zeros((len(nodes), 2 * q, width), dtype)
        at = 0
        for c, (u, v, _) in enumerate(factors):
            i, j, k = c // 2, c % 2, u.shape[2]
            left[:, i * p : (i + 1) * p, at : at + k], right[:, j * q : (j + 1) * q, at : at + k] = u, v
            at += k
        tail = np.full(len(nodes), np.sqrt(DROP_SHARE * self._share(level) * allowed))
        left, right, found, dropped = recompress(left, right, tail)
        # the merged block may be cut further by the plan: a little larger is not yet too large
        for k in np.flatnonzero(found * costs.rank(level) <= 1.25 * ranks * costs.rank(level + 1)):
            rest = sum(below.rest[here.children[nodes[k]] + c] for c in range(4)) + float(dropped[k]) ** 2
            here.set_factors(nodes[k], left[k], right[k], int(found[k]), rest)

    # ------------------------------------------------------------------------------------- the result

    def levels(self) -> list[Level]:
        """The singular values found, for the search of the best partition."""
        result = []
        for here in self.nodes:
            places = np.array(here.places, dtype=np.int64).reshape(-1, 2)
            ranks = [here.rank(b) for b in range(len(places))]
            values = np.zeros((len(places), max(ranks, default=0)))
            for b, right in enumerate(here.right):
                if right is not None:
                    values[b, : ranks[b]] = np.linalg.norm(right, axis=0)
            weights = np.where((places[:, 0] != places[:, 1]) & self.half, 2.0, 1.0)
            parents = np.array(here.parents, dtype=np.int64)
            result.append(Level(places, parents, values, np.array(here.rest), weights, np.ones(len(places), bool)))
        return result

    def build(self, plan: Plan) -> FlatBlocks:
        """The blocks of a plan."""
        near, far = [], []
        for level, here in enumerate(self.nodes):
            rows, cols = (index.shape[1] for index in self.indices[level])
            data = np.empty((len(plan.near[level]), rows, cols), self.source.dtype)
            for k, b in enumerate(plan.near[level]):
                data[k] = self._dense(level, int(b))
            places = np.array([here.places[b] for b in plan.near[level]], dtype=np.int64).reshape(-1, 2)
            near.append(BlockBatch(data, places[:, 0].copy(), places[:, 1].copy()))
            batches: list[LowRankBatch] = []
            order = np.argsort(plan.ranks[level], kind="stable")
            for part in self._chunks(level, order.tolist()):
                nodes, ranks = plan.far[level][part], plan.ranks[level][part]
                places = np.array([here.places[b] for b in nodes])
                left, right, _ = here.stacked(nodes)
                batches += by_rank(left, right, ranks, places[:, 0], places[:, 1])
            far.append(merged(batches))
        return FlatBlocks(tuple(near), tuple(far), self.half)

    def _dense(self, level: int, node: int) -> NumpyArray:
        """All entries of a block: from its children where these have been evaluated, else afresh."""
        data = self._gathered(level, node)
        if data is None:
            data = self.source.blocks(*self._where(level, [node]))[0]
        return data

    def _gathered(self, level: int, node: int) -> NumpyArray | None:
        here = self.nodes[level]
        if here.data[node] is not None or level == self.depth:
            return here.data[node]
        first, below = here.children[node], self.nodes[level + 1]
        if first < 0:
            return None
        count = 3 if self.half and len(set(here.places[node])) == 1 else 4
        parts = {
            tuple(k % 2 for k in below.places[c]): self._gathered(level + 1, c) for c in range(first, first + count)
        }
        if any(part is None for part in parts.values()):
            return None
        if count == 3:
            parts[0, 1] = np.asarray(parts[1, 0]).conj().T
        return np.block([[parts[0, 0], parts[0, 1]], [parts[1, 0], parts[1, 1]]])


class Trial(_Search):
    """A search for crosses that gives up where few do not do, and that may begin with factors that are known."""

    corners = False  # blocks whose clusters touch are tried and given up by the dozen

    def __init__(
        self, source: EntrySource, rows: IntArray, cols: IntArray, tail: float, rng: np.random.Generator,
        crosses: int = CROSSES,
    ) -> None:  # fmt: skip
        super().__init__(source, rows, cols, 0.0, np.full(len(rows), tail), crosses, rng)
        self.accepted = np.zeros(len(rows), dtype=bool)

    def resume(self, left: NumpyArray, right: NumpyArray, ranks: IntArray) -> None:
        """Begin with left @ right^H."""
        self.left = np.concatenate([left.swapaxes(1, 2), np.zeros_like(self.left)], axis=1)
        self.right = np.concatenate([right.conj().swapaxes(1, 2), np.zeros_like(self.right)], axis=1)
        self.ranks = ranks.copy()
        self.squares = np.square(np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)).sum(axis=1)
        self.limits = np.minimum(self.dear, ranks + CROSSES)

    def run(self) -> None:
        """Check, and as long as that fails, crosses from the worst row."""
        pending = np.arange(len(self.rows))
        for attempt in range(RESTARTS + 1):
            worst = self.check(pending)
            bad = self.estimates[pending] > ACCEPTED * self.tolerances(pending)
            self.accepted[pending[~bad]] = True
            more = bad & (self.ranks[pending] < self.limits[pending])
            pending = pending[more]
            if not len(pending) or attempt == RESTARTS:
                return
            self.add_crosses(pending, worst[more], patience=1 << attempt)
            self.sample = self.drawn(pending)

    def factors(self, tail: float) -> tuple[NumpyArray, NumpyArray, IntArray, NumpyArray]:
        """The crosses recompressed: left factors with orthonormal columns, right ones, ranks, norms left out."""
        width = int(self.ranks.max(initial=0))
        kept = (np.arange(width) < self.ranks[:, None])[:, None]
        left = np.where(kept, self.left[:, :width].swapaxes(1, 2), 0)
        right = np.where(kept, self.right[:, :width].swapaxes(1, 2).conj(), 0)
        return recompress(left, right, np.full(len(self.rows), tail))
