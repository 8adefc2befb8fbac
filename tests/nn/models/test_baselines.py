"""What all baselines have in common."""

import copy
import sys

import pytest
import safetensors.torch
import torch

from structmat.exceptions import MissingLibraryError, ShapeError
from structmat_nn.models import (
    FNO,
    MODELS,
    DeepONet,
    FactFormer,
    GreenLearning,
    ResNet,
    Transolver,
    count_parameters,
    create,
    describe,
)

from ..test_import import ModuleHider
from .baselines import BY_GRADIENT, IN_DOUBLE, SIZES, SMALL, fitted, needs_neuraloperator, shape, small

pytestmark = needs_neuraloperator
models = pytest.mark.parametrize("model", BY_GRADIENT, ids=lambda model: model.__name__)


@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("dimension", [1, 2, 3])
@models
def test_shapes_of_any_batch_channels_and_dimension(model, dimension, in_channels, out_channels):
    network = small(model, dimension, in_channels=in_channels, out_channels=out_channels)
    for batch in [(), (2,), (2, 3)]:
        outputs = network(torch.randn(*batch, *shape(dimension, in_channels)))

        assert outputs.shape == (*batch, *shape(dimension, out_channels))
        assert outputs.dtype == torch.float32


@models
def test_a_batch_is_mapped_sample_by_sample(model):
    network = small(model, 2, in_channels=2)
    x = torch.randn(4, *shape(2, 2))

    torch.testing.assert_close(network(x)[2], network(x[2]), rtol=1e-4, atol=1e-5)


@models
def test_gradients_reach_every_parameter_and_the_input(model):
    network = small(model, 2, in_channels=2, out_channels=2)
    x = torch.randn(3, *shape(2, 2), requires_grad=True)
    network(x).square().sum().backward()

    assert x.grad.abs().max() > 0
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


PARAMETERS = [  # at the settings of the tables of the Neural-HSS paper; entries, and real numbers
    (FNO, 256, {"n_modes": 24, "hidden_channels": 32, "n_layers": 6}, 97_281, 177_153),
    (FNO, 256, {"n_modes": 12, "hidden_channels": 32, "n_layers": 6}, 60_417, 103_425),
    (FNO, 1024, {"n_modes": 64, "hidden_channels": 64, "n_layers": 6}, 878_593, 1_689_601),
    (FNO, (64, 64), {"n_modes": (8, 8), "hidden_channels": 16, "n_layers": 4}, 44_465, 85_425),
    (FNO, (64, 64), {"n_modes": (16, 16), "hidden_channels": 16, "n_layers": 4}, 150_961, 298_417),
    (FNO, (128, 128), {"n_modes": (32, 32), "hidden_channels": 32, "n_layers": 4}, 2_241_377, 4_469_601),
    (FNO, (16, 16, 16), {"n_modes": 8, "hidden_channels": 14, "n_layers": 2}, 127_317, 252_757),
    (ResNet, 256, {"width": 48, "depth": 12}, 167_377, 167_377),
    (ResNet, 1024, {"width": 150, "depth": 12}, 1_624_651, 1_624_651),
    (ResNet, (64, 64), {"width": 64, "depth": 4}, 296_641, 296_641),
    (ResNet, (16, 16, 16), {"width": 48, "depth": 2}, 251_665, 251_665),
    (DeepONet, 256, {"width": 192, "depth": 4}, 272_065, 272_065),
    (DeepONet, 1024, {"width": 512, "depth": 4}, 2_101_761, 2_101_761),
    (DeepONet, (64, 64), {"width": 64, "depth": 4}, 287_361, 287_361),
    (DeepONet, (128, 128), {"width": 128, "depth": 4}, 2_196_737, 2_196_737),
    (GreenLearning, 256, {"width": 128, "depth": 6}, 166_102, 166_102),
    (GreenLearning, 256, {"width": 128, "depth": 6, "homogeneous": False}, 83_115, 83_115),
    (GreenLearning, (64, 64), {"width": 64, "depth": 6, "homogeneous": False}, 21_227, 21_227),
    (FactFormer, (64, 64), {"width": 384, "depth": 1, "heads": 1, "head_width": 8}, 3_934_657, 3_934_657),
    (Transolver, 256, {}, 163_921, 163_921),
    (Transolver, (64, 64), {}, 360_657, 360_657),
]


