"""Sums, updates, recompression and norms of H2-matrices."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import structmat as sm
from structmat.blocks import padded_blocks, ragged_blocks
from structmat.engine import cpu_ragged
from structmat.h2 import ragged, truncate
from structmat.h2.ragged import Ragged, groups, multiply, qr_of_transposes
from structmat.h2.repartition import common_refinement, refined
from structmat.h2.truncate import Partners, chosen_ranks, orthogonalize, sandwiched, squared_norm
from structmat.testing import random_h2
from structmat.testing import strategies as draw
from tests.problems import relative_error

POINTS = np.random.default_rng(0).random((600, 2))
TREE = sm.ClusterTree.from_points(POINTS, 12)
LOG = sm.kernelfunctions.Laplace(dim=2)
SMOOTH = sm.kernelfunctions.Exponential(length=0.3)


@pytest.fixture(scope="module")
def log_matrix():
    return sm.H2Matrix.from_kernel(LOG, POINTS, TREE, rtol=1e-9)


@pytest.fixture(scope="module")
def waves():
    """A complex matrix, not square, over two point sets."""
    other = np.random.default_rng(1).random((350, 2))

    def kernel(x, y):
        r = np.linalg.norm(x[:, None] - y, axis=2)
        return np.exp(5j * r) / (0.02 + r)

    return sm.H2Matrix.from_kernel(kernel, POINTS, column_points=other, rtol=1e-9, leaf_size=12)


# --------------------------------------------------------------------------------- ragged matrices


def some_ragged(rng, count, dtype=np.complex128, largest=9):
    heights, widths = rng.integers(0, largest, count), rng.integers(0, largest, count)
    data = rng.standard_normal(int((heights * widths).sum())).astype(dtype)
    return Ragged(data * (1 + 1j) if np.dtype(dtype).kind == "c" else data, heights, widths)


def listed(a):
    return [a.data[s:e].reshape(h, w) for s, e, h, w in zip(a.starts, a.starts[1:], a.heights, a.widths, strict=False)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_copies_agree_with_their_plain_twins(rng, dtype):
    a = some_ragged(rng, 40, dtype)
    p, q = int(a.heights.max()) + 1, int(a.widths.max()) + 2
    padded = a.padded(np.arange(len(a)), p, q)
    assert np.array_equal(padded, padded_blocks(a.data, a.heights, a.widths, p, q))
    back = Ragged.zeros(a.heights, a.widths, a.data)
    back.put(np.arange(len(a)), padded)
    assert np.array_equal(back.data, ragged_blocks(padded, a.heights, a.widths))
    source, target = np.arange(30).astype(dtype) * (1 + 1j if np.dtype(dtype).kind == "c" else 1), np.zeros(40, dtype)
    table = np.array([[3, 5, 1, 4, 2, 3], [0, 4, 20, 6, 3, 2]])
    cpu_ragged.copy_adjoints(source, target, table, 0, 2)
    for start, stride, place, step, rows, columns in table:
        for i in range(rows):
            for j in range(columns):
                assert target[place + j * step + i] == source[start + i * stride + j].conj()
    assert np.count_nonzero(target) == np.count_nonzero(source[[3, 4, 5, 8, 9, 10, 0, 1, 4, 5, 8, 9]])


def test_groups_cover_all_items_once(rng, monkeypatch):
    sizes = rng.integers(0, 200, 300), rng.integers(1, 50, 300)
    monkeypatch.setattr(ragged, "PIECE", 1 << 12)
    for together in (1, 1 << 40):
        monkeypatch.setattr(ragged, "TOGETHER", together)
        seen = []
        for members, (p, q) in groups(*sizes):
            seen.append(members)
            assert sizes[0][members].max() <= p
            assert sizes[1][members].max() <= q
            if together == 1:
                assert p * q * len(members) <= max(1 << 12, p * q)
                assert p <= max(4, 1.34 * sizes[0][members].min()) + 4
        assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(300))


@pytest.mark.parametrize("together", [1, 1 << 40])
def test_products_and_qr_of_ragged_matrices(rng, monkeypatch, together):
    monkeypatch.setattr(ragged, "TOGETHER", together)
    a = some_ragged(rng, 30)
    widths = rng.integers(0, 9, 30)
    data = rng.standard_normal(int((a.widths * widths).sum())) * (1 - 2j)
    b = Ragged(data, a.widths, widths)
    turned = Ragged(np.concatenate([m.T.ravel() for m in listed(b)]), b.widths, b.heights)
    for x, y, c, d in zip(
        listed(a), listed(b), listed(multiply(a, b)), listed(multiply(a, turned, transpose=True, conjugate=True)),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(c, x @ y, atol=1e-12)
        np.testing.assert_allclose(d, x @ y.conj(), atol=1e-12)
    q, r = qr_of_transposes(a)
    for m, x, y in zip(listed(a), listed(q), listed(r), strict=True):
        np.testing.assert_allclose(x.T @ y, m.T, atol=1e-12)
        np.testing.assert_allclose(x.conj() @ x.T, np.eye(len(x)), atol=1e-12)


# ----------------------------------------------------------------------------------- recompression


@pytest.mark.parametrize("name", ["log_matrix", "waves"])
def test_orthogonal_bases_and_exact_norms(name, request):
    a = request.getfixturevalue(name)
    o = orthogonalize(a.blocks).blocks
    assert relative_error(sm.H2Matrix(o, a.row_tree, a.col_tree, a.certificate), a.to_dense()) < 1e-14
    for basis in (o.row_basis, o.col_basis):
        for level in range(1, basis.depth + 1):
            u = basis[level]
            gram = u.conj().swapaxes(1, 2) @ u
            assert np.allclose(
                gram, np.eye(u.shape[2]) * (np.arange(u.shape[2]) < basis.ranks[level - 1][:, None])[:, None]
            )
    assert np.isclose(np.sqrt(squared_norm(o)), np.linalg.norm(a.to_dense()), rtol=1e-13)


@pytest.mark.parametrize("rtol", [1e-11, 1e-7, 1e-3, 0.1])
@pytest.mark.parametrize("name", ["log_matrix", "waves"])
def test_truncation_spends_its_tolerance_and_knows_its_error(name, rtol, request):
    a = request.getfixturevalue(name)
    b = a.truncate(rtol=rtol)
    error = relative_error(b, a.to_dense())
    assert b.certificate.met
    assert b.certificate.confidence == 1.0
    assert error <= b.certificate.upper_bound
    if rtol > 1e-11:
        assert error >= 0.8 * rtol, "the tolerance was there to be used"
        assert error >= 0.9 * b.certificate.upper_bound, "the bound is nearly the error itself"
    assert b.symmetric == a.symmetric


def test_one_sided_truncation_has_exactly_the_error_that_it_says(rng):
    a, dense = random_h2(rng, sm.ClusterTree.balanced(200, 6), 6, np.complex128, ragged=False)
    found = orthogonalize(a.blocks)
    o = found.blocks
    rows, maps, square = truncate._cut(o.row_basis, Partners.of_rows(o, found.noise), (0.2 * a.norm()) ** 2, None)
    couplings = []
    for b, left, ranks in zip(o.couplings, maps, o.col_basis.ranks, strict=True):
        eyes = Ragged(np.concatenate([np.eye(k).ravel() for k in ranks]), ranks, ranks)
        couplings.append(sandwiched(b, left, eyes))
    cut = sm.H2Matrix(replace(o, couplings=tuple(couplings), row_basis=rows), a.row_tree, a.col_tree, a.certificate)
    assert cut.max_rank <= a.max_rank
    assert np.isclose(np.linalg.norm(cut.to_dense() - dense), np.sqrt(square), rtol=1e-10)
    assert 0.1 * a.norm() < np.sqrt(square) <= 0.2 * a.norm()


def test_recompression_beats_a_direct_build(log_matrix):
    direct = sm.H2Matrix.from_kernel(LOG, POINTS, TREE, rtol=1e-4)
    cut = log_matrix.truncate(rtol=1e-4)
    assert sum(r.sum() for r in cut.ranks) <= sum(r.sum() for r in direct.ranks)


def test_more_tolerance_never_takes_more_storage(log_matrix):
    sizes = [log_matrix.truncate(rtol=rtol).nbytes for rtol in (1e-12, 1e-8, 1e-6, 1e-4, 1e-2, 0.5)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_cap_on_the_ranks_is_kept_and_reported(log_matrix):
    with pytest.warns(sm.AccuracyWarning, match="raise max_rank"):
        capped = log_matrix.truncate(rtol=1e-9, max_rank=3)
    assert capped.max_rank == 3
    assert relative_error(capped, log_matrix.to_dense()) <= capped.certificate.upper_bound
    assert not capped.certificate.met
    with pytest.warns(sm.AccuracyWarning):
        assert log_matrix.truncate(rtol=1e-9, max_rank=0).max_rank == 0


def test_ranks_are_chosen_by_what_they_save():
    values = np.array([[2.0, 1.0, 0.1], [2.0, 1.0, 0.1]])
    none = np.zeros(2)
    assert chosen_ranks(values, np.array([1, 1]), none, 0.0, None).tolist() == [3, 3]
    assert chosen_ranks(values, np.array([1, 1]), none, 0.0201, None).tolist() == [2, 2]
    # ranks of the second node are ten times as dear
    assert chosen_ranks(values, np.array([1, 10]), none, 1.03, None).tolist() == [2, 1]
    assert chosen_ranks(values, np.array([1, 1]), none, 100.0, None).tolist() == [0, 0]
    assert chosen_ranks(values, np.array([1, 1]), np.array([0.02, 0.0]), 0.0, None).tolist() == [2, 3]
    assert chosen_ranks(values, np.array([1, 1]), none, 0.0, 1).tolist() == [1, 1]


def test_the_grouped_path_is_the_same(log_matrix, waves, monkeypatch):
    monkeypatch.setattr(ragged, "TOGETHER", 1)
    monkeypatch.setattr(ragged, "PIECE", 1 << 10)
    for a in (log_matrix, waves):
        b = a.truncate(rtol=1e-6)
        assert relative_error(b, a.to_dense()) <= b.certificate.upper_bound <= 1e-6


@settings(max_examples=12, deadline=None)
@given(draw.trees(60), draw.ranks(5), draw.dtypes(), draw.seeds(), st.booleans(), st.sampled_from([0.0, 1e-3, 0.3]))
def test_any_matrix_keeps_its_certificate(tree, rank, dtype, seed, symmetric, rtol):
    a, dense = random_h2(np.random.default_rng(seed), tree, rank, dtype, symmetric)
    cut = a.truncate(rtol=rtol)
    assert cut.certificate.met
    allowed = cut.certificate.upper_bound + 64 * np.finfo(dtype).eps  # of the dense twin
    assert np.linalg.norm(cut.to_dense() - dense) <= allowed * np.linalg.norm(dense)


# -------------------------------------------------------------------------------------------- sums


PARTITIONS = {
    "weak": sm.WeakAdmissibility(),
    "narrow": sm.StrongAdmissibility(0.8),
    "strong": sm.StrongAdmissibility(2.0),
    "any": lambda rows, cols, level, i, j: (i != j) & ((3 * i + 5 * j + level) % 4 < 2),
}


def on_partition(name, rng, symmetric=False, dtype=np.float64):
    partition = sm.BlockPartition.build(TREE, TREE, PARTITIONS[name])
    return random_h2(rng, TREE, 3, dtype, symmetric, partition=partition)


@pytest.mark.parametrize(("one", "other"), [("weak", "strong"), ("narrow", "weak"), ("any", "strong"), ("weak", "any")])
def test_sums_over_two_partitions(rng, one, other):
    half = "any" not in (one, other)
    (a, da), (b, db) = on_partition(one, rng, half, np.complex128), on_partition(other, rng, half)
    total = a + b
    assert relative_error(total, da + db) <= 1e-13
    assert total.symmetric == half
    total.partition.require_cover()
    assert np.isclose(sm.inner(a, b), np.vdot(da, db), rtol=1e-12)
    product = a.hadamard(b, rtol=1e-6)
    assert relative_error(product, da * db) <= product.certificate.upper_bound <= 1e-6


def test_refinement_is_exact_and_coarsest(rng):
    (a, da), (b, _) = on_partition("weak", rng), on_partition("any", rng)
    target = common_refinement(a.partition, b.partition)
    target.require_cover()
    same = common_refinement(a.partition, a.partition)
    assert all(np.array_equal(p, q) for p, q in zip(same.far, a.partition.far, strict=True))
    moved = sm.H2Matrix(refined(a.blocks, target), TREE, TREE, a.certificate)
    assert relative_error(moved, da) <= 1e-14
    assert all(np.array_equal(p, q) for p, q in zip(moved.partition.far, target.far, strict=True))
    # every admissible block is one of a or one of b
    for level, blocks in enumerate(target.far):
        mine = {tuple(x) for p in (a.partition, b.partition) for x in p.far[level]}
        assert {tuple(x) for x in blocks} <= mine


def test_differences_of_equal_matrices_have_rank_zero(log_matrix):
    nothing = log_matrix - log_matrix
    assert nothing.max_rank == 0
    assert nothing.norm() == 0.0
    other = sm.H2Matrix.from_kernel(LOG, POINTS, TREE, rtol=1e-9, symmetric=False)
    small = log_matrix - other  # other storage, other rounding
    assert small.norm() <= 1e-8 * log_matrix.norm()


def test_sums_are_recompressed_to_the_tolerance(log_matrix):
    b = sm.H2Matrix.from_kernel(SMOOTH, POINTS, TREE, rtol=1e-9)
    total = log_matrix.add(b, rtol=1e-5)
    assert relative_error(total, log_matrix.to_dense() + b.to_dense()) <= total.certificate.upper_bound <= 1e-5
    assert total.max_rank < log_matrix.max_rank + b.max_rank
    assert (log_matrix + log_matrix).max_rank <= log_matrix.max_rank


# ----------------------------------------------------------------------------------------- updates


def test_sparse_updates_of_the_near_field_leave_the_ranks(log_matrix):
    near = log_matrix.partition.near[TREE.depth]
    i = TREE.indices(TREE.depth, int(near[3, 0]))
    j = TREE.indices(TREE.depth, int(near[3, 1]))
    s = sparse.coo_array((np.arange(1.0, 1 + min(len(i), len(j))), (i[: len(j)], j[: len(i)])), shape=(600, 600))
    update = log_matrix._sparse_update(s, symmetric=False)
    assert update.max_rank == 0
    assert np.array_equal(update.to_dense(), s.toarray())
    assert relative_error(log_matrix + s, log_matrix.to_dense() + s.toarray()) <= 1e-9


@pytest.mark.parametrize("symmetric", [False, True])
def test_long_lines_have_a_small_rank(rng, symmetric):
    s = sparse.lil_array((600, 600))
    s[7, :] = rng.standard_normal(600)
    if symmetric:
        s[:, [7]] = s[[7], :].T
    a = sm.H2Matrix.from_sparse(s.tocsr(), TREE, symmetric=symmetric)
    assert relative_error(a, s.toarray()) <= 1e-12
    assert a.max_rank <= 2
    assert a.symmetric == symmetric


def test_scattered_entries_are_exact_to_the_tolerance(rng):
    s = sparse.random_array((600, 600), density=0.02, rng=rng)
    a = sm.H2Matrix.from_sparse(s, TREE, rtol=1e-3)
    assert relative_error(a, s.toarray()) <= a.certificate.upper_bound <= 1e-3
    assert a.certificate.entries == s.nnz
    assert relative_error(sm.H2Matrix.from_sparse(s, TREE), s.toarray()) <= 1e-12


def test_a_low_rank_matrix_is_itself(rng):
    u, v = rng.standard_normal((600, 2)), rng.standard_normal((600, 2)) * (1 + 1j)
    a = sm.H2Matrix.from_low_rank(u, v, TREE)
    assert relative_error(a, u @ v.conj().T) <= 1e-15
    assert a.max_rank == 2
    assert (a + sm.H2Matrix.from_low_rank(-u, v, TREE)).max_rank == 0
    assert a.add_low_rank(u, v).max_rank == 2


def test_add_diagonal_wants_dense_blocks_on_the_diagonal(rng):
    everything = sm.BlockPartition.build(TREE, TREE, lambda rows, cols, level, i, j: np.full(len(i), level == 2))
    a, dense = random_h2(rng, TREE, 3, partition=everything)
    with pytest.raises(sm.ShapeError, match=r"dense blocks on the diagonal.*diags_array"):
        a.add_diagonal(1.0)
    d = np.arange(600.0)
    assert relative_error(a + sparse.diags_array(d), dense + np.diag(d)) <= 1e-12


def test_a_hermitian_matrix_with_low_rank_blocks_on_the_diagonal(rng):
    everything = sm.BlockPartition.build(TREE, TREE, lambda rows, cols, level, i, j: np.full(len(i), level == 2))
    a, dense = random_h2(rng, TREE, 3, np.complex128, True, partition=everything)
    assert np.isclose(a.norm(), np.linalg.norm(dense), rtol=1e-13)
    cut = a.truncate(rtol=0.3)
    assert relative_error(cut, dense) <= cut.certificate.upper_bound <= 0.3
    assert relative_error(a + a, 2 * dense) <= 1e-13


# ------------------------------------------------------------------------------------- bad operands


def test_operands_that_do_not_fit(log_matrix, waves):
    with pytest.raises(sm.ShapeError, match="must have one shape"):
        log_matrix + waves
    other = sm.H2Matrix.identity(sm.ClusterTree.balanced(600, 12))
    for verb in (log_matrix.add, log_matrix.hadamard, lambda b: sm.inner(log_matrix, b)):
        with pytest.raises(sm.TreeMismatchError, match="need the same cluster tree"):
            verb(other)
    with pytest.raises(TypeError, match="convert one of them first"):
        log_matrix + sm.HSSMatrix.identity(TREE)
    with pytest.raises(TypeError, match="no factorisation"):
        sm.trace_of_solve(log_matrix, log_matrix)
    with pytest.raises(sm.ShapeError, match="s must have the shape of A"):
        log_matrix + sparse.eye_array(599)


def test_arrays_of_other_libraries_are_sent_to_the_cpu(log_matrix):
    strict = pytest.importorskip("array_api_strict")
    moved = log_matrix._with_arrays(strict.asarray)
    for verb in (lambda: moved.truncate(rtol=0.1), lambda: moved + moved, moved.norm):
        with pytest.raises(sm.DeviceError, match=r'to_device\("cpu"\)'):
            verb()


def test_the_operands_stay_as_they_were(log_matrix):
    before = log_matrix.to_dense()
    changed = log_matrix.add_diagonal(1.0)
    log_matrix.truncate(rtol=0.1)
    assert np.array_equal(log_matrix.to_dense(), before)
    assert relative_error(changed, before + np.eye(600)) <= 1e-15
    blocks = log_matrix.blocks
    assert replace(blocks, buffer=None).near.data is blocks.near.data


def test_norms_of_small_numbers_in_single_precision(log_matrix):
    small = log_matrix.astype(np.float32) * 1e-30  # whose squares would underflow
    assert small.norm() == pytest.approx(1e-30 * log_matrix.norm(), rel=1e-5)
    assert small.truncate(rtol=1e-3).certificate.met
