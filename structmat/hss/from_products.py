"""The drivers of block nullification: how many samples, when to draw more, how to check; operators and records."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backend import adjoint, cast, concatenated, is_numpy, like, namespace, parallel_ranges, squared_norm, to_numpy
from .._inputs import _require_hermitian_products
from .._typing import Array, NumpyArray
from ..certificate import Certificate
from ..certify import CONFIDENCE, by_probes, probe_factor
from ..exceptions import SymmetryError, TooFewSamplesError
from ..sources import OperatorSource, gaussian_probes
from ..tree import ClusterTree
from .generators import Generators
from .sketched import (
    OVERSAMPLING,
    Level,
    Samples,
    Starved,
    assemble,
    process_level,
    rise,
    root_block,
    with_full_rows,
)

CHECK_PROBES = 10
# up to this size a matrix that probes cannot resolve is built from all its columns
BY_COLUMNS = 8192
ROUNDS = 4


class _Recorder:
    """Draws Gaussian probes, keeps the products, and gives them out as leaf blocks."""

    def __init__(
        self,
        source: OperatorSource,
        row_tree: ClusterTree,
        col_tree: ClusterTree,
        rng: np.random.Generator,
        symmetric: bool,
    ) -> None:
        self.source, self.rng, self.symmetric = source, rng, symmetric
        self.row_tree, self.col_tree = row_tree, col_tree
        self.parts: list[Samples] = []  # as drawn

    def gaussian(self, rows: int, count: int) -> Array:
        """Independent standard normal numbers, where the operator wants its vectors."""
        probes = gaussian_probes(rows, count, self.source.dtype, self.rng)
        return probes if self.source.example is None else like(probes, self.source.example)

    def identity(self) -> Array:
        """The identity matrix of the operator's columns, there too."""
        eye = np.eye(self.source.shape[1], dtype=self.source.dtype)
        return eye if self.source.example is None else like(eye, self.source.example)

    def draw(self, count: int) -> Samples:
        """`count` new samples as (leaves, size, count) blocks, kept for later rounds."""
        dtype = self.source.dtype
        self.source.require_room(count + sum(part.count for part in self.parts))

        def leaves(tree: ClusterTree, x: Array) -> Array:
            blocks = tree.to_leaves(x)
            if not is_numpy(blocks):
                return cast(blocks, dtype)
            if blocks.flags.c_contiguous and blocks.dtype == dtype:
                return blocks
            out = np.empty(blocks.shape, dtype=dtype)
            parallel_ranges(lambda a, b: np.copyto(out[a:b], blocks[a:b], casting="same_kind"), len(out))
            return out

        def inputs(tree: ClusterTree, x: Array) -> Array:
            return with_full_rows(leaves(tree, x), tree.leaf_positions < tree.n)

        x = self.gaussian(self.source.shape[1], count)
        y = leaves(self.row_tree, self.source.matmat(x))
        omega = inputs(self.col_tree, x)
        if self.symmetric:
            new = Samples(omega, y, omega, y)
        else:
            x = self.gaussian(self.source.shape[0], count)
            z = leaves(self.col_tree, self.source.rmatmat(x))
            new = Samples(omega, y, inputs(self.row_tree, x), z)
        self.parts.append(new)
        return new

    def samples(self, count: int) -> Samples:
        """All samples so far, and new ones to make it `count` of them."""
        have = sum(part.count for part in self.parts)
        if count > have:
            self.draw(count - have)
        while len(self.parts) > 1:
            last = self.parts.pop()
            self.parts[-1] = _joined(self.parts[-1], last)
        return self.parts[0]


def _joined(a: Samples, b: Samples) -> Samples:
    omega, y = (concatenated(pair, axis=2) for pair in ((a.omega, b.omega), (a.y, b.y)))
    if a.symmetric:
        return Samples(omega, y, omega, y)
    psi, z = (concatenated(pair, axis=2) for pair in ((a.psi, b.psi), (a.z, b.z)))
    return Samples(omega, y, psi, z)


