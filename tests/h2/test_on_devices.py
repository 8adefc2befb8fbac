"""H2-matrices in other array libraries: sums, recompression, norms and copies, as on the CPU."""

import numpy as np
import pytest

import structmat as sm
from structmat.h2 import ragged
from structmat.h2.ragged import Ragged, copy
from structmat.kernelfunctions import Exponential, Laplace
from structmat.linalg import inner

from .test_algebra import some_ragged

torch = pytest.importorskip("torch")

DTYPES = [np.float32, np.float64, np.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [10, 1 << 22])
def test_copies_are_those_of_the_compiled_kernels(rng, monkeypatch, dtype, piece):
    monkeypatch.setattr(ragged, "PIECE", piece)
    a = some_ragged(rng, 40, dtype)
    there = Ragged(torch.asarray(a.data), a.heights, a.widths)
    p, q, order = int(a.heights.max()) + 1, int(a.widths.max()) + 2, rng.permutation(len(a))
    padded = there.padded(order, p, q)
    assert np.array_equal(padded.numpy(), a.padded(order, p, q))
    back = Ragged.zeros(a.heights, a.widths, there.data)
    back.put(order, padded)
    assert np.array_equal(back.data.numpy(), a.data)
    np.testing.assert_allclose(there.squares(), a.squares(), rtol=1e-6)
    turned, expected = (Ragged.zeros(a.widths, a.heights, data) for data in (there.data, a.data))
    for source, target in ((there, turned), (a, expected)):
        columns = a.starts[:-1], a.widths, target.starts[:-1], a.heights, a.heights, a.widths
        copy(source.data, target.data, columns, adjointly=True)
    assert np.array_equal(turned.data.numpy(), expected.data)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_algebra_on_a_device_is_that_of_the_cpu(dtype, symmetric):
    x = np.random.default_rng(0).random((900, 2))
    options = {"leaf_size": 24, "rtol": 1e-4 if dtype == np.float32 else 1e-7, "symmetric": symmetric}
    a, b = (
        sm.H2Matrix.from_kernel(kernel, x, **options).astype(dtype)
        for kernel in (Laplace(dim=2), Exponential(length=0.4))
    )
    p, q = (m._with_arrays(torch.asarray) for m in (a, b))
    tolerance = 500 * float(np.finfo(dtype).eps)
    pairs = {
        "sum": (p + q, a + b), "difference": (p - q, a - b),
        "truncated": (p.truncate(rtol=1e-3), a.truncate(rtol=1e-3)),
        "complex": (p * (1 + 2j), a * (1 + 2j)), "adjoint": (p.H + q, a.H + b),
        "shifted": (p.add_diagonal(2.0), a.add_diagonal(2.0)),
        "updated": (p.add_low_rank(torch.asarray(x), x), a.add_low_rank(x, x)),
    }  # fmt: skip
    for name, (found, expected) in pairs.items():
        assert type(found._storage._example) is torch.Tensor, name
        scale = expected.certificate.upper_bound if name in ("truncated", "updated") else 0.0
        twin = expected.to_dense()
        assert np.linalg.norm(found.to_dense() - twin) <= (tolerance + 2 * scale) * np.linalg.norm(twin), name
        assert found.certificate.met, name
        assert found.certificate.upper_bound == pytest.approx(expected.certificate.upper_bound, rel=0.1), name
    assert p.norm() == pytest.approx(a.norm(), rel=tolerance)
    assert inner(p, q) == pytest.approx(inner(a, b), rel=100 * tolerance)
    assert p.truncate(rtol=1e-3).max_rank == pairs["truncated"][1].max_rank
