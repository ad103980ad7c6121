"""Other linear maps that remove position from patch tokens, to hold against SOAP.

Each needs less or other data than SOAP and comes as a `SoapHead`, so that it is attached, folded
and judged in the same way. The mean token of each position, less the overall mean, is called M,
(position, channel). Removing M itself (per-position mean) has no head: it is no linear map of the
token alone, since it depends on where the token stands; see :func:`subtract_position_mean`.
"""

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError

if TYPE_CHECKING:
    from soapworks.heads.head import SoapHead
    from soapworks.method.pca import Pca

LEAST_VARIANCE = 1e-10
"""Eigenvalues of the covariance below this share of the largest are left out of its inverse."""


def position_basis(position_means: ArrayLike, k: int, *, centred: bool = False) -> "SoapHead":
    """Remove the directions in which positions differ most.

    The k leading eigenvectors U of M'M / positions go: P = I - U U'. Section 10 of the method.

    Parameters
    ----------
    position_means
        (row, column, channel): mean token of each position over real images.
    k
        Directions to remove, 0 to the rank that positions can have.
    centred
        Keep the overall mean's part along the removed directions.

    Raises
    ------
    InputError
        For another shape, NaN, infinity, or a k out of range.

    Examples
    --------
    >>> means = np.zeros((2, 2, 3))
    >>> means[1, :, 0] = 1  # channel 0 codes the row
    >>> position_basis(means, 1).weight.diagonal().tolist()
    [0.0, 1.0, 1.0]
    """
    deviations, mean = _deviations(position_means)
    _check_k(k, min(len(deviations) - 1, deviations.shape[1]))
    _, _, directions = scipy.linalg.svd(deviations, full_matrices=False)
    return _orthogonal(directions[:k], mean, centred, f"position basis, k = {k}")


def leace(
    position_means: ArrayLike, covariance: ArrayLike, k: int, *, centred: bool = False
) -> "SoapHead":
    """Erase position linearly at the least distance to the tokens.

    With T the covariance and U the k leading eigenvectors of T^-1/2 (M'M / positions) T^-1/2:
    P = I - T^1/2 U U' T^-1/2, an oblique projection.

    Parameters
    ----------
    position_means
        (row, column, channel): mean token of each position over real images.
    covariance
        (channel, channel): of all tokens.
    k, centred
        As in :func:`position_basis`.

    Raises
    ------
    InputError
        As in :func:`position_basis`, and for a covariance of another shape.

    References
    ----------
    Belrose et al., "LEACE: Perfect linear concept erasure in closed form", arXiv 2306.03819.

    Examples
    --------
    >>> means = np.zeros((2, 2, 3))
    >>> means[1, :, 0] = 1
    >>> leace(means, np.eye(3), 1).weight.diagonal().tolist()
    [0.0, 1.0, 1.0]
    """
    deviations, mean = _deviations(position_means)
    n_channels = deviations.shape[1]
    _check_k(k, min(len(deviations) - 1, n_channels))
    values, vectors = scipy.linalg.eigh(_matrix(covariance, n_channels))
    kept = values > LEAST_VARIANCE * values[-1]
    root = vectors[:, kept] * np.sqrt(values[kept])
    inverse = vectors[:, kept] / np.sqrt(values[kept])
    _, _, directions = scipy.linalg.svd(deviations @ inverse, full_matrices=False)
    erased = root @ directions[:k].T @ directions[:k] @ inverse.T
    return _head(np.eye(n_channels) - erased, mean if centred else None, f"LEACE, k = {k}")


def rasa(
    position_means: ArrayLike, covariance: ArrayLike, n_rounds: int, *, centred: bool = False
) -> "SoapHead":
    """Remove directions that predict row and column, one pair after another.

    Each round fits row and column by least squares on what is left, makes the two weight vectors
    orthonormal, and projects them out. The published method fits by gradient descent; the linear
    fit has a closed form in the moments.

    Parameters
    ----------
    position_means, covariance, centred
        As in :func:`leace`.
    n_rounds
        Rounds; each removes two directions.

    Raises
    ------
    InputError
        As in :func:`leace`.

    References
    ----------
    Venkataramanan et al., "Franca: Nested Matryoshka Clustering for Scalable Visual Representation
    Learning", arXiv 2507.14137.

    Examples
    --------
    >>> means = np.random.default_rng(0).standard_normal((4, 4, 6))
    >>> head = rasa(means, np.eye(6), 2)
    >>> round(float(head.weight.trace()))
    2
    """
    means = _position_means(position_means)
    deviations, mean = _deviations(means)
    n_channels = deviations.shape[1]
    _check_k(2 * n_rounds, n_channels)
    covariance = _matrix(covariance, n_channels)
    places = np.indices(means.shape[:2], dtype=np.float64).reshape(2, -1).T
    places -= places.mean(axis=0)
    target = deviations.T @ places / len(places)  # covariance of tokens and places
    removed = np.zeros((0, n_channels))
    for _ in range(n_rounds):
        left = np.eye(n_channels) - removed.T @ removed
        fitted = np.linalg.pinv(left @ covariance @ left, rcond=LEAST_VARIANCE, hermitian=True)
        pair, _ = np.linalg.qr(left @ fitted @ left @ target)
        removed = np.linalg.qr(np.concatenate([removed, pair.T]).T)[0].T
    return _orthogonal(removed, mean, centred, f"RASA, {n_rounds} rounds")


