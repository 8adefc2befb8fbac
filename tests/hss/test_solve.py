"""Factorisations: solves, determinants, refinement, conditions, and what they say when they fail."""

import warnings

import numpy as np
import pytest

import structmat as sm
from structmat.testing import random_hss
from tests.problems import KERNELS, dense_problem, kernel_k, kernel_l, line, relative_error


def built(name, n, rtol=1e-10, **options):
    return sm.HSSMatrix.from_kernel(KERNELS[name](n), line(n), rtol=rtol, **options)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_residuals_are_at_rounding_for_the_stored_matrix(name, symmetric, rng):
    a = built(name, 1500, symmetric=symmetric)
    factored = a.factorize()
    for b in (rng.standard_normal(1500), rng.standard_normal((1500, 4)), rng.standard_normal(1500) + 1j):
        for solve, product in ((factored.solve, a), (factored.solve_adjoint, a.H)):
            x = solve(b)
            assert x.dtype == b.dtype
            size = a.norm(2) * np.linalg.norm(x) + np.linalg.norm(b)
            assert np.linalg.norm(product @ x - b) <= 1e-14 * size * 10


def test_cholesky_agrees_with_ulv(rng):
    for dtype in (np.float64, np.complex128):
        tree = sm.ClusterTree.from_points(rng.random((333, 2)), 20)
        a, dense = random_hss(rng, tree, 6, dtype, True, shift=80.0)
        cholesky, ulv = a.factorize(positive_definite=True), a.factorize()
        b = rng.standard_normal((333, 3))
        for factored in (cholesky, ulv):
            assert relative_error(factored.solve(b), np.linalg.solve(dense, b)) < 1e-12
            assert relative_error(factored.solve_adjoint(b), np.linalg.solve(dense, b)) < 1e-12
            assert relative_error(factored.inverse().to_dense(), np.linalg.inv(dense)) < 1e-11
        assert cholesky.slogdet()[0] == 1
        assert cholesky.slogdet()[1] == pytest.approx(ulv.slogdet()[1], rel=1e-12)
        assert cholesky.nbytes < ulv.nbytes
        assert "HSSCholesky(shape=(333, 333)" in repr(cholesky)
        assert relative_error(cholesky.aslinearoperator() @ b, np.linalg.solve(dense, b)) < 1e-12


def test_cholesky_names_the_block_that_is_not_definite(rng):
    tree = sm.ClusterTree.balanced(64, 8)
    d = np.ones(64)
    d[43] = -1
    u = 1e-3 * rng.standard_normal((64, 1))
    a = sm.HSSMatrix.from_low_rank(u, u, tree, symmetric=True).add_diagonal(d)
    with pytest.raises(sm.NotPositiveDefiniteError, match="node 5 of level 3") as caught:
        a.factorize(positive_definite=True)
    assert (caught.value.level, caught.value.node) == (3, 5)
    with pytest.raises(sm.SymmetryError, match="build it with symmetric=True"):
        built("K", 100).factorize(positive_definite=True)
    root = sm.HSSMatrix.from_diagonal(-np.ones(4))
    with pytest.raises(sm.NotPositiveDefiniteError, match="node 0 of level 0"):
        root.factorize(positive_definite=True)


# ---------------------------------------------------------------------------------- determinants


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_signs_of_random_matrices(dtype):
    signs = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, leaf = int(rng.integers(1, 60)), int(rng.integers(1, 12))
        tree = sm.ClusterTree.from_points(rng.random((n, 2)), leaf) if seed % 2 else sm.ClusterTree.balanced(n, leaf)
        a, dense = random_hss(rng, tree, 4, dtype, symmetric=seed % 3 == 0)
        sign, logarithm = a.slogdet()
        expected_sign, expected = np.linalg.slogdet(dense)
        assert logarithm == pytest.approx(expected, abs=1e-6)
        assert abs(sign - expected_sign) < 1e-6
        signs.append(sign)
    if dtype == np.float64:
        assert set(signs) == {-1.0, 1.0}


def test_signs_of_orthogonal_matrices():
    """Reflections and rotations: determinants of exactly one or minus one."""
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        q = np.linalg.qr(rng.standard_normal((48, 48)))[0] * np.where(np.arange(48) == 0, (-1) ** seed, 1)
        a = sm.HSSMatrix.from_dense(q, sm.ClusterTree.balanced(48, 24), rtol=1e-13)
        sign, logarithm = a.slogdet()
        assert sign == round(np.linalg.det(q))
        assert abs(logarithm) < 1e-11
        seen.add(float(sign))
    assert seen == {-1.0, 1.0}


