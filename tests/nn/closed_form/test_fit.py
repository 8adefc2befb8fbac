import time
import warnings

import numpy as np
import pytest
import torch

import structmat as sm
from structmat import gallery
from structmat_nn import IdentifiabilityWarning, Near, Small, Smooth, fit

from .. import operators

N = 256


def assert_close_on_white_noise(result, operator, tolerance):
    assert result.white_noise_error(operator, rng=99) <= tolerance


# ------------------------------------------------------------------------------------- identified


@pytest.mark.parametrize("seed", range(5))
def test_ten_samples_determine_the_green_operator(seed):
    green = operators.dirichlet(N)
    inputs, outputs = operators.white_pairs(green, 10, np.random.default_rng(seed))
    result = fit(inputs, outputs, leaf_size=8, rank=2, rng=0)
    assert_close_on_white_noise(result, green, 1e-12)
    assert result.report.identified
    assert result.report.symmetric
    assert result.report.route == "closed form"
    assert (result.report.needed, result.report.missing) == (10, 0)


def test_4096_points_in_less_than_two_seconds(rng):
    green = gallery.green_operator_1d(4096).operator()
    inputs = rng.standard_normal((12, 4096))
    outputs = (green @ inputs.T).T
    start = time.process_time()
    result = fit(inputs, outputs, leaf_size=8, rank=2, rng=0)
    assert time.process_time() - start < 2.0
    assert_close_on_white_noise(result, green, 1e-12)


@pytest.mark.parametrize(
    ("operator", "rank", "error"),
    [
        (operators.dirichlet(N), 2, 1e-12),
        (operators.neumann(N), 3, 1e-11),
        (operators.dirichlet(200) + np.eye(200), 2, 1e-12),
        (operators.dirichlet(23), 2, 1e-12),
    ],
    ids=["Dirichlet", "Neumann", "plus identity", "unequal leaves"],
)
def test_rank_and_leaves_are_found_from_the_samples(operator, rank, error, rng):
    inputs, outputs = operators.white_pairs(operator, 20, rng)
    result = fit(inputs, outputs, rng=0)
    assert result.report.rank == rank
    assert_close_on_white_noise(result, operator, error)


def test_the_heat_propagator_is_found_to_rounding(rng):
    operator = operators.heat_increment(N)
    result = fit(*operators.white_pairs(operator, 60, rng), rng=0)
    assert_close_on_white_noise(result, operator, 1e-11)


def test_an_operator_that_is_not_symmetric_takes_adjoint_samples(rng):
    operator = operators.convection_diffusion(N)
    inputs, outputs = operators.white_pairs(operator, 12, rng)
    adjoint_inputs, adjoint_outputs = operators.white_pairs(operator.T, 12, rng)
    result = fit(
        inputs, outputs, adjoint_inputs=adjoint_inputs, adjoint_outputs=adjoint_outputs, leaf_size=8, rank=2, rng=0
    )
    assert_close_on_white_noise(result, operator, 1e-12)
    assert not result.report.symmetric


def test_a_complex_hermitian_operator(rng):
    phase = np.exp(3j * np.linspace(0, 1, 64))
    operator = phase[:, None] * operators.dirichlet(64) * phase.conj()
    inputs = rng.standard_normal((14, 64)) + 1j * rng.standard_normal((14, 64))
    result = fit(inputs, inputs @ operator.T, leaf_size=8, rank=2, rng=0)
    assert result.report.symmetric
    np.testing.assert_allclose(result.matrix.to_dense(), operator, atol=1e-12 * np.abs(operator).max())


def test_inputs_that_span_everything_need_neither_symmetry_nor_adjoint(rng):
    operator = operators.convection_diffusion(100)
    result = fit(*operators.white_pairs(operator, 120, rng), rng=0)
    assert result.report.route == "least squares"
    assert_close_on_white_noise(result, operator, 1e-11)


