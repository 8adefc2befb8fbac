"""The bases of all levels in one array, and the two batched steps that HODLR factorisations are made of.

Panels are groups of neighbouring padded leaves, and of each the rows of all bases stand together: an array
(panels, height, size), `height` being the sum of the ranks over the levels. So a step on level l treats the bases of
all levels above l in one matrix product, in place, whether a node is a part of a panel or many of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import conj, one_blas_thread, parallel_ranges, parallel_tasks
from .._typing import IntArray, NumpyArray
from ..engine import cpu_hodlr
from ..engine.dense import SERIAL_BYTES
from ..exceptions import ShapeError
from ..flat.storage import FlatBlocks
from ..tree import ClusterTree

# positions that a panel should have: long enough for matrix products, short enough for the cache
PANEL_SIZE = 512
# right-hand sides that are updated at once, for the same reason
STRIP = 128

BOTH, SECOND = slice(0, 2), slice(1, 2)  # children of a node


@dataclass(frozen=True)
class Layout:
    """Where the bases of each level stand.

    Attributes
    ----------
    depth, leaf : int
        Level of the leaves, and their padded size.
    span : int
        Leaves of a panel, a power of two.
    ranks, offsets : (depth + 1,) int arrays
        Padded rank of each level, and its first row in a panel; level 1 comes first, level 0 has none.
    """

    depth: int
    leaf: int
    span: int
    ranks: IntArray
    offsets: IntArray

    @classmethod
    def of(cls, tree: ClusterTree, ranks: IntArray) -> Layout:
        """The layout on a tree for bases of the given ranks by level."""
        span = 1
        while span < tree.leaf_count and 2 * span * tree.leaf_size <= PANEL_SIZE:
            span *= 2
        return cls(tree.depth, tree.leaf_size, span, ranks, np.cumsum(ranks) - ranks)

    @property
    def size(self) -> int:
        """Positions of a panel."""
        return self.span * self.leaf

    @property
    def panels(self) -> int:
        """Number of panels."""
        return (1 << self.depth) // self.span

    @property
    def height(self) -> int:
        """Rows of a panel: the sum of all ranks."""
        return int(self.ranks.sum())

    @property
    def grain(self) -> int:
        """The level whose nodes are panels."""
        return self.depth - (self.span.bit_length() - 1)

    def rows(self, level: int) -> slice:
        """The rows of one level."""
        return slice(int(self.offsets[level]), int(self.offsets[level] + self.ranks[level]))

    def nodes(self, x: NumpyArray, level: int) -> NumpyArray:
        """X (panels, m, size) by nodes: (a, 2, b, m, width), children of parents of `level`.

        Nodes inside a panel: a counts panels and b the parents in them. Larger ones: a counts parents and b the panels
        of a child.
        """
        m = x.shape[1]
        if level > self.grain:
            width = self.leaf << (self.depth - level)
            return x.reshape(self.panels, m, self.size // (2 * width), 2, width).transpose(0, 3, 2, 1, 4)
        return x.reshape(1 << (level - 1), 2, self.panels >> level, m, self.size)

    def to_panels(self, leaves: NumpyArray) -> NumpyArray:
        """Leaf blocks (leaf_count, leaf_size, m) as the rows of panels, (panels, m, size), in an array of its own."""
        m = leaves.shape[2]
        turned = leaves.reshape(self.panels, self.size, m).swapaxes(1, 2)
        return np.array(turned, order="C")

    def from_panels(self, x: NumpyArray) -> NumpyArray:
        """The inverse of `to_panels`."""
        return x.swapaxes(1, 2).reshape(1 << self.depth, self.leaf, x.shape[1])


def level_ranks(blocks: FlatBlocks) -> IntArray:
    """The largest rank on each level, 0 .. depth."""
    return np.array([max((b.rank for b in level), default=0) for level in blocks.far], dtype=np.int64)


def require_hodlr(blocks: FlatBlocks) -> None:
    """Refuse blocks other than dense ones on the diagonal of the leaves' level and low-rank ones of siblings."""
    inner = any(len(b) for b in blocks.near[:-1])
    dense = blocks.near[-1]
    siblings = all(np.array_equal(b.rows ^ 1, b.cols) for level in blocks.far for b in level)
    if inner or not siblings or not np.array_equal(np.sort(dense.rows), np.arange(1 << blocks.depth)):
        raise ShapeError(
            "a HODLR factorisation needs one dense block for each leaf and low-rank blocks for siblings only; "
            "use the factorisation of HMatrix for other partitions"
        )
    if not np.array_equal(dense.rows, dense.cols):
        raise ShapeError("the dense blocks of a HODLR matrix must stand on the diagonal")


