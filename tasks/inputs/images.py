"""Index a folder of images: read new files, digest and check them, cut the set in segments."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from soapworks.errors import ImageError, InputError
from soapworks.images.findings import ImageFile
from soapworks.images.listing import ImageFolder, open_folder, sample_images
from soapworks.images.reading import check_image
from soapworks.storage_schemas.layout.manifest import (
    IMAGES_TABLE,
    UNREADABLE_TABLE,
    ImageEntry,
    Manifest,
    cut_segments,
)
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Notice, emit, stage
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.settings import ScoreSettings

FILES_AT_ONCE = 16
"""Files per thread that are read ahead; bounds the work thrown away when a run is stopped."""

CANDIDATES = 8
"""Earlier manifests looked into for segments to continue."""


def scan_images(store: Store, images: str, settings: ScoreSettings, *, workers: int) -> Manifest:
    """Return the manifest of a folder as it is now; writes nothing.

    Files known from an earlier manifest of the same folder, by path, size and dates, are not read
    again. Every other file is read and decoded once.

    Parameters
    ----------
    store
        Searched for earlier manifests, whose segments are kept where they are whole.
    images
        The folder, as a path or URL.
    settings
        Sampling, the limit for the share of unreadable images, and the size of segments.
    workers
        Threads that read.

    Raises
    ------
    InputError
        No images, or a share of unreadable ones above the limit.
    """
    scan = _Scan.of(store, images, settings)
    entries = list(scan.known)
    if scan.new:
        with stage("index", scan.folder.url, len(scan.new), "files") as advance:
            for found in _inspect(scan.folder, scan.new, workers=workers):
                entries.append(found)
                advance(1)
    return scan.manifest(entries, settings)


def known_images(store: Store, images: str, settings: ScoreSettings) -> Manifest | None:
    """Return the manifest of a folder if every file in it is known already, else None."""
    scan = _Scan.of(store, images, settings)
    return None if scan.new else scan.manifest(scan.known, settings)


@dataclass(frozen=True)
class _Scan:
    """The present files of a folder, split by whether the store knows them."""

    folder: ImageFolder
    known: tuple[ImageEntry, ...]
    """Files that an earlier manifest of the folder holds."""
    new: tuple[ImageFile, ...]
    earlier: tuple[Manifest, ...]

    @classmethod
    def of(cls, store: Store, images: str, settings: ScoreSettings) -> "_Scan":
        folder = open_folder(images)
        files = folder.list()
        if settings.max_images is not None:
            files = sample_images(files, settings.max_images, settings.image_seed)
        earlier = _earlier_manifests(store, folder.url)
        remembered = {
            (entry.path, entry.fingerprint): entry
            for same_folder, manifest in reversed(earlier)
            if same_folder
            for entry in manifest.entries()
        }
        known = [remembered[k] for f in files if (k := (f.path, f.fingerprint)) in remembered]
        new = [f for f in files if (f.path, f.fingerprint) not in remembered]
        return cls(folder, tuple(known), tuple(new), tuple(m for _, m in earlier))

    def manifest(self, entries: Sequence[ImageEntry], settings: ScoreSettings) -> Manifest:
        _check_readable(entries, self.folder.url, settings.max_unreadable)
        continuations = [
            cut_segments(entries, previous, segment_images=settings.segment_images)
            for previous in (*self.earlier, None)
        ]
        return max(continuations, key=lambda manifest: _n_kept(manifest, self.earlier))


def publish_manifest(store: Store, images: str, manifest: Manifest) -> Product:
    """Put a manifest into the store and return its product."""

    def make(attempt: Attempt) -> dict[str, Any]:
        for name, data in manifest.to_files().items():
            attempt.writer.write(name, data)
        return {
            "folder": open_folder(images).url,
            "n_images": manifest.n_images,
            "n_segments": len(manifest.segments),
            "n_unreadable": len(manifest.unreadable),
        }

    return get_or_make(store, manifest.recipe, make)


def read_manifest(product: Product) -> Manifest:
    """Return the manifest that a product holds."""
    return Manifest.from_files(
        product.read(IMAGES_TABLE),
        product.read(UNREADABLE_TABLE),
        n_images=product.facts.get("n_images"),
        n_unreadable=product.facts.get("n_unreadable"),
    )


def inspect_file(folder: ImageFolder, file: ImageFile) -> ImageEntry:
    """Read one file and return its entry, readable or with the reason why not."""
    data = folder.read(file.path)
    digest = hashlib.sha256(data).hexdigest()
    try:
        width, height = check_image(data)
    except ImageError as error:
        return ImageEntry(file.path, file.size, file.fingerprint, digest, reason=str(error))
    return ImageEntry(file.path, file.size, file.fingerprint, digest, width, height)


def _inspect(
    folder: ImageFolder, files: Sequence[ImageFile], *, workers: int
) -> Iterator[ImageEntry]:
    step = FILES_AT_ONCE * workers
    with ThreadPoolExecutor(workers, "index") as pool:
        for start in range(0, len(files), step):
            yield from pool.map(partial(inspect_file, folder), files[start : start + step])


def _earlier_manifests(store: Store, url: str) -> list[tuple[bool, Manifest]]:
    """Return (is of the same folder, manifest), same folder and newest first."""
    products = sorted(
        store.products("images"),
        key=lambda p: (p.record["facts"].get("folder") == url, p.record["created"]),
        reverse=True,
    )
    return [
        (product.record["facts"].get("folder") == url, read_manifest(product))
        for product in products[:CANDIDATES]
    ]


def _n_kept(manifest: Manifest, earlier: Sequence[Manifest]) -> tuple[int, int]:
    """Return how many images lie in segments that an earlier manifest has, and minus segments."""
    known = {digest for m in earlier for digest in m.recipe.segments}
    kept = sum(
        len(segment)
        for segment, digest in zip(manifest.segments, manifest.recipe.segments, strict=True)
        if digest in known
    )
    return kept, -len(manifest.segments)


def _check_readable(entries: Sequence[ImageEntry], url: str, tolerated: float) -> None:
    bad = [entry for entry in entries if entry.reason]
    if not bad:
        return
    shown = "; ".join(f"{entry.path}: {entry.reason}" for entry in bad[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    if len(bad) == len(entries):
        raise InputError(f"none of the {len(bad)} images in {url} can be read: {shown}{more}")
    share = len(bad) / len(entries)
    if share > tolerated:
        raise InputError(
            f"{len(bad)} of {len(entries)} images in {url} cannot be read ({share:.1%}, limit "
            f"{tolerated:.1%}): {shown}{more}; fix or remove them, or raise --max-unreadable"
        )
    emit(Notice(f"left out {len(bad)} of {len(entries)} images in {url}: {shown}{more}"))
