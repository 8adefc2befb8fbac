"""Matrices in other array libraries: products as on the CPU, and what repeated products move there."""

import functools
import gc

import numpy as np
import pytest
import scipy.linalg

import structmat as sm
from structmat import _backend
from structmat._backend import namespace
from structmat.exceptions import (
    DeviceMemoryError,
    NonFiniteError,
    NotPositiveDefiniteError,
    SingularBlockError,
    SymmetryError,
)
from structmat.hodlr.batched import BatchedLU
from structmat.hodlr.batched_cholesky import BatchedHODLRCholesky
from structmat.hss import arithmetic
from structmat.hss.batched import BatchedULV
from structmat.hss.batched_cholesky import BatchedHSSCholesky
from structmat.kernelfunctions import Matern
from structmat.testing import random_flat, random_hss

N = 700  # leaves of unequal sizes


@functools.cache
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


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["HSS", "HODLR", "H", "H2"])
def test_products_with_many_vectors_stay_in_their_work_space(monkeypatch, name, symmetric):
    torch = pytest.importorskip("torch")
    a = matrices(symmetric)[name]
    there = a._with_arrays(torch.asarray)
    v = np.random.default_rng(3).standard_normal((N, 41))
    largest, matmul = [0], torch.matmul

    def watched(x, y):
        product = matmul(x, y)
        largest[0] = max(largest[0], product.numel())
        return product

    monkeypatch.setattr(namespace(torch.zeros(1)), "matmul", watched)
    whole = there @ torch.asarray(v)
    at_once, space = largest[0], largest[0] // 2
    monkeypatch.setattr(_backend, "WORK_SPACE", space)
    for product, expected in ((lambda: there @ torch.asarray(v), a @ v), (lambda: there.H @ torch.asarray(v), a.H @ v)):
        largest[0] = 0
        np.testing.assert_allclose(product().numpy(), expected, atol=1e-11)
        assert 0 < largest[0] <= space
    # where the device has more, more columns are taken
    monkeypatch.setattr(_backend, "free_bytes", lambda library: 4 * 8 * 100 * at_once)
    largest[0] = 0
    torch.testing.assert_close(there @ torch.asarray(v), whole)
    assert largest[0] == at_once


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


def test_vectors_on_another_device_go_through_the_host(monkeypatch):
    torch, strict = pytest.importorskip("torch"), pytest.importorskip("array_api_strict")
    monkeypatch.setattr(_backend, "_on_one_device", lambda x, y: False)
    tensor = torch.ones(3, dtype=torch.float64)
    moved = _backend.beside(tensor, strict.asarray(0.0))
    tensor[1] = 5.0
    np.testing.assert_array_equal(np.asarray(moved), 1.0)
    assert type(moved) is type(strict.asarray(0.0))


def test_memory_of_two_libraries_on_one_device_is_shared():
    torch = pytest.importorskip("torch")
    x = np.arange(3.0)
    assert _backend.beside(torch.from_numpy(x), x) is not x
    strict = pytest.importorskip("array_api_strict")
    tensor = torch.zeros(3, dtype=torch.float64)
    shared = _backend.beside(tensor, strict.asarray(0.0))
    tensor[1] = 5.0
    assert float(shared[1]) == 5.0


# --------------------------------------------------------------------------------- factorisations


DTYPES = [np.float32, np.float64, np.complex128]


def random_matrix(n, depth, dtype=np.float64, *, symmetric=False, rank=3, shift=None, cls=sm.HSSMatrix):
    """A random matrix and its dense twin."""
    shift = 4.0 * np.sqrt(n) if shift is None else shift
    tree, rng = sm.ClusterTree.balanced(n, depth=depth), np.random.default_rng(5)
    if cls is sm.HSSMatrix:
        return random_hss(rng, tree, rank, dtype, symmetric, shift=shift)
    return random_flat(rng, cls, tree, rank, dtype, symmetric, shift=shift)


