"""Mixed precision of nested bases: blocks one by one, and the bases of a level, in half the precision.

An error of a block is seen through the bases of its two nodes. An error of a node's basis changes all blocks of the
node and of its ancestors: it is seen through the bases of the children on the one side, and through everything that the
basis serves on the other. Both views are Gram matrices: of the bases, U_t^H U_t, from the leaves up, and of what
they serve, Z_t Z_t^H for the block row U_t Z_t of a node, from the root down. Squared errors are traces with them.

The bound is that of going from one matrix to the other in steps: the row bases from the leaves up, each level by what
the ones below have become; then the column bases; then the blocks. What one step changes in different nodes (blocks)
has no entries in common, so squares add up; those of different steps may have, so the steps themselves add up.

References: see `structmat.precision`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._backend import adjoint
from .._typing import IntArray, NumpyArray
from ..blocks import BlockBatch, NestedBasis, RaggedBasis, RaggedBatch, chosen
from ..engine.dense import matmul
from ..precision import affordable, narrowed
from .storage import Across, NestedStorage

Batch = BlockBatch | RaggedBatch
CHUNK_NUMBERS = 1 << 22
# of the error allowed, what all bases may take: they are fewer numbers than the blocks
_FOR_BASES = 0.5
# for the rounding of the bounds themselves
_SLACK = 1.001


@dataclass(frozen=True)
class Divided:
    """A matrix in mixed precision, and a bound of the relative Frobenius error made."""

    storage: NestedStorage
    error: float


@dataclass(frozen=True)
class _Side:
    """The bases of one side: as they are to be stored, their Gram matrices by level from 1, and the error made."""

    basis: Any
    grams: list[NumpyArray]
    error: float


def divide(storage: NestedStorage, rtol: float) -> Divided | None:
    """Store in half the precision what a Frobenius error of `rtol` times the norm allows; None where that is nothing.

    Cost O(n k^2), about that of an orthogonalisation.
    """
    near, couplings, half = storage.near, storage.couplings, storage.half
    rows, cols = (_full(b) for b in (storage.row_basis, storage.col_basis))
    row_grams = _grams(rows)
    col_grams = row_grams if half else _grams(cols)
    far = sum(float(_squares(b, g, h, half).sum()) for b, g, h in zip(couplings, row_grams, col_grams, strict=True))
    size = float(np.sqrt(((np.abs(near.data) ** 2).sum(axis=(1, 2)) * _weights(near, half)).sum() + far))
    allowed = rtol * size / _SLACK
    share = 0.5 * _FOR_BASES * allowed
    served = _served(rows, couplings, col_grams, half)
    left = _rounded(storage.row_basis, rows, served, share, None)
    served = _served(cols, couplings, left.grams, half, adjointly=True)
    right = _rounded(storage.col_basis, cols, served, share, left if half else None)
    spent = left.error + right.error
    change, fits = _change(near.data)
    errors = [np.where(fits, (np.abs(change) ** 2).sum(axis=(1, 2)), np.inf) * _weights(near, half)]
    for batch, g, h in zip(couplings, left.grams, right.grams, strict=True):
        errors.append(_squares(batch, g, h, half, rounding=True))
    batches: list[Batch] = [near, *couplings]
    flat, sizes = np.concatenate(errors), np.concatenate([_numbers(b) for b in batches])
    marks = affordable(flat, np.maximum(sizes, 1), max(allowed - spent, 0.0)) & (sizes > 0)
    if not marks.any() and left.basis is storage.row_basis and right.basis is storage.col_basis:
        return None
    pieces = np.split(marks, np.cumsum([len(e) for e in errors])[:-1])
    pairs = [_split(batch, mark) for batch, mark in zip(batches, pieces, strict=True)]
    wide, narrow = (Across(pairs[0][k], tuple(pair[k] for pair in pairs[1:])) for k in (0, 1))
    divided = NestedStorage(
        wide.near, wide.couplings, left.basis, left.basis if half else right.basis, half=half, narrow=narrow
    )
    error = _SLACK * (spent + float(np.sqrt(flat[marks].sum())))
    return Divided(divided, error / size if size > 0.0 else 0.0)


# ----------------------------------------------------------------------------------------------- bases


def _full(basis: NestedBasis | RaggedBasis) -> Any:
    """The basis without orders, so that levels can be taken one by one."""
    return basis.full() if isinstance(basis, RaggedBasis) else basis


def _rounded(stored: Any, full: Any, served: list[NumpyArray], allowed: float, like: _Side | None) -> _Side:
    """The bases of a side with levels in half the precision, from the leaves up: those of `like`, or by their shares.

    A level may spend its share, by its numbers, of what is left of the error allowed.
    """
    levels, spent = list(stored.levels), 0.0
    grams: list[NumpyArray] = []
    left = sum(a.size for a in levels)
    for level in range(stored.depth, 0, -1):
        array, basis = levels[level - 1], full[level]
        share = (allowed - spent) * array.size / max(left, 1)
        left -= array.size
        below = grams[-1] if grams else None
        change, fits = _change(basis)
        error = float(np.sqrt(_trace(change, _through(below, change), served[level - 1]).sum()))
        if like is None and array.size:
            rounds = bool(fits.all()) and error <= share
        else:
            rounds = like is not None and like.basis.levels[level - 1].dtype != array.dtype
        if rounds:
            levels[level - 1] = narrowed(array)
            basis, spent = basis - change, spent + error
        grams.append(matmul(adjoint(basis), _through(below, basis)))
    changed = any(a is not b for a, b in zip(levels, stored.levels, strict=True))
    return _Side(replace(stored, levels=tuple(levels)) if changed else stored, grams[::-1], spent)


def _grams(full: Any) -> list[NumpyArray]:
    """U_t^H U_t for the nodes of each level from 1, (2**l, k, k)."""
    grams: list[NumpyArray] = []
    for level in range(full.depth, 0, -1):
        basis = full[level]
        grams.append(matmul(adjoint(basis), _through(grams[-1] if grams else None, basis)))
    return grams[::-1]


def _through(below: NumpyArray | None, x: NumpyArray) -> NumpyArray:
    """The Gram matrices of both children times the two halves of x, (2**l, p, k); above the leaves."""
    if below is None:
        return x
    return matmul(below, x.reshape(2 * len(x), x.shape[1] // 2, x.shape[2])).reshape(x.shape)


def _served(
    full: Any, couplings: tuple[Batch, ...], others: list[NumpyArray], half: bool, *, adjointly: bool = False
) -> list[NumpyArray]:
    """Z_t Z_t^H for the block rows U_t Z_t of the nodes of each level from 1 (columns where `adjointly`).

    others: the Gram matrices of the bases of the other side.
    """
    found: list[NumpyArray] = []
    for level, (batch, grams) in enumerate(zip(couplings, others, strict=True), start=1):
        k, other = full.width(level), grams.shape[1]
        total = np.zeros((1 << level, k, k), dtype=batch.data.dtype)
        for blocks, rows, cols in _pieces(batch, *((other, k) if adjointly and not half else (k, other))):
            off = np.flatnonzero(rows != cols) if half else np.arange(len(rows))
            if half or not adjointly:
                _add(total, rows, matmul(matmul(blocks, grams[cols]), adjoint(blocks)))
            if half or adjointly:
                turned = adjoint(blocks[off])
                _add(total, cols[off], matmul(matmul(turned, grams[rows[off]]), adjoint(turned)))
        if found:
            transfer = full[level - 1].reshape(1 << level, k, full.width(level - 1))
            total += matmul(matmul(transfer, np.repeat(found[-1], 2, axis=0)), adjoint(transfer))
        found.append(total)
    return found


def _add(total: NumpyArray, nodes: IntArray, parts: NumpyArray) -> None:
    """total[nodes] += parts, also where nodes repeat."""
    if len(nodes):
        order = np.argsort(nodes, kind="stable")
        found, first = np.unique(nodes[order], return_index=True)
        total[found] += np.add.reduceat(parts[order], first, axis=0)


# ---------------------------------------------------------------------------------------------- blocks


def _pieces(batch: Batch, p: int, q: int) -> Iterator[tuple[NumpyArray, IntArray, IntArray]]:
    """The blocks of a batch, padded to (p, q), some at a time, with their row and column nodes."""
    step = max(1, CHUNK_NUMBERS // max(1, p * q))
    for a in range(0, len(batch), step):
        rows, cols = batch.rows[a : a + step], batch.cols[a : a + step]
        if isinstance(batch, RaggedBatch):
            part = slice(a, a + step)
            data = batch.data[batch.starts[a] : batch.starts[a + len(rows)]]
            yield RaggedBatch(data, rows, cols, batch.heights[part], batch.widths[part]).padded(p, q).data, rows, cols
        else:
            yield batch.data[a : a + step], rows, cols


def _squares(
    batch: Batch, left: NumpyArray, right: NumpyArray, half: bool, *, rounding: bool = False
) -> NumpyArray:  # fmt: skip
    """||U_t X V_s^H||^2, twice where mirrored, for X the couplings of a level or what rounding takes away: (nb,)."""
    found = [np.zeros(0)]
    for blocks, rows, cols in _pieces(batch, left.shape[1], right.shape[1]):
        x, fits = _change(blocks) if rounding else (blocks, np.ones(len(blocks), dtype=bool))
        found.append(np.where(fits, _trace(x, matmul(left[rows], x), right[cols]), np.inf))
    return np.concatenate(found) * _weights(batch, half)


def _weights(batch: Batch, half: bool) -> NumpyArray:
    """How often each block acts."""
    return np.where((batch.rows != batch.cols) & half, 2.0, 1.0)


def _trace(x: NumpyArray, y: NumpyArray, gram: NumpyArray) -> NumpyArray:
    """tr(x^H y G) for each block: a square, but for rounding."""
    return np.maximum((x.conj() * matmul(y, gram)).real.sum(axis=(1, 2)), 0.0)


def _change(a: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """What rounding takes away from blocks, and which blocks have no number that is too large for it."""
    narrow = narrowed(a)
    fits: NumpyArray = np.asarray(np.isfinite(narrow).all(axis=(1, 2)))
    return np.where(fits[:, None, None], a - narrow, 0.0), fits


def _numbers(batch: Batch) -> IntArray:
    """How many numbers each block has."""
    if isinstance(batch, RaggedBatch):
        return batch.heights * batch.widths
    return np.full(len(batch), batch.data.shape[1] * batch.data.shape[2])


def _split(batch: Any, mark: NumpyArray) -> tuple[Any, Any]:
    """The blocks that are not marked, and those that are, in half the precision."""
    wide, narrow = (
        chosen(batch, np.flatnonzero(m)) if isinstance(batch, RaggedBatch)
        else BlockBatch(batch.data[m], batch.rows[m], batch.cols[m])
        for m in (~mark, mark)
    )  # fmt: skip
    return wide, replace(narrow, data=narrowed(narrow.data))
