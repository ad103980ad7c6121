import importlib.machinery
import io
import re
import struct
import sys
import time
import types
import warnings
import zlib

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image, ImageFile, PngImagePlugin

from soapworks.errors import ImageError
from soapworks.images import reading
from soapworks.images.reading import check_image, may_read_now, read_image

from .photographs import (
    ASTRONAUT,
    CHINA,
    ROCKET,
    encoded,
    photograph,
    png_chunk,
    png_declaring,
    sixteen_bit,
)

GREY = np.asarray(photograph().convert("L"))


def pixels(data):
    return np.asarray(read_image(data))


@pytest.mark.parametrize("path", [ASTRONAUT, ROCKET, CHINA], ids=lambda path: path.name)
def test_photographs_read_as_the_fields_loaders_read_them(path):
    data = path.read_bytes()
    image = read_image(data)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(opened.convert("RGB")))
    assert image.mode == "RGB"
    assert image.info == {}
    assert check_image(data).size == image.size


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_pixels_back(file_format, options):
    data = encoded(photograph(), file_format, **options)
    np.testing.assert_array_equal(pixels(data), np.asarray(photograph()))
    assert check_image(data).size == (120, 90)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 0}),
        ("MPO", {}),
        ("WEBP", {"quality": 95}),
        ("AVIF", {"quality": 95}),
        ("TIFF", {"compression": "jpeg"}),
        ("GIF", {}),
    ],
)
def test_lossy_formats_give_nearly_the_pixels_back(file_format, options):
    data = encoded(photograph(), file_format, **options)
    errors = pixels(data).astype(int) - np.asarray(photograph())
    assert np.abs(errors).mean() < 8
    assert check_image(data).size == (120, 90)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "PPM"])
def test_grey_is_repeated_in_all_channels(file_format):
    image = pixels(encoded(Image.fromarray(GREY), file_format))
    assert np.ptp(image, axis=2).max() == 0
    assert np.abs(image[..., 0].astype(int) - GREY).mean() < 6


def test_one_bit_is_black_and_white():
    bits = photograph().convert("1")
    for file_format in ("PNG", "TIFF", "PPM", "BMP"):
        expected = np.asarray(bits).astype(np.uint8) * 255
        np.testing.assert_array_equal(pixels(encoded(bits, file_format))[..., 1], expected)


