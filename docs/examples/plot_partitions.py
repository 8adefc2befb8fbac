"""
The same matrix under weak and strong admissibility
===================================================

A matrix is cut into blocks along a cluster tree. Under *weak* admissibility each block between two siblings
is a low-rank block; under *strong* admissibility two clusters must be distant compared with their size, and
the blocks of neighbours are cut further until the leaves. This example draws both, for a kernel on an interval
and on a square, and writes the rank into each block.
"""

import matplotlib.pyplot as plt
import numpy as np

import structmat as sm

rtol = 1e-6

# %%
# On an interval: a kernel that is smooth away from the diagonal. Dense blocks are grey; the others have the rank
# that is written in them.

n = 512
line = (np.arange(n) + 0.5) / n


def inverse_distance(x, y):
    """1 / (|x - y| + 1/n)."""
    return 1 / (np.abs(x[:, None] - y) + 1 / n)


weak = sm.HODLRMatrix.from_kernel(inverse_distance, line, leaf_size=32, rtol=rtol)
apart = sm.StrongAdmissibility()
strong = sm.HMatrix.from_kernel(inverse_distance, line, leaf_size=32, rtol=rtol, admissibility=apart)

figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
for ax, matrix, title in zip(axes, (weak, strong), ("weak: HODLR and HSS", "strong: H and H2"), strict=True):
    matrix.plot(ax)
    ax.set_title(f"{title}, {matrix.nbytes / 1e6:.2f} MB")
plt.show()

# %%
# Strong admissibility has smaller ranks, because its blocks stay away from the diagonal, but more of them,
# and more dense blocks. On a curve or an interval, weak admissibility wins.
#
# In the plane, siblings touch along a line, and the rank between them grows with the number of points on it.

square = np.random.default_rng(0).random((1500, 2))


def exponential(x, y):
    """exp(-|x - y|)."""
    return np.exp(-np.linalg.norm(x[:, None] - y, axis=2))


tree = sm.ClusterTree.from_points(square, leaf_size=40)
weak = sm.HODLRMatrix.from_kernel(exponential, square, tree, rtol=rtol, symmetric=True)
strong = sm.HMatrix.from_kernel(exponential, square, tree, rtol=rtol, symmetric=True, admissibility=apart)

figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
for ax, matrix, title in zip(axes, (weak, strong), ("weak", "strong"), strict=True):
    matrix.plot(ax)
    ax.set_title(f"{title}, ranks up to {matrix.max_rank}")
plt.show()

# %%
# The partition alone, before there is a matrix: ``eta`` says how far apart blocks must be for their size. Colours
# are levels, dense blocks are grey.

figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
for ax, eta in zip(axes, (0.7, 1.4, 2.8), strict=True):
    partition = sm.BlockPartition.build(tree, admissibility=sm.StrongAdmissibility(eta=eta))
    partition.plot(ax)
    ax.set_title(f"eta = {eta}: {partition.far_count} low-rank, {partition.near_count} dense")
plt.show()
