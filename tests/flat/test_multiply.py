"""Products of HODLR and H-matrices against products of their dense twins."""

import itertools

import numpy as np
import pytest

import structmat as sm
from structmat.blocks import BlockBatch
from structmat.exceptions import DeviceError, ShapeError, TreeMismatchError
from structmat.flat.accumulate import Pool, dense_sums, terms_of, truncated_sums
from structmat.flat.multiply import multiply
from structmat.flat.norms import frobenius
from structmat.flat.panels import Operand, operations_of, run
from structmat.flat.storage import FlatBlocks
from structmat.hmatrix.matrix import HMatrix
from structmat.hodlr.matrix import HODLRMatrix
from structmat.partition import BlockPartition, StrongAdmissibility, WeakAdmissibility
from tests.problems import dense_problem, relative_error

FORMATS = (HODLRMatrix, HMatrix)
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)


def smooth(m, n, dtype, seed=0):
    """A nonsymmetric matrix with structure off the diagonal, of shape (m, n)."""
    rng = np.random.default_rng(seed)
    x, y = (np.arange(m) + 0.5) / m, (np.arange(n) + 0.5) / n
    difference = np.subtract.outer(x, y)
    a = np.exp(-np.abs(difference)) * (1.0 + 0.5 * np.sign(difference)) / (np.abs(difference) + 2.0 / max(m, n))
    a = a * (1.0 + rng.random())
    if np.dtype(dtype).kind == "c":
        a = a * np.exp(1j * 3.0 * difference)
    return a.astype(dtype)


def tolerance_of(dtype):
    return 1e-4 if np.finfo(dtype).eps > 1e-10 else 1e-8


def allowed(dtype, tolerance):
    return tolerance + 200 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("left", "right"), list(itertools.product(FORMATS, FORMATS)))
@pytest.mark.parametrize(("n", "leaf_size"), [(1, 4), (3, 4), (37, 4), (64, 8), (203, 16)])
def test_product_against_dense(left, right, dtype, n, leaf_size):
    tolerance = tolerance_of(dtype)
    tree = sm.ClusterTree.balanced(n, leaf_size)
    a = left.from_dense(smooth(n, n, dtype), tree, rtol=tolerance)
    b = right.from_dense(smooth(n, n, dtype, 1).T.copy(), tree, rtol=tolerance)
    c = a @ b
    assert type(c) is left
    assert c.dtype == dtype
    dense = a.to_dense() @ b.to_dense()
    assert relative_error(c, dense) <= allowed(dtype, tolerance)
    assert relative_error(c, dense) <= c.certificate.upper_bound + 200 * np.finfo(dtype).eps
    assert c.certificate.met
    assert c.certificate.confidence == 1.0


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("m", "k", "n"), [(90, 130, 70), (130, 70, 130), (70, 130, 130), (33, 32, 257)])
def test_rectangular(format, m, k, n):
    trees = [sm.ClusterTree.balanced(size, depth=3) for size in (m, k, n)]
    a = format.from_dense(smooth(m, k, float), (trees[0], trees[1]), rtol=1e-10)
    b = format.from_dense(smooth(k, n, float), (trees[1], trees[2]), rtol=1e-10)
    c = a.multiply(b, rtol=1e-8)
    assert c.shape == (m, n)
    assert relative_error(c, a.to_dense() @ b.to_dense()) <= 1e-8


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kernel", ["K", "L"])
def test_hermitian_operands_and_views(format, kernel):
    n = 150
    tree = sm.ClusterTree.balanced(n, 16)
    dense = dense_problem(kernel, n) * np.exp(1j * np.subtract.outer(np.arange(n), np.arange(n)) / n)
    h = format.from_dense(dense, tree, rtol=1e-10, symmetric=True)
    g = format.from_dense(smooth(n, n, complex), tree, rtol=1e-10)
    for a, b in ((h, h), (h, g), (g, h), (g.H, h), (g.T, g.conj()), (g, g.T), (h.conj(), g.H)):
        assert relative_error(a.multiply(b, rtol=1e-8), a.to_dense() @ b.to_dense()) <= 1e-8


