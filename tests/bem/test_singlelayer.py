"""Single-layer integrals against other quadratures and closed forms, and capacitances against known ones."""

import itertools

import numpy as np
import pytest
import scipy.integrate as integrate

import structmat as sm
from structmat.bem import SingleLayer, TriangleMesh, capacitance
from structmat.bem.singlelayer import edge_rule, quartered, radon_rule, three_point_rule
from structmat.engine import cpu_bem

# J. Helsing, K.-M. Perfekt, "On the polarizability and capacitance of the cube", 2013
CUBE = 0.66067815409957


def pair(first, second):
    """Two triangles of their own as one mesh."""
    return TriangleMesh(np.concatenate([first, second]), [[0, 1, 2], [3, 4, 5]])


def entry(mesh, i, j):
    """The plain integral, without the scale of the trial functions."""
    layer = SingleLayer(mesh)
    return float(layer([i], [j])[0, 0]) / (layer.scale[i] * layer.scale[j])


def points_and_weights(triangle, cuts):
    """The centres of cuts^2 equal parts of a triangle, and the area of each: the plainest rule there is."""
    k = np.arange(cuts)
    u, v = (a.ravel() for a in np.meshgrid(k, k, indexing="ij"))
    up, down = u + v < cuts, u + v < cuts - 1
    places = np.concatenate([np.stack([u, v], 1)[up] + 1 / 3, np.stack([u, v], 1)[down] + 2 / 3]) / cuts
    edges = triangle[1] - triangle[0], triangle[2] - triangle[0]
    return triangle[0] + places @ np.stack(edges), 0.5 * np.linalg.norm(np.cross(*edges)) / cuts**2


def plain_potential(triangle, point):
    """The potential of a triangle by SciPy's adaptive quadrature in polar coordinates around the foot of the point."""
    edges = triangle[1] - triangle[0], triangle[2] - triangle[0]
    normal = np.cross(*edges) / np.linalg.norm(np.cross(*edges))
    height = normal @ (point - triangle[0])
    foot, total = point - height * normal, 0.0
    for k in range(3):
        a, b = triangle[k] - foot, triangle[(k + 1) % 3] - foot
        sign = np.sign(normal @ np.cross(a, b))
        if sign == 0.0:
            continue
        across, along = np.linalg.norm(np.cross(a, b)) / np.linalg.norm(b - a), (b - a) / np.linalg.norm(b - a)
        # the radial integral of r / sqrt(r^2 + h^2) is exact
        start, stop = np.arctan2(a @ along, across), np.arctan2(b @ along, across)
        value = integrate.quad(
            lambda t, d=across: np.hypot(d / np.cos(t), height) - abs(height), start, stop, epsabs=1e-13
        )
        total += sign * value[0]
    return total


TRIANGLE = np.array([[0.0, 0.0, 0.0], [2.0, 0.1, 0.3], [0.4, 1.0, -0.2]])


def places_around(triangle):
    a, b, c = triangle
    normal = np.cross(b - a, c - a)
    centre = triangle.mean(axis=0)
    return {
        "inside": centre,
        "above": centre + 0.3 * normal,
        "just above": centre + 1e-9 * normal,
        "corner": a,
        "middle of an edge": 0.5 * (a + b),
        "on the line of an edge": a + 1.7 * (b - a),
        "in the plane": 3 * b - 2 * c,
        "above a corner": c + 0.1 * normal,
        "near an edge": a + 0.4 * (b - a) - 1e-7 * normal,
        "far": centre + 40 * normal + 30 * (b - a),
    }


@pytest.mark.parametrize("place", list(places_around(TRIANGLE)))
def test_the_potential_of_a_triangle(place):
    point = places_around(TRIANGLE)[place]
    mesh = TriangleMesh(TRIANGLE, [[0, 1, 2]])
    layer = SingleLayer(mesh)
    exact = plain_potential(TRIANGLE, point)
    assert layer.potential([1.0], [point])[0] == pytest.approx(exact, rel=1e-8)


