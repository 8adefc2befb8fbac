import importlib
import sys

import pytest


@pytest.fixture
def forget_structmat_nn(monkeypatch):
    """Let the next import of structmat_nn run its source again."""
    monkeypatch.delitem(sys.modules, "structmat_nn", raising=False)


@pytest.mark.usefixtures("forget_structmat_nn")
def test_structmat_nn_has_the_version_of_structmat():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    structmat = importlib.import_module("structmat")

    structmat_nn = importlib.import_module("structmat_nn")

    assert structmat_nn.__version__ == structmat.__version__


@pytest.mark.usefixtures("forget_structmat_nn")
def test_without_torch_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [ModuleHider("torch"), *sys.meta_path])

    with pytest.raises(ImportError, match=r'pip install "structmat\[nn\]"') as caught:
        importlib.import_module("structmat_nn")

    assert caught.value.name == "torch"


@pytest.mark.usefixtures("forget_structmat_nn")
def test_a_broken_torch_keeps_its_own_error(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [ModuleHider("torch", missing="sympy"), *sys.meta_path])

    with pytest.raises(ModuleNotFoundError, match="No module named 'sympy'"):
        importlib.import_module("structmat_nn")


class ModuleHider:
    """An import finder for which importing `name` fails because `missing` is not there."""

    def __init__(self, name, missing=None):
        self.name = name
        self.missing = missing or name

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.name:
            raise ModuleNotFoundError(f"No module named {self.missing!r}", name=self.missing)
