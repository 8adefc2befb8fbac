"""HODLRLinear: a linear layer whose weight is a HODLR matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from structmat import ClusterTree, HODLRMatrix
from structmat._typing import NumpyArray
from structmat.blocks import BlockBatch, LowRankBatch
from structmat.certificate import exact
from structmat.flat.storage import FlatBlocks

from .structured import StructuredLinear, balanced_factors, layer_trees, require_format, torch_dtype
from .telescopic import by_node, checked_levels, filled_slots, ranks_by_level

__all__ = ["HODLRLinear"]


class HODLRLinear(StructuredLinear):
    """A linear layer whose weight has dense leaves and, between siblings of each level, blocks of low rank.

    Like `HSSLinear`, but the bases of a level are independent of those below it.

    Parameters
    ----------
    in_features, out_features : int
        Columns and rows of the weight, any sizes of at least ``2**levels``; leaves differ in size by at most one.
    rank : int or sequence of int
        Rank of all levels, or one for each level from 1 (below the root) to `levels` (the leaves). 0: no coupling.
    levels : int
        Levels below the root; 0 is a plain dense matrix.
    trees : pair of ClusterTree, optional
        Trees of rows and columns, of depth `levels`, where the structure is in another order than that of the indices.
    bias : bool
        Add a trainable vector (out_features,).
    route : {"auto", "structured", "dense"}
        Multiply block by block, or form the whole weight and multiply by it. "auto" is block by block.
    device, dtype : optional
        Of the parameters.

    Attributes
    ----------
    D : torch.nn.Parameter
        The leaves (2**L, p, q); where they are unequal flat, one after another, row by row.
    U1, V1, U2, V2, ... : torch.nn.Parameter
        Of each level (rows, r) and (columns, r), in the order of the trees: block (t, s) of siblings is
        ``U[rows of t] @ V[columns of s]^T``.

    Notes
    -----
    Parameters about ``rows * columns / 2^L + (rows + columns) * (sum of the ranks)``; product of the same cost for each
    vector.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import HODLRLinear
    >>> layer = HODLRLinear(256, 256, rank=2, levels=3)
    >>> layer(torch.ones(10, 256)).shape, layer.weight_parameter_count
    (torch.Size([10, 256]), 11264)
    """

    routes: ClassVar[tuple[str, ...]] = ("auto", "structured", "dense")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int | Sequence[int],
        levels: int,
        trees: tuple[ClusterTree, ClusterTree] | None = None,
        bias: bool = False,
        route: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, route=route, device=device, dtype=dtype)
        shape = (self.out_features, self.in_features)
        self.levels = checked_levels(levels, shape)
        self.ranks = ranks_by_level(rank, self.levels)
        for level, r in enumerate(self.ranks, start=1):
            limit = -(-min(shape) // 2**level)
            if r > limit:
                raise ValueError(
                    f"rank {r} on level {level} is too large: a block of that level has {limit} rows or columns "
                    f"(shape {shape}); use a rank of at most {limit} there"
                )
        self.row_tree, self.col_tree = layer_trees(trees, shape, self.levels)
        rows, cols = filled_slots(self.row_tree), filled_slots(self.col_tree)  # (2**L, p), (2**L, q)
        self._leaf_shape = (2**self.levels, rows.shape[1], cols.shape[1])
        entries = np.flatnonzero(rows[:, :, None] & cols[:, None, :])
        self._padded = self.row_tree.is_padded or self.col_tree.is_padded
        leaves = (len(entries),) if self._padded else self._leaf_shape
        self.D = nn.Parameter(torch.empty(leaves, device=device, dtype=dtype))
        for level, r in enumerate(self.ranks, start=1):
            self.register_parameter(f"U{level}", nn.Parameter(torch.empty(shape[0], r, device=device, dtype=dtype)))
            self.register_parameter(f"V{level}", nn.Parameter(torch.empty(shape[1], r, device=device, dtype=dtype)))
        self._register_indices(entries, rows, cols, device)
        self.reset_parameters()

    def _register_indices(self, entries: NumpyArray, rows: NumpyArray, cols: NumpyArray, device: Any) -> None:
        """Where parameters and vectors lie in padded leaves; None where that is the identity."""
        found = {
            "D_entries": entries if self._padded else None,
            "row_filled": np.flatnonzero(rows) if self.row_tree.is_padded else None,
            "col_filled": np.flatnonzero(cols) if self.col_tree.is_padded else None,
            "row_slots": _slots(self.row_tree),
            "col_slots": _slots(self.col_tree),
        }
        for name, index in found.items():
            self.register_buffer(name, None if index is None else torch.from_numpy(index).to(device), persistent=False)

    # -------------------------------------------------------------------------------------- products

    def _leaves(self) -> Tensor:
        """Padded leaves, (2**L, p, q)."""
        return _spread(self.D, self.D_entries, int(np.prod(self._leaf_shape))).reshape(self._leaf_shape)

    def _factors(self, level: int) -> tuple[Tensor, Tensor]:
        """U ``(2**level, P, r)`` of each node and V ``(2**level, Q, r)`` of its sibling, in padded leaves."""
        nodes, p, q = self._leaf_shape
        u = _spread(getattr(self, f"U{level}"), self.row_filled, nodes * p)
        v = _spread(getattr(self, f"V{level}"), self.col_filled, nodes * q)
        return by_node(u, level), _siblings(by_node(v, level))

    def dense_weight(self) -> Tensor:
        """The weight as one differentiable matrix, (out_features, in_features). Cost O(n^2 r)."""
        blocks = self._leaves()  # (2**level, P, Q), the diagonal blocks of a level
        for level in range(self.levels, 0, -1):
            u, v = self._factors(level)
            beside = u @ v.mT
            upper = torch.cat([blocks[::2], beside[::2]], dim=-1)
            lower = torch.cat([beside[1::2], blocks[1::2]], dim=-1)
            blocks = torch.cat([upper, lower], dim=-2)
        weight = blocks.squeeze(0)
        weight = weight if self.row_slots is None else weight.index_select(0, self.row_slots)
        return weight if self.col_slots is None else weight.index_select(1, self.col_slots)

    def _columns(self, x: Tensor) -> Tensor:
        if self.route == "dense" or self.levels == 0:
            return self.dense_weight() @ x
        nodes, _, q = self._leaf_shape
        z = _spread(x, self.col_slots, nodes * q)  # (slots, k)
        y = (self._leaves() @ by_node(z, self.levels)).flatten(0, 1)
        for level in range(1, self.levels + 1):
            u, v = self._factors(level)
            beside = _siblings(by_node(z, level))
            y = y + (u @ (v.mT @ beside)).flatten(0, 1)
        return y if self.row_slots is None else y.index_select(0, self.row_slots)

    def _deviations(self) -> dict[str, Tensor]:
        coupled = [level for level, r in enumerate(self.ranks, start=1) if r > 0]
        leaf_sizes = torch.from_numpy(self.col_tree.sizes(self.levels)).double().reshape(-1, 1, 1)
        own = ((0.5 if coupled else 1.0) / leaf_sizes).expand(self._leaf_shape)
        own = own if self.D_entries is None else own.flatten().index_select(0, self.D_entries.cpu())
        deviations = {"D": own.sqrt()}
        for level, r in enumerate(self.ranks, start=1):
            share = 0.5 / max(len(coupled), 1)  # of the output's variance
            deviations[f"U{level}"] = torch.tensor(share / max(r, 1)).sqrt()
            sizes = self.col_tree.sizes(level)
            deviations[f"V{level}"] = torch.from_numpy(np.repeat(1.0 / np.sqrt(sizes), sizes)).unsqueeze(-1)
        return deviations

    # ----------------------------------------------------------------------------------- conversions

    @classmethod
    def from_matrix(cls, matrix: HODLRMatrix, **options: Any) -> Self:
        """The layer whose weight is a HODLR matrix, to rounding.

        Parameters
        ----------
        matrix : HODLRMatrix
            Real; symmetric or not, any shape, also on trees with a permutation. Within a level all blocks get the
            largest rank of the level.
        **options
            `bias`, `route`, `device` and `dtype` of the layer; the type is by default the one of the matrix.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> from structmat_nn import HODLRLinear
        >>> x = np.linspace(0, 1, 100)
        >>> A = sm.HODLRMatrix.from_dense(np.exp(-abs(x[:, None] - x)), sm.ClusterTree.balanced(100, leaf_size=16))
        >>> layer = HODLRLinear.from_matrix(A)
        >>> bool(np.allclose(layer.dense_weight().detach(), A.to_dense(), rtol=0, atol=1e-14))
        True
        """
        require_format(matrix, HODLRMatrix)
        leaves, factors = _padded_blocks(matrix)
        layer = cls(
            matrix.shape[1],
            matrix.shape[0],
            rank=[u.shape[2] for u, _ in factors],
            levels=matrix.row_tree.depth,
            trees=(matrix.row_tree, matrix.col_tree),
            **({"dtype": torch_dtype(matrix)} | options),
        )
        layer._load_blocks(leaves, factors)
        return layer

    def to_matrix(self) -> HODLRMatrix:
        """The weight as a HODLR matrix, to rounding: float64 from a float64 layer, else float32. Without the bias."""
        leaves = self._numpy(self._leaves())
        nodes, p, q = leaves.shape
        near: list[BlockBatch] = []
        far: list[tuple[LowRankBatch, ...]] = []
        for level in range(self.levels + 1):
            width = 2 ** (self.levels - level)
            none = np.zeros(0, dtype=np.int64)
            near.append(BlockBatch(np.zeros((0, p * width, q * width), dtype=leaves.dtype), none, none))
            if level == 0 or self.ranks[level - 1] == 0:
                far.append(())
                continue
            node = np.arange(2**level)
            u, v = (self._numpy(f) for f in self._factors(level))
            far.append((LowRankBatch(u, np.ascontiguousarray(v), node, node ^ 1),))
        near[-1] = BlockBatch(leaves, np.arange(nodes), np.arange(nodes))
        certificate = exact(0.0, float(np.finfo(leaves.dtype).eps))
        return HODLRMatrix(FlatBlocks(tuple(near), tuple(far)), self.row_tree, self.col_tree, certificate)

    def _load_dense(self, weight: NumpyArray) -> None:
        nodes, p, q = self._leaf_shape
        padded = np.zeros((nodes * p, nodes * q))
        padded[np.ix_(self.row_tree.leaf_slots, self.col_tree.leaf_slots)] = weight
        node = np.arange(nodes)
        leaves = padded.reshape(nodes, p, nodes, q)[node, :, node]
        factors = []
        for level, rank in enumerate(self.ranks, start=1):
            node = np.arange(2**level)
            size = nodes >> level
            blocks = padded.reshape(2**level, p * size, 2**level, q * size)[node, :, node ^ 1]  # (2**level, P, Q)
            factors.append(balanced_factors(blocks, rank))
        self._load_blocks(leaves, factors)

    def _load_blocks(self, leaves: NumpyArray, factors: list[tuple[NumpyArray, NumpyArray]]) -> None:
        """Copy padded leaves, and for each level U of each node and V of its sibling, of exactly the layer's ranks."""
        flat = torch.from_numpy(leaves).flatten()
        self._load("D", (flat if self.D_entries is None else flat[self.D_entries.cpu()]).reshape(self.D.shape))
        for level, (u, v) in enumerate(factors, start=1):
            beside = _siblings(torch.from_numpy(v))
            for name, factor, filled in (
                (f"U{level}", torch.from_numpy(u), self.row_filled),
                (f"V{level}", beside, self.col_filled),
            ):
                values = factor.flatten(0, 1)
                self._load(name, values if filled is None else values[filled.cpu()])


