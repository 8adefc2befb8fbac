"""Products of H2-matrices against dense twins."""

import numpy as np
import pytest

import structmat as sm
from structmat.exceptions import ShapeError, TreeMismatchError
from structmat.partition import BlockPartition, StrongAdmissibility
from tests.problems import relative_error

# the battery multiplies every small case; these larger ones are for the nights
pytestmark = pytest.mark.slow


def one_sided(x, y):
    difference = np.subtract.outer(x, y)
    return np.exp(-np.abs(difference)) * (1.0 + 0.5 * np.sign(difference)) / (np.abs(difference) + 0.01)


def line(n):
    return (np.arange(n) + 0.5) / n


def on_line(m, n, depth, kernel=one_sided, rtol=1e-10):
    x, y = line(m), line(n)
    trees = sm.ClusterTree.from_points(x, depth=depth), sm.ClusterTree.from_points(y, depth=depth)
    pair = trees if m != n else trees[0]
    return sm.H2Matrix.from_kernel(kernel, x, pair, column_points=None if m == n else y, rtol=rtol)


def in_plane(n, leaf_size, kernel):
    points = np.random.default_rng(0).random((n, 2))
    return sm.H2Matrix.from_kernel(kernel, points, rtol=1e-8, leaf_size=leaf_size)


@pytest.mark.parametrize("rtol", [1e-4, 1e-8])
@pytest.mark.parametrize("n", [37, 803])
def test_line(rtol, n):
    depth = 6 if n > 100 else 2
    a, b = on_line(n, n, depth), on_line(n, n, depth, lambda x, y: np.exp(-3 * np.abs(np.subtract.outer(x, y))))
    c = a.multiply(b, rtol=rtol)
    dense = a.to_dense() @ b.to_dense()
    assert relative_error(c, dense) <= rtol
    assert c.certificate.met
    assert c.certificate.asked == rtol
    assert not c.symmetric
    assert np.array_equal(c.partition.near[-1], a.partition.near[-1])
    assert n < 100 or c.certificate.products < n


def test_plane():
    a = in_plane(1000, 8, sm.kernelfunctions.Laplace(dim=2))
    b = in_plane(1000, 8, lambda x, y: np.exp(-np.linalg.norm(x[:, None] - y[None], axis=2)) * (1.0 + x[:, None, 0]))
    for first, second in ((a, a.H), (b, b.H), (a, b)):
        dense = first.to_dense() @ second.to_dense()
        c = first.multiply(second, rtol=1e-3)
        assert c.symmetric == (second is not b)
        assert relative_error(c, dense) <= 1e-3
        assert c.certificate.met
        assert c.certificate.products < 500 or second is b  # which has more samples than columns: these are taken


def test_hermitian_products_are_stored_half():
    a = on_line(700, 700, 5)
    dense = a.to_dense()
    for product, twin in ((a @ a.H, dense @ dense.T), (a.H @ a, dense.T @ dense)):
        assert product.symmetric
        assert relative_error(product, twin) <= a.rtol
    assert not (a @ a).symmetric
    assert relative_error(a @ a, dense @ dense) <= a.rtol


def test_complex():
    def kernel(x, y):
        return one_sided(x, y) * np.exp(3j * np.add.outer(x, y))

    a = on_line(400, 400, 5, kernel, rtol=1e-8)
    dense = a.to_dense()
    for product, twin, symmetric in (
        (a @ a.T, dense @ dense.T, False),
        (a.T @ a.conj(), dense.T @ dense.conj(), True),
        (a @ on_line(400, 400, 5), dense @ on_line(400, 400, 5).to_dense(), False),
    ):
        assert product.dtype == np.complex128
        assert product.symmetric == symmetric
        assert relative_error(product, twin) <= 1e-8


def test_rectangular():
    a, b = on_line(500, 640, 5), on_line(640, 400, 5)
    c = a.multiply(b, rtol=1e-6)
    assert c.shape == (500, 400)
    assert relative_error(c, a.to_dense() @ b.to_dense()) <= 1e-6
    with pytest.raises(ShapeError, match="A has 400 columns, but B has 500 rows"):
        on_line(500, 400, 5) @ a


def test_partition_of_the_product():
    a = on_line(400, 400, 5)
    partition = BlockPartition.build(a.row_tree, admissibility=StrongAdmissibility(1.0))
    c = a.multiply(a, rtol=1e-6, partition=partition)
    assert np.array_equal(c.partition.near[-1], partition.near[-1])
    assert relative_error(c, a.to_dense() @ a.to_dense()) <= 1e-6


def test_operands_that_do_not_fit():
    a = on_line(400, 400, 5)
    other = sm.HSSMatrix.from_dense(a.to_dense(), a.row_tree)
    with pytest.raises(TypeError, match=r"H2Matrix\.from_structured"):
        a @ other
    with pytest.raises(TypeError, match="must be of one format"):
        a.multiply(np.eye(400))
    with pytest.raises(TreeMismatchError, match="columns of A and the rows of B"):
        a @ on_line(400, 400, 4)
