"""Products with many vectors on a device: blocks side by side by the place they act on."""

import numpy as np
import pytest

import structmat as sm
from structmat.blocks import BlockBatch
from structmat.engine import reference, routing, slabs
from structmat.engine.reference import apply_blocks

COLUMNS = routing.PANEL_COLUMNS


def dense_twin(data, rows, cols, count, half):
    nodes, (p, q) = count, data.shape[1:]
    whole = np.zeros((nodes, p, nodes, q), dtype=data.dtype)
    for block, i, j in zip(data, rows, cols, strict=True):
        whole[i, :, j, :] += block
        if half and i != j:
            whole[j, :, i, :] += block.conj().T
    return whole.reshape(nodes * p, nodes * q)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("adjointly", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("slab", [1, 1 << 22])
def test_side_by_side_is_the_sum_of_blocks(xp, rng, monkeypatch, dtype, adjointly, half, slab):
    monkeypatch.setattr(slabs, "SLAB", slab)
    p, q = (5, 5) if half else (5, 4)
    # places with four blocks, one block and none; a diagonal block
    rows, cols = np.array([1, 4, 4, 4, 2, 4, 5]), np.array([0, 0, 4, 1, 2, 3, 3])
    data = rng.standard_normal((7, p, q)) + (1j * rng.standard_normal((7, p, q)) if dtype == np.complex128 else 0.0)
    data = data.astype(dtype)
    whole = dense_twin(data, rows, cols, 7, half)
    x = rng.standard_normal((7, p if adjointly else q, COLUMNS)).astype(dtype)
    batch = BlockBatch(xp.asarray(data), rows, cols)
    panels = routing.Panels(batch.data, rows, cols, 7, half=half, adjointly=adjointly)
    found = xp.to_numpy(panels(xp.asarray(x)))
    wanted = (whole.conj().T if adjointly else whole) @ x.reshape(-1, COLUMNS)
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=50 * np.finfo(dtype).eps)
    by_blocks = apply_blocks(batch, xp.asarray(x[:, :, :2].copy()), 7, half=half, adjointly=adjointly)
    np.testing.assert_allclose(xp.to_numpy(by_blocks), found[:, :, :2], atol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("format", [sm.HSSMatrix, sm.HODLRMatrix, sm.HMatrix, sm.H2Matrix])
def test_products_with_many_vectors(monkeypatch, format, symmetric):
    torch = pytest.importorskip("torch")
    points = np.random.default_rng(0).random((700, 1 if format in (sm.HSSMatrix, sm.HODLRMatrix) else 2))
    kernel = sm.kernelfunctions.Laplace(dim=2)
    a = format.from_kernel(kernel, points, rtol=1e-6, symmetric=symmetric, leaf_size=20)
    there, x = a._with_arrays(torch.tensor), np.random.default_rng(1).standard_normal((700, COLUMNS + 3))
    made, own = [], routing.Panels.__init__

    def spy(self, *args, **kwargs):
        made.append(self)
        own(self, *args, **kwargs)

    monkeypatch.setattr(routing.Panels, "__init__", spy)
    counts = []
    for _ in range(2):
        for matrix, twin in ((there, a), (there.H, a.H), (there.T, a.T)):
            np.testing.assert_allclose((matrix @ torch.tensor(x)).numpy(), twin @ x, rtol=0, atol=1e-11 * a.norm())
        counts.append(len(made))
    assert counts[0] == counts[1]  # they are kept
    assert bool(made) == (format in (sm.HMatrix, sm.H2Matrix))  # where no place has two blocks there is nothing to join


def test_without_room_blocks_are_taken_one_by_one(monkeypatch):
    torch = pytest.importorskip("torch")
    points = np.random.default_rng(0).random((500, 2))
    a = sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-6, leaf_size=20)
    there, x = a._with_arrays(torch.tensor), np.random.default_rng(1).standard_normal((500, COLUMNS))
    monkeypatch.setattr(routing, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(routing.Panels, "__init__", lambda *_, **__: pytest.fail("panels were made without room"))
    np.testing.assert_allclose((there @ torch.tensor(x)).numpy(), a @ x, rtol=0, atol=1e-11 * a.norm())


def test_few_vectors_need_no_second_copy(monkeypatch):
    torch = pytest.importorskip("torch")
    points = np.random.default_rng(0).random((500, 2))
    a = sm.HMatrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-6, leaf_size=20)
    there, x = a._with_arrays(torch.tensor), np.random.default_rng(1).standard_normal((500, COLUMNS - 1))
    monkeypatch.setattr(reference, "panels_of", lambda *_, **__: pytest.fail("panels for few vectors"))
    np.testing.assert_allclose((there @ torch.tensor(x)).numpy(), a @ x, rtol=0, atol=1e-11 * a.norm())
