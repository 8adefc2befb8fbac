"""What formats cost, from the ranks of their blocks by level: counts of bytes and of floating point operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# a floating point operation of a build (crosses: vectors) or a factorisation (small blocks) takes as long as this many
# in a large dense factorisation
BUILD_WEIGHT, FACTOR_WEIGHT = 10.0, 5.0
# operations that an entry stands for
ENTRY_FLOPS = 20.0


@dataclass(frozen=True)
class Profile:
    """Ranks, low-rank blocks for each node of a level and dense blocks for each leaf, from the leaves up."""

    ranks: tuple[float, ...]
    counts: tuple[float, ...]
    near: float
    leaf: int
    growth: float  # of the ranks, when the size doubles

    @classmethod
    def of(
        cls, ranks: list[float], counts: list[float], near: float, leaf: int, period: int,
        beside: Profile | None = None,
    ) -> Profile:  # fmt: skip
        """With unknown ranks (NaN) extrapolated from those below: blocks `period` levels apart are of one shape.

        `beside` is the profile of the blocks between siblings, to which nested bases need at least as much, and
        compared with which their ranks stay in proportion.
        """
        if beside is not None:  # samples stand for what is smooth outside; where it is not, the sibling needs more
            ranks = [max(k, r) if np.isfinite(k) else k for k, r in zip(ranks, beside.ranks, strict=True)]
        growth = _growth(ranks, leaf, period, 1.0 if beside is None else beside.growth)
        ratio = 1.0
        filled: list[float] = []
        if beside is not None:
            known = [k / max(1.0, r) for k, r in zip(ranks, beside.ranks, strict=True) if np.isfinite(k)]
            ratio = float(np.median(known)) if known else 2.0
        for h, k in enumerate(ranks):
            if not np.isfinite(k):
                back = min(period, len(filled))
                k = max(filled[-back] * growth**back if filled else growth, max(filled, default=1.0))
                k = max(k, ratio * beside.ranks[h]) if beside is not None else k
            filled.append(min(max(k, beside.ranks[h] if beside is not None else 0.0), float(leaf << h)))
        return cls(tuple(filled), tuple(counts), near, leaf, growth)

    def at(self, depth: int) -> list[tuple[int, float, float]]:
        """For a matrix of that depth, by level from the leaves up: size of a block, its rank, blocks for each node."""
        rows: list[tuple[int, float, float]] = []
        for h in range(depth):
            if h < len(self.ranks):
                rank, count = self.ranks[h], self.counts[h]
            else:
                rank = min(max(rows[-1][1], 1.0) * self.growth, float(self.leaf << h))
            # the coarsest levels of the survey have few blocks, as they have few nodes: larger matrices have more there
            if depth > len(self.ranks) and h >= len(self.ranks) - 3 and depth - h > 2:
                inner = self.counts[1 : max(2, len(self.counts) - 3)] or self.counts
                rank = rank or min(rows[-1][1] * self.growth if rows else 0.0, float(self.leaf << h))
                count = float(np.mean(inner))
            rows.append((self.leaf << h, rank, count))
        return rows


def _growth(ranks: list[float], leaf: int, period: int, otherwise: float) -> float:
    """By what ranks, from the leaves up, grow when the size doubles."""
    finite = [(h, k) for h, k in enumerate(ranks) if np.isfinite(k) and k > 0]
    # a full rank tells nothing of how ranks grow
    known = [(h, k) for h, k in finite if k < 0.9 * (leaf << h)]
    if finite and not known:
        return 2.0
    # the two halves of a closed curve touch at both ends, unlike all others
    if len(known) > 3 and known[-1][0] == len(ranks) - 1:
        known = known[:-1]
    if len(known) < 2:
        return otherwise
    span = min(len(known) - 1, period if period > 1 else 3)
    (h, k), (g, j) = known[-1], known[-1 - span]
    return float(np.clip((k / j) ** (1.0 / (h - g)), 1.0, 2.0))


@dataclass(frozen=True)
class Cost:
    """Bytes, and floating point operations of a build, of one product and of a factorisation."""

    nbytes: float
    build: float
    product: float
    factor: float

    def work(self, products: int, factorize: bool, *, dense: bool = False) -> float:
        """All operations of a use, in units of those of a large dense factorisation."""
        build, factor = (1.0, 1.0) if dense else (BUILD_WEIGHT, FACTOR_WEIGHT)
        return build * self.build + factorize * factor * self.factor + products * self.product


def dense_cost(n: int, itemsize: int, symmetric: bool) -> Cost:
    """A dense array, and its LU (Hermitian: LDL^H) factorisation."""
    numbers = float(n) ** 2
    return Cost(numbers * itemsize, ENTRY_FLOPS * numbers, 2.0 * numbers, (1 if symmetric else 2) / 3.0 * n**3)


def flat_cost(profile: Profile, depth: int, itemsize: int, symmetric: bool, *, nested_panels: bool) -> Cost:
    """HODLR with `nested_panels`, else H: (p + q) k for each low-rank block, and the dense leaves."""
    levels, leaf, leaves = profile.at(depth), profile.leaf, 1 << depth
    n = float(leaf * leaves)
    far = sum(2.0 * p * k * count * (n / p) for p, k, count in levels)
    near = profile.near * leaves * leaf**2
    stored = far / 2 + (near + leaves * leaf**2) / 2 if symmetric else far + near
    crosses = sum(2.0 * p * k**2 * count * (n / p) for p, k, count in levels)
    build = 8.0 * crosses + ENTRY_FLOPS * (near + 2.0 * far)
    if nested_panels:
        below, factor = 0.0, n * leaf**2
        for p, k, _count in levels:  # the blocks of a level are solved with all levels below
            factor += n * k * (2.0 * leaf + 4.0 * below) + (n / p) * 3.0 * k**3
            below += k
    else:
        sparsity = max([count for _p, _k, count in levels], default=1.0)
        factor = 6.0 * sparsity * (depth + 1) * crosses + 2.0 * profile.near**2 * leaves * leaf**3
    return Cost(stored * itemsize, build, 2.0 * (far + near), factor / (2 if symmetric else 1))


def merged_cost(strong: Profile, weak: Profile, depth: int, itemsize: int, symmetric: bool) -> Cost:
    """H: built over strongly admissible blocks, which are then merged up to those between siblings where that saves."""
    built, merged = (flat_cost(p, depth, itemsize, symmetric, nested_panels=False) for p in (strong, weak))
    return Cost(min(built.nbytes, merged.nbytes), built.build, min(built.product, merged.product), built.factor)


def merged_ranks(strong: Profile, weak: Profile) -> tuple[float, ...]:
    """Ranks by level of merged blocks: between those of strongly admissible ones and those between siblings."""
    return tuple(float(np.sqrt(max(1.0, k) * max(1.0, j))) for k, j in zip(strong.ranks, weak.ranks, strict=True))


def nested_cost(profile: Profile, depth: int, itemsize: int, symmetric: bool) -> Cost:
    """HSS: leaf bases, transfer matrices without their identities, couplings and diagonal blocks."""
    leaves = 1 << depth
    numbers, integers, build, factor, height = 0.0, 0.0, 0.0, 0.0, float(profile.leaf)
    couplings = 0.0
    for p, k, _count in profile.at(depth):
        nodes, k = leaves * profile.leaf / p, min(k, height)
        numbers += nodes * (height - k) * k
        integers += nodes * height
        couplings += nodes * k**2
        samples = 4.0 * k + 200.0
        build += 2.0 * nodes * height * samples * (2.0 * k + ENTRY_FLOPS)
        factor += nodes * 5.0 * height**3
        height = 2.0 * k
    diagonal = leaves * profile.leaf**2
    stored = numbers + couplings / 2 + diagonal if symmetric else 2.0 * numbers + couplings + diagonal
    places = 4.0 * integers * (1 if symmetric else 2)
    return Cost(stored * itemsize + places, build, 4.0 * numbers + 2.0 * couplings + 2.0 * diagonal, factor)
