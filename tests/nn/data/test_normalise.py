"""Normalisers: there and back, by channel, inside a state_dict, and what they refuse."""

import numpy as np
import pytest
import torch

from structmat import NonFiniteError, ShapeError
from structmat_nn.data import (
    NORMALISERS,
    CentredMaximumNormaliser,
    IdentityNormaliser,
    MaximumNormaliser,
    MeanStandardNormaliser,
    Normaliser,
)

EVERY = list(NORMALISERS.values())


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_restore_undoes_normalise_in_the_precision_of_the_data(kind, channels, dtype, rng):
    shape = (20, 6, 5) if channels == 1 else (20, 3, 6, 5)
    values = 100 * rng.random(shape) + 7
    normaliser = kind.fit(values, channels=channels)
    x = torch.tensor(values, dtype=dtype)
    normalised = normaliser(x)
    assert normalised.dtype == dtype
    assert normalised.shape == x.shape
    torch.testing.assert_close(
        normaliser.restore(normalised), x, rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=0
    )


def test_the_largest_value_becomes_one(rng):
    values = rng.standard_normal((10, 2, 8)) * np.array([1.0, 50.0])[:, None]
    assert abs(MaximumNormaliser.fit(values).normalise(torch.tensor(values))).max() == 1
    by_channel = MaximumNormaliser.fit(values, channels=2).normalise(torch.tensor(values))
    torch.testing.assert_close(abs(by_channel).amax(dim=(0, 2)), torch.ones(2, dtype=torch.float64))


def test_scores_have_mean_zero_and_deviation_one(rng):
    values = rng.standard_normal((50, 2, 8)) * np.array([1.0, 50.0])[:, None] + 3
    scores = MeanStandardNormaliser.fit(values, channels=2).normalise(torch.tensor(values)).numpy()
    np.testing.assert_allclose(scores.mean(axis=(0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(axis=(0, 2)), 1, rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 2])
def test_centred_fields_have_mean_zero_and_largest_value_one(channels, rng):
    values = rng.standard_normal((30, 2, 8)) * np.array([1.0, 50.0])[:, None] + np.arange(8.0)
    centred = CentredMaximumNormaliser.fit(values, channels=channels).normalise(torch.tensor(values)).numpy()
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-13)
    largest = abs(centred).max(axis=(0, 2) if channels == 2 else None)
    np.testing.assert_allclose(largest, 1, rtol=1e-13)


def test_a_linear_map_stays_linear_between_centred_fields(rng):
    operator, inputs = rng.standard_normal((6, 6)), rng.random((40, 6))
    outputs = inputs @ operator.T
    f, u = CentredMaximumNormaliser.fit(inputs), CentredMaximumNormaliser.fit(outputs)
    learnt = operator * (f.scale[0] / u.scale[0]).item()
    x = rng.standard_normal((3, 6))
    predicted = u.restore(f.normalise(torch.tensor(x)) @ torch.tensor(learnt).T)
    torch.testing.assert_close(predicted, torch.tensor(x @ operator.T))


def test_the_identity_changes_nothing(rng):
    values = torch.tensor(rng.standard_normal((4, 2, 8)))
    assert torch.equal(IdentityNormaliser.fit(values, channels=2)(values), values)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_numbers_travel_in_the_state(kind, channels, rng):
    fitted = kind.fit(rng.random((5, 2, 8)) + 1, channels=channels)
    state = torch.nn.ModuleDict({"input": fitted}).state_dict()
    assert sorted(state) == ["input.scale", "input.shift"]
    restored = kind.empty_like_state(state, "input.")
    restored.load_state_dict({key.removeprefix("input."): value for key, value in state.items()})
    x = torch.tensor(rng.random((3, 2, 8)))
    assert torch.equal(restored.normalise(x), fitted.normalise(x))
    with pytest.raises(KeyError, match=r"no 'output\.scale'"):
        kind.empty_like_state(state, "output.")


@pytest.mark.parametrize("kind", EVERY)
def test_bad_data_are_named(kind):
    with pytest.raises(NonFiniteError, match="values must be finite"):
        kind.fit(np.array([[1.0, np.inf]]))
    with pytest.raises(ShapeError, match="hold a number"):
        kind.fit(np.ones((0, 4)))
    with pytest.raises(ShapeError, match="channels, "):
        kind.fit(np.ones((3, 4)), channels=2)
    with pytest.raises(ShapeError, match="values has 4 channels"):
        kind.fit(np.ones((3, 4, 5)), channels=2)


def test_data_that_cannot_be_scaled_are_an_error():
    with pytest.raises(ValueError, match="they are zero throughout"):
        MaximumNormaliser.fit(np.zeros((3, 4)))
    one_zero = np.stack([np.ones((5, 4)), np.zeros((5, 4))], axis=1)
    with pytest.raises(ValueError, match="in channel 1: they are zero"):
        MaximumNormaliser.fit(one_zero, channels=2)
    with pytest.raises(ValueError, match="they are constant"):
        MeanStandardNormaliser.fit(np.full((3, 4), 0.1))
    one_constant = np.stack([np.full((5, 4), 0.1), np.arange(20.0).reshape(5, 4)], axis=1)
    with pytest.raises(ValueError, match="in channel 0: they are constant"):
        MeanStandardNormaliser.fit(one_constant, channels=2)
    with pytest.raises(ValueError, match="all samples are equal"):
        CentredMaximumNormaliser.fit(np.full((3, 4), 0.1))
    with pytest.raises(TypeError, match="call fit of MaximumNormaliser"):
        Normaliser.fit(np.ones((3, 4)))
    with pytest.raises(ValueError, match="scale must not be zero"):
        Normaliser(0.0, 0.0)
    with pytest.raises(ShapeError, match="give them one shape"):
        Normaliser(np.zeros(2), 1.0)


def test_gradients_pass_through():
    normaliser = MaximumNormaliser.fit([[2.0, -4.0]])
    x = torch.tensor([1.0], requires_grad=True)
    normaliser.restore(3 * normaliser.normalise(x)).sum().backward()
    assert x.grad.item() == pytest.approx(3.0)
    assert list(normaliser.parameters()) == []
