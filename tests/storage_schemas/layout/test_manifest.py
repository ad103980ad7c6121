"""Manifests: how segments are cut, kept and given up."""

import hashlib

import pytest

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.layout.manifest import (
    IMAGES_TABLE,
    UNREADABLE_TABLE,
    ImageEntry,
    Manifest,
    cut_segments,
    segment_digest,
)


def entry(path: str, content: str | None = None, reason: str = "") -> ImageEntry:
    digest = hashlib.sha256((content or path).encode()).hexdigest()
    return ImageEntry(path, len(path), f"1:{path}", digest, 0 if reason else 4, 4, reason)


def paths(manifest: Manifest) -> list[list[str]]:
    return [[one.path for one in segment] for segment in manifest.segments]


def cut(names: str, previous: Manifest | None = None, n: int = 3) -> Manifest:
    return cut_segments([entry(name) for name in names], previous, segment_images=n)


def test_segments_are_cut_in_path_order() -> None:
    assert paths(cut("gcabedf")) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_new_images_form_new_segments_even_if_their_names_come_first() -> None:
    assert paths(cut("0acdb", cut("abcd"))) == [["a", "b", "c"], ["d"], ["0"]]


def test_a_segment_that_lost_an_image_is_given_up_with_what_is_left_of_it() -> None:
    grown = cut("acdefg", cut("abcdef"))
    assert paths(grown) == [["d", "e", "f"], ["a", "c", "g"]]


def test_order_of_a_kept_segment_is_that_of_old() -> None:
    renamed = [entry("z", "a"), entry("b"), entry("c")]
    again = cut_segments(renamed, cut("abc"), segment_images=3)
    assert paths(again) == [["z", "b", "c"]]
    assert again.recipe == cut("abc").recipe


def test_identical_images_are_matched_as_often_as_they_are_there() -> None:
    twice = [entry("a", "same"), entry("b", "same"), entry("c")]
    once = cut_segments(twice[1:], cut_segments(twice, None, segment_images=3), segment_images=3)
    assert paths(once) == [["b", "c"]]


def test_digest_of_a_segment_in_words() -> None:
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in "ab"]
    expected = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert segment_digest([entry("a"), entry("b")]) == expected


def test_unreadable_files_are_kept_apart_and_count_in_the_key() -> None:
    entries = [entry("a"), entry("b", reason="cut short")]
    manifest = cut_segments(entries, None, segment_images=3)
    assert manifest.n_images == 1
    assert [one.reason for one in manifest.unreadable] == ["cut short"]
    assert manifest.recipe.key != cut("a").recipe.key


def test_manifest_comes_back_from_its_files() -> None:
    manifest = cut_segments(
        [entry("a\nb, ü"), entry("c"), entry("d", reason="no image")], None, segment_images=1
    )
    files = manifest.to_files()
    assert Manifest.from_files(files[IMAGES_TABLE], files[UNREADABLE_TABLE]) == manifest


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all" * 9])
def test_other_bytes_are_damage(data: bytes) -> None:
    good = cut("ab").to_files()
    with pytest.raises(DamagedProductError, match="manifest"):
        Manifest.from_files(data, good[UNREADABLE_TABLE])
