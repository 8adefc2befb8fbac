"""Activation, groups of parameters, optimisers and several processes."""

import pytest
import torch
from torch import nn

from structmat_nn import HSSLinear, LearnableLeakyReLU, parameter_groups


def test_the_slope_is_learnt():
    activation = LearnableLeakyReLU()
    x = torch.linspace(-2, 2, 101, dtype=torch.float32)
    optimiser = torch.optim.SGD(activation.parameters(), lr=0.5)

    for _ in range(60):
        optimiser.zero_grad()
        (activation(x) - torch.where(x >= 0, x, 0.25 * x)).square().mean().backward()
        optimiser.step()

    assert activation.slope.item() == pytest.approx(0.25, abs=1e-4)
    assert activation.penalty().item() == pytest.approx(0.75**2, abs=1e-3)
    activation.reset_parameters()
    assert torch.equal(activation(x), x)


def test_the_activation_takes_any_shape_and_type():
    for shape in [(), (3,), (2, 3), (2, 3, 4)]:
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(shape, dtype=dtype)
            assert torch.equal(LearnableLeakyReLU(0.5)(x), torch.where(x >= 0, x, 0.5 * x))


def test_slopes_and_biases_are_not_decayed():
    shared = HSSLinear(30, 30, rank=1, levels=2, bias=True)  # unequal leaves: its weights are stored flat
    model = nn.Sequential(shared, LearnableLeakyReLU(), shared, nn.Linear(30, 3), nn.PReLU())

    groups = parameter_groups(model, 0.1)

    names = {id(p): name for name, p in model.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in groups)
    assert kept == {"0.bias", "1.slope", "3.bias", "4.weight"}
    assert decayed == set(names.values()) - kept
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [g["weight_decay"] for g in parameter_groups(nn.Linear(2, 2, bias=False), 0.1)] == [0.1]
    with pytest.raises(ValueError, match="weight_decay must be a finite number >= 0"):
        parameter_groups(model, -1.0)


def test_a_layer_learns_a_matrix_of_its_structure():
    torch.manual_seed(1)
    teacher = HSSLinear(31, 31, rank=1, levels=2)
    layer = HSSLinear(31, 31, rank=2, levels=2)
    optimiser = torch.optim.AdamW(parameter_groups(layer, 0.0), lr=1e-2)
    with torch.no_grad():
        weight = teacher.dense_weight()
    x = torch.randn(256, 31)

    losses = []
    for _ in range(200):
        optimiser.zero_grad()
        loss = (layer(x) - x @ weight.mT).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < 2e-2 * losses[0]


def _train_in_a_group(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = HSSLinear(30, 30, rank=1, levels=2)
    model = nn.parallel.DistributedDataParallel(layer)
    x = torch.randn(8, 30)[4 * rank : 4 * rank + 4]
    model(x).square().mean().backward()
    torch.save([p.grad for p in layer.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path):
    torch.multiprocessing.spawn(_train_in_a_group, (str(tmp_path),), nprocs=2)

    torch.manual_seed(0)
    layer = HSSLinear(30, 30, rank=1, levels=2)
    layer(torch.randn(8, 30)).square().mean().backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.allclose(g, p.grad, atol=1e-6) for g, p in zip(found, layer.parameters(), strict=True))
