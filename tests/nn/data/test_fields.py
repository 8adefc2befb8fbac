"""Laws of the random inputs."""

import numpy as np
import pytest

from structmat import NonFiniteError, ShapeError
from structmat_nn.data.fields import gaussian_random_field, scaled_to_one, sine_series, white_noise

BOUNDARIES = ("dirichlet", "neumann", "periodic")


def test_sine_series_sums_its_terms(rng):
    x, c = rng.random(7), rng.random((3, 2))
    expected = c[:, :1] * np.sin(np.pi * x) + c[:, 1:] * np.sin(4 * np.pi * x)
    np.testing.assert_allclose(sine_series(c, x, [1, 4]), expected)
    with pytest.raises(ShapeError, match="one wave number for each coefficient"):
        sine_series(c, x, [1, 2, 3])
    with pytest.raises(NonFiniteError, match="coefficients"):
        sine_series([np.nan], x, [1])


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [64, (16, 12), (8, 6, 10)])
def test_fields_have_unit_mean_square_and_follow_their_seed(boundary, size):
    fields = gaussian_random_field(400, size, boundary=boundary, length_scale=0.2, rng=1)
    assert fields.shape == (400, *((size,) if isinstance(size, int) else size))
    assert (fields**2).mean() == pytest.approx(1, abs=0.2)
    np.testing.assert_array_equal(fields, gaussian_random_field(400, size, boundary=boundary, length_scale=0.2, rng=1))
    assert abs(fields - gaussian_random_field(400, size, boundary=boundary, length_scale=0.2, rng=2)).max() > 1
    if boundary != "dirichlet":
        assert abs(fields.reshape(400, -1).mean(axis=1)).max() < 1e-12


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_covariance_is_that_of_the_definition(boundary):
    """(1 - l^2 Laplacian)^-s with the Laplacian of the boundary condition, by an average over many fields."""
    size, length, smoothness = 24, 0.15, 2.0
    if boundary == "dirichlet":
        modes, x = np.arange(1, size + 1), np.arange(1, size + 1) / (size + 1)
        basis, waves = np.sin(np.pi * np.outer(modes, x)), np.pi * modes
    elif boundary == "neumann":
        modes, x = np.arange(1, size), (np.arange(size) + 0.5) / size
        basis, waves = np.cos(np.pi * np.outer(modes, x)), np.pi * modes
    else:
        modes, x = np.arange(1, size // 2 + 1), np.arange(size) / size
        basis = np.concatenate([np.cos(2 * np.pi * np.outer(modes, x)), np.sin(2 * np.pi * np.outer(modes[:-1], x))])
        waves = 2 * np.pi * np.concatenate([modes, modes[:-1]])
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    expected = (basis.T * (1 + (length * waves) ** 2) ** -smoothness) @ basis
    expected *= size / np.trace(expected)
    fields = gaussian_random_field(20000, size, boundary=boundary, length_scale=length, smoothness=smoothness, rng=0)
    found = fields.T @ fields / len(fields)
    assert np.linalg.norm(found - expected) < 0.04 * np.linalg.norm(expected)


def test_white_noise_is_uncorrelated():
    noise = white_noise(20000, 8, rng=0)
    np.testing.assert_allclose(noise.T @ noise / 20000, np.eye(8), atol=0.05)


def test_a_largest_value_of_one():
    assert (abs(scaled_to_one(np.array([[1.0, -4.0], [0.5, 0.1]]))).max(axis=1) == 1).all()
    with pytest.raises(ValueError, match="zero throughout \\(number 1\\)"):
        scaled_to_one(np.array([[1.0], [0.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boundary": "robin"}, "boundary must be one of"),
        ({"length_scale": 0.0}, "length_scale must be"),
        ({"smoothness": np.inf}, "smoothness must be"),
        ({"size": ()}, "at least one axis"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": 1, "boundary": "periodic"}, "without its mean"),
        ({"samples": 0}, "samples must be at least 1"),
    ],
)
def test_fields_name_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_random_field(**{"samples": 2, "size": 8, **options})
