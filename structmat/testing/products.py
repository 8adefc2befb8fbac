"""Checks of products with arrays, from both sides, of the matrix and of its views."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._typing import NumpyArray
from ..exceptions import ShapeError
from .battery import Case, check, raises

VIEWS = ("A", "A.T", "A.H", "conj(A)")


def _views(case: Case) -> list[tuple[str, Any, NumpyArray]]:
    a, d = case.matrix, case.dense
    return list(zip(VIEWS, (a, a.T, a.H, a.conj()), (d, d.T, d.conj().T, d.conj()), strict=True))


@check()
def product_with_a_vector(case: Case) -> None:
    """A x, A^T x, A^H x and conj(A) x for a vector."""
    for name, a, d in _views(case):
        x = case.random(d.shape[1])
        case.close(a @ x, d @ x, what=f"{name} @ x")
        case.close(a.matvec(x), d @ x, what=f"{name}.matvec(x)")


@check()
def product_with_a_block(case: Case) -> None:
    """The same for blocks of one, three and seventeen vectors."""
    for name, a, d in _views(case):
        for count in (1, 3, 17):
            x = case.random(d.shape[1], count)
            case.close(a @ x, d @ x, np.sqrt(count) * case.norm, what=f"{name} @ X with {count} columns")
            case.close(a.matmat(x), d @ x, np.sqrt(count) * case.norm, what=f"{name}.matmat(X)")


@check()
def product_with_no_columns(case: Case) -> None:
    """A block of zero vectors gives a block of zero vectors."""
    for name, a, d in _views(case):
        result = a @ np.zeros((d.shape[1], 0), dtype=case.dense.dtype)
        assert result.shape == (d.shape[0], 0), f"{name} @ X has shape {result.shape}"
        left = np.zeros((0, d.shape[0]), dtype=case.dense.dtype) @ a
        assert left.shape == (0, d.shape[1]), f"X @ {name} has shape {left.shape}"


@check()
def product_from_the_left(case: Case) -> None:
    """X A and X A."""
    for name, a, d in _views(case):
        x, rows = case.random(d.shape[0]), case.random(d.shape[0], 5).T
        case.close(x @ a, x @ d, what=f"x @ {name}")
        case.close(rows @ a, rows @ d, np.sqrt(5.0) * case.norm, what=f"X @ {name}")


@check()
def product_with_the_adjoint(case: Case) -> None:
    """Rmatvec and rmatmat are products with A^H."""
    for name, a, d in _views(case):
        x, block = case.random(d.shape[0]), case.random(d.shape[0], 3)
        case.close(a.rmatvec(x), d.conj().T @ x, what=f"{name}.rmatvec(x)")
        case.close(a.rmatmat(block), d.conj().T @ block, np.sqrt(3.0) * case.norm, what=f"{name}.rmatmat(X)")


@check()
def adjoint_test(case: Case) -> None:
    """<A x, y> = <x, A^H y>."""
    rng = case.rng
    x, y = case.random(case.dense.shape[1], rng=rng), case.random(case.dense.shape[0], rng=rng)
    case.close(np.vdot(y, case.matrix @ x), np.vdot(case.matrix.H @ y, x), what="<A x, y>")


@check()
def product_with_other_types(case: Case) -> None:
    """Complex vectors with a real matrix, other precisions, integers, lists."""
    m, n = case.dense.shape
    for dtype in (np.float32, np.float64, np.complex64, np.complex128):
        for shape in ((n,), (n, 2)):
            x = case.random(*shape, dtype=dtype)
            y = case.matrix @ x
            expected = np.result_type(case.dense.dtype, dtype)
            assert y.dtype == expected, f"A of {case.dense.dtype} @ x of {x.dtype} is {y.dtype}, expected {expected}"
            case.close(y, case.dense @ x, 2.0 * case.norm, what=f"A @ x of type {x.dtype}")
    whole = np.arange(n) % 5 - 2
    case.close(case.matrix @ whole, case.dense @ whole, case.norm * np.linalg.norm(whole), what="A @ integers")
    case.close(case.matrix @ list(whole), case.dense @ whole, case.norm * np.linalg.norm(whole), what="A @ list")
    ends = np.arange(m) % 3 - 1
    case.close(ends.tolist() @ case.matrix, ends @ case.dense, case.norm * np.linalg.norm(ends), what="list @ A")


@check()
def product_with_strided_arrays(case: Case) -> None:
    """Columns of larger arrays, Fortran order, reversed and read-only arrays; none is written to."""
    n = case.dense.shape[1]
    x = case.random(n, 6)
    wide, before = np.repeat(x, 2, axis=1), x.copy()
    frozen = x.copy()
    frozen.flags.writeable = False
    for name, y in (("strided", wide[:, ::2]), ("Fortran", np.asfortranarray(x)), ("read-only", frozen)):
        case.close(case.matrix @ y, case.dense @ x, np.sqrt(6.0) * case.norm, what=f"A @ X, {name}")
    case.close(case.matrix @ x[::-1], case.dense @ x[::-1], np.sqrt(6.0) * case.norm, what="A @ X reversed")
    case.close(case.matrix @ wide[:, 2], case.dense @ x[:, 1], what="A @ a column")
    case.close(case.matrix @ frozen[:, 0], case.dense @ x[:, 0], what="A @ a read-only column")
    assert np.array_equal(x, before), "a product has changed its operand"


@check()
def product_as_linear_operator(case: Case) -> None:
    """The LinearOperator has products and adjoint products with vectors and blocks."""
    op = case.matrix.aslinearoperator()
    m, n = case.dense.shape
    assert op.shape == (m, n)
    assert op.dtype == case.dense.dtype
    x, y, block = case.random(n), case.random(m), case.random(n, 3)
    case.close(op @ x, case.dense @ x, what="operator @ x")
    case.close(op @ block, case.dense @ block, 2.0 * case.norm, what="operator @ X")
    case.close(op.rmatvec(y), case.dense.conj().T @ y, what="operator.rmatvec")
    case.close(op.H @ y, case.dense.conj().T @ y, what="operator.H @ y")
    case.close(op.rmatmat(y[:, None]), case.dense.conj().T @ y[:, None], what="operator.rmatmat")


@check()
def products_refuse_wrong_shapes(case: Case) -> None:
    """The message names the argument, the sizes and the shape."""
    m, n = case.dense.shape
    with raises(ShapeError, f"x has {n + 1} rows", f"A has {n} columns", f"A.shape = ({m}, {n})"):
        case.matrix @ np.ones(n + 1)
    with raises(ShapeError, f"x has {m + 1} columns", f"A has {m} rows"):
        np.ones((2, m + 1)) @ case.matrix
    with raises(ShapeError, "1-D or 2-D", "3 dimensions"):
        case.matrix @ np.ones((n, 1, 1))
    with raises(ShapeError, "1-D or 2-D", "0 dimensions"):
        case.matrix @ np.ones(())
    with raises(TypeError, "object"):
        case.matrix @ np.full(n, None)


@check()
def views_are_involutions(case: Case) -> None:
    """A.T.T, A.H.H and conj(conj(A)) are A; A.T.H is conj(A); shapes and types follow."""
    a, d = case.matrix, case.dense
    for name, view, twin in (
        ("A.T.T", a.T.T, d), ("A.H.H", a.H.H, d), ("conj conj A", a.conj().conj(), d),
        ("A.T.H", a.T.H, d.conj()), ("A.H.T", a.H.T, d.conj()), ("conj(A).H", a.conj().H, d.T),
        ("conj(A).T", a.conj().T, d.conj().T),
    ):  # fmt: skip
        assert view.shape == twin.shape, name
        assert view.dtype == twin.dtype, name
        case.close(view.to_dense(), twin, what=name)
