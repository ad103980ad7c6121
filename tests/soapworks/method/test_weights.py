import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soapworks.errors import InputError
from soapworks.method.weights import select_components, suppression_weights

quick = settings(max_examples=60, derandomize=True, deadline=None, database=None)

SCORES = np.array([0.6, 0.95, 0.8, 0.8, 0.1])
RANKS = [3, 0, 1, 2, 4]


def formula(mu, tau):
    """Evaluate section 6 of docs/method.md in plain Python."""
    exponents = [max(-700.0, min(700.0, (mu - 0.5 - r) / tau)) for r in RANKS]
    return [s / (1 + math.exp(-x)) for s, x in zip(SCORES, exponents, strict=True)]


@quick
@given(mu=st.floats(0, 5), tau=st.floats(0.01, 10))
def test_weights_follow_the_formula(mu, tau):
    weights = suppression_weights(SCORES, mu=mu, tau=tau)
    np.testing.assert_allclose(weights, formula(mu, tau), rtol=1e-12)


def test_by_default_two_components_are_cut():
    np.testing.assert_allclose(suppression_weights(SCORES), [0, 0.95, 0.8, 0, 0], atol=1e-4)


@pytest.mark.parametrize("d", [1, 7, 768])
def test_every_mu_from_0_to_d_cuts_as_many(d):
    scores = np.random.default_rng(0).uniform(0.7, 1, d)
    order = np.argsort(-scores)
    for mu in range(d + 1):
        weights = suppression_weights(scores, mu=mu)
        np.testing.assert_allclose(weights[order[:mu]], scores[order[:mu]], rtol=1e-4)
        np.testing.assert_allclose(weights[order[mu:]], 0, atol=1e-4)


def test_of_equal_scores_the_lower_index_goes_first():
    weights = suppression_weights(np.full(4, 0.9), mu=2, tau=0.01)
    np.testing.assert_allclose(weights, [0.9, 0.9, 0, 0], atol=1e-12)


def test_threshold_counts_the_scores_above_it():
    scores = np.array([0.75, 0.9, 0.76, 0.3])
    np.testing.assert_array_equal(
        suppression_weights(scores, mu="threshold", tau=0.2),
        suppression_weights(scores, mu=2, tau=0.2),
    )


def test_threshold_without_any_component_is_the_identity_head():
    assert not suppression_weights(np.array([0.7, 0.75]), mu="threshold").any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mu": -0.1}, "within 0 and 5"),
        ({"mu": 5.1}, "within 0 and 5"),
        ({"mu": math.nan}, "within 0 and 5"),
        ({"mu": "all"}, "'threshold'"),
        ({"tau": 0}, "above 0"),
        ({"tau": -1}, "above 0"),
        ({"tau": math.nan}, "above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        suppression_weights(SCORES, **settings)


@pytest.mark.parametrize("mu", [2, "threshold", 3])
def test_components_without_a_score_weigh_0(mu):
    weights = suppression_weights([0.9, math.nan, 0.8], mu=mu)
    np.testing.assert_allclose(weights, [0.9, 0, 0.8], atol=1e-4)
    assert weights[1] == 0


def test_selected_components_weigh_1():
    np.testing.assert_array_equal(select_components(4, [2, 0, 2]), [1, 0, 1, 0])
    assert not select_components(4, []).any()


@pytest.mark.parametrize("component", [-1, 4, 0.5])
def test_components_that_do_not_exist_are_refused(component):
    with pytest.raises(InputError, match="from 0 to 3"):
        select_components(4, [component])
