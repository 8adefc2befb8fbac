"""Structured matrices for people: a summary as text, and pictures of blocks, ranks and clusters.

Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._typing import IntArray, NumpyArray
from .blocks import array_bytes
from .flat.mixed import ranks_at
from .partition import BlockPartition, WeakAdmissibility

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .base import StructuredMatrix
    from .tree import ClusterTree

__all__ = ["plot_partition", "plot_ranks", "plot_residuals", "plot_structure", "plot_tree", "summary"]

# a number is drawn where its height, in points, is at least this
_SMALLEST_TEXT = 5.0
_LARGEST_TEXT = 14.0
# outlines are drawn around blocks of at least this many points
_SMALLEST_OUTLINE = 3.0


# ------------------------------------------------------------------------------------------ text


def summary(matrix: StructuredMatrix) -> str:
    """Levels, ranks, bytes against dense, and the certificate, as text to print.

    Parameters
    ----------
    matrix : StructuredMatrix
        Of any format.

    Returns
    -------
    str
        The ranks are the true ones, as smallest / mean / largest of a level. With nested bases, the bytes of a level
        are those of its bases and couplings; else those of its low-rank and of its dense blocks, as they are stored.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> A = sm.HSSMatrix.from_dense(np.ones((64, 64)), sm.ClusterTree.balanced(64, leaf_size=16))
    >>> print(A.summary())
    HSSMatrix 64 x 64, float64, not symmetric
    tree: depth 2, leaves of 16 indices
    level     nodes         row rank      column rank     bytes
        1         2        1 / 1 / 1        1 / 1 / 1      80 B
        2         4        1 / 1 / 1        1 / 1 / 1   1.06 kB
    dense diagonal blocks                               8.19 kB
    total 9.49 kB, 29 % of 32.8 kB as a dense array
    certificate: asked 1.0e-08, estimate ...: met [guaranteed by truncation; 4096 entries]
    """
    rows, columns = matrix.shape
    dense = rows * columns * matrix.dtype.itemsize
    kind = "Hermitian" if matrix.dtype.kind == "c" else "symmetric"
    stored: Any = matrix
    table = _nested_table(stored) if hasattr(matrix, "row_ranks") else _flat_table(stored.parts)
    kind = kind if stored.symmetric else f"not {kind}"
    return "\n".join(
        [
            f"{type(matrix).__name__} {rows} x {columns}, {stored._precision()}, {kind}",
            f"tree: depth {matrix.row_tree.depth}, {_leaves(matrix)}",
            *table,
            f"total {format_bytes(matrix.nbytes)}, {100 * matrix.nbytes / dense:.3g} % of {format_bytes(dense)} "
            "as a dense array",
            f"certificate: {matrix.certificate}",
        ]
    )


def _nested_table(matrix: Any) -> list[str]:
    storage, depth = matrix._storage, matrix.row_tree.depth
    places, dense = storage.block_places()
    siblings = hasattr(matrix, "generators")  # HSS: one coupling a node
    count = "nodes" if siblings else "couplings"
    lines = [f"{'level':>5s} {count:>9s} {'row rank':>16s} {'column rank':>16s} {'bytes':>9s}"] if depth else []
    for level in range(1, depth + 1):
        ranks = [_spread(side[level - 1]) for side in (matrix.row_ranks, matrix.col_ranks)]
        blocks = 2**level if siblings else len(places[level])
        size = format_bytes(_level_bytes(storage, level))
        lines.append(f"{level:5d} {blocks:9d} {ranks[0]:>16s} {ranks[1]:>16s} {size:>9s}")
    size = format_bytes(sum(array_bytes(part.near.data) for part in storage.parts))
    label = "dense diagonal blocks" if siblings else f"{len(dense)} dense blocks"
    return [*lines, f"{label:49s}{size:>10s}"]


def _flat_table(parts: Any) -> list[str]:
    lines = [f"{'level':>5s} {'low-rank':>9s} {'rank':>16s} {'bytes':>9s} {'dense':>6s} {'bytes':>9s}"]
    for level in range(parts[0].depth + 1):
        near, far = [p.near[level] for p in parts], [b for p in parts for b in p.far[level]]
        ranks, count = ranks_at(parts, level)[1], sum(len(b) for b in near)
        if not len(ranks) and not count:
            continue
        low_rank = (_spread(ranks), format_bytes(sum(b.nbytes for b in far))) if len(ranks) else ("", "")
        dense = (f"{count:d}", format_bytes(sum(b.nbytes for b in near))) if count else ("", "")
        line = f"{level:5d} {len(ranks) or '':>9} {low_rank[0]:>16s} {low_rank[1]:>9s} {dense[0]:>6s} {dense[1]:>9s}"
        lines.append(line.rstrip())
    return lines


def _leaves(matrix: StructuredMatrix) -> str:
    sizes = [sorted({int(s) for s in tree.sizes(tree.depth)}) for tree in (matrix.row_tree, matrix.col_tree)]
    texts = ["leaves of " + " or ".join(map(str, size)) for size in sizes]
    if texts[0] == texts[1]:
        return f"{texts[0]} indices"
    return f"row {texts[0]}, column {texts[1]} indices"


def _spread(ranks: IntArray) -> str:
    return f"{int(ranks.min())} / {float(ranks.mean()):.3g} / {int(ranks.max())}"


def _level_bytes(storage: Any, level: int) -> int:
    arrays = [part.couplings[level - 1].data for part in storage.parts]
    for basis in storage.bases:
        arrays += [basis.levels[level - 1], *(() if basis.orders is None else (basis.orders[level - 1],))]
    return sum(array_bytes(a) for a in arrays)


def format_bytes(count: float) -> str:
    """A number of bytes in the unit that suits it, powers of 1000.

    Examples
    --------
    >>> from structmat.plot import format_bytes
    >>> format_bytes(999), format_bytes(1_536_000), format_bytes(2e12)
    ('999 B', '1.54 MB', '2 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000.0
    return f"{count:.3g} TB"


# ---------------------------------------------------------------------------------------- pictures


def plot_structure(matrix: StructuredMatrix, ax: Axes | None = None) -> Axes:
    """Draw the blocks of a matrix, with the ranks of those off the diagonal by number and colour.

    Parameters
    ----------
    matrix : StructuredMatrix
        Of any format.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: the axes of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Rows downwards and columns to the right, in the order of the trees. With nested bases, the rank of a block is
        the smaller one of the ranks of its row basis and its column basis. Dense blocks are grey. Numbers appear
        where they can be read.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> A = sm.HSSMatrix.from_dense(np.exp(-abs(np.subtract.outer(np.arange(200), np.arange(200)) / 50)))
    >>> A.plot().get_ylabel()
    'row'
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    axes = _matrix_axes(ax, matrix.row_tree, matrix.col_tree)
    blocks, ranks, dense = _blocks_of(matrix)
    _fill(axes, dense, np.zeros(len(dense)), "dense", None)
    if len(blocks):
        colours = colormaps["viridis"]
        shown = _fill(axes, blocks, ranks.astype(float), "ranks", colours)
        # an inset is as high as the axes, whatever the aspect of the matrix
        bar = axes.inset_axes((1.03, 0.0, 0.04, 1.0))
        axes.figure.colorbar(shown, cax=bar, label="rank (grey: dense)", ticks=MaxNLocator(integer=True))
        _number(axes, blocks, ranks, shown)
    return axes


def plot_ranks(matrix: StructuredMatrix, ax: Axes | None = None) -> Axes:
    """Draw the tree of the rows, each cluster with its rank by number and colour.

    Parameters
    ----------
    matrix : StructuredMatrix
        Of any format. With nested bases the rank of a cluster is the larger one of those of its row and its column
        basis; else the largest one of any low-rank block in its rows.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: the axes of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Levels downwards, from the children of the root; indices to the right, in the order of the tree. Numbers appear
        where they can be read.

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> from structmat.plot import plot_ranks
    >>> points = np.random.default_rng(0).random((500, 2))
    >>> A = sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-4)
    >>> plot_ranks(A).get_ylabel()
    'level'
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    tree, ranks, axes = matrix.row_tree, _node_ranks(matrix), _axes(ax)
    height = 0.8 * tree.n / max(1, tree.depth)  # in indices: about as high as wide
    levels = range(1, tree.depth + 1)
    axes.set(xlim=(0, tree.n), ylim=(height * max(1, tree.depth), 0))
    axes.set_yticks([(level - 0.5) * height for level in levels], [str(level) for level in levels])
    axes.set_ylabel("level")
    axes.set_xlabel("row" if tree.is_identity else "row, in the order of the tree")
    if not levels:
        return axes
    rectangles = [
        np.stack([tree.starts(level), np.full(1 << level, (level - 0.95) * height), tree.sizes(level),
                  np.full(1 << level, 0.9 * height)], axis=1)
        for level in levels
    ]  # fmt: skip
    boxes, numbers = np.concatenate(rectangles), np.concatenate(ranks)
    shown = _fill(axes, boxes, numbers.astype(float), "ranks", colormaps["viridis"])
    axes.figure.colorbar(shown, ax=axes, label="rank", ticks=MaxNLocator(integer=True))
    _number(axes, boxes, numbers, shown)
    return axes