def test_palette_is_looked_up():
    image = photograph().quantize(64)
    palette = np.array(image.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(pixels(encoded(image, "PNG")), palette[np.asarray(image)])


def test_alpha_is_dropped_not_composited():
    alpha = Image.linear_gradient("L").resize((120, 90))
    image = photograph()
    image.putalpha(alpha)
    for file_format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        seen = alpha.point(lambda value: 255 * (value > 0))  # WebP may clear what is invisible
        shown = np.asarray(seen) > 0
        data = encoded(image, file_format, **options)
        np.testing.assert_array_equal(pixels(data)[shown], np.asarray(photograph())[shown])


def test_grey_with_alpha():
    image = Image.fromarray(GREY)
    image.putalpha(128)
    np.testing.assert_array_equal(pixels(encoded(image, "PNG"))[..., 2], GREY)


def test_transparent_palette_entry_keeps_its_colour():
    image = photograph().quantize(16)
    opaque = pixels(encoded(image, "PNG"))
    np.testing.assert_array_equal(pixels(encoded(image, "PNG", transparency=3)), opaque)
    np.testing.assert_array_equal(pixels(encoded(image, "PNG", transparency=bytes(16))), opaque)


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(file_format):
    # Pillow writes CMYK JPEGs as Adobe does: inverted, with Adobe's marker.
    cmyk = photograph().convert("CMYK")
    data = encoded(cmyk, file_format)
    ink = 255 - np.asarray(cmyk).astype(float)
    expected = ink[..., :3] * ink[..., 3:] / 255
    assert np.abs(pixels(data) - expected).mean() < 8
    assert (b"Adobe" in data) == (file_format == "JPEG")


def test_animation_gives_its_first_frame():
    frames = [photograph(), Image.new("RGB", (120, 90), "red")]
    for file_format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
        errors = pixels(data).astype(int) - np.asarray(photograph())
        assert np.abs(errors).mean() < 8


def transposed(array, orientation):
    """Undo an EXIF orientation: rows and columns as the EXIF standard, 4.6.4 A, names them."""
    steps = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    return steps[orientation](array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    stored = pixels(encoded(photograph(), file_format, **options))
    data = encoded(photograph(), file_format, exif=exif, **options)
    upright = transposed(stored, orientation)
    np.testing.assert_array_equal(pixels(data), upright)
    assert check_image(data).size == upright.shape[1::-1]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_counts_as_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_image(encoded(photograph(), "JPEG", exif=exif)).size == (120, 90)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_cost_the_photograph(file_format):
    stored = pixels(encoded(photograph(), file_format))
    for block in (b"Exif\0\0", b"Exif\0\0XX*\0\1\2\3\4", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12"):
        data = encoded(photograph(), file_format, exif=block)
        np.testing.assert_array_equal(pixels(data), stored)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(sixteen_bit(photograph())),
        Image.fromarray(sixteen_bit(photograph()).astype(np.int32)),
        Image.fromarray((GREY / 255).astype(np.float32)),
        Image.fromarray(GREY.astype(np.float32)),
    ],
    ids=["I;16", "I", "F of 1", "F of 255"],
)
def test_wide_samples_are_scaled_not_clipped(image):
    data = encoded(image, "TIFF")
    np.testing.assert_array_equal(pixels(data)[..., 0], GREY)
    assert check_image(data).size == (120, 90)


@pytest.mark.parametrize("file_format", ["PNG", "PPM"])
def test_sixteen_bit_grey(file_format):
    image = Image.fromarray(sixteen_bit(photograph()))
    if file_format == "PPM":
        image = image.convert("I")
    np.testing.assert_array_equal(pixels(encoded(image, file_format))[..., 0], GREY)


def test_sixteen_bit_colour_png():
    samples = np.asarray(photograph()).astype(">u2") * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", 120, 90, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    np.testing.assert_array_equal(pixels(data), np.asarray(photograph()))


def test_content_counts_not_the_name():
    assert read_image(encoded(photograph(), "PNG")).size == (120, 90)


@pytest.mark.parametrize("reader", [read_image, check_image])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (
            b"These are words.\n",
            "not an image: neither JPEG, PNG, GIF, BMP, TIFF, WebP, PNM, AVIF nor HEIF",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png_declaring(60000, 60000), r"declares 60000 x 60000 pixels, more than the limit"),
        (png_declaring(0, 10), "damaged PNG file"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"GIF89a", "GIF"),
    ],
)
def test_refusals(reader, data, reason):
    with pytest.raises(ImageError, match=reason):
        reader(data)


@pytest.mark.parametrize("reader", [read_image, check_image])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_every_cut_through_a_jpeg_is_found(reader, options):
    data = encoded(photograph(), "JPEG", **options)
    for length in [*range(1, len(data) - 40, 83), *range(len(data) - 40, len(data))]:
        with pytest.raises(ImageError):
            reader(data[:length])