def test_rectangular_operators(rng):
    x, y = np.linspace(0, 1, 96), np.linspace(0, 1, 64)
    operator = np.abs(x[:, None] - y)
    inputs, outputs = operators.white_pairs(operator, 30, rng)
    adjoint_inputs, adjoint_outputs = operators.white_pairs(operator.T, 30, rng)
    result = fit(inputs, outputs, adjoint_inputs=adjoint_inputs, adjoint_outputs=adjoint_outputs, leaf_size=12, rank=3)
    assert_close_on_white_noise(result, operator, 1e-10)


def test_points_in_another_order_need_their_tree(rng):
    points = rng.random(128)
    green = np.minimum.outer(points, points) * (1 - np.maximum.outer(points, points))
    inputs, outputs = operators.white_pairs(green, 60, rng)
    result = fit(inputs, outputs, tree=sm.ClusterTree.from_points(points, leaf_size=8), rank=2)
    assert_close_on_white_noise(result, green, 1e-11)
    with pytest.warns(sm.StructureWarning, match="no operator of rank 2 on leaves of 8 explains the samples"):
        unordered = fit(inputs, outputs, leaf_size=8, rank=2)
    assert unordered.report.white_noise_error > 0.05


def test_tensors_are_taken_and_batches_predicted(rng):
    green = operators.dirichlet(64)
    inputs, outputs = (torch.from_numpy(a) for a in operators.white_pairs(green, 12, rng))
    result = fit(inputs.requires_grad_(), outputs, leaf_size=8, rank=2)
    x = rng.standard_normal((3, 5, 64))
    np.testing.assert_allclose(result.predict(x), x @ green, atol=1e-13)
    np.testing.assert_allclose(result.predict(torch.from_numpy(x[0, 0])), x[0, 0] @ green, atol=1e-13)
    assert result.error(x[0], x[0] @ green) < 1e-12


def test_the_matrix_solves(rng):
    green = operators.dirichlet(64)
    result = fit(*operators.white_pairs(green, 12, rng), leaf_size=8, rank=2)
    f = rng.standard_normal(64)
    np.testing.assert_allclose(result.matrix.solve(green @ f), f, rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------ noise


def test_noise_is_amplified_less_than_twice(rng):
    """With 16 samples by 1.8 or less; a method that ignored how much each sample says would do far worse."""
    green = operators.dirichlet(N)
    factors = []
    for _ in range(5):
        result = fit(*operators.white_pairs(green, 16, rng, noise=1e-4), leaf_size=8, rank=2, noise=1e-4, rng=0)
        factors.append(result.white_noise_error(green, rng=99) / 1e-4)
    assert np.median(factors) < 1.8


def test_more_samples_average_the_noise_out(rng):
    green = operators.dirichlet(N)
    errors = [
        fit(*operators.white_pairs(green, count, rng, noise=1e-2), rank=2, noise=1e-2).white_noise_error(green, rng=99)
        for count in (30, 120, 480)
    ]
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2]


def test_noise_is_estimated_and_the_error_with_it(rng):
    green = operators.dirichlet(N)
    result = fit(*operators.white_pairs(green, 40, rng, noise=1e-3), noise="estimate", rng=0)
    assert result.report.noise == pytest.approx(1e-3, rel=0.1)
    assert result.report.rank == 2
    true = result.white_noise_error(green, rng=99)
    assert 0.5 * true < result.report.white_noise_error < 2.5 * true


@pytest.mark.parametrize("arguments", [{"leaf_size": 8}, {"leaf_size": 8, "rank": 2}, {"leaf_size": 4}, {}], ids=str)
def test_noise_is_estimated_from_many_samples_on_any_leaves(arguments, rng):
    green = operators.dirichlet(64)
    result = fit(*operators.white_pairs(green, 60, rng, noise=1e-3), noise="estimate", **arguments)
    assert result.report.noise == pytest.approx(1e-3, rel=0.2)
    assert result.report.symmetric
    assert result.white_noise_error(green, rng=99) < 1e-3


