import numpy as np
import pytest
import torch

from structmat.exceptions import ShapeError
from structmat_nn import NeuralHSS
from structmat_nn.models.prolong import grid_points, leaf_interpolation, prolong


def laplacian(n):
    return (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))


@pytest.mark.parametrize(("n", "m", "levels"), [(16, 32, 2), (16, 27, 1), (24, 12, 1), (13, 19, 1), (16, 33, 0)])
@pytest.mark.parametrize("grid", ["cell", "vertex", "interior", "periodic"])
def test_interpolation_within_leaves_is_exact_for_polynomials(n, m, levels, grid):
    source, target = grid_points(grid, n), grid_points(grid, m)
    blocks = leaf_interpolation(source, target, levels, degree=3)
    leaves = 2**levels
    matrix = np.zeros((m, n))
    for leaf in range(leaves):
        rows = slice(m * leaf // leaves, m * (leaf + 1) // leaves)
        columns = slice(n * leaf // leaves, n * (leaf + 1) // leaves)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert not blocks[leaf, height:].any()
        assert not blocks[leaf, :, width:].any()
        matrix[rows, columns] = blocks[leaf, :height, :width]
    cubic = lambda x: 2.0 - x + 3.0 * x**2 - x**3  # noqa: E731
    assert np.allclose(matrix @ cubic(source), cubic(target), rtol=0, atol=1e-11)


@pytest.fixture(scope="module")
def green():
    """The Green's function on 64 points as a model: exact at rank 2."""
    model = NeuralHSS(64, rank=2, levels=2, depth=1, dtype=torch.float64, seed=0)
    model.layers[0].init_from_dense(np.linalg.inv(laplacian(64)))
    model.projection.init_from_dense(np.eye(64))
    return model


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# -u'' = f with a smooth f: the coarse discretisation itself is off by 1e-4
@pytest.mark.parametrize(("n", "goal"), [(128, 5e-4), (129, 5e-4), (200, 5e-4), (256, 5e-4), (48, 1e-3), (32, 2e-3)])
def test_a_smooth_field_on_another_grid(green, n, goal):
    x = grid_points("interior", n)
    f = np.sin(3.0 * x) * np.exp(x)
    u = prolong(green, n, grid="interior")(torch.from_numpy(f)).detach().numpy()
    assert relative(u, np.linalg.solve(laplacian(n), f)) < goal


def test_a_rough_field_on_a_finer_grid_needs_averages(green):
    f = np.random.default_rng(0).standard_normal(128)
    u = np.linalg.solve(laplacian(128), f)
    errors = {
        kind: relative(green.prolonged(128, grid="interior", restriction=kind)(torch.from_numpy(f)).detach().numpy(), u)
        for kind in ("sample", "average")
    }
    assert errors["average"] < 5e-3
    assert errors["sample"] > 0.1


def test_coordinates_may_be_given(green):
    points = (grid_points("interior", 64),), (grid_points("interior", 100),)
    x = torch.randn(3, 100, dtype=torch.float64)
    assert torch.equal(prolong(green, 100, grid=points)(x), prolong(green, 100, grid="interior")(x))


def test_the_model_and_its_inner_generators_stay_as_they_are(green):
    before = {name: p.clone() for name, p in green.state_dict().items()}
    finer = prolong(green, 128)
    assert all(torch.equal(p, before[name]) for name, p in green.state_dict().items())
    assert green.size == (64,)
    for name in ("D0", "D1", "U1", "V1"):
        assert torch.equal(getattr(finer.layers[0], name), getattr(green.layers[0], name))
    assert finer.layers[0].structure.row_ranks == green.layers[0].structure.row_ranks


def test_the_same_grid_gives_the_same_model(green):
    x = torch.randn(3, 64, dtype=torch.float64)
    assert torch.allclose(prolong(green, 64)(x), green(x), rtol=0, atol=1e-12)


MODELS = [
    (16, {"hidden": 12, "bias": True}),
    (16, {"hidden": 12, "lift": "full", "bias": True}),
    (16, {"lift": "tensor", "lift_rank": 5}),
    ((16, 12), {"outer_rank": 2, "bias": True}),
    ((16, 12), {"outer_rank": 2, "depth": 1}),
    ((16, 12), {"outer_rank": 2, "in_channels": 2, "out_channels": 3, "bias": True}),
    ((16, 12), {"outer_rank": 2, "out_channels": 2, "lift": "tensor"}),
    ((16, 12), {"outer_rank": 2, "hidden": 10, "lift": "full"}),
    ((8, 8, 12), {"outer_rank": 2}),
]


def interpolation_matrix(n, m, levels):
    leaves = 2**levels
    blocks = leaf_interpolation(grid_points("cell", n), grid_points("cell", m), levels, 3)
    matrix = np.zeros((m, n))
    for leaf, block in enumerate(blocks):
        first_row, first_column = leaf * m // leaves, leaf * n // leaves
        matrix[first_row : first_row + block.shape[0], first_column : first_column + block.shape[1]] = block
    return matrix


@pytest.mark.parametrize(("size", "options"), MODELS)
def test_cubic_fields_are_prolonged_exactly_also_by_nonlinear_models(size, options):
    model = NeuralHSS(size, rank=1, levels=1, dtype=torch.float64, seed=0, **({"depth": 2} | options))
    with torch.no_grad():
        for activation in model.activations:
            activation.slope.fill_(0.2)
        if model.projection is None:
            model.activations[-1].slope.fill_(1.0)  # it acts behind the interpolation
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    new_size = tuple(2 * n for n in model.size)

    def field(sizes):
        """A cubic along each axis, in every channel."""
        total = torch.ones((), dtype=torch.float64)
        for n in sizes:
            x = torch.from_numpy(grid_points("cell", n))
            total = total[..., None] * (1.0 + x - 2.0 * x**3)
        return total if model.in_channels == 1 else torch.stack([total, -2.0 * total])

    fine = prolong(model, new_size)(field(new_size)).detach().numpy()

    expected = model(field(model.size)).detach().numpy()
    levels = 0 if options.get("lift") in ("full", "tensor") else 1
    for axis, n in enumerate(model.size, start=expected.ndim - len(model.size)):
        matrix = interpolation_matrix(n, 2 * n, levels)
        expected = np.moveaxis(np.tensordot(matrix, expected, axes=(1, axis)), 0, axis)
    assert np.allclose(fine, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_refusals_name_the_way_out():
    model = NeuralHSS(16, rank=1, levels=3, depth=1)
    with pytest.raises(ShapeError, match="at least 16 points are needed"):
        prolong(model, 15)
    with pytest.raises(ValueError, match="grid must be one of 'cell'"):
        prolong(model, 32, grid="hexagonal")
    with pytest.raises(ValueError, match="restriction must be one of 'sample', 'average'"):
        prolong(model, 32, restriction="mean")
    with pytest.raises(ValueError, match="the new points of axis 0 must increase"):
        prolong(model, 32, grid=([np.arange(16.0)], [np.zeros(32)]))
    with pytest.raises(ShapeError, match="the old points must be 1 arrays"):
        prolong(model, 32, grid=([], [np.arange(32.0)]))
    with pytest.raises(TypeError, match="grid must be a name or a pair"):
        prolong(model, 32, grid=3)
