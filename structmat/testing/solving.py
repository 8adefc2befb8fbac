"""Checks of factorisations: solves, determinants, inverses."""

from __future__ import annotations

import warnings

import numpy as np

from .._typing import NumpyArray
from ..exceptions import IllConditionedWarning, NonFiniteError, ShapeError, SingularBlockError
from .battery import Case, check, raises


def _smallest(case: Case) -> float:
    """The smallest singular value of the dense twin."""
    return float(case.singular_values[-1])


def _is_singular(case: Case) -> bool:
    """Whether the perturbations that are allowed could make the matrix singular."""
    return _smallest(case) <= 10.0 * case.relative * case.norm


def _backward_close(case: Case, a: NumpyArray, x: NumpyArray, b: NumpyArray, what: str) -> None:
    """The residual of a backward stable solve: small against ||A|| ||x||, whatever the condition."""
    assert x.shape == b.shape, f"{what}: x has shape {x.shape}, b has {b.shape}"
    assert np.isfinite(x).all(), what
    case.close(a @ x, b, case.norm * float(np.linalg.norm(x)) + float(np.linalg.norm(b)), what)


@check(square=True, factors=True)
def solve_with_vectors_and_blocks(case: Case) -> None:
    """A x = b and A^H x = b for vectors, blocks, no columns, and other types."""
    if _is_singular(case):
        return
    factored = case.matrix.factorize()
    n = len(case.dense)
    for b in (case.random(n), case.random(n, 1), case.random(n, 5), case.random(n, 2, dtype=np.complex128)):
        kept = b.copy()
        _backward_close(case, case.dense, factored.solve(b), b, f"solve, b {b.shape}")
        _backward_close(case, case.dense.conj().T, factored.solve_adjoint(b), b, f"solve_adjoint, b {b.shape}")
        assert np.array_equal(b, kept), "solve has changed b"
    assert factored.solve(np.zeros((n, 0))).shape == (n, 0)
    assert not factored.solve(np.zeros(n)).any()


@check(square=True, factors=True)
def solve_with_views(case: Case) -> None:
    """Factorisations of A.T, A.H and conj(A)."""
    if _is_singular(case):
        return
    b = case.random(len(case.dense), 2)
    d = case.dense
    for name, a, twin in (
        ("A.T", case.matrix.T, d.T), ("A.H", case.matrix.H, d.conj().T),
        ("conj(A)", case.matrix.conj(), d.conj()),
    ):  # fmt: skip
        _backward_close(case, twin, a.factorize().solve(b), b, f"solve with {name}")


@check(square=True, factors=True)
def solve_in_one_call(case: Case) -> None:
    """A.solve, with a step of refinement, with a factorisation, and refined against the exact operator."""
    if _is_singular(case):
        return
    b = case.random(len(case.dense))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditionedWarning)
        _backward_close(case, case.dense, case.matrix.solve(b), b, "A.solve")
        _backward_close(case, case.dense, case.matrix.solve(b, refine=True), b, "A.solve, refined")
        factored = case.matrix.factorize()
        _backward_close(case, case.dense, case.matrix.solve(b, factorization=factored), b, "A.solve with factors")
        x = case.matrix.solve(b, operator=case.dense, rtol=10 * case.eps)
    if case.relative * case.norm <= 1e-2 * _smallest(case):
        residual = float(np.linalg.norm(case.dense @ x - b))
        allowed = 4.0 * np.sqrt(len(b)) * case.eps * (case.norm * float(np.linalg.norm(x)) + 10.0)
        assert residual <= allowed, f"refinement left a residual of {residual:.2e}, allowed are {allowed:.2e}"


