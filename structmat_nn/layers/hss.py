"""HSSLinear: a linear layer whose weight is an HSS matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from structmat import Certificate, ClusterTree, HSSMatrix
from structmat._typing import NumpyArray
from structmat.hss import dense
from structmat.tree import require_equal_trees

from . import telescopic
from .conversion import classical_matrix, compressed, telescopic_stacks, widened_stacks
from .route import dense_from
from .structured import StructuredLinear, as_numpy, layer_trees, require_format, torch_dtype
from .telescopic import Generators, Telescopic

__all__ = ["HSSLinear", "hss_parameter_count"]


def hss_parameter_count(n: int, levels: int, rank: int | Sequence[int]) -> int:
    """Number of parameters of a square HSS weight.

    For one rank r, L >= 1 levels and equal leaves ``n^2 / 2^L + 2 n r + 8 r^2 (2^L - 2) + 4 r^2``; for L = 0 ``n^2``.

    Parameters
    ----------
    n : int
        Rows and columns.
    levels : int
        L, the number of levels below the root.
    rank : int or sequence of int
        r, of all levels or of each level from 1 to L.

    Examples
    --------
    >>> from structmat_nn import hss_parameter_count
    >>> hss_parameter_count(256, levels=3, rank=2)
    9424
    """
    return Telescopic.of(n, n, rank=rank, levels=levels).parameter_count


class HSSLinear(StructuredLinear):
    """A linear layer whose weight is an HSS matrix in telescopic form.

    Parameters
    ----------
    in_features, out_features : int
        Columns and rows of the weight, any sizes of at least ``2**levels``; leaves differ in size by at most one.
    rank : int or sequence of int
        Rank of all levels, or one for each level from 1 (below the root) to `levels` (the leaves). 0: no coupling.
    levels : int
        Levels below the root; 0 is a plain dense matrix.
    column_rank : int or sequence of int, optional
        Rank of the column bases V where it differs from that of the row bases U.
    trees : pair of ClusterTree, optional
        Trees of rows and columns, of depth `levels`, where the structure is in another order than that of the indices.
    bias : bool
        Add a trainable vector (out_features,).
    route : {"auto", "structured", "core", "dense"}
        How products are computed: block by block on all levels ("structured"); the leaves block by block and the inner
        matrix densely ("core"); the whole weight densely ("dense"). "auto" takes the first or the last of these, by a
        rule of sizes and batch (`structmat_nn.layers.route`).
    device, dtype : optional
        Of the parameters.

    Attributes
    ----------
    D0, D1, U1, V1, ... : torch.nn.Parameter
        The stacks by level: at the leaves D ``(2**L, p, q)``, U ``(2**L, p, r)`` and V ``(2**L, q, r)``; above, with
        the rank r' of the level below, D ``(2**l, 2 r', 2 r')`` and U, V ``(2**l, 2 r', r)``. Stacks of unequal leaves
        are stored flat, their true entries one block after another, row by row: no number is stored or trained that is
        not in the weight.
    structure : Telescopic
        Sizes and ranks.

    Notes
    -----
    Memory O(n (p + r)), product O(n (p + r)) for each vector. The diagonal r x r parts of an inner D are
    redundant, as in the paper; `to_matrix` folds them into the leaves.

    References
    ----------
    P. Sittoni, E. Zangrando, A. A. Casulli, N. Guglielmi, F. Tudisco, "Neural-HSS", section 2 and algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import HSSLinear
    >>> layer = HSSLinear(256, 256, rank=2, levels=3)
    >>> layer(torch.ones(10, 256)).shape, layer.weight_parameter_count
    (torch.Size([10, 256]), 9424)
    >>> layer.to_matrix().shape
    (256, 256)
    """

    routes: ClassVar[tuple[str, ...]] = ("auto", "structured", "core", "dense")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int | Sequence[int],
        levels: int,
        column_rank: int | Sequence[int] | None = None,
        trees: tuple[ClusterTree, ClusterTree] | None = None,
        bias: bool = False,
        route: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, route=route, device=device, dtype=dtype)
        shape = (self.out_features, self.in_features)
        self.structure = Telescopic.of(*shape, rank=rank, levels=levels, column_rank=column_rank)
        self._dense_from = dense_from(self.structure)
        self.joinable = trees is None and route == "auto"  # see `structmat_nn.layers.joint`
        self.row_tree, self.col_tree = layer_trees(trees, shape, self.structure.levels)
        for name, size in self.structure.parameter_shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(size, device=device, dtype=dtype)))
        index = self.structure.index_buffers((self.row_tree, self.col_tree))
        self._index_names = tuple(index)
        for name, values in index.items():
            self.register_buffer(name, values.to(device), persistent=False)
        self.reset_parameters()

    # -------------------------------------------------------------------------------------- products

    def parameter_stacks(self) -> list[tuple[Telescopic, dict[str, Tensor]]]:
        """The structure, and the parameters of the weight by name."""
        return [(self.structure, {name: getattr(self, name) for name in self.structure.parameter_shapes})]

    def generators(self) -> Generators:
        """The padded stacks of generators, through which gradients flow."""
        ((structure, parameters),) = self.parameter_stacks()
        return structure.generators(parameters, {name: getattr(self, name) for name in self._index_names})

    def dense_weight(self) -> Tensor:
        """The weight as one differentiable matrix, (out_features, in_features). Cost O(n^2 r)."""
        return telescopic.dense(self.generators())

    def _columns(self, x: Tensor) -> Tensor:
        return telescopic.apply(self.generators(), x, dense_level=self.dense_level(x.shape[-1]))

    def dense_level(self, columns: int) -> int:
        """The level whose matrix is formed densely in a product with this many vectors; 0 for none, L for the whole."""
        levels = self.structure.levels
        route = self.route
        if route == "auto":
            route = "dense" if columns >= self._dense_from else "structured"
        return {"structured": 0, "core": max(levels - 1, 0), "dense": levels}[route]

    def _deviations(self) -> dict[str, Tensor]:
        return self.structure.initial_deviations()

    # ----------------------------------------------------------------------------------- conversions

    @classmethod
    def from_matrix(cls, matrix: HSSMatrix, **options: Any) -> Self:
        """The layer whose weight is an HSS matrix, to rounding.

        Parameters
        ----------
        matrix : HSSMatrix
            Real; symmetric or not, any shape, ranks by level as they are, also on trees with a permutation. Within a
            level all nodes get the largest rank of the level.
        **options
            `bias`, `route`, `device` and `dtype` of the layer; the type is by default the one of the matrix.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> from structmat_nn import HSSLinear
        >>> x = np.linspace(0, 1, 100)
        >>> A = sm.HSSMatrix.from_dense(np.exp(-abs(x[:, None] - x)), sm.ClusterTree.balanced(100, leaf_size=16))
        >>> layer = HSSLinear.from_matrix(A)
        >>> bool(np.allclose(layer.dense_weight().detach(), A.to_dense(), rtol=0, atol=1e-14))
        True
        >>> bool(np.allclose(layer.to_matrix().to_dense(), A.to_dense(), rtol=0, atol=1e-14))
        True
        """
        require_format(matrix, HSSMatrix)
        bases = matrix.generators.expanded()
        levels = matrix.row_tree.depth
        layer = cls(
            matrix.shape[1],
            matrix.shape[0],
            rank=[bases.row_basis.width(level) for level in range(1, levels + 1)],
            column_rank=[bases.col_basis.width(level) for level in range(1, levels + 1)],
            levels=levels,
            trees=(matrix.row_tree, matrix.col_tree),
            **({"dtype": torch_dtype(matrix)} | options),
        )
        layer._load_stacks(telescopic_stacks(matrix.generators))
        return layer

    def to_matrix(self) -> HSSMatrix:
        """The weight as an HSS matrix, to rounding: float64 from a float64 layer, else float32. Without the bias.

        Cost O(n r^2): what the inner D hold within one node is carried down to the leaves.
        """
        return classical_matrix(self._stacks(), self.row_tree, self.col_tree)

    def _stacks(self) -> dict[str, NumpyArray]:
        """The padded stacks by name."""
        g = self.generators()
        named = {f"D{level}": a for level, a in enumerate(g.diagonal)}
        for letter, bases in (("U", g.row_bases), ("V", g.col_bases)):
            named |= {f"{letter}{level}": a for level, a in enumerate(bases, start=1)}
        return {name: self._numpy(a) for name, a in named.items()}

    def load_matrix(self, matrix: HSSMatrix) -> None:
        """Set the weight to an HSS matrix, cut to the ranks of this layer where they are smaller.

        Parameters
        ----------
        matrix : HSSMatrix
            Real, on the trees of the layer.

        Raises
        ------
        TreeMismatchError
            Unless the trees are those of the layer; `from_matrix` makes a layer for any trees.
        """
        require_format(matrix, HSSMatrix)
        torch_dtype(matrix)  # a complex one is refused
        require_equal_trees(matrix.row_tree, self.row_tree, "the rows of the matrix and of the layer")
        require_equal_trees(matrix.col_tree, self.col_tree, "the columns of the matrix and of the layer")
        cut = compressed(matrix.generators, self.structure.row_ranks, self.structure.col_ranks)
        self._load_stacks(telescopic_stacks(cut))

    def _load_stacks(self, stacks: dict[str, NumpyArray]) -> None:
        """Copy stacks whose ranks are at most those of the layer."""
        for name, stack in widened_stacks(stacks, self.structure.stack_shapes, self._stacks()).items():
            self._load(name, self.structure.stored(name, torch.from_numpy(stack)))

    def _load_dense(self, weight: NumpyArray) -> None:
        tail = 1e-15 * float(np.linalg.norm(weight))  # what is cut is cut by the ranks alone
        full, _ = dense.compress(weight, self.row_tree, self.col_tree, tail=tail, max_rank=None, symmetric=False)
        self._load_stacks(telescopic_stacks(compressed(full, self.structure.row_ranks, self.structure.col_ranks)))

    @torch.no_grad()
    def init_from_samples(
        self,
        inputs: Any,
        outputs: Any,
        *,
        adjoint_inputs: Any = None,
        adjoint_outputs: Any = None,
        symmetric: bool = False,
    ) -> Certificate:
        """Set the weight to the HSS matrix that maps inputs to outputs, found in closed form, without training.

        Parameters
        ----------
        inputs, outputs : (samples, in_features), (samples, out_features)
            Pairs that span enough, random ones for instance: a leaf, the rank and a few more.
        adjoint_inputs, adjoint_outputs : (samples', out_features), (samples', in_features), optional
            Pairs of the transposed map; needed unless `symmetric`.
        symmetric : bool
            The matrix is symmetric.

        Returns
        -------
        Certificate
            Of the recovered matrix; its `details` say how well the samples determine it.

        Raises
        ------
        TooFewSamplesError
            When the samples cannot determine the matrix; the message says how many it takes.

        See Also
        --------
        structmat.HSSMatrix.from_samples : what finds the matrix.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from structmat_nn import HSSLinear
        >>> t = np.linspace(0, 1, 64)
        >>> operator = np.exp(-abs(t[:, None] - t))
        >>> inputs = np.random.default_rng(0).standard_normal((12, 64))
        >>> layer = HSSLinear(64, 64, rank=2, levels=3, dtype=torch.float64)
        >>> certificate = layer.init_from_samples(inputs, inputs @ operator, symmetric=True)
        >>> bool(np.abs(layer.dense_weight().detach().numpy() - operator).max() < 1e-10)
        True
        """
        adjoints: dict[str, Any] = {
            name: as_numpy(a, name).T
            for name, a in (("adjoint_inputs", adjoint_inputs), ("adjoint_outputs", adjoint_outputs))
            if a is not None
        }
        matrix = HSSMatrix.from_samples(
            as_numpy(inputs, "inputs").T,
            as_numpy(outputs, "outputs").T,
            (self.row_tree, self.col_tree),
            rank=max((*self.structure.row_ranks, *self.structure.col_ranks), default=1) or 1,
            symmetric=symmetric,
            **adjoints,
        )
        self.load_matrix(matrix)
        return matrix.certificate

    def extra_repr(self) -> str:
        """Sizes, ranks and the route, for `print`."""
        ranks = sorted({*self.structure.row_ranks, *self.structure.col_ranks})
        rank = ranks[0] if len(ranks) == 1 else self.structure.row_ranks
        return f"{super().extra_repr()}, rank={rank}, levels={self.structure.levels}"