def test_a_rank_that_is_too_large_does_not_fit_the_noise(rng):
    green = operators.dirichlet(N)
    inputs, outputs = operators.white_pairs(green, 40, rng, noise=1e-3)
    errors = [fit(inputs, outputs, leaf_size=16, rank=r, noise=1e-3).white_noise_error(green, rng=9) for r in (2, 8)]
    assert errors[1] < 1.05 * errors[0]


def test_noise_that_was_not_stated_is_told_from_a_lack_of_symmetry(rng):
    pairs = operators.white_pairs(operators.dirichlet(N), 30, rng, noise=1e-3)
    with pytest.raises(sm.TooFewSamplesError, match="if that is noise, say so"):
        fit(*pairs, rank=2)


# --------------------------------------------------------------------------------------- refusals


def test_too_few_samples_are_refused_with_the_number_that_is_missing(rng):
    inputs, outputs = operators.white_pairs(operators.dirichlet(N), 9, rng)
    with pytest.raises(sm.TooFewSamplesError, match=r"at least 10 are needed, 1 more"):
        fit(inputs, outputs, leaf_size=8, rank=2)


def test_smooth_inputs_are_refused_however_many_there_are(rng):
    inputs, outputs = operators.smooth_pairs(operators.dirichlet(N), 500, rng)
    with pytest.raises(sm.TooFewSamplesError, match="do not span"):
        fit(inputs, outputs, leaf_size=8, rank=2)
    with pytest.raises(sm.TooFewSamplesError, match="500 samples span 10 dimensions"):
        fit(inputs, outputs, leaf_size=32, rank=2)


@pytest.mark.parametrize("leaf_size", [4, 8])
def test_odd_inputs_are_refused_though_a_wrong_operator_explains_them_to_rounding(leaf_size, rng):
    """On odd functions a symmetric operator of lower rank agrees with Green's: nothing in the residual shows that."""
    white = rng.standard_normal((40, N))
    odd = white - white[:, ::-1]
    with pytest.raises(sm.TooFewSamplesError, match="nothing of 50% of the cosine modes"):
        fit(odd, odd @ operators.dirichlet(N), leaf_size=leaf_size, rank=2)
    with pytest.raises(sm.TooFewSamplesError, match="do not span"):
        fit(*operators.smooth_pairs(operators.dirichlet(N), 30, rng, modes=30), leaf_size=leaf_size, rank=2)


def test_inputs_without_a_mean_are_a_warning(rng):
    inputs = rng.standard_normal((20, N))
    inputs -= inputs.mean(axis=1, keepdims=True)
    with pytest.warns(IdentifiabilityWarning, match="nothing of 0.4% of the cosine modes"):
        fit(inputs, inputs @ operators.dirichlet(N), rank=2)


def test_inputs_that_vanish_on_a_cluster_are_refused(rng):
    inputs = rng.standard_normal((20, N))
    inputs[:, :64] = 0.0
    with pytest.raises(sm.TooFewSamplesError, match="linearly dependent"):
        fit(inputs, inputs @ operators.dirichlet(N), rank=2)


@pytest.mark.parametrize("length", [0.01, 0.03, 0.1])
def test_exact_responses_to_random_fields_may_do_and_the_estimate_is_honest(length, rng):
    x = np.linspace(0, 1, N)
    values, vectors = np.linalg.eigh(np.exp(-(np.subtract.outer(x, x) ** 2) / (2 * length**2)))
    inputs = rng.standard_normal((30, N)) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    green = operators.dirichlet(N)
    result = fit(inputs, inputs @ green, leaf_size=4, rank=2, rng=0)
    assert result.white_noise_error(green, rng=9) < result.report.white_noise_error < 1e-3


def test_wrongly_assumed_symmetry_is_refused(rng):
    pairs = operators.white_pairs(operators.convection_diffusion(N), 40, rng)
    with pytest.raises(sm.SymmetryError, match="the samples contradict it"):
        fit(*pairs, rank=2, symmetric=True)
    with pytest.raises(sm.SymmetryError, match="the samples contradict it"):
        fit(*pairs, rank=2, symmetric=True, noise="estimate")
    with pytest.raises(sm.TooFewSamplesError, match="record adjoint samples"):
        fit(*pairs, rank=2)