def test_sign_with_different_orders_of_rows_and_columns():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rows, cols = (sm.ClusterTree.from_points(rng.random((30, 2)), 5) for _ in range(2))
        a, dense = random_hss(rng, rows, 3, col_tree=cols)
        assert a.slogdet()[0] == np.linalg.slogdet(dense)[0]


@pytest.mark.parametrize("exponent", [-100, -17, 17, 100])
def test_determinants_that_overflow_and_leaves_that_are_padded(exponent):
    """3000 indices: leaves of 46 and 47, and the padding of the former is neither huge nor tiny."""
    a = sm.HSSMatrix.from_diagonal(np.full(3000, 10.0**exponent))
    for factored in (a.factorize(), a.factorize(positive_definite=True)):
        sign, logarithm = factored.slogdet()
        assert sign == 1
        assert logarithm == pytest.approx(3000 * exponent * np.log(10))
        assert np.allclose(factored.solve(np.ones(3000)), 10.0**-exponent, rtol=1e-12, atol=0)
        assert relative_error(factored.inverse().diagonal(), np.full(3000, 10.0**-exponent)) < 1e-12


# --------------------------------------------------------------------- accuracy against the exact matrix


def test_a_well_conditioned_system_is_silent(rng):
    a = built("K", 2000, 1e-8, symmetric=True)
    b = rng.standard_normal(2000)
    x = a.solve(b)
    assert np.linalg.norm(dense_problem("K", 2000) @ x - b) <= 1e-7 * np.linalg.norm(b)


def test_an_ill_conditioned_system_warns_and_refinement_cures_it(rng):
    n = 4096
    a, dense = built("L", n, 1e-8, symmetric=True), dense_problem("L", n)
    b = rng.standard_normal(n)
    with pytest.warns(sm.IllConditionedWarning, match="refine against the exact operator"):
        x = a.solve(b)
    truth = np.linalg.norm(dense @ x - b) / np.linalg.norm(b)
    assert truth > 1e-7, "the warning was not called for"
    with pytest.warns(sm.IllConditionedWarning) as record:
        a.solve(b)
    predicted = float(str(record[0].message).split("about ")[1].split(",")[0])
    assert truth / 30 < predicted < 30 * truth
    products = []

    class Exact:
        def matmat(self, x):
            products.append(x.shape[1])
            return dense @ x

    x = a.solve(b, operator=Exact(), rtol=1e-8)
    assert np.linalg.norm(dense @ x - b) <= 1e-8 * np.linalg.norm(b)
    assert len(products) <= 4, "more than three steps of refinement"
    many = rng.standard_normal((n, 2))
    x = a.solve(many, operator=dense, rtol=1e-8)
    assert (np.linalg.norm(dense @ x - many, axis=0) <= 1e-8 * np.linalg.norm(many, axis=0)).all()


def test_refinement_that_does_not_converge_warns(rng):
    a, dense = built("L", 1000, 1e-2), dense_problem("L", 1000)
    b = rng.standard_normal(1000)
    with pytest.warns(sm.IllConditionedWarning, match="stopped at a relative residual"):
        x = a.solve(b, operator=dense, rtol=1e-12, max_steps=3)
    assert np.isfinite(x).all()


def test_operators_without_block_products(rng):
    dense = dense_problem("K", 300)
    a, b = built("K", 300, 1e-4), rng.standard_normal(300)

    class Single:
        def matvec(self, x):
            return dense @ x

    x = a.solve(b, operator=Single(), rtol=1e-12)
    assert np.linalg.norm(dense @ x - b) <= 1e-12 * np.linalg.norm(b)
    with pytest.raises(TypeError, match="neither matmat, matvec nor @"):
        a.solve(b, operator=object())


def test_one_step_of_refinement_and_a_factorisation_to_reuse(rng):
    a = built("L", 800, 1e-9)
    b = rng.standard_normal(800)
    factored = a.factorize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.IllConditionedWarning)
        plain, refined = a.solve(b, factorization=factored), a.solve(b, refine=True, factorization=factored)
    residuals = [np.linalg.norm(a @ x - b) for x in (plain, refined)]
    assert residuals[1] <= 2 * residuals[0]
    assert residuals[1] <= 1e-8 * np.linalg.norm(b)


