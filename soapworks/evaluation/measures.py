"""Measures of object masks against ground truth, as the saliency benchmarks define them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError

BETA_SQUARED = 0.3
"""Weight of recall in the F-measure: the benchmarks favour precision."""

N_THRESHOLDS = 255
"""Thresholds of the maximal F-measure, evenly spaced from 0 to 1."""


OVERSHOOT = 0.5
"""How far a refined mask may leave [0, 1]; masks of 0 and 255 are refused."""


def intersection_over_union(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Compute the IoU of two masks; 1 where both are empty.

    Parameters
    ----------
    prediction
        (height, width): a mask, or values from 0 to 1 that are cut at 0.5.
    truth
        (height, width): a mask.

    Examples
    --------
    >>> intersection_over_union([[1, 1, 0, 0]], [[1, 0, 0, 0]])
    0.5
    """
    values, mask = _checked(prediction, truth)
    found = values > 0.5
    union = np.count_nonzero(found | mask)
    return float(np.count_nonzero(found & mask) / union) if union else 1.0


def pixel_accuracy(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Compute the share of pixels on the right side.

    Parameters and shapes as in :func:`intersection_over_union`.

    Examples
    --------
    >>> pixel_accuracy([[1, 1, 0, 0]], [[1, 0, 0, 0]])
    0.75
    """
    values, mask = _checked(prediction, truth)
    return float(np.mean((values > 0.5) == mask))


def max_f_measure(pairs: Iterable[tuple[ArrayLike, ArrayLike]]) -> float:
    """Compute the largest mean F-measure over thresholds.

    At each of 255 thresholds the F-measure (beta squared 0.3) is averaged over images; the result
    is the largest average.

    Parameters
    ----------
    pairs
        (prediction, truth) of each image, shapes as in :func:`intersection_over_union`.

    Raises
    ------
    InputError
        Where there is no pair, or shapes or values do not fit.

    Examples
    --------
    >>> round(max_f_measure([([[1, 1, 0, 0]], [[1, 0, 0, 0]])]), 4)
    0.5652
    """
    curves = [f_curve(prediction, truth) for prediction, truth in pairs]
    if not curves:
        raise InputError("the F-measure of no images is undefined; give one pair or more")
    return float(np.mean(curves, axis=0).max())


def f_curve(prediction: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Compute the F-measure of one image at each threshold.

    Returns
    -------
    ndarray
        (255,) float64; 0 where nothing is found.
    """
    values, mask = _checked(prediction, truth)
    thresholds = np.linspace(0, 1 - 1e-10, N_THRESHOLDS)
    # A pixel is found at every threshold up to its value: count them per threshold, then add up.
    last = np.searchsorted(thresholds, values.ravel(), side="right")
    n_found = np.bincount(last, minlength=N_THRESHOLDS + 1)[::-1].cumsum()[::-1][1:]
    n_right = np.bincount(last[mask.ravel()], minlength=N_THRESHOLDS + 1)[::-1].cumsum()[::-1][1:]
    n_true = np.count_nonzero(mask)
    precision = n_right / np.maximum(n_found, 1)
    recall = n_right / max(n_true, 1)
    below = BETA_SQUARED * precision + recall
    f = (1 + BETA_SQUARED) * precision * recall
    return np.divide(f, below, out=np.zeros(N_THRESHOLDS), where=below > 0)


def _checked(
    prediction: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, mask = np.asarray(prediction, np.float64), np.asarray(truth)
    if values.shape != mask.shape or values.ndim != 2 or not values.size:
        raise InputError(
            f"the prediction has the shape {values.shape} and the mask {mask.shape}; both must be "
            "(height, width) of the same image"
        )
    if not ((values >= -OVERSHOOT) & (values <= 1 + OVERSHOOT)).all():
        raise InputError(
            f"the prediction runs from {values.min():g} to {values.max():g}; scale it to [0, 1]"
        )
    if not np.isin(mask, (0, 1)).all():
        levels = np.unique(mask)[:4].tolist()
        raise InputError(f"a mask must be binary (0 or 1) and has {levels}; cut it at a threshold")
    return values, mask.astype(bool)
