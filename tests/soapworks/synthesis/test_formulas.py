"""Closed forms: the ingredients of the noise as section 1 of docs/method.md defines them."""

import numpy as np
import pytest
import scipy.fft
import scipy.stats
import torch

from soapworks.synthesis import _numpy as _noise_numpy
from soapworks.synthesis import _torch as _noise_torch
from soapworks.synthesis._arguments import checked_recipe
from soapworks.synthesis._noise import dct_matrix, planes
from soapworks.synthesis._noise import weights as weights_of
from soapworks.synthesis._numpy import NumpyRenderer, _pink_fields
from soapworks.synthesis.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SPECS,
    synthesize,
)

MEAN = np.array(IMAGENET_MEAN)[:, None, None]
STD = np.array(IMAGENET_STD)[:, None, None]
# Every seed here is fixed: a p-value below this is a wrong law, not bad luck.
P_VALUE = 1e-4


def gradients_in_pixel_space(spec, n, size):
    return synthesize(range(n), size, kind="gradient", spec=spec, seed=5) * STD + MEAN


@pytest.mark.parametrize("size", [2, 7, 224])
def test_dct_matrix_is_orthonormal_and_scipys(size):
    matrix = dct_matrix(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=2e-6)
    field = np.random.default_rng(0).normal(size=(size, size))
    oracle = scipy.fft.idctn(field, norm="ortho")
    np.testing.assert_allclose(matrix.T @ field @ matrix, oracle, atol=1e-5)


@pytest.mark.parametrize("size", [6, 7])
def test_pink_field_is_the_filtered_transform_of_white_noise(size):
    white = np.random.default_rng(1).normal(size=(2, size, size))
    n = np.arange(size)
    for field, found in zip(
        white,
        _pink_fields(scipy.fft.dctn(white, axes=(1, 2), norm="ortho").astype("f4")),
        strict=True,
    ):
        expected = np.zeros((size, size))
        for i in range(size):
            for j in range(size):
                basis = np.outer(
                    np.cos(np.pi * (2 * n + 1) * i / (2 * size)) * np.sqrt((2 - (i == 0)) / size),
                    np.cos(np.pi * (2 * n + 1) * j / (2 * size)) * np.sqrt((2 - (j == 0)) / size),
                )
                factor = 1 if i == j == 0 else 1 / np.sqrt(i**2 + j**2)
                expected += factor * (field * basis).sum() * basis
        np.testing.assert_allclose(found, expected / expected.std(), atol=1e-5)


def test_pink_has_unit_deviation_and_keeps_its_mean():
    pink = synthesize(range(64), 64, kind="pink", seed=5).astype(np.float64)
    np.testing.assert_allclose(pink.std(axis=(2, 3)), 1, atol=1e-5)
    # Its law: the (0, 0) coefficient is N(0, 1), the others' squares sum to (64 std)^2.
    assert pink.mean(axis=(2, 3)).std() > 0.1


def test_power_of_pink_noise_falls_with_the_square_of_frequency():
    size = 128
    power = scipy.fft.dctn(synthesize(range(16), size, kind="pink"), axes=(2, 3), norm="ortho") ** 2
    i = np.arange(size)
    frequency = np.hypot(i[:, None], i[None, :])
    inside = (frequency > 4) & (frequency < size)
    # A mean of m squared normals has a relative error of sqrt(2 / m), which is that of its log.
    log_power = np.log(power.mean(axis=(0, 1))[inside])
    n_squares = power.shape[0] * power.shape[1]
    log_frequency = np.log(frequency[inside])
    slope = np.polyfit(log_frequency, log_power, 1)[0]
    error = np.sqrt(2 / n_squares / inside.sum()) / log_frequency.std()
    assert abs(slope + 2) < 5 * error
    assert error < 0.01


def test_normals_are_normal_and_independent():
    renderer = NumpyRenderer(checked_recipe("authors", 0, 201))
    fields = np.empty((4, 201, 201), dtype=np.float32)
    renderer._draw_normals(1, 7, fields)
    assert scipy.stats.kstest(fields.ravel(), "norm").pvalue > P_VALUE
    n_pairs = 201**2 // 2
    flat = fields.reshape(4, -1)
    cosines, sines = flat[:, :n_pairs], flat[:, -n_pairs:]
    correlation = np.corrcoef(np.concatenate([cosines, sines, cosines**2, sines**2]))
    assert np.abs(correlation - np.eye(16)).max() < 5 / np.sqrt(n_pairs)


