"""Cauchy-like matrices: entries (G H^H)_ij / (x_i - y_j) in batches, and trees that fit both sets of nodes.

Reference: S. Chandrasekaran, M. Gu, X. Sun, J. Xia, J. Zhu, "A superfast algorithm for Toeplitz systems of
linear equations", SIAM J. Matrix Anal. Appl. 29 (2007) 1247-1266: where the nodes interlace, these matrices
have HSS ranks O(r log n). They are built from entries, by interpolative decomposition.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._typing import IntArray, NumpyArray
from ..exceptions import NonFiniteError
from ..sources import EntrySource
from ..tree import ClusterTree


class CauchySource(EntrySource):
    """Entry source of sum_k g[i, k] conj(h[j, k]) / (x_i - y_j), for a batch of blocks at once."""

    def __init__(self, x: NumpyArray, y: NumpyArray, g: NumpyArray, h: NumpyArray) -> None:
        self.x, self.y, self.g, self.h = x, y, g, h
        super().__init__(self._values, (len(x), len(y)), x.dtype)

    def _values(self, i: IntArray, j: IntArray) -> NumpyArray:
        """Blocks (.., p, q) at rows i (.., p) and columns j (.., q)."""
        weight = np.matmul(self.g[i], np.swapaxes(self.h[j].conj(), -1, -2))
        return np.asarray(weight / (self.x[i][..., :, None] - self.y[j][..., None, :]))

    def _describe(self) -> str:
        return "the Cauchy-like matrix"

    def blocks(self, rows: IntArray, cols: IntArray) -> NumpyArray:
        """The blocks (nb, p, q); zero where an index is negative (padding)."""
        out = self._values(np.maximum(rows, 0), np.maximum(cols, 0))
        out *= (rows >= 0)[:, :, None] & (cols >= 0)[:, None, :]
        self.evaluated += out.size
        if not np.isfinite(out).all():
            b = int(np.argwhere(~np.isfinite(out))[0][0])
            self._require_finite(out[b], rows[b], cols[b])
        return out

    def pairs(self, i: IntArray, j: IntArray) -> NumpyArray:
        """The single entries at rows i and columns j, arrays of one shape."""
        weight = (self.g[i] * self.h[j].conj()).sum(axis=-1)
        self.evaluated += weight.size
        return np.asarray(weight / (self.x[i] - self.y[j]))


def require_distinct(x: NumpyArray, y: NumpyArray) -> None:
    """No row node may be a column node."""
    common, i, j = np.intersect1d(x, y, return_indices=True)
    if len(common):
        raise NonFiniteError(
            f"x[{i[0]}] = y[{j[0]}] = {common[0]}, where the entry 1 / (x_i - y_j) is infinite; "
            f"x and y share {len(common)} of their nodes: shift one set"
        )


def node_trees(x: NumpyArray, y: NumpyArray, depth: int) -> tuple[ClusterTree, ClusterTree]:
    """Two trees that are split along the same axes, those of the widest sides of both sets together.

    Two trees of their own could split one circle across and the other along, and then nothing is small off
    the diagonal.
    """
    flat = not (np.any(x.imag) or np.any(y.imag))
    sets = [_coordinates(x, flat), _coordinates(y, flat)]
    perms: list[Any] = [np.arange(len(p)) for p in sets]
    for level in range(depth):
        bounds = [ClusterTree(len(p), level).starts(level) for p in sets]
        low, high = (
            corner(*(corner.reduceat(p[perm], b) for p, perm, b in zip(sets, perms, bounds, strict=True)))
            for corner in (np.minimum, np.maximum)
        )
        axis = (high - low).argmax(axis=1)  # (2**level,)
        for k, (p, b) in enumerate(zip(sets, bounds, strict=True)):
            node = np.repeat(np.arange(2**level), np.diff(np.append(b, len(p))))
            perms[k] = perms[k][np.lexsort((p[perms[k], axis[node]], node))]
    trees = [ClusterTree(len(p), depth, perm, p) for p, perm in zip(sets, perms, strict=True)]
    return trees[0], trees[1]


def _coordinates(z: NumpyArray, flat: bool) -> NumpyArray:
    """Coordinates in float64: on the line (n, 1) where all nodes are real, else in the plane (n, 2)."""
    parts = [z.real] if flat else [z.real, z.imag]
    return np.stack(parts, axis=1).astype(np.float64)
