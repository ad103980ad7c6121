"""Whether float16 holds features: rounding errors against the variance that is scored.

A value x rounded to float16 is off by at most half a unit in the last place, which is at most
``2**-10 |x|`` and at least ``2**-24``. The mean squared error of a channel is then at most
``E[x**2] 2**-20 / 12 + 2**-48 / 12``, so first and second moments bound it. An error of ``r`` times
a component's variance smears its threshold: a probability of a positive response moves by at most
``.122 r`` in the mean, and a score by about twice that.
"""

import numpy as np
from numpy.typing import NDArray

BOUND = 1e-3
"""Largest rounding error of a channel or component, as a share of its variance.

Scores move by less than 3e-4, below the standard error at any usual number of images.
"""

NULL = 1e-4
"""Variance, as a share of the rounding error, below which float32 resolves no component either.

A norm's output always has such a component: its normalised channels sum to zero.
"""

TOKENS_PER_CHANNEL = 4
"""Tokens per channel from which the components of a sample are worth a check."""


def rounding_error(mean_square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a bound of the mean squared error of rounding channels to float16, (D,)."""
    return (mean_square * 2.0**-20 + 2.0**-48) / 12


def channel_shares(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each channel's rounding error as a share of its variance.

    Parameters
    ----------
    mean, variance
        Of the channels, (D,) float64.

    Returns
    -------
    ndarray
        (D,) float64: 0 for a channel of zeros, infinity for any other without variance.

    Examples
    --------
    >>> import numpy as np
    >>> channel_shares(np.array([0.0, 3000.0]), np.ones(2)).round(3)
    array([0.   , 0.715])
    """
    square = mean**2 + variance
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(square == 0, 0.0, rounding_error(square) / variance)
    return np.where(np.isnan(shares), np.inf, shares)


def component_shares(
    mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each component's rounding error as a share of its variance.

    Parameters
    ----------
    mean, covariance
        Of the channels, (D,) and (D, D) float64.

    Returns
    -------
    ndarray
        (D,) float64, by ascending variance; 0 for components that float32 does not resolve.
    """
    variances, vectors = np.linalg.eigh(covariance)
    errors = rounding_error(mean**2 + np.diag(covariance)) @ vectors**2
    floor = NULL * errors + len(mean) * np.finfo(np.float64).eps * variances[-1]
    return np.divide(errors, variances, out=np.zeros_like(errors), where=variances > floor)