def _node_ranks(matrix: Any) -> list[IntArray]:
    """The rank of each row node by level from 1; of independent blocks the largest one of the node's."""
    if hasattr(matrix, "row_ranks"):
        return list(matrix.ranks)
    found = []
    for level, places in enumerate(matrix.partition.far[1:], start=1):
        ranks = np.zeros(1 << level, dtype=np.int64)
        np.maximum.at(ranks, places[:, 0], _ranks_of(matrix, level, places))
        found.append(ranks)
    return found


def plot_partition(partition: BlockPartition, ax: Axes | None = None) -> Axes:
    """Draw the blocks of a partition: admissible ones in the colour of their level, dense ones grey.

    Parameters
    ----------
    partition : BlockPartition
        Of any admissibility condition.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: the axes of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Rows downwards and columns to the right, in the order of the trees.

    Examples
    --------
    >>> import structmat as sm
    >>> tree = sm.ClusterTree.balanced(512, leaf_size=32)
    >>> sm.BlockPartition.build(tree).plot().get_title()
    '66 admissible and 46 dense blocks'
    """
    from matplotlib import colormaps

    trees = partition.row_tree, partition.col_tree
    axes = _matrix_axes(ax, *trees)
    dense, _ = _rectangles_by_level(trees, partition.near)
    far, levels = _rectangles_by_level(trees, partition.far)
    if len(dense):
        _fill(axes, dense, np.zeros(len(dense)), "dense", None)
    if len(far):
        _fill(axes, far, levels.astype(float), "admissible", colormaps["YlGnBu"])
    axes.set_title(f"{len(far)} admissible and {len(dense)} dense blocks")
    return axes


