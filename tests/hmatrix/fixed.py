"""Ten matrices, and the least storage that fixed partitions need for them: what adaptive partitions must not exceed."""

import numpy as np

import structmat as sm

LEAF_SIZES = (16, 32, 64, 128)
CONDITIONS = (sm.WeakAdmissibility(), *(sm.StrongAdmissibility(eta) for eta in (0.5, 1.0, 2.0, 4.0)))
PLACE_BYTES = 16  # two integers for each block


def _line(n):
    return (np.arange(n) + 0.5) / n


def _distances(n):
    return np.abs(np.subtract.outer(_line(n), _line(n)))


def smooth(n):
    return 1.0 / (1.5 + np.add.outer(_line(n), _line(n) ** 2))


def singular(n):
    return 1.0 / (_distances(n) + 1.0 / n)


def logarithmic(n):
    return np.log(_distances(n) + np.eye(n) / n)


def piecewise_smooth(n):
    """Jumps along lines that no power of two of the tree hits."""
    x = _line(n)
    above = np.add.outer(np.sin(3 * x), np.cos(5 * x))
    return np.where(np.less.outer(x, 0.7 * x + 0.1), above, np.exp(-np.multiply.outer(x, x)))


def sparse_plus_smooth(n):
    rng = np.random.default_rng(1)
    a = smooth(n)
    a[rng.integers(0, n, n // 4), rng.integers(0, n, n // 4)] += 3.0
    return a


def banded_plus_low_rank(n):
    rng = np.random.default_rng(2)
    band = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 5
    return band * rng.standard_normal((n, n)) + rng.standard_normal((n, 3)) @ rng.standard_normal((3, n)) / n


def block_structured(n):
    """Blocks of very different ranks, off the grid of the tree."""
    rng = np.random.default_rng(3)
    a = 1e-2 * smooth(n)
    a[: n // 3, n // 2 :] += rng.standard_normal((n // 3, n - n // 2)) / 10
    a[2 * n // 3 :, : n // 5] += rng.standard_normal((n - 2 * n // 3, 4)) @ rng.standard_normal((4, n // 5))
    return a


def shuffled_clusters(n):
    """A kernel on clusters in the plane whose order tells nothing of the distance between them."""
    rng = np.random.default_rng(4)
    size = n // 16
    centres = rng.permutation(16)
    points = np.stack([centres % 4, centres // 4], axis=1).repeat(-(-n // 16), axis=0)[:n] + rng.random((n, 2)) * 0.8
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    return 1.0 / (gaps + 1.0 / size)


def toeplitz_oscillatory(n):
    return np.cos(40.0 * _distances(n)) / (1.0 + 20.0 * _distances(n))


def exponential(n):
    return np.exp(-30.0 * _distances(n))


def rank_one_and_noise(n):
    rng = np.random.default_rng(5)
    return np.outer(np.sin(_line(n) * 9), _line(n)) + 1e-7 * rng.standard_normal((n, n))


MATRICES = {
    f.__name__: f
    for f in (
        smooth, singular, logarithmic, piecewise_smooth, sparse_plus_smooth, banded_plus_low_rank, block_structured,
        shuffled_clusters, toeplitz_oscillatory, exponential, rank_one_and_noise,
    )
}  # fmt: skip


def least_fixed_bytes(a, rtol):
    """The least storage over all conditions and leaf sizes, each with optimal ranks; and which it is."""
    cache = {}
    rows = []
    for leaf in LEAF_SIZES:
        tree = sm.ClusterTree.balanced(len(a), leaf)
        for condition in CONDITIONS:
            partition = sm.BlockPartition.build(tree, admissibility=condition)
            rows.append((_optimal_bytes(a, partition, rtol, cache), leaf, condition))
    return min(rows, key=lambda row: row[0])


def _optimal_bytes(a, partition, rtol, cache):
    """Singular values go in the order of square by cost, until their squares are what is allowed."""
    tree, item = partition.row_tree, a.itemsize
    squares, costs, total = [], [], 0
    for level in range(tree.depth + 1):
        side = tree.leaf_size << (tree.depth - level)
        far, near = partition.far[level], partition.near[level]
        total += len(near) * (item * side * side + PLACE_BYTES) + len(far) * PLACE_BYTES
        for i, j in far:
            values = _values(a, tree.indices(level, i)[[0, -1]], tree.indices(level, j)[[0, -1]], cache)
            squares.append(values**2)
            costs.append(np.full(len(values), 2 * side * item))
    if squares:
        square, cost = np.concatenate(squares), np.concatenate(costs)
        order = np.argsort(square / cost)
        dropped = np.searchsorted(np.cumsum(square[order]), (rtol * np.linalg.norm(a)) ** 2, side="right")
        total += int(cost[order[dropped:]].sum())
    return total


def _values(a, rows, cols, cache):
    """The singular values of a[first row .. last row, first column .. last column]."""
    key = (*rows, *cols)
    if key not in cache:
        cache[key] = np.linalg.svd(a[rows[0] : rows[1] + 1, cols[0] : cols[1] + 1], compute_uv=False)
    return cache[key]
