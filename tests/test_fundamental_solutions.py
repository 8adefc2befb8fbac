"""Fundamental solutions: the equations that they solve, vector-valued ones, and matrices of them."""

import numpy as np
import pytest

import structmat as sm
from structmat import kernelfunctions as kf

SCALAR = [  # (kernel, c in Laplacian u = c u)
    (kf.Laplace(dim=2), 0.0),
    (kf.Laplace(dim=3), 0.0),
    (kf.Yukawa(decay=2.0, dim=2), 4.0),
    (kf.Yukawa(decay=2.0, dim=3), 4.0),
    (kf.Helmholtz(wavenumber=3.0, dim=2), -9.0),
    (kf.Helmholtz(wavenumber=3.0, dim=3), -9.0),
]
VECTOR = [
    kf.Stokes(dim=2),
    kf.Stokes(dim=3),
    kf.Elastostatics(poisson_ratio=0.3, dim=2),
    kf.Elastostatics(poisson_ratio=-0.2, dim=3, diagonal=2.0),
]
STEP = 2e-3


def second_derivatives(kernel, x):
    """d^2 u / dx_a dx_b at x (d,), with the source at the origin, by central differences: (d, d, c, c)."""
    d = len(x)
    unit = STEP * np.eye(d)

    def value(point):
        return kernel(point[None], np.zeros((1, d)))

    found = np.empty((d, d, *value(x).shape), dtype=kernel.dtype)
    for a in range(d):
        for b in range(d):
            if a == b:
                found[a, a] = value(x + unit[a]) - 2 * value(x) + value(x - unit[a])
                continue
            signs = [(s, t) for s in (1, -1) for t in (1, -1)]
            found[a, b] = sum(s * t * value(x + s * unit[a] + t * unit[b]) for s, t in signs) / 4
    return found / STEP**2


@pytest.mark.parametrize(("kernel", "c"), SCALAR, ids=repr)
def test_scalar_kernels_solve_their_equations(kernel, c, rng):
    for x in rng.uniform(0.5, 1.0, (4, kernel.dim)):
        hessian = second_derivatives(kernel, x)
        residual = np.trace(hessian)[0, 0] - c * kernel(x[None], np.zeros((1, kernel.dim)))[0, 0]
        assert abs(residual) < 1e-4 * np.abs(hessian).max()
    assert kernel.is_greens_function


@pytest.mark.parametrize("kernel", VECTOR, ids=repr)
def test_vector_kernels_solve_their_equations(kernel, rng):
    ratio = getattr(kernel, "poisson_ratio", 0.5)
    for x in rng.uniform(0.5, 1.0, (4, kernel.dim)):
        hessian = second_derivatives(kernel, x)
        laplacian = np.einsum("aacb->cb", hessian)
        gradient_of_divergence = np.einsum("acab->cb", hessian)
        scale = 1e-4 * np.abs(hessian).max()
        if ratio == 0.5:  # no divergence; the Laplacian is the gradient of the pressure 2 x_b / r^d
            pressure = 2 * (np.eye(len(x)) / (x @ x) - kernel.dim * np.outer(x, x) / (x @ x) ** 2)
            pressure *= (x @ x) ** (1 - kernel.dim / 2)
            np.testing.assert_allclose(laplacian, pressure, atol=scale)
            np.testing.assert_allclose(gradient_of_divergence, 0.0, atol=scale)
        else:
            np.testing.assert_allclose((1 - 2 * ratio) * laplacian + gradient_of_divergence, 0.0, atol=scale)


def plain_vector(kernel, x, y):
    """The matrices by loops over pairs of points."""
    d, weight = kernel.dim, 3 - 4 * getattr(kernel, "poisson_ratio", 0.5)
    out = np.zeros((len(x) * d, len(y) * d))
    for i, p in enumerate(x):
        for j, q in enumerate(y):
            r, way = np.linalg.norm(p - q), p - q
            if r == 0:
                block = (kernel.diagonal or 0.0) * np.eye(d)
            else:
                block = weight * (1 / r if d == 3 else -np.log(r)) * np.eye(d) + np.outer(way, way) / r**d
            out[i * d : (i + 1) * d, j * d : (j + 1) * d] = block
    return out


