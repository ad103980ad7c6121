"""Masks and label maps: image files whose samples are labels, never colours."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soapworks.errors import ImageError, InputError
from soapworks.images.formats import identify_format
from soapworks.images.pillow_warnings import pillow_quiet
from soapworks.images.reading import DEFAULT_MAX_PIXELS

FORMATS = ("PNG", "BMP", "GIF", "TIFF", "JPEG", "PPM")
"""Formats that labels are read from, as Pillow calls them."""

_NAMES = {"PNM": "PPM"}  # ours -> Pillow's
_ONE_SAMPLE = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_MOST_VALUES_NAMED = 4


@dataclass(frozen=True)
class LabelRule:
    """How the values of label files are understood."""

    cut: int | None = None
    """Masks: values above this are the object; None: a mask has at most two values, 0 and one."""
    ignore: tuple[int, ...] = ()
    """Label maps: labels of pixels that do not count."""
    known: tuple[int, int] | None = None
    """Label maps: smallest and largest label beside the ignored ones; None: any."""


def read_samples(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.int64]:
    r"""Decode one file to one integer per pixel, as stored.

    Of an image with a palette the indices are taken. Orientation tags are not applied.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Largest width times height, as declared, that is decoded.

    Returns
    -------
    ndarray
        (height, width) int64.

    Raises
    ------
    ImageError
        Not an image that can be read, or one in colours; the message is a short reason.

    Examples
    --------
    >>> read_samples(b"P5 3 1 255\n\x00\x01\xff").tolist()
    [[0, 1, 255]]
    """
    name = identify_format(data)
    if name is None or _NAMES.get(name, name) not in FORMATS:
        raise ImageError("no label file that can be read; write labels as PNG")
    try:
        with (
            pillow_quiet(),
            Image.open(io.BytesIO(data), formats=[_NAMES.get(name, name)]) as image,
        ):
            if image.width * image.height > max_pixels:
                raise ImageError(
                    f"declares {image.width} x {image.height} pixels, more than the limit of "
                    f"{max_pixels}"
                )
            if image.mode in _ONE_SAMPLE:
                return np.asarray(image).astype(np.int64)
            samples = np.asarray(image)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever their parsers trip over
        raise ImageError(f"damaged {name} file") from error
    colours = samples[..., :3]
    if samples.ndim != 3 or samples.dtype != np.uint8 or samples.shape[2] not in (2, 3, 4):
        raise ImageError(f"labels must be integers, one per pixel, not {image.mode}")
    if samples.shape[2] in (2, 4):
        if (samples[..., -1] != 255).any():
            raise ImageError("has a transparent part; write labels as grey or palette PNG")
        colours = samples[..., :-1]
    if (colours != colours[..., :1]).any():
        raise ImageError("is in colours, not labels; write one integer per pixel as PNG")
    return colours[..., 0].astype(np.int64)


def read_mask(data: bytes, rule: LabelRule) -> NDArray[np.bool_]:
    """Decode an object mask.

    Parameters
    ----------
    data
        The whole file.
    rule
        Where values are cut.

    Returns
    -------
    ndarray
        (height, width) bool, True on the object.

    Raises
    ------
    ImageError
        A file that cannot be read.
    InputError
        A mask that is not binary; the message starts with what it holds.
    """
    samples = read_samples(data)
    if rule.cut is not None:
        return samples > rule.cut
    values = np.unique(samples)
    if len(values[values != 0]) > 1:
        shown = ", ".join(map(str, values[:_MOST_VALUES_NAMED]))
        more = ", ..." if len(values) > _MOST_VALUES_NAMED else ""
        raise InputError(
            f"is not binary: it holds {shown}{more}, where 0 and one other value are allowed; give "
            "a value to cut at (127 for masks that are grey at their edges)"
        )
    return samples != 0


def read_label_map(data: bytes, rule: LabelRule) -> NDArray[np.int64]:
    """Decode a label map.

    Parameters
    ----------
    data
        The whole file.
    rule
        Labels that do not count, and those that are known.

    Returns
    -------
    ndarray
        (height, width) int64.

    Raises
    ------
    ImageError
        A file that cannot be read.
    InputError
        A label that is not known; the message starts with it.
    """
    labels = read_samples(data)
    if rule.known is not None:
        low, high = rule.known
        values = np.unique(labels)
        unknown = values[(values < low) | (values > high)]
        unknown = unknown[~np.isin(unknown, rule.ignore)]
        if len(unknown):
            raise InputError(
                f"holds the unknown label {unknown[0]}: known are {low} to {high}, ignored "
                f"{', '.join(map(str, rule.ignore)) or 'none'}; ignore it or correct the map"
            )
    return labels
