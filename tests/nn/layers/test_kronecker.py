import warnings

import numpy as np
import pytest
import scipy.sparse.linalg as spla

from structmat import AccuracyWarning
from structmat.exceptions import NonFiniteError, ShapeError
from structmat_nn import KroneckerSum
from structmat_nn.layers import kronecker_truncation

SHAPES = {
    "one mode": [(4, 5)],
    "two modes": [(4, 5), (3, 2)],
    "three modes": [(4, 3), (3, 2), (2, 5)],
    "four modes": [(2, 3), (3, 2), (2, 2), (1, 4)],
}


@pytest.fixture(params=SHAPES, ids=str)
def operator(request):
    rng = np.random.default_rng(1)
    return KroneckerSum([rng.standard_normal((3, *shape)) for shape in SHAPES[request.param]])


def test_products_with_vectors_blocks_and_tensors(operator):
    rng = np.random.default_rng(2)
    dense = operator.to_dense()
    x, y = rng.standard_normal((dense.shape[1], 3)), rng.standard_normal((dense.shape[0], 3))

    assert np.allclose(operator @ x, dense @ x)
    assert np.allclose(operator @ x[:, 0], dense @ x[:, 0])
    assert np.allclose(operator.rmatmat(y), dense.T @ y)
    assert np.allclose(operator.T.to_dense(), dense.T)
    assert np.allclose(operator.apply(x.T.reshape(3, *operator.in_shape)).reshape(3, -1), (dense @ x).T)
    assert np.isclose(operator.norm(), np.linalg.norm(dense))
    linear = operator.aslinearoperator()
    assert isinstance(linear, spla.LinearOperator)
    assert np.allclose(linear.H @ y, dense.T @ y)
    assert np.allclose((2.0 * operator + operator).to_dense(), 3.0 * dense)
    assert np.allclose((operator.T @ operator).to_dense(), dense.T @ dense)


@pytest.mark.parametrize("shapes", [[(4, 5), (3, 6)], [(4, 5), (3, 6), (5, 2)]])
def test_truncation_finds_the_terms_that_are_there(shapes):
    rng = np.random.default_rng(3)
    few = KroneckerSum([rng.standard_normal((3, *shape)) for shape in shapes])
    # the same operator in 9 terms: the first factor of each is split
    split = rng.standard_normal((3, 3))
    parts = split / split.sum(axis=1, keepdims=True)  # rows sum to one
    many = KroneckerSum(
        [(few.factors[0][:, None] * parts[:, :, None, None]).reshape(9, *shapes[0])]
        + [np.repeat(f, 3, axis=0) for f in few.factors[1:]]
    )

    found = many.truncate(rtol=1e-9)

    assert found.terms == 3
    assert np.allclose(found.to_dense(), few.to_dense(), rtol=0, atol=1e-7 * few.norm())
    assert found.certificate.met


@pytest.mark.parametrize("modes", [2, 3])
def test_the_error_of_a_truncation_is_the_one_in_its_certificate(modes):
    rng = np.random.default_rng(4)
    decay = 0.3 ** np.arange(6)
    factors = [rng.standard_normal((6, 4, 4)) for _ in range(modes)]
    operator = KroneckerSum([factors[0] * decay[:, None, None], *factors[1:]])

    found = operator.truncate(rtol=0.05)

    error = np.linalg.norm(found.to_dense() - operator.to_dense()) / operator.norm()
    assert found.terms < 6
    assert error <= 0.05
    assert np.isclose(error, found.certificate.upper_bound, rtol=1e-6)


def test_two_modes_are_cut_optimally():
    rng = np.random.default_rng(5)
    operator = KroneckerSum([rng.standard_normal((6, 3, 4)), rng.standard_normal((6, 5, 2))])
    with pytest.warns(AccuracyWarning, match="raise max_terms"):
        found = operator.truncate(rtol=1e-3, max_terms=2)
    # Van Loan's rearrangement: the singular values of vec(A) vec(B)^T
    rearranged = np.einsum("kab,kcd->abcd", *operator.factors).reshape(12, 10)
    best = np.sqrt(np.sum(np.linalg.svd(rearranged, compute_uv=False)[2:] ** 2))
    assert np.isclose(np.linalg.norm(found.to_dense() - operator.to_dense()), best)