def _matrix_axes(ax: Axes | None, row_tree: ClusterTree, col_tree: ClusterTree) -> Axes:
    """Axes for the blocks of a matrix: rows downwards, columns to the right."""
    axes = _axes(ax)
    axes.set(xlim=(0, col_tree.n), ylim=(row_tree.n, 0), aspect="equal")
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_xlabel("column" if col_tree.is_identity else "column, in the order of the tree")
    axes.set_ylabel("row" if row_tree.is_identity else "row, in the order of the tree")
    return axes


def _axes(ax: Axes | None, **options: Any) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.4, 5.6), layout="compressed", **options)[1]


def _rectangles(trees: tuple[ClusterTree, ClusterTree], level: int, rows: IntArray, cols: IntArray) -> NumpyArray:
    """The blocks of some row nodes and column nodes: left, top, width, height, (blocks, 4)."""
    row_tree, col_tree = trees
    edges = col_tree.starts(level)[cols], row_tree.starts(level)[rows]
    return np.stack([*edges, col_tree.sizes(level)[cols], row_tree.sizes(level)[rows]], axis=1)


def _rectangles_by_level(
    trees: tuple[ClusterTree, ClusterTree], places: tuple[IntArray, ...]
) -> tuple[NumpyArray, IntArray]:
    """The blocks at places (nb, 2) of each level, large ones first, and the level of each."""
    parts = [_rectangles(trees, level, b[:, 0], b[:, 1]) for level, b in enumerate(places)]
    return np.concatenate(parts), np.repeat(np.arange(len(places)), [len(b) for b in places])


