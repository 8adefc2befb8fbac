"""Builds from kernel functions with a compiled form, against the kernels themselves."""

import math

import numpy as np
import pytest

import structmat as sm
from structmat.engine import cpu_kernels
from structmat.flat import build as flat_build
from structmat.flat import fused as flat_fused
from structmat.flat.corners import corners
from structmat.kernelfunctions import (
    Cauchy,
    Exponential,
    Gaussian,
    InverseMultiquadric,
    Laplace,
    Matern,
    Multiquadric,
    Radial,
    ThinPlateSpline,
    Yukawa,
)
from structmat.lowrank.closest import FEWEST

KERNELS = [
    Laplace(dim=2),
    Laplace(dim=3),
    Laplace(dim=2, diagonal=3.0),
    Gaussian(0.3),
    Gaussian(1e-2),
    Exponential(0.1),
    Matern(0.5, 0.2),
    Matern(1.5, 0.2),
    Matern(2.5, 0.4, diagonal=2.0),
    Multiquadric(2.0),
    InverseMultiquadric(3.0),
    Cauchy(0.01),
    Yukawa(2.0, dim=3),
    ThinPlateSpline(),
    2.5 * Radial(lambda r: 1.0 / (1.0 + r**3)),
]
FORMATS = [sm.HODLRMatrix, sm.HMatrix]


def relative_error(a, dense):
    return np.linalg.norm(a.to_dense() - dense) / np.linalg.norm(dense)


@pytest.mark.parametrize(
    ("kernel", "dimension"), [(kernel, d) for kernel in KERNELS for d in (1, 2, 3) if d <= (kernel.dim or 3)], ids=repr
)
def test_compiled_values_are_those_of_the_kernel(rng, kernel, dimension):
    x = rng.random((dimension, 40))
    x[:, 7] = x[:, 21]  # a pair of equal points
    code, parameters = kernel.compiled
    out, work = np.empty(40), np.empty(80)
    expected = kernel(x.T.copy(), x.T.copy())
    for i in range(40):
        cpu_kernels.kernel_row(code, parameters, x, i, x, 0, 40, out, work)
        assert np.abs(out - expected[i]).max() <= 1e-13 * np.abs(expected).max()


def test_logarithms_and_exponentials_are_accurate(rng):
    x = np.exp(rng.uniform(-300.0, 300.0, 5000))
    x[:1000] = 1.0 + rng.uniform(-1e-3, 1e-3, 1000)
    values = x.copy()
    cpu_kernels.logarithms(values, len(values))
    assert np.abs(values / np.log(x) - 1.0).max() < 1e-15
    x = -np.exp(rng.uniform(-30.0, np.log(700.0), 5000))
    values = x.copy()
    cpu_kernels.exponentials(values, len(values))
    assert (np.abs(values / np.exp(x) - 1.0) <= (3.0 + np.abs(x)) * 2.3e-16).all()
    values = np.array([0.0, -800.0, -1e300])
    cpu_kernels.exponentials(values, 3)
    assert values.tolist() == [1.0, 0.0, 0.0]


def test_reciprocal_roots_are_accurate(rng):
    inside, everywhere = np.exp(rng.uniform(-85.0, 87.0, 5000)), np.exp(rng.uniform(-690.0, 690.0, 5000))
    inside[:2] = 1.0e-37, 1.0e38
    for x in (inside, everywhere, np.append(inside, 1e200)):
        values = x.copy()
        cpu_kernels.reciprocal_roots(values, len(values))
        assert np.abs(values * np.sqrt(x.astype(np.longdouble)) - 1.0).max() < 4e-16


def _shifted(kernel, r):
    """One row from the point at zero to points at distances r."""
    code, parameters = kernel.compiled
    out, work = np.empty(len(r)), np.empty(2 * len(r))
    cpu_kernels.kernel_row(code, parameters, np.zeros((1, 1)), 0, r[None], 0, len(r), out, work)
    return out


@pytest.mark.parametrize(
    ("kernel", "function", "scale"),
    [
        (Laplace(dim=2), lambda r: -math.log(r), lambda r: 1.0 + abs(math.log(r))),
        (Laplace(dim=3), lambda r: 1.0 / r, lambda r: 1.0 / r),
        (ThinPlateSpline(), lambda r: r * r * math.log(r), lambda r: r * r * (1.0 + abs(math.log(r)))),
        (Yukawa(2.0, dim=3), lambda r: math.exp(-2.0 * r) / r, lambda r: (1.0 + 2.0 * r) * math.exp(-2.0 * r) / r),
        (InverseMultiquadric(3.0), lambda r: 1.0 / math.hypot(1.0, 3.0 * r), lambda r: 1.0 / math.hypot(1.0, 3.0 * r)),
    ],
    ids=["log", "1/r", "thin plate", "Yukawa", "inverse multiquadric"],
)
@pytest.mark.parametrize("span", [30.0, 345.0])
def test_compiled_rows_are_accurate_at_all_distances(rng, kernel, function, scale, span):
    top = math.log(170.0) if isinstance(kernel, Yukawa) else span  # exp(-2 r) becomes 0 beyond
    r = np.exp(rng.uniform(-span, top, 1000))
    exact, allowed = np.array([function(t) for t in r]), np.array([scale(t) for t in r])
    assert (np.abs(_shifted(kernel, r) - exact) <= 1e-15 * allowed).all()
    assert (np.abs(kernel(np.zeros(1), r)[0] - exact) <= 1e-15 * allowed).all()


