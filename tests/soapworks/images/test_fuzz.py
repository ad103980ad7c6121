"""Seeded mutations of valid files: only `ImageError`, one verdict, bounded time and memory."""

import random
import subprocess
import sys
import time

import pytest
from PIL import Image

from soapworks.errors import ImageError
from soapworks.images.reading import check_image, read_image

from .photographs import encoded, photograph

MAX_PIXELS = 4_000_000
N_MUTATIONS = 40
MOST_SECONDS = 2.0  # of processor time to read one file; all are below 60 kB


def valid_files():
    image = photograph()
    transparent = photograph()
    transparent.putalpha(100)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return {
        "jpeg": encoded(image, "JPEG", exif=exif),
        "progressive": encoded(image, "JPEG", progressive=True),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "mpo": encoded(image, "MPO", save_all=True, append_images=[image]),
        "png": encoded(transparent, "PNG", exif=exif),
        "palette": encoded(image.quantize(30), "PNG", transparency=bytes(30)),
        "wide": encoded(image.convert("I;16"), "PNG"),
        "gif": encoded(image, "GIF", save_all=True, append_images=[transparent]),
        "bmp": encoded(image, "BMP"),
        "tiff": encoded(image, "TIFF", exif=exif),
        "lzw": encoded(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(image, "TIFF", compression="jpeg"),
        "float": encoded(image.convert("F"), "TIFF"),
        "webp": encoded(transparent, "WEBP", exif=exif),
        "ppm": encoded(image, "PPM"),
        "avif": encoded(transparent, "AVIF", exif=exif),
        "avif animation": encoded(image, "AVIF", save_all=True, append_images=[transparent]),
        "plain": b"P2 3 2 255\n0 1 2 # words\n3 4 255\n",
    }


def mutated(data, draw):
    data = bytearray(data)
    near_front = draw.random() < 0.6  # headers hold what confuses parsers
    span = min(len(data), 400) if near_front else len(data)
    kind = draw.randrange(5)
    if kind == 0:
        del data[draw.randrange(len(data)) :]
    elif kind == 1:
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(span)] ^= 1 << draw.randrange(8)
    elif kind == 2:
        at = draw.randrange(span)
        data[at:at] = draw.randbytes(draw.randrange(1, 40))
    elif kind == 3:
        at = draw.randrange(span)
        del data[at : at + draw.randrange(1, 40)]
    else:
        at = draw.randrange(span)
        data[at : at + 4] = draw.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(data)


def verdict(reader, data):
    started = time.thread_time()
    try:
        reader(data, max_pixels=MAX_PIXELS)
        assert time.thread_time() - started < MOST_SECONDS
    except ImageError as error:
        assert time.thread_time() - started < MOST_SECONDS
        reason = str(error)
        assert reason.isprintable()
        assert len(reason) < 200
        assert "0x" not in reason
        return reason
    return None


def fuzz(name, n_mutations=N_MUTATIONS):
    """Read mutations of one valid file and return how many of them were refused."""
    data = valid_files()[name]
    draw = random.Random(name)
    n_refused = 0
    for _ in range(n_mutations):
        sample = mutated(data, draw)
        reason = verdict(read_image, sample)
        assert (verdict(check_image, sample) is None) == (reason is None), sample
        assert verdict(read_image, sample) == reason
        n_refused += reason is not None
    return n_refused


@pytest.mark.parametrize("name", list(valid_files()))
def test_only_image_errors_come_out(name, capfd):
    assert verdict(read_image, valid_files()[name]) is None
    assert fuzz(name) > 0
    if name not in ("lzw", "tiff jpeg"):  # libtiff writes to file descriptor 2 by itself
        assert capfd.readouterr() == ("", "")


def test_memory_stays_bounded():
    # In a process of its own: the peak of this one belongs to other tests.
    script = """
import resource
from tests.soapworks.images.test_fuzz import fuzz, valid_files
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for name in valid_files():
    fuzz(name, 15)
print(peak() - before)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    # 4 million pixels of 4 bytes, as decoded, converted, and turned upright.
    assert int(done.stdout) < 100  # MiB
    assert "Warning" not in done.stderr
