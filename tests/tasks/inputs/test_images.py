"""Indexing images: what is left out, what is refused, what is sampled."""

from pathlib import Path

import pytest

from soapworks.errors import InputError
from soapworks.tasks.events import Notice
from soapworks.tasks.inputs.images import publish_manifest, read_manifest, scan_images


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
    with pytest.raises(InputError, match=r"3 of 24 images .*12.5%, limit 5.0%"):
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
