"""HODLR and H-matrices from products only, against dense twins; products are counted."""

import warnings

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import structmat as sm
from structmat.exceptions import AccuracyWarning, NonFiniteError, ShapeError, SymmetryError, TooFewSamplesError
from structmat.flat.colours import colour
from structmat.hmatrix.matrix import HMatrix
from structmat.hodlr.matrix import HODLRMatrix
from structmat.partition import BlockPartition, StrongAdmissibility, WeakAdmissibility
from tests.problems import Counter, dense_problem, relative_error

FORMATS = (HODLRMatrix, HMatrix)
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
CHECKS = 10


def nonsymmetric(m, n, dtype):
    x, y = (np.arange(m) + 0.5) / m, (np.arange(n) + 0.5) / n
    difference = np.subtract.outer(x, y)
    a = np.exp(-np.abs(difference)) * (1.0 + 0.5 * np.sign(difference)) / (np.abs(difference) + 2.0 / max(m, n))
    return (a * np.exp(2j * difference) if np.dtype(dtype).kind == "c" else a).astype(dtype)


def hermitian(n, dtype):
    phase = np.exp(1j * np.subtract.outer(np.arange(n), np.arange(n)) / n)
    a = dense_problem("K", n) * (phase if np.dtype(dtype).kind == "c" else 1.0)
    return a.astype(dtype)


def tolerance_of(dtype):
    return 1e-3 if np.finfo(dtype).eps > 1e-10 else 1e-8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("n", "leaf_size"), [(1, 4), (3, 4), (61, 5), (530, 16)])
def test_against_dense(format, dtype, symmetric, n, leaf_size):
    dense = hermitian(n, dtype) if symmetric else nonsymmetric(n, n, dtype)
    op = Counter(dense)
    tolerance = tolerance_of(dtype)
    a = format.from_operator(op, leaf_size=leaf_size, rtol=tolerance, symmetric=symmetric)
    assert a.dtype == dtype
    assert a.symmetric == symmetric
    error = relative_error(a, dense)
    assert error <= tolerance
    assert a.certificate.met
    assert a.certificate.products == op.forward + op.backward
    assert not (symmetric and op.backward)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(400, 530), (530, 400), (130, 517)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_rectangular(format, shape, dtype):
    trees = tuple(sm.ClusterTree.balanced(size, depth=4) for size in shape)
    dense = nonsymmetric(*shape, dtype)
    op = Counter(dense)
    a = format.from_operator(op, trees, rtol=1e-8)
    assert relative_error(a, dense) <= 1e-8
    assert a.certificate.products == op.forward + op.backward
    assert op.backward > 0 or format is HMatrix  # there the columns are cheaper


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("eta", [0.8, 2.0])
def test_strong_admissibility_in_the_plane(symmetric, eta):
    points = np.random.default_rng(0).random((900, 2))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    dense = np.log(distance + np.eye(900) / 900) if symmetric else np.exp(-distance) * (1.0 + points[:, 0])
    tree = sm.ClusterTree.from_points(points, 8)
    partition = BlockPartition.build(tree, admissibility=StrongAdmissibility(eta))
    a = HMatrix.from_operator(Counter(dense), partition=partition, rtol=1e-4, symmetric=symmetric)
    assert relative_error(a, dense) <= 1e-4
    assert a.certificate.met
    assert np.array_equal(a.partition.far[5], partition.far[5])


def test_permuted_points():
    rng = np.random.default_rng(2)
    x = rng.random(700)
    dense = 1.0 / (np.abs(np.subtract.outer(x, x)) + 0.01)
    a = HODLRMatrix.from_operator(Counter(dense), sm.ClusterTree.from_points(x, 20), rtol=1e-7, symmetric=True)
    assert relative_error(a, dense) <= 1e-7


def test_weak_partition_of_h_is_hodlr():
    tree = sm.ClusterTree.balanced(600, 20)
    dense = nonsymmetric(600, 600, float)
    weak = HMatrix.from_operator(Counter(dense), tree, rtol=1e-7, admissibility=WeakAdmissibility())
    hodlr = HODLRMatrix.from_operator(Counter(dense), tree, rtol=1e-7)
    assert np.array_equal(weak.to_dense(), hodlr.to_dense())


def test_dense_blocks_above_the_leaves():
    tree = sm.ClusterTree.balanced(256, 8)
    none = np.zeros((0, 2), dtype=np.int64)
    near = [none, none, np.array([[i, j] for i in range(4) for j in range(4) if abs(i - j) <= 1])]
    far = [none, none, np.array([[i, j] for i in range(4) for j in range(4) if abs(i - j) > 1])]
    rest = [none] * (tree.depth - 2)
    partition = BlockPartition(tree, tree, tuple(far + rest), tuple(near + rest))
    for symmetric in (True, False):
        dense = hermitian(256, float) if symmetric else nonsymmetric(256, 256, float)
        a = HMatrix.from_operator(Counter(dense), partition=partition, rtol=1e-8, symmetric=symmetric)
        assert relative_error(a, dense) <= 1e-8
        assert [len(b) for b in a.partition.near] == [len(b) for b in near + rest]


