"""H2-matrices whose couplings and dense blocks are evaluated in each product, against those that store them."""

import math

import numba
import numpy as np
import pytest

import structmat as sm
from structmat.kernelfunctions import Laplace, Pointwise, Yukawa


def drift(x, y):
    distance = math.sqrt((x[0] - y[0]) ** 2 + (x[1] - y[1]) ** 2)
    return math.exp(-distance) * (1.0 + 3.0 * x[0] + y[1] ** 2) / (0.1 + distance)


def cloud(n, dim, seed=0):
    return np.random.default_rng(seed).random((n, dim))


CASES = {
    "plane": (Laplace(dim=2), cloud(900, 2), None, None),
    "space": (Laplace(dim=3), cloud(700, 3), None, None),
    "both_halves": (Yukawa(decay=2.0, dim=3), cloud(500, 3), None, False),
    "rectangular": (Laplace(dim=2), cloud(500, 2), cloud(410, 2, 1), None),
    "nonsymmetric": (Pointwise(numba.njit(drift), dim=2), cloud(600, 2), None, None),
    "one_leaf": (Laplace(dim=2), cloud(10, 2), None, None),
}


@pytest.fixture(params=CASES)
def pair(request):
    kernel, x, y, symmetric = CASES[request.param]
    options = {"column_points": y, "symmetric": symmetric, "rtol": 1e-6, "leaf_size": 20}
    evaluated = sm.H2Matrix.from_kernel(kernel, x, on_the_fly=True, **options)
    return evaluated, sm.H2Matrix.from_kernel(kernel, x, **options), kernel(x, x if y is None else y)


def test_products_agree_with_stored_blocks(pair, rng):
    evaluated, stored, dense = pair
    assert evaluated.on_the_fly
    assert not stored.on_the_fly
    for columns in (None, 1, 5):
        x = rng.standard_normal(dense.shape[1] if columns is None else (dense.shape[1], columns))
        y = rng.standard_normal(dense.shape[0] if columns is None else (dense.shape[0], columns))
        for ours, theirs in (
            (evaluated @ x, stored @ x),
            (evaluated.T @ y, stored.T @ y),
            (y.T @ evaluated, y.T @ stored),
        ):
            assert np.linalg.norm(ours - theirs) <= 1e-13 * np.linalg.norm(theirs)
        z = x + 1j * x[::-1]
        assert np.linalg.norm(evaluated @ z - dense @ z) <= 2e-6 * np.linalg.norm(dense) * np.linalg.norm(z)
    assert evaluated.certificate.met
    error = np.linalg.norm(stored.to_dense() - dense) / np.linalg.norm(dense)
    assert np.isclose(evaluated.certificate.estimate, error, rtol=0.2, atol=1e-15)


def test_entries_and_blocks_are_those_of_the_stored_matrix(pair):
    evaluated, stored, dense = pair
    rows, cols = np.arange(0, dense.shape[0], 7), np.arange(0, dense.shape[1], 9)
    scale = np.abs(dense).max()
    assert np.abs(evaluated[rows, cols] - stored[rows, cols]).max() <= 1e-13 * scale
    assert np.abs(evaluated.diagonal() - stored.diagonal()).max() <= 1e-13 * scale
    assert np.abs(evaluated.stored().to_dense() - stored.to_dense()).max() <= 1e-13 * scale
    assert repr(evaluated.partition) == repr(stored.partition)


def test_memory_is_that_of_the_bases(rng):
    points = cloud(4000, 3)
    evaluated = sm.H2Matrix.from_kernel(Laplace(dim=3), points, rtol=1e-4, on_the_fly=True)
    assert evaluated.nbytes < 0.1 * evaluated.stored().nbytes
    assert "on the fly" in repr(evaluated)


def test_a_plain_function_is_told_what_it_takes():
    def kernel(x, y):
        return np.exp(-np.linalg.norm(x[:, None] - y, axis=2))

    with pytest.raises(TypeError, match=r"on_the_fly=True needs a kernel with a compiled form.*leave on_the_fly out"):
        sm.H2Matrix.from_kernel(kernel, cloud(100, 2), on_the_fly=True)
