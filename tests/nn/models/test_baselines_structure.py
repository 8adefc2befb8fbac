"""What each baseline is: its formula against the same computed in another way."""

import numpy as np
import pytest
import torch

from structmat.exceptions import NonFiniteError, ShapeError, TooFewSamplesError
from structmat_nn.models import (
    FNO,
    ClosedFormRecovery,
    DeepONet,
    FactFormer,
    GreenLearning,
    KroneckerRecovery,
    LeastSquares,
    Persistence,
    ResNet,
    count_parameters,
)
from structmat_nn.models.factformer import AxisKernel, FactorisedBlock
from structmat_nn.models.green_learning import trapezoidal_weights
from structmat_nn.models.rational import Rational
from structmat_nn.models.transolver import SliceAttention

from .baselines import SIZES, fitted, needs_neuraloperator, shape, small

pytestmark = needs_neuraloperator


def test_resnet_commutes_with_translations_of_periodic_fields():
    network = ResNet((8, 12), width=6, depth=2, padding="circular", seed=0, dtype=torch.float64)
    x = torch.randn(2, 8, 12, dtype=torch.float64)

    shifted = network(x.roll((3, 5), (-2, -1)))

    torch.testing.assert_close(shifted, network(x).roll((3, 5), (-2, -1)), rtol=1e-12, atol=1e-12)
    assert (shifted - network(x)).abs().max() > 1e-3


def test_resnet_is_local_and_commutes_with_translations_away_from_the_boundary():
    network = ResNet(64, width=6, depth=2, seed=0, dtype=torch.float64)
    reach = 2 * 2 + 2
    x = torch.randn(64, dtype=torch.float64)
    inside = slice(reach, 64 - reach - 1)

    shifted = network(x.roll(1))[1:][inside]
    torch.testing.assert_close(shifted, network(x)[:-1][inside], rtol=1e-12, atol=1e-12)
    far = x.clone()
    far[40:] += 1
    changed = (network(far) - network(x)).abs() > 0
    assert not changed[: 40 - reach].any()
    assert changed[40 - reach : 42].all()


def test_fno_without_coordinates_commutes_with_translations_of_periodic_fields():
    network = FNO((16, 12), n_modes=6, hidden_channels=6, n_layers=2, positional_embedding=None, seed=0)
    x = torch.randn(2, 16, 12)

    shifted = network(x.roll((3, 5), (-2, -1)))

    torch.testing.assert_close(shifted, network(x).roll((3, 5), (-2, -1)), rtol=1e-4, atol=1e-6)
    assert (shifted - network(x)).abs().max() > 1e-3


def test_deeponet_is_the_sum_of_coefficients_times_basis_functions():
    network = DeepONet((4, 5), in_channels=2, out_channels=3, width=6, depth=2, seed=0, dtype=torch.float64)
    with torch.no_grad():
        network.constant.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    x = torch.randn(7, 2, 4, 5, dtype=torch.float64)
    grid = torch.cartesian_prod(*(torch.linspace(-1, 1, points, dtype=torch.float64) for points in (4, 5)))
    basis = network.trunk(grid)
    coefficients = network.branch(x.reshape(7, -1)).reshape(7, 3, 6)

    expected = torch.einsum("bok,pk->bop", coefficients, basis) + torch.tensor([1.0, 2.0, 3.0])[:, None]

    torch.testing.assert_close(network(x), expected.reshape(7, 3, 4, 5), rtol=1e-10, atol=1e-12)


def test_deeponet_maps_into_a_space_of_dimension_width():
    network = DeepONet(40, width=6, depth=2, seed=0, dtype=torch.float64)
    outputs = network(torch.randn(30, 40, dtype=torch.float64)) - network.constant

    assert torch.linalg.matrix_rank(outputs, rtol=1e-10) == 6


