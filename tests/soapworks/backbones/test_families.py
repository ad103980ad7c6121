"""Forms of attention, norms and tokens beyond the paper's own models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from soapworks.backbones import build_backbone, describe_architecture, open_checkpoint
from soapworks.errors import CheckpointError, InputError, LayerError
from tests.soapworks.backbones.conftest import plain_model

Save = Callable[..., Path]


def _images(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def _attention_input(model: Any, images: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.blocks[0].attn.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        model.forward_features(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit_base_patch16_dinov3_qkvb", {}),  # a bias apart from the module's weight
        ("beitv2_base_patch16_224", {}),
        ("eva02_base_patch16_clip_224", {}),  # separate projections, no bias of the keys
        ("vit_base_patch16_rope_mixed_224", {}),
    ],
)
def test_projections_of_every_form_of_attention(
    architecture: str, arguments: dict[str, Any], save_folder: Save
) -> None:
    model: Any = plain_model(architecture, img_size=64, **arguments)
    tokens = _attention_input(model, _images(64))
    attention = model.blocks[0].attn
    with torch.no_grad():
        if attention.qkv is None:
            wanted = [getattr(attention, f"{part}_proj")(tokens) for part in "qkv"]
        else:
            wanted = list(functional.linear(tokens, attention.qkv.weight).chunk(3, dim=-1))
            if getattr(attention, "q_bias", None) is not None:
                wanted[0] = wanted[0] + attention.q_bias
                wanted[2] = wanted[2] + attention.v_bias
            elif attention.qkv.bias is not None:
                biases = attention.qkv.bias.chunk(3)
                wanted = [part + bias for part, bias in zip(wanted, biases, strict=True)]
    backbone = build_backbone(open_checkpoint(str(save_folder(model, architecture, img_size=64))))
    found = backbone.features(_images(64), [f"blocks.0.attn.{p}" for p in ("q", "k", "v", "kqv")])
    query, key, value = (part[:, backbone.n_prefix_tokens :] for part in wanted)
    for part, expected in {"q": query, "k": key, "v": value}.items():
        torch.testing.assert_close(found[f"blocks.0.attn.{part}"].flatten(1, 2), expected)
    kqv = torch.cat([key, query, value], -1)
    torch.testing.assert_close(found["blocks.0.attn.kqv"].flatten(1, 2), kqv)


@pytest.mark.parametrize(
    "architecture", ["vit_base_patch16_rope_reg1_gap_256", "beitv2_base_patch16_224"]
)
def test_a_norm_after_pooling_normalises_every_token(architecture: str, save_folder: Save) -> None:
    model: Any = plain_model(architecture, img_size=64, use_fc_norm=True)
    assert isinstance(model.norm, torch.nn.Identity)
    folder = save_folder(model, architecture, img_size=64, use_fc_norm=True)
    backbone = build_backbone(open_checkpoint(str(folder)))
    with torch.no_grad():
        wanted = model.fc_norm(model.forward_features(_images(64)))[:, model.num_prefix_tokens :]
    found = backbone.features(_images(64), "norm")["norm"]
    torch.testing.assert_close(found.flatten(1, 2), wanted)


@pytest.mark.parametrize("stored_as", ["norm", "fc_norm"])
@pytest.mark.parametrize("pools_first", [False, True])
def test_a_file_may_name_the_final_norm_either_way(
    stored_as: str, pools_first: bool, save_folder: Save
) -> None:
    model: Any = plain_model("vit_base_patch16_224", img_size=32)
    arguments = {"img_size": 32, "global_pool": "avg", "fc_norm": pools_first}
    folder = save_folder(model, "vit_base_patch16_224", **arguments)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for part in ("weight", "bias"):
        state[f"{stored_as}.{part}"] = state.pop(f"norm.{part}")
    save_file(state, folder / "model.safetensors")
    backbone = build_backbone(open_checkpoint(str(folder)))
    torch.testing.assert_close(backbone.model.norm.weight, model.norm.weight.detach())
    assert backbone.known_layers[-1] == "norm"


def test_original_names_of_other_authors_are_converted(save_folder: Save) -> None:
    conversions = {
        "deit3_base_patch16_224": {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"},
        "vit_base_patch16_dinov3": {"gamma_1": "ls1.gamma", "reg_token": "storage_tokens"},
    }
    for architecture, renamed in conversions.items():
        model: Any = plain_model(architecture, img_size=32)
        folder = save_folder(model, architecture, img_size=32)
        state = {}
        for name, tensor in model.state_dict().items():
            for ours, theirs in renamed.items():
                name = name.replace(ours, theirs)
            state[name] = tensor.clone()
        if "dinov3" in architecture:
            state["rope_embed.periods"] = 100 ** (torch.arange(4) / 4)
        save_file(state, folder / "model.safetensors")
        loaded = build_backbone(open_checkpoint(str(folder))).model.state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded[name], tensor)


def test_dinov2s_own_registers_are_converted(save_folder: Save) -> None:
    model: Any = plain_model("vit_base_patch14_reg4_dinov2", img_size=28)
    folder = save_folder(model, "vit_base_patch14_reg4_dinov2", img_size=28)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    class_position = torch.full((1, 1, 48), 0.5)
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.ones(1, 48)
    state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    state["cls_token"] -= class_position
    save_file(state, folder / "model.safetensors")
    loaded = build_backbone(open_checkpoint(str(folder))).model.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor)


def test_a_model_without_final_norm_offers_none() -> None:
    info = describe_architecture("vit_pe_spatial_base_patch16_512")
    assert info.resolve_layers("all")[-1] == "blocks.11"
    with pytest.raises(LayerError, match="no final norm"):
        info.resolve_layers("norm")


def test_distillation_token_is_a_prefix_token() -> None:
    assert describe_architecture("deit_base_distilled_patch16_224").n_prefix_tokens == 2


@pytest.mark.parametrize(
    "name", ["resnet50", "swin_tiny_patch4_window7_224", "xcit_nano_12_p8_224"]
)
def test_other_kinds_of_models_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="no plain vision transformer"):
        describe_architecture(name)


def test_beit_takes_the_size_it_was_built_for_only(save_folder: Save) -> None:
    model = plain_model("beitv2_base_patch16_224", img_size=64)
    folder = save_folder(model, "beitv2_base_patch16_224", img_size=64)
    backbone = build_backbone(open_checkpoint(str(folder)), image_size=96)
    assert backbone.features(_images(96), "norm")["norm"].shape == (2, 6, 6, 48)
    with pytest.raises(InputError, match="was built for images of"):
        backbone.features(_images(64), "norm")
