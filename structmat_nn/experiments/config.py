"""Experiments as YAML files: what they may hold, the check that names what is wrong, and how variants are merged."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from structmat.exceptions import StructmatError

from ..data.normalise import NORMALISERS


class ConfigError(StructmatError, ValueError):
    """An experiment's file is not what it must be; the message says where, and what is allowed there."""


@dataclass(frozen=True)
class _Number:
    minimum: float = -math.inf
    optional: bool = False


@dataclass(frozen=True)
class _Integer:
    minimum: int = 0
    optional: bool = False


@dataclass(frozen=True)
class _Text:
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Flag:
    pass


@dataclass(frozen=True)
class _List:
    of: Any


@dataclass(frozen=True)
class _Either:
    rules: tuple[Any, ...]
    text: str


@dataclass(frozen=True)
class _Free:
    """A mapping whose keys are known to the model or the data set that takes it, which checks them."""


@dataclass(frozen=True)
class _Named:
    """A mapping from names that the file chooses."""

    of: Any


@dataclass(frozen=True)
class _Section:
    keys: Mapping[str, Any]
    required: tuple[str, ...] = ()


NORMALISATIONS = tuple(NORMALISERS)
_SIZE = _Either((_Integer(4), _List(_Integer(4))), "an integer or a list of integers")
_DATA = {
    "name": _Text(),
    "samples": _Either((_Integer(1), _Named(_Integer(1))), "an integer or numbers by part"),
    "size": _SIZE,
    "seed": _Integer(),
    "settings": _Free(),
}
_TRAINING = {
    "epochs": _Integer(1),
    "steps": _Integer(1),
    "batch_size": _Integer(1),
    "learning_rate": _Number(0.0),
    "minimum_learning_rate": _Number(0.0),
    "weight_decay": _Number(0.0),
    "betas": _List(_Number(0.0)),
    "clip": _Number(0.0, optional=True),
    "slope_penalty": _Number(0.0),
    "residual": _Flag(),
    "normalise": _Text(NORMALISATIONS),
    "precision": _Text(("32", "64", "16-mixed", "bf16-mixed")),
    "validations": _Integer(1),
}
_LBFGS = _Section({"iterations": _Integer(1), "history": _Integer(1), "seconds": _Number(0.0)})
_STAGES = {
    "last layer": _Section({"ridge": _Number(0.0)}),
    "lbfgs": _LBFGS,
    "linear lbfgs": _LBFGS,
    "tensor leaves": _Section({"sweeps": _Integer(1), "ridge": _Number(0.0)}),
}
_PUBLISHED = {"parameters": _Text(), "error": _Number(0.0), "metric": _Text(), "note": _Text()}
_MODEL = {
    "model": _Text(),
    "options": _Free(),
    "training": _Section(_TRAINING),
    "final_stages": _Section(_STAGES),
    "published": _Section(_PUBLISHED),
    "note": _Text(),
}
_OVERRIDES = {
    "data": _Section(_DATA),
    "training": _Section(_TRAINING),
    "train_sizes": _List(_Integer(1)),
    "models": _Named(_Section(_MODEL)),
}
_VARIANT = _Section({key: rule for key, rule in _OVERRIDES.items() if key != "train_sizes"})
_EXPERIMENT = _Section(
    {
        "experiment": _Text(),
        "title": _Text(),
        "source": _Text(),
        "note": _Text(),
        **_OVERRIDES,
        "variants": _Named(_VARIANT),
        "reduced": _Section(_OVERRIDES),
    },
    required=("experiment", "title", "source", "data", "training", "models"),
)


@dataclass(frozen=True)
class Case:
    """One run without its seed: an experiment, a model of it and a variant, with all settings merged.

    Attributes
    ----------
    experiment, model, variant : str
        Their names; the variant is "full" where the experiment has one only.
    model_name : str
        The key in `structmat_nn.models.MODELS`.
    options, data, training, final_stages, published : dict
        Sections of the file, merged.
    train_size : int or None
        Training pairs to take; None takes all.
    reduced : bool
        Whether the reduced section was merged in.
    """

    experiment: str
    model: str
    variant: str
    model_name: str
    options: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    final_stages: dict[str, Any]
    published: dict[str, Any]
    train_size: int | None
    reduced: bool

    def as_json(self) -> dict[str, Any]:
        """What the result file keeps of the configuration."""
        keys = ("model_name", "options", "data", "training", "final_stages", "train_size", "published")
        return {key: copy.deepcopy(getattr(self, key)) for key in keys}


