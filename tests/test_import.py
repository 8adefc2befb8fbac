"""`import structmat` is quick: what takes long to import waits until it is used."""

import subprocess
import sys

import pytest

import structmat as sm

HEAVY = ("matplotlib", "numba", "rich", "scipy.sparse", "torch", "typer")


def modules_after(statement):
    code = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_importing_the_package_imports_nothing_heavy():
    assert modules_after("import structmat") == []


def test_building_a_matrix_imports_neither_pictures_nor_a_terminal():
    statement = "import structmat; structmat.HSSMatrix.identity(structmat.ClusterTree.balanced(3)).summary()"
    assert set(modules_after(statement)) <= {"numba", "scipy.sparse"}


def test_every_public_name_is_there():
    assert all(getattr(sm, name) is not None for name in sm.__all__)
    assert set(sm.__all__) <= set(dir(sm))
    assert sm.gallery.problem_k(2).n == 2


@pytest.mark.parametrize("name", ["h2.ProxySurface", "lowrank.ACA"])
def test_folders_that_the_documentation_names_need_no_import(name):
    code = f"import structmat; structmat.{name}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'structmat' has no attribute 'BlockClusterForest'"):
        sm.BlockClusterForest  # noqa: B018
