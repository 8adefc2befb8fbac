"""The command line: what it prints, what it writes, and how it fails."""

import re

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from typer.testing import CliRunner

import structmat as sm
from structmat import demo, gallery, kernelfunctions
from structmat.cli import app


@pytest.fixture(autouse=True)
def wide(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


def run(*arguments, code=0):
    """Run a command; return what it wrote to both streams, on one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def problem():
    return gallery.problem_k(200)


@pytest.fixture
def stored(problem):
    A = sm.HSSMatrix.from_dense(problem.dense(), rtol=1e-9)
    A.save("stored.npz")
    return A


def test_help_names_the_commands():
    assert all(name in run("--help") for name in ("demo", "compress", "info", "solve", "plot"))
    assert run("--version") == f"structmat {sm.__version__}"


# ------------------------------------------------------------------------------------- compress


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mtx"])
def test_compress_a_dense_matrix(name, problem):
    dense = problem.dense()
    if name == "a.npy":
        np.save(name, dense)
    elif name == "a.npz":
        np.savez(name, matrix=dense)
    else:
        scipy.io.mmwrite(name, dense, precision=17)
    text = run("compress", name, "out.npz", "--rtol", "1e-6", "--leaf-size", "25", "--symmetric")
    A = sm.load("out.npz")
    assert np.linalg.norm(A.to_dense() - dense) <= 1e-6 * np.linalg.norm(dense)
    assert A.symmetric
    assert A.row_tree.leaf_size == 25
    assert "200 x 200, float64, ranks up to" in text
    assert f"certificate: {A.certificate}" in text
    assert "of 320 kB as a dense array" in text
    assert "wrote out.npz" in text


@pytest.mark.parametrize("name", ["a.npz", "a.mtx"])
def test_compress_a_sparse_matrix(name):
    a = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(300, 300)).tocsr()
    (scipy.sparse.save_npz if name == "a.npz" else scipy.io.mmwrite)(name, a)
    run("compress", name, "out.npz")
    np.testing.assert_allclose(sm.load("out.npz").to_dense(), a.toarray(), atol=1e-7)


@pytest.mark.parametrize("name", ["p.csv", "header.csv", "p.npy", "line.npy"])
def test_compress_a_kernel_on_points(name, rng):
    points = rng.random((150, 1))
    if name == "p.csv":
        np.savetxt(name, points, delimiter=",")
    elif name == "header.csv":
        np.savetxt(name, points, delimiter=",", header="position", comments="")
    else:
        np.save(name, points if name == "p.npy" else points[:, 0])
    kernel = kernelfunctions.Matern(nu=1.5, length=0.2)
    run("compress", name, "out.npz", "--kernel", "matern", "--param", "nu=1.5", "--param", "length=0.2")
    exact = kernel(points, points)
    assert np.linalg.norm(sm.load("out.npz").to_dense() - exact) <= 1e-8 * np.linalg.norm(exact)


def test_not_met_is_printed_once_with_its_warning(monkeypatch, problem):
    np.save("a.npy", problem.dense())
    build = sm.HSSMatrix.from_dense
    monkeypatch.setattr(sm.HSSMatrix, "from_dense", lambda a, tree, **options: build(a, tree, max_rank=1, **options))
    text = run("compress", "a.npy", "out.npz")
    assert text.count("the tolerance was NOT MET") == 1
    assert text.count("warning: the tolerance was not met: rtol = 1e-08 was asked for") == 1
    assert not sm.load("out.npz").certificate.met


BAD_INPUT = [
    (["missing.npy"], r"error: .*No such file.*missing\.npy"),
    (["a.txt"], r"error: a\.txt must end in \.npy, \.npz or \.mtx; or in \.csv or \.npy for points"),
    (["p.csv"], r"error: p\.csv holds points; name a kernel, as --kernel gaussian"),
    (
        ["p.csv", "--kernel", "gauss"],
        r"error: there is no kernel named 'gauss'; there are cauchy, elastostatics, exponential",
    ),
    (["p.csv", "--kernel", "gaussian", "--param", "width=1"], r"no parameter width; it has length, diagonal"),
    (["p.csv", "--kernel", "gaussian", "--param", "length"], r"--param must be NAME=NUMBER, .*'length'"),
    (["p.csv", "--kernel", "gaussian", "--param", "=1"], r"--param must be NAME=NUMBER"),
    (["p.csv", "--kernel", "gaussian", "--param", "length=long"], r"--param must be NAME=NUMBER"),
    (["p.csv", "--kernel", "gaussian", "--param", "length=-1"], r"length must be a finite number > 0"),
    (["a.npy", "--param", "length=1"], r"--param belongs to a kernel; name one with --kernel"),
    (["words.csv", "--kernel", "gaussian"], r"words\.csv cannot be read as a table of numbers"),
    (["none.csv", "--kernel", "gaussian"], r"none\.csv cannot be read as a table of numbers .*no points"),
    (["vector.npy"], r"vector\.npy must hold a matrix, but its array has shape \(5,\)"),
    (["text.npy"], r"text\.npy must hold numbers, but its dtype is <U1"),
    (["object.npy"], r"object\.npy cannot be read as an array of NumPy: .*allow_pickle=False"),
    (["broken.npy"], r"broken\.npy cannot be read as an array of NumPy"),
    (["broken.npz"], r"broken\.npz cannot be read as an archive of NumPy"),
    (["broken.mtx"], r"broken\.mtx cannot be read as a Matrix Market file"),
    (["two.npz"], r"two\.npz must hold one array or a sparse matrix of SciPy, but it holds \['a', 'b'\]"),
    (["stored.npz"], r"stored\.npz is compressed already; look at it with: structmat info"),
    (["archive.npy"], r"archive\.npy must hold one array \(\.npy\), but it is an archive"),
    (["nan.npy"], r"error: a must be finite, but 1 of its 9 entries are NaN or Inf"),
    (["skew.npy", "--symmetric"], r"error: symmetric=True, but \|\|A - A\^H\|\| / \|\|A\|\|"),
]


@pytest.fixture
def bad_files(stored):
    nan, pickled = np.eye(3), np.array([{}], dtype=object)
    nan[1, 2] = np.nan
    np.save("a.npy", np.eye(3))
    np.save("nan.npy", nan)
    np.save("skew.npy", np.arange(9.0).reshape(3, 3))
    np.save("vector.npy", np.ones(5))
    np.save("text.npy", np.array([["a"]]))
    np.save("object.npy", pickled, allow_pickle=True)
    np.savez("two.npz", a=np.eye(2), b=np.eye(2))
    with open("archive.npy", "wb") as file:
        np.savez(file, a=np.eye(2))
    np.savetxt("p.csv", np.linspace(0, 1, 9))
    for name, content in [("words.csv", "x\none\n"), ("none.csv", "x\n"), ("a.txt", "")]:
        with open(name, "w") as file:
            file.write(content)
    for name in ("broken.npy", "broken.npz", "broken.mtx"):
        with open(name, "w") as file:
            file.write("%%MatrixMarket of something else\n1 2\n")


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT, ids=[" ".join(a) for a, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_writes_nothing(bad_files, tmp_path, arguments, message):
    text = run("compress", arguments[0], "out.hss", *arguments[1:], code=1)
    assert re.search(message, text), text
    assert "Traceback" not in text
    assert not (tmp_path / "out.hss").exists()


def test_options_out_of_range_are_usage_errors(bad_files):
    assert "--rtol" in run("compress", "a.npy", "out.npz", "--rtol", "-1", code=2)
    assert "--leaf-size" in run("compress", "a.npy", "out.npz", "--leaf-size", "0", code=2)


# --------------------------------------------------------------------------------- info, solve, plot


def test_info_prints_the_summary(stored):
    assert run("info", "stored.npz") == " ".join(stored.summary().split())


def test_info_of_something_else(tmp_path):
    np.save("a.npy", np.eye(2))
    assert "error: a.npy is not a file of structmat" in run("info", "a.npy", code=1)
    assert "No such file" in run("info", "none.npz", code=1)


@pytest.mark.parametrize("shape", [(200,), (200, 3)])
def test_solve_writes_the_solution(stored, problem, tmp_path, rng, shape):
    b = rng.standard_normal(shape)
    np.save("b.npy", b)
    text = run("solve", "stored.npz", "b.npy")
    x = np.load("b-solution.npy")
    np.testing.assert_array_equal(x, stored.solve(b))
    numbers = [float(number) for number in re.findall(r"\d\.\de-\d+", text)]
    assert numbers[0] <= 1e-12
    assert numbers[1] == pytest.approx(stored.predicted_residual(b, x), rel=0.1)
    assert np.linalg.norm(problem.dense() @ x - b) <= 10 * numbers[1] * np.linalg.norm(b)
    run("solve", "stored.npz", "b.npy", "-o", tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load("x.npy"), x)


def test_solve_warns_of_a_large_residual(rng):
    problem = gallery.problem_l(600)
    sm.HSSMatrix.from_dense(problem.dense(), rtol=1e-3).save("stored.npz")
    np.save("b.npy", rng.standard_normal(600))
    assert "warning: the system is ill conditioned for the accuracy of A" in run("solve", "stored.npz", "b.npy")


def test_solve_with_a_wrong_right_side(stored):
    np.save("b.npy", np.ones(7))
    text = run("solve", "stored.npz", "b.npy", code=1)
    assert "error: b has 7 rows, but A has 200 rows (A.shape = (200, 200))" in text
    singular = sm.HSSMatrix.zeros(sm.ClusterTree.balanced(7))
    singular.save("stored.npz")
    assert "error: " in run("solve", "stored.npz", "b.npy", code=1)


def test_plot_writes_a_picture(stored, tmp_path):
    assert "wrote stored.png" in run("plot", "stored.npz")
    assert (tmp_path / "stored.png").read_bytes().startswith(b"\x89PNG")
    run("plot", "stored.npz", "-o", "ranks.svg")
    assert "<svg" in (tmp_path / "ranks.svg").read_text()
    text = run("plot", "stored.npz", "-o", "ranks.npz", code=1)
    assert "error: pictures cannot be written as .npz; use .png" in text


# ------------------------------------------------------------------------------------------- demo


def test_a_small_demonstration(tmp_path):
    text = run("demo", "--folder", "pictures", "--size", "1024")
    assert "all errors are as small as promised" in text
    assert "NOT at most" not in text
    names = {file.name for file in (tmp_path / "pictures").iterdir()}
    assert names == {"block_ranks.png", "solution.png", "laplace.npz"}
    assert sm.load("pictures/laplace.npz").shape == (1024, 1024)


def test_a_demonstration_that_misses_its_promise_fails(monkeypatch):
    monkeypatch.setattr(demo, "LARGEST_ERROR", 1e-20)
    text = run("demo", "--size", "512", code=1)
    assert "NOT at most 1e-20" in text
    assert "an error is too large" in text


@pytest.mark.slow
def test_the_whole_demonstration():
    text = run("demo")
    assert "32768 nodes" in text
    assert "(extrapolated)" in text
    assert "all errors are as small as promised" in text
