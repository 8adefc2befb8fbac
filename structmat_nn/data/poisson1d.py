r"""The Poisson equation :math:`-u'' = f` on the unit interval, with Dirichlet and with Neumann ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

from structmat import ShapeError
from structmat._typing import NumpyArray

from .dataset import TEST_SETS, DataSet, Pairs, Parts, Recipe, Settings, Size
from .fields import gaussian_random_field, sine_series, white_noise
from .interval import check_refinement, fine_points, poisson_on_training_grid, thin, training_points

__all__ = ["POISSON_1D", "POISSON_1D_NEUMANN", "lift_dirichlet", "solve_poisson1d", "solve_poisson1d_neumann"]

# Fields beside the modes in the test set "out of span": smooth enough that the training grid resolves them.
_FIELD: dict[str, Any] = {"length_scale": 0.05, "smoothness": 4.0}


def solve_poisson1d(forcing: Any, *, boundary: tuple[float, float] = (0.0, 0.0)) -> NumpyArray:
    """Solve on a uniform grid by differences of the fourth order, of the second next to the ends.

    Parameters
    ----------
    forcing : array_like of shape (..., n), n >= 6
        f on ``linspace(0, 1, n)``; its values at the two ends have no effect.
    boundary : tuple of two floats
        u(0) and u(1).

    Returns
    -------
    ndarray of shape (..., n)

    Raises
    ------
    ShapeError
        If there are fewer than 6 points.

    Notes
    -----
    The error is of the fourth order: the two rows of the second order stand next to the ends, where Green's function
    is of the size of the spacing. Cost: O(n) for each forcing, by a banded factorisation.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.poisson1d import solve_poisson1d
    >>> x = np.linspace(0, 1, 101)
    >>> bool(np.allclose(solve_poisson1d(2 * np.ones(101)), x * (1 - x)))
    True
    """
    forcing = np.asarray(forcing, dtype=np.float64)
    points = forcing.shape[-1] if forcing.ndim else 0
    if points < 6:
        raise ShapeError(f"forcing must have at least 6 points on its last axis, but its shape is {forcing.shape}")
    inner = points - 2
    bands = np.zeros((5, inner))  # diagonals +2, +1, 0, -1, -2 of 12 h^2 (-d^2/dx^2)
    bands[0, 3:] = 1.0
    bands[1, 2:], bands[1, 1] = -16.0, -12.0
    bands[2, 1:-1], bands[2, [0, -1]] = 30.0, 24.0
    bands[3, :-2], bands[3, -2] = -16.0, -12.0
    bands[4, :-3] = 1.0
    right = 12.0 * forcing[..., 1:-1].reshape(-1, inner).T / (points - 1) ** 2
    solution = np.zeros(forcing.shape)
    solution[..., 1:-1] = scipy.linalg.solve_banded((2, 2), bands, right).T.reshape(*forcing.shape[:-1], inner)
    # The line between the end values solves the homogeneous equation, of the differences too.
    return solution + lift_dirichlet(np.linspace(0.0, 1.0, points), *boundary)


def lift_dirichlet(points: Any, left: Any, right: Any) -> NumpyArray:
    """The straight line with given values at the ends: what turns zero end values into these.

    The solution with the values `left` and `right` at the ends is this line plus the solution with zeros. So a model
    of the homogeneous problem serves all end values: subtract the line from the outputs, train, add it again.

    Parameters
    ----------
    points : array_like of shape (n,)
        Points of the unit interval.
    left, right : array_like of the same shape (...)
        u(0) and u(1): numbers, or arrays with one pair for each sample.

    Returns
    -------
    ndarray of shape (..., n)

    Examples
    --------
    >>> from structmat_nn.data import lift_dirichlet
    >>> lift_dirichlet([0.0, 0.5, 1.0], 1.0, 3.0)
    array([1., 2., 3.])
    """
    points = np.asarray(points, dtype=np.float64)
    return np.multiply.outer(left, 1 - points) + np.multiply.outer(right, points)


def check_train_on(size: Size, settings: Settings) -> None:
    """The law of the training inputs is one of two."""
    if settings["train_on"] not in ("sines", "white noise"):
        raise ValueError(f"train_on must be 'sines' or 'white noise', but it is {settings['train_on']!r}")


def _check_dirichlet(size: Size, settings: Settings) -> None:
    check_refinement(size, settings["refinement"])
    check_train_on(size, settings)
    boundary = settings["boundary"]
    if boundary in (None, "random"):
        return
    numbers = isinstance(boundary, list) and all(isinstance(value, (int, float)) for value in boundary)
    if not numbers or len(boundary) != 2:
        raise ValueError(f"boundary must be None, 'random' or the values (u(0), u(1)), but it is {boundary!r}")


def _generate_dirichlet(
    part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings
) -> dict[str, NumpyArray]:
    refinement, white = settings["refinement"], settings["train_on"] == "white noise"
    if part == "white noise" or (white and part in ("train", "validation")):
        inputs = white_noise(count, size, rng=rng)
        outputs = poisson_on_training_grid(inputs, refinement)
    else:
        forcing = _forcing(part, count, rng, fine_points(size[0], refinement))
        forcing[:, [0, 1, -2, -1]] = 0.0
        inputs, outputs = thin(forcing, refinement), thin(solve_poisson1d(forcing), refinement)
    if settings["boundary"] is None:
        return {"inputs": inputs, "outputs": outputs}
    values = settings["boundary"]
    ends = rng.uniform(-0.1, 0.1, (count, 2)) if values == "random" else np.tile(values, (count, 1))
    line = lift_dirichlet(training_points(size[0], refinement), *ends.T)
    if values == "random":
        inputs = np.stack([inputs, line], axis=1)
    return {"inputs": inputs, "outputs": outputs + line}


def _forcing(part: str, count: int, rng: np.random.Generator, points: NumpyArray) -> NumpyArray:
    """Ten sines, or for the set out of span, other sines and Gaussian fields in turns."""
    modes = np.arange(11, 21) if part == "out of span" else np.arange(1, 11)
    forcing = sine_series(rng.uniform(0.0, 1.0, (count, 10)), points, 2 * modes)
    if part == "out of span" and count > 1:
        forcing[1::2, 1:-1] = gaussian_random_field(count // 2, len(points) - 2, rng=rng, **_FIELD)
    return forcing


def _assemble_dirichlet(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    return DataSet(
        name,
        **pairs_by_part(parts),
        grid=(training_points(size[0], settings["refinement"]),),
        settings=dict(settings),
        channels=(2, 1) if settings["boundary"] == "random" else (1, 1),
        symmetric=True if settings["boundary"] is None else None,
    )


def pairs_by_part(parts: Parts) -> dict[str, Any]:
    """The arguments train, validation and tests of a `DataSet`, from arrays ``inputs`` and ``outputs`` of each part."""
    pairs = {part: Pairs(arrays["inputs"], arrays["outputs"]) for part, arrays in parts.items()}
    return {
        "train": pairs["train"],
        "validation": pairs["validation"],
        "tests": {test: pairs[test] for test in TEST_SETS},
    }


SAMPLES = {"train": 1000, "validation": 200, **dict.fromkeys(TEST_SETS, 1000)}

POISSON_1D = Recipe(
    name="poisson1d",
    equation="-u'' = f on (0, 1), u given at the ends",
    generate=_generate_dirichlet,
    assemble=_assemble_dirichlet,
    size=(256,),
    samples=SAMPLES,
    settings={"refinement": 4, "boundary": None, "train_on": "sines"},
    check=_check_dirichlet,
)


def solve_poisson1d_neumann(forcing: Any) -> NumpyArray:
    """Solve with zero slopes at the ends, at cell centres, by differences of the second order.

    Parameters
    ----------
    forcing : array_like of shape (..., n), n >= 2
        f at ``(j + 1/2) / n``. Its mean, which no solution can balance, is taken out.

    Returns
    -------
    ndarray of shape (..., n)
        The solution of mean zero. The operator is the pseudo-inverse of the singular difference matrix.

    Raises
    ------
    ShapeError
        If there are fewer than 2 points.

    Notes
    -----
    Cost: O(n log n) for each forcing, by the cosine transform that diagonalises the differences.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.poisson1d import solve_poisson1d_neumann
    >>> x = (np.arange(200) + 0.5) / 200
    >>> u = solve_poisson1d_neumann(np.pi**2 * np.cos(np.pi * x))
    >>> bool(abs(u - np.cos(np.pi * x)).max() < 1e-4)
    True
    """
    forcing = np.asarray(forcing, dtype=np.float64)
    points = forcing.shape[-1] if forcing.ndim else 0
    if points < 2:
        raise ShapeError(f"forcing must have at least 2 points on its last axis, but its shape is {forcing.shape}")
    eigenvalues = (2 * points * np.sin(np.pi * np.arange(points) / (2 * points))) ** 2
    eigenvalues[0] = np.inf  # the constant: neither solved for nor in the solution
    return scipy.fft.idct(scipy.fft.dct(forcing, type=2) / eigenvalues, type=2)


def _generate_neumann(
    part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings
) -> dict[str, NumpyArray]:
    points = (np.arange(size[0]) + 0.5) / size[0]
    if part == "white noise" or (settings["train_on"] == "white noise" and part in ("train", "validation")):
        # With its mean, which the operator takes out: without it the inputs would not span, and identify nothing.
        forcing = white_noise(count, size, rng=rng)
    else:
        modes = np.arange(11, 21) if part == "out of span" else np.arange(1, 11)
        forcing = sine_series(rng.uniform(0.0, 1.0, (count, 10)), points, 2 * modes)
        if part == "out of span" and count > 1:
            forcing[1::2] = gaussian_random_field(count // 2, size, boundary="neumann", rng=rng, **_FIELD)
        forcing -= forcing.mean(axis=1, keepdims=True)
    return {"inputs": forcing, "outputs": solve_poisson1d_neumann(forcing)}


def _assemble_neumann(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    grid = ((np.arange(size[0]) + 0.5) / size[0],)
    return DataSet(name, **pairs_by_part(parts), grid=grid, settings=dict(settings), symmetric=True)


POISSON_1D_NEUMANN = Recipe(
    name="poisson1d-neumann",
    equation="-u'' = f on (0, 1), u' = 0 at the ends, means of f and u zero",
    generate=_generate_neumann,
    assemble=_assemble_neumann,
    size=(256,),
    samples=SAMPLES,
    settings={"train_on": "sines"},
    check=check_train_on,
)
