import copy

import numpy as np
import pytest
import torch

from structmat.exceptions import ShapeError
from structmat_nn import HSSTensorLinear, hss_parameter_count

DOUBLE = torch.float64

# shape, out_shape, rank, levels, outer_rank, channels
LAYERS = {
    "one mode": ((16,), None, 2, 2, 3, None),
    "one mode, channels": ((9,), (8,), 2, 1, 2, (2, 3)),
    "two modes": ((16, 12), None, 2, 2, 3, None),
    "two modes, rectangular, unequal leaves": ((16, 13), (9, 14), 2, 2, 3, None),
    "two modes, channels": ((8, 12), (9, 7), 1, 2, 2, (3, 2)),
    "two modes, one of them full": ((8, 8), None, (0, 2), (0, 1), 2, None),
    "two modes, ranks by level": ((16, 16), None, ((3, 2), 1), (2, 1), 2, None),
    "three modes": ((8, 7, 6), (5, 8, 4), 1, 1, 2, None),
    "three modes, channels": ((4, 5, 6), None, 1, 1, 2, (2, 2)),
    "four modes": ((4, 5, 4, 3), None, 1, 1, 2, None),
}


@pytest.fixture(params=LAYERS, ids=str)
def layer(request):
    shape, out_shape, rank, levels, outer_rank, channels = LAYERS[request.param]
    made = HSSTensorLinear(
        shape, out_shape=out_shape, rank=rank, levels=levels, outer_rank=outer_rank, channels=channels, bias=True,
        dtype=DOUBLE,
    )  # fmt: skip
    torch.nn.init.normal_(made.bias)
    return made


def shapes_of(layer):
    if layer.channels is None:
        return layer.shape, layer.out_shape
    return (layer.channels[0], *layer.shape), (layer.channels[1], *layer.out_shape)


def test_the_layer_is_its_sum_of_kronecker_products(layer):
    taken, given = shapes_of(layer)
    x = torch.randn(2, 3, *taken, dtype=DOUBLE)

    y = layer(x)

    dense = torch.from_numpy(layer.to_matrix().to_dense())
    expected = (x.reshape(6, -1) @ dense.mT).reshape(2, 3, *given) + layer.bias
    assert y.shape == (2, 3, *given)
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_dense_products(layer):
    taken, given = shapes_of(layer)
    x = torch.randn(4, *taken, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(4, *given, dtype=DOUBLE)
    parameters = [x, *layer.parameters()]

    mine = torch.autograd.grad((layer(x) * weight).sum(), parameters)

    factors = layer.factors()
    if layer.channels is not None:
        factors = [layer.channel_factors, *factors]
    total = 0
    for k in range(layer.outer_rank):
        matrix = factors[0][k]
        for stack in factors[1:]:
            matrix = torch.kron(matrix, stack[k].contiguous())
        total = total + matrix
    dense = (x.reshape(4, -1) @ total.mT).reshape(weight.shape) + layer.bias
    for a, b in zip(mine, torch.autograd.grad((dense * weight).sum(), parameters), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-11 * max(1.0, float(b.abs().max())))


def test_an_empty_batch_and_no_batch(layer):
    taken, given = shapes_of(layer)
    x = torch.randn(taken, dtype=DOUBLE)

    assert layer(torch.empty(0, *taken, dtype=DOUBLE)).shape == (0, *given)
    assert torch.equal(layer(x), layer(x[None])[0])


def test_the_identity_start(layer):
    if shapes_of(layer)[0] != shapes_of(layer)[1]:
        with pytest.raises(ShapeError, match="an identity needs equal shapes"):
            layer.init_identity()
        return
    layer.init_identity()
    matrix = layer.to_matrix().to_dense()
    assert np.allclose(matrix, np.eye(len(matrix)), rtol=0, atol=1e-15)
    layer(torch.randn(3, *shapes_of(layer)[0], dtype=DOUBLE)).square().sum().backward()
    moving = [name for name, p in layer.named_parameters() if p.grad.abs().max() > 0]
    assert any("_D" in name for name in moving)


def test_a_copy_of_the_state_and_functional_calls_give_the_same(layer):
    x = torch.randn(2, *shapes_of(layer)[0], dtype=DOUBLE)
    other = copy.deepcopy(layer)
    other.reset_parameters()
    other.load_state_dict(layer.state_dict())

    assert torch.equal(other(x), layer(x))
    assert torch.equal(torch.func.functional_call(other, dict(layer.named_parameters()), (x,)), layer(x))
    assert not any("entries" in name or "slots" in name for name in layer.state_dict())


@pytest.mark.parametrize(("n", "levels", "rank", "outer", "total"), [(64, 2, 2, 8, 21760), (128, 2, 8, 8, 118784)])
def test_parameter_counts_of_the_tables(n, levels, rank, outer, total):
    layer = HSSTensorLinear((n, n), rank=rank, outer_rank=outer, levels=levels)
    assert layer.weight_parameter_count == total == 2 * outer * hss_parameter_count(n, levels, rank)


def test_the_start_keeps_the_variance():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 3, 32, 32, generator=generator)
    ratios = []
    for _ in range(12):
        layer = HSSTensorLinear((32, 32), rank=2, outer_rank=6, levels=2, channels=(3, 5))
        layer.reset_parameters(generator)
        ratios.append(float(layer(x).detach().var() / x.var()))
    assert 0.7 < np.mean(ratios) < 1.4
    assert np.std(ratios) < 0.5


def test_gradcheck():
    layer = HSSTensorLinear((4, 5), rank=1, outer_rank=2, levels=1, channels=(2, 1), dtype=DOUBLE)
    x = torch.randn(2, 2, 4, 5, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, *p: layer(z), (x, *layer.parameters()), fast_mode=True)


def test_autocast_keeps_the_generators_in_single_precision():
    layer = HSSTensorLinear((16, 16), rank=2, outer_rank=2, levels=2)
    x = torch.randn(3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), layer(x), atol=0.1)
    low.float().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": ()}, "shape must hold one integer for each dimension"),
        ({"shape": (8, 0)}, r"shape\[1\] must be at least 1"),
        ({"out_shape": (8,)}, "out_shape has 1 modes, but shape has 2"),
        ({"outer_rank": 0}, "outer_rank must be at least 1"),
        ({"rank": (1, 2, 1)}, "rank must be one value or one for each of the 2 modes, but it has 3"),
        ({"levels": 5}, "use levels <= 3"),
        ({"channels": (1, 2, 3)}, r"channels must be a pair \(channels in, channels out\)"),
        ({"rank": 5}, "use a rank of at most 2 or fewer levels"),
        ({"dtype": torch.int64}, "dtype must be a real floating-point type"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"shape": (8, 8), "rank": 2, "outer_rank": 2, "levels": 2} | change
    with pytest.raises((ValueError, TypeError), match=message):
        HSSTensorLinear(arguments.pop("shape"), **arguments)


def test_an_input_of_another_shape_is_named():
    layer = HSSTensorLinear((8, 6), rank=1, outer_rank=2, levels=1)
    with pytest.raises(ShapeError, match=r"x has shape \(3, 6, 8\), but the layer takes \(..., 8, 6\)"):
        layer(torch.ones(3, 6, 8))
    with pytest.raises(ShapeError, match=r"x has shape \(6,\)"):
        layer(torch.ones(6))
