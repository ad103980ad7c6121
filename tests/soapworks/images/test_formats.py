import io

import pytest
from PIL import Image, features

from soapworks.images.formats import (
    IMAGE_SUFFIXES,
    excess_of_jpeg,
    excess_of_pnm,
    identify_format,
    suffix_of,
    webp_canvas,
)

from .photographs import encoded, photograph


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("a.JPG", ".jpg"),
        ("b.c/d", ""),
        (".jpg", ""),
        ("x/.png", ""),
        ("a.b.Tiff", ".tiff"),
        ("a.", "."),
        ("new\nline.PNG", ".png"),
    ],
)
def test_suffix(path, suffix):
    assert suffix_of(path) == suffix


def test_every_suffix_belongs_to_a_format_that_pillow_reads():
    Image.init()
    known = Image.registered_extensions()
    names = {"MPO": "JPEG", "PPM": "PNM", "WEBP": "WebP"}
    for suffix in IMAGE_SUFFIXES - {".heic", ".heif", ".hif"}:
        pillows = known[suffix]
        data = encoded(photograph().convert("1") if suffix == ".pbm" else photograph(), pillows)
        assert identify_format(data) == names.get(pillows, pillows)
    assert features.check("webp")
    assert features.check("avif")


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        ((b"avif", b"mif1"), "AVIF"),
        ((b"mif1", b"miaf", b"avif"), "AVIF"),
        ((b"heic", b"mif1"), "HEIF"),
        ((b"mif1", b"heic"), "HEIF"),
        ((b"isom", b"mp42"), None),  # a video
        ((b"isom", *(99 * [b"mp42"]), b"avif"), None),  # no brand that far back counts
    ],
)
def test_brands_tell_the_iso_formats_apart(brands, expected):
    box = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    assert identify_format((len(box) + 4).to_bytes(4, "big") + box) == expected


def test_text_is_no_format():
    assert identify_format(b"Plain words, P6 or not") is None
    assert identify_format(b"P6") is None


@pytest.mark.parametrize("size", [(1, 1), (120, 90), (300, 1000)])
@pytest.mark.parametrize("kind", ["lossy", "lossless", "extended"])
def test_webp_canvas_is_what_pillow_sees(size, kind):
    image = photograph().resize(size)
    options = {"lossless": kind == "lossless", "exif": b"Exif\0\0" if kind == "extended" else b""}
    data = encoded(image, "WEBP", **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == size
    assert webp_canvas(data) == size
    assert webp_canvas(data[:20]) is None


def test_scans_are_counted_up_to_the_end_of_the_image():
    progressive = encoded(photograph(), "JPEG", progressive=True)
    n_scans = progressive.count(b"\xff\xda")
    assert n_scans > 5
    assert excess_of_jpeg(progressive, n_scans - 1) == f"more than {n_scans - 1} scans"
    assert excess_of_jpeg(progressive, n_scans) is None
    assert excess_of_jpeg(progressive + b"\xff\xda\0\2" * 99, n_scans) is None


def test_scans_inside_metadata_do_not_count():
    comment = b"\xff\xda\0\2" * 99
    data = encoded(photograph(), "JPEG", comment=comment)
    assert data.count(b"\xff\xda") == 100
    assert excess_of_jpeg(data, 1) is None
    assert excess_of_jpeg(data, 0) == f"more than {0} scans"


def test_pixmaps_of_white_space_are_not_taken_for_a_long_header():
    for magic in (b"P4 1024 1024\n", b"P5 300 300 255\n"):
        assert excess_of_pnm(magic + b" " * 131_072) is None