def test_green_learning_is_the_quadrature_of_its_kernel():
    network = GreenLearning((4, 5), in_channels=2, out_channels=3, width=8, depth=2, seed=0, dtype=torch.float64)
    x = torch.randn(7, 2, 4, 5, dtype=torch.float64)
    grid = torch.cartesian_prod(*(torch.linspace(0, 1, points, dtype=torch.float64) for points in (4, 5)))
    weights = torch.outer(torch.tensor([1, 2, 2, 1]), torch.tensor([1, 2, 2, 2, 1])).double().reshape(-1) / 48
    expected = torch.zeros(7, 3, 20, dtype=torch.float64)
    for i, point in enumerate(grid):
        pairs = torch.cat([point.expand(20, 2), grid], dim=1)  # (20, 4)
        kernel = network.kernel.network(pairs).reshape(20, 3, 2)
        expected[:, :, i] = torch.einsum("y,yoc,bcy->bo", weights, kernel, x.reshape(7, 2, 20))
    expected += network.homogeneous(grid).T

    torch.testing.assert_close(network(x), expected.reshape(7, 3, 4, 5), rtol=1e-10, atol=1e-12)


def test_green_learning_piece_by_piece_gives_the_same_values_and_gradients():
    x = torch.randn(3, 30, dtype=torch.float64)
    results = []
    for options in (
        {},
        {"pairs_at_once": 7 * 30},
        {"pairs_at_once": 1},
        {"pairs_at_once": 7 * 30, "recompute_above": 0},
    ):
        network = GreenLearning(30, width=8, depth=2, **options, seed=0, dtype=torch.float64)
        assert network.recompute == ("recompute_above" in options)
        outputs = network(x)
        outputs.square().sum().backward()
        results.append([outputs.detach(), network.green_function().detach(), *(p.grad for p in network.parameters())])

    for other in results[1:]:
        for expected, value in zip(results[0], other, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_green_learning_without_homogeneous_part_is_linear():
    network = GreenLearning(30, width=8, depth=2, homogeneous=False, seed=0, dtype=torch.float64)
    x, y = torch.randn(2, 30, dtype=torch.float64)

    torch.testing.assert_close(network(2 * x - y), 2 * network(x) - network(y), rtol=1e-12, atol=1e-12)
    weighted = x * trapezoidal_weights((30,))
    torch.testing.assert_close(network(x), network.green_function() @ weighted, rtol=1e-12, atol=1e-12)


def test_the_trapezoidal_rule_integrates_products_of_linear_functions():
    x = np.linspace(0, 1, 5)[:, None] * np.linspace(0, 1, 7)[None, :]

    assert float(trapezoidal_weights((5, 7)).numpy() @ x.reshape(-1)) == pytest.approx(0.25, abs=1e-14)
    assert float(trapezoidal_weights((1, 7)).sum()) == pytest.approx(1.0, abs=1e-14)


def test_rational_activations_start_as_the_best_approximation_of_a_relu():
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    error = (Rational().double()(x) - x.clamp(min=0)).detach()

    # a best approximation of type (3, 2) reaches its largest error, with alternating signs, at least seven times
    assert error.abs().max() == pytest.approx(0.0218, abs=2e-4)
    peaks = [
        float(piece.abs().max()) for piece in torch.tensor_split(error, torch.where(error[1:] * error[:-1] < 0)[0] + 1)
    ]
    assert len(peaks) >= 7
    assert min(peaks) > 0.0214


def test_gradients_of_rational_activations():
    activation = Rational().double()
    with torch.no_grad():
        activation.denominator[1] = 0.3
    parameters = [p.detach().requires_grad_() for p in (activation.numerator, activation.denominator)]
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def function(x, numerator, denominator):
        given = {"numerator": numerator, "denominator": denominator}
        return torch.func.functional_call(activation, given, (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))


def test_factformer_attention_is_a_product_of_one_matrix_for_each_axis():
    block = FactorisedBlock((3, 4, 5), width=8, heads=2, head_width=2, key_width=4)
    hidden = torch.randn(2, 3, 4, 5, 8)
    placed = hidden + block.position(block.features)
    normed = block.norm(placed)
    values = block.values(normed).reshape(2, 3, 4, 5, 2, 2)
    mixed = block.mix(normed)
    kernels = [block.axes[axis](mixed.mean(dim=[d + 1 for d in range(3) if d != axis])) for axis in range(3)]
    attended = torch.einsum("bhix,bhjy,bhkz,bxyzhc->bijkhc", *kernels, values).reshape(2, 3, 4, 5, 4)
    mean, variance = attended.mean(dim=(1, 2, 3), keepdim=True), attended.var(dim=(1, 2, 3), correction=0, keepdim=True)
    normalised = (attended - mean) / (variance + 1e-5).sqrt()
    expected = placed + block.second(torch.nn.functional.gelu(block.first(normalised)))

    torch.testing.assert_close(block(hidden), expected, rtol=1e-4, atol=1e-5)


def test_rotary_positions_see_differences_of_positions_only():
    kernel = AxisKernel(9, width=8, heads=2, key_width=4)
    matrices = kernel(torch.randn(1, 1, 8).expand(1, 9, 8))  # the same features at all points

    for offset in range(-8, 9):
        diagonal = matrices.diagonal(offset, dim1=-2, dim2=-1)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal), rtol=1e-3, atol=1e-9)
    assert (matrices[..., 0, 1] - matrices[..., 0, 2]).abs().min() > 1e-9


