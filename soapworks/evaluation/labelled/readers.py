"""Read a folder of labelled images, and refuse what cannot be right.

Every file is read once: its digest is taken, images are checked and labels are decoded. Files that
cannot be read are left out with their partners and listed; above `MAX_UNREADABLE` of all, the
folder is refused. Labels that contradict their image are refused at once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from soapworks.errors import ImageError, InputError
from soapworks.evaluation.labelled.images import LabelledImages, LeftOut
from soapworks.evaluation.labelled.layouts import Kind, choose_layout
from soapworks.evaluation.labelled.maps import LabelRule, read_label_map, read_mask
from soapworks.images.findings import ImageFile
from soapworks.images.listing import ImageFolder, open_folder, sample_images
from soapworks.images.reading import check_image
from soapworks.names import printable

MAX_UNREADABLE = 0.05
"""Largest share of images that may be left out."""

N_THREADS = 4
"""Threads that read and decode."""


def read_masks(
    folder: str | Path,
    layout: str | None = None,
    *,
    cut: int | None = None,
    max_images: int | None = None,
    seed: int = 0,
) -> LabelledImages:
    """Read images and their object masks.

    Parameters
    ----------
    folder
        Path or URL of the folder that holds both.
    layout
        ``ecssd`` (images, ground_truth_mask), ``duts-te`` and ``duts-tr`` (DUTS-TE-Image,
        DUTS-TE-Mask...), ``dut-omron`` (DUT-OMRON-image, pixelwiseGT-new-PNG) or ``masks``
        (images, masks); None takes the one that is there.
    cut
        Mask values above this are the object; None: as the layout says, and for ``masks`` only 0
        and one other value are allowed.
    max_images, seed
        Size of a seeded sample; None takes all.

    Returns
    -------
    LabelledImages
        Of kind ``masks``.

    Raises
    ------
    InputError
        Masks without images or the reverse, sizes that differ, masks that are not binary, too many
        unreadable files, or no images.
    """
    return _read_files(folder, "masks", layout, max_images, seed, cut=cut)


def read_label_maps(
    folder: str | Path,
    layout: str | None = None,
    *,
    ignore: Sequence[int] | None = None,
    max_images: int | None = None,
    seed: int = 0,
) -> LabelledImages:
    """Read images and their label maps.

    Parameters
    ----------
    folder
        Path or URL of the folder that holds both.
    layout
        ``ade20k-training`` and ``ade20k-validation`` (images/training, annotations/training...) or
        ``labels`` (images, labels); None takes the one that is there.
    ignore
        Labels that do not count; None: 0 of ADE20k, 255 elsewhere.
    max_images, seed
        Size of a seeded sample; None takes all.

    Returns
    -------
    LabelledImages
        Of kind ``label maps``.

    Raises
    ------
    InputError
        As in :func:`read_masks`, for unknown labels, and where no pixel counts.
    """
    return _read_files(folder, "label maps", layout, max_images, seed, ignore=ignore)


def read_classes(
    folder: str | Path, *, max_images: int | None = None, seed: int = 0
) -> LabelledImages:
    """Read a folder of classes: each sub-folder is a label.

    Parameters
    ----------
    folder
        Path or URL of a folder with one sub-folder per class, at least two.
    max_images, seed
        Size of a seeded sample; None takes all.

    Returns
    -------
    LabelledImages
        Of kind ``classes``; an image's label is the name of the first folder in its path.

    Raises
    ------
    InputError
        One class only, images outside of any class, too many unreadable files, or no images.
    """
    place = open_folder(folder)
    found = place.survey()
    outside = [file.path for file in found.files if "/" not in file.path]
    if outside:
        raise InputError(
            f"{printable(outside[0])} in {place.url} lies in no class folder; put each image into "
            "a folder named after its class"
        )
    sampled = sample_images(found.files, max_images, seed)
    items = [_Item(file, file.path.partition("/")[0], None) for file in sampled]
    refused = [LeftOut(entry.path, entry.reason) for entry in found.refused]
    data = _collect(place, "classes", items, LabelRule(), refused)
    classes = sorted(set(data.labels))
    if len(classes) < 2:
        raise InputError(
            f"{place.url} holds one class only, {printable(classes[0])}, so any retrieval would be "
            "right; give two classes or more"
        )
    return data


def read_photographs(
    folder: str | Path, *, max_images: int | None = None, seed: int = 0
) -> LabelledImages:
    """Read a folder of photographs without labels.

    Parameters
    ----------
    folder
        Path or URL; images at any depth are taken.
    max_images, seed
        Size of a seeded sample; None takes all.

    Returns
    -------
    LabelledImages
        Of kind ``photographs``.

    Raises
    ------
    InputError
        Too many unreadable files, or no images.
    """
    place = open_folder(folder)
    found = place.survey()
    items = [_Item(file, "", None) for file in sample_images(found.files, max_images, seed)]
    refused = [LeftOut(entry.path, entry.reason) for entry in found.refused]
    return _collect(place, "photographs", items, LabelRule(), refused)


@dataclass(frozen=True)
class _Item:
    image: ImageFile
    label: str
    """Path of the label file, or the class."""
    decode: Callable[[bytes], "np.ndarray"] | None
    """Reads the label file; None where there is none."""


@dataclass(frozen=True)
class _Checked:
    image_digest: str
    size: tuple[int, int]
    label_digest: str
    values: tuple[int, ...]


def _read_files(
    folder: str | Path,
    kind: Kind,
    layout: str | None,
    max_images: int | None,
    seed: int,
    *,
    cut: int | None = None,
    ignore: Sequence[int] | None = None,
) -> LabelledImages:
    place = open_folder(folder)
    found = place.survey()
    chosen, images, labels = choose_layout(found.files, kind, layout, place.url)
    rule = LabelRule(
        cut=chosen.cut if cut is None else cut,
        ignore=chosen.ignore if ignore is None else tuple(sorted(set(ignore))),
        known=chosen.known,
    )
    pairs = _paired(images, labels, kind, place)
    partner = {image.path: label for image, label in pairs}
    sampled = sample_images([image for image, _ in pairs], max_images, seed)
    decode = _mask_decoder(rule) if kind == "masks" else _map_decoder(rule)
    items = [_Item(image, partner[image.path].path, decode) for image in sampled]
    data = _collect(place, kind, items, rule, [])
    if kind == "label maps" and not data.values:
        raise InputError(
            f"no pixel in the label maps of {place.url} has a label that counts; ignored are "
            f"{', '.join(map(str, rule.ignore))}"
        )
    return data


def _mask_decoder(rule: LabelRule) -> Callable[[bytes], "np.ndarray"]:
    return lambda data: read_mask(data, rule)


def _map_decoder(rule: LabelRule) -> Callable[[bytes], "np.ndarray"]:
    return lambda data: read_label_map(data, rule)


def _paired(
    images: dict[str, ImageFile], labels: dict[str, ImageFile], kind: str, place: ImageFolder
) -> list[tuple[ImageFile, ImageFile]]:
    """Pair files by path without suffix, else by name, where names are unique."""
    if images.keys() != labels.keys():
        by_name = [
            {stem.rpartition("/")[2]: file for stem, file in files.items()}
            for files in (images, labels)
        ]
        unique = len(by_name[0]) == len(images) and len(by_name[1]) == len(labels)
        if unique and len(by_name[0].keys() & by_name[1].keys()) > len(
            images.keys() & labels.keys()
        ):
            images, labels = by_name
    one = kind.removesuffix("s")
    for without, missing, there in (
        (images.keys() - labels.keys(), f"no {one}", images),
        (labels.keys() - images.keys(), "no image", labels),
    ):
        if without:
            first = there[min(without)].path
            raise InputError(
                f"{len(without)} of {len(there)} files in {place.url} have {missing} of the same "
                f"name (first: {printable(first)}); add or remove files until all have a partner"
            )
    return [(images[stem], labels[stem]) for stem in sorted(images)]


def _collect(
    place: ImageFolder,
    kind: Literal["masks", "label maps", "classes", "photographs"],
    items: Sequence[_Item],
    rule: LabelRule,
    refused: list[LeftOut],
) -> LabelledImages:
    left_out, kept = list(refused), []
    with ThreadPoolExecutor(N_THREADS, "label") as pool:
        results = pool.map(lambda item: _check(place, item, rule), items)
        for item, checked in zip(items, results, strict=True):
            if isinstance(checked, LeftOut):
                left_out.append(checked)
            else:
                kept.append((item, checked))
    if len(left_out) > MAX_UNREADABLE * (len(items) + len(refused)):
        raise InputError(
            f"{len(left_out)} of {len(items) + len(refused)} images of {place.url} cannot be read "
            f"(first: {printable(left_out[0].path)}, {left_out[0].reason}); limit "
            f"{MAX_UNREADABLE:.0%}; fix or remove them"
        )
    digest = hashlib.sha256(json.dumps([kind, astuple(rule)]).encode())
    for _, checked in kept:
        line = [checked.image_digest, checked.label_digest]
        digest.update(json.dumps(line).encode() + b"\n")
    values = sorted({value for _, checked in kept for value in checked.values})
    return LabelledImages(
        folder=place,
        kind=kind,
        images=tuple(item.image.path for item, _ in kept),
        labels=tuple(item.label for item, _ in kept),
        groups=tuple(item.image.path for item, _ in kept),
        digest=digest.hexdigest(),
        image_digests=tuple(checked.image_digest for _, checked in kept),
        sizes=tuple(checked.size for _, checked in kept),
        rule=rule,
        values=tuple(values),
        left_out=tuple(left_out),
    )


def _check(place: ImageFolder, item: _Item, rule: LabelRule) -> _Checked | LeftOut:
    path = item.image.path
    try:
        data = place.read(path)
        width, height = check_image(data).size
        image_digest = hashlib.sha256(data).hexdigest()
        if item.decode is None:
            return _Checked(image_digest, (height, width), item.label, ())
        path = item.label
        data = place.read(path)
        try:
            label = item.decode(data)
        except InputError as error:
            raise InputError(f"{printable(path)} in {place.url} {error}") from error
    except ImageError as error:
        return LeftOut(path, str(error))
    if label.shape != (height, width):
        raise InputError(
            f"{printable(path)} in {place.url} has {label.shape[1]} x {label.shape[0]} pixels and "
            f"its image {width} x {height}; they must be equal"
        )
    values: tuple[int, ...] = ()
    if label.dtype != bool:
        found = np.unique(label)
        values = tuple(found[~np.isin(found, rule.ignore)].tolist())
    return _Checked(image_digest, (height, width), hashlib.sha256(data).hexdigest(), values)
