"""Factorisations of HODLR matrices against dense ones: solves, determinants, inverses, symmetric factors, errors."""

import warnings

import numpy as np
import pytest

import structmat as sm
from structmat.blocks import BlockBatch, LowRankBatch
from structmat.certificate import exact
from structmat.engine import cpu_hodlr
from structmat.flat.storage import FlatBlocks
from structmat.hodlr.panels import Layout
from tests.problems import dense_problem, kernel_k, line, relative_error

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
SIZES = [(1, 64), (2, 1), (3, 1), (37, 5), (100, 9), (513, 16), (1500, 40)]


def random(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def random_hodlr(rng, tree, largest, dtype, *, symmetric=False, shift=0.0):
    """Random blocks whose ranks differ on every level; returns the matrix."""
    p, depth = tree.leaf_size, tree.depth
    mask = (tree.leaf_positions < tree.n).reshape(-1, 1)

    def factors(level, nodes, rank):
        shape = (len(nodes), p << (depth - level), rank)
        return random(rng, shape, dtype) * mask.reshape(1 << level, -1, 1)[nodes] / np.sqrt(shape[1])

    far = [()]
    for level in range(1, depth + 1):
        rows = np.arange(1, 1 << level, 2) if symmetric else np.arange(1 << level)
        ranks = rng.integers(0, min(largest, p) + 1, len(rows))
        groups = [(rank, rows[ranks == rank]) for rank in np.unique(ranks)]
        far.append(
            tuple(LowRankBatch(factors(level, r, k), factors(level, r ^ 1, k), r, r ^ 1) for k, r in groups)
        )  # fmt: skip
    leaves = np.arange(1 << depth)
    inside = mask.reshape(len(leaves), p, 1)
    dense = random(rng, (len(leaves), p, p), dtype) * inside * inside.swapaxes(1, 2)
    if symmetric:
        dense = dense + dense.conj().swapaxes(1, 2)
    dense[:, np.arange(p), np.arange(p)] += shift * inside[:, :, 0]
    empty = [np.zeros((0, p << (depth - level), p << (depth - level)), dtype) for level in range(depth)]
    none = np.zeros(0, dtype=np.int64)
    near = (*(BlockBatch(e, none, none) for e in empty), BlockBatch(dense, leaves, leaves))
    return sm.HODLRMatrix(FlatBlocks(near, tuple(far), symmetric), tree, tree, exact(0.0, np.finfo(dtype).eps))


def tolerance(dense):
    """What rounding may do to the solution of a system, relative to it."""
    return 20 * np.sqrt(len(dense)) * np.finfo(dense.dtype).eps * np.linalg.cond(dense)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("n", "leaf_size"), SIZES)
def test_solves_and_determinants_agree_with_dense_ones(n, leaf_size, symmetric, dtype, rng):
    a = random_hodlr(rng, sm.ClusterTree.balanced(n, leaf_size), 6, dtype, symmetric=symmetric, shift=3.0)
    dense, factored = a.to_dense(), a.factorize()
    allowed = tolerance(dense)
    for b in (random(rng, n, dtype), random(rng, (n, 1), dtype), random(rng, (n, 5), dtype)):
        kept = b.copy()
        assert relative_error(factored.solve(b), np.linalg.solve(dense, b)) <= allowed
        assert relative_error(factored.solve_adjoint(b), np.linalg.solve(dense.conj().T, b)) <= allowed
        assert factored.solve(b).dtype == dtype
        assert np.array_equal(b, kept)
    sign, logarithm = factored.slogdet()
    expected_sign, expected = np.linalg.slogdet(dense.astype(np.result_type(dtype, np.float64)))
    assert logarithm == pytest.approx(expected, rel=allowed, abs=allowed)
    assert abs(sign - expected_sign) <= (allowed if np.dtype(dtype).kind == "c" else 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("n", "leaf_size"), SIZES[:-1])
def test_inverses_agree_with_dense_ones(n, leaf_size, symmetric, dtype, rng):
    a = random_hodlr(rng, sm.ClusterTree.balanced(n, leaf_size), 4, dtype, symmetric=symmetric, shift=9.0)
    dense, inverse = a.to_dense(), a.inverse()
    assert isinstance(inverse, sm.HODLRMatrix)
    assert inverse.symmetric == symmetric
    assert relative_error(inverse.to_dense(), np.linalg.inv(dense)) <= tolerance(dense)
    assert inverse.certificate.met


