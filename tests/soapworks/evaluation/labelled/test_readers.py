"""Folders of labelled images: named layouts, pairs, digests, and what is refused."""

import hashlib

import fsspec
import numpy as np
import pytest
from PIL import Image

from soapworks.errors import InputError
from soapworks.evaluation.labelled import (
    read_classes,
    read_label_maps,
    read_masks,
    read_photographs,
    readers,
)


def picture(path, seed=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def labels(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


HALF = np.repeat([[0] * 3 + [255] * 3], 4, axis=0)


def pairs(folder, images="images", masks="masks", n=3, values=HALF):
    for number in range(n):
        picture(folder / images / f"{number}.jpg", number)
        labels(folder / masks / f"{number}.png", values)


@pytest.mark.parametrize(
    ("name", "images", "masks"),
    [
        ("ecssd", "images", "ground_truth_mask"),
        ("duts-te", "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
        ("duts-tr", "DUTS-TR-Image", "DUTS-TR-Mask"),
        ("dut-omron", "DUT-OMRON-image/DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        ("masks", "images/objects", "masks"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_named_layouts_are_found(tmp_path, name, images, masks, named):
    pairs(tmp_path, images, masks)
    data = read_masks(tmp_path, name if named else None)
    assert data.images == tuple(f"{images}/{n}.jpg" for n in range(3))
    assert data.labels == tuple(f"{masks}/{n}.png" for n in range(3))
    np.testing.assert_array_equal(data.mask(1), HALF > 0)
    assert data.image(1).size == (6, 4)
    assert data.sizes == ((4, 6),) * 3


def test_layouts_of_benchmarks_cut_grey_edges_and_the_plain_one_refuses_them(tmp_path):
    pairs(tmp_path / "a", "images", "ground_truth_mask", values=HALF // 2 + HALF // 4)
    assert read_masks(tmp_path / "a").mask(0).sum() == 12
    grey = HALF.copy()
    grey[0, 0] = 90
    pairs(tmp_path / "b", values=grey)
    with pytest.raises(InputError, match=r"masks/\d.png in .* is not binary: it holds 0, 90, 255"):
        read_masks(tmp_path / "b")
    assert read_masks(tmp_path / "b", cut=127).mask(0).sum() == 12


def test_several_sets_in_one_folder_must_be_named(tmp_path):
    pairs(tmp_path, "DUTS-TE-Image", "DUTS-TE-Mask", n=2)
    pairs(tmp_path, "DUTS-TR-Image", "DUTS-TR-Mask", n=1)
    with pytest.raises(InputError, match="several sets, duts-te, duts-tr"):
        read_masks(tmp_path)
    assert len(read_masks(tmp_path, "duts-te")) == 2


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "masks/1.png").unlink(), r"1 of 3 files .* no mask .*images/1.jpg"),
        (lambda f: (f / "images/1.jpg").unlink(), r"1 of 3 files .* no image .*masks/1.png"),
        (lambda f: labels(f / "masks/1.png", HALF[:3]), "masks/1.png .* 6 x 3 .* image 6 x 4"),
        (lambda f: picture(f / "images/1.png"), r"images/1\.\w+ and images/1\.\w+ differ"),
        (lambda f: (f / "masks").rename(f / "others"), "no two folders of images and masks"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_in_one_sentence(tmp_path, break_it, message):
    pairs(tmp_path)
    break_it(tmp_path)
    with pytest.raises(InputError, match=message):
        read_masks(tmp_path)


def test_an_unknown_layout_names_those_there_are(tmp_path):
    pairs(tmp_path)
    with pytest.raises(InputError, match="no layout 'coco' of masks; there are ecssd, duts-te"):
        read_masks(tmp_path, "coco")


def test_unreadable_images_are_left_out_with_their_labels_up_to_a_share(tmp_path, monkeypatch):
    pairs(tmp_path)
    (tmp_path / "images/1.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of 3 images .*images/1.jpg, not an image.*limit 5%"):
        read_masks(tmp_path)
    monkeypatch.setattr(readers, "MAX_UNREADABLE", 0.5)
    data = read_masks(tmp_path)
    assert data.labels == ("masks/0.png", "masks/2.png")
    assert [entry.path for entry in data.left_out] == ["images/1.jpg"]


def test_an_empty_folder_is_refused(tmp_path):
    for read in (read_masks, read_label_maps, read_classes, read_photographs):
        with pytest.raises(InputError, match="no image in"):
            read(tmp_path)


def test_the_digest_is_of_contents_whatever_the_names(tmp_path):
    for name in "ab":
        pairs(tmp_path / name)
    (tmp_path / "b").rename(tmp_path / "c")
    first, second = read_masks(tmp_path / "a"), read_masks(tmp_path / "c")
    assert first.digest == second.digest
    data = (tmp_path / "a/images/2.jpg").read_bytes()
    assert first.image_digests[2] == hashlib.sha256(data).hexdigest()
    labels(tmp_path / "c/masks/2.png", 255 - HALF)
    changed = read_masks(tmp_path / "c")
    picture(tmp_path / "c/images/0.jpg", 77)
    assert len({first.digest, changed.digest, read_masks(tmp_path / "c").digest}) == 3
    assert read_masks(tmp_path / "a", cut=9).digest != first.digest


def test_a_file_that_changes_later_is_refused(tmp_path):
    pairs(tmp_path)
    data = read_masks(tmp_path)
    (tmp_path / "images/0.jpg").unlink()
    with pytest.raises(InputError, match=r"images/0.jpg .* has changed since"):
        data.image(0)


def test_ade20k_ignores_label_0_and_knows_150(tmp_path):
    for split in ("training", "validation"):
        folder = f"ADEChallengeData2016/{{}}/{split}"
        pairs(tmp_path, folder.format("images"), folder.format("annotations"), values=HALF // 85)
    data = read_label_maps(tmp_path, "ade20k-training")
    assert (data.values, data.rule.ignore, len(data)) == ((3,), (0,), 3)
    labels(tmp_path / "ADEChallengeData2016/annotations/training/0.png", HALF // 255 * 177)
    with pytest.raises(InputError, match=r"training/0.png .* holds the unknown label 177"):
        read_label_maps(tmp_path, "ade20k-training")


def test_generic_label_maps_ignore_255_or_what_is_given(tmp_path):
    pairs(tmp_path, masks="labels")
    assert read_label_maps(tmp_path).values == (0,)
    assert read_label_maps(tmp_path, ignore=[]).values == (0, 255)
    with pytest.raises(InputError, match=r"no pixel .* ignored are 0, 255"):
        read_label_maps(tmp_path, ignore=[255, 0])


def test_each_folder_is_a_class(tmp_path):
    for name in ("cat/a.jpg", "cat/deep/b.jpg", "dog/a.jpg"):
        picture(tmp_path / name, len(name))
    assert read_classes(tmp_path).labels == ("cat", "cat", "dog")


def test_one_class_or_none_is_refused(tmp_path):
    picture(tmp_path / "cat/a.jpg")
    with pytest.raises(InputError, match="one class only, cat"):
        read_classes(tmp_path)
    picture(tmp_path / "b.jpg")
    with pytest.raises(InputError, match=r"b.jpg .* no class folder"):
        read_classes(tmp_path)


def test_a_sample_is_seeded_and_keeps_pairs(tmp_path):
    pairs(tmp_path, n=8)
    data = read_masks(tmp_path, max_images=3, seed=1)
    assert len(data) == 3
    assert [i.split("/")[1][0] for i in data.images] == [p.split("/")[1][0] for p in data.labels]
    assert data.images == read_masks(tmp_path, max_images=3, seed=1).images
    assert len({read_masks(tmp_path, max_images=3, seed=s).images for s in range(4)}) > 1


def test_folders_behind_urls_are_the_same_data(tmp_path):
    pairs(tmp_path)
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path), "/labelled", recursive=True)
    try:
        data = read_masks("memory://labelled")
        assert data.digest == read_masks(tmp_path).digest
        np.testing.assert_array_equal(data.mask(0), HALF > 0)
    finally:
        system.rm("/labelled", recursive=True)


def test_a_task_names_the_kind_it_needs(tmp_path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="was read as photographs, and this task needs masks"):
        read_photographs(tmp_path).mask(0)