def test_real_times_complex_and_single_times_double():
    tree = sm.ClusterTree.balanced(100, 16)
    a = HODLRMatrix.from_dense(smooth(100, 100, float), tree)
    b = HODLRMatrix.from_dense(smooth(100, 100, complex), tree)
    single = a.astype(np.float32)
    assert (a @ b).dtype == np.complex128
    assert relative_error(a @ b, a.to_dense() @ b.to_dense()) <= 1e-8
    assert (single @ b).dtype == np.complex128
    assert relative_error(single.multiply(a, rtol=1e-9), single.astype(float).to_dense() @ a.to_dense()) <= 1e-9


# ------------------------------------------------------------------------- kinds of blocks, each by itself


def root_partition(kind, tree):
    """The whole matrix as one low-rank or one dense block, or subdivided."""
    if kind == "structured":
        return BlockPartition.build(tree, admissibility=WeakAdmissibility())
    none = np.zeros((0, 2), dtype=np.int64)
    levels = [np.zeros((1, 2), dtype=np.int64)] + [none] * tree.depth
    empty = [none] * (tree.depth + 1)
    far, near = (levels, empty) if kind == "low rank" else (empty, levels)
    return BlockPartition(tree, tree, tuple(far), tuple(near))


KINDS = ("structured", "low rank", "dense")


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("n", [22, 32])
@pytest.mark.parametrize(("left", "right", "target"), list(itertools.product(KINDS, KINDS, KINDS)))
def test_kinds_of_operands_and_target(left, right, target, n, dtype):
    rng = np.random.default_rng(3)
    tree = sm.ClusterTree.balanced(n, 8)
    assert tree.depth == 2

    def operand(kind):
        factors = [rng.standard_normal((n, 3)).astype(dtype) for _ in range(2)]
        if np.dtype(dtype).kind == "c":
            factors = [f + 1j * rng.standard_normal(f.shape) for f in factors]
        return HMatrix.from_dense(factors[0] @ factors[1].conj().T, partition=root_partition(kind, tree), rtol=1e-13)

    a, b = operand(left), operand(right)
    partition = root_partition(target, tree)
    c = a.multiply(b, rtol=1e-12, partition=partition)
    assert relative_error(c, a.to_dense() @ b.to_dense()) <= 1e-12
    assert repr(c.partition) == repr(partition)
    if target == "low rank":
        assert c.max_rank <= 3


@pytest.mark.parametrize("source", [0.4, 1.0, 4.0])
@pytest.mark.parametrize("target", [0.4, 1.0, 4.0])
def test_result_in_another_partition(source, target):
    rng = np.random.default_rng(0)
    points = rng.random((300, 2))
    tree = sm.ClusterTree.from_points(points, 10)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    a = HMatrix.from_dense(np.exp(-distance), tree, rtol=1e-10, admissibility=StrongAdmissibility(source))
    partition = BlockPartition.build(tree, admissibility=StrongAdmissibility(target))
    c = a.multiply(a, rtol=1e-6, partition=partition)
    dense = a.to_dense() @ a.to_dense()
    assert relative_error(c, dense) <= c.certificate.upper_bound <= 1e-6
    places = [np.array_equal(p, q) for p, q in zip(c.partition.far, partition.far, strict=True)]
    assert all(places)
    c.partition.require_cover()
    optimal = HMatrix.from_dense(dense, partition=partition, rtol=1e-6)
    assert c.max_rank <= optimal.max_rank + 4


def test_hodlr_times_h_in_the_format_of_the_first():
    tree = sm.ClusterTree.balanced(128, 8)
    weak = HODLRMatrix.from_dense(smooth(128, 128, float), tree)
    strong = HMatrix.from_dense(smooth(128, 128, float, 1), tree)
    assert isinstance(weak @ strong, HODLRMatrix)
    assert np.array_equal((strong @ weak).partition.far[3], strong.partition.far[3])


# --------------------------------------------------------------------------------- exact cases