def test_inverses_keep_the_tolerance_and_small_ranks():
    n = 1500
    a = sm.HODLRMatrix.from_dense(dense_problem("K", n), sm.ClusterTree.balanced(n, 32), rtol=1e-10)
    ranks = []
    for rtol in (1e-3, 1e-6, 1e-9):
        inverse = a.factorize().inverse(rtol=rtol)
        residual = a.to_dense() @ inverse.to_dense() - np.eye(n)
        assert np.linalg.norm(residual) <= rtol * np.sqrt(n)
        ranks.append(inverse.max_rank)
    assert ranks[0] < ranks[1] < ranks[2] < 40


def test_two_trees_and_permutations_carry_the_sign(rng):
    rows, cols = (sm.ClusterTree.from_points(rng.random((90, 2)), 12) for _ in range(2))
    dense = rng.standard_normal((90, 90)) + 20 * np.eye(90)
    a = sm.HODLRMatrix.from_dense(dense, (rows, cols), rtol=1e-13)
    b = rng.standard_normal(90)
    for view, twin in ((a, dense), (a.T, dense.T), (a.H, dense.T)):
        factored = view.factorize()
        assert relative_error(factored.solve(b), np.linalg.solve(twin, b)) < 1e-10
        assert relative_error(factored.solve_adjoint(b), np.linalg.solve(twin.T, b)) < 1e-10
        assert factored.slogdet()[0] == np.linalg.slogdet(dense)[0]
        assert relative_error(factored.inverse(rtol=1e-12).to_dense(), np.linalg.inv(twin)) < 1e-10


def test_complex_views_and_mixed_types(rng):
    a = random_hodlr(rng, sm.ClusterTree.balanced(150, 11), 3, np.complex128, shift=8.0)
    dense, b = a.to_dense(), rng.standard_normal((150, 2))
    for view, twin in ((a.T, dense.T), (a.conj(), dense.conj()), (a.H, dense.conj().T)):
        assert relative_error(view.factorize().solve(b), np.linalg.solve(twin, b)) < 1e-12
    real = random_hodlr(rng, sm.ClusterTree.balanced(150, 11), 3, np.float64, shift=8.0)
    z = random(rng, 150, np.complex128)
    assert relative_error(real.factorize().solve(z), np.linalg.solve(real.to_dense(), z)) < 1e-12
    single = real.astype(np.float32).factorize()
    assert single.solve(b).dtype == np.float64
    assert relative_error(single.solve(b), np.linalg.solve(real.to_dense(), b)) < 1e-4


def test_refinement_repairs_what_a_nearly_singular_leaf_costs(rng):
    n = 64
    a = random_hodlr(rng, sm.ClusterTree.balanced(n, 8), 8, np.float64)
    dense = np.array(a.to_dense())
    u, s, v = np.linalg.svd(dense[:8, :8])
    dense[:8, :8] = (u * np.append(s[:-1], 1e-9)) @ v
    a = sm.HODLRMatrix.from_dense(dense, sm.ClusterTree.balanced(n, 8), rtol=1e-15)
    b, factored = rng.standard_normal(n), a.factorize()

    def residual(x):
        return np.linalg.norm(dense @ x - b) / (np.linalg.norm(dense) * np.linalg.norm(x))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.IllConditionedWarning)
        plain, noticed = residual(factored.solve(b)), residual(a.solve(b, factorization=factored))
        refined = residual(a.solve(b, factorization=factored, refine=True))
    assert refined < 1e-14 < plain
    assert noticed < 1e-14


# ------------------------------------------------------------------------------ symmetric factorisation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "leaf_size"), SIZES)
def test_symmetric_factors_multiply_to_the_matrix(n, leaf_size, dtype, rng):
    a = random_hodlr(rng, sm.ClusterTree.balanced(n, leaf_size), 6, dtype, symmetric=True, shift=25.0)
    dense, factored = a.to_dense(), a.factorize(positive_definite=True)
    allowed, eye = tolerance(dense), np.eye(n, dtype=dtype)
    factor = factored.apply_factor(eye)
    assert relative_error(factor @ factor.conj().T, dense) <= 40 * np.sqrt(n) * np.finfo(dtype).eps
    assert relative_error(factored.solve_factor(factor), eye) <= allowed
    for b in (random(rng, n, dtype), random(rng, (n, 5), dtype)):
        assert relative_error(factored.solve(b), np.linalg.solve(dense, b)) <= allowed
        assert relative_error(factored.solve_adjoint(b), np.linalg.solve(dense, b)) <= allowed
        assert relative_error(factored.apply_factor(b), factor @ b) <= allowed
        assert relative_error(factored.solve_factor(b), np.linalg.solve(factor, b)) <= allowed
    sign, logarithm = factored.slogdet()
    assert sign == 1
    assert logarithm == pytest.approx(np.linalg.slogdet(dense.astype(np.complex128))[1], rel=allowed, abs=allowed)
    assert factored.nbytes <= a.factorize().nbytes
    assert relative_error(factored.inverse().to_dense(), np.linalg.inv(dense)) <= allowed