def test_a_rank_that_is_too_small_is_a_warning(rng):
    green = operators.dirichlet(N)
    pairs = operators.white_pairs(green, 30, rng)
    with pytest.warns(sm.StructureWarning, match="no operator of rank 1"):
        result = fit(*pairs, leaf_size=8, rank=1)
    assert result.report.advice == ("raise rank",)
    assert 0.1 < result.white_noise_error(green, rng=99) < 0.2
    assert not result.matrix.certificate.met


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": np.ones(5)}, sm.ShapeError, "inputs must be 2-D"),
        ({"inputs": np.zeros((0, 8))}, sm.ShapeError, "at least one row"),
        ({"outputs": np.full((20, 64), np.nan)}, sm.NonFiniteError, "outputs must be finite"),
        ({"outputs": np.ones((5, 64))}, sm.ShapeError, "inputs has 20 samples, but outputs has 5"),
        ({"noise": "guess"}, ValueError, '"estimate" or None'),
        ({"noise": -1.0}, ValueError, "noise must be a finite number"),
        ({"rank": 0}, ValueError, "rank must be at least 1"),
        ({"leaf_size": 2.5}, TypeError, "leaf_size must be an integer"),
        ({"prior": "small"}, TypeError, "prior must be a Prior"),
        ({"adjoint_inputs": np.ones((4, 64))}, TypeError, "given together"),
        (
            {"adjoint_inputs": np.ones((4, 60)), "adjoint_outputs": np.ones((4, 64))},
            sm.ShapeError,
            "adjoint_inputs must be",
        ),
        ({"adjoint_inputs": np.ones((4, 64)), "adjoint_outputs": np.ones((4, 64)), "symmetric": True},
         sm.SymmetryError, "leave one of both out"),
        ({"tree": 3}, TypeError, "."),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(change, error, message, rng):
    inputs, outputs = operators.white_pairs(operators.dirichlet(64), 20, rng)
    arguments = {"inputs": inputs, "outputs": outputs, "rank": 2, **change}
    with pytest.raises(error, match=message):
        fit(**arguments)


def test_predict_names_a_wrong_shape(rng):
    result = fit(*operators.white_pairs(operators.dirichlet(64), 20, rng), rank=2)
    with pytest.raises(sm.ShapeError, match=r"inputs must have shape \(\.\.\., 64\)"):
        result.predict(np.ones(65))
    with pytest.raises(sm.ShapeError, match="operator of shape"):
        result.error(np.ones((2, 65)), np.ones((2, 64)))


def test_zero_outputs_are_the_zero_operator(rng):
    result = fit(rng.standard_normal((20, 64)), np.zeros((20, 64)), rank=2)
    assert result.matrix.norm() == 0.0


def test_the_report_prints(rng):
    text = str(fit(*operators.white_pairs(operators.dirichlet(64), 20, rng), rank=2).report)
    assert "closed form" in text
    assert "leaves of 8, rank 2, symmetric: True" in text


def test_the_samples_are_not_modified(rng):
    inputs, outputs = operators.white_pairs(operators.dirichlet(64), 20, rng)
    copies = inputs.copy(), outputs.copy()
    fit(inputs, outputs, rank=2)
    np.testing.assert_array_equal(inputs, copies[0])
    np.testing.assert_array_equal(outputs, copies[1])


# ------------------------------------------------------------------------------------------ prior


def test_smooth_data_with_a_prior_are_exact_in_their_span_and_warn(rng):
    green = operators.dirichlet(N)
    test_pairs = operators.smooth_pairs(green, 50, rng)
    for prior in (Small(), Smooth(0.2)):
        with pytest.warns(IdentifiabilityWarning, match="96% of the energy of a white-noise input is outside"):
            result = fit(*operators.smooth_pairs(green, 100, rng), prior=prior)
        assert result.error(*test_pairs) < 1e-8
        assert not result.report.identified
        assert result.report.white_noise_error is None
        assert result.report.symmetric
        # nothing is known outside the span, and the smallest operator has nothing there
        assert 0.9 < result.white_noise_error(green, rng=9) < 1.0


