"""The record of an adaptive build: what each round had, as text and as a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._typing import NumpyArray
from .quadtree import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RefinementRecord", "Round"]


@dataclass(frozen=True)
class Round:
    """One round of an adaptive build.

    Attributes
    ----------
    action : str
        What the round did.
    low_rank, dense : int
        Numbers of blocks.
    max_rank : int
        The largest rank.
    mean_rank : float
        The mean rank of the low-rank blocks.
    nbytes : int
        Storage.
    error : float
        Estimated Frobenius error, relative to the norm of the matrix.
    """

    action: str
    low_rank: int
    dense: int
    max_rank: int
    mean_rank: float
    nbytes: int
    error: float

    @property
    def blocks(self) -> int:
        """Number of all blocks."""
        return self.low_rank + self.dense


def round_of(action: str, plan: Plan, norm: float) -> Round:
    """The round that ended with a plan, of a matrix of the given Frobenius norm."""
    ranks = plan.all_ranks
    error = float(np.sqrt(plan.error)) / norm if norm > 0 else 0.0
    return Round(
        action, plan.far_count, plan.near_count, int(ranks.max(initial=0)),
        float(ranks.mean()) if len(ranks) else 0.0, plan.nbytes, error,
    )  # fmt: skip


class RefinementRecord:
    """The rounds of an adaptive build, `HMatrix.adaptive` or `A.refine`.

    Parameters
    ----------
    rounds : sequence of Round
    rtol : float
        The tolerance asked for.

    Notes
    -----
    It is kept with the certificate, as `A.certificate.details["rounds"]` in plain numbers, so that saved matrices have
    it too; `A.refinement` gives this object.
    """

    def __init__(self, rounds: Any, rtol: float) -> None:
        self.rounds: tuple[Round, ...] = tuple(rounds)
        self.rtol = rtol

    @classmethod
    def from_details(cls, details: dict[str, Any], rtol: float) -> RefinementRecord:
        """From the details of a certificate."""
        return cls((Round(**numbers) for numbers in details.get("rounds", ())), rtol)

    def to_details(self) -> dict[str, Any]:
        """For the details of a certificate: plain numbers and strings."""
        return {"rounds": [asdict(r) for r in self.rounds]}

    def _column(self, name: str) -> NumpyArray:
        return np.array([getattr(r, name) for r in self.rounds])

    @property
    def blocks(self) -> NumpyArray:
        """Number of blocks by round."""
        return self._column("blocks")

    @property
    def max_ranks(self) -> NumpyArray:
        """The largest rank by round."""
        return self._column("max_rank")

    @property
    def nbytes(self) -> NumpyArray:
        """Bytes by round."""
        return self._column("nbytes")

    @property
    def errors(self) -> NumpyArray:
        """Estimated relative error by round."""
        return self._column("error")

    def __len__(self) -> int:
        return len(self.rounds)

    def __getitem__(self, k: int) -> Round:
        return self.rounds[k]

    def __str__(self) -> str:
        from ..plot import format_bytes

        width = max([6, *(len(r.action) for r in self.rounds)])
        lines = [f"round  {'action':{width}s} {'low-rank':>8s} {'dense':>7s} {'rank':>11s} {'bytes':>9s} {'error':>8s}"]
        for k, r in enumerate(self.rounds):
            rank = f"{r.mean_rank:.3g} / {r.max_rank}"
            lines.append(
                f"{k:5d}  {r.action:{width}s} {r.low_rank:8d} {r.dense:7d} {rank:>11s} {format_bytes(r.nbytes):>9s} "
                f"{r.error:8.1e}"
            )
        return "\n".join([*lines, f"rank: mean / largest; asked for: {self.rtol:.1e}"])

    def __repr__(self) -> str:
        return f"RefinementRecord({len(self)} rounds, rtol={self.rtol:.1e})"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw bytes (left axis) and relative error (right axis) by round, with the numbers of blocks.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; default: the axes of a new figure.
        """
        from matplotlib.ticker import MaxNLocator

        from ..plot import _axes

        axes = _axes(ax)
        count = np.arange(len(self))
        axes.plot(count, self.nbytes / 1e6, "o-", color="#38598b", label="storage")
        for k, r in enumerate(self.rounds):
            axes.annotate(
                f"{r.low_rank} + {r.dense}", (k, r.nbytes / 1e6), xytext=(0, 6), textcoords="offset points",
                ha="center", fontsize=8,
            )  # fmt: skip
        axes.set(xlabel="round (low-rank + dense blocks)", yscale="log")
        axes.set_ylabel("storage (MB)", color="#38598b")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        errors = axes.twinx()
        errors.plot(count, self.errors, "s--", color="#b3541e", label="error")
        errors.axhline(self.rtol, color="#b3541e", linewidth=0.8, linestyle=":")
        errors.set_yscale("log")
        errors.set_ylabel("relative error (dotted: asked for)", color="#b3541e")
        return axes