@pytest.mark.parametrize("kernel", VECTOR, ids=repr)
def test_vector_values_are_those_of_plain_loops(kernel, rng):
    d = kernel.dim
    x, y = rng.standard_normal((3, 4, d)), rng.standard_normal((3, 5, d))
    y[1, 2] = x[1, 3]
    values = kernel(x, y)
    assert values.shape == (3, 4 * d, 5 * d)
    assert (kernel.components, kernel.dtype, kernel.compiled) == (d, np.float64, None)
    for b in range(3):
        np.testing.assert_allclose(values[b], plain_vector(kernel, x[b], y[b]), rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(kernel(y[1], x[1]), values[1].T)
    assert kernel.symmetric
    assert kernel.complex_symmetric
    assert kernel.translation_invariant
    assert kernel.is_greens_function


@pytest.mark.parametrize("kernel", [*VECTOR, 2.0 * kf.Stokes(dim=2) + kf.Elastostatics(0.1, dim=2)], ids=repr)
def test_entries_are_single_components(kernel, rng):
    c = kernel.components
    x, y = rng.standard_normal((2, 6, c)), rng.standard_normal((2, 6, c))
    y[1, 2] = x[1, 3]
    a, b = rng.integers(0, c, (2, 6)), rng.integers(0, c, (2, 6))
    index = c * np.arange(6)
    expected = np.stack([kernel(x[k], y[k])[np.ix_(index + a[k], index + b[k])] for k in range(2)])
    np.testing.assert_allclose(kernel.entries(x, y, a, b), expected, rtol=1e-13, atol=1e-14)


def test_points_of_a_plane_have_a_third_coordinate_of_zero(rng):
    flat = rng.random((5, 2))
    spatial = np.column_stack([flat, np.zeros(5)])
    np.testing.assert_array_equal(kf.Stokes(dim=3)(flat, flat), kf.Stokes(dim=3)(spatial, spatial))
    np.testing.assert_array_equal(kf.Stokes(dim=2)(flat[:, 0], flat[:, 1]), kf.Stokes(2)(flat[:, :1], flat[:, 1:]))


@pytest.mark.parametrize("format_", [sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix])
@pytest.mark.parametrize("kernel", VECTOR[::3], ids=repr)
def test_matrices_of_vector_kernels(format_, kernel, rng):
    points = rng.random((150, kernel.dim))
    exact = plain_vector(kernel, points, points)
    a = format_.from_kernel(kernel, points, rtol=1e-6, leaf_size=40, symmetric=True)
    assert a.shape == exact.shape
    assert np.linalg.norm(a.to_dense() - exact) <= 1e-6 * np.linalg.norm(exact)
    columns = rng.random((120, kernel.dim)) + 1.0
    b = format_.from_kernel(kernel, points, column_points=columns, rtol=1e-6, leaf_size=40)
    exact = plain_vector(kernel, points, columns)
    assert np.linalg.norm(b.to_dense() - exact) <= 1e-6 * np.linalg.norm(exact)


def test_the_bound_on_the_error_of_a_vector_kernel_is_one(rng):
    kernel, points = kf.Elastostatics(0.3, dim=3), rng.random((250, 3))
    a = sm.HODLRMatrix.from_kernel(kernel, points, rtol=1e-4, leaf_size=100)
    exact = kernel(points, points)
    error = np.linalg.norm(a.to_dense() - exact) / np.linalg.norm(exact)
    assert error <= min(1.02 * a.certificate.upper_bound, 1e-4)


def test_adaptive_matrices_of_vector_kernels(rng):
    kernel, points = kf.Stokes(dim=2), rng.random((150, 2))
    exact = kernel(points, points)
    a = sm.HMatrix.adaptive(kernel, points=points, rtol=1e-6, leaf_size=40)
    assert np.linalg.norm(a.to_dense() - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("format_", [sm.HSSMatrix, sm.HMatrix])
def test_matrices_of_waves_are_complex_symmetric_and_not_hermitian(format_, rng):
    kernel, points = kf.Helmholtz(wavenumber=8.0, dim=3), rng.random((260, 3))
    exact = kernel(points, points)
    a = format_.from_kernel(kernel, points, rtol=1e-6, leaf_size=40)
    assert a.dtype == np.complex128
    assert np.linalg.norm(a.to_dense() - exact) <= 1e-6 * np.linalg.norm(exact)
    np.testing.assert_allclose((a.T @ np.ones(260)), exact @ np.ones(260), atol=1e-5 * np.linalg.norm(exact))
    with pytest.raises(sm.SymmetryError, match="symmetric=True"):
        format_.from_kernel(kernel, points, rtol=1e-6, symmetric=True)


def test_flags_of_sums_products_and_multiples():
    wave, flow = kf.Helmholtz(2.0), kf.Stokes(dim=2)
    assert not (wave * wave).symmetric
    assert (wave + kf.Laplace()).complex_symmetric
    assert (wave + kf.Laplace()).dtype == np.complex128
    assert (2.0 * wave).is_greens_function
    assert (2.0 * wave).complex_symmetric
    assert not (wave + wave).is_greens_function
    assert (flow + 2.0 * flow).components == 2
    assert (flow + flow).translation_invariant
    own_call = type("OwnCall", (kf.KernelFunction,), {"__call__": lambda self, x, y: None})
    assert not own_call().translation_invariant


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kf.Stokes(3) + kf.Laplace(3),
            ValueError,
            r"must have as many components, but .*Stokes.*: 3, Lap.*: 1",
        ),
        (lambda: kf.Stokes(2)(np.zeros((4, 3)), np.zeros((4, 3))), sm.ShapeError, r"x must be .* d at most 2"),
        (lambda: kf.Stokes(2).variances(np.zeros((4, 2))), TypeError, "2 x 2 values at a point"),
        (
            lambda: sm.HMatrix.from_kernel(kf.Stokes(2), np.eye(2), sm.ClusterTree.balanced(2, leaf_size=1)),
            ValueError,
            "4",
        ),
        (
            lambda: sm.lowrank.Chebyshev()(kf.Stokes(2), np.eye(2), np.eye(2) + 3),
            TypeError,
            "Chebyshev interpolates scalar kernels, but Stokes.* has 2 components; take ACA",
        ),
    ],
)
def test_bad_use_of_vector_kernels(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_waves_keep_their_digits_over_many_wavelengths(rng):
    r = np.exp(rng.uniform(-20.0, 12.0, 4000))
    r[:5] = np.pi * np.array([0.25, 0.5, 1.0, 1.5, 2.0])  # where sine, cosine and the tangent are zero or infinite
    values = kf.Helmholtz(wavenumber=1.0, dim=3)(np.zeros(1), r)[0] * r
    assert np.abs(values.real - np.cos(r)).max() < 1e-15
    assert np.abs(values.imag - np.sin(r)).max() < 1e-15
