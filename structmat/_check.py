"""Checks at the door: every public function validates here and then calls its underscored twin.

An error names the argument, what was expected, what came, and the way out.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ._backend import DTYPES, is_foreign_array, is_numpy, namespace, numpy_dtype, to_numpy
from ._typing import Array, NumpyArray, RandomLike
from .exceptions import NonFiniteError, ShapeError


def positive_integer(value: Any, name: str, *, minimum: int = 1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, but it is {value!r} of type {type(value).__name__}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, but it is {number}")
    return number


def positive_number(value: Any, name: str) -> float:
    """A finite real number above zero; text and arrays are not numbers."""
    if isinstance(value, (int, float, np.integer, np.floating)) and 0.0 < value < np.inf:
        return float(value)
    raise ValueError(f"{name} must be a positive finite number, but it is {value!r}")


def tolerance(value: Any, name: str = "rtol") -> float:
    number = float(value)
    if not 0.0 <= number < np.inf:
        raise ValueError(f"{name} must be a finite number >= 0, but it is {value!r}")
    return number


def generator(rng: RandomLike) -> np.random.Generator:
    """SPEC 7: whatever `numpy.random.default_rng` takes."""
    return np.random.default_rng(rng)


def supported_dtype(dtype: Any) -> np.dtype[Any]:
    """The working precision for data of this type: integers and booleans become float64."""
    given = np.dtype(dtype).newbyteorder("=")
    if given in DTYPES:
        return given
    if given.kind in "biu":
        return np.dtype(np.float64)
    raise TypeError(
        f"dtype {given} is not supported; use one of {', '.join(str(d) for d in DTYPES)} (for example a.astype(float))"
    )


def finite(a: Array, name: str) -> None:
    if not is_numpy(a):
        xp = namespace(a)
        if bool(xp.all(xp.isfinite(a))):
            return
        a = to_numpy(a)
    if not np.isfinite(a).all():
        bad = np.argwhere(~np.isfinite(a))[0]
        where = ", ".join(str(int(k)) for k in bad)
        count = int((~np.isfinite(a)).sum())
        raise NonFiniteError(
            f"{name} must be finite, but {count} of its {a.size} entries are NaN or Inf (the first at [{where}])"
        )


def finite_norm(norm: float, dtype: Any) -> float:
    """The Frobenius norm of a matrix whose entries are finite, if its square was a number of that type."""
    if not norm < np.inf:
        wide = "" if np.finfo(dtype).bits == 64 else "use double precision, or "
        raise NonFiniteError(
            f"the Frobenius norm of the matrix overflows in {np.dtype(dtype)}; {wide}multiply the matrix by a power of "
            "2 before it is built, and the result by its inverse"
        )
    return norm


def frobenius(a: NumpyArray) -> float:
    """The Frobenius norm of a dense array, likewise."""
    with np.errstate(over="ignore"):
        return finite_norm(float(np.linalg.norm(a)), a.dtype)


def plain_array(a: Any, name: str) -> Array:
    """What was given as an array, of its own library or else NumPy's; no sparse matrices, operators or masks."""
    if is_foreign_array(a):
        return a
    if not is_numpy(a) and hasattr(a, "shape"):
        _no_operator(a, name)
    if np.ma.is_masked(a):
        raise NonFiniteError(
            f"{name} has {np.ma.count_masked(a)} masked entries, which are no numbers; fill them ({name}.filled(0.0))"
        )
    return np.asarray(a)


def _no_operator(a: Any, name: str) -> None:
    import scipy.sparse as sparse  # takes longer to import than all of structmat
    import scipy.sparse.linalg as spla

    if sparse.issparse(a):
        raise TypeError(
            f"{name} is a sparse {type(a).__name__}, but an array is expected: {name}.toarray(), or make a structured "
            "matrix of it with from_sparse"
        )
    if isinstance(a, spla.LinearOperator):
        raise TypeError(
            f"{name} is a LinearOperator, but an array is expected: from_operator makes a structured matrix of it, and "
            "A.aslinearoperator() multiplies with it"
        )


