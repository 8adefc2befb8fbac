"""A trained NeuralHSS on another grid: interpolation joined to the leaves of its first and last layer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from structmat import ClusterTree
from structmat import _check as check
from structmat._typing import NumpyArray
from structmat.exceptions import ShapeError

from .. import _check
from ..layers.hss import HSSLinear
from ..layers.telescopic import Telescopic
from ..layers.tensor import HSSTensorLinear
from ..layers.tensor_map import LowRankTensorMap

if TYPE_CHECKING:
    from .neural_hss import NeuralHSS

__all__ = ["grid_points", "leaf_interpolation", "prolong"]

GRIDS = ("cell", "vertex", "interior", "periodic")
RESTRICTIONS = ("sample", "average")


def prolong(
    model: NeuralHSS, size: int | tuple[int, ...], *, grid: Any = "cell", degree: int = 3, restriction: str = "sample"
) -> NeuralHSS:
    """The model on a grid of another size, as ``interpolation o model o restriction``.

    Parameters
    ----------
    model : NeuralHSS
        Left as it is.
    size : int or tuple of int
        Points of the new grid along each axis, more or fewer than now.
    grid : str or (old points, new points)
        Where the points lie: "cell" ((i + 1/2)/n), "vertex" (i/(n - 1)), "interior" ((i + 1)/(n + 1)) or "periodic"
        (i/n); or two sequences with one increasing array of coordinates for each axis.
    degree : int
        Of the interpolating polynomials.
    restriction : {"sample", "average"}
        How a field comes to the old grid: interpolated at its points, which is the more accurate for smooth fields; or
        by the transpose of the interpolation, which is right for rough fields (an integral operator then integrates
        its interpolated kernel against the field on the new grid).

    Returns
    -------
    NeuralHSS
        Its hidden sizes, ranks and levels are the old ones; only the leaf generators of its first and last layer are
        new. It can be trained further.

    Raises
    ------
    ShapeError
        If a leaf of the old or of the new grid has fewer than two points.

    Notes
    -----
    Interpolation uses the points of one leaf only, so the generators above the leaves stay and the HSS form is kept
    exactly; at the ends of a leaf it is one-sided. The new model sees the scales of the old grid and no finer
    ones: what a field has beyond them is dropped ("sample": folded back), and so is what the operator would do to it.
    Nonlinear models are prolonged just so: nothing is assumed of what lies between the first and the last layer. (Where
    no projection follows the last hidden layer, its activation acts behind the interpolation.)

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import NeuralHSS
    >>> from structmat_nn.models.prolong import prolong
    >>> model = NeuralHSS(64, rank=2, levels=2, depth=2, seed=0)
    >>> finer = prolong(model, 128)
    >>> finer(torch.ones(5, 128)).shape, finer.hidden
    (torch.Size([5, 128]), (64,))
    """
    new_size = _check.per_axis(size, model.dimension, "size")
    if restriction not in RESTRICTIONS:
        raise ValueError(f"restriction must be one of {', '.join(map(repr, RESTRICTIONS))}, but it is {restriction!r}")
    degree = check.positive_integer(degree, "degree", minimum=0)
    old, new = _coordinates(grid, model.size, new_size)
    finer = copy.deepcopy(model)
    finer.size = new_size
    first = finer.layers[0] if finer.lifting is None else finer.lifting
    restrictions = [_restriction(a, b, degree, restriction) for a, b in zip(old, new, strict=True)]
    _replace(finer, first, _with_columns(first, new_size, restrictions))
    last = finer.layers[-1] if finer.projection is None else finer.projection
    interpolations = [_interpolation(a, b, degree) for a, b in zip(old, new, strict=True)]
    _replace(finer, last, _with_rows(last, new_size, interpolations))
    return finer


# ------------------------------------------------------------------------------------- the grids


def grid_points(grid: str, n: int) -> NumpyArray:
    """Coordinates (n,) of a uniform grid on [0, 1]: "cell", "vertex", "interior" or "periodic"."""
    i = np.arange(n, dtype=np.float64)
    if grid == "cell":
        return (i + 0.5) / n
    if grid == "vertex":
        return i / max(n - 1, 1)
    if grid == "interior":
        return (i + 1.0) / (n + 1)
    if grid == "periodic":
        return i / n
    raise ValueError(f"grid must be one of {', '.join(map(repr, GRIDS))} or a pair of coordinates, but it is {grid!r}")


def _coordinates(
    grid: Any, old_size: tuple[int, ...], new_size: tuple[int, ...]
) -> tuple[list[NumpyArray], list[NumpyArray]]:
    if isinstance(grid, str):
        return [grid_points(grid, n) for n in old_size], [grid_points(grid, n) for n in new_size]
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise TypeError(f"grid must be a name or a pair (old points, new points), but it is {type(grid).__name__}")
    sides = []
    for name, points, size in zip(("old", "new"), grid, (old_size, new_size), strict=True):
        if len(points) != len(size):
            raise ShapeError(f"the {name} points must be {len(size)} arrays, one for each axis, not {len(points)}")
        arrays = [check.vector(p, f"the {name} points of axis {axis}", size[axis]) for axis, p in enumerate(points)]
        for axis, array in enumerate(arrays):
            if not (np.diff(array) > 0.0).all():
                raise ValueError(f"the {name} points of axis {axis} must increase")
        sides.append(arrays)
    return sides[0], sides[1]


# --------------------------------------------------------------------------------- interpolation


def leaf_interpolation(source: NumpyArray, target: NumpyArray, levels: int, degree: int) -> NumpyArray:
    """Interpolation from the points of each leaf to the points of the leaf in its place.

    Parameters
    ----------
    source, target : (n,), (m,) arrays
        Increasing coordinates, each on its balanced tree of `levels` levels.
    levels : int
        Levels of both trees.
    degree : int
        Of the polynomials; less where a leaf has too few points.

    Returns
    -------
    (leaves, p, q) array
        Zero-padded blocks, p and q the largest leaves of target and source.
    """
    from_tree, to_tree = _tree(len(source), levels), _tree(len(target), levels)
    blocks = np.zeros((2**levels, to_tree.leaf_size, from_tree.leaf_size))
    for leaf in range(2**levels):
        x = source[from_tree.indices(levels, leaf)]
        y = target[to_tree.indices(levels, leaf)]
        blocks[leaf, : len(y), : len(x)] = _lagrange(x, y, min(degree, len(x) - 1))
    return blocks


def _tree(n: int, levels: int) -> ClusterTree:
    if n < 2 ** (levels + 1):
        raise ShapeError(
            f"{n} points in {2**levels} leaves leave fewer than two points in a leaf, too few to interpolate between "
            f"grids; at least {2 ** (levels + 1)} points are needed"
        )
    return ClusterTree.balanced(n, depth=levels)


def _lagrange(x: NumpyArray, y: NumpyArray, degree: int) -> NumpyArray:
    """Values at y from those at x by polynomials through the degree + 1 nearest neighbours in a row, (y, x)."""
    width = degree + 1
    right = np.searchsorted(x, y)
    start = np.clip(right - (width + 1) // 2, 0, len(x) - width)  # (y,)
    columns = start[:, None] + np.arange(width)  # (y, width)
    nodes = x[columns]
    weights = np.ones_like(nodes)
    for i in range(width):
        for j in range(width):
            if i != j:
                weights[:, i] *= (y - nodes[:, j]) / (nodes[:, i] - nodes[:, j])
    matrix = np.zeros((len(y), len(x)))
    np.put_along_axis(matrix, columns, weights, axis=1)
    return matrix


class _Transfer:
    """Leaf blocks of a transfer between two grids, for any number of levels."""

    def __init__(self, source: NumpyArray, target: NumpyArray, degree: int, *, transposed: bool = False) -> None:
        self.source, self.target, self.degree, self.transposed = source, target, degree, transposed

    def blocks(self, levels: int) -> Tensor:
        """(leaves, p, q): to the target's leaves from the source's."""
        if not self.transposed:
            return torch.from_numpy(leaf_interpolation(self.source, self.target, levels, self.degree))
        back = leaf_interpolation(self.target, self.source, levels, self.degree)
        # a sum over the source's points stands for an integral: the weight of a point is its share of the interval
        finer, coarser = (float(np.mean(np.diff(points))) for points in (self.source, self.target))
        return torch.from_numpy(np.ascontiguousarray(back.swapaxes(1, 2))) * (finer / coarser)

    def matrix(self, levels: int) -> Tensor:
        """The blocks on the diagonal of one matrix, (target, source)."""
        heights = ClusterTree.balanced(len(self.target), depth=levels).sizes(levels)
        widths = ClusterTree.balanced(len(self.source), depth=levels).sizes(levels)
        blocks = self.blocks(levels)
        return torch.block_diag(*(b[:p, :q] for b, p, q in zip(blocks, heights, widths, strict=True)))


def _interpolation(old: NumpyArray, new: NumpyArray, degree: int) -> _Transfer:
    return _Transfer(old, new, degree)


def _restriction(old: NumpyArray, new: NumpyArray, degree: int, kind: str) -> _Transfer:
    return _Transfer(new, old, degree, transposed=kind == "average")


# ------------------------------------------------------------------------------------ the layers


def _replace(model: NeuralHSS, old: nn.Module, new: nn.Module) -> None:
    if old is model.lifting:
        model.lifting = new
    elif old is model.projection:
        model.projection = new
    else:
        model.layers[next(i for i, layer in enumerate(model.layers) if layer is old)] = new


def _with_columns(layer: Any, size: tuple[int, ...], transfers: list[_Transfer]) -> nn.Module:
    """`layer` after the restrictions, W R."""
    if isinstance(layer, LowRankTensorMap):
        head = layer.in_shape[: len(layer.in_shape) - len(size)]
        return _tensor_map(layer, (*head, *size), layer.out_shape, "v", [t.blocks(0)[0].mT for t in transfers])
    if isinstance(layer, HSSLinear):
        structure = _resized(layer.structure, columns=size[0])
        new = _line_layer(layer, structure)
        stored = _narrowed(layer.structure, structure, _line_parameters(layer), transfers[0], rows=False)
        _set_line(new, stored)
        return new
    return _tensor_layer(layer, size, layer.out_shape, transfers, rows=False)


def _with_rows(layer: Any, size: tuple[int, ...], transfers: list[_Transfer]) -> nn.Module:
    """The interpolations after `layer`, P W."""
    if isinstance(layer, LowRankTensorMap):
        head = layer.out_shape[: len(layer.out_shape) - len(size)]
        return _tensor_map(layer, layer.in_shape, (*head, *size), "u", [t.blocks(0)[0] for t in transfers])
    if isinstance(layer, HSSLinear):
        structure = _resized(layer.structure, rows=size[0])
        new = _line_layer(layer, structure)
        _set_line(new, _narrowed(layer.structure, structure, _line_parameters(layer), transfers[0], rows=True))
        if layer.bias is not None:
            _copy(new.bias, _moved(layer.bias, transfers, [layer.structure.levels]))
        return new
    return _tensor_layer(layer, layer.shape, size, transfers, rows=True)


def _resized(structure: Telescopic, *, rows: int | None = None, columns: int | None = None) -> Telescopic:
    return Telescopic(rows or structure.rows, columns or structure.columns, structure.row_ranks, structure.col_ranks)


def _narrowed(
    old: Telescopic, new: Telescopic, parameters: Mapping[str, Tensor], transfer: _Transfer, *, rows: bool
) -> dict[str, Tensor]:
    """The stored parameters with the leaf generators of the rows or of the columns moved to the other grid."""
    levels = old.levels
    generators = old.generators({name: p.detach().double().cpu() for name, p in parameters.items()})
    blocks = transfer.blocks(levels)
    stored = {name: p.detach() for name, p in parameters.items()}
    diagonal = generators.diagonal[-1]
    if rows:
        stored[f"D{levels}"] = new.stored(f"D{levels}", blocks @ diagonal)
    else:
        stored[f"D{levels}"] = new.stored(f"D{levels}", diagonal @ blocks)
    if levels and rows:
        stored[f"U{levels}"] = new.stored(f"U{levels}", blocks @ generators.row_bases[-1])
    elif levels:
        stored[f"V{levels}"] = new.stored(f"V{levels}", blocks.mT @ generators.col_bases[-1])
    return stored


def _line_parameters(layer: HSSLinear) -> dict[str, Tensor]:
    return {name: getattr(layer, name) for name in layer.structure.parameter_shapes}


def _line_layer(layer: HSSLinear, structure: Telescopic) -> HSSLinear:
    leaf = next(layer.parameters())
    new = HSSLinear(
        structure.columns, structure.rows, rank=structure.row_ranks, column_rank=structure.col_ranks,
        levels=structure.levels, bias=layer.bias is not None, route=layer.route, device=leaf.device, dtype=leaf.dtype,
    )  # fmt: skip
    if new.bias is not None and layer.bias is not None and structure.rows == layer.out_features:
        _copy(new.bias, layer.bias)
    return new


@torch.no_grad()
def _set_line(layer: HSSLinear, stored: Mapping[str, Tensor]) -> None:
    for name, value in stored.items():
        _copy(getattr(layer, name), value)


@torch.no_grad()
def _copy(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value)


@torch.no_grad()
def _tensor_layer(
    layer: HSSTensorLinear, shape: tuple[int, ...], out_shape: tuple[int, ...], transfers: list[_Transfer], *,
    rows: bool,
) -> HSSTensorLinear:  # fmt: skip
    leaf = next(layer.parameters())
    structures = [layer.structure(mode) for mode in range(layer.modes)]
    new = HSSTensorLinear(
        shape, out_shape=out_shape, rank=[s.row_ranks for s in structures], levels=[s.levels for s in structures],
        outer_rank=layer.outer_rank, channels=layer.channels, bias=layer.bias is not None, device=leaf.device,
        dtype=leaf.dtype,
    )  # fmt: skip
    for mode, transfer in enumerate(transfers):
        stored = _narrowed(structures[mode], new.structure(mode), layer.stored(mode), transfer, rows=rows)
        new.set_factors(mode, stored)
    if layer.channel_factors is not None:
        _copy(new.channel_factors, layer.channel_factors)
    if layer.bias is not None:
        levels = [structure.levels for structure in structures]
        _copy(new.bias, _moved(layer.bias, transfers, levels) if rows else layer.bias)
    return new


def _moved(field: Tensor, transfers: list[_Transfer], levels: list[int]) -> Tensor:
    """A field on the old grid, interpolated along each of its last axes."""
    moved = field.detach().double().cpu()
    for axis, (transfer, depth) in enumerate(zip(transfers, levels, strict=True), start=field.dim() - len(levels)):
        moved = torch.tensordot(moved, transfer.matrix(depth), dims=([axis], [1])).movedim(-1, axis)
    return moved


@torch.no_grad()
def _tensor_map(
    layer: LowRankTensorMap, in_shape: tuple[int, ...], out_shape: tuple[int, ...], letter: str, blocks: list[Tensor]
) -> LowRankTensorMap:
    """The map with the vectors of its space axes multiplied by `blocks`, (new size, old size) each."""
    new = LowRankTensorMap(in_shape, out_shape, rank=layer.rank, device=layer.weights.device, dtype=layer.weights.dtype)
    moved = in_shape if letter == "v" else out_shape
    head = len(moved) - len(blocks)
    for name, parameter in layer.named_parameters():
        value = parameter.detach()
        if name[0] == letter and int(name[1:]) >= head:
            value = value.double().cpu() @ blocks[int(name[1:]) - head].mT
        _copy(getattr(new, name), value)
    return new
