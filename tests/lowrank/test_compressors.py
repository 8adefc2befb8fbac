"""Every compressor on matrices of known singular values, alone and in batches, against the best approximation."""

import numpy as np
import pytest

from structmat.exceptions import NonFiniteError, ShapeError
from structmat.kernelfunctions import Gaussian, Laplace
from structmat.lowrank import (
    ACA,
    Chebyshev,
    GeneralizedNystrom,
    Interpolative,
    LowRank,
    Nystrom,
    PivotedQR,
    RandomizedRange,
    TruncatedSVD,
    recompress,
)
from structmat.lowrank.compressor import DenseSource
from structmat.sources import EntrySource, KernelSource

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
GENERAL = [
    TruncatedSVD(),
    PivotedQR(),
    Interpolative(),
    ACA(),
    ACA(pivoting="full"),
    RandomizedRange(),
    GeneralizedNystrom(),
]
SHAPES = [(1, 1), (1, 50), (50, 1), (3, 70), (40, 90), (90, 40), (64, 64)]
# where the error is a projection's, its square is a difference of squares: the optimal rank, or one or two more
EXTRA_RANK = {TruncatedSVD: 0, ACA: 1, RandomizedRange: 1, GeneralizedNystrom: 1, PivotedQR: 3, Interpolative: 3}
by_name = pytest.mark.parametrize("method", GENERAL, ids=str)


def with_rtol(method, rtol):
    return type(method)(rtol, **({"pivoting": method.pivoting} if isinstance(method, ACA) else {}))


def numbers(rng, *shape, dtype):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x


def matrix(rng, shape, values, dtype):
    """A matrix with these singular values."""
    u, v = (np.linalg.qr(numbers(rng, n, min(shape), dtype=dtype))[0] for n in shape)
    padded = np.pad(np.asarray(values, float), (0, min(shape)))[: min(shape)]
    return ((u * padded) @ v.conj().T).astype(dtype)


def best(a, tolerance):
    """The smallest rank at which the singular values beyond are below the tolerance, in the Frobenius norm."""
    values = np.linalg.svd(a.astype(np.complex128), compute_uv=False)
    return int((np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]) > tolerance).sum())


def error(a, approximation):
    return float(np.linalg.norm(a - approximation.to_dense()))


@by_name
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tolerance_is_met_at_nearly_the_optimal_rank(rng, method, dtype):
    for shape in SHAPES:
        for rtol in (1e-1, 1e-3) if np.dtype(dtype).itemsize // (1 + (np.dtype(dtype).kind == "c")) == 4 else (
            1e-2, 1e-6, 1e-10,
        ):  # fmt: skip
            a = matrix(rng, shape, 0.3 ** np.arange(min(shape)), dtype)
            found = with_rtol(method, rtol)(a, rng=rng)
            size = float(np.linalg.norm(a))
            assert found.dtype == dtype
            assert found.shape == shape
            assert error(a, found) <= rtol * size * (1 + 1e-6)
            assert found.rank <= best(a, rtol * size) + EXTRA_RANK[type(method)]
            assert found.estimate <= 1.01 * rtol * size


@by_name
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_ranks_are_found(rng, method, dtype, shape):
    eps = np.finfo(dtype).eps
    for rank in {0, 1, min(5, *shape), min(shape)}:
        a = matrix(rng, shape, np.ones(rank), dtype)
        found = with_rtol(method, 1e3 * eps)(a, rng=rng)
        assert found.rank == rank
        assert error(a, found) <= 1e3 * eps * np.linalg.norm(a)


@by_name
def test_max_rank_is_kept_and_the_estimate_honest(rng, method):
    for values in (0.7 ** np.arange(60), np.r_[np.ones(30), np.full(20, 1e-3)]):
        a = matrix(rng, (60, 80), values, np.float64)
        for limit in (0, 1, 7, 25):
            found = method(a, max_rank=limit, rng=rng)
            assert found.rank <= limit
            true, optimal = error(a, found), float(np.linalg.norm(np.linalg.svd(a, compute_uv=False)[limit:]))
            assert true <= 4 * optimal
            assert true / 3 <= found.estimate <= 3 * true


