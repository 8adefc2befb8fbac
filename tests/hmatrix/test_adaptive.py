"""Adaptive H-matrices: global error, storage against the best of many fixed partitions, sources, refinement."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg as spla

import structmat as sm
from structmat.hmatrix.quadtree import PLACE_BYTES, Costs, Level, best_at_price, cheapest
from structmat.hmatrix.record import RefinementRecord
from structmat.kernelfunctions import Laplace
from structmat.testing import check_structured_matrix
from tests.hmatrix.fixed import MATRICES, least_fixed_bytes, piecewise_smooth, singular, smooth
from tests.problems import kernel_k, line, relative_error


def assert_no_larger_than_fixed(name, n, rtol):
    a = MATRICES[name](n)
    adaptive = sm.HMatrix.adaptive(a, rtol=rtol)
    assert relative_error(adaptive, a) <= rtol
    assert adaptive.certificate.met
    assert adaptive.certificate.confidence == 1.0
    adaptive.partition.require_cover()
    fixed, leaf, condition = least_fixed_bytes(a, rtol)
    assert adaptive.nbytes <= fixed, f"{condition} with leaves of {leaf} needs {fixed} bytes"


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(("n", "rtol"), [(512, 1e-6), (700, 1e-3)])
def test_error_and_storage_against_fixed_partitions(name, n, rtol):
    assert_no_larger_than_fixed(name, n, rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(("n", "rtol"), [(1000, 1e-9), (1024, 1e-4), (2048, 1e-6)])
def test_error_and_storage_against_fixed_partitions_of_larger_matrices(name, n, rtol):
    assert_no_larger_than_fixed(name, n, rtol)


def test_saves_much_where_no_condition_fits():
    a = piecewise_smooth(512)
    assert sm.HMatrix.adaptive(a, rtol=1e-6).nbytes < 0.65 * least_fixed_bytes(a, 1e-6)[0]


# --------------------------------------------------------------------------------------- the search


def random_levels(rng, itemsize, leaf):
    """All blocks of three levels with random singular values."""
    levels, places = [], np.zeros((1, 2), dtype=np.int64)
    parents = np.zeros(1, dtype=np.int64)
    for number in range(3):
        side = leaf << (2 - number)
        values = np.sort(10.0 ** rng.uniform(-6, 0, (len(places), side)))[:, ::-1]
        dense = np.ones(len(places), dtype=bool)
        levels.append(Level(places, parents, values, np.zeros(len(places)), np.ones(len(places)), dense))
        parents = np.repeat(np.arange(len(places)), 4)
        places = sm.partition.children(places)
    return levels, Costs(itemsize, leaf, leaf, 2)


def brute_force(levels, costs, price):
    """The least bytes + price * error over all partitions of three levels, by enumeration."""

    def alone(number, block):
        squares = levels[number].values[block] ** 2
        ranks = np.arange(len(squares) + 1)
        tails = np.array([squares[k:].sum() for k in ranks])
        low_rank = (ranks * costs.rank(number) + PLACE_BYTES + price * tails).min()
        return min(low_rank, costs.dense(number))

    best = alone(0, 0)
    for divided in itertools.product((False, True), repeat=4):
        total = 0.0
        for block, deeper in enumerate(divided):
            total += sum(alone(2, 4 * block + k) for k in range(4)) if deeper else alone(1, block)
        best = min(best, total)
    return best


@pytest.mark.parametrize("price", [1e2, 1e5, 1e9])
def test_dynamic_programming_finds_what_enumeration_finds(price, rng):
    for _ in range(5):
        levels, costs = random_levels(rng, 8, 4)
        choice = best_at_price(levels, costs, price)[0]
        assert choice.nbytes[0] + price * choice.error[0] == pytest.approx(brute_force(levels, costs, price), rel=1e-12)


def test_plans_spend_no_more_than_allowed_and_less_storage_for_more_error(rng):
    levels, costs = random_levels(rng, 8, 4)
    plans = [cheapest(levels, costs, allowed) for allowed in (1e-8, 1e-4, 1e-2, 1.0)]
    for plan, allowed in zip(plans, (1e-8, 1e-4, 1e-2, 1.0), strict=True):
        assert plan.error <= allowed
    sizes = [plan.nbytes for plan in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


# -------------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("symmetric", [False, True])
def test_precisions_and_hermitian_storage(dtype, symmetric):
    a = singular(300).astype(dtype)
    if a.dtype.kind == "c":
        phases = np.exp(1j * np.arange(300) / 20)
        a = (phases[:, None] * a * phases.conj()).astype(dtype)
        a = (a + a.conj().T) / 2
    adaptive = sm.HMatrix.adaptive(a, rtol=1e-4, symmetric=symmetric)
    assert adaptive.dtype == dtype
    assert adaptive.symmetric == symmetric
    assert relative_error(adaptive, a) <= 1e-4
    x = np.linspace(-1, 1, 600, dtype=a.real.dtype).reshape(300, 2)
    np.testing.assert_allclose(adaptive @ x, a @ x, atol=1e-3 * np.linalg.norm(a))
    np.testing.assert_allclose(adaptive.H @ x, a.conj().T @ x, atol=1e-3 * np.linalg.norm(a))


@pytest.mark.parametrize("symmetric", [False, True])
def test_all_algorithms_run_on_adaptive_partitions(symmetric):
    a = singular(150)
    check_structured_matrix(sm.HMatrix.adaptive(a, rtol=1e-14, symmetric=symmetric), a, tolerance=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (17, 17), (300, 200), (90, 400)])
def test_shapes(shape, rng):
    a = rng.standard_normal(shape) * np.exp(-(np.subtract.outer(np.arange(shape[0]), np.arange(shape[1])) ** 2) / 9)
    adaptive = sm.HMatrix.adaptive(a, rtol=1e-5)
    assert relative_error(adaptive, a) <= 1e-5
    assert adaptive.nbytes <= a.nbytes + PLACE_BYTES + 8 * sum(shape)


def test_the_zero_matrix_is_a_block_of_rank_zero():
    adaptive = sm.HMatrix.adaptive(np.zeros((200, 300)))
    assert adaptive.nbytes == PLACE_BYTES
    assert not adaptive.to_dense().any()


def test_a_matrix_of_low_rank_is_one_block_if_the_diagonal_may_be():
    a = smooth(400)
    whole = sm.HMatrix.adaptive(a, rtol=1e-8, dense_diagonal=False)
    assert len(whole.blocks.far[0]) == 1
    kept = sm.HMatrix.adaptive(a, rtol=1e-8)
    assert not any((batch.rows == batch.cols).any() for level in kept.blocks.far for batch in level)
    np.testing.assert_allclose(kept.add_diagonal(2.0).diagonal(), kept.diagonal() + 2.0)


def test_no_rank_exceeds_what_is_allowed():
    a = singular(512)
    capped = sm.HMatrix.adaptive(a, rtol=1e-8, max_rank=5)
    assert capped.max_rank == 5
    assert relative_error(capped, a) <= 1e-8


def test_a_given_tree_is_kept():
    tree = sm.ClusterTree.balanced(500, leaf_size=30)
    adaptive = sm.HMatrix.adaptive(singular(500), tree, rtol=1e-6)
    assert adaptive.row_tree == tree


def test_input_is_left_alone():
    a = singular(200)
    before = a.copy()
    sm.HMatrix.adaptive(a, rtol=1e-6)
    np.testing.assert_array_equal(a, before)


# ------------------------------------------------------------------------------------ other sources

N = 1300  # more entries than are evaluated in full


@pytest.fixture(scope="module")
def matrix():
    return singular(N)


def test_from_a_kernel_by_crosses(matrix):
    adaptive = sm.HMatrix.adaptive(kernel_k(N), points=line(N), rtol=1e-6)
    assert relative_error(adaptive, matrix) <= 1e-6
    assert adaptive.certificate.met
    assert adaptive.certificate.entries < 0.6 * N**2
    assert adaptive.nbytes < 1.1 * sm.HMatrix.adaptive(matrix, rtol=1e-6).nbytes


def test_from_a_kernel_in_the_plane(rng):
    points = rng.random((N, 2))
    kernel = Laplace(dim=2)
    exact = kernel(points, points)
    adaptive = sm.HMatrix.adaptive(kernel, points=points, rtol=1e-6, leaf_size=32, symmetric=True)
    assert relative_error(adaptive, exact) <= 1e-6
    assert adaptive.nbytes < sm.HMatrix.from_kernel(kernel, points, rtol=1e-6, leaf_size=32, symmetric=True).nbytes


def test_from_entries_without_geometry():
    """Jumps along a line that the tree does not know."""
    a = piecewise_smooth(N)
    tree = sm.ClusterTree.balanced(N, leaf_size=16)
    adaptive = sm.HMatrix.adaptive(lambda i, j: a[np.ix_(i, j)], tree, rtol=1e-6)
    assert relative_error(adaptive, a) <= 1e-6
    assert adaptive.nbytes < 1.1 * sm.HMatrix.adaptive(a, tree, rtol=1e-6).nbytes


def test_what_crosses_do_not_meet_is_found_by_the_check():
    """A small rough patch in a smooth matrix."""
    a = smooth(N)
    a[900:960, 100:160] += np.random.default_rng(6).standard_normal((60, 60))
    adaptive = sm.HMatrix.adaptive(lambda i, j: a[np.ix_(i, j)], sm.ClusterTree.balanced(N, leaf_size=16), rtol=1e-5)
    assert relative_error(adaptive, a) <= 1e-5


def test_from_operators_structured_and_sparse_matrices():
    a = singular(400)
    reference = sm.HMatrix.adaptive(a, rtol=1e-8)
    for source in (spla.aslinearoperator(a), sm.HSSMatrix.from_dense(a, rtol=1e-10)):
        adaptive = sm.HMatrix.adaptive(source, rtol=1e-8)
        assert relative_error(adaptive, a) <= 1.1e-8
        assert adaptive.nbytes < 1.2 * reference.nbytes
    band = sparse.diags_array([np.ones(399), 2 * np.ones(400), np.ones(399)], offsets=[-1, 0, 1], format="csr")
    assert relative_error(sm.HMatrix.adaptive(band, rtol=1e-8), band.toarray()) <= 1e-15


@pytest.mark.parametrize("geometry", [False, True])
def test_large_operators_are_peeled_first(geometry, monkeypatch, matrix):
    monkeypatch.setattr("structmat.hmatrix.adaptive.ALL_PRODUCTS", 1000)
    tree = sm.ClusterTree.from_points(line(N), 32) if geometry else None
    operator = spla.aslinearoperator(matrix)
    adaptive = sm.HMatrix.adaptive(operator, tree, rtol=1e-6, symmetric=True)
    assert relative_error(adaptive, matrix) <= 1e-6
    assert adaptive.certificate.met
    assert adaptive.certificate.probes == 20
    assert len(adaptive.refinement) > 3
    assert adaptive.nbytes < 1.15 * sm.HMatrix.adaptive(matrix, tree, rtol=1e-6, symmetric=True).nbytes


def test_bad_input():
    with pytest.raises(TypeError, match="needs a tree, which tells the size"):
        sm.HMatrix.adaptive(lambda i, j: np.ones((len(i), len(j))))
    large = spla.LinearOperator((10_000, 10_000), matvec=lambda x: x, dtype=float)
    with pytest.raises(sm.ShapeError, match="build a matrix from it first"):
        sm.HMatrix.identity(sm.ClusterTree.balanced(10_000)).refine(large, 1e-6)
    with pytest.raises(sm.SymmetryError, match="leave symmetric out"):
        sm.HMatrix.adaptive(piecewise_smooth(100), symmetric=True)
    a = sm.HMatrix.from_dense(np.eye(100))
    with pytest.raises(sm.ShapeError, match="source has shape"):
        a.refine(np.eye(90), 1e-6)
    with pytest.raises(TypeError, match="use astype"):
        a.refine(np.eye(100, dtype=np.float32), 1e-6)


# ---------------------------------------------------------------------------------------- refinement


@pytest.mark.parametrize("symmetric", [False, True])
def test_refine_to_smaller_and_larger_tolerances(matrix, symmetric):
    coarse = sm.HMatrix.from_dense(matrix, rtol=1e-3, symmetric=symmetric)
    fine = coarse.refine(matrix, 1e-8)
    assert fine.symmetric == symmetric
    assert fine.certificate.met
    assert relative_error(fine, matrix) <= 1e-8
    back = fine.refine(matrix, 1e-3)
    assert relative_error(back, matrix) <= 1e-3
    assert back.nbytes < 0.75 * fine.nbytes
    assert back.nbytes <= coarse.nbytes
    assert relative_error(coarse, matrix) <= 1e-3  # what was refined is still there


def test_refine_evaluates_less_than_a_new_build(matrix):
    options = {"points": line(N), "rtol": 1e-9}
    new = sm.HMatrix.adaptive(kernel_k(N), **options)
    tree = new.row_tree
    coarse = sm.HMatrix.adaptive(kernel_k(N), tree, points=line(N), rtol=1e-6)
    fine = coarse.refine(kernel_k(N), 1e-9, points=line(N))
    assert relative_error(fine, matrix) <= 1e-9
    assert fine.certificate.entries < new.certificate.entries
    assert fine.nbytes < 1.05 * new.nbytes


def test_refine_follows_a_source_that_has_changed(matrix):
    old = sm.HMatrix.adaptive(matrix, rtol=1e-6)
    changed = matrix.copy()
    changed[900:1000, 100:300] += np.outer(np.arange(100), np.cos(np.arange(200) / 30))
    assert relative_error(old.refine(changed, 1e-6), changed) <= 1e-6


# -------------------------------------------------------------------------------------------- record


def test_rounds_keep_the_tolerance_and_need_ever_less(tmp_path):
    adaptive = sm.HMatrix.adaptive(singular(512), rtol=1e-6)
    record = adaptive.refinement
    assert len(record) == 6
    assert record.errors.max() <= 1e-6
    assert (np.diff(record.nbytes) <= 0).all()
    assert record.nbytes[-1] == adaptive.nbytes
    assert record[-1].low_rank == sum(len(b) for level in adaptive.blocks.far for b in level)
    assert record.blocks[-1] == record[-1].low_rank + record[-1].dense
    assert record.max_ranks[-1] == adaptive.max_rank
    assert str(record).count("\n") == len(record) + 1


def test_record_is_drawn_and_saved(tmp_path):
    import matplotlib.pyplot as plt

    adaptive = sm.HMatrix.adaptive(singular(256), rtol=1e-4)
    figure, ax = plt.subplots()
    assert adaptive.refinement.plot(ax) is ax
    assert len(ax.lines[0].get_xdata()) == len(adaptive.refinement)
    plt.close(figure)
    adaptive.save(tmp_path / "adaptive.smz")
    again = sm.load(tmp_path / "adaptive.smz").refinement
    assert isinstance(again, RefinementRecord)
    assert again.rounds == adaptive.refinement.rounds
