"""Telescopic decompositions as stacks of generators: the functional core of the HSS layers.

A matrix of L levels is ``A = A^(L)`` with ``A^(0) = D^(0)`` and, for the levels l = 1 .. L,

    A^(l) = blkdiag(D^(l)) + blkdiag(U^(l)) A^(l-1) blkdiag(V^(l))^T.

On a level there are ``2**l`` blocks, held as one stack. A leaf has D (p, q), U (p, r) and V (q, r); an inner node has
D (2r, 2r), U and V (2r, r); the root has D (2r, 2r) alone. All stacks may have the same leading axes, so that many
matrices of one structure are one object. Everything here is differentiable and made of products only.

Leaves may differ in size by one, as in `structmat.ClusterTree`. *Stored* parameters hold the true entries only: where
leaves are unequal, a leaf-level stack is stored flat. `Telescopic.generators` pads it with zeros for the computation.

References
----------
A. A. Casulli, D. Kressner, L. Robol, "Computing functions of symmetric hierarchically semiseparable matrices",
SIAM J. Matrix Anal. Appl. 45 (2024), definition 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from structmat import ClusterTree
from structmat._check import positive_integer
from structmat._typing import IntArray, NumpyArray
from structmat.exceptions import ShapeError

from .product import block_product

__all__ = ["Generators", "Telescopic", "apply", "dense", "inner_matrix"]


class Generators(NamedTuple):
    """The padded stacks of one matrix, or of many with the same leading axes.

    Attributes
    ----------
    diagonal : tuple of ``(*lead, 2**l, p, q)`` tensors
        D of the levels l = 0 .. L.
    row_bases, col_bases : tuple of ``(*lead, 2**l, p, r)`` tensors
        U and V of the levels 1 .. L.
    row_slots, col_slots : (n,) int64 tensor or None
        Where each index lies in the flattened padded leaves; None where that is the identity.
    """

    diagonal: tuple[Tensor, ...]
    row_bases: tuple[Tensor, ...]
    col_bases: tuple[Tensor, ...]
    row_slots: Tensor | None = None
    col_slots: Tensor | None = None

    @property
    def levels(self) -> int:
        """Number of levels below the root."""
        return len(self.row_bases)


@dataclass(frozen=True)
class Telescopic:
    """Sizes of a telescopic decomposition, from which all shapes follow.

    Parameters
    ----------
    rows, columns : int
        Shape of the matrix.
    row_ranks, col_ranks : tuple of int
        Ranks of U and of V of the levels 1 .. L; their length is the number of levels.

    Examples
    --------
    >>> from structmat_nn.layers.telescopic import Telescopic
    >>> structure = Telescopic.of(256, 256, rank=2, levels=3)
    >>> structure.parameter_count
    9424
    >>> structure.parameter_shapes["U3"], structure.parameter_shapes["D0"]
    ((8, 32, 2), (1, 4, 4))
    """

    rows: int
    columns: int
    row_ranks: tuple[int, ...]
    col_ranks: tuple[int, ...]

    @classmethod
    def of(
        cls, rows: int, columns: int, *, rank: int | Sequence[int], levels: int,
        column_rank: int | Sequence[int] | None = None,
    ) -> Telescopic:  # fmt: skip
        """The structure with one rank for all levels, or one for each of the levels 1 .. L.

        `column_rank` is that of V where it differs from the one of U.

        Raises
        ------
        ShapeError
            If there are more leaves than rows or columns.
        ValueError
            If a rank exceeds the size of the nodes of its level, where it would only add redundant parameters.
        """
        shape = positive_integer(rows, "the number of rows"), positive_integer(columns, "the number of columns")
        levels = checked_levels(levels, shape)
        row_ranks = ranks_by_level(rank, levels)
        col_ranks = row_ranks if column_rank is None else ranks_by_level(column_rank, levels)
        for side, size, ranks in (("rows", shape[0], row_ranks), ("columns", shape[1], col_ranks)):
            sizes = [*(2 * r for r in ranks[1:]), -(-size // 2**levels)][:levels]
            for level, (r, limit) in enumerate(zip(ranks, sizes, strict=True), start=1):
                if r > limit:
                    has = (
                        f"a leaf has {limit} {side}"
                        if level == levels
                        else f"twice the rank of level {level + 1} is {limit}"
                    )
                    raise ValueError(
                        f"rank {r} on level {level} is too large: {has} (shape {shape}, levels = {levels}); "
                        f"use a rank of at most {limit}" + (" or fewer levels" if level == levels else " there")
                    )
        return cls(*shape, row_ranks, col_ranks)

    @property
    def levels(self) -> int:
        """Number of levels below the root."""
        return len(self.row_ranks)

    @cached_property
    def row_tree(self) -> ClusterTree:
        """The tree of the rows."""
        return ClusterTree.balanced(self.rows, depth=self.levels)

    @cached_property
    def col_tree(self) -> ClusterTree:
        """The tree of the columns."""
        return ClusterTree.balanced(self.columns, depth=self.levels)

    # ----------------------------------------------------------------------------------- shapes

    @cached_property
    def stack_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape of each padded stack, without leading axes, by name: "D0", "D1", "U1", "V1", ... up to the leaves."""
        shapes = {}
        for level in range(self.levels + 1):
            leaf = level == self.levels
            p = self.row_tree.leaf_size if leaf else 2 * self.row_ranks[level]
            q = self.col_tree.leaf_size if leaf else 2 * self.col_ranks[level]
            shapes[f"D{level}"] = (2**level, p, q)
            if level > 0:
                shapes[f"U{level}"] = (2**level, p, self.row_ranks[level - 1])
                shapes[f"V{level}"] = (2**level, q, self.col_ranks[level - 1])
        return shapes

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each stored parameter, without leading axes: that of its stack, or (entries,) for unequal leaves."""
        return {
            name: (len(self.true_entries[name]),) if name in self.true_entries else shape
            for name, shape in self.stack_shapes.items()
        }

    @property
    def parameter_count(self) -> int:
        """Number of true entries of all stacks together."""
        return sum(int(np.prod(shape)) for shape in self.parameter_shapes.values())

    @cached_property
    def true_entries(self) -> dict[str, IntArray]:
        """For each stack that is padded, the positions of its true entries when flattened."""
        row, col = (filled_slots(tree) for tree in (self.row_tree, self.col_tree))  # (2**L, p), (2**L, q)
        entries = {}
        for name, padded, filled in (
            ("D", self.row_tree.is_padded or self.col_tree.is_padded, row[:, :, None] & col[:, None, :]),
            ("U", self.row_tree.is_padded, row[:, :, None]),
            ("V", self.col_tree.is_padded, col[:, :, None]),
        ):
            shape = self.stack_shapes.get(f"{name}{self.levels}")
            if padded and shape is not None:
                entries[f"{name}{self.levels}"] = np.flatnonzero(np.broadcast_to(filled, shape))
        return entries

    def index_buffers(self, trees: tuple[ClusterTree, ClusterTree] | None = None) -> dict[str, Tensor]:
        """The integer tensors that `generators` needs: none for equal leaves. Register them, not persistent.

        Parameters
        ----------
        trees : pair of ClusterTree, optional
            Trees of the rows and of the columns with an order of their own; sizes and depth as here.
        """
        buffers = {f"{name}_entries": torch.from_numpy(index) for name, index in self.true_entries.items()}
        row_tree, col_tree = trees or (self.row_tree, self.col_tree)
        for name, tree in (("row_slots", row_tree), ("col_slots", col_tree)):
            if tree.is_padded or not tree.is_identity:
                buffers[name] = torch.from_numpy(tree.leaf_slots)
        return buffers

    # ------------------------------------------------------------- between parameters and stacks

    def generators(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None) -> Generators:
        """The padded stacks, ready to compute with.

        Parameters
        ----------
        parameters : mapping of str to tensor
            For each name in `parameter_shapes` a tensor of that shape after any leading axes, which all share.
        buffers : mapping of str to tensor, optional
            What `index_buffers` returned, on the device of the parameters. Default: built anew.
        """
        index = self.index_buffers() if buffers is None else buffers

        def stack(name: str) -> Tensor:
            stored = parameters[name]
            if name not in self.true_entries:
                return stored
            shape = self.stack_shapes[name]
            lead = stored.shape[:-1]
            empty = stored.new_zeros((*lead, shape[0] * shape[1] * shape[2]))
            return empty.index_copy(-1, index[f"{name}_entries"], stored).reshape(*lead, *shape)

        below = range(1, self.levels + 1)
        return Generators(
            tuple(stack(f"D{level}") for level in range(self.levels + 1)),
            tuple(stack(f"U{level}") for level in below),
            tuple(stack(f"V{level}") for level in below),
            index.get("row_slots"),
            index.get("col_slots"),
        )

    def stored(self, name: str, stack: Tensor) -> Tensor:
        """The stored form of the padded stack `name`: its true entries."""
        if name not in self.true_entries:
            return stack
        index = torch.from_numpy(self.true_entries[name]).to(stack.device)
        return stack.flatten(-3).index_select(-1, index)

    def initial_deviations(self) -> dict[str, Tensor]:
        """Standard deviation of each stored entry at the start, broadcastable to `parameter_shapes`.

        With them a matrix of independent entries keeps the variance of its input: half of it passes through D and half
        through U on every level, all of it through V and through the root. Float64, without leading axes.
        """
        deviations = {}
        for name, shape in self.stack_shapes.items():
            letter, level = name[0], int(name[1:])
            if letter == "U":
                variance = torch.tensor(0.5 / max(shape[2], 1), dtype=torch.float64)
            else:
                sizes = self.col_tree.sizes(level) if level == self.levels else np.array([2 * self.col_ranks[level]])
                alone = level == 0 or min(self.row_ranks[level - 1], self.col_ranks[level - 1]) == 0
                share = 0.5 if letter == "D" and not alone else 1.0
                variance = torch.from_numpy(share / np.maximum(sizes, 1))
            variance = variance.reshape(-1, 1, 1)
            if name in self.true_entries:
                variance = self.stored(name, variance.expand(shape))
            deviations[name] = variance.sqrt()
        return deviations


def checked_levels(levels: int, shape: tuple[int, int]) -> int:
    """The number of levels, if each leaf then has a row and a column."""
    levels = positive_integer(levels, "levels", minimum=0)
    smaller = min(shape)
    if 2**levels > smaller:
        raise ShapeError(
            f"levels = {levels} needs at least {2**levels} rows and columns, one for each leaf, but the shape is "
            f"{shape}; use levels <= {smaller.bit_length() - 1}"
        )
    return levels


def ranks_by_level(rank: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """One rank for each of the levels 1 .. L."""
    if not isinstance(rank, Sequence):
        return (positive_integer(rank, "rank", minimum=0),) * levels
    ranks = tuple(positive_integer(r, "rank", minimum=0) for r in rank)
    if len(ranks) != levels:
        raise ShapeError(f"rank must be one number or one for each of the {levels} levels, but it has {len(ranks)}")
    return ranks


def filled_slots(tree: ClusterTree) -> NumpyArray:
    """Which slots of the padded leaves hold an index, (leaves, leaf size)."""
    return np.arange(tree.leaf_size) < tree.sizes(tree.depth)[:, None]


# ---------------------------------------------------------------------------------- dense matrices


def inner_matrix(generators: Generators, level: int) -> Tensor:
    """The matrix ``A^(level)``, densely.

    Parameters
    ----------
    generators : Generators
        Padded stacks.
    level : int
        0 .. L.

    Returns
    -------
    ``(*lead, 2**level * p, 2**level * q)`` tensor
        In the order of the padded slots: for the leaf level see `dense`.
    """
    matrix = generators.diagonal[0].squeeze(-3)  # (*lead, p, q)
    for k in range(1, level + 1):
        matrix = _expanded(matrix, generators.diagonal[k], generators.row_bases[k - 1], generators.col_bases[k - 1])
    return matrix


def _expanded(core: Tensor, diagonal: Tensor, row_basis: Tensor, col_basis: Tensor) -> Tensor:
    """blkdiag(D) + blkdiag(U) core blkdiag(V)^T, ``(*lead, nodes * p, nodes * q)``."""
    *lead, nodes, p, row_rank = row_basis.shape
    q, col_rank = col_basis.shape[-2:]
    left = row_basis @ core.reshape(*lead, nodes, row_rank, nodes * col_rank)  # (*lead, nodes, p, nodes * col_rank)
    by_column = left.reshape(*lead, nodes * p, nodes, col_rank).transpose(-3, -2)  # (*lead, nodes, nodes * p, col_rank)
    both = (by_column @ col_basis.mT).reshape(*lead, nodes, nodes, p, q)  # (*lead, column node, row node, p, q)
    # the last axis of a `diagonal` is the node
    own = both.diagonal(dim1=-4, dim2=-3) + diagonal.movedim(-3, -1)
    blocks = torch.diagonal_scatter(both, own.to(both.dtype), dim1=-4, dim2=-3)
    return blocks.movedim(-4, -2).reshape(*lead, nodes * p, nodes * q)


def dense(generators: Generators) -> Tensor:
    """The whole matrix, ``(*lead, rows, columns)``. Cost O(rows * columns * rank)."""
    matrix = inner_matrix(generators, generators.levels)
    if generators.row_slots is not None:
        matrix = matrix.index_select(-2, generators.row_slots)
    if generators.col_slots is not None:
        matrix = matrix.index_select(-1, generators.col_slots)
    return matrix


# --------------------------------------------------------------------------------------- products


def apply(generators: Generators, x: Tensor, *, dense_level: int = 0) -> Tensor:
    """The product with the columns of `x`.

    Parameters
    ----------
    generators : Generators
        Padded stacks with leading axes `lead`.
    x : ``(*lead, columns, k)`` tensor
        Vectors to multiply, one a column; its leading axes broadcast against those of the generators.
    dense_level : int
        ``A^(dense_level)`` is formed densely and multiplied by as one matrix; the levels above it are applied block by
        block. 0: everything block by block; L: the whole matrix densely.

    Returns
    -------
    ``(*lead, rows, k)`` tensor

    Notes
    -----
    Cost O((rows + columns) (p + r) k) block by block, in two or three batched products a level.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.layers.telescopic import Telescopic, apply, dense
    >>> structure = Telescopic.of(30, 40, rank=2, levels=2)
    >>> parameters = {name: torch.randn(3, *shape) for name, shape in structure.parameter_shapes.items()}
    >>> stacks = structure.generators(parameters)  # of three matrices
    >>> x = torch.randn(3, 40, 5)
    >>> apply(stacks, x).shape, torch.allclose(apply(stacks, x), dense(stacks) @ x, atol=1e-2)
    (torch.Size([3, 30, 5]), True)
    """
    if dense_level >= generators.levels:
        return dense(generators) @ x
    z = _to_slots(x, generators)
    core = inner_matrix(generators, dense_level)
    y = (
        _as_one_node(generators, core, z, dense_level)
        if _one_node(core, z)
        else _recorded(generators, core, z, dense_level)
    )
    return y if generators.row_slots is None else y.index_select(-2, generators.row_slots)


def _one_node(core: Tensor, z: Tensor) -> bool:
    """Whether the product can be one node of the autograd graph: one matrix, one type, and nobody transforms it."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    plain = core.dim() == z.dim() == 2 and core.dtype == z.dtype
    return plain and not torch.is_autocast_enabled(z.device.type)


