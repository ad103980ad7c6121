"""How a TIFF's samples are stored, and which of them Pillow misreads.

Every function takes an image of any format as its plug-in opened it; only a TIFF has tags.
"""

import sys
from typing import Any

from PIL import ImageFile

from soapworks.errors import ImageError

_BITS, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 258, 322, 323, 339
_SIGNED = 2


def bits_per_sample(image: ImageFile.ImageFile) -> tuple[int, ...]:
    """Return the bits of a TIFF's samples by channel, (1,) for other formats."""
    return _tag(image, _BITS, (1,)) or (1,)


def has_further_pages(image: ImageFile.ImageFile) -> bool:
    """Return whether a TIFF holds further pages."""
    return bool(getattr(getattr(image, "tag_v2", None), "next", 0))


def tile_shape(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return the (width, height) of a TIFF's tiles, which may exceed the image itself.

    Raises
    ------
    ImageError
        The tags hold no numbers.
    """
    width, length = _tag(image, _TILE_WIDTH, 1), _tag(image, _TILE_LENGTH, 1)
    if not (isinstance(width, int) and isinstance(length, int)):
        raise ImageError("damaged TIFF file: invalid tile size")
    return width, length


def refuse_misread_samples(image: ImageFile.ImageFile) -> None:
    """Refuse samples that Pillow 13 decodes to other values without an error.

    Raises
    ------
    ImageError
        Signed samples of 8 bits, uncompressed separate planes of more than 8 bits, and compressed
        big-endian floats, signed 16-bit and 32-bit samples.
    """
    wide = max(bits_per_sample(image)) > 8
    if not wide and _SIGNED in _tag(image, _SAMPLE_FORMAT, ()):
        raise ImageError("TIFF file of signed 8-bit samples: convert it to unsigned ones")
    tiles: list[Any] = image.tile if hasattr(image, "tag_v2") else []
    for codec, _, _, arguments in tiles:
        layout = arguments if isinstance(arguments, str) else arguments[0]
        if codec == "raw" and len(layout) == 1 and wide and image.mode != "L":
            raise ImageError("TIFF file of separate 16-bit planes: save it interleaved")
        # libtiff has swapped the bytes already; Pillow does so again.
        if codec == "libtiff" and layout.endswith(("BS", "BF")) and sys.byteorder == "little":
            raise ImageError(
                "TIFF file of compressed big-endian samples: save it little-endian or uncompressed"
            )


def _tag(image: ImageFile.ImageFile, number: int, default: Any) -> Any:
    return (getattr(image, "tag_v2", None) or {}).get(number, default)
