"""Every way to write a sample comes out as the light that was meant, or as a reason."""

import struct
import zlib

import numpy as np
import pytest

from soapworks.errors import ImageError
from soapworks.images.reading import read_image

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK = 0, 1, 2, 5
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
GREY = np.array([[0, 64, 128, 255]], np.uint8)
COLOUR = np.dstack([GREY, 255 - GREY, GREY // 2])


def tiff(
    samples,
    *,
    photometric=BLACK_IS_ZERO,
    kind=UNSIGNED,
    order="<",
    planar=False,
    bits=None,
    width=4,
    extra=None,
    deflated=False,
):
    """Write a TIFF of one strip (or one per channel) by the book: TIFF 6.0, sections 2 and 8."""
    n = samples.shape[2] if samples.ndim == 3 else 1
    stored = np.moveaxis(samples, 2, 0) if planar else samples
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflated else data
    strip = len(data) // (n if planar else 1)
    tags = {
        256: [width],
        257: [1],
        258: [bits or samples.dtype.itemsize * 8] * n,
        259: [8 if deflated else 1],
        262: [photometric],
        273: [8 + strip * number for number in range(len(data) // strip)],
        277: [n],
        278: [1],
        279: [strip] * (len(data) // strip),
        284: [2 if planar else 1],
        338: [extra] if extra is not None else [],
        339: [kind] * n,
    }
    entries, tail = b"", b""
    tags = {tag: values for tag, values in tags.items() if values}
    place = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, tail = struct.pack(f"{order}I", place + len(tail)), tail + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + tail


def row(data):
    return np.asarray(read_image(data))[0]


def wide(samples, dtype):
    return samples.astype(dtype) * (np.iinfo(dtype).max // 255)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_of_either_byte_order(order, dtype):
    assert row(tiff(wide(GREY, dtype), order=order))[:, 0].tolist() == GREY[0].tolist()


@pytest.mark.parametrize("samples", [GREY, wide(GREY, np.uint16), (GREY / 255).astype(np.float32)])
def test_white_is_zero(samples):
    kind = FLOAT if samples.dtype.kind == "f" else UNSIGNED
    shown = row(tiff(samples, photometric=WHITE_IS_ZERO, kind=kind))[:, 0]
    assert shown.tolist() == (255 - GREY[0]).tolist()


@pytest.mark.parametrize(
    ("bits", "packed", "expected"),
    [
        (1, [0b01010000], [0, 255, 0, 255]),
        (2, [0b00011011], [0, 85, 170, 255]),
        (4, [0x04, 0x8F], [0, 68, 136, 255]),
    ],
)
def test_few_bits_reach_from_black_to_white(bits, packed, expected):
    samples = np.array([packed], np.uint8)
    assert row(tiff(samples, bits=bits))[:, 0].tolist() == expected
    inverted = row(tiff(samples, bits=bits, photometric=WHITE_IS_ZERO))[:, 0]
    assert inverted.tolist() == [255 - level for level in expected]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("planar", "dtype"), [(False, np.uint8), (False, np.uint16), (True, np.uint8)]
)
def test_colour_however_it_is_laid_out(order, planar, dtype):
    data = tiff(wide(COLOUR, dtype), photometric=RGB, order=order, planar=planar)
    np.testing.assert_array_equal(row(data), COLOUR[0])


def test_ink_of_sixteen_bits():
    ink = wide(np.dstack([COLOUR, np.zeros_like(GREY)]), np.uint16)
    np.testing.assert_array_equal(row(tiff(ink, photometric=CMYK)), 255 - COLOUR[0])


@pytest.mark.parametrize("extra", [0, 2])
def test_further_channels_are_dropped(extra):
    samples = np.dstack([COLOUR, np.full_like(GREY, 9)])
    np.testing.assert_array_equal(row(tiff(samples, photometric=RGB, extra=extra)), COLOUR[0])


def test_colour_multiplied_by_its_alpha_is_divided_by_it():
    samples = np.dstack([COLOUR // 2, np.full_like(GREY, 128)])
    shown = row(tiff(samples, photometric=RGB, extra=1)).astype(int)
    assert np.abs(shown - COLOUR[0]).max() <= 2


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (GREY.view(np.int8), SIGNED),
        (COLOUR.view(np.int8), SIGNED),
        (COLOUR.astype(np.int16), SIGNED),
        ((COLOUR / 255).astype(np.float32), FLOAT),
        ((COLOUR / 255).astype(np.float16), FLOAT),
        ((GREY / 255).astype(np.float64), FLOAT),
        (COLOUR.astype(np.uint32), UNSIGNED),
    ],
    ids=lambda value: getattr(value, "dtype", ""),
)
def test_samples_that_are_not_understood_are_a_reason(samples, kind):
    photometric = RGB if samples.ndim == 3 else BLACK_IS_ZERO
    with pytest.raises(ImageError, match="TIFF file"):
        read_image(tiff(samples, photometric=photometric, kind=kind))


@pytest.mark.parametrize("order", ["<", ">"])
def test_separate_planes_of_sixteen_bits_are_refused_not_stretched(order):
    with pytest.raises(ImageError, match="separate 16-bit planes"):
        read_image(tiff(wide(COLOUR, np.uint16), photometric=RGB, order=order, planar=True))


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        ((GREY / 255).astype(np.float32), FLOAT),
        (GREY.astype(np.int32), SIGNED),
        (GREY.astype(np.int16), SIGNED),
        (wide(GREY, np.uint16), UNSIGNED),
    ],
    ids=["float", "int32", "int16", "uint16"],
)
def test_compressed_samples_are_right_or_refused_in_either_byte_order(samples, kind):
    for deflated, order in ((False, "<"), (False, ">"), (True, "<")):
        shown = row(tiff(samples, kind=kind, order=order, deflated=deflated))[:, 0]
        assert shown.tolist() == GREY[0].tolist()
    data = tiff(samples, kind=kind, order=">", deflated=True)
    if samples.dtype == np.uint16:
        assert row(data)[:, 0].tolist() == GREY[0].tolist()
    else:
        with pytest.raises(ImageError, match="compressed big-endian samples"):
            read_image(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P1 4 1\n0 1 0 1\n", [255, 0, 255, 0]),
        (b"P2 4 1 15\n0 4 8 15\n", [0, 68, 136, 255]),
        (b"P2 4 1 4095\n0 1024 2048 4095\n", [0, 64, 128, 255]),
        (b"P5 4 1 100\n" + bytes([0, 25, 50, 100]), [0, 64, 128, 255]),
        (b"P5 4 1 4095\n" + np.array([0, 1024, 2048, 4095], ">u2").tobytes(), [0, 64, 128, 255]),
    ],
)
def test_pixmaps_of_any_white(data, expected):
    assert row(data)[:, 0].tolist() == expected