def test_equal_points_in_a_row_with_large_distances():
    r = np.array([0.0, 1e-150, 1e150, 1.0])
    assert _shifted(Laplace(dim=3, diagonal=5.0), r) == pytest.approx([5.0, 1e150, 1e-150, 1.0], rel=1e-15)


@pytest.fixture
def compiled_only(monkeypatch):
    """Builds that would evaluate blocks by calls of the kernel fail."""

    def forbidden(*_arguments, **_options):
        raise AssertionError("the build left the compiled path")

    monkeypatch.setattr(flat_build, "near_blocks", forbidden)
    monkeypatch.setattr(flat_build, "far_blocks", forbidden)


@pytest.mark.parametrize("kernel", KERNELS[3:], ids=repr)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.usefixtures("compiled_only")
def test_builds_meet_the_tolerance(rng, kernel, format_, symmetric):
    for n, dimension in ((700, 1), (613, 2)):
        points = rng.random((n, dimension))
        a = format_.from_kernel(kernel, points, rtol=1e-6, leaf_size=40, symmetric=symmetric)
        assert a.certificate.met
        assert relative_error(a, kernel(points, points)) <= 1e-6


@pytest.mark.parametrize("format_", FORMATS)
def test_rectangular_builds_of_kernels_with_a_kink(rng, format_):
    kernel = Exponential(0.1)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, y = rng.random((777, 1)), rng.random((900, 1))
        a = format_.from_kernel(kernel, x, column_points=y, rtol=1e-6, leaf_size=40)
        assert relative_error(a, kernel(x, y)) <= 1e-6


def test_the_compiled_build_agrees_with_the_one_from_entries(rng):
    points, kernel = rng.random((900, 2)), Laplace(dim=2)
    tree = sm.ClusterTree.from_points(points, 32)
    a = sm.HMatrix.from_kernel(kernel, points, tree, rtol=1e-9)
    b = sm.HMatrix.from_entries(lambda i, j: kernel(points[i], points[j]), tree, rtol=1e-9)
    assert np.linalg.norm(a.to_dense() - b.to_dense()) <= 2e-9 * a.norm()
    assert 0.8 < a.nbytes / b.nbytes < 1.25


def test_more_crosses_than_the_first_limit_are_taken(rng):
    points = rng.random((600, 3))
    a = sm.HODLRMatrix.from_kernel(Laplace(dim=3), points, rtol=1e-10, leaf_size=100)
    assert a.max_rank > 48
    assert relative_error(a, Laplace(dim=3)(points, points)) <= 1e-10


def test_points_in_too_many_dimensions_are_refused():
    with pytest.raises(sm.ShapeError, match="belongs to 2 dimensions"):
        sm.HMatrix.from_kernel(Laplace(dim=2), np.random.default_rng(0).random((300, 3)))


def test_progress_reaches_one(rng):
    seen = []
    sm.HMatrix.from_kernel(Gaussian(0.3), rng.random((500, 2)), leaf_size=32, progress=seen.append)
    assert sum(seen) == pytest.approx(1.0, abs=1e-9) or sum(seen) > 1.0  # more where a block was begun again


def test_corners_are_where_siblings_meet():
    tree = sm.ClusterTree.balanced(1024, leaf_size=64)
    found = corners(tree, tree, 2, np.array([[1, 0], [3, 0]]))
    first, last, left, right = found.bounds[0]
    assert sorted(found.rows[first:last]) == list(range(FEWEST))
    assert sorted(found.cols[left:right]) == list(range(256 - FEWEST, 256))
    assert found.bounds[1, 0] == found.bounds[1, 1]  # far apart


GRIDS = {
    "plane": np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 40)] * 2), axis=-1).reshape(-1, 2),
    "cube": np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 12)] * 3), axis=-1).reshape(-1, 3),
    "with equal points": np.random.default_rng(0).integers(0, 38, (1500, 2)) / 38.0,
}


@pytest.mark.parametrize(
    ("grid", "kernel", "rtol"),
    [
        ("plane", Gaussian(0.3), 1e-9),
        ("cube", Gaussian(0.3), 1e-6),
        ("with equal points", Exponential(0.3), 1e-6),
        ("with equal points", Matern(1.5, 0.3), 1e-9),
    ],
)
def test_on_grids_the_error_of_a_few_rows_is_found(grid, kernel, rtol):
    points = GRIDS[grid]
    for cls in FORMATS:
        a = cls.from_kernel(kernel, points, rtol=rtol)
        assert a.certificate.met
        assert relative_error(a, kernel(points, points)) <= rtol


