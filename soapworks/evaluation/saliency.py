"""Salient objects without training: TokenCut on the patch features of one image."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import scipy.linalg
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError

Seed = Literal["vmax", "guided"]

_T = TypeVar("_T", bound=np.generic)

WEAK_EDGE = 1e-5
"""Weight of an edge between patches whose cosine is not above the threshold."""

TIE = 1e-9
"""Relative difference of eigenvector entries below which they are the same entry.

Patches with the same neighbours have equal entries, which differ by rounding alone: without this
the seed would depend on the machine.
"""


@dataclass(frozen=True)
class Saliency:
    """The salient object of one image."""

    seed_patch: int
    """Patch that the object grows from, row-major."""
    mask: NDArray[np.bool_]
    """(height, width) of the image; True on the object."""
    eigenvector: NDArray[np.float64]
    """(row, column): second smallest eigenvector, positive on the side of the seed's object."""


def tokencut(
    features: ArrayLike,
    image_size: tuple[int, int],
    *,
    seed: Seed = "vmax",
    guide: ArrayLike | None = None,
    threshold: float = 0.3,
) -> Saliency:
    """Segment the salient object by one normalised cut.

    Patches are joined by weight 1 where the cosine of their features is above ``threshold``, else
    by 1e-5. The second smallest generalised eigenvector of (D - A, D) is split at its mean, and
    the seed's connected part of the seed's side is the object. Where entries of the eigenvector
    are equal, the first patch is the seed.

    Parameters
    ----------
    features
        (row, column, channel): patch tokens of one image, any float dtype.
    image_size
        (height, width) of the mask, pixels.
    seed
        "vmax": the largest magnitude in the eigenvector. "guided": the largest ``guide``.
    guide
        (row, column): for example the response of a component of the unprojected features.
    threshold
        Cosine above which two patches are alike.

    Returns
    -------
    Saliency
        Seed, mask (nearest upsampling) and eigenvector.

    Raises
    ------
    InputError
        For other shapes, fewer than two patches, NaN or infinity, tokens without length, or a
        guided seed without a guide.

    References
    ----------
    Wang et al., "Self-Supervised Transformers for Unsupervised Object Discovery using Normalized
    Cut", CVPR 2022.

    Examples
    --------
    >>> features = np.zeros((4, 4, 2))
    >>> features[..., 0] = 1
    >>> features[1:3, 1:3] = [0, 1]  # an object in the middle
    >>> tokencut(features, (8, 8)).mask.sum()
    np.int64(16)
    """
    tokens, grid = _unit_tokens(features)
    adjacency = np.where(tokens @ tokens.T > threshold, 1.0, WEAK_EDGE)
    vector = _second_eigenvector(adjacency)
    start = _seed_patch(vector, seed, guide, grid)
    side = vector > vector.mean()
    if not side[start]:
        vector, side = -vector, ~side
    parts, _ = scipy.ndimage.label(side.reshape(grid))  # 4-neighbours
    chosen = parts == parts.reshape(-1)[start]
    return Saliency(start, upsample_nearest(chosen, image_size), vector.reshape(grid))


def cosine_quantile(features: ArrayLike, share: float) -> float:
    """Return the cosine that a share of all pairs of patches does not exceed.

    As a threshold it joins the same share of pairs in every image, however a head has moved the
    cosines.

    Parameters
    ----------
    features
        (row, column, channel): patch tokens of one image.
    share
        0 to 1.

    Raises
    ------
    InputError
        As in :func:`tokencut`, or for another share.

    Examples
    --------
    >>> cosine_quantile([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]], 0.5)
    0.0
    """
    if not 0 <= share <= 1:
        raise InputError(f"share = {share}: give a number from 0 to 1")
    tokens, _ = _unit_tokens(features)
    cosines = tokens @ tokens.T
    return float(np.quantile(cosines[np.triu_indices(len(tokens), 1)], share))


def _unit_tokens(features: ArrayLike) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return (patch, channel) of length 1, and the grid."""
    tokens = np.asarray(features, np.float64)
    if tokens.ndim != 3 or tokens.shape[0] * tokens.shape[1] < 2 or tokens.shape[2] < 1:
        raise InputError(
            f"features have the shape {tokens.shape}; TokenCut takes (row, column, channel) with "
            "2 patches or more"
        )
    grid = (tokens.shape[0], tokens.shape[1])
    tokens = tokens.reshape(-1, tokens.shape[2])
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise InputError(
            "features hold NaN, infinity or tokens of length 0, which have no cosine; leave the "
            "image out, or use another layer or head"
        )
    return tokens / lengths, grid


def _second_eigenvector(adjacency: NDArray[np.float64]) -> NDArray[np.float64]:
    degrees = adjacency.sum(axis=1)
    laplacian = -adjacency
    laplacian[np.diag_indices_from(laplacian)] += degrees
    # With D diagonal the pencil is a symmetric problem: half the time of the general one.
    root = np.sqrt(degrees)
    laplacian /= root[:, None] * root
    _, vectors = scipy.linalg.eigh(laplacian, subset_by_index=[1, 1], overwrite_a=True)
    return vectors[:, 0] / root


def _seed_patch(
    vector: NDArray[np.float64], seed: str, guide: ArrayLike | None, grid: tuple[int, int]
) -> int:
    if seed == "vmax":
        magnitude = np.abs(vector)
        return int(np.argmax(magnitude >= magnitude.max() * (1 - TIE)))
    if seed != "guided":
        raise InputError(f"seed = {seed!r}: choose vmax or guided")
    if guide is None:
        raise InputError("a guided seed needs guide, an array (row, column)")
    responses = np.asarray(guide, np.float64)
    if responses.shape != grid or not np.isfinite(responses).all():
        raise InputError(f"guide must be finite and of the shape {grid}, not {responses.shape}")
    return int(responses.argmax())


def upsample_nearest(patches: NDArray[_T], image_size: tuple[int, int]) -> NDArray[_T]:
    """Enlarge a grid to an image by nearest neighbours.

    Pixel i of n takes cell floor(i * cells / n), as torch's "nearest" does.

    Parameters
    ----------
    patches
        (row, column).
    image_size
        (height, width), pixels.

    Examples
    --------
    >>> upsample_nearest(np.array([[0, 1]]), (1, 4))
    array([[0, 0, 1, 1]])
    """
    height, width = image_size
    if height < 1 or width < 1:
        raise InputError(f"image_size = {image_size}: give a height and a width of 1 pixel or more")
    rows = np.arange(height) * patches.shape[0] // height
    columns = np.arange(width) * patches.shape[1] // width
    return patches[rows[:, None], columns]
