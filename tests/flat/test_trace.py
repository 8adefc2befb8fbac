"""Traces of A^-1 B from the factors of HODLR and H-matrices against dense solves."""

import numpy as np
import pytest

import structmat as sm
from structmat.hmatrix import trace as hmatrix_trace

FORMATS = pytest.mark.parametrize("cls", [sm.HODLRMatrix, sm.HMatrix])


def hermitian_pair(cls, n, dtype, rng, *, leaf_size=20, rtol=1e-12):
    """A covariance with noise and a B of other ranks, both dense and compressed; complex ones by phases."""
    x = rng.random((n, 2))
    tree = sm.ClusterTree.from_points(x, leaf_size)
    distance = np.linalg.norm(x[:, None] - x, axis=2)
    phase = np.exp(2j * np.subtract.outer(x[:, 0], x[:, 0])) if np.dtype(dtype).kind == "c" else 1.0
    a = (np.exp(-3.0 * distance) * phase + 0.1 * np.eye(n)).astype(dtype)
    b = (np.cos(3.0 * distance) * np.conj(phase) + np.outer(x[:, 0], x[:, 0])).astype(dtype)
    return [(cls.from_dense(d, tree, rtol=rtol, symmetric=True), d) for d in (a, b)]


@FORMATS
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("n", [1, 2, 20, 21, 333, 700])
def test_trace_of_a_solve(cls, dtype, n, rng):
    (a, dense_a), (b, dense_b) = hermitian_pair(cls, n, dtype, rng)
    expected = np.trace(np.linalg.solve(dense_a, dense_b)).real
    found = sm.trace_of_solve(a, b)
    assert isinstance(found, float)
    scale = np.linalg.norm(np.linalg.inv(dense_a)) * np.linalg.norm(dense_b)
    assert abs(found - expected) <= 1e-11 * scale
    assert sm.trace_of_solve(a, a) == pytest.approx(n, rel=1e-11)
    identity = cls.identity(a.row_tree)
    assert sm.trace_of_solve(a, identity) == pytest.approx(np.trace(np.linalg.inv(dense_a)).real, rel=1e-9)


@FORMATS
def test_single_precision(cls, rng):
    (a, dense_a), (b, dense_b) = hermitian_pair(cls, 400, np.float32, rng, rtol=1e-6)
    expected = np.trace(np.linalg.solve(dense_a.astype(float), dense_b.astype(float)))
    assert sm.trace_of_solve(a, b) == pytest.approx(expected, rel=1e-3)


@FORMATS
def test_digits_are_kept_where_the_matrix_is_ill_conditioned(cls, rng):
    x = np.sort(rng.random(700))

    def kernel(s, t):
        return 1e4 * np.exp(-0.5 * (s[:, None] - t) ** 2)

    a = cls.from_kernel(kernel, x, rtol=1e-14, symmetric=True)
    eigenvalues = np.maximum(np.linalg.eigvalsh(kernel(x, x)), 0.0)
    expected = (eigenvalues / (eigenvalues + 1e-3)).sum()  # condition number 1e10
    assert sm.trace_of_solve(a.add_diagonal(1e-3), a) == pytest.approx(expected, rel=1e-5)


@FORMATS
@pytest.mark.parametrize("symmetric", [True, False])
def test_levels_without_ranks(cls, symmetric, rng):
    n = 300
    tree = sm.ClusterTree.balanced(n, 20)
    v = rng.standard_normal((n, 3))
    low_rank = cls.from_low_rank(v, v, tree, symmetric=symmetric)  # else by the inverse of a diagonal matrix
    values = 1.0 + rng.random(n)
    diagonal = cls.from_diagonal(values, tree)
    expected = (v**2 / values[:, None]).sum()
    assert sm.trace_of_solve(diagonal, low_rank) == pytest.approx(expected, rel=1e-7)
    b = rng.standard_normal((n, 2))
    factored = diagonal.factorize(positive_definite=symmetric)
    np.testing.assert_allclose(factored.solve(b), b / values[:, None], rtol=1e-13)
    np.testing.assert_allclose(factored.solve(b[:, 0]), b[:, 0] / values, rtol=1e-13)
    expected = np.trace(np.linalg.inv(v @ v.T + np.diag(values)))
    assert sm.trace_of_solve(low_rank + diagonal, cls.identity(tree)) == pytest.approx(expected, rel=1e-7)


@FORMATS
def test_matrices_that_are_not_hermitian_go_through_the_inverse(cls, rng):
    (a, dense_a), _ = hermitian_pair(cls, 200, np.float64, rng)
    skewed = dense_a * np.exp(0.1 * np.subtract.outer(np.arange(200), np.arange(200)) / 200)
    b = cls.from_dense(skewed, a.row_tree, rtol=1e-12)
    expected = np.trace(np.linalg.solve(dense_a, skewed))
    assert sm.trace_of_solve(a, b) == pytest.approx(expected, rel=1e-7)


@FORMATS
def test_an_indefinite_matrix_is_refused(cls, rng):
    (a, _), (b, _) = hermitian_pair(cls, 200, np.float64, rng)
    with pytest.raises(sm.NotPositiveDefiniteError, match="not positive definite"):
        sm.trace_of_solve(a.add_diagonal(-5.0), b)


@FORMATS
def test_trees_must_agree(cls, rng):
    (a, _), _ = hermitian_pair(cls, 100, np.float64, rng)
    with pytest.raises(sm.TreeMismatchError):
        sm.trace_of_solve(a, cls.identity(sm.ClusterTree.balanced(100, 10)))


@pytest.mark.parametrize("columns", [1, 50, 10**6])
@pytest.mark.parametrize("admissibility", [sm.StrongAdmissibility(eta=0.8), sm.WeakAdmissibility()])
def test_partitions_and_widths_of_columns(columns, admissibility, rng, monkeypatch):
    """The blocks of B may be larger and smaller than the columns at hand, dense or not, on the diagonal or not."""
    monkeypatch.setattr(hmatrix_trace, "COLUMNS", columns)
    (a, dense_a), (_, dense_b) = hermitian_pair(sm.HMatrix, 333, np.complex128, rng)
    expected = np.trace(np.linalg.solve(dense_a, dense_b)).real
    b = sm.HMatrix.from_dense(dense_b, a.row_tree, rtol=1e-12, symmetric=True, admissibility=admissibility)
    adaptive = sm.HMatrix.adaptive(dense_b, a.row_tree, rtol=1e-12, symmetric=True, dense_diagonal=False)
    assert any((batch.rows == batch.cols).any() for level in adaptive.blocks.far for batch in level)
    for matrix in (b, adaptive):
        assert sm.trace_of_solve(a, matrix) == pytest.approx(expected, rel=1e-9)
