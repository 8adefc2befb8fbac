"""Summaries and pictures: what they say and show, not how they look."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import structmat as sm
from structmat import gallery
from structmat.plot import format_bytes, plot_structure, plot_tree


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def matrix():
    problem = gallery.problem_k(300)
    return sm.HSSMatrix.from_kernel(problem.kernel, problem.points, leaf_size=20, rtol=1e-6)


def numbers(ax):
    return [int(text.get_text()) for text in ax.texts]


def test_the_summary_counts_what_is_stored(matrix):
    lines = matrix.summary().splitlines()
    assert lines[0] == "HSSMatrix 300 x 300, float64, not symmetric"
    assert lines[1] == "tree: depth 4, leaves of 18 or 19 indices"
    table = [line.split() for line in lines[3:7]]
    assert [int(row[0]) for row in table] == [1, 2, 3, 4]
    assert [int(row[1]) for row in table] == [2, 4, 8, 16]
    for level, line in enumerate(lines[3:7]):
        r, c = matrix.row_ranks[level], matrix.col_ranks[level]
        assert f"{r.min()} / {r.mean():.3g} / {r.max()}" in line
        assert f"{c.min()} / {c.mean():.3g} / {c.max()}" in line
    assert f"total {format_bytes(matrix.nbytes)}" in lines[-2]
    assert f"{100 * matrix.nbytes / (8 * 300**2):.3g} % of 720 kB as a dense array" in lines[-2]
    assert lines[-1] == f"certificate: {matrix.certificate}"


def test_the_summary_of_a_hermitian_rectangular_or_tiny_matrix():
    tree = sm.ClusterTree.balanced(10, leaf_size=3)
    hermitian = sm.HSSMatrix.zeros(tree, np.complex64, symmetric=True)
    assert "complex64, Hermitian" in hermitian.summary()
    rectangular = sm.HSSMatrix.zeros((tree, sm.ClusterTree.balanced(16, depth=2)))
    assert "row leaves of 2 or 3, column leaves of 4 indices" in rectangular.summary()
    tiny = sm.HSSMatrix.identity(sm.ClusterTree.balanced(3))
    assert "level" not in tiny.summary()
    assert f"total {format_bytes(tiny.nbytes)}, " in tiny.summary()


def test_bytes_of_all_levels_add_up(matrix):
    lines = matrix.summary().splitlines()
    units = {"B": 1, "kB": 1e3, "MB": 1e6}
    parts = [float(line.split()[-2]) * units[line.split()[-1]] for line in lines[3:8]]
    assert sum(parts) == pytest.approx(matrix.nbytes, rel=0.02)


def test_the_structure_shows_each_block_once(matrix):
    ax = matrix.plot()
    dense, low_rank = ax.collections
    assert len(dense.get_paths()) == 16
    assert len(low_rank.get_paths()) == 2 + 4 + 8 + 16
    area = sum(
        np.ptp(path.vertices[:, 0]) * np.ptp(path.vertices[:, 1])
        for collection in (dense, low_rank)
        for path in collection.get_paths()
    )
    assert area == 300 * 300
    assert numbers(ax)[:2] == [int(min(matrix.row_ranks[0][t], matrix.col_ranks[0][1 - t])) for t in (0, 1)]
    assert ax.get_ylim() == (300, 0)
    assert ax.child_axes[0].get_ylabel() == "rank (grey: dense)"


def test_ranks_by_colour_are_the_true_ones(matrix):
    _, low_rank = matrix.plot().collections
    expected = [
        min(matrix.row_ranks[level - 1][t], matrix.col_ranks[level - 1][t ^ 1])
        for level in range(1, 5)
        for t in range(2**level)
    ]
    np.testing.assert_array_equal(low_rank.get_array(), expected)


def test_a_picture_goes_where_it_is_asked_to(matrix):
    _, axes = plt.subplots(1, 2)
    assert plot_structure(matrix, axes[1]) is axes[1]
    assert matrix.plot(ax=axes[0]) is axes[0]


def test_numbers_appear_only_where_there_is_room():
    """Thousands of blocks, and a few dozen numbers that can be read."""
    tree = sm.ClusterTree.balanced(2**11, leaf_size=1)
    ax = sm.HSSMatrix.zeros(tree).plot()
    assert len(ax.collections[1].get_paths()) == 2**12 - 2
    assert 10 <= len(ax.texts) <= 200
    assert min(text.get_fontsize() for text in ax.texts) >= 5
    small = plt.figure(figsize=(1, 1)).add_subplot()
    assert len(sm.HSSMatrix.zeros(tree).plot(small).texts) < len(ax.texts)


def test_a_single_block_and_a_rectangle():
    assert len(sm.HSSMatrix.identity(sm.ClusterTree.balanced(3)).plot().collections) == 1
    trees = sm.ClusterTree.balanced(60, depth=2), sm.ClusterTree.balanced(150, depth=2)
    ax = sm.HSSMatrix.zeros(trees).plot()
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 150), (60, 0))
    assert set(numbers(ax)) == {0}


def test_the_axes_say_whose_order_they_show(rng):
    points = rng.random(100)
    A = sm.HSSMatrix.from_kernel(lambda x, y: np.exp(-abs(x[:, None] - y)), points, leaf_size=16)
    assert A.plot().get_xlabel() == "column, in the order of the tree"


@pytest.mark.parametrize("dimension", [1, 2])
def test_clusters_of_a_tree(dimension, rng):
    tree = sm.ClusterTree.from_points(rng.random((100, dimension)), leaf_size=8)
    ax = plot_tree(tree)
    assert ax.get_title() == "level 3: 8 clusters"
    assert len(ax.collections[0].get_offsets()) == 100
    assert plot_tree(tree, ax, level=0).get_title() == "level 0: 1 cluster"


def test_clusters_that_cannot_be_drawn(rng):
    tree = sm.ClusterTree.from_points(rng.random((100, 3)), leaf_size=8)
    with pytest.raises(ValueError, match="drawn in 1-D and 2-D, but the points have 3 coordinates"):
        plot_tree(tree)
    with pytest.raises(ValueError, match="level must be between 0 and the tree's depth, 4, but it is 5"):
        plot_tree(tree, level=5)
