"""`sm.solve`: one call for a preconditioned iteration."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg as spla

import structmat as sm
from structmat import krylov
from tests.problems import dense_problem, kernel_l, line, one_sided

N = 400


@pytest.fixture(scope="module")
def definite():
    dense = dense_problem("K", N)
    return sm.HMatrix.from_dense(dense, rtol=1e-9, symmetric=True), dense


@pytest.fixture(scope="module")
def general():
    dense = one_sided(N)(line(N), line(N)) + 2.0 * np.eye(N)
    return sm.HODLRMatrix.from_dense(dense, rtol=1e-9), dense


def true_residual(matrix, b, x):
    rest = np.asarray(b) - matrix @ x
    return float((np.linalg.norm(rest, axis=0) / np.linalg.norm(b, axis=0)).max())


@pytest.mark.parametrize("format", [sm.HMatrix, sm.HODLRMatrix, sm.HSSMatrix])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_definite_matrices_of_every_format(format, columns, rng):
    matrix = format.from_dense(dense_problem("K", N), rtol=1e-9, symmetric=True)
    b = rng.standard_normal((N, *columns))
    solution = sm.solve(matrix, b, rtol=1e-10)
    assert solution.method == "cg"
    assert solution.converged
    assert solution.x.shape == b.shape
    assert true_residual(matrix, b, solution.x) <= 1.01e-10
    assert solution.residual == pytest.approx(true_residual(matrix, b, solution.x), rel=1e-2)
    assert solution.iterations < 15
    plain = sm.solve(matrix, b, rtol=1e-10, preconditioner=None)
    assert plain.iterations > 3 * solution.iterations  # what the preconditioner is for
    assert np.linalg.norm(plain.x - solution.x) < 1e-6 * np.linalg.norm(plain.x)


@pytest.mark.parametrize("preconditioner", ["auto", "itself", sm.HSSMatrix, sm.HODLRMatrix])
@pytest.mark.parametrize("on_the_fly", [False, True])
def test_h2_matrices(preconditioner, on_the_fly, rng):
    points = rng.random((1000, 2))
    kernel = sm.kernelfunctions.Exponential(length=0.5)
    matrix = sm.H2Matrix.from_kernel(kernel, points, rtol=1e-8, on_the_fly=on_the_fly)
    if preconditioner == "itself":
        preconditioner = sm.H2Matrix.from_kernel(kernel, points, rtol=1e-4)
    b = rng.standard_normal(1000)
    solution = sm.solve(matrix, b, preconditioner=preconditioner)
    assert solution.method == "cg"
    assert true_residual(matrix, b, solution.x) <= 1.01e-8
    assert solution.iterations < 15


def test_indefinite_h2_matrices(rng):
    matrix = sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), rng.random((1000, 2)), rtol=1e-8)
    b = rng.standard_normal(1000)
    solution = sm.solve(matrix, b)
    assert solution.method == "gmres"
    assert true_residual(matrix, b, solution.x) <= 1.01e-8


def test_general_matrices(general, rng):
    matrix, dense = general
    b = rng.standard_normal((N, 2))
    solution = sm.solve(matrix, b)
    assert solution.method == "gmres"
    assert solution.converged
    assert np.linalg.norm(solution.x - np.linalg.solve(dense, b)) < 1e-6 * np.linalg.norm(solution.x)


@pytest.mark.parametrize("hermitian", [True, False])
def test_complex_matrices(hermitian, rng):
    x = line(200)
    wave = np.exp(20j * np.subtract.outer(x, x))
    dense = dense_problem("K", 200) * (wave if hermitian else wave + 0.1j * np.triu(np.ones((200, 200))))
    matrix = sm.HODLRMatrix.from_dense(dense, rtol=1e-10, symmetric=hermitian)
    for b in (rng.standard_normal(200), rng.standard_normal((200, 2)) + 1j * rng.standard_normal((200, 2))):
        solution = sm.solve(matrix, b, rtol=1e-9)
        assert solution.method == ("cg" if hermitian else "gmres")
        assert true_residual(dense, b, solution.x) < 1e-8


def test_a_complex_right_hand_side_of_a_real_matrix(definite, rng):
    matrix, _ = definite
    b = rng.standard_normal(N) + 1j * rng.standard_normal(N)
    solution = sm.solve(matrix, b)
    assert true_residual(matrix, b, solution.x) <= 1.01e-8


def test_single_precision_stays(rng):
    matrix = sm.HMatrix.from_dense(dense_problem("K", 200).astype(np.float32), rtol=1e-5, symmetric=True)
    solution = sm.solve(matrix, rng.standard_normal(200).astype(np.float32), rtol=1e-4)
    assert solution.converged
    assert solution.x.dtype == np.float32


def preconditioners(matrix, dense):
    return {
        "class": sm.HSSMatrix,
        "matrix": sm.HODLRMatrix.from_dense(dense, rtol=1e-3, symmetric=True),
        "factorisation": matrix.factorize(positive_definite=True, rtol=1e-3),
        "operator": matrix.as_preconditioner(rtol=1e-3, positive_definite=True),
        "function": lambda x: x / np.diag(dense)[:, None],
        "splu": spla.splu(sparse.csc_array(np.triu(np.tril(dense, 3), -3))),
        "array": np.diag(1.0 / np.diag(dense)),
    }


@pytest.mark.parametrize("name", ["class", "matrix", "factorisation", "operator", "function", "splu", "array"])
def test_every_kind_of_preconditioner(definite, rng, name):
    matrix, dense = definite
    b = rng.standard_normal(N)
    given = preconditioners(matrix, dense)[name]
    for method in ("cg", "gmres"):
        solution = sm.solve(matrix, b, method=method, preconditioner=given)
        assert solution.method == method
        assert solution.converged, str(solution)
        assert true_residual(matrix, b, solution.x) <= 1.01e-8


def test_a_preconditioner_is_reused(definite, rng):
    matrix, _ = definite
    first = sm.solve(matrix, rng.standard_normal(N))
    second = sm.solve(matrix, rng.standard_normal(N), preconditioner=first.preconditioner)
    assert second.preconditioner is first.preconditioner
    assert second.method == "cg"
    assert second.converged


@pytest.mark.parametrize("format", [sm.HMatrix, sm.HODLRMatrix, sm.HSSMatrix])
def test_preconditioners_for_other_solvers(format, rng):
    dense = dense_problem("K", N)
    matrix = format.from_dense(dense, rtol=1e-9, symmetric=True)
    b, steps = rng.standard_normal(N), []
    loose = matrix.as_preconditioner(rtol=1e-2, positive_definite=True)
    x, info = spla.cg(matrix.aslinearoperator(), b, M=loose, rtol=1e-9, callback=steps.append)
    assert info == 0
    assert len(steps) < 15
    assert true_residual(dense, b, x) < 1e-7


def test_operators_arrays_and_sparse_matrices(general, rng):
    matrix, dense = general
    b = rng.standard_normal(N)
    for A in (dense, matrix.aslinearoperator(), sparse.csr_array(dense)):
        solution = sm.solve(A, b)  # nothing to factor, and nothing known: GMRES alone
        assert (solution.method, solution.preconditioner) == ("gmres", None)
        assert true_residual(dense, b, solution.x) < 1e-7
        built = sm.solve(A, b, preconditioner=sm.HODLRMatrix)
        assert built.iterations < solution.iterations
        assert true_residual(dense, b, built.x) < 1e-7


# ------------------------------------------------------------------------- what is not positive definite


def test_indefinite_matrices_go_to_gmres(rng):
    dense = kernel_l(N)(line(N), line(N)) + np.diag(np.full(N, 20.0))
    eigenvalues = np.linalg.eigvalsh(dense)
    assert eigenvalues[0] < 0 < eigenvalues[-1]
    assert (np.diag(dense) > 0).all()  # the diagonal alone does not show it
    matrix = sm.HMatrix.from_dense(dense, rtol=1e-9, symmetric=True)
    b = rng.standard_normal(N)
    solution = sm.solve(matrix, b)
    assert solution.method == "gmres"
    assert any("not positive definite" in note for note in solution.notes)
    assert true_residual(dense, b, solution.x) < 1e-7
    with pytest.raises(sm.NotPositiveDefiniteError, match="not positive definite"):
        sm.solve(matrix, b, method="cg")


def test_negative_curvature_is_noticed(rng):
    signs = np.where(np.arange(N) < 3, -1.0, 1.0)
    matrix = sm.HMatrix.from_diagonal(signs * np.linspace(1, 2, N), sm.ClusterTree.balanced(N))
    b = rng.standard_normal(N)
    with pytest.raises(sm.NotPositiveDefiniteError, match=r'the matrix is not positive definite.*use method="gmres"'):
        sm.solve(matrix, b, method="cg", preconditioner=None)
    # positive definite as far as "auto" can know
    shifted = sm.HODLRMatrix.from_dense(rotated(signs), symmetric=True)
    solution = sm.solve(shifted, b, preconditioner=None)
    assert (shifted.diagonal() > 0).all()
    assert solution.method == "gmres"
    assert "the matrix is not positive definite" in solution.notes[0]
    assert true_residual(shifted, b, solution.x) < 1e-7


def rotated(values):
    """A symmetric matrix with these eigenvalues and a positive diagonal."""
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((len(values), len(values))))[0]
    return (q * values) @ q.T


def test_an_indefinite_preconditioner_is_noticed(definite, rng):
    matrix, _ = definite
    with pytest.raises(sm.NotPositiveDefiniteError, match="the preconditioner is not positive definite"):
        sm.solve(matrix, rng.standard_normal(N), method="cg", preconditioner=lambda x: -x)


def test_a_factorisation_that_is_too_loose_is_tightened(rng):
    points = rng.random((600, 2))
    kernel = sm.kernelfunctions.Matern(1.5, length=0.3)
    matrix = sm.HMatrix.from_kernel(kernel, points, rtol=1e-8, symmetric=True).add_diagonal(1e-2)
    with pytest.raises(sm.NotPositiveDefiniteError):
        matrix.factorize(positive_definite=True, rtol=0.1)
    solution = sm.solve(matrix, rng.standard_normal(600), preconditioner_rtol=0.1)
    assert solution.method == "cg"
    assert solution.converged
    assert "Cholesky to 1.0e-01 failed" in solution.notes[0]


# ----------------------------------------------------------------------------------- corners and complaints


def test_zero_right_hand_sides(definite):
    matrix, _ = definite
    for b in (np.zeros(N), np.zeros((N, 2)), np.zeros((N, 0))):
        solution = sm.solve(matrix, b)
        assert solution.x.shape == b.shape
        assert not solution.x.any()
        assert (solution.iterations, solution.residual, solution.converged) == (0, 0.0, True)


def test_one_zero_column_among_others(definite, rng):
    matrix, _ = definite
    b = np.stack([np.zeros(N), rng.standard_normal(N)], axis=1)
    for method in ("cg", "gmres"):
        solution = sm.solve(matrix, b, method=method)
        assert solution.converged
        assert not solution.x[:, 0].any()


@pytest.mark.parametrize("format", [sm.HMatrix, sm.HODLRMatrix, sm.HSSMatrix, sm.H2Matrix])
@pytest.mark.parametrize("symmetric", [True, False])
def test_one_by_one(format, symmetric):
    solution = sm.solve(format.from_dense([[4.0]], symmetric=symmetric), [2.0])
    assert solution.x == pytest.approx([0.5])
    assert solution.converged


def test_a_torch_right_hand_side(definite):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    matrix, _ = definite
    b = torch.ones(N, dtype=torch.float64)
    x = sm.solve(matrix, b).x
    assert isinstance(x, torch.Tensor)
    assert true_residual(matrix, b.numpy(), x.numpy()) <= 1.01e-8


def test_what_did_not_converge_is_said(definite, rng):
    matrix, _ = definite
    b = rng.standard_normal(N)
    for method, name in (("cg", "conjugate gradients"), ("gmres", "GMRES")):
        with pytest.warns(sm.ConvergenceWarning, match=f"{name} stopped at .* after 2 steps.*preconditioner_rtol"):
            solution = sm.solve(matrix, b, method=method, preconditioner=None, max_steps=2)
        assert not solution.converged
        assert solution.iterations == 2
        assert solution.residual == pytest.approx(true_residual(matrix, b, solution.x))
        assert "NOT" in str(solution)
        with pytest.warns(sm.ConvergenceWarning, match="more steps no longer help"):
            sm.solve(matrix, b, method=method, rtol=1e-18)


def test_bad_input(definite, rng):
    matrix, dense = definite
    b = rng.standard_normal(N)
    wide = sm.HMatrix.from_dense(dense[:300])
    for arguments, options, error, message in (
        ((wide, b), {}, sm.ShapeError, r"square matrix, but A.shape = \(300, 400\)"),
        ((matrix, b[1:]), {}, sm.ShapeError, "b has 399 rows"),
        ((matrix, b[:, None, None]), {}, sm.ShapeError, "b must be 1-D or 2-D"),
        ((matrix, np.where(b > 2, np.nan, b)), {}, sm.NonFiniteError, "b must be finite"),
        ((matrix, b), {"method": "minres"}, ValueError, 'method must be "auto", "cg" or "gmres"'),
        ((matrix, b), {"rtol": -1.0}, ValueError, "rtol must be a finite number"),
        ((matrix, b), {"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ((matrix, b), {"preconditioner": "ilu"}, ValueError, 'preconditioner must be "auto", None'),
        ((matrix, b), {"preconditioner": sm.H2Matrix}, TypeError, "H2Matrix has no factorisation; take HMatrix"),
        ((matrix, b), {"preconditioner": 3}, TypeError, "preconditioner must be a format"),
        ((matrix, b), {"preconditioner": wide}, sm.ShapeError, "the preconditioner has shape"),
        ((matrix, b), {"preconditioner": lambda x: x[1:]}, sm.ShapeError, "the preconditioner made a block of shape"),
        ((matrix, b), {"preconditioner": lambda x: x + np.nan}, sm.NonFiniteError, "what the preconditioner makes"),
        ((lambda x: x, b), {}, TypeError, "wrap a function in scipy.sparse.linalg.LinearOperator"),
    ):
        with pytest.raises(error, match=message):
            sm.solve(*arguments, **options)


def test_progress_adds_up(definite, rng):
    matrix, _ = definite
    for method in ("cg", "gmres"):
        shares = []
        sm.solve(matrix, rng.standard_normal(N), method=method, progress=shares.append)
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1.0)


def test_the_picture(definite, rng):
    matrix, _ = definite
    b = rng.standard_normal(N)
    solution, plain = sm.solve(matrix, b), sm.solve(matrix, b, preconditioner=None)
    axes = solution.plot()
    plain.plot(axes)
    assert axes.get_yscale() == "log"
    first, asked = axes.lines[:2]
    np.testing.assert_array_equal(first.get_ydata(), solution.residuals)
    assert asked.get_ydata()[0] == solution.rtol
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["conjugate gradients, HCholesky", "conjugate gradients, no preconditioner"]
    plt.close(axes.figure)


def test_conjugate_gradients_against_the_textbook(rng):
    """The error falls at least as fast as Chebyshev polynomials say, and ends after as many steps as eigenvalues."""
    dense = rotated(np.repeat([1.0, 2.0, 5.0], 20))
    b = rng.standard_normal(60)
    found = krylov.conjugate_gradients(lambda x: dense @ x, lambda x: 0.0 * x + x, b[:, None], 1e-12, 100)
    assert found.steps <= 4
    assert found.residual <= 1e-12
