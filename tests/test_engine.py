"""Every compiled kernel against a plain twin, on random ragged input."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.linalg

from structmat.blocks import BlockBatch, NestedBasis
from structmat.engine import cpu_rank, cpu_sketch, cpu_solve, cpu_ulv, dense, reference, slabs
from structmat.engine.cpu import jit, taken
from structmat.engine.routing import ScatterSum
from structmat.nested import NestedStorage
from structmat.nested.entries import entry_values
from structmat.testing import random_hss
from structmat.tree import ClusterTree

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def numbers(rng, *shape, dtype=np.float64):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def adjoint(a):
    return a.conj().swapaxes(-1, -2)


def near(a, b, dtype, factor=200.0):
    scale = max(float(np.linalg.norm(np.ravel(b))), 1e-30)
    return float(np.linalg.norm(np.ravel(a - b))) <= factor * np.finfo(dtype).eps * scale


# ------------------------------------------------------------------------------------- nested pass


def random_basis(rng, depth, leaf, dtype, interpolative):
    """Ragged widths by level and ranks by node (zero columns beyond); or identities in permuted rows."""
    arrays, ranks, orders, p = [], [], [], leaf
    for level in range(depth, 0, -1):
        k = int(rng.integers(0, 5))
        if interpolative:
            k = min(k, p)
            arrays.append(numbers(rng, 2**level, p - k, k, dtype=dtype))
            ranks.append(np.full(2**level, k))
            orders.append(np.argsort(rng.random((2**level, p)), axis=1).astype(np.int32))
            p = 2 * k
            continue
        rank = rng.integers(0, k + 1, 2**level)
        arrays.append(numbers(rng, 2**level, p, k, dtype=dtype) * (np.arange(k) < rank[:, None, None]))
        ranks.append(rank)
        p = 2 * k
    arrays = tuple(a.astype(dtype) for a in arrays[::-1])
    return NestedBasis(arrays, tuple(ranks[::-1]), tuple(orders[::-1]) if interpolative else None)


def random_blocks(rng, nodes, p, q, count, dtype, half):
    """`count` blocks anywhere (several in a row, some rows empty); with half, on and below the diagonal."""
    pairs = [(i, j) for i in range(nodes) for j in range(nodes) if not half or j <= i]
    chosen = np.array(pairs)[rng.permutation(len(pairs))[:count]].reshape(-1, 2)
    data = numbers(rng, len(chosen), p, q, dtype=dtype)
    on_diagonal = np.flatnonzero(chosen[:, 0] == chosen[:, 1]) if half else []
    if len(on_diagonal):
        data[on_diagonal] = data[on_diagonal] + adjoint(data[on_diagonal])
    return BlockBatch(data, chosen[:, 0], chosen[:, 1])


def random_storage(rng, depth, dtype, half, interpolative=False):
    p, q = (4, 4) if half else (5, 3)
    rows = random_basis(rng, depth, p, dtype, interpolative)
    cols = rows if half else random_basis(rng, depth, q, dtype, interpolative)
    couplings = tuple(
        random_blocks(rng, 2**level, rows.width(level), cols.width(level), 3 * 2**level // 2, dtype, half)
        for level in range(1, depth + 1)
    )
    near_field = random_blocks(rng, 2**depth, p, q, 2 * 2**depth, dtype, half)
    return NestedStorage(near_field, couplings, rows, cols, half=half)


def written_out(basis, level, node):
    own = basis[level][node]
    if level == basis.depth:
        return own
    k = own.shape[0] // 2
    return np.concatenate([written_out(basis, level + 1, 2 * node + s) @ own[s * k : s * k + k] for s in (0, 1)])


def storage_as_dense(storage):
    """Block by block, by the definition."""
    leaves = 2**storage.depth
    p, q = storage.near.data.shape[1:]
    out = np.zeros((leaves * p, leaves * q), dtype=storage.near.data.dtype)

    def put(block, i, j):
        rows, cols = block.shape
        out[i * rows : (i + 1) * rows, j * cols : (j + 1) * cols] += block
        if storage.half and i != j:
            out[j * cols : (j + 1) * cols, i * rows : (i + 1) * rows] += block.conj().T

    for block, i, j in zip(storage.near.data, storage.near.rows, storage.near.cols, strict=True):
        put(block, i, j)
    for level, batch in enumerate(storage.couplings, start=1):
        for block, i, j in zip(batch.data, batch.rows, batch.cols, strict=True):
            u, v = written_out(storage.row_basis, level, i), written_out(storage.col_basis, level, j)
            put(u @ block @ v.conj().T, i, j)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_nested_pass(rng, dtype, half, depth):
    for turn in range(6):
        storage = random_storage(rng, depth, dtype, half, interpolative=turn % 2 == 1)
        whole = storage_as_dense(storage)
        for adjointly in (False, True):
            a = whole.conj().T if adjointly else whole
            rows, cols = storage.near.data.shape[1:][:: -1 if adjointly else 1]
            for count in (1, 3):
                x = numbers(rng, 2**depth, cols, count, dtype=dtype)
                target, source = (storage.row_basis, storage.col_basis)[:: -1 if adjointly else 1]
                plain = reference.nested_apply(
                    storage.near, storage.couplings, target, source, x, half=half, adjointly=adjointly
                )
                fast = storage.apply(x, adjointly=adjointly)
                expected = (a @ x.reshape(-1, count)).reshape(2**depth, rows, count)
                scale = np.linalg.norm(a) * np.linalg.norm(x)
                eps = np.finfo(dtype).eps
                assert np.linalg.norm(plain - expected) <= 100 * eps * scale
                assert np.linalg.norm(fast - expected) <= 100 * eps * scale
                assert fast.dtype == dtype


def test_threads_share_a_large_pass(rng):
    tree = ClusterTree.balanced(3000, 20)
    matrix, whole = random_hss(rng, tree, 5, ragged=False)
    x = rng.standard_normal(3000)
    assert matrix.nbytes > dense.SERIAL_BYTES, "too small to run in parallel"
    assert near(matrix @ x, whole @ x, np.float64)
    assert near(matrix.H @ x, whole.T @ x, np.float64)


def test_the_pass_in_other_libraries(xp, rng):
    storage = random_storage(rng, 3, np.float64, True)
    whole = storage_as_dense(storage)

    def moved(batch):
        return BlockBatch(xp.asarray(batch.data), batch.rows, batch.cols)

    basis = storage.row_basis.map(xp.asarray)
    x = rng.standard_normal((8, 4, 2))
    there = NestedStorage(moved(storage.near), tuple(moved(b) for b in storage.couplings), basis, basis, half=True)
    y = xp.to_numpy(there.apply(xp.asarray(x), adjointly=False))
    assert np.allclose(y.reshape(-1, 2), whole @ x.reshape(-1, 2))


@pytest.mark.parametrize("slab", [1, 70, 1 << 22])  # one round at a time, two, all
def test_scatter_sum_by_its_definition(rng, slab, monkeypatch):
    monkeypatch.setattr(slabs, "SLAB", slab)
    blocks, targets = rng.standard_normal((19, 2, 3)), rng.integers(0, 7, 19)
    expected = np.zeros((7, 2, 3))
    np.add.at(expected, targets, blocks)
    assert np.allclose(ScatterSum(targets, 5)(blocks), expected[:5])  # what goes beyond is left out


def test_scatter_sum_that_only_permutes(rng):
    blocks, order = rng.standard_normal((6, 2, 3)), rng.permutation(6)
    assert np.array_equal(ScatterSum(order, 6)(blocks)[order], blocks)
    assert np.array_equal(ScatterSum(np.arange(6), 6)(blocks), blocks)
    assert np.array_equal(ScatterSum(np.zeros(0, dtype=np.int64), 3)(blocks[:0]), np.zeros((3, 2, 3)))


# -------------------------------------------------------------------------------- rank and interpolation


def run_pivoted_rows(blocks, tail, limit, spent=0.0):
    nb, p, _ = blocks.shape
    lower, order = np.empty((nb, p, limit), blocks.dtype), np.empty((nb, p), np.int64)
    ranks, left = np.zeros(nb, np.int64), np.empty(nb)
    noise = 8.0 * float(np.finfo(blocks.dtype).eps)
    cpu_rank.pivoted_rows(blocks.copy(), np.full(nb, tail), spent, noise, limit, lower, order, ranks, left, 0, nb)
    return lower, order, ranks, left


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tail", [1e-1, 1e-3])
def test_pivoted_rows_against_pivoted_qr(rng, dtype, tail):
    p, s = 14, 18
    blocks = np.stack([numbers(rng, p, p) * 0.4 ** np.arange(p) @ numbers(rng, p, s) for _ in range(6)]).astype(dtype)
    lower, order, ranks, left = run_pivoted_rows(blocks, tail, p)
    for block, factor, pivots, rank, rest in zip(blocks, lower, order, ranks, left, strict=True):
        _, r, columns = scipy.linalg.qr(adjoint(block), mode="economic", pivoting=True)
        remainder = np.array([np.linalg.norm(r[k:, k:]) for k in range(p)] + [0.0])
        assert rank == int((remainder > tail).sum()), "the rank differs from that of scipy's pivoted QR"
        assert np.array_equal(pivots[:rank], columns[:rank])
        assert abs(rest - remainder[rank]) <= 1e-3 * tail
        assert near(factor @ adjoint(factor), block @ adjoint(block), dtype, 1e3 + tail**2 / np.finfo(dtype).eps)
        assert sorted(pivots) == list(range(p))


def test_pivoted_rows_stop_at_the_limit_and_at_rounding(rng):
    blocks = numbers(rng, 3, 6, 2) @ numbers(rng, 3, 2, 9)
    assert (run_pivoted_rows(blocks, 0.0, 6)[2] == 2).all(), "rounding was taken for rank"
    lower, _order, ranks, left = run_pivoted_rows(blocks, 0.0, 1)
    assert (ranks == 1).all()
    rest = [np.linalg.norm(b @ b.T - f @ f.T) for b, f in zip(blocks, lower, strict=True)]
    assert np.allclose(left**2, [np.trace(b @ b.T - f @ f.T) for b, f in zip(blocks, lower, strict=True)])
    assert min(rest) > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_interpolation_solves_for_the_other_rows(rng, dtype):
    blocks = np.stack([numbers(rng, 10, k, dtype=dtype) @ numbers(rng, k, 12, dtype=dtype) for k in (1, 4, 2)])
    lower, order, ranks, _left = run_pivoted_rows(blocks, 1e-3, 10)
    assert list(ranks) == [1, 4, 2]
    rest = np.empty((3, 6, 4), dtype)
    cpu_rank.interpolation(lower, order, ranks, rest, 0, 3)
    for block, b, pivots, rank in zip(blocks, rest, order, ranks, strict=True):
        plain = block[pivots[4:]] @ np.linalg.pinv(block[pivots[:rank]])
        assert near(b[:, :rank], plain, dtype, 1e4)
        assert not b[:, rank:].any()


# ------------------------------------------------------------------------------------------- sketches


@pytest.mark.parametrize("dtype", DTYPES)
def test_nullify_against_an_explicit_null_space(rng, dtype):
    nb, b, s, p = 5, 4, 11, 6
    omega, y = numbers(rng, nb, b, s, dtype=dtype), numbers(rng, nb, p, s, dtype=dtype)
    own, outside, weakest = np.empty((nb, p, b), dtype), np.empty((nb, p, s - b), dtype), np.empty(nb)
    cpu_sketch.nullify(omega, y, own, outside, weakest, 0, nb)
    for t in range(nb):
        null = scipy.linalg.null_space(omega[t])
        assert near(own[t], y[t] @ np.linalg.pinv(omega[t]), dtype, 1e4)
        beyond = outside[t]  # up to a rotation of the null space
        assert near(beyond @ adjoint(beyond), y[t] @ null @ adjoint(y[t] @ null), dtype, 1e3)
    assert (weakest > 1e-3).all()


def test_nullify_sees_dependent_inputs(rng):
    omega = rng.standard_normal((2, 3, 8))
    omega[1, 2] = omega[1, 0] + omega[1, 1]
    weakest = np.empty(2)
    cpu_sketch.nullify(omega, rng.standard_normal((2, 4, 8)), np.empty((2, 4, 3)), np.empty((2, 4, 5)), weakest, 0, 2)
    assert weakest[0] > 1e-3
    assert weakest[1] < 1e-14


# -------------------------------------------------------------------------------------- eliminations


def product_of(vectors, taus):
    """H_0 H_1 .. with H = I - tau v v^H: v on and right of the diagonal, T^H of the compact form left of it."""
    k, n = vectors.shape
    reflectors = np.triu(vectors)
    out = np.eye(n, dtype=vectors.dtype)
    for v, tau in zip(reflectors, taus, strict=True):
        out = out @ (np.eye(n) - tau * np.outer(v, v.conj()))
    triangle = np.tril(vectors[:, :k], -1).conj().T + np.diag(taus)
    joined = np.eye(n) - reflectors.T @ triangle @ reflectors.conj()
    assert np.linalg.norm(joined - out) <= 100 * np.finfo(vectors.dtype).eps
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_reflectors(rng, dtype):
    for k, n in ((0, 5), (2, 6), (3, 4)):
        v = numbers(rng, n, dtype=dtype)
        original = v.copy()
        beta, tau = cpu_ulv.reflector(v, k, n)
        h = np.eye(n) - tau * np.outer(v, v.conj())
        expected = np.zeros(n, dtype)
        expected[k] = beta
        assert near((h.conj().T @ np.where(np.arange(n) < k, 0, original))[k:], expected[k:], dtype)
        assert near(h @ h.conj().T, np.eye(n), dtype)
        assert np.isrealobj(np.asarray(beta))


class Eliminated:
    """One batch of nodes, eliminated by the kernel, and the factors written out."""

    def __init__(self, rng, dtype, nb=4, p=9, k=3, kv=2):
        self.shape = nb, p, k, kv
        e = p - k
        self.d = numbers(rng, nb, p, p, dtype=dtype)
        self.u, self.v = numbers(rng, nb, p, k, dtype=dtype), numbers(rng, nb, p, kv, dtype=dtype)
        shapes = (k, p), (k,), (k, k), (e, p), (e,), (e, e), (k, e), (k, k), (kv, e), (k, kv)
        arrays = [np.empty((nb, *s), dtype) for s in shapes]
        self.weakest = np.empty(nb)
        cpu_ulv.ulv_eliminate(self.d, self.u, self.v, *arrays, self.weakest, 0, nb)
        (self.q, self.q_tau, self.rest, self.p_vectors, self.p_tau, self.lower, self.front, self.kept,
         self.gone,
         self.kept_basis) = arrays  # fmt: skip
        self.big_q = np.stack([product_of(*pair) for pair in zip(self.q, self.q_tau, strict=True)])
        self.big_p = np.stack([product_of(*pair) for pair in zip(self.p_vectors, self.p_tau, strict=True)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(4, 9, 3, 2), (3, 6, 0, 0), (2, 4, 4, 3), (1, 5, 1, 4)])
def test_ulv_elimination(rng, dtype, sizes):
    f = Eliminated(rng, dtype, *sizes)
    _nb, p, k, _kv = sizes
    e = p - k
    turned = adjoint(f.big_q) @ f.u
    assert near(turned[:, :k], f.rest, dtype)
    assert np.linalg.norm(turned[:, k:]) <= 100 * np.finfo(dtype).eps * np.linalg.norm(f.u)
    whole = adjoint(f.big_q) @ f.d @ f.big_p
    expected = np.zeros_like(whole)
    expected[:, :k, :e], expected[:, :k, e:], expected[:, k:, :e] = f.front, f.kept, f.lower
    assert near(whole, expected, dtype)
    assert np.array_equal(f.lower, np.tril(f.lower))
    basis = adjoint(f.big_p) @ f.v
    assert near(basis[:, :e], adjoint(f.gone), dtype)
    assert near(basis[:, e:], f.kept_basis, dtype)
    if e:
        # each pivot against the row that it was found in, whose size orthogonal columns do not change
        rows = np.linalg.norm((adjoint(f.big_q) @ f.d)[:, k:], axis=2)
        pivots = (np.abs(np.diagonal(f.lower, axis1=1, axis2=2)) / rows).min(axis=1)
        assert np.allclose(f.weakest, pivots, rtol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3])
def test_ulv_substitutions(rng, dtype, columns):
    module = cpu_solve if columns == 1 else cpu_ulv
    f = Eliminated(rng, dtype)
    nb, p, k, kv = f.shape
    e = p - k
    b = numbers(rng, nb, p, columns, dtype=dtype)
    x, kept, outgoing = b.copy(), np.empty((nb, k, columns), dtype), np.empty((nb, kv, columns), dtype)
    module.ulv_forward(f.q, f.q_tau, f.lower, f.front, f.gone, x, kept, outgoing, 0, nb)
    turned = adjoint(f.big_q) @ b
    z = np.linalg.solve(f.lower, turned[:, k:])
    assert near(x[:, :e], z, dtype, 1e4)
    assert near(kept, turned[:, :k] - f.front @ z, dtype, 1e4)
    assert near(outgoing, f.gone @ z, dtype, 1e4)
    module.ulv_backward(f.p_vectors, f.p_tau, x, kept, 0, nb)
    assert near(x, f.big_p @ np.concatenate([z, turned[:, :k] - f.front @ z], axis=1), dtype, 1e4)
    x = b.copy()
    module.ulv_adjoint_forward(f.p_vectors, f.p_tau, x, 0, nb)
    assert near(x, adjoint(f.big_p) @ b, dtype)
    x = b.copy()
    module.ulv_adjoint_backward(f.q, f.q_tau, f.lower, x, 0, nb)
    solved = np.linalg.solve(adjoint(f.lower), b[:, k:])
    assert near(x, f.big_q @ np.concatenate([b[:, :k], solved], axis=1), dtype, 1e4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3])
def test_cholesky_kernels(rng, dtype, columns):
    nb, p, k = 3, 8, 3
    e = p - k
    a = numbers(rng, nb, p, p, dtype=dtype)
    d = (a @ adjoint(a) + p * np.eye(p)).astype(dtype)
    u = numbers(rng, nb, p, k, dtype=dtype)
    q, q_tau, rest, lower, cross, kept = (
        np.empty((nb, *s), dtype) for s in ((k, p), (k,), (k, k), (e, e), (e, k), (k, k))
    )
    failed = np.ones(nb, dtype=np.bool_)
    cpu_ulv.cholesky_eliminate(d, u, q, q_tau, rest, lower, cross, kept, failed, 0, nb)
    assert not failed.any()
    big_q = np.stack([product_of(*pair) for pair in zip(q, q_tau, strict=True)])
    turned = adjoint(big_q) @ d @ big_q
    assert near(lower @ adjoint(lower), turned[:, k:, k:], dtype)
    assert near(lower @ cross, turned[:, k:, :k], dtype)
    assert near(kept, turned[:, :k, :k] - adjoint(cross) @ cross, dtype)
    module = cpu_solve if columns == 1 else cpu_ulv
    b = numbers(rng, nb, p, columns, dtype=dtype)
    x, left = b.copy(), np.empty((nb, k, columns), dtype)
    module.cholesky_forward(q, q_tau, lower, cross, x, left, 0, nb)
    rotated = adjoint(big_q) @ b
    y = np.linalg.solve(lower, rotated[:, k:])
    assert near(x[:, :e], y, dtype, 1e3)
    assert near(left, rotated[:, :k] - adjoint(cross) @ y, dtype, 1e3)
    above = numbers(rng, nb, k, columns, dtype=dtype)
    module.cholesky_backward(q, q_tau, lower, cross, x, above, 0, nb)
    expected = big_q @ np.concatenate([above, np.linalg.solve(adjoint(lower), y - cross @ above)], axis=1)
    assert near(x, expected, dtype, 1e3)


def test_cholesky_sees_what_is_not_definite(rng):
    d = np.stack([np.eye(5), np.diag([1.0, 1, 1, -1, 1])])
    u = np.zeros((2, 5, 1))
    u[:, 0] = 1
    arrays = [np.empty((2, *s)) for s in ((1, 5), (1,), (1, 1), (4, 4), (4, 1), (1, 1))]
    failed = np.zeros(2, dtype=np.bool_)
    cpu_ulv.cholesky_eliminate(d, u, *arrays, failed, 0, 2)
    assert list(failed) == [False, True]


# ------------------------------------------------------------------------------------- entries, dense


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_entry_values(rng, dtype, symmetric):
    matrix, whole = random_hss(rng, ClusterTree.from_points(rng.random((75, 2)), 6), 4, dtype, symmetric)
    i, j = rng.integers(0, 75, 400), rng.integers(0, 75, 400)
    assert near(entry_values(matrix, i, j), whole[i, j], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 6, 4), (5, 4, 6), (900, 12, 8), (3, 4, 0), (3, 0, 4)])
def test_batched_dense_algebra(rng, dtype, shape):
    nb, p, k = shape
    a, b = numbers(rng, *shape, dtype=dtype), numbers(rng, nb, k, 3, dtype=dtype)
    assert near(dense.matmul(a, b), np.matmul(a, b), dtype)
    target = numbers(rng, nb, p, 3, dtype=dtype)
    expected = target + np.matmul(a, b)
    assert near(dense.matmul(a, b, add_to=target), expected, dtype)
    assert near(target, expected, dtype)
    q, r = dense.qr(a)
    assert near(q @ r, a, dtype)
    small = min(p, k)
    assert q.shape == (nb, p, small)
    assert near(adjoint(q) @ q, np.broadcast_to(np.eye(small), (nb, small, small)), dtype)
    r_only = dense.triangular_factor(a)
    assert near(adjoint(r_only) @ r_only, adjoint(a) @ a, dtype)
    full, r = dense.complete_qr(a)
    assert full.shape == (nb, p, p)
    assert near(full @ r, a, dtype)
    u, s = dense.left_singular(a)
    assert near((u * s[:, None, :] ** 2) @ adjoint(u), a @ adjoint(a), dtype, 1e3)


def test_batched_solve(rng):
    for nb in (3, 2000):
        a, b = rng.standard_normal((nb, 5, 5)) + 5 * np.eye(5), rng.standard_normal((nb, 5, 2))
        assert np.allclose(a @ dense.solve(a, b), b)


@jit
def take_many(cursor, count, length, starts):
    for k in range(count):
        starts[k] = taken(cursor, length)


def test_places_are_taken_once_by_several_threads():
    cursor, starts = np.zeros(1, dtype=np.int64), np.zeros((4, 50_000), dtype=np.int64)
    take_many(cursor, 0, 3, starts[0])  # compiled before the threads start
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda mine: take_many(cursor, len(mine), 3, mine), starts))
    assert cursor[0] == 3 * starts.size
    np.testing.assert_array_equal(np.sort(starts, axis=None), 3 * np.arange(starts.size))
