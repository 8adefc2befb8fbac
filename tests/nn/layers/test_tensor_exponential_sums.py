import numpy as np
import pytest
import torch

from structmat.exceptions import ShapeError, SymmetryError
from structmat_nn import HSSTensorLinear, KroneckerSum
from structmat_nn.layers.exponential_sums import exponential_sum, kronecker_inverse


def laplacian(n):
    """Dirichlet, second order, on the n inner points of the unit interval."""
    return (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))


def dense_sum(operators):
    """A_1 + ... + A_m on the tensor product."""
    total = 0.0
    for mode in range(len(operators)):
        term = np.ones((1, 1))
        for j, a in enumerate(operators):
            term = np.kron(term, a if j == mode else np.eye(len(a)))
        total = total + term
    return total


def test_the_error_falls_like_the_theory_says():
    x = np.geomspace(1.0, 1712.0, 5000)
    for terms, goal in ((4, 0.12), (8, 2.5e-3), (12, 5e-5)):
        sums = exponential_sum(1.0, 1712.0, terms)
        error = np.abs(1.0 - x * sums(x)).max()
        assert error < goal
        assert error == pytest.approx(sums.largest_error, rel=0.05)


def test_scaling_the_interval_scales_the_sum():
    one, other = exponential_sum(1.0, 50.0, 4), exponential_sum(10.0, 500.0, 4)
    assert np.allclose(other.exponents * 10.0, one.exponents)
    assert np.allclose(other.weights * 10.0, one.weights)


def test_a_single_point_needs_one_term():
    assert exponential_sum(3.0, 3.0, 1).largest_error < 1e-12


@pytest.mark.parametrize("sizes", [(12,), (12, 10), (6, 5, 7)])
@pytest.mark.parametrize("criterion", ["frobenius", "relative"])
def test_the_inverse_of_a_sum_in_any_dimension(sizes, criterion):
    operators = [(1.0 + mode) * laplacian(n) for mode, n in enumerate(sizes)]
    exact = np.linalg.inv(dense_sum(operators))

    factors, sums, error = kronecker_inverse(operators, 7, criterion=criterion)

    measured = np.linalg.norm(KroneckerSum(factors).to_dense() - exact) / np.linalg.norm(exact)
    assert measured < (1e-4 if criterion == "frobenius" else 1e-3)
    assert measured == pytest.approx(error, rel=1e-6)
    if criterion == "relative":
        ratio = np.linalg.eigvalsh(KroneckerSum(factors).to_dense() @ dense_sum(operators))
        assert np.abs(ratio - 1.0).max() == pytest.approx(sums.largest_error, rel=0.1)


def test_the_layer_starts_at_the_inverse_and_reports_its_error():
    operators = [laplacian(16), 2.0 * laplacian(12)]
    layer = HSSTensorLinear((16, 12), rank=3, outer_rank=6, levels=1, dtype=torch.float64)

    start = layer.init_from_exponential_sum(operators, scale=3.0)

    exact = 3.0 * np.linalg.inv(dense_sum(operators))
    error = np.linalg.norm(layer.to_matrix().to_dense() - exact) / np.linalg.norm(exact)
    assert start.layer_error == pytest.approx(error, rel=1e-4)
    assert start.spectrum_error < start.layer_error < 1e-2
    assert start.terms == 6


def test_eigenpairs_may_be_given():
    a = laplacian(8)
    layers = [HSSTensorLinear((8, 8), rank=2, outer_rank=3, levels=1, dtype=torch.float64) for _ in range(2)]
    layers[0].init_from_exponential_sum([a, a])
    layers[1].init_from_exponential_sum([tuple(np.linalg.eigh(a))] * 2)
    assert np.allclose(layers[0].to_matrix().to_dense(), layers[1].to_matrix().to_dense(), atol=1e-12)


# relative Frobenius errors of 8 terms on 64 x 64 points, by HSS rank, at two levels
@pytest.mark.parametrize(("rank", "goal"), [(2, 3.7e-2), (4, 2e-3), (8, 2e-4)])
def test_what_eight_terms_reach_on_64_by_64_points(rank, goal):
    layer = HSSTensorLinear((64, 64), rank=rank, outer_rank=8, levels=2, dtype=torch.float64)
    start = layer.init_from_exponential_sum([laplacian(64)] * 2)
    assert start.layer_error < goal


def test_channels_are_left_apart():
    layer = HSSTensorLinear((8, 8), rank=2, outer_rank=4, levels=1, channels=(2, 2), dtype=torch.float64)
    layer.init_from_exponential_sum([laplacian(8)] * 2)
    x = torch.zeros(2, 8, 8, dtype=torch.float64)
    x[1] = 1.0
    y = layer(x).detach()
    assert not y[0].any()
    expected = np.linalg.solve(dense_sum([laplacian(8)] * 2), np.ones(64))
    assert np.allclose(y[1].flatten(), expected, rtol=0, atol=0.05 * expected.max())


@pytest.mark.parametrize(
    ("operators", "error", "message"),
    [
        ([laplacian(8)], ShapeError, "operators must hold one matrix for each of 2 modes|one matrix for each of the 2"),
        ([laplacian(8), laplacian(7)], ShapeError, r"operators\[1\] has size 7, but the layer has size 8"),
        ([laplacian(8), np.triu(laplacian(8))], SymmetryError, r"operators\[1\] must be symmetric"),
        ([laplacian(8), laplacian(8) - 200 * np.eye(8)], ValueError, "positive definite sum.*indefinite"),
        ([np.ones((8, 8)), np.ones((8, 8))], ValueError, "shift a singular operator"),
    ],
)
def test_operators_that_do_not_fit_are_named(operators, error, message):
    layer = HSSTensorLinear((8, 8), rank=1, outer_rank=2, levels=1)
    with pytest.raises(error, match=message):
        layer.init_from_exponential_sum(operators)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="lower and upper must be 0 < lower <= upper"):
        exponential_sum(-1.0, 2.0, 3)
    layer = HSSTensorLinear((8, 8), rank=1, outer_rank=2, levels=1)
    with pytest.raises(ValueError, match="criterion must be 'frobenius' or 'relative'"):
        layer.init_from_exponential_sum([laplacian(8)] * 2, criterion="best")
    with pytest.raises(ValueError, match="scale must be a finite number other than 0"):
        layer.init_from_exponential_sum([laplacian(8)] * 2, scale=0.0)
    rectangular = HSSTensorLinear((8, 8), out_shape=(8, 4), rank=1, outer_rank=2, levels=1)
    with pytest.raises(ShapeError, match="an inverse needs equal shapes"):
        rectangular.init_from_exponential_sum([laplacian(8)] * 2)