def _slots(tree: ClusterTree) -> NumpyArray | None:
    return tree.leaf_slots if tree.is_padded or not tree.is_identity else None


def _spread(values: Tensor, index: Tensor | None, size: int) -> Tensor:
    """`values` at these places of the first axis of a tensor of zeros."""
    if index is None:
        return values
    return values.new_zeros((size, *values.shape[1:])).index_copy(0, index, values)


def _siblings(blocks: Tensor) -> Tensor:
    """The blocks of a level ``(2**l, p, k)`` with each pair of siblings exchanged."""
    return blocks.unflatten(0, (len(blocks) // 2, 2)).flip(1).flatten(0, 1)


def _padded_blocks(matrix: HODLRMatrix) -> tuple[NumpyArray, list[tuple[NumpyArray, NumpyArray]]]:
    """The leaves ``(2**L, p, q)``; for each level U ``(2**l, P, r)`` of nodes and V ``(2**l, Q, r)`` of siblings."""
    blocks = matrix.blocks.expanded()
    depth = matrix.row_tree.depth
    leaves = np.zeros((2**depth, matrix.row_tree.leaf_size, matrix.col_tree.leaf_size), dtype=matrix.dtype)
    leaves[blocks.near[depth].rows] = blocks.near[depth].data
    factors = []
    for level in range(1, depth + 1):
        batches = blocks.far[level]
        rank = max((b.rank for b in batches), default=0)
        p, q = (tree.leaf_size << (depth - level) for tree in (matrix.row_tree, matrix.col_tree))
        u, v = (np.zeros((2**level, size, rank), dtype=matrix.dtype) for size in (p, q))
        for b in batches:
            u[b.rows, :, : b.rank], v[b.rows, :, : b.rank] = b.left, b.right
        factors.append((u, v))
    return leaves, factors
