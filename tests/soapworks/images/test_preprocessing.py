import json
from dataclasses import asdict

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from soapworks.errors import ImageError, InputError
from soapworks.images.preprocessing import Preprocessing, preprocessing_for
from soapworks.images.reading import read_image

from .photographs import CHINA, ROCKET, photograph

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


@pytest.fixture(scope="module", params=["wide", "tall", "odd", "tiny", "square"])
def image(request):
    china = read_image(CHINA.read_bytes())
    return {
        "wide": china.crop((0, 0, 640, 201)),
        "tall": read_image(ROCKET.read_bytes()).crop((0, 0, 123, 427)),
        "odd": china.crop((0, 0, 501, 375)),
        "tiny": photograph().resize((31, 17)),
        "square": china.crop((0, 0, 224, 224)),
    }[request.param]


def timms(image, size, **config):
    transform = timm.data.create_transform((3, size, size), is_training=False, **config)
    return transform(image).numpy()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.875), (224, 1.0), (96, 0.9), (518, 0.95)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_timm_mode_is_timms_own_transform(image, size, crop_pct, crop_mode, interpolation):
    cfg = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation}
    expected = timms(image, size, **cfg, **CLIP)
    ours = preprocessing_for("timm", size=size, pretrained_cfg=cfg, **CLIP).apply(image)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_crop_larger_than_the_image_is_padded_as_timm_does(image, crop_mode):
    cfg = {"crop_pct": 1.3, "crop_mode": crop_mode, "interpolation": "bicubic"}
    expected = timms(image, 75, **cfg, **IMAGENET)
    ours = preprocessing_for("timm", size=75, pretrained_cfg=cfg, **IMAGENET).apply(image)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_224.mae", "deit3_base_patch16_224.fb_in1k", "vit_base_patch16_siglip_512"],
)
def test_a_models_own_configuration(name):
    cfg = timm.get_pretrained_cfg(name)
    data = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
    size = data["input_size"][-1]
    expected = timm.data.create_transform(**data, is_training=False)(photograph()).numpy()
    for given in (cfg, cfg.to_dict()):
        ours = preprocessing_for(
            "timm", size=size, mean=data["mean"], std=data["std"], pretrained_cfg=given
        )
        np.testing.assert_array_equal(ours.apply(photograph()), expected)


def test_timm_without_a_configuration_is_timms_default():
    data = timm.data.resolve_data_config(pretrained_cfg={"input_size": (3, 64, 64)})
    expected = timm.data.create_transform(**data, is_training=False)(photograph()).numpy()
    ours = preprocessing_for("timm", size=64, **IMAGENET).apply(photograph())
    np.testing.assert_array_equal(ours, expected)


def test_squash_is_the_fallback_crop_of_torchvision_then_a_square_resize(image):
    from torchvision.transforms import RandomResizedCrop, functional

    # A scale that never fits makes torchvision fall back to its central crop.
    box = RandomResizedCrop.get_params(image, scale=[9.0, 9.0], ratio=[3 / 4, 4 / 3])
    cropped = functional.resized_crop(image, *box, [80, 80])
    expected = functional.normalize(functional.to_tensor(cropped), **IMAGENET).numpy()
    ours = preprocessing_for("squash", size=80, **IMAGENET).apply(image)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((400, 400), (0, 0, 400, 400)),
        ((400, 300), (0, 0, 400, 300)),
        ((300, 400), (0, 0, 300, 400)),
        ((600, 300), (100, 0, 500, 300)),
        ((300, 600), (0, 100, 300, 500)),
    ],
)
def test_squash_keeps_the_centre(shape, kept):
    # Outside of what is kept the image is red, and red must not bleed in.
    image = Image.new("RGB", shape, "red")
    image.paste("blue", kept)
    pixels = Preprocessing("squash", 32, (0, 0, 0), (1, 1, 1)).apply(image)
    assert pixels[0].max() == 0
    assert pixels[2].min() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes_are_squashed(shape):
    spec = preprocessing_for("squash", size=16, **IMAGENET)
    assert spec.apply(Image.new("RGB", shape)).shape == (3, 16, 16)


def test_resizing_that_would_explode_is_refused():
    spec = preprocessing_for("timm", size=224, **IMAGENET)
    with pytest.raises(ImageError, match="1 x 5000000 pixels are too long and narrow"):
        spec.apply(Image.new("RGB", (1, 5_000_000)))


def test_result_is_what_torch_takes_without_a_copy():
    pixels = preprocessing_for("squash", size=16, **IMAGENET).apply(photograph())
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert torch.from_numpy(pixels).shape == (3, 16, 16)


def test_fields_survive_json():
    for mode in ("squash", "timm"):
        spec = preprocessing_for(mode, size=16, **CLIP)
        assert Preprocessing(**json.loads(json.dumps(asdict(spec)))) == spec
        assert hash(spec) == hash(Preprocessing(**asdict(spec)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "stretch"}, "unknown preprocessing 'stretch'; known are squash, timm"),
        ({"interpolation": "random"}, "unknown interpolation 'random'; known are nearest"),
        ({"crop_mode": "corner"}, "unknown crop mode 'corner'"),
        ({"size": 0}, "image size is 0"),
        ({"size": 16.0}, "image size is 16.0"),
        ({"size": True}, "image size is True"),
        ({"std": (1, 0, 1)}, "must be above 0"),
        ({"mean": (1, 1)}, "three numbers"),
        ({"mean": None}, "three numbers"),
        ({"mean": (1, 1, float("nan"))}, "finite"),
        ({"crop_fraction": 0}, "crop fraction is 0.0"),
    ],
)
def test_bad_fields_are_refused(changed, message):
    fields = {"mode": "squash", "size": 16, **IMAGENET, **changed}
    with pytest.raises(InputError, match=message):
        Preprocessing(**fields)


def test_only_rgb_is_taken():
    with pytest.raises(InputError, match="mode L, but RGB"):
        preprocessing_for("squash", size=16, **IMAGENET).apply(photograph().convert("L"))
