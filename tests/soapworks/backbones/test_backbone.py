"""The contract of a backbone: layers, one pass, precision, input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soapworks.backbones import Backbone, build_backbone, describe_architecture, open_checkpoint
from soapworks.errors import CheckpointError, InputError, LayerError
from tests.soapworks.backbones.conftest import plain_model

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(save_folder: Callable[..., Path]) -> Path:
    model = plain_model("vit_base_patch16_224", img_size=64, depth=4)
    return save_folder(model, "vit_base_patch16_224", img_size=64, depth=4)


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return build_backbone(open_checkpoint(str(folder)))


def _n_hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _blocks_run(backbone: Backbone, layers: str) -> list[int]:
    run: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda _m, _a, index=index: run.append(index))
        for index, block in enumerate(backbone.model.blocks)
    ]
    backbone.features(IMAGES, layers)
    for handle in handles:
        handle.remove()
    return run


@pytest.mark.parametrize(
    ("layers", "n_blocks"),
    [("blocks.0", 1), ("blocks.2.mlp,blocks.1", 3), ("blocks.1.attn.q", 2), ("all", 4)],
)
def test_one_pass_that_ends_with_the_deepest_layer(
    backbone: Backbone, layers: str, n_blocks: int
) -> None:
    assert _blocks_run(backbone, layers) == list(range(n_blocks))


def test_the_deepest_block_ends_with_the_tap(backbone: Backbone) -> None:
    run: list[str] = []
    block = backbone.model.blocks[1]
    for name in ("attn.qkv", "attn.proj", "mlp"):
        block.get_submodule(name).register_forward_hook(lambda *_a, name=name: run.append(name))
    backbone.features(IMAGES, "blocks.1.attn.kqv,blocks.0")
    assert run == ["attn.qkv"]


def test_hooks_are_gone_afterwards(backbone: Backbone) -> None:
    backbone.features(IMAGES, "all,blocks.1.mlp,blocks.3.attn.kqv")
    assert _n_hooks(backbone.model) == 0


def test_hooks_are_gone_after_an_error(backbone: Backbone) -> None:
    backbone.model.blocks[2].mlp.fc1 = torch.nn.Linear(7, 7)
    with pytest.raises(RuntimeError, match="shape"):
        backbone.features(IMAGES, "all")
    assert _n_hooks(backbone.model) == 0


def test_a_layer_alone_equals_the_layer_among_others(backbone: Backbone) -> None:
    together = backbone.features(IMAGES, "all,blocks.1.mlp")
    for layer, tokens in together.items():
        torch.testing.assert_close(backbone.features(IMAGES, layer)[layer], tokens, rtol=0, atol=0)


def test_layers_are_resolved_in_forward_order(backbone: Backbone) -> None:
    assert backbone.resolve_layers("norm, blocks.3,blocks.0,norm") == (
        "blocks.0",
        "blocks.3",
        "norm",
    )
    assert backbone.resolve_layers(["blocks.1", "blocks.1.mlp", "blocks.1.attn.v"]) == (
        "blocks.1.attn.v",
        "blocks.1.mlp",
        "blocks.1",
    )
    assert backbone.resolve_layers("all") == (*(f"blocks.{k}" for k in range(4)), "norm")


@pytest.mark.parametrize(
    "layer", ["blocks.4", "blocks.-1", "blocks.01", "blocks", "last", "blocks.0.attn", "", "norm.x"]
)
def test_unknown_layers_are_refused_with_the_known_ones(backbone: Backbone, layer: str) -> None:
    with pytest.raises(LayerError, match=r"blocks\.0 to blocks\.3, norm, .*\.mlp"):
        backbone.resolve_layers(layer)


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 2**-6), ("float16", 2**-9)])
def test_lower_precisions_stay_near_float32(folder: Path, precision: str, error: float) -> None:
    checkpoint = open_checkpoint(str(folder))
    exact = build_backbone(checkpoint).features(IMAGES, "all,blocks.1.mlp")
    rough = build_backbone(checkpoint, precision=precision).features(IMAGES, "all,blocks.1.mlp")
    for layer, wanted in exact.items():
        assert rough[layer].dtype == torch.float32
        distance = (rough[layer] - wanted).norm() / wanted.norm()
        assert 0 < distance < error


def test_float32_is_float32_inside_an_autocast_region(backbone: Backbone) -> None:
    wanted = backbone.features(IMAGES, "norm")["norm"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = backbone.features(IMAGES, "norm")["norm"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_arrays_are_as_good_as_tensors(backbone: Backbone) -> None:
    wanted = backbone.features(IMAGES, "norm")["norm"]
    found = backbone.features(IMAGES.numpy().astype(np.float64), "norm")["norm"]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), "must have the shape"),
        (torch.zeros(1, 1, 64, 64), "must have the shape"),
        (torch.zeros(0, 3, 64, 64), "at least one"),
        (torch.zeros(1, 3, 64, 65), "not a multiple of the patch size 16"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floating point"),
    ],
)
def test_images_that_are_none(backbone: Backbone, images: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        backbone.features(images, "norm")


def test_building_leaves_the_random_numbers_alone(save_folder: Callable[..., Path]) -> None:
    # Rotary frequencies are no weights, so this model is initialised on a real device.
    model = plain_model("vit_base_patch16_dinov3", img_size=64)
    folder = save_folder(model, "vit_base_patch16_dinov3", img_size=64)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    build_backbone(open_checkpoint(str(folder)))
    assert torch.equal(torch.rand(3), wanted)


def test_image_sizes_that_patches_do_not_tile(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    with pytest.raises(InputError, match="choose 64 or 80"):
        build_backbone(checkpoint, image_size=70)
    with pytest.raises(InputError, match="choose 16"):
        build_backbone(checkpoint, image_size=9)
    with pytest.raises(InputError, match="choose 224 or 240"):
        describe_architecture("vit_base_patch16_224", image_size=225)
    with pytest.raises(InputError, match="positive whole numbers"):
        build_backbone(checkpoint, image_size=-16)


def test_precisions_and_devices_that_are_none(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    with pytest.raises(InputError, match="float32, bfloat16, float16"):
        build_backbone(checkpoint, precision="float8")
    for device in ("abacus", "meta", "cuda:97"):
        with pytest.raises(InputError, match=r"device|Device"):
            build_backbone(checkpoint, device=device)


def test_unknown_names_come_with_close_ones() -> None:
    with pytest.raises(CheckpointError, match="close are vit_base_patch16_224"):
        describe_architecture("vit_bas_patch16_224")
    with pytest.raises(CheckpointError, match=r"no weights 'nonsense'.*mae"):
        describe_architecture("vit_base_patch16_224.nonsense")
