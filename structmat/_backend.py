"""Array namespaces and threads: the only file that names numpy, cupy or torch as such.

Everything else asks `namespace(x)` for the functions of the array library that `x` belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import array_api_compat
import numpy as np

from ._typing import Array, IntArray, NumpyArray
from .exceptions import DeviceError, DeviceMemoryError, MissingLibraryError

DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.complex64), np.dtype(np.complex128))


def namespace(*arrays: Array) -> Any:
    """The array-API namespace that the arrays share."""
    return array_api_compat.array_namespace(*arrays)


def is_numpy(x: Array) -> bool:
    return isinstance(x, np.ndarray)


def is_foreign_array(x: Any) -> bool:
    """Whether `x` is an array of a library other than NumPy (a list or a scalar is not)."""
    return not is_numpy(x) and array_api_compat.is_array_api_obj(x)


def to_numpy(x: Array) -> NumpyArray:
    """A NumPy array with the values of `x`, copied from its device where need be."""
    if is_numpy(x):
        return x
    if array_api_compat.is_cupy_array(x):
        return x.get()
    if array_api_compat.is_torch_array(x):
        return x.detach().cpu().resolve_conj().resolve_neg().numpy()
    return np.asarray(x)


def numpy_dtype(x: Array) -> np.dtype[Any]:
    """The NumPy dtype of an array of any namespace."""
    if is_numpy(x):
        return x.dtype
    name = str(x.dtype).split(".")[-1]
    try:
        return np.dtype(name)
    except TypeError:
        raise TypeError(f"dtype {name} is not supported; use one of {', '.join(map(str, DTYPES))}") from None


def as_dtype_of(a: Array, x: Array) -> Array:
    """`a` in the dtype of `x`; itself where that is its own."""
    return a if a.dtype == x.dtype else namespace(a).astype(a, x.dtype)


def cast(a: Array, dtype: np.dtype[Any]) -> Array:
    """`a` with numbers of a NumPy dtype; itself where it has them already."""
    if numpy_dtype(a) == dtype:
        return a
    xp = namespace(a)
    return a.astype(dtype) if is_numpy(a) else xp.astype(a, getattr(xp, dtype.name))


def like(values: NumpyArray, example: Array) -> Array:
    """`values` as an array of the namespace and on the device of `example`."""
    if is_numpy(example):
        return values
    xp = namespace(example)
    # without the negative strides that some libraries refuse
    return xp.asarray(np.asarray(values, order="C"), device=array_api_compat.device(example), copy=True)


def require_assignment(x: Array) -> None:
    """Raise a `DeviceError` where arrays like `x` may not take assignments at index arrays."""
    if not (array_api_compat.is_cupy_array(x) or array_api_compat.is_torch_array(x)):
        raise DeviceError(
            f"arrays of {place_of(x)} take no assignments at the places that an index array names, as those of CuPy "
            'and torch do: call A.to_device("cpu") first'
        )


def factors_one_by_one(x: Array) -> bool:
    """Whether a batch is on a CUDA device, where CuPy factors its blocks one after the other, with kernels for each."""
    return array_api_compat.is_cupy_array(x) or (array_api_compat.is_torch_array(x) and x.device.type == "cuda")


def same_library(x: Array, y: Array) -> bool:
    """Whether two arrays belong to one library."""
    return namespace(x) is namespace(y)


def compact(x: Array) -> Array:
    """An array with its numbers in the order of its indices, which products take without a copy; NumPy's as it is."""
    if array_api_compat.is_cupy_array(x):
        return namespace(x).ascontiguousarray(x)
    return x.contiguous() if array_api_compat.is_torch_array(x) else x


def mapped(name: str, x: Array) -> Array:
    """The function of this name (exp, log, ..) of all entries; an array of NumPy is overwritten."""
    return getattr(np, name)(x, out=x) if is_numpy(x) else getattr(namespace(x), name)(x)


def reciprocal(x: Array) -> Array:
    """1 / x; an array of NumPy is overwritten."""
    return np.divide(1.0, x, out=x) if is_numpy(x) else 1.0 / x


def place_of(x: Array) -> str:
    """The library of an array and the device it is on, for people."""
    return "numpy" if is_numpy(x) else f"{namespace(x).__name__.split('.')[-1]} on {array_api_compat.device(x)}"


