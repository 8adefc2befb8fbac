"""Files of structured matrices: versioned, checksummed archives without pickle, replaced atomically.

A matrix is made only after the checksum of the archive (`structmat.archive`) agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._typing import NumpyArray
from .archive import Arrays, PathLike, read_archive, write_archive
from .blocks import BlockBatch, LowRankBatch, NestedBasis, RaggedBasis, RaggedBatch
from .certificate import Certificate
from .exceptions import FileFormatError
from .tree import ClusterTree

if TYPE_CHECKING:
    from .base import StructuredMatrix

__all__ = ["load", "save"]

# before the names of the arrays of the two parts of a matrix in mixed precision; others have the first one
_PARTS = ("", "narrow/")

# ------------------------------------------------------------------------------------------ writing


def save(matrix: StructuredMatrix, path: PathLike) -> None:
    """Write a matrix to a file that `load` reads.

    Parameters
    ----------
    matrix : StructuredMatrix
        A view (transpose, adjoint, conjugate) is stored as what it shows; data on a GPU is copied first. An H2-matrix
        on the fly is stored with its blocks.
    path : str or path
        Taken as it is: no suffix is added. An existing file is replaced when all is written, or not at all.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, structmat as sm
    >>> A = sm.HSSMatrix.from_dense(np.exp(-abs(np.subtract.outer(np.arange(200), np.arange(200)) / 50)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     A.save(os.path.join(folder, "matrix.npz"))
    ...     B = sm.load(os.path.join(folder, "matrix.npz"))
    >>> bool((A @ np.ones(200) == B @ np.ones(200)).all()), A.certificate == B.certificate
    (True, True)
    """
    name = type(matrix).__name__
    if name not in _FORMATS:
        raise TypeError(f"cannot save a {name}; the formats with files are {', '.join(_FORMATS)}")
    description, arrays = _FORMATS[name][0](matrix)
    trees = {"row": _tree_header("row", matrix.row_tree, arrays)}
    if matrix.col_tree is not matrix.row_tree:
        trees["col"] = _tree_header("col", matrix.col_tree, arrays)
    header = {
        "class": name,
        "dtype": matrix.dtype.name,
        "shape": list(matrix.shape),
        **description,
        "trees": trees,
        "certificate": _plain(vars(matrix.certificate)),
    }
    write_archive(path, header, arrays)


def _tree_header(side: str, tree: ClusterTree, arrays: Arrays) -> dict[str, Any]:
    if not tree.is_identity:
        arrays[f"{side}_tree/perm"] = tree.perm
    if tree.points is not None:
        arrays[f"{side}_tree/points"] = tree.points
    return {"n": tree.n, "depth": tree.depth}


def _plain(value: Any) -> Any:
    """`value` in the terms of JSON; tuples, arrays and complex numbers are marked, so that they come back."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return {"__tuple__": [_plain(item) for item in value]}
    if isinstance(value, np.ndarray):
        return {"__array__": _plain(value.tolist()), "dtype": value.dtype.str}
    if isinstance(value, complex):
        return {"__complex__": [value.real, value.imag]}
    raise TypeError(f"a certificate with a {type(value).__name__} among its details cannot be saved")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tuple__" in value:
        return tuple(_restored(value["__tuple__"]))
    if "__array__" in value:
        return np.array(_restored(value["__array__"]), dtype=value["dtype"])
    if "__complex__" in value:
        return complex(*value["__complex__"])
    return {key: _restored(item) for key, item in value.items()}


# ------------------------------------------------------------------------------------------ reading


def load(path: PathLike) -> Any:
    """Read a matrix that `save` wrote.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    StructuredMatrix
        Of the format that was saved, with its trees and its certificate.

    Raises
    ------
    FileFormatError
        When the file is something else, truncated, damaged, or written by a newer version.
    FileNotFoundError
        When there is no such file.

    See Also
    --------
    structmat.HSSMatrix.save
    """
    path = Path(path)
    return _assembled(path, *read_archive(path))


def _assembled(path: Path, header: dict[str, Any], arrays: Arrays) -> Any:
    if header["class"] not in _FORMATS:
        raise FileFormatError(f"{path} holds a {header['class']}, but this version reads only {', '.join(_FORMATS)}")
    try:
        row_tree = _tree("row", header["trees"]["row"], arrays)
        col_tree = _tree("col", header["trees"]["col"], arrays) if "col" in header["trees"] else row_tree
        certificate = Certificate(**_restored(header["certificate"]))
        return _FORMATS[header["class"]][1](header, arrays, row_tree, col_tree, certificate)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is no valid matrix, though its checksum is right: {error}") from error


def _tree(side: str, header: dict[str, Any], arrays: Arrays) -> ClusterTree:
    perm, points = (arrays.get(f"{side}_tree/{name}") for name in ("perm", "points"))
    return ClusterTree(header["n"], header["depth"], perm, points)


# ------------------------------------------------------------------------------ the arrays of a format


def _basis_arrays(g: Any, half: bool) -> Arrays:
    """The arrays of the bases of generators, or of the blocks of an H2-matrix."""
    arrays: Arrays = {}
    for side, basis in (("row", g.row_basis), ("col", g.col_basis)):
        if side == "col" and half:
            break
        for level in range(1, basis.depth + 1):
            arrays[f"{side}_basis/{level}"] = basis.levels[level - 1]
            arrays[f"{side}_ranks/{level}"] = basis.ranks[level - 1]
            if basis.orders is not None:
                arrays[f"{side}_orders/{level}"] = basis.orders[level - 1]
    return arrays


def _by_level(arrays: Arrays, kind: str, depth: int) -> tuple[NumpyArray, ...]:
    return tuple(arrays[f"{kind}/{level}"] for level in range(1, depth + 1))


def _basis_of(arrays: Arrays, side: str, depth: int) -> tuple[Any, Any, Any]:
    """Levels, ranks and orders of one basis."""
    orders = _by_level(arrays, f"{side}_orders", depth) if f"{side}_orders/{depth}" in arrays else None
    return _by_level(arrays, f"{side}_basis", depth), _by_level(arrays, f"{side}_ranks", depth), orders


def _hss_arrays(matrix: Any) -> tuple[dict[str, Any], Arrays]:
    if matrix.mixed_precision:
        return _mixed_arrays(matrix)
    g = matrix.generators
    arrays = {"diagonal": g.diagonal, **_basis_arrays(g, g.symmetric)}
    arrays.update({f"couplings/{level}": b for level, b in enumerate(g.couplings, start=1)})
    return {"symmetric": bool(g.symmetric)}, arrays


def _hss_matrix(
    header: dict[str, Any],
    arrays: Arrays,
    row_tree: ClusterTree,
    col_tree: ClusterTree,
    certificate: Certificate,
) -> Any:
    from .hss.generators import Generators
    from .hss.matrix import HSSMatrix

    depth = row_tree.depth
    rows = NestedBasis(*_basis_of(arrays, "row", depth))
    cols = rows if header["symmetric"] else NestedBasis(*_basis_of(arrays, "col", depth))
    if "mixed" in header:
        mixed = _mixed_matrix(HSSMatrix, header, arrays, rows, cols, (row_tree, col_tree), certificate)
        HSSMatrix(mixed.generators, row_tree, col_tree, certificate)  # raises where something does not fit
        return mixed
    couplings = _by_level(arrays, "couplings", depth)
    return HSSMatrix(
        Generators(arrays["diagonal"], rows, cols, couplings, header["symmetric"]),
        row_tree,
        col_tree,
        certificate,
    )


def _h2_arrays(matrix: Any) -> tuple[dict[str, Any], Arrays]:
    if matrix.mixed_precision:
        return _mixed_arrays(matrix)
    blocks = matrix.blocks
    arrays = {**_across_arrays("", blocks), **_basis_arrays(blocks, blocks.half)}
    return {"symmetric": bool(blocks.half)}, arrays


def _across_arrays(prefix: str, blocks: Any) -> Arrays:
    """The arrays of near field and couplings."""
    arrays = {f"{prefix}near/data": blocks.near.data, f"{prefix}near/places": _places(blocks.near)}
    for level, batch in enumerate(blocks.couplings, start=1):
        key = f"{prefix}couplings/{level}"
        arrays.update({f"{key}/data": batch.data, f"{key}/places": _places(batch)})
    return arrays


def _across(prefix: str, arrays: Arrays, rows: Any, cols: Any) -> tuple[BlockBatch, tuple[Any, ...]]:
    """Near field and couplings, the latter of the ranks of their nodes where the bases are ragged."""
    couplings: list[Any] = []
    for level in range(1, rows.depth + 1):
        data, (i, j) = arrays[f"{prefix}couplings/{level}/data"], _columns(arrays[f"{prefix}couplings/{level}/places"])
        if isinstance(rows, RaggedBasis):
            couplings.append(RaggedBatch(data, i, j, rows.ranks[level - 1][i], cols.ranks[level - 1][j]))
        else:
            couplings.append(BlockBatch(data, i, j))
    return BlockBatch(arrays[f"{prefix}near/data"], *_columns(arrays[f"{prefix}near/places"])), tuple(couplings)


def _h2_matrix(
    header: dict[str, Any], arrays: Arrays, row_tree: ClusterTree, col_tree: ClusterTree, certificate: Certificate
) -> Any:
    from .h2.blocks import H2Blocks
    from .h2.matrix import H2Matrix

    def basis(side: str, tree: ClusterTree) -> RaggedBasis:
        levels, ranks, orders = _basis_of(arrays, side, tree.depth)
        return RaggedBasis(levels, ranks, tree.leaf_size if tree.depth else 0, orders)

    rows = basis("row", row_tree)
    cols = rows if header["symmetric"] else basis("col", col_tree)
    if "mixed" in header:
        result = _mixed_matrix(H2Matrix, header, arrays, rows, cols, (row_tree, col_tree), certificate)
        H2Matrix(result.blocks, row_tree, col_tree, certificate)  # raises where something does not fit
    else:
        blocks = H2Blocks(*_across("", arrays, rows, cols), rows, cols, header["symmetric"])
        result = H2Matrix(blocks, row_tree, col_tree, certificate)
    result.partition.require_cover()
    return result


def _mixed_arrays(matrix: Any) -> tuple[dict[str, Any], Arrays]:
    """The arrays of a matrix of nested bases in mixed precision: those of both parts, and of the bases."""
    storage = matrix._as_seen()
    arrays = _basis_arrays(storage, storage.half)
    for prefix, part in zip(_PARTS, storage.parts, strict=True):
        arrays.update(_across_arrays(prefix, part))
    return {"symmetric": bool(storage.half), "mixed": True}, arrays


def _mixed_matrix(
    cls: Any, header: dict[str, Any], arrays: Arrays, rows: Any, cols: Any, trees: tuple[ClusterTree, ClusterTree],
    certificate: Certificate,
) -> Any:  # fmt: skip
    from .nested.storage import Across, NestedStorage

    wide, narrow = (_across(prefix, arrays, rows, cols) for prefix in _PARTS)
    storage = NestedStorage(*wide, rows, cols, half=header["symmetric"], narrow=Across(*narrow))
    return cls._of_storage(storage, *trees, certificate)


def _columns(places: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    return np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1])


def _flat_arrays(matrix: Any) -> tuple[dict[str, Any], Arrays]:
    """The arrays of all parts; those of the second one, of a matrix in mixed precision, under names of its own."""
    arrays, counts = {}, []
    for prefix, part in zip(_PARTS, matrix.parts, strict=False):
        for level, (near, batches) in enumerate(zip(part.near, part.far, strict=True)):
            arrays.update({f"{prefix}near/{level}/data": near.data, f"{prefix}near/{level}/places": _places(near)})
            for k, batch in enumerate(batches):
                key = f"{prefix}far/{level}/{k}"
                arrays.update({f"{key}/{side}": getattr(batch, side) for side in ("left", "right")})
                arrays[f"{key}/places"] = _places(batch)
        counts.append([len(batches) for batches in part.far])
    mixed = {"narrow_batches": counts[1]} if len(counts) > 1 else {}
    return {"symmetric": bool(matrix.symmetric), "batches": counts[0], **mixed}, arrays


def _places(batch: BlockBatch | LowRankBatch | RaggedBatch) -> NumpyArray:
    return np.stack([batch.rows, batch.cols], axis=1).astype(np.int64)


def _flat_matrix(name: str) -> Callable[..., Any]:
    """Back to a matrix of independent blocks, of the class `name`."""

    def matrix(
        header: dict[str, Any], arrays: Arrays, row_tree: ClusterTree, col_tree: ClusterTree, certificate: Certificate
    ) -> Any:
        import structmat

        from .flat.storage import FlatBlocks

        def places(key: str) -> tuple[NumpyArray, NumpyArray]:
            return _columns(arrays[f"{key}/places"])

        def low_rank(key: str) -> LowRankBatch:
            return LowRankBatch(arrays[f"{key}/left"], arrays[f"{key}/right"], *places(key))

        def part(prefix: str, counts: list[int]) -> FlatBlocks:
            near, far = [], []
            for level, count in enumerate(counts):
                near.append(BlockBatch(arrays[f"{prefix}near/{level}/data"], *places(f"{prefix}near/{level}")))
                far.append(tuple(low_rank(f"{prefix}far/{level}/{k}") for k in range(count)))
            return FlatBlocks(tuple(near), tuple(far), header["symmetric"])

        counts = [header[name] for name in ("batches", "narrow_batches") if name in header]
        parts = tuple(part(prefix, count) for prefix, count in zip(_PARTS, counts, strict=False))
        result = getattr(structmat, name)(parts, row_tree, col_tree, certificate)
        result.partition.require_cover()  # of both halves
        return result

    return matrix


# class -> (matrix to its header fields and arrays, and back)
_FORMATS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "HSSMatrix": (_hss_arrays, _hss_matrix),
    "HODLRMatrix": (_flat_arrays, _flat_matrix("HODLRMatrix")),
    "HMatrix": (_flat_arrays, _flat_matrix("HMatrix")),
    "H2Matrix": (_h2_arrays, _h2_matrix),
}
