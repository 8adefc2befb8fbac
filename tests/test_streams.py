"""The near field beside the far field: on a GPU on two streams, elsewhere one after the other."""

import contextlib

import numpy as np
import pytest

import structmat as sm
from structmat import _backend
from structmat.engine import reference, routing
from structmat.kernelfunctions import Matern

N = 600
FORMATS = {"HSS": sm.HSSMatrix, "HODLR": sm.HODLRMatrix, "H": sm.HMatrix, "H2": sm.H2Matrix}


class Stream:
    """A stream that writes down what it is told; events are how far it had come."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def record(self):
        self.log.append(f"{self.name} is marked")
        return self.name

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event}")


@pytest.fixture
def log(monkeypatch):
    """What two streams are told, and which is the current one when blocks are multiplied, in order."""
    entries, current = [], ["here"]

    @contextlib.contextmanager
    def scope():
        current[0] = "aside"
        yield
        current[0] = "here"

    def streams(_x):
        return Stream("here", entries), Stream("aside", entries), scope()

    products = reference._products

    def spy(route, stored, forward, backward, x):
        entries.append(f"{len(stored)} on {current[0]}")
        return products(route, stored, forward, backward, x)

    monkeypatch.setattr(_backend, "_streams", streams)
    monkeypatch.setattr(reference, "_products", spy)
    return entries


def matrix(name):
    points = np.random.default_rng(0).random((N, 1 if name in ("HSS", "HODLR") else 2))
    return FORMATS[name].from_kernel(Matern(nu=1.5, length=0.3), points, leaf_size=32, rtol=1e-6)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_dense_blocks_are_multiplied_aside(log, name, adjoint):
    torch = pytest.importorskip("torch")
    a = matrix(name)
    there, v = a._with_arrays(torch.asarray), np.random.default_rng(1).standard_normal(N)
    product = there.rmatvec(torch.asarray(v)) if adjoint else there @ torch.asarray(v)
    np.testing.assert_allclose(product.numpy(), a.rmatvec(v) if adjoint else a @ v, atol=1e-11)
    assert log[:2] == ["here is marked", "aside waits for here"]
    assert log[-2:] == ["aside is marked", "here waits for aside"]
    inside = log[2:-2]
    turn = inside.index(next(entry for entry in inside if entry.endswith("here")))
    assert turn > 0
    assert inside[:turn] == ["1 on aside"] * turn
    factors = 2 if name in ("HODLR", "H") else 1  # of low rank, or couplings
    assert inside[turn:] == [f"{factors} on here"] * (len(inside) - turn)


def test_many_vectors_fill_a_device_alone(log):
    torch = pytest.importorskip("torch")
    a = matrix("H2")
    x = torch.ones((N, routing.PANEL_COLUMNS), dtype=torch.float64)
    np.testing.assert_allclose((a._with_arrays(torch.asarray) @ x).numpy(), a @ x.numpy(), atol=1e-10)
    assert not [entry for entry in log if "waits" in entry]


@pytest.mark.parametrize("failing", ["aside", "here"])
def test_the_streams_meet_again_after_an_error(log, failing):
    def work(name):
        if name == failing:
            raise MemoryError(name)
        return np.zeros(1)

    with pytest.raises(MemoryError, match=failing):
        _backend.concurrently(lambda: work("aside"), lambda: work("here"), np.zeros(1))
    assert log == ["here is marked", "aside waits for here", "aside is marked", "here waits for aside"]


def test_only_a_gpu_has_streams(xp):
    assert (_backend._streams(xp.asarray(np.zeros(1))) is None) == (xp.name != "cupy")


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["cupy", "torch"])
@pytest.mark.parametrize("name", FORMATS)
def test_many_products_in_a_row_on_a_gpu(name, library):
    """Memory goes round between the streams: each product has its own vector, and all results are looked at last."""
    pytest.importorskip("cupy")
    a = matrix(name)
    there = a.to_device("gpu")
    if library == "torch":
        pytest.importorskip("torch")
        there = there._with_arrays(_backend.as_torch)
    vectors = np.random.default_rng(1).standard_normal((200, N))
    results = [there @ _backend.like(v, there._storage._example) for v in vectors]
    for v, found in zip(vectors, results, strict=True):
        np.testing.assert_allclose(_backend.to_numpy(found), a @ v, atol=1e-10)
