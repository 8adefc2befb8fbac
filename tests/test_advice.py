"""Advice on formats: what it recommends, and its predictions against matrices that are really built."""

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import structmat as sm
from structmat.advice import Advice
from structmat.kernelfunctions import Exponential, Gaussian, Laplace
from tests.problems import dense_problem, kernel_k, kernel_l, line

FORMATS = {"HSS": sm.HSSMatrix, "HODLR": sm.HODLRMatrix, "H": sm.HMatrix}


def circle(n):
    angle = 2 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle)])


def assert_predicts(kernel, points, formats=tuple(FORMATS), **options):
    advice = sm.advise(kernel, points, **options)
    for name in formats:
        built = FORMATS[name].from_kernel(kernel, points, **options)
        assert 0.5 <= advice[name].nbytes / built.nbytes <= 2.0, name
        if built.max_rank >= 8:
            assert 0.5 <= advice[name].max_rank / built.max_rank <= 2.0, name


@pytest.mark.parametrize("rtol", [1e-4, 1e-10])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kernel", [kernel_k(2000), kernel_l(2000)])
def test_predicts_storage_on_a_line(kernel, symmetric, rtol):
    assert_predicts(kernel, line(2000), rtol=rtol, symmetric=symmetric)


def test_predicts_storage_on_a_curve_and_for_smooth_kernels():
    assert_predicts(Laplace(dim=2), circle(2048), rtol=1e-8, leaf_size=32)
    assert_predicts(Gaussian(length=0.2), line(2000)[:, None], rtol=1e-8)


def test_predicts_storage_in_the_plane_and_in_space(rng):
    assert_predicts(Laplace(dim=2), rng.random((2000, 2)), rtol=1e-5)
    assert_predicts(Exponential(length=0.5), rng.random((2000, 2)), rtol=1e-4, symmetric=True)
    assert_predicts(Laplace(dim=3), rng.random((2000, 3)), ("HODLR", "H"), rtol=1e-3)


@pytest.mark.slow
def test_predicts_what_it_extrapolates(rng):
    """Blocks of more than 1448 rows, whose ranks exceed what crosses are tried for."""
    points, kernel = rng.random((8000, 2)), Laplace(dim=2)
    advice = sm.advise(kernel, points, rtol=1e-8)
    built = sm.HODLRMatrix.from_kernel(kernel, points, rtol=1e-8)
    assert advice["HODLR"].max_rank > 100
    assert 0.5 <= advice["HODLR"].nbytes / built.nbytes <= 2.0
    assert 0.5 <= advice["HODLR"].max_rank / built.max_rank <= 2.0


# ----------------------------------------------------------------------------------- recommendations


@pytest.mark.parametrize(
    ("kernel", "points"),
    [(kernel_k(20_000), line(20_000)), (kernel_l(20_000), line(20_000)), (Laplace(dim=2), circle(20_000))],
)
def test_one_dimension_gets_a_weakly_admissible_format(kernel, points):
    assert sm.advise(kernel, points, rtol=1e-8).recommendation in ("HSS", "HODLR")


@pytest.mark.parametrize("rtol", [1e-6, 1e-8])
def test_space_at_8000_points_gets_a_dense_array_and_a_warning(rtol):
    points = np.random.default_rng(3).random((8000, 3))
    advice = sm.advise(Laplace(dim=3), points, rtol=rtol)
    assert advice.recommendation == "dense"
    assert any("HODLR does not pay" in text for text in advice.warnings)
    assert any("grow" in text for text in advice.warnings)


@pytest.mark.parametrize(("dim", "n"), [(2, 50_000), pytest.param(3, 100_000, marks=pytest.mark.slow)])
def test_many_points_in_the_plane_and_in_space_get_an_h_matrix(dim, n):
    points = np.random.default_rng(4).random((n, dim))
    assert sm.advise(Laplace(dim=dim), points, rtol=1e-6).recommendation == "H"


def test_random_and_small_matrices_get_a_dense_array(rng):
    random = sm.advise(rng.standard_normal((700, 700)))
    assert random.recommendation == "dense"
    assert all(row.beats_dense_from is None for row in random.table)
    assert sm.advise(dense_problem("K", 60)).recommendation == "dense"
    assert sm.advise(np.ones((1, 1))).recommendation == "dense"


def test_what_the_matrix_is_for_decides():
    a = sm.advise(kernel_k(300), line(300), rtol=1e-10, products=0)
    assert a.recommendation == "dense"
    much = sm.advise(kernel_k(300), line(300), rtol=1e-10, products=10**7)
    assert much.recommendation != "dense"


def test_the_size_from_which_a_format_pays():
    small, large = (sm.advise(kernel_k(n), line(n), rtol=1e-8) for n in (1000, 8000))
    for name in FORMATS:
        since = small[name].beats_dense_from
        assert since is not None
        assert 0.4 <= since / large[name].beats_dense_from <= 2.5


# ------------------------------------------------------------------------------------------ sources


def test_sources_agree():
    n, rtol = 1024, 1e-8
    dense = dense_problem("K", n)
    tree = sm.ClusterTree.balanced(n)
    advices = [
        sm.advise(kernel_k(n), line(n), rtol=rtol),
        sm.advise(dense, rtol=rtol),
        sm.advise(lambda i, j: dense[np.ix_(i, j)], tree=tree, rtol=rtol),
        sm.advise(spla.aslinearoperator(dense), rtol=rtol),
        sm.advise(sm.HSSMatrix.from_dense(dense, rtol=1e-12), rtol=rtol),
    ]
    assert len({a.recommendation for a in advices}) == 1
    for name in FORMATS:
        sizes = [a[name].nbytes for a in advices]
        assert max(sizes) < 1.5 * min(sizes), name


def test_complex_single_precision_counts_its_bytes():
    a = dense_problem("K", 512)
    half = sm.advise(a.astype(np.float32), rtol=1e-4)
    full = sm.advise(a.astype(np.complex128), rtol=1e-4)
    assert full["H"].nbytes == pytest.approx(4 * half["H"].nbytes, rel=0.1)


def test_few_entries_are_evaluated():
    n = 50_000
    advice = sm.advise(kernel_k(n), line(n), rtol=1e-6)
    assert advice.evaluated < 0.03 * n**2
    assert sm.advise(spla.aslinearoperator(dense_problem("K", 2000))).evaluated < 8000


def test_table():
    advice = sm.advise(kernel_k(2000), line(2000))
    assert isinstance(advice, Advice)
    text = str(advice)
    assert [line.split()[0] for line in text.splitlines()[2:6]] == ["HSS", "HODLR", "H", "dense"]
    assert advice.recommendation in text.splitlines()[0]
    assert len(advice["HSS"].ranks) == sm.ClusterTree.balanced(2000).depth
    with pytest.raises(KeyError, match="there is no row 'CSR'"):
        advice["CSR"]


def test_bad_input():
    with pytest.raises(sm.ShapeError, match="square"):
        sm.advise(np.ones((10, 20)))
    with pytest.raises(TypeError, match="needs a tree"):
        sm.advise(lambda i, j: np.ones((len(i), len(j))))
    with pytest.raises(ValueError, match="rtol"):
        sm.advise(np.eye(10), rtol=-1.0)
