"""Is a difference real? Paired bootstrap over images."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from soapworks.errors import InputError

LEVEL = 0.95
"""Confidence of the intervals."""

N_RESAMPLES = 10_000

_Z = 1.959964
"""Standard errors from the middle of a normal interval of this level to its end."""


@dataclass(frozen=True)
class Comparison:
    """The mean difference of paired measurements, with its interval."""

    difference: float
    """Mean of the head's value less the raw one's."""
    low: float
    high: float
    """Ends of the 95 % interval (percentile bootstrap over groups)."""
    n_groups: int
    """Images, or groups of them, that were drawn."""
    n_needed: int | None
    """Groups with which half this difference could be seen; None where the difference is 0."""

    @property
    def verdict(self) -> Literal["helps", "hurts", "cannot be told"]:
        """The summary's word: by the side of 0 on which the whole interval lies."""
        if self.low > 0:
            return "helps"
        return "hurts" if self.high < 0 else "cannot be told"


def compare(
    raw: ArrayLike, head: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0
) -> Comparison:
    """Compare two measurements of the same images.

    Whole groups are drawn with replacement: pairs of crops of one picture, or images of one
    scene, are no independent observations. A percentile interval of few groups is too short; below
    some 20 treat the verdict as a hint.

    Parameters
    ----------
    raw, head
        (image,): the measure of each image without and with the head; larger is better.
    groups
        (image,): group of each image, any labels; each image its own by default.
    seed
        Seed of the resampling.

    Raises
    ------
    InputError
        For lengths that differ, fewer than two groups, NaN or infinity.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.

    Examples
    --------
    >>> raw = np.linspace(0.4, 0.6, 50)
    >>> compare(raw, raw + 0.1).verdict
    'helps'
    """
    before, after = np.asarray(raw, np.float64), np.asarray(head, np.float64)
    if before.ndim != 1 or before.shape != after.shape:
        raise InputError(f"give two lists of equal length, not {before.shape} and {after.shape}")
    return compare_each(before[None], after[None], groups=groups, seed=seed)[0]


def compare_each(
    raw: ArrayLike, head: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0
) -> list[Comparison]:
    """Compare many pairs of measurements of the same images.

    Each is compared as :func:`compare` does it; the groups are drawn once for all of them.

    Parameters
    ----------
    raw, head
        (pair, image): the measure of each image without and with a head.
    groups, seed
        As for :func:`compare`.

    Raises
    ------
    InputError
        As for :func:`compare`.

    Examples
    --------
    >>> raw = np.linspace(0.4, 0.6, 50)
    >>> [one.verdict for one in compare_each([raw, raw], [raw + 0.1, raw - 0.1])]
    ['helps', 'hurts']
    """
    before, after = np.asarray(raw, np.float64), np.asarray(head, np.float64)
    if before.ndim != 2 or before.shape != after.shape:
        raise InputError(f"give two tables of equal shape, not {before.shape} and {after.shape}")
    differences = after - before
    if not np.isfinite(differences).all():
        raise InputError("the measurements hold NaN or infinity; leave those images out of both")
    n_images = before.shape[1]
    labels = np.arange(n_images) if groups is None else np.asarray(groups)
    if labels.shape != (n_images,):
        raise InputError(f"groups has the shape {labels.shape} for {n_images} images")
    _, of_image = np.unique(labels, return_inverse=True)
    sizes = np.bincount(of_image)
    n_groups = len(sizes)
    if n_groups < 2:
        raise InputError(f"an interval needs 2 independent images, not {n_groups}")
    sums = np.stack([np.bincount(of_image, row) for row in differences], axis=1)
    rng = np.random.default_rng(seed)
    # How often each group is drawn is all that counts; some at a time, for bounded memory.
    chunk = max(1, 1_000_000 // n_groups)
    means = np.concatenate(
        [
            (drawn @ sums) / (drawn @ sizes)[:, None]
            for start in range(0, N_RESAMPLES, chunk)
            for drawn in (
                rng.multinomial(
                    n_groups,
                    np.full(n_groups, 1 / n_groups),
                    size=min(chunk, N_RESAMPLES - start),
                ),
            )
        ]
    )
    ends = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    found = []
    for values, of_pair, low, high in zip(differences, means.T, *ends, strict=True):
        mean = float(values.mean())
        spread = float(of_pair.std()) * math.sqrt(n_groups)
        needed = math.ceil((_Z * spread / (abs(mean) / 2)) ** 2) if mean else None
        found.append(Comparison(mean, float(low), float(high), n_groups, needed))
    return found
