"""Matrices whose entries have squares outside the range of their type: refused, or certified by nobody."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sparse

import structmat as sm
from structmat.gp import HierarchicalGPRegressor

N = 300
FORMATS = [sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix]
POINTS = np.sort(np.random.default_rng(0).random(N))
SMOOTH = 1.0 / (0.1 + abs(POINTS[:, None] - POINTS))
TREE = sm.ClusterTree.balanced(N, leaf_size=32)


def built(format, a, how, rtol=1e-4):
    if how == "dense":
        return format.from_dense(a, TREE, rtol=rtol)
    if how == "entries":
        return format.from_entries(lambda i, j: a[np.ix_(i, j)], TREE, rtol=rtol)
    if how == "operator":
        return format.from_operator(a, TREE, rtol=rtol)
    return format.from_sparse(sparse.csr_array(a), TREE, rtol=rtol)


@pytest.mark.parametrize(("kind", "size"), [(np.float32, 1e-30), (np.float64, 1e-170)])
@pytest.mark.parametrize("how", ["dense", "entries", "operator"])
@pytest.mark.parametrize("format", FORMATS)
def test_small_entries_are_certified_by_nobody(format, how, kind, size):
    a = (SMOOTH * size).astype(kind)
    pattern = (
        r"nothing is known of the error.*multiply the matrix by a power of 2 before, and the result by its inverse"
    )
    with pytest.warns(sm.AccuracyWarning, match=pattern):
        matrix = built(format, a, how)
    assert not matrix.certificate.met
    scaled = built(format, (SMOOTH * 2.0**3).astype(kind), how) * 2.0**-3  # what the message says to do
    assert scaled.certificate.met
    np.testing.assert_allclose(scaled.to_dense(), SMOOTH, atol=1e-4 * np.linalg.norm(SMOOTH))


@pytest.mark.parametrize("how", ["dense", "entries"])
@pytest.mark.parametrize("format", FORMATS)
def test_large_entries_are_refused(format, how):
    a = (SMOOTH * 1e25).astype(np.float32)
    with np.errstate(all="ignore"), pytest.raises(sm.NonFiniteError, match="use double precision, or multiply"):
        built(format, a, how)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e17, 1e30])
@pytest.mark.parametrize("format", FORMATS)
def test_sums_and_truncations_are_right_or_certified_by_nobody(format, size):
    exact = SMOOTH * size
    a = format.from_dense(SMOOTH.astype(np.float32), TREE, rtol=1e-6) * np.float32(size)
    for work, wanted, rtol in ((lambda: a + a, 2.0 * exact, 1e-5), (lambda: a.truncate(rtol=1e-3), exact, 1e-3)):
        with warnings.catch_warnings(record=True) as said, np.errstate(all="ignore"):
            warnings.simplefilter("always")
            result = work()
        wrong = np.linalg.norm(result.to_dense() / size - wanted / size) > rtol * np.linalg.norm(wanted / size)
        assert result.certificate.met != any("nothing is known of the error" in str(w.message) for w in said)
        assert not (wrong and result.certificate.met)
        if format is not sm.HSSMatrix and size < 1.0:
            assert result.certificate.met


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_zero_is_in_every_range(format, kind):
    for how in ("dense", "entries", "operator"):
        matrix = built(format, np.zeros((N, N), dtype=kind), how)
        assert matrix.certificate.met
        assert (matrix + matrix).certificate.met


@pytest.mark.parametrize("format", FORMATS)
def test_ordinary_single_precision_is_not_bothered(format):
    a = scipy.linalg.toeplitz(1e-12 / (1.0 + np.arange(N))).astype(np.float32)
    assert built(format, a, "dense").certificate.met


def test_targets_of_a_gaussian_process_whose_squares_overflow():
    points = np.random.default_rng(2).random((60, 1))
    values = 1e200 * np.sin(5.0 * points[:, 0])
    kernel = sm.kernelfunctions.Matern(nu=1.5, length=0.3)
    with np.errstate(all="ignore"), pytest.raises(sm.NonFiniteError, match="normalize_y=True, or divide y"):
        HierarchicalGPRegressor(kernel).fit(points, values)
    fitted = HierarchicalGPRegressor(kernel, normalize_y=True).fit(points, values)
    np.testing.assert_allclose(fitted.predict(points), values, atol=1e-2 * np.abs(values).max())


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e200, 1e290])
@pytest.mark.parametrize("definite", [False, True])
def test_right_hand_sides_whose_squares_leave_the_range(definite, size):
    a = sm.HSSMatrix.from_dense(SMOOTH + np.eye(N), TREE, rtol=1e-10, symmetric=definite)
    b = np.stack([np.cos(5.0 * POINTS), np.zeros(N)], axis=1)
    solution = sm.solve(a, size * b, rtol=1e-8)
    assert solution.converged
    np.testing.assert_allclose((SMOOTH + np.eye(N)) @ (solution.x / size), b, atol=1e-6)
