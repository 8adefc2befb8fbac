"""Mixed precision of HSS and H2: against the matrix in double precision, and what is said of its error."""

import numpy as np
import pytest

import structmat as sm
from structmat.blocks import BlockBatch, RaggedBasis, RaggedBatch, chosen
from structmat.nested import NestedStorage
from structmat.nested.entries import entry_values
from structmat.nested.mixed import divide
from structmat.nested.storage import Across
from structmat.precision import narrowed
from structmat.testing import random_h2
from tests.flat.test_mixed import distance, helmholtz, kernel
from tests.h2.problems import adjoint, numbers, random_storage

FORMATS = [sm.HSSMatrix, sm.H2Matrix]
NARROWER = {np.float64: np.float32, np.complex128: np.complex64}


def matrix_of(format, rtol, function=kernel, symmetric=False, n=300):
    x = np.random.default_rng(3).random((n, 1 if format is sm.HSSMatrix else 2))
    a = function(x, x)
    return format.from_dense(a, sm.ClusterTree.from_points(x, 12), rtol=0.5 * rtol, symmetric=symmetric), a


# ------------------------------------------------------------------------------------------- the pass


def picked(batch, mark, dtype):
    if isinstance(batch, RaggedBatch):
        part = chosen(batch, np.flatnonzero(mark))
        return RaggedBatch(part.data.astype(dtype), part.rows, part.cols, part.heights, part.widths)
    return BlockBatch(batch.data[mark].astype(dtype), batch.rows[mark], batch.cols[mark])


def dense_of(storage, dtype):
    """By the plain pass in the type `dtype`; that pass is tested against the definition elsewhere."""
    leaves, q = 1 << storage.depth, storage.near.data.shape[2]
    wide = storage.map(lambda a: a.astype(dtype))
    unit = np.eye(leaves * q, dtype=dtype).reshape(leaves, q, -1)
    return wide._apply_reference(unit, False).reshape(-1, leaves * q)


def randomly_mixed(rng, depth, dtype, half, interpolative):
    """Blocks and levels of bases in one of two types, drawn at random, all of numbers that both have; a dense twin."""
    storage, _ = random_storage(rng, depth, NARROWER[dtype], half, interpolative)
    whole = dense_of(storage, dtype)
    batches = [storage.near, *storage.couplings]
    marks = [rng.random(len(b)) < rng.choice([0.0, 0.5, 1.0]) for b in batches]
    wide = [picked(b, ~mark, dtype) for b, mark in zip(batches, marks, strict=True)]
    narrow = [picked(b, mark, NARROWER[dtype]) for b, mark in zip(batches, marks, strict=True)]

    def mixed(basis):
        levels = tuple(a.astype(dtype) if rng.random() < 0.5 else a for a in basis.levels)
        return RaggedBasis(levels, basis.ranks, basis.leaf_size, basis.orders)

    rows = mixed(storage.row_basis)
    cols = rows if half else mixed(storage.col_basis)
    across = Across(narrow[0], tuple(narrow[1:]))
    return NestedStorage(wide[0], tuple(wide[1:]), rows, cols, half=half, narrow=across), whole


@pytest.mark.parametrize("dtype", list(NARROWER))
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("interpolative", [False, True])
def test_two_precisions_at_once(rng, dtype, half, interpolative):
    for depth in (0, 1, 3, 4):
        storage, whole = randomly_mixed(rng, depth, dtype, half, interpolative)
        turned, joined = storage.adjoint(), storage.stored()
        assert len(storage.nbytes_by_dtype) == 2
        assert sum(storage.nbytes_by_dtype.values()) == storage.nbytes
        assert joined.narrow is None
        assert joined.stored() is joined
        for adjointly in (False, True):
            a = adjoint(whole) if adjointly else whole
            for count in (1, 3):
                x = numbers(rng, 1 << depth, a.shape[1] >> depth, count, dtype=dtype)
                expected = a @ x.reshape(-1, count)
                size = np.linalg.norm(a) * np.linalg.norm(x)
                for y in (
                    storage.apply(x, adjointly=adjointly),
                    storage._apply_reference(x, adjointly),
                    joined.apply(x, adjointly=adjointly),
                    turned.apply(x, adjointly=adjointly if half else not adjointly),
                ):
                    assert y.dtype == dtype
                    assert np.linalg.norm(y.reshape(-1, count) - expected) <= 1e-14 * size


