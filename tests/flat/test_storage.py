"""The flat pass against its definition and its plain twin, on ragged blocks anywhere, in all array libraries."""

import numpy as np
import pytest

import structmat as sm
from structmat.blocks import BlockBatch, LowRankBatch
from structmat.engine import cpu_flat, dense, reference
from structmat.flat.entries import entry_values
from structmat.flat.storage import FlatBlocks, FlatStorage, by_rank
from structmat.testing import random_flat
from tests.flat.problems import DTYPES, FORMATS, eps, numbers


def random_places(rng, nodes, count, half):
    pairs = [(i, j) for i in range(nodes) for j in range(nodes) if not half or j <= i]
    return np.array(pairs)[rng.permutation(len(pairs))[:count]].reshape(-1, 2)


def random_storage(rng, depth, dtype, half):
    """Blocks of all levels, several in a place or none, of ranks from 0; they cover nothing in particular."""
    p, q = (4, 4) if half else (5, 3)
    near, far = [], []
    for level in range(depth + 1):
        rows, cols = p << (depth - level), q << (depth - level)
        places = random_places(rng, 1 << level, int(rng.integers(0, 2 << level)), half)
        data = numbers(rng, len(places), rows, cols, dtype=dtype)
        if half:
            own = data[places[:, 0] == places[:, 1]]
            data[places[:, 0] == places[:, 1]] = own + own.conj().swapaxes(1, 2)
        near.append(BlockBatch(data, places[:, 0], places[:, 1]))
        places = random_places(rng, 1 << level, int(rng.integers(0, 3 << level)), half)
        ranks = rng.integers(0, 4, len(places))
        left, right = numbers(rng, len(places), rows, 3, dtype=dtype), numbers(rng, len(places), cols, 3, dtype=dtype)
        if half:  # low-rank blocks on the diagonal are Hermitian
            right = np.where((places[:, 0] == places[:, 1])[:, None, None], left, right)
        far.append(tuple(by_rank(left, right, ranks, places[:, 0], places[:, 1])))
    return FlatStorage(FlatBlocks(tuple(near), tuple(far), half), p, q)


def as_dense(storage):
    """Block by block, by the definition."""
    (blocks,) = storage.parts
    leaves = 1 << blocks.depth
    out = np.zeros((leaves * storage.row_size, leaves * storage.col_size), dtype=blocks.near[-1].data.dtype)

    def put(block, i, j):
        rows, cols = block.shape
        out[i * rows : (i + 1) * rows, j * cols : (j + 1) * cols] += block
        if blocks.half and i != j:
            out[j * cols : (j + 1) * cols, i * rows : (i + 1) * rows] += block.conj().T

    for near, far in zip(blocks.near, blocks.far, strict=True):
        for block, i, j in zip(near.data, near.rows, near.cols, strict=True):
            put(block, i, j)
        for batch in far:
            for left, right, i, j in zip(batch.left, batch.right, batch.rows, batch.cols, strict=True):
                put(left @ right.conj().T, i, j)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_flat_pass(rng, dtype, half, depth):
    for _turn in range(4):
        storage = random_storage(rng, depth, dtype, half)
        whole = as_dense(storage)
        for adjointly in (False, True):
            a = whole.conj().T if adjointly else whole
            for count in (1, 3):
                size = storage.row_size if adjointly else storage.col_size
                x = numbers(rng, 2**depth, size, count, dtype=dtype)
                (b,) = storage.parts
                leaf = storage.col_size if adjointly else storage.row_size
                plain = reference.flat_apply(b.near, b.far, x, leaf, half=half, adjointly=adjointly)
                fast = storage.apply(x, adjointly=adjointly)
                expected = (a @ x.reshape(-1, count)).reshape(2**depth, leaf, count)
                allowed = 100 * eps(dtype) * (np.linalg.norm(a) * np.linalg.norm(x) + 1e-30)
                assert np.linalg.norm(plain - expected) <= allowed
                assert np.linalg.norm(fast - expected) <= allowed
                assert fast.dtype == dtype


def test_packing_keeps_the_blocks(rng):
    storage = random_storage(rng, 3, np.complex128, False)
    before = as_dense(storage)
    (packed,) = storage.packed()
    buffer = packed.buffer
    assert np.array_equal(as_dense(storage), before)
    assert not buffer.flags.writeable
    for batch in (b for level in storage.parts[0].far for b in level if b.left.size):
        assert np.shares_memory(batch.left, buffer), "a block is stored twice"


