"""Builders of H2-matrices from kernels: each far field against dense twins, and what is said where one does not fit."""

import warnings

import numpy as np
import pytest

import structmat as sm
from structmat.exceptions import StructureWarning
from structmat.h2 import ChebyshevInterpolation, ProxySurface, SampledFarField, SelectedProxies
from structmat.kernelfunctions import Gaussian, Helmholtz, Laplace, Matern, Stokes

FAR_FIELDS = [SampledFarField(), ProxySurface(), SelectedProxies()]


def relative_error(a, dense):
    return np.linalg.norm(a.to_dense() - dense) / np.linalg.norm(dense)


def checked(kernel, points, rtol, column_points=None, **options):
    """Build, and compare error and certificate with the dense twin."""
    dense = kernel(points, points if column_points is None else column_points)
    a = sm.H2Matrix.from_kernel(kernel, points, rtol=rtol, column_points=column_points, **options)
    error = relative_error(a, dense)
    assert error <= rtol
    assert a.certificate.met
    assert error <= 1.5 * a.certificate.upper_bound
    return a


def cloud(n, dim, seed=0):
    return np.random.default_rng(seed).random((n, dim))


@pytest.mark.parametrize("far_field", FAR_FIELDS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(("kernel", "n", "rtol"), [(Laplace(dim=2), 1500, 1e-7), (Laplace(dim=3), 1200, 1e-3)])
def test_far_fields_of_greens_functions(kernel, n, rtol, far_field):
    a = checked(kernel, cloud(n, kernel.dim), rtol, far_field=far_field)
    assert a.symmetric
    assert a.max_rank < 64


@pytest.mark.parametrize("far_field", [SampledFarField(), SelectedProxies()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(
    ("kernel", "dim", "rtol"), [(Matern(1.5, length=0.5), 2, 1e-6), (Gaussian(0.3), 1, 1e-9), (Gaussian(0.5), 3, 1e-4)]
)
def test_far_fields_of_other_kernels(kernel, dim, rtol, far_field):
    checked(kernel, cloud(1200, dim), rtol, far_field=far_field)


@pytest.mark.parametrize(("n", "rtol"), [(3000, 1e-5), (2500, 1e-3)], ids=["2-D", "3-D"])
def test_chebyshev_after_recompression_is_as_small_as_skeletons(n, rtol):
    dim = 2 if rtol < 1e-4 else 3
    points = cloud(n, dim)
    a = checked(Laplace(dim=dim), points, rtol, far_field=ChebyshevInterpolation())
    assert a.nbytes <= 1.3 * sm.H2Matrix.from_kernel(Laplace(dim=dim), points, rtol=rtol).nbytes


def test_chebyshev_with_plain_nonsymmetric_kernels_on_two_point_sets():
    def drifting(x, y):
        d = x[:, None] - y[None, :]
        return np.exp(-2.0 * d) / (np.abs(d) + 0.05)

    a = checked(drifting, cloud(700, 1)[:, 0], 1e-7, cloud(500, 1, 1)[:, 0], far_field=ChebyshevInterpolation())
    assert a.shape == (700, 500)


def test_chebyshev_refuses_what_it_cannot_interpolate():
    with pytest.raises(ValueError, match="one, two or three coordinates"):
        sm.H2Matrix.from_kernel(Gaussian(1.0), cloud(300, 4), far_field=ChebyshevInterpolation())
    with pytest.raises(TypeError, match="leave one of them out"):
        sm.H2Matrix.from_kernel(Gaussian(1.0), cloud(300, 2), far_field=ChebyshevInterpolation(), on_the_fly=True)


def test_two_proxies_serve_the_exponential_on_a_line():
    def exponential(x, y):
        return np.exp(-np.abs(x[:, None] - y[None, :]))

    a = checked(exponential, cloud(1000, 1)[:, 0], 1e-10, far_field=ProxySurface())
    assert a.max_rank == 2


def test_five_dimensions():
    a = checked(Gaussian(1.0), cloud(2000, 5), 1e-3, leaf_size=32, admissibility=sm.StrongAdmissibility(eta=8.0))
    assert a.partition.far_count


@pytest.mark.parametrize("far_field", FAR_FIELDS, ids=lambda f: type(f).__name__)
def test_nonsymmetric_kernels_on_two_point_sets(far_field):
    def drifting(x, y):  # a Green's function of convection and diffusion
        d = x[:, None, :] - y[None, :, :]
        r = np.linalg.norm(d, axis=2)
        return np.exp(0.5 * (d[..., 0] - r)) / r

    rows, cols = cloud(900, 3), cloud(700, 3, seed=1) + [0.4, 0.0, 0.0]
    a = checked(drifting, rows, 1e-4, cols, leaf_size=32, far_field=far_field)
    assert a.shape == (900, 700)


@pytest.mark.parametrize("far_field", FAR_FIELDS, ids=lambda f: type(f).__name__)
def test_vector_valued_kernels(far_field):
    a = checked(Stokes(dim=2), cloud(601, 2), 1e-5, far_field=far_field)
    assert a.shape == (1202, 1202)


def test_columns_of_a_transposed_kernel_share_the_basis_of_the_rows():
    kernel, points = Helmholtz(wavenumber=20.0, dim=2), cloud(1500, 2)
    a = checked(kernel, points, 1e-6)
    plain = checked(lambda x, y: kernel(x, y), points, 1e-6)
    assert not a.symmetric
    for rows, cols in zip(a.row_ranks, a.col_ranks, strict=True):
        assert np.array_equal(rows, cols)
    # both certificates have looked at all entries once more
    taken, taken_by_both = (m.certificate.entries - 1500**2 for m in (a, plain))
    assert a.certificate.method == plain.certificate.method == "all entries"
    assert taken < 0.95 * taken_by_both
    x = np.random.default_rng(2).random(1500) + 1j
    assert np.linalg.norm(a.T @ x - a @ x) <= 1e-12 * np.linalg.norm(a @ x)


@pytest.mark.parametrize("far_field", [SampledFarField(), ProxySurface()], ids=lambda f: type(f).__name__)
def test_helmholtz_at_ten_wavelengths(far_field):
    checked(Helmholtz(wavenumber=20.0 * np.pi, dim=2), cloud(2000, 2), 1e-6, far_field=far_field)


def test_helmholtz_at_ten_wavelengths_in_space():
    with warnings.catch_warnings():
        # a dense array is smaller for so few points, and that is said
        warnings.filterwarnings("ignore", "the matrix has no H2 structure", StructureWarning)
        checked(Helmholtz(wavenumber=20.0 * np.pi, dim=3), cloud(1500, 3), 1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_hundred_wavelengths_are_refused_before_anything_is_built(dim):
    evaluated = []

    class Counted(Helmholtz):
        def __call__(self, x, y):
            evaluated.append(np.shape(x)[-2] * np.shape(y)[-2])
            return super().__call__(x, y)

    # warnings are errors in these tests
    with pytest.raises(StructureWarning, match=r"oscillatory.*wavelengths"):
        sm.H2Matrix.from_kernel(Counted(wavenumber=200.0 * np.pi, dim=dim), cloud(20000, dim), rtol=1e-6)
    assert sum(evaluated) < 100


def test_rough_kernels_are_named_before_couplings_are_evaluated():
    def rough(x, y):
        return np.cos(4e3 * np.linalg.norm(x[:, None, :] - y[None, :, :], axis=2))

    with pytest.warns(StructureWarning, match="no H2 structure"):
        sm.H2Matrix.from_kernel(rough, cloud(1500, 2), rtol=1e-6, leaf_size=32)


def test_errors_in_few_rows_are_not_missed_by_the_certificate():
    # ranks close to the number of points: only few rows are interpolated, and they carry all of the error
    kernel, points = Helmholtz(wavenumber=40.0, dim=3), cloud(2000, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StructureWarning)
        a = sm.H2Matrix.from_kernel(kernel, points, rtol=1e-6)
    assert relative_error(a, kernel(points, points)) <= 1.5 * a.certificate.upper_bound


# --------------------------------------------------------------------------------------- misuse


def test_proxy_surface_needs_a_greens_function():
    with pytest.raises(ValueError, match="ProxySurface takes Green's functions"):
        sm.H2Matrix.from_kernel(Gaussian(0.3), cloud(500, 2), far_field=ProxySurface())


def test_proxies_that_do_not_show_the_far_field_are_found_out():
    def blind(x, y):  # not seen from a surface: the far field is other than what proxies show
        r = np.linalg.norm(x[:, None, :] - y[None, :, :], axis=2)
        return np.where(r > 0.75, np.cos(60.0 * x[:, :1] * y[None, :, 0]), 1.0)

    with pytest.raises(ValueError, match="do not show its far field"):
        sm.H2Matrix.from_kernel(blind, cloud(1500, 2), rtol=1e-6, far_field=ProxySurface())


def test_proxy_surface_needs_all_coordinates():
    with pytest.raises(ValueError, match="append zeros"):
        sm.H2Matrix.from_kernel(Laplace(dim=3), cloud(500, 2), rtol=1e-4, far_field=ProxySurface())


def test_proxies_need_clusters_that_are_apart():
    with pytest.raises(ValueError, match="some boxes touch"):
        sm.H2Matrix.from_kernel(
            Laplace(dim=2), np.round(cloud(500, 2), 1), admissibility=sm.WeakAdmissibility(), far_field=ProxySurface()
        )


def test_selected_proxies_need_a_function_of_the_difference():
    class Weighted(Gaussian):
        translation_invariant = False

    with pytest.raises(ValueError, match="functions of x - y"):
        sm.H2Matrix.from_kernel(Weighted(0.3), cloud(500, 2), far_field=SelectedProxies())
