"""Checks of arithmetic: sums, multiples, products of matrices, truncation, updates."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..exceptions import NonFiniteError, ShapeError, StructureWarning
from .battery import Case, check, raises


@check()
def sum_and_difference(case: Case) -> None:
    """A + A, A - A, -A, and sums with views."""
    a, d = case.matrix, case.dense
    case.close((a + a).to_dense(), 2 * d, 2 * case.norm, "A + A")
    case.close((a - a).to_dense(), 0 * d, 2 * case.norm, "A - A")
    case.close((-a).to_dense(), -d, what="-A")
    case.close((a.conj() + a).to_dense(), d.conj() + d, 2 * case.norm, "conj(A) + A")
    if d.shape[0] == d.shape[1] and a.row_tree == a.col_tree:
        case.close((a + a.H).to_dense(), d + d.conj().T, 2 * case.norm, "A + A.H")
        case.close((a - a.T).to_dense(), d - d.T, 2 * case.norm, "A - A.T")


@check()
def scalar_multiples(case: Case) -> None:
    """Real and complex factors from both sides, division, zero."""
    a, d = case.matrix, case.dense
    factors: tuple[Any, ...] = (2, -0.5, np.float32(3.0), np.float64(-7.0), 1.5 - 2.0j, 0.0)
    for factor in factors:
        case.close((factor * a).to_dense(), factor * d, abs(factor) * case.norm, f"{factor} A")
        case.close((a * factor).to_dense(), factor * d, abs(factor) * case.norm, f"A {factor}")
    case.close((a / 4.0).to_dense(), d / 4.0, what="A / 4")
    case.close((1j * a.H).to_dense(), 1j * d.conj().T, what="i A^H")
    assert (2.0 * a).dtype == d.dtype, "a real factor has changed the type"
    assert (2.0j * a).dtype == np.result_type(d.dtype, np.complex64), "a complex factor gives the wrong type"
    with raises(ValueError, "must be finite", "nan"):
        np.nan * a
    with raises(TypeError):
        a * "2"


@check()
def product_of_matrices(case: Case) -> None:
    """A A^H, A^H A and products with views; a format without them says so."""
    a, d = case.matrix, case.dense
    if not hasattr(a, "multiply"):
        with raises(TypeError, "is not defined"):
            a @ a.H
        return
    square = case.norm**2
    case.close((a @ a.H).to_dense(), d @ d.conj().T, square, "A @ A.H")
    case.close((a.T @ a.conj()).to_dense(), d.T @ d.conj(), square, "A.T @ conj(A)")
    case.close((a.H @ a).to_dense(), d.conj().T @ d, square, "A.H @ A")
    if d.shape[0] == d.shape[1] and a.row_tree == a.col_tree:
        case.close((a @ a).to_dense(), d @ d, square, "A @ A")


@check(needs=("hadamard",))
def hadamard_product(case: Case) -> None:
    """A o A and A o conj(A), against their own norms."""
    a, d = case.matrix, case.dense
    largest = float(np.abs(d).max(initial=0.0))
    # entries of A carry the error of A, times the largest entry of the other factor
    case.close(a.hadamard(a).to_dense(), d * d, 2 * largest * case.norm, "A o A")
    case.close(a.hadamard(a.conj()).to_dense(), d * d.conj(), 2 * largest * case.norm, "A o conj(A)")


@check(needs=("truncate",))
def truncation_keeps_its_certificate(case: Case) -> None:
    """The true error is at most the bound of the certificate; ranks fall as tolerances rise."""
    before = case.matrix.max_rank
    for rtol in (1e-12, 1e-6, 1e-3, 0.3):
        cut = case.matrix.truncate(rtol=rtol)
        error = float(np.linalg.norm(cut.to_dense() - case.dense))
        assert error <= cut.certificate.upper_bound * case.norm + case.relative * case.norm, (
            f"truncated to {rtol}: the error is {error / case.norm:.2e}, certified are {cut.certificate}"
        )
        assert cut.certificate.met, str(cut.certificate)
        assert cut.max_rank <= before, "a larger tolerance gave a larger rank"
        before = cut.max_rank
    # the tolerance is shared by the nodes: this much for each of them leaves nothing
    assert case.matrix.truncate(rtol=0.0, atol=4.0 * max(case.dense.shape) * case.norm).max_rank == 0, "atol is ignored"
    with raises(ValueError, "rtol must be a finite number >= 0"):
        case.matrix.truncate(rtol=-1.0)
    with raises(ValueError, "max_rank must be at least 0"):
        case.matrix.truncate(rtol=0.1, max_rank=-1)


@check(square=True, needs=("add_diagonal",))
def diagonal_update(case: Case) -> None:
    """A + diag(d) for a scalar and a vector, real and complex; bad input is named."""
    a, dense = case.matrix, case.dense
    if a.row_tree != a.col_tree:
        return
    n = len(dense)
    d = case.random(n, dtype=np.zeros(0, dense.dtype).real.dtype)
    case.close(a.add_diagonal(2.0).to_dense(), dense + 2 * np.eye(n), case.norm + 2 * np.sqrt(n), "A + 2 I")
    case.close(a.add_diagonal(d).to_dense(), dense + np.diag(d), case.norm + 1, "A + diag(d)")
    case.close(a.H.add_diagonal(d).to_dense(), dense.conj().T + np.diag(d), case.norm + 1, "A.H + diag(d)")
    if not getattr(a, "symmetric", False):
        z = case.random(n, dtype=np.complex128)
        case.close(a.add_diagonal(z).to_dense(), dense + np.diag(z), case.norm + 1, "A + diag(z)")
        case.close(a.add_diagonal(1j).to_dense(), dense + 1j * np.eye(n), case.norm + np.sqrt(n), "A + i I")
    with raises(ShapeError, f"d must have length {n}", f"length {n + 1}"):
        a.add_diagonal(np.ones(n + 1))
    with raises(NonFiniteError, "d must be finite"):
        a.add_diagonal(np.full(n, np.nan))


@check(needs=("add_low_rank",))
def low_rank_update(case: Case) -> None:
    """A + U V^H, and the Hermitian update A + U U^H."""
    a, dense = case.matrix, case.dense
    rng = case.rng
    u, v = (case.random(size, 2, rng=rng) for size in dense.shape)
    kept = u.copy(), v.copy()
    scale = case.norm + 2.0
    case.close(a.add_low_rank(u, v).to_dense(), dense + u @ v.conj().T, scale, "A + U V^H")
    case.close(a.H.add_low_rank(v, u).to_dense(), (dense + u @ v.conj().T).conj().T, scale, "A^H + V U^H")
    if dense.shape[0] == dense.shape[1]:
        updated = a.add_low_rank(u, u)
        case.close(updated.to_dense(), dense + u @ u.conj().T, scale, "A + U U^H")
        if getattr(a, "symmetric", False):
            assert updated.symmetric, "a Hermitian update has lost the symmetry"
    assert np.array_equal(u, kept[0]), "add_low_rank has changed u"
    assert np.array_equal(v, kept[1]), "add_low_rank has changed v"


@check(needs=("from_sparse",))
def sparse_update(case: Case) -> None:
    """A + S, S + A and A - S for a sparse band."""
    import scipy.sparse as sparse

    m, n = case.dense.shape
    band = (sparse.eye_array(m, n) * 2.0 + sparse.eye_array(m, n, k=1)).tocsr()
    twin = band.toarray()
    scale = case.norm + float(np.linalg.norm(twin))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StructureWarning)  # a band on tiny leaves
        case.close((case.matrix + band).to_dense(), case.dense + twin, scale, "A + S")
        case.close((band + case.matrix).to_dense(), case.dense + twin, scale, "S + A")
        case.close((case.matrix - band).to_dense(), case.dense - twin, scale, "A - S")
        case.close((band - case.matrix).to_dense(), twin - case.dense, scale, "S - A")


@check(needs=("astype",))
def conversion_of_type(case: Case) -> None:
    """Every precision; complex to real and unsupported types are refused."""
    for dtype in (np.float32, np.float64, np.complex64, np.complex128):
        if case.dense.dtype.kind == "c" and np.dtype(dtype).kind != "c":
            with raises(TypeError, "imaginary part"):
                case.matrix.astype(dtype)
            continue
        converted = case.matrix.astype(dtype)
        assert converted.dtype == dtype
        twin = case.dense.astype(dtype)
        Case(converted, twin, max(case.rtol, case.eps)).close(converted.to_dense(), twin, what=f"A as {dtype.__name__}")
    with raises(TypeError, "not supported"):
        case.matrix.astype(np.float16)


@check()
def refused_arithmetic(case: Case) -> None:
    """Sums with arrays and products of wrong shapes are errors, not dense surprises."""
    a = case.matrix
    m, n = a.shape
    with raises(TypeError):
        a + np.ones((m, n))
    with raises(TypeError):
        np.ones((m, n)) - a
    with raises(TypeError):
        a / "2"
    if m != n:
        if hasattr(a, "multiply"):
            with raises(ShapeError, f"{n} columns", f"{m} rows"):
                a @ a
        with raises(ShapeError, f"({m}, {n})", f"({n}, {m})"):
            a + a.T