@pytest.mark.parametrize(("model", "size", "options", "entries", "numbers"), PARAMETERS)
def test_parameters_at_the_settings_of_the_paper(model, size, options, entries, numbers):
    network = model(size, **options)

    assert sum(parameter.numel() for parameter in network.parameters()) == entries
    assert count_parameters(network) == numbers


@models
def test_a_seed_fixes_the_first_weights_and_leaves_the_global_generator_alone(model):
    state = torch.get_rng_state()
    first, second = (small(model).state_dict() for _ in range(2))
    other = model(SIZES[1], seed=1, **SMALL[model]).state_dict()

    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@models
def test_without_a_seed_the_weights_come_from_the_global_generator(model):
    torch.manual_seed(5)
    first = model(SIZES[1], **SMALL[model]).state_dict()
    torch.manual_seed(5)
    second = model(SIZES[1], **SMALL[model]).state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("model", IN_DOUBLE, ids=lambda model: model.__name__)
def test_double_precision_agrees_with_single(model):
    single, double = small(model, 2), small(model, 2, dtype=torch.float64)
    x = torch.randn(3, *shape(2, 1), dtype=torch.float64)
    outputs = double(x)

    assert outputs.dtype == torch.float64
    torch.testing.assert_close(single(x.float()).double(), outputs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(single.double()(x), outputs, rtol=1e-3, atol=1e-4)


@models
def test_autocast_to_bfloat16_stays_close(model):
    network = small(model, 2)
    x = torch.randn(3, *shape(2, 1))
    exact = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(x)
        outputs.float().square().sum().backward()

    assert (outputs.float() - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(p.grad is None or p.grad.dtype == p.dtype for p in network.parameters())
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_fno_refuses_double_precision():
    with pytest.raises(TypeError, match=r"dtype must be torch.float32: neuraloperator holds spectra in complex64"):
        small(FNO, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"converted to torch.float64, but neuraloperator computes in torch.float32"):
        small(FNO).double()(torch.randn(2, 12, dtype=torch.float64))


@models
def test_functional_call_uses_the_given_parameters(model):
    network, other = small(model), small(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    x = torch.randn(3, 12)

    assert torch.equal(torch.func.functional_call(network, dict(other.named_parameters()), (x,)), other(x))


@models
def test_states_hold_tensors_only_and_travel_through_files(model, tmp_path):
    network = small(model, 2)
    state = network.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "model.safetensors")
    other = model(SIZES[2], seed=3, **SMALL[model])
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    x = torch.randn(3, *shape(2, 1))

    assert torch.equal(network(x), other(x))
    assert torch.equal(network(x), copy.deepcopy(network)(x))


@models
def test_inputs_of_another_shape_type_or_precision_are_refused(model):
    network = small(model, 2, in_channels=2)
    with pytest.raises(
        ShapeError, match=r"x must have shape \(batch..., 2, 8, 10\) for size=\(8, 10\) and in_channels=2"
    ):
        network(torch.randn(3, 8, 10))
    with pytest.raises(ShapeError, match=r"but its shape is \(10,\)"):
        network(torch.randn(10))
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, but it is a list"):
        network([1.0, 2.0])
    with pytest.raises(TypeError, match=r"x must hold floating point numbers, but its dtype is torch.int64"):
        network(torch.ones(3, 2, 8, 10, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"x is torch.float64, but .* torch.float32"):
        network(torch.ones(3, 2, 8, 10, dtype=torch.float64))


@models
def test_bad_sizes_and_channels_are_refused(model):
    for size, message in [
        (0, "size must be at least 1, but it is 0"),
        ((4, 0), r"size\[1\] must be at least 1"),
        ((), "size must hold one integer for each dimension, but it is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(size, **SMALL[model])
    with pytest.raises(TypeError, match=r"size must be an integer, but it is 2.5 of type float"):
        model(2.5, **SMALL[model])
    with pytest.raises(ValueError, match="in_channels must be at least 1, but it is 0"):
        model(8, in_channels=0, **SMALL[model])
    with pytest.raises(ValueError, match="seed must be at least 0, but it is -1"):
        model(8, seed=-1, **SMALL[model])


@pytest.mark.parametrize(
    ("model", "size", "options", "message"),
    [
        (FNO, 12, {"n_modes": 14}, r"n_modes=\(14,\) is more than the grid of size=\(12,\) has"),
        (FNO, (12, 12), {"n_modes": (4,)}, "n_modes must be one integer or one for each of 2 axes"),
        (ResNet, 12, {"kernel_size": 4}, "kernel_size must be odd, so that a point has neighbours on both sides"),
        (
            ResNet,
            12,
            {"padding": "wrap"},
            "padding must be one of zeros, circular, reflect, replicate, but it is 'wrap'",
        ),
        (ResNet, 2, {"padding": "reflect", "kernel_size": 5}, "kernel_size=5 reaches over the grid"),
        (ResNet, (4, 4, 4, 4), {}, "convolutions exist on grids of 1, 2 or 3 dimensions, but size has 4"),
        (FactFormer, 12, {"width": 12}, "width must be a multiple of 8"),
        (FactFormer, 12, {"head_width": 3}, "head_width must be even"),
        (Transolver, 12, {"width": 10, "heads": 4}, "width must be a multiple of heads=4, but it is 10"),
        (GreenLearning, 12, {"pairs_at_once": 0}, "pairs_at_once must be at least 1, but it is 0"),
        (GreenLearning, (128, 128, 128), {}, r"all pairs of grid points: size=\(128, 128, 128\) has 4.4e\+12"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, size, options, message):
    with pytest.raises(ValueError, match=message):
        model(size, **options)


def test_precision_must_be_a_floating_point_type():
    with pytest.raises(
        TypeError, match=r"dtype must be a floating point type such as torch.float32, but it is torch.int"
    ):
        ResNet(12, dtype=torch.int32)


def test_create_finds_models_by_name():
    for name, model in MODELS.items():
        assert model.trained_by in ("gradient", "fit"), name
    network = create("resnet", (8, 8), in_channels=2, out_channels=3, width=4, depth=1)

    assert isinstance(network, ResNet)
    assert (network.in_channels, network.out_channels) == (2, 3)
    with pytest.raises(ValueError, match=r"name must be one of .*fno.*resnet.*, but it is 'resnett'"):
        create("resnett", 8)


def test_descriptions_add_up():
    lines = describe(small(DeepONet), depth=2).splitlines()
    numbers = [int(line.split()[-1].replace(",", "")) for line in lines[2:]]

    assert lines[0] == "DeepONet"
    assert sum(numbers[:-1]) == numbers[-1] == count_parameters(small(DeepONet))
    assert "functionals" in describe(fitted())
    assert count_parameters(fitted()) == 5 * 12 * 2


def test_without_neuraloperator_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "neuralop"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [ModuleHider("neuralop"), *sys.meta_path])

    with pytest.raises(MissingLibraryError, match=r'pip install "structmat\[experiments\]"'):
        small(FNO)


@models
def test_sixty_steps_of_adamw_halve_the_loss_on_a_smoothing_operator(model):
    x = torch.randn(32, 12)
    y = x.cumsum(dim=1) / 4  # not local, and with a boundary
    network = small(model)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.5 * min(losses[0], float(y.square().mean()))
