"""Solvers in one dimension against exact solutions, at their orders of convergence."""

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

import structmat as sm
from structmat import NonFiniteError, ShapeError
from structmat_nn import data
from structmat_nn.data.burgers import solve_burgers
from structmat_nn.data.convection import solve_convection_diffusion1d
from structmat_nn.data.heat import solve_heat
from structmat_nn.data.interval import (
    fine_points,
    heat_on_training_grid,
    poisson_on_training_grid,
    training_points,
)
from structmat_nn.data.poisson1d import solve_poisson1d, solve_poisson1d_neumann

SIZES = (32, 64, 128, 256)


def order(error_at):
    """The fitted slope of the logarithm of the error against that of the number of points."""
    return -np.polyfit(np.log(SIZES), np.log([error_at(size) for size in SIZES]), 1)[0]


def bump(x):
    """exp(x) cut to zero at the ends, and minus its second derivative."""
    return np.exp(x) - 1 - x * (np.e - 1), -np.exp(x)


# ---------------------------------------------------------------------------------------- Poisson


def test_dirichlet_is_of_the_fourth_order():
    def error(size):
        solution, forcing = bump(np.linspace(0, 1, size))
        return abs(solve_poisson1d(forcing) - solution).max()

    assert order(error) == pytest.approx(4, abs=0.1)
    assert error(256) < 1e-9


def test_end_values_are_lifted():
    x = np.linspace(0, 1, 129)
    solution = solve_poisson1d(-np.exp(x), boundary=(1.0, np.e))  # u = exp(x)
    np.testing.assert_allclose(solution, np.exp(x), rtol=1e-8)
    assert (solution[0], solution[-1]) == (1.0, np.e)


def test_neumann_is_of_the_second_order():
    def error(size):
        x = (np.arange(size) + 0.5) / size
        solution = x**2 * (1 - x) ** 2 - 1 / 30  # slopes and mean are zero
        return abs(solve_poisson1d_neumann(-(2 - 12 * x + 12 * x**2)) - solution).max()

    assert order(error) == pytest.approx(2, abs=0.1)


def test_neumann_is_the_pseudo_inverse():
    size = 24
    matrix = size**2 * (2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1))
    matrix[0, 0] = matrix[-1, -1] = size**2
    np.testing.assert_allclose(solve_poisson1d_neumann(np.eye(size)), np.linalg.pinv(matrix), atol=1e-14)


def test_convection_diffusion_is_of_the_second_order():
    convection = 5.0

    def error(size):
        x = np.arange(1, size + 1) / (size + 1)
        solution, minus_second = bump(x)
        forcing = minus_second + convection * (np.exp(x) - (np.e - 1))
        return abs(solve_convection_diffusion1d(forcing, convection=convection) - solution).max()

    assert order(error) == pytest.approx(2, abs=0.1)


def test_the_adjoint_is_the_transpose():
    inverse = solve_convection_diffusion1d(np.eye(20), convection=30.0).T
    transposed = solve_convection_diffusion1d(np.eye(20), convection=30.0, adjoint=True).T
    np.testing.assert_allclose(transposed, inverse.T, rtol=1e-11)
    assert np.linalg.norm(inverse - inverse.T) > 0.5 * np.linalg.norm(inverse)


# ----------------------------------------------------------------------- operators of the training grid


def test_the_operators_of_the_training_grid_are_symmetric():
    operator = poisson_on_training_grid(np.eye(64), 4)
    np.testing.assert_array_equal(operator, operator.T)
    heat = heat_on_training_grid(np.eye(64), 4, np.array([1e-3]))[:, 0]
    np.testing.assert_allclose(heat, heat.T, atol=1e-15)


def test_poisson_on_the_training_grid_has_hss_rank_two():
    operator = poisson_on_training_grid(np.eye(64), 4)
    for start in range(0, 64, 16):
        row = np.delete(operator[start : start + 16], slice(start, start + 16), axis=1)
        values = np.linalg.svd(row, compute_uv=False)
        assert values[2] < 1e-14 * values[0]


