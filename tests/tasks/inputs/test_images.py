"""Indexing images: what is left out, what is refused, what is sampled."""

import errno
import importlib.machinery
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soapworks.errors import InputError, UnreachableError
from soapworks.images.listing import ImageFolder
from soapworks.tasks.events import Notice
from soapworks.tasks.inputs.images import (
    known_images,
    publish_manifest,
    read_manifest,
    scan_images,
)

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"


def scan(request, **options):
    return scan_images(request.store(), request.images, request.settings, workers=2)


def test_unreadable_images_are_listed_with_reasons(request_of, photographs: Path, events) -> None:
    (photographs / "0005.png").write_bytes((photographs / "0005.png").read_bytes()[:200])
    (photographs / "broken.jpg").write_bytes(b"no image at all")
    manifest = scan(request_of(max_unreadable=0.2))
    assert manifest.n_images == 20
    assert [entry.path for entry in manifest.unreadable] == ["0005.png", "broken.jpg"]
    assert all(entry.reason for entry in manifest.unreadable)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert "2 of 22" in notice.message


def test_too_many_unreadable_images_stop_the_run(request_of, photographs: Path) -> None:
    for number in range(3):
        (photographs / f"broken{number}.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"3 of 24 images .*12.5% of the folder, limit 5.0%"):
        scan(request_of())


def test_unreadable_images_are_part_of_the_recipe(request_of, photographs: Path) -> None:
    before = scan(request_of()).recipe.key
    (photographs / "broken.jpg").write_bytes(b"nothing")
    assert scan(request_of()).recipe.key != before


def test_manifest_comes_back_from_the_store(request_of) -> None:
    request = request_of()
    manifest = scan(request)
    assert read_manifest(publish_manifest(request.store(), request.images, manifest)) == manifest


def test_sample_has_the_size_asked_for_and_follows_its_seed(request_of) -> None:
    paths = {
        seed: {e.path for e in scan(request_of(max_images=9, image_seed=seed)).entries()}
        for seed in (0, 1)
    }
    assert len(paths[0]) == len(paths[1]) == 9
    assert paths[0] != paths[1]
    assert paths[0] == {e.path for e in scan(request_of(max_images=9)).entries()}


def test_identical_images_are_all_kept(request_of, photographs: Path) -> None:
    (photographs / "copy.png").write_bytes((photographs / "0000.png").read_bytes())
    assert scan(request_of()).n_images == 22


@pytest.mark.parametrize("images", ["nowhere", "."])
def test_a_folder_without_images_is_refused(request_of, tmp_path: Path, images: str) -> None:
    (tmp_path / "empty").mkdir()
    folder = tmp_path / ("nowhere" if images == "nowhere" else "empty")
    with pytest.raises(InputError, match=folder.name):
        scan(request_of(images=str(folder)))


def notices(events) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


def test_links_out_of_the_folder_count_as_unreadable(
    request_of, photographs: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    (photographs / "0000.png").rename(few / "0000.png")
    for number in range(1, 6):
        (few / f"{number}.png").symlink_to(photographs / f"{number:04d}.png")
    with pytest.raises(InputError, match=r"5 of 6 images in .*83.3% of the folder, limit 5.0%"):
        scan(request_of(images=str(few)))


def test_heic_beside_jpeg_counts_as_unreadable(
    request_of, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for number in range(60):
        (photographs / f"{number}.HEIC").write_bytes(HEIC + bytes([number]))
    with pytest.raises(InputError, match=r"60 of 81 images .*: pip install pillow-heif; "):
        scan(request_of())


def test_what_is_left_out_is_in_the_manifest_and_reported(
    request_of, photographs: Path, tmp_path: Path, events
) -> None:
    before = scan(request_of())
    outside = tmp_path / "outside"
    outside.mkdir()
    (photographs / "more").symlink_to(outside)
    (photographs / "scan.jp2").write_bytes(b"x")
    (photographs / "labels.csv").write_bytes(b"x")
    (photographs / ".hidden.jpg").write_bytes(b"x")
    request = request_of(max_unreadable=0.1)
    manifest = scan(request)
    assert manifest.segments == before.segments
    assert manifest.recipe.key != before.recipe.key
    assert [entry.path for entry in manifest.unreadable] == ["more", "scan.jp2"]
    assert notices(events) == [
        f"{photographs} also holds 1 other file (1 .csv), not read as images",
        f"left out 2 of 23 images in {photographs}: more: a symbolic link that leads outside of "
        "the folder, or nowhere; scan.jp2: .jp2 is not read; convert it to PNG or JPEG",
    ]
    product = publish_manifest(request.store(), request.images, manifest)
    assert read_manifest(product) == manifest
    assert known_images(request.store(), request.images, request.settings) == manifest


def test_the_share_of_a_sample_is_that_of_the_folder(request_of, photographs: Path) -> None:
    (photographs / "scan.jp2").write_bytes(b"x")
    assert scan(request_of(max_images=2)).n_images == 2  # 1 of 22, not 1 of 3


def deny(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original = Path.open

    def fail(self: Path, *args: Any, **options: Any) -> Any:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, *args, **options)

    monkeypatch.setattr(Path, "open", fail)


def test_a_file_that_cannot_be_opened_is_an_unreadable_entry_tried_again(
    request_of, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of()
    with monkeypatch.context() as patch:
        deny(patch, "0003.png")
        manifest = scan(request)
        assert [(entry.path, entry.reason) for entry in manifest.unreadable] == [
            ("0003.png", "file cannot be read: Permission denied")
        ]
        publish_manifest(request.store(), request.images, manifest)
        assert known_images(request.store(), request.images, request.settings) == manifest
    mended = known_images(request.store(), request.images, request.settings)
    assert mended is not None
    assert (mended.n_images, mended.unreadable) == (21, ())


def test_a_file_above_the_limit_is_an_unreadable_entry(request_of, photographs: Path) -> None:
    os.truncate(photographs / "0003.png", 2**30 + 1)
    (entry,) = scan(request_of()).unreadable
    assert (entry.path, entry.reason) == (
        *("0003.png", "file is longer than the limit of 1073741824 bytes"),
    )


def test_a_file_that_vanishes_is_an_unreadable_entry(
    request_of, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ImageFolder.read

    def vanish(self: ImageFolder, path: str) -> bytes:
        (photographs / "0003.png").unlink(missing_ok=True)
        return read(self, path)

    monkeypatch.setattr(ImageFolder, "read", vanish)
    (entry,) = scan(request_of()).unreadable
    assert (entry.path, entry.reason) == ("0003.png", "file is no longer there")


def test_a_storage_that_fails_stops_the_scan_with_the_file_named(
    request_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, *_: Any, **__: Any) -> Any:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(UnreachableError, match=r"00\d\d.png in .* cannot be read: Connection"):
        scan(request_of())


def test_heic_is_read_once_the_plug_in_is_there(
    request_of, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photographs / "a.heic").write_bytes(HEIC)
    request = request_of()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        (entry,) = (manifest := scan(request)).unreadable
        assert entry.path == "a.heic"
        publish_manifest(request.store(), request.images, manifest)
        assert known_images(request.store(), request.images, request.settings) == manifest
    plug_in = types.ModuleType("pillow_heif")
    plug_in.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    plug_in.HeifImageFile = lambda file, name: Image.open(photographs / "0000.png")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    assert known_images(request.store(), request.images, request.settings) is None
    assert scan(request).n_images == 22


def test_images_that_are_nearly_black_are_reported(request_of, photographs: Path, events) -> None:
    for number in range(2):
        samples = np.full((9, 9), 4095 - number, np.uint16)
        Image.fromarray(samples).save(photographs / f"micro{number}.tif")
    Image.fromarray(np.full((9, 9), 4096 * 8, np.uint16)).save(photographs / "bright.tif")
    scan(request_of())
    (message,) = notices(events)
    assert message.startswith("2 of 24 images read in ")
    assert (
        "reach 6.3% of white at most (first: micro0.tif); scale them to their full range" in message
    )


def test_further_pages_are_reported(request_of, photographs: Path, events) -> None:
    page = Image.new("L", (9, 9))
    page.save(photographs / "stack.tif", save_all=True, append_images=[page])
    scan(request_of())
    (message,) = notices(events)
    assert message.endswith("have several pages, of which the first counts (first: stack.tif)")