# -------------------------------------------------------------------------------- numbers of products


def test_products_of_hodlr_follow_the_rank():
    """min(i, j): all blocks have rank one, and the number of products grows with the depth only."""
    counts = {}
    for n in (512, 1024, 2048):
        op = Counter(np.minimum.outer(np.arange(1.0, n + 1), np.arange(1.0, n + 1)))
        a = HODLRMatrix.from_operator(op, leaf_size=32, rtol=1e-9, symmetric=True)
        assert a.max_rank == 1
        counts[n] = op.forward
        depth = a.row_tree.depth
        # the first sketch, then samples for rank 1, and one product with the bases of each level; leaves; the check
        assert op.forward <= 24 + (depth - 1) * (1 + 8 + 4) + depth + 32 + CHECKS
    assert counts[2048] - counts[1024] <= 14


def test_symmetric_takes_half_of_the_products():
    dense = hermitian(1500, float)
    full, half = Counter(dense), Counter(dense)
    HODLRMatrix.from_operator(full, leaf_size=16, rtol=1e-8)
    HODLRMatrix.from_operator(half, leaf_size=16, rtol=1e-8, symmetric=True)
    assert half.backward == 0
    assert half.forward <= 0.62 * (full.forward + full.backward)


@pytest.mark.parametrize("format", FORMATS)
def test_without_structure_all_columns_and_no_more(format):
    """A random matrix has full ranks: sketches cannot help, and the columns are taken after at most one level."""
    dense = np.random.default_rng(0).standard_normal((200, 200))
    op = Counter(dense)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.StructureWarning)
        a = format.from_operator(op, leaf_size=16, rtol=1e-10)
    assert relative_error(a, dense) <= 1e-10
    assert op.forward + op.backward <= 2 * 200 + 200 + CHECKS


def test_columns_where_they_are_cheaper():
    op = Counter(nonsymmetric(100, 100, float))
    HMatrix.from_operator(op, leaf_size=20, rtol=1e-10)
    assert (op.forward, op.backward) == (100 + CHECKS, 0)


def test_same_seed_same_matrix():
    dense = nonsymmetric(500, 500, float)
    one, two, three = (HODLRMatrix.from_operator(Counter(dense), leaf_size=16, rtol=1e-5, rng=s) for s in (1, 1, 2))
    assert np.array_equal(one.to_dense(), two.to_dense())
    assert not np.array_equal(one.to_dense(), three.to_dense())


def test_vectors_one_at_a_time_and_other_operators():
    dense = nonsymmetric(300, 300, float)
    linear = spla.LinearOperator((300, 300), matvec=lambda x: dense @ x, rmatvec=lambda x: dense.T @ x, dtype=float)
    structured = sm.HSSMatrix.from_dense(dense, rtol=1e-12)
    for op in (linear, dense, structured):
        assert relative_error(HODLRMatrix.from_operator(op, leaf_size=16, rtol=1e-7), dense) <= 1.1e-7


# ------------------------------------------------------------------------------------- certificates


def random_problem(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(300, 600))
    x = np.sort(rng.random(n)) if rng.random() < 0.5 else (np.arange(n) + 0.5) / n
    width, power = 10.0 ** rng.uniform(-3, -1), rng.uniform(0.5, 2.0)
    distance = np.abs(x[:, None] - x)
    dense = (distance + width) ** -power * (1.0 + 0.3 * np.sign(x[:, None] - x) * rng.random())
    return dense, 10.0 ** rng.uniform(-9, -3)


@pytest.mark.parametrize("format", FORMATS)
def test_certificates(format):
    ratios, held, met = [], [], []
    for seed in range(40):
        dense, tolerance = random_problem(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccuracyWarning)
            a = format.from_operator(Counter(dense), leaf_size=12, rtol=tolerance, rng=seed)
        error = relative_error(a, dense)
        ratios.append(a.certificate.estimate / error)
        held.append(error <= a.certificate.upper_bound)
        met.append(a.certificate.met)
    ratios = np.array(ratios)
    assert ((ratios > 1 / 3) & (ratios < 3)).sum() >= 38
    assert sum(held) >= 36
    assert sum(met) >= 38


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_noisy_products(format, symmetric):
    """What is noise is not taken for blocks of full rank, if the noise is known."""
    noise, rng = 1e-6, np.random.default_rng(0)
    dense = hermitian(700, float)

    class Noisy(Counter):
        def perturbed(self, y):
            e = rng.standard_normal(y.shape)
            return y + noise * e * np.linalg.norm(y, axis=0) / np.linalg.norm(e, axis=0)

        def matmat(self, x):
            return self.perturbed(super().matmat(x))

        def rmatmat(self, x):
            return self.perturbed(super().rmatmat(x))

    a = format.from_operator(Noisy(dense), leaf_size=16, rtol=10 * noise, noise=noise, symmetric=symmetric)
    clean = format.from_operator(Counter(dense), leaf_size=16, rtol=10 * noise, symmetric=symmetric)
    assert relative_error(a, dense) <= 10 * noise
    assert a.certificate.met
    assert a.max_rank <= clean.max_rank + 1


