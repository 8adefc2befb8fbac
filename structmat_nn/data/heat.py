r"""The heat equation :math:`u_t = \kappa u_{xx}` on the unit interval, zero at the ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
import scipy.integrate
import scipy.sparse

from structmat import ShapeError
from structmat._typing import NumpyArray

from .dataset import TEST_SETS, DataSet, Parts, Recipe, Settings, Size
from .evolution import check_positive, check_times, output_times, smooth_initial_values, trajectories_data_set
from .fields import scaled_to_one, white_noise
from .interval import check_refinement, fine_points, heat_on_training_grid, thin, training_points

__all__ = ["HEAT", "solve_heat"]


def solve_heat(
    initial: Any,
    times: Any,
    *,
    diffusivity: float = 2e-4,
    method: str = "exact",
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> NumpyArray:
    """Step central differences of the second order through time.

    Parameters
    ----------
    initial : array_like of shape (samples, n), n >= 3
        u on ``linspace(0, 1, n)`` at time zero; its values at the two ends are taken as zero.
    times : array_like of shape (times,)
        Increasing, from 0 on.
    diffusivity : float
        The factor of the second derivative.
    method : {"exact", "bdf"}
        ``"exact"``: the exponential of the difference matrix, by the sine transform that diagonalises it.
        ``"bdf"``: SciPy's backward differentiation formulas with the tolerances `rtol` and `atol`, one trajectory
        after the other, as the published data were made.
    rtol, atol : float
        For ``"bdf"`` only.

    Returns
    -------
    ndarray of shape (samples, times, n)

    Notes
    -----
    Cost of ``"exact"``: O(samples x times x n log n).

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data.heat import solve_heat
    >>> x = np.linspace(0, 1, 101)
    >>> u = solve_heat(np.sin(np.pi * x)[None], [0.0, 1.0], diffusivity=0.1)
    >>> bool(abs(u[0, 1] - np.exp(-0.1 * np.pi**2) * np.sin(np.pi * x)).max() < 1e-3)
    True
    """
    initial, times = np.asarray(initial, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if initial.ndim != 2 or initial.shape[1] < 3:
        raise ShapeError(f"initial must have shape (samples, n) with n >= 3, but its shape is {initial.shape}")
    solution = np.zeros((len(initial), len(times), initial.shape[1]))
    if method == "exact":
        intervals = initial.shape[1] - 1
        rates = diffusivity * (2 * intervals * np.sin(np.pi * np.arange(1, intervals) / (2 * intervals))) ** 2
        decay = np.exp(-np.multiply.outer(times, rates))  # (times, n - 2)
        waves = scipy.fft.dst(initial[:, 1:-1], type=1, norm="ortho")
        solution[:, :, 1:-1] = scipy.fft.idst(waves[:, None] * decay, type=1, norm="ortho")
    elif method == "bdf":
        for sample, start in enumerate(initial):
            solution[sample, :, 1:-1] = _bdf(start[1:-1], times, diffusivity, rtol, atol)
    else:
        raise ValueError(f"method must be 'exact' or 'bdf', but it is {method!r}")
    return solution


def _bdf(start: NumpyArray, times: NumpyArray, diffusivity: float, rtol: float, atol: float) -> NumpyArray:
    inner = len(start)
    differences = scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(inner, inner))
    matrix = (diffusivity * (inner + 1) ** 2 * differences).tocsc()
    span = (times[0], times[-1])
    result = scipy.integrate.solve_ivp(
        lambda time, state: matrix @ state, span, start, "BDF", times, jac=matrix, rtol=rtol, atol=atol
    )
    if not result.success:
        raise RuntimeError(f"BDF stopped before time {times[-1]}: {result.message}")
    return result.y.T


def _check(size: Size, settings: Settings) -> None:
    check_refinement(size, settings["refinement"])
    check_times(settings)
    check_positive(settings, "diffusivity", "rtol", "atol")
    if settings["method"] not in ("exact", "bdf"):
        raise ValueError(f"method must be 'exact' or 'bdf', but it is {settings['method']!r}")


def _generate(part: str, count: int, rng: np.random.Generator, size: Size, settings: Settings) -> dict[str, NumpyArray]:
    times, refinement = output_times(settings), settings["refinement"]
    if part == "white noise":
        initial = scaled_to_one(white_noise(count, size, rng=rng))
        solution = heat_on_training_grid(initial, refinement, settings["diffusivity"] * times)
        solution[:, 0] = initial
        return {"trajectories": solution}
    modes = np.arange(11, 21) if part == "out of span" else np.arange(1, 11)
    coefficients = 2 * rng.uniform(0.0, 1.0, (count, 10))
    initial = smooth_initial_values(part, coefficients, modes, fine_points(size[0], refinement), rng)
    options = {key: settings[key] for key in ("diffusivity", "method", "rtol", "atol")}
    return {"trajectories": thin(solve_heat(initial, times, **options), refinement)}


def _assemble(name: str, parts: Parts, size: Size, settings: Settings) -> DataSet:
    grid = (training_points(size[0], settings["refinement"]),)
    return trajectories_data_set(name, parts, grid=grid, settings=settings, symmetric=True)


HEAT = Recipe(
    name="heat",
    equation="u_t = diffusivity u_xx on (0, 1), u = 0 at the ends; from one state to the next",
    generate=_generate,
    assemble=_assemble,
    size=(256,),
    samples={"train": 1800, "validation": 200, **dict.fromkeys(TEST_SETS, 200)},
    settings={
        "diffusivity": 2e-4,
        "horizon": 8.0,
        "step": 0.8,
        "refinement": 4,
        "method": "exact",
        "rtol": 1e-4,
        "atol": 1e-6,
    },
    check=_check,
    chunk=200,
)