def test_factformer_has_a_matrix_for_each_sample():
    network = small(FactFormer, 2)
    x = torch.randn(2, *shape(2, 1))

    assert (network(2 * x) - 2 * network(x)).abs().max() > 1e-3


def test_transolver_with_one_slice_gives_all_points_the_mean_of_all():
    attention = SliceAttention(1, width=8, heads=2, slices=1)
    hidden = torch.randn(3, 20, 8)
    contents = attention.features(hidden.movedim(-1, 1))[:, 8:].reshape(3, 2, 4, 20).mean(dim=-1)  # (3, 2, 4)
    expected = attention.project(attention.values(contents).reshape(3, 1, 8)).expand(3, 20, 8)

    torch.testing.assert_close(attention(hidden), expected, rtol=1e-4, atol=1e-5)


def test_transolver_sorts_points_into_slices():
    attention = SliceAttention(2, width=8, heads=2, slices=5)
    outputs = attention(torch.randn(3, 6, 7, 8)).reshape(3, 42, 8)

    # five weights of each head that add up to one
    centred = outputs - outputs.mean(dim=1, keepdim=True)
    assert torch.linalg.matrix_rank(centred[0].double(), rtol=1e-4) <= 8
    assert (outputs[:, 0] - outputs[:, 1]).abs().max() > 1e-4


def sines(samples, rng, points=256, modes=10):
    """Forcings and solutions of -u'' = f with f in the span of ten sines."""
    x = np.linspace(0, 1, points)
    waves = np.sin(2 * np.pi * np.arange(1, modes + 1)[:, None] * x)
    coefficients = rng.uniform(size=(samples, modes))
    return coefficients @ waves, (coefficients / (2 * np.pi * np.arange(1, modes + 1)) ** 2) @ waves


def relative(model, inputs, outputs):
    predicted = model(torch.from_numpy(inputs)).numpy()
    return float(np.mean(np.linalg.norm(predicted - outputs, axis=1) / np.linalg.norm(outputs, axis=1)))


def test_least_squares_solves_the_poisson_data_from_ten_samples_and_not_from_nine():
    rng = np.random.default_rng(0)
    train, test = sines(10, rng), sines(200, rng)

    assert relative(LeastSquares(256).fit(*train), *test) < 1e-11
    nine = relative(LeastSquares(256).fit(train[0][:9], train[1][:9]), *test)
    assert 1e-3 < nine < 0.5
    many = sines(300, rng)  # more samples than points, ten dimensions
    assert LeastSquares(256).fit(*many).functionals.shape == (10, 256)
    assert relative(LeastSquares(256).fit(*many), *test) < 1e-11


def test_least_squares_is_the_solution_of_smallest_norm_and_zero_across_the_samples():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((6, 20)), rng.standard_normal((6, 20))
    model = LeastSquares(20).fit(x, y)

    matrix = model(torch.eye(20, dtype=torch.float64)).numpy()

    np.testing.assert_allclose(matrix, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-12)
    across = np.linalg.svd(x)[2][6:]
    assert np.abs(model(torch.from_numpy(across)).numpy()).max() < 1e-12


def test_ridge_damps_what_the_samples_hardly_show():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((6, 20)), rng.standard_normal((6, 20))
    weight = (0.1 * np.linalg.norm(x, 2)) ** 2
    expected = np.linalg.solve(x.T @ x + weight * np.eye(20), x.T @ y)

    matrix = LeastSquares(20, ridge=0.1).fit(x, y)(torch.eye(20, dtype=torch.float64)).numpy()

    np.testing.assert_allclose(matrix, expected, atol=1e-12)


