"""The array libraries of the `xp` fixture carry values there and back unchanged."""

import numpy as np
import pytest


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128, np.int64])
def test_values_survive_the_round_trip(xp, rng, dtype):
    values = (10 * rng.standard_normal((3, 4))).astype(dtype)
    returned = xp.to_numpy(xp.asarray(values))
    assert returned.dtype == dtype
    np.testing.assert_array_equal(returned, values)


def test_arrays_are_made_by_the_namespace_of_the_library(xp):
    assert type(xp.asarray(np.ones(2))) is type(xp.namespace.ones(2))


def test_arrays_share_no_memory_with_their_source(xp):
    values = np.ones(3)
    array = xp.asarray(values)
    values[0] = 5.0
    np.testing.assert_array_equal(xp.to_numpy(array), np.ones(3))
