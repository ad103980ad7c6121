"""Contract of synthesize: which image comes out, whatever is asked for together with it."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from soapworks.errors import InputError
from soapworks.synthesis._arguments import checked_recipe
from soapworks.synthesis._noise import weights as weights_of
from soapworks.synthesis._torch import TorchRenderer
from soapworks.synthesis.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KINDS,
    SPECS,
    renormalise,
    synthesize,
)

SIZES = (2, 7, 32)

# Pixels [0, 0, 0], [1, 3, 2], [2, 7, 7] of image 3 at 8 px, seed 0. They may only change together
# with the version of the spec, since stored products are keyed by it.
PINNED = {
    "authors": (1, (0.6859163, 0.3438462, 1.423459)),
    "balanced": (1, (0.8616484, 0.1317781, 0.2074336)),
}


@pytest.mark.parametrize("n", [0, 1, 5])
def test_makes_exactly_the_number_asked_for(n):
    images = synthesize(range(n), 8)
    assert images.shape == (n, 3, 8, 8)
    assert images.dtype == np.float32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_longer_set_begins_with_the_shorter_one(spec, size):
    long = synthesize(range(9), size, spec=spec, seed=3)
    assert synthesize(range(4), size, spec=spec, seed=3).tobytes() == long[:4].tobytes()


@pytest.mark.parametrize("size", [7, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_depend_on_neither_batch_nor_order(kind, size):
    together = synthesize(range(12), size, kind=kind, seed=1)
    order = np.random.default_rng(0).permutation(12)
    alone = np.concatenate([synthesize([i], size, kind=kind, seed=1) for i in range(12)])
    assert alone.tobytes() == together.tobytes()
    assert synthesize(order, size, kind=kind, seed=1).tobytes() == together[order].tobytes()
    assert synthesize([5, 5], size, kind=kind, seed=1)[1].tobytes() == together[5].tobytes()


def test_bytes_do_not_depend_on_the_number_of_threads():
    found = []
    n_before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            with threadpool_limits(n_threads):
                found.append(synthesize(range(3), 224).tobytes())
    finally:
        torch.set_num_threads(n_before)
    assert found[0] == found[1]


@pytest.mark.parametrize("spec", SPECS)
def test_pixels_of_a_version_never_change(spec):
    version, expected = PINNED[spec]
    assert SPECS[spec] == version
    image = synthesize([3], 8, spec=spec)[0]
    pixels = [image[0, 0, 0], image[1, 3, 2], image[2, 7, 7]]
    np.testing.assert_allclose(pixels, expected, rtol=1e-4)


def test_noise_of_images_seeds_and_specs_differs():
    sets = [
        synthesize(range(4), 16, kind="pink", spec=spec, seed=seed)
        for spec in SPECS
        for seed in (0, 1, 2**63 - 1)
    ]
    images = np.concatenate(sets).reshape(4 * len(sets), -1)
    distance = np.abs(images[:, None] - images[None]).mean(axis=-1)
    assert distance[~np.eye(len(images), dtype=bool)].min() > 0.5


@pytest.mark.parametrize("index", [0, 2**40, 2**63 - 1])
def test_far_images_are_as_near_as_the_first(index):
    assert np.isfinite(synthesize([index], 8)).all()
    assert not np.array_equal(synthesize([index], 8), synthesize([index - 1 if index else 1], 8))


@pytest.mark.parametrize("spec", SPECS)
def test_the_image_is_the_weighted_sum_of_its_parts(spec):
    weights = np.stack([weights_of(checked_recipe(spec, 2, 16), i) for i in range(6)])
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    parts = [synthesize(range(6), 16, kind=kind, spec=spec, seed=2) for kind in KINDS[1:]]
    expected = np.einsum("ik,kichw->ichw", weights, np.stack(parts))
    np.testing.assert_allclose(synthesize(range(6), 16, spec=spec, seed=2), expected, atol=1e-5)


def test_a_tensor_on_the_cpu_has_the_bytes_of_the_array():
    tensor = synthesize(range(3), 16, device="cpu")
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    assert tensor.numpy().tobytes() == synthesize(range(3), 16).tobytes()


@pytest.mark.parametrize("size", [*SIZES, 65])
@pytest.mark.parametrize("spec", SPECS)
def test_batches_in_torch_agree_with_single_images_in_numpy(spec, size):
    renderer = TorchRenderer(checked_recipe(spec, 11, size), torch.device("cpu"))
    indices = [0, 3, 2**40]
    # Deviations of a few units in the last place grow by 1/f-weighted sums, not by chance.
    np.testing.assert_allclose(
        renderer.images(indices), synthesize(indices, size, spec=spec, seed=11), atol=1e-5
    )
    for kind, part in renderer.parts(indices)._asdict().items():
        single = synthesize(indices, size, kind=kind, spec=spec, seed=11)
        np.testing.assert_allclose(part, single, atol=1e-5)


def test_batches_in_torch_ignore_autocast_and_inference_mode():
    renderer = TorchRenderer(checked_recipe("authors", 0, 32), torch.device("cpu"))
    plain = renderer.images([4, 5])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(renderer.images([4, 5]), plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("spec", SPECS)
def test_cuda_agrees_with_the_cpu(spec):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        images = synthesize(range(45), 224, spec=spec, device="cuda")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert images.device.type == "cuda"
    np.testing.assert_allclose(images.cpu(), synthesize(range(45), 224, spec=spec), atol=5e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((range(2), 8), {"spec": "autors"}, "choose authors or balanced"),
        (([0, -3], 8), {}, "one is -3"),
        (([0.5], 8), {}, "sequence of integers"),
        ((4, 8), {}, "sequence of integers"),
        (([2**63], 8), {}, "is 9223372036854775808"),
        ((range(2), 1), {}, "size is 1"),
        ((range(2), 8.0), {}, "size of synthetic images must be an integer"),
        ((range(2), 8), {"seed": -1}, "is -1"),
        ((range(2), 8), {"seed": 2**63}, "is 9223372036854775808"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        synthesize(*arguments, **options)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="mixture, modulated_white, pink or gradient"):
        synthesize(range(2), 8, kind="brown")


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_renormalise_goes_through_pixel_space(convert):
    images = synthesize(range(3), 8)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.125)
    found = renormalise(convert(images), mean, std)
    expected = np.empty_like(images)
    for c in range(3):
        pixels = images[:, c] * IMAGENET_STD[c] + IMAGENET_MEAN[c]
        expected[:, c] = (pixels - mean[c]) / std[c]
    assert type(found) is type(convert(images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == convert(images).dtype


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_renormalise_to_imagenet_returns_the_same_object(convert):
    images = convert(synthesize(range(1), 8))
    assert renormalise(images, IMAGENET_MEAN, list(IMAGENET_STD)) is images


@pytest.mark.parametrize(
    ("shape", "mean", "std"),
    [
        ((1, 3, 4, 4), (0, 0), (1, 1)),
        ((1, 3, 4, 4), (0, 0, 0), (1, 0, 1)),
        ((4, 4), (0,) * 3, (1,) * 3),
    ],
)
def test_renormalise_refuses_other_than_three_channels(shape, mean, std):
    with pytest.raises(InputError):
        renormalise(np.zeros(shape, dtype=np.float32), mean, std)