def test_noise_of_smooth_samples_is_estimated_from_what_no_linear_map_explains(rng):
    green = operators.dirichlet(N)
    inputs, outputs = operators.smooth_pairs(green, 100, rng)
    deviation = 1e-2 * np.sqrt(np.mean(outputs**2)) * rng.standard_normal(outputs.shape)
    with pytest.warns(IdentifiabilityWarning):
        result = fit(inputs, outputs + deviation, prior=Small(), noise="estimate")
    assert result.report.noise == pytest.approx(1e-2, rel=0.1)
    assert result.error(inputs, outputs) < 1e-2
    with pytest.raises(ValueError, match='noise="estimate" with a prior needs more samples than the 9 dimensions'):
        fit(inputs[:9], outputs[:9], prior=Small(), noise="estimate", rank=2)


def test_near_keeps_what_the_samples_do_not_say(rng):
    green = operators.dirichlet(N)
    near = sm.HSSMatrix.from_dense(1.1 * green, sm.ClusterTree.balanced(N, 32))
    with pytest.warns(IdentifiabilityWarning):
        result = fit(*operators.smooth_pairs(green, 100, rng), prior=Near(near))
    assert result.error(*operators.smooth_pairs(green, 50, rng)) < 1e-8
    assert result.white_noise_error(green, rng=9) < 0.1


def test_alternating_least_squares_repairs_the_cut_to_a_rank(rng):
    """The smaller the weight of the prior, the better the fit in the span, and the larger the operator beyond it."""
    operator = operators.convection_diffusion(N)
    pairs, test_pairs = operators.smooth_pairs(operator, 100, rng), operators.smooth_pairs(operator, 50, rng)
    errors, sizes = [], []
    for sweeps, weight in ((0, 1e-6), (3, 1e-6), (3, 1e-12)):
        with pytest.warns(IdentifiabilityWarning, match="the operator is not Hermitian"):
            result = fit(*pairs, prior=Small(weight), leaf_size=32, rank=2, sweeps=sweeps, symmetric=False)
        errors.append(result.error(*test_pairs))
        sizes.append(result.matrix.norm())
        assert result.matrix.max_rank == 2
    assert errors[0] > 10 * errors[1] > 1e4 * errors[2]
    assert sizes[1] < 0.1 * sizes[2]


@pytest.mark.parametrize("symmetric", [True, False])
def test_samples_of_both_sides_move_all_generators_at_once(symmetric, rng):
    operator = operators.dirichlet(64) if symmetric else operators.convection_diffusion(64)
    pairs = operators.smooth_pairs(operator, 40, rng, modes=5)
    other = {}
    if not symmetric:
        other["adjoint_inputs"], other["adjoint_outputs"] = operators.smooth_pairs(operator.T, 40, rng, modes=5)
    residuals = []
    for sweeps in (0, 3):
        with pytest.warns(IdentifiabilityWarning):
            result = fit(*pairs, **other, prior=Small(), leaf_size=16, rank=2, sweeps=sweeps)
        residuals.append(result.report.residual)
        assert result.matrix.symmetric == symmetric
    assert residuals[1] < 0.2 * residuals[0]


def test_symmetry_that_smooth_samples_do_not_contradict_is_named_as_an_assumption(rng):
    """On odd functions this operator looks symmetric, though it is not."""
    pairs = operators.smooth_pairs(operators.convection_diffusion(N), 100, rng)
    with pytest.warns(IdentifiabilityWarning):
        report = fit(*pairs, prior=Small()).report
    assert report.symmetric
    assert any("symmetric=False" in line for line in report.advice)


def test_a_prior_is_not_asked_where_the_samples_suffice(rng):
    green = operators.dirichlet(N)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit(*operators.white_pairs(green, 16, rng), rank=2, prior=Small())
    assert result.report.identified
    assert_close_on_white_noise(result, green, 1e-12)