@pytest.mark.parametrize("cls", [sm.HSSMatrix, sm.HODLRMatrix])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("n", "depth"), [(9, 0), (64, 1), (75, 3), (128, 4)])
def test_the_factorisation_on_a_device_is_that_of_the_cpu(xp, dtype, symmetric, n, depth, cls):
    a, _dense = random_matrix(n, depth, dtype, symmetric=symmetric, cls=cls)
    there = a._with_arrays(xp.asarray)
    batched = BatchedULV if cls is sm.HSSMatrix else BatchedLU
    there = batched(there) if xp.namespace is np else there.factorize()  # of NumPy arrays: the compiled one's twin
    assert isinstance(there, batched)
    here, eps = a.factorize(), float(np.finfo(dtype).eps)
    rng = np.random.default_rng(3)
    for shape in ((n,), (n, 3)):
        b = rng.standard_normal(shape).astype(dtype)
        for method in ("solve", "solve_adjoint"):
            x = getattr(there, method)(xp.asarray(b))
            assert type(x) is type(xp.asarray(b))
            np.testing.assert_allclose(xp.to_numpy(x), getattr(here, method)(b), atol=200 * eps, rtol=1e3 * eps)
    sign, logarithm = there.slogdet()
    assert logarithm == pytest.approx(here.slogdet()[1], rel=1e3 * eps)
    assert abs(sign - here.slogdet()[0]) < 1e4 * eps
    assert there.nbytes > 0
    assert type(there).__name__ in repr(there)


@pytest.mark.parametrize("cls", [sm.HSSMatrix, sm.HODLRMatrix])
def test_a_general_matrix_of_both_signs_and_its_adjoint(cls):
    torch = pytest.importorskip("torch")
    a, dense = random_matrix(200, 3, rank=4, shift=0.0, cls=cls)
    f = a._with_arrays(torch.asarray).factorize()
    b = np.random.default_rng(4).standard_normal((200, 2))
    np.testing.assert_allclose(dense @ f.solve(b), b, atol=1e-8)
    np.testing.assert_allclose(dense.T @ f.solve_adjoint(b), b, atol=1e-8)
    assert f.slogdet() == pytest.approx(np.linalg.slogdet(dense))
    complex_b = b + 1j * b[::-1]
    np.testing.assert_allclose(dense @ f.solve(complex_b), complex_b, atol=1e-8)
    adjoint = a.H._with_arrays(torch.asarray).factorize()
    np.testing.assert_allclose(dense.T @ adjoint.solve(b), b, atol=1e-8)


@pytest.mark.parametrize("cls", [sm.HSSMatrix, sm.HODLRMatrix])
def test_one_call_solves_on_a_device(cls):
    torch = pytest.importorskip("torch")
    a, dense = random_matrix(200, 3, cls=cls)
    b = torch.from_numpy(np.random.default_rng(4).standard_normal(200))
    x = a._with_arrays(torch.asarray).solve(b)
    assert isinstance(x, torch.Tensor)
    assert a._with_arrays(torch.asarray).norm("fro") == pytest.approx(np.linalg.norm(dense))
    np.testing.assert_allclose(dense @ x.numpy(), b.numpy(), atol=1e-10)


@pytest.mark.parametrize(("cls", "level"), [(sm.HSSMatrix, 2), (sm.HODLRMatrix, 2)])
def test_what_cannot_be_factored_on_a_device_says_so(cls, level):
    torch = pytest.importorskip("torch")
    a, _dense = random_matrix(64, 2, cls=cls)
    there = a._with_arrays(torch.asarray)
    with pytest.raises(SingularBlockError, match=f"level {level} is singular"):
        (0.0 * a)._with_arrays(torch.asarray).factorize()
    with pytest.raises(NonFiniteError, match="b must be finite"):
        there.factorize().solve(torch.full((64,), float("nan"), dtype=torch.float64))
    assert there.factorize().solve(torch.ones(64, 0, dtype=torch.float64)).shape == (64, 0)


