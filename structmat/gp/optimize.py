"""Maximising a likelihood that can fail: where a pivot is lost its value counts as minus infinity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize

from .._typing import NumpyArray
from ..exceptions import NotPositiveDefiniteError

Objective = Callable[[NumpyArray], tuple[float, NumpyArray]]


@dataclass
class History:
    """What the runs of an optimiser met.

    Attributes
    ----------
    theta, value : (p,) array, float
        The best point of all runs, and the likelihood there.
    evaluations, failures, iterations : int
        How many evaluations there were, how many of them lost a pivot, and the iterations of the run that found the
        best point.
    messages : list of str
        Why runs stopped that did not converge.
    """

    theta: NumpyArray | None = None
    value: float = -np.inf
    evaluations: int = 0
    failures: int = 0
    iterations: int = 0
    messages: list[str] = field(default_factory=list)


class _Wall:
    """The objective of a minimiser: minus the likelihood, and a wall where that is minus infinity.

    The line search of L-BFGS-B interpolates between values, and an infinite one makes its next step NaN. A finite wall
    above all values met in this run sends it back half of the way.
    """

    def __init__(self, objective: Objective, history: History) -> None:
        self._objective, self._history = objective, history
        self._smallest, self._largest = np.inf, -np.inf

    def __call__(self, theta: NumpyArray) -> tuple[float, NumpyArray]:
        self._history.evaluations += 1
        try:
            value, gradient = self._objective(theta)
        except NotPositiveDefiniteError:
            if self._largest == -np.inf:
                raise  # the start: there is nothing to come back to
            self._history.failures += 1
            return 2.0 * self._largest - self._smallest + 1.0, np.zeros_like(theta)
        self._smallest, self._largest = min(self._smallest, -value), max(self._largest, -value)
        if value > self._history.value:
            self._history.value, self._history.theta = value, theta.copy()
        return -value, -gradient


def maximize(
    objective: Objective, starts: list[NumpyArray], bounds: NumpyArray, *, max_iter: int, tol: float
) -> History:
    """L-BFGS-B from each start; the first must not fail.

    Reference: R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, SIAM J. Sci. Comput. 16 (1995) 1190-1208.
    """
    history = History()
    for number, start in enumerate(starts):
        before = history.value
        try:
            result = scipy.optimize.minimize(
                _Wall(objective, history), start, jac=True, method="L-BFGS-B",
                bounds=scipy.optimize.Bounds(*bounds.T), options={"maxiter": max_iter, "ftol": tol},
            )  # fmt: skip
        except NotPositiveDefiniteError:
            if number == 0:
                raise
            history.failures += 1
            continue
        if not result.success:
            history.messages.append(f"L-BFGS-B stopped with {str(result.message).strip(': ')}")
        if history.value > before:
            history.iterations = int(result.nit)
    return history
