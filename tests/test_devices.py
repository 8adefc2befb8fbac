"""Matrices in other array libraries: products as on the CPU, and what repeated products move there."""

import numpy as np
import pytest

import structmat as sm
from structmat import _backend
from structmat._backend import namespace
from structmat.kernelfunctions import Matern

N = 700  # leaves of unequal sizes


def matrices(symmetric):
    """All formats, with padded leaves and points in the plane."""
    x = np.random.default_rng(0).random((N, 2))
    line = np.sort(x[:, 0])
    plane, kernel = {"leaf_size": 32, "rtol": 1e-6, "symmetric": symmetric}, Matern(nu=1.5, length=0.3)
    return {
        "HSS": sm.HSSMatrix.from_kernel(kernel, line, leaf_size=32, rtol=1e-6, symmetric=symmetric),
        "HODLR": sm.HODLRMatrix.from_kernel(kernel, line, leaf_size=32, rtol=1e-6, symmetric=symmetric),
        "H": sm.HMatrix.from_kernel(kernel, x, **plane),
        "H2": sm.H2Matrix.from_kernel(kernel, x, **plane),
    }


@pytest.fixture
def copies(xp, monkeypatch):
    """The sizes of NumPy arrays that have been copied into the other library since the last look."""
    seen = []
    library = namespace(xp.asarray(np.zeros(1)))
    asarray = library.asarray

    def watched(values, *arguments, **options):
        if isinstance(values, np.ndarray):
            seen.append(values.size)
        return asarray(values, *arguments, **options)

    if xp.namespace is not np:
        monkeypatch.setattr(library, "asarray", watched)
    return seen


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["HSS", "HODLR", "H", "H2"])
def test_products_where_the_matrix_is_and_indices_that_stay_there(xp, copies, name, symmetric):
    a = matrices(symmetric)[name]
    there = a._with_arrays(xp.asarray)
    rng = np.random.default_rng(1)
    for shape in ((N,), (N, 3)):
        v = rng.standard_normal(shape)
        moved = xp.asarray(v)
        np.testing.assert_allclose(xp.to_numpy(there @ moved), a @ v, atol=1e-11)
        np.testing.assert_allclose(xp.to_numpy(there.H @ moved), a.H @ v, atol=1e-11)
        copies.clear()
        again = there @ moved, there.H @ moved
        assert copies == []
        assert all(type(y) is type(moved) for y in again)
    assert there.shape == a.shape


@pytest.mark.parametrize("name", ["HSS", "HODLR", "H", "H2"])
def test_vectors_of_another_library_come_back_as_such(name):
    torch, strict = pytest.importorskip("torch"), pytest.importorskip("array_api_strict")
    a = matrices(symmetric=False)[name]
    v = np.random.default_rng(2).standard_normal((N, 2))
    vectors = {"numpy": v, "torch": torch.tensor(v), "strict": strict.asarray(v, copy=True)}
    for there in (a, a._with_arrays(torch.asarray), a._with_arrays(lambda data: strict.asarray(data, copy=True))):
        for x in vectors.values():
            y = there @ x
            assert type(y) is type(x)
            np.testing.assert_allclose(np.asarray(y), a @ v, atol=1e-11)
            np.testing.assert_allclose(np.asarray(there.T @ x), a.T @ v, atol=1e-11)


def test_memory_of_two_libraries_on_one_device_is_shared():
    torch = pytest.importorskip("torch")
    x = np.arange(3.0)
    assert _backend.beside(torch.from_numpy(x), x) is not x
    strict = pytest.importorskip("array_api_strict")
    tensor = torch.zeros(3, dtype=torch.float64)
    shared = _backend.beside(tensor, strict.asarray(0.0))
    tensor[1] = 5.0
    assert float(shared[1]) == 5.0
