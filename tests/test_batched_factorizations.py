"""QR and singular value decompositions of a batch in array operations, and what a device makes of them."""

import numpy as np
import pytest

import structmat as sm
from structmat.engine import batched_qr, batched_svd, dense
from structmat.testing import random_hss

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
SHAPES = [(1, 1), (5, 3), (2, 4), (20, 20), (33, 17), (18, 40)]  # of one panel of reflections and of two


def blocks_of(p, k, dtype):
    """Full rank, zero, tiny, huge, equal columns, triangular, values down to nothing, rank one, the identity."""
    rng = np.random.default_rng(p + 100 * k)
    blocks = rng.standard_normal((9, p, k))
    if np.dtype(dtype).kind == "c":
        blocks = blocks + 1j * rng.standard_normal(blocks.shape)
    extreme = 0.8 * np.log10(np.finfo(dtype).max)
    blocks[4, :, -1] = blocks[4, :, 0]
    u, _, v = np.linalg.svd(blocks[6], full_matrices=False)
    blocks[6], blocks[7] = (u * np.logspace(0, -20, min(p, k))) @ v, u[:, :1] @ v[:1]
    blocks[1], blocks[5], blocks[8] = 0.0, np.triu(blocks[5]), np.eye(p, k)
    scales = 10.0 ** np.array([0, 0, -extreme, extreme, 0, 0, 0, 0, 0])
    return (blocks * scales[:, None, None]).astype(dtype)


def sizes_of(blocks):
    largest = np.abs(blocks).max(axis=(1, 2), keepdims=True)
    return np.where(largest > 0.0, largest, 1.0)


def far_from_unitary(q):
    return np.abs(q.conj().swapaxes(1, 2) @ q - np.eye(q.shape[2])).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_reflections_factor_blocks_of_all_ranks_and_sizes(xp, shape, dtype):
    blocks = blocks_of(*shape, dtype)
    eps, size = np.finfo(dtype).eps, sizes_of(blocks)
    for complete, columns in ((False, min(shape)), (True, shape[0])):
        q, r = (xp.to_numpy(f) for f in batched_qr.householder(xp.asarray(blocks), complete=complete))
        assert q.shape == (9, shape[0], columns)
        assert r.shape == (9, columns, shape[1])
        assert q.dtype == r.dtype == dtype
        assert far_from_unitary(q) < 100 * eps
        assert np.abs(q @ (r / size) - blocks / size).max() < 100 * eps
        assert not np.tril(r, -1).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rotations_find_singular_values_of_blocks_of_all_ranks_and_sizes(xp, shape, dtype):
    blocks = blocks_of(*shape, dtype)
    eps, size = 10 * max(shape) * np.finfo(dtype).eps, sizes_of(blocks)
    wanted = np.linalg.svd(blocks / size, compute_uv=False)
    u, values, vh = batched_svd.jacobi(xp.asarray(blocks))
    u, vh = xp.to_numpy(u), xp.to_numpy(vh)
    assert u.dtype == vh.dtype == dtype
    assert u.shape == (9, shape[0], min(shape))
    assert np.abs(values / size[:, 0] - wanted).max() < eps
    assert (np.diff(values, axis=1) <= 0.0).all()
    assert max(far_from_unitary(u), far_from_unitary(vh.conj().swapaxes(1, 2))) < eps
    assert np.abs(u @ ((values / size[:, 0])[:, :, None] * vh) - blocks / size).max() < eps
    left, values = batched_svd.jacobi_left(xp.asarray(blocks))
    left = xp.to_numpy(left)
    assert far_from_unitary(left) < eps
    assert np.abs(values / size[:, 0] - wanted).max() < eps
    rows = left.conj().swapaxes(1, 2) @ (blocks / size)  # orthogonal, of the lengths of the singular values
    assert np.abs(rows @ rows.conj().swapaxes(1, 2) - np.eye(min(shape)) * wanted[:, None, :] ** 2).max() < 10 * eps


