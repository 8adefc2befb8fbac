"""Sparse, Toeplitz and Cauchy-like matrices, against dense arrays."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sparse

import structmat as sm
from structmat.hss.toeplitz import ToeplitzOperator

SIZES = [1, 2, 3, 7, 61, 64, 130]
DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
# small leaves and random patterns: that the result is no smaller than a dense array has a test of its own
unstructured = pytest.mark.filterwarnings("ignore::structmat.StructureWarning")


def tolerance(a):
    return 20 * np.finfo(np.dtype(a.dtype)).eps * np.linalg.norm(a)


def random_sparse(m, n, dtype, rng, density=0.05):
    mask = rng.random((m, n)) < density
    values = rng.standard_normal((m, n)).astype(dtype)
    if values.dtype.kind == "c":
        values = values + 1j * rng.standard_normal((m, n)).astype(values.real.dtype)
    return sparse.csr_array((values * mask).astype(dtype))


def permuted_pair(m, n, leaf, rng):
    depth = sm.ClusterTree.balanced(min(m, n), leaf).depth
    return sm.ClusterTree(m, depth, rng.permutation(m)), sm.ClusterTree(n, depth, rng.permutation(n))


# -------------------------------------------------------------------------------------- sparse


@unstructured
@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_any_sparse_matrix_is_represented_to_rounding(m, n, rng):
    s = random_sparse(m, n, np.float64, rng)
    for tree in (None, permuted_pair(m, n, 4, rng)):
        A = sm.HSSMatrix.from_sparse(s, tree, leaf_size=4)
        np.testing.assert_allclose(A.to_dense(), s.toarray(), rtol=0, atol=tolerance(s.toarray()))
        assert A.certificate.met


@unstructured
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_all_types_and_hermitian_storage(dtype, symmetric, rng):
    n = 101
    s = random_sparse(n, n, dtype, rng)
    s = (s + s.conj().T).astype(dtype)
    tree = permuted_pair(n, n, 8, rng)[0]
    A = sm.HSSMatrix.from_sparse(s, tree, symmetric=symmetric)
    assert A.symmetric is symmetric
    assert A.dtype == dtype
    np.testing.assert_allclose(A.to_dense(), s.toarray(), rtol=0, atol=tolerance(s.toarray()))


@pytest.mark.parametrize("format_", ["coo", "csr", "csc", "lil", "dia", "bsr", "dok"])
def test_all_formats_also_matrices_with_integers_and_duplicates(format_):
    s = sparse.diags_array([1, 2, 3], offsets=[-1, 0, 4], shape=(40, 40), dtype=np.int32).asformat(format_)
    A = sm.HSSMatrix.from_sparse(s, leaf_size=8)
    assert A.dtype == np.float64
    np.testing.assert_allclose(A.to_dense(), s.toarray(), atol=1e-13)
    twice = sparse.coo_matrix(([1.0, 2.0, 5.0], ([0, 0, 30], [35, 35, 2])), shape=(40, 40))
    np.testing.assert_allclose(sm.HSSMatrix.from_sparse(twice, leaf_size=8)[0, 35], 3.0)
    assert twice.nnz == 3


@pytest.mark.parametrize(("lower", "upper"), [(0, 1), (1, 1), (3, 0), (2, 5)])
def test_a_band_has_the_rank_of_its_corners(lower, upper, rng):
    n = 1000
    s = sparse.diags_array(
        [rng.standard_normal(n - abs(k)) for k in range(-lower, upper + 1)],
        offsets=list(range(-lower, upper + 1)),
    )
    A = sm.HSSMatrix.from_sparse(s, leaf_size=32)
    assert A.max_rank == lower + upper  # an inner node has the lower corner to its left and the upper to its right
    np.testing.assert_allclose(A.to_dense(), s.toarray(), atol=1e-12)


def test_a_diagonal_or_empty_matrix_has_rank_0():
    for s in (sparse.eye_array(100), sparse.csr_array((100, 100))):
        A = sm.HSSMatrix.from_sparse(s, leaf_size=8, symmetric=True)
        assert A.max_rank == 0
        np.testing.assert_array_equal(A.to_dense(), s.toarray())


@pytest.mark.parametrize("symmetric", [False, True])
def test_long_rows_and_columns_count_once(symmetric, rng):
    n = 3000
    s = sparse.lil_array(sparse.diags_array([np.full(n, 4.0), np.ones(n - 1)], offsets=[0, -1]))
    s[5, :] = rng.standard_normal(n)
    s[:, [2000]] = rng.standard_normal((n, 1))
    s = sparse.csr_array(s)
    if symmetric:
        s = s + s.T
    A = sm.HSSMatrix.from_sparse(s, symmetric=symmetric)
    assert A.symmetric is symmetric
    assert A.max_rank <= (6 if symmetric else 4)
    x = rng.standard_normal((n, 2))
    np.testing.assert_allclose(A @ x, s @ x, atol=1e-10)
    np.testing.assert_allclose(A.H @ x, s.T @ x, atol=1e-10)
    assert A.nbytes < 4e6  # a dense array has 72e6


@pytest.mark.parametrize("slope", ["i / m = j / n", "i = j"])
def test_a_rectangular_band_is_found_along_either_diagonal(slope):
    if slope == "i = j":
        s = sparse.diags_array([1.0, 2.0], offsets=[0, 1], shape=(900, 600))
    else:
        s = sparse.kron(sparse.eye_array(400), np.array([[1.0], [0.5]]))
    for matrix in (s, s.T):
        A = sm.HSSMatrix.from_sparse(matrix)
        assert A.max_rank <= 3
        np.testing.assert_allclose(A.to_dense(), matrix.toarray(), atol=1e-13)


def test_a_large_matrix_is_never_dense(rng):
    n = 50_000
    s = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    A = sm.HSSMatrix.from_sparse(s)
    x = rng.standard_normal(n)
    np.testing.assert_allclose(A @ x, s @ x, atol=1e-12)
    assert A.nbytes < 100 * n * 8


def test_scattered_nonzeros_warn(rng):
    with pytest.warns(sm.StructureWarning, match="no HSS structure to speak of"):
        sm.HSSMatrix.from_sparse(random_sparse(200, 200, np.float64, rng), leaf_size=16)


def test_a_loose_tolerance_is_kept(rng):
    s = sparse.diags_array([np.ones(399), 1e-4 * np.ones(400)], offsets=[-1, 0])
    s = s + 1e-4 * random_sparse(400, 400, np.float64, rng, 0.02)
    A = sm.HSSMatrix.from_sparse(s, rtol=1e-2)
    error = np.linalg.norm(A.to_dense() - s.toarray()) / np.linalg.norm(s.toarray())
    assert 0 < error <= A.certificate.upper_bound * (1 + 1e-6) <= 1e-2
    assert A.max_rank <= 3


def test_hermitian_plus_hermitian_sparse_stays_hermitian(rng):
    n = 200
    A = sm.HSSMatrix.from_low_rank(u := rng.standard_normal((n, 2)), u, symmetric=True)
    s = sparse.diags_array([1.0, 3.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))
    total = A + s
    assert total.symmetric
    np.testing.assert_allclose(total.to_dense(), u @ u.T + s.toarray(), atol=1e-11)
    general = A + sparse.triu(s)
    assert not general.symmetric
    np.testing.assert_allclose(general.to_dense(), u @ u.T + np.triu(s.toarray()), atol=1e-11)
    np.testing.assert_allclose((A - s).to_dense(), u @ u.T - s.toarray(), atol=1e-11)


def test_bad_sparse_input_is_named():
    s = sparse.eye_array(50).tocsr()
    with pytest.raises(
        TypeError, match=r"s must be a scipy.sparse array or matrix, but it is a ndarray; use from_dense"
    ):
        sm.HSSMatrix.from_sparse(np.eye(3))
    with pytest.raises(sm.ShapeError, match="at least one row and one column"):
        sm.HSSMatrix.from_sparse(sparse.csr_array((0, 3)))
    with pytest.raises(sm.ShapeError, match="s must be 2-D"):
        sm.HSSMatrix.from_sparse(sparse.coo_array(np.ones(3)))
    with pytest.raises(sm.NonFiniteError, match="the data of s must be finite"):
        sm.HSSMatrix.from_sparse(s * np.inf)
    with pytest.raises(sm.SymmetryError, match=r"\|\|S - S\^H\|\| / \|\|S\|\|"):
        sm.HSSMatrix.from_sparse(sparse.triu(np.ones((9, 9))), symmetric=True)
    with pytest.raises(sm.SymmetryError, match="needs a square matrix"):
        sm.HSSMatrix.from_sparse(sparse.csr_array((4, 3)), symmetric=True)
    with pytest.raises(sm.TreeMismatchError, match="the trees are over 49 rows"):
        sm.HSSMatrix.from_sparse(s, sm.ClusterTree.balanced(49))


# ------------------------------------------------------------------------------------ Toeplitz


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (2, 3), (7, 7), (31, 64), (100, 37)])
def test_products_of_the_operator(dtype, shape, rng):
    c, r = (rng.standard_normal(k).astype(dtype) for k in shape)
    if np.dtype(dtype).kind == "c":
        c, r = c + 1j * c[::-1], r - 2j * r[::-1]
    op, a = ToeplitzOperator(c, r), scipy.linalg.toeplitz(c, r)
    for x, y, product in ((shape[1], a, op.matmat), (shape[0], a.conj().T, op.rmatmat)):
        v = rng.standard_normal((x, 3)).astype(dtype)
        assert product(v).dtype == dtype
        np.testing.assert_allclose(product(v), y @ v, atol=50 * np.finfo(dtype).eps * np.linalg.norm(a))
    w = rng.standard_normal((shape[1], 2)) + 1j * rng.standard_normal((shape[1], 2))
    np.testing.assert_allclose(op.matmat(w), a @ w, atol=100 * np.finfo(dtype).eps * np.linalg.norm(a))


@unstructured
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 3), (61, 61), (400, 400), (500, 211), (211, 500)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_toeplitz_meets_its_tolerance(shape, dtype):
    c, r = 1 / (1 + np.arange(shape[0])), 1 / (1 + np.arange(shape[1])) ** 2
    if dtype is np.complex128:
        c, r = c * np.exp(0.01j * np.arange(shape[0])), r + 0.1j * r
    a = scipy.linalg.toeplitz(c, r)
    A = sm.HSSMatrix.from_toeplitz(c, r, rtol=1e-8, leaf_size=16)
    error = np.linalg.norm(A.to_dense() - a) / np.linalg.norm(a)
    assert error <= 1e-8
    assert A.certificate.met
    assert A.dtype == dtype
    if min(shape) > 200:  # also a rectangular one has low rank, because its trees follow the diagonal
        assert A.max_rank < 30


def test_toeplitz_in_single_precision():
    c = (1 / (1 + np.arange(300))).astype(np.float32)
    A = sm.HSSMatrix.from_toeplitz(c, rtol=1e-4)
    assert A.dtype == np.float32
    a = scipy.linalg.toeplitz(c)
    assert np.linalg.norm(A.to_dense() - a) <= 1e-4 * np.linalg.norm(a)


def test_the_row_defaults_to_the_conjugate_of_the_column():
    c = np.exp(-0.05 * np.arange(300)) * np.exp(0.3j * np.arange(300))
    A = sm.HSSMatrix.from_toeplitz(c, symmetric=True, rtol=1e-10)
    a = scipy.linalg.toeplitz(c)
    assert A.symmetric
    assert np.linalg.norm(A.to_dense() - a) <= 1e-10 * np.linalg.norm(a)
    assert A.certificate.products < sm.HSSMatrix.from_toeplitz(c, rtol=1e-10).certificate.products


def test_toeplitz_takes_permuted_trees(rng):
    c = np.exp(-0.05 * np.arange(100))
    tree = sm.ClusterTree.from_points(np.arange(100)[::-1].astype(float), leaf_size=16)
    np.testing.assert_allclose(sm.HSSMatrix.from_toeplitz(c, tree=tree).to_dense(), scipy.linalg.toeplitz(c), atol=1e-6)


def test_bad_toeplitz_input_is_named(rng):
    c = np.arange(1.0, 5.0)
    with pytest.raises(sm.ShapeError, match="c must be 1-D"):
        sm.HSSMatrix.from_toeplitz(np.eye(3))
    with pytest.raises(sm.ShapeError, match="r is empty"):
        sm.HSSMatrix.from_toeplitz(c, [])
    with pytest.raises(sm.NonFiniteError, match="c must be finite"):
        sm.HSSMatrix.from_toeplitz([1.0, np.nan])
    with pytest.raises(sm.SymmetryError, match=r"r differs from conj\(c\) by 1.00e\+00"):
        sm.HSSMatrix.from_toeplitz(c, c + 1, symmetric=True)
    with pytest.raises(sm.SymmetryError, match=r"c\[0\] must be real"):
        sm.HSSMatrix.from_toeplitz(1j * c, symmetric=True)
    with pytest.raises(sm.SymmetryError, match="c has length 4 and r 3"):
        sm.HSSMatrix.from_toeplitz(c, c[:3], symmetric=True)
    with pytest.warns(sm.StructureWarning, match="no HSS structure to speak of"):
        sm.HSSMatrix.from_toeplitz(rng.standard_normal(200), rng.standard_normal(200), leaf_size=32)


# --------------------------------------------------------------------------------- Cauchy-like


def cauchy_like(x, y, g, h):
    return (g @ h.conj().T) / (x[:, None] - y)


@unstructured
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (61, 64), (500, 499), (700, 300), (300, 700)])
@pytest.mark.parametrize("kind", ["line", "circle"])
def test_cauchy_like_meets_its_tolerance(shape, kind, rng):
    t = [(np.arange(k) + offset) / k for k, offset in zip(shape, (0.21, 0.79), strict=True)]
    x, y = t if kind == "line" else (np.exp(2j * np.pi * s) for s in t)
    x, y = rng.permutation(x), rng.permutation(y)
    g, h = (rng.standard_normal((k, 2)) + 1j * rng.standard_normal((k, 2)) for k in shape)
    if kind == "line":
        g, h = g.real, h.real
    A = sm.HSSMatrix.from_cauchy_like(x, y, g, h, rtol=1e-8, leaf_size=32)
    a = cauchy_like(x, y, g, h)
    assert np.linalg.norm(A.to_dense() - a) <= 1e-8 * np.linalg.norm(a)
    assert A.certificate.met
    assert A.dtype == a.dtype
    assert A.max_rank <= 80  # 2 generators, and the logarithm of n


def test_two_sets_on_one_circle_are_split_alike():
    n = 2048  # two trees of their own would split the one across and the other along
    x = np.exp(2j * np.pi * np.arange(n) / n)
    A = sm.HSSMatrix.from_cauchy_like(x, x * np.exp(1j * np.pi / n), rtol=1e-10)
    assert A.certificate.met
    assert A.max_rank < 40


def test_generators_default_to_ones_and_may_be_vectors():
    x, y = np.linspace(0, 1, 100), np.linspace(0.003, 1.003, 100)
    plain = sm.HSSMatrix.from_cauchy_like(x, y, leaf_size=16).to_dense()
    np.testing.assert_allclose(plain, 1 / (x[:, None] - y), rtol=0, atol=1e-8 * np.linalg.norm(plain))
    scaled = sm.HSSMatrix.from_cauchy_like(x, y, x, y, leaf_size=16).to_dense()
    np.testing.assert_allclose(scaled, x[:, None] * y / (x[:, None] - y), rtol=0, atol=1e-8 * np.linalg.norm(plain))


def test_cauchy_like_in_single_precision_on_given_trees():
    x, y = np.linspace(0, 1, 128, dtype=np.float32), np.linspace(2, 3, 128, dtype=np.float32)
    tree = sm.ClusterTree.balanced(128, 16)
    A = sm.HSSMatrix.from_cauchy_like(x, y, tree=tree, rtol=1e-4)
    assert A.row_tree == tree
    assert A.dtype == np.float32
    a = 1 / (x[:, None] - y)
    assert np.linalg.norm(A.to_dense() - a) <= 1e-4 * np.linalg.norm(a)


def test_bad_cauchy_input_is_named():
    x = np.linspace(0, 1, 5)
    with pytest.raises(
        sm.NonFiniteError, match=r"x\[2\] = y\[1\] = 0.5, where the entry .* is infinite; x and y share 1 of"
    ):
        sm.HSSMatrix.from_cauchy_like(x, [7.0, 0.5])
    with pytest.raises(sm.ShapeError, match="g has 4 rows, but there are 5 nodes x"):
        sm.HSSMatrix.from_cauchy_like(x, x + 2, np.ones((4, 2)), np.ones((5, 2)))
    with pytest.raises(sm.ShapeError, match="must have the same r, but they have 2 and 3 columns"):
        sm.HSSMatrix.from_cauchy_like(x, x + 2, np.ones((5, 2)), np.ones((5, 3)))
    with pytest.raises(sm.ShapeError, match="y is empty"):
        sm.HSSMatrix.from_cauchy_like(x, [])
    with pytest.raises(sm.NonFiniteError, match="h must be finite"):
        sm.HSSMatrix.from_cauchy_like(x, x + 2, x, np.full(5, np.inf))
