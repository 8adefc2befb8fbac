"""Arithmetic beyond what the battery checks: tolerances, ranks, symmetry, operands that do not fit."""

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import structmat as sm
from structmat.testing import random_hss, strategies
from tests.problems import dense_problem, kernel_k, kernel_l, line, relative_error

N = 900


def kernel_matrix(kernel, rtol=1e-9, **options):
    return sm.HSSMatrix.from_kernel(kernel(N), line(N), rtol=rtol, **options)


@pytest.fixture(scope="module")
def pair():
    return kernel_matrix(kernel_k, symmetric=True), kernel_matrix(kernel_l)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-8])
def test_results_meet_their_tolerance(pair, rtol):
    a, b = pair
    k, log = dense_problem("K", N), dense_problem("L", N)
    for result, exact in (
        (a.add(b, rtol=rtol), k + log),
        (a.multiply(b, rtol=rtol), k @ log),
        (a.hadamard(b, rtol=rtol), k * log),
        (a.truncate(rtol=rtol), k),
        (a.inverse(rtol=rtol), None),
    ):
        if exact is None:
            assert np.linalg.norm(result.to_dense() @ k - np.eye(N)) <= rtol * np.linalg.norm(k) * result.norm()
            continue
        assert relative_error(result.to_dense(), exact) <= rtol
        assert result.certificate.met
        assert result.certificate.asked == rtol


def test_ranks_fall_with_the_tolerance(pair):
    ranks = [pair[0].multiply(pair[1], rtol=rtol).max_rank for rtol in (1e-2, 1e-5, 1e-8)]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1] < 60


def test_what_stays_hermitian(pair, rng):
    a, b = pair
    u = rng.standard_normal((N, 2))
    for result in (
        a + a, a - 0.5 * a, a.hadamard(a), -a, a / 3, a.truncate(rtol=1e-3), a.add_diagonal(2.0),
        a.add_low_rank(u, u),
        a.T, a.astype(np.complex64),
    ):  # fmt: skip
        assert result.symmetric
    for result in (a + b, a @ a, 1j * a, a.hadamard(b), a.add_low_rank(u, u + 1)):
        assert not result.symmetric


def test_a_sum_that_cancels_has_rank_zero(pair):
    a, b = pair
    for difference in (a - a, b - b):
        assert difference.norm() <= 1e-14 * a.norm() * 10
    assert (a - a).truncate(atol=1e-6 * a.norm()).max_rank == 0


def test_truncation_is_nearly_optimal(rng):
    """Ranks of the block rows, by singular values of the dense blocks."""
    dense = dense_problem("K", 512)
    tree = sm.ClusterTree.balanced(512, 64)
    rtol = 1e-6
    matrix = sm.HSSMatrix.from_dense(dense, tree, rtol=1e-12).truncate(rtol=rtol)
    allowed = rtol * np.linalg.norm(dense) / np.sqrt(2 * tree.depth)
    for level in range(1, tree.depth + 1):
        for node, rank in enumerate(matrix.row_ranks[level - 1]):
            inside = tree.indices(level, node)
            row = np.delete(dense[inside], inside, axis=1)
            s = np.linalg.svd(row, compute_uv=False)
            optimal = int((np.sqrt(np.cumsum(s[::-1] ** 2)[::-1]) > allowed / np.sqrt(2**level)).sum())
            assert rank <= optimal + 2


def test_max_rank_of_a_truncation(pair):
    with pytest.warns(sm.AccuracyWarning, match="not met.*raise max_rank"):
        cut = pair[0].truncate(rtol=1e-9, max_rank=4)
    assert cut.max_rank == 4
    error = relative_error(cut.to_dense(), dense_problem("K", N))
    assert error <= cut.certificate.upper_bound + 1e-9
    assert cut.certificate.upper_bound <= 10 * error


def test_add_diagonal_is_exact_and_keeps_ranks(pair, rng):
    d = rng.standard_normal(N)
    result = pair[1].add_diagonal(d)
    difference = result.to_dense() - pair[1].to_dense()
    assert np.abs(difference - np.diag(d)).max() < 1e-12
    assert result.max_rank == pair[1].max_rank
    with pytest.raises(sm.SymmetryError, match="real diagonal"):
        pair[0].add_diagonal(1j)


def test_hadamard_of_views_and_mixed_types(rng):
    tree = sm.ClusterTree.from_points(rng.random((150, 2)), 16)
    a, dense_a = random_hss(rng, tree, 3)
    b, dense_b = random_hss(rng, tree, 2, np.complex128, True)
    for left, right, exact in (
        (a, b, dense_a * dense_b), (b, a.T, dense_b * dense_a.T), (b.conj(), b, np.abs(dense_b) ** 2),
    ):  # fmt: skip
        assert relative_error(left.hadamard(right).to_dense(), exact) < 1e-12


def test_mixed_types_in_sums_and_products(rng):
    tree = sm.ClusterTree.balanced(120, 16)
    pairs = [random_hss(rng, tree, 3, dtype) for dtype in (np.float32, np.float64, np.complex64, np.complex128)]
    for a, dense_a in pairs:
        for b, dense_b in pairs:
            for result, exact in ((a + b, dense_a + dense_b), (a @ b, dense_a @ dense_b)):
                eps = max(np.finfo(a.dtype).eps, np.finfo(b.dtype).eps)
                assert result.dtype == exact.dtype
                assert relative_error(result.to_dense(), exact) <= 200 * eps


