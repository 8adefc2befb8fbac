"""Arithmetic of HODLR and H beyond the battery: certificates over random cases, optimal ranks, partitions, symmetry."""

import numpy as np
import pytest
import scipy.sparse as sparse

import structmat as sm
from structmat.flat.norms import inner
from structmat.testing import random_flat, random_hss
from tests.cases import any_blocks, coarse_dense_blocks
from tests.flat.problems import DTYPES, FORMATS, eps, error, numbers, random_matrix, random_trees
from tests.problems import dense_problem, kernel_k, kernel_l, line, relative_error

N = 600


def kernel_matrix(format, kernel, rtol=1e-9, **options):
    return format.from_kernel(kernel(N), line(N), rtol=rtol, **options)


@pytest.fixture(scope="module", params=FORMATS)
def pair(request):
    return kernel_matrix(request.param, kernel_k, symmetric=True), kernel_matrix(request.param, kernel_l)


def holds(result, exact, asked, floor):
    """The certificate is met, as good as asked for, and true, up to rounding `floor`."""
    size = float(np.linalg.norm(exact))
    certificate = result.certificate
    assert certificate.met
    assert certificate.upper_bound <= max(asked, floor)
    assert error(result, exact) <= (certificate.upper_bound + floor) * size


# ------------------------------------------------------------------------------------- certificates


@pytest.mark.parametrize("seed", range(50))
def test_certificates_are_true(seed):
    rng = np.random.default_rng(seed)
    a, d = random_matrix(rng)
    b, e = random_matrix(rng, type(a), a.symmetric, dtype=d.dtype, trees=(a.row_tree, a.col_tree))
    rtol = float(10.0 ** rng.uniform(-5, -0.5))
    floor = 400 * eps(d.dtype)
    scale = (np.linalg.norm(d) + np.linalg.norm(e)) / max(np.linalg.norm(d + e), 1e-300)
    holds(a.truncate(rtol=rtol), d, rtol, floor)
    holds(a.add(b, rtol=rtol), d + e, rtol, floor * scale)
    size = np.linalg.norm(d) * np.abs(e).max() / max(np.linalg.norm(d * e), 1e-300)
    holds(a.hadamard(b, rtol=rtol), d * e, rtol, floor * size)
    u = numbers(rng, a.shape[0], 2, dtype=d.dtype)
    v = u if a.symmetric else numbers(rng, a.shape[1], 2, dtype=d.dtype)
    scale = (np.linalg.norm(d) + np.linalg.norm(u) * np.linalg.norm(v)) / np.linalg.norm(d + u @ v.conj().T)
    holds(a.add_low_rank(u, v, rtol=rtol), d + u @ v.conj().T, rtol, floor * scale)
    if a.symmetric:
        for result in (a + b, a.hadamard(b), a.truncate(rtol=rtol), a.add_low_rank(u, u)):
            assert result.symmetric


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-8])
def test_results_meet_their_tolerance(pair, rtol):
    a, b = pair
    k, log = dense_problem("K", N), dense_problem("L", N)
    for result, exact in (
        (a.add(b, rtol=rtol), k + log), (a.hadamard(b, rtol=rtol), k * log), (a.truncate(rtol=rtol), k),
    ):  # fmt: skip
        assert relative_error(result.to_dense(), exact) <= rtol
        assert result.certificate.met
        assert result.certificate.asked == rtol


def test_the_tolerance_is_used(pair):
    a, _ = pair
    for rtol in (1e-6, 1e-8):
        cut = a.truncate(rtol=rtol)
        assert cut.certificate.upper_bound > 0.5 * rtol, "ranks are larger than the tolerance asks for"
        assert cut.nbytes < a.nbytes
        assert relative_error(cut.to_dense(), a.to_dense()) == pytest.approx(cut.certificate.upper_bound, rel=1e-3)


# ------------------------------------------------------------------------------------------- truncation