def _as_one_node(generators: Generators, core: Tensor, z: Tensor, dense_level: int) -> Tensor:
    stacks = (generators.diagonal[1:], generators.row_bases, generators.col_bases)
    return block_product(core, list(zip(*stacks, strict=True))[dense_level:], z)


def _recorded(generators: Generators, core: Tensor, z: Tensor, dense_level: int) -> Tensor:
    """The product, operation by operation."""
    direct = []  # D z of the levels L .. dense_level + 1
    for level in range(generators.levels, dense_level, -1):
        blocks = by_node(z, level)
        direct.append(generators.diagonal[level] @ blocks)
        z = (generators.col_bases[level - 1].mT @ blocks).flatten(-3, -2)
    y = core @ z
    for level in range(dense_level + 1, generators.levels + 1):
        y = (direct.pop() + generators.row_bases[level - 1] @ by_node(y, level)).flatten(-3, -2)
    return y


def by_node(x: Tensor, level: int) -> Tensor:
    """The rows of x ``(*lead, rows, k)`` by the nodes of a level, ``(*lead, 2**level, rows / 2**level, k)``."""
    return x.unflatten(-2, (2**level, x.shape[-2] >> level))


def _to_slots(x: Tensor, generators: Generators) -> Tensor:
    """The rows of `x` at their slots in the padded leaves, zeros elsewhere, ``(*lead, slots, k)``."""
    if generators.col_slots is None:
        return x
    nodes, _, q = generators.diagonal[-1].shape[-3:]
    empty = x.new_zeros((*x.shape[:-2], nodes * q, x.shape[-1]))
    return empty.index_copy(-2, generators.col_slots, x)