@pytest.mark.parametrize(("n", "seed", "rtol"), [(1500, 2, 1e-6), (1500, 5, 1e-6), (700, 1, 1e-4)])
def test_an_error_just_outside_of_a_corner_is_found(n, seed, rtol):
    rng = np.random.default_rng(seed)
    points, equal = rng.random((n, 2)), rng.permutation(n)[:4]
    points[equal[:2]] = points[equal[2:]]
    kernel = Exponential(0.01)  # siblings in the plane see each other through a strip that is narrow, but not so narrow
    a = sm.HODLRMatrix.from_kernel(kernel, points, rtol=rtol)
    assert a.certificate.met
    assert relative_error(a, kernel(points, points)) <= rtol


def test_wider_corners_hold_the_narrow_ones():
    tree = sm.ClusterTree.from_points(np.random.default_rng(4).random((1000, 2)), leaf_size=32)
    narrow, wide = (corners(tree, tree, 1, np.array([[1, 0]]), wider) for wider in (1, 3))
    for part, whole in ((narrow.rows, wide.rows), (narrow.cols, wide.cols)):
        assert len(whole) == 3 * len(part)
        assert set(part) < set(whole)


def test_a_certificate_sees_an_error_in_a_corner(rng):
    x = np.sort(rng.random(4000))
    kernel = Exponential(0.05)
    a = sm.HODLRMatrix.from_kernel(kernel, x, rtol=1e-8)

    def spoiled(s, t):
        return kernel(s, t) + 1e-3 * np.exp(-np.abs(np.subtract.outer(s, t)) * 4000)

    from structmat.flat.certify import by_entries
    from structmat.sources import KernelSource

    source = KernelSource(spoiled, x, x)
    exact = spoiled(x, x)
    error = np.linalg.norm(a.to_dense() - exact)
    c = by_entries(a, source, asked=1e-8, norm=np.linalg.norm(exact), rng=rng)
    assert not c.met
    assert c.estimate < 3 * error / np.linalg.norm(exact)


@pytest.mark.parametrize("cls", FORMATS)
@pytest.mark.parametrize("n", [700, 1024])
def test_blocks_that_need_more_crosses_are_begun_again(cls, n, monkeypatch):
    x = np.random.default_rng(8).random((n, 2))
    kernel = Laplace(dim=2)
    at_once = cls.from_kernel(kernel, x, rtol=1e-7)
    monkeypatch.setattr(flat_fused, "FIRST_LIMIT", 2)  # then 6, 18, 54
    in_rounds = cls.from_kernel(kernel, x, rtol=1e-7)
    np.testing.assert_array_equal(in_rounds.to_dense(), at_once.to_dense())
    assert in_rounds.certificate == at_once.certificate


@pytest.mark.parametrize("cls", FORMATS)
def test_one_half_shows_the_error_of_both(cls):
    """Where the build mirrors blocks, the certificate looks at one half: it is that of the matrix stored half."""
    x = np.random.default_rng(9).random((1500, 2))
    kernel = Laplace(dim=2)
    dense = kernel(x, x)
    full = cls.from_kernel(kernel, x, rtol=1e-5)
    half = cls.from_kernel(kernel, x, rtol=1e-5, symmetric=True)
    assert full.certificate.estimate == pytest.approx(half.certificate.estimate, rel=0.2)
    assert full.certificate.estimate == pytest.approx(relative_error(full, dense), rel=0.5)
    np.testing.assert_allclose(full.to_dense(), full.to_dense().T, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_two_sets_of_points_on_a_line(seed):
    """Clusters of the rows overlap those of the columns, and the kink of the kernel is where they do."""
    rng = np.random.default_rng(seed)
    x, y = rng.random(300 + 100 * seed), rng.random(700)
    dense = np.exp(-abs(x[:, None] - y) / 0.3)

    def plain(x, y):
        return np.exp(-abs(x[:, None] - y) / 0.3)

    for kernel in (plain, Exponential(length=0.3)):
        for cls in (sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix):
            for rtol in (1e-3, 1e-7):
                a = cls.from_kernel(kernel, x, column_points=y, rtol=rtol, leaf_size=40)
                assert a.certificate.met, (cls, rtol)
                assert np.linalg.norm(a.to_dense() - dense) <= rtol * np.linalg.norm(dense)


@pytest.mark.parametrize("seed", [1, 23, 37])
def test_what_scattered_points_see_of_each_other_is_certified(seed):
    """Few pairs far from all others: 1 in 10000 entries tells of them."""
    rng = np.random.default_rng(seed)
    dimension, n, leaf_size = int(rng.integers(2, 4)), int(rng.integers(500, 1200)), int(rng.integers(20, 60))
    x = np.exp(rng.uniform(-4, 0, (n, 1))) * rng.standard_normal((n, dimension))
    kernel = Gaussian(length=0.2)
    dense = kernel(x, x)
    for rtol in (1e-3, 1e-5, 1e-7):
        a = sm.HODLRMatrix.from_kernel(kernel, x, rtol=rtol, leaf_size=leaf_size, symmetric=True)
        assert a.certificate.met
        assert np.linalg.norm(a.to_dense() - dense) <= rtol * np.linalg.norm(dense)
