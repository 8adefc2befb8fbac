"""The cases of the battery: name -> (matrix, dense twin, tolerance), built when asked for."""

from functools import cache

import numpy as np
import scipy.linalg
import scipy.sparse as sparse
import scipy.sparse.linalg as spla

import structmat as sm
from structmat.testing import random_flat, random_hss
from tests.problems import kernel_k, kernel_l, line, one_sided

DTYPES = {"f4": np.float32, "f8": np.float64, "c8": np.complex64, "c16": np.complex128}
BUILDERS = {}


def case(function):
    BUILDERS[function.__name__] = function
    return function


@cache
def build(name):
    """Return the matrix, its dense twin and the relative tolerance of a case."""
    return BUILDERS[name]()


def generator(name):
    return np.random.default_rng(sum(name.encode()))


def points(n, dimension):
    return np.random.default_rng(n).random((n, dimension))


# --------------------------------------------------------------------- exact matrices with random generators


def add_random(name, make_tree, rank, dtype, **options):
    def builder():
        matrix, dense = random_hss(generator(name), make_tree(), rank, DTYPES[dtype], **options)
        return matrix, dense, 0.0

    BUILDERS[name] = builder


def balanced(n, leaf_size, depth=None):
    return lambda: sm.ClusterTree.balanced(n, leaf_size, depth=depth)


for dtype in DTYPES:
    for kind in ("general", "symmetric"):
        add_random(f"{kind}_97_{dtype}", balanced(97, 13), 4, dtype, symmetric=kind == "symmetric")
        add_random(f"{kind}_2_{dtype}", balanced(2, 1), 1, dtype, symmetric=kind == "symmetric")
for n, leaf_size in (
    (1, 64),
    (1, 1),
    (2, 64),
    (3, 1),
    (3, 2),
    (5, 1),
    (31, 64),
    (64, 8),
    (127, 10),
    (250, 16),
):
    add_random(f"general_{n}_leaf_{leaf_size}", balanced(n, leaf_size), 5, "f8")
    add_random(f"symmetric_{n}_leaf_{leaf_size}", balanced(n, leaf_size), 5, "c16", symmetric=True)
for dimension in (1, 2, 3):
    for kind in ("general", "symmetric"):
        add_random(
            f"{kind}_points_{dimension}d",
            lambda dimension=dimension: sm.ClusterTree.from_points(points(101, dimension), 12),
            4,
            "f8" if kind == "general" else "c16",
            symmetric=kind == "symmetric",
        )
for name, rows, cols, leaf_size in (("tall", 131, 60, 10), ("wide", 45, 113, 8), ("sliver", 90, 4, 1)):
    for dtype in ("f8", "c8"):
        add_random(
            f"{name}_{dtype}",
            lambda rows=rows, cols=cols, leaf_size=leaf_size: sm.ClusterTree.balanced(
                rows, depth=sm.ClusterTree.balanced(min(rows, cols), leaf_size).depth
            ),
            4,
            dtype,
            col_tree=sm.ClusterTree.balanced(cols, depth=sm.ClusterTree.balanced(min(rows, cols), leaf_size).depth),
        )
add_random("full_basis", balanced(64, 8), 8, "f8", ragged=False)
add_random("equal_ranks", balanced(96, 12), 5, "c16", ragged=False)
add_random("rank_zero", balanced(50, 7), 0, "c16")
add_random("definite", balanced(100, 9), 4, "f8", symmetric=True, shift=40.0)


@case
def square_with_two_trees():
    rows = sm.ClusterTree.from_points(points(80, 2), 10)
    matrix, dense = random_hss(np.random.default_rng(5), rows, 3, col_tree=sm.ClusterTree.balanced(80, 10))
    return matrix, dense, 0.0


# -------------------------------------------------------------------------------------------- views


def add_view(name, of, turn):
    def builder():
        matrix, dense, tolerance = build(of)
        return turn(matrix), turn_dense[name.split("_")[0]](dense), tolerance

    turn_dense = {
        "transpose": lambda d: d.T,
        "adjoint": lambda d: d.conj().T,
        "conjugate": lambda d: d.conj(),
    }
    BUILDERS[name] = builder


