"""Least squares with tall HSS matrices, against LAPACK on the dense matrix."""

import numpy as np
import pytest

import structmat as sm
from structmat.hss.lstsq import HSSLeastSquares

# with small leaves and to rounding these matrices are no smaller than dense ones, which is beside the point
pytestmark = pytest.mark.filterwarnings("ignore::structmat.StructureWarning", "ignore::structmat.AccuracyWarning")

SHAPES = [
    (1, 1),
    (2, 1),
    (3, 2),
    (5, 4),
    (7, 3),
    (40, 7),
    (61, 61),
    (97, 53),
    (128, 64),
    (300, 31),
    (211, 210),
]
DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def trees(m, n, leaf, rng=None):
    depth = sm.ClusterTree.balanced(n, leaf).depth
    permutations = (None, None) if rng is None else (rng.permutation(m), rng.permutation(n))
    return tuple(sm.ClusterTree(k, depth, p) for k, p in zip((m, n), permutations, strict=True))


def structured(m, n, dtype, pair):
    """A matrix of full rank with HSS structure on the given trees."""
    x, y = (np.empty(t.n) for t in pair)
    for points, t in zip((x, y), pair, strict=True):
        points[t.perm] = (np.arange(t.n) + 0.5) / t.n
    a = 1 / (1 + n * abs(x[:, None] - y))
    if np.dtype(dtype).kind == "c":
        a = a + 0.3j * np.cos(3 * x[:, None] * y)
    return a.astype(dtype)


