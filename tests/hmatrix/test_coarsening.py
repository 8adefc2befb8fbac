"""Coarsening after the build: kernels against plain NumPy, errors against dense matrices, storage, what is kept."""

import numpy as np
import pytest

import structmat as sm
from structmat.engine import cpu_coarsen
from structmat.kernelfunctions import Laplace, Matern

N = 1100
DTYPES = [np.float64, np.complex128]


def smooth_block(rng, p, q, dtype, decay=0.3):
    """A block with singular values that fall by `decay`."""
    k = min(p, q)
    numbers = [
        rng.standard_normal((m, k)) + (1j * rng.standard_normal((m, k)) if dtype == np.complex128 else 0)
        for m in (p, q)
    ]
    u, v = (np.linalg.qr(a)[0] for a in numbers)
    return ((u * decay ** np.arange(k)) @ v.conj().T).astype(dtype)


def fewest(block, tail):
    values = np.linalg.svd(block, compute_uv=False)
    return int((np.sqrt(np.cumsum(values[::-1] ** 2))[::-1] > tail).sum())


def factors_at(out, start, rank, p, q):
    left = out[start : start + rank * p].reshape(rank, p).T
    right = out[start + rank * p : start + rank * (p + q)].reshape(rank, q).T
    return left, right


def check_form(block, out, start, rank, rest, squares, tail):
    p, q = block.shape
    left, right = factors_at(out, start, rank, p, q)
    error = np.linalg.norm(left @ right.conj().T - block)
    assert error <= tail
    # two errors that are nearly orthogonal
    assert 0.6 * rest <= error**2 <= 1.6 * rest + 1e-26
    np.testing.assert_allclose(left.conj().T @ left, np.eye(rank), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(right, axis=0) ** 2, squares[:rank], rtol=1e-10)
    assert fewest(block, tail) <= rank <= fewest(block, 0.5 * tail)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_blocks_become_low_rank_ones(dtype):
    rng = np.random.default_rng(0)
    p, q, limit, tail = 30, 23, 12, 1e-4
    blocks = np.stack([smooth_block(rng, p, q, dtype, decay) for decay in (0.1, 0.3, 0.9)] + [np.zeros((p, q), dtype)])
    blocks = blocks[::-1].copy()
    out, squares, cursor = np.empty(4 * limit * (p + q), dtype), np.zeros((4, limit)), np.zeros(1, np.int64)
    starts, ranks, rests = np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4)
    cpu_coarsen.dense_as_low_rank(blocks.copy(), tail, limit, out, cursor, starts, ranks, rests, squares)
    assert ranks[0] == 0
    assert ranks[1] == -1  # more than the limit would be needed
    for b in (2, 3):
        check_form(blocks[b], out, starts[b], ranks[b], rests[b], squares[b], tail)
    assert starts[2] == 0  # one after another: those before have rank 0 and none
    assert starts[3] == ranks[2] * (p + q)
    assert cursor[0] == ranks[2:].sum() * (p + q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_four_blocks_become_one(dtype):
    rng = np.random.default_rng(1)
    p, q, tail = 20, 17, 1e-5
    whole = smooth_block(rng, 2 * p, 2 * q, dtype)
    buffer, pool = np.zeros(9000, dtype), np.zeros(9000, dtype)
    given, child_starts, child_ranks = np.zeros((2, 4), bool), np.zeros((2, 4), np.int64), np.zeros((2, 4), np.int64)
    cursors = [0, 0]
    for c in range(4):
        part = whole[c // 2 * p : (c // 2 + 1) * p, c % 2 * q : (c % 2 + 1) * q]
        u, s, vh = np.linalg.svd(part)
        rank, where = fewest(part, 1e-9), c % 2
        given[:, c], child_starts[:, c] = where == 0, cursors[where]
        child_ranks[:, c] = rank
        numbers = np.concatenate([u[:, :rank].T.ravel(), (vh[:rank].conj() * s[:rank, None]).ravel()])
        (buffer, pool)[where][cursors[where] : cursors[where] + len(numbers)] = numbers
        cursors[where] += len(numbers)
    limits, starts, cursor = np.array([14, 3]), np.zeros(2, np.int64), np.zeros(1, np.int64)
    out, squares = np.empty(17 * 2 * (p + q), dtype), np.zeros((2, 14))
    ranks, rests = np.zeros(2, np.int64), np.zeros(2)
    cpu_coarsen.merge_blocks(
        buffer, pool, given, child_starts, child_ranks, p, q, tail, limits, out, cursor, starts, ranks, rests, squares
    )
    assert cursor[0] == ranks[0] * 2 * (p + q)
    check_form(whole, out, 0, ranks[0], rests[0], squares[0], tail)
    assert ranks[1] == -1


def helmholtz(x, y):
    """A complex symmetric kernel, as a plain function."""
    r = np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=2))
    return np.exp(5j * r) / (0.01 + r)


