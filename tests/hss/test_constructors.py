"""Every way to build an HSS matrix against the dense array, and certificates against the truth."""

from functools import cache

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import structmat as sm
from tests.problems import KERNELS, Counter, dense_problem, kernel_k, line, one_sided, relative_error

TOLERANCES = [1e-2, 1e-5, 1e-8, 1e-11]
N = 1100  # no power of two: leaves of two sizes


@cache
def problem(name):
    return dense_problem(name, N)


@pytest.mark.parametrize("rtol", TOLERANCES)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("symmetric", [False, True])
class TestAccuracy:
    def check(self, matrix, name, rtol, symmetric):
        error = relative_error(matrix.to_dense(), problem(name))
        assert error <= rtol
        assert matrix.symmetric == symmetric
        certificate = matrix.certificate
        assert certificate.met
        assert certificate.asked == rtol
        # the bound itself holds in 19 of 20 cases: test_certificates counts them
        assert certificate.estimate / 3 <= error + 3e-16 <= 3 * certificate.estimate + 1e-14
        assert matrix.nbytes < problem(name).nbytes / 2

    def test_dense(self, name, rtol, symmetric):
        matrix = sm.HSSMatrix.from_dense(problem(name), rtol=rtol, symmetric=symmetric)
        self.check(matrix, name, rtol, symmetric)
        assert matrix.certificate.confidence == 1.0

    def test_entries(self, name, rtol, symmetric):
        dense = problem(name)
        tree = sm.ClusterTree.balanced(N)
        matrix = sm.HSSMatrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=rtol, symmetric=symmetric)
        self.check(matrix, name, rtol, symmetric)

    def test_kernel(self, name, rtol, symmetric):
        matrix = sm.HSSMatrix.from_kernel(KERNELS[name](N), line(N), rtol=rtol, symmetric=symmetric)
        self.check(matrix, name, rtol, symmetric)

    def test_operator(self, name, rtol, symmetric):
        op = Counter(problem(name))
        matrix = sm.HSSMatrix.from_operator(op, rtol=rtol, symmetric=symmetric)
        self.check(matrix, name, rtol, symmetric)
        assert matrix.certificate.products == op.forward + op.backward
        assert (op.backward == 0) == symmetric


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.complex128])
def test_other_types(dtype):
    dense = one_sided(300)(line(300), line(300)).astype(dtype)
    if np.dtype(dtype).kind == "c":
        dense = dense * np.exp(1j * np.subtract.outer(line(300), 2 * line(300))).astype(dtype)
    rtol = 1e-4 if np.finfo(dtype).eps > 1e-10 else 1e-10
    tree = sm.ClusterTree.balanced(300, 32)
    for matrix in (
        sm.HSSMatrix.from_dense(dense, tree, rtol=rtol),
        sm.HSSMatrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=rtol),
        sm.HSSMatrix.from_operator(dense, tree, rtol=rtol),
    ):
        assert matrix.dtype == dtype
        assert relative_error(matrix.to_dense(), dense) <= rtol


def test_permuted_points_in_the_users_order(rng):
    x = rng.random(700)
    dense = kernel_k(700)(x, x)
    tree = sm.ClusterTree.from_points(x)
    for matrix in (
        sm.HSSMatrix.from_kernel(kernel_k(700), x, rtol=1e-9),
        sm.HSSMatrix.from_dense(dense, tree, rtol=1e-9),
        sm.HSSMatrix.from_operator(dense, tree, rtol=1e-9),
    ):
        assert relative_error(matrix.to_dense(), dense) <= 1e-9
        assert matrix.max_rank < 40


def test_points_in_the_plane(rng):
    x = rng.random((400, 2))

    def kernel(x, y):
        return np.exp(-np.linalg.norm(x[:, None] - y, axis=2))

    matrix = sm.HSSMatrix.from_kernel(kernel, x, rtol=1e-4, leaf_size=50)
    assert relative_error(matrix.to_dense(), kernel(x, x)) <= 1e-4


def test_batched_kernels_are_called_with_batches(rng):
    shapes = []

    def kernel(x, y):
        shapes.append(np.ndim(x))
        return np.exp(-np.abs(x[..., :, None, :] - y[..., None, :, :]).sum(axis=-1))

    kernel.batched = True
    x = np.sort(rng.random(300))[:, None]
    matrix = sm.HSSMatrix.from_kernel(kernel, x, rtol=1e-9)
    assert relative_error(matrix.to_dense(), kernel(x, x)) <= 1e-9
    assert 3 in shapes