@pytest.mark.parametrize("reader", [read_image, check_image])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", "AVIF"])
def test_half_a_file_is_found(reader, file_format):
    data = encoded(photograph(), file_format)
    with pytest.raises(ImageError, match=r"cut short|damaged"):
        reader(data[: len(data) // 2])


def test_flipped_bit_in_a_png_is_found():
    data = bytearray(encoded(photograph(), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="damaged PNG"):
        read_image(bytes(data))


def test_pillows_settings_stay_and_do_not_matter(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(encoded(photograph(), "PNG")).size == (120, 90)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_process_that_loads_truncated_images_is_told(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        read_image(encoded(photograph(), "PNG"))


def test_out_of_memory_is_a_reason(monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setitem(reading._OPENERS, "PNG", exhausted)
    with pytest.raises(ImageError, match="more memory than there is") as caught:
        read_image(encoded(photograph(), "PNG"))
    assert may_read_now(str(caught.value))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_huge_compressed_metadata_is_refused_or_left_alone(kind):
    whole = encoded(photograph(), "PNG")
    payload = b"name\0\0" + zlib.compress(bytes(200_000_000 // 8))
    data = whole[:33] + png_chunk(kind, payload) + whole[33:]
    try:
        assert read_image(data).size == (120, 90)
    except ImageError as error:
        assert len(str(error)) < 200  # noqa: PT017  both outcomes are fine


def test_jpeg_of_endless_scans_is_refused():
    data = encoded(photograph(), "JPEG", progressive=True)
    last_scan = data[data.rfind(b"\xff\xda") : -2]
    assert read_image(data[:-2] + last_scan * 3 + data[-2:]).size == (120, 90)
    with pytest.raises(ImageError, match="more than 200 scans"):
        read_image(data[:-2] + last_scan * 300 + data[-2:])


def test_a_large_jpeg_may_have_fewer_scans():
    data = encoded(Image.new("L", (8000, 8000)), "JPEG", progressive=True)
    last_scan = data[data.rfind(b"\xff\xda") : -2]
    assert check_image(data).size == (8000, 8000)
    with pytest.raises(ImageError, match="more than 33 scans"):
        check_image(data[:-2] + last_scan * 40 + data[-2:])


JPEG = encoded(photograph(), "JPEG")
EXIF = b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65527)
SLOW = {
    "fill bytes": lambda: JPEG[:2] + b"\xff" * 4_000_000 + JPEG[2:],
    "tiny segments": lambda: JPEG[:2] + b"\xff\xe3\0\2" * 1_000_000 + JPEG[2:],
    "metadata": lambda: JPEG[:2] + EXIF * 600 + JPEG[2:],  # joined anew for every piece
    "long header": lambda: b"P5 #" + b"x" * 4_000_000 + b"\n1 1 255\n0",
    "wide header": lambda: b"P5" + b" " * 4_000_000 + b"1 1 255\n0",
    "comments": lambda: b"P2 4 1 255 " + b"#\n" * 500_000 + b"1 2 3 4",
}


@pytest.mark.parametrize("name", list(SLOW))
def test_files_that_would_keep_a_decoder_busy_are_refused_at_once(name):
    data = SLOW[name]()
    started = time.process_time()
    with pytest.raises(ImageError, match=r"oversized header|too many comments"):
        read_image(data)
    assert time.process_time() - started < 1  # Pillow alone takes seconds, of larger ones hours


def test_jpeg_with_something_appended_is_read():
    data = encoded(photograph(), "JPEG")
    assert read_image(data + b"\xff\xda\0\2" * 5000).size == (120, 90)


def test_reasons_are_one_line_without_addresses():
    for data in (b"\xff\xd8\xff" + bytes(50), b"BM" + bytes(50), b"II*\0" + bytes(50)):
        with pytest.raises(ImageError) as caught:
            read_image(data)
        assert str(caught.value).isprintable()
        assert not re.search("0x|object", str(caught.value))


def test_what_changes_from_run_to_run_is_left_out_of_the_reason(monkeypatch):
    def failing(file, _):
        raise OSError(f"cannot do\n{file!r} at 0x7f3a " + "x" * 500)

    monkeypatch.setitem(reading._OPENERS, "PNG", failing)
    reasons = set()
    for data in (encoded(photograph(), "PNG"), encoded(photograph(), "PNG")):
        with pytest.raises(ImageError) as caught:
            read_image(data)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    (reason,) = reasons
    assert reason.startswith("damaged PNG file: cannot do  at  xxx")
    assert len(reason) < 130


def test_warnings_of_pillow_do_not_leak_and_others_stay():
    with Image.open(io.BytesIO(encoded(photograph(), "TIFF"))) as image:
        image.tag_v2[700] = b"x"
        data = encoded(photograph(), "TIFF", tiffinfo=image.tag_v2)
    at = data.find(struct.pack("<H", 305), 8)
    broken = bytearray(data)
    broken[10:12] = struct.pack("<H", 60000)  # a tag that TIFF readers warn of
    assert at
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for length in range(20, len(data), 500):
            with pytest.raises(ImageError):
                read_image(bytes(broken[:length]))
        warnings.warn("ours", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["ours"]
    assert list(warnings.filters) == filters


def test_a_pillow_without_avif_is_a_reason_with_its_cure(monkeypatch):
    data = encoded(photograph(), "AVIF")
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(ImageError, match="install Pillow from its own wheel") as caught:
        read_image(data)
    assert not may_read_now(str(caught.value))
    monkeypatch.undo()
    assert may_read_now(str(caught.value))
    assert read_image(data).size == (120, 90)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"


def test_heic_without_the_plug_in_is_a_reason_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        read_image(HEIC)


def test_heic_is_read_by_the_plug_in(monkeypatch):
    def open_heif(file, name):
        assert file.read() == HEIC
        return PngImagePlugin.PngImageFile(io.BytesIO(encoded(photograph(), "PNG")), name)

    plug_in = types.ModuleType("pillow_heif")
    plug_in.HeifImageFile = open_heif
    plug_in.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    np.testing.assert_array_equal(pixels(HEIC), np.asarray(photograph()))
    assert may_read_now(reading.NO_HEIF)


def test_real_heic_is_upright():
    heif = pytest.importorskip("pillow_heif")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        heif.from_pillow(photograph()).save(buffer, exif=exif.tobytes(), quality=95)
        upright = transposed(np.asarray(photograph()), orientation)
        assert np.abs(pixels(buffer.getvalue()).astype(int) - upright).mean() < 8
        assert check_image(buffer.getvalue()).size == upright.shape[1::-1]


def test_what_an_earlier_version_did_not_know_is_tried_again():
    assert may_read_now("not an image: neither JPEG, PNG nor PNM by its first bytes")
    for reader in (read_image, check_image):
        with pytest.raises(ImageError) as caught:
            reader(b"These are words.")
        assert not may_read_now(str(caught.value))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0, 4095]], np.uint16), 16 / 255),
        (np.array([[0, 65535]], np.uint16), 1),
        (np.array([[0, 4095]], np.int32), 16 / 255),
        (np.array([[0, 1.02]], np.float32), 1 / 255),
        (np.array([[0, 9]], np.uint8), None),
    ],
    ids=["12 bits in 16", "16 bits", "12 bits in 32", "overshooting float", "8 bits"],
)
def test_how_bright_wide_samples_get_is_known(samples, expected):
    assert check_image(encoded(Image.fromarray(samples), "TIFF")).brightest == expected


@pytest.mark.parametrize("colour", [0, 2], ids=["grey", "RGB"])
def test_twelve_bits_in_a_sixteen_bit_png_are_known_to_be_dark(colour):
    header = struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0)
    rows = zlib.compress(b"\0" + (b"\x0f\xff" * (colour + 1)))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert check_image(data).brightest in (15 / 255, 16 / 255)


def test_further_pages_are_known():
    pages = {"save_all": True, "append_images": [photograph()]}
    assert check_image(encoded(photograph(), "TIFF", **pages)).has_pages
    assert not check_image(encoded(photograph(), "TIFF")).has_pages
    assert not check_image(encoded(photograph(), "GIF", **pages)).has_pages


def test_signed_eight_bits_do_not_wrap():
    data = bytearray(encoded(Image.fromarray(GREY), "TIFF", tiffinfo={339: 1}))
    at = data.find(struct.pack("<HHIH", 339, 3, 1, 1), 8)
    assert at > 0
    np.testing.assert_array_equal(pixels(bytes(data))[..., 0], GREY)
    data[at + 8] = 2
    with pytest.raises(ImageError, match="signed 8-bit samples"):
        read_image(bytes(data))
