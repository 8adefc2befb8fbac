"""HSS matrices in the hands of SciPy, PyAMG and NumPy."""

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import structmat as sm
from tests.problems import dense_problem, kernel_k, kernel_l, line, one_sided

N = 600


@pytest.fixture(scope="module")
def definite():
    a = sm.HSSMatrix.from_kernel(kernel_k(N), line(N), rtol=1e-11, symmetric=True)
    return a, dense_problem("K", N)


@pytest.fixture(scope="module")
def general():
    kernel = one_sided(N)
    shift = 3.0
    dense = kernel(line(N), line(N)) + shift * np.eye(N)
    return sm.HSSMatrix.from_kernel(kernel, line(N), rtol=1e-11).add_diagonal(shift), dense


def relative(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def test_gmres(general, rng):
    a, dense = general
    b = rng.standard_normal(N)
    x, info = spla.gmres(a.aslinearoperator(), b, rtol=1e-10, restart=100)
    assert info == 0
    assert relative(dense @ x, b) < 1e-9


def test_gmres_with_a_coarse_matrix_as_preconditioner(rng):
    dense = dense_problem("L", N)
    coarse = sm.HSSMatrix.from_kernel(kernel_l(N), line(N), rtol=1e-5)
    b, residuals = rng.standard_normal(N), []
    x, info = spla.gmres(
        dense,
        b,
        M=coarse.factorize().aslinearoperator(),
        rtol=1e-9,
        callback=residuals.append,
        callback_type="pr_norm",
    )
    assert info == 0
    assert relative(dense @ x, b) < 1e-7
    assert len(residuals) < 12


def test_conjugate_gradients(definite, rng):
    a, dense = definite
    b = rng.standard_normal(N)
    x, info = spla.cg(a.aslinearoperator(), b, rtol=1e-10)
    assert info == 0
    assert relative(dense @ x, b) < 1e-9


def test_eigenvalues(definite):
    a, dense = definite
    exact = np.linalg.eigvalsh(dense)
    largest = spla.eigsh(a.aslinearoperator(), k=4, return_eigenvectors=False)
    assert np.allclose(np.sort(largest), exact[-4:], rtol=1e-9)
    inverse = a.factorize(positive_definite=True).aslinearoperator()
    smallest = spla.eigsh(a.aslinearoperator(), k=3, sigma=0.0, OPinv=inverse, return_eigenvectors=False)
    assert np.allclose(np.sort(smallest), exact[:3], rtol=1e-8)


def test_singular_values(general):
    a, dense = general
    values = spla.svds(a.aslinearoperator(), k=3, return_singular_vectors=False)
    assert np.allclose(np.sort(values), np.sort(np.linalg.svd(dense, compute_uv=False))[-3:], rtol=1e-9)


def test_operators_compose(general, rng):
    a, dense = general
    op = a.aslinearoperator()
    x = rng.standard_normal((N, 3))
    assert relative((2 * op + op.H) @ x, (2 * dense + dense.T) @ x) < 1e-10
    assert relative((op @ op) @ x, dense @ dense @ x) < 1e-10


def test_pyamg_krylov_with_a_preconditioner(rng):
    krylov = pytest.importorskip("pyamg.krylov", reason="PyAMG is not installed")
    dense = dense_problem("K", N)
    coarse = sm.HSSMatrix.from_kernel(kernel_k(N), line(N), rtol=1e-3, symmetric=True)
    b, residuals = rng.standard_normal(N), []
    preconditioner = coarse.factorize(positive_definite=True).aslinearoperator()
    exact = sm.HSSMatrix.from_kernel(kernel_k(N), line(N), rtol=1e-12, symmetric=True).aslinearoperator()
    for method in (krylov.cg, krylov.gmres, krylov.fgmres, krylov.bicgstab):
        residuals.clear()
        x, info = method(exact, b, tol=1e-9, M=preconditioner, residuals=residuals, maxiter=30)
        assert info == 0
        assert relative(dense @ x, b) < 1e-7
        assert len(residuals) < 15


def test_numpy_hands_over(general, rng):
    a, dense = general
    x = rng.standard_normal((4, N))
    assert relative(np.asarray(x) @ a, x @ dense) < 1e-10
    assert isinstance(x @ a, np.ndarray)
    assert relative(np.float64(2.0) * a @ x.T, 2 * dense @ x.T) < 1e-10
    assert isinstance(np.float64(2.0) * a, sm.HSSMatrix)
    assert relative(np.asarray(a), dense) < 1e-10
    with pytest.raises(TypeError):
        np.add(a, 1.0)


def test_the_operator_of_a_view_and_of_a_complex_matrix(rng):
    x = line(200)
    dense = np.exp(1j * np.subtract.outer(x, 2 * x))
    a = sm.HSSMatrix.from_dense(dense, rtol=1e-12)
    y = rng.standard_normal(200)
    for view, twin in ((a.T, dense.T), (a.H, dense.conj().T), (a.conj(), dense.conj())):
        op = view.aslinearoperator()
        assert relative(op @ y, twin @ y) < 1e-10
        assert relative(op.rmatvec(y), twin.conj().T @ y) < 1e-10
        assert relative(op.T @ y, twin.T @ y) < 1e-10
