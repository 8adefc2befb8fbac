"""The files of the experiments, and the check that names what is wrong in them."""

import copy

import pytest
import yaml

from structmat_nn.experiments import ConfigError, Experiment, experiment_names, load_experiment
from structmat_nn.models import MODELS, create

GOOD = yaml.safe_load("""
experiment: small
title: A small experiment
source: nowhere
data: {name: poisson1d, size: 32, samples: {train: 20}}
training: {epochs: 2, batch_size: 8, learning_rate: 1.0e-3, minimum_learning_rate: 1.0e-5}
models:
  neural-hss:
    options: {rank: 1, levels: 1, depth: 1}
    training: {epochs: 3}
    final_stages: {last layer: {}, linear lbfgs: {iterations: 10}}
  least-squares:
reduced: {data: {size: 16}}
""")


def changed(path, value):
    content = copy.deepcopy(GOOD)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


@pytest.mark.parametrize("name", experiment_names())
def test_every_case_of_every_experiment_is_complete(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    for reduced in (False, True):
        for model in experiment.models:
            for variant in experiment.variants(reduced=reduced):
                case = experiment.case(model, variant, reduced=reduced)
                assert case.model_name in MODELS
                assert {"batch_size", "learning_rate", "minimum_learning_rate"} <= set(case.training)


# What the stated settings give by the formula of the paper: experiments.rst has the published figures beside them.
@pytest.mark.parametrize(
    ("name", "size", "channels", "count"),
    [
        ("poisson1d-neumann", 256, 1, 37_696), ("heat", 256, 1, 37_696), ("burgers", 256, 1, 1_523_712),
        ("poisson2d", (64, 64), 1, 65_280), ("helmholtz2d", (64, 64), 1, 65_280), ("poisson3d", (128,) * 3, 1, 32_640),
    ],
)  # fmt: skip
def test_neural_hss_has_the_weights_of_the_stated_settings(name, size, channels, count):
    experiment = load_experiment(name)
    case = experiment.case("neural-hss", experiment.variants()[0])
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in case.options.items()}
    model = create(case.model_name, size, in_channels=channels, **options)
    assert model.weight_parameter_count == count


def test_merging_of_sections():
    experiment = Experiment(copy.deepcopy(GOOD), "small.yaml")
    assert experiment.variants() == ("full",)
    case = experiment.case("neural-hss")
    assert (case.training["epochs"], case.training["batch_size"], case.data["size"]) == (3, 8, 32)
    assert experiment.case("least-squares").training["epochs"] == 2
    assert experiment.case("neural-hss", reduced=True).data == {
        "name": "poisson1d",
        "size": 16,
        "samples": {"train": 20},
    }


def test_variants_and_training_sizes_multiply():
    content = {**copy.deepcopy(GOOD), "train_sizes": [5, 10]}
    content["variants"] = {"a": None, "b": {"models": {"neural-hss": {"options": {"rank": 2}}}}}
    experiment = Experiment(content, "small.yaml")
    assert experiment.variants() == ("a-n5", "a-n10", "b-n5", "b-n10")
    case = experiment.case("neural-hss", "b-n10")
    assert (case.options, case.train_size) == ({"rank": 2, "levels": 1, "depth": 1}, 10)
    assert experiment.case("neural-hss", "a-n5").options["rank"] == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("training", "epoch"), 3, "small.yaml: training has the unknown key 'epoch'; allowed are epochs, steps"),
        (("training", "epochs"), "many", "small.yaml: training.epochs must be an integer, but it is 'many'"),
        (("training", "epochs"), True, "training.epochs must be an integer, but it is True"),
        (("training", "learning_rate"), "1e-3", "must be a number, but it is '1e-3'; YAML takes 1e-3 for text"),
        (("training", "batch_size"), 0, "training.batch_size must be at least 1, but it is 0"),
        (("training", "normalise"), "max", "training.normalise must be one of [a-z, -]+, but it is 'max'"),
        (("training", "residual"), "yes", "training.residual must be true or false"),
        (("models", "neural-hss", "final_stages"), {"adam": {}}, "has the unknown key 'adam'; allowed are last layer"),
        (("data", "size"), [32, "x"], r"data.size must be an integer or a list of integers"),
        (("data",), 3, "data must be a section of keys and values, but it is 3"),
        (("train_sizes",), [], "train_sizes must be a list that is not empty"),
        (("title",), 7, "title must be text, but it is 7"),
        (("variants",), {"a": {"train_sizes": [3]}}, "variants.a has the unknown key 'train_sizes'"),
        (("models",), {1: None}, "models has the key 1, which is not text"),
    ],
)
def test_what_is_wrong_is_named(path, value, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Experiment(changed(path, value), "small.yaml")


def test_what_is_missing_is_named():
    content = copy.deepcopy(GOOD)
    del content["data"]
    with pytest.raises(ConfigError, match="the file has no 'data'; required are experiment"):
        Experiment(content, "small.yaml")
    content = copy.deepcopy(GOOD)
    del content["training"]["learning_rate"]
    with pytest.raises(ConfigError, match=r"training has no 'learning_rate', and neither has models\.neural-hss"):
        Experiment(content, "small.yaml")
    del content["training"]["epochs"], content["models"]["neural-hss"]["training"]
    with pytest.raises(ConfigError, match=r"training has no 'learning_rate'|needs 'epochs' or 'steps'"):
        Experiment(content, "small.yaml")
    experiment = Experiment({key: value for key, value in GOOD.items() if key != "reduced"}, "small.yaml")
    with pytest.raises(ConfigError, match="there is no section 'reduced'"):
        experiment.case("neural-hss", reduced=True)
    with pytest.raises(ConfigError, match="there is no model 'fno'; its models are neural-hss, least-squares"):
        experiment.case("fno")
    with pytest.raises(ConfigError, match="there is no variant 'n3'; its variants are full"):
        experiment.case("neural-hss", "n3")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no experiment 'poisson9d'; give a path to a \.yaml"):
        load_experiment("poisson9d")
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read: No such file"):
        load_experiment(tmp_path / "nothing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1, 2")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not YAML"):
        load_experiment(tmp_path / "bad.yaml")
    (tmp_path / "code.yaml").write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match=r"code\.yaml is not YAML"):
        load_experiment(tmp_path / "code.yaml")
