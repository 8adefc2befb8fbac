"""Ragged storage: the pass over it, its padded form, and views of its blocks, against dense twins by the definition."""

import numpy as np
import pytest

from structmat.blocks import BlockBatch, NestedBasis, RaggedBasis, RaggedBatch, ragged_blocks
from structmat.exceptions import ShapeError
from structmat.h2.blocks import H2Blocks, chosen, turned
from structmat.nested import NestedStorage
from tests.h2.problems import DTYPES, adjoint, numbers, random_basis, random_storage


def product(storage, x, adjointly):
    y = storage.apply(x, adjointly=adjointly)
    return y.reshape(-1, x.shape[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("interpolative", [False, True])
def test_the_pass_over_ragged_ranks(rng, dtype, half, interpolative):
    for depth in (0, 1, 2, 4):
        storage, whole = random_storage(rng, depth, dtype, half, interpolative)
        for adjointly in (False, True):
            a = adjoint(whole) if adjointly else whole
            for count in (1, 3):
                x = numbers(rng, 1 << depth, a.shape[1] >> depth, count, dtype=dtype)
                expected = a @ x.reshape(-1, count)
                size = np.finfo(dtype).eps * np.linalg.norm(a) * np.linalg.norm(x)
                plain = storage._apply_reference(x, adjointly).reshape(-1, count)
                assert np.linalg.norm(plain - expected) <= 100 * size
                fast = product(storage, x, adjointly)
                assert fast.dtype == dtype
                assert np.linalg.norm(fast - expected) <= 100 * size


@pytest.mark.parametrize("half", [False, True])
def test_the_pass_in_other_libraries(xp, rng, half):
    storage, whole = random_storage(rng, 3, np.float64, half, False)
    blocks = H2Blocks(storage.near, storage.couplings, storage.row_basis, storage.col_basis, half).map(xp.asarray)
    there = NestedStorage(blocks.near, blocks.couplings, blocks.row_basis, blocks.col_basis, half=half)
    for adjointly in (False, True):
        a = whole.T if adjointly else whole
        x = rng.standard_normal((8, a.shape[1] >> 3, 2))
        y = xp.to_numpy(there.apply(xp.asarray(x), adjointly=adjointly))
        assert np.allclose(y.reshape(-1, 2), a @ x.reshape(-1, 2))


# -------------------------------------------------------------------------------------- padded and ragged


@pytest.mark.parametrize("interpolative", [False, True])
def test_padded_bases_and_back(rng, interpolative):
    basis = random_basis(rng, 4, 6, np.complex128, interpolative)
    padded = basis.ragged.padded()
    for level in range(1, 5):
        below = padded.width(level + 1) if level < 4 else None
        for node, own in enumerate(padded[level]):
            k = basis.ragged.ranks[level - 1][node]
            assert not own[:, k:].any()
            if below is not None:  # the rows of both children stand at the start of their halves
                counts = basis.ragged.ranks[level][2 * node : 2 * node + 2]
                own = np.concatenate([own[: counts[0]], own[below : below + counts[1]]])
            assert np.array_equal(own[:, :k], basis.nodes[level, node])
    again = RaggedBasis.of(padded)
    assert again.leaf_size == 6
    for mine, its in zip(again.levels, basis.ragged.full().levels, strict=True):
        assert np.array_equal(mine, its)


def test_an_interpolative_basis_stays_one(rng):
    order = np.argsort(rng.random((2, 5)), axis=1).astype(np.int32)
    basis = NestedBasis((numbers(rng, 2, 3, 2),), (np.array([2, 2]),), (order,))
    ragged = RaggedBasis.of(basis)
    assert ragged.orders is not None
    assert ragged.nbytes == basis.nbytes
    assert np.array_equal(ragged[1], basis[1])


def test_ragged_blocks_and_back(rng):
    heights, widths = np.array([2, 0, 3]), np.array([1, 4, 2])
    batch = RaggedBatch(rng.standard_normal(8), np.array([0, 1, 1]), np.array([1, 0, 1]), heights, widths)
    padded = batch.padded(3, 4)
    assert np.array_equal(padded.data[0, :2, :1].ravel(), batch.data[:2])
    assert np.array_equal(padded.data[2, :3, :2].ravel(), batch.data[2:])
    assert np.count_nonzero(padded.data) == 8
    assert np.array_equal(ragged_blocks(padded.data, heights, widths), batch.data)
    one = chosen(batch, np.array([2]))
    assert (len(one), one.heights[0], one.widths[0]) == (1, 3, 2)
    assert np.array_equal(one.data, batch.data[2:])


def test_wrong_sizes_are_refused(rng):
    basis = random_basis(rng, 3, 6, np.float64, True).ragged
    basis.require_sizes()
    levels = (basis.levels[0], np.append(basis.levels[1], 1.0), basis.levels[2])
    with pytest.raises(ShapeError, match="basis of level 2 has"):
        RaggedBasis(levels, basis.ranks, 6, basis.orders).require_sizes()
    twice = (*basis.orders[:2], np.zeros_like(basis.orders[2]))
    with pytest.raises(ShapeError, match="orders of level 3 are no permutations"):
        RaggedBasis(basis.levels, basis.ranks, 6, twice).require_sizes()
    with pytest.raises(ShapeError, match="2 ranks, none negative, on level 1"):
        RaggedBasis(basis.levels, (-basis.ranks[0] - 1, *basis.ranks[1:]), 6).require_sizes()


# ------------------------------------------------------------------------------------------- views of blocks


def as_dense(blocks):
    storage = NestedStorage(blocks.near, blocks.couplings, blocks.row_basis, blocks.col_basis, half=blocks.half)
    leaves, q = 1 << storage.depth, blocks.near.data.shape[2]
    eye = np.eye(leaves * q, dtype=blocks.near.data.dtype).reshape(leaves, q, leaves * q)
    return product(storage, eye, False)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("interpolative", [False, True])
def test_adjoint_conjugate_expanded_and_mapped(rng, half, interpolative):
    storage, whole = random_storage(rng, 3, np.complex128, half, interpolative)
    blocks = H2Blocks(storage.near, storage.couplings, storage.row_basis, storage.col_basis, half)
    assert np.allclose(as_dense(blocks), whole)
    assert np.allclose(as_dense(blocks.adjoint()), adjoint(whole))
    assert np.allclose(as_dense(blocks.conj()), whole.conj())
    assert not blocks.expanded().half
    assert np.allclose(as_dense(blocks.expanded()), whole)
    narrow = blocks.map(lambda a: a.astype(np.complex64))
    assert narrow.near.data.dtype == narrow.row_basis.levels[0].dtype == np.complex64
    assert np.allclose(as_dense(narrow), whole, atol=1e-3)
    b = storage.couplings[2]
    for k in range(len(b)):
        first = b.data[b.starts[k] : b.starts[k + 1]].reshape(b.heights[k], b.widths[k])
        back = turned(b)
        assert np.array_equal(back.data[back.starts[k] : back.starts[k + 1]], first.conj().T.ravel())


def test_blocks_without_levels(rng):
    none = RaggedBasis((), (), 0)
    block = BlockBatch(rng.standard_normal((1, 3, 3)), np.zeros(1, dtype=int), np.zeros(1, dtype=int))
    blocks = H2Blocks(block, (), none, none)
    assert blocks.depth == none.depth == none.max_rank == 0
    assert np.allclose(as_dense(blocks.adjoint()), block.data[0].T)
