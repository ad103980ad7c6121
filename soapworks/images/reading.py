"""Decode one image file to upright 8-bit RGB pixels, or give one short reason why not.

Nothing but `ImageError` leaves this module, whatever the bytes are. The declared size is checked
before anything of that size is allocated, only the decoder that the first bytes call for is run,
and no process-wide setting of Pillow is changed.
"""

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import (
    AvifImagePlugin,
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
from soapworks.images.formats import (
    FORMAT_NAMES,
    excess_of_jpeg,
    excess_of_pnm,
    identify_format,
    webp_canvas,
)
from soapworks.images.high_bit_depth import grey_eight_bit
from soapworks.images.pillow_warnings import pillow_quiet
from soapworks.images.tiff_samples import (
    bits_per_sample,
    has_further_pages,
    refuse_misread_samples,
    tile_shape,
)

DEFAULT_MAX_PIXELS = 2**30 // 12
"""Pixels (width times height) above which an image is refused: 89 million, Pillow's own mark."""

NO_AVIF = "AVIF file, which this Pillow cannot read: install Pillow from its own wheel"
NO_HEIF = "HEIF file (HEIC), which takes a plug-in to read: pip install pillow-heif"


def _open_avif(file: io.BytesIO, name: str) -> ImageFile.ImageFile:
    if not AvifImagePlugin.SUPPORTED:
        raise ImageError(NO_AVIF)
    return AvifImagePlugin.AvifImageFile(file, name)


def _open_heif(file: io.BytesIO, name: str) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError(NO_HEIF) from None
    return HeifImageFile(file, name)


_OPENERS: dict[str, Callable[[Any, str], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
    "AVIF": _open_avif,
    "HEIF": _open_heif,
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
_PNG_DEPTH_AT = 24  # of the byte in a PNG's header that holds the bits per sample
_METADATA_ERRORS = (
    *(SyntaxError, ValueError, LookupError, TypeError, AttributeError, OSError, EOFError),
    *(ArithmeticError, struct.error),
)
# Scans of a progressive JPEG, each of which may cost a pass over all pixels.
_MOST_SCANS, _USUAL_SCANS, _MOST_SCANNED_PIXELS = 200, 24, 2**31
_NO_MEMORY = " needs more memory than there is"
_LONGEST_DETAIL = 100  # characters of a decoder's own words that a reason quotes


@dataclass(frozen=True)
class ImageFacts:
    """What decoding a file tells about it."""

    size: tuple[int, int]
    """Width and height of the upright image, pixels."""
    brightest: float | None = None
    """Largest sample after scaling to 8 bits, as a share of white; None where the file's own
    samples have 8 bits or fewer."""
    has_pages: bool = False
    """Whether a TIFF holds further pages, which are not read."""


def read_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    r"""Decode one image file to upright 8-bit RGB.

    * The EXIF orientation is applied; an EXIF block that cannot be parsed counts as none.
    * An alpha channel or a transparent palette entry is dropped, not composited, and colour
      profiles are ignored: that is what ``convert("RGB")`` does, and so what the loaders do with
      which these models are trained and evaluated (torchvision, timm).
    * A JPEG that is cut short is always found. Flipped bits inside of a JPEG's entropy-coded data
      mostly are not: the format has no checksum, and the decoder goes on with wrong pixels.
    * Of animations and multi-page files the first frame is taken.
    * Grey samples of 12, 16 and 32 bits are scaled to 8 (see `high_bit_depth`); colour samples of
      16 bits keep their high byte, as Pillow reads them. TIFFs that Pillow would misread are
      refused: signed samples of 8 bits, uncompressed separate planes of 16 bits, and compressed
      big-endian floats, signed 16-bit and 32-bit samples.

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

    Examples
    --------
    >>> image = read_image(b"P5 2 1 255\n\x00\xff")
    >>> [image.getpixel((column, 0)) for column in range(2)]
    [(0, 0, 0), (255, 255, 255)]
    """
    return _decode(data, max_pixels, thumbnail=False)[0]


def check_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFacts:
    r"""Decode one image file only to learn whether `read_image` would.

    JPEGs are decoded at an eighth of their size: every bit of the file is still parsed, so a file
    that is cut short is found, in 0.6 (baseline) to 0.9 (progressive) of the full decode's time.

    Parameters
    ----------
    data, max_pixels
        As in `read_image`.

    Returns
    -------
    ImageFacts

    Raises
    ------
    ImageError
        As in `read_image`.

    Examples
    --------
    >>> check_image(b"P5 2 1 255\n\x00\xff").size
    (2, 1)
    """
    return _decode(data, max_pixels, thumbnail=True)[1]


def may_read_now(reason: str) -> bool:
    """Return whether a file refused elsewhere or earlier deserves another try here.

    Parameters
    ----------
    reason
        The message of the `ImageError` then.

    Examples
    --------
    >>> may_read_now("empty file")
    False
    """
    if reason == NO_HEIF:
        return find_spec("pillow_heif") is not None
    if reason == NO_AVIF:
        return AvifImagePlugin.SUPPORTED
    if reason.endswith(_NO_MEMORY):
        return True
    # Refused by an earlier version, which knew fewer formats.
    return reason.startswith("not an image") and FORMAT_NAMES[-1] not in reason


def _decode(data: bytes, max_pixels: int, *, thumbnail: bool) -> tuple[Image.Image, ImageFacts]:
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
            if name == "JPEG":
                _refuse_excess(excess_of_jpeg(data, _MOST_SCANS), name)
            if name == "PNM":
                _refuse_excess(excess_of_pnm(data), name)
            if name == "WebP" and (canvas := webp_canvas(data)):
                _refuse_bomb(canvas, max_pixels)
            with _OPENERS[name](io.BytesIO(data), "") as image:
                _refuse_bomb(image.size, max_pixels)
                _refuse_bomb(tile_shape(image), max_pixels)
                refuse_misread_samples(image)
                size = image.size
                if isinstance(image, JpegImagePlugin.JpegImageFile):
                    affordable = _MOST_SCANNED_PIXELS // max(1, size[0] * size[1])
                    if affordable < _MOST_SCANS:
                        _refuse_excess(excess_of_jpeg(data, max(affordable, _USUAL_SCANS)), name)
                    if thumbnail:
                        image.draft(None, (1, 1))
                image.load()
                orientation = _orientation(image)
                rgb = _to_rgb(image)
                facts = ImageFacts(
                    size[::-1] if orientation in _SIDEWAYS else size,
                    _brightest(rgb) if _has_wide_samples(image, name, data) else None,
                    has_further_pages(image),
                )
            if orientation != 1:
                rgb = rgb.transpose(_UPRIGHT[orientation])
            return rgb, facts
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


def _refuse_excess(excess: str | None, name: str) -> None:
    if excess:
        raise ImageError(f"{name} file with {excess}")


def _has_wide_samples(image: ImageFile.ImageFile, name: str, data: bytes) -> bool:
    """Return whether samples have more than 8 bits and the file does not declare their white."""
    return data[_PNG_DEPTH_AT] > 8 if name == "PNG" else max(bits_per_sample(image)) > 8


def _brightest(rgb: Image.Image) -> float:
    return int(np.asarray(rgb).max()) / 255


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
        return f"{name} file{_NO_MEMORY}"
    if isinstance(error, Image.DecompressionBombError):
        return f"{name} file declares more pixels than Pillow allows"
    said = re.sub(r"<[^>]*>|0x[0-9a-f]+", "", " ".join(str(error).split()))
    said = "".join(letter for letter in said if letter.isprintable())[:_LONGEST_DETAIL].strip()
    if re.search(r"truncated|eof|end of file|not enough (image )?data", said, re.IGNORECASE):
        return f"{name} file is cut short"
    return f"damaged {name} file: {said or type(error).__name__}"
