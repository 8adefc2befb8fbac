"""H2-matrices from products, with entries and without, against dense twins; products are counted."""

import warnings

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import structmat as sm
from structmat.exceptions import AccuracyWarning, SymmetryError, TooFewSamplesError
from structmat.h2.neighbours import neighbours
from structmat.h2.sketched import Sketch
from structmat.partition import BlockPartition, StrongAdmissibility, WeakAdmissibility
from tests.problems import Counter, dense_problem, relative_error

# the how-to pages and docstrings build some each time; all of these are for the nights
pytestmark = pytest.mark.slow

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
CHECKS = 10


def nonsymmetric(m, n, dtype):
    x, y = (np.arange(m) + 0.5) / m, (np.arange(n) + 0.5) / n
    difference = np.subtract.outer(x, y)
    a = np.exp(-np.abs(difference)) * (1.0 + 0.5 * np.sign(difference)) / (np.abs(difference) + 2.0 / max(m, n))
    return (a * np.exp(2j * difference) if np.dtype(dtype).kind == "c" else a).astype(dtype)


def hermitian(n, dtype):
    phase = np.exp(1j * np.subtract.outer(np.arange(n), np.arange(n)) / n)
    return (dense_problem("K", n) * (phase if np.dtype(dtype).kind == "c" else 1.0)).astype(dtype)


def plane(n, leaf_size):
    points = np.random.default_rng(0).random((n, 2))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    return np.log(distance + np.eye(n) / n), sm.ClusterTree.from_points(points, leaf_size)


def entries_of(dense):
    return lambda i, j: dense[np.ix_(i, j)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("n", "leaf_size"), [(1, 4), (3, 4), (61, 5), (801, 16)])
@pytest.mark.parametrize("with_entries", [True, False])
def test_against_dense(dtype, symmetric, n, leaf_size, with_entries):
    dense = hermitian(n, dtype) if symmetric else nonsymmetric(n, n, dtype)
    op = Counter(dense)
    tolerance = 1e-3 if np.finfo(dtype).eps > 1e-10 else 1e-8
    a = sm.H2Matrix.from_operator(
        op,
        leaf_size=leaf_size,
        rtol=tolerance,
        symmetric=symmetric,
        entries=entries_of(dense) if with_entries else None,
    )
    assert a.dtype == dtype
    assert a.symmetric == symmetric
    assert relative_error(a, dense) <= tolerance
    assert a.certificate.met
    assert a.certificate.products == op.forward + op.backward
    assert not (symmetric and op.backward)
    if n == 801:
        assert op.forward + op.backward < (100 if with_entries else 300)


@pytest.mark.parametrize("with_entries", [True, False])
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9, 1e-11])
def test_tolerances(rtol, with_entries):
    dense = nonsymmetric(1000, 1000, np.float64)
    a = sm.H2Matrix.from_operator(
        Counter(dense), leaf_size=16, rtol=rtol, entries=entries_of(dense) if with_entries else None
    )
    assert 1e-3 * rtol <= relative_error(a, dense) <= rtol
    reference = sm.H2Matrix.from_entries(entries_of(dense), a.row_tree, rtol=rtol)
    assert a.max_rank <= 1.5 * reference.max_rank + 2  # no noise of lower levels fitted to


