"""
The Laplace equation inside a star
==================================

The interior Dirichlet problem, as an integral equation of the second kind on the boundary: the solution is a
double-layer potential, whose density solves :math:`(-\\tfrac12 I + K)\\,\\sigma = f`. The matrix is
compressed, factored and solved; ``structmat demo`` does the same with 32768 nodes.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

import structmat as sm
from structmat import gallery

# %%
# The problem knows its curve, its entries, and an exact harmonic function to compare with.

problem = gallery.interior_laplace(4096)
A = sm.HSSMatrix.from_entries(problem.entries, problem.tree(leaf_size=64), rtol=1e-11)
print(A.summary())

# %%
# The tree is balanced in the parameter of the curve, so that its clusters are arcs.

A.plot()
plt.show()

# %%
# Solve for the density, and evaluate its potential inside. Close to the curve the quadrature needs more nodes
# than there are; the function leaves NaN where it would not be accurate.

density = A.solve(problem.boundary_values)
x = np.linspace(-1.33, 1.33, 200)
z = x[None, :] + 1j * x[:, None]
u = problem.potential(density, z)
error = np.abs(u - problem.harmonic(z)) / np.nanmax(np.abs(u))
print(f"largest relative error inside: {np.nanmax(error):.1e}")

# %%
# The solution, and its error.

figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
field = axes[0].pcolormesh(x, x, u, shading="nearest")
axes[0].contour(x, x, u, levels=20, colors="white", linewidths=0.4, linestyles="solid")
figure.colorbar(field, ax=axes[0], label="u")
norm = LogNorm(1e-16, 1e-9)
shown = axes[1].pcolormesh(x, x, np.maximum(error, 1e-16), norm=norm, cmap="magma", shading="nearest")
figure.colorbar(shown, ax=axes[1], label="relative error")
for ax, title in zip(axes, ("solution", "error"), strict=True):
    ax.plot(*np.append(problem.points, problem.points[:1], axis=0).T, color="black", linewidth=1)
    ax.set(title=title, aspect="equal", xlabel="x")
plt.show()