def test_samples_have_the_covariance(rng):
    x = rng.random((400, 2))
    kernel = sm.kernelfunctions.Matern(1.5, 0.3)
    a = sm.HODLRMatrix.from_dense(
        kernel(x, x) + 1e-2 * np.eye(400), sm.ClusterTree.from_points(x, 25), rtol=1e-10, symmetric=True
    )
    factored = a.factorize(positive_definite=True)
    count = 40000
    samples = factored.apply_factor(rng.standard_normal((400, count)))
    covariance = samples @ samples.T / count
    dense = a.to_dense()
    # the standard deviation of an entry of the sample covariance is at most sqrt(2 / count) times the variances
    assert np.abs(covariance - dense).max() < 6 * np.sqrt(2 / count) * dense.diagonal().max()
    white = factored.solve_factor(samples)
    assert np.abs(white @ white.T / count - np.eye(400)).max() < 6 * np.sqrt(2 / count)


def test_complex_noise_goes_through_a_real_factor(rng):
    a = random_hodlr(rng, sm.ClusterTree.balanced(120, 9), 3, np.float64, symmetric=True, shift=25.0)
    factored, z = a.factorize(positive_definite=True), random(rng, (120, 2), np.complex128)
    both = factored.apply_factor(z.real) + 1j * factored.apply_factor(z.imag)
    assert relative_error(factored.apply_factor(z), both) < 1e-14
    assert relative_error(factored.solve_factor(factored.apply_factor(z)), z) < 1e-13


@pytest.mark.parametrize("nugget", [1e-4, 1e-8, 1e-10])
def test_the_symmetric_factorisation_is_backward_stable(nugget, rng):
    """Kernel matrices of condition up to 1e12: the factors of B are large, but B is not."""
    x = line(704)
    dense = np.exp(-200.0 * np.subtract.outer(x, x) ** 2) + nugget * np.eye(704)
    a = sm.HODLRMatrix.from_dense(dense, sm.ClusterTree.balanced(704, 22), rtol=1e-15, symmetric=True)
    factored = a.factorize(positive_definite=True)
    factor = factored.apply_factor(np.eye(704))
    assert relative_error(factor @ factor.T, dense) < 2e-14
    b = rng.standard_normal(704)
    for x in (factored.solve(b), factored.solve(b[:, None])[:, 0]):
        # what products with inverses of small cores leave
        allowed = 1e-15 * np.sqrt(np.linalg.cond(dense))
        assert np.linalg.norm(dense @ x - b) < allowed * np.linalg.norm(dense, 2) * np.linalg.norm(x)


# -------------------------------------------------------------------------------------------- one vector


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
@pytest.mark.parametrize(("n", "leaf_size"), [(4096, 64), (5000, 30), (3001, 600)])
def test_one_vector_and_several_take_the_same_steps(n, leaf_size, dtype, rng):
    """Nodes inside panels, nodes of many panels, and leaves larger than a panel."""
    a = random_hodlr(rng, sm.ClusterTree.balanced(n, leaf_size), 5, dtype, symmetric=True, shift=200.0)
    b = random(rng, (n, 2), dtype)
    allowed = 100 * np.sqrt(n) * np.finfo(dtype).eps
    for factored in (a.factorize(), a.factorize(positive_definite=True)):
        block, single = factored.solve(b), np.stack([factored.solve(c) for c in b.T], axis=1)
        assert relative_error(single, block) <= allowed
        assert relative_error(a @ block, b) <= allowed


def test_layout_counts_leaves_panels_and_rows():
    layout = Layout.of(sm.ClusterTree.balanced(4096, 64), np.array([0, 3, 2, 2, 1, 1, 1]))
    assert (layout.size, layout.panels, layout.grain, layout.height) == (512, 8, 3, 10)
    assert layout.rows(2) == slice(3, 5)
    x = np.arange(2.0 * 4096).reshape(64, 64, 2)
    assert np.array_equal(layout.from_panels(layout.to_panels(x)), x)


def test_lu_kernels_agree_with_numpy(rng):
    for dtype in DTYPES:
        blocks = random(rng, (3, 13, 13), dtype)
        lu, order, signs, weakest = blocks.copy(), np.empty((3, 13), np.int64), np.empty(3), np.empty(3)
        cpu_hodlr.lu_factor(lu, order, signs, weakest, 0, 3)
        assert (weakest > 0).all()
        lower, upper = np.tril(lu), np.triu(lu, 1) + np.eye(13)
        for b in range(3):
            assert np.allclose(lower[b] @ upper[b], blocks[b][:, order[b]], atol=1e3 * np.finfo(dtype).eps)
            assert np.linalg.det(np.eye(13)[:, order[b]]) == pytest.approx(signs[b])
        assert np.abs(np.triu(lu, 1)).max() <= 1 + 10 * np.finfo(dtype).eps  # pivoted


