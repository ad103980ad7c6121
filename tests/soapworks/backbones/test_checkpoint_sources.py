"""Where checkpoints come from: folders, the zoo, timm names, the hub; without a network."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from soapworks.backbones import (
    build_backbone,
    describe_architecture,
    describe_checkpoint,
    open_checkpoint,
    weights_digest,
)
from soapworks.backbones.files import sources as sources_module
from soapworks.errors import CheckpointError, InputError
from tests.soapworks.backbones.conftest import SMALL, plain_model

Save = Callable[..., Path]
ARCHITECTURE = "vit_base_patch16_224"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Empty caches and a hub client that refuses to go online."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.hub.set_dir(str(tmp_path / "torch"))
    yield tmp_path
    monkeypatch.undo()
    torch.hub._hub_dir = None


def _cache_on_hub(root: Path, repository: str, files: dict[str, bytes]) -> None:
    """Lay files out as the hub's client keeps them."""
    repo = root / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    for name, data in files.items():
        (snapshot / name).write_bytes(data)


def test_a_folder_brings_architecture_arguments_and_statistics(save_folder: Save) -> None:
    model = plain_model(ARCHITECTURE, img_size=32)
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32]}
    folder = save_folder(model, ARCHITECTURE, img_size=32, pretrained_cfg=own | {"new_field": 1})
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.architecture == ARCHITECTURE
    assert checkpoint.model_args == SMALL | {"img_size": 32}
    assert checkpoint.digest == weights_digest(model.state_dict())
    assert len(checkpoint.fingerprint()) == 2
    backbone, info = build_backbone(checkpoint), describe_checkpoint(checkpoint)
    assert backbone.mean == info.mean == (0.1, 0.2, 0.3)
    assert backbone.std == info.std == (0.4, 0.5, 0.6)
    assert backbone.image_size == info.image_size == (32, 32)
    assert backbone.known_layers == info.known_layers
    assert backbone.n_parameters == info.n_parameters


def test_a_folder_written_by_timm_is_read(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    arguments = SMALL | {"img_size": 32}
    model: Any = plain_model(ARCHITECTURE, num_classes=3, img_size=32)
    save_for_hf(model, str(tmp_path), model_args=arguments, safe_serialization=True)
    backbone = build_backbone(open_checkpoint(str(tmp_path)))
    assert torch.equal(backbone.model.pos_embed, model.pos_embed)


def test_a_legacy_configuration_is_read(save_folder: Save) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE)
    config = {"architecture": ARCHITECTURE, "mean": [0, 0, 0], "input_size": [3, 64, 64]}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.pretrained_cfg["mean"] == [0, 0, 0]
    assert describe_checkpoint(checkpoint).image_size == (64, 64)


BAD_CONFIGS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "cannot be read as JSON"),
    "too deep": ("[" * 100_000, "cannot be read as JSON"),
    "of transformers": ('{"model_type": "vit"}', "names no timm 'architecture'"),
    "a list": ("[]", "names no timm 'architecture'"),
    "unknown": ('{"architecture": "vit_nonsense"}', "timm has no architecture"),
    "no transformer": ('{"architecture": "resnet50"}', "no plain vision transformer"),
    "refused": (
        '{"architecture": "vit_base_patch16_224", "model_args": {"checkpoint_path": "/x"}}',
        "must not set checkpoint_path",
    ),
    "huge": (
        '{"architecture": "vit_base_patch16_224", "model_args": {"depth": 1000000}}',
        "beyond 1000",
    ),
    "grey": ('{"architecture": "vit_base_patch16_224", "model_args": {"in_chans": 1}}', "RGB"),
    "no object": ('{"architecture": "vit_base_patch16_224", "model_args": [1]}', "JSON objects"),
    "two means": (
        '{"architecture": "vit_base_patch16_224", "mean": [0.5, 0.5]}',
        r"mean must be three numbers, got \[0.5, 0.5\]",
    ),
    "no spread": (
        '{"architecture": "vit_base_patch16_224", "pretrained_cfg": {"std": [0, 1, 1]}}',
        "std must be three numbers above 0",
    ),
    "no size": (
        '{"architecture": "vit_base_patch16_224", "input_size": [3, 1.5, NaN]}',
        "input_size must be three whole numbers above 0",
    ),
    "no filter": ('{"architecture": "vit_base_patch16_224", "interpolation": 3}', "must be a name"),
    "no share": ('{"architecture": "vit_base_patch16_224", "crop_pct": "x"}', "must be a number"),
}


