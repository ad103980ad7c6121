import numpy as np
import pytest
from sklearn.decomposition import PCA

from soapworks.errors import InputError
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
