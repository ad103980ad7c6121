"""Semantic invariance per component.

A component without variance has no score: its responses are rounding, or all alike, which would
count as perfect invariance. Its score is NaN, it ranks last and its weight is 0.
"""

from typing import Any

import numpy as np

from soapworks.errors import CollapsedFeaturesError, InputError
from soapworks.method._tokens import to_array

#: Scores above it count as semantically invariant (the paper's threshold).
INVARIANCE_THRESHOLD = 0.75

#: Score of a component that responds to real and synthetic images independently: 1 / sqrt(2).
UNINFORMATIVE_SCORE = 0.5**0.5


def semantic_invariance(p: Any, q: Any) -> np.ndarray:
    """Return the semantic invariance of two response rates, elementwise.

    Parameters
    ----------
    p, q : array or tensor, broadcastable
        Fractions of real and of synthetic images with a positive response, within [0, 1].

    Returns
    -------
    s : float64 array, broadcast shape
        Within [0, 1]: 1 at p = q = 0 or 1, .7071 at p = q = .5, 0 at p = 0, q = 1.

    Raises
    ------
    InputError
        For values outside [0, 1] or NaN.

    Notes
    -----
    Section 5 of docs/method.md.

    Examples
    --------
    >>> semantic_invariance([1, 0.5, 0], [1, 0.5, 1]).round(4)
    array([1.    , 0.7071, 0.    ])
    """
    p, q = np.asarray(to_array(p), np.float64), np.asarray(to_array(q), np.float64)
    for name, rate in (("p", p), ("q", q)):
        if not np.all((rate >= 0) & (rate <= 1)):
            raise InputError(f"response rates must lie within [0, 1], and some of {name} do not")
    return invariance(p, q)


def score_components(
    real_counts: Any,
    n_real: int,
    synthetic_counts: Any,
    n_synthetic: int,
    *,
    explained_variance: Any = None,
) -> np.ndarray:
    """Return the score of every component: the mean over positions.

    Parameters
    ----------
    real_counts, synthetic_counts : (R, C, D) integer
        Images with a positive response; see `count_responses`.
    n_real, n_synthetic : int
        Images counted.
    explained_variance : (D,), optional
        Of `Pca`; components where it is 0 have no score. Without it all have one.

    Returns
    -------
    scores : (D,) float64
        NaN for components without variance.

    Raises
    ------
    InputError
        When shapes differ, there are no images, or a count exceeds its number of images.
    CollapsedFeaturesError
        When no component has variance.

    Notes
    -----
    Section 5 of docs/method.md.

    Examples
    --------
    >>> import numpy as np
    >>> real, synthetic = np.array([[[4, 2, 4]]]), np.array([[[6, 3, 6]]])
    >>> score_components(real, 4, synthetic, 6).round(4)
    array([1.    , 0.7071, 1.    ])
    >>> score_components(real, 4, synthetic, 6, explained_variance=[2, 1, 0]).round(4)
    array([1.    , 0.7071,    nan])
    """
    p = _rates(real_counts, n_real, "real")
    q = _rates(synthetic_counts, n_synthetic, "synthetic")
    if p.ndim != 3 or p.shape != q.shape:
        raise InputError(
            "counts of both domains must be (R, C, D) and alike, not "
            f"{p.shape} (real) and {q.shape} (synthetic)"
        )
    return nan_without_variance(invariance(p, q).mean(axis=(0, 1)), explained_variance)


def invariant_variance_share(
    scores: Any, explained_variance: Any, *, threshold: float = INVARIANCE_THRESHOLD
) -> float:
    """Return the share of variance in components above the threshold.

    It separates layers where the number of such components does not: a weak component may be
    invariant without mattering.

    Parameters
    ----------
    scores, explained_variance : (D,)
        Of `score_components` and `Pca`.
    threshold : float
        Components above it count.

    Returns
    -------
    share : float
        Within [0, 1]; 0 when there is no variance at all.

    Raises
    ------
    InputError
        When both are not (D,), or a variance is negative or not finite.

    Notes
    -----
    Section 5 of docs/method.md.

    Examples
    --------
    >>> invariant_variance_share([0.9, 0.7, 0.8], [6, 3, 1])
    0.7
    """
    scores = check_scores(scores)
    variance = _check_variance(explained_variance, scores.shape)
    total = variance.sum()
    return float(variance[scores > threshold].sum() / total) if total else 0.0


def rank_components(scores: Any) -> np.ndarray:
    """Return every component's rank, 0 for the highest score.

    Parameters
    ----------
    scores : (D,)

    Returns
    -------
    ranks : (D,) int64
        Components with equal scores rank in order of their index, those without a score last.

    Raises
    ------
    InputError
        When scores are not (D,).

    Notes
    -----
    Section 6 of docs/method.md.

    Examples
    --------
    >>> rank_components([0.7, float("nan"), 0.9, 0.7])
    array([1, 3, 0, 2])
    """
    scores = check_scores(scores)
    ranks = np.empty(scores.size, np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(scores.size)
    return ranks


def check_scores(scores: Any) -> np.ndarray:
    """Return scores (D,) as float64, or raise InputError."""
    scores = np.asarray(to_array(scores), np.float64)
    if scores.ndim != 1:
        raise InputError(f"scores must be one number per component, (D,), not {scores.shape}")
    wrong = np.flatnonzero((scores < 0) | (scores > 1 + 1e-9))
    if len(wrong):
        raise InputError(
            f"scores must lie within 0 and 1, and that of component {wrong[0]} is "
            f"{scores[wrong[0]]:g}"
        )
    return scores


def _check_variance(explained_variance: Any, shape: tuple[int, ...]) -> np.ndarray:
    variance = np.asarray(to_array(explained_variance), np.float64)
    if variance.shape != shape:
        raise InputError(
            f"{shape[0]} scores need as many explained variances, not {variance.shape}"
        )
    if not np.all((variance >= 0) & np.isfinite(variance)):
        raise InputError("explained variances must be finite and at least 0")
    return variance


def nan_without_variance(numbers: np.ndarray, explained_variance: Any) -> np.ndarray:
    """Return numbers (D,), NaN where a component has no variance."""
    if explained_variance is None:
        return numbers
    variance = _check_variance(explained_variance, numbers.shape)
    if not variance.any():
        raise CollapsedFeaturesError(
            f"the features do not vary: none of {variance.size} components has variance; check the "
            "checkpoint's weights, or leave this layer out"
        )
    return np.where(variance > 0, numbers, np.nan)


def invariance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the semantic invariance of checked rates, elementwise."""
    agreement = p * q + (1 - p) * (1 - q)
    return 2 * agreement / (np.sqrt(p**2 + (1 - p) ** 2) + np.sqrt(q**2 + (1 - q) ** 2))


def _rates(counts: Any, n_images: int, domain: str) -> np.ndarray:
    counts = to_array(counts)
    if not n_images >= 1:
        raise InputError(f"scores need at least 1 {domain} image, and there are {n_images}")
    if not np.all((counts >= 0) & (counts <= n_images)):
        raise InputError(
            f"counts of {domain} images must lie within 0 and {n_images}, the number of images, "
            f"and reach from {counts.min()} to {counts.max()}"
        )
    return counts / n_images
