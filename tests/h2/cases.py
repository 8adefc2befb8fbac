"""The cases of the battery for H2-matrices; `tests.cases` registers them."""

import numpy as np

import structmat as sm
from structmat.testing import random_h2
from tests.cases import (
    BUILDERS,
    BUILT,
    DTYPES,
    add_view,
    any_blocks,
    balanced,
    by_condition,
    coarse_dense_blocks,
    generator,
    mixed,
    pair_of_depth,
    points,
)
from tests.problems import kernel_k, line


def add_h2(name, make_tree, rank, dtype="f8", make_partition=None, **options):
    def builder():
        tree = make_tree()
        partition = None if make_partition is None else make_partition(tree, options.get("col_tree", tree))
        return *random_h2(generator(name), tree, rank, DTYPES[dtype], partition=partition, **options), 0.0

    BUILDERS[f"h2_{name}"] = builder


for kind, dtype in (
    ("general", "f8"),
    ("general", "c8"),
    ("general", "c16"),
    ("symmetric", "f4"),
    ("symmetric", "c16"),
):
    add_h2(f"{kind}_97_{dtype}", balanced(97, 7), 4, dtype, symmetric=kind == "symmetric")
for n, leaf_size in ((1, 64), (2, 1), (3, 1), (31, 64), (64, 4)):
    add_h2(f"general_{n}_leaf_{leaf_size}", balanced(n, leaf_size), 5)
for n, leaf_size in ((1, 64), (3, 1), (127, 5)):
    add_h2(f"symmetric_{n}_leaf_{leaf_size}", balanced(n, leaf_size), 5, "c16", symmetric=True)
for kind, dtype in (("general", "f8"), ("symmetric", "c8")):
    add_h2(
        f"{kind}_points_2d", lambda: sm.ClusterTree.from_points(points(101, 2), 4), 3, dtype,
        symmetric=kind == "symmetric",
    )  # fmt: skip
for shape, rows, cols, leaf_size in (("tall", 131, 60, 6), ("wide", 45, 113, 4), ("sliver", 90, 4, 1)):
    make_rows, col_tree = pair_of_depth(rows, cols, leaf_size)
    add_h2(shape, make_rows, 4, "c16", col_tree=col_tree)
add_h2("full_basis", balanced(64, 4), 4, ragged=False)
add_h2("rank_zero", balanced(50, 4), 0, "c16")
add_h2(
    "two_trees", lambda: sm.ClusterTree.from_points(points(80, 2), 5), 3,
    col_tree=sm.ClusterTree.from_points(points(80, 2)[::-1], 5, sm.PrincipalAxisSplitter()),
)  # fmt: skip
for name, condition, half in (
    ("weak", sm.WeakAdmissibility(), True),
    ("any", any_blocks, False),
):
    add_h2(name, balanced(90, 6), 3, "c16" if half else "f8", by_condition(condition), symmetric=half)
add_h2("coarse_dense", balanced(90, 6), 3, "f4", coarse_dense_blocks)
add_h2(
    "any_rectangular", balanced(90, 64, 4), 3, "c8", by_condition(any_blocks),
    col_tree=sm.ClusterTree.balanced(53, depth=4),
)  # fmt: skip
add_view("transpose_of_h2_general", "h2_general_97_c16", lambda a: a.T)
add_view("conjugate_of_h2_symmetric", "h2_symmetric_97_c16", lambda a: a.conj())
add_view("adjoint_of_h2_tall", "h2_tall", lambda a: a.H)


def add_built_h2(name, build_matrix, make_dense, tolerance):
    BUILDERS[f"h2_{name}"] = lambda: (build_matrix(sm.H2Matrix), make_dense(), tolerance)


for built in ("zero", "zero_hermitian", "identity", "diagonal", "from_kernel", "from_sparse"):
    add_built_h2(built, *BUILT[built])
add_built_h2(
    "low_rank_hermitian",
    lambda f: f.from_low_rank(np.exp(1j * line(90))[:, None] * np.eye(90)[:, :3], None, symmetric=True),
    lambda: np.diag(np.arange(90) < 3).astype(complex),
    0.0,
)
add_built_h2(
    "from_kernel_rectangular",
    lambda f: f.from_kernel(kernel_k(180), line(180), column_points=line(120), leaf_size=8),
    lambda: kernel_k(180)(line(180), line(120)),
    1e-8,
)


def h2_mixed_hermitian():
    tree = sm.ClusterTree.from_points(points(97, 2), 8)
    matrix, dense = random_h2(generator("h2_mixed"), tree, 4, np.complex128, symmetric=True, shift=20.0)
    return mixed(matrix, 1e-6), dense, 1e-6


BUILDERS["h2_mixed_hermitian"] = h2_mixed_hermitian
