"""The linear solvers in two and three dimensions against exact solutions, at their order."""

import itertools

import numpy as np
import pytest

from structmat import NonFiniteError, ShapeError
from structmat_nn.data import compact
from structmat_nn.data.compact import solve_dirichlet
from structmat_nn.data.domains2d import LShape, PerforatedSquare
from structmat_nn.data.helmholtz import solve_helmholtz2d
from structmat_nn.data.lifting2d import lift_dirichlet2d


def order(errors):
    """The orders that errors on grids of doubled size show."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_compact_stencil_is_of_fourth_order(dimension):
    errors = []
    for n in (24, 48):
        axes = np.meshgrid(*[np.arange(n) / n] * dimension, indexing="ij")
        exact, eigenvalue = np.ones_like(axes[0]), 0.0
        for wave, x in enumerate(axes, start=1):
            exact = exact * np.sin(wave * np.pi * x)
            eigenvalue += (wave * np.pi) ** 2
        errors.append(np.abs(solve_dirichlet(eigenvalue * exact, dimension) - exact).max())
    assert order(errors) == pytest.approx([4.0], abs=0.1)


def test_compact_stencil_is_solved_exactly(rng):
    """The transform against the stencil itself, written out point by point."""
    n = 8
    forcing, solution = np.zeros((2, n + 1, n + 1, n + 1))
    forcing[1:-1, 1:-1, 1:-1] = rng.standard_normal((n - 1,) * 3)
    solution[:-1, :-1, :-1] = solve_dirichlet(forcing[:-1, :-1, :-1], 3)

    def stencil(field, center, face, edge):
        result = np.zeros((n - 1,) * 3)
        for shift in np.ndindex(3, 3, 3):
            weight = {0: center, 1: face, 2: edge, 3: 0.0}[sum(s != 1 for s in shift)]
            result += weight * field[tuple(slice(s, s + n - 1) for s in shift)]
        return result

    left = stencil(solution, 24.0, -2.0, -1.0) * n**2 / 6.0  # the 19-point stencil
    right = stencil(forcing, 0.5, 1.0 / 12.0, 0.0)
    assert np.abs(left - right).max() < 1e-12 * np.abs(right).max()


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_operator_is_symmetric_and_chunks_do_not_matter(dimension, rng, monkeypatch):
    forcing = rng.standard_normal((6, *(8,) * dimension))
    solution = solve_dirichlet(forcing, dimension)
    gram = np.tensordot(forcing, solution, axes=(range(1, dimension + 1),) * 2)
    assert np.abs(gram - gram.T).max() < 1e-14
    monkeypatch.setattr(compact, "CHUNK_BYTES", 1)
    np.testing.assert_array_equal(solve_dirichlet(forcing, dimension), solution)
    assert solve_dirichlet(forcing.reshape(2, 3, *forcing.shape[1:]), dimension).shape[:2] == (2, 3)


def test_l_shape_is_of_fourth_order_for_a_smooth_solution():
    """Whole waves vanish on the inner edges too: the solution of the square is that of the L."""
    errors = []
    for n in (16, 32):
        x = np.arange(n) / n
        wave = np.sin(2 * np.pi * x)
        exact = np.outer(wave, wave) + 0.5 * np.outer(np.sin(4 * np.pi * x), wave)
        forcing = 8 * np.pi**2 * np.outer(wave, wave) + 10 * np.pi**2 * np.outer(np.sin(4 * np.pi * x), wave)
        domain = LShape(n)
        errors.append(np.abs(domain.solve(forcing) - exact * domain.mask).max())
    assert order(errors) == pytest.approx([4.0], abs=0.1)


def test_l_shape_sees_its_corner():
    """For f = 1 refinement changes the solution at the rate of the corner singularity, 4/3, and nowhere near 4."""
    values = [LShape(n).solve(np.ones((n, n)))[:: n // 16, :: n // 16] for n in (16, 32, 64, 128)]
    differences = [np.abs(b - a).max() for a, b in itertools.pairwise(values)]
    assert order(differences)[-1] == pytest.approx(4.0 / 3.0, abs=0.25)
    inside = values[-1][LShape(16).mask]
    assert inside.min() > 0.0
    assert not values[-1][~LShape(16).mask].any()


def exact_around_the_disk(n, radius, angular):
    """(1 - s^2)^6 cos(m angle) with s = (r - R) / (r1 - R): no flux through the circle, nothing beyond r1."""
    x = np.arange(n) / n - 0.5
    r, angle = np.hypot(x[:, None], x), np.arctan2(x[None, :], x[:, None])
    width = 0.45 - radius
    s = np.minimum((r - radius) / width, 1.0)
    profile = (1 - s**2) ** 6
    first = -12 * s * (1 - s**2) ** 5 / width
    second = (-12 * (1 - s**2) ** 5 + 120 * s**2 * (1 - s**2) ** 4) / width**2
    r = np.where(r > 0, r, 1.0)
    wave = np.cos(angular * angle)
    return profile * wave, -(second + first / r - angular**2 * profile / r**2) * wave


@pytest.mark.parametrize("angular", [0, 3])
def test_cut_cells_are_of_second_order(angular):
    errors = []
    for n in (32, 64, 128):
        domain = PerforatedSquare(n)
        exact, forcing = exact_around_the_disk(n, 0.2, angular)
        error = domain.solve(forcing) - domain.remove_mean(exact)
        errors.append(np.sqrt((domain.volumes * error**2).sum()))
    assert order(errors) == pytest.approx([2.0, 2.0], abs=0.15)


@pytest.mark.parametrize(("n", "radius"), [(8, 0.25), (31, 0.2), (64, 0.33333), (40, 0.2)])
def test_areas_of_the_cut_cells_are_exact(n, radius):
    domain = PerforatedSquare(n, radius)
    assert domain.volumes.sum() == pytest.approx(1.0 - np.pi * radius**2, abs=1e-9)
    # against areas by counting sub-cells
    fine = 40
    x = (np.arange(n * fine) + 0.5) / (n * fine) - 0.5 / n - 0.5
    outside = (np.hypot(x[:, None], x) > radius).reshape(n, fine, n, fine).mean(axis=(1, 3)) / n**2
    assert np.abs(outside - domain.volumes).max() < 0.02 / n**2


@pytest.mark.parametrize("domain", [LShape(16), PerforatedSquare(16)], ids=["L", "disk"])
def test_the_adjoint_is_the_transpose(domain, rng):
    f, g = rng.standard_normal((2, 16, 16))
    assert (domain.solve(f) * g).sum() == pytest.approx((f * domain.solve_adjoint(g)).sum(), rel=1e-12)


def test_means_are_removed_and_constants_have_no_effect(rng):
    domain = PerforatedSquare(24)
    forcing = rng.standard_normal((3, 24, 24))
    solution = domain.solve(forcing)
    assert np.abs((solution * domain.volumes).sum(axis=(1, 2))).max() < 1e-14
    np.testing.assert_allclose(domain.solve(forcing + 5.0), solution, atol=1e-13)


@pytest.mark.parametrize("wave_number", [70.0, 60.0, 1.0])
def test_helmholtz_is_exact_on_trigonometric_polynomials(wave_number):
    x = np.arange(32) / 32
    one, two = np.outer(np.sin(20 * np.pi * x), np.cos(10 * np.pi * x)), np.outer(np.cos(6 * np.pi * x), np.ones(32))
    forcing = (4 * np.pi**2 * 125 - wave_number**2) * one - 3.0 * (4 * np.pi**2 * 9 - wave_number**2) * two
    np.testing.assert_allclose(solve_helmholtz2d(forcing, wave_number), one - 3.0 * two, atol=1e-11)


def on_edges(u, n):
    s = np.arange(n + 1) / n
    return u(0.0, s), u(1.0, s), u(s, 0.0), u(s, 1.0)


def test_the_lift_is_exact_for_harmonic_sines_and_bilinear_functions():
    def u(x, y):
        return 3.0 - x + 2.0 * x * y + np.sin(2 * np.pi * y) * np.sinh(2 * np.pi * x) / np.sinh(2 * np.pi)

    x = np.arange(16) / 16
    np.testing.assert_allclose(lift_dirichlet2d(*on_edges(u, 16)), u(x[:, None], x), atol=1e-14)


def test_the_lift_approaches_other_harmonic_functions():
    errors = []
    for n in (16, 32, 64):
        x = np.arange(n) / n
        exact = np.exp(x[:, None]) * np.cos(x) + x[:, None] ** 2 - x**2
        lift = lift_dirichlet2d(*on_edges(lambda x, y: np.exp(x) * np.cos(y) + x**2 - y**2, n))
        errors.append(np.abs(lift - exact)[n // 4 : 3 * n // 4, n // 4 : 3 * n // 4].max())
    assert order(errors).min() > 2.9
    assert errors[-1] < 1e-6


def test_lift_plus_homogeneous_solution_solves_with_boundary_values():
    """u = sin(3x) e^y has f = 8 u and values on all edges."""
    n = 48
    x = np.arange(n) / n
    exact = np.sin(3 * x)[:, None] * np.exp(x)
    lift = lift_dirichlet2d(*on_edges(lambda x, y: np.sin(3 * x) * np.exp(y), n))
    assert np.abs(lift + solve_dirichlet(8 * exact, 2) - exact).max() < 2e-3
    assert np.abs(solve_dirichlet(8 * exact, 2)).max() > 0.1


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match=r"must have one shape.*\(4,\), \(4,\), \(4,\), \(5,\)"):
        lift_dirichlet2d(np.ones(4), np.ones(4), np.ones(4), np.ones(5))
    with pytest.raises(ValueError, match="right and top must agree in their common corner, but differ by 1"):
        lift_dirichlet2d(np.zeros(4), np.array([0.0, 0, 0, 1]), np.zeros(4), np.zeros(4))
    with pytest.raises(ShapeError, match=r"forcing must have shape \(..., n, n\).*\(3, 4, 5\)"):
        solve_dirichlet(np.ones((3, 4, 5)), 2)
    with pytest.raises(NonFiniteError, match="forcing must be finite"):
        solve_dirichlet(np.full((4, 4), np.nan), 2)
    with pytest.raises(ShapeError, match="no sample"):
        solve_dirichlet(np.ones((0, 4, 4)), 2)
    with pytest.raises(ValueError, match="n must be even"):
        LShape(15)
    with pytest.raises(ShapeError, match="forcing has 8 points on an axis, but the domain was set up with 16"):
        LShape(16).solve(np.ones((8, 8)))
    with pytest.raises(ValueError, match=r"radius must lie between 2/n and 1/2 - 2/n for n = 16, but it is 0.45"):
        PerforatedSquare(16, 0.45)
    with pytest.raises(ValueError, match=r"resonant: the modes with j\^2 \+ k\^2 = 25"):
        solve_helmholtz2d(np.ones((16, 16)), 10.0 * np.pi)
    with pytest.raises(ValueError, match="wave_number must be a positive"):
        solve_helmholtz2d(np.ones((16, 16)), -1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(7)
