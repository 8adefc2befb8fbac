"""The data sets in two and three dimensions: what is in them, and that they solve what they say."""

import numpy as np
import pytest

from structmat_nn import data
from structmat_nn.data.compact import solve_dirichlet
from structmat_nn.data.cube_inputs import random_sines, sine_products
from structmat_nn.data.domains2d import LShape, PerforatedSquare
from structmat_nn.data.gray_scott import PAIRS, UNSEEN_PAIRS, solve_gray_scott
from structmat_nn.data.helmholtz import solve_helmholtz2d
from structmat_nn.data.navier_stokes import body_force, solve_navier_stokes

SMALL = {
    "poisson2d": {"size": 32},
    "poisson2d-lshape": {"size": 32},
    "poisson2d-mixed": {"size": 32},
    "helmholtz2d": {"size": 32},
    "helmholtz2d-indefinite": {"size": 32},
    "poisson3d": {"size": 28, "storage": "float64"},
    "gray-scott": {"size": 8, "steps": 20},
    "navier-stokes": {"size": 16, "steps": 10},
}


def load(name, samples=24, **settings):
    return data.load(name, samples=samples, cache=False, **{**SMALL[name], **settings})


def all_pairs(dataset):
    return {"train": dataset.train, "validation": dataset.validation, **dataset.tests}


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("name", SMALL)
def test_every_set_has_its_parts_and_repeats(name):
    one, two, other = load(name), load(name), load(name, seed=1)
    n, dimension = SMALL[name]["size"], 3 if name == "poisson3d" else 2
    channels = {"gray-scott": (4, 2)}.get(name, (1, 1))
    assert one.size == (n,) * dimension
    assert one.channels == channels
    assert sorted(one.tests) == sorted(data.TEST_SETS)
    seen = []
    for part, pairs in all_pairs(one).items():
        assert len(pairs) == min(24, data.recipe(name).samples[part])
        np.testing.assert_array_equal(pairs.inputs, all_pairs(two)[part].inputs)
        np.testing.assert_array_equal(pairs.outputs, all_pairs(two)[part].outputs)
        assert not np.array_equal(pairs.inputs, all_pairs(other)[part].inputs)
        seen.append(pairs.inputs[0].tobytes())
    assert len(set(seen)) == len(seen)  # no part repeats another


@pytest.mark.parametrize("name", ["poisson2d", "poisson2d-lshape", "poisson2d-mixed"])
def test_without_refinement_all_parts_belong_to_one_operator(name):
    dataset = load(name, refinement=1)
    n = dataset.size[0]
    domain = {"poisson2d-lshape": LShape, "poisson2d-mixed": PerforatedSquare}.get(name)
    solve = (lambda f: solve_dirichlet(f, 2)) if domain is None else domain(n).solve
    for pairs in all_pairs(dataset).values():
        np.testing.assert_allclose(solve(pairs.inputs), pairs.outputs, atol=1e-13)


@pytest.mark.parametrize("name", ["helmholtz2d", "helmholtz2d-indefinite"])
def test_helmholtz_pairs_solve_the_equation(name):
    dataset = load(name)
    for pairs in all_pairs(dataset).values():
        np.testing.assert_allclose(
            solve_helmholtz2d(pairs.inputs, dataset.settings["wave_number"]), pairs.outputs, atol=1e-12
        )


def test_the_indefinite_problem_is_far_from_resonance_and_has_both_signs_in_its_span():
    squares = np.add.outer(np.arange(1, 11) ** 2, np.arange(1, 11) ** 2)
    every = np.add.outer(np.arange(64) ** 2, np.arange(64) ** 2)
    gaps = {}
    for name in ("helmholtz2d", "helmholtz2d-indefinite"):
        shift = data.recipe(name).settings["wave_number"] ** 2 / (4 * np.pi**2)
        assert (squares < shift).mean() > 0.2
        assert (squares > shift).mean() > 0.15
        gaps[name] = 4 * np.pi**2 * np.abs(every - shift).min()
    assert gaps["helmholtz2d"] == pytest.approx(34.8, abs=0.05)
    assert gaps["helmholtz2d-indefinite"] == pytest.approx(4 * np.pi**2 * 3.5)


