"""
Closed form against training
============================

The Green's operator of :math:`-u'' = f` with :math:`u(0) = u(1) = 0`, learned from responses to white noise: by
block nullification, which is a few small factorisations, and by gradient steps on a layer of the same structure.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import structmat as sm
import structmat_nn

# %%
# Pairs of random forcings and solutions, one a row, and others to test on. "White-noise error" is the relative error
# for inputs that contain all frequencies alike.

n = 128
x = np.arange(1, n + 1) / (n + 1)
green = np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x))
rng = np.random.default_rng(0)
forcings = rng.standard_normal((640, n))
solutions = forcings @ green

# %%
# In closed form the operator is exact from about a dozen samples; fewer are refused.

counts = [6, 8, 10, 12, 16, 32, 64]
closed = []
for count in counts:
    try:
        result = structmat_nn.fit(forcings[:count], solutions[:count], leaf_size=8, rank=2)
    except sm.TooFewSamplesError as refusal:
        print(f"{count} samples: {refusal}")
        closed.append(np.nan)
    else:
        closed.append(result.white_noise_error(green, rng=1))

# %%
# The same structure as a layer, trained by AdamW on all samples at once. Both are given units in which inputs and
# outputs are of size one, without which training fails.


def trained(count, steps=300):
    """White-noise error of a layer after training on so many samples."""
    torch.manual_seed(0)
    layer = structmat_nn.HSSLinear(n, n, rank=2, levels=4, route="dense")
    size = solutions[:count].std()
    inputs = torch.from_numpy(forcings[:count]).float()
    targets = torch.from_numpy(solutions[:count] / size).float()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(inputs) - targets).square().mean().backward()
        optimizer.step()
        schedule.step()
    weight = size * layer.dense_weight().detach().numpy()
    return np.linalg.norm(weight - green) / np.linalg.norm(green)


many = [16, 64, 640]
by_steps = [trained(count) for count in many]
for count, error in zip(many, by_steps, strict=True):
    print(f"{count:4d} samples: trained to {error:.1e}")

# %%
# Training gains slowly with the samples, though the layer has far fewer parameters than they hold numbers: outputs
# alone determine the operator badly, while the closed form uses that it is symmetric. With noise on the solutions the
# closed form ends at a small multiple of it.

noise = 1e-3
disturbed = solutions + noise * np.sqrt(np.mean(solutions**2)) * rng.standard_normal(solutions.shape)
noisy = [12, 16, 32, 64, 160, 640]
with_noise = [
    structmat_nn.fit(forcings[:c], disturbed[:c], leaf_size=8, rank=2, noise=noise).white_noise_error(green, rng=1)
    for c in noisy
]

figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
axes.loglog(many, by_steps, "s-", label="trained, exact data")
axes.loglog(noisy, with_noise, "^-", label="closed form, noise of 1e-3")
axes.loglog(counts, closed, "o-", label="closed form, exact data")
axes.set(xlabel="samples", ylabel="relative error on white noise", ylim=(1e-16, 3))
axes.legend()
plt.show()