def matrix(a: Any, name: str) -> NumpyArray:
    """A 2-D, finite, non-empty NumPy array, from whatever array, in a supported precision."""
    array = plain_array(a, name)
    supported_dtype(numpy_dtype(array))
    array = to_numpy(array)
    if array.ndim != 2:
        raise ShapeError(f"{name} must be 2-D, but it has {array.ndim} dimensions (shape {array.shape})")
    if 0 in array.shape:
        raise ShapeError(f"{name} must have at least one row and one column, but its shape is {array.shape}")
    array = array.astype(supported_dtype(array.dtype), copy=False)
    finite(array, name)
    return array


def vector(a: Any, name: str, size: int | None = None) -> NumpyArray:
    """A 1-D, finite NumPy array, from whatever array, in a supported precision."""
    array = to_numpy(plain_array(a, name))
    if array.ndim != 1:
        raise ShapeError(f"{name} must be 1-D, but it has {array.ndim} dimensions (shape {array.shape})")
    if size is not None and array.shape[0] != size:
        raise ShapeError(f"{name} must have length {size}, but it has length {array.shape[0]}")
    array = array.astype(supported_dtype(array.dtype), copy=False)
    finite(array, name)
    return array


def points(a: Any, name: str = "points") -> NumpyArray:
    """Point coordinates: (n,) or (n, d), n >= 1, finite float64."""
    given = to_numpy(plain_array(a, name))
    if given.dtype.kind == "c":
        raise TypeError(
            f"{name} must be real coordinates, but they are {given.dtype}: np.stack([z.real, z.imag], axis=1)"
        )
    array = np.asarray(given, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise ShapeError(f"{name} must have shape (n,) or (n, d), but its shape is {array.shape}")
    if array.size == 0:
        raise ShapeError(
            f"{name} is empty (shape {array.shape}); a tree needs at least one point of dimension at least 1"
        )
    finite(array, name)
    return array


def operand(x: Any, size: int, shape: tuple[int, int], *, side: str = "columns", name: str = "x") -> Array:
    """The right-hand operand of a product or a solve: (size,) or (size, k), in a supported precision.

    Arrays of other libraries pass through untouched but for the check of their shape.
    """
    array = plain_array(x, name)
    if array.ndim not in (1, 2):
        raise ShapeError(f"{name} must be 1-D or 2-D, but it has {array.ndim} dimensions (shape {tuple(array.shape)})")
    if array.shape[0] != size:
        raise ShapeError(f"{name} has {array.shape[0]} rows, but A has {size} {side} (A.shape = {shape})")
    dtype = supported_dtype(numpy_dtype(array))
    if dtype != numpy_dtype(array):
        array = namespace(array).astype(array, getattr(namespace(array), dtype.name))
    return array


def finite_operand(x: NumpyArray, name: str) -> NumpyArray:
    finite(x, name)
    return x


def index_array(index: Any, size: int, axis: str) -> NumpyArray:
    """An index, a slice, a list or a boolean mask as an int64 array of positions in range(size)."""
    if isinstance(index, slice):
        return np.arange(*index.indices(size), dtype=np.int64)
    array = np.asarray(index)
    if array.dtype == bool:
        if array.shape != (size,):
            raise IndexError(f"the {axis} mask must have shape ({size},), but its shape is {array.shape}")
        return np.flatnonzero(array).astype(np.int64)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise IndexError(
            f"the {axis} index must be an integer, a slice, a 1-D list of integers or a mask; got {index!r}"
        )
    array = np.atleast_1d(array).astype(np.int64)
    if array.min() < -size or array.max() >= size:
        bad = int(array[(array < -size) | (array >= size)][0])
        raise IndexError(f"{axis} index {bad} is out of bounds for size {size}")
    return np.where(array < 0, array + size, array)
