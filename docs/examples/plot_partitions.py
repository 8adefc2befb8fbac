"""
The same matrix under weak and strong admissibility
===================================================

A matrix is cut into blocks along a cluster tree. Under *weak* admissibility each block between two siblings
is a low-rank block; under *strong* admissibility two clusters must be distant compared with their size, and
the blocks of neighbours are cut further until the leaves. This example draws both, for a kernel in one
dimension, and writes the numerical rank into each block.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

# %%
# The matrix: a kernel that is smooth away from the diagonal.

n, levels, rtol = 512, 4, 1e-8
points = (np.arange(n) + 0.5) / n
matrix = 1 / (np.abs(points[:, None] - points[None, :]) + 1 / n)


# %%
# A perfect binary tree over the indices: level ``l`` has ``2**l`` clusters of equal size. A pair of clusters
# is a block; it is admissible, or it is cut into the four blocks of the children, or on the last level it
# stays dense.


def siblings(row, column):
    """Weak admissibility: the block does not touch the diagonal."""
    return row != column


def distant(row, column):
    """Strong admissibility in one dimension: at least one cluster lies between the two."""
    return abs(row - column) >= 2


def partition(admissible, level=0, row=0, column=0):
    """Yield the blocks (level, row, column, is it admissible) of one partition."""
    if admissible(row, column):
        yield level, row, column, True
    elif level == levels:
        yield level, row, column, False
    else:
        for i in (2 * row, 2 * row + 1):
            for j in (2 * column, 2 * column + 1):
                yield from partition(admissible, level + 1, i, j)


def numerical_rank(block):
    """Count the singular values above the tolerance, relative to the whole matrix."""
    singular_values = np.linalg.svd(block, compute_uv=False)
    return int(np.sum(singular_values > rtol * np.linalg.norm(matrix)))


# %%
# Light blocks have the rank that is written in them. Dark blocks are dense.

figure, axes = plt.subplots(1, 2, figsize=(10, 5.4), layout="constrained")
for ax, admissible, title in zip(axes, (siblings, distant), ("weak: HODLR and HSS", "strong: H and H2"), strict=True):
    for level, row, column, is_low_rank in partition(admissible):
        size = n >> level
        rows, columns = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
        color = "#dce9f7" if is_low_rank else "#38598b"
        ax.add_patch(Rectangle((columns.start, rows.start), size, size, facecolor=color, edgecolor="white"))
        if is_low_rank:
            rank = numerical_rank(matrix[rows, columns])
            middle = (columns.start + size / 2, rows.start + size / 2)
            ax.annotate(str(rank), middle, ha="center", va="center", fontsize=6 + 6 * size / n)
    ax.set(title=title, xlim=(0, n), ylim=(n, 0), aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# Strong admissibility has smaller ranks, because its blocks stay away from the diagonal, but more of them,
# and more dense blocks. On a curve or an interval, weak admissibility wins; in the plane and in space, where
# siblings touch along a line or a surface, strong admissibility does.
