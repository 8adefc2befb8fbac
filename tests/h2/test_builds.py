"""H2 from kernels and entries: the error against dense twins, and what the certificate says of it."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import structmat as sm
from structmat import kernelfunctions as kf
from tests.problems import relative_error


def wave(x, y):
    r = cdist(x, y)
    return np.exp(3j * r) / (0.2 + r)


def drift(x, y):
    return np.exp(-cdist(x, y)) * (1.0 + 0.5 * y[None, :, 0])


def hermitian(x, y):
    return np.exp(-cdist(x, y) + 2j * np.subtract.outer(x[:, 0], y[:, 0]))


def check(a, dense, rtol):
    true = relative_error(a.to_dense(), dense)
    assert true <= rtol
    assert a.certificate.met
    # a bound with confidence 0.95 from samples may be exceeded, but not by much
    assert true <= 1.5 * a.certificate.upper_bound
    assert a.certificate.upper_bound <= 3.0 * max(true, np.finfo(a.dtype).eps)


CASES = {
    "1d": (kf.Exponential(length=0.3), 1, 1000), "2d": (kf.Laplace(dim=2), 2, 900),
    "3d": (kf.Laplace(dim=3), 3, 800), "5d": (kf.Gaussian(length=1.0), 5, 600),
}  # fmt: skip


@pytest.mark.parametrize("rtol", [1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::structmat.exceptions.StructureWarning")
def test_kernels_in_many_dimensions(case, rtol, rng):
    kernel, dimension, n = CASES[case]
    points = rng.random((n, dimension))
    a = sm.H2Matrix.from_kernel(kernel, points, rtol=rtol, leaf_size=25)
    assert a.symmetric
    assert a.partition.far_count > 0 or dimension == 5, "nothing was compressed"
    check(a, kernel(points, points), rtol)


@pytest.mark.parametrize("kernel", [wave, drift, hermitian])
@pytest.mark.parametrize("rectangular", [False, True])
def test_functions_of_the_user(kernel, rectangular, rng):
    points = rng.random((700, 2))
    columns = rng.random((450, 2)) if rectangular else None
    symmetric = kernel is hermitian and not rectangular
    a = sm.H2Matrix.from_kernel(
        kernel, points, column_points=columns, rtol=1e-6, leaf_size=25, symmetric=symmetric or None
    )
    dense = kernel(points, points if columns is None else columns)
    assert (a.shape, a.dtype, a.symmetric) == (dense.shape, dense.dtype, symmetric)
    check(a, dense, 1e-6)
    v = rng.standard_normal((len(points), 2))
    assert np.allclose(a.H @ v, dense.conj().T @ v, atol=1e-5 * np.linalg.norm(dense))


def test_entries_in_index_order(rng):
    n = 800
    dense = 1.0 / (1.0 + np.abs(np.subtract.outer(np.arange(n), np.arange(n))))
    tree = sm.ClusterTree.balanced(n, 25)
    for symmetric in (False, True):
        a = sm.H2Matrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=1e-7, symmetric=symmetric)
        assert a.symmetric is symmetric
        check(a, dense, 1e-7)
    b = sm.H2Matrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=1e-4, dtype=np.float32)
    assert b.dtype == np.float32
    assert relative_error(b.to_dense(), dense) <= 1e-4


@pytest.mark.parametrize("kind", ["duplicates", "line", "circle", "one place"])
def test_points_that_lie_badly(kind, rng):
    t = rng.random(500)
    points = {
        "duplicates": np.repeat(rng.random((125, 2)), 4, axis=0), "line": np.column_stack([t, 2 * t]),
        "circle": np.column_stack([np.cos(7 * t), np.sin(7 * t)]), "one place": np.full((500, 2), 0.3),
    }[kind]  # fmt: skip
    kernel = kf.Matern(nu=1.5, length=0.5)
    a = sm.H2Matrix.from_kernel(kernel, points, rtol=1e-6, leaf_size=20)
    assert relative_error(a.to_dense(), kernel(points, points)) <= 1e-6


@pytest.mark.parametrize("n", [1, 2, 3, 17])
@pytest.mark.filterwarnings("ignore::structmat.exceptions.StructureWarning")
def test_few_points(n, rng):
    points = rng.random((n, 2))
    kernel = kf.Laplace(dim=2, diagonal=1.0)
    for leaf_size in (1, 64):
        a = sm.H2Matrix.from_kernel(kernel, points, leaf_size=leaf_size)
        assert relative_error(a.to_dense(), kernel(points, points)) <= 1e-8
        assert np.allclose(a.diagonal(), np.ones(n))
        assert a.trace() == pytest.approx(n)


def test_a_cap_that_is_too_low_warns(rng):
    points = rng.random((800, 2))
    with pytest.warns(sm.AccuracyWarning, match="raise max_rank"):
        a = sm.H2Matrix.from_kernel(kf.Laplace(dim=2), points, rtol=1e-8, max_rank=4, leaf_size=25)
    assert a.max_rank <= 4
    true = relative_error(a.to_dense(), kf.Laplace(dim=2)(points, points))
    assert true <= 1.5 * a.certificate.upper_bound


def test_bad_input(rng):
    points = rng.random((50, 2))
    with pytest.raises(TypeError, match="from_entries needs a tree"):
        sm.H2Matrix.from_entries(lambda i, j: np.ones((len(i), len(j))))
    with pytest.raises(sm.SymmetryError, match="leave symmetric out"):
        sm.H2Matrix.from_kernel(drift, points, symmetric=True)
    with pytest.raises(sm.SymmetryError, match="leave column_points out"):
        sm.H2Matrix.from_kernel(hermitian, points, column_points=points[:20], symmetric=True)
    with pytest.raises(ValueError, match="rtol must be"):
        sm.H2Matrix.from_kernel(drift, points, rtol=np.nan)
    partition = sm.BlockPartition.build(sm.ClusterTree.from_points(points))
    with pytest.raises(TypeError, match="give admissibility or partition, not both"):
        sm.H2Matrix.from_kernel(drift, points, partition=partition, admissibility=sm.WeakAdmissibility())
    with pytest.raises(sm.NonFiniteError, match="all entries must be finite"), np.errstate(divide="ignore"):
        sm.H2Matrix.from_kernel(lambda x, y: 1 / cdist(x, y), points)
    a = sm.H2Matrix.from_kernel(drift, points)
    with pytest.raises(sm.ShapeError, match="x has 3 rows, but A has 50 columns"):
        a @ np.ones(3)
    with pytest.raises(IndexError, match="out of bounds"):
        a[50, 0]


def test_entries_and_views_of_complex_matrices(rng):
    points, columns = rng.random((300, 2)), rng.random((210, 2))
    a = sm.H2Matrix.from_kernel(wave, points, column_points=columns, rtol=1e-5, leaf_size=20)
    dense = a.to_dense()
    rows, cols = rng.integers(0, 300, 7), rng.integers(0, 210, 5)
    for view, twin in ((a, dense), (a.T, dense.T), (a.H, dense.conj().T), (a.conj(), dense.conj())):
        i, j = (rows, cols) if view.shape == a.shape else (cols, rows)
        assert np.allclose(view.to_dense(), twin)
        assert np.allclose(view[i, j], twin[np.ix_(i, j)])
        assert np.allclose(view[:200, 3:190], twin[:200, 3:190])
        assert np.allclose(view.diagonal(), np.diagonal(twin))
        x = rng.standard_normal(view.shape[1])
        assert np.allclose(view @ x, twin @ x)
    narrow = a.astype(np.complex64)
    assert narrow.dtype == np.complex64
    assert relative_error(narrow.to_dense(), dense) <= 1e-6


@pytest.mark.parametrize("far_field", [None, sm.h2.ChebyshevInterpolation()], ids=["samples", "interpolation"])
def test_a_function_is_evaluated_once_in_the_near_field(far_field):
    points, on_diagonal = np.random.default_rng(0).random((4000, 2)), []

    def kernel(x, y):
        squares = ((x[:, None] - y[None]) ** 2).sum(axis=2)
        on_diagonal.append(int((squares == 0.0).sum()))
        return np.exp(-np.sqrt(squares))

    a = sm.H2Matrix.from_kernel(kernel, points, rtol=1e-3, far_field=far_field)
    assert a.certificate.met
    assert sum(on_diagonal) < 1.5 * len(points)