def test_blocks_that_are_all_zero():
    torch = pytest.importorskip("torch")
    a = sm.HODLRMatrix.from_diagonal(np.arange(1.0, 65.0), sm.ClusterTree.balanced(64, 16))
    f = a._with_arrays(torch.asarray).factorize()
    np.testing.assert_allclose(f.solve(np.ones(64)), 1.0 / np.arange(1.0, 65.0))


@pytest.mark.parametrize("name", ["HSS", "HODLR", "H", "H2"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_what_needs_no_kernels_runs_and_the_rest_says_where(xp, name, symmetric):
    a = matrices(symmetric)[name]
    there = a._with_arrays(xp.asarray)
    d, v = np.linspace(1.0, 2.0, N), np.random.default_rng(6).standard_normal(N)
    found = there.add_diagonal(d) @ xp.asarray(v)
    np.testing.assert_allclose(xp.to_numpy(found), a @ v + d * v, atol=1e-10)
    np.testing.assert_allclose(there.to_dense(), a.to_dense(), atol=1e-12)
    if xp.namespace is np:
        return
    np.testing.assert_allclose(there[5:40, ::7], a[5:40, ::7], atol=1e-12)
    np.testing.assert_allclose(there.H[5:40, ::7], a.H[5:40, ::7], atol=1e-12)
    np.testing.assert_allclose(there.diagonal(), a.diagonal(), atol=1e-12)


def test_blocks_that_are_singular_to_rounding_are_refused():
    torch = pytest.importorskip("torch")
    dense = np.vander(np.linspace(0.0, 1.0, 16), 16) @ np.vander(np.linspace(1.0, 2.0, 16), 16)
    a = sm.HODLRMatrix.from_dense(scipy.linalg.block_diag(np.eye(16), dense), sm.ClusterTree.balanced(32, 16))
    with pytest.raises(SingularBlockError, match="node 1 on level 1 is singular"):
        a._with_arrays(torch.asarray).factorize()


@pytest.mark.parametrize("cls", [sm.HSSMatrix, sm.HODLRMatrix])
def test_rows_of_very_different_sizes_are_not_singular(cls):
    torch = pytest.importorskip("torch")
    diagonal = np.logspace(-20, 20, 64)
    a = cls.from_diagonal(diagonal, sm.ClusterTree.balanced(64, 16))
    f = a._with_arrays(torch.asarray).factorize()
    np.testing.assert_allclose(f.solve(np.ones(64)), 1.0 / diagonal)
    diagonal[7] = 0.0
    with pytest.raises(SingularBlockError):
        cls.from_diagonal(diagonal, sm.ClusterTree.balanced(64, 16))._with_arrays(torch.asarray).factorize()


# --------------------------------------------------------------------------------------- Cholesky


@pytest.mark.parametrize("cls", [sm.HSSMatrix, sm.HODLRMatrix])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "depth"), [(9, 0), (64, 1), (75, 3), (128, 4)])
def test_cholesky_on_a_device_is_that_of_the_cpu(xp, dtype, n, depth, cls):
    a, _dense = random_matrix(n, depth, dtype, symmetric=True, cls=cls)
    batched = BatchedHSSCholesky if cls is sm.HSSMatrix else BatchedHODLRCholesky
    there = batched(a) if xp.namespace is np else a._with_arrays(xp.asarray).factorize(positive_definite=True)
    assert isinstance(there, batched)
    assert there.positive_definite
    here, eps = a.factorize(positive_definite=True), float(np.finfo(dtype).eps)
    rng = np.random.default_rng(3)
    for shape in ((n,), (n, 3)):
        b = rng.standard_normal(shape).astype(dtype)
        for method in ("solve", "solve_adjoint"):
            x = getattr(there, method)(xp.asarray(b))
            assert type(x) is type(xp.asarray(b))
            np.testing.assert_allclose(xp.to_numpy(x), getattr(here, method)(b), atol=200 * eps, rtol=1e3 * eps)
    assert there.slogdet() == pytest.approx(here.slogdet(), rel=1e3 * eps)
    assert there.nbytes > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "depth"), [(9, 0), (75, 3)])
