import numpy as np
import pytest

import structmat as sm
from structmat_nn import fine_tune, fit
from structmat_nn.closed_form.fine_tune import SmallSteps
from structmat_nn.training import LBFGS

from .. import operators


@pytest.fixture
def noisy(rng):
    green = operators.dirichlet(64)
    pairs = operators.white_pairs(green, 200, rng, noise=1e-2)
    few = pairs[0][:14], pairs[1][:14]
    return green, pairs, fit(*few, leaf_size=8, rank=2, noise=1e-2)


def test_an_exact_start_is_kept(rng):
    green = operators.dirichlet(64)
    pairs = operators.white_pairs(green, 30, rng)
    start = fit(*pairs, leaf_size=8, rank=2)
    assert fine_tune(start, *pairs, stage=SmallSteps(20)) is start


def test_training_on_more_samples_improves_a_start_from_few(noisy):
    green, pairs, start = noisy
    tuned = fine_tune(start, *pairs, stage=LBFGS(60))
    assert tuned.white_noise_error(green, rng=9) < 0.5 * start.white_noise_error(green, rng=9)
    assert tuned.report.held_out < 2e-2
    assert tuned.matrix.shape == (64, 64)


def test_small_steps_go_downhill(noisy):
    _green, pairs, start = noisy
    tuned = fine_tune(start, *pairs, stage=SmallSteps(30))
    assert tuned.error(*pairs) < start.error(*pairs)


def test_a_rate_that_destroys_the_start_is_refused():
    with pytest.raises(ValueError, match="at most 1e-05"):
        SmallSteps(learning_rate=1e-3)


def test_validation_decides(noisy, rng):
    _green, pairs, start = noisy
    elsewhere = rng.standard_normal((20, 64))
    kept = fine_tune(start, *pairs, stage=LBFGS(5), validation=(elsewhere, start.predict(elsewhere)))
    assert kept is start


def test_other_shapes_are_named(noisy):
    start = noisy[2]
    with pytest.raises(sm.ShapeError, match="operator of shape"):
        fine_tune(start, np.ones((5, 32)), np.ones((5, 32)))
    with pytest.raises(sm.ShapeError, match="1 sample"):
        fine_tune(start, np.ones((1, 64)), np.ones((1, 64)))
    with pytest.raises(TypeError, match="real operators"):
        fine_tune(start, np.ones((5, 64)) + 0j, np.ones((5, 64)))
