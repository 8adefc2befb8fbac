"""Conversions between HODLR, H and HSS: against dense twins, within their certificates, at small ranks."""

import numpy as np
import pytest

import structmat as sm
from structmat.certify import by_probes, probe_factor
from structmat.convert import nested, of_hss, written_out
from structmat.flat.repartition import repartition
from structmat.testing import random_flat, random_hss
from tests.cases import any_blocks, coarse_dense_blocks
from tests.flat.problems import DTYPES, eps, error, numbers, random_matrix, random_trees
from tests.problems import kernel_k, line, relative_error

FORMATS = [sm.HODLRMatrix, sm.HMatrix, sm.HSSMatrix]


@pytest.mark.parametrize("seed", range(50))
def test_all_ways(seed):
    rng = np.random.default_rng(seed)
    if seed % 3:
        a, d = random_matrix(rng)
    else:
        rows, cols = random_trees(rng, rectangular=seed % 2 == 1)
        a, d = random_hss(rng, rows, 4, DTYPES[seed % 4], seed % 2 == 0, col_tree=cols)
    size, floor = np.linalg.norm(d), 200 * eps(d.dtype)
    for format in FORMATS:
        exact = format.from_structured(a)
        assert error(exact, d) <= floor * size
        assert exact.certificate.met
        rtol = float(10.0 ** rng.uniform(-4, -0.5))
        rough = format.from_structured(a, rtol=rtol)
        assert error(rough, d) <= (rough.certificate.upper_bound + floor) * size
        assert rough.certificate.upper_bound <= max(rtol, floor)
        for result in (exact, rough):
            assert type(result) is format
            assert result.dtype == d.dtype
            # a Hermitian matrix stays one where the partition lets it
            assert result.symmetric == a.symmetric


def partitions(tree):
    conditions = (sm.StrongAdmissibility(), sm.StrongAdmissibility(0.6), sm.WeakAdmissibility(), any_blocks)
    built = [sm.BlockPartition.build(tree, admissibility=condition) for condition in conditions]
    return [*built, coarse_dense_blocks(tree, tree)]


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_every_partition_to_every_other(dtype, rng):
    tree = sm.ClusterTree.balanced(130, 7)
    for source in partitions(tree):
        a, d = random_flat(rng, sm.HMatrix, tree, 3, dtype, partition=source)
        for target in partitions(tree):
            b = sm.HMatrix.from_structured(a, partition=target)
            assert error(b, d) <= 200 * eps(dtype) * np.linalg.norm(d)
            for mine, wanted in zip((*b.partition.far, *b.partition.near), (*target.far, *target.near), strict=True):
                assert np.array_equal(mine, wanted)
            blocks, bound = repartition(a.blocks, target, 0.05 * float(np.linalg.norm(d)))
            rough = sm.HMatrix(blocks, tree, tree, a.certificate)
            assert error(rough, d) <= bound + 200 * eps(dtype) * np.linalg.norm(d)
            assert bound <= 0.05 * np.linalg.norm(d)


def test_a_hermitian_matrix_over_an_unsymmetric_partition_is_stored_in_full(rng):
    tree = sm.ClusterTree.balanced(100, 6)
    a, d = random_flat(rng, sm.HODLRMatrix, tree, 3, np.complex128, True)
    b = sm.HMatrix.from_structured(a, admissibility=any_blocks)
    assert not b.symmetric
    assert error(b, d) <= 1e-13 * np.linalg.norm(d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_nested_bases_are_found_again(dtype, symmetric, rng):
    """From HSS to HODLR and back: the ranks are those of the HSS matrix that it was."""
    a, d = random_hss(rng, sm.ClusterTree.balanced(160, 9), 4, dtype, symmetric, ragged=False)
    a = a.truncate()
    blocks = written_out(of_hss(a.generators))
    assert blocks.half is symmetric
    assert error(sm.HODLRMatrix(blocks, a.row_tree, a.row_tree, a.certificate), d) <= 200 * eps(dtype) * a.norm()
    generators, bound = nested(blocks, 0.0)
    b = sm.HSSMatrix(generators, a.row_tree, a.row_tree, a.certificate)
    assert bound <= 100 * eps(dtype) * a.norm()
    assert error(b, d) <= 200 * eps(dtype) * a.norm()
    for mine, its in zip(b.ranks, a.ranks, strict=True):
        assert (mine <= its).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_kernel_through_all_formats(symmetric, rng):
    n, rtol = 700, 1e-7
    dense = kernel_k(n)(line(n), line(n))
    tree = sm.ClusterTree.balanced(n, 25)
    a = sm.HMatrix.from_dense(dense, tree, rtol=rtol, symmetric=symmetric)
    direct = sm.HSSMatrix.from_dense(dense, tree, rtol=rtol, symmetric=symmetric)
    hodlr = sm.HODLRMatrix.from_structured(a)
    hss = sm.HSSMatrix.from_structured(hodlr)
    back = sm.HMatrix.from_structured(hss)
    for step, (result, factor) in enumerate(((hodlr, 2.0), (hss, 3.0), (back, 4.0))):
        assert relative_error(result.to_dense(), dense) <= factor * rtol, f"step {step}"
        assert result.certificate.asked == rtol
        assert result.symmetric is symmetric
    assert hss.max_rank <= direct.max_rank + 4
    assert back.nbytes <= 1.1 * a.nbytes


def test_the_bound_against_products_with_probes(rng):
    x = line(2000)
    a = sm.HMatrix.from_kernel(kernel_k(2000), x, rtol=1e-9)
    probes = numbers(rng, 2000, 20)
    for format in FORMATS:
        b = format.from_structured(a, rtol=1e-5)
        seen = by_probes(b, probes, a @ probes, asked=1e-5, norm=None, products=20)
        # the estimate from 20 probes of an error that is certified
        assert seen.estimate <= probe_factor(20) * b.certificate.upper_bound


def test_conversion_of_one_format_to_itself(rng):
    tree = sm.ClusterTree.balanced(90, 8)
    a, d = random_hss(rng, tree, 4)
    assert sm.HSSMatrix.from_structured(a) is a
    cut = sm.HSSMatrix.from_structured(a, rtol=0.1)
    assert error(cut, d) <= 0.1 * np.linalg.norm(d)
    b, e = random_flat(rng, sm.HODLRMatrix, tree, 4)
    assert error(sm.HODLRMatrix.from_structured(b), e) <= 1e-13 * np.linalg.norm(e)


def test_what_cannot_be_converted(rng):
    with pytest.raises(TypeError, match="use from_dense for an array"):
        sm.HODLRMatrix.from_structured(np.eye(3))
    a, _ = random_hss(rng, sm.ClusterTree.balanced(50, 8), 2)
    with pytest.raises(TypeError, match="HODLRMatrix has weak admissibility"):
        sm.HODLRMatrix.from_structured(a, admissibility=sm.StrongAdmissibility())
    with pytest.raises(ValueError, match="rtol must be"):
        sm.HMatrix.from_structured(a, rtol=-1.0)
    other = sm.BlockPartition.build(sm.ClusterTree.balanced(50, 20))
    with pytest.raises(sm.TreeMismatchError, match="other trees"):
        sm.HMatrix.from_structured(a, partition=other)
