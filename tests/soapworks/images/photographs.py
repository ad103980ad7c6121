"""Real photographs that ship with scikit-learn and scikit-image, and files made of them."""

import io
import struct
import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def _installed(package: str) -> Path:
    """Return a package's folder without the seconds that importing it takes."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


ASTRONAUT = _installed("skimage") / "data" / "astronaut.png"
ROCKET = _installed("skimage") / "data" / "rocket.jpg"
CHINA = _installed("sklearn") / "datasets" / "images" / "china.jpg"


@cache
def _photograph() -> Image.Image:
    with Image.open(ASTRONAUT) as image:
        return image.convert("RGB").resize((120, 90))


def photograph() -> Image.Image:
    """Return a 120 x 90 crop-free reduction of a real photograph."""
    return _photograph().copy()


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_declaring(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def sixteen_bit(image: Image.Image) -> np.ndarray:
    """Return the grey photograph in 16 bits, each 8-bit value v as exactly 257 v."""
    return np.asarray(image.convert("L")).astype(np.uint16) * 257
