"""Agreement with the published implementation's numbers (tests/conformance)."""

from pathlib import Path

import numpy as np
import pytest
import torch

import soapworks

CASES = sorted((Path(__file__).parents[1] / "conformance").glob("case_*.npz"))
KINDS = {
    "default": (2, 0.05),
    "soft": (1.5, 0.2),
    "wide": (5, 0.5),
    "threshold": ("threshold", 0.2),
}


class Case:
    def __init__(self, path, kind):
        with np.load(path) as file:
            self.expected = dict(file)
        n_rows, n_columns = self.expected["grid"]
        shape = (-1, n_rows, n_columns, self.expected["real"].shape[-1])
        self.real = self.expected["real"].reshape(shape)
        self.synthetic = self.expected["synthetic"].reshape(shape)
        if kind == "torch":
            self.real, self.synthetic = map(torch.from_numpy, (self.real, self.synthetic))
        self.moments = soapworks.Moments(shape[-1])
        for images in (self.real[:11], self.real[11:]):
            self.moments.update(images)
        self.pca = soapworks.fit_pca(self.moments)
        self.counts = [soapworks.count_responses(t, self.pca) for t in (self.real, self.synthetic)]
        self.scores = soapworks.score_components(
            self.counts[0], len(self.real), self.counts[1], len(self.synthetic)
        )


@pytest.fixture(
    scope="module",
    params=[(path, kind) for path in CASES for kind in ("numpy", "torch")],
    ids=lambda parameter: f"{parameter[0].stem}-{parameter[1]}",
)
def case(request):
    return Case(*request.param)


def test_there_are_cases():
    assert len(CASES) >= 2


def test_moments(case):
    assert case.moments.count == case.expected["count"]
    np.testing.assert_allclose(case.moments.mean, case.expected["mean"], rtol=1e-9)
    covariance = case.expected["covariance"]
    limit = 1e-9 * np.abs(covariance).max()
    np.testing.assert_allclose(case.moments.covariance, covariance, rtol=1e-9, atol=limit)


def test_eigenvalues(case):
    expected = case.expected["explained_variance"]
    np.testing.assert_allclose(case.pca.explained_variance, expected, rtol=1e-9)


def test_responses(case):
    deviation = np.sqrt(case.expected["explained_variance"])
    agreements = []
    for domain, tokens, counts in (
        ("real", case.real, case.counts[0]),
        ("synthetic", case.synthetic, case.counts[1]),
    ):
        response = (np.asarray(tokens, np.float64) - case.pca.mean) @ case.pca.components.T
        near = (np.abs(response) < 1e-5 * deviation).sum(axis=0)
        expected = np.rint(case.expected[f"response_{domain}"] * len(tokens))
        # Their signs are not known: a component may be turned over, then in both domains.
        agreements.append(
            [
                (np.abs(sign - expected) <= near).all(axis=(0, 1))
                for sign in (counts, len(tokens) - counts)
            ]
        )
    upright, turned = np.logical_and(*agreements)
    assert (upright | turned).all()


def test_scores(case):
    np.testing.assert_allclose(case.scores, case.expected["score"], atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_projectors(case, kind):
    mu, tau = KINDS[kind]
    weights = soapworks.suppression_weights(case.scores, mu=mu, tau=tau)
    np.testing.assert_allclose(weights, case.expected[f"weight_{kind}"], atol=1e-8)
    compare_projector(case, weights, case.expected[f"projector_{kind}"])


def test_projector_of_plain_scores(case):
    compare_projector(case, case.scores, case.expected["projector_plain_scores"])


def compare_projector(case, weights, expected):
    exact = np.eye(len(weights)) - case.pca.components.T @ np.diag(weights) @ case.pca.components
    np.testing.assert_allclose(exact, expected, atol=1e-8)
    # The head rounds it once, to float32.
    head = soapworks.SoapHead.from_pca(case.pca, weights)
    np.testing.assert_allclose(head.weight.numpy(), expected, rtol=6e-8, atol=1.1e-8)


def test_moments_in_float32_lead_to_scores_as_good(case):
    moments = soapworks.Moments(case.pca.n_channels, precision="float32").update(case.real)
    pca = soapworks.fit_pca(moments)
    counts = [soapworks.count_responses(t, pca) for t in (case.real, case.synthetic)]
    scores = soapworks.score_components(counts[0], len(case.real), counts[1], len(case.synthetic))
    np.testing.assert_allclose(scores, case.expected["score"], atol=3e-3)


def test_the_order_of_images_does_not_matter(case):
    order = np.random.default_rng(0).permutation(len(case.real))
    counts = soapworks.count_responses(case.real[order], case.pca)
    np.testing.assert_array_equal(counts, case.counts[0])
    moments = soapworks.Moments(case.pca.n_channels).update(case.real[order])
    np.testing.assert_allclose(
        soapworks.fit_pca(moments).explained_variance, case.pca.explained_variance, rtol=1e-9
    )
