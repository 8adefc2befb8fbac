"""AsLinear: second moments of the pairs stand for the pairs, and the model is straightened first."""

import numpy as np
import pytest
import torch

from structmat_nn import NeuralHSS, data
from structmat_nn.layers.activation import LearnableLeakyReLU
from structmat_nn.training import LBFGS, AsLinear, FinalStage, LearnedOperator, StageData
from structmat_nn.training.linear import fewer_pairs


def combinations(samples, rank, *size, seed=0):
    """Fields that are combinations of a few."""
    draw = torch.Generator().manual_seed(seed)
    modes = torch.randn(rank, *size, dtype=torch.float64, generator=draw)
    weights = torch.randn(samples, rank, dtype=torch.float64, generator=draw)
    return torch.einsum("sr,r...->s...", weights, modes)


def squared_error(operator, pairs, mask=None):
    difference = (operator @ pairs.inputs.flatten(1).mT).mT - pairs.outputs.flatten(1)
    return float((difference if mask is None else difference * mask).square().sum())


@pytest.mark.parametrize(("samples", "rank"), [(300, 7), (50, 40), (64, 20)])
def test_fewer_pairs_have_the_squared_error_of_all_but_for_a_constant(samples, rank):
    inputs = combinations(samples, rank, 5, 8)
    outputs = torch.randn(samples, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = StageData(inputs, outputs)
    fewer = fewer_pairs(pairs, 1e-10)
    expected = rank if 2 * rank <= samples else samples
    assert len(fewer.inputs) == len(fewer.outputs) == expected
    draw = torch.Generator().manual_seed(2)
    one, other = (torch.randn(40, 40, dtype=torch.float64, generator=draw) for _ in range(2))
    mask = torch.as_tensor(np.arange(40) % 3 > 0)
    for points in (None, mask):
        change = squared_error(one, pairs, points) - squared_error(other, pairs, points)
        assert squared_error(one, fewer, points) - squared_error(other, fewer, points) == pytest.approx(
            change, rel=1e-9
        )


def test_the_mask_and_the_channels_are_kept():
    mask = np.eye(6, dtype=bool)
    fewer = fewer_pairs(StageData(combinations(40, 3, 2, 6, 6), combinations(40, 3, 6, 6, seed=3), mask), 1e-10)
    assert fewer.inputs.shape == (3, 2, 6, 6)
    assert fewer.outputs.shape == (3, 6, 6)
    assert fewer.mask is mask


class Watch(FinalStage):
    """Keeps what it is given."""

    name = "watch"

    def apply(self, operator, data):
        self.slopes, self.data = operator.model.slopes.clone(), data
        self.trainable = [p.requires_grad for name, p in operator.model.named_parameters() if "slope" in name]
        return operator


def test_the_stage_sees_a_linear_model_and_the_given_one_stays():
    model = NeuralHSS(32, rank=2, levels=1, depth=2, seed=0)
    for activation in model.activations:
        activation.slope.data.fill_(0.9)
    watch, pairs = Watch(), StageData(combinations(30, 4, 32), combinations(30, 4, 32, seed=1))
    result = AsLinear(watch).apply(LearnedOperator(model), pairs)
    assert watch.slopes.tolist() == [1.0, 1.0]
    assert watch.trainable == [False, False]
    assert len(watch.data.inputs) == 4
    assert all(p.requires_grad for p in result.model.parameters())
    assert next(model.parameters()).dtype == torch.float32
    assert torch.allclose(model.slopes, torch.tensor(0.9))


def test_iterations_on_few_pairs_are_those_on_all():
    truth = torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) / 4
    inputs = combinations(200, 5, 16)
    pairs = StageData(inputs, inputs @ truth.mT)
    start = LearnedOperator(torch.nn.Linear(16, 16, bias=False, dtype=torch.float64))
    few, all_ = (stage.apply(start, pairs) for stage in (AsLinear(LBFGS(10)), LBFGS(10)))
    torch.testing.assert_close(few.model.weight, all_.model.weight, rtol=0, atol=1e-8)
    converged = AsLinear(LBFGS(100)).apply(start, pairs).model.weight
    torch.testing.assert_close(inputs @ converged.mT, pairs.outputs, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "model",
    [
        torch.nn.Sequential(torch.nn.Linear(8, 8), LearnableLeakyReLU()),  # its bias
        torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), torch.nn.ReLU()),
    ],
)
def test_other_models_are_refused(model):
    pairs = StageData(combinations(20, 3, 8), combinations(20, 3, 8, seed=1))
    with pytest.raises(ValueError, match="AsLinear needs a model that is linear when all slopes are 1, but Sequential"):
        AsLinear(LBFGS(10)).apply(LearnedOperator(model), pairs)


def test_settings_are_checked():
    with pytest.raises(TypeError, match=r"stage must be a final stage such as LBFGS\(\.\.\), but it is 'lbfgs'"):
        AsLinear("lbfgs")
    with pytest.raises(ValueError, match="rtol must be a positive finite number"):
        AsLinear(LBFGS(10), rtol=0.0)


def test_sines_in_two_dimensions_become_as_many_pairs_as_there_are_modes():
    train = data.load("poisson2d", samples=250, size=24, cache=False).train
    pairs = StageData(*(torch.as_tensor(fields, dtype=torch.float64) for fields in (train.inputs, train.outputs)))
    assert len(fewer_pairs(pairs, 1e-10).inputs) == 100