@pytest.mark.parametrize(
    ("name", "terms", "exact_order"), [("poisson2d", 2, 4), ("poisson2d-lshape", 2, 4), ("poisson3d", 1, 4)]
)
def test_in_span_outputs_approach_the_exact_solutions(name, terms, exact_order):
    """The exact solution of a sum of sines divides each by its eigenvalue; here from the projections on the modes."""
    dataset = load(name, samples=4, size=64 if terms == 2 else 32, **({"refinement": 1} if terms == 2 else {}))
    n, dimension = dataset.size[0], len(dataset.size)
    waves = np.arange(2, 21, 2) if terms == 2 else np.arange(3, 24)
    basis = np.sin(np.pi * np.outer(waves, np.arange(n) / n))
    forcing = dataset.train.inputs.astype(np.float64)
    if name == "poisson2d-lshape":
        half = n // 2  # whole waves are odd about 1/2
        forcing = forcing.copy()
        forcing[:, half + 1 :, half + 1 :] = forcing[:, half - 1 : 0 : -1, half - 1 : 0 : -1]
    coefficients, squares = forcing, 0.0
    for _axis in range(dimension):
        coefficients = np.tensordot(coefficients, basis, axes=(1, 1)) * (2.0 / n)
        squares = np.add.outer(squares, (np.pi * waves) ** 2)
    numbers = np.broadcast_to(waves, (len(forcing), dimension, len(waves)))
    np.testing.assert_allclose(sine_products(coefficients, numbers, n), forcing, atol=1e-10)  # it is in the span
    exact = sine_products(coefficients / squares, numbers, n)
    if dataset.mask is not None:
        exact = exact * dataset.mask
    assert relative(dataset.train.outputs, exact) < (2e-3 if dimension == 2 else 3e-2)


def test_refinement_gets_closer_to_the_exact_solution():
    """Fourth order in the spacing: twice the points, a sixteenth of the difference, on the same forcings."""
    outputs = {}
    for refinement in (1, 2, 4, 8):
        dataset = load("poisson2d", samples=6, refinement=refinement)
        outputs[refinement] = dataset.train.outputs
        np.testing.assert_allclose(dataset.train.inputs, load("poisson2d", samples=6).train.inputs, atol=1e-10)
    errors = [relative(outputs[r], outputs[8]) for r in (1, 2, 4)]
    assert errors[1] / errors[2] == pytest.approx(16.0, rel=0.2)
    assert errors[0] / errors[1] > 10.0


def test_out_of_span_inputs_are_orthogonal_to_the_span_in_turns():
    dataset = load("poisson2d", samples=8, size=64)
    basis = np.sin(2 * np.pi * np.outer(np.arange(1, 11), np.arange(64) / 64)) * np.sqrt(2 / 64)

    def share(inputs):
        inside = basis @ inputs @ basis.T
        return np.linalg.norm(inside, axis=(1, 2)) / np.linalg.norm(inputs, axis=(1, 2))

    np.testing.assert_allclose(share(dataset.tests["in span"].inputs), 1.0)
    assert share(dataset.tests["out of span"].inputs[::2]).max() < 1e-10  # other sines
    assert share(dataset.tests["out of span"].inputs[1::2]).max() < 0.99  # random fields


@pytest.mark.parametrize("name", ["poisson2d-lshape", "poisson2d-mixed"])
def test_fields_vanish_outside_the_domain_and_the_adjoint_is_one(name):
    dataset = load(name)
    for pairs in (*all_pairs(dataset).values(), dataset.adjoint):
        assert not pairs.inputs[:, ~dataset.mask].any()
        assert not pairs.outputs[:, ~dataset.mask].any()
    white, adjoint = dataset.tests["white noise"], dataset.adjoint
    left = np.tensordot(adjoint.inputs, white.outputs, axes=([1, 2], [1, 2]))
    right = np.tensordot(adjoint.outputs, white.inputs, axes=([1, 2], [1, 2]))
    np.testing.assert_allclose(left, right, atol=1e-14)


def test_half_waves_make_the_l_shape_another_problem():
    """Whole waves vanish on the inner edges of the L: there its solutions are those of the square."""
    mask = LShape(32).mask
    for half_waves in (False, True):
        forcing = random_square_forcing(half_waves)
        same = relative(LShape(32).solve(forcing), solve_dirichlet(forcing, 2) * mask) < 1e-10
        assert same == (not half_waves)
        inputs = load("poisson2d-lshape", refinement=1, half_waves=half_waves).train.inputs
        across = np.abs(inputs[:, 1:16, 16]).max()  # on the line y = 1/2, inside the domain
        assert (across < 1e-10) == (not half_waves)