for of in ("general_97_c16", "symmetric_97_c16", "tall_c8", "general_points_2d"):
    add_view(f"transpose_of_{of}", of, lambda a: a.T)
    add_view(f"adjoint_of_{of}", of, lambda a: a.H)
    add_view(f"conjugate_of_{of}", of, lambda a: a.conj())


# --------------------------------------------------------------------------------- special matrices


@case
def zero():
    return sm.HSSMatrix.zeros(sm.ClusterTree.balanced(70, 9)), np.zeros((70, 70)), 0.0


@case
def zero_symmetric_complex():
    matrix = sm.HSSMatrix.zeros(sm.ClusterTree.balanced(33, 4), np.complex64, symmetric=True)
    return matrix, np.zeros((33, 33), np.complex64), 0.0


@case
def zero_rectangular():
    trees = (sm.ClusterTree.balanced(40, depth=2), sm.ClusterTree.balanced(23, depth=2))
    return sm.HSSMatrix.zeros(trees), np.zeros((40, 23)), 0.0


@case
def identity():
    return sm.HSSMatrix.identity(sm.ClusterTree.balanced(77, 10)), np.eye(77), 0.0


@case
def identity_permuted_single():
    tree = sm.ClusterTree.from_points(points(60, 2), 10)
    return sm.HSSMatrix.identity(tree, np.float32), np.eye(60, dtype=np.float32), 0.0


@case
def diagonal():
    d = np.random.default_rng(1).standard_normal(51)
    return sm.HSSMatrix.from_diagonal(d, sm.ClusterTree.balanced(51, 6)), np.diag(d), 0.0


@case
def diagonal_complex():
    d = np.exp(1j * np.arange(1.0, 45.0))
    return sm.HSSMatrix.from_diagonal(d, sm.ClusterTree.from_points(points(44, 1), 6)), np.diag(d), 0.0


@case
def low_rank():
    rng = np.random.default_rng(2)
    u, v = rng.standard_normal((90, 3)), rng.standard_normal((90, 3))
    return sm.HSSMatrix.from_low_rank(u, v, sm.ClusterTree.balanced(90, 12)), u @ v.T, 0.0


@case
def low_rank_hermitian():
    rng = np.random.default_rng(3)
    u = rng.standard_normal((90, 3)) + 1j * rng.standard_normal((90, 3))
    tree = sm.ClusterTree.from_points(points(90, 2), 12)
    return sm.HSSMatrix.from_low_rank(u, u, tree, symmetric=True), u @ u.conj().T, 0.0


@case
def full_rank_dense():
    dense = np.random.default_rng(4).standard_normal((60, 60))
    return sm.HSSMatrix.from_dense(dense, sm.ClusterTree.balanced(60, 30), rtol=1e-12), dense, 1e-12


@case
def full_rank_dense_complex_rectangular():
    rng = np.random.default_rng(4)
    dense = rng.standard_normal((60, 41)) + 1j * rng.standard_normal((60, 41))
    trees = (sm.ClusterTree.balanced(60, depth=1), sm.ClusterTree.balanced(41, depth=1))
    return sm.HSSMatrix.from_dense(dense, trees, rtol=1e-12), dense, 1e-12


# -------------------------------------------------------------------------------------- constructors


@case
def from_dense():
    dense = one_sided(150)(line(150), line(150))
    return sm.HSSMatrix.from_dense(dense, sm.ClusterTree.balanced(150, 16), rtol=1e-9), dense, 1e-9


@case
def from_dense_single():
    dense = one_sided(150)(line(150), line(150)).astype(np.float32)
    return sm.HSSMatrix.from_dense(dense, sm.ClusterTree.balanced(150, 16), rtol=1e-4), dense, 1e-4


@case
def from_dense_symmetric():
    dense = kernel_k(150)(line(150), line(150))
    tree = sm.ClusterTree.balanced(150, 16)
    return sm.HSSMatrix.from_dense(dense, tree, rtol=1e-9, symmetric=True), dense, 1e-9