@pytest.mark.parametrize(("text", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_configurations_that_cannot_be_used(text: str, message: str, save_folder: Save) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("size", [1.5, "x" * 10_000, [32], {}])
def test_sizes_that_are_none(size: object, save_folder: Save) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE)
    config = {"architecture": ARCHITECTURE, "model_args": {"img_size": size}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="image size is one or two") as told:
        describe_checkpoint(open_checkpoint(str(folder)))
    assert len(str(told.value)) < 200


def test_arguments_that_timm_rejects(save_folder: Save) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE, no_such_argument=1)
    with pytest.raises(CheckpointError, match=r"timm cannot build .*no_such_argument"):
        build_backbone(open_checkpoint(str(folder)))


@pytest.mark.parametrize("arguments", [{"depth": True}, {"img_size": "x" * 100_000}])
def test_what_timm_says_of_arguments_is_one_short_sentence(
    arguments: dict[str, Any], save_folder: Save
) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {**config.get("model_args", {}), **arguments}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, InputError)) as told:
        build_backbone(open_checkpoint(str(folder)))
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 1000


def test_a_long_name_of_an_architecture_is_not_repeated_at_length(save_folder: Save) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), "x" * 100_000)
    with pytest.raises(CheckpointError, match="timm has no architecture 'xxx") as told:
        build_backbone(open_checkpoint(str(folder)))
    assert len(str(told.value)) < 1000


def test_enormous_arguments_allocate_nothing(save_folder: Save) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE, embed_dim=96_000, num_heads=3)
    with pytest.raises(CheckpointError, match="of another shape"):
        build_backbone(open_checkpoint(str(folder)))


def test_folders_that_are_not_whole(save_folder: Save, tmp_path: Path) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(str(folder))
    assert open_checkpoint(str(folder), architecture=ARCHITECTURE).config_source is None
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    assert open_checkpoint(str(folder), architecture=ARCHITECTURE).source.endswith(
        "one.safetensors"
    )
    (folder / "two.pth").touch()
    with pytest.raises(CheckpointError, match=r"one\.safetensors, two\.pth"):
        open_checkpoint(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="found: none"):
        open_checkpoint(str(tmp_path / "empty"))
    (tmp_path / "empty" / "model.safetensors.index.json").touch()
    with pytest.raises(CheckpointError, match="is no index of shards"):
        open_checkpoint(str(tmp_path / "empty"), architecture=ARCHITECTURE).tensors()


def test_the_zoo_is_a_folder_of_the_package(
    save_folder: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE)
    monkeypatch.setattr(sources_module, "files", lambda _package: folder.parent)
    assert open_checkpoint("zoo:folder").architecture == ARCHITECTURE
    with pytest.raises(CheckpointError, match=r"no zoo:other; the pocket zoo has: zoo:folder"):
        open_checkpoint("zoo:other")


