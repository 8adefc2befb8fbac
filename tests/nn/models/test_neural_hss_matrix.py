import numpy as np
import pytest
import torch

import structmat as sm
from structmat import AccuracyWarning
from structmat_nn import KroneckerSum, NeuralHSS


def laplacian(n):
    return (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))


def columns_of(model, n):
    """The model at the unit vectors, one a column."""
    head = () if model.in_channels == 1 else (model.in_channels,)
    return model(torch.eye(n, dtype=torch.float64).reshape(n, *head, *model.size)).detach().reshape(n, -1).numpy().T


def line(n=48, **options):
    return NeuralHSS(n, **({"rank": 2, "levels": 2, "depth": 2, "dtype": torch.float64, "seed": 0} | options))


@pytest.mark.parametrize("options", [{}, {"hidden": 20}, {"hidden": 20, "lift": "full"}, {"lift": "tensor"}])
def test_a_line_becomes_one_hss_matrix(options):
    model = line(**options)

    matrix = model.to_matrix(rtol=1e-12)

    dense = columns_of(model, 48)
    assert isinstance(matrix, sm.HSSMatrix)
    assert np.linalg.norm(matrix.to_dense() - dense) < 1e-11 * np.linalg.norm(dense)
    assert matrix.certificate.met
    assert matrix.certificate.details["slope_deviation"] == 0.0
    assert matrix.certificate.details["nonlinearity_bound"] == 0.0


def test_a_learned_green_function_solves_inverts_and_truncates():
    n = 64
    green = np.linalg.inv(laplacian(n))
    model = line(n, depth=1)
    model.layers[0].init_from_dense(green)
    model.projection.init_from_dense(np.eye(n))

    matrix = model.to_matrix()

    u = np.sin(3.0 * np.arange(n) / n)
    assert np.allclose(matrix @ (laplacian(n) @ u), u, rtol=0, atol=1e-9)
    assert np.allclose(matrix.solve(u), laplacian(n) @ u, rtol=0, atol=1e-6 * np.linalg.norm(laplacian(n) @ u))
    assert np.allclose(matrix.inverse().to_dense(), laplacian(n), rtol=0, atol=1e-6 * np.linalg.norm(laplacian(n)))


def test_a_collapsed_model_truncates():
    matrix = line().to_matrix()
    cut = matrix.truncate(rtol=0.3)
    assert cut.max_rank < matrix.max_rank == 6  # three matrices of rank 2
    assert np.linalg.norm(cut.to_dense() - matrix.to_dense()) < 0.3 * matrix.norm()


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((10, 8), {"outer_rank": 2}),
        ((10, 8), {"outer_rank": 2, "hidden": (6, 9)}),
        ((10, 8), {"outer_rank": 2, "in_channels": 2}),
        ((10, 8), {"outer_rank": 2, "out_channels": 2, "lift": "tensor", "lift_rank": 3}),
        ((5, 4, 6), {"outer_rank": 2}),
        ((12,), {"in_channels": 2, "out_channels": 2}),
    ],
)
def test_in_other_cases_it_becomes_a_sum_of_kronecker_products(size, options):
    model = NeuralHSS(size, rank=1, levels=1, depth=2, dtype=torch.float64, seed=0, **options)

    matrix = model.to_matrix(rtol=1e-9)

    n = int(np.prod(size)) * model.in_channels
    dense = columns_of(model, n)
    assert isinstance(matrix, KroneckerSum)
    assert np.linalg.norm(matrix.to_dense() - dense) < 1e-8 * np.linalg.norm(dense)
    assert matrix.certificate.met


def test_products_of_layers_are_recompressed():
    model = NeuralHSS((12, 12), rank=1, levels=1, depth=3, outer_rank=4, dtype=torch.float64, seed=0)
    model.init_from_exponential_sum([laplacian(12)] * 2)
    matrix = model.to_matrix(rtol=1e-3)
    dense = columns_of(model, 144)
    assert matrix.terms <= 4  # of 64 in the product of three layers
    assert np.linalg.norm(matrix.to_dense() - dense) < 1e-3 * np.linalg.norm(dense)


def bent(deviation):
    model = line()
    with torch.no_grad():
        for activation in model.activations:
            activation.slope.fill_(1.0 - deviation)
    return model


def test_slopes_near_one_are_certified():
    model = bent(1e-4)
    certificate = model.to_matrix(rtol=1e-10).certificate
    details = certificate.details
    assert details["slope_deviation"] == pytest.approx(1e-4)
    assert 0.0 < details["nonlinearity"] < 2e-4
    assert details["nonlinearity"] < details["nonlinearity_bound"]
    assert details["truncation"] < 1e-9
    # the bound holds for inputs other than the probes
    matrix, x = model.to_matrix(), torch.randn(50, 48, dtype=torch.float64).abs()
    gap = np.linalg.norm(model(x).detach().numpy() - (matrix @ x.numpy().T).T, axis=1)
    gain = np.linalg.norm(matrix.to_dense(), 2) * x.norm(dim=1).numpy()
    assert (gap <= 1.05 * details["nonlinearity_bound"] * gain + 1e-9 * gain).all()


def test_slopes_far_from_one_are_refused_unless_forced():
    model = bent(0.4)
    with pytest.raises(ValueError, match=r"up to 0\.4 from 1.*force=True"):
        model.to_matrix()
    with pytest.warns(AccuracyWarning):
        matrix = model.to_matrix(force=True)
    assert not matrix.certificate.met
    assert matrix.certificate.details["nonlinearity"] > 0.05


def test_what_no_matrix_stands_for_is_refused():
    with pytest.raises(TypeError, match="activation 0 is GELU"):
        line(activation="gelu").to_matrix()
    affine = line(bias=True)
    assert affine.to_matrix().shape == (48, 48)  # zero biases
    with torch.no_grad():
        affine.projection.bias.fill_(2.0)
    with pytest.raises(ValueError, match="its biases are as large as 2"):
        affine.to_matrix()
    linear = affine.to_matrix(force=True)
    x = torch.randn(48, dtype=torch.float64)
    assert np.allclose(linear @ x.numpy() + 2.0, affine(x).detach(), atol=1e-7)


def test_a_model_in_single_precision_gives_a_matrix_in_double():
    model = line(dtype=torch.float32)
    matrix = model.to_matrix()
    x = torch.randn(48)
    assert matrix.dtype == np.float64
    assert np.allclose(matrix @ x.double().numpy(), model(x).detach(), atol=1e-4)
