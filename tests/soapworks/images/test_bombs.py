"""Files that declare more pixels than they should be allowed to cost."""

import struct

import pytest
from PIL import Image, ImageFile

from soapworks.errors import ImageError
from soapworks.images import reading
from soapworks.images.reading import read_image

from .photographs import encoded, photograph, png_declaring


def declaring_bmp(width, height):
    data = bytearray(encoded(Image.new("RGB", (1, 1)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def declaring_tiff(replaced_tag, tag, value):
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "TIFF"))
    at = data.find(struct.pack("<HHI", replaced_tag, 4, 1), 8)
    assert at > 0
    data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def declaring_webp(width, height):
    image = Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    data = bytearray(encoded(image, "WEBP", save_all=True, append_images=[Image.new("L", (8, 8))]))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


@pytest.mark.parametrize(
    "bomb",
    [
        png_declaring(20000, 20000),
        declaring_bmp(20000, 20000),
        b"GIF89a" + struct.pack("<HHBBB", 20000, 20000, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\1\0\0;",
        b"P6 20000 20000 255\n",
        declaring_tiff(256, 256, 20_000_000),
        declaring_tiff(278, 322, 200_000_000),
        declaring_webp(20000, 20000),
    ],
    ids=["PNG", "BMP", "GIF", "PPM", "TIFF", "TIFF tile", "WebP"],
)
def test_bombs_of_every_format_are_refused_before_decoding(bomb, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(ImageError, match=r"declares \d+ x \d+ pixels, more than the limit of"):
        read_image(bomb)


def test_webp_canvas_is_checked_before_its_decoder_exists(monkeypatch):
    monkeypatch.setitem(reading._OPENERS, "WebP", lambda *_: pytest.fail("was opened"))
    for options in ({"lossless": True}, {"lossless": False}):
        with pytest.raises(ImageError, match="declares 120 x 90 pixels"):
            read_image(encoded(photograph(), "WEBP", **options), max_pixels=1000)


def test_limit_is_per_call_and_exact():
    data = encoded(photograph(), "PNG")
    assert read_image(data, max_pixels=120 * 90).size == (120, 90)
    with pytest.raises(ImageError, match="limit of 10799"):
        read_image(data, max_pixels=120 * 90 - 1)
    assert read_image(data).size == (120, 90)