@pytest.mark.parametrize("half", [False, True])
def test_wide_vectors_and_a_narrow_matrix(rng, half):
    """A matrix all in single precision keeps the precision of its vectors."""
    storage, _ = random_storage(rng, 3, np.complex64, half, True)
    whole = dense_of(storage, np.complex128)
    for count in (1, 3):
        x = numbers(rng, 8, whole.shape[1] >> 3, count, dtype=np.complex128)
        y = storage.apply(x, adjointly=False).reshape(-1, count)
        assert np.linalg.norm(y - whole @ x.reshape(-1, count)) <= 1e-14 * np.linalg.norm(whole) * np.linalg.norm(x)


def test_other_libraries(xp, rng):
    for format in FORMATS:
        b = matrix_of(format, 1e-6, n=150)[0].to_mixed_precision(rtol=1e-6)
        there = b._with_arrays(xp.asarray)
        assert there.nbytes_by_dtype.keys() == b.nbytes_by_dtype.keys()
        x = rng.standard_normal((150, 2))
        for view, there_too in ((b, there), (b.T, there.T)):
            y = xp.to_numpy(there_too @ xp.asarray(x))
            assert y.dtype == np.float64
            assert distance(y, view @ x) <= 1e-13
        assert there._with_arrays(xp.to_numpy).mixed_precision


# ------------------------------------------------------------------------------------ the whole matrix


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("function", [kernel, helmholtz])
def test_tolerance_is_met_and_products_agree(rng, format, symmetric, function):
    n = 200
    for rtol, at_least in ((1e-6, 0.9), (6e-8, 0.05)):
        a, exact = matrix_of(format, rtol, function, symmetric, n)
        b = a.to_mixed_precision(rtol=rtol)
        assert b.mixed_precision
        assert (b.dtype, b.symmetric, b.max_rank) == (a.dtype, a.symmetric, a.max_rank)
        dense, rounding = b.to_dense(), distance(b.to_dense(), a.to_dense())
        bound = (b.certificate.upper_bound - a.certificate.upper_bound) / (1.0 + a.certificate.upper_bound)
        assert 1e-10 < rounding <= bound <= 10.0 * rounding
        assert distance(dense, exact) <= b.certificate.upper_bound <= b.certificate.asked == rtol
        narrow = b.nbytes_by_dtype[narrowed(np.zeros(1, b.dtype)).dtype.name]
        assert narrow > at_least * b.nbytes
        assert b.nbytes < (0.6 if at_least > 0.5 else 1.0) * a.nbytes
        x = numbers(rng, n, 3, dtype=b.dtype)
        for matrix, d in ((b, dense), (b.T, dense.T), (b.H, dense.conj().T), (b.conj(), dense.conj())):
            assert distance(matrix @ x[:, 0], d @ x[:, 0]) <= 1e-13
            assert distance(matrix @ x, d @ x) <= 1e-13
            assert distance(x.T @ matrix, x.T @ d) <= 1e-13
        i, j = rng.integers(0, n, (2, 3000))
        assert distance(entry_values(b, i, j), dense[i, j]) <= 1e-13
        assert distance(b.diagonal(), dense.diagonal()) <= 1e-14
        assert b.norm() == pytest.approx(np.linalg.norm(dense), rel=1e-13)


@pytest.mark.parametrize("half", [False, True])
def test_bound_for_bases_of_any_kind(rng, half):
    """Levels of norms from 1e-4 to 1e4: what is called a bound of the error is one, and the budget is kept."""
    tree = sm.ClusterTree.from_points(rng.random((70, 2)), 5)
    for _turn in range(5):
        storage = random_h2(rng, tree, 4, np.complex128, symmetric=half)[0]._storage
        bases = [
            RaggedBasis(tuple(a * 10.0 ** rng.uniform(-4, 4) for a in b.levels), b.ranks, b.leaf_size, b.orders)
            for b in storage.bases
        ]
        storage = NestedStorage(storage.near, storage.couplings, bases[0], bases[-1], half=half)
        exact = dense_of(storage, np.complex128)
        for rtol in (1e-9, 1e-7, 1e-5):
            divided = divide(storage, rtol)
            if divided is not None:
                assert distance(dense_of(divided.storage, np.complex128), exact) <= divided.error + 1e-15
                assert divided.error <= rtol
        assert len({a.dtype for b in divided.storage.bases for a in b.levels if a.size}) == 1, "1e-5 is ample"


