"""`train`: what it minimises, selects, reports and refuses."""

import numpy as np
import pytest
import torch

from structmat import NonFiniteError, ShapeError
from structmat_nn import HSSLinear, LearnableLeakyReLU, NeuralHSS
from structmat_nn.data import DataSet, MeanStandardNormaliser, Pairs
from structmat_nn.training import (
    LBFGS,
    AsLinear,
    CosineSchedule,
    LastLayer,
    LearnedOperator,
    TrainingSettings,
    evaluate,
    relative_l2,
    train,
)

from .test_resume import small_data

QUICK = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "minimum_learning_rate": 1e-4}


def linear(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Linear(8, 8, bias=False)


def plain_loop(model, dataset, settings):
    """AdamW on the same batches, without Lightning or anything of `train` but the order of the samples."""
    from structmat_nn.training.module import epoch_order

    x, y = (
        torch.tensor(a / np.abs(a).max(), dtype=torch.float32) for a in (dataset.train.inputs, dataset.train.outputs)
    )
    schedule = CosineSchedule(settings.learning_rate, settings.minimum_learning_rate, settings.steps(len(x)))
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True)
    step = 0
    for epoch in range(settings.epochs):
        for batch in torch.from_numpy(epoch_order(settings.seed, epoch, len(x))).split(settings.batch_size):
            optimiser.param_groups[0]["lr"] = schedule.rate(step)
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
    return model


def test_training_equals_a_plain_loop():
    dataset, model = small_data(), linear()
    train(model, dataset, **QUICK, weight_decay=1e-3, seed=7)
    settings = TrainingSettings(**QUICK, weight_decay=1e-3, seed=7)
    expected = plain_loop(linear(), dataset, settings)
    assert torch.equal(model.weight, expected.weight)


def test_the_best_validation_error_is_chosen():
    dataset = small_data()
    result = train(linear(), dataset, epochs=30, batch_size=4, learning_rate=0.5, minimum_learning_rate=0.4)
    errors = [row["validation_error"] for row in result.history]
    assert result.validation_error == min(errors)
    assert result.best_step == result.history[int(np.argmin(errors))]["step"]
    prediction = result.operator.predict(dataset.validation.inputs)
    assert relative_l2(prediction, dataset.validation.outputs) == pytest.approx(min(errors), rel=1e-6)


def test_budget_shortens_the_schedule_and_says_so():
    result = train(linear(), small_data(), **{**QUICK, "epochs": 10**6}, budget=0.6)
    assert result.shortened
    assert 10 < result.steps < result.planned_steps
    assert result.seconds == pytest.approx(0.6, rel=1.0)  # machines stutter
    assert result.history[-1]["step"] == result.steps
    assert result.history[-1]["learning_rate"] < 2e-3  # the schedule ended with the budget, not where the clock cut it


def test_budget_can_be_filled_beyond_the_plan():
    result = train(linear(), small_data(), **{**QUICK, "epochs": 1}, budget=0.4, fill_budget=True)
    assert result.steps > result.planned_steps
    assert not result.shortened


def test_residual_training_learns_increments():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((40, 8))
    pairs = Pairs(inputs, 1.5 * inputs + 0.25)
    dataset = DataSet("affine", pairs, pairs, dict.fromkeys(("in span", "white noise", "out of span"), pairs),
                      (np.arange(8.0),))  # fmt: skip
    result = train(torch.nn.Linear(8, 8), dataset, epochs=300, learning_rate=3e-2, residual=True, weight_decay=0.0,
                   normalise=MeanStandardNormaliser)  # fmt: skip
    assert result.validation_error < 1e-2
    states = result.operator.rollout(np.zeros((1, 8)), 3)
    assert states[0, :, 0] == pytest.approx([0.25, 0.625, 1.1875], rel=0.05)


def test_mask_keeps_points_out_of_loss_and_error():
    dataset = small_data(40)
    mask = np.arange(8) < 5
    spoilt = Pairs(dataset.train.inputs, np.where(mask, dataset.train.outputs, 1e3))
    masked = DataSet("masked", spoilt, dataset.validation, dataset.tests, dataset.grid, mask=mask)
    result = train(linear(), masked, **{**QUICK, "epochs": 1}, final_stages=[LBFGS(200)], weight_decay=0.0)
    assert result.validation_error < 1e-6


