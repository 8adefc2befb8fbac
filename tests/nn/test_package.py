"""The package: public names are importable and documented, and what is heavy is imported only where it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

import structmat_nn

PAGE = Path(__file__).parents[2] / "docs" / "nn" / "api.rst"
NAMES = [name for name in structmat_nn.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_importable_and_documented(name):
    value = getattr(structmat_nn, name)
    assert value.__doc__
    if not hasattr(value, "__path__"):  # modules are documented by what is in them
        assert f"   {name}\n" in PAGE.read_text(encoding="utf-8")


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="has no attribute 'Layer'"):
        structmat_nn.Layer  # noqa: B018


def test_layers_and_models_do_not_wait_for_what_only_training_needs():
    heavy = ("lightning", "neuralop", "h5py", "matplotlib", "sklearn", "tensorboard")
    code = (
        "import sys, structmat_nn; structmat_nn.HSSLinear; structmat_nn.NeuralHSS; structmat_nn.data.load; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
