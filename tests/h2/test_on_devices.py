"""H2-matrices in other array libraries: builds, sums, recompression, norms and copies, as on the CPU."""

import warnings

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import structmat as sm
from structmat import _backend
from structmat.exceptions import DeviceError, DeviceMemoryError
from structmat.h2 import ragged
from structmat.h2.ragged import Ragged, copy
from structmat.kernelfunctions import Exponential, Helmholtz, Laplace
from structmat.linalg import inner

from .test_algebra import some_ragged

torch = pytest.importorskip("torch")

DTYPES = [np.float32, np.float64, np.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [10, 1 << 22])
def test_copies_are_those_of_the_compiled_kernels(rng, monkeypatch, dtype, piece):
    monkeypatch.setattr(ragged, "PIECE", piece)
    a = some_ragged(rng, 40, dtype)
    there = Ragged(torch.asarray(a.data), a.heights, a.widths)
    p, q, order = int(a.heights.max()) + 1, int(a.widths.max()) + 2, rng.permutation(len(a))
    padded = there.padded(order, p, q)
    assert np.array_equal(padded.numpy(), a.padded(order, p, q))
    back = Ragged.zeros(a.heights, a.widths, there.data)
    back.put(order, padded)
    assert np.array_equal(back.data.numpy(), a.data)
    np.testing.assert_allclose(there.squares(), a.squares(), rtol=1e-6)
    turned, expected = (Ragged.zeros(a.widths, a.heights, data) for data in (there.data, a.data))
    for source, target in ((there, turned), (a, expected)):
        columns = a.starts[:-1], a.widths, target.starts[:-1], a.heights, a.heights, a.widths
        copy(source.data, target.data, columns, adjointly=True)
    assert np.array_equal(turned.data.numpy(), expected.data)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_algebra_on_a_device_is_that_of_the_cpu(dtype, symmetric):
    x = np.random.default_rng(0).random((400, 2))
    options = {"leaf_size": 16, "rtol": 1e-3 if dtype == np.float32 else 1e-5, "symmetric": symmetric}
    a, b = (
        sm.H2Matrix.from_kernel(kernel, x, **options).astype(dtype)
        for kernel in (Laplace(dim=2), Exponential(length=0.4))
    )
    p, q = (m._with_arrays(torch.asarray) for m in (a, b))
    tolerance = 500 * float(np.finfo(dtype).eps)
    pairs = {
        "sum": (p + q, a + b), "difference": (p - q, a - b),
        "truncated": (p.truncate(rtol=1e-2), a.truncate(rtol=1e-2)),
        "complex": (p * (1 + 2j), a * (1 + 2j)), "adjoint": (p.H + q, a.H + b),
        "shifted": (p.add_diagonal(2.0), a.add_diagonal(2.0)),
        "updated": (p.add_low_rank(torch.asarray(x), x), a.add_low_rank(x, x)),
    }  # fmt: skip
    for name, (found, expected) in pairs.items():
        assert type(found._storage._example) is torch.Tensor, name
        scale = expected.certificate.upper_bound if name in ("truncated", "updated") else 0.0
        twin = expected.to_dense()
        assert np.linalg.norm(found.to_dense() - twin) <= (tolerance + 2 * scale) * np.linalg.norm(twin), name
        assert found.certificate.met, name
        assert found.certificate.upper_bound == pytest.approx(expected.certificate.upper_bound, rel=0.1), name
    assert p.norm() == pytest.approx(a.norm(), rel=tolerance)
    assert inner(p, q) == pytest.approx(inner(a, b), rel=100 * tolerance)
    assert p.truncate(rtol=1e-2).max_rank == pairs["truncated"][1].max_rank


# ----------------------------------------------------------------------------------------- builds


def relative(a, dense):
    return np.linalg.norm(a.to_dense() - dense) / np.linalg.norm(dense)


LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("dimension", "symmetric", "rtol"),
    [(1, False, 1e-8), (2, False, 1e-3), (2, True, 1e-8), (3, True, 1e-3), (3, False, 1e-5)],
)
def test_kernels_are_built_where_the_points_are(dimension, symmetric, rtol):
    x = np.random.default_rng(0).random((500, dimension))
    kernel = Laplace(dim=dimension) if dimension > 1 else Exponential(length=0.3)
    options = {"rtol": rtol, "symmetric": symmetric, "leaf_size": 40 if dimension == 3 else 20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.exceptions.StructureWarning)  # few points
        a = sm.H2Matrix.from_kernel(kernel, x, **options, like=LIKE)
        here = sm.H2Matrix.from_kernel(kernel, x, **options)
    assert type(a._storage._example) is torch.Tensor
    assert a.certificate.met
    assert a.symmetric == symmetric
    assert relative(a, kernel(x, x)) <= rtol
    assert abs(a.max_rank - here.max_rank) <= 2
    assert a.certificate.upper_bound == pytest.approx(here.certificate.upper_bound, rel=1.0, abs=4e-15)
    back = a.to_device("cpu")
    assert relative(back, a.to_dense()) <= 1e-14
    v = torch.ones(500, dtype=torch.float64)
    np.testing.assert_allclose((a @ v).numpy(), back @ v.numpy(), rtol=1e-10)


FAR_FIELDS = {
    "surface": sm.h2.ProxySurface(), "selected": sm.h2.SelectedProxies(), "chebyshev": sm.h2.ChebyshevInterpolation(),
}  # fmt: skip


@pytest.mark.parametrize("far_field", FAR_FIELDS)
@pytest.mark.parametrize(
    ("dimension", "symmetric", "rtol", "dtype"),
    [(2, True, 1e-6, np.float64), (2, False, 1e-3, np.float32), (3, False, 1e-3, np.float64)],
)
def test_far_fields_are_known_there_as_on_the_cpu(far_field, dimension, symmetric, rtol, dtype):
    rng = np.random.default_rng(3)
    x = rng.random((500, dimension)).astype(dtype)
    y = x if symmetric else rng.random((300, dimension)).astype(dtype) + dtype(0.1)
    kernel, dense = Laplace(dim=dimension), Laplace(dim=dimension)(x.astype(float), y.astype(float))
    options = {"rtol": rtol, "symmetric": symmetric, "leaf_size": 20, "far_field": FAR_FIELDS[far_field]}
    options |= {} if symmetric else {"column_points": y}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.exceptions.StructureWarning)  # few points
        a = sm.H2Matrix.from_kernel(kernel, x, **options, like=torch.zeros(1))
        here = sm.H2Matrix.from_kernel(kernel, x, **options)
    assert type(a._storage._example) is torch.Tensor
    assert a.dtype == here.dtype
    assert a.certificate.met
    assert relative(a, dense) <= rtol
    assert relative(a.H, dense.T) <= rtol
    assert abs(a.max_rank - here.max_rank) <= 2
    assert np.linalg.norm(a.to_dense() - here.to_dense()) <= 2 * rtol * np.linalg.norm(dense)


def test_far_fields_of_complex_kernels_and_plain_functions():
    rng = np.random.default_rng(4)
    x, y = rng.random((2, 250, 3))
    kernel = Helmholtz(wavenumber=3.0, dim=3)
    for far_field in FAR_FIELDS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sm.exceptions.StructureWarning)  # few points
            a = sm.H2Matrix.from_kernel(
                kernel, x, column_points=y, rtol=1e-3, leaf_size=20, far_field=far_field, like=LIKE
            )
        assert a.dtype == np.complex128
        assert relative(a, kernel(x, y)) <= 1e-3
        assert relative(a.H, kernel(x, y).conj().T) <= 1e-3
    x = rng.random((400, 2))

    def exponential(x, y):
        return torch.exp(-torch.cdist(x, y)) if isinstance(x, torch.Tensor) else np.exp(-cdist(x, y))

    for far_field in (sm.h2.SelectedProxies(), sm.h2.ChebyshevInterpolation()):
        b = sm.H2Matrix.from_kernel(exponential, x, rtol=1e-5, leaf_size=20, far_field=far_field, like=LIKE)
        assert relative(b, exponential(x, x)) <= 1e-5
    line = np.linspace(0.0, 1.0, 400)

    def green(s, t):
        return abs(s[:, None] - t)

    green.is_greens_function = True
    for far_field in (sm.h2.ProxySurface(), sm.h2.ChebyshevInterpolation()):
        c = sm.H2Matrix.from_kernel(green, line, rtol=1e-10, leaf_size=20, far_field=far_field, like=LIKE)
        assert relative(c, green(line, line)) <= 1e-10
        assert c.max_rank <= 3


