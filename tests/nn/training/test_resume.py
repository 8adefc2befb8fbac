"""A run that is killed and continued ends with the same parameters, bit for bit."""

import numpy as np
import pytest
import torch

from structmat_nn.data import DataSet, Pairs
from structmat_nn.training import train

SETTINGS = {"epochs": 6, "batch_size": 4, "learning_rate": 1e-2, "minimum_learning_rate": 1e-4, "validations": 3}


class Killed(Exception):
    pass


class Network(torch.nn.Module):
    """Two layers and dropout, so that random numbers are drawn while it trains; may die in a given training step."""

    def __init__(self, dies_at=None):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first, self.second = (
            torch.nn.Parameter(torch.randn(8, 8, generator=generator) / 8**0.5) for _ in range(2)
        )
        self.dies_at, self.calls = dies_at, 0

    def forward(self, x):
        if self.training:
            self.calls += 1
            if self.calls == self.dies_at:
                raise Killed
        return torch.nn.functional.dropout(torch.tanh(x @ self.first), 0.2, self.training) @ self.second


def small_data(samples=18):
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((8, 8))

    def pairs(count):
        inputs = rng.standard_normal((count, 8))
        return Pairs(inputs, inputs @ matrix)

    tests = {name: pairs(5) for name in ("in span", "white noise", "out of span")}
    return DataSet("small", pairs(samples), pairs(6), tests, (np.linspace(0, 1, 8),))


@pytest.fixture(scope="module")
def uninterrupted():
    model = Network()
    return model, train(model, small_data(), **SETTINGS)


# 18 samples in batches of 4 are 5 steps an epoch and 30 in all, validated after every 10. The checkpoint falls in the
# middle of an epoch, at its end, and at a step that is validated.
@pytest.mark.parametrize(("checkpoint_steps", "dies_at"), [(7, 9), (5, 16), (10, 11), (10, 29), (1, 30)])
def test_continued_run_equals_uninterrupted_run(uninterrupted, tmp_path, checkpoint_steps, dies_at):
    model, expected = uninterrupted
    with pytest.raises(Killed):
        train(Network(dies_at), small_data(), **SETTINGS, directory=tmp_path, checkpoint_steps=checkpoint_steps)
    continued = Network()
    result = train(continued, small_data(), **SETTINGS, directory=tmp_path, checkpoint_steps=checkpoint_steps)
    assert continued.calls == 30 - (dies_at - 1) // checkpoint_steps * checkpoint_steps  # it did not begin anew
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, continued.state_dict()[name])
    for name, value in expected.operator.state_dict().items():
        assert torch.equal(value, result.operator.state_dict()[name])
    keys = ("step", "learning_rate", "train_loss", "validation_error")
    assert [[row[key] for key in keys] for row in result.history] == [
        [row[key] for key in keys] for row in expected.history
    ]
    assert result.steps == 30
    assert not result.shortened


def test_half_precision_continues_with_its_scale(tmp_path):
    # Scaled losses overflow at first: a run that began again with the first scale would skip other steps.
    class Overflows(Network):
        def forward(self, x):
            return 64 * super().forward(x)

    settings = {**SETTINGS, "precision": "16-mixed"}
    expected, continued = Overflows(), Overflows()
    train(expected, small_data(), **settings)
    with pytest.raises(Killed):
        train(Overflows(17), small_data(), **settings, directory=tmp_path, checkpoint_steps=7)
    scale = torch.load(tmp_path / "last.ckpt", weights_only=True)["MixedPrecision"]["scale"]
    assert scale < 2.0**16  # steps were skipped before the checkpoint
    train(continued, small_data(), **settings, directory=tmp_path, checkpoint_steps=7)
    assert continued.calls == 30 - 14
    assert torch.equal(expected.first, continued.first)
    assert torch.equal(expected.second, continued.second)


def test_killed_before_the_first_checkpoint_begins_anew(uninterrupted, tmp_path):
    with pytest.raises(Killed):
        train(Network(3), small_data(), **SETTINGS, directory=tmp_path)
    result = train(Network(), small_data(), **SETTINGS, directory=tmp_path)
    assert result.validation_error == uninterrupted[1].validation_error


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    with pytest.raises(Killed):
        train(Network(9), small_data(), **SETTINGS, directory=tmp_path, checkpoint_steps=4)
    with pytest.raises(ValueError, match=r"directory holds the checkpoint .* of a run with other settings"):
        train(Network(), small_data(), **{**SETTINGS, "learning_rate": 2e-2}, directory=tmp_path)


def test_checkpoint_loads_as_plain_data(tmp_path):
    with pytest.raises(Killed):
        train(Network(9), small_data(), **SETTINGS, directory=tmp_path, checkpoint_steps=4)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)  # refuses anything that could run code
    assert content["step"] == 8
    assert not (tmp_path / "last.ckpt.unfinished").exists()


def test_training_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    train(Network(), small_data(), **{**SETTINGS, "epochs": 1})
    assert torch.equal(before, torch.get_rng_state())
