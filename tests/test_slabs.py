"""Products of blocks that are stored in less precision than the vectors: a slab at a time is widened."""

import numpy as np
import pytest

import structmat as sm
from structmat.blocks import BlockBatch, LowRankBatch
from structmat.engine import slabs
from structmat.engine.reference import apply_blocks, apply_low_rank
from structmat.kernelfunctions import Laplace

NODES = 7
ROWS, COLS = np.array([1, 4, 4, 4, 2, 4, 5]), np.array([0, 0, 4, 1, 2, 3, 3])


@pytest.fixture
def sizes(monkeypatch):
    """Numbers of each slab that is widened; a slab is four blocks of 5 x 5 numbers."""
    found, own = [], slabs.as_dtype_of

    def spy(a, x):
        if a.dtype != x.dtype:
            found.append(int(np.prod(a.shape)))
        return own(a, x)

    monkeypatch.setattr(slabs, "SLAB", 110)
    monkeypatch.setattr(slabs, "as_dtype_of", spy)
    return found


@pytest.mark.parametrize("kind", [np.float32, np.complex64])
@pytest.mark.parametrize("adjointly", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("columns", [1, 20])
def test_blocks_in_single_precision_times_vectors_in_double(xp, rng, sizes, kind, adjointly, half, columns):
    data = rng.standard_normal((7, 5, 5)) + (1j * rng.standard_normal((7, 5, 5)) if kind == np.complex64 else 0.0)
    wide = np.complex128 if kind == np.complex64 else np.float64
    data = data.astype(kind)
    x = rng.standard_normal((NODES, 5, columns)).astype(wide)
    narrow, twin = (BlockBatch(xp.asarray(d), ROWS, COLS) for d in (data, data.astype(wide)))
    how = {"half": half, "adjointly": adjointly}
    found = apply_blocks(narrow, xp.asarray(x), NODES, **how)
    assert max(sizes) <= 110
    assert sum(sizes) >= data.size
    wanted = apply_blocks(twin, xp.asarray(x), NODES, **how)
    np.testing.assert_allclose(xp.to_numpy(found), xp.to_numpy(wanted), atol=1e-14)


@pytest.mark.parametrize("adjointly", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_low_rank_blocks_in_single_precision(xp, rng, sizes, adjointly, half):
    factors = rng.standard_normal((2, 7, 5, 3)).astype(np.float32)
    x = rng.standard_normal((NODES, 5, 2))
    narrow = LowRankBatch(*(xp.asarray(f) for f in factors), ROWS, COLS)
    twin = LowRankBatch(*(xp.asarray(f.astype(np.float64)) for f in factors), ROWS, COLS)
    how = {"half": half, "adjointly": adjointly}
    found = apply_low_rank(narrow, xp.asarray(x), NODES, **how)
    assert max(sizes) <= 110
    assert sum(sizes) == factors.size
    wanted = apply_low_rank(twin, xp.asarray(x), NODES, **how)
    np.testing.assert_allclose(xp.to_numpy(found), xp.to_numpy(wanted), atol=1e-14)


def test_one_block_larger_than_a_slab(xp, rng, monkeypatch):
    monkeypatch.setattr(slabs, "SLAB", 1)
    a, x = rng.standard_normal((3, 4, 5)).astype(np.float32), rng.standard_normal((3, 5, 2))
    parts = [part for part, _ in slabs.widened(xp.asarray(x), xp.asarray(a))]
    assert parts == [slice(0, 1), slice(1, 2), slice(2, 3)]
    np.testing.assert_allclose(xp.to_numpy(slabs.times(xp.asarray(a), xp.asarray(x))), a @ x, atol=1e-14)


def test_no_blocks(xp):
    empty, x = xp.asarray(np.zeros((0, 4, 5), dtype=np.float32)), xp.asarray(np.zeros((0, 5, 2)))
    assert tuple(slabs.times(empty, x).shape) == (0, 4, 2)


def test_numbers_of_one_type_are_neither_copied_nor_divided(xp, rng, monkeypatch):
    monkeypatch.setattr(slabs, "SLAB", 1)
    a = xp.asarray(rng.standard_normal((3, 4, 5)))
    ((part, (same,)),) = slabs.widened(a, a)
    assert part == slice(0, 3)
    assert same is a


def test_a_matrix_in_mixed_precision_is_nowhere_wide_in_full(rng, monkeypatch):
    torch = pytest.importorskip("torch")
    points = rng.random((3000, 3))
    a = sm.H2Matrix.from_kernel(Laplace(dim=3), points, rtol=1e-4).to_mixed_precision(rtol=1e-4)
    there = a._with_arrays(torch.asarray)
    x = rng.standard_normal(3000)
    wanted, sizes, own = a @ x, [], slabs.as_dtype_of

    def spy(part, vectors):
        if part.dtype != vectors.dtype:
            sizes.append(part.numel())
        return own(part, vectors)

    monkeypatch.setattr(slabs, "SLAB", 1 << 16)
    monkeypatch.setattr(slabs, "as_dtype_of", spy)
    found = there @ torch.asarray(x)
    assert sum(sizes) * 4 > a.nbytes // 3
    assert max(sizes) <= 1 << 16
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0.0, atol=1e-12 * np.linalg.norm(wanted))
