"""One image file's bytes to upright 8-bit RGB pixels, or one short reason why not.

Nothing but `ImageError` leaves this module, whatever the bytes are. The declared size is checked
before anything of that size is allocated, only the decoder that the first bytes call for is run,
and no process-wide setting of Pillow is changed.
"""

import io
import re
import struct
from collections.abc import Callable
from typing import Any

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from soapworks.errors import ImageError
from soapworks.images.formats import FORMAT_NAMES, has_more_scans, identify_format, webp_canvas
from soapworks.images.high_bit_depth import grey_eight_bit
from soapworks.images.pillow_warnings import pillow_quiet

DEFAULT_MAX_PIXELS = 2**30 // 12
"""Pixels (width times height) above which an image is refused: 89 million, Pillow's own mark."""

_OPENERS: dict[str, Callable[[Any, str], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
}
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_METADATA_ERRORS = (
    *(SyntaxError, ValueError, LookupError, TypeError, AttributeError, OSError, EOFError),
    *(ArithmeticError, struct.error),
)
_MOST_SCANS = 200  # of a progressive JPEG; each may cost a pass over all pixels
_LONGEST_DETAIL = 100  # characters of a decoder's own words that a reason quotes


def read_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode one image file to upright 8-bit RGB.

    * The EXIF orientation is applied; an EXIF block that cannot be parsed counts as none.
    * An alpha channel or a transparent palette entry is dropped, not composited, and colour
      profiles are ignored: that is what ``convert("RGB")`` does, and so what the loaders do with
      which these models are trained and evaluated (torchvision, timm).
    * A JPEG that is cut short is always found. Flipped bits inside of a JPEG's entropy-coded data
      mostly are not: the format has no checksum, and the decoder goes on with wrong pixels.
    * Of animations and multi-page files the first frame is taken.
    * Grey samples of 12, 16 and 32 bits are scaled to 8 (see `wide_samples`); colour samples of
      16 bits keep their high byte, as Pillow reads them.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Largest width times height, as declared in the file, that is decoded.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``, pixels only: no metadata, not tied to a file.

    Raises
    ------
    ImageError
        Not an image of a known format, damaged, cut short, or larger than `max_pixels`. The
        message is a short reason, the same one for the same bytes.
    """
    return _decode(data, max_pixels, thumbnail=False)[0]


def check_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Decode one image file only to learn whether `read_image` would.

    JPEGs are decoded at an eighth of their size: every bit of the file is still parsed, so a file
    that is cut short is found, in 0.6 (baseline) to 0.9 (progressive) of the full decode's time.

    Parameters
    ----------
    data, max_pixels
        As in `read_image`.

    Returns
    -------
    tuple of int
        (width, height) in pixels of the upright image.

    Raises
    ------
    ImageError
        As in `read_image`.
    """
    return _decode(data, max_pixels, thumbnail=True)[1]


def _decode(
    data: bytes, max_pixels: int, *, thumbnail: bool
) -> tuple[Image.Image, tuple[int, int]]:
    if not data:
        raise ImageError("empty file")
    name = identify_format(data)
    if name is None:
        known = ", ".join(FORMAT_NAMES[:-1])
        raise ImageError(f"not an image: neither {known} nor {FORMAT_NAMES[-1]} by its first bytes")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            "not read, because PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process "
            "and would pass cut files off as whole ones"
        )
    try:
        with pillow_quiet():
            if name == "JPEG" and has_more_scans(data, _MOST_SCANS):
                raise ImageError(f"JPEG file of more than {_MOST_SCANS} scans")
            if name == "WebP" and (canvas := webp_canvas(data)):
                _refuse_bomb(canvas, max_pixels)
            with _OPENERS[name](io.BytesIO(data), "") as image:
                _refuse_bomb(image.size, max_pixels)
                _refuse_bomb(_tile_shape(image), max_pixels)
                size = image.size
                if thumbnail and isinstance(image, JpegImagePlugin.JpegImageFile):
                    image.draft(None, (1, 1))
                image.load()
                orientation = _orientation(image)
                rgb = _to_rgb(image)
            if orientation != 1:
                rgb = rgb.transpose(_UPRIGHT[orientation])
            return rgb, size[::-1] if orientation in _SIDEWAYS else size
    except ImageError:
        raise
    except Exception as error:
        # Decoders raise whatever their parsers trip over: OSError, SyntaxError, ValueError,
        # struct.error, zlib.error, KeyError, EOFError, MemoryError and more.
        raise ImageError(_reason(error, name)) from error


def _refuse_bomb(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"declares {width} x {height} pixels, more than the limit of {max_pixels}")


def _tile_shape(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return the (width, height) of a TIFF's tiles, which may exceed the image itself."""
    tags = getattr(image, "tag_v2", None) or {}
    width, length = tags.get(_TIFF_TILE_WIDTH, 1), tags.get(_TIFF_TILE_LENGTH, 1)
    if not (isinstance(width, int) and isinstance(length, int)):
        raise ImageError("damaged TIFF file: invalid tile size")
    return width, length


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, of a loaded image; TIFFs are upright by then."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _METADATA_ERRORS:  # no reason to lose whole pixels
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(grey_eight_bit(image))
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _reason(error: Exception, name: str) -> str:
    """Return one line about a decoder's failure that is the same in every run."""
    if isinstance(error, MemoryError):
        return f"{name} file needs more memory than there is"
    if isinstance(error, Image.DecompressionBombError):
        return f"{name} file declares more pixels than Pillow allows"
    said = re.sub(r"<[^>]*>|0x[0-9a-f]+", "", " ".join(str(error).split()))
    said = "".join(letter for letter in said if letter.isprintable())[:_LONGEST_DETAIL].strip()
    if re.search(r"truncated|eof|end of file|not enough (image )?data", said, re.IGNORECASE):
        return f"{name} file is cut short"
    return f"damaged {name} file: {said or type(error).__name__}"
