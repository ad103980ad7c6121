"""Rivals of SOAP against raw tokens: what they promise, computed another way."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from soapworks import Moments, fit_pca
from soapworks.errors import InputError
from soapworks.evaluation import rivals

GRID, N_CHANNELS = (4, 5), 30


@pytest.fixture(scope="module")
def tokens():
    """Real-like tokens (image, row, column, channel): content, and a code of position."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((N_CHANNELS, N_CHANNELS)) * np.logspace(0, -1, N_CHANNELS)
    content = rng.standard_normal((200, *GRID, N_CHANNELS)) @ mix
    return content + rng.standard_normal((*GRID, N_CHANNELS)) + rng.standard_normal(N_CHANNELS)


@pytest.fixture(scope="module")
def means(tokens):
    return tokens.mean(axis=0)


@pytest.fixture(scope="module")
def covariance(tokens):
    return np.cov(tokens.reshape(-1, N_CHANNELS).T)


def apply(head, tokens):
    return head(torch.from_numpy(tokens)).numpy()


def spread(tokens):
    """How much the mean tokens of positions differ."""
    means = tokens.mean(axis=0)
    return np.square(means - means.mean(axis=(0, 1))).sum()


@pytest.mark.parametrize("k", [0, 1, 7, 19])
def test_no_k_directions_hold_more_of_the_positions(tokens, means, k):
    left = spread(apply(rivals.position_basis(means, k), tokens)) / spread(tokens)
    flat = means.reshape(-1, N_CHANNELS)
    values = np.linalg.eigvalsh(np.cov(flat.T))[::-1]
    assert left == pytest.approx(1 - values[:k].sum() / values.sum(), abs=1e-5)


def test_all_directions_of_positions_gone_leave_none(tokens, means, covariance):
    n = GRID[0] * GRID[1] - 1
    for head in (rivals.position_basis(means, n), rivals.leace(means, covariance, n)):
        assert spread(apply(head, tokens)) < 1e-8 * spread(tokens)


def test_leace_changes_tokens_less_in_their_own_metric(tokens, means, covariance):
    n = GRID[0] * GRID[1] - 1
    inverse = np.linalg.inv(covariance)
    flat = tokens.reshape(-1, N_CHANNELS)

    def change(head):
        moved = (apply(head, tokens).reshape(flat.shape) - flat) - 0
        moved -= moved.mean(axis=0)
        return np.einsum("nd,de,ne->", moved, inverse, moved) / len(flat)

    oblique = change(rivals.leace(means, covariance, n))
    # n whitened directions of unit variance go, and nothing else changes.
    assert oblique == pytest.approx(n, rel=1e-2)
    assert oblique < change(rivals.position_basis(means, n))


def test_leace_with_a_singular_covariance_stays_finite(means, covariance):
    covariance = covariance.copy()
    covariance[:, -3:] = covariance[-3:] = 0
    assert torch.isfinite(rivals.leace(means, covariance, 5).weight).all()


def test_the_first_rasa_pair_is_that_of_a_regression_on_tokens(tokens, means):
    flat = tokens.reshape(-1, N_CHANNELS)
    exact = np.cov(flat.T, bias=True)
    places = np.broadcast_to(np.moveaxis(np.indices(GRID), 0, -1), (*tokens.shape[:3], 2))
    fit = LinearRegression().fit(flat, places.reshape(-1, 2))
    pair = np.linalg.qr(fit.coef_.T)[0]
    head = rivals.rasa(means, exact, 1)
    np.testing.assert_allclose(head.weight, np.eye(N_CHANNELS) - pair @ pair.T, atol=1e-5)


def test_rounds_of_rasa_leave_less_and_less_to_regress(tokens, means, covariance):
    flat = tokens.reshape(-1, N_CHANNELS)
    places = np.broadcast_to(np.moveaxis(np.indices(GRID), 0, -1), (*tokens.shape[:3], 2))
    found = []
    for n_rounds in (0, 1, 2, 4):
        head = rivals.rasa(means, covariance, n_rounds)
        assert round(float(head.weight.trace())) == N_CHANNELS - 2 * n_rounds
        left = apply(head, tokens).reshape(flat.shape)
        regression = LinearRegression().fit(left, places.reshape(-1, 2))
        found.append(regression.score(left, places.reshape(-1, 2)))
    assert found == sorted(found, reverse=True)
    assert found[1] < found[0] - 0.01


def test_insid3_removes_singular_vectors_of_normalised_centred_tokens():
    black = np.random.default_rng(1).standard_normal((*GRID, 8)) + 3
    tokens = black.reshape(-1, 8)
    tokens = tokens / np.linalg.norm(tokens, axis=1)[:, None]
    left, _, _ = np.linalg.svd((tokens - tokens.mean(axis=0)).T)
    expected = np.eye(8) - left[:, :3] @ left[:, :3].T
    np.testing.assert_allclose(rivals.insid3(black, 3).weight, expected, atol=1e-6)


def test_nulls_remove_components(tokens):
    moments = Moments(N_CHANNELS).update(tokens)
    pca = fit_pca(moments)
    left = apply(rivals.strongest_components(pca, 4), tokens).reshape(-1, N_CHANNELS)
    total = np.trace(np.cov(left.T)) / pca.explained_variance.sum()
    share = pca.explained_variance[4:].sum() / pca.explained_variance.sum()
    assert total == pytest.approx(share, rel=1e-4)
    drawn = [rivals.random_components(pca, 4, seed).weight for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])


def test_centred_heads_keep_the_mean(tokens, means, covariance):
    mean = means.mean(axis=(0, 1))
    for head in (
        rivals.position_basis(means, 5, centred=True),
        rivals.leace(means, covariance, 5, centred=True),
        rivals.rasa(means, covariance, 3, centred=True),
    ):
        np.testing.assert_allclose(apply(head, mean), mean, atol=1e-5)


def test_a_position_mean_is_subtracted_where_it_stands(tokens, means):
    left = rivals.subtract_position_mean(tokens, means)
    assert spread(left) < 1e-20 * tokens.size
    np.testing.assert_allclose(left.mean(axis=(0, 1, 2)), tokens.mean(axis=(0, 1, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, c: rivals.position_basis(m, 20), "0 to 19"),
        (lambda m, c: rivals.position_basis(m, -1), "0 to 19"),
        (lambda m, c: rivals.position_basis(m[0], 1), "row, column, channel"),
        (lambda m, c: rivals.position_basis(m * np.nan, 1), "NaN"),
        (lambda m, c: rivals.leace(m, c[:3], 1), "covariance"),
        (lambda m, c: rivals.rasa(m, c, 16), "32 directions"),
        (lambda m, c: rivals.insid3(m * 0, 1), "length 0"),
        (lambda m, c: rivals.subtract_position_mean(m[:2], m), "grid"),
    ],
)
def test_bad_input_is_one_sentence(means, covariance, call, message):
    with pytest.raises(InputError, match=message):
        call(means, covariance)
