"""The condition number of an approximation: the bound that holds, and the published one that does not.

Theorem 1(c) of "Adaptive error-bounded hierarchical matrices for efficient neural network compression" claims
kappa(H) <= kappa(A) (1 + e / (s_min - e)) for an error ||A - H||_2 = e < s_min. Weyl's inequalities give
kappa(H) <= (s_max + e) / (s_min - e), which is larger: e also makes the largest singular value larger.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import structmat as sm
from tests.hmatrix.fixed import exponential, singular


def condition_bound(largest, smallest, error):
    return (largest + error) / (smallest - error)


def claimed_bound(largest, smallest, error):
    return largest / smallest * (1.0 + error / (smallest - error))


def test_the_claimed_bound_has_a_counterexample():
    a, error = np.diag([10.0, 1.0]), 0.5
    h = np.diag([10.5, 0.5])
    assert np.linalg.norm(a - h, 2) == error
    assert np.linalg.cond(h) == pytest.approx(21.0)
    assert claimed_bound(10.0, 1.0, error) == pytest.approx(20.0)
    assert condition_bound(10.0, 1.0, error) == pytest.approx(21.0)  # attained


@given(st.integers(1, 8), st.floats(0.0, 0.99), st.floats(0.0, 6.0), st.integers(0, 2**32 - 1), st.booleans())
def test_the_bound_holds(n, share, digits, seed, is_complex):
    rng = np.random.default_rng(seed)
    a, e = (rng.standard_normal((n, n)) + 1j * is_complex * rng.standard_normal((n, n)) for _ in range(2))
    a = a @ np.diag(10.0 ** rng.uniform(-digits, 0.0, n))
    values = np.linalg.svd(a, compute_uv=False)
    error = share * values[-1]
    h = a + e * (error / np.linalg.norm(e, 2))
    rounding = 1e-14 * values[0] * n  # of the singular values themselves
    if values[-1] - error <= 10.0 * rounding:
        return
    assert np.linalg.cond(h) <= condition_bound(values[0], values[-1], error + rounding) * (1.0 + 1e-10)


@given(st.floats(0.01, 0.99), st.floats(0.0, 3.0))
def test_the_bound_is_attained_and_the_claim_always_broken(share, digits):
    largest, smallest = 10.0**digits, 1.0
    error = share * smallest
    worst = np.linalg.cond(np.diag([largest + error, smallest - error]))
    assert worst == pytest.approx(condition_bound(largest, smallest, error))
    assert worst > claimed_bound(largest, smallest, error)


@pytest.mark.parametrize("make", [singular, exponential])
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8])
def test_the_bound_holds_for_adaptive_matrices(make, rtol):
    a = make(256)
    h = sm.HMatrix.adaptive(a, rtol=rtol)
    values = np.linalg.svd(a, compute_uv=False)
    # the Frobenius norm of the certificate bounds the 2-norm
    error = h.certificate.upper_bound * np.linalg.norm(a)
    if error >= values[-1]:
        error = float(np.linalg.norm(a - h.to_dense(), 2))
    if error < values[-1]:
        assert np.linalg.cond(h.to_dense()) <= condition_bound(values[0], values[-1], error) * (1.0 + 1e-8)
    else:
        assert rtol > 1e-8  # only the coarsest leave nothing to bound