def random_square_forcing(half_waves):
    step = 1 if half_waves else 2
    return random_sines(3, 2, 10, (step, 10 * step, step), 32, np.random.default_rng(0))


def test_boundary_values_come_as_their_harmonic_lift():
    dataset = load("poisson2d", boundary="random", refinement=1)
    assert dataset.channels == (2, 1)
    for pairs in all_pairs(dataset).values():
        f, lift = pairs.inputs.swapaxes(0, 1)
        np.testing.assert_allclose(solve_dirichlet(f, 2) + lift, pairs.outputs, atol=1e-14)
        assert np.abs(lift[:, 0]).max() > 1e-3
        # a harmonic function has its extremes on the boundary
        assert (np.abs(lift[:, 1:, 1:]).max(axis=(1, 2)) < 0.14).all()
        inner = lift[:, 1:-1, 1:-1]
        around = lift[:, 2:, 1:-1] + lift[:, :-2, 1:-1] + lift[:, 1:-1, 2:] + lift[:, 1:-1, :-2]
        assert np.abs(around / 4 - inner)[:, 8:-8, 8:-8].max() < 1e-4


def test_training_on_white_noise():
    dataset = load("poisson2d", train_on="white noise")
    np.testing.assert_allclose(solve_dirichlet(dataset.train.inputs, 2), dataset.train.outputs, atol=1e-14)
    assert dataset.train.inputs.std() == pytest.approx(1.0, rel=0.05)


def test_waves_of_the_cube_are_those_asked_for():
    inputs = load("poisson3d", size=16, samples=4, waves=[3, 9]).train.inputs
    basis = np.sin(np.pi * np.outer(np.arange(1, 16), np.arange(16) / 16)) * np.sqrt(2 / 16)  # orthonormal
    coefficients = np.abs(np.einsum("sxyz,ax,by,cz->sabc", inputs, basis, basis, basis, optimize=True))
    assert coefficients[:, 2:9, 2:9, 2:9].max() > 1.0
    coefficients[:, 2:9, 2:9, 2:9] = 0.0
    assert coefficients.max() < 1e-10


def test_3d_is_stored_in_single_precision_unless_asked():
    single, double = (load("poisson3d", samples=2, storage=kind) for kind in ("float32", "float64"))
    assert single.train.inputs.dtype == np.float32
    np.testing.assert_array_equal(single.train.outputs, double.train.outputs.astype(np.float32))
    np.testing.assert_allclose(solve_dirichlet(double.train.inputs, 3), double.train.outputs, atol=1e-14)


def test_gray_scott_pairs_follow_the_equation_both_ways():
    forward, inverse = load("gray-scott"), load("gray-scott", inverse=True)
    for part, pairs in all_pairs(forward).items():
        f, k = pairs.inputs[:, 2, 0, 0], pairs.inputs[:, 3, 0, 0]
        expected = UNSEEN_PAIRS if part == "out of span" else PAIRS
        assert {(a, b) for a, b in zip(f, k, strict=True)} == {tuple(pair) for pair in expected}
        assert np.ptp(pairs.inputs[:, 2:], axis=(2, 3)).max() == 0.0
        np.testing.assert_allclose(
            solve_gray_scott(pairs.inputs[:, :2], f, k, steps=20)[:, -1], pairs.outputs, atol=1e-13
        )
        other = all_pairs(inverse)[part]
        np.testing.assert_array_equal(other.inputs[:, :2], pairs.outputs)
        np.testing.assert_array_equal(other.outputs, pairs.inputs[:, :2])
        np.testing.assert_array_equal(other.inputs[:, 2:], pairs.inputs[:, 2:])


def test_navier_stokes_pairs_follow_the_equation_both_ways():
    forward, inverse = load("navier-stokes"), load("navier-stokes", inverse=True)
    for part, pairs in all_pairs(forward).items():
        end = solve_navier_stokes(pairs.inputs, viscosity=1e-3, horizon=1.0, steps=10, force=body_force(16))
        np.testing.assert_allclose(end[:, -1], pairs.outputs, atol=1e-15)
        np.testing.assert_array_equal(all_pairs(inverse)[part].inputs, pairs.outputs)
        np.testing.assert_array_equal(all_pairs(inverse)[part].outputs, pairs.inputs)
        assert np.abs(pairs.inputs.mean(axis=(1, 2))).max() < 1e-15
    scales = [pairs.inputs.std() for pairs in forward.tests.values()]
    assert max(scales) < 1.6 * min(scales)  # the three laws differ in shape, not in size


