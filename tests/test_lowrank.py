"""Low-rank approximation of batches of blocks, against singular value decompositions."""

import numpy as np
import pytest

from structmat.lowrank import row_interpolation, truncated_range, truncated_svd

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
RANKS = [0, 1, 3, 7]


def batch(rng, dtype, p=12, s=20, decay=None):
    """Blocks of known ranks, or with singular values decay**j."""

    def numbers(*shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x

    if decay is not None:
        k = min(p, s)
        q, z = np.linalg.qr(numbers(4, p, k))[0], np.linalg.qr(numbers(4, s, k))[0]
        return ((q * decay ** np.arange(k)) @ z.conj().swapaxes(1, 2)).astype(dtype)
    return np.stack([numbers(p, k) @ numbers(k, s) for k in RANKS]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 20), (20, 9), (7, 7)])
def test_exact_ranks_are_found(rng, dtype, shape):
    blocks = batch(rng, dtype, *shape)
    eps = np.finfo(dtype).eps
    size = np.linalg.norm(blocks, axis=(1, 2))
    for method in (truncated_range, truncated_svd):
        basis, ranks, left = method(blocks.copy(), 100 * eps * size)
        assert list(ranks) == RANKS
        assert basis.dtype == dtype
        rest = blocks - basis @ (basis.conj().swapaxes(1, 2) @ blocks)
        assert (np.linalg.norm(rest, axis=(1, 2)) <= 100 * eps * size).all()
        assert (left <= 100 * eps * size).all()
    rest, order, ranks = row_interpolation(blocks.copy(), 100 * eps * size)
    assert list(ranks) == RANKS
    for block, interpolation, rows, rank in zip(blocks, rest, order, ranks, strict=True):
        assert sorted(rows) == list(range(shape[0]))
        assert not interpolation[:, rank:].any()
        error = np.linalg.norm(interpolation @ block[rows[:7]] - block[rows[7:]])
        assert error <= 1e3 * eps * max(np.linalg.norm(block), 1)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("tail", [1e-2, 1e-6, 1e-10])
def test_tolerances_are_kept_at_nearly_optimal_ranks(rng, dtype, tail):
    blocks = batch(rng, dtype, 30, 40, decay=0.4)
    values = np.linalg.svd(blocks[0], compute_uv=False)
    optimal = int((np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]) > tail).sum())
    for method, excess in ((truncated_range, 3), (truncated_svd, 1)):
        basis, ranks, left = method(blocks.copy(), np.full(4, tail))
        rest = np.linalg.norm(blocks - basis @ (basis.conj().swapaxes(1, 2) @ blocks), axis=(1, 2))
        assert (rest <= 1.01 * tail).all()
        assert (rest <= left * 1.01 + 1e-14).all(), "the bound is below the error"
        assert (ranks >= optimal).all()
        assert (ranks <= optimal + excess).all()
        gram = basis.conj().swapaxes(1, 2) @ basis
        expected = np.eye(basis.shape[2]) * (np.arange(basis.shape[2]) < ranks[:, None, None])
        assert np.allclose(gram, expected, atol=1e-13)


def test_interpolation_is_moderate(rng):
    blocks = batch(rng, np.float64, 40, 30, decay=0.3)
    rest, order, ranks = row_interpolation(blocks.copy(), np.full(4, 1e-7))
    k = rest.shape[2]
    assert k == ranks.max()
    assert np.abs(rest).max() < 10
    for block, interpolation, rows in zip(blocks, rest, order, strict=True):
        assert np.linalg.norm(interpolation @ block[rows[:k]] - block[rows[k:]]) < 2e-6


@pytest.mark.parametrize("method", [truncated_range, truncated_svd])
def test_max_rank_cuts_and_says_what_it_costs(rng, method):
    blocks = batch(rng, np.float64, 20, 20, decay=0.5)
    basis, ranks, left = method(blocks.copy(), np.full(4, 1e-12), max_rank=4)
    assert (ranks == 4).all()
    rest = np.linalg.norm(blocks - basis @ (basis.swapaxes(1, 2) @ blocks), axis=(1, 2))
    assert (rest <= left * (1 + 1e-10)).all()
    assert (left <= 4 * rest).all()


def test_max_rank_of_an_interpolation(rng):
    rest, _order, ranks = row_interpolation(batch(rng, np.float64, 20, 20, decay=0.5), np.full(4, 1e-12), max_rank=4)
    assert (ranks == 4).all()
    assert rest.shape == (4, 16, 4)


@pytest.mark.parametrize("shape", [(3, 5, 0), (3, 0, 5), (2, 4, 4)])
def test_empty_and_zero_blocks(shape):
    for method, place in ((truncated_range, 1), (truncated_svd, 1), (row_interpolation, 2)):
        result = method(np.zeros(shape), np.zeros(shape[0]))
        assert result[0].shape == (shape[0], shape[1], 0)
        assert not result[place].any()


def test_tiny_and_huge_numbers(rng):
    blocks = batch(rng, np.float64, 10, 10)
    for scale in (1e-120, 1e120):
        size = np.linalg.norm(blocks * scale, axis=(1, 2))
        assert list(truncated_range(blocks * scale, 1e-12 * size)[1]) == RANKS