def test_slopes_are_pulled_to_one_and_not_decayed():
    def slope(penalty):
        activation = LearnableLeakyReLU(0.2)
        train(torch.nn.Sequential(linear(), activation), small_data(), **{**QUICK, "epochs": 40},
              slope_penalty=penalty, weight_decay=100.0)  # fmt: skip
        return float(activation.slope.detach())

    assert abs(slope(10.0) - 1) < 0.3
    assert slope(0.0) > 0.1  # a decay of 100 at this rate would have taken it to 1e-30


def test_seed_decides_the_order():
    weights = []
    for seed in (0, 0, 1):
        model = linear()
        train(model, small_data(), **QUICK, seed=seed)
        weights.append(model.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("precision", "stored", "computed"),
    [
        ("32", torch.float32, torch.float32),
        ("64", torch.float64, torch.float64),
        ("16-mixed", torch.float32, torch.float16),
        ("bf16-mixed", torch.float32, torch.bfloat16),
    ],
)
def test_precisions(precision, stored, computed):
    model, training = linear(), []
    model.register_forward_hook(lambda model, x, y: training.append(y.dtype) if model.training else None)
    result = train(model, small_data(), **{**QUICK, "epochs": 200}, precision=precision)
    assert model.weight.dtype == stored
    assert set(training) == {computed}
    assert result.validation_error < 0.02


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_neural_hss_trains_in_half_precision_as_in_single(precision):
    generator = np.random.default_rng(2)
    inverse = np.exp(-np.abs(np.subtract.outer(np.arange(32), np.arange(32))) / 2)  # of a second-order operator

    def pairs(count):
        inputs = generator.standard_normal((count, 32))
        return Pairs(inputs, inputs @ inverse)

    tests = dict.fromkeys(("in span", "white noise", "out of span"), pairs(4))
    dataset = DataSet("elliptic", pairs(128), pairs(16), tests, (np.linspace(0, 1, 32),))
    errors = {}
    for name in ("32", precision):
        torch.manual_seed(0)
        model = NeuralHSS(32, rank=2, levels=2, depth=1)
        result = train(model, dataset, epochs=60, batch_size=8, learning_rate=1e-2, slope_penalty=1.0, precision=name)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        errors[name] = result.validation_error
    assert errors["32"] < 0.15
    assert errors[precision] < 1.2 * errors["32"]


def test_logs_and_the_stored_operator(tmp_path):
    specification = {"name": "deeponet", "size": [8], "options": {"width": 4, "depth": 2}}
    from structmat_nn.models import create

    model = create("deeponet", 8, width=4, depth=2)
    result = train(model, small_data(), **QUICK, directory=tmp_path, specification=specification)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == len(result.history) + 1
    assert "validation_error" in rows[0]
    assert any((tmp_path / "tensorboard").iterdir())
    loaded = LearnedOperator.load(tmp_path / "operator.safetensors")
    inputs = small_data().validation.inputs
    assert np.array_equal(loaded.predict(inputs), result.operator.predict(inputs))
    assert not (tmp_path / "last.ckpt").exists()


def test_training_is_silent(capfd):
    train(linear(), small_data(), **QUICK)
    assert capfd.readouterr() == ("", "")


def test_progress_bar_counts_steps(capfd):
    train(linear(), small_data(), **QUICK, progress=True)
    assert "12/12" in capfd.readouterr().err


def test_final_stages_show_progress_too(capfd):
    train(linear(), small_data(), **QUICK, progress=True, final_stages=[LBFGS(30), AsLinear(LBFGS(20))])
    shown = capfd.readouterr().err
    assert "30/30" in shown
    assert "20/20" in shown
    assert "of that before" in shown


def test_divergence_is_named():
    class Explodes(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * float("inf")

    with pytest.raises(
        NonFiniteError, match=r"training diverged: the loss is (nan|inf) before step .* lower learning_rate"
    ):
        train(Explodes(8, 8), small_data(), **QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, but it is 0"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number >= 0"),
        ({"minimum_learning_rate": 1.0}, "minimum_learning_rate is 1.0, above learning_rate"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"precision": "8"}, "precision must be one of 32, 64"),
        ({"budget": 0.0}, "budget must be a positive number of seconds"),
        ({"fill_budget": True}, "fill_budget needs a budget"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        train(linear(), small_data(), **{**QUICK, **change})


def test_models_of_a_wrong_shape_are_named():
    with pytest.raises(ShapeError, match=r"model gives outputs of shape \(7,\), but the data have \(8,\)"):
        train(torch.nn.Linear(8, 7), small_data(), **QUICK)
    with pytest.raises(TypeError, match="final_stages must hold LBFGS"):
        train(linear(), small_data(), **QUICK, final_stages=["lbfgs"])


# ---------------------------------------------------------------------------------- final stages


def green(samples, seed=0, n=64):
    """Pairs of the Dirichlet Green's function whose inputs span ten sines; and white noise."""
    rng = np.random.default_rng(seed)
    x = np.arange(1, n + 1) / (n + 1)
    matrix = np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x)) / (n + 1)
    sines = np.sin(2 * np.pi * np.outer(np.arange(1, 11), x))

    def pairs(inputs):
        return Pairs(inputs, inputs @ matrix)

    tests = {"in span": pairs(rng.random((20, 10)) @ sines), "white noise": pairs(rng.standard_normal((20, n))),
             "out of span": pairs(rng.random((20, n)))}  # fmt: skip
    return DataSet("green", pairs(rng.random((samples, 10)) @ sines), tests["in span"], tests, (x,))


