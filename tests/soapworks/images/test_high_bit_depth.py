import numpy as np
import pytest
from PIL import Image

from soapworks.errors import ImageError
from soapworks.images.high_bit_depth import grey_eight_bit
from soapworks.images.reading import read_image

from .photographs import encoded


def grey(samples):
    return np.asarray(read_image(encoded(Image.fromarray(samples), "TIFF")))[0, :, 0].tolist()


def test_sixteen_bits_are_rounded_to_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    exact = [round(255 * value / 65535) for value in range(65536)]
    assert grey_eight_bit(Image.fromarray(values)).ravel().tolist() == exact


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0.0, 0.25, 1.0]], np.float32), [0, 64, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 257.0, 65535.0]], np.float32), [0, 1, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[-3e38, 0.0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[-7, -7, -7]], np.int32), [0, 0, 0]),
    ],
)
def test_samples_that_do_not_say_what_white_is(samples, expected):
    assert grey(samples) == expected


def tiff_with(samples, **replaced_tags):
    data = bytearray(encoded(Image.fromarray(samples), "TIFF"))
    for tag, value in ((int(name[1:]), value) for name, value in replaced_tags.items()):
        at = data.find(tag.to_bytes(2, "little") + b"\3\0\1\0\0\0", 8)
        assert at > 0
        data[at + 8 : at + 10] = value.to_bytes(2, "little")
    return bytes(data)


def test_unsigned_32_bits_do_not_wrap():
    samples = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    data = tiff_with(samples.view(np.int32), t339=1)
    assert np.asarray(read_image(data))[0, :, 0].tolist() == [0, 128, 255]


def test_white_is_zero_is_turned_round():
    data = tiff_with(np.array([[0, 32768, 65535]], np.uint16), t262=0)
    assert np.asarray(read_image(data))[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_is_refused(bad):
    with pytest.raises(ImageError, match="NaN or infinite"):
        grey(np.array([[0.0, bad, 1.0]], np.float32))
