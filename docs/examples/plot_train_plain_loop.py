"""
Training by a loop of one's own
===============================

`structmat_nn.train` brings checkpoints, logs and budgets. A model is a ``torch.nn.Module`` all the same: here is a
plain loop of PyTorch that trains it, on the Poisson equation in one dimension.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from structmat_nn import NeuralHSS, data, parameter_groups
from structmat_nn.data import MaximumNormaliser
from structmat_nn.training import CosineSchedule, LearnedOperator, evaluate

torch.set_num_threads(1)
dataset = data.load("poisson1d", samples=400, size=128, cache=False)

# %%
# The model maps numbers near one to numbers near one. Normalisers bring the data there, and back.

scale_inputs = MaximumNormaliser.fit(dataset.train.inputs)
scale_outputs = MaximumNormaliser.fit(dataset.train.outputs)
inputs = scale_inputs.normalise(torch.from_numpy(dataset.train.inputs)).float()  # (samples, points)
outputs = scale_outputs.normalise(torch.from_numpy(dataset.train.outputs)).float()

model = NeuralHSS(128, rank=2, levels=3, depth=2, seed=0)
print(f"{model.weight_parameter_count} weights; three dense layers have {3 * 128**2}")

# %%
# ``parameter_groups`` keeps the slopes of the activations out of the weight decay, which would drive them to zero. The
# order of the samples comes from a generator with a seed, and not from the global state.

epochs, batch_size = 80, 50
steps = epochs * (len(inputs) // batch_size)
optimiser = torch.optim.AdamW(parameter_groups(model, weight_decay=1e-3), betas=(0.9, 0.99), fused=True)
schedule = CosineSchedule(peak=3e-3, minimum=1e-5, steps=steps)
generator = torch.Generator().manual_seed(0)
operator = LearnedOperator(model, scale_inputs, scale_outputs)
validation = dataset.validation
history = []

step = 0
for epoch in range(epochs):
    for batch in torch.randperm(len(inputs), generator=generator).split(batch_size):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        optimiser.zero_grad()
        loss = (model(inputs[batch]) - outputs[batch]).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
    if epoch % 5 == 4:
        error = operator.predict(validation.inputs) - validation.outputs
        relative = np.linalg.norm(error, axis=1) / np.linalg.norm(validation.outputs, axis=1)
        history.append((step, relative.mean()))

# %%
# The operator works in physical units, on arrays of NumPy.

for name, errors in evaluate(operator, dataset).items():
    print(f"{name:12s} relative error {errors['relative_l2']:.1e}")

# %%
# The forcings of this data set span ten dimensions. The model has learned what the operator does to those, and nothing
# about white noise: no loop could change that, since the samples do not say it.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.semilogy(*zip(*history, strict=True))
left.set_xlabel("step")
left.set_ylabel("relative validation error")
test = dataset.tests["in span"].take(2)
for exact, predicted in zip(test.outputs, operator.predict(test.inputs), strict=True):
    (line,) = right.plot(dataset.grid[0], exact, linewidth=3, alpha=0.4)
    right.plot(dataset.grid[0], predicted, "--", color=line.get_color())
right.set_xlabel("x")
right.set_ylabel("u, exact and predicted")
plt.show()