@pytest.mark.parametrize("format", FORMATS)
def test_identity_and_zero(format):
    tree = sm.ClusterTree.balanced(75, 10)
    a = format.from_dense(smooth(75, 75, float), tree, rtol=1e-12)
    one, zero = format.identity(tree), format.zeros(tree)
    for c in (a.multiply(one, rtol=1e-12), one.multiply(a, rtol=1e-12)):
        assert relative_error(c, a.to_dense()) <= 1e-12
        assert c.max_rank <= a.max_rank
    for c in (a @ zero, zero @ a):
        assert np.array_equal(c.to_dense(), np.zeros((75, 75)))
        assert c.max_rank == 0
        assert c.certificate.met


@pytest.mark.parametrize("format", FORMATS)
def test_low_rank_matrices_keep_their_rank(format):
    rng = np.random.default_rng(0)
    tree = sm.ClusterTree.balanced(160, 10)
    u, v, w = (rng.standard_normal((160, 3)) for _ in range(3))
    a, b = format.from_low_rank(u, v, tree), format.from_low_rank(v, w, tree)
    c = a.multiply(b, rtol=1e-11)
    assert c.max_rank == 3
    assert relative_error(c, u @ (v.T @ v) @ w.T) <= 1e-11


def test_a_tolerance_below_rounding_is_granted_to_rounding():
    tree = sm.ClusterTree.balanced(100, 16)
    a = HODLRMatrix.from_dense(smooth(100, 100, float), tree, rtol=1e-12)
    c = a.multiply(a, rtol=0.0)
    assert relative_error(c, a.to_dense() @ a.to_dense()) <= 1e-13
    assert c.certificate.met


def test_ranks_are_near_the_smallest_possible():
    n = 512
    tree = sm.ClusterTree.balanced(n, 16)
    dense = dense_problem("K", n)
    a = HODLRMatrix.from_dense(dense, tree, rtol=1e-12)
    for tolerance in (1e-4, 1e-6, 1e-8):
        c = a.multiply(a, rtol=tolerance)
        best = HODLRMatrix.from_dense(dense @ dense, tree, rtol=tolerance)
        assert c.max_rank <= best.max_rank + 2
        assert 0.02 * tolerance <= relative_error(c, dense @ dense) <= tolerance


def test_chunks_do_not_change_the_result(monkeypatch):
    from structmat.flat import accumulate
    from structmat.flat import multiply as module

    tree = sm.ClusterTree.balanced(200, 8)
    a = HMatrix.from_dense(smooth(200, 200, float), tree, rtol=1e-9)
    whole = a.multiply(a, rtol=1e-7).to_dense()
    monkeypatch.setattr(module, "PANEL_NUMBERS", 500)
    monkeypatch.setattr(accumulate, "CHUNK_NUMBERS", 500)
    pieces = a.multiply(a, rtol=1e-7).to_dense()
    assert np.linalg.norm(whole - pieces) <= 1e-12 * np.linalg.norm(whole)


def test_the_bound_holds_where_the_norm_cancels():
    """A A^-1 is the identity: low-rank parts that cancel are much larger than their sum."""
    n = 256
    tree = sm.ClusterTree.balanced(n, 16)
    dense = dense_problem("K", n)
    a = HODLRMatrix.from_dense(dense, tree, rtol=1e-14)
    b = HODLRMatrix.from_dense(np.linalg.inv(dense), tree, rtol=1e-14)
    c = a.multiply(b, rtol=1e-8)
    exact = a.to_dense() @ b.to_dense()
    assert relative_error(c, exact) <= c.certificate.upper_bound <= 1e-8


@pytest.mark.parametrize("tolerance", [0.9, 0.5, 0.2])
def test_large_tolerances(tolerance):
    """The norm of the product is estimated, and truncation changes it: the bound holds for the exact one."""
    tree = sm.ClusterTree.balanced(200, 16)
    rng = np.random.default_rng(0)
    a = HMatrix.from_dense(np.add.outer(rng.random(200), rng.random(200)) ** 3, tree, rtol=1e-12)
    c = a.multiply(a, rtol=tolerance)
    assert relative_error(c, a.to_dense() @ a.to_dense()) <= c.certificate.upper_bound <= tolerance


