"""What is known of a matrix's error: asked, estimated, at which confidence, at which cost, and whether it was met."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

from .exceptions import AccuracyWarning

__all__ = ["Certificate"]


@dataclass(frozen=True)
class Certificate:
    """The record of accuracy that every structured matrix carries.

    Attributes
    ----------
    asked : float
        The tolerance asked for, relative to the Frobenius norm of the whole matrix.
    estimate : float
        The estimated (or computed) relative Frobenius error.
    upper_bound : float
        What the relative error does not exceed with probability `confidence`.
    confidence : float
        1.0 for a guaranteed bound.
    method : str
        How the estimate was made.
    probes, entries, products : int
        The cost of building and checking: random probes, entries of the matrix evaluated, products with the operator.
    details : dict
        More, by method: for samples the identifiability report.

    Notes
    -----
    A build is certified against what it was built from. A sum, a product or a truncation is certified against the exact
    result for its operands as they are stored: the errors that these have of their own come on top of it, and a sum in
    which much cancels magnifies them.
    """

    asked: float
    estimate: float
    upper_bound: float
    confidence: float
    method: str
    probes: int = 0
    entries: int = 0
    products: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether the upper bound is at most what was asked for."""
        return bool(self.upper_bound <= self.asked)

    def with_rounding(self, eps: float) -> Certificate:
        """The certificate of the same matrix rounded to a precision with machine epsilon `eps`."""
        asked, estimate, bound = (max(v, eps) for v in (self.asked, self.estimate, self.upper_bound))
        return replace(self, asked=asked, estimate=estimate, upper_bound=bound)

    def with_change(self, error: float, *, asked: float, how: str) -> Certificate:
        """The certificate after a change of the matrix by `error`, relative to its norm, to a new tolerance."""
        estimate, bound = (v + error * (1.0 + v) for v in (self.estimate, self.upper_bound))
        return replace(self, asked=asked, estimate=estimate, upper_bound=bound, method=f"{self.method}; {how}")

    def void(self, reason: str) -> Certificate:
        """One that certifies nothing, and says why."""
        return replace(
            self, estimate=math.inf, upper_bound=math.inf, confidence=0.0, method="not certified",
            details={**self.details, "reason": reason},
        )  # fmt: skip

    def warn_if_not_met(self, remedy: str = "", *, stacklevel: int = 4) -> None:
        """Give an `AccuracyWarning`, with a remedy where one is named, unless the tolerance was met."""
        if "reason" in self.details:
            reason = f"nothing is known of the error, and it may be large: {self.details['reason']}"
            warnings.warn(reason, AccuracyWarning, stacklevel=stacklevel)
        elif not self.met:
            message = (
                f"the tolerance was not met: rtol = {self.asked:.3g} was asked for, but the relative Frobenius error "
                f"is estimated at {self.estimate:.3g} (at most {self.upper_bound:.3g} with confidence "
                f"{self.confidence:.3g})"
            )
            warnings.warn(message + (f"; {remedy}" if remedy else ""), AccuracyWarning, stacklevel=stacklevel)

    def __str__(self) -> str:
        verdict = "met" if self.met else "NOT MET"
        cost = ", ".join(
            f"{count} {name}"
            for name, count in (("probes", self.probes), ("entries", self.entries), ("products", self.products))
            if count
        )
        bound = "guaranteed" if self.confidence >= 1.0 else f"confidence {self.confidence:.2f}"
        return (
            f"asked {self.asked:.1e}, estimate {self.estimate:.1e}, at most {self.upper_bound:.1e} ({bound}): {verdict}"
            f" [{self.method}{'; ' + cost if cost else ''}]"
        )


def exact(asked: float, eps: float, method: str = "exact by construction") -> Certificate:
    """The certificate of a matrix that is represented without truncation: its error is rounding."""
    return Certificate(max(asked, eps), eps, eps, 1.0, method)
