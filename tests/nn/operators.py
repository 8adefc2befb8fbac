"""Operators of one dimension with known structure, and samples of them."""

import numpy as np


def dirichlet(n):
    """The Green's operator of -u'' = f with u(0) = u(1) = 0 on n inner points."""
    x = np.arange(1, n + 1) / (n + 1)
    return np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x)) / (n + 1)


def neumann(n):
    """The pseudo-inverse of -u'' with zero slopes, on n cells."""
    laplacian = np.diag(np.r_[1.0, np.full(n - 2, 2.0), 1.0]) - np.eye(n, k=1) - np.eye(n, k=-1)
    return np.linalg.pinv(laplacian * n**2)


def heat_increment(n, dt=0.2, diffusivity=2e-4):
    """The propagator of the heat equation over dt, minus the identity."""
    values, vectors = np.linalg.eigh(_second_difference(n))
    return (vectors * np.expm1(-dt * diffusivity * values)) @ vectors.T


def convection_diffusion(n, speed=20.0):
    """The inverse of -u'' + speed u' (upwind) with zero boundary values: not symmetric."""
    return np.linalg.inv(_second_difference(n) + speed * (n + 1) * (np.eye(n) - np.eye(n, k=-1)))


def _second_difference(n):
    return (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * (n + 1) ** 2


def white_pairs(operator, samples, rng, noise=0.0):
    """White-noise inputs (samples, n) and outputs (samples, m) with noise, relative to their norm."""
    inputs = rng.standard_normal((samples, operator.shape[1]))
    outputs = inputs @ operator.T
    deviation = rng.standard_normal(outputs.shape)
    return inputs, outputs + noise * np.linalg.norm(outputs) / np.linalg.norm(deviation) * deviation


def smooth_pairs(operator, samples, rng, modes=10):
    """Sums of sines with random coefficients, as in the Poisson data of Neural-HSS: they span `modes` dimensions."""
    n = operator.shape[1]
    x = np.arange(1, n + 1) / (n + 1)
    inputs = rng.random((samples, modes)) @ np.sin(2 * np.pi * np.outer(np.arange(1, modes + 1), x))
    return inputs, inputs @ operator.T
