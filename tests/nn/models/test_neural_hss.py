import numpy as np
import pytest
import torch

from structmat.exceptions import ShapeError
from structmat_nn import HSSTensorLinear, LearnableLeakyReLU, LowRankTensorMap, NeuralHSS, parameter_groups
from structmat_nn.models import create

# the settings of the paper's tables, and the parameters of the weights that follow from them; slopes come on top
TABLES = {
    "tables 3 and 9": (256, {"rank": 2, "levels": 3, "depth": 3}, 37_696, 3),
    "table 4": (256, {"rank": 32, "levels": 3, "depth": 4, "hidden": 1024, "lift": "full"}, 1_523_712, 4),
    "tables 5 and 6": ((64, 64), {"rank": 2, "levels": 2, "depth": 3, "outer_rank": 8}, 65_280, 3),
    "table 7": ((128, 128), {"rank": 8, "levels": 2, "depth": 3, "outer_rank": 8}, 356_352, 3),
    "table 8": ((128, 128, 128), {"rank": 4, "levels": 2, "depth": 1, "outer_rank": 2}, 32_640, 1),
}


@pytest.mark.parametrize("table", TABLES)
def test_parameter_counts_of_the_tables(table):
    size, options, weights, slopes = TABLES[table]
    model = NeuralHSS(size, **options)
    assert model.weight_parameter_count == weights
    assert model.slopes.tolist() == [1.0] * slopes
    assert sum(p.numel() for p in model.parameters()) == weights + slopes


MODELS = {
    "1-D": (17, {}),
    "1-D, hidden": (16, {"hidden": 24}),
    "1-D, full": (16, {"hidden": 24, "lift": "full"}),
    "1-D, tensor": (16, {"hidden": 24, "lift": "tensor", "lift_rank": 4}),
    "1-D, channels": (16, {"in_channels": 2, "out_channels": 3}),
    "1-D, channels, full, gelu": (16, {"in_channels": 2, "hidden": 20, "lift": "full", "activation": "gelu"}),
    "2-D": ((12, 9), {"outer_rank": 2}),
    "2-D, hidden": ((12, 9), {"outer_rank": 2, "hidden": (8, 14)}),
    "2-D, channels": ((12, 9), {"outer_rank": 2, "in_channels": 3, "out_channels": 2}),
    "2-D, channels, full": ((12, 9), {"outer_rank": 2, "out_channels": 2, "lift": "full", "hidden": 10}),
    "2-D, channels, tensor": ((12, 9), {"outer_rank": 2, "out_channels": 2, "lift": "tensor", "hidden_channels": 3}),
    "2-D, parameters": ((12, 9), {"outer_rank": 2, "parameters": 2, "hidden_channels": 2}),
    "3-D": ((6, 8, 7), {"outer_rank": 2, "depth": 1}),
    "3-D, channels": ((6, 8, 7), {"outer_rank": 2, "in_channels": 2}),
}


def built(name, **more):
    size, options = MODELS[name]
    return NeuralHSS(size, **({"rank": 1, "levels": 1, "depth": 2, "seed": 0} | options | more))


def fields_for(model, *batch):
    head = () if model.in_channels == 1 else (model.in_channels,)
    x = torch.randn(*batch, *head, *model.size, dtype=next(model.parameters()).dtype)
    return (x, torch.randn(*batch, model.parameter_channels)) if model.parameter_channels else (x,)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_gradients_and_batches(name):
    model = built(name, bias=True)
    inputs = fields_for(model, 2, 3)

    y = model(*inputs)

    head = () if model.out_channels == 1 else (model.out_channels,)
    assert y.shape == (2, 3, *head, *model.size)
    assert torch.allclose(y[1, 2], model(*(x[1, 2] for x in inputs)), atol=1e-5)
    y.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert any(p.grad.abs().max() > 0 for p in model.parameters())


def test_a_model_of_two_dimensions_is_its_layers_one_after_another():
    model = built("2-D, hidden", dtype=torch.float64)
    with torch.no_grad():
        for number, activation in enumerate(model.activations):
            activation.slope.fill_(0.3 + number)
    x = torch.randn(4, 12, 9, dtype=torch.float64)

    expected = model.lifting(x)
    for layer, activation in zip(model.layers, model.activations, strict=True):
        expected = activation(layer(expected))
    expected = model.projection(expected)

    assert torch.allclose(model(x), expected, rtol=0, atol=1e-12)


def test_where_lifting_and_projection_stand():
    line, full = built("1-D, hidden"), built("1-D, full")
    assert line.lifting is None
    assert [layer.in_features for layer in line.layers] == [16, 24]
    assert line.projection.out_features == 16
    assert full.lifting.structure.levels == full.projection.structure.levels == 0
    plane = built("2-D, channels")
    assert plane.lifting is None
    assert plane.projection is None
    assert [layer.channels for layer in plane.layers] == [(3, 3), (3, 2)]
    assert isinstance(built("2-D, hidden").lifting, HSSTensorLinear)
    mapped = built("2-D, channels, tensor")
    assert isinstance(mapped.lifting, LowRankTensorMap)
    assert mapped.projection.in_shape == (3, 12, 9)
    assert mapped.projection.out_shape == (2, 12, 9)


