"""Layers to classical matrices and back, to rounding."""

import numpy as np
import pytest
import torch

import structmat as sm
from structmat_nn import HODLRLinear, HSSLinear, LowRankLinear

from .layers import random_hodlr, random_hss, random_low_rank

FORMATS = {"hss": (HSSLinear, sm.HSSMatrix, random_hss), "hodlr": (HODLRLinear, sm.HODLRMatrix, random_hodlr)}


def dense_of(layer):
    return layer.dense_weight().detach().double().numpy()


def close(a, b, dtype=np.float64):
    return np.abs(a - b).max() <= 100 * np.finfo(dtype).eps * max(1.0, np.abs(b).max())


def kernel_matrix(rows, columns, dtype=np.float64):
    x, y = np.linspace(0, 1, rows), np.linspace(0, 1, columns)
    return (np.exp(-3 * np.abs(x[:, None] - y)) + 0.3 * np.cos(9 * x[:, None] * y)).astype(dtype)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_layer_is_a_matrix_and_back(kind):
    for seed in range(30):
        layer = FORMATS[kind][2](seed)

        matrix = layer.to_matrix()
        again = FORMATS[kind][0].from_matrix(matrix)

        assert close(matrix.to_dense(), dense_of(layer)), seed
        assert close(dense_of(again), dense_of(layer)), seed
        x = np.linspace(-1, 1, layer.in_features)
        assert close(matrix @ x, dense_of(layer) @ x), seed


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(64, 64), (61, 61), (70, 45), (33, 90), (3, 3)])
def test_every_matrix_is_a_layer_and_back(kind, dtype, shape):
    make_layer, make_matrix, _ = FORMATS[kind]
    depth = 3 if min(shape) > 8 else 1
    trees = tuple(sm.ClusterTree.balanced(n, depth=depth) for n in shape)
    a = kernel_matrix(*shape, dtype=dtype)
    cases = [make_matrix.from_dense(a, trees, rtol=1e-5 if dtype == np.float32 else 1e-9)]
    cases.append(cases[0].T)
    if shape[0] == shape[1]:
        cases.append(make_matrix.from_dense(a, trees[0], rtol=1e-5, symmetric=True))
    for matrix in cases:
        layer = make_layer.from_matrix(matrix)
        assert all(p.dtype == (torch.float32 if dtype == np.float32 else torch.float64) for p in layer.parameters())
        assert close(dense_of(layer), matrix.to_dense(), dtype)
        assert layer.to_matrix().dtype == dtype
        assert close(layer.to_matrix().to_dense(), matrix.to_dense(), dtype)
        x = torch.linspace(-1, 1, matrix.shape[1], dtype=layer.dense_weight().dtype)
        assert close(layer(x).detach().numpy(), matrix.to_dense() @ x.numpy(), dtype)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tree_with_an_order_of_its_own(kind, rng):
    make_layer, make_matrix, _ = FORMATS[kind]
    points = rng.random(50)
    tree = sm.ClusterTree.from_points(points, leaf_size=8)
    a = np.exp(-np.abs(points[:, None] - points))
    matrix = make_matrix.from_dense(a, tree, rtol=1e-12)

    layer = make_layer.from_matrix(matrix)

    assert matrix.max_rank < 8
    assert close(dense_of(layer), matrix.to_dense())
    x = torch.from_numpy(rng.standard_normal((4, 50)))
    assert torch.allclose(layer(x), x @ layer.dense_weight().mT, rtol=0, atol=1e-12)
    assert close(layer.to_matrix().to_dense(), matrix.to_dense())
    assert layer.to_matrix().row_tree == tree


@pytest.mark.parametrize("kind", FORMATS)
def test_a_layer_without_coupling(kind):
    make_layer, make_matrix, _ = FORMATS[kind]
    matrix = make_matrix.from_diagonal(np.arange(1.0, 20.0), sm.ClusterTree.balanced(19, depth=2))

    layer = make_layer.from_matrix(matrix)

    assert layer.weight_parameter_count == 3 * 25 + 16  # leaves of 4, 5, 5 and 5 indices
    assert np.array_equal(dense_of(layer), np.diag(np.arange(1.0, 20.0)))
    assert np.array_equal(layer.to_matrix().to_dense(), dense_of(layer))


def test_ranks_by_level_are_kept():
    layer = HSSLinear(64, 64, rank=(3, 4, 2), levels=3)

    matrix = layer.to_matrix()

    assert [int(r.max()) for r in matrix.row_ranks] == [3, 4, 2]
    assert HSSLinear.from_matrix(matrix).structure.row_ranks == (3, 4, 2)


def test_a_trained_layer_can_be_solved_with():
    layer = random_hss(20)
    layer = HSSLinear(60, 60, rank=2, levels=2, dtype=torch.float64)
    with torch.no_grad():
        layer.init_from_dense(kernel_matrix(60, 60) + 3 * np.eye(60))
    b = np.cos(np.arange(60.0))

    solution = layer.to_matrix().solve(b)

    assert np.allclose(dense_of(layer) @ solution, b, rtol=0, atol=1e-12)


def test_low_rank_factors():
    for seed in range(20):
        layer = random_low_rank(seed)
        u, v = layer.to_matrix()
        again = LowRankLinear.from_matrix((u, v))
        assert close(u @ v.T, dense_of(layer))
        assert np.array_equal(dense_of(again), dense_of(layer))
    assert LowRankLinear.from_matrix((u.astype(np.float32), v.astype(np.float32))).U.dtype == torch.float32


@pytest.mark.parametrize("kind", FORMATS)
def test_what_cannot_be_converted(kind):
    make_layer, make_matrix, _ = FORMATS[kind]
    other = sm.HODLRMatrix if kind == "hss" else sm.HSSMatrix
    tree = sm.ClusterTree.balanced(16, depth=1)

    with pytest.raises(TypeError, match=r"the matrix is complex \(complex128\), but the layers have real parameters"):
        make_layer.from_matrix(make_matrix.from_dense(kernel_matrix(16, 16) + 1j, tree))
    with pytest.raises(TypeError, match=rf"must be a structmat.{make_matrix.__name__}, but it is a {other.__name__}"):
        make_layer.from_matrix(other.from_dense(kernel_matrix(16, 16), tree))
    with pytest.raises(TypeError, match="but it is a ndarray"):
        make_layer.from_matrix(np.eye(16))


def test_factors_that_do_not_fit():
    with pytest.raises(ValueError, match=r"as many columns, but their shapes are \(4, 2\) and \(5, 1\)"):
        LowRankLinear.from_matrix((np.ones((4, 2)), np.ones((5, 1))))