def far_values(matrix):
    """Singular values of all low-rank blocks by their definition, with what a rank costs and how often it counts."""
    found = []
    blocks = matrix.blocks
    for level in blocks.far:
        for batch in level:
            for left, right, i, j in zip(batch.left, batch.right, batch.rows, batch.cols, strict=True):
                s = np.linalg.svd(left @ right.conj().T, compute_uv=False)[: batch.rank]
                found += [(x**2 * (2 if blocks.half and i != j else 1), len(left) + len(right)) for x in s]
    return found


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_truncation_takes_the_values_that_cost_most_for_what_they_give(format, symmetric, rng):
    a, d = random_flat(rng, format, sm.ClusterTree.balanced(130, 9), 5, np.float64, symmetric)
    for rtol in (0.03, 0.2):
        cut = a.truncate(rtol=rtol)
        allowed, stored = (rtol * np.linalg.norm(d)) ** 2, 0
        spent = 0.0
        for square, cost in sorted(far_values(a), key=lambda pair: pair[0] / pair[1]):
            spent += square
            stored += cost if spent > allowed else 0
        assert sum(b.left.size + b.right.size for level in cut.blocks.far for b in level) == stored


def test_max_rank_warns_where_the_tolerance_is_missed(pair):
    a, _ = pair
    with pytest.warns(sm.AccuracyWarning, match="raise max_rank"):
        cut = a.truncate(rtol=1e-8, max_rank=2)
    assert cut.max_rank == 2
    assert relative_error(cut.to_dense(), a.to_dense()) <= cut.certificate.upper_bound * 1.001


def test_a_difference_of_equal_matrices_has_no_rank(pair):
    a, b = pair
    assert (a - a).max_rank == 0
    assert (b + a - a).max_rank <= b.max_rank + 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_stays_zero(dtype, rng):
    tree = sm.ClusterTree.balanced(101, 9)
    used = tree.leaf_positions < tree.n
    a, _ = random_flat(rng, sm.HMatrix, tree, 4, dtype)
    b, _ = random_flat(rng, sm.HMatrix, tree, 3, dtype)
    s = sparse.random_array((101, 101), density=0.02, rng=rng).astype(dtype)
    for result in (a + b, a.truncate(rtol=0.1), a.hadamard(b), a + s, sm.HODLRMatrix.from_structured(a)):
        for level, batches in enumerate(result.blocks.far):
            mask = used.reshape(1 << level, -1)
            for batch in batches:
                assert not batch.left[~mask[batch.rows]].any()
                assert not batch.right[~mask[batch.cols]].any()


# ----------------------------------------------------------------------------- partitions and symmetry


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_operands_over_different_partitions(dtype, rng):
    tree = sm.ClusterTree.balanced(120, 6)
    partitions = [
        sm.BlockPartition.build(tree, admissibility=condition)
        for condition in (sm.StrongAdmissibility(), sm.StrongAdmissibility(0.6), sm.WeakAdmissibility(), any_blocks)
    ] + [coarse_dense_blocks(tree, tree)]
    for mine in partitions:
        a, d = random_flat(rng, sm.HMatrix, tree, 3, dtype, partition=mine)
        for its in partitions:
            b, e = random_flat(rng, sm.HMatrix, tree, 3, dtype, partition=its)
            for result, exact in ((a + b, d + e), (a.hadamard(b), d * e)):
                assert relative_error(result.to_dense(), exact) <= 500 * eps(dtype)
                assert result.partition.far_count == mine.far_count
            rough = a.add(b, rtol=1e-2)
            holds(rough, d + e, 1e-2, 100 * eps(dtype))


def test_what_stays_hermitian(pair, rng):
    a, b = pair
    u = rng.standard_normal((N, 2))
    tridiagonal = sparse.diags_array([1.0, 2.0, 1.0], offsets=[-1, 0, 1], shape=(N, N))
    for result in (
        a + a, a - 0.5 * a, a.hadamard(a), -a, a / 3, a.truncate(rtol=1e-3), a.add_diagonal(2.0), a + tridiagonal,
        a.add_low_rank(u, u), a.T, a.astype(np.complex64),
    ):  # fmt: skip
        assert result.symmetric
    one_sided = sparse.diags_array([1.0], offsets=[3], shape=(N, N))
    for result in (a + b, 1j * a, a.hadamard(b), a.add_low_rank(u, u + 1), a + one_sided):
        assert not result.symmetric


# ----------------------------------------------------------------------------------------- updates