def test_a_triangle_with_itself():
    """The closed form against the potential, integrated adaptively over the triangle."""
    mesh = TriangleMesh(TRIANGLE, [[0, 1, 2]])
    layer = SingleLayer(mesh)
    a, e, f = TRIANGLE[0], TRIANGLE[1] - TRIANGLE[0], TRIANGLE[2] - TRIANGLE[0]

    def inner(v, u):
        return cpu_bem.triangle_potential(*layer._flat, 0, *(a + u * e + v * f))

    value = integrate.dblquad(inner, 0, 1, 0, lambda u: 1 - u, epsrel=1e-7)[0] * 2 * mesh.areas[0]
    assert layer.scale[0] ** -2 == pytest.approx(value, rel=1e-6)
    assert layer([0], [0])[0, 0] == pytest.approx(1.0)


FIRST = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SECONDS = {
    "an edge, in one plane": [[1, 0, 0], [1, 1, 0], [0, 1, 0]],
    "an edge, at right angles": [[0, 0, 0], [0, 0, 1], [1, 0, 0]],
    "a corner, in one plane": [[0, 0, 0], [-1, 0, 0], [0, -1, 0]],
    "a corner, at right angles": [[0, 0, 0], [0, -1, 0], [0, 0, 1]],
    "an edge, with a needle": [[0, 0, 0], [1, -0.05, 0], [1, 0, 0]],
    "face to face": [[0.1, 0.1, 0.05], [1.1, 0.1, 0.05], [0.1, 1.1, 0.05]],
}


@pytest.mark.parametrize("case", list(SECONDS))
def test_triangles_that_touch(case):
    """Against adaptive integration of the closed-form potential over one of them."""
    second = np.array(SECONDS[case], dtype=float)
    mesh = pair(FIRST, second)
    layer = SingleLayer(mesh)
    e, f = second[1] - second[0], second[2] - second[0]

    def inner(v, u):
        return cpu_bem.triangle_potential(*layer._flat, 0, *(second[0] + u * e + v * f))

    value = integrate.dblquad(inner, 0, 1, 0, lambda u: 1 - u, epsrel=1e-7, epsabs=1e-10)[0] * 2 * mesh.areas[1]
    # the potential has kinks where the other triangle ends, and no rule for one triangle knows where that is
    assert entry(mesh, 0, 1) == pytest.approx(value, rel=1e-3 if case == "face to face" else 1e-5)


@pytest.mark.parametrize("distance", [0.2, 0.8, 3.0, 20.0, 60.0])
def test_triangles_apart(distance, rng):
    """Against the plainest quadrature of both, extrapolated; in every regime of rules, and across their borders."""
    for _ in range(5):
        first, second = rng.standard_normal((2, 3, 3))
        direction = rng.standard_normal(3)
        reach = (
            np.linalg.norm(first - first.mean(0), axis=1).max(),
            np.linalg.norm(second - second.mean(0), axis=1).max(),
        )
        shift = (sum(reach) + distance * max(reach)) * direction / np.linalg.norm(direction)
        mesh = pair(first, second - second.mean(0) + first.mean(0) + shift)
        values = []
        for cuts in (8, 16):
            (x, w), (y, z) = (points_and_weights(t, cuts) for t in mesh.corners)
            values.append((1 / np.linalg.norm(x[:, None] - y, axis=2)).sum() * w * z)
        assert entry(mesh, 0, 1) == pytest.approx((4 * values[1] - values[0]) / 3, rel=3e-5)


@pytest.mark.parametrize(
    ("rule", "degree"), [(three_point_rule(), 2), (radon_rule(), 5), (quartered(radon_rule()), 5), (edge_rule(6), 4)]
)
def test_rules(rule, degree):
    """Monomials u^a v^b over the triangle: a! b! / (a + b + 2)!, times 2 for weights that sum to 1."""
    from math import factorial

    for a, b in itertools.product(range(degree + 1), repeat=2):
        if a + b <= degree:
            exact = 2 * factorial(a) * factorial(b) / factorial(a + b + 2)
            assert rule[:, 2] @ (rule[:, 0] ** a * rule[:, 1] ** b) == pytest.approx(exact, rel=1e-13)


