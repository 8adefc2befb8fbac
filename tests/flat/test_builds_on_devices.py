"""HODLR and H-matrices of kernels that another array library evaluates: batched crosses against dense twins."""

import numpy as np
import pytest

import structmat as sm
from structmat import _backend
from structmat.exceptions import DeviceError, DeviceMemoryError, NonFiniteError
from structmat.kernelfunctions import Exponential, Laplace, Matern, Stokes
from structmat.lowrank import ACA
from tests.conftest import cupy_library, strict_library, torch_library

FORMATS = [sm.HODLRMatrix, sm.HMatrix]


@pytest.fixture(params=[strict_library, torch_library, pytest.param(cupy_library, marks=pytest.mark.gpu)])
def like(request):
    return request.param().asarray(np.zeros(1))


def relative(a, dense):
    return np.linalg.norm(a.to_dense() - dense) / np.linalg.norm(dense)


@pytest.mark.parametrize("cls", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rtol", [1e-3, pytest.param(1e-9, marks=pytest.mark.slow)])
def test_tolerances_are_kept(like, cls, symmetric, rtol):
    x = np.random.default_rng(0).random((500, 2))
    x = np.sort(x[:, 0]) if cls is sm.HODLRMatrix else x
    for kernel in (Matern(nu=1.5, length=0.3), Laplace(dim=2)):
        a = cls.from_kernel(kernel, x, rtol=rtol, symmetric=symmetric, leaf_size=20, like=like)
        assert type(a._storage._example) is type(like)
        assert a.certificate.met
        assert a.certificate.asked == rtol
        assert relative(a, kernel(x, x)) <= rtol
        assert a.symmetric == symmetric


@pytest.mark.parametrize("cls", FORMATS)
def test_two_point_sets_and_plain_functions_of_batches(like, cls):
    rng = np.random.default_rng(1)
    x, y = rng.random((300, 3)), rng.random((170, 3)) + 0.1

    def kernel(x, y):
        squares = 0.0
        for axis in range(3):
            squares = squares + (x[..., :, None, axis] - y[..., None, :, axis]) ** 2
        return 1.0 / (0.01 + squares)

    kernel.batched = True
    a = cls.from_kernel(kernel, x, column_points=y, rtol=1e-6, leaf_size=16, like=like)
    assert relative(a, kernel(x, y)) <= 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_clusters_of_two_sets_that_overlap(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    x, y, kernel = rng.random(400), rng.random(700), Exponential(length=0.3)
    for rtol in (1e-3, 1e-6):
        a = sm.HODLRMatrix.from_kernel(
            kernel, x, column_points=y, rtol=rtol, leaf_size=40, like=torch.zeros(1, dtype=torch.float64)
        )
        assert a.certificate.met
        assert relative(a, kernel(x, y)) <= rtol


def test_singular_values_that_decay_slowly_take_few_restarts():
    torch = pytest.importorskip("torch")
    x, kernel = np.random.default_rng(0).random((3000, 2)), Exponential(length=0.3)
    a = sm.HODLRMatrix.from_kernel(kernel, x, rtol=1e-2, symmetric=True, like=torch.zeros(1, dtype=torch.float64))
    assert relative(a, kernel(x, x)) <= 1e-2
    assert a.certificate.entries < 0.3 * 3000**2


def test_blocks_that_fall_into_parts_are_not_cut_short():
    torch = pytest.importorskip("torch")
    # a kernel that sees only like colours: each admissible block is two that do not see each other
    x = np.sort(np.random.default_rng(2).random(600))
    colours = (np.arange(600) % 2).astype(float)
    points = np.stack([x, colours], axis=1)

    def kernel(p, q):
        same = p[..., :, None, 1] == q[..., None, :, 1]
        return same * 1.0 / (0.1 + abs(p[..., :, None, 0] - q[..., None, :, 0]))

    kernel.batched = True
    tree = sm.ClusterTree.from_points(x, 16)
    a = sm.HODLRMatrix.from_kernel(kernel, points, tree, rtol=1e-8, like=torch.zeros(1, dtype=torch.float64))
    assert a.certificate.met
    assert relative(a, kernel(points, points)) <= 1e-8


def test_blocks_of_full_rank_are_evaluated_in_full():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(3).random(256) * 1e4

    def kernel(p, q):
        return (p[..., :, None, 0] * q[..., None, :, 0]) % 1.0

    kernel.batched = True
    like = torch.zeros(1, dtype=torch.float64)
    a = sm.HODLRMatrix.from_kernel(kernel, x[:, None], rtol=1e-6, leaf_size=16, like=like)
    assert a.max_rank == 128
    assert relative(a, kernel(x[:, None], x[:, None])) <= 1e-6


@pytest.mark.parametrize("cls", FORMATS)
def test_the_largest_rank_can_be_set(cls):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((400, 2))
    like = torch.zeros(1, dtype=torch.float64)
    with pytest.warns(sm.exceptions.AccuracyWarning, match="raise max_rank"):
        a = cls.from_kernel(Laplace(dim=2), x, rtol=1e-10, leaf_size=20, max_rank=8, like=like)
    assert a.max_rank == 8


def test_single_precision_stays_what_it_is():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((400, 2))

    def kernel(p, q):
        return Exponential(length=0.5)(p, q).to(torch.float32) if isinstance(p, torch.Tensor) else None

    kernel.batched = True
    a = sm.HMatrix.from_kernel(kernel, x, rtol=1e-4, leaf_size=20, like=torch.zeros(1))
    assert a.dtype == np.float32
    assert relative(a, Exponential(length=0.5)(x, x)) <= 1e-4


def test_what_cannot_be_built_there_says_so(monkeypatch):
    torch = pytest.importorskip("torch")
    x, like = np.random.default_rng(0).random((300, 2)), torch.zeros(1, dtype=torch.float64)
    with pytest.raises(DeviceError, match=r"leave out compressor= or like="):
        sm.HMatrix.from_kernel(Laplace(dim=2), x, compressor=ACA(), like=like)
    with pytest.raises(DeviceError, match=r"kernel.batched = True"):
        sm.HMatrix.from_kernel(lambda p, q: 1.0 / (1.0 + torch.cdist(p, q)), x, like=like)
    with pytest.raises(DeviceError, match="several components"):
        sm.HMatrix.from_kernel(Stokes(dim=2), x, like=like)

    def kernel(p, q):
        return 1.0 / abs(p[..., :, None, 0] - q[..., None, :, 0])

    kernel.batched = True
    with pytest.raises(NonFiniteError, match="returned inf at row"):
        sm.HMatrix.from_kernel(kernel, x, like=like)
    monkeypatch.setattr(_backend, "free_bytes", lambda library: 10_000)
    with pytest.raises(DeviceMemoryError, match=r"the matrix, with its dense blocks .* 1e-05 GB are free there"):
        sm.HMatrix.from_kernel(Laplace(dim=2), x, like=like)
