"""Mixed precision of HODLR and H-matrices: against the matrix in double precision, and what it says of its error."""

import numpy as np
import pytest

import structmat as sm
from structmat.engine import reference
from structmat.flat.entries import entry_values
from structmat.flat.storage import FlatStorage
from structmat.precision import affordable, narrowed
from tests.flat.problems import FORMATS, numbers
from tests.flat.test_storage import as_dense, random_storage

WIDER = {np.float32: np.float64, np.complex64: np.complex128}
TINY = np.finfo(np.float32).tiny


def kernel(x, y):
    r = np.linalg.norm(x[:, None] - y, axis=2)
    return np.exp(-3.0 * r) + np.log(np.where(r > 0.0, r, 0.01))


def helmholtz(x, y):
    return kernel(x, y) * np.exp(4j * (x[:, None, 0] - y[None, :, 0]))


def matrix_of(format, rtol, function=kernel, symmetric=False, n=400):
    dimension = 1 if format is sm.HODLRMatrix else 2
    x = np.random.default_rng(3).random((n, dimension))
    a = function(x, x)
    return format.from_dense(a, sm.ClusterTree.from_points(x, 12), rtol=0.5 * rtol, symmetric=symmetric), a


def distance(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# ------------------------------------------------------------------------------------------- the pass


@pytest.mark.parametrize("dtype", list(WIDER))
@pytest.mark.parametrize("half", [False, True])
def test_narrow_numbers_and_wide_vectors(rng, dtype, half):
    wide = WIDER[dtype]
    for depth in (0, 3):
        storage = random_storage(rng, depth, dtype, half)
        exact = as_dense(
            FlatStorage(storage.parts[0].map(lambda a: a.astype(wide)), storage.row_size, storage.col_size)
        )
        for adjointly in (False, True):
            size, leaf = (storage.row_size, storage.col_size)[:: 1 if adjointly else -1]
            for count in (1, 3):
                x = numbers(rng, 2**depth, size, count, dtype=wide)
                fast = storage.apply(x, adjointly=adjointly)
                (b,) = storage.parts
                plain = reference.flat_apply(b.near, b.far, x, leaf, half=half, adjointly=adjointly)
                expected = (exact.conj().T if adjointly else exact) @ x.reshape(-1, count)
                for y in (fast, plain):
                    assert y.dtype == wide
                    assert np.linalg.norm(y.reshape(-1, count) - expected) <= 1e-13 * np.linalg.norm(expected)


@pytest.mark.parametrize("half", [False, True])
def test_two_precisions_at_once(rng, half):
    for _turn in range(3):
        wide, narrow = random_storage(rng, 3, np.float64, half), random_storage(rng, 3, np.float32, half)
        storage = FlatStorage((*wide.parts, *narrow.parts), wide.row_size, wide.col_size)
        both = FlatStorage(narrow.parts[0].map(lambda a: a.astype(float)), wide.row_size, wide.col_size)
        exact = as_dense(wide) + as_dense(both)
        for count in (1, 4):
            x = rng.standard_normal((8, storage.col_size, count))
            y = storage.apply(x, adjointly=False).reshape(-1, count)
            assert np.linalg.norm(y - exact @ x.reshape(-1, count)) <= 1e-13 * np.linalg.norm(exact)


@pytest.mark.parametrize("format", FORMATS)
def test_other_libraries(xp, rng, format):
    a, _ = matrix_of(format, 1e-8, n=150)
    b = a.to_mixed_precision(rtol=1e-8)
    assert set(b.nbytes_by_dtype) == {"float64", "float32"}
    there = b._with_arrays(xp.asarray)
    assert there.nbytes_by_dtype.keys() == b.nbytes_by_dtype.keys()
    x = rng.standard_normal((150, 2))
    for turned, there_too in ((b, there), (b.T, there.T)):
        y = xp.to_numpy(there_too @ xp.asarray(x))
        assert y.dtype == np.float64
        assert distance(y, turned @ x) <= 1e-13
    assert there._with_arrays(xp.to_numpy).mixed_precision
    if "numpy" not in xp.name:
        with pytest.raises(sm.DeviceError, match="to_device"):
            there + there


# ------------------------------------------------------------------------------------ the whole matrix


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("function", [kernel, helmholtz])
def test_tolerance_is_met_and_products_agree(rng, format, symmetric, function):
    for rtol in (1e-3, 1e-6, 1e-10):
        a, exact = matrix_of(format, rtol, function, symmetric, n=256)
        b = a.to_mixed_precision(rtol=rtol)
        assert b.mixed_precision
        assert (b.dtype, b.symmetric, b.max_rank) == (a.dtype, a.symmetric, a.max_rank)
        double, dense = a.to_dense(), b.to_dense()
        rounding = distance(dense, double)
        assert rounding > 1e-12, "nothing was rounded"
        assert rounding <= (b.certificate.upper_bound - a.certificate.upper_bound) * 1.01
        assert distance(dense, exact) <= b.certificate.upper_bound <= b.certificate.asked == rtol
        share = b.nbytes_by_dtype[narrowed(np.zeros(1, b.dtype)).dtype.name] / b.nbytes
        assert share > (0.2 if rtol < 1e-7 else 0.9)
        assert b.nbytes < (0.9 if rtol < 1e-7 else 0.6) * a.nbytes
        x = numbers(rng, 256, 3, dtype=b.dtype)
        for matrix, d in ((b, dense), (b.T, dense.T), (b.H, dense.conj().T), (b.conj(), dense.conj())):
            assert distance(matrix @ x[:, 0], d @ x[:, 0]) <= 1e-13
            assert distance(matrix @ x, d @ x) <= 1e-13
            assert distance(x.T @ matrix, x.T @ d) <= 1e-13
        i, j = rng.integers(0, 256, (2, 3000))
        assert distance(entry_values(b, i, j), dense[i, j]) <= 1e-13
        assert distance(b.diagonal(), dense.diagonal()) <= 1e-14
        assert b.norm() == pytest.approx(np.linalg.norm(dense), rel=1e-13)
        assert b.partition.far[-1].tolist() == a.partition.far[-1].tolist()


@pytest.mark.parametrize("format", FORMATS)
def test_files_and_text(tmp_path, format):
    b = matrix_of(format, 1e-8)[0].to_mixed_precision(rtol=1e-8)
    for a in (b, b.T):
        a.save(tmp_path / "mixed.npz")
        loaded = sm.load(tmp_path / "mixed.npz")
        assert loaded.nbytes_by_dtype == a.nbytes_by_dtype
        assert loaded.certificate == a.certificate
        assert np.array_equal(loaded[:, :], a[:, :])
    assert "as float32" in repr(b)
    assert "as float32" in b.summary()
    plain = b.astype(np.float64)
    assert "as float32" not in plain.summary()
    assert [line.split()[:6] for line in plain.summary().splitlines()[3:-2]] != []
    assert (plain.partition.far[2] == b.partition.far[2]).all()


@pytest.mark.parametrize("format", FORMATS)
def test_arithmetic_goes_back_to_double(rng, format):
    a, _ = matrix_of(format, 1e-10, symmetric=True)
    b = a.to_mixed_precision(rtol=1e-9)
    dense = b.to_dense()
    x = rng.standard_normal(400)
    shifted = b.add_diagonal(2e3)
    for result, expected in (
        (b + b, 2 * dense),
        (-3.0 * b, -3 * dense),
        (b.truncate(rtol=1e-11), dense),
        (b.astype(np.float64), dense),
        (b.add_low_rank(x[:, None], x[:, None]), dense + np.outer(x, x)),
        (shifted, dense + 2e3 * np.eye(400)),
        (format.from_structured(b, rtol=1e-11), dense),
        (b.astype(np.complex128), dense),
    ):
        assert not result.mixed_precision
        assert distance(result.to_dense(), expected) <= 1e-8
    assert distance(b.astype(np.float64).to_dense(), dense) <= 1e-14
    assert b.astype(np.float32).nbytes_by_dtype.keys() == {"float32"}
    again = shifted.to_mixed_precision(rtol=1e-8)
    solution = again.factorize(positive_definite=True).solve(x)
    assert distance(again @ solution, x) <= 1e-6


def test_rounding_twice_adds_up():
    a, _ = matrix_of(sm.HMatrix, 1e-9)
    once = a.to_mixed_precision(rtol=2e-9)
    twice = once.to_mixed_precision(rtol=1e-8)
    assert a.certificate.upper_bound < once.certificate.upper_bound < twice.certificate.upper_bound <= 1e-8
    assert distance(twice.to_dense(), a.to_dense()) <= twice.certificate.upper_bound - a.certificate.upper_bound
    assert twice.nbytes < once.nbytes


# ------------------------------------------------------------------------------ where it must not round


@pytest.mark.parametrize("format", FORMATS)
def test_no_room_is_the_same_matrix(format):
    a, _ = matrix_of(format, 1e-6)
    assert a.to_mixed_precision(rtol=1e-14) is a
    assert not a.mixed_precision
    assert a.nbytes_by_dtype == {"float64": a.nbytes}
    single = a.astype(np.float32)
    assert single.to_mixed_precision(rtol=1e-2) is single
    exact = format.identity(sm.ClusterTree.balanced(50, 8))
    assert exact.to_mixed_precision() is exact


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("exponent", [-60, -30, 30, 60])
def test_scales(format, exponent):
    """All entries tiny or huge: nothing overflows, and nothing vanishes that counts."""
    a, _ = matrix_of(format, 1e-6, n=300)
    a = a * 10.0**exponent
    b = a.to_mixed_precision(rtol=1e-6)
    dense, double = b.to_dense(), a.to_dense()
    assert np.isfinite(dense).all()
    assert distance(dense, double) <= b.certificate.upper_bound - a.certificate.upper_bound <= 1e-6
    x = np.linspace(-1.0, 1.0, 300)
    assert distance(b @ x, dense @ x) <= 1e-13
    if abs(exponent) == 30:
        assert b.nbytes < 0.6 * a.nbytes


def test_blocks_outside_the_range_stay_double():
    """Rows and columns scaled from 1e-50 to 1e50: some blocks fit in float32, others do not."""
    a, exact = matrix_of(sm.HMatrix, 1e-12)
    scales = np.logspace(-25, 25, 400)[a.row_tree.perm.argsort()]
    exact = scales[:, None] * exact * scales
    scaled = sm.HMatrix.from_dense(exact, a.row_tree, rtol=1e-8)
    mixed = scaled.to_mixed_precision(rtol=1e-6)
    assert mixed.mixed_precision
    assert mixed.nbytes_by_dtype["float64"] > 0.01 * mixed.nbytes, "numbers of 1e50 cannot be float32"
    assert np.isfinite(mixed.to_dense()).all()
    assert distance(mixed.to_dense(), exact) <= mixed.certificate.upper_bound <= 1e-6
    for batch in mixed.parts[1].batches:
        for array in [batch.data] if hasattr(batch, "data") else [batch.left, batch.right]:
            assert np.isfinite(array).all()
            assert (np.abs(array[array != 0.0]) >= TINY).all(), "subnormal numbers make products slow"


def test_narrowed():
    a = np.array([1.0, 1e300, -1e39, 1e-40, 0.0, 1.0 + 2.0**-24, 1e-38])
    with np.errstate(all="raise"):
        b = narrowed(a)
    assert b.dtype == np.float32
    assert b.tolist() == [1.0, np.inf, -np.inf, 0.0, 0.0, 1.0, 0.0]
    assert narrowed(a[:1] + 1e-40j).tolist() == [1.0]


def test_affordable(rng):
    squares, sizes = rng.random(200) ** 8, rng.integers(1, 50, 200)
    squares[3] = np.inf
    for allowed in (0.0, 0.1, 1.0, 1e3):
        chosen = affordable(squares, sizes, allowed)
        assert squares[chosen].sum() <= allowed**2
        assert not chosen[3]
        left_out, price = ~chosen, squares / sizes
        if chosen.any():
            assert price[chosen].max() <= price[left_out].min()
            assert squares[chosen].sum() + squares[left_out][price[left_out].argmin()] > allowed**2
    assert affordable(squares, sizes, 1e3).sum() == 199
