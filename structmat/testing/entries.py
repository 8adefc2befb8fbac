"""Checks of entries, diagonals and norms."""

from __future__ import annotations

import numpy as np

from ..exceptions import ShapeError
from .battery import Case, check, raises


@check()
def dense_form(case: Case) -> None:
    """to_dense, np.asarray, shape, ndim, dtype, len."""
    a, d = case.matrix, case.dense
    assert a.shape == d.shape
    assert a.ndim == 2
    assert a.dtype == d.dtype
    assert len(a) == len(d)
    case.close(a.to_dense(), d, what="to_dense")
    case.close(np.asarray(a), d, what="np.asarray(A)")
    assert np.asarray(a, dtype=np.complex128).dtype == np.complex128
    assert a.to_dense().dtype == d.dtype
    with raises(ValueError, "without a copy"):
        np.array(a, copy=False)


@check()
def single_entries(case: Case) -> None:
    """A[i, j] is a number, also for negative and NumPy integers, for the matrix and its views."""
    m, n = case.dense.shape
    for i, j in {(0, 0), (m - 1, 0), (0, n - 1), (m // 2, n // 3), (-1, -1), (m // 3, -n)}:
        case.close(case.matrix[i, j], case.dense[i, j], what=f"A[{i}, {j}]")
        case.close(case.matrix.T[j, i], case.dense[i, j], what=f"A.T[{j}, {i}]")
        case.close(case.matrix.H[j, np.int64(i)], case.dense[i, j].conj(), what=f"A.H[{j}, {i}]")
        case.close(case.matrix.conj()[i, j], case.dense[i, j].conj(), what=f"conj(A)[{i}, {j}]")
    assert np.ndim(case.matrix[0, 0]) == 0


@check()
def sub_blocks(case: Case) -> None:
    """Slices, lists, masks, mixed with integers; repeated and unsorted rows; empty ones."""
    a, d = case.matrix, case.dense
    m, n = d.shape
    rng = case.rng
    rows, cols = rng.integers(0, m, 7), rng.integers(0, n, 4)
    mask, other = rng.random(m) < 0.4, rng.random(n) < 0.4
    case.close(a[:, :], d, what="A[:, :]")
    case.close(a[1::2, ::-1], d[1::2, ::-1], what="A[1::2, ::-1]")
    case.close(a[rows, cols.tolist()], d[np.ix_(rows, cols)], 28 * case.norm, what="A[rows, cols]")
    case.close(a[mask, other], d[mask][:, other], what="A[mask, mask]")
    case.close(a[-1, :], d[-1, :], what="A[-1, :]")
    case.close(a[:, 0], d[:, 0], what="A[:, 0]")
    case.close(a[0, rows[:0]], d[0, :0], what="A[0, []]")
    case.close(a.H[cols, rows], d.conj().T[np.ix_(cols, rows)], 28 * case.norm, what="A.H[cols, rows]")


@check()
def bad_indices(case: Case) -> None:
    """Each wrong index is an IndexError that says which."""
    a = case.matrix
    m, n = a.shape
    with raises(IndexError, f"row index {m} is out of bounds for size {m}"):
        a[m, 0]
    with raises(IndexError, f"column index {-n - 1} is out of bounds"):
        a[0, -n - 1]
    with raises(IndexError, "two indices"):
        a[0]
    with raises(IndexError, "mask must have shape"):
        a[np.ones(m + 1, dtype=bool), 0]
    with raises(IndexError, "must be an integer, a slice"):
        a[0, 0.5]
    with raises(IndexError, "must be an integer, a slice"):
        a[np.zeros((1, 1), dtype=int), 0]


@check(needs=("diagonal",))
def diagonal_and_trace(case: Case) -> None:
    """The diagonal of every shape, the trace of square matrices."""
    case.close(case.matrix.diagonal(), np.diagonal(case.dense), what="diagonal")
    case.close(case.matrix.H.diagonal(), np.diagonal(case.dense).conj(), what="diagonal of A.H")
    if case.dense.shape[0] == case.dense.shape[1]:
        n = len(case.dense)
        case.close(case.matrix.trace(), np.trace(case.dense), np.sqrt(n) * case.norm, what="trace")


@check(needs=("trace",))
def no_trace_of_rectangles(case: Case) -> None:
    """The trace of a rectangular matrix is refused."""
    if case.dense.shape[0] != case.dense.shape[1]:
        with raises(ShapeError, "square"):
            case.matrix.trace()


@check()
def both_norms(case: Case) -> None:
    """The Frobenius norm to rounding, the 2-norm to the tolerance of its iteration."""
    case.close(case.matrix.norm(), case.norm, what="norm()")
    case.close(case.matrix.T.norm("fro"), case.norm, what="norm of A.T")
    largest = float(np.linalg.norm(case.dense, 2))
    got = case.matrix.norm(2)
    assert abs(got - largest) <= 1e-4 * largest + case.relative * case.norm, f"norm(2) is {got}, expected {largest}"
    with raises(ValueError, 'ord must be "fro" or 2'):
        case.matrix.norm(1)
