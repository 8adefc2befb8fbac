"""The shared problems against their definitions, and their fast products against dense ones."""

import numpy as np
import pytest

import structmat as sm
from structmat import gallery

LINES = {
    "problem_k": lambda n: [[1 / (abs(i - j) / n + 1 / n) for j in range(n)] for i in range(n)],
    "problem_l": lambda n: [[np.log(abs(i - j) / n if i != j else 1 / n) for j in range(n)] for i in range(n)],
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("n", [1, 2, 37, 64])
def test_entries_kernel_and_operator_are_one_matrix(name, n, rng):
    problem, expected = getattr(gallery, name)(n), np.array(LINES[name](n))
    np.testing.assert_allclose(problem.dense(), expected, rtol=1e-14)
    np.testing.assert_allclose(problem.kernel(problem.points, problem.points), expected, rtol=1e-12)
    x = rng.standard_normal((n, 3))
    operator = problem.operator()
    size = np.linalg.norm(expected, 2) * np.linalg.norm(x)
    for product in (operator @ x, operator.rmatmat(x), operator.H @ x):
        assert np.linalg.norm(product - expected @ x) <= 1e-14 * size
    assert np.linalg.norm(operator @ x[:, 0] - expected @ x[:, 0]) <= 1e-14 * size
    assert np.linalg.norm(operator @ (1j * x) - 1j * (expected @ x)) <= 1e-14 * size


def test_kernels_of_the_line_serve_batches(rng):
    problem = gallery.problem_k(10)
    x, y = rng.random((3, 4, 1)), rng.random((3, 5, 1))
    np.testing.assert_array_equal(problem.kernel(x, y)[1], problem.kernel(x[1, :, 0], y[1, :, 0]))
    assert repr(problem.kernel) == "problem_k"


def test_products_by_transform_take_columns_in_pieces(monkeypatch, rng):
    problem, x = gallery.problem_l(50), rng.standard_normal((50, 7))
    whole = problem.operator() @ x
    monkeypatch.setattr(gallery, "_CHUNK_BYTES", 1)
    np.testing.assert_allclose(problem.operator() @ x, whole, rtol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_the_green_operator_inverts_second_differences(n, rng):
    problem = gallery.green_operator_1d(n)
    differences = (n + 1) * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    np.testing.assert_allclose(problem.dense() @ differences, np.eye(n), atol=1e-12)
    x = rng.standard_normal((n, 4))
    np.testing.assert_allclose(problem.operator() @ x, problem.dense() @ x, atol=1e-14)
    np.testing.assert_allclose(problem.operator().rmatvec(x[:, 0]), problem.dense() @ x[:, 0], atol=1e-14)


@pytest.mark.parametrize("curve", [gallery.Star(), gallery.Star(0.2, 3), gallery.Circle(1.5)])
def test_derivatives_of_curves(curve):
    t, step = np.linspace(0, 6, 20), 1e-5
    _, first, second = curve.derivatives(t)
    ahead, behind = curve.derivatives(t + step), curve.derivatives(t - step)
    np.testing.assert_allclose((ahead[0] - behind[0]) / (2 * step), first, atol=1e-8)
    np.testing.assert_allclose((ahead[1] - behind[1]) / (2 * step), second, atol=1e-7)


def test_the_double_layer_matrix_by_its_definition():
    n = 60
    problem = gallery.interior_laplace(n)
    z, first = problem.curve.derivatives(2 * np.pi * np.arange(n) / n)[:2]
    matrix = problem.dense()
    for i, j in [(0, 1), (3, 50), (17, 16)]:
        normal = -1j * first[j] / abs(first[j])
        r = z[i] - z[j]
        value = (normal.real * r.real + normal.imag * r.imag) / abs(r) ** 2 / (2 * np.pi)
        assert matrix[i, j] == pytest.approx(value * abs(first[j]) * 2 * np.pi / n, rel=1e-12)
    # constants are reproduced up to the quadrature error: the potential of the density 1 is -1 inside
    np.testing.assert_allclose(gallery.interior_laplace(400).dense().sum(axis=1), -1.0, atol=1e-13)


def test_the_circle_has_a_constant_kernel():
    n = 50
    np.testing.assert_allclose(
        gallery.circle_double_layer(n).dense(), -(np.eye(n) + np.ones((n, n)) / n) / 2, atol=1e-15
    )


def test_the_potential_is_harmonic_inside_and_nan_where_it_is_not_accurate():
    problem = gallery.interior_laplace(1024)
    density = np.linalg.solve(problem.dense(), problem.boundary_values)
    x, y = np.meshgrid(np.linspace(-1.4, 1.4, 60), np.linspace(-1.4, 1.4, 50))
    z = x + 1j * y
    u = problem.potential(density, z)
    assert u.shape == z.shape
    known = np.isfinite(u)
    assert np.abs(u - problem.harmonic(z))[known].max() < 1e-12
    assert not known[~problem.is_inside(z)].any()
    assert known[problem.is_inside(1.1 * z)].mean() > 0.95
    with pytest.raises(sm.ShapeError, match="density must have length 1024"):
        problem.potential(density[:-1], z)


def test_an_odd_number_of_nodes_uses_all_of_them():
    problem = gallery.interior_laplace(301)
    density = np.linalg.solve(problem.dense(), problem.boundary_values)
    assert problem.potential(density, np.array(0.1j)) == pytest.approx(problem.harmonic(0.1j), abs=1e-12)


def test_the_tree_of_a_curve_has_arcs_and_places():
    tree = gallery.interior_laplace(100).tree(leaf_size=16)
    assert tree.is_identity
    assert tree.leaf_size <= 16
    assert tree.points.shape == (100, 2)
