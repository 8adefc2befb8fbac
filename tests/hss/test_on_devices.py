"""HSS in other array libraries: construction from products, sums, products and recompression, as on the CPU."""

import numpy as np
import pytest

import structmat as sm
from structmat import _backend
from structmat._backend import numpy_dtype
from structmat.engine import batched_rank, cpu_sketch
from structmat.exceptions import (
    AccuracyWarning,
    DeviceError,
    DeviceMemoryError,
    NonFiniteError,
    SymmetryError,
    TooFewSamplesError,
)
from structmat.kernelfunctions import Matern
from structmat.linalg import inner
from structmat.lowrank import truncated_range, truncated_svd
from structmat.lowrank.interpolative import factor
from structmat.testing import random_hss

DTYPES = [np.float32, np.float64, np.complex128]


def eps_of(dtype):
    return float(np.finfo(dtype).eps)


def random_pair(n, depth, dtype, *, symmetric=False, ranks=(3, 2)):
    """Two random matrices on one tree, and their dense twins."""
    tree, rng = sm.ClusterTree.balanced(n, depth=depth), np.random.default_rng(5)
    return tuple(random_hss(rng, tree, rank, dtype, symmetric, shift=float(rank)) for rank in ranks)


def there(a, xp):
    return a._with_arrays(xp.asarray)


def relative(found, dense):
    return np.linalg.norm(found - dense) / np.linalg.norm(dense)


# ------------------------------------------------------------------------------ factorisations of a batch


def overwritten(blocks, xp):
    """Blocks for a method that writes into those of NumPy."""
    return blocks.copy() if xp.namespace is np else xp.asarray(blocks)