@pytest.mark.parametrize("small", [0, 1, 2])
@pytest.mark.parametrize("effort", [0.0, kronecker_truncation._EFFORT])
def test_channels_bound_the_terms_whatever_the_search_finds(small, effort, monkeypatch):
    monkeypatch.setattr(kronecker_truncation, "_EFFORT", effort)
    rng = np.random.default_rng(6)
    shapes = [(5, 4), (6, 3)]
    shapes.insert(small, (1, 2))  # two channels to one
    many = KroneckerSum([rng.standard_normal((300, *shape)) for shape in shapes])

    found = many.truncate(rtol=1e-9)

    # of each channel a 20 x 18 matrix of rank 18; no sum has fewer terms than the rank of its unfolding, 20
    assert 20 <= found.terms <= 2 * 18
    error = np.linalg.norm(found.to_dense() - many.to_dense()) / many.norm()
    assert error <= 1e-9
    assert found.certificate.upper_bound == pytest.approx(max(error, 2.3e-16), abs=1e-14)


def test_a_search_without_hope_ends_with_the_terms_that_are_there(monkeypatch):
    monkeypatch.setattr(kronecker_truncation, "_EFFORT", 0.0)
    monkeypatch.setattr(kronecker_truncation, "_FEW_SLICES", 0)
    rng = np.random.default_rng(7)
    operator = KroneckerSum([rng.standard_normal((30, 3, 3)) for _ in range(3)])
    found = operator.truncate(rtol=1e-9)
    assert found.terms == 30
    assert np.allclose(found.to_dense(), operator.to_dense(), rtol=0, atol=1e-12 * operator.norm())
    with pytest.warns(AccuracyWarning, match="raise max_terms"):
        capped = operator.truncate(rtol=1e-9, max_terms=4)
    assert capped.terms == 4
    error = np.linalg.norm(capped.to_dense() - operator.to_dense()) / operator.norm()
    assert capped.certificate.upper_bound == pytest.approx(error)


def test_terms_that_were_asked_for_are_fitted_however_far_the_tolerance_is():
    rng = np.random.default_rng(1)
    alike = [rng.standard_normal((1, 6, 6)) + 0.5 * rng.standard_normal((5, 6, 6)) for _ in range(3)]
    operator = KroneckerSum([np.concatenate([f, 0.01 * rng.standard_normal((40, 6, 6))]) for f in alike])
    with pytest.warns(AccuracyWarning):
        found = operator.truncate(rtol=1e-13, max_terms=4)
    given, better = ([f.reshape(len(f), -1).T for f in a.factors] for a in (operator, found))
    for _ in range(200):
        kronecker_truncation._sweep(given, better)
    best = kronecker_truncation._difference(given, better) / operator.norm()
    assert found.certificate.upper_bound <= 1.03 * best  # sweeps end where ten of them gain less than 3 %


@pytest.mark.parametrize("modes", [1, 2, 3])
def test_a_zero_operator(modes):
    zero = KroneckerSum([np.zeros((2, 3, 3))] * modes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = zero.truncate()
    assert cut.terms == 1
    assert not cut.to_dense().any()


def test_bad_arguments_are_named():
    with pytest.raises(ShapeError, match=r"factors\[1\] must be a stack \(terms, rows, columns\)"):
        KroneckerSum([np.ones((1, 2, 2)), np.ones((2, 2))])
    with pytest.raises(ShapeError, match="the same number of terms"):
        KroneckerSum([np.ones((1, 2, 2)), np.ones((2, 2, 2))])
    with pytest.raises(ShapeError, match="at least one mode"):
        KroneckerSum([])
    with pytest.raises(NonFiniteError, match=r"factors\[0\] must be finite"):
        KroneckerSum([np.full((1, 2, 2), np.nan)])
    operator = KroneckerSum([np.ones((1, 2, 3)), np.ones((1, 4, 5))])
    with pytest.raises(ShapeError, match="x has 8 rows, but A has 15 columns"):
        operator @ np.ones(8)
    with pytest.raises(ShapeError, match=r"A takes tensors of shape \(3, 5\), but B gives \(2, 4\)"):
        operator @ operator
    with pytest.raises(ShapeError, match="but the operator takes"):
        operator.apply(np.ones((5, 3)))
