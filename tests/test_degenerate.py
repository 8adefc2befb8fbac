"""Matrices without off-diagonal blocks, with blocks on one side only, of one number: through the whole battery."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sparse

import structmat as sm
from structmat.testing import check_structured_matrix

N, LEAF = 66, 8
FORMATS = [sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix]


def half_a_matrix():
    x = np.linspace(0.0, 1.0, N // 2)
    a = np.eye(N)
    a[: N // 2, : N // 2] = np.exp(-abs(x[:, None] - x))
    return a


def one_side():
    a = np.eye(N)
    a[:, : N // 2] += np.outer(np.linspace(1.0, 2.0, N), np.ones(N // 2))
    return a


MATRICES = {
    "zero": np.zeros((N, N)),
    "identity": np.eye(N),
    "diagonal": np.diag(np.linspace(-1.0, 2.0, N)),
    "ones": np.ones((N, N)),
    "ones, complex": (1.0 + 0.5j) * np.ones((N, N)),
    "half": half_a_matrix(),
    "one side": one_side(),
    "triangle": np.triu(np.ones((N, N))),
    "one entry": 5.0 * np.eye(N, k=N - 1) + np.eye(N),
    "two diagonals": np.eye(N) + np.eye(N, k=-1),
    "singular blocks": np.outer(np.arange(N) < N // 2, np.arange(N) < N // 2).astype(float),
}


def built(format, dense, how):
    if how == "operator":
        return format.from_operator(dense, leaf_size=LEAF, rtol=1e-9)
    tree = sm.ClusterTree.balanced(N, leaf_size=LEAF)
    return format.from_dense(dense, tree, rtol=1e-9) if how == "dense" else format.from_sparse(dense, tree, rtol=1e-9)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("format", FORMATS)
def test_battery(format, name):
    dense, turn = MATRICES[name], FORMATS.index(format) + list(MATRICES).index(name)
    how = ("dense", "operator", "sparse")[turn % 3]  # each format and each matrix meets all ways
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.StructureWarning)  # small matrices take more room than dense arrays
        matrix = built(format, sparse.csr_array(dense) if how == "sparse" else dense, how)
        assert matrix.certificate.met
        check_structured_matrix(matrix, dense, 1e-9)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_an_operator_without_blocks_off_the_diagonal(format, symmetric):
    for dense in (np.zeros((300, 300)), np.kron(np.eye(4), np.ones((75, 75)))):
        matrix = format.from_operator(dense, rtol=1e-6, symmetric=symmetric)
        np.testing.assert_allclose(matrix.to_dense(), dense, atol=1e-9)


@pytest.mark.parametrize("size", [40, 200, 300])
def test_singular_complex_matrices_are_refused_by_name(size):
    matrix = sm.HSSMatrix.from_dense((1.0 + 0.5j) * np.ones((size, size)), sm.ClusterTree.balanced(size, leaf_size=16))
    with pytest.raises(sm.SingularBlockError):
        matrix.factorize()


def test_small_matrices_that_samples_do_not_show_are_compressed_from_all_entries():
    angles = np.linspace(0.0, 2.0 * np.pi, 300, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def kernel(x, y):  # with kinks along both axes
        return np.exp(-np.abs(x[:, None, :] - y[None]).sum(axis=-1))

    dense = kernel(circle, circle)
    matrix = sm.H2Matrix.from_kernel(kernel, circle, rtol=1e-6, leaf_size=16)
    assert matrix.certificate.met
    assert matrix.certificate.confidence == 1.0
    assert matrix.certificate.entries > dense.size
    assert np.linalg.norm(matrix.to_dense() - dense) <= 1e-6 * np.linalg.norm(dense)
    off = 1e-13 * np.triu(np.ones((300, 300)))  # symmetric to rounding, as the check of entries allows
    uneven = sm.H2Matrix.from_entries(
        lambda i, j: (dense + off)[np.ix_(i, j)], matrix.row_tree, rtol=1e-6, symmetric=True
    )
    assert uneven.certificate.met
    assert uneven.certificate.confidence == 1.0
    with pytest.warns(sm.AccuracyWarning, match="raise max_rank"):  # a bound on the ranks is kept
        assert not sm.H2Matrix.from_kernel(kernel, circle, rtol=1e-6, leaf_size=16, max_rank=4).certificate.met


def test_an_hss_matrix_that_samples_do_not_show():
    dense = np.eye(300) + 2.0 * np.eye(300)[::-1]  # a second diagonal, across
    dense[20:280] = np.eye(300)[20:280]
    tree = sm.ClusterTree.balanced(300, leaf_size=16)
    matrix = sm.HSSMatrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=1e-8)
    assert matrix.certificate.met
    np.testing.assert_allclose(matrix.to_dense(), dense, atol=1e-7)