def test_least_squares_holds_factors_and_no_matrix_between_grid_points():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 24, 24, 24))
    model = LeastSquares((24, 24, 24)).fit(x, 3 * x)

    assert model.functionals.numel() + model.responses.numel() == 2 * 2 * 24**3
    np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), 3 * x, atol=1e-9)


@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_least_squares_in_any_shape_and_precision(channels):
    model = fitted(2, *channels)
    x = torch.randn(4, 2, *shape(2, channels[0]))

    assert model.trained_by == "fit"
    assert model(x).shape == (4, 2, *shape(2, channels[1]))
    assert model(x).dtype == torch.float32
    torch.testing.assert_close(model(x.double()).float(), model(x))
    assert list(model.parameters()) == []


def test_least_squares_travels_in_its_state():
    model = fitted()
    other = LeastSquares(12)
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 12)

    assert torch.equal(other(x), model(x))
    with pytest.raises(RuntimeError, match=r'Missing key.*"responses"'):
        other.load_state_dict({"functionals": model.functionals})


def test_least_squares_says_what_is_wrong_with_the_samples():
    model = LeastSquares(12)
    good = np.ones((4, 12))
    with pytest.raises(RuntimeError, match=r"this LeastSquares has nothing to apply yet; call fit\(inputs, outputs\)"):
        model(torch.ones(12))
    with pytest.raises(ShapeError, match="inputs holds 4 samples, but outputs holds 3"):
        model.fit(good, good[:3])
    with pytest.raises(ShapeError, match=r"outputs must have shape \(samples, 12\) .* but its shape is \(4, 11\)"):
        model.fit(good, good[:, :11])
    with pytest.raises(ShapeError, match="inputs holds no samples"):
        model.fit(good[:0], good[:0])
    with pytest.raises(NonFiniteError, match="outputs must be finite, but 1 of its 48 entries are NaN or Inf"):
        model.fit(good, np.where(np.arange(48).reshape(4, 12) == 5, np.nan, 1.0))
    with pytest.raises(ValueError, match="inputs are all zero"):
        model.fit(0 * good, good)
    with pytest.raises(TypeError, match="inputs must hold real numbers"):
        model.fit(1j * good, good)
    with pytest.raises(ValueError, match="ridge must be a finite number >= 0"):
        LeastSquares(12, ridge=-1.0)


def dirichlet(points):
    """The Green's function of -u'' = f with u(0) = u(1) = 0 on the inner points."""
    x = np.arange(1, points + 1) / (points + 1)
    return np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x))


def test_closed_form_recovery_finds_the_operator_from_random_inputs():
    green = dirichlet(128)
    inputs = np.random.default_rng(0).standard_normal((12, 128))
    model = ClosedFormRecovery(128, rank=2, leaf_size=8).fit(inputs, inputs @ green)
    x = torch.randn(2, 3, 128, dtype=torch.float64, requires_grad=True)
    outputs = model(x)
    outputs.sum().backward()

    np.testing.assert_allclose(outputs.detach().numpy(), x.detach().numpy() @ green, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy()[0, 0], green.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(model.to_matrix().to_dense(), green, atol=1e-13)
    assert model.trained_by == "fit"
    assert model.report.symmetric
    assert not any(p.requires_grad for p in model.parameters())
    assert count_parameters(model) < 128**2 / 2
    assert model(x.detach().float()).dtype == torch.float32


def test_closed_form_recovery_takes_adjoint_samples():
    rng = np.random.default_rng(1)
    operator = dirichlet(96) * np.exp(np.linspace(0, 2, 96))  # not symmetric, of rank two off the diagonal
    inputs, adjoint = rng.standard_normal((2, 14, 96))
    model = ClosedFormRecovery(96, rank=2, leaf_size=8, symmetric=False)
    model.fit(inputs, inputs @ operator.T, adjoint_inputs=adjoint, adjoint_outputs=adjoint @ operator)

    np.testing.assert_allclose(model(torch.eye(96, dtype=torch.float64)).numpy(), operator.T, atol=1e-11)


def test_closed_form_recovery_travels_in_its_state():
    green = dirichlet(100)  # unequal leaves
    inputs = np.random.default_rng(0).standard_normal((14, 100))
    model = ClosedFormRecovery(100, rank=2, leaf_size=8).fit(inputs, inputs @ green)
    other = ClosedFormRecovery(100)
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 100, dtype=torch.float64)

    assert torch.equal(other(x), model(x))
    with pytest.raises(RuntimeError, match=r"nothing to apply yet; call fit\(inputs, outputs\)"):
        ClosedFormRecovery(100)(x)
    with pytest.raises(RuntimeError, match=r"holds no operator yet; call fit\(inputs, outputs\)"):
        ClosedFormRecovery(100).to_matrix()