class Experiment:
    """A checked file of an experiment.

    Parameters
    ----------
    content : mapping
        What the YAML file holds.
    where : str
        Its name, for messages.

    Raises
    ------
    ConfigError
        If a key is unknown or missing, or a value has the wrong type; the message names the place.

    Examples
    --------
    >>> from structmat_nn.experiments import load_experiment
    >>> experiment = load_experiment("poisson1d")
    >>> "neural-hss" in experiment.models, "n10" in experiment.variants()
    (True, True)
    """

    def __init__(self, content: Any, where: str) -> None:
        check(content, _EXPERIMENT, where, "")
        self.content: dict[str, Any] = content
        self.where = where
        for model, section in content["models"].items():
            merged = {**content["training"], **(section or {}).get("training", {})}
            for key in ("batch_size", "learning_rate", "minimum_learning_rate"):
                if key not in merged:
                    raise ConfigError(f"{where}: training has no {key!r}, and neither has models.{model}.training")
            if "epochs" not in merged and "steps" not in merged:
                raise ConfigError(f"{where}: training of {model!r} needs 'epochs' or 'steps'")

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self.content["experiment"])

    @property
    def title(self) -> str:
        """What the experiment is, in one line."""
        return str(self.content["title"])

    @property
    def source(self) -> str:
        """Where its settings come from."""
        return str(self.content["source"])

    @property
    def note(self) -> str:
        """What a reader of its table must know."""
        return str(self.content.get("note", ""))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of its models."""
        return tuple(self.content["models"])

    def variants(self, *, reduced: bool = False) -> tuple[str, ...]:
        """Names of its variants: the named ones, the training sizes ("n100"), both, or "full"."""
        content = self._merged(reduced)
        named = list(content.get("variants", {})) or [""]
        sizes = [f"n{size}" for size in content.get("train_sizes", [])] or [""]
        return tuple("-".join(part for part in (a, b) if part) or "full" for a in named for b in sizes)

    def case(self, model: str, variant: str | None = None, *, reduced: bool = False) -> Case:
        """Merge everything that belongs to one model and variant.

        Parameters
        ----------
        model, variant : str
            The variant may be left out where there is one only.
        reduced : bool
            Merge the reduced section last.

        Raises
        ------
        ConfigError
            If there is no such model or variant, or nothing to reduce.
        """
        if model not in self.models:
            raise ConfigError(f"{self.where}: there is no model {model!r}; its models are {', '.join(self.models)}")
        variants = self.variants(reduced=reduced)
        variant = variants[0] if variant is None and len(variants) == 1 else variant
        if variant not in variants:
            raise ConfigError(f"{self.where}: there is no variant {variant!r}; its variants are {', '.join(variants)}")
        content = self._merged(reduced)
        named, size = _split_variant(variant, content)
        if named:
            content = merge(content, content["variants"][named] or {})
        section = content["models"][model] or {}
        return Case(
            self.name, model, variant, section.get("model", model), section.get("options", {}), content["data"],
            {**content["training"], **section.get("training", {})}, section.get("final_stages", {}),
            section.get("published", {}), size, reduced,
        )  # fmt: skip

    def _merged(self, reduced: bool) -> dict[str, Any]:
        if not reduced:
            return self.content
        if "reduced" not in self.content:
            raise ConfigError(
                f"{self.where}: there is no section 'reduced'; run the experiment in full or with a budget"
            )
        return merge(self.content, self.content["reduced"])


def load_experiment(source: str | Path) -> Experiment:
    """An experiment by its name, or from a YAML file of one's own.

    Parameters
    ----------
    source : str or Path
        A name from `experiment_names`, or a path that ends with ``.yaml`` or ``.yml``.

    Returns
    -------
    Experiment

    Raises
    ------
    ConfigError
        If there is no such experiment, or its file is wrong.

    Examples
    --------
    >>> from structmat_nn.experiments import load_experiment
    >>> load_experiment("poisson1d").name
    'poisson1d'
    """
    text, where = _read(source)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error
    return Experiment(content, where)


def experiment_names() -> tuple[str, ...]:
    """Names of the experiments that come with the package.

    Examples
    --------
    >>> from structmat_nn.experiments import experiment_names
    >>> "poisson1d" in experiment_names()
    True
    """
    folder = resources.files(__package__) / "configs"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` where the entries of `over` win; sections are merged key by key, lists are replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = merge(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _split_variant(variant: str, content: Mapping[str, Any]) -> tuple[str, int | None]:
    sizes = {f"n{size}": size for size in content.get("train_sizes", [])}
    if not sizes:
        return ("" if variant == "full" else variant), None
    named, _, size = variant.rpartition("-")
    return named, sizes[size]


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        try:
            return path.read_text(encoding="utf-8"), path.name
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    entry = resources.files(__package__) / "configs" / f"{source}.yaml"
    if not entry.is_file():
        known = ", ".join(experiment_names())
        raise ConfigError(f"there is no experiment {str(source)!r}; give a path to a .yaml file, or one of {known}")
    return entry.read_text(encoding="utf-8"), f"{source}.yaml"


# ---------------------------------------------------------------------------------- the check


def check(value: Any, rule: Any, where: str, place: str) -> None:
    """Hold a value against a rule; `place` is the dotted path to it."""
    at = place or "the file"
    if isinstance(rule, (_Section, _Named, _Free)):
        _check_mapping(value, rule, where, place)
    elif isinstance(rule, _List):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ConfigError(f"{where}: {at} must be a list that is not empty, but it is {value!r}")
        for position, entry in enumerate(value):
            check(entry, rule.of, where, f"{place}[{position}]")
    elif isinstance(rule, _Either):
        _check_either(value, rule, where, place)
    elif isinstance(rule, _Flag):
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: {at} must be true or false, but it is {value!r}")
    elif isinstance(rule, _Text):
        if not isinstance(value, str):
            raise ConfigError(f"{where}: {at} must be text, but it is {value!r}; put it in quotes")
        if rule.choices and value not in rule.choices:
            raise ConfigError(f"{where}: {at} must be one of {', '.join(rule.choices)}, but it is {value!r}")
    else:
        _check_number(value, rule, where, at)


def _check_mapping(value: Any, rule: _Section | _Named | _Free, where: str, place: str) -> None:
    at = place or "the file"
    if value is None and place:
        return  # `key:` with nothing below it is an empty section
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {at} must be a section of keys and values, but it is {value!r}")
    for key, entry in value.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: {at} has the key {key!r}, which is not text; put it in quotes")
        below = f"{place}.{key}" if place else key
        if isinstance(rule, _Section):
            if key not in rule.keys:
                raise ConfigError(f"{where}: {at} has the unknown key {key!r}; allowed are {', '.join(rule.keys)}")
            check(entry, rule.keys[key], where, below)
        elif isinstance(rule, _Named):
            check(entry, rule.of, where, below)
    missing = [key for key in rule.required if key not in value] if isinstance(rule, _Section) else []
    if missing:
        raise ConfigError(f"{where}: {at} has no {missing[0]!r}; required are {', '.join(rule.required)}")  # type: ignore[union-attr]


def _check_either(value: Any, rule: _Either, where: str, place: str) -> None:
    for option in rule.rules:
        try:
            check(value, option, where, place)
            return
        except ConfigError:
            continue
    raise ConfigError(f"{where}: {place} must be {rule.text}, but it is {value!r}")


def _check_number(value: Any, rule: _Number | _Integer, where: str, at: str) -> None:
    if value is None and rule.optional:
        return
    kind, words = (int, "an integer") if isinstance(rule, _Integer) else ((int, float), "a number")
    if isinstance(value, bool) or not isinstance(value, kind):
        hint = "; YAML takes 1e-3 for text, write 1.0e-3" if isinstance(value, str) else ""
        raise ConfigError(f"{where}: {at} must be {words}, but it is {value!r}{hint}")
    if not rule.minimum <= value < math.inf:
        raise ConfigError(f"{where}: {at} must be at least {rule.minimum}, but it is {value!r}")
