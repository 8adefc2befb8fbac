"""The cases of the battery: name -> (matrix, dense twin, tolerance), built when asked for."""

from functools import cache

import numpy as np
import scipy.sparse.linalg as spla

import structmat as sm
from structmat.testing import random_hss
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