def beside(x: Array, example: Array) -> Array:
    """`x` in the library and on the device of `example`; two libraries on one device share the memory (DLPack)."""
    if is_numpy(example):
        return to_numpy(x)
    if is_numpy(x) or not _on_one_device(x, example):
        return like(to_numpy(x), example)
    return namespace(example).from_dlpack(x)


def _on_one_device(x: Array, y: Array) -> bool:
    return bool(x.__dlpack_device__() == y.__dlpack_device__())


def take(x: Array, index: Array) -> Array:
    """x[index] along the first axis; the index may be NumPy's, or be where x is."""
    if is_numpy(x):
        return x[index]
    xp = namespace(x)
    found = xp.take(x, like(index.ravel(), x) if is_numpy(index) else xp.reshape(index, (-1,)), axis=0)
    return found if index.ndim == 1 else xp.reshape(found, (*index.shape, *x.shape[1:]))


def concatenated(arrays: Sequence[Array], axis: int = 0) -> Array:
    """The arrays after each other along an axis; itself where there is one."""
    return arrays[0] if len(arrays) == 1 else namespace(*arrays).concat(list(arrays), axis=axis)


def zeros_beside(shape: int | tuple[int, ...], x: Array, *others: Array) -> Array:
    """Zeros of the dtype (that of all arrays together), in the namespace and on the device of `x`."""
    if is_numpy(x):
        return np.zeros(shape, np.result_type(x, *others))
    xp = namespace(x)
    return xp.zeros(shape, dtype=xp.result_type(x, *others), device=array_api_compat.device(x))


def numbers_beside(count: int, x: Array) -> Array:
    """0, 1, .. , count - 1, on the device of `x`."""
    return np.arange(count) if is_numpy(x) else namespace(x).arange(count, device=array_api_compat.device(x))


def identity_beside(count: int, x: Array) -> Array:
    """The unit matrix of the dtype of `x`, on its device."""
    return like(np.eye(count, dtype=numpy_dtype(x)), x)


def running_sums(x: Array) -> Array:
    """0, x_0, x_0 + x_1, .. of a vector, in double precision."""
    if is_numpy(x):
        wide = x.astype(np.result_type(x, np.float64), copy=False)
        return np.append(wide.dtype.type(0), np.cumsum(wide))
    return namespace(x).cumulative_sum(cast(x, np.result_type(numpy_dtype(x), np.float64)), include_initial=True)


def with_columns(a: Array, width: int) -> Array:
    """Blocks (nb, p, k) with columns of zeros up to a width."""
    missing = width - a.shape[2]
    return a if missing == 0 else namespace(a).concat([a, zeros_beside((*a.shape[:2], missing), a)], axis=2)


def stacked(parts: Sequence[Array], width: int) -> Array:
    """Batches (nb, p, k) after each other, with columns of zeros up to a width; NumPy's written once."""
    if not is_numpy(parts[0]):
        return concatenated([with_columns(part, width) for part in parts])
    out = np.zeros((sum(len(part) for part in parts), parts[0].shape[1], width), dtype=parts[0].dtype)
    first = 0
    for part in parts:
        out[first : first + len(part), :, : part.shape[2]] = part
        first += len(part)
    return out


class Indices:
    """An index array, with a copy on each device that has asked for one."""

    def __init__(self, values: IntArray) -> None:
        self.values = values
        self._in_order = np.array_equal(values, np.arange(len(values)))
        self._copies: dict[tuple[str, str], Array] = {}

    def __len__(self) -> int:
        return len(self.values)

    def of(self, x: Array, start: int = 0, stop: int | None = None) -> Array:
        """x[indices[start:stop]] along the first axis; x itself where that is all of it, in order."""
        if self._in_order and start == 0 and stop is None and x.shape[0] == len(self):
            return x
        return namespace(x).take(x, self._beside(x)[start:stop], axis=0)

    def _beside(self, x: Array) -> Array:
        if is_numpy(x):
            return self.values
        key = namespace(x).__name__, str(array_api_compat.device(x))
        if key not in self._copies:
            self._copies[key] = like(self.values, x)
        return self._copies[key]


