"""
Compressors compared
====================

Seven algorithms find a low-rank approximation of the same blocks. They differ in what they look at, how long that
takes, and what they can promise. This example compares them by accuracy, entries and time.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

from structmat.kernelfunctions import Laplace
from structmat.lowrank import (
    ACA,
    Chebyshev,
    GeneralizedNystrom,
    Interpolative,
    Nystrom,
    PivotedQR,
    RandomizedRange,
    TruncatedSVD,
)
from structmat.sources import KernelSource

# %%
# A compressor is a value. Applied to a matrix, or to a function of its entries, it returns the two factors, with an
# estimate of the error and the number of entries that it evaluated.

x = np.linspace(0, 1, 1000)
approximation = ACA(rtol=1e-8)(lambda i, j: 1 / (2 + x[i, None] + x[j]), (1000, 1000), rng=0)
print(approximation)
print(f"{approximation.entries} of {1000 * 1000} entries")

# %%
# The builds of hierarchical matrices approximate many blocks at once. Here 20 blocks of 300 rows and columns: points
# in a unit square, points in another one at some distance, and the logarithmic kernel between them.

rng = np.random.default_rng(0)
count, size = 20, 300
squares = rng.random((2, count, size, 2)) + np.array([[0.0, 0.0], [2.0, 0.5]])[:, None, None]
points = squares.reshape(-1, 2)
rows, cols = np.arange(2 * count * size).reshape(2, count, size)


def fresh_source():
    return KernelSource(Laplace(dim=2), points, points)


blocks = fresh_source().blocks(rows, cols)
norms = np.linalg.norm(blocks, axis=(1, 2))

# %%
# Each method at four tolerances: the largest error of a block, the mean rank, the share of the entries, the time.

methods = [
    TruncatedSVD,
    PivotedQR,
    Interpolative,
    RandomizedRange,
    GeneralizedNystrom,
    Chebyshev,
    ACA,
]
tolerances = 10.0 ** -np.arange(2, 9, 2)
results = {}
for method in methods:
    for rtol in tolerances:
        source, best = fresh_source(), np.inf
        for _ in range(2):  # the first call may have to load compiled code
            start = time.perf_counter()
            batch = method(rtol).compress(source, rows, cols, rng=1)
            best = min(best, time.perf_counter() - start)
        errors = np.linalg.norm(blocks - batch.left @ batch.right.swapaxes(1, 2), axis=(1, 2)) / norms
        results[method, rtol] = errors.max(), batch.ranks.mean(), batch.entries / blocks.size, best

print(f"{'at rtol = 1e-6':20s} {'error':>9s} {'rank':>6s} {'entries':>9s} {'time':>9s}")
for method in methods:
    error, rank, entries, seconds = results[method, tolerances[2]]
    print(f"{method.__name__:20s} {error:9.1e} {rank:6.1f} {100 * entries:7.1f} % {1000 * seconds:6.1f} ms")

# %%
# All meet the tolerance, at nearly the same ranks. Those that evaluate all entries know their error, or could know it;
# adaptive cross approximation and Chebyshev interpolation look at a small part, and check themselves on random entries.

figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
labels = ["largest error", "share of the entries evaluated", "time (s)"]
for ax, place, label in zip(axes, (0, 2, 3), labels, strict=True):
    for method in methods:
        ax.loglog(tolerances, [results[method, rtol][place] for rtol in tolerances], "o-", ms=4, label=method.__name__)
    ax.invert_xaxis()
    ax.set_xlabel("tolerance asked for")
    ax.set_ylabel(label)
axes[0].loglog(tolerances, tolerances, "k:", label="asked = got")
axes[0].legend(fontsize=8)
plt.show()

# %%
# Positive semidefinite blocks have a method of their own: the Nystroem approximation takes columns only, and the
# diagonal tells at any time how much is left.

x = np.sort(rng.random(2000))
covariance = Nystrom(rtol=1e-6)(lambda i, j: np.exp(-((x[i, None] - x[j]) ** 2) / 0.1), (2000, 2000), rng=2)
print(covariance)

# %%
# Where a cheap method cannot be trusted, it says so and does the work in a safer way. A random matrix has no low rank:

noise = ACA(rtol=1e-6)(rng.standard_normal((200, 200)), rng=3)
print(noise)