@case
def from_dense_rectangular():
    dense = kernel_k(100)(line(170), line(100))
    return sm.HSSMatrix.from_dense(dense, rtol=1e-7), dense, 1e-7


@case
def from_dense_diagonal():
    return sm.HSSMatrix.from_dense(np.eye(50), sm.ClusterTree.balanced(50, 7)), np.eye(50), 1e-8


@case
def from_operator_zero():
    zeros = np.zeros((50, 50))
    return sm.HSSMatrix.from_operator(zeros, sm.ClusterTree.balanced(50, 7), symmetric=True), zeros, 0.0


@case
def from_operator_diagonal():
    d = np.diag(np.exp(1j * np.arange(1.0, 51.0)))
    return sm.HSSMatrix.from_operator(d, sm.ClusterTree.balanced(50, 7)), d, 1e-8


@case
def from_samples_diagonal():
    d, rng = np.diag(np.arange(1.0, 51.0)), np.random.default_rng(11)
    f = rng.standard_normal((50, 14))
    tree = sm.ClusterTree.balanced(50, 7)
    return sm.HSSMatrix.from_samples(f, d @ f, tree, rank=1, symmetric=True), d, 1e-11


@case
def from_low_rank_nothing():
    return sm.HSSMatrix.from_low_rank(np.zeros((50, 0)), np.zeros((50, 0))), np.zeros((50, 50)), 0.0


@case
def from_entries():
    dense = kernel_l(200)(line(200), line(200)) + np.triu(np.ones((200, 200)))
    tree = sm.ClusterTree.balanced(200, 16)
    return sm.HSSMatrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=1e-8), dense, 1e-8


@case
def from_kernel_on_a_curve():
    angle = 2 * np.pi * np.random.default_rng(6).random(180)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def kernel(x, y):
        return np.exp(2j * np.linalg.norm(x[:, None] - y, axis=2))

    return sm.HSSMatrix.from_kernel(kernel, x, leaf_size=20, rtol=1e-8), kernel(x, x), 1e-8


@case
def from_kernel_symmetric():
    x = np.random.default_rng(7).random(180)
    kernel = kernel_k(180)
    return sm.HSSMatrix.from_kernel(kernel, x, leaf_size=20, rtol=1e-8, symmetric=True), kernel(x, x), 1e-8


@case
def from_kernel_rectangular():
    x, y = np.random.default_rng(8).random(150), np.random.default_rng(9).random(90)
    kernel = kernel_k(100)
    return sm.HSSMatrix.from_kernel(kernel, x, column_points=y, leaf_size=12), kernel(x, y), 1e-8


@case
def from_operator():
    dense = one_sided(160)(line(160), line(160))
    op = spla.aslinearoperator(dense)
    return sm.HSSMatrix.from_operator(op, leaf_size=12, rtol=1e-8), dense, 1e-8


@case
def from_operator_hermitian():
    dense = kernel_k(160)(line(160), line(160)) * np.exp(1j * np.subtract.outer(line(160), line(160)))
    op = spla.aslinearoperator(dense)
    return sm.HSSMatrix.from_operator(op, leaf_size=12, rtol=1e-8, symmetric=True), dense, 1e-8


@case
def from_samples():
    i = np.arange(1, 129) / 129
    dense = np.minimum.outer(i, i) * (1 - np.maximum.outer(i, i))
    f = np.random.default_rng(10).standard_normal((128, 12))
    return sm.HSSMatrix.from_samples(f, dense @ f, rank=2, leaf_size=8, symmetric=True), dense, 1e-11


# ------------------------------------------------------------------------------------- HODLR and H

FLAT = {"hodlr": sm.HODLRMatrix, "h": sm.HMatrix}


def add_flat(name, format, make_tree, rank, dtype="f8", make_partition=None, **options):
    def builder():
        tree = make_tree()
        partition = None if make_partition is None else make_partition(tree, options.get("col_tree", tree))
        matrix, dense = random_flat(
            generator(name), FLAT[format], tree, rank, DTYPES[dtype], partition=partition, **options
        )
        return matrix, dense, 0.0

    BUILDERS[name] = builder


