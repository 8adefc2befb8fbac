"""Gray-Scott and Navier-Stokes: exact solutions, orders, NumPy against torch."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from structmat import DeviceError, NonFiniteError, ShapeError
from structmat_nn.data.etdrk4 import ETDRK4
from structmat_nn.data.gray_scott import PAIRS, random_fourier, random_gaussians, solve_gray_scott
from structmat_nn.data.navier_stokes import body_force, initial_vorticity, solve_navier_stokes


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_coefficients_are_right_for_tiny_and_for_large_steps():
    """v' = L v + t, with t as a second component: polynomials of degree 1 are integrated exactly."""
    for rate in (0.0, -1e-9, -1e-3, -1.0, -1e3):
        stepper = ETDRK4(np.array([rate, 0.0]), 0.5)
        v = stepper.advance(np.zeros(2), lambda v: np.array([v[1], 1.0]), 4)  # v[1] = t
        z = 2.0 * rate
        series = 4.0 * sum(z**k / np.prod(np.arange(1.0, k + 3.0)) for k in range(12))
        exact = series if abs(z) < 1.0 else (np.expm1(z) - z) / rate**2
        assert v[0] == pytest.approx(exact, rel=1e-10)


def test_etdrk4_is_of_fourth_order():
    """The logistic equation, half of its linear part treated exactly."""
    exact = 1.0 / (1.0 + 9.0 * np.exp(-2.0))
    errors = []
    for steps in (8, 16, 32):
        v = ETDRK4(np.array([0.5]), 2.0 / steps).advance(np.array([0.1]), lambda v: 0.5 * v - v * v, steps)
        errors.append(abs(v[0] - exact))
    assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx([4.0, 4.0], abs=0.3)


# ------------------------------------------------------------------------------------------ Gray-Scott


def test_without_b_the_equation_is_linear_and_solved():
    n, steps = 16, 16
    x = -1.0 + 2.0 * np.arange(n) / n
    wave = np.cos(np.pi * x)[:, None] * np.sin(2 * np.pi * x)
    initial = np.stack([1.0 + 0.5 * wave, np.zeros((n, n))])[None]
    f, delta = np.array([0.04]), 0.001
    errors = []
    for step in (1.0, 0.5):
        count = int(steps / step)
        end = solve_gray_scott(initial, f, 0.06, steps=count, step=step, diffusion=(delta, delta))[0, 0]
        exact = 1.0 + 0.5 * wave * np.exp(-(f + 5 * np.pi**2 * delta) * steps)
        errors.append(np.abs(end[0] - exact).max())
        assert not end[1].any()
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.1)


def test_uniform_states_follow_the_reactions():
    """Without gradients the equations are two ordinary ones, which SciPy solves to twelve digits."""
    f, k = PAIRS[2]
    start = np.array([0.4, 0.3])

    def reactions(_, y):
        return [-y[0] * y[1] ** 2 + f * (1 - y[0]), y[0] * y[1] ** 2 - (f + k) * y[1]]

    exact = solve_ivp(reactions, (0, 100), start, rtol=1e-12, atol=1e-13).y[:, -1]
    initial = np.broadcast_to(start[:, None, None], (1, 2, 4, 4))
    errors = [
        np.abs(solve_gray_scott(initial, f, k, steps=steps, step=100 / steps)[0, 0, :, 0, 0] - exact).max()
        for steps in (200, 400)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.2)
    assert errors[1] < 1e-8


def test_gray_scott_is_of_fourth_order_in_the_step(rng):
    initial = random_fourier(*np.array(PAIRS[2:3]).T, 16, rng)
    f, k = PAIRS[2]
    ends = [solve_gray_scott(initial, f, k, steps=s, step=16 / s)[0, 0] for s in (16, 32, 64, 256)]
    errors = [np.abs(end - ends[-1]).max() for end in ends[:-1]]
    assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx([4.0, 4.0], abs=0.3)


def test_gray_scott_on_torch_equals_numpy_and_samples_do_not_mix(rng):
    pairs = np.array(PAIRS)
    initial = np.concatenate([random_gaussians(3, 16, rng), random_fourier(*pairs[3:].T, 16, rng)])
    here = solve_gray_scott(initial, *pairs.T, steps=20, stored=2)
    there = solve_gray_scott(initial, *pairs.T, steps=20, stored=2, device="cpu")
    assert here.shape == (6, 2, 2, 16, 16)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-13)
    alone = solve_gray_scott(initial[4:5], *pairs[4], steps=20)
    np.testing.assert_allclose(alone[0, 0], here[4, 1], rtol=0, atol=1e-14)
    single = solve_gray_scott(initial, *pairs.T, steps=20, device="cpu", dtype="float32")[:, -1]
    assert 0 < np.abs(single - here[:, -1]).max() < 1e-4