def test_rectangular_from_every_source(rng):
    x, y = line(900), line(400)
    dense = kernel_k(400)(x, y)
    trees = sm.ClusterTree.balanced(900, depth=3), sm.ClusterTree.balanced(400, depth=3)
    for matrix in (
        sm.HSSMatrix.from_dense(dense, rtol=1e-8),
        sm.HSSMatrix.from_entries(lambda i, j: dense[np.ix_(i, j)], trees, rtol=1e-8),
        sm.HSSMatrix.from_kernel(kernel_k(400), x, column_points=y, rtol=1e-8),
        sm.HSSMatrix.from_operator(dense, trees, rtol=1e-8),
    ):
        assert matrix.shape == (900, 400)
        assert relative_error(matrix.to_dense(), dense) <= 1e-8


def test_max_rank_that_is_too_small_warns():
    for build in (
        lambda: sm.HSSMatrix.from_dense(problem("K"), rtol=1e-10, max_rank=3),
        lambda: sm.HSSMatrix.from_operator(problem("K"), rtol=1e-10, max_rank=3),
        lambda: sm.HSSMatrix.from_kernel(kernel_k(N), line(N), rtol=1e-10, max_rank=3),
    ):
        with pytest.warns(sm.AccuracyWarning, match="raise max_rank"):
            matrix = build()
        assert matrix.max_rank == 3
        assert not matrix.certificate.met
        assert relative_error(matrix.to_dense(), problem("K")) <= 3 * matrix.certificate.upper_bound


def test_atol_is_absolute():
    dense = problem("K")
    allowed = 1e-3 * np.linalg.norm(dense)
    for matrix in (
        sm.HSSMatrix.from_dense(dense, rtol=0.0, atol=allowed),
        sm.HSSMatrix.from_kernel(kernel_k(N), line(N), rtol=0.0, atol=allowed),
    ):
        assert 1e-6 * allowed < np.linalg.norm(matrix.to_dense() - dense) <= allowed
        assert abs(matrix.certificate.asked / 1e-3 - 1) < 0.05


def test_kernel_cost_does_not_grow_with_the_square():
    costs = []
    for n in (4096, 16384):
        matrix = sm.HSSMatrix.from_kernel(kernel_k(n), line(n), rtol=1e-6)
        costs.append(matrix.certificate.entries)
    assert costs[1] < 5.5 * costs[0]
    assert costs[1] < 16384**2 / 10


def test_progress_adds_up_to_the_whole():
    shares = []
    sm.HSSMatrix.from_kernel(kernel_k(N), line(N), rtol=1e-5, progress=shares.append)
    assert len(shares) > 1
    assert sum(shares) == pytest.approx(round(sum(shares)))
    sm.HSSMatrix.from_operator(problem("K"), rtol=1e-5, progress=shares.append)
    assert min(shares) > 0


# ------------------------------------------------------------------------------------- operators


def test_symmetric_mode_halves_the_products():
    general, hermitian = Counter(problem("K")), Counter(problem("K"))
    sm.HSSMatrix.from_operator(general, rtol=1e-8)
    sm.HSSMatrix.from_operator(hermitian, rtol=1e-8, symmetric=True)
    check = 10  # of the final check, in both modes
    assert hermitian.backward == 0
    assert general.forward - check == general.backward
    assert abs((hermitian.forward - check) / (general.forward - check) - 1) < 0.35


def test_fresh_probes_on_each_level():
    op = Counter(problem("K"))
    once = Counter(problem("K"))
    matrix = sm.HSSMatrix.from_operator(op, rtol=1e-8, fresh=True)
    sm.HSSMatrix.from_operator(once, rtol=1e-8)
    assert relative_error(matrix.to_dense(), problem("K")) <= 1e-8
    assert op.forward > 1.5 * once.forward, "no new probes were drawn"


def test_starvation_is_cured(rng):
    """Ranks far above what the first probes can show, on the uppermost level alone."""
    n = 512
    u, v = rng.standard_normal((n, 60)), rng.standard_normal((n, 60))
    u[n // 2 :], v[: n // 2] = 0, 0
    dense = u @ v.T + np.eye(n)
    matrix = sm.HSSMatrix.from_operator(dense, leaf_size=16, rtol=1e-9)
    assert matrix.max_rank >= 60 or matrix.ranks[0].max() == 60
    assert relative_error(matrix.to_dense(), dense) <= 1e-9
    assert matrix.certificate.met


def test_too_few_probes_allowed_warns():
    with pytest.warns(sm.AccuracyWarning, match="not met"):
        matrix = sm.HSSMatrix.from_operator(problem("K"), rtol=1e-8, max_probes=45)
    assert not matrix.certificate.met


def test_no_structure_warns(rng):
    dense = rng.standard_normal((400, 400))
    for build in (sm.HSSMatrix.from_dense, sm.HSSMatrix.from_operator):
        with pytest.warns(sm.StructureWarning, match="no HSS structure to speak of"):
            matrix = build(dense, rtol=1e-8)
        assert relative_error(matrix.to_dense(), dense) <= 1e-8
    tree = sm.ClusterTree.balanced(400)
    with pytest.warns(sm.AccuracyWarning, match="not met.*is there structure"):
        matrix = sm.HSSMatrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=1e-8)
    assert not matrix.certificate.met


