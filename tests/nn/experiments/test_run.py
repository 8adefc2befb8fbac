"""Runs of experiments, their result files, reports and the command line."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from structmat import FileFormatError
from structmat_nn.cli import app
from structmat_nn.experiments import experiment_names, load_experiment, read_result, report, run, write_result
from structmat_nn.experiments.run import build_model

from .test_config import GOOD

CONTENT = {
    **GOOD,
    "train_sizes": [12, 20],
    "data": {"name": "poisson1d", "size": 32, "samples": 20},
    "models": {
        **GOOD["models"],
        "deeponet": {"options": {"width": 4, "depth": 2}, "published": {"parameters": "1K", "error": 0.5}},
        "closed-form-recovery": None,
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    return path


@pytest.fixture(scope="module")
def results(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    lines = []
    paths = run(config, seeds=[0, 1], budget_from="neural-hss", directory=folder, say=lines.append)
    return folder, paths, lines


def test_every_run_leaves_a_result(results):
    folder, paths, lines = results
    assert len(paths) == len(set(paths)) == len(lines) == 2 * 2 * 4
    assert not list(folder.rglob("*.unfinished"))
    result = read_result(folder / "small" / "neural-hss-n12-seed1.json")
    assert list(result["metrics"]) == ["adamw", "adamw+last layer", "adamw+linear lbfgs"]
    for tests in result["metrics"].values():
        assert {"in span", "white noise", "out of span"} <= set(tests)
        assert all(tests["in span"][metric] > 0 for metric in ("relative_l2", "trajectory_l2"))
    assert result["config"]["train_size"] == 12
    assert result["steps"] == result["planned_steps"] == 6  # 12 samples in batches of 8, 3 epochs
    assert not result["shortened"]
    assert result["chosen_stage"] in result["metrics"]
    assert result["validation"]["adamw"] > 1e-3
    assert result["evaluated_in"] == {
        "adamw": "float32", "adamw+last layer": "float64", "adamw+linear lbfgs": "float64"
    }  # fmt: skip
    assert result["validation"]["adamw+linear lbfgs"] < result["validation"]["adamw"]
    assert {"machine", "versions", "date", "parameters", "history", "seconds"} <= set(result)


def test_seeds_change_models_and_not_data(config, results):
    folder, _, _ = results
    errors = [
        read_result(folder / "small" / f"{model}-n20-seed{seed}.json")["metrics"][stage]["in span"]["relative_l2"]
        for model, stage in (("neural-hss", "adamw"), ("least-squares", "fit")) for seed in (0, 1)
    ]  # fmt: skip
    assert errors[0] != errors[1]
    assert errors[2] == errors[3]


def test_baselines_get_the_wall_time_of_the_reference(results):
    folder, _, _ = results
    reference = read_result(folder / "small" / "neural-hss-n20-seed0.json")
    baseline = read_result(folder / "small" / "deeponet-n20-seed0.json")
    assert baseline["budget_seconds"] == reference["seconds"]
    assert baseline["budget_from"] == "neural-hss"
    assert baseline["shortened"] == (baseline["steps"] < baseline["planned_steps"])
    assert read_result(folder / "small" / "least-squares-n20-seed0.json")["steps"] == 0


def test_refusals_are_results(results):
    folder, _, lines = results
    result = read_result(folder / "small" / "closed-form-recovery-n12-seed0.json")
    assert result["metrics"] == {}
    assert "TooFewSamplesError" in result["failed"]
    assert any("closed-form-recovery n12 seed 0: failed" in line for line in lines)


def test_what_stops_one_run_does_not_stop_the_others(tmp_path):
    content = {**CONTENT, "models": {"resnet": {"options": {"depht": 2}}, "least-squares": None}}
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    lines = []
    with pytest.raises(ExceptionGroup, match="1 of 2 runs were stopped") as caught:
        run(config, variants=["n12"], directory=tmp_path, say=lines.append)
    assert isinstance(caught.value.exceptions[0], TypeError)
    assert lines[0].startswith("small resnet n12 seed 0: stopped by TypeError")
    assert (tmp_path / "small/least-squares-n12-seed0.json").exists()


def test_results_that_are_there_are_skipped(config, results):
    folder, paths, _ = results
    before = {path: path.stat().st_mtime_ns for path in paths}
    lines = []
    run(config, seeds=[0], models=["neural-hss"], directory=folder, say=lines.append)
    assert lines == [f"small neural-hss n{size} seed 0: already there" for size in (12, 20)]
    assert before == {path: path.stat().st_mtime_ns for path in paths}
    run(config, seeds=[0], models=["least-squares"], variants=["n12"], directory=folder, again=True)
    assert (folder / "small/least-squares-n12-seed0.json").stat().st_mtime_ns > min(before.values())


def test_reduced_runs_are_marked(config, tmp_path):
    (path,) = run(config, models=["least-squares"], variants=["n12"], reduced=True, directory=tmp_path)
    assert path.name == "least-squares-n12-reduced-seed0.json"
    assert read_result(path)["reduced"]
    assert read_result(path)["config"]["data"]["size"] == 16


def test_damaged_results_are_named(tmp_path, config):
    path = tmp_path / "small" / "least-squares-n12-seed0.json"
    path.parent.mkdir()
    path.write_text('{"experiment": ')
    with pytest.raises(FileFormatError, match=r"least-squares-n12-seed0\.json is not a result file.*delete it"):
        run(config, models=["least-squares"], variants=["n12"], directory=tmp_path)
    path.write_text("{}")
    with pytest.raises(FileFormatError, match="it has no 'experiment'"):
        read_result(path)


def test_infinite_errors_are_stored_as_null(tmp_path):
    write_result(tmp_path / "x.json", {"errors": [float("inf"), 1.0]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"errors": [None, 1.0]}


# ---------------------------------------------------------------------------------- reports


def test_spread_over_seeds():
    assert report.spread([1e-3]) == "1.0e-03"
    assert report.spread([1e-3, 3e-3]) == "2.0e-03 ± 1.4e-03"
    assert report.spread([1.0, float("inf")]) == "diverged"


def test_report_of_results(results, tmp_path, monkeypatch):
    folder, _, _ = results
    content = {"small": CONTENT}
    from structmat_nn.experiments import Experiment

    monkeypatch.setattr(report, "load_experiment", lambda name: Experiment(content[name], "small.yaml"))
    written = report.write(folder, tmp_path, ["small"])
    assert sorted(path.name for path in written) == [
        "results_small.rst", "small-data-efficiency.svg", "small-timing.svg",
    ]  # fmt: skip
    (table,) = report.tables(folder, ["small"])
    assert len({len(row) for row in [table.columns, *table.rows]}) == 1
    rows = {(row[0], row[1], row[2]): row for row in table.rows}
    expected = [
        read_result(folder / f"small/neural-hss-n20-seed{seed}.json")["metrics"]["adamw"]["in span"]["relative_l2"]
        for seed in (0, 1)
    ]
    row = rows["n20", "neural-hss", "adamw"]
    assert row[table.columns.index("in span, relative (2)")] == report.spread(expected)
    assert rows["n20", "deeponet", "adamw"][table.columns.index("published parameters")] == "1K"
    assert rows["n12", "closed-form-recovery", "failed"][-1].startswith("TooFewSamplesError")
    text = (tmp_path / "results_small.rst").read_text()
    assert report.spread(expected) in text
    assert report.as_markdown(table).count("\n|") == len(table.rows) + 2


def test_seeds_that_agree_have_no_spread():
    from structmat_nn.experiments import figures

    same = {"metrics": {"fit": {"in span": {"relative_l2": 0.1}}}}
    group = report.Group("least-squares", "full", False, [same] * 3)
    assert sum([0.1] * 3) / 3 > 0.1
    assert figures._statistics(group, "fit", "in span") == (0.1, 0.1, 0.1)


# ---------------------------------------------------------------------------------- command line


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_run(config, tmp_path):
    arguments = ["run", config, "--models", "least-squares", "--samples", "12", "--directory", tmp_path]
    first = invoke(*arguments, "--seeds", "0,1")
    assert first.exit_code == 0, first.output
    assert "small least-squares n12 seed 1: fit" in first.output
    assert invoke(*arguments).output == "small least-squares n12 seed 0: already there\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "fnoo"], "there is no model 'fnoo'; its models are"),
        (["--samples", "13"], "there is no training size 13; its training sizes are 12, 20"),
        (["--seed", "a"], "--seed must be integers"),
        (["--budget-from", "fnoo"], "there is no model 'fnoo'"),
    ],
)
def test_command_names_what_is_wrong(config, tmp_path, arguments, message):
    result = invoke("run", config, "--directory", tmp_path, *arguments)
    assert result.exit_code == 1
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_command_list_and_report(tmp_path):
    listed = invoke("list", "--directory", tmp_path)
    assert listed.exit_code == 0, listed.output
    assert all(name in listed.output.replace("\n", "") or len(name) > 12 for name in experiment_names())
    empty = invoke("report", "--directory", tmp_path)
    assert "no results below" in empty.output
    missing = invoke("report", "heat", "--directory", tmp_path)
    assert missing.exit_code == 1
    assert "there are no results of 'heat'" in missing.output
    assert invoke("--version").output.startswith("structmat-nn ")


# ---------------------------------------------------------------------------------- all experiments, reduced


def reduced_cases():
    for name in experiment_names():
        for model in load_experiment(name).models:
            yield name, model


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), list(reduced_cases()))
def test_every_experiment_and_model_runs_at_reduced_size(name, model, tmp_path):
    experiment = load_experiment(name)
    variant = experiment.variants(reduced=True)[0]
    (path,) = run(name, models=[model], variants=[variant], reduced=True, budget=3.0, directory=tmp_path)
    result = read_result(path)
    if result["failed"]:
        assert model == "closed-form-recovery", result["failed"]
        assert "TooFewSamplesError" in result["failed"]
    else:
        assert all(error is not None for stage in result["metrics"].values() for error in stage["in span"].values())


def test_models_start_from_the_seed():
    case = load_experiment("poisson1d").case("neural-hss", "n10", reduced=True)
    from structmat_nn import data

    dataset = data.load("poisson1d", samples=4, size=64)
    weights = [next(build_model(case, dataset, seed)[0].parameters()) for seed in (0, 0, 1)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