def test_the_prior_of_smoothness_is_a_positive_definite_weight(rng):
    prior = Smooth(0.3)
    x = rng.standard_normal((40, 3))
    np.testing.assert_allclose(prior.relaxed(prior.penalised(x)), x, atol=1e-11)
    weight = prior.penalised(np.eye(40))
    np.testing.assert_allclose(weight, weight.T)
    # a wave of the length is penalised twice, half the length five times as much as a constant
    wave = np.cos(2 * np.pi * (np.arange(4000) + 0.5) / 1000)[:, None]
    middle = Smooth(0.25).penalised(wave)[1000:3000] / wave[1000:3000]
    assert np.median(middle) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Small(weight=-1.0), "weight must be a finite number"),
        (lambda: Smooth(np.inf), "length must be a finite number"),
    ],
)
def test_bad_priors_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_near_needs_an_operator_of_the_same_shape(rng):
    with pytest.raises(TypeError, match="operator must be a matrix"):
        Near(3.0)
    pairs = operators.smooth_pairs(operators.dirichlet(64), 20, rng)
    with pytest.raises(sm.ShapeError, match="the operator of the prior Near has shape"):
        fit(*pairs, prior=Near(np.eye(60)))


@pytest.mark.parametrize(("n", "samples"), [(128, 36), (14, 8)])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_an_operator_without_structure_is_not_taken_for_noise_in_silence(n, samples, scale):
    rng = np.random.default_rng(0)
    half = rng.standard_normal((n, n))
    f, dense = rng.standard_normal((samples, n)), scale * (half + half.T)
    with pytest.warns(sm.StructureWarning, match="of the outputs unexplained, which was taken for noise"):
        result = fit(f, f @ dense, noise="estimate", rng=0)
    assert result.report.noise > 0.4
    assert "raise rank, give a tree, or state the noise" in result.report.advice


def test_large_noise_that_is_stated_is_believed():
    x = np.arange(1, 129) / 129
    green = np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x))
    rng = np.random.default_rng(1)
    f = rng.standard_normal((200, 128))
    u = f @ green
    u += 0.1 * np.linalg.norm(u) / np.sqrt(u.size) * rng.standard_normal(u.shape)
    stated = fit(f, u, noise=0.1, rank=2, rng=0)
    assert stated.white_noise_error(green, rng=2) < 0.1
    with pytest.warns(sm.StructureWarning, match="leaves 10% of the outputs unexplained"):
        fit(f, u, noise="estimate", rank=2, rng=0)


@pytest.mark.parametrize("samples", [12, 40])
@pytest.mark.parametrize("computed", ["in double", "in single"])
def test_samples_in_single_precision_are_noisy_by_rounding(rng, samples, computed):
    green = operators.dirichlet(N)
    inputs = rng.standard_normal((samples, N)).astype(np.float32)
    if computed == "in double":
        pair = inputs, (inputs.astype(np.float64) @ green).astype(np.float32)
    else:
        inputs = torch.from_numpy(inputs)
        pair = inputs, inputs @ torch.from_numpy(green.astype(np.float32))
    result = fit(*pair, leaf_size=8, rank=2, rng=0)
    assert result.report.symmetric
    assert result.report.route == "closed form"
    assert_close_on_white_noise(result, green, 1e-5)
    with pytest.raises(sm.TooFewSamplesError, match="not those of a Hermitian operator"):  # the same numbers, as exact
        fit(*(np.asarray(a, dtype=np.float64) for a in pair), leaf_size=8, rank=2)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_samples_whose_squares_are_no_numbers_are_named(rng, size):
    inputs, outputs = operators.white_pairs(operators.dirichlet(N), 12, rng)
    with pytest.raises(sm.NonFiniteError, match=r"the largest entry of outputs is .*multiply by a power of 2"):
        fit(inputs, size * outputs, leaf_size=8, rank=2)
