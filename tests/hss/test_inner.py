"""The inner product of two matrices against the sum over dense entries."""

import numpy as np
import pytest

import structmat as sm
from structmat.testing import random_hss

DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.complex128])


@DTYPES
@pytest.mark.parametrize("kinds", [(False, False), (True, True), (True, False), (False, True)])
@pytest.mark.parametrize("n", [1, 7, 333])
def test_it_is_the_sum_over_the_entries(dtype, kinds, n, rng):
    tree = sm.ClusterTree.from_points(rng.random((n, 2)), 20)
    (a, dense_a), (b, dense_b) = (
        random_hss(rng, tree, rank, dtype, kind) for rank, kind in zip((6, 4), kinds, strict=True)
    )
    scale = np.linalg.norm(dense_a) * np.linalg.norm(dense_b)
    assert abs(sm.inner(a, b) - np.vdot(dense_a, dense_b)) <= 1e-14 * scale
    assert abs(sm.inner(a.H, b) - np.vdot(dense_a.conj().T, dense_b)) <= 1e-14 * scale
    assert abs(sm.inner(a.conj(), b.T) - np.vdot(dense_a.conj(), dense_b.T)) <= 1e-14 * scale
    assert isinstance(sm.inner(a, b), complex if dtype is np.complex128 else float)


def test_rectangular(rng):
    trees = (sm.ClusterTree.balanced(100, depth=2), sm.ClusterTree.balanced(60, depth=2))
    (a, dense_a), (b, dense_b) = (random_hss(rng, trees[0], 5, col_tree=trees[1]) for _ in range(2))
    assert sm.inner(a, b) == pytest.approx(np.vdot(dense_a, dense_b), rel=1e-12)


@DTYPES
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("n", "rank"), [(1, 2), (7, 2), (333, 6), (333, 15)])
def test_trace_of_a_solve(dtype, symmetric, n, rank, rng):
    tree = sm.ClusterTree.from_points(rng.random((n, 2)), 20)
    a, dense_a = random_hss(rng, tree, rank, dtype, symmetric, shift=200.0)
    b, dense_b = random_hss(rng, tree, 4, dtype, symmetric)
    expected = np.trace(np.linalg.solve(dense_a, dense_b))
    scale = np.linalg.norm(np.linalg.inv(dense_a)) * np.linalg.norm(dense_b)
    assert abs(sm.trace_of_solve(a, b) - expected) <= 1e-12 * scale


def test_trace_of_an_ill_conditioned_solve_keeps_its_digits(rng):
    x = np.sort(rng.random(700))

    def kernel(s, t):
        return 1e4 * np.exp(-0.5 * (s[:, None] - t) ** 2)

    a = sm.HSSMatrix.from_kernel(kernel, x, rtol=1e-14, symmetric=True)
    dense, shifted = kernel(x, x), kernel(x, x) + 1e-3 * np.eye(700)  # condition number 1e10
    eigenvalues = np.maximum(np.linalg.eigvalsh(dense), 0.0)
    expected = (eigenvalues / (eigenvalues + 1e-3)).sum()
    assert np.linalg.cond(shifted) > 1e9
    assert sm.trace_of_solve(a.add_diagonal(1e-3), a) == pytest.approx(expected, rel=1e-5)


def test_trace_of_a_solve_with_an_indefinite_matrix(rng):
    tree = sm.ClusterTree.balanced(200, 20)
    a, _ = random_hss(rng, tree, 3, symmetric=True)
    with pytest.raises(sm.NotPositiveDefiniteError, match=r"needs a positive definite A, .* in node \d+ of level 4"):
        sm.trace_of_solve(a.add_diagonal(-1e3), a)


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (lambda a: np.eye(50), TypeError, "b must be a structured matrix, but it is of type ndarray"),
        (
            lambda a: sm.HSSMatrix.identity(sm.ClusterTree.balanced(40)),
            sm.ShapeError,
            "inner product must have one shape",
        ),
        (lambda a: sm.HSSMatrix.identity(sm.ClusterTree.balanced(50, 5)), sm.TreeMismatchError, "same cluster tree"),
    ],
)
def test_bad_operands(other, error, message):
    a = sm.HSSMatrix.identity(sm.ClusterTree.balanced(50, 10))
    with pytest.raises(error, match=message):
        sm.inner(a, other(a))
    with pytest.raises(error, match=message.replace("inner product", "trace_of_solve")):
        sm.trace_of_solve(a, other(a))


def test_formats_without_a_method_of_their_own_sum_the_hadamard_product(rng, monkeypatch):
    tree = sm.ClusterTree.balanced(90, 20)
    (a, dense_a), (b, dense_b) = (random_hss(rng, tree, 3, np.complex128) for _ in range(2))
    monkeypatch.delattr(sm.HSSMatrix, "_inner")
    assert sm.inner(a, b) == pytest.approx(np.vdot(dense_a, dense_b), rel=1e-6)
    monkeypatch.delattr(sm.HSSMatrix, "hadamard")
    with pytest.raises(TypeError, match="HSSMatrix has no inner product"):
        sm.inner(a, b)