def test_activations():
    assert all(isinstance(a, LearnableLeakyReLU) for a in built("2-D").activations)
    gelu = built("2-D", activation="gelu")
    assert [type(a).__name__ for a in gelu.activations] == ["GELU", "Identity"]  # an output is not bounded
    assert gelu.slopes.numel() == 0
    assert float(gelu.slope_penalty()) == 0.0
    own = built("1-D", activation=lambda: LearnableLeakyReLU(0.5))
    assert own.slopes.tolist() == [0.5, 0.5]
    assert float(own.slope_penalty().detach()) == pytest.approx(0.5)


def test_slopes_are_not_decayed():
    model = built("1-D")
    groups = parameter_groups(model, 1e-2)
    free = {id(p) for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert free == {id(a.slope) for a in model.activations}


def test_parameters_are_constant_channels():
    model = built("2-D, parameters")
    twin = NeuralHSS((12, 9), rank=1, levels=1, depth=2, outer_rank=2, in_channels=3, hidden_channels=2, seed=0)
    x, p = fields_for(model, 5)
    stacked = torch.cat([x[:, None], p[:, :, None, None].expand(5, 2, 12, 9)], dim=1)
    assert torch.allclose(model(x, p), twin(stacked), atol=1e-6)
    with pytest.raises(ShapeError, match="the model takes 2 parameters with each field"):
        model(x)
    with pytest.raises(ShapeError, match=r"parameters must have shape \(5, 2\)"):
        model(x, p[:, :1])


def test_the_seed_decides_the_weights_and_leaves_the_global_generator():
    state = torch.random.get_rng_state()
    a, b, c = built("1-D"), built("1-D"), built("1-D", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = torch.randn(3, 17)
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))


def test_the_table_of_models_knows_it():
    assert isinstance(create("neural-hss", 16, rank=1, levels=2, depth=1), NeuralHSS)


def test_the_start_from_an_exponential_sum_solves_poisson():
    n = 16
    a = (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    model = NeuralHSS((n, n), rank=4, levels=1, depth=2, outer_rank=6, dtype=torch.float64)
    start = model.init_from_exponential_sum([a, a])
    f = np.random.default_rng(0).standard_normal((n, n))
    u = np.linalg.solve(np.kron(a, np.eye(n)) + np.kron(np.eye(n), a), f.ravel()).reshape(n, n)
    error = np.linalg.norm(model(torch.from_numpy(f)).detach().numpy() - u) / np.linalg.norm(u)
    assert error < 3 * start.layer_error < 1e-3
    with pytest.raises(ValueError, match="in one dimension use"):
        built("1-D").init_from_exponential_sum([a])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lift": "none"}, "lift must be one of 'hss', 'full', 'tensor'"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"outer_rank": 4}, "outer_rank = 4 has no meaning for one channel in one dimension"),
        ({"activation": "swish"}, "activation must be one of 'leaky_relu'"),
        ({"activation": 3}, "activation must be a name or a function"),
        ({"hidden": (8, 8)}, "hidden must be one integer or one for each of 1 axes"),
        ({"size": (0,)}, "must be at least 1"),
        ({"levels": 9}, "use levels <="),
        ({"parameters": -1}, "parameters must be at least 0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"size": 16, "rank": 1, "levels": 2, "depth": 1} | change
    with pytest.raises((ValueError, TypeError), match=message):
        NeuralHSS(arguments.pop("size"), **arguments)


def test_bad_inputs_are_named():
    model = built("1-D")
    with pytest.raises(ShapeError, match="x must have shape"):
        model(torch.ones(3, 16))
    with pytest.raises(TypeError, match=r"x is torch\.float64"):
        model(torch.ones(3, 17, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1-D, hidden", "2-D, parameters", "3-D"])
def test_it_compiles_as_one_graph(name):
    model = built(name)
    inputs = fields_for(model, 3)
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(*inputs)
    y.sum().backward()
    assert torch.allclose(y, model(*inputs), atol=1e-6)
    assert all(p.grad is not None for p in model.parameters())


def test_gain_scales_the_first_weights_and_not_the_slopes():
    one = NeuralHSS(16, rank=1, levels=2, depth=2, seed=0).state_dict()
    half = NeuralHSS(16, rank=1, levels=2, depth=2, seed=0, gain=0.5).state_dict()
    for name, value in one.items():
        torch.testing.assert_close(half[name], value if name.startswith("activations") else 0.5 * value)
    with pytest.raises(ValueError, match="gain must be a positive"):
        NeuralHSS(16, rank=1, levels=2, depth=2, gain=0.0)
