"""
Block structure and ranks
=========================

``A.plot()`` draws the blocks of a matrix with their ranks, and ``A.summary()`` prints them by level. This
example shows how the ranks depend on the kernel: one kernel is singular at distance zero, the other smooth.
"""

import matplotlib.pyplot as plt
import numpy as np

import structmat as sm
from structmat.kernelfunctions import Exponential, Gaussian, Laplace
from structmat.plot import plot_tree

# %%
# Random points on a spiral. They come in no order: the tree sorts them in space.

rng = np.random.default_rng(0)
angle = 4 * np.pi * rng.random(2000)
points = (0.2 + angle / (4 * np.pi))[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
tree = sm.ClusterTree.from_points(points, leaf_size=64)
plot_tree(tree)
plt.show()

# %%
# Three kernels on the same tree. A matrix is stored in blocks: dense ones on the diagonal, which are grey,
# and off the diagonal products of two thin factors, with the rank that is written in them.

kernels = [Laplace(dim=2), Exponential(length=0.5), Gaussian(length=0.5)]
matrices = [sm.HSSMatrix.from_kernel(kernel, points, tree, rtol=1e-6, symmetric=True) for kernel in kernels]
figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
for ax, kernel, A in zip(axes, kernels, matrices, strict=True):
    A.plot(ax)
    ax.set_title(repr(kernel))
plt.show()

# %%
# The summary gives smallest, mean and largest rank by level, and the bytes.

print(matrices[0].summary())