def test_normals_have_tails():
    renderer = NumpyRenderer(checked_recipe("authors", 0, 1000))
    fields = np.empty((4, 1000, 1000), dtype=np.float32)
    renderer._draw_normals(1, 0, fields)
    for threshold in (3, 4, 4.5):
        expected = 2 * scipy.stats.norm.sf(threshold) * fields.size
        assert abs((np.abs(fields) > threshold).sum() - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("word", [0, 2**32 - 1, 2**63, 2**64 - 1])
def test_extreme_words_give_finite_normals(monkeypatch, word):
    class Constant:
        def random_raw(self, n):
            return np.full(n, word, dtype=np.uint64)

    monkeypatch.setattr(_noise_numpy, "generator", lambda *_: Constant())
    found = np.empty((1, 4, 4), dtype=np.float32)
    NumpyRenderer(checked_recipe("authors", 0, 4))._draw_normals(1, 0, found)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 6.8
    raw = torch.from_numpy(np.full((1, 8), word, dtype=np.uint64).view(np.int64))
    np.testing.assert_allclose(_noise_torch._normals(raw, 1, 4)[0], found, atol=1e-5)


def test_weights_follow_their_dirichlet_law():
    recipe = checked_recipe("authors", 5, 2)
    weights = np.stack([weights_of(recipe, i) for i in range(4000)])
    for column, (alpha, beta) in enumerate([(1, 3), (1, 3), (2, 2)]):
        assert scipy.stats.kstest(weights[:, column], "beta", (alpha, beta)).pvalue > P_VALUE


def test_authors_gradients_are_clipped_planes():
    recipe = checked_recipe("authors", 5, 9)
    for index, image in enumerate(gradients_in_pixel_space("authors", 50, 9)):
        a, b, c = planes(recipe, index).T
        np.testing.assert_allclose(image[:, 0, 0], c, atol=1e-6)
        np.testing.assert_allclose(image[:, 0, -1], np.minimum(a + c, 1), atol=1e-6)
        np.testing.assert_allclose(image[:, -1, 0], np.minimum(b + c, 1), atol=1e-6)
        np.testing.assert_allclose(image[:, -1, -1], np.minimum(a + b + c, 1), atol=1e-6)
        np.testing.assert_allclose(image[:, 4, 2], np.minimum(a / 4 + b / 2 + c, 1), atol=1e-6)


def test_authors_slopes_and_offsets_are_uniform():
    recipe = checked_recipe("authors", 5, 9)
    parameters = np.stack([planes(recipe, i) for i in range(1500)]).reshape(-1, 9)
    for column in parameters.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > P_VALUE
    correlation = np.corrcoef(parameters.T) - np.eye(9)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(parameters))


def test_balanced_gradients_are_unclipped_planes():
    pixels = gradients_in_pixel_space("balanced", 300, 9)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    corners = pixels[:, :, 0, 0] + pixels[:, :, -1, -1], pixels[:, :, 0, -1] + pixels[:, :, -1, 0]
    np.testing.assert_allclose(corners[0], corners[1], atol=1e-5)
    along_columns = np.diff(pixels, axis=2)
    np.testing.assert_allclose(
        along_columns, along_columns[:, :, :1, :1] + 0 * along_columns, atol=1e-5
    )


def test_balanced_slopes_fill_their_square():
    recipe = checked_recipe("balanced", 5, 9)
    a, b, c = np.stack([planes(recipe, i) for i in range(1000)]).reshape(-1, 3).T
    uniform = scipy.stats.uniform(-1, 2)
    assert scipy.stats.kstest(a + b, uniform.cdf).pvalue > P_VALUE
    assert scipy.stats.kstest(a - b, uniform.cdf).pvalue > P_VALUE
    half_range = (np.abs(a) + np.abs(b)) / 2
    room = (c + (a + b) / 2 - half_range) / (1 - 2 * half_range)
    assert scipy.stats.kstest(room, "uniform").pvalue > P_VALUE


def rise(images):
    """How much brighter right is than left and bottom than top, (n, 2), and their z-scores."""
    half = images.shape[-1] // 2
    grey = images.mean(axis=1)
    right = grey[:, :, half:].mean(axis=(1, 2)) - grey[:, :, :half].mean(axis=(1, 2))
    down = grey[:, half:].mean(axis=(1, 2)) - grey[:, :half].mean(axis=(1, 2))
    both = np.stack([right, down], axis=1)
    return both, both.mean(axis=0) / (both.std(axis=0) / np.sqrt(len(both)))


@pytest.mark.parametrize("kind", ["gradient", "mixture"])
def test_authors_images_brighten_to_the_right_and_down(kind):
    assert rise(synthesize(range(1000), 16, kind=kind))[1].min() > 10


@pytest.mark.parametrize("kind", ["gradient", "mixture"])
def test_balanced_images_have_no_direction(kind):
    differences, z = rise(synthesize(range(1000), 16, kind=kind, spec="balanced"))
    assert np.abs(z).max() < 4
    n_rising = (differences > 0).sum(axis=0)
    assert all(scipy.stats.binomtest(int(n), len(differences)).pvalue > P_VALUE for n in n_rising)


def test_balanced_gradients_centre_on_mid_grey_with_the_authors_contrast():
    pixels = gradients_in_pixel_space("balanced", 1000, 8)
    position_mean = pixels.mean(axis=(0, 1))
    error = pixels.mean(axis=1).std(axis=0) / np.sqrt(len(pixels))
    assert (np.abs(position_mean - 0.5) < 4.5 * error).all()
    deviation = {
        spec: np.median(gradients_in_pixel_space(spec, 1000, 8).std(axis=(1, 2, 3)))
        for spec in SPECS
    }
    assert 0.8 < deviation["balanced"] / deviation["authors"] < 1.25


def test_modulated_white_is_white_noise_under_one_clipped_pink_field():
    images = synthesize(range(64), 64, kind="modulated_white", seed=5).astype(np.float64)
    # Where the shared field is dark enough to clip, the channel is exactly 0; and the darker
    # channel clips wherever the others do, because one field modulates all three.
    zero = images == 0
    thresholds = np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)
    order = np.argsort(-thresholds)  # from the one that clips last
    assert zero.any()
    assert (zero[:, order[0]] <= zero[:, order[1]]).all()
    assert (zero[:, order[1]] <= zero[:, order[2]]).all()
    neighbours = [np.corrcoef(i[:, :, 1:].ravel(), i[:, :, :-1].ravel())[0, 1] for i in images]
    assert abs(np.mean(neighbours)) < 5 * np.std(neighbours) / np.sqrt(len(neighbours))


def test_images_stay_finite():
    assert np.isfinite(synthesize(range(200), 16)).all()