def from_operator(
    source: OperatorSource,
    row_tree: ClusterTree,
    col_tree: ClusterTree,
    *,
    rtol: float,
    max_rank: int | None,
    symmetric: bool,
    fresh: bool,
    max_probes: int | None,
    rng: np.random.Generator,
    progress: Any,
) -> tuple[Generators, Certificate]:
    """Build with as many probes as the levels turn out to need, then check on independent ones."""
    recorder = _Recorder(source, row_tree, col_tree, rng, symmetric)
    from .constructors import _unchecked

    check = recorder.gaussian(source.shape[1], CHECK_PROBES)
    exact = cast(source.matmat(check), source.dtype)
    norm = float(np.sqrt(squared_norm(exact) / CHECK_PROBES))
    if symmetric:
        _require_hermitian_products(check, exact)
    eps = float(np.finfo(source.dtype).eps)
    # a small matrix without structure is cheaper by its columns; of a large one so many probes are as many as it gets
    exhaustive = max_probes is None and max(source.shape) <= BY_COLUMNS
    limit = min(source.shape) // (2 if exhaustive else 16) if max_probes is None else min(max_probes, *source.shape)
    limit = max(limit, 1)
    count = 2 * max(row_tree.leaf_size, col_tree.leaf_size)
    share, best = 1.0 / probe_factor(CHECK_PROBES), None
    for _round in range(ROUNDS):
        allowed = max(share * rtol, 2 * eps) * norm
        if exhaustive and count > limit:
            g = _by_columns(recorder)
        else:
            g, count = _levels(recorder, count, limit, allowed, max_rank, fresh, exhaustive, progress)
        a = _unchecked(g, row_tree, col_tree)
        certificate = by_probes(a, check, exact, asked=rtol, norm=None, products=source.products, samples=count)
        if best is None or certificate.upper_bound < best[1].upper_bound:
            best = g, certificate
        capped = max_rank is not None and max(g.row_basis.max_rank, g.col_basis.max_rank) >= max_rank
        if certificate.met or capped or count > limit or (count == limit and not exhaustive):
            break
        count, share = int(1.5 * count) if exhaustive else min(limit, int(1.5 * count)), 0.5 * share
    assert best is not None
    return best


def _levels(
    recorder: _Recorder, count: int, limit: int, allowed: float, max_rank: int | None, fresh: bool, exhaustive: bool,
    progress: Any,
) -> tuple[Generators, int]:  # fmt: skip
    """One pass over the levels, and how many samples it took.

    Where a level starves, samples are added and taken up through the levels that are done: these had enough.
    """
    depth = recorder.row_tree.depth
    if depth == 0:
        return _single_block(recorder), 0
    levels: list[Level] = []
    current = recorder.samples(min(count, limit))
    level = depth
    while level >= 0:
        have = current.count
        try:
            if level == 0:
                root, _weakest = root_block(current)
                break
            tail = allowed / np.sqrt(2.0 * depth * 2.0**level)
            levels.append(process_level(current, level, tail, max_rank=max_rank, strict=exhaustive or have < limit))
        except Starved as hunger:
            if have >= limit and exhaustive:
                return _by_columns(recorder), limit + 1
            if have >= limit:
                raise TooFewSamplesError(
                    f"{have} probes are all that are allowed, but level {hunger.level} needs {hunger.needed}: "
                    "raise max_probes, or use a tree with smaller leaves"
                ) from None
            more = min(limit, max(hunger.needed, have + OVERSAMPLING)) - have
            current = _joined(current, _risen(recorder.draw(more), levels))
            continue
        progress(1.0 / depth)
        current = _risen(recorder.draw(have), levels) if fresh else rise(current, levels[-1])
        level -= 1
    return assemble(levels, root, symmetric=recorder.symmetric), current.count


def _risen(samples: Samples, levels: list[Level]) -> Samples:
    for level in levels:
        samples = rise(samples, level)
    return samples


def _single_block(recorder: _Recorder) -> Generators:
    """A tree of one leaf: the matrix itself, by its columns."""
    from ..blocks import NestedBasis

    columns = cast(recorder.source.matmat(recorder.identity()), recorder.source.dtype)
    xp = namespace(columns)
    rows = recorder.row_tree.to_leaves(columns)  # (1, p, n), in the tree's order
    ordered = xp.take(rows, like(recorder.col_tree.perm, rows), axis=2)
    if recorder.symmetric:
        ordered = 0.5 * (ordered + adjoint(ordered))
    empty = NestedBasis((), ())
    return Generators(ordered, empty, empty, (), recorder.symmetric)


def _by_columns(recorder: _Recorder) -> Generators:
    """No structure that probes could find: as many products as columns, and exact bases."""
    from . import dense

    source = recorder.source
    a = to_numpy(source.matmat(recorder.identity())).astype(source.dtype, copy=False)
    tail = 4 * float(np.finfo(source.dtype).eps) * float(np.linalg.norm(a))
    trees, symmetric = (recorder.row_tree, recorder.col_tree), recorder.symmetric
    g, _error = dense.compress(a, *trees, tail=tail, max_rank=None, symmetric=symmetric)
    # at most BY_COLUMNS columns: compressed by the CPU, and sent back
    return g if source.example is None else g.map(lambda block: like(block, source.example))


# ------------------------------------------------------------------------------------- recorded samples