def test_samples_of_a_covariance_on_a_device(xp, dtype, n, depth):
    a, dense = random_matrix(n, depth, dtype, symmetric=True, cls=sm.HODLRMatrix)
    f = BatchedHODLRCholesky(a._with_arrays(xp.asarray))
    eye = xp.asarray(np.eye(n, dtype=dtype))
    w = xp.to_numpy(f.apply_factor(eye))
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(w @ w.conj().T, dense, atol=200 * eps * np.linalg.norm(dense, 2))
    np.testing.assert_allclose(xp.to_numpy(f.solve_factor(xp.asarray(w))), np.eye(n), atol=500 * eps)
    vector = f.apply_factor(xp.asarray(np.ones(n, dtype=dtype)))
    np.testing.assert_allclose(xp.to_numpy(vector), w.sum(axis=1), rtol=1e3 * eps, atol=1e3 * eps)


@pytest.mark.parametrize("cls", [sm.HSSMatrix, sm.HODLRMatrix])
def test_a_matrix_that_is_not_definite_is_named_with_its_node(xp, cls):
    tree = sm.ClusterTree.balanced(64, 16)
    diagonal = np.ones(64)
    diagonal[40] = -1.0
    a = cls.from_diagonal(diagonal, tree)._with_arrays(xp.asarray)
    with pytest.raises(NotPositiveDefiniteError, match="failed in node 2 of level 2") as error:
        a.factorize(positive_definite=True)
    assert (error.value.level, error.value.node) == (2, 2)
    ones = np.ones((64, 1))
    indefinite = (cls.from_low_rank(ones, ones, tree, symmetric=True) * -0.5).add_diagonal(20.0)
    with pytest.raises(NotPositiveDefiniteError, match=r"of level [01]"):
        indefinite._with_arrays(xp.asarray).factorize(positive_definite=True)
    general = random_matrix(64, 2, cls=cls)[0]._with_arrays(xp.asarray)
    with pytest.raises(SymmetryError, match="stored as Hermitian"):
        general.factorize(positive_definite=True)


def test_sums_with_wide_bases_are_factored_on_a_device():
    torch = pytest.importorskip("torch")
    a, dense = random_matrix(32, 2, rank=6, symmetric=True)
    wide = arithmetic.add(a.generators, a.generators)
    matrix = sm.HSSMatrix(wide, a.row_tree, a.row_tree, a.certificate)._with_arrays(torch.asarray)
    for f in (matrix.factorize(), matrix.factorize(positive_definite=True)):
        np.testing.assert_allclose(2 * dense @ f.solve(np.ones(32)), 1.0)


# ----------------------------------------------------------------------------------------- memory


def tensors_alive(torch):
    gc.collect()
    return sum(type(thing) is torch.Tensor and thing.numel() > 64 for thing in gc.get_objects())


@pytest.mark.parametrize("cls", [sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix])
def test_nothing_is_left_on_the_device_after_an_exception(cls):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((150, 2))
    calls, breaks = [], [np.inf]

    def kernel(x, y):
        calls.append(len(calls))
        values = 1.0 / (0.1 + sum((x[..., :, None, k] - y[..., None, :, k]) ** 2 for k in range(2)))
        return values if len(calls) < breaks[0] else values * float("nan")

    kernel.batched = True
    like = torch.zeros(1, dtype=torch.float64)
    cls.from_kernel(kernel, x, leaf_size=16, rtol=1e-6, like=like)  # what is kept for good is there now
    before, count = tensors_alive(torch), len(calls)
    for breaks[0] in (3, count):
        calls.clear()
        with pytest.raises(NonFiniteError):
            cls.from_kernel(kernel, x, leaf_size=16, rtol=1e-6, like=like)
        assert tensors_alive(torch) == before
    if cls is sm.HODLRMatrix or cls is sm.HSSMatrix:
        singular = (0.0 * random_matrix(256, 3, cls=cls)[0])._with_arrays(torch.asarray)
        before = tensors_alive(torch)
        with pytest.raises(SingularBlockError):
            singular.factorize()
        assert tensors_alive(torch) == before


