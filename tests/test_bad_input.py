"""Bad input, constructor by constructor: a named error or warning each, by its message."""

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg as spla

import structmat as sm
from structmat.testing import random_hss

TREE = sm.ClusterTree.balanced(40, 8)
RNG = np.random.default_rng(0)
GOOD = np.exp(-np.abs(np.subtract.outer(np.arange(40.0), np.arange(40.0))))
SKEW = np.triu(GOOD)
BAD = GOOD.copy()
BAD[7, 31] = np.nan
ENDLESS = np.where(np.isnan(BAD), np.inf, BAD)
F = RNG.standard_normal((40, 20))
H, H2 = sm.HSSMatrix, sm.H2Matrix


class Cut:
    """An operator that returns too few rows."""

    shape, dtype = (40, 40), np.dtype(float)

    def matmat(self, x):
        return x[:5]

    rmatmat = matmat


def one_sided_blocks(rows, cols, level, i, j):
    return i > j


def entries_of(dense):
    return lambda i, j: dense[np.ix_(i, j)]


CASES = {
    # ------------------------------------------------------------------------------ NaN and Inf
    "dense NaN": (
        lambda: H.from_dense(BAD),
        sm.NonFiniteError,
        r"a must be finite, but 1 of its 1600 .* \[7, 31\]",
    ),
    "dense Inf": (lambda: H.from_dense(ENDLESS), sm.NonFiniteError, "NaN or Inf"),
    "entries NaN": (
        lambda: H.from_entries(entries_of(BAD), TREE),
        sm.NonFiniteError,
        r"entries\(i, j\) returned nan at row 7, column 31",
    ),
    "kernel singular": (
        lambda: H.from_kernel(lambda x, y: 1 / np.abs(x[:, None] - y), np.arange(100.0)),
        (sm.NonFiniteError, RuntimeWarning),
        "value at distance zero|divide by zero",
    ),
    "kernel of NaN points": (
        lambda: H.from_kernel(np.subtract.outer, [0.0, np.nan]),
        sm.NonFiniteError,
        "points must",
    ),
    "operator NaN": (
        lambda: H.from_operator(BAD, TREE),
        sm.NonFiniteError,
        "the operator's product A @ x must be finite",
    ),
    "samples NaN": (
        lambda: H.from_samples(F, BAD @ F, TREE, rank=2, symmetric=True),
        sm.NonFiniteError,
        "outputs must be finite",
    ),
    "low rank NaN": (lambda: H.from_low_rank(BAD[:, :2], F), sm.ShapeError, "must have the same r"),
    "low rank Inf": (lambda: H.from_low_rank(ENDLESS, ENDLESS, TREE), sm.NonFiniteError, "u must be finite"),
    "diagonal NaN": (lambda: H.from_diagonal([1.0, np.nan]), sm.NonFiniteError, "d must be finite"),
    # ----------------------------------------------------------------------------------- shapes
    "dense 1-D": (lambda: H.from_dense(np.ones(4)), sm.ShapeError, "a must be 2-D, but it has 1 dimensions"),
    "dense empty": (lambda: H.from_dense(np.ones((0, 0))), sm.ShapeError, "at least one row and one column"),
    "dense and tree": (
        lambda: H.from_dense(np.ones((9, 9)), TREE),
        sm.TreeMismatchError,
        "over 40 rows and 40 columns",
    ),
    "dense objects": (
        lambda: H.from_dense(np.full((2, 2), None)),
        TypeError,
        "dtype object is not supported",
    ),
    "dense half": (
        lambda: H.from_dense(np.ones((2, 2), np.float16)),
        TypeError,
        r"float16 is not supported.*astype",
    ),
    "diagonal empty": (lambda: H.from_diagonal([]), sm.ShapeError, "d is empty"),
    "diagonal 2-D": (lambda: H.from_diagonal(np.eye(2)), sm.ShapeError, "d must be 1-D"),
    "points empty": (lambda: H.from_kernel(np.subtract.outer, []), sm.ShapeError, "points is empty"),
    "points differ": (
        lambda: H.from_kernel(np.subtract.outer, np.ones(4), column_points=np.ones((4, 2))),
        sm.ShapeError,
        "must have one dimension",
    ),
    "entries of wrong shape": (
        lambda: H.from_entries(lambda i, j: np.ones(len(i)), TREE),
        sm.ShapeError,
        r"must return an array of shape \(2, 2\).*broadcast with i\[:, None\]",
    ),
    "kernel of wrong shape": (
        lambda: H.from_kernel(lambda x, y: x - y, np.arange(50.0)),
        sm.ShapeError,
        r"the kernel <lambda>\(x, y\) must return",
    ),
    "entries no function": (lambda: H.from_entries(GOOD, TREE), TypeError, "must be a function.*ndarray"),
    "entries no tree": (lambda: H.from_entries(entries_of(GOOD), None), TypeError, "needs a tree"),
    "tree no tree": (lambda: H.identity(40), TypeError, "must be a ClusterTree or a pair"),
    "operator without shape": (lambda: H.from_operator(object()), TypeError, "op must have a shape"),
    "operator without adjoint": (
        lambda: H.from_operator(type("Op", (), {"shape": (4, 4), "matvec": lambda self, x: x})()),
        TypeError,
        "neither rmatmat nor rmatvec.*unless symmetric=True",
    ),
    "operator of wrong shape": (
        lambda: H.from_operator(Cut(), TREE),
        sm.ShapeError,
        r"product A @ x has shape \(5, \d+\), expected \(40, \d+\)",
    ),
    "unequal depths": (
        lambda: H.from_dense(GOOD, (TREE, sm.ClusterTree.balanced(40, 20))),
        sm.TreeMismatchError,
        "depth 3 and the column tree depth 1",
    ),
    "one tree for a rectangle": (
        lambda: H.from_dense(np.ones((40, 9)), TREE),
        sm.TreeMismatchError,
        "needs a pair",
    ),
    # ------------------------------------------------------------------------------- tolerances
    "rtol negative": (lambda: H.from_dense(GOOD, rtol=-1.0), ValueError, "rtol must be a finite number >= 0"),
    "rtol NaN": (lambda: H.from_dense(GOOD, rtol=np.nan), ValueError, "rtol must be a finite number"),
    "atol Inf": (lambda: H.from_dense(GOOD, atol=np.inf), ValueError, "atol must be a finite number"),
    "max_rank half": (lambda: H.from_dense(GOOD, max_rank=1.5), TypeError, "max_rank must be an integer"),
    # --------------------------------------------------------------------------------- symmetry
    "dense not symmetric": (
        lambda: H.from_dense(SKEW, TREE, symmetric=True),
        sm.SymmetryError,
        r"\|\|A - A\^H\|\| / \|\|A\|\| = .*leave symmetric out",
    ),
    "dense complex symmetric, not Hermitian": (
        lambda: H.from_dense(GOOD * 1j, TREE, symmetric=True),
        sm.SymmetryError,
        "symmetric=True, but",
    ),
    "dense rectangle symmetric": (
        lambda: H.from_dense(np.ones((4, 5)), symmetric=True),
        sm.SymmetryError,
        "needs a square matrix",
    ),
    "entries not symmetric": (
        lambda: H.from_entries(entries_of(SKEW), TREE, symmetric=True),
        sm.SymmetryError,
        "on sampled entries",
    ),
    "operator not symmetric": (
        lambda: H.from_operator(SKEW, TREE, symmetric=True),
        sm.SymmetryError,
        r"X\^H A X differs from its adjoint",
    ),
    "samples not symmetric": (
        lambda: H.from_samples(F, SKEW @ F, TREE, rank=2, symmetric=True),
        sm.SymmetryError,
        "the samples contradict it",
    ),
    "samples of a rectangle symmetric": (
        lambda: H.from_samples(F, np.ones((30, 20)), rank=2, symmetric=True),
        sm.SymmetryError,
        "needs a square matrix",
    ),
    "kernel of two point sets symmetric": (
        lambda: H.from_kernel(np.subtract.outer, np.ones(9), column_points=np.ones(9), symmetric=True),
        sm.SymmetryError,
        "leave column_points out",
    ),
    "low rank not symmetric": (
        lambda: H.from_low_rank(F, F + 1, TREE, symmetric=True),
        sm.SymmetryError,
        "v differs from u",
    ),
    "symmetric with two trees": (
        lambda: H.from_dense(GOOD, (TREE, sm.ClusterTree.from_points(-np.arange(40.0), 8)), symmetric=True),
        sm.TreeMismatchError,
        "one tree for rows and columns",
    ),
    # ---------------------------------------------------------------------------------- samples
    "too few samples": (
        lambda: H.from_samples(F[:, :6], GOOD @ F[:, :6], TREE, rank=2, symmetric=True),
        sm.TooFewSamplesError,
        r"6 samples cannot determine.*leaves of 5: at least 7 are needed, 1 more.*leaf_size <= 3",
    ),
    "smooth samples": (
        lambda: H.from_samples(np.ones((40, 20)), GOOD @ np.ones((40, 20)), TREE, rank=2, symmetric=True),
        sm.TooFewSamplesError,
        "do not span.*random inputs",
    ),
    "samples without the adjoint": (
        lambda: H.from_samples(F, GOOD @ F, TREE, rank=2),
        TypeError,
        "needs adjoint_inputs and adjoint_outputs",
    ),
    "unequal numbers of samples": (
        lambda: H.from_samples(F, F[:, :5], TREE, rank=2),
        sm.ShapeError,
        "as many columns",
    ),
    "adjoint samples of wrong shape": (
        lambda: H.from_samples(F, GOOD @ F, TREE, rank=2, adjoint_inputs=F[:5], adjoint_outputs=F[:5]),
        sm.ShapeError,
        r"adjoint_inputs must be \(40, s\)",
    ),
    "rank zero": (
        lambda: H.from_samples(F, F, TREE, rank=0, symmetric=True),
        ValueError,
        "rank must be at least 1",
    ),
    # ------------------------------------------------------------------------------- arithmetic
    "sum over unequal trees": (
        lambda: H.identity(TREE) + H.identity(sm.ClusterTree.balanced(40, 20)),
        sm.TreeMismatchError,
        "need the same cluster tree",
    ),
    "complex to real": (lambda: (1j * H.identity(TREE)).astype(float), TypeError, "imaginary part"),
    "solve of a singular matrix": (
        lambda: H.zeros(TREE).solve(np.ones(40)),
        sm.SingularBlockError,
        r"node \d on level 3 is singular.*add_diagonal",
    ),
    "solve with NaN": (
        lambda: H.identity(TREE).solve(np.full(40, np.nan)),
        sm.NonFiniteError,
        "b must be finite",
    ),
    "solve of wrong length": (
        lambda: H.identity(TREE).solve(np.ones(9)),
        sm.ShapeError,
        "b has 9 rows, but A has 40 rows",
    ),
    # ------------------------------------------------------------------------------------------ H2
    "H2 of an array": (lambda: H2.from_sparse(GOOD), TypeError, "must be a scipy.sparse array.*from_dense"),
    "H2 of a skew sparse matrix": (
        lambda: H2.from_sparse(sparse.coo_array(SKEW), TREE, symmetric=True),
        sm.SymmetryError,
        "symmetric=True, but",
    ),
    "H2 of a sparse NaN": (lambda: H2.from_sparse(sparse.coo_array(BAD)), sm.NonFiniteError, "the data of s"),
    "H2 over two conditions": (
        lambda: H2.zeros(TREE, admissibility=sm.WeakAdmissibility(), partition=sm.BlockPartition.build(TREE)),
        TypeError,
        "admissibility or partition, not both",
    ),
    "H2 low rank of unequal ranks": (lambda: H2.from_low_rank(F, F[:, :3]), sm.ShapeError, "must have the same r"),
    "H2 low rank of another size": (
        lambda: H2.identity(TREE).add_low_rank(F[:30], F[:30]),
        sm.TreeMismatchError,
        "over 40 rows and 40 columns",
    ),
    "H2 diagonal empty": (lambda: H2.from_diagonal([]), sm.ShapeError, "d is empty"),
    "H2 and HSS": (lambda: H2.identity(TREE) + H.identity(TREE), TypeError, "convert one of them first"),
    "H2 over unequal trees": (
        lambda: H2.identity(TREE) + H2.identity(sm.ClusterTree.balanced(40, 20)),
        sm.TreeMismatchError,
        "need the same cluster tree",
    ),
    "H2 truncated to nothing": (lambda: H2.identity(TREE).truncate(rtol=-1.0), ValueError, "rtol must be a finite"),
    "H2 factorised": (lambda: H2.identity(TREE).solve(np.ones(40)), TypeError, "no factorisation.*preconditioner"),
    "H2 symmetric with two trees": (
        lambda: H2.zeros((TREE, sm.ClusterTree.from_points(-np.arange(40.0), 8)), symmetric=True),
        sm.TreeMismatchError,
        "one tree for rows and columns",
    ),
    "H2 on a partition that is not symmetric": (
        lambda: H2.zeros(TREE, symmetric=True, partition=sm.BlockPartition.build(TREE, TREE, one_sided_blocks)),
        sm.SymmetryError,
        "with each block the mirrored one",
    ),
    "device": (lambda: H.identity(TREE).to_device("abacus"), sm.DeviceError, 'must be "cpu" or "gpu"'),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    call, error, message = CASES[name]
    with pytest.raises(error, match=message):
        call()


def test_the_gpu_that_is_not_there():
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception:
        with pytest.raises(sm.DeviceError, match="needs CuPy and a CUDA device"):
            H.identity(TREE).to_device("gpu")


def test_generators_that_do_not_fit_their_trees(rng):
    a, _ = random_hss(rng, TREE, 3, ragged=False)
    g = a.generators
    for tree, error, message in (
        (sm.ClusterTree.balanced(80, 8), sm.ShapeError, "diagonal blocks have shape|levels"),
        (sm.ClusterTree.balanced(40, 20), sm.ShapeError, "the diagonal blocks have shape"),
        (sm.ClusterTree.balanced(64, 8), sm.ShapeError, "the diagonal blocks have shape"),
    ):
        with pytest.raises(error, match=message):
            H(g, tree, tree, a.certificate)
    with pytest.raises(sm.TreeMismatchError, match="depth 3, the column tree depth 1"):
        H(g, TREE, sm.ClusterTree.balanced(40, 20), a.certificate)
    from dataclasses import replace

    with pytest.raises(sm.ShapeError, match="couplings of level 1"):
        H(replace(g, couplings=(g.couplings[0][:1], *g.couplings[1:])), TREE, TREE, a.certificate)
    with pytest.raises(sm.ShapeError, match="must have 3 levels"):
        H(replace(g, couplings=g.couplings[1:]), TREE, TREE, a.certificate)
    short = replace(g.row_basis, levels=(g.row_basis.levels[0][:, :-1], *g.row_basis.levels[1:]))
    with pytest.raises(sm.ShapeError, match=r"the row bases of level 1 are \(2, 5\) x k, expected \(2, 6\) x k"):
        H(replace(g, row_basis=short), TREE, TREE, a.certificate)
    other = sm.ClusterTree.from_points(-np.arange(40.0), 8)
    b, _ = random_hss(rng, TREE, 3, symmetric=True)
    with pytest.raises(sm.TreeMismatchError, match="needs one tree"):
        H(b.generators, TREE, other, b.certificate)


def test_errors_are_also_the_builtin_ones():
    assert issubclass(sm.ShapeError, ValueError)
    assert issubclass(sm.SingularBlockError, np.linalg.LinAlgError)
    assert issubclass(sm.IllConditionedWarning, sm.AccuracyWarning)
    for error in (
        sm.NonFiniteError,
        sm.TreeMismatchError,
        sm.SymmetryError,
        sm.TooFewSamplesError,
        sm.DeviceError,
    ):
        assert issubclass(error, sm.StructmatError)


@pytest.mark.parametrize("format", [sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix])
def test_entries_whose_squares_underflow_are_named(format):
    points = np.random.default_rng(0).random((300, 2))
    with pytest.warns(sm.AccuracyWarning, match=r"squares of the errors .* underflow.*multiply the matrix by a power"):
        format.from_kernel(1e-170 * sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-6)
    zero = format.from_kernel(lambda x, y: np.zeros((len(x), len(y))), points, rtol=1e-6)  # says nothing
    assert zero.norm() == 0.0


HILBERT = 1.0 / (1.0 + np.add.outer(np.arange(100.0), np.arange(100.0)))


@pytest.mark.parametrize(
    "use",
    [
        lambda a: sm.HSSMatrix.from_dense(a),
        lambda a: sm.HODLRMatrix.from_operator(a),
        lambda a: sm.HSSMatrix.from_dense(HILBERT) @ a,
        lambda a: sm.HSSMatrix.from_dense(HILBERT + np.eye(100)).solve(a),
        lambda a: sm.ClusterTree.from_points(a),
        lambda a: sm.gp.HierarchicalGPRegressor().fit(a, np.ones(100)),
    ],
)
def test_masked_entries_are_not_numbers(use):
    with pytest.raises(sm.NonFiniteError, match="1 masked entries, which are no numbers"):
        use(np.ma.masked_greater(HILBERT, 0.99))
    use(np.ma.array(HILBERT))  # nothing is masked


def test_what_is_no_array_is_told_where_it_belongs():
    a = sm.HSSMatrix.from_dense(HILBERT)
    for wrong, way_out in (
        (sparse.eye_array(100), "from_sparse"),
        (spla.aslinearoperator(HILBERT), "aslinearoperator"),
    ):
        for use in (sm.HSSMatrix.from_dense, a.__matmul__):
            with pytest.raises(TypeError, match=way_out):
                use(wrong)
    with pytest.raises(TypeError, match="real coordinates"):
        sm.ClusterTree.from_points(np.exp(1j * np.arange(10.0)))


def test_numbers_in_another_order_of_bytes():
    foreign = HILBERT.astype(HILBERT.dtype.newbyteorder())
    a = sm.HSSMatrix.from_dense(foreign, rtol=1e-10)
    assert a.dtype == np.float64
    assert a.dtype.isnative
    np.testing.assert_allclose(a @ foreign, HILBERT @ HILBERT, atol=1e-8)
