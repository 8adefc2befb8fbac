"""The compiled kernels of cross approximation against plain NumPy, on random ragged input."""

import numpy as np
import pytest

from structmat.engine import cpu_aca

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def numbers(rng, *shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def near(a, b, dtype):
    return np.linalg.norm(np.ravel(a - b)) <= 500 * np.finfo(dtype).eps * max(np.linalg.norm(np.ravel(b)), 1)


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.__name__)
def state(request, rng):
    """Crosses of five blocks of 7 x 9, of ranks 0 to 4, and the three of them that are active."""
    dtype = request.param
    left, right = numbers(rng, 5, 6, 7, dtype=dtype), numbers(rng, 5, 6, 9, dtype=dtype)
    return dtype, left, right, np.arange(5), np.array([4, 0, 2])


def product(left, right, ranks, b):
    return left[b, : ranks[b]].T @ right[b, : ranks[b]]


def test_residuals(rng, state):
    dtype, left, right, ranks, active = state
    picks, values = np.array([6, 2, 0]), numbers(rng, 3, 9, dtype=dtype)
    i, j, sample = rng.integers(0, 7, (3, 11)), rng.integers(0, 9, (3, 11)), numbers(rng, 3, 11, dtype=dtype)
    rows, entries = values.copy(), sample.copy()
    cpu_aca.residual(rows, picks, active, ranks, left, right, 0, 3)
    cpu_aca.sampled_residual(entries, i, j, active, ranks, left, right, 0, 3)
    for a, b in enumerate(active):
        known = product(left, right, ranks, b)
        assert near(rows[a], values[a] - known[picks[a]], dtype)
        assert near(entries[a], sample[a] - known[i[a], j[a]], dtype)


def test_pivots(rng, state):
    dtype, _left, _right, _ranks, active = state
    values, visited = numbers(rng, 3, 9, dtype=dtype), np.zeros((5, 7), bool)
    pivots, sizes, picks = np.zeros(3, np.int64), np.zeros(3), np.array([6, 2, 0])
    cpu_aca.row_pivots(values, picks, active, visited, pivots, sizes, 0, 3)
    assert pivots.tolist() == np.abs(values).argmax(axis=1).tolist()
    assert near(sizes, np.abs(values).max(axis=1) ** 2, dtype)
    assert sorted(np.argwhere(visited).tolist()) == sorted([b, p] for b, p in zip(active, picks, strict=True))


def test_crosses(rng, state):
    dtype, left, right, ranks, active = state
    rows, columns = numbers(rng, 3, 9, dtype=dtype), numbers(rng, 3, 7, dtype=dtype)
    pivots, visited = np.array([8, 0, 3]), rng.random((5, 7)) < 0.4
    visited[0] = True  # no row is left there
    squares = np.array([np.linalg.norm(product(left, right, ranks, b)) ** 2 for b in range(5)])
    before, sizes, nexts = ranks.copy(), np.zeros(3), np.zeros(3, np.int64)
    cpu_aca.add_crosses(rows, columns, pivots, active, ranks, left, right, visited, squares, sizes, nexts, 0, 3)
    assert (ranks == before + np.isin(np.arange(5), active)).all()
    for a, b in enumerate(active):
        u = columns[a] / rows[a, pivots[a]]
        assert near(left[b, before[b]], u, dtype)
        assert near(right[b, before[b]], rows[a], dtype)
        assert near(np.sqrt(sizes[a]), np.linalg.norm(u) * np.linalg.norm(rows[a]), dtype)
        assert near(np.sqrt(squares[b]), np.linalg.norm(product(left, right, ranks, b)), dtype)
        free = np.where(visited[b], -1.0, np.abs(u))
        assert nexts[a] == (free.argmax() if b else -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_pivoting(rng, dtype):
    blocks = numbers(rng, 3, 8, 6, dtype=dtype)
    blocks[1] = np.outer(blocks[1, :, 0], blocks[1, 0])
    original, tail = blocks.copy(), np.array([0.5, 1e-3, 1e9]) * np.linalg.norm(blocks, axis=(1, 2))
    left, right = np.zeros((3, 6, 8), dtype), np.zeros((3, 6, 6), dtype)
    ranks, rest = np.zeros(3, np.int64), np.zeros(3)
    cpu_aca.full_crosses(blocks, tail, 1e-5, 6, left, right, ranks, rest, 0, 3)
    for b in range(3):
        plain, steps = original[b].copy(), 0
        while np.linalg.norm(plain) > tail[b]:
            i, j = np.unravel_index(np.abs(plain).argmax(), plain.shape)
            plain -= np.outer(plain[:, j], plain[i]) / plain[i, j]
            steps += 1
        assert ranks[b] == steps
        assert near(blocks[b], plain, dtype)
        assert near(original[b] - product(left, right, ranks, b), plain, dtype)
        assert near(rest[b], np.linalg.norm(plain), dtype)
    assert ranks.tolist()[1:] == [1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky_columns(rng, dtype):
    factor = numbers(rng, 2, 6, 6, dtype=dtype)
    a = factor @ factor.conj().swapaxes(1, 2)
    left, right = np.zeros((2, 6, 6), dtype), np.zeros((2, 6, 6), dtype)
    diagonal, squares = np.einsum("bii->bi", a).real.astype(float), np.zeros(2)
    ranks, active = np.zeros(2, np.int64), np.arange(2)
    rest = a.copy()
    for step in range(3):
        picks = np.array([step, 5 - step])
        columns = np.ascontiguousarray(rest[active, :, picks])
        cpu_aca.cholesky_columns(columns, picks, active, ranks, left, right, diagonal, squares, 0, 2)
        for b in active:
            rest[b] = a[b] - product(left, right, ranks, b)
            assert near(diagonal[b], rest[b].diagonal().real, dtype)
            assert near(rest[b][picks[b]], 0, dtype)
            assert near(np.sqrt(squares[b]), np.linalg.norm(a[b] - rest[b]), dtype)
    assert ranks.tolist() == [3, 3]
    cpu_aca.cholesky_columns(-columns * 0, picks, active, ranks, left, right, diagonal, squares, 0, 2)
    assert ranks.tolist() == [3, 3], "a pivot that is not positive adds nothing"
