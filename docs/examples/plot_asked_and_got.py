"""
Accuracy asked and accuracy got
===============================

The tolerance ``rtol`` of a build is relative to the Frobenius norm of the whole matrix. This example builds
one kernel matrix at several tolerances, compares each with the dense matrix, and shows how the storage grows
with the accuracy.
"""

import matplotlib.pyplot as plt
import numpy as np

import structmat as sm

# %%
# A kernel takes points of shapes ``(p, d)`` and ``(q, d)``, and returns the ``(p, q)`` block of the matrix.

n = 1024
points = ((np.arange(n) + 0.5) / n)[:, None]


def kernel(x, y):
    """Return the logarithm of the distances; on the diagonal, that of the distance of two neighbours."""
    return np.log(np.maximum(np.abs(x - y.T), 1 / n))


# %%
# One tree serves all matrices. The dense matrix is formed here for comparison only: the build never does.

tree = sm.ClusterTree.balanced(n, leaf_size=32)
dense = kernel(points, points)
tolerances = [1e-2, 1e-4, 1e-6, 1e-8, 1e-10]
errors, sizes = [], []
for rtol in tolerances:
    A = sm.HSSMatrix.from_kernel(kernel, points, tree, rtol=rtol)
    errors.append(np.linalg.norm(A.to_dense() - dense) / np.linalg.norm(dense))
    sizes.append(A.nbytes / dense.nbytes)

# %%
# Each error stays below the line of what was asked.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.loglog(tolerances, tolerances, "--", color="gray", label="asked")
left.loglog(tolerances, errors, "o-", label="got")
left.set(xlabel="rtol", ylabel="relative error (Frobenius)")
left.invert_xaxis()
left.legend()
right.semilogx(tolerances, sizes, "o-")
right.set(xlabel="rtol", ylabel="bytes / bytes of the dense matrix", ylim=(0, None))
right.invert_xaxis()
plt.show()