def diagonal_blocks(blocks: FlatBlocks) -> NumpyArray:
    """A copy of the dense blocks in the order of the leaves, (leaves, p, p)."""
    dense = blocks.near[-1]
    order = np.argsort(dense.rows)
    out = np.empty(dense.data.shape, dtype=dense.data.dtype)
    ordered = np.array_equal(order, np.arange(len(order)))

    def work(start: int, stop: int) -> None:
        out[start:stop] = dense.data[start:stop] if ordered else dense.data[order[start:stop]]

    parallel_ranges(work, len(out), serial=out.nbytes < SERIAL_BYTES)
    return out


def gather(blocks: FlatBlocks, layout: Layout, *, right: bool) -> NumpyArray:
    """The left factors by row node, or the right ones by column node, as panels (panels, height, size).

    For half storage both are the same: what the stored blocks have on either side.
    """
    dtype = blocks.near[-1].data.dtype
    out = np.empty((layout.panels, layout.height, layout.size), dtype=dtype)
    _clear(out, blocks, layout)
    for level in range(1, layout.depth + 1):
        for batch in blocks.far[level]:
            sides = [(batch.right, batch.cols)] if right else [(batch.left, batch.rows)]
            if blocks.half:
                sides = [(batch.left, batch.rows), (batch.right, batch.cols)]
            for factors, where in sides:
                _place(out, layout, level, factors, where)
    return out


def _clear(out: NumpyArray, blocks: FlatBlocks, layout: Layout) -> None:
    """Zeros where a level has blocks of less than its largest rank."""
    for level in range(1, layout.depth + 1):
        count = sum(len(b) for b in blocks.far[level]) << (1 if blocks.half else 0)
        if len({b.rank for b in blocks.far[level]}) > 1 or count < 1 << level:
            out[:, layout.rows(level)] = 0


def _place(out: NumpyArray, layout: Layout, level: int, factors: NumpyArray, where: IntArray) -> None:
    """The factors (nb, p, k) of the nodes `where`, transposed, at their place in the panels."""
    row, pieces = int(layout.offsets[level]), max(1, factors.shape[1] // layout.size)
    parallel_ranges(
        lambda a, b: cpu_hodlr.place_bases(factors, where, out, row, a, b),
        len(where) * pieces,
        serial=factors.nbytes < SERIAL_BYTES,
    )


def inner_products(layout: Layout, x: NumpyArray, basis: NumpyArray, level: int, children: slice = BOTH) -> NumpyArray:
    """The rows of x (panels, m, size) times the conjugated basis rows of a level: (parents, children, m, k)."""
    rows, basis_rows = layout.nodes(x, level), layout.nodes(basis[:, layout.rows(level)], level)
    a, _, b, m, _ = rows.shape
    count, k = children.stop - children.start, basis_rows.shape[3]
    sums = np.empty((a, b, count, m, k), dtype=np.result_type(x, basis))
    inside = level > layout.grain
    out = sums.swapaxes(1, 2)

    def work(task: int) -> None:
        where = (task, children) if inside else (task // b, children, task % b)
        target = out[task] if inside else sums[task // b, task % b]
        np.matmul(rows[where], conj(basis_rows[where]).swapaxes(-1, -2), out=target)

    if sums.size:
        with one_blas_thread():
            parallel_tasks(work, a if inside else a * b)
    return sums.reshape(a * b, count, m, k) if inside or b == 1 else sums.sum(axis=1)


def subtract_products(
    layout: Layout, x: NumpyArray, factors: NumpyArray, basis: NumpyArray, level: int, children: slice = BOTH
) -> None:
    """The rows of x (panels, m, size) less factors (parents, children, m, k) times the basis rows of a level."""
    rows, basis_rows = layout.nodes(x, level), layout.nodes(basis[:, layout.rows(level)], level)
    a, _, b, m, _ = rows.shape
    inside = level > layout.grain
    if not factors.size:
        return
    if inside:
        factors = factors.reshape(a, b, *factors.shape[1:]).swapaxes(1, 2)

    def work(task: int) -> None:
        where = (task, children) if inside else (task // b, children, task % b)
        coefficients, target, used = factors[where[0]], rows[where], basis_rows[where]
        for first in range(0, m, STRIP):
            strip = slice(first, first + STRIP)
            target[..., strip, :] -= np.matmul(coefficients[..., strip, :], used)

    with one_blas_thread():
        parallel_tasks(work, a if inside else a * b)