def pair_of_depth(rows, cols, leaf_size):
    depth = sm.ClusterTree.balanced(min(rows, cols), leaf_size).depth
    return balanced(rows, 64, depth), sm.ClusterTree.balanced(cols, depth=depth)


for format in FLAT:
    for kind in ("general", "symmetric"):
        half = kind == "symmetric"
        for dtype in DTYPES:
            add_flat(f"{format}_{kind}_97_{dtype}", format, balanced(97, 13), 4, dtype, symmetric=half)
        for n, leaf_size in ((1, 64), (2, 1), (3, 2), (31, 64), (64, 8), (127, 10)):
            add_flat(
                f"{format}_{kind}_{n}_leaf_{leaf_size}", format, balanced(n, leaf_size), 5, "c16" if half else "f8",
                symmetric=half,
                # elimination of H-matrices pivots within diagonal blocks only: what grows there is lost
                shift=12.0 if n > 100 and format == "h" else 0.0,
            )  # fmt: skip
        add_flat(
            f"{format}_{kind}_points_2d", format, lambda: sm.ClusterTree.from_points(points(101, 2), 8), 4,
            "c8" if half else "f8", symmetric=half, shift=0.0 if half else 12.0,
        )  # fmt: skip
    for shape, rows, cols, leaf_size in (("tall", 131, 60, 10), ("wide", 45, 113, 4), ("sliver", 90, 4, 1)):
        make_rows, col_tree = pair_of_depth(rows, cols, leaf_size)
        add_flat(f"{format}_{shape}", format, make_rows, 4, "c16", col_tree=col_tree)
    add_flat(f"{format}_full_rank", format, balanced(64, 8), 64, ragged=False)
    add_flat(f"{format}_equal_ranks", format, balanced(96, 6), 3, "c16", ragged=False)
    add_flat(f"{format}_rank_zero", format, balanced(50, 7), 0, "c16")
    add_flat(f"{format}_definite", format, balanced(100, 9), 4, symmetric=True, shift=40.0)
    add_flat(
        f"{format}_two_trees", format, lambda: sm.ClusterTree.from_points(points(80, 2), 10), 3,
        col_tree=sm.ClusterTree.from_points(points(80, 2)[::-1], 10, sm.PrincipalAxisSplitter()),
    )  # fmt: skip
    for of in (f"{format}_general_97_c16", f"{format}_symmetric_97_c16", f"{format}_tall"):
        add_view(f"transpose_of_{of}", of, lambda a: a.T)
        add_view(f"adjoint_of_{of}", of, lambda a: a.H)
        add_view(f"conjugate_of_{of}", of, lambda a: a.conj())


def by_condition(condition):
    return lambda rows, cols: sm.BlockPartition.build(rows, cols, condition)


def any_blocks(rows, cols, level, i, j):
    """Blocks off the diagonal, as they come: not symmetric."""
    return (i != j) & ((3 * i + 5 * j + level) % 4 < 2)


def coarse_dense_blocks(rows, cols):
    """Weak admissibility, with one large block dense and one of its neighbours cut further."""
    weak = sm.BlockPartition.build(rows, cols, sm.WeakAdmissibility())
    far, near = list(weak.far), list(weak.near)
    far[1], near[1] = np.zeros((0, 2), dtype=np.int64), np.array([[1, 0]])
    far[2] = np.array([[0, 1], [0, 2], [0, 3], [1, 0], [1, 3], [2, 3], [3, 2]])
    near[2] = np.array([[1, 2]])
    return sm.BlockPartition(rows, cols, tuple(far), tuple(near))


for name, make_partition, half in (
    ("weak", by_condition(sm.WeakAdmissibility()), True),
    ("narrow", by_condition(sm.StrongAdmissibility(0.7)), True),
    ("centres", by_condition(sm.StrongAdmissibility(1.0, "centre")), False),
    ("any", by_condition(any_blocks), False),
    ("coarse_dense", coarse_dense_blocks, False),
):
    add_flat(f"h_{name}", "h", balanced(90, 6), 3, "c16" if half else "f8", make_partition, symmetric=half)