def device_namespace(device: str) -> Any:
    """The namespace that serves `device`, "cpu" or "gpu"."""
    if device == "cpu":
        return np
    if device != "gpu":
        raise DeviceError(f'device must be "cpu" or "gpu", but it is {device!r}')
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise DeviceError(
            f'device "gpu" needs CuPy and a CUDA device (pip install "structmat[gpu]"); what was found instead: {error}'
        ) from error
    return cupy


def free_bytes(library: Any) -> int | None:
    """Bytes that can still be had on the current device of a namespace; None where the library does not say."""
    if array_api_compat.is_cupy_namespace(library):
        import cupy

        return int(cupy.cuda.Device().mem_info[0]) + int(cupy.get_default_memory_pool().free_bytes())
    if array_api_compat.is_torch_namespace(library):
        import torch

        return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None
    return None


def require_room(needed: int, library: Any, what: str, remedy: str) -> None:
    """Raise a `DeviceMemoryError` where `needed` bytes are more than the device has left."""
    free = free_bytes(library)
    if free is not None and needed > free:
        raise DeviceMemoryError(
            f"{what} takes {needed / 1e9:.3g} GB on the device, but {free / 1e9:.3g} GB are free there: {remedy}"
        )


# numbers of work space that a product may always have
WORK_SPACE = 1 << 27