@by_name
def test_batches_are_their_blocks_with_padding_left_out(rng, method):
    a = matrix(rng, (300, 200), 0.5 ** np.arange(200), np.complex128)
    rows = np.where(rng.random((9, 70)) < 0.2, -1, rng.integers(0, 300, (9, 70)))
    cols = np.where(rng.random((9, 50)) < 0.2, -1, rng.integers(0, 200, (9, 50)))
    rows[3], cols[4, 2:] = -1, -1  # a block without rows, and one with hardly any columns
    source = DenseSource(a)
    blocks = source.blocks(rows, cols)
    tail = 10.0 ** -rng.integers(3, 9, 9)
    batch = method.compress(source, rows, cols, tail, rng=rng)
    rest = np.linalg.norm(blocks - batch.left @ batch.right.conj().swapaxes(1, 2), axis=(1, 2))
    assert (rest <= tail * (1 + 1e-6)).all()
    assert len(batch) == 9
    assert batch.left.shape[2] == batch.right.shape[2] == batch.ranks.max()
    assert batch.ranks[3] == 0
    beyond = np.arange(batch.left.shape[2]) >= batch.ranks[:, None]
    assert not batch.left.swapaxes(1, 2)[beyond].any()
    assert not batch.right.swapaxes(1, 2)[beyond].any()
    assert not batch.left[rows < 0].any()
    assert not batch.right[cols < 0].any()


@by_name
def test_chunks_change_nothing_but_the_memory(rng, method, monkeypatch):
    a = matrix(rng, (200, 200), 0.5 ** np.arange(200), np.float64)
    rows, cols = rng.integers(0, 200, (2, 7, 40))
    whole = method.compress(DenseSource(a), rows, cols, rng=0)
    monkeypatch.setattr("structmat.lowrank.compressor.CHUNK_BYTES", 2 * 3 * 40 * 80 * 8)
    parts = method.compress(DenseSource(a), rows, cols, rng=0)
    assert len(parts) == 7
    blocks = a[rows[:, :, None], cols[:, None]]
    for batch in (whole, parts):
        rest = np.linalg.norm(blocks - batch.left @ batch.right.swapaxes(1, 2), axis=(1, 2))
        assert (rest <= 1e-8 * np.linalg.norm(blocks, axis=(1, 2))).all()


@by_name
def test_no_blocks_and_empty_blocks(method):
    source = DenseSource(np.ones((4, 5)))
    for shape in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        nb, p, q = shape
        batch = method.compress(source, np.zeros((nb, p), int), np.zeros((nb, q), int))
        assert batch.left.shape == (nb, p, 0)
        assert batch.right.shape == (nb, q, 0)
        assert batch.entries == 0


@by_name
def test_entries_are_counted_and_inputs_unchanged(rng, method):
    a = matrix(rng, (400, 300), 0.1 ** np.arange(10), np.float64)
    before = a.copy()
    counted = []

    def entries(i, j):
        block = a[np.ix_(i, j)]
        counted.append(block.size)
        return block

    found = method(entries, (400, 300), rng=rng)
    assert np.array_equal(a, before)
    assert found.entries == sum(counted) - 4  # the source looks at four entries to learn the type
    assert found.entries < 0.15 * a.size if method == ACA() else found.entries == a.size


@by_name
def test_nan_is_an_error_that_says_where(method):
    def entries(i, j):
        block = 1.0 / (1 + i[:, None] + j)
        block[(i == 17)] = np.nan
        return block

    with pytest.raises(NonFiniteError, match="returned nan at row 17"):
        method(entries, (80, 60), rng=0)
    with pytest.raises(NonFiniteError, match="a must be finite"):
        method(np.full((3, 3), np.inf))


def test_the_value_of_one_block():
    x = np.linspace(0, 1, 40)
    a = 1 / (2 + x[:, None] + x[:30])
    found = TruncatedSVD(1e-6)(a)
    assert isinstance(found, LowRank)
    assert found.rank == found.left.shape[1]
    assert found.method == "TruncatedSVD(rtol=1e-06)"
    assert repr(found).startswith("<LowRank (40, 30) of rank 3 by TruncatedSVD(rtol=1e-06), error ")
    dense = found.to_dense()
    for operand in (np.ones(30), np.ones((30, 2))):
        np.testing.assert_allclose(found @ operand, dense @ operand, rtol=1e-12)
    for operand in (np.ones(40), np.ones((2, 40))):
        np.testing.assert_allclose(operand @ found, operand @ dense, rtol=1e-12)
    with pytest.raises(ShapeError, match="x has 40 rows, but A has 30 columns"):
        found @ np.ones(40)
    with pytest.raises(ShapeError, match="x must end with 40 columns"):
        np.ones(30) @ found