def test_last_layer_on_random_inner_layers_is_exact_in_span_only():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(HSSLinear(64, 64, rank=2, levels=2) for _ in range(3)))
    result = train(model, green(10), epochs=1, learning_rate=0.0, minimum_learning_rate=0.0, final_stages=[LastLayer()])
    plain, solved = (evaluate(stage.operator, green(10)) for stage in result.stages)
    assert solved["in span"]["relative_l2"] < 1e-10
    assert solved["white noise"]["relative_l2"] > 0.5  # what the samples do not span stays unknown
    assert plain["in span"]["relative_l2"] > 0.1
    assert [stage.kept for stage in result.stages] == [True, True]


@pytest.mark.parametrize(("n", "levels", "rank"), [(61, 2, 3), (37, 3, 2), (24, 0, 1)])
def test_last_layer_solves_unequal_leaves_and_any_levels(n, levels, rank):
    """A layer whose V and inner levels are right is recovered completely from enough white noise."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        truth, layer = (HSSLinear(n, n, rank=rank, levels=levels, dtype=torch.float64) for _ in range(2))
    for name, parameter in truth.named_parameters():
        if name not in (f"D{levels}", f"U{levels}"):
            layer.get_parameter(name).data.copy_(parameter)
    inputs = torch.randn(4 * n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    from structmat_nn.training import StageData

    solved = LastLayer().apply(LearnedOperator(layer), StageData(inputs, truth(inputs).detach()))
    assert torch.allclose(solved.model.dense_weight(), truth.dense_weight(), rtol=0, atol=1e-9)
    assert not torch.allclose(layer.dense_weight(), truth.dense_weight(), rtol=0, atol=1e-2)  # a copy was changed


def test_lbfgs_goes_below_single_precision_and_stages_that_fail_are_not_kept():
    result = train(linear(), small_data(40), **QUICK, weight_decay=0.0, final_stages=[LBFGS(200), LastLayer(ridge=1e6)])
    names = [stage.name for stage in result.stages]
    assert names == ["adamw", "adamw+lbfgs", "adamw+last layer"]
    assert result.stages[1].validation_error < 1e-9
    assert result.operator is result.stages[1].operator
    assert result.operator.dtype == torch.float64
    assert result.stages[0].operator.dtype == torch.float32


def test_last_layer_needs_a_linear_end():
    model = torch.nn.Sequential(linear(), torch.nn.Tanh())
    with pytest.raises(ValueError, match="LastLayer needs a model whose output is that of an HSSLinear"):
        train(model, small_data(), **QUICK, final_stages=[LastLayer()])
    with pytest.raises(ValueError, match="ridge must be a finite number"):
        LastLayer(ridge=-1.0)
    with pytest.raises(TypeError, match=r"dtype must be torch.float32 or torch.float64"):
        LBFGS(dtype=torch.int64)


# ---------------------------------------------------------------------------------- schedule


def test_replanned_schedule_is_continuous_and_ends_at_the_minimum():
    schedule = CosineSchedule(1.0, 0.1, 100)
    before = schedule.rate(30)
    schedule.replan(30, 50)
    assert schedule.rate(30) == pytest.approx(before)
    assert schedule.rate(49) == pytest.approx(0.1)
    rates = [schedule.rate(step) for step in range(30, 50)]
    assert np.all(np.diff(rates) < 0)
    copied = CosineSchedule(1.0, 0.1, 100)
    copied.restore(schedule.state())
    assert [copied.rate(step) for step in range(30, 50)] == rates
    with pytest.raises(ValueError, match="0 <= minimum <= peak"):
        CosineSchedule(0.1, 1.0, 10)