def _blocks_of(matrix: Any) -> tuple[NumpyArray, IntArray, NumpyArray]:
    """Rectangles and ranks of all low-rank blocks, large ones first, and rectangles of the dense ones.

    Both halves of a Hermitian matrix.
    """
    trees, partition = (matrix.row_tree, matrix.col_tree), _partition_of(matrix)
    far, near = (_rectangles_by_level(trees, places)[0] for places in (partition.far, partition.near))
    ranks = [_ranks_of(matrix, level, places) for level, places in enumerate(partition.far)]
    return far, np.concatenate(ranks), near


def _partition_of(matrix: Any) -> BlockPartition:
    if hasattr(matrix, "partition"):
        partition: BlockPartition = matrix.partition
        return partition
    return BlockPartition.build(matrix.row_tree, matrix.col_tree, WeakAdmissibility())  # HSS


def _ranks_of(matrix: Any, level: int, places: IntArray) -> IntArray:
    """The ranks of the blocks at some places of a level, of which those above the diagonal may not be stored."""
    if hasattr(matrix, "row_ranks"):
        if not len(places):
            return np.zeros(0, dtype=np.int64)
        smaller: IntArray = np.minimum(
            matrix.row_ranks[level - 1][places[:, 0]], matrix.col_ranks[level - 1][places[:, 1]]
        )
        return smaller
    keys, ranks = ranks_at(matrix.parts, level)
    rows, cols = places.T
    wanted = (rows << level) + cols
    if matrix.symmetric:
        wanted = np.where(rows < cols, (cols << level) + rows, wanted)
    found: IntArray = ranks[np.searchsorted(keys, wanted)]
    return found


def _fill(axes: Axes, rectangles: NumpyArray, values: NumpyArray, label: str, colours: Any) -> Any:
    """One collection for all rectangles: thousands of separate patches would take seconds."""
    from matplotlib.collections import PolyCollection

    left, top, width, height = rectangles.T
    corners = np.stack(
        [
            np.stack([left, top], axis=1),
            np.stack([left + width, top], axis=1),
            np.stack([left + width, top + height], axis=1),
            np.stack([left, top + height], axis=1),
        ],
        axis=1,
    )  # (blocks, 4, 2)
    side = np.minimum(width, height) * _points_per_index(axes)
    collection = PolyCollection(
        list(corners),
        linewidths=np.where(side >= _SMALLEST_OUTLINE, np.clip(side / 40, 0.2, 0.8), 0.0),
        edgecolors="white",
        label=label,
        # without outlines, smoothed edges would let the background shine through
        antialiaseds=side >= _SMALLEST_OUTLINE,
    )
    if colours is None:
        collection.set_facecolor("#8a8f98")
    else:
        collection.set(array=values, cmap=colours, clim=(0, max(1.0, float(values.max()))))
    axes.add_collection(collection)
    return collection


