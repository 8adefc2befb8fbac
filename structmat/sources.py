"""What a matrix is built from, behind one small interface for each kind of access.

An entry source answers `blocks(rows, cols)`: dense blocks of a batch of index lists. An operator source answers
products with blocks of vectors and counts them. Both speak the user's ordering.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as spla

from . import _check
from ._backend import (
    cast,
    is_foreign_array,
    is_numpy,
    like,
    namespace,
    numpy_dtype,
    parallel_tasks,
    place_of,
    real_dtype,
    require_room,
    take,
    to_numpy,
    transpose,
    zeros_beside,
)
from ._typing import Array, Entries, IntArray, Kernel, NumpyArray
from .exceptions import DeviceError, NonFiniteError, ShapeError

STREAMS = 32  # of random numbers: pieces for the threads to take
WORKSPACES = 3  # how often the samples are held at most: as drawn, by leaves, and as the parents see them


class EntrySource:
    """A matrix known by its entries: `entries(i, j)` returns the (len(i), len(j)) block at rows i and columns j.

    A function with a true attribute `batched` is called once for a batch, with (nb, p) and (nb, q) arrays.

    Attributes
    ----------
    coordinates : pair of (m, d) and (n, d) arrays, or None
        Where the rows and columns are, as far as that is known: which ones are close.
    components : int
        How many indices in a row each point has.
    """

    coordinates: tuple[NumpyArray, NumpyArray] | None = None
    components: int = 1

    def __init__(self, entries: Entries, shape: tuple[int, int], dtype: Any = None) -> None:
        if not callable(entries):
            raise TypeError(f"entries must be a function (i, j) -> block, but it is a {type(entries).__name__}")
        self.entries = entries
        self.batched = bool(getattr(entries, "batched", False))
        self.shape = shape
        self.evaluated = 0
        sample = self._block(np.arange(min(2, shape[0])), np.arange(min(2, shape[1])))
        self.dtype = _check.supported_dtype(sample.dtype if dtype is None else dtype)

    @cached_property
    def has_equal_points(self) -> bool:
        """Whether some rows, or some columns, are at one place."""
        for x in self.coordinates or ():
            points = x[:: self.components]
            ordered = points[np.lexsort(points.T)]
            if (ordered[1:] == ordered[:-1]).all(axis=1).any():
                return True
        return False

    def _call(self, i: IntArray, j: IntArray) -> Any:
        return self.entries(i, j)

    def _describe(self) -> str:
        return "entries(i, j)"

    def _block(self, i: IntArray, j: IntArray) -> NumpyArray:
        block = np.asarray(self._call(i, j))
        if block.shape != (len(i), len(j)):
            raise ShapeError(
                f"{self._describe()} must return an array of shape ({len(i)}, {len(j)}), the lengths of its arguments, "
                f"but it returned shape {block.shape}; broadcast with i[:, None] and j[None, :]"
            )
        self.evaluated += block.size
        return block

    def _require_finite(self, block: NumpyArray, i: IntArray, j: IntArray) -> None:
        if not np.isfinite(block).all():
            a, b = np.argwhere(~np.isfinite(block))[0]
            raise NonFiniteError(
                f"{self._describe()} returned {block[a, b]} at row {i[a]}, column {j[b]}; "
                "all entries must be finite (a singular kernel needs a value at distance zero)"
            )

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Zeros of the dtype of the entries, where blocks are evaluated."""
        return np.zeros(shape, dtype=self.dtype)

    def block(self, i: IntArray, j: IntArray) -> NumpyArray:
        """The dense block at rows i and columns j, checked to be finite."""
        block = self._block(i, j).astype(self.dtype, copy=False)
        self._require_finite(block, i, j)
        return block

    def blocks(self, rows: IntArray, cols: IntArray, *, turned: bool = False) -> NumpyArray:
        """The blocks (nb, p, q) at rows (nb, p) and columns (nb, q); zero where an index is negative (padding).

        With `turned`, their transposes, (nb, q, p), laid out as such.
        """
        (p, q), nb = (rows.shape[1], cols.shape[1]), len(rows)
        padded = bool((rows < 0).any() or (cols < 0).any())
        batch = self._batch(np.maximum(rows, 0), np.maximum(cols, 0))
        if batch is not None:
            self.evaluated += batch.size
            if padded:
                batch = np.where((rows >= 0)[:, :, None] & (cols >= 0)[:, None, :], batch, 0)
            self._require_finite_batch(batch, rows, cols)
            return np.ascontiguousarray(batch.swapaxes(1, 2)) if turned else batch
        out = (np.zeros if padded else np.empty)((nb, q, p) if turned else (nb, p, q), dtype=self.dtype)
        view = out.swapaxes(1, 2) if turned else out
        if not padded:
            for b in range(nb):
                view[b] = self._block(rows[b], cols[b])
        else:
            self._fill_padded(view, rows, cols)
        self._require_finite_batch(view, rows, cols)
        return out

    def _batch(self, rows: IntArray, cols: IntArray) -> NumpyArray | None:
        """All blocks in one call, for sources that can; None where each block takes a call."""
        return np.asarray(self._call(rows, cols)).astype(self.dtype, copy=False) if self.batched else None

    def _require_finite_batch(self, blocks: NumpyArray, rows: IntArray, cols: IntArray) -> None:
        # a sum is finite only if all terms are (an overflow of finite ones is sorted out below)
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(blocks.sum())
        if suspicious and not np.isfinite(blocks).all():
            b = int(np.argwhere(~np.isfinite(blocks))[0][0])
            self._require_finite(blocks[b], rows[b], cols[b])

    def _fill_padded(self, out: NumpyArray, rows: IntArray, cols: IntArray) -> None:
        row_counts, col_counts = (rows >= 0).sum(axis=1), (cols >= 0).sum(axis=1)
        trailing = _is_trailing(rows, row_counts) and _is_trailing(cols, col_counts)
        for b in range(len(rows)):
            if trailing:  # padding at the end: plain slices
                p, q = row_counts[b], col_counts[b]
                if p and q:
                    out[b, :p, :q] = self._block(rows[b, :p], cols[b, :q])
            else:
                i, j = np.flatnonzero(rows[b] >= 0), np.flatnonzero(cols[b] >= 0)
                if len(i) and len(j):
                    out[b][np.ix_(i, j)] = self._block(rows[b, i], cols[b, j])

    def pairs(self, i: IntArray, j: IntArray) -> NumpyArray:
        """The single entries at rows i (m, c) and columns j (m, c), where each row of i holds one index c times."""
        if self.batched:
            return self.blocks(i[:, :1], j)[:, 0]
        out = np.empty(j.shape, dtype=self.dtype)
        for k in range(len(i)):
            out[k] = self.block(i[k, :1], j[k])[0]
        return out