def test_closed_form_recovery_refuses_what_it_cannot_find():
    smooth, solutions = sines(50, np.random.default_rng(0))
    with pytest.raises(TooFewSamplesError):
        ClosedFormRecovery(256, rank=2).fit(smooth, solutions)
    with pytest.raises(ShapeError, match=r"works on grids of one dimension, but size=\(8, 8\)"):
        ClosedFormRecovery((8, 8))
    with pytest.raises(ShapeError, match="in_channels=2 and out_channels=1; fit one model for each pair"):
        ClosedFormRecovery(8, in_channels=2)
    with pytest.raises(ShapeError, match=r"inputs must have shape \(samples, 256\)"):
        ClosedFormRecovery(256).fit(smooth[:, :255], solutions)


def test_kronecker_recovery_finds_a_sum_of_products_and_keeps_it_in_the_state(rng):
    factors = rng.standard_normal((2, 2, 10, 10))
    inputs = rng.standard_normal((200, 10, 10))
    outputs = sum(a @ inputs @ b.T for a, b in factors)
    model = KroneckerRecovery((10, 10), terms=2).fit(inputs, outputs)
    unseen = rng.standard_normal((3, 10, 10))
    exact = sum(a @ unseen @ b.T for a, b in factors)
    np.testing.assert_allclose(model(torch.from_numpy(unseen)).numpy(), exact, atol=1e-8)
    other = KroneckerRecovery((10, 10), terms=2)
    with pytest.raises(RuntimeError, match="call fit"):
        other(torch.from_numpy(unseen))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(torch.from_numpy(unseen)), model(torch.from_numpy(unseen)))


def test_kronecker_recovery_says_what_it_cannot():
    with pytest.raises(ShapeError, match="two dimensions"):
        KroneckerRecovery(16)
    with pytest.raises(ShapeError, match="one channel to one"):
        KroneckerRecovery((8, 8), in_channels=2)


@pytest.mark.parametrize("channels", [(1, 1), (3, 2)])
def test_persistence_is_a_multiple_of_the_field_plus_a_fixed_field(channels):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((30, *shape(2, channels[0]))) + 3.0
    kept = x if channels == (1, 1) else x[:, :2]
    scale = np.array([0.8, -1.5])[: channels[1]].reshape(-1, *(1,) * (kept.ndim - 2)) if channels[1] > 1 else 0.8
    force = rng.standard_normal(kept.shape[1:])
    model = Persistence(SIZES[2], in_channels=channels[0], out_channels=channels[1]).fit(x, scale * kept + force)

    np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), scale * kept + force, atol=1e-12)
    other = Persistence(SIZES[2], in_channels=channels[0], out_channels=channels[1])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(torch.from_numpy(x)), model(torch.from_numpy(x)))


def test_persistence_of_noise_is_the_best_multiple_and_the_mean():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((400, 12)), rng.standard_normal((400, 12)) + 2.0
    model = Persistence(12).fit(x, y)
    centred = x - x.mean(axis=0)
    assert model.scale.item() == pytest.approx((centred * (y - y.mean(axis=0))).sum() / (centred**2).sum())
    residual = y - model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(residual.mean(axis=0), 0.0, atol=1e-14)
    # where all inputs are the same, only the mean is left
    np.testing.assert_allclose(Persistence(12).fit(np.ones((400, 12)), y).offset, y.mean(axis=0))


def test_persistence_needs_a_field_to_persist():
    with pytest.raises(ShapeError, match="in_channels = 1 and out_channels = 2"):
        Persistence(12, out_channels=2)
    with pytest.raises(RuntimeError, match="this Persistence has nothing to apply yet"):
        Persistence(12)(torch.ones(12))