@pytest.mark.parametrize("name", ["poisson1d", "heat"])
def test_smooth_functions_see_the_same_operator_on_both_grids(name):
    """Thinned solutions of the fine grid approach those of the training grid, so both sets test one operator."""

    def difference(size):
        x = fine_points(size, 4)
        smooth = np.sin(3 * np.pi * x)[None] + np.sin(2 * np.pi * x)
        coarse = smooth[:, ::4]
        if name == "poisson1d":
            return abs(solve_poisson1d(smooth)[:, ::4] - poisson_on_training_grid(coarse, 4)).max()
        return abs(
            solve_heat(smooth, [0.0, 0.5], diffusivity=0.02)[:, 1, ::4]
            - heat_on_training_grid(coarse, 4, np.array([0.01]))[:, 0]
        ).max()

    assert order(difference) > 1.8
    assert difference(256) < 1e-5


# ------------------------------------------------------------------------------------------- heat


def test_heat_is_of_the_second_order():
    def error(size):
        x = np.linspace(0, 1, size)
        waves = np.sin(np.pi * np.outer([1, 3], x))
        exact = np.exp(-0.05 * np.pi**2) * waves[0] + 0.5 * np.exp(-0.05 * 9 * np.pi**2) * waves[1]
        initial = waves[0] + 0.5 * waves[1]
        return abs(solve_heat(initial[None], [0.0, 0.5], diffusivity=0.1)[0, 1] - exact).max()

    assert order(error) == pytest.approx(2, abs=0.1)


def test_heat_is_the_exponential_of_the_differences():
    size = 20
    inner = size - 2
    matrix = (np.eye(inner, k=1) + np.eye(inner, k=-1) - 2 * np.eye(inner)) * (size - 1) ** 2
    initial = np.zeros((inner, size))
    initial[:, 1:-1] = np.eye(inner)
    found = solve_heat(initial, [0.0, 0.3], diffusivity=0.01)[:, 1, 1:-1]
    np.testing.assert_allclose(found, scipy.linalg.expm(0.003 * matrix), atol=1e-14)


def test_bdf_agrees_to_its_tolerance():
    exact = data.load("heat", samples=2, size=64, cache=False)
    published = data.load("heat", samples=2, size=64, cache=False, method="bdf")
    difference = abs(published.trajectories - exact.trajectories).max()
    assert 1e-9 < difference < 2e-3  # the published tolerances are 1e-4 and 1e-6 a step
    tight = data.load("heat", samples=2, size=64, cache=False, method="bdf", rtol=1e-9, atol=1e-11)
    assert abs(tight.trajectories - exact.trajectories).max() < 1e-6


# ---------------------------------------------------------------------------------------- Burgers


def cole_hopf(x, time, viscosity, beta):
    """Exact: the logarithmic derivative of a heat kernel, a + exp(-nu pi^2 t) cos(pi x) with a = 1.2."""
    decay = np.exp(-viscosity * np.pi**2 * time)
    return 2 * viscosity * np.pi * decay * np.sin(np.pi * x) / (beta * (1.2 + decay * np.cos(np.pi * x)))


@pytest.mark.parametrize("beta", [1.0, 1e-2])
def test_burgers_is_of_the_second_order_in_space(beta):
    def error(size):
        x = np.arange(size) / size
        initial = cole_hopf(x, 0.0, 0.05, beta)[None]
        found = solve_burgers(initial, [0.0, 1.0], viscosity=0.05, beta=beta, rtol=1e-9, atol=1e-12)[0, 1]
        return abs(found - cole_hopf(x, 1.0, 0.05, beta)).max() * beta

    assert order(error) == pytest.approx(2, abs=0.1)
    assert error(256) < 1e-5


def waves(samples, size, rng):
    x = np.arange(size) / size
    values = rng.uniform(-1, 1, (samples, 3)) @ np.sin(2 * np.pi * np.outer([2, 3, 4], x))
    return values / abs(values).max(axis=1, keepdims=True)


def test_burgers_errors_in_time_follow_the_tolerance(rng):
    initial, times = waves(2, 64, rng), np.linspace(0, 1, 4)
    exact = solve_burgers(initial, times, viscosity=0.02, rtol=1e-11, atol=1e-13)
    for tolerance in (1e-3, 1e-5, 1e-7):
        found = solve_burgers(initial, times, viscosity=0.02, rtol=tolerance, atol=tolerance)
        assert 1e-3 * tolerance < abs(found - exact).max() < 10 * tolerance