@pytest.mark.parametrize("format", FORMATS)
def test_files_and_text(tmp_path, format):
    for symmetric, function in ((False, kernel), (True, helmholtz)):
        b = matrix_of(format, 6e-8, function, symmetric)[0].to_mixed_precision(rtol=6e-8)
        for view in (b, b.T, b.H):
            view.save(tmp_path / "mixed.npz")
            loaded = sm.load(tmp_path / "mixed.npz")
            assert type(loaded) is format
            assert loaded.certificate == view.certificate
            assert distance(loaded[:, :], view[:, :]) <= 1e-15
            if view is b:
                assert loaded.nbytes_by_dtype == view.nbytes_by_dtype
        name = narrowed(np.zeros(1, b.dtype)).dtype.name
        assert f"as {name}" in repr(b)
        assert f"as {name}" in b.summary()
        assert name not in b.astype(b.dtype).summary()
        tables = [m.summary().splitlines()[2] for m in (b, b.astype(b.dtype))]
        assert tables[0] == tables[1]


@pytest.mark.parametrize("format", FORMATS)
def test_arithmetic_goes_back_to_double(rng, format):
    a, _ = matrix_of(format, 1e-8, symmetric=True, n=150)
    b = a.to_mixed_precision(rtol=1e-6)
    dense, x = b.to_dense(), rng.standard_normal(150)
    for result, expected in (
        (b + b, 2 * dense),
        (-3.0 * b, -3 * dense),
        (b.truncate(rtol=1e-11), dense),
        (b.astype(np.float64), dense),
        (b.add_low_rank(x[:, None], x[:, None]), dense + np.outer(x, x)),
        (b.add_diagonal(2e3), dense + 2e3 * np.eye(150)),
        (b.astype(np.complex128), dense),
    ):
        assert not result.mixed_precision
        assert distance(result.to_dense(), expected) <= b.rtol == 1e-6
    assert distance(b.astype(np.float64).to_dense(), dense) <= 1e-14
    assert b.astype(np.float32).nbytes_by_dtype.keys() == {"float32"}
    if format is sm.HSSMatrix:
        shifted = b.add_diagonal(2e3).to_mixed_precision(rtol=1e-6)
        assert distance(shifted @ shifted.solve(x), x) <= 1e-10


# ------------------------------------------------------------------------------ where it must not round


@pytest.mark.parametrize("format", FORMATS)
def test_no_room_is_the_same_matrix(format):
    a, _ = matrix_of(format, 1e-6, n=150)
    assert a.to_mixed_precision(rtol=1e-14) is a
    assert not a.mixed_precision
    assert a.nbytes_by_dtype == {"float64": a.nbytes}
    single = a.astype(np.float32)
    assert single.to_mixed_precision(rtol=1e-2) is single
    once = a.to_mixed_precision(rtol=1e-6)
    twice = once.to_mixed_precision(rtol=1e-4)
    assert a.certificate.upper_bound < once.certificate.upper_bound <= twice.certificate.upper_bound <= 1e-4
    assert distance(twice.to_dense(), once.to_dense()) <= 1e-7


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("exponent", [-60, -30, 30, 60])
def test_scales(format, exponent):
    """All entries tiny or huge: nothing overflows, and nothing vanishes that counts."""
    a = matrix_of(format, 1e-6, n=150)[0] * 10.0**exponent
    b = a.to_mixed_precision(rtol=1e-6)
    dense, double = b.to_dense(), a.to_dense()
    assert np.isfinite(dense).all()
    assert distance(dense, double) <= b.certificate.upper_bound - a.certificate.upper_bound + 1e-15 <= 1e-6
    x = np.linspace(-1.0, 1.0, 150)
    assert distance(b @ x, dense @ x) <= 1e-13
    if abs(exponent) == 30:
        assert b.nbytes < 0.6 * a.nbytes


def test_on_the_fly_is_refused(rng):
    points = rng.random((300, 2))
    a = sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-4, on_the_fly=True)
    with pytest.raises(TypeError, match="stored"):
        a.to_mixed_precision(rtol=1e-3)
    assert a.stored().to_mixed_precision(rtol=1e-3).mixed_precision