@pytest.mark.parametrize("with_entries", [True, False])
@pytest.mark.parametrize("shape", [(640, 530), (530, 640)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_rectangular(shape, dtype, with_entries):
    trees = tuple(sm.ClusterTree.balanced(size, depth=5) for size in shape)
    dense = nonsymmetric(*shape, dtype)
    op = Counter(dense)
    a = sm.H2Matrix.from_operator(op, trees, rtol=1e-7, entries=entries_of(dense) if with_entries else None)
    assert relative_error(a, dense) <= 1e-7
    assert a.certificate.products == op.forward + op.backward
    assert op.backward > 0


@pytest.mark.parametrize("with_entries", [True, False])
@pytest.mark.parametrize("eta", [0.8, 2.0])
def test_plane(eta, with_entries):
    dense, tree = plane(1000, 8)
    partition = BlockPartition.build(tree, admissibility=StrongAdmissibility(eta))
    op = Counter(dense)
    a = sm.H2Matrix.from_operator(
        op, partition=partition, rtol=1e-4, symmetric=True, entries=entries_of(dense) if with_entries else None
    )
    assert relative_error(a, dense) <= 1e-4
    assert a.certificate.met
    assert op.forward < (80 if with_entries else 600 if eta == 2.0 else 1100)


@pytest.mark.parametrize("with_entries", [True, False])
def test_weak_admissibility(with_entries):
    dense = nonsymmetric(700, 700, np.float64)
    a = sm.H2Matrix.from_operator(
        Counter(dense), leaf_size=16, rtol=1e-7, admissibility=WeakAdmissibility(),
        entries=entries_of(dense) if with_entries else None,
    )  # fmt: skip
    assert relative_error(a, dense) <= 1e-7


def test_the_number_of_products_does_not_grow():
    counts = []
    for n in (1000, 2000):
        op = Counter(dense_problem("K", n))
        sm.H2Matrix.from_operator(op, sm.ClusterTree.balanced(n, depth=n // 1000 + 4), rtol=1e-6, symmetric=True)
        counts.append(op.forward)
    assert counts[1] <= 1.1 * counts[0] < 250


@pytest.mark.parametrize("with_entries", [True, False])
def test_starvation_is_cured(with_entries, monkeypatch):
    monkeypatch.setattr(Sketch, "first_count", lambda self: 2)
    monkeypatch.setattr("structmat.h2.nullified.Nullification.first_count", lambda self: 2)
    dense = hermitian(801, np.float64)
    op = Counter(dense)
    a = sm.H2Matrix.from_operator(
        op, leaf_size=16, rtol=1e-8, symmetric=True, entries=entries_of(dense) if with_entries else None
    )
    assert relative_error(a, dense) <= 1e-8
    assert op.forward > 2 + CHECKS


def test_full_rank_takes_the_columns(monkeypatch):
    dense = np.random.default_rng(0).standard_normal((300, 300))
    op = Counter(dense)
    a = sm.H2Matrix.from_operator(op, leaf_size=8, rtol=1e-8)
    assert relative_error(a, dense) <= 1e-8
    assert op.forward >= 300
    with pytest.raises(TooFewSamplesError, match="raise max_probes"):
        sm.H2Matrix.from_operator(op, leaf_size=8, rtol=1e-8, max_probes=250)
    monkeypatch.setattr("structmat.h2.from_products.BY_COLUMNS", 200)
    with pytest.raises(TooFewSamplesError, match="more than the 300 columns of the matrix do"):
        sm.H2Matrix.from_operator(op, leaf_size=8, rtol=1e-8)


@pytest.mark.parametrize("with_entries", [True, False])
def test_zero_and_low_rank(with_entries):
    generator = np.random.default_rng(0)
    low = generator.standard_normal((400, 3)) @ generator.standard_normal((3, 400))
    for dense, rank in ((np.zeros((400, 400)), 0), (low, 3)):
        a = sm.H2Matrix.from_operator(
            Counter(dense), leaf_size=8, rtol=1e-10, entries=entries_of(dense) if with_entries else None
        )
        assert a.max_rank == rank
        assert np.linalg.norm(a.to_dense() - dense) <= 1e-10 * np.linalg.norm(dense)


@pytest.mark.parametrize("with_entries", [True, False])
def test_noise(with_entries):
    dense = hermitian(801, np.float64)
    generator = np.random.default_rng(3)

    def noisy(x):
        y = dense @ x
        size = 1e-5 * np.linalg.norm(dense) / np.sqrt(len(y)) * np.linalg.norm(x, axis=0) / np.sqrt(len(x))
        return y + size * generator.standard_normal(y.shape)

    op = spla.LinearOperator(dense.shape, matvec=noisy, matmat=noisy, dtype=np.float64)
    options = {"leaf_size": 16, "symmetric": True, "noise": 1e-5}
    options["entries"] = entries_of(dense) if with_entries else None
    a = sm.H2Matrix.from_operator(op, rtol=1e-3, **options)
    assert relative_error(a, dense) <= 1e-3
    assert a.max_rank <= 12
    with pytest.raises(ValueError, match="ask for rtol >= 5e-05"):
        sm.H2Matrix.from_operator(op, rtol=1e-6, **options)


@pytest.mark.parametrize("with_entries", [True, False])
def test_max_probes(with_entries):
    dense = hermitian(801, np.float64)
    known = {"entries": entries_of(dense)} if with_entries else {}
    op = Counter(dense)
    message = "20 products are all that are allowed, but level 6 of the tree needs"
    with pytest.raises(TooFewSamplesError, match=message):
        sm.H2Matrix.from_operator(op, leaf_size=16, symmetric=True, max_probes=20, **known)
    assert op.forward <= 20 + CHECKS
    a = sm.H2Matrix.from_operator(op, leaf_size=16, symmetric=True, max_probes=200, **known)
    assert a.certificate.met


@pytest.mark.parametrize("with_entries", [True, False])
def test_max_rank_is_kept_and_said(with_entries):
    dense = hermitian(801, np.float64)
    with pytest.warns(AccuracyWarning, match="raise max_rank"):
        a = sm.H2Matrix.from_operator(
            Counter(dense), leaf_size=16, rtol=1e-8, max_rank=3, symmetric=True,
            entries=entries_of(dense) if with_entries else None,
        )  # fmt: skip
    assert a.max_rank == 3
    error = relative_error(a, dense)
    assert not a.certificate.met
    assert 0.3 * error <= a.certificate.estimate <= 3 * error


def test_bad_input():
    dense = nonsymmetric(400, 400, np.float64)
    with pytest.raises(SymmetryError, match="not Hermitian"):
        sm.H2Matrix.from_operator(Counter(dense), symmetric=True)
    one_way = spla.LinearOperator(dense.shape, matvec=lambda x: dense @ x, dtype=np.float64)
    with pytest.raises(TypeError, match="cannot multiply with its adjoint"):
        sm.H2Matrix.from_operator(one_way, leaf_size=8, rtol=1e-3)
    with pytest.raises(ValueError, match="entries and op are not of one matrix"):
        sm.H2Matrix.from_operator(Counter(dense), leaf_size=8, entries=entries_of(dense[::-1]))


def test_an_unmet_tolerance_is_said():
    dense = hermitian(801, np.float64)
    wrong = dense.copy()
    wrong[:300, 500:] *= 1.001
    wrong[500:, :300] *= 1.001
    with pytest.warns(AccuracyWarning):
        a = sm.H2Matrix.from_operator(
            Counter(dense), leaf_size=16, rtol=1e-8, symmetric=True, entries=entries_of(wrong)
        )
    assert not a.certificate.met


def test_the_same_for_the_same_seed():
    dense = hermitian(500, np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (
            sm.H2Matrix.from_operator(Counter(dense), leaf_size=16, rtol=1e-6, symmetric=True, rng=7) for _ in range(2)
        )
    assert np.array_equal(first.to_dense(), second.to_dense())


def test_neighbours_cover_what_is_not_admissible():
    _, tree = plane(200, 8)
    partition = BlockPartition.build(tree)
    lists = neighbours(partition)
    assert np.array_equal(lists[-1].pairs, partition.near[-1])
    for level in range(1, tree.depth + 1):
        above, here = lists[level - 1], lists[level]
        both = {tuple(p) for p in here.pairs} | {tuple(p) for p in partition.far[level]}
        assert len(both) == 4 * len(above.pairs)
        assert all((t // 2, s // 2) in {tuple(p) for p in above.pairs} for t, s in both)