def test_kernels_that_are_not_finite_at_proxies_are_refused():
    x = np.random.default_rng(0).random((400, 2))

    def kernel(x, y):
        inside = ((y > 0.0) & (y < 1.0)).all(axis=-1) if isinstance(y, np.ndarray) else ((y > 0) & (y < 1)).all(dim=-1)
        values = cdist(x, y) if isinstance(x, np.ndarray) else torch.cdist(x, y)
        return values / (inside * 1.0)

    for like in (None, LIKE):
        with np.errstate(all="ignore"), pytest.raises(sm.NonFiniteError, match="not finite at points around those"):
            sm.H2Matrix.from_kernel(kernel, x, leaf_size=20, far_field=sm.h2.SelectedProxies(), like=like)


def test_two_point_sets_and_complex_functions_of_batches():
    rng = np.random.default_rng(1)
    x, y = rng.random((300, 2)), rng.random((170, 2)) + 0.1

    def kernel(x, y):
        squares = sum((x[..., :, None, axis] - y[..., None, :, axis]) ** 2 for axis in range(2))
        return 1.0 / (0.01 + squares) + 0.5j * squares

    kernel.batched = True
    a = sm.H2Matrix.from_kernel(kernel, x, column_points=y, rtol=1e-6, leaf_size=16, like=LIKE)
    assert a.dtype == np.complex128
    assert relative(a, kernel(x, y)) <= 1e-6
    assert relative(a.H, kernel(x, y).conj().T) <= 1e-6


def test_plain_functions_and_the_largest_rank():
    x = np.random.default_rng(2).random((300, 2))

    def kernel(x, y):
        return torch.exp(-torch.cdist(x, y)) if isinstance(x, torch.Tensor) else np.exp(-cdist(x, y))

    a = sm.H2Matrix.from_kernel(kernel, x, rtol=1e-5, leaf_size=20, like=LIKE)
    assert relative(a, kernel(x, x)) <= 1e-5
    with pytest.warns(sm.exceptions.AccuracyWarning, match="raise max_rank"):
        a = sm.H2Matrix.from_kernel(kernel, x, rtol=1e-9, leaf_size=20, max_rank=4, like=LIKE)
    assert a.max_rank == 4


def test_what_cannot_be_built_on_a_device_says_so(monkeypatch):
    x, kernel = np.random.default_rng(0).random((600, 2)), Laplace(dim=2)
    with pytest.raises(DeviceError, match="leave out like=, or on_the_fly=True"):
        sm.H2Matrix.from_kernel(kernel, x, on_the_fly=True, like=LIKE)
    for what, free, far_field in (
        ("the near field of this matrix takes", [1000], None),
        ("the far field of this matrix, with couplings padded for products, takes", [10**9, 1000], None),
        ("the far field of this matrix before its recompression takes", [10**9, 1000], sm.h2.ChebyshevInterpolation()),
    ):
        left = iter(free)
        monkeypatch.setattr(_backend, "free_bytes", lambda library, left=left: next(left))
        with pytest.raises(DeviceMemoryError, match=what):
            sm.H2Matrix.from_kernel(kernel, x, leaf_size=20, rtol=1e-4, far_field=far_field, like=LIKE)
