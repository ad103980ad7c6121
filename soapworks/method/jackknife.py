"""Standard errors of the scores, by leaving out one block of images at a time."""

from typing import Any

import numpy as np

from soapworks.errors import InputError
from soapworks.method._tokens import to_array
from soapworks.method.scores import invariance, nan_without_variance


def score_errors(
    real_block_counts: Any,
    real_block_sizes: Any,
    synthetic_block_counts: Any,
    synthetic_block_sizes: Any,
    *,
    explained_variance: Any = None,
) -> np.ndarray:
    """Return jackknife standard errors of the scores over blocks.

    Blocks are left out one at a time. Both domains are independent samples, so the variance is the
    jackknife variance over real blocks (all synthetic images kept) plus the one over synthetic
    blocks (all real images kept). Blocks may differ in size, as the last one does: with h_j = n/m_j
    for a block of m_j of n images, pseudo-values are t_j = h_j s - (h_j - 1) s_(j), and the
    variance is the mean over blocks of (t_j - t)^2 / (h_j - 1), where
    t = g s - sum_j (1 - m_j/n) s_(j) over g blocks: the delete-m_j jackknife.

    Parameters
    ----------
    real_block_counts : (B, R, C, D) integer
        Counts of each block alone.
    real_block_sizes : (B,) integer
        Images of each block.
    synthetic_block_counts, synthetic_block_sizes
        The same for the synthetic images; the number of blocks may differ.
    explained_variance : (D,), optional
        Of `Pca`; components where it is 0 have neither score nor error.

    Returns
    -------
    errors : (D,) float64
        NaN for components without variance, and throughout when a domain has fewer than two blocks.

    Raises
    ------
    InputError
        When shapes do not belong together, a block is empty or a count exceeds its block.
    CollapsedFeaturesError
        When no component has variance.

    Notes
    -----
    Section 5 of docs/method.md.

    References
    ----------
    Busing, Meijer and van der Leeden, "Delete-m jackknife for unequal m", Statistics and Computing
    9 (1999) 3-8.

    Examples
    --------
    >>> import numpy as np
    >>> real, synthetic = np.array([[[[3]]], [[[4]]]]), np.array([[[[1]]], [[[1]]]])
    >>> score_errors(real, [4, 4], synthetic, [4, 4]).round(4)
    array([0.0976])
    """
    real, n_real = _blocks(real_block_counts, real_block_sizes, "real")
    synthetic, n_synthetic = _blocks(synthetic_block_counts, synthetic_block_sizes, "synthetic")
    if real.shape[1:] != synthetic.shape[1:]:
        raise InputError(
            f"blocks of both domains must have the same positions and channels, not "
            f"{real.shape[1:]} (real) and {synthetic.shape[1:]} (synthetic)"
        )
    p = real.sum(axis=0, dtype=np.int64) / n_real.sum()
    q = synthetic.sum(axis=0, dtype=np.int64) / n_synthetic.sum()
    # The formula treats p and q alike, so one function does for both domains.
    variance = _jackknife_variance(real, n_real, q) + _jackknife_variance(synthetic, n_synthetic, p)
    return nan_without_variance(np.sqrt(variance), explained_variance)


def _jackknife_variance(counts: np.ndarray, sizes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the delete-one-block variance (D,) for fixed rates ``other``."""
    n_blocks, n_images = len(sizes), sizes.sum()
    if n_blocks < 2:
        return np.full(counts.shape[-1], np.nan)
    total = counts.sum(axis=0, dtype=np.int64)
    score = invariance(total / n_images, other).mean(axis=(0, 1))
    left_out = np.stack(
        [
            invariance((total - block) / (n_images - size), other).mean(axis=(0, 1))
            for block, size in zip(counts, sizes, strict=True)
        ]
    )
    h = (n_images / sizes)[:, None]
    pseudo = h * score - (h - 1) * left_out
    centre = n_blocks * score - ((1 - 1 / h) * left_out).sum(axis=0)
    return ((pseudo - centre) ** 2 / (h - 1)).mean(axis=0)


def _blocks(counts: Any, sizes: Any, domain: str) -> tuple[np.ndarray, np.ndarray]:
    counts, sizes = to_array(counts), to_array(sizes)
    if counts.ndim != 4 or sizes.shape != counts.shape[:1] or not len(sizes):
        raise InputError(
            f"{domain} blocks need counts (B, R, C, D) and sizes (B,), B >= 1, not "
            f"{counts.shape} and {sizes.shape}"
        )
    if not np.all(sizes >= 1):
        raise InputError(f"a block of {domain} images is empty; leave it out")
    if not np.all((counts >= 0) & (counts <= sizes[:, None, None, None])):
        raise InputError(f"a count of a block of {domain} images exceeds the size of the block")
    return counts, sizes