def test_burgers_agrees_with_another_integrator(rng):
    size, viscosity, times = 64, 0.01, np.linspace(0, 1, 3)
    initial = waves(2, size, rng)

    def derivative(time, inner):
        u = np.concatenate([[0.0], inner, [0.0]])
        advection = (u[2:] ** 2 - u[:-2] ** 2 + u[1:-1] * (u[2:] - u[:-2])) * size / 6
        return viscosity * (u[2:] - 2 * u[1:-1] + u[:-2]) * size**2 - advection

    found = solve_burgers(initial, times, viscosity=viscosity, rtol=1e-8, atol=1e-10)
    for sample in range(2):
        other = scipy.integrate.solve_ivp(derivative, (0, 1), initial[sample, 1:], "BDF", times, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found[sample, :, 1:], other.y.T, atol=1e-5)
    assert not found[:, :, 0].any()


@pytest.mark.slow
def test_burgers_of_the_experiment_is_accurate_in_time():
    """Shocks included: the published viscosity, grid and tolerances, against tight ones."""
    counts = {"train": 4, "validation": 1, **dict.fromkeys(data.TEST_SETS, 1)}
    loose = data.load("burgers", samples=counts, cache=False)
    tight = data.load("burgers", samples=counts, cache=False, rtol=1e-8, atol=1e-10)
    difference = np.linalg.norm(loose.train.outputs - tight.train.outputs, axis=1)
    assert (difference / np.linalg.norm(tight.train.outputs, axis=1)).max() < 1e-3


def test_burgers_without_advection_is_the_heat_equation(rng):
    x = np.arange(65) / 64
    initial = np.zeros((1, 65))
    initial[:, :-1] = waves(1, 64, rng)
    heat = solve_heat(initial, [0.0, 0.4], diffusivity=0.01)[:, :, : len(x) - 1]
    found = solve_burgers(initial[:, :-1], [0.0, 0.4], viscosity=0.01, beta=0.0, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found, heat, atol=1e-8)


def test_burgers_never_gains_energy(rng):
    noise = rng.standard_normal((2, 64))
    noise[:, 0] = 0
    energy = (solve_burgers(noise, np.linspace(0, 0.2, 20), viscosity=1e-3) ** 2).sum(axis=2)
    assert (np.diff(energy, axis=1) < 1e-3 * energy[:, :1]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: solve_poisson1d(np.ones(5)), ShapeError, "at least 6 points"),
        (lambda: solve_poisson1d_neumann(1.0), ShapeError, "at least 2 points"),
        (lambda: solve_convection_diffusion1d([1.0], convection=1.0), ShapeError, "at least 2 points"),
        (lambda: solve_heat(np.ones(9), [0.0]), ShapeError, "initial must have shape"),
        (lambda: solve_heat(np.ones((1, 9)), [0.0], method="euler"), ValueError, "method must be"),
        (lambda: solve_burgers(np.ones(9), [0.0]), ShapeError, "initial must have shape"),
        (lambda: solve_burgers(np.full((1, 9), np.nan), [0.0]), NonFiniteError, "initial must be finite"),
        (lambda: solve_burgers(np.ones((1, 9)), [1.0, 0.5]), ValueError, "times must be increasing"),
        (lambda: solve_burgers(1e200 * np.ones((1, 9)), [0.0, 1.0]), RuntimeError, "step became too small at time 0"),
    ],
)
def test_solvers_name_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -------------------------------------------------------------------------------------- data sets


def test_training_grids_are_thinned_out_of_the_fine_ones():
    assert data.load("poisson1d", samples=1, cache=False).grid[0][-1] == 1020 / 1023
    np.testing.assert_array_equal(training_points(256, 4), np.linspace(0, 1, 1024)[::4])
    assert data.load("burgers", samples=1, size=16, step=0.1, horizon=0.1, cache=False).grid[0][1] == 1 / 16


def test_forcings_of_the_published_set_span_ten_dimensions():
    dataset = data.load("poisson1d", samples=40, cache=False)
    values = np.linalg.svd(dataset.train.inputs, compute_uv=False)
    assert values[9] > 1e-3 * values[0]
    assert values[10] < 1e-12 * values[0]
    assert np.linalg.svd(dataset.tests["white noise"].inputs, compute_uv=False)[-1] > 1


