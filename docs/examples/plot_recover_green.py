"""
A Green's operator from 12 samples
==================================

Somebody solved :math:`-u'' = f` with :math:`u(0) = u(1) = 0` for 12 random right-hand sides and recorded the
pairs. They determine the whole operator, because its off-diagonal blocks have rank one: what a cluster gets
from its left and from its right together has rank two.
"""

import matplotlib.pyplot as plt
import numpy as np

import structmat as sm
from structmat import gallery

# %%
# The recorded pairs: columns of inputs and of outputs. Random inputs determine all blocks; smooth ones would
# not, because within a leaf they all look alike.

n, samples = 1024, 12
green = gallery.green_operator_1d(n)
inputs = np.random.default_rng(0).standard_normal((n, samples))
outputs = green.operator() @ inputs

# %%
# Leaves of 8 and ranks up to 2 need no more. The certificate of a recovered matrix holds a report on the
# samples: how many were given and needed, whether they span, and how well they determine the matrix.

tree = sm.ClusterTree.balanced(n, leaf_size=8)
G = sm.HSSMatrix.from_samples(inputs, outputs, tree, rank=2, symmetric=True)
for name, value in G.certificate.details.items():
    print(f"{name:15s} {value}")

# %%
# The recovered operator against the exact one, for an input that is not among the samples; and the error as
# the number of samples grows. Too few samples are refused, with the number that is missing.

f = np.sign(np.sin(7 * np.pi * green.points))
counts, errors = range(8, 21), []
exact = green.dense()
for count in counts:
    try:
        recovered = sm.HSSMatrix.from_samples(inputs[:, :count], outputs[:, :count], tree, rank=2, symmetric=True)
    except sm.TooFewSamplesError as refusal:
        errors.append(np.nan)
        print(f"{count} samples: {refusal}")
    else:
        errors.append(np.linalg.norm(recovered.to_dense() - exact) / np.linalg.norm(exact))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.plot(green.points, green.operator() @ f, linewidth=4, color="lightgray", label="exact")
left.plot(green.points, G @ f, "--", color="black", label="recovered")
left.set(xlabel="x", ylabel="u", title="response to a step function")
left.legend(loc="lower left", framealpha=1)
right.semilogy(counts, errors, "o-")
right.set(xlabel="samples", ylabel="relative error of all entries", xlim=(7.5, 20.5), ylim=(1e-17, 1))
plt.show()
