"""Kernel functions against plain loops over pairs of points."""

import cmath
import math

import numpy as np
import pytest
from scipy import special

import structmat as sm
from structmat import kernelfunctions as kf

CASES = [  # (kernel, the same as a function of the distance r > 0, value at r = 0)
    (kf.Laplace(dim=2), lambda r: -math.log(r), 0.0),
    (kf.Laplace(dim=2, diagonal=7.0), lambda r: -math.log(r), 7.0),
    (kf.Laplace(dim=3), lambda r: 1 / r, 0.0),
    (kf.Yukawa(decay=2.0, dim=2), lambda r: special.kv(0, 2 * r), 0.0),
    (kf.Yukawa(decay=2.0, dim=3, diagonal=1.5), lambda r: math.exp(-2 * r) / r, 1.5),
    (kf.Helmholtz(wavenumber=4.0, dim=2), lambda r: special.hankel1(0, 4 * r), 0.0),
    (kf.Helmholtz(wavenumber=4.0, dim=3, diagonal=2 + 1j), lambda r: cmath.exp(4j * r) / r, 2 + 1j),
    (kf.ThinPlateSpline(), lambda r: r * r * math.log(r), 0.0),
    (kf.Gaussian(length=0.3), lambda r: math.exp(-((r / 0.3) ** 2) / 2), 1.0),
    (kf.Exponential(length=0.3), lambda r: math.exp(-r / 0.3), 1.0),
    (kf.Exponential(length=0.3, diagonal=2.0), lambda r: math.exp(-r / 0.3), 2.0),
    (kf.Matern(nu=0.5, length=0.3), lambda r: math.exp(-r / 0.3), 1.0),
    (kf.Matern(nu=1.5, length=0.3), lambda r: (1 + 3**0.5 * r / 0.3) * math.exp(-(3**0.5) * r / 0.3), 1.0),
    (
        kf.Matern(nu=2.5, length=0.3),
        lambda r: (1 + 5**0.5 * r / 0.3 + 5 * r**2 / (3 * 0.3**2)) * math.exp(-(5**0.5) * r / 0.3),
        1.0,
    ),
    (kf.Multiquadric(shape=2.0), lambda r: math.sqrt(1 + 4 * r * r), 1.0),
    (kf.InverseMultiquadric(shape=2.0), lambda r: 1 / math.sqrt(1 + 4 * r * r), 1.0),
    (kf.Cauchy(shift=0.1), lambda r: 1 / (r + 0.1), 10.0),
    (kf.RationalQuadratic(length=0.3, alpha=0.7), lambda r: (1 + r * r / (2 * 0.7 * 0.3**2)) ** -0.7, 1.0),
    (
        kf.Periodic(length=0.8, period=0.9),
        lambda r: math.exp(-2 * math.sin(math.pi * r / 0.9) ** 2 / 0.8**2),
        1.0,
    ),
    (2.0 * kf.Gaussian(length=0.3), lambda r: 2 * math.exp(-((r / 0.3) ** 2) / 2), 2.0),
    (kf.Cauchy(shift=0.1) + kf.Exponential(length=0.3), lambda r: 1 / (r + 0.1) + math.exp(-r / 0.3), 11.0),
    (
        3.0 * (kf.Gaussian(length=0.3) * kf.Exponential(length=0.5, diagonal=2.0)),
        lambda r: 3 * math.exp(-((r / 0.3) ** 2) / 2 - r / 0.5),
        6.0,
    ),
]
KERNELS = pytest.mark.parametrize(("kernel", "function", "at_zero"), CASES, ids=[repr(case[0]) for case in CASES])


def by_loops(function, at_zero, x, y):
    return np.array([[function(math.dist(p, q)) if math.dist(p, q) > 0 else at_zero for q in y] for p in x])


