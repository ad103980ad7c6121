"""Checkpoints behind URLs: the same as on a disk, and fetched once per version."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from soapworks import remote
from soapworks.backbones import open_checkpoint
from soapworks.errors import CheckpointError, InputError
from tests.small import write_checkpoint

ARCHITECTURE = "vit_tiny_patch16_224"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOAPWORKS_HOME", str(tmp_path / "home"))
    return write_checkpoint(tmp_path / "small")


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    """The same folder in memory, under a name of its own."""
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/models/small", recursive=True)
    yield "memory://models/small"
    system.rm("/models", recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    original = fsspec.implementations.memory.MemoryFileSystem.get_file

    def get_file(self: Any, rpath: str, lpath: str, **options: Any) -> None:
        seen.append(rpath)
        original(self, rpath, lpath, **options)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "get_file", get_file)
    return seen


def test_a_folder_has_the_digest_that_it_has_on_disk(folder: Path, url: str) -> None:
    there, here = open_checkpoint(url), open_checkpoint(str(folder))
    assert there.digest == here.digest
    assert (there.architecture, there.model_args) == (here.architecture, here.model_args)
    assert there.source == f"{url}/model.safetensors"


def test_a_file_with_an_architecture(folder: Path, url: str) -> None:
    file = open_checkpoint(f"{url}/model.safetensors", architecture=ARCHITECTURE)
    assert file.digest == open_checkpoint(str(folder)).digest
    assert file.config_source is None


def test_nothing_is_fetched_before_tensors_are_asked_for(url: str, fetched: list[str]) -> None:
    checkpoint = open_checkpoint(f"{url}/model.safetensors", architecture=ARCHITECTURE)
    assert checkpoint.fingerprint()[0][0] == f"{url}/model.safetensors"
    assert fetched == []


def test_a_version_is_fetched_once(url: str, fetched: list[str]) -> None:
    for _ in range(2):
        open_checkpoint(url).tensors()
    assert sorted(fetched) == ["/models/small/config.json", "/models/small/model.safetensors"]


def test_a_changed_file_is_fetched_anew_and_the_old_copy_goes(
    tmp_path: Path, url: str, fetched: list[str]
) -> None:
    before = open_checkpoint(url)
    digest, fingerprint = before.digest, before.fingerprint()
    other = write_checkpoint(tmp_path / "other", seed=7)
    fsspec.filesystem("memory").put(str(other / "model.safetensors"), "/models/small/")
    after = open_checkpoint(url)
    assert after.fingerprint() != fingerprint
    assert after.digest != digest
    assert after.digest == open_checkpoint(str(other)).digest
    copies = [p.name for p in (tmp_path / "home").rglob("*") if p.name.endswith(".safetensors")]
    assert len(copies) == 1


def test_a_download_that_is_cut_off_leaves_nothing(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.implementations.memory.MemoryFileSystem
    original = memory.get_file

    def cut(self: Any, rpath: str, lpath: str, **options: Any) -> None:
        Path(lpath).write_bytes(b"half")
        raise ConnectionResetError("the connection was reset")

    checkpoint = open_checkpoint(f"{url}/model.safetensors", architecture=ARCHITECTURE)
    monkeypatch.setattr(memory, "get_file", cut)
    with pytest.raises(CheckpointError, match=r"\(the connection was reset\): check"):
        checkpoint.tensors()
    assert [p for p in (tmp_path / "home").rglob("*") if p.is_file()] == []
    monkeypatch.setattr(memory, "get_file", original)
    assert checkpoint.tensors()


def test_a_file_that_is_overwritten_while_it_is_fetched(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.implementations.memory.MemoryFileSystem
    original = memory.get_file

    def slow(self: Any, rpath: str, lpath: str, **options: Any) -> None:
        original(self, rpath, lpath, **options)
        self.pipe_file(rpath, b"x" * self.info(rpath)["size"])

    checkpoint = open_checkpoint(f"{url}/model.safetensors", architecture=ARCHITECTURE)
    monkeypatch.setattr(memory, "get_file", slow)
    with pytest.raises(CheckpointError, match="changed while it was read; start again"):
        checkpoint.tensors()


def test_it_can_be_sent_to_a_machine_without_the_copy(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickle.dumps(open_checkpoint(url))
    monkeypatch.setenv("SOAPWORKS_HOME", str(tmp_path / "elsewhere"))
    assert pickle.loads(data).tensors()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other.safetensors", "weights files in memory://models/small are model.safetensors"),
        ("nothing/", "no checkpoint memory://models/small/nothing: the weights files in"),
    ],
)
def test_a_missing_one_says_what_is_there(url: str, name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(f"{url}/{name}", architecture=ARCHITECTURE)


def test_a_file_needs_an_architecture(url: str) -> None:
    with pytest.raises(CheckpointError, match="--architecture"):
        open_checkpoint(f"{url}/model.safetensors")


def test_damage_is_told_with_the_address_not_the_copy(tmp_path: Path, url: str) -> None:
    fsspec.filesystem("memory").pipe_file("/models/small/model.safetensors", b"not tensors")
    with pytest.raises(CheckpointError) as told:
        open_checkpoint(url).tensors()
    assert f"{url}/model.safetensors" in str(told.value)
    assert str(tmp_path) not in str(told.value)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="holds a password") as told:
        open_checkpoint("s3://me:secret@bucket/model.safetensors", architecture=ARCHITECTURE)
    assert "secret" not in str(told.value)


def test_a_protocol_that_nobody_knows() -> None:
    with pytest.raises(CheckpointError, match="start with nosuch:// cannot be used"):
        open_checkpoint("nosuch://bucket/model.safetensors", architecture=ARCHITECTURE)


def test_a_copy_cut_short_on_this_disk_is_fetched_again(tmp_path: Path, url: str) -> None:
    copy = remote.local_copy(f"{url}/model.safetensors")
    whole = copy.read_bytes()
    copy.write_bytes(whole[:100])
    assert remote.local_copy(f"{url}/model.safetensors").read_bytes() == whole
