"""Adaptive cross approximation on blocks that it is known to get wrong without guards; and estimates against errors."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from structmat.kernelfunctions import Stokes
from structmat.lowrank import ACA, RandomizedRange, TruncatedSVD
from structmat.lowrank.closest import suspicious
from structmat.lowrank.compressor import DenseSource
from structmat.sources import KernelSource
from tests.lowrank.problems import KERNELS, admissible_blocks, errors

BATCHES, PER_BATCH = 9, 20  # with six kernels 1080 blocks


@pytest.mark.parametrize("batched", [True, False], ids=["entries in one call", "a call a block"])
@pytest.mark.parametrize("name", KERNELS)
def test_the_tolerance_is_met_in_all_of_a_thousand_blocks(rng, name, batched):
    for _ in range(BATCHES):
        blocks = admissible_blocks(rng, name, PER_BATCH)
        blocks.source.batched = batched
        rtol = 10.0 ** -rng.integers(2, 11)
        found = ACA(rtol).compress(blocks.source, blocks.rows, blocks.cols, rng=rng)
        dense = blocks.dense()
        wrong, size = errors(dense, found)
        missed = np.flatnonzero(wrong > rtol * size)
        assert len(missed) == 0, f"{name}: blocks {missed} at {rtol}: {wrong[missed] / size[missed]}"
        best = TruncatedSVD(rtol).compress(blocks.source, blocks.rows, blocks.cols)
        assert (found.ranks <= best.ranks + 4).all()
        assert found.ranks.sum() <= 1.1 * best.ranks.sum() + PER_BATCH


@pytest.mark.parametrize("name", KERNELS)
def test_absolute_tolerances_are_met_too(rng, name):
    blocks = admissible_blocks(rng, name, PER_BATCH)
    dense = blocks.dense()
    tail = 10.0 ** -rng.integers(2, 9, PER_BATCH) * np.linalg.norm(dense, axis=(1, 2))
    wrong, _size = errors(dense, ACA().compress(blocks.source, blocks.rows, blocks.cols, tail, rng=rng))
    assert (wrong <= tail).all()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("method", [ACA(1e-4), RandomizedRange(1e-4)], ids=["ACA", "RandomizedRange"])
def test_estimates_are_within_a_factor_of_three(rng, name, method):
    """In 95 of 100 cases; `max_rank` makes also those errors large that no tolerance would have let pass."""
    ratios = []
    for limit in (None, 3, 8):
        for _ in range(3):
            blocks = admissible_blocks(rng, name, PER_BATCH)
            found = method.compress(blocks.source, blocks.rows, blocks.cols, max_rank=limit, rng=rng)
            wrong, size = errors(blocks.dense(), found)
            relevant = (wrong > 1e-12 * size) & ~found.fell_back
            ratios.extend(found.estimates[relevant] / wrong[relevant])
    assert len(ratios) > 60
    inside = [1 / 3 <= ratio <= 3 for ratio in ratios]
    assert np.mean(inside) >= 0.95


def exponential(x, y):
    return np.exp(-cdist(np.atleast_2d(x.T).T, np.atleast_2d(y.T).T) / 0.3)


def test_singular_values_that_decay_slowly_take_few_restarts():
    """Clusters that share a face: a cross may be small long before all that is left is."""
    x = np.random.default_rng(0).random((4000, 2))
    left, right = x[x[:, 0] < 0.5], x[x[:, 0] >= 0.5]
    for rtol in (1e-2, 1e-3):
        found = ACA(rtol)(exponential, left, right, rng=0)
        dense = exponential(left, right)
        assert np.linalg.norm(dense - found.left @ found.right.conj().T) <= rtol * np.linalg.norm(dense)
        assert not found.fell_back
        assert found.entries < 0.3 * dense.size


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_in_a_corner_is_seen(seed):
    """Intervals that overlap at one end: 1 in 2000 entries tells of the kink there."""
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.random(600)), 0.985 + rng.random(600)
    found = ACA(1e-6)(exponential, x, y, rng=seed)
    dense = exponential(x, y)
    assert found.rank > 3
    assert np.linalg.norm(dense - found.left @ found.right.conj().T) <= 1e-6 * np.linalg.norm(dense)


def test_suspicious_entries_are_those_of_corners_and_of_points_far_apart():
    rng = np.random.default_rng(0)
    x = rng.random((400, 2))
    source = KernelSource(exponential, x, x + [0.0, 3.0])
    rows = np.stack([np.flatnonzero(x[:, 0] < 0.4)[:100], np.flatnonzero(x[:, 0] < 0.4)[:100]])
    assert suspicious(source, rows, rows) == []  # nothing touches
    assert suspicious(DenseSource(np.zeros((9, 9))), np.arange(9)[None], np.arange(9)[None]) == []  # no points
    source = KernelSource(exponential, x, x)
    cols = np.stack([np.flatnonzero(x[:, 0] > 0.4)[:90], np.flatnonzero(x[:, 0] > 0.9)[[*range(20)] * 4 + [0] * 10]])
    cols[1, 20:] = -1
    corner, spread = suspicious(source, rows, cols)
    assert corner.row_counts.tolist() == [32, 0]
    assert corner.col_counts.tolist() == [32, 0]
    assert np.array_equal(np.sort(corner.rows[0]), np.sort(np.argsort(-x[rows[0], 0])[:32]))
    assert np.array_equal(np.sort(corner.cols[0]), np.sort(np.argsort(x[cols[0], 0])[:32]))
    assert spread.row_counts.tolist() == [48, 0]
    distances = cdist(x[rows[0]], x[cols[0]])
    assert np.array_equal(spread.cols[0, 24:], distances[spread.rows[0, :24]].argmin(axis=1))
    assert np.array_equal(spread.rows[0, 24:], distances[:, spread.cols[0, :24]].argmin(axis=0))
    chosen = x[rows[0]][spread.rows[0, :24]]
    apart = cdist(chosen, chosen)[np.triu_indices(24, 1)].min()
    assert cdist(x[rows[0]], chosen).min(axis=1).max() <= apart  # no other point is further from all of them


def test_components_of_a_point_are_not_equal_points():
    x = np.random.default_rng(0).random((20, 2))
    assert not KernelSource(Stokes(dim=2), x, x).has_equal_points
    assert KernelSource(Stokes(dim=2), x[[*range(20), 3]], x).has_equal_points
    assert not KernelSource(exponential, x, x).has_equal_points
    assert KernelSource(exponential, x, x[[0, 1, 1]]).has_equal_points


@pytest.mark.parametrize("seed", range(6))
def test_a_few_rows_that_differ_from_many_equal_ones_are_seen(seed):
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.repeat([0.0, 0.1, 0.2], [130, 30, 1]))  # 161 rows at three points
    y = rng.permutation(np.repeat([2.0, 2.1, 2.2], [100, 50, 1]))

    def kernel(x, y):  # 1 but for the few
        return 1.0 + ((x[:, None] == 0.2) & (y == 2.2))

    found = ACA(1e-8)(kernel, x, y, rng=seed)
    dense = kernel(x, y)
    assert np.linalg.norm(dense - found.left @ found.right.conj().T) <= 1e-8 * np.linalg.norm(dense)


def test_the_sampled_part_of_the_estimate_alone(rng, monkeypatch):
    """Without recompression, which adds a part that is known exactly: the guard itself."""
    monkeypatch.setattr("structmat.lowrank.guard.SHARE", 0.0)  # nothing may be truncated
    monkeypatch.setattr("structmat.lowrank.aca.CROSS", 1e6)  # one cross is enough
    monkeypatch.setattr("structmat.lowrank.aca.ACCEPTED", 1e6)  # and passes
    ratios = []
    for name in KERNELS:
        blocks = admissible_blocks(rng, name, 30)
        found = ACA(1e-3).compress(blocks.source, blocks.rows, blocks.cols, rng=rng)
        wrong, size = errors(blocks.dense(), found)
        relevant = wrong > 1e-12 * size
        ratios.extend(found.estimates[relevant] / wrong[relevant])
    assert len(ratios) > 150
    assert np.mean([1 / 3 <= ratio <= 3 for ratio in ratios]) >= 0.95


def test_without_its_check_cross_approximation_stops_early(rng, monkeypatch):
    """What the guard is there for: these blocks fall into parts that the pivots of one of them never leave."""
    blocks = admissible_blocks(rng, "zero parts", PER_BATCH)
    dense = blocks.dense()
    guarded = ACA(1e-6).compress(blocks.source, blocks.rows, blocks.cols, rng=0)
    monkeypatch.setattr("structmat.lowrank.aca.ACCEPTED", np.inf)
    careless = ACA(1e-6).compress(blocks.source, blocks.rows, blocks.cols, rng=0)
    wrong, size = errors(dense, careless)
    assert (wrong > 1e-2 * size).sum() >= 3
    wrong, size = errors(dense, guarded)
    assert (wrong <= 1e-6 * size).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_blocks_of_zeros_but_for_a_part(rng, dtype):
    a = np.zeros((8, 100, 80), dtype=dtype)
    for b, (top, left) in enumerate([(50, 0), (0, 40), (50, 40), (90, 70), (97, 0), (0, 77), (40, 20)]):
        part = a[b, top : top + 50, left : left + 40]
        part[:] = np.outer(rng.random(part.shape[0]), rng.random(part.shape[1]))
    source = DenseSource(a.reshape(800, 80))
    rows, cols = np.arange(800).reshape(8, 100), np.tile(np.arange(80), (8, 1))
    found = ACA(1e-5).compress(source, rows, cols, rng=rng)
    assert found.ranks.tolist() == [1, 1, 1, 1, 1, 1, 1, 0]
    wrong, size = errors(a, found)
    assert (wrong <= 1e-5 * size).all()
    assert not found.fell_back.any()


def test_diagonal_parts_are_all_found(rng):
    a = np.zeros((120, 120))
    for k in range(6):
        a[20 * k : 20 * k + 20, 20 * k : 20 * k + 20] = 10.0**-k * np.outer(rng.random(20), rng.random(20))
    found = ACA(1e-8)(a, rng=rng)
    assert found.rank == 6
    assert np.linalg.norm(a - found.to_dense()) <= 1e-8 * np.linalg.norm(a)


def test_few_entries_are_evaluated_of_large_blocks(rng):
    x = np.linspace(0, 1, 2000)
    found = ACA(1e-6)(lambda i, j: 1 / (2 + x[i, None] + x[j]), (2000, 2000), rng=rng)
    assert found.entries < 12 * 4000
    assert not found.fell_back
