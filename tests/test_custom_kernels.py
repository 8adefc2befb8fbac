"""Kernels of functions that are handed in: `Radial` and `Pointwise`."""

import pickle

import numba
import numpy as np
import pytest
from scipy import special

import structmat as sm
from structmat import kernelfunctions as kf
from structmat.engine import cpu_fused, cpu_kernels
from structmat.flat import build as flat_build


def bell(r):
    """Return a function of the distance that is smooth at zero."""
    return 1.0 / (1.0 + r**4)


def inverse(r):
    """Return a function of the distance that is singular at zero."""
    return 1.0 / r


def bessel(r):
    """Return what Numba does not know."""
    return special.j0(r)


def slanted(x, y):
    """Return a function of two points of a plane that is neither symmetric nor invariant."""
    return (1.0 + x[0]) / np.sqrt(0.01 + (x[0] - y[0]) ** 2 + 4.0 * (x[1] - y[1]) ** 2)


def aslant(x, y):
    """Return a symmetric function of two points, by a loop."""
    total = 0.0
    for k in range(len(x)):
        total += (1 + k) * abs(x[k] - y[k])
    return np.exp(-total)


def picky(r):
    """Return the distance, and refuse small ones."""
    if r < 0.5:
        raise ValueError("too close")
    return r


def unknown(x, y):
    """Return what Numba does not know, of two points."""
    return float(special.j0(abs(x - y).sum()))


@pytest.fixture
def compiled_only(monkeypatch):
    """Builds that would evaluate blocks by calls of the kernel fail."""

    def forbidden(*_arguments, **_options):
        raise AssertionError("the build left the compiled path")

    monkeypatch.setattr(flat_build, "near_blocks", forbidden)
    monkeypatch.setattr(flat_build, "far_blocks", forbidden)


@pytest.mark.parametrize(
    ("function", "options", "at_zero"),
    [(bell, {}, 1.0), (numba.njit(bell), {"diagonal": 3.0}, 3.0), (inverse, {}, 0.0), (numba.njit(inverse), {}, 0.0)],
)
def test_radial_values_are_those_of_the_function(function, options, at_zero, rng):
    kernel = kf.Radial(function, **options)
    x, y = rng.random((2, 5, 3)), rng.random((2, 6, 3))
    y[1, 2] = x[1, 3]
    plain = getattr(function, "py_func", function)
    r = kf.distances(x, y)
    expected = np.array([at_zero if t == 0.0 else plain(t) for t in r.ravel()]).reshape(r.shape)
    np.testing.assert_allclose(kernel(x, y), expected, rtol=1e-14)
    code, parameters = (2.0 * kernel).compiled
    out, work = np.empty(6), np.empty(12)
    cpu_kernels.kernel_row(code, parameters, x[1].T.copy(), 3, y[1].T.copy(), 0, 6, out, work)
    np.testing.assert_allclose(out, 2.0 * expected[1, 3], rtol=1e-14)
    assert kernel.symmetric
    assert kernel.translation_invariant


@pytest.mark.usefixtures("compiled_only")
def test_builds_compile_the_function_and_not_themselves_again(rng):
    points = rng.random((700, 2))
    sm.HMatrix.from_kernel(kf.Laplace(), points, rtol=1e-6)
    before = len(cpu_fused.compress_blocks.signatures), len(cpu_kernels.kernel_blocks.signatures)
    for function in (bell, inverse):
        kernel = kf.Radial(function)
        exact = kernel(points, points)
        a = sm.HMatrix.from_kernel(kernel, points, rtol=1e-6, symmetric=True)
        assert a.certificate.met
        assert np.linalg.norm(a.to_dense() - exact) <= 1e-6 * np.linalg.norm(exact)
    assert (len(cpu_fused.compress_blocks.signatures), len(cpu_kernels.kernel_blocks.signatures)) == before


