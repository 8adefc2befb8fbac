"""HODLR and H in other array libraries: sums, recompression and norms, as on the CPU."""

import numpy as np
import pytest

import structmat as sm
from structmat._backend import numpy_dtype
from structmat.exceptions import AccuracyWarning, DeviceError
from structmat.flat.storage import DEVICE_STEP
from structmat.linalg import inner
from structmat.testing import random_flat

DTYPES = [np.float32, np.float64, np.complex128]


def random_pair(cls, n, depth, dtype, *, symmetric=False, ranks=(3, 2)):
    """Two random matrices on one tree, and their dense twins."""
    points = np.random.default_rng(1).random((n, 2))
    tree = sm.ClusterTree.from_points(points, depth=depth)
    rng = np.random.default_rng(5)
    return tuple(random_flat(rng, cls, tree, rank, dtype, symmetric, shift=float(rank)) for rank in ranks)


def relative(found, dense):
    return np.linalg.norm(found - dense) / np.linalg.norm(dense)


@pytest.mark.parametrize("cls", [sm.HODLRMatrix, sm.HMatrix])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("n", "depth"), [(9, 0), (64, 1), (150, 4)])
def test_algebra_runs_where_the_matrix_is(xp, cls, dtype, symmetric, n, depth):
    (a, x), (b, y) = random_pair(cls, n, depth, dtype, symmetric=symmetric)
    p, q = (m._with_arrays(xp.asarray) for m in (a, b))
    tolerance = 500 * float(np.finfo(dtype).eps)
    cut = (p + q).truncate(rtol=0.3)
    results = {
        "sum": (p + q, x + y), "difference": (p - q, x - y), "multiple": (2.5 * p, 2.5 * x),
        "complex multiple": (p * (1 + 2j), x * (1 + 2j)), "exact": (p.truncate(rtol=0.0), x),
        "adjoint": (p.H + q, x.conj().T + y),
    }  # fmt: skip
    for name, (found, dense) in results.items():
        assert type(found._storage._example) is type(p._storage._example), name
        assert relative(found.to_dense(), dense) < tolerance, name
        assert found.certificate.met, name
    assert p.norm() == pytest.approx(np.linalg.norm(x), rel=tolerance)
    assert inner(p, q) == pytest.approx(np.vdot(x, y), rel=tolerance, abs=float(tolerance * np.linalg.norm(x)))
    assert relative(cut.to_dense(), x + y) <= 0.3
    assert cut.certificate.upper_bound == pytest.approx((a + b).truncate(rtol=0.3).certificate.upper_bound, rel=1e-3)
    assert numpy_dtype(p.astype(np.complex128)._storage._example) == np.complex128


@pytest.mark.parametrize("cls", [sm.HODLRMatrix, sm.HMatrix])
def test_ranks_on_a_device_are_padded_to_few_kinds(cls):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((1000, 2))
    a = cls.from_kernel(sm.kernelfunctions.Laplace(dim=2), x, leaf_size=32, rtol=1e-6)
    there = a._with_arrays(torch.asarray).truncate(rtol=1e-4)
    assert relative(there.to_dense(), a.to_dense()) <= 1e-4
    ranks = {b.rank for level in there.blocks.far for b in level}
    assert len(ranks) < len({b.rank for level in a.blocks.far for b in level})
    assert all(rank % DEVICE_STEP == 0 for rank in ranks - {a.max_rank})
    assert max(ranks) <= a.max_rank
    back = there._with_arrays(np.asarray)
    assert relative(back.to_dense(), a.to_dense()) <= 1e-4
    with pytest.warns(AccuracyWarning, match="raise max_rank"):
        capped = there.truncate(rtol=1e-6, max_rank=1)
    assert max(b.rank for level in capped.blocks.far for b in level) <= DEVICE_STEP
    np.testing.assert_array_equal([len(b) for b in capped.blocks.near], [len(b) for b in a.blocks.near])


def test_what_does_not_run_there_says_so():
    torch = pytest.importorskip("torch")
    (a, _), (b, _) = random_pair(sm.HMatrix, 100, 3, np.float64)
    there = a._with_arrays(torch.asarray)
    with pytest.raises(DeviceError, match="products of two HODLR or H-matrices are formed on the CPU"):
        there @ there
    with pytest.raises(DeviceError, match="entrywise products run on the CPU"):
        there.hadamard(there)
    with pytest.raises(DeviceError, match="must be in one place"):
        there + b
    with pytest.raises(DeviceError, match="must be in one place"):
        inner(there, b)
    weak = sm.BlockPartition.build(a.row_tree, a.col_tree, sm.WeakAdmissibility())
    other = sm.HMatrix.from_low_rank(np.ones((100, 1)), np.ones((100, 1)), a.row_tree, partition=weak)
    with pytest.raises(DeviceError, match="sums over two partitions run on the CPU"):
        there + other._with_arrays(torch.asarray)
