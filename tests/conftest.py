"""Fixtures that all tests share: a seeded generator, and the array libraries to run on."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest

# Compiling a kernel makes the first example of a test slow, which is no failure: hence no deadline.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50, print_blob=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=500, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture
def rng():
    """Return a generator of random numbers with a fixed seed."""
    return np.random.default_rng(20240607)


@dataclass(frozen=True)
class ArrayLibrary:
    """One library of arrays that the same source must run on."""

    name: str
    namespace: ModuleType
    asarray: Callable[[Any], Any]  # NumPy array -> array of this library, on its device
    to_numpy: Callable[[Any], np.ndarray]  # and back


def numpy_library():
    return ArrayLibrary("numpy", np, np.array, np.asarray)


def read_only_numpy_library():
    """NumPy arrays that raise when code writes into its input."""

    def asarray(values):
        array = np.array(values)
        array.flags.writeable = False
        return array

    return ArrayLibrary("numpy-read-only", np, asarray, np.asarray)


def strict_library():
    """Arrays that have what the array API standard names, and nothing else."""
    strict = importorskip("array_api_strict")

    def asarray(values):
        return strict.asarray(values, copy=True)

    return ArrayLibrary("array-api-strict", strict, asarray, np.from_dlpack)


def torch_library():
    torch = importorskip("torch")
    return ArrayLibrary("torch", torch, torch.tensor, lambda tensor: tensor.detach().cpu().numpy())


def cupy_library():
    cupy = importorskip("cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy finds no CUDA device: {error}")
    if count == 0:
        pytest.skip("CuPy finds no CUDA device")
    return ArrayLibrary("cupy", cupy, cupy.asarray, cupy.asnumpy)


def importorskip(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        pytest.skip(f"{name} is not installed")


@pytest.fixture(
    params=[
        pytest.param(numpy_library, id="numpy"),
        pytest.param(read_only_numpy_library, id="numpy-read-only"),
        pytest.param(strict_library, id="array-api-strict"),
        pytest.param(torch_library, id="torch"),
        pytest.param(cupy_library, id="cupy", marks=pytest.mark.gpu),
    ]
)
def xp(request):
    """Return one `ArrayLibrary` after the other; a library that is not there skips with the reason."""
    return request.param()