def test_initial_states_are_what_they_say(rng):
    bells = random_gaussians(4, 64, rng)
    np.testing.assert_allclose(bells.min(axis=(2, 3)), 0.0, atol=1e-15)
    np.testing.assert_allclose(bells.max(axis=(2, 3)), 1.0)
    f, k = np.array(PAIRS).T
    series = random_fourier(f, k, 128, rng)
    assert not np.abs(np.fft.fft2(series))[..., 20:108, :].max() > 1e-10  # 32 waves on each axis
    third = (f + k) ** 2 <= f / 4
    assert third.any()
    a, b = series.mean(axis=(2, 3)).T
    spread = 0.02
    assert np.abs(a * b - (f + k))[third].max() < spread  # the steady state of B
    assert np.abs(a - 1.0)[~third].max() < spread


# -------------------------------------------------------------------------------------- Navier-Stokes


@pytest.mark.parametrize("viscosity", [0.0, 1e-3, 0.1])
def test_taylor_green_vortices_decay_exactly(viscosity):
    n, horizon = 16, 2.0
    x = np.arange(n) / n
    vortex = np.cos(4 * np.pi * x)[:, None] * np.sin(2 * np.pi * x)
    ends = solve_navier_stokes(vortex[None], viscosity=viscosity, horizon=horizon, steps=8, stored=4)[0]
    for end, time in zip(ends, (0.5, 1.0, 1.5, 2.0), strict=True):
        np.testing.assert_allclose(end, vortex * np.exp(-20 * np.pi**2 * viscosity * time), rtol=0, atol=1e-13)


def test_a_parallel_flow_answers_the_force_exactly():
    """The force depends on x + y only, so advection vanishes: w = q (1 - exp(-8 pi^2 nu t)) / (8 pi^2 nu)."""
    rate = 8 * np.pi**2 * 0.01
    end = solve_navier_stokes(np.zeros((1, 16, 16)), viscosity=0.01, horizon=1.0, steps=10, force=body_force(16))
    np.testing.assert_allclose(end[0, 0], body_force(16) * -np.expm1(-rate) / rate, rtol=0, atol=1e-14)


def test_vorticity_moves_with_the_wind_that_it_makes():
    """A small wave on a shear flow, for a short time: w'_t = -u w'_x - v' W_y, which fixes all signs and factors."""
    n, horizon, small = 32, 1e-3, 1e-6
    x = np.arange(n) / n
    shear = np.broadcast_to(2 * np.pi * np.cos(2 * np.pi * x), (n, n))  # W(y), whose u is -sin(2 pi y)
    bump = small * np.sin(4 * np.pi * x)[:, None] * np.ones(n)
    base, moved = solve_navier_stokes(np.stack([shear, shear + bump]), viscosity=0.0, horizon=horizon, steps=2)[:, 0]
    np.testing.assert_allclose(base, shear, atol=1e-13)
    bump_x = 4 * np.pi * small * np.cos(4 * np.pi * x)[:, None]
    # v' = -psi'_x = -w'_x / (4 pi)^2 and W_y = -(2 pi)^2 sin(2 pi y): the second term takes back a quarter
    change = horizon * 0.75 * np.sin(2 * np.pi * x) * bump_x
    np.testing.assert_allclose(moved - base - bump, change, atol=0.01 * np.abs(change).max())


def test_navier_stokes_is_of_fourth_order_in_the_step(rng):
    initial = 20 * initial_vorticity(2, 32, rng)
    ends = [
        solve_navier_stokes(initial, viscosity=1e-3, horizon=1.0, steps=s, force=body_force(32))
        for s in (8, 16, 32, 128)
    ]
    errors = [np.abs(end - ends[-1]).max() for end in ends[:-1]]
    assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx([4.0, 4.0], abs=0.3)