def _is_trailing(index: IntArray, counts: IntArray) -> bool:
    """Whether all padding stands at the end of its row."""
    return bool(((index >= 0) == (np.arange(index.shape[1]) < counts[:, None])).all())


class KernelSource(EntrySource):
    """A kernel function on points: entry (i, j) is kernel(x_i, y_j).

    A kernel with a true attribute `batched` is called once for a batch, with (nb, p, d) and (nb, q, d) arrays. A kernel
    with several `components` has as many indices for each point: `row_points` and `col_points` then hold each point so
    often, and index `components i + k` is component k of point i.
    """

    def __init__(self, kernel: Kernel, row_points: NumpyArray, col_points: NumpyArray) -> None:
        self.kernel = kernel
        self.components = int(getattr(kernel, "components", 1))
        same = row_points is col_points
        self.row_points = self._repeated(row_points)
        self.col_points = self.row_points if same else self._repeated(col_points)
        self.coordinates = _as_columns(self.row_points), _as_columns(self.col_points)
        super().__init__(kernel, (len(self.row_points), len(self.col_points)))

    def _repeated(self, points: NumpyArray) -> NumpyArray:
        return points if self.components == 1 else np.repeat(points, self.components, axis=0)

    def _call(self, i: IntArray, j: IntArray) -> Any:
        return self._values(self.row_points[i], self.col_points[j], i, j)

    def _values(self, x: NumpyArray, y: NumpyArray, i: IntArray, j: IntArray) -> Any:
        if self.components == 1:
            return self.kernel(x, y)
        return self.kernel.entries(x, y, i % self.components, j % self.components)  # type: ignore[attr-defined]

    def against(self, index: IntArray, proxies: IntArray, points: NumpyArray, *, adjointly: bool) -> Array:
        """The kernel between indices (nb, p) and other points, points[proxies] (nb, q), as (nb, p, q).

        Adjointly, the points are the first argument, and the indices those of columns. Zero where one is negative. With
        several components each point is there as often, and proxy k is its component k % components.
        """
        i, j = np.maximum(index, 0), np.maximum(proxies, 0)
        mine, shown = _as_columns(self.col_points if adjointly else self.row_points)[i], points[j]
        values = self._checked(self._of_points(shown, mine, j, i) if adjointly else self._of_points(mine, shown, i, j))
        block = transpose(values) if adjointly else values
        inside = (index >= 0)[:, :, None] & (proxies >= 0)[:, None, :]
        xp = namespace(block)
        return block if inside.all() else xp.where(like(inside, block), block, xp.zeros_like(block))

    def at(self, x: Array, y: Array) -> Array:
        """The kernel between points that are none of the matrix, (nb, p, d) and (nb, q, d), as (nb, p, q).

        Several components make it (nb, components p, components q).
        """
        if self.components > 1:
            x, y = (np.repeat(points, self.components, axis=1) for points in (x, y))
        i, j = (np.broadcast_to(np.arange(points.shape[1]), points.shape[:2]) for points in (x, y))
        return self._checked(self._of_points(x, y, i, j))

    def _of_points(self, x: Array, y: Array, i: IntArray, j: IntArray) -> Array:
        """The values for batches of points with d coordinates; i and j tell their components, where there are any."""
        if self.batched:
            values = np.asarray(self._values(x, y, i, j))
        else:
            x, y = (p[..., 0] if self.row_points.ndim == 1 else p for p in (x, y))
            values = np.stack([np.asarray(self._values(*four)) for four in zip(x, y, i, j, strict=True)])
        return values.astype(self.dtype, copy=False)

    def _checked(self, values: Array) -> Array:
        xp = namespace(values)
        self.evaluated += int(np.prod(values.shape))
        if not bool(xp.all(xp.isfinite(values))):
            raise NonFiniteError(f"{self._describe()} is not finite at points around those of the matrix")
        return values

    def _describe(self) -> str:
        return f"the kernel {getattr(self.kernel, '__name__', type(self.kernel).__name__)}(x, y)"

    def _batch(self, rows: IntArray, cols: IntArray) -> NumpyArray | None:
        if not self.batched:
            return None
        x, y = _as_columns(self.row_points).take(rows, axis=0), _as_columns(self.col_points).take(cols, axis=0)
        return np.asarray(self._values(x, y, rows, cols)).astype(self.dtype, copy=False)