@pytest.mark.parametrize("half", [False, True])
def test_the_pass_in_other_libraries(xp, rng, half):
    storage = random_storage(rng, 3, np.float64, half)
    whole, (b,) = as_dense(storage), storage.parts
    near = tuple(BlockBatch(xp.asarray(n.data), n.rows, n.cols) for n in b.near)
    far = tuple(
        tuple(LowRankBatch(xp.asarray(f.left), xp.asarray(f.right), f.rows, f.cols) for f in level) for level in b.far
    )
    there = FlatStorage(FlatBlocks(near, far, half), storage.row_size, storage.col_size)
    for adjointly, a in ((False, whole), (True, whole.T)):
        x = rng.standard_normal((8, storage.row_size if adjointly else storage.col_size, 2))
        y = xp.to_numpy(there.apply(xp.asarray(x), adjointly=adjointly))
        assert np.allclose(y.reshape(-1, 2), a @ x.reshape(-1, 2))


@pytest.mark.parametrize("format", FORMATS)
def test_threads_share_a_large_pass(format, rng):
    matrix, whole = random_flat(rng, format, sm.ClusterTree.balanced(2000, 20), 5, ragged=False)
    x = rng.standard_normal((2000, 3))
    assert matrix.nbytes > dense.SERIAL_BYTES, "too small to run in parallel"
    for a, d in ((matrix, whole), (matrix.H, whole.T)):
        for operand in (x, x[:, 0]):
            assert np.linalg.norm(a @ operand - d @ operand) <= 1e-13 * np.linalg.norm(d) * np.linalg.norm(operand)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_entry_values(rng, dtype, symmetric):
    tree = sm.ClusterTree.from_points(rng.random((75, 2)), 6)
    for format in FORMATS:
        matrix, whole = random_flat(rng, format, tree, 4, dtype, symmetric)
        i, j = rng.integers(0, 75, 400), rng.integers(0, 75, 400)
        for a, d in ((matrix, whole), (matrix.T, whole.T), (matrix.conj(), whole.conj())):
            assert np.abs(entry_values(a, i, j) - d[i, j]).max() <= 100 * eps(dtype) * np.abs(d).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 6, 4), (5, 4, 6), (900, 12, 8), (3, 4, 0)])
def test_batched_svd(rng, dtype, shape):
    a = numbers(rng, *shape, dtype=dtype)
    u, s, v = dense.svd(a)
    assert np.linalg.norm((u * s[:, None, :]) @ v - a) <= 200 * eps(dtype) * np.linalg.norm(a)
    assert (np.diff(s, axis=1) <= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_long_rows_in_stretches(rng, dtype, rank):
    """The kernels of one vector on rows of more than one stretch; the sums are those of a wider type."""
    length = int(2.3 * cpu_flat.STRETCH)
    factor, x = (rng.standard_normal(shape) for shape in ((rank, length), length))
    if dtype == np.complex128:
        factor, x = factor + 1j * rng.standard_normal(factor.shape), x + 1j * rng.standard_normal(length)
    factor, x = factor.astype(dtype), x.astype(dtype)
    wide = np.clongdouble if dtype == np.complex128 else np.longdouble
    exact = factor.conj().astype(wide) @ x.astype(wide)
    # apart from rounding within stretches: that of partial sums, were they added one by one, is far more
    bound = 20 * np.finfo(dtype).eps * np.sqrt(length)
    zero, buffer = np.uint64(0), factor.ravel()
    count, size = np.uint64(rank), np.uint64(length)
    known = rng.standard_normal(rank).astype(dtype)
    expanded = known @ factor

    found = np.empty(rank, dtype=dtype)
    cpu_flat.project(buffer, zero, count, size, x, zero, found, zero, zero)
    np.testing.assert_allclose(found, exact.astype(dtype), atol=bound)
    y = np.ones(length, dtype=dtype)
    cpu_flat.expand(buffer, zero, count, size, known, y, zero, zero, zero)
    np.testing.assert_allclose(y, 1 + expanded, atol=bound)
    y, found = np.ones(length, dtype=dtype), np.empty(rank, dtype=dtype)
    cpu_flat.factor_both_ways(buffer, zero, count, size, known, x, zero, y, found)
    np.testing.assert_allclose(found, exact.astype(dtype), atol=bound)
    np.testing.assert_allclose(y, 1 + expanded, atol=bound)


def test_what_stretches_have_in_common_cancels_exactly():
    """Sums of stretches are added with compensation: parts of 1e16 leave the 1 between them as it is."""
    length = int(cpu_flat.STRETCH) * 3
    x = np.zeros(length)
    x[0], x[length // 2], x[-1] = 1e16, 1.0, -1e16
    found, zero = np.empty(1), np.uint64(0)
    cpu_flat.project(np.ones(length), zero, np.uint64(1), np.uint64(length), x, zero, found, zero, zero)
    assert found[0] == 1.0
    y, found = np.zeros(length), np.empty(1)
    cpu_flat.factor_both_ways(np.ones(length), zero, np.uint64(1), np.uint64(length), np.ones(1), x, zero, y, found)
    assert found[0] == 1.0
