import pytest
import torch

from structmat.exceptions import ShapeError
from structmat_nn import KroneckerSum, LowRankTensorMap


@pytest.mark.parametrize(("taken", "given"), [(5, 7), ((3, 4), (5,)), ((2, 3, 4), (5, 2)), ((6,), (2, 3, 4))])
def test_the_map_is_its_sum_of_outer_products(taken, given):
    tensor_map = LowRankTensorMap(taken, given, rank=3, dtype=torch.float64)
    torch.nn.init.normal_(tensor_map.weights)
    x = torch.randn(2, 5, *tensor_map.in_shape, dtype=torch.float64)

    y = tensor_map(x)

    dense = torch.zeros(*tensor_map.out_shape, *tensor_map.in_shape, dtype=torch.float64)
    for i in range(3):
        term = tensor_map.weights[i]
        for letter, shape in (("u", tensor_map.out_shape), ("v", tensor_map.in_shape)):
            for axis in range(len(shape)):
                term = torch.tensordot(term, getattr(tensor_map, f"{letter}{axis}")[i], dims=0)
        dense += term
    axes = list(range(-len(tensor_map.in_shape), 0))
    expected = torch.tensordot(x, dense, dims=(axes, axes))
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)
    assert torch.allclose(tensor_map.dense_weight(), dense.reshape(y[0, 0].numel(), -1), rtol=0, atol=1e-12)


def test_it_is_a_sum_of_kronecker_products_of_rank_one():
    tensor_map = LowRankTensorMap((3, 4), (2, 5, 6), rank=3)
    matrix = KroneckerSum(tensor_map.kronecker_factors(3))
    assert matrix.in_shape == (1, 3, 4)
    assert torch.allclose(torch.from_numpy(matrix.to_dense()).float(), tensor_map.dense_weight(), atol=1e-6)


def test_parameter_count_and_variance():
    generator = torch.Generator().manual_seed(0)
    tensor_map = LowRankTensorMap((4, 16, 16), (32, 32), rank=50)
    tensor_map.reset_parameters(generator)
    assert sum(p.numel() for p in tensor_map.parameters()) == 50 * (1 + 4 + 16 + 16 + 32 + 32)
    x = torch.randn(50, 4, 16, 16, generator=generator)
    assert 0.7 < float(tensor_map(x).detach().var()) < 1.4


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="rank must be at least 1"):
        LowRankTensorMap(3, 4, rank=0)
    with pytest.raises(ShapeError, match=r"x has shape \(2, 4\), but the map takes \(..., 3\)"):
        LowRankTensorMap(3, 4, rank=1)(torch.ones(2, 4))