def test_operands_that_do_not_fit(pair, rng):
    a = pair[0]
    other = sm.HSSMatrix.identity(sm.ClusterTree.balanced(N, 200))
    for verb in (lambda: a + other, lambda: a.hadamard(other), lambda: a @ other):
        with pytest.raises(sm.TreeMismatchError, match="need the same cluster tree"):
            verb()
    small = sm.HSSMatrix.identity(sm.ClusterTree.balanced(10))
    with pytest.raises(sm.ShapeError, match=r"\(900, 900\) and \(10, 10\)"):
        a - small
    with pytest.raises(sm.ShapeError, match="A has 900 columns, but B has 10 rows"):
        a @ small
    with pytest.raises(TypeError):
        a + 1.0
    with pytest.raises(sm.ShapeError, match="must have the same r"):
        a.add_low_rank(rng.random((N, 2)), rng.random((N, 3)))
    with pytest.raises(TypeError, match="unsupported operand"):
        a - "a"


def test_sums_with_sparse_matrices(pair):
    band = sparse.diags_array([np.ones(N - 1), np.full(N, 4.0), np.ones(N - 1)], offsets=[-1, 0, 1]).tocsr()
    for result, exact in (
        (pair[0] + band, dense_problem("K", N) + band.toarray()),
        (band + pair[0], dense_problem("K", N) + band.toarray()),
        (band - pair[1], band.toarray() - dense_problem("L", N)),
    ):
        assert relative_error(result.to_dense(), exact) < 1e-8


# -------------------------------------------------------------------------------------- properties

few = settings(max_examples=25)


def near(a, b, scale, dtype):
    return np.linalg.norm(np.ravel(np.asarray(a) - b)) <= 500 * np.finfo(dtype).eps * max(scale, 1e-30)


@few
@given(strategies.hss_matrices(), strategies.seeds())
def test_products_are_linear_and_adjoint(pair, seed):
    a, dense = pair
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((a.shape[1], 2)).astype(a.dtype) for _ in range(2))
    z = rng.standard_normal(a.shape[0]).astype(a.dtype)
    scale = np.linalg.norm(dense) * (np.linalg.norm(x) + np.linalg.norm(y)) * (1 + np.linalg.norm(z))
    assert near(a @ (2 * x - y), 2 * (a @ x) - a @ y, scale, a.dtype)
    assert near(np.vdot(z, a @ x[:, 0]), np.vdot(a.H @ z, x[:, 0]), scale, a.dtype)
    assert near(a @ x, dense @ x, scale, a.dtype)
    assert near(a.T.T.to_dense(), dense, np.linalg.norm(dense), a.dtype)
    assert near(a.H.T.to_dense(), dense.conj(), np.linalg.norm(dense), a.dtype)


@few
@given(strategies.hss_matrices(), strategies.hss_matrices(), strategies.seeds())
def test_sums_apply_as_sums(first, second, seed):
    (a, dense_a), (b, _) = first, second
    rng = np.random.default_rng(seed)
    b, dense_b = random_hss(rng, a.row_tree, 3, b.dtype, a.symmetric, col_tree=None if a.symmetric else a.col_tree)
    x = rng.standard_normal((a.shape[1], 2))
    scale = (np.linalg.norm(dense_a) + np.linalg.norm(dense_b)) * np.linalg.norm(x)
    worst = max((a.dtype, b.dtype), key=lambda d: np.finfo(d).eps)
    assert near((a + b) @ x, dense_a @ x + dense_b @ x, scale, worst)
    assert near((a - b) @ x, a @ x - b @ x, scale, worst)


@few
@given(strategies.hss_matrices(dtype=np.float64), st.lists(st.floats(1e-8, 0.5), min_size=2, max_size=4))
def test_truncation_is_monotone(pair, tolerances):
    a, dense = pair
    cuts = [a.truncate(rtol=rtol) for rtol in sorted(tolerances)]
    ranks = [sum(int(r.sum()) for r in cut.row_ranks) for cut in cuts]
    assert ranks == sorted(ranks, reverse=True)
    for rtol, cut in zip(sorted(tolerances), cuts, strict=True):
        assert np.linalg.norm(cut.to_dense() - dense) <= (rtol + 1e-13) * np.linalg.norm(dense)


@few
@given(strategies.hss_matrices(dtype=np.complex128, shift=30.0), strategies.seeds())
def test_a_solve_undoes_a_product(pair, seed):
    a, _dense = pair
    x = np.random.default_rng(seed).standard_normal((a.shape[1], 2))
    factored = a.factorize()
    assert near(factored.solve(a @ x), x, 1e3 * np.linalg.norm(x), np.float64)
    assert near(factored.solve_adjoint(a.H @ x), x, 1e3 * np.linalg.norm(x), np.float64)


@few
@given(strategies.hss_matrices(largest=80))
def test_files_keep_everything(pair):
    import tempfile
    from pathlib import Path

    io = pytest.importorskip("structmat.io")
    a, _dense = pair
    with tempfile.TemporaryDirectory() as folder:
        a.save(Path(folder) / "a.npz")
        b = io.load(Path(folder) / "a.npz")
    assert np.array_equal(a.to_dense(), b.to_dense())
    assert (a.row_tree, a.col_tree, a.symmetric) == (b.row_tree, b.col_tree, b.symmetric)


def test_a_diagonal_costs_no_storage():
    x = np.random.default_rng(0).random(1000)
    a = sm.HSSMatrix.from_kernel(sm.kernelfunctions.Matern(nu=1.5, length=0.3), x, rtol=1e-8)
    assert a.generators.row_basis.orders is not None  # identity parts are not stored
    assert a.add_diagonal(1.0).nbytes == a.nbytes
