"""Random inputs: sine series, white noise, Gaussian random fields in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft

from structmat import ShapeError
from structmat._check import finite, generator, positive_integer
from structmat._typing import NumpyArray, RandomLike

__all__ = ["gaussian_random_field", "scaled_to_one", "sine_series", "white_noise"]

_BOUNDARIES = ("dirichlet", "neumann", "periodic")


def sine_series(coefficients: Any, points: Any, wave_numbers: Any) -> NumpyArray:
    r"""Sums of sines, :math:`\sum_k c_k \sin(\pi m_k x)`.

    Parameters
    ----------
    coefficients : array_like of shape (..., terms)
        One series for each row.
    points : array_like of shape (n,)
        Where they are evaluated.
    wave_numbers : array_like of shape (terms,)
        The :math:`m_k`: half periods on the unit interval.

    Returns
    -------
    ndarray of shape (..., n)

    Raises
    ------
    ShapeError
        If there is not one wave number for each coefficient of a row.

    Notes
    -----
    Cost: O(rows x terms x n).

    Examples
    --------
    >>> from structmat_nn.data.fields import sine_series
    >>> sine_series([1.0, 0.5], [0.0, 0.5, 1.0], [1, 3]).round(3) + 0.0
    array([0. , 0.5, 0. ])
    """
    coefficients = np.asarray(coefficients, dtype=np.float64)
    points = np.asarray(points, dtype=np.float64)
    wave_numbers = np.asarray(wave_numbers, dtype=np.float64)
    if coefficients.shape[-1:] != wave_numbers.shape:
        raise ShapeError(
            f"coefficients has rows of shape {coefficients.shape[-1:]}, but wave_numbers has shape "
            f"{wave_numbers.shape}; give one wave number for each coefficient"
        )
    finite(coefficients, "coefficients")
    return row_products(coefficients, np.sin(np.pi * np.outer(wave_numbers, points)))


# rows of a product that are computed together
ROWS = 32


def row_products(a: NumpyArray, b: NumpyArray) -> NumpyArray:
    """A @ b, (..., k) and (k, n), so that a row does not depend on how many others there are, to the last bit.

    BLAS sums in another order for another number of rows: they are multiplied in groups of one size.
    """
    rows = a.reshape(-1, a.shape[-1])
    padded = np.zeros((-(-len(rows) // ROWS), ROWS, a.shape[-1]), dtype=rows.dtype)
    padded.reshape(-1, a.shape[-1])[: len(rows)] = rows
    return (padded @ b).reshape(-1, b.shape[1])[: len(rows)].reshape(*a.shape[:-1], b.shape[1])


def white_noise(samples: int, size: int | tuple[int, ...], *, rng: RandomLike = None) -> NumpyArray:
    """Independent standard normal numbers at all points.

    Parameters
    ----------
    samples : int
        Number of fields.
    size : int or tuple of int
        Points on each axis.
    rng : int, Generator, SeedSequence or None
        Source of the numbers.

    Returns
    -------
    ndarray of shape ``(samples, *size)``

    Examples
    --------
    >>> from structmat_nn.data.fields import white_noise
    >>> white_noise(3, (4, 5), rng=0).shape
    (3, 4, 5)
    """
    return generator(rng).standard_normal((positive_integer(samples, "samples"), *_size(size)))


def gaussian_random_field(
    samples: int,
    size: int | tuple[int, ...],
    *,
    boundary: str = "dirichlet",
    length_scale: float = 0.1,
    smoothness: float = 2.0,
    rng: RandomLike = None,
) -> NumpyArray:
    r"""Smooth Gaussian fields on the unit cube, by fast sine, cosine or Fourier transforms.

    The covariance is :math:`(1 - \ell^2 \Delta)^{-s}` with the Laplacian of the boundary condition, scaled such that
    the mean square over the points is 1 on average.

    Parameters
    ----------
    samples : int
        Number of fields.
    size : int or tuple of int
        Points on each axis, in any number of dimensions.
    boundary : {"dirichlet", "neumann", "periodic"}
        ``"dirichlet"``: zero on the boundary, at the interior points j/(n+1), j = 1..n. ``"neumann"``: at the cell
        centres (j + 1/2)/n. ``"periodic"``: at j/n. The last two have zero mean.
    length_scale : float, default 0.1
        The correlation length, in units of the side.
    smoothness : float, default 2
        The exponent s; fields are rough unless it exceeds half the dimension.
    rng : int, Generator, SeedSequence or None
        Source of the numbers.

    Returns
    -------
    ndarray of shape ``(samples, *size)``

    Notes
    -----
    Cost: O(samples x points x log points).

    Examples
    --------
    >>> from structmat_nn.data.fields import gaussian_random_field
    >>> field = gaussian_random_field(50, (32, 32), boundary="periodic", rng=0)
    >>> field.shape, bool(abs(field.mean()) < 1e-12), bool(0.5 < (field**2).mean() < 2)
    ((50, 32, 32), True, True)
    """
    if boundary not in _BOUNDARIES:
        raise ValueError(f"boundary must be one of {', '.join(_BOUNDARIES)}, but it is {boundary!r}")
    for name, value in (("length_scale", length_scale), ("smoothness", smoothness)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a finite number > 0, but it is {value!r}")
    noise = white_noise(samples, size, rng=rng)
    amplitudes = _amplitudes(noise.shape[1:], boundary, float(length_scale), float(smoothness))
    forward, backward = _TRANSFORMS[boundary]
    axes = tuple(range(1, noise.ndim))
    return np.ascontiguousarray(np.real(backward(forward(noise, axes) * amplitudes, axes)))


def scaled_to_one(values: NumpyArray) -> NumpyArray:
    """Each sample divided by its largest absolute value.

    Parameters
    ----------
    values : ndarray of shape ``(samples, *size)``
        No sample may be zero throughout.

    Returns
    -------
    ndarray of shape ``(samples, *size)``

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.fields import scaled_to_one
    >>> scaled_to_one(np.array([[1.0, -4.0]]))
    array([[ 0.25, -1.  ]])
    """
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    if not largest.all():
        raise ValueError(f"values has a sample that is zero throughout (number {int(np.argmin(largest))})")
    return values / largest


Transform = Callable[[NumpyArray, tuple[int, ...]], NumpyArray]
# Orthonormal, so that white noise stays white in the coefficients.
_TRANSFORMS: dict[str, tuple[Transform, Transform]] = {
    "dirichlet": (
        lambda values, axes: scipy.fft.dstn(values, type=1, axes=axes, norm="ortho"),
        lambda values, axes: scipy.fft.idstn(values, type=1, axes=axes, norm="ortho"),
    ),
    "neumann": (
        lambda values, axes: scipy.fft.dctn(values, type=2, axes=axes, norm="ortho"),
        lambda values, axes: scipy.fft.idctn(values, type=2, axes=axes, norm="ortho"),
    ),
    "periodic": (
        lambda values, axes: scipy.fft.fftn(values, axes=axes, norm="ortho"),
        lambda values, axes: scipy.fft.ifftn(values, axes=axes, norm="ortho"),
    ),
}


@lru_cache(maxsize=16)
def _amplitudes(size: tuple[int, ...], boundary: str, length_scale: float, smoothness: float) -> NumpyArray:
    """Square roots of the eigenvalues of the covariance, with mean square 1."""
    squares = np.zeros(size)  # |wave vector|^2
    for axis, points in enumerate(size):
        if boundary == "dirichlet":
            waves = np.pi * np.arange(1, points + 1)
        elif boundary == "neumann":
            waves = np.pi * np.arange(points)
        else:
            waves = 2 * np.pi * scipy.fft.fftfreq(points, 1 / points)
        squares += (waves**2).reshape([-1 if k == axis else 1 for k in range(len(size))])
    amplitudes = (1 + length_scale**2 * squares) ** (-smoothness / 2)
    if boundary != "dirichlet":
        if amplitudes.size == 1:
            raise ValueError(f"a {boundary} field without its mean is zero on one point; give size more than 1 point")
        amplitudes.flat[0] = 0.0  # no mean
    amplitudes /= np.sqrt((amplitudes**2).mean())
    amplitudes.flags.writeable = False  # shared by all callers
    return amplitudes


def _size(size: int | tuple[int, ...]) -> tuple[int, ...]:
    axes = size if isinstance(size, (tuple, list)) else (size,)
    if not axes:
        raise ShapeError("size must have at least one axis, but it is empty")
    return tuple(positive_integer(points, "size") for points in axes)