def test_zero_right_hand_sides():
    a = built("K", 200)
    assert not a.solve(np.zeros(200)).any()
    assert not a.solve(np.zeros((200, 2)), operator=dense_problem("K", 200)).any()


# -------------------------------------------------------------------------------- singular blocks


def test_a_singular_leaf_is_named(rng):
    tree = sm.ClusterTree.balanced(64, 8)
    d = np.ones(64)
    d[43] = d[44] = 0
    u, v = (1e-3 * rng.standard_normal((64, 1)) for _ in range(2))
    a = sm.HSSMatrix.from_low_rank(u, v, tree).add_diagonal(d)
    a = a - sm.HSSMatrix.from_low_rank(u, v, tree)
    for matrix in (a, sm.HSSMatrix.from_diagonal(d, tree)):
        with pytest.raises(sm.SingularBlockError, match=r"node 5 on level 3.*add_diagonal") as caught:
            matrix.factorize()
        assert (caught.value.level, caught.value.node) == (3, 5)
        assert isinstance(caught.value, np.linalg.LinAlgError)


@pytest.mark.parametrize(("n", "leaf_size"), [(40, 64), (2, 1)])
def test_a_singular_root_is_named(n, leaf_size):
    ones = np.ones((n, 1))
    a = sm.HSSMatrix.from_low_rank(ones, ones, sm.ClusterTree.balanced(n, leaf_size))
    with pytest.raises(sm.SingularBlockError, match="root") as caught:
        a.factorize()
    assert (caught.value.level, caught.value.node) == (0, 0)


# --------------------------------------------------------------------------------------- condition


@pytest.mark.parametrize("decades", [0.5, 3, 8])
def test_rcond_within_a_factor_of_three(rng, decades):
    tree = sm.ClusterTree.balanced(200, 25)
    u = np.linalg.qr(rng.standard_normal((200, 5)))[0]
    d = 10.0 ** rng.uniform(-decades, 0, 200)
    a = sm.HSSMatrix.from_diagonal(d, tree) + sm.HSSMatrix.from_low_rank(u, 0.5 * u, tree)
    exact = 1.0 / np.linalg.cond(a.to_dense())
    assert exact / 3 <= a.factorize().rcond(rng=0) <= 3 * exact


def test_inverses_meet_their_tolerance():
    for name, rtol in (("K", 1e-3), ("K", 1e-8), ("L", 1e-6)):
        a = built(name, 1000, 1e-11)
        inverse = a.inverse(rtol=rtol)
        exact = np.linalg.inv(a.to_dense())
        assert relative_error(inverse.to_dense(), exact) <= rtol + 1e-14 * np.linalg.cond(a.to_dense())
        assert inverse.certificate.met


def test_sums_wider_than_their_leaves_are_factored(rng):
    tree = sm.ClusterTree.balanced(64, 8)
    a, dense_a = random_hss(rng, tree, 8, ragged=False, shift=20.0)
    b, dense_b = random_hss(rng, tree, 8, ragged=False)
    b_vector = rng.standard_normal(64)
    x = (a + b).factorize().solve(b_vector)
    assert relative_error((dense_a + dense_b) @ x, b_vector) < 1e-11


def test_kernels_on_other_points(rng):
    x = rng.random((600, 1))

    def kernel(x, y):
        return kernel_k(600)(x[:, 0], y[:, 0]) + kernel_l(600)(x[:, 0], y[:, 0])

    a = sm.HSSMatrix.from_kernel(kernel, x, rtol=1e-11)
    b = rng.standard_normal(600)
    solution = a.factorize().solve(b)
    assert np.linalg.norm(a @ solution - b) <= 1e-12 * a.norm() * np.linalg.norm(solution)


@pytest.mark.parametrize("sizes", [[1.0, 1e-17], np.logspace(0, -200, 100)])
def test_rows_of_very_different_sizes_are_not_singular(sizes):
    tree = sm.ClusterTree.balanced(len(sizes), 8)
    a = sm.HSSMatrix.from_diagonal(sizes, tree)
    assert np.allclose(a.factorize().solve(np.asarray(sizes)), 1.0, rtol=1e-12)
