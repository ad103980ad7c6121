"""Which part of a file is the backbone: layouts of training scripts, averages, several models."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from soapworks.backbones import open_checkpoint
from soapworks.backbones.files.unwrapping import unwrap
from soapworks.errors import CheckpointError, NotACheckpointError
from tests.soapworks.backbones.conftest import plain_model

ARCHITECTURE = "vit_base_patch16_224"
State = dict[str, torch.Tensor]
RAW = plain_model(ARCHITECTURE, img_size=32).state_dict()
AVERAGE = {name: tensor + 1 for name, tensor in RAW.items()}


def at(prefix: str, state: State = RAW) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


# what a script saved -> the part that counts; AVERAGE lies there
AVERAGED: dict[str, tuple[dict[str, Any], str]] = {
    "ema_state_dict": ({"state_dict": RAW, "ema_state_dict": AVERAGE}, "ema_state_dict"),
    "model_ema_state_dict": (
        {"model": RAW, "model_ema_state_dict": AVERAGE},
        "model_ema_state_dict",
    ),
    "ema_model_state_dict": (
        {"model_state_dict": RAW, "ema_model_state_dict": AVERAGE},
        "ema_model_state_dict",
    ),
    "ema_model": ({"model": RAW, "ema_model": AVERAGE}, "ema_model"),
    "swa_state_dict": ({"state_dict": RAW, "swa_state_dict": AVERAGE}, "swa_state_dict"),
    "state_dict_ema": ({"state_dict_ema": AVERAGE, "state_dict": RAW}, "state_dict_ema"),
    "_average_model": (
        {"state_dict": at("model.") | at("_average_model.module.", AVERAGE)},
        "state_dict/_average_model.module.",
    ),
    "ema_model of a module": (
        {"state_dict": at("model.") | at("ema_model.module.", AVERAGE)},
        "state_dict/ema_model.module.",
    ),
    "unprefixed beside its average": (RAW | at("ema.", AVERAGE), "ema."),
    "teacher_backbone": (at("backbone.") | at("teacher_backbone.", AVERAGE), "teacher_backbone."),
    "teacher and student": (
        at("student_backbone.") | at("teacher_backbone.", AVERAGE),
        "teacher_backbone.",
    ),
    "callback": (
        {"state_dict": RAW, "callbacks": {"EMA": {"ema_weights": AVERAGE}}},
        "callbacks/EMA/ema_weights",
    ),
    "callback with a list": (
        {"state_dict": RAW, "callbacks": {"EMA": {"ema_weights": list(AVERAGE.values())}}},
        "callbacks/EMA/ema_weights",
    ),
    "WeightAveraging": (
        {"state_dict": at("model.", AVERAGE), "current_model_state": at("model.")},
        "state_dict/model.",
    ),
    "I-JEPA": ({"encoder": AVERAGE, "target_encoder": RAW}, "encoder"),
    "MoCo v3": (
        {"state_dict": at("module.base_encoder.", AVERAGE) | at("module.momentum_encoder.")},
        "state_dict/module.base_encoder.",
    ),
}


@pytest.mark.parametrize(("content", "part"), AVERAGED.values(), ids=AVERAGED)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_averages_go_before_raw_weights(
    content: dict[str, Any], part: str, is_reversed: bool, tmp_path: Path
) -> None:
    if is_reversed:
        content = dict(reversed(content.items()))
    torch.save(content, tmp_path / "a.pth")
    checkpoint = open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE)
    found = checkpoint.tensors()
    assert found.keys() == AVERAGE.keys()
    assert all(torch.equal(found[name], AVERAGE[name]) for name in AVERAGE)
    assert checkpoint.part == part


UNDECIDED: dict[str, dict[str, Any]] = {
    "unknown sibling": {"model": RAW, "weights_from_yesterday": AVERAGE},
    "unknown prefixes": at("left.") | at("right.", AVERAGE),
    "distilled": RAW | at("teacher.", AVERAGE),
    "two averages": {"model": RAW, "ema": AVERAGE, "swa": dict(AVERAGE)},
    "momentum": at("encoder.") | at("momentum_encoder.", AVERAGE),
}


@pytest.mark.parametrize("content", UNDECIDED.values(), ids=UNDECIDED)
def test_parts_that_no_rule_knows_are_refused_with_their_names(content: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"several backbones, under .* or .*--part"):
        unwrap(content, where="a.pth")


@pytest.mark.parametrize(
    ("part", "expected"),
    [("weights_from_yesterday", AVERAGE), ("model", RAW), ("model.", RAW)],
)
def test_a_part_is_chosen_by_name(part: str, expected: State) -> None:
    found = unwrap(UNDECIDED["unknown sibling"], where="a.pth", part=part).tensors
    assert all(torch.equal(found[name], expected[name]) for name in RAW)


def test_words_of_a_name_choose_too() -> None:
    content = {"state_dict": at("student.backbone.") | at("teacher.backbone.", AVERAGE)}
    found = unwrap(content, where="a.pth", part="student")
    assert found.part == "state_dict/student.backbone."
    assert found.others == ("state_dict/teacher.backbone.",)


def test_an_unknown_part_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"no part 'x'; its parts are 'model' or 'ema_model'"):
        unwrap({"model": RAW, "ema_model": AVERAGE}, where="a.pth", part="x")


def test_averages_without_names_are_refused() -> None:
    content = {"model": RAW, "ema": {"shadow_params": [torch.ones(3)]}}
    with pytest.raises(CheckpointError, match="averaged weights without names"):
        unwrap(content, where="a.pth")


LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "FSDP": lambda s: {
        "model": {n.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): t for n, t in s.items()}
    },
    "FSDP outside": lambda s: at("_fsdp_wrapped_module.", s),
    "activation checkpointing": lambda s: {
        n.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."): t for n, t in s.items()
    },
    "compiled blocks": lambda s: {
        n.replace("blocks.1.", "blocks.1._orig_mod."): t for n, t in s.items()
    },
    "timm_model": lambda s: at("timm_model.", s),
    "vit": lambda s: at("vit.", s) | {"head.weight": torch.ones(2, 2)},
    "backbone.vit": lambda s: at("backbone.vit.", s),
    "image_encoder": lambda s: at("image_encoder.", s) | {"text.weight": torch.ones(2, 2)},
    "base_model.model": lambda s: at("base_model.model.", s),
    "a name of its own": lambda s: at("my_very.own_net.", s),
    "SWA of torch": lambda s: at("module.", s) | {"n_averaged": torch.tensor(3)},
}


@pytest.mark.parametrize("wrap", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_training_scripts(wrap: Callable[[State], dict[str, Any]]) -> None:
    found = unwrap(wrap(RAW), where="a.pth").tensors
    assert found.keys() == RAW.keys()
    assert all(torch.equal(found[name], RAW[name]) for name in RAW)


def test_a_name_with_and_without_a_mark_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"norm\.bias twice"):
        unwrap(RAW | {"_orig_mod.norm.bias": RAW["norm.bias"]}, where="a.pth")


def _adam(names: Any) -> dict[str, Any]:
    state = {name: {"step": torch.tensor(1.0), "exp_avg": torch.ones(4, 4)} for name in names}
    return {"state": state, "param_groups": [{"lr": 1e-3, "params": [0]}]}


STATES: dict[str, Any] = {
    "optimizer.pt": _adam(range(3)),
    "optimizer of FSDP": _adam(["blocks.0.norm1.weight", "head.weight"]),
    "scheduler.pt": {"base_lrs": [0.1], "last_epoch": 3, "_step_count": 4},
    "rng_state.pth": {"cpu": torch.zeros(16, dtype=torch.uint8), "cuda": [torch.zeros(16).byte()]},
    "optim_states.pt": {
        "optimizer_state_dict": {
            "fp32_flat_groups": [torch.ones(9)],
            "optimizer_state_dict": _adam(range(2)),
        },
        "ds_version": "0.15",
    },
    "scaler.pt": {"scale": 65536.0},
    "a list": [torch.ones(2, 2)],
    "a number": 7,
}


@pytest.mark.parametrize("content", STATES.values(), ids=STATES)
def test_a_trainers_state_is_no_checkpoint(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    checkpoint = open_checkpoint(str(tmp_path / "a.pt"), architecture=ARCHITECTURE)
    with pytest.raises(NotACheckpointError):
        checkpoint.tensors()


def test_another_model_is_a_checkpoint_that_does_not_fit() -> None:
    assert unwrap({"layer1.conv.weight": torch.ones(3, 3, 1, 1)}, where="a.pth").part == ""


def test_shared_dictionaries_cost_their_number_not_their_paths(tmp_path: Path) -> None:
    content: dict[str, Any] = {"x": 1}
    for _ in range(12):
        content = {f"key_{number}": content for number in range(12)}
    torch.save(content, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    started = time.process_time()
    with pytest.raises(NotACheckpointError):
        open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE).tensors()
    assert time.process_time() - started < 5