def test_operators_of_every_kind():
    dense = problem("K")[:200, :200]

    class OnlyVectors:
        shape, dtype = dense.shape, dense.dtype

        def matvec(self, x):
            return dense @ x

        def rmatvec(self, x):
            return dense.T @ x

    class OnlyForward:
        shape = dense.shape

        def __matmul__(self, x):
            return dense @ x

    linear = spla.aslinearoperator(dense)
    for op, symmetric in ((OnlyVectors(), False), (OnlyForward(), True), (linear, False), (dense, False)):
        matrix = sm.HSSMatrix.from_operator(op, leaf_size=25, symmetric=symmetric)
        assert relative_error(matrix.to_dense(), dense) <= 1e-8
    again = sm.HSSMatrix.from_operator(matrix, leaf_size=25)
    assert relative_error(again.to_dense(), dense) <= 2e-8


def test_known_noise_bounds_the_tolerance(rng):
    with pytest.raises(ValueError, match=r"rtol = 1e-08 is below .* ask for rtol >= 5e-06"):
        sm.HSSMatrix.from_operator(problem("K"), rtol=1e-8, noise=1e-6)
    assert sm.HSSMatrix.from_operator(problem("K"), rtol=1e-5, noise=1e-7).certificate.met


def test_the_same_seed_gives_the_same_matrix():
    a, b, c = (sm.HSSMatrix.from_operator(problem("K"), rtol=1e-4, rng=seed).to_dense() for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


# --------------------------------------------------------------------------------- recorded samples


def green(n):
    i = np.arange(1, n + 1) / (n + 1)
    return np.minimum.outer(i, i) * (1 - np.maximum.outer(i, i))


def test_recovery_from_twelve_samples(rng):
    f = rng.standard_normal((1024, 12))
    matrix = sm.HSSMatrix.from_samples(f, green(1024) @ f, rank=2, leaf_size=8, symmetric=True)
    assert relative_error(matrix.to_dense(), green(1024)) <= 1e-11
    report = matrix.certificate.details
    assert report["given"] == 12
    assert report["missing"] == 0
    assert report["spans"]
    assert report["symmetry_gap"] < 1e-10


def test_recovery_with_adjoint_samples(rng):
    dense = np.triu(np.outer(np.cos(np.arange(200)), np.sin(np.arange(200)) + 2)) + 0.1j * np.eye(200)
    f, g = (rng.standard_normal((200, 16)) for _ in range(2))
    matrix = sm.HSSMatrix.from_samples(
        f, dense @ f, rank=2, leaf_size=10, adjoint_inputs=g, adjoint_outputs=dense.conj().T @ g
    )
    assert relative_error(matrix.to_dense(), dense) <= 1e-10


def test_the_default_tree_of_samples_is_one_they_resolve(rng):
    f = rng.standard_normal((500, 20))
    matrix = sm.HSSMatrix.from_samples(f, green(500) @ f, rank=2, symmetric=True)
    assert matrix.row_tree.leaf_size <= 17
    assert relative_error(matrix.to_dense(), green(500)) <= 1e-10


# ------------------------------------------------------------------------------------- exact ones


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_exact_constructions(rng, dtype):
    tree = sm.ClusterTree.from_points(rng.random((70, 2)), 9)
    d = rng.standard_normal(70).astype(dtype)
    u, v = (rng.standard_normal((70, 3)).astype(dtype) for _ in range(2))
    assert np.array_equal(sm.HSSMatrix.identity(tree, dtype).to_dense(), np.eye(70))
    assert np.array_equal(sm.HSSMatrix.zeros(tree, dtype).to_dense(), np.zeros((70, 70)))
    assert np.array_equal(sm.HSSMatrix.from_diagonal(d, tree).to_dense(), np.diag(d))
    low = sm.HSSMatrix.from_low_rank(u, v, tree)
    assert relative_error(low.to_dense(), u @ v.conj().T) <= 10 * np.finfo(dtype).eps
    assert low.max_rank == 3
    for matrix in (low, sm.HSSMatrix.identity(tree, dtype), sm.HSSMatrix.zeros(tree, dtype)):
        assert matrix.dtype == dtype
        assert matrix.certificate.met
        assert matrix.certificate.method == "exact by construction"


def test_low_rank_keeps_nothing_of_the_caller(rng):
    u, v = rng.standard_normal((64, 2)), rng.standard_normal((64, 2))
    matrix, dense = sm.HSSMatrix.from_low_rank(u, v, sm.ClusterTree.balanced(64, 8)), u @ v.T
    u[:] = v[:] = 0
    assert relative_error(matrix.to_dense(), dense) < 1e-14
