"""Grey images of more than 8 bits per sample, brought to 8 bits.

Pillow's own conversion clips everything above 255 to white, which turns most 16-bit images
into blank sheets. Here the format's white becomes 255.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soapworks.errors import ImageError

_ROWS_AT_ONCE = 256  # bounds the float64 copy that the arithmetic needs
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


def grey_eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """Scale a decoded grey image of mode ``I;16*``, ``I`` or ``F`` to 8 bits.

    Which value is white:

    * 16-bit samples (PNG, PNM, TIFF): 65535; 12-bit TIFF: 4095.
    * 32-bit integers and floats say nowhere what white is, so the smallest of the usual ranges
      that holds every value is taken (1 for floats, 255, 65535, black being 0); an image outside
      of all of them, negative values included, is stretched from its minimum to its maximum.

    Parameters
    ----------
    image
        A loaded ``PIL.Image.Image`` as its plugin returned it (with its TIFF tags, if any).

    Returns
    -------
    numpy.ndarray
        uint8, (height, width), rounded to nearest.

    Raises
    ------
    ImageError
        The samples hold NaN or infinity.

    Examples
    --------
    >>> grey_eight_bit(Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))).tolist()
    [[0, 128, 255]]
    """
    tags = getattr(image, "tag_v2", None) or {}
    samples = np.asarray(image)
    if image.mode == "I" and _first(tags.get(_TIFF_BITS)) == 32:
        declared = _first(tags.get(_TIFF_SAMPLE_FORMAT, _UNSIGNED))
        if declared == _UNSIGNED:  # Pillow keeps all 32-bit integers as signed ones
            samples = samples.view(np.uint32)
    is_tiff = bool(tags)
    if image.mode.startswith("I;16"):
        black, white = 0.0, 4095.0 if _first(tags.get(_TIFF_BITS)) == 12 else 65535.0
    elif image.mode == "I" and not is_tiff:  # PNG and PNM: 16 bits in a wider array
        black, white = 0.0, 65535.0
    else:
        black, white = _plausible_range(samples)
    inverted = is_tiff and tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
    return _scale(samples, *((white, black) if inverted else (black, white)))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _plausible_range(samples: NDArray[Any]) -> tuple[float, float]:
    low, high = float(samples.min()), float(samples.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("holds NaN or infinite samples")
    if low >= 0:
        usual = (1.0, 255.0, 65535.0) if samples.dtype.kind == "f" else (255.0, 65535.0)
        for white in usual:
            if high <= white:
                return 0.0, white
    return low, high


def _scale(samples: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    scaled = np.zeros(samples.shape, np.uint8)
    if black == white:  # a blank sheet has no contrast to stretch
        return scaled
    for start in range(0, len(samples), _ROWS_AT_ONCE):
        rows = samples[start : start + _ROWS_AT_ONCE].astype(np.float64)
        shares = (rows - black) / (white - black)
        scaled[start : start + _ROWS_AT_ONCE] = np.rint(np.clip(shares, 0, 1) * 255)
    return scaled
