r"""The Helmholtz equation :math:`-\Delta u - \kappa^2 u = f` on the periodic unit square, solved by Fourier modes."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from structmat._check import positive_number
from structmat._typing import NumpyArray

from .compact import check_grid_values, in_chunks
from .cube_inputs import axis_points, draw_forcing, pairs_by_part
from .dataset import TEST_SETS, DataSet, Parts, Recipe, Settings, Size
from .poisson2d import check_square, is_white, wave_spans

__all__ = ["HELMHOLTZ_2D", "HELMHOLTZ_2D_INDEFINITE", "solve_helmholtz2d"]

# The sums of two squares nearest to 93.5 are 90 and 97, the widest gap below 200: no mode is close to resonance.
INDEFINITE_WAVE_NUMBER = 2.0 * math.pi * math.sqrt(93.5)


def solve_helmholtz2d(forcing: NumpyArray, wave_number: float) -> NumpyArray:
    r"""Solve :math:`-\Delta u - \kappa^2 u = f`, periodic on the unit square, for many right-hand sides at once.

    Parameters
    ----------
    forcing : array_like of shape (..., n, n)
        Values at the points i / n.
    wave_number : float
        :math:`\kappa`.

    Returns
    -------
    ndarray of shape (..., n, n)

    Raises
    ------
    ValueError
        If a mode of the grid is resonant: :math:`4 \pi^2 (j^2 + k^2) = \kappa^2` to ten digits.
    ShapeError, NonFiniteError
        If the forcing is not square, or holds NaN or Inf.

    Notes
    -----
    Exact on the trigonometric polynomials of the grid, so there is no discretisation error to move an eigenvalue
    across zero. Cost: O(n^2 log n) for each forcing.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.helmholtz import solve_helmholtz2d
    >>> wave = np.cos(2 * np.pi * np.arange(16) / 16) * np.ones((16, 1))
    >>> bool(np.allclose(solve_helmholtz2d((4 * np.pi**2 - 100.0) * wave, 10.0), wave))
    True
    """
    forcing, n = check_grid_values(forcing, 2, "forcing")
    symbol = 1.0 / _eigenvalues(n, wave_number)  # (n, n // 2 + 1)

    def solve(chunk: NumpyArray) -> NumpyArray:
        return scipy.fft.irfft2(scipy.fft.rfft2(chunk) * symbol, s=(n, n))

    return in_chunks(solve, forcing, 2)


def _eigenvalues(n: int, wave_number: float) -> NumpyArray:
    wave_number = positive_number(wave_number, "wave_number")
    squares = np.fft.fftfreq(n, 1 / n)[:, None] ** 2 + np.fft.rfftfreq(n, 1 / n) ** 2
    values = 4.0 * np.pi**2 * squares - wave_number**2
    if np.abs(values).min() < 1e-10 * wave_number**2:
        count = round(float(squares.flat[np.argmin(np.abs(values))]))
        raise ValueError(
            f"wave_number {wave_number!r} is resonant: the modes with j^2 + k^2 = {count} have no solution; change it"
        )
    return values


def _generate(part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings) -> dict[str, NumpyArray]:
    n = size[0]
    if is_white(part, settings):
        inputs = rng.standard_normal((count, *size))
    else:
        inputs = draw_forcing(part, count, rng, n, terms=10, spans=wave_spans(n, False), boundary="periodic")
    return {"inputs": inputs, "outputs": solve_helmholtz2d(inputs, settings["wave_number"])}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    return DataSet(
        name, **pairs_by_part(parts), grid=(axis_points(size[0]),) * 2, settings=dict(settings), symmetric=True
    )


def _check(size: Size, settings: Settings) -> None:
    check_square(size, settings)
    _eigenvalues(size[0], settings["wave_number"])


def _recipe(name: str, wave_number: float) -> Recipe:
    return Recipe(
        name=name,
        equation="-Lap u - kappa^2 u = f, periodic on the unit square",
        generate=_generate,
        assemble=_assemble,
        size=(64, 64),
        samples={"train": 2250, "validation": 250, **dict.fromkeys(TEST_SETS, 250)},
        settings={"wave_number": wave_number, "train_on": "sines"},
        check=_check,
    )


HELMHOLTZ_2D = _recipe("helmholtz2d", 70.0)
HELMHOLTZ_2D_INDEFINITE = _recipe("helmholtz2d-indefinite", INDEFINITE_WAVE_NUMBER)
