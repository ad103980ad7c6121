"""Is a difference real? Paired bootstrap over images.

The rule of the three words: a head *helps* in a measure where the whole 95 % percentile interval
of the paired difference lies on the better side of 0, *hurts* where it lies on the worse side, and
else it *cannot be told*. Each comparison stands for itself, without correction for their number: of
100 heads that do nothing, about five get a sign. Read a lone sign in a large table as a hint, and
ask whether neighbouring layers, other seeds and a second set of images agree.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError

LEVEL = 0.95
"""Confidence of the intervals."""

N_RESAMPLES = 10_000

Verdict = Literal["helps", "hurts", "cannot be told"]

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
    larger_is_better: bool = True

    @property
    def verdict(self) -> Verdict:
        """The summary's word: by the side of 0 on which the whole interval lies."""
        if self.low > 0:
            return "helps" if self.larger_is_better else "hurts"
        if self.high < 0:
            return "hurts" if self.larger_is_better else "helps"
        return "cannot be told"


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
    of_image, n_groups = _grouped(groups, before.shape[1])
    sizes = np.bincount(of_image)
    sums = np.stack([np.bincount(of_image, row) for row in differences], axis=1)
    means = np.concatenate(
        [(drawn @ sums) / (drawn @ sizes)[:, None] for drawn in _draws(n_groups, 1, seed)]
    )
    return [
        _comparison(float(values.mean()), of_pair, n_groups)
        for values, of_pair in zip(differences, means.T, strict=True)
    ]


def compare_sums(
    raw: ArrayLike,
    head: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], ArrayLike],
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare a statistic of sums over images, such as a mean IoU.

    A mean IoU over classes or the largest mean F-measure over thresholds is no mean of values of
    single images, but it is a function of sums over images: those are drawn anew, and the statistic
    is computed of each draw.

    Parameters
    ----------
    raw, head
        (image, column): what is summed over images, without and with the head.
    statistic
        Sums (..., column) -> (...); larger is better.
    groups, seed
        As for :func:`compare`.

    Raises
    ------
    InputError
        As for :func:`compare`, and where the statistic of all images is undefined.

    Examples
    --------
    >>> overlap, area = np.array([6.0, 1, 5, 2] * 5), np.full(20, 10.0)
    >>> raw, head = np.stack([overlap, area], 1), np.stack([overlap + 2, area], 1)
    >>> found = compare_sums(raw, head, lambda sums: sums[..., 0] / sums[..., 1])
    >>> round(found.difference, 3), found.verdict
    (0.2, 'helps')
    """
    before, after = np.asarray(raw, np.float64), np.asarray(head, np.float64)
    if before.ndim != 2 or before.shape != after.shape:
        raise InputError(f"give two tables of equal shape, not {before.shape} and {after.shape}")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise InputError("the measurements hold NaN or infinity; leave those images out of both")
    of_image, n_groups = _grouped(groups, len(before))
    sums = np.zeros((2, n_groups, before.shape[1]))
    for of_group, table in zip(sums, (before, after), strict=True):
        np.add.at(of_group, of_image, table)

    def difference(of_groups: NDArray[np.float64]) -> NDArray[np.float64]:
        without, with_head = np.asarray(statistic(of_groups), np.float64)
        return np.asarray(with_head - without)

    whole = float(difference(sums.sum(axis=1)))
    if not math.isfinite(whole):
        raise InputError("the measure of all images together is undefined")
    drawn_differences = np.concatenate(
        [
            difference(np.matmul(drawn.astype(np.float64), sums))
            for drawn in _draws(n_groups, before.shape[1], seed)
        ]
    )
    # A draw of groups in which nothing counts says nothing.
    kept = drawn_differences[np.isfinite(drawn_differences)]
    return _comparison(whole, kept, n_groups)


def _grouped(groups: ArrayLike | None, n_images: int) -> tuple[NDArray[np.int64], int]:
    """Return the number of each image's group, and how many groups there are."""
    labels = np.arange(n_images) if groups is None else np.asarray(groups)
    if labels.shape != (n_images,):
        raise InputError(f"groups has the shape {labels.shape} for {n_images} images")
    names, of_image = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"an interval needs 2 independent images, not {len(names)}")
    return of_image.astype(np.int64), len(names)


def _draws(n_groups: int, n_columns: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield (resample, group), how often each group is drawn; some at a time, for memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, 1_000_000 // max(n_groups, n_columns))
    for start in range(0, N_RESAMPLES, chunk):
        size = min(chunk, N_RESAMPLES - start)
        yield rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=size)


def _comparison(difference: float, drawn: NDArray[np.float64], n_groups: int) -> Comparison:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    spread = float(drawn.std()) * math.sqrt(n_groups)
    needed = math.ceil((_Z * spread / (abs(difference) / 2)) ** 2) if difference else None
    return Comparison(difference, float(low), float(high), n_groups, needed)
