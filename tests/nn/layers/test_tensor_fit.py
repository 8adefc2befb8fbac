from itertools import pairwise

import numpy as np
import pytest
import torch

from structmat.exceptions import ShapeError
from structmat_nn import HSSTensorLinear, NeuralHSS
from structmat_nn.layers.tensor_fit import fit_leaves

DOUBLE = torch.float64


def made(seed, shape=(9, 8), **options):
    layer = HSSTensorLinear(shape, **({"rank": 1, "levels": 1, "outer_rank": 2, "dtype": DOUBLE} | options))
    layer.reset_parameters(torch.Generator().manual_seed(seed))
    return layer


def disturbed_leaves(layer, size):
    """The same layer with other D and U at the leaves, and the rest shared."""
    other = made(0, layer.shape, out_shape=layer.out_shape, channels=layer.channels, bias=layer.bias is not None)
    other.load_state_dict(layer.state_dict())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in other.named_parameters():
            if name.endswith(("_D1", "_U1")) or name == "channel_factors":
                p += size * torch.randn(p.shape, generator=generator, dtype=DOUBLE)
    return other


CASES = {
    "square": ({}, ()),
    "rectangular": ({"shape": (9, 8), "out_shape": (7, 10)}, ()),
    "three modes": ({"shape": (4, 5, 6)}, ()),
    "channels": ({"channels": (2, 2), "bias": True}, (2,)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_with_other_leaves_is_found_again(case):
    options, head = CASES[case]
    truth = made(0, **options)
    layer = disturbed_leaves(truth, 0.1)
    x = torch.randn(60, *head, *truth.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    y = truth(x).detach()

    residuals = fit_leaves(layer, x, y, sweeps=40, ridge=0.0)

    assert residuals[-1] < 1e-3 * residuals[0]
    assert all(b <= a * (1 + 1e-9) + 1e-12 for a, b in pairwise(residuals))
    assert residuals[-1] == pytest.approx(float((layer(x) - y).detach().norm() / y.norm()))


def test_one_mode_is_solved_for_exactly(monkeypatch):
    truth = made(3, (12,), outer_rank=1)
    layer = disturbed_one_mode(truth)
    x = torch.randn(40, 12, dtype=DOUBLE)
    assert fit_leaves(layer, x, truth(x).detach(), sweeps=1, ridge=0.0)[-1] < 1e-12
    assert torch.allclose(layer.factors()[0], truth.factors()[0], atol=1e-10)
    # in chunks of one sample it is the same
    again = disturbed_one_mode(truth)
    monkeypatch.setattr("structmat_nn.layers.tensor_fit.CHUNK", 1)
    fit_leaves(again, x, truth(x).detach(), sweeps=1, ridge=0.0)
    assert torch.allclose(again.factors()[0], truth.factors()[0], atol=1e-10)


def disturbed_one_mode(truth):
    layer = made(0, (12,), outer_rank=1)
    layer.load_state_dict(truth.state_dict())
    with torch.no_grad():
        layer.stack0_D1.zero_()
        layer.stack0_U1.normal_()
    return layer


def test_what_the_samples_do_not_show_stays_as_it_was():
    layer = made(4)
    before = layer.to_matrix().to_dense()
    x = torch.zeros(5, 9, 8, dtype=DOUBLE)
    fit_leaves(layer, x, torch.ones(5, 9, 8, dtype=DOUBLE), sweeps=1)
    assert np.array_equal(layer.to_matrix().to_dense(), before)


def test_a_started_layer_learns_smooth_data():
    n = 16
    a = (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    values, vectors = np.linalg.eigh(a)
    coefficients = np.random.default_rng(0).standard_normal((60, 5, 5))
    low, low_values = vectors[:, :5], values[:5]
    f = torch.from_numpy(low @ coefficients @ low.T)
    u = torch.from_numpy(low @ (coefficients / np.add.outer(low_values, low_values)) @ low.T)
    model = NeuralHSS((n, n), rank=1, levels=2, depth=1, outer_rank=4, dtype=DOUBLE)
    model.init_from_exponential_sum([a, a])
    error = float((model(f) - u).detach().norm() / u.norm())

    residuals = model.fit_last_layer(f, u, sweeps=3)

    assert residuals[0] == pytest.approx(error)
    assert residuals[-1] < 1e-2 * residuals[0]
    assert residuals[-1] == pytest.approx(float((model(f) - u).detach().norm() / u.norm()))


def test_the_last_activation_is_inverted():
    model = NeuralHSS((8, 8), rank=1, levels=1, depth=2, outer_rank=2, dtype=DOUBLE, seed=0)
    twin = NeuralHSS((8, 8), rank=1, levels=1, depth=2, outer_rank=2, dtype=DOUBLE, seed=0)
    with torch.no_grad():
        for m in (model, twin):
            m.activations[-1].slope.fill_(0.5)
        model.layers[-1].stack0_D1[0].mul_(1.1)
    x = torch.randn(80, 8, 8, dtype=DOUBLE)
    y = twin(x).detach()
    assert float((model(x) - y).detach().norm() / y.norm()) > 1e-2
    model.fit_last_layer(x, y, sweeps=1, ridge=0.0)
    assert float((model(x) - y).detach().norm() / y.norm()) < 1e-8
    with torch.no_grad():
        model.activations[-1].slope.fill_(-0.5)
    with pytest.raises(ValueError, match="the last activation must have an inverse"):
        model.fit_last_layer(x, y)


def test_bad_arguments_are_named():
    layer = made(0)
    x = torch.ones(3, 9, 8, dtype=DOUBLE)
    with pytest.raises(ShapeError, match=r"outputs must be \(samples, 9, 8\)"):
        fit_leaves(layer, x, x[:, :4])
    with pytest.raises(ShapeError, match="there are 3 inputs, but 2 outputs"):
        fit_leaves(layer, x, x[:2])
    with pytest.raises(ValueError, match="inputs must be finite"):
        fit_leaves(layer, x * float("nan"), x)
    with pytest.raises(ValueError, match="sweeps must be at least 1"):
        fit_leaves(layer, x, x, sweeps=0)
    with pytest.raises(ValueError, match="the last layer is HSSLinear"):
        NeuralHSS(8, rank=1, levels=1, depth=1).fit_last_layer(torch.ones(2, 8), torch.ones(2, 8))
