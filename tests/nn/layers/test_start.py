"""Sizes, counts, the start of layers, and their checks."""

import warnings

import numpy as np
import pytest
import torch

import structmat as sm
from structmat_nn import HODLRLinear, HSSLinear, LowRankLinear, hss_parameter_count

from .layers import random_sizes
from .test_conversion import dense_of, kernel_matrix

MAKERS = {
    "hss": lambda m, n, **options: HSSLinear(n, m, rank=2, levels=3, **options),
    "hodlr": lambda m, n, **options: HODLRLinear(n, m, rank=2, levels=3, **options),
    "low rank": lambda m, n, **options: LowRankLinear(n, m, rank=2, **options),
}


@pytest.mark.parametrize(
    ("n", "levels", "rank", "count"),
    [(256, 3, 2, 9424), (1024, 3, 32, 249856), (64, 2, 2, 1360), (128, 2, 8, 7424), (128, 2, 4, 5440)],
)
def test_counts_of_the_paper(n, levels, rank, count):
    formula = n**2 // 2**levels + 2 * n * rank + 8 * rank**2 * (2**levels - 2) + 4 * rank**2
    assert count == formula == hss_parameter_count(n, levels=levels, rank=rank)
    assert sum(p.numel() for p in HSSLinear(n, n, rank=rank, levels=levels).parameters()) == count


def test_counts_are_those_of_true_entries_for_any_sizes():
    for seed in range(50):
        rows, columns, levels, rank = random_sizes(seed)
        layer = HSSLinear(columns, rows, rank=rank, levels=levels)
        p, q = (sm.ClusterTree.balanced(n, depth=levels).sizes(levels) for n in (rows, columns))
        inner = sum(2**level * (4 * rank**2 + 4 * rank**2) for level in range(1, levels)) + 4 * rank**2
        expected = int((p * q).sum()) + (rows + columns) * rank + inner if levels else rows * columns
        assert layer.weight_parameter_count == expected, seed
        assert f"parameters={expected}" in repr(layer)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shape", [(128, 128), (101, 90), (64, 200)])
def test_the_variance_is_kept(name, shape):
    generator = torch.Generator().manual_seed(5)
    layer = MAKERS[name](*shape)
    means = []
    for _ in range(200):
        layer.reset_parameters(generator)
        means.append(layer.dense_weight().detach().square().sum(dim=1).mean())  # E y^2 for E x x^T = I

    assert abs(float(torch.stack(means).mean()) - 1.0) < 0.1


def test_the_same_seed_gives_the_same_layer():
    a, b = (HSSLinear(32, 32, rank=2, levels=2, bias=True) for _ in range(2))
    assert not torch.equal(a.dense_weight(), b.dense_weight())
    for layer in (a, b):
        layer.reset_parameters(torch.Generator().manual_seed(7))
    assert torch.equal(a.dense_weight(), b.dense_weight())
    assert not a.bias.any()


@pytest.mark.parametrize("name", MAKERS)
def test_from_a_dense_matrix(name):
    a = kernel_matrix(60, 45)
    layer = MAKERS[name](60, 45, dtype=torch.float64)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = layer.init_from_dense(a)

    assert error == pytest.approx(np.linalg.norm(a - dense_of(layer)) / np.linalg.norm(a), rel=1e-12)
    assert 1e-4 < error < {"hss": 0.05, "hodlr": 0.05, "low rank": 0.2}[name]
    twin = MAKERS[name](60, 45, dtype=torch.float64)
    assert twin.init_from_dense(layer.dense_weight()) < 1e-13  # what has the structure is reproduced
    assert layer.init_from_dense(np.zeros((60, 45))) == 0.0


def test_from_a_dense_matrix_to_ranks_by_level():
    a = kernel_matrix(64, 64)
    errors = {}
    for rank in [(1, 1, 1), (1, 3, 3), (4, 3, 3), (4, 6, 6)]:
        layer = HSSLinear(64, 64, rank=rank, levels=3, dtype=torch.float64)
        errors[rank] = layer.init_from_dense(a)
        assert HODLRLinear(64, 64, rank=rank, levels=3, dtype=torch.float64).init_from_dense(a) <= errors[rank] + 1e-12
    assert errors[1, 1, 1] > errors[1, 3, 3] > errors[4, 3, 3] > errors[4, 6, 6]


def test_a_matrix_is_loaded_only_on_the_trees_of_the_layer(rng):
    layer = HSSLinear(40, 40, rank=2, levels=2, dtype=torch.float64)
    points = rng.random(40)
    sorted_tree = sm.ClusterTree.from_points(points, depth=2)
    a = np.exp(-np.abs(points[:, None] - points))

    with pytest.raises(sm.TreeMismatchError, match="the rows of the matrix and of the layer need the same cluster"):
        layer.load_matrix(sm.HSSMatrix.from_dense(a, sorted_tree))

    layer.load_matrix(sm.HSSMatrix.from_diagonal(points, sm.ClusterTree.balanced(40, depth=2)))
    assert np.array_equal(dense_of(layer), np.diag(points))