def insid3(black_features: ArrayLike, k: int) -> "SoapHead":
    """Remove the leading directions of the features of one black image.

    Features are L2-normalised and centred over positions; the k leading left singular vectors
    (channel space) go. Needs no data.

    Parameters
    ----------
    black_features
        (row, column, channel): patch tokens of a black image.
    k
        Directions to remove.

    Raises
    ------
    InputError
        As in :func:`position_basis`, and for tokens of length 0.

    References
    ----------
    "INSID3", arXiv 2603.28480.

    Examples
    --------
    >>> black = np.random.default_rng(0).standard_normal((3, 3, 5))
    >>> round(float(insid3(black, 2).weight.trace()))
    3
    """
    tokens = _position_means(black_features).reshape(-1, np.shape(black_features)[-1])
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    if not lengths.all():
        raise InputError("the black image has tokens of length 0, which cannot be normalised")
    tokens = tokens / lengths
    _check_k(k, min(len(tokens) - 1, tokens.shape[1]))
    _, _, directions = scipy.linalg.svd(tokens - tokens.mean(axis=0), full_matrices=False)
    return _orthogonal(directions[:k], None, False, f"INSID3, k = {k}")


def strongest_components(pca: "Pca", k: int, *, centred: bool = False) -> "SoapHead":
    """Remove the k components of largest variance: the null that SOAP must beat.

    Examples
    --------
    >>> from soapworks import Moments, fit_pca
    >>> pca = fit_pca(Moments(2).update(np.array([[0.0, 1.0], [0.0, 3.0]])))
    >>> strongest_components(pca, 1).weight.tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    _check_k(k, pca.n_channels)
    return _orthogonal(pca.components[:k], pca.mean, centred, f"strongest {k} components")


def random_components(pca: "Pca", k: int, seed: int, *, centred: bool = False) -> "SoapHead":
    """Remove k components drawn at random: what removing anything does.

    Examples
    --------
    >>> from soapworks import Moments, fit_pca
    >>> pca = fit_pca(Moments(2).update(np.array([[0.0, 1.0], [0.0, 3.0]])))
    >>> round(float(random_components(pca, 1, seed=0).weight.trace()))
    1
    """
    _check_k(k, pca.n_channels)
    drawn = np.random.default_rng(seed).choice(pca.n_channels, k, replace=False)
    return _orthogonal(pca.components[drawn], pca.mean, centred, f"{k} random components")


def subtract_position_mean(features: ArrayLike, position_means: ArrayLike) -> NDArray[np.float64]:
    """Subtract from each token what its position has on average, keeping the overall mean.

    Parameters
    ----------
    features
        (..., row, column, channel).
    position_means
        (row, column, channel).

    Examples
    --------
    >>> means = np.arange(4.0).reshape(2, 2, 1)
    >>> subtract_position_mean(means, means).ravel().tolist()
    [1.5, 1.5, 1.5, 1.5]
    """
    tokens, means = np.asarray(features, np.float64), _position_means(position_means)
    if tokens.shape[-3:] != means.shape:
        raise InputError(f"tokens of shape {tokens.shape} do not end with the grid {means.shape}")
    return tokens - (means - means.mean(axis=(0, 1)))


def _position_means(values: ArrayLike) -> NDArray[np.float64]:
    means = np.asarray(values, np.float64)
    if means.ndim != 3 or means.shape[0] * means.shape[1] < 2 or not means.shape[2]:
        raise InputError(f"give (row, column, channel) of 2 positions or more, not {means.shape}")
    if not np.isfinite(means).all():
        raise InputError("the tokens hold NaN or infinity; leave out the images they come from")
    return means


def _deviations(position_means: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return M (position, channel) and the overall mean (channel,)."""
    means = _position_means(position_means)
    flat = means.reshape(-1, means.shape[2])
    overall = flat.mean(axis=0)
    return flat - overall, overall


def _matrix(covariance: ArrayLike, n_channels: int) -> NDArray[np.float64]:
    matrix = np.asarray(covariance, np.float64)
    if matrix.shape != (n_channels, n_channels) or not np.isfinite(matrix).all():
        raise InputError(
            f"the covariance must be finite and ({n_channels}, {n_channels}), not {matrix.shape}"
        )
    return matrix


def _check_k(k: int, most: int) -> None:
    if not 0 <= k <= most:
        raise InputError(f"{k} directions cannot be removed; give 0 to {most}")


def _orthogonal(
    directions: NDArray[np.float64], mean: NDArray[np.float64] | None, centred: bool, method: str
) -> "SoapHead":
    weight = np.eye(directions.shape[1]) - directions.T @ directions
    return _head(weight, mean if centred else None, method)


def _head(weight: NDArray[np.float64], mean: NDArray[np.float64] | None, method: str) -> "SoapHead":
    from soapworks.heads.head import SoapHead

    bias = None if mean is None else mean - weight @ mean
    return SoapHead(weight, bias, metadata={"method": method})
