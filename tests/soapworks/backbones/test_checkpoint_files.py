"""Weights files: formats, wrappers, prefixes, and files that are not to be trusted."""

import argparse
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from soapworks.backbones import Checkpoint, build_backbone, open_checkpoint, weights_digest
from soapworks.errors import CheckpointError, InputError
from tests.soapworks.backbones.conftest import SMALL, plain_model

Save = Callable[..., Path]
ARCHITECTURE = "vit_base_patch16_224"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return plain_model(ARCHITECTURE, img_size=32).state_dict()


def _small(path: Path) -> Checkpoint:
    """Open a file of small weights, whose sizes the name of an architecture cannot say."""
    checkpoint = open_checkpoint(str(path), architecture=ARCHITECTURE)
    checkpoint.model_args.update(SMALL | {"img_size": 32})
    return checkpoint


def _prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _others(state: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: tensor + 1 for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: s}}},
    "model of MAE": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1), "scaler": {}},
    "data parallel": lambda s: {"state_dict": _prefixed(s, "module.")},
    "compiled": lambda s: _prefixed(s, "_orig_mod.module."),
    "teacher of DINO": lambda s: {
        "student": _others(s, "module.backbone."),
        "teacher": _prefixed(s, "backbone.") | {"head.mlp.0.weight": torch.ones(2)},
    },
    "iBOT": lambda s: {"state_dict": _prefixed(s, "backbone.")},
    "I-JEPA": lambda s: {
        "encoder": _prefixed(s, "module."),
        "predictor": {"module.x": torch.ones(1)},
        "target_encoder": _others(s, "module."),
    },
    "averaged": lambda s: {"state_dict": _others(s), "state_dict_ema": s},
    "flat teacher": lambda s: {
        "model": _others(s, "student.backbone.") | _prefixed(s, "teacher.backbone.")
    },
    "encoder of a Lightning module": lambda s: {
        "state_dict": _prefixed(s, "model.encoder.") | {"model.decoder.x": torch.ones(1)}
    },
    "unknown single wrapper": lambda s: {"weights": {"final": s}, "step": 5},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_and_prefixes_come_off(
    wrap: Callable[..., Any], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(state), tmp_path / "a.pth")
    checkpoint = open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE)
    found = checkpoint.tensors()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert checkpoint.digest == weights_digest(state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors"])
def test_every_format_gives_the_same_backbone(
    suffix: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    checkpoint = _small(path)
    assert checkpoint.digest == weights_digest(state)
    loaded = build_backbone(checkpoint).model.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_files_of_old_torch_are_read(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": state}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert _small(tmp_path / "a.pth").digest == weights_digest(state)


def test_half_precision_weights_become_float32(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file({name: t.to(torch.bfloat16) for name, t in state.items()}, tmp_path / "a.safetensors")
    model = build_backbone(_small(tmp_path / "a.safetensors")).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}


EXTRAS = {
    "head.weight": (10, 48),
    "head_dist.bias": (10,),
    "fc.weight": (10, 48),
    "head.mlp.0.weight": (5, 48),
    "head.last_layer.weight_g": (5, 1),
    "dino_head.last_layer.weight": (5, 5),
    "mask_token": (1, 1, 48),
    "masked_embed": (1, 48),
    "decoder_pos_embed": (1, 5, 16),
    "decoder_blocks.0.norm1.weight": (16,),
    "fc_norm.weight": (48,),
}


def test_known_extras_are_left_out(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    extras = {name: torch.ones(shape) for name, shape in EXTRAS.items()}
    torch.save(state | extras, tmp_path / "a.pth")
    loaded = build_backbone(_small(tmp_path / "a.pth")).model.state_dict()
    assert loaded.keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.mlp.fc1.weight": None}, r"1 missing \(blocks\.0\.mlp\.fc1\.weight\)"),
        ({"norm.weight": None, "norm.bias": None}, r"2 missing \(norm\.weight, norm\.bias\)"),
        ({"blocks.0.extra": torch.ones(1)}, r"1 unexpected \(blocks\.0\.extra\)"),
        ({"reg_token": torch.ones(1, 4, 48)}, r"1 unexpected \(reg_token\)"),
        ({"cls_token": torch.ones(1, 1, 7)}, r"cls_token is \(1, 1, 7\) instead of \(1, 1, 48\)"),
        ({"norm.bias": torch.ones(48, dtype=torch.int8)}, "no floating point numbers"),
    ],
)
def test_weights_that_do_not_fit_are_listed(
    change: dict[str, Any], message: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    changed = {n: t for n, t in (state | change).items() if t is not None}
    torch.save(changed, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        build_backbone(_small(tmp_path / "a.pth"))


def test_another_architecture_is_told_with_a_guess(tmp_path: Path) -> None:
    model = plain_model("vit_tiny_patch16_224", depth=12, embed_dim=192)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    for wrong in ("vit_base_patch16_224", "vit_base_patch14_reg4_dinov2", "vit_base_patch8_224"):
        with pytest.raises(
            CheckpointError,
            match=rf"do not fit {wrong}.*192 channels.*, 12 blocks.*vit_tiny_patch16",
        ):
            build_backbone(open_checkpoint(str(tmp_path / "a.pth"), architecture=wrong))


class _RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("with_zip", [True, False])
def test_a_pickle_that_runs_code_is_refused(with_zip: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    torch.save({"model": _RunsCode(trace)}, path, _use_new_zipfile_serialization=with_zip)
    with pytest.raises(CheckpointError, match=r"wants to run code.*system"):
        _small(path).tensors()
    path.write_bytes(pickle.dumps(_RunsCode(trace)))
    with pytest.raises(CheckpointError):
        _small(path).tensors()
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_cut_is_found(suffix: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    whole = tmp_path / f"whole{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, whole)
    data = whole.read_bytes()
    path = tmp_path / f"a{suffix}"
    for kept in (1, 7, 9, 40, len(data) // 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:kept])
        with pytest.raises(CheckpointError, match="damaged, cut short"):
            _small(path).tensors()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_flipped_bytes_never_escape_as_other_errors(
    suffix: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    whole = tmp_path / f"whole{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, whole)
    data = whole.read_bytes()
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / f"a{suffix}"
    for place in torch.randint(0, 4000, (60,), generator=generator).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x5A]) + data[place + 1 :])
        with suppress(CheckpointError):  # a flip within a tensor's numbers is no error
            build_backbone(_small(path))


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.pth", b"", "is empty"),
    "text": ("a.pth", b"hello, I am a text file", "damaged, cut short or no weights file"),
    "suffix": ("a.txt", b"x", "has no suffix of a weights file"),
    "no suffix": ("weights", b"x", "has no suffix of a weights file"),
    "header bomb": ("a.safetensors", (2**40).to_bytes(8, "little") + b"{}", "damaged"),
}


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_are_no_weights(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        _small(tmp_path / name).tensors()


def test_formats_under_the_wrong_suffix(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"rename it to \.safetensors"):
        _small(tmp_path / "a.pth").tensors()
    torch.save(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"rename it to \.pth"):
        _small(tmp_path / "a.safetensors").tensors()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {"a": 1}}, [torch.ones(1)], 7])
def test_files_without_tensors(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no tensors under|not names and tensors"):
        _small(tmp_path / "a.pth").tensors()


def test_a_shape_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(1, 1).expand(2**20, 2**20)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="claims shape"):
        _small(tmp_path / "a.pth").tensors()


def test_an_archive_that_inflates_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(CheckpointError, match="declares more bytes"):
        _small(tmp_path / "a.pth").tensors()


def test_a_deeply_nested_file_is_refused(tmp_path: Path) -> None:
    content: Any = torch.ones(1)
    for _ in range(200):
        content = {"model": content}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no tensors under names of weights"):
        _small(tmp_path / "a.pth").tensors()


def test_missing_files_and_architectures(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "there.pth")
    with pytest.raises(CheckpointError, match=r"no checkpoint .*gone\.pth: .* are there\.pth"):
        open_checkpoint(str(tmp_path / "gone.pth"), architecture=ARCHITECTURE)
    with pytest.raises(CheckpointError, match="there is no folder"):
        open_checkpoint(str(tmp_path / "no" / "gone.pth"), architecture=ARCHITECTURE)
    with pytest.raises(CheckpointError, match="--architecture vit_base"):
        open_checkpoint(str(tmp_path / "there.pth"))
    with pytest.raises(CheckpointError, match="close are"):
        open_checkpoint(str(tmp_path / "there.pth"), architecture="vit_base_patch16_223")


def test_the_fingerprint_follows_the_files(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(state, path)
    checkpoint = _small(path)
    before = checkpoint.fingerprint()
    assert before == _small(path).fingerprint()
    assert json.loads(json.dumps(before)) == [list(one) for one in before]
    os.utime(path, ns=(1, 1))
    assert checkpoint.fingerprint() != before
    path.unlink()
    with pytest.raises(CheckpointError, match="is gone"):
        checkpoint.fingerprint()


def test_a_checkpoint_can_be_sent_to_another_process(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "a.pth")
    checkpoint = _small(tmp_path / "a.pth")
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert copy == checkpoint
    assert copy.digest == checkpoint.digest


def test_own_statistics_replace_the_configurations(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = str(tmp_path / "a.pth")
    torch.save(state, path)
    opened = open_checkpoint(path, architecture=ARCHITECTURE, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert opened.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert opened.pretrained_cfg["std"] == [1.0, 2.0, 3.0]
    with pytest.raises(InputError, match="std must be positive"):
        open_checkpoint(path, architecture=ARCHITECTURE, std=(1, 0, 1))
    with pytest.raises(InputError, match="three numbers"):
        open_checkpoint(path, architecture=ARCHITECTURE, mean=(1, 0))


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, soapworks.backbones; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