def _points_per_index(axes: Axes) -> float:
    """Typographic points on the page for one index of the matrix, as the axes are drawn."""
    axes.apply_aspect()
    box = axes.get_window_extent()
    across = abs(float(np.diff(axes.get_xlim())[0])), abs(float(np.diff(axes.get_ylim())[0]))
    figure: Any = axes.get_figure(root=True)
    return float(min(box.width / across[0], box.height / across[1]) * 72.0 / figure.dpi)


def _number(axes: Axes, rectangles: NumpyArray, ranks: IntArray, shown: Any) -> None:
    """The rank in the middle of each block that is large enough for it."""
    per_index = _points_per_index(axes)
    for (left, top, width, height), rank in zip(rectangles, ranks, strict=True):
        # a digit is 0.6 of its height wide
        room = per_index * min(0.6 * height, 0.8 * width / (0.6 * len(str(rank))))
        if room < _SMALLEST_TEXT:
            continue
        colour = shown.cmap(shown.norm(float(rank)))
        light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5
        axes.text(
            left + width / 2,
            top + height / 2,
            str(int(rank)),
            ha="center",
            va="center",
            fontsize=min(room, _LARGEST_TEXT),
            color="black" if light else "white",
        )


def plot_tree(tree: ClusterTree, ax: Axes | None = None, *, level: int | None = None) -> Axes:
    """Draw the clusters of one level of a tree, each in a colour: its points in 1-D or 2-D.

    Parameters
    ----------
    tree : ClusterTree
        Without points, its indices are drawn on a line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: the axes of a new figure.
    level : int, optional
        From 0, the root, to the tree's depth; default: 3, or the depth if that is less.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import numpy as np, structmat as sm
    >>> from structmat.plot import plot_tree
    >>> tree = sm.ClusterTree.from_points(np.random.default_rng(0).random((100, 2)), leaf_size=8)
    >>> plot_tree(tree).get_title()
    'level 3: 8 clusters'
    """
    level = min(3, tree.depth) if level is None else level
    if not 0 <= level <= tree.depth:
        raise ValueError(f"level must be between 0 and the tree's depth, {tree.depth}, but it is {level!r}")
    points = tree.coordinates  # (n, d), by sorted position
    if points.shape[1] > 2:
        raise ValueError(f"clusters are drawn in 1-D and 2-D, but the points have {points.shape[1]} coordinates")
    axes = _axes(ax)
    node = np.repeat(np.arange(2**level), tree.sizes(level))
    # neighbours in the order of the tree get colours that are easy to tell apart
    size = float(np.clip(3000.0 / tree.n, 1.0, 20.0))
    if points.shape[1] == 1:
        axes.scatter(points[:, 0], node, c=node % 10, cmap="tab10", vmin=0, vmax=9, s=size)
        axes.set(xlabel="point", ylabel="cluster")
    else:
        axes.scatter(points[:, 0], points[:, 1], c=node % 10, cmap="tab10", vmin=0, vmax=9, s=size)
        axes.set_aspect("equal")
    axes.set_title(f"level {level}: {2**level} cluster{'s' if level else ''}")
    return axes


def plot_residuals(residuals: NumpyArray, rtol: float, label: str = "", ax: Axes | None = None) -> Axes:
    """Draw the residuals of an iteration by step, and what was asked for as a dotted line.

    Parameters
    ----------
    residuals : (steps + 1,) array
        Relative residuals.
    rtol : float
        What was asked for.
    label : str
        For the legend.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: the axes of a new figure.
    """
    from matplotlib.ticker import MaxNLocator

    axes = _axes(ax)
    # a residual of zero has no logarithm: it is drawn at the least number that the axis may need
    shown = np.maximum(residuals, 1e-17)
    (line,) = axes.plot(np.arange(len(shown)), shown, "o-", markersize=4, label=label)
    axes.axhline(rtol, color=line.get_color(), linewidth=0.8, linestyle=":")
    axes.set(yscale="log", xlabel="step", ylabel="relative residual (dotted: asked for)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if label:
        axes.legend()
    return axes
