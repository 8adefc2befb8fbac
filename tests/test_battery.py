"""All checks over all cases."""

from functools import cache

import numpy as np
import pytest

import structmat as sm
from structmat.testing import CHECKS, Case, check_structured_matrix, random_hss
from tests import cases


@cache
def instance(name):
    matrix, dense, tolerance = cases.build(name)
    return Case(matrix, dense, tolerance, seed=len(name))


PAIRS = [(name, check) for name in cases.BUILDERS for check in CHECKS]


@pytest.mark.parametrize(("name", "check"), PAIRS, ids=[f"{check}-{name}" for name, check in PAIRS])
def test_battery(name, check):
    case = instance(name)
    reason = CHECKS[check].reason_to_skip(case)
    if reason is None:  # thousands of skips would hide the few that matter
        CHECKS[check](case)


def test_the_battery_finds_a_wrong_matrix(rng):
    matrix, dense = random_hss(rng, sm.ClusterTree.balanced(40, 7), 3)
    check_structured_matrix(matrix, dense)
    wrong = dense.copy()
    wrong[3, 30] += 1e-10
    with pytest.raises(AssertionError, match="product_with_a_vector") as caught:
        check_structured_matrix(matrix, wrong)
    for name in ("adjoint_test", "file_round_trip", "bad_indices"):
        assert name not in str(caught.value), "a check blames the wrong thing"


def test_the_battery_finds_a_missing_conjugate(rng):
    matrix, dense = random_hss(rng, sm.ClusterTree.balanced(40, 7), 3, np.complex128)
    with pytest.raises(AssertionError, match="product_with_the_adjoint"):
        check_structured_matrix(matrix, dense.conj())
