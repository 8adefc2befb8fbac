"""
Carbon dioxide on Mauna Loa
===========================

Weekly means of the concentration of carbon dioxide in the air, 1958 to 2001, as a Gaussian process: a smooth trend, a
season whose shape drifts, irregularities of a few months or years, and noise. The covariance matrix of the weeks is
compressed, so that the likelihood of the hyperparameters and its gradient take almost linear time. The model
is close to that of section 5.4.3 in C. E. Rasmussen and C. K. I. Williams, *Gaussian Processes for Machine Learning*,
MIT Press, 2006.
"""

import matplotlib.pyplot as plt
import numpy as np
from statsmodels.datasets import co2

from structmat.gp import HierarchicalGPRegressor
from structmat.kernelfunctions import Gaussian, Matern, Periodic

# %%
# The record comes with statsmodels; some of its weeks are missing. What follows 1998 is kept back.

record = co2.load_pandas().data.dropna()
year = (record.index.year + (record.index.day_of_year - 1) / 365.25).to_numpy()
ppm = record["co2"].to_numpy()
known = year < 1999
print(f"{known.sum()} weeks to learn from, {(~known).sum()} to predict")

# %%
# Kernels add and multiply. A season is a year long: that number is not fitted.

trend = 60.0**2 * Matern(nu=2.5, length=60.0)
season = 2.0**2 * Gaussian(length=100.0) * Periodic(length=1.0, period=1.0)
irregularities = 0.5**2 * Matern(nu=0.5, length=1.0)
kernel = trend + season + irregularities
print("\n".join(kernel.hyperparameters))

# %%
# The tolerance of the matrix is chosen such that its error stays far below the noise, which keeps it positive definite.

gp = HierarchicalGPRegressor(kernel, noise=0.1, format="hodlr", bounds={"1.1.period": "fixed"}, tol=1e-5)
mean_of_known = ppm[known].mean()
gp.fit(year[known, None], ppm[known] - mean_of_known)
print(f"{gp.n_evaluations_} evaluations, log marginal likelihood {gp.log_marginal_likelihood_value_:.1f}")
print(*gp.kernel_.parts, f"noise {gp.noise_:.3f}", sep="\n")
print(gp.matrix_.summary())

# %%
# The prediction with its band of two standard deviations: of the process, and of the weeks that were kept back.

ahead = np.linspace(1994, 2006, 1200)
mean, deviation = gp.predict(ahead[:, None], return_std=True)
mean += mean_of_known
deviation = np.sqrt(deviation**2 + gp.noise_)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=(2, 3))
axes[0].plot(year, ppm, linewidth=0.6)
axes[0].axvspan(year[known][-1], year[-1], alpha=0.15, color="gray")
axes[0].set(title="the record", xlabel="year", ylabel="carbon dioxide, ppm")
axes[1].fill_between(ahead, mean - 2 * deviation, mean + 2 * deviation, alpha=0.3, label="two standard deviations")
axes[1].plot(ahead, mean, linewidth=1, label="prediction")
axes[1].plot(year[known], ppm[known], ".", markersize=2, color="black", label="learnt from")
axes[1].plot(year[~known], ppm[~known], ".", markersize=2, color="tab:red", label="kept back")
axes[1].set(title="prediction", xlabel="year", xlim=(1994, 2006), ylim=(352, 390))
axes[1].legend(loc="upper left")
plt.show()

# %%
# How far off the prediction is, in units of what it says of itself.

mean, deviation = gp.predict(year[~known, None], return_std=True)
missed = (ppm[~known] - mean_of_known - mean) / np.sqrt(deviation**2 + gp.noise_)
print(f"{np.mean(np.abs(missed) < 2):.0%} of the weeks kept back lie within two standard deviations")