def test_bound_of_the_pass_itself():
    tree = sm.ClusterTree.balanced(300, 10)
    a = HMatrix.from_dense(smooth(300, 300, float), tree, rtol=1e-12)
    exact = a.to_dense() @ a.to_dense()
    for permitted in (1e-2, 1e-5, 1e-9):
        blocks, bound = multiply(a.blocks, a.blocks, a.partition, permitted * np.linalg.norm(exact))
        c = HMatrix(blocks, tree, tree, a.certificate)
        error = np.linalg.norm(c.to_dense() - exact)
        assert error <= bound * (1 + 1e-6) + 1e-12 * frobenius(blocks)
        assert bound <= permitted * np.linalg.norm(exact)


# ------------------------------------------------------------------------------------ sums of terms


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimal", [True, False])
@pytest.mark.parametrize("ranks", [(1, 2, 1), (9, 14, 8), (0, 3, 0)])
def test_truncated_sums_against_dense(dtype, optimal, ranks):
    rng = np.random.default_rng(0)
    p, q, count = 40, 32, 5
    pool = Pool(np.dtype(dtype), 16)
    expected = np.zeros((count, p, q), dtype=dtype)
    tables = []
    for rank, (row, rows, col, cols) in zip(ranks, [(0, p, 0, q), (20, 20, 16, 16), (0, 20, 16, 16)], strict=True):
        blocks = rng.permutation(count)[: count - 1]
        left = rng.standard_normal((len(blocks), rows, rank)).astype(dtype)
        right = rng.standard_normal((len(blocks), cols, rank)).astype(dtype)
        if np.dtype(dtype).kind == "c":
            left = left * np.exp(1j * rng.random(left.shape)).astype(dtype)
        expected[blocks, row : row + rows, col : col + cols] += left @ right.conj().swapaxes(1, 2)
        place = (row, rows, col, cols)
        factors = pool.put(left), pool.put(right)
        tables.append(terms_of(blocks, factors, np.full(len(blocks), rank), place))
    terms = np.concatenate(tables)
    eps = np.finfo(dtype).eps
    assert np.allclose(dense_sums(pool, terms, count, (p, q)), expected, atol=500 * eps)
    tails = 0.3 * np.linalg.norm(expected, axis=(1, 2)) + 500 * eps
    found = np.zeros_like(expected)
    for part in truncated_sums(pool, terms, count, (p, q), tails, optimal=optimal):
        found[part.blocks] = part.left @ part.right.conj().swapaxes(1, 2)
        gram = part.left.conj().swapaxes(1, 2) @ part.left
        on = np.arange(gram.shape[1]) < part.ranks[:, None]
        assert np.allclose(gram, np.eye(gram.shape[1]) * on[:, None, :], atol=500 * eps)
        if optimal:
            values = np.linalg.svd(expected[part.blocks], compute_uv=False)
            tail = np.sqrt(np.cumsum(values[:, ::-1] ** 2, axis=1))[:, ::-1]
            assert (part.ranks <= (tail > 0.99 * tails[part.blocks, None]).sum(axis=1)).all()
    assert (np.linalg.norm(found - expected, axis=(1, 2)) <= tails * (1 + 1e-5)).all()
    assert max(ranks) < 5 or np.linalg.norm(found - expected) > 0.1 * np.linalg.norm(tails)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_applied_to_panels_against_dense(dtype):
    """Any block of the tree of blocks, subdivided or not, times a panel of any width."""
    rng = np.random.default_rng(0)
    n, leaf_size = 128, 8
    tree = sm.ClusterTree.balanced(n, leaf_size)
    a = HMatrix.from_dense(smooth(n, n, dtype), tree, rtol=tolerance_of(dtype))
    dense = a.to_dense()
    pool = Pool(np.dtype(dtype), 16)
    operand = Operand(a.blocks, pool)
    for level in range(tree.depth + 1):
        far, size = a.partition.far[level], n >> level
        rows, cols = rng.integers(0, 1 << level, (2, 6))
        covered = [all(operand.find(up, rows >> (level - up), cols >> (level - up)) < 0) for up in range(level)]
        if not all(covered):  # blocks inside larger ones are no blocks of this level
            rows, cols = (far[:6, 0], far[:6, 1]) if len(far) else a.partition.near[level][:6].T
        widths = rng.integers(1, 9, len(rows))
        panels = [rng.standard_normal((size, w)).astype(dtype) for w in widths]
        sources = np.array([pool.put(x[None])[0] for x in panels])
        starts = np.array([pool.zeros(size * int(w)) for w in widths])
        run(pool, [operations_of(operand, level, rows, cols, sources, starts, widths)])
        for i, j, x, start in zip(rows, cols, panels, starts, strict=True):
            found = pool.data[start : start + x.size].reshape(x.shape)
            block = dense[i * size : (i + 1) * size, j * size : (j + 1) * size]
            assert np.allclose(found, block @ x, atol=2e3 * np.finfo(dtype).eps * np.linalg.norm(block))


