"""Dense weights of all layers at once: the same model as layer by layer, in half as many operations."""

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import structmat as sm
from structmat_nn import HSSLinear, NeuralHSS
from structmat_nn.layers import activation, joint
from structmat_nn.models import neural_hss

MODELS = {
    "equal leaves": (256, {"rank": 2, "levels": 3, "depth": 3}),
    "unequal leaves and ranks": (100, {"rank": [1, 2, 3], "levels": 3, "depth": 2, "hidden": 77}),
    "full lifting": (57, {"rank": 2, "levels": 2, "depth": 2, "hidden": 30, "lift": "full"}),
    "channels": (50, {"rank": 2, "levels": 2, "depth": 2, "in_channels": 2}),
    "rank 0": (16, {"rank": 0, "levels": 2, "depth": 1}),
    "two axes": ((24, 20), {"rank": 2, "levels": 2, "depth": 3, "outer_rank": 3}),
    "two axes and lifting": ((24, 24), {"rank": 2, "levels": 2, "depth": 2, "outer_rank": 3, "hidden": (20, 22)}),
    "structures that layers have in another order": (
        (13, 9),
        {"rank": 1, "levels": 1, "depth": 2, "outer_rank": 2, "hidden": (17, 9)},
    ),
    "low-rank lifting": ((12, 12), {"rank": 2, "levels": 1, "depth": 2, "outer_rank": 2, "lift": "tensor"}),
    "three axes and channels": (
        (8, 9, 10),
        {"rank": 1, "levels": 1, "depth": 2, "outer_rank": 2, "in_channels": 2, "out_channels": 3},
    ),
}


def as_on_a_device(monkeypatch):
    monkeypatch.setattr(neural_hss, "bound_by_launches", lambda _: True)
    monkeypatch.setattr(activation, "bound_by_launches", lambda _: True)


def fields_for(model, batch=5, dtype=torch.float64):
    channels = (model.in_channels,) if model.in_channels > 1 else ()
    return torch.randn(batch, *channels, *model.size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def results(model, x):
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_those_of_layer_by_layer(monkeypatch, name):
    size, options = MODELS[name]
    model = NeuralHSS(size, **options, seed=0, dtype=torch.float64)
    x = fields_for(model)
    by_layer = results(model, x)
    as_on_a_device(monkeypatch)
    for found, wanted in zip(results(model, x), by_layer, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


class Counted(TorchDispatchMode):
    """Counts the operations that are not views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        shares = isinstance(result, torch.Tensor) and any(
            isinstance(a, torch.Tensor) and a.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
            for a in args
        )
        self.count += not (shares and function.is_view)
        return result


def operations(model, x):
    model(x).square().mean().backward()
    model.zero_grad()
    with Counted() as counted:
        model(x).square().mean().backward()
    return counted.count


@pytest.mark.parametrize(
    ("size", "options", "share"),
    [
        (256, {"rank": 2, "levels": 3, "depth": 3}, 0.5),
        ((64, 64), {"rank": 2, "levels": 2, "depth": 3, "outer_rank": 8}, 0.5),
        ((16, 16, 16), {"rank": 4, "levels": 2, "depth": 1, "outer_rank": 2}, 0.8),
    ],
)
def test_a_step_takes_few_operations(monkeypatch, size, options, share):
    model = NeuralHSS(size, **options, seed=0)
    x = fields_for(model, dtype=torch.float32)
    by_layer = operations(model, x)
    as_on_a_device(monkeypatch)
    assert operations(model, x) <= share * by_layer


def test_no_weight_is_formed_on_a_cpu(monkeypatch):
    model = NeuralHSS(64, rank=2, levels=2, depth=2, seed=0)
    monkeypatch.setattr(joint.JointWeights, "forward", lambda *_: pytest.fail("the weights were formed together"))
    model(fields_for(model, dtype=torch.float32))


def test_what_large_or_turned_layers_need_is_left_to_them(monkeypatch):
    monkeypatch.setattr(joint, "LARGEST", 64 * 64)
    tree = sm.ClusterTree.from_points(np.random.default_rng(0).random(64), leaf_size=16)
    model = NeuralHSS(64, rank=2, levels=2, depth=4, seed=0)
    model.layers[0] = HSSLinear(64, 64, rank=2, levels=2, route="structured")
    model.layers[1] = HSSLinear(64, 64, rank=0, levels=0)
    model.layers[2] = HSSLinear(64, 64, rank=2, levels=2, trees=(tree, tree))
    assert list(model._joint_stacks()) == [model.layers[3], model.projection]
    model.projection = HSSLinear(64, 65, rank=2, levels=2)
    assert list(model._joint_stacks()) == [model.layers[3]]


def test_a_layer_that_was_replaced(monkeypatch):
    model = NeuralHSS(64, rank=2, levels=2, depth=2, seed=0, dtype=torch.float64)
    x = fields_for(model)
    model.layers[0] = HSSLinear(64, 64, rank=3, levels=3, dtype=torch.float64)
    model.layers[1] = HSSLinear(64, 64, rank=3, levels=0, dtype=torch.float64)
    wanted = model(x)
    as_on_a_device(monkeypatch)
    torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-13)


def test_transforms_of_a_model(monkeypatch):
    as_on_a_device(monkeypatch)
    model = NeuralHSS((12, 10), rank=1, levels=1, depth=2, outer_rank=2, seed=0, dtype=torch.float64)
    x, state = fields_for(model), model.state_dict()
    assert not [name for name in state if "joint" in name or "positions" in name]
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    doubled = {name: 2 * p for name, p in model.named_parameters()}
    twin.load_state_dict({name: 2 * value if name in doubled else value for name, value in state.items()})
    torch.testing.assert_close(torch.func.functional_call(model, doubled, (x,)), twin(x), rtol=1e-13, atol=1e-13)
    one = torch.func.vmap(lambda field: model(field[None])[0])(x)
    torch.testing.assert_close(one, model(x), rtol=1e-12, atol=1e-13)
    torch.autograd.gradcheck(lambda field: model(field), x[:2].requires_grad_())


def test_generators_stay_in_their_precision_under_autocast(monkeypatch):
    as_on_a_device(monkeypatch)
    model = NeuralHSS(64, rank=2, levels=2, depth=2, seed=0)
    x, seen = fields_for(model, dtype=torch.float32), []
    own = joint.JointWeights.forward

    def spy(self, layers):
        found = own(self, layers)
        seen.extend(stack.dtype for stacks in found for stack in stacks)
        return found

    monkeypatch.setattr(joint.JointWeights, "forward", spy)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(x)
    assert set(seen) == {torch.float32}
    assert 0.0 < float((rounded - exact).detach().norm() / exact.detach().norm()) < 0.05


@pytest.mark.parametrize("name", ["equal leaves", "two axes"])
def test_a_compiled_model_is_one_graph(monkeypatch, name):
    as_on_a_device(monkeypatch)
    size, options = MODELS[name]
    model = NeuralHSS(size, **options, seed=0)
    x = fields_for(model, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