@KERNELS
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_values_are_those_of_plain_loops(kernel, function, at_zero, dimension, rng):
    if kernel.dim is not None and dimension > kernel.dim:
        pytest.skip("the kernel belongs to fewer dimensions")
    x, y = rng.standard_normal((5, dimension)), rng.standard_normal((7, dimension))
    y[2] = x[3]
    given = x.copy(), y.copy()
    np.testing.assert_allclose(kernel(x, y), by_loops(function, at_zero, x, y), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(x, given[0])
    np.testing.assert_array_equal(y, given[1])


@KERNELS
def test_points_on_a_line_may_be_given_as_numbers(kernel, function, at_zero, rng):
    x, y = rng.random(4), rng.random(6)
    np.testing.assert_array_equal(kernel(x, y), kernel(x[:, None], y[:, None]))
    assert kernel(x, y).shape == (4, 6)
    assert kernel(x, y).dtype == kernel.dtype


@KERNELS
def test_leading_axes_are_batches(kernel, function, at_zero, rng):
    d = kernel.dim or 2
    x, y = rng.random((2, 3, 4, d)), rng.random((2, 3, 5, d))
    batch = kernel(x, y)
    assert batch.shape == (2, 3, 4, 5)
    assert kernel.batched
    np.testing.assert_array_equal(batch[1, 2], kernel(x[1, 2], y[1, 2]))


@KERNELS
def test_symmetry_and_diagonal(kernel, function, at_zero, rng):
    x = rng.random((6, kernel.dim or 2))
    block = kernel(x, x)
    np.testing.assert_array_equal(block, block.T)
    np.testing.assert_allclose(np.diag(block), at_zero)
    assert kernel.symmetric == (kernel.dtype.kind == "f")
    assert kernel.complex_symmetric
    assert kernel.translation_invariant
    assert kernel.components == 1


def test_close_points_keep_their_digits():
    x = np.array([[1e6, 1.0, -1e6]])
    y = x + np.array([[0.0, 2.0**-30, 0.0]])
    assert kf.Laplace(dim=3)(x, y)[0, 0] == 2.0**30
    assert kf.Laplace(dim=3)([0.0], [1e-200])[0, 0] == 1e200  # a square would underflow


def test_equality_follows_the_parameters():
    assert kf.Gaussian(0.5) == kf.Gaussian(length=0.5)
    assert len({kf.Gaussian(0.5), kf.Gaussian(length=0.5), kf.Gaussian(0.4)}) == 2
    assert kf.Gaussian(0.5) != kf.Exponential(0.5)
    assert eval(repr(kf.Matern(2.5, 0.1, diagonal=1.1)), vars(kf)) == kf.Matern(2.5, 0.1, diagonal=1.1)


@pytest.mark.parametrize("name", kf.names())
def test_every_name_makes_its_kernel(name):
    made = kf.from_name(name)
    assert made == kf.from_name(name.upper().replace("-", "_"))
    assert type(made).__name__.lower() == name.replace("-", "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kf.from_name("gauss"), r"no kernel named 'gauss'; there are cauchy, elastostatics, exponential"),
        (lambda: kf.from_name("gaussian", width=1), r"has no parameter width; it has length, diagonal"),
        (lambda: kf.Gaussian(0.0), r"length must be a finite number > 0, but it is 0.0"),
        (lambda: kf.Cauchy(np.nan), r"shift must be a finite number > 0"),
        (lambda: kf.Matern(nu=2), r"nu must be 0.5, 1.5 or 2.5, but it is 2"),
        (lambda: kf.Laplace(dim=4), r"dim must be 2 .* or 3 .*, but it is 4"),
        (lambda: kf.Laplace(diagonal=np.inf), r"diagonal must be finite"),
        (lambda: kf.Helmholtz(wavenumber=-1.0), r"wavenumber must be a finite number > 0"),
        (lambda: kf.Helmholtz(diagonal=complex(0, np.nan)), r"diagonal must be finite"),
        (lambda: kf.Yukawa(decay=0.0), r"decay must be a finite number > 0"),
        (lambda: kf.Yukawa(dim=1), r"dim must be 2 \(K_0\(decay r\)\) or 3"),
        (lambda: kf.Stokes(dim=4), r"dim must be 2 .* or 3 .*, but it is 4"),
        (lambda: kf.Elastostatics(poisson_ratio=0.6), r"poisson_ratio must be above -1 and at most 0.5, but it is 0.6"),
    ],
)
def test_bad_parameters(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("shapes", [((3,), (4, 1)), ((3, 2), (4, 3)), ((), (3,))])
def test_points_that_do_not_fit_together(shapes):
    with pytest.raises(sm.ShapeError, match="x and y must be"):
        kf.Gaussian()(*(np.zeros(shape) for shape in shapes))


def test_points_with_too_many_coordinates():
    with pytest.raises(sm.ShapeError, match="belongs to 2 dimensions, but the points have 3 coordinates"):
        kf.Laplace(dim=2)(np.zeros((2, 3)), np.ones((2, 3)))


def test_a_new_kernel_must_say_what_it_is():
    with pytest.raises(NotImplementedError, match="Unfinished must define _of_distance"):
        type("Unfinished", (kf.KernelFunction,), {})()([0.0], [1.0])


@pytest.mark.parametrize("points_shape", [(700,), (700, 1), (700, 2)])
def test_a_matrix_from_a_batched_kernel(points_shape, rng):
    angle = np.sort(rng.random(700)) * 2 * np.pi
    points = angle.reshape(points_shape) if points_shape != (700, 2) else np.stack([np.cos(angle), np.sin(angle)], 1)
    kernel = kf.Matern(nu=1.5, length=0.5)
    A = sm.HSSMatrix.from_kernel(kernel, points, rtol=1e-7, symmetric=True)
    exact = kernel(points, points)
    assert np.linalg.norm(A.to_dense() - exact) <= 1e-7 * np.linalg.norm(exact)


DIFFERENTIABLE = [case[0] for case in CASES if case[0].hyperparameters] + [
    4.0 * kf.Gaussian(2.0) * kf.Periodic(1.3, 0.7) + 0.5 * (kf.Matern(0.5, 0.2) + 2.0 * kf.RationalQuadratic(0.4, 1.5))
]


@pytest.mark.parametrize("kernel", DIFFERENTIABLE, ids=repr)
def test_derivatives_are_differences_in_the_logarithms(kernel, rng):
    x, y, step = rng.random((6, 1)), rng.random((5, 1)), 1e-5
    y[1] = x[2]
    for k, name in enumerate(kernel.hyperparameters):
        moved = [kernel.theta + sign * step * (np.arange(len(kernel.theta)) == k) for sign in (1, -1)]
        difference = (kernel.with_theta(moved[0])(x, y) - kernel.with_theta(moved[1])(x, y)) / (2 * step)
        found = kernel.derivative(name)(x, y)
        np.testing.assert_allclose(found, difference, rtol=1e-6, atol=1e-8)
        assert np.abs(found).max() > 1e-3  # a derivative that is zero would pass otherwise


def test_hyperparameters_of_sums_products_and_multiples():
    kernel = 2.0 * kf.Gaussian(3.0) * kf.Periodic(1.3, 0.5) + kf.Matern(1.5, 0.7)
    names = ("0.0.variance", "0.0.length", "0.1.length", "0.1.period", "1.length")
    assert kernel.hyperparameters == dict(zip(names, (2.0, 3.0, 1.3, 0.5, 0.7), strict=True))
    changed = kernel.with_theta(np.log([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert list(changed.hyperparameters.values()) == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0], rel=1e-15)
    assert kernel.with_theta(kernel.theta).hyperparameters == pytest.approx(kernel.hyperparameters)
    assert eval(repr(kernel), vars(kf)) == kernel
    assert hash(eval(repr(kernel), vars(kf))) == hash(kernel)
    assert kernel != kernel + kf.Matern(1.5, 0.7)
    assert kernel.dim == 1


def test_composites_are_flat():
    a, b, c = kf.Gaussian(1.0), kf.Gaussian(2.0), kf.Gaussian(3.0)
    assert ((a + b) + c).parts == (a + (b + c)).parts == (a, b, c)
    assert (2 * (3 * a)).hyperparameters == {"variance": 6.0, "length": 1.0}
    assert eval(repr(2.0 * (a + b) * c), vars(kf)) == 2.0 * (a + b) * c
    assert a * 2 == 2 * a


def test_variances_are_the_diagonal(rng):
    x = rng.random((7, 2))
    kernel = 2.0 * kf.Gaussian(0.3) + kf.Cauchy(0.1)
    np.testing.assert_allclose(kernel.variances(x), np.diag(kernel(x, x)))
    np.testing.assert_allclose(kernel.variances(x[:, 0]), np.full(7, 12.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kf.Gaussian().derivative("nu"), ValueError, "has no hyperparameter 'nu'; it has length"),
        (lambda: kf.Gaussian().with_theta([0.0, 1.0]), sm.ShapeError, r"theta must have shape \(1,\)"),
        (lambda: kf.Gaussian() + 1.0, TypeError, "unsupported operand"),
        (lambda: kf.Gaussian() * "2", TypeError, "can't multiply|unsupported operand"),
        (lambda: 0.0 * kf.Gaussian(), ValueError, "variance must be a finite number > 0"),
        (lambda: kf.Sum(kf.Gaussian(), np.exp), TypeError, "Sum takes kernels of structmat.kernelfunctions"),
        (lambda: kf.Product(), ValueError, "Product needs at least one kernel"),
        (lambda: kf.Scaled(2.0, np.exp), TypeError, "kernel must be a kernel"),
        (lambda: kf.Periodic()(np.zeros((2, 2)), np.zeros((2, 2))), sm.ShapeError, "belongs to 1 dimensions"),
    ],
)
def test_bad_algebra(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_new_kernel_must_say_how_it_changes():
    unfinished = type(
        "Unfinished", (kf.Gaussian,), {"_derivative_of_distance": kf.KernelFunction._derivative_of_distance}
    )
    with pytest.raises(NotImplementedError, match="Unfinished must define _derivative_of_distance"):
        unfinished().derivative("length")([0.0], [1.0])


ANYWHERE = [case[0] for case in CASES if "dim=2)" not in repr(case[0]) or "Laplace" in repr(case[0])]


@pytest.mark.parametrize("kernel", ANYWHERE, ids=repr)
@pytest.mark.parametrize("shape", [(5,), (5, 2), (3, 5, 2)])
def test_kernels_are_evaluated_where_their_points_are(xp, kernel, shape, rng):
    if kernel.dim == 1 and len(shape) > 1:
        pytest.skip("the kernel belongs to fewer dimensions")
    x, y = rng.random(shape), rng.random(shape)
    y[:2] = x[:2]  # coincident points
    values = kernel(xp.asarray(x), xp.asarray(y))
    assert type(values) is type(xp.asarray(x))
    np.testing.assert_allclose(xp.to_numpy(values), kernel(x, y), rtol=1e-13, atol=1e-14)


def test_bessel_functions_are_those_of_the_cpu():
    torch = pytest.importorskip("torch")
    x = torch.rand(3, 2, dtype=torch.float64)
    for kernel in (kf.Yukawa(dim=2), kf.Helmholtz(dim=2)):
        with pytest.raises(sm.DeviceError, match=r"is SciPy's: evaluate it on the CPU"):
            kernel(x, x)
