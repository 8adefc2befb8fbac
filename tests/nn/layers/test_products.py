"""Products and gradients of all layers, by all routes, against the dense weight."""

import copy

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from structmat import ShapeError
from structmat_nn import HSSLinear

from .layers import MAKERS, filled, random_hss


@pytest.mark.parametrize("name", MAKERS)
def test_outputs_and_gradients_equal_those_through_the_dense_weight(name):
    for seed in range(50):
        layer = MAKERS[name](seed)
        x = torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)
        seen = torch.randn(3, layer.out_features, dtype=torch.float64)
        wanted = [x, *layer.parameters()]

        y = layer(x)
        found = torch.autograd.grad((y * seen).sum(), wanted)

        reference = functional.linear(x, layer.dense_weight(), layer.bias)
        expected = torch.autograd.grad((reference * seen).sum(), wanted)
        assert torch.allclose(y, reference, rtol=0, atol=1e-12), seed
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1.0, float(b.abs().max()) if b.numel() else 1.0)), seed


@pytest.mark.parametrize("name", MAKERS)
def test_gradcheck(name):
    product, arguments = _as_function(MAKERS[name](24))

    assert torch.autograd.gradcheck(product, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(product, arguments, fast_mode=True)


@pytest.mark.slow  # torch loads its rules for forward mode
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", MAKERS)
def test_forward_mode(name):
    product, arguments = _as_function(MAKERS[name](24))

    assert torch.autograd.gradcheck(product, arguments, check_forward_ad=True, check_backward_ad=False)


def _as_function(layer):
    """The layer as a function of its input and parameters, and values for them."""
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(2, layer.in_features, dtype=torch.float64, requires_grad=True)
    assert layer.out_features != layer.in_features

    def product(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    return product, (x, *parameters)


def test_the_dense_weight_is_the_definition_by_levels():
    layer = filled(HSSLinear(24, 16, rank=(2, 2), levels=2, dtype=torch.float64), 3)
    p = dict(layer.named_parameters())

    inner = torch.block_diag(*p["D1"]) + torch.block_diag(*p["U1"]) @ p["D0"][0] @ torch.block_diag(*p["V1"]).T
    whole = torch.block_diag(*p["D2"]) + torch.block_diag(*p["U2"]) @ inner @ torch.block_diag(*p["V2"]).T

    assert torch.allclose(layer.dense_weight(), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", MAKERS)
def test_leading_axes_are_batch_axes(name):
    layer = MAKERS[name](4)
    x = torch.randn(2, 3, layer.in_features, dtype=torch.float64)

    y = layer(x)

    assert y.shape == (2, 3, layer.out_features)
    assert torch.allclose(y[1, 2], layer(x[1, 2]), rtol=0, atol=1e-13)
    assert layer(x[:0]).shape == (0, 3, layer.out_features)


def test_the_rule_goes_by_levels_size_and_batch():
    layer = HSSLinear(256, 256, rank=2, levels=3)
    small = HSSLinear(64, 64, rank=4, levels=4)
    assert [layer.dense_level(k) for k in (1, 256)] == [0, 0]
    assert [small.dense_level(k) for k in (1, 4096)] == [0, 4]
    assert HSSLinear(8, 8, rank=1, levels=0).dense_level(1) == 0
    fixed = {route: HSSLinear(64, 64, rank=4, levels=4, route=route).dense_level(1) for route in HSSLinear.routes[1:]}
    assert fixed == {"structured": 0, "core": 3, "dense": 4}


def test_wrong_number_of_features():
    with pytest.raises(ShapeError, match=r"x has 5 features, but the layer takes 8 \(x.shape = \(2, 5\)\)"):
        HSSLinear(8, 8, rank=1, levels=1)(torch.ones(2, 5))
    with pytest.raises(ShapeError, match="x has no features, but the layer takes 8"):
        HSSLinear(8, 8, rank=1, levels=1)(torch.tensor(1.0))


@pytest.mark.parametrize("name", MAKERS)
def test_deepcopy_and_state_dict(name):
    layer = MAKERS[name](6)
    x = torch.randn(3, layer.in_features, dtype=torch.float64)

    twin = copy.deepcopy(layer)
    fresh = MAKERS[name](6)
    fresh.reset_parameters(torch.Generator().manual_seed(99))
    fresh.load_state_dict(layer.state_dict())

    assert torch.equal(twin(x), layer(x))
    assert torch.equal(fresh(x), layer(x))
    assert set(layer.state_dict()) == {n for n, _ in layer.named_parameters()}  # no indices, no metadata
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(twin(x), layer(x))


def test_gradients_by_sample():
    layer = random_hss(20, "auto")
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    x = torch.randn(4, layer.in_features, dtype=torch.float64)

    def loss(parameters, sample):
        return functional_call(layer, parameters, (sample,)).square().sum()

    by_sample = vmap(grad(loss), in_dims=(None, 0))(parameters, x)

    for name, values in by_sample.items():
        alone = grad(loss)(parameters, x[2])[name]
        assert torch.allclose(values[2], alone, rtol=0, atol=1e-11), name


@pytest.mark.parametrize("name", MAKERS)
def test_autocast_keeps_the_generators_in_float32(name):
    layer = MAKERS[name](8).float()
    x = torch.randn(5, layer.in_features)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        y.float().square().mean().backward()

    exact = layer(x)
    assert (y.float() - exact).norm() < 0.03 * exact.norm()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the compiler itself
@pytest.mark.parametrize("name", MAKERS)
def test_compile_without_graph_breaks(name):
    layer = MAKERS[name](8)
    x = torch.randn(5, layer.in_features, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True)

    y = compiled(x)
    y.square().sum().backward()
    found = [p.grad.clone() for p in layer.parameters()]

    layer.zero_grad()
    layer(x).square().sum().backward()
    assert torch.allclose(y, layer(x), rtol=0, atol=1e-12)
    for a, p in zip(found, layer.parameters(), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-11, atol=1e-11)