def test_a_timm_name_uses_the_hubs_cache_without_a_network(
    offline: Path, save_folder: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not even asked: a cached file must not wait for a server.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources_module, "_no_answer", lambda _url: OSError("asked"))
    model = plain_model("deit_tiny_patch16_224", depth=12, embed_dim=192, num_heads=3)
    folder = save_folder(model, "x")
    data = (folder / "model.safetensors").read_bytes()
    name = "deit_tiny_patch16_224.fb_in1k"
    _cache_on_hub(offline, f"timm/{name}", {"model.safetensors": data})
    checkpoint = open_checkpoint(name)
    assert checkpoint.architecture == "deit_tiny_patch16_224"
    assert checkpoint.source.endswith("snapshots/abc/model.safetensors")
    backbone = build_backbone(checkpoint, image_size=32)
    assert backbone.mean == describe_architecture(name).mean
    torch.testing.assert_close(backbone.model.norm.bias, model.norm.bias.detach())


def test_a_hub_identifier_uses_the_cache_too(offline: Path, save_folder: Save) -> None:
    folder = save_folder(plain_model(ARCHITECTURE, img_size=32), ARCHITECTURE, img_size=32)
    names = ("config.json", "model.safetensors")
    _cache_on_hub(offline, "me/mine", {n: (folder / n).read_bytes() for n in names})
    checkpoint = open_checkpoint("hf-hub:me/mine")
    assert checkpoint.model_args["embed_dim"] == 48
    assert build_backbone(checkpoint).image_size == (32, 32)


def test_a_url_of_timm_uses_torchs_cache(offline: Path) -> None:
    folder = offline / "torch" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "IN1K-vit.h.14-300e.pth.tar").touch()
    checkpoint = open_checkpoint("vit_huge_patch14_gap_224.in1k_ijepa")
    assert checkpoint.source == str(folder / "IN1K-vit.h.14-300e.pth.tar")


def test_no_network_is_told_with_the_cache_and_the_cure(offline: Path) -> None:
    for name in ("vit_base_patch16_224.mae", "hf-hub:me/mine"):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(name)
        assert str(offline / "hub") in str(caught.value)
        assert "--architecture" in str(caught.value)


def test_a_refused_connection_is_told_at_once(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), closed),
        "HF_HOME": str(tmp_path / "hf"),
        "TORCH_HOME": str(tmp_path / "torch"),
    }
    code = (
        "from soapworks.backbones import open_checkpoint\n"
        "from soapworks.errors import CheckpointError\n"
        "for name in ('vit_base_patch16_224.mae', 'vit_huge_patch14_gap_224.in1k_ijepa'):\n"
        "    try: open_checkpoint(name)\n"
        "    except CheckpointError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = run.stdout.strip().splitlines()
    assert len(lines) == 2
    assert all("could not be downloaded" in line for line in lines)
    assert str(tmp_path / "hf") in lines[0]
    assert str(tmp_path / "torch") in lines[1]
    assert not list((tmp_path / "torch").rglob("*.tar*"))


@pytest.mark.parametrize(
    ("identifier", "architecture", "message"),
    [
        ("vit_bas_patch16_224", None, "close are vit_base_patch16_224"),
        ("facebookresearch/capi", None, r"hf-hub:facebookresearch/capi; code from torch\.hub"),
        ("vit_base_patch16_224.mae", "vit_small_patch16_224", "brings its own architecture"),
        ("vit_base_patch16_224.nonsense", None, "it has .*mae"),
        ("resnet50", None, "no plain vision transformer"),
        ("vit_gigantic_patch14_224", None, "timm has no pretrained weights"),
    ],
)
def test_identifiers_that_lead_nowhere(
    identifier: str, architecture: str | None, message: str, offline: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(identifier, architecture=architecture)


def test_a_timm_name_goes_before_a_folder_of_that_name(
    offline: Path, save_folder: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_folder(plain_model(ARCHITECTURE), ARCHITECTURE)
    folder.rename(folder.parent / "vit_base_patch16_224.mae")
    monkeypatch.chdir(folder.parent)
    assert open_checkpoint("./vit_base_patch16_224.mae").config_source is not None
    with pytest.raises(CheckpointError, match="not in the cache"):
        open_checkpoint("vit_base_patch16_224.mae")
