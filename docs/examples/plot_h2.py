"""
Nested bases: the ranks of an H2-matrix
=======================================

An H2-matrix has one basis for each cluster of points, which serves all blocks that the cluster takes part in. The
basis of a large cluster is put together from those of its children. So the ranks belong to clusters, not to blocks.
"""

import matplotlib.pyplot as plt
import numpy as np

import structmat as sm
from structmat.kernelfunctions import Laplace
from structmat.plot import plot_ranks

# %%
# Points in the plane, denser towards the middle, and the kernel log r. Blocks of clusters that are distant for their
# size are compressed; the others, near the diagonal, stay dense and are drawn grey. The rank of a block is that of its
# two clusters, so rows and columns of one colour appear.

points = np.random.default_rng(0).standard_normal((2500, 2))
A = sm.H2Matrix.from_kernel(Laplace(dim=2), points, rtol=1e-6, leaf_size=40)
A.plot()
plt.show()

# %%
# The same ranks on the tree. They hardly change from level to level: this is why storage and product grow no faster
# than the number of points. The large clusters at the top have no partners that are far enough away, and no basis.

plot_ranks(A)
plt.show()

# %%
# The summary counts couplings and bytes by level.

print(A.summary())

# %%
# Written out block by block, the same matrix is an H-matrix: each block then has bases of its own. It takes more
# memory, and has an LU factorisation.

H = sm.HMatrix.from_structured(A)
for matrix in (A, H):
    print(matrix)
