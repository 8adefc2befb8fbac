"""The products that a build from an operator draws on: with Gaussian probes, as many as it turns out to need."""

from __future__ import annotations

import numpy as np

from .._typing import NumpyArray
from ..exceptions import TooFewSamplesError
from ..sources import OperatorSource, gaussian_probes


class Starved(Exception):
    """A level needs more samples than there are."""

    def __init__(self, level: int, needed: int) -> None:
        super().__init__(level, needed)
        self.level, self.needed = level, needed


class Supply:
    """Draws probes, keeps the products, and never makes more of them than are allowed.

    Samples are (omega, y) with y = A omega, and (omega, y, psi, z) with z = A^H psi too unless `symmetric`.
    """

    def __init__(
        self, source: OperatorSource, rng: np.random.Generator, *, symmetric: bool, limit: int | None = None
    ) -> None:
        self.source, self.rng, self.symmetric, self.limit = source, rng, symmetric, limit
        self.start = source.products
        self.parts: list[tuple[NumpyArray, ...]] = []

    @property
    def sides(self) -> int:
        """How many products a sample takes: one with A, and one with its adjoint unless it is Hermitian."""
        return 1 if self.symmetric else 2

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(part[0].shape[1] for part in self.parts)

    def affords(self, count: int) -> bool:
        """Whether `count` samples in all are allowed."""
        spent = self.source.products - self.start
        return self.limit is None or spent + self.sides * max(0, count - self.count) <= self.limit

    def more(self, count: int, level: int) -> tuple[NumpyArray, ...]:
        """`count` new samples, which a level needs."""
        spent = self.source.products - self.start
        if not self.affords(self.count + count):
            raise TooFewSamplesError(
                f"{self.limit} products are all that are allowed, but level {level} of the tree needs "
                f"{self.sides * count} more than the {spent} already made: raise max_probes, ask for a larger rtol, or "
                "take a tree with smaller leaves"
            )
        (m, n), dtype = self.source.shape, self.source.dtype
        omega = gaussian_probes(n, count, dtype, self.rng)
        new: tuple[NumpyArray, ...] = (omega, self.source.matmat(omega).astype(dtype, copy=False))
        if not self.symmetric:
            psi = gaussian_probes(m, count, dtype, self.rng)
            new = (*new, psi, self.source.rmatmat(psi).astype(dtype, copy=False))
        self.parts.append(new)
        return new

    def at_least(self, count: int, level: int) -> tuple[NumpyArray, ...]:
        """All samples, with new ones where there are fewer than `count`."""
        if count > self.count:
            self.more(count - self.count, level)
        if len(self.parts) > 1:
            self.parts = [tuple(np.concatenate(a, axis=1) for a in zip(*self.parts, strict=True))]
        return self.parts[0]
