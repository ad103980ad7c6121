"""Everything in a checkpoint is kept, ignored by a rule that has a name, or an error."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import soapworks
from soapworks.backbones import build_backbone, open_checkpoint
from soapworks.backbones.backbone import Backbone
from soapworks.errors import CheckpointError
from tests.soapworks.backbones.conftest import SMALL, plain_model

State = dict[str, torch.Tensor]
DINOV3 = "vit_base_patch16_dinov3"
PERIODS = 100 ** (torch.arange(4) / 4)  # of heads with 16 channels, as the authors define them


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Backbone]:
    def build(state: State, architecture: str, **model_args: Any) -> Backbone:
        config = {"architecture": architecture, "model_args": SMALL | {"img_size": 32} | model_args}
        (tmp_path / "config.json").write_text(json.dumps(config))
        tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
        save_file(tensors, tmp_path / "model.safetensors")
        return build_backbone(open_checkpoint(str(tmp_path)))

    return build


@pytest.mark.parametrize(
    "architecture", ["vit_base_patch16_224", "beit_base_patch16_224", "eva02_base_patch16_clip_224"]
)
@pytest.mark.parametrize("patch", [8, 32])
def test_patches_of_another_size_are_never_resampled(
    architecture: str, patch: int, load: Callable[..., Backbone]
) -> None:
    state = plain_model(architecture, img_size=2 * patch, patch_size=patch).state_dict()
    with pytest.raises(
        CheckpointError, match=rf"patches have {patch} x {patch} pixels, those of .* 16 x 16"
    ):
        load(state, architecture)


def test_flexivit_is_trained_for_other_patches(load: Callable[..., Backbone]) -> None:
    state = plain_model("flexivit_base", img_size=32, patch_size=8).state_dict()
    found = load(state, "flexivit_base", patch_size=16).model.state_dict()
    assert found["patch_embed.proj.weight"].shape[-1] == 16


def test_a_position_embedding_of_another_grid_is_resampled_and_noted(
    load: Callable[..., Backbone],
) -> None:
    model: Any = plain_model("vit_base_patch16_224", img_size=64)
    backbone = load(model.state_dict(), "vit_base_patch16_224")
    assert backbone.notes == ("its position embedding is resampled to 2 x 2 patches",)
    model.set_input_size(img_size=32)  # timm's own way to another grid
    torch.testing.assert_close(backbone.model.pos_embed, model.pos_embed)
    assert load(model.state_dict(), "vit_base_patch16_224").notes == ()


def _dinov3(**changes: torch.Tensor) -> State:
    """A file with the names of DINOv3's authors."""
    state = plain_model(DINOV3, img_size=32).state_dict()
    named = {
        re.sub(r"gamma_(\d)", r"ls\1.gamma", name).replace("reg_token", "storage_tokens"): tensor
        for name, tensor in state.items()
    }
    mask = torch.cat([torch.ones(48), torch.zeros(48), torch.ones(48)])
    for block in range(2):
        named[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(144)
        named[f"blocks.{block}.attn.qkv.bias_mask"] = mask
    return named | {"mask_token": torch.zeros(1, 48), "rope_embed.periods": PERIODS} | changes


def test_dinov3_without_trained_biases_is_whole(load: Callable[..., Backbone]) -> None:
    found = load(_dinov3(), DINOV3).model.state_dict()
    wanted = plain_model(DINOV3, img_size=32).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_biases_of_keys_are_masked_by_their_authors(load: Callable[..., Backbone]) -> None:
    keys = torch.cat([torch.zeros(48), torch.ones(48), torch.zeros(48)])
    load(_dinov3(**{"blocks.0.attn.qkv.bias": keys}), DINOV3)


@pytest.mark.parametrize("place", [3, 100])  # of a query, of a value
def test_dinov3s_trained_biases_are_not_dropped(place: int, load: Callable[..., Backbone]) -> None:
    bias = torch.zeros(144)
    bias[place] = 0.5
    state = _dinov3(**{"blocks.1.attn.qkv.bias": bias})
    with pytest.raises(CheckpointError, match=rf"use --architecture {DINOV3}_qkvb"):
        load(state, DINOV3)
    found = load(state, f"{DINOV3}_qkvb").model.state_dict()
    assert torch.equal(found["blocks.1.attn.q_bias"], bias[:48])
    assert torch.equal(found["blocks.1.attn.v_bias"], bias[96:])


def test_trained_biases_of_keys_without_a_mask_are_not_dropped(
    load: Callable[..., Backbone],
) -> None:
    state = _dinov3(**{"blocks.1.attn.qkv.bias": torch.ones(144)})
    del state["blocks.1.attn.qkv.bias_mask"]
    with pytest.raises(CheckpointError, match="biases of keys would be dropped"):
        load(state, f"{DINOV3}_qkvb")


@pytest.mark.parametrize("periods", [PERIODS * 1.03, 50 ** (torch.arange(4) / 4), torch.ones(8)])
def test_rotary_periods_of_another_base_are_refused(
    periods: torch.Tensor, load: Callable[..., Backbone]
) -> None:
    with pytest.raises(CheckpointError, match=r"rope_embed\.periods differs .* another base"):
        load(_dinov3(**{"rope_embed.periods": periods}), DINOV3)


def test_periods_in_bfloat16_are_the_same(load: Callable[..., Backbone]) -> None:
    load(_dinov3(**{"rope_embed.periods": PERIODS.bfloat16()}), DINOV3)


def test_a_rotary_embedding_that_the_architecture_lacks(load: Callable[..., Backbone]) -> None:
    state = plain_model("vit_base_patch16_224", img_size=32).state_dict()
    with pytest.raises(CheckpointError, match="no rotary embedding"):
        load(state | {"rope_embed.periods": PERIODS}, "vit_base_patch16_224")


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (DINOV3, "blocks.0.attn.rope.trained"),
        (DINOV3, "property.weight"),  # timm drops whatever has these four letters in its name
        ("beit_base_patch16_224", "blocks.0.extra"),
        ("vit_base_patch16_224", "pre_logit_norm.weight"),
    ],
)
def test_what_no_rule_names_is_an_error(
    architecture: str, name: str, load: Callable[..., Backbone]
) -> None:
    state = plain_model(architecture, img_size=32).state_dict()
    with pytest.raises(CheckpointError, match=rf"(dropped|unexpected) \({re.escape(name)}"):
        load(state | {name: torch.ones(3)}, architecture)