def test_the_inviscid_flow_keeps_energy_and_enstrophy(rng):
    """Galerkin truncation keeps both; only a right advection term does."""
    n = 24
    modes = np.fft.rfft2(30 * initial_vorticity(2, n, rng))
    waves = np.abs(np.fft.fftfreq(n, 1 / n))
    low = (waves[:, None] < n / 3) & (waves[: n // 2 + 1] < n / 3)
    start = np.fft.irfft2(modes * low, s=(n, n))
    end = solve_navier_stokes(start, viscosity=0.0, horizon=1.0, steps=200)[:, 0]
    squares = (waves**2)[:, None] + waves**2
    squares[0, 0] = np.inf

    def energy(w):
        return (np.abs(np.fft.fft2(w)) ** 2 / squares).sum(axis=(1, 2))

    assert np.abs(end - start).max() > 0.1 * np.abs(start).max()
    np.testing.assert_allclose((end**2).sum(axis=(1, 2)), (start**2).sum(axis=(1, 2)), rtol=1e-8)
    np.testing.assert_allclose(energy(end), energy(start), rtol=1e-8)


def test_navier_stokes_on_torch_equals_numpy(rng):
    initial = 10 * initial_vorticity(3, 16, rng)
    arguments = {"viscosity": 1e-3, "horizon": 1.0, "steps": 10, "stored": 5, "force": body_force(16)}
    here = solve_navier_stokes(initial, **arguments)
    assert here.shape == (3, 5, 16, 16)
    np.testing.assert_allclose(solve_navier_stokes(initial, device="cpu", **arguments), here, rtol=0, atol=1e-13)
    single = solve_navier_stokes(initial, dtype="float32", **arguments)
    assert 0 < np.abs(single - here).max() < 1e-5


def test_initial_vorticity_has_the_stated_spectrum(rng):
    n = 32
    modes = np.fft.fft2(initial_vorticity(4000, n, rng)) / n**2  # coefficients of exp(2 pi i k x), an orthonormal basis
    power = (np.abs(modes) ** 2).mean(axis=0)
    for j, k in ((0, 1), (1, 1), (2, 3)):
        law = 7.0**1.5 * (4 * np.pi**2 * (j * j + k * k) + 49.0) ** -2.5
        assert power[j, k] == pytest.approx(law, rel=0.1)
    assert power[0, 0] < 1e-30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_gives_the_same_numbers(rng):
    pairs = np.array(PAIRS)
    states, vorticity = random_fourier(*pairs.T, 32, rng), 10 * initial_vorticity(3, 32, rng)
    here, there = (solve_gray_scott(states, *pairs.T, steps=50, device=device) for device in (None, "cuda"))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-12)
    flow = {"viscosity": 1e-3, "horizon": 1.0, "steps": 20, "force": body_force(32)}
    here, there = (solve_navier_stokes(vorticity, device=device, **flow) for device in (None, "cuda"))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------- errors


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match=r"initial must have shape \(samples, 2, n, n\).*\(2, 8, 8\)"):
        solve_gray_scott(np.ones((2, 8, 8)), 0.03, 0.06, steps=1)
    with pytest.raises(ShapeError, match=r"feed must be a number or have shape \(1,\)"):
        solve_gray_scott(np.ones((1, 2, 8, 8)), np.ones(2), 0.06, steps=1)
    with pytest.raises(ValueError, match="steps = 3 must be a multiple of stored = 2"):
        solve_gray_scott(np.ones((1, 2, 8, 8)), 0.03, 0.06, steps=3, stored=2)
    with pytest.raises(ValueError, match="step must be a positive finite number, but it is 0"):
        solve_gray_scott(np.ones((1, 2, 8, 8)), 0.03, 0.06, steps=1, step=0.0)
    with pytest.raises(NonFiniteError, match="initial must be finite"):
        solve_navier_stokes(np.full((1, 8, 8), np.inf), viscosity=0.1, horizon=1.0, steps=1)
    with pytest.raises(ShapeError, match=r"force has shape \(4, 4\), but initial"):
        solve_navier_stokes(np.ones((1, 8, 8)), viscosity=0.1, horizon=1.0, steps=1, force=np.ones((4, 4)))
    with pytest.raises(ValueError, match="viscosity must be"):
        solve_navier_stokes(np.ones((1, 8, 8)), viscosity=-1.0, horizon=1.0, steps=1)
    with pytest.raises(DeviceError, match="device must be None or a device that torch can use here, but 'nowhere'"):
        solve_navier_stokes(np.ones((1, 8, 8)), viscosity=0.1, horizon=1.0, steps=1, device="nowhere")
    with pytest.raises(TypeError, match="dtype must be float64 or float32"):
        solve_navier_stokes(np.ones((1, 8, 8)), viscosity=0.1, horizon=1.0, steps=1, dtype="int32")


def test_a_step_that_is_too_long_is_named(rng):
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="grew beyond all bounds with steps = 40"):
        solve_navier_stokes(1e6 * initial_vorticity(1, 16, rng), viscosity=0.0, horizon=10.0, steps=40)
