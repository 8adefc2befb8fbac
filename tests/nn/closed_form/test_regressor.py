import pickle
import warnings

import numpy as np
import pytest

import structmat as sm
from structmat_nn import HSSOperatorRegressor, IdentifiabilityWarning, Small

from .. import operators


def test_it_predicts_and_scores(rng):
    green = operators.dirichlet(64)
    model = HSSOperatorRegressor(rank=2, random_state=0).fit(*operators.white_pairs(green, 20, rng))
    new = operators.white_pairs(green, 6, rng)
    assert model.score(*new) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(model.predict(new[0]), new[1], atol=1e-12)
    assert model.n_features_in_ == 64
    assert model.report_.identified
    assert model.matrix_.max_rank == 2


def test_one_target_keeps_its_shape(rng):
    x = rng.standard_normal((50, 10))
    weights = rng.standard_normal(10)
    model = HSSOperatorRegressor().fit(x, x @ weights)
    np.testing.assert_allclose(model.predict(x), x @ weights, atol=1e-12)
    assert model.predict(x).shape == (50,)


def test_samples_that_leave_it_open_are_a_warning_or_refused(rng):
    pairs = operators.smooth_pairs(operators.dirichlet(64), 40, rng, modes=5)
    with pytest.warns(IdentifiabilityWarning):
        model = HSSOperatorRegressor().fit(*pairs)
    assert model.score(*pairs) > 1 - 1e-10
    with pytest.raises(sm.TooFewSamplesError, match="do not span"):
        HSSOperatorRegressor(rank=2, strict=True).fit(*pairs)
    with pytest.warns(IdentifiabilityWarning, match=r"Small\(weight=10.0\)"):
        HSSOperatorRegressor(prior=Small(10.0)).fit(*pairs)


def test_adjoint_samples(rng):
    operator = operators.convection_diffusion(64)
    inputs, outputs = operators.white_pairs(operator.T, 14, rng)
    model = HSSOperatorRegressor(rank=2).fit(
        *operators.white_pairs(operator, 14, rng), adjoint_inputs=inputs, adjoint_outputs=outputs
    )
    assert model.score(*operators.white_pairs(operator, 5, rng)) > 1 - 1e-12


def test_it_survives_pickle_and_names_its_parameters(rng):
    model = HSSOperatorRegressor(rank=2, noise=1e-3).fit(*operators.white_pairs(operators.dirichlet(32), 20, rng, 1e-3))
    x = rng.standard_normal((3, 32))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))
    assert model.get_params()["noise"] == 1e-3
    assert model.set_params(rank=4).rank == 4


def test_bad_use_is_named(rng):
    model = HSSOperatorRegressor(rank=2)
    with pytest.raises(ValueError, match="not fitted yet"):
        model.predict(np.ones((2, 32)))
    model.fit(*operators.white_pairs(operators.dirichlet(32), 20, rng))
    with pytest.raises(ValueError, match="X has 31 features"):
        model.predict(np.ones((2, 31)))
    with pytest.raises(ValueError, match=r"no parameter|Invalid parameter"):
        model.set_params(width=3)


def test_a_grid_search_finds_the_rank_in_a_pipeline(rng):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    pairs = operators.white_pairs(operators.neumann(64), 60, rng, noise=1e-2)
    steps = make_pipeline(FunctionTransformer(), HSSOperatorRegressor(noise=1e-2, leaf_size=8, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.StructureWarning)  # of the ranks that are too small
        search = GridSearchCV(steps, {"hssoperatorregressor__rank": [1, 2, 3]}, cv=3).fit(*pairs)
    assert search.best_params_ == {"hssoperatorregressor__rank": 3}


# by name and reason: none is known to fail
EXPECTED_FAILED_CHECKS: dict[str, str] = {}


def test_scikit_learn_takes_it_for_an_estimator():
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(
            HSSOperatorRegressor(), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_fail="raise", on_skip=None
        )
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert len(passed) > 30
    assert skipped <= {"check_array_api_input"}  # asks for SCIPY_ARRAY_API in the environment


def test_the_score_counts_all_values_together(rng):
    x = np.linspace(0.0, 1.0, 64)  # the outputs are zero at both ends
    green = np.minimum.outer(x, x) * (1.0 - np.maximum.outer(x, x))
    model = HSSOperatorRegressor(rank=2, leaf_size=8).fit(*operators.white_pairs(green, 20, rng))
    inputs, outputs = operators.white_pairs(green, 9, rng)
    assert model.score(inputs, outputs) == pytest.approx(1.0, abs=1e-12)
    off = outputs + 0.1 * rng.standard_normal(outputs.shape)
    weights = np.arange(1.0, 10.0)
    spread = off - np.average(off, axis=0, weights=weights)
    wanted = 1.0 - np.average((off - model.predict(inputs)) ** 2, axis=0, weights=weights).sum() / (
        np.average(spread**2, axis=0, weights=weights).sum()
    )
    assert model.score(inputs, off, weights) == pytest.approx(wanted, rel=1e-12)
    assert model.score(inputs[:1], outputs[:1]) in (0.0, 1.0)  # one sample has no spread


def test_samples_in_single_precision(rng):
    green = operators.dirichlet(64)
    inputs = rng.standard_normal((20, 64)).astype(np.float32)
    model = HSSOperatorRegressor(rank=2, leaf_size=8, strict=True).fit(inputs, (inputs @ green).astype(np.float32))
    assert np.linalg.norm(model.matrix_.to_dense() - green) <= 1e-5 * np.linalg.norm(green)
