"""The cosine schedule of the learning rate, which can be refitted to a budget of time while it runs."""

from __future__ import annotations

import math

from structmat._check import positive_integer


class CosineSchedule:
    """A learning rate that falls from its peak to its minimum along half a cosine, step by step.

    Parameters
    ----------
    peak, minimum : float
        The rates at the first and at the last step, ``peak >= minimum >= 0``.
    steps : int
        The number of steps planned.

    Attributes
    ----------
    steps : int
        The number of steps that the schedule now ends at.

    Raises
    ------
    ValueError
        If a rate is negative, or the peak is below the minimum.

    Notes
    -----
    `replan` moves the end. The rate stays continuous: what is left of the half cosine is spread over the steps that are
    left. So a run that is shortened still anneals completely, and one that is never replanned follows the plain cosine
    exactly.

    Examples
    --------
    >>> from structmat_nn.training import CosineSchedule
    >>> schedule = CosineSchedule(1e-3, 1e-5, 101)
    >>> schedule.rate(0), schedule.rate(50), schedule.rate(100)
    (0.001, 0.000505, 1e-05)
    >>> schedule.replan(50, 60)
    >>> schedule.rate(50), schedule.rate(59)
    (0.000505, 1e-05)
    """

    def __init__(self, peak: float, minimum: float, steps: int) -> None:
        if not 0.0 <= minimum <= peak < math.inf:
            raise ValueError(f"learning rates must satisfy 0 <= minimum <= peak, but minimum is {minimum}, peak {peak}")
        self.peak, self.minimum = float(peak), float(minimum)
        self.steps = positive_integer(steps, "steps")
        self._anchor = (0, 0.0)  # a step, and the part of the half cosine that was done by then

    def progress(self, step: int) -> float:
        """Return the part of the schedule that is done before a step, from 0 to 1 at the last step."""
        start, done = self._anchor
        left = max(self.steps - 1 - start, 1)
        return min(done + (1.0 - done) * (step - start) / left, 1.0)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (counted from 0)."""
        return self.minimum + 0.5 * (self.peak - self.minimum) * (1.0 + math.cos(math.pi * self.progress(step)))

    def replan(self, step: int, steps: int) -> None:
        """Let the schedule end after `steps` steps in total, being now before step `step`."""
        if steps != self.steps:
            self._anchor = (step, self.progress(step))
            self.steps = max(steps, step)

    def state(self) -> dict[str, float]:
        """Return the numbers that `restore` takes."""
        return {"steps": self.steps, "anchor_step": self._anchor[0], "anchor_progress": self._anchor[1]}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from what `state` returned."""
        self.steps = int(state["steps"])
        self._anchor = (int(state["anchor_step"]), float(state["anchor_progress"]))