def test_blocks_and_batches(rng):
    mesh = TriangleMesh.box(intervals=4, grading=2)
    layer = SingleLayer(mesh)
    every = np.arange(len(mesh))
    dense = layer(every, every)
    np.testing.assert_allclose(dense, dense.T, rtol=1e-14)
    np.testing.assert_allclose(np.diag(dense), 1.0, rtol=1e-14)
    assert np.linalg.eigvalsh(dense)[0] > 0.1
    i, j = rng.integers(0, len(mesh), (3, 5)), rng.integers(0, len(mesh), (3, 7))
    np.testing.assert_array_equal(layer(i, j), dense[i[:, :, None], j[:, None, :]])
    np.testing.assert_array_equal(layer(i[0], j[0]), dense[np.ix_(i[0], j[0])])
    assert layer(i, j[:, :0]).shape == (3, 5, 0)
    with pytest.raises(sm.ShapeError, match="same leading axes"):
        layer(i, j[0])
    with pytest.raises(TypeError, match="mesh must be a TriangleMesh"):
        SingleLayer(dense)


@pytest.mark.parametrize("format", [sm.HMatrix, sm.HODLRMatrix, sm.HSSMatrix])
def test_compressed(format):
    mesh = TriangleMesh.sphere(2)
    layer = SingleLayer(mesh)
    every = np.arange(len(mesh))
    matrix = format.from_entries(layer, layer.tree(32), rtol=1e-5, symmetric=True)
    dense = layer(every, every)
    assert matrix.certificate.met
    assert np.linalg.norm(matrix.to_dense() - dense) <= 1e-5 * np.linalg.norm(dense)


def test_moments_and_potentials():
    """A point charge inside: the density that makes its potential on the sphere makes it outside too."""
    layer = SingleLayer(TriangleMesh.sphere(3))
    every, source = np.arange(layer.shape[0]), np.array([0.3, 0.2, -0.1])

    def potential(x):
        return 1 / np.linalg.norm(x - source, axis=1)

    density = layer.density(np.linalg.solve(layer(every, every), layer.moments(potential)))
    outside = np.array([[2.0, 0.0, 0.0], [0.0, -1.5, 1.0], [3.0, 3.0, 3.0]])
    np.testing.assert_allclose(layer.potential(density, outside), potential(outside), rtol=3e-3)
    np.testing.assert_allclose(layer.moments(lambda x: np.full(len(x), 2.0)), layer.moments(2.0), rtol=1e-14)
    with pytest.raises(sm.ShapeError, match=r"points must have shape \(m, 3\)"):
        layer.potential(density, [1.0, 2.0])


# -------------------------------------------------------------------------------------- capacitances


def test_spheres_and_spheroids():
    """1, and e a / artanh(e): the error of flat triangles is O(h^2)."""
    for stretch, exact in ((1.0, 1.0), (2.0, np.sqrt(3.0) / np.arccosh(2.0))):
        errors = []
        for refinements in (1, 2):
            sphere = TriangleMesh.sphere(refinements)
            mesh = TriangleMesh(sphere.points * [1, 1, stretch], sphere.triangles)
            found = capacitance(mesh)
            assert found.density @ mesh.areas == pytest.approx(found.value)
            errors.append(exact - float(found))
        assert errors[1] > 0
        assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_in_h2_format():
    mesh = TriangleMesh.box(intervals=8, grading=3)
    found = capacitance(mesh, format=sm.H2Matrix)
    assert isinstance(found.matrix, sm.H2Matrix)
    assert found.matrix.certificate.met
    assert found.solution.converged
    assert found.solution.method == "cg"
    assert found.value == pytest.approx(capacitance(mesh).value, rel=1e-6)


def test_the_cube():
    """From below, with O(h^3) on graded meshes; the same by a dense solve; and a conductor inside."""
    values = []
    for intervals in (4, 8):
        mesh = TriangleMesh.box(intervals=intervals, grading=3)
        found = capacitance(mesh)
        layer = SingleLayer(mesh)
        every, moments = np.arange(len(mesh)), layer.moments()
        dense = moments @ np.linalg.solve(layer(every, every), moments)
        assert found.value == pytest.approx(dense, rel=1e-6)
        assert found.solution.method == "cg"
        assert found.solution.converged
        values.append(found.value)
    errors = 1 - np.array(values) / CUBE
    assert errors[1] > 0
    assert errors[0] / errors[1] == pytest.approx(8.0, rel=0.1)
    assert errors[1] < 2e-4
    inside = 0.05 + 0.9 * np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(layer.potential(found.density, inside), 1.0, atol=2e-3)