def hss(a, pair):
    return sm.HSSMatrix.from_dense(a, pair, rtol=0.1 * np.finfo(a.dtype).eps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_agrees_with_lapack(shape, dtype, rng):
    pair = trees(*shape, 4, rng)
    a = structured(*shape, dtype, pair)
    b = rng.standard_normal((shape[0], 3)).astype(dtype)
    kept = b.copy()
    x, residual_norm = hss(a, pair).lstsq(b)
    expected = np.linalg.lstsq(a.astype(np.complex128), b, rcond=None)[0]
    eps = np.finfo(dtype).eps
    scale = np.linalg.cond(a) ** 2 * np.linalg.norm(b)
    assert x.dtype == dtype
    np.testing.assert_allclose(x, expected, atol=100 * eps * scale, rtol=0)
    assert np.linalg.norm(x - expected) < 1e-2 * np.linalg.norm(expected)
    residuals = np.linalg.norm(a.astype(np.complex128) @ expected - b, axis=0)
    np.testing.assert_allclose(residual_norm, residuals, rtol=0, atol=100 * eps * np.linalg.norm(b))
    np.testing.assert_array_equal(b, kept)


def ill_conditioned(n, dtype):
    """(2 n, n), a smooth matrix of tiny rank plus 1e-8 on two diagonals: condition about 1e8 or more."""
    x, y = np.linspace(0, 1, 2 * n), np.linspace(0, 1, n)
    a = np.exp(-((x[:, None] - y) ** 2)) / n + 1e-8 * (np.arange(2 * n)[:, None] // 2 == np.arange(n))
    if np.dtype(dtype).kind == "c":
        a = a * np.exp(1j * (x[:, None] + 2 * y))
    return a.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_an_ill_conditioned_system_loses_no_more_digits_than_with_lapack(dtype, rng):
    n = 200
    A = hss(ill_conditioned(n, dtype), trees(2 * n, n, 16))
    a = A.to_dense()  # the matrix that is solved with, so that compression plays no part
    assert np.linalg.cond(a) > 1e7
    truth = rng.standard_normal(n).astype(dtype)
    b = a @ truth

    def error(x):
        return np.linalg.norm(x - truth) / np.linalg.norm(truth)

    q, r = np.linalg.qr(a)
    mine, lapack = error(A.lstsq(b).x), error(np.linalg.solve(r, q.conj().T @ b))
    normal_equations = error(np.linalg.solve(a.conj().T @ a, a.conj().T @ b))
    assert mine < 10 * lapack
    assert mine < 1e-6
    assert normal_equations > 1e3 * mine


def test_a_consistent_system_has_no_residual(rng):
    pair = trees(150, 70, 8)
    a = structured(150, 70, np.float64, pair)
    solution = hss(a, pair).lstsq(a @ np.ones(70))
    np.testing.assert_allclose(solution.x, 1, atol=1e-11)
    assert solution.residual_norm < 1e-12 * np.linalg.norm(a)
    assert np.shape(solution.residual_norm) == ()


def test_the_factorisation_is_reusable_and_takes_complex_right_hand_sides(rng):
    pair = trees(150, 70, 8)
    a = structured(150, 70, np.float64, pair)
    F = HSSLeastSquares(hss(a, pair))
    for b in (rng.standard_normal(150), rng.standard_normal((150, 2)) + 1j * rng.standard_normal((150, 2))):
        expected = np.linalg.lstsq(a, b, rcond=None)[0]
        np.testing.assert_allclose(F.solve(b), expected, atol=1e-10)
        np.testing.assert_allclose(F.residual_norms(b), np.linalg.norm(a @ expected - b, axis=0), rtol=1e-12)
    assert F.solve(np.ones((150, 0))).shape == (70, 0)
    assert F.nbytes > 0
    assert "150, 70" in repr(F)


def test_the_adjoint_of_a_wide_matrix_is_tall(rng):
    pair = trees(150, 70, 8)
    a = structured(150, 70, np.complex128, pair)
    wide = sm.HSSMatrix.from_dense(a.T, pair[::-1], rtol=1e-15)
    b = rng.standard_normal(150)
    expected = np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose(wide.T.lstsq(b).x, expected, atol=1e-10)


def test_a_hermitian_matrix_is_a_least_squares_problem_too(rng):
    x = np.linspace(0, 1, 120)
    A = sm.HSSMatrix.from_kernel(lambda s, t: np.exp(-abs(s[:, None] - t)), x, symmetric=True, leaf_size=16)
    b = rng.standard_normal(120)
    np.testing.assert_allclose(A.lstsq(b).x, np.linalg.solve(A.to_dense(), b), atol=1e-8)


def test_a_sum_whose_bases_are_wider_than_its_leaves(rng):
    u, v = rng.standard_normal((60, 12)), rng.standard_normal((30, 12))
    pair = trees(60, 30, 4)
    a = structured(60, 30, np.float64, pair)
    A = sm.HSSMatrix.from_low_rank(u, v, pair).add(hss(a, pair))
    b = rng.standard_normal(60)
    expected = np.linalg.lstsq(a + u @ v.T, b, rcond=None)[0]
    np.testing.assert_allclose(A.lstsq(b).x, expected, atol=1e-10)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_scale_of_a_matrix_does_not_make_it_singular(factor, rng):
    pair = trees(97, 53, 8)
    a = structured(97, 53, np.float64, pair)
    b = rng.standard_normal(97)
    expected = np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose((hss(a, pair) * factor).lstsq(b).x * factor, expected, atol=1e-10)


@pytest.mark.parametrize("column", [0, 17, 52])
def test_dependent_columns_are_named(column):
    pair = trees(97, 53, 8)
    a = structured(97, 53, np.float64, pair)
    a[:, column] = 0
    with pytest.raises(sm.SingularBlockError, match="columns are linearly dependent, in node") as caught:
        hss(a, pair).lstsq(np.ones(97))
    assert 0 <= caught.value.level <= pair[0].depth
    assert 0 <= caught.value.node < 2**caught.value.level


def test_a_dependence_that_only_the_root_sees_is_named():
    pair = trees(97, 53, 8)
    a = structured(97, 53, np.float64, pair)
    a[:, 50] = a[:, 2]
    with pytest.raises(sm.SingularBlockError, match="in node 0 on level 0"):
        hss(a, pair).lstsq(np.ones(97))


def test_bad_input_is_named():
    pair = trees(97, 53, 8)
    A = hss(structured(97, 53, np.float64, pair), pair)
    with pytest.raises(sm.ShapeError, match=r"at least as many rows as columns, but A.shape = \(53, 97\)"):
        A.H.lstsq(np.ones(53))
    with pytest.raises(sm.ShapeError, match="b has 96 rows, but A has 97 rows"):
        A.lstsq(np.ones(96))
    with pytest.raises(sm.NonFiniteError, match="b must be finite"):
        A.lstsq(np.full(97, np.nan))