def test_both_directions_and_all_devices_share_the_cache(tmp_path, monkeypatch):
    forward = data.load("navier-stokes", samples=2, size=16, steps=5, cache=tmp_path)

    def refuse(*_, **__):
        raise AssertionError("samples were made again")

    monkeypatch.setattr("structmat_nn.data.navier_stokes.solve_navier_stokes", refuse)
    inverse = data.load("navier-stokes", samples=2, size=16, steps=5, cache=tmp_path, inverse=True, device="cpu")
    np.testing.assert_array_equal(inverse.train.inputs, forward.train.outputs)
    assert inverse.settings["inverse"] is True
    with pytest.raises(AssertionError, match="made again"):
        data.load("navier-stokes", samples=2, size=16, steps=6, cache=tmp_path)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"same number of points on each axis, but it is \(32, 48\)"):
        data.load("poisson2d", size=(32, 48), cache=False)
    with pytest.raises(ValueError, match="size must be at least 24"):
        data.load("poisson2d", size=16, cache=False)
    with pytest.raises(ValueError, match="refinement must be an integer >= 1, but it is 0"):
        data.load("poisson2d", refinement=0, cache=False)
    with pytest.raises(ValueError, match="half_waves must be True or False"):
        data.load("poisson2d", half_waves=3, cache=False)
    with pytest.raises(ValueError, match="train_on must be 'sines' or 'white noise'"):
        data.load("helmholtz2d", train_on="noise", cache=False)
    with pytest.raises(ValueError, match=r"boundary must be None or 'random', but it is 1\.0"):
        data.load("poisson2d", boundary=1.0, cache=False)
    with pytest.raises(ValueError, match="radius must lie between"):
        data.load("poisson2d-mixed", radius=0.6, cache=False)
    with pytest.raises(ValueError, match="wave_number must be a positive finite number, but it is 'high'"):
        data.load("helmholtz2d", wave_number="high", cache=False)
    with pytest.raises(ValueError, match="resonant"):
        data.load("helmholtz2d", wave_number=2 * np.pi, cache=False)
    with pytest.raises(ValueError, match="storage must be 'float32' or 'float64'"):
        data.load("poisson3d", storage="half", cache=False)
    with pytest.raises(ValueError, match="size must be at least 28, so that the grid resolves the waves, but it is 16"):
        data.load("poisson3d", size=16, cache=False)
    with pytest.raises(ValueError, match=r"waves must be two ascending numbers from 1 on, but it is \[5, 3\]"):
        data.load("poisson3d", waves=(5, 3), cache=False)
    with pytest.raises(ValueError, match="waves must be the first and the last wave number of an axis, but it is 7"):
        data.load("poisson3d", waves=7, cache=False)
    with pytest.raises(ValueError, match="pairs must be a list of pairs"):
        data.load("gray-scott", pairs=[[0.1]], cache=False)
    with pytest.raises(ValueError, match="horizon must be a positive"):
        data.load("navier-stokes", horizon=0.0, cache=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poisson2d", "poisson2d-lshape", "poisson2d-mixed", "helmholtz2d", "navier-stokes"])
def test_full_size(name):
    dataset = data.load(name, samples=8, cache=False)
    assert dataset.size == data.recipe(name).size
    for pairs in all_pairs(dataset).values():
        assert np.linalg.norm(pairs.outputs) > 0.0


@pytest.mark.slow
def test_3d_at_full_size():
    dataset = data.load("poisson3d", samples=2, cache=False)
    forcing = dataset.train.inputs.astype(np.float64)
    assert relative(solve_dirichlet(forcing, 3), dataset.train.outputs) < 1e-6


@pytest.mark.slow
def test_patterns_appear_and_stay():
    """After 1500 s on a coarse grid the maze covers the square, whatever it started from."""
    counts = {**dict.fromkeys(data.recipe("gray-scott").samples, 1), "train": 4}
    dataset = data.load("gray-scott", samples=counts, size=64, steps=1500, pairs=[[0.029, 0.057]], cache=False)
    spread = dataset.train.outputs[:, 1].std(axis=(1, 2))
    assert spread.min() > 0.05
