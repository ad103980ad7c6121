"""Every architecture that the paper measured and timm has, against timm's own forward passes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from soapworks.backbones import build_backbone, describe_architecture, open_checkpoint
from tests.soapworks.backbones.conftest import PAPER, plain_model

Save = Callable[..., Path]

FULL_SIZE = {
    "vit_base_patch16_224.mae": ((14, 14), 768, 12),
    "vit_base_patch16_dinov3.lvd1689m": ((16, 16), 768, 12),
    "vit_base_patch16_224": ((14, 14), 768, 12),
    "vit_base_patch14_reg4_dinov2.lvd142m": ((37, 37), 768, 12),
    "vit_huge_patch14_gap_224.in1k_ijepa": ((16, 16), 1280, 32),
    "vit_base_patch16_224.dino": ((14, 14), 768, 12),
    "deit3_base_patch16_224.fb_in1k": ((14, 14), 768, 12),
}


@pytest.mark.parametrize("name", PAPER)
def test_full_size_shapes_are_known_without_weights(name: str) -> None:
    info = describe_architecture(name)
    assert (info.grid, info.n_channels("norm"), info.depth) == FULL_SIZE[name]
    assert info.n_prefix_tokens == PAPER[name]
    assert info.n_channels("blocks.1.attn.kqv") == 3 * info.n_channels("blocks.1.attn.q")


def test_statistics_come_from_the_tag() -> None:
    assert describe_architecture("vit_base_patch16_224").mean == (0.5, 0.5, 0.5)
    assert describe_architecture("vit_base_patch16_224.mae").mean == (0.485, 0.456, 0.406)
    assert describe_architecture("vit_base_patch16_clip_224.openai").std[0] == 0.26862954


@pytest.mark.parametrize("rows_columns", [None, (3, 5)], ids=["trained grid", "other grid"])
@pytest.mark.parametrize("name", PAPER)
def test_layers_equal_timms_own_passes(
    name: str, rows_columns: tuple[int, int] | None, save_folder: Save
) -> None:
    architecture = name.partition(".")[0]
    trained = 4 * (14 if "patch14" in name else 16)
    model = plain_model(architecture, img_size=trained)
    folder = save_folder(model, architecture, img_size=trained)
    patch = trained // 4
    size = (trained, trained) if rows_columns is None else tuple(n * patch for n in rows_columns)

    backbone = build_backbone(open_checkpoint(str(folder)), image_size=size)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    found = backbone.features(images, "all")

    model.set_input_size(img_size=size)  # timm's own way to another grid
    with torch.no_grad():
        final = model.forward_features(images)[:, PAPER[name] :]
        blocks = model.forward_intermediates(
            images, norm=False, output_fmt="NLC", intermediates_only=True
        )
    rows, columns = rows_columns or (4, 4)
    assert backbone.grid == (rows, columns)
    assert list(found) == ["blocks.0", "blocks.1", "norm"]
    for layer, wanted in zip(found, [*blocks, final], strict=True):
        assert found[layer].shape == (2, rows, columns, 48)
        assert found[layer].dtype == torch.float32
        assert found[layer].is_contiguous()
        torch.testing.assert_close(found[layer].flatten(1, 2), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PAPER)
def test_branches_equal_a_plain_model_with_hooks(name: str, save_folder: Save) -> None:
    architecture = name.partition(".")[0]
    side = 2 * (14 if "patch14" in name else 16)
    model = plain_model(architecture, img_size=side)
    inputs: dict[str, torch.Tensor] = {}
    for part in ("mlp", "attn"):
        model.blocks[1].get_submodule(part).register_forward_pre_hook(
            lambda _module, args, part=part: inputs.__setitem__(part, args[0])
        )
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.forward_features(images)
        wanted_mlp = model.blocks[1].mlp(inputs["mlp"])
        qkv = model.blocks[1].attn.qkv
        wanted = dict(
            zip(
                "qkv",
                torch.nn.functional.linear(inputs["attn"], qkv.weight, qkv.bias).split(48, -1),
                strict=True,
            )
        )
    wanted["kqv"] = torch.cat([wanted["k"], wanted["q"], wanted["v"]], -1)

    backbone = build_backbone(open_checkpoint(str(save_folder(model, architecture, img_size=side))))
    layers = [f"blocks.1.attn.{part}" for part in wanted]
    found = backbone.features(images, ["blocks.1.mlp", *layers])
    n_prefix = PAPER[name]
    for part, tokens in wanted.items():
        layer = f"blocks.1.attn.{part}"
        torch.testing.assert_close(found[layer].flatten(1, 2), tokens[:, n_prefix:])
        assert backbone.n_channels(layer) == tokens.shape[-1]
    torch.testing.assert_close(found["blocks.1.mlp"].flatten(1, 2), wanted_mlp[:, n_prefix:])


def test_images_of_other_sizes_follow_the_trained_grid(save_folder: Save) -> None:
    model = plain_model("vit_base_patch16_224", img_size=64)
    folder = save_folder(model, "vit_base_patch16_224", img_size=64)
    images = torch.randn(1, 3, 48, 80, generator=torch.Generator().manual_seed(1))
    anywhere = build_backbone(open_checkpoint(str(folder))).features(images, "norm")
    built = build_backbone(open_checkpoint(str(folder)), image_size=(48, 80))
    torch.testing.assert_close(anywhere, built.features(images, "norm"))


def test_a_grid_of_as_many_tokens_is_still_resampled(save_folder: Save) -> None:
    # 4 x 4 trained, 2 x 8 wanted: 16 tokens both times. The configuration says 224, wrongly.
    model = plain_model("vit_base_patch16_224", img_size=64)
    folder = save_folder(model, "vit_base_patch16_224")
    built = build_backbone(open_checkpoint(str(folder)), image_size=(32, 128))
    model.set_input_size(img_size=(32, 128))
    torch.testing.assert_close(built.model.pos_embed, model.pos_embed.detach())