@pytest.mark.parametrize("make", [HSSLinear, HODLRLinear])
def test_spare_ranks_are_exact_and_can_be_trained(make):
    low = make(48, 40, rank=1, levels=2, dtype=torch.float64)
    layer = make(48, 40, rank=3, levels=2, dtype=torch.float64)

    assert layer.init_from_dense(low.dense_weight()) < 1e-14

    target = torch.randn(40, 48, dtype=torch.float64)
    (layer.dense_weight() - target).square().sum().backward()
    before = torch.linalg.matrix_rank(layer.dense_weight()[:20, 24:])
    with torch.no_grad():
        for p in layer.parameters():
            p -= 1e-3 * p.grad
    assert (before, torch.linalg.matrix_rank(layer.dense_weight()[:20, 24:])) == (1, 3)


def test_from_samples(rng):
    n = 64
    i = np.arange(1, n + 1) / (n + 1)
    green = np.minimum.outer(i, i) * (1 - np.maximum.outer(i, i))
    inputs = rng.standard_normal((12, n))
    layer = HSSLinear(n, n, rank=2, levels=3, dtype=torch.float64)

    certificate = layer.init_from_samples(inputs, torch.from_numpy(inputs @ green), symmetric=True)

    assert np.linalg.norm(dense_of(layer) - green) < 1e-11 * np.linalg.norm(green)
    assert certificate.details
    turned = HSSLinear(n, n, rank=2, levels=3, dtype=torch.float64)
    skew = np.triu(green) - 2 * np.tril(green)
    turned.init_from_samples(inputs, inputs @ skew.T, adjoint_inputs=inputs, adjoint_outputs=inputs @ skew)
    assert np.linalg.norm(dense_of(turned) - skew) < 1e-11 * np.linalg.norm(skew)
    with pytest.raises(sm.TooFewSamplesError):
        layer.init_from_samples(inputs[:3], inputs[:3] @ green, symmetric=True)


@pytest.mark.parametrize("name", MAKERS)
def test_bad_weights(name):
    layer = MAKERS[name](40, 30)
    with pytest.raises(sm.ShapeError, match=r"weight has shape \(30, 40\), but the layer needs \(40, 30\)"):
        layer.init_from_dense(np.ones((30, 40)))
    with pytest.raises(sm.NonFiniteError, match="weight must be finite, but 1 of its entries are NaN or Inf"):
        layer.init_from_dense(np.where(np.eye(40, 30) * np.arange(30) == 5, np.nan, 1.0))
    with pytest.raises(TypeError, match="weight must be real, but its dtype is complex128"):
        layer.init_from_dense(1j * np.ones((40, 30)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 20, "levels": 3}, ValueError, "rank 20 on level 3 is too large: a leaf has 12 rows .* at most 12"),
        ({"rank": (5, 2, 2), "levels": 3}, ValueError, "rank 5 on level 1 .* twice the rank of level 2 is 4"),
        ({"rank": (1, 2), "levels": 3}, sm.ShapeError, "one for each of the 3 levels, but it has 2"),
        ({"rank": -1, "levels": 3}, ValueError, "rank must be at least 0, but it is -1"),
        ({"rank": 1.5, "levels": 3}, TypeError, "rank must be an integer, but it is 1.5"),
        ({"rank": 1, "levels": 7}, sm.ShapeError, r"levels = 7 needs at least 128 rows .* use levels <= 6"),
        ({"rank": 1, "levels": -1}, ValueError, "levels must be at least 0"),
        ({"rank": 1, "levels": 1, "route": "fast"}, ValueError, "route must be one of 'auto', 'structured'.*'fast'"),
        ({"rank": 1, "levels": 1, "dtype": torch.complex64}, TypeError, "dtype must be a real floating-point type"),
        (
            {"rank": 1, "levels": 1, "trees": (sm.ClusterTree(90, 1), sm.ClusterTree(100, 2))},
            sm.TreeMismatchError,
            r"depths \(1, 2\), but the layer has shape \(90, 100\) and 1 levels; build both with depth=1",
        ),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        HSSLinear(100, 90, **options)


def test_bad_options_of_the_other_layers():
    with pytest.raises(ValueError, match="rank 30 on level 2 is too large: a block of that level has 23 rows"):
        HODLRLinear(100, 90, rank=30, levels=2)
    with pytest.raises(ValueError, match="rank is 91, but a 90 x 100 weight has at most rank 90"):
        LowRankLinear(100, 90, rank=91)
    with pytest.raises(ValueError, match="in_features must be at least 1, but it is 0"):
        HSSLinear(0, 4, rank=1, levels=0)


def test_no_levels_is_a_plain_dense_matrix():
    layer = HSSLinear(7, 5, rank=3, levels=0, dtype=torch.float64)
    assert layer.D0.shape == (1, 5, 7)
    assert torch.equal(layer.dense_weight(), layer.D0[0])
    assert np.array_equal(layer.to_matrix().to_dense(), dense_of(layer))


def test_repr_says_what_it_is():
    assert repr(HSSLinear(64, 64, rank=2, levels=2)) == (
        "HSSLinear(64, 64, bias=False, route='auto', parameters=1360, rank=2, levels=2)"
    )
