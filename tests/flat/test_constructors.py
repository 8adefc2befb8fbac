"""Constructors of HODLR and H that need no dense array: sparse and Toeplitz matrices, against dense arrays."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sparse

import structmat as sm
from tests.cases import any_blocks
from tests.flat.problems import DTYPES, FORMATS, eps, numbers

SIZES = [1, 2, 3, 7, 61, 64]
# small leaves and random patterns: that the result is no smaller than a dense array has a test of its own
unstructured = pytest.mark.filterwarnings("ignore::structmat.StructureWarning")


def random_sparse(m, n, dtype, rng, density=0.05):
    return sparse.csr_array((numbers(rng, m, n, dtype=dtype) * (rng.random((m, n)) < density)).astype(dtype))


def equal(matrix, dense):
    scale = max(float(np.linalg.norm(dense)), 1e-30)
    return float(np.linalg.norm(matrix.to_dense() - dense)) <= 50 * eps(dense.dtype) * scale


# -------------------------------------------------------------------------------------- sparse


@unstructured
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_any_sparse_matrix_is_represented_to_rounding(format, m, n, rng):
    s = random_sparse(m, n, np.float64, rng)
    depth = sm.ClusterTree.balanced(min(m, n), 4).depth
    permuted = sm.ClusterTree(m, depth, rng.permutation(m)), sm.ClusterTree(n, depth, rng.permutation(n))
    for tree in (None, permuted):
        a = format.from_sparse(s, tree, leaf_size=4)
        assert equal(a, s.toarray())
        assert a.certificate.met


@unstructured
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_sparse_of_all_types(format, dtype, symmetric, rng):
    s = random_sparse(101, 101, dtype, rng)
    s = (s + s.conj().T).astype(dtype)
    a = format.from_sparse(s, sm.ClusterTree(101, 4, rng.permutation(101)), symmetric=symmetric)
    assert (a.symmetric, a.dtype) == (symmetric, dtype)
    assert equal(a, s.toarray())


def test_sparse_over_a_partition(rng):
    s = random_sparse(120, 120, np.float64, rng, 0.02)
    tree = sm.ClusterTree.balanced(120, 8)
    partition = sm.BlockPartition.build(tree, admissibility=any_blocks)
    a = sm.HMatrix.from_sparse(s, partition=partition)
    assert equal(a, s.toarray())
    assert a.partition.far_count == partition.far_count


@pytest.mark.parametrize("bandwidth", [1, 3])
def test_a_band_has_the_rank_of_its_corners(bandwidth):
    n = 700
    offsets = range(-bandwidth, bandwidth + 1)
    s = sparse.diags_array([1.0 + k for k in offsets], offsets=list(offsets), shape=(n, n))
    hodlr, h = (format.from_sparse(s, leaf_size=20) for format in FORMATS)
    assert hodlr.max_rank == bandwidth
    assert h.max_rank == 0, "blocks away from the diagonal hold nothing of a band"
    assert equal(hodlr, s.toarray())
    assert equal(h, s.toarray())


def test_the_laplacian_of_a_square_is_dense_blocks_alone():
    side = 40
    one = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    s = sparse.kron(one, sparse.eye_array(side)) + sparse.kron(sparse.eye_array(side), one)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    a = sm.HMatrix.from_sparse(s, sm.ClusterTree.from_points(grid, 20), symmetric=True)
    assert a.max_rank == 0
    assert np.allclose(a @ np.arange(side**2), s @ np.arange(side**2))


@pytest.mark.parametrize("format", FORMATS)
def test_sparse_input_that_is_wrong(format):
    one_sided = sparse.diags_array([1.0], offsets=[1], shape=(9, 9))
    for bad, error, message in (
        (np.eye(3), TypeError, "use from_dense for an array"),
        (sparse.csr_array(np.full((2, 2), np.nan)), sm.NonFiniteError, "the data of s"),
        (sparse.csr_array((0, 3)), sm.ShapeError, "at least one row"),
    ):
        with pytest.raises(error, match=message):
            format.from_sparse(bad)
    with pytest.raises(sm.SymmetryError, match="leave symmetric out"):
        format.from_sparse(one_sided, symmetric=True)
    with pytest.raises(sm.SymmetryError, match="square"):
        format.from_sparse(sparse.eye_array(4, 5), symmetric=True)


# ------------------------------------------------------------------------------------ Toeplitz


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(300, 300), (300, 120), (90, 260), (1, 1), (2, 5)])
@pytest.mark.parametrize("format", FORMATS)
def test_toeplitz(format, shape, dtype, rng):
    phase = np.exp(0.3j) if np.dtype(dtype).kind == "c" else 1.0
    c = (phase / (1.0 + np.arange(shape[0]))).astype(dtype)
    r = (1.0 / (2.0 + np.arange(shape[1]))).astype(dtype)
    rtol = 1e-4 if np.finfo(dtype).eps > 1e-10 else 1e-9
    a = format.from_toeplitz(c, r, rtol=rtol, leaf_size=16)
    dense = scipy.linalg.toeplitz(c, r)
    assert a.dtype == dtype
    assert np.linalg.norm(a.to_dense() - dense) <= rtol * np.linalg.norm(dense)


@pytest.mark.parametrize("format", FORMATS)
def test_hermitian_toeplitz(format):
    c = np.exp(0.2j * np.arange(200)) / (1.0 + np.arange(200))
    a = format.from_toeplitz(c, symmetric=True, leaf_size=16)
    dense = scipy.linalg.toeplitz(c)
    assert a.symmetric
    assert np.linalg.norm(a.to_dense() - dense) <= 1e-8 * np.linalg.norm(dense)
    with pytest.raises(sm.SymmetryError, match="differs from conj"):
        format.from_toeplitz(c, c, symmetric=True)
    with pytest.raises(sm.ShapeError, match="c is empty"):
        format.from_toeplitz([])


def test_toeplitz_over_a_partition():
    tree = sm.ClusterTree.balanced(200, 10)
    partition = sm.BlockPartition.build(tree, admissibility=sm.StrongAdmissibility(0.8))
    c = 1.0 / (1.0 + np.arange(200))
    a = sm.HMatrix.from_toeplitz(c, partition=partition)
    b = sm.HMatrix.from_toeplitz(c, tree=tree, admissibility=sm.StrongAdmissibility(0.8))
    assert a.partition.near_count == b.partition.near_count == partition.near_count
    assert np.linalg.norm(a.to_dense() - scipy.linalg.toeplitz(c)) <= 1e-8 * a.norm()


def test_factors_of_no_columns_from_lists():
    a = sm.HODLRMatrix.from_low_rank([[]] * 5, [[]] * 4)
    assert a.shape == (5, 4)
    assert a.max_rank == 0
