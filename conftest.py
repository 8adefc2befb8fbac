"""What must hold before any test or doctest is collected."""

import importlib.util
import os
import tempfile
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")  # no test opens a window

# Data sets that tests and examples load are kept for this run only, not in the cache of whoever runs it.
data_folder = tempfile.TemporaryDirectory(prefix="structmat-data-")
os.environ["STRUCTMAT_DATA"] = data_folder.name

# Doctests are collected from the packages, so modules whose optional library is missing are left out.
collect_ignore_glob = []
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob.append("structmat_nn/*")
if importlib.util.find_spec("neuralop") is None:
    collect_ignore_glob.extend(["structmat_nn/models/fno.py", "docs/nn/baselines.rst"])
if importlib.util.find_spec("cupy") is None:
    collect_ignore_glob.extend(str(path) for path in Path(__file__).parent.glob("structmat/engine/gpu*.py"))
