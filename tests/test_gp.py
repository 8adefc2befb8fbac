"""Gaussian-process regression against dense Cholesky, finite differences and scikit-learn."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.linalg

import structmat as sm
from structmat import kernelfunctions as kf
from structmat.gp import DenseCovariance, HierarchicalGPRegressor, MarginalLikelihood
from structmat.gp.covariance import available_formats, choose_format

KERNEL = 2.0 * kf.Gaussian(2.5) * kf.Periodic(1.2, 1.5) + 0.7 * kf.Matern(1.5, 0.8)
NAMES = (*KERNEL.hyperparameters, "noise")
COMPRESSED = [name for name in available_formats() if name != "dense"]


def line_data(n, rng, columns=None):
    x = np.sort(10.0 * rng.random(n))[:, None]
    clean = np.sin(x[:, 0]) + 0.5 * np.cos(3 * x[:, 0])
    if columns is None:
        return x, clean + 0.1 * rng.standard_normal(n)
    return x, clean[:, None] * np.arange(1, columns + 1) + 0.1 * rng.standard_normal((n, columns))


def dense_reference(x, y, kernel, noise):
    """Write out the likelihood and its gradient: plain formulas on dense arrays."""
    y = y.reshape(len(y), -1)
    k = kernel(x, x) + noise * np.eye(len(x))
    factor = scipy.linalg.cho_factor(k, lower=True)
    inverse, a = scipy.linalg.cho_solve(factor, np.eye(len(x))), scipy.linalg.cho_solve(factor, y)
    logdet = 2 * np.log(np.diag(factor[0])).sum()
    value = sum(-0.5 * y[:, j] @ a[:, j] - 0.5 * logdet - 0.5 * len(x) * np.log(2 * np.pi) for j in range(y.shape[1]))
    outer = a @ a.T - y.shape[1] * inverse
    matrices = [kernel.derivative(name)(x, x) for name in kernel.hyperparameters] + [noise * np.eye(len(x))]
    return value, np.array([0.5 * np.vdot(outer, m) for m in matrices])


# ------------------------------------------------------------------------------------- likelihood


@pytest.mark.parametrize("format", ["dense", *COMPRESSED])
@pytest.mark.parametrize("columns", [None, 3])
def test_likelihood_and_gradient_are_those_of_dense_cholesky(format, columns, rng):
    x, y = line_data(700, rng, columns)
    value, gradient = dense_reference(x, y, KERNEL, 0.04)
    found = MarginalLikelihood(x, y, format=format, rtol=1e-10).evaluate(KERNEL, 0.04, gradient=NAMES)
    assert found.accurate
    assert found.value == pytest.approx(value, rel=1e-8)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    assert found.gradient_error.tolist() == [0.0] * len(NAMES)


@pytest.mark.parametrize("format", ["dense", *COMPRESSED])
def test_the_gradient_is_the_slope_of_the_likelihood(format, rng):
    x, y = line_data(400, rng)
    gp = HierarchicalGPRegressor(KERNEL, noise=0.05, format=format, rtol=1e-11, optimizer=None).fit(x, y)
    _, gradient = gp.log_marginal_likelihood(gp.theta_, eval_gradient=True)
    step = 1e-4
    for k in range(len(NAMES)):
        moved = [gp.log_marginal_likelihood(gp.theta_ + sign * step * (np.arange(len(NAMES)) == k)) for sign in (1, -1)]
        assert gradient[k] == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("format", COMPRESSED)
def test_without_a_tolerance_the_error_stays_far_below_the_noise(format, rng):
    x, y = line_data(900, rng)
    for noise in (1e-2, 1e-6):
        problem = MarginalLikelihood(x, y, format=format)
        found = problem.evaluate(KERNEL, noise)
        error = np.linalg.norm(found.matrix.to_dense() - KERNEL(x, x) - noise * np.eye(900))
        assert error < 1e-2 * noise
        assert found.value == pytest.approx(dense_reference(x, y, KERNEL, noise)[0], rel=1e-5)


@pytest.mark.parametrize("format", COMPRESSED)
@pytest.mark.parametrize("dimension", [2, 3])
def test_two_and_three_dimensions(format, dimension, rng):
    x = rng.random((500, dimension))
    y = np.sin(4 * x[:, 0]) * x[:, 1] + 0.05 * rng.standard_normal(500)
    kernel = 1.5 * kf.Matern(2.5, 0.6)
    value, gradient = dense_reference(x, y, kernel, 0.01)
    with warnings.catch_warnings():  # weak admissibility has little to offer here
        warnings.simplefilter("ignore", sm.StructureWarning)
        found = MarginalLikelihood(x, y, format=format, rtol=1e-10).evaluate(
            kernel, 0.01, gradient=("variance", "length", "noise")
        )
    assert found.value == pytest.approx(value, rel=1e-8)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-6)


@pytest.mark.parametrize("format", COMPRESSED)
def test_terrain_like_data_at_the_default_tolerance(format, rng):
    """Many points in the plane and a rough kernel, far from rank one: the far field and the columns count."""
    x = 30.0 * rng.random((1200, 2))
    y = 100.0 * np.sin(0.3 * x[:, 0]) * np.cos(0.2 * x[:, 1]) + 10.0 * rng.standard_normal(1200)
    kernel = 100.0**2 * kf.Matern(1.5, 2.0)
    value, gradient = dense_reference(x, y, kernel, 100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.StructureWarning)
        found = MarginalLikelihood(x, y, format=format).evaluate(
            kernel, 100.0, gradient=("variance", "length", "noise")
        )
    assert found.accurate
    assert found.value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-5)


@pytest.mark.parametrize("format", COMPRESSED)
def test_the_gradient_of_an_ill_conditioned_covariance_at_the_default_tolerance(format, rng):
    """A trend and a season as of the carbon dioxide record: condition number 1e8."""
    x = np.sort(40.0 * rng.random(900))[:, None]
    y = 40.0 * np.sin(x[:, 0] / 20.0) + 3.0 * np.sin(2 * np.pi * x[:, 0]) + 0.3 * rng.standard_normal(900)
    kernel = 60.0**2 * kf.Matern(2.5, 60.0) + 2.0**2 * kf.Gaussian(100.0) * kf.Periodic(1.0, 1.0)
    names = (*kernel.hyperparameters, "noise")
    value, gradient = dense_reference(x, y, kernel, 0.1)
    found = MarginalLikelihood(x, y, format=format).evaluate(kernel, 0.1, gradient=names)
    assert found.accurate
    assert found.value == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


def test_factors_that_miss_the_tolerance_are_reported(rng, monkeypatch):
    """H-Cholesky truncates, so that its error counts as much as that of the matrix."""
    x = 30.0 * rng.random((600, 2))
    problem = MarginalLikelihood(x, np.sin(x[:, 0]), format="hmatrix", rtol=1e-8)
    assert problem.evaluate(kf.Matern(1.5, 2.0), 0.01).accurate
    exact = sm.HMatrix.factorize

    def coarse(self, **options):
        return exact(self, **options, rtol=1e-5)

    monkeypatch.setattr(sm.HMatrix, "factorize", coarse)
    with pytest.warns(sm.AccuracyWarning, match="did not meet its tolerance"):
        assert not problem.evaluate(kf.Matern(1.5, 2.0), 0.01).accurate


@pytest.mark.parametrize("format", ["dense", *COMPRESSED])
def test_the_stochastic_gradient_states_its_error(format, rng):
    x, y = line_data(600, rng)
    _, gradient = dense_reference(x, y, KERNEL, 0.04)
    problem = MarginalLikelihood(x, y, format=format, rtol=1e-10, trace="stochastic", probes=100, rng=1)
    found = problem.evaluate(KERNEL, 0.04, gradient=NAMES)
    assert (found.gradient_error > 0).all()
    assert (np.abs(found.gradient - gradient) < 4 * found.gradient_error).all()
    assert np.abs(found.gradient - gradient).max() > 1e-4  # it is an estimate
    again = problem.evaluate(KERNEL, 0.04, gradient=NAMES)
    np.testing.assert_array_equal(found.gradient, again.gradient)  # the same random vectors in every evaluation


def test_a_format_without_a_trace_of_its_own_goes_through_the_inverse(rng, monkeypatch):
    x, y = line_data(500, rng)
    _, gradient = dense_reference(x, y, KERNEL, 0.04)
    monkeypatch.delattr(sm.HSSMatrix, "_trace_of_solve")
    found = MarginalLikelihood(x, y, format="hss", rtol=1e-12).evaluate(KERNEL, 0.04, gradient=NAMES)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max())


def test_a_lost_pivot_names_itself_and_the_way_out(rng):
    x, y = line_data(600, rng)
    kernel = 1e4 * kf.Gaussian(3.0)
    for format in ("dense", *COMPRESSED):
        with pytest.raises(sm.NotPositiveDefiniteError, match=r"lost a pivot .* rtol .* tighter rtol or more noise"):
            MarginalLikelihood(x, y, format=format, rtol=1e-4).evaluate(kernel, 1e-14)


# ------------------------------------------------------------------------------------------- fits


def test_a_fit_survives_lost_pivots_and_reports_them(rng):
    x, y = line_data(300, rng)
    y = np.sin(x[:, 0])  # the likelihood grows as the noise vanishes, until the matrix is no longer definite
    gp = HierarchicalGPRegressor(
        1.0 * kf.Gaussian(2.0), noise=1e-3, format="hss", rtol=1e-9, bounds={"noise": (1e-12, 1.0)}
    )
    with pytest.warns(sm.AccuracyWarning, match=r"\d+ of \d+ evaluations of the likelihood lost a pivot"):
        gp.fit(x, y)
    assert 0 < gp.failed_evaluations_ < gp.n_evaluations_
    start = HierarchicalGPRegressor(1.0 * kf.Gaussian(2.0), noise=1e-3, optimizer=None).fit(x, y)
    assert gp.log_marginal_likelihood_value_ > start.log_marginal_likelihood_value_ + 100
    assert np.abs(gp.predict(x) - y).max() < 1e-3


def test_a_start_that_fails_is_an_error(rng):
    x, y = line_data(300, rng)
    gp = HierarchicalGPRegressor(1e4 * kf.Gaussian(3.0), noise=1e-9, format="hss", rtol=1e-5)
    with pytest.raises(sm.NotPositiveDefiniteError, match="tighter rtol or more noise"):
        gp.fit(x, y)


@pytest.mark.parametrize("format", ["dense", "hss"])
def test_hyperparameters_are_found_again(format):
    rng = np.random.default_rng(3)
    x = np.sort(60.0 * rng.random(900))[:, None]
    kernel = 2.0 * kf.Matern(1.5, 1.0)
    y = np.linalg.cholesky(kernel(x, x) + 0.05 * np.eye(900)) @ rng.standard_normal(900)
    gp = HierarchicalGPRegressor(1.0 * kf.Matern(1.5, 3.0), noise=0.5, format=format).fit(x, y)
    assert gp.kernel_.hyperparameters["length"] == pytest.approx(1.0, rel=0.3)
    assert gp.kernel_.hyperparameters["variance"] == pytest.approx(2.0, rel=0.5)
    assert gp.noise_ == pytest.approx(0.05, rel=0.2)
    _, gradient = gp.log_marginal_likelihood(eval_gradient=True)
    assert np.abs(gradient).max() < 0.5


@pytest.mark.parametrize("format", COMPRESSED)
def test_the_compressed_fit_is_the_dense_fit(format, rng):
    x, y = line_data(500, rng)
    fits = [
        HierarchicalGPRegressor(1.0 * kf.Matern(2.5, 1.0), noise=0.1, format=format, tol=1e-10).fit(x, y)
        for format in ("dense", format)
    ]
    np.testing.assert_allclose(fits[0].theta_, fits[1].theta_, atol=1e-3)
    new = np.linspace(-1, 11, 50)[:, None]
    for one, other in zip(*(fit.predict(new, return_std=True) for fit in fits), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_restarts_find_a_better_optimum_and_repeat(rng):
    x, y = line_data(150, rng)
    start = 1.0 * kf.Gaussian(30.0)
    options = {"noise": 1.0, "bounds": {"length": (0.01, 100.0), "variance": (0.1, 10.0), "noise": (1e-4, 2.0)}}
    one = HierarchicalGPRegressor(start, **options).fit(x, y)
    many = [
        HierarchicalGPRegressor(start, n_restarts_optimizer=4, random_state=5, **options).fit(x, y) for _ in range(2)
    ]
    assert many[0].log_marginal_likelihood_value_ >= one.log_marginal_likelihood_value_ - 1e-6
    assert many[0].n_evaluations_ > one.n_evaluations_
    np.testing.assert_array_equal(many[0].theta_, many[1].theta_)


def test_what_is_fixed_stays(rng):
    x, y = line_data(200, rng)
    gp = HierarchicalGPRegressor(1.0 * kf.Gaussian(1.0), noise=0.02, bounds={"length": "fixed", "noise": "fixed"}).fit(
        x, y
    )
    assert gp.theta_names_ == ("variance",)
    assert gp.kernel_.hyperparameters["length"] == pytest.approx(1.0, rel=1e-15)
    assert gp.noise_ == 0.02
    assert gp.kernel_.hyperparameters["variance"] != 1.0
    bounded = HierarchicalGPRegressor(1.0 * kf.Gaussian(1.0), bounds={"length": (0.9, 1.1)}).fit(x, y)
    assert 0.9 * (1 - 1e-12) <= bounded.kernel_.hyperparameters["length"] <= 1.1 * (1 + 1e-12)


def test_an_optimiser_that_runs_out_of_iterations_says_so(rng):
    x, y = line_data(100, rng)
    with pytest.warns(sm.AccuracyWarning, match="ITERATIONS"):
        gp = HierarchicalGPRegressor(KERNEL, max_iter=1).fit(x, y)
    assert gp.n_iter_ == 1


# ------------------------------------------------------------------------------------ predictions


@pytest.mark.parametrize("format", ["dense", *COMPRESSED])
@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_predictions_are_those_of_dense_formulas(format, columns, normalize, rng):
    x, y = line_data(400, rng, columns)
    new = np.linspace(-2, 12, 300)[:, None]  # more than one chunk
    gp = HierarchicalGPRegressor(
        KERNEL, noise=0.04, format=format, rtol=1e-11, optimizer=None, normalize_y=normalize
    ).fit(x, y)
    center, scale = (y.mean(axis=0), y.std(axis=0)) if normalize else (0.0, np.ones(y.shape[1:]))
    k, cross = KERNEL(x, x) + 0.04 * np.eye(400), KERNEL(x, new)
    expected = cross.T @ np.linalg.solve(k, (y - center) / scale) * scale + center
    covariance = KERNEL(new, new) - cross.T @ np.linalg.solve(k, cross)
    mean, std = gp.predict(new, return_std=True)
    np.testing.assert_allclose(mean, expected, atol=1e-7)
    np.testing.assert_allclose(gp.predict(new), mean)
    assert std.shape == mean.shape
    np.testing.assert_allclose(std, np.multiply.outer(np.sqrt(np.diag(covariance)), scale), atol=1e-7)
    _, found = gp.predict(new, return_cov=True)
    np.testing.assert_allclose(found, np.multiply.outer(covariance, np.square(scale)), atol=1e-7 * np.max(scale) ** 2)


def test_samples_have_the_posterior_moments(rng):
    x, y = line_data(80, rng, 2)
    gp = HierarchicalGPRegressor(KERNEL, noise=0.04, optimizer=None, normalize_y=True).fit(x, y)
    new = np.linspace(0, 12, 15)[:, None]
    mean, std = gp.predict(new, return_std=True)
    draws = gp.sample_y(new, 4000, random_state=1)
    assert draws.shape == (15, 2, 4000)
    np.testing.assert_allclose(draws.mean(axis=2), mean, atol=5 * std.max() / np.sqrt(4000))
    np.testing.assert_allclose(draws.std(axis=2), std, rtol=0.1, atol=1e-6)
    np.testing.assert_array_equal(draws, gp.sample_y(new, 4000, random_state=1))
    flat = HierarchicalGPRegressor(KERNEL, noise=0.04, optimizer=None).fit(x, y[:, 0])
    assert flat.sample_y(new, 3).shape == (15, 3)


def test_duplicates_constant_data_and_one_point(rng):
    x, y = line_data(100, rng)
    doubled = HierarchicalGPRegressor(KERNEL, noise=0.04, format="hss", rtol=1e-11, leaf_size=16, optimizer=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.StructureWarning)
        doubled.fit(np.repeat(x, 2, axis=0), np.repeat(y, 2))
    once = HierarchicalGPRegressor(KERNEL, noise=0.02, optimizer=None).fit(x, y)  # two data are one of half the noise
    np.testing.assert_allclose(doubled.predict(x), once.predict(x), atol=1e-7)

    constant = HierarchicalGPRegressor(normalize_y=True).fit(x, np.full(100, 3.0))
    np.testing.assert_allclose(constant.predict([[3.3], [40.0]]), 3.0, atol=1e-8)

    single = HierarchicalGPRegressor(1.0 * kf.Gaussian(1.0), noise=0.25, format="hss", optimizer=None).fit(
        [[1.0]], [2.0]
    )
    mean, std = single.predict([[1.0], [2.0]], return_std=True)
    np.testing.assert_allclose(mean, [2.0 / 1.25, 2.0 * np.exp(-0.5) / 1.25])
    np.testing.assert_allclose(std**2, [1 - 1 / 1.25, 1 - np.exp(-1) / 1.25])


# --------------------------------------------------------------------------------- formats, input


def test_the_format_follows_size_and_dimension():
    assert choose_format("auto", 100, 1) == choose_format("auto", 10**5, 7) == "dense"
    assert choose_format("auto", 10**5, 1) == "hodlr"
    assert choose_format("auto", 10**5, 2) == choose_format("auto", 10**5, 3) == "hmatrix"
    with pytest.raises(ValueError, match=r'format must be "auto" or one of dense, .*hss, but it is \'csr\''):
        choose_format("csr", 10, 1)


def test_a_format_counts_once_it_has_a_cholesky_factorisation(monkeypatch):
    assert "hss" in available_formats()
    monkeypatch.setattr(sm.HSSMatrix, "factorize", lambda self: None)
    assert "hss" not in available_formats()


def test_the_dense_twin(rng):
    x = rng.random((30, 2))
    kernel = kf.Gaussian(0.5)
    a = DenseCovariance.from_kernel(kernel, x).add_diagonal(0.1)
    dense = kernel(x, x) + 0.1 * np.eye(30)
    b = rng.standard_normal((30, 2))
    factored = a.factorize(positive_definite=True)
    np.testing.assert_allclose(a.to_dense(), dense)
    np.testing.assert_allclose(a @ b, dense @ b)
    np.testing.assert_allclose(factored.solve(b), np.linalg.solve(dense, b))
    np.testing.assert_allclose(factored.inverse().to_dense(), np.linalg.inv(dense))
    assert factored.slogdet() == pytest.approx(tuple(np.linalg.slogdet(dense)))
    assert a.trace() == pytest.approx(np.trace(dense))
    assert a.nbytes == 7200
    assert a.max_rank == 30
    np.testing.assert_allclose(a.diagonal(), np.diag(dense))


X, Y = np.arange(6.0)[:, None], np.arange(6.0)


@pytest.mark.parametrize(
    ("options", "data", "error", "message"),
    [
        ({}, (X[:, 0], Y), sm.ShapeError, r"X must be 2-D, \(n, d\), but its shape is \(6,\). Reshape your data"),
        ({}, (X, Y[:5]), sm.ShapeError, "X and y must have one length, but X has 6 rows and y has 5"),
        ({}, (X * np.nan, Y), sm.NonFiniteError, "X must be finite, but 6 of its 6 entries are NaN"),
        ({}, (X, np.full(6, np.inf)), sm.NonFiniteError, "y must be finite"),
        ({}, (X[:0], Y[:0]), sm.ShapeError, r"X has 0 sample\(s\)"),
        ({}, (X[:, :0], Y), sm.ShapeError, r"X has 0 feature\(s\)"),
        ({}, (X, None), ValueError, "the target y is None"),
        ({}, (X, Y.reshape(6, 1, 1)), sm.ShapeError, r"y must have shape \(n,\) or \(n, m\)"),
        ({}, (X * 1j, Y), ValueError, "Complex data not supported"),
        ({"kernel": np.exp}, (X, Y), TypeError, "kernel must be a kernel of structmat.kernelfunctions"),
        ({"noise": -1.0}, (X, Y), ValueError, "noise must be a finite number >= 0"),
        ({"optimizer": "BFGS"}, (X, Y), ValueError, 'optimizer must be "L-BFGS-B" or None'),
        ({"n_restarts_optimizer": -1}, (X, Y), ValueError, "n_restarts_optimizer must be at least 0"),
        ({"bounds": {"width": (1, 2)}}, (X, Y), ValueError, "bounds names width, but the hyperparameters are variance"),
        ({"bounds": {"length": (2, 3)}}, (X, Y), ValueError, r"must be positive and hold the start: 0 < low <= 1 <="),
        ({"bounds": {"length": 3}}, (X, Y), ValueError, r"must be \(low, high\) or \"fixed\", but it is 3"),
        ({"trace": "guess"}, (X, Y), ValueError, 'trace must be "exact" or "stochastic"'),
        ({"format": "csr"}, (X, Y), ValueError, 'format must be "auto" or one of dense'),
        ({"rtol": -1.0}, (X, Y), ValueError, "rtol must be a finite number >= 0"),
        ({"leaf_size": 0}, (X, Y), ValueError, "leaf_size must be at least 1"),
    ],
)
def test_bad_input(options, data, error, message):
    with pytest.raises(error, match=message):
        HierarchicalGPRegressor(**options).fit(*data)


def test_bad_use(rng):
    gp = HierarchicalGPRegressor(optimizer=None)
    with pytest.raises(ValueError, match=r"is not fitted yet; call fit\(X, y\) first"):
        gp.predict(X)
    gp.fit(X, Y)
    with pytest.raises(ValueError, match="ask for one of return_std and return_cov"):
        gp.predict(X, return_std=True, return_cov=True)
    with pytest.raises(ValueError, match="X has 2 features, but HierarchicalGPRegressor"):
        gp.predict(np.ones((3, 2)))
    with pytest.raises(
        sm.ShapeError, match=r"theta must have shape \(3,\), one logarithm each of variance, length, noise"
    ):
        gp.log_marginal_likelihood(np.zeros(2))
    with pytest.raises(sm.ShapeError, match="values has 5 rows, but there are 6 points"):
        MarginalLikelihood(X, Y[:5])


def test_a_fitted_regressor_can_be_pickled(rng):
    x, y = line_data(300, rng)
    gp = HierarchicalGPRegressor(KERNEL, format="hss", optimizer=None).fit(x, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(gp)).predict(x), gp.predict(x))


# ----------------------------------------------------------------------------------- scikit-learn


PAIRS = [  # (our kernel, the name and arguments of scikit-learn's)
    (kf.Gaussian(1.3), ("RBF", {"length_scale": 1.3})),
    (kf.Matern(0.5, 1.3), ("Matern", {"length_scale": 1.3, "nu": 0.5})),
    (kf.Matern(1.5, 1.3), ("Matern", {"length_scale": 1.3, "nu": 1.5})),
    (kf.Matern(2.5, 1.3), ("Matern", {"length_scale": 1.3, "nu": 2.5})),
    (kf.RationalQuadratic(1.3, 0.7), ("RationalQuadratic", {"length_scale": 1.3, "alpha": 0.7})),
    (kf.Periodic(1.3, 2.0), ("ExpSineSquared", {"length_scale": 1.3, "periodicity": 2.0})),
]


@pytest.mark.parametrize(("kernel", "theirs"), PAIRS, ids=lambda pair: repr(pair))
def test_likelihood_and_predictions_are_those_of_scikit_learn(kernel, theirs, rng):
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    from sklearn.gaussian_process import GaussianProcessRegressor

    x, y = line_data(300, rng)
    name, arguments = theirs
    noise = kernels.WhiteKernel(0.04)
    other = GaussianProcessRegressor(
        kernels.ConstantKernel(1.7) * getattr(kernels, name)(**arguments) + noise, optimizer=None, normalize_y=True
    ).fit(x, y)
    gp = HierarchicalGPRegressor(
        1.7 * kernel, noise=0.04, format="hss", rtol=1e-11, optimizer=None, normalize_y=True
    ).fit(x, y)
    value, gradient = other.log_marginal_likelihood(other.kernel_.theta, eval_gradient=True)
    ours, slopes = gp.log_marginal_likelihood(eval_gradient=True)
    assert ours == pytest.approx(value, rel=1e-8, abs=1e-6)
    # scikit-learn orders hyperparameters by name
    np.testing.assert_allclose(np.sort(slopes), np.sort(gradient), rtol=1e-5, atol=1e-5)
    new = np.linspace(-1, 11, 40)[:, None]
    mean, std = other.predict(new, return_std=True)
    found, deviation = gp.predict(new, return_std=True)
    np.testing.assert_allclose(found, mean, atol=1e-7)
    # scikit-learn's white kernel counts its noise to the process
    np.testing.assert_allclose(np.sqrt(deviation**2 + 0.04 * y.var()), std, atol=1e-7)
    assert gp.score(x, y) == pytest.approx(other.score(x, y), rel=1e-7)


# by name and reason: none is known to fail
EXPECTED_FAILED_CHECKS: dict[str, str] = {}


@pytest.mark.slow
def test_scikit_learn_takes_it_for_an_estimator():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(
            HierarchicalGPRegressor(), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_fail="raise", on_skip=None
        )
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert len(passed) > 30
    assert skipped <= {"check_array_api_input"}  # asks for SCIPY_ARRAY_API in the environment


def test_it_is_cloned_and_searched(rng):
    base = pytest.importorskip("sklearn.base")
    from sklearn.model_selection import GridSearchCV

    x, y = line_data(90, rng)
    gp = HierarchicalGPRegressor(KERNEL, optimizer=None)
    assert base.clone(gp).get_params() == gp.get_params()
    search = GridSearchCV(gp, {"noise": [1e-2, 10.0]}, cv=3).fit(x, y)
    assert search.best_params_ == {"noise": 1e-2}


def test_it_works_without_scikit_learn():
    code = """
import sys
sys.modules["sklearn"] = None
import numpy as np
from structmat.gp import HierarchicalGPRegressor
x = np.linspace(0, 6, 60)[:, None]
gp = HierarchicalGPRegressor(noise=0.1).set_params(noise=0.01)
assert gp.get_params()["noise"] == 0.01 and "noise=0.01" in repr(gp)
bad = ((lambda: gp.predict(x), "not fitted yet"), (lambda: gp.set_params(width=1), "no parameter width"))
for call, message in bad:
    try:
        call()
    except ValueError as error:
        assert message in str(error)
    else:
        raise SystemExit("no error")
gp.fit(x, np.sin(x[:, 0]))
assert gp.n_features_in_ == 1
try:
    gp.predict(np.ones((3, 2)))
except ValueError as error:
    assert "X has 2 features" in str(error)
print(gp.score(x, np.sin(x[:, 0])) > 0.99)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True"]