class DeviceKernelSource(KernelSource):
    """A kernel function on points of another array library: blocks are evaluated where the points are.

    Parameters
    ----------
    kernel : callable
        Takes and returns arrays of that library.
    row_points, col_points : arrays
        Of NumPy; they are copied to the device.
    example : array
        An array of the library, on the device.
    """

    def __init__(self, kernel: Kernel, row_points: NumpyArray, col_points: NumpyArray, example: Array) -> None:
        if getattr(kernel, "components", 1) > 1:
            raise DeviceError("kernels with several components are built on the CPU: leave like= out")
        self._there = tuple(like(p, example) for p in (row_points, col_points))
        self._columns = tuple(namespace(p).expand_dims(p, axis=1) if p.ndim == 1 else p for p in self._there)
        super().__init__(kernel, row_points, col_points)

    def require_room(self, numbers: int, what: str, remedy: str) -> None:
        """Raise a `DeviceMemoryError` where so many numbers, which `what` takes, do not fit there."""
        require_room(numbers * self.dtype.itemsize, namespace(self._there[0]), what, remedy)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Zeros of the dtype of the entries, where blocks are evaluated."""
        return cast(zeros_beside(shape, self._there[0]), self.dtype)

    def _block(self, i: IntArray, j: IntArray) -> NumpyArray:
        x, y = self._there
        block = to_numpy(self.kernel(take(x, i), take(y, j)))
        self.evaluated += block.size
        return block

    def blocks(self, rows: Array, cols: Array, *, turned: bool = False) -> Array:
        """As `EntrySource.blocks`, on the device; where kernels take batches, the indices may be there too."""
        x, y = (take(p, _not_negative(index)) for p, index in zip(self._columns, (rows, cols), strict=True))
        values = self._of_points(x, y)
        xp = namespace(values)
        self.evaluated += int(np.prod(values.shape))
        mine, its = rows >= 0, cols >= 0
        if not (is_numpy(rows) and is_numpy(cols) and mine.all() and its.all()):
            mine, its = (like(a, values) if is_numpy(a) else a for a in (mine, its))
            values = xp.where(mine[:, :, None] & its[:, None, :], values, xp.zeros_like(values))
        if not bool(xp.all(xp.isfinite(values))):
            self._require_finite_batch(to_numpy(values), to_numpy(rows), to_numpy(cols))
        return transpose(values) if turned else values

    def _of_points(self, x: Array, y: Array, i: IntArray | None = None, j: IntArray | None = None) -> Array:
        x, y = (like(p, self._there[0]) if is_numpy(p) else p for p in (x, y))
        if self.batched:
            return cast(self.kernel(x, y), self.dtype)
        x, y = (p[..., 0] if self.row_points.ndim == 1 else p for p in (x, y))
        pairs = (self.kernel(x[k, ...], y[k, ...]) for k in range(x.shape[0]))
        return cast(namespace(x).stack(list(pairs), axis=0), self.dtype)

    def pairs(self, i: IntArray, j: IntArray) -> NumpyArray:
        """As `EntrySource.pairs`."""
        return to_numpy(self.blocks(i[:, :1], j))[:, 0]


def kernel_source(kernel: Kernel, rows: NumpyArray, cols: NumpyArray, like: Array | None) -> KernelSource:
    """The source that evaluates the kernel where the array `like` is; on the CPU where there is none."""
    if like is None or is_numpy(like):
        return KernelSource(kernel, rows, cols)
    return DeviceKernelSource(kernel, rows, cols, like)


def _not_negative(index: Array) -> Array:
    """Indices with zeros for those of padding."""
    return np.maximum(index, 0) if is_numpy(index) else index * namespace(index).astype(index >= 0, index.dtype)


def _as_columns(points: NumpyArray) -> NumpyArray:
    return points[:, None] if points.ndim == 1 else points


class OperatorSource:
    """A matrix known by its products only.

    Parameters
    ----------
    op : object
        Anything with `shape` and `matvec`/`rmatvec` or `matmat`/`rmatmat` (a SciPy `LinearOperator`, a PyLops operator,
        a structured matrix), or that `scipy.sparse.linalg.aslinearoperator` takes.
    symmetric : bool
        Only products with the matrix itself are used.
    example : array, optional
        Vectors go to the operator and come back as arrays of its library, on its device. Default: NumPy's.
    """

    def __init__(self, op: Any, *, symmetric: bool = False, example: Array | None = None) -> None:
        self.example = None if example is None or is_numpy(example) else example
        explicit = isinstance(op, np.ndarray) or sparse.issparse(op)
        if explicit:
            op = spla.aslinearoperator(_check.plain_array(op, "op") if isinstance(op, np.ndarray) else op)
        self.op = op
        shape = getattr(op, "shape", None)
        if shape is None or len(shape) != 2:
            raise TypeError(
                f"op must have a shape (m, n) and matvec/rmatvec or matmat/rmatmat, but {type(op).__name__} has not; "
                "wrap a function in scipy.sparse.linalg.LinearOperator"
            )
        self.shape = (int(shape[0]), int(shape[1]))
        self.forward = self._products("matmat", "matvec", "__matmul__")
        self.backward = self.forward if symmetric else self._products("rmatmat", "rmatvec", None)
        self.dtype = _check.supported_dtype(self._find_dtype())
        self.products = 0

    def _find_dtype(self) -> Any:
        dtype = getattr(self.op, "dtype", None)
        if dtype is None:
            zeros = np.zeros((self.shape[1], 1))
            product = self.forward(zeros if self.example is None else like(zeros, self.example))
            return np.asarray(product).dtype if self.example is None else numpy_dtype(product)
        # other libraries name their types as NumPy does, after their own name
        return dtype if self.example is None else str(dtype).split(".")[-1]

    def _products(self, block: str, single: str, fallback: str | None) -> Callable[[NumpyArray], Any]:
        op = self.op
        many, one = getattr(op, block, None), getattr(op, single, None)
        if many is not None:
            return many
        if one is not None:
            if self.example is None:
                return lambda x: np.stack([np.asarray(one(x[:, k])).reshape(-1) for k in range(x.shape[1])], axis=1)
            return lambda x: namespace(x).stack([one(x[:, k]) for k in range(x.shape[1])], axis=1)
        if fallback is not None and hasattr(op, fallback):
            return lambda x: op @ x
        raise TypeError(
            f"op of type {type(op).__name__} has neither {block} nor {single}; products with the adjoint are needed "
            "unless symmetric=True"
            if fallback is None
            else f"op of type {type(op).__name__} has neither {block} nor {single}"
        )

    def require_room(self, samples: int) -> None:
        """Raise a `DeviceMemoryError` where a build from so many samples would not fit on the device."""
        if self.example is None:
            return
        sides = 1 if self.backward is self.forward else 2
        needed = 2 * sides * samples * sum(self.shape) // 2 * self.dtype.itemsize
        require_room(
            WORKSPACES * needed, namespace(self.example), f"a build from {samples} products with each side",
            "use smaller leaves (leaf_size), which need fewer products, a larger rtol, or float32; or build on the CPU",
        )  # fmt: skip

    def matmat(self, x: Array) -> Array:
        """A @ x for x (n, k)."""
        return self._checked(self.forward(x), self.shape[0], x, "A @ x")

    def rmatmat(self, x: Array) -> Array:
        """A^H @ x for x (m, k)."""
        try:
            product = self.backward(x)
        except (TypeError, NotImplementedError) as error:  # what SciPy raises for an operator that has no rmatvec
            raise TypeError(
                f"op of type {type(self.op).__name__} cannot multiply with its adjoint, which is needed unless "
                "symmetric=True: give the operator rmatvec or rmatmat"
            ) from error
        return self._checked(product, self.shape[1], x, "A^H @ x")

    def _checked(self, y: Any, rows: int, x: Array, what: str) -> Array:
        if self.example is None:
            result = np.asarray(y)
        elif not is_foreign_array(y) or place_of(y) != place_of(self.example):
            raise DeviceError(
                f"the operator's product {what} is a {type(y).__name__}, but vectors are arrays of "
                f"{place_of(self.example)} here (like=): the operator has to return the same"
            )
        else:
            result = y
        if tuple(result.shape) != (rows, x.shape[1]):
            raise ShapeError(f"the operator's product {what} has shape {result.shape}, expected {(rows, x.shape[1])}")
        self.products += x.shape[1]
        _check.finite(result, f"the operator's product {what}")
        return result


def gaussian_probes(rows: int, count: int, dtype: np.dtype[Any], rng: np.random.Generator) -> NumpyArray:
    """Independent standard normal numbers (rows, count), also complex; the same for any number of threads.

    They are drawn in single precision, which is faster and as good: they need only be generic.
    """
    parts = 2 if dtype.kind == "c" else 1
    x = np.empty((rows, count * parts), dtype=real_dtype(dtype))
    cuts = [rows * k // STREAMS for k in range(STREAMS + 1)]
    streams = rng.spawn(STREAMS)

    def fill(k: int) -> None:
        part = x[cuts[k] : cuts[k + 1]]
        part[...] = streams[k].standard_normal(part.shape, dtype=np.float32)

    parallel_tasks(fill, STREAMS)
    if parts == 1:
        return x
    x *= np.sqrt(0.5)
    return x.view(dtype)