add_flat(
    "h_any_rectangular", "h", balanced(90, 64, 4), 3, "c8", by_condition(any_blocks),
    col_tree=sm.ClusterTree.balanced(53, depth=4),
)  # fmt: skip


BUILT = {}


def add_built(name, build_matrix, make_dense, tolerance):
    BUILT[name] = build_matrix, make_dense, tolerance
    for format, cls in FLAT.items():
        BUILDERS[f"{format}_{name}"] = lambda cls=cls: (build_matrix(cls), make_dense(), tolerance)


def tridiagonal(n):
    return sparse.diags_array([-1.0, 2.5, -0.5], offsets=[-1, 0, 1], shape=(n, n))


add_built("zero", lambda f: f.zeros(sm.ClusterTree.balanced(70, 9)), lambda: np.zeros((70, 70)), 0.0)
add_built(
    "zero_hermitian",
    lambda f: f.zeros(sm.ClusterTree.balanced(33, 4), np.complex64, symmetric=True),
    lambda: np.zeros((33, 33), np.complex64),
    0.0,
)
add_built("identity", lambda f: f.identity(sm.ClusterTree.balanced(77, 10)), lambda: np.eye(77), 0.0)
add_built(
    "diagonal",
    lambda f: f.from_diagonal(np.exp(1j * np.arange(1.0, 45.0)), sm.ClusterTree.from_points(points(44, 1), 6)),
    lambda: np.diag(np.exp(1j * np.arange(1.0, 45.0))),
    0.0,
)
add_built(
    "from_dense",
    lambda f: f.from_dense(one_sided(150)(line(150), line(150)), sm.ClusterTree.balanced(150, 16), rtol=1e-9),
    lambda: one_sided(150)(line(150), line(150)),
    1e-9,
)
add_built(
    "from_kernel",
    lambda f: f.from_kernel(kernel_k(180), line(180)[::-1], leaf_size=20, rtol=1e-8, symmetric=True),
    lambda: kernel_k(180)(line(180), line(180)),
    1e-8,
)
add_built(
    "from_sparse",
    lambda f: f.from_sparse(tridiagonal(140), sm.ClusterTree.balanced(140, 12)),
    lambda: tridiagonal(140).toarray(),
    1e-12,
)
add_built(
    "from_toeplitz",
    lambda f: f.from_toeplitz(1 / (1.0 + np.arange(150)), 1 / (2.0 + np.arange(150)), leaf_size=12),
    lambda: scipy.linalg.toeplitz(1 / (1.0 + np.arange(150)), 1 / (2.0 + np.arange(150))),
    1e-8,
)


def mixed(matrix, rtol):
    result = matrix.to_mixed_precision(rtol=rtol)
    assert result.mixed_precision
    return result


add_built(
    "mixed_precision",
    lambda f: mixed(
        f.from_dense(one_sided(150)(line(150), line(150)), sm.ClusterTree.balanced(150, 8), rtol=1e-12), 1e-9
    ),
    lambda: one_sided(150)(line(150), line(150)),
    1e-9,
)
for format, cls in FLAT.items():

    def mixed_hermitian(cls=cls, format=format):
        tree = sm.ClusterTree.from_points(points(97, 2), 8)
        matrix, dense = random_flat(generator(format), cls, tree, 4, np.complex128, symmetric=True, shift=20.0)
        return mixed(matrix, 1e-6), dense, 1e-6

    BUILDERS[f"{format}_mixed_hermitian"] = mixed_hermitian


def hss_mixed():
    dense = one_sided(150)(line(150), line(150))
    tree = sm.ClusterTree.balanced(150, 8)
    return mixed(sm.HSSMatrix.from_dense(dense, tree, rtol=1e-9), 1e-6), dense, 1e-6


BUILDERS["hss_mixed"] = hss_mixed


import tests.h2.cases  # noqa: E402, F401  (registers the cases of H2-matrices here)
