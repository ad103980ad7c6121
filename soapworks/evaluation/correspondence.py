"""Dense correspondence between two crops of one image: do tokens find their content?"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError

RADIUS = 1
"""Largest distance of a neighbour that counts as right, patches (Chebyshev)."""


@dataclass(frozen=True)
class CropPair:
    """Two crops of one image, shifted against each other by whole patches."""

    first: tuple[int, int]
    """(top, left) of the first crop, pixels."""
    second: tuple[int, int]
    """(top, left) of the second crop, pixels."""
    offset: tuple[int, int]
    """Rows and columns of patches from the first crop to the second; neither is 0."""


class Correspondence(NamedTuple):
    """Shares of the patches that both crops show."""

    pck: float
    """Share whose nearest neighbour is at most one patch from the true partner."""
    same_place: float
    """Share whose nearest neighbour stands at the same place of the grid: a position code has 1."""
    n_patches: int
    """Patches of the first crop whose true partner lies in the second."""


def draw_crop_pair(
    image_size: tuple[int, int],
    crop_size: tuple[int, int],
    patch_size: tuple[int, int],
    rng: np.random.Generator,
) -> CropPair:
    """Draw two crops whose offset is a non-zero number of patches.

    Offsets of at most half a crop in each direction are drawn uniformly, then the place of both.

    Parameters
    ----------
    image_size, crop_size, patch_size
        (height, width), pixels; a crop is a whole number of patches.
    rng
        Source of randomness.

    Raises
    ------
    InputError
        Where the image is not larger than a crop by a patch in both directions.

    Examples
    --------
    >>> pair = draw_crop_pair((96, 96), (64, 64), (16, 16), np.random.default_rng(0))
    >>> [(b - a) // 16 for a, b in zip(pair.first, pair.second)] == list(pair.offset)
    True
    """
    offset, first = [], []
    for image, crop, patch in zip(image_size, crop_size, patch_size, strict=True):
        most = min((image - crop) // patch, crop // patch // 2)
        if patch < 1 or crop % patch or most < 1:
            raise InputError(
                f"two crops of {crop_size} pixels, {patch_size} a patch, do not fit into an image "
                f"of {image_size}: it must be larger by one patch in both directions"
            )
        size = int(rng.integers(1, most + 1))
        shift = size if rng.random() < 0.5 else -size
        start = int(rng.integers(0, image - crop - size * patch + 1))
        offset.append(shift)
        first.append(start if shift > 0 else start + size * patch)
    second = [a + shift * patch for a, shift, patch in zip(first, offset, patch_size, strict=True)]
    return CropPair((first[0], first[1]), (second[0], second[1]), (offset[0], offset[1]))


def correspondence(first: ArrayLike, second: ArrayLike, offset: tuple[int, int]) -> Correspondence:
    """Measure how many tokens find their content in a shifted crop.

    Parameters
    ----------
    first, second
        (row, column, channel): patch tokens of the two crops.
    offset
        Rows and columns of patches from the first crop to the second: what stands at (r, c) of the
        first stands at (r - offset[0], c - offset[1]) of the second.

    Raises
    ------
    InputError
        For other shapes, an offset of 0 or without overlap, NaN, infinity or tokens of length 0.

    Examples
    --------
    >>> content = np.random.default_rng(0).standard_normal((6, 6, 8))
    >>> correspondence(content[:5, :5], content[1:, 1:], (1, 1))
    Correspondence(pck=1.0, same_place=0.0, n_patches=16)
    """
    a, b = _unit(first), _unit(second)
    if a.shape != b.shape:
        raise InputError(f"the crops have the shapes {a.shape} and {b.shape}; they must be equal")
    n_rows, n_columns = a.shape[:2]
    if not (0 < abs(offset[0]) < n_rows and 0 < abs(offset[1]) < n_columns):
        raise InputError(
            f"offset = {offset}: neither part may be 0 or reach the grid of {n_rows} x {n_columns}"
        )
    rows, columns = np.indices((n_rows, n_columns)).reshape(2, -1)
    true_rows, true_columns = rows - offset[0], columns - offset[1]
    inside = (true_rows >= 0) & (true_rows < n_rows)
    inside &= (true_columns >= 0) & (true_columns < n_columns)
    tokens = a.reshape(len(rows), -1)[inside]
    nearest = np.argmax(tokens @ b.reshape(len(rows), -1).T, axis=1)
    distance = np.maximum(
        np.abs(rows[nearest] - true_rows[inside]), np.abs(columns[nearest] - true_columns[inside])
    )
    return Correspondence(
        float(np.mean(distance <= RADIUS)),
        float(np.mean(nearest == np.flatnonzero(inside))),
        int(inside.sum()),
    )


def _unit(features: ArrayLike) -> NDArray[np.float64]:
    tokens = np.asarray(features, np.float64)
    if tokens.ndim != 3:
        raise InputError(f"tokens must be (row, column, channel), not of shape {tokens.shape}")
    lengths = np.linalg.norm(tokens, axis=2, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise InputError("tokens hold NaN, infinity or have no length, so no cosine is defined")
    return tokens / lengths
