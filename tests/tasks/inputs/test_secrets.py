"""Addresses with secrets work, and nothing that is stored or emitted repeats the secret."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Event, listening
from soapworks.tasks.inputs.checkpoint import find_identity, identify, read_identity
from soapworks.tasks.inputs.images import known_images, publish_manifest, scan_images
from soapworks.tasks.settings import ScoreSettings
from tests.small import write_checkpoint, write_photographs

SECRET = "s3cr3t"
URL = f"memory://{SECRET}@box"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[str]:
    """A URL of a storage with a checkpoint and images, with a secret in it."""
    write_checkpoint(tmp_path / "box/model")
    write_photographs(tmp_path / "box/images", 3)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "box"), f"/{SECRET}@box", recursive=True)
    yield URL
    memory.rm(f"/{SECRET}@box", recursive=True)


def stored(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


def test_a_checkpoint(box: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAPWORKS_HOME", str(tmp_path / "copies"))
    store = Store(tmp_path / "store")
    product = identify(store, f"{box}/model", None)
    assert SECRET.encode() not in stored(tmp_path / "store")
    assert read_identity(product).identifier == "memory://***@box/model"
    assert find_identity(store, f"{box}/model", None) == product


def test_a_folder_of_images(box: str, tmp_path: Path) -> None:
    store, settings, events = Store(tmp_path / "store"), ScoreSettings(), list[Event]()
    with listening(events.append):
        manifest = scan_images(store, f"{box}/images", settings, workers=1)
    publish_manifest(store, f"{box}/images", manifest)
    assert SECRET.encode() not in stored(tmp_path / "store")
    assert events
    assert SECRET not in repr(events)
    known = known_images(store, f"{box}/images", settings)
    assert known is not None
    assert known.recipe == manifest.recipe
