"""LearnedOperator and the metrics."""

import dataclasses

import numpy as np
import pytest
import torch

from structmat import FileFormatError, NonFiniteError, ShapeError
from structmat_nn import data
from structmat_nn.data import MaximumNormaliser, MeanStandardNormaliser
from structmat_nn.models import create
from structmat_nn.training import LearnedOperator, evaluate, relative_l2, rollout_errors, trajectory_l2


def stored_operator(name="deeponet", size=(8,), **options):
    specification = {"name": name, "size": list(size), "options": options}
    values = np.random.default_rng(0).standard_normal((5, *size))
    return LearnedOperator(
        create(name, size, **options), MaximumNormaliser.fit(values), MeanStandardNormaliser.fit(values),
        residual=True, specification=specification,
    )  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [("deeponet", {"width": 4, "depth": 2}), ("neural-hss", {"rank": 1, "levels": 1, "depth": 2})]
)
def test_saved_operator_rebuilds_itself(tmp_path, name, options, double):
    operator = stored_operator(name, **options)
    operator = operator.in_double_precision() if double else operator
    operator.save(tmp_path / "operator.safetensors")
    loaded = LearnedOperator.load(tmp_path / "operator.safetensors")
    inputs = np.random.default_rng(1).standard_normal((3, 8))
    assert loaded.dtype == operator.dtype
    assert loaded.residual
    assert np.array_equal(loaded.predict(inputs), operator.predict(inputs))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["operator.safetensors"]


def test_operator_without_specification_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="specification is unknown"):
        LearnedOperator(torch.nn.Identity()).save(tmp_path / "x.safetensors")


def test_files_that_are_not_ours_are_named(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(FileFormatError, match="is not a safetensors file, or is damaged"):
        LearnedOperator.load(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(FileFormatError, match="does not hold a LearnedOperator"):
        LearnedOperator.load(path)
    save_file({"a": torch.ones(2)}, path, metadata={"structmat_nn": '{"format": "other", "version": 1}'})
    with pytest.raises(FileFormatError, match="holds other version 1"):
        LearnedOperator.load(path)


def test_tensors_that_do_not_fit_the_model_are_named(tmp_path):
    operator = stored_operator(width=4, depth=2)
    operator.specification["options"]["width"] = 6
    operator.save(tmp_path / "x.safetensors")
    with pytest.raises(FileFormatError, match="does not fit the model 'deeponet'"):
        LearnedOperator.load(tmp_path / "x.safetensors")


def test_batches_do_not_change_predictions():
    operator = stored_operator(width=4, depth=2).in_double_precision()
    inputs = np.random.default_rng(1).standard_normal((7, 8))
    assert operator.predict(inputs, batch_size=2) == pytest.approx(operator.predict(inputs), rel=1e-12)
    states = operator.rollout(inputs, 3, batch_size=2)
    assert states.shape == (7, 3, 8)
    assert states[:, 1] == pytest.approx(operator.predict(operator.predict(inputs)), rel=1e-12)


def test_complex_parameters_are_converted_too():
    class Spectral(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(5, dtype=torch.complex64))

        def forward(self, x):
            return torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=8)

    exact = LearnedOperator(Spectral()).in_double_precision()
    assert exact.model.weight.dtype == torch.complex128
    inputs = np.random.default_rng(0).standard_normal((2, 8))
    assert exact.predict(inputs) == pytest.approx(inputs, rel=1e-14)


def test_bad_inputs_are_named():
    operator = LearnedOperator(torch.nn.Identity())
    with pytest.raises(ShapeError, match=r"inputs must be \(samples"):
        operator.predict(np.ones(8))
    with pytest.raises(NonFiniteError, match="u0 must be finite"):
        operator.rollout(np.full((1, 8), np.nan), 2)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        operator.rollout(np.ones((1, 8)), 0)


# ---------------------------------------------------------------------------------- metrics


def test_metrics_on_known_numbers():
    target = np.array([[3.0, 4.0], [6.0, 8.0]])
    prediction = target + [[0.0, 1.0], [2.0, 0.0]]
    assert relative_l2(prediction, target) == pytest.approx((1 / 5 + 2 / 10) / 2)
    assert trajectory_l2(prediction, target) == pytest.approx(1.5)
    assert relative_l2(prediction, target, mask=[True, False]) == pytest.approx((0 + 2 / 6) / 2)
    assert relative_l2(torch.tensor(prediction, dtype=torch.float32), target) == pytest.approx(0.2)


def test_metrics_are_computed_in_double_precision():
    target = np.ones((1, 10**4))
    assert relative_l2(target * (1 + 1e-12), target) == pytest.approx(1e-12, rel=1e-3)


def test_operators_are_evaluated_in_double_precision_unless_asked():
    dataset = data.load("poisson1d", samples=8, size=32)
    points = np.linspace(0, 1, 32)
    green = torch.as_tensor(np.minimum.outer(points, points), dtype=torch.float32)
    layer = torch.nn.Linear(32, 32, bias=False)
    layer.weight.data[:] = green
    targets = {
        name: dataclasses.replace(pairs, outputs=pairs.inputs @ green.double().numpy())
        for name, pairs in dataset.tests.items()
    }
    dataset = dataclasses.replace(dataset, tests=targets)
    double, single = (evaluate(LearnedOperator(layer), dataset, double=d)["in span"] for d in (True, False))
    assert double["relative_l2"] < 1e-14 < 1e-9 < single["relative_l2"] < 1e-6


def test_rollout_errors_by_step_and_whole():
    target = np.ones((1, 2, 4))
    prediction = target.copy()
    prediction[0, 1] += 3.0  # errors by step: 0 and 6; norms: 2 and 2
    errors = rollout_errors(prediction, target)
    assert errors["trajectory_l2_steps"] == 3.0
    assert errors["trajectory_l2"] == 6.0
    assert errors["relative_l2_steps"] == 1.5
    assert errors["relative_l2"] == pytest.approx(6 / np.sqrt(8))


@pytest.mark.parametrize(
    ("prediction", "target", "mask", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), None, r"prediction has shape \(2, 3\), but target has shape \(2, 4\)"),
        (np.ones((0, 3)), np.ones((0, 3)), None, "prediction must hold samples"),
        (np.ones((2, 3)), np.ones((2, 3)), np.ones(4), r"mask has shape \(4,\), but one sample has shape \(3,\)"),
        (np.ones((2, 3)), np.ones((2, 3)), np.zeros(3), "mask marks no point as valid"),
        (np.ones((2, 3)), np.zeros((2, 3)), None, "target must not be zero, but its sample 0 is zero"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), None, "prediction must be finite"),
    ],
)
def test_metrics_name_what_is_wrong(prediction, target, mask, message):
    with pytest.raises((ShapeError, ValueError), match=message):
        relative_l2(prediction, target, mask)
