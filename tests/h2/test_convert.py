"""H2 from dense arrays and from other formats, and back: guaranteed errors against dense twins."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import structmat as sm
from structmat.convert import of_hss
from structmat.lowrank import row_factor
from structmat.testing import random_flat, random_hss
from tests.cases import any_blocks
from tests.flat.problems import DTYPES, eps, error, random_matrix, random_trees
from tests.problems import KERNELS, dense_problem, line, relative_error

FORMATS = [sm.HODLRMatrix, sm.HMatrix, sm.HSSMatrix, sm.H2Matrix]


def problem(n, dtype, symmetric, rng):
    x = rng.random((n, 2))
    d = 1 / (0.1 + np.linalg.norm(x[:, None] - x, axis=2))
    if np.dtype(dtype).kind == "c":
        d = d * np.exp(1j * np.subtract.outer(x[:, 0], x[:, 0]))
    if not symmetric:
        d = d * (1 + x[:, 1])
    return x, d.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.filterwarnings("ignore::structmat.exceptions.StructureWarning")
def test_from_dense_keeps_its_promise(dtype, symmetric, rng):
    for n, rtol in ((1, 1e-3), (2, 1e-8), (40, 1e-3), (240, 1e-3), (121, 1e-8)):
        x, d = problem(n, dtype, symmetric, rng)
        tree = sm.ClusterTree.from_points(x, 12)
        for admissibility in (None, sm.WeakAdmissibility()):
            a = sm.H2Matrix.from_dense(d, tree, rtol=rtol, symmetric=symmetric, admissibility=admissibility)
            c = a.certificate
            assert (a.dtype, a.symmetric, c.confidence, c.met) == (d.dtype, symmetric, 1.0, True)
            assert c.asked == max(rtol, 64 * eps(dtype))
            assert error(a, d) <= c.upper_bound * np.linalg.norm(d)
            if n == 240:
                assert c.upper_bound <= 2 * relative_error(a.to_dense(), d), "the bound is far from the truth"
                assert a.nbytes < (0.6 if symmetric else 1.0) * d.nbytes


def test_from_dense_rectangular_any_partition_and_absolute(rng):
    rows, cols = sm.ClusterTree.balanced(150, depth=4), sm.ClusterTree.balanced(93, depth=4)
    d = np.exp(-((line(150)[:, None] - line(93)) ** 2))
    for admissibility in (None, any_blocks):
        a = sm.H2Matrix.from_dense(d, (rows, cols), atol=1e-4, rtol=0.0, admissibility=admissibility)
        assert error(a, d) <= 1e-4
        assert a.certificate.asked == pytest.approx(1e-4 / np.linalg.norm(d))
        assert error(a.H, d.T) <= 1e-4


def test_from_dense_says_what_it_cannot(rng):
    d = dense_problem("K", 200)
    with pytest.warns(sm.AccuracyWarning, match="raise max_rank"):
        a = sm.H2Matrix.from_dense(d, sm.ClusterTree.balanced(200, 16), max_rank=2)
    assert a.max_rank <= 2
    assert relative_error(a.to_dense(), d) <= a.certificate.upper_bound
    with pytest.raises(sm.SymmetryError, match=r"\(A \+ A\^H\) / 2"):
        sm.H2Matrix.from_dense(d * (1 + line(200)), symmetric=True)
    with pytest.raises(sm.ShapeError, match="a must be 2-D"):
        sm.H2Matrix.from_dense(d[0])
    zero = sm.H2Matrix.from_dense(np.zeros((50, 50)), sm.ClusterTree.balanced(50, 8))
    assert zero.max_rank == 0
    assert not zero.to_dense().any()


# ----------------------------------------------------------------------------------------- between formats


@pytest.mark.parametrize("seed", range(16))
def test_all_ways(seed):
    rng = np.random.default_rng(seed)
    if seed % 3:
        a, d = random_matrix(rng)
    else:
        rows, cols = random_trees(rng, rectangular=seed % 2 == 1)
        a, d = random_hss(rng, rows, 4, DTYPES[seed % 4], seed % 2 == 0, col_tree=cols)
    size, floor = np.linalg.norm(d), 200 * eps(d.dtype)
    h2 = sm.H2Matrix.from_structured(a)
    sources, targets = ([a], [sm.H2Matrix]) if seed % 2 else ([h2], FORMATS)
    for source in sources:
        for format in targets:
            exact = format.from_structured(source)
            assert error(exact, d) <= floor * size
            assert exact.certificate.met
            rtol = float(10.0 ** rng.uniform(-4, -0.5))
            rough = format.from_structured(source, rtol=rtol)
            assert error(rough, d) <= (rough.certificate.upper_bound + floor) * size
            assert rough.certificate.upper_bound <= max(rtol, floor)
            for result in (exact, rough):
                assert (type(result), result.dtype, result.symmetric) == (format, d.dtype, a.symmetric)


def test_the_blocks_are_kept_or_chosen(rng):
    tree = sm.ClusterTree.balanced(200, 10)
    a, d = random_flat(rng, sm.HMatrix, tree, 3)
    b = sm.H2Matrix.from_structured(a)
    for mine, its in zip(b.partition.far, a.partition.far, strict=True):
        assert np.array_equal(mine, its)
    back = sm.HMatrix.from_structured(b)
    for mine, its in zip(back.partition.far, a.partition.far, strict=True):
        assert np.array_equal(mine, its)
    weak = sm.H2Matrix.from_structured(a, admissibility=sm.WeakAdmissibility())
    assert [len(places) for places in weak.partition.far] == [0, *(2**level for level in range(1, tree.depth + 1))]
    assert error(weak, d) <= 1e-12 * np.linalg.norm(d)
    assert sm.H2Matrix.from_structured(b) is b
    other = sm.BlockPartition.build(sm.ClusterTree.balanced(200, 30))
    with pytest.raises(sm.TreeMismatchError, match="other trees"):
        sm.H2Matrix.from_structured(a, partition=other)
    with pytest.raises(TypeError, match="use from_dense for an array"):
        sm.H2Matrix.from_structured(d)


@pytest.mark.parametrize("symmetric", [False, True])
def test_hss_is_h2(rng, symmetric):
    """The same numbers, interpolative bases included."""
    n = 500
    a = sm.HSSMatrix.from_kernel(KERNELS["K"](n), line(n), rtol=1e-6, leaf_size=32, symmetric=symmetric)
    b = sm.H2Matrix.from_structured(a)
    assert b.blocks.row_basis.orders is not None
    for mine, its in zip(b.ranks, a.ranks, strict=True):
        assert np.array_equal(mine, its)
    x = rng.standard_normal((n, 3))
    assert np.linalg.norm(b @ x - a @ x) <= 1e-13 * np.linalg.norm(a @ x)
    assert b.certificate.upper_bound <= 1e-15
    assert sum(len(c) for c in of_hss(a.generators).couplings) == sum(len(c) for c in a.generators.couplings)


def test_a_kernel_there_and_back(rng):
    points = rng.random((600, 2))
    kernel = sm.kernelfunctions.Laplace(dim=2)
    dense = kernel(points, points)
    a = sm.HMatrix.from_kernel(kernel, points, rtol=1e-6, symmetric=True, leaf_size=20)
    b = sm.H2Matrix.from_structured(a)
    direct = sm.H2Matrix.from_kernel(kernel, points, a.row_tree, rtol=1e-6)
    back = sm.HMatrix.from_structured(direct)
    assert relative_error(b.to_dense(), dense) <= 2e-6
    assert relative_error(back.to_dense(), dense) <= 2e-6
    assert b.nbytes <= 1.1 * direct.nbytes
    assert back.nbytes <= 1.1 * a.nbytes


# ------------------------------------------------------------------------------------- weak admissibility


@pytest.mark.parametrize("name", ["K", "L"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-5, 1e-8, 1e-11])
def test_weak_admissibility_equals_hss(name, rtol, rng):
    n = 1024
    dense = dense_problem(name, n)
    kernel, x = KERNELS[name](n), line(n)
    a = sm.H2Matrix.from_kernel(kernel, x, rtol=rtol, admissibility=sm.WeakAdmissibility(), leaf_size=32)
    hss = sm.HSSMatrix.from_kernel(kernel, x, rtol=rtol, leaf_size=32)
    true = relative_error(a.to_dense(), dense)
    assert true <= rtol
    assert a.certificate.met
    assert true / 1.5 <= a.certificate.upper_bound <= 3 * true
    assert a.max_rank <= hss.max_rank + 4
    v = rng.standard_normal(n)
    assert np.linalg.norm(a @ v - hss @ v) <= 10 * rtol * np.linalg.norm(hss @ v)


def test_blocks_on_the_fly_are_written_out_first(tmp_path, rng):
    points = rng.random((400, 2))
    kernel = sm.kernelfunctions.Laplace(dim=2)
    stored = sm.H2Matrix.from_kernel(kernel, points, rtol=1e-6, leaf_size=20)
    evaluated = sm.H2Matrix.from_kernel(kernel, points, rtol=1e-6, leaf_size=20, on_the_fly=True)
    assert evaluated.on_the_fly
    dense = stored.to_dense()
    for format in (sm.HMatrix, sm.HSSMatrix):
        assert relative_error(format.from_structured(evaluated).to_dense(), dense) <= 2e-6
    evaluated.save(tmp_path / "a.npz")
    assert relative_error(sm.load(tmp_path / "a.npz").to_dense(), dense) <= 1e-14
    assert f"{len(evaluated._storage.block_places()[1])} dense blocks" in evaluated.summary()
    shown = [a.plot().collections[1].get_array() for a in (evaluated, stored)]
    assert np.array_equal(*shown)
    plt.close("all")


def test_row_factors_leave_out_what_is_at_right_angles(rng):
    blocks = rng.standard_normal((3, 12, 20)) * 0.3 ** np.arange(20)
    factor, left = row_factor(blocks.copy(), np.full(3, 1e-3))
    for m, part, rest in zip(blocks, factor, left, strict=True):
        assert rest <= 1e-3
        # M M^H = L L^H + E E^H, and E has the norm that is told
        gap = np.trace(m @ m.T - part @ part.T)
        assert gap == pytest.approx(rest**2, rel=1e-6, abs=1e-14)
