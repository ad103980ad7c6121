"""Sizes of images on their way into a network, and the labels of their patches."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soapworks.errors import InputError

Resize = Literal["native", "model"]
"""``native``: to the nearest multiple of the patch size, aspect kept but for that (section 7 of
docs/method.md); the model must take any grid. ``model``: the whole image to the model's input size,
whatever its aspect."""

RESIZES = ("native", "model")


@dataclass(frozen=True)
class ModelInput:
    """What a task must know of a model; picklable."""

    image_size: tuple[int, int]
    """(height, width) of the model's input, pixels."""
    patch_size: tuple[int, int]
    """(height, width) of a patch, pixels."""
    mean: tuple[float, float, float]
    """Mean of each channel on the scale 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of each channel on the scale 0 to 1."""

    @classmethod
    def of(cls, model: Any) -> "ModelInput":
        """Take it from anything that has these attributes, such as a `BackboneInfo`."""
        return cls(
            tuple(model.image_size), tuple(model.patch_size), tuple(model.mean), tuple(model.std)
        )


def input_size(
    size: tuple[int, int], resize: Resize, max_side: int, model: ModelInput
) -> tuple[int, int]:
    """Return the size that an image is resized to.

    Parameters
    ----------
    size
        (height, width) of the image, pixels.
    resize
        The rule.
    max_side
        ``native``: longer sides are shrunk to this first, for bounded memory.
    model
        The model.

    Returns
    -------
    tuple
        (height, width), multiples of the patch size.
    """
    if resize == "model":
        return model.image_size
    scale = min(1.0, max_side / max(size))
    rows, columns = (
        max(1, round(side * scale / patch))
        for side, patch in zip(size, model.patch_size, strict=True)
    )
    return rows * model.patch_size[0], columns * model.patch_size[1]


def resized(image: Image.Image, resize: Resize, max_side: int, model: ModelInput) -> Image.Image:
    """Resize an image by Lanczos' filter to what `input_size` says."""
    height, width = input_size((image.height, image.width), resize, max_side, model)
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)


def normalised(image: Image.Image, model: ModelInput) -> NDArray[np.float32]:
    """Return an RGB image as the model takes it: float32 (3, height, width)."""
    planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32)
    planes /= np.float32(255)
    planes -= np.array(model.mean, np.float32)[:, None, None]
    planes /= np.array(model.std, np.float32)[:, None, None]
    return planes


def check_resize(resize: str, max_side: int) -> None:
    """Raise InputError for an unknown rule or a side that holds no patch."""
    if resize not in RESIZES:
        raise InputError(f"resize = {resize!r}: choose {' or '.join(RESIZES)}")
    if isinstance(max_side, bool) or not isinstance(max_side, int) or max_side < 1:
        raise InputError(f"max_side = {max_side!r}: give 1 pixel or more")


def patch_labels(
    label_map: NDArray[np.int64], grid: tuple[int, int], ignore: tuple[int, ...] = ()
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the label of most pixels of each patch.

    Parameters
    ----------
    label_map
        (height, width).
    grid
        Rows and columns of patches that cover the map.
    ignore
        Labels of pixels that have no vote.

    Returns
    -------
    labels
        (row, column) int64; of equally frequent labels the lowest.
    counted
        (row, column) bool: whether any pixel of the patch has a vote.

    Examples
    --------
    >>> labels, counted = patch_labels(np.array([[3, 3, 0, 0], [3, 5, 0, 0]]), (1, 2), ignore=(0,))
    >>> labels.tolist(), counted.tolist()
    ([[3, 0]], [[True, False]])
    """
    height, width = label_map.shape
    values, index = np.unique(label_map, return_inverse=True)
    # Each pixel lies in the patch that its centre lies in.
    rows = (2 * np.arange(height) + 1) * grid[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * grid[1] // (2 * width)
    patch = rows[:, None] * grid[1] + columns
    n_patches = grid[0] * grid[1]
    counts = np.bincount(
        (patch * len(values) + index.reshape(label_map.shape)).ravel(),
        minlength=n_patches * len(values),
    ).reshape(n_patches, len(values))
    counts[:, np.isin(values, ignore)] = 0
    counted = counts.any(axis=1)
    labels = np.where(counted, values[counts.argmax(axis=1)], 0)
    return labels.reshape(grid), counted.reshape(grid)
