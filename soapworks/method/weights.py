"""Suppression weights: how strongly each component is suppressed."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from soapworks.errors import InputError
from soapworks.method.scores import INVARIANCE_THRESHOLD, check_scores, rank_components


def suppression_weights(
    scores: Any, *, mu: float | Literal["threshold"] = 2.0, tau: float = 0.05
) -> np.ndarray:
    """Return suppression weights from scores.

    With ranks r = 0, 1, 2... by descending score (equal scores: the lower index first),
    ``w = score * sigmoid((mu - 1/2 - r) / tau)``: ``mu`` components are suppressed in proportion
    to their score, the others hardly.

    Parameters
    ----------
    scores : (D,)
        NaN for components without a score.
    mu : float or "threshold"
        Components to suppress, 0 to D; "threshold" takes the number of scores above .75, and gives
        all-zero weights (the identity head) when there is none.
    tau : float
        Softness of the cut, in ranks.

    Returns
    -------
    weights : (D,) float64
        Within [0, 1]; 0 for components without a score.

    Raises
    ------
    InputError
        For scores outside [0, 1], ``mu`` outside [0, D] or ``tau`` not above 0.

    Notes
    -----
    Section 6 of docs/method.md.

    Examples
    --------
    >>> suppression_weights([0.7, 0.98, 0.9, 0.71], mu=2).round(4) + 0.0
    array([0.  , 0.98, 0.9 , 0.  ])
    """
    scores = check_scores(scores)
    if not (np.isfinite(tau) and tau > 0):
        raise InputError(f"tau must be a number above 0, not {tau}")
    if isinstance(mu, str):
        if mu != "threshold":
            raise InputError(f"mu must be a number or 'threshold', not {mu!r}")
        mu = int(np.count_nonzero(scores > INVARIANCE_THRESHOLD))
        if mu == 0:
            return np.zeros(scores.size)
    if not 0 <= mu <= scores.size:
        raise InputError(f"mu must lie within 0 and {scores.size} (components), and is {mu}")
    return np.nan_to_num(scores) * _sigmoid((mu - 0.5 - rank_components(scores)) / tau)


def select_components(n_channels: int, components: Iterable[int]) -> np.ndarray:
    """Return weights that suppress the listed components and no other.

    Parameters
    ----------
    n_channels : int
        D.
    components : iterable of int
        From 0 to D - 1, in any order.

    Returns
    -------
    weights : (D,) float64
        1 for the listed components, else 0.

    Raises
    ------
    InputError
        For a component outside 0 .. D - 1.

    Notes
    -----
    Section 6 of docs/method.md.

    Examples
    --------
    >>> select_components(4, [2, 0])
    array([1., 0., 1., 0.])
    """
    weights = np.zeros(n_channels)
    for component in components:
        if int(component) != component or not 0 <= component < n_channels:
            raise InputError(
                f"there is no component {component}: they go from 0 to {n_channels - 1}"
            )
        weights[int(component)] = 1.0
    return weights


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # exp never sees a positive number, so it cannot overflow.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)
