"""HODLR and H in files, summaries and pictures."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

import structmat as sm
from structmat.archive import _checksum
from structmat.plot import format_bytes, plot_partition, plot_structure
from structmat.testing import random_flat
from tests.cases import any_blocks
from tests.flat.problems import DTYPES, FORMATS


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# ------------------------------------------------------------------------------------------ files


def arrays_of(matrix):
    blocks = matrix.blocks
    found = [a for b in blocks.near for a in (b.data, b.rows, b.cols)]
    return found + [a for level in blocks.far for b in level for a in (b.left, b.right, b.rows, b.cols)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_round_trip_bit_by_bit(tmp_path, format, dtype, symmetric, rng):
    tree = sm.ClusterTree.from_points(rng.random((90, 2)), 8)
    a, _ = random_flat(rng, format, tree, 4, dtype, symmetric)
    for view in (a, a.T, a.H, a.conj()):
        view.save(tmp_path / "a.npz")
        b = sm.load(tmp_path / "a.npz")
        assert (type(b), b.dtype, b.symmetric, b.certificate) == (format, dtype, symmetric, view.certificate)
        for x, y in zip(arrays_of(view), arrays_of(b), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(b.row_tree.points, tree.points)
        np.testing.assert_array_equal(b.to_dense(), view.to_dense())


def rewritten(source, path, change):
    with np.load(source) as archive:
        arrays = {key: archive[key] for key in archive.files}
    header = json.loads(arrays["header"].tobytes())
    change(header, arrays)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    declared = {key: arrays[key] for key in header["arrays"]}
    arrays["checksum"] = np.frombuffer(_checksum(arrays["header"], declared), dtype=np.uint8)
    np.savez(path, **arrays)
    return path


def a_block_twice(_header, arrays):
    places = arrays["near/3/places"].copy()
    places[1] = places[0]
    arrays["near/3/places"] = places


def other_class(header, _arrays):
    header["class"] = "HSSMatrix"


def fewer_batches(header, _arrays):
    header["batches"] = header["batches"][:-1]


@pytest.mark.parametrize("change", [a_block_twice, other_class, fewer_batches])
def test_files_that_are_no_matrix(tmp_path, change, rng):
    a, _ = random_flat(rng, sm.HODLRMatrix, sm.ClusterTree.balanced(64, 8), 3)
    a.save(tmp_path / "good.npz")
    with pytest.raises(sm.FileFormatError, match="no valid matrix, though its checksum is right"):
        sm.load(rewritten(tmp_path / "good.npz", tmp_path / "bad.npz", change))


# -------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_summary_counts_what_is_stored(format, symmetric, rng):
    a, _ = random_flat(rng, format, sm.ClusterTree.balanced(300, 20), 5, np.complex64, symmetric)
    lines = a.summary().splitlines()
    assert lines[0] == f"{format.__name__} 300 x 300, complex64, {'' if symmetric else 'not '}Hermitian"
    assert lines[1] == "tree: depth 4, leaves of 18 or 19 indices"
    table = {int(line.split()[0]): line for line in lines[3:-2]}
    for level, batches in enumerate(a.blocks.far):
        count = sum(len(b) for b in batches)
        if not count:
            assert level == 4 or level not in table
            continue
        ranks = np.concatenate([np.full(len(b), b.rank) for b in batches])
        assert table[level].split()[1] == str(count)
        assert f"{ranks.min()} / {ranks.mean():.3g} / {ranks.max()}" in table[level]
        assert format_bytes(sum(b.nbytes for b in batches)) in table[level]
    assert table[4].endswith(format_bytes(a.blocks.near[4].nbytes))
    assert f"total {format_bytes(a.nbytes)}, " in lines[-2]
    assert lines[-1] == f"certificate: {a.certificate}"


# ---------------------------------------------------------------------------------------- pictures


def area(collection):
    return sum(np.ptp(path.vertices[:, 0]) * np.ptp(path.vertices[:, 1]) for path in collection.get_paths())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_structure_shows_each_block_once(format, symmetric, rng):
    a, _ = random_flat(rng, format, sm.ClusterTree.balanced(130, 9), 4, symmetric=symmetric)
    partition = a.partition
    _, axes = plt.subplots(1, 2)
    assert plot_structure(a, axes[1]) is axes[1]
    dense, low_rank = axes[1].collections
    assert (len(dense.get_paths()), len(low_rank.get_paths())) == (partition.near_count, partition.far_count)
    assert area(dense) + area(low_rank) == 130 * 130
    expected = [b.rank for level in a.blocks.expanded().far for b in level for _ in range(len(b))]
    assert sorted(low_rank.get_array()) == sorted(expected)


def test_partitions(rng):
    rows, cols = sm.ClusterTree.balanced(90, depth=4), sm.ClusterTree.balanced(53, depth=4)
    partition = sm.BlockPartition.build(rows, cols, any_blocks)
    ax = partition.plot()
    dense, far = ax.collections
    assert area(dense) + area(far) == 90 * 53
    levels = [level for level, b in enumerate(partition.far) for _ in range(len(b))]
    np.testing.assert_array_equal(far.get_array(), levels)
    assert ax.get_title() == f"{partition.far_count} admissible and {partition.near_count} dense blocks"
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 53), (90, 0))
    whole = sm.BlockPartition.build(sm.ClusterTree.balanced(5))
    assert len(plot_partition(whole).collections) == 1
