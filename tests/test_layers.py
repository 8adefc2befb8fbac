"""Modules of structmat import only downwards: the layers of the design page, enforced."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = """
_typing _backend _check _linear_operator archive exceptions krylov
tree partition sources lowrank engine precision
blocks algebra base certificate certify _inputs
storage norms batched flat nested
hodlr hss hmatrix h2
convert linalg solvers functions captured
kernelfunctions gallery gp bem io plot advice_costs advice _console testing cli distributed demo _version __init__
"""  # every module and folder of structmat, from the bottom up
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS.strip().splitlines()) for name in names.split()}
FILES = sorted((ROOT / "structmat").rglob("*.py"))


def imports(file, package, everywhere=False):
    """Yield the dotted names that a file imports when it is loaded; with `everywhere`, also in functions."""
    nodes = [ast.parse(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = [*parents, *([node.module] if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)
        elif everywhere or not is_lazy(node):
            nodes.extend(ast.iter_child_nodes(node))


def is_lazy(node):
    """Tell whether the imports inside a node wait for a call, or are there for the type checker only."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return True
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def room(dotted):
    """Return the module or folder of structmat that a name belongs to: `structmat.hss.ulv` to `hss`."""
    name = (dotted.split(".") + ["__init__"])[1]
    is_module = (ROOT / "structmat" / name).is_dir() or (ROOT / "structmat" / f"{name}.py").exists()
    return name if is_module else "__init__"  # `from structmat import HSSMatrix` reads the top


def upward_imports(file):
    """List the imports of a file of structmat that point to a higher layer than its own."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    layer = LAYER_OF[parts[1]]
    names = [name for name in imports(file, parts[:-1]) if name.split(".")[0] == "structmat"]
    return [name for name in names if LAYER_OF[room(name)] > layer]


def test_every_module_has_a_layer():
    rooms = {file.relative_to(ROOT / "structmat").with_suffix("").parts[0] for file in FILES}
    assert rooms, "no modules found: is this run from a checkout?"
    assert rooms <= LAYER_OF.keys(), f"give {sorted(rooms - LAYER_OF.keys())} a place in LAYERS"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_point_downwards(file):
    assert upward_imports(file) == []


def test_structmat_never_imports_structmat_nn():
    importers = [
        file for file in FILES for name in imports(file, ("structmat",), True) if name.startswith("structmat_nn")
    ]
    assert importers == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from structmat.hss import HSSMatrix", ["structmat.hss.HSSMatrix"]),
        ("from ..hss.ulv import factorize", ["structmat.hss.ulv.factorize"]),
        ("from .. import io", ["structmat.io"]),
        ("from . import cpu", ["structmat.engine.cpu"]),
        ("try:\n    import structmat.io\nexcept ImportError:\n    pass", ["structmat.io"]),
        ("class A:\n    import structmat.io", ["structmat.io"]),
        ("def plot():\n    from structmat import plot", []),
        ("if TYPE_CHECKING:\n    from structmat import base", []),
    ],
)
def test_the_reader_of_imports(tmp_path, source, expected):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert list(imports(file, ("structmat", "engine"))) == expected


NEURAL_LAYERS = """
_check data
layers
models
training
closed_form experiments
cli __init__
"""  # the same for structmat_nn
NEURAL_LAYER_OF = {
    name: layer for layer, line in enumerate(NEURAL_LAYERS.strip().splitlines()) for name in line.split()
}
NEURAL_FILES = sorted((ROOT / "structmat_nn").rglob("*.py"))


def neural_room(dotted):
    """Return the folder or module of structmat_nn that a name belongs to."""
    name = (dotted.split(".") + ["__init__"])[1]
    return name if name in NEURAL_LAYER_OF else "__init__"


@pytest.mark.parametrize("file", NEURAL_FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_of_structmat_nn_point_downwards(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    names = [name for name in imports(file, parts[:-1]) if name.split(".")[0] == "structmat_nn"]
    assert parts[1] in NEURAL_LAYER_OF, f"give {parts[1]} a place in NEURAL_LAYERS"
    upward = [name for name in names if NEURAL_LAYER_OF[neural_room(name)] > NEURAL_LAYER_OF[parts[1]]]
    assert upward == []
