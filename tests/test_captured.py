"""Products recorded on a CUDA device; on the CPU, that a product is a fixed sequence of operations of the device."""

import functools

import numpy as np
import pytest

import structmat as sm
from structmat import captured
from structmat.exceptions import DeviceError, MissingLibraryError, ShapeError
from structmat.kernelfunctions import Matern

torch = pytest.importorskip("torch")

N = 700  # leaves of unequal sizes
FORMATS = ["HSS", "HODLR", "H", "H2"]


@functools.cache
def matrix(name, symmetric=False):
    """A matrix of each format, with padded leaves."""
    plane = np.random.default_rng(0).random((N, 2))
    points = np.sort(plane[:, 0]) if name in ("HSS", "HODLR") else plane
    build = {"HSS": sm.HSSMatrix, "HODLR": sm.HODLRMatrix, "H": sm.HMatrix, "H2": sm.H2Matrix}[name].from_kernel
    return build(Matern(nu=1.5, length=0.3), points, leaf_size=32, rtol=1e-6, symmetric=symmetric)


class Traced:
    """The recording of a graph on the CPU: the operations on tensors that a function makes, replayed for others.

    What a value on the host depends on cannot be recorded, on the CPU as on a GPU.
    """

    def __init__(self, function, x):
        from torch.fx.experimental.proxy_tensor import make_fx

        function(x)  # copies the index arrays there
        self.source = x
        self.graph = make_fx(function)(x)

    def __call__(self, x):
        return self.graph(x)


@pytest.fixture
def traced(monkeypatch):
    """Let products be recorded on the CPU."""
    monkeypatch.setattr(captured, "Recording", Traced)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("adjoint", [False, True])
def test_a_product_replays_for_other_vectors(name, symmetric, adjoint):
    a = matrix(name, symmetric)
    there = a._with_arrays(torch.asarray)
    rng = np.random.default_rng(1)
    for shape in ((N,), (N, 3)):
        product = sm.CapturedProduct(there, torch.zeros(shape, dtype=torch.float64), adjoint=adjoint)
        v = rng.standard_normal(shape)
        y = product(torch.asarray(v))
        np.testing.assert_allclose(y.numpy(), (a.H if adjoint else a) @ v, atol=1e-11)


def test_a_product_that_looks_at_values_is_not_recorded():
    with pytest.raises(RuntimeError, match="tracing"):
        Traced(lambda x: x * float(x.max()), torch.ones(3))


@pytest.mark.usefixtures("traced")
def test_matrices_in_mixed_precision_and_views_replay():
    a = matrix("HSS").to_mixed_precision(rtol=1e-6)
    v = np.random.default_rng(2).standard_normal(N)
    for each in (a, matrix("H2").T):
        product = sm.CapturedProduct(each._with_arrays(torch.asarray), torch.zeros(N, dtype=torch.float64))
        np.testing.assert_allclose(product(torch.asarray(v)).numpy(), each @ v, atol=1e-11)


@pytest.mark.usefixtures("traced")
def test_arrays_of_another_library_come_back_as_such():
    strict = pytest.importorskip("array_api_strict")
    a = matrix("HODLR")
    there = a._with_arrays(lambda data: strict.asarray(data, copy=True))
    v = np.random.default_rng(3).standard_normal(N)
    product = sm.CapturedProduct(there, strict.zeros(N))
    y = product(strict.asarray(v, copy=True))
    assert type(y) is type(strict.zeros(1))
    np.testing.assert_allclose(np.asarray(y), a @ v, atol=1e-11)
    np.testing.assert_allclose(product(v), a @ v, atol=1e-11)


@pytest.mark.usefixtures("traced")
def test_other_shapes_and_types_are_refused():
    there = matrix("HSS")._with_arrays(torch.asarray)
    product = sm.CapturedProduct(there, torch.zeros(N, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"for float64 arrays of shape \(700,\), but x is of shape \(700, 2\)"):
        product(torch.zeros((N, 2), dtype=torch.float64))
    with pytest.raises(ShapeError, match="x has 699 rows"):
        product(torch.zeros(N - 1, dtype=torch.float64))
    with pytest.raises(TypeError, match="but x is complex128"):
        product(torch.zeros(N, dtype=torch.complex128))
    with pytest.raises(ShapeError, match="A has 700 columns"):
        sm.CapturedProduct(there, torch.zeros(N + 1, dtype=torch.float64))


def test_on_the_cpu_nothing_is_recorded():
    a = matrix("HSS")
    with pytest.raises(DeviceError, match="on a CUDA device only, but the vectors are on cpu"):
        sm.CapturedProduct(a._with_arrays(torch.asarray), torch.zeros(N, dtype=torch.float64))
    with pytest.raises(DeviceError, match="on a CUDA device only"):
        sm.CapturedProduct(a, np.zeros(N))


def test_without_torch_the_error_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingLibraryError, match="pip install torch"):
        captured.as_torch(np.zeros(3))


@pytest.fixture
def cuda():
    """Skip where torch has no GPU: a graph cannot be recorded there."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", FORMATS)
def test_a_graph_on_a_gpu(name):
    a = matrix(name)
    there = a._with_arrays(lambda data: torch.as_tensor(data, device="cuda"))
    rng = np.random.default_rng(4)
    for shape in ((N,), (N, 3)):
        product = sm.CapturedProduct(there, torch.zeros(shape, dtype=torch.float64, device="cuda"))
        for _ in range(3):
            v = rng.standard_normal(shape)
            np.testing.assert_allclose(product(torch.as_tensor(v, device="cuda")).cpu().numpy(), a @ v, atol=1e-11)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_a_graph_of_arrays_of_cupy():
    cupy = pytest.importorskip("cupy")
    a = matrix("H2")
    product = sm.CapturedProduct(a.to_device("gpu"), cupy.zeros(N))
    v = np.random.default_rng(5).standard_normal(N)
    y = product(cupy.asarray(v))
    assert isinstance(y, cupy.ndarray)
    np.testing.assert_allclose(y.get(), a @ v, atol=1e-11)
