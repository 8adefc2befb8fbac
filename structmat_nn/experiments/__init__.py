"""Reproducible experiments: configurations, runs, results, reports."""

from .config import Case, ConfigError, Experiment, experiment_names, load_experiment
from .results import read_result, read_results, write_result
from .run import run, run_case

__all__ = [
    "Case",
    "ConfigError",
    "Experiment",
    "experiment_names",
    "load_experiment",
    "read_result",
    "read_results",
    "run",
    "run_case",
    "write_result",
]
