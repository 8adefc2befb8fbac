"""
Terrain from scattered heights
==============================

Gaussian-process regression in the plane: heights of the land at random places, what lies between them, and how well
that is known. The elevation model comes with matplotlib: the Jacksboro fault in Tennessee.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import cbook

from structmat.gp import HierarchicalGPRegressor
from structmat.kernelfunctions import Matern

# %%
# Heights in metres on a grid of 344 x 403 points, 90 metres apart; 1500 of them are known.

heights = np.load(cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))["elevation"].astype(float)
rows, columns = heights.shape
pick = np.random.default_rng(0).choice(heights.size, 1500, replace=False)
row, column = np.divmod(pick, columns)
x = 0.09 * np.column_stack([column, row])  # km
y = heights[row, column]

# %%
# The paths of this kernel are once differentiable. Its variance, its length and the noise are fitted.

gp = HierarchicalGPRegressor(100.0**2 * Matern(nu=1.5, length=2.0), noise=100.0, format="hmatrix", tol=3e-5)
gp.fit(x, y - y.mean())
variance, length = gp.kernel_.hyperparameters.values()
print(f"standard deviation {variance**0.5:.0f} m, length {length:.2f} km, noise {gp.noise_**0.5:.1f} m")
print(f"{gp.n_evaluations_} evaluations of the likelihood; ranks up to {gp.matrix_.max_rank}")

# %%
# In the plane the ranks of weak admissibility grow with the number of points; those of strong admissibility, between
# clusters that are apart, do not.

print(gp.matrix_.summary())

# %%
# Every fourth point of the grid, predicted.

grid_row, grid_column = np.meshgrid(np.arange(0, rows, 4), np.arange(0, columns, 4), indexing="ij")
places = 0.09 * np.column_stack([grid_column.ravel(), grid_row.ravel()])
mean, deviation = (a.reshape(grid_row.shape) for a in gp.predict(places, return_std=True))
truth = heights[::4, ::4]
error = mean + y.mean() - truth
print(f"root mean square error {np.sqrt(np.mean(error**2)):.0f} m, of heights that vary by {truth.std():.0f} m")
print(f"{np.mean(np.abs(error) < 2 * np.sqrt(deviation**2 + gp.noise_)):.0%} within two standard deviations")

# %%
# The land, its prediction, and the standard deviation, which is small where a height is known.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", sharey=True)
extent = (0, 0.09 * columns, 0.09 * rows, 0)
limits = {"vmin": truth.min(), "vmax": truth.max(), "cmap": "terrain"}
axes[0].imshow(truth, extent=extent, **limits)
axes[0].scatter(*x.T, s=0.3, color="black")
shown = axes[1].imshow(mean + y.mean(), extent=extent, **limits)
figure.colorbar(shown, ax=axes[:2], label="height, m")
spread = axes[2].imshow(deviation, extent=extent, cmap="magma")
figure.colorbar(spread, ax=axes[2], label="standard deviation, m")
for ax, title in zip(axes, ("the land, and where it is known", "prediction", "what it does not know"), strict=True):
    ax.set(title=title, xlabel="km")
plt.show()