# ---------------------------------------------------------------------------------- what is refused


def test_mismatched_operands():
    tree, other = sm.ClusterTree.balanced(64, 8), sm.ClusterTree.balanced(64, 16)
    a = HODLRMatrix.identity(tree)
    with pytest.raises(ShapeError, match="A has 64 columns, but B has 32 rows"):
        a @ HODLRMatrix.identity(sm.ClusterTree.balanced(32, 8))
    with pytest.raises(TreeMismatchError, match="the columns of A and the rows of B"):
        a @ HODLRMatrix.identity(other)
    with pytest.raises(TypeError, match="HODLRMatrix has weak admissibility"):
        a.multiply(a, partition=BlockPartition.build(tree))
    with pytest.raises(TypeError, match="HSSMatrix"):
        a @ sm.HSSMatrix.identity(tree)
    with pytest.raises(ValueError, match="rtol must be a finite number"):
        a.multiply(a, rtol=-1.0)
    with pytest.raises(TypeError, match="multiply takes a HODLRMatrix or an HMatrix, but B is a ndarray"):
        a.multiply(np.eye(64))
    elsewhere = a._with_arrays(pytest.importorskip("array_api_strict").asarray)
    with pytest.raises(DeviceError, match="formed on the CPU"):
        a @ elsewhere
    h = HMatrix.identity(tree)
    with pytest.raises(TreeMismatchError, match="built on other trees"):
        h.multiply(h, partition=BlockPartition.build(other))
    half = BlockPartition.build(tree).lower()
    with pytest.raises(ShapeError, match="must cover every entry"):
        h.multiply(h, partition=half)


@pytest.mark.parametrize("format", FORMATS)
def test_padding_stays_zero(format):
    n = 203
    tree = sm.ClusterTree.balanced(n, 16)
    dense = smooth(n, n, float)
    a = format.from_dense(dense, tree, rtol=1e-10)
    products = [a.multiply(a, rtol=1e-6), format.from_operator(dense, tree, rtol=1e-6)]
    padding = tree.leaf_positions == n
    assert padding.any()
    for c in products:
        for level, batches in enumerate(c.blocks.far):
            hole = padding.reshape(1 << level, -1)
            for b in batches:
                assert not b.left[hole[b.rows]].any()
                assert not b.right[hole[b.cols]].any()
        dense_leaves = c.blocks.near[-1]
        assert not dense_leaves.data[hole[dense_leaves.rows]].any()


def test_operands_are_left_alone():
    tree = sm.ClusterTree.balanced(120, 8)
    a = HMatrix.from_dense(smooth(120, 120, float), tree)
    before = a.to_dense()
    stored = [b.data for b in a.blocks.near if isinstance(b, BlockBatch)]
    a @ a
    assert np.array_equal(a.to_dense(), before)
    assert isinstance(a.blocks, FlatBlocks)
    assert all(np.array_equal(x, y.data) for x, y in zip(stored, a.blocks.near, strict=True))