def one_sided(x, y):
    """A real kernel that is not symmetric."""
    d = x[:, None] - y[None]
    return d[..., 0] / (1e-3 + (d**2).sum(axis=2))


CASES = {
    "log": (Laplace(dim=2), False), "log, half": (Laplace(dim=2), True),
    "Matern, half": (Matern(1.5, length=0.2), True), "complex": (helmholtz, False), "one-sided": (one_sided, False),
}  # fmt: skip


@pytest.mark.parametrize("rtol", [1e-3, 1e-7])
@pytest.mark.parametrize("case", CASES)
def test_the_tolerance_holds_with_less_storage(case, rtol):
    kernel, symmetric = CASES[case]
    x = np.random.default_rng(2).random((N, 2))
    dense = kernel(x, x)
    given = sm.HMatrix.from_kernel(
        kernel, x, rtol=rtol, symmetric=symmetric, admissibility=sm.StrongAdmissibility(eta=2.0)
    )
    a = sm.HMatrix.from_kernel(kernel, x, rtol=rtol, symmetric=symmetric)
    error = np.linalg.norm(a.to_dense() - dense) / np.linalg.norm(dense)
    assert error <= rtol
    assert error <= a.certificate.upper_bound <= rtol
    assert a.nbytes < (0.9 if rtol > 1e-4 else 1.0) * given.nbytes
    assert a.symmetric == symmetric
    a.partition.require_cover()
    v = np.random.default_rng(3).standard_normal(N)
    np.testing.assert_allclose(a.H @ v, a.to_dense().conj().T @ v, atol=1e-10 * np.linalg.norm(dense))


def test_the_halves_of_a_symmetric_kernel_mirror_each_other():
    a = sm.HMatrix.from_kernel(Laplace(dim=2), np.random.default_rng(4).random((N, 2)), rtol=1e-6)
    dense = a.to_dense()
    np.testing.assert_allclose(dense, dense.T, rtol=1e-13, atol=1e-13)
    assert a.partition.is_symmetric
    blocks = a.blocks
    assert all(np.shares_memory(b.data, blocks.buffer) for b in blocks.near if len(b))


def test_what_was_asked_for_is_left_alone():
    x = np.random.default_rng(5).random((N, 2))
    tree = sm.ClusterTree.from_points(x, leaf_size=40)
    partition = sm.BlockPartition.build(tree)
    for options in ({"partition": partition}, {"admissibility": sm.StrongAdmissibility()}):
        a = sm.HMatrix.from_kernel(Laplace(dim=2), x, tree if "admissibility" in options else None, **options)
        for mine, asked in zip((*a.partition.far, *a.partition.near), (*partition.far, *partition.near), strict=True):
            np.testing.assert_array_equal(mine, asked)


def test_dense_blocks_stay_on_the_diagonal():
    a = sm.HMatrix.from_kernel(Matern(1.5, length=5.0), np.random.default_rng(6).random((N, 2)), symmetric=True)
    assert all((b.rows != b.cols).all() for level in a.blocks.far for b in level)
    near = a.blocks.near[-1]
    assert (near.rows == near.cols).sum() == a.row_tree.leaf_count


def test_long_and_short_rows_of_the_flat_pass():
    """Factors of short rows are asked for ahead, longer ones are not."""
    x = np.linspace(0.0, 1.0, 2500)
    for symmetric in (False, True):
        a = sm.HODLRMatrix.from_kernel(lambda s, t: 1 / (0.01 + abs(s[:, None] - t)), x, rtol=1e-8, symmetric=symmetric)
        v = np.random.default_rng(7).standard_normal(2500)
        dense = a.to_dense()
        np.testing.assert_allclose(a @ v, dense @ v, rtol=0, atol=1e-11 * np.linalg.norm(dense))
        np.testing.assert_allclose(a.H @ v, dense.T @ v, rtol=0, atol=1e-11 * np.linalg.norm(dense))
