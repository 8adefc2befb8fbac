"""Cluster trees: balanced, from points, their arrays, and the way between vectors and leaf blocks."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import structmat as sm
from structmat.testing import strategies
from structmat.tree import _order_within, as_tree_pair, positions_of


def check_invariants(tree):
    n, depth = tree.n, tree.depth
    assert sorted(tree.perm) == list(range(n))
    assert np.array_equal(tree.perm[tree.inverse_perm], np.arange(n))
    for level in range(depth + 1):
        starts, stops, sizes = tree.starts(level), tree.stops(level), tree.sizes(level)
        assert len(starts) == len(stops) == len(sizes) == 2**level
        assert starts[0] == 0
        assert stops[-1] == n
        assert np.array_equal(starts[1:], stops[:-1])
        assert np.array_equal(stops - starts, sizes)
        assert sizes.min() >= 1
        assert np.ptp(sizes) <= 1
        if level:
            assert np.array_equal(tree.starts(level - 1), starts[::2])
            assert np.array_equal(tree.stops(level - 1), stops[1::2])
    assert tree.leaf_count == 2**depth
    assert tree.leaf_size == tree.sizes(depth).max()
    assert tree.is_padded == (len(set(tree.sizes(depth))) > 1)


def check_boxes(tree):
    for level, (low, high) in enumerate(tree.boxes):
        for node in range(2**level):
            inside = tree.points[tree.indices(level, node)]
            assert np.array_equal(low[node], inside.min(axis=0))
            assert np.array_equal(high[node], inside.max(axis=0))


@given(strategies.sizes(2000), strategies.leaf_sizes(100))
def test_balanced_trees(n, leaf_size):
    tree = sm.ClusterTree.balanced(n, leaf_size)
    check_invariants(tree)
    assert tree.leaf_size <= max(leaf_size, 2)  # leaves of one index need a power of two
    assert tree.depth == 0 or -(-n // 2 ** (tree.depth - 1)) > leaf_size, "deeper than it need be"
    assert tree.is_identity


@given(
    strategies.point_sets(),
    strategies.leaf_sizes(),
    st.sampled_from([sm.KDSplitter(), sm.PrincipalAxisSplitter()]),
)
def test_trees_of_points(points, leaf_size, splitter):
    tree = sm.ClusterTree.from_points(points, leaf_size, splitter)
    check_invariants(tree)
    check_boxes(tree)
    assert tree.leaf_size <= max(leaf_size, 2)


@pytest.mark.parametrize("splitter", [None, sm.KDSplitter(), sm.PrincipalAxisSplitter()])
@pytest.mark.parametrize("dimension", [1, 2, 3, 7])
def test_siblings_are_separated(rng, splitter, dimension):
    points = rng.random((200, dimension)) * np.linspace(4, 1, dimension)
    tree = sm.ClusterTree.from_points(points, 20, splitter)
    left, right = points[tree.indices(1, 0)], points[tree.indices(1, 1)]
    if isinstance(splitter, sm.PrincipalAxisSplitter):
        axis = np.linalg.svd(points - points.mean(axis=0))[2][0]
    else:
        axis = np.eye(dimension)[np.ptp(points, axis=0).argmax()]
    a, b = sorted([left @ axis, right @ axis], key=np.mean)
    assert a.max() <= b.min()


def test_principal_axis_follows_a_slanted_line(rng):
    t = rng.random(100)
    points = np.stack([t, -t], axis=1) + 1e-3 * rng.standard_normal((100, 2))
    tree = sm.ClusterTree.from_points(points, 10, sm.PrincipalAxisSplitter())
    for node in range(8):
        assert np.ptp(t[tree.indices(3, node)]) < 0.35


def test_custom_splitter_sees_each_level():
    calls = []

    def by_last_coordinate(points, starts):
        calls.append((points.shape, list(starts)))
        return points[:, -1]

    points = np.stack([np.arange(8.0), np.arange(8.0)[::-1]], axis=1)
    tree = sm.ClusterTree.from_points(points, 2, by_last_coordinate)
    assert calls == [((8, 2), [0]), ((8, 2), [0, 4])]
    assert np.array_equal(tree.perm, np.arange(8)[::-1])


def test_points_of_one_dimension_are_sorted(rng):
    x = rng.random(50)
    tree = sm.ClusterTree.from_points(x, 7)
    assert (np.diff(x[tree.perm]) >= 0).all()
    assert tree == sm.ClusterTree.from_points(x[:, None], 7, sm.KDSplitter())


def test_equal_points_keep_their_order():
    tree = sm.ClusterTree.from_points(np.zeros((9, 3)), 2)
    assert np.array_equal(tree.perm, np.arange(9))
    check_invariants(tree)


@pytest.mark.parametrize(
    ("n", "leaf_size", "depth"), [(1, 1, 0), (1, 64, 0), (63, 64, 0), (65, 64, 1), (5, 1, 2), (3, 1, 1)]
)
def test_small_trees(n, leaf_size, depth):
    tree = sm.ClusterTree.balanced(n, leaf_size)
    check_invariants(tree)
    assert tree.depth == depth


def test_no_leaf_is_empty_even_where_it_must_be_larger_than_asked():
    tree = sm.ClusterTree.balanced(3, 1)  # two levels would need four indices
    assert list(tree.sizes(tree.depth)) == [1, 2]


def test_depth_in_place_of_leaf_size():
    assert sm.ClusterTree.balanced(100, depth=3).leaf_count == 8
    assert sm.ClusterTree.from_points(np.arange(100.0), depth=3).leaf_count == 8


@pytest.mark.parametrize(
    ("n", "leaf_size", "permuted"),
    [(1, 1, False), (16, 4, False), (16, 4, True), (37, 5, False), (37, 5, True)],
)
def test_leaf_blocks_there_and_back(xp, rng, n, leaf_size, permuted):
    tree = (
        sm.ClusterTree.from_points(rng.random((n, 2)), leaf_size) if permuted else sm.ClusterTree.balanced(n, leaf_size)
    )
    x = rng.standard_normal((n, 3))
    blocks = tree.to_leaves(xp.asarray(x))
    values = xp.to_numpy(blocks)
    assert values.shape == (tree.leaf_count, tree.leaf_size, 3)
    for leaf in range(tree.leaf_count):
        inside = tree.indices(tree.depth, leaf)
        assert np.array_equal(values[leaf, : len(inside)], x[inside])
        assert not values[leaf, len(inside) :].any()
    assert np.array_equal(xp.to_numpy(tree.from_leaves(blocks)), x)


def test_equality_and_hash(rng):
    a, b = sm.ClusterTree.balanced(20, 5), sm.ClusterTree.balanced(20, 5)
    assert a == b
    assert hash(a) == hash(b)
    assert a != sm.ClusterTree.balanced(20, 10)
    assert a != sm.ClusterTree.balanced(21, depth=2)
    assert a != sm.ClusterTree.from_points(rng.random(20), 5)
    assert a != "tree"


def test_repr():
    assert repr(sm.ClusterTree.balanced(10, 3)) == "ClusterTree(n=10, depth=2, leaf_size=3)"
    assert "permuted, points in 2-D" in repr(sm.ClusterTree.from_points([[1.0, 0], [0, 0]], 1))
    assert repr(sm.KDSplitter()) == "KDSplitter()"
    assert repr(sm.PrincipalAxisSplitter()) == "PrincipalAxisSplitter()"


def test_trees_are_immutable_and_keep_nothing_of_the_caller():
    points = np.arange(6.0)[::-1].copy()
    perm = np.arange(6)
    tree, other = sm.ClusterTree.from_points(points, 2), sm.ClusterTree(6, 1, perm)
    points[:] = 0
    perm[:] = 0
    assert tree.points.max() == 5
    assert np.array_equal(other.perm, np.arange(6))
    with pytest.raises(ValueError, match="read-only"):
        tree.perm[0] = 1


def test_coordinates_without_points_are_equispaced():
    tree = sm.ClusterTree.balanced(4, 2)
    assert np.allclose(tree.coordinates[:, 0], [0.125, 0.375, 0.625, 0.875])


def test_positions():
    tree = sm.ClusterTree.from_points(np.array([3.0, 1.0, 2.0]), 1)
    assert list(positions_of(tree, np.arange(3))) == [2, 0, 1]
    assert list(positions_of(sm.ClusterTree.balanced(3, 1), np.array([2, 0]))) == [2, 0]


def test_pairs_of_trees():
    row, col = as_tree_pair(None, (300, 150), leaf_size=40)
    assert row.depth == col.depth == 2
    row, col = as_tree_pair(None, (300, 300))
    assert row is col
    pair = sm.ClusterTree.balanced(20, 5), sm.ClusterTree.balanced(20, 5)
    assert as_tree_pair(pair, (20, 20))[1] is pair[0], "equal trees become one object"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sm.ClusterTree.balanced(0), ValueError, "n must be at least 1, but it is 0"),
        (lambda: sm.ClusterTree.balanced(2.5), TypeError, "n must be an integer, but it is 2.5"),
        (lambda: sm.ClusterTree.balanced(5, 0), ValueError, "leaf_size must be at least 1"),
        (
            lambda: sm.ClusterTree.balanced(5, depth=3),
            sm.ShapeError,
            "depth 3 needs at least 8 indices, but n = 5",
        ),
        (lambda: sm.ClusterTree(3, 1, [0, 1, 1]), sm.ShapeError, r"permutation of range\(3\)"),
        (lambda: sm.ClusterTree(3, -1), ValueError, "depth must be at least 0"),
        (lambda: sm.ClusterTree.from_points([]), sm.ShapeError, "points is empty"),
        (lambda: sm.ClusterTree.from_points(np.zeros((4, 0))), sm.ShapeError, "points is empty"),
        (lambda: sm.ClusterTree.from_points(np.zeros((2, 2, 2))), sm.ShapeError, r"shape \(n,\) or \(n, d\)"),
        (
            lambda: sm.ClusterTree.from_points([0.0, np.nan]),
            sm.NonFiniteError,
            r"points must be finite.*at \[1\]",
        ),
        (lambda: sm.ClusterTree.from_points([0.0, np.inf]), sm.NonFiniteError, "NaN or Inf"),
        (
            lambda: as_tree_pair(sm.ClusterTree.balanced(9), (9, 5)),
            sm.TreeMismatchError,
            "needs a pair tree=",
        ),
        (
            lambda: as_tree_pair(sm.ClusterTree.balanced(9), (8, 8)),
            sm.TreeMismatchError,
            "over 9 rows and 9 columns",
        ),
        (lambda: as_tree_pair((1, 2), (8, 8)), TypeError, "it holds a int"),
        (
            lambda: as_tree_pair((sm.ClusterTree.balanced(8, 2), sm.ClusterTree.balanced(9, 9)), (8, 9)),
            sm.TreeMismatchError,
            "depth 2 and the column tree depth 0",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000, 1023])
@pytest.mark.parametrize("kind", ["distinct", "ties", "one point", "integer keys", "not finite"])
def test_points_of_a_node_are_in_the_stable_order_of_the_keys(rng, n, kind):
    keys = {
        "distinct": rng.random(n), "ties": rng.integers(0, 3, n).astype(float), "one point": np.zeros(n),
        "integer keys": rng.integers(0, 5, n), "not finite": rng.choice([0.0, 1.0, np.inf, -np.inf, np.nan], n),
    }[kind]  # fmt: skip
    for level in range(min(5, n.bit_length())):
        bounds = (np.arange(2**level + 1) * n) >> level
        found = _order_within(keys, bounds)
        expected = [a + np.argsort(keys[a:b], kind="stable") for a, b in itertools.pairwise(bounds)]
        np.testing.assert_array_equal(found, np.concatenate(expected))
