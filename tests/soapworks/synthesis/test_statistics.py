"""The authors' images, as measured on 768 of theirs, against a sample of ours.

Both are finite samples of the same law, so each statistic may differ by its sampling error and no
more. Images are independent, pixels are not: every statistic is written as a mean over images of
one number per image (for a standard deviation, its linearisation; for a quantile, the share of
pixels below the reference's quantile, which should be the quantile's level), and its error is
s * sqrt(1/n_ours + 1/n_theirs) with s the deviation of that number between images of ours. The
limit on |difference| / error leaves a chance of 1 in 1000 that any of all comparisons exceeds it.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.stats

from soapworks.synthesis.images import KINDS, synthesize

REFERENCE = np.load(Path(__file__).parents[2] / "conformance" / "noise_statistics.npz")
N_OURS = 256
N_THEIRS, N_THEIRS_PIXELS, N_THEIRS_CORRELATION = 768, 192, 256
SIZE = 224
N_RINGS = SIZE // 2
LEVELS = REFERENCE["quantiles"]
# Saturated and unmodulated pixels are atoms of the pixels' law; a quantile there is the atom's
# value up to rounding.
ROUNDING = 1e-4

N_COMPARISONS = len(KINDS) * (3 + 3 + 2 * len(LEVELS) + len(LEVELS) + 3 + N_RINGS - 1)
LIMIT = scipy.stats.norm.isf(0.001 / N_COMPARISONS / 2)


@cache
def measured(kind: str) -> dict[str, np.ndarray]:
    """Numbers of each image of ours, first axis images."""
    found: dict[str, list[np.ndarray]] = {}
    frequency = scipy.fft.fftfreq(SIZE, 1 / SIZE)
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int).ravel()
    n_in_ring = np.bincount(ring)[:N_RINGS]
    pixel_quantiles = REFERENCE[f"{kind}_pixel_quantiles"]
    for index in range(N_OURS):
        image = synthesize([index], SIZE, kind=kind)[0]
        flat = image.reshape(3, -1).astype(np.float64)
        centred = image - image.mean(axis=(1, 2), keepdims=True)
        power = np.abs(scipy.fft.fft2(centred, norm="ortho")) ** 2
        rings = np.bincount(ring, weights=power.mean(axis=0).ravel())[:N_RINGS] / n_in_ring
        numbers = {
            "mean": flat.mean(axis=1),
            "square": (flat**2).mean(axis=1),
            "below": np.array([(image < q - ROUNDING).mean() for q in pixel_quantiles]),
            "up_to": np.array([(image < q + ROUNDING).mean() for q in pixel_quantiles]),
            "std": flat.std(),
            "correlation": np.corrcoef(flat)[np.triu_indices(3, 1)],
            "radial_power": rings,
        }
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def excess(ours: np.ndarray, reference: np.ndarray, n_theirs: int) -> tuple[np.ndarray, np.ndarray]:
    """How far the mean over images is above the reference, and how far it may be off."""
    error = ours.std(axis=0, ddof=1) * np.sqrt(1 / len(ours) + 1 / n_theirs)
    return ours.mean(axis=0) - reference, LIMIT * error


@pytest.mark.parametrize("kind", KINDS)
def test_channel_means(kind):
    off, limit = excess(measured(kind)["mean"], REFERENCE[f"{kind}_channel_mean"], N_THEIRS)
    assert (np.abs(off) < limit).all()


@pytest.mark.parametrize("kind", KINDS)
def test_channel_deviations(kind):
    mean, square = measured(kind)["mean"], measured(kind)["square"]
    centre = mean.mean(axis=0)
    deviation = np.sqrt(square.mean(axis=0) - centre**2)
    # sqrt(E[x^2] - E[x]^2) to first order in the image's own moments.
    linear = deviation + (square - 2 * centre * mean + centre**2 - deviation**2) / (2 * deviation)
    off, limit = excess(linear, REFERENCE[f"{kind}_channel_std"], N_THEIRS)
    assert (np.abs(off) < limit).all()


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_quantiles(kind):
    # With an atom at the quantile the level lies between the shares below and up to it.
    above, limit_below = excess(measured(kind)["below"], LEVELS, N_THEIRS_PIXELS)
    assert (above < limit_below).all()
    above, limit_up_to = excess(measured(kind)["up_to"], LEVELS, N_THEIRS_PIXELS)
    assert (above > -limit_up_to).all()


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_of_image_deviations(kind):
    reference = REFERENCE[f"{kind}_image_std_quantiles"]
    share = (measured(kind)["std"][:, None] <= reference).mean(axis=0)
    # Counts of images are binomial, and each sample's quantile sits between two of its images.
    error = np.sqrt(LEVELS * (1 - LEVELS) * (1 / N_OURS + 1 / N_THEIRS))
    step = 1 / N_OURS + 1 / N_THEIRS
    assert (np.abs(share - LEVELS) < LIMIT * error + step).all()


@pytest.mark.parametrize("kind", KINDS)
def test_correlation_of_channels(kind):
    reference = REFERENCE[f"{kind}_channel_correlation"][np.triu_indices(3, 1)]
    off, limit = excess(measured(kind)["correlation"], reference, N_THEIRS_CORRELATION)
    assert (np.abs(off) < limit).all()


@pytest.mark.parametrize("kind", KINDS)
def test_radial_power(kind):
    # Ring 0 holds the mean alone, which was taken away.
    ours, reference = measured(kind)["radial_power"], REFERENCE[f"{kind}_radial_power"]
    off, limit = excess(ours[:, 1:], reference[1:], N_THEIRS)
    assert (np.abs(off) < limit).all()
