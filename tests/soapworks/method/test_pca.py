import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from soapworks.errors import CollapsedFeaturesError, InputError
from soapworks.method.moments import Moments
from soapworks.method.pca import Pca, fit_pca


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((900, 12)) @ rng.standard_normal((12, 12))
    return mixed + rng.uniform(-9, 9, 12)


def test_components_are_those_of_scikit_learn(tokens):
    pca = fit_pca(Moments(12).update(tokens))
    expected = PCA(svd_solver="full").fit(tokens)
    np.testing.assert_allclose(pca.explained_variance, expected.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(pca.mean, expected.mean_, rtol=1e-12)
    cosines = np.abs(np.sum(pca.components * expected.components_, axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-12)
    assert pca.count == 900


def test_components_are_orthonormal_rows_by_descending_variance(tokens):
    pca = fit_pca(Moments(12).update(tokens))
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(12), atol=1e-13)
    variance = ((tokens - tokens.mean(axis=0)) @ pca.components.T).var(axis=0, ddof=1)
    np.testing.assert_allclose(variance, pca.explained_variance, rtol=1e-10)
    assert np.all(np.diff(pca.explained_variance) <= 0)


def test_signs_are_fixed_by_the_largest_entry(tokens):
    pca = fit_pca(Moments(12).update(tokens))
    mirrored = fit_pca(Moments(12).update(2 * tokens.mean(axis=0) - tokens))
    largest = np.abs(pca.components).argmax(axis=1)
    assert np.all(pca.components[np.arange(12), largest] > 0)
    np.testing.assert_allclose(mirrored.components, pca.components, atol=1e-9)


def test_of_equal_entries_the_first_one_is_positive():
    tokens = np.array([[1.0, -1.0], [-1.0, 1.0], [2.0, -2.0], [-2.0, 2.0]])
    pca = fit_pca(Moments(2).update(tokens))
    np.testing.assert_allclose(pca.components[0], [np.sqrt(0.5), -np.sqrt(0.5)], atol=1e-15)


def test_rounding_never_leaves_a_negative_variance():
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((50, 3)) @ rng.standard_normal((3, 30))
    pca = fit_pca(Moments(30).update(flat))
    assert pca.explained_variance.min() >= 0
    np.testing.assert_allclose(pca.explained_variance[3:], 0, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_tokens_are_refused(n):
    with pytest.raises(InputError, match=f"a PCA needs at least 2 tokens, and {n} were seen"):
        fit_pca(Moments(3).update(np.ones((n, 3))))


def test_a_pca_is_frozen_and_its_shapes_belong_together():
    pca = Pca(np.zeros(2), np.eye(2, dtype=np.float32), np.ones(2), 9)
    assert pca.components.dtype == np.float64
    assert pca.n_channels == 2
    with pytest.raises(AttributeError):
        pca.count = 3
    with pytest.raises(InputError, match=r"\(3, 3\)"):
        Pca(np.zeros(2), np.eye(3), np.ones(2), 9)


def layer_normed(rng):
    """Tokens of a layer norm in float32: one direction has no variance but rounding."""
    x = torch.from_numpy(rng.standard_normal((4000, 32)).astype("f4"))
    weight = torch.from_numpy(rng.uniform(0.5, 2, 32).astype("f4"))
    return torch.nn.functional.layer_norm(x, (32,), weight, torch.ones(32)).numpy()


def twice(rng):
    half = rng.standard_normal((4000, 16)).astype("f4")
    return np.concatenate([half, half], axis=1)


def twice_massive(rng):
    tokens = twice(rng)
    tokens[:, [3, 19]] += 3000
    tokens[:, [5, 21]] *= 100
    return tokens


def few(rng):
    return rng.standard_normal((10, 32)).astype("f4") + 5


def few_repeated(rng):
    return np.repeat(few(rng), 400, axis=0)


def dead_channels(rng):
    tokens = rng.standard_normal((4000, 32)).astype("f4")
    tokens[:, 20:] = 30.1
    return tokens


RANKS = {
    layer_normed: 31,
    twice: 16,
    twice_massive: 16,
    few: 9,
    few_repeated: 9,
    dead_channels: 20,
}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("make", RANKS)
def test_directions_without_variance_have_none(make, precision):
    moments = Moments(32, precision=precision).update(make(np.random.default_rng(0)))
    assert np.count_nonzero(fit_pca(moments).explained_variance) == RANKS[make]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("spread", [1e-3, 1e-7, 1e4])
def test_weak_components_keep_their_variance(spread, precision):
    # Deviations over three powers of ten, on means that are large beside them.
    deviations = spread * np.geomspace(1, 1e-3, 24)
    tokens = np.random.default_rng(0).standard_normal((4000, 24)) * deviations + 30 * spread
    pca = fit_pca(Moments(24, precision=precision).update(tokens.astype("f4")))
    assert (pca.explained_variance > 0).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    "tokens",
    [
        np.zeros((500, 8), "f4"),
        np.full((500, 8), 30.1, "f4"),
        np.tile(np.geomspace(1e-6, 1e6, 8, dtype="f4"), (500, 1)),
        # One unit in the last place, as products give that are summed in another order.
        np.where(
            np.arange(4000).reshape(500, 8) % 3, np.float32(30), np.nextafter(np.float32(30), 0)
        ),
    ],
    ids=["zero", "constant", "constant by channel", "last place"],
)
def test_features_that_do_not_vary_are_an_error(tokens, precision):
    with pytest.raises(CollapsedFeaturesError, match="8 channels are constant over 500 tokens"):
        fit_pca(Moments(8, precision=precision).update(tokens))


def test_one_varying_channel_is_enough():
    tokens = np.full((500, 8), 3000, "f4")
    tokens[:, 3] = np.random.default_rng(0).normal(1, 1e-3, 500)
    assert np.count_nonzero(fit_pca(Moments(8).update(tokens)).explained_variance) == 1


def test_float64_tokens_may_vary_below_the_rounding_of_float32():
    tokens = np.random.default_rng(0).standard_normal((500, 4)) + 1e8
    with pytest.raises(CollapsedFeaturesError):
        fit_pca(Moments(4).update(tokens))
    assert fit_pca(Moments(4).update(tokens), rounding=1e-15).explained_variance.all()


@pytest.mark.parametrize(
    "change",
    [
        {"components": np.zeros((3, 3))},
        {"components": np.full((3, 3), np.nan)},
        {"mean": [0, np.inf, 0]},
        {"explained_variance": [1, 0, np.nan]},
        {"explained_variance": [1, 0, -1]},
    ],
)
def test_components_that_would_count_nothing_are_refused(change):
    parts = {"mean": np.zeros(3), "components": np.eye(3), "explained_variance": np.ones(3)}
    with pytest.raises(InputError, match="again"):
        Pca(**{**parts, **change}, count=9)


def test_rounding_of_either_sign_is_no_variance():
    # In float32 the direction that a norm takes comes out above 0 as often as below.
    for seed in range(12):
        tokens = layer_normed(np.random.default_rng(seed))
        variance = fit_pca(Moments(32, precision="float32").update(tokens)).explained_variance
        assert np.count_nonzero(variance) == 31
