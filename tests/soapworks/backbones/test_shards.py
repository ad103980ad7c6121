"""Weights in several files with an index, on a disk and behind a URL."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from soapworks.backbones import build_backbone, open_checkpoint, weights_digest
from soapworks.errors import CheckpointError
from tests.soapworks.backbones.conftest import SMALL, plain_model

ARCHITECTURE = "vit_base_patch16_224"
STATE = plain_model(ARCHITECTURE, img_size=32).state_dict()


def write(folder: Path, kind: str, **changes: str) -> Path:
    """Write the weights as two shards of a kind, with their index."""
    stem, save = ("model", save_file) if kind == "safetensors" else ("pytorch_model", torch.save)
    names, weight_map = list(STATE), {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        shard = f"{stem}-{number:05d}-of-00002.{kind}"
        save({name: STATE[name].clone() for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map | changes}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    config = {"architecture": ARCHITECTURE, "model_args": SMALL | {"img_size": 32}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_one_checkpoint(kind: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write(tmp_path, kind)))
    assert checkpoint.digest == weights_digest(STATE)
    found = build_backbone(checkpoint).model.state_dict()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)
    before = checkpoint.fingerprint()
    assert len(before) == 4
    next(tmp_path.glob("*00002-of*")).touch()
    assert checkpoint.fingerprint() != before


def test_shards_behind_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAPWORKS_HOME", str(tmp_path / "home"))
    (tmp_path / "vit").mkdir()
    system: Any = fsspec.filesystem("memory")
    system.put(str(write(tmp_path / "vit", "safetensors")), "/shards/vit", recursive=True)
    assert open_checkpoint("memory://shards/vit").digest == weights_digest(STATE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm.bias": "../model-00001-of-00002.safetensors"}, "no file beside it"),
        ({"norm.bias": "/etc/a.safetensors"}, "no file beside it"),
        ({"norm.bias": "gone.safetensors"}, "differs from its index|cannot be read"),
        ({"more": "model-00001-of-00002.safetensors"}, "1 missing and 0 unlisted"),
        ({"norm.bias": "model-00001-of-00002.safetensors"}, "differs from its index"),
    ],
)
def test_an_index_that_does_not_fit(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(write(tmp_path, "safetensors", **changes))).tensors()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"weight_map": 1}', '{"weight_map": {"a": [1]}}', "{}"]
)
def test_an_index_that_is_none(text: str, tmp_path: Path) -> None:
    write(tmp_path, "safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="index"):
        open_checkpoint(str(tmp_path)).tensors()
