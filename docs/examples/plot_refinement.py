"""
A partition found from the matrix
=================================

Admissibility conditions decide by geometry which blocks have low rank. Where a matrix has structure that the geometry
does not know, ``HMatrix.adaptive`` finds the partition from the matrix itself: each block is a low-rank block, a dense
block or four smaller ones, whichever takes the fewest bytes at one tolerance for the whole matrix.
"""

import matplotlib.pyplot as plt
import numpy as np

import structmat as sm

# %%
# A matrix that is smooth on both sides of a curve, and jumps across it. Nothing happens on the diagonal.

n, rtol = 1024, 1e-6
x = (np.arange(n) + 0.5) / n
above = np.add.outer(np.sin(3 * x), np.cos(5 * x))
matrix = np.where(x[:, None] < 0.2 + 0.6 * x**2, above, np.exp(-np.multiply.outer(x, x)))

# %%
# No fixed condition suits it: low-rank blocks that the jump crosses have large ranks.

fixed = sm.HMatrix.from_dense(matrix, rtol=rtol)
adaptive = sm.HMatrix.adaptive(matrix, rtol=rtol, dense_diagonal=False)
figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
axes[0].imshow(matrix)
axes[0].set_title("the matrix")
for ax, A, title in ((axes[1], fixed, "strong admissibility"), (axes[2], adaptive, "adaptive")):
    A.plot(ax)
    ax.set_title(f"{title}: {A.nbytes / matrix.nbytes:.1%} of dense")
plt.show()

# %%
# Both meet the tolerance, in the norm of the whole matrix.

for A in (fixed, adaptive):
    print(A.certificate)

# %%
# The search starts from one block for the whole matrix. Each round allows blocks of one more level, and finds the best
# partition of that kind by dynamic programming over all blocks; what the blocks leave out together is always
# what is allowed. It can be read as a table, or drawn.

print(adaptive.refinement)
adaptive.refinement.plot()
plt.show()

# %%
# Kernels on points
# -----------------
# From a kernel, blocks are tried with a few rows and columns, and divided where these do not do; so only a part of all
# entries is evaluated. Here the points come in clusters, and the partition follows them.

rng = np.random.default_rng(0)
centres = rng.random((12, 2))
points = (centres[:, None] + 0.02 * rng.standard_normal((12, 125, 2))).reshape(-1, 2)
kernel = sm.kernelfunctions.Laplace(dim=2)
figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
tree = sm.ClusterTree.from_points(points, leaf_size=32)
apart = sm.StrongAdmissibility()
A = sm.HMatrix.from_kernel(kernel, points, tree, rtol=rtol, symmetric=True, admissibility=apart)
B = sm.HMatrix.adaptive(kernel, tree, points=points, rtol=rtol, symmetric=True)
for ax, C, title in ((axes[0], A, "strong admissibility"), (axes[1], B, "adaptive")):
    C.plot(ax)
    ax.set_title(f"{title}: {C.nbytes / 1e6:.2f} MB")
plt.show()
print(f"{B.certificate.entries / len(points) ** 2:.0%} of the entries were evaluated")

# %%
# Refining what is there
# ----------------------
# Another tolerance does not mean another build: blocks that are good enough are kept, and others get more ranks.

C = B.refine(kernel, 1e-9, points=points)
print(C.certificate)
print(f"{C.nbytes / 1e6:.2f} MB")
