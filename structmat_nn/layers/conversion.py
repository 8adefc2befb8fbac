"""Between the telescopic form of the HSS layers and the classical one of `structmat.HSSMatrix`.

The classical form has, on each level, couplings B between siblings only. An inner D (2r, 2r) of the telescopic form
holds the couplings of its two children off the diagonal, and on the diagonal an r x r part X for each child. That part
is the same as adding ``U X V^T`` to the D of the child, so it is carried down level by level into the leaves: the two
forms hold the same matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from structmat import ClusterTree, HSSMatrix
from structmat._typing import NumpyArray
from structmat.blocks import NestedBasis
from structmat.certificate import exact
from structmat.hss import truncate
from structmat.hss.generators import Generators


def telescopic_stacks(generators: Generators) -> dict[str, NumpyArray]:
    """The stacks "D0", "D1", "U1", ... of a classical matrix; the diagonal parts of inner D are zero."""
    g = generators.expanded()
    stacks = {f"D{g.depth}": np.asarray(g.diagonal)}
    for level in range(1, g.depth + 1):
        couplings = g.coupling(level)  # (2**level, r, c)
        _, r, c = couplings.shape
        inner = np.zeros((2 ** (level - 1), 2, r, 2, c), dtype=couplings.dtype)
        inner[:, 0, :, 1], inner[:, 1, :, 0] = couplings[::2], couplings[1::2]
        stacks[f"D{level - 1}"] = inner.reshape(2 ** (level - 1), 2 * r, 2 * c)
        stacks[f"U{level}"], stacks[f"V{level}"] = g.row_basis[level], g.col_basis[level]
    return stacks


def classical_matrix(stacks: dict[str, NumpyArray], row_tree: ClusterTree, col_tree: ClusterTree) -> HSSMatrix:
    """The HSS matrix of padded telescopic stacks "D0", "D1", "U1", ..."""
    below = range(1, row_tree.depth + 1)
    row_bases, col_bases = [stacks[f"U{level}"] for level in below], [stacks[f"V{level}"] for level in below]
    current = stacks["D0"]  # D of a level with what came down to it
    couplings: list[Any] = []
    for own, u, v in zip([stacks[f"D{level}"] for level in below], row_bases, col_bases, strict=True):
        nodes, r, c = len(u), u.shape[2], v.shape[2]
        parts = current.reshape(nodes // 2, 2, r, 2, c)
        couplings.append(np.stack([parts[:, 0, :, 1], parts[:, 1, :, 0]], axis=1).reshape(nodes, r, c))
        within = np.stack([parts[:, 0, :, 0], parts[:, 1, :, 1]], axis=1).reshape(nodes, r, c)
        current = own + u @ within @ v.swapaxes(1, 2)
    generators = Generators(current, _basis(row_bases), _basis(col_bases), tuple(couplings))
    return HSSMatrix(generators, row_tree, col_tree, exact(0.0, float(np.finfo(current.dtype).eps)))


def _basis(levels: list[NumpyArray]) -> NestedBasis:
    return NestedBasis(tuple(levels), tuple(np.full(len(a), a.shape[2]) for a in levels))


def compressed(generators: Generators, row_ranks: tuple[int, ...], col_ranks: tuple[int, ...]) -> Generators:
    """The generators with at most these ranks by level: unchanged where they have them already."""
    widths = [[basis.width(level) for level in range(1, generators.depth + 1)]
              for basis in (generators.row_basis, generators.col_basis)]  # fmt: skip
    fits = all(w <= r for w, r in zip((*widths[0], *widths[1]), (*row_ranks, *col_ranks), strict=True))
    if fits:
        return generators
    return truncate.truncate(generators.expanded(), rtol=0.0, max_rank=(row_ranks, col_ranks))[0]


def widened_stacks(
    stacks: dict[str, NumpyArray], shapes: dict[str, tuple[int, int, int]], spare: dict[str, NumpyArray]
) -> dict[str, NumpyArray]:
    """The same matrix in stacks of these shapes, whose ranks may be larger.

    The couplings of what is added are zero. Its bases come from `spare`, of these shapes: with bases of zeros too, its
    gradients would vanish and it could never be trained. Stacks above the leaves have two children side by side, each
    of which is widened on its own.
    """
    depth = max(int(name[1:]) for name in shapes)
    result = {}
    for name, (nodes, p, q) in shapes.items():
        a = stacks[name]
        leaf = int(name[1:]) == depth
        children = (1 if leaf else 2, 1 if leaf or name[0] != "D" else 2)
        parts = a.reshape(nodes, children[0], a.shape[1] // children[0], children[1], a.shape[2] // children[1])
        wide = np.zeros((nodes, children[0], p // children[0], children[1], q // children[1]), dtype=a.dtype)
        wide[:, :, : parts.shape[2], :, : parts.shape[4]] = parts
        result[name] = wide.reshape(nodes, p, q)
        if name[0] != "D":
            result[name][:, :, a.shape[2] :] = spare[name][:, :, a.shape[2] :]
    return result
