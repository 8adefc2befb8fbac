"""H2 in files, summaries, pictures and other array libraries."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import structmat as sm
from structmat.plot import format_bytes, plot_ranks
from structmat.testing import random_flat
from tests.flat.problems import DTYPES
from tests.flat.test_files_and_pictures import area, rewritten


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def example(rng, dtype=np.float64, symmetric=False, n=130):
    tree = sm.ClusterTree.from_points(rng.random((n, 2)), 9)
    a, _ = random_flat(rng, sm.HMatrix, tree, 3, dtype, symmetric)
    return sm.H2Matrix.from_structured(a)


def interpolative(rng):
    return sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), rng.random((300, 2)), rtol=1e-4, leaf_size=16)


def arrays_of(matrix):
    b = matrix.blocks
    found = [b.near.data, b.near.rows, b.near.cols]
    found += [a for c in b.couplings for a in (c.data, c.rows, c.cols, c.heights, c.widths)]
    for basis in (b.row_basis, b.col_basis):
        found += [*basis.levels, *basis.ranks, *(basis.orders or ())]
    return found


def assert_same(a, b):
    assert (type(a), a.shape, a.dtype, a.symmetric) == (type(b), b.shape, b.dtype, b.symmetric)
    assert a.certificate == b.certificate
    assert (a.row_tree, a.col_tree) == (b.row_tree, b.col_tree)
    for x, y in zip(arrays_of(a), arrays_of(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_round_trip_bit_by_bit(tmp_path, dtype, symmetric, rng):
    a = example(rng, dtype, symmetric)
    for view in (a, a.T, a.H, a.conj()):
        view.save(tmp_path / "a.npz")
        b = sm.load(tmp_path / "a.npz")
        assert_same(view, b)
        assert np.allclose(b.to_dense(), view.to_dense(), atol=1e-5)


def test_interpolative_bases_and_small_matrices(tmp_path, rng):
    for a in (interpolative(rng), sm.H2Matrix.from_dense([[2.0]]), sm.H2Matrix.from_dense(np.ones((2, 3)))):
        a.save(tmp_path / "a.npz")
        b = sm.load(tmp_path / "a.npz")
        assert_same(a, b)
        assert b.nbytes == a.nbytes
        np.testing.assert_array_equal(b.to_dense(), a.to_dense())


def a_block_twice(_header, arrays):
    arrays["near/places"] = arrays["near/places"].copy()
    arrays["near/places"][1] = arrays["near/places"][0]


def another_rank(_header, arrays):
    arrays["row_ranks/3"] = arrays["row_ranks/3"] + 1


def a_node_that_is_not_there(_header, arrays):
    level = max(key.split("/")[1] for key in arrays if key.startswith("couplings/"))
    places = arrays[f"couplings/{level}/places"].copy()
    places[0, 0] = 1000
    arrays[f"couplings/{level}/places"] = places


def other_class(header, _arrays):
    header["class"] = "HSSMatrix"


def a_row_twice(_header, arrays):
    arrays["row_orders/2"] = arrays["row_orders/2"].copy()
    arrays["row_orders/3"] = np.zeros_like(arrays["row_orders/3"])


@pytest.mark.parametrize("change", [a_block_twice, another_rank, a_node_that_is_not_there, other_class, a_row_twice])
def test_files_that_are_no_matrix(tmp_path, change, rng):
    interpolative(rng).save(tmp_path / "good.npz")
    with pytest.raises(sm.FileFormatError, match="no valid matrix, though its checksum is right"):
        sm.load(rewritten(tmp_path / "good.npz", tmp_path / "bad.npz", change))


def test_truncated_files(tmp_path, rng):
    example(rng).save(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "bad.npz").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(sm.FileFormatError, match="truncated or damaged"):
            sm.load(tmp_path / "bad.npz")
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 1
    (tmp_path / "bad.npz").write_bytes(bytes(broken))
    with pytest.raises(sm.FileFormatError):
        sm.load(tmp_path / "bad.npz")


# ------------------------------------------------------------------------------------- text and pictures


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_summary_counts_what_is_stored(symmetric, rng):
    a = example(rng, np.complex64, symmetric, 300)
    lines = a.summary().splitlines()
    assert lines[0] == f"H2Matrix 300 x 300, complex64, {'' if symmetric else 'not '}Hermitian"
    b = a.blocks
    for level, coupling in enumerate(b.couplings, start=1):
        fields = lines[2 + level].split()
        assert fields[:2] == [str(level), str(len(coupling))]
        ranks = b.row_basis.ranks[level - 1]
        assert f"{ranks.min()} / {ranks.mean():.3g} / {ranks.max()}" in lines[2 + level]
        stored = coupling.nbytes + b.row_basis.levels[level - 1].nbytes
        assert lines[2 + level].endswith(
            format_bytes(stored + (0 if symmetric else b.col_basis.levels[level - 1].nbytes))
        )
    assert lines[-3].split()[:3] == [str(len(b.near)), "dense", "blocks"]
    assert f"total {format_bytes(a.nbytes)}, " in lines[-2]
    assert lines[-1] == f"certificate: {a.certificate}"


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_structure_shows_each_block_once(symmetric, rng):
    a = example(rng, symmetric=symmetric)
    partition = a.partition
    dense, low_rank = a.plot().collections
    assert (len(dense.get_paths()), len(low_rank.get_paths())) == (partition.near_count, partition.far_count)
    assert area(dense) + area(low_rank) == 130 * 130
    expected = [
        min(a.row_ranks[level - 1][i], a.col_ranks[level - 1][j])
        for level, places in enumerate(partition.far)
        for i, j in places
    ]
    assert list(low_rank.get_array()) == expected


def test_the_rank_tree(rng):
    a = example(rng)
    ax = plot_ranks(a)
    (boxes,) = ax.collections
    assert list(boxes.get_array()) == [r for ranks in a.ranks for r in ranks]
    widths = [np.ptp(path.vertices[:, 0]) for path in boxes.get_paths()]
    assert sum(widths) == 130 * a.row_tree.depth
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(k + 1) for k in range(a.row_tree.depth)]
    _, axes = plt.subplots()
    b, _ = random_flat(rng, sm.HMatrix, a.row_tree, 4)
    assert plot_ranks(b, axes) is axes
    largest = np.zeros(b.row_tree.leaf_count)
    for batch in b.blocks.far[-1]:
        np.maximum.at(largest, batch.rows, batch.rank)
    assert list(axes.collections[0].get_array()[-len(largest) :]) == list(largest)
    assert not plot_ranks(sm.H2Matrix.from_dense([[2.0]])).collections


# --------------------------------------------------------------------------------------- other libraries


@pytest.mark.parametrize("symmetric", [False, True])
def test_products_in_other_libraries(xp, symmetric, rng):
    for a in (example(rng, np.complex128, symmetric), interpolative(rng)):
        dense = a.to_dense()
        there = a._with_arrays(xp.asarray)
        x = rng.standard_normal((a.shape[1], 2)).astype(a.dtype)
        pairs = [(there, dense), (there.T, dense.T), (there.H, dense.conj().T), (there.conj(), dense.conj())]
        for view, twin in pairs:
            assert np.allclose(xp.to_numpy(view @ xp.asarray(x)), twin @ x)
        home = there.H.to_device("cpu")
        assert np.allclose(home.to_dense(), dense.conj().T)