@pytest.mark.parametrize("seed", range(20))
def test_sparse_updates_anywhere(seed):
    rng = np.random.default_rng(seed)
    a, d = random_matrix(rng)
    s = sparse.random_array(a.shape, density=0.05, rng=rng).astype(d.dtype)
    if a.symmetric:
        s = (s + s.conj().T).tocsr()
    result = a + s
    assert relative_error(result.to_dense(), d + s.toarray()) <= 500 * eps(d.dtype)
    assert result.symmetric is a.symmetric


def test_an_arrow_has_rank_two():
    n = 512
    arrow = np.zeros((n, n))
    arrow[0], arrow[:, 0], arrow[np.arange(n), np.arange(n)] = 1, 2, 3
    a = sm.HODLRMatrix.from_sparse(sparse.csr_array(arrow), leaf_size=16)
    assert np.allclose(a.to_dense(), arrow)
    assert a.max_rank == 1
    arrow[300], arrow[:, 300] = 4, 5
    b = sm.HODLRMatrix.from_sparse(sparse.csr_array(arrow), leaf_size=16)
    assert np.allclose(b.to_dense(), arrow)
    assert b.max_rank == 2


def test_a_low_rank_diagonal_takes_no_diagonal_update(rng):
    tree = sm.ClusterTree.balanced(32, 8)

    def everything_below(rows, cols, level, i, j):
        return np.full(len(i), level == 1)

    partition = sm.BlockPartition.build(tree, admissibility=everything_below)
    u = rng.standard_normal((32, 2))
    a = sm.HMatrix.from_low_rank(u, u, partition=partition)
    with pytest.raises(sm.ShapeError, match="needs dense blocks on the diagonal"):
        a.add_diagonal(1.0)
    assert np.allclose((a + sparse.eye_array(32)).to_dense(), u @ u.T + np.eye(32))


# ------------------------------------------------------------------------------------ operands that do not fit


def test_operands_that_do_not_fit(rng):
    tree = sm.ClusterTree.balanced(60, 8)
    a, _ = random_flat(rng, sm.HODLRMatrix, tree, 3)
    b, _ = random_flat(rng, sm.HMatrix, tree, 3)
    c, _ = random_hss(rng, tree, 3)
    for x, y in ((a, b), (b, a), (a, c), (c, b)):
        verbs = [lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x.hadamard(y)]
        # products go across the flat formats
        for verb in [*verbs, lambda x, y: x @ y] if c in (x, y) else verbs:
            with pytest.raises(TypeError, match=rf"{type(x).__name__}\.from_structured"):
                verb(x, y)
    other, _ = random_flat(rng, sm.HODLRMatrix, sm.ClusterTree.balanced(60, 20), 3)
    with pytest.raises(sm.TreeMismatchError, match="build both matrices on one tree"):
        a + other
    with pytest.raises(sm.ShapeError, match="one shape"):
        a + random_flat(rng, sm.HODLRMatrix, sm.ClusterTree.balanced(61, 8), 3)[0]
    with pytest.raises(sm.ShapeError, match="shape of A"):
        a + sparse.eye_array(59)
    with pytest.raises(TypeError, match="a HODLRMatrix and a int"):
        a.add(3)


# ----------------------------------------------------------------------------------------- inner product


@pytest.mark.parametrize("seed", range(20))
def test_inner_products(seed):
    rng = np.random.default_rng(seed)
    a, d = random_matrix(rng)
    b, e = random_flat(
        rng, type(a), a.row_tree, 3, d.dtype, a.symmetric and seed % 2 == 0, col_tree=a.col_tree, partition=a.partition
    )
    scale = np.linalg.norm(d) * np.linalg.norm(e)
    assert abs(inner(a.blocks, b.blocks) - np.vdot(d, e)) <= 100 * eps(d.dtype) * scale
    assert abs(sm.inner(a.H, b.H) - np.conj(sm.inner(a, b))) <= 100 * eps(d.dtype) * scale
    assert inner(a.blocks, a.blocks) == pytest.approx(np.vdot(d, d), rel=1e-4)


def test_inner_products_need_one_partition(rng):
    tree = random_trees(rng)[0]
    tree = sm.ClusterTree.balanced(100, 5) if tree.depth < 3 else tree
    a, _ = random_flat(rng, sm.HODLRMatrix, tree, 3)
    b, _ = random_flat(rng, sm.HMatrix, tree, 3)
    with pytest.raises(sm.TreeMismatchError, match="from_structured"):
        inner(a.blocks, b.blocks)
