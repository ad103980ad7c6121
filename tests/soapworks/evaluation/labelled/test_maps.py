"""Files of labels: the integers as stored, or one sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from soapworks.errors import ImageError, InputError
from soapworks.evaluation.labelled import LabelRule, read_label_map, read_mask
from soapworks.evaluation.labelled.maps import read_samples


def encoded(image, name="PNG"):
    file = io.BytesIO()
    image.save(file, name)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_samples_are_read_as_stored(dtype):
    labels = np.arange(12, dtype=dtype).reshape(3, 4) * 20
    if dtype == np.uint16:
        labels *= 250  # beyond 8 bits
    np.testing.assert_array_equal(read_samples(encoded(Image.fromarray(labels))), labels)


def test_of_a_palette_the_indices_are_labels():
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8), "L").convert("P")
    image.putdata([0, 1, 2, 255])
    image.putpalette([value for index in range(256) for value in (255 - index, 7, index)])
    assert read_samples(encoded(image)).tolist() == [[0, 1], [2, 255]]


def test_grey_in_three_channels_is_one_label():
    grey = np.array([[0, 9]], np.uint8)
    image = Image.fromarray(np.stack([grey] * 3, axis=2))
    assert read_samples(encoded(image)).tolist() == [[0, 9]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no label file"),
        (b"text", "no label file"),
        (encoded(Image.new("RGB", (2, 2), "red")), "in colours"),
        (encoded(Image.new("RGBA", (2, 2), (1, 1, 1, 9))), "transparent"),
        (encoded(Image.new("L", (64, 64)))[:60], "damaged PNG"),
    ],
)
def test_a_file_that_holds_no_labels_has_a_reason(data, message):
    with pytest.raises(ImageError, match=message):
        read_samples(data)


def test_a_bomb_is_refused_before_it_is_decoded():
    with pytest.raises(ImageError, match="limit of 15"):
        read_samples(encoded(Image.new("L", (4, 4))), max_pixels=15)


@pytest.mark.parametrize("white", [1, 255])
def test_a_mask_has_two_values(white):
    data = encoded(Image.fromarray(np.array([[0, white]], np.uint8)))
    assert read_mask(data, LabelRule()).tolist() == [[False, True]]


def test_a_mask_that_is_not_binary_is_refused_or_cut():
    data = encoded(Image.fromarray(np.array([[0, 90, 200, 255]], np.uint8)))
    with pytest.raises(InputError, match=r"not binary: it holds 0, 90, 200, 255.*cut at"):
        read_mask(data, LabelRule())
    assert read_mask(data, LabelRule(cut=127)).tolist() == [[False, False, True, True]]


def test_unknown_labels_are_refused_unless_ignored():
    data = encoded(Image.fromarray(np.array([[0, 150, 151]], np.uint8)))
    with pytest.raises(InputError, match="unknown label 151: known are 1 to 150, ignored 0"):
        read_label_map(data, LabelRule(ignore=(0,), known=(1, 150)))
    rule = LabelRule(ignore=(0, 151), known=(1, 150))
    assert read_label_map(data, rule).tolist() == [[0, 150, 151]]