# ------------------------------------------------------------------------------------------------ errors


def test_singular_blocks_are_named():
    tree = sm.ClusterTree.balanced(64, 8)
    d = np.ones(64)
    d[43] = 0
    with pytest.raises(sm.SingularBlockError, match=r"node 5 on level 3 is singular.*add_diagonal") as caught:
        sm.HODLRMatrix.from_diagonal(d, tree).factorize()
    assert (caught.value.level, caught.value.node) == (3, 5)
    ones = np.eye(8) + np.diag(np.ones(4), 4) + np.diag(np.ones(4), -4)  # [[I, I], [I, I]]
    a = sm.HODLRMatrix.from_dense(ones, sm.ClusterTree.balanced(8, 4))
    with pytest.raises(sm.SingularBlockError, match="node 0 on level 0") as caught:
        a.factorize()
    assert (caught.value.level, caught.value.node) == (0, 0)
    with pytest.raises(sm.SingularBlockError, match="level 0"):
        sm.HODLRMatrix.zeros(sm.ClusterTree.balanced(3), symmetric=True).factorize()


def test_lost_pivots_are_named():
    tree = sm.ClusterTree.balanced(64, 8)
    d = np.ones(64)
    d[43] = -1
    a = sm.HODLRMatrix.from_diagonal(d, tree)
    with pytest.raises(sm.NotPositiveDefiniteError, match=r"node 5 of level 3.*smaller rtol.*add_diagonal") as caught:
        a.factorize(positive_definite=True)
    assert (caught.value.level, caught.value.node) == (3, 5)
    dense = np.eye(16)
    dense[8, 15] = dense[15, 8] = 1.5  # between the children of node 1 of level 1
    a = sm.HODLRMatrix.from_dense(dense, sm.ClusterTree.balanced(16, 4), symmetric=True)
    with pytest.raises(sm.NotPositiveDefiniteError, match="node 1 of level 1") as caught:
        a.factorize(positive_definite=True)
    assert (caught.value.level, caught.value.node) == (1, 1)
    assert a.slogdet()[0] == -1
    assert a.add_diagonal(1.0).factorize(positive_definite=True).slogdet()[0] == 1


def test_what_cannot_be_factored_is_refused(rng):
    kernel = kernel_k(100)
    dense = kernel(line(100), line(100))
    with pytest.raises(sm.SymmetryError, match="build it with symmetric=True"):
        sm.HODLRMatrix.from_dense(dense).factorize(positive_definite=True)
    wide = sm.HODLRMatrix.from_dense(dense[:60])
    for verb in (wide.factorize, wide.slogdet, wide.inverse, lambda: wide.factorize(positive_definite=True)):
        with pytest.raises(sm.ShapeError, match=r"square matrix, but A.shape = \(60, 100\)"):
            verb()
    factored = sm.HODLRMatrix.from_dense(dense, symmetric=True).factorize(positive_definite=True)
    for verb in (factored.solve, factored.apply_factor, factored.solve_factor):
        with pytest.raises(sm.ShapeError, match="101 rows"):
            verb(np.ones(101))
        with pytest.raises(sm.NonFiniteError, match="must be finite"):
            verb(np.full(100, np.nan))
    tree = sm.ClusterTree.balanced(16, 4)
    partition = sm.BlockPartition.build(tree)
    blocks = sm.HMatrix.from_dense(np.eye(16), partition=partition).blocks
    strong = sm.HODLRMatrix(blocks, tree, tree, exact(0.0, 1e-16))
    with pytest.raises(sm.ShapeError, match="one dense block for each leaf"):
        strong.factorize()


def test_factorisations_describe_themselves_and_keep_their_data(rng):
    a = random_hodlr(rng, sm.ClusterTree.balanced(200, 16), 3, np.float64, symmetric=True, shift=25.0)
    for factored, name in ((a.factorize(), "HODLRFactorization"), (a.factorize(positive_definite=True), "HODLRChol")):
        assert f"{name}" in repr(factored)
        assert "(200, 200)" in repr(factored)
        assert factored.nbytes > 0
        b = rng.standard_normal((200, 2))
        first = factored.solve(b)
        assert np.array_equal(factored.solve(b), first)
        assert np.array_equal(factored.aslinearoperator() @ b, first)
        assert factored.solve(np.zeros((200, 0))).shape == (200, 0)
