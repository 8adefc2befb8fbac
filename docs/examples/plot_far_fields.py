"""
By what a cluster knows its far field
=====================================

An H2-matrix has one basis for each cluster, which has to serve everything far from it. The builders differ in what they
look at instead of all that. Here they compress the same matrices, and the errors are those against the dense matrix.

* `SampledFarField`: some of the far points themselves, more of the near ones. For any kernel, in any dimension.
* `ProxySurface`: points on a surface around the cluster's box, for fundamental solutions.
* `SelectedProxies`: points around the box that are chosen numerically, for functions of ``x - y``.
* `ChebyshevInterpolation`: none; the kernel is a polynomial on each admissible block, and is recompressed.
"""

import matplotlib.pyplot as plt
import numpy as np

import structmat as sm
from structmat.h2 import ChebyshevInterpolation, ProxySurface, SampledFarField, SelectedProxies
from structmat.kernelfunctions import Gaussian, Laplace

rng = np.random.default_rng(0)
problems = {
    "-log r, 2-D": (Laplace(dim=2), rng.random((3000, 2)), 1e-6),
    "1 / r, 3-D": (Laplace(dim=3), rng.random((3000, 3)), 1e-3),
    "Gaussian, 2-D": (Gaussian(0.3), rng.random((3000, 2)), 1e-6),
}
rules = [SampledFarField(), ProxySurface(), SelectedProxies(), ChebyshevInterpolation()]

# %%
# The entries are those besides the dense blocks and the check: what it costs to find the bases and to fill the
# couplings. Sampled far fields need the least storage: proxies all around a cluster ask for ranks that clusters at
# the edge of the points do not need, as nothing is outside.
print(f"{'kernel':14} {'far field':23} {'mean rank':>9} {'MB':>6} {'entries':>8} {'error / rtol':>12}")
ranks = {}
for name, (kernel, points, rtol) in problems.items():
    dense = kernel(points, points)
    for rule in rules:
        if isinstance(rule, ProxySurface) and not kernel.is_greens_function:
            continue
        A = sm.H2Matrix.from_kernel(kernel, points, rtol=rtol, far_field=rule)
        error = np.linalg.norm(A.to_dense() - dense) / np.linalg.norm(dense)
        mean = np.mean(A.ranks[-1])
        ranks.setdefault(name, {})[type(rule).__name__] = mean
        spent = A.certificate.entries - A.blocks.near.data.size
        label, megabytes = type(rule).__name__, A.nbytes / 1e6
        print(f"{name:14} {label:23} {mean:9.1f} {megabytes:6.1f} {spent / 1e6:7.2f}M {error / rtol:12.2f}")

# %%
# The mean rank of a leaf.
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for k, rule in enumerate(rules):
    label = type(rule).__name__
    found = [(place + 0.2 * k, r[label]) for place, r in enumerate(ranks.values()) if label in r]
    axes.bar(*zip(*found, strict=True), width=0.18, label=label)
axes.set_xticks(np.arange(len(ranks)) + 0.3, list(ranks))
axes.set_ylabel("mean rank of a leaf")
axes.legend(fontsize="small")
plt.show()