def test_random_end_values_are_a_second_channel_and_lifting_takes_them_out():
    lifted = data.load("poisson1d", samples=6, size=64, cache=False, boundary="random")
    plain = data.load("poisson1d", samples=6, size=64, cache=False)
    assert lifted.channels == (2, 1)
    for part, other in ((lifted.train, plain.train), (lifted.tests["white noise"], plain.tests["white noise"])):
        np.testing.assert_allclose(part.outputs - part.inputs[:, 1], other.outputs, atol=1e-15)
    assert abs(lifted.train.outputs[:, 0]).max() > 1e-3
    fixed = data.load("poisson1d", samples=6, size=64, cache=False, boundary=(1.0, 3.0))
    line = data.lift_dirichlet(fixed.grid[0], 1.0, 3.0)
    np.testing.assert_allclose(fixed.train.outputs - line, plain.train.outputs, atol=1e-14)


def test_pairs_of_trajectories_are_one_step_apart():
    dataset = data.load("heat", samples=3, size=64, cache=False)
    assert dataset.trajectories.shape == (3, 11, 64)
    pairs = dataset.tests["in span"]
    assert len(pairs) == 30
    np.testing.assert_array_equal(pairs.inputs[:10], dataset.trajectories[0, :-1])
    np.testing.assert_array_equal(pairs.outputs[:10], dataset.trajectories[0, 1:])
    np.testing.assert_allclose(abs(dataset.trajectories[:, 0]).max(axis=1), 1, atol=0.01)
    assert dataset.symmetric is True


def test_one_step_of_the_white_noise_set_is_the_operator_of_the_training_grid():
    dataset = data.load("heat", samples=2, size=32, cache=False)
    pairs = dataset.tests["white noise"]
    np.testing.assert_allclose(
        heat_on_training_grid(pairs.inputs, 4, np.array([2e-4 * 0.8]))[:, 0], pairs.outputs, atol=1e-14
    )


@pytest.mark.parametrize("train_on", ["sines", "white noise"])
def test_training_on_white_noise_is_a_setting(train_on):
    for name in ("poisson1d", "poisson1d-neumann", "convection-diffusion1d"):
        dataset = data.load(name, samples=40, size=32, cache=False, train_on=train_on)
        values = np.linalg.svd(dataset.train.inputs, compute_uv=False)
        assert (values[10] < 1e-10 * values[0]) == (train_on == "sines")


def test_adjoint_pairs_belong_to_the_transposed_operator():
    dataset = data.load("convection-diffusion1d", samples=30, size=32, cache=False)
    assert dataset.symmetric is False
    inner = dataset.adjoint.inputs @ dataset.train.outputs.T  # <g, A^-1 f>
    np.testing.assert_allclose(inner, dataset.adjoint.outputs @ dataset.train.inputs.T, atol=1e-12)
    smaller = dataset.take(5)
    assert (len(smaller.train), len(smaller.adjoint)) == (5, 5)


@pytest.mark.parametrize(("name", "rank"), [("poisson1d", 2), ("poisson1d-neumann", 3), ("convection-diffusion1d", 2)])
def test_white_noise_identifies_the_operator(name, rank):
    """Recovery from a dozen samples predicts the white-noise set to rounding, and the others as far as grids agree."""
    dataset = data.load(name, train_on="white noise", cache=False).take(14)
    pairs = dataset.train
    if dataset.symmetric:
        known = {"symmetric": True}
    else:
        known = {"adjoint_inputs": dataset.adjoint.inputs.T, "adjoint_outputs": dataset.adjoint.outputs.T}
    tree = sm.ClusterTree.balanced(256, leaf_size=8)
    recovered = sm.HSSMatrix.from_samples(pairs.inputs.T, pairs.outputs.T, tree, rank=rank, **known)
    for test, limit in (("white noise", 1e-11), ("in span", 1e-4), ("out of span", 1e-3)):
        expected = dataset.tests[test].outputs
        difference = np.linalg.norm((recovered @ dataset.tests[test].inputs.T).T - expected)
        assert difference < limit * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("heat", {"step": 0.3}, "horizon must be a whole number of steps"),
        ("heat", {"diffusivity": 0}, "diffusivity must be a number > 0"),
        ("heat", {"method": "euler"}, "method must be 'exact' or 'bdf'"),
        ("burgers", {"viscosity": -1.0}, "viscosity must be a number > 0"),
        ("burgers", {"beta": "one"}, "beta must be a number"),
        ("convection-diffusion1d", {"convection": None}, "convection must be a number"),
        ("poisson1d-neumann", {"train_on": "waves"}, "train_on must be"),
    ],
)
def test_settings_are_checked_by_name(name, setting, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, samples=1, size=16, cache=False, **setting)
