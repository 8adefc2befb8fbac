"""Right-hand sides on the unit square and cube, at the points i / n: products of sines, white noise, random fields."""

from __future__ import annotations

from typing import Any

import numpy as np

from structmat import ShapeError
from structmat._check import finite
from structmat._typing import NumpyArray

from .dataset import TEST_SETS, Pairs, Parts
from .fields import gaussian_random_field

__all__ = ["axis_points", "random_field", "random_sines", "sine_products"]

# Beside the modes in the test set "out of span": smooth enough that the training grid resolves them.
_FIELD = {"length_scale": 0.05, "smoothness": 4.0}


def axis_points(n: int) -> NumpyArray:
    """The points i / n, i = 0..n-1, of an axis."""
    return np.arange(n) / n


def sine_products(coefficients: Any, wave_numbers: Any, n: int) -> NumpyArray:
    r"""Sums of products of sines on the unit square or cube.

    In two dimensions :math:`\sum_{ab} c_{ab} \sin(\pi k_a x) \sin(\pi m_b y)`, where each sample has its own wave
    numbers k on the first axis and m on the second.

    Parameters
    ----------
    coefficients : array_like of shape (samples, terms, ..., terms)
        One axis of terms for each dimension.
    wave_numbers : array_like of shape (samples, dimension, terms)
        Half periods on the unit interval.
    n : int
        Points i / n on each axis.

    Returns
    -------
    ndarray of shape (samples, n, ..., n)

    Raises
    ------
    ShapeError
        If the two do not fit together.

    Notes
    -----
    Cost: O(samples x terms x n^d), one product of matrices for each axis.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.cube_inputs import sine_products
    >>> field = sine_products(np.full((1, 1, 1), 3.0), [[[1], [2]]], 4)
    >>> float(field[0, 2, 1])
    3.0
    """
    field = np.asarray(coefficients, dtype=np.float64)
    waves = np.asarray(wave_numbers, dtype=np.float64)
    dimension = field.ndim - 1
    if waves.ndim != 3 or field.shape != (waves.shape[0], *(waves.shape[2],) * waves.shape[1]):
        raise ShapeError(
            f"coefficients must have shape (samples, terms, ..., terms) and wave_numbers (samples, dimension, terms), "
            f"but their shapes are {field.shape} and {waves.shape}"
        )
    finite(field, "coefficients")
    samples, _, terms = waves.shape
    bases = np.sin(np.pi * waves[..., None] * axis_points(n))  # (samples, dimension, terms, n)
    for axis in range(dimension):
        # the first axis of terms leaves, and its points join at the end
        field = field.reshape(samples, terms, -1).swapaxes(1, 2) @ bases[:, axis]
    return field.reshape(samples, *(n,) * dimension)


def random_sines(
    count: int, dimension: int, terms: int, waves: tuple[int, int, int], n: int, rng: np.random.Generator
) -> NumpyArray:
    """Sums of terms^d products of sines, coefficients from U(0, 1), with as many wave numbers drawn for each axis.

    The wave numbers, in half periods, are drawn with replacement from `waves`: first, last (included), step.
    Returns (count, n, ..., n).
    """
    first, last, step = waves
    wave_numbers = rng.choice(np.arange(first, last + 1, step), (count, dimension, terms))
    return sine_products(rng.uniform(0.0, 1.0, (count, *(terms,) * dimension)), wave_numbers, n)


def random_field(count: int, dimension: int, boundary: str, n: int, rng: np.random.Generator) -> NumpyArray:
    """Gaussian random fields at the points i / n, zero on the boundary ("dirichlet") or "periodic"."""
    if boundary == "periodic":
        return gaussian_random_field(count, (n,) * dimension, boundary=boundary, rng=rng, **_FIELD)
    field = np.zeros((count, *(n,) * dimension))
    inner = (slice(None), *(slice(1, None),) * dimension)
    field[inner] = gaussian_random_field(count, (n - 1,) * dimension, boundary=boundary, rng=rng, **_FIELD)
    return field


def draw_forcing(
    part: str,
    count: int,
    rng: np.random.Generator,
    n: int,
    *,
    terms: int,
    spans: tuple[tuple[int, int, int], tuple[int, int, int]],
    boundary: str,
    dimension: int = 2,
) -> NumpyArray:
    """The forcings of a part (but "white noise"): sines, or "out of span" other sines and random fields in turns."""
    inside, outside = spans
    forcing = random_sines(count, dimension, terms, outside if part == "out of span" else inside, n, rng)
    if part == "out of span" and count > 1:
        forcing[1::2] = random_field(count // 2, dimension, boundary, n, rng)
    return forcing


def pairs_by_part(parts: Parts) -> dict[str, Any]:
    """The arguments train, validation, tests and adjoint of a `DataSet`, from the arrays of each part."""
    pairs = {part: Pairs(arrays["inputs"], arrays["outputs"]) for part, arrays in parts.items()}
    return {
        "train": pairs["train"],
        "validation": pairs["validation"],
        "tests": {test: pairs[test] for test in TEST_SETS},
        "adjoint": pairs.get("adjoint"),
    }