def columns_at_once(held: int, x: Array) -> int:
    """How many columns to work on at once if each holds so many numbers, of the dtype of `x`: at least one.

    All that fit into 1 GB of double precision, and beyond that into a quarter of what is free on the device.
    """
    columns = int(x.shape[-1])
    if held * columns <= WORK_SPACE:
        return max(1, columns)
    free = free_bytes(namespace(x)) or 0
    return min(columns, max(1, max(WORK_SPACE, free // (4 * numpy_dtype(x).itemsize)) // held))


def concurrently(aside: Callable[[], Array], here: Callable[[], Array], x: Array) -> tuple[Array, Array]:
    """Both results. Where `x` is on a GPU, the kernels of the first go to a stream of their own, beside the others.

    That stream waits for what was asked of the current one before, which in the end waits for it. So each of them uses
    again only memory that the other is done with, and both are in a graph that is being recorded.
    """
    streams = _streams(x)
    if streams is None:
        return aside(), here()
    current, other, scope = streams
    other.wait_event(_event(current))
    try:
        with scope:
            first = aside()
        return first, here()
    finally:
        current.wait_event(_event(other))


def _streams(x: Array) -> tuple[Any, Any, Any] | None:
    """The current stream of the GPU that `x` is on, another one, and a context in which that is the current one."""
    if array_api_compat.is_cupy_array(x):
        import cupy

        other = _other_stream("cupy", x.device.id)
        return cupy.cuda.get_current_stream(), other, other
    if array_api_compat.is_torch_array(x) and x.device.type == "cuda":
        import torch

        other = _other_stream("torch", x.device.index)
        return torch.cuda.current_stream(x.device), other, torch.cuda.stream(other)
    return None


@cache
def _other_stream(library: str, device: int) -> Any:
    """One for each device: kernels of a product follow those of the one before."""
    if library == "cupy":
        import cupy

        with cupy.cuda.Device(device):
            return cupy.cuda.Stream(non_blocking=True)
    import torch

    return torch.cuda.Stream(device)


def _event(stream: Any) -> Any:
    """What a stream has been asked for so far."""
    return stream.record() if hasattr(stream, "record") else stream.record_event()


class Recording:
    """The kernels of a function of one array of torch, as a CUDA graph that replays all of them with one launch.

    CuPy refuses to record calls of its BLAS; torch has work spaces of its own for that.
    """

    def __init__(self, function: Callable[[Array], Array], x: Array) -> None:
        import torch

        if x.device.type != "cuda":
            raise DeviceError(
                f"kernels are recorded on a CUDA device only, but the vectors are on {x.device}: move the matrix there "
                'with A.to_device("gpu"), or multiply with A @ x'
            )
        self.source = x.detach().clone()
        with torch.cuda.device(x.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # first calls copy index arrays there and choose kernels: not to be recorded
                for _ in range(3):
                    function(self.source)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self.result = function(self.source)

    def __call__(self, x: Array) -> Array:
        """The result for other values."""
        self.source.copy_(x)
        self._graph.replay()
        return self.result.clone()


def as_torch(x: Array) -> Array:
    """The memory of an array as one of torch, shared (DLPack) where it is on a device that both know."""
    if array_api_compat.is_torch_array(x):
        return x
    try:
        import torch
    except ImportError as error:
        raise MissingLibraryError(f"kernels are recorded by torch (pip install torch): {error}") from error
    return torch.from_dlpack(x)


def conj(x: Array) -> Array:
    """The complex conjugate; a real array itself, not a copy."""
    return namespace(x).conj(x) if numpy_dtype(x).kind == "c" else x


def transpose(x: Array) -> Array:
    """The transpose of the last two axes."""
    return x.swapaxes(-1, -2) if is_numpy(x) else namespace(x).matrix_transpose(x)


def adjoint(x: Array) -> Array:
    """The conjugate transpose of the last two axes."""
    return conj(transpose(x))


def adjoint_times(a: Array, x: Array) -> Array:
    """A^H X over a batch, without a copy of the adjoints of A, which some libraries make: X^H A is transposed."""
    return adjoint(namespace(a, x).matmul(adjoint(x), a))


def squared_norm(x: Array) -> float:
    """The sum of the squared absolute values of all entries."""
    return float(np.vdot(x, x).real) if is_numpy(x) else float(squared_norms(x, axis=None))


def squared_norms(x: Array, axis: int | tuple[int, ...] | None) -> Array:
    """The sums of the squared absolute values along some axes, in double precision."""
    xp = namespace(x)
    return xp.sum(xp.real(x * xp.conj(x)) if numpy_dtype(x).kind == "c" else x * x, axis=axis, dtype=xp.float64)


def inner_product(x: Array, y: Array) -> complex:
    """The sum of conj(x) y over all entries."""
    return complex(np.vdot(x, y)) if is_numpy(x) else complex(namespace(x, y).sum(conj(x) * y))


def real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(dtype.char.lower()) if dtype.kind == "c" else dtype


# ------------------------------------------------------------------------------------- threads


@cache
def thread_count() -> int:
    """How many threads the CPU kernels use: STRUCTMAT_NUM_THREADS, or the cores this process may run on."""
    asked = os.environ.get("STRUCTMAT_NUM_THREADS")
    return (
        max(1, int(asked))
        if asked
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )


@cache
def _pool() -> ThreadPoolExecutor:
    # the calling thread works too, so one worker less than threads
    return ThreadPoolExecutor(max_workers=max(1, thread_count() - 1), thread_name_prefix="structmat")


@cache
def _blas() -> Any:
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, BLAS and LAPACK run on one thread: the parallelism is ours."""
    with _blas().limit(limits=1):
        yield


def parallel_ranges(function: Callable[[int, int], None], count: int, *, serial: bool = False) -> None:
    """Call `function(start, stop)` on pieces that cover `range(count)`, one piece a thread.

    For functions that release the GIL (compiled kernels, NumPy's linear algebra). The first exception is raised.
    """
    threads = 1 if serial else min(thread_count(), count)
    if threads <= 1:
        if count > 0:
            function(0, count)
        return
    cuts = [count * k // threads for k in range(threads + 1)]
    waiting = [_pool().submit(function, a, b) for a, b in pairwise(cuts[1:])]
    try:
        function(cuts[0], cuts[1])
    finally:
        for future in waiting:
            future.exception()
    for future in waiting:
        future.result()


def parallel_tasks(function: Callable[[int], None], count: int) -> None:
    """Call `function(k)` for each k, taken in turn by the threads: for pieces of unequal or cache-sized work."""
    remaining = iter(range(count))  # next() on a range iterator is atomic under the GIL

    def work(_start: int, _stop: int) -> None:
        for k in remaining:
            function(k)

    parallel_ranges(work, min(thread_count(), count))


TASKS_PER_THREAD = 16


def parallel_pieces(function: Callable[[int, int], None], count: int) -> None:
    """Call `function(start, stop)` on pieces that cover `range(count)`, taken in turn: for items of unequal times."""
    pieces = min(count, TASKS_PER_THREAD * thread_count())
    cuts = [count * k // pieces for k in range(pieces + 1)] if pieces else [0]
    parallel_tasks(lambda k: function(cuts[k], cuts[k + 1]), len(cuts) - 1)