@pytest.fixture
def torch_as_gpu(monkeypatch):
    """A device "gpu" of torch tensors, and a function that sets how many bytes are free there."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(_backend, "device_namespace", lambda device: torch if device == "gpu" else np)

    def with_free(count):
        monkeypatch.setattr(_backend, "free_bytes", lambda library: count)

    return with_free


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["HSS", "HODLR", "H", "H2"])
def test_a_matrix_that_does_not_fit_is_refused_before_it_moves(torch_as_gpu, name, symmetric):
    a = matrices(symmetric)[name]
    torch_as_gpu(a.nbytes // 2)
    with pytest.raises(
        DeviceMemoryError, match=r"takes .* GB on the device, but .* GB are free there: delete"
    ) as error:
        a.to_device("gpu")
    assert isinstance(error.value, MemoryError)
    torch_as_gpu(10 * a.nbytes)
    there = a.to_device("gpu")
    v = np.ones(N)
    np.testing.assert_allclose(there @ v, a @ v, atol=1e-11)
    np.testing.assert_allclose(there.to_device("cpu") @ v, a @ v, atol=1e-11)


@pytest.mark.parametrize("name", ["HSS", "H2"])
def test_bytes_on_a_device_are_those_of_its_arrays(name):
    torch = pytest.importorskip("torch")
    a = matrices(symmetric=False)[name]
    there = a._with_arrays(torch.asarray)
    assert isinstance(there @ torch.ones(N, dtype=torch.float64), torch.Tensor)
    held = there._storage.nbytes
    if name == "H2":
        parts, bases = there._storage._batched
        held += sum(b.nbytes for _near, couplings in parts for b in couplings)
        held += sum(a.nbytes for basis in bases for a in basis.levels)
    assert 0.95 * held <= a._device_bytes() <= 1.3 * held  # without the integers


def test_a_build_that_does_not_fit_is_refused_before_it_starts(torch_as_gpu):
    torch = pytest.importorskip("torch")
    dense = torch.eye(300, dtype=torch.float64)
    torch_as_gpu(100_000)
    with pytest.raises(DeviceMemoryError, match=r"a build from \d+ products .* use smaller leaves"):
        sm.HSSMatrix.from_operator(Multiplied(dense), like=dense)
    torch_as_gpu(100_000_000)
    assert sm.HSSMatrix.from_operator(Multiplied(dense), like=dense).certificate.met


class Multiplied:
    """The products with a tensor, as an operator."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype

    def matmat(self, x):
        return self.tensor @ x

    def rmatmat(self, x):
        return self.tensor.T @ x


def test_an_error_of_the_device_is_no_indefinite_matrix(monkeypatch):
    torch = pytest.importorskip("torch")

    def out_of_memory(blocks):
        raise RuntimeError("out of memory")

    a = sm.HODLRMatrix.identity(sm.ClusterTree.balanced(64, 16))._with_arrays(torch.asarray)
    monkeypatch.setattr(namespace(torch.zeros(1)).linalg, "cholesky", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        a.factorize(positive_definite=True)


def test_tensors_that_are_conjugated_or_negated_later_come_to_numpy():
    torch = pytest.importorskip("torch")
    x = torch.randn(3, 4, dtype=torch.complex128)
    np.testing.assert_array_equal(_backend.to_numpy(torch.conj(x)), x.numpy().conj())
    np.testing.assert_array_equal(_backend.to_numpy(torch.conj(x).imag), -x.numpy().imag)
