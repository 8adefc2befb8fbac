"""Certificates against the truth, over many random matrices: a test of probabilities, with fixed seeds."""

import warnings

import numpy as np
import pytest

import structmat as sm
from tests.problems import line, relative_error

CASES = 200


def random_problem(seed):
    """A smooth kernel on irregular points with a random amount of everything; not symmetric."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(380, 700))  # so many entries that they are sampled, and not all evaluated
    x = np.sort(rng.random(n)) if rng.random() < 0.5 else line(n)
    width, power = 10.0 ** rng.uniform(-3, -1), rng.uniform(0.5, 2.0)
    distance = np.abs(x[:, None] - x)
    dense = (distance + width) ** -power * (1.0 + 0.3 * np.sign(x[:, None] - x) * rng.random())
    return dense, 10.0 ** rng.uniform(-9, -3)


def outcomes(build):
    """The ratio of the estimate to the truth, whether the bound held, whether it was met, for each case."""
    rows = []
    for seed in range(CASES):
        dense, rtol = random_problem(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sm.AccuracyWarning)
            matrix = build(dense, rtol, seed)
        error = relative_error(matrix.to_dense(), dense)
        c = matrix.certificate
        rows.append((c.estimate / error, error <= c.upper_bound, c.met, error <= rtol))
    return (np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("source", ["operator", "entries"])
def test_certificates(source):
    def build(dense, rtol, seed):
        tree = sm.ClusterTree.balanced(len(dense), 40)
        if source == "operator":
            return sm.HSSMatrix.from_operator(dense, tree, rtol=rtol, rng=seed)
        return sm.HSSMatrix.from_entries(lambda i, j: dense[np.ix_(i, j)], tree, rtol=rtol, rng=seed)

    ratio, held, met, true = outcomes(build)
    assert np.mean((ratio > 1 / 3) & (ratio < 3)) >= 0.95
    assert np.mean(held) >= 0.90, "a bound of confidence 0.95 fails too often"
    assert np.mean(met) >= 0.95
    assert np.mean(true[met]) >= 0.97, "certificates said met where it was not"


def test_certificates_of_dense_builds_are_bounds():
    _ratio, held, met, true = outcomes(
        lambda dense, rtol, _seed: sm.HSSMatrix.from_dense(dense, sm.ClusterTree.balanced(len(dense), 40), rtol=rtol)
    )
    assert held.all()
    assert met.all()
    assert true.all()


def test_a_bad_block_is_not_missed():
    """An error in one small block, which uniformly drawn entries would hit once in a thousand draws."""
    n = 2048
    x = line(n)
    dense = np.exp(-np.abs(x[:, None] - x))
    dense[64:128, :64] += 10 * np.random.default_rng(0).standard_normal((64, 64))
    matrix = sm.HSSMatrix.from_dense(np.exp(-np.abs(x[:, None] - x)), rtol=1e-10)
    from structmat.hss.certify import by_entries
    from structmat.sources import EntrySource

    source = EntrySource(lambda i, j: dense[np.ix_(i, j)], dense.shape)
    c = by_entries(matrix, source, asked=1e-8, norm=float(np.linalg.norm(dense)), rng=np.random.default_rng(1))
    truth = relative_error(matrix.to_dense(), dense)
    assert truth / 3 < c.estimate < 3 * truth
    assert not c.met


def test_text():
    text = str(sm.Certificate(1e-8, 2e-9, 4e-9, 0.95, "10 probes", probes=10, products=54))
    assert text == (
        "asked 1.0e-08, estimate 2.0e-09, at most 4.0e-09 (confidence 0.95): met [10 probes; 10 probes, 54 products]"
    )
    assert "(guaranteed): NOT MET [by hand]" in str(sm.Certificate(1e-8, 1e-6, 1e-6, 1.0, "by hand"))


def test_where_the_build_has_seen_half_of_all_entries_the_error_is_computed():
    points = np.random.default_rng(0).random((600, 2))
    kernel = sm.kernelfunctions.Matern(nu=1.5, length=0.2)
    a = sm.HSSMatrix.from_kernel(kernel, points, rtol=1e-8)
    assert a.certificate.confidence == 1.0
    dense = kernel(points, points)
    assert a.certificate.estimate == pytest.approx(np.linalg.norm(a.to_dense() - dense) / np.linalg.norm(dense))
