"""Result files: one JSON file for each run, written in one step, never overwritten unless asked."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from structmat import FileFormatError

DEFAULT_DIRECTORY = Path("benchmarks/results/nn")
_REQUIRED = ("experiment", "model", "variant", "seed", "config", "parameters", "metrics")


def result_path(directory: Path, experiment: str, model: str, variant: str, seed: int, *, reduced: bool) -> Path:
    """Where the result of a run lies: ``<experiment>/<model>-<variant>[-reduced]-seed<k>.json``."""
    middle = f"{variant}-reduced" if reduced else variant
    return directory / experiment / f"{model}-{middle}-seed{seed}.json"


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result; a kill in between leaves no half file. Infinite values become null, which JSON can hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(_plain(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises
    ------
    FileFormatError
        If the file is not one of ours.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not a result file: {error}; delete it and run again") from error
    missing = [key for key in _REQUIRED if not isinstance(result, dict) or key not in result]
    if missing:
        raise FileFormatError(f"{path} is not a result file: it has no {missing[0]!r}; delete it and run again")
    return dict(result)


def read_results(directory: Path, experiment: str | None = None) -> Iterator[dict[str, Any]]:
    """Read all results below a folder, in the order of their names."""
    for path in sorted(directory.glob(f"{experiment or '*'}/*.json")):
        yield read_result(path)


def circumstances() -> dict[str, Any]:
    """The machine, the versions and the date of a run, without anything that identifies the machine."""
    names = ("structmat", "torch", "numpy", "scipy", "lightning", "neuraloperator")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {
        "machine": machine,
        "versions": {"python": platform.python_version(), **versions},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
