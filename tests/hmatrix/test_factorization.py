"""H-LU and H-Cholesky against dense factorisations, and what they say when they fail."""

import warnings
from itertools import pairwise

import numpy as np
import pytest

import structmat as sm
import structmat.flat.storage
from structmat.hmatrix.factorization import HFactorization
from tests.problems import relative_error

DTYPES = {"f4": np.float32, "f8": np.float64, "c8": np.complex64, "c16": np.complex128}
RTOL = {"f4": 1e-5, "f8": 1e-10, "c8": 1e-5, "c16": 1e-10}


def dense_matrix(points, dtype, symmetric):
    """A well conditioned matrix of a kernel, Hermitian or not."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    a = np.exp(-5.0 * distance) + np.diag(np.linspace(1.0, 2.0, len(points)))
    if np.issubdtype(dtype, np.complexfloating):
        a = a * np.exp(1j * (points[:, :1] - points[:, 0]))
    if not symmetric:
        a = a * (1.0 + 0.5 * points[:, :1])
    return a.astype(dtype)


def case(n, kind, symmetric, *, weak=False, leaf_size=8, seed=0):
    points = np.random.default_rng(seed).random((n, 2))
    a = dense_matrix(points, DTYPES[kind], symmetric)
    tree = sm.ClusterTree.from_points(points, leaf_size=leaf_size)
    admissibility = sm.WeakAdmissibility() if weak else sm.StrongAdmissibility(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.StructureWarning)
        return sm.HMatrix.from_dense(a, tree, rtol=RTOL[kind], symmetric=symmetric, admissibility=admissibility), a


def check(factored, a, rtol, rng):
    n = len(a)
    condition = np.linalg.cond(a.astype(np.complex128))
    for shape in ((n,), (n, 5)):
        b = rng.standard_normal(shape).astype(a.dtype)
        for solve, twin in ((factored.solve, a), (factored.solve_adjoint, a.conj().T)):
            x = solve(b)
            assert x.dtype == b.dtype
            assert x.shape == b.shape
            assert relative_error(twin @ x, b) <= 10 * rtol * condition
    sign, logarithm = factored.slogdet()
    expected_sign, expected = np.linalg.slogdet(a.astype(np.result_type(a.dtype, np.float64)))
    assert abs(sign - expected_sign) <= n * rtol
    assert logarithm == pytest.approx(expected, rel=10 * rtol, abs=10 * rtol * n)
    assert factored.certificate.estimate <= 2.0 * rtol


@pytest.mark.parametrize("n", [1, 3, 100, 513])
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("weak", [False, True])
def test_solves_and_determinants_agree_with_dense_ones(n, kind, weak, rng):
    for symmetric in (False, True):
        matrix, a = case(n, kind, symmetric, weak=weak, leaf_size=8 if n <= 100 else 16)
        for block_size in (16, 100):
            check(matrix.factorize(block_size=block_size), a, RTOL[kind], rng)
            if symmetric:
                cholesky = matrix.factorize(positive_definite=True, block_size=block_size)
                assert cholesky.slogdet()[0] == 1
                check(cholesky, a, RTOL[kind], rng)


@pytest.mark.parametrize("kind", ["f8", "c16"])
def test_the_tolerance_is_met_and_a_loose_one_is_smaller(kind):
    matrix, a = case(600, kind, True, leaf_size=16)
    dense, size = matrix.to_dense(), np.linalg.norm(a)
    for positive_definite in (False, True):
        previous = np.inf
        for rtol in (1e-8, 1e-5, 1e-2):
            factored = matrix.factorize(positive_definite=positive_definite, rtol=rtol, block_size=16)
            error = np.linalg.norm(factored.product(np.eye(600, dtype=a.dtype)) - dense) / size
            assert error <= rtol
            assert factored.certificate.asked == rtol
            assert 0.3 * error <= factored.certificate.estimate <= 3.0 * error
            assert factored.nbytes < previous
            previous = factored.nbytes


def test_hermitian_factors_need_half_the_memory_of_general_ones():
    matrix, _ = case(600, "f8", True, leaf_size=16)
    cholesky, lu = matrix.factorize(positive_definite=True), matrix.factorize()
    assert isinstance(lu, HFactorization)
    assert cholesky.nbytes < 0.6 * lu.nbytes
    assert cholesky.max_rank <= matrix.max_rank + 5
    assert repr(cholesky).startswith("HCholesky(shape=(600, 600), dtype=float64, rtol=1.0e-10")
    assert repr(lu).startswith("HLU(shape=(600, 600)")


def test_the_matrix_is_left_as_it_was(rng):
    matrix, _ = case(300, "f8", True)
    x = rng.standard_normal(300)
    before = matrix.to_dense()
    matrix.factorize(block_size=8)
    matrix.factorize(positive_definite=True)
    assert np.array_equal(matrix.to_dense(), before)
    matrix @ x  # packs the blocks: read-only from here on
    matrix.factorize(positive_definite=True, block_size=300)
    assert np.array_equal(matrix.to_dense(), before)


# ----------------------------------------------------------------------- pivoting, fill-in, odd partitions


@pytest.mark.parametrize("kind", DTYPES)
def test_rows_are_exchanged_within_dense_blocks(kind, rng):
    n, dtype = 200, DTYPES[kind]
    tree = sm.ClusterTree.balanced(n, leaf_size=13)
    a = 0.01 * dense_matrix(rng.random((n, 1)), dtype, False)
    starts = np.append(tree.starts(tree.depth), n)
    for first, last in pairwise(starts):  # the large entries are off the diagonal
        a[first + rng.permutation(last - first), np.arange(first, last)] += 3.0 * rng.choice([-1.0, 1.0], last - first)
    matrix = sm.HMatrix.from_dense(a, tree, rtol=RTOL[kind])
    for block_size in (13, 60):
        factored = matrix.factorize(block_size=block_size)
        assert any(order is not None for order in factored._sides[0].orders)
        check(factored, a, RTOL[kind], rng)


@pytest.mark.parametrize("kind", DTYPES)
def test_the_compiled_substitution_agrees_with_the_plain_one(kind, rng):
    for symmetric in (False, True):
        matrix, a = case(413, kind, symmetric)
        factored = matrix.factorize(positive_definite=symmetric, block_size=8)
        b = rng.standard_normal((413, 2)).astype(a.dtype)
        for solve in (factored.solve, factored.solve_adjoint):
            together, alone = solve(b), np.stack([solve(c) for c in b.T], axis=1)
            assert relative_error(alone, together) <= 1e3 * np.finfo(a.dtype).eps


def laplacian(m):
    line = 2.0 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)
    grid = np.stack(np.meshgrid(np.arange(m), np.arange(m), indexing="ij"), axis=-1).reshape(-1, 2) / m
    return np.kron(line, np.eye(m)) + np.kron(np.eye(m), line), grid


@pytest.mark.parametrize("positive_definite", [False, True])
def test_fill_in_of_zero_blocks_is_found(positive_definite, rng):
    a, grid = laplacian(48)
    tree = sm.ClusterTree.from_points(grid, leaf_size=20)
    matrix = sm.HMatrix.from_dense(a, tree, rtol=1e-9, symmetric=True)
    factored = matrix.factorize(positive_definite=positive_definite, rtol=1e-9)
    assert matrix.max_rank == 0
    assert factored.max_rank > 3
    assert factored.certificate.met
    b = rng.standard_normal((len(a), 3))
    assert relative_error(factored.solve(b), np.linalg.solve(a, b)) < 1e-6


def test_the_two_triangles_may_be_divided_differently(rng):
    points = rng.random((160, 2))
    a = dense_matrix(points, np.float64, False)
    tree = sm.ClusterTree.from_points(points, leaf_size=5)
    for seed in range(8):
        chosen = np.random.default_rng(seed)

        def condition(rows, cols, level, i, j, chosen=chosen):
            return (i != j) & (level > 0) & (chosen.random(len(i)) < 0.4)

        matrix = sm.HMatrix.from_dense(a, tree, rtol=1e-11, admissibility=condition)
        assert not matrix.partition.is_symmetric
        factored = matrix.factorize(block_size=5)
        check(factored, a, 1e-10, rng)
        assert relative_error(factored.inverse().to_dense(), np.linalg.inv(a)) < 1e-8


def test_low_rank_blocks_on_the_diagonal_and_everywhere(rng):
    matrix, a = case(96, "f8", False)
    everything = sm.HMatrix.from_dense(
        a, matrix.row_tree, rtol=1e-12, admissibility=lambda rows, cols, level, i, j: np.full(len(i), level == 1)
    )
    assert everything.partition.near_count == 0
    check(everything.factorize(block_size=8), a, 1e-11, rng)
    half = case(96, "f8", True)[1]
    hermitian = sm.HMatrix.from_dense(half, matrix.row_tree, rtol=1e-12, partition=everything.partition, symmetric=True)
    check(hermitian.factorize(positive_definite=True, block_size=8), half, 1e-11, rng)


def test_dense_blocks_above_the_leaves(rng):
    matrix, a = case(96, "c16", False)
    tree = matrix.row_tree
    order = tree.perm
    p = tree.leaf_size << (tree.depth - 1)
    sorted_entries = a[np.ix_(order, order)]
    starts = tree.starts(1)
    assert not tree.is_padded
    data = np.stack([sorted_entries[s : s + p, t : t + p] for s in starts for t in starts])
    rows, cols = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    none = np.zeros(0, dtype=np.int64)
    near = [
        sm.blocks.BlockBatch(np.zeros((0, p << 1 >> k, p << 1 >> k), a.dtype), none, none)
        for k in range(tree.depth + 1)
    ]
    near[1] = sm.blocks.BlockBatch(data, rows, cols)
    blocks = sm.flat.storage.FlatBlocks(tuple(near), ((),) * (tree.depth + 1))
    coarse = sm.HMatrix(blocks, tree, tree, matrix.certificate)
    assert np.array_equal(coarse.to_dense(), a) or relative_error(coarse.to_dense(), a) < 1e-14
    check(coarse.factorize(block_size=8), a, 1e-11, rng)


def test_two_trees_and_views(rng):
    rows = sm.ClusterTree.from_points(rng.random((90, 2)), leaf_size=9)
    cols = sm.ClusterTree.from_points(rng.random((90, 2)), leaf_size=9)
    a = rng.standard_normal((90, 3)) @ rng.standard_normal((3, 90)) / 9
    a[rows.perm, cols.perm] += 5.0  # large where the reordered matrix has its diagonal
    a = a.astype(np.complex128) * np.exp(0.3j)
    matrix = sm.HMatrix.from_dense(a, (rows, cols), rtol=1e-11, admissibility=sm.WeakAdmissibility())
    for view, twin in ((matrix, a), (matrix.T, a.T), (matrix.H, a.conj().T), (matrix.conj(), a.conj())):
        check(view.factorize(block_size=9), twin, 1e-11, rng)


# --------------------------------------------------------------------------------------- failures


def diagonal_case(values):
    tree = sm.ClusterTree.balanced(len(values), leaf_size=16)
    u = 1e-3 * np.random.default_rng(0).standard_normal((len(values), 1))
    return sm.HMatrix.from_low_rank(u, u, tree, symmetric=True).add_diagonal(values)


def test_cholesky_names_the_block_that_is_not_definite():
    d = np.ones(128)
    d[43] = -1.0
    matrix = diagonal_case(d)
    with pytest.raises(sm.NotPositiveDefiniteError, match=r"node 2 of level 3; .*smaller rtol, add_diagonal") as caught:
        matrix.factorize(positive_definite=True, block_size=16)
    assert (caught.value.level, caught.value.node) == (3, 2)
    factored = matrix.factorize(block_size=16)
    assert factored.slogdet()[0] == -1
    with pytest.raises(sm.SymmetryError, match="build it with symmetric=True"):
        case(50, "f8", False)[0].factorize(positive_definite=True)


def test_truncation_that_costs_definiteness_is_said():
    matrix, _ = laplacian_kernel()
    with pytest.raises(sm.NotPositiveDefiniteError, match=r"tolerance 3.0e-02 of the factorisation"):
        matrix.factorize(positive_definite=True, rtol=3e-2)
    assert matrix.factorize(positive_definite=True, rtol=1e-9).slogdet()[0] == 1


def laplacian_kernel(n=700):
    """A covariance matrix with small eigenvalues."""
    points = np.random.default_rng(3).random((n, 2))
    kernel = sm.kernelfunctions.Matern(1.5, length=0.5)
    tree = sm.ClusterTree.from_points(points, leaf_size=24)
    dense = kernel(points, points) + 1e-4 * np.eye(n)
    return sm.HMatrix.from_dense(dense, tree, rtol=1e-10, symmetric=True), dense


def test_lu_names_the_block_that_is_singular():
    d = np.ones(128)
    matrix = diagonal_case(d)
    dense = matrix.to_dense()
    dense[80:96] = 0.0
    dense[:, 80:96] = 0.0
    singular = sm.HMatrix.from_dense(dense, matrix.row_tree)
    with pytest.raises(sm.SingularBlockError, match=r"node 5 on level 3 is singular .*add_diagonal\(shift\)") as caught:
        singular.factorize(block_size=16)
    assert (caught.value.level, caught.value.node) == (3, 5)
    with pytest.raises(sm.SingularBlockError):
        sm.HMatrix.zeros(sm.ClusterTree.balanced(30, leaf_size=8)).factorize()


def test_bad_arguments_are_named():
    trees = sm.ClusterTree.balanced(40, depth=2), sm.ClusterTree.balanced(30, depth=2)
    with pytest.raises(sm.ShapeError, match="square matrix"):
        sm.HMatrix.zeros(trees).factorize()
    matrix, _ = case(30, "f8", True)
    with pytest.raises(ValueError, match="block_size"):
        matrix.factorize(block_size=0)
    with pytest.raises(ValueError, match="rtol"):
        matrix.factorize(rtol=-1.0)
    with pytest.raises(ValueError, match='refine must be True, False or "krylov"'):
        matrix.solve(np.ones(30), refine="always")
    with pytest.raises(sm.NonFiniteError, match="b must be finite"):
        matrix.factorize().solve(np.full(30, np.nan))


# -------------------------------------------------------------------- precision, iteration, preconditioning


def test_single_precision_factors_take_double_right_hand_sides(rng):
    matrix, a = case(300, "f4", True)
    for factored in (matrix.factorize(), matrix.factorize(positive_definite=True)):
        for b in (rng.standard_normal(300), 1e100 * rng.standard_normal((300, 2)), rng.standard_normal(300) + 1j):
            x = factored.solve(b)
            assert x.dtype == b.dtype
            assert relative_error(a @ x, b) < 1e-3
            assert factored.residual(b, x) < 1e-3


@pytest.mark.parametrize("positive_definite", [False, True])
@pytest.mark.parametrize("columns", [None, 3])
def test_a_loose_factorisation_and_iteration_reach_the_tolerance(positive_definite, columns, rng):
    matrix, dense = laplacian_kernel()
    factored = matrix.factorize(positive_definite=positive_definite, rtol=1e-6)
    b = rng.standard_normal(700 if columns is None else (700, columns))
    assert factored.residual(b, factored.solve(b)) > 1e-8
    x = matrix.solve(b, rtol=1e-8, refine="krylov", factorization=factored)
    assert x.shape == b.shape
    assert factored.residual(b, x) <= 1e-8
    exact = matrix.solve(b, dense, rtol=1e-8, refine="krylov", factorization=factored)
    assert relative_error(dense @ exact, b) <= 1e-8
    at_once = matrix.solve(b, rtol=1e-9, refine="krylov", positive_definite=positive_definite)
    assert factored.residual(b, at_once) <= 1e-9
    assert not matrix.solve(np.zeros_like(b), refine="krylov", factorization=factored).any()


def test_complex_systems_are_iterated_too(rng):
    for symmetric in (False, True):
        matrix, a = case(300, "c16", symmetric)
        factored = matrix.factorize(positive_definite=symmetric, rtol=1e-2)
        b = rng.standard_normal((300, 2))
        x = matrix.solve(b, rtol=1e-9, refine="krylov", factorization=factored)
        assert relative_error(matrix @ x, b.astype(a.dtype)) <= 1e-9


@pytest.mark.parametrize("positive_definite", [False, True])
def test_an_iteration_that_falls_short_says_so(positive_definite, rng):
    matrix, _ = laplacian_kernel()
    factored = matrix.factorize(positive_definite=positive_definite, rtol=1e-5)
    name = "conjugate gradients" if positive_definite else "GMRES"
    with pytest.warns(sm.IllConditionedWarning, match=f"{name} stopped at a relative residual of .* after 1 steps"):
        x = matrix.solve(rng.standard_normal(700), rtol=1e-14, refine="krylov", factorization=factored, max_steps=1)
    assert np.isfinite(x).all()


def test_preconditioners_serve_scipy_and_pyamg(rng):
    import scipy.sparse.linalg as spla

    pyamg_krylov = pytest.importorskip("pyamg.krylov", reason="PyAMG is not installed")
    matrix, _ = laplacian_kernel()
    operator, b = matrix.aslinearoperator(), rng.standard_normal(700)
    definite = matrix.as_preconditioner(rtol=1e-5, positive_definite=True)
    general = matrix.as_preconditioner(rtol=1e-5)
    for method, preconditioner in ((spla.cg, definite), (spla.gmres, general), (spla.bicgstab, general)):
        x, info = method(operator, b, M=preconditioner, rtol=1e-8, maxiter=30)
        assert info == 0
        assert relative_error(matrix @ x, b) < 1e-6
    for method, preconditioner in ((pyamg_krylov.cg, definite), (pyamg_krylov.fgmres, general)):
        x, info = method(operator, b, M=preconditioner, tol=1e-8, maxiter=30)
        assert info == 0
        assert relative_error(matrix @ x, b) < 1e-6


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_inverses_have_the_partition_of_the_matrix(kind, symmetric):
    matrix, a = case(200, kind, symmetric)
    factored = [matrix.factorize(block_size=size, positive_definite=d) for size in (8, 256) for d in {False, symmetric}]
    for inverse in (f.inverse() for f in factored):
        assert isinstance(inverse, sm.HMatrix)
        assert inverse.symmetric == symmetric
        assert inverse.partition.far_count == matrix.partition.far_count
        residual = np.linalg.norm(a @ inverse.to_dense() - np.eye(200)) / np.sqrt(200)
        assert inverse.certificate.met
        assert 0.2 * residual <= inverse.certificate.estimate + RTOL[kind]
        assert relative_error(inverse.to_dense(), np.linalg.inv(a)) < 10 * RTOL[kind]


@pytest.mark.parametrize("kind", DTYPES)
def test_the_factor_makes_samples_of_the_covariance(kind, rng):
    matrix, a = case(130, kind, True)
    factored = matrix.factorize(positive_definite=True, block_size=8)
    w = factored.apply_factor(np.eye(130, dtype=a.dtype))
    assert relative_error(w @ w.conj().T, a) < 10 * RTOL[kind]
    for z in (rng.standard_normal(130), rng.standard_normal((130, 2)) + 1j):
        assert factored.apply_factor(z).shape == z.shape
        assert relative_error(factored.apply_factor(z), w @ z) < 1e4 * np.finfo(a.dtype).eps
        assert relative_error(factored.solve_factor(factored.apply_factor(z)), z) < 1e4 * np.finfo(a.dtype).eps


def test_preconditioners_of_hodlr_matrices(rng):
    import scipy.sparse.linalg as spla

    x, b = np.linspace(0, 1, 400), rng.standard_normal(400)
    kernel = sm.kernelfunctions.Exponential(length=0.3)
    matrix = sm.HODLRMatrix.from_kernel(kernel, x, rtol=1e-10, symmetric=True).add_diagonal(1e-2)
    preconditioner = matrix.as_preconditioner(rtol=1e-5, positive_definite=True)
    y, info = spla.cg(matrix.aslinearoperator(), b, M=preconditioner, rtol=1e-10, maxiter=20)
    assert info == 0
    assert relative_error(matrix @ y, b) < 1e-9
    factored = matrix.truncate(rtol=1e-5).factorize(positive_definite=True)
    y = matrix.solve(b, rtol=1e-12, refine="krylov", factorization=factored)
    assert relative_error(matrix @ y, b) < 1e-12


def test_inverses_on_two_trees_of_small_matrices_and_of_bad_ones(rng):
    rows, cols = (sm.ClusterTree.from_points(rng.random((90, 2)), leaf_size=9) for _ in range(2))
    a = rng.standard_normal((90, 3)) @ rng.standard_normal((3, 90)) / 9
    a[rows.perm, cols.perm] += 5.0
    matrix = sm.HMatrix.from_dense(a, (rows, cols), rtol=1e-11, admissibility=sm.WeakAdmissibility())
    for inverse in (matrix.inverse(), matrix.factorize(block_size=9).inverse()):
        assert inverse.row_tree == cols
        assert relative_error(inverse.to_dense(), np.linalg.inv(a)) < 1e-9
    for n in (1, 3):
        matrix, a = case(n, "c16", False)
        assert relative_error(matrix.inverse().to_dense(), np.linalg.inv(a)) < 1e-9
    covariance, dense = laplacian_kernel(300)  # condition 1e6: the first attempt does not meet the tolerance
    inverse = covariance.factorize(positive_definite=True, block_size=24).inverse(rtol=1e-5)
    assert inverse.certificate.met
    assert np.linalg.norm(dense @ inverse.to_dense() - np.eye(300)) <= 2e-5 * np.sqrt(300)