def test_compressors_are_values():
    assert ACA(1e-6) == ACA(rtol=1e-6, pivoting="partial") != ACA(1e-6, pivoting="full")
    assert len({TruncatedSVD(1e-3), TruncatedSVD(1e-3), PivotedQR(1e-3)}) == 2
    assert repr(RandomizedRange(1e-3)) == "RandomizedRange(rtol=0.001)"


@pytest.mark.parametrize(
    ("call", "error_type", "message"),
    [
        (lambda: ACA(rtol=-1), ValueError, "rtol must be a finite number >= 0"),
        (lambda: ACA(pivoting="rook"), ValueError, 'pivoting must be "partial" or "full", but it is \'rook\''),
        (lambda: ACA()(np.ones(3)), ShapeError, "a must be 2-D"),
        (lambda: ACA()(np.ones((3, 3)), (3, 3)), TypeError, "a is an array, so no shape"),
        (lambda: ACA()(lambda i, j: 0), TypeError, "a function needs to know where"),
        (lambda: ACA()(np.ones((3, 3)), max_rank=-1), ValueError, "max_rank must be at least 0"),
        (lambda: compress(source=np.ones((3, 3))), TypeError, "source must be an EntrySource"),
        (lambda: compress(rows=np.arange(3)), ShapeError, "rows must be a 2-D array of integers"),
        (lambda: compress(cols=np.full((1, 3), 3)), IndexError, "cols holds 3, but the matrix has 3 cols"),
        (lambda: compress(rows=np.zeros((2, 3), int)), ShapeError, "rows and cols must hold as many blocks"),
        (lambda: compress(tail=np.ones(2)), ShapeError, "tail must be a number or one for each of the 1 blocks"),
        (lambda: compress(tail=np.nan), ValueError, "tail must hold finite numbers >= 0"),
        (lambda: Chebyshev()(np.ones((3, 3))), TypeError, "Chebyshev needs a kernel"),
        (lambda: Chebyshev()(Gaussian(), *np.ones((2, 5, 4))), ValueError, "the points have 4 coordinates"),
        (lambda: Nystrom()(np.ones((3, 4))), ShapeError, "Nystrom takes square blocks"),
    ],
)
def test_bad_input(call, error_type, message):
    with pytest.raises(error_type, match=message):
        call()


def compress(source=None, rows=None, cols=None, tail=None):
    source = DenseSource(np.ones((3, 3))) if source is None else source
    default = np.arange(3)[None]
    ACA().compress(source, default if rows is None else rows, default if cols is None else cols, tail)


# ------------------------------------------------------------------------------------- one method each


def test_recompression_is_the_svd_of_the_product(rng):
    left, right = numbers(rng, 5, 30, 8, dtype=complex), numbers(rng, 5, 20, 8, dtype=complex) * 0.1 ** np.arange(8)
    tail = 10.0 ** -np.arange(5)
    u, v, ranks, dropped = recompress(left, right, tail)
    product = left @ right.conj().swapaxes(1, 2)
    for b in range(5):
        values = np.linalg.svd(product[b], compute_uv=False)
        assert ranks[b] == best(product[b], tail[b])
        assert dropped[b] == pytest.approx(np.linalg.norm(values[ranks[b] : 8]), rel=1e-6, abs=1e-12)
        assert np.linalg.norm(product[b] - u[b] @ v[b].conj().T) == pytest.approx(dropped[b], rel=1e-6, abs=1e-12)


def test_a_skeleton_consists_of_rows(rng):
    a = matrix(rng, (60, 40), 0.4 ** np.arange(40), np.complex64)
    found = Interpolative(1e-3)(a)
    assert len(set(found.skeleton)) == found.rank
    np.testing.assert_array_equal(found.right.conj().T, a[found.skeleton])
    np.testing.assert_array_equal(found.left[found.skeleton], np.eye(found.rank))
    assert np.abs(found.left).max() < 10


def test_full_pivoting_never_falls_back(rng):
    a = matrix(rng, (150, 150), np.ones(150), np.float64)
    found = ACA(1e-8, pivoting="full")(a)
    assert (found.rank, found.fell_back) == (150, False)
    assert ACA(1e-8)(a, rng=0).fell_back


@pytest.mark.parametrize("method", [ACA(1e-6), RandomizedRange(1e-6), GeneralizedNystrom(1e-6)], ids=str)
def test_a_rank_that_is_too_high_falls_back(rng, method):
    a = matrix(rng, (150, 150), np.ones(150), np.float64)
    found = method(a, rng=rng)
    assert found.fell_back
    assert error(a, found) <= 1e-6 * np.linalg.norm(a)