def test_chunks_of_dinov2s_blocks(load: Callable[..., Backbone]) -> None:
    wanted = plain_model("vit_base_patch14_dinov2", img_size=28).state_dict()
    state = {n.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): t
             for n, t in wanted.items()}  # fmt: skip
    found = load(state, "vit_base_patch14_dinov2", img_size=28).model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_registers_without_a_mask_token(load: Callable[..., Backbone]) -> None:
    name = "vit_base_patch14_reg4_dinov2"
    wanted = plain_model(name, img_size=28).state_dict()
    state = dict(wanted)
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 48), state["pos_embed"]], dim=1)
    found = load(state, name, img_size=28).model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_gamma_and_weight_are_one_name(load: Callable[..., Backbone]) -> None:
    name = "vit_base_patch14_dinov2"
    wanted = plain_model(name, img_size=28).state_dict()
    renamed = {
        re.sub(r"(norm\d?)\.weight", r"\1.gamma", re.sub(r"(norm\d?)\.bias", r"\1.beta", n)): t
        for n, t in wanted.items()
    }
    renamed = {re.sub(r"(ls\d)\.gamma", r"\1.weight", n): t for n, t in renamed.items()}
    assert "blocks.0.ls1.weight" in renamed
    assert "norm.gamma" in renamed
    found = load(renamed, name, img_size=28).model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_folder_of_transformers_wrapper(tmp_path: Path) -> None:
    state = plain_model("vit_base_patch16_224", img_size=32).state_dict()
    config = {
        "architecture": "vit_base_patch16_224",
        "architectures": ["TimmWrapperForImageClassification"],
        "model_type": "timm_wrapper",
        "model_args": SMALL | {"img_size": 32},
        "do_pooling": True,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "label_names": None},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = {f"timm_model.{name}": tensor for name, tensor in state.items()}
    save_file(named | {"timm_model.head.weight": torch.ones(2, 48)}, tmp_path / "model.safetensors")
    backbone = build_backbone(open_checkpoint(str(tmp_path)))
    assert backbone.mean == (0.1, 0.2, 0.3)
    assert all(torch.equal(backbone.model.state_dict()[name], state[name]) for name in state)


def test_a_model_with_a_head_of_ours_is_its_backbone(load: Callable[..., Backbone]) -> None:
    model: Any = plain_model("vit_base_patch16_224", img_size=32)
    bare = dict(model.state_dict())
    soapworks.attach(model, soapworks.SoapHead(torch.eye(48)), layer="norm")
    assert any("soap_head" in name for name in model.state_dict())
    found = load(model.state_dict(), "vit_base_patch16_224").model.state_dict()
    assert found.keys() == bare.keys()
    assert all(torch.equal(found[name], bare[name]) for name in bare)


def test_the_suggested_architecture_is_another_one_that_fits(tmp_path: Path) -> None:
    for right, wrong in (
        ("vit_small_patch8_224", "vit_small_patch16_224"),
        ("vit_small_patch14_reg4_dinov2", "vit_small_patch14_dinov2"),
    ):
        state = timm.create_model(right, num_classes=0).state_dict()
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(CheckpointError) as caught:
            build_backbone(open_checkpoint(str(tmp_path / "a.pth"), architecture=wrong))
        hint = str(caught.value).partition("--architecture ")[2]
        assert hint, (right, str(caught.value))
        names = hint.split(" or ")
        assert wrong not in names
        for name in names:
            build_backbone(open_checkpoint(str(tmp_path / "a.pth"), architecture=name))


def test_the_true_difference_is_named(load: Callable[..., Backbone]) -> None:
    state = plain_model("vit_base_patch16_224", img_size=32).state_dict()
    with pytest.raises(CheckpointError, match=r"48 channels, 2 blocks \(not 3\)") as caught:
        load(state, "vit_base_patch16_224", depth=3)
    assert "--architecture" not in str(caught.value)