def random_blocks(rng, dtype, nb=5, p=12, s=17):
    """Blocks of ranks 0, 3, 12, 5 and of decaying singular values."""
    blocks = np.zeros((nb, p, s), dtype)
    for b, rank in enumerate((0, 3, 12, 5)):
        blocks[b] = rng.standard_normal((p, rank)) @ rng.standard_normal((rank, s))
    u, _, v = np.linalg.svd(rng.standard_normal((p, s)), full_matrices=False)
    blocks[4] = (u * 10.0 ** -np.arange(p)) @ v
    return blocks * (1 + 1j if np.dtype(dtype).kind == "c" else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cap", [None, 4, 0])
def test_pivoted_rows_are_those_of_the_compiled_kernel(xp, rng, dtype, cap):
    blocks = random_blocks(rng, dtype)
    tail = np.array([0.0, 1e-3, 1e-3, 1e-3, 1e-4])
    lower, order, ranks, left = factor(blocks.copy(), tail, cap, 20)
    found = factor(overwritten(blocks, xp), tail, cap, 20)
    if xp.namespace is np:  # the twin, on arrays of NumPy
        noise = 8.0 * eps_of(dtype)
        limit = 12 if cap is None else cap
        lower_twin, _, *rest = batched_rank.pivoted_rows(blocks, tail, 1 / 20, noise, limit)
        found = (lower_twin, order, *rest)
    width = int(ranks.max())
    np.testing.assert_array_equal(found[2], ranks)
    np.testing.assert_array_equal(found[1], order)
    np.testing.assert_allclose(xp.to_numpy(found[0])[:, :, :width], lower[:, :, :width], atol=1e3 * eps_of(dtype))
    np.testing.assert_allclose(found[3], left, rtol=1e-2, atol=1e3 * eps_of(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [truncated_range, truncated_svd])
def test_ranges_are_within_their_tolerance(xp, rng, dtype, method):
    blocks = random_blocks(rng, dtype)
    tail = np.full(5, 1e-3)
    basis, ranks, left = method(overwritten(blocks, xp), tail)
    q = xp.to_numpy(basis)
    error = np.linalg.norm(blocks - q @ (q.conj().swapaxes(1, 2) @ blocks), axis=(1, 2))
    assert (left <= 1e-3 * (1 + 1e-6)).all()
    assert (error <= left + 1e2 * eps_of(dtype) * np.linalg.norm(blocks)).all()
    assert list(ranks[:4]) == [0, 3, 12, 5]
    gram = q.conj().swapaxes(1, 2) @ q
    np.testing.assert_allclose(gram, np.eye(12) * (np.arange(12) < ranks[:, None, None]), atol=1e2 * eps_of(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nullify_is_that_of_the_compiled_kernel(xp, rng, dtype):
    nb, b, p, s = 4, 5, 6, 14
    omega, y = (rng.standard_normal((nb, rows, s)).astype(dtype) for rows in (b, p))
    if np.dtype(dtype).kind == "c":
        omega = omega + 1j * rng.standard_normal(omega.shape)
    omega[2, 3] = omega[2, 1]  # linearly dependent
    omega[3] = 0.0
    own, beyond, weakest = np.empty((nb, p, b), dtype), np.empty((nb, p, s - b), dtype), np.empty(nb)
    cpu_sketch.nullify(omega, y, own, beyond, weakest, 0, nb)
    found, rest, weak = batched_rank.nullify(xp.asarray(omega), xp.asarray(y))
    tolerance = 1e2 * eps_of(dtype)
    np.testing.assert_allclose(xp.to_numpy(found)[:2], own[:2], atol=tolerance * 10)
    np.testing.assert_allclose(weak[:2], weakest[:2], rtol=1e-3)
    assert (weak[2:] < tolerance).all()
    rest = xp.to_numpy(rest)
    inner = [a @ a.conj().swapaxes(1, 2) for a in (rest[:3], beyond[:3])]
    np.testing.assert_allclose(inner[0][:2], inner[1][:2], atol=tolerance * 10)


# -------------------------------------------------------------------------------------------- algebra


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("n", "depth"), [(9, 0), (64, 1), (75, 3)])
def test_algebra_runs_where_the_matrix_is(xp, dtype, symmetric, n, depth):
    (a, x), (b, y) = random_pair(n, depth, dtype, symmetric=symmetric)
    p, q = there(a, xp), there(b, xp)
    tolerance = 500 * eps_of(dtype)
    small = (p + q).truncate(rtol=1e-2)
    results = {
        "sum": (p + q, x + y), "difference": (p - q, x - y), "product": (p @ q, x @ y), "multiple": (2.5 * p, 2.5 * x),
        "entrywise": (p.hadamard(q), x * y), "adjoint product": (p.H @ q, x.conj().T @ y),
        "complex multiple": (p * (1 + 2j), x * (1 + 2j)), "with a diagonal": (p.add_diagonal(1j), x + 1j * np.eye(n))
        if not symmetric else (p.add_diagonal(2.0), x + 2.0 * np.eye(n)),
    }  # fmt: skip
    for name, (found, dense) in results.items():
        assert type(found._storage._example) is type(p._storage._example), name
        assert relative(found.to_dense(), dense) < tolerance, name
        assert found.certificate.met, name
    assert p.norm() == pytest.approx(np.linalg.norm(x), rel=tolerance)
    assert inner(p, q) == pytest.approx(np.vdot(x, y), rel=tolerance, abs=float(tolerance * np.linalg.norm(x)))
    np.testing.assert_allclose(p.diagonal(), np.diagonal(x))
    assert relative(small.to_dense(), x + y) <= 1e-2
    assert small.max_rank == (a + b).truncate(rtol=1e-2).max_rank
    wide = p.astype(np.complex128)
    assert wide.dtype == np.complex128
    assert numpy_dtype(wide._storage._example) == np.complex128


def test_operands_in_different_places_are_refused():
    torch = pytest.importorskip("torch")
    (a, _), (b, _) = random_pair(40, 2, np.float64)
    moved = b._with_arrays(torch.asarray)
    for operation in (lambda: a + moved, lambda: moved @ a, lambda: a.hadamard(moved)):
        with pytest.raises(DeviceError, match=r"must be in one place, but these are arrays of .* and of"):
            operation()


# --------------------------------------------------------------------------------- from products alone


class Products:
    """A matrix that only multiplies arrays of one library, and counts."""

    def __init__(self, dense, xp, **attributes):
        self.dense, self.shape, self.xp = dense, dense.shape, xp
        self.turned = xp.asarray(dense.conj().T.copy())
        self.array = xp.asarray(dense)
        self.__dict__.update(attributes)

    def matmat(self, x):
        assert type(x) is type(self.array)
        return self.array @ x

    def rmatmat(self, x):
        return self.turned @ x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("n", "leaf_size"), [(300, 32), (256, 32), (20, 32)])
def test_built_from_products_it_is_the_matrix_of_the_cpu(xp, dtype, symmetric, n, leaf_size):
    x = np.linspace(0.0, 1.0, n)
    dense = np.exp(-3.0 * np.abs(x[:, None] - x)) * (1.0 if symmetric else 1.0 + x)
    if np.dtype(dtype).kind == "c":
        dense = dense * np.exp(1j * (x[:, None] - x) * 3.0)
    dense = dense.astype(dtype)
    op = Products(dense, xp, dtype=xp.asarray(dense).dtype)
    rtol = 1e-3 if dtype is np.float32 else 1e-9
    options = {"rtol": rtol, "symmetric": symmetric, "leaf_size": leaf_size}
    a = sm.HSSMatrix.from_operator(op, like=xp.asarray(dense), **options)
    b = sm.HSSMatrix.from_operator(dense, **options)
    assert type(a._storage._example) is type(xp.asarray(dense))
    assert a.dtype == dtype
    assert a.symmetric == symmetric
    assert a.certificate.met
    assert relative(a.to_dense(), dense) <= rtol
    assert a.max_rank == b.max_rank
    assert a.certificate.products == b.certificate.products
    assert relative(a.to_dense(), b.to_dense()) < max(rtol, 1e3 * eps_of(dtype))


@pytest.mark.parametrize("fresh", [False, True])
def test_more_probes_are_drawn_where_the_ranks_ask_for_them(fresh):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    dense = random_hss(rng, sm.ClusterTree.balanced(200, 16), 12, np.float64, False)[1]
    op = torch.from_numpy(dense)

    class Vectors:
        shape, dtype = op.shape, op.dtype

        @staticmethod
        def matvec(x):
            return op @ x

        @staticmethod
        def rmatvec(x):
            return op.T @ x

    a = sm.HSSMatrix.from_operator(Vectors(), leaf_size=16, rtol=1e-8, like=op, fresh=fresh)
    assert a.certificate.met
    assert relative(a.to_dense(), dense) < 1e-8
    with pytest.raises(TooFewSamplesError, match="probes are all that are allowed"):
        sm.HSSMatrix.from_operator(Vectors(), leaf_size=16, rtol=1e-8, like=op, max_probes=12)
    with pytest.warns(AccuracyWarning):
        sm.HSSMatrix.from_operator(Vectors(), leaf_size=16, rtol=1e-8, like=op, max_rank=2)


def test_a_matrix_without_structure_is_taken_by_its_columns():
    torch = pytest.importorskip("torch")
    dense = np.random.default_rng(1).standard_normal((150, 150))
    op = Products(dense, ArrayLibraryOf(torch))
    with pytest.warns(sm.StructureWarning):
        a = sm.HSSMatrix.from_operator(op, leaf_size=16, rtol=1e-10, like=torch.zeros(1))
    assert isinstance(a._storage._example, torch.Tensor)
    assert relative(a.to_dense(), dense) < 1e-10


class ArrayLibraryOf:
    """`asarray` alone, for a test that needs no fixture."""

    def __init__(self, library):
        self.asarray = library.asarray


def test_what_an_operator_gets_wrong_is_named():
    torch = pytest.importorskip("torch")
    dense = np.random.default_rng(1).standard_normal((64, 64))
    library = ArrayLibraryOf(torch)
    with pytest.raises(DeviceError, match="the operator has to return the same"):
        sm.HSSMatrix.from_operator(dense, like=torch.zeros(1))
    with pytest.raises(SymmetryError, match="not Hermitian"):
        sm.HSSMatrix.from_operator(Products(dense, library), like=torch.zeros(1), symmetric=True)
    dense[3, 4] = np.nan
    with pytest.raises(NonFiniteError, match="product A @ x must be finite"):
        sm.HSSMatrix.from_operator(Products(dense, library), like=torch.zeros(1))


def test_from_products_of_a_matrix_on_a_device_to_its_factorisation():
    torch = pytest.importorskip("torch")
    a, dense = random_hss(np.random.default_rng(2), sm.ClusterTree.balanced(300, 32), 4, np.float64, False, shift=60.0)
    moved = a._with_arrays(torch.asarray)
    again = sm.HSSMatrix.from_operator(moved, a.row_tree, rtol=1e-10, like=torch.zeros(1))
    b = torch.from_numpy(np.random.default_rng(3).standard_normal(300))
    x = (again + again).truncate(rtol=1e-9).solve(b)
    assert isinstance(x, torch.Tensor)
    np.testing.assert_allclose(2 * dense @ x.numpy(), b.numpy(), atol=1e-7)


# ------------------------------------------------------------------------------------ from kernels


KERNEL = sm.kernelfunctions.Matern(nu=1.5, length=0.3)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kernel", [KERNEL, sm.kernelfunctions.Cauchy(0.01), sm.kernelfunctions.Helmholtz(20.0, dim=3)])
@pytest.mark.parametrize("n", [300, 40])
def test_built_from_a_kernel_it_is_the_matrix_of_the_cpu(xp, kernel, symmetric, n):
    if symmetric and not kernel.symmetric:
        pytest.skip("the kernel is not Hermitian")
    x = np.random.default_rng(0).random(n)
    options = {"leaf_size": 32, "rtol": 1e-8, "symmetric": symmetric}
    a = sm.HSSMatrix.from_kernel(kernel, x, like=xp.asarray(x), **options)
    b = sm.HSSMatrix.from_kernel(kernel, x, **options)
    dense = kernel(x, x)
    assert type(a._storage._example) is type(xp.asarray(x))
    assert a.certificate.met
    assert a.dtype == dense.dtype
    assert relative(a.to_dense(), dense) <= 1e-8
    assert a.max_rank == b.max_rank
    assert relative(a.to_dense(), b.to_dense()) < 1e-11
    np.testing.assert_allclose(a.diagonal(), np.diagonal(dense), atol=1e-12)
    np.testing.assert_allclose(a[3:50:7, ::11], dense[3:50:7, ::11], atol=1e-6 * np.abs(dense).max())


def test_a_kernel_of_the_user_gets_arrays_of_the_device():
    torch = pytest.importorskip("torch")
    x, y = np.linspace(0.0, 1.0, 300), np.linspace(0.0, 1.0, 200)

    def kernel(s, t):
        assert isinstance(s, torch.Tensor)
        return torch.exp(-torch.abs(s[:, None] - t))

    a = sm.HSSMatrix.from_kernel(kernel, x, column_points=y, leaf_size=32, rtol=1e-9, like=torch.zeros(1))
    assert relative(a.to_dense(), np.exp(-np.abs(x[:, None] - y))) < 1e-9
    plane = np.random.default_rng(0).random((200, 2))
    b = sm.HSSMatrix.from_kernel(sm.kernelfunctions.Laplace(2), plane, leaf_size=32, rtol=1e-6, like=torch.zeros(1))
    assert relative(b.to_dense(), sm.kernelfunctions.Laplace(2)(plane, plane)) < 1e-6
    with pytest.raises(NonFiniteError, match="must be finite"):
        sm.HSSMatrix.from_kernel(lambda s, t: 1.0 / (s[:, None] - t), x, leaf_size=32, like=torch.zeros(1))
    with pytest.raises(DeviceError, match="several components are built on the CPU"):
        sm.HSSMatrix.from_kernel(sm.kernelfunctions.Stokes(2), plane, leaf_size=32, like=torch.zeros(1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_entries_are_read_where_the_matrix_is(xp, dtype, symmetric):
    (a, x), _ = random_pair(75, 3, dtype, symmetric=symmetric)
    rng = np.random.default_rng(1)
    p = there(a, xp)
    rows, cols = rng.permutation(75)[:20], rng.permutation(75)[:30]
    close = {"rtol": 1e3 * eps_of(dtype), "atol": 1e2 * eps_of(dtype)}
    np.testing.assert_allclose(p[rows, cols], x[np.ix_(rows, cols)], **close)
    np.testing.assert_allclose(p.H[rows, cols], x.conj().T[np.ix_(rows, cols)], **close)
    np.testing.assert_allclose(p[74, 3], x[74, 3], **close)


def test_matrices_of_rank_zero_are_read_and_factored(xp):
    tree = sm.ClusterTree.balanced(40, 10)
    for cls in (sm.HSSMatrix, sm.HODLRMatrix):
        a = cls.from_diagonal(np.arange(1.0, 41.0), tree)._with_arrays(xp.asarray)
        np.testing.assert_array_equal(a[:, :], np.diag(np.arange(1.0, 41.0)))
        np.testing.assert_allclose((a + a).truncate(rtol=1e-3).to_dense(), np.diag(np.arange(2.0, 82.0, 2.0)))
        for definite in (False, True):
            x = a.factorize(positive_definite=definite).solve(xp.asarray(np.ones(40)))
            np.testing.assert_allclose(xp.to_numpy(x), 1.0 / np.arange(1.0, 41.0))


def test_kernels_that_do_not_fit_are_refused(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(_backend, "free_bytes", lambda library: 1000)
    with pytest.raises(DeviceMemoryError, match=r"the diagonal blocks .* are free there: build with smaller leaves"):
        sm.HSSMatrix.from_kernel(Matern(nu=1.5), np.linspace(0, 1, 300), like=torch.zeros(1, dtype=torch.float64))