@pytest.mark.parametrize("kind", ["batched", "one block a call", "entries"])
def test_every_kind_of_source_gives_the_same_accuracy(rng, kind):
    x, y = rng.random((120, 2)), rng.random((90, 2)) + [1.5, 0]
    kernel = Laplace(dim=2)
    source = {
        "batched": lambda: KernelSource(kernel, x, y),
        "one block a call": lambda: KernelSource(lambda s, t: kernel(s, t), x, y),
        "entries": lambda: EntrySource(lambda i, j: kernel(x[i], y[j]), (120, 90)),
    }[kind]()
    a = kernel(x, y)
    found = ACA(1e-7)(source, rng=rng)
    assert error(a, found) <= 1e-7 * np.linalg.norm(a)
    assert found.rank <= best(a, 1e-7 * np.linalg.norm(a)) + 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rtol", [1e-1, 1e-3])
def test_nystrom_on_positive_semidefinite_matrices(rng, dtype, rtol):
    for n in (1, 2, 30, 101):
        u = np.linalg.qr(numbers(rng, n, n, dtype=dtype))[0]
        a = ((u * 0.4 ** np.arange(n)) @ u.conj().T).astype(dtype)
        a = (a + a.conj().T) / 2
        for source in ((a,), (lambda i, j, a=a: a[np.ix_(i, j)], (n, n))):
            found = Nystrom(rtol)(*source, rng=rng)
            assert found.dtype == dtype
            assert error(a, found) <= rtol * np.linalg.norm(a)
            assert found.rank <= best(a, rtol * np.linalg.norm(a)) + 2
            assert not found.fell_back or n <= 30
            assert found.fell_back or found.entries < a.size or n < 101


def test_nystrom_sees_that_a_block_is_indefinite(rng):
    a = numbers(rng, 80, 80, dtype=float)
    cases = {
        "symmetric": a + a.T,
        "positive diagonal": np.ones((80, 80)) + np.triu(a, 1) + np.triu(a, 1).T,
        "zero diagonal": np.ones((80, 80)) - np.eye(80),
        "not symmetric": np.eye(80) * 0.01 + np.triu(np.ones((80, 80))),
    }
    for name, matrix in cases.items():
        found = Nystrom(1e-4)(matrix, rng=rng)
        assert found.fell_back, name
        assert error(matrix, found) <= 1e-4 * np.linalg.norm(matrix), name


def test_nystrom_with_max_rank(rng):
    x = rng.random(200)
    a = Gaussian(length=0.1)(x, x)
    found = Nystrom(1e-10)(a, max_rank=6, rng=rng)
    assert found.rank == 6
    assert not found.fell_back
    true = error(a, found)
    assert true / 3 <= found.estimate <= 3 * true
    assert true <= 4 * np.linalg.norm(np.linalg.svd(a, compute_uv=False)[6:])


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False])
def test_chebyshev_in_every_dimension(rng, dimension, batched):
    shift = np.eye(3)[0, :dimension] * 2.5
    x, y = rng.random((700, dimension)), rng.random((600, dimension)) + shift
    if dimension == 1:
        x, y = x[:, 0], y[:, 0]
    kernel = Laplace(dim=3)
    a = kernel(x, y)
    source = KernelSource(kernel if batched else lambda s, t: kernel(s, t), x, y)
    for rtol in (1e-2, 1e-4, 1e-6):
        found = Chebyshev(rtol)(source, rng=rng)
        size = np.linalg.norm(a)
        assert error(a, found) <= rtol * size
        assert found.rank <= best(a, rtol * size) + 2
        assert not found.fell_back
        assert rtol < 1e-4 or found.entries < 0.5 * a.size


def test_chebyshev_falls_back_where_the_kernel_is_not_smooth(rng):
    x = rng.random((200, 2))
    a = Laplace(dim=2)(x, x)
    found = Chebyshev(1e-4)(Laplace(dim=2), x, x, rng=rng)
    assert found.fell_back
    assert error(a, found) <= 1e-4 * np.linalg.norm(a)


def test_chebyshev_on_points_that_lie_on_a_line_or_coincide(rng):
    x = np.column_stack([rng.random(100), np.zeros(100)])
    y = np.column_stack([np.full(80, 3.0), np.full(80, 1.0)])
    found = Chebyshev(1e-6)(Laplace(dim=2), x, y, rng=rng)
    a = Laplace(dim=2)(x, y)
    assert found.rank == 1
    assert error(a, found) <= 1e-6 * np.linalg.norm(a)
