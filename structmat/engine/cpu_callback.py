"""Functions of the user, compiled to small row functions that the compiled kernels call by their address.

The large kernels take the address as a number. So they are compiled once, and kept on disk, whatever the function; the
call costs a few nanoseconds a row, and the loop over the row is compiled together with the function, which lets it
be vectorised. (Numba's first-class functions do the same and cost twice as much a call.)

A row in which the function raises an exception is filled with NaN, which builds refuse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types, uint64
from numba.extending import intrinsic

from .cpu import FAST, jit

OPTIONS: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy"}
compiled_call: Any = intrinsic  # whose first argument, the context, is not given in calls
POINTER, COUNT = types.CPointer(types.float64), types.uint64
RADIAL_SIGNATURE = types.void(POINTER, COUNT)
POINTWISE_SIGNATURE = types.void(POINTER, COUNT, POINTER, COUNT, COUNT, COUNT, POINTER)


def _called(builder: Any, address: Any, arguments: list[Any]) -> None:
    """Call the function without a result at an address."""
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)


@compiled_call
def call_radial(_context, address, values, n):
    """Replace distances values[:n] by the values of the function whose row is at `address`."""

    def generate(context, builder, signature, arguments):
        row = context.make_array(signature.args[1])(context, builder, arguments[1])
        _called(builder, arguments[0], [row.data, arguments[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.Array(types.float64, 1, "C"), types.uint64), generate


@compiled_call
def call_pointwise(_context, address, x, i, y, start, n, turned, out):
    """Out[:n] = f(x_i, y_start ..), or f(y_start .., x_i) where `turned`; coordinates x (d, m), y (d, m') by rows."""

    def generate(context, builder, signature, arguments):
        kind = context.make_array(signature.args[1])
        address, x, i, y, start, n, turned, out = arguments
        left, right = kind(context, builder, x), kind(context, builder, y)
        row = context.make_array(signature.args[7])(context, builder, out)
        strides = [builder.extract_value(points.shape, 1) for points in (left, right)]
        firsts = [builder.gep(points.data, [at]) for points, at in ((left, i), (right, start))]
        _called(builder, address, [firsts[0], strides[0], firsts[1], strides[1], n, turned, row.data])
        return context.get_dummy_value()

    points = types.Array(types.float64, 2, "C")
    signature = types.void(
        types.int64, points, COUNT, points, COUNT, COUNT, COUNT, types.Array(types.float64, 1, "C")
    )  # fmt: skip
    return signature, generate


def radial_row(function: Any) -> Any:
    """The row function of f(r), with its `address`; it has to be kept for as long as the address is in use."""
    compiled = njit(nogil=True, **OPTIONS)(function)

    @njit(**OPTIONS)
    def fill(values, n):
        for j in range(n):
            values[j] = compiled(values[j])

    def row(pointer, n):
        values = carray(pointer, (n,))
        try:  # around the loop, not in it, where it would keep the loop from being vectorised
            fill(values, n)
        except Exception:
            for j in range(n):
                values[j] = np.nan

    _require_real(compiled, (types.float64,))
    return cfunc(RADIAL_SIGNATURE, **OPTIONS)(row)


def pointwise_row(function: Any, dim: int) -> Any:
    """The row function of f(x, y), x and y (dim,) arrays, with its `address`; keep it as that of `radial_row`."""
    compiled = njit(nogil=True, **OPTIONS)(function)

    @njit(**OPTIONS)
    def fill(x_pointer, x_stride, y_pointer, y_stride, n, turned, out):
        x, y = carray(x_pointer, (dim, x_stride)), carray(y_pointer, (dim, y_stride))
        one, other = np.empty(dim), np.empty(dim)
        for axis in range(dim):
            one[axis] = x[axis, 0]
        for j in range(n):
            for axis in range(dim):
                other[axis] = y[axis, j]
            out[j] = compiled(other, one) if turned else compiled(one, other)

    def row(x_pointer, x_stride, y_pointer, y_stride, n, turned, out_pointer):
        out = carray(out_pointer, (n,))
        try:
            fill(x_pointer, x_stride, y_pointer, y_stride, n, turned, out)
        except Exception:
            for j in range(n):
                out[j] = np.nan

    point = types.Array(types.float64, 1, "C")
    _require_real(compiled, (point, point))
    return cfunc(POINTWISE_SIGNATURE, **OPTIONS)(row)


def _require_real(compiled: Any, arguments: tuple[Any, ...]) -> None:
    """Compile for these arguments, and require that a real number is returned."""
    compiled.compile(arguments)
    result = compiled.overloads[arguments].signature.return_type
    if not isinstance(result, types.Float | types.Integer | types.Boolean):
        raise TypeError(f"the function must return a real number, but Numba finds that it returns {result}")


@jit
def radial_values(address, values):
    """Replace distances (n,) by values of the function whose row is at `address`."""
    call_radial(address, values, uint64(len(values)))


@jit
def pointwise_values(address, x, y, out):
    """Out (nb, m, q) = f(x, y) for coordinates x (nb, d, m) and y (nb, d, q)."""
    for b in range(len(out)):
        for i in range(uint64(out.shape[1])):
            call_pointwise(address, x[b], i, y[b], uint64(0), uint64(out.shape[2]), uint64(0), out[b, i])
