r"""Convection and diffusion, :math:`-u'' + c u' = f` on the unit interval: a linear operator that is not symmetric."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from structmat import ShapeError
from structmat._typing import NumpyArray

from .dataset import TEST_SETS, DataSet, Pairs, Parts, Recipe, Settings, Size
from .fields import gaussian_random_field, sine_series, white_noise
from .poisson1d import check_train_on, pairs_by_part

__all__ = ["CONVECTION_DIFFUSION_1D", "solve_convection_diffusion1d"]


def solve_convection_diffusion1d(forcing: Any, *, convection: float, adjoint: bool = False) -> NumpyArray:
    """Solve with zeros at the ends by central differences of the second order.

    Parameters
    ----------
    forcing : array_like of shape (..., n), n >= 2
        f at the interior points ``j / (n + 1)``, j = 1..n.
    convection : float
        The factor c of the first derivative.
    adjoint : bool, default False
        Solve with the transposed matrix, which is the matrix for ``-convection``.

    Returns
    -------
    ndarray of shape (..., n)

    Raises
    ------
    ShapeError
        If there are fewer than 2 points.

    Notes
    -----
    Cost: O(n) for each forcing.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.convection import solve_convection_diffusion1d
    >>> f, g = np.random.default_rng(0).standard_normal((2, 50))
    >>> u = solve_convection_diffusion1d(f, convection=20.0)
    >>> v = solve_convection_diffusion1d(g, convection=20.0, adjoint=True)
    >>> bool(np.isclose(g @ u, v @ f))
    True
    """
    forcing = np.asarray(forcing, dtype=np.float64)
    points = forcing.shape[-1] if forcing.ndim else 0
    if points < 2:
        raise ShapeError(f"forcing must have at least 2 points on its last axis, but its shape is {forcing.shape}")
    half = 0.5 * (-convection if adjoint else convection) / (points + 1)  # c h / 2
    bands = np.empty((3, points))  # h^2 times the matrix
    bands[0], bands[1], bands[2] = half - 1.0, 2.0, -half - 1.0
    right = forcing.reshape(-1, points).T / (points + 1) ** 2
    return np.ascontiguousarray(scipy.linalg.solve_banded((1, 1), bands, right).T).reshape(forcing.shape)


def _check(size: Size, settings: Settings) -> None:
    check_train_on(size, settings)
    if isinstance(settings["convection"], bool) or not isinstance(settings["convection"], (int, float)):
        raise ValueError(f"convection must be a number, but it is {settings['convection']!r}")


def _points(size: Size) -> NumpyArray:
    return np.arange(1, size[0] + 1) / (size[0] + 1)


def _generate(part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings) -> dict[str, NumpyArray]:
    trained = part in ("train", "validation") and settings["train_on"] == "white noise"
    if part in ("white noise", "adjoint") or trained:
        forcing = white_noise(count, size, rng=rng)
    else:
        modes = np.arange(11, 21) if part == "out of span" else np.arange(1, 11)
        forcing = sine_series(rng.uniform(0.0, 1.0, (count, 10)), _points(size), 2 * modes)
        if part == "out of span" and count > 1:
            forcing[1::2] = gaussian_random_field(count // 2, size, length_scale=0.05, smoothness=4.0, rng=rng)
    solution = solve_convection_diffusion1d(forcing, convection=settings["convection"], adjoint=part == "adjoint")
    return {"inputs": forcing, "outputs": solution}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    return DataSet(
        name,
        **pairs_by_part(parts),
        grid=(_points(size),),
        settings=dict(settings),
        symmetric=settings["convection"] == 0,
        adjoint=Pairs(parts["adjoint"]["inputs"], parts["adjoint"]["outputs"]),
    )


CONVECTION_DIFFUSION_1D = Recipe(
    name="convection-diffusion1d",
    equation="-u'' + convection u' = f on (0, 1), u = 0 at the ends",
    generate=_generate,
    assemble=_assemble,
    size=(256,),
    samples={"train": 200, "validation": 100, **dict.fromkeys(TEST_SETS, 200), "adjoint": 200},
    settings={"convection": 20.0, "train_on": "white noise"},
    check=_check,
)