def test_what_is_no_number_is_no_endless_search():
    blocks = np.ones((2, 6, 6))
    blocks[1, 2, 3] = np.nan
    torch = pytest.importorskip("torch")
    _, values, _ = batched_svd.jacobi(torch.tensor(blocks))
    assert np.isnan(values[1]).all()
    np.testing.assert_allclose(values[0], [6.0, 0, 0, 0, 0, 0], atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_below_the_normal_ones_leave_finite_factors(dtype):
    """LAPACK's reflections of complex numbers that small are not finite."""
    torch = pytest.importorskip("torch")
    blocks = blocks_of(8, 4, dtype)
    blocks[2:4] *= 0.0
    blocks[3] = blocks[0] * np.finfo(dtype).tiny * 1e-4
    for q, r in (dense.qr(torch.tensor(blocks)), dense.complete_qr(torch.tensor(blocks))):
        assert far_from_unitary(q.numpy()) < 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(q.numpy() @ r.numpy(), blocks, atol=100 * np.finfo(dtype).eps)
    left, values = dense.left_singular(torch.tensor(blocks))
    assert np.isfinite(values).all()
    assert far_from_unitary(left.numpy()) < 100 * np.finfo(dtype).eps


# ------------------------------------------------------------------------------ as on a device with one block at a time


@pytest.fixture
def one_by_one(monkeypatch):
    """As with CuPy: factorisations of many blocks go by array operations, and the library takes none of them."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("array_api_compat.torch")
    monkeypatch.setattr(dense, "factors_one_by_one", lambda _: True)
    monkeypatch.setattr(dense, "JACOBI_SIZE", 4)
    taken = []
    for name in ("qr", "svd"):
        own = getattr(library.linalg, name)

        def spy(a, *args, own=own, name=name, **kwargs):
            taken.append((name, tuple(a.shape)))
            return own(a, *args, **kwargs)

        monkeypatch.setattr(library.linalg, name, spy)
    yield torch
    loops = [(name, shape) for name, shape in taken if shape[0] >= dense.BATCH and (name == "qr" or min(shape[1:]) > 4)]
    assert not loops


def problem_of(format):
    rng = np.random.default_rng(3)
    if format in (sm.HSSMatrix, sm.HODLRMatrix):
        return np.sort(rng.random((900, 1)), axis=0), sm.kernelfunctions.InverseMultiquadric(shape=20.0)
    return rng.random((1200, 2)), sm.kernelfunctions.Laplace(dim=2)


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("definite", [False, True])
def test_a_factorisation_takes_no_block_by_itself(one_by_one, definite):
    rng, n = np.random.default_rng(0), 800
    a, whole = random_hss(rng, sm.ClusterTree.balanced(n, depth=5), 4, np.float64, definite, shift=40.0)
    there, b = a._with_arrays(one_by_one.tensor), rng.standard_normal((n, 3))
    factored = there.factorize(positive_definite=definite)
    assert relative(factored.solve(b), np.linalg.solve(whole, b)) < 1e-12


@pytest.mark.parametrize("format", [sm.HSSMatrix, sm.HODLRMatrix, sm.H2Matrix])
def test_builds_and_truncations_take_no_block_by_itself(one_by_one, format):
    points, kernel = problem_of(format)
    vectors, whole = one_by_one.zeros(1, dtype=one_by_one.float64), kernel(points, points)
    a = format.from_kernel(kernel, points, rtol=1e-9, like=vectors, leaf_size=24)
    assert a.certificate.met
    assert relative(a._with_arrays(lambda x: x.numpy()).to_dense(), whole) < 1e-9
    small = a.truncate(rtol=1e-4)
    assert small.nbytes < a.nbytes
    assert relative(small._with_arrays(lambda x: x.numpy()).to_dense(), whole) < 1e-4


# ------------------------------------------------------------------------------ products without copies


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("format", [sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix])
def test_products_take_stored_blocks_as_they_lie(monkeypatch, format, symmetric):
    """CuPy copies what is transposed before it multiplies: of stored blocks that would be most of the time."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("array_api_compat.torch")
    points, kernel = problem_of(format)
    vectors = torch.zeros(1, dtype=torch.float64)
    a = format.from_kernel(kernel, points, rtol=1e-6, like=vectors, symmetric=symmetric)
    products, own = [], library.matmul

    def spy(left, right):
        products.append((left, right))
        return own(left, right)

    monkeypatch.setattr(library, "matmul", spy)
    x = torch.ones(len(points), dtype=torch.float64)
    for matrix in (a, a.truncate(rtol=1e-3), a + a):
        products.clear()
        assert torch.isfinite(matrix @ x).all()
        assert torch.isfinite(matrix.H @ x).all()
        assert products
        for pair in products:
            larger = max(pair, key=lambda block: block.numel())
            assert larger.is_contiguous() or larger.numel() <= len(points)


# ------------------------------------------------------------------------------ what goes over to a device


@pytest.fixture
def sent(monkeypatch):
    """Bytes of the arrays that have gone from the host to torch."""
    pytest.importorskip("torch")
    library, sizes = pytest.importorskip("array_api_compat.torch"), []
    own = library.asarray

    def spy(values, *args, **kwargs):
        if isinstance(values, np.ndarray):
            sizes.append(values.nbytes)
        return own(values, *args, **kwargs)

    monkeypatch.setattr(library, "asarray", spy)
    return sizes


@pytest.mark.parametrize("format", [sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix])
def test_what_is_as_large_as_the_blocks_is_made_on_the_device(sent, format):
    torch = pytest.importorskip("torch")
    points, kernel = problem_of(format)
    a = format.from_kernel(kernel, points, rtol=1e-8, like=torch.zeros(1, dtype=torch.float64))
    fresh, x = a._with_arrays(torch.clone), torch.ones(len(points), dtype=torch.float64)
    for share, compute in ((0.1, lambda: fresh @ x), (0.5, lambda: a.truncate(rtol=1e-3)), (0.5, lambda: a + a)):
        sent.clear()
        compute()
        assert sum(sent) < share * a.nbytes