def test_cap_on_the_rank_is_reported():
    dense = hermitian(600, float)
    with pytest.warns(AccuracyWarning, match="raise max_rank"):
        a = HODLRMatrix.from_operator(Counter(dense), leaf_size=16, rtol=1e-8, max_rank=3, symmetric=True)
    assert a.max_rank == 3
    assert not a.certificate.met
    assert relative_error(a, dense) <= a.certificate.upper_bound


def test_second_attempts_are_tighter(monkeypatch):
    """The first attempt is sabotaged: its products have an error. The second one makes up for it."""
    from structmat.flat import from_products as module

    dense = hermitian(400, float)
    attempts = []
    peel = module._peel

    def careless(peeling):
        attempts.append((peeling.tails[1], peeling.perforation))
        if len(attempts) == 1:
            peeling.tails = [1e3 * t for t in peeling.tails]
        return peel(peeling)

    monkeypatch.setattr(module, "_peel", careless)
    a = HODLRMatrix.from_operator(Counter(dense), leaf_size=16, rtol=1e-7, symmetric=True)
    assert len(attempts) == 2
    assert attempts[1][0] < attempts[0][0]
    assert [p for _, p in attempts] == [1, 2]
    assert a.certificate.met
    assert relative_error(a, dense) <= 1e-7


# ------------------------------------------------------------------------------------- what is refused


def test_bad_operators():
    dense = nonsymmetric(200, 200, float)
    with pytest.raises(SymmetryError, match="not Hermitian"):
        HODLRMatrix.from_operator(Counter(dense), symmetric=True)
    tree, strong = sm.ClusterTree.balanced(200, 25), StrongAdmissibility()
    skew = BlockPartition.build(tree, admissibility=lambda r, c, lv, i, j: strong(r, c, lv, i, j) & (i > j))
    with pytest.raises(SymmetryError, match="partition that has with each block the mirrored one"):
        HMatrix.from_operator(Counter(hermitian(200, float)), partition=skew, symmetric=True)
    with pytest.raises(TooFewSamplesError, match="50 products are all that are allowed"):
        HODLRMatrix.from_operator(Counter(dense), leaf_size=8, max_probes=50)
    with pytest.raises(ValueError, match="ask for rtol >= 5e-06"):
        HODLRMatrix.from_operator(Counter(dense), rtol=1e-8, noise=1e-6)
    with pytest.raises(TypeError, match="HODLRMatrix has weak admissibility"):
        HODLRMatrix.from_operator(Counter(dense), admissibility=StrongAdmissibility())
    with pytest.raises(TypeError, match="must have a shape"):
        HODLRMatrix.from_operator(object())
    forward_only = spla.LinearOperator((200, 200), matvec=lambda x: dense @ x, dtype=float)
    with pytest.raises(TypeError, match="cannot multiply with its adjoint, which is needed unless symmetric=True"):
        HODLRMatrix.from_operator(forward_only, leaf_size=8)
    with pytest.raises(NonFiniteError, match="the operator's product A @ x"):
        HODLRMatrix.from_operator(Counter(np.full((50, 50), np.nan)))
    wrong = Counter(dense)
    wrong.shape = (200, 190)
    with pytest.raises((ShapeError, ValueError)):
        HODLRMatrix.from_operator(wrong)


def test_max_probes_is_kept():
    op = Counter(nonsymmetric(600, 600, float))
    HODLRMatrix.from_operator(op, leaf_size=16, rtol=1e-4, max_probes=400)
    assert op.forward + op.backward <= 400 + CHECKS
    unlimited = Counter(nonsymmetric(600, 600, float))
    a = HODLRMatrix.from_operator(unlimited, leaf_size=16, rtol=1e-4)
    assert a.certificate.products == op.forward + op.backward


# --------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("seed", range(5))
def test_colours_separate_what_must_be_separate(seed):
    rng = np.random.default_rng(seed)
    nodes = 40
    pattern = rng.random((nodes, nodes)) < 0.15
    wanted_pattern = pattern & (rng.random((nodes, nodes)) < 0.5)
    unknown, wanted = np.argwhere(pattern), np.argwhere(wanted_pattern)
    colours = colour(wanted, unknown, nodes)
    for i, j in wanted:
        others = np.flatnonzero(pattern[i])
        assert (colours.number[others] == colours.number[j]).sum() == 1
    assert set(np.flatnonzero(colours.number >= 0)) == set(wanted[:, 1])
    divided = colours.divided(3, rng)
    assert divided.count <= 3 * colours.count
    same = divided.number[:, None] == divided.number
    assert not (same & (colours.number[:, None] != colours.number)).any()


def test_two_colours_for_hodlr():
    tree = sm.ClusterTree.balanced(512, 16)
    partition = BlockPartition.build(tree, admissibility=WeakAdmissibility())
    for level in range(1, tree.depth + 1):
        nodes = np.arange(1 << level)
        unknown = np.concatenate([partition.far[level], np.stack([nodes, nodes], axis=1)])
        assert colour(partition.far[level], unknown, 1 << level).count == 2
