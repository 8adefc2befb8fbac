"""Certificates of builds from dense arrays are bounds, whatever the size and also where ranks are capped."""

import warnings

import numpy as np
import pytest

import structmat as sm


@pytest.mark.parametrize("format_", [sm.HODLRMatrix, sm.HMatrix])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("options", [{"rtol": 1e-8}, {"rtol": 1e-13}, {"rtol": 1e-8, "max_rank": 2}])
def test_the_bound_holds_and_is_sharp(rng, format_, symmetric, options):
    x = np.sort(rng.random(700))
    check(format_, 1.0 / (np.abs(np.subtract.outer(x, x)) + 0.01), symmetric, options)


def test_a_capped_build_of_a_large_array_says_so(rng):
    x = np.sort(rng.random(4200))
    a = 1.0 / (np.abs(np.subtract.outer(x, x)) + 0.01)
    assert not check(sm.HODLRMatrix, a, True, {"rtol": 1e-8, "max_rank": 2}).met


def check(format_, a, symmetric, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.AccuracyWarning)
        matrix = format_.from_dense(a, symmetric=symmetric, **options)
    error, c = np.linalg.norm(matrix.to_dense() - a) / np.linalg.norm(a), matrix.certificate
    assert error <= c.upper_bound <= 1.01 * error + 64 * np.finfo(float).eps
    assert c.met == (c.upper_bound <= c.asked)
    assert c.met == ("max_rank" not in options)
    return c
