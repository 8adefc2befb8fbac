"""Theorem 2.3 of Neural-HSS: an operator of HSS rank r is recovered exactly from O(r) random samples."""

import warnings

import numpy as np
import pytest
import torch

import structmat as sm
from structmat_nn import HSSLinear, LearnableLeakyReLU, fit

from .. import operators

N = 256


def operator_of_rank(rank, n=N):
    """A sum of decaying exponentials, which have rank two each: what a cluster gets from its left and its right."""
    x = np.arange(n) / n
    distance = np.abs(x[:, None] - x)
    return sum(np.exp(-(4.0**k) * distance) for k in range(rank // 2))


def recovered_from(count, operator, rank):
    rng = np.random.default_rng(count)
    inputs = rng.standard_normal((count, N))
    try:
        result = fit(inputs, inputs @ operator, leaf_size=2 * rank, rank=rank, rng=0)
    except sm.TooFewSamplesError:
        return False
    return result.white_noise_error(operator, samples=20, rng=1) < 1e-6


def test_the_smallest_number_of_samples_is_three_times_the_rank():
    """Leaves of 2 r, as all nodes above: 2 r samples for a node's own inputs, r for what comes from outside."""
    ranks = np.array([2, 4, 6, 8])
    smallest = []
    for rank in ranks:
        operator = operator_of_rank(rank)
        smallest.append(next(s for s in range(1, 6 * rank) if recovered_from(s, operator, rank)))
        assert all(recovered_from(s, operator, rank) for s in range(smallest[-1], smallest[-1] + 4))
    np.testing.assert_array_equal(smallest, 3 * ranks)


def test_it_does_not_grow_with_the_size_of_the_operator(rng):
    for n in (64, 256, 1024):
        green = operators.dirichlet(n)
        result = fit(*operators.white_pairs(green, 8, rng), leaf_size=4, rank=2)
        assert result.white_noise_error(green, rng=1) < 1e-9


@pytest.mark.parametrize(
    ("operator", "rank", "error"),
    [
        (operators.dirichlet(N), 1, 0.125),
        (operators.dirichlet(N), 2, 0.0),
        (operators.neumann(N), 2, 1.7e-2),
        (operators.neumann(N), 3, 0.0),
        (operators.heat_increment(N), 2, 7e-3),
        (operators.heat_increment(N), 4, 4e-4),
    ],
    ids=["Dirichlet 1", "Dirichlet 2", "Neumann 2", "Neumann 3", "heat 2", "heat 4"],
)
def test_what_the_structure_can_reach(operator, rank, error):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.AccuracyWarning)  # the rank is too small on purpose
        best = sm.HSSMatrix.from_dense(operator, sm.ClusterTree.balanced(N, 32), rtol=1e-13, max_rank=rank)
    found = np.linalg.norm(best.to_dense() - operator) / np.linalg.norm(operator)
    assert found == pytest.approx(error, rel=0.1, abs=1e-10)


# ---------------------------------------------------------------------------------------- training


def trained(n, samples, *, both_sides, steps, seed, levels=2):
    """Train LeakyReLU(W .) in float64 by L-BFGS with the penalty of the theorem; the loss and the white-noise error.

    The operator is the inverse of a well-conditioned elliptic one, and the slope starts far from 1.
    """
    operator = np.linalg.inv(np.diag(np.full(n, 3.2)) - np.eye(n, k=1) - np.eye(n, k=-1))
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(a) for a in operators.white_pairs(operator, samples, rng))
    layer, activation = HSSLinear(n, n, rank=2, levels=levels, dtype=torch.float64), LearnableLeakyReLU(0.5)
    activation.to(torch.float64)
    parameters = [*layer.parameters(), *activation.parameters()]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=steps, max_eval=2 * steps, history_size=300, tolerance_grad=1e-14,
        tolerance_change=1e-18, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss():
        misfit = (activation(layer(x)) - y).square().sum()
        if both_sides:  # y = A x and, A being symmetric, y = A^T x
            misfit = misfit + (activation(x @ layer.dense_weight()) - y).square().sum()
        return misfit + 0.5 * activation.penalty()

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    inputs, outputs = operators.white_pairs(operator, 200, rng)
    with torch.no_grad():
        missed = activation(layer(torch.from_numpy(inputs))).numpy() - outputs
        return float(loss() / y.square().sum()), float(np.linalg.norm(missed) / np.linalg.norm(outputs))


def test_training_recovers_it_from_fewer_samples_than_dimensions_with_the_adjoint():
    loss, error = trained(8, 7, both_sides=True, steps=120, seed=0, levels=1)
    assert loss < 1e-7
    assert error < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_training_recovers_larger_operators(seed):
    assert trained(32, 14, both_sides=True, steps=1000, seed=seed)[1] < 1e-4
    assert trained(16, 24, both_sides=False, steps=1000, seed=seed)[1] < 1e-4


@pytest.mark.slow
def test_outputs_alone_leave_it_open():
    """The theorem is silent on this: half as many samples as dimensions are fitted to rounding by a wrong operator."""
    loss, error = trained(32, 16, both_sides=False, steps=1000, seed=0)
    assert loss < 1e-7
    assert error > 0.05