@pytest.mark.parametrize("format_", [sm.HMatrix, sm.HODLRMatrix])
@pytest.mark.usefixtures("compiled_only")
def test_builds_of_functions_that_are_not_symmetric(format_, rng):
    kernel, points, columns = kf.Pointwise(slanted, dim=2), rng.random((700, 2)), rng.random((600, 2))
    exact = kernel(points, points)
    assert np.linalg.norm(exact - exact.T) > 0.1 * np.linalg.norm(exact)
    a = format_.from_kernel(kernel, points, rtol=1e-6)
    assert np.linalg.norm(a.to_dense() - exact) <= 1e-6 * np.linalg.norm(exact)
    exact = kernel(points, columns)
    a = format_.from_kernel(kernel, points, column_points=columns, rtol=1e-6)
    assert np.linalg.norm(a.to_dense() - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize(("function", "dim", "symmetric"), [(slanted, 2, False), (numba.njit(aslant), 3, True)])
def test_pointwise_values_are_those_of_the_function(function, dim, symmetric, rng):
    kernel = kf.Pointwise(function, dim=dim, symmetric=symmetric, diagonal=7.0)
    x, y = rng.random((2, 4, dim)), rng.random((2, 6, dim))
    y[1, 2] = x[1, 3]
    plain = getattr(function, "py_func", function)
    expected = np.array([[[plain(p, q) for q in y[b]] for p in x[b]] for b in range(2)])
    expected[1, 3, 2] = 7.0
    np.testing.assert_allclose(kernel(x, y), expected, rtol=1e-14)
    code, parameters = kernel.compiled
    rows, cols, work = x[1].T.copy(), y[1].T.copy(), np.empty(12)
    out = np.empty(6)
    cpu_kernels.kernel_row(code, parameters, rows, 3, cols, 1, 5, out, work)
    np.testing.assert_allclose(out[:5], expected[1, 3, 1:], rtol=1e-14)
    cpu_kernels.kernel_column(code, parameters, cols, 2, rows, 1, 3, out, work)
    np.testing.assert_allclose(out[:3], expected[1, 1:, 2], rtol=1e-14)
    assert kernel.symmetric == symmetric
    assert not kernel.translation_invariant
    assert kf.Pointwise(function, dim=dim, translation_invariant=True, is_greens_function=True).translation_invariant


def test_what_numba_cannot_compile_is_called_from_python_and_said(rng):
    points = rng.random((300, 2))
    with pytest.warns(sm.PerformanceWarning, match="Numba cannot compile bessel.*called from Python"):
        kernel = kf.Radial(bessel)
    assert kernel.compiled is None
    np.testing.assert_allclose(kernel(points, points), special.j0(kf.distances(points, points)))
    assert sm.HMatrix.from_kernel(kernel, points, rtol=1e-6, leaf_size=32).certificate.met
    with pytest.warns(sm.PerformanceWarning, match="Numba cannot compile .*it is a ufunc"):
        np.testing.assert_allclose(kf.Radial(np.cbrt)([0.0], [8.0, 27.0]), [[2.0, 3.0]])
    with pytest.warns(sm.PerformanceWarning, match="Numba cannot compile unknown"):
        kernel = kf.Pointwise(unknown, dim=2, symmetric=True)
    expected = special.j0(np.abs(points[:3, None] - points[None, :4]).sum(axis=-1))
    np.testing.assert_allclose(kernel(points[:3], points[:4]), expected)
    assert kernel.compiled is None


@pytest.mark.parametrize(("function", "message"), [(picky, "NaN or infinite"), (lambda r: 1e200 / r, "so large")])
def test_builds_refuse_values_that_are_not_finite(function, message, rng):
    kernel = kf.Radial(function, diagonal=0.0)
    with pytest.raises(sm.NonFiniteError, match=message):
        sm.HMatrix.from_kernel(kernel, rng.random((600, 2)), rtol=1e-6, leaf_size=32)


def test_a_row_with_an_exception_is_nan():
    kernel = kf.Radial(picky)
    assert np.isnan(kernel([0.0], [0.1, 0.2])).all()
    assert kernel([0.0], [0.6, 0.7]).tolist() == [[0.6, 0.7]]


def test_kernels_of_functions_are_values():
    kernel = kf.Radial(bell, dim=2, diagonal=2.0)
    again = pickle.loads(pickle.dumps(kernel))
    assert again == kernel
    assert hash(again) == hash(kernel)
    assert kernel != kf.Radial(bell)
    assert repr(kernel) == "Radial(bell, dim=2, diagonal=2.0)"
    assert again([0.0], [1.0]).tolist() == [[0.5]]
    with pytest.raises(sm.ShapeError, match="belongs to 2 dimensions"):
        kernel(np.zeros((1, 3)), np.ones((1, 3)))
    assert repr(kf.Pointwise(aslant, dim=1, symmetric=True)) == "Pointwise(aslant, dim=1, symmetric=True)"


@numba.njit
def _text(r):
    return "far" if r > 1 else "near"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kf.Radial(3.0), TypeError, "function must be callable, but it is a float"),
        (lambda: kf.Radial(lambda r: 1j * r), TypeError, "must return a real number, but Numba finds .*complex128"),
        (lambda: kf.Radial(_text), TypeError, "must return a real number, but Numba finds .*unicode"),
        (lambda: kf.Radial(numba.njit(slanted)), TypeError, "slanted does not fit: .*it must take one number"),
        (lambda: kf.Pointwise(bell, dim=2), TypeError, "bell does not fit: .*it must take two arrays of coordinates"),
        (lambda: kf.Pointwise(numba.njit(unknown), dim=2), TypeError, "Numba cannot compile unknown"),
        (lambda: kf.Pointwise(slanted, dim=0), ValueError, "dim"),
        (lambda: kf.Pointwise(slanted, dim=2, symmetric=True), sm.SymmetryError, "declared symmetric, but"),
        (
            lambda: kf.Pointwise(aslant, dim=3)(np.zeros((2, 2)), np.zeros((2, 2))),
            sm.ShapeError,
            r"takes points with 3 coordinates, .* but the shapes are \(2, 2\) and \(2, 2\)",
        ),
    ],
)
def test_bad_functions(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.filterwarnings("ignore::structmat.PerformanceWarning")
@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda r: special.j0(float(r[0])), sm.ShapeError, r"must return an array of shape \(3,\)"),
        (lambda r: special.hankel1(0, r), TypeError, "must return real numbers, but it returned complex128"),
        (lambda r: str.upper(r), TypeError, "neither compiled by Numba nor called with an array of distances"),
    ],
)
def test_bad_functions_that_numba_cannot_compile(function, error, message):
    with pytest.raises(error, match=message):
        kf.Radial(function)