def from_samples(
    pairs: tuple[NumpyArray, ...],
    row_tree: ClusterTree,
    col_tree: ClusterTree,
    *,
    rank: int,
    symmetric: bool,
    rtol: float,
) -> tuple[Generators, Certificate]:
    """Recover a matrix from what was recorded; refuse with the reason where it is not determined."""
    dtype = np.result_type(*pairs)
    trees = (col_tree, row_tree, row_tree, col_tree)
    report = _identifiability(pairs, row_tree, col_tree, rank, symmetric)
    if report["missing"] > 0:
        raise TooFewSamplesError(
            f"{report['given']} samples cannot determine a matrix of rank {rank} on a tree with leaves of "
            f"{report['leaf_size']}: at least {report['needed']} are needed, {report['missing']} more; or a tree with "
            f"smaller leaves (leaf_size <= {report['given'] - rank - 1})"
        )
    blocks = [
        np.ascontiguousarray(t.to_leaves(a.astype(dtype, copy=False))) for t, a in zip(trees, pairs, strict=False)
    ]
    for k in range(0, len(blocks), 2):
        blocks[k] = with_full_rows(blocks[k], trees[k].leaf_positions < trees[k].n)
    samples = Samples(*blocks) if len(blocks) == 4 else Samples(blocks[0], blocks[1], blocks[0], blocks[1])
    if symmetric:
        report["symmetry_gap"] = _symmetry_gap(pairs[0], pairs[1])
        if report["symmetry_gap"] > max(1e-6, 100 * rtol):
            raise SymmetryError(
                f"symmetric=True, but the samples contradict it: F^H U differs from its adjoint by "
                f"{report['symmetry_gap']:.1e} (relative); record adjoint samples instead"
            )
    g, weakest = _recovered(samples, row_tree.depth, rank, rtol, float(np.linalg.norm(pairs[1])), symmetric)
    return g, _sample_certificate(g, pairs, row_tree, col_tree, rtol, report, weakest)


def _recovered(
    samples: Samples, depth: int, rank: int, rtol: float, size: float, symmetric: bool
) -> tuple[Generators, float]:
    eps = float(np.finfo(samples.y.dtype).eps)
    allowed = max(rtol, 64 * eps) * size / np.sqrt(samples.count)
    levels: list[Level] = []
    weakest = np.inf
    try:
        for level in range(depth, 0, -1):
            tail = allowed / np.sqrt(2.0 * max(depth, 1) * 2.0**level)
            levels.append(process_level(samples, level, tail, max_rank=rank, strict=False))
            weakest = min(weakest, levels[-1].identified)
            samples = rise(samples, levels[-1])
        root, weak = root_block(samples)
    except Starved as hunger:
        raise TooFewSamplesError(
            f"level {hunger.level} needs {hunger.needed} samples, but there are {samples.count}; "
            "record more, or lower rank"
        ) from None
    weakest = min(weakest, weak)
    if not weakest > 64 * eps:
        raise TooFewSamplesError(
            f"the samples do not span: the inputs restricted to some cluster are linearly dependent (smallest pivot "
            f"{weakest:.1e} of the largest), as smooth inputs are; record responses to random inputs"
        )
    return assemble(levels, root, symmetric=symmetric), weakest


def _identifiability(
    pairs: tuple[NumpyArray, ...], row_tree: ClusterTree, col_tree: ClusterTree, rank: int, symmetric: bool
) -> dict[str, Any]:
    leaf = max(row_tree.leaf_size, col_tree.leaf_size)
    given = min(p.shape[1] for p in pairs)
    if row_tree.depth == 0:
        needed = leaf
    else:
        needed = max(leaf, 2 * min(rank, leaf) if row_tree.depth > 1 else 0) + min(rank, leaf)
        needed = max(needed, 2 * min(rank, leaf))
    return {"given": given, "needed": needed, "missing": max(0, needed - given), "leaf_size": leaf, "rank": rank}


def _symmetry_gap(f: NumpyArray, u: NumpyArray) -> float:
    form = f.conj().T @ u
    size = float(np.linalg.norm(f) * np.linalg.norm(u)) / np.sqrt(len(f))
    return float(np.linalg.norm(form - form.conj().T)) / size if size > 0 else 0.0


def _sample_certificate(
    g: Generators, pairs: tuple[NumpyArray, ...], row_tree: ClusterTree, col_tree: ClusterTree, rtol: float,
    report: dict[str, Any], weakest: float,
) -> Certificate:  # fmt: skip
    """The residual on the samples is the only evidence there is."""
    from .constructors import _unchecked

    a = _unchecked(g, row_tree, col_tree)
    residual = float(np.linalg.norm(a @ pairs[0] - pairs[1])) / max(float(np.linalg.norm(pairs[1])), 1e-300)
    if len(pairs) == 4:
        other = float(np.linalg.norm(a.H @ pairs[2] - pairs[3])) / max(float(np.linalg.norm(pairs[3])), 1e-300)
        residual = max(residual, other)
    eps = float(np.finfo(a.dtype).eps)
    # rounding is amplified by how weakly the samples determine the blocks
    estimate = max(residual, eps / weakest)
    report = {**report, "spans": True, "weakest_pivot": weakest, "residual": residual}
    return Certificate(
        max(rtol, 1e3 * eps / min(weakest, 1.0)), estimate, estimate * probe_factor(report["given"]), CONFIDENCE,
        "residual on the recorded samples", probes=report["given"], details=report,
    )  # fmt: skip