@check(square=True, factors=True)
def determinant(case: Case) -> None:
    """The sign or phase exactly, the logarithm to what the condition allows."""
    if _is_singular(case):
        return
    sign, logarithm = case.matrix.slogdet()
    wide = case.dense.astype(np.complex128 if case.dense.dtype.kind == "c" else np.float64)
    expected_sign, expected = np.linalg.slogdet(wide)
    # d log det A = tr(A^-1 dA)
    allowed = case.relative * case.norm * float(np.linalg.norm(np.linalg.inv(wide))) + case.relative * (
        1 + abs(expected)
    )
    assert abs(logarithm - expected) <= allowed, f"log |det| is {logarithm}, expected {expected}"
    assert abs(abs(sign) - 1.0) <= 10 * case.eps, f"the sign {sign} is not of modulus one"
    if case.dense.dtype.kind == "c":
        assert abs(sign - expected_sign) <= allowed, f"the phase is {sign}, expected {expected_sign}"
    else:
        assert sign == expected_sign, f"the sign is {sign}, expected {expected_sign}"


@check(square=True, factors=True)
def inverse_matrix(case: Case) -> None:
    """A^-1 in the same format, recompressed."""
    if _is_singular(case):
        return
    inverse = case.matrix.inverse()
    exact = np.linalg.inv(case.dense)
    size = float(np.linalg.norm(exact))
    # relative errors of A are amplified by the condition number
    case.close(inverse.to_dense(), exact, size * max(1.0, case.norm * size), "A^-1")
    assert inverse.shape == case.matrix.shape


@check(square=True, factors=True)
def inverse_as_operator(case: Case) -> None:
    """The factorisation as a LinearOperator, for preconditioning."""
    if _is_singular(case):
        return
    factored = case.matrix.factorize()
    op = factored.aslinearoperator()
    b = case.random(len(case.dense), 3)
    assert op.shape == case.dense.shape
    _backward_close(case, case.dense, op @ b, b, "A^-1 as an operator")
    _backward_close(case, case.dense, op @ b[:, 0], b[:, 0], "A^-1 as an operator, on a vector")
    _backward_close(case, case.dense.conj().T, op.H @ b, b, "its adjoint")
    assert factored.nbytes > 0
    assert str(case.dense.shape) in repr(factored)


@check(square=True, factors=True)
def singular_matrices_are_refused(case: Case) -> None:
    """Exactly singular matrices raise, naming level and node, or give solutions with a small residual."""
    if _smallest(case) > 0.01 * case.eps * case.norm and case.norm > 0:
        return
    b = case.random(len(case.dense))
    try:
        with np.errstate(all="ignore"):
            x = case.matrix.factorize().solve(b)
    except SingularBlockError as error:
        if "singular" not in str(error) or min(error.level, error.node) < 0:
            raise AssertionError(f"the message names no block: {error}") from error
    else:
        _backward_close(case, case.dense, x, b, "a nearly singular solve")


@check(square=True, factors=True)
def solves_refuse_bad_input(case: Case) -> None:
    """Wrong lengths and NaN are named."""
    if _is_singular(case):
        return
    factored, n = case.matrix.factorize(), len(case.dense)
    with raises(ShapeError, f"b has {n + 1} rows", f"A has {n} rows"):
        factored.solve(np.ones(n + 1))
    bad = np.ones(n)
    bad[n // 2] = np.nan
    with raises(NonFiniteError, "b must be finite", f"[{n // 2}]"):
        factored.solve_adjoint(bad)


@check(square=True)
def formats_that_do_not_factorize_say_so(case: Case) -> None:
    """Where a format has no factorisation, all that needs one is a TypeError that names the way out."""
    a = case.matrix
    if a.factorizes:
        return
    for verb in (a.factorize, a.slogdet, a.inverse, lambda: a.solve(np.ones(len(case.dense)))):
        with raises(TypeError, "no factorisation", "from_structured"):
            verb()


@check()
def rectangles_are_not_solved(case: Case) -> None:
    """Solves, determinants and inverses of rectangular matrices are refused, with the way out."""
    m, n = case.dense.shape
    if m != n:
        for verb in (lambda: case.matrix.solve(np.ones(m)), case.matrix.slogdet, case.matrix.inverse):
            with raises(ShapeError, "square matrix", f"({m}, {n})", "lstsq"):
                verb()
