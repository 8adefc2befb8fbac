import warnings

import numpy as np
import pytest

import structmat as sm
from structmat_nn import IdentifiabilityWarning, fit_kronecker


def poisson(n):
    """The solution operator of -Laplace u = f on n x n inner points of a square, zero outside."""
    second_difference = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * (n + 1) ** 2
    values, vectors = np.linalg.eigh(second_difference)
    return lambda f: vectors @ ((vectors.T @ f @ vectors) / (values[:, None] + values)) @ vectors.T


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(("terms", "n", "samples"), [(1, 10, 8), (2, 10, 15), (3, 12, 20)])
def test_an_operator_with_so_many_terms_is_found_to_rounding(terms, n, samples, rng):
    left, right = rng.standard_normal((terms, n + 1, n)), rng.standard_normal((terms, n, n + 2))
    fields, new = rng.standard_normal((samples, n, n + 2)), rng.standard_normal((5, n, n + 2))

    def operator(x):
        return sum(a @ x @ b.T for a, b in zip(left, right, strict=True))

    found = fit_kronecker(fields, operator(fields), terms=terms, rng=0)
    assert relative(found.predict(new), operator(new)) < 1e-9
    assert found.operator.shape == ((n + 1) * n, n * (n + 2))
    assert found.outside == 0.0


def test_poisson_in_two_dimensions_on_sines(rng):
    """Ten modes an axis, as in the data of Neural-HSS: each term gains an order of magnitude, in their span."""
    n = 24
    modes = np.sin(np.pi * np.outer(np.arange(1, 11), np.arange(1, n + 1) / (n + 1)))
    solve = poisson(n)
    fields, new = (np.einsum("skl,ki,lj->sij", rng.random((s, 10, 10)), modes, modes) for s in (60, 20))
    errors = []
    for terms in (2, 4, 6):
        with pytest.warns(IdentifiabilityWarning, match="span 10 and 10 dimensions"):
            found = fit_kronecker(fields, solve(fields), terms=terms, rng=0)
        errors.append(relative(found.predict(new), solve(new)))
    assert errors[0] < 0.1
    assert errors[1] < 2e-3
    assert errors[2] < 2e-5
    assert found.dimensions == (10, 10)
    assert found.outside == pytest.approx(1 - 100 / n**2)
    # outside the span it is zero
    rough = rng.standard_normal((5, n, n))
    assert relative(found.predict(rough), solve(rough)) > 0.05


def test_few_white_fields_and_many_terms_do_not_lead_astray(rng):
    solve = poisson(16)
    fields, new = rng.standard_normal((60, 16, 16)), rng.standard_normal((20, 16, 16))
    assert relative(fit_kronecker(fields, solve(fields), terms=4, rng=0).predict(new), solve(new)) < 5e-3


def test_a_ridge_helps_against_noise(rng):
    n, solve = 12, poisson(12)
    fields, new = rng.standard_normal((8, n, n)), rng.standard_normal((20, n, n))
    exact = solve(fields)
    noisy = exact + 0.3 * np.sqrt(np.mean(exact**2)) * rng.standard_normal(exact.shape)
    errors = [
        relative(fit_kronecker(fields, noisy, terms=3, ridge=ridge, rng=0).predict(new), solve(new))
        for ridge in (0.0, 0.5)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_zero_outputs(rng):
    assert np.all(
        fit_kronecker(rng.standard_normal((5, 4, 4)), np.zeros((5, 4, 4)), terms=1).predict(np.ones((4, 4))) == 0
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": np.ones((5, 4))}, sm.ShapeError, r"inputs must be fields \(samples, n1, n2\)"),
        ({"outputs": np.ones((4, 6, 6))}, sm.ShapeError, "inputs has 5 samples, but outputs has 4"),
        ({"inputs": np.full((5, 6, 6), np.nan)}, sm.NonFiniteError, "inputs must be finite"),
        ({"inputs": np.ones((5, 6, 6)) + 0j}, TypeError, "inputs must be real"),
        ({"inputs": np.zeros((5, 6, 6))}, sm.TooFewSamplesError, "inputs is zero"),
        ({"terms": 0}, ValueError, "terms must be at least 1"),
        ({"terms": 9}, sm.TooFewSamplesError, "5 outputs hold 180 numbers, but 9 terms have 648 unknowns"),
        ({"ridge": -1}, ValueError, "ridge must be"),
    ],
)
def test_bad_arguments_are_named(change, error, message, rng):
    arguments = {"inputs": rng.standard_normal((5, 6, 6)), "outputs": rng.standard_normal((5, 6, 6)), "terms": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)
        with pytest.raises(error, match=message):
            fit_kronecker(**{**arguments, **change})
